//! Following the teacher: differences along the warping path of the alignment.

use super::{
    super::{Part, Target, Topic},
    Finding, Input, Sheet,
    body::{self, MOVING, Series},
    mean, measure, measured, quantile,
};
use crate::timeline::performance;
use dreamseed_models::dtw::tempo;

/// A constant offset longer than this is two clips that start differently, not a late learner, and is taken off.
const OTHER_START: f64 = 1.0;
/// Width of the stretch where a joint differs most, seconds.
const MOMENT: f64 = 0.6;

pub(super) fn examine(sheet: &mut Sheet, input: &Input, confidence: f64) {
    let Some(reference) = input.reference else { return };
    let path: Vec<[f64; 2]> = reference.path.iter().copied().filter(|p| p[0].is_finite() && p[1].is_finite()).collect();
    if path.len() < 10 {
        return;
    }
    timing(sheet, &path, confidence);
    poses(sheet, input, &path);
    for part in Part::ALL {
        let learner = body::angles(input.timeline, part);
        let teacher = body::angles(reference.timeline, part);
        let ranges = (body::range(&learner, input.timeline.rate), body::range(&teacher, reference.timeline.rate));
        // A joint that hardly moves says little about how the teacher was followed.
        let moved = ranges.0.unwrap_or(0.0).max(ranges.1.unwrap_or(0.0));
        angle(sheet, part, &pairs(&path, &learner, &teacher), confidence * (moved / 90.0).clamp(0.3, 1.0));
        if let (Some(own), Some(shown)) = ranges
            && own.max(shown) >= MOVING
        {
            amplitude(sheet, part, own, shown, [path[0][0], path[path.len() - 1][0]], confidence);
        }
    }
}

/// How near the poses are along the path: shown, not scored, as the joint angles already are.
fn poses(sheet: &mut Sheet, input: &Input, path: &[[f64; 2]]) {
    let Some(reference) = input.reference else { return };
    let tracks = (input.tracks.pose.as_deref(), reference.tracks.pose.as_deref());
    let (Some(own), Some(shown)) = tracks else { return };
    let Some(p) = performance(own, shown, path, reference.mirrored) else { return };
    let whole = [path[0][0], path[path.len() - 1][0]];
    let mirrored = f64::from(u8::from(reference.mirrored));
    let joint = format!("{}_position_error", p.worst_joint);
    for (name, value, unit, span) in [
        ("oks", p.oks, "1", whole),
        ("pck", p.pck, "1", whole),
        ("pa_mpjpe", p.pa_mpjpe, "mm", whole),
        ("pa_mpjpe_there", p.worst_span_error, "mm", p.worst_span),
        (&joint, p.worst_joint_error, "mm", whole),
        ("mirrored", mirrored, "1", whole),
        ("tempo_ratio", tempo(path), "1", whole),
    ] {
        sheet.note(name, Some(value as f32), unit, span);
    }
}

/// Seconds behind (positive) or ahead of the teacher.
fn timing(sheet: &mut Sheet, path: &[[f64; 2]], confidence: f64) {
    let lags: Vec<f64> = path.iter().map(|p| p[0] - p[1]).collect();
    let Some(middle) = quantile(&lags, 0.5) else { return };
    let start = if middle.abs() > OTHER_START { middle } else { 0.0 };
    // The ends of a path run along one clip while the other waits: they say how the clips were cut, not how they were danced.
    let cut = path.len() / 20;
    let series: Series = path[cut..path.len() - cut].iter().map(|p| (p[0], p[0] - p[1] - start)).collect();
    let Some(value) = mean(&series.iter().map(|s| s.1).collect::<Vec<_>>()) else { return };
    let span = [series[0].0, series[series.len() - 1].0];
    let main = measured(Topic::Timing, value, None, span);
    let mut finding = Finding { confidence, ..Finding::new(Topic::Timing, main) };
    finding.span = super::best_window(&series, 1.0, 3, |v| Some(mean(v)? * value.signum())).unwrap_or(span);
    let there: Vec<f64> = series.iter().filter(|s| (finding.span[0]..=finding.span[1]).contains(&s.0)).map(|s| s.1).collect();
    finding.others.extend(mean(&there).map(|v| measure("timing_there", v, "s", None, finding.span)));
    sheet.note("start_offset", Some(start as f32).filter(|s| *s != 0.0), "s", span);
    sheet.find(finding);
}

/// (learner's time, learner's angle, teacher's angle) along the path.
fn pairs(path: &[[f64; 2]], learner: &Series, teacher: &Series) -> Vec<(f64, f64, f64)> {
    path.iter().filter_map(|p| Some((p[0], nearest(learner, p[0])?, nearest(teacher, p[1])?))).collect()
}

/// The value at `t`, when one was measured within 0.1 s of it.
fn nearest(series: &Series, t: f64) -> Option<f64> {
    let i = series.partition_point(|s| s.0 < t);
    let near = |i: usize| series.get(i).filter(|s| (s.0 - t).abs() <= 0.1);
    let (before, after) = (i.checked_sub(1).and_then(near), near(i));
    match (before, after) {
        (Some(b), Some(a)) => Some(if t - b.0 < a.0 - t { b.1 } else { a.1 }),
        (one, other) => one.or(other).map(|s| s.1),
    }
}

/// Scored on the mean difference over the whole path; shown where it is largest.
fn angle(sheet: &mut Sheet, part: Part, pairs: &[(f64, f64, f64)], confidence: f64) {
    if pairs.len() < 10 {
        return;
    }
    let differences: Series = pairs.iter().map(|p| (p.0, p.1 - p.2)).collect();
    let Some(overall) = mean(&differences.iter().map(|d| d.1.abs()).collect::<Vec<_>>()) else { return };
    let whole = [pairs[0].0, pairs[pairs.len() - 1].0];
    // The mean without its sign: a stretch that swings to both sides is not one correction.
    let Some(span) = super::best_window(&differences, MOMENT, 3, |v| Some(mean(v)?.abs())) else { return };
    let there: Vec<_> = pairs.iter().filter(|p| (span[0]..=span[1]).contains(&p.0)).collect();
    let own = mean(&there.iter().map(|p| p.1).collect::<Vec<_>>());
    let shown = mean(&there.iter().map(|p| p.2).collect::<Vec<_>>());
    let (Some(own), Some(shown)) = (own, shown) else { return };
    let main = measure(&format!("{}_angle", part.name()), own, "deg", Some(Target::Reference(shown)), span);
    let row = Topic::JointAngle.row();
    let scored = super::score::value(row, overall, Some(Target::Range(0.0, row.tolerance)));
    let mut finding = Finding { confidence, part: Some(part), ..Finding::new(Topic::JointAngle, main) };
    // A short slip in an otherwise close performance still shows: half of the score is the moment's.
    finding.score = 0.5 * (scored + finding.score);
    finding.others = vec![
        measure(&format!("{}_difference", part.name()), own - shown, "deg", None, span),
        measure(&format!("{}_mean_difference", part.name()), overall, "deg", Some(Target::Range(0.0, row.tolerance)), whole),
    ];
    sheet.find(finding);
}

fn amplitude(sheet: &mut Sheet, part: Part, own: f64, shown: f64, span: [f64; 2], confidence: f64) {
    let main = measure(&format!("{}_amplitude", part.name()), own, "deg", Some(Target::Reference(shown)), span);
    let mut finding = Finding { confidence, part: Some(part), ..Finding::new(Topic::Amplitude, main) };
    if shown > 1.0 {
        finding.others.push(measure(&format!("{}_amplitude_ratio", part.name()), own / shown, "1", None, span));
    }
    sheet.find(finding);
}
