//! Convolutions over NHWC pictures (batch 1): what they share. A [`Window`] says which input pixels an output pixel sees, a
//! [`Finish`] what happens to a sum before it is stored. The kernels: [`super::dense::Conv`] (every dense convolution, 1x1 and
//! fully connected among them), [`super::depthwise::Depthwise`], [`super::pooling::Pooling`] and [`super::resize::Resize`].

use super::lanes::Lanes;
use crate::simd::{self, Level};

/// A window that does not fit its picture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WindowError(pub String);

/// How far a window may reach over the edge of the picture. Pixels outside count as zero (pooling leaves them out).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// TensorFlow's SAME: output = ceil(input / stride); an odd total puts the larger half at the end.
    Same,
    /// Not at all.
    Valid,
    /// [[top, bottom], [left, right]]
    Explicit([[usize; 2]; 2]),
}

/// The geometry of a convolution or pooling, checked once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// (h, w, c)
    pub input: [usize; 3],
    /// (h, w, c)
    pub output: [usize; 3],
    /// (h, w)
    pub kernel: [usize; 2],
    /// (h, w)
    pub stride: [usize; 2],
    /// (h, w)
    pub dilation: [usize; 2],
    /// (top, left)
    pub pad: [usize; 2],
}

/// No dimension, kernel, stride or padding above this is meant seriously; below it no product of two overflows.
const LIMIT: usize = 1 << 24;

impl Window {
    /// The window of a kernel over a picture of `input` (h, w, c), to `channels` output channels.
    pub fn new(
        input: [usize; 3],
        channels: usize,
        kernel: [usize; 2],
        stride: [usize; 2],
        dilation: [usize; 2],
        padding: Padding,
    ) -> Result<Self, WindowError> {
        let all = input.iter().chain(&kernel).chain(&stride).chain(&dilation).chain([&channels]);
        if let Some(bad) = all.copied().find(|&v| v == 0 || v > LIMIT) {
            return Err(WindowError(format!(
                "input {input:?}, kernel {kernel:?}, stride {stride:?}, dilation {dilation:?}, {channels} channels: each value must \
                 lie in 1..={LIMIT}, not {bad}"
            )));
        }
        let (mut output, mut pad) = ([0, 0, channels], [0, 0]);
        for d in 0..2 {
            let span = (kernel[d] - 1) * dilation[d] + 1;
            let [before, after] = match padding {
                Padding::Same => {
                    let total = ((input[d].div_ceil(stride[d]) - 1) * stride[d] + span).saturating_sub(input[d]);
                    [total / 2, total - total / 2]
                }
                Padding::Valid => [0, 0],
                Padding::Explicit(p) => p[d],
            };
            let padded = input[d].saturating_add(before).saturating_add(after);
            if padded > LIMIT || span > padded {
                return Err(WindowError(format!("a kernel that spans {span} does not fit {padded} padded pixels")));
            }
            (output[d], pad[d]) = ((padded - span) / stride[d] + 1, before);
        }
        Ok(Self { input, output, kernel, stride, dilation, pad })
    }

    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Elements of the input picture.
    pub fn input_len(&self) -> usize {
        self.input.iter().product()
    }

    /// Elements of the output picture.
    pub fn output_len(&self) -> usize {
        self.output.iter().product()
    }

    /// The taps along dimension `d` (0 rows, 1 columns) that fall inside the picture for output position `o`.
    #[inline]
    pub(crate) fn inside(&self, d: usize, o: usize) -> std::ops::Range<usize> {
        let (start, dilation) = (o * self.stride[d], self.dilation[d]);
        let (before, room) = (self.pad[d].saturating_sub(start), (self.input[d] + self.pad[d]).saturating_sub(start));
        // Hardly any network dilates; a division each pixel would cost as much as the taps.
        let (lo, hi) = if dilation == 1 { (before, room) } else { (before.div_ceil(dilation), room.div_ceil(dilation)) };
        let lo = lo.min(self.kernel[d]);
        lo..hi.min(self.kernel[d]).max(lo)
    }

    /// The output columns whose every tap falls inside the picture.
    pub(crate) fn interior(&self) -> std::ops::Range<usize> {
        let span = (self.kernel[1] - 1) * self.dilation[1] + 1;
        let lo = self.pad[1].div_ceil(self.stride[1]).min(self.output[1]);
        let hi = match (self.input[1] + self.pad[1]).checked_sub(span) {
            Some(last) => (last / self.stride[1] + 1).min(self.output[1]),
            None => lo,
        };
        lo..hi.max(lo)
    }
}

/// A function of one value, cheap enough to apply before a sum is stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Act {
    /// Nothing.
    #[default]
    None,
    /// Clamped: ReLU is (0, inf), ReLU6 (0, 6).
    Clamp(f32, f32),
    /// `max(x, 0) + slope * min(x, 0)`, a slope a channel.
    Prelu(Vec<f32>),
}

/// What happens to a value before it is stored: `after(before(value) [+ residual])`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finish {
    /// Applied first.
    pub before: Act,
    /// Applied after the residual.
    pub after: Act,
}

impl Finish {
    /// For `n` pixels taken as one.
    pub(crate) fn repeated(mut self, n: usize) -> Self {
        for act in [&mut self.before, &mut self.after] {
            if let Act::Prelu(slopes) = act {
                *slopes = slopes.repeat(n);
            }
        }
        self
    }

    /// Slopes filled up with zeros to a whole number of vectors, so that kernels load them whole.
    pub(crate) fn padded(mut self, channels: usize) -> Self {
        for act in [&mut self.before, &mut self.after] {
            if let Act::Prelu(slopes) = act {
                assert_eq!(slopes.len(), channels, "PReLU takes one slope a channel");
                slopes.resize(channels + PADDING, 0.0);
            }
        }
        self
    }
}

/// Zeros on a cache line's boundary, so that no vector of them straddles two lines (which halves the rate of loads).
#[derive(Default)]
pub struct Buffer {
    data: Vec<f32>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self::staggered(len, 0)
    }

    /// As [`Buffer::zeros`], beginning `lines` cache lines (at most 63) further into its memory: large buffers all begin at the same
    /// place of a page, and rows of pictures that are read and written together would compete for the same lines of a cache.
    pub fn staggered(len: usize, lines: usize) -> Self {
        let skip = lines % 64 * PADDING;
        let data = vec![0.0f32; len + skip + PADDING];
        // Where the allocator gives no such place the start is as good as any.
        let start = skip + data.as_ptr().align_offset(64).min(PADDING);
        Self { data, start, len }
    }
}

impl std::ops::Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.start..self.start + self.len]
    }
}

/// Floats appended to per-channel tables: the widest vector.
pub(crate) const PADDING: usize = 16;

/// A picture added to a result: of the output's height and width, with its first `channels` channels (the rest counts as zero).
#[derive(Clone, Copy, Debug)]
pub struct Residual<'a> {
    /// (h, w, channels)
    pub data: &'a [f32],
    /// At most the output's.
    pub channels: usize,
}

/// [`Finish`] and [`Residual`] as the inner loops use them.
#[derive(Clone, Copy)]
pub(crate) struct Tail<'a> {
    finish: &'a Finish,
    residual: Option<Residual<'a>>,
    channels: usize,
}

impl<'a> Tail<'a> {
    /// Checks that the residual has one row of channels a pixel. `finish` is [`Finish::padded`].
    pub(crate) fn new(finish: &'a Finish, residual: Option<Residual<'a>>, pixels: usize, channels: usize) -> Self {
        if let Some(r) = residual {
            assert!(r.channels <= channels && r.data.len() == pixels * r.channels, "residual of another shape");
        }
        Self { finish, residual, channels }
    }

    pub(crate) fn has_residual(&self) -> bool {
        self.residual.is_some()
    }

    /// Finishes and stores the vectors of `P` neighbouring pixels from `pixel` on, all from channel `c` on.
    ///
    /// # Safety
    /// The instruction set of `L` is there; the channels of the pixels from `c` on are writable behind `out`, which is where the
    /// picture would begin.
    #[inline(always)]
    pub(crate) unsafe fn store<L: Lanes, const P: usize>(&self, mut v: [L; P], out: *mut f32, pixel: usize, c: usize) {
        // SAFETY: per-channel tables are padded to whole vectors; residual and output are touched within their channels only.
        unsafe {
            apply(&self.finish.before, &mut v, c);
            if let Some(r) = self.residual {
                let from = r.data.as_ptr().wrapping_add(pixel * r.channels + c);
                if c + L::N <= r.channels {
                    for p in 0..P {
                        v[p] = v[p].add(L::load(from.wrapping_add(p * r.channels)));
                    }
                } else if c < r.channels {
                    for p in 0..P {
                        v[p] = v[p].add(L::load_n(from.wrapping_add(p * r.channels), r.channels - c));
                    }
                }
            }
            apply(&self.finish.after, &mut v, c);
            let out = out.wrapping_add(pixel * self.channels + c);
            if c + L::N <= self.channels {
                for p in 0..P {
                    v[p].store(out.wrapping_add(p * self.channels));
                }
            } else {
                for p in 0..P {
                    v[p].store_n(out.wrapping_add(p * self.channels), self.channels - c);
                }
            }
        }
    }
}

/// One decision for all pixels.
///
/// # Safety
/// The instruction set of `L` is there; slopes are padded to whole vectors.
#[inline(always)]
unsafe fn apply<L: Lanes, const P: usize>(act: &Act, v: &mut [L; P], c: usize) {
    // SAFETY: `c` is a channel, and the table goes on for a vector after the last one.
    unsafe {
        match act {
            Act::None => {}
            Act::Clamp(lo, hi) => {
                let (lo, hi) = (L::splat(*lo), L::splat(*hi));
                for p in 0..P {
                    v[p] = v[p].max(lo).min(hi);
                }
            }
            Act::Prelu(slopes) => {
                let (zero, slopes) = (L::splat(0.0), L::load(slopes.as_ptr().add(c)));
                for p in 0..P {
                    v[p] = v[p].max(zero).fma(v[p].min(zero), slopes);
                }
            }
        }
    }
}

/// The vectors that a kernel uses: AVX-512 falls back to eight lanes where sixteen would be half empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Four,
    Eight,
    Sixteen,
}

impl Width {
    /// For `channels` at the level in use (`usize::MAX`: the widest).
    pub(crate) fn of(channels: usize) -> Self {
        match simd::level() {
            Level::Avx512 if channels > 8 => Self::Sixteen,
            Level::Avx512 | Level::Vnni | Level::Avx2 => Self::Eight,
            Level::Portable | Level::Neon => Self::Four,
        }
    }

    /// All that this processor has.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Self> {
        let level = simd::detect();
        let has = |w: &Self| match w {
            Self::Four => true,
            Self::Eight => level >= Level::Avx2,
            Self::Sixteen => level == Level::Avx512,
        };
        [Self::Four, Self::Eight, Self::Sixteen].into_iter().filter(has).collect()
    }

    pub(crate) fn lanes(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
            Self::Sixteen => 16,
        }
    }
}

/// Output memory that parallel tasks write to, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub(crate) *mut f32);
// SAFETY: tasks write disjoint ranges of one exclusively borrowed slice that outlives the parallel region.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// Compiles `$body` (a call generic over `Lanes`, named `$L`) once a width and calls the one asked for.
macro_rules! by_width {
    ($width:expr, $name:ident::<L>($($arg:ident: $ty:ty),*)) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn eight($($arg: $ty),*) {
            // SAFETY: the caller found the instruction set; the rest is its contract.
            unsafe { $name::<$crate::cpu::lanes::Ymm>($($arg),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        unsafe fn sixteen($($arg: $ty),*) {
            // SAFETY: the caller found the instruction set; the rest is its contract.
            unsafe { $name::<$crate::cpu::lanes::Zmm>($($arg),*) }
        }
        // SAFETY: a width is only chosen on a processor that has it (`Width::of`); the rest is the caller's contract.
        unsafe {
            match $width {
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::conv::Width::Sixteen => sixteen($($arg),*),
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::conv::Width::Eight => eight($($arg),*),
                _ => $name::<$crate::cpu::lanes::Plain>($($arg),*),
            }
        }
    }};
}
pub(crate) use by_width;

/// Multiply-adds below which a second thread costs more than it brings.
const GRAIN: usize = 1 << 17;

/// In how many tasks work of `macs` multiply-adds over `units` indivisible parts is cut. (Results never depend on it.)
pub(crate) fn tasks(threads: usize, units: usize, macs: usize) -> usize {
    if threads == 1 { 1 } else { (macs / GRAIN).clamp(1, threads * 4).min(units.max(1)) }
}

/// Part `i` of `n` near-equal parts of `0..len`.
pub(crate) fn part(len: usize, i: usize, n: usize) -> std::ops::Range<usize> {
    len * i / n..len * (i + 1) / n
}
