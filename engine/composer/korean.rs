//! The checks of a Korean text. Korean drops its subjects and carries meaning in stems and endings, so the checks look for stems in
//! clauses and let the ending say whether a clause states or advises.

use super::{
    check::{self, Fault, Found, Kind, Role},
    claims::{self, Axis, Owner, Subject, Unit},
};
use crate::coach::{Point, PointKind, Topic};

/// A stretch between two boundaries of meaning.
struct Clause<'a> {
    text: &'a str,
    /// Says what to do, by the ending of its own or of its sentence's last verb.
    advises: bool,
    /// Speaks of the teacher: 선생님이, 선생님은 …
    teacher: bool,
}

/// All faults of the text; `plain` has its quotations blanked out.
pub(super) fn check(point: &Point, plain: &str, text: &str) -> Vec<Fault> {
    // Both lengths belong to the name of the contrast and lean no way.
    let plain = plain.replace("긴 모음과 짧은 모음", "모음과 모음");
    let plain = plain.as_str();
    let clauses = clauses(plain);
    let mut faults = check::numbers(point, &found(point, plain));
    faults.extend(persons(point, plain));
    faults.extend(directions(point, &clauses));
    faults.extend(limbs(point, &clauses, plain));
    faults.extend(subjects(point, &clauses, plain));
    faults.extend(polarity(point, &clauses, plain));
    faults.extend(changed_order(point, text));
    faults.extend(manner(plain));
    faults
}

/// Splits at stops and after connective endings. 니, 는데, 지만, 서 close a statement; 고, 면서, 게 lean on what follows.
fn clauses(text: &str) -> Vec<Clause<'_>> {
    let mut clauses = Vec::new();
    for sentence in split_sentences(text) {
        let advising = ["세요", "봐요", "볼까요", "주세요", "합시다", "좋겠어요", "됩니다", "돼요", "해요"].iter().any(|e| {
            let end = sentence.trim_end_matches(|c: char| !c.is_alphabetic());
            // 해요 alone is also a statement ("말해요"); only 필요해요 and 해야 해요 advise.
            if *e == "해요" { end.ends_with("필요해요") || end.ends_with("야 해요") } else { end.ends_with(e) }
        });
        let mut start = 0;
        let mut parts = Vec::new();
        for (i, c) in sentence.char_indices() {
            let end = i + c.len_utf8();
            let before = &sentence[start..i];
            let stop = c == ','
                || c == ' '
                    && ["니", "니까", "는데", "은데", "인데", "지만", "아서", "어서", "여서", "해서", "으며"]
                        .iter()
                        .any(|e| before.ends_with(e));
            if stop {
                parts.push(&sentence[start..end]);
                start = end;
            }
        }
        parts.push(&sentence[start..]);
        let last = parts.len() - 1;
        for (k, part) in parts.into_iter().enumerate() {
            let body = part.trim().trim_end_matches([',', '.', '!', '?']);
            let closes =
                ["니", "니까", "는데", "은데", "인데", "지만", "아서", "어서", "여서", "해서", "으며", "고", "요", "로"]
                    .iter()
                    .any(|e| body.ends_with(e));
            let advises = advising && (k == last || !closes);
            let teacher = ["선생님이", "선생님은", "선생님께서", "선생님도", "선생님의 동작이", "선생님 쪽이"]
                .iter()
                .any(|s| part.contains(s));
            if !body.is_empty() {
                clauses.push(Clause { text: part, advises, teacher });
            }
        }
    }
    clauses
}

/// Sentences by their stops; a stop inside a number ("0.21") ends none.
fn split_sentences(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut start = 0;
    let bytes = text.as_bytes();
    for (i, c) in text.char_indices() {
        if matches!(c, '.' | '!' | '?') && bytes.get(i + 1).is_none_or(u8::is_ascii_whitespace) {
            sentences.push(&text[start..=i]);
            start = i + 1;
        }
    }
    sentences.push(&text[start..]);
    sentences.into_iter().filter(|s| !s.trim().is_empty()).collect()
}

/// What the point's number is held against.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Against {
    Range,
    Teacher,
    /// The teacher, by how far both agree: a bound, not the teacher's own value.
    Agreement,
}

/// Numbers with what follows them; "1초에" and "1분에" are rates, not numbers.
fn found(point: &Point, text: &str) -> Vec<Found> {
    let against = match () {
        () if claims::is_agreement(point) => Against::Agreement,
        () if claims::is_relative(point) => Against::Teacher,
        () => Against::Range,
    };
    let mut found: Vec<Found> = spelled(text);
    for sentence in split_sentences(text) {
        let mut i = 0;
        while let Some(offset) = sentence[i..].find(|c: char| c.is_ascii_digit()) {
            let at = i + offset;
            let rest = &sentence[at..];
            let whole = rest.bytes().take_while(u8::is_ascii_digit).count();
            let decimals = rest[whole..].strip_prefix('.').map_or(0, |r| r.bytes().take_while(u8::is_ascii_digit).count());
            let len = whole + if decimals > 0 { decimals + 1 } else { 0 };
            i = at + len;
            let (before, after) = (&sentence[..at], sentence[i..].trim_start());
            let rate = &rest[..len] == "1" && ["초에", "초당", "분에", "분당", "초마다"].iter().any(|r| after.starts_with(r));
            let Some(value) = rest[..len].parse::<f64>().ok().filter(|_| !rate) else { continue };
            // "6~18반음", "3에서 5.9음절": the unit stands after the second.
            let second = ["~", "-", "–", "에서 ", "부터 "]
                .iter()
                .find_map(|j| after.strip_prefix(j))
                .map(|r| r.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.'));
            let in_range = second.is_some_and(|r| r.len() < after.len()) || before.ends_with(['~', '–', '-']);
            let unit = unit(before, second.filter(|r| unit_word(r)).unwrap_or(after).trim_start());
            let moment = unit == Unit::Seconds
                && ["초에서", "초에 ", "초에는", "초부터", "초까지", "초와", "초 사이", "초쯤", "초 부근", "초에,", "초 지점"]
                    .iter()
                    .any(|m| after.starts_with(m));
            // "2.0초의 몸짓" is a moment, "3.0초의 소리" a length.
            let moment = moment || unit == Unit::Seconds && after.starts_with("초의") && !after.starts_with("초의 소리");
            let role = if moment { Role::Moment } else { Role::Measure };
            found.push(Found { value, decimals, unit, role, owner: owner(before, after, against, in_range) });
        }
    }
    found
}

fn unit_word(after: &str) -> bool {
    ["초", "%", "퍼센트", "프로", "도", "°", "반음", "음절", "dB", "데시벨", "번", "개", "장"]
        .iter()
        .any(|u| after.trim_start().starts_with(u))
}

fn unit(before: &str, after: &str) -> Unit {
    // "초당 6.8음절", "1초에 6.8음절".
    let tail: String = before.chars().rev().take(14).collect::<Vec<_>>().into_iter().rev().collect();
    let per_second = ["초당", "초에", "초마다"].iter().any(|r| tail.contains(r));
    match after {
        a if a.starts_with("초") => Unit::Seconds,
        a if a.starts_with('%') || a.starts_with("퍼센트") || a.starts_with("프로") => Unit::Percent,
        a if a.starts_with("반음") && per_second => Unit::SemitonesPerSecond,
        a if a.starts_with("반음") => Unit::Semitones,
        // The teacher's value after "against" keeps the rate of the first.
        a if a.starts_with("음절") && (per_second || before.contains("초당")) => Unit::SyllablesPerSecond,
        a if a.starts_with('도') || a.starts_with('°') => Unit::Degrees,
        a if a.starts_with("dB") || a.starts_with("데시벨") => Unit::Decibels,
        a if ["음절", "분", "시간", "헤르츠", "Hz", "센티", "미터", "점", "배", "박자", "옥타브", "킬로"]
            .iter()
            .any(|u| a.starts_with(u)) =>
        {
            Unit::Other
        }
        _ => Unit::Plain,
    }
}

/// Native numerals before a counter: 세 번, 두 배.
fn spelled(text: &str) -> Vec<Found> {
    const NATIVE: [(&str, f64); 10] = [
        ("두", 2.0),
        ("세", 3.0),
        ("네", 4.0),
        ("다섯", 5.0),
        ("여섯", 6.0),
        ("일곱", 7.0),
        ("여덟", 8.0),
        ("아홉", 9.0),
        ("열", 10.0),
        ("절반", 0.5),
    ];
    let words: Vec<&str> = text.split_whitespace().collect();
    let counted = |w: &str| ["번", "개", "배", "단어", "초", "도", "음절", "반음", "장"].iter().any(|c| w.starts_with(c));
    let mut found = Vec::new();
    for (i, word) in words.iter().enumerate() {
        for (name, value) in NATIVE {
            let attached = word
                .strip_prefix(name)
                .is_some_and(|rest| !rest.is_empty() && ["번", "개", "배"].iter().any(|c| rest.starts_with(c)));
            if attached
                || *word == name && words.get(i + 1).is_some_and(|w| counted(w))
                || name == "절반" && word.starts_with(name)
            {
                found.push(Found { value, decimals: 0, unit: Unit::Plain, role: Role::Measure, owner: None });
            }
        }
    }
    found
}

/// 선생님의 4.5음절, 선생님은 4.5음절, 4.5음절보다: the teacher's or the range's. 선생님보다 0.21초: the learner's.
fn owner(before: &str, after: &str, kind: Against, in_range: bool) -> Option<Owner> {
    let compared = {
        let noun = after.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '~' | '.' | '-' | '–' | ' '));
        let noun = ["음절", "반음", "%", "퍼센트", "도", "°", "번", " dB", "dB", "초", "개"]
            .iter()
            .find_map(|u| noun.strip_prefix(u))
            .unwrap_or(noun);
        ["보다", "까지", "이 넘", "를 넘", "이상", "이하", "안", " 안", " 이내"].iter().any(|p| noun.starts_with(p))
    };
    if kind == Against::Range {
        return (compared || in_range).then_some(Owner::Target);
    }
    if let Some(i) = before.rfind("선생님") {
        let then = &before[i + "선생님".len()..];
        let comparing = ["보다", "처럼", "과 ", "만큼", "과의"].iter().any(|p| then.starts_with(p));
        let numbered = then.contains(|c: char| c.is_ascii_digit());
        if !comparing && !numbered {
            return Some(Owner::Teacher);
        }
    }
    match (compared, kind) {
        (true, Against::Agreement) => Some(Owner::Target),
        (true, _) => Some(Owner::Teacher),
        _ => Some(Owner::Learner),
    }
}

fn persons(point: &Point, plain: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let relative = claims::is_relative(point);
    for teacher in ["선생", "교사", "강사", "코치", "기준 영상"] {
        if plain.contains(teacher) && !relative {
            faults.push(Fault::new(Kind::Who, "there is no teacher in this comparison"));
            break;
        }
    }
    if relative && !plain.contains("선생님") {
        faults.push(Fault::new(Kind::Who, "the teacher is not named"));
    }
    // "I was late" and "he was late".
    let words = plain.split(|c: char| c.is_whitespace() || c == ',');
    if let Some(w) = words.into_iter().find(|w| {
        ["저는", "제가", "나는", "내가", "저의", "그는", "그녀는", "그가", "우리는", "학생은", "학생이", "학습자는", "학습자가"]
            .contains(w)
    }) {
        faults.push(Fault::new(Kind::Who, format!("“{w}” is not the learner that is spoken to")));
    }
    faults
}

/// Stems by scale; the sign is the end of the scale.
#[rustfmt::skip]
const STEMS: [(&str, &[(Axis, i8)]); 63] = {
    use Axis::*;
    [
        ("빠르", &[(Speed, 1), (Time, -1)]), ("빨라", &[(Speed, 1), (Time, -1)]), ("빨랐", &[(Speed, 1), (Time, -1)]), ("빨리", &[(Speed, 1), (Time, -1)]),
        ("서두르", &[(Speed, 1), (Time, -1)]), ("서둘", &[(Speed, 1), (Time, -1)]), ("급하", &[(Speed, 1)]), ("급히", &[(Speed, 1)]),
        ("느리", &[(Speed, -1), (Time, 1)]), ("느려", &[(Speed, -1), (Time, 1)]), ("느렸", &[(Speed, -1), (Time, 1)]), ("천천히", &[(Speed, -1)]), ("느긋", &[(Speed, -1)]),
        ("늦", &[(Time, 1)]), ("뒤처", &[(Time, 1)]), ("이르", &[(Time, -1)]), ("일러", &[(Time, -1)]), ("일찍", &[(Time, -1)]), ("앞서", &[(Time, -1)]), ("앞섰", &[(Time, -1)]),
        ("넓", &[(Width, 1)]), ("좁", &[(Width, -1)]), ("단조", &[(Width, -1)]), ("밋밋", &[(Width, -1)]),
        ("커요", &[(Width, 1), (Amount, 1)]), ("컸", &[(Width, 1), (Amount, 1)]), ("크게", &[(Width, 1), (Amount, 1)]), ("커서", &[(Width, 1), (Amount, 1)]), ("늘려", &[(Amount, 1), (Width, 1)]),
        ("작아", &[(Width, -1), (Amount, -1)]), ("작았", &[(Width, -1), (Amount, -1)]), ("작게", &[(Width, -1), (Amount, -1)]), ("작은", &[(Width, -1), (Amount, -1)]), ("줄여", &[(Amount, -1), (Width, -1)]),
        ("많", &[(Amount, 1)]), ("자주", &[(Amount, 1)]), ("길게", &[(Amount, 1)]), ("길어", &[(Amount, 1)]), ("길면", &[(Amount, 1)]), ("적었", &[(Amount, -1)]), ("적어", &[(Amount, -1)]), ("적게", &[(Amount, -1)]), ("적은", &[(Amount, -1)]), ("드물", &[(Amount, -1)]), ("짧", &[(Amount, -1)]),
        ("시끄", &[(Loudness, 1)]), ("올라", &[(Contour, 1), (Height, 1)]), ("올려", &[(Contour, 1), (Height, 1)]), ("올렸", &[(Contour, 1), (Height, 1)]), ("들어 올", &[(Height, 1)]),
        ("내려", &[(Contour, -1), (Height, -1)]), ("떨어", &[(Contour, -1), (Height, -1)]), ("내렸", &[(Contour, -1), (Height, -1)]),
        ("높아", &[(Height, 1)]), ("높았", &[(Height, 1)]), ("낮아", &[(Height, -1), (Amount, -1)]), ("낮았", &[(Height, -1), (Amount, -1)]),
        ("펴", &[(Bend, 1)]), ("펼", &[(Bend, 1)]), ("굽", &[(Bend, -1)]), ("구부", &[(Bend, -1)]),
        ("들쭉날쭉", &[(Evenness, 1)]), ("불규칙", &[(Evenness, 1)]),
    ]
};

/// Scales on which a statement is a claim of its own.
const STRONG: [Axis; 7] = [Axis::Speed, Axis::Time, Axis::Loudness, Axis::Contour, Axis::Bend, Axis::Height, Axis::Evenness];

fn directions(point: &Point, clauses: &[Clause]) -> Vec<Fault> {
    let axes: Vec<Axis> = claims::axes(point.topic, point.part).to_vec();
    let sign = claims::sign(point);
    let (mut faults, mut stated) = (Vec::new(), false);
    for clause in clauses {
        for (at, stem, sides) in stems(clause.text) {
            let after = &clause.text[at + stem.len()..];
            if stem == "펴" && clause.text[..at].ends_with('살') || point.topic == Topic::RhythmContrast && clause.advises {
                continue; // 살펴보다; the advice on rhythm speaks of long and short vowels both.
            }
            let Some((_, side)) = sides.iter().find(|s| axes.contains(&s.0)) else {
                let tip = clause.advises || matches!(stem, "넓" | "좁" | "많" | "천천히" | "느긋");
                if !tip
                    && sides.iter().all(|s| STRONG.contains(&s.0))
                    && !matches!(point.topic, Topic::ChangedWords | Topic::NoPerson)
                {
                    faults.push(Fault::new(Kind::Topic, format!("“{stem}” was not measured here")));
                }
                continue;
            };
            let near: String = after.chars().take(7).collect();
            let turned = ["지 않", "지 말", "지는 않", "지도 않"].iter().any(|n| near.contains(n))
                || clause.text[..at].ends_with("안 ")
                || clause.text[..at].ends_with("덜 ");
            let said = if turned { -side } else { *side };
            let expected = match (clause.advises, clause.teacher) {
                (true, _) => -sign,
                (_, true) => -sign,
                _ => sign,
            };
            let wrong = match point.kind {
                PointKind::Strength if sign == 0 => !turned && !clause.advises && !because_of_range(point.topic, stem),
                PointKind::Strength => !clause.advises && said != expected && !because_of_range(point.topic, stem),
                PointKind::Advice => said != expected,
            };
            if wrong {
                faults.push(Fault::new(Kind::Direction, format!("“{stem}”")));
            }
            stated |= !clause.advises && !wrong;
        }
    }
    let spoken = [Axis::Flow, Axis::Clarity, Axis::Union, Axis::Presence, Axis::Evenness];
    if point.kind == PointKind::Advice
        && !axes.is_empty()
        && !stated
        && faults.is_empty()
        && !axes.iter().any(|a| spoken.contains(a))
    {
        faults.push(Fault::new(Kind::Direction, "does not say which way"));
    }
    faults.extend(opposed(point, clauses));
    faults
}

/// Where a stem stands, the stem, and its sides.
type Stem = (usize, &'static str, &'static [(Axis, i8)]);

/// Every stem of the text.
fn stems(text: &str) -> Vec<Stem> {
    STEMS.iter().flat_map(|(stem, sides)| text.match_indices(stem).map(move |(i, _)| (i, *stem, *sides))).collect()
}

/// "가장 긴 쉼도", "자주 바뀌어요": words of quantity that praise may use.
fn because_of_range(topic: Topic, stem: &str) -> bool {
    matches!((topic, stem), (Topic::ExpressionChanges | Topic::GestureRate, "자주"))
}

/// Scales that Korean speaks in phrases: evenness, flow, clarity, togetherness, presence.
fn opposed(point: &Point, clauses: &[Clause]) -> Vec<Fault> {
    let (good, bad): (&[&str], &[&str]) = match point.topic {
        Topic::Regularity => {
            (&["고르네", "고르게 유지", "일정해", "일정했", "안정적"], &["들쭉날쭉", "흔들", "불규칙", "덜 고르"])
        }
        Topic::RepetitionDepth => (&["거의 같", "일정해", "일정했", "고르"], &["깊이가 달라", "들쭉날쭉", "불규칙", "제각각"]),
        Topic::Fluidity => (
            &["부드럽게 흘러", "부드러웠", "매끄러", "매끄럽게 이어"],
            &["덜 부드러", "보다 많", "끊겨", "끊기", "거칠", "뚝뚝"],
        ),
        Topic::WordClarity => {
            (&["또렷하게 들", "잘 들렸", "쉽게 알아들", "분명하게 들렸"], &["어려웠", "불분명", "흐릿", "알아듣기 힘"])
        }
        Topic::Congruence => (&["함께 커지", "하나로 움직", "잘 어울", "같이 움직였"], &["따로 움직", "어긋나", "따로 놀"]),
        Topic::OmittedWords => (&["더했", "들어갔", "추가", "덧붙"], &["빠졌", "빠뜨", "빼먹", "놓쳤"]),
        Topic::AddedWords => (&["빠졌", "빠뜨", "빼먹", "놓쳤"], &["들어갔", "더했", "추가", "덧붙", "없는"]),
        _ => return Vec::new(),
    };
    let praise = point.kind == PointKind::Strength;
    let (wanted, refused) = if praise { (good, bad) } else { (bad, good) };
    let stated = |words: &[&str]| {
        words.iter().find(|w| clauses.iter().any(|c| c.text.contains(**w) && !c.advises)).map(|w| (*w).to_owned())
    };
    match (stated(refused), stated(wanted)) {
        (Some(word), _) => vec![Fault::new(Kind::Direction, format!("“{word}”"))],
        (None, None) if !praise && !clauses.iter().any(|c| wanted.iter().any(|w| c.text.contains(w))) => {
            vec![Fault::new(Kind::Direction, "does not say which way")]
        }
        _ => Vec::new(),
    }
}

const LIMBS: [(&str, &str); 14] = [
    ("무릎", "knee"),
    ("팔꿈치", "elbow"),
    ("어깨", "shoulder"),
    ("엉덩", "hip"),
    ("골반", "hip"),
    ("고관절", "hip"),
    ("다리", "leg"),
    ("손목", "wrist"),
    ("발목", "ankle"),
    ("손", "hand"),
    ("허리", "back"),
    ("허벅지", "leg"),
    ("머리", "head"),
    ("발을", "foot"),
];

fn limbs(point: &Point, clauses: &[Clause], plain: &str) -> Vec<Fault> {
    let own = |limb: &str| match point.part {
        Some(part) => part.joint() == limb || matches!((part.joint(), limb), ("knee" | "hip", "leg")),
        None => false,
    };
    let mut faults = Vec::new();
    let hands = matches!(point.topic, Topic::GestureRate | Topic::GestureSync);
    for (word, limb) in LIMBS {
        if plain.contains(word) && !own(limb) && !(limb == "hand" && (hands || !plain.replace("손목", "").contains("손"))) {
            faults.push(Fault::new(Kind::Limb, format!("“{word}”")));
        }
    }
    let arm = plain.match_indices('팔').any(|(i, _)| !plain[i..].starts_with("팔꿈치"));
    if arm && !point.part.is_some_and(|p| matches!(p.joint(), "elbow" | "shoulder")) && !hands {
        faults.push(Fault::new(Kind::Limb, "“팔”"));
    }
    let (left, right) = (plain.contains("왼"), plain.contains("오른"));
    match point.part {
        Some(part) if point.topic == Topic::Symmetry => {
            let (lesser, other) = if part.is_left() { ("왼", "오른") } else { ("오른", "왼") };
            faults.extend(lesser_side(point, plain));
            let wrong = clauses.iter().any(|c| {
                c.text.rfind("덜").or(c.text.rfind("적게")).is_some_and(|i| {
                    match (c.text[..i].rfind(lesser), c.text[..i].rfind(other)) {
                        (Some(l), Some(o)) => o > l,
                        (None, Some(_)) => true,
                        _ => false,
                    }
                })
            });
            if wrong && point.kind == PointKind::Advice {
                faults.push(Fault::new(Kind::Limb, "less of the wrong side"));
            }
        }
        Some(part) if matches!(point.topic, Topic::JointAngle | Topic::Amplitude) => {
            let (own_side, other) = if part.is_left() { (left, right) } else { (right, left) };
            let named = LIMBS.iter().any(|(w, l)| plain.contains(w) && own(l)) || arm;
            if !own_side || other || !named {
                faults.push(Fault::new(Kind::Limb, "the limb and its side are not the measured ones"));
            }
        }
        _ if left || right => faults.push(Fault::new(Kind::Limb, "a side that was not measured")),
        _ => {}
    }
    faults
}

/// The degrees of a side must be its own.
fn lesser_side(point: &Point, plain: &str) -> Option<Fault> {
    let value = |name: &str| point.evidence.iter().find(|m| m.name == name).map(|m| m.value);
    let (l, r) = (value("left_range")?, value("right_range")?);
    let sides = [("왼", l, r), ("오른", r, l)];
    for (side, own, other) in sides {
        let Some(i) = plain.find(side) else { continue };
        let rest = &plain[i..];
        let digits: String =
            rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        if digits.trim_end_matches('.').parse::<f64>().is_ok_and(|said| (said - other).abs() < (said - own).abs()) {
            return Some(Fault::new(Kind::Limb, format!("{digits} is the other side's")));
        }
    }
    None
}

#[rustfmt::skip]
const NOUNS: [(&str, Subject); 42] = {
    use Subject::*;
    [
        ("속도", Pace), ("음절", Pace), ("빠르", Pace), ("쉼", Pauses), ("쉬었", Pauses), ("멈춤", Pauses), ("침묵", Pauses),
        ("음높이", Pitch), ("억양", Pitch), ("가락", Pitch), ("반음", Pitch), ("높낮이", Pitch), ("리듬", Rhythm), ("박자", Rhythm), ("간격", Rhythm), ("모음", Rhythm),
        ("목소리 크기", Loudness), ("음량", Loudness), ("dB", Loudness), ("발음", Words), ("단어", Words), (" 글", Words), ("Q", Words),
        ("동작", Movement), ("움직", Movement), ("반복", Movement), ("깊이", Movement), ("표정", Face), ("얼굴", Face), ("미소", Face),
        ("몸짓", Gestures), ("제스처", Gestures), ("목소리", Voice), ("말이", Voice), ("말하", Voice), ("문법", Unmeasured), ("어휘", Unmeasured),
        ("자신감", Unmeasured), ("자세가", Unmeasured), ("균형", Unmeasured), ("시선", Unmeasured), ("점수", Unmeasured),
    ]
};

fn subjects(point: &Point, clauses: &[Clause], plain: &str) -> Vec<Fault> {
    let own = claims::subjects(point.topic);
    let mut faults = Vec::new();
    for clause in clauses {
        for (noun, subject) in NOUNS {
            let claimed = !clause.advises && !matches!(subject, Subject::Voice | Subject::Words);
            let loose = matches!(noun, "빠르" | "움직") || subject == Subject::Movement && point.topic == Topic::NoFace;
            if clause.text.contains(noun) && !own.contains(&subject) && !loose && (claimed || subject == Subject::Unmeasured) {
                faults.push(Fault::new(Kind::Topic, format!("“{noun}” was not measured here")));
            }
        }
    }
    let spoken = matches!(point.topic, Topic::NoSpeech | Topic::NoPerson | Topic::NoFace | Topic::TooShort)
        || point.part.is_some()
        || NOUNS.iter().any(|(n, s)| own.contains(s) && plain.contains(n))
        || stems(plain).iter().any(|(_, _, sides)| sides.iter().any(|s| claims::axes(point.topic, point.part).contains(&s.0)));
    if !spoken {
        faults.push(Fault::new(Kind::Topic, "is not about the point"));
    }
    faults
}

fn polarity(point: &Point, clauses: &[Clause], plain: &str) -> Vec<Fault> {
    let words: &[&str] = match point.kind {
        PointKind::Strength => {
            &["아쉬", "부족", "문제", "너무", "잘못", "틀렸", "나빠", "고쳐", "하지만", "지만", "개선", "보완", "실수"]
        }
        PointKind::Advice => &[
            "완벽",
            "훌륭",
            "최고",
            "아주 좋",
            "정말 좋",
            "좋았어요",
            "좋아요",
            "잘했",
            "잘하셨",
            "딱 맞",
            "그대로 유지",
            "이대로",
            "뛰어나",
            "멋져",
            "멋지",
            "자연스러웠",
            "알맞",
        ],
    };
    let stated = |w: &&&str| match point.kind {
        PointKind::Strength => plain.contains(**w) && !plain.contains("너무 빠르지"),
        PointKind::Advice => clauses.iter().any(|c| c.text.contains(**w)),
    };
    const GOING_ON: [&str; 6] = ["유지", "이어", "계속", "지금처럼", "이대로", "즐"];
    const EQUAL: [&str; 9] =
        ["만큼 자주", "비슷", "선생님처럼", "잘 맞", "안에 있", "영어다운", "충실", "글대로 들려요", "잘 따라갔"];
    let unlike = match point.kind {
        PointKind::Strength => {
            clauses.iter().find(|c| c.advises && !GOING_ON.iter().any(|w| c.text.contains(w))).map(|c| c.text)
        }
        PointKind::Advice => EQUAL.iter().copied().find(|w| clauses.iter().any(|c| !c.advises && c.text.contains(w))),
    };
    if let Some(text) = unlike {
        return vec![Fault::new(Kind::Polarity, format!("“{}”", text.trim()))];
    }
    words.iter().find(stated).map(|w| Fault::new(Kind::Polarity, format!("“{w}”"))).into_iter().collect()
}

/// Polite and to the learner: 요 or 니다 at the end of every sentence.
fn manner(plain: &str) -> Vec<Fault> {
    let rude = split_sentences(plain).into_iter().find(|s| {
        let end = s.trim().trim_end_matches(|c: char| !c.is_alphabetic());
        !["요", "니다", "죠", "시다"].iter().any(|e| end.ends_with(e))
    });
    rude.map(|s| Fault::new(Kind::Shape, format!("not in 해요체: {}", s.trim()))).into_iter().collect()
}

/// ‘expected’ 단어가 ‘said’처럼; ‘expected’ 대신 ‘said’.
fn changed_order(point: &Point, text: &str) -> Vec<Fault> {
    let (Topic::ChangedWords, [said, expected]) = (point.topic, point.words.as_slice()) else { return Vec::new() };
    let (Some(s), Some(e)) = (text.find(said.as_str()), text.find(expected.as_str())) else {
        return vec![Fault::new(Kind::Quote, "both words must be named")];
    };
    let between = &text[s.min(e)..s.max(e)];
    let expected_first = e < s;
    let right = if between.contains("처럼") || between.contains("아니라") { !expected_first } else { expected_first };
    let after = &text[s..];
    if right && (after.contains("처럼") || after.contains("들렸") || after.contains("말했") || after.contains("바뀌")) {
        Vec::new()
    } else {
        vec![Fault::new(Kind::Quote, "which word was said and which was expected")]
    }
}
