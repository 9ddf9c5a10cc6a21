//! The labs: each turns the tracks and the timeline into measures, and the measures into findings that may become points.
//!
//! What cannot be measured is absent. What is missing altogether (no speech, no person) is a finding of its own.

mod beat;
mod body;
mod dance;
mod drama;
mod follow;
mod reading;
mod speech;

use super::{Direction, Input, Lab, Measure, Part, Target, Topic, score};

/// Something measured that could be said.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) topic: Topic,
    pub(super) part: Option<Part>,
    pub(super) direction: Direction,
    /// What the finding is about.
    pub(super) measure: Measure,
    /// Further evidence.
    pub(super) others: Vec<Measure>,
    /// Where it is seen best.
    pub(super) span: [f64; 2],
    /// How far the clip is long and clear enough for the claim, 0..1.
    pub(super) confidence: f64,
    /// 0..100.
    pub(super) score: f64,
    /// Quoted words.
    pub(super) words: Vec<String>,
}

impl Finding {
    /// A finding on `measure`, scored and directed by the rubric's row.
    pub(super) fn new(topic: Topic, measure: Measure) -> Self {
        let row = topic.row();
        Self {
            topic,
            part: None,
            direction: score::direction(row, measure.value, measure.target),
            score: score::value(row, measure.value, measure.target),
            span: measure.span,
            confidence: 1.0,
            others: Vec::new(),
            words: Vec::new(),
            measure,
        }
    }

    /// A finding that there was nothing to measure.
    fn missing(topic: Topic, measure: Measure) -> Self {
        Self { direction: Direction::Missing, score: 0.0, ..Self::new(topic, measure) }
    }
}

/// What a lab found.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    pub(super) measures: Vec<Measure>,
    pub(super) findings: Vec<Finding>,
}

impl Sheet {
    /// A measure alone: shown, never scored.
    fn note(&mut self, name: &str, value: Option<f32>, unit: &str, span: [f64; 2]) {
        if let Some(value) = value.map(f64::from).filter(|v| v.is_finite()) {
            self.keep(measure(name, value, unit, None, span));
        }
    }

    /// A finding, with its measures. Numbers that are not finite are no measurements.
    fn find(&mut self, finding: Finding) {
        if !finding.measure.value.is_finite() || !finding.score.is_finite() || finding.confidence.is_nan() {
            return;
        }
        for m in std::iter::once(&finding.measure).chain(&finding.others) {
            self.keep(m.clone());
        }
        self.findings.push(finding);
    }

    fn keep(&mut self, measure: Measure) {
        if !self.measures.iter().any(|m| m.name == measure.name && m.span == measure.span) {
            self.measures.push(measure);
        }
    }
}

/// Runs the lab.
pub(super) fn examine(input: &Input) -> Sheet {
    let mut sheet = Sheet::default();
    match input.lab {
        Lab::Speech => speech::examine(&mut sheet, input),
        Lab::Dance => dance::examine(&mut sheet, input),
        Lab::Drama => drama::examine(&mut sheet, input),
    }
    sheet
}

fn measure(name: &str, value: f64, unit: &str, target: Option<Target>, span: [f64; 2]) -> Measure {
    Measure { name: name.into(), value, unit: unit.into(), target, span }
}

/// The main measure of a topic, held against the teacher's value where there is one and the rubric's range otherwise.
fn measured(topic: Topic, value: f64, teacher: Option<f64>, span: [f64; 2]) -> Measure {
    let row = topic.row();
    let target = teacher.filter(|t| t.is_finite()).map_or(Target::Range(row.range[0], row.range[1]), Target::Reference);
    measure(topic.name(), value, row.unit, Some(target), span)
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Standard deviation about the mean of the values themselves (divided by n).
fn deviation(values: &[f64]) -> Option<f64> {
    let m = mean(values)?;
    Some((values.iter().map(|v| (v - m) * (v - m)).sum::<f64>() / values.len() as f64).sqrt())
}

/// Linear interpolation between the ranks, `q` in 0..1.
fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(low + (high - low) * at.fract())
}

/// 5th to 95th percentile.
fn spread(values: &[f64]) -> Option<f64> {
    Some(quantile(values, 0.95)? - quantile(values, 0.05)?)
}

/// The stretch of `width` seconds of `series` (time, value) with the largest `rank`, among those with at least `least` samples.
fn best_window(series: &[(f64, f64)], width: f64, least: usize, rank: impl Fn(&[f64]) -> Option<f64>) -> Option<[f64; 2]> {
    let mut best: Option<(f64, [f64; 2])> = None;
    let (first, last) = (series.first()?.0, series.last()?.0);
    let step = (width / 4.0).max((last - first) / 400.0);
    let mut start = first;
    while start <= first.max(last - width) {
        let from = series.partition_point(|s| s.0 < start);
        let to = series.partition_point(|s| s.0 <= start + width);
        let values: Vec<f64> = series[from..to].iter().map(|s| s.1).collect();
        if values.len() >= least.max(1)
            && let Some(r) = rank(&values).filter(|r| r.is_finite())
            && best.is_none_or(|(b, _)| r > b)
        {
            best = Some((r, [start, (start + width).min(last)]));
        }
        start += step;
    }
    best.map(|(_, span)| span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_match_their_definitions() {
        let v = [4.0, 1.0, 3.0, 2.0, 5.0];
        assert_eq!(mean(&v), Some(3.0));
        assert_eq!(deviation(&v), Some(2f64.sqrt()));
        assert_eq!(quantile(&v, 0.5), Some(3.0));
        assert_eq!(quantile(&v, 1.0), Some(5.0));
        assert!((spread(&v).unwrap() - 3.6).abs() < 1e-12);
        assert_eq!(mean(&[]), None);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn the_best_window_is_where_the_rank_is_largest() {
        let series: Vec<(f64, f64)> =
            (0..100).map(|i| (f64::from(i) * 0.1, if (50..60).contains(&i) { 9.0 } else { 1.0 })).collect();
        let [start, end] = best_window(&series, 1.0, 3, mean).unwrap();
        assert!((4.5..=5.5).contains(&start) && (end - start - 1.0).abs() < 1e-9, "{start} {end}");
        assert_eq!(best_window(&[], 1.0, 1, mean), None);
        let still = vec![(2.0, 1.0); 3];
        assert_eq!(best_window(&still, 1.0, 3, mean), Some([2.0, 2.0]));
    }
}
