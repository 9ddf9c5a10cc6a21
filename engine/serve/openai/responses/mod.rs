//! POST /v1/responses: OpenAI's younger form of a request for text, over the same work as chat completions. Nothing is kept on the
//! server: what would need that is refused by name.

mod input;
mod output;
mod stream;

use std::{ops::ControlFlow, sync::Arc};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    super::{
        Shared,
        admission::Claim,
        error::{ErrorBody, Problem},
        models,
        work::{Cancel, placed},
    },
    Body,
    job::{Asked, Job, refused},
    params::{NamedSchema, Params, ResponseFormat, refuse_unknown},
    tools::{ChoiceMode, FunctionName, FunctionSpec, NamedTool, Offer, ToolChoice},
};
use crate::manifest::Role;
use input::Input;
use output::ResponseObject;
use stream::StreamEvent;

/// A request for a response.
#[derive(Debug, Deserialize, ToSchema)]
pub(in super::super) struct ResponseRequest {
    /// An id of /v1/models; `default` or none: the profile's.
    model: Option<String>,
    /// A text, or the conversation so far.
    input: Input,
    /// What the system message says.
    instructions: Option<String>,
    /// Most tokens of the answer; default: what the context has room for.
    max_output_tokens: Option<usize>,
    /// 0 is greedy; 0 to 2. Default 1.
    temperature: Option<f32>,
    /// Only the best tokens that together have this probability; above 0 to 1. Default 1.
    top_p: Option<f32>,
    /// The form of the text.
    text: Option<TextSettings>,
    /// Functions that the model may call, 128 at most.
    tools: Option<Vec<ResponseTool>>,
    /// Whether it calls; with `required` and a function's name the answer is a valid call in any case.
    tool_choice: Option<ResponseToolChoice>,
    /// Whether one answer may have several calls; default true.
    parallel_tool_calls: Option<bool>,
    /// Events while the answer is made.
    stream: Option<bool>,
    /// False or nothing: responses are not kept here.
    store: Option<bool>,
    /// Nothing: responses are not kept here; send the conversation as `input`.
    previous_response_id: Option<String>,
    /// `disabled`: a conversation that is too long is an error.
    truncation: Option<String>,
    /// Given back as it is.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
    #[serde(flatten)]
    #[schema(ignore)]
    rest: Map<String, Value>,
}

/// What the text of an answer has to be.
#[derive(Clone, Debug, Deserialize, ToSchema)]
struct TextSettings {
    format: Option<TextFormat>,
}

/// What an answer has to follow.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum TextFormat {
    Text,
    JsonObject,
    JsonSchema {
        name: Option<String>,
        #[schema(value_type = Object)]
        schema: Value,
    },
}

/// Something that the model may call.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseTool {
    Function(FunctionSpec),
}

/// Whether the model calls: `auto` (default), `none`, `required`, or one function by its name.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
enum ResponseToolChoice {
    Mode(ChoiceMode),
    Named(NamedResponseTool),
}

#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum NamedResponseTool {
    Function(FunctionName),
}

impl From<ResponseToolChoice> for ToolChoice {
    fn from(choice: ResponseToolChoice) -> Self {
        match choice {
            ResponseToolChoice::Mode(mode) => Self::Mode(mode),
            ResponseToolChoice::Named(NamedResponseTool::Function(function)) => Self::Named(NamedTool::Function { function }),
        }
    }
}

impl From<TextFormat> for ResponseFormat {
    fn from(format: TextFormat) -> Self {
        match format {
            TextFormat::Text => Self::Text,
            TextFormat::JsonObject => Self::JsonObject,
            TextFormat::JsonSchema { name, schema } => Self::JsonSchema { json_schema: NamedSchema { name, schema } },
        }
    }
}

/// The next turn of a conversation, as a response
#[utoipa::path(
    post, path = "/v1/responses", tag = "text", request_body = ResponseRequest,
    responses(
        (status = 200, description = "The response; with `stream` events of `StreamEvent`", content(
            (ResponseObject = "application/json"), (StreamEvent = "text/event-stream"),
        )),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody),
    )
)]
pub(in super::super) async fn responses(
    State(server): State<Shared>,
    claim: Claim,
    Body(request): Body<ResponseRequest>,
) -> Result<Response, Problem> {
    request.check()?;
    let model = models::choose(&server.engine, request.model.as_deref(), Role::Llm)?;
    let place = server.admission.enter(&claim).await?;
    let head = ResponseObject::new(&request, model.clone());
    let streams = request.stream.unwrap_or(false);
    let (place, job) = {
        let server = server.clone();
        let prepare = move |cancel: &Cancel| Job::prepare(server, request.asked()?, &model, cancel).map(Arc::new);
        placed(place, prepare).await.map_err(as_named_here)?
    };
    let cancel = Cancel::default();
    if streams {
        return Ok(stream::stream(place, job, head, cancel));
    }
    let mut answers = job.answers(place, vec![cancel]).await?;
    let answer = answers.pop().ok_or_else(|| Problem::internal("no answer"))?;
    Ok(Json(head.with(&answer)).into_response())
}

impl ResponseRequest {
    fn check(&self) -> Result<(), Problem> {
        let kept = "responses are not kept; send the conversation as input";
        if self.store == Some(true) {
            return Err(refused("store", kept));
        }
        if self.previous_response_id.is_some() {
            return Err(refused("previous_response_id", kept));
        }
        if self.truncation.as_deref().is_some_and(|t| t != "disabled") {
            return Err(refused("truncation", "disabled is known; shorten the conversation"));
        }
        // a depth of reasoning is without effect, as for chat completions
        let rest = self.rest.iter().filter(|(name, _)| *name != "reasoning");
        refuse_unknown(&rest.map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn asked(self) -> Result<Asked, Problem> {
        let format = self.text.and_then(|t| t.format).map(ResponseFormat::from);
        let params = Params::of(self.temperature, self.top_p, format);
        let options = params.options(self.max_output_tokens.unwrap_or(usize::MAX), false)?;
        let tools = self.tools.unwrap_or_default().into_iter().map(|ResponseTool::Function(function)| function);
        let offer = Offer::new(tools.collect(), self.tool_choice.map(ToolChoice::from), self.parallel_tool_calls)?;
        Ok(Asked { messages: self.input.messages(self.instructions)?, options, offer })
    }
}

/// Where parameters have other names than in a request for a chat.
fn as_named_here(problem: Problem) -> Problem {
    match problem.param.as_deref() {
        Some("response_format") => problem.of_param("text.format"),
        Some(param) if param.starts_with("messages") => {
            let param = param.replacen("messages", "input", 1);
            // an item is not always a message of its own
            problem.of_param(param.split('[').next().unwrap_or("input").to_owned())
        }
        _ => problem,
    }
}

/// Goes on while somebody listens.
fn heard(sent: bool) -> ControlFlow<()> {
    if sent { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}
