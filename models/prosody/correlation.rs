//! Short-term correlation of a sound with itself, and the periods that its maxima suggest (Boersma 1993).

use realfft::num_complex::Complex;

use super::{
    fft::{Buffers, Fft},
    signal::{Grid, RATE, parabola, sample_before, sinc, sinc_maximum},
};

/// Samples to each side in the first estimate of a maximum's height, and in the final one.
const DEPTH_ROUGH: usize = 30;
const DEPTH_FINE: usize = 70;
/// More than the rough height is ever off by.
const ROUGH_ERROR: f64 = 0.05;
/// Final depth for very short periods, whose maxima are only a few samples wide; frequency (over the rate) where they begin.
const DEPTH_SHORT: usize = 700;
const SHORT_PERIOD: f64 = 0.3;

/// How a frame is correlated with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Correlation {
    /// Autocorrelation of three periods of the floor under a Hann window, divided by the window's own.
    Auto,
    /// One period of the floor against what follows it (forward cross-correlation), each normalised by its energy.
    Cross,
}

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    pub(super) correlation: Correlation,
    /// Lowest F0, Hz.
    pub(super) floor: f64,
    /// Most candidates a frame, besides "unvoiced".
    pub(super) candidates: usize,
    /// Maxima at half of this or below are not looked at.
    pub(super) voicing_threshold: f64,
    /// Favours short periods among equals, per octave.
    pub(super) octave_cost: f64,
    /// Whether only the highest maximum matters: then those far below it are left out.
    pub(super) highest_only: bool,
}

/// A period that the frame may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Hz.
    pub(super) frequency: f64,
    /// Height of the correlation there, 0..1.
    pub(super) strength: f64,
}

/// A sound prepared for [`Search`].
pub(super) struct Correlator<'a> {
    search: Search,
    pcm: &'a [f32],
    /// Largest distance from the mean in the whole sound; 0 for silence.
    peak: f64,
    window: Vec<f64>,             // (n_window), ones for Cross
    window_correlation: Vec<f64>, // (max_lag + 1), 1 at lag 0; empty for Cross
    period: usize,                // samples in the longest period
    max_lag: usize,               // longest lag that may be a candidate
    lags: usize,                  // longest lag that is computed, for the interpolation
    fft: Fft,
}

/// Buffers of one thread.
pub(super) struct Scratch {
    fft: Buffers,            // samples: the frame
    head: Vec<Complex<f64>>, // (n_fft / 2 + 1), spectrum of the first window; Cross only
    r: Vec<f64>,             // (2 * lags + 1), lag 0 in the middle
    found: Vec<(Candidate, usize)>,
}

impl<'a> Correlator<'a> {
    /// Tables for `pcm`, which holds finite numbers.
    pub(super) fn new(search: Search, pcm: &'a [f32]) -> Self {
        let periods = search.periods();
        let n_window = 2 * ((RATE * periods / search.floor) as usize / 2 - 1);
        let max_lag = ((n_window as f64 / periods) as usize + 2).min(n_window);
        let cross = search.correlation == Correlation::Cross;
        let lags = if cross { n_window } else { n_window / 2 };
        let n_fft = if cross { 2 * n_window + max_lag } else { n_window + lags + 1 };
        let fft = Fft::new(n_fft);
        let window = match search.correlation {
            Correlation::Auto => hann(n_window),
            Correlation::Cross => vec![1.0; n_window],
        };
        let period = (RATE / search.floor) as usize;
        let window_correlation = Vec::new();
        let peak = global_peak(pcm);
        let mut new = Self { search, pcm, peak, window, window_correlation, period, max_lag, lags, fft };
        if !cross {
            let mut scratch = new.scratch();
            scratch.fft.samples[..n_window].copy_from_slice(&new.window);
            new.fft.autocorrelate(&mut scratch.fft);
            let r = &scratch.fft.samples;
            new.window_correlation = r[..=lags].iter().map(|x| x / r[0]).collect();
        }
        new
    }

    /// Frames of this analysis, `hop` seconds apart.
    pub(super) fn grid(&self, hop: f64) -> Grid {
        let window = self.search.periods() / self.search.floor;
        let followed = if self.search.correlation == Correlation::Cross { 1.0 / self.search.floor } else { 0.0 };
        Grid::centred(self.pcm.len(), window + followed, hop)
    }

    pub(super) fn scratch(&self) -> Scratch {
        let fft = self.fft.buffers();
        Scratch { head: fft.spectrum.clone(), fft, r: vec![0.0; 2 * self.lags + 1], found: Vec::new() }
    }

    /// Candidates of the frame centred on `t`, appended to `out`; returns the frame's peak over the sound's, 0..1.
    pub(super) fn frame(&self, t: f64, scratch: &mut Scratch, out: &mut Vec<Candidate>) -> f64 {
        // 1. remove the mean of two of the longest periods about the middle
        let middle = sample_before(t) + 1;
        let period = self.period as isize;
        let mean = (middle - period..middle + period).map(|i| self.sample(i)).sum::<f64>() / (2 * period) as f64;

        // 2. window, and peak of one longest period about the middle
        let half = self.window.len() / 2;
        let frame = &mut scratch.fft.samples;
        frame.fill(0.0);
        for (j, (y, w)) in frame.iter_mut().zip(&self.window).enumerate() {
            *y = (self.sample(middle - half as isize + j as isize) - mean) * w;
        }
        let reach = (self.period / 2 + 1).min(half);
        let peak = frame[half - reach..half + reach].iter().fold(0.0f64, |p, y| p.max(y.abs()));
        if peak == 0.0 || self.peak == 0.0 {
            return 0.0;
        }

        // 3. normalised correlation, mirrored so that maxima near lag 0 can be interpolated too
        match self.search.correlation {
            Correlation::Auto => self.auto(scratch),
            Correlation::Cross => self.cross(t, mean, scratch),
        }

        // 4. its maxima
        self.candidates(scratch);
        out.extend(scratch.found.iter().map(|(c, _)| *c));
        (peak / self.peak).min(1.0)
    }

    fn sample(&self, i: isize) -> f64 {
        usize::try_from(i).ok().and_then(|i| self.pcm.get(i)).map_or(0.0, |&x| f64::from(x))
    }

    fn auto(&self, s: &mut Scratch) {
        self.fft.autocorrelate(&mut s.fft);
        let frame = &s.fft.samples;
        for lag in 0..=self.lags {
            let r = if lag == 0 { 1.0 } else { frame[lag] / (frame[0] * self.window_correlation[lag]) };
            s.r[self.lags + lag] = r;
            s.r[self.lags - lag] = r;
        }
    }

    fn cross(&self, t: f64, mean: f64, s: &mut Scratch) {
        let n = self.window.len();
        let begin = sample_before(t - 0.5 * (1.0 + self.search.periods()) / self.search.floor).max(0);
        let span = (self.max_lag + n).min(self.pcm.len().saturating_sub(begin as usize)).max(n);

        // 1. the first window alone, then all that it is compared with
        self.fill(begin, n, mean, &mut s.fft);
        self.fft.forward(&mut s.fft);
        s.head.copy_from_slice(&s.fft.spectrum);
        self.fill(begin, span, mean, &mut s.fft);

        // 2. energies of the moving window, before the transform takes the frame
        let frame = &s.fft.samples;
        s.r.fill(0.0);
        let first: f64 = frame[..n].iter().map(|x| x * x).sum();
        let mut moving = first;
        for lag in 1..=(span - n).min(self.lags) {
            moving += frame[lag + n - 1].powi(2) - frame[lag - 1].powi(2);
            s.r[self.lags + lag] = (first * moving.max(0.0)).sqrt();
        }

        // 3. products
        self.fft.forward(&mut s.fft);
        for (c, h) in s.fft.spectrum.iter_mut().zip(&s.head) {
            *c *= h.conj();
        }
        self.fft.inverse(&mut s.fft);
        for lag in 1..=self.lags {
            let norm = s.r[self.lags + lag];
            let r = if norm > 1e-12 * first { s.fft.samples[lag] / norm } else { 0.0 };
            s.r[self.lags + lag] = r;
            s.r[self.lags - lag] = r;
        }
        s.r[self.lags] = 1.0;
    }

    /// `n` samples from `begin` less `mean`, then zeros.
    fn fill(&self, begin: isize, n: usize, mean: f64, fft: &mut Buffers) {
        fft.samples.fill(0.0);
        for (j, y) in fft.samples[..n].iter_mut().enumerate() {
            *y = self.sample(begin + j as isize) - mean;
        }
    }

    /// The strongest local maxima of `r`, refined.
    fn candidates(&self, s: &mut Scratch) {
        s.found.clear();
        let (search, zero) = (&self.search, self.lags);
        // Strength with which a candidate defends its place: high frequencies win among equals.
        let rank = |c: &Candidate| c.strength - search.octave_cost * (search.floor / c.frequency).log2();
        for lag in 2..self.max_lag.min(self.lags) {
            let [left, middle, right] = [s.r[zero + lag - 1], s.r[zero + lag], s.r[zero + lag + 1]];
            if middle <= 0.5 * search.voicing_threshold || middle <= left || middle < right {
                continue;
            }
            let place = lag as f64 + parabola(left, middle, right).0;
            let strength = reflect(sinc(&s.r, zero as f64 + place, DEPTH_ROUGH));
            let new = Candidate { frequency: RATE / place, strength };
            if s.found.len() < search.candidates {
                s.found.push((new, lag));
            } else if let Some(weakest) = s.found.iter_mut().min_by(|a, b| rank(&a.0).total_cmp(&rank(&b.0)))
                && rank(&new) > rank(&weakest.0)
            {
                *weakest = (new, lag);
            }
        }
        if search.highest_only {
            let highest = s.found.iter().map(|(c, _)| c.strength).fold(0.0, f64::max);
            s.found.retain(|(c, _)| c.strength > highest - ROUGH_ERROR);
        }
        for (candidate, lag) in &mut s.found {
            let depth = if candidate.frequency > SHORT_PERIOD * RATE { DEPTH_SHORT } else { DEPTH_FINE };
            let (place, height) = sinc_maximum(&s.r, zero + *lag, depth);
            *candidate = Candidate { frequency: RATE / (place - zero as f64), strength: reflect(height) };
        }
    }
}

impl Search {
    /// Length of the analysis window in longest periods.
    fn periods(&self) -> f64 {
        match self.correlation {
            Correlation::Auto => 3.0,
            Correlation::Cross => 1.0,
        }
    }
}

/// Short windows can give correlations over 1; they count as that far below.
fn reflect(strength: f64) -> f64 {
    if strength > 1.0 { 1.0 / strength } else { strength }
}

fn hann(n: usize) -> Vec<f64> {
    (1..=n).map(|i| 0.5 - 0.5 * (2.0 * std::f64::consts::PI * i as f64 / (n + 1) as f64).cos()).collect()
}

/// Largest distance from the mean. What rounding leaves of a constant counts as silence.
fn global_peak(pcm: &[f32]) -> f64 {
    let mean = pcm.iter().map(|&x| f64::from(x)).sum::<f64>() / pcm.len().max(1) as f64;
    let peak = pcm.iter().fold(0.0f64, |p, &x| p.max((f64::from(x) - mean).abs()));
    if peak > 1e-9 * mean.abs() { peak } else { 0.0 }
}
