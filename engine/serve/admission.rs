//! Who is worked on, who waits, and who is told to come again.
//!
//! Of those that wait, interactive requests come before batches; among equals who has the fewest requests at work comes first, so that
//! one caller's hundred do not keep another one's first waiting; then who came first.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderName, StatusCode, request::Parts},
};
use tokio::{sync::oneshot, time::Instant};

use super::{deadline::Deadline, error::Problem, keys::Caller};

/// The header that says how soon: `interactive` (default) or `batch`.
pub(super) const PRIORITY: HeaderName = HeaderName::from_static("dreamseed-priority");

/// How soon a request has to be worked on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// Nobody does.
    Batch,
}

/// Who asks for a place, how soon (the header `dreamseed-priority`, `interactive` or `batch`), and until when (deadline.rs).
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) caller: Arc<str>,
    pub(super) priority: Priority,
    pub(super) deadline: Option<Instant>,
}

#[cfg(test)]
impl Claim {
    /// Of nobody in particular.
    pub(super) fn anyone() -> Self {
        Self { caller: "anyone".into(), priority: Priority::Interactive, deadline: None }
    }
}

impl<S: Sync> FromRequestParts<S> for Claim {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Caller>();
        let header = |name: &str| parts.headers.get(name).map(|v| v.to_str().unwrap_or("\u{fffd}").trim());
        let priority = match header(PRIORITY.as_str()) {
            None | Some("interactive") => Priority::Interactive,
            Some("batch") => Priority::Batch,
            Some(_) => return Err(Problem::invalid("interactive and batch are known").of_param(PRIORITY.as_str())),
        };
        Ok(Self {
            caller: caller.map_or_else(|| "anyone".into(), |c| c.name.clone()),
            priority: priority.max(caller.map_or(Priority::Interactive, |c| c.priority)),
            deadline: parts.extensions.get::<Deadline>().map(|d| d.0),
        })
    }
}

/// A bounded number of requests at work, and a bounded queue before them.
pub(super) struct Admission {
    state: Mutex<State>,
    places: usize,
    queue: usize,
    patience: Duration,
}

#[derive(Default)]
struct State {
    working: usize,
    of: HashMap<Arc<str>, usize>, // at work, by caller
    waiting: Vec<Waiting>,        // in the order in which they came
}

struct Waiting {
    caller: Arc<str>,
    priority: Priority,
    turn: oneshot::Sender<Place>,
}

/// A place among those that are worked on; given back when it is dropped.
pub(super) struct Place {
    admission: Arc<Admission>,
    caller: Arc<str>,
}

impl Admission {
    /// `places` at work, `queue` waiting, each at most for `patience`.
    pub(super) fn new(places: usize, queue: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), places, queue, patience })
    }

    /// Waits for a place. A caller that goes away while it waits leaves the queue.
    ///
    /// # Errors
    /// 429 when the queue is full, 503 when it took too long, 504 when the deadline came first.
    pub(super) async fn enter(self: &Arc<Self>, claim: &Claim) -> Result<Place, Problem> {
        let turn = {
            let mut state = self.state();
            state.waiting.retain(|w| !w.turn.is_closed());
            if state.working < self.places && state.waiting.is_empty() {
                return Ok(self.seat(&mut state, claim.caller.clone()));
            }
            if state.waiting.len() >= self.queue {
                let message =
                    format!("{} requests are at work and {} wait; try again later", state.working, state.waiting.len());
                let full = Problem::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message);
                return Err(Problem { retry_after: Some(1), ..full });
            }
            let (turn, told) = oneshot::channel();
            state.waiting.push(Waiting { caller: claim.caller.clone(), priority: claim.priority, turn });
            told
        };
        let latest = Instant::now() + self.patience;
        match tokio::time::timeout_at(claim.deadline.map_or(latest, |d| d.min(latest)), turn).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(closed)) => Err(Problem::internal(closed)),
            Err(_) if claim.deadline.is_some_and(|d| d < latest) => Err(Problem::late()),
            Err(_) => {
                let message = format!("no place became free within {} s; try again later", self.patience.as_secs());
                let late = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "waited_too_long", message);
                Err(Problem { retry_after: Some(5), ..late })
            }
        }
    }

    /// Requests at work and waiting.
    pub(super) fn load(&self) -> [usize; 2] {
        let state = self.state();
        [state.working, state.waiting.iter().filter(|w| !w.turn.is_closed()).count()]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seat(self: &Arc<Self>, state: &mut State, caller: Arc<str>) -> Place {
        state.working += 1;
        *state.of.entry(caller.clone()).or_default() += 1;
        Place { admission: self.clone(), caller }
    }

    /// Lets in whose turn it is, as far as there are places.
    fn call(self: &Arc<Self>) {
        let mut refused = Vec::new(); // dropped when the lock is open again: a place that nobody took calls the next one
        let mut state = self.state();
        while state.working < self.places {
            let at_work = |w: &Waiting| state.of.get(&w.caller).copied().unwrap_or(0);
            let first = state.waiting.iter().enumerate().min_by_key(|(i, w)| (w.priority, at_work(w), *i)).map(|(i, _)| i);
            let Some(first) = first else { break };
            let next = state.waiting.remove(first);
            if next.turn.is_closed() {
                continue; // it has gone
            }
            let place = self.seat(&mut state, next.caller);
            if let Err(place) = next.turn.send(place) {
                refused.push(place);
                break; // its place is free again when it is dropped, which calls the next one
            }
        }
        drop(state);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        state.working -= 1;
        if let Some(n) = state.of.get_mut(&self.caller) {
            *n -= 1;
            if *n == 0 {
                state.of.remove(&self.caller);
            }
        }
        drop(state);
        self.admission.call();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(caller: &str, priority: Priority) -> Claim {
        Claim { caller: caller.into(), priority, deadline: None }
    }

    async fn until(admission: &Admission, load: [usize; 2]) {
        while admission.load() != load {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_places_come_back() {
        let admission = Admission::new(1, 1, Duration::from_secs(5));
        let anyone = claim("a", Priority::Interactive);
        let first = admission.enter(&anyone).await.unwrap();
        let waiting = tokio::spawn({
            let (admission, anyone) = (admission.clone(), anyone.clone());
            async move { admission.enter(&anyone).await.map(drop) }
        });
        until(&admission, [1, 1]).await;
        let refused = admission.enter(&anyone).await.err().unwrap();
        assert_eq!((refused.status, refused.code, refused.retry_after), (StatusCode::TOO_MANY_REQUESTS, "queue_full", Some(1)));
        drop(first);
        waiting.await.unwrap().unwrap();
        assert_eq!(admission.load(), [0, 0]);
    }

    #[tokio::test]
    async fn who_leaves_or_waits_too_long_frees_the_queue() {
        let admission = Admission::new(1, 4, Duration::from_millis(20));
        let anyone = claim("a", Priority::Interactive);
        let held = admission.enter(&anyone).await.unwrap();
        let gone = tokio::time::timeout(Duration::from_millis(1), admission.enter(&anyone)).await;
        assert!(gone.is_err());
        assert_eq!(admission.enter(&anyone).await.err().unwrap().code, "waited_too_long");
        let soon = Claim { deadline: Some(Instant::now() + Duration::from_millis(2)), ..anyone.clone() };
        assert_eq!(admission.enter(&soon).await.err().unwrap().code, "deadline");
        assert_eq!(admission.load(), [1, 0]);
        drop(held);
        drop(admission.enter(&anyone).await.unwrap());
    }

    /// Batches come last; who has nobody at work comes before who has; then who came first.
    #[tokio::test]
    async fn the_next_is_who_waits_for_it_and_has_least() {
        let admission = Admission::new(2, 16, Duration::from_secs(5));
        let (one, two) = (claim("busy", Priority::Interactive), claim("busy", Priority::Interactive));
        let held = (admission.enter(&one).await.unwrap(), admission.enter(&two).await.unwrap());
        let (order, mut told) = tokio::sync::mpsc::unbounded_channel();
        let waiting = [
            ("busy", Priority::Interactive),
            ("batch", Priority::Batch),
            ("busy", Priority::Interactive),
            ("new", Priority::Interactive),
        ];
        for (n, (caller, priority)) in waiting.into_iter().enumerate() {
            let (own, order) = (admission.clone(), order.clone());
            tokio::spawn(async move {
                let place = own.enter(&claim(caller, priority)).await.unwrap();
                order.send((n, place)).map_err(drop).unwrap();
            });
            until(&admission, [2, n + 1]).await;
        }
        drop(held.0);
        let (n, place) = told.recv().await.unwrap();
        assert_eq!(n, 3);
        drop(place);
        let mut seen = Vec::new();
        for _ in 0..3 {
            let (n, place) = told.recv().await.unwrap();
            seen.push(n);
            drop(place);
        }
        assert_eq!(seen, [0, 2, 1]);
        drop(held.1);
        assert_eq!(admission.load(), [0, 0]);
    }
}
