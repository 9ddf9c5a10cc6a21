//! One text under way: its tokens, its blocks, and to whom it goes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    time::{Duration, Instant},
};

use dreamseed_models::{
    decoder::{Picture, whole},
    tokenizer::Tokenizer,
};

use super::{
    Constraint, Finish, Options, Sampler, Speculated,
    blocks::Table,
    sampling::{Draw, Row},
    sight::is_picture,
    speculate::DraftLength,
    text::TextStream,
};
use crate::{Error, Result};

/// What a caller asks of the runner.
pub(super) struct Request {
    /// Not empty, at most `context`; rows of pictures by the pictures' numbers.
    pub(super) prompt: Vec<u32>,
    pub(super) pictures: Vec<Picture>,
    pub(super) options: Options,
    /// The beginning of `options.grammar`.
    pub(super) constraint: Option<Constraint>,
    /// Most tokens, prompt and answer together.
    pub(super) context: usize,
    pub(super) events: Sender<Result<Event>>,
    pub(super) cancelled: Cancelled,
}

/// Whether a caller wants no more: it has gone, or has been told so by another one's flag.
#[derive(Clone, Default)]
pub(super) struct Cancelled {
    own: Arc<AtomicBool>,
    others: Option<Arc<AtomicBool>>,
}

impl Cancelled {
    pub(super) fn new(others: Option<Arc<AtomicBool>>) -> Self {
        Self { own: Arc::default(), others }
    }

    pub(super) fn set(&self) {
        self.own.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.own.load(Ordering::Relaxed) || self.others.as_ref().is_some_and(|o| o.load(Ordering::Relaxed))
    }
}

/// What the runner tells a caller. After [`Event::Done`] or an error nothing follows.
pub(super) enum Event {
    /// One more token, and the text that is certain with it.
    Token { token: u32, logprob: Option<f32>, top: Vec<(u32, f32)>, text: String },
    /// The end.
    Done(Done),
}

/// How a text came about.
pub(super) struct Done {
    pub(super) finish: Finish,
    /// What was held back as the possible beginning of a stop text.
    pub(super) rest: String,
    /// Tokens of the prompt that were known already.
    pub(super) reused: usize,
    /// From the first pass to the first token.
    pub(super) prefill: Duration,
    /// From the first token to the last.
    pub(super) decode: Duration,
    /// Tokens after the first.
    pub(super) steps: usize,
    pub(super) speculated: Speculated,
}

/// A request that is being served.
pub(super) struct Sequence {
    /// The prompt, then what was generated.
    pub(super) tokens: Vec<u32>,
    pub(super) pictures: Vec<Picture>,
    together: bool, // a picture's rows go into one pass
    /// Leading tokens whose keys and values are in the store.
    pub(super) cached: usize,
    pub(super) table: Table,
    /// Guesses at what follows `tokens`, for the next pass.
    pub(super) drafts: Vec<u32>,
    pub(super) length: DraftLength,
    /// The draft model's own blocks, and how many leading tokens they hold.
    pub(super) draft_table: Table,
    pub(super) draft_cached: usize,
    pub(super) sampler: Sampler,
    pub(super) context: usize,
    /// Whether the model rotates it as a long sequence.
    pub(super) long: bool,
    constraint: Option<Constraint>,
    forced: bool, // the drafts are what the grammar forces
    prompt: usize,
    options: Options,
    text: TextStream,
    events: Sender<Result<Event>>,
    cancelled: Cancelled,
    reused: Option<usize>,
    started: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
    speculated: Speculated,
}

impl Sequence {
    /// # Errors
    /// [`Error::Usage`] for options out of range.
    pub(super) fn new(request: Request, long: bool, together: bool) -> Result<Self> {
        let Request { prompt, pictures, options, constraint, context, events, cancelled } = request;
        let mut sampler = Sampler::new(options.sampling)?;
        prompt.iter().filter(|t| !is_picture(**t)).for_each(|&t| sampler.accept(t));
        Ok(Self {
            prompt: prompt.len(),
            tokens: prompt,
            pictures,
            together,
            cached: 0,
            table: Table::default(),
            drafts: Vec::new(),
            length: DraftLength::default(),
            draft_table: Table::default(),
            draft_cached: 0,
            sampler,
            context,
            long,
            constraint,
            forced: false,
            text: TextStream::new(options.stop.clone()),
            options,
            events,
            cancelled,
            reused: None,
            started: None,
            first: None,
            last: None,
            speculated: Speculated::default(),
        })
    }

    /// Tokens that no pass has taken yet.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.cached
    }

    /// How many of the first `n` tokens may be taken as known: those before a picture that would be cut and may not be.
    pub(super) fn whole(&self, n: usize) -> usize {
        if self.together { whole(&self.pictures, 0, n) } else { n }
    }

    /// How many pending tokens a pass takes that has room for `share` of them, and for `most` where a picture needs it.
    pub(super) fn takes(&self, share: usize, most: usize) -> usize {
        let end = self.cached + share;
        let inside = |p: &&Picture| self.together && p.at < end && end < p.end();
        match self.pictures.iter().find(inside) {
            None => share,
            Some(p) if p.at > self.cached => p.at - self.cached,
            Some(p) if p.end() - self.cached <= most => p.end() - self.cached,
            Some(_) => 0,
        }
    }

    /// Whether only the last token is to be computed before the next can be chosen.
    pub(super) fn decodes(&self) -> bool {
        self.pending() == 1
    }

    /// Whether the caller went away.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.is_set()
    }

    /// Most tokens that may still come.
    pub(super) fn left(&self) -> usize {
        let written = self.tokens.len() - self.prompt;
        self.options.max_tokens.saturating_sub(written).min(self.context + 1 - self.tokens.len().min(self.context + 1))
    }

    /// It has its blocks, `known` leading tokens among them: computing begins (again, after it had to make room).
    pub(super) fn begins(&mut self, known: usize) {
        self.cached = known;
        self.reused.get_or_insert(known);
        self.started.get_or_insert_with(Instant::now);
    }

    /// Drafts for the next pass what the grammar forces, `most` tokens at most: no guess, it is right in any case.
    pub(super) fn draft_forced(&mut self, most: usize) {
        self.drafts.clear();
        if self.decodes()
            && let Some(constraint) = &mut self.constraint
        {
            self.drafts = constraint.forced();
            self.drafts.truncate(most.min(self.left().saturating_sub(1)));
        }
        self.forced = !self.drafts.is_empty();
    }

    /// Drops the drafts that the grammar does not take.
    pub(super) fn constrain_drafts(&mut self) {
        if let Some(constraint) = &mut self.constraint
            && !self.drafts.is_empty()
        {
            self.drafts.truncate(constraint.takes(&self.drafts));
        }
    }

    /// What the tokens after the last one and after each of its drafts will be chosen by, one after the other, onto `draws`; `false`,
    /// and nothing, where the logits themselves are needed.
    pub(super) fn draws(&self, draws: &mut Vec<Draw>) -> bool {
        let known = draws.len();
        if self.constraint.is_none() && self.options.top_logprobs == 0 {
            draws.extend((0..=self.drafts.len()).map_while(|ahead| self.sampler.draw(ahead)));
        }
        draws.len() > known
    }

    /// Takes what came after the last token and after each draft, and chooses tokens as far as the drafts were right and one beyond.
    /// `Some` when the text is at its end.
    ///
    /// # Errors
    /// When the logits are no finite numbers, or the grammar is too complex to go on.
    pub(super) fn choose<'r>(&mut self, rows: impl Iterator<Item = Row<'r>>, tokenizer: &Tokenizer) -> Result<Option<Finish>> {
        let drafts = std::mem::take(&mut self.drafts);
        let mut accepted = 0;
        let mut finish = None;
        for (i, row) in rows.enumerate() {
            let token = match (&mut self.constraint, row) {
                (Some(constraint), Row::Logits(logits)) => self.sampler.sample_within(logits, constraint.mask()?),
                _ => self.sampler.take(row),
            };
            finish = self.push(token.ok_or_else(not_finite)?, row, tokenizer)?;
            if finish.is_some() || drafts.get(i) != token.as_ref() {
                break;
            }
            accepted += 1;
        }
        if !drafts.is_empty() {
            self.cached += accepted;
        }
        if !drafts.is_empty() && !self.forced {
            self.speculated.drafted += drafts.len();
            self.speculated.accepted += accepted;
            self.length.learn(accepted, drafts.len());
        }
        self.drafts = drafts;
        self.drafts.clear();
        Ok(finish)
    }

    /// The text goes on by `token`; `Some` when that is its end.
    fn push(&mut self, token: u32, row: Row, tokenizer: &Tokenizer) -> Result<Option<Finish>> {
        let now = Instant::now();
        self.first.get_or_insert(now);
        if tokenizer.is_end(token) {
            return Ok(Some(Finish::Eos));
        }
        self.last = Some(now);
        let logprob = self.options.logprobs.then(|| match row {
            Row::Logits(logits) => log_probability(logits, token),
            Row::Chosen(_, logprob) => logprob,
        });
        let top = match row {
            Row::Logits(logits) => most_probable(logits, self.options.top_logprobs),
            Row::Chosen(..) => Vec::new(),
        };
        self.sampler.accept(token);
        let mut complete = false;
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token)?;
            complete = constraint.is_complete();
        }
        self.tokens.push(token);
        let stopped = self.text.push(if tokenizer.is_control(token) { &[] } else { tokenizer.bytes(token) });
        let sent = self.events.send(Ok(Event::Token { token, logprob, top, text: self.text.take_certain() }));
        Ok(match () {
            () if stopped => Some(Finish::Stop),
            () if sent.is_err() || self.is_cancelled() => Some(Finish::Cancelled),
            () if complete => Some(Finish::Eos),
            () if self.left() == 0 => Some(Finish::Length),
            () => None,
        })
    }

    /// Tells the caller that it is over.
    pub(super) fn finish(&mut self, finish: Finish) {
        let rest = if matches!(finish, Finish::Stop | Finish::Cancelled) { String::new() } else { self.text.finish() };
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from),
            _ => Duration::ZERO,
        };
        let done = Done {
            finish,
            rest,
            reused: self.reused.unwrap_or(0),
            prefill: between(self.started, self.first),
            decode: between(self.first, self.last),
            steps: (self.tokens.len() - self.prompt).saturating_sub(1),
            speculated: self.speculated,
        };
        let _ = self.events.send(Ok(Event::Done(done))); // a caller that went away needs no answer
    }

    /// Tells the caller that it failed.
    pub(super) fn fail(&mut self, error: Error) {
        let _ = self.events.send(Err(error));
    }
}

fn not_finite() -> Error {
    let problem = "the model computes no finite numbers: its weights are damaged";
    dreamseed_models::weights::Error::Unsupported(problem.into()).into()
}

/// Natural log-probability of `token` under `logits` (vocab).
pub(crate) fn log_probability(logits: &[f32], token: u32) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    (f64::from(logits[token as usize] - max) - sum.ln()) as f32
}

/// The `n` most probable tokens under `logits` (vocab) with their natural log-probabilities, the best first.
fn most_probable(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<u32> = Vec::with_capacity(n.min(logits.len()) + 1);
    for (token, logit) in (0..).zip(logits).filter(|_| n > 0) {
        let full = best.len() == n;
        if full && best.last().is_some_and(|last| logits[*last as usize] >= *logit) || logit.is_nan() {
            continue;
        }
        best.insert(best.partition_point(|b| logits[*b as usize] >= *logit), token);
        best.truncate(n);
    }
    let Some(&first) = best.first() else { return Vec::new() };
    let (most, logprob) = (logits[first as usize], log_probability(logits, first));
    best.into_iter().map(|token| (token, logits[token as usize] - most + logprob)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_probable_tokens_come_first() {
        let logits = [0.5f32, 2.0, f32::NAN, 2.0, f32::NEG_INFINITY, 3.5, -1.0];
        let clean = [0.5f32, 2.0, f32::NEG_INFINITY, 2.0, f32::NEG_INFINITY, 3.5, -1.0];
        assert_eq!(most_probable(&logits, 4).iter().map(|t| t.0).collect::<Vec<_>>(), [5, 1, 3, 0]);
        for (token, logprob) in most_probable(&clean, 3) {
            assert!((logprob - log_probability(&clean, token)).abs() < 1e-6, "{token}");
        }
        assert_eq!(most_probable(&clean, 0), []);
        assert_eq!(most_probable(&clean, 100).len(), 7);
    }

    #[test]
    fn log_probabilities_sum_to_one() {
        let logits = [1.0f32, 2.0, -3.0, 700.0];
        let sum: f32 = (0..4).map(|t| log_probability(&logits, t).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
    }
}
