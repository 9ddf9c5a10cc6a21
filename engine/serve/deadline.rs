//! Deadlines of requests: the header `dreamseed-deadline-ms` says after how many milliseconds an answer is of no use. Then the request
//! leaves the queue or stops its work, and what it held is free.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::Request,
    http::HeaderName,
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_stream::Stream;

use super::error::Problem;

pub(super) const HEADER: HeaderName = HeaderName::from_static("dreamseed-deadline-ms");
/// Longest that a client may ask for, milliseconds: a day.
const LONGEST: u64 = 24 * 3600 * 1000;

/// When a request's answer stops being of use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(pub(super) Instant);

/// Ends requests at their deadlines: with 504 before an answer has begun, by breaking off where it is being streamed.
pub(super) async fn kept(mut request: Request, next: Next) -> Result<Response, Problem> {
    let Some(value) = request.headers().get(&HEADER) else { return Ok(next.run(request).await) };
    let until = value.to_str().ok().and_then(within);
    let until = until.ok_or_else(|| {
        Problem::invalid(format!("a number of milliseconds, 1 to {LONGEST}, is needed")).of_param(HEADER.as_str())
    })?;
    request.extensions_mut().insert(Deadline(until));
    let response = timeout_at(until, next.run(request)).await.unwrap_or_else(|_| Problem::late().into_response());
    Ok(response.map(|body| Body::from_stream(Until { data: body.into_data_stream(), end: Box::pin(sleep_until(until)) })))
}

fn within(milliseconds: &str) -> Option<Instant> {
    let after = milliseconds.trim().parse().ok().filter(|ms| (1..=LONGEST).contains(ms))?;
    Some(Instant::now() + Duration::from_millis(after))
}

/// A body that breaks off at its end; dropping it then stops the work that feeds it.
struct Until {
    data: BodyDataStream,
    end: Pin<Box<Sleep>>,
}

impl Stream for Until {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new("the request's deadline has come"))));
        }
        Pin::new(&mut self.data).poll_next(context)
    }
}
