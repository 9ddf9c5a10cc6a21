//! Log-mel features as Whisper was trained on them (Radford et al. 2022, section 2.2; openai/whisper `audio.py`).
//!
//! Periodic Hann window of 400 samples, hop 160, reflected edges, power spectrum, Slaney mel filters, log10 with a floor of
//! 1e-10 and of 8 below the loudest value, then (x + 4) / 4.

use std::ops::Range;

use dreamseed_kernels::Pool;
use realfft::RealFftPlanner;

/// Samples a second.
pub const SAMPLE_RATE: usize = 16_000;
/// Samples from one frame to the next.
pub const HOP: usize = 160;
const N_FFT: usize = 400;
const BINS: usize = N_FFT / 2 + 1;
/// Full scale is 1; beyond this, sums of squares would lose their meaning.
const LOUDEST: f32 = 1e6;
const FRAMES_PER_TASK: usize = 64;

/// Computes features; made once for a number of mel bands.
pub struct MelExtractor {
    n_mels: usize,
    filters: Vec<(Range<usize>, Vec<f32>)>, // (n_mels): bins of each triangle, their weights
    window: Vec<f32>,                       // (N_FFT)
}

/// Features of a recording.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mel {
    /// Number of bands, 80 or 128.
    pub n_mels: usize,
    /// Row-major (frames, n_mels), one frame every 10 ms.
    pub data: Vec<f32>,
}

impl Mel {
    /// Frames of 10 ms.
    pub fn frames(&self) -> usize {
        self.data.len() / self.n_mels.max(1)
    }
}

impl MelExtractor {
    /// `n_mels` bands from 0 to 8 kHz.
    pub fn new(n_mels: usize) -> Self {
        let window = (0..N_FFT).map(|i| (0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / N_FFT as f64).cos()) as f32).collect();
        Self { n_mels, filters: slaney_filters(n_mels), window }
    }

    /// Of each band the bins that it covers and their weights.
    #[cfg(feature = "cuda")]
    pub(super) fn filters(&self) -> &[(Range<usize>, Vec<f32>)] {
        &self.filters
    }

    /// Features of mono audio at 16 kHz, one frame for every whole hop; samples that are not finite count as zero. The recording
    /// counts as followed by silence.
    pub fn extract(&self, pool: &Pool, pcm: &[f32]) -> Mel {
        let frames = pcm.len() / HOP;
        let mut data = vec![0.0; frames * self.n_mels];
        let fft = RealFftPlanner::<f32>::new().plan_fft_forward(N_FFT);
        pool.for_each_chunk(&mut data, FRAMES_PER_TASK * self.n_mels, |task, rows| {
            let (mut input, mut spectrum) = (fft.make_input_vec(), fft.make_output_vec());
            let mut scratch = fft.make_scratch_vec();
            let mut power = [0f32; BINS];
            for (i, row) in rows.chunks_exact_mut(self.n_mels).enumerate() {
                let start = ((task * FRAMES_PER_TASK + i) * HOP) as isize - (N_FFT / 2) as isize;
                for (j, (x, w)) in input.iter_mut().zip(&self.window).enumerate() {
                    *x = w * sample(pcm, start + j as isize);
                }
                // 1. power spectrum; the lengths are the plan's own, so that it cannot fail
                if fft.process_with_scratch(&mut input, &mut spectrum, &mut scratch).is_err() {
                    continue;
                }
                power.iter_mut().zip(&spectrum).for_each(|(p, z)| *p = z.norm_sqr());
                // 2. mel bands, logarithm
                for (out, (bins, weights)) in row.iter_mut().zip(&self.filters) {
                    let band: f32 = power[bins.clone()].iter().zip(weights).map(|(p, w)| p * w).sum();
                    *out = band.max(1e-10).log10();
                }
            }
        });
        // 3. floor below the loudest, scale
        let floor = data.iter().copied().fold(-10.0, f32::max) - 8.0;
        data.iter_mut().for_each(|x| *x = (x.max(floor) + 4.0) / 4.0);
        Mel { n_mels: self.n_mels, data }
    }
}

/// The sample at `i`: reflected before the start, silence after the end.
fn sample(pcm: &[f32], i: isize) -> f32 {
    match pcm.get(i.unsigned_abs()) {
        Some(x) if x.is_finite() => x.clamp(-LOUDEST, LOUDEST),
        _ => 0.0,
    }
}

/// Triangles on Slaney's mel scale (linear below 1 kHz, logarithmic above), each of unit area, as librosa computes them.
fn slaney_filters(n_mels: usize) -> Vec<(Range<usize>, Vec<f32>)> {
    let top = hertz_to_mel(SAMPLE_RATE as f64 / 2.0);
    let edges: Vec<f64> = (0..n_mels + 2).map(|i| mel_to_hertz(top * i as f64 / (n_mels + 1) as f64)).collect();
    let triangle = |e: &[f64]| {
        let weight = |bin: usize| {
            let f = (bin * SAMPLE_RATE) as f64 / N_FFT as f64;
            let slope = ((f - e[0]) / (e[1] - e[0])).min((e[2] - f) / (e[2] - e[1]));
            (slope.max(0.0) * 2.0 / (e[2] - e[0])) as f32
        };
        let first = (0..BINS).find(|b| weight(*b) > 0.0).unwrap_or(0);
        let end = (0..BINS).rfind(|b| weight(*b) > 0.0).map_or(first, |b| b + 1);
        (first..end, (first..end).map(weight).collect())
    };
    edges.windows(3).map(triangle).collect()
}

const BREAK_HZ: f64 = 1000.0;
const HZ_PER_MEL: f64 = 200.0 / 3.0;

fn log_step() -> f64 {
    6.4f64.ln() / 27.0
}

fn hertz_to_mel(f: f64) -> f64 {
    if f < BREAK_HZ { f / HZ_PER_MEL } else { BREAK_HZ / HZ_PER_MEL + (f / BREAK_HZ).ln() / log_step() }
}

fn mel_to_hertz(m: f64) -> f64 {
    let linear = BREAK_HZ / HZ_PER_MEL;
    if m < linear { m * HZ_PER_MEL } else { BREAK_HZ * ((m - linear) * log_step()).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sum over every bin in f64, straight from the definitions.
    fn reference(pcm: &[f32], n_mels: usize) -> Vec<f64> {
        let filters = slaney_filters(n_mels);
        let frames = pcm.len() / HOP;
        let mut out = Vec::new();
        for t in 0..frames {
            let mut power = [0f64; BINS];
            for (k, p) in power.iter_mut().enumerate() {
                let (mut re, mut im) = (0.0, 0.0);
                for n in 0..N_FFT {
                    let i = (t * HOP + n) as isize - 200;
                    let x = pcm.get(i.unsigned_abs()).map_or(0.0, |x| f64::from(*x));
                    let w = 0.5 * (1.0 - (std::f64::consts::TAU * n as f64 / 400.0).cos());
                    let angle = std::f64::consts::TAU * ((k * n) % 400) as f64 / 400.0;
                    re += w * x * angle.cos();
                    im -= w * x * angle.sin();
                }
                *p = re * re + im * im;
            }
            for (bins, weights) in &filters {
                let band: f64 = bins.clone().zip(weights).map(|(b, w)| power[b] * f64::from(*w)).sum();
                out.push(band.max(1e-10).log10());
            }
        }
        let max = out.iter().copied().fold(f64::MIN, f64::max);
        out.iter().map(|x| (x.max(max - 8.0) + 4.0) / 4.0).collect()
    }

    #[test]
    fn equals_the_definition_for_80_and_128_bands() {
        let pcm: Vec<f32> = (0..1777).map(|i| ((i * i) as f32 * 1e-3).sin() * 0.3 + (i as f32 * 0.05).sin() * 0.5).collect();
        for (n_mels, threads) in [(80, 1), (128, 3)] {
            let mel = MelExtractor::new(n_mels).extract(&Pool::new(threads), &pcm);
            assert_eq!((mel.frames(), mel.n_mels), (11, n_mels));
            for (a, b) in mel.data.iter().zip(reference(&pcm, n_mels)) {
                assert!((f64::from(*a) - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }

    /// Values of `librosa.filters.mel(sr=16000, n_fft=400, n_mels=80)`.
    #[test]
    fn filters_equal_librosa() {
        let dense = |band: usize, bin: usize, n_mels| {
            let (bins, weights): &(Range<usize>, Vec<f32>) = &slaney_filters(n_mels)[band];
            if bins.contains(&bin) { weights[bin - bins.start] } else { 0.0 }
        };
        for (band, bin, n_mels, wanted) in LIBROSA {
            assert!((dense(band, bin, n_mels) - wanted).abs() < 1e-7, "{band} {bin} {n_mels}");
        }
    }

    /// (band, bin, bands, weight)
    #[rustfmt::skip]
    const LIBROSA: [(usize, usize, usize, f32); 13] = [
        (0, 1, 80, 0.0248625949), (0, 2, 80, 0.0), (1, 2, 80, 0.0228717718), (20, 20, 80, 0.013890394),
        (40, 43, 80, 0.0147355665), (40, 44, 80, 0.0065181898), (79, 192, 80, 0.00316471187), (79, 193, 80, 0.00314131333),
        (0, 1, 128, 0.0123739867), (20, 12, 128, 0.022578368), (64, 43, 128, 0.0180915184),
        (127, 195, 128, 0.0050416016), (127, 196, 128, 0.00445712078),
    ];

    #[test]
    fn silence_and_rubbish_stay_finite() {
        let extractor = MelExtractor::new(80);
        let pool = Pool::new(1);
        assert!(extractor.extract(&pool, &[0.0; 1600]).data.iter().all(|x| *x == -1.5));
        assert!(extractor.extract(&pool, &[f32::NAN; 800]).data.iter().all(|x| *x == -1.5));
        assert_eq!(extractor.extract(&pool, &[0.1; 159]).frames(), 0);
    }
}
