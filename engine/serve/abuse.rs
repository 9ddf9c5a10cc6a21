//! Who asks for what is refused again and again is slowed down, and shut out for a while if that does not help.
//!
//! Every refusal adds to a score that halves in half a minute: guesses at keys most, then suspicious texts, oversized bodies, what is
//! malformed and retries in spite of `Retry-After` least. It is kept by key, and without one by address. An ordinary client that makes
//! a mistake now and then never notices.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::Response,
};
use tokio::time::Instant;

use super::{Shared, error::Problem, keys::Caller};

/// A score halves in so long.
const HALF_LIFE: Duration = Duration::from_secs(30);
/// From here on each request waits, the longer the higher the score.
const SLOW: f64 = 30.0;
/// From here on each is refused, until the score has fallen.
const BLOCK: f64 = 90.0;
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(2);
/// Most that are remembered; those with the lowest scores are forgotten first.
const MOST: usize = 4096;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// By key or token.
    Caller(Arc<str>),
    /// Without one.
    Peer(IpAddr),
}

/// The address at the other end of a request's connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

/// A score as it was at a time.
#[derive(Clone, Copy)]
struct Score {
    value: f64,
    at: Instant,
}

impl Score {
    fn now(self, now: Instant) -> f64 {
        self.value * (-now.duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2()
    }
}

/// All scores.
#[derive(Default)]
pub(super) struct Watch(Mutex<HashMap<Who, Score>>);

/// What becomes of a request.
#[derive(Debug, PartialEq)]
enum Verdict {
    Pass,
    Wait(Duration),
    Refuse { seconds: u64 },
}

impl Watch {
    fn verdict(&self, who: &Who, now: Instant) -> Verdict {
        let scores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let score = scores.get(who).map_or(0.0, |s| s.now(now));
        if score >= BLOCK {
            let seconds = HALF_LIFE.as_secs_f64() * (score / BLOCK).log2();
            return Verdict::Refuse { seconds: seconds.ceil().max(1.0) as u64 };
        }
        match score > SLOW {
            true => Verdict::Wait(LONGEST.mul_f64((score - SLOW) / (BLOCK - SLOW))),
            false => Verdict::Pass,
        }
    }

    fn add(&self, who: Who, weight: f64, now: Instant) {
        let mut scores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if scores.len() >= MOST && !scores.contains_key(&who) {
            let mut all: Vec<f64> = scores.values().map(|s| s.now(now)).collect();
            let middle = all.len() / 2;
            let median = *all.select_nth_unstable_by(middle, f64::total_cmp).1;
            scores.retain(|_, s| s.now(now) > median);
        }
        let score = scores.entry(who).or_insert(Score { value: 0.0, at: now });
        *score = Score { value: score.now(now) + weight, at: now };
    }

    /// Lets a request go on, at once or after a while.
    ///
    /// # Errors
    /// 429 for who was refused too often.
    pub(super) async fn check(&self, who: &Who) -> Result<(), Problem> {
        match self.verdict(who, Instant::now()) {
            Verdict::Pass => Ok(()),
            Verdict::Wait(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Verdict::Refuse { seconds } => {
                let message = format!("too many requests were refused; wait {seconds} s, and look at what the errors said");
                let blocked = Problem::new(StatusCode::TOO_MANY_REQUESTS, "blocked", message);
                Err(Problem { retry_after: Some(seconds), ..blocked })
            }
        }
    }
}

/// How much a refusal tells of whom it met.
fn weight(problem: &Problem) -> f64 {
    match (problem.code, problem.status) {
        ("invalid_api_key" | "invalid_token", _) => 6.0,
        ("suspicious", _) => 4.0,
        ("body_too_large", _) => 3.0,
        ("missing_api_key" | "scope", _) => 2.0,
        ("queue_full" | "waited_too_long" | "deadline" | "model_unavailable", _) => 0.0, // not theirs to mend
        (_, status) if status.is_client_error() => 1.0,
        _ => 0.0,
    }
}

/// Whose address counts: the other end's, or, where that is a proxy on this machine, the one that the proxy took the request from. A
/// machine's own requests are nobody's abuse.
pub(super) fn peer(request: &Request) -> Option<Who> {
    let ip = request.extensions().get::<Peer>()?.0;
    if !ip.is_loopback() {
        return Some(Who::Peer(ip));
    }
    let last = request.headers().get_all("x-forwarded-for").iter().next_back()?;
    last.to_str().ok()?.rsplit(',').next()?.trim().parse().ok().map(Who::Peer)
}

/// Stands before all routes and remembers whom refusals met. Where nobody needs a key it slows down and shuts out addresses; elsewhere
/// who brings none that is valid is (keys.rs), so that one guesser does not shut out others behind the same address.
pub(super) async fn guard(State(server): State<Shared>, request: Request, next: Next) -> Result<Response, Problem> {
    let peer = peer(&request);
    if let Some(peer) = peer.as_ref().filter(|_| server.is_open()) {
        server.abuse.check(peer).await.inspect_err(|p| server.metrics.problem(p.code))?;
    }
    let response = next.run(request).await;
    if let Some(weight) = response.extensions().get::<Problem>().map(weight).filter(|w| *w > 0.0) {
        let caller = response.extensions().get::<Caller>().filter(|_| !server.is_open());
        if let Some(who) = caller.map(|c| Who::Caller(c.name.clone())).or(peer) {
            server.abuse.add(who, weight, Instant::now());
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u32) -> Who {
        Who::Peer(IpAddr::from(n.to_be_bytes()))
    }

    #[test]
    fn who_is_refused_again_and_again_is_slowed_down_then_shut_out_then_forgiven() {
        let (watch, begin) = (Watch::default(), Instant::now());
        let guess = weight(&Problem::new(StatusCode::UNAUTHORIZED, "invalid_api_key", ""));
        let mut seen = Vec::new();
        for _ in 0..20 {
            seen.push(watch.verdict(&peer(1), begin));
            watch.add(peer(1), guess, begin);
        }
        assert!(seen[..6].iter().all(|v| *v == Verdict::Pass), "{seen:?}");
        assert!(seen[6..15].iter().all(|v| matches!(v, Verdict::Wait(w) if *w <= LONGEST)), "{seen:?}");
        assert!(matches!(seen[16], Verdict::Refuse { .. }), "{seen:?}");
        assert_eq!(watch.verdict(&peer(2), begin), Verdict::Pass);
        let Verdict::Refuse { seconds } = watch.verdict(&peer(1), begin) else { panic!() };
        assert!(!matches!(watch.verdict(&peer(1), begin + Duration::from_secs(seconds)), Verdict::Refuse { .. }));
        assert_eq!(watch.verdict(&peer(1), begin + 3 * HALF_LIFE), Verdict::Pass);
    }

    #[test]
    fn a_proxy_on_this_machine_is_not_who_asks() {
        let of = |ip: &str, forwarded: Option<&str>| {
            let mut request = Request::new(axum::body::Body::empty());
            request.extensions_mut().insert(Peer(ip.parse().unwrap()));
            if let Some(value) = forwarded {
                request.headers_mut().insert("x-forwarded-for", value.parse().unwrap());
            }
            match super::peer(&request) {
                Some(Who::Peer(ip)) => Some(ip.to_string()),
                _ => None,
            }
        };
        assert_eq!(of("192.0.2.1", Some("192.0.2.9")).as_deref(), Some("192.0.2.1"), "others may say what they like");
        assert_eq!(of("127.0.0.1", Some("203.0.113.7, 192.0.2.9")).as_deref(), Some("192.0.2.9"));
        assert_eq!(of("127.0.0.1", None), None);
        assert_eq!(of("::1", Some("nobody")), None);
    }

    #[test]
    fn a_mistake_now_and_then_is_no_abuse() {
        let (watch, begin) = (Watch::default(), Instant::now());
        for second in 0..600 {
            let now = begin + Duration::from_secs(2 * second);
            assert_eq!(watch.verdict(&peer(1), now), Verdict::Pass, "after {second}");
            watch.add(peer(1), 1.0, now);
        }
    }

    #[test]
    fn many_addresses_take_no_more_room() {
        let (watch, now) = (Watch::default(), Instant::now());
        (0..20).for_each(|_| watch.add(peer(0), 6.0, now));
        (1..20_000).for_each(|n| watch.add(peer(n), 1.0, now));
        assert!(watch.0.lock().unwrap().len() <= MOST);
        assert!(matches!(watch.verdict(&peer(0), now), Verdict::Refuse { .. }));
    }
}
