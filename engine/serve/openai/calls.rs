//! Calls of functions in what a model writes, found as it is written.

use dreamseed_models::chat::CallForm;
use serde_json::Value;

use super::answer_id;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const LIST: &str = "[TOOL_CALLS]";

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    /// Text.
    Text(String),
    /// A call begins; calls are numbered from 0.
    Call { index: usize, id: String, name: String },
    /// More of its arguments, which are JSON when all have come.
    Arguments { index: usize, text: String },
}

/// Takes what is written and gives its parts as soon as they are certain. What only begins like a call is text.
pub(super) struct Reader {
    form: CallForm,
    names: Vec<String>, // none: all is text
    follows: bool,      // what is written follows a grammar of calls
    parallel: bool,
    lead: String, // what stands before the JSON that is held, in case that turns out to be text
    held: String,
    place: Place,
    json: Scan,
    calls: usize,
    text: bool, // something was given out as text
}

/// Where a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In text, or between calls.
    Outside,
    /// What is held begins with the JSON of a call.
    Inside,
    /// What is held is of a call's arguments; the call itself was given out.
    Arguments,
    /// Nothing that follows can be a call.
    Over,
}

/// How far JSON that begins with a bracket was looked through.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    at: usize,
    depth: usize,
    string: bool,
    escaped: bool,
}

impl Scan {
    /// The end of the JSON that `text` begins with, where it is there; goes on where it ended last.
    fn end(&mut self, text: &str) -> Option<usize> {
        for byte in text.as_bytes()[self.at..].iter().copied() {
            self.at += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.string => self.escaped = true,
                b'"' => self.string = !self.string,
                b'{' | b'[' if !self.string => self.depth += 1,
                b'}' | b']' if !self.string => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(self.at);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

impl Reader {
    /// `names`: of the functions; `follows`: what is written follows a grammar of calls; without `parallel` the first call is the last.
    pub(super) fn new(form: CallForm, names: Vec<String>, follows: bool, parallel: bool) -> Self {
        let place = if names.is_empty() { Place::Over } else { Place::Outside };
        let (lead, held, json) = (String::new(), String::new(), Scan::default());
        Self { form, names, follows, parallel, lead, held, place, json, calls: 0, text: false }
    }

    /// Whether nothing more is wanted.
    pub(super) fn is_full(&self) -> bool {
        !self.parallel && self.calls > 0 && matches!(self.place, Place::Outside | Place::Over)
    }

    /// More of what is written.
    pub(super) fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while !self.is_full() && self.step(false, &mut pieces) {}
        pieces
    }

    /// The end of what is written.
    pub(super) fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        while !self.is_full() && self.step(true, &mut pieces) {}
        if !self.is_full() && !self.follows {
            let rest = std::mem::take(&mut self.held);
            let rest = if self.calls > 0 && rest.trim().is_empty() { String::new() } else { rest };
            self.say(rest, &mut pieces);
        }
        pieces
    }

    fn say(&mut self, text: String, pieces: &mut Vec<Piece>) {
        if !text.is_empty() {
            self.text = true;
            pieces.push(Piece::Text(text));
        }
    }

    /// Takes one step; whether another may follow.
    fn step(&mut self, last: bool, pieces: &mut Vec<Piece>) -> bool {
        match (self.place, self.follows) {
            (Place::Over, _) => {
                let text = std::mem::take(&mut self.held);
                self.say(text, pieces);
                false
            }
            (Place::Outside, true) => self.held.find('{').is_some_and(|at| {
                self.held.drain(..at);
                self.place = Place::Inside;
                true
            }),
            (Place::Inside, true) => self.begin(pieces),
            (Place::Arguments, _) => self.go_on(pieces),
            (Place::Outside, false) => self.look(pieces),
            (Place::Inside, false) => self.take(last, pieces),
        }
    }

    /// Gives a call out as soon as its name is known.
    fn begin(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let Some((name, at)) = header(&self.held) else { return false };
        let name = name.to_owned();
        self.held.drain(..at);
        pieces.push(Piece::Call { index: self.calls, id: answer_id("call_"), name });
        (self.place, self.json) = (Place::Arguments, Scan::default());
        true
    }

    /// Gives out what has come of a call's arguments.
    fn go_on(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let end = self.json.end(&self.held);
        let text: String = self.held.drain(..end.unwrap_or(self.held.len())).collect();
        self.json.at = 0;
        if !text.is_empty() {
            pieces.push(Piece::Arguments { index: self.calls, text });
        }
        if end.is_some() {
            self.calls += 1;
            self.place = Place::Outside;
        }
        end.is_some()
    }

    /// Looks for the beginning of a call, and gives out what is before it.
    fn look(&mut self, pieces: &mut Vec<Piece>) -> bool {
        if self.form == CallForm::Tagged {
            if let Some(at) = self.held.find(OPEN) {
                let before = self.held[..at].trim_end().len();
                let text: String = self.held.drain(..before).collect();
                self.lead = self.held.drain(..at - before + OPEN.len()).collect();
                self.say(text, pieces);
                (self.place, self.json) = (Place::Inside, Scan::default());
                return true;
            }
            let certain = certain(&self.held);
            let text: String = self.held.drain(..certain).collect();
            self.say(text, pieces);
            return false;
        }
        let seen = self.held.trim_start();
        if self.calls > 0 || self.text {
            if self.calls > 0 && seen.is_empty() {
                self.held.clear();
                return false;
            }
            self.place = Place::Over;
            return true;
        }
        let listed = self.form == CallForm::List;
        if listed && seen.len() < LIST.len() && LIST.starts_with(seen) {
            return false;
        }
        let seen = if listed { seen.strip_prefix(LIST).unwrap_or(seen).trim_start() } else { seen };
        let begins = if listed { "[{\"name\":" } else { "{\"name\":" };
        let tight: String = seen.chars().filter(|c| !c.is_whitespace()).take(begins.len()).collect();
        if tight.len() < begins.len() && begins.starts_with(&tight) {
            return false;
        }
        self.place = if tight == begins { Place::Inside } else { Place::Over };
        self.json = Scan::default();
        if self.place == Place::Inside {
            let before = self.held.len() - seen.len();
            self.lead = self.held.drain(..before).collect();
        }
        true
    }

    /// Takes a call that is whole; what turns out to be none is text.
    fn take(&mut self, last: bool, pieces: &mut Vec<Piece>) -> bool {
        let tagged = self.form == CallForm::Tagged;
        let json = self.held.trim_start();
        if json.is_empty() && !last {
            return false;
        }
        let end = if json.starts_with(['{', '[']) { self.json.end(json) } else { Some(0) };
        let Some(end) = end else { return last && self.give_up(pieces) };
        let Some(found) = self.found(&json[..end]) else { return self.give_up(pieces) };
        let after = json[end..].trim_start();
        let closed = after.strip_prefix(CLOSE);
        if tagged && closed.is_none() {
            if !last && CLOSE.starts_with(after) {
                self.json = Scan::default(); // it is looked through again when more has come
                return false;
            }
            if !after.is_empty() && !last {
                return self.give_up(pieces);
            }
        }
        let rest = closed.unwrap_or(after).to_owned();
        self.held = rest;
        for (name, arguments) in found {
            if self.calls > 0 && !self.parallel {
                break;
            }
            pieces.push(Piece::Call { index: self.calls, id: answer_id("call_"), name });
            pieces.push(Piece::Arguments { index: self.calls, text: arguments });
            self.calls += 1;
        }
        self.place = Place::Outside;
        true
    }

    /// What was held as a call is none: what it began with is text, and the rest is looked through for another.
    fn give_up(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let lead = std::mem::take(&mut self.lead);
        self.say(lead, pieces);
        self.place = if self.form == CallForm::Tagged { Place::Outside } else { Place::Over };
        true
    }

    /// The names and arguments of the calls that JSON holds; `None` where it holds none, or of a function that there is not.
    fn found(&self, json: &str) -> Option<Vec<(String, String)>> {
        let calls = match serde_json::from_str(json).ok()? {
            Value::Array(calls) if self.form == CallForm::List => calls,
            call if self.form != CallForm::List => vec![call],
            _ => return None,
        };
        let call = |call: Value| {
            let name = call.get("name")?.as_str().filter(|n| self.names.iter().any(|known| known == n))?.to_owned();
            let arguments = call.get("arguments").or_else(|| call.get("parameters"))?;
            arguments.is_object().then(|| (name, arguments.to_string()))
        };
        let calls: Vec<_> = calls.into_iter().map(call).collect::<Option<_>>()?;
        (!calls.is_empty()).then_some(calls)
    }
}

/// Bytes of text that no call can begin in: all but blanks at the end and the beginning of a tag after them.
fn certain(text: &str) -> usize {
    let begun = (1..OPEN.len()).rev().find(|n| text.ends_with(&OPEN[..*n])).unwrap_or(0);
    text[..text.len() - begun].trim_end().len()
}

/// The name of a call whose JSON begins with it, and where its arguments begin.
fn header(json: &str) -> Option<(&str, usize)> {
    let after = |text: &'_ str, part: &str| -> Option<usize> {
        let trimmed = text.trim_start();
        trimmed.strip_prefix(part).map(|rest| text.len() - rest.len())
    };
    let mut at = 0;
    for part in ["{", "\"name\"", ":", "\""] {
        at += after(&json[at..], part)?;
    }
    let name = at..at + json[at..].find('"')?;
    at = name.end + 1;
    for part in [",", "\""] {
        at += after(&json[at..], part)?;
    }
    at += json[at..].find('"')? + 1;
    at += after(&json[at..], ":")?;
    let blank = json[at..].len() - json[at..].trim_start().len();
    (json.len() > at + blank).then(|| (&json[name], at + blank))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text and calls of `written`, however it is cut.
    fn read(form: CallForm, follows: bool, parallel: bool, written: &str) -> (String, Vec<(String, String)>) {
        let mut outcomes = Vec::new();
        for cut in [1, 2, 3, 7, written.len().max(1)] {
            let mut reader = Reader::new(form, vec!["f".into(), "g".into()], follows, parallel);
            let characters: Vec<char> = written.chars().collect();
            let mut pieces: Vec<Piece> = Vec::new();
            for part in characters.chunks(cut) {
                pieces.extend(reader.push(&part.iter().collect::<String>()));
            }
            pieces.extend(reader.finish());
            let (mut text, mut calls) = (String::new(), Vec::<(String, String)>::new());
            for piece in pieces {
                match piece {
                    Piece::Text(more) => text.push_str(&more),
                    Piece::Call { index, name, .. } => {
                        assert_eq!(index, calls.len());
                        calls.push((name, String::new()));
                    }
                    Piece::Arguments { index, text } => calls[index].1.push_str(&text),
                }
            }
            outcomes.push((text, calls));
        }
        assert!(outcomes.windows(2).all(|w| w[0] == w[1]), "{written:?}: {outcomes:?}");
        outcomes.remove(0)
    }

    fn calls(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(name, arguments)| ((*name).into(), (*arguments).into())).collect()
    }

    #[test]
    fn calls_are_found_as_models_write_them() {
        use CallForm::{Bare, List, Tagged};
        let one = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"\"}}\n</tool_call>";
        let (text, found) = read(Tagged, false, true, &format!("Let me see.\n{one}\n{one}"));
        assert_eq!(text, "Let me see.");
        assert_eq!(found, calls(&[("f", "{\"a\":\"}\\\"\"}"); 2]));
        let (text, found) = read(Tagged, false, true, &format!("<tool_call>no</tool_call> {one}"));
        assert_eq!((text.as_str(), found.len()), ("<tool_call>no</tool_call>", 1));
        let (_, found) = read(Tagged, false, false, &format!("{one}\n{one}"));
        assert_eq!(found.len(), 1);
        let bare = "\n{\"name\": \"g\", \"parameters\": {\"x\": [1, 2]}}";
        assert_eq!(read(Bare, false, true, bare), (String::new(), calls(&[("g", "{\"x\":[1,2]}")])));
        let list = "[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {\"y\": 1}}]";
        let both = calls(&[("f", "{}"), ("g", "{\"y\":1}")]);
        assert_eq!(read(List, false, true, list), (String::new(), both.clone()));
        assert_eq!(read(List, false, true, &format!("[TOOL_CALLS] {list}")), (String::new(), both));
        assert_eq!(read(Tagged, false, true, one.trim_end_matches("\n</tool_call>")).1.len(), 1, "the end closes it too");
    }

    #[test]
    fn what_only_begins_like_a_call_is_text() {
        use CallForm::{Bare, List, Tagged};
        for (form, text) in [
            (Tagged, "a <tool and more"),
            (Tagged, "a <tool_call>"),
            (Tagged, "<tool_call>{\"name\": \"h\", \"arguments\": {}}</tool_call> done"),
            (Tagged, "<tool_call>{\"name\": \"f\", \"arguments\": 3}</tool_call>"),
            (Tagged, "<tool_call>{\"name\": \"f\", \"argu"),
            (Tagged, "no {\"name\": \"f\", \"arguments\": {}} call"),
            (Tagged, "<tool_call><tool_call>{\"name\": \"h\"}</tool_call>\n<tool_call> "),
            (Tagged, "trailing  \n"),
            (Bare, "{\"name\": \"f\", \"parameters\": {"),
            (Bare, "{\"nam"),
            (Bare, "{ a set }"),
            (Bare, "so {\"name\": \"f\", \"parameters\": {}}"),
            (List, "[1] a reference"),
            (List, "[TOOL"),
            (List, ""),
        ] {
            assert_eq!(read(form, false, true, text), (text.to_owned(), Vec::new()));
        }
    }

    #[test]
    fn calls_that_have_to_be_are_given_out_while_they_are_written() {
        use CallForm::{Bare, List, Tagged};
        let one = "{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"\"} }";
        let two = format!("<tool_call>\n{one}\n</tool_call>\n<tool_call>\n{one}\n</tool_call>");
        assert_eq!(read(Tagged, true, true, &two), (String::new(), calls(&[("f", "{\"a\": \"}\\\"\"}"); 2])));
        assert_eq!(read(List, true, true, &format!("[{one},{one}]")).1.len(), 2);
        assert_eq!(read(Bare, true, false, "{\"name\":\"g\",\n\"parameters\":{}}").1, calls(&[("g", "{}")]));
        let cut = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"be";
        assert_eq!(read(Tagged, true, true, cut).1, calls(&[("f", "{\"a\": \"be")]));
        let mut reader = Reader::new(Bare, vec!["f".into()], true, true);
        assert_eq!(reader.push("{\"name\": \"f\", \"param"), []);
        assert!(
            matches!(&reader.push("eters\": {\"a")[..], [Piece::Call { .. }, Piece::Arguments { text, .. }] if text == "{\"a")
        );
    }

    #[test]
    fn without_functions_all_is_text() {
        let mut reader = Reader::new(CallForm::Bare, Vec::new(), false, true);
        let text = "{\"name\": \"f\", \"parameters\": {}}";
        assert_eq!(reader.push(text), [Piece::Text(text.into())]);
        assert_eq!(reader.finish(), []);
    }
}
