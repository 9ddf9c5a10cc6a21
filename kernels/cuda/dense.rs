//! Attention over activations; its reference is that of `cpu/attention.rs`.

use super::attention::{FEW_ROWS, FLASH_ROWS, FLASH_THREADS, group};
use super::buffer::Buffer;
use super::device::{Device, Error, Gap};
use super::gemv::holds;
use std::ffi::c_void;
use std::ptr::from_mut;

type Result<T> = std::result::Result<T, Error>;

/// Widths of heads that have a kernel; others take the next one, with zeros behind them.
const DIMS: [(usize, &str, &str); 5] = [
    (32, "attend_dense_32", "attend_few_32"),
    (64, "attend_dense_64", "attend_few_64"),
    (80, "attend_dense_80", "attend_few_80"),
    (96, "attend_dense_96", "attend_few_96"),
    (128, "attend_dense_128", "attend_few_128"),
];

/// Where the rows of queries, keys or values lie: slices of a joined product can be passed as they are.
#[derive(Clone, Copy)]
pub struct Strided<'a> {
    /// Floats that hold them.
    pub data: &'a Buffer<f32>,
    /// Elements before the first.
    pub offset: usize,
    /// Elements between two tokens.
    pub stride: usize,
    /// Elements between two items of the batch.
    pub item: usize,
}

/// Attention of encoders and cross attention, the twin of [`crate::Dense`] for a batch of items. Offsets and strides are multiples of 4.
pub struct DenseAttention<'a> {
    /// (batch, q_len, heads, head_dim)
    pub q: Strided<'a>,
    /// (batch, kv_len, kv_heads, head_dim)
    pub k: Strided<'a>,
    /// As `k`.
    pub v: Strided<'a>,
    /// (batch) keys of each item, at most `kv_len`, read when it runs: a graph can be replayed while they grow. None: `kv_len`.
    pub lengths: Option<&'a Buffer<i32>>,
    /// Items.
    pub batch: usize,
    /// Tokens that ask.
    pub q_len: usize,
    /// Tokens that are asked, at most.
    pub kv_len: usize,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// A multiple of 8, 128 at most.
    pub head_dim: usize,
    /// Usually 1 / sqrt(head_dim).
    pub scale: f32,
    /// Query i then sees the keys up to i + the item's keys - q_len, which are not negative.
    pub causal: bool,
    /// (batch, q_len, heads, head_dim)
    pub out: &'a mut Buffer<f32>,
}

#[repr(C)]
struct Raw {
    q: u64,
    k: u64,
    v: u64,
    q_stride: u64,
    k_stride: u64,
    v_stride: u64,
    q_item: u64,
    k_item: u64,
    v_item: u64,
    lengths: u64,
    q_len: i32,
    kv_len: i32,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
    causal: i32,
    scale: f32,
    gap: Gap,
    out: u64,
}

/// Attention over activations, in one launch on tensor cores: queries, keys, values and weights are rounded to f16 on the way and sums are
/// in f32, so that a result is within 2e-3 of the largest value that it averages. An item without keys gives zeros.
///
/// # Errors
/// [`Error::Shape`], [`Error::Driver`], [`Error::Lost`].
pub fn attend_dense(device: &Device, a: DenseAttention) -> Result<()> {
    let group = group(a.heads, a.kv_heads)?;
    let found = DIMS.into_iter().find(|d| d.0 >= a.head_dim);
    let Some((dim, many, few)) = found.filter(|_| a.head_dim > 0 && a.head_dim.is_multiple_of(8)) else {
        return Err(Error::Shape(format!("heads of {} elements; multiples of 8 up to 128 have a kernel", a.head_dim)));
    };
    if a.causal && a.lengths.is_none() && a.q_len > a.kv_len {
        return Err(Error::Shape(format!("{} queries that are the last of {} tokens", a.q_len, a.kv_len)));
    }
    if [a.batch, a.q_len, a.kv_len, a.heads].iter().any(|&n| n == 0 || n > i32::MAX as usize) {
        let problem = format!("{} items, {} queries, {} keys, {} heads; 1 to 2^31 - 1", a.batch, a.q_len, a.kv_len, a.heads);
        return Err(Error::Shape(problem));
    }
    let (q_width, kv_width) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
    check("queries", &a.q, (a.batch, a.q_len, q_width))?;
    check("keys", &a.k, (a.batch, a.kv_len, kv_width))?;
    check("values", &a.v, (a.batch, a.kv_len, kv_width))?;
    holds("the result", a.out, a.batch.saturating_mul(a.q_len).saturating_mul(q_width))?;
    a.lengths.map_or(Ok(()), |lengths| holds("lengths", lengths, a.batch))?;
    let at = |s: &Strided| s.data.pointer() + (s.offset * size_of::<f32>()) as u64;
    let mut raw = Raw {
        gap: 0,
        q: at(&a.q),
        k: at(&a.k),
        v: at(&a.v),
        q_stride: a.q.stride as u64,
        k_stride: a.k.stride as u64,
        v_stride: a.v.stride as u64,
        q_item: a.q.item as u64,
        k_item: a.k.item as u64,
        v_item: a.v.item as u64,
        lengths: a.lengths.map_or(0, Buffer::pointer),
        q_len: a.q_len as i32,
        kv_len: a.kv_len as i32,
        heads: a.heads as i32,
        kv_heads: a.kv_heads as i32,
        head_dim: a.head_dim as i32,
        causal: a.causal.into(),
        scale: a.scale,
        out: a.out.pointer(),
    };
    let mut args: [*mut c_void; 1] = [from_mut(&mut raw).cast()];
    // as the kernels divide it: queries, and later what eight warps have of eight rows; keys and values in f16
    let (name, each, threads, shared) = if a.q_len <= FEW_ROWS && group <= FEW_ROWS {
        (few, FEW_ROWS / group, 256, (1024 * dim.div_ceil(32)).max(4 * 8 * FEW_ROWS * (dim + 2)))
    } else {
        (many, FLASH_ROWS / group, FLASH_THREADS, 4 * 64 * (dim + 8))
    };
    // SAFETY: the structure is the kernel's; its buffers were measured, and lengths are held within the keys there.
    unsafe { device.launch(name, [a.q_len.div_ceil(each), a.kv_heads, a.batch], threads, shared, &mut args) }
}

/// That all rows lie in the buffer, at places that 16 bytes can be read from.
fn check(what: &str, s: &Strided, (batch, len, width): (usize, usize, usize)) -> Result<()> {
    if [s.offset, s.stride, s.item].iter().any(|n| !n.is_multiple_of(4)) {
        let problem = format!("{what}: offset {}, stride {}, item {}; multiples of 4", s.offset, s.stride, s.item);
        return Err(Error::Shape(problem));
    }
    let last = |n: usize, by: usize| (n - 1).saturating_mul(by);
    holds(what, s.data, [s.offset, last(batch, s.item), last(len, s.stride), width].into_iter().fold(0, usize::saturating_add))
}
