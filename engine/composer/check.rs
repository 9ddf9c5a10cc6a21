//! Does a text hold against the evidence of its point? What is not sure is refused: the planner's sentence is always there.

use super::{
    claims::{self, Allowed, Owner, Unit},
    english, korean,
};
use crate::coach::{Language, Point};

/// Why a text was refused. The wording is for people who read `reasons`; programs test for the prefix up to the colon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    kind: Kind,
    seen: String,
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Empty, too long, cut off, several lines.
    Shape,
    /// Control characters, markup, template tokens, addresses.
    Markup,
    /// The prompt's own words.
    Echo,
    /// Another language than the one asked for.
    Language,
    /// A number that is not in the evidence, or in another unit.
    Number,
    /// A number or a fault given to the wrong person; a person that is not there.
    Who,
    /// The wrong way round: late for early, faster for slower.
    Direction,
    /// Another limb or the other side.
    Limb,
    /// Something that was not measured, or that another point is about.
    Topic,
    /// Praise where advice was due, or the reverse.
    Polarity,
    /// Words quoted that were not said.
    Quote,
}

impl Fault {
    pub(super) fn new(kind: Kind, seen: impl Into<String>) -> Self {
        Self { kind, seen: seen.into() }
    }

    /// What kind of fault.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.kind {
            Kind::Shape => "shape",
            Kind::Markup => "markup",
            Kind::Echo => "echo",
            Kind::Language => "language",
            Kind::Number => "number",
            Kind::Who => "who",
            Kind::Direction => "direction",
            Kind::Limb => "limb",
            Kind::Topic => "topic",
            Kind::Polarity => "polarity",
            Kind::Quote => "quote",
        };
        write!(f, "{name}: {}", self.seen)
    }
}

/// Longest text that is taken, characters.
const MAX_CHARS: usize = 360;

/// Everything that speaks against taking `text` for `point`; empty when it holds.
pub fn check(language: Language, point: &Point, text: &str) -> Vec<Fault> {
    let mut faults = shape(text);
    faults.extend(markup(text));
    faults.extend(script(language, text, &point.words));
    if !faults.is_empty() {
        return faults; // Not worth reading further, and perhaps not readable.
    }
    let quoted = quotes(text, &point.words);
    match quoted {
        Ok(plain) => match language {
            Language::English => english::check(point, &plain, text),
            Language::Korean => korean::check(point, &plain, text),
        },
        Err(fault) => vec![fault],
    }
}

fn shape(text: &str) -> Vec<Fault> {
    let chars = text.chars().count();
    let mut faults = Vec::new();
    if !(12..=MAX_CHARS).contains(&chars) {
        faults.push(Fault::new(Kind::Shape, format!("{chars} characters, 12 to {MAX_CHARS} are taken")));
    }
    if text.contains(['\n', '\r']) {
        faults.push(Fault::new(Kind::Shape, "more than one line"));
    }
    if !text.ends_with(['.', '!', '?']) {
        faults.push(Fault::new(Kind::Shape, "does not end with a full stop"));
    }
    let sentences = sentences(text);
    if sentences > 3 {
        faults.push(Fault::new(Kind::Shape, format!("{sentences} sentences, at most 3 are taken")));
    }
    if let Some(twice) = repeated(text) {
        faults.push(Fault::new(Kind::Shape, format!("says “{twice}” twice")));
    }
    faults
}

/// Four words that come twice: models that loop.
fn repeated(text: &str) -> Option<String> {
    let words: Vec<String> = text.split_whitespace().map(crate::coach::words::normal).collect();
    let mut windows = words.windows(4).enumerate();
    windows.find(|(i, w)| words[i + 1..].windows(4).any(|other| other == *w)).map(|(_, w)| w.join(" "))
}

/// Sentence ends: a stop before a space or the end; "4.5" and "e.g." hold none.
fn sentences(text: &str) -> usize {
    let chars: Vec<char> = text.chars().collect();
    (0..chars.len())
        .filter(|&i| matches!(chars[i], '.' | '!' | '?') && chars.get(i + 1).is_none_or(|c| c.is_whitespace()))
        .count()
}

fn markup(text: &str) -> Vec<Fault> {
    // Bidirectional and zero-width controls are format characters that char::is_control does not cover.
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fffd}')
    };
    if let Some(c) = text.chars().find(|c| hidden(*c)) {
        return vec![Fault::new(Kind::Markup, format!("character U+{:04X}", c as u32))];
    }
    let lower = text.to_lowercase();
    let marks = ["<", ">", "|", "[", "]", "{", "}", "`", "**", "##", "__", "http", "www.", "\\", "=", "@"];
    marks.iter().find(|m| lower.contains(**m)).map(|m| Fault::new(Kind::Markup, *m)).into_iter().collect()
}

/// The share of letters in the language's script; quoted words of the speech do not count.
fn script(language: Language, text: &str, quoted: &[String]) -> Vec<Fault> {
    let mut rest = text.to_owned();
    for word in quoted {
        rest = rest.replace(word.as_str(), "");
    }
    let letters: Vec<char> = rest.replace("dB", "").chars().filter(|c| c.is_alphabetic()).collect();
    let own = letters.iter().filter(|c| match language {
        Language::English => c.is_ascii_alphabetic(),
        Language::Korean => ('가'..='힣').contains(*c),
    });
    let (own, all) = (own.count(), letters.len());
    if all > 0 && own * 100 >= all * 97 {
        Vec::new()
    } else {
        vec![Fault::new(Kind::Language, format!("{own} of {all} letters"))]
    }
}

/// The text with its quotations blanked out; what stands in quotation marks must be words of the point.
fn quotes(text: &str, words: &[String]) -> Result<String, Fault> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find(['“', '‘', '"', '\'']) {
        let mark = rest[open..].chars().next().unwrap_or('"');
        let (before, inside) = (&rest[..open], &rest[open + mark.len_utf8()..]);
        // An apostrophe inside a word ("teacher's", "don't") opens no quotation.
        let apostrophe = mark == '\'' && before.ends_with(char::is_alphanumeric);
        let close = match mark {
            '“' => inside.find('”'),
            '‘' => inside.find('’'),
            '\'' => inside.match_indices('\'').map(|m| m.0).find(|i| !inside[i + 1..].starts_with(char::is_alphanumeric)),
            other => inside.find(other),
        };
        let Some(close) = close.filter(|_| !apostrophe) else {
            plain.push_str(&rest[..open + mark.len_utf8()]);
            rest = inside;
            continue;
        };
        let quoted = inside[..close].trim_matches(|c: char| !c.is_alphanumeric());
        if !words.iter().any(|w| w.eq_ignore_ascii_case(quoted)) {
            return Err(Fault::new(Kind::Quote, format!("“{quoted}” is not a word of this point")));
        }
        plain.push_str(before);
        plain.push_str(" Q ");
        let after = close + inside[close..].chars().next().map_or(0, char::len_utf8);
        rest = &inside[after..];
    }
    plain.push_str(rest);
    Ok(plain)
}

/// A number found in a text, with how it was used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) value: f64,
    pub(super) decimals: usize,
    pub(super) unit: Unit,
    /// Said as a moment ("at 2.0 s"), as a measure, or either.
    pub(super) role: Role,
    /// Whose it is, as far as the text says.
    pub(super) owner: Option<Owner>,
}

/// How a number of seconds is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Moment,
    Measure,
}

/// Every number must be one of the point's, in its unit, its role and its owner's.
pub(super) fn numbers(point: &Point, found: &[Found]) -> Vec<Fault> {
    let allowed = claims::numbers(point);
    let mut faults = Vec::new();
    for n in found {
        let fits = |a: &&Allowed| a.matches(n.value, n.decimals) && a.unit == n.unit;
        let role = |a: &&Allowed| (a.owner == Owner::Time) == (n.role == Role::Moment);
        let candidates: Vec<&Allowed> = allowed.iter().filter(fits).filter(role).collect();
        let shown = say(n);
        if candidates.is_empty() {
            faults.push(Fault::new(Kind::Number, format!("{shown} was not measured")));
        } else if n.role == Role::Measure && !candidates.iter().any(|a| may_own(a.owner, n.owner)) {
            faults.push(Fault::new(Kind::Who, format!("{shown} belongs to another")));
        }
    }
    faults
}

fn say(n: &Found) -> String {
    format!("{:.*} ({:?})", n.decimals, n.value, n.unit)
}

/// A number without an owner in the text is the learner's. What the text gives to a target or to the teacher must be theirs.
fn may_own(evidence: Owner, text: Option<Owner>) -> bool {
    match text {
        None | Some(Owner::Learner) => evidence == Owner::Learner,
        Some(other) => evidence == other,
    }
}
