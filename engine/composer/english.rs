//! The checks of an English text: tokens, clauses, owners, directions.

use super::{
    check::{self, Fault, Found, Kind, Role},
    claims::{self, Axis, Owner, Subject, Unit},
};
use crate::coach::{Part, Point, PointKind, Topic};

/// A word, a number or a sign, lower case.
#[derive(Clone, Debug, PartialEq)]
struct Token<'a> {
    text: &'a str,
    /// The value and the decimals of a number.
    number: Option<(f64, usize)>,
    /// Index of the clause that it stands in.
    clause: usize,
    /// Index of the sentence that it stands in.
    sentence: usize,
}

/// Whether a clause says what was or what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    State,
    Remedy,
}

/// All faults of the text; `plain` has its quotations blanked out.
pub(super) fn check(point: &Point, plain: &str, text: &str) -> Vec<Fault> {
    // Both lengths belong to the name of the contrast and lean no way.
    let lower = plain.to_lowercase().replace('’', "'").replace("long and short vowels", "vowels");
    let tokens = tokenize(&lower);
    let moods = moods(&tokens);
    let mut faults = check::numbers(point, &found(point, &tokens, &moods));
    faults.extend(echo(&lower));
    faults.extend(persons(point, &tokens, &lower));
    faults.extend(directions(point, &tokens, &moods));
    faults.extend(limbs(point, &tokens, &moods));
    faults.extend(subjects(point, &tokens, &moods));
    faults.extend(polarity(point, &tokens, &moods, &lower));
    faults.extend(changed_order(point, text));
    faults
}

fn tokenize(lower: &str) -> Vec<Token<'_>> {
    let mut tokens: Vec<Token> = Vec::new();
    let (mut clause, mut sentence) = (0, 0);
    let bytes = lower.as_bytes();
    let mut i = 0;
    while i < lower.len() {
        let rest = &lower[i..];
        let c = rest.chars().next().unwrap_or(' ');
        let len = if c.is_ascii_digit() {
            let whole = rest.bytes().take_while(u8::is_ascii_digit).count();
            let more = rest[whole..].strip_prefix('.').map_or(0, |r| r.bytes().take_while(u8::is_ascii_digit).count());
            whole + if more > 0 { more + 1 } else { 0 }
        } else if c.is_alphabetic() {
            rest.char_indices().find(|(_, c)| !c.is_alphabetic() && *c != '\'').map_or(rest.len(), |(n, _)| n)
        } else {
            c.len_utf8()
        };
        let word = &rest[..len];
        let ends = matches!(c, '.' | '!' | '?') && bytes.get(i + 1).is_none_or(u8::is_ascii_whitespace);
        if ends {
            (clause, sentence) = (clause + 1, sentence + 1);
        } else if matches!(c, ',' | ';' | ':' | '(' | ')' | '—') || SPLIT.contains(&word) {
            clause += 1;
        }
        if !c.is_whitespace() && !ends {
            let number = if c.is_ascii_digit() {
                word.parse().ok().map(|v| (v, word.split_once('.').map_or(0, |(_, d)| d.len())))
            } else {
                None
            };
            tokens.push(Token { text: word.trim_matches('\''), number, clause, sentence });
        }
        i += len;
    }
    spelled(&mut tokens);
    tokens
}

/// Words that begin a new clause.
const SPLIT: [&str; 14] = [
    "but", "so", "and", "while", "where", "whereas", "because", "which", "although", "though", "then", "instead", "until",
    "when",
];

/// Numbers in words. "One" is a number only before something counted: "one of", "this one" are not.
fn spelled(tokens: &mut [Token]) {
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    for i in 0..tokens.len() {
        let next = tokens.get(i + 1).map_or("", |t| t.text);
        let value = match tokens[i].text {
            "one" if !COUNTED.contains(&next) => None,
            "half" => Some(0.5),
            "twice" | "double" | "doubled" => Some(2.0),
            "triple" | "thrice" => Some(3.0),
            "hundred" => Some(100.0),
            "thousand" => Some(1000.0),
            "dozen" => Some(12.0),
            word => SMALL
                .iter()
                .position(|w| *w == word)
                .map(|v| v as f64)
                .or_else(|| TENS.iter().position(|w| *w == word).map(|v| 10.0 * (v + 2) as f64)),
        };
        if let Some(v) = value {
            tokens[i].number = Some((v, usize::from(v.fract() != 0.0)));
        }
    }
}

/// Things that "one" counts.
const COUNTED: [&str; 14] = [
    "second", "seconds", "degree", "degrees", "word", "words", "pause", "pauses", "time", "times", "syllable", "semitone",
    "percent", "minute",
];

/// Whether each clause states or advises. Advice lasts to the next clause with its own subject, or the end of the sentence.
fn moods(tokens: &[Token]) -> Vec<Mood> {
    let clauses = tokens.last().map_or(0, |t| t.clause + 1);
    let mut moods = vec![Mood::State; clauses];
    let mut last = (Mood::State, usize::MAX);
    for (clause, mood) in moods.iter_mut().enumerate() {
        let words: Vec<&Token> = tokens.iter().filter(|t| t.clause == clause).collect();
        let Some(first) = words.iter().find(|t| !FILLERS.contains(&t.text) && t.text.chars().all(char::is_alphanumeric)) else {
            *mood = last.0;
            continue;
        };
        let advises = words.iter().any(|t| ADVISING.contains(&t.text)) || IMPERATIVES.contains(&first.text);
        let own_subject =
            matches!(first.text, "you" | "your" | "the" | "it" | "this" | "that" | "there" | "at" | "from" | "in");
        *mood = match advises {
            true => Mood::Remedy,
            false if last == (Mood::Remedy, first.sentence) && !own_subject => Mood::Remedy,
            false => Mood::State,
        };
        last = (*mood, first.sentence);
    }
    moods
}

/// Words before the verb of an imperative.
const FILLERS: [&str; 18] = [
    "and", "then", "so", "but", "next", "please", "also", "instead", "now", "just", "q", ",", "always", "simply", "when",
    "until", "don't", "first",
];

/// Words that make a clause advice.
const ADVISING: [&str; 21] = [
    "try", "aim", "let", "let's", "should", "could", "practice", "practise", "consider", "focus", "want", "remember", "next",
    "avoid", "need", "needs", "don't", "goal", "target", "improve", "can",
];

/// Verbs that begin advice.
const IMPERATIVES: [&str; 89] = [
    "add",
    "aim",
    "allow",
    "bend",
    "breathe",
    "bring",
    "build",
    "carry",
    "choose",
    "climb",
    "close",
    "come",
    "count",
    "deepen",
    "drop",
    "extend",
    "face",
    "fall",
    "feel",
    "find",
    "finish",
    "follow",
    "give",
    "go",
    "hold",
    "hum",
    "imagine",
    "join",
    "keep",
    "lean",
    "leave",
    "lengthen",
    "let",
    "lift",
    "link",
    "listen",
    "look",
    "lower",
    "make",
    "match",
    "mirror",
    "move",
    "open",
    "pause",
    "place",
    "play",
    "point",
    "practice",
    "practise",
    "push",
    "put",
    "raise",
    "read",
    "reach",
    "record",
    "reduce",
    "relax",
    "repeat",
    "rest",
    "rise",
    "save",
    "say",
    "shorten",
    "show",
    "sing",
    "sit",
    "slow",
    "smooth",
    "soften",
    "speak",
    "speed",
    "stand",
    "start",
    "begin",
    "stay",
    "step",
    "stop",
    "straighten",
    "stress",
    "stretch",
    "take",
    "tap",
    "think",
    "try",
    "turn",
    "use",
    "vary",
    "wait",
    "watch",
];

fn near(tokens: &[Token], i: usize, back: usize, words: &[&str]) -> bool {
    let clause = tokens[i].clause;
    tokens[i.saturating_sub(back)..i].iter().any(|t| t.clause == clause && words.contains(&t.text))
}

/// The numbers of the text, with unit, role and owner.
fn found(point: &Point, tokens: &[Token], moods: &[Mood]) -> Vec<Found> {
    let at: Vec<usize> = (0..tokens.len()).filter(|&i| tokens[i].number.is_some()).collect();
    let mut found: Vec<Found> = Vec::new();
    for (k, &i) in at.iter().enumerate() {
        let Some((value, decimals)) = tokens[i].number else { continue };
        // "2.0 to 4.6 s": the unit stands after the last of them.
        let mut end = i;
        while let Some(&j) = at.iter().find(|&&j| j > end && j - end <= 3 && joined(&tokens[end + 1..j])) {
            if unit(tokens, end).is_some() {
                break;
            }
            end = j;
        }
        // "6.8 syllables a second against 4.5": the second goes without its unit.
        let carried =
            found.last().filter(|f| f.role == Role::Measure && k > 0 && tokens[at[k - 1]].sentence == tokens[i].sentence);
        let unit = unit(tokens, end).or(carried.map(|f| f.unit)).unwrap_or(Unit::Plain);
        let before = k.checked_sub(1).map(|k| at[k]).filter(|&p| i - p <= 4 && joined_with_units(&tokens[p + 1..i]));
        let paired = before.is_some() || (end > i);
        let moment = unit == Unit::Seconds
            && (near(tokens, i, 2, &MOMENT) || before.is_some_and(|_| found.last().is_some_and(|f| f.role == Role::Moment)));
        let role = if moment { Role::Moment } else { Role::Measure };
        found.push(Found { value, decimals, unit, role, owner: owner(point, tokens, moods, i, paired, &at) });
    }
    found
}

/// Words before a moment.
const MOMENT: [&str; 9] = ["at", "from", "between", "around", "near", "about", "until", "after", "mark"];

fn joined(between: &[Token]) -> bool {
    matches!(between, [t] if matches!(t.text, "to" | "and" | "-" | "–" | "~"))
}

/// "2.0 s to 4.6 s", "2.0 seconds and 4.6 seconds".
fn joined_with_units(between: &[Token]) -> bool {
    let words: Vec<&str> = between
        .iter()
        .map(|t| t.text)
        .filter(|w| !matches!(*w, "s" | "sec" | "second" | "seconds" | "%" | "°" | "degrees"))
        .collect();
    matches!(words.as_slice(), ["to" | "and" | "-" | "–" | "~"])
}

/// The unit after the token.
fn unit(tokens: &[Token], i: usize) -> Option<Unit> {
    let word = |n: usize| tokens.get(i + n).filter(|t| t.sentence == tokens[i].sentence).map_or("", |t| t.text);
    let skip = usize::from(word(1) == "-");
    let per = |n: usize| matches!((word(n), word(n + 1)), ("a" | "per" | "each" | "every" | "/", "second" | "s" | "sec"));
    Some(match word(1 + skip) {
        "s" | "sec" | "secs" | "second" | "seconds" => Unit::Seconds,
        "%" | "percent" => Unit::Percent,
        "per" if word(2 + skip) == "cent" => Unit::Percent,
        "°" | "degree" | "degrees" | "deg" => Unit::Degrees,
        "semitone" | "semitones" | "st" if per(2 + skip) => Unit::SemitonesPerSecond,
        "semitone" | "semitones" | "st" => Unit::Semitones,
        "syllable" | "syllables" | "syll" if per(2 + skip) => Unit::SyllablesPerSecond,
        "db" | "decibel" | "decibels" => Unit::Decibels,
        "ms" | "millisecond" | "milliseconds" | "minutes" | "min" | "hz" | "hertz" | "syllables" | "syllable" | "beats"
        | "bpm" | "cm" | "m" | "meters" | "metres" | "inches" | "points" | "stars" | "x" | "th" | "rd" | "nd" | "hours"
        | "octave" | "octaves" | ":" | "/" => Unit::Other,
        "of" | "words" | "word" | "times" | "time" | "gestures" | "gesture" | "changes" | "bursts" | "pauses" | "pause"
        | "frames" | "changed" | "repetitions" | "were" | "a" => Unit::Plain,
        _ => return None,
    })
}

/// Whose number it is: by contrast ("against 85"), by aim ("up to 5.9"), else by the nearest person before it.
fn owner(point: &Point, tokens: &[Token], moods: &[Mood], i: usize, paired: bool, at: &[usize]) -> Option<Owner> {
    let relative = claims::is_relative(point);
    let aimed = near(tokens, i, 4, &AIMED) || (paired && !relative && !near(tokens, i, 2, &MOMENT));
    if relative {
        if near(tokens, i, 2, &["against", "versus", "vs"]) || near(tokens, i, 3, &["compared"]) {
            return Some(Owner::Teacher);
        }
        // "110° against 85°": the first of a contrast is the learner's.
        let next = at.iter().find(|&&j| j > i);
        if next.is_some_and(|&j| tokens[i + 1..j].iter().any(|t| matches!(t.text, "against" | "versus" | "vs"))) {
            return Some(Owner::Learner);
        }
        let aimed = near(tokens, i, 4, &["aim", "target", "goal", "reach", "toward", "towards", "match"])
            && moods[tokens[i].clause] == Mood::Remedy;
        return if aimed { Some(Owner::Teacher) } else { person(tokens, i) };
    }
    aimed.then_some(Owner::Target)
}

/// Words before a bound of the range.
const AIMED: [&str; 25] = [
    "than",
    "up",
    "least",
    "most",
    "under",
    "below",
    "above",
    "over",
    "within",
    "beyond",
    "inside",
    "target",
    "aim",
    "limit",
    "maximum",
    "minimum",
    "ideal",
    "recommended",
    "natural",
    "goal",
    "lively",
    "usual",
    "exceeds",
    "toward",
    "towards",
];

/// The last person named before the token in its sentence, objects of a comparison left out.
fn person(tokens: &[Token], i: usize) -> Option<Owner> {
    for j in (0..i).rev().take_while(|&j| tokens[j].sentence == tokens[i].sentence) {
        if is_teacher(tokens[j].text) && !is_object(tokens, j) {
            return Some(Owner::Teacher);
        }
        if matches!(tokens[j].text, "you" | "your" | "you're" | "yours") && !is_object(tokens, j) {
            return Some(Owner::Learner);
        }
    }
    None
}

fn is_teacher(word: &str) -> bool {
    let word = word.strip_suffix("'s").unwrap_or(word);
    matches!(word, "teacher" | "teachers" | "instructor" | "reference" | "model" | "trainer" | "expert" | "coach" | "tutor")
}

/// "than the teacher", "against your teacher's": compared with, not spoken of.
fn is_object(tokens: &[Token], j: usize) -> bool {
    let before = tokens[..j].iter().rev().find(|t| !matches!(t.text, "the" | "your" | "our" | "a" | "that" | "when"));
    before.is_some_and(|t| t.sentence == tokens[j].sentence && OBJECT.contains(&t.text))
}

/// Words whose object is only compared with.
const OBJECT: [&str; 29] = [
    "than",
    "against",
    "behind",
    "with",
    "to",
    "of",
    "after",
    "before",
    "as",
    "like",
    "from",
    "match",
    "matching",
    "follow",
    "following",
    "follows",
    "copy",
    "mirror",
    "watch",
    "unlike",
    "matches",
    "kept",
    "keep",
    "versus",
    "imitate",
    "shadow",
    "play",
    "on",
    "for",
];

fn echo(lower: &str) -> Vec<Fault> {
    const OWN: [&str; 31] = [
        "rewrite",
        "rephrase",
        "as an ai",
        "language model",
        "here is",
        "here's",
        "sentence:",
        "coach:",
        "note:",
        "feedback:",
        "fact:",
        "learner",
        "assistant",
        "system prompt",
        "instruction",
        "evidence",
        "json",
        "point 1",
        "point 2",
        "point 3",
        "point 4",
        "point 5",
        "student",
        "sure,",
        "certainly",
        "i'm sorry",
        "i am sorry",
        "i cannot",
        "i can't",
        "same meaning",
        "original",
    ];
    OWN.iter().find(|w| lower.contains(**w)).map(|w| Fault::new(Kind::Echo, *w)).into_iter().collect()
}

/// Who is spoken of and to: the learner is "you"; a teacher exists only in a comparison; nobody says "I am late".
fn persons(point: &Point, tokens: &[Token], lower: &str) -> Vec<Fault> {
    const OTHERS: [&str; 13] =
        ["he", "she", "his", "her", "him", "we", "we're", "we've", "dancer", "speaker", "actor", "they're", "my"];
    let mut faults = Vec::new();
    if let Some(t) = tokens.iter().find(|t| OTHERS.contains(&t.text)) {
        faults.push(Fault::new(Kind::Who, format!("“{}” is not the learner", t.text)));
    }
    let first_person = tokens.iter().enumerate().find(|(i, t)| {
        matches!(t.text, "i" | "i'm" | "i've" | "i'd" | "i'll" | "me" | "mine")
            && !tokens.get(i + 1).is_some_and(|n| {
                t.text == "i"
                    && matches!(n.text, "noticed" | "notice" | "heard" | "hear" | "saw" | "see" | "suggest" | "recommend")
            })
    });
    if let Some((_, t)) = first_person {
        faults.push(Fault::new(Kind::Who, format!("“{}” speaks for the learner", t.text)));
    }
    if !claims::is_relative(point) && tokens.iter().any(|t| is_teacher(t.text)) {
        faults.push(Fault::new(Kind::Who, "there is no teacher in this comparison"));
    }
    if claims::is_relative(point) && !tokens.iter().any(|t| is_teacher(t.text)) {
        faults.push(Fault::new(Kind::Who, "the teacher is not named"));
    }
    if !lower.contains("you")
        && !matches!(point.topic, Topic::Congruence | Topic::NoSpeech | Topic::NoPerson | Topic::NoFace | Topic::ChangedWords)
        && !speaks_without_you(point.topic)
    {
        faults.push(Fault::new(Kind::Who, "does not speak to the learner"));
    }
    faults
}

/// Topics whose planner's sentence may do without "you".
fn speaks_without_you(topic: Topic) -> bool {
    matches!(
        topic,
        Topic::WordAccuracy
            | Topic::WordClarity
            | Topic::Regularity
            | Topic::GestureSync
            | Topic::PauseRatio
            | Topic::RepetitionDepth
            | Topic::Fluidity
    )
}

/// Words with a side, by their scale.
#[rustfmt::skip]
fn sides(word: &str) -> &'static [(Axis, i8)] {
    use Axis::*;
    match word {
        "fast" | "faster" | "fastest" | "quick" | "quicker" | "quickly" | "rush" | "rushed" | "rushing" | "rapid" | "rapidly" | "hurry" | "hurried" | "hurrying" | "speeding" => &[(Speed, 1), (Time, -1)],
        "slow" | "slower" | "slowest" | "slowly" | "drag" | "dragging" | "sluggish" | "slowing" => &[(Speed, -1), (Time, 1)],
        "late" | "later" | "lag" | "lags" | "lagging" | "lagged" | "behind" | "delayed" | "delay" | "trail" | "trailing" => &[(Time, 1)],
        "early" | "earlier" | "ahead" | "sooner" | "soon" | "premature" | "prematurely" => &[(Time, -1)],
        "wide" | "wider" | "broad" | "broader" | "widen" | "expand" | "expanding" | "exaggerated" => &[(Width, 1)],
        "narrow" | "narrower" | "flat" | "flatter" | "monotone" | "monotonous" | "limited" | "restricted" | "flatten" => &[(Width, -1)],
        "bigger" | "larger" | "large" | "big" | "further" | "farther" | "greater" => &[(Width, 1), (Amount, 1)],
        "small" | "smaller" | "tiny" => &[(Width, -1), (Amount, -1)],
        "more" | "many" | "much" | "frequent" | "frequently" | "often" | "longer" | "long" | "increase" | "increased" | "exceeds" | "exceeded" | "over" | "above" => &[(Amount, 1)],
        "less" | "few" | "fewer" | "rarely" | "seldom" | "short" | "shorter" | "reduce" | "reduced" | "decrease" | "only" | "shorten" | "below" | "under" => &[(Amount, -1)],
        "loud" | "louder" | "loudly" | "shout" | "shouting" => &[(Loudness, 1)],
        "quiet" | "quieter" | "quietly" | "soft" | "softer" | "softly" | "whispered" => &[(Loudness, -1)],
        "rise" | "rises" | "rose" | "rising" | "risen" | "climb" | "climbs" | "climbed" | "climbing" | "upward" | "upwards" | "up" | "lift" | "lifts" | "lifted" | "lifting" | "raise" | "raised" | "raises" => &[(Contour, 1), (Height, 1)],
        "fall" | "falls" | "fell" | "falling" | "fallen" | "drop" | "drops" | "dropped" | "dropping" | "downward" | "downwards" | "down" => &[(Contour, -1), (Height, -1)],
        "high" | "higher" | "highest" => &[(Height, 1)],
        "low" | "lower" | "lowest" | "lowered" => &[(Height, -1)],
        "straight" | "straighter" | "straighten" | "straightened" | "extended" | "extend" | "open" | "opened" | "opening" | "unbend" => &[(Bend, 1)],
        "bent" | "bend" | "bending" | "bends" | "flexed" | "flex" | "deeper" | "closed" => &[(Bend, -1)],
        "uneven" | "irregular" | "unsteady" | "inconsistent" | "differ" | "differs" | "differed" | "different" | "drift" | "drifts" | "drifted" | "erratic" => &[(Evenness, 1)],
        "steady" | "even" | "evenly" | "steadily" | "regular" | "consistent" | "consistently" | "uniform" | "steadier" => &[(Evenness, -1)],
        "jerky" | "choppy" | "abrupt" | "rough" | "jagged" => &[(Flow, 1)],
        "smooth" | "smoothly" | "smoother" | "fluid" | "flows" | "flowing" | "flow" => &[(Flow, -1)],
        "clear" | "clearly" | "clearer" | "recognizable" | "easy" | "understood" => &[(Clarity, 1)],
        "unclear" | "hard" | "difficult" | "mumbled" | "harder" | "mumble" => &[(Clarity, -1)],
        "together" | "joined" | "united" | "connected" => &[(Union, 1)],
        "apart" | "separate" | "separately" | "disconnected" => &[(Union, -1)],
        "left" | "omitted" | "skipped" | "missed" | "missing" | "forgot" | "omit" | "skip" => &[(Presence, -1)],
        "added" | "extra" | "inserted" | "additional" | "add" => &[(Presence, 1)],
        _ => &[],
    }
}

/// Scales on which a statement is a claim of its own, whatever the topic.
const STRONG: [Axis; 9] = [
    Axis::Speed,
    Axis::Time,
    Axis::Loudness,
    Axis::Contour,
    Axis::Bend,
    Axis::Height,
    Axis::Evenness,
    Axis::Flow,
    Axis::Clarity,
];

/// Every word with a side must lean the way of the measure where it states, and against it where it advises.
fn directions(point: &Point, tokens: &[Token], moods: &[Mood]) -> Vec<Fault> {
    let (axes, sign) = (claims::axes(point.topic, point.part), claims::sign(point));
    let mut faults = Vec::new();
    let mut stated = false;
    for (i, token) in tokens.iter().enumerate() {
        let sides = sides(token.text);
        if sides.is_empty() || idiom(tokens, i) {
            continue;
        }
        let mood = moods[token.clause];
        let Some((_, side)) = sides.iter().find(|s| axes.contains(&s.0)) else {
            // "At 3.0 s you were late" on a point about pitch.
            let own_words = matches!(point.topic, Topic::Symmetry | Topic::WordAccuracy | Topic::ChangedWords)
                || point.topic == Topic::PitchRange && token.text == "lift";
            if mood == Mood::State
                && sides.iter().all(|s| STRONG.contains(&s.0))
                && !own_words
                && !harmless(point.topic, token.text)
            {
                faults.push(Fault::new(Kind::Topic, format!("“{}” was not measured here", token.text)));
            }
            continue;
        };
        let turned = negated(tokens, i);
        let said = if turned { -side } else { *side };
        let expected = match mood {
            Mood::Remedy => -sign,
            Mood::State if teacher_speaks(tokens, i) && sign != 0 => -sign,
            Mood::State => sign,
        };
        if point.topic == Topic::RhythmContrast && mood == Mood::Remedy {
            continue; // Its advice speaks of long and short vowels both.
        }
        let praise = point.kind == PointKind::Strength;
        let wrong = match (mood, praise) {
            (_, true) if sign == 0 => !turned,
            (Mood::Remedy, true) => false,
            _ => said != expected,
        };
        if wrong {
            faults.push(Fault::new(Kind::Direction, format!("“{}”", token.text)));
        }
        stated |= mood == Mood::State && !wrong;
    }
    let needs = point.kind == PointKind::Advice && !axes.is_empty();
    if needs && !stated && faults.is_empty() {
        faults.push(Fault::new(Kind::Direction, "does not say which way"));
    }
    faults
}

/// Phrases in which the word takes no side.
fn idiom(tokens: &[Token], i: usize) -> bool {
    let (before, after) = (i.checked_sub(1).map_or("", |j| tokens[j].text), tokens.get(i + 1).map_or("", |t| t.text));
    match tokens[i].text {
        "up" => after == "to" || matches!(before, "end" | "ends" | "ended" | "warm" | "open" | "speed" | "pick" | "keep"),
        "down" => matches!(before, "slow" | "calm" | "break"),
        "open" => before == "door" || after == "mouth",
        "left" => after != "out" && !matches!(before, "you"),
        "even" => after == "more" || after == "if",
        "more" => {
            matches!(after, "time" | "natural" | "practice" | "confident" | "bent")
                && !matches!(before, "paused" | "moved" | "moves" | "varied")
        }
        "much" | "long" | "often" => matches!(before, "how" | "so" | "as"),
        // "less steady": the next word says on which scale.
        "less" => tokens.get(i + 1).is_some_and(|t| sides(t.text).iter().any(|s| s.0 != Axis::Amount && s.0 != Axis::Width)),
        "straight" => after == "away",
        "only" | "over" | "above" | "below" | "under" => {
            tokens.get(i + 1).is_none_or(|t| t.number.is_none() && !matches!(t.text, "the" | "a"))
        }
        "different" | "differ" => false,
        "behind" => before == "from",
        "soon" => before == "as",
        _ => false,
    }
}

/// Words on a strong scale that belong to the manner of another topic's own sentence.
fn harmless(topic: Topic, word: &str) -> bool {
    match topic {
        Topic::PitchRange | Topic::FinalSlope => matches!(
            word,
            "clearly" | "clear" | "raise" | "lift" | "high" | "low" | "higher" | "lower" | "up" | "down" | "different"
        ),
        Topic::ArticulationRate => matches!(word, "easy" | "hard" | "clear" | "clearly" | "difficult" | "harder" | "steady"),
        Topic::PauseRatio | Topic::LongestPause => {
            matches!(word, "easy" | "hard" | "clear" | "clearly" | "flow" | "difficult" | "harder")
        }
        Topic::RepetitionDepth => matches!(word, "deeper" | "bent" | "bend" | "low" | "lower" | "lowest"),
        Topic::Symmetry => true,
        Topic::Timing | Topic::JointAngle | Topic::Amplitude => matches!(word, "closely" | "clear" | "clearly"),
        Topic::GestureSync | Topic::Congruence => matches!(word, "loud" | "louder" | "clear"),
        Topic::OmittedWords | Topic::AddedWords => matches!(word, "clear" | "clearly"),
        _ => matches!(word, "clear" | "clearly"),
    }
}

/// "not late", "isn't too fast", "less bent", "instead of rushing".
fn negated(tokens: &[Token], i: usize) -> bool {
    const NOT: [&str; 17] = [
        "not", "no", "never", "without", "avoid", "don't", "isn't", "wasn't", "aren't", "weren't", "didn't", "doesn't",
        "instead", "rather", "nor", "stop", "hardly",
    ];
    // "Instead of" opens its own clause, so the last three words are looked at whatever their clause.
    let from = i.saturating_sub(3);
    let turned = tokens[from..i].iter().filter(|t| t.sentence == tokens[i].sentence && NOT.contains(&t.text)).count();
    let less = i.checked_sub(1).is_some_and(|j| matches!(tokens[j].text, "less" | "least"));
    let enough = tokens.get(i + 1).is_some_and(|t| t.text == "enough") && turned == 0;
    (turned + usize::from(less)) % 2 == 1 && !enough
}

/// Whether the clause of the word is about the teacher.
fn teacher_speaks(tokens: &[Token], i: usize) -> bool {
    let clause = tokens[i].clause;
    (0..i).rev().take_while(|&j| tokens[j].clause == clause).find_map(|j| {
        if is_teacher(tokens[j].text) && !is_object(tokens, j) {
            Some(true)
        } else if matches!(tokens[j].text, "you" | "your" | "you're") && !is_object(tokens, j) {
            Some(false)
        } else {
            None
        }
    }) == Some(true)
}

/// Limbs and sides: those of the point, and no other where something is stated.
fn limbs(point: &Point, tokens: &[Token], moods: &[Mood]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let own = |limb: &str| match point.part {
        Some(part) => {
            part.joint() == limb || matches!((part.joint(), limb), ("knee" | "hip", "leg") | ("elbow" | "shoulder", "arm"))
        }
        None => false,
    };
    let sided = point.topic == Topic::Symmetry;
    let mut named = false;
    for (i, token) in tokens.iter().enumerate() {
        if let Some(limb) = limb(token.text) {
            named |= own(limb);
            let tip = moods[token.clause] == Mood::Remedy && !matches!(limb, "knee" | "elbow" | "hip" | "leg" | "arm");
            if !own(limb) && !tip && !(matches!(limb, "hand") && matches!(point.topic, Topic::GestureRate | Topic::GestureSync))
            {
                faults.push(Fault::new(Kind::Limb, format!("“{}”", token.text)));
            }
        }
        let side = match token.text {
            "left"
                if tokens.get(i + 1).is_some_and(|t| t.text == "out")
                    || matches!(i.checked_sub(1).map_or("", |j| tokens[j].text), "you" | "you've" | "was" | "were") =>
            {
                continue;
            }
            "right" if !is_side(tokens, i) => continue,
            "left" => true,
            "right" => false,
            "both" if point.part.is_some() && !sided => {
                faults.push(Fault::new(Kind::Limb, "“both”"));
                continue;
            }
            _ => continue,
        };
        match point.part {
            Some(_) if sided => faults.extend(lesser_side(point, tokens, i, side)),
            Some(part) if part.is_left() == side && point.topic != Topic::RepetitionDepth => {}
            _ => faults.push(Fault::new(Kind::Limb, format!("“{}”", token.text))),
        }
    }
    if let (Some(part), Topic::JointAngle | Topic::Amplitude) = (point.part, point.topic) {
        let side = if part.is_left() { "left" } else { "right" };
        if !named || !tokens.iter().any(|t| t.text == side) {
            faults.push(Fault::new(Kind::Limb, "the limb is not named"));
        }
    }
    faults
}

/// "Right" as a side, not "right now" or "that's right".
fn is_side(tokens: &[Token], i: usize) -> bool {
    let after = tokens.get(i + 1).map_or("", |t| t.text);
    limb(after).is_some() || matches!(after, "side" | "one" | "through") || near(tokens, i, 3, &["left", "your"])
}

/// Which side does less: the words next to a side must say so of the right one, and its degrees must be its own.
fn lesser_side(point: &Point, tokens: &[Token], i: usize, left: bool) -> Option<Fault> {
    let lesser = point.part.map(Part::is_left) == Some(left);
    let after = tokens[i + 1..].iter().take_while(|t| !matches!(t.text, "left" | "right") && t.sentence == tokens[i].sentence);
    for (k, token) in after.enumerate() {
        let degrees = unit(tokens, i + 1 + k) == Some(Unit::Degrees);
        let claim = match token.text {
            "less" | "smaller" | "limited" | "weaker" | "behind" | "stiff" | "stiffer" => Some(true),
            "more" | "larger" | "bigger" | "further" | "farther" | "stronger" => Some(false),
            _ => None,
        };
        if claim.is_some_and(|less| less != lesser) && point.kind == PointKind::Advice {
            return Some(Fault::new(Kind::Limb, format!("“{}” of the wrong side", token.text)));
        }
        let value = |name: &str| point.evidence.iter().find(|m| m.name == name).map(|m| m.value);
        if let (Some((said, _)), Some(own), Some(other)) = (
            token.number.filter(|_| degrees),
            value(if left { "left_range" } else { "right_range" }),
            value(if left { "right_range" } else { "left_range" }),
        ) && (said - other).abs() < (said - own).abs()
        {
            return Some(Fault::new(Kind::Limb, format!("{said} is the other side's")));
        }
    }
    None
}

fn limb(word: &str) -> Option<&'static str> {
    let word = word.strip_suffix("'s").unwrap_or(word);
    Some(match word {
        "knee" | "knees" => "knee",
        "elbow" | "elbows" => "elbow",
        "shoulder" | "shoulders" => "shoulder",
        "hip" | "hips" => "hip",
        "leg" | "legs" | "thigh" | "thighs" => "leg",
        "arm" | "arms" | "forearm" => "arm",
        "wrist" | "wrists" => "wrist",
        "ankle" | "ankles" => "ankle",
        "foot" | "feet" | "toe" | "toes" | "heel" | "heels" => "foot",
        "hand" | "hands" | "finger" | "fingers" => "hand",
        "head" | "neck" | "chin" => "head",
        "back" | "spine" | "torso" | "trunk" | "chest" => "back",
        _ => return None,
    })
}

/// Nouns by what they are about. Stating something of another subject is a claim that nobody measured.
fn subjects(point: &Point, tokens: &[Token], moods: &[Mood]) -> Vec<Fault> {
    let own = claims::subjects(point.topic);
    let axes = claims::axes(point.topic, point.part);
    let mut faults = Vec::new();
    let mut about = matches!(point.topic, Topic::NoSpeech | Topic::NoPerson | Topic::NoFace | Topic::TooShort);
    for (i, token) in tokens.iter().enumerate() {
        about |= sides(token.text).iter().any(|s| axes.contains(&s.0));
        about |= point.part.is_some_and(|p| limb(token.text) == Some(p.joint()));
        let Some(subject) = subject(token.text) else { continue };
        about |= own.contains(&subject);
        // "A rate of 4.5", "at a time": not the subject itself.
        let loose = matches!(
            token.text,
            "words" | "word" | "sentence" | "phrase" | "voice" | "speech" | "move" | "moves" | "movement" | "stop"
        ) || token.text == "back" && i > 0;
        let stated = moods[token.clause] == Mood::State && !loose;
        if !own.contains(&subject) && (stated || subject == Subject::Unmeasured) {
            faults.push(Fault::new(Kind::Topic, format!("“{}” was not measured here", token.text)));
        }
    }
    if !about {
        faults.push(Fault::new(Kind::Topic, "is not about the point"));
    }
    faults
}

#[rustfmt::skip]
fn subject(word: &str) -> Option<Subject> {
    Some(match word {
        "pace" | "tempo" | "speed" | "syllables" | "syllable" | "rate" => Subject::Pace,
        "pause" | "pauses" | "paused" | "pausing" | "silence" | "silences" | "gap" | "gaps" | "hesitation" | "hesitate" | "stop" | "stops" => Subject::Pauses,
        "pitch" | "intonation" | "melody" | "tone" | "semitones" | "semitone" | "question" | "ending" => Subject::Pitch,
        "rhythm" | "beat" | "timing" | "vowels" | "vowel" | "contrast" | "intervals" | "interval" => Subject::Rhythm,
        "volume" | "loudness" | "decibels" | "db" => Subject::Loudness,
        "pronunciation" | "pronounce" | "pronounced" | "pronouncing" | "word" | "words" | "text" | "q" | "script" => Subject::Words,
        "movement" | "movements" | "move" | "moves" | "motion" | "repetition" | "repetitions" | "squat" | "squats" | "depth" | "body" | "dance" | "bursts" => Subject::Movement,
        "face" | "smile" | "smiling" | "expression" | "expressions" | "eyes" | "emotion" | "emotions" => Subject::Face,
        "gesture" | "gestures" => Subject::Gestures,
        "voice" | "speech" | "speaking" | "spoke" | "speak" | "sound" => Subject::Voice,
        "grammar" | "vocabulary" | "accent" | "posture" | "confidence" | "confident" | "spelling" | "balance" | "flexibility" | "strength" | "energy" | "fluency" | "grade" | "score" | "nervous" | "breathing" | "muscle" | "muscles" | "core" | "eye" | "heart" | "weight" => Subject::Unmeasured,
        _ => return None,
    })
}

fn polarity(point: &Point, tokens: &[Token], moods: &[Mood], lower: &str) -> Vec<Fault> {
    const FAULTS: [&str; 27] = [
        "too",
        "but",
        "however",
        "needs",
        "should",
        "problem",
        "wrong",
        "bad",
        "poor",
        "poorly",
        "lack",
        "lacks",
        "lacking",
        "improve",
        "improvement",
        "mistake",
        "mistakes",
        "error",
        "errors",
        "unfortunately",
        "weak",
        "struggle",
        "struggled",
        "unclear",
        "incorrect",
        "unnatural",
        "try",
    ];
    const PRAISE: [&str; 18] = [
        "perfect",
        "perfectly",
        "excellent",
        "flawless",
        "outstanding",
        "impressive",
        "amazing",
        "fantastic",
        "wonderful",
        "great",
        "good",
        "nice",
        "nicely",
        "superb",
        "brilliant",
        "beautifully",
        "ideal",
        "true",
    ];
    let word = match point.kind {
        PointKind::Strength => tokens.iter().enumerate().find(|(i, t)| FAULTS.contains(&t.text) && !negated(tokens, *i)),
        PointKind::Advice => tokens.iter().enumerate().find(|(i, t)| {
            let next = tokens.get(i + 1).map_or("", |t| t.text);
            let encouraging =
                matches!(next, "start" | "effort" | "try" | "attempt" | "way" | "idea" | "work" | "light" | "lighting");
            PRAISE.contains(&t.text)
                && moods[t.clause] == Mood::State
                && !encouraging
                && !negated(tokens, *i)
                && !near(tokens, *i, 3, &["than", "to"])
        }),
    };
    // Advice in praise, unless it is to go on; "as the teacher does" in advice.
    const GOING_ON: [&str; 7] = ["keep", "stay", "continue", "enjoy", "hold", "carry", "way"];
    const EQUAL: [&str; 17] = [
        "as often as",
        "as much as",
        "as fast as",
        "as wide as",
        "as high as",
        "as well as",
        "same as",
        "similar to",
        "in time with",
        "close to",
        "closely",
        "matches",
        "you kept",
        "on par",
        "inside the",
        "within the",
        "same space",
    ];
    if point.kind == PointKind::Strength {
        let advised = tokens.iter().filter(|t| moods[t.clause] == Mood::Remedy);
        let on = |clause: usize| tokens.iter().any(|t| t.clause == clause && GOING_ON.contains(&t.text));
        if let Some(t) = advised.into_iter().find(|t| !on(t.clause)) {
            return vec![Fault::new(Kind::Polarity, format!("advice in praise: “{}”", t.text))];
        }
    } else if let Some(equal) = EQUAL.iter().find(|e| stated_in(tokens, moods, e)) {
        return vec![Fault::new(Kind::Polarity, format!("“{equal}”"))];
    }
    const SATISFIED: [&str; 9] =
        ["well done", "great job", "good job", "nice job", "keep it up", "just right", "spot on", "no need", "no change"];
    let phrase = SATISFIED.iter().find(|p| point.kind == PointKind::Advice && lower.contains(**p));
    word.map(|(_, t)| t.text).or(phrase.copied()).map(|w| Fault::new(Kind::Polarity, format!("“{w}”"))).into_iter().collect()
}

/// Whether the words stand one after another in a clause that states.
fn stated_in(tokens: &[Token], moods: &[Mood], phrase: &str) -> bool {
    let words: Vec<&str> = phrase.split(' ').collect();
    tokens.windows(words.len()).any(|w| moods[w[0].clause] == Mood::State && w.iter().zip(&words).all(|(t, p)| t.text == *p))
}

/// A changed word: the expected one comes "out as", or is heard "instead of", never the reverse.
fn changed_order(point: &Point, text: &str) -> Vec<Fault> {
    let (Topic::ChangedWords, [said, expected]) = (point.topic, point.words.as_slice()) else { return Vec::new() };
    let lower = text.to_lowercase();
    let place = |w: &str| lower.find(&w.to_lowercase());
    let (Some(said_at), Some(expected_at)) = (place(said), place(expected)) else {
        return vec![Fault::new(Kind::Quote, "both words must be named")];
    };
    let (first, second) = (said_at.min(expected_at), said_at.max(expected_at));
    let between = &lower[first..second];
    let expected_first = expected_at < said_at;
    let wrong = if ["out as", "like", "sounded", "heard as", "became"].iter().any(|w| between.contains(w)) {
        !expected_first
    } else if ["instead of", "rather than", "for", "where the text", "in place of"].iter().any(|w| between.contains(w)) {
        expected_first
    } else {
        true
    };
    if wrong { vec![Fault::new(Kind::Quote, "which word was said and which was expected")] } else { Vec::new() }
}
