//! A small GGUF writer for tests: what it writes is sound unless a test breaks it.

use std::path::PathBuf;

use dreamseed_kernels::BlockType;

/// Metadata and tensors in the order they were added.
#[derive(Clone, Default)]
pub(crate) struct Writer {
    metadata: Vec<u8>,
    metadata_count: u64,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn string(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

impl Writer {
    /// Any metadata value: `type_id` and its bytes.
    pub(crate) fn raw(mut self, key: &str, type_id: u32, bytes: &[u8]) -> Self {
        string(&mut self.metadata, key);
        self.metadata.extend(type_id.to_le_bytes());
        self.metadata.extend(bytes);
        self.metadata_count += 1;
        self
    }

    pub(crate) fn u32(self, key: &str, v: u32) -> Self {
        self.raw(key, 4, &v.to_le_bytes())
    }

    pub(crate) fn f32(self, key: &str, v: f32) -> Self {
        self.raw(key, 6, &v.to_le_bytes())
    }

    pub(crate) fn bool(self, key: &str, v: bool) -> Self {
        self.raw(key, 7, &[v.into()])
    }

    pub(crate) fn str(self, key: &str, v: &str) -> Self {
        let mut bytes = Vec::new();
        string(&mut bytes, v);
        self.raw(key, 8, &bytes)
    }

    fn array(self, key: &str, element: u32, count: usize, elements: &[u8]) -> Self {
        let mut bytes = element.to_le_bytes().to_vec();
        bytes.extend((count as u64).to_le_bytes());
        bytes.extend(elements);
        self.raw(key, 9, &bytes)
    }

    pub(crate) fn strs<S: AsRef<str>>(self, key: &str, values: &[S]) -> Self {
        let mut bytes = Vec::new();
        values.iter().for_each(|v| string(&mut bytes, v.as_ref()));
        self.array(key, 8, values.len(), &bytes)
    }

    pub(crate) fn i32s(self, key: &str, values: &[i32]) -> Self {
        self.array(key, 5, values.len(), &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    pub(crate) fn bools(self, key: &str, values: &[bool]) -> Self {
        self.array(key, 7, values.len(), &values.iter().map(|v| u8::from(*v)).collect::<Vec<_>>())
    }

    pub(crate) fn f32s(self, key: &str, values: &[f32]) -> Self {
        self.array(key, 6, values.len(), &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    /// A float tensor; `dims` fastest first.
    pub(crate) fn tensor(self, name: &str, dims: &[u64], values: &[f32]) -> Self {
        self.blocks(name, dims, BlockType::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A tensor of any kind.
    pub(crate) fn blocks(self, name: &str, dims: &[u64], kind: BlockType, bytes: Vec<u8>) -> Self {
        let id = (0..64).find(|&id| super::block_type(id) == Some(kind)).unwrap();
        self.typed(name, dims, id, bytes)
    }

    /// A tensor of any type number.
    pub(crate) fn typed(mut self, name: &str, dims: &[u64], type_id: u32, bytes: Vec<u8>) -> Self {
        self.tensors.push((name.into(), dims.to_vec(), type_id, bytes));
        self
    }

    /// The u32 of a key that was added, replaced.
    pub(crate) fn replaced_u32(mut self, key: &str, v: u32) -> Self {
        let known = [key.as_bytes(), &4u32.to_le_bytes()].concat();
        let at = self.metadata.windows(known.len()).position(|b| b == known).unwrap() + known.len();
        self.metadata[at..at + 4].copy_from_slice(&v.to_le_bytes());
        self
    }

    /// With other names of tensors.
    pub(crate) fn renamed(mut self, name: impl Fn(String) -> String) -> Self {
        self.tensors.iter_mut().for_each(|t| t.0 = name(std::mem::take(&mut t.0)));
        self
    }

    /// Without a tensor.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|t| t.0 != name);
        self
    }

    /// The same metadata with the tensors of another.
    pub(crate) fn with_tensors_of(self, other: Self) -> Self {
        Self { tensors: other.tensors, ..self }
    }

    /// Name, extents and values of all tensors, which must be F32.
    pub(crate) fn f32_tensors(&self) -> Vec<(String, Vec<u64>, Vec<f32>)> {
        let values = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        self.tensors.iter().map(|(name, dims, _, bytes)| (name.clone(), dims.clone(), values(bytes))).collect()
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.metadata_count.to_le_bytes());
        out.extend(&self.metadata);
        let mut data = Vec::new();
        for (name, dims, type_id, bytes) in &self.tensors {
            string(&mut out, name);
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(type_id.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }

    /// Writes it to a temporary file that lives as long as the first value.
    pub(crate) fn file(&self) -> (tempfile::TempDir, PathBuf) {
        save(&self.bytes())
    }
}

/// Bytes as a temporary file.
pub(crate) fn save(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.gguf");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}
