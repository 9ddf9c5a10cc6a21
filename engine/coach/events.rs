//! What a lesson sends to the caller, one event at a time.

use dreamseed_models::whisper::Pronunciation;
use serde::{Deserialize, Serialize};

use super::{Plan, Point, Score};
use crate::{extract::Tracks, timeline::Timeline};

/// An event of a lesson: `{"event": "features" | "score" | "token" | "point" | "done", ...}`, in this order; the tokens of a
/// point come before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// What was perceived.
    Features(Features),
    /// One score; the first is `overall`.
    Score(Score),
    /// A piece of what the LLM is saying about a point: to be shown, not to be kept.
    Token {
        /// The point's id.
        point: usize,
        /// Whole characters.
        text: String,
    },
    /// A finished point.
    Point(Said),
    /// The end.
    Done(Done),
}

/// Summary of what was perceived.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Features {
    /// Seconds.
    pub duration: f64,
    /// What was said, as heard.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Language of the speech, ISO 639-1.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub language: String,
    /// Words heard.
    pub words: usize,
    /// Pictures looked at.
    pub frames: usize,
    /// The most people found in a frame.
    pub people: usize,
    /// Frames with a face.
    pub faces: usize,
    /// The words against the text that was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pronunciation: Option<Pronunciation>,
    /// Names of the timeline's columns.
    pub columns: Vec<String>,
    /// Number of the timeline's events.
    pub events: usize,
}

impl Features {
    /// Of these tracks.
    pub fn new(tracks: &Tracks, timeline: &Timeline) -> Self {
        let (pose, face) = (tracks.pose.as_deref().unwrap_or(&[]), tracks.face.as_deref().unwrap_or(&[]));
        let speech = tracks.speech.as_ref();
        Self {
            duration: tracks.duration,
            text: speech.map_or_else(String::new, |s| s.text.trim().to_owned()),
            language: speech.map_or_else(String::new, |s| s.language.clone()),
            words: speech.map_or(0, |s| s.segments.iter().map(|s| s.words.len()).sum()),
            frames: pose.len().max(face.len()),
            people: pose.iter().map(|o| o.found.len()).max().unwrap_or(0),
            faces: face.iter().filter(|o| !o.found.is_empty()).count(),
            pronunciation: tracks.pronunciation.clone(),
            columns: timeline.columns.iter().map(|c| c.name.clone()).collect(),
            events: timeline.events.len(),
        }
    }
}

/// A point as it is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// The planner's point with its evidence; the LLM cannot change it.
    #[serde(flatten)]
    pub point: Point,
    /// What the learner is told: the LLM's words where they hold against the evidence, the planner's sentence otherwise.
    pub text: String,
    /// Whose words they are.
    pub source: Source,
    /// Why the LLM's words were not taken; empty when they were, or when there was no LLM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// Whose words a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The language model's, checked.
    Llm,
    /// The planner's.
    Planner,
}

/// A whole lesson: complete without any LLM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lesson {
    /// Measures, scores and points.
    pub plan: Plan,
    /// The points as they are said, in the plan's order.
    pub points: Vec<Said>,
}

impl Lesson {
    /// The lesson in the planner's own words.
    pub fn new(plan: Plan) -> Self {
        let said =
            |p: &Point| Said { text: p.sentence.clone(), point: p.clone(), source: Source::Planner, reasons: Vec::new() };
        Self { points: plan.points.iter().map(said).collect(), plan }
    }

    /// Opening, points and closing, a line each.
    pub fn text(&self) -> String {
        let lines = std::iter::once(&self.plan.opening).chain(self.points.iter().map(|p| &p.text)).chain([&self.plan.closing]);
        lines.map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// How the lesson went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The whole lesson: opening, points, closing, a line each.
    pub text: String,
    /// The LLM's id; `None` without one.
    pub model: Option<String>,
    /// Points in the LLM's words.
    pub from_llm: usize,
    /// Seconds by stage, in order: `media`, `extract`, `fuse`, `plan`, `first_token`, `compose`, `total`.
    pub seconds: Vec<(String, f64)>,
}
