//! POST /v1/chat/completions.

use std::{
    convert::Infallible,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json,
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_stream::StreamExt;
use utoipa::ToSchema;

use super::{
    super::{
        Shared,
        admission::{Claim, Place},
        error::{ErrorBody, Problem},
        models,
        work::{Cancel, Parts, Sink, guarded, placed},
    },
    Body, Usage, answer_id,
    calls::Piece,
    content::ChatMessage,
    event,
    job::{Answer, Asked, Called, Job, Logprobs},
    now,
    params::{Params, refuse_unknown},
    tools::{Offer, ToolChoice, ToolSpec},
};
use crate::manifest::Role;

/// A request for the next turn of a conversation.
#[derive(Debug, Deserialize, ToSchema)]
pub(in super::super) struct ChatRequest {
    /// An id of /v1/models; `default` or none: the profile's.
    model: Option<String>,
    messages: Vec<ChatMessage>,
    /// Most tokens of the answer; default: what the context has room for.
    max_completion_tokens: Option<usize>,
    /// The same, as older clients call it.
    max_tokens: Option<usize>,
    /// The log-probability of each token.
    #[serde(default)]
    logprobs: Option<bool>,
    /// Functions that the model may call, 128 at most.
    tools: Option<Vec<ToolSpec>>,
    /// Whether it calls; with `required` and a function's name the answer is a valid call in any case.
    tool_choice: Option<ToolChoice>,
    /// Whether one answer may have several calls; default true.
    parallel_tool_calls: Option<bool>,
    #[serde(flatten)]
    params: Params,
    #[serde(flatten)]
    #[schema(ignore)]
    rest: Map<String, Value>,
}

/// A whole answer.
#[derive(Serialize, ToSchema)]
pub(in super::super) struct ChatCompletion {
    id: String,
    /// `chat.completion`.
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    usage: Usage,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChatChoice)]
struct Choice {
    index: usize,
    message: Said,
    logprobs: Option<Logprobs>,
    /// `stop`, `length` or `tool_calls`.
    finish_reason: &'static str,
}

#[derive(Serialize, ToSchema)]
struct Said {
    role: &'static str,
    /// Null where functions are called and nothing is said.
    #[schema(required)]
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

/// A function to be called.
#[derive(Clone, Serialize, ToSchema)]
struct ToolCall {
    /// Its number, in a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// `function`.
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: Function,
}

#[derive(Clone, Serialize, ToSchema)]
struct Function {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// JSON; in a stream, the next part of it.
    arguments: String,
}

impl From<Called> for ToolCall {
    fn from(call: Called) -> Self {
        let function = Function { name: Some(call.name), arguments: call.arguments };
        Self { index: None, id: Some(call.id), r#type: Some("function"), function }
    }
}

/// A part of an answer that is being streamed.
#[derive(Clone, Serialize, ToSchema)]
pub(in super::super) struct ChatChunk {
    id: String,
    /// `chat.completion.chunk`.
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Clone, Serialize, ToSchema)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Clone, Default, Serialize, ToSchema)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

impl From<&Piece> for Delta {
    fn from(piece: &Piece) -> Self {
        let call = |index: usize, id: Option<&String>, name: Option<&String>, arguments: &str| {
            let function = Function { name: name.cloned(), arguments: arguments.into() };
            let call = ToolCall { index: Some(index), id: id.cloned(), r#type: id.map(|_| "function"), function };
            Self { tool_calls: vec![call], ..Self::default() }
        };
        match piece {
            Piece::Text(text) => Self { content: Some(text.clone()), ..Self::default() },
            Piece::Call { index, id, name } => call(*index, Some(id), Some(name), ""),
            Piece::Arguments { index, text } => call(*index, None, None, text),
        }
    }
}

/// The next turn of a conversation
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "text", request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer; with `stream` events of `ChatChunk`", content(
            (ChatCompletion = "application/json"), (ChatChunk = "text/event-stream"),
        )),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    )
)]
pub(in super::super) async fn chat(
    State(server): State<Shared>,
    claim: Claim,
    Body(request): Body<ChatRequest>,
) -> Result<Response, Problem> {
    refuse_unknown(&request.rest)?;
    let answers = request.params.answers()?;
    let model = models::choose(&server.engine, request.model.as_deref(), Role::Llm)?;
    let place = server.admission.enter(&claim).await?;
    let (streams, include_usage) = (request.params.streams(), request.params.include_usage());
    let (place, job) = {
        let (server, model) = (server.clone(), model.clone());
        placed(place, move |cancel| Job::prepare(server, request.asked()?, &model, cancel).map(Arc::new)).await?
    };
    let flags: Vec<Cancel> = (0..answers).map(|_| Cancel::default()).collect();
    match streams {
        true => Ok(stream(place, job, model, flags, include_usage)),
        false => whole(place, job, model, flags).await.map(|answer| Json(answer).into_response()),
    }
}

impl ChatRequest {
    fn asked(self) -> Result<Asked, Problem> {
        let wanted = self.max_completion_tokens.or(self.max_tokens).unwrap_or(usize::MAX);
        let options = self.params.options(wanted, self.logprobs.unwrap_or(false))?;
        let tools = self.tools.unwrap_or_default().into_iter().map(|ToolSpec::Function { function }| function);
        let offer = Offer::new(tools.collect(), self.tool_choice, self.parallel_tool_calls)?;
        Ok(Asked { messages: self.messages, options, offer })
    }
}

async fn whole(place: Place, job: Arc<Job>, model: String, flags: Vec<Cancel>) -> Result<ChatCompletion, Problem> {
    let answers = job.answers(place, flags).await?;
    let usage = Usage::of(answers.iter().map(|a| &a.generation));
    let choices = answers.into_iter().enumerate().map(|(index, answer)| Choice {
        index,
        logprobs: job.logprobs(&answer.generation),
        finish_reason: answer.finish_reason(),
        message: Said {
            role: "assistant",
            content: Some(answer.text).filter(|text| answer.calls.is_empty() || !text.is_empty()),
            refusal: None,
            tool_calls: answer.calls.into_iter().map(ToolCall::from).collect(),
        },
    });
    let (id, choices) = (answer_id("chatcmpl-"), choices.collect());
    Ok(ChatCompletion { id, object: "chat.completion", created: now(), model, choices, usage })
}

/// What the answers of a stream have in common.
struct Telling {
    sink: Sink<Event>,
    head: ChatChunk,
    include_usage: bool,
    ended: Mutex<Vec<Option<Answer>>>, // in the order in which they end; `None`: failed
    answers: usize,
}

impl Telling {
    /// An answer has ended. After the last one come the tokens used and the end, unless one has failed: what is not whole does not
    /// end as if it were.
    fn end(&self, outcome: Result<Answer, Problem>, server: &Shared) {
        if let Err(problem) = &outcome {
            server.metrics.problem(problem.code);
            self.sink.send(event(&problem.body()));
        }
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push(outcome.ok());
        let whole: Vec<_> = ended.iter().flatten().map(|a| &a.generation).collect();
        if whole.len() == self.answers {
            if self.include_usage {
                self.sink.send(event(&ChatChunk { usage: Some(Usage::of(whole)), ..self.head.clone() }));
            }
            self.sink.send(Event::default().data("[DONE]"));
        }
    }
}

fn stream(place: Place, job: Arc<Job>, model: String, flags: Vec<Cancel>, include_usage: bool) -> Response {
    let head = ChatChunk {
        id: answer_id("chatcmpl-"),
        object: "chat.completion.chunk",
        created: now(),
        model,
        choices: Vec::new(),
        usage: None,
    };
    let (sink, parts) = Parts::new(flags.clone());
    let telling = Arc::new(Telling { sink, head, include_usage, ended: Mutex::default(), answers: flags.len() });
    let place = Arc::new(place);
    for (index, cancel) in flags.into_iter().enumerate() {
        let (job, place, telling) = (job.clone(), place.clone(), telling.clone());
        tokio::task::spawn_blocking(move || {
            let _held = place;
            telling.end(guarded(|| one(&job, index, &cancel, &telling)), &job.server);
        });
    }
    Sse::new(parts.map(Ok::<_, Infallible>)).keep_alive(KeepAlive::default()).into_response()
}

/// Streams one answer.
fn one(job: &Job, index: usize, cancel: &Cancel, telling: &Telling) -> Result<Answer, Problem> {
    let send = |delta: Delta, logprobs, finish_reason| {
        let choices = vec![ChunkChoice { index, delta, logprobs, finish_reason }];
        match telling.sink.send(event(&ChatChunk { choices, ..telling.head.clone() })) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    let begin = || Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
    let mut begun = false;
    let answer = job.answer(index, cancel, |pieces| {
        if !std::mem::replace(&mut begun, true) {
            send(begin(), None, None)?;
        }
        pieces.iter().try_for_each(|piece| send(piece.into(), None, None))
    })?;
    if !begun {
        let _ = send(begin(), None, None);
    }
    let _ = send(Delta::default(), job.logprobs(&answer.generation), Some(answer.finish_reason()));
    Ok(answer)
}
