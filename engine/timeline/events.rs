//! What happened when: words, pauses, accents, gestures, beats, expressions, repetitions.

use super::{
    Event, EventKind, Timeline, fuse, scene,
    series::{Peak, apart, median, peaks, quantile, smooth},
};
use crate::extract::Tracks;
use dreamseed_models::{
    face::EXPRESSIONS,
    prosody::Prosody,
    whisper::{Kind, Pronunciation, Transcript},
};

/// All events in order of start.
pub(super) fn find(tracks: &Tracks, timeline: &Timeline) -> Vec<Event> {
    let mut events = Vec::new();
    if let Some(speech) = &tracks.speech {
        words(speech, &mut events);
    }
    if let Some(pronunciation) = &tracks.pronunciation {
        misreadings(pronunciation, &mut events);
    }
    match (&tracks.prosody, &tracks.speech) {
        (Some(prosody), _) => {
            pauses(prosody.pauses.iter().copied(), &mut events);
            accents(prosody, tracks.speech.as_ref(), &mut events);
        }
        (None, Some(speech)) => {
            let spoken: Vec<_> = speech.segments.iter().flat_map(|s| &s.words).map(|w| [w.start, w.end]).collect();
            pauses(spoken.windows(2).map(|w| [w[0][1], w[1][0]]), &mut events);
        }
        _ => {}
    }
    if let Some(music) = &tracks.music {
        let strength = |t: f64| music.onset.get((t / music.hop).round() as usize).copied().unwrap_or(0.0);
        let beat = |&t: &f64| Event { kind: EventKind::MusicBeat, start: t, end: t, label: String::new(), value: strength(t) };
        events.extend(music.beats.iter().map(beat));
    }
    if let Some(scene) = &tracks.scene {
        scene::changes(scene, &mut events);
    }
    gestures(timeline, &mut events);
    beats(timeline, &mut events);
    expressions(timeline, &mut events);
    repetitions(timeline, &mut events);
    events.retain(|e| e.start.is_finite() && e.end.is_finite() && e.value.is_finite());
    events.sort_by(|a, b| a.start.total_cmp(&b.start));
    events
}

fn words(speech: &Transcript, events: &mut Vec<Event>) {
    events.extend(speech.segments.iter().flat_map(|s| &s.words).map(|w| Event {
        kind: EventKind::Word,
        start: w.start,
        end: w.end.max(w.start),
        label: w.word.trim().into(),
        value: w.probability,
    }));
}

fn misreadings(pronunciation: &Pronunciation, events: &mut Vec<Event>) {
    events.extend(pronunciation.words.iter().filter(|w| w.kind != Kind::Correct).map(|w| Event {
        kind: EventKind::Misreading,
        start: w.start,
        end: w.end.max(w.start),
        label: format!("{} {}", w.kind.name(), w.expected.as_ref().or(w.heard.as_ref()).map_or("", String::as_str)),
        value: w.goodness.map_or(0.0, |g| g.word_gop),
    }));
}

/// Shorter silences are those of stop consonants (Goldman-Eisler 1968 and most work after her).
const SHORTEST_PAUSE: f64 = 0.25;

fn pauses(spans: impl Iterator<Item = [f64; 2]>, events: &mut Vec<Event>) {
    events.extend(spans.filter(|[start, end]| end - start >= SHORTEST_PAUSE - 1e-9).map(|[start, end]| Event {
        kind: EventKind::Pause,
        start,
        end,
        label: String::new(),
        value: (end - start) as f32,
    }));
}

/// Semitones that a peak must stand out by: between the 1.5 that already change perceived prominence (Rietveld and Gussenhoven
/// 1985) and the 3 that all listeners use ('t Hart 1981).
const ACCENT: f32 = 2.0;
/// Seconds on either side in which a peak must stand out.
const ACCENT_REACH: f64 = 0.5;
/// Seconds between accents: about a syllable.
const ACCENT_APART: f64 = 0.2;

/// Voiced frames are strung together with the unvoiced ones between them left out, so that a consonant does not end the contour;
/// a silence of [`SHORTEST_PAUSE`] does.
fn accents(p: &Prosody, speech: Option<&Transcript>, events: &mut Vec<Event>) {
    let Some(middle) = fuse::median_pitch(p) else { return };
    let (time, hop) = (fuse::frame_times(p), p.hop.max(1e-4));
    let frames = |seconds: f64| (seconds / hop).round().clamp(1.0, 1e5) as usize;
    let mut phrase: Vec<(f64, f32)> = Vec::new();
    let mut close = |phrase: &mut Vec<(f64, f32)>| {
        // The median of five takes out single octave errors, the Gaussian what is left of the frames' noise.
        let tones: Vec<f32> = phrase.iter().map(|v| v.1).collect();
        let steady = |i: usize| {
            let near = tones[i.saturating_sub(2)..(i + 3).min(tones.len())].iter().map(|&v| f64::from(v)).collect();
            median(near).map(|v| v as f32)
        };
        let contour = smooth(&(0..tones.len()).map(steady).collect::<Vec<_>>(), 0.02 / hop);
        let found = apart(peaks(&contour, ACCENT, frames(ACCENT_REACH)), &contour, frames(ACCENT_APART));
        events.extend(found.into_iter().map(|peak| accent(peak, phrase, &contour, speech)));
        phrase.clear();
    };
    for (i, f) in p.f0.iter().enumerate() {
        if let Some(f) = f.filter(|f| f.is_finite() && *f > 0.0) {
            if phrase.last().is_some_and(|&(t, _)| time(i) - t > SHORTEST_PAUSE) {
                close(&mut phrase);
            }
            phrase.push((time(i), (12.0 * (f64::from(f) / middle).log2()) as f32));
        }
    }
    close(&mut phrase);
}

fn accent(peak: Peak, phrase: &[(f64, f32)], contour: &[Option<f32>], speech: Option<&Transcript>) -> Event {
    let (from, to) = above(contour, peak.at, contour[peak.at].unwrap_or(0.0) - peak.prominence / 2.0);
    let at = phrase[peak.at].0;
    let word = speech.iter().flat_map(|s| &s.segments).flat_map(|s| &s.words).find(|w| w.start <= at && at < w.end);
    Event {
        kind: EventKind::PitchAccent,
        start: phrase[from].0,
        end: phrase[to].0,
        label: word.map(|w| w.word.trim().to_owned()).unwrap_or_default(),
        value: peak.prominence,
    }
}

/// First and last row about `at` that stay at or above `level`.
fn above(values: &[Option<f32>], at: usize, level: f32) -> (usize, usize) {
    let holds = |i: &usize| values[*i].is_some_and(|v| v >= level);
    let from = (0..at).rev().take_while(holds).last().unwrap_or(at);
    let to = (at + 1..values.len()).take_while(holds).last().unwrap_or(at);
    (from, to)
}

/// Metres a second below which a limb's movement is no gesture.
const GESTURE: f32 = 0.4;
/// Seconds between gestures of a limb.
const GESTURE_APART: f64 = 0.3;

fn gestures(timeline: &Timeline, events: &mut Vec<Event>) {
    for limb in ["left_wrist", "right_wrist", "left_ankle", "right_ankle"] {
        let Some(column) = timeline.column(&format!("pose.{limb}.speed")) else { continue };
        let speed = smooth(&column.values, 0.04 * timeline.rate);
        // Half of what the limb does at its fastest.
        let mut known: Vec<f64> = speed.iter().flatten().map(|&v| f64::from(v)).collect();
        let Some(high) = quantile(&mut known, 0.95) else { continue };
        let least = GESTURE.max(0.5 * high as f32);
        let fast =
            peaks(&speed, least / 3.0, rows(timeline, 10.0)).into_iter().filter(|p| speed[p.at] >= Some(least)).collect();
        for peak in apart(fast, &speed, rows(timeline, GESTURE_APART)) {
            let value = speed[peak.at].unwrap_or(0.0);
            let (from, to) = above(&speed, peak.at, value / 2.0);
            events.push(Event {
                kind: EventKind::GesturePeak,
                start: from as f64 / timeline.rate,
                end: to as f64 / timeline.rate,
                label: limb.into(),
                value,
            });
        }
    }
}

fn rows(timeline: &Timeline, seconds: f64) -> usize {
    (seconds * timeline.rate).round().max(1.0) as usize
}

/// Metres a second that a minimum of the body's mean speed must stand out by.
const BEAT: f32 = 0.05;

/// Kinematic beats: local minima of the mean speed (Li et al. 2021, AIST++), smoothed by 5 of 60 frames a second as they do.
fn beats(timeline: &Timeline, events: &mut Vec<Event>) {
    let Some(column) = timeline.column("pose.motion") else { return };
    let speed = smooth(&column.values, 5.0 / 60.0 * timeline.rate);
    let mut known: Vec<f64> = speed.iter().flatten().map(|&v| f64::from(v)).collect();
    let Some(high) = quantile(&mut known, 0.95) else { return };
    let still: Vec<_> = speed.iter().map(|v| v.map(|v| -v)).collect();
    let found = peaks(&still, BEAT.max(0.1 * high as f32), rows(timeline, 10.0));
    events.extend(
        apart(found, &still, rows(timeline, 0.2)).into_iter().map(|peak| moment(EventKind::Beat, timeline, peak, "body")),
    );
}

fn moment(kind: EventKind, timeline: &Timeline, peak: Peak, label: &str) -> Event {
    let t = peak.at as f64 / timeline.rate;
    Event { kind, start: t, end: t, label: label.into(), value: peak.prominence }
}

/// Seconds that a new expression must lead.
const EXPRESSION_HELD: f64 = 0.2;
/// By how much it must lead over the one before it: hysteresis, so that two equal ones do not take turns.
const EXPRESSION_MARGIN: f32 = 0.1;

fn expressions(timeline: &Timeline, events: &mut Vec<Event>) {
    let columns: Vec<_> = EXPRESSIONS
        .iter()
        .filter_map(|e| timeline.column(&format!("face.{e}")))
        .map(|c| smooth(&c.values, 0.04 * timeline.rate))
        .collect();
    if columns.len() != EXPRESSIONS.len() {
        return;
    }
    let held = rows(timeline, EXPRESSION_HELD);
    let at = |e: usize, row: usize| columns[e][row];
    let unsure = |row: usize| timeline.column("face.unsure").and_then(|c| c.values[row]).is_some_and(|v| v >= 0.5);
    let leads = |row: usize, over: Option<usize>| {
        if unsure(row) {
            return None; // what cannot be told is no change
        }
        let best = (0..columns.len())
            .filter(|&e| at(e, row).is_some())
            .max_by(|&a, &b| at(a, row).partial_cmp(&at(b, row)).unwrap_or(std::cmp::Ordering::Equal))?;
        let clear =
            over.is_none_or(|o| best != o && at(best, row).zip(at(o, row)).is_some_and(|(b, o)| b - o >= EXPRESSION_MARGIN));
        clear.then_some(best)
    };
    let (mut now, mut candidate): (Option<usize>, Option<(usize, usize)>) = (None, None);
    let mut open: Option<(usize, usize)> = None; // (expression, first row) of the event that is not ended
    let mut end = |open: &mut Option<(usize, usize)>, row: usize| {
        if let Some((e, from)) = open.take() {
            let known: Vec<f32> = (from..row).filter_map(|i| at(e, i)).collect();
            events.push(Event {
                kind: EventKind::ExpressionChange,
                start: from as f64 / timeline.rate,
                end: row as f64 / timeline.rate,
                label: EXPRESSIONS[e].into(),
                value: known.iter().sum::<f32>() / known.len().max(1) as f32,
            });
        }
    };
    for row in 0..timeline.rows {
        candidate = match (leads(row, now), candidate) {
            (Some(e), Some((c, from))) if e == c => Some((c, from)),
            (Some(e), _) => Some((e, row)),
            (None, _) => None,
        };
        if let Some((e, from)) = candidate.filter(|&(_, from)| row + 1 - from >= held) {
            end(&mut open, from);
            open = now.map(|_| (e, from)); // the first expression of a clip is no change
            (now, candidate) = (Some(e), None);
        }
    }
    end(&mut open, timeline.rows);
}

/// Degrees that a joint must bend and straighten again by to count as a repetition.
const REPETITION: f32 = 25.0;

/// Minima of each joint's angle, of joints that have at least two.
fn repetitions(timeline: &Timeline, events: &mut Vec<Event>) {
    for column in &timeline.columns {
        let Some(joint) = column.name.strip_prefix("pose.").and_then(|n| n.strip_suffix(".angle")) else { continue };
        let bend: Vec<_> = smooth(&column.values, 0.1 * timeline.rate).into_iter().map(|v| v.map(|v| -v)).collect();
        let found = apart(peaks(&bend, REPETITION, rows(timeline, 10.0)), &bend, rows(timeline, 0.3));
        if found.len() < 2 {
            continue;
        }
        let ats: Vec<usize> = found.iter().map(|p| p.at).collect();
        events.extend(found.into_iter().enumerate().map(|(i, peak)| {
            let from = i.checked_sub(1).map_or(0, |before| ats[before]);
            let to = ats.get(i + 1).map_or(bend.len(), |after| after + 1);
            let depth = depth(&bend[from..to], peak.at - from);
            let at = from + middle(&bend[from..to], peak.at - from, 0.1 * depth);
            moment(EventKind::Repetition, timeline, Peak { at, prominence: depth }, joint)
        }));
    }
}

/// The middle of the stretch around `at` that is bent nearly (within `near`) as far: the bottom of a squat is flat, and which of
/// its rows is the lowest is chance.
fn middle(bend: &[Option<f32>], at: usize, near: f32) -> usize {
    let least = bend[at].map_or(f32::INFINITY, |deepest| deepest - near);
    let bent = |v: &&Option<f32>| v.is_some_and(|v| v >= least);
    let before = bend[..at].iter().rev().take_while(bent).count();
    let after = bend[at..].iter().take_while(bent).count().max(1);
    (at - before + at + after - 1) / 2
}

/// How far the bend at `at` is from the straightest moment beside it. Not the prominence: a clip often ends before the last
/// repetition is straight again.
fn depth(bend: &[Option<f32>], at: usize) -> f32 {
    let straightest = bend.iter().flatten().fold(f32::INFINITY, |a, &b| a.min(b));
    bend[at].map_or(0.0, |deepest| deepest - straightest)
}
