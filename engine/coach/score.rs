//! Scores: 0 to 100, each a monotone function of how far the measures lie outside of their targets.

use super::{
    Direction, Score, Target,
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

/// `overall` first, then the parts in the rubric's order. A part is the mean of its findings' scores, each weighted by the rubric's
/// weight times the confidence; `overall` is the mean of the parts, each weighted by the largest weight in it (eight joints are not
/// eight times as important as the timing). Nothing measured: no scores.
pub(super) fn scores(findings: &[Finding]) -> Vec<Score> {
    let new = |name: &str| Score { name: name.into(), value: 0.0, measures: Vec::new() };
    let mut parts: Vec<(Score, f64, f64)> = Vec::new(); // sum of weighted scores, sum of weights, largest weight
    for finding in findings {
        let row = finding.topic.row();
        let weight = row.weight * finding.confidence;
        if row.score.is_empty() || weight <= 0.0 || finding.direction == Direction::Missing {
            continue;
        }
        let at = parts.iter().position(|(s, ..)| s.name == row.score).unwrap_or_else(|| {
            parts.push((new(row.score), 0.0, 0.0));
            parts.len() - 1
        });
        let (score, total, largest) = &mut parts[at];
        score.value += weight * finding.score;
        *total += weight;
        *largest = largest.max(weight);
        if !score.measures.contains(&finding.measure.name) {
            score.measures.push(finding.measure.name.clone());
        }
    }
    let weights: f64 = parts.iter().map(|p| p.2).sum();
    let mut scores: Vec<Score> = Vec::new();
    let mut overall = new("overall");
    for (mut score, total, largest) in parts {
        score.value /= total;
        overall.value += score.value * largest / weights;
        overall.measures.extend(score.measures.iter().cloned());
        scores.push(score);
    }
    if !scores.is_empty() {
        overall.value = overall.value.clamp(0.0, 100.0);
        scores.insert(0, overall);
    }
    scores
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
