//! The messages of /v1/realtime.

use std::collections::BTreeMap;

use axum::extract::ws::{Message, Utf8Bytes};
use dreamseed_models::{face, pose::Person};
use serde::{Deserialize, Serialize};

use crate::{
    coach::{Lab, Language},
    extract::Observed,
    live::Curve,
    serve::error::{ErrorBody, Problem},
};

/// Longest message in JSON, bytes.
const LONGEST: usize = 64 << 10;
/// What stands before sound or a picture: its kind, and its seconds.
const HEAD: usize = 9;

/// A client's message in JSON.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Said {
    Start(Start),
    End {},
}

/// What is to be done.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Start {
    /// `None`: by what comes.
    pub(super) lab: Option<Lab>,
    /// Of the feedback.
    pub(super) language: Language,
    /// What should be said.
    pub(super) text: Option<String>,
    /// The language that is spoken.
    pub(super) spoken: Option<String>,
    /// Whether a language model phrases the points; `None` is yes.
    pub(super) llm: Option<bool>,
    /// Which one.
    pub(super) model: Option<String>,
    pub(super) seed: u64,
    /// How many bodies are followed; 0 is 1.
    pub(super) people: usize,
}

/// What comes after the start.
#[derive(Debug, PartialEq)]
pub(super) enum Input {
    /// Seconds of the first sample, and samples.
    Sound(f64, Vec<f32>),
    /// Seconds, and a picture as it was encoded.
    Picture(f64, Vec<u8>),
    End,
}

/// An event that is not the listener's or the lesson's.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Told<'a> {
    Ready {
        limits: Limits,
    },
    Pose {
        t: f64,
        width: u32,
        height: u32,
        people: &'a [Person],
        dropped: usize,
    },
    Face {
        t: f64,
        faces: Vec<Face>,
    },
    Pitch(Curve),
    /// What was made live is complete.
    Ended {
        seconds: f64,
        pictures: usize,
        dropped: usize,
    },
    Error(ErrorBody),
}

/// What a clip may have.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Limits {
    pub(super) seconds: f64,
    pub(super) pictures: usize,
    /// Of a picture.
    pub(super) pixels: u64,
    /// Of a message.
    pub(super) bytes: usize,
}

/// A face without its mesh, which nobody needs fifteen times a second.
#[derive(Serialize)]
pub(super) struct Face {
    bbox: [f32; 4],
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    expression: Option<BTreeMap<&'static str, f32>>,
}

impl<'a> Told<'a> {
    pub(super) fn pose(seen: &'a Observed<Person>, dropped: usize) -> Self {
        Self::Pose { t: seen.t, width: seen.width, height: seen.height, people: &seen.found, dropped }
    }

    pub(super) fn face(seen: &Observed<face::Face>) -> Self {
        let expression = |f: &face::Face| Some(face::EXPRESSIONS.into_iter().zip(f.expression?).collect());
        let faces = seen.found.iter().map(|f| Face { bbox: f.bbox, score: f.score, expression: expression(f) });
        Self::Face { t: seen.t, faces: faces.collect() }
    }
}

/// An event as it is sent.
pub(super) fn json(event: &impl Serialize) -> Utf8Bytes {
    serde_json::to_string(event).unwrap_or_default().into()
}

/// The first message.
///
/// # Errors
/// 400 for anything else than `start`, and for what is not known in it.
pub(super) fn start(text: &str) -> Result<Start, Problem> {
    match said(text)? {
        Said::Start(start) if start.people <= 16 => Ok(start),
        Said::Start(start) => Err(Problem::invalid(format!("{} seen; 1 to 16 is allowed", start.people)).of_param("people")),
        Said::End {} => Err(Problem::invalid("the first message is {\"type\": \"start\"}")),
    }
}

/// A message after the first.
///
/// # Errors
/// 400 for one that is none of those.
pub(super) fn input(message: Message) -> Result<Input, Problem> {
    match message {
        Message::Text(text) => match said(&text)? {
            Said::End {} => Ok(Input::End),
            Said::Start(_) => Err(Problem::invalid("it has started already")),
        },
        Message::Binary(bytes) => media(&bytes),
        _ => Err(Problem::invalid("text and binary messages are taken")),
    }
}

fn said(text: &str) -> Result<Said, Problem> {
    if text.len() > LONGEST {
        return Err(Problem::invalid(format!("a message of {} bytes; {LONGEST} are allowed of text", text.len())));
    }
    serde_json::from_str(text).map_err(|e| Problem::invalid(format!("a message that is not understood: {e}")))
}

fn media(bytes: &[u8]) -> Result<Input, Problem> {
    let short = || Problem::invalid(format!("a binary message of {} bytes; a kind, seconds and more are needed", bytes.len()));
    let (head, body) = bytes.split_at_checked(HEAD).filter(|(_, body)| !body.is_empty()).ok_or_else(short)?;
    let (kind, seconds) = head.split_first().ok_or_else(short)?;
    let t = f64::from_le_bytes(seconds.try_into().map_err(|_| short())?);
    match kind {
        1 if body.len() % 2 == 1 => {
            Err(Problem::invalid(format!("{} bytes of sound; samples of 16 bits are needed", body.len())))
        }
        1 => {
            Ok(Input::Sound(t, body.chunks_exact(2).map(|s| f32::from(i16::from_le_bytes([s[0], s[1]])) / 32_768.0).collect()))
        }
        2 => Ok(Input::Picture(t, body.to_vec())),
        other => Err(Problem::invalid(format!("a binary message of kind {other}; 1 (sound) and 2 (a picture) are known"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(kind: u8, t: f64, body: &[u8]) -> Message {
        Message::Binary([&[kind], &t.to_le_bytes()[..], body].concat().into())
    }

    #[test]
    fn messages_are_what_they_say() {
        let full =
            r#"{"type": "start", "lab": "dance", "language": "ko", "text": "가", "spoken": "ko", "llm": false, "people": 2}"#;
        let seen = start(full).unwrap();
        assert_eq!((seen.lab, seen.language, seen.llm, seen.people), (Some(Lab::Dance), Language::Korean, Some(false), 2));
        assert_eq!(start(r#"{"type": "start"}"#).unwrap().lab, None);
        assert_eq!(input(Message::Text(r#"{"type":"end"}"#.into())).unwrap(), Input::End);
        assert_eq!(input(binary(1, 0.5, &[0, 0x40, 0, 0x80])).unwrap(), Input::Sound(0.5, vec![0.5, -1.0]));
        assert_eq!(input(binary(2, 2.0, b"jpeg")).unwrap(), Input::Picture(2.0, b"jpeg".to_vec()));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let deep = format!("{}{}", "[".repeat(9000), "]".repeat(9000));
        let long = format!(r#"{{"type": "start", "text": "{}"}}"#, "x".repeat(LONGEST));
        for text in [
            "",
            "null",
            "{}",
            r#"{"type":"begin"}"#,
            r#"{"type":"end"}"#,
            r#"{"type":"start","labs":"dance"}"#,
            r#"{"type":"start","lab":"maths"}"#,
            r#"{"type":"start","people":99}"#,
            r#"{"type":"start","people":-1}"#,
            &deep,
            &long,
        ] {
            assert!(start(text).is_err(), "{text:.80}");
        }
        for message in [
            binary(1, 0.0, &[]),
            binary(1, 0.0, &[1, 2, 3]),
            binary(3, 0.0, b"x"),
            Message::Binary(vec![1; 5].into()),
            Message::Binary(Vec::new().into()),
            Message::Text(r#"{"type":"start"}"#.into()),
        ] {
            assert!(input(message).is_err());
        }
    }
}
