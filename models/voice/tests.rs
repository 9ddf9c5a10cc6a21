use super::*;

const TAU: f32 = std::f32::consts::TAU;

fn white(seconds: f32, level: f32, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..(seconds * 16e3) as usize).map(|_| (0..4).map(|_| uniform()).sum::<f32>() * 1.73 * level).collect()
}

/// Noise of -3 dB an octave (Kellet's filter).
fn pink(seconds: f32, level: f32) -> Vec<f32> {
    let (mut a, mut b, mut c) = (0f32, 0f32, 0f32);
    let shape = |x: &f32| {
        a = 0.99765 * a + x * 0.099_046;
        b = 0.963 * b + x * 0.296_516;
        c = 0.57 * c + x * 1.052_691;
        (a + b + c + x * 0.1848) * 0.5
    };
    white(seconds, level, 5).iter().map(shape).collect()
}

/// Four syllables a second: harmonics of a gliding voice under formants, between them consonants of noise.
fn syllables(seconds: f32, level: f32) -> Vec<f32> {
    let hiss = white(seconds, 0.1, 9);
    let mut phase = 0f32;
    let sample = |(i, hiss): (usize, &f32)| {
        let t = i as f32 / 16e3;
        phase += (130.0 + 30.0 * (TAU * 0.7 * t).sin()) / 16e3;
        let formants = [500.0 + 200.0 * (TAU * 1.3 * t).sin(), 1500.0 + 400.0 * (TAU * 0.9 * t).sin()];
        let harmonic = |h: i32| {
            let f = 140.0 * h as f32;
            let gain: f32 = formants.iter().map(|c| (-((f - c) / 150.0).powi(2)).exp()).sum();
            (TAU * phase * h as f32).sin() * (gain + 0.02)
        };
        let envelope = (TAU * 4.0 * t).sin();
        let voiced: f32 = (1..25).map(harmonic).sum::<f32>() * envelope.max(0.0);
        (voiced * 0.3 + hiss * (-envelope).max(0.0)) * level
    };
    hiss.iter().enumerate().map(sample).collect()
}

fn spans(pcm: &[f32]) -> Vec<[f64; 2]> {
    speech(pcm, &Options::default()).iter().map(Span::seconds).collect()
}

#[test]
fn nothing_is_said_in_silence_noise_hum_and_clicks() {
    let hum = |f: f32| -> Vec<f32> {
        let tone = |t: f32, h: i32| (TAU * f * h as f32 * t).sin() / h as f32;
        (0..160_000).map(|i| (1..12).map(|h| tone(i as f32 / 16e3, h)).sum::<f32>() * 0.1).collect()
    };
    let mut click = vec![0.0; 80_000];
    click[40_000..40_020].fill(0.9);
    let late = |noise: Vec<f32>| [vec![0.0; 48_000], noise].concat();
    for (name, pcm) in [
        ("empty", vec![]),
        ("silence", vec![0.0; 160_000]),
        ("rubbish", vec![f32::NAN; 160_000]),
        ("infinite", vec![f32::INFINITY; 160_000]),
        ("offset", vec![0.7; 160_000]),
        ("white", white(10.0, 0.1, 1)),
        ("loud", white(10.0, 1.0, 2)),
        ("soft", white(10.0, 1e-3, 3)),
        ("rounding", white(10.0, 1e-5, 3).iter().map(|x| (x * 32768.0).round() / 32768.0).collect()),
        ("pink", pink(10.0, 0.1)),
        ("hum of 50 Hz", hum(50.0)),
        ("hum of 100 Hz", hum(100.0)),
        ("click", click),
        ("white after silence", late(white(10.0, 0.1, 4))),
        ("pink after silence", late(pink(10.0, 0.1))),
        ("hum after silence", late(hum(50.0))),
    ] {
        assert_eq!(spans(&pcm), [[0.0; 2]; 0], "{name}");
    }
}

#[test]
fn speech_is_found_soft_and_in_noise() {
    for (level, noise) in [(1.0, 0.0), (1.0, 1e-4), (0.03, 0.0), (0.03, 1e-5), (1.0, 0.01), (1.0, 0.02)] {
        let mut pcm = white(14.0, noise, 7);
        pcm[64_000..112_000].iter_mut().zip(syllables(3.0, level)).for_each(|(x, s)| *x += s);
        let found = spans(&pcm);
        assert_eq!(found.len(), 1, "{level} {noise}: {found:?}");
        let [start, end] = found[0];
        assert!((3.3..=4.0).contains(&start) && (7.0..=7.8).contains(&end), "{level} {noise}: {found:?}");
    }
}

#[test]
fn speech_from_the_first_sample_on_is_kept_whole() {
    for seconds in [0.3, 1.0, 12.0] {
        let pcm = syllables(seconds, 0.5);
        let found = spans(&pcm);
        assert!(found.len() == 1 && found[0][0] == 0.0, "{found:?}");
        assert!(found[0][1] > f64::from(seconds) - 0.1, "{found:?}");
    }
}

#[test]
fn only_long_silence_is_cut() {
    let of = |pause: usize| [syllables(2.0, 0.5), vec![0.0; pause * 16_000], syllables(2.0, 0.5)].concat();
    assert_eq!(spans(&of(1)).len(), 1);
    let found = spans(&of(4));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!((2.0..2.6).contains(&found[0][1]) && (5.4..6.01).contains(&found[1][0]), "{found:?}");
    let short = Options { min_silence: 0.5, padding: 9.0 };
    let found = speech(&of(1), &short);
    assert_eq!(found.len(), 2);
    assert!(found[0].end <= found[1].start, "{found:?}");
}

#[test]
fn pieces_of_any_size_give_the_same_spans() {
    let pcm = [white(3.0, 1e-4, 1), syllables(2.0, 0.3), vec![0.0; 50_000], syllables(1.0, 0.3)].concat();
    let whole = speech(&pcm, &Options::default());
    assert_eq!(whole.len(), 2);
    for size in [1, 37, 160, 5000, 40_000] {
        let mut detector = Detector::new(&Options::default());
        let mut found = Vec::new();
        for piece in pcm.chunks(size) {
            detector.push(piece);
            found.extend(detector.closed());
        }
        found.extend(detector.finish());
        assert_eq!(found, whole, "{size}");
    }
    let bad = Options { min_silence: f64::NAN, padding: f64::NAN };
    assert_eq!(speech(&pcm, &bad), whole);
}
