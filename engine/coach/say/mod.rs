//! The planner's own sentences: what was measured, what it means, what to try. Complete without any LLM.
//!
//! Rounding: times and lengths of pauses to 0.1 s, timing against the teacher to 0.01 s, syllables a second, semitones, dB and
//! bursts to 0.1, degrees, per cent, counts and changes a minute to whole numbers, correlations to 0.01. The evidence of the
//! point keeps every digit.

mod english;
mod korean;

use super::{Lab, Language, Point, Score, Target, Topic};

pub use korean::josa;

/// The sentence of a point.
pub fn sentence(language: Language, point: &Point) -> String {
    let facts = Facts::new(point);
    match language {
        Language::English => english::sentence(&facts),
        Language::Korean => korean::sentence(&facts),
    }
}

/// First line of a lesson: the lab and the overall score, where there is one.
pub fn opening(language: Language, lab: Lab, scores: &[Score]) -> String {
    let overall = scores.first().map(|s| s.value);
    match language {
        Language::English => english::opening(lab, overall),
        Language::Korean => korean::opening(lab, overall),
    }
}

/// Last line of a lesson: what to take into the next attempt.
pub fn closing(language: Language, points: &[Point]) -> String {
    match language {
        Language::English => english::closing(points),
        Language::Korean => korean::closing(points),
    }
}

/// What the sentences are made from, already rounded and written.
struct Facts<'a> {
    point: &'a Point,
    /// The main value.
    v: String,
    /// The range, where it is the target.
    low: String,
    high: String,
    /// The teacher's value, where it is the target.
    teacher: Option<String>,
    /// Start and end of the span.
    a: String,
    b: String,
}

impl<'a> Facts<'a> {
    fn new(point: &'a Point) -> Self {
        let main = point.evidence.first();
        let (low, high, teacher) = match main.and_then(|m| m.target) {
            Some(Target::Range(low, high)) => (bound(point.topic, low), bound(point.topic, high), None),
            Some(Target::Reference(r)) => (String::new(), String::new(), Some(written(point.topic, r))),
            None => Default::default(),
        };
        let v = main.map_or_else(String::new, |m| written(point.topic, m.value));
        Self { point, v, low, high, teacher, a: fixed(point.span[0], 1), b: fixed(point.span[1], 1) }
    }

    /// Further evidence by name, as a whole number.
    fn other(&self, name: &str) -> String {
        self.point.evidence.iter().find(|m| m.name == name).map_or_else(|| "0".into(), |m| fixed(m.value, 0))
    }

    /// The main value or further evidence as the whole number that it is written as.
    fn count(&self, name: &str) -> u64 {
        self.other(name).parse().unwrap_or(0)
    }
}

/// How a topic's value is written: scaled (per cent), without its sign (fall, behind), to so many decimals.
pub(crate) const fn style(topic: Topic) -> (f64, bool, usize) {
    match topic {
        Topic::PauseRatio | Topic::WordClarity | Topic::WordAccuracy | Topic::Symmetry | Topic::Regularity => (100.0, false, 0),
        Topic::WordGoodness | Topic::WordTiming => (100.0, false, 0),
        Topic::Expressiveness | Topic::GestureSync => (100.0, false, 0),
        Topic::ArticulationRate | Topic::LongestPause | Topic::PitchRange | Topic::LoudnessVariation | Topic::Fluidity => {
            (1.0, false, 1)
        }
        Topic::NoSpeech | Topic::TooShort => (1.0, false, 1),
        Topic::FinalSlope => (1.0, true, 0),
        Topic::Timing | Topic::BeatTiming => (1.0, true, 2),
        Topic::Congruence | Topic::MelodyMatch => (1.0, false, 2),
        _ => (1.0, false, 0),
    }
}

fn written(topic: Topic, value: f64) -> String {
    let (scale, unsigned, decimals) = style(topic);
    let value = if unsigned { value.abs() } else { value };
    fixed(value * scale, decimals)
}

/// A bound of a range: as the value, without a trailing ".0".
fn bound(topic: Topic, value: f64) -> String {
    let text = written(topic, value);
    text.strip_suffix(".0").map_or(text.clone(), Into::into)
}

/// To so many decimals, without "-0".
pub(crate) fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| matches!(c, '0' | '.')) => rest.into(),
        _ => text,
    }
}

#[cfg(test)]
pub(crate) mod tests;
