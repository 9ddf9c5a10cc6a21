//! The composer: lets the LLM say each point in its own words, and takes them only where they hold against the point's evidence.
//!
//! Small models misattribute: told that the learner is 0.21 s late they write that the teacher is. So every text is checked
//! ([`check()`]) for its numbers, who they belong to, which way they lean, limb, side, time, topic, praise or advice, language and
//! shape. Where a text fails, or the model does, the planner's sentence stands and the reasons are kept. Scores and measures are the
//! planner's alone; the transcript reaches a prompt only as quoted single words.

mod check;
mod claims;
mod english;
mod korean;
mod prompt;

use std::ops::ControlFlow;

pub use self::{
    check::{Fault, Kind, check},
    prompt::Prompt,
};
use crate::{
    Error, Result,
    coach::{
        Language, Plan, Point,
        events::{Event, Lesson, Said, Source},
    },
    router::Tier,
};

/// How much is asked of the model at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One point after the other, each with a short prompt and an example: models under 3B.
    Examples,
    /// One point after the other, with the evidence: 7B and larger.
    Evidence,
}

impl Style {
    /// What suits the tier.
    pub fn of(tier: Tier) -> Self {
        match tier {
            Tier::Small => Style::Examples,
            _ => Style::Evidence,
        }
    }
}

/// Takes the pieces of a text as they come (whole characters), and says whether to go on.
pub type Sink<'a> = dyn FnMut(&str) -> ControlFlow<()> + 'a;

/// The model: streams its answer to a prompt into the sink, until it ends or the sink has enough.
pub type Generate<'a> = dyn for<'s> FnMut(&Prompt, &'s mut Sink<'s>) -> Result<()> + 'a;

/// Takes the lesson's events, and says whether the caller is still there.
pub type Send<'a> = dyn FnMut(Event) -> ControlFlow<()> + 'a;

/// Sampling temperature that suits the task: the facts are given, so the likeliest words are the best, most of all for small models.
pub const TEMPERATURE: f32 = 0.0;

/// Tokens that a point may take.
pub const MAX_TOKENS: usize = 96;
/// Characters after which a generation is stopped, whatever the model does.
const MAX_CHARS: usize = 480;
/// Sentences after which it is stopped.
const MAX_SENTENCES: usize = 2;

/// Turns a plan into a lesson.
#[derive(Clone, Copy, Debug)]
pub struct Composer {
    style: Style,
    continues: bool,
}

impl Composer {
    /// For a model of this style.
    pub fn new(style: Style) -> Self {
        Self { style, continues: false }
    }

    /// For callers whose model goes on from [`Prompt::prefix`], given as the beginning of its answer, and streams only what follows.
    /// Without it, the prefix of every prompt is empty.
    pub fn continuing(self) -> Self {
        Self { continues: true, ..self }
    }

    /// Lets `generate` say each point and sends an event for each piece of text and each finished point.
    ///
    /// `generate` gets a prompt and a sink for the pieces as they come (whole characters); the sink's answer tells it to go on or to
    /// stop. An error of the model (other than [`Error::Cancelled`]) leaves the planner's sentence, with the error as the reason.
    /// `send` breaking means that the caller is gone: the composing ends with [`Error::Cancelled`].
    pub fn compose(&self, plan: Plan, generate: &mut Generate, send: &mut Send) -> Result<Lesson> {
        let mut lesson = Lesson::new(plan);
        for i in 0..lesson.points.len() {
            let said = self.say(&lesson.plan, &lesson.plan.points[i], generate, send)?;
            emit(send, Event::Point(said.clone()))?;
            lesson.points[i] = said;
        }
        Ok(lesson)
    }

    fn say(&self, plan: &Plan, point: &Point, generate: &mut Generate, send: &mut Send) -> Result<Said> {
        let mut prompt = Prompt::new(self.style, plan.lab, plan.language, point);
        if !self.continues {
            prompt.prefix.clear();
        }
        let (mut text, mut gone) = (prompt.prefix.clone(), false);
        let outcome = generate(&prompt, &mut |piece| {
            let first = text.len() == prompt.prefix.len();
            text.push_str(piece);
            let shown = if first { text.clone() } else { piece.to_owned() };
            gone = emit(send, Event::Token { point: point.id, text: shown }).is_err();
            let enough = ended(&text) >= MAX_SENTENCES || text.trim_start().contains('\n') || text.chars().count() > MAX_CHARS;
            if gone || enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match outcome {
            _ if gone => Err(Error::Cancelled),
            Err(Error::Cancelled) => Err(Error::Cancelled),
            Err(error) => Ok(planners(point, vec![format!("model: {error}")])),
            Ok(()) => Ok(accept(plan.language, point, &text)),
        }
    }
}

fn emit(send: &mut Send, event: Event) -> Result<()> {
    match send(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

/// The model's text where it holds, the planner's sentence with the reasons where it does not.
pub fn accept(language: Language, point: &Point, text: &str) -> Said {
    let text = tidy(text);
    let faults = check(language, point, &text);
    if faults.is_empty() {
        Said { point: point.clone(), text, source: Source::Llm, reasons: Vec::new() }
    } else {
        planners(point, faults.iter().map(Fault::to_string).collect())
    }
}

fn planners(point: &Point, reasons: Vec<String>) -> Said {
    Said { point: point.clone(), text: point.sentence.clone(), source: Source::Planner, reasons }
}

/// The first line without the quotation marks that models put around an answer, cut back to its last whole sentence.
fn tidy(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or("").trim();
    let inner = line.strip_prefix('"').and_then(|l| l.strip_suffix('"')).filter(|l| !l.contains('"')).unwrap_or(line);
    let ends: Vec<usize> = ends(inner).collect();
    match ends.last() {
        Some(&end) => inner[..end].to_owned(),
        None => inner.to_owned(),
    }
}

/// Byte offsets after the sentence ends that are certain: a stop and then a space or the end.
fn ends(text: &str) -> impl Iterator<Item = usize> {
    let bytes = text.as_bytes();
    text.char_indices()
        .filter(|(i, c)| matches!(c, '.' | '!' | '?') && bytes.get(i + 1).is_none_or(u8::is_ascii_whitespace))
        .map(|(i, _)| i + 1)
}

/// Sentences that are over while more may come: "4." may go on to "4.5".
fn ended(text: &str) -> usize {
    ends(text).filter(|&end| end < text.len()).count()
}

#[cfg(test)]
mod tests;
