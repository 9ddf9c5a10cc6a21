//! The router: which LLM answers, by rule and zone. Pure: no clock, no model, no allocation but the reason.

use serde::{Deserialize, Serialize};

/// Size classes of LLMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Under 3B: the embedded models of a machine without a GPU.
    #[serde(rename = "small")]
    Small,
    /// Short answers.
    #[serde(rename = "7b")]
    B7,
    /// Lessons.
    #[serde(rename = "14b")]
    B14,
    /// Complex tutoring.
    #[serde(rename = "34b")]
    B34,
    /// Full multimodal reasoning.
    #[serde(rename = "70b")]
    B70,
}

impl Tier {
    /// All, smallest first.
    pub const ALL: [Tier; 5] = [Tier::Small, Tier::B7, Tier::B14, Tier::B34, Tier::B70];

    /// `small`, `7b`, `14b`, `34b`, `70b`.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Small => "small",
            Tier::B7 => "7b",
            Tier::B14 => "14b",
            Tier::B34 => "34b",
            Tier::B70 => "70b",
        }
    }

    /// The tier of a model of so many parameters.
    pub fn of_parameters(parameters: u64) -> Tier {
        match parameters {
            0..3_000_000_000 => Tier::Small,
            3_000_000_000..11_000_000_000 => Tier::B7,
            11_000_000_000..24_000_000_000 => Tier::B14,
            24_000_000_000..50_000_000_000 => Tier::B34,
            _ => Tier::B70,
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// A greeting, a yes or no, a hint.
    ShortAnswer,
    /// A conversation.
    Chat,
    /// Feedback of a lab on a clip.
    Lesson,
}

/// What the rules look at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// What is asked for.
    pub task: Task,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Pictures or video belong to it.
    pub has_vision: bool,
    /// Sound belongs to it.
    pub has_audio: bool,
    /// It asks to reason across what was seen and heard together, not only to phrase measured points.
    pub cross_modal: bool,
    /// Earlier turns of the conversation.
    pub turns: usize,
    /// Points or questions to be dealt with.
    pub points: usize,
    /// A teacher's clip is compared.
    pub has_reference: bool,
    /// Milliseconds to the first token that the caller accepts; 0 for no limit.
    pub latency_ms: u32,
    /// The largest tier that the caller pays for.
    pub budget: Tier,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            task: Task::Chat,
            prompt_tokens: 0,
            has_vision: false,
            has_audio: false,
            cross_modal: false,
            turns: 0,
            points: 0,
            has_reference: false,
            latency_ms: 0,
            budget: Tier::B70,
        }
    }
}

/// A model that could answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// As in weights.toml.
    pub id: String,
    /// Its size class.
    pub tier: Tier,
    /// Its weights are on this machine.
    pub installed: bool,
    /// It fits into this machine's memory together with what is loaded.
    pub fits: bool,
    /// Tokens that it can hold.
    pub context: usize,
    /// Milliseconds to its first token here, measured or estimated; 0 when unknown.
    pub first_token_ms: u32,
}

/// Who answers, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The tier that answers.
    pub tier: Tier,
    /// The tier that the rules asked for.
    pub wanted: Tier,
    /// The model; `None` when none is there: the planner's sentences stand alone.
    pub model: Option<String>,
    /// One line for people.
    pub reason: String,
}

/// Signals of a hard request; two of them ask for 34B.
const LONG_PROMPT: usize = 1_500;
const MANY_TURNS: usize = 8;
const MANY_POINTS: usize = 6;
/// Callers that want a first token faster than this get at most 14B.
const URGENT_MS: u32 = 250;
/// A short answer to a longer prompt than this is a chat.
const SHORT_PROMPT: usize = 256;

/// The tier that the rules ask for, and the rule: short answers 7B, education 14B, complex tutoring 34B, full multimodal
/// reasoning 70B; then the zone's limits of latency and budget.
pub fn wanted(request: &Request) -> (Tier, &'static str) {
    let signals = [
        request.prompt_tokens > LONG_PROMPT,
        request.turns > MANY_TURNS,
        request.points > MANY_POINTS,
        request.has_reference,
        request.has_vision && request.has_audio,
    ];
    let hard = signals.iter().filter(|s| **s).count() >= 2;
    let (tier, rule) = match request.task {
        _ if request.cross_modal && request.has_vision && request.has_audio => {
            (Tier::B70, "reasoning over sound and pictures together")
        }
        Task::ShortAnswer if request.prompt_tokens <= SHORT_PROMPT && !hard => (Tier::B7, "short answer"),
        Task::Chat if !hard && request.prompt_tokens <= SHORT_PROMPT && request.turns == 0 => (Tier::B7, "short chat"),
        _ if hard => (Tier::B34, "complex tutoring"),
        _ => (Tier::B14, "education"),
    };
    if request.latency_ms > 0 && request.latency_ms < URGENT_MS && tier > Tier::B14 {
        return (Tier::B14.min(request.budget), "first token wanted too soon for a larger tier");
    }
    if tier > request.budget { (request.budget, "limited by the budget") } else { (tier, rule) }
}

/// Picks the model: of those installed, fitting and wide enough, the one of the wanted tier, else the nearest smaller one, else the
/// nearest larger one within the budget. Between two of a tier the faster one, then the one listed first.
pub fn route(request: &Request, candidates: &[Candidate]) -> Decision {
    let (wanted, rule) = wanted(request);
    let usable = |c: &&Candidate| {
        c.installed && c.fits && c.context >= request.prompt_tokens && c.tier <= request.budget.max(Tier::Small)
    };
    // Smaller before larger, nearer before farther.
    let distance = |c: &&Candidate| {
        let (tier, goal) = (c.tier as i32, wanted as i32);
        (
            if tier > goal { 10 + tier - goal } else { goal - tier },
            if c.first_token_ms == 0 { u32::MAX } else { c.first_token_ms },
        )
    };
    match candidates.iter().filter(usable).min_by_key(distance) {
        Some(c) if c.tier == wanted => {
            Decision { tier: c.tier, wanted, model: Some(c.id.clone()), reason: format!("{rule}: {}", wanted.name()) }
        }
        Some(c) => Decision {
            tier: c.tier,
            wanted,
            model: Some(c.id.clone()),
            reason: format!("{rule}: {} wanted, {} is what is installed and fits", wanted.name(), c.tier.name()),
        },
        None => Decision { tier: Tier::Small, wanted, model: None, reason: refusal(rule, wanted, request, candidates) },
    }
}

fn refusal(rule: &str, wanted: Tier, request: &Request, candidates: &[Candidate]) -> String {
    let why = if candidates.iter().all(|c| !c.installed) {
        "no model is installed: pull one".to_owned()
    } else if candidates.iter().all(|c| !c.installed || !c.fits) {
        "no installed model fits into memory: free some or pull a smaller one".to_owned()
    } else {
        format!("no installed model within the budget ({}) holds {} tokens", request.budget.name(), request.prompt_tokens)
    };
    format!("{rule}: {} wanted; {why}", wanted.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_by_table() {
        let base = Request::default();
        let lesson = Request { task: Task::Lesson, points: 5, prompt_tokens: 400, ..base };
        let both = Request { has_vision: true, has_audio: true, ..lesson };
        #[rustfmt::skip]
        let table = [
            (Request { task: Task::ShortAnswer, prompt_tokens: 20, ..base }, Tier::B7),
            (Request { task: Task::ShortAnswer, prompt_tokens: 2000, ..base }, Tier::B14),
            (Request { prompt_tokens: 40, ..base }, Tier::B7),
            (Request { prompt_tokens: 40, turns: 3, ..base }, Tier::B14),
            (Request { prompt_tokens: 2000, turns: 12, ..base }, Tier::B34),
            (lesson, Tier::B14),
            (Request { has_audio: true, ..lesson }, Tier::B14),
            (both, Tier::B14),
            (Request { has_reference: true, ..both }, Tier::B34),
            (Request { cross_modal: true, ..both }, Tier::B70),
            (Request { cross_modal: true, has_audio: false, ..both }, Tier::B14),
            (Request { cross_modal: true, budget: Tier::B34, ..both }, Tier::B34),
            (Request { cross_modal: true, latency_ms: 120, ..both }, Tier::B14),
            (Request { cross_modal: true, latency_ms: 120, budget: Tier::B7, ..both }, Tier::B7),
            (Request { budget: Tier::Small, ..lesson }, Tier::Small),
        ];
        for (request, tier) in table {
            assert_eq!(wanted(&request).0, tier, "{request:?}");
        }
    }

    fn model(id: &str, tier: Tier) -> Candidate {
        Candidate { id: id.into(), tier, installed: true, fits: true, context: 8192, first_token_ms: 0 }
    }

    #[test]
    fn falls_back_to_the_nearest_smaller_model_that_is_there_and_fits() {
        let request = Request { task: Task::Lesson, points: 5, ..Request::default() };
        let models = |usable: &[Tier]| -> Vec<Candidate> {
            Tier::ALL.into_iter().map(|t| Candidate { installed: usable.contains(&t), ..model(t.name(), t) }).collect()
        };
        #[rustfmt::skip]
        let table: [(&[Tier], Option<&str>); 6] = [
            (&[Tier::Small, Tier::B7, Tier::B14, Tier::B34], Some("14b")),
            (&[Tier::Small, Tier::B7, Tier::B34], Some("7b")),
            (&[Tier::Small, Tier::B34], Some("small")),
            (&[Tier::B34, Tier::B70], Some("34b")),
            (&[Tier::Small], Some("small")),
            (&[], None),
        ];
        for (usable, id) in table {
            let decision = route(&request, &models(usable));
            assert_eq!(decision.model.as_deref(), id, "{decision:?}");
            assert_eq!(decision.wanted, Tier::B14);
        }
    }

    #[test]
    fn memory_context_speed_and_budget_count() {
        let request = Request { task: Task::Lesson, points: 5, prompt_tokens: 3000, ..Request::default() };
        let wide = Candidate { first_token_ms: 300, ..model("wide", Tier::B14) };
        let fast = Candidate { first_token_ms: 90, ..model("fast", Tier::B14) };
        let narrow = Candidate { context: 2048, first_token_ms: 10, ..model("narrow", Tier::B14) };
        let large = Candidate { fits: false, ..model("large", Tier::B14) };
        assert_eq!(route(&request, &[large.clone(), narrow.clone(), wide, fast]).model.as_deref(), Some("fast"));
        let none = route(&request, std::slice::from_ref(&large));
        assert!(none.model.is_none() && none.reason.contains("fits into memory"), "{none:?}");
        assert!(route(&request, &[narrow]).reason.contains("3000 tokens"));
        let poor = Request { budget: Tier::B7, ..request };
        assert!(route(&poor, &[model("m", Tier::B14)]).model.is_none());
        assert!(route(&request, &[]).reason.contains("no model is installed"));
    }

    #[test]
    fn tiers_by_parameters() {
        for (billions, tier) in [
            (0.135, Tier::Small),
            (1.7, Tier::Small),
            (4.0, Tier::B7),
            (8.2, Tier::B7),
            (14.7, Tier::B14),
            (32.8, Tier::B34),
            (70.6, Tier::B70),
        ] {
            assert_eq!(Tier::of_parameters((billions * 1e9) as u64), tier, "{billions}");
        }
        assert!(Tier::ALL.is_sorted());
    }
}
