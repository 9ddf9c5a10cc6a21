//! Speculation: guesses at the next tokens, which the model then checks in one pass.
//!
//! It changes no text. Each token is chosen from the model's own logits with the sequence's own random numbers, exactly as without
//! guesses; a guess only says which logits to compute ahead. As a token's logits do not depend on the tokens beside it, the text is
//! the same bit for bit, greedy or sampled, and so is its distribution. A draft model guesses with the same random numbers as the
//! choice will use: where the two models agree about a token, they agree about the draw.

use std::{sync::Arc, time::Duration};

use dreamseed_kernels::Pool;
use dreamseed_models::decoder::{Logits, Slice};

use super::{
    blocks::Blocks,
    executor::{Passes, Short},
    model::Core,
    sampling::Draw,
    sequence::Sequence,
};
use crate::{Error, Result};

/// Most guesses in a pass.
pub(super) const MOST: usize = 16;
/// Tokens that have to agree for what followed them to be a guess, the longest first.
const NGRAMS: [usize; 3] = [4, 3, 2];
/// Weight of a new observation in an average.
const FRESH: f64 = 0.1;
/// Every so many steps without guesses two are tried, so that a change shows.
const PROBE: u32 = 24;

/// What followed the last time that the text ended like this: up to `most` tokens (prompt look-up, Saxena 2023).
pub(super) fn look_up(tokens: &[u32], most: usize, guesses: &mut Vec<u32>) {
    guesses.clear();
    for n in NGRAMS {
        let Some(end) = tokens.len().checked_sub(n).filter(|&e| e > 0) else { continue };
        let found = (0..end).rev().find(|&at| tokens[at..at + n] == tokens[end..]);
        if let Some(at) = found {
            guesses.extend(tokens[at + n..].iter().take(most));
            return;
        }
    }
}

/// How many guesses are worth their cost, learnt from how many were right.
#[derive(Clone, Copy, Debug)]
pub(super) struct DraftLength {
    right: f64, // share of guesses that were right, of those that were reached
    without: u32,
}

impl Default for DraftLength {
    fn default() -> Self {
        Self { right: 0.6, without: 0 }
    }
}

/// What a pass costs, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// With one token a sequence.
    pub(super) pass: f64,
    /// Each token more.
    pub(super) token: f64,
    /// Each guess of a draft model.
    pub(super) draft: f64,
}

impl Cost {
    /// A measured pass over `rows` tokens.
    pub(super) fn learn(&mut self, rows: usize, sequences: usize, time: Duration) {
        let seconds = time.as_secs_f64();
        if rows == sequences {
            average(&mut self.pass, seconds);
        } else if self.pass > 0.0 {
            average(&mut self.token, ((seconds - self.pass) / (rows - sequences) as f64).max(0.0));
        }
    }

    /// A measured round of the draft model.
    pub(super) fn learn_draft(&mut self, guesses: usize, time: Duration) {
        if guesses > 0 {
            average(&mut self.draft, time.as_secs_f64() / guesses as f64);
        }
    }
}

fn average(mean: &mut f64, value: f64) {
    *mean = if *mean == 0.0 { value } else { *mean + FRESH * (value - *mean) };
}

impl DraftLength {
    /// How many to guess now: the number with the most tokens a second (Leviathan et al. 2023, equation 1, over the cost).
    pub(super) fn choose(&mut self, cost: &Cost) -> usize {
        let rate = |n: usize| {
            let a = self.right.min(0.99);
            let tokens = (1.0 - a.powi(n as i32 + 1)) / (1.0 - a);
            tokens / (cost.pass + n as f64 * (cost.token + cost.draft)).max(1e-9)
        };
        let best = (0..=MOST).max_by(|&a, &b| rate(a).total_cmp(&rate(b)).then(b.cmp(&a))).unwrap_or(0);
        if best > 0 {
            self.without = 0;
            return best;
        }
        self.without += 1;
        if self.without.is_multiple_of(PROBE) { 2 } else { 0 }
    }

    /// Of `guessed` tokens the first `right` were right; what follows a wrong one says nothing.
    pub(super) fn learn(&mut self, right: usize, guessed: usize) {
        for i in 0..guessed.min(right + 1) {
            self.right += FRESH * (f64::from(u8::from(i < right)) - self.right);
        }
    }
}

/// A small model that guesses for the large one.
pub(super) struct Drafter {
    core: Arc<Core>,
    passes: Passes,
}

impl Drafter {
    /// `passes`: of the core's executor, keys and values of everyone it guesses for.
    pub(super) fn new(core: Arc<Core>, passes: Passes) -> Self {
        Self { core, passes }
    }

    /// Allows `blocks` blocks of keys and values in all.
    ///
    /// # Errors
    /// [`Short`]; what there was stays.
    pub(super) fn allow(&mut self, blocks: usize) -> Result<(), Short> {
        self.passes.allow(blocks)
    }

    /// Fills the drafts of each sequence with as many guesses as `lengths` says; how many in all. All sequences guess together, a token
    /// each in a pass; before its first guess a sequence runs what was chosen since its last.
    ///
    /// # Errors
    /// [`Error::Internal`] when the model refuses tokens that the large one has, [`Error::Device`] when a GPU fails.
    pub(super) fn guess(
        &mut self,
        pool: &Pool,
        blocks: &mut Blocks,
        sequences: &mut [Sequence],
        lengths: &[usize],
    ) -> Result<usize> {
        let mut guessing = Vec::new();
        for (i, (s, &length)) in sequences.iter_mut().zip(lengths).enumerate().filter(|(_, (_, length))| **length > 0) {
            if blocks.grow(&mut s.draft_table, s.tokens.len() + length) {
                s.draft_cached = s.draft_cached.min(s.tokens.len() - 1); // the last token's logits are wanted in any case
                guessing.push((i, s.sampler.fork()));
            }
        }
        self.passes.reserve(blocks.touched());
        let mut guesses = 0;
        while !guessing.is_empty() {
            let (mut slices, mut left) = (Vec::new(), self.passes.rows());
            for (i, _) in &guessing {
                let s = &sequences[*i];
                let pending = match s.draft_cached.checked_sub(s.tokens.len()) {
                    Some(drafted) => &s.drafts[drafted..],
                    None => &s.tokens[s.draft_cached..],
                };
                let taken = pending.len().min(left);
                left -= taken;
                let logits = if taken == pending.len() { Logits::Last } else { Logits::None };
                let (tokens, past, blocks) = (&pending[..taken], s.draft_cached, s.draft_table.blocks());
                slices.push(Slice { tokens, past, context: s.context, blocks, logits, pictures: &[] });
            }
            let ran: Vec<(usize, bool)> = slices.iter().map(|s| (s.tokens.len(), s.logits == Logits::Last)).collect();
            let last = slices.iter().zip(&guessing).filter(|(s, _)| s.logits == Logits::Last && !s.tokens.is_empty());
            let draws: Option<Vec<Draw>> = last.map(|(_, (_, sampler))| sampler.draw(0)).collect();
            slices.retain(|s| !s.tokens.is_empty());
            self.passes.run(pool, &slices, draws.as_deref())?;
            let mut rows = self.passes.rows_wanted();
            let mut ran = ran.into_iter();
            guessing.retain_mut(|(i, sampler)| {
                let (s, (tokens, last)) = (&mut sequences[*i], ran.next().unwrap_or_default());
                s.draft_cached += tokens;
                if !last {
                    return true;
                }
                let Some(token) = rows.next().and_then(|row| sampler.take(row)) else { return false };
                s.drafts.push(token);
                guesses += 1;
                sampler.accept(token);
                s.drafts.len() < lengths[*i] && !self.core.tokenizer.is_end(token)
            });
        }
        Ok(guesses)
    }

    /// Whether it writes the same tokens as `other`.
    ///
    /// # Errors
    /// [`Error::Usage`] with the first difference.
    pub(super) fn check(draft: &Core, other: &Core) -> Result<()> {
        let (a, b) = (&draft.tokenizer, &other.tokenizer);
        let differs =
            |id: u32| a.bytes(id) != b.bytes(id) || a.is_control(id) != b.is_control(id) || a.is_end(id) != b.is_end(id);
        let different = (0..a.len().min(b.len()) as u32).find(|&id| differs(id));
        let problem = match different {
            Some(id) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                format!("token {id} is {:?} there and {:?} here", text(a.bytes(id)), text(b.bytes(id)))
            }
            None if a.len() != b.len() => format!("it has {} tokens, this one {}", a.len(), b.len()),
            None => return Ok(()),
        };
        Err(Error::Usage(format!("the draft model cannot guess for this model: {problem}; choose one of the same family")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_up_the_latest_longest_match() {
        let guess = |tokens: &[u32], most| {
            let mut out = vec![9];
            look_up(tokens, most, &mut out);
            out
        };
        assert_eq!(guess(&[1, 2, 3, 7, 8, 1, 2, 3], 2), [7, 8]);
        assert_eq!(guess(&[1, 2, 5, 1, 2, 6, 1, 2], 4), [6, 1, 2]);
        assert_eq!(guess(&[1, 2, 3, 4, 5, 2, 3, 6, 1, 2, 3], 1), [4], "three agree before two do");
        assert_eq!(guess(&[4, 4, 4, 4], 3), [4], "a match may overlap");
        assert!(guess(&[1, 2, 3], 4).is_empty() && guess(&[], 4).is_empty() && guess(&[1, 2, 1, 2], 0).is_empty());
    }

    #[test]
    fn the_number_of_guesses_follows_how_many_are_right_and_what_they_cost() {
        let cheap = Cost { pass: 10e-3, token: 0.2e-3, draft: 0.0 };
        let dear = Cost { pass: 10e-3, token: 9e-3, draft: 3e-3 };
        let mut length = DraftLength::default();
        (0..200).for_each(|_| length.learn(8, 8));
        assert_eq!(length.choose(&cheap), MOST);
        (0..50).for_each(|_| length.learn(0, 4));
        assert!(length.choose(&cheap) <= 1);
        // never worth it: none, but for a probe now and then
        let chosen: Vec<usize> = (0..2 * PROBE).map(|_| length.choose(&dear)).collect();
        assert_eq!((chosen.iter().filter(|&&n| n == 2).count(), chosen.iter().sum::<usize>()), (2, 4));
    }

    #[test]
    fn costs_are_told_apart() {
        let mut cost = Cost::default();
        for _ in 0..100 {
            cost.learn(3, 3, Duration::from_millis(10));
            cost.learn(9, 3, Duration::from_millis(13));
            cost.learn_draft(4, Duration::from_millis(8));
        }
        assert!((cost.pass - 10e-3).abs() < 1e-6 && (cost.token - 0.5e-3).abs() < 1e-6 && (cost.draft - 2e-3).abs() < 1e-6);
    }
}
