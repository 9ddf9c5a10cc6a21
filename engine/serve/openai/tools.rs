//! Functions that a model may call: what a request offers, the grammar of calls that have to be, and calls in what is written.

use dreamseed_models::chat::{CallForm, Tool};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{super::error::Problem, calls::Reader};
use crate::llm::Grammar;

/// Most functions of a request.
const MOST_TOOLS: usize = 128;
/// Longest name, characters.
const NAME: usize = 64;
/// Most calls of an answer that has to call.
const MOST_CALLS: usize = 8;

/// Something that the model may call.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ToolSpec {
    Function { function: FunctionSpec },
}

/// A function.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub(super) struct FunctionSpec {
    /// 1 to 64 letters, digits, `_` and `-`.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_-]+$")]
    pub(super) name: String,
    /// What it does and when to call it.
    pub(super) description: Option<String>,
    /// JSON schema of the object that it takes; default: an empty one.
    #[schema(value_type = Option<Object>)]
    pub(super) parameters: Option<Value>,
    /// Calls that have to be follow the schema in any case.
    pub(super) strict: Option<bool>,
}

/// Whether the model calls: `auto` (default), `none`, `required`, or one function by its name.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum ToolChoice {
    Mode(ChoiceMode),
    Named(NamedTool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChoiceMode {
    Auto,
    None,
    Required,
}

#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum NamedTool {
    Function { function: FunctionName },
}

#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub(super) struct FunctionName {
    pub(super) name: String,
}

/// What the model has to do with the functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Auto,
    None,
    Required,
    Named(usize), // among the tools
}

/// The functions of a request, checked.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    tools: Vec<Tool>,
    choice: Choice,
    parallel: bool,
}

impl Offer {
    /// # Errors
    /// 400 with the parameter: names, sizes, a choice without what it names.
    pub(super) fn new(specs: Vec<FunctionSpec>, choice: Option<ToolChoice>, parallel: Option<bool>) -> Result<Self, Problem> {
        if specs.len() > MOST_TOOLS {
            let problem = format!("{} functions; at most {MOST_TOOLS} are allowed", specs.len());
            return Err(Problem::invalid(problem).of_param("tools"));
        }
        let mut tools: Vec<Tool> = Vec::with_capacity(specs.len());
        for (i, spec) in specs.into_iter().enumerate() {
            let tool = spec.tool().map_err(|problem| problem.of_param(format!("tools[{i}].function")))?;
            if tools.iter().any(|t| t.name == tool.name) {
                let problem = format!("two functions are named {:?}", tool.name);
                return Err(Problem::invalid(problem).of_param(format!("tools[{i}].function.name")));
            }
            tools.push(tool);
        }
        let wrong = |problem: String| Err(Problem::invalid(problem).of_param("tool_choice"));
        let choice = match choice {
            Option::None | Some(ToolChoice::Mode(ChoiceMode::Auto)) => Choice::Auto,
            Some(ToolChoice::Mode(ChoiceMode::None)) => Choice::None,
            Some(ToolChoice::Mode(ChoiceMode::Required)) if tools.is_empty() => {
                return wrong("a call is required, and there are no tools".into());
            }
            Some(ToolChoice::Mode(ChoiceMode::Required)) => Choice::Required,
            Some(ToolChoice::Named(NamedTool::Function { function })) => {
                match tools.iter().position(|t| t.name == function.name) {
                    Some(at) => Choice::Named(at),
                    Option::None => {
                        let shown: String = function.name.chars().take(NAME).collect();
                        return wrong(format!("no function {shown:?} is among the tools"));
                    }
                }
            }
        };
        let offer = Self { tools, choice, parallel: parallel.unwrap_or(true) };
        if !offer.tools.is_empty() {
            let all = Self { choice: Choice::Required, ..offer.clone() };
            let schema = Grammar::JsonSchema(all.schema(CallForm::Tagged).to_string());
            schema.check().map_err(|e| Problem::from(e).of_param("tools"))?;
        }
        Ok(offer)
    }

    /// What the model is told of.
    pub(super) fn tools(&self) -> &[Tool] {
        if self.choice == Choice::None { &[] } else { &self.tools }
    }

    /// Whether the answer is calls and nothing else.
    fn must(&self) -> bool {
        matches!(self.choice, Choice::Required | Choice::Named(_))
    }

    /// What the answer has to follow, as the model writes calls; `given`: what text has to follow.
    ///
    /// # Errors
    /// 400 where text has to follow something and calls may come instead of it.
    pub(super) fn grammar(&self, form: CallForm, given: Option<Grammar>) -> Result<Option<Grammar>, Problem> {
        if !self.must() {
            return match given {
                Some(_) if !self.tools().is_empty() => {
                    let message =
                        "an answer that may call functions cannot have a form too; set tool_choice to none or required";
                    Err(Problem::invalid(message).of_param("response_format"))
                }
                given => Ok(given),
            };
        }
        let most = if self.parallel && self.choice == Choice::Required { MOST_CALLS } else { 1 };
        let schema = self.schema(form);
        let grammar = match form {
            CallForm::Tagged => Grammar::Tagged {
                open: "<tool_call>\n".into(),
                schema: schema.to_string(),
                close: "\n</tool_call>".into(),
                most,
            },
            CallForm::Bare => Grammar::JsonSchema(schema.to_string()),
            CallForm::List => Grammar::JsonSchema(listed(schema, most).to_string()),
        };
        grammar.check().map_err(|e| Problem::from(e).of_param("tools"))?;
        Ok(Some(grammar))
    }

    /// The schema of a call.
    fn schema(&self, form: CallForm) -> Value {
        let chosen = |at: usize| if let Choice::Named(named) = self.choice { at == named } else { true };
        let (mut defs, mut calls) = (Map::new(), Vec::new());
        for (at, tool) in self.tools.iter().enumerate().filter(|(at, _)| chosen(*at)) {
            let place = format!("tool{at}");
            let parameters = rebased(&tool.parameters, &format!("#/$defs/{place}"));
            defs.insert(place.clone(), parameters);
            let key = form.arguments();
            calls.push(json!({
                "type": "object", "required": ["name", key], "additionalProperties": false,
                "properties": { "name": { "const": tool.name }, key: { "$ref": format!("#/$defs/{place}") } },
            }));
        }
        json!({ "$defs": defs, "anyOf": calls, "x-guidance": { "whitespace_pattern": "[\\x20\\x0A]?" } })
    }

    /// Finds the calls in what the model writes.
    pub(super) fn reader(&self, form: CallForm) -> Reader {
        let names = self.tools().iter().map(|t| t.name.clone()).collect();
        Reader::new(form, names, self.must(), self.parallel)
    }
}

/// The schema of a list of what `schema` describes.
fn listed(mut schema: Value, most: usize) -> Value {
    let calls = schema["anyOf"].take();
    json!({
        "$defs": schema["$defs"].take(), "x-guidance": schema["x-guidance"].take(),
        "type": "array", "minItems": 1, "maxItems": most, "items": { "anyOf": calls },
    })
}

/// A schema whose references into itself begin at `place`.
fn rebased(schema: &Value, place: &str) -> Value {
    match schema {
        Value::Array(a) => a.iter().map(|v| rebased(v, place)).collect(),
        Value::Object(o) => {
            let entry = |(key, value): (&String, &Value)| match value.as_str().and_then(|s| s.strip_prefix('#')) {
                Some(inside) if key == "$ref" => (key.clone(), format!("{place}{inside}").into()),
                _ => (key.clone(), rebased(value, place)),
            };
            o.iter().map(entry).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

impl FunctionSpec {
    fn tool(self) -> Result<Tool, Problem> {
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if self.name.is_empty() || self.name.len() > NAME || !self.name.chars().all(valid) {
            let shown: String = self.name.chars().take(NAME).collect();
            return Err(Problem::invalid(format!("the name {shown:?}; 1 to {NAME} letters, digits, _ and - are allowed")));
        }
        let mut parameters = match self.parameters {
            None | Some(Value::Null) => json!({ "type": "object", "properties": {}, "additionalProperties": false }),
            Some(parameters) => parameters,
        };
        let name = &self.name;
        let Some(schema) = parameters.as_object_mut() else {
            return Err(Problem::invalid(format!("the parameters of {name:?} are no JSON schema; an object is expected")));
        };
        if *schema.entry("type").or_insert_with(|| "object".into()) != "object" {
            return Err(Problem::invalid(format!("the parameters of {name:?} are not of the type \"object\"")));
        }
        Ok(Tool { name: self.name, description: self.description, parameters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, parameters: Value) -> FunctionSpec {
        FunctionSpec { name: name.into(), description: None, parameters: Some(parameters), strict: None }
    }

    #[test]
    fn references_of_a_schema_stay_within_it() {
        let parameters = json!({ "properties": { "a": { "$ref": "#/$defs/b" }, "c": { "$ref": "#" } }, "$defs": { "b": {} } });
        let offer = Offer::new(vec![spec("f", parameters)], None, None).unwrap();
        let schema = offer.schema(CallForm::Bare);
        let inside = &schema["$defs"]["tool0"]["properties"];
        assert_eq!(inside["a"]["$ref"], "#/$defs/tool0/$defs/b");
        assert_eq!(inside["c"]["$ref"], "#/$defs/tool0");
        assert_eq!(schema["anyOf"][0]["properties"]["parameters"]["$ref"], "#/$defs/tool0");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let param = |specs: Vec<FunctionSpec>, choice: Value| {
            let choice = serde_json::from_value(choice).unwrap();
            Offer::new(specs, choice, None).err().and_then(|p| p.param)
        };
        let good = || spec("f", json!({}));
        assert_eq!(param(vec![good()], json!("auto")), None);
        assert_eq!(param(vec![spec("f g", json!({}))], json!(null)).as_deref(), Some("tools[0].function"));
        assert_eq!(param(vec![spec("f", json!({ "type": "array" }))], json!(null)).as_deref(), Some("tools[0].function"));
        assert_eq!(param(vec![good(), good()], json!(null)).as_deref(), Some("tools[1].function.name"));
        assert_eq!(param(vec![], json!("required")).as_deref(), Some("tool_choice"));
        let named = json!({ "type": "function", "function": { "name": "g" } });
        assert_eq!(param(vec![good()], named).as_deref(), Some("tool_choice"));
        assert_eq!(param((0..129).map(|i| spec(&format!("f{i}"), json!({}))).collect(), json!(null)).as_deref(), Some("tools"));
        assert_eq!(param(vec![spec("f", json!({ "enum": ["x".repeat(300_000)] }))], json!(null)).as_deref(), Some("tools"));
        let offer = Offer::new(vec![good()], None, None).unwrap();
        assert!(offer.grammar(CallForm::Tagged, Some(Grammar::Json)).is_err());
        assert_eq!(offer.grammar(CallForm::Tagged, None).unwrap(), None);
    }
}
