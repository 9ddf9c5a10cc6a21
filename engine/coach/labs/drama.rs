//! Drama: the variety of the voice, the play of the face, the gestures, and whether they belong together.

use dreamseed_models::face::EXPRESSIONS;

use super::{
    super::Topic,
    Finding, Input, Sheet, best_window,
    body::{self, Seen, Series},
    deviation, follow, mean, measure, measured, speech,
};
use crate::timeline::{EventKind, Timeline};

/// A gesture and an accent this close belong together, seconds (Loehr 2012).
const TOGETHER: f64 = 0.3;

pub(super) fn examine(sheet: &mut Sheet, input: &Input) {
    let voice = speech::find_speech(sheet, input);
    if let Some(heard) = voice {
        speech::manner(sheet, input, heard);
        loudness(sheet, input, heard);
        speech::expected_words(sheet, input);
    }
    if let Some(seen) = body::find(sheet, input.tracks.face.as_deref(), Topic::NoFace, input.tracks.duration) {
        expression(sheet, input, seen);
    }
    let Some(seen) = body::find_person(sheet, input) else { return };
    gesture_rate(sheet, input, seen);
    if let Some(heard) = voice.filter(|v| v.confidence > 0.0) {
        gesture_sync(sheet, input, heard.span, seen);
        congruence(sheet, input, seen.confidence.min(heard.confidence));
    }
    if input.reference.is_some() {
        follow::examine(sheet, input, seen.confidence);
    }
}

fn loudness(sheet: &mut Sheet, input: &Input, heard: speech::Heard) {
    let Some(sd) = input.tracks.prosody.as_ref().and_then(|p| p.measures.intensity_sd).filter(|_| heard.confidence > 0.0)
    else {
        return;
    };
    let teacher = input.reference.and_then(|r| r.tracks.prosody.as_ref()).and_then(|p| p.measures.intensity_sd).map(f64::from);
    let main = measured(Topic::LoudnessVariation, f64::from(sd), teacher, heard.span);
    sheet.find(Finding { confidence: 0.8 * heard.confidence, ..Finding::new(Topic::LoudnessVariation, main) });
}

/// 1 where the leading expression is not neutral, 0 where it is; nothing where the face is unsure.
fn expressive(timeline: &Timeline) -> Series {
    let columns: Vec<Series> = EXPRESSIONS.iter().map(|e| body::column(timeline, &format!("face.{e}"))).collect();
    let Some((neutral, others)) = columns.split_last() else { return Vec::new() };
    let unsure = body::column(timeline, "face.unsure");
    let lead = |i: usize| {
        let (t, n) = neutral[i];
        if unsure.get(i).is_some_and(|u| u.1 >= 0.5) {
            return None;
        }
        // All expressions of a frame are measured together, so the columns run in step.
        others.iter().all(|c| c.len() == neutral.len()).then(|| (t, f64::from(u8::from(others.iter().any(|c| c[i].1 > n)))))
    };
    (0..neutral.len()).filter_map(lead).collect()
}

fn expression(sheet: &mut Sheet, input: &Input, seen: Seen) {
    let series = expressive(input.timeline);
    let share = |s: &Series| mean(&s.iter().map(|v| v.1).collect::<Vec<_>>());
    if let Some(value) = share(&series) {
        let teacher = input.reference.and_then(|r| share(&expressive(r.timeline)));
        let main = measured(Topic::Expressiveness, value, teacher, seen.span);
        let mut finding = Finding { confidence: seen.confidence, ..Finding::new(Topic::Expressiveness, main) };
        let sign = if finding.direction == super::Direction::Low { -1.0 } else { 1.0 };
        finding.span = best_window(&series, 3.0, 3, |v| Some(sign * mean(v)?)).unwrap_or(seen.span);
        sheet.find(finding);
    }
    rate(sheet, input, Topic::ExpressionChanges, EventKind::ExpressionChange, seen);
}

fn gesture_rate(sheet: &mut Sheet, input: &Input, seen: Seen) {
    rate(sheet, input, Topic::GestureRate, EventKind::GesturePeak, seen);
}

/// Events a minute; judged from ten seconds on.
fn rate(sheet: &mut Sheet, input: &Input, topic: Topic, kind: EventKind, seen: Seen) {
    let seconds = seen.span[1] - seen.span[0];
    if seconds < 5.0 {
        return;
    }
    // Several limbs of one gesture peak together: moments closer than 0.3 s are one.
    let count = |timeline: &Timeline| moments(timeline, kind).len() as f64;
    let teacher =
        input.reference.filter(|r| r.timeline.duration >= 5.0).map(|r| 60.0 * count(r.timeline) / r.timeline.duration);
    let main = measured(topic, 60.0 * count(input.timeline) / seconds, teacher, seen.span);
    let confidence = seen.confidence * (seconds / 10.0).min(1.0).powi(2);
    sheet.find(Finding { confidence, ..Finding::new(topic, main) });
}

/// Middles of the events of a kind, those within 0.3 s of the last one left out.
fn moments(timeline: &Timeline, kind: EventKind) -> Vec<f64> {
    let mut times: Vec<f64> = Vec::new();
    for event in timeline.events(kind) {
        let middle = 0.5 * (event.start + event.end);
        if times.last().is_none_or(|t| middle - t > TOGETHER) {
            times.push(middle);
        }
    }
    times
}

/// Share of the gestures within 0.3 s of a pitch accent, and the seconds from each gesture to its nearest accent.
fn together(timeline: &Timeline, span: [f64; 2]) -> Option<(f64, Vec<(f64, f64)>)> {
    let accents: Vec<f64> = timeline.events(EventKind::PitchAccent).map(|e| 0.5 * (e.start + e.end)).collect();
    let gestures: Vec<f64> = moments(timeline, EventKind::GesturePeak)
        .into_iter()
        .filter(|t| (span[0] - TOGETHER..=span[1] + TOGETHER).contains(t))
        .collect();
    if accents.len() < 3 || gestures.len() < 4 {
        return None;
    }
    let nearest = |t: &f64| accents.iter().map(|a| (a - t).abs()).min_by(f64::total_cmp).unwrap_or(f64::INFINITY);
    let distances: Vec<(f64, f64)> = gestures.iter().map(|t| (*t, nearest(t))).collect();
    let met = distances.iter().filter(|d| d.1 <= TOGETHER).count();
    Some((met as f64 / distances.len() as f64, distances))
}

fn gesture_sync(sheet: &mut Sheet, input: &Input, span: [f64; 2], seen: Seen) {
    let Some((share, distances)) = together(input.timeline, span) else { return };
    let teacher = input.reference.and_then(|r| together(r.timeline, [0.0, r.timeline.duration])).map(|t| t.0);
    let main = measured(Topic::GestureSync, share, teacher, span);
    let sure = (distances.len() as f64 / 8.0).min(1.0);
    let mut finding = Finding { confidence: seen.confidence * sure, ..Finding::new(Topic::GestureSync, main) };
    finding.others = vec![measure("gestures", distances.len() as f64, "count", None, span)];
    let shown = match finding.direction {
        super::Direction::Low => distances.iter().max_by(|a, b| a.1.total_cmp(&b.1)),
        _ => distances.iter().min_by(|a, b| a.1.total_cmp(&b.1)),
    };
    finding.span = shown.map_or(span, |d| [(d.0 - 0.5).max(0.0), d.0 + 0.5]);
    sheet.find(finding);
}

/// Pearson's r of loudness and body speed over whole seconds.
fn correlation(timeline: &Timeline) -> Option<f64> {
    let seconds = |series: Series| -> Vec<Option<f64>> {
        let mut sums: Vec<(f64, u32)> = Vec::new();
        for (t, v) in series {
            let i = t as usize;
            if i >= sums.len() {
                sums.resize(i + 1, (0.0, 0));
            }
            sums[i] = (sums[i].0 + v, sums[i].1 + 1);
        }
        sums.iter().map(|s| (s.1 > 0).then(|| s.0 / f64::from(s.1))).collect()
    };
    let voice = seconds(body::column(timeline, "prosody.intensity"));
    let motion = seconds(body::motion(timeline));
    let both: Vec<(f64, f64)> = voice.iter().zip(&motion).filter_map(|(a, b)| Some(((*a)?, (*b)?))).collect();
    if both.len() < 8 {
        return None;
    }
    let (a, b): (Vec<f64>, Vec<f64>) = both.iter().copied().unzip();
    let (ma, mb) = (mean(&a)?, mean(&b)?);
    let scale = deviation(&a)? * deviation(&b)? * a.len() as f64;
    (scale > 1e-9).then(|| a.iter().zip(&b).map(|(x, y)| (x - ma) * (y - mb)).sum::<f64>() / scale)
}

fn congruence(sheet: &mut Sheet, input: &Input, confidence: f64) {
    let Some(r) = correlation(input.timeline) else { return };
    let teacher = input.reference.and_then(|reference| correlation(reference.timeline));
    let main = measured(Topic::Congruence, r, teacher, [0.0, input.timeline.duration]);
    // A correlation over so few seconds is loose: 12 of them put r = 0.5 at the edge of chance.
    let confidence = confidence * (input.timeline.duration / 20.0).min(1.0);
    sheet.find(Finding { confidence, ..Finding::new(Topic::Congruence, main) });
}
