//! Moving with the music: how near the beats of the movement are to those of the music, and on which side.

use std::f64::consts::TAU;

use super::{super::Topic, Finding, Input, Sheet, body::Seen, mean, measured};
use crate::timeline::EventKind;

/// Standard deviation of the alignment score: 3 frames at 60 a second (Li et al. 2021, AIST++).
const SIGMA: f64 = 3.0 / 60.0;
/// Beats of the movement that must fall within the music.
const LEAST: usize = 6;
/// Mean resultant length of the phases from which on "ahead" and "behind" mean something; even phases of ten beats pass 0.5 in
/// one of twelve cases (Rayleigh).
const TOGETHER: f64 = 0.5;

/// Notes the tempo and the alignment; a finding where the movement keeps one distance to the beats.
pub(super) fn examine(sheet: &mut Sheet, input: &Input, seen: Seen) {
    let times = |kind| -> Vec<f64> { input.timeline.events(kind).map(|e| e.start).collect() };
    let music = times(EventKind::MusicBeat);
    let Some(heard) = input.tracks.music.as_ref().filter(|_| music.len() >= 2) else { return };
    let span = [music[0], music[music.len() - 1]];
    sheet.note("music_tempo", heard.tempo, "1/min", span);
    let inside = |t: &f64| (span[0] - SIGMA..=span[1] + SIGMA).contains(t);
    let moved: Vec<f64> = times(EventKind::Beat).into_iter().filter(inside).collect();
    if moved.len() < LEAST {
        return;
    }
    let offsets: Vec<Offset> = moved.iter().filter_map(|&t| offset(t, &music)).collect();
    sheet.note("beat_alignment", alignment(&offsets).map(|a| a as f32), "1", span);
    let Some((lag, together)) = lag(&offsets) else { return };
    sheet.note("beat_togetherness", Some(together as f32), "1", span);
    if together < TOGETHER {
        return;
    }
    let main = measured(Topic::BeatTiming, lag, None, span);
    let sure = together * (moved.len() as f64 / 8.0).min(1.0) * f64::from(heard.clarity).sqrt();
    let mut finding = Finding { confidence: seen.confidence * sure, ..Finding::new(Topic::BeatTiming, main) };
    let series: Vec<(f64, f64)> = moved.iter().copied().zip(offsets.iter().map(|o| o.late)).collect();
    finding.span = super::best_window(&series, 3.0, 2, |v| Some(mean(v)? * lag.signum())).unwrap_or(span);
    sheet.find(finding);
}

/// A beat of the movement against the nearest of the music.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Offset {
    /// Seconds after it; negative is before.
    late: f64,
    /// Seconds between the beats of the music there.
    period: f64,
}

fn offset(t: f64, music: &[f64]) -> Option<Offset> {
    let i = (0..music.len()).min_by(|&a, &b| (music[a] - t).abs().total_cmp(&(music[b] - t).abs()))?;
    let late = t - music[i];
    let (from, to) = if late < 0.0 && i > 0 || i + 1 == music.len() { (i.checked_sub(1)?, i) } else { (i, i + 1) };
    let period = music[to] - music[from];
    (period > 0.0).then_some(Offset { late, period })
}

/// Beat alignment score of AIST++, 0..1: over the beats of the movement (not of the music), the mean of exp(-d^2 / 2 sigma^2),
/// d seconds to the nearest beat of the music.
fn alignment(offsets: &[Offset]) -> Option<f64> {
    mean(&offsets.iter().map(|o| (-o.late * o.late / (2.0 * SIGMA * SIGMA)).exp()).collect::<Vec<_>>())
}

/// Seconds that the movement is behind the music (negative: ahead), and how far the beats agree on it, 0..1: the direction and
/// length of the mean of the phases. Half a beat behind and half a beat ahead are the same.
fn lag(offsets: &[Offset]) -> Option<(f64, f64)> {
    let part = |f: fn(f64) -> f64| mean(&offsets.iter().map(|o| f(TAU * o.late / o.period)).collect::<Vec<_>>());
    let (sin, cos) = (part(f64::sin)?, part(f64::cos)?);
    let period = mean(&offsets.iter().map(|o| o.period).collect::<Vec<_>>())?;
    Some((sin.atan2(cos) / TAU * period, sin.hypot(cos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(moved: impl Iterator<Item = f64>, music: &[f64]) -> Vec<Offset> {
        moved.filter_map(|t| offset(t, music)).collect()
    }

    #[test]
    fn the_lag_and_the_score_are_those_of_the_construction() {
        let music: Vec<f64> = (0..20).map(|i| f64::from(i) * 0.5).collect();
        for late in [-0.1, 0.0, 0.05, 0.2] {
            // a beat of the movement every second beat of the music
            let found = offsets((1..9).map(|i| f64::from(i) + late), &music);
            let (lag, together) = lag(&found).unwrap();
            assert!((lag - late).abs() < 1e-9 && (together - 1.0).abs() < 1e-9, "{lag} {together}");
            let score = (-late * late / (2.0 * 0.05 * 0.05)).exp();
            assert!((alignment(&found).unwrap() - score).abs() < 1e-9);
        }
        // Beats of a third of the period stand everywhere: no side.
        let found = offsets((3..50).map(|i| f64::from(i) * 0.5 / 3.0), &music);
        assert!(lag(&found).unwrap().1 < 0.1);
        assert_eq!((lag(&[]), alignment(&[]), offset(1.0, &[]), offset(1.0, &[1.0])), (None, None, None, None));
    }
}
