//! The coach: a lab's rubric turns a timeline into measures, scores and the few points worth saying, each with its evidence.

pub mod events;
mod labs;
mod planner;
pub mod say;
mod score;
pub mod topic;

use dreamseed_models::prosody::Comparison;
use serde::{Deserialize, Serialize};

pub use dreamseed_models::words;
pub use planner::{MAX_POINTS, plan};
pub use topic::{Part, Topic};

use crate::{extract::Tracks, media::Clip, timeline::Timeline};

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// What is practised.
    pub lab: Lab,
    /// Language of the sentences.
    pub language: Language,
    /// What was perceived.
    pub tracks: &'a Tracks,
    /// The same on one clock.
    pub timeline: &'a Timeline,
    /// The teacher's clip, where there is one.
    pub reference: Option<Reference<'a>>,
    /// What should have been said: compared word by word, at most [`words::MAX_WORDS`].
    pub expected: Option<&'a str>,
}

/// The teacher's clip and how it lies along the learner's.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    /// What was perceived.
    pub tracks: &'a Tracks,
    /// The same on one clock.
    pub timeline: &'a Timeline,
    /// Warping path of the alignment, [seconds of the learner, seconds of the teacher], both never falling; empty when the
    /// clips could not be aligned.
    pub path: &'a [[f64; 2]],
    /// Whether the learner faces the teacher as a mirror does; `timeline` is then the teacher's with left and right exchanged,
    /// `tracks` are as they were.
    pub mirrored: bool,
    /// Both readings of one text compared; `None` where they are not of one text.
    pub reading: Option<&'a Comparison>,
}

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

impl Lab {
    /// Where none is named: speech for sound alone, dance for pictures alone, drama for both.
    pub fn for_clip(clip: &Clip) -> Self {
        Self::of(!clip.pcm.is_empty(), !clip.frames.is_empty())
    }

    /// The same of whether there is sound, and whether there are pictures.
    pub(crate) fn of(sound: bool, sight: bool) -> Self {
        match (sound, sight) {
            (true, false) => Self::Speech,
            (false, _) => Self::Dance,
            (true, true) => Self::Drama,
        }
    }
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
    /// What it is about: a [`Topic`] by name.
    pub topic: Topic,
    /// On which side of the target the learner is; what "late" or "faster" rests on.
    pub direction: Direction,
    /// The joint, where it is about one; left and right are the learner's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// Words of the speech that it quotes: what was said, then (for a changed word) what was expected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<String>,
    /// Praise or advice.
    pub kind: PointKind,
    /// Seconds of the clip.
    pub span: [f64; 2],
    /// The measured values, exact; the first is the one that the point is about.
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

/// Where the learner's value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Inside the range, or as the teacher's.
    Within,
    /// Below: slower, narrower, fewer, more bent, earlier, falling.
    Low,
    /// Above: faster, wider, more, straighter, later, rising.
    High,
    /// There was nothing to measure.
    Missing,
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
    /// First line of the lesson.
    pub opening: String,
    /// Last line of the lesson.
    pub closing: String,
}
