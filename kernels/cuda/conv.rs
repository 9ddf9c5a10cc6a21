//! Convolutions; their references are those of `cpu/conv_reference.rs`.

use super::buffer::Buffer;
use super::device::{Device, Error};
use super::picture::{DeviceFinish, Operands, RawTail, RawWindow, Result, THREADS, arg};
use crate::cpu::conv::{Finish, Window};

/// Pixels and output channels of a warp's tile, and warps of a block, of the kernel on tensor cores.
const TILE: [usize; 2] = [16, 32];
const WARPS: usize = 4;
/// Pixels of a thread of the direct kernel.
const PIXELS: usize = 4;
/// Outputs up to which each has a warp of its own, and the least elements of its sum.
const DOTS: usize = 2048;
const LONG: usize = 128;
/// Elements of a sum below which tensor cores would multiply zeros most of the time.
const SHORT: usize = 16;

/// As in conv.cu.
#[repr(C)]
struct Raw {
    window: RawWindow,
    x: u64,
    weights: u64,
    bias: u64,
    out: u64,
    tail: RawTail,
    splits: i32,
    exact: i32,
}

/// A convolution with its weights on a device.
pub struct Conv {
    window: Window,
    raw: RawWindow,
    how: How,
    weights: Buffer<f32>,
    bias: Option<Buffer<f32>>, // (n)
    finish: DeviceFinish,
    exact: bool,
}

/// Which kernel runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// On tensor cores; warps that share a tile.
    Mma(usize),
    Direct,
    Dot,
    /// Channels and pixels of a thread.
    Depthwise(usize, usize),
}

impl Conv {
    /// A dense convolution from `weights` (n, kernel h, kernel w, c) and one `bias` an output channel (or none).
    ///
    /// # Errors
    /// [`Error::Shape`] when the constants do not fit the window, and those of [`Device::zeros`].
    pub fn new(device: &Device, window: &Window, weights: &[f32], bias: &[f32], finish: &Finish) -> Result<Self> {
        let (n, c, taps, pixels) = (window.output[2], window.input[2], window.taps(), window.output[0] * window.output[1]);
        check(window, weights, n.saturating_mul(taps).saturating_mul(c), bias)?;
        if !c.is_multiple_of(4) || c * taps < SHORT {
            return Self::with(device, window, How::Direct, &transposed(weights, n), (bias, finish));
        }
        let how = if pixels * n <= DOTS && c * taps >= LONG && pixels <= TILE[0] / 2 {
            How::Dot
        } else {
            // Warps of a block share a tile where its sum is long, so that a small picture's product does not take long.
            let steps = taps * c.div_ceil(16);
            How::Mma([4, 2].into_iter().find(|s| steps >= 2 * s).unwrap_or(1))
        };
        Self::with(device, window, how, weights, (bias, finish))
    }

    /// A depthwise convolution from `weights` (kernel h, kernel w, c) and one `bias` a channel (or none).
    ///
    /// # Errors
    /// As [`Conv::new`].
    pub fn depthwise(device: &Device, window: &Window, weights: &[f32], bias: &[f32], finish: &Finish) -> Result<Self> {
        let c = window.input[2];
        if window.output[2] != c {
            return Err(Error::Shape(format!("a depthwise convolution from {c} to {} channels", window.output[2])));
        }
        check(window, weights, window.taps().saturating_mul(c), bias)?;
        // Several pixels a thread where the device is full even so.
        let threads = window.output_len() / 16;
        let pixels = if threads >= 2 * THREADS * device.info().multiprocessors { 4 } else { 1 };
        let how = if c.is_multiple_of(4) { How::Depthwise(4, pixels) } else { How::Depthwise(1, 1) };
        Self::with(device, window, how, weights, (bias, finish))
    }

    fn with(device: &Device, window: &Window, how: How, weights: &[f32], (bias, finish): (&[f32], &Finish)) -> Result<Self> {
        let finish = DeviceFinish::new(device, finish)?;
        finish.fits(window.output[2])?;
        Ok(Self {
            raw: RawWindow::new(window)?,
            window: window.clone(),
            how,
            // TF32 has the highest 11 bits of a float's 24; half floats lose nothing by it
            exact: weights.iter().all(|w| w.to_bits() & 0x1fff == 0),
            weights: device.upload(weights)?,
            bias: if bias.is_empty() { None } else { Some(device.upload(bias)?) },
            finish,
        })
    }

    /// The geometry.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// The kernel that runs it.
    pub fn kernel(&self) -> &'static str {
        match self.how {
            How::Mma(_) => "conv_mma",
            How::Direct => "conv_direct",
            How::Dot => "conv_dot",
            How::Depthwise(4, 4) => "depthwise_4x4",
            How::Depthwise(4, _) => "depthwise_4x1",
            How::Depthwise(..) => "depthwise_1x1",
        }
    }

    /// Bytes of its constants on the device.
    pub fn bytes(&self) -> usize {
        size_of::<f32>() * (self.weights.len() + self.bias.as_ref().map_or(0, Buffer::len))
    }

    /// Puts the convolution of `at.a` on the device's stream.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Driver`], [`Error::Lost`].
    pub fn launch(&self, device: &Device, at: &mut Operands) -> Result<()> {
        let (w, [rows, columns, n]) = (&self.window, self.window.output);
        let pixels = rows * columns;
        let mut raw = Raw {
            window: self.raw,
            x: at.a(w.input_len())?,
            weights: self.weights.pointer(),
            bias: self.bias.as_ref().map_or(0, Buffer::pointer),
            out: at.out(w.output_len())?,
            tail: at.tail(&self.finish, pixels, n)?,
            splits: 1,
            exact: self.exact.into(),
        };
        if !matches!(self.how, How::Direct | How::Depthwise(1, _))
            && (!at.a.at.is_multiple_of(4) || !at.out.at.is_multiple_of(4))
        {
            return Err(Error::Shape(format!("pictures at {} and {}; they begin at multiples of 4", at.a.at, at.out.at)));
        }
        let (grid, threads) = match self.how {
            How::Mma(splits) => {
                raw.splits = splits as i32;
                ([pixels.div_ceil(TILE[0] * WARPS / splits), n.div_ceil(TILE[1]), 1], 32 * WARPS)
            }
            How::Direct => ([(n * pixels.div_ceil(PIXELS)).div_ceil(THREADS), 1, 1], THREADS),
            How::Dot => ([n.div_ceil(THREADS / 32), pixels, 1], THREADS),
            How::Depthwise(v, p) => ([(n / v * columns.div_ceil(p) * rows).div_ceil(THREADS), 1, 1], THREADS),
        };
        // SAFETY: the structure is the kernel's; pictures and constants have the sizes that it tells, checked above and when it was made.
        unsafe { device.launch(self.kernel(), grid, threads, 0, &mut [arg(&mut raw)]) }
    }
}

/// Refuses constants of other numbers than the window takes.
fn check(window: &Window, weights: &[f32], count: usize, bias: &[f32]) -> Result<()> {
    let (n, seen, biases) = (window.output[2], weights.len(), bias.len());
    if seen != count || (biases != 0 && biases != n) {
        return Err(Error::Shape(format!("{window:?} takes {count} weights and {n} biases, not {seen} and {biases}")));
    }
    Ok(())
}

/// (n, k) to (k, n).
fn transposed(weights: &[f32], n: usize) -> Vec<f32> {
    let k = weights.len() / n.max(1);
    (0..k * n).map(|i| weights[i % n * k + i / n]).collect()
}
