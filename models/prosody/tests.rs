//! Sounds whose prosody is known by construction, hostile input, and Praat's and librosa's tracks of real speech.

use std::{f64::consts::TAU, path::PathBuf};

use dreamseed_kernels::Pool;

use super::*;

const FIXED: Range = Range::Fixed(Bounds { floor: 45.0, ceiling: 650.0 });

const ADAPTIVE: Range = Range::Adaptive { first: Bounds { floor: 60.0, ceiling: 700.0 }, ceiling: 2.5 };

/// What pYIN may be off by on pure tones: half a bin, and the bias of a difference function that takes what follows the frame for 0.
const PYIN_CENTS: f64 = 20.0;

/// `seconds` of `f(t)`.
fn sound(seconds: f64, f: impl FnMut(f64) -> f64) -> Vec<f32> {
    (0..(seconds * RATE) as usize).map(|i| (i as f64 + 0.5) / RATE).map(f).map(|x| x as f32).collect()
}

fn tone(hz: f64, amplitude: f64, seconds: f64) -> Vec<f32> {
    sound(seconds, |t| amplitude * (TAU * hz * t).sin())
}

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

/// A voice-like sound: a decaying resonance at each pulse (seconds, amplitude).
fn voice(pulses: &[(f64, f64)], seconds: f64) -> Vec<f32> {
    let mut pcm = vec![0.0f32; (seconds * RATE) as usize];
    for &(t0, amplitude) in pulses {
        let first = (t0 * RATE) as usize;
        for (i, x) in pcm.iter_mut().enumerate().skip(first).take(200) {
            let t = (i as f64 + 0.5) / RATE - t0;
            if t > 0.0 {
                *x += (amplitude * (-t * 700.0).exp() * (TAU * 600.0 * t).sin()) as f32;
            }
        }
    }
    pcm
}

fn cents(a: f64, b: f64) -> f64 {
    1200.0 * (a / b).log2().abs()
}

fn pool() -> Pool {
    Pool::new(2)
}

#[test]
fn tones_have_their_frequency() {
    let pyin = Method::Pyin(Pyin::default());
    for hz in [50.0, 75.0, 110.0, 163.7, 220.0, 331.0, 440.0, 523.25, 600.0] {
        let pcm = tone(hz, 0.3, 0.6);
        for (method, tolerance) in [(Method::default(), 0.5), (pyin, PYIN_CENTS)] {
            let (track, _) = f0(&pool(), &pcm, &method, FIXED, 0.01);
            let inner: Vec<_> = (0..track.f0.len()).filter(|&i| (0.1..0.5).contains(&track.time(i))).collect();
            assert!(inner.len() >= 39);
            for i in inner {
                let seen = f64::from(track.f0[i].unwrap_or_else(|| panic!("{hz} Hz unvoiced at frame {i}, {method:?}")));
                assert!(cents(seen, hz) < tolerance, "{seen} for {hz} Hz at frame {i}, {method:?}");
            }
        }
    }
}

#[test]
fn bounds_follow_the_speaker() {
    for hz in [80.0, 120.0, 250.0, 420.0] {
        let vibrato = sound(2.0, |t| {
            let phase = TAU * hz * t - hz * 0.02 / 5.5 * (TAU * 5.5 * t).cos();
            (1..6).map(|k| 0.2 / f64::from(k) * (f64::from(k) * phase).sin()).sum()
        });
        let (track, bounds) = f0(&pool(), &vibrato, &Method::default(), ADAPTIVE, 0.01);
        assert!(cents(bounds.floor, (0.75 * hz).max(60.0)) < 60.0, "{bounds:?} for {hz} Hz");
        for i in 5..track.f0.len() - 5 {
            let want = hz * (1.0 + 0.02 * (TAU * 5.5 * track.time(i)).sin());
            let seen = track.f0[i].map_or(f64::NAN, f64::from);
            assert!(cents(seen, want) < 12.0, "{seen} for {want} Hz at {}", track.time(i));
        }
    }
}

#[test]
fn noise_and_silence_are_unvoiced() {
    let mut random = noise();
    let hiss = sound(2.0, |_| 0.3 * random());
    for method in [Method::default(), Method::Pyin(Pyin::default())] {
        let (track, _) = f0(&pool(), &hiss, &method, Range::Fixed(Bounds::PRAAT), 0.01);
        let voiced = track.f0.iter().flatten().count();
        assert!(voiced * 20 < track.f0.len(), "{voiced} of {} frames of noise are voiced, {method:?}", track.f0.len());
    }
    let silent = analyse(&pool(), &vec![0.0; 16_000], &Options::default());
    assert!(silent.f0.iter().all(Option::is_none) && silent.nuclei.is_empty() && silent.pauses.is_empty());
    assert_eq!(silent.measures, Measures::default());
}

#[test]
fn intensity_is_the_level_over_the_hearing_threshold() {
    for amplitude in [0.5, 0.1, 0.001] {
        let prosody = analyse(&pool(), &tone(200.0, amplitude, 1.0), &Options::default());
        let want = 20.0 * (amplitude / 2f64.sqrt() / 2e-5).log10();
        let inner = &prosody.intensity[10..prosody.intensity.len() - 10];
        assert!(inner.iter().all(|&db| (f64::from(db) - want).abs() < 0.02), "{inner:?}, wanted {want}");
    }
}

#[test]
fn jitter_and_shimmer_are_those_of_the_pulses() {
    for (jitter, shimmer) in [(0.0, 0.0), (0.01, 0.0), (0.02, 0.06), (0.0, 0.1)] {
        let mut random = noise();
        let (mut pulses, mut t) = (Vec::new(), 0.02);
        while t < 2.9 {
            pulses.push((t, 0.5 * (1.0 + shimmer * 1.5 * random())));
            t += 0.008 * (1.0 + jitter * 1.5 * random());
        }
        let periods: Vec<f64> = pulses.windows(2).map(|p| p[1].0 - p[0].0).collect();
        let local = |v: &[f64]| {
            let differences = v.windows(2).map(|p| (p[0] - p[1]).abs()).sum::<f64>() / (v.len() - 1) as f64;
            differences / (v.iter().sum::<f64>() / v.len() as f64)
        };
        let amplitudes: Vec<f64> = pulses.iter().map(|p| p.1).collect();
        let measures = analyse(&pool(), &voice(&pulses, 3.0), &Options::default()).measures;
        let (seen, want) = (f64::from(measures.jitter.unwrap()), local(&periods));
        assert!((seen - want).abs() < 0.0005 + 0.15 * want, "jitter {seen}, true {want}");
        let (seen, want) = (f64::from(measures.shimmer.unwrap()), local(&amplitudes));
        assert!((seen - want).abs() < 0.008 + 0.2 * want, "shimmer {seen}, true {want}");
    }
}

#[test]
fn harmonics_to_noise_ratio_is_that_of_the_mix() {
    for want in [10.0, 20.0, 30.0] {
        let mut random = noise();
        // A tone's power is a^2 / 2, uniform noise's b^2 / 3.
        let b = 0.4 * (1.5f64).sqrt() * 10f64.powf(-want / 20.0);
        let pcm = sound(2.0, |t| 0.4 * (TAU * 150.0 * t).sin() + b * random());
        let seen = analyse(&pool(), &pcm, &Options::default()).measures.hnr.unwrap();
        assert!((f64::from(seen) - want).abs() < 1.2, "{seen} dB, true {want}");
    }
}

#[test]
fn syllables_pauses_and_rates() {
    for rate in [2.5, 4.0, 6.0] {
        // 3 s of syllables, 1 s of near silence, 2 s of syllables, with margins
        let pcm = sound(7.0, |t| {
            let speaks = (0.5..3.5).contains(&t) || (4.5..6.5).contains(&t);
            let phase = if t < 4.0 { t - 0.5 } else { t - 4.5 };
            let envelope = if speaks { (0.5 - 0.5 * (TAU * rate * phase).cos()).powf(0.7) } else { 0.0 };
            (1e-4 + 0.4 * envelope) * ((TAU * 140.0 * t).sin() + 0.4 * (TAU * 280.0 * t).sin())
        });
        let prosody = analyse(&pool(), &pcm, &Options::default());
        let count = prosody.nuclei.len() as f64;
        assert!((count - 5.0 * rate).abs() <= 1.0, "{count} syllables at {rate} a second: {:?}", prosody.nuclei);
        assert_eq!(prosody.pauses.len(), 1, "{:?}", prosody.pauses);
        let [start, end] = prosody.pauses[0];
        assert!((start - 3.5).abs() < 0.12 && (end - 4.5).abs() < 0.12, "{:?}", prosody.pauses);
        let m = &prosody.measures;
        assert!((f64::from(m.articulation_rate.unwrap()) - rate).abs() < 0.12 * rate, "{m:?}");
        assert!((f64::from(m.speech_rate.unwrap()) - rate * 5.0 / 6.0).abs() < 0.12 * rate, "{m:?}");
        assert!((m.pause_ratio.unwrap() - 1.0 / 6.0).abs() < 0.04, "{m:?}");
        assert!(m.npvi.unwrap() < 12.0, "even syllables: {m:?}");
    }
}

#[test]
fn uneven_syllables_have_a_high_npvi() {
    // long 0.30 s, short 0.12 s: nPVI = 200 * 0.18 / 0.42 = 86, less what the thresholds shave off or add
    let pcm = sound(4.2, |t| {
        let t_in = t % 0.42;
        let (start, length) = if t_in < 0.30 { (0.0, 0.30) } else { (0.30, 0.12) };
        let x = (t_in - start) / length;
        (0.002 + 0.4 * (0.5 * TAU * x).sin().powf(0.3)) * ((TAU * 180.0 * t).sin() + 0.3 * (TAU * 360.0 * t).sin())
    });
    let npvi = analyse(&pool(), &pcm, &Options::default()).measures.npvi.unwrap();
    assert!((65.0..110.0).contains(&npvi), "{npvi}");
}

#[test]
fn a_glide_has_its_slope_and_range() {
    for slope in [-10.0, 6.0, 12.0] {
        // phase of f = 200 * 2^(slope t / 12)
        let k = slope / 12.0 * std::f64::consts::LN_2;
        let pcm = sound(1.0, |t| 0.3 * (TAU * 200.0 * ((k * t).exp() - 1.0) / k).sin());
        let m = analyse(&pool(), &pcm, &Options::default()).measures;
        assert!((f64::from(m.final_slope.unwrap()) - slope).abs() < 0.2, "{m:?}");
        assert!((f64::from(m.f0_range_semitones.unwrap()) - 0.9 * slope.abs()).abs() < 0.7, "{m:?}");
    }
}

#[test]
fn hostile_sounds_and_options() {
    let mut random = noise();
    let wild = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1.0, 0.0, f32::MIN_POSITIVE];
    let sounds: Vec<Vec<f32>> = vec![
        vec![],
        vec![0.5],
        vec![0.1; 300],
        tone(200.0, 0.3, 0.041),
        vec![0.7; 16_000],
        vec![f32::NAN; 16_000],
        tone(200.0, 30.0, 1.0).iter().map(|x| x.clamp(-1.0, 1.0)).collect(),
        (0..16_000).map(|i| wild[i * 7 % wild.len()]).collect(),
        (0..16_000).map(|_| wild[((random() + 1.0) * 3.99) as usize]).collect(),
        tone(200.0, 3e38, 1.0),
        tone(200.0, 1e-38, 1.0),
        (0..16_000).map(|i| if i == 8_000 { 1.0 } else { 0.0 }).collect(),
    ];
    let bounds = |floor, ceiling| Range::Fixed(Bounds { floor, ceiling });
    let mut options = vec![Options::default(), Options { method: Method::Pyin(Pyin::default()), ..Options::default() }];
    for range in [bounds(600.0, 75.0), bounds(f64::NAN, f64::INFINITY), bounds(0.0, 0.0), bounds(1e9, 1e9)] {
        for method in [Method::default(), Method::Pyin(Pyin { frame: 0, bins_per_semitone: 0, ..Pyin::default() })] {
            options.push(Options { hop: f64::NAN, range, method, silence_db: f64::NAN, min_dip: -1.0, ..Options::default() });
        }
    }
    for (s, pcm) in sounds.iter().enumerate() {
        for (o, option) in options.iter().enumerate() {
            let p = analyse(&pool(), pcm, option);
            assert!(p.f0.len() == p.voicing.len() && p.f0.len() == p.intensity.len(), "sound {s}, options {o}");
            assert!(
                p.f0.iter().flatten().chain(&p.voicing).chain(&p.intensity).all(|x| x.is_finite()),
                "sound {s}, options {o}"
            );
            let m = &p.measures;
            let all = [m.f0_median, m.final_slope, m.npvi, m.jitter, m.shimmer, m.hnr, m.intensity_mean, m.speech_rate];
            assert!(all.iter().flatten().all(|x| x.is_finite()), "sound {s}, options {o}: {m:?}");
        }
    }
    assert!(analyse(&pool(), &[], &Options::default()).f0.is_empty());
    assert!(analyse(&pool(), &vec![0.7; 16_000], &Options::default()).f0.iter().all(Option::is_none), "DC has no pitch");
}

#[test]
fn threads_do_not_change_the_result_and_long_paths_hold() {
    // 25 s: more frames than one segment of the hidden Markov model
    let pcm = sound(25.0, |t| if t % 0.7 < 0.5 { 0.3 * (TAU * 150.0 * t).sin() } else { 0.0 });
    for method in [Method::default(), Method::Pyin(Pyin::default())] {
        let options = Options { method, range: Range::Fixed(Bounds::PRAAT), ..Options::default() };
        let one = analyse(&Pool::new(1), &pcm, &options);
        assert_eq!(one, analyse(&Pool::new(3), &pcm, &options));
        let wrong = |(i, f): (usize, &Option<f32>)| {
            let phase = (one.start + i as f64 * one.hop) % 0.7;
            (phase > 0.05 && phase < 0.45 && f.is_none_or(|f| cents(f64::from(f), 150.0) > PYIN_CENTS))
                || (phase > 0.55 && phase < 0.65 && f.is_some())
        };
        let wrong: Vec<_> = one.f0.iter().enumerate().filter(|p| wrong(*p)).collect();
        assert!(wrong.is_empty(), "{method:?}: {} wrong frames, first {:?}", wrong.len(), wrong[0]);
    }
}

/// The folder of golden outputs, when it is there.
fn reference() -> Option<PathBuf> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/reference"));
    let folder = std::env::var_os("DREAMSEED_REFERENCE").map_or_else(beside, PathBuf::from);
    if !folder.join("prosody").is_dir() {
        eprintln!("skipped: no reference folder at {}", folder.display());
        return None;
    }
    Some(folder)
}

/// Share of frames of equal voicing; then of the frames voiced in both, the share within 50 cents and the median distance.
fn agreement(ours: &[Option<f32>], theirs: &[Option<f64>]) -> (f64, f64, f64) {
    assert_eq!(ours.len(), theirs.len());
    let same = ours.iter().zip(theirs).filter(|(a, b)| a.is_some() == b.is_some()).count();
    let mut off: Vec<f64> = ours.iter().zip(theirs).filter_map(|(a, b)| Some(cents(f64::from((*a)?), (*b)?))).collect();
    off.sort_by(f64::total_cmp);
    let close = off.iter().filter(|c| **c < 50.0).count() as f64 / off.len() as f64;
    (same as f64 / ours.len() as f64, close, off[off.len() / 2])
}

#[test]
fn real_speech_agrees_with_praat_and_librosa() {
    let Some(folder) = reference() else { return };
    let wav = std::fs::read(folder.join("media/jfk.wav")).unwrap();
    let data = wav.windows(4).position(|w| w == b"data").unwrap() + 8;
    let pcm: Vec<f32> = wav[data..].chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0).collect();
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("prosody/prosody_jfk.json")).unwrap()).unwrap();
    let column = |method: &str| -> Vec<Option<f64>> {
        let values = golden[method]["f0"].as_array().unwrap();
        values.iter().map(|v| v.as_f64().filter(|f| *f > 0.0)).collect()
    };

    let (praat, _) = f0(&pool(), &pcm, &Method::default(), Range::Fixed(Bounds { floor: 75.0, ceiling: 500.0 }), 0.01);
    let (voicing, close, median) = agreement(&praat.f0, &column("praat"));
    assert!(voicing > 0.995 && close > 0.995 && median < 0.1, "Praat: {voicing} {close} {median}");

    let bounds = Bounds { floor: 65.0, ceiling: 500.0 };
    let (pyin, _) = f0(&pool(), &pcm, &Method::Pyin(Pyin::default()), Range::Fixed(bounds), 0.01);
    let (voicing, close, median) = agreement(&pyin.f0, &column("pyin"));
    assert!(voicing > 0.99 && close > 0.99 && median < 5.0, "librosa: {voicing} {close} {median}");

    let measures = analyse(&pool(), &pcm, &Options::default()).measures;
    assert!((measures.f0_median.unwrap() - 236.5).abs() < 3.0, "{measures:?}");
}
