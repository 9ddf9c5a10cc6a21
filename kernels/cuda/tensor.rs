//! The other layers of convolutional networks; their references are those of `cpu/conv_reference.rs` and the plain loops of
//! `cpu/elementwise.rs` and `cpu/movement.rs`.

use super::device::{Device, Error};
use super::picture::{DeviceFinish, Operands, RawTail, RawWindow, Result, THREADS, arg};
use crate::cpu::conv::Window;
use crate::cpu::elementwise::{Binary, Broadcast, Fold, Unary};
use crate::cpu::movement::{RANK, Walk};
use crate::cpu::pooling::Reduce;
use crate::cpu::resize::Centres;
use std::ffi::c_void;

/// One thread for each of `n` elements. `args` are to be made in the call itself: what they point at lives that long.
fn each(device: &Device, name: &'static str, n: usize, args: &mut [*mut c_void]) -> Result<()> {
    // SAFETY: the callers below give each kernel its own arguments, and have measured what these point at.
    unsafe { device.launch(name, [n.div_ceil(THREADS), 1, 1], THREADS, 0, args) }
}

/// One warp for each of `n` results.
fn each_warp(device: &Device, name: &'static str, n: usize, args: &mut [*mut c_void]) -> Result<()> {
    match n.checked_mul(32).filter(|&threads| threads <= i32::MAX as usize) {
        Some(threads) => each(device, name, threads, args),
        None => Err(Error::Shape(format!("{name} of {n} results; at most 2^26 on a GPU"))),
    }
}

/// Max or mean of the pixels under a window.
///
/// # Errors
/// [`Error::Shape`], [`Error::Driver`], [`Error::Lost`]; the same of all that follow.
pub fn pool(device: &Device, at: &mut Operands, window: &Window, reduce: Reduce, finish: &DeviceFinish) -> Result<()> {
    let empty = (0..2).any(|d| (0..window.output[d]).any(|o| window.inside(d, o).is_empty()));
    if window.input[2] != window.output[2] || empty {
        return Err(Error::Shape(format!("{window:?} does not pool: channels change or a window is empty")));
    }
    let (n, channels) = (window.output_len(), window.output[2]);
    let (mut x, mut out, mut tail) = (at.a(window.input_len())?, at.out(n)?, at.tail(finish, n / channels, channels)?);
    let (mut window, mut largest) = (RawWindow::new(window)?, i32::from(reduce == Reduce::Max));
    each(device, "tensor_pool", n, &mut [arg(&mut window), arg(&mut largest), arg(&mut x), arg(&mut out), arg(&mut tail)])
}

/// Bilinear resizing of a picture (h, w, c) to (h, w) of `size`.
pub fn resize(
    device: &Device,
    at: &mut Operands,
    [h, w, c]: [usize; 3],
    size: [usize; 2],
    centres: Centres,
    finish: &DeviceFinish,
) -> Result<()> {
    let pixels = size[0] * size[1];
    let (mut x, mut out) = (at.a(h * w * c)?, at.out(pixels * c)?);
    let mut tail: RawTail = at.tail(finish, pixels, c)?;
    let kind = match centres {
        Centres::Corner => 0,
        Centres::Aligned => 1,
        Centres::Half => 2,
    };
    let mut shape = [h as i32, w as i32, c as i32, size[0] as i32, size[1] as i32, kind];
    each(device, "tensor_resize", pixels * c, &mut [arg(&mut shape), arg(&mut x), arg(&mut out), arg(&mut tail)])
}

/// What a layer's end does, alone, to rows of `channels`.
pub fn activate(device: &Device, at: &mut Operands, channels: usize, finish: &DeviceFinish) -> Result<()> {
    let n = at.out.len;
    let (mut x, mut out, mut tail) = (at.a(n)?, at.out(n)?, at.tail(finish, n / channels, channels)?);
    each(
        device,
        "tensor_activate",
        n,
        &mut [arg(&mut (n as i32)), arg(&mut (channels as i32)), arg(&mut x), arg(&mut out), arg(&mut tail)],
    )
}

/// `out[i] = f(a[i])`.
pub fn unary(device: &Device, at: &mut Operands, f: Unary) -> Result<()> {
    let n = at.out.len;
    let (mut a, mut out, mut slope) = (at.a(n)?, at.out(n)?, if let Unary::LeakyRelu(slope) = f { slope } else { 0.0 });
    let mut kind = match f {
        Unary::Sigmoid => 0,
        Unary::Tanh => 1,
        Unary::HardSwish => 2,
        Unary::Exp => 3,
        Unary::Log => 4,
        Unary::Sqrt => 5,
        Unary::Rsqrt => 6,
        Unary::Square => 7,
        Unary::Abs => 8,
        Unary::Neg => 9,
        Unary::Floor => 10,
        Unary::Reciprocal => 11,
        Unary::Elu => 12,
        Unary::LeakyRelu(_) => 13,
        Unary::Truncate => 14,
    };
    each(device, "tensor_unary", n, &mut [arg(&mut (n as i32)), arg(&mut kind), arg(&mut slope), arg(&mut a), arg(&mut out)])
}

/// `out[i] = f(a[i], b[..])`, or `f(b[..], a[i])` where `swapped`; see [`Broadcast`].
pub fn binary(device: &Device, at: &mut Operands, f: Binary, lay: Broadcast, swapped: bool) -> Result<()> {
    let n = at.out.len;
    if lay.inner == 0 || lay.period == 0 {
        return Err(Error::Shape(format!("{lay:?} of nothing")));
    }
    let (mut a, mut b, mut out) = (at.a(n)?, at.b(lay.period)?, at.out(n)?);
    let mut shape = [n, lay.inner.min(n), lay.period].map(|v| v as i32);
    let [n_, inner, period] = &mut shape;
    each(
        device,
        "tensor_binary",
        n,
        &mut [
            arg(n_),
            arg(&mut (f as i32)),
            arg(inner),
            arg(period),
            arg(&mut i32::from(swapped)),
            arg(&mut a),
            arg(&mut b),
            arg(&mut out),
        ],
    )
}

/// `a`, of shape `from`, in the midst of `value`s of shape `to`.
pub fn pad(device: &Device, at: &mut Operands, from: [usize; 4], to: [usize; 4], before: [usize; 4], value: f32) -> Result<()> {
    if (0..4).any(|d| from[d] == 0 || before[d].checked_add(from[d]).is_none_or(|end| end > to[d])) {
        return Err(Error::Shape(format!("{from:?} at {before:?} of {to:?}")));
    }
    let n = to.iter().product();
    let (mut a, mut out, mut value) = (at.a(from.iter().product())?, at.out(n)?, value);
    let mut shapes = [from, to, before].map(|shape| shape.map(|v| v as i32));
    each(device, "tensor_pad", n, &mut [arg(&mut (n as i32)), arg(&mut shapes), arg(&mut value), arg(&mut a), arg(&mut out)])
}

/// `a`, seen as (outer, len), to columns `from..from + len` of `out`, seen as (outer, total).
pub fn concat(device: &Device, at: &mut Operands, len: usize, total: usize, from: usize) -> Result<()> {
    let n = at.a.len;
    if len == 0 || from.checked_add(len).is_none_or(|end| end > total) || !n.is_multiple_of(len) {
        return Err(Error::Shape(format!("{n} elements, in rows of {len} at {from} of {total}")));
    }
    let (mut a, mut out) = (at.a(n)?, at.out(n / len * total)?);
    let [mut n_, mut len, mut total, mut from] = [n, len, total, from].map(|v| v as i32);
    each(
        device,
        "tensor_concat",
        n,
        &mut [arg(&mut n_), arg(&mut len), arg(&mut total), arg(&mut from), arg(&mut a), arg(&mut out)],
    )
}

/// As in tensor.cu.
#[repr(C)]
struct RawWalk {
    shape: [i32; RANK],
    step: [i64; RANK],
    base: i64,
}

/// The elements of `a` along a walk.
pub fn walk(device: &Device, at: &mut Operands, walk: &Walk) -> Result<()> {
    let n = walk.shape.iter().product();
    if !walk.fits(at.a.len) || n == 0 {
        return Err(Error::Shape(format!("{walk:?} over {} elements", at.a.len)));
    }
    let (mut a, mut out) = (at.a(at.a.len)?, at.out(n)?);
    let (shape, step) = (walk.shape.map(|v| v as i32), walk.step.map(|v| v as i64));
    let mut raw = RawWalk { shape, step, base: walk.base as i64 };
    each(device, "tensor_walk", n, &mut [arg(&mut (n as i32)), arg(&mut raw), arg(&mut a), arg(&mut out)])
}

/// `softmax(beta * a)` over rows of `channels`.
pub fn softmax(device: &Device, at: &mut Operands, channels: usize, beta: f32) -> Result<()> {
    let n = at.out.len;
    if channels == 0 || !n.is_multiple_of(channels) {
        return Err(Error::Shape(format!("{n} elements in rows of {channels}")));
    }
    let (mut a, mut out, mut beta) = (at.a(n)?, at.out(n)?, beta);
    let [mut rows, mut width] = [n / channels, channels].map(|v| v as i32);
    each_warp(
        device,
        "tensor_softmax",
        n / channels,
        &mut [arg(&mut rows), arg(&mut width), arg(&mut beta), arg(&mut a), arg(&mut out)],
    )
}

/// Reduces the middle of (outer, len, inner) to (outer, inner).
pub fn fold(device: &Device, at: &mut Operands, f: Fold, len: usize, inner: usize) -> Result<()> {
    let n = at.out.len;
    if inner == 0 || !n.is_multiple_of(inner) {
        return Err(Error::Shape(format!("{n} results in rows of {inner}")));
    }
    let (mut a, mut out) = (at.a(n * len)?, at.out(n)?);
    let [mut n_, mut len, mut inner] = [n, len, inner].map(|v| v as i32);
    each_warp(
        device,
        "tensor_fold",
        n,
        &mut [arg(&mut n_), arg(&mut (f as i32)), arg(&mut len), arg(&mut inner), arg(&mut a), arg(&mut out)],
    )
}

/// As in tensor.cu.
#[repr(C)]
struct RawGather {
    dims: [i32; RANK],
    depth: i32,
    inner: i32,
}

/// Rows of `a`, seen as (dims, inner), at indices `b`, (rows, number of dims); one outside its dimension is clamped.
pub fn gather(device: &Device, at: &mut Operands, dims: &[usize], inner: usize) -> Result<()> {
    let n = at.out.len;
    if dims.is_empty() || dims.len() > RANK || inner == 0 || !n.is_multiple_of(inner) {
        return Err(Error::Shape(format!("{n} elements in rows of {inner} looked up in {dims:?}; at most {RANK} dimensions")));
    }
    let (mut a, mut b, mut out) = (at.a(dims.iter().product::<usize>() * inner)?, at.b(n / inner * dims.len())?, at.out(n)?);
    let mut raw = RawGather { dims: [1; RANK], depth: dims.len() as i32, inner: inner as i32 };
    raw.dims.iter_mut().zip(dims).for_each(|(to, &d)| *to = d as i32);
    each(device, "tensor_gather", n, &mut [arg(&mut (n as i32)), arg(&mut raw), arg(&mut a), arg(&mut b), arg(&mut out)])
}
