//! OpenAI's API over the engine: what its clients send, within what a local engine does. What is not done is refused by name, never
//! ignored.

pub(super) mod audio;
mod calls;
pub(super) mod chat;
pub(super) mod completions;
mod content;
pub(super) mod embeddings;
mod job;
mod params;
pub(super) mod responses;
mod tools;

use std::time::{SystemTime, UNIX_EPOCH};

use axum::{
    Json,
    extract::{FromRequest, Request, rejection::JsonRejection},
    http::StatusCode,
    response::sse::Event,
};
use serde::{Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

use super::error::Problem;
use crate::llm::{Finish, Generation};

/// A body in JSON, with errors in the API's form.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let wrong = |e: JsonRejection| {
            let code = match e.status() {
                StatusCode::PAYLOAD_TOO_LARGE => "body_too_large",
                StatusCode::UNSUPPORTED_MEDIA_TYPE => "not_json",
                _ => "invalid_json",
            };
            // what is no JSON and what is JSON of another kind are one thing to a client
            let status = if e.status() == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { e.status() };
            Problem::new(status, code, e.body_text())
        };
        Json::from_request(request, state).await.map(|Json(body)| Self(body)).map_err(wrong)
    }
}

/// Tokens that a request took.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(super) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

/// Of a prompt's tokens, those that were known already.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(super) struct PromptDetails {
    cached_tokens: usize,
}

impl Usage {
    /// Of several answers to one prompt.
    fn of<'a>(texts: impl IntoIterator<Item = &'a Generation>) -> Self {
        let mut usage = Self::default();
        for text in texts {
            usage.prompt_tokens = usage.prompt_tokens.max(text.prompt_tokens.len());
            usage.completion_tokens += text.tokens.len();
            usage.prompt_tokens_details.cached_tokens = usage.prompt_tokens_details.cached_tokens.max(text.reused_tokens);
        }
        usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
        usage
    }
}

/// Why a text ended, in OpenAI's words.
fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Eos | Finish::Stop | Finish::Cancelled => "stop",
        Finish::Length => "length",
    }
}

/// `chatcmpl-...`: of no other answer.
fn answer_id(kind: &str) -> String {
    format!("{kind}{:016x}{:08x}", random(), random() as u32)
}

/// Bits that nobody has to guess, only tell apart: of the standard library's seeds.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// An event of a stream.
fn event(value: &impl Serialize) -> Event {
    Event::default().json_data(value).unwrap_or_else(|e| Event::default().comment(e.to_string()))
}
