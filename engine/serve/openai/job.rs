//! One request for the next turn of a conversation, whichever API it came by.

use std::{
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use axum::http::StatusCode;
use dreamseed_models::{
    chat::{Message, Role},
    whisper,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    super::{
        Shared,
        admission::Place,
        error::Problem,
        work::{Cancel, Tied},
    },
    calls::Piece,
    content::{ChatMessage, Piece as Said, turns},
    finish_reason,
    tools::Offer,
};
use crate::{
    Engine,
    llm::{Chat, Finish, Generation, Llm, Options, Seen},
};

/// What is asked for, its parameters checked.
pub(super) struct Asked {
    pub(super) messages: Vec<ChatMessage>,
    pub(super) options: Options,
    pub(super) offer: Offer,
}

/// What is generated.
pub(super) struct Job {
    pub(super) server: Shared,
    llm: Arc<Llm>,
    messages: Vec<Message>,
    pictures: Vec<Seen>,
    options: Options,
    offer: Offer,
    begun: Instant,
}

/// An answer.
pub(super) struct Answer {
    pub(super) generation: Generation,
    /// Its text without calls.
    pub(super) text: String,
    pub(super) calls: Vec<Called>,
}

/// A call of a function.
#[derive(Clone, Debug)]
pub(super) struct Called {
    pub(super) id: String,
    pub(super) name: String,
    /// JSON, whole unless the answer is cut.
    pub(super) arguments: String,
}

impl Answer {
    /// Why it ended, in OpenAI's words.
    pub(super) fn finish_reason(&self) -> &'static str {
        match self.generation.finish {
            Finish::Eos | Finish::Stop | Finish::Cancelled if !self.calls.is_empty() => "tool_calls",
            finish => finish_reason(finish),
        }
    }

    fn add(&mut self, piece: &Piece) {
        match piece {
            Piece::Text(text) => self.text.push_str(text),
            Piece::Call { id, name, .. } => {
                self.calls.push(Called { id: id.clone(), name: name.clone(), arguments: String::new() });
            }
            Piece::Arguments { index, text } => {
                if let Some(call) = self.calls.get_mut(*index) {
                    call.arguments.push_str(text);
                }
            }
        }
    }
}

/// The log-probabilities of an answer's tokens.
#[derive(Clone, Serialize, ToSchema)]
pub(super) struct Logprobs {
    content: Vec<TokenLogprob>,
    refusal: Option<Vec<TokenLogprob>>,
}

/// A token and how probable it was.
#[derive(Clone, Serialize, ToSchema)]
pub(super) struct TokenLogprob {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
    /// The most probable tokens at its place, the best first.
    top_logprobs: Vec<TopLogprob>,
}

/// A token that could have stood at a place.
#[derive(Clone, Serialize, ToSchema)]
pub(super) struct TopLogprob {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl Job {
    /// Loads the model, decodes and looks at what came along; blocks.
    pub(super) fn prepare(server: Shared, asked: Asked, model: &str, cancel: &Cancel) -> Result<Self, Problem> {
        let begun = Instant::now();
        let Asked { messages, mut options, offer } = asked;
        let engine = &server.engine;
        let turns = turns(messages, &engine.limits())?;
        let texts = turns.iter().filter(|t| matches!(t.role, Role::User | Role::Tool)).flat_map(|t| &t.pieces);
        server.look_at(texts.filter_map(Said::text))?;
        let sees = turns.iter().any(|t| !t.pictures.is_empty());
        let llm = if sees { engine.llm_that_sees(Some(model), None)? } else { engine.llm(Some(model))? };
        let text_has_form = options.grammar.is_some();
        options.grammar = offer.grammar(llm.template().call_form(), options.grammar.take())?;
        if let Some(grammar) = &options.grammar {
            // what cannot be compiled is said before an answer begins, and of which parameter it is
            let param = if text_has_form { "response_format" } else { "tools" };
            llm.constrain(grammar).map_err(|e| Problem::from(e).of_param(param))?;
        }
        let (mut messages, mut pictures) = (Vec::new(), Vec::new());
        for turn in turns {
            let mut text = String::new();
            for piece in &turn.pieces {
                match piece {
                    Said::Text(piece) => text.push_str(piece),
                    Said::Sound(pcm) => {
                        let said = written_down(engine, pcm, cancel)?;
                        server.look_at([said.as_str()])?;
                        text.push_str(&said);
                    }
                }
            }
            let message = Message::new(turn.role, text).with_pictures(turn.pictures.len());
            messages.push(Message { calls: turn.calls, answers: turn.answers, ..message });
            for picture in &turn.pictures {
                pictures.push(llm.see(picture, None)?);
            }
        }
        Ok(Self { llm, messages, pictures, options, offer, begun, server: server.clone() })
    }

    /// Generates one of the answers; blocks. `on_pieces` gets what is certain with each token, which may be nothing.
    pub(super) fn answer(
        &self,
        index: usize,
        cancel: &Cancel,
        mut on_pieces: impl FnMut(&[Piece]) -> ControlFlow<()>,
    ) -> Result<Answer, Problem> {
        let trained = self.llm.config().context;
        let context = trained.min(self.server.engine.config().llm.cache_tokens);
        let mut chat = Chat::new(self.llm.clone(), Some(context), None)?;
        chat.cancelled_by(cancel.clone());
        chat.set_with(self.messages.clone(), self.pictures.clone());
        chat.offer(self.offer.tools().to_vec());
        let mut options = self.options.clone();
        options.sampling.seed = options.sampling.seed.wrapping_add(index as u64);
        let mut reader = self.offer.reader(self.llm.template().call_form());
        let (mut first, mut pieces) = (true, Vec::new());
        let generation = chat.answer(&options, |text| {
            if std::mem::take(&mut first) {
                self.server.metrics.first_token(self.begun.elapsed());
            }
            let more = reader.push(text);
            let told = on_pieces(&more);
            pieces.extend(more);
            if reader.is_full() { ControlFlow::Break(()) } else { told }
        })?;
        let rest = reader.finish();
        if !rest.is_empty() {
            let _ = on_pieces(&rest);
            pieces.extend(rest);
        }
        self.server.metrics.generated(&generation);
        let mut answer = Answer { generation, text: String::new(), calls: Vec::new() };
        pieces.iter().for_each(|piece| answer.add(piece));
        Ok(answer)
    }

    /// Generates as many answers as there are flags, together.
    pub(super) async fn answers(self: &Arc<Self>, place: Place, flags: Vec<Cancel>) -> Result<Vec<Answer>, Problem> {
        let _tied = Tied(flags.clone());
        let place = Arc::new(place);
        let begin = |(index, cancel): (usize, Cancel)| {
            let (job, place) = (self.clone(), place.clone());
            tokio::task::spawn_blocking(move || {
                let _held = place; // until the work has ended, whether somebody waits for it or not
                job.answer(index, &cancel, |_| ControlFlow::Continue(()))
            })
        };
        let begun: Vec<_> = flags.into_iter().enumerate().map(begin).collect();
        let mut answers = Vec::new();
        for answer in begun {
            answers.push(answer.await.unwrap_or_else(|e| Err(Problem::internal(e)))?);
        }
        Ok(answers)
    }

    pub(super) fn logprobs(&self, text: &Generation) -> Option<Logprobs> {
        let logprobs = text.logprobs.as_ref()?;
        let word = |token: u32| {
            let bytes = self.llm.tokenizer().bytes(token).to_vec();
            (String::from_utf8_lossy(&bytes).into_owned(), bytes)
        };
        let top = |&(token, logprob): &(u32, f32)| {
            let (token, bytes) = word(token);
            TopLogprob { token, logprob: finite(logprob), bytes }
        };
        let content = text.tokens.iter().zip(logprobs).enumerate().map(|(i, (&token, &logprob))| {
            let tops = text.top_logprobs.as_ref().and_then(|all| all.get(i));
            let (token, bytes) = word(token);
            TokenLogprob { token, logprob: finite(logprob), bytes, top_logprobs: tops.into_iter().flatten().map(top).collect() }
        });
        Some(Logprobs { content: content.collect(), refusal: None })
    }
}

/// JSON has no infinity; what has no probability is written as OpenAI's API does.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
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

/// What would need a memory on the server, refused by its name.
pub(super) fn refused(param: &str, why: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "unsupported_parameter", format!("{param} is not supported here: {why}"))
        .of_param(param)
}
