//! Operations on rows of transformers; their references are those of `cpu/norm.rs` and `cpu/reference.rs`.

use super::buffer::Buffer;
use super::device::{Device, Error};
use super::gemv::{Quantized, holds};
use crate::Activation;
use std::ffi::c_void;
use std::ptr::from_mut;

type Result<T> = std::result::Result<T, Error>;

/// Threads of a block.
const THREADS: usize = 256;

/// A layer norm's weights.
#[derive(Clone, Copy)]
pub struct LayerNorm<'a> {
    /// (k)
    pub gamma: &'a Buffer<f32>,
    /// (k)
    pub beta: &'a Buffer<f32>,
    /// Added to the variance.
    pub eps: f32,
}

/// Where rows in 8 bits go, if anywhere: codes and scales.
fn codes(to: Option<&mut Quantized>, rows: usize, k: usize) -> Result<(u64, u64)> {
    let Some(to) = to else { return Ok((0, 0)) };
    to.check(rows, k)?;
    Ok((to.q.pointer(), to.scale.pointer()))
}

/// `h = (x - mean) / sqrt(variance + eps) * gamma + beta` for `rows` rows of `gamma.len()` elements, and the same in 8 bits where
/// `quantized` is given.
///
/// # Errors
/// [`Error::Shape`], [`Error::Driver`], [`Error::Lost`].
pub fn layer_norm(
    device: &Device,
    rows: usize,
    x: &Buffer<f32>,
    norm: LayerNorm,
    h: &mut Buffer<f32>,
    quantized: Option<&mut Quantized>,
) -> Result<()> {
    let k = norm.gamma.len();
    holds("x", x, rows * k)?;
    holds("h", h, rows * k)?;
    holds("the norm's bias", norm.beta, k)?;
    let (mut q, mut scale) = codes(quantized, rows, k)?;
    let (mut x, mut gamma, mut beta) = (x.pointer(), norm.gamma.pointer(), norm.beta.pointer());
    let (mut eps, mut k, mut h) = (norm.eps, k as i32, h.pointer());
    let mut args: [*mut c_void; 8] = [
        from_mut(&mut x).cast(),
        from_mut(&mut gamma).cast(),
        from_mut(&mut beta).cast(),
        from_mut(&mut eps).cast(),
        from_mut(&mut k).cast(),
        from_mut(&mut h).cast(),
        from_mut(&mut q).cast(),
        from_mut(&mut scale).cast(),
    ];
    // SAFETY: the arguments are the kernel's; all buffers hold the rows.
    unsafe { device.launch("layer_norm", [rows, 1, 1], THREADS, 0, &mut args) }
}

/// `x = activation(x)`, or `activation(x) * up` where `up` is given, for `rows` rows of `k` elements, and the same in 8 bits where
/// `quantized` is given.
///
/// # Errors
/// As [`layer_norm`].
pub fn activate(
    device: &Device,
    (rows, k): (usize, usize),
    activation: Activation,
    x: &mut Buffer<f32>,
    up: Option<&Buffer<f32>>,
    quantized: Option<&mut Quantized>,
) -> Result<()> {
    holds("x", x, rows * k)?;
    if let Some(up) = up {
        holds("what is gated", up, rows * k)?;
    }
    let (mut q, mut scale) = codes(quantized, rows, k)?;
    let (mut x, mut up, mut kind, mut k) = (x.pointer(), up.map_or(0, Buffer::pointer), activation as i32, k as i32);
    let mut args: [*mut c_void; 6] = [
        from_mut(&mut x).cast(),
        from_mut(&mut up).cast(),
        from_mut(&mut kind).cast(),
        from_mut(&mut k).cast(),
        from_mut(&mut q).cast(),
        from_mut(&mut scale).cast(),
    ];
    // SAFETY: as above.
    unsafe { device.launch("activate", [rows, 1, 1], THREADS, 0, &mut args) }
}

/// Rows of three neighbouring frames, zero beyond the edges: what a convolution over time multiplies. x: (frames, channels); out:
/// (frames / stride rounded up, 3 channels), times outermost.
///
/// # Errors
/// As [`layer_norm`].
pub fn unfold(
    device: &Device,
    (frames, channels): (usize, usize),
    stride: usize,
    x: &Buffer<f32>,
    out: &mut Buffer<f32>,
) -> Result<()> {
    let rows = frames.div_ceil(stride.max(1));
    holds("x", x, frames * channels)?;
    holds("its neighbourhoods", out, rows * 3 * channels)?;
    let (mut x, mut frames, mut channels, mut stride, mut out) =
        (x.pointer(), frames as i32, channels as i32, stride as i32, out.pointer());
    let mut args: [*mut c_void; 5] = [
        from_mut(&mut x).cast(),
        from_mut(&mut frames).cast(),
        from_mut(&mut channels).cast(),
        from_mut(&mut stride).cast(),
        from_mut(&mut out).cast(),
    ];
    // SAFETY: as above.
    unsafe { device.launch("unfold", [rows, 1, 1], THREADS, 0, &mut args) }
}

/// Adds to each of `count` rows of `x`, (count, k), the row of `table`, (n, k), at its position. Positions outside the table take its
/// nearest row.
///
/// # Errors
/// As [`layer_norm`].
pub fn add_places(
    device: &Device,
    count: usize,
    positions: &Buffer<i32>,
    (table, n, k): (&Buffer<f32>, usize, usize),
    x: &mut Buffer<f32>,
) -> Result<()> {
    by_row("add_places", device, (count, positions), (table, n, k), x)
}

/// Rows of `x`, (n, k), in the order of `rows`, into `out`, (count, k). Rows outside `x` take its nearest.
///
/// # Errors
/// As [`layer_norm`].
pub fn gather(
    device: &Device,
    count: usize,
    rows: &Buffer<i32>,
    (x, n, k): (&Buffer<f32>, usize, usize),
    out: &mut Buffer<f32>,
) -> Result<()> {
    by_row("gather", device, (count, rows), (x, n, k), out)
}

/// Puts `rows` rows together whose columns were computed apart, into `out`, (rows, k). `x`: `parts` parts of (rows, width) elements; the
/// last one begins with rows of the columns that are left, (rows, k - (parts - 1) * width).
///
/// # Errors
/// As [`layer_norm`]; [`Error::Shape`] too for parts that do not cover the columns.
pub fn join(
    device: &Device,
    rows: usize,
    (x, parts, width): (&Buffer<f32>, usize, usize),
    k: usize,
    out: &mut Buffer<f32>,
) -> Result<()> {
    let wide = parts.saturating_mul(width);
    if k == 0 || k > wide {
        return Err(Error::Shape(format!("rows of {k} columns of {parts} parts of {width}")));
    }
    holds("the parts of rows", x, rows.saturating_mul(wide))?;
    holds("where rows go", out, rows * k)?;
    let (mut x, mut width, mut k, mut out) = (x.pointer(), width as i32, k as i32, out.pointer());
    let mut args: [*mut c_void; 4] =
        [from_mut(&mut x).cast(), from_mut(&mut width).cast(), from_mut(&mut k).cast(), from_mut(&mut out).cast()];
    // SAFETY: as above.
    unsafe { device.launch("join", [(k as usize).div_ceil(THREADS), rows, 1], THREADS, 0, &mut args) }
}

fn by_row(
    kernel: &'static str,
    device: &Device,
    (count, rows): (usize, &Buffer<i32>),
    (from, n, k): (&Buffer<f32>, usize, usize),
    to: &mut Buffer<f32>,
) -> Result<()> {
    holds("rows", rows, count)?;
    holds("what rows are taken of", from, n.max(1) * k)?;
    holds("where rows go", to, count * k)?;
    let (mut from, mut n, mut k, mut rows, mut to) = (from.pointer(), n as i32, k as i32, rows.pointer(), to.pointer());
    let mut args: [*mut c_void; 5] = [
        from_mut(&mut from).cast(),
        from_mut(&mut n).cast(),
        from_mut(&mut k).cast(),
        from_mut(&mut rows).cast(),
        from_mut(&mut to).cast(),
    ];
    // SAFETY: as above; rows are held within what they are taken of there.
    unsafe { device.launch(kernel, [count, 1, 1], THREADS, 0, &mut args) }
}
