//! How the audio speaks for a word, from the rows of logits at its tokens.

use serde::{Deserialize, Serialize};

use crate::whisper::spoken::Classes;

/// Goodness and gain by the audio from which on a word that was not recognized was said after all. Of words that were not said, put into texts of
/// real speech by `benches/pronounce.py`, none had a goodness above -4.5.
const SAID_GOP: f32 = -2.5;
const SAID_GAIN: f32 = 0.5;
/// Log-probabilities are not told below this: `ln` of what f32 sums still resolve.
pub(super) const FLOOR: f32 = -25.0;

/// How the audio speaks for an expected word: natural logarithms, means over the word's tokens. Punctuation is not spoken: it is taken
/// out of the distribution, and tokens that differ in case or in the blank before them count as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Goodness {
    /// ln P(word | audio, the text before it), up to 0.
    pub logprob: f32,
    /// Word-level goodness of pronunciation from Whisper's teacher-forced log-probabilities: `logprob` less that of the best
    /// alternative at the same place; above 0 nothing else was likelier.
    pub word_gop: f32,
    /// `logprob` less the same without audio: how much of it is owed to the sound and not to the text.
    pub audio_gain: f32,
    /// Its first token's log-probability less that of the likeliest of the next words (or the end): below 0 the audio goes on without
    /// it.
    pub presence: f32,
}

impl Goodness {
    /// Whether the audio speaks for the word although the recognizer wrote something else.
    pub(super) fn is_said(&self) -> bool {
        self.word_gop > SAID_GOP && self.audio_gain > SAID_GAIN && self.presence > 0.0
    }
}

/// What one row of logits says.
pub(super) struct Predicted {
    pub(super) own: Option<f32>, // ln P of the token's class; `None` for punctuation
    pub(super) alternative: f32, // of the best other class
    pub(super) next: f32,        // of the likeliest of the next words
}

impl Predicted {
    pub(super) fn new(classes: &Classes, row: &[f32], wanted: &[u32]) -> Self {
        let Some((own, next)) = wanted.split_first() else {
            return Self { own: None, alternative: FLOOR, next: FLOOR };
        };
        let (found, alternative) = classes.log_probabilities(row, wanted, *own);
        let next = found[1..].iter().copied().take(next.len()).fold(FLOOR, f32::max);
        Self { own: Some(found[0].max(FLOOR)), alternative: alternative.max(FLOOR), next }
    }
}

/// Of a word by its tokens, with the audio and without; `None` where none of them is spoken.
pub(super) fn goodness(with: &[Predicted], without: &[Predicted]) -> Option<Goodness> {
    let scored: Vec<(f32, &Predicted, f32)> = with.iter().zip(without).filter_map(|(w, o)| Some((w.own?, w, o.own?))).collect();
    let first = scored.first()?;
    let mean = |of: &dyn Fn(&(f32, &Predicted, f32)) -> f32| scored.iter().map(of).sum::<f32>() / scored.len() as f32;
    Some(Goodness {
        logprob: mean(&|s| s.0),
        word_gop: mean(&|s| s.0 - s.1.alternative),
        audio_gain: mean(&|s| s.0 - s.2),
        presence: first.0 - first.1.next,
    })
}
