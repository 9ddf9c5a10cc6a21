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
mod value;

use crate::{
    tokenizer::{Specials, Tokenizer},
    weights::{self, gguf::Gguf},
};
use controls::Controls;
use template::{Input, Template};

pub use date::Date;

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
}

impl Role {
    /// What templates call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who.
    pub role: Role,
    /// What; plain text.
    pub content: String,
    /// Pictures before it.
    pub pictures: usize,
}

impl Message {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), pictures: 0 }
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
}

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
        Ok(Self { template, bos: name(tokenizer.bos()), eos: name(tokenizer.eos()), controls })
    }

    /// Whether the model brings no template: it was not tuned to chat.
    pub fn is_plain(&self) -> bool {
        self.template.is_none()
    }

    /// Where to stop besides the model's own end marks.
    pub fn stops(&self) -> &'static [&'static str] {
        if self.is_plain() { &["\nUser:"] } else { &[] }
    }

    /// The prompt's tokens: the conversation, and the opening of the model's answer.
    ///
    /// # Errors
    /// [`Error`].
    pub fn encode(&self, messages: &[Message], date: Date, tokenizer: &Tokenizer) -> Result<Vec<u32>, Error> {
        self.encode_with(messages, "", date, tokenizer)
    }

    /// As [`ChatTemplate::encode`], with `picture` where a message has one: control tokens that no message can write.
    ///
    /// # Errors
    /// [`Error`]; a base model's plain form has no place for pictures.
    pub fn encode_with(
        &self,
        messages: &[Message],
        picture: &str,
        date: Date,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, Error> {
        let Some(template) = &self.template else {
            if messages.iter().any(|m| m.pictures > 0) {
                return Err(Error::Refused("a model without a chat template takes no pictures".into()));
            }
            return Ok(tokenizer.encode_prompt(&plain(messages), Specials::Text, str::to_owned)?);
        };
        let mut marks = free_marks(messages);
        let (mark, place) = (marks.next().unwrap_or(FIRST_MARK), marks.next().unwrap_or(FIRST_MARK));
        let guarded = messages.iter().map(|m| {
            let text = self.controls.guard(&m.content, mark, tokenizer);
            // The places stand together before the text: the template may cut the text's spaces, not theirs.
            Message { content: format!("{}{text}", String::from(place).repeat(m.pictures)), ..*m }
        });
        let guarded: Vec<Message> = guarded.collect();
        let prompt = template.render(&Input { messages: &guarded, bos: &self.bos, eos: &self.eos, date })?;
        let prompt = if messages.iter().any(|m| m.pictures > 0) { prompt.replace(place, picture) } else { prompt };
        Ok(tokenizer.encode_prompt(&prompt, Specials::Parse, |text| text.replace(mark, ""))?)
    }
}

/// Private-use characters that nobody wrote.
fn free_marks(messages: &[Message]) -> impl Iterator<Item = char> {
    (FIRST_MARK..).filter(|&c| !messages.iter().any(|m| m.content.contains(c)))
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
