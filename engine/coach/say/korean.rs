//! Korean sentences, 해요체. Words of a transcript are quoted before a noun (‘…’ 단어를), so that a particle never has to guess how a
//! foreign word sounds.

use super::{
    super::{Direction, Part, PointKind, Topic},
    Facts, Lab, Point,
};

/// A noun with its particle by the final consonant: `josa("무릎", "이", "가")` is 무릎이, `josa("어깨", "이", "가")` 어깨가. With
/// 으로/로 a final ㄹ takes 로. Digits go by how they are read; after other letters the form without a final consonant is taken.
pub fn josa(noun: &str, closed: &str, open: &str) -> String {
    let last = noun.chars().rev().find(|c| c.is_alphanumeric());
    // Index of the final consonant of a precomposed syllable: 0 none, 8 ㄹ (Unicode 3.12, Conjoining Jamo Behavior).
    let coda = match last {
        Some(c @ '가'..='힣') => (c as u32 - '가' as u32) % 28,
        Some('1' | '7' | '8') => 8,
        Some('0' | '3' | '6') => 1,
        _ => 0,
    };
    let takes_closed = coda != 0 && !(coda == 8 && closed == "으로");
    format!("{noun}{}", if takes_closed { closed } else { open })
}

pub(super) fn opening(lab: Lab, overall: Option<f64>) -> String {
    let what = match lab {
        Lab::Speech => "말하기",
        Lab::Dance => "춤",
        Lab::Drama => "연기",
    };
    match overall {
        None => format!("이 영상만으로는 아직 {} 평가하기 어려워요. 먼저 이렇게 바꿔 보세요.", josa(what, "을", "를")),
        Some(s) if s >= 85.0 => {
            format!("아주 좋은 {}. 종합 점수는 100점 만점에 {s:.0}점이에요.", josa(what, "이었어요", "였어요"))
        }
        Some(s) if s >= 60.0 => format!("{}의 바탕이 잘 잡혀 있어요. 종합 점수는 100점 만점에 {s:.0}점이에요.", what),
        Some(s) => format!("{} 차근차근 다듬어 봐요. 종합 점수는 100점 만점에 {s:.0}점이에요.", josa(what, "을", "를")),
    }
}

pub(super) fn closing(points: &[Point]) -> String {
    match points.first().map(|p| (p.kind, p.direction)) {
        Some((_, Direction::Missing)) => "다시 녹화해서 함께 살펴봐요.".into(),
        Some((PointKind::Advice, _)) => "다음에는 첫 번째 내용만 마음에 두고 다시 녹화해 보세요.".into(),
        Some((PointKind::Strength, _)) => "지금처럼 이어 가면서 더 길거나 어려운 것에도 도전해 보세요.".into(),
        None => "이번에는 눈에 띄는 점이 없었어요. 조금 더 길게 녹화하면 더 많이 알 수 있어요.".into(),
    }
}

pub(super) fn sentence(f: &Facts) -> String {
    use Topic::*;
    match f.point.topic {
        ArticulationRate => pace(f),
        PauseRatio => pauses(f),
        LongestPause => longest_pause(f),
        PitchRange => melody(f),
        FinalSlope => ending(f),
        RhythmContrast => rhythm(f),
        WordClarity | WordAccuracy => heard(f),
        OmittedWords | AddedWords | ChangedWords => differing(f),
        WordGoodness => goodness(f),
        MelodyMatch | WordTiming | MisplacedPauses => beside_teacher(f),
        LoudnessVariation => loudness(f),
        Symmetry => symmetry(f),
        Regularity => regularity(f),
        RepetitionDepth => depth(f),
        Fluidity => flow(f),
        Timing => timing(f),
        BeatTiming => beat_timing(f),
        JointAngle => angle(f),
        Amplitude => amplitude(f),
        Expressiveness | ExpressionChanges => face(f),
        GestureRate | GestureSync => gestures(f),
        Congruence => congruence(f),
        NoSpeech | NoPerson | NoFace | TooShort => missing(f),
    }
}

fn pace(f: &Facts) -> String {
    let Facts { v, low, high, a, b, .. } = f;
    match (f.point.direction, &f.teacher) {
        (Direction::High, None) => format!(
            "말이 초당 {v}음절로, 듣기 편한 {low}~{high}음절보다 빨랐어요. {a}초부터 {b}초까지가 가장 빨랐으니, 쉼표마다 짧게 숨을 쉬고 중요한 단어에 시간을 더 주세요."
        ),
        (Direction::Low, None) => format!(
            "말이 초당 {v}음절로, 자연스러운 {low}~{high}음절보다 느렸어요. {a}초부터 {b}초까지가 가장 느렸으니, 한 호흡에 한 구절씩 이어서 말해 보세요."
        ),
        (_, None) => format!("말하는 속도가 듣기 좋아요. 초당 {v}음절로, 자연스러운 {low}~{high}음절 안에 있어요."),
        (Direction::High, Some(t)) => format!(
            "말이 초당 {v}음절로, 선생님의 {t}음절보다 빨랐어요. {a}초부터 {b}초까지를 다시 들으면서 선생님과 같이 말해 보세요."
        ),
        (Direction::Low, Some(t)) => format!(
            "말이 초당 {v}음절로, 선생님의 {t}음절보다 느렸어요. {a}초부터 {b}초까지를 다시 들으면서 그 흐름을 따라 말해 보세요."
        ),
        (_, Some(t)) => format!("선생님과 비슷한 속도로 말했어요. 초당 {v}음절로, 선생님은 {t}음절이에요."),
    }
}

fn pauses(f: &Facts) -> String {
    let Facts { v, low, high, a, b, .. } = f;
    match (f.point.direction, &f.teacher) {
        (Direction::High, None) => format!(
            "쉼이 말한 시간의 {v}%로, 자연스러운 {low}~{high}%보다 많았어요. 가장 긴 쉼은 {a}초에 있으니, 생각이 끝나는 곳까지 이어서 말한 뒤에 쉬어 보세요."
        ),
        (Direction::Low, None) => format!(
            "쉼이 말한 시간의 {v}%로, 자연스러운 {low}~{high}%보다 적었어요. 먼저 {a}초부터 {b}초까지 이어진 부분에서 생각이 끝날 때마다 잠깐 쉬어 보세요."
        ),
        (_, None) => {
            format!("쉼이 알맞아서 듣는 사람이 따라가기 좋아요. 말한 시간의 {v}%로, 자연스러운 {low}~{high}% 안에 있어요.")
        }
        (Direction::High, Some(t)) => format!(
            "쉼이 말한 시간의 {v}%로, 선생님의 {t}%보다 많았어요. 가장 긴 쉼이 있는 {a}초 부근을 한 구절로 이어서 말해 보세요."
        ),
        (Direction::Low, Some(t)) => format!(
            "쉼이 말한 시간의 {v}%로, 선생님의 {t}%보다 적었어요. {a}초부터 {b}초까지 이어진 부분에서 선생님이 쉬는 곳을 찾아 같이 쉬어 보세요."
        ),
        (_, Some(t)) => format!("선생님처럼 알맞게 쉬었어요. 쉼이 말한 시간의 {v}%로, 선생님은 {t}%예요."),
    }
}

fn longest_pause(f: &Facts) -> String {
    let Facts { v, high, a, .. } = f;
    match f.point.kind {
        PointKind::Advice => format!(
            "{a}초에서 {v}초 동안 쉬었는데, {high}초보다 길면 망설이는 것처럼 들려요. 문장을 시작하기 전에 어디서 끝나는지 먼저 훑어보세요."
        ),
        PointKind::Strength => format!("흐름이 끊기지 않았어요. 가장 긴 쉼도 {a}초에서 {v}초뿐이었어요."),
    }
}

fn melody(f: &Facts) -> String {
    let Facts { v, low, high, a, b, .. } = f;
    match (f.point.direction, &f.teacher) {
        (Direction::Low, None) => format!(
            "음높이의 폭이 {v}반음으로, 생동감 있는 {low}~{high}반음보다 좁아서 조금 단조롭게 들려요. {a}초부터 {b}초까지에서 가장 중요한 단어를 골라 목소리를 올려 보세요."
        ),
        (Direction::High, None) => format!(
            "음높이의 폭이 {v}반음으로, 보통의 {low}~{high}반음보다 넓었어요. {a}초부터 {b}초까지 특히 크게 움직이니, 큰 변화는 가장 중요한 단어에 아껴 두세요."
        ),
        (_, None) => {
            format!("목소리에 가락이 살아 있어요. 음높이의 폭이 {v}반음으로, 생동감 있는 {low}~{high}반음 안에 있어요.")
        }
        (Direction::Low, Some(t)) => format!(
            "음높이의 폭이 {v}반음으로, 선생님의 {t}반음보다 좁았어요. {a}초부터 {b}초까지의 가락을 먼저 흥얼거린 다음 그 위에 말을 얹어 보세요."
        ),
        (Direction::High, Some(t)) => format!(
            "음높이의 폭이 {v}반음으로, 선생님의 {t}반음보다 넓었어요. {a}초부터 {b}초까지를 조금 더 잔잔하게 다시 말해 보세요."
        ),
        (_, Some(t)) => format!("음높이의 폭이 선생님과 비슷해요. {v}반음으로, 선생님은 {t}반음이에요."),
    }
}

fn ending(f: &Facts) -> String {
    let Facts { v, a, .. } = f;
    match (f.point.direction, &f.teacher) {
        (Direction::High, None) => format!(
            "{a}초에서 문장 끝의 음높이가 초당 {v}반음씩 올라가서 물어보는 말처럼 들려요. 마지막 단어를 편안하게 내려놓아 보세요."
        ),
        (Direction::High, Some(t)) => format!(
            "{a}초에서 문장 끝의 음높이가 초당 {v}반음씩 올라갔는데, 선생님은 초당 {t}반음씩 내려갔어요. 마지막 단어를 편안하게 내려놓아 보세요."
        ),
        (Direction::Low, Some(t)) => format!(
            "{a}초에서 문장 끝의 음높이가 초당 {v}반음씩 내려갔는데, 선생님은 초당 {t}반음씩 올라갔어요. 마지막 단어를 살짝 올려 보세요."
        ),
        _ => format!("문장을 또렷하게 마무리했어요. {a}초에서 끝의 음높이가 초당 {v}반음씩 내려갔어요."),
    }
}

fn rhythm(f: &Facts) -> String {
    let Facts { v, low, high, .. } = f;
    match (f.point.direction, &f.teacher) {
        (Direction::Low, None) => format!(
            "긴 모음과 짧은 모음의 대비가 {v}인데, 영어에서 흔한 {low}~{high}보다 작아서 리듬이 고르게 들리니, 강세 있는 모음은 길게 늘이고 나머지는 짧게 말해 보세요."
        ),
        (Direction::High, None) => format!(
            "긴 모음과 짧은 모음의 대비가 {v}인데, 영어에서 흔한 {low}~{high}보다 커서 리듬이 들쭉날쭉하게 들려요. 일정한 박자를 두드리면서 강세 있는 단어를 그 위에 얹어 보세요."
        ),
        (_, None) => {
            format!("영어다운 리듬이에요. 긴 모음과 짧은 모음의 대비가 {v}인데, 흔한 범위인 {low}~{high} 안에 있어요.")
        }
        (Direction::Low, Some(t)) => format!(
            "긴 모음과 짧은 모음의 대비가 {v}인데, 선생님의 {t}보다 작아요. 강세 있는 모음은 길게 늘이고 나머지는 짧게 말해 보세요."
        ),
        (Direction::High, Some(t)) => format!(
            "긴 모음과 짧은 모음의 대비가 {v}인데, 선생님의 {t}보다 커요. 일정한 박자를 두드리면서 강세 있는 단어를 그 위에 얹어 보세요."
        ),
        (_, Some(t)) => {
            format!("리듬이 선생님과 비슷해요. 긴 모음과 짧은 모음의 대비가 {v}인데, 선생님은 {}.", josa(t, "이에요", "예요"))
        }
    }
}

fn heard(f: &Facts) -> String {
    let (clear, unclear, words) = (f.other("clear_words"), f.other("unclear_words"), f.other("words"));
    let (same, expected) = (f.other("words_as_expected"), f.other("expected_words"));
    match (f.point.topic, f.point.kind) {
        (Topic::WordClarity, PointKind::Advice) => format!(
            "단어 {words}개 가운데 {unclear}개가 알아듣기 어려웠어요. {}초의 {}부터 첫소리와 끝소리를 또렷하게 천천히 말한 다음, 원래 속도로 말해 보세요.",
            f.a,
            quoted(&f.point.words[..f.point.words.len().min(1)])
        ),
        (Topic::WordClarity, PointKind::Strength) => {
            format!("발음이 또렷하게 들려요. 단어 {words}개 가운데 {clear}개를 쉽게 알아들을 수 있었어요.")
        }
        (_, PointKind::Advice) => {
            format!(
                "글의 단어 {expected}개 가운데 {same}개가 글대로 들렸어요. 눈을 몇 단어 앞에 두고 천천히 소리 내어 다시 읽어 보세요."
            )
        }
        (_, PointKind::Strength) => format!("글을 충실하게 읽었어요. 단어 {expected}개 가운데 {same}개가 글대로 들렸어요."),
    }
}

fn differing(f: &Facts) -> String {
    let Facts { v, a, b, .. } = f;
    let words = &f.point.words;
    let single = v == "1";
    match (f.point.topic, words.as_slice()) {
        (Topic::ChangedWords, [said, expected]) => format!(
            "{a}초에서 ‘{expected}’ 단어가 ‘{said}’처럼 들렸어요.{} ‘{expected}’ 단어만 편해질 때까지 따로 말한 다음, 문장에 다시 넣어 보세요.",
            if single { String::new() } else { format!(" 이렇게 바뀐 단어가 모두 {v}개예요.") }
        ),
        (Topic::OmittedWords, _) if single => {
            format!(
                "{a}초와 {b}초 사이에서 {} 빠졌어요. 그 구절을 천천히 다시 말하면서 단어마다 자리를 주세요.",
                subject_of(words)
            )
        }
        (Topic::OmittedWords, _) => format!(
            "글의 단어 {v}개가 빠졌는데, {a}초와 {b}초 사이의 {} 그래요. 그 구절을 천천히 다시 말하면서 단어마다 자리를 주세요.",
            subject_of(words)
        ),
        (Topic::AddedWords, _) if single => {
            format!("{a}초에서 글에 없는 {} 들어갔어요. 눈을 조금 앞에 두고 그 구절을 다시 읽어 보세요.", subject_of(words))
        }
        (Topic::AddedWords, _) => {
            format!(
                "글에 없는 단어가 {v}개 들어갔는데, {a}초의 {} 그래요. 눈을 조금 앞에 두고 그 구절을 다시 읽어 보세요.",
                subject_of(words)
            )
        }
        _ => format!("{a}초에서 글과 다른 단어가 들렸어요(모두 {v}개). 그 구절을 천천히 다시 읽어 보세요."),
    }
}

fn goodness(f: &Facts) -> String {
    let (clear, unclear, words) = (f.other("clear_words"), f.other("unclear_words"), f.other("words"));
    match f.point.kind {
        PointKind::Advice => format!(
            "말한 단어 {words}개 가운데 {unclear}개가 글과 다르게 들렸는데, {}초의 {} 가장 그래요. 소리를 하나씩 천천히 말한 다음, 문장에 다시 넣어 보세요.",
            f.a,
            subject_of(&f.point.words[..f.point.words.len().min(1)])
        ),
        PointKind::Strength => format!("발음이 글대로 들려요. 말한 단어 {words}개 가운데 {clear}개가 그랬어요."),
    }
}

fn beside_teacher(f: &Facts) -> String {
    let Facts { v, low, a, b, .. } = f;
    match (f.point.topic, f.point.kind) {
        (Topic::MelodyMatch, PointKind::Advice) => format!(
            "억양 곡선의 상관이 {v}로 {low}보다 작았고, {a}초부터 {b}초까지 선생님과 가장 달랐어요. 그 구절의 가락을 먼저 흥얼거린 다음, 그 위에 단어를 얹어 보세요."
        ),
        (Topic::MelodyMatch, PointKind::Strength) => format!("억양 곡선의 상관이 {v}로, 선생님의 가락을 잘 따라갔어요."),
        (Topic::WordTiming, PointKind::Advice) => format!(
            "단어 길이의 일치가 {v}%로 {low}%보다 작았고, {a}초의 {} 선생님과 가장 달랐어요. 그 부분을 다시 들으면서 함께 말해 보세요.",
            subject_of(&f.point.words)
        ),
        (Topic::WordTiming, PointKind::Strength) => format!("단어 길이의 일치가 {v}%로, 선생님의 리듬을 잘 따라갔어요."),
        _ => format!(
            "쉼 {v}개가 선생님이 이어 말한 곳에 들어갔는데, 가장 긴 것은 {a}초부터 {b}초까지예요. 생각 하나를 끝까지 이어 말한 다음 쉬어 보세요."
        ),
    }
}

/// ‘one’, ‘two’ 단어.
fn quoted(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("‘{w}’")).collect();
    if quoted.is_empty() { "단어".into() } else { format!("{} 단어", quoted.join(", ")) }
}

fn subject_of(words: &[String]) -> String {
    josa(&quoted(words), "이", "가")
}

fn loudness(f: &Facts) -> String {
    let Facts { v, low, high, .. } = f;
    match (f.point.direction, &f.teacher) {
        (Direction::Low, None) => format!(
            "목소리 크기의 변화가 {v} dB로, 생생한 목소리의 {low}~{high} dB보다 작았어요. 속삭일 대사와 맨 뒷줄까지 보낼 대사를 골라 보세요."
        ),
        (Direction::High, None) => format!(
            "목소리 크기의 변화가 {v} dB로, 생생한 목소리의 {low}~{high} dB보다 컸어요. 대사 끝이 사라지지 않게 숨을 조금 남겨 두세요."
        ),
        (_, None) => format!("목소리의 크기를 잘 살렸어요. 변화가 {v} dB로, 생생한 목소리의 {low}~{high} dB 안에 있어요."),
        (Direction::Low, Some(t)) => format!(
            "목소리 크기의 변화가 {v} dB로, 선생님의 {t} dB보다 작았어요. 가장 센 대사는 더 세게, 다음 대사는 부드럽게 해 보세요."
        ),
        (Direction::High, Some(t)) => {
            format!("목소리 크기의 변화가 {v} dB로, 선생님의 {t} dB보다 컸어요. 숨을 고르게 하고 장면을 다시 해 보세요.")
        }
        (_, Some(t)) => format!("목소리 크기를 선생님처럼 살렸어요. 변화가 {v} dB로, 선생님은 {t} dB예요."),
    }
}

fn joint_name(part: Part) -> &'static str {
    match part.joint() {
        "elbow" => "팔꿈치",
        "shoulder" => "어깨",
        "hip" => "엉덩관절",
        _ => "무릎",
    }
}

fn joint(part: Option<Part>) -> String {
    part.map_or_else(|| "몸".into(), |p| format!("{} {}", side(part), joint_name(p)))
}

fn side(part: Option<Part>) -> &'static str {
    if part.is_some_and(Part::is_left) { "왼쪽" } else { "오른쪽" }
}

fn symmetry(f: &Facts) -> String {
    let (left, right) = (f.other("left_range"), f.other("right_range"));
    let name = f.point.part.map_or("몸", joint_name);
    match (f.point.kind, f.point.part.is_some_and(Part::is_left)) {
        (PointKind::Strength, _) => {
            format!("양쪽을 고르게 써요. 왼쪽 {} {left}도, 오른쪽은 {right}도만큼 움직였어요.", josa(name, "은", "는"))
        }
        (_, true) => format!(
            "왼쪽 {} {left}도, 오른쪽은 {right}도만큼 움직여서 왼쪽이 덜 움직였고, {}초에서 가장 뚜렷해요. 거울 앞에서 왼쪽이 이끌도록 천천히 연습해 보세요.",
            josa(name, "은", "는"),
            f.a
        ),
        (_, false) => format!(
            "오른쪽 {} {right}도, 왼쪽은 {left}도만큼 움직여서 오른쪽이 덜 움직였고, {}초에서 가장 뚜렷해요. 거울 앞에서 오른쪽이 이끌도록 천천히 연습해 보세요.",
            josa(name, "은", "는"),
            f.a
        ),
    }
}

fn regularity(f: &Facts) -> String {
    let Facts { v, high, a, .. } = f;
    match (f.point.direction, &f.teacher) {
        (Direction::High, None) => format!(
            "반복 사이의 간격이 {v}% 들쭉날쭉했는데, {high}%까지는 고르게 느껴져요. {a}초에서 가장 흔들리니, 소리 내어 세거나 느린 박자에 맞춰 연습해 보세요."
        ),
        (Direction::High, Some(t)) => format!(
            "반복 사이의 간격이 {v}% 들쭉날쭉해서, 선생님의 {t}%보다 덜 고르게 느껴져요. {a}초에서 가장 흔들리니, 소리 내어 세거나 느린 박자에 맞춰 연습해 보세요."
        ),
        (_, Some(t)) => format!("선생님만큼 박자가 고르네요. 반복 사이의 간격이 {v}%만 달라졌고, 선생님은 {t}%예요."),
        _ => format!("박자가 고르네요. 반복 사이의 간격이 {v}%만 달라졌는데, {high}%까지는 고르게 느껴져요."),
    }
}

fn depth(f: &Facts) -> String {
    let Facts { v, a, high, .. } = f;
    let name = f.point.part.map_or("관절", joint_name);
    let (shallow, deep) = (f.other("shallowest_angle"), f.other("deepest_angle"));
    match f.point.kind {
        PointKind::Advice => format!(
            "반복할 때마다 깊이가 달라요. {a}초에서는 {name} 각도가 {shallow}도였는데, 가장 깊을 때는 {deep}도였어요. 가장 깊은 동작을 기준으로 삼아 매번 그만큼 해 보세요."
        ),
        PointKind::Strength => format!(
            "반복할 때마다 깊이가 거의 같아요. 그때의 {name} 각도가 {v}도만 달라졌는데, {high}도까지는 일정한 편이에요."
        ),
    }
}

fn flow(f: &Facts) -> String {
    let Facts { v, high, a, b, .. } = f;
    match (f.point.direction, &f.teacher) {
        (Direction::High, None) => format!(
            "한 번 반복하는 동안 속도가 {v}번 솟아서, 부드러운 동작의 {high}번보다 많아요. {a}초부터 {b}초까지를 숨을 이어 가며 천천히 해 보세요."
        ),
        (Direction::High, Some(t)) => format!(
            "한 번 반복하는 동안 속도가 {v}번 솟아서, 선생님의 {t}번보다 덜 부드러워요. {a}초부터 {b}초까지를 숨을 이어 가며 천천히 해 보세요."
        ),
        (_, Some(t)) => {
            format!("선생님처럼 동작이 부드럽게 흘러요. 한 번 반복하는 동안 속도가 {v}번 솟았고, 선생님은 {t}번이에요.")
        }
        _ => format!("동작이 부드럽게 흘러요. 한 번 반복하는 동안 속도가 {v}번 솟았는데, {high}번까지는 부드러운 편이에요."),
    }
}

fn beat_timing(f: &Facts) -> String {
    let Facts { v, a, b, .. } = f;
    match f.point.direction {
        Direction::High => format!(
            "음악의 박자보다 평균 {v}초 늦고, {a}초부터 {b}초까지가 가장 늦어요. 앞 동작이 끝나 갈 때 다음 동작을 시작해 보세요."
        ),
        Direction::Low => format!(
            "음악의 박자보다 평균 {v}초 이르고, {a}초부터 {b}초까지가 가장 일러요. 동작을 하나씩 끝까지 마친 다음에 넘어가 보세요."
        ),
        _ => format!("음악의 박자와 잘 맞아요. 차이가 평균 {v}초예요."),
    }
}

fn timing(f: &Facts) -> String {
    let Facts { v, a, b, .. } = f;
    match f.point.direction {
        Direction::High => format!(
            "선생님보다 평균 {v}초 늦고, {a}초부터 {b}초까지가 가장 늦어요. 앞 동작이 끝나 갈 때 다음 동작을 시작해 보세요."
        ),
        Direction::Low => format!(
            "선생님보다 평균 {v}초 이르고, {a}초부터 {b}초까지가 가장 일러요. 동작을 하나씩 끝까지 마친 다음에 넘어가 보세요."
        ),
        _ => format!("선생님과 박자가 잘 맞아요. 차이가 평균 {v}초예요."),
    }
}

fn angle(f: &Facts) -> String {
    let Facts { v, a, b, .. } = f;
    let t = f.teacher.as_deref().unwrap_or("0");
    let part = joint(f.point.part);
    let arm = matches!(f.point.part, Some(Part::LeftShoulder | Part::RightShoulder));
    let side = side(f.point.part);
    match (f.point.direction, arm) {
        (Direction::High, true) => format!(
            "{a}초부터 {b}초까지 {side} 팔이 선생님보다 높아요. 어깨 각도가 {v}도이고 선생님은 {t}도이니, 그 순간에 팔을 조금 내려 보세요."
        ),
        (Direction::Low, true) => format!(
            "{a}초부터 {b}초까지 {side} 팔이 선생님보다 낮아요. 어깨 각도가 {v}도이고 선생님은 {t}도이니, 그 순간에 팔을 더 들어 올려 보세요."
        ),
        (Direction::High, false) => format!(
            "{a}초부터 {b}초까지 {} 선생님보다 펴져 있어요. {v}도이고 선생님은 {t}도이니, 그 순간에 조금 더 굽혀 보세요.",
            josa(&part, "이", "가")
        ),
        (Direction::Low, false) => format!(
            "{a}초부터 {b}초까지 {} 선생님보다 굽혀져 있어요. {v}도이고 선생님은 {t}도이니, 그 순간에 조금 더 펴 보세요.",
            josa(&part, "이", "가")
        ),
        _ => format!("{a}초부터 {b}초까지 {} 선생님과 잘 맞아요. {v}도이고 선생님은 {t}도예요.", josa(&part, "이", "가")),
    }
}

fn amplitude(f: &Facts) -> String {
    let Facts { v, .. } = f;
    let t = f.teacher.as_deref().unwrap_or("0");
    let part = josa(&joint(f.point.part), "은", "는");
    match f.point.direction {
        Direction::High => {
            format!("{part} {v}도만큼 움직여서, 선생님의 {t}도보다 커요. 힘은 그대로 두고 조금 더 작게 움직여 보세요.")
        }
        Direction::Low => format!("{part} {v}도만큼 움직여서, 선생님의 {t}도보다 작아요. 동작을 끝까지 더 크게 해 보세요."),
        _ => format!("{part} 선생님과 비슷한 폭으로 움직였어요. {v}도이고 선생님은 {t}도예요."),
    }
}

fn face(f: &Facts) -> String {
    let Facts { v, low, high, a, b, .. } = f;
    match (f.point.topic, f.point.direction, &f.teacher) {
        (Topic::Expressiveness, Direction::Low, None) => format!(
            "얼굴에 표정이 드러난 시간이 {v}%로, 멀리서도 읽히는 {low}%보다 적었어요. {a}초부터 {b}초까지 표정이 쉬고 있으니, 대사를 말하기 전에 그 마음을 눈부터 떠올려 보세요."
        ),
        (Topic::Expressiveness, Direction::Low, Some(t)) => format!(
            "얼굴에 표정이 드러난 시간이 {v}%로, 선생님의 {t}%보다 적었어요. {a}초부터 {b}초까지 표정이 쉬고 있으니, 대사를 말하기 전에 그 마음을 눈부터 떠올려 보세요."
        ),
        (Topic::Expressiveness, Direction::High, Some(t)) => {
            format!(
                "얼굴에 표정이 드러난 시간이 {v}%로, 선생님의 {t}%보다 많았어요. 생각과 생각 사이에서는 얼굴을 쉬게 해 보세요."
            )
        }
        (Topic::Expressiveness, _, Some(t)) => {
            format!("표정이 선생님만큼 살아 있어요. 표정이 드러난 시간이 {v}%이고, 선생님은 {t}%예요.")
        }
        (Topic::Expressiveness, _, None) => format!("표정이 살아 있어요. 전체 시간의 {v}% 동안 얼굴에 표정이 드러났어요."),
        (_, Direction::Low, None) => format!(
            "표정이 1분에 {v}번 바뀌어서, 생생한 장면의 {low}~{high}번보다 적었어요. 글에서 마음이 바뀌는 곳을 찾아 표정도 함께 바꿔 보세요."
        ),
        (_, Direction::High, None) => format!(
            "표정이 1분에 {v}번 바뀌어서, 생생한 장면의 {low}~{high}번보다 많았어요. 생각이 끝날 때까지 표정을 이어 가 보세요."
        ),
        (_, Direction::Low, Some(t)) => format!(
            "표정이 1분에 {v}번 바뀌어서, 선생님의 {t}번보다 적었어요. 글에서 마음이 바뀌는 곳을 찾아 표정도 함께 바꿔 보세요."
        ),
        (_, Direction::High, Some(t)) => {
            format!("표정이 1분에 {v}번 바뀌어서, 선생님의 {t}번보다 많았어요. 생각이 끝날 때까지 표정을 이어 가 보세요.")
        }
        (_, _, Some(t)) => format!("표정이 선생님만큼 자주 바뀌어요. 1분에 {v}번이고, 선생님은 {t}번이에요."),
        _ => format!("표정이 장면과 함께 바뀌어요. 1분에 {v}번으로, 보통의 {low}~{high}번 안에 있어요."),
    }
}

fn gestures(f: &Facts) -> String {
    let Facts { v, low, high, a, .. } = f;
    match (f.point.topic, f.point.direction, &f.teacher) {
        (Topic::GestureSync, Direction::Low, None) => format!(
            "몸짓의 {v}%가 강조한 말과 만났는데, 자연스러워 보이는 {low}%보다 적어요. {a}초의 몸짓이 빗나갔으니, 몸짓이 말과 함께 도착하게 해 보세요."
        ),
        (Topic::GestureSync, Direction::Low, Some(t)) => format!(
            "몸짓의 {v}%가 강조한 말과 만났는데, 선생님의 {t}%보다 적어요. {a}초의 몸짓이 빗나갔으니, 몸짓이 말과 함께 도착하게 해 보세요."
        ),
        (Topic::GestureSync, _, Some(t)) => {
            format!("선생님처럼 몸짓이 강조한 말과 잘 만나요. 몸짓의 {v}%가 그렇고, 선생님은 {t}%예요.")
        }
        (Topic::GestureSync, ..) => format!("몸짓이 말과 잘 만나요. 몸짓의 {v}%가 강조한 말과 함께 나왔어요."),
        (_, Direction::Low, None) => format!(
            "몸짓이 1분에 {v}번으로, 생생한 장면의 {low}~{high}번보다 적었어요. 대사마다 가장 센 말에 몸이 대답하게 해 보세요."
        ),
        (_, Direction::High, None) => format!(
            "몸짓이 1분에 {v}번으로, 생생한 장면의 {low}~{high}번보다 많았어요. 뜻이 있는 몸짓만 남기고 그 사이에는 가만히 서 보세요."
        ),
        (_, Direction::Low, Some(t)) => {
            format!("몸짓이 1분에 {v}번으로, 선생님의 {t}번보다 적었어요. 대사마다 가장 센 말에 몸이 대답하게 해 보세요.")
        }
        (_, Direction::High, Some(t)) => format!(
            "몸짓이 1분에 {v}번으로, 선생님의 {t}번보다 많았어요. 뜻이 있는 몸짓만 남기고 그 사이에는 가만히 서 보세요."
        ),
        (_, _, Some(t)) => format!("몸짓을 선생님만큼 써요. 1분에 {v}번이고, 선생님은 {t}번이에요."),
        _ => format!("몸짓이 알맞아요. 1분에 {v}번으로, 보통의 {low}~{high}번 안에 있어요."),
    }
}

fn congruence(f: &Facts) -> String {
    let Facts { v, low, .. } = f;
    match (f.point.kind, &f.teacher) {
        (PointKind::Advice, None) => format!(
            "몸과 목소리가 따로 움직여요. 둘의 세기를 견준 상관이 {v}인데, 하나로 느껴지는 {low}보다 낮아요. 가장 큰 소리에서 가장 크게 움직여 보세요."
        ),
        (PointKind::Advice, Some(t)) => format!(
            "몸과 목소리가 선생님보다 따로 움직여요. 둘의 세기를 견준 상관이 {v}인데, 선생님은 {}. 가장 큰 소리에서 가장 크게 움직여 보세요.",
            josa(t, "이에요", "예요")
        ),
        (PointKind::Strength, None) => {
            format!("몸과 목소리가 함께 커지고 함께 잦아들어요. 둘의 세기를 견준 상관이 {}.", josa(v, "이에요", "예요"))
        }
        (PointKind::Strength, Some(t)) => format!(
            "몸과 목소리가 선생님처럼 하나로 움직여요. 둘의 세기를 견준 상관이 {v}인데, 선생님은 {}.",
            josa(t, "이에요", "예요")
        ),
    }
}

fn missing(f: &Facts) -> String {
    let Facts { v, .. } = f;
    let frames = f.other("frames");
    match f.point.topic {
        Topic::NoSpeech if v == "0.0" => "소리가 없어서 목소리를 살펴볼 수 없었어요. 마이크를 켜고 다시 녹화해 보세요.".into(),
        Topic::NoSpeech => format!("{v}초의 소리에서 말을 찾지 못했어요. 마이크에 더 가까이 가서 다시 녹음해 보세요."),
        Topic::NoPerson if frames == "0" => {
            "화면이 없어서 움직임을 살펴볼 수 없었어요. 카메라를 켜고 다시 녹화해 보세요.".into()
        }
        Topic::NoPerson => format!(
            "화면 {frames}장 가운데 {v}장에서만 사람이 보여서 움직임을 살펴보기 어려워요. 밝은 곳에서 온몸이 나오도록 뒤로 물러서 보세요."
        ),
        Topic::NoFace => format!(
            "화면 {frames}장 가운데 {v}장에서만 얼굴이 보여서 표정을 살펴보기 어려워요. 밝은 곳에서 카메라를 바라봐 주세요."
        ),
        _ if f.point.evidence.first().is_some_and(|m| m.name == "person_seconds") => {
            format!("움직임이 {v}초만 보여서 살펴보기에는 너무 짧아요. 조금 더 길게 녹화해 보세요.")
        }
        _ => format!("목소리가 {v}초만 들려서 살펴보기에는 너무 짧아요. 문장을 몇 개 더 말해 보세요."),
    }
}
