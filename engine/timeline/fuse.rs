//! All tracks of a clip on one clock.

use super::{
    Column, Timeline, body, events, head,
    series::{Grid, Series, median},
};
use crate::extract::Tracks;
use dreamseed_models::{
    music::Music,
    prosody::Prosody,
    whisper::{Kind, Pronunciation, Transcript},
};

/// Rows a second by default.
pub const RATE: f64 = 25.0;
/// Rows a second that are possible.
const RATES: std::ops::RangeInclusive<f64> = 1.0..=200.0;
/// Longest clip that is put on a timeline, seconds: longer ones are cut off there (a broken track must not take all memory).
const MAX_SECONDS: f64 = 6.0 * 3600.0;

/// Puts all tracks on one clock with `rate` rows a second (1 to 200, [`RATE`] by default; other values are brought into that
/// range). Row i is at i / rate and there is one for every such instant within the clip. A track that is absent has no columns.
///
/// Sampled tracks are joined linearly where neighbours are at most 0.25 s (or one and a half of the track's own steps) apart;
/// everything else is invalid. Pitch is never joined over unvoiced parts, and landmarks less visible than 0.5 are not used.
pub fn fuse(tracks: &Tracks, rate: f64) -> Timeline {
    let rate = if rate.is_nan() { RATE } else { rate.clamp(*RATES.start(), *RATES.end()) };
    let duration = duration(tracks);
    let sound = tracks.speech.is_some() || tracks.prosody.is_some() || tracks.music.is_some();
    let something = sound || tracks.pose.is_some() || tracks.face.is_some();
    let rows = ((duration * rate - 1e-6).ceil().max(0.0) as usize).max(usize::from(something)); // a single picture has a row
    let grid = Grid { rate, rows };
    let mut columns = Vec::new();
    if let Some(prosody) = &tracks.prosody {
        voice(prosody, grid, &mut columns);
    }
    if let Some(speech) = &tracks.speech {
        columns.push(speaking(speech, grid));
    }
    if let Some(music) = &tracks.music {
        columns.extend(beat_of(music, grid));
    }
    if let Some(pronunciation) = &tracks.pronunciation {
        columns.push(goodness(pronunciation, grid));
    }
    if let Some(pose) = &tracks.pose {
        columns.extend(body::columns(pose, grid));
    }
    if let Some(face) = &tracks.face {
        columns.extend(head::columns(face, grid));
    }
    let mut timeline = Timeline { rate, rows, columns, events: Vec::new(), duration };
    timeline.events = events::find(tracks, &timeline);
    timeline
}

/// The clip's length, or the last time in any track where that is later.
fn duration(tracks: &Tracks) -> f64 {
    let pose = tracks.pose.iter().flatten().map(|o| o.t);
    let face = tracks.face.iter().flatten().map(|o| o.t);
    let speech = tracks.speech.iter().flat_map(|s| &s.segments).map(|s| s.end);
    let times = std::iter::once(tracks.duration).chain(pose).chain(face).chain(speech);
    times.filter(|t| t.is_finite()).fold(0.0, f64::max).min(MAX_SECONDS)
}

/// Time of each prosody frame.
pub(super) fn frame_times(p: &Prosody) -> impl Fn(usize) -> f64 {
    let (start, hop) = (p.start, p.hop.max(1e-4));
    move |i| start + i as f64 * hop
}

/// The pitch that semitones are about: the speaker's median, Hz.
pub(super) fn median_pitch(p: &Prosody) -> Option<f64> {
    let own = p.measures.f0_median.map(f64::from).filter(|m| m.is_finite() && *m > 0.0);
    own.or_else(|| median(p.f0.iter().flatten().map(|&f| f64::from(f)).filter(|f| f.is_finite() && *f > 0.0).collect()))
}

fn voice(p: &Prosody, grid: Grid, columns: &mut Vec<Column>) {
    let time = frame_times(p);
    let f0 = Series::new(p.f0.iter().enumerate().map(|(i, f)| (time(i), f.map(f64::from).filter(|f| *f > 0.0))));
    let middle = median_pitch(p);
    let semitones = f0.with(f0.v.iter().map(|f| Some(12.0 * ((*f)? / middle?).log2())).collect());
    let voiced = f0.with(f0.v.iter().map(|f| Some(f64::from(u8::from(f.is_some())))).collect());
    let intensity = Series::new(p.intensity.iter().enumerate().map(|(i, &v)| (time(i), Some(f64::from(v)))));
    columns.push(grid.column("prosody.f0", "Hz", f0.nearest(grid)));
    columns.push(grid.column("prosody.semitones", "st", semitones.nearest(grid)));
    columns.push(grid.column("prosody.voiced", "1", voiced.nearest(grid)));
    columns.push(grid.column("prosody.intensity", "dB", intensity.linear(grid)));
}

/// Onset strength, and the tempo from the first beat to the last.
fn beat_of(m: &Music, grid: Grid) -> [Column; 2] {
    let onset = Series::new(m.onset.iter().enumerate().map(|(i, &v)| (i as f64 * m.hop, Some(f64::from(v)))));
    let span = m.beats.first().zip(m.beats.last());
    let playing = |row: usize| span.is_some_and(|(a, b)| (*a..=*b).contains(&(row as f64 / grid.rate)));
    let tempo = (0..grid.rows).map(|row| m.tempo.filter(|t| t.is_finite() && playing(row))).collect();
    [grid.column("music.onset", "dB", onset.linear(grid)), grid.column("music.tempo", "1/min", tempo)]
}

/// 1 within a word, 0 elsewhere; within a segment where words have no times.
fn speaking(speech: &Transcript, grid: Grid) -> Column {
    let mut values = vec![Some(0.0); grid.rows];
    for segment in &speech.segments {
        let words = segment.words.iter().map(|w| (w.start, w.end));
        let whole = segment.words.is_empty().then_some((segment.start, segment.end));
        for (start, end) in words.chain(whole) {
            let row = |t: f64| ((t * grid.rate - 1e-6).ceil().max(0.0) as usize).min(grid.rows);
            if start.is_finite() && end.is_finite() && row(start) < row(end) {
                values[row(start)..row(end)].fill(Some(1.0));
            }
        }
    }
    grid.column("speech.speaking", "1", values)
}

/// Word-level goodness of pronunciation (natural logarithm of a likelihood ratio) within each expected word that was said.
fn goodness(pronunciation: &Pronunciation, grid: Grid) -> Column {
    let mut values = vec![None; grid.rows];
    for word in pronunciation.words.iter().filter(|w| matches!(w.kind, Kind::Correct | Kind::Unclear)) {
        let row = |t: f64| ((t * grid.rate - 1e-6).ceil().max(0.0) as usize).min(grid.rows);
        let (from, to) = (row(word.start), row(word.end));
        if let Some(rows) = values.get_mut(from..to) {
            rows.fill(word.goodness.map(|g| g.word_gop));
        }
    }
    grid.column("speech.word_gop", "nat", values)
}

#[cfg(test)]
mod tests;
