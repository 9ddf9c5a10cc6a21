//! The language of chat templates: Jinja2 as HF transformers runs it (sandboxed, `trim_blocks`, `lstrip_blocks`, loop controls).
//!
//! A template comes with the model's file: it is a program by a stranger. minijinja parses it; the tree is evaluated here and not by
//! minijinja's own machine, whose limit counts instructions while one instruction may double a string, repeat a list or compare
//! values that hold each other a million times. To guard each of them from outside would mean to rewrite every node of the tree into
//! calls of functions of our own: as much code as evaluating it, with the machine's costs still out of sight. Here every operation
//! asks a [`Budget`] before it takes memory or walks bytes, values have a greatest depth, and what prints is what Python prints. What
//! is not on the lists of filters, tests, methods and functions does not exist.

use std::{borrow::Cow, thread};

use minijinja::{
    machinery::{self, Token, ast::Stmt},
    syntax::SyntaxConfig,
};

use super::{Date, Error, Message, budget::Budget, eval::Evaluator};
use crate::guard::guarded;

/// Longest template that is read, in bytes: templates in use take up to some 20,000.
pub(super) const MAX_TEMPLATE: usize = 1 << 16;
/// Bytes that a prompt may have besides the messages' own, each of them twice, and those that the marks around a message take.
const MAX_OUTPUT: usize = 1 << 20;
const OUTPUT_A_MESSAGE: usize = 1 << 10;
/// Stack for parsing and evaluating. The parser goes down a level for each `-` or `elif` in a chain, some hundred bytes a level, and
/// [`MAX_TEMPLATE`] bounds the levels. Memory is taken as far as it is used.
const STACK: usize = 256 << 20;
/// Longest message of an error that holds a template's own words, in characters.
const MAX_WORDS: usize = 300;

/// Why a rendering ends early.
#[derive(Debug)]
pub(super) enum Halt {
    /// The template is wrong or asks for too much.
    Fault(String),
    /// The template refuses the conversation.
    Raised(String),
}

impl Halt {
    pub(super) fn fault(message: impl Into<String>) -> Self {
        Self::Fault(message.into())
    }
}

/// What an operation of a template gives.
pub(super) type Rendered<T> = std::result::Result<T, Halt>;

/// What a template sees.
pub(super) struct Input<'i> {
    /// The conversation.
    pub(super) messages: &'i [Message],
    /// Functions that the model may call, as JSON.
    pub(super) tools: &'i [serde_json::Value],
    /// The text of the tokens that begin and end a sequence.
    pub(super) bos: &'i str,
    /// See `bos`.
    pub(super) eos: &'i str,
    /// The day.
    pub(super) date: Date,
}

/// A template that parses.
pub(super) struct Template {
    source: String,
}

impl Template {
    /// Reads a template.
    pub(super) fn new(source: &str) -> Result<Self, Error> {
        if source.len() > MAX_TEMPLATE {
            return Err(Error::Template(format!("{} bytes; at most {MAX_TEMPLATE} are allowed", source.len())));
        }
        let source = without_generation_tags(&source.replace("\r\n", "\n")).into_owned();
        deep(|| parse(&source).map(drop))?;
        Ok(Self { source })
    }

    /// Its text.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Whether it uses a name.
    pub(super) fn names(&self, name: &str) -> bool {
        let tokens = machinery::tokenize(&self.source, false, syntax());
        tokens.map_while(Result::ok).any(|(token, _)| matches!(token, Token::Ident(ident) if ident == name))
    }

    /// The prompt that it makes of a conversation.
    pub(super) fn render(&self, input: &Input) -> Result<String, Error> {
        let json = |value: &serde_json::Value| value.to_string().len();
        let calls = |m: &Message| m.calls.iter().map(|c| json(&c.arguments) + c.name.len()).sum::<usize>();
        let said: usize = input.messages.iter().map(|m| m.content.len() + calls(m)).sum();
        let said = said + input.tools.iter().map(json).sum::<usize>();
        let marks = OUTPUT_A_MESSAGE.saturating_mul(input.messages.len());
        let limit = MAX_OUTPUT.saturating_add(marks).saturating_add(said.saturating_mul(2));
        deep(|| {
            let tree = parse(&self.source)?;
            let Stmt::Template(root) = &tree else { return Err(Error::Template("has no statements".into())) };
            let mut evaluator = Evaluator::new(Budget::new(input.messages.len(), said), limit, input.date);
            let done = evaluator.run(&root.children, input);
            let line = evaluator.line();
            done.map_err(|halt| match halt {
                Halt::Fault(message) => Error::Template(format!("line {line}: {}", clipped(&message))),
                Halt::Raised(message) => Error::Refused(clipped(&message).into_owned()),
            })
        })
    }
}

fn syntax() -> SyntaxConfig {
    let mut builder = SyntaxConfig::builder();
    builder.trim_blocks(true).lstrip_blocks(true);
    builder.build().unwrap_or_default() // the default marks with other whitespace: always valid
}

fn parse(source: &str) -> Result<Stmt<'_>, Error> {
    machinery::parse(source, "template", syntax()).map_err(|e| {
        let line = e.line().unwrap_or(1);
        Error::Template(format!("line {line}: {}", clipped(e.detail().unwrap_or("does not parse"))))
    })
}

/// HF's `{% generation %}` marks what the model is trained on and writes nothing itself; to the parser it is a plain scope.
fn without_generation_tags(source: &str) -> Cow<'_, str> {
    if !source.contains("endgeneration") {
        return source.into();
    }
    let mut out = String::with_capacity(source.len());
    let mut from = 0;
    let mut in_tag = false;
    for token in machinery::tokenize(source, false, syntax()) {
        let Ok((token, span)) = token else { break }; // the parser says what is wrong
        let instead = match token {
            Token::Ident("generation") if in_tag => Some("with"),
            Token::Ident("endgeneration") if in_tag => Some("endwith"),
            _ => None,
        };
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        if let (Some(instead), Some(before)) = (instead, source.get(from..start)) {
            out.push_str(before);
            out.push_str(instead);
            from = end;
        }
        in_tag = matches!(token, Token::BlockStart);
    }
    out.push_str(source.get(from..).unwrap_or_default());
    out.into()
}

/// A template's own words within bounds.
fn clipped(words: &str) -> Cow<'_, str> {
    match words.char_indices().nth(MAX_WORDS) {
        Some((at, _)) => format!("{} ...", &words[..at]).into(),
        None => words.into(),
    }
}

/// Runs `work` on a thread with room for the deepest template ([`STACK`]).
fn deep<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("template".into()).stack_size(STACK);
        let worker = worker.spawn_scoped(scope, || guarded(work)); // the parser is another house's
        let worker = worker.map_err(|e| Error::Template(format!("no thread to run it on: {e}")))?;
        worker.join().ok().flatten().unwrap_or_else(|| Err(Error::Template("breaks the template engine".into())))
    })
}
