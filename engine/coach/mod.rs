//! The coach: a lab's rubric turns a timeline into measures, scores and the few points worth saying, each with its evidence.

use serde::{Deserialize, Serialize};

/// What is practised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lab {
    /// Pronunciation, intonation, fluency.
    Speech,
    /// Movement, timing, symmetry.
    Dance,
    /// Voice, face and body together.
    Drama,
}

/// Language of the feedback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Language {
    /// English.
    #[default]
    #[serde(rename = "en")]
    English,
    /// Korean.
    #[serde(rename = "ko")]
    Korean,
}

/// One number of the rubric, with what it was measured from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// Key in the rubric: `pause_ratio`, `left_knee_range`.
    pub name: String,
    /// The learner's value.
    pub value: f64,
    /// Unit as in the timeline's columns.
    pub unit: String,
    /// The teacher's value or the rubric's range, when there is one.
    pub target: Option<Target>,
    /// Seconds of the clip that it was measured on.
    pub span: [f64; 2],
}

/// What a measure is held against.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The reference performance's value.
    Reference(f64),
    /// The rubric's range, both ends included.
    Range(f64, f64),
}

/// A part of the rubric, 0..100.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// `fluency`, `intonation`, `timing`.
    pub name: String,
    /// 0 (far off) .. 100 (at the target).
    pub value: f64,
    /// Names of the measures that it was made from.
    pub measures: Vec<String>,
}

/// One thing worth saying, with its evidence. The LLM may phrase it; it cannot change it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// 1, 2, 3: the order of importance, and how the LLM refers to it.
    pub id: usize,
    /// What it is about: the name of the main measure or event kind.
    pub topic: String,
    /// Praise or advice.
    pub kind: PointKind,
    /// Seconds of the clip.
    pub span: [f64; 2],
    /// The measured values, exact.
    pub evidence: Vec<Measure>,
    /// The planner's own sentence: good and complete without any LLM.
    pub sentence: String,
    /// How much it matters, 0..1.
    pub weight: f64,
}

/// Praise or advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointKind {
    /// Something done well.
    Strength,
    /// Something to work on.
    Advice,
}

/// What the coach found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The lab.
    pub lab: Lab,
    /// Language of the sentences.
    pub language: Language,
    /// All measures of the rubric.
    pub measures: Vec<Measure>,
    /// All scores; the first is `overall`.
    pub scores: Vec<Score>,
    /// In order of importance.
    pub points: Vec<Point>,
}
