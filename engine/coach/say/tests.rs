use super::{
    super::{Direction, Measure, Part, Point, PointKind, Target, Topic},
    *,
};

/// A point of the topic as the labs make them, with numbers that are easy to find again.
pub(crate) fn point(topic: Topic, direction: Direction, teacher: bool, part: Option<Part>) -> Point {
    let row = topic.row();
    let [low, high] = row.range;
    let joint = matches!(topic, Topic::JointAngle | Topic::Amplitude);
    let (value, target) = match (direction, joint || teacher) {
        (Direction::Missing, _) => (3.0, None),
        (_, true) => {
            let t = if joint { 85.0 } else { low.max(-9.0) + 0.25 * (high.min(60.0) - low.max(-9.0)) };
            let off = row.tolerance + 0.3 * row.width;
            let v = match direction {
                Direction::High => t + off,
                Direction::Low => t - off,
                _ => t + 0.2 * row.tolerance,
            };
            (v, Some(Target::Reference(t)))
        }
        (Direction::High, _) => (high + 0.3 * row.width, Some(Target::Range(low, high))),
        (Direction::Low, _) => (if low > 0.0 { 0.4 * low } else { low - 0.3 * row.width }, Some(Target::Range(low, high))),
        _ => (low.max(-20.0) + 0.6 * (high.min(40.0) - low.max(-20.0)), Some(Target::Range(low, high))),
    };
    let (value, target) = match (topic, target) {
        // The fall at the end: the signs are the point.
        (Topic::FinalSlope, Some(Target::Reference(_))) if direction == Direction::High => {
            (14.0, Some(Target::Reference(-9.0)))
        }
        (Topic::FinalSlope, Some(Target::Reference(_))) => (-14.0, Some(Target::Reference(9.0))),
        (Topic::OmittedWords | Topic::AddedWords | Topic::ChangedWords | Topic::MisplacedPauses, _) => {
            (if teacher { 1.0 } else { 3.0 }, Some(Target::Range(low, high)))
        }
        (_, t) => (value, t),
    };
    let name = if joint { format!("{}_angle", part.map_or("x", Part::name)) } else { topic.name().to_owned() };
    let m = |name: &str, value: f64, unit: &str| Measure {
        name: name.into(),
        value,
        unit: unit.into(),
        target: None,
        span: [0.0, 11.0],
    };
    let mut evidence = vec![Measure { name, value, unit: row.unit.into(), target, span: [0.0, 11.0] }];
    evidence.extend(match topic {
        Topic::WordClarity | Topic::WordGoodness => {
            vec![m("clear_words", 17.0, "count"), m("unclear_words", 5.0, "count"), m("words", 22.0, "count")]
        }
        Topic::WordAccuracy => vec![m("words_as_expected", 19.0, "count"), m("expected_words", 22.0, "count")],
        Topic::Symmetry => vec![m("left_range", 62.0, "deg"), m("right_range", 91.0, "deg")],
        Topic::RepetitionDepth => {
            vec![m("shallowest_angle", 112.0, "deg"), m("deepest_angle", 83.0, "deg"), m("repetitions", 4.0, "count")]
        }
        Topic::PauseRatio => vec![m("pause_count", 6.0, "count")],
        Topic::NoPerson | Topic::NoFace => vec![m("frames", 75.0, "count")],
        _ => Vec::new(),
    });
    let words = match topic {
        Topic::ChangedWords => vec!["county".to_owned(), "country".to_owned()],
        Topic::WordClarity | Topic::OmittedWords | Topic::AddedWords | Topic::WordGoodness | Topic::WordTiming => {
            vec!["fellow".to_owned()]
        }
        _ => Vec::new(),
    };
    let kind = if direction == Direction::Within { PointKind::Strength } else { PointKind::Advice };
    Point { id: 1, topic, direction, part, words, kind, span: [2.0, 4.6], evidence, sentence: String::new(), weight: 0.5 }
}

/// Every topic in every direction that the labs can give it, against the range and against the teacher, with its sentence.
pub(crate) fn every_point(language: Language) -> Vec<Point> {
    use Direction::*;
    let mut points = Vec::new();
    for topic in Topic::ALL {
        let directions: &[Direction] = match topic {
            Topic::NoSpeech | Topic::NoPerson | Topic::NoFace | Topic::TooShort => &[Missing],
            Topic::WordClarity | Topic::WordAccuracy | Topic::Symmetry | Topic::GestureSync | Topic::Congruence => {
                &[Within, Low]
            }
            Topic::WordGoodness | Topic::MelodyMatch | Topic::WordTiming => &[Within, Low],
            Topic::OmittedWords | Topic::AddedWords | Topic::ChangedWords | Topic::MisplacedPauses => &[High],
            Topic::LongestPause | Topic::Regularity | Topic::RepetitionDepth | Topic::Fluidity => &[Within, High],
            Topic::Timing | Topic::BeatTiming | Topic::JointAngle | Topic::Amplitude => &[Within, Low, High],
            Topic::FinalSlope | Topic::Expressiveness => &[Within, Low, High],
            _ => &[Within, Low, High],
        };
        for &direction in directions {
            for teacher in [false, true] {
                let ranged = matches!(
                    topic,
                    Topic::WordClarity | Topic::WordAccuracy | Topic::Symmetry | Topic::LongestPause | Topic::RepetitionDepth
                );
                let impossible = match topic {
                    Topic::FinalSlope => (direction == Low && !teacher) || (direction == Within && teacher),
                    Topic::Expressiveness => direction == High && !teacher,
                    Topic::Timing | Topic::BeatTiming | Topic::WordGoodness | Topic::MelodyMatch => teacher,
                    Topic::WordTiming | Topic::MisplacedPauses => teacher,
                    _ => teacher && (ranged || direction == Missing),
                };
                if impossible {
                    continue;
                }
                let parts: &[Option<Part>] = match topic {
                    Topic::JointAngle | Topic::Amplitude | Topic::Symmetry => &Part::ALL.map(Some),
                    Topic::RepetitionDepth => &[Some(Part::LeftKnee), Some(Part::RightShoulder)],
                    _ => &[None],
                };
                for &part in parts {
                    let mut p = point(topic, direction, teacher, part);
                    p.sentence = sentence(language, &p);
                    points.push(p);
                }
            }
        }
    }
    points
}

#[test]
fn every_sentence_is_complete_in_both_languages() {
    for language in [Language::English, Language::Korean] {
        let points = every_point(language);
        assert!(points.len() > 100, "{}", points.len());
        for p in points {
            let s = &p.sentence;
            for bad in ["{", "}", "  ", "NaN", "inf", "-0", "()", "“”", "‘’", " ,", " .", "..", "null"] {
                assert!(!s.contains(bad), "{bad:?} in {s}");
            }
            assert!(s.chars().count() > 20 && s.chars().count() < 330, "{s}");
            match language {
                Language::English => {
                    assert!(s.ends_with('.') && s.is_char_boundary(1) && !s.chars().any(|c| ('가'..='힣').contains(&c)), "{s}");
                    assert!(s.starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit()), "{s}");
                }
                Language::Korean => {
                    assert!(s.ends_with("요."), "{s}");
                    let foreign = s.replace("dB", "").replace("fellow", "").replace("county", "").replace("country", "");
                    assert!(!foreign.chars().any(|c| c.is_ascii_alphabetic()), "{s}");
                }
            }
        }
    }
}

#[test]
fn the_measured_value_and_its_target_are_in_the_sentence() {
    for language in [Language::English, Language::Korean] {
        for p in every_point(language) {
            let main = &p.evidence[0];
            let (shown, target) = (written(p.topic, main.value), main.target);
            // These speak through their further evidence: counts of words, the two sides, the two depths.
            let by_others = matches!(p.topic, Topic::WordClarity | Topic::WordAccuracy | Topic::Symmetry | Topic::ChangedWords)
                || matches!(p.topic, Topic::OmittedWords | Topic::AddedWords | Topic::WordGoodness)
                || p.topic == Topic::RepetitionDepth && p.kind == PointKind::Advice;
            if by_others {
                continue;
            }
            assert!(p.sentence.contains(&shown), "{shown}: {}", p.sentence);
            if let Some(Target::Reference(r)) = target {
                assert!(p.sentence.contains(&written(p.topic, r)), "{}", p.sentence);
            }
        }
    }
}

#[test]
fn some_sentences_word_for_word() {
    let one = |language, topic, direction, teacher, part| sentence(language, &point(topic, direction, teacher, part));
    let (en, ko) = (Language::English, Language::Korean);
    let knee = Some(Part::LeftKnee);
    assert_eq!(
        one(en, Topic::JointAngle, Direction::High, true, knee),
        "From 2.0 to 4.6 s your left knee is straighter than the teacher's: 110° against 85°. Bend it further at that moment."
            .replace("110", &fixed(85.0 + 12.0 + 13.5, 0))
    );
    assert_eq!(
        one(ko, Topic::JointAngle, Direction::High, true, Some(Part::RightElbow)),
        "2.0초부터 4.6초까지 오른쪽 팔꿈치가 선생님보다 펴져 있어요. 110도이고 선생님은 85도이니, 그 순간에 조금 더 굽혀 보세요."
            .replace("110", &fixed(85.0 + 12.0 + 13.5, 0))
    );
    assert_eq!(
        one(en, Topic::OmittedWords, Direction::High, true, None),
        "You left out “fellow” between 2.0 and 4.6 s. Try the phrase again slowly and give every word its place."
    );
    assert_eq!(
        one(ko, Topic::OmittedWords, Direction::High, true, None),
        "2.0초와 4.6초 사이에서 ‘fellow’ 단어가 빠졌어요. 그 구절을 천천히 다시 말하면서 단어마다 자리를 주세요."
    );
    assert_eq!(
        one(en, Topic::Timing, Direction::High, false, None),
        "You are 0.28 s late against the teacher on average, most of all from 2.0 to 4.6 s. Start the next move while the last one is still ending."
    );
    assert_eq!(
        one(ko, Topic::NoSpeech, Direction::Missing, false, None),
        "3.0초의 소리에서 말을 찾지 못했어요. 마이크에 더 가까이 가서 다시 녹음해 보세요."
    );
}

#[test]
fn particles_follow_the_final_consonant() {
    for (noun, expected) in [
        ("무릎", "무릎이"),
        ("팔꿈치", "팔꿈치가"),
        ("춤", "춤이"),
        ("0.45", "0.45가"),
        ("13", "13이"),
        ("country", "country가"),
        ("", "가"),
    ] {
        assert_eq!(josa(noun, "이", "가"), expected);
    }
    assert_eq!(josa("손", "으로", "로"), "손으로");
    assert_eq!(josa("발", "으로", "로"), "발로");
    assert_eq!(josa("8", "으로", "로"), "8로");
    assert_eq!(josa("단어’", "을", "를"), "단어’를");
}

#[test]
fn openings_and_closings_for_every_score() {
    for lab in [Lab::Speech, Lab::Dance, Lab::Drama] {
        for value in [0.0, 59.9, 60.0, 84.9, 85.0, 100.0] {
            let scores = [Score { name: "overall".into(), value, measures: Vec::new() }];
            assert!(opening(Language::English, lab, &scores).contains(&format!("{value:.0} of 100")));
            assert!(opening(Language::Korean, lab, &scores).contains(&format!("{value:.0}점이에요")));
        }
        assert!(opening(Language::English, lab, &[]).contains("not enough"));
        assert!(opening(Language::Korean, lab, &[]).ends_with("요."));
    }
    assert_eq!(
        opening(Language::Korean, Lab::Dance, &[Score { name: "overall".into(), value: 90.0, measures: vec![] }]),
        "아주 좋은 춤이었어요. 종합 점수는 100점 만점에 90점이에요."
    );
}

#[test]
fn no_zero_has_a_sign() {
    assert_eq!(fixed(-0.04, 1), "0.0");
    assert_eq!(fixed(-0.06, 1), "-0.1");
    assert_eq!(fixed(2.25, 1), "2.2");
}
