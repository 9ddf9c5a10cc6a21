//! Whisper: speech to text with segments and word times (Radford et al. 2022).

mod agreement;
mod align;
mod attention;
mod config;
#[cfg(feature = "cuda")]
mod cuda;
mod cuts;
mod decode;
mod decoder;
mod executor;
mod hypotheses;
mod load;
mod math;
pub mod mel;
mod model;
mod names;
mod options;
mod pronounce;
mod silence;
mod spoken;
pub mod stream;
#[cfg(test)]
mod tests;
mod timestamps;
mod tokens;
mod transcribe;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dreamseed_kernels::Pool;
use serde::Serialize;

use crate::weights;

pub use config::Config;
pub use options::{Error, MAX_BEAM, Options, Precision, Result, Task, Windows};
pub use pronounce::{Goodness, Kind, MAX_TEXT, Pronounced, Pronunciation, language_of};

/// What was said. Times are seconds from the start of the audio.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Transcript {
    /// ISO 639-1 code, found or given; empty where there was nothing to hear.
    pub language: String,
    /// Length of the audio in seconds.
    pub duration: f64,
    /// All segments' text, without blanks at its ends.
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

/// What a transcription tells while it runs.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// How far it is, seconds: before each window.
    Position {
        /// Seconds done.
        done: f64,
        /// Seconds in all.
        total: f64,
    },
    /// A window has gone through the encoder; its tokens follow, with those of the others that are decoded beside it.
    Encoded,
    /// The decoder went a token on.
    Step {
        /// Beams or samples of all windows side by side.
        hypotheses: usize,
    },
    /// The language that was found.
    Language(&'a str),
    /// A finished segment.
    Segment(&'a Segment),
}

/// A Whisper model with its vocabulary: immutable, any number of transcriptions may run on it at once.
pub struct Whisper {
    model: executor::Model,
    tokens: tokens::Tokens,
    mel: mel::MelExtractor,
    heads: Vec<(usize, usize)>,
    prior: OnceLock<model::Cross>, // of a window without audio: what the decoder expects by the text alone
}

impl Whisper {
    /// Opens, in this precision, a file of weights: `model.bin` (CTranslate2), `.safetensors` (transformers, openai/whisper) or `.gguf` (the
    /// same names; quantized matrices stay as they are), or a folder that has one of them. Beside it lie the JSON files of settings and
    /// `tokenizer.json`.
    ///
    /// # Errors
    /// [`weights::Error`], naming the file, field or tensor: nothing of a Whisper, damaged files, shapes that do not fit.
    pub fn open(path: &Path, pool: &Pool, precision: Precision) -> weights::Result<Self> {
        Self::assemble(path, |store, config, _| {
            let weights = store.weights(pool, &config, precision)?;
            Ok(executor::Model::Cpu(Box::new(model::Model::new(config, weights))))
        })
    }

    /// As [`Whisper::open`], onto a GPU: encoder and decoder run there, the search for the best text does not.
    ///
    /// # Errors
    /// As [`Whisper::open`]; [`weights::Error::Device`] where there is no room, [`weights::Error::Unsupported`] for heads that no kernel has.
    #[cfg(feature = "cuda")]
    pub fn open_on(
        device: &dreamseed_kernels::cuda::Device,
        path: &Path,
        pool: &Pool,
        precision: Precision,
    ) -> weights::Result<Self> {
        Self::assemble(path, |store, config, mel| {
            let model = cuda::Model::load(device, (store, config), (pool, precision), mel)?;
            Ok(executor::Model::Gpu(Box::new(model)))
        })
    }

    /// Whether it runs on a GPU.
    pub fn is_on_gpu(&self) -> bool {
        !matches!(self.model, executor::Model::Cpu(_))
    }

    fn assemble(
        path: &Path,
        load: impl FnOnce(&load::Store, Config, &mel::MelExtractor) -> weights::Result<executor::Model>,
    ) -> weights::Result<Self> {
        let file = weight_file(path)?;
        let folder = file.parent().unwrap_or(path);
        let mut settings = config::Settings::default();
        for name in ["config.json", "generation_config.json"] {
            let path = folder.join(name);
            if path.exists() {
                let parsed = serde_json::from_slice(&tokens::read_limited(&path)?);
                let error = |e: serde_json::Error| weights::Error::Field {
                    format: "JSON",
                    field: path.display().to_string(),
                    offset: e.column() as u64,
                    problem: e.to_string(),
                };
                settings = settings.or(parsed.map_err(error)?);
            }
        }
        let store = load::Store::open(&file)?;
        let config = store.config(&settings)?;
        let tokens = tokens::Tokens::open(folder, &config, &settings)?;
        let heads = config::alignment_heads(&config, &settings)?;
        let mel = mel::MelExtractor::new(config.n_mels);
        let model = load(&store, config, &mel)?;
        Ok(Self { model, tokens, mel, heads, prior: OnceLock::new() })
    }

    /// The model's shapes.
    pub fn config(&self) -> &Config {
        self.model.config()
    }

    /// Codes of the languages that it knows; empty for English-only models.
    pub fn languages(&self) -> impl Iterator<Item = &str> {
        self.tokens.languages.iter().map(|(code, _)| code.as_str())
    }

    /// Writes down what is said in mono audio at 16 kHz, full scale 1. Samples that are not finite count as silence. `progress`
    /// hears of every finished segment and may stop the work: what is there by then is the result.
    ///
    /// # Errors
    /// [`Error::Option`] for values that are out of range or that this model cannot do.
    pub fn transcribe(
        &self,
        pool: &Pool,
        pcm: &[f32],
        options: &Options,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Transcript> {
        let search = options.search()?;
        transcribe::Session::new(self, pool, pcm, options, &search, transcribe::Buffers::default())?.run(progress)
    }

    /// Holds mono audio at 16 kHz against the text that should have been said: every expected word with how well it was
    /// pronounced, and what was left out, added and changed. `heard` is the audio's transcript with word times, by this model.
    /// `progress` hears of positions and may stop the work: the words after that have no goodness.
    ///
    /// # Errors
    /// [`Error::Option`] for a text that is too long, has no words or is in a language that this model does not know, for a
    /// transcript without word times, and for a model whose folder has no `tokenizer.json`.
    pub fn pronunciation(
        &self,
        pool: &Pool,
        pcm: &[f32],
        expected: &str,
        heard: &Transcript,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Pronunciation> {
        pronounce::Examination::new(self, pool, pcm, expected, heard)?.run(progress)
    }
}

/// The file itself, or the one of a folder: CTranslate2's before the hub's before the first `.gguf` by name.
fn weight_file(path: &Path) -> weights::Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let named = ["model.bin", "model.safetensors"].map(|name| path.join(name)).into_iter().find(|p| p.exists());
    let entries = || std::fs::read_dir(path).map(|all| all.filter_map(|e| e.ok().map(|e| e.path())));
    let gguf = |p: &PathBuf| p.extension().is_some_and(|e| e == "gguf");
    let found = match named {
        Some(file) => Some(file),
        None => entries().map_err(|source| weights::Error::Io { path: path.into(), source })?.filter(gguf).min(),
    };
    let problem = || format!("{} has neither model.bin nor model.safetensors nor a .gguf file", path.display());
    found.ok_or_else(|| weights::Error::Unsupported(problem()))
}
