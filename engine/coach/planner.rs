//! The planner: of everything that a lab found, the few points worth saying, in order, each complete without any LLM.

use super::{
    Direction, Input, Plan, Point, PointKind, Topic,
    labs::{self, Finding},
    say, score,
};

/// A lesson says no more than this.
pub const MAX_POINTS: usize = 5;
/// Advice leaves room for praise.
const MAX_ADVICE: usize = 4;
/// Praise beyond this is noise.
const MAX_STRENGTHS: usize = 2;
/// A score from here on is not worth advice.
const GOOD_ENOUGH: f64 = 90.0;
/// Advice of less weight is not worth the learner's attention.
const LEAST_WEIGHT: f64 = 0.04;
/// Less sure findings than this are scored and shown, but nothing is claimed on them.
const LEAST_CONFIDENCE: f64 = 0.2;

/// Measures, scores and points of a clip. Pure: the same input gives the same plan.
///
/// A clip with nothing to measure gives a plan without scores whose points say what is missing.
pub fn plan(input: &Input) -> Plan {
    let sheet = labs::examine(input);
    let scores = score::scores(&sheet.findings);
    let points = choose(&sheet.findings)
        .into_iter()
        .enumerate()
        .map(|(i, (finding, kind, weight))| point(i + 1, finding, kind, weight, input))
        .collect::<Vec<_>>();
    Plan {
        lab: input.lab,
        language: input.language,
        opening: say::opening(input.language, input.lab, &scores),
        closing: say::closing(input.language, &points),
        measures: sheet.measures,
        scores,
        points,
    }
}

fn point(id: usize, finding: &Finding, kind: PointKind, weight: f64, input: &Input) -> Point {
    let mut point = Point {
        id,
        topic: finding.topic,
        direction: finding.direction,
        part: finding.part,
        words: finding.words.iter().filter(|w| !w.is_empty()).cloned().collect(),
        kind,
        span: finding.span,
        evidence: std::iter::once(&finding.measure).chain(&finding.others).cloned().collect(),
        sentence: String::new(),
        weight,
    };
    point.sentence = say::sentence(input.language, &point);
    point
}

/// Most important advice first, then the strengths; never two points of one family, never praise and advice on one subject.
fn choose(findings: &[Finding]) -> Vec<(&Finding, PointKind, f64)> {
    let mut advice: Vec<(&Finding, f64)> = findings.iter().filter_map(|f| Some((f, advice_weight(f)?))).collect();
    advice.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut chosen: Vec<(&Finding, PointKind, f64)> = Vec::new();
    for (finding, weight) in advice {
        if chosen.len() < MAX_ADVICE && chosen.iter().all(|(c, ..)| family(c) != family(finding)) {
            chosen.push((finding, PointKind::Advice, weight));
        }
    }
    let room = MAX_POINTS - chosen.len();
    let mut strengths: Vec<(&Finding, f64)> = findings.iter().filter_map(|f| Some((f, strength_weight(f)?))).collect();
    strengths.sort_by(|a, b| b.1.total_cmp(&a.1));
    let limit = if chosen.is_empty() { MAX_STRENGTHS + 1 } else { MAX_STRENGTHS.min(room) };
    let mut praised = 0;
    // Praise never contradicts advice, said or unsaid.
    let faults: Vec<&Finding> = findings.iter().filter(|f| advice_weight(f).is_some()).collect();
    for (finding, weight) in strengths {
        let clear = faults.iter().all(|f| subject(f) != subject(finding));
        let fresh = chosen.iter().all(|(c, ..)| c.topic != finding.topic);
        if praised < limit && clear && fresh && chosen.iter().all(|(c, ..)| family(c) != family(finding)) {
            chosen.push((finding, PointKind::Strength, weight));
            praised += 1;
        }
    }
    chosen
}

/// How much the fault matters: the rubric's weight, how sure it is, how far off.
fn advice_weight(finding: &Finding) -> Option<f64> {
    let weight = finding.topic.row().weight * finding.confidence * (1.0 - finding.score / 100.0);
    let wrong = finding.direction != Direction::Within && finding.score < GOOD_ENOUGH;
    (wrong && finding.confidence >= LEAST_CONFIDENCE && weight >= LEAST_WEIGHT).then_some(weight.min(1.0))
}

/// Praise weighs half as much as advice of the same rubric weight.
fn strength_weight(finding: &Finding) -> Option<f64> {
    let good = finding.direction == Direction::Within && finding.score >= GOOD_ENOUGH && finding.measure.target.is_some();
    // "You left nothing out" is the accuracy's to say.
    let counted =
        matches!(finding.topic, Topic::OmittedWords | Topic::AddedWords | Topic::ChangedWords | Topic::MisplacedPauses);
    let sure = finding.confidence >= 2.0 * LEAST_CONFIDENCE;
    (good && !counted && sure).then_some(0.5 * finding.topic.row().weight * finding.confidence)
}

/// Points of one family are about the same thing. Joints count by their kind: one point on the knees is enough.
fn family(finding: &Finding) -> (&'static str, &'static str) {
    match finding.topic {
        Topic::JointAngle | Topic::Amplitude => ("joint", finding.part.map_or("", |p| p.joint())),
        topic => (topic.row().family, ""),
    }
}

/// Coarser than the family: what the learner hears it is about.
fn subject(finding: &Finding) -> (&'static str, &'static str) {
    use Topic::*;
    match finding.topic {
        WordClarity | WordGoodness | WordAccuracy | OmittedWords | AddedWords | ChangedWords => ("words", ""),
        GestureRate | GestureSync => ("gestures", ""),
        Timing | BeatTiming | Regularity => ("timing", ""),
        _ => family(finding),
    }
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
