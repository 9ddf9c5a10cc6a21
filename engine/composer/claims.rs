//! What a point allows to be said, as the checks need it: its numbers with their owners, and which way its words must lean.

use crate::coach::{Direction, Part, Point, Target, Topic, say};

/// Units that a number in a text may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Percent,
    Degrees,
    Semitones,
    SemitonesPerSecond,
    SyllablesPerSecond,
    Decibels,
    /// Whole numbers of things, changes a minute, an index or a correlation: written without a unit or with the thing.
    Plain,
    /// A unit that no point carries.
    Other,
}

/// Whose number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Learner,
    Teacher,
    /// A bound of the rubric's range.
    Target,
    /// Start or end of the span.
    Time,
}

/// A number that the evidence carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    /// As measured, in the unit that is written (per cent, without the sign of a fall).
    pub(super) exact: f64,
    /// As the planner writes it.
    pub(super) shown: f64,
    pub(super) unit: Unit,
    pub(super) owner: Owner,
}

impl Allowed {
    /// Rounded in the text to `decimals`: within half of the last digit, and within 2% so that neither "0" stands for 0.3 nor "seven" for 6.8.
    pub(super) fn matches(&self, value: f64, decimals: usize) -> bool {
        let half = 0.5 * 10f64.powi(-(decimals.min(9) as i32)) + 1e-9;
        let off = (value - self.exact).abs();
        (off <= half && off <= 0.02 * self.exact.abs() + 1e-9) || (value - self.shown).abs() < 1e-9
    }
}

/// All numbers that may be said of the point.
pub(super) fn numbers(point: &Point) -> Vec<Allowed> {
    let (scale, unsigned, decimals) = say::style(point.topic);
    let place = |value: f64, unit: Unit, owner: Owner, scale: f64, decimals: usize| {
        let exact = if unsigned { value.abs() } else { value } * scale;
        Allowed { exact, shown: say::fixed(exact, decimals).parse().unwrap_or(exact), unit, owner }
    };
    let mut allowed = Vec::new();
    for (i, m) in point.evidence.iter().enumerate() {
        let main = i == 0;
        let unit = unit(&m.unit);
        let (scale, decimals) = match (main, unit) {
            (true, _) => (scale, decimals),
            (false, Unit::Percent) => (100.0, 0),
            (false, Unit::Seconds) => (1.0, 2),
            (false, _) => (1.0, 0),
        };
        allowed.push(place(m.value, unit, Owner::Learner, scale, decimals));
        match m.target.filter(|_| main) {
            Some(Target::Reference(r)) => allowed.push(place(r, unit, Owner::Teacher, scale, decimals)),
            Some(Target::Range(low, high)) => {
                allowed.extend([low, high].map(|v| place(v, unit, Owner::Target, scale, decimals)));
            }
            None => {}
        }
    }
    let span = point.span.map(|t| Allowed {
        exact: t,
        shown: say::fixed(t, 1).parse().unwrap_or(t),
        unit: Unit::Seconds,
        owner: Owner::Time,
    });
    allowed.extend(span);
    allowed
}

fn unit(name: &str) -> Unit {
    match name {
        "s" => Unit::Seconds,
        "1" => Unit::Percent,
        "deg" => Unit::Degrees,
        "st" => Unit::Semitones,
        "st/s" => Unit::SemitonesPerSecond,
        "syll/s" => Unit::SyllablesPerSecond,
        "dB" => Unit::Decibels,
        _ => Unit::Plain,
    }
}

/// Whether the point compares with a teacher.
pub(super) fn is_relative(point: &Point) -> bool {
    let beside = [Topic::Timing, Topic::MelodyMatch, Topic::WordTiming, Topic::MisplacedPauses];
    beside.contains(&point.topic) || point.evidence.first().is_some_and(|m| matches!(m.target, Some(Target::Reference(_))))
}

/// Whether the point's number is an agreement with the teacher: what it is held against is a bound, not the teacher's own value.
pub(super) fn is_agreement(point: &Point) -> bool {
    matches!(point.topic, Topic::MelodyMatch | Topic::WordTiming)
}

/// A scale that words lie on; each word is at its high (+1) or low (-1) end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// Fast + slow.
    Speed,
    /// Late + early.
    Time,
    /// Wide + narrow: range of pitch or loudness, contrast of lengths.
    Width,
    /// More + less, long + short, often + seldom.
    Amount,
    /// Loud + quiet.
    Loudness,
    /// Rising + falling.
    Contour,
    /// Straight + bent.
    Bend,
    /// High + low.
    Height,
    /// Uneven + even.
    Evenness,
    /// Jerky + smooth.
    Flow,
    /// Clear + unclear.
    Clarity,
    /// Together + apart.
    Union,
    /// Added + left out.
    Presence,
}

/// The scales that the topic's direction speaks on, with the sign that `High` has on them.
pub(super) fn axes(topic: Topic, part: Option<Part>) -> &'static [Axis] {
    use Axis::*;
    let arm = matches!(part, Some(Part::LeftShoulder | Part::RightShoulder));
    match topic {
        Topic::ArticulationRate => &[Speed],
        Topic::PauseRatio | Topic::LongestPause => &[Amount],
        Topic::PitchRange | Topic::LoudnessVariation => &[Width, Amount],
        Topic::RhythmContrast => &[Width, Amount, Evenness],
        Topic::FinalSlope => &[Contour],
        Topic::WordClarity => &[Clarity],
        Topic::OmittedWords | Topic::AddedWords => &[Presence],
        Topic::Regularity => &[Evenness, Amount],
        Topic::RepetitionDepth => &[Evenness],
        Topic::Fluidity => &[Flow, Amount],
        Topic::Timing | Topic::BeatTiming => &[Time],
        Topic::JointAngle if arm => &[Height],
        Topic::JointAngle => &[Bend],
        Topic::Amplitude => &[Width, Amount],
        Topic::Expressiveness | Topic::ExpressionChanges | Topic::GestureRate | Topic::GestureSync => &[Amount],
        Topic::Congruence => &[Union, Amount],
        _ => &[],
    }
}

/// The sign that a word on one of the topic's scales must have when it states what was measured; 0 when no side may be taken.
pub(super) fn sign(point: &Point) -> i8 {
    match (point.topic, point.direction) {
        // Praise of a fall names the fall; praise of evenness, flow, clarity or togetherness names it.
        (Topic::FinalSlope | Topic::Regularity | Topic::RepetitionDepth | Topic::Fluidity, Direction::Within) => -1,
        (Topic::WordClarity | Topic::Congruence, Direction::Within) => 1,
        (Topic::OmittedWords, _) => -1,
        (Topic::AddedWords, _) => 1,
        (_, Direction::High) => 1,
        (_, Direction::Low) => -1,
        _ => 0,
    }
}

/// What a text may be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Pace,
    Pauses,
    Pitch,
    Rhythm,
    Loudness,
    Words,
    Movement,
    Face,
    Gestures,
    Voice,
    /// Things that no lab measures: grammar, posture, confidence.
    Unmeasured,
}

/// The subjects that belong to the topic.
pub(super) fn subjects(topic: Topic) -> &'static [Subject] {
    use Subject::*;
    match topic {
        Topic::ArticulationRate => &[Pace, Voice],
        Topic::PauseRatio | Topic::LongestPause | Topic::MisplacedPauses => &[Pauses, Voice],
        Topic::PitchRange | Topic::FinalSlope | Topic::MelodyMatch => &[Pitch, Voice],
        Topic::WordTiming => &[Rhythm, Words, Voice],
        Topic::WordGoodness => &[Words, Voice],
        Topic::RhythmContrast => &[Rhythm, Voice],
        Topic::WordClarity | Topic::WordAccuracy | Topic::OmittedWords | Topic::AddedWords | Topic::ChangedWords => {
            &[Words, Voice]
        }
        Topic::LoudnessVariation => &[Loudness, Voice],
        Topic::Symmetry | Topic::RepetitionDepth | Topic::JointAngle | Topic::Amplitude => &[Movement],
        Topic::Regularity | Topic::Timing | Topic::BeatTiming => &[Movement, Rhythm],
        Topic::Fluidity => &[Movement, Pace],
        Topic::Expressiveness | Topic::ExpressionChanges | Topic::NoFace => &[Face],
        Topic::GestureRate => &[Gestures, Movement],
        Topic::GestureSync => &[Gestures, Movement, Words],
        Topic::Congruence => &[Movement, Voice, Loudness],
        Topic::NoSpeech => &[Voice, Words],
        Topic::NoPerson => &[Movement],
        Topic::TooShort => &[Voice, Movement, Words],
    }
}
