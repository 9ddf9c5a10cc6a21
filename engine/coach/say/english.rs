//! English sentences.

use super::{
    super::{Direction, Part, PointKind, Topic},
    Facts, Lab, Point,
};

pub(super) fn opening(lab: Lab, overall: Option<f64>) -> String {
    let what = match lab {
        Lab::Speech => "speech",
        Lab::Dance => "dance",
        Lab::Drama => "scene",
    };
    match overall {
        None => format!("There is not enough in this clip to score your {what} yet; here is what to change."),
        Some(s) if s >= 85.0 => format!("That was a strong {what}: {s:.0} of 100 overall."),
        Some(s) if s >= 60.0 => format!("Your {what} stands on good ground: {s:.0} of 100 overall."),
        Some(s) => format!("Let us build your {what} up step by step: {s:.0} of 100 overall."),
    }
}

pub(super) fn closing(points: &[Point]) -> String {
    match points.first().map(|p| (p.kind, p.direction)) {
        Some((_, Direction::Missing)) => "Record it once more and we will look at it together.".into(),
        Some((PointKind::Advice, _)) => "For your next try, keep only the first of these in mind and record it again.".into(),
        Some((PointKind::Strength, _)) => "Keep all of this, and try a longer or harder piece next.".into(),
        None => "Nothing stood out this time; a longer clip will tell more.".into(),
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
            "You spoke at {v} syllables a second, faster than the {low} to {high} that is easy to follow, most of all from {a} to {b} s. \
             Take a small breath at each comma and give the important words more time."
        ),
        (Direction::Low, None) => format!(
            "You spoke at {v} syllables a second, slower than the natural {low} to {high}, most of all from {a} to {b} s. \
             Try to say each phrase in a single breath, linking the end of a word to the start of the next."
        ),
        (_, None) => format!("Your pace is easy to follow: {v} syllables a second, inside the natural {low} to {high}."),
        (Direction::High, Some(t)) => format!(
            "You spoke faster than the teacher, {v} syllables a second against {t}, most of all from {a} to {b} s. \
             Play that part again and speak along with it."
        ),
        (Direction::Low, Some(t)) => format!(
            "You spoke slower than the teacher, {v} syllables a second against {t}, most of all from {a} to {b} s. \
             Play that part again and let it carry you along."
        ),
        (_, Some(t)) => format!("You kept the teacher's pace: {v} syllables a second against {t}."),
    }
}

fn pauses(f: &Facts) -> String {
    let Facts { v, low, high, a, b, .. } = f;
    match (f.point.direction, &f.teacher) {
        (Direction::High, None) => format!(
            "Pauses took {v}% of your speaking time, more than the natural {low} to {high}%; the longest is at {a} s. \
             Try to carry each thought to its end before you stop."
        ),
        (Direction::Low, None) => format!(
            "Pauses took only {v}% of your speaking time, less than the natural {low} to {high}%. \
             Give the listener a brief stop after each thought, first in the run from {a} to {b} s."
        ),
        (_, None) => format!(
            "Your pauses give the listener time to follow: {v}% of the speaking time, inside the natural {low} to {high}%."
        ),
        (Direction::High, Some(t)) => format!(
            "You paused more than the teacher, {v}% of the speaking time against {t}%; your longest pause is at {a} s. \
             Try to join the words there into one phrase."
        ),
        (Direction::Low, Some(t)) => format!(
            "You paused less than the teacher, {v}% of the speaking time against {t}%. \
             Listen for the stops, and try one in your run from {a} to {b} s."
        ),
        (_, Some(t)) => format!("You pause as the teacher does: {v}% of the speaking time against {t}%."),
    }
}

fn longest_pause(f: &Facts) -> String {
    let Facts { v, high, a, .. } = f;
    match f.point.kind {
        PointKind::Advice => format!(
            "At {a} s you paused for {v} s, and a pause longer than {high} s sounds like hesitation. \
             Before you start a sentence, look ahead to where it ends."
        ),
        PointKind::Strength => format!("No pause broke your flow: the longest, at {a} s, lasted {v} s."),
    }
}

fn melody(f: &Facts) -> String {
    let Facts { v, low, high, a, b, .. } = f;
    match (f.point.direction, &f.teacher) {
        (Direction::Low, None) => format!(
            "Your pitch range was {v} semitones, narrower than the lively {low} to {high}, so it sounds a little flat, most of all from {a} to {b} s. \
             Choose the most important word there and lift your voice on it."
        ),
        (Direction::High, None) => format!(
            "Your pitch range was {v} semitones, wider than the usual {low} to {high}, most of all from {a} to {b} s. \
             Save the swings for the words that matter most."
        ),
        (_, None) => format!("Your voice has melody: a pitch range of {v} semitones, inside the lively {low} to {high}."),
        (Direction::Low, Some(t)) => format!(
            "Your pitch range was narrower than the teacher's, {v} semitones against {t}, most of all from {a} to {b} s. \
             Hum the melody of that phrase first, then say the words on it."
        ),
        (Direction::High, Some(t)) => format!(
            "Your pitch range was wider than the teacher's, {v} semitones against {t}, most of all from {a} to {b} s. \
             Try that phrase again with smaller steps."
        ),
        (_, Some(t)) => format!("Your pitch range is close to the teacher's: {v} semitones against {t}."),
    }
}

fn ending(f: &Facts) -> String {
    let Facts { v, a, .. } = f;
    match (f.point.direction, &f.teacher) {
        (Direction::High, None) => format!(
            "At {a} s your voice rose at the end, by {v} semitones a second, so the statement sounds like a question. \
             Let the last stressed word fall and rest low."
        ),
        (Direction::High, Some(t)) => format!(
            "At {a} s your voice rose at the end, by {v} semitones a second, where the teacher's fell by {t}. \
             Let the last stressed word fall and rest low."
        ),
        (Direction::Low, Some(t)) => format!(
            "At {a} s your voice fell at the end, by {v} semitones a second, where the teacher's rose by {t}. \
             Let the last word climb a little, as if you left a door open."
        ),
        _ => format!("You ended clearly: your voice fell by {v} semitones a second at the end, at {a} s."),
    }
}

fn rhythm(f: &Facts) -> String {
    let Facts { v, low, high, .. } = f;
    match (f.point.direction, &f.teacher) {
        (Direction::Low, None) => format!(
            "Your rhythm is even: the contrast of long and short vowels is {v}, less than the {low} to {high} usual in English. \
             Stretch the stressed vowels and make the small words short."
        ),
        (Direction::High, None) => format!(
            "Your rhythm is uneven: the contrast of long and short vowels is {v}, more than the {low} to {high} usual in English. \
             Tap a steady beat and place the stressed words on it."
        ),
        (_, None) => {
            format!("Your rhythm sounds English: a contrast of long and short vowels of {v}, inside the usual {low} to {high}.")
        }
        (Direction::Low, Some(t)) => format!(
            "Your rhythm has less contrast of long and short vowels than the teacher's, {v} against {t}. \
             Stretch the stressed vowels and make the small words short."
        ),
        (Direction::High, Some(t)) => format!(
            "Your rhythm has more contrast of long and short vowels than the teacher's, {v} against {t}. \
             Tap a steady beat and place the stressed words on it."
        ),
        (_, Some(t)) => {
            format!("Your rhythm is close to the teacher's: a contrast of long and short vowels of {v} against {t}.")
        }
    }
}

fn heard(f: &Facts) -> String {
    let (clear, unclear, words) = (f.other("clear_words"), f.other("unclear_words"), f.other("words"));
    let (same, expected) = (f.other("words_as_expected"), f.other("expected_words"));
    match (f.point.topic, f.point.kind) {
        (Topic::WordClarity, PointKind::Advice) => format!(
            "{unclear} of {words} words were hard to make out, {} at {} s. \
             Say them slowly with a clear first and last sound, then the way you usually do.",
            if f.count("unclear_words") > 1 {
                format!("such as {}", quoted(&f.point.words[..f.point.words.len().min(1)]))
            } else {
                quoted(&f.point.words)
            },
            f.a
        ),
        (Topic::WordClarity, PointKind::Strength) => {
            format!("Your words come through clearly: {clear} of {words} were easy to recognize.")
        }
        (_, PointKind::Advice) => format!(
            "{same} of the {expected} words of the text came out as written. Read it aloud once more, slowly, with your eyes a few words ahead."
        ),
        (_, PointKind::Strength) => format!("You stayed true to the text: {same} of its {expected} words came out as written."),
    }
}

fn differing(f: &Facts) -> String {
    let Facts { v, a, b, .. } = f;
    let words = &f.point.words;
    let single = v == "1";
    match (f.point.topic, words.as_slice()) {
        (Topic::ChangedWords, [said, expected]) => format!(
            "At {a} s “{expected}” came out as “{said}”{}. Say “{expected}” by itself until it feels easy, then put it back into the sentence.",
            if single { String::new() } else { format!(", one of {v} changed words") }
        ),
        (Topic::OmittedWords, _) if single => {
            format!(
                "You left out {} between {a} and {b} s. Try the phrase again slowly and give every word its place.",
                quoted(words)
            )
        }
        (Topic::OmittedWords, _) => format!(
            "You left out {v} words of the text, among them {} between {a} and {b} s. Try that phrase again slowly and give every word its place.",
            quoted(words)
        ),
        (Topic::AddedWords, _) if single => format!(
            "You added {} at {a} s, which is not in the text. Read the phrase again with your eyes a little ahead.",
            quoted(words)
        ),
        (Topic::AddedWords, _) => {
            format!(
                "You added {v} words that are not in the text, among them {} at {a} s. Read the phrase again with your eyes a little ahead.",
                quoted(words)
            )
        }
        _ => format!("At {a} s the words differ from the text ({v} changed words). Read the phrase again, slowly."),
    }
}

fn goodness(f: &Facts) -> String {
    let (clear, unclear, words) = (f.other("clear_words"), f.other("unclear_words"), f.other("words"));
    match f.point.kind {
        PointKind::Advice => format!(
            "{unclear} of the {words} words that you said came out as something else than written, {} most of all, at {} s. \
             Say it sound by sound first, then put it back into the sentence.",
            quoted(&f.point.words[..f.point.words.len().min(1)]),
            f.a
        ),
        PointKind::Strength => format!("Your words came out as written: {clear} of the {words} that you said."),
    }
}

fn beside_teacher(f: &Facts) -> String {
    let Facts { v, low, a, b, .. } = f;
    match (f.point.topic, f.point.kind) {
        (Topic::MelodyMatch, PointKind::Advice) => format!(
            "Your melody leaves the teacher's: your pitch curve is correlated with it at {v}, less than the {low} of a close match, most of all from {a} to {b} s. \
             Hum the melody of that phrase first, then say the words on it."
        ),
        (Topic::MelodyMatch, PointKind::Strength) => {
            format!("Your melody follows the teacher's: your pitch curve is correlated with it at {v}.")
        }
        (Topic::WordTiming, PointKind::Advice) => format!(
            "The lengths of your words agree with the teacher's by {v}%, less than the {low}% of a close match; {} at {a} s is the furthest off. \
             Play that part again and speak along with it.",
            quoted(&f.point.words)
        ),
        (Topic::WordTiming, PointKind::Strength) => {
            format!("Your words keep the teacher's proportions: their lengths agree by {v}%.")
        }
        _ => format!(
            "{v} of your pauses came where the teacher goes on, the longest from {a} to {b} s. \
             Try to carry each thought to its end before you stop."
        ),
    }
}

/// “one”, “two” and “three”.
fn quoted(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("“{w}”")).collect();
    match quoted.as_slice() {
        [] => "a word".into(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn loudness(f: &Facts) -> String {
    let Facts { v, low, high, .. } = f;
    match (f.point.direction, &f.teacher) {
        (Direction::Low, None) => format!(
            "Your loudness varied by {v} dB, less than the {low} to {high} dB of an animated voice. \
             Choose a line to whisper and another to send to the back row."
        ),
        (Direction::High, None) => format!(
            "Your loudness varied by {v} dB, more than the {low} to {high} dB of an animated voice. \
             Keep some breath for the ends of the lines so that none is lost."
        ),
        (_, None) => {
            format!("Your voice plays with loudness: it varied by {v} dB, inside the {low} to {high} dB of an animated voice.")
        }
        (Direction::Low, Some(t)) => format!(
            "Your loudness varied less than the teacher's, {v} dB against {t} dB. Make the strongest line stronger and the next one soft."
        ),
        (Direction::High, Some(t)) => format!(
            "Your loudness varied more than the teacher's, {v} dB against {t} dB. Try the scene again with a steadier breath."
        ),
        (_, Some(t)) => format!("Your loudness varies as the teacher's does: {v} dB against {t} dB."),
    }
}

fn joint(part: Option<Part>) -> String {
    part.map_or_else(|| "body".into(), |p| p.name().replace('_', " "))
}

fn symmetry(f: &Facts) -> String {
    let (left, right) = (f.other("left_range"), f.other("right_range"));
    let name = f.point.part.map_or("side", Part::joint);
    match (f.point.kind, f.point.part.is_some_and(Part::is_left)) {
        (PointKind::Strength, _) => {
            format!("You move evenly: the left {name} goes through {left}° and the right through {right}°.")
        }
        (_, true) => format!(
            "Your left {name} moved through {left}° and your right through {right}°, so the left side does less, most clearly at {} s. \
             Practise slowly in front of a mirror and let the left side lead.",
            f.a
        ),
        (_, false) => format!(
            "Your right {name} moved through {right}° and your left through {left}°, so the right side does less, most clearly at {} s. \
             Practise slowly in front of a mirror and let the right side lead.",
            f.a
        ),
    }
}

fn regularity(f: &Facts) -> String {
    let Facts { v, high, a, .. } = f;
    match (f.point.direction, &f.teacher) {
        (Direction::High, None) => format!(
            "The time between your repetitions varied by {v}%, more than the {high}% of a firm rhythm; it drifts most at {a} s. \
             Count aloud or practise to a slow beat."
        ),
        (Direction::High, Some(t)) => format!(
            "Your rhythm is less steady than the teacher's: the time between repetitions varied by {v}% against {t}%, most at {a} s. \
             Count aloud or practise to a slow beat."
        ),
        (_, Some(t)) => {
            format!("Your rhythm is as steady as the teacher's: the time between repetitions varied by {v}% against {t}%.")
        }
        _ => format!("Your rhythm is steady: the time between repetitions varied by {v}%, and up to {high}% feels even."),
    }
}

fn depth(f: &Facts) -> String {
    let Facts { v, a, high, .. } = f;
    let name = f.point.part.map_or("joint", Part::joint);
    let (shallow, deep) = (f.other("shallowest_angle"), f.other("deepest_angle"));
    match f.point.kind {
        PointKind::Advice => format!(
            "Your repetitions differ in depth: at {a} s the {name} reached {shallow}°, at the deepest {deep}°. \
             Take the deepest one as your mark and aim for it each time."
        ),
        PointKind::Strength => format!(
            "Each repetition reaches nearly the same depth: the {name} angle there varied by {v}°, and up to {high}° is consistent."
        ),
    }
}

fn flow(f: &Facts) -> String {
    let Facts { v, high, a, b, .. } = f;
    match (f.point.direction, &f.teacher) {
        (Direction::High, None) => format!(
            "Your movement comes in {v} bursts of speed a repetition, more than the {high} of an unbroken one; it shows from {a} to {b} s. \
             Slow it down and breathe through the whole way."
        ),
        (Direction::High, Some(t)) => format!(
            "Your movement is less smooth than the teacher's: {v} bursts of speed a repetition against {t}, seen from {a} to {b} s. \
             Slow it down and breathe through the whole way."
        ),
        (_, Some(t)) => format!("Your movement flows like the teacher's: {v} bursts of speed a repetition against {t}."),
        _ => format!("Your movement flows: {v} bursts of speed a repetition, and up to {high} is smooth."),
    }
}

fn beat_timing(f: &Facts) -> String {
    let Facts { v, a, b, .. } = f;
    match f.point.direction {
        Direction::High => format!(
            "You are {v} s late against the beat on average, most of all from {a} to {b} s. \
             Start the next move while the last one is still ending."
        ),
        Direction::Low => format!(
            "You are {v} s early against the beat on average, most of all from {a} to {b} s. \
             Finish each move before you begin the next."
        ),
        _ => format!("You move in time with the beat: {v} s apart on average."),
    }
}

fn timing(f: &Facts) -> String {
    let Facts { v, a, b, .. } = f;
    match f.point.direction {
        Direction::High => format!(
            "You are {v} s late against the teacher on average, most of all from {a} to {b} s. \
             Start the next move while the last one is still ending."
        ),
        Direction::Low => format!(
            "You are {v} s early against the teacher on average, most of all from {a} to {b} s. \
             Finish each move before you begin the next."
        ),
        _ => format!("You move in time with the teacher: {v} s apart on average."),
    }
}

fn angle(f: &Facts) -> String {
    let Facts { v, a, b, .. } = f;
    let t = f.teacher.as_deref().unwrap_or("0");
    let part = joint(f.point.part);
    let arm = matches!(f.point.part, Some(Part::LeftShoulder | Part::RightShoulder));
    let side = if f.point.part.is_some_and(Part::is_left) { "left" } else { "right" };
    match (f.point.direction, arm) {
        (Direction::High, true) => format!(
            "From {a} to {b} s your {side} arm is higher than the teacher's: {v}° at the shoulder against {t}°. Lower it a little at that moment."
        ),
        (Direction::Low, true) => format!(
            "From {a} to {b} s your {side} arm is lower than the teacher's: {v}° at the shoulder against {t}°. Lift it from the shoulder blade at that moment."
        ),
        (Direction::High, false) => format!(
            "From {a} to {b} s your {part} is straighter than the teacher's: {v}° against {t}°. Bend it further at that moment."
        ),
        (Direction::Low, false) => format!(
            "From {a} to {b} s your {part} is more bent than the teacher's: {v}° against {t}°. Open it further at that moment."
        ),
        _ => format!("Your {part} follows the teacher's closely: {v}° against {t}° from {a} to {b} s."),
    }
}

fn amplitude(f: &Facts) -> String {
    let Facts { v, .. } = f;
    let t = f.teacher.as_deref().unwrap_or("0");
    let part = joint(f.point.part);
    match f.point.direction {
        Direction::High => format!(
            "Your {part} moves more than the teacher's: through {v}° against {t}°. Try the same move smaller, without losing its drive."
        ),
        Direction::Low => format!(
            "Your {part} moves less than the teacher's: through {v}° against {t}°. Make the move bigger, right to its end."
        ),
        _ => format!("Your {part} uses the same space as the teacher's: {v}° against {t}°."),
    }
}

fn face(f: &Facts) -> String {
    let Facts { v, low, high, a, b, .. } = f;
    match (f.point.topic, f.point.direction, &f.teacher) {
        (Topic::Expressiveness, Direction::Low, None) => format!(
            "Your face showed an expression {v}% of the time, less than the {low}% that reads from a distance; from {a} to {b} s it rests. \
             Think the thought of the line before you say it and let the eyes begin."
        ),
        (Topic::Expressiveness, Direction::Low, Some(t)) => format!(
            "Your face showed an expression less often than the teacher's: {v}% of the time against {t}%, and from {a} to {b} s it rests. \
             Think the thought of the line before you say it and let the eyes begin."
        ),
        (Topic::Expressiveness, Direction::High, Some(t)) => format!(
            "Your face showed an expression more often than the teacher's: {v}% of the time against {t}%. Let it rest between the thoughts."
        ),
        (Topic::Expressiveness, _, Some(t)) => {
            format!("Your face is as lively as the teacher's: an expression {v}% of the time against {t}%.")
        }
        (Topic::Expressiveness, _, None) => format!("Your face takes part: it showed an expression {v}% of the time."),
        (_, Direction::Low, None) => format!(
            "Your expression changed {v} times a minute, less than the {low} to {high} of a lively scene. Find the turn in the text and let the face turn with it."
        ),
        (_, Direction::High, None) => format!(
            "Your expression changed {v} times a minute, more than the {low} to {high} of a lively scene. Hold each feeling until the thought is over."
        ),
        (_, Direction::Low, Some(t)) => format!(
            "Your expression changed less often than the teacher's: {v} times a minute against {t}. Find the turn in the text and let the face turn with it."
        ),
        (_, Direction::High, Some(t)) => format!(
            "Your expression changed more often than the teacher's: {v} times a minute against {t}. Hold each feeling until the thought is over."
        ),
        (_, _, Some(t)) => format!("Your expression changes as often as the teacher's: {v} times a minute against {t}."),
        _ => format!("Your expression changes with the scene: {v} times a minute, inside the usual {low} to {high}."),
    }
}

fn gestures(f: &Facts) -> String {
    let Facts { v, low, high, a, .. } = f;
    match (f.point.topic, f.point.direction, &f.teacher) {
        (Topic::GestureSync, Direction::Low, None) => format!(
            "{v}% of your gestures met a stressed word, less than the {low}% that looks natural; the one at {a} s missed. \
             Let the gesture arrive together with the word."
        ),
        (Topic::GestureSync, Direction::Low, Some(t)) => format!(
            "Your gestures met a stressed word less often than the teacher's: {v}% against {t}%, and the one at {a} s missed. \
             Let the gesture arrive together with the word."
        ),
        (Topic::GestureSync, _, Some(t)) => {
            format!("Your gestures arrive with the stressed words as the teacher's do: {v}% against {t}%.")
        }
        (Topic::GestureSync, ..) => format!("Your gestures arrive with the words: {v}% of them met a stressed word."),
        (_, Direction::Low, None) => format!(
            "You made {v} gestures a minute, less than the {low} to {high} of a lively scene. Let the body answer the strongest word of each line."
        ),
        (_, Direction::High, None) => format!(
            "You made {v} gestures a minute, more than the {low} to {high} of a lively scene. Keep the ones that mean something and stand still between them."
        ),
        (_, Direction::Low, Some(t)) => format!(
            "You made fewer gestures than the teacher: {v} a minute against {t}. Let the body answer the strongest word of each line."
        ),
        (_, Direction::High, Some(t)) => format!(
            "You made more gestures than the teacher: {v} a minute against {t}. Keep the ones that mean something and stand still between them."
        ),
        (_, _, Some(t)) => format!("You gesture as often as the teacher: {v} times a minute against {t}."),
        _ => format!("Your gestures are well measured: {v} a minute, inside the usual {low} to {high}."),
    }
}

fn congruence(f: &Facts) -> String {
    let Facts { v, low, .. } = f;
    match (f.point.kind, &f.teacher) {
        (PointKind::Advice, None) => format!(
            "Body and voice go their own ways: loudness and movement are correlated at {v}, less than the {low} that feels like one piece. \
             Let the loudest words bring the largest movement."
        ),
        (PointKind::Advice, Some(t)) => format!(
            "Body and voice are less joined than the teacher's: a correlation of {v} against {t}. Let the loudest words bring the largest movement."
        ),
        (PointKind::Strength, None) => format!("Body and voice grow together: loudness and movement are correlated at {v}."),
        (PointKind::Strength, Some(t)) => {
            format!("Body and voice are joined as the teacher's are: a correlation of {v} against {t}.")
        }
    }
}

fn missing(f: &Facts) -> String {
    let Facts { v, .. } = f;
    let frames = f.other("frames");
    match f.point.topic {
        Topic::NoSpeech if v == "0.0" => {
            "The clip has no sound, so there is nothing to say about the voice. Record it again with the microphone on.".into()
        }
        Topic::NoSpeech => format!("No speech was found in {v} s of audio. Move closer to the microphone and record it again."),
        Topic::NoPerson if frames == "0" => {
            "The clip has no pictures, so there is nothing to say about the movement. Record it again with the camera on."
                .into()
        }
        Topic::NoPerson => format!(
            "A person was found in {v} of {frames} frames, too few to judge the movement. Step back until your whole body is in the picture, in good light."
        ),
        Topic::NoFace => format!(
            "A face was found in {v} of {frames} frames, too few to judge the expression. Face the camera in good light."
        ),
        _ if f.point.evidence.first().is_some_and(|m| m.name == "person_seconds") => {
            format!("Your movement was seen for {v} s, too short to judge. Record a longer piece of it.")
        }
        _ => format!("Your voice was heard for {v} s, too short to judge. Record a few whole sentences."),
    }
}
