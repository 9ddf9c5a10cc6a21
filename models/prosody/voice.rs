//! Voice quality: glottal pulses, jitter, shimmer, harmonics-to-noise ratio.

use dreamseed_kernels::Pool;
use std::f64::consts::PI;

use super::{
    correlation::{Correlation, Correlator, Search},
    pitch::PitchTrack,
    signal::{RATE, parabola, sample_before, sample_nearest},
};

/// Shortest and longest period that counts, seconds; Praat's defaults.
const PERIODS: std::ops::RangeInclusive<f64> = 0.0001..=0.02;
/// Neighbouring periods (amplitudes) further apart than these factors are not compared; Praat's defaults.
const MAX_PERIOD_FACTOR: f64 = 1.3;
const MAX_AMPLITUDE_FACTOR: f64 = 1.6;
/// Frames softer than this share of the sound's peak have no harmonics-to-noise ratio; Praat's default.
const SILENCE_THRESHOLD: f64 = 0.1;
/// Praat's bounds of the harmonics-to-noise ratio, dB.
const MAX_HNR: f64 = 150.0;
/// Frames that one task computes.
const BLOCK: usize = 32;

/// Times of the glottal pulses, seconds, ascending: in each voiced stretch one at the strongest extremum about its middle, the
/// others outwards from it, each where one period of sound correlates best with the period at the pulse before. Praat, "Sound &
/// Pitch: To PointProcess (cc)".
pub(super) fn pulses(pcm: &[f32], pitch: &PitchTrack) -> Vec<f64> {
    let peak = pcm.iter().fold(0.0f64, |p, &x| p.max(f64::from(x).abs()));
    let mut all: Vec<f64> = Vec::new();
    let mut last_right = f64::NEG_INFINITY;
    for [first, end] in pitch.stretches() {
        let left = (pitch.time(first) - 0.5 * pitch.hop).max(0.0);
        let right = (pitch.time(end - 1) + 0.5 * pitch.hop).min(pcm.len() as f64 / RATE);
        let middle = 0.5 * (left + right);
        let Some(f0) = pitch.at(middle) else { continue };
        let seed = extremum(pcm, middle - 0.5 / f0, middle + 0.5 / f0);
        let walk = Walk { pcm, pitch, peak };
        let mut stretch = walk.run(seed, -1.0, left);
        // A short unvoiced gap that the stretch before reached into is not filled twice.
        stretch.retain(|(t, f0)| t - last_right > 0.8 / f0);
        all.extend(stretch.iter().rev().map(|p| p.0));
        all.push(seed);
        let stretch = walk.run(seed, 1.0, right);
        all.extend(stretch.iter().map(|p| p.0));
        last_right = stretch.last().map_or(last_right, |p| p.0);
    }
    all.sort_by(f64::total_cmp);
    all.dedup();
    all
}

/// Steps from pulse to pulse.
struct Walk<'a> {
    pcm: &'a [f32],
    pitch: &'a PitchTrack,
    peak: f64,
}

impl Walk<'_> {
    /// Pulses from `seed` (left out) in one direction to `limit`, each with the F0 that led to it. One more is taken beyond the
    /// limit where the likeness is very good.
    fn run(&self, seed: f64, direction: f64, limit: f64) -> Vec<(f64, f64)> {
        let mut out = Vec::new();
        let mut t = seed;
        while let Some(f0) = self.pitch.at(t) {
            let found = best_match(self.pcm, t, f0, direction);
            // A step is at least 0.8 periods, so that the walk always comes to an end.
            t = found.time;
            let beyond = direction * (t - limit) > 0.0;
            let (likeness, loudness) = if beyond { (0.7, 0.023333) } else { (0.3, 0.01) };
            let loud = found.peak > loudness * self.peak || (!beyond && found.peak == 0.0);
            if found.correlation > likeness && loud {
                out.push((t, f0));
            }
            if beyond {
                break;
            }
        }
        out
    }
}

/// Where the sound is most like itself one period away.
struct Match {
    time: f64,
    correlation: f64,
    /// Largest sample of the last window looked at that improved the match.
    peak: f64,
}

/// Best match for the period about `t` between 0.8 and 1.25 periods away, refined by a parabola.
fn best_match(pcm: &[f32], t: f64, f0: f64, direction: f64) -> Match {
    let period = 1.0 / f0;
    let (a, b) = (t + direction * 0.8 * period, t + direction * 1.25 * period);
    let (from, to) = (a.min(b), a.max(b));
    let begin = sample_nearest(t - 0.5 * period);
    let n = sample_nearest(t + 0.5 * period) - begin + 1;
    let (first, last) = (sample_before(from - 0.5 * period), sample_before(to - 0.5 * period) + 1);

    let mut best: Option<(isize, [f64; 3], f64)> = None;
    let mut r = [0.0; 3]; // of the last three places
    for other in first..=last {
        let (correlation, peak) = likeness(pcm, begin, other, n);
        r = [r[1], r[2], correlation];
        if best.is_none_or(|b| r[1] > b.1[1]) && r[1] >= r[0] && r[1] >= r[2] {
            best = Some((other - 1, r, peak));
        }
    }
    let Some((place, [left, middle, right], peak)) = best else {
        return Match { time: t + direction * period, correlation: -1.0, peak: 0.0 };
    };
    let (shift, height) = parabola(left, middle, right);
    let time = t + (place as f64 + shift - begin as f64) / RATE;
    if (from..=to).contains(&time) {
        Match { time, correlation: height, peak }
    } else {
        // The best lies at an edge: one period away is the guess (0.8 * 1.25 = 1).
        Match { time: t + direction * period, correlation: middle.max(r[2]), peak }
    }
}

/// Normalised correlation of `n` samples at `a` with those at `b`, and the largest sample of the latter.
fn likeness(pcm: &[f32], a: isize, b: isize, n: isize) -> (f64, f64) {
    let len = pcm.len() as isize;
    let skip = 0.max(-a).max(-b).min(n);
    let n = n.min(len - a).min(len - b);
    if skip >= n {
        return (0.0, 0.0);
    }
    let part = |start: isize| &pcm[(start + skip) as usize..(start + n) as usize];
    let (mut aa, mut bb, mut ab, mut peak) = (0.0, 0.0, 0.0, 0.0f64);
    for (&x, &y) in part(a).iter().zip(part(b)) {
        let (x, y) = (f64::from(x), f64::from(y));
        aa += x * x;
        bb += y * y;
        ab += x * y;
        peak = peak.max(y.abs());
    }
    (if aa == 0.0 || bb == 0.0 { 0.0 } else { ab / (aa * bb).sqrt() }, peak)
}

/// Time of the sample furthest from 0 in [from, to], refined by a parabola.
fn extremum(pcm: &[f32], from: f64, to: f64) -> f64 {
    let first = sample_before(from).max(0) as usize;
    let last = ((sample_before(to) + 2).max(0) as usize).min(pcm.len());
    let part = pcm.get(first..last).unwrap_or_default();
    let Some((i, _)) = part.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()).then(b.0.cmp(&a.0))) else {
        return 0.5 * (from + to);
    };
    let shift = match part.get(i.wrapping_sub(1)..i + 2) {
        Some(&[a, b, c]) => parabola(f64::from(a), f64::from(b), f64::from(c)).0,
        _ => 0.0,
    };
    ((first + i) as f64 + 0.5 + shift) / RATE
}

/// Whether two neighbouring periods are both plausible and alike.
fn alike(p1: f64, p2: f64) -> bool {
    PERIODS.contains(&p1) && PERIODS.contains(&p2) && p1.max(p2) <= MAX_PERIOD_FACTOR * p1.min(p2)
}

/// Local jitter, a ratio: mean difference of neighbouring periods over the mean period. Praat, "PointProcess: Get jitter
/// (local)..." with its defaults. `None` with fewer than two comparable periods.
pub(super) fn jitter(pulses: &[f64]) -> Option<f64> {
    let periods: Vec<f64> = pulses.windows(2).map(|p| p[1] - p[0]).collect();
    let pairs = periods.windows(2).filter(|p| alike(p[0], p[1]));
    let (n, sum) = pairs.fold((0usize, 0.0), |(n, s), p| (n + 1, s + (p[0] - p[1]).abs()));
    (n > 0).then(|| Some(sum / n as f64 / mean_period(&periods)?))?
}

/// Mean of the plausible periods that are alike to at least one neighbour.
fn mean_period(periods: &[f64]) -> Option<f64> {
    let unlike = |a: f64, b: f64| a.max(b) > MAX_PERIOD_FACTOR * a.min(b);
    let counts = |&i: &usize| {
        let before = i.checked_sub(1).map(|p| unlike(periods[p], periods[i]));
        let after = periods.get(i + 1).map(|&p| unlike(p, periods[i]));
        PERIODS.contains(&periods[i]) && !(before == Some(true) && after == Some(true))
    };
    let (n, sum) = (0..periods.len()).filter(counts).fold((0usize, 0.0), |(n, s), i| (n + 1, s + periods[i]));
    (n > 0).then(|| sum / n as f64)
}

/// Local shimmer, a ratio: mean difference of the amplitudes of neighbouring periods over the mean amplitude, where an amplitude
/// is the RMS under a Hann window of 0.2 periods to each side of the pulse. Praat, "Sound & PointProcess: Get shimmer (local)..."
/// with its defaults. `None` with fewer than two comparable amplitudes.
pub(super) fn shimmer(pcm: &[f32], pulses: &[f64]) -> Option<f64> {
    let mut amplitudes: Vec<(f64, f64)> = Vec::new();
    for p in pulses.windows(3) {
        let (p1, p2) = (p[1] - p[0], p[2] - p[1]);
        if alike(p1, p2) {
            amplitudes.extend(pulse_rms(pcm, p[1], 0.2 * p1, 0.2 * p2).filter(|a| *a > 0.0).map(|a| (p[1], a)));
        }
    }
    let comparable = |p: &&[(f64, f64)]| {
        PERIODS.contains(&(p[1].0 - p[0].0)) && p[0].1.max(p[1].1) <= MAX_AMPLITUDE_FACTOR * p[0].1.min(p[1].1)
    };
    let pairs = amplitudes.windows(2).filter(comparable);
    let (n, sum) = pairs.fold((0usize, 0.0), |(n, s), p| (n + 1, s + (p[0].1 - p[1].1).abs()));
    let (_, counted) = amplitudes.split_last()?;
    let mean = counted.iter().map(|a| a.1).sum::<f64>() / counted.len() as f64;
    (n > 0 && mean > 0.0).then(|| sum / n as f64 / mean)
}

/// RMS of the sound about `t` under a Hann window with its own width on each side; `None` under three samples.
fn pulse_rms(pcm: &[f32], t: f64, left: f64, right: f64) -> Option<f64> {
    let first = (((t - left) * RATE - 0.5).ceil()).max(0.0) as usize;
    let end = ((sample_before(t + right) + 1).max(0) as usize).min(pcm.len());
    if end < first + 3 {
        return None;
    }
    let (mut energy, mut weight) = (0.0, 0.0);
    for (i, &x) in pcm[first..end].iter().enumerate() {
        let d = ((first + i) as f64 + 0.5) / RATE - t;
        let w = 0.5 + 0.5 * (PI * d / if d < 0.0 { left } else { right }).cos();
        energy += (f64::from(x) * w).powi(2);
        weight += w * w;
    }
    Some((energy / weight).sqrt())
}

/// Mean harmonics-to-noise ratio in dB over the frames that are loud enough, every `hop` seconds: 10 log10 (r / (1 - r)) of the
/// highest normalised forward cross-correlation r (Boersma 1993; Praat, "Sound: To Harmonicity (cc)..." with silence threshold 0.1
/// and one period a window, then "Get mean"). `None` when no frame is.
pub(super) fn hnr(pool: &Pool, pcm: &[f32], floor: f64, hop: f64) -> Option<f64> {
    let search = Search {
        correlation: Correlation::Cross,
        floor,
        candidates: 32,
        voicing_threshold: 0.0,
        octave_cost: 0.0,
        highest_only: true,
    };
    let correlator = Correlator::new(search, pcm);
    let grid = correlator.grid(hop);
    let mut ratios: Vec<Option<f64>> = vec![None; grid.len];
    pool.for_each_chunk(&mut ratios, BLOCK, |b, chunk| {
        let (mut scratch, mut candidates) = (correlator.scratch(), Vec::new());
        for (k, ratio) in chunk.iter_mut().enumerate() {
            candidates.clear();
            let peak = correlator.frame(grid.time(b * BLOCK + k), &mut scratch, &mut candidates);
            let r = candidates.iter().map(|c| c.strength).fold(0.0, f64::max);
            let unvoiced = (2.0 - peak / SILENCE_THRESHOLD).max(0.0);
            *ratio = (r > unvoiced).then(|| (10.0 * (r / (1.0 - r)).log10()).clamp(-MAX_HNR, MAX_HNR));
        }
    });
    let (n, sum) = ratios.iter().flatten().fold((0usize, 0.0), |(n, s), r| (n + 1, s + r));
    (n > 0).then(|| sum / n as f64)
}
