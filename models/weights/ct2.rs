//! CTranslate2's `model.bin`, versions 4 to 6 (OpenNMT/CTranslate2, `src/models/model.cc`).
//!
//! All little-endian: u32 version, string specification, u32 revision, u32 count of variables; each variable: string name,
//! u8 rank, u32 x rank dimensions, u8 type, u32 bytes, data; then u32 count of aliases, each a pair of strings. A string is a
//! u16 length, its final zero counted, and that many bytes. Integer weights `NAME` go with scales `NAME_scale`, one a row (or
//! one in all): the weight is the integer divided by the scale.

use std::collections::HashMap;
use std::path::Path;

use super::source::Source;
use super::tensor::{Tensor, Values};
use super::{Error, Result};

const MAX_RANK: u8 = 8;

/// Element types of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 8-bit integer, with scales.
    I8,
    /// 16-bit integer, with a scale.
    I16,
    /// 32-bit integer.
    I32,
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl Dtype {
    fn from_code(code: u8) -> Option<Self> {
        [Self::F32, Self::I8, Self::I16, Self::I32, Self::F16, Self::Bf16].get(usize::from(code)).copied()
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::I8 => 1,
        }
    }
}

/// Where a variable lies and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Outermost dimension first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: Dtype,
    offset: u64,
    elements: usize,
}

/// An opened `model.bin`: its table of variables; data are read when asked for.
pub struct File {
    source: Source,
    /// Version of the format, 4 to 6.
    pub version: u32,
    /// Name of the specification, `WhisperSpec` for Whisper.
    pub spec: String,
    /// Revision of the specification.
    pub revision: u32,
    variables: HashMap<String, Variable>,
}

impl File {
    /// Opens a file and reads its table.
    ///
    /// # Errors
    /// Io; Field with the offset of what is wrong: unknown version or type, sizes that disagree with the shape or the file,
    /// a name that occurs twice, an alias of nothing, bytes after the end.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(Source::open(path)?)
    }

    pub(crate) fn read(source: Source) -> Result<Self> {
        let mut cursor = Cursor { source: &source, offset: 0 };
        let version = cursor.u32("version")?;
        if !(4..=6).contains(&version) {
            return Err(field(
                "version",
                0,
                format!("{version} seen, 4 to 6 are read; convert the model again with a current CTranslate2"),
            ));
        }
        let spec = cursor.string("specification")?;
        let revision = cursor.u32("revision")?;
        let count = cursor.u32("number of variables")?;
        let mut variables = HashMap::new();
        for _ in 0..count {
            let at = cursor.offset;
            let (name, variable) = cursor.variable()?;
            if variables.insert(name.clone(), variable).is_some() {
                return Err(field("variable name", at, format!("{name:?} occurs twice")));
            }
        }
        let aliases = cursor.u32("number of aliases")?;
        for _ in 0..aliases {
            let at = cursor.offset;
            let (alias, name) = (cursor.string("alias")?, cursor.string("alias")?);
            let Some(variable) = variables.get(&name).cloned() else {
                return Err(field("alias", at, format!("{alias:?} stands for {name:?}, which is not there")));
            };
            if variables.insert(alias.clone(), variable).is_some() {
                return Err(field("alias", at, format!("{alias:?} is already the name of a variable")));
            }
        }
        if cursor.offset != source.len() {
            let rest = source.len() - cursor.offset;
            return Err(field("end", cursor.offset, format!("{rest} bytes follow the last alias, none are allowed")));
        }
        Ok(Self { version, spec, revision, variables, source })
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Names of all variables and aliases, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    /// A variable's description.
    pub fn variable(&self, name: &str) -> Option<&Variable> {
        self.variables.get(name)
    }

    /// A variable as floats; integer weights are multiplied out by their scales into single precision.
    ///
    /// # Errors
    /// Tensor where it is missing or its scales do not fit; Io.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let variable = self.variables.get(name).ok_or_else(|| tensor_error(name, "is not in the file"))?;
        let bytes = self.bytes(name, variable)?;
        let values = match variable.dtype {
            Dtype::F32 => Values::f32_le(&bytes),
            Dtype::F16 => Values::f16_le(&bytes),
            Dtype::Bf16 => Values::bf16_le(&bytes),
            Dtype::I8 => self.scaled(name, variable, bytes.iter().map(|b| f32::from(*b as i8)))?,
            Dtype::I16 => {
                self.scaled(name, variable, bytes.as_chunks::<2>().0.iter().map(|b| f32::from(i16::from_le_bytes(*b))))?
            }
            Dtype::I32 => return Err(tensor_error(name, "has 32-bit integers, floats are needed")),
        };
        Ok(Tensor { shape: variable.shape.clone(), values })
    }

    /// A scalar of any integer type.
    ///
    /// # Errors
    /// Tensor where it is missing or not one integer; Io.
    pub fn integer(&self, name: &str) -> Result<i64> {
        let variable = self.variables.get(name).ok_or_else(|| tensor_error(name, "is not in the file"))?;
        if variable.elements != 1 {
            return Err(tensor_error(name, &format!("has {} elements, one integer is needed", variable.elements)));
        }
        let bytes = self.bytes(name, variable)?;
        match (variable.dtype, bytes.as_slice()) {
            (Dtype::I8, [a]) => Ok(i64::from(*a as i8)),
            (Dtype::I16, [a, b]) => Ok(i64::from(i16::from_le_bytes([*a, *b]))),
            (Dtype::I32, [a, b, c, d]) => Ok(i64::from(i32::from_le_bytes([*a, *b, *c, *d]))),
            (dtype, _) => Err(tensor_error(name, &format!("is {dtype:?}, an integer is needed"))),
        }
    }

    fn bytes(&self, name: &str, variable: &Variable) -> Result<Vec<u8>> {
        let count = (variable.elements * variable.dtype.size()) as u64; // held against the file when the table was read
        self.source.take(variable.offset, count)?.ok_or_else(|| tensor_error(name, "lies outside the file"))
    }

    fn scaled(&self, name: &str, variable: &Variable, integers: impl Iterator<Item = f32>) -> Result<Values> {
        let scale_name = format!("{name}_scale");
        let scales = match self.variables.get(&scale_name) {
            Some(v) if matches!(v.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) => self.tensor(&scale_name)?.values.into_f32(),
            Some(v) => return Err(tensor_error(&scale_name, &format!("is {:?}, floats are needed", v.dtype))),
            None => return Err(tensor_error(name, &format!("is {:?} but has no {scale_name}", variable.dtype))),
        };
        let rows = variable.shape.first().copied().unwrap_or(1);
        if scales.len() != 1 && scales.len() != rows {
            let problem = format!("has {} scales for {rows} rows; one, or one a row is needed", scales.len());
            return Err(tensor_error(&scale_name, &problem));
        }
        if let Some(bad) = scales.iter().find(|s| !s.is_finite() || **s <= 0.0) {
            return Err(tensor_error(&scale_name, &format!("has a scale of {bad}, positive ones are needed")));
        }
        let row = (variable.elements / rows.max(1)).max(1);
        let scale_of = |i: usize| if scales.len() == 1 { scales[0] } else { scales[i / row] };
        Ok(Values::F32(integers.enumerate().map(|(i, q)| q / scale_of(i)).collect()))
    }
}

/// Reads the table from front to back, hopping over the data.
struct Cursor<'a> {
    source: &'a Source,
    offset: u64,
}

impl Cursor<'_> {
    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        if self.source.len() - self.offset < N as u64 {
            return Err(field(
                what,
                self.offset,
                format!("{N} bytes are needed, {} are left", self.source.len() - self.offset),
            ));
        }
        self.source.read(self.offset, &mut out)?;
        self.offset += N as u64;
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let at = self.offset;
        let length = u16::from_le_bytes(self.bytes(what)?);
        let left = self.source.len() - self.offset;
        let Some(mut bytes) = self.source.take(self.offset, u64::from(length))? else {
            return Err(field(what, at, format!("a string of {length} bytes, {left} are left")));
        };
        if bytes.pop() != Some(0) {
            return Err(field(what, at, "a string must end with a zero byte".into()));
        }
        self.offset += u64::from(length);
        String::from_utf8(bytes).map_err(|_| field(what, at, "a string must be UTF-8".into()))
    }

    fn variable(&mut self) -> Result<(String, Variable)> {
        let name = self.string("variable name")?;
        let at = self.offset;
        let [rank] = self.bytes(&format!("rank of {name}"))?;
        if rank > MAX_RANK {
            return Err(field(&format!("rank of {name}"), at, format!("{rank} seen, at most {MAX_RANK} are allowed")));
        }
        let mut shape = Vec::with_capacity(usize::from(rank));
        for _ in 0..rank {
            shape.push(self.u32(&format!("dimension of {name}"))? as usize);
        }
        let at = self.offset;
        let [code] = self.bytes(&format!("type of {name}"))?;
        let dtype = Dtype::from_code(code)
            .ok_or_else(|| field(&format!("type of {name}"), at, format!("{code} seen, 0 to 5 are known")))?;
        let at = self.offset;
        let bytes = self.u32(&format!("size of {name}"))?;
        let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let wanted = elements.and_then(|n| n.checked_mul(dtype.size()));
        let (Some(elements), true) = (elements, wanted == usize::try_from(bytes).ok()) else {
            let problem = format!("{bytes} bytes seen, shape {shape:?} of {dtype:?} takes {wanted:?}");
            return Err(field(&format!("size of {name}"), at, problem));
        };
        let left = self.source.len() - self.offset;
        if u64::from(bytes) > left {
            return Err(field(&format!("size of {name}"), at, format!("{bytes} bytes seen, {left} are left in the file")));
        }
        let variable = Variable { shape, dtype, offset: self.offset, elements };
        self.offset += u64::from(bytes);
        Ok((name, variable))
    }
}

fn field(field: &str, offset: u64, problem: String) -> Error {
    Error::Field { format: "CTranslate2", field: field.to_string(), offset, problem }
}

fn tensor_error(name: &str, problem: &str) -> Error {
    Error::Tensor { name: name.to_string(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn string(out: &mut Vec<u8>, s: &str) {
        out.extend((s.len() as u16 + 1).to_le_bytes());
        out.extend(s.as_bytes());
        out.push(0);
    }

    fn variable(out: &mut Vec<u8>, name: &str, shape: &[u32], code: u8, data: &[u8]) {
        string(out, name);
        out.push(shape.len() as u8);
        shape.iter().for_each(|d| out.extend(d.to_le_bytes()));
        out.push(code);
        out.extend((data.len() as u32).to_le_bytes());
        out.extend(data);
    }

    fn sample() -> Vec<u8> {
        let mut out = 6u32.to_le_bytes().to_vec();
        string(&mut out, "WhisperSpec");
        out.extend(3u32.to_le_bytes());
        out.extend(6u32.to_le_bytes());
        variable(&mut out, "f32", &[2, 1], 0, &[1.5f32, -2.0].map(f32::to_le_bytes).concat());
        variable(&mut out, "f16", &[2], 4, &[half::f16::from_f32(0.5), half::f16::ONE].map(half::f16::to_le_bytes).concat());
        variable(&mut out, "bf16", &[1], 5, &half::bf16::from_f32(3.0).to_le_bytes());
        variable(&mut out, "q", &[2, 2], 1, &[10, 246, 4, 127]);
        variable(&mut out, "q_scale", &[2], 0, &[10f32, 2.0].map(f32::to_le_bytes).concat());
        variable(&mut out, "heads", &[], 2, &8i16.to_le_bytes());
        out.extend(1u32.to_le_bytes());
        string(&mut out, "tied");
        string(&mut out, "q");
        out
    }

    #[test]
    fn reads_every_type_and_aliases() {
        let file = File::read(Source::memory(sample())).unwrap();
        assert_eq!((file.spec.as_str(), file.revision), ("WhisperSpec", 3));
        assert_eq!(file.tensor("f32").unwrap(), Tensor { shape: vec![2, 1], values: Values::F32(vec![1.5, -2.0]) });
        assert_eq!(file.tensor("f16").unwrap().values.into_f32(), [0.5, 1.0]);
        assert_eq!(file.tensor("bf16").unwrap().values.into_f32(), [3.0]);
        assert_eq!(file.tensor("q").unwrap().values.into_f32(), [1.0, -1.0, 2.0, 63.5]);
        assert_eq!(file.integer("heads").unwrap(), 8);
        assert!(file.tensor("tied").is_err(), "the alias has no scales of its own name");
        assert!(matches!(file.tensor("absent"), Err(Error::Tensor { .. })));
    }

    #[test]
    fn names_field_and_offset_of_a_lie() {
        let mut bytes = sample();
        let at = bytes.windows(4).position(|w| w == b"f32\0").unwrap() + 4;
        bytes[at + 1] = 200; // first dimension of f32
        match File::read(Source::memory(bytes)).err() {
            Some(Error::Field { field, offset, .. }) => assert_eq!((field.as_str(), offset), ("size of f32", at as u64 + 10)),
            other => panic!("{other:?}"),
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
                    let _ = (file.tensor(&name), file.integer(&name));
                }
            }
        }
    }
}
