use std::f64::consts::TAU;

use super::super::{Options, analyse};
use super::*;

fn pool() -> Pool {
    Pool::new(2)
}

/// A voice that says six seconds of changing vowels. `content(t)`: the second of the text that is said at `t`, `None` in a pause.
/// `pitch(u)`: Hz at a second of the text.
fn say(seconds: f64, content: impl Fn(f64) -> Option<f64>, pitch: impl Fn(f64) -> f64) -> Vec<f32> {
    let mut phase = 0.0;
    let sample = |i: usize| {
        let Some(u) = content(i as f64 / 16_000.0) else { return 0.0 };
        let f0 = pitch(u);
        phase += f0 / 16_000.0;
        let formants = [500.0 + 220.0 * (TAU * 1.3 * u).sin(), 1600.0 + 600.0 * (TAU * 0.8 * u + 1.0).sin(), 2900.0];
        let gain = |f: f64| formants.iter().map(|c| 1.0 / (1.0 + ((f - c) / 90.0).powi(2))).sum::<f64>();
        let voiced: f64 = (1..=20).map(|h| gain(f64::from(h) * f0) * (TAU * f64::from(h) * phase).sin()).sum();
        let syllable = (0.5 - 0.5 * (TAU * 3.0 * u).cos()) * (0.7 + 0.3 * (TAU * 0.45 * u).sin());
        (0.2 * syllable * voiced) as f32
    };
    (0..(seconds * 16_000.0) as usize).map(sample).collect()
}

fn melody(u: f64) -> f64 {
    160.0 * ((3.0 * (TAU * 0.5 * u).sin() + 2.0 * (TAU * 1.1 * u).cos()) / 12.0).exp2()
}

fn straight(t: f64) -> Option<f64> {
    Some(t)
}

fn words() -> Vec<Span> {
    let word = |i: i32| Span { label: format!("w{i}"), start: f64::from(i) / 3.0, end: f64::from(i + 1) / 3.0 };
    (0..18).map(word).collect()
}

fn compared(learner: &[f32], teacher: &[f32]) -> Comparison {
    let [l, t] = [learner, teacher].map(|pcm| analyse(&pool(), pcm, &Options::default()));
    let (none, words) = (Vec::new(), words());
    let learner = Voice { pcm: learner, prosody: &l, words: &none };
    compare(&pool(), &learner, &Voice { pcm: teacher, prosody: &t, words: &words }).unwrap()
}

#[test]
fn mfcc_are_librosas() {
    // made by tests/golden/make_mfcc.py
    #[rustfmt::skip]
    let golden: [(usize, [f64; COEFFICIENTS]); 5] = [
        (0, [-200.568, 108.821, 22.903, 21.372, 11.952, 8.671, 4.368, 2.216, 0.055, -1.044, -2.073, -2.525, -2.906]),
        (7, [-360.981, 91.266, 64.032, 28.702, -4.395, -27.636, -38.380, -38.580, -32.499, -24.159, -15.931, -8.598, -2.276]),
        (20, [-196.267, 15.350, -22.531, 1.553, -54.258, -20.274, 16.789, 12.779, 31.270, 20.019, -15.562, -13.798, -15.957]),
        (31, [-343.453, 17.917, -64.374, -43.400, -41.723, 49.582, 71.815, -36.176, -24.936, 1.260, -15.975, 35.075, 11.667]),
        (39, [-243.399, 34.185, -54.249, -6.361, -0.655, 36.772, 4.111, -48.687, 9.285, 29.964, -10.917, 0.587, -9.365]),
    ];
    let sweep = |i: usize| {
        let t = i as f64 / 16_000.0;
        let tone = if t > 0.2 { 0.1 * (TAU * 3100.0 * t).sin() } else { 0.0 };
        (0.3 * (TAU * (200.0 * t + 1500.0 * t * t)).sin() + tone) as f32
    };
    let rows = mfcc(&pool(), &(0..6400).map(sweep).collect::<Vec<_>>());
    assert_eq!(rows.len(), 40);
    for (frame, wanted) in golden {
        for (seen, wanted) in rows[frame].iter().zip(wanted) {
            assert!((f64::from(*seen) - wanted).abs() < 0.02, "frame {frame}: {:?}", rows[frame]);
        }
    }
}

#[test]
fn a_reading_is_like_itself() {
    let pcm = say(6.0, straight, melody);
    let c = compared(&pcm, &pcm);
    assert!(c.path.iter().all(|p| p[0] == p[1]) && c.distance == 0.0 && c.tempo == 1.0);
    for one in [c.pitch_correlation, c.pitch_concordance, c.energy_correlation, c.pitch_range_ratio, c.rhythm] {
        assert!((one.unwrap() - 1.0).abs() < 1e-9, "{one:?}");
    }
    assert_eq!((c.pitch_rmse, c.npvi_difference), (Some(0.0), Some(0.0)));
    assert!(c.words.len() >= 16 && c.words.iter().all(|w| (w.relative - 1.0).abs() < 1e-9));
    assert!(c.pauses_added.is_empty() && c.pauses_missing.is_empty());
}

#[test]
fn tempo_and_register_are_no_difference_of_melody() {
    let teacher = say(6.0, straight, melody);
    let fast = compared(&say(4.8, |t| Some(1.25 * t), melody), &teacher);
    assert!((fast.tempo - 0.8).abs() < 0.016, "{}", fast.tempo);
    assert!(fast.pitch_correlation.unwrap() > 0.95 && fast.rhythm.unwrap() > 0.85, "{fast:?}");
    let high = compared(&say(6.0, straight, |u| 1.4 * melody(u)), &teacher);
    assert!((high.tempo - 1.0).abs() < 0.02 && high.pitch_correlation.unwrap() > 0.95, "{high:?}");
    assert!(high.pitch_rmse.unwrap() < 1.0 && (high.pitch_range_ratio.unwrap() - 1.0).abs() < 0.1);
}

#[test]
fn a_flat_voice_and_a_wrong_turn_are_found() {
    let teacher = say(6.0, straight, melody);
    let flat = compared(&say(6.0, straight, |_| 160.0), &teacher);
    assert!(flat.pitch_range_ratio.unwrap() < 0.2 && flat.pitch_correlation.is_none_or(|r| r < 0.5), "{flat:?}");
    // where a correlation cannot be told of a voice without a shape, or is blind for one whose turns are all too small
    assert!(flat.pitch_concordance.unwrap().abs() < 0.1, "{flat:?}");
    let small = compared(&say(6.0, straight, |u| 160.0 * (melody(u) / 160.0).powf(0.3)), &teacher);
    assert!(small.pitch_correlation.unwrap() > 0.9, "{small:?}");
    let (seen, ratio) = (small.pitch_concordance.unwrap(), small.pitch_range_ratio.unwrap());
    assert!((seen - 2.0 * ratio / (1.0 + ratio * ratio)).abs() < 0.05 && seen < 0.65, "{seen}, range {ratio}");
    // a teacher without a melody sets none
    assert_eq!(compared(&teacher, &say(6.0, straight, |_| 160.0)).pitch_concordance, None);
    // from 3 to 4 s five semitones too high
    let turn = compared(&say(6.0, straight, |u| melody(u) * if (3.0..4.0).contains(&u) { 1.335 } else { 1.0 }), &teacher);
    let Difference { span, semitones } = turn.pitch_difference.unwrap();
    assert!(span[0] > 2.8 && span[1] < 4.2 && semitones > 3.0, "{span:?} {semitones}");
}

#[test]
fn a_stretched_word_and_misplaced_pauses_are_found_where_they_are() {
    let teacher = say(6.0, straight, melody);
    // the word from 2 to 2.333 s takes twice as long
    let slow = |t: f64| {
        Some(if t < 2.0 {
            t
        } else if t < 2.667 {
            2.0 + (t - 2.0) / 2.0
        } else {
            t - 0.3333
        })
    };
    let c = compared(&say(6.333, slow, melody), &teacher);
    let longest = c.words.iter().max_by(|a, b| a.relative.total_cmp(&b.relative)).unwrap();
    assert!(longest.word == "w6" && (1.5..2.5).contains(&longest.ratio), "{:?}", c.words);
    // between two syllables, at 3 s, a stop of 0.8 s
    let stop = |t: f64| if t < 3.0 { Some(t) } else { (t >= 3.8).then_some(t - 0.8) };
    let pausing = say(6.8, stop, melody);
    let c = compared(&pausing, &teacher);
    let [pause] = c.pauses_added.as_slice() else { panic!("{:?}", c.pauses_added) };
    assert!((pause[0] - 3.0).abs() < 0.15 && (pause[1] - 3.8).abs() < 0.15 && c.pauses_missing.is_empty(), "{pause:?}");
    let c = compared(&teacher, &pausing);
    let [place] = c.pauses_missing.as_slice() else { panic!("{:?}", c.pauses_missing) };
    assert!((place[0] - 3.0).abs() < 0.25 && c.pauses_added.is_empty(), "{place:?}");
}

#[test]
fn nothing_to_compare_and_hostile_sound() {
    let teacher = say(2.0, straight, melody);
    let t = analyse(&pool(), &teacher, &Options::default());
    for pcm in [Vec::new(), vec![0.0; 100], vec![f32::NAN; 32_000], vec![f32::INFINITY; 16_000]] {
        let p = analyse(&pool(), &pcm, &Options::default());
        let (learner, teacher) =
            (Voice { pcm: &pcm, prosody: &p, words: &[] }, Voice { pcm: &teacher, prosody: &t, words: &[] });
        for c in [compare(&pool(), &learner, &teacher), compare(&pool(), &teacher, &learner)] {
            assert!(c.is_none_or(|c| c.distance.is_finite() && c.tempo.is_finite()));
        }
    }
    // a click and a sentence: a path from end to end, whatever it means; words that are no times
    let wild = [Span { label: "a".into(), start: f64::NAN, end: 1.0 }, Span { label: "b".into(), start: 9.0, end: -9.0 }];
    let short = say(0.8, straight, melody);
    let p = analyse(&pool(), &short, &Options::default());
    let voice = Voice { pcm: &short, prosody: &p, words: &[] };
    let c = compare(&pool(), &voice, &Voice { pcm: &teacher, prosody: &t, words: &wild }).unwrap();
    assert!(c.words.is_empty() && c.rhythm.is_none() && c.tempo < 1.0, "{}", c.tempo);
    let no_tracks = Prosody::default();
    let _ = compare(&pool(), &Voice { prosody: &no_tracks, ..voice }, &voice);
}
