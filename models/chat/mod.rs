//! Conversations to prompts, by the chat template that a model brings (Jinja, as HF transformers runs it).
//!
//! What users say never becomes a control token: where their text spells one (or could complete one together with the template's
//! text), a mark is put inside before the template runs; control tokens are looked for in the result, and only then the marks
//! are taken out. A template is a program from outside: it sees nothing but the messages and the day, and runs with limits of steps,
//! of memory and of output (template.rs).

mod args;
mod budget;
mod controls;
mod date;
mod eval;
mod filters;
mod functions;
mod ops;
mod strings;
mod template;
#[cfg(test)]
mod tests;
mod text;
mod tools;
mod value;

use std::collections::HashMap;

use crate::{
    tokenizer::{Specials, Tokenizer},
    weights::{self, gguf::Gguf},
};
use controls::Controls;
use template::{Input, Template};

pub use date::Date;
pub use tools::{Call, CallForm, Tool};

/// First of the characters that can serve as the mark (private use, plane 15).
const FIRST_MARK: char = '\u{F0000}';

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions of the application.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// What came of a call of the model's.
    Tool,
}

impl Role {
    /// What templates call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who.
    pub role: Role,
    /// What; plain text.
    pub content: String,
    /// Pictures before it.
    pub pictures: usize,
    /// Functions that the model calls with it.
    pub calls: Vec<Call>,
    /// The id of the call that it answers.
    pub answers: Option<String>,
}

impl Message {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), pictures: 0, calls: Vec::new(), answers: None }
    }

    /// The message with so many pictures before its text.
    pub fn with_pictures(self, pictures: usize) -> Self {
        Self { pictures, ..self }
    }
}

/// Why a conversation cannot be made a prompt.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The template does not compile, fails, or runs too long.
    #[error("the model's chat template: {0}")]
    Template(String),
    /// The template itself refuses the conversation (roles out of order, say).
    #[error("the model's chat template refuses the conversation: {0}")]
    Refused(String),
    /// The tokenizer refuses the text.
    #[error(transparent)]
    Tokenizer(#[from] weights::Error),
}

/// A model's way to write conversations.
pub struct ChatTemplate {
    template: Option<Template>, // `None`: a base model, written plainly
    bos: String,
    eos: String,
    controls: Controls,
    native: Option<CallForm>, // of a template that writes tools itself
}

/// What a base model reads before each turn; those of tools are written as the user's before.
const PLAIN_ROLES: [(Role, &str); 3] = [(Role::System, ""), (Role::User, "User: "), (Role::Assistant, "Assistant: ")];

impl ChatTemplate {
    /// The template in a GGUF's metadata, or the plain form where it has none.
    ///
    /// # Errors
    /// [`weights::Error::Field`] for metadata of the wrong type or a template that does not compile.
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> weights::Result<Self> {
        const KEY: &str = "tokenizer.chat_template";
        Self::new(gguf.str(KEY)?, tokenizer).map_err(|e| gguf.field_error(KEY, e.to_string()))
    }

    /// From a template's source; `None`: the plain form for base models.
    ///
    /// # Errors
    /// [`Error::Template`] where it does not compile.
    pub fn new(source: Option<&str>, tokenizer: &Tokenizer) -> Result<Self, Error> {
        let name = |id: Option<u32>| id.map(|id| String::from_utf8_lossy(tokenizer.bytes(id)).into_owned()).unwrap_or_default();
        let template = source.map(Template::new).transpose()?;
        let controls = Controls::new(tokenizer.control_names());
        let native = template.as_ref().filter(|t| t.names("tools")).and_then(|t| CallForm::of(t.source()));
        Ok(Self { native, template, bos: name(tokenizer.bos()), eos: name(tokenizer.eos()), controls })
    }

    /// Whether the model brings no template: it was not tuned to chat.
    pub fn is_plain(&self) -> bool {
        self.template.is_none()
    }

    /// Where to stop besides the model's own end marks.
    pub fn stops(&self) -> &'static [&'static str] {
        if self.is_plain() { &["\nUser:"] } else { &[] }
    }

    /// How the model writes calls of functions: as its template says, or as it is told in the system message.
    pub fn call_form(&self) -> CallForm {
        self.native.unwrap_or(CallForm::Tagged)
    }

    /// The prompt's tokens: the conversation, and the opening of the model's answer.
    ///
    /// # Errors
    /// [`Error`].
    pub fn encode(&self, messages: &[Message], date: Date, tokenizer: &Tokenizer) -> Result<Vec<u32>, Error> {
        self.encode_with(messages, &[], "", date, tokenizer)
    }

    /// As [`ChatTemplate::encode`], with functions that the model may call, and with `picture` where a message has one: control tokens
    /// that no message can write.
    ///
    /// A template that does not know functions gets them, their calls and what came of those as text (tools.rs).
    ///
    /// # Errors
    /// [`Error`]; a base model's plain form has no place for pictures.
    pub fn encode_with(
        &self,
        messages: &[Message],
        tools: &[Tool],
        picture: &str,
        date: Date,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, Error> {
        let spelled = self.native.is_none().then(|| tools::spelled(messages, tools));
        let (messages, tools) = spelled.as_deref().map_or((messages, tools), |m| (m, &[]));
        let Some(template) = &self.template else {
            if messages.iter().any(|m| m.pictures > 0) {
                return Err(Error::Refused("a model without a chat template takes no pictures".into()));
            }
            return Ok(tokenizer.encode_prompt(&plain(messages), Specials::Text, str::to_owned)?);
        };
        let tools: Vec<serde_json::Value> = tools.iter().map(Tool::described).collect();
        let mut marks = free_marks(messages, &tools);
        let (mark, place) = (marks.next().unwrap_or(FIRST_MARK), marks.next().unwrap_or(FIRST_MARK));
        let guard = |text: &str| self.controls.guard(text, mark, tokenizer).into_owned();
        let inside = |text: &str| self.controls.guard_inside(text, mark, tokenizer);
        let ids = short_ids(messages);
        let id = |long: &String| ids.get(long.as_str()).cloned().unwrap_or_default();
        let guarded = messages.iter().map(|m| {
            let text = guard(&m.content);
            let call = |c: &Call| Call { id: id(&c.id), name: guard(&c.name), arguments: tools::texts(&c.arguments, &inside) };
            Message {
                role: m.role,
                // The places stand together before the text: the template may cut the text's spaces, not theirs.
                content: format!("{}{text}", String::from(place).repeat(m.pictures)),
                pictures: m.pictures,
                calls: m.calls.iter().map(call).collect(),
                answers: m.answers.as_ref().map(id),
            }
        });
        let guarded: Vec<Message> = guarded.collect();
        let tools: Vec<serde_json::Value> = tools.iter().map(|tool| tools::texts(tool, &inside)).collect();
        let prompt = template.render(&Input { messages: &guarded, tools: &tools, bos: &self.bos, eos: &self.eos, date })?;
        let prompt = if messages.iter().any(|m| m.pictures > 0) { prompt.replace(place, picture) } else { prompt };
        Ok(tokenizer.encode_prompt(&prompt, Specials::Parse, |text| text.replace(mark, ""))?)
    }
}

/// Private-use characters that nobody wrote.
fn free_marks(messages: &[Message], tools: &[serde_json::Value]) -> impl Iterator<Item = char> {
    let calls = messages.iter().flat_map(|m| &m.calls);
    let json: Vec<String> = tools.iter().chain(calls.map(|c| &c.arguments)).map(serde_json::Value::to_string).collect();
    (FIRST_MARK..).filter(move |&c| !messages.iter().any(|m| m.content.contains(c)) && !json.iter().any(|j| j.contains(c)))
}

/// Ids of calls as every template takes them: nine letters and digits (Mistral's asks for so many), by the order of the calls.
fn short_ids(messages: &[Message]) -> HashMap<&str, String> {
    let calls = messages.iter().flat_map(|m| &m.calls);
    calls.zip(1..).map(|(call, n): (&Call, usize)| (call.id.as_str(), format!("call{:05}", n % 100_000))).collect()
}

fn plain(messages: &[Message]) -> String {
    let mut text = String::new();
    for message in messages {
        let role = PLAIN_ROLES.iter().find(|r| r.0 == message.role).map_or("", |r| r.1);
        text.push_str(role);
        text.push_str(message.content.trim());
        text.push_str(if message.role == Role::System { "\n\n" } else { "\n" });
    }
    text.push_str("Assistant:");
    text
}
