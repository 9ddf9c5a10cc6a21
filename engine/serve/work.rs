//! Between the server's threads, which must never wait, and the engine's calls, which do.
//!
//! Work runs on threads of its own. Its caller holds a [`Tied`]: when that is dropped, because the client has gone away or the answer
//! is complete, the work hears of it and stops soon after.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio_stream::{Stream, wrappers::ReceiverStream};

use super::{admission::Place, error::Problem};
use crate::Result;

/// Parts of an answer that wait for a slow client before the work waits too.
const WAITING: usize = 64;

/// Told to work that nobody wants any more.
pub(super) type Cancel = Arc<AtomicBool>;

/// Sets flags when it is dropped.
pub(super) struct Tied(pub(super) Vec<Cancel>);

impl Drop for Tied {
    fn drop(&mut self) {
        self.0.iter().for_each(|flag| flag.store(true, Ordering::Relaxed));
    }
}

/// Runs what blocks, and waits for it. Dropping the future tells the work to stop.
///
/// # Errors
/// Its own; 500 when it panics.
pub(super) async fn work<T: Send + 'static>(
    job: impl FnOnce(&Cancel) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let cancel = Cancel::default();
    let _tied = Tied(vec![cancel.clone()]);
    tokio::task::spawn_blocking(move || job(&cancel)).await.unwrap_or_else(|e| Err(Problem::internal(e)))
}

/// As [`work`], holding a place until the work has ended, whether somebody still waits for it or not; then the place is the caller's.
///
/// # Errors
/// As [`work`].
pub(super) async fn placed<T: Send + 'static>(
    place: Place,
    job: impl FnOnce(&Cancel) -> Result<T, Problem> + Send + 'static,
) -> Result<(Place, T), Problem> {
    work(move |cancel| job(cancel).map(|done| (place, done))).await
}

/// Runs a part of work whose answer is a stream that has begun: a panic becomes an error of this request alone.
///
/// # Errors
/// Its own; 500 when it panics.
pub(super) fn guarded<T>(job: impl FnOnce() -> Result<T, Problem>) -> Result<T, Problem> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
    outcome.unwrap_or_else(|_| Err(Problem::internal("a request panicked")))
}

/// Where work sends the parts of its answer.
pub(super) struct Sink<T>(tokio::sync::mpsc::Sender<T>);

impl<T> Clone for Sink<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Sink<T> {
    /// Sends a part, waiting for a slow client; false when there is nobody any more.
    pub(super) fn send(&self, part: T) -> bool {
        self.0.blocking_send(part).is_ok()
    }
}

/// The parts of an answer, as the work makes them. Ends when all [`Sink`]s are gone.
pub(super) struct Parts<T> {
    received: ReceiverStream<T>,
    _tied: Tied,
}

impl<T> Parts<T> {
    /// A stream and what feeds it; `flags` are set when the stream is dropped.
    pub(super) fn new(flags: Vec<Cancel>) -> (Sink<T>, Self) {
        let (sender, receiver) = tokio::sync::mpsc::channel(WAITING);
        (Sink(sender), Self { received: ReceiverStream::new(receiver), _tied: Tied(flags) })
    }
}

impl<T> Stream for Parts<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.received).poll_next(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_hears_that_its_caller_is_gone() {
        let (told, heard) = std::sync::mpsc::channel();
        let waiting = work(move |cancel| {
            while !cancel.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            told.send(()).map_err(Problem::internal)
        });
        assert!(tokio::time::timeout(std::time::Duration::from_millis(5), waiting).await.is_err());
        heard.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
    }

    #[tokio::test]
    async fn who_leaves_during_work_holds_the_place_until_it_ends() {
        let admission = super::super::admission::Admission::new(1, 0, std::time::Duration::from_secs(5));
        let place = admission.enter(&super::super::admission::Claim::anyone()).await.unwrap();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let waiting = placed(place, move |_| gone.recv().map_err(Problem::internal));
        assert!(tokio::time::timeout(std::time::Duration::from_millis(5), waiting).await.is_err());
        assert_eq!(admission.load(), [1, 0]);
        go.send(()).unwrap();
        while admission.load() != [0, 0] {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_its_request_alone() {
        let problem = work::<()>(|_| panic!("on purpose")).await.err().unwrap();
        assert_eq!(problem.code, "internal_error");
        assert_eq!(work(|_| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn dropping_a_stream_sets_its_flags_and_ends_its_sender() {
        let flag = Cancel::default();
        let (sink, parts) = Parts::new(vec![flag.clone()]);
        drop(parts);
        let sent = tokio::task::spawn_blocking(move || sink.send(1)).await.unwrap();
        assert!(!sent && flag.load(Ordering::Relaxed));
    }
}
