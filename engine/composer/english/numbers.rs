//! The numbers of an English text: unit, role and owner.

use super::{
    super::{
        check::{Found, Role},
        claims::{self, Owner, Unit},
    },
    persons::person,
    text::{Mood, Token, near},
};
use crate::coach::Point;

/// The numbers of the text, with unit, role and owner.
pub(super) fn found(point: &Point, tokens: &[Token], moods: &[Mood]) -> Vec<Found> {
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
            && (near(tokens, i, 2, MOMENT) || before.is_some_and(|_| found.last().is_some_and(|f| f.role == Role::Moment)));
        let role = if moment { Role::Moment } else { Role::Measure };
        found.push(Found { value, decimals, unit, role, owner: owner(point, tokens, moods, i, paired, &at) });
    }
    found
}

/// Words before a moment.
const MOMENT: &str = "at from between around near about until after mark";

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
pub(super) fn unit(tokens: &[Token], i: usize) -> Option<Unit> {
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
        | "steps" | "step" | "octave" | "octaves" | ":" | "/" => Unit::Other,
        "of" | "words" | "word" | "times" | "time" | "gestures" | "gesture" | "changes" | "bursts" | "pauses" | "pause"
        | "frames" | "changed" | "repetitions" | "were" | "a" => Unit::Plain,
        _ => return None,
    })
}

/// Whose number it is: by contrast ("against 85"), by aim ("up to 5.9"), else by the nearest person before it.
fn owner(point: &Point, tokens: &[Token], moods: &[Mood], i: usize, paired: bool, at: &[usize]) -> Option<Owner> {
    let relative = claims::is_relative(point);
    let aimed = near(tokens, i, 4, AIMED) || (paired && !relative && !near(tokens, i, 2, MOMENT));
    if claims::is_agreement(point) && near(tokens, i, 2, "than") {
        return Some(Owner::Target);
    }
    if relative {
        if near(tokens, i, 2, "against versus vs") || near(tokens, i, 3, "compared") {
            return Some(Owner::Teacher);
        }
        // "110° against 85°": the first of a contrast is the learner's.
        let next = at.iter().find(|&&j| j > i);
        if next.is_some_and(|&j| tokens[i + 1..j].iter().any(|t| matches!(t.text, "against" | "versus" | "vs"))) {
            return Some(Owner::Learner);
        }
        let aimed = near(tokens, i, 4, "aim target goal reach toward towards match") && moods[tokens[i].clause] == Mood::Remedy;
        return if aimed { Some(Owner::Teacher) } else { person(tokens, i) };
    }
    aimed.then_some(Owner::Target)
}

/// Words before a bound of the range.
const AIMED: &str = "than up least most under below above over within beyond inside target aim limit maximum minimum ideal recommended \
    natural goal lively usual exceeds toward towards";
