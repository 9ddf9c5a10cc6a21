//! A response as named events.

use std::{convert::Infallible, ops::ControlFlow, sync::Arc};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use serde::Serialize;
use tokio_stream::StreamExt;
use utoipa::ToSchema;

use super::{
    super::{
        super::{
            admission::Place,
            error::Problem,
            work::{Cancel, Parts, Sink, guarded},
        },
        answer_id,
        calls::Piece,
        job::{Called, Job},
    },
    heard,
    output::{Output, OutputPart, ResponseObject},
};

/// An event; its name is that of its `type`.
#[derive(Clone, Serialize, ToSchema)]
#[serde(tag = "type")]
pub(in super::super::super) enum StreamEvent {
    #[serde(rename = "response.created")]
    Created { sequence_number: usize, response: Box<ResponseObject> },
    #[serde(rename = "response.in_progress")]
    InProgress { sequence_number: usize, response: Box<ResponseObject> },
    #[serde(rename = "response.output_item.added")]
    ItemAdded { sequence_number: usize, output_index: usize, item: Output },
    #[serde(rename = "response.content_part.added")]
    PartAdded { sequence_number: usize, item_id: String, output_index: usize, content_index: usize, part: OutputPart },
    #[serde(rename = "response.output_text.delta")]
    TextDelta { sequence_number: usize, item_id: String, output_index: usize, content_index: usize, delta: String },
    #[serde(rename = "response.output_text.done")]
    TextDone { sequence_number: usize, item_id: String, output_index: usize, content_index: usize, text: String },
    #[serde(rename = "response.content_part.done")]
    PartDone { sequence_number: usize, item_id: String, output_index: usize, content_index: usize, part: OutputPart },
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta { sequence_number: usize, item_id: String, output_index: usize, delta: String },
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone { sequence_number: usize, item_id: String, output_index: usize, name: String, arguments: String },
    #[serde(rename = "response.output_item.done")]
    ItemDone { sequence_number: usize, output_index: usize, item: Output },
    #[serde(rename = "response.completed")]
    Completed { sequence_number: usize, response: Box<ResponseObject> },
    #[serde(rename = "response.incomplete")]
    Incomplete { sequence_number: usize, response: Box<ResponseObject> },
    #[serde(rename = "response.failed")]
    Failed { sequence_number: usize, response: Box<ResponseObject> },
}

impl StreamEvent {
    fn name(&self) -> &'static str {
        match self {
            Self::Created { .. } => "response.created",
            Self::InProgress { .. } => "response.in_progress",
            Self::ItemAdded { .. } => "response.output_item.added",
            Self::PartAdded { .. } => "response.content_part.added",
            Self::TextDelta { .. } => "response.output_text.delta",
            Self::TextDone { .. } => "response.output_text.done",
            Self::PartDone { .. } => "response.content_part.done",
            Self::ArgumentsDelta { .. } => "response.function_call_arguments.delta",
            Self::ArgumentsDone { .. } => "response.function_call_arguments.done",
            Self::ItemDone { .. } => "response.output_item.done",
            Self::Completed { .. } => "response.completed",
            Self::Incomplete { .. } => "response.incomplete",
            Self::Failed { .. } => "response.failed",
        }
    }
}

/// Tells a response while it is made.
struct Telling {
    sink: Sink<Event>,
    sequence: usize,
    done: Vec<Output>,
    open: Option<Open>,
}

/// The item that is under way.
enum Open {
    Message { id: String, text: String },
    Call { id: String, call: Called },
}

pub(super) fn stream(place: Place, job: Arc<Job>, head: ResponseObject, cancel: Cancel) -> Response {
    let (sink, parts) = Parts::new(vec![cancel.clone()]);
    tokio::task::spawn_blocking(move || {
        let _held = place;
        let mut telling = Telling { sink, sequence: 0, done: Vec::new(), open: None };
        if let Err(problem) = guarded(|| telling.tell(&job, head.clone(), &cancel)) {
            job.server.metrics.problem(problem.code);
            let response = Box::new(head.failed(problem.code, problem.message));
            telling.send(|sequence_number| StreamEvent::Failed { sequence_number, response });
        }
    });
    Sse::new(parts.map(Ok::<_, Infallible>)).keep_alive(KeepAlive::default()).into_response()
}

impl Telling {
    /// Sends the next event; false when there is nobody any more.
    fn send(&mut self, event: impl FnOnce(usize) -> StreamEvent) -> bool {
        let event = event(self.sequence);
        self.sequence += 1;
        self.sink.send(super::super::event(&event).event(event.name()))
    }

    fn tell(&mut self, job: &Job, head: ResponseObject, cancel: &Cancel) -> Result<(), Problem> {
        let begun = Box::new(head.clone());
        self.send(|sequence_number| StreamEvent::Created { sequence_number, response: begun.clone() });
        self.send(|sequence_number| StreamEvent::InProgress { sequence_number, response: begun });
        let answer = job.answer(0, cancel, |pieces| pieces.iter().try_for_each(|piece| self.piece(piece)))?;
        if self.open.is_none() && self.done.is_empty() {
            let _ = self.open_message(); // an answer without a word is a message without one
        }
        self.close(head.status_of(&answer.generation));
        let response = Box::new(head.ended(std::mem::take(&mut self.done), &answer.generation));
        self.send(|sequence_number| match response.is_cut() {
            true => StreamEvent::Incomplete { sequence_number, response },
            false => StreamEvent::Completed { sequence_number, response },
        });
        Ok(())
    }

    fn piece(&mut self, piece: &Piece) -> ControlFlow<()> {
        let output_index = match piece {
            Piece::Text(_) if !matches!(self.open, Some(Open::Message { .. })) => {
                self.close("completed");
                self.open_message()?;
                self.done.len()
            }
            Piece::Call { id, name, .. } => {
                self.close("completed");
                let call = Called { id: id.clone(), name: name.clone(), arguments: String::new() };
                let (id, output_index) = (answer_id("fc_"), self.done.len());
                let item = Output::call(id.clone(), "in_progress", &call);
                self.open = Some(Open::Call { id, call });
                return heard(self.send(|sequence_number| StreamEvent::ItemAdded { sequence_number, output_index, item }));
            }
            _ => self.done.len(),
        };
        let item_id = match (&mut self.open, piece) {
            (Some(Open::Message { id, text }), Piece::Text(more)) => {
                text.push_str(more);
                id.clone()
            }
            (Some(Open::Call { id, call }), Piece::Arguments { text, .. }) => {
                call.arguments.push_str(text);
                id.clone()
            }
            _ => return ControlFlow::Continue(()),
        };
        heard(self.send(|sequence_number| match piece {
            Piece::Arguments { text, .. } => {
                StreamEvent::ArgumentsDelta { sequence_number, item_id, output_index, delta: text.clone() }
            }
            Piece::Text(text) | Piece::Call { name: text, .. } => {
                StreamEvent::TextDelta { sequence_number, item_id, output_index, content_index: 0, delta: text.clone() }
            }
        }))
    }

    fn open_message(&mut self) -> ControlFlow<()> {
        let (id, output_index) = (answer_id("msg_"), self.done.len());
        self.open = Some(Open::Message { id: id.clone(), text: String::new() });
        let item = Output::message(id.clone(), "in_progress", None);
        self.send(|sequence_number| StreamEvent::ItemAdded { sequence_number, output_index, item });
        let part = OutputPart::text("");
        heard(self.send(|sequence_number| StreamEvent::PartAdded {
            sequence_number,
            item_id: id,
            output_index,
            content_index: 0,
            part,
        }))
    }

    /// Ends the item under way.
    fn close(&mut self, status: &'static str) {
        let (output_index, content_index) = (self.done.len(), 0);
        let item = match self.open.take() {
            None => return,
            Some(Open::Message { id, text }) => {
                let (item_id, part) = (id.clone(), OutputPart::text(text.as_str()));
                let item = Output::message(id, status, Some(&text));
                self.send(|sequence_number| StreamEvent::TextDone {
                    sequence_number,
                    item_id: item_id.clone(),
                    output_index,
                    content_index,
                    text,
                });
                self.send(|sequence_number| StreamEvent::PartDone {
                    sequence_number,
                    item_id,
                    output_index,
                    content_index,
                    part,
                });
                item
            }
            Some(Open::Call { id, call }) => {
                let item = Output::call(id.clone(), status, &call);
                let Called { name, arguments, .. } = call;
                self.send(|sequence_number| StreamEvent::ArgumentsDone {
                    sequence_number,
                    item_id: id,
                    output_index,
                    name,
                    arguments,
                });
                item
            }
        };
        self.done.push(item.clone());
        self.send(|sequence_number| StreamEvent::ItemDone { sequence_number, output_index, item });
    }
}
