//! Sounds whose beats are known by construction, librosa's results on the same sounds, and sounds without a beat.

use std::f64::consts::TAU;

use serde_json::Value;

use super::*;

/// Seconds, Hz (0 is noise), decay in seconds, amplitude.
type Hit = (f64, f64, f64, f64);

const SECONDS: f64 = 16.0;

/// Uniform noise in -1..1 (xorshift).
fn noise() -> impl FnMut() -> f64 {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// As `sound` of tests/golden/make_music.py.
fn sound(hits: &[Hit], hiss: f64, seconds: f64) -> Vec<f32> {
    let mut noise = noise();
    let mut x = vec![0.0f64; (seconds * RATE) as usize];
    for &(at, hz, decay, amplitude) in hits {
        let first = (at * RATE).ceil() as usize;
        let end = (first + (6.0 * decay * RATE) as usize).min(x.len());
        for (i, x) in x.iter_mut().enumerate().take(end).skip(first) {
            let t = i as f64 / RATE - at;
            let carrier = if hz > 0.0 { (TAU * hz * t).sin() } else { noise() };
            *x += amplitude * (-t / decay).exp() * carrier;
        }
    }
    x.iter().map(|v| (v + hiss * noise()) as f32).collect()
}

fn times(bpm: f64, seconds: f64) -> Vec<f64> {
    (0..((seconds - 0.2) * bpm / 60.0) as usize).map(|k| 0.1 + 60.0 / bpm * k as f64).collect()
}

fn clicks(bpm: f64) -> Vec<Hit> {
    times(bpm, SECONDS).into_iter().map(|t| (t, 1000.0, 0.01, 0.5)).collect()
}

fn drums(bpm: f64, off: f64) -> Vec<Hit> {
    let mut hits = Vec::new();
    for (k, at) in times(bpm, SECONDS).into_iter().enumerate() {
        hits.push(if k % 2 == 1 { (at, 0.0, 0.05, 0.4) } else { (at, 60.0, 0.08, 0.9) });
        hits.push((at + off * 60.0 / bpm, 0.0, 0.01, 0.1));
    }
    hits
}

fn chords(bpm: f64) -> Vec<Hit> {
    let roots = [220.0, 261.63, 196.0, 246.94];
    let chord = |(k, at): (usize, f64)| [1.0, 1.25, 1.5].map(|r| (at, roots[k / 4 % 4] * r, 0.3, 0.15));
    times(bpm, SECONDS).into_iter().enumerate().flat_map(chord).collect()
}

fn faster() -> Vec<Hit> {
    let (mut hits, mut at) = (Vec::new(), 0.1);
    while at < SECONDS - 0.1 {
        hits.push((at, 1000.0, 0.01, 0.5));
        at += 60.0 / if at < 8.0 { 100.0 } else { 112.0 };
    }
    hits
}

fn named(name: &str) -> Vec<f32> {
    let (kind, bpm) = name.split_once(' ').unwrap_or((name, "0"));
    let bpm: f64 = bpm.parse().unwrap();
    let (hits, hiss) = match kind {
        "clicks" => (clicks(bpm), 0.0),
        "drums" => (drums(bpm, 0.5), if bpm > 100.0 { 0.001 } else { 0.0 }),
        "swing" => (drums(bpm, 2.0 / 3.0), 0.0),
        "chords" => (chords(bpm), 0.0),
        "faster" => (faster(), 0.0),
        _ => (clicks(bpm), 0.05),
    };
    sound(&hits, hiss, SECONDS)
}

/// Share of both that has a partner within 70 ms (F-measure of beats, Davies et al. 2009).
fn f_measure(found: &[f64], wanted: &[f64]) -> f64 {
    let met = |a: &[f64], b: &[f64]| a.iter().filter(|t| b.iter().any(|u| (*t - u).abs() <= 0.07)).count() as f64;
    2.0 * met(found, wanted).min(met(wanted, found)) / (found.len() + wanted.len()) as f64
}

fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (ma, mb) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(x, y)| f(x - ma, y - mb)).sum::<f64>();
    sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt()
}

#[test]
fn onsets_tempo_and_beats_are_librosas() {
    let golden: Value = serde_json::from_str(include_str!("librosa.json")).unwrap();
    let pool = Pool::new(2);
    for (name, row) in golden.as_object().unwrap() {
        let pcm = named(name);
        let samples: f64 = pcm.iter().map(|x| f64::from(x.abs())).sum();
        assert!((samples / row["samples"].as_f64().unwrap() - 1.0).abs() < 1e-4, "{name}: not the same sound");
        let numbers = |key: &str| -> Vec<f64> { row[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect() };
        let (envelope, onset) = (onset::strength(&pool, &pcm), numbers("onset"));
        let worst = envelope.iter().zip(&onset).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-3 && pearson(&envelope[..onset.len()], &onset) > 0.9999, "{name}: {worst} dB apart");
        let beat = tempo::estimate(&pool, &envelope).unwrap();
        let bpm = tempo::per_minute(beat.lag as f64);
        assert!((bpm - row["tempo"].as_f64().unwrap()).abs() < 1e-3, "{name}: {bpm}");
        let beats: Vec<f64> = beat::track(&envelope, beat.lag).into_iter().map(|b| b as f64).collect();
        let same = beats.iter().filter(|b| numbers("beats").contains(b)).count();
        assert!(same as f64 >= 0.95 * beats.len().max(numbers("beats").len()) as f64, "{name}: {beats:?}");
        eprintln!("{name}: {worst:.5} dB apart, {same} of {} beats on the same frame", numbers("beats").len());
    }
}

#[test]
fn the_beats_are_where_the_music_has_them() {
    let pool = Pool::new(2);
    for name in ["clicks 60", "clicks 90", "clicks 120", "clicks 150", "drums 96", "swing 110", "chords 80", "noisy 130"] {
        let music = analyse(&pool, &named(name));
        let bpm: f64 = name.split_once(' ').unwrap().1.parse().unwrap();
        let wanted = times(bpm, SECONDS);
        let found = f64::from(music.tempo.unwrap_or(0.0));
        assert!((found / bpm - 1.0).abs() < 0.01, "{name}: {found} beats a minute");
        assert!(f_measure(&music.beats, &wanted) >= 0.95, "{name}: {:?}", music.beats);
        let mut off: Vec<f64> = music
            .beats
            .iter()
            .map(|b| wanted.iter().map(|w| b - w).fold(f64::MAX, |a, d| if d.abs() < a.abs() { d } else { a }))
            .collect();
        off.sort_by(f64::total_cmp);
        let middle = off[off.len() / 2];
        assert!(middle.abs() < 0.015, "{name}: {middle} s beside the hits");
        eprintln!("{name}: {found:.2} a minute, clarity {:.2}, {:.1} ms beside the hits", music.clarity, 1e3 * middle);
    }
    let beats = analyse(&pool, &named("faster")).beats;
    let wanted: Vec<f64> = faster().iter().map(|h| h.0).collect();
    assert!(f_measure(&beats, &wanted) >= 0.95, "{beats:?}");
}

#[test]
fn what_has_no_beat_gets_none() {
    let pool = Pool::new(2);
    assert_eq!(analyse(&pool, &[]), Music { hop: 0.024, ..Music::default() });
    for n in [1, 383, 1536, 160_000] {
        let music = analyse(&pool, &vec![0.0; n]);
        assert!(music.tempo.is_none() && music.beats.is_empty() && music.clarity == 0.0);
        assert_eq!(music.onset.len(), 1 + n / HOP);
    }
    let hiss = analyse(&pool, &sound(&[], 0.3, 20.0));
    assert!(hiss.tempo.is_none() && hiss.beats.is_empty(), "noise: {}", hiss.clarity);
    let steady = analyse(&pool, &sound(&[(0.0, 440.0, 1e3, 0.3)], 0.0, 10.0));
    assert!(steady.tempo.is_none(), "a tone: {}", steady.clarity);
    let mut random = noise();
    let mut at = 0.0;
    let scattered: Vec<Hit> = std::iter::from_fn(|| {
        at += 0.15 + 0.45 * (random() + 1.0);
        (at < 29.0).then_some((at, 1000.0, 0.01, 0.5))
    })
    .collect();
    let scattered = analyse(&pool, &sound(&scattered, 0.0, 30.0));
    assert!(scattered.tempo.is_none(), "hits at any time: {}", scattered.clarity);
    eprintln!("clarity: noise {}, a tone {}, scattered hits {}", hiss.clarity, steady.clarity, scattered.clarity);
    let broken = analyse(&pool, &[f32::NAN, f32::INFINITY, f32::MAX, -1.0].repeat(8000));
    assert!(broken.onset.iter().all(|v| v.is_finite()) && broken.clarity.is_finite());
}

#[test]
fn the_result_does_not_depend_on_threads() {
    let pcm = named("drums 96");
    let (one, three) = (analyse(&Pool::new(1), &pcm), analyse(&Pool::new(3), &pcm));
    assert_eq!(one, three);
}

/// A minute on one thread: the figure of benches/README.md.
#[test]
#[ignore = "a measurement"]
fn a_minute_of_sound() {
    let pool = Pool::new(1);
    let pcm = sound(&drums(110.0, 0.5), 0.01, 60.0);
    let mut best = f64::MAX;
    for _ in 0..10 {
        let start = std::time::Instant::now();
        std::hint::black_box(analyse(&pool, &pcm));
        best = best.min(start.elapsed().as_secs_f64());
    }
    eprintln!("{:.1} ms", 1e3 * best);
}
