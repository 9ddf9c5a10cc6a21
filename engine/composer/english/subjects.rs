//! Limbs and subjects of an English text: those of the point, and no other where something is stated.

use super::{
    super::{
        check::{Fault, Kind},
        claims::{self, Subject, Unit},
    },
    directions::sides,
    numbers::unit,
    text::{Mood, Token, near},
};
use crate::coach::{Part, Point, PointKind, Topic};

/// Limbs and sides: those of the point, and no other where something is stated.
pub(super) fn limbs(point: &Point, tokens: &[Token], moods: &[Mood]) -> Vec<Fault> {
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
            let gesture = limb == "hand" && matches!(point.topic, Topic::GestureRate | Topic::GestureSync);
            if !(own(limb) || tip || gesture) {
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
    limb(after).is_some() || matches!(after, "side" | "one" | "through") || near(tokens, i, 3, "left your")
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
pub(super) fn subjects(point: &Point, tokens: &[Token], moods: &[Mood]) -> Vec<Fault> {
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
        "movement" | "movements" | "move" | "moves" | "motion" | "repetition" | "repetitions" | "squat" | "squats" | "step" | "steps" | "stride" | "depth" | "body" | "dance" | "bursts" => Subject::Movement,
        "face" | "smile" | "smiling" | "expression" | "expressions" | "eyes" | "emotion" | "emotions" => Subject::Face,
        "gesture" | "gestures" => Subject::Gestures,
        "voice" | "speech" | "speaking" | "spoke" | "speak" | "sound" => Subject::Voice,
        "grammar" | "vocabulary" | "accent" | "posture" | "confidence" | "confident" | "spelling" | "balance" | "flexibility" | "strength" | "energy" | "fluency" | "grade" | "score" | "nervous" | "breathing" | "muscle" | "muscles" | "core" | "eye" | "heart" | "weight" => Subject::Unmeasured,
        _ => return None,
    })
}
