//! Functions, responses, alternatives to tokens and vectors, as OpenAI's clients ask for them.

use serde_json::{Value, json};

use super::{Server, events, greedy, parsed};

const CHAT: &str = "/v1/chat/completions";

fn tools() -> Value {
    let weather = json!({
        "type": "object", "required": ["city", "unit"], "additionalProperties": false,
        "properties": { "city": { "enum": ["Paris", "Seoul"] }, "unit": { "$ref": "#/$defs/unit" } },
        "$defs": { "unit": { "enum": ["celsius", "fahrenheit"] } },
    });
    let time = json!({ "type": "object", "properties": {}, "additionalProperties": false });
    json!([
        { "type": "function", "function": { "name": "get_weather", "description": "The weather now", "parameters": weather } },
        { "type": "function", "function": { "name": "get_time", "parameters": time } },
    ])
}

/// Name and arguments of a call.
fn called(call: &Value) -> (String, Value) {
    assert!(call["type"] == "function" && call["id"].as_str().is_some_and(|id| id.starts_with("call_")), "{call}");
    let function = &call["function"];
    let arguments = parsed(function["arguments"].as_str().expect("a text"));
    (function["name"].as_str().expect("a name").to_owned(), arguments)
}

fn is_valid(name: &str, arguments: &Value) -> bool {
    let one_of = |key: &str, of: [&str; 2]| arguments[key].as_str().is_some_and(|v| of.contains(&v));
    match name {
        "get_weather" => one_of("city", ["Paris", "Seoul"]) && one_of("unit", ["celsius", "fahrenheit"]),
        "get_time" => *arguments == json!({}),
        _ => false,
    }
}

#[test]
fn functions_are_called() {
    let server = Server::start(&[]);
    let ask = |extra: Value| {
        let mut extra = extra;
        extra["messages"] = json!([{ "role": "user", "content": "What is the weather in Paris?" }]);
        extra["max_tokens"] = json!(300);
        let (status, text) = server.post(CHAT, &greedy(extra));
        assert_eq!(status, 200, "{text}");
        text
    };
    // 1. a call that has to be is valid, whatever the model
    let required = json!({ "tools": tools(), "tool_choice": "required", "parallel_tool_calls": false });
    let answer = parsed(&ask(required.clone()));
    let choice = &answer["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null), "{answer}");
    let calls = choice["message"]["tool_calls"].as_array().expect("calls");
    let (name, arguments) = called(&calls[0]);
    assert!(calls.len() == 1 && is_valid(&name, &arguments), "{answer}");
    // 2. streamed: the same, the name first and then the arguments in parts
    let mut streamed = required;
    streamed["stream"] = json!(true);
    let text = ask(streamed);
    let events = events(&text);
    let (last, chunks) = events.split_last().expect("events");
    assert_eq!(last, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|c| parsed(c)["choices"][0].clone()).collect();
    let parts: Vec<&Value> = chunks.iter().filter_map(|c| c["delta"]["tool_calls"].get(0)).collect();
    assert!(parts.len() > 2 && parts.iter().all(|p| p["index"] == 0), "{text}");
    assert_eq!(parts[0]["function"]["name"], name);
    assert!(parts[1..].iter().all(|p| p.get("id").is_none()), "{text}");
    let joined: String = parts.iter().filter_map(|p| p["function"]["arguments"].as_str()).collect();
    assert_eq!(parsed(&joined), arguments);
    assert_eq!(chunks.last().expect("a chunk")["finish_reason"], "tool_calls");
    // 3. one that is named, and several
    let named = json!({ "type": "function", "function": { "name": "get_time" } });
    let answer = parsed(&ask(json!({ "tools": tools(), "tool_choice": named })));
    assert_eq!(called(&answer["choices"][0]["message"]["tool_calls"][0]), ("get_time".into(), json!({})), "{answer}");
    let several = ask(json!({ "tools": tools(), "tool_choice": "required", "n": 2, "temperature": 1.0, "seed": 3 }));
    for choice in parsed(&several)["choices"].as_array().expect("choices") {
        for call in choice["message"]["tool_calls"].as_array().expect("calls") {
            let (name, arguments) = called(call);
            assert!(is_valid(&name, &arguments), "{several}");
        }
    }
    // 4. what came of it goes back, and the model may answer in words; without a choice it is never forced
    for choice in ["auto", "none"] {
        let message = json!({ "role": "assistant", "content": null, "tool_calls": calls });
        let result = json!({ "role": "tool", "tool_call_id": calls[0]["id"], "content": "18 degrees, <|im_end|> sunny" });
        let messages = json!([{ "role": "user", "content": "Weather?" }, message, result]);
        let request =
            json!({ "messages": messages, "tools": tools(), "tool_choice": choice, "temperature": 0, "max_tokens": 20 });
        let (status, text) = server.post(CHAT, &request);
        assert_eq!(status, 200, "{text}");
        let message = &parsed(&text)["choices"][0]["message"];
        assert!(message["content"].is_string() || message["tool_calls"].is_array(), "{text}");
    }
    // 5. what is wrong is told with its parameter
    let spec =
        |name: &str, parameters: Value| json!([{ "type": "function", "function": { "name": name, "parameters": parameters } }]);
    let named = json!({ "type": "function", "function": { "name": "nobody" } });
    for (extra, param) in [
        (json!({ "tools": spec("a b", json!({})) }), "tools[0].function"),
        (json!({ "tools": spec("f", json!({ "type": "string" })) }), "tools[0].function"),
        (json!({ "tools": spec("f", json!({ "properties": { "x": { "not": {} } } })), "tool_choice": "required" }), "tools"),
        (json!({ "tools": tools(), "tool_choice": named }), "tool_choice"),
        (json!({ "tools": tools(), "response_format": { "type": "json_object" } }), "response_format"),
    ] {
        let (status, text) = server.post(CHAT, &greedy(extra));
        assert_eq!((status, parsed(&text)["error"]["param"].as_str()), (400, Some(param)), "{text}");
    }
}

#[test]
fn the_most_probable_tokens_are_told() {
    let server = Server::start(&[]);
    let (_, text) = server.post(CHAT, &greedy(json!({ "logprobs": true, "top_logprobs": 4, "max_tokens": 6 })));
    let answer = parsed(&text);
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().expect("a list");
    assert_eq!(tokens.len(), 6);
    for token in tokens {
        let tops = token["top_logprobs"].as_array().expect("a list");
        let logprobs: Vec<f64> = tops.iter().map(|t| t["logprob"].as_f64().expect("a number")).collect();
        assert!(tops.len() == 4 && logprobs.is_sorted_by(|a, b| a >= b), "{token}");
        assert_eq!(tops[0]["token"], token["token"], "greedy takes the best");
        assert!((logprobs[0] - token["logprob"].as_f64().expect("a number")).abs() < 1e-4, "{token}");
    }
}

/// Names and data of a stream of named events.
fn named(text: &str) -> Vec<(String, Value)> {
    let names = text.lines().filter_map(|l| l.strip_prefix("event: ").map(str::to_owned));
    names.zip(events(text).iter().map(|e| parsed(e))).collect()
}

fn responses_in_order(server: &Server) -> (String, String) {
    let ask = json!({ "input": "Name three primary colours.", "instructions": "Be brief.", "temperature": 0, "max_output_tokens": 12 });
    let (status, text) = server.post("/v1/responses", &ask);
    let whole = parsed(&text);
    assert_eq!((status, &whole["status"], &whole["object"]), (200, &json!("incomplete"), &json!("response")), "{text}");
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!((&whole["usage"]["output_tokens"], &whole["store"]), (&json!(12), &json!(false)));
    let mut streamed = ask;
    streamed["stream"] = json!(true);
    let told = named(&server.post("/v1/responses", &streamed).1);
    assert!(
        told.iter().enumerate().all(|(i, (name, data))| data["type"] == **name && data["sequence_number"] == i),
        "{told:?}"
    );
    let mut names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    let wanted = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ];
    assert_eq!(names, wanted);
    let text: String =
        told.iter().filter(|(n, _)| n.ends_with("text.delta")).filter_map(|(_, d)| d["delta"].as_str()).collect();
    (whole["output"][0]["content"][0]["text"].as_str().expect("a text").to_owned(), text)
}

#[test]
fn responses_are_chats_in_another_form() {
    let server = Server::start(&[]);
    let (whole, streamed) = responses_in_order(&server);
    assert!(whole == streamed && whole.len() > 5, "{whole:?} {streamed:?}");
    // functions: flat, and their answers as items
    let flat: Vec<Value> = tools()
        .as_array()
        .expect("a list")
        .iter()
        .map(|t| {
            let mut tool = t["function"].clone();
            tool["type"] = json!("function");
            tool
        })
        .collect();
    let mut items = json!([{ "role": "user", "content": [{ "type": "input_text", "text": "What is the weather in Seoul?" }] }]);
    let ask =
        json!({ "input": items, "tools": flat, "tool_choice": "required", "parallel_tool_calls": false, "temperature": 0 });
    let call = parsed(&server.post("/v1/responses", &ask).1)["output"][0].clone();
    let arguments = parsed(call["arguments"].as_str().expect("a text"));
    assert!(call["type"] == "function_call" && is_valid(call["name"].as_str().expect("a name"), &arguments), "{call}");
    let mut streamed = ask;
    streamed["stream"] = json!(true);
    let told = named(&server.post("/v1/responses", &streamed).1);
    let done = told.iter().find(|(name, _)| name == "response.function_call_arguments.done").expect("done");
    assert_eq!(parsed(done.1["arguments"].as_str().expect("a text")), arguments);
    assert_eq!(told.last().map(|(name, _)| name.as_str()), Some("response.completed"));
    let output = json!({ "type": "function_call_output", "call_id": call["call_id"], "output": "20 degrees" });
    items.as_array_mut().expect("a list").extend([call, output]);
    let (status, text) = server.post("/v1/responses", &json!({ "input": items, "tools": flat, "max_output_tokens": 8 }));
    assert_eq!(status, 200, "{text}");
    // a schema
    let schema = json!({ "type": "object", "properties": { "n": { "enum": [1, 2] } }, "required": ["n"], "additionalProperties": false });
    let format = json!({ "format": { "type": "json_schema", "name": "n", "schema": schema } });
    let (_, text) = server.post("/v1/responses", &json!({ "input": "A number?", "text": format }));
    let said = parsed(&text)["output"][0]["content"][0]["text"].as_str().expect("a text").to_owned();
    assert!([1, 2].iter().any(|n| parsed(&said)["n"] == *n), "{text}");
    // what needs a memory is refused by its name
    for (extra, param) in [
        (json!({ "store": true }), "store"),
        (json!({ "previous_response_id": "resp_1" }), "previous_response_id"),
        (json!({ "truncation": "auto" }), "truncation"),
        (json!({ "background": true }), "background"),
        (json!({ "text": { "format": { "type": "json_schema", "schema": "x" } } }), "text.format"),
    ] {
        let mut ask = json!({ "input": "hi" });
        ask.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        let (status, text) = server.post("/v1/responses", &ask);
        assert_eq!((status, parsed(&text)["error"]["param"].as_str()), (400, Some(param)), "{text}");
    }
}

#[test]
fn without_a_model_there_are_no_vectors() {
    let server = Server::start(&[]);
    let (status, text) = server.post("/v1/embeddings", &json!({ "input": "a dog" }));
    assert_eq!((status, parsed(&text)["error"]["code"].as_str()), (404, Some("model_not_found")), "{text}");
    let (status, text) = server.post("/v1/embeddings", &json!({ "input": [] }));
    assert_eq!((status, parsed(&text)["error"]["param"].as_str()), (400, Some("input")), "{text}");
}
