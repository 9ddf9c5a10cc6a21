//! A depthwise convolution with the pointwise ones before and behind it (MobileNetV2's inverted residual), a few rows at a time:
//! what lies between the layers stays in a core's own cache, and threads meet once. Each pixel is computed as the layers on their own
//! compute it, bit for bit.

use super::conv::{Residual, Shared, Tail, Window, WindowError, part, tasks};
use super::dense::Conv;
use super::depthwise::{Depthwise, Source};
use crate::Pool;
use crate::memory::with_scratch;

/// The layers of a block. See [`Block::joins`] and [`Block::joins_before`] for those that are worth joining.
pub struct Block {
    expand: Option<Conv>,
    depthwise: Depthwise,
    project: Conv,
}

/// Pixels that a pointwise convolution is given at once, at least.
const PIXELS: usize = 16;

/// Fewest rows that are worth cutting into bands.
const ROWS: usize = 8;

/// A convolution of one tap at stride 1 with more channels than the narrow kernel takes.
fn pointwise(w: &Window) -> bool {
    w.taps() == 1 && w.stride == [1, 1] && w.pad == [0, 0] && w.input[..2] == w.output[..2] && w.output[2] > 2
}

impl Block {
    /// Whether a depthwise convolution and the one behind it are worth joining.
    pub fn joins(depthwise: &Window, project: &Window) -> bool {
        pointwise(project) && project.input == depthwise.output && depthwise.output[0] >= ROWS
    }

    /// Whether the convolution before the depthwise one is worth joining too: bands of rows share their edge rows, which both
    /// compute. That holds where four threads still find bands tall enough.
    pub fn joins_before(expand: &Window, depthwise: &Window) -> bool {
        pointwise(expand) && depthwise.input == expand.output && bands(depthwise) >= 4
    }

    /// From layers that follow each other.
    pub fn new(expand: Option<Conv>, depthwise: Depthwise, project: Conv) -> Result<Self, WindowError> {
        let w = depthwise.window();
        let before = expand.as_ref().is_none_or(|e| pointwise(e.window()) && e.window().output == w.input);
        let behind = pointwise(project.window()) && project.window().input == w.output;
        if !before || !behind {
            let seen = (expand.as_ref().map(Conv::window), w, project.window());
            return Err(WindowError(format!("a block takes pointwise layers of the depthwise one's shape, not {seen:?}")));
        }
        Ok(Self { expand, depthwise, project })
    }

    /// (first layer's input, depthwise, last layer's output)
    pub fn windows(&self) -> (&Window, &Window, &Window) {
        let d = self.depthwise.window();
        (self.expand.as_ref().map_or(d, Conv::window), d, self.project.window())
    }

    /// Multiply-adds of one run.
    pub fn macs(&self) -> usize {
        self.expand.as_ref().map_or(0, Conv::macs) + self.depthwise.macs() + self.project.macs()
    }

    /// `out` (h, w, channels) from `x` (h, w, c). Scratch is the thread's own and kept.
    ///
    /// # Panics
    /// When the lengths do not fit the layers.
    pub fn run(&self, pool: &Pool, x: &[f32], residual: Option<Residual>, out: &mut [f32]) {
        let (first, d, last) = self.windows();
        assert!(x.len() == first.input_len() && out.len() == last.output_len(), "picture of another shape");
        let [rows, cols, n] = last.output;
        let tail = &Tail::new(self.project.finish(), residual, rows * cols, n);
        let out = Shared(out.as_mut_ptr());
        let most = if self.expand.is_some() { bands(d) } else { rows.div_ceil(self.step()) };
        let count = tasks(pool.threads(), most, self.macs());
        pool.for_each(count, |i| {
            let out = &out;
            let call = &Call { x: x.as_ptr(), tail, out: out.0 };
            with_scratch(self.scratch() * size_of::<f32>(), |scratch| {
                // SAFETY: lengths were checked above, the scratch is as large as the bands need, each task has its own rows.
                unsafe { self.band(call, part(rows, i, count), scratch.cast()) };
            });
        });
    }

    /// Rows of the depthwise layer's output that go through the last layer at once.
    fn step(&self) -> usize {
        PIXELS.div_ceil(self.depthwise.window().output[1])
    }

    /// Rows of the depthwise layer's input that are kept: those a kernel sees, as a power of two.
    fn kept(&self) -> usize {
        let w = self.depthwise.window();
        ((w.kernel[0] - 1) * w.dilation[0] + 1).next_power_of_two()
    }

    /// Floats of scratch: rows kept, then the depthwise layer's output.
    fn scratch(&self) -> usize {
        self.expanded() + self.step() * self.depthwise.window().output[1..].iter().product::<usize>()
    }

    /// Floats of the rows kept, in whole cache lines.
    fn expanded(&self) -> usize {
        let line = self.depthwise.window().input[1..].iter().product::<usize>();
        if self.expand.is_some() { (self.kept() * line).next_multiple_of(16) } else { 0 }
    }

    /// The output rows of one task.
    ///
    /// # Safety
    /// `call.x` and `call.out` hold whole pictures, the rows are no other thread's, `scratch` has [`Block::scratch`] floats.
    unsafe fn band(&self, call: &Call, rows: std::ops::Range<usize>, scratch: *mut f32) {
        let w = self.depthwise.window();
        let (cols, c) = (w.output[1], w.output[2]);
        let plain = Source { x: call.x, mask: usize::MAX };
        let kept = Source { x: scratch, mask: self.kept() - 1 };
        let source = if self.expand.is_some() { kept } else { plain };
        let mut next = 0;
        for from in rows.clone().step_by(self.step()) {
            let to = (from + self.step()).min(rows.end);
            // SAFETY: behind the kept rows lie those of this step; a row is kept until no kernel sees it any more.
            unsafe {
                let middle = scratch.add(self.expanded()).wrapping_sub(from * cols * c);
                for y in from..to {
                    if let Some(expand) = &self.expand {
                        next = self.expand_until(expand, call, [y, next], scratch);
                    }
                    self.depthwise.plain_line(source, y, middle);
                }
                self.project.pixels(middle, from * cols..to * cols, call.tail, call.out);
            }
        }
    }

    /// Computes the first layer's rows that depthwise row `y` sees, from `next` on; returns the first one not computed.
    ///
    /// # Safety
    /// As [`Block::band`].
    unsafe fn expand_until(&self, expand: &Conv, call: &Call, [y, next]: [usize; 2], scratch: *mut f32) -> usize {
        let w = self.depthwise.window();
        let taps = w.inside(0, y);
        if taps.is_empty() {
            return next;
        }
        let row = |tap: usize| y * w.stride[0] + tap * w.dilation[0] - w.pad[0];
        let [_, cols, c] = w.input;
        let tail = &Tail::new(expand.finish(), None, 0, c);
        let end = row(taps.end - 1) + 1;
        for iy in next.max(row(taps.start))..end {
            let place = (iy & (self.kept() - 1)) * cols * c;
            // SAFETY: the place lies in the kept rows; the row is one of the picture's.
            unsafe {
                let out = scratch.add(place).wrapping_sub(iy * cols * c);
                expand.pixels(call.x, iy * cols..(iy + 1) * cols, tail, out);
            }
        }
        end.max(next)
    }
}

/// Most bands of a depthwise layer's rows such that edge rows computed twice are a quarter of all at most.
fn bands(w: &Window) -> usize {
    let span = (w.kernel[0] - 1) * w.dilation[0] + 1;
    let least = (4 * span.saturating_sub(w.stride[0])).div_ceil(w.stride[0]).max(1);
    (w.output[0] / least).max(1)
}

/// What a run is given.
struct Call<'a> {
    x: *const f32,
    tail: &'a Tail<'a>,
    out: *mut f32,
}
