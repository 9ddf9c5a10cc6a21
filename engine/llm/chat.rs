//! A conversation that keeps its cache from turn to turn.

use std::{
    ops::ControlFlow,
    sync::{Arc, atomic::AtomicBool},
    time::{SystemTime, UNIX_EPOCH},
};

use dreamseed_models::chat::{Date, Error as TemplateError, Message, Role, Tool};

use super::{Generation, Llm, Options, Seen, Session};
use crate::{Error, Result};

/// A conversation: what was said, and the session it runs in.
pub struct Chat {
    session: Session,
    messages: Vec<Message>,
    pictures: Vec<Seen>, // of all messages, in order
    tools: Vec<Tool>,
    date: Date,
}

impl Chat {
    /// A conversation of at most `context` tokens (`None`: see [`Session::new`]), with instructions for the model if given.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn new(llm: Arc<Llm>, context: Option<usize>, system: Option<&str>) -> Result<Self> {
        let messages = system.map(|s| Message::new(Role::System, s)).into_iter().collect();
        Ok(Self { session: Session::new(llm, context)?, messages, pictures: Vec::new(), tools: Vec::new(), date: today() })
    }

    /// What was said so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The session it runs in.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Says `text` to the model and streams its answer; both join the conversation. On an error neither does.
    ///
    /// # Errors
    /// As [`Session::generate`]; [`Error::Usage`] when the model's template refuses the conversation.
    pub fn say(&mut self, text: &str, options: &Options, on_text: impl FnMut(&str) -> ControlFlow<()>) -> Result<Generation> {
        self.say_with(text, Vec::new(), options, on_text)
    }

    /// As [`Chat::say`], with pictures before the text. The model's [`Llm::see`] makes them.
    ///
    /// # Errors
    /// As [`Chat::say`]; [`Error::Usage`] when the model has no sight.
    pub fn say_with(
        &mut self,
        text: &str,
        pictures: Vec<Seen>,
        options: &Options,
        on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let before = self.pictures.len();
        self.messages.push(Message::new(Role::User, text).with_pictures(pictures.len()));
        self.pictures.extend(pictures);
        let answer = self.answer(options, on_text);
        match &answer {
            Ok(generation) => self.messages.push(Message::new(Role::Assistant, generation.text.trim())),
            Err(_) => {
                self.messages.pop();
                self.pictures.truncate(before);
            }
        }
        answer
    }

    /// Replaces the conversation by one without pictures. What it begins with in common with the last one stays in the cache.
    pub fn set(&mut self, messages: Vec<Message>) {
        self.set_with(messages, Vec::new());
    }

    /// As [`Chat::set`], with the pictures of all messages, in order.
    pub(crate) fn set_with(&mut self, messages: Vec<Message>, pictures: Vec<Seen>) {
        self.messages = messages;
        self.pictures = pictures;
    }

    /// Functions that the model may call from now on: it answers with their names and arguments, in the template's
    /// [`call_form`](dreamseed_models::chat::ChatTemplate::call_form).
    pub fn offer(&mut self, tools: Vec<Tool>) {
        self.tools = tools;
    }

    /// See [`Session::cancelled_by`].
    pub fn cancelled_by(&mut self, flag: Arc<AtomicBool>) {
        self.session.cancelled_by(flag);
    }

    /// Forgets all turns but the instructions.
    pub fn clear(&mut self) {
        self.messages.retain(|m| m.role == Role::System);
        self.pictures.clear();
    }

    /// What the model says next; it does not join the conversation.
    ///
    /// # Errors
    /// As [`Chat::say_with`].
    pub(crate) fn answer(&mut self, options: &Options, on_text: impl FnMut(&str) -> ControlFlow<()>) -> Result<Generation> {
        let llm = self.session.llm().clone();
        let picture = if self.pictures.is_empty() { String::new() } else { llm.picture_mark()? };
        let prompt = llm.template().encode_with(&self.messages, &self.tools, &picture, self.date, llm.tokenizer());
        let prompt = prompt.map_err(|e| match e {
            TemplateError::Tokenizer(e) => Error::Weights(e),
            other => Error::Usage(other.to_string()),
        })?;
        let prompt = llm.place(prompt, &self.pictures)?;
        let mut options = options.clone();
        options.stop.extend(llm.template().stops().iter().map(|s| (*s).to_owned()));
        self.session.generate_with(&prompt, &options, on_text)
    }
}

/// The day by UTC, for templates that write one.
fn today() -> Date {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    date_of_day((seconds / 86_400) as i64)
}

/// Days since 1970-01-01 to a date of the Gregorian calendar (Hinnant's civil_from_days).
fn date_of_day(days: i64) -> Date {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153; // months from March
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Date { year: year as u16, month: month as u8, day: (day_of_year - (153 * shifted + 2) / 5 + 1) as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        let date = |d: i64| (date_of_day(d).year, date_of_day(d).month, date_of_day(d).day);
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(20_454), (2026, 1, 1));
        assert_eq!(date(20_453), (2025, 12, 31));
    }
}
