//! Pictures have the size and the marks that they should, and hostile input makes neither panics nor nonsense.

use dreamseed_models::{
    pose::{Landmark, Person},
    prosody::Prosody,
};

use super::{overview_png, pitch_line, terminal};
use crate::{
    extract::{Observed, Tracks},
    media::Frame,
    timeline::{Event, EventKind, Timeline},
};

fn frame(t: f64, width: u32, height: u32) -> Frame {
    Frame { t, width, height, rgb: [40, 90, 160].repeat((width * height) as usize) }
}

/// A figure that spans the picture's diagonal.
fn person() -> Person {
    let at = |i: usize| i as f32 / 32.0;
    let landmarks = (0..33).map(|i| Landmark { x: at(i), y: at(i), z: 0.0, visibility: 1.0 }).collect();
    Person { id: 0, score: 1.0, landmarks, world: Vec::new() }
}

fn decoded(png: &[u8]) -> image::RgbImage {
    image::load_from_memory_with_format(png, image::ImageFormat::Png).unwrap().to_rgb8()
}

fn scene() -> (Vec<Frame>, Tracks, Timeline) {
    let frames: Vec<Frame> = (0..20).map(|i| frame(f64::from(i) * 0.2, 64, 48)).collect();
    let pose = frames.iter().map(|f| Observed { t: f.t, width: f.width, height: f.height, found: vec![person()] }).collect();
    let f0 = (0..400).map(|i| (i % 50 < 30).then_some(200.0 + i as f32 * 0.1)).collect();
    let prosody = Prosody { hop: 0.01, start: 0.005, f0, intensity: vec![60.0; 400], ..Prosody::default() };
    let event = |kind, start: f64, label: &str| Event { kind, start, end: start + 0.4, label: label.into(), value: 0.9 };
    let events = vec![
        event(EventKind::Word, 0.5, "hello"),
        event(EventKind::Word, 1.0, "안녕하세요"),
        event(EventKind::GesturePeak, 1.5, "left_wrist"),
        event(EventKind::Beat, 2.0, "body"),
        event(EventKind::ExpressionChange, 2.5, "happy"),
    ];
    let timeline = Timeline { duration: 4.0, events, ..Timeline::default() };
    (frames, Tracks { duration: 4.0, prosody: Some(prosody), pose: Some(pose), ..Tracks::default() }, timeline)
}

#[test]
fn the_overview_shows_every_lane_and_the_figure() {
    let (frames, tracks, timeline) = scene();
    let full = decoded(&overview_png("A clip", &frames, &tracks, &timeline, None).unwrap());
    assert_eq!(full.width(), 1600);
    let orange = |p: &image::Rgb<u8>| p.0[0] > 240 && (150..170).contains(&p.0[1]) && p.0[2] < 90;
    assert!(full.pixels().filter(|p| orange(p)).count() > 200, "the figure's left side is drawn");

    // Without pictures, without voice: what is left is lower, and has no curve.
    let bare = decoded(&overview_png("A clip", &[], &Tracks { duration: 4.0, ..Tracks::default() }, &timeline, None).unwrap());
    assert!(bare.height() + 400 < full.height(), "{} and {}", bare.height(), full.height());
    let amber = |p: &image::Rgb<u8>| p.0 == [255, 190, 92];
    assert!(full.pixels().filter(|p| amber(p)).count() > 500 && bare.pixels().filter(|p| amber(p)).count() == 0);
}

#[test]
fn hostile_scenes_give_a_picture() {
    let (mut frames, mut tracks, mut timeline) = scene();
    frames.push(Frame { t: f64::NAN, width: 64, height: 48, rgb: Vec::new() });
    frames.push(Frame { t: 1.0, width: u32::MAX, height: u32::MAX, rgb: vec![1, 2, 3] });
    frames.push(Frame { t: 1e12, width: 1, height: 60_000, rgb: vec![9; 180_000] });
    let wild = [f32::NAN, f32::INFINITY, -1e30, 1e30, 0.0];
    if let Some(pose) = &mut tracks.pose {
        for (i, l) in pose[0].found[0].landmarks.iter_mut().enumerate() {
            *l = Landmark { x: wild[i % 5], y: wild[(i + 1) % 5], z: 0.0, visibility: wild[(i + 2) % 5] };
        }
        pose[1].found[0].landmarks.truncate(5);
    }
    for (i, event) in timeline.events.iter_mut().enumerate() {
        (event.start, event.end) = ([f64::NAN, -5.0, 1e300][i % 3], [f64::INFINITY, -9.0, f64::NAN][i % 3]);
        event.value = wild[i % 5];
    }
    timeline.duration = f64::NAN;
    overview_png("\u{0}한국어\n", &frames, &tracks, &timeline, None).unwrap();
    if let Some(prosody) = &mut tracks.prosody {
        prosody.f0.fill(Some(f32::NAN));
        (prosody.hop, prosody.start) = (0.0, f64::NAN);
        prosody.intensity.fill(f32::NEG_INFINITY);
    }
    overview_png("", &frames, &tracks, &timeline, None).unwrap();
    overview_png("", &[], &Tracks::default(), &Timeline::default(), None).unwrap();
}

#[test]
fn a_terminal_picture_has_its_cells_and_the_figure() {
    let plain = terminal(&frame(0.0, 64, 48), &[], 32, true);
    assert_eq!(plain.lines().count(), 12);
    assert!(plain.lines().all(|l| l.matches('▀').count() == 32 && l.ends_with("\x1b[0m")));
    assert!(plain.contains("\x1b[38;2;40;90;160m"));
    assert_ne!(plain, terminal(&frame(0.0, 64, 48), &[person()], 32, true));
    assert!(terminal(&frame(0.0, 64, 48), &[], 32, false).contains("\x1b[38;5;25m"), "nearest of the 256 colours");
    assert_eq!(terminal(&Frame { t: 0.0, width: 9, height: 9, rgb: vec![0] }, &[], 32, true), "");
    assert!(terminal(&frame(0.0, 1, 5_000), &[person()], usize::MAX, true).lines().count() <= 400);
}

#[test]
fn a_pitch_line_rises_where_the_voice_rises() {
    let rising: Vec<Option<f32>> = (0..100).map(|i| Some(100.0 * 2f32.powf(i as f32 / 100.0))).collect();
    let line = pitch_line(&rising, 10, 1);
    assert_eq!(line.chars().count(), 10);
    // One dot a column: the lowest at the left end, the highest at the right.
    assert_eq!(line.chars().next(), Some('⣀'));
    assert_eq!(line.chars().last(), Some('⠉'));
    let gap: Vec<Option<f32>> = (0..100).map(|i| (!(40..60).contains(&i)).then_some(150.0)).collect();
    assert!(pitch_line(&gap, 10, 2).lines().all(|l| l.chars().nth(4) == Some('\u{2800}')));
    assert_eq!(pitch_line(&[None, Some(f32::NAN)], 10, 2), "");
    assert_eq!(pitch_line(&[], 10, 2), "");
}
