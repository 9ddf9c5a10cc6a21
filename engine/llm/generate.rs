//! Prompt in, streamed text out.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use dreamseed_kernels::Pool;
use dreamseed_models::{
    chat::ChatTemplate,
    decoder::{Decoder, Logits, State},
    tokenizer::{Detokenizer, Specials, Tokenizer},
    weights::{self, gguf::Gguf},
};
use serde::Serialize;

use super::{Sampler, Sampling};
use crate::{Error, Result};

/// Positions of a session that does not say how many it wants.
const DEFAULT_CONTEXT: usize = 4096;

/// A language model with its tokenizer and chat template. Immutable: share it.
pub struct Llm {
    decoder: Decoder,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    pool: Arc<Pool>,
}

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// At most so many tokens.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the generation; they are not part of it.
    pub stop: Vec<String>,
    /// Whether the log-probability of each token is wanted.
    pub logprobs: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_tokens: 512, sampling: Sampling::default(), stop: Vec::new(), logprobs: false }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended its text or turn.
    Eos,
    /// `max_tokens` or the end of the context.
    Length,
    /// A stop text.
    Stop,
    /// The caller.
    Cancelled,
}

/// What was generated.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Generation {
    /// The prompt as the model saw it.
    pub prompt_tokens: Vec<u32>,
    /// Generated tokens, without the end mark.
    pub tokens: Vec<u32>,
    /// Their text up to a stop text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt that were still in the cache.
    pub reused_tokens: usize,
    /// Speed of reading the rest of the prompt.
    pub prefill_tokens_per_s: f64,
    /// Speed of generation after the first token; 0 where there was none.
    pub decode_tokens_per_s: f64,
    /// Natural log-probability of each token before sampling, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<f32>>,
}

impl Llm {
    /// Opens a GGUF file, or a folder with config.json, tokenizer.json and safetensors.
    ///
    /// # Errors
    /// [`Error::Weights`].
    pub fn open(path: &Path, pool: Arc<Pool>) -> Result<Self> {
        if path.is_dir() {
            return Self::open_folder(path, pool);
        }
        let gguf = Gguf::open(path)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let template = ChatTemplate::from_gguf(&gguf, &tokenizer)?;
        let decoder = Decoder::from_gguf(&gguf, &pool)?;
        Self::new(decoder, tokenizer, template, pool)
    }

    fn open_folder(path: &Path, pool: Arc<Pool>) -> Result<Self> {
        let special = SpecialTokens::read(path)?;
        let tokenizer = Tokenizer::from_json(&path.join("tokenizer.json"), special.bos, &special.eos)?;
        let template = ChatTemplate::new(special.template.as_deref(), &tokenizer);
        let template = template.map_err(|e| weights::Error::Unsupported(format!("{}: {e}", path.display())))?;
        Self::new(Decoder::open(path, &pool)?, tokenizer, template, pool)
    }

    fn new(decoder: Decoder, tokenizer: Tokenizer, template: ChatTemplate, pool: Arc<Pool>) -> Result<Self> {
        let (tokens, rows) = (tokenizer.len(), decoder.config().vocab);
        if tokens > rows {
            let problem = format!("the tokenizer has {tokens} tokens, the decoder {rows}: they do not belong together");
            return Err(weights::Error::Unsupported(problem).into());
        }
        Ok(Self { decoder, tokenizer, template, pool })
    }

    /// The network.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The vocabulary.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// How conversations are written.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }
}

/// What config.json and tokenizer_config.json say beside the decoder's shape.
#[derive(Default)]
struct SpecialTokens {
    bos: Option<u32>,
    eos: Vec<u32>,
    template: Option<String>,
}

impl SpecialTokens {
    fn read(folder: &Path) -> Result<Self> {
        let json = |name: &str| -> Result<Option<serde_json::Value>> {
            let path = folder.join(name);
            match weights::read_whole(&path, weights::TEXT) {
                Ok(text) => Ok(Some(serde_json::from_slice(&text).map_err(|e| weights::Error::Field {
                    format: "json",
                    field: path.display().to_string(),
                    offset: e.column() as u64,
                    problem: e.to_string(),
                })?)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(Error::Io { path, source }),
            }
        };
        let mut special = Self::default();
        for name in ["config.json", "generation_config.json"] {
            let Some(config) = json(name)? else { continue };
            let id = |v: &serde_json::Value| v.as_u64().and_then(|v| u32::try_from(v).ok());
            special.bos = special.bos.or(id(&config["bos_token_id"]));
            let eos = &config["eos_token_id"];
            special.eos.extend(eos.as_array().into_iter().flatten().chain([eos]).filter_map(id));
        }
        let config = json("tokenizer_config.json")?;
        special.template = config.and_then(|c| c["chat_template"].as_str().map(str::to_owned));
        Ok(special)
    }
}

/// One sequence of a model with its cache: a prompt that begins like the last one is read only from where it differs.
pub struct Session {
    llm: Arc<Llm>,
    state: State,
    tokens: Vec<u32>, // those in the cache
}

impl Session {
    /// A session of at most `context` tokens (default: 4,096, or what the model was trained on if that is less).
    ///
    /// # Errors
    /// [`Error::Usage`] for a context that the model was not trained for.
    pub fn new(llm: Arc<Llm>, context: Option<usize>) -> Result<Self> {
        let trained = llm.decoder.config().context;
        let context = context.unwrap_or(trained.min(DEFAULT_CONTEXT));
        if context == 0 || context > trained {
            return Err(Error::Usage(format!("a context of {context} tokens; this model allows 1 to {trained}")));
        }
        let state = llm.decoder.new_state(context);
        Ok(Self { llm, state, tokens: Vec::new() })
    }

    /// The model.
    pub fn llm(&self) -> &Arc<Llm> {
        &self.llm
    }

    /// Most tokens, prompt and answer together.
    pub fn context(&self) -> usize {
        self.state.context()
    }

    /// Generates after `prompt`. `on_text` is called after each token with the text that is certain now (often a word, empty while
    /// a character or a stop text may be under way); breaking out cancels.
    ///
    /// # Errors
    /// [`Error::Usage`] when the prompt does not fit the context or an option is out of range, [`Error::Weights`] when the model
    /// computes no finite numbers.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &Options,
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let llm = self.llm.clone();
        let mut sampler = Sampler::new(options.sampling)?;
        let (reused, prefill) = self.prefill(prompt)?;
        prompt.iter().for_each(|&t| sampler.accept(t));
        let mut text = TextStream::new(&options.stop);
        let mut generation = Generation {
            prompt_tokens: prompt.to_vec(),
            tokens: Vec::new(),
            text: String::new(),
            finish: Finish::Length,
            reused_tokens: reused,
            prefill_tokens_per_s: rate(prompt.len() - reused, prefill),
            decode_tokens_per_s: 0.0,
            logprobs: options.logprobs.then(Vec::new),
        };
        let start = Instant::now();
        let mut steps = 0;
        while generation.tokens.len() < options.max_tokens {
            let logits = self.state.logits();
            let token = sampler.sample(logits).ok_or_else(not_finite)?;
            if llm.tokenizer.is_end(token) {
                generation.finish = Finish::Eos;
                break;
            }
            if let Some(logprobs) = &mut generation.logprobs {
                logprobs.push(log_probability(logits, token));
            }
            sampler.accept(token);
            generation.tokens.push(token);
            let stopped = text.push(if llm.tokenizer.is_control(token) { &[] } else { llm.tokenizer.bytes(token) });
            let cancelled = on_text(text.certain()).is_break();
            text.take_certain(&mut generation.text);
            if stopped || cancelled {
                generation.finish = if cancelled { Finish::Cancelled } else { Finish::Stop };
                break;
            }
            if generation.tokens.len() == options.max_tokens || self.state.len() == self.state.context() {
                break;
            }
            self.advance(token)?;
            steps += 1;
        }
        generation.decode_tokens_per_s = rate(steps, start.elapsed());
        if !matches!(generation.finish, Finish::Stop | Finish::Cancelled) {
            let rest = text.finish();
            if !rest.is_empty() {
                let _ = on_text(&rest);
                generation.text.push_str(&rest);
            }
        }
        Ok(generation)
    }

    /// Reads what of the prompt is not in the cache yet: how many tokens were, and the time.
    fn prefill(&mut self, prompt: &[u32]) -> Result<(usize, Duration)> {
        let context = self.state.context();
        if prompt.is_empty() {
            return Err(Error::Usage("the prompt is empty; give some text".into()));
        }
        if prompt.len() > context {
            let n = prompt.len();
            return Err(Error::Usage(format!(
                "the prompt has {n} tokens and the context {context}; shorten it or open a larger context"
            )));
        }
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let reused = common.min(prompt.len() - 1); // the last one runs again: its logits are wanted
        self.state.truncate(reused);
        self.tokens.truncate(reused);
        let start = Instant::now();
        let run = self.llm.decoder.forward(&self.llm.pool, &mut self.state, &prompt[reused..], Logits::Last);
        run.map_err(|e| Error::Usage(e.to_string()))?;
        self.tokens.extend_from_slice(&prompt[reused..]);
        Ok((reused, start.elapsed()))
    }

    fn advance(&mut self, token: u32) -> Result<()> {
        let run = self.llm.decoder.forward(&self.llm.pool, &mut self.state, &[token], Logits::Last);
        run.map_err(|e| Error::Internal(e.to_string()))?;
        self.tokens.push(token);
        Ok(())
    }
}

/// Generates after `prompt` as it stands, without a chat template: with the beginning mark that the model's metadata ask for,
/// control tokens parsed, as llama.cpp's completion does.
///
/// # Errors
/// As [`Session::generate`].
pub fn raw(
    session: &mut Session,
    prompt: &str,
    options: &Options,
    on_text: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<Generation> {
    let tokens = session.llm.tokenizer.encode_prompt(prompt, Specials::Parse, str::to_owned)?;
    session.generate(&tokens, options, on_text)
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if tokens == 0 { 0.0 } else { tokens as f64 / time.as_secs_f64().max(1e-9) }
}

fn not_finite() -> Error {
    weights::Error::Unsupported("the model computes no finite numbers: its weights are damaged".into()).into()
}

fn log_probability(logits: &[f32], token: u32) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    (f64::from(logits[token as usize] - max) - sum.ln()) as f32
}

/// Text on its way out: whole characters, and nothing that may turn out to be a stop text.
struct TextStream<'a> {
    stops: &'a [String],
    characters: Detokenizer,
    pending: String,
    certain: usize, // bytes of `pending` that may go out
}

impl<'a> TextStream<'a> {
    fn new(stops: &'a [String]) -> Self {
        Self { stops, characters: Detokenizer::default(), pending: String::new(), certain: 0 }
    }

    /// Adds a token's bytes; whether a stop text is complete.
    fn push(&mut self, bytes: &[u8]) -> bool {
        self.characters.push(bytes, &mut self.pending);
        let stops = || self.stops.iter().filter(|s| !s.is_empty());
        if let Some(at) = stops().filter_map(|s| self.pending.find(s.as_str())).min() {
            self.certain = at;
            return true;
        }
        let begun = |stop: &str| stop.char_indices().map(|(at, _)| at).filter(|&at| self.pending.ends_with(&stop[..at])).max();
        let held = stops().filter_map(|s| begun(s)).max().unwrap_or(0);
        self.certain = self.pending.len() - held;
        false
    }

    fn certain(&self) -> &str {
        &self.pending[..self.certain]
    }

    fn take_certain(&mut self, out: &mut String) {
        out.extend(self.pending.drain(..self.certain));
        self.certain = 0;
    }

    /// The end: what was held back, and what is left of a character.
    fn finish(mut self) -> String {
        self.characters.finish(&mut self.pending);
        self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes out after each piece, whether it stopped, and the rest.
    fn stream(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool, String) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut text = TextStream::new(&stops);
        let mut out = Vec::new();
        for piece in pieces {
            let stopped = text.push(piece);
            let mut part = String::new();
            text.take_certain(&mut part);
            out.push(part);
            if stopped {
                return (out, true, String::new());
            }
        }
        (out, false, text.finish())
    }

    #[test]
    fn stop_texts_are_found_across_tokens_and_never_shown() {
        let (out, stopped, _) = stream(&["\nUser:"], &[b"Hi", b" there\n", b"Us", b"er: x"]);
        assert_eq!((out.concat().as_str(), stopped), ("Hi there", true));
        let (out, stopped, rest) = stream(&["\nUser:"], &[b"Hi\n", b"Usual", b"\nUser"]);
        assert_eq!(out, ["Hi", "\nUsual", ""]);
        assert_eq!((stopped, rest.as_str()), (false, "\nUser"));
        let (out, stopped, _) = stream(&["abc", "b"], &[b"xa", b"b"]);
        assert_eq!((out.concat().as_str(), stopped), ("xa", true));
        let (out, ..) = stream(&["aab"], &[b"aa", b"a", b"b"]);
        assert_eq!(out, ["", "a", ""]);
        let (out, stopped, _) = stream(&[""], &[b"x"]);
        assert_eq!((out.concat().as_str(), stopped), ("x", false));
    }

    #[test]
    fn characters_go_out_whole() {
        let (out, _, rest) = stream(&["끝"], &[&[0xEA], &[0xB0], &[0x80], "끝".as_bytes()[..2].as_ref()]);
        assert_eq!(out, ["", "", "가", ""]);
        assert_eq!(rest, "\u{FFFD}");
    }

    #[test]
    fn log_probabilities_sum_to_one() {
        let logits = [1.0f32, 2.0, -3.0, 700.0];
        let sum: f32 = (0..4).map(|t| log_probability(&logits, t).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
    }
}
