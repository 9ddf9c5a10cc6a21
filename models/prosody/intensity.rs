//! Intensity and silence, as Praat measures them.

use dreamseed_kernels::Pool;
use std::f64::consts::PI;

use super::{
    pitch::runs,
    signal::{Grid, RATE, parabola, sample_nearest},
};

/// Frames that one task computes.
const BLOCK: usize = 64;
/// Pressure of the hearing threshold, Pa: 0 dB.
const HEARING_THRESHOLD: f64 = 2e-5;
/// What digital silence reads, dB.
const SILENCE: f64 = -300.0;

/// Intensity over time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Intensity {
    pub(super) grid: Grid,
    /// dB re 2e-5 Pa, full scale taken as 1 Pa. (frames)
    pub(super) db: Vec<f64>,
}

/// Intensity of `pcm` on `grid`: mean square under a Kaiser window of 6.4 / `floor` seconds (effectively 3.2 / `floor`; side lobes
/// below -190 dB), after the window's own mean is taken off, so that no F0 over `floor` shows as ripple. Windows that reach over an
/// end use what is there. Praat, "Intro 6.2. Configuring the intensity contour"; "Sound: To Intensity...".
pub(super) fn intensity(pool: &Pool, pcm: &[f32], grid: Grid, floor: f64) -> Intensity {
    let half = (3.2 / floor * RATE) as usize;
    let window: Vec<f64> = (0..=2 * half)
        .map(|i| {
            let x = (i as f64 - half as f64) / (3.2 / floor * RATE);
            bessel_i0((2.0 * PI * PI + 0.5) * (1.0 - x * x).max(0.0).sqrt())
        })
        .collect();
    let mut db = vec![0.0; grid.len];
    pool.for_each_chunk(&mut db, BLOCK, |b, chunk| {
        for (k, value) in chunk.iter_mut().enumerate() {
            *value = level(pcm, sample_nearest(grid.time(b * BLOCK + k)), &window);
        }
    });
    Intensity { grid, db }
}

/// dB of the stretch of `pcm` under `window` centred on sample `centre`.
fn level(pcm: &[f32], centre: isize, window: &[f64]) -> f64 {
    let half = (window.len() / 2) as isize;
    let begin = (centre - half).clamp(0, pcm.len() as isize);
    let end = (centre + half + 1).clamp(begin, pcm.len() as isize);
    let part = &pcm[begin as usize..end as usize];
    if part.is_empty() {
        return SILENCE;
    }
    let window = &window[(begin - (centre - half)) as usize..][..part.len()];
    let mean = part.iter().map(|&x| f64::from(x)).sum::<f64>() / part.len() as f64;
    let (mut energy, mut weight) = (0.0, 0.0);
    for (&x, w) in part.iter().zip(window) {
        let d = f64::from(x) - mean;
        energy += d * d * w;
        weight += w;
    }
    let ratio = energy / weight / (HEARING_THRESHOLD * HEARING_THRESHOLD);
    if ratio < 1e-30 { SILENCE } else { 10.0 * ratio.log10() }
}

/// Modified Bessel function of the first kind and order 0, by its power series (x up to about 20 here: some 40 terms).
fn bessel_i0(x: f64) -> f64 {
    let quarter = 0.25 * x * x;
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1.. {
        term *= quarter / f64::from(k * k);
        sum += term;
        if term < 1e-17 * sum {
            break;
        }
    }
    sum
}

impl Intensity {
    /// Intensity at `t`, linear between frames; the end frames' beyond them. `None` without frames.
    pub(super) fn at(&self, t: f64) -> Option<f64> {
        let last = self.db.len().checked_sub(1)?;
        let place = ((t - self.grid.start) / self.grid.hop).clamp(0.0, last as f64);
        let low = place.floor() as usize;
        Some(self.db[low] + (place - low as f64) * (self.db[(low + 1).min(last)] - self.db[low]))
    }

    /// Loudest and softest of the curve, with parabolas through the extreme frames. `None` without frames.
    pub(super) fn extremes(&self) -> Option<(f64, f64)> {
        let top = |sign: f64| {
            let best =
                (0..self.db.len()).max_by(|&a, &b| (sign * self.db[a]).total_cmp(&(sign * self.db[b])).then(b.cmp(&a)))?;
            Some(match self.db.get(best.wrapping_sub(1)..best + 2) {
                Some(&[left, middle, right]) => parabola(left, middle, right).1,
                _ => self.db[best],
            })
        };
        Some((top(1.0)?, top(-1.0)?))
    }

    /// Stretches [start, end) in seconds where the sound is less than `below_peak` dB under its loudest moment: stretches shorter
    /// than `min_sounding` seconds are dropped, then gaps shorter than `min_pause` are closed (Praat, "Sound: To TextGrid
    /// (silences)..."). Whole sound when it never falls that low; nothing for digital silence.
    pub(super) fn sounding(&self, duration: f64, below_peak: f64, min_pause: f64, min_sounding: f64) -> Vec<[f64; 2]> {
        let Some((loudest, softest)) = self.extremes().filter(|e| e.0 > SILENCE) else {
            return Vec::new();
        };
        let threshold = loudest - below_peak;
        if threshold < softest || duration < min_pause {
            return vec![[0.0, duration]];
        }
        let edge = |i: usize| match i {
            0 => 0.0,
            i if i == self.db.len() => duration,
            i => self.grid.time(i),
        };
        let mut out: Vec<[f64; 2]> = Vec::new();
        for [a, b] in runs(&self.db, |&db| db >= threshold) {
            let [start, end] = [edge(a), edge(b)];
            if end - start < min_sounding {
                continue;
            }
            match out.last_mut() {
                Some(last) if start - last[1] < min_pause => last[1] = end,
                _ => out.push([start, end]),
            }
        }
        out
    }
}
