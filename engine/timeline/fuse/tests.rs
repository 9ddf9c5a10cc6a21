use super::{super::EventKind, *};
use crate::extract::Observed;
use dreamseed_models::{
    face::{EXPRESSIONS, Face},
    pose::{Landmark, Person},
    whisper::{Segment, Word},
};

fn person(points: impl Fn(usize) -> [f64; 3]) -> Person {
    let landmark = |i| {
        let [x, y, _] = points(i);
        Landmark { x: (0.5 + x / 4.0) as f32, y: (0.5 + y / 3.0) as f32, z: 0.0, visibility: 1.0 } // 160 pixels a metre
    };
    let world = (0..33).map(|i| points(i).map(|v| v as f32)).collect();
    Person { id: 0, score: 1.0, landmarks: (0..33).map(landmark).collect(), world }
}

fn observed<T>(t: f64, found: T) -> Observed<T> {
    Observed { t, width: 640, height: 480, found: vec![found] }
}

/// An upright body; limbs hang straight down.
fn upright(i: usize) -> [f64; 3] {
    let side = if i % 2 == 1 { 0.2 } else { -0.2 };
    let y = match i {
        11 | 12 => -0.5,
        13 | 14 => -0.25,
        15..=22 => 0.0,
        23 | 24 => 0.0,
        25 | 26 => 0.4,
        27..=32 => 0.8,
        _ => -0.7,
    };
    [side, y, 0.0]
}

fn value(t: &Timeline, name: &str, at: f64) -> Option<f32> {
    t.column(name).unwrap_or_else(|| panic!("no column {name}")).values[(at * t.rate).round() as usize]
}

#[test]
fn the_clock_has_a_row_for_every_instant_of_the_clip() {
    for (duration, rows) in [(1.0, 25), (1.01, 26), (0.0, 1), (f64::NAN, 1), (-3.0, 1)] {
        let t = fuse(&Tracks { duration, speech: Some(Transcript::default()), ..Tracks::default() }, 25.0);
        assert_eq!((t.rows, t.columns.len()), (rows, 1), "{duration}");
        assert!(t.columns.iter().all(|c| c.values.len() == t.rows));
    }
    assert_eq!(fuse(&Tracks::default(), 25.0).rows, 0);
    assert_eq!(fuse(&Tracks { duration: f64::MAX, ..Tracks::default() }, f64::INFINITY).rate, 200.0);
}

#[test]
fn a_swinging_arm_has_its_angle_velocity_and_speed() {
    // The left forearm turns about the elbow by 90 degrees a second, in the plane of the picture; the body walks 0.5 m/s.
    let frame = |t: f64| {
        let (s, c) = (std::f64::consts::FRAC_PI_2 * t).sin_cos();
        let arm = move |i: usize| {
            let [x, y, z] = upright(i);
            let (x, y) = if i == 15 { (0.2 + 0.25 * s, -0.25 + 0.25 * c) } else { (x, y) };
            [x + 0.5 * t - 0.5, y, z]
        };
        observed(t, person(arm))
    };
    let pose = (0..45).map(|i| frame(f64::from(i) / 30.0)).collect();
    let t = fuse(&Tracks { duration: 1.5, pose: Some(pose), ..Tracks::default() }, 25.0);
    let near = |name: &str, at: f64, want: f64, tolerance: f64| {
        let v = f64::from(value(&t, name, at).unwrap());
        assert!((v - want).abs() <= tolerance, "{name} at {at}: {v}, not {want}");
    };
    for at in [0.2, 0.4, 0.8] {
        near("pose.left_elbow.angle", at, 180.0 - 90.0 * at, 0.5);
        near("pose.left_elbow.velocity", at, -90.0, 1.0);
        near("pose.right_elbow.angle", at, 180.0, 0.5);
        near("pose.right_wrist.speed", at, 0.5, 0.01);
        near("pose.left_hip.speed", at, 0.5, 0.01);
        near("pose.trunk.lean", at, 0.0, 0.01);
        near("pose.asymmetry", at, 90.0 * at / 4.0, 0.5);
        let along = std::f64::consts::FRAC_PI_2 * at;
        let wrist =
            (0.5 + 0.25 * std::f64::consts::FRAC_PI_2 * along.cos()).hypot(0.25 * std::f64::consts::FRAC_PI_2 * along.sin());
        near("pose.left_wrist.speed", at, wrist, 0.02);
    }
}

#[test]
fn hidden_landmarks_and_absent_people_are_no_values() {
    let mut pose: Vec<_> = (0..30).map(|i| observed(f64::from(i) / 10.0, person(upright))).collect();
    for o in &mut pose[10..20] {
        o.found[0].landmarks[15].visibility = 0.3; // the left wrist
    }
    pose[25].found[0].world.truncate(3); // too short
    pose[26].found.clear();
    pose.push(observed(f64::NAN, person(upright)));
    let t = fuse(&Tracks { duration: 3.0, pose: Some(pose), ..Tracks::default() }, 25.0);
    assert!(value(&t, "pose.left_elbow.angle", 0.5).is_some());
    assert!(value(&t, "pose.left_elbow.angle", 1.4).is_none() && value(&t, "pose.left_wrist.speed", 1.4).is_none());
    assert!(value(&t, "pose.right_elbow.angle", 1.4).is_some());
    assert!(value(&t, "pose.right_elbow.angle", 2.6).is_none(), "0.3 s between the neighbours");
    assert!(t.columns.iter().flat_map(|c| &c.values).flatten().all(|v| v.is_finite()));
}

/// As of a net that sees the picture alone.
#[test]
fn a_body_without_points_in_metres_has_neither_angles_nor_speeds() {
    let mut pose: Vec<_> = (0..30).map(|i| observed(f64::from(i) / 10.0, person(upright))).collect();
    pose.iter_mut().for_each(|o| o.found[0].world.clear());
    let t = fuse(&Tracks { duration: 3.0, pose: Some(pose), ..Tracks::default() }, 25.0);
    let body = t.columns.iter().filter(|c| c.name.starts_with("pose."));
    let told: Vec<_> = body.filter(|c| c.values.iter().any(Option::is_some)).map(|c| &c.name).collect();
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn pitch_is_never_joined_over_silence_and_accents_stand_out() {
    // 2 s at 10 ms: 200 Hz, unvoiced from 0.9 to 1.0, a hump of four semitones about 1.5
    let f0 = (0..200).map(|i| {
        let t = f64::from(i) / 100.0;
        let hump = 4.0 * (-((t - 1.5) / 0.08f64).powi(2)).exp();
        (!(0.9..1.0).contains(&t)).then_some((200.0 * 2f64.powf(hump / 12.0)) as f32)
    });
    let prosody = Prosody {
        hop: 0.01,
        f0: f0.collect(),
        intensity: vec![60.0; 200],
        pauses: vec![[0.9, 1.0], [0.2, 0.6]],
        ..Prosody::default()
    };
    let word = Word { start: 1.3, end: 1.7, word: " high,".into(), probability: 0.9 };
    let speech = Transcript { segments: vec![Segment { words: vec![word], ..Segment::default() }], ..Transcript::default() };
    let t = fuse(&Tracks { duration: 2.0, prosody: Some(prosody), speech: Some(speech), ..Tracks::default() }, 25.0);
    assert_eq!(value(&t, "prosody.f0", 0.48), Some(200.0));
    assert!(value(&t, "prosody.f0", 0.92).is_none() && value(&t, "prosody.voiced", 0.92) == Some(0.0));
    assert!((value(&t, "prosody.semitones", 1.52).unwrap() - 3.76).abs() < 0.05);
    assert_eq!((value(&t, "speech.speaking", 1.32), value(&t, "speech.speaking", 1.72)), (Some(1.0), Some(0.0)));
    let accents: Vec<_> = t.events(EventKind::PitchAccent).collect();
    assert_eq!(accents.len(), 1);
    let a = accents[0];
    assert!(
        a.label == "high," && (a.value - 4.0).abs() < 0.4 && a.start < 1.5 && a.end > 1.5 && a.end - a.start < 0.2,
        "{a:?}"
    );
    let pauses: Vec<_> = t.events(EventKind::Pause).map(|e| (e.start, e.value)).collect();
    assert_eq!(pauses, [(0.2, 0.4)], "a tenth of a second is no pause");
}

#[test]
fn gestures_beats_and_repetitions_are_found_where_they_are() {
    // The left wrist goes up and down by 0.3 m twice in 2 s: fastest at 0.25, 0.75, ...; both knees bend twice in 4 s.
    let frame = |t: f64| {
        let body = move |i: usize| {
            let [x, y, z] = upright(i);
            let bend = (40.0 - 40.0 * (std::f64::consts::PI * t).cos()).to_radians(); // 0 at 0, 80 degrees at 1 s
            match i {
                15 => [x, y - 0.15 + 0.15 * (std::f64::consts::TAU * t).cos(), z],
                27..=32 => [x, 0.4 + 0.4 * bend.cos(), z + 0.4 * bend.sin()],
                _ => [x, y, z],
            }
        };
        observed(t, person(body))
    };
    let pose = (0..120).map(|i| frame(f64::from(i) / 30.0)).collect();
    let t = fuse(&Tracks { duration: 4.0, pose: Some(pose), ..Tracks::default() }, 25.0);
    let wrist: Vec<_> = t.events(EventKind::GesturePeak).filter(|e| e.label == "left_wrist").collect();
    let middles: Vec<f64> = wrist.iter().map(|e| (e.start + e.end) / 2.0).collect();
    assert_eq!(middles.len(), 8, "{middles:?}");
    for (i, m) in middles.iter().enumerate() {
        assert!((m - (0.25 + 0.5 * i as f64)).abs() < 0.06, "{middles:?}");
    }
    assert!(wrist.iter().all(|e| (e.value - 0.94).abs() < 0.1), "{wrist:?}");
    let knees: Vec<_> = t.events(EventKind::Repetition).filter(|e| e.label == "left_knee").collect();
    assert_eq!(knees.len(), 2);
    assert!((knees[0].start - 1.0).abs() < 0.05 && (knees[1].start - 3.0).abs() < 0.05 && (knees[0].value - 80.0).abs() < 4.0);
    let beats: Vec<f64> = t.events(EventKind::Beat).map(|e| e.start).collect();
    // The legs weigh more than one wrist: the body rests when the knees turn.
    assert!(beats.len() == 3 && beats.iter().zip([1.0, 2.0, 3.0]).all(|(b, t)| (b - t).abs() < 0.07), "{beats:?}");
}

#[test]
fn an_expression_counts_when_it_is_held() {
    let index = |name: &str| EXPRESSIONS.iter().position(|e| *e == name).unwrap();
    let face = |i: usize| {
        let mut p = [0.02f32; 7];
        let t = i as f64 / 25.0;
        let mut leads = |name: &str, by: f32, neutral: f32| (p[index(name)], p[index("neutral")]) = (by, neutral);
        leads("neutral", 0.88, 0.88);
        if (1.0..2.0).contains(&t) {
            leads("happy", 0.85, 0.05);
        }
        if i == 60 {
            leads("sad", 0.85, 0.05); // one frame
        }
        if t > 2.6 {
            leads("angry", 0.47, 0.43); // neither is probable enough
        }
        observed(t, Face { expression: Some(p), score: 1.0, ..Face::default() })
    };
    let t = fuse(&Tracks { duration: 4.0, face: Some((0..100).map(face).collect()), ..Tracks::default() }, 25.0);
    let changes: Vec<_> = t.events(EventKind::ExpressionChange).map(|e| (e.label.as_str(), e.start, e.end)).collect();
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert!(changes[0].0 == "happy" && (changes[0].1 - 1.0).abs() < 0.09 && (changes[0].2 - 2.0).abs() < 0.09, "{changes:?}");
    assert!(changes[1].0 == "neutral" && changes[1].2 == 4.0, "{changes:?}");
}

/// The squats video through MediaPipe's own landmarks.
#[test]
fn squats_are_counted() {
    let folder = std::env::var_os("DREAMSEED_REFERENCE").map(std::path::PathBuf::from);
    let folder = folder.unwrap_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference"));
    let Ok(text) = std::fs::read(folder.join("pose/mediapipe_full_squats.json")) else {
        eprintln!("skipped: no reference landmarks in {}", folder.display());
        return;
    };
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let numbers =
        |v: &serde_json::Value| -> Vec<f32> { v.as_array().unwrap().iter().map(|n| n.as_f64().unwrap() as f32).collect() };
    let frame = |(i, f): (usize, &serde_json::Value)| {
        let landmarks = f["lm"].as_array().unwrap().iter().map(numbers);
        let landmarks = landmarks.map(|n| Landmark { x: n[0], y: n[1], z: n[2], visibility: n[3] }).collect();
        let world = f["world"].as_array().unwrap().iter().map(numbers).map(|n| [n[0], n[1], n[2]]).collect();
        let person = Person { id: 0, score: 1.0, landmarks, world };
        Observed { t: i as f64 / 5.0, width: 720, height: 1280, found: vec![person] }
    };
    let pose = json["frames"].as_array().unwrap().iter().enumerate().map(frame).collect();
    let t = fuse(&Tracks { duration: 13.0, pose: Some(pose), ..Tracks::default() }, 25.0);
    let bottoms = ["left_knee", "right_knee"].map(|knee| -> Vec<(f64, f32)> {
        t.events(EventKind::Repetition).filter(|e| e.label == knee).map(|e| (e.start, e.value)).collect()
    });
    // Three squats. The mean of both knees has a fourth local minimum at 9.6 s: 165.3 degrees between 166.7 and 166.6, less than at
    // 4.4 and 5.0 s (166.0, 165.3), where the person stands as well, arms hanging. The hips do not sink then but rise (0.457 of the
    // picture's height at 9.0 s, 0.453 at 9.6 s, 0.600 in a squat): no shallow repetition either. The third bottom is flat from
    // 11.4 to 12.2 s.
    assert!(bottoms.iter().all(|b| b.len() == 3), "{bottoms:?}");
    for ((left, right), want) in bottoms[0].iter().zip(&bottoms[1]).zip([2.0, 6.7, 11.9]) {
        assert!((0.5 * (left.0 + right.0) - want).abs() <= 0.2, "{bottoms:?}");
        assert!([left, right].iter().all(|b| (b.0 - want).abs() <= 0.3 && (60.0..95.0).contains(&b.1)), "{bottoms:?}");
    }
    let valid = |name: &str| t.column(name).unwrap().values.iter().flatten().count();
    assert!(valid("pose.left_knee.angle") > 315 && valid("pose.energy") > 300);
}
