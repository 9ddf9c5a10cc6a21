//! The melody of a voice while it speaks.

use dreamseed_kernels::Pool;
use dreamseed_models::prosody::{Bounds, Method, Range, f0};
use serde::Serialize;

use crate::media::SAMPLE_RATE;

/// Seconds between two values.
const HOP: f64 = 0.02;
/// Seconds of new sound from which on it is looked at.
const STEP: f64 = 0.1;
/// Seconds before and after a value that its path is looked for in: a curve that ends here may still turn out otherwise.
const BEFORE: f64 = 0.4;
const AFTER: f64 = 0.06;
/// Share of the loudest sample so far below which a value's sound is silence, as Praat has it of a whole recording.
const SILENCE: f32 = 0.03;

/// A stretch of a pitch curve.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// Seconds of the first value.
    pub t: f64,
    /// Seconds between two values.
    pub hop: f64,
    /// Hz; `None` without a voice.
    pub hz: Vec<Option<f32>>,
}

/// Follows the pitch of a sound that is still being made. Values are those of a look at about half a second: within a whole recording
/// ([`dreamseed_models::prosody`]) some of them turn out otherwise.
#[derive(Clone, Debug, Default)]
pub struct Pitch {
    held: Vec<f32>,
    start: usize, // of `held` in the sound
    new: usize,   // samples that were not looked at
    told: f64,    // seconds up to which values are told
    loudest: f32,
}

impl Pitch {
    /// Takes the next samples (mono, 16 kHz), any number: the values that they complete.
    pub fn push(&mut self, pool: &Pool, pcm: &[f32]) -> Option<Curve> {
        self.held.extend_from_slice(pcm);
        self.new += pcm.len();
        self.loudest = pcm.iter().fold(self.loudest, |most, s| most.max(s.abs()));
        if self.new < samples(STEP) {
            return None;
        }
        self.new = 0;
        let curve = self.curve(pool, AFTER);
        let keep = samples(self.told - BEFORE).saturating_sub(self.start).min(self.held.len());
        self.held.drain(..keep);
        self.start += keep;
        curve
    }

    /// The end of the sound: the last values.
    pub fn finish(mut self, pool: &Pool) -> Option<Curve> {
        self.curve(pool, 0.0)
    }

    /// Values that are not told yet, up to `margin` seconds before the end.
    fn curve(&mut self, pool: &Pool, margin: f64) -> Option<Curve> {
        let (track, _) = f0(pool, &self.held, &Method::default(), Range::Fixed(Bounds::PRAAT), HOP);
        let offset = self.start as f64 / f64::from(SAMPLE_RATE);
        let end = offset + self.held.len() as f64 / f64::from(SAMPLE_RATE) - margin;
        let new = (0..track.f0.len()).filter(|&i| {
            let t = offset + track.time(i);
            t > self.told + HOP / 2.0 && t <= end
        });
        let new: Vec<usize> = new.collect();
        let (first, last) = (*new.first()?, *new.last()?);
        let sounds = |i: usize| {
            let middle = samples(track.time(i));
            let about = self.held.get(middle.saturating_sub(samples(HOP))..).unwrap_or_default();
            about.iter().take(2 * samples(HOP)).any(|s| s.abs() >= SILENCE * self.loudest)
        };
        let hz = new.iter().map(|&i| track.f0[i].filter(|_| sounds(i))).collect();
        self.told = offset + track.time(last);
        Some(Curve { t: offset + track.time(first), hop: track.hop, hz })
    }
}

/// Samples in so many seconds; none in less than none.
fn samples(seconds: f64) -> usize {
    (seconds * f64::from(SAMPLE_RATE)).max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half a second of silence, a second of a tone with overtones that rises from 150 to 250 Hz, half a second of faint hiss.
    fn voice() -> Vec<f32> {
        let mut phase = 0.0f64;
        let mut pcm = vec![0.0f32; samples(0.5)];
        for i in 0..samples(1.0) {
            phase += (150.0 + 100.0 * i as f64 / 16_000.0) / 16_000.0;
            pcm.push(
                (1..6).map(|k| (std::f64::consts::TAU * phase * f64::from(k)).sin() / f64::from(k)).sum::<f64>() as f32 * 0.3,
            );
        }
        let mut seed = 1u32;
        pcm.extend((0..samples(0.5)).map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) as f32 / 65_536.0 * 0.002 - 0.001
        }));
        pcm
    }

    #[test]
    fn a_melody_is_told_once_in_order_whatever_the_pieces() {
        let (pool, pcm) = (Pool::new(1), voice());
        for size in [160, 1600, 5000, 40_000] {
            let mut pitch = Pitch::default();
            let mut curves: Vec<Curve> = pcm.chunks(size).filter_map(|piece| pitch.push(&pool, piece)).collect();
            curves.extend(pitch.finish(&pool));
            let values: Vec<(f64, Option<f32>)> =
                curves.iter().flat_map(|c| c.hz.iter().enumerate().map(|(i, hz)| (c.t + i as f64 * c.hop, *hz))).collect();
            let steps = values.windows(2).map(|w| w[1].0 - w[0].0);
            assert!(steps.into_iter().all(|s| (0.5 * HOP..=1.5 * HOP + 1e-9).contains(&s)), "{size}: {values:?}");
            assert!(values.first().unwrap().0 < 0.1 && values.last().unwrap().0 > 1.9, "{size}");
            let voiced: Vec<_> = values.iter().filter_map(|(t, hz)| Some((*t, f64::from((*hz)?)))).collect();
            assert!((45..=55).contains(&voiced.len()), "{size}: {} voiced", voiced.len());
            for (t, hz) in voiced.iter().filter(|(t, _)| (0.55..1.45).contains(t)) {
                let wanted = 150.0 + 100.0 * (t - 0.5);
                assert!((hz / wanted - 1.0).abs() < 0.03, "{size}: {hz} Hz at {t} s, not {wanted}");
            }
        }
    }

    #[test]
    fn nothing_has_no_melody() {
        let pool = Pool::new(1);
        let mut pitch = Pitch::default();
        assert_eq!(pitch.push(&pool, &[]), None);
        assert_eq!(pitch.push(&pool, &[0.1; 20]), None);
        assert_eq!(pitch.finish(&pool), None);
        let mut silent = Pitch::default();
        let curve = silent.push(&pool, &[0.0; 16_000]).unwrap();
        assert!(curve.hz.iter().all(Option::is_none));
    }
}
