//! Constants of TFLite files: widened to floats or 32-bit integers, sparse ones made dense.

use super::flatbuffer::{Table, Vector};
use super::{Error, Result};
use crate::graph::ir::{Data, Value, limits};
use half::f16;
use std::sync::Arc;

/// Bytes that constants may still take, so that a small file cannot ask for a large allocation.
pub(crate) struct Budget {
    left: usize,
}

impl Budget {
    pub(crate) fn new(file: usize) -> Self {
        Self { left: limits::constants(file as u64) }
    }

    fn take(&mut self, t: &Table, elements: usize) -> Result<()> {
        match elements.checked_mul(4).and_then(|bytes| self.left.checked_sub(bytes)) {
            Some(left) => self.left = left,
            None => {
                return Err(t.error("Tensor.shape", format!("{elements} elements: more than the size of the file justifies")));
            }
        }
        Ok(())
    }
}

/// Names of the element types by number.
const TYPES: [&str; 10] = ["FLOAT32", "FLOAT16", "INT32", "UINT8", "INT64", "STRING", "BOOL", "INT16", "COMPLEX64", "INT8"];

fn type_name(kind: u8) -> String {
    TYPES.get(usize::from(kind)).map_or_else(|| format!("type {kind}"), |&name| name.to_owned())
}

/// A constant list of integers.
pub(crate) fn integers(name: &str, list: Vec<i32>) -> Value {
    Value { name: name.to_owned(), shape: Some(vec![list.len()]), data: Some(Data::I32(Arc::new(list))) }
}

/// The shape of a tensor: at most six dimensions, each at least 1.
pub(crate) fn shape(t: &Table) -> Result<Vec<usize>> {
    let dims = t.i32s("Tensor.shape", 0)?;
    let mut elements = 1usize;
    let shape = dims.iter().map(|&d| usize::try_from(d).ok().filter(|&d| d > 0)).collect::<Option<Vec<_>>>();
    for d in shape.iter().flatten() {
        elements = elements.saturating_mul(*d);
    }
    match shape {
        Some(shape) if shape.len() <= 6 && elements <= limits::ELEMENTS => Ok(shape),
        _ => {
            let seen = &dims[..dims.len().min(8)];
            Err(t.error("Tensor.shape", format!("{seen:?}: at most 6 dimensions of 1 or more, {} elements", limits::ELEMENTS)))
        }
    }
}

/// Refuses tensors computed at run time that are neither floats nor plain integers.
pub(crate) fn check_activation(t: &Table) -> Result<()> {
    match t.u8("Tensor.type", 1)? {
        0 | 1 | 2 | 4 | 6 => Ok(()),
        kind => {
            let name = t.string("Tensor.name", 3, limits::NAME)?;
            let kind = type_name(kind);
            Err(Error::Unsupported(format!("tflite: tensor {name} is computed in {kind}; only float networks are run")))
        }
    }
}

/// The elements of a constant.
pub(crate) fn decode(t: &Table, bytes: Vector, budget: &mut Budget) -> Result<Data> {
    let shape = shape(t)?;
    let elements: usize = shape.iter().product();
    let kind = t.u8("Tensor.type", 1)?;
    let size = match kind {
        0 | 2 => 4,
        1 | 7 => 2,
        3 | 6 | 9 => 1,
        4 => 8,
        _ => return Err(t.error("Tensor.type", format!("constants of {} are not read", type_name(kind)))),
    };
    budget.take(t, elements)?;
    let stored = bytes.bytes.len() / size;
    let sparsity = t.table("Tensor.sparsity", 6)?;
    if !bytes.bytes.len().is_multiple_of(size) || (sparsity.is_none() && stored != elements) {
        let wanted = format!("{} bytes for {shape:?} of {}", bytes.bytes.len(), type_name(kind));
        return Err(bytes.error("Buffer.data", format!("{wanted}; {elements} elements of {size} bytes are needed")));
    }
    let places = sparsity.map(|s| Sparse::read(&s, &shape)?.places(&s, stored)).transpose()?;
    let f32s = |v: Vec<f32>| Data::F32(Arc::new(scatter(v, places.as_deref(), elements)));
    let raw = bytes.bytes;
    let integers: Vec<i32> = match kind {
        0 => return Ok(f32s(raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())),
        1 => return Ok(f32s(raw.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect())),
        2 => bytes.i32s().collect(),
        3 | 6 => raw.iter().map(|&b| i32::from(b)).collect(),
        7 => raw.chunks_exact(2).map(|b| i32::from(i16::from_le_bytes([b[0], b[1]]))).collect(),
        9 => raw.iter().map(|&b| i32::from(b as i8)).collect(),
        // Axes and sizes: beyond 32 bits they mean "to the end".
        _ => raw.chunks_exact(8).map(|b| long(b).clamp(i32::MIN.into(), i32::MAX.into()) as i32).collect(),
    };
    let integers = scatter(integers, places.as_deref(), elements);
    match t.table("Tensor.quantization", 4)? {
        Some(q) if !q.vector("QuantizationParameters.scale", 2, 4)?.bytes.is_empty() => dequantize(&q, &shape, &integers),
        _ => Ok(Data::I32(Arc::new(integers))),
    }
}

fn long(b: &[u8]) -> i64 {
    b.iter().rev().fold(0i64, |v, &b| v << 8 | i64::from(b))
}

/// `scale * (q - zero_point)`, one pair for all or one a slice of the quantized dimension.
fn dequantize(q: &Table, shape: &[usize], integers: &[i32]) -> Result<Data> {
    let scales: Vec<f32> = q.i32s("QuantizationParameters.scale", 2)?.into_iter().map(|v| f32::from_bits(v as u32)).collect();
    let zeros: Vec<i64> = q.vector("QuantizationParameters.zero_point", 3, 8)?.bytes.chunks_exact(8).map(long).collect();
    let axis = q.i32("QuantizationParameters.quantized_dimension", 6, 0)?;
    let (count, inner) = match usize::try_from(axis).ok().and_then(|a| Some((*shape.get(a)?, shape.get(a + 1..)?))) {
        _ if scales.len() == 1 => (1, integers.len().max(1)),
        Some((count, inner)) if count == scales.len() => (count, inner.iter().product()),
        _ => {
            let seen = format!("{} scales along dimension {axis} of {shape:?}", scales.len());
            return Err(q.error("QuantizationParameters.scale", format!("{seen}; one, or one a slice")));
        }
    };
    let zero = |i: usize| zeros.get(if zeros.len() == 1 { 0 } else { i }).copied().unwrap_or(0) as f32;
    let value = |(i, &v): (usize, &i32)| scales[i / inner % count] * (v as f32 - zero(i / inner % count));
    Ok(Data::F32(Arc::new(integers.iter().enumerate().map(value).collect())))
}

/// Values at their places, zeros elsewhere; as they are without places.
fn scatter<T: Copy + Default>(values: Vec<T>, places: Option<&[usize]>, elements: usize) -> Vec<T> {
    let Some(places) = places else { return values };
    let mut out = vec![T::default(); elements];
    for (&at, v) in places.iter().zip(values) {
        out[at] = v; // in range: `Sparse::place` checked it
    }
    out
}

/// One level of a sparse tensor's storage tree.
enum Level {
    Dense(usize),
    Compressed { segments: Vec<usize>, indices: Vec<usize> },
}

/// How the stored values of a sparse tensor lie: a tree of dense and compressed levels over the dimensions, then over the
/// dimensions of a block (schema: SparsityParameters).
struct Sparse {
    shape: Vec<usize>,
    levels: Vec<Level>,
    order: Vec<usize>,           // level -> dimension, or rank + block dimension
    blocks: Vec<(usize, usize)>, // block dimension -> (dimension, block size)
}

impl Sparse {
    fn read(t: &Table, shape: &[usize]) -> Result<Self> {
        let rank = shape.len();
        let index = |field: &str, list: Vec<i32>, below: usize| {
            let list: Option<Vec<usize>> = list.into_iter().map(|v| usize::try_from(v).ok().filter(|&v| v < below)).collect();
            list.ok_or_else(|| t.error(field, format!("an entry is not in 0..{below}")))
        };
        let map = index("SparsityParameters.block_map", t.i32s("SparsityParameters.block_map", 1)?, rank)?;
        let all = rank + map.len();
        let order = index("SparsityParameters.traversal_order", t.i32s("SparsityParameters.traversal_order", 0)?, all)?;
        let meta = t.tables("SparsityParameters.dim_metadata", 2, 12)?;
        let mut seen = vec![false; all];
        order.iter().for_each(|&d| seen[d] = true);
        let blocks_last = order.iter().take(rank).all(|&d| d < rank);
        if meta.len() != all || order.len() != all || seen.contains(&false) || !blocks_last || map.len() > rank {
            let problem =
                format!("{} levels, {} in order, for {rank} dimensions and {} of blocks", meta.len(), order.len(), map.len());
            return Err(t.error("SparsityParameters.traversal_order", problem));
        }
        let levels = meta.iter().map(level).collect::<Result<Vec<_>>>()?;
        let size = |b: usize| match order.iter().position(|&d| d == rank + b).map(|l| &levels[l]) {
            Some(&Level::Dense(size)) if size > 0 => Ok(size),
            _ => Err(t.error("SparsityParameters.dim_metadata", "a block's dimension is not dense")),
        };
        let blocks = map.iter().enumerate().map(|(b, &d)| Ok((d, size(b)?))).collect::<Result<Vec<_>>>()?;
        Ok(Self { shape: shape.to_vec(), levels, order, blocks })
    }

    /// Where each of the `stored` values belongs.
    fn places(&self, t: &Table, stored: usize) -> Result<Vec<usize>> {
        let mut places = Vec::with_capacity(stored);
        self.walk(t, 0, 0, &mut vec![0; self.levels.len()], &mut places, stored)?;
        if places.len() != stored {
            return Err(t.error("SparsityParameters", format!("{} places for {stored} values", places.len())));
        }
        Ok(places)
    }

    /// Visits the children of node `parent` of a level. Each visit uses up an entry of the file: the walk is as long as the file.
    fn walk(
        &self,
        t: &Table,
        depth: usize,
        parent: usize,
        at: &mut Vec<usize>,
        out: &mut Vec<usize>,
        stored: usize,
    ) -> Result<()> {
        let Some(level) = self.levels.get(depth) else {
            if parent != out.len() || parent >= stored {
                return Err(t.error("SparsityParameters", format!("value {parent} of {stored} is out of place")));
            }
            out.push(self.place(t, at)?);
            return Ok(());
        };
        let (children, indices) = match level {
            Level::Dense(size) => {
                let first = parent.checked_mul(*size).ok_or_else(|| t.error("dense_size", "overflows"))?;
                (first..first.saturating_add(*size), None)
            }
            Level::Compressed { segments, indices } => match segments.get(parent..).and_then(|s| s.get(..2)) {
                Some(&[lo, hi]) if lo <= hi && hi <= indices.len() => (lo..hi, Some(indices)),
                _ => {
                    return Err(
                        t.error("DimensionMetadata.array_segments", format!("segment {parent} is not inside the indices"))
                    );
                }
            },
        };
        let first = children.start;
        for child in children {
            at[depth] = indices.map_or(child - first, |indices| indices[child]);
            self.walk(t, depth + 1, child, at, out, stored)?;
        }
        Ok(())
    }

    /// The dense position of the element at these indices of all levels.
    fn place(&self, t: &Table, at: &[usize]) -> Result<usize> {
        let rank = self.shape.len();
        let mut index = vec![0usize; rank];
        for (&d, &i) in self.order.iter().zip(at) {
            if d < rank {
                index[d] = i;
            } else {
                let (dim, size) = self.blocks[d - rank];
                index[dim] = index[dim].saturating_mul(size).saturating_add(i);
            }
        }
        if let Some(d) = (0..rank).find(|&d| index[d] >= self.shape[d]) {
            let problem = format!("index {} of dimension {d}, which has {}", index[d], self.shape[d]);
            return Err(t.error("DimensionMetadata.array_indices", problem));
        }
        Ok(index.iter().zip(&self.shape).fold(0, |sum, (&i, &n)| sum * n + i))
    }
}

fn level(t: &Table) -> Result<Level> {
    match t.u8("DimensionMetadata.format", 0)? {
        0 => {
            let size = t.i32("DimensionMetadata.dense_size", 1, 0)?;
            let size =
                usize::try_from(size).map_err(|_| t.error("DimensionMetadata.dense_size", format!("{size} is negative")))?;
            Ok(Level::Dense(size))
        }
        1 => Ok(Level::Compressed {
            segments: index_vector(t, "DimensionMetadata.array_segments", 2)?,
            indices: index_vector(t, "DimensionMetadata.array_indices", 4)?,
        }),
        other => Err(t.error("DimensionMetadata.format", format!("{other}; known are 0 (dense) and 1 (sparse)"))),
    }
}

/// A union of vectors of 32, 16 or 8 bits; its type is field `id`, the table field `id + 1`.
fn index_vector(t: &Table, field: &str, id: usize) -> Result<Vec<usize>> {
    let kind = t.u8(field, id)?;
    let Some(holder) = t.table(field, id + 1)? else { return Err(t.error(field, "missing")) };
    let wide = |v: i32| usize::try_from(v).map_err(|_| holder.error(field, format!("{v} is negative")));
    match kind {
        1 => holder.i32s(field, 0)?.into_iter().map(wide).collect(),
        2 => {
            let pairs = holder.vector(field, 0, 2)?.bytes;
            Ok(pairs.chunks_exact(2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]]))).collect())
        }
        3 => Ok(holder.vector(field, 0, 1)?.bytes.iter().map(|&b| usize::from(b)).collect()),
        other => Err(t.error(field, format!("index type {other}; known are 1 to 3"))),
    }
}
