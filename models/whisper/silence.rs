//! A look at the level of the sound: Whisper writes text for anything, silence and noise too; and where it is softest, nobody speaks.

use std::ops::Range;

use super::mel::HOP;

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

/// Frames about a cut that must be soft, 0.3 s: a pause between words, not a stop within one.
const PAUSE: usize = 30;

/// Cuts a range of mel frames into pieces of at most `longest`, each at the softest place of the last third of what it may hold.
pub(super) fn cut(pcm: &[f32], frames: Range<usize>, longest: usize) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut first = frames.start;
    while frames.end - first > longest {
        let at = softest(pcm, first + longest - longest / 3..first + longest + 1);
        pieces.push(first..at);
        first = at;
    }
    pieces.push(first..frames.end);
    pieces
}

/// The frame about which the mean square is least; of equal ones the middle of the first run.
fn softest(pcm: &[f32], frames: Range<usize>) -> usize {
    let begin = frames.start.saturating_sub(PAUSE / 2);
    let energy = |frame: usize| -> f64 {
        let samples = &pcm[(frame * HOP).min(pcm.len())..((frame + 1) * HOP).min(pcm.len())];
        samples.iter().filter(|x| x.is_finite()).map(|x| f64::from(x.clamp(-1e6, 1e6)).powi(2)).sum()
    };
    let energies: Vec<f64> = (begin..frames.end + PAUSE / 2).map(energy).collect();
    let level =
        |frame: usize| energies[(frame - begin).saturating_sub(PAUSE / 2)..frame - begin + PAUSE / 2].iter().sum::<f64>();
    let Some(least) = frames.clone().map(level).min_by(f64::total_cmp) else { return frames.start };
    let run = frames.clone().skip_while(|frame| level(*frame) > least).take_while(|frame| level(*frame) <= least);
    let run: Vec<usize> = run.collect();
    run.get(run.len() / 2).copied().unwrap_or(frames.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_in_pauses_and_never_leaves_too_much() {
        // syllables with pauses of half a second about 2.5, 5.5 and 9.0 s; longest piece 4 s
        let mut pcm: Vec<f32> = (0..12 * 16_000).map(|i| (i as f32 * 0.3).sin() * 0.1).collect();
        for at in [2.5, 5.5, 9.0] {
            let middle = (at * 16e3) as usize;
            pcm[middle - 4000..middle + 4000].fill(0.0);
        }
        let pieces = cut(&pcm, 0..1200, 400);
        assert!(pieces.windows(2).all(|p| p[0].end == p[1].start) && pieces.iter().all(|p| p.len() <= 400), "{pieces:?}");
        assert_eq!((pieces[0].start, pieces[pieces.len() - 1].end), (0, 1200));
        // 0 to 4 s has its pause at 2.5 s before its last third, so it is cut anywhere in that; from there on pauses are found
        let near = |at: usize| pieces.iter().any(|p| p.end.abs_diff(at) <= 10);
        assert!(near(550) && near(900), "{pieces:?}");
        assert_eq!(cut(&pcm, 7..300, 400), std::slice::from_ref(&(7..300)));
        assert_eq!(cut(&[], 0..900, 400).len(), 3);
        assert!(cut(&[f32::NAN; 16_000], 0..500, 200).iter().all(|p| !p.is_empty() && p.len() <= 200));
    }

    #[test]
    fn tells_silence_hum_and_syllables_apart() {
        let hum: Vec<f32> = (0..16_000).map(|i| (i as f32 * 0.3).sin() * 0.1).collect();
        let syllables: Vec<f32> = hum.iter().enumerate().map(|(i, x)| if i / 2000 % 2 == 0 { *x } else { x * 0.05 }).collect();
        assert!(measure(&[]).is_silent() && measure(&[0.0; 999]).is_silent() && measure(&[f32::NAN; 999]).is_silent());
        assert!(!measure(&hum).is_silent() && measure(&hum).is_steady());
        assert!(!measure(&syllables).is_silent() && !measure(&syllables).is_steady());
    }
}
