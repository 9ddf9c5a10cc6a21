//! Which way the words of an English text lean.

use super::{
    super::{
        check::{Fault, Kind},
        claims::{self, Axis},
    },
    persons::{is_object, is_teacher},
    text::{Mood, Token, listed},
};
use crate::coach::{Point, PointKind, Topic};

/// Words with a side, by their scale.
#[rustfmt::skip]
pub(super) fn sides(word: &str) -> &'static [(Axis, i8)] {
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
pub(super) fn directions(point: &Point, tokens: &[Token], moods: &[Mood]) -> Vec<Fault> {
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
        Topic::Timing | Topic::BeatTiming | Topic::JointAngle | Topic::Amplitude => {
            matches!(word, "closely" | "clear" | "clearly")
        }
        Topic::GestureSync | Topic::Congruence => matches!(word, "loud" | "louder" | "clear"),
        Topic::OmittedWords | Topic::AddedWords => matches!(word, "clear" | "clearly"),
        _ => matches!(word, "clear" | "clearly"),
    }
}

/// "not late", "isn't too fast", "less bent", "instead of rushing".
pub(super) fn negated(tokens: &[Token], i: usize) -> bool {
    const NOT: &str =
        "not no never without avoid don't isn't wasn't aren't weren't didn't doesn't instead rather nor stop hardly";
    // "Instead of" opens its own clause, so the last three words are looked at whatever their clause.
    let from = i.saturating_sub(3);
    let turned = tokens[from..i].iter().filter(|t| t.sentence == tokens[i].sentence && listed(NOT, t.text)).count();
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
