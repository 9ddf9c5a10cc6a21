//! Rotary embedding, keys and values to paged blocks, and attention over them; their references are those of `cpu/`.

use super::buffer::Buffer;
use super::device::{Device, Error, Gap};
use super::gemv::{Quantized, holds};
use super::store::{DeviceStore, RawStore, Rows};
use crate::cpu::kv::SUB;
use crate::{KV_BLOCK, KvShape, KvType, RopeKind};
use std::ffi::c_void;
use std::ptr::from_mut;

type Result<T> = std::result::Result<T, Error>;

/// Query heads that share a key head, at most.
const GROUP: usize = 16;
/// Threads of a block where many rows are attended.
pub(super) const FLASH_THREADS: usize = 128;
/// Rows (a token and one of the query heads that share a key head) of such a block.
pub(super) const FLASH_ROWS: usize = 64;
/// Rows of a block whose warps share the keys instead.
pub(super) const FEW_ROWS: usize = 8;

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
    gap: Gap,
    partial: u64,
    counters: u64,
    out: u64,
    out_q: u64,
    out_scale: u64,
    store: RawStore,
}

#[repr(C)]
struct RawAttendRows {
    q: u64,
    positions: u64,
    spans: u64,
    sequences: i32,
    rows: i32,
    heads: i32,
    window: i32,
    scale: f32,
    gap: Gap,
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
    let KvShape { kv_heads, head_dim, .. } = *store.shape();
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
            counters: device.zeros(rows * heads)?,
            splits,
        })
    }
}

/// What [`attend`] and [`attend_rows`] take and give.
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

/// Query heads on each key head.
pub(super) fn group(heads: usize, kv_heads: usize) -> Result<usize> {
    match heads / kv_heads.max(1) {
        group @ 1..=GROUP if group * kv_heads == heads => Ok(group),
        _ => Err(Error::Shape(format!("{heads} query heads on {kv_heads} key heads; 1 to {GROUP} on each"))),
    }
}

impl Attend<'_> {
    fn check(&self, count: usize, rows: &Rows, head_dim: usize) -> Result<()> {
        let width = self.heads * head_dim;
        rows.check(count)?;
        holds("queries", self.q, count * width)?;
        holds("the result", self.out, count * width)?;
        if head_dim.is_multiple_of(32) { self.quantized.check(count, width) } else { Ok(()) }
    }

    fn window(&self) -> i32 {
        self.window.map_or(0, |w| w.min(i32::MAX as usize) as i32)
    }
}

/// Attention of `count` rows over the positions of their sequences up to their own, in one launch: decode. Each row reads all keys that it
/// sees for itself, on tensor cores; queries and weights keep 22 bits, so that a result is within 2e-5 of the largest value that it
/// averages over f16, and within 1e-3 over q8_0, whose elements are rounded to f16.
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
    let KvShape { kv_heads, head_dim, .. } = *store.shape();
    let group = group(a.heads, kv_heads)?;
    a.check(count, rows, head_dim)?;
    holds("parts of attention", &counters.partial, count * a.heads * counters.splits * (head_dim + 2))?;
    let eights = kv_heads * group.div_ceil(FEW_ROWS);
    holds("counters", &counters.counters, count * eights)?;
    let mut raw = RawAttend {
        gap: 0,
        q: a.q.pointer(),
        positions: rows.positions(),
        heads: a.heads as i32,
        window: a.window(),
        scale: a.scale,
        partial: counters.partial.pointer(),
        counters: counters.counters.pointer(),
        out: a.out.pointer(),
        out_q: a.quantized.q.pointer(),
        out_scale: a.quantized.scale.pointer(),
        store: store.raw(rows, layer)?,
    };
    // queries, and later what four warps have of eight rows
    let shared = (1024 * head_dim.div_ceil(32)).max(4 * 4 * FEW_ROWS * (head_dim + 2));
    let mut args: [*mut c_void; 1] = [from_mut(&mut raw).cast()];
    let (kernels, kind) = store.kernels()?;
    // SAFETY: as above.
    unsafe { device.launch(kernels.attend[kind], [counters.splits, eights, count], KV_BLOCK, shared, &mut args) }
}

/// Attention of the rows of all spans among the first `count` rows, in one launch: prefill. Rows of a sequence read its keys together, on
/// tensor cores; queries, weights, and keys and values that lie in 8 bits, are rounded to f16, so that a result is within 2e-3 of the
/// largest value that it averages. Rows in no span, and empty ones, are left as they are.
///
/// # Errors
/// [`Error::Shape`], [`Error::Driver`], [`Error::Lost`].
pub fn attend_rows(device: &Device, count: usize, rows: &Rows, a: Attend, (store, layer): (&DeviceStore, usize)) -> Result<()> {
    let KvShape { kv_heads, head_dim, .. } = *store.shape();
    let group = group(a.heads, kv_heads)?;
    a.check(count, rows, head_dim)?;
    let mut raw = RawAttendRows {
        gap: 0,
        q: a.q.pointer(),
        positions: rows.positions(),
        spans: rows.spans.pointer(),
        sequences: rows.sequences() as i32,
        rows: count as i32,
        heads: a.heads as i32,
        window: a.window(),
        scale: a.scale,
        out: a.out.pointer(),
        out_q: a.quantized.q.pointer(),
        out_scale: a.quantized.scale.pointer(),
        store: store.raw(rows, layer)?,
    };
    let mut args: [*mut c_void; 1] = [from_mut(&mut raw).cast()];
    // every sequence may end within a tile
    let tiles = count.div_ceil(FLASH_ROWS / group) + rows.sequences();
    let (kernels, kind) = store.kernels()?;
    // SAFETY: as above; spans are held within the rows there.
    unsafe { device.launch(kernels.rows[kind], [tiles, kv_heads, 1], FLASH_THREADS, flash_bytes(store.shape()), &mut args) }
}

/// Shared memory of a block, as attention_rows.cu divides it: queries that are not in registers, keys, values, and these in 8 bits.
fn flash_bytes(shape: &KvShape) -> usize {
    let (dim, bytes) = (shape.head_dim, shape.kind == KvType::Q8_0);
    // two blocks of threads are to fit into the 100 KB of a multiprocessor
    let keys = if dim > if bytes { 96 } else { 128 } { 32 } else { 64 };
    let queries = if dim > 128 { FLASH_ROWS * (dim + 8) * 2 } else { 0 };
    let staged = if bytes { 2 * keys * (dim + 2 * dim.div_ceil(SUB)) } else { 0 };
    queries + 2 * keys * (2 * dim + 8) + staged
}
