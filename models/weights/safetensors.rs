//! safetensors, read by position.
//!
//! u64 length of a JSON header, the header, the data. The header maps each name to `dtype`, `shape` and `data_offsets` [begin,
//! end) after the header. The rules are those of the reference crate: offsets in order, without holes or overlaps, and together
//! the whole rest of the file. Only the header is held in memory.

use std::collections::HashMap;
use std::path::Path;

use dreamseed_kernels::BlockType;
pub use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};

use super::source::Source;
use super::tensor::{Tensor, Values};
use super::{Error, Result};

/// Longest header that is read: the reference crate's limit.
const MAX_HEADER: u64 = 100_000_000;
const MAX_RANK: usize = 8;

/// What the header says of one tensor.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Info {
    /// Element type.
    pub dtype: Dtype,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// An opened file: its header; data are read when asked for.
pub struct File {
    source: Source,
    data: u64, // where the data begin
    tensors: HashMap<String, Info>,
    metadata: HashMap<String, String>,
}

impl File {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// Io; Field with the offset of what is wrong.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(Source::open(path)?)
    }

    pub(crate) fn read(source: Source) -> Result<Self> {
        let Some(length) = source.take(0, 8)? else {
            return Err(field("header length", 0, format!("8 bytes are needed, the file has {}", source.len())));
        };
        let length = length.try_into().map_or(u64::MAX, u64::from_le_bytes);
        let left = source.len() - 8;
        if length > left.min(MAX_HEADER) {
            let problem = format!("{length} bytes seen, {} are allowed ({left} are left in the file)", left.min(MAX_HEADER));
            return Err(field("header length", 0, problem));
        }
        let bytes = source.take(8, length)?.unwrap_or_default();
        let header: Header =
            serde_json::from_slice(&bytes).map_err(|e| field("header", 8 + e.column() as u64, e.to_string()))?;
        let data = 8 + length;
        check(&header.tensors, left - length)?;
        Ok(Self { source, data, tensors: header.tensors.into_iter().collect(), metadata: header.metadata })
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Names of all tensors, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What the header says of a tensor.
    pub fn info(&self, name: &str) -> Option<&Info> {
        self.tensors.get(name)
    }

    /// The header's `__metadata__`.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// A tensor's bytes as they lie in the file, little-endian.
    ///
    /// # Errors
    /// Tensor where it is missing; Io.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let info = self.tensors.get(name).ok_or_else(|| tensor_error(name, "is not in the file"))?;
        let (begin, end) = info.data_offsets;
        let bytes = self.source.take(self.data + begin, end - begin)?;
        bytes.ok_or_else(|| tensor_error(name, "lies outside the file"))
    }

    /// The type of a tensor of floats (F32, F16, BF16), whose [`File::bytes`] are little-endian.
    ///
    /// # Errors
    /// Tensor where it is missing or of another type.
    pub fn block_type(&self, name: &str) -> Result<BlockType> {
        let info = self.tensors.get(name).ok_or_else(|| tensor_error(name, "is not in the file"))?;
        match info.dtype {
            Dtype::F32 => Ok(BlockType::F32),
            Dtype::F16 => Ok(BlockType::F16),
            Dtype::BF16 => Ok(BlockType::BF16),
            other => Err(tensor_error(name, &format!("is {other:?}; F32, F16 or BF16 is needed"))),
        }
    }

    /// A tensor of floats (F32, F16, BF16).
    ///
    /// # Errors
    /// Tensor where it is missing or of another type; Io.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let read = match self.block_type(name)? {
            BlockType::F16 => Values::f16_le,
            BlockType::BF16 => Values::bf16_le,
            _ => Values::f32_le,
        };
        let shape = self.tensors.get(name).map(|info| info.shape.clone()).unwrap_or_default();
        Ok(Tensor { shape, values: read(&self.bytes(name)?) })
    }
}

/// Offsets in order, no hole, no overlap, each as long as its shape says, together all of the file's `data` bytes.
fn check(tensors: &[(String, Info)], data: u64) -> Result<()> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by(|(a, x), (b, y)| (x.data_offsets, a).cmp(&(y.data_offsets, b)));
    let mut next = 0;
    for (name, info) in order {
        let (begin, end) = info.data_offsets;
        let error = |problem| Err(field(&format!("data_offsets of {name:?}"), 8, problem));
        if info.shape.len() > MAX_RANK {
            return error(format!("rank {} seen, at most {MAX_RANK} is allowed", info.shape.len()));
        }
        let bits = info.shape.iter().try_fold(info.dtype.bitsize() as u64, |n, d| n.checked_mul(*d as u64));
        let wanted = bits.filter(|b| b % 8 == 0).map(|b| b / 8);
        if begin != next || end < begin || end > data {
            return error(format!("[{begin}, {end}) seen; must begin at {next} and end by {data}"));
        }
        if wanted != Some(end - begin) {
            return error(format!("{} bytes seen, shape {:?} of {:?} takes {wanted:?}", end - begin, info.shape, info.dtype));
        }
        next = end;
    }
    if next != data {
        return Err(field("data_offsets", 8, format!("the tensors end at {next}, the file at {data}; nothing may follow")));
    }
    Ok(())
}

/// The header as it stands: a name that occurs twice is an error, not the last one's gain.
struct Header {
    tensors: Vec<(String, Info)>,
    metadata: HashMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Header;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a map of tensor names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut header = Header { tensors: Vec::new(), metadata: HashMap::new() };
                let mut seen = std::collections::HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("{name:?} occurs twice")));
                    }
                    match name.as_str() {
                        "__metadata__" => header.metadata = map.next_value()?,
                        _ => header.tensors.push((name, map.next_value()?)),
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Names)
    }
}

fn field(field: &str, offset: u64, problem: String) -> Error {
    Error::Field { format: "safetensors", field: field.to_string(), offset, problem }
}

fn tensor_error(name: &str, problem: &str) -> Error {
    Error::Tensor { name: name.to_string(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, data: &[u8]) -> Result<File> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        File::read(Source::memory(bytes))
    }

    fn sample() -> Vec<u8> {
        let one = 1f32.to_le_bytes();
        let half = half::f16::from_f32(0.5).to_le_bytes();
        let views = [("a", Dtype::F32, vec![1usize], &one[..]), ("b", Dtype::F16, vec![1, 1], &half[..])];
        let views = views
            .into_iter()
            .map(|(name, dtype, shape, data)| (name, safetensors::tensor::TensorView::new(dtype, shape, data).unwrap()));
        safetensors::serialize(views, None).unwrap()
    }

    #[test]
    fn reads_what_the_reference_crate_writes() {
        let file = File::read(Source::memory(sample())).unwrap();
        assert_eq!(file.tensor("a").unwrap(), Tensor { shape: vec![1], values: Values::F32(vec![1.0]) });
        assert_eq!(file.tensor("b").unwrap().values.into_f32(), [0.5]);
    }

    #[test]
    fn refuses_what_the_format_forbids() {
        let t = |shape: &str, from: u64, to: u64| format!(r#"{{"dtype":"U8","shape":{shape},"data_offsets":[{from},{to}]}}"#);
        assert!(file(&format!(r#"{{"a":{},"b":{}}}"#, t("[2]", 0, 2), t("[2]", 2, 4)), &[0; 4]).is_ok());
        for (why, header, data) in [
            ("overlap", format!(r#"{{"a":{},"b":{}}}"#, t("[2]", 0, 2), t("[2]", 1, 3)), 3),
            ("hole", format!(r#"{{"a":{},"b":{}}}"#, t("[2]", 0, 2), t("[2]", 3, 5)), 5),
            ("twice", format!(r#"{{"a":{},"a":{}}}"#, t("[2]", 0, 2), t("[2]", 2, 4)), 4),
            ("short", format!(r#"{{"a":{}}}"#, t("[2]", 0, 3)), 3),
            ("past the end", format!(r#"{{"a":{}}}"#, t("[9]", 0, 9)), 4),
            ("trailing", format!(r#"{{"a":{}}}"#, t("[2]", 0, 2)), 4),
            ("backwards", format!(r#"{{"a":{}}}"#, t("[2]", 2, 0)), 2),
            ("overflow", format!(r#"{{"a":{}}}"#, t("[18446744073709551615,18446744073709551615,8]", 0, 2)), 2),
            ("deep", format!(r#"{{"a":{}"#, "[".repeat(100_000)), 2),
        ] {
            assert!(matches!(file(&header, &vec![0; data]).err(), Some(Error::Field { .. })), "{why}");
        }
    }

    #[test]
    fn truncation_at_any_offset_is_an_error() {
        let bytes = sample();
        for end in 0..bytes.len() {
            let error = File::read(Source::memory(bytes[..end].to_vec())).err();
            assert!(matches!(error, Some(Error::Field { .. })), "cut at {end}: {error:?}");
        }
    }

    proptest! {
        #[test]
        fn mutation_never_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            let mut bytes = sample();
            for (i, b) in changes {
                let i = i.index(bytes.len());
                bytes[i] = b;
            }
            if let Ok(file) = File::read(Source::memory(bytes)) {
                let names: Vec<String> = file.names().map(String::from).collect();
                for name in names {
                    let _ = file.tensor(&name);
                }
            }
        }
    }
}
