//! `dreamseed serve` as its clients meet it: a process of its own on a free port.

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use common::{
    dreamseed, reference,
    server::{Server, agent, answer, parsed},
};
use serde_json::{Value, json};

#[path = "http/openai.rs"]
mod openai;

impl Server {
    /// A form: names, file names (none: plain fields) and contents.
    fn form(&self, path: &str, fields: &[(&str, Option<&str>, &[u8])]) -> (u16, String) {
        let mut body = Vec::new();
        for (name, file, content) in fields {
            let file = file.map(|f| format!("; filename=\"{f}\"")).unwrap_or_default();
            write!(body, "--edge\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").expect("to memory");
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--edge--\r\n");
        answer(agent().post(self.url(path)).content_type("multipart/form-data; boundary=edge").send(&body[..]))
    }
}

/// The data of a stream's events.
fn events(text: &str) -> Vec<String> {
    text.lines().filter_map(|l| l.strip_prefix("data: ").map(str::to_owned)).collect()
}

fn greedy(extra: Value) -> Value {
    let mut request = json!({
        "messages": [{ "role": "user", "content": "Name three primary colours." }], "temperature": 0, "max_tokens": 24,
    });
    request.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    request
}

#[test]
fn text_is_the_same_whole_and_streamed() {
    let server = Server::start(&[]);
    let models = parsed(&server.get("/v1/models").1);
    assert!(models["data"].as_array().expect("a list").iter().any(|m| m["role"] == "llm"), "{models}");
    let (status, text) = server.post("/v1/chat/completions", &greedy(json!({ "logprobs": true })));
    let whole = parsed(&text);
    let content = whole["choices"][0]["message"]["content"].as_str().expect("a text");
    assert!(status == 200 && content.len() > 10, "{text}");
    assert_eq!(whole["usage"]["completion_tokens"], 24);
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    let logprobs = whole["choices"][0]["logprobs"]["content"].as_array().expect("a list");
    assert!(logprobs.len() == 24 && logprobs.iter().all(|t| t["logprob"].as_f64().is_some_and(|l| l <= 0.0)), "{text}");
    // streamed: the same text in parts, then the tokens used, then the end
    let wanted = greedy(json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let (status, text) = server.post("/v1/chat/completions", &wanted);
    let events = events(&text);
    let (last, chunks) = events.split_last().expect("events");
    assert_eq!((status, last.as_str()), (200, "[DONE]"));
    let chunks: Vec<Value> = chunks.iter().map(|c| parsed(c)).collect();
    let streamed: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(streamed, content);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunks.last().expect("usage")["usage"]["completion_tokens"], 24);
    assert!(chunks.len() > 10, "in parts: {}", chunks.len());
    // what is sampled with a seed comes again, and several answers differ
    let sampled = greedy(json!({ "temperature": 1.0, "seed": 7, "n": 3 }));
    let choices = |text: &str| -> Vec<String> {
        let answer = parsed(text);
        let all = answer["choices"].as_array().expect("choices").iter();
        all.map(|c| c["message"]["content"].as_str().expect("a text").to_owned()).collect()
    };
    let first = choices(&server.post("/v1/chat/completions", &sampled).1);
    assert_eq!(first, choices(&server.post("/v1/chat/completions", &sampled).1));
    assert!(first.len() == 3 && first[0] != first[1], "{first:?}");
    // a schema is followed
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer", "maximum": 9, "minimum": 0 } }, "required": ["n"],
        "additionalProperties": false });
    let format = json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "n", "schema": schema } } });
    let answer = parsed(&server.post("/v1/chat/completions", &greedy(format)).1);
    let n = parsed(answer["choices"][0]["message"]["content"].as_str().expect("a text"));
    assert!((0..10).contains(&n["n"].as_i64().expect("an integer")), "{answer}");
    // a plain continuation, two at once
    let request =
        json!({ "prompt": ["The capital of France is", "One, two, three,"], "max_tokens": 8, "temperature": 0, "stop": "\n" });
    let answer = parsed(&server.post("/v1/completions", &request).1);
    assert!(answer["choices"][0]["text"].as_str().expect("a text").contains("Paris"), "{answer}");
    assert_eq!(answer["choices"].as_array().expect("choices").len(), 2);
    assert!(server.figure("dreamseed_tokens_total{kind=\"generated\"}") > 100.0);
    assert_eq!(server.figure("dreamseed_requests_working"), 0.0);
}

#[test]
fn what_is_wrong_is_told_in_the_apis_form() {
    let server = Server::start(&[("DREAMSEED_SERVE_BODY_MB", "1")]);
    let chat = "/v1/chat/completions";
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let hi = json!([{ "role": "user", "content": "hi" }]);
    let url = |u: &str| json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": { "url": u } }] }]);
    for (body, status, code) in [
        (json!({}), 400, "invalid_json"),
        (json!({ "messages": [] }), 400, "invalid_request"),
        (json!({ "messages": hi, "model": "/etc/passwd" }), 404, "model_not_found"),
        (json!({ "messages": hi, "model": "whisper-base" }), 404, "model_not_found"),
        (json!({ "messages": hi, "temperature": 3 }), 400, "invalid_request"),
        (json!({ "messages": hi, "n": 1000 }), 400, "invalid_request"),
        (json!({ "messages": hi, "tools": [{ "type": "function" }] }), 400, "invalid_json"),
        (json!({ "messages": hi, "functions": [{ "name": "f" }] }), 400, "unsupported_parameter"),
        (json!({ "messages": hi, "tool_choice": "required" }), 400, "invalid_request"),
        (json!({ "messages": hi, "top_logprobs": 3 }), 400, "invalid_request"),
        (json!({ "messages": hi, "logprobs": true, "top_logprobs": 21 }), 400, "invalid_request"),
        (json!({ "messages": [{ "role": "tool", "content": "x", "tool_call_id": "y" }] }), 400, "invalid_request"),
        (
            json!({ "messages": hi, "response_format": { "type": "json_schema", "json_schema": { "schema": { "not": {} } } } }),
            400,
            "invalid_request",
        ),
        (json!({ "messages": [{ "role": "assistant", "content": "x" }] }), 400, "invalid_request"),
        (json!({ "messages": url("http://127.0.0.1/x.png") }), 400, "remote_url"),
        (json!({ "messages": url("file:///etc/passwd") }), 400, "remote_url"),
        (json!({ "messages": url("data:image/png;base64,AAAA") }), 400, "bad_media"),
        (json!({ "messages": [{ "role": "user", "content": "x".repeat(1_100_000) }] }), 413, "body_too_large"),
    ] {
        let (seen, text) = server.post(chat, &body);
        let error = &parsed(&text)["error"];
        assert_eq!(
            (seen, error["code"].as_str()),
            (status, Some(code)),
            "{}: {text}",
            &body.to_string()[..body.to_string().len().min(120)]
        );
        assert!(error["message"].as_str().is_some_and(|m| m.len() < 1000 && !m.contains("/tmp")), "{text}");
    }
    let raw = |body: &str| answer(agent().post(server.url(chat)).content_type("application/json").send(body)).0;
    assert_eq!((raw(&deep), raw("{"), raw("")), (400, 400, 400));
    assert_eq!(server.get("/nothing").0, 404);
    assert_eq!(server.get(chat).0, 405);
    let form = |path: &str, fields: &[(&str, Option<&str>, &[u8])]| {
        let (status, text) = server.form(path, fields);
        (status, parsed(&text)["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    let bad = |code: &str| (400, code.to_owned());
    assert_eq!(form("/v1/audio/transcriptions", &[("file", Some("a.wav"), b"RIFF")]), bad("bad_media"));
    assert_eq!(form("/v1/audio/transcriptions", &[("model", None, b"")]), bad("invalid_request"));
    assert_eq!(form("/v1/audio/transcriptions", &[("secret", None, b"x")]), bad("invalid_request"));
    assert_eq!(form("/v1/coach", &[("lab", None, b"dance")]), bad("invalid_request"));
    assert_eq!(form("/v1/pose", &[("file", Some("a.png"), &[0; 100])]), bad("bad_media"));
    // a client that goes silent in the middle of its head is let go, and the others do not notice
    let mut slow = TcpStream::connect(&server.address).expect("a connection");
    slow.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n").expect("sent");
    assert_eq!(server.get("/health/live").0, 200);
    let document = parsed(&server.get("/openapi.json").1);
    for path in [chat, "/v1/completions", "/v1/models", "/v1/audio/transcriptions", "/v1/coach", "/v1/pose", "/v1/features"] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
}

#[test]
fn keys_open_what_they_are_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.toml");
    let file = file.to_str().expect("a name");
    let key = |scope: &str| {
        let (code, key, err) = common::outcome(&mut dreamseed(&["key", "new", "test", "--scope", scope, "--file", file]));
        assert_eq!(code, 0, "{err}");
        key.trim().to_owned()
    };
    let (chat, metrics) = (key("chat"), key("metrics"));
    assert!(!std::fs::read_to_string(file).expect("written").contains(&chat));
    let server = Server::start(&[("DREAMSEED_SERVE_KEYS", file)]);
    let status = |path: &str, key: &str| {
        let request = agent().get(server.url(path));
        let request = if key.is_empty() { request } else { request.header("authorization", format!("Bearer {key}")) };
        answer(request.call()).0
    };
    assert_eq!(status("/v1/models", ""), 401);
    assert_eq!(status("/v1/models", "ds-wrong"), 401);
    assert_eq!((status("/v1/models", &chat), status("/metrics", &chat)), (200, 403));
    assert_eq!((status("/v1/models", &metrics), status("/metrics", &metrics)), (403, 200));
    assert_eq!((status("/health/live", ""), status("/health/ready", "")), (200, 200));
    // without keys nobody but this machine may ask
    let (code, _, err) = common::outcome(&mut dreamseed(&["serve", "--listen", "0.0.0.0:0"]));
    assert!(code == 2 && err.contains("dreamseed key new"), "{err}");
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let server = Server::start(&[("DREAMSEED_SERVE_REQUESTS", "1"), ("DREAMSEED_SERVE_QUEUE", "0")]);
    let body = greedy(
        json!({ "stream": true, "max_tokens": 4000, "messages": [{ "role": "user", "content": "Count to a thousand." }] }),
    );
    let body = body.to_string();
    let mut client = TcpStream::connect(&server.address).expect("a connection");
    write!(
        client,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("sent");
    let mut begun = [0; 512];
    assert!(client.read(&mut begun).expect("the head") > 0);
    let (status, text) = server.post("/v1/chat/completions", &greedy(json!({})));
    assert_eq!((status, parsed(&text)["error"]["code"].as_str()), (429, Some("queue_full")));
    drop(client);
    let gone = Instant::now();
    while server.post("/v1/chat/completions", &greedy(json!({ "max_tokens": 1 }))).0 == 429 {
        assert!(gone.elapsed() < Duration::from_secs(10), "the place is not free");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn requests_under_way_end_before_the_server_does() {
    let mut server = Server::start(&[]);
    let url = server.url("/v1/chat/completions");
    let asked = std::thread::spawn(move || {
        let body = greedy(json!({ "stream": true, "max_tokens": 200, "stop": ["never said"] }));
        answer(agent().post(url).content_type("application/json").send(body.to_string()))
    });
    while server.figure("dreamseed_requests_working") == 0.0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = server.process.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    let (status, text) = asked.join().expect("an answer");
    assert_eq!((status, events(&text).last().map(String::as_str)), (200, Some("[DONE]")));
    assert!(server.process.wait().expect("its end").success());
}

#[test]
fn speech_lessons_and_poses_are_served() {
    let (Some(speech), Some(picture)) = (reference("media/jfk.wav"), reference("media/pose.jpg")) else { return };
    let server = Server::start(&[]);
    let wav = std::fs::read(speech).expect("a file");
    let plain = |value: &'static str| value.as_bytes();
    let file = ("file", Some("jfk.wav"), &wav[..]);
    let (status, text) = server.form("/v1/audio/transcriptions", &[file, ("model", None, plain("whisper-1"))]);
    assert!(status == 200 && parsed(&text)["text"].as_str().is_some_and(|t| t.contains("ask not what your country")), "{text}");
    let words = [file, ("response_format", None, plain("verbose_json")), ("timestamp_granularities[]", None, plain("word"))];
    let verbose = parsed(&server.form("/v1/audio/transcriptions", &words).1);
    assert!(verbose["words"].as_array().is_some_and(|w| w.len() >= 20) && verbose["segments"].is_null(), "{verbose}");
    let (_, subtitles) = server.form("/v1/audio/transcriptions", &[file, ("response_format", None, plain("vtt"))]);
    assert!(subtitles.starts_with("WEBVTT\n\n00:00:00"), "{subtitles}");
    let (_, streamed) = server.form("/v1/audio/transcriptions", &[file, ("stream", None, plain("true"))]);
    assert!(events(&streamed).last().is_some_and(|e| e.contains("transcript.text.done")), "{streamed}");
    let (status, lesson) = server.form("/v1/coach", &[file, ("lab", None, plain("speech")), ("llm", None, plain("false"))]);
    let events: Vec<Value> = events(&lesson).iter().map(|e| parsed(e)).collect();
    let names: Vec<&str> = events.iter().filter_map(|e| e["event"].as_str()).collect();
    assert!(status == 200 && names.first() == Some(&"features") && names.last() == Some(&"done"), "{names:?}");
    let picture = std::fs::read(picture).expect("a file");
    let (status, poses) = server.form("/v1/pose", &[("file", Some("pose.jpg"), &picture)]);
    assert_eq!((status, parsed(poses.trim())["people"][0]["landmarks"].as_array().map(Vec::len)), (200, Some(33)));
    let (status, features) = server.form("/v1/features", &[file]);
    assert!(status == 200 && parsed(&features)["columns"].as_array().is_some_and(|c| !c.is_empty()));
    assert!(server.figure("dreamseed_audio_seconds_total") > 50.0);
}
