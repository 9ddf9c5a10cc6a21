//! One picture of the whole clip: key frames with the figure, pitch, loudness, words, movement, expression and the coach's points on
//! one time axis, under a title and the scores.

use dreamseed_models::prosody::Prosody;

use super::{
    canvas::{Area, Canvas, Font, Rgba, fade, writable},
    skeleton,
};
use crate::{
    Result,
    coach::{Plan, PointKind},
    extract::Tracks,
    media::Frame,
    timeline::{EventKind, Timeline},
};

const WIDTH: f32 = 1600.0;
/// Left and right of the time axis.
const LEFT: f32 = 100.0;
const RIGHT: f32 = 1560.0;
const GAP: f32 = 12.0;
const STRIP: f32 = 196.0;

const BACKGROUND: Rgba = [13, 17, 26, 255];
const PANEL: Rgba = [22, 28, 41, 255];
const GRID: Rgba = [148, 163, 190, 34];
const TEXT: Rgba = [232, 237, 247, 255];
const MUTED: Rgba = [142, 155, 180, 255];
const PITCH: Rgba = [255, 190, 92, 255];
const LOUD: Rgba = [96, 165, 250, 255];
const WORD: Rgba = [52, 66, 96, 255];
const BEAT: Rgba = [167, 139, 250, 255];
const GESTURE: Rgba = [244, 114, 182, 255];
const GOOD: Rgba = [74, 222, 128, 255];
const ADVICE: Rgba = [251, 146, 60, 255];
const POOR: Rgba = [248, 113, 113, 255];

/// Most points of the coach that are shown.
const MAX_POINTS: usize = 5;

/// A row of the picture along the time axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Pitch,
    Loudness,
    Words,
    Movement,
    Expression,
    Coach,
}

impl Lane {
    const fn height(self) -> f32 {
        match self {
            Self::Pitch => 220.0,
            Self::Loudness => 96.0,
            Self::Words => 60.0,
            Self::Movement => 56.0,
            Self::Expression | Self::Coach => 36.0,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Pitch => "pitch",
            Self::Loudness => "loudness",
            Self::Words => "words",
            Self::Movement => "movement",
            Self::Expression => "face",
            Self::Coach => "coach",
        }
    }
}

/// The time axis: seconds to pixels.
#[derive(Clone, Copy)]
struct Axis {
    duration: f64,
}

impl Axis {
    fn x(&self, t: f64) -> f32 {
        let share = (t / self.duration).clamp(0.0, 1.0);
        LEFT + share as f32 * (RIGHT - LEFT)
    }

    /// Seconds between grid lines: 1, 2 or 5 times a power of ten, at most 16 lines.
    fn step(&self) -> f64 {
        let rough = self.duration / 16.0;
        let decade = 10f64.powf(rough.log10().floor());
        decade * [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * decade >= rough).unwrap_or(10.0)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (step, duration) = (self.step(), self.duration);
        (0..=16).map(move |i| f64::from(i) * step).take_while(move |t| *t <= duration)
    }
}

/// A PNG, 1600 pixels wide and as high as what there is to show: key frames with the skeletons drawn over them (limbs fade with their
/// visibility), F0 on a logarithmic axis in Hz, intensity, words, beats and gesture peaks, expressions, and the coach's scores and
/// points, on one axis in seconds.
///
/// Words and sentences that the font cannot write (see [the module](crate::render)) show as boxes over their spans and as topics.
pub fn overview_png(
    title: &str,
    frames: &[Frame],
    tracks: &Tracks,
    timeline: &Timeline,
    plan: Option<&Plan>,
) -> Result<Vec<u8>> {
    let axis = Axis { duration: duration(frames, tracks, timeline) };
    let lanes = lanes(tracks, timeline, plan);
    let shown: Vec<&Frame> = frames.iter().filter(|f| f.t.is_finite() && f.width > 0 && f.height > 0).collect();

    // 1. heights, from the top down
    let strip = if plan.is_some_and(|p| p.scores.len() > 1) { 132.0 } else { 92.0 };
    let first_lane = strip + if shown.is_empty() { 0.0 } else { STRIP + 34.0 };
    let axis_y = lanes.iter().fold(first_lane, |y, l| y + l.height() + GAP);
    let notes = plan.map(note_lines).unwrap_or_default();
    let height = axis_y + 34.0 + if notes.is_empty() { 12.0 } else { 22.0 + 26.0 * notes.len() as f32 };
    let mut canvas = Canvas::new(WIDTH as u32, height.ceil() as u32, BACKGROUND)?;

    // 2. header and key frames
    header(&mut canvas, title, axis.duration, plan);
    film_strip(&mut canvas, axis, strip, first_lane, &shown, (tracks, timeline));

    // 3. panels, grid, then what lies on them
    let mut y = first_lane;
    let mut areas = Vec::new();
    for lane in lanes {
        let area = Area { x: LEFT, y, w: RIGHT - LEFT, h: lane.height() };
        canvas.rect(area, 8.0, PANEL);
        let label = lane.name();
        canvas.text((LEFT - 12.0 - Font::SMALL.width(label), area.y + 8.0), label, Font::SMALL, MUTED);
        areas.push((lane, area));
        y = area.bottom() + GAP;
    }
    grid(&mut canvas, axis, first_lane, axis_y - GAP);
    for (lane, area) in areas {
        draw_lane(&mut canvas, axis, lane, area, (tracks, timeline, plan));
    }

    // 4. the coach's sentences
    for (i, (color, text)) in notes.iter().enumerate() {
        canvas.text((LEFT, axis_y + 46.0 + 26.0 * i as f32), text, Font::BODY, *color);
    }
    canvas.png()
}

/// Seconds that the axis spans.
fn duration(frames: &[Frame], tracks: &Tracks, timeline: &Timeline) -> f64 {
    let ends = [tracks.duration, timeline.duration, frames.last().map_or(0.0, |f| f.t)];
    ends.into_iter().filter(|d| d.is_finite()).fold(0.1, f64::max)
}

/// The lanes that have something to show.
fn lanes(tracks: &Tracks, timeline: &Timeline, plan: Option<&Plan>) -> Vec<Lane> {
    let any = |kinds: &[EventKind]| timeline.events.iter().any(|e| kinds.contains(&e.kind));
    let prosody = tracks.prosody.as_ref();
    let mut out = Vec::new();
    let mut add = |there: bool, lane: Lane| there.then(|| out.push(lane));
    add(prosody.is_some_and(|p| p.f0.iter().flatten().any(|f| voiced(*f))), Lane::Pitch);
    add(prosody.is_some_and(|p| p.intensity.len() > 1), Lane::Loudness);
    add(any(&[EventKind::Word]), Lane::Words);
    add(any(&[EventKind::Beat, EventKind::GesturePeak, EventKind::Repetition]), Lane::Movement);
    add(any(&[EventKind::ExpressionChange]), Lane::Expression);
    add(plan.is_some_and(|p| !p.points.is_empty()), Lane::Coach);
    out
}

/// Whether it is a frequency.
fn voiced(f: f32) -> bool {
    f.is_finite() && f > 0.0
}

/// Title and length at the left, the overall score at the right, the parts of the rubric below.
fn header(canvas: &mut Canvas, title: &str, duration: f64, plan: Option<&Plan>) {
    canvas.text((LEFT, 24.0), &short(title, Font::TITLE, 900.0), Font::TITLE, TEXT);
    let lab = plan.map_or(String::new(), |p| format!(" · {} lab", format!("{:?}", p.lab).to_lowercase()));
    canvas.text((LEFT, 62.0), &format!("{duration:.1} s{lab}"), Font::SMALL, MUTED);
    let Some((overall, parts)) = plan.and_then(|p| p.scores.split_first()) else { return };

    let value = format!("{:.0}", overall.value);
    canvas.text((RIGHT - Font::TITLE.width(&value), 24.0), &value, Font::TITLE, grade(overall.value));
    bar(canvas, Area { x: RIGHT - 380.0, y: 34.0, w: 310.0, h: 14.0 }, overall.value);
    let name = label(&overall.name);
    canvas.text((RIGHT - 392.0 - Font::SMALL.width(&name), 33.0), &name, Font::SMALL, MUTED);

    let mut x = LEFT;
    for score in parts {
        let (name, value) = (label(&score.name), format!("{:.0}", score.value));
        let width = Font::SMALL.width(&name) + 8.0 + 90.0 + 8.0 + Font::SMALL_BOLD.width("100");
        if x + width > RIGHT {
            break;
        }
        canvas.text((x, 94.0), &name, Font::SMALL, MUTED);
        let area = Area { x: x + Font::SMALL.width(&name) + 8.0, y: 98.0, w: 90.0, h: 8.0 };
        bar(canvas, area, score.value);
        canvas.text((area.right() + 8.0, 94.0), &value, Font::SMALL_BOLD, grade(score.value));
        x += width + 28.0;
    }
}

fn bar(canvas: &mut Canvas, area: Area, value: f64) {
    let share = (value / 100.0).clamp(0.0, 1.0) as f32;
    canvas.rect(area, 0.5 * area.h, WORD);
    canvas.rect(Area { w: (share * area.w).max(area.h), ..area }, 0.5 * area.h, grade(value));
}

fn grade(value: f64) -> Rgba {
    match value {
        v if v >= 75.0 => GOOD,
        v if v >= 50.0 => PITCH,
        _ => POOR,
    }
}

/// Key frames side by side, each joined to its time on the axis.
fn film_strip(
    canvas: &mut Canvas,
    axis: Axis,
    top: f32,
    base: f32,
    frames: &[&Frame],
    (tracks, timeline): (&Tracks, &Timeline),
) {
    let Some(first) = frames.first() else { return };
    let shape = (first.width as f32 / first.height as f32).clamp(0.4, 2.4);
    let width = STRIP * shape;
    let most = ((RIGHT - LEFT + GAP) / (width + GAP)).floor().max(1.0) as usize;
    let chosen = key_frames(frames, most, timeline);
    let step = if chosen.len() > 1 { (RIGHT - LEFT - width) / (chosen.len() - 1) as f32 } else { 0.0 };
    for (i, frame) in chosen.iter().enumerate() {
        // A frame of another shape than the first is fitted inside of the tile.
        let own = frame.width as f32 / frame.height as f32;
        let (w, h) = if own < shape { (STRIP * own, STRIP) } else { (width, width / own) };
        let tile = Area { x: LEFT + i as f32 * step, y: top, w: width, h: STRIP };
        let area = Area { x: tile.x + 0.5 * (width - w), y: tile.y + 0.5 * (STRIP - h), w, h };
        canvas.rect(tile, 10.0, PANEL);
        canvas.picture(frame, area, 10.0);
        let near = tracks.pose.iter().flatten().filter(|o| o.t.is_finite());
        let seen = near.min_by(|a, b| (a.t - frame.t).abs().total_cmp(&(b.t - frame.t).abs()));
        if let Some(seen) = seen.filter(|o| (o.t - frame.t).abs() < 0.05) {
            let several = seen.found.len() > 1;
            seen.found.iter().for_each(|person| skeleton::draw(canvas, person, area, several));
        }
        let time = format!("{:.1} s", frame.t);
        let chip = Area { x: tile.x + 6.0, y: tile.bottom() - 28.0, w: Font::SMALL.width(&time) + 12.0, h: 22.0 };
        canvas.rect(chip, 6.0, [8, 12, 20, 190]);
        canvas.text((chip.x + 6.0, chip.y + 3.0), &time, Font::SMALL, TEXT);
        let (middle, x) = (tile.x + 0.5 * tile.w, axis.x(frame.t));
        let turn = tile.bottom() + 8.0;
        canvas.polyline(&[(middle, turn - 4.0), (middle, turn), (x, base - 12.0), (x, base - 4.0)], 1.5, fade(MUTED, 0.7));
        canvas.circle(x, base - 4.0, 3.5, MUTED);
    }
}

/// At most `most` frames at even distances; within its share of the time each gives way to the strongest gesture's.
fn key_frames<'a>(frames: &[&'a Frame], most: usize, timeline: &Timeline) -> Vec<&'a Frame> {
    let n = most.min(frames.len());
    let mut out = Vec::with_capacity(n);
    for i in 0..n {
        let part = &frames[i * frames.len() / n..(i + 1) * frames.len() / n];
        let (Some(first), Some(last)) = (part.first(), part.last()) else { continue };
        let inside = timeline.events(EventKind::GesturePeak).map(|e| (e.value, 0.5 * (e.start + e.end)));
        let peak = inside.filter(|p| (first.t..=last.t).contains(&p.1)).max_by(|a, b| a.0.total_cmp(&b.0));
        let wanted = peak.map_or(0.5 * (first.t + last.t), |p| p.1);
        out.extend(part.iter().min_by(|a, b| (a.t - wanted).abs().total_cmp(&(b.t - wanted).abs())).copied());
    }
    out
}

/// Lines at round seconds through all lanes, with their labels below.
fn grid(canvas: &mut Canvas, axis: Axis, top: f32, bottom: f32) {
    let digits = if axis.step() < 1.0 { 1 } else { 0 };
    for t in axis.ticks() {
        let x = axis.x(t);
        canvas.line((x, top), (x, bottom), 1.0, GRID);
        let label = format!("{t:.digits$}");
        canvas.text((x - 0.5 * Font::SMALL.width(&label), bottom + 6.0), &label, Font::SMALL, MUTED);
    }
    canvas.text((LEFT - 12.0 - Font::SMALL.width("seconds"), bottom + 6.0), "seconds", Font::SMALL, MUTED);
}

fn draw_lane(canvas: &mut Canvas, axis: Axis, lane: Lane, area: Area, of: (&Tracks, &Timeline, Option<&Plan>)) {
    let (tracks, timeline, plan) = of;
    if matches!(lane, Lane::Pitch | Lane::Loudness | Lane::Words) {
        for pause in timeline.events(EventKind::Pause) {
            let (x, end) = (axis.x(pause.start), axis.x(pause.end));
            canvas.rect(Area { x, w: end - x, ..area }, 0.0, [148, 163, 190, 22]);
        }
    }
    match (lane, &tracks.prosody) {
        (Lane::Pitch, Some(prosody)) => pitch(canvas, axis, area, prosody, timeline),
        (Lane::Loudness, Some(prosody)) => loudness(canvas, axis, area, prosody),
        (Lane::Words, _) => words(canvas, axis, area, timeline),
        (Lane::Movement, _) => movement(canvas, axis, area, timeline),
        (Lane::Expression, _) => expressions(canvas, axis, area, timeline),
        (Lane::Coach, _) => plan.iter().for_each(|p| points(canvas, axis, area, p)),
        _ => {}
    }
}

/// F0 on a logarithmic axis, its median, and the pitch accents.
fn pitch(canvas: &mut Canvas, axis: Axis, area: Area, prosody: &Prosody, timeline: &Timeline) {
    let mut sorted: Vec<f32> = prosody.f0.iter().flatten().copied().filter(|f| voiced(*f)).collect();
    sorted.sort_by(f32::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return };
    let at = |q: f32| sorted[(last as f32 * q) as usize];
    let middle = at(0.5);
    let (low, high) = ((at(0.02) / 1.12).min(middle / 1.35), (at(0.98) * 1.12).max(middle * 1.35));
    let y = |f: f32| area.bottom() - 8.0 - ((f / low).ln() / (high / low).ln()).clamp(0.0, 1.0) * (area.h - 16.0);

    for hz in [50.0, 70.0, 100.0, 150.0, 200.0, 300.0, 400.0, 600.0, 800.0, 1200.0] {
        if hz > low && hz < high {
            canvas.line((area.x, y(hz)), (area.right(), y(hz)), 1.0, GRID);
            let label = format!("{hz:.0} Hz");
            let place = (area.x - 12.0 - Font::SMALL.width(&label), y(hz) - 8.0);
            if place.1 > area.y + 22.0 {
                canvas.text(place, &label, Font::SMALL, MUTED);
            }
        }
    }
    canvas.dashed((area.x, y(middle)), (area.right(), y(middle)), 1.0, fade(PITCH, 0.55));
    let label = format!("median {middle:.0} Hz");
    canvas.text((area.right() - Font::SMALL.width(&label) - 8.0, y(middle) - 18.0), &label, Font::SMALL, fade(PITCH, 0.8));

    let time = |i: usize| prosody.start + i as f64 * prosody.hop;
    for stretch in stretches(&prosody.f0) {
        let points: Vec<(f32, f32)> = stretch.iter().map(|&(i, f)| (axis.x(time(i)), y(f))).collect();
        canvas.polyline(&points, 9.0, fade(PITCH, 0.16));
        canvas.polyline(&points, 3.0, PITCH);
        if let [only] = points.as_slice() {
            canvas.circle(only.0, only.1, 2.0, PITCH);
        }
    }
    for accent in timeline.events(EventKind::PitchAccent) {
        let t = 0.5 * (accent.start + accent.end);
        let frame = ((t - prosody.start) / prosody.hop).round().max(0.0) as usize;
        if let Some(&Some(f)) = prosody.f0.get(frame) {
            canvas.ring(axis.x(t), y(f), 7.0, 2.0, TEXT);
        }
    }
}

/// Runs of voiced frames: (frame, Hz).
fn stretches(f0: &[Option<f32>]) -> Vec<Vec<(usize, f32)>> {
    let mut out = vec![Vec::new()];
    for (i, f) in f0.iter().enumerate() {
        match (f, out.last_mut()) {
            (Some(f), Some(run)) if voiced(*f) => run.push((i, *f)),
            (_, Some(run)) if !run.is_empty() => out.push(Vec::new()),
            _ => {}
        }
    }
    out.retain(|run| !run.is_empty());
    out
}

/// Intensity over the upper 45 dB, the loudest frame of each column of pixels.
fn loudness(canvas: &mut Canvas, axis: Axis, area: Area, prosody: &Prosody) {
    let top = prosody.intensity.iter().copied().filter(|d| d.is_finite()).fold(f32::MIN, f32::max);
    let y = |db: f32| area.bottom() - 2.0 - (1.0 - (top - db) / 45.0).clamp(0.0, 1.0) * (area.h - 14.0);
    let mut points: Vec<(f32, f32)> = Vec::new();
    for (i, &db) in prosody.intensity.iter().enumerate().filter(|(_, db)| db.is_finite()) {
        let point = (axis.x(prosody.start + i as f64 * prosody.hop), y(db));
        match points.last_mut() {
            Some(last) if point.0 - last.0 < 1.0 => last.1 = last.1.min(point.1),
            _ => points.push(point),
        }
    }
    if points.is_empty() {
        return;
    }
    canvas.under(&points, area.bottom() - 1.0, fade(LOUD, 0.5));
    canvas.polyline(&points, 2.0, LOUD);
    let label = format!("{top:.0} dB");
    canvas.text((area.x - 12.0 - Font::SMALL.width(&label), area.y + 28.0), &label, Font::SMALL, MUTED);
}

/// A box a word, on two rows in turn so that short words keep their letters.
fn words(canvas: &mut Canvas, axis: Axis, area: Area, timeline: &Timeline) {
    let words: Vec<_> = timeline.events(EventKind::Word).collect();
    for (i, word) in words.iter().enumerate() {
        let (x, end) = (axis.x(word.start), axis.x(word.end));
        let y = area.y + 5.0 + (i % 2) as f32 * 26.0;
        let sure = f64::from(word.value).clamp(0.35, 1.0) as f32;
        canvas.rect(Area { x: x + 1.0, y, w: (end - x - 2.0).max(2.0), h: 23.0 }, 5.0, fade(WORD, sure));
        if writable(&word.label) {
            // The text may run over the end of its box as far as the word after the next leaves room.
            let room = words.get(i + 2).map_or(area.right(), |w| axis.x(w.start)) - x - 8.0;
            let text = short(&word.label, Font::SMALL, room.max(end - x - 8.0));
            canvas.text((x + 5.0, y + 3.0), &text, Font::SMALL, TEXT);
        }
    }
}

/// Beats as ticks, gesture peaks as diamonds in the colour of their side, turning points of repetitions as rings.
fn movement(canvas: &mut Canvas, axis: Axis, area: Area, timeline: &Timeline) {
    for beat in timeline.events(EventKind::Beat) {
        let x = axis.x(beat.start);
        canvas.line((x, area.y + 8.0), (x, area.bottom() - 8.0), 2.5, fade(BEAT, 0.8));
    }
    let fastest = timeline.events(EventKind::GesturePeak).map(|e| e.value).fold(f32::MIN_POSITIVE, f32::max);
    for peak in timeline.events(EventKind::GesturePeak) {
        let (x, y) = (axis.x(0.5 * (peak.start + peak.end)), area.y + 0.5 * area.h);
        let r = 5.0 + 9.0 * (peak.value / fastest).clamp(0.0, 1.0).sqrt();
        let color = match peak.label.as_str() {
            l if l.starts_with("left") => skeleton::LEFT,
            l if l.starts_with("right") => skeleton::RIGHT,
            _ => GESTURE,
        };
        canvas.polygon(&[(x, y - r), (x + r, y), (x, y + r), (x - r, y)], fade(color, 0.9));
    }
    for turn in timeline.events(EventKind::Repetition) {
        canvas.ring(axis.x(0.5 * (turn.start + turn.end)), area.y + 0.5 * area.h, 16.0, 2.5, GOOD);
    }
}

/// A box for the time that each expression leads.
fn expressions(canvas: &mut Canvas, axis: Axis, area: Area, timeline: &Timeline) {
    for change in timeline.events(EventKind::ExpressionChange) {
        let (x, end) = (axis.x(change.start), axis.x(change.end));
        let place = Area { x: x + 1.0, y: area.y + 6.0, w: (end - x - 2.0).max(2.0), h: area.h - 12.0 };
        canvas.rect(place, 6.0, fade(GESTURE, 0.18 + 0.3 * change.value));
        canvas.text((x + 7.0, area.y + 10.0), &short(&change.label, Font::SMALL, place.w - 10.0), Font::SMALL, TEXT);
    }
}

/// The span of each point with its number.
fn points(canvas: &mut Canvas, axis: Axis, area: Area, plan: &Plan) {
    // The most important last, so that it lies on top.
    for point in plan.points.iter().take(MAX_POINTS).rev() {
        let color = note_color(point.kind);
        let (x, end) = (axis.x(point.span[0]), axis.x(point.span[1]));
        let y = area.y + 0.5 * area.h;
        canvas.line((x, y), (end.max(x + 2.0), y), 6.0, fade(color, 0.45));
        let number = point.id.to_string();
        let at = (0.5 * (x + end)).clamp(area.x + 14.0, area.right() - 14.0);
        canvas.circle(at, y, 12.0, color);
        canvas.text((at - 0.5 * Font::SMALL_BOLD.width(&number), y - 8.0), &number, Font::SMALL_BOLD, BACKGROUND);
    }
}

fn note_color(kind: PointKind) -> Rgba {
    match kind {
        PointKind::Strength => GOOD,
        PointKind::Advice => ADVICE,
    }
}

/// The points' sentences in lines; the topic and the span for a sentence that the font cannot write.
fn note_lines(plan: &Plan) -> Vec<(Rgba, String)> {
    let columns = ((RIGHT - LEFT) / Font::BODY.width("x")) as usize;
    let mut out = Vec::new();
    for point in plan.points.iter().take(MAX_POINTS) {
        let text = if writable(&point.sentence) {
            point.sentence.clone()
        } else {
            format!("{} ({:.1} to {:.1} s)", label(point.topic.name()), point.span[0], point.span[1])
        };
        let mut line = format!("{} ", point.id);
        for word in text.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > columns {
                out.push((note_color(point.kind), std::mem::replace(&mut line, "  ".into())));
            }
            line.push(' ');
            line.push_str(word);
        }
        out.push((note_color(point.kind), line));
    }
    out
}

/// A key as a person reads it.
fn label(key: &str) -> String {
    key.replace(['_', '.'], " ")
}

/// `text` cut to `width` pixels, with two dots where something is missing; empty where not even three characters fit.
fn short(text: &str, font: Font, width: f32) -> String {
    let room = (width / font.width("x")).max(0.0) as usize;
    match text.chars().count() {
        n if n <= room => text.to_owned(),
        _ if room < 3 => String::new(),
        _ => text.chars().take(room - 2).chain("..".chars()).collect(),
    }
}
