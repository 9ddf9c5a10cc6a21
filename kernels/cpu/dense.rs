//! Dense convolution of any kernel, stride, dilation and padding as one indirect matrix product: a tile of output pixels times a
//! panel of output channels, the sums in registers, input pixels read where they lie (no im2col copy). A 1x1 convolution and a
//! fully connected layer are the special case of one tap.

use super::conv::{Buffer, Finish, PADDING, Residual, Shared, Tail, Width, Window, WindowError, by_width, part, tasks};
use super::lanes::Lanes;
use super::narrow;
use crate::Pool;

/// Output channels that are computed together.
#[derive(Clone, Copy, Debug)]
struct Panel {
    col: usize,     // first output channel
    vectors: usize, // 1 to 3
    offset: usize,  // of its weights in `packed`: (k, vectors * lanes)
}

/// A dense convolution with its weights packed for this processor.
pub struct Conv {
    window: Window,
    width: Width,
    panels: Vec<Panel>,
    packed: Buffer,
    bias: Vec<f32>, // (channels + PADDING)
    finish: Finish,
    narrow: Option<(Width, Vec<f32>)>, // for one or two channels: weights as they came
    zeros: Vec<f32>,                   // (input channels): what a tap outside the picture reads
}

impl Conv {
    /// From `weights` (out, kernel h, kernel w, in) and one `bias` an output channel (or none).
    pub fn new(window: Window, weights: &[f32], bias: &[f32], finish: Finish) -> Result<Self, WindowError> {
        let width = Width::of(window.output[2]);
        let narrow = narrow::width(&window).map(|width| (width, weights.to_vec()));
        Ok(Self { narrow, ..Self::packed(window, weights, bias, finish, width)? })
    }

    /// As [`Conv::new`], by panels of vectors of `width` whatever the number of channels.
    pub(crate) fn packed(
        window: Window,
        weights: &[f32],
        bias: &[f32],
        finish: Finish,
        width: Width,
    ) -> Result<Self, WindowError> {
        let (n, k) = (window.output[2], window.taps().saturating_mul(window.input[2]));
        if Some(weights.len()) != n.checked_mul(k) || !(bias.is_empty() || bias.len() == n) {
            let seen = (weights.len(), bias.len());
            return Err(WindowError(format!(
                "{n} channels of {k} products take {n} x {k} weights and {n} biases, not {seen:?}"
            )));
        }
        let lanes = width.lanes();
        let mut panels = Vec::new();
        let (mut left, mut col, mut offset) = (n.div_ceil(lanes), 0, 0);
        while left > 0 {
            let vectors = if left == 4 { 2 } else { left.min(3) };
            panels.push(Panel { col, vectors, offset });
            (left, col, offset) = (left - vectors, col + vectors * lanes, offset + k * vectors * lanes);
        }
        let mut packed = Buffer::zeros(offset);
        for p in &panels {
            let wide = p.vectors * lanes;
            for j in 0..wide.min(n - p.col) {
                let row = &weights[(p.col + j) * k..(p.col + j + 1) * k];
                for (i, &w) in row.iter().enumerate() {
                    packed[p.offset + i * wide + j] = w;
                }
            }
        }
        let mut padded = bias.to_vec();
        padded.resize(n + 3 * PADDING, 0.0);
        let zeros = vec![0.0; window.input[2]];
        Ok(Self { width, panels, packed, bias: padded, finish: finish.padded(n), narrow: None, zeros, window })
    }

    /// The geometry.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Multiply-adds of one run.
    pub fn macs(&self) -> usize {
        self.window.output_len() * self.window.taps() * self.window.input[2]
    }

    /// `out` (h, w, channels) from `x` (h, w, c).
    ///
    /// # Panics
    /// When the lengths do not fit the window.
    pub fn run(&self, pool: &Pool, x: &[f32], residual: Option<Residual>, out: &mut [f32]) {
        let w = &self.window;
        assert!(x.len() == w.input_len() && out.len() == w.output_len(), "picture of another shape");
        let [rows, cols, n] = w.output;
        let tail = &Tail::new(&self.finish, residual, rows * cols, n);
        if let Some((width, weights)) = &self.narrow {
            let call = narrow::Call { window: w, width: *width, weights, bias: &self.bias, x, tail };
            return narrow::run(pool, &call, out);
        }
        let out = Shared(out.as_mut_ptr());
        let flat = self.is_flat();
        let units = if flat { (rows * cols).div_ceil(ROWS_MAX) } else { rows };
        let count = tasks(pool.threads(), units * self.panels.len(), self.macs());
        // Cut over pixels first, and over panels too where there are few pixels.
        let by_rows = count.min(units);
        let by_panels = count.div_ceil(by_rows).min(self.panels.len());
        pool.for_each(by_rows * by_panels, |i| {
            let out = &out;
            let part_of = part(units, i % by_rows, by_rows);
            let panels = &self.panels[part(self.panels.len(), i / by_rows, by_panels)];
            if flat {
                let pixels = part_of.start * ROWS_MAX..(part_of.end * ROWS_MAX).min(rows * cols);
                // SAFETY: lengths were checked above; each task has its own pixels or its own panels.
                unsafe { self.span(x.as_ptr(), 0, pixels, panels, tail, out.0) };
            } else {
                for y in part_of {
                    // SAFETY: as above.
                    unsafe { self.span(x.as_ptr(), y, 0..cols, panels, tail, out.0) };
                }
            }
        });
    }

    /// One tap at stride 1: the picture is one long row of pixels, cut anywhere.
    fn is_flat(&self) -> bool {
        let w = &self.window;
        w.taps() == 1 && w.stride == [1, 1] && w.pad == [0, 0] && w.input[..2] == w.output[..2]
    }

    /// The pixels `xs` of output row `y` (of the whole picture where it is one row).
    ///
    /// # Safety
    /// The input pixels that `xs` see are readable behind `x`, `xs` are writable behind `out` (pixels that are not touched need not be
    /// there: both are where the whole picture would begin), no other thread writes the panels' channels of them, and `tail` is of
    /// this layer.
    unsafe fn span(&self, x: *const f32, y: usize, xs: std::ops::Range<usize>, panels: &[Panel], tail: &Tail, out: *mut f32) {
        let call = &Call { conv: self, x, y, tail, out };
        by_width!(self.width, span::<L>(call: &Call, xs: std::ops::Range<usize>, panels: &[Panel]));
    }

    /// [`Conv::span`] of all channels of a layer that [`Conv::is_flat`].
    ///
    /// # Safety
    /// As [`Conv::span`].
    pub(crate) unsafe fn pixels(&self, x: *const f32, pixels: std::ops::Range<usize>, tail: &Tail, out: *mut f32) {
        // SAFETY: the caller's contract.
        unsafe { self.span(x, 0, pixels, &self.panels, tail, out) };
    }

    /// What [`Tail`] finishes with.
    pub(crate) fn finish(&self) -> &Finish {
        &self.finish
    }
}

/// Most pixels of a tile.
const ROWS_MAX: usize = 8;

/// What the inner loops need of a call.
struct Call<'a> {
    conv: &'a Conv,
    x: *const f32,
    y: usize,
    tail: &'a Tail<'a>,
    out: *mut f32,
}

/// # Safety
/// The instruction set of `L` is there; `xs` are pixels of the output row, and no other task writes the panels' channels of them.
#[inline(always)]
unsafe fn span<L: Lanes>(call: &Call, xs: std::ops::Range<usize>, panels: &[Panel]) {
    let inner = if call.conv.is_flat() { xs.clone() } else { call.conv.window.interior() };
    for p in panels {
        // SAFETY: panels have 1 to 3 vectors; the rest is the caller's contract.
        unsafe {
            match p.vectors {
                1 => row::<L, 1>(call, &xs, &inner, p),
                2 => row::<L, 2>(call, &xs, &inner, p),
                _ => row::<L, 3>(call, &xs, &inner, p),
            }
        }
    }
}

/// # Safety
/// As [`span`]; `inner` are pixels whose every tap along the row is inside the picture.
#[inline(always)]
unsafe fn row<L: Lanes, const NV: usize>(call: &Call, xs: &std::ops::Range<usize>, inner: &std::ops::Range<usize>, p: &Panel) {
    let mut x = xs.start;
    while x < xs.end {
        let inside = inner.contains(&x);
        let end = if inside {
            inner.end
        } else if x < inner.start {
            inner.start
        } else {
            xs.end
        }
        .min(xs.end);
        // SAFETY: each tile lies in `xs` and, where `inside`, in `inner`.
        unsafe {
            match end - x {
                // Eight pixels of one vector fit sixteen registers, of two vectors six, of three four; thirty-two registers
                // (AVX-512's, NEON's) hold eight of three.
                8.. if NV == 1 || L::N == 16 || cfg!(target_arch = "aarch64") => x += tile::<L, 8, NV>(call, x, inside, p),
                6.. if NV == 2 => x += tile::<L, 6, NV>(call, x, inside, p),
                4.. => x += tile::<L, 4, NV>(call, x, inside, p),
                2.. => x += tile::<L, 2, NV>(call, x, inside, p),
                _ => x += tile::<L, 1, NV>(call, x, inside, p),
            }
        }
    }
}

/// `MR` pixels from `x0` times one panel; returns `MR`.
///
/// # Safety
/// As [`row`].
#[inline(always)]
unsafe fn tile<L: Lanes, const MR: usize, const NV: usize>(call: &Call, x0: usize, inside: bool, p: &Panel) -> usize {
    let (conv, w) = (call.conv, &call.conv.window);
    let (c, wide) = (w.input[2], NV * L::N);
    let rows = w.inside(0, call.y);
    // SAFETY: taps that are read lie in the picture (`inside`, `rows`, the check of `col`), others read `zeros` (c floats);
    // weights, bias and slopes are padded to whole panels; the tail writes within the output's channels.
    unsafe {
        let weights = conv.packed.as_ptr().add(p.offset);
        let bias: [L; NV] = std::array::from_fn(|j| L::load(conv.bias.as_ptr().add(p.col + j * L::N)));
        let mut acc = [bias; MR];
        for ky in rows {
            let iy = call.y * w.stride[0] + ky * w.dilation[0] - w.pad[0];
            let line = call.x.wrapping_add(iy * w.input[1] * c);
            let weights = weights.add(ky * w.kernel[1] * c * wide);
            if inside && (w.dilation[1] == 1 || w.kernel[1] == 1) {
                // The taps of a row are neighbours in memory: one long run of products.
                let at = |r: usize| line.wrapping_add(((x0 + r) * w.stride[1] - w.pad[1]) * c);
                accumulate(&mut acc, &std::array::from_fn(at), weights, w.kernel[1] * c);
                continue;
            }
            for kx in 0..w.kernel[1] {
                let at = |r: usize| {
                    let col = ((x0 + r) * w.stride[1] + kx * w.dilation[1]).wrapping_sub(w.pad[1]);
                    if col < w.input[1] { line.wrapping_add(col * c) } else { conv.zeros.as_ptr() }
                };
                accumulate(&mut acc, &std::array::from_fn(at), weights.add(kx * c * wide), c);
            }
        }
        let pixel = call.y * w.output[1] + x0;
        for j in 0..NV {
            let c = p.col + j * L::N;
            if c < w.output[2] {
                call.tail.store::<L, MR>(std::array::from_fn(|r| acc[r][j]), call.out, pixel, c);
            }
        }
    }
    MR
}

/// `acc[r][j] += x[r][k] * w[k][j]` over `k` in `0..len`.
///
/// # Safety
/// The instruction set of `L` is there; `len` floats are readable at each `x`, `len * NV` vectors at `w`.
#[inline(always)]
unsafe fn accumulate<L: Lanes, const MR: usize, const NV: usize>(
    acc: &mut [[L; NV]; MR],
    x: &[*const f32; MR],
    w: *const f32,
    len: usize,
) {
    let mut sums = *acc;
    for k in 0..len {
        // SAFETY: the caller's contract.
        unsafe {
            let w: [L; NV] = std::array::from_fn(|j| L::load(w.add((k * NV + j) * L::N)));
            for r in 0..MR {
                let x = L::splat(*x[r].add(k));
                for j in 0..NV {
                    sums[r][j] = sums[r][j].fma(x, w[j]);
                }
            }
        }
    }
    *acc = sums;
}
