//! Onset strength: how much louder the bands of a mel spectrogram become from frame to frame.

use std::f64::consts::PI;

use dreamseed_kernels::Pool;

use crate::prosody::fft::Fft;

/// Samples a second of everything in this module.
pub(super) const RATE: f64 = 16_000.0;
/// Samples under the window: 96 ms. librosa's 2,048 at 22.05 kHz are 93 ms.
pub(super) const WINDOW: usize = 1536;
/// Samples from frame to frame: 24 ms, a quarter of the window as in librosa (23.2 ms there).
pub(super) const HOP: usize = 384;
/// Mel bands from 0 to 8 kHz.
const BANDS: usize = 128;
/// Bins of the spectrum.
const BINS: usize = WINDOW / 2 + 1;
/// What is softer than the loudest cell by more than this counts as that soft, dB.
const RANGE_DB: f64 = 80.0;
/// Frames that one task computes.
const BLOCK: usize = 64;

/// Onset strength of mono `pcm` at 16 kHz, one value a hop, the first at 0 s: the mean over the mel bands of what each has
/// gained on the frame before, in dB, losses counted as none (`onset_strength` of librosa 0.11: lag 1, no detrending, centred
/// frames, shifted by half a window so that an onset lies on the frame where it is heard).
///
/// Empty for no samples. Values are finite for finite samples.
pub(super) fn strength(pool: &Pool, pcm: &[f32]) -> Vec<f64> {
    if pcm.is_empty() {
        return Vec::new();
    }
    // 1. mel spectrogram in dB
    let frames = 1 + pcm.len() / HOP;
    let mut mel = vec![0.0f64; frames * BANDS]; // (frames, bands)
    let (fft, window, filters) = (Fft::new(WINDOW), hann(WINDOW), filters());
    pool.for_each_chunk(&mut mel, BLOCK * BANDS, |block, chunk| {
        let mut buffers = fft.buffers();
        let mut power = vec![0.0; BINS];
        for (k, bands) in chunk.chunks_exact_mut(BANDS).enumerate() {
            let begin = ((block * BLOCK + k) * HOP) as isize - (WINDOW / 2) as isize;
            for (i, (x, w)) in buffers.samples.iter_mut().zip(&window).enumerate() {
                let at = usize::try_from(begin + i as isize).ok();
                *x = at.and_then(|at| pcm.get(at)).map_or(0.0, |&v| f64::from(v) * w);
            }
            fft.forward(&mut buffers);
            power.iter_mut().zip(&buffers.spectrum).for_each(|(p, c)| *p = c.norm_sqr());
            for (band, filter) in bands.iter_mut().zip(&filters) {
                let energy: f64 = power[filter.first..].iter().zip(&filter.weights).map(|(p, w)| p * w).sum();
                *band = 10.0 * energy.max(1e-10).log10();
            }
        }
    });
    let floor = mel.iter().copied().fold(f64::MIN, f64::max) - RANGE_DB;
    mel.iter_mut().for_each(|v| *v = v.max(floor));

    // 2. mean gain, shifted to where it is heard
    let shift = 1 + WINDOW / (2 * HOP);
    let mut strength = vec![0.0; frames];
    for (value, pair) in strength.iter_mut().skip(shift).zip(mel.windows(2 * BANDS).step_by(BANDS)) {
        let (before, now) = pair.split_at(BANDS);
        *value = before.iter().zip(now).map(|(b, n)| (n - b).max(0.0)).sum::<f64>() / BANDS as f64;
    }
    strength
}

/// Periodic Hann window.
pub(super) fn hann(n: usize) -> Vec<f64> {
    (0..n).map(|i| 0.5 - 0.5 * (2.0 * PI * i as f64 / n as f64).cos()).collect()
}

/// A triangular filter: the bins from `first` on that have weight.
struct Filter {
    first: usize,
    weights: Vec<f64>,
}

/// Mel filters of area 1 (Slaney 1998: linear up to 1 kHz, logarithmic above), equally spaced from 0 to half the rate.
fn filters() -> Vec<Filter> {
    const LINEAR: f64 = 200.0 / 3.0; // Hz a mel below 1 kHz
    let step = 6.4f64.ln() / 27.0; // logarithm of the ratio a mel above it
    let top = 15.0 + (RATE / 2.0 / 1000.0).ln() / step;
    let hz = |mel: f64| if mel < 15.0 { LINEAR * mel } else { 1000.0 * (step * (mel - 15.0)).exp() };
    let edge = |i: usize| hz(top * i as f64 / (BANDS + 1) as f64);
    let filter = |band: usize| {
        let [low, middle, high] = [edge(band), edge(band + 1), edge(band + 2)];
        let weight = |bin: usize| {
            let f = bin as f64 * RATE / WINDOW as f64;
            ((f - low) / (middle - low)).min((high - f) / (high - middle)).max(0.0) * 2.0 / (high - low)
        };
        let first = (0..BINS).find(|&b| weight(b) > 0.0).unwrap_or(0);
        Filter { first, weights: (first..BINS).map(weight).take_while(|w| *w > 0.0).collect() }
    };
    (0..BANDS).map(filter).collect()
}
