//! Music: onset strength, tempo and beats of sound at 16 kHz.
//!
//! [`analyse`] fills everything. Time and memory are linear in the length of the sound; the results do not depend on the number of
//! threads.

mod beat;
mod onset;
mod tempo;
#[cfg(test)]
mod tests;

use dreamseed_kernels::Pool;
use serde::Serialize;

use onset::{HOP, RATE};

/// Pulse clarity from which on a sound has a beat. Clicks, drums and chords reach 0.5 and more, speech and noise stay under 0.2.
const CLEAR: f64 = 0.3;
/// Fewer beats are no beat to dance to.
const LEAST_BEATS: usize = 6;
/// Seconds that the frame of an onset lies behind its attack, taken off the beats. Frames are shifted by half a window, as librosa
/// does, yet feel an attack before it is in their middle: clicks, drums and chords come 20 to 27 ms late.
const LATE: f64 = 0.022;

/// What the music of a clip does.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Music {
    /// Seconds between frames of `onset`; the first is at 0.
    pub hop: f64,
    /// Onset strength: the mean gain of the mel bands from the frame before, dB. (frames)
    pub onset: Vec<f32>,
    /// Beats a minute; `None` where there is no clear beat.
    pub tempo: Option<f32>,
    /// How clearly the onsets repeat at the tempo, 0..1; 0 where there is no onset at all.
    pub clarity: f32,
    /// Seconds of the beats, rising; empty without a tempo.
    pub beats: Vec<f64>,
}

/// Onset strength, tempo and beats of mono `pcm` at 16 kHz, full scale -1..1. Samples that are not finite count as silence.
///
/// Never fails: silence, noise and speech have onsets, but neither tempo nor beats.
pub fn analyse(pool: &Pool, pcm: &[f32]) -> Music {
    let pcm: Vec<f32> = pcm.iter().map(|&x| if x.is_finite() { x.clamp(-1e6, 1e6) } else { 0.0 }).collect();
    let envelope = onset::strength(pool, &pcm);
    let hop = HOP as f64 / RATE;
    let onset = envelope.iter().map(|&v| v as f32).collect();
    let silent = Music { hop, onset, ..Music::default() };
    let Some(beat) = tempo::estimate(pool, &envelope) else { return silent };
    let clarity = tempo::clarity(&envelope, beat.lag);
    let beats: Vec<f64> =
        beat::track(&envelope, beat.lag).into_iter().map(|frame| (frame as f64 * hop - LATE).max(0.0)).collect();
    if clarity < CLEAR || beats.len() < LEAST_BEATS {
        return Music { clarity: clarity as f32, ..silent };
    }
    Music { tempo: Some(tempo::per_minute(beat.period) as f32), clarity: clarity as f32, beats, ..silent }
}
