//! Max and average pooling over NHWC pictures, vectorised over the channels. Pixels outside the picture take no part.

use super::conv::{Act, Finish, PADDING, Shared, Tail, Width, Window, by_width, part, tasks};
use super::lanes::Lanes;
use crate::Pool;

/// What a window is reduced to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// The largest value.
    Max,
    /// The mean of the pixels inside the picture (as TensorFlow).
    Mean,
}

/// A pooling layer.
pub struct Pooling {
    window: Window,
    reduce: Reduce,
    finish: Finish,
    pub(crate) width: Width,
}

impl Pooling {
    /// `window` must keep the number of channels, and each output pixel must see at least one input pixel.
    pub fn new(window: Window, reduce: Reduce, act: Act) -> Result<Self, super::conv::WindowError> {
        let empty = (0..2).any(|d| (0..window.output[d]).any(|o| window.inside(d, o).is_empty()));
        if window.input[2] != window.output[2] || empty {
            return Err(super::conv::WindowError(format!("{window:?} does not pool: channels change or a window is empty")));
        }
        let c = window.output[2];
        let finish = Finish { before: act, after: Act::None }.padded(c);
        Ok(Self { window, reduce, finish, width: Width::of(c) })
    }

    /// The geometry.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// `out` (h, w, c) from `x` (h, w, c).
    ///
    /// # Panics
    /// When the lengths do not fit the window.
    pub fn run(&self, pool: &Pool, x: &[f32], out: &mut [f32]) {
        let w = &self.window;
        assert!(x.len() == w.input_len() && out.len() == w.output_len(), "picture of another shape");
        let tail = &Tail::new(&self.finish, None, w.output[0] * w.output[1], w.output[2]);
        let (rows, out) = (w.output[0], Shared(out.as_mut_ptr()));
        let count = tasks(pool.threads(), rows, w.output_len() * w.taps() * 4);
        pool.for_each(count, |i| {
            let out = &out;
            let call = &Call { layer: self, x, tail, out: out.0 };
            for y in part(rows, i, count) {
                by_width!(self.width, row::<L>(call: &Call, y: usize));
            }
        });
    }
}

struct Call<'a> {
    layer: &'a Pooling,
    x: &'a [f32],
    tail: &'a Tail<'a>,
    out: *mut f32,
}

/// One output row.
///
/// # Safety
/// The instruction set of `L` is there; no other task writes row `y`.
#[inline(always)]
unsafe fn row<L: Lanes>(call: &Call, y: usize) {
    let w = &call.layer.window;
    let (channels, rows) = (w.output[2], w.inside(0, y));
    const { assert!(L::N <= PADDING) };
    for x in 0..w.output[1] {
        let cols = w.inside(1, x);
        let scale = 1.0 / (rows.len() * cols.len()) as f32;
        for c in (0..channels).step_by(L::N) {
            // SAFETY: taps lie inside the picture, and lanes beyond the channels are neither read nor written.
            unsafe {
                let mut acc = L::splat(if call.layer.reduce == Reduce::Max { f32::NEG_INFINITY } else { 0.0 });
                for ky in rows.clone() {
                    let iy = y * w.stride[0] + ky * w.dilation[0] - w.pad[0];
                    for kx in cols.clone() {
                        let ix = x * w.stride[1] + kx * w.dilation[1] - w.pad[1];
                        let at = call.x.as_ptr().add((iy * w.input[1] + ix) * channels + c);
                        let v = if c + L::N <= channels { L::load(at) } else { L::load_n(at, channels - c) };
                        acc = if call.layer.reduce == Reduce::Max { acc.max(v) } else { acc.add(v) };
                    }
                }
                if call.layer.reduce == Reduce::Mean {
                    acc = acc.mul(L::splat(scale));
                }
                call.tail.store([acc], call.out, y * w.output[1] + x, c);
            }
        }
    }
}
