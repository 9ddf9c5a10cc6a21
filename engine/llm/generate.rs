//! Prompt in, streamed text out.

use std::{
    ops::ControlFlow,
    sync::{Arc, atomic::AtomicBool, mpsc::channel},
    time::Duration,
};

use dreamseed_models::tokenizer::Specials;
use serde::Serialize;

use super::{
    Grammar, Llm, Prompt, Sampling,
    runner::Wanted,
    sequence::{Cancelled, Event, Request},
};
use crate::{Error, Result};

/// Positions of a session that does not say how many it wants.
const DEFAULT_CONTEXT: usize = 4096;

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// At most so many tokens.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Texts that end the generation; they are not part of it.
    pub stop: Vec<String>,
    /// What the text has to follow. It ends where the grammar does; a text that is cut by `max_tokens` does not follow it to the end.
    pub grammar: Option<Grammar>,
    /// Whether the log-probability of each token is wanted.
    pub logprobs: bool,
    /// So many of the most probable tokens at each place with their log-probabilities, whether they were chosen or not; 0: none. A
    /// GPU then hands over all logits of each token, which takes longer.
    pub top_logprobs: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_tokens: 512,
            sampling: Sampling::default(),
            stop: Vec::new(),
            grammar: None,
            logprobs: false,
            top_logprobs: 0,
        }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended its text or turn, or the grammar is complete.
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
    /// Tokens that were guessed ahead, and how many of them were right.
    #[serde(skip_serializing_if = "Speculated::is_none")]
    pub speculated: Speculated,
    /// Natural log-probability of each token before sampling, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<f32>>,
    /// The most probable tokens at the place of each, the best first, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<Vec<Vec<(u32, f32)>>>,
}

/// How well tokens were guessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Speculated {
    /// Guessed tokens that the model checked.
    pub drafted: usize,
    /// Those that it would have chosen too.
    pub accepted: usize,
}

impl Speculated {
    fn is_none(&self) -> bool {
        self.drafted == 0
    }
}

/// A place to generate from: a model, and the most tokens that a text may have. What a prompt begins with in common with one before,
/// of this session or another of the model, is not computed again while there is room to keep it.
pub struct Session {
    llm: Arc<Llm>,
    context: usize,
    cancel: Option<Arc<AtomicBool>>,
}

impl Session {
    /// A session of at most `context` tokens (default: 4,096, or what the model was trained on or a GPU has room for if that is less).
    ///
    /// # Errors
    /// [`Error::Usage`] for a context that the model was not trained for, [`Error::Device`] when a GPU has no room for it.
    pub fn new(llm: Arc<Llm>, context: Option<usize>) -> Result<Self> {
        let trained = llm.config().context;
        let wanted = match context {
            Some(context) if context == 0 || context > trained => {
                return Err(Error::Usage(format!("a context of {context} tokens; this model allows 1 to {trained}")));
            }
            Some(context) => Wanted::All(context),
            None => Wanted::UpTo(trained.min(DEFAULT_CONTEXT)),
        };
        let context = llm.runner().reserve(wanted)?;
        Ok(Self { llm, context, cancel: None })
    }

    /// Ends what is generated from now on soon after `flag` is set, from whatever thread, while the prompt is read too.
    pub fn cancelled_by(&mut self, flag: Arc<AtomicBool>) {
        self.cancel = Some(flag);
    }

    /// The model.
    pub fn llm(&self) -> &Arc<Llm> {
        &self.llm
    }

    /// Most tokens, prompt and answer together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Generates after `prompt`. `on_text` is called after each token with the text that is certain now (often a word, empty while
    /// a character or a stop text may be under way); breaking out cancels.
    ///
    /// # Errors
    /// [`Error::Usage`] when the prompt does not fit the context, an option is out of range or the grammar cannot be followed,
    /// [`Error::Weights`] when the model computes no finite numbers, [`Error::Device`] when a GPU fails.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        options: &Options,
        on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation> {
        self.generate_with(&Prompt::text(prompt.to_vec()), options, on_text)
    }

    /// As [`Session::generate`], after a prompt with pictures.
    ///
    /// # Errors
    /// As [`Session::generate`].
    pub fn generate_with(
        &mut self,
        prompt: &Prompt,
        options: &Options,
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation> {
        self.check(prompt)?;
        let (numbered, pictures) = prompt.numbered();
        let prompt = prompt.tokens();
        let constraint = options.grammar.as_ref().map(|g| self.llm.constrain(g)).transpose()?;
        let (events, received) = channel();
        let cancelled = Cancelled::new(self.cancel.clone());
        let _ended = CancelOnDrop(cancelled.clone()); // a callback that unwinds cancels too
        let mut logprobs = options.logprobs.then(Vec::new);
        let mut tops = (options.top_logprobs > 0).then(Vec::new);
        let request = Request {
            prompt: numbered,
            pictures,
            options: options.clone(),
            constraint,
            context: self.context,
            events,
            cancelled: cancelled.clone(),
        };
        self.llm.runner().submit(request)?;
        let (mut tokens, mut text) = (Vec::new(), String::new());
        let mut on = |more: &str, text: &mut String| {
            text.push_str(more);
            on_text(more).is_break()
        };
        let done = loop {
            match received.recv().map_err(|_| Error::Internal("the model's thread has ended".into()))?? {
                Event::Token { .. } if cancelled.is_set() => {} // chosen before it heard
                Event::Token { token, logprob, top, text: more } => {
                    tokens.push(token);
                    if let Some(logprobs) = &mut logprobs {
                        logprobs.extend(logprob);
                    }
                    if let Some(tops) = &mut tops {
                        tops.push(top);
                    }
                    if on(&more, &mut text) {
                        cancelled.set();
                    }
                }
                Event::Done(done) => break done,
            }
        };
        let finish = if cancelled.is_set() { Finish::Cancelled } else { done.finish };
        if finish != Finish::Cancelled && !done.rest.is_empty() {
            on(&done.rest, &mut text);
        }
        Ok(Generation {
            prompt_tokens: prompt.to_vec(),
            prefill_tokens_per_s: rate(prompt.len() - done.reused, done.prefill),
            decode_tokens_per_s: rate(done.steps, done.decode),
            reused_tokens: done.reused,
            speculated: done.speculated,
            tokens,
            text,
            finish,
            logprobs,
            top_logprobs: tops,
        })
    }

    fn check(&self, all: &Prompt) -> Result<()> {
        let prompt = all.tokens();
        let (n, context, vocab) = (prompt.len(), self.context, self.llm.config().vocab);
        if prompt.is_empty() {
            return Err(Error::Usage("the prompt is empty; give some text".into()));
        }
        if n > context {
            let pictures = match all.picture_tokens() {
                0 => String::new(),
                rows => format!(", {rows} of them of pictures,"),
            };
            let problem =
                format!("the prompt has {n} tokens{pictures} and the context {context}; shorten it or open a larger context");
            return Err(Error::Usage(problem));
        }
        match prompt.iter().find(|t| **t as usize >= vocab) {
            Some(token) => Err(Error::Usage(format!("token {token} of a vocabulary of {vocab}"))),
            None => Ok(()),
        }
    }
}

/// Cancels a request when its caller is gone.
struct CancelOnDrop(Cancelled);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.set();
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
    let tokens = session.llm.tokenizer().encode_prompt(prompt, Specials::Parse, str::to_owned)?;
    session.generate(&tokens, options, on_text)
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if tokens == 0 { 0.0 } else { tokens as f64 / time.as_secs_f64().max(1e-9) }
}
