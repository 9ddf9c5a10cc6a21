//! Whisper: speech to text with segments and word times (Radford et al. 2022).

mod attention;
mod config;
mod load;
pub mod mel;
mod model;

use serde::Serialize;

/// What was said. Times are seconds from the start of the audio.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Transcript {
    /// ISO 639-1 code, found or given.
    pub language: String,
    /// Length of the audio in seconds.
    pub duration: f64,
    /// All segments' text.
    pub text: String,
    /// In order of time.
    pub segments: Vec<Segment>,
}

/// A stretch of speech between two timestamps of the decoder.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Segment {
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// With its leading space, as Whisper writes it.
    pub text: String,
    /// Mean log-probability of the tokens of its window.
    pub avg_logprob: f32,
    /// Probability of the no-speech token at the start of its window, 0..1.
    pub no_speech_prob: f32,
    /// Empty when word times were not asked for.
    pub words: Vec<Word>,
}

/// One word with its time by cross-attention DTW.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Word {
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// With its leading space and trailing punctuation.
    pub word: String,
    /// Mean probability of its tokens, 0..1.
    pub probability: f32,
}
