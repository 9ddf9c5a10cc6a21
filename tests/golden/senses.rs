//! Eyes, people and music beside the engines that their nets and measures come from.

use super::{json, spoken};
use crate::common::{engine, reference, weights};
use dreamseed::extract::view;
use dreamseed::media::{self, Limits};
use dreamseed_models::{face, graph::Network, image::Image, music, pose};
use serde_json::Value;

fn numbers(values: &Value) -> Vec<f32> {
    values.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn picture(path: &std::path::Path) -> media::Frame {
    media::open(path, &Limits::default()).unwrap().frames.remove(0)
}

fn golden() -> Value {
    json(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/iris.json"))
}

/// The iris net on the same pixels as LiteRT: five points of an iris and 71 of the eye, in pixels of the 64 that it sees.
#[test]
fn the_iris_net_is_litert_s() {
    let net = Network::open(&weights("face-iris").join("iris_landmark.tflite")).unwrap();
    let frame = picture(&weights("sample-portrait").join("astronaut.png"));
    let mut session = net.session();
    for crop in golden()["crops"].as_array().unwrap() {
        let [left, top] = ["left", "top"].map(|side| crop[side].as_u64().unwrap() as usize);
        let mirrored = crop["mirrored"].as_bool().unwrap();
        let at = |i: usize| {
            let (x, y) = (i / 3 % 64, i / 3 / 64);
            let x = if mirrored { 63 - x } else { x };
            f32::from(frame.rgb[((top + y) * frame.width as usize + left + x) * 3 + i % 3]) / 255.0
        };
        session.run(engine().pool(), &[&(0..64 * 64 * 3).map(at).collect::<Vec<_>>()]).unwrap();
        for (i, output) in net.outputs().iter().enumerate() {
            let wanted = numbers(&crop["outputs"][&output.name]);
            let apart = session.output(i).iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(session.output(i).len() == wanted.len() && apart < 1e-3, "{left} {}: {apart} pixels", output.name);
        }
    }
}

/// From the picture to the irises: half a pixel of an eye that is 27 pixels wide.
#[test]
fn the_irises_of_a_picture_are_litert_s() {
    let frame = picture(&weights("sample-portrait").join("astronaut.png"));
    let nets = engine().face().unwrap();
    let mut tracker = nets.tracker(face::Options::default());
    let mut look = || tracker.track(engine().pool(), &view(&frame).unwrap(), None).unwrap().remove(0).irises.expect("two eyes");
    look(); // by the detector's region
    let (found, sides) = (look(), [frame.width as f32, frame.height as f32]); // by the mesh's own
    for (eye, wanted) in found.iter().zip(golden()["irises"].as_array().unwrap()) {
        for (point, wanted) in eye.iter().zip(wanted.as_array().unwrap()) {
            let wanted = numbers(wanted);
            let apart = (point[0] * sides[0] - wanted[0]).hypot(point[1] * sides[1] - wanted[1]);
            assert!(apart < 0.5, "{point:?} is {apart} pixels from {wanted:?}");
        }
    }
}

/// Two faces and room for one: the one where the body's head is, not the one that the detector is surer of.
#[test]
fn of_two_faces_the_one_that_matters_is_followed() {
    const SIDE: usize = 256;
    let frame = picture(&weights("sample-portrait").join("astronaut.png"));
    let (wide, left) = (frame.width as usize, 96);
    let row = |y: usize| &frame.rgb[(y * wide + left) * 3..(y * wide + left + SIDE) * 3];
    let turned = |y: usize| row(y).chunks_exact(3).rev().flatten().copied().collect::<Vec<u8>>();
    let rgb: Vec<u8> = (0..SIDE).flat_map(|y| [row(y).to_vec(), turned(y)].concat()).collect();
    let both = Image::new(2 * SIDE as u32, SIDE as u32, &rgb).unwrap();
    let nets = engine().face().unwrap();
    for about in [[0.25, 0.4], [0.75, 0.4]] {
        let mut tracker = nets.tracker(face::Options::default());
        for _ in 0..2 {
            let found = tracker.track(engine().pool(), &both, Some(about)).unwrap();
            let [from, _, to, _] = found[0].bbox;
            assert!(found.len() == 1 && (from..to).contains(&about[0]), "{about:?}: {:?}", found[0].bbox);
        }
    }
    let mut tracker = nets.tracker(face::Options { max_faces: 2, ..Default::default() });
    assert_eq!(tracker.track(engine().pool(), &both, None).unwrap().len(), 2);
}

/// A picture that is no square, as TensorFlow.js was given it: padded to one and averaged by area to 256 x 256.
fn padded_by_area(frame: &media::Frame) -> Vec<f32> {
    const SIDE: usize = 256;
    let (w, h) = (frame.width as usize, frame.height as usize);
    let (side, above) = (w.max(h), w.saturating_sub(h) / 2);
    let step = side as f64 / SIDE as f64;
    let share = |cell: usize, pixel: usize| {
        let (from, to) = (cell as f64 * step, (cell + 1) as f64 * step);
        (to.min(pixel as f64 + 1.0) - from.max(pixel as f64)).max(0.0) / step
    };
    let cells = |cell: usize| (cell as f64 * step) as usize..(((cell + 1) as f64 * step).ceil() as usize).min(side);
    let mut pixels = vec![0.0; SIDE * SIDE * 3];
    for (i, out) in pixels.iter_mut().enumerate() {
        let (x, y, c) = (i / 3 % SIDE, i / 3 / SIDE, i % 3);
        let rows = cells(y).filter(|&r| r >= above && r < above + h);
        let sum = |r: usize| -> f64 {
            cells(x).filter(|&p| p < w).map(|p| share(x, p) * f64::from(frame.rgb[((r - above) * w + p) * 3 + c])).sum()
        };
        *out = rows.map(|r| share(y, r) * sum(r)).sum::<f64>().round() as f32;
    }
    pixels
}

/// Every point of a whole body lies where TensorFlow.js has it. Its scores are the largest that any of the six candidates gives to the
/// cell, ours the person's own: at the right knee another candidate, which is nobody, expects the point nearer.
#[test]
fn a_whole_body_is_found_where_tensorflow_js_finds_it() {
    const RIGHT_KNEE: usize = 14;
    let Some(golden) = reference("pose/movenet-multipose_tfpose_wasm.json") else { return };
    let Some(path) = reference("media/pose.jpg") else { return };
    let wanted = numbers(&json(golden)[0]["data"]);
    let net = pose::MultiPose::open(&weights("movenet-multipose").join("movenet-multipose.json")).unwrap();
    let people = net.find_in(engine().pool(), &mut net.session(), &padded_by_area(&picture(&path))).unwrap();
    for (k, [x, y, score]) in people[0].points.iter().enumerate() {
        let [wy, wx, ws] = [0, 1, 2].map(|i| wanted[3 * k + i]);
        assert!((y - wy).abs() < 2e-3 && (x - wx).abs() < 2e-3, "point {k}: {x} {y}, not {wx} {wy}");
        assert!(*score < ws + 0.02 && (k == RIGHT_KNEE || *score > ws - 0.02), "point {k}: {score}, not {ws}");
    }
}

/// Speech has no beat, though an engine that always gives a tempo gives it one; with a click track under it, the clicks' is found.
#[test]
fn speech_has_no_beat_until_there_are_clicks() {
    let (pool, speech) = (engine().pool(), spoken());
    let alone = music::analyse(pool, &speech);
    assert!(alone.tempo.is_none() && alone.beats.is_empty() && alone.clarity < 0.2, "{:?} {}", alone.tempo, alone.clarity);
    for bpm in [76.0, 104.0, 132.0] {
        let mut mixed: Vec<f32> = speech.iter().map(|v| 0.3 * v).collect();
        for k in 0..(speech.len() as f64 / 16_000.0 * bpm / 60.0) as usize {
            let first = (k as f64 * 60.0 / bpm * 16_000.0) as usize;
            for (i, v) in mixed[first..].iter_mut().take(600).enumerate() {
                *v += 0.5 * (-(i as f32) / 160.0).exp() * (0.4 * i as f32).sin();
            }
        }
        let found = music::analyse(pool, &mixed);
        let tempo = f64::from(found.tempo.unwrap_or(0.0));
        assert!((tempo / bpm - 1.0).abs() < 0.01 && found.clarity > 0.3, "{bpm}: {tempo}, clarity {}", found.clarity);
    }
}
