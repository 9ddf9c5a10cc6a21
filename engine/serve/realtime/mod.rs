//! GET /v1/realtime: a WebSocket that takes sound and pictures while they are made, tells what it hears and sees meanwhile, and gives the
//! lesson when the clip ends, with nothing perceived twice.
//!
//! The client offers the protocol `dreamseed.v1`; a page, which cannot set the header `Authorization`, offers its key beside it as
//! `dreamseed.key.KEY`. Then:
//!
//! 1. The client sends `{"type": "start"}`, with `lab` (`speech`, `dance`, `drama`; else by what comes), `language` of the feedback (`en`,
//!    `ko`), `text` that should be said, `spoken` (the language spoken, such as `ko`; else found), `llm` (false: the planner's own
//!    sentences), `model` (a language model), `seed`, `people` (1 to 16 to follow).
//! 2. The server sends `{"event": "ready", "limits": {...}}` when there is a place and the models are loaded; nothing may be sent before.
//! 3. The client sends binary messages. Sound: a byte 1, the seconds of its first sample (f64, little-endian), samples (16-bit,
//!    little-endian, mono, 16 kHz). A picture: a byte 2, its seconds, a JPEG, PNG or WebP. Seconds are since the clip's start; those of
//!    pictures rise, those of sound do not fall. Between two pieces of sound up to ten seconds may be missing: they are silence. When
//!    pictures come faster than they can be looked at the newest counts; `dropped` says how many did not.
//! 4. The server sends, as things become known: `partial`, `final` and `segment` with words as `dreamseed transcribe --stream --json`;
//!    `{"event": "pose", "t", "width", "height", "people": [...], "dropped"}` as /v1/pose has people; `{"event": "face", "t", "faces":
//!    [{"bbox", "score", "expression": {"happy": 0.9, ...}}]}`; `{"event": "pitch", "t", "hop", "hz": [...]}`, null without a voice.
//! 5. The client sends `{"type": "end"}`. The server sends `{"event": "ended", "seconds", "pictures", "dropped"}`, then the events of the
//!    lesson as POST /v1/coach, and closes.
//!
//! What fails is `{"event": "error", "error": {...}}` in the form of the other endpoints, and the connection closes: 1008 where the client
//! is wrong, 1013 where it should come again, 1011 where the server failed. A connection holds one place among the requests at work.

mod protocol;
mod session;

use std::time::Duration;

use axum::{
    Extension,
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use tokio::{
    sync::mpsc,
    time::{Instant, interval, sleep_until, timeout, timeout_at},
};
use tokio_stream::StreamExt;
use tracing::Instrument;

use self::protocol::{Input, Start, Told};
use super::{
    Shared,
    admission::Claim,
    connections::Held,
    error::{ErrorBody, Problem},
    work::{Cancel, Parts, guarded},
};

/// What is spoken here; the answer names it, never the key beside it.
const PROTOCOL: &str = "dreamseed.v1";
/// Largest message, bytes: a minute of sound.
const MESSAGE: usize = 2 << 20;
/// Messages that wait for the work before the client waits.
const INPUTS: usize = 64;
/// How long a client may take to hear that the connection closes.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a conversation ended before its lesson did.
enum End {
    /// The client has gone.
    Gone,
    /// Something is wrong.
    Failed(Problem),
}

impl From<Problem> for End {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

/// A lesson while the learner is still moving: a WebSocket
///
/// Messages: `start`, sound and pictures, `end`; events as they become known. See the documentation of the protocol `dreamseed.v1`.
#[utoipa::path(
    get, path = "/v1/realtime", tag = "lessons",
    responses(
        (status = 101, description = "The protocol `dreamseed.v1`"),
        (status = 426, description = "It was not asked for as a WebSocket", body = ErrorBody),
        (status = "4XX", body = ErrorBody),
    )
)]
pub(super) async fn realtime(
    State(server): State<Shared>,
    claim: Claim,
    held: Option<Extension<Held>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let needed = |e: WebSocketUpgradeRejection| {
        let message = format!("{}; this path is a WebSocket of the protocol {PROTOCOL}", e.body_text());
        Problem::new(StatusCode::UPGRADE_REQUIRED, "not_websocket", message)
    };
    let upgrade = upgrade.map_err(needed)?;
    if server.is_open() {
        of_known_page(&headers, &server.engine.config().serve.cors)?;
    }
    let span = tracing::Span::current();
    let upgrade = upgrade.protocols([PROTOCOL]).max_message_size(MESSAGE).max_frame_size(MESSAGE);
    Ok(upgrade.on_upgrade(move |socket| {
        let talk = async move {
            let _held = held;
            converse(server, claim, socket).await;
        };
        talk.instrument(span)
    }))
}

/// A browser lets any page open a WebSocket to any address, this machine's too: without keys none may but the server's own page and those
/// of the origins that the settings name.
fn of_known_page(headers: &HeaderMap, known: &[String]) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) }; // no browser
    let origin = origin.to_str().unwrap_or_default();
    let page = origin.split_once("://").map(|(_, host)| host);
    let own = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    if page.is_some() && page == own || known.iter().any(|k| k == origin) {
        return Ok(());
    }
    let message = "pages of other addresses may not use this server without a key: give it keys, name them as serve.cors, or open its own page";
    Err(Problem::new(StatusCode::FORBIDDEN, "origin", message))
}

/// A conversation from its first message to its close.
async fn converse(server: Shared, claim: Claim, mut socket: WebSocket) {
    let end = match claim.deadline {
        None => talk(&server, &claim, &mut socket).await,
        Some(until) => {
            timeout_at(until, talk(&server, &claim, &mut socket)).await.unwrap_or_else(|_| Err(Problem::late().into()))
        }
    };
    let code = match end {
        Ok(()) => close_code::NORMAL,
        Err(End::Gone) => return,
        Err(End::Failed(problem)) => {
            let told = protocol::json(&Told::Error(problem.body()));
            if send(&mut socket, Message::Text(told), FAREWELL).await.is_err() {
                return; // it has gone, which reads as a broken message
            }
            server.metrics.problem(problem.code);
            tracing::info!(code = problem.code, "a conversation failed");
            match problem.status {
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => close_code::AGAIN,
                s if s.is_client_error() => close_code::POLICY,
                _ => close_code::ERROR,
            }
        }
    };
    let close = CloseFrame { code, reason: Utf8Bytes::default() };
    // what the client has sent meanwhile is read: unread bytes would have the last events thrown away on their way
    let farewell = async {
        if socket.send(Message::Close(Some(close))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    let _ = timeout(FAREWELL, farewell).await;
}

/// The conversation until its lesson is complete.
async fn talk(server: &Shared, claim: &Claim, socket: &mut WebSocket) -> Result<(), End> {
    let idle = Duration::from_secs(server.engine.config().serve.idle_seconds);
    let start = timeout(idle, first(socket)).await.map_err(|_| idled(idle))??;
    let place = tokio::select! {
        place = server.admission.enter(claim) => place?,
        problem = early(socket) => return Err(problem),
    };
    let cancel = Cancel::default();
    let (sink, mut parts) = Parts::new(vec![cancel.clone()]);
    let (input, inbox) = mpsc::channel(INPUTS);
    tokio::task::spawn_blocking({
        let server = server.clone();
        move || {
            let _held = place;
            if let Err(problem) = guarded(|| session::run(&server, start, (inbox, &sink), &cancel)) {
                sink.send(Err(problem));
            }
        }
    });
    let mut input = Some(input); // until the clip ends
    let (mut heard, mut ping) = (Instant::now(), interval(idle / 3));
    loop {
        tokio::select! {
            part = parts.next() => match part {
                Some(Ok(event)) => send(socket, Message::Text(event), idle).await?,
                Some(Err(problem)) => return Err(End::Failed(problem)),
                None => return Ok(()),
            },
            (turn, message) = receive(socket, input.clone()) => {
                match (message?, turn) {
                    (Message::Close(_), _) => return Err(End::Gone),
                    (Message::Ping(_) | Message::Pong(_), None) => heard = Instant::now(),
                    (Message::Ping(_) | Message::Pong(_), Some(_)) => {} // that it is there is no reason to hold a place
                    (_, None) => return Err(Problem::invalid("the clip has ended: nothing more is taken").into()),
                    (message, Some(turn)) => {
                        heard = Instant::now();
                        let message = protocol::input(message)?;
                        let ends = matches!(message, Input::End);
                        turn.send(message);
                        if ends {
                            input = None;
                        }
                    }
                }
            }
            () = sleep_until(heard + idle) => {
                return Err(if input.is_some() { idled(idle).into() } else { End::Gone });
            }
            _ = ping.tick(), if input.is_none() => send(socket, Message::Ping(Default::default()), idle).await?,
        }
    }
}

/// The next message, once there is room for it where it is to go.
async fn receive(
    socket: &mut WebSocket,
    input: Option<mpsc::Sender<Input>>,
) -> (Option<mpsc::OwnedPermit<Input>>, Result<Message, End>) {
    let turn = match input {
        None => None,
        Some(input) => match input.reserve_owned().await {
            Ok(turn) => Some(turn),
            Err(_) => std::future::pending().await, // the work has failed and says why
        },
    };
    (turn, read(socket).await)
}

/// The next message.
///
/// # Errors
/// What cannot be read is told; a broken connection is none that could be told.
async fn read(socket: &mut WebSocket) -> Result<Message, End> {
    match socket.recv().await {
        Some(Ok(message)) => Ok(message),
        None => Err(End::Gone),
        Some(Err(e)) => {
            let message = format!("a message cannot be read ({e}); it may have {MESSAGE} bytes, and text is UTF-8");
            Err(Problem::new(StatusCode::BAD_REQUEST, "bad_message", message).into())
        }
    }
}

/// What is to be done.
async fn first(socket: &mut WebSocket) -> Result<Start, End> {
    loop {
        match read(socket).await? {
            Message::Text(text) => return Ok(protocol::start(&text)?),
            Message::Binary(_) => return Err(Problem::invalid("the first message is {\"type\": \"start\"}").into()),
            Message::Close(_) => return Err(End::Gone),
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
}

/// A client that goes, or cannot wait, while it waits for its place.
async fn early(socket: &mut WebSocket) -> End {
    loop {
        match read(socket).await {
            Err(end) => return end,
            Ok(Message::Close(_)) => return End::Gone,
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(_) => return Problem::invalid("nothing may be sent before `ready`").into(),
        }
    }
}

/// Sends to a client that reads.
async fn send(socket: &mut WebSocket, message: Message, patience: Duration) -> Result<(), End> {
    timeout(patience, socket.send(message)).await.ok().and_then(Result::ok).ok_or(End::Gone)
}

fn idled(after: Duration) -> Problem {
    let message = format!("nothing came for {} s", after.as_secs());
    Problem::new(StatusCode::REQUEST_TIMEOUT, "idle", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_another_address_is_told_apart() {
        let of = |origin: &str, host: &str| {
            let headers = [(header::ORIGIN, origin.parse().unwrap()), (header::HOST, host.parse().unwrap())];
            of_known_page(&HeaderMap::from_iter(headers), &["https://school.example".into()]).is_ok()
        };
        assert!(of("http://127.0.0.1:8077", "127.0.0.1:8077") && of("https://tutor.example", "tutor.example"));
        assert!(!of("http://evil.example", "127.0.0.1:8077") && !of("http://127.0.0.1:1", "127.0.0.1:8077"));
        assert!(!of("null", "127.0.0.1:8077"));
        assert!(of("https://school.example", "127.0.0.1:8077") && !of("https://school.example.org", "127.0.0.1:8077"));
        assert!(of_known_page(&HeaderMap::new(), &[]).is_ok());
    }
}
