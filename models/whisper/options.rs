//! What a caller can ask for, and what can be wrong with it.

use super::decode::Search;
use crate::weights;

/// What to write down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// What was said, in its language.
    #[default]
    Transcribe,
    /// The same in English (multilingual models).
    Translate,
}

/// How the weights are kept in memory and multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 8 bits a weight with a scale for each 32, activations likewise; the encoder's attention in bf16 where the processor multiplies
    /// that; keys and values of the audio in f16. A layer whose rows are
    /// not whole blocks of 32 stays as stored.
    #[default]
    Int8,
    /// As the file stores them, multiplied in f32: the reference.
    Stored,
}

/// What the windows of a long recording know of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Windows {
    /// Each begins where the last certain segment of the one before ended, and has its text as prompt.
    InTurn,
    /// Nothing over a silence: stretches of speech are decoded side by side, which costs less for each, and no text hangs on another's.
    /// Within a stretch that is longer than a window they follow in turn.
    #[default]
    Together,
    /// Nothing: what is longer than a window is cut where it is softest as well, so that speech without silences is decoded side by side
    /// too. Words beside a cut can be lost, or said twice.
    Cut,
}

/// How to transcribe. The defaults are those of openai/whisper, but for greedy decoding.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// ISO 639-1 code; `None`: found from the first window that is not silent.
    pub language: Option<String>,
    /// Default: transcribe.
    pub task: Task,
    /// Times for each word.
    pub word_timestamps: bool,
    /// Segments with times; without, each window is one segment.
    pub timestamps: bool,
    /// 1: greedy; up to [`MAX_BEAM`]: beam search, where the temperature is 0.
    pub beam_size: usize,
    /// Tried in turn until a window's text is good; each 0 or more.
    pub temperatures: Vec<f32>,
    /// Only what [`crate::voice`] takes for speech is looked at: silence costs nothing and is given no text. Times stay those of the
    /// recording; silence of less than two seconds between words is kept.
    pub vad: bool,
    /// Text that could have gone before: names and terms to expect. Windows side by side have it each, those in turn the first.
    pub initial_prompt: Option<String>,
    /// What windows know of each other.
    pub windows: Windows,
    /// Whether a window's text is the next one's prompt, where windows follow each other.
    pub condition_on_previous_text: bool,
    /// For sampling at temperatures above 0: the same seed gives the same text.
    pub seed: u64,
    /// Text that compresses better than this repeats itself.
    pub compression_ratio_threshold: f32,
    /// Text with a mean log-probability below this is not trusted.
    pub logprob_threshold: f32,
    /// A window with this probability of no speech is skipped where its text is not trusted.
    pub no_speech_threshold: f32,
    /// Latest start of the first segment of a window, seconds.
    pub max_initial_timestamp: f32,
}

/// Widest beam that is searched.
pub const MAX_BEAM: usize = 32;

impl Default for Options {
    fn default() -> Self {
        Self {
            language: None,
            task: Task::Transcribe,
            word_timestamps: false,
            timestamps: true,
            beam_size: 1,
            temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            vad: true,
            initial_prompt: None,
            windows: Windows::default(),
            condition_on_previous_text: true,
            seed: 0,
            compression_ratio_threshold: 2.4,
            logprob_threshold: -1.0,
            no_speech_threshold: 0.6,
            max_initial_timestamp: 1.0,
        }
    }
}

/// Why nothing was transcribed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The weights or the vocabulary.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// An option has a value that is not allowed, or that this model cannot do.
    #[error("{option}: {problem}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What was seen, what is allowed.
        problem: String,
    },
    /// A shape that a checked model cannot have.
    #[error(transparent)]
    Matrix(#[from] dreamseed_kernels::MatrixError),
    /// A GPU has no room, refuses or is lost.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Device(#[from] dreamseed_kernels::cuda::Error),
}

/// Result of a transcription.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(super) fn option(option: &'static str, problem: String) -> Self {
        Self::Option { option, problem }
    }
}

impl Options {
    /// Checks every value once.
    pub(super) fn search(&self) -> Result<Search> {
        if !(1..=MAX_BEAM).contains(&self.beam_size) {
            return Err(Error::option("beam_size", format!("{} seen, 1 to {MAX_BEAM} are allowed", self.beam_size)));
        }
        if self.temperatures.is_empty() || self.temperatures.len() > 16 {
            let seen = self.temperatures.len();
            return Err(Error::option("temperatures", format!("{seen} seen, 1 to 16 are allowed")));
        }
        if let Some(bad) = self.temperatures.iter().find(|t| !(0.0..=10.0).contains(*t)) {
            return Err(Error::option("temperatures", format!("{bad} seen, 0 to 10 is allowed")));
        }
        if !(0.0..=30.0).contains(&self.max_initial_timestamp) {
            let problem = format!("{} seen, 0 to 30 s is allowed", self.max_initial_timestamp);
            return Err(Error::option("max_initial_timestamp", problem));
        }
        Ok(Search {
            beam_size: self.beam_size,
            temperatures: self.temperatures.clone(),
            timestamps: self.timestamps,
            max_initial: (self.max_initial_timestamp * 50.0).round() as u32,
            compression_ratio_threshold: self.compression_ratio_threshold,
            logprob_threshold: self.logprob_threshold,
            no_speech_threshold: self.no_speech_threshold,
            seed: self.seed,
        })
    }
}
