//! Depthwise convolution (one input channel an output channel): vectorised over the channels, several pixels a time so that a
//! weight is loaded once for all of them.

use super::conv::{Buffer, Finish, PADDING, Residual, Shared, Tail, Width, Window, WindowError, by_width, part, tasks};
use super::lanes::Lanes;
use crate::Pool;

/// A depthwise convolution with its weights laid out for this processor.
pub struct Depthwise {
    window: Window,
    pub(crate) width: Width,
    weights: Buffer, // (taps, stride_w): one padded row of channels a tap
    stride_w: usize,
    bias: Vec<f32>, // (channels + PADDING)
    finish: Finish,
}

impl Depthwise {
    /// From `weights` (kernel h, kernel w, c) and one `bias` a channel (or none).
    pub fn new(window: Window, weights: &[f32], bias: &[f32], finish: Finish) -> Result<Self, WindowError> {
        let c = window.output[2];
        let fits = window.input[2] == c && weights.len() == window.taps() * c && (bias.is_empty() || bias.len() == c);
        if !fits {
            return Err(WindowError(format!(
                "{} input and {c} output channels with {} taps take as many weights and {c} biases, not {} and {}",
                window.input[2],
                window.taps(),
                weights.len(),
                bias.len()
            )));
        }
        let stride_w = c.next_multiple_of(PADDING);
        let mut padded = Buffer::zeros(window.taps() * stride_w);
        for (row, w) in padded.chunks_exact_mut(stride_w).zip(weights.chunks_exact(c)) {
            row[..c].copy_from_slice(w);
        }
        let mut bias = bias.to_vec();
        bias.resize(c + PADDING, 0.0);
        Ok(Self { width: Width::of(c), weights: padded, stride_w, bias, finish: finish.padded(c), window })
    }

    /// The geometry.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Multiply-adds of one run.
    pub fn macs(&self) -> usize {
        self.window.output_len() * self.window.taps()
    }

    /// `out` (h, w, c) from `x` (h, w, c).
    ///
    /// # Panics
    /// When the lengths do not fit the window.
    pub fn run(&self, pool: &Pool, x: &[f32], residual: Option<Residual>, out: &mut [f32]) {
        let w = &self.window;
        assert!(x.len() == w.input_len() && out.len() == w.output_len(), "picture of another shape");
        let [rows, cols, c] = w.output;
        let tail = &Tail::new(&self.finish, residual, rows * cols, c);
        let out = Shared(out.as_mut_ptr());
        // A depthwise multiply-add moves far more memory than a dense one.
        let count = tasks(pool.threads(), rows, self.macs() * 4);
        pool.for_each(count, |i| {
            let out = &out;
            let call = &Call { conv: self, x, tail, out: out.0 };
            for y in part(rows, i, count) {
                by_width!(self.width, row::<L>(call: &Call, y: usize));
            }
        });
    }
}

/// What the inner loops need of a call.
struct Call<'a> {
    conv: &'a Depthwise,
    x: &'a [f32],
    tail: &'a Tail<'a>,
    out: *mut f32,
}

/// An output row and the taps that fall inside the picture there.
struct Row {
    y: usize,
    rows: std::ops::Range<usize>,
}

/// One output row.
///
/// # Safety
/// The instruction set of `L` is there; no other task writes row `y`.
#[inline(always)]
unsafe fn row<L: Lanes>(call: &Call, y: usize) {
    let w = &call.conv.window;
    let (inner, rows, cols, channels) = (w.interior(), w.inside(0, y), w.output[1], w.output[2]);
    let at = &Row { y, rows };
    // Channels in groups whose weights stay in the first cache; within a group along the row, as the pixels lie in memory.
    let group = (GROUP / w.taps()).next_multiple_of(L::N).min(channels);
    for from in (0..channels).step_by(group) {
        let to = (from + group).min(channels);
        let mut x = 0;
        while x < cols {
            let left = if inner.contains(&x) { inner.end - x } else { 0 };
            // SAFETY: tiles of more than one pixel lie in `inner`.
            x += unsafe {
                match left {
                    8.. => tiles::<L, 8>(call, at, x, from..to),
                    4.. => tiles::<L, 4>(call, at, x, from..to),
                    2.. => tiles::<L, 2>(call, at, x, from..to),
                    _ => tiles::<L, 1>(call, at, x, from..to),
                }
            };
        }
    }
}

/// Weights of a group of channels.
const GROUP: usize = 4096;

/// `P` pixels from `x0`, a group of channels; returns `P`.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn tiles<L: Lanes, const P: usize>(call: &Call, row: &Row, x0: usize, group: std::ops::Range<usize>) -> usize {
    let channels = call.conv.window.output[2];
    let taps = if P == 1 { call.conv.window.inside(1, x0) } else { 0..call.conv.window.kernel[1] };
    for c in group.step_by(L::N) {
        // SAFETY: the caller's contract; the flag says whether the whole vector lies inside the channels.
        unsafe {
            if c + L::N <= channels {
                tile::<L, P, true>(call, row, &taps, x0, c);
            } else {
                tile::<L, P, false>(call, row, &taps, x0, c);
            }
        }
    }
    P
}

/// `P` pixels from `x0`, the channels of one vector from `c`. One pixel may lie at the edge (`taps` of it do not), more may not.
///
/// # Safety
/// As [`row`]; `WHOLE` when all of the vector's channels exist.
#[inline(always)]
unsafe fn tile<L: Lanes, const P: usize, const WHOLE: bool>(
    call: &Call,
    row: &Row,
    taps: &std::ops::Range<usize>,
    x0: usize,
    c: usize,
) {
    let (conv, w) = (call.conv, &call.conv.window);
    let channels = w.input[2];
    // SAFETY: only taps inside the picture are read, each within its channels; tables are padded to whole vectors.
    unsafe {
        let mut acc = [L::load(conv.bias.as_ptr().add(c)); P];
        for ky in row.rows.clone() {
            let iy = row.y * w.stride[0] + ky * w.dilation[0] - w.pad[0];
            let line = call.x.as_ptr().add(iy * w.input[1] * channels + c);
            for kx in taps.clone() {
                let weight = L::load(conv.weights.as_ptr().add((ky * w.kernel[1] + kx) * conv.stride_w + c));
                let first = line.add((x0 * w.stride[1] + kx * w.dilation[1] - w.pad[1]) * channels);
                for (p, acc) in acc.iter_mut().enumerate() {
                    let at = first.add(p * w.stride[1] * channels);
                    let x = if WHOLE { L::load(at) } else { L::load_n(at, channels - c) };
                    *acc = acc.fma(x, weight);
                }
            }
        }
        for (p, acc) in acc.into_iter().enumerate() {
            call.tail.store(acc, call.out, row.y * w.output[1] + x0 + p, c);
        }
    }
}
