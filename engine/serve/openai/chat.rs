//! POST /v1/chat/completions.

use std::{
    convert::Infallible,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Instant,
};

use axum::{
    Json,
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use dreamseed_models::{
    chat::{Message, Role as Speaker},
    whisper,
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
        work::{Cancel, Parts, Sink, Tied, guarded, work},
    },
    Body, Usage, answer_id,
    content::{ChatMessage, Piece, turns},
    event, finish_reason, now,
    params::{Params, refuse_unknown},
};
use crate::{
    Engine,
    llm::{Chat, Generation, Llm, Options, Seen},
    manifest::Role,
};

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
struct Choice {
    index: usize,
    message: Said,
    logprobs: Option<Logprobs>,
    /// `stop` or `length`.
    finish_reason: &'static str,
}

#[derive(Serialize, ToSchema)]
struct Said {
    role: &'static str,
    content: String,
    refusal: Option<String>,
}

#[derive(Clone, Serialize, ToSchema)]
struct Logprobs {
    content: Vec<TokenLogprob>,
}

#[derive(Clone, Serialize, ToSchema)]
struct TokenLogprob {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    top_logprobs: Vec<f32>,
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
    let job = {
        let (server, model) = (server.clone(), model.clone());
        Arc::new(work(move |cancel| Job::prepare(server, request, &model, cancel)).await?)
    };
    let flags: Vec<Cancel> = (0..answers).map(|_| Cancel::default()).collect();
    match streams {
        true => Ok(stream(place, job, model, flags, include_usage)),
        false => whole(place, job, model, flags).await.map(|answer| Json(answer).into_response()),
    }
}

/// What is generated.
struct Job {
    server: Shared,
    llm: Arc<Llm>,
    messages: Vec<Message>,
    pictures: Vec<Seen>,
    options: Options,
    begun: Instant,
}

impl Job {
    /// Loads the model, decodes and looks at what came along.
    fn prepare(server: Shared, request: ChatRequest, model: &str, cancel: &Cancel) -> Result<Self, Problem> {
        let begun = Instant::now();
        let wanted = request.max_completion_tokens.or(request.max_tokens).unwrap_or(usize::MAX);
        let options = request.params.options(wanted, request.logprobs.unwrap_or(false))?;
        let engine = &server.engine;
        let turns = turns(request.messages, &engine.limits())?;
        let texts = turns.iter().filter(|t| t.role == Speaker::User).flat_map(|t| &t.pieces);
        server.look_at(texts.filter_map(Piece::text))?;
        let sees = turns.iter().any(|t| !t.pictures.is_empty());
        let llm = if sees { engine.llm_that_sees(Some(model), None)? } else { engine.llm(Some(model))? };
        let (mut messages, mut pictures) = (Vec::new(), Vec::new());
        for turn in turns {
            let mut text = String::new();
            for piece in &turn.pieces {
                match piece {
                    Piece::Text(piece) => text.push_str(piece),
                    Piece::Sound(pcm) => {
                        let said = written_down(engine, pcm, cancel)?;
                        server.look_at([said.as_str()])?;
                        text.push_str(&said);
                    }
                }
            }
            messages.push(Message::new(turn.role, text).with_pictures(turn.pictures.len()));
            for picture in &turn.pictures {
                pictures.push(llm.see(picture, None)?);
            }
        }
        Ok(Self { llm, messages, pictures, options, begun, server: server.clone() })
    }

    /// Generates one of the answers; blocks. `on_text` gets each token with the text that is certain with it.
    fn answer(
        &self,
        index: usize,
        cancel: &Cancel,
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation, Problem> {
        let trained = self.llm.config().context;
        let context = trained.min(self.server.engine.config().llm.cache_tokens);
        let mut chat = Chat::new(self.llm.clone(), Some(context), None)?;
        chat.cancelled_by(cancel.clone());
        chat.set_with(self.messages.clone(), self.pictures.clone());
        let mut options = self.options.clone();
        options.sampling.seed = options.sampling.seed.wrapping_add(index as u64);
        let mut first = true;
        let text = chat.answer(&options, |text| {
            if std::mem::take(&mut first) {
                self.server.metrics.first_token(self.begun.elapsed());
            }
            on_text(text)
        })?;
        self.server.metrics.generated(&text);
        Ok(text)
    }

    fn logprobs(&self, text: &Generation) -> Option<Logprobs> {
        let logprobs = text.logprobs.as_ref()?;
        let content = text.tokens.iter().zip(logprobs).map(|(&token, &logprob)| {
            let bytes = self.llm.tokenizer().bytes(token).to_vec();
            TokenLogprob { token: String::from_utf8_lossy(&bytes).into_owned(), logprob, bytes, top_logprobs: Vec::new() }
        });
        Some(Logprobs { content: content.collect() })
    }
}

/// What is said in a message's sound.
fn written_down(engine: &Engine, pcm: &[f32], cancel: &Cancel) -> Result<String, Problem> {
    let options = whisper::Options { vad: engine.config().speech.vad, ..whisper::Options::default() };
    let mut goes_on = |_: whisper::Progress| match cancel.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    Ok(engine.transcribe(None, pcm, &options, &mut goes_on)?.text)
}

async fn whole(place: Place, job: Arc<Job>, model: String, flags: Vec<Cancel>) -> Result<ChatCompletion, Problem> {
    let _tied = Tied(flags.clone());
    let place = Arc::new(place);
    let begin = |(index, cancel): (usize, Cancel)| {
        let (job, place) = (job.clone(), place.clone());
        tokio::task::spawn_blocking(move || {
            let _held = place; // until the work has ended, whether somebody waits for it or not
            job.answer(index, &cancel, |_| ControlFlow::Continue(()))
        })
    };
    let answers: Vec<_> = flags.into_iter().enumerate().map(begin).collect();
    let mut texts = Vec::new();
    for answer in answers {
        texts.push(answer.await.unwrap_or_else(|e| Err(Problem::internal(e)))?);
    }
    let usage = Usage::of(&texts);
    let choices = texts.into_iter().enumerate().map(|(index, text)| Choice {
        index,
        logprobs: job.logprobs(&text),
        finish_reason: finish_reason(text.finish),
        message: Said { role: "assistant", content: text.text, refusal: None },
    });
    let (id, choices) = (answer_id("chatcmpl"), choices.collect());
    Ok(ChatCompletion { id, object: "chat.completion", created: now(), model, choices, usage })
}

/// What the answers of a stream have in common.
struct Telling {
    sink: Sink<Event>,
    head: ChatChunk,
    include_usage: bool,
    ended: Mutex<Vec<Option<Generation>>>, // in the order in which they end; `None`: failed
    answers: usize,
}

impl Telling {
    /// An answer has ended. After the last one come the tokens used and the end, unless one has failed: what is not whole does not
    /// end as if it were.
    fn end(&self, outcome: Result<Generation, Problem>, server: &Shared) {
        if let Err(problem) = &outcome {
            server.metrics.problem(problem.code);
            self.sink.send(event(&problem.body()));
        }
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push(outcome.ok());
        let whole: Vec<&Generation> = ended.iter().flatten().collect();
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
        id: answer_id("chatcmpl"),
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
fn one(job: &Job, index: usize, cancel: &Cancel, telling: &Telling) -> Result<Generation, Problem> {
    let send = |delta: Delta, logprobs, finish_reason| {
        let choices = vec![ChunkChoice { index, delta, logprobs, finish_reason }];
        match telling.sink.send(event(&ChatChunk { choices, ..telling.head.clone() })) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    let begin = || Delta { role: Some("assistant"), content: Some(String::new()) };
    let mut begun = false;
    let text = job.answer(index, cancel, |text| {
        if !std::mem::replace(&mut begun, true) {
            send(begin(), None, None)?;
        }
        if text.is_empty() {
            ControlFlow::Continue(())
        } else {
            send(Delta { role: None, content: Some(text.into()) }, None, None)
        }
    })?;
    if !begun {
        let _ = send(begin(), None, None);
    }
    let _ = send(Delta::default(), job.logprobs(&text), Some(finish_reason(text.finish)));
    Ok(text)
}
