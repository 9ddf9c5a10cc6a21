//! Scores: 0 to 100, each a monotone function of how far the measures lie outside of their targets.

use super::{
    Direction, Measure, Score, Target,
    labs::Finding,
    topic::{Better, Row},
};

/// 100 inside the target, then down in a straight line to 0 at `row.width` outside of it. For a teacher's value the target is
/// that value give or take `row.tolerance`.
pub(super) fn value(row: Row, value: f64, target: Option<Target>) -> f64 {
    let Some([low, high]) = target.map(|t| bounds(row, t)) else { return 100.0 };
    let outside = (low - value).max(value - high).max(0.0);
    (100.0 * (1.0 - outside / row.width)).clamp(0.0, 100.0)
}

/// On which side of the target the value lies.
pub(super) fn direction(row: Row, value: f64, target: Option<Target>) -> Direction {
    let Some([low, high]) = target.map(|t| bounds(row, t)) else { return Direction::Within };
    match value {
        v if v < low => Direction::Low,
        v if v > high => Direction::High,
        _ => Direction::Within,
    }
}

fn bounds(row: Row, target: Target) -> [f64; 2] {
    match (target, row.better) {
        (Target::Range(low, high), _) => [low, high],
        (Target::Reference(r), Better::Neither) => [r - row.tolerance, r + row.tolerance],
        (Target::Reference(r), Better::More) => [r - row.tolerance, f64::INFINITY],
        (Target::Reference(r), Better::Less) => [f64::NEG_INFINITY, r + row.tolerance],
    }
}

/// `overall` first, then the parts in the rubric's order. A part is the mean of its findings' scores, weighted by the rubric's
/// weight times the confidence; `overall` is the mean of all of them with the same weights. Nothing measured: no scores.
pub(super) fn scores(findings: &[Finding]) -> Vec<Score> {
    let mut parts: Vec<(Score, f64)> = Vec::new();
    let mut overall = (Score { name: "overall".into(), value: 0.0, measures: Vec::new() }, 0.0);
    for finding in findings {
        let row = finding.topic.row();
        let weight = row.weight * finding.confidence;
        if row.score.is_empty() || weight <= 0.0 || finding.direction == Direction::Missing {
            continue;
        }
        let at = parts.iter().position(|(s, _)| s.name == row.score).unwrap_or_else(|| {
            parts.push((Score { name: row.score.into(), value: 0.0, measures: Vec::new() }, 0.0));
            parts.len() - 1
        });
        for (score, total) in [&mut parts[at], &mut overall] {
            score.value += weight * finding.score;
            *total += weight;
            push_once(&mut score.measures, &finding.measure);
        }
    }
    if parts.is_empty() {
        return Vec::new();
    }
    parts.insert(0, overall);
    parts.into_iter().map(|(score, total)| Score { value: score.value / total, ..score }).collect()
}

fn push_once(names: &mut Vec<String>, measure: &Measure) {
    if !names.contains(&measure.name) {
        names.push(measure.name.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Topic, *};

    #[test]
    fn scores_fall_monotonically_outside_and_are_full_inside() {
        for topic in Topic::ALL {
            let row = topic.row();
            if row.score.is_empty() {
                continue;
            }
            let target = Some(Target::Range(row.range[0], row.range[1]));
            let mut last = 100.0;
            for i in 0..=40 {
                let v = row.range[1] + row.width * f64::from(i) / 20.0;
                let s = value(row, v, target);
                assert!(s <= last && (0.0..=100.0).contains(&s), "{topic:?} {v}");
                last = s;
            }
            assert_eq!(last, 0.0);
            assert_eq!(value(row, row.range[0], target), 100.0);
            assert!((value(row, row.range[0] - row.width / 2.0, target) - 50.0).abs() < 1e-9);
        }
    }

    #[test]
    fn a_teachers_value_is_met_within_the_tolerance() {
        let row = Topic::ArticulationRate.row();
        let teacher = Some(Target::Reference(4.0));
        assert_eq!(direction(row, 4.4, teacher), Direction::Within);
        assert_eq!(direction(row, 4.5, teacher), Direction::High);
        assert_eq!(direction(row, 3.5, teacher), Direction::Low);
        assert_eq!(value(row, 4.4, teacher), 100.0);
        assert!(value(row, 6.0, teacher) < 50.0);
    }
}
