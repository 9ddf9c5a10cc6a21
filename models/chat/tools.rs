//! Functions that a model may call: how they are described to it, and how it writes its calls.
//!
//! Templates that know them write them as the model was trained. For those that do not, the system message describes them, calls are
//! written as `<tool_call>` lines, and what came of them as the user's, each between `<tool_response>` and `</tool_response>`.

use serde_json::{Map, Value, json};

use super::{Message, Role};

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Letters, digits, `_` and `-`.
    pub name: String,
    /// What it does and when to call it.
    pub description: Option<String>,
    /// JSON schema of the object that it takes.
    pub parameters: Value,
}

/// A call of a function by the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// What its answer names it by.
    pub id: String,
    /// The function.
    pub name: String,
    /// An object.
    pub arguments: Value,
}

/// How a model writes its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallForm {
    /// `<tool_call>`, `{"name": ..., "arguments": ...}` and `</tool_call>`: Hermes, Qwen, and what others are told.
    Tagged,
    /// `{"name": ..., "parameters": ...}` and nothing else: Llama 3.
    Bare,
    /// A list of `{"name": ..., "arguments": ...}` after the control token `[TOOL_CALLS]`: Mistral.
    List,
}

impl CallForm {
    /// That of a template; `None` where it is another.
    pub(super) fn of(template: &str) -> Option<Self> {
        match () {
            () if template.contains("<tool_call>") && !template.contains("<function=") => Some(Self::Tagged),
            () if template.contains("[TOOL_CALLS]") => Some(Self::List),
            () if template.contains("\"parameters\": ") => Some(Self::Bare),
            () => None,
        }
    }

    /// The name under which the arguments stand.
    pub fn arguments(self) -> &'static str {
        if self == Self::Bare { "parameters" } else { "arguments" }
    }
}

/// The texts around a call that is written in [`CallForm::Tagged`].
pub(super) const TAGS: [&str; 2] = ["<tool_call>\n", "\n</tool_call>"];

impl Tool {
    /// As templates take it.
    pub(super) fn described(&self) -> Value {
        json!({ "type": "function", "function": self.function() })
    }

    fn function(&self) -> Map<String, Value> {
        let mut function = Map::new();
        function.insert("name".into(), self.name.as_str().into());
        if let Some(description) = &self.description {
            function.insert("description".into(), description.as_str().into());
        }
        function.insert("parameters".into(), self.parameters.clone());
        function
    }
}

impl Call {
    /// As templates take it.
    pub(super) fn described(&self) -> Value {
        json!({ "id": self.id, "type": "function", "function": { "name": self.name, "arguments": self.arguments } })
    }
}

/// The conversation for a template that knows no functions.
pub(super) fn spelled(messages: &[Message], tools: &[Tool]) -> Vec<Message> {
    let mut all: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    let mut answering = false; // whether the last of `all` holds answers of functions: many templates want turns to alternate
    for m in messages {
        let text = match m.role {
            Role::Tool => format!("<tool_response>\n{}\n</tool_response>", m.content),
            _ => m.content.clone(),
        };
        match all.last_mut().filter(|_| answering) {
            Some(last) if matches!(m.role, Role::Tool | Role::User) => {
                last.content.push('\n');
                last.content.push_str(&text);
                last.pictures += m.pictures;
            }
            _ => {
                let role = if m.role == Role::Tool { Role::User } else { m.role };
                let mut message = Message::new(role, text).with_pictures(m.pictures);
                for call in &m.calls {
                    let line = if message.content.is_empty() { "" } else { "\n" };
                    let json = json!({ "name": call.name, "arguments": call.arguments });
                    message.content.push_str(&format!("{line}{}{json}{}", TAGS[0], TAGS[1]));
                }
                all.push(message);
            }
        }
        answering = m.role == Role::Tool;
    }
    if !tools.is_empty() {
        let told = told(tools);
        match all.first_mut().filter(|m| m.role == Role::System) {
            Some(system) => system.content = format!("{}\n\n{told}", system.content.trim_end()),
            None => all.insert(0, Message::new(Role::System, told)),
        }
    }
    all
}

/// What the system message says of functions.
fn told(tools: &[Tool]) -> String {
    let lines: String = tools.iter().map(|tool| format!("{}\n", Value::Object(tool.function()))).collect();
    let [open, close] = TAGS;
    format!(
        "You can call these functions, one a line with the JSON schema of what it takes:\n{lines}\
         To call one, write its name and arguments as JSON:\n\
         {open}{{\"name\": \"...\", \"arguments\": {{...}}}}{close}\n\
         What comes of it is told between <tool_response> and </tool_response>."
    )
}

/// `value` with each of its texts, names of entries among them, as `with` makes it; the names that templates look for stay.
pub(super) fn texts(value: &Value, with: &impl Fn(&str) -> String) -> Value {
    const KNOWN: [&str; 6] = ["type", "function", "name", "description", "parameters", "properties"];
    match value {
        Value::String(s) => with(s).into(),
        Value::Array(a) => a.iter().map(|item| texts(item, with)).collect(),
        Value::Object(o) => {
            let key = |key: &String| if KNOWN.contains(&key.as_str()) { key.clone() } else { with(key) };
            o.iter().map(|(k, v)| (key(k), texts(v, with))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}
