//! Pronunciation of Korean, of recordings of several windows, and intonation beside a reference reading.

use super::spoken;
use crate::common::engine;
use dreamseed::media::{self, Limits};
use dreamseed_models::prosody::{self, Comparison, Voice};
use dreamseed_models::whisper::{Kind, Options, Pronunciation, Transcript};
use std::ops::ControlFlow;
use std::process::Command;

const MODEL: Option<&str> = Some("whisper-base");

/// `text` said by espeak-ng; `None` where that is not installed.
fn synthetic(voice: &[&str], text: &str) -> Option<Vec<f32>> {
    let folder = tempfile::tempdir().unwrap();
    let wav = folder.path().join("said.wav");
    let Ok(done) = Command::new("espeak-ng").args(voice).arg("-w").arg(&wav).arg(text).output() else {
        eprintln!("skipped: espeak-ng is not installed");
        return None;
    };
    if !done.status.success() {
        eprintln!("skipped: espeak-ng has no such voice: {}", String::from_utf8_lossy(&done.stderr));
        return None;
    }
    Some(media::open_audio(&wav, &Limits::default()).unwrap())
}

fn heard(pcm: &[f32], language: &str) -> Transcript {
    let options = Options { language: Some(language.into()), word_timestamps: true, vad: false, ..Options::default() };
    engine().transcribe(MODEL, pcm, &options, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn against(pcm: &[f32], heard: &Transcript, text: &str) -> Pronunciation {
    engine().pronunciation(MODEL, pcm, text, heard, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn said(kind: Kind) -> bool {
    matches!(kind, Kind::Correct | Kind::Unclear)
}

/// The expected words that were not said, with what became of them.
fn unsaid(p: &Pronunciation) -> Vec<(&str, Kind)> {
    let word = |w: &'_ &dreamseed_models::whisper::Pronounced| w.expected.is_some() && !said(w.kind);
    p.words.iter().filter(word).map(|w| (w.expected.as_deref().unwrap(), w.kind)).collect()
}

/// Syllables taken apart into conjoining jamo, as in texts from macOS (Unicode, section 3.12).
fn decomposed(text: &str) -> String {
    let jamo = |c: char| match u32::from(c).wrapping_sub(0xac00) {
        s @ 0..11_172 => {
            let [lead, vowel, tail] = [0x1100 + s / 588, 0x1161 + s / 28 % 21, 0x11a7 + s % 28];
            [lead, vowel, tail].into_iter().filter(|j| *j != 0x11a7).filter_map(char::from_u32).collect()
        }
        _ => c.to_string(),
    };
    text.chars().map(jamo).collect()
}

/// The speech is synthetic and half of its words are misheard by the recognizer alone, so that other words may be blamed too.
#[test]
fn korean_words_left_out_and_replaced_are_found() {
    let Some(pcm) = synthetic(&["-v", "ko+m3", "-s", "175"], "우리 가족은 네 명입니다. 아버지와 어머니와 동생이 있습니다.")
    else {
        return;
    };
    let heard = heard(&pcm, "ko");
    let against = |text: &str| against(&pcm, &heard, text);
    // 1. as it is said, composed and decomposed
    let text = "우리 가족은 네 명입니다. 아버지와 어머니와 동생이 있습니다.";
    let plain = against(text);
    assert_eq!(plain.language, "ko");
    assert_eq!(plain, against(&decomposed(text)));
    // 2. one word more, or another word: it is not taken for said
    for (changed, planted) in [
        ("우리 가족은 네 명입니다. 아버지와 어머니와 예쁜 동생이 있습니다.", "예쁜"),
        ("우리 가족은 네 명입니다. 아버지와 할머니와 동생이 있습니다.", "할머니와"),
    ] {
        let p = against(changed);
        assert!(unsaid(&p).iter().any(|(word, _)| *word == planted), "{changed}: {p:?}");
    }
}

/// 61 seconds of real speech in three windows: three phrases in changing order, with pauses.
fn long_reading() -> (Vec<f32>, Vec<&'static str>) {
    let phrases = [
        (0.0, 2.75, "and so my fellow americans"),
        (2.75, 7.35, "ask not what your country can do for you"),
        (7.35, 11.0, "ask what you can do for your country"),
    ];
    let (speech, mut pcm, mut words) = (spoken(), Vec::new(), Vec::new());
    for phrase in [0, 1, 2, 0, 2, 1, 0, 1, 2, 0, 2, 1, 0, 1, 2] {
        let (from, to, text) = phrases[phrase];
        pcm.extend_from_slice(&speech[(from * 16_000.0) as usize..((to * 16_000.0) as usize).min(speech.len())]);
        pcm.extend([0.0; 6_400]);
        words.extend(text.split(' '));
    }
    (pcm, words)
}

/// One word left out, one replaced and one added in each window; at most 2% of the other words are blamed.
#[test]
fn planted_errors_are_found_in_every_window() {
    let (pcm, words) = long_reading();
    assert!(pcm.len() > 60 * 16_000 && words.len() == 110);
    let heard = heard(&pcm, "en");
    // index in what is said: a word put in before it, put in its place, or (empty) taken away
    let planted = [
        (3, Kind::Omitted, "dear"),
        (9, Kind::Substituted, "county"),
        (14, Kind::Inserted, ""),
        (48, Kind::Substituted, "africans"),
        (50, Kind::Inserted, ""),
        (55, Kind::Omitted, "always"),
        (98, Kind::Inserted, ""),
        (100, Kind::Omitted, "perhaps"),
        (109, Kind::Substituted, "company"),
    ];
    let (mut text, mut truth, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for (i, word) in words.iter().enumerate() {
        match planted.iter().find(|p| p.0 == i) {
            Some((_, Kind::Inserted, _)) => added.push(*word),
            Some((_, Kind::Substituted, other)) => text.push((*other, Kind::Substituted)),
            Some((_, kind, more)) => text.extend([(*more, *kind), (*word, Kind::Correct)]),
            None => text.push((*word, Kind::Correct)),
        }
        truth.resize(text.len(), i);
    }
    let p = against(&pcm, &heard, &text.iter().map(|t| t.0).collect::<Vec<_>>().join(" "));
    let expected: Vec<_> = p.words.iter().filter(|w| w.expected.is_some()).collect();
    assert_eq!(expected.len(), text.len());
    let mut blamed = Vec::new();
    for (seen, (word, wanted)) in expected.iter().zip(&text) {
        match wanted {
            Kind::Correct if said(seen.kind) => {}
            Kind::Correct => blamed.push(format!("{word}: {seen:?}")),
            _ => assert_eq!(seen.kind, *wanted, "{word}: {p:?}"),
        }
    }
    // what was added, each near the time at which it is said
    let mut extra: Vec<_> = p.words.iter().filter(|w| w.kind == Kind::Inserted).collect();
    for (word, around) in added.iter().zip([7.8, 28.3, 55.5]) {
        let at = |w: &&dreamseed_models::whisper::Pronounced| {
            w.heard.as_deref().is_some_and(|h| h.eq_ignore_ascii_case(word)) && (w.start - around).abs() < 1.5
        };
        let place = extra.iter().position(at).unwrap_or_else(|| panic!("{word} at {around}: {extra:?}"));
        extra.remove(place);
    }
    blamed.extend(extra.iter().map(|w| format!("added {w:?}")));
    assert!(blamed.len() * 50 <= words.len(), "{blamed:#?}");
}

fn compared(learner: &[f32], teacher: &[f32]) -> Comparison {
    let pool = engine().pool();
    let [l, t] = [learner, teacher].map(|pcm| prosody::analyse(pool, pcm, &prosody::Options::default()));
    let voice = |pcm, prosody| Voice { pcm, prosody, words: &[] };
    prosody::compare(pool, &voice(learner, &l), &voice(teacher, &t)).unwrap()
}

/// The same sentence by the same voice: another tempo and register keep the melody, a smaller range of pitch and a question's rise in
/// place of a fall do not.
#[test]
fn a_flattened_pitch_is_no_match_of_the_melody() {
    let text = "Where are you going tomorrow? I would really like to come along, if you have the time.";
    let ssml = |range: &str| format!("<speak><prosody range=\"{range}\">{text}</prosody></speak>");
    let voice = ["-m", "-v", "en-us", "-s", "150"];
    let Some(teacher) = synthetic(&voice, &ssml("100%")) else { return };
    let by = |voice: &[&str], range: &str| compared(&synthetic(voice, &ssml(range)).unwrap(), &teacher);
    let slower = by(&["-m", "-v", "en-us", "-s", "130"], "100%");
    let higher = by(&["-m", "-v", "en-us", "-s", "150", "-p", "70"], "100%");
    let [half, flat] = ["40%", "0%"].map(|range| by(&voice, range));
    let told = |c: &Comparison| c.pitch_concordance.unwrap();
    println!("slower {:.2}, higher {:.2}, half {:.2}, flat {:.2}", told(&slower), told(&higher), told(&half), told(&flat));
    println!("r {:?}", [&slower, &higher, &half, &flat].map(|c| (c.pitch_correlation, c.pitch_range_ratio)));
    assert!(told(&slower) > 0.85 && told(&higher) > 0.85);
    assert!(told(&half) < told(&slower).min(told(&higher)) - 0.15);
    assert!(told(&flat) < 0.2);
}
