//! What the analyses share: the frame grid, peaks between samples, quantiles.

use std::f64::consts::PI;

/// Samples a second of everything in this module.
pub(super) const RATE: f64 = 16_000.0;

/// Semitones in an octave.
pub(super) const SEMITONES: f64 = 12.0;

/// Frames at equal distances, `len` of them, the first centred on `start` seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Grid {
    pub(super) start: f64,
    pub(super) hop: f64,
    pub(super) len: usize,
}

impl Grid {
    /// As many whole windows of `window` seconds as fit, placed symmetrically about the middle of the sound (Praat's short-term
    /// analysis). Empty when not even one fits.
    pub(super) fn centred(samples: usize, window: f64, hop: f64) -> Self {
        let duration = samples as f64 / RATE;
        if duration < window {
            return Self { start: 0.0, hop, len: 0 };
        }
        let len = ((duration - window) / hop).floor() as usize + 1;
        Self { start: 0.5 * (duration - (len - 1) as f64 * hop), hop, len }
    }

    /// Centre of frame `i`, seconds.
    pub(super) fn time(&self, i: usize) -> f64 {
        self.start + i as f64 * self.hop
    }

    /// Frame whose centre is nearest to `t`; `None` when the grid is empty or `t` is more than half a hop outside of it.
    pub(super) fn nearest(&self, t: f64) -> Option<usize> {
        let i = ((t - self.start) / self.hop).round();
        (i >= 0.0 && i < self.len as f64).then_some(i as usize)
    }
}

/// Index of the last sample at or before `t` seconds; sample i lies at (i + 0.5) / RATE. May be negative.
pub(super) fn sample_before(t: f64) -> isize {
    (t * RATE - 0.5).floor() as isize
}

/// Index of the sample nearest to `t` seconds. May be negative.
pub(super) fn sample_nearest(t: f64) -> isize {
    (t * RATE - 0.5).round() as isize
}

/// Finite samples as they are, others as silence.
pub(super) fn sanitized(pcm: &[f32]) -> Vec<f32> {
    pcm.iter().map(|&x| if x.is_finite() { x } else { 0.0 }).collect()
}

/// Windowed-sinc interpolation of `y` at the real index `x`, over at most `depth` samples to each side (raised-cosine window).
/// Exact for band-limited curves as `depth` grows: what Boersma (1993, eq. 22) uses between lags.
pub(super) fn sinc(y: &[f64], x: f64, depth: usize) -> f64 {
    let last = y.len() - 1;
    if x <= 0.0 {
        return y[0];
    }
    if x >= last as f64 {
        return y[last];
    }
    let left = x.floor() as usize;
    let fraction = x - left as f64;
    if fraction == 0.0 {
        return y[left];
    }
    let depth = depth.min(left + 1).min(last - left);
    let scale = 0.5 * (PI * fraction).sin() / PI;
    scale
        * (half_sinc(y[left + 1 - depth..=left].iter().rev(), fraction, depth)
            + half_sinc(y[left + 1..=left + depth].iter(), 1.0 - fraction, depth))
}

/// One side of [`sinc`]: samples at distances `first`, `first + 1`, ... from the point. The sine keeps its size and flips its sign
/// from sample to sample; the window's cosine advances by rotation.
fn half_sinc<'a>(samples: impl Iterator<Item = &'a f64>, first: f64, depth: usize) -> f64 {
    let width = first + depth as f64;
    let (step_sin, step_cos) = (PI / width).sin_cos();
    let (mut sin, mut cos) = (PI * first / width).sin_cos();
    let (mut sum, mut distance, mut sign) = (0.0, first, 1.0);
    for &y in samples {
        sum += sign * y * (1.0 + cos) / distance;
        distance += 1.0;
        sign = -sign;
        (sin, cos) = (sin * step_cos + cos * step_sin, cos * step_cos - sin * step_sin);
    }
    sum
}

/// Place (real index) and height of the maximum of the sinc-interpolated `y` near its local maximum at sample `i`.
///
/// Three parabolas, each through points closer to the last one's top: quadratic convergence, so that the place is good to about
/// 1e-6 samples (Praat's Brent search stops at 1e-10).
pub(super) fn sinc_maximum(y: &[f64], i: usize, depth: usize) -> (f64, f64) {
    let mut x = i as f64 + parabola(y[i - 1], y[i], y[i + 1]).0;
    let mut top = y[i];
    for step in [0.2, 0.02] {
        let middle = sinc(y, x, depth);
        let (shift, height) = parabola(sinc(y, x - step, depth), middle, sinc(y, x + step, depth));
        x = (x + shift.clamp(-2.0, 2.0) * step).clamp(i as f64 - 1.0, i as f64 + 1.0);
        top = height;
    }
    (x, top)
}

/// Top of the parabola through three points one apart: its shift from the middle one, and its height. The middle itself where the
/// three lie on a line.
pub(crate) fn parabola(left: f64, middle: f64, right: f64) -> (f64, f64) {
    let slope = 0.5 * (right - left);
    let curvature = (middle - left) + (middle - right);
    if curvature == 0.0 || !curvature.is_finite() {
        return (0.0, middle);
    }
    (slope / curvature, middle + 0.5 * slope * slope / curvature)
}

/// Quantile `q` (0..1) of `sorted`, linear between neighbours. `None` of nothing.
pub(super) fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = q * last as f64;
    let low = place.floor() as usize;
    let high = (low + 1).min(last);
    Some(sorted[low] + (place - low as f64) * (sorted[high] - sorted[low]))
}

/// Mean and standard deviation (n - 1). `None` of nothing; deviation 0 of one.
pub(super) fn mean_sd(values: impl Iterator<Item = f64> + Clone) -> Option<(f64, f64)> {
    let (n, sum) = values.clone().fold((0usize, 0.0), |(n, s), v| (n + 1, s + v));
    if n == 0 {
        return None;
    }
    let mean = sum / n as f64;
    let square: f64 = values.map(|v| (v - mean) * (v - mean)).sum();
    Some((mean, (square / (n.max(2) - 1) as f64).sqrt()))
}

/// Difference between two frequencies in semitones.
pub(super) fn semitones(hz: f64, reference: f64) -> f64 {
    SEMITONES * (hz / reference).log2()
}
