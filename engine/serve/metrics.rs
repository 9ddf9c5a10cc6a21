//! What the server counts, in Prometheus' text form.

use std::{sync::atomic::AtomicU64, time::Duration};

use axum::http::StatusCode;

use crate::session::InMemory;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// A request by its route and how it ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    route: String,
    status: u16,
}

/// Something by the route it is of.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    route: String,
}

/// Something by a word for it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: String,
}

/// All figures; cheap to count, from any thread.
pub(super) struct Metrics {
    registry: Registry,
    answered: Family<Answered, Counter>,
    seconds: Family<Route, Histogram, fn() -> Histogram>,
    problems: Family<Kind, Counter>,
    suspicious: Family<Kind, Counter>,
    first_token: Histogram,
    between_tokens: Histogram,
    tokens: Family<Kind, Counter>,
    stages: Family<Kind, Histogram, fn() -> Histogram>,
    working: Gauge,
    waiting: Gauge,
    resident: Gauge<i64, std::sync::atomic::AtomicI64>,
    audio: Counter<f64, AtomicU64>,
    loaded: Family<Kind, Gauge>,
}

/// From a millisecond to a minute.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 17))
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("dreamseed");
        let seconds = Family::new_with_constructor(durations as fn() -> Histogram);
        let stages = Family::new_with_constructor(durations as fn() -> Histogram);
        let metrics = Self {
            answered: Family::default(),
            seconds,
            problems: Family::default(),
            suspicious: Family::default(),
            first_token: durations(),
            between_tokens: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            tokens: Family::default(),
            stages,
            working: Gauge::default(),
            waiting: Gauge::default(),
            resident: Gauge::default(),
            audio: Counter::default(),
            loaded: Family::default(),
            registry: Registry::default(),
        };
        registry.register("requests", "Requests by route and status", metrics.answered.clone());
        let unit = Unit::Seconds;
        registry.register_with_unit("request", "Until the head of an answer", unit.clone(), metrics.seconds.clone());
        let of = metrics.suspicious.clone();
        registry.register("suspicious_texts", "Texts that look like attacks by kind", of);
        registry.register("problems", "Failed requests by kind", metrics.problems.clone());
        let of = metrics.first_token.clone();
        registry.register_with_unit("first_token", "From a request's place to its first token", unit.clone(), of);
        let of = metrics.between_tokens.clone();
        registry.register_with_unit("inter_token", "Mean time between a text's tokens", unit.clone(), of);
        registry.register("tokens", "Tokens: of prompts, of prompts known already, generated", metrics.tokens.clone());
        registry.register_with_unit("stage", "Stages of lessons", unit.clone(), metrics.stages.clone());
        registry.register("requests_working", "Requests at work", metrics.working.clone());
        registry.register("requests_waiting", "Requests in the queue", metrics.waiting.clone());
        registry.register_with_unit("resident_memory", "Memory of the process", Unit::Bytes, metrics.resident.clone());
        registry.register_with_unit("models_loaded", "Files of loaded models by kind", Unit::Bytes, metrics.loaded.clone());
        registry.register_with_unit("audio", "Sound that was listened to", unit, metrics.audio.clone());
        Self { registry, ..metrics }
    }

    pub(super) fn answered(&self, route: &str, status: StatusCode, time: Duration) {
        self.answered.get_or_create(&Answered { route: route.into(), status: status.as_u16() }).inc();
        self.seconds.get_or_create(&Route { route: route.into() }).observe(time.as_secs_f64());
    }

    /// A failure by its code, those within a stream that had begun too.
    pub(super) fn problem(&self, code: &str) {
        self.problems.get_or_create(&Kind { kind: code.into() }).inc();
    }

    /// A text that looks like an attack.
    pub(super) fn suspicious(&self, kind: &str) {
        self.suspicious.get_or_create(&Kind { kind: kind.into() }).inc();
    }

    pub(super) fn first_token(&self, time: Duration) {
        self.first_token.observe(time.as_secs_f64());
    }

    /// A text is complete.
    pub(super) fn generated(&self, text: &crate::llm::Generation) {
        let count = |kind: &str, n: usize| self.tokens.get_or_create(&Kind { kind: kind.into() }).inc_by(n as u64);
        count("prompt", text.prompt_tokens.len());
        count("known", text.reused_tokens);
        count("generated", text.tokens.len());
        if text.decode_tokens_per_s > 0.0 {
            self.between_tokens.observe(1.0 / text.decode_tokens_per_s);
        }
    }

    /// A lesson's stages.
    pub(super) fn stages(&self, seconds: &[(String, f64)]) {
        for (stage, seconds) in seconds {
            self.stages.get_or_create(&Kind { kind: stage.clone() }).observe(*seconds);
        }
    }

    /// Seconds of sound.
    pub(super) fn audio(&self, seconds: f64) {
        self.audio.inc_by(seconds);
    }

    /// The page. `load`: requests at work and waiting.
    pub(super) fn page(&self, load: [usize; 2], loaded: &[InMemory]) -> Result<String, std::fmt::Error> {
        self.working.set(load[0] as i64);
        self.waiting.set(load[1] as i64);
        self.resident.set(resident().unwrap_or(0));
        self.loaded.clear();
        for model in loaded {
            self.loaded.get_or_create(&Kind { kind: model.kind.into() }).inc_by(i64::try_from(model.bytes).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Bytes of memory that the process has, where the system tells.
fn resident() -> Option<i64> {
    let pages: i64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(rustix::param::page_size() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_what_was_counted() {
        let metrics = Metrics::new();
        metrics.answered("/v1/coach", StatusCode::OK, Duration::from_millis(30));
        metrics.problem("queue_full");
        metrics.stages(&[("extract".into(), 0.5)]);
        let page = metrics.page([3, 1], &[]).unwrap();
        for line in [
            "dreamseed_requests_total{route=\"/v1/coach\",status=\"200\"} 1",
            "dreamseed_request_seconds_count{route=\"/v1/coach\"} 1",
            "dreamseed_problems_total{kind=\"queue_full\"} 1",
            "dreamseed_stage_seconds_sum{kind=\"extract\"} 0.5",
            "dreamseed_requests_working 3",
            "dreamseed_requests_waiting 1",
        ] {
            assert!(page.contains(line), "{line}: {page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }
}
