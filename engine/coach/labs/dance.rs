//! Dance: range of motion, symmetry, timing and depth of the repetitions, flow; and against the teacher.

use super::{
    super::{Part, Topic},
    Finding, Input, Sheet, beat,
    body::{self, MOVING, Seen, Series},
    deviation, follow, mean, measure, measured, quantile,
};
use crate::timeline::{EventKind, Timeline};

/// Frames a second under which bursts of speed cannot be told.
const LEAST_RATE: f64 = 15.0;

/// The joint that moves most, with the lowest points of its repetitions.
struct Lead {
    part: Part,
    series: Series,
    /// Indices into the series: the deepest point of each repetition.
    bottoms: Vec<usize>,
}

pub(super) fn examine(sheet: &mut Sheet, input: &Input) {
    let Some(seen) = body::find_person(sheet, input) else { return };
    movement(sheet, input, seen);
    beat::examine(sheet, input, seen);
    if input.reference.is_some() {
        follow::examine(sheet, input, seen.confidence);
    }
}

fn movement(sheet: &mut Sheet, input: &Input, seen: Seen) {
    for part in Part::ALL {
        let range = body::range(&body::angles(input.timeline, part), input.timeline.rate);
        sheet.note(&format!("{}_range", part.name()), range.map(|r| r as f32), "deg", seen.span);
    }
    for pair in Part::ALL.chunks_exact(2) {
        let sides = [body::angles(input.timeline, pair[0]), body::angles(input.timeline, pair[1])];
        let together = correlation(&sides[0], &sides[1], input.timeline.rate);
        sheet.note(&format!("{}_correlation", pair[0].joint()), together.map(|r| r as f32), "r", seen.span);
    }
    symmetry(sheet, input, seen);
    let teacher = input.reference.map(|r| r.timeline);
    let lead = lead(input.timeline);
    regularity(sheet, input.timeline, lead.as_ref(), teacher, seen);
    let Some(lead) = lead else { return };
    depth(sheet, &lead, seen);
    flow(sheet, &lead, teacher, seen);
}

/// The joint with the largest range; its repetitions by turning points of at least 30% of it: a clip often ends before the last
/// repetition is back up.
fn lead(timeline: &Timeline) -> Option<Lead> {
    let moving = Part::ALL.into_iter().filter_map(|part| {
        let series = body::angles(timeline, part);
        let range = body::range(&series, timeline.rate).filter(|r| *r >= MOVING)?;
        Some((range, part, series))
    });
    let (range, part, series) = moving.max_by(|a, b| a.0.total_cmp(&b.0))?;
    // Bending joints are deepest at their smallest angle, an arm is highest at the largest angle of the shoulder.
    let deepest_is_max = part.joint() == "shoulder";
    let bottoms = body::turns(&series, 0.3 * range).into_iter().filter(|t| t.1 == deepest_is_max).map(|t| t.0).collect();
    Some(Lead { part, series, bottoms })
}

/// Left against right range of motion, of the pair that differs most.
fn symmetry(sheet: &mut Sheet, input: &Input, seen: Seen) {
    let pairs = Part::ALL.chunks_exact(2).filter_map(|pair| {
        let series = [body::angles(input.timeline, pair[0]), body::angles(input.timeline, pair[1])];
        let ranges = [body::range(&series[0], input.timeline.rate)?, body::range(&series[1], input.timeline.rate)?];
        let (small, large) = if ranges[0] < ranges[1] { (ranges[0], ranges[1]) } else { (ranges[1], ranges[0]) };
        (large >= MOVING + 5.0).then_some((small / large, pair, series, ranges))
    });
    let Some((ratio, pair, series, ranges)) = pairs.min_by(|a, b| a.0.total_cmp(&b.0)) else { return };
    let part = if ranges[0] < ranges[1] { pair[0] } else { pair[1] };
    let main = measured(Topic::Symmetry, ratio, None, seen.span);
    let mut finding = Finding { confidence: seen.confidence, part: Some(part), ..Finding::new(Topic::Symmetry, main) };
    finding.others = vec![
        measure("left_range", ranges[0], "deg", None, seen.span),
        measure("right_range", ranges[1], "deg", None, seen.span),
    ];
    let apart = apart(&series[0], &series[1], input.timeline.rate);
    finding.span = super::best_window(&apart, 1.0, 3, mean).unwrap_or(seen.span);
    sheet.find(finding);
}

/// |left - right| where both were measured.
fn apart(left: &Series, right: &Series, rate: f64) -> Series {
    both(left, right, rate).into_iter().map(|(t, l, r)| (t, (l - r).abs())).collect()
}

/// Pearson's correlation of the left and the right angle; `None` where one hardly moves.
fn correlation(left: &Series, right: &Series, rate: f64) -> Option<f64> {
    let both = both(left, right, rate);
    let (l, r): (Vec<f64>, Vec<f64>) = both.iter().map(|b| (b.1, b.2)).unzip();
    let (ml, mr, dl, dr) = (mean(&l)?, mean(&r)?, deviation(&l)?, deviation(&r)?);
    let product = mean(&both.iter().map(|b| (b.1 - ml) * (b.2 - mr)).collect::<Vec<_>>())?;
    (dl.min(dr) > MOVING / 10.0).then(|| product / (dl * dr))
}

/// (seconds, left, right) where both were measured.
fn both(left: &Series, right: &Series, rate: f64) -> Vec<(f64, f64, f64)> {
    let mut at = 0;
    let mut both = Vec::new();
    for &(t, l) in left {
        while at < right.len() && right[at].0 < t - 0.25 / rate {
            at += 1;
        }
        if let Some(&(u, r)) = right.get(at)
            && (u - t).abs() <= 0.25 / rate
        {
            both.push((t, l, r));
        }
    }
    both
}

/// What the rhythm of a movement is told by, and its times: the repetitions of the leading joint; without three of them, the
/// beats of the movement, which must be six: they are found in any movement, so that few of them say little.
fn times(timeline: &Timeline, lead: Option<&Lead>) -> (&'static str, Vec<f64>) {
    let repetitions: Vec<f64> = lead.map_or_else(Vec::new, |l| l.bottoms.iter().map(|&i| l.series[i].0).collect());
    if repetitions.len() >= 3 {
        return ("repetitions", repetitions);
    }
    let beats: Vec<f64> = timeline.events(EventKind::Beat).map(|e| e.start).collect();
    ("beats", if beats.len() >= 6 { beats } else { Vec::new() })
}

/// Coefficient of variation of the intervals; needs two of them, and few of them make it a weak claim.
fn variation(times: &[f64]) -> Option<(f64, Vec<f64>)> {
    let intervals: Vec<f64> = times.windows(2).map(|w| w[1] - w[0]).filter(|i| *i > 0.0).collect();
    let m = mean(&intervals).filter(|_| intervals.len() >= 2)?;
    Some((deviation(&intervals)? / m, intervals))
}

fn regularity(sheet: &mut Sheet, timeline: &Timeline, lead: Option<&Lead>, teacher: Option<&Timeline>, seen: Seen) {
    let (kind, times) = times(timeline, lead);
    let Some((cv, intervals)) = variation(&times) else { return };
    // Repetitions are held against repetitions and beats against beats: one clip may end before its last repetition is over.
    let theirs = teacher.map(|t| self::times(t, self::lead(t).as_ref()));
    if theirs.as_ref().is_some_and(|t| t.0 != kind) {
        return;
    }
    let teacher = theirs.and_then(|t| Some(variation(&t.1)?.0));
    let Some(middle) = quantile(&intervals, 0.5) else { return };
    let off = |i: &usize| (times[i + 1] - times[*i] - middle).abs();
    let worst = (0..times.len() - 1).max_by(|a, b| off(a).total_cmp(&off(b))).unwrap_or(0);
    let main = measured(Topic::Regularity, cv, teacher, [times[0], times[times.len() - 1]]);
    let sure = (intervals.len() as f64 / 5.0).min(1.0);
    let mut finding = Finding { confidence: seen.confidence * sure, ..Finding::new(Topic::Regularity, main) };
    finding.others = vec![
        measure(kind, times.len() as f64, "count", None, [times[0], times[times.len() - 1]]),
        measure("interval_median", middle, "s", None, [times[0], times[times.len() - 1]]),
        measure("interval_there", times[worst + 1] - times[worst], "s", None, [times[worst], times[worst + 1]]),
    ];
    finding.span = [times[worst], times[worst + 1]];
    sheet.find(finding);
}

/// Are the repetitions alike in depth?
fn depth(sheet: &mut Sheet, lead: &Lead, seen: Seen) {
    if lead.bottoms.len() < 3 {
        return;
    }
    let depths: Vec<f64> = lead.bottoms.iter().map(|&i| lead.series[i].1).collect();
    let Some(spread) = deviation(&depths) else { return };
    let deep = |a: &&usize, b: &&usize| {
        let order = lead.series[**a].1.total_cmp(&lead.series[**b].1);
        if lead.part.joint() == "shoulder" { order } else { order.reverse() }
    };
    let (Some(&deepest), Some(&shallowest)) = (lead.bottoms.iter().max_by(deep), lead.bottoms.iter().min_by(deep)) else {
        return;
    };
    let around = |i: usize| [(lead.series[i].0 - 0.5).max(seen.span[0]), (lead.series[i].0 + 0.5).min(seen.span[1])];
    let main = measured(Topic::RepetitionDepth, spread, None, seen.span);
    let sure = (depths.len() as f64 / 5.0).min(1.0);
    let mut finding =
        Finding { confidence: seen.confidence * sure, part: Some(lead.part), ..Finding::new(Topic::RepetitionDepth, main) };
    finding.others = vec![
        measure("shallowest_angle", lead.series[shallowest].1, "deg", None, around(shallowest)),
        measure("deepest_angle", lead.series[deepest].1, "deg", None, around(deepest)),
        measure("repetitions", depths.len() as f64, "count", None, seen.span),
    ];
    finding.span = around(shallowest);
    sheet.find(finding);
}

/// Bursts of speed a repetition.
fn flow(sheet: &mut Sheet, lead: &Lead, teacher: Option<&Timeline>, seen: Seen) {
    if seen.rate < LEAST_RATE {
        return;
    }
    let Some(bursts) = bursts(lead).filter(|b| b.len() >= 2) else { return };
    let Some(value) = mean(&bursts.iter().map(|b| b.1).collect::<Vec<_>>()) else { return };
    let teacher = teacher.and_then(self::lead).and_then(|l| mean(&bursts_alone(&l)?));
    let main = measured(Topic::Fluidity, value, teacher, seen.span);
    let mut finding = Finding { confidence: 0.8 * seen.confidence, ..Finding::new(Topic::Fluidity, main) };
    finding.span = bursts.iter().max_by(|a, b| a.1.total_cmp(&b.1)).map_or(seen.span, |b| b.0);
    sheet.find(finding);
}

fn bursts_alone(lead: &Lead) -> Option<Vec<f64>> {
    Some(bursts(lead)?.into_iter().map(|b| b.1).collect())
}

/// Peaks of angular speed from one repetition to the next; a peak stands out by a quarter of the largest speed.
fn bursts(lead: &Lead) -> Option<Vec<([f64; 2], f64)>> {
    let smoothed = body::smooth(&lead.series, 0.2);
    let speed: Series = smoothed
        .windows(2)
        .filter(|w| w[1].0 > w[0].0)
        .map(|w| (w[0].0, ((w[1].1 - w[0].1) / (w[1].0 - w[0].0)).abs()))
        .collect();
    let most = quantile(&speed.iter().map(|s| s.1).collect::<Vec<_>>(), 0.98)?;
    let turns = body::turns(&speed, 0.25 * most);
    let peaks: Vec<f64> = turns.iter().filter(|t| t.1).map(|t| speed[t.0].0).collect();
    let spans = lead.bottoms.windows(2).map(|w| [lead.series[w[0]].0, lead.series[w[1]].0]);
    Some(spans.map(|s| (s, peaks.iter().filter(|t| (s[0]..s[1]).contains(*t)).count() as f64)).collect())
}
