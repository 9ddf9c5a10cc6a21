//! Messages: text, pictures as data URIs, sound in base64. Nothing is fetched for a client.

use axum::http::StatusCode;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use dreamseed_models::chat::Role;
use serde::Deserialize;
use utoipa::ToSchema;

use super::super::error::Problem;
use crate::media::{self, Frame, Limits};

/// Most messages of a conversation, and most pictures in it.
const MOST_MESSAGES: usize = 4096;
const MOST_PICTURES: usize = 16;

/// One turn.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ChatMessage {
    /// `system` (or `developer`), `user`, `assistant`.
    role: String,
    content: Option<Content>,
}

/// Text, or parts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part {
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
struct ImageUrl {
    url: String,
}

#[derive(Debug, Deserialize, ToSchema)]
struct InputAudio {
    data: String,
}

/// A turn as the engine takes it, its media decoded.
pub(super) struct Turn {
    pub(super) role: Role,
    pub(super) pieces: Vec<Piece>,
    pub(super) pictures: Vec<Frame>,
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
    if turns.last().is_none_or(|t| t.role != Role::User) {
        return Err(Problem::invalid("the last message must be the user's").of_param("messages"));
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
            other => {
                let shown: String = other.chars().take(60).collect();
                return Err(Problem::invalid(format!("role {shown:?}; system, developer, user and assistant are known")));
            }
        };
        let mut turn = Turn { role, pieces: Vec::new(), pictures: Vec::new() };
        let parts = match self.content {
            Some(Content::Text(text)) => vec![Part::Text { text }],
            Some(Content::Parts(parts)) => parts,
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

/// The base64 of a data URI.
fn data_uri(url: &str) -> Result<&str, Problem> {
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
fn decode<T>(
    data: &str,
    open: impl FnOnce(&std::path::Path, &Limits) -> crate::Result<T>,
    limits: &Limits,
) -> Result<T, Problem> {
    let bytes = STANDARD.decode(data.trim()).map_err(|e| Problem::invalid(format!("this is no base64: {e}")))?;
    let file = tempfile::NamedTempFile::new().map_err(Problem::internal)?;
    std::fs::write(file.path(), bytes).map_err(Problem::internal)?;
    Ok(open(file.path(), limits)?)
}
