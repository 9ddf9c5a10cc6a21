//! Messages: text, pictures as data URIs, sound in base64. Nothing is fetched for a client.

use axum::http::StatusCode;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use dreamseed_models::chat::{Call, Role};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::super::error::Problem;
use crate::media::{self, Frame, Limits};

/// Most messages of a conversation, and most pictures in it.
const MOST_MESSAGES: usize = 4096;
const MOST_PICTURES: usize = 16;
/// Most calls of functions in one message.
const MOST_CALLS: usize = 128;

/// One turn.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(super) struct ChatMessage {
    /// `system` (or `developer`), `user`, `assistant`, `tool`.
    pub(super) role: String,
    /// Text, or parts; the assistant's may be null where it calls functions.
    pub(super) content: Option<Content>,
    /// Functions that the assistant called.
    pub(super) tool_calls: Option<Vec<CallSpec>>,
    /// Of a tool's message: the call that it answers.
    pub(super) tool_call_id: Option<String>,
}

/// A call of the assistant's, as it was given out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum CallSpec {
    Function { id: String, function: CalledFunction },
}

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct CalledFunction {
    pub(super) name: String,
    /// JSON of an object.
    pub(super) arguments: String,
}

/// Text, or parts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Part {
    Text {
        text: String,
    },
    /// A picture as `data:image/...;base64,...`.
    ImageUrl {
        image_url: ImageUrl,
    },
    /// Sound in base64; what is said in it takes its place.
    InputAudio {
        input_audio: InputAudio,
    },
    Refusal {
        refusal: String,
    },
}

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ImageUrl {
    pub(super) url: String,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct InputAudio {
    pub(super) data: String,
}

/// A turn as the engine takes it, its media decoded.
pub(super) struct Turn {
    pub(super) role: Role,
    pub(super) pieces: Vec<Piece>,
    pub(super) pictures: Vec<Frame>,
    pub(super) calls: Vec<Call>,
    pub(super) answers: Option<String>,
}

/// A stretch of a turn's text.
pub(super) enum Piece {
    Text(String),
    /// 16 kHz mono, to be written down.
    Sound(Vec<f32>),
}

impl Piece {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Sound(_) => None,
        }
    }
}

/// The conversation with its media decoded; blocks.
///
/// # Errors
/// 400 with the message's place.
pub(super) fn turns(messages: Vec<ChatMessage>, limits: &Limits) -> Result<Vec<Turn>, Problem> {
    if messages.is_empty() || messages.len() > MOST_MESSAGES {
        let problem = format!("{} messages; 1 to {MOST_MESSAGES} are allowed", messages.len());
        return Err(Problem::invalid(problem).of_param("messages"));
    }
    let turn = |(i, m): (usize, ChatMessage)| m.turn(limits).map_err(|p| p.of_param(format!("messages[{i}]")));
    let turns: Vec<Turn> = messages.into_iter().enumerate().map(turn).collect::<Result<_, _>>()?;
    if turns.last().is_none_or(|t| !matches!(t.role, Role::User | Role::Tool)) {
        return Err(Problem::invalid("the last message must be the user's or a tool's").of_param("messages"));
    }
    let mut called = std::collections::HashSet::new();
    for (i, turn) in turns.iter().enumerate() {
        called.extend(turn.calls.iter().map(|call| call.id.as_str()));
        if turn.answers.as_deref().is_some_and(|id| !called.contains(id)) {
            let problem = Problem::invalid("it answers a call that no message before it makes");
            return Err(problem.of_param(format!("messages[{i}].tool_call_id")));
        }
    }
    let pictures: usize = turns.iter().map(|t| t.pictures.len()).sum();
    if pictures > MOST_PICTURES {
        return Err(Problem::invalid(format!("{pictures} pictures; at most {MOST_PICTURES} are allowed")).of_param("messages"));
    }
    Ok(turns)
}

impl ChatMessage {
    fn turn(self, limits: &Limits) -> Result<Turn, Problem> {
        let role = match self.role.as_str() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" => Role::Tool,
            other => {
                let shown: String = other.chars().take(60).collect();
                return Err(Problem::invalid(format!("role {shown:?}; system, developer, user, assistant and tool are known")));
            }
        };
        let calls = self.tool_calls.unwrap_or_default();
        if calls.len() > MOST_CALLS || (!calls.is_empty() && role != Role::Assistant) {
            let problem = format!("{} calls; at most {MOST_CALLS} are allowed, in the assistant's messages alone", calls.len());
            return Err(Problem::invalid(problem));
        }
        let calls = calls.into_iter().map(CallSpec::call).collect::<Result<Vec<_>, _>>()?;
        if self.tool_call_id.is_some() != (role == Role::Tool) {
            return Err(Problem::invalid("tool_call_id names the call that a tool's message answers: there, and nowhere else"));
        }
        let answers = self.tool_call_id;
        let mut turn = Turn { role, pieces: Vec::new(), pictures: Vec::new(), calls, answers };
        let parts = match self.content {
            Some(Content::Text(text)) => vec![Part::Text { text }],
            Some(Content::Parts(parts)) => parts,
            None if !turn.calls.is_empty() => Vec::new(),
            None => return Err(Problem::invalid("a message without content")),
        };
        for part in parts {
            match part {
                Part::Text { text } | Part::Refusal { refusal: text } => turn.pieces.push(Piece::Text(text)),
                Part::ImageUrl { .. } | Part::InputAudio { .. } if role != Role::User => {
                    return Err(Problem::invalid("pictures and sound are taken in the user's messages alone"));
                }
                Part::ImageUrl { image_url } => {
                    turn.pictures.push(decode(data_uri(&image_url.url)?, media::open_picture, limits)?);
                }
                Part::InputAudio { input_audio } => {
                    turn.pieces.push(Piece::Sound(decode(&input_audio.data, media::open_audio, limits)?));
                }
            }
        }
        Ok(turn)
    }
}

impl CallSpec {
    fn call(self) -> Result<Call, Problem> {
        let Self::Function { id, function: CalledFunction { name, arguments } } = self;
        // many a client sends nothing where a function takes nothing
        let text = if arguments.trim().is_empty() { "{}" } else { &arguments };
        match serde_json::from_str::<Value>(text) {
            Ok(arguments) if arguments.is_object() => Ok(Call { id, name, arguments }),
            _ => {
                let shown: String = name.chars().take(64).collect();
                Err(Problem::invalid(format!("the arguments of the call of {shown:?} are no JSON of an object")))
            }
        }
    }
}

/// The base64 of a data URI.
pub(super) fn data_uri(url: &str) -> Result<&str, Problem> {
    let data = url.strip_prefix("data:").and_then(|rest| rest.split_once(','));
    match data {
        Some((head, data)) if head.starts_with("image/") && head.ends_with(";base64") => Ok(data),
        _ => {
            let message = "pictures are taken as data URIs, data:image/png;base64,...; addresses are not fetched";
            Err(Problem::new(StatusCode::BAD_REQUEST, "remote_url", message))
        }
    }
}

/// What a text in base64 holds, through the same checks as any file.
pub(super) fn decode<T>(
    data: &str,
    open: impl FnOnce(&std::path::Path, &Limits) -> crate::Result<T>,
    limits: &Limits,
) -> Result<T, Problem> {
    let bytes = STANDARD.decode(data.trim()).map_err(|e| Problem::invalid(format!("this is no base64: {e}")))?;
    let file = tempfile::NamedTempFile::new().map_err(Problem::internal)?;
    std::fs::write(file.path(), bytes).map_err(Problem::internal)?;
    Ok(open(file.path(), limits)?)
}
