//! Measures over a whole recording.

use super::{
    Measures,
    intensity::Intensity,
    pitch::PitchTrack,
    signal::{mean_sd, quantile, semitones},
};

/// Fewest voiced frames whose slope means something.
const MIN_SLOPE_FRAMES: usize = 6;
/// Of the last voiced stretch only this much counts for the final slope, seconds: the nuclear tail, not the whole phrase.
const SLOPE_SPAN: f64 = 0.3;

/// Median, range, deviation and final slope of F0.
pub(super) fn pitch(track: &PitchTrack, out: &mut Measures) {
    let sorted = track.sorted();
    let Some(median) = quantile(&sorted, 0.5) else { return };
    out.f0_median = Some(median as f32);
    if let (Some(low), Some(high)) = (quantile(&sorted, 0.05), quantile(&sorted, 0.95)) {
        out.f0_range_semitones = Some(semitones(high, low) as f32);
    }
    out.f0_sd_semitones = mean_sd(sorted.iter().map(|&f| semitones(f, median))).map(|m| m.1 as f32);
    out.final_slope = final_slope(track, median).map(|s| s as f32);
}

/// Least-squares slope of the end of the last voiced stretch that is long enough, semitones a second.
fn final_slope(track: &PitchTrack, median: f64) -> Option<f64> {
    let stretches = track.stretches();
    let [first, end] = *stretches.iter().rev().find(|s| s[1] - s[0] >= MIN_SLOPE_FRAMES)?;
    let span = ((SLOPE_SPAN / track.hop).round() as usize).max(MIN_SLOPE_FRAMES);
    let points: Vec<(f64, f64)> = (first.max(end.saturating_sub(span))..end)
        .filter_map(|i| Some((track.time(i), semitones(f64::from(track.f0[i]?), median))))
        .collect();
    let n = points.len() as f64;
    let (t, s) = points.iter().fold((0.0, 0.0), |(t, s), p| (t + p.0 / n, s + p.1 / n));
    let (cross, square) = points.iter().fold((0.0, 0.0), |(c, q), p| (c + (p.0 - t) * (p.1 - s), q + (p.0 - t).powi(2)));
    (square > 0.0).then(|| cross / square)
}

/// Voiced ratio and intensity over the frames of the sounding stretches.
pub(super) fn loudness(track: &PitchTrack, intensity: &Intensity, sounding: &[[f64; 2]], out: &mut Measures) {
    let mut stretch = sounding.iter().peekable();
    let mut speech = Vec::new();
    let mut voiced = 0usize;
    for i in 0..track.f0.len() {
        let t = track.time(i);
        while stretch.next_if(|s| s[1] <= t).is_some() {}
        if stretch.peek().is_some_and(|s| s[0] <= t) {
            speech.push(intensity.db[i]);
            voiced += usize::from(track.f0[i].is_some());
        }
    }
    if let Some((mean, sd)) = mean_sd(speech.iter().copied()) {
        out.voiced_ratio = voiced as f32 / speech.len() as f32;
        (out.intensity_mean, out.intensity_sd) = (Some(mean as f32), Some(sd as f32));
    }
}

/// Speech rate, articulation rate and pause ratio over the span from the first to the last sound.
pub(super) fn rate(nuclei: &[f64], sounding: &[[f64; 2]], out: &mut Measures) {
    let (Some(first), Some(last)) = (sounding.first(), sounding.last()) else { return };
    let span = last[1] - first[0];
    let spoken: f64 = sounding.iter().map(|s| s[1] - s[0]).sum();
    if span <= 0.0 || spoken <= 0.0 || nuclei.is_empty() {
        return;
    }
    out.speech_rate = Some((nuclei.len() as f64 / span) as f32);
    out.articulation_rate = Some((nuclei.len() as f64 / spoken) as f32);
    out.pause_ratio = Some((1.0 - spoken / span).max(0.0) as f32);
}
