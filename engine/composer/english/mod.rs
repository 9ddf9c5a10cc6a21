//! The checks of an English text.

mod directions;
mod numbers;
mod persons;
mod subjects;
mod text;

use self::text::{Mood, Token, listed, near};
use super::{
    check::{self, Fault, Kind},
    claims,
};
use crate::coach::{Point, PointKind, Topic};

/// All faults of the text; `plain` has its quotations blanked out.
pub(super) fn check(point: &Point, plain: &str, whole: &str) -> Vec<Fault> {
    // Both lengths belong to the name of the contrast and lean no way.
    let lower = plain.to_lowercase().replace('’', "'").replace("long and short vowels", "vowels");
    let tokens = text::tokenize(&lower);
    let moods = text::moods(&tokens);
    let mut faults = check::numbers(point, &numbers::found(point, &tokens, &moods));
    faults.extend(echo(&lower));
    faults.extend(persons::persons(point, &tokens, &lower));
    faults.extend(directions::directions(point, &tokens, &moods));
    faults.extend(subjects::limbs(point, &tokens, &moods));
    faults.extend(subjects::subjects(point, &tokens, &moods));
    faults.extend(polarity(point, &tokens, &moods, &lower));
    faults.extend(changed_order(point, whole));
    faults.extend(ungrounded(point, &tokens, &moods));
    faults
}

fn echo(lower: &str) -> Vec<Fault> {
    const OWN: [&str; 33] = [
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
        "example",
        "each step",
        " cm ",
        "original",
    ];
    OWN.iter().find(|w| lower.contains(**w)).map(|w| Fault::new(Kind::Echo, *w)).into_iter().collect()
}

fn polarity(point: &Point, tokens: &[Token], moods: &[Mood], lower: &str) -> Vec<Fault> {
    const FAULTS: &str = "too but however needs should problem wrong bad poor poorly lack lacks lacking improve improvement mistake \
        mistakes error errors unfortunately weak struggle struggled unclear incorrect unnatural try";
    const PRAISE: &str = "perfect perfectly excellent flawless outstanding impressive amazing fantastic wonderful great good nice nicely \
        superb brilliant beautifully ideal true";
    let word = match point.kind {
        PointKind::Strength => {
            tokens.iter().enumerate().find(|(i, t)| listed(FAULTS, t.text) && !directions::negated(tokens, *i))
        }
        PointKind::Advice => tokens.iter().enumerate().find(|(i, t)| {
            let next = tokens.get(i + 1).map_or("", |t| t.text);
            let encouraging =
                matches!(next, "start" | "effort" | "try" | "attempt" | "way" | "idea" | "work" | "light" | "lighting");
            listed(PRAISE, t.text)
                && moods[t.clause] == Mood::State
                && !encouraging
                && !directions::negated(tokens, *i)
                && !near(tokens, *i, 3, "than to")
        }),
    };
    // Advice in praise, unless it is to go on; "as the teacher does" in advice.
    const GOING_ON: [&str; 7] = ["keep", "stay", "continue", "enjoy", "hold", "carry", "way"];
    const EQUAL: [&str; 20] = [
        "as often as",
        "words came out as written",
        "follows the",
        "keep the teacher's",
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

/// Advice of the model's own making: of what it tells the learner to do, at least a third of the words must be the planner's or
/// lie on the point's scales. ("Try to leave that phrase in a different way.")
fn ungrounded(point: &Point, tokens: &[Token], moods: &[Mood]) -> Option<Fault> {
    const COMMON: &str = "try to the a an and or of in on at it its your you that this as so for with by is be are will more little bit \
                          again then let them each every one into from before after while up out just can not any some";
    let sentence = point.sentence.to_lowercase();
    let known: Vec<&str> = sentence.split(|c: char| !c.is_alphanumeric()).filter(|w| w.len() > 2).collect();
    let axes = claims::axes(point.topic, point.part);
    let words: Vec<&Token> = tokens
        .iter()
        .filter(|t| moods[t.clause] == Mood::Remedy && t.text.len() > 2 && t.number.is_none() && !listed(COMMON, t.text))
        .collect();
    // "slowing" and "slow", "breathe" and "breath": the first four letters tell.
    let stem = |w: &str| w.chars().take(4).collect::<String>();
    let grounded = |t: &&&Token| {
        known.iter().any(|k| stem(k) == stem(t.text)) || directions::sides(t.text).iter().any(|s| axes.contains(&s.0))
    };
    let own = words.iter().filter(grounded).count();
    (words.len() >= 3 && own * 3 < words.len()).then(|| {
        Fault::new(Kind::Topic, format!("advice of its own: “{}”", words.iter().map(|t| t.text).collect::<Vec<_>>().join(" ")))
    })
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
