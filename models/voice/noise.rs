//! The noise under the sound: in each band the minimum of the smoothed power over the last seconds (minimum statistics, Martin
//! 2001).

use super::features::{BANDS, INAUDIBLE_DB};

/// Smoothing of the power from frame to frame: about 50 ms.
const SMOOTHING: f32 = 0.8;
/// Frames of a part of the memory, half a second.
const PART: usize = 50;
/// Parts that are remembered: three seconds are longer than speech goes on in any band without a gap.
const PARTS: usize = 6;
/// By how much the minimum of smoothed noise lies below its mean.
const BIAS_DB: f32 = 2.0;
/// Until this many frames have passed, what is heard may be speech from the first sample on: the noise counts as no louder than
/// [`BEGIN_DB`] a band.
const BEGIN: usize = 100;
const BEGIN_DB: f32 = -70.0;

/// The noise of each band.
pub(super) struct Noise {
    smoothed: [f32; BANDS],
    parts: [[f32; BANDS]; PARTS], // minima; the first is under way
    frames: usize,                // of the part under way
    seen: usize,                  // up to BEGIN
}

impl Noise {
    pub(super) fn new() -> Self {
        Self { smoothed: [0.0; BANDS], parts: [[f32::INFINITY; BANDS]; PARTS], frames: 0, seen: 0 }
    }

    /// Takes the power of a frame's bands; the noise's level in each, dB re full scale.
    pub(super) fn follow(&mut self, power: &[f32; BANDS]) -> [f32; BANDS] {
        if self.frames == PART {
            self.parts.rotate_right(1);
            self.parts[0] = [f32::INFINITY; BANDS];
            self.frames = 0;
        }
        let weight = if self.seen == 0 { 0.0 } else { SMOOTHING };
        self.frames += 1;
        self.seen = (self.seen + 1).min(BEGIN);
        for ((smoothed, least), p) in self.smoothed.iter_mut().zip(&mut self.parts[0]).zip(power) {
            *smoothed = weight * *smoothed + (1.0 - weight) * p;
            *least = least.min(*smoothed);
        }
        std::array::from_fn(|band| {
            let least = self.parts.iter().map(|part| part[band]).fold(f32::INFINITY, f32::min);
            let level = 10.0 * least.max(1e-12).log10() + BIAS_DB;
            let level = if self.seen < BEGIN { level.min(BEGIN_DB) } else { level };
            level.max(INAUDIBLE_DB)
        })
    }
}
