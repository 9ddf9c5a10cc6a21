//! `dreamseed run`: a chat in the terminal, or one prompt.

use std::io::{BufRead, IsTerminal, Read, Take, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;

use super::{emit, emit_json, engine, follow::FollowArgs, note, print};
use crate::config::{Cache, Config};
use crate::llm::{self, Chat, Generation, Options, Sampling, Session};
use crate::{Engine, Error, Result, media};

/// Arguments of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// LLM: an id of `dreamseed models`, a GGUF file, or a folder (default: the profile's)
    #[arg(long, value_name = "ID|FILE")]
    pub model: Option<String>,
    /// Answer this and end (`-` reads it from stdin); without it, chat
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Instructions for the model
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
    /// A picture before the prompt, for models that see (may be given several times)
    #[arg(long, value_name = "FILE", requires = "prompt", conflicts_with = "raw")]
    pub image: Vec<PathBuf>,
    /// The projector that lets the model see (default: the one that weights.toml names, or mmproj*.gguf beside the model)
    #[arg(long, value_name = "FILE", requires = "image")]
    pub mmproj: Option<PathBuf>,
    /// Most tokens of a picture, where the model leaves that open (default: 1024)
    #[arg(long, value_name = "N", requires = "image", value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub image_tokens: Option<u32>,
    /// Complete the prompt as it stands, without the model's chat template
    #[arg(long, requires = "prompt")]
    pub raw: bool,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub max_tokens: usize,
    /// Tokens that are kept in mind, prompt and answers together
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// 0: always the likeliest token; higher: more varied
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    pub temperature: f32,
    /// Sample from the K likeliest tokens; 0: from all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: usize,
    /// Sample from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f32,
    /// Leave out tokens with less than this share of the likeliest one's probability
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub min_p: f32,
    /// Makes tokens of the last ones less likely (1: not)
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Taken from the logit of every token that has come up
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Taken from the logit of a token for each time that it has come up
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// Tokens that the penalties look back on
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub penalty_window: usize,
    /// The same seed gives the same answer
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// End the answer before this text (may be given several times)
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Guess tokens ahead: `off`, `look-up`, or a small model (id or file) with the same tokens; the text stays the same
    #[arg(long, value_name = "HOW|ID|FILE")]
    pub draft: Option<String>,
    /// How keys and values are kept (default: the configuration's `llm.cache`)
    #[arg(long, value_name = "TYPE", value_parser = ["f16", "q8_0", "f32"])]
    pub cache: Option<String>,
    /// What the answer follows.
    #[command(flatten)]
    pub follow: FollowArgs,
    /// The log-probability of each token, in the JSON
    #[arg(long, requires = "json")]
    pub logprobs: bool,
    /// One JSON object
    #[arg(long, requires = "prompt")]
    pub json: bool,
}

impl RunArgs {
    fn options(&self) -> Result<Options> {
        let sampling = Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            penalty_window: self.penalty_window,
            seed: self.seed,
        };
        sampling.check()?;
        let (grammar, stop) = (self.follow.grammar()?, self.stop.clone());
        Ok(Options { max_tokens: self.max_tokens, sampling, stop, grammar, logprobs: self.logprobs, top_logprobs: 0 })
    }
}

pub(super) fn run(mut config: Config, args: RunArgs) -> Result<()> {
    config.llm.draft = args.draft.clone().unwrap_or(config.llm.draft);
    config.llm.cache = match args.cache.as_deref() {
        Some("f32") => Cache::F32,
        Some("q8_0") => Cache::Q8_0,
        Some(_) => Cache::F16,
        None => config.llm.cache,
    };
    let options = args.options()?; // before anything is fetched or loaded
    let limit = config.limits.tokens;
    if args.max_tokens > limit || args.context.is_some_and(|c| c > limit) {
        return Err(Error::Usage(format!("at most {limit} tokens are allowed (limits.tokens)")));
    }
    let engine = engine(config)?;
    match &args.prompt {
        None => chat(&engine, &args, &options),
        Some(prompt) if prompt == "-" => {
            let text = read_text(std::io::stdin().lock(), |input, text| input.read_to_end(text))?;
            answer(&engine, &args, &options, &text)
        }
        Some(prompt) => answer(&engine, &args, &options, prompt),
    }
}

/// Most bytes of a prompt: more than the tokens of the longest context.
const MAX_PROMPT: u64 = 4 << 20;

/// A text from standard input, as `read` takes it from there: all of it or a line.
fn read_text<R: BufRead>(from: R, read: impl FnOnce(&mut Take<R>, &mut Vec<u8>) -> std::io::Result<usize>) -> Result<String> {
    let mut text = Vec::new();
    let failed = |source| Error::Io { path: "standard input".into(), source };
    read(&mut from.take(MAX_PROMPT + 1), &mut text).map_err(failed)?;
    if text.len() as u64 > MAX_PROMPT {
        return Err(Error::Usage(format!("standard input: a prompt of more than {MAX_PROMPT} bytes; shorten it")));
    }
    String::from_utf8(text).map_err(|e| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, e)))
}

/// Streams to stdout and remembers why it could not.
fn stream(quiet: bool, failed: &mut Option<Error>) -> impl FnMut(&str) -> ControlFlow<()> + '_ {
    move |text| match if quiet { Ok(()) } else { print(text) } {
        Ok(()) => ControlFlow::Continue(()),
        Err(e) => {
            *failed = Some(e);
            ControlFlow::Break(())
        }
    }
}

fn answer(engine: &Engine, args: &RunArgs, options: &Options, prompt: &str) -> Result<()> {
    let limits = engine.limits();
    // Before a model is loaded: a file that is no picture is told at once.
    let frames = args.image.iter().map(|file| media::open_picture(file, &limits)).collect::<Result<Vec<_>>>()?;
    let llm = match frames.is_empty() {
        true => engine.llm(args.model.as_deref())?,
        false => engine.llm_that_sees(args.model.as_deref(), args.mmproj.as_deref())?,
    };
    let mut failed = None;
    let generation = if args.raw {
        llm::raw(&mut Session::new(llm, args.context)?, prompt, options, stream(args.json, &mut failed))?
    } else {
        let mut chat = Chat::new(llm.clone(), args.context, args.system.as_deref())?;
        let most = args.image_tokens.map(|n| n as usize);
        let seen = frames.iter().map(|frame| llm.see(frame, most)).collect::<Result<_>>()?;
        chat.say_with(prompt, seen, options, stream(args.json, &mut failed))?
    };
    match failed {
        Some(e) => Err(e),
        None if args.json => emit_json(&generation),
        None => {
            emit("")?;
            speed(&generation);
            Ok(())
        }
    }
}

fn speed(g: &Generation) {
    let (read, write) = (g.prefill_tokens_per_s, g.decode_tokens_per_s);
    let guessed = match g.speculated.drafted {
        0 => String::new(),
        n => format!(", {} of {n} guesses right", g.speculated.accepted),
    };
    note(&format!(
        "[{} tokens read at {read:.0}/s, {} written at {write:.0}/s{guessed}]",
        g.prompt_tokens.len() - g.reused_tokens,
        g.tokens.len()
    ));
}

/// One line a turn; /clear forgets, /quit or end of input ends. A turn that fails is told and the chat goes on.
fn chat(engine: &Engine, args: &RunArgs, options: &Options) -> Result<()> {
    let llm = engine.llm(args.model.as_deref())?;
    let mut chat = Chat::new(llm, args.context, args.system.as_deref())?;
    let person = std::io::stdin().is_terminal();
    if person {
        note("Type a line and Enter. /clear forgets the conversation, /quit ends it.");
    }
    let mut input = std::io::stdin().lock();
    loop {
        if person {
            eprint!("> ");
            let _ = std::io::stderr().flush();
        }
        let line = read_text(&mut input, |input, line| input.read_until(b'\n', line))?;
        match line.trim() {
            "" if line.is_empty() => return Ok(()),
            "" => continue,
            "/quit" | "/exit" => return Ok(()),
            "/clear" => {
                chat.clear();
                continue;
            }
            _ => {}
        }
        let mut failed = None;
        let outcome = chat.say(line.trim_end_matches(['\r', '\n']), options, stream(false, &mut failed));
        if let Some(e) = failed {
            return Err(e);
        }
        emit("")?;
        match outcome {
            Ok(generation) if person => speed(&generation),
            Ok(_) => {}
            Err(e @ Error::Usage(_)) => note(&format!("{e}; /clear starts anew")),
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_input_is_bounded_utf8() {
        let line = |text: &[u8]| read_text(text, |input, line| input.read_until(b'\n', line));
        assert_eq!(line(b"one\ntwo\n").unwrap(), "one\n");
        assert_eq!(line(b"").unwrap(), "");
        assert!(matches!(line(b"\xff\n"), Err(Error::Io { .. })));
        assert!(matches!(line(&vec![b'x'; MAX_PROMPT as usize + 1]), Err(Error::Usage(_))));
    }
}
