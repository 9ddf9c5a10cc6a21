//! What requests for text have in common: how to choose tokens, when to stop, what to follow.

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{super::error::Problem, random};
use crate::llm::{Grammar, Options, Sampling};

/// Most alternatives to a token.
const MOST_TOPS: usize = 20;
/// Most answers to one request.
const MOST_ANSWERS: usize = 16;
/// Most texts that end an answer, and the longest of them, bytes.
const STOPS: (usize, usize) = (16, 1024);

/// How to choose tokens.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(super) struct Params {
    /// 0 is greedy; 0 to 2. Default 1.
    temperature: Option<f32>,
    /// Only the best tokens that together have this probability; above 0 to 1. Default 1.
    top_p: Option<f32>,
    /// Only the best so many; 0: all. Default 0. (Not OpenAI's.)
    top_k: Option<usize>,
    /// Only those with this share of the best one's probability; 0 to 1. Default 0. (Not OpenAI's.)
    min_p: Option<f32>,
    /// -2 to 2.
    presence_penalty: Option<f32>,
    /// -2 to 2.
    frequency_penalty: Option<f32>,
    /// 1: none. (Not OpenAI's.)
    repetition_penalty: Option<f32>,
    /// The same seed gives the same text. Default: another one each time.
    seed: Option<i64>,
    /// Texts that end the answer; they are not part of it.
    stop: Option<OneOrMore>,
    /// Answers, 1 to 16. Default 1.
    n: Option<usize>,
    /// Events while the text is made.
    #[serde(default)]
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    /// `text`, `json_object`, or a JSON schema; also `regex` and `lark` with `pattern` or `grammar`. (The last two are not OpenAI's.)
    response_format: Option<ResponseFormat>,
    /// So many of the most probable tokens at each place, with `logprobs`; 0 to 20. Default 0.
    #[schema(maximum = 20)]
    top_logprobs: Option<usize>,
}

/// A text or several.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::More(texts) => texts,
        }
    }
}

/// What a stream carries besides text.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
pub(super) struct StreamOptions {
    /// Tokens used, in an event of its own before the end.
    #[serde(default)]
    pub(super) include_usage: bool,
}

/// What an answer has to follow.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ResponseFormat {
    Text,
    JsonObject,
    JsonSchema { json_schema: NamedSchema },
    Regex { pattern: String },
    Lark { grammar: String },
}

/// A JSON schema.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct NamedSchema {
    /// For the books of whoever asks.
    #[expect(dead_code, reason = "asked for by OpenAI's form")]
    pub(super) name: Option<String>,
    #[schema(value_type = Object)]
    pub(super) schema: Value,
}

impl Params {
    /// With these, and the rest as where nothing is said.
    pub(super) fn of(temperature: Option<f32>, top_p: Option<f32>, response_format: Option<ResponseFormat>) -> Self {
        Self { temperature, top_p, response_format, ..Self::default() }
    }

    /// How many answers are wanted.
    ///
    /// # Errors
    /// 400.
    pub(super) fn answers(&self) -> Result<usize, Problem> {
        let n = self.n.unwrap_or(1);
        if !(1..=MOST_ANSWERS).contains(&n) {
            return Err(Problem::invalid(format!("{n} answers; 1 to {MOST_ANSWERS} are allowed")).of_param("n"));
        }
        Ok(n)
    }

    pub(super) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    pub(super) fn include_usage(&self) -> bool {
        self.stream_options.is_some_and(|o| o.include_usage)
    }

    /// The engine's options for the answer with number `answer`, at most `max_tokens` long.
    ///
    /// # Errors
    /// 400 with the parameter.
    pub(super) fn options(&self, max_tokens: usize, logprobs: bool) -> Result<Options, Problem> {
        let range = |name: &'static str, value: Option<f32>, default: f32, (low, high): (f32, f32)| {
            let value = value.unwrap_or(default);
            match (low..=high).contains(&value) {
                true => Ok(value),
                false => Err(Problem::invalid(format!("{value} seen; {low} to {high} is allowed")).of_param(name)),
            }
        };
        let sampling = Sampling {
            temperature: range("temperature", self.temperature, 1.0, (0.0, 2.0))?,
            top_p: range("top_p", self.top_p, 1.0, (1e-6, 1.0))?,
            top_k: self.top_k.unwrap_or(0),
            min_p: range("min_p", self.min_p, 0.0, (0.0, 1.0))?,
            presence_penalty: range("presence_penalty", self.presence_penalty, 0.0, (-2.0, 2.0))?,
            frequency_penalty: range("frequency_penalty", self.frequency_penalty, 0.0, (-2.0, 2.0))?,
            repetition_penalty: range("repetition_penalty", self.repetition_penalty, 1.0, (0.01, 10.0))?,
            seed: self.seed.map_or_else(random, |s| s as u64),
            ..Sampling::default()
        };
        let stop = self.stop.clone().map(OneOrMore::into_vec).unwrap_or_default();
        if stop.len() > STOPS.0 || stop.iter().any(|s| s.is_empty() || s.len() > STOPS.1) {
            let problem = format!("{} texts seen; at most {} of 1 to {} bytes are allowed", stop.len(), STOPS.0, STOPS.1);
            return Err(Problem::invalid(problem).of_param("stop"));
        }
        let grammar = self.response_format.clone().and_then(ResponseFormat::grammar);
        if let Some(grammar) = &grammar {
            grammar.check().map_err(|e| Problem::from(e).of_param("response_format"))?;
        }
        let top_logprobs = self.top_logprobs.unwrap_or(0);
        if top_logprobs > MOST_TOPS || (top_logprobs > 0 && !logprobs) {
            let problem = format!("{top_logprobs} seen; 0 to {MOST_TOPS} is allowed, with logprobs");
            return Err(Problem::invalid(problem).of_param("top_logprobs"));
        }
        Ok(Options { max_tokens, sampling, stop, grammar, logprobs, top_logprobs })
    }
}

/// A schema whose answers have at most one space or line break between two parts, unless it says otherwise: programs read them.
fn compact(mut schema: Value) -> Grammar {
    if let Some(top) = schema.as_object_mut() {
        top.entry("x-guidance").or_insert_with(|| json!({ "whitespace_pattern": "[\\x20\\x0A]?" }));
    }
    Grammar::JsonSchema(schema.to_string())
}

impl ResponseFormat {
    fn grammar(self) -> Option<Grammar> {
        match self {
            Self::Text => None,
            Self::JsonObject => Some(compact(json!({ "type": "object" }))),
            Self::JsonSchema { json_schema } => Some(compact(json_schema.schema)),
            Self::Regex { pattern } => Some(Grammar::Regex(pattern)),
            Self::Lark { grammar } => Some(Grammar::Lark(grammar)),
        }
    }
}

/// Parameters that change nothing here: they are for the books of whoever runs an API, or say what holds in any case.
const WITHOUT_EFFECT: [&str; 8] =
    ["user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "verbosity", "reasoning_effort"];

/// Refuses parameters that are not known, but for those without effect and those that say nothing (null, empty, false).
///
/// # Errors
/// 400 that names the first.
pub(super) fn refuse_unknown(rest: &Map<String, Value>) -> Result<(), Problem> {
    let says_nothing = |v: &Value| match v {
        Value::Null | Value::Bool(false) => true,
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    };
    let unknown = rest.iter().find(|(name, value)| !WITHOUT_EFFECT.contains(&name.as_str()) && !says_nothing(value));
    unknown.map_or(Ok(()), |(name, _)| {
        let shown: String = name.chars().take(60).collect();
        let message = format!("{shown:?} is not supported here");
        Err(Problem::new(StatusCode::BAD_REQUEST, "unsupported_parameter", message).of_param(shown))
    })
}
