//! A look at the level of the sound: Whisper writes text for anything, silence and noise too.

/// Level below which nothing can be heard: -80 dB re full scale.
const SILENT: f32 = 1e-4;
/// Speech rises and falls by far more than this between its syllables and pauses; noise, hum and tones do not.
const STEADY_DB: f32 = 9.0;
const FRAME: usize = 400; // 25 ms

/// Levels of a stretch of sound.
pub(super) struct Sound {
    loudest: f32, // root mean square of the loudest 25 ms
    range: f32,   // dB between the 10th and the 95th percentile of the frames
}

pub(super) fn measure(pcm: &[f32]) -> Sound {
    let mean_square = |frame: &[f32]| {
        let sum: f32 = frame.iter().filter(|x| x.is_finite()).map(|x| x.clamp(-1e6, 1e6).powi(2)).sum();
        sum / frame.len() as f32
    };
    let mut levels: Vec<f32> = pcm.chunks(FRAME).map(mean_square).collect();
    levels.sort_unstable_by(f32::total_cmp);
    let at = |share: f32| levels.get((levels.len() as f32 * share) as usize).copied().unwrap_or(0.0).max(1e-12);
    Sound { loudest: levels.last().copied().unwrap_or(0.0).sqrt(), range: 10.0 * (at(0.95) / at(0.1)).log10() }
}

impl Sound {
    /// Nothing that could be heard.
    pub(super) fn is_silent(&self) -> bool {
        self.loudest < SILENT
    }

    /// No rise and fall as speech has.
    pub(super) fn is_steady(&self) -> bool {
        self.range < STEADY_DB
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_silence_hum_and_syllables_apart() {
        let hum: Vec<f32> = (0..16_000).map(|i| (i as f32 * 0.3).sin() * 0.1).collect();
        let syllables: Vec<f32> = hum.iter().enumerate().map(|(i, x)| if i / 2000 % 2 == 0 { *x } else { x * 0.05 }).collect();
        assert!(measure(&[]).is_silent() && measure(&[0.0; 999]).is_silent() && measure(&[f32::NAN; 999]).is_silent());
        assert!(!measure(&hum).is_silent() && measure(&hum).is_steady());
        assert!(!measure(&syllables).is_silent() && !measure(&syllables).is_steady());
    }
}
