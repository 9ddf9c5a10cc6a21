//! GGUF versions 2 and 3 (little endian): metadata, tensor descriptions and tensors, read without mmap.
//!
//! Source: ggml's specification, `docs/gguf.md`. Layout: magic, version, counts, metadata, tensor infos, padding to
//! `general.alignment`, data. The header is read once through a buffer; each tensor by one positional read when it is wanted.
//! Every count and length is compared with the bytes that are left in the file before anything is allocated for it, and tensors
//! may not overlap, so that all of them together never take more memory than the file takes on disk.

use std::{
    collections::HashMap,
    io::{BufReader, Read},
    path::Path,
};

use dreamseed_kernels::{BlockType, Matrix};

use super::{Error, Result, source::Source};

const FORMAT: &str = "GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMS: u32 = 4;
const MAX_KEY_BYTES: u64 = 65_535; // specification: metadata keys are at most 2^16 - 1 bytes
const MAX_ARRAY_DEPTH: usize = 4;

/// A metadata value. Integers and floats of all widths are widened; [`Value::name`] tells the family.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// uint8 to uint64.
    Unsigned(u64),
    /// int8 to int64.
    Signed(i64),
    /// float32, float64.
    Float(f64),
    /// One byte, 0 or 1.
    Bool(bool),
    /// UTF-8.
    String(String),
    /// Elements of one type.
    Array(Array),
}

/// A metadata array, packed as in the file: an element takes no more memory than there.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Numbers and bools of one type, little endian.
    Numbers {
        /// GGUF's value type.
        type_id: u32,
        /// The elements' bytes.
        bytes: Vec<u8>,
    },
    /// UTF-8 strings.
    String(Strings),
    /// Arrays of arrays.
    Nested(Vec<Array>),
}

/// Many strings in one buffer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strings {
    text: String,
    ends: Vec<usize>, // byte position after each string
}

impl Strings {
    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The `i`-th string.
    pub fn get(&self, i: usize) -> Option<&str> {
        let end = *self.ends.get(i)?;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        self.text.get(start..end)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    fn push(&mut self, s: &str) {
        self.text.push_str(s);
        self.ends.push(self.text.len());
    }
}

impl Value {
    /// The family of its type, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unsigned(_) => "an unsigned integer",
            Self::Signed(_) => "a signed integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a bool",
            Self::String(_) => "a string",
            Self::Array(Array::String(_)) => "an array of strings",
            Self::Array(Array::Nested(_)) => "an array of arrays",
            Self::Array(Array::Numbers { type_id: 6 | 12, .. }) => "an array of floats",
            Self::Array(Array::Numbers { type_id: 7, .. }) => "an array of bools",
            Self::Array(Array::Numbers { .. }) => "an array of integers",
        }
    }
}

/// One tensor as the header describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Extents, fastest first: a matrix of n rows with k columns is `[k, n]`.
    pub dims: Vec<u64>,
    /// ggml's type number.
    pub type_id: u32,
    /// The type, where this version reads it.
    pub kind: Option<BlockType>,
    /// Bytes from the start of the data section.
    pub offset: u64,
    info_at: u64,
    bytes: u64,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

/// An open GGUF file: its header in memory, its tensors on disk.
pub struct Gguf {
    source: Source,
    version: u32,
    metadata: HashMap<String, (Value, u64)>, // value and the byte offset of its key
    tensors: HashMap<String, TensorInfo>,
    data_start: u64,
}

/// Type number -> storage type (ggml.h, enum ggml_type).
fn block_type(id: u32) -> Option<BlockType> {
    Some(match id {
        0 => BlockType::F32,
        1 => BlockType::F16,
        2 => BlockType::Q4_0,
        3 => BlockType::Q4_1,
        6 => BlockType::Q5_0,
        7 => BlockType::Q5_1,
        8 => BlockType::Q8_0,
        9 => BlockType::Q8_1,
        10 => BlockType::Q2K,
        11 => BlockType::Q3K,
        12 => BlockType::Q4K,
        13 => BlockType::Q5K,
        14 => BlockType::Q6K,
        15 => BlockType::Q8K,
        30 => BlockType::BF16,
        _ => return None,
    })
}

/// Names of types that ggml has and this version does not read.
fn type_name(id: u32) -> &'static str {
    match id {
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => "unknown",
    }
}

/// The header under the cursor: position, and how many bytes the file has left.
struct Header<'a, R> {
    reader: R,
    at: u64,
    len: u64,
    path: &'a Path,
}

/// A [`Source`] read from its start on.
struct Sequential<'a> {
    source: &'a Source,
    at: u64,
}

impl Read for Sequential<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.source.len().saturating_sub(self.at)).unwrap_or(usize::MAX);
        let n = out.len().min(left);
        self.source.read(self.at, &mut out[..n]).map_err(std::io::Error::other)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl<R: Read> Header<'_, R> {
    fn bad<T>(&self, field: impl Into<String>, offset: u64, problem: impl Into<String>) -> Result<T> {
        Err(Error::Field { format: FORMAT, field: field.into(), offset, problem: problem.into() })
    }

    fn left(&self) -> u64 {
        self.len.saturating_sub(self.at)
    }

    /// `count` things of at least `size` bytes each must fit into what is left.
    fn room(&self, field: &str, at: u64, count: u64, size: u64) -> Result<usize> {
        match (count.checked_mul(size), usize::try_from(count)) {
            (Some(bytes), Ok(n)) if bytes <= self.left() => Ok(n),
            _ => self.bad(
                field,
                at,
                format!("{count} of at least {size} bytes each, but the file has {} bytes left", self.left()),
            ),
        }
    }

    fn read(&mut self, field: &str, buffer: &mut [u8]) -> Result<()> {
        if buffer.len() as u64 > self.left() {
            return self.bad(field, self.at, format!("the file ends: {} bytes wanted, {} left", buffer.len(), self.left()));
        }
        match self.reader.read_exact(buffer) {
            Ok(()) => {
                self.at += buffer.len() as u64;
                Ok(())
            }
            Err(source) => Err(Error::Io { path: self.path.to_owned(), source }),
        }
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(field, &mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self, field: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    fn string(&mut self, field: &str, max: u64) -> Result<String> {
        let at = self.at;
        let len = self.u64(field)?;
        if len > max {
            return self.bad(field, at, format!("a string of {len} bytes; at most {max} are allowed here"));
        }
        let mut bytes = vec![0; self.room(field, at, len, 1)?];
        self.read(field, &mut bytes)?;
        match String::from_utf8(bytes) {
            Ok(s) => Ok(s),
            Err(e) => self.bad(field, at + 8 + e.utf8_error().valid_up_to() as u64, "not UTF-8"),
        }
    }

    fn bool(&mut self, field: &str) -> Result<bool> {
        match self.array(field)? {
            [0u8] => Ok(false),
            [1] => Ok(true),
            [other] => self.bad(field, self.at - 1, format!("a bool of {other}; 0 and 1 are allowed")),
        }
    }

    fn value(&mut self, field: &str) -> Result<Value> {
        let at = self.at;
        Ok(match self.u32(field)? {
            id @ (0 | 2 | 4 | 10) => Value::Unsigned(self.unsigned(field, id)?),
            id @ (1 | 3 | 5 | 11) => Value::Signed(self.signed(field, id)?),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array(field)?))),
            7 => Value::Bool(self.bool(field)?),
            8 => Value::String(self.string(field, u64::MAX)?),
            9 => Value::Array(self.elements(field, 1)?),
            12 => Value::Float(f64::from_le_bytes(self.array(field)?)),
            id => return self.bad(field, at, format!("value type {id}; 0 to 12 are known")),
        })
    }

    fn unsigned(&mut self, field: &str, id: u32) -> Result<u64> {
        Ok(match id {
            0 => u64::from(self.array::<1>(field)?[0]),
            2 => u64::from(u16::from_le_bytes(self.array(field)?)),
            4 => u64::from(self.u32(field)?),
            _ => self.u64(field)?,
        })
    }

    fn signed(&mut self, field: &str, id: u32) -> Result<i64> {
        Ok(match id {
            1 => i64::from(i8::from_le_bytes(self.array(field)?)),
            3 => i64::from(i16::from_le_bytes(self.array(field)?)),
            5 => i64::from(i32::from_le_bytes(self.array(field)?)),
            _ => i64::from_le_bytes(self.array(field)?),
        })
    }

    fn elements(&mut self, field: &str, depth: usize) -> Result<Array> {
        let at = self.at;
        if depth > MAX_ARRAY_DEPTH {
            return self.bad(field, at, format!("arrays nested deeper than {MAX_ARRAY_DEPTH}"));
        }
        let id = self.u32(field)?;
        let size = match id {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12, // element type and count of the inner array
            _ => return self.bad(field, at, format!("element type {id}; 0 to 12 are known")),
        };
        let count = self.u64(field)?;
        let n = self.room(field, at + 4, count, size as u64)?;
        Ok(match id {
            8 => {
                let mut strings = Strings::default();
                for _ in 0..n {
                    strings.push(&self.string(field, u64::MAX)?);
                }
                Array::String(strings)
            }
            9 => Array::Nested((0..n).map(|_| self.elements(field, depth + 1)).collect::<Result<_>>()?),
            type_id => {
                let mut bytes = vec![0; n * size];
                self.read(field, &mut bytes)?;
                Array::Numbers { type_id, bytes }
            }
        })
    }

    fn metadata(&mut self, count: u64, at: u64) -> Result<HashMap<String, (Value, u64)>> {
        self.room("metadata_kv_count", at, count, 13)?; // empty key, type, one byte
        let mut metadata = HashMap::new();
        for i in 0..count {
            let at = self.at;
            let key = self.string(&format!("metadata key {i}"), MAX_KEY_BYTES)?;
            let value = self.value(&key)?;
            if metadata.contains_key(&key) {
                return self.bad(key, at, "this key stands twice");
            }
            metadata.insert(key, (value, at));
        }
        Ok(metadata)
    }

    fn tensor_infos(&mut self, count: u64, at: u64) -> Result<HashMap<String, TensorInfo>> {
        self.room("tensor_count", at, count, 32)?; // empty name, one dimension, type, offset
        let mut tensors = HashMap::new();
        for i in 0..count {
            let info_at = self.at;
            let name = self.string(&format!("name of tensor {i}"), MAX_KEY_BYTES)?;
            let info = self.tensor_info(&name, info_at)?;
            if tensors.insert(name.clone(), info).is_some() {
                return self.bad(name, info_at, "this tensor stands twice");
            }
        }
        Ok(tensors)
    }

    fn tensor_info(&mut self, name: &str, info_at: u64) -> Result<TensorInfo> {
        let dims_at = self.at;
        let n = self.u32(name)?;
        if n == 0 || n > MAX_DIMS {
            return self.bad(name, dims_at, format!("{n} dimensions; 1 to {MAX_DIMS} are allowed"));
        }
        let dims = (0..n).map(|_| self.u64(name)).collect::<Result<Vec<_>>>()?;
        let elements = dims.iter().try_fold(1u64, |product, &d| product.checked_mul(d));
        let Some(elements) = elements.filter(|&e| e > 0) else {
            return self.bad(name, dims_at, format!("dimensions {dims:?}: empty or more than 2^64 elements"));
        };
        let type_id = self.u32(name)?;
        let kind = block_type(type_id);
        let bytes = match kind.map(BlockType::block) {
            None => 0, // size unknown: refused when the tensor is asked for
            Some((block, size)) if dims[0].is_multiple_of(block as u64) => {
                match (elements / block as u64).checked_mul(size as u64) {
                    Some(bytes) => bytes,
                    None => return self.bad(name, dims_at, format!("dimensions {dims:?}: more than 2^64 bytes")),
                }
            }
            Some((block, _)) => {
                return self.bad(
                    name,
                    dims_at,
                    format!("rows of {} elements are not whole blocks of {block} ({kind:?})", dims[0]),
                );
            }
        };
        let offset = self.u64(name)?;
        Ok(TensorInfo { dims, type_id, kind, offset, info_at, bytes })
    }
}

impl Gguf {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`Error::Io`] from the operating system, [`Error::Field`] with the field and the byte offset of what is wrong.
    pub fn open(path: &Path) -> Result<Self> {
        let source = Source::open(path)?;
        let reader = BufReader::with_capacity(1 << 18, Sequential { source: &source, at: 0 });
        let mut header = Header { reader, at: 0, len: source.len(), path };
        let version = check_version(&mut header)?;
        let tensors_at = header.at;
        let tensor_count = header.u64("tensor_count")?;
        let metadata_at = header.at;
        let metadata_count = header.u64("metadata_kv_count")?;
        let metadata = header.metadata(metadata_count, metadata_at)?;
        let tensors = header.tensor_infos(tensor_count, tensors_at)?;
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some((Value::Unsigned(a), _)) if a.is_power_of_two() && *a <= 1 << 20 => *a,
            Some((value, at)) => {
                return header.bad("general.alignment", *at, format!("{value:?}; a power of two up to 2^20 is allowed"));
            }
        };
        let data_start = header.at.next_multiple_of(alignment);
        check_places(&header, &tensors, data_start, alignment)?;
        drop(header);
        Ok(Self { source, version, metadata, tensors, data_start })
    }

    /// Version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// A metadata value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key).map(|(value, _)| value)
    }

    /// All metadata keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// An [`Error::Field`] about a metadata key of this file.
    pub fn field_error(&self, key: &str, problem: impl Into<String>) -> Error {
        let offset = self.metadata.get(key).map_or(0, |(_, at)| *at);
        Error::Field { format: FORMAT, field: key.into(), offset, problem: problem.into() }
    }

    fn mistyped(&self, key: &str, value: &Value, wanted: &str) -> Error {
        self.field_error(key, format!("{}, but {wanted} is needed", value.name()))
    }

    /// A non-negative integer of any width.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(v)) => Ok(Some(*v)),
            Some(Value::Signed(v)) if *v >= 0 => Ok(Some(v.unsigned_abs())),
            Some(other) => Err(self.mistyped(key, other, "a non-negative integer")),
        }
    }

    /// A finite float of either width.
    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(v)) if v.is_finite() => Ok(Some(*v)),
            Some(Value::Float(v)) => Err(self.field_error(key, format!("{v}, but a finite number is needed"))),
            Some(other) => Err(self.mistyped(key, other, "a float")),
        }
    }

    /// A bool.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(other) => Err(self.mistyped(key, other, "a bool")),
        }
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(other) => Err(self.mistyped(key, other, "a string")),
        }
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::String(v))) => Ok(Some(v)),
            Some(other) => Err(self.mistyped(key, other, "an array of strings")),
        }
    }

    /// An array of integers of any width and sign.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        match self.get(key) {
            None => Ok(None),
            Some(value @ Value::Array(Array::Numbers { type_id, bytes })) => {
                let all = |size, f: fn(&[u8]) -> Option<i64>| bytes.chunks_exact(size).map(f).collect::<Option<Vec<_>>>();
                let values = match type_id {
                    0 | 7 => all(1, |b| Some(b[0].into())),
                    1 => all(1, |b| Some((b[0] as i8).into())),
                    2 => all(2, |b| Some(u16::from_le_bytes(b.try_into().ok()?).into())),
                    3 => all(2, |b| Some(i16::from_le_bytes(b.try_into().ok()?).into())),
                    4 => all(4, |b| Some(u32::from_le_bytes(b.try_into().ok()?).into())),
                    5 => all(4, |b| Some(i32::from_le_bytes(b.try_into().ok()?).into())),
                    10 => all(8, |b| u64::from_le_bytes(b.try_into().ok()?).try_into().ok()),
                    11 => all(8, |b| Some(i64::from_le_bytes(b.try_into().ok()?))),
                    _ => return Err(self.mistyped(key, value, "an array of integers")),
                };
                values.map(Some).ok_or_else(|| self.field_error(key, "an integer above 2^63"))
            }
            Some(other) => Err(self.mistyped(key, other, "an array of integers")),
        }
    }

    /// An array of 32-bit floats.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::Numbers { type_id: 6, bytes })) => {
                Ok(Some(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()))
            }
            Some(other) => Err(self.mistyped(key, other, "an array of 32-bit floats")),
        }
    }

    /// The description of a tensor.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// Names of all tensors, in no order.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    fn known(&self, name: &str) -> Result<(&TensorInfo, BlockType)> {
        let Some(info) = self.tensor(name) else {
            return Err(Error::Tensor { name: name.into(), problem: format!("not in {}", self.path().display()) });
        };
        let Some(kind) = info.kind else {
            let problem = format!(
                "has ggml type {} ({}), which this version does not read; use a file quantized as Q4_K_M, Q8_0 or the like",
                info.type_id,
                type_name(info.type_id)
            );
            return Err(Error::Field { format: FORMAT, field: name.into(), offset: info.info_at, problem });
        };
        Ok((info, kind))
    }

    /// The bytes of a tensor as they stand in the file.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let (info, _) = self.known(name)?;
        let mut bytes = vec![0; info.bytes as usize];
        self.source.read(self.data_start + info.offset, &mut bytes)?;
        Ok(bytes)
    }

    /// The storage type of a matrix of `rows` x `cols`, or what is wrong with its type or shape.
    pub fn kind(&self, name: &str, rows: usize, cols: usize) -> Result<BlockType> {
        let (info, kind) = self.known(name)?;
        if info.dims[0] != cols as u64 || Some(info.elements()) != (rows as u64).checked_mul(cols as u64) {
            let problem = format!("has dimensions {:?} (fastest first), but [{cols}, {rows}] are needed", info.dims);
            return Err(Error::Tensor { name: name.into(), problem });
        }
        Ok(kind)
    }

    /// A packed matrix of `rows` x `cols`.
    ///
    /// # Errors
    /// [`Error::Tensor`] where it is missing or of another shape, [`Error::Field`] where its type is not read.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let kind = self.kind(name, rows, cols)?;
        let bytes = self.bytes(name)?;
        Matrix::from_blocks(kind, rows, cols, &bytes).map_err(|e| Error::Tensor { name: name.into(), problem: e.to_string() })
    }

    /// A vector of `len` floats (norms, biases), widened where stored in half precision.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.values(name, 1, len)
    }

    /// All `rows` x `cols` floats of a tensor, `cols` of them in its fastest dimension, widened where stored in half precision.
    pub fn values(&self, name: &str, rows: usize, cols: usize) -> Result<Vec<f32>> {
        let kind = self.kind(name, rows, cols)?;
        let bytes = self.bytes(name)?;
        let halves = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        match kind {
            BlockType::F32 => Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            BlockType::F16 => Ok(halves.map(|b| half::f16::from_bits(b).to_f32()).collect()),
            BlockType::BF16 => Ok(halves.map(|b| half::bf16::from_bits(b).to_f32()).collect()),
            other => Err(Error::Tensor { name: name.into(), problem: format!("is {other:?}, but F32, F16 or BF16 is needed") }),
        }
    }
}

fn check_version<R: Read>(header: &mut Header<'_, R>) -> Result<u32> {
    let magic: [u8; 4] = header.array("magic")?;
    if &magic != b"GGUF" {
        let seen = String::from_utf8_lossy(&magic).escape_default().to_string();
        return header.bad("magic", 0, format!("\"{seen}\" is not \"GGUF\": not a GGUF file"));
    }
    match header.u32("version")? {
        version @ (2 | 3) => Ok(version),
        1 => header.bad("version", 4, "version 1 is not read; versions 2 and 3 are: convert the file again"),
        v if matches!(v.swap_bytes(), 1..=3) => header.bad("version", 4, "the file is big endian; only little endian is read"),
        v => header.bad("version", 4, format!("version {v} is not known; 2 and 3 are")),
    }
}

/// Each tensor aligned, inside the file and apart from the others.
fn check_places<R: Read>(
    header: &Header<'_, R>,
    tensors: &HashMap<String, TensorInfo>,
    start: u64,
    alignment: u64,
) -> Result<()> {
    let mut places: Vec<_> = tensors.iter().collect();
    places.sort_by_key(|(_, info)| (info.offset, info.info_at));
    let mut end_of_last = 0;
    for (name, info) in places {
        if !info.offset.is_multiple_of(alignment) {
            return header.bad(name, info.info_at, format!("offset {} is not a multiple of {alignment}", info.offset));
        }
        let end = start.checked_add(info.offset).and_then(|at| at.checked_add(info.bytes));
        if end.is_none_or(|end| end > header.len) {
            let problem = format!(
                "{} bytes at {start} + {} of data reach past the end of the file ({} bytes): truncated download?",
                info.bytes, info.offset, header.len
            );
            return header.bad(name, info.info_at, problem);
        }
        if info.offset < end_of_last && info.bytes > 0 {
            return header.bad(name, info.info_at, format!("offset {} lies inside the tensor before it", info.offset));
        }
        end_of_last = end_of_last.max(info.offset + info.bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod writer;
