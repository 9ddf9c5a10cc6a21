//! Band-limited resampling to 16 kHz without delay: output sample k is the signal at the time k / 16000.
//!
//! A polyphase windowed sinc (Smith, "Digital Audio Resampling"; Kaiser 1974): [`ZEROS`] zero crossings on either side at the
//! lower of the two rates, cut-off at 95% of its Nyquist frequency, 100 dB of stop-band. The filter is symmetric about each
//! output instant, so nothing is shifted. Streaming: only the last few filter lengths of input are held.

use super::SAMPLE_RATE;

/// Zero crossings of the sinc on either side.
const ZEROS: usize = 64;
/// Cut-off over the Nyquist frequency of the lower rate: the transition ends where aliasing would begin.
const CUTOFF: f64 = 0.95;
/// Kaiser's beta for 100 dB: 0.1102 (A - 8.7).
const BETA: f64 = 10.06;
/// A ratio with more phases than this is taken from [`COARSE`] phases with linear interpolation (error below -105 dB).
const MAX_PHASES: u64 = 1024;
const COARSE: u64 = 512;
/// Input that is collected before a block is filtered.
const BLOCK: usize = 1 << 15;

/// Rates that are accepted, Hz.
pub(super) const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// Mono input at any rate of [`RATES`] to 16 kHz.
pub(super) struct Resampler {
    rate: u64,
    /// Taps of a phase; even.
    taps: usize,
    phases: u64,
    /// (phases + 1, taps): row p is the filter for an instant p / phases after an input sample.
    filters: Vec<f32>,
    /// Input not used up yet, starting at input index `base` (negative: the zeros before the start).
    pending: Vec<f32>,
    base: i64,
    /// Input samples seen.
    seen: u64,
    /// Next output index.
    next: u64,
}

impl Resampler {
    /// `rate` within [`RATES`].
    pub(super) fn new(rate: u32) -> Self {
        let rate = u64::from(rate);
        let out = u64::from(SAMPLE_RATE);
        let fine = out / gcd(rate, out);
        let phases = if fine <= MAX_PHASES { fine } else { COARSE };
        let scale = (rate as f64 / out as f64).max(1.0); // input samples between the sinc's zero crossings, before the cut-off
        let half = (ZEROS as f64 * scale).ceil() as usize;
        let taps = 2 * half;
        let filters = if rate == out { Vec::new() } else { filter_table(phases, half, scale) };
        Self { rate, taps, phases, filters, pending: vec![0.0; half - 1], base: 1 - half as i64, seen: 0, next: 0 }
    }

    /// Samples that [`Self::finish`] will have put out for the input so far: every instant before its end.
    pub(super) fn output_len(&self) -> u64 {
        (self.seen * u64::from(SAMPLE_RATE)).div_ceil(self.rate)
    }

    /// Takes input and appends what it completes.
    pub(super) fn push(&mut self, input: &[f32], output: &mut Vec<f32>) {
        self.seen += input.len() as u64;
        if self.filters.is_empty() {
            output.extend_from_slice(input);
            return;
        }
        for block in input.chunks(BLOCK) {
            self.pending.extend_from_slice(block);
            if self.pending.len() >= BLOCK + self.taps {
                self.filter(u64::MAX, output);
            }
        }
    }

    /// Appends the rest: zeros follow the end.
    pub(super) fn finish(mut self, output: &mut Vec<f32>) {
        if !self.filters.is_empty() {
            self.pending.resize(self.pending.len() + self.taps, 0.0);
            self.filter(self.output_len(), output);
        }
    }

    /// Puts out every instant before output index `end` whose filter fits into the pending input.
    fn filter(&mut self, end: u64, output: &mut Vec<f32>) {
        let out = u64::from(SAMPLE_RATE);
        let half = self.taps as i64 / 2;
        let mut first = 0;
        while self.next < end {
            let (at, rest) = (self.next * self.rate / out, self.next * self.rate % out);
            first = (at as i64 - half + 1 - self.base) as usize;
            let Some(x) = self.pending.get(first..first + self.taps) else { break };
            let (phase, fraction) = (rest * self.phases / out, (rest * self.phases % out) as f32 / out as f32);
            let row = |p: u64| &self.filters[p as usize * self.taps..][..self.taps];
            let mut y = dot(x, row(phase));
            if fraction > 0.0 {
                y += fraction * (dot(x, row(phase + 1)) - y);
            }
            output.push(y.clamp(-1.0, 1.0));
            self.next += 1;
        }
        let used = first.min(self.pending.len());
        self.pending.drain(..used);
        self.base += used as i64;
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// (phases + 1, 2 * half) filters; each row is scaled to sum to 1, so that a constant stays itself.
fn filter_table(phases: u64, half: usize, scale: f64) -> Vec<f32> {
    let taps = 2 * half;
    let mut table = Vec::with_capacity((phases as usize + 1) * taps);
    let mut row = vec![0f64; taps];
    for p in 0..=phases {
        let shift = p as f64 / phases as f64;
        for (j, tap) in row.iter_mut().enumerate() {
            let x = (j as f64 - (half as f64 - 1.0) - shift) / scale; // distance from the instant, in zero crossings
            *tap = sinc(CUTOFF * x) * kaiser(x / ZEROS as f64);
        }
        let sum: f64 = row.iter().sum();
        table.extend(row.iter().map(|v| (v / sum) as f32));
    }
    table
}

fn sinc(x: f64) -> f64 {
    let a = std::f64::consts::PI * x;
    if a.abs() < 1e-9 { 1.0 } else { a.sin() / a }
}

/// Kaiser's window at `x` in -1..1, 0 outside; not normalized.
fn kaiser(x: f64) -> f64 {
    let inside = 1.0 - x * x;
    if inside < 0.0 { 0.0 } else { bessel_i0(BETA * inside.sqrt()) }
}

/// Modified Bessel function of the first kind, order 0, by its power series.
fn bessel_i0(x: f64) -> f64 {
    let q = x * x / 4.0;
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..60 {
        term *= q / f64::from(k * k);
        sum += term;
    }
    sum
}

/// Eight running sums, so that the compiler keeps them in vector registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resample(input: &[f32], rate: u32, piece: usize) -> Vec<f32> {
        let (mut r, mut out) = (Resampler::new(rate), Vec::new());
        for block in input.chunks(piece) {
            r.push(block, &mut out);
        }
        let want = r.output_len();
        r.finish(&mut out);
        assert_eq!(out.len() as u64, want);
        out
    }

    fn tone(hz: f64, rate: u32, n: usize) -> Vec<f32> {
        (0..n).map(|i| (0.5 * (std::f64::consts::TAU * hz * i as f64 / f64::from(rate)).sin()) as f32).collect()
    }

    const ODD_RATES: [u32; 14] =
        [1000, 7350, 8000, 11_025, 15_999, 16_000, 22_050, 24_000, 44_100, 44_101, 48_000, 96_000, 192_000, 767_999];

    #[test]
    fn a_tone_keeps_its_amplitude_and_phase_at_every_rate() {
        for rate in ODD_RATES {
            let hz = f64::from(rate.min(16_000)) * 0.21;
            let y = resample(&tone(hz, rate, rate as usize), rate, 4096);
            assert_eq!(y.len(), 16_000, "{rate}");
            let want = tone(hz, 16_000, 16_000);
            let edge = 16_000 * 80 / rate.min(16_000) as usize;
            let worst = (edge..16_000 - edge).map(|i| (y[i] - want[i]).abs()).fold(0f32, f32::max);
            assert!(worst < 2e-5, "{rate}: {worst}");
        }
    }

    #[test]
    fn what_lies_above_the_new_nyquist_is_gone() {
        for (rate, hz) in [(44_100, 8_100.0), (44_100, 15_900.0), (48_000, 9_000.0), (192_000, 60_000.0)] {
            let y = resample(&tone(hz, rate, rate as usize), rate, 1000);
            let worst = y[200..15_800].iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(worst < 2e-5, "{rate} {hz}: {worst}");
        }
    }

    #[test]
    fn the_pieces_do_not_matter_and_lengths_are_exact() {
        for rate in [7350, 44_100, 48_000, 44_101] {
            let x: Vec<f32> = (0..40_003).map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 600.0).collect();
            let whole = resample(&x, rate, x.len());
            assert_eq!(whole, resample(&x, rate, 977), "{rate}");
            assert_eq!(whole.len() as u64, (40_003u64 * 16_000).div_ceil(u64::from(rate)));
        }
        assert!(resample(&[], 44_100, 1).is_empty());
        assert_eq!(resample(&[0.5], 48_000, 1).len(), 1);
    }

    #[test]
    fn a_click_stays_where_it_was() {
        for rate in ODD_RATES {
            for at in [0.1f64, 0.50003, 0.77777] {
                let mut x = vec![0f32; rate as usize];
                let i = (at * f64::from(rate)).round() as usize;
                x[i] = 1.0;
                let y = resample(&x, rate, 4096);
                let peak = (0..y.len()).max_by(|&a, &b| y[a].abs().total_cmp(&y[b].abs())).unwrap();
                let want = i as f64 / f64::from(rate) * 16_000.0;
                assert!((peak as f64 - want).abs() <= 1.0, "{rate}: {peak} for {want}");
            }
        }
    }
}
