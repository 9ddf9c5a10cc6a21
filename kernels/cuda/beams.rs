//! Keys and values of sequences decoded side by side, and the attention of a few rows over them; the references are those of
//! `cpu/reference.rs`.

use super::buffer::Buffer;
use super::device::{Device, Error, Gap};
use super::gemv::{Quantized, holds};
use half::f16;
use std::ops::Range;
use std::ptr::from_mut;

type Result<T> = std::result::Result<T, Error>;

/// Threads of a block.
const THREADS: usize = 256;
/// Largest width of a head.
const MOST: usize = 128;

/// Keys and values of several sequences in half precision: (lines, capacity, heads, head_dim) each.
pub struct Beams {
    keys: Buffer<f16>,
    values: Buffer<f16>,
    shape: BeamsShape,
}

/// How much a [`Beams`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeamsShape {
    /// Sequences that it has room for.
    pub lines: usize,
    /// Positions of each.
    pub capacity: usize,
    /// Heads of keys and values.
    pub heads: usize,
    /// Elements of each, a multiple of 8 and 128 at most.
    pub head_dim: usize,
}

impl BeamsShape {
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Refuses heads that no kernel has.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn check(&self) -> Result<()> {
        match self.head_dim.is_multiple_of(8) && (1..=MOST).contains(&self.head_dim) {
            true => Ok(()),
            false => {
                Err(Error::Shape(format!("heads of {} elements; multiples of 8 up to {MOST} run on a GPU", self.head_dim)))
            }
        }
    }
}

/// Whose tokens rows of activations are.
#[derive(Clone, Copy)]
pub struct BeamRows<'a> {
    /// (rows): of each row its sequence.
    pub sequences: &'a Buffer<i32>,
    /// (rows): of each row its position in the sequence.
    pub positions: &'a Buffer<i32>,
    /// (lines, capacity): of each sequence the line in which each of its positions lies.
    pub origins: &'a Buffer<i32>,
}

/// Attention of a few rows.
pub struct BeamsAttend<'a> {
    /// Queries: (rows, stride), heads first.
    pub q: (&'a Buffer<f32>, usize),
    /// Factor of the scores.
    pub scale: f32,
    /// (rows, heads, head_dim)
    pub out: &'a mut Buffer<f32>,
    /// The same in 8 bits.
    pub quantized: Option<&'a mut Quantized>,
    /// The weights of some heads, where all rows see all of line 0.
    pub probe: Option<BeamsProbe<'a>>,
}

/// Takes down what some heads attend to.
pub struct BeamsProbe<'a> {
    /// (heads): which of the probes a head is; negative: none.
    pub places: &'a Buffer<i32>,
    /// How many there are.
    pub count: usize,
    /// (count, rows, capacity)
    pub weights: &'a mut Buffer<f32>,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RawBeams {
    keys: u64,
    values: u64,
    sequences: u64,
    positions: u64,
    origins: u64,
    lines: i32,
    capacity: i32,
    heads: i32,
    head_dim: i32,
}

#[repr(C)]
struct RawAppend {
    rows: u64,
    stride: i32,
    key: i32,
    value: i32,
    gap: Gap,
    beams: RawBeams,
}

#[repr(C)]
struct RawAttend {
    q: u64,
    stride: i32,
    scale: f32,
    out: u64,
    out_q: u64,
    out_scale: u64,
    places: u64,
    probes: i32,
    gap: Gap,
    weights: u64,
    beams: RawBeams,
}

impl Beams {
    /// Room for keys and values.
    ///
    /// # Errors
    /// [`Error::Shape`] for heads that no kernel has, and those of [`Device::zeros`].
    pub fn new(device: &Device, shape: BeamsShape) -> Result<Self> {
        shape.check()?;
        let len = shape.lines.checked_mul(shape.capacity).and_then(|n| n.checked_mul(shape.width()));
        let free = device.free()?;
        let len = len.ok_or(Error::OutOfMemory { gpu: device.ordinal(), wanted: usize::MAX, free })?;
        Ok(Self { keys: device.zeros(len)?, values: device.zeros(len)?, shape })
    }

    /// What it holds.
    pub fn shape(&self) -> &BeamsShape {
        &self.shape
    }

    fn raw(&self, rows: Option<&BeamRows>, count: usize) -> Result<RawBeams> {
        let BeamsShape { lines, capacity, heads, head_dim } = self.shape;
        let mut raw = RawBeams {
            keys: self.keys.pointer(),
            values: self.values.pointer(),
            sequences: 0,
            positions: 0,
            origins: 0,
            lines: lines as i32,
            capacity: capacity as i32,
            heads: heads as i32,
            head_dim: head_dim as i32,
        };
        if let Some(BeamRows { sequences, positions, origins }) = rows {
            holds("sequences of rows", sequences, count)?;
            holds("positions of rows", positions, count)?;
            holds("origins of positions", origins, lines * capacity)?;
            (raw.sequences, raw.positions, raw.origins) = (sequences.pointer(), positions.pointer(), origins.pointer());
        }
        Ok(raw)
    }

    /// Takes the keys and values of `count` rows out of `from`, (rows, stride), where they begin at `key` and `value` of each row.
    /// Without `rows`: row i is position i of line 0.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Driver`], [`Error::Lost`].
    pub fn append(
        &mut self,
        device: &Device,
        (count, rows): (usize, Option<&BeamRows>),
        (from, stride): (&Buffer<f32>, usize),
        [key, value]: [usize; 2],
    ) -> Result<()> {
        holds("keys and values", from, count * stride)?;
        if key.max(value) + self.shape.width() > stride {
            return Err(Error::Shape(format!("keys at {key}, values at {value} of rows of {stride} elements")));
        }
        if rows.is_none() && count > self.shape.capacity {
            return Err(Error::Shape(format!("{count} positions; there is room for {}", self.shape.capacity)));
        }
        let mut raw = RawAppend {
            gap: 0,
            rows: from.pointer(),
            stride: stride as i32,
            key: key as i32,
            value: value as i32,
            beams: self.raw(rows, count)?,
        };
        // SAFETY: the structure is the kernel's, and the buffers were measured; rows are held within them there.
        unsafe { device.launch("beams_append", [count, 1, 1], THREADS, 0, &mut [from_mut(&mut raw).cast()]) }
    }

    /// Attention of neighbouring rows, each over its sequence up to its own position; without `rows`, over all of line 0.
    ///
    /// # Errors
    /// As [`Beams::append`].
    pub fn attend(&self, device: &Device, range: Range<usize>, rows: Option<&BeamRows>, a: BeamsAttend) -> Result<()> {
        let (BeamsShape { capacity, heads, head_dim, .. }, width) = (self.shape, self.shape.width());
        let (q, stride) = a.q;
        holds("queries", q, range.end * stride)?;
        holds("the attention", a.out, range.end * width)?;
        if stride < width || rows.is_some() && (range.start > 0 || a.probe.is_some()) {
            let seen = format!("queries of {stride} elements for {heads} heads of {head_dim}, rows {range:?}");
            return Err(Error::Shape(seen));
        }
        let from = |pointer: u64, elements: usize, size: usize| pointer + (range.start * elements * size) as u64;
        let mut raw = RawAttend {
            gap: 0,
            q: from(q.pointer(), stride, size_of::<f32>()),
            stride: stride as i32,
            scale: a.scale,
            out: from(a.out.pointer(), width, size_of::<f32>()),
            out_q: 0,
            out_scale: 0,
            places: 0,
            probes: 0,
            weights: 0,
            beams: self.raw(rows, range.len())?,
        };
        if let Some(to) = a.quantized {
            to.check(range.end, width)?;
            if !head_dim.is_multiple_of(32) {
                return Err(Error::Shape(format!("heads of {head_dim} elements in 8 bits; they come in 32s")));
            }
            raw.out_q = from(to.q.pointer(), width, 1);
            raw.out_scale = from(to.scale.pointer(), width / 32, size_of::<[f32; 2]>());
        }
        if let Some(BeamsProbe { places, count, weights }) = a.probe {
            holds("places of heads", places, heads)?;
            holds("weights of heads", weights, count * range.len() * capacity)?;
            (raw.places, raw.probes, raw.weights) = (places.pointer(), count as i32, weights.pointer());
        }
        let shared = capacity * size_of::<f32>();
        // SAFETY: as above; the places of heads are held within the weights, too.
        unsafe { device.launch("beams_attend", [heads, range.len(), 1], THREADS, shared, &mut [from_mut(&mut raw).cast()]) }
    }
}
