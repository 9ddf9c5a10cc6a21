//! A response as it is given out.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    super::{
        answer_id,
        job::{Answer, Called},
        now,
        tools::ChoiceMode,
    },
    ResponseRequest, ResponseTool, ResponseToolChoice, TextFormat,
};
use crate::llm::{Finish, Generation};

/// A response, whole or under way.
#[derive(Clone, Serialize, ToSchema)]
pub(in super::super::super) struct ResponseObject {
    id: String,
    /// `response`.
    object: &'static str,
    created_at: u64,
    /// `in_progress`, `completed`, `incomplete`, `failed`.
    status: &'static str,
    error: Option<ResponseError>,
    incomplete_details: Option<Incomplete>,
    instructions: Option<String>,
    max_output_tokens: Option<usize>,
    model: String,
    output: Vec<Output>,
    parallel_tool_calls: bool,
    /// Always null: responses are not kept.
    previous_response_id: Option<String>,
    /// Always false: responses are not kept.
    store: bool,
    temperature: f32,
    text: TextOut,
    tool_choice: ResponseToolChoice,
    tools: Vec<ResponseTool>,
    top_p: f32,
    /// `disabled`.
    truncation: &'static str,
    usage: Option<ResponseUsage>,
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// Why it failed.
#[derive(Clone, Serialize, ToSchema)]
struct ResponseError {
    code: &'static str,
    message: String,
}

/// Why it is not whole.
#[derive(Clone, Serialize, ToSchema)]
struct Incomplete {
    /// `max_output_tokens`.
    reason: &'static str,
}

#[derive(Clone, Serialize, ToSchema)]
struct TextOut {
    format: TextFormat,
}

/// Tokens that it took.
#[derive(Clone, Serialize, ToSchema)]
struct ResponseUsage {
    input_tokens: usize,
    input_tokens_details: InputDetails,
    output_tokens: usize,
    output_tokens_details: OutputDetails,
    total_tokens: usize,
}

#[derive(Clone, Serialize, ToSchema)]
struct InputDetails {
    /// Known already.
    cached_tokens: usize,
}

#[derive(Clone, Serialize, ToSchema)]
struct OutputDetails {
    /// Always 0: reasoning is part of the text.
    reasoning_tokens: usize,
}

/// A part of a response.
#[derive(Clone, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(in super::super::super) enum Output {
    /// What the model says.
    Message {
        id: String,
        /// `in_progress`, `completed`, `incomplete`.
        status: &'static str,
        role: &'static str,
        content: Vec<OutputPart>,
    },
    /// A function to be called.
    FunctionCall {
        id: String,
        /// What its answer names it by.
        call_id: String,
        name: String,
        /// JSON.
        arguments: String,
        status: &'static str,
    },
}

/// A part of a message.
#[derive(Clone, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(in super::super::super) enum OutputPart {
    OutputText {
        text: String,
        #[schema(value_type = Vec<Object>)]
        annotations: [(); 0],
    },
}

impl OutputPart {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::OutputText { text: text.into(), annotations: [] }
    }
}

impl Output {
    /// A message with this text; `None`: none yet.
    pub(super) fn message(id: String, status: &'static str, text: Option<&str>) -> Self {
        Self::Message { id, status, role: "assistant", content: text.map(OutputPart::text).into_iter().collect() }
    }

    pub(super) fn call(id: String, status: &'static str, call: &Called) -> Self {
        let Called { id: call_id, name, arguments } = call.clone();
        Self::FunctionCall { id, call_id, name, arguments, status }
    }
}

impl ResponseObject {
    /// Before anything is made.
    pub(super) fn new(request: &ResponseRequest, model: String) -> Self {
        Self {
            id: answer_id("resp_"),
            object: "response",
            created_at: now(),
            status: "in_progress",
            error: None,
            incomplete_details: None,
            instructions: request.instructions.clone(),
            max_output_tokens: request.max_output_tokens,
            model,
            output: Vec::new(),
            parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
            previous_response_id: None,
            store: false,
            temperature: request.temperature.unwrap_or(1.0),
            text: TextOut { format: request.text.as_ref().and_then(|t| t.format.clone()).unwrap_or(TextFormat::Text) },
            tool_choice: request.tool_choice.clone().unwrap_or(ResponseToolChoice::Mode(ChoiceMode::Auto)),
            tools: request.tools.clone().unwrap_or_default(),
            top_p: request.top_p.unwrap_or(1.0),
            truncation: "disabled",
            usage: None,
            metadata: request.metadata.clone().unwrap_or_default(),
        }
    }

    /// The whole of it.
    pub(super) fn with(self, answer: &Answer) -> Self {
        let last = self.status_of(&answer.generation);
        let mut output = Vec::new();
        if !answer.text.is_empty() || answer.calls.is_empty() {
            let status = if answer.calls.is_empty() { last } else { "completed" };
            output.push(Output::message(answer_id("msg_"), status, Some(&answer.text)));
        }
        for (i, call) in answer.calls.iter().enumerate() {
            let status = if i + 1 == answer.calls.len() { last } else { "completed" };
            output.push(Output::call(answer_id("fc_"), status, call));
        }
        self.ended(output, &answer.generation)
    }

    /// `completed`, or `incomplete` where the answer was cut.
    pub(super) fn status_of(&self, generation: &Generation) -> &'static str {
        if generation.finish == Finish::Length { "incomplete" } else { "completed" }
    }

    /// At its end, with these parts.
    pub(super) fn ended(self, output: Vec<Output>, generation: &Generation) -> Self {
        let (input, made) = (generation.prompt_tokens.len(), generation.tokens.len());
        let cut = generation.finish == Finish::Length;
        Self {
            status: self.status_of(generation),
            incomplete_details: cut.then_some(Incomplete { reason: "max_output_tokens" }),
            output,
            usage: Some(ResponseUsage {
                input_tokens: input,
                input_tokens_details: InputDetails { cached_tokens: generation.reused_tokens },
                output_tokens: made,
                output_tokens_details: OutputDetails { reasoning_tokens: 0 },
                total_tokens: input + made,
            }),
            ..self
        }
    }

    /// Whether it ended because it was cut.
    pub(super) fn is_cut(&self) -> bool {
        self.incomplete_details.is_some()
    }

    /// Given up.
    pub(super) fn failed(self, code: &'static str, message: String) -> Self {
        Self { status: "failed", error: Some(ResponseError { code, message }), ..self }
    }
}
