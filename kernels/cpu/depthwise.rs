//! Depthwise convolution (one input channel an output channel): vectorised over the channels, several pixels a time so that a
//! weight is loaded once for all of them. Where the channels are no whole number of vectors, a row at stride 1 is taken as a picture
//! with a few pixels side by side for one (the weights are repeated for each): its channels are.

use super::conv::{Buffer, Finish, PADDING, Residual, Shared, Tail, Width, Window, WindowError, by_width, part, tasks};
use super::lanes::Lanes;
use crate::Pool;

/// A depthwise convolution with its weights laid out for this processor.
pub struct Depthwise {
    window: Window,
    pub(crate) width: Width,
    fold: usize,     // pixels taken together
    weights: Buffer, // (taps, stride_w): one padded row of fold * channels a tap
    stride_w: usize,
    bias: Vec<f32>, // (fold * channels + PADDING)
    finish: Finish, // of a pixel
    folded: Finish, // of `fold` pixels
}

impl Depthwise {
    /// From `weights` (kernel h, kernel w, c) and one `bias` a channel (or none).
    pub fn new(window: Window, weights: &[f32], bias: &[f32], finish: Finish) -> Result<Self, WindowError> {
        let c = window.output[2];
        let one = Width::of(c);
        let wide = Width::of(usize::MAX);
        // Eight channels fill half of the widest vectors, unless two pixels share one.
        let width = if c < wide.lanes() && folds(&window, wide) > 1 { wide } else { one };
        Self::at_width(window, weights, bias, finish, width)
    }

    /// As [`Depthwise::new`], by vectors of `width`.
    pub(crate) fn at_width(
        window: Window,
        weights: &[f32],
        bias: &[f32],
        finish: Finish,
        width: Width,
    ) -> Result<Self, WindowError> {
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
        let fold = folds(&window, width);
        let stride_w = (fold * c).next_multiple_of(PADDING);
        let mut padded = Buffer::zeros(window.taps() * stride_w);
        for (row, w) in padded.chunks_exact_mut(stride_w).zip(weights.chunks_exact(c)) {
            row[..fold * c].chunks_exact_mut(c).for_each(|pixel| pixel.copy_from_slice(w));
        }
        let mut bias = bias.repeat(fold);
        bias.resize(fold * c + PADDING, 0.0);
        let (folded, finish) = (finish.clone().repeated(fold).padded(fold * c), finish.padded(c));
        Ok(Self { width, fold, weights: padded, stride_w, bias, finish, folded, window })
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
        let tail = Tail::new(&self.finish, residual, rows * cols, c);
        let out = Shared(out.as_mut_ptr());
        // A depthwise multiply-add moves far more memory than a dense one.
        let count = tasks(pool.threads(), rows, self.macs() * 4);
        pool.for_each(count, |i| {
            let out = &out;
            let source = Source { x: x.as_ptr(), mask: usize::MAX };
            for y in part(rows, i, count) {
                // SAFETY: lengths were checked above; each task has its own rows.
                unsafe { self.line(source, y, tail, out.0) };
            }
        });
    }

    /// Output row `y`.
    ///
    /// # Safety
    /// The input rows that it sees are readable in `source`, the row is writable behind `out` (where the whole picture would begin)
    /// and no other thread's, and `tail` is of this layer.
    unsafe fn line(&self, source: Source, y: usize, tail: Tail, out: *mut f32) {
        let folded = (self.fold > 1 && !tail.has_residual())
            .then(|| Tail::new(&self.folded, None, 0, self.fold * self.window.output[2]));
        let call = &Call { conv: self, source, tail, folded, out };
        by_width!(self.width, row::<L>(call: &Call, y: usize));
    }

    /// [`Depthwise::line`] without a residual.
    ///
    /// # Safety
    /// As [`Depthwise::line`].
    pub(crate) unsafe fn plain_line(&self, source: Source, y: usize, out: *mut f32) {
        // SAFETY: the caller's contract.
        unsafe { self.line(source, y, Tail::new(&self.finish, None, 0, self.window.output[2]), out) };
    }
}

/// How many neighbouring pixels make a whole number of vectors: at most four, else one.
fn folds(w: &Window, width: Width) -> usize {
    let c = w.input[2];
    (1..=4).find(|m| (m * c).is_multiple_of(width.lanes())).filter(|_| w.stride[1] == 1).unwrap_or(1)
}

/// The rows of an input picture: row `y` is the one at `y & mask` behind `x`, so that a few of them can go round in a small memory.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) x: *const f32,
    pub(crate) mask: usize,
}

/// What the inner loops need of a call.
struct Call<'a> {
    conv: &'a Depthwise,
    source: Source,
    tail: Tail<'a>,
    folded: Option<Tail<'a>>, // where pixels are taken together
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
/// The instruction set of `L` is there; the rest as [`Depthwise::line`].
#[inline(always)]
unsafe fn row<L: Lanes>(call: &Call, y: usize) {
    let w = &call.conv.window;
    let (inner, rows, cols, channels) = (w.interior(), w.inside(0, y), w.output[1], w.output[2]);
    let at = &Row { y, rows };
    let fold = if call.folded.is_some() { call.conv.fold } else { 1 };
    // Channels in groups whose weights stay in the first cache; within a group along the row, as the pixels lie in memory.
    let group = if fold > 1 { channels } else { (GROUP / w.taps()).next_multiple_of(L::N).min(channels) };
    for from in (0..channels).step_by(group) {
        let to = (from + group).min(channels);
        let mut x = 0;
        while x < cols {
            let left = if inner.contains(&x) { inner.end - x } else { 0 };
            // SAFETY: tiles of more than one pixel lie in `inner`.
            x += unsafe {
                match left / fold {
                    8.. => tiles::<L, 8>(call, at, [x, fold], from..to),
                    4.. => tiles::<L, 4>(call, at, [x, fold], from..to),
                    2.. => tiles::<L, 2>(call, at, [x, fold], from..to),
                    1 => tiles::<L, 1>(call, at, [x, fold], from..to),
                    _ => tiles::<L, 1>(call, at, [x, 1], from..to),
                }
            };
        }
    }
}

/// Weights of a group of channels.
const GROUP: usize = 4096;

/// `P` times `fold` pixels from `x0`, a group of channels; returns how many pixels.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn tiles<L: Lanes, const P: usize>(
    call: &Call,
    row: &Row,
    [x0, fold]: [usize; 2],
    group: std::ops::Range<usize>,
) -> usize {
    let w = &call.conv.window;
    // One pixel alone may lie at the edge.
    let taps = if P * fold == 1 { w.inside(1, x0) } else { 0..w.kernel[1] };
    let first = (row.y * w.output[1] + x0) * w.output[2];
    let tail = if fold > 1 { call.folded.as_ref().unwrap_or(&call.tail) } else { &call.tail };
    let (pixel, out) = if fold > 1 { (0, call.out.wrapping_add(first)) } else { (row.y * w.output[1] + x0, call.out) };
    let at = &Tile { row, taps, x0, channels: fold * w.output[2], tail, pixel, out };
    let (mut c, end) = (group.start * fold, group.end * fold);
    while c < end {
        // SAFETY: the caller's contract; the flag says whether whole vectors lie inside the channels.
        c += unsafe {
            if P == 1 && c + 4 * L::N <= end {
                tile::<L, P, 4, true>(call, at, c)
            } else if c + L::N <= at.channels {
                tile::<L, P, 1, true>(call, at, c)
            } else {
                tile::<L, P, 1, false>(call, at, c)
            }
        };
    }
    P * fold
}

/// Pixels that are computed together.
struct Tile<'a> {
    row: &'a Row,
    taps: std::ops::Range<usize>, // of a row
    x0: usize,
    channels: usize, // of a pixel, or of those that are taken together
    tail: &'a Tail<'a>,
    pixel: usize, // the first, as the tail counts
    out: *mut f32,
}

/// `P` pixels (or so many times those that are taken together), the channels of `V` vectors from `c`; returns how many channels. A
/// pixel alone takes several vectors, so that no sum waits for another.
///
/// # Safety
/// As [`row`]; the taps lie in the picture for each pixel; `WHOLE` when all of the vectors' channels exist.
#[inline(always)]
unsafe fn tile<L: Lanes, const P: usize, const V: usize, const WHOLE: bool>(call: &Call, at: &Tile, c: usize) -> usize {
    let (conv, w) = (call.conv, &call.conv.window);
    let channels = w.input[2];
    let step = w.stride[1] * at.channels; // pixels taken together have stride 1
    // SAFETY: only taps inside the picture are read, each within its channels; tables are padded to whole vectors.
    unsafe {
        let mut acc = [[L::splat(0.0); P]; V];
        for v in 0..V {
            acc[v] = [L::load(conv.bias.as_ptr().add(c + v * L::N)); P];
        }
        for ky in at.row.rows.clone() {
            let iy = (at.row.y * w.stride[0] + ky * w.dilation[0] - w.pad[0]) & call.source.mask;
            let line = call.source.x.add(iy * w.input[1] * channels + c);
            for kx in at.taps.clone() {
                let weights = conv.weights.as_ptr().add((ky * w.kernel[1] + kx) * conv.stride_w + c);
                let first = line.add((at.x0 * w.stride[1] + kx * w.dilation[1] - w.pad[1]) * channels);
                for v in 0..V {
                    let weight = L::load(weights.add(v * L::N));
                    for p in 0..P {
                        let x = first.add(p * step + v * L::N);
                        let x = if WHOLE { L::load(x) } else { L::load_n(x, at.channels - c) };
                        acc[v][p] = acc[v][p].fma(x, weight);
                    }
                }
            }
        }
        for v in 0..V {
            at.tail.store(acc[v], at.out, at.pixel, c + v * L::N);
        }
    }
    V * L::N
}
