//! Operations on rows; their references are those of `cpu/norm.rs`.

use super::buffer::Buffer;
use super::device::{Device, Error};
use super::gemv::{Quantized, holds};
use std::ffi::c_void;
use std::ptr::from_mut;

type Result<T> = std::result::Result<T, Error>;

/// Threads of a block.
const THREADS: usize = 256;

/// `h = x / sqrt(mean(x^2) + eps) * weight` for `rows` rows of `weight.len()` elements, and the same in 8 bits where `quantized` is given.
///
/// # Errors
/// [`Error::Shape`], [`Error::Driver`], [`Error::Lost`].
pub fn rms_norm(
    device: &Device,
    rows: usize,
    x: &Buffer<f32>,
    (weight, eps): (&Buffer<f32>, f32),
    h: &mut Buffer<f32>,
    quantized: Option<&mut Quantized>,
) -> Result<()> {
    let k = weight.len();
    holds("x", x, rows * k)?;
    holds("h", h, rows * k)?;
    let (mut q, mut scale) = (0, 0);
    if let Some(to) = quantized {
        to.check(rows, k)?;
        (q, scale) = (to.q.pointer(), to.scale.pointer());
    }
    let (mut x, mut weight, mut eps, mut k, mut h) = (x.pointer(), weight.pointer(), eps, k as i32, h.pointer());
    let mut args: [*mut c_void; 7] = [
        from_mut(&mut x).cast(),
        from_mut(&mut weight).cast(),
        from_mut(&mut eps).cast(),
        from_mut(&mut k).cast(),
        from_mut(&mut h).cast(),
        from_mut(&mut q).cast(),
        from_mut(&mut scale).cast(),
    ];
    // SAFETY: the arguments are the kernel's; all buffers hold the rows.
    unsafe { device.launch("rms_norm", [rows, 1, 1], THREADS, 0, &mut args) }
}

/// `residual += x / sqrt(mean(x^2) + eps) * weight` for `rows` rows.
///
/// # Errors
/// As [`rms_norm`].
pub fn add_norm(
    device: &Device,
    rows: usize,
    x: &Buffer<f32>,
    (weight, eps): (&Buffer<f32>, f32),
    residual: &mut Buffer<f32>,
) -> Result<()> {
    let k = weight.len();
    holds("x", x, rows * k)?;
    holds("the residual stream", residual, rows * k)?;
    let (mut x, mut weight, mut eps, mut k, mut residual) = (x.pointer(), weight.pointer(), eps, k as i32, residual.pointer());
    let mut args: [*mut c_void; 5] = [
        from_mut(&mut x).cast(),
        from_mut(&mut weight).cast(),
        from_mut(&mut eps).cast(),
        from_mut(&mut k).cast(),
        from_mut(&mut residual).cast(),
    ];
    // SAFETY: as above.
    unsafe { device.launch("add_norm", [rows, 1, 1], THREADS, 0, &mut args) }
}

/// `rows` rows of `k` elements, a multiple of 32, in 8 bits.
///
/// # Errors
/// As [`rms_norm`].
pub fn quantize(device: &Device, (rows, k): (usize, usize), x: &Buffer<f32>, to: &mut Quantized) -> Result<()> {
    holds("x", x, rows * k)?;
    to.check(rows, k)?;
    let (mut x, mut k, mut q, mut scale) = (x.pointer(), k as i32, to.q.pointer(), to.scale.pointer());
    let mut args: [*mut c_void; 4] =
        [from_mut(&mut x).cast(), from_mut(&mut k).cast(), from_mut(&mut q).cast(), from_mut(&mut scale).cast()];
    // SAFETY: as above.
    unsafe { device.launch("quantize", [rows, 1, 1], THREADS, 0, &mut args) }
}

/// `x = cap * tanh(x / cap)` for the first `n` elements.
///
/// # Errors
/// As [`rms_norm`].
pub fn softcap(device: &Device, x: &mut Buffer<f32>, n: usize, cap: f32) -> Result<()> {
    holds("x", x, n)?;
    let blocks = n.div_ceil(THREADS).clamp(1, 4 * device.info().multiprocessors);
    let (mut x, mut n, mut cap) = (x.pointer(), n as i32, cap);
    let mut args: [*mut c_void; 3] = [from_mut(&mut x).cast(), from_mut(&mut n).cast(), from_mut(&mut cap).cast()];
    // SAFETY: as above.
    unsafe { device.launch("softcap", [blocks, 1, 1], THREADS, 0, &mut args) }
}
