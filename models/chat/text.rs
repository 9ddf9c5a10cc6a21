//! Values as text: Python's `str`, `repr` and `json.dumps`.

use super::{
    budget::Budget,
    template::{Halt, Rendered},
    value::{Dict, Value},
};

/// Text that is being made: every byte is paid for before it is kept.
pub(super) struct Text<'b> {
    out: String,
    budget: &'b Budget,
}

/// How `json.dumps` writes.
pub(super) struct Json {
    /// Text that a level is indented by; `None`: all in one line.
    pub(super) indent: Option<String>,
    /// Between items, and between a key and its value.
    pub(super) separators: (String, String),
    /// Whether keys are put in order.
    pub(super) sort_keys: bool,
    /// Whether characters beyond ASCII are escaped.
    pub(super) ascii: bool,
}

impl<'b> Text<'b> {
    pub(super) fn new(budget: &'b Budget) -> Self {
        Self { out: String::new(), budget }
    }

    /// `str(value)` and as text that others share.
    pub(super) fn of(value: &Value, budget: &'b Budget) -> Rendered<std::rc::Rc<str>> {
        if let Value::Str(s) = value {
            return Ok(s.clone());
        }
        let mut text = Self::new(budget);
        text.str(value)?;
        budget.make(text.out.len())?;
        Ok(text.out.into())
    }

    /// What was written, as a value.
    pub(super) fn value(self) -> Rendered<Value> {
        Value::text(&self.out, self.budget)
    }

    pub(super) fn push(&mut self, text: &str) -> Rendered<()> {
        self.budget.make(2 * text.len())?; // strings grow by doubling
        self.out.push_str(text);
        Ok(())
    }

    /// `str(value)`
    pub(super) fn str(&mut self, value: &Value) -> Rendered<()> {
        match value {
            Value::Undefined => Ok(()),
            Value::Str(s) => self.push(s),
            other => self.repr(other),
        }
    }

    fn repr(&mut self, value: &Value) -> Rendered<()> {
        self.budget.look(8)?;
        match value {
            Value::None => self.push("None"),
            Value::Bool(b) => self.push(if *b { "True" } else { "False" }),
            Value::Int(i) => self.push(&i.to_string()),
            Value::Float(f) => self.push(&float(*f)),
            Value::Str(s) => self.quoted(s),
            Value::List(s) => self.row("[", s.items(), "]"),
            Value::Tuple(s) => self.row("(", s.items(), if s.items().len() == 1 { ",)" } else { ")" }),
            Value::Dict(d) => {
                self.push("{")?;
                for (at, (key, value)) in d.entries().iter().enumerate() {
                    self.push(if at == 0 { "" } else { ", " })?;
                    self.repr(key)?;
                    self.push(": ")?;
                    self.repr(value)?;
                }
                self.push("}")
            }
            other => self.push(&format!("<{}>", other.kind())),
        }
    }

    fn row(&mut self, open: &str, items: &[Value], close: &str) -> Rendered<()> {
        self.push(open)?;
        for (at, item) in items.iter().enumerate() {
            self.push(if at == 0 { "" } else { ", " })?;
            self.repr(item)?;
        }
        self.push(close)
    }

    /// A string as Python's `repr` writes it.
    fn quoted(&mut self, s: &str) -> Rendered<()> {
        self.budget.look(s.len())?;
        let quote = if s.contains('\'') && !s.contains('"') { "\"" } else { "'" };
        self.push(quote)?;
        self.escaped(s, |c| match c {
            '\\' => Some("\\\\".to_owned()),
            '\'' if quote == "'" => Some("\\'".to_owned()),
            '\n' => Some("\\n".to_owned()),
            '\r' => Some("\\r".to_owned()),
            '\t' => Some("\\t".to_owned()),
            '\0'..='\x1f' | '\x7f'..='\u{a0}' | '\u{ad}' => Some(format!("\\x{:02x}", u32::from(c))),
            _ => None,
        })?;
        self.push(quote)
    }

    /// `s` with what `escape` gives in place of the characters it knows.
    fn escaped(&mut self, s: &str, escape: impl Fn(char) -> Option<String>) -> Rendered<()> {
        self.budget.look(s.len())?;
        let mut from = 0;
        for (at, c) in s.char_indices() {
            if let Some(instead) = escape(c) {
                self.push(&s[from..at])?;
                self.push(&instead)?;
                from = at + c.len_utf8();
            }
        }
        self.push(&s[from..])
    }

    /// `json.dumps(value)`, `level` deep in it.
    pub(super) fn json(&mut self, value: &Value, style: &Json, level: usize) -> Rendered<()> {
        self.budget.look(8)?;
        match value {
            Value::None => self.push("null"),
            Value::Bool(b) => self.push(if *b { "true" } else { "false" }),
            Value::Int(i) => self.push(&i.to_string()),
            Value::Float(f) => self.push(&json_float(*f)),
            Value::Str(s) => self.json_str(s, style),
            Value::List(s) | Value::Tuple(s) => {
                self.push("[")?;
                for (at, item) in s.items().iter().enumerate() {
                    self.separator(at, style, level + 1)?;
                    self.json(item, style, level + 1)?;
                }
                self.json_end(s.items().is_empty(), "]", style, level)
            }
            Value::Dict(d) => self.json_dict(d, style, level),
            other => Err(Halt::fault(format!("tojson does not write a {}", other.kind()))),
        }
    }

    fn json_dict(&mut self, dict: &Dict, style: &Json, level: usize) -> Rendered<()> {
        let entries = dict.entries();
        self.budget.room::<usize>(entries.len())?;
        let mut order: Vec<usize> = (0..entries.len()).collect();
        if style.sort_keys {
            let key = |at: &usize| match &entries[*at].0 {
                Value::Str(s) => &**s,
                _ => "",
            };
            let bytes: usize = order.iter().map(|at| key(at).len() + 8).sum();
            self.budget.look(bytes.saturating_mul(1 + entries.len().checked_ilog2().unwrap_or(0) as usize))?;
            order.sort_by(|a, b| key(a).cmp(key(b)));
        }
        self.push("{")?;
        for (at, entry) in order.iter().map(|&at| &entries[at]).enumerate() {
            self.separator(at, style, level + 1)?;
            match &entry.0 {
                Value::Str(s) => self.json_str(s, style)?,
                scalar => {
                    self.push("\"")?;
                    self.json(scalar, style, level)?;
                    self.push("\"")?;
                }
            }
            self.push(&style.separators.1)?;
            self.json(&entry.1, style, level + 1)?;
        }
        self.json_end(entries.is_empty(), "}", style, level)
    }

    fn separator(&mut self, at: usize, style: &Json, level: usize) -> Rendered<()> {
        self.push(if at == 0 { "" } else { &style.separators.0 })?;
        self.line(style, level)
    }

    fn line(&mut self, style: &Json, level: usize) -> Rendered<()> {
        let Some(indent) = &style.indent else { return Ok(()) };
        self.push("\n")?;
        (0..level).try_for_each(|_| self.push(indent))
    }

    fn json_end(&mut self, empty: bool, close: &str, style: &Json, level: usize) -> Rendered<()> {
        if !empty {
            self.line(style, level)?;
        }
        self.push(close)
    }

    fn json_str(&mut self, s: &str, style: &Json) -> Rendered<()> {
        self.push("\"")?;
        self.escaped(s, |c| match c {
            '"' => Some("\\\"".to_owned()),
            '\\' => Some("\\\\".to_owned()),
            '\n' => Some("\\n".to_owned()),
            '\r' => Some("\\r".to_owned()),
            '\t' => Some("\\t".to_owned()),
            '\x08' => Some("\\b".to_owned()),
            '\x0c' => Some("\\f".to_owned()),
            '\0'..='\x1f' => Some(format!("\\u{:04x}", u32::from(c))),
            c if style.ascii && !c.is_ascii() => {
                Some(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect())
            }
            _ => None,
        })?;
        self.push("\"")
    }
}

/// Python's `repr` of a float: the shortest digits that give it back, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(f: f64) -> String {
    if !f.is_finite() {
        return if f.is_nan() { "nan".into() } else { format!("{}inf", if f < 0.0 { "-" } else { "" }) };
    }
    if f == 0.0 || (1e-4..1e16).contains(&f.abs()) {
        return format!("{f:?}");
    }
    let text = format!("{f:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |e| ("-", e));
    format!("{digits}e{sign}{exponent:0>2}")
}

fn json_float(f: f64) -> String {
    match f {
        f if f.is_nan() => "NaN".into(),
        f if f.is_infinite() => format!("{}Infinity", if f < 0.0 { "-" } else { "" }),
        f => float(f),
    }
}
