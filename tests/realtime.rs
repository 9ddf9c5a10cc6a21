//! /v1/realtime as its clients meet it: sound and pictures at their own pace, and everything that may go wrong.

mod common;

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use common::{
    dreamseed, outcome, reference,
    server::{Server, agent, answer, parsed},
};
use dreamseed::media;
use serde_json::{Value, json};
use tungstenite::{ClientRequestBuilder, Message, WebSocket, handshake::HandshakeError, protocol::CloseFrame};

const RATE: usize = 16_000;

/// A conversation, and what was told in it so far.
struct Client {
    socket: WebSocket<TcpStream>,
    told: Vec<Value>,
    closed: Option<CloseFrame>,
}

/// Opens a conversation with these protocols and headers; the status where it is refused.
fn open(server: &Server, protocols: &[&str], headers: &[(&str, &str)]) -> Result<Client, (u16, String)> {
    let uri = format!("ws://{}/v1/realtime", server.address).parse().expect("an address");
    let mut request = ClientRequestBuilder::new(uri);
    for protocol in protocols {
        request = request.with_sub_protocol(*protocol);
    }
    for (name, value) in headers {
        request = request.with_header(*name, *value);
    }
    let stream = TcpStream::connect(&server.address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    match tungstenite::client(request, stream) {
        Ok((socket, response)) => {
            let named = response.headers().get("sec-websocket-protocol").map(|v| v.to_str().expect("text"));
            assert_eq!(named, (!protocols.is_empty()).then_some("dreamseed.v1"), "a key is not repeated");
            Ok(Client { socket, told: Vec::new(), closed: None })
        }
        Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            Err((response.status().as_u16(), body.into_owned()))
        }
        Err(e) => panic!("{e}"),
    }
}

impl Client {
    /// Begins a clip; returns when the server is ready.
    fn start(server: &Server, start: Value) -> Self {
        let mut client = open(server, &["dreamseed.v1"], &[]).unwrap_or_else(|e| panic!("{e:?}"));
        client.send(Message::text(start.to_string()));
        assert_eq!(client.until("ready")["limits"]["bytes"], 2 << 20, "{:?}", client.told);
        client
    }

    fn send(&mut self, message: Message) {
        let _ = self.socket.send(message); // what a closed connection says of it is read
    }

    fn sound(&mut self, t: f64, pcm: &[f32]) {
        let samples = pcm.iter().flat_map(|s| ((s * 32_768.0) as i16).to_le_bytes());
        self.send(Message::binary([1].into_iter().chain(t.to_le_bytes()).chain(samples).collect::<Vec<u8>>()));
    }

    fn picture(&mut self, t: f64, picture: &[u8]) {
        self.send(Message::binary([&[2], &t.to_le_bytes()[..], picture].concat()));
    }

    fn end(&mut self) {
        self.send(Message::text(r#"{"type":"end"}"#));
    }

    /// The next event; `None` when the connection is closed.
    fn next(&mut self) -> Option<Value> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    self.told.push(parsed(&text));
                    return self.told.last().cloned();
                }
                Ok(Message::Close(frame)) => self.closed = frame,
                Ok(_) => {}
                Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => return None,
                Err(e) => panic!("{e}: {:?}", self.told),
            }
        }
    }

    /// The first event of this name from now on.
    fn until(&mut self, name: &str) -> Value {
        loop {
            match self.next() {
                Some(event) if event["event"] == name => return event,
                Some(_) => {}
                None => panic!("no {name}: {:?}", self.told),
            }
        }
    }

    fn all(&self, name: &str) -> Vec<&Value> {
        self.told.iter().filter(|e| e["event"] == name).collect()
    }

    /// The error that the conversation ends with, and how it is closed.
    fn failure(mut self) -> (String, u16) {
        while self.next().is_some() {}
        let last = self.told.last().expect("an event");
        let code = last["error"]["code"].as_str().unwrap_or_else(|| panic!("{last}")).to_owned();
        assert!(last["error"]["message"].as_str().is_some_and(|m| !m.is_empty() && m.len() < 600), "{last}");
        (code, self.closed.map_or(0, |c| c.code.into()))
    }
}

#[test]
fn a_clip_is_told_while_it_is_made_and_its_lesson_at_once() {
    let (Some(wav), Some(picture)) = (reference("media/jfk.wav"), reference("media/pose.jpg")) else { return };
    let pcm = media::open_audio(&wav, &media::Limits::default()).expect("sound");
    let picture = std::fs::read(picture).expect("a picture");
    let server = Server::start(&[("DREAMSEED_SERVE_WARM", "1")]);
    let mut client = Client::start(&server, json!({ "type": "start", "lab": "drama", "language": "ko", "llm": false }));
    let begun = Instant::now();
    let mut events = 0;
    for (i, piece) in pcm[..5 * RATE].chunks(RATE / 10).enumerate() {
        let t = i as f64 / 10.0;
        while begun.elapsed().as_secs_f64() < t {
            std::thread::sleep(Duration::from_millis(2));
        }
        client.picture(t, &picture);
        client.sound(t, piece);
        if i == 35 {
            client.until("pose"); // while the clip is made
            events = client.told.len();
        }
    }
    assert!(events > 0);
    client.end();
    let ended = Instant::now();
    let told = client.until("ended");
    let last_words = ended.elapsed();
    client.until("features");
    let first = ended.elapsed();
    eprintln!(
        "5 s at their own pace: last words and looks {} ms, first event of the lesson {} ms after the end; {} pictures of 50 looked at",
        last_words.as_millis(),
        first.as_millis(),
        told["pictures"]
    );
    client.until("done");
    while client.next().is_some() {}
    assert_eq!(client.closed.as_ref().map(|c| u16::from(c.code)), Some(1000));
    // what was told live is what the lesson is about
    let words: String = client
        .all("final")
        .iter()
        .flat_map(|e| e["words"].as_array().expect("words"))
        .filter_map(|w| w["word"].as_str())
        .collect();
    let features = client.all("features")[0];
    assert_eq!(features["text"], words.trim());
    assert!(words.contains("fellow Americans"), "{words}");
    let (pictures, dropped) = (told["pictures"].as_u64().expect("a count"), told["dropped"].as_u64().expect("a count"));
    assert!(pictures >= 3 && pictures + dropped == 50, "{told}");
    assert_eq!((features["frames"].as_u64(), features["people"].as_u64()), (Some(pictures), Some(1)));
    assert_eq!(client.all("pose").len() as u64, pictures);
    assert_eq!(client.all("pose")[0]["people"][0]["landmarks"].as_array().map(Vec::len), Some(33));
    assert_eq!(client.all("face").len() as u64, pictures);
    let hz: Vec<&Value> = client.all("pitch").iter().flat_map(|e| e["hz"].as_array().expect("a curve")).collect();
    let voiced = hz.iter().filter(|v| v.as_f64().is_some_and(|hz| (75.0..600.0).contains(&hz))).count();
    assert!((200..=251).contains(&hz.len()) && voiced > 60, "{} of {}", voiced, hz.len());
    assert!(client.all("point").iter().all(|p| p["text"].as_str().is_some_and(|t| t.contains(|c| ('가'..='힣').contains(&c)))));
    assert!(server.figure("dreamseed_audio_seconds_total") > 4.9);
    assert_eq!(server.figure("dreamseed_requests_working"), 0.0);
}

#[test]
fn pictures_that_come_too_fast_are_counted_and_nothing_waits() {
    let Some(picture) = reference("media/pose.jpg") else { return };
    let picture = std::fs::read(picture).expect("a picture");
    let server = Server::start(&[]);
    let mut client = Client::start(&server, json!({ "type": "start", "llm": false }));
    (0..40).for_each(|i| client.picture(f64::from(i) / 60.0, &picture));
    client.end();
    let told = client.until("ended");
    let (pictures, dropped) = (told["pictures"].as_u64().expect("a count"), told["dropped"].as_u64().expect("a count"));
    assert!(pictures + dropped == 40 && dropped > 0, "{told}");
    assert_eq!(client.all("pose").last().expect("a look")["t"], 39.0 / 60.0, "the newest counts");
    client.until("done"); // pictures alone are a dance
    assert!(client.all("score").iter().chain(&client.all("point")).count() > 0);
}

#[test]
fn what_is_wrong_is_told_and_ends_the_conversation() {
    let server = Server::start(&[("DREAMSEED_SERVE_IDLE_SECONDS", "2"), ("DREAMSEED_LIMITS_SECONDS", "20")]);
    let first = |message: Message| {
        let mut client = open(&server, &["dreamseed.v1"], &[]).unwrap_or_else(|e| panic!("{e:?}"));
        client.send(message);
        client.failure()
    };
    let wrong = |code: &str| (code.to_owned(), 1008);
    for message in [
        Message::text("{}"),
        Message::text("\u{0}"),
        Message::text(r#"{"type":"start","model":{}}"#),
        Message::text(r#"{"type":"end"}"#),
        Message::binary(vec![1; 100]),
    ] {
        assert_eq!(first(message.clone()), wrong("invalid_request"), "{message:?}");
    }
    assert_eq!(first(Message::text(r#"{"type":"start","model":"/etc/passwd"}"#)), wrong("model_not_found"));
    // a message that is too long is not read to its end: what is told of it may be lost with it
    let mut long = open(&server, &["dreamseed.v1"], &[]).unwrap_or_else(|e| panic!("{e:?}"));
    long.send(Message::binary(vec![0; (2 << 20) + 1]));
    while let Ok(message) = long.socket.read() {
        if let Message::Text(text) = message {
            assert_eq!(parsed(&text)["error"]["code"], "bad_message");
        }
    }
    let after = |lab: &str, act: &dyn Fn(&mut Client)| {
        let mut client = Client::start(&server, json!({ "type": "start", "lab": lab, "llm": false }));
        act(&mut client);
        client.failure()
    };
    let large = {
        let mut png = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(3000, 2000).write_to(&mut png, image::ImageFormat::Png).expect("to memory");
        png.into_inner()
    };
    type Case<'a> = (&'a str, &'a str, &'a dyn Fn(&mut Client));
    let cases: [Case; 13] = [
        ("invalid_request", "speech", &|c| c.send(Message::text(r#"{"type":"start"}"#))),
        ("invalid_request", "speech", &|c| c.send(Message::binary(vec![7; 20]))),
        ("invalid_request", "speech", &|c| c.send(Message::binary(vec![1; 10]))),
        ("invalid_request", "speech", &|c| c.picture(0.0, &large)),
        ("invalid_request", "speech", &|c| c.end()),
        ("invalid_request", "speech", &|c| c.sound(f64::NAN, &[0.0; 99])),
        ("invalid_request", "speech", &|c| c.sound(-1.0, &[0.0; 99])),
        ("invalid_request", "speech", &|c| c.sound(15.0, &[0.0; 99])),
        ("invalid_request", "speech", &|c| [1.0, 0.5].iter().for_each(|t| c.sound(*t, &[0.0; 99]))),
        ("invalid_request", "dance", &|c| (0..9).for_each(|_| c.sound(0.0, &[0.0; 40_000]))),
        ("invalid_request", "dance", &|c| [1.0, 1.0].iter().for_each(|t| c.picture(*t, &large))),
        ("bad_media", "dance", &|c| {
            c.picture(0.0, &large); // 6 megapixels
            c.end();
        }),
        ("idle", "dance", &|c| c.sound(0.0, &[0.0; 160])),
    ];
    for (i, (code, lab, act)) in cases.iter().enumerate() {
        assert_eq!(after(lab, *act), wrong(code), "case {i}");
    }
    // a picture is decoded when it is looked at: the next message tells
    let mut client = Client::start(&server, json!({ "type": "start", "lab": "dance", "llm": false }));
    client.picture(0.0, b"GIF89a and no more");
    std::thread::sleep(Duration::from_millis(300));
    client.picture(0.1, b"GIF89a and no more");
    assert_eq!(client.failure(), wrong("bad_media"));
    // all of them gave their places back
    assert_eq!(server.figure("dreamseed_requests_working"), 0.0);
    // it is a WebSocket
    let (status, body) = server.get("/v1/realtime");
    assert_eq!((status, parsed(&body)["error"]["code"].as_str()), (426, Some("not_websocket")));
    // without keys no page of another address may use it
    let foreign = open(&server, &["dreamseed.v1"], &[("Origin", "http://elsewhere.example")]).err().expect("a refusal");
    assert_eq!(foreign.0, 403, "{}", foreign.1);
    let own = format!("http://{}", server.address);
    assert!(open(&server, &["dreamseed.v1"], &[("Origin", &own)]).is_ok());
}

#[test]
fn who_goes_away_frees_the_place_at_once() {
    let server = Server::start(&[("DREAMSEED_SERVE_REQUESTS", "1"), ("DREAMSEED_SERVE_QUEUE", "0")]);
    let start = json!({ "type": "start", "lab": "speech", "llm": false });
    let mut client = Client::start(&server, start.clone());
    client.sound(0.0, &[0.1; RATE]);
    // there is one place
    let mut other = open(&server, &[], &[]).unwrap_or_else(|e| panic!("{e:?}"));
    other.send(Message::text(start.to_string()));
    assert_eq!(other.failure(), ("queue_full".into(), 1013));
    drop(client); // no farewell
    let gone = Instant::now();
    while server.figure("dreamseed_requests_working") > 0.0 {
        assert!(gone.elapsed() < Duration::from_secs(2), "the place is not free");
        std::thread::sleep(Duration::from_millis(10));
    }
    // during the lesson too
    let mut client = Client::start(&server, json!({ "type": "start", "lab": "speech" }));
    client.sound(0.0, &[0.1; RATE]);
    client.end();
    client.until("ended");
    drop(client);
    let gone = Instant::now();
    while server.figure("dreamseed_requests_working") > 0.0 {
        assert!(gone.elapsed() < Duration::from_secs(10), "the place is not free");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_key_comes_as_a_header_or_a_protocol() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.toml");
    let file = file.to_str().expect("a name");
    let key =
        |scope: &str| outcome(&mut dreamseed(&["key", "new", "test", "--scope", scope, "--file", file])).1.trim().to_owned();
    let (coach, chat) = (key("coach"), key("chat"));
    let server = Server::start(&[("DREAMSEED_SERVE_KEYS", file)]);
    let offer = |key: &str| format!("dreamseed.key.{key}");
    let bearer = format!("Bearer {coach}");
    assert!(open(&server, &["dreamseed.v1", &offer(&coach)], &[("Origin", "http://elsewhere.example")]).is_ok());
    assert!(open(&server, &["dreamseed.v1"], &[("Authorization", &bearer)]).is_ok());
    let status = |protocols: &[&str]| open(&server, protocols, &[]).err().map(|(status, _)| status);
    assert_eq!(status(&["dreamseed.v1"]), Some(401));
    assert_eq!(status(&["dreamseed.v1", &offer("ds-wrong")]), Some(401));
    assert_eq!(status(&["dreamseed.v1", &offer(&chat)]), Some(403));
    // the page itself is for everybody, and tells that a key is needed
    let page = agent().get(server.url("/")).call().expect("a page");
    let policy = page.headers().get("content-security-policy").and_then(|v| v.to_str().ok()).expect("a policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(answer(Ok(page)).1.contains("<title>dreamseed</title>"));
    assert_eq!(parsed(&server.get("/page/needs").1), json!({ "key": true }));
}
