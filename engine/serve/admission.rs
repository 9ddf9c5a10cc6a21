//! Who is worked on, who waits, and who is told to come again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Problem;

/// A bounded number of requests at work, and a bounded queue before them, first come, first served.
pub(super) struct Admission {
    working: Arc<Semaphore>,
    waiting: AtomicUsize,
    queue: usize,
    patience: Duration,
    places: usize,
}

/// A place among those that are worked on; given back when it is dropped.
pub(super) struct Place(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl Admission {
    /// `places` at work, `queue` waiting, each at most for `patience`.
    pub(super) fn new(places: usize, queue: usize, patience: Duration) -> Self {
        Self { working: Arc::new(Semaphore::new(places)), waiting: AtomicUsize::new(0), queue, patience, places }
    }

    /// Waits for a place. A caller that goes away while it waits leaves the queue.
    ///
    /// # Errors
    /// 429 when the queue is full, 503 when it took too long.
    pub(super) async fn enter(&self) -> Result<Place, Problem> {
        if let Ok(permit) = self.working.clone().try_acquire_owned() {
            return Ok(Place(permit));
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.queue {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let message = format!("{} requests are at work and {} wait; try again later", self.places, self.queue);
            let full = Problem::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message);
            return Err(Problem { retry_after: Some(1), ..full });
        }
        let _leave = Leave(&self.waiting);
        match tokio::time::timeout(self.patience, self.working.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Place(permit)),
            Ok(Err(closed)) => Err(Problem::internal(closed)),
            Err(_) => {
                let message = format!("no place became free within {} s; try again later", self.patience.as_secs());
                let late = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "waited_too_long", message);
                Err(Problem { retry_after: Some(5), ..late })
            }
        }
    }

    /// Requests at work and waiting.
    pub(super) fn load(&self) -> [usize; 2] {
        [self.places - self.working.available_permits(), self.waiting.load(Ordering::Relaxed)]
    }
}

struct Leave<'a>(&'a AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_queue_is_bounded_and_places_come_back() {
        let admission = Arc::new(Admission::new(1, 1, Duration::from_secs(5)));
        let first = admission.enter().await.unwrap();
        let waiting = tokio::spawn({
            let admission = admission.clone();
            async move { admission.enter().await.map(drop) }
        });
        while admission.load() != [1, 1] {
            tokio::task::yield_now().await;
        }
        let refused = admission.enter().await.err().unwrap();
        assert_eq!((refused.status, refused.code, refused.retry_after), (StatusCode::TOO_MANY_REQUESTS, "queue_full", Some(1)));
        drop(first);
        waiting.await.unwrap().unwrap();
        assert_eq!(admission.load(), [0, 0]);
    }

    #[tokio::test]
    async fn who_leaves_or_waits_too_long_frees_the_queue() {
        let admission = Admission::new(1, 4, Duration::from_millis(20));
        let _held = admission.enter().await.unwrap();
        let gone = tokio::time::timeout(Duration::from_millis(1), admission.enter()).await;
        assert!(gone.is_err());
        assert_eq!(admission.enter().await.err().unwrap().code, "waited_too_long");
        assert_eq!(admission.load(), [1, 0]);
    }
}
