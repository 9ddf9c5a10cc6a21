//! What a server meets in the open: clients that are slow, break off, open many connections or send what is no file. It goes on, and what
//! they held comes back.

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use common::server::{Server, agent, answer, parsed};
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);

/// A connection on which the beginning of a request was sent.
fn begin(server: &Server, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).expect("a connection");
    stream.write_all(text.as_bytes()).expect("sent");
    stream.set_read_timeout(Some(20 * SECOND)).expect("set");
    stream
}

fn chat(server: &Server, tokens: usize) -> (u16, String) {
    let body = json!({ "messages": [{ "role": "user", "content": "Hello!" }], "max_tokens": tokens, "temperature": 0 });
    answer(agent().post(server.url("/v1/chat/completions")).content_type("application/json").send(body.to_string()))
}

/// A chat whose answer has begun to stream.
fn streaming(server: &Server, text: &str) -> TcpStream {
    let body = json!({ "messages": [{ "role": "user", "content": text }], "stream": true }).to_string();
    let kind = "Content-Type: application/json";
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{kind}\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut stream = begin(server, &format!("{head}{body}"));
    assert!(stream.read(&mut [0; 64]).expect("it begins") > 0);
    stream
}

/// Waits until something holds.
fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < 20 * SECOND, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).expect("a folder").count()
}

/// Megabytes of the process.
fn resident(server: &Server) -> f64 {
    server.figure("dreamseed_resident_memory_bytes") / 1e6
}

#[test]
fn a_thousand_idle_connections_keep_nobody_out() {
    let server = Server::start(&[("DREAMSEED_SERVE_IDLE_SECONDS", "2"), ("DREAMSEED_SERVE_CONNECTIONS", "5000")]);
    let mut idle: Vec<TcpStream> = (0..1000).map(|_| begin(&server, "GET /health/live HTT")).collect();
    let begun = Instant::now();
    assert_eq!((server.get("/health/live").0, chat(&server, 4).0), (200, 200));
    assert!(begun.elapsed() < 10 * SECOND, "{:?}", begun.elapsed());
    // who never ends its head is let go
    for stream in idle.iter_mut().step_by(100) {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("it is closed");
    }
    assert_eq!(server.get("/health/live").0, 200);
}

#[test]
fn no_more_connections_than_allowed_are_held() {
    let server = Server::start(&[("DREAMSEED_SERVE_IDLE_SECONDS", "2"), ("DREAMSEED_SERVE_CONNECTIONS", "4")]);
    let held: Vec<TcpStream> = (0..4).map(|_| begin(&server, "GET /health/live HTT")).collect();
    let begun = Instant::now();
    assert_eq!(server.get("/health/live").0, 200); // when the first of them is let go
    assert!(begun.elapsed() > SECOND, "{:?}", begun.elapsed());
    drop(held);
}

#[test]
fn slow_and_broken_uploads_leave_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("a name");
    let server = Server::start(&[("DREAMSEED_SERVE_IDLE_SECONDS", "1"), ("TMPDIR", path)]);
    let head = "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=edge\r\n\
                Content-Length: 1000000\r\n\r\n--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n";
    let part = "RIFF".repeat(20_000);
    // one that stops, and one that goes away
    let mut slow = begin(&server, &format!("{head}{part}"));
    let gone = begin(&server, &format!("{head}{part}"));
    until("both files are being written", || files(folder.path()) == 2);
    drop(gone);
    let mut said = String::new();
    slow.read_to_string(&mut said).expect("it is told and let go");
    assert!(said.starts_with("HTTP/1.1 4"), "{said}");
    until("their files are gone", || files(folder.path()) == 0);
    assert_eq!(server.figure("dreamseed_requests_working"), 0.0);
    assert_eq!(chat(&server, 2).0, 200);
}

/// Whatever is sent as a file: an error in the API's form, and nothing stays.
#[test]
fn files_that_are_none_are_refused_one_by_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(&[("TMPDIR", folder.path().to_str().expect("a name")), ("DREAMSEED_SERVE_BODY_MB", "4")]);
    let png = |width: u32, height: u32| {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        png.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
        png.extend(b"\x08\x02\0\0\0\0\0\0\0");
        png
    };
    let wav = |bytes: u32| {
        [
            b"RIFF".as_slice(),
            &bytes.to_le_bytes(),
            b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data",
            &bytes.to_le_bytes(),
        ]
        .concat()
    };
    let hostile: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0; 4096],
        vec![0xff; 4096],
        png(u32::MAX, u32::MAX),
        png(60_000, 60_000),
        png(0, 0),
        wav(u32::MAX),
        wav(0),
        b"RIFF\xff\xff\xff\xffWAVE".to_vec(),
        b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom\xff\xff\xff\xffmoov".to_vec(),
        b"GIF89a\xff\xff\xff\xff\0\0\0,".to_vec(),
        b"OggS\0\x02\0\0\0\0\0\0\0\0".repeat(100),
        b"\x1a\x45\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        b"#!/bin/sh\ncat /etc/passwd\n".to_vec(),
        b"ffconcat version 1.0\nfile '/etc/passwd'\n".to_vec(),
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n".to_vec(),
    ];
    for path in ["/v1/audio/transcriptions", "/v1/coach", "/v1/pose", "/v1/features"] {
        for (i, content) in hostile.iter().enumerate() {
            for name in ["a.wav", "../../../../tmp/x.mp4"] {
                let mut body = format!("--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n")
                    .into_bytes();
                body.extend_from_slice(content);
                body.extend_from_slice(b"\r\n--edge--\r\n");
                let sent = agent().post(server.url(path)).content_type("multipart/form-data; boundary=edge").send(&body[..]);
                let (status, text) = answer(sent);
                let error = &parsed(&text)["error"];
                assert!((400..500).contains(&status) && error["code"].is_string(), "{path} {i} {name}: {status} {text}");
                assert!(!text.contains("root:") && !text.contains(folder.path().to_str().expect("a name")), "{text}");
            }
        }
    }
    assert_eq!((files(folder.path()), server.figure("dreamseed_requests_working")), (0, 0.0));
    assert_eq!(chat(&server, 2).0, 200);
}

#[test]
fn memory_comes_back() {
    let server = Server::start(&[("DREAMSEED_SERVE_BODY_MB", "8")]);
    let load = |rounds: usize| {
        for i in 0..rounds {
            assert_eq!(chat(&server, 16).0, 200);
            let long = "x".repeat(7_000_000);
            assert_eq!(server.post_text("/v1/chat/completions", &format!("{{\"messages\": \"{long}\"}}")), 400);
            drop(streaming(&server, &format!("Count from {i}."))); // a stream that nobody reads to its end
        }
        until("all places are free", || server.figure("dreamseed_requests_working") == 0.0);
        resident(&server)
    };
    let settled = load(10);
    let after = load(30);
    assert!(after < 1.1 * settled + 20.0, "{settled} MB after 10 rounds, {after} MB after 40");
}

/// What was being done when the process was killed is lost, and nothing else: the next one starts and answers.
#[test]
fn a_killed_server_starts_again() {
    let mut server = Server::start(&[]);
    let mut stream = streaming(&server, "Count to a thousand.");
    server.process.kill().expect("killed");
    server.process.wait().expect("gone");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest); // it ends, in whatever way
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"), "what was cut off does not look whole");
    assert_eq!(chat(&Server::start(&[]), 2).0, 200);
}

impl Server {
    /// The status of what is sent as JSON, whatever it is.
    fn post_text(&self, path: &str, text: &str) -> u16 {
        answer(agent().post(self.url(path)).content_type("application/json").send(text)).0
    }
}
