//! Rotary embedding, keys and values to paged blocks, and attention over them; their references are those of `cpu/`.

use super::device::{Buffer, Device, Error};
use super::gemv::{Quantized, holds};
use crate::{KV_BLOCK, KvShape, KvType, RopeKind};
use half::f16;
use std::ffi::c_void;
use std::ptr::from_mut;

type Result<T> = std::result::Result<T, Error>;

/// Widths of heads that have a kernel.
const DIMS: [(usize, &str); 7] = [
    (16, "attend_16"),
    (32, "attend_32"),
    (64, "attend_64"),
    (80, "attend_80"),
    (96, "attend_96"),
    (128, "attend_128"),
    (256, "attend_256"),
];
/// Query heads that share a key head, at most.
const GROUP: usize = 16;

/// Keys and values of all layers in blocks of [`KV_BLOCK`] positions, in f16. Which block belongs to whom is the caller's accounting.
pub struct DeviceStore {
    data: Buffer<f16>,
    shape: KvShape,
    blocks: usize,
}

impl DeviceStore {
    /// Room for `blocks` blocks.
    ///
    /// # Errors
    /// [`Error::Shape`] for a kind or a width of heads that no kernel has, and those of [`Device::zeros`].
    pub fn new(device: &Device, shape: KvShape, blocks: usize) -> Result<Self> {
        Self::supports(&shape)?;
        let data = device.zeros(blocks.saturating_mul(Self::block_elements(&shape)))?;
        Ok(Self { data, shape, blocks })
    }

    /// Bytes of a block.
    pub fn block_bytes(shape: &KvShape) -> usize {
        Self::block_elements(shape) * size_of::<f16>()
    }

    fn block_elements(shape: &KvShape) -> usize {
        shape.layers * shape.kv_heads * Self::head_elements(shape)
    }

    fn head_elements(shape: &KvShape) -> usize {
        2 * KV_BLOCK * shape.head_dim
    }

    /// Blocks that it has room for.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// What it holds.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Copies block `from` over block `to`.
    ///
    /// # Errors
    /// [`Error::Shape`] when one of them is not there, [`Error::Driver`], [`Error::Lost`].
    pub fn copy(&mut self, from: u32, to: u32) -> Result<()> {
        let size = Self::block_elements(&self.shape);
        if from == to { Ok(()) } else { self.data.copy_within(from as usize * size, to as usize * size, size) }
    }

    /// Takes over what `other`, a smaller store of the same shape, holds.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape or a larger store, [`Error::Driver`], [`Error::Lost`].
    pub fn copy_from(&mut self, other: &Self) -> Result<()> {
        if self.shape != other.shape {
            return Err(Error::Shape(format!("{:?} into a store of {:?}", other.shape, self.shape)));
        }
        self.data.copy_from(&other.data)
    }

    /// Whether there is a kernel for keys and values of this shape.
    ///
    /// # Errors
    /// [`Error::Shape`] that says what there is.
    pub fn supports(shape: &KvShape) -> Result<()> {
        if shape.kind != KvType::F16 {
            return Err(Error::Shape(format!("keys and values in {:?}; on a GPU they are in F16", shape.kind)));
        }
        kernel(shape.head_dim).map(drop)
    }

    fn raw(&self, rows: &Rows, layer: usize) -> Result<RawStore> {
        if layer >= self.shape.layers {
            return Err(Error::Shape(format!("layer {layer} of a store of {}", self.shape.layers)));
        }
        Ok(RawStore {
            data: self.data.pointer(),
            tables: rows.tables.pointer(),
            table: (rows.tables.len() / rows.most().max(1)) as i32,
            block: Self::block_elements(&self.shape) as u64,
            head: Self::head_elements(&self.shape) as u64,
            layer: layer as i32,
            kv_heads: self.shape.kv_heads as i32,
            head_dim: self.shape.head_dim as i32,
        })
    }
}

fn kernel(head_dim: usize) -> Result<&'static str> {
    let found = DIMS.into_iter().find(|d| d.0 == head_dim).map(|d| d.1);
    found.ok_or_else(|| Error::Shape(format!("heads of {head_dim} elements; {:?} have a kernel", DIMS.map(|d| d.0))))
}

/// What the rows of a pass are, on the device: a graph reads them anew at every replay.
pub struct Rows {
    /// (3, rows): tokens; positions in the sequence, negative for a row that is empty; rows of the tables of cosines and sines.
    pub inputs: Buffer<i32>,
    /// (rows, longest) the blocks of each row's sequence. **Not checked on the device**: each must be a block of the store.
    pub tables: Buffer<i32>,
}

impl Rows {
    /// Room for `rows` rows of sequences of up to `blocks` blocks.
    ///
    /// # Errors
    /// Those of [`Device::zeros`].
    pub fn new(device: &Device, rows: usize, blocks: usize) -> Result<Self> {
        Ok(Self {
            inputs: device.upload(&[vec![0; rows], vec![-1; rows], vec![0; rows]].concat())?,
            tables: device.zeros(rows * blocks)?,
        })
    }

    /// Most rows.
    fn most(&self) -> usize {
        self.inputs.len() / 3
    }

    fn positions(&self) -> u64 {
        self.inputs.pointer() + (self.most() * size_of::<i32>()) as u64
    }

    fn turns(&self) -> u64 {
        self.positions() + (self.most() * size_of::<i32>()) as u64
    }

    fn check(&self, rows: usize) -> Result<()> {
        if rows <= self.most() { Ok(()) } else { Err(Error::Shape(format!("{rows} rows of at most {}", self.most()))) }
    }
}

#[repr(C)]
struct RawStore {
    data: u64,
    tables: u64,
    table: i32,
    block: u64,
    head: u64,
    layer: i32,
    kv_heads: i32,
    head_dim: i32,
}

#[repr(C)]
struct RawRope {
    q: u64,
    k: u64,
    v: u64,
    q_norm: u64,
    k_norm: u64,
    cos: u64,
    sin: u64,
    positions: u64,
    turns: u64,
    heads: i32,
    rotary: i32,
    interleaved: i32,
    eps: f32,
    store: RawStore,
}

#[repr(C)]
struct RawAttend {
    q: u64,
    positions: u64,
    heads: i32,
    window: i32,
    scale: f32,
    partial: u64,
    counters: u64,
    out: u64,
    out_q: u64,
    out_scale: u64,
    store: RawStore,
}

/// Norms of the heads of query and key, (head_dim) each.
pub struct HeadNorms<'a> {
    /// Of queries.
    pub q: Option<&'a Buffer<f32>>,
    /// Of keys.
    pub k: Option<&'a Buffer<f32>>,
    /// Added to the mean square.
    pub eps: f32,
}

/// What [`rope_append`] rotates and stores.
pub struct RopeAppend<'a> {
    /// (rows, heads, head_dim), rotated in place.
    pub q: &'a mut Buffer<f32>,
    /// (rows, kv_heads, head_dim)
    pub k: &'a Buffer<f32>,
    /// As `k`.
    pub v: &'a Buffer<f32>,
    /// Before the rotation.
    pub norms: HeadNorms<'a>,
    /// (turns, rotary / 2) cosines and sines.
    pub turns: (&'a Buffer<f32>, &'a Buffer<f32>),
    /// Elements of a head that are rotated.
    pub rotary: usize,
    /// Which of them turn together.
    pub kind: RopeKind,
    /// Query heads.
    pub heads: usize,
}

/// Norms of the heads, rotary embedding, and keys and values of `count` rows to a layer of the store, in one launch.
///
/// # Errors
/// [`Error::Shape`], [`Error::Driver`], [`Error::Lost`].
pub fn rope_append(
    device: &Device,
    count: usize,
    rows: &Rows,
    a: RopeAppend,
    (store, layer): (&mut DeviceStore, usize),
) -> Result<()> {
    let KvShape { kv_heads, head_dim, .. } = store.shape;
    rows.check(count)?;
    holds("queries", a.q, count * a.heads * head_dim)?;
    holds("keys", a.k, count * kv_heads * head_dim)?;
    holds("values", a.v, count * kv_heads * head_dim)?;
    for norm in [a.norms.q, a.norms.k].into_iter().flatten() {
        holds("a norm of heads", norm, head_dim)?;
    }
    if a.rotary > head_dim || !a.rotary.is_multiple_of(2) || head_dim > 512 {
        return Err(Error::Shape(format!("{} of {head_dim} elements rotated; an even number, heads up to 512", a.rotary)));
    }
    let mut raw = RawRope {
        q: a.q.pointer(),
        k: a.k.pointer(),
        v: a.v.pointer(),
        q_norm: a.norms.q.map_or(0, Buffer::pointer),
        k_norm: a.norms.k.map_or(0, Buffer::pointer),
        cos: a.turns.0.pointer(),
        sin: a.turns.1.pointer(),
        positions: rows.positions(),
        turns: rows.turns(),
        heads: a.heads as i32,
        rotary: a.rotary as i32,
        interleaved: (a.kind == RopeKind::Interleaved).into(),
        eps: a.norms.eps,
        store: store.raw(rows, layer)?,
    };
    let mut args: [*mut c_void; 1] = [from_mut(&mut raw).cast()];
    // SAFETY: the structure is the kernel's; its buffers were measured, positions and tables are the caller's accounting.
    unsafe { device.launch("rope_append", [a.heads + kv_heads, count, 1], 128, 0, &mut args) }
}

/// What the blocks of threads that share a row's attention leave for each other.
pub struct Counters {
    partial: Buffer<f32>,
    counters: Buffer<i32>,
    splits: usize,
}

impl Counters {
    /// For `rows` rows of a model; `splits`: blocks of threads that share a head's context.
    ///
    /// # Errors
    /// Those of [`Device::zeros`].
    pub fn new(device: &Device, rows: usize, heads: usize, shape: &KvShape, splits: usize) -> Result<Self> {
        let splits = splits.max(1);
        Ok(Self {
            partial: device.zeros(rows * heads * splits * (shape.head_dim + 2))?,
            counters: device.zeros(rows * shape.kv_heads)?,
            splits,
        })
    }
}

/// What [`attend`] takes and gives.
pub struct Attend<'a> {
    /// (rows, heads, head_dim), rotated.
    pub q: &'a Buffer<f32>,
    /// Query heads.
    pub heads: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// Positions that a row sees at most, its own among them.
    pub window: Option<usize>,
    /// (rows, heads, head_dim)
    pub out: &'a mut Buffer<f32>,
    /// The same in 8 bits, where head_dim is a multiple of 32.
    pub quantized: &'a mut Quantized,
}

/// Attention of `count` rows over the positions of their sequences up to their own, in one launch.
///
/// # Errors
/// [`Error::Shape`], [`Error::Driver`], [`Error::Lost`].
pub fn attend(
    device: &Device,
    count: usize,
    rows: &Rows,
    a: Attend,
    (store, layer): (&DeviceStore, usize),
    counters: &mut Counters,
) -> Result<()> {
    let KvShape { kv_heads, head_dim, .. } = store.shape;
    let (group, size) = (a.heads / kv_heads.max(1), count * a.heads * head_dim);
    rows.check(count)?;
    if group == 0 || group > GROUP || group * kv_heads != a.heads {
        return Err(Error::Shape(format!("{} query heads on {kv_heads} key heads; 1 to {GROUP} on each", a.heads)));
    }
    holds("queries", a.q, size)?;
    holds("the result", a.out, size)?;
    if head_dim.is_multiple_of(32) {
        a.quantized.check(count, a.heads * head_dim)?;
    }
    holds("parts of attention", &counters.partial, count * a.heads * counters.splits * (head_dim + 2))?;
    holds("counters", &counters.counters, count * kv_heads)?;
    let mut raw = RawAttend {
        q: a.q.pointer(),
        positions: rows.positions(),
        heads: a.heads as i32,
        window: a.window.map_or(0, |w| w.min(i32::MAX as usize) as i32),
        scale: a.scale,
        partial: counters.partial.pointer(),
        counters: counters.counters.pointer(),
        out: a.out.pointer(),
        out_q: a.quantized.q.pointer(),
        out_scale: a.quantized.scale.pointer(),
        store: store.raw(rows, layer)?,
    };
    let shared = 4 * group * (head_dim + KV_BLOCK + 4 * head_dim);
    let mut args: [*mut c_void; 1] = [from_mut(&mut raw).cast()];
    // SAFETY: as above.
    unsafe { device.launch(kernel(head_dim)?, [counters.splits, kv_heads, count], KV_BLOCK, shared, &mut args) }
}
