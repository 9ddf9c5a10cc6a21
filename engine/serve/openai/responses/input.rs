//! The input of a response: a text, or the items of a conversation.

use serde::Deserialize;
use utoipa::ToSchema;

use super::super::{
    super::error::Problem,
    content::{CallSpec, CalledFunction, ChatMessage, Content, ImageUrl, Part},
};

/// A text of the user's, or what was said and done so far.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Input {
    Text(String),
    Items(Vec<Item>),
}

/// A part of a conversation; one without `type` is a message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Item {
    Typed(TypedItem),
    Message(ItemMessage),
}

/// A part of a conversation by its type.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum TypedItem {
    Message(ItemMessage),
    /// A function that the model called.
    FunctionCall {
        call_id: String,
        name: String,
        /// JSON of an object.
        arguments: String,
    },
    /// What came of it.
    FunctionCallOutput {
        call_id: String,
        output: String,
    },
}

/// A message.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ItemMessage {
    /// `system` (or `developer`), `user`, `assistant`.
    role: String,
    content: ItemContent,
}

/// Text, or parts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum ItemContent {
    Text(String),
    Parts(Vec<ItemPart>),
}

/// A part of a message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ItemPart {
    InputText {
        text: String,
    },
    OutputText {
        text: String,
    },
    Refusal {
        refusal: String,
    },
    /// A picture as `data:image/...;base64,...`.
    InputImage {
        image_url: String,
    },
}

impl Input {
    /// As messages of a chat. Calls join the assistant's message before them.
    ///
    /// # Errors
    /// 400 where there is nothing.
    pub(super) fn messages(self, instructions: Option<String>) -> Result<Vec<ChatMessage>, Problem> {
        let text = |role: &str, text: String| ChatMessage {
            role: role.into(),
            content: Some(Content::Text(text)),
            ..ChatMessage::default()
        };
        let mut all: Vec<ChatMessage> = instructions.map(|i| text("system", i)).into_iter().collect();
        let items = match self {
            Self::Text(said) => {
                all.push(text("user", said));
                return Ok(all);
            }
            Self::Items(items) if items.is_empty() => return Err(Problem::invalid("no items").of_param("input")),
            Self::Items(items) => items,
        };
        for item in items {
            match item {
                Item::Message(message) | Item::Typed(TypedItem::Message(message)) => all.push(message.into()),
                Item::Typed(TypedItem::FunctionCall { call_id, name, arguments }) => {
                    let call = CallSpec::Function { id: call_id, function: CalledFunction { name, arguments } };
                    match all.last_mut().filter(|m| m.role == "assistant") {
                        Some(last) => last.tool_calls.get_or_insert_default().push(call),
                        None => all.push(ChatMessage {
                            role: "assistant".into(),
                            tool_calls: Some(vec![call]),
                            ..ChatMessage::default()
                        }),
                    }
                }
                Item::Typed(TypedItem::FunctionCallOutput { call_id, output }) => {
                    all.push(ChatMessage { tool_call_id: Some(call_id), ..text("tool", output) });
                }
            }
        }
        Ok(all)
    }
}

impl From<ItemMessage> for ChatMessage {
    fn from(message: ItemMessage) -> Self {
        let part = |part: ItemPart| match part {
            ItemPart::InputText { text } | ItemPart::OutputText { text } => Part::Text { text },
            ItemPart::Refusal { refusal } => Part::Refusal { refusal },
            ItemPart::InputImage { image_url } => Part::ImageUrl { image_url: ImageUrl { url: image_url } },
        };
        let content = match message.content {
            ItemContent::Text(text) => Content::Text(text),
            ItemContent::Parts(parts) => Content::Parts(parts.into_iter().map(part).collect()),
        };
        Self { role: message.role, content: Some(content), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn items_become_messages() {
        let input: Input = serde_json::from_value(json!([
            { "role": "user", "content": "hi" },
            { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "let me see", "annotations": [] }] },
            { "type": "function_call", "id": "fc_1", "call_id": "a", "name": "f", "arguments": "{}", "status": "completed" },
            { "type": "function_call", "call_id": "b", "name": "g", "arguments": "{}" },
            { "type": "function_call_output", "call_id": "a", "output": "1" },
            { "type": "function_call_output", "call_id": "b", "output": "2" },
        ]))
        .unwrap();
        let messages = input.messages(Some("be kind".into())).unwrap();
        let roles: Vec<&str> = messages.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "tool"]);
        assert_eq!(messages[2].tool_calls.as_ref().unwrap().len(), 2);
        assert_eq!(messages[4].tool_call_id.as_deref(), Some("b"));
    }
}
