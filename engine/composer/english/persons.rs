//! Who an English text speaks of and to.

use super::{
    super::{
        check::{Fault, Kind},
        claims::{self, Owner},
    },
    text::{Token, listed},
};
use crate::coach::{Point, Topic};

/// The last person named before the token in its sentence, objects of a comparison left out.
pub(super) fn person(tokens: &[Token], i: usize) -> Option<Owner> {
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

pub(super) fn is_teacher(word: &str) -> bool {
    let word = word.strip_suffix("'s").unwrap_or(word);
    matches!(word, "teacher" | "teachers" | "instructor" | "reference" | "model" | "trainer" | "expert" | "coach" | "tutor")
}

/// "than the teacher", "against your teacher's": compared with, not spoken of.
pub(super) fn is_object(tokens: &[Token], j: usize) -> bool {
    let before = tokens[..j].iter().rev().find(|t| !matches!(t.text, "the" | "your" | "our" | "a" | "that" | "when"));
    before.is_some_and(|t| t.sentence == tokens[j].sentence && listed(OBJECT, t.text))
}

/// Words whose object is only compared with.
const OBJECT: &str = "than against behind with to of after before as like from match matching follow following follows copy mirror watch \
    unlike matches kept keep versus imitate shadow play on for";

/// Who is spoken of and to: the learner is "you"; a teacher exists only in a comparison; nobody says "I am late".
pub(super) fn persons(point: &Point, tokens: &[Token], lower: &str) -> Vec<Fault> {
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
