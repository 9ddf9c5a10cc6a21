//! What a frame of sound looks like: levels of bands against the noise under them, and periodicity.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

use super::noise::Noise;
use super::{HOP, SAMPLE_RATE};

/// Samples of a frame, 32 ms.
pub(super) const FRAME: usize = 512;
/// Padded to twice its length, so that the autocorrelation does not wrap around.
const N_FFT: usize = 2 * FRAME;
/// Bands, equally wide on the mel scale.
pub(super) const BANDS: usize = 16;
/// What speech needs and the telephone carries.
const BAND_HZ: [f64; 2] = [150.0, 3800.0];
/// Rates of vibration of the vocal folds, Hz.
const VOICE_HZ: [f64; 2] = [70.0, 500.0];
/// Level of a band below which nothing is heard, dB re full scale: with less, rounding to 16 bits would count as sound.
pub(super) const INAUDIBLE_DB: f32 = -100.0;
/// A band further above its noise than this says no more than that it is above it.
const CLEAR_DB: f32 = 30.0;

/// What is measured in a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Frame {
    /// Mean over the bands of the level above the noise, each 0..=30 dB.
    pub(super) above: f32,
    /// Mean over the bands of the level, dB re full scale.
    pub(super) level: f32,
    /// Peak of the normalized autocorrelation at the periods of a voice, 0..=1 (Boersma 1993).
    pub(super) periodicity: f32,
}

/// Measures frames one after the other.
pub(super) struct Features {
    forward: Arc<dyn RealToComplex<f32>>,
    inverse: Arc<dyn ComplexToReal<f32>>,
    window: Vec<f32>,             // (FRAME)
    window_correlation: Vec<f32>, // (FRAME), 1 at 0
    edges: [usize; BANDS + 1],    // bins
    samples: Vec<f32>,            // (N_FFT)
    spectrum: Vec<Complex<f32>>,  // (N_FFT / 2 + 1)
    scratch: Vec<Complex<f32>>,
    noise: Noise,
}

impl Features {
    pub(super) fn new() -> Self {
        let mut planner = RealFftPlanner::new();
        let (forward, inverse) = (planner.plan_fft_forward(N_FFT), planner.plan_fft_inverse(N_FFT));
        let hann = |i: usize| 0.5 - 0.5 * (std::f64::consts::TAU * (i as f64 + 0.5) / FRAME as f64).cos();
        let window: Vec<f32> = (0..FRAME).map(|i| hann(i) as f32).collect();
        let correlation = |lag: usize| window.iter().zip(&window[lag..]).map(|(a, b)| a * b).sum::<f32>();
        let energy = correlation(0);
        let window_correlation = (0..FRAME).map(|lag| correlation(lag) / energy).collect();
        let mel = |hz: f64| 2595.0 * (1.0 + hz / 700.0).log10();
        let [low, high] = BAND_HZ.map(mel);
        let edges = std::array::from_fn(|i| {
            let hz = 700.0 * (10f64.powf((low + (high - low) * i as f64 / BANDS as f64) / 2595.0) - 1.0);
            (hz * N_FFT as f64 / SAMPLE_RATE as f64).round() as usize
        });
        let scratch = forward.get_scratch_len().max(inverse.get_scratch_len());
        Self {
            samples: forward.make_input_vec(),
            spectrum: forward.make_output_vec(),
            scratch: vec![Complex::default(); scratch],
            forward,
            inverse,
            window,
            window_correlation,
            edges,
            noise: Noise::new(),
        }
    }

    /// Measures the next frame: `pcm` are its [`FRAME`] samples, of which [`HOP`] are new.
    pub(super) fn measure(&mut self, pcm: &[f32]) -> Frame {
        // 1. power spectrum, without what does not vibrate
        let mean = pcm.iter().sum::<f32>() / FRAME as f32;
        self.samples.fill(0.0);
        for ((x, s), w) in self.samples.iter_mut().zip(pcm).zip(&self.window) {
            *x = (s - mean) * w;
        }
        let scratch = &mut self.scratch[..self.forward.get_scratch_len()];
        if self.forward.process_with_scratch(&mut self.samples, &mut self.spectrum, scratch).is_err() {
            return Frame::default(); // the lengths are the plan's own
        }
        // 2. bands against their noise
        let scale = 4.0 / (FRAME * FRAME) as f32;
        let power: [f32; BANDS] = std::array::from_fn(|band| {
            let bins = &self.spectrum[self.edges[band]..self.edges[band + 1]];
            bins.iter().map(Complex::norm_sqr).sum::<f32>() * scale
        });
        let floors = self.noise.follow(&power);
        let decibels = power.map(|p| (10.0 * p.max(1e-12).log10()).max(INAUDIBLE_DB));
        let mean = |of: &dyn Fn(usize) -> f32| (0..BANDS).map(of).sum::<f32>() / BANDS as f32;
        let above = mean(&|band| (decibels[band] - floors[band]).clamp(0.0, CLEAR_DB));
        let level = mean(&|band| decibels[band]);
        // 3. periodicity, where there is anything at all
        let periodicity = if above > 1.0 { self.periodicity() } else { 0.0 };
        Frame { above, level, periodicity }
    }

    /// Of the frame whose spectrum is there, which is lost.
    fn periodicity(&mut self) -> f32 {
        for z in &mut self.spectrum {
            *z = Complex::new(z.norm_sqr(), 0.0);
        }
        let scratch = &mut self.scratch[..self.inverse.get_scratch_len()];
        if self.inverse.process_with_scratch(&mut self.spectrum, &mut self.samples, scratch).is_err() {
            return 0.0; // the lengths are the plan's own
        }
        let energy = self.samples[0].max(f32::MIN_POSITIVE);
        let lag = |hz: f64| (SAMPLE_RATE as f64 / hz) as usize;
        let lags = lag(VOICE_HZ[1])..lag(VOICE_HZ[0]);
        let at = |lag: usize| self.samples[lag] / energy / self.window_correlation[lag];
        // a maximum within the range: low tones that only begin to fall there are none
        let peak = lags.filter(|l| at(*l) > at(l - 1) && at(*l) >= at(l + 1)).map(at).fold(0.0, f32::max);
        peak.min(1.0)
    }
}

const _: () = assert!(FRAME > HOP);
