//! POST /v1/completions: text that goes on after a prompt as it stands.

use std::{convert::Infallible, ops::ControlFlow, sync::Arc, time::Instant};

use axum::{
    Json,
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use dreamseed_models::tokenizer::Specials;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_stream::StreamExt;
use utoipa::ToSchema;

use super::{
    super::{
        Shared,
        admission::Claim,
        error::{ErrorBody, Problem},
        models,
        work::{Cancel, Parts, guarded, placed, work},
    },
    Body, Usage, answer_id, event, finish_reason, now,
    params::{OneOrMore, Params, refuse_unknown},
};
use crate::{
    llm::{Generation, Llm, Options, Session},
    manifest::Role,
};

/// Most prompts of a request.
const MOST_PROMPTS: usize = 16;
/// What OpenAI's API writes where nothing is said.
const DEFAULT_TOKENS: usize = 16;

/// A request for what follows a text.
#[derive(Debug, Deserialize, ToSchema)]
pub(in super::super) struct CompletionRequest {
    /// An id of /v1/models; `default` or none: the profile's.
    model: Option<String>,
    /// A text or several; each is answered by itself.
    prompt: OneOrMore,
    /// Most tokens of each answer; default 16.
    max_tokens: Option<usize>,
    /// Read control tokens that the prompt spells, as for a template of one's own. Default false: they are plain text. (Not OpenAI's.)
    #[serde(default)]
    special_tokens: bool,
    #[serde(flatten)]
    params: Params,
    #[serde(flatten)]
    #[schema(ignore)]
    rest: Map<String, Value>,
}

/// A whole answer, or a part of one that is being streamed.
#[derive(Clone, Serialize, ToSchema)]
pub(in super::super) struct Completion {
    id: String,
    /// `text_completion`.
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Clone, Serialize, ToSchema)]
#[schema(as = CompletionChoice)]
struct Choice {
    text: String,
    index: usize,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

/// What is asked for, checked.
struct Job {
    server: Shared,
    llm: Arc<Llm>,
    prompts: Vec<(Vec<u32>, Options)>,
    begun: Instant,
}

/// The continuation of a text
#[utoipa::path(
    post, path = "/v1/completions", tag = "text", request_body = CompletionRequest,
    responses(
        (status = 200, description = "The answer; with `stream` events of the same kind", content(
            (Completion = "application/json"), (Completion = "text/event-stream"),
        )),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    )
)]
pub(in super::super) async fn completions(
    State(server): State<Shared>,
    claim: Claim,
    Body(request): Body<CompletionRequest>,
) -> Result<Response, Problem> {
    refuse_unknown(&request.rest)?;
    let model = models::choose(&server.engine, request.model.as_deref(), Role::Llm)?;
    let place = server.admission.enter(&claim).await?;
    let (streams, include_usage) = (request.params.streams(), request.params.include_usage());
    let head = Completion {
        id: answer_id("cmpl-"),
        object: "text_completion",
        created: now(),
        model: model.clone(),
        choices: Vec::new(),
        usage: None,
    };
    let (place, job) = {
        let server = server.clone();
        placed(place, move |_| Job::prepare(server, request, &model)).await?
    };
    if streams {
        let cancel = Cancel::default();
        let (sink, parts) = Parts::new(vec![cancel.clone()]);
        tokio::task::spawn_blocking(move || {
            let _held = place;
            let choice = |index, text: &str, finish_reason| {
                let choices = vec![Choice { text: text.into(), index, logprobs: None, finish_reason }];
                sink.send(event(&Completion { choices, ..head.clone() }))
            };
            let outcome = guarded(|| {
                job.run(&cancel, &mut |index, text| {
                    if text.is_empty() || choice(index, text, None) {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(())
                    }
                })
            });
            match outcome {
                Ok(texts) => {
                    for (i, text) in texts.iter().enumerate() {
                        choice(i, "", Some(finish_reason(text.finish)));
                    }
                    if include_usage {
                        sink.send(event(&Completion { usage: Some(Usage::of(&texts)), ..head.clone() }));
                    }
                    sink.send(Event::default().data("[DONE]"));
                }
                Err(problem) => {
                    job.server.metrics.problem(problem.code);
                    sink.send(event(&problem.body()));
                }
            }
        });
        return Ok(Sse::new(parts.map(Ok::<_, Infallible>)).keep_alive(KeepAlive::default()).into_response());
    }
    let texts = work(move |cancel| {
        let _held = place;
        job.run(cancel, &mut |_, _| ControlFlow::Continue(()))
    })
    .await?;
    let usage = Some(Usage::of(&texts));
    let choices = texts.into_iter().enumerate().map(|(index, text)| Choice {
        index,
        finish_reason: Some(finish_reason(text.finish)),
        text: text.text,
        logprobs: None,
    });
    Ok(Json(Completion { choices: choices.collect(), usage, ..head }).into_response())
}

impl Job {
    fn prepare(server: Shared, request: CompletionRequest, model: &str) -> Result<Self, Problem> {
        let begun = Instant::now();
        let prompts = request.prompt.into_vec();
        let answers = request.params.answers()?;
        if prompts.is_empty() || prompts.len() * answers > MOST_PROMPTS {
            let problem =
                format!("{} prompts, {answers} answers each; 1 to {MOST_PROMPTS} texts in all are allowed", prompts.len());
            return Err(Problem::invalid(problem).of_param("prompt"));
        }
        let llm = server.engine.llm(Some(model))?;
        let specials = if request.special_tokens { Specials::Parse } else { Specials::Text };
        let max_tokens = request.max_tokens.unwrap_or(DEFAULT_TOKENS);
        let mut all = Vec::new();
        for prompt in &prompts {
            let tokens = llm.tokenizer().encode_prompt(prompt, specials, str::to_owned).map_err(crate::Error::from)?;
            for answer in 0..answers {
                let mut options = request.params.options(max_tokens, false)?;
                options.sampling.seed = options.sampling.seed.wrapping_add(answer as u64);
                all.push((tokens.clone(), options));
            }
        }
        Ok(Self { server, llm, prompts: all, begun })
    }

    /// Generates all answers, together.
    fn run(
        &self,
        cancel: &Cancel,
        on_text: &mut (dyn FnMut(usize, &str) -> ControlFlow<()> + Send),
    ) -> Result<Vec<Generation>, Problem> {
        let on_text = std::sync::Mutex::new(on_text);
        let one = |index: usize, (prompt, options): &(Vec<u32>, Options)| {
            let context = self.llm.config().context.min(self.server.engine.config().llm.cache_tokens);
            let mut session = Session::new(self.llm.clone(), Some(context))?;
            session.cancelled_by(cancel.clone());
            let mut first = index == 0;
            let text = session.generate(prompt, options, |text| {
                if std::mem::take(&mut first) {
                    self.server.metrics.first_token(self.begun.elapsed());
                }
                on_text.lock().unwrap_or_else(std::sync::PoisonError::into_inner)(index, text)
            })?;
            self.server.metrics.generated(&text);
            Ok(text)
        };
        std::thread::scope(|scope| {
            let running: Vec<_> =
                self.prompts.iter().enumerate().map(|(i, prompt)| scope.spawn(move || one(i, prompt))).collect();
            let joined = running.into_iter().map(|r| r.join().unwrap_or_else(|_| Err(Problem::internal("a request panicked"))));
            joined.collect()
        })
    }
}
