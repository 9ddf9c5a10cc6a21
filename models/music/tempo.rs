//! Tempo: at which distance the onsets repeat.

use dreamseed_kernels::Pool;

use super::onset::{HOP, RATE, hann};
use crate::prosody::{fft::Fft, signal::parabola};

/// Seconds under the window of the autocorrelation.
const REACH: f64 = 8.0;
/// The middle of the prior, beats a minute; people tap most readily near it (Parncutt 1994: about 100).
const USUAL: f64 = 120.0;
/// Standard deviation of the prior, octaves.
const OCTAVES: f64 = 1.0;
/// No faster tempo is looked for, beats a minute.
const FASTEST: f64 = 320.0;
/// Windows that one task computes.
const BLOCK: usize = 128;

/// Root mean square of the envelope about its mean that is no onset but rounding, dB.
const SLIGHT: f64 = 0.05;

/// Frames a second.
pub(super) const FRAMES: f64 = RATE / HOP as f64;
/// Frames under the window.
const WIDTH: usize = (REACH * FRAMES) as usize;

/// The beat of an onset envelope.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Beat {
    /// Frames, whole.
    pub(super) lag: usize,
    /// Frames, between whole ones: the top of the parabola through the autocorrelation at the lag and its neighbours.
    pub(super) period: f64,
}

/// Beats a minute at a period of so many frames.
pub(super) fn per_minute(period: f64) -> f64 {
    60.0 * FRAMES / period
}

/// The beat of an onset `envelope`; `None` where no onset is.
///
/// The autocorrelation tempogram (Grosche, Mueller and Kurth 2010) is averaged over all frames, each normalized to 1 at lag 0; the
/// lag with the largest logarithm of it plus that of a log-normal prior about 120 beats a minute is the beat (`tempo` of librosa
/// 0.11).
pub(super) fn estimate(pool: &Pool, envelope: &[f64]) -> Option<Beat> {
    if !envelope.iter().any(|&v| v > 0.0) {
        return None;
    }
    let correlation = tempogram(pool, envelope);
    let score = |lag: usize| {
        let octaves = (per_minute(lag as f64) / USUAL).log2() / OCTAVES;
        (1e6 * correlation[lag].max(0.0)).ln_1p() - 0.5 * octaves * octaves
    };
    let fastest = (1..WIDTH).find(|&lag| per_minute(lag as f64) < FASTEST)?;
    let lag = (fastest..WIDTH).max_by(|&a, &b| score(a).total_cmp(&score(b)).then(b.cmp(&a)))?;
    let shift = correlation.get(lag - 1..lag + 2).map_or(0.0, |c| parabola(c[0], c[1], c[2]).0.clamp(-0.5, 0.5));
    Some(Beat { lag, period: lag as f64 + shift })
}

/// Mean over all frames of the autocorrelation of the envelope around each, by lag in frames.
fn tempogram(pool: &Pool, envelope: &[f64]) -> Vec<f64> {
    let (fft, window, padded) = (Fft::new(2 * WIDTH), hann(WIDTH), ramped(envelope));
    // Transforms are linear: the power spectra are summed, and one goes back.
    let bins = fft.buffers().spectrum.len();
    let mut spectra = vec![0.0f64; envelope.len().div_ceil(BLOCK) * bins]; // (blocks, bins)
    pool.for_each_chunk(&mut spectra, bins, |block, sum| {
        let mut buffers = fft.buffers();
        for at in block * BLOCK..((block + 1) * BLOCK).min(envelope.len()) {
            buffers.samples.fill(0.0);
            let under = padded[at..].iter().zip(&window).map(|(v, w)| v * w);
            buffers.samples.iter_mut().zip(under).for_each(|(x, v)| *x = v);
            let energy: f64 = buffers.samples.iter().map(|v| v * v).sum();
            fft.forward(&mut buffers);
            let scale = if energy < f64::from(f32::MIN_POSITIVE) { 1.0 } else { 1.0 / energy };
            sum.iter_mut().zip(&buffers.spectrum).for_each(|(s, c)| *s += scale * c.norm_sqr());
        }
    });
    let mut buffers = fft.buffers();
    for (bin, c) in buffers.spectrum.iter_mut().enumerate() {
        c.re = spectra.iter().skip(bin).step_by(bins).sum::<f64>() / envelope.len() as f64;
        c.im = 0.0;
    }
    fft.inverse(&mut buffers);
    buffers.samples.truncate(WIDTH);
    buffers.samples
}

/// The envelope with half a window on both sides, rising from 0 to its first value and falling from its last.
fn ramped(envelope: &[f64]) -> Vec<f64> {
    let half = WIDTH / 2;
    let (first, last) = (envelope.first().copied().unwrap_or(0.0), envelope.last().copied().unwrap_or(0.0));
    let ramp = |i: usize, to: f64| to * i as f64 / half as f64;
    let before = (0..half).map(|i| ramp(i, first));
    let after = (0..half).rev().map(|i| ramp(i, last));
    before.chain(envelope.iter().copied()).chain(after).chain(std::iter::once(0.0)).collect()
}

/// How clearly the onsets repeat every `beat` frames, 0..1: their autocorrelation about their mean at one beat (give or take a
/// frame) or at two, the mean over windows of eight seconds; pulse clarity in the sense of Lartillot et al. (2008). Without the mean,
/// noise, whose onsets are everywhere, is near 0.
pub(super) fn clarity(envelope: &[f64], beat: usize) -> f64 {
    let width = WIDTH.min(envelope.len());
    if beat == 0 || 2 * beat + 2 > width {
        return 0.0;
    }
    let step = (width / 4).max(1);
    let (mut sum, mut n) = (0.0, 0u32);
    for at in (0..=envelope.len() - width).step_by(step) {
        let part = &envelope[at..at + width];
        let mean = part.iter().sum::<f64>() / width as f64;
        let energy: f64 = part.iter().map(|v| (v - mean).powi(2)).sum();
        let at_lag = |lag: usize| {
            let products: f64 = part.iter().zip(&part[lag..]).map(|(a, b)| (a - mean) * (b - mean)).sum();
            products / energy * width as f64 / (width - lag) as f64
        };
        n += 1;
        if energy > SLIGHT * SLIGHT * width as f64 {
            let best = |beats: usize| (beats * beat - 1..=beats * beat + 1).map(at_lag).fold(0.0, f64::max);
            sum += best(1).max(best(2));
        }
    }
    (sum / f64::from(n.max(1))).clamp(0.0, 1.0)
}
