//! From logits to a token.
//!
//! The order is llama.cpp's: penalties, top-k, top-p, min-p, temperature, draw. At temperature 0 the best token after the
//! penalties is taken, the first where several are equal.

use std::collections::{HashMap, VecDeque};

use dreamseed_kernels::random::{self, uniform};

use super::Mask;
use crate::{Error, Result};

/// How to choose among tokens. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy. 0 and up.
    pub temperature: f32,
    /// Only the best so many; 0: all.
    pub top_k: usize,
    /// Only the best that together have this probability, 0..1; 1: all.
    pub top_p: f32,
    /// Only those with at least this share of the best one's probability, 0..1; 0: all.
    pub min_p: f32,
    /// Logits of recent tokens are divided (positive) or multiplied (negative) by this; 1: not.
    pub repetition_penalty: f32,
    /// Taken from the logits of recent tokens once; 0: not.
    pub presence_penalty: f32,
    /// Taken from the logits of recent tokens for each time; 0: not.
    pub frequency_penalty: f32,
    /// How many of the last tokens are recent.
    pub penalty_window: usize,
    /// Start of the random numbers: the same seed gives the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: 64,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Whether all values are in their ranges.
    ///
    /// # Errors
    /// [`Error::Usage`] with the value and its range.
    pub fn check(&self) -> Result<()> {
        let ranges = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("top-p", self.top_p, f32::MIN_POSITIVE, 1.0),
            ("min-p", self.min_p, 0.0, 1.0),
            ("repetition penalty", self.repetition_penalty, 0.01, 100.0),
            ("presence penalty", self.presence_penalty, -100.0, 100.0),
            ("frequency penalty", self.frequency_penalty, -100.0, 100.0),
        ];
        match ranges.iter().find(|(_, v, low, high)| !(v >= low && v <= high)) {
            None => Ok(()),
            Some((name, v, low, high)) => {
                let low = if *low == f32::MIN_POSITIVE { "above 0".to_owned() } else { low.to_string() };
                Err(Error::Usage(format!("{name} is {v}; {low} to {high} is allowed")))
            }
        }
    }

    pub(super) fn penalizes(&self) -> bool {
        self.penalty_window > 0
            && (self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0)
    }
}

/// What a choice by [`Sampling`] without penalties depends on, the logits aside.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "a GPU reads it"))]
pub(super) struct Draw {
    /// How.
    pub(super) sampling: Sampling,
    /// The state of the sequence's random numbers before it.
    pub(super) random: u64,
}

/// What a row of a pass gave: its logits, or the token that was chosen by them where they are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Row<'a> {
    /// (vocab)
    Logits(&'a [f32]),
    /// `None` where no logit is a finite number; and its log-probability.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "a GPU makes it"))]
    Chosen(Option<u32>, f32),
}

/// Chooses the tokens of one sequence.
pub struct Sampler {
    sampling: Sampling,
    random: u64,
    recent: VecDeque<u32>,
    counts: HashMap<u32, u32>,   // of the recent tokens
    candidates: Vec<(f32, u32)>, // logit and token; kept between calls
}

impl Sampler {
    /// For one sequence.
    ///
    /// # Errors
    /// [`Error::Usage`] for values out of range.
    pub fn new(sampling: Sampling) -> Result<Self> {
        sampling.check()?;
        let random = sampling.seed;
        Ok(Self { sampling, random, recent: VecDeque::new(), counts: HashMap::new(), candidates: Vec::new() })
    }

    /// One that would choose the same tokens from here on.
    pub fn fork(&self) -> Self {
        let (recent, counts) = (self.recent.clone(), self.counts.clone());
        Self { sampling: self.sampling, random: self.random, recent, counts, candidates: Vec::new() }
    }

    /// Remembers a token of the sequence (prompt or chosen) for the penalties.
    pub fn accept(&mut self, token: u32) {
        if !self.sampling.penalizes() {
            return;
        }
        self.recent.push_back(token);
        *self.counts.entry(token).or_default() += 1;
        if self.recent.len() > self.sampling.penalty_window
            && let Some(old) = self.recent.pop_front()
            && let Some(count) = self.counts.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&old);
            }
        }
    }

    /// What the `ahead`-th token from here on will be chosen by. `None` where penalties change its logits.
    pub(super) fn draw(&self, ahead: usize) -> Option<Draw> {
        if self.sampling.penalizes() {
            return None;
        }
        let drawn = if self.sampling.temperature > 0.0 { (ahead as u64).wrapping_mul(random::STEP) } else { 0 };
        Some(Draw { sampling: self.sampling, random: self.random.wrapping_add(drawn) })
    }

    /// The next token: that which was chosen by what [`Sampler::draw`] said, or by the row's logits.
    pub(super) fn take(&mut self, row: Row) -> Option<u32> {
        match row {
            Row::Logits(logits) => self.sample(logits),
            Row::Chosen(token, _) => {
                if self.sampling.temperature > 0.0 {
                    uniform(&mut self.random);
                }
                token
            }
        }
    }

    /// The next token. `None` when no logit is a finite number.
    pub fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        self.choose(logits.iter().copied().zip(0..))
    }

    /// The next token among those that are allowed, as if all others had no probability. `None` when no logit of them is a finite
    /// number.
    pub fn sample_within(&mut self, logits: &[f32], allowed: &Mask) -> Option<u32> {
        self.choose(allowed.tokens().filter_map(|token| Some((*logits.get(token as usize)?, token))))
    }

    fn choose(&mut self, tokens: impl Iterator<Item = (f32, u32)>) -> Option<u32> {
        let s = self.sampling;
        if s.temperature == 0.0 && !s.penalizes() {
            return best(tokens);
        }
        self.candidates.clear();
        let candidates = &mut self.candidates;
        tokens.filter(|(logit, _)| logit.is_finite()).for_each(|c| candidates.push(c));
        // 1. penalties
        if s.penalizes() {
            for (logit, token) in &mut self.candidates {
                if let Some(&count) = self.counts.get(token) {
                    *logit = if *logit > 0.0 { *logit / s.repetition_penalty } else { *logit * s.repetition_penalty };
                    *logit -= s.presence_penalty + s.frequency_penalty * count as f32;
                }
            }
        }
        if s.temperature == 0.0 {
            return best(self.candidates.iter().copied());
        }
        // 2. top-k, best first
        let mut kept = if s.top_k == 0 { self.candidates.len() } else { s.top_k.min(self.candidates.len()) };
        let mut sorted = if s.top_k == 0 { 0 } else { self.sort_best(0, kept) };
        let max = if s.top_k == 0 { best_of(&self.candidates)?.0 } else { self.candidates.first()?.0 };
        // 3. top-p over what top-k left; sorted only as far as needed
        if s.top_p < 1.0 {
            let total: f64 = self.candidates[..kept].iter().map(|c| f64::from(c.0 - max).exp()).sum();
            let mut sum = 0.0;
            let mut at = 0;
            while at < kept && (at == 0 || sum < f64::from(s.top_p) * total) {
                if at == sorted {
                    sorted = self.sort_best(sorted, (sorted * 4).max(256).min(kept));
                }
                sum += f64::from(self.candidates[at].0 - max).exp();
                at += 1;
            }
            kept = at;
        }
        // 4. min-p
        if s.min_p > 0.0 {
            let least = max + s.min_p.ln();
            let mut at = 0;
            let head = &mut self.candidates[..kept];
            for i in 0..head.len() {
                if head[i].0 >= least {
                    head.swap(i, at);
                    at += 1;
                }
            }
            kept = at.max(1);
        }
        // 5. temperature, 6. draw
        let weight = |c: &(f32, u32)| f64::from((c.0 - max) / s.temperature).exp();
        let total: f64 = self.candidates[..kept].iter().map(weight).sum();
        let mut left = uniform(&mut self.random) * total;
        let drawn = self.candidates[..kept].iter().find(|c| {
            left -= weight(c);
            left < 0.0
        });
        drawn.or(self.candidates.first()).map(|c| c.1)
    }

    /// Sorts the best candidates, the first `done` of which are sorted, up to place `to`.
    fn sort_best(&mut self, done: usize, to: usize) -> usize {
        let descending = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        let rest = &mut self.candidates[done..];
        let n = to - done;
        if n < rest.len() && n > 0 {
            rest.select_nth_unstable_by(n - 1, descending);
        }
        rest[..n].sort_unstable_by(descending);
        to
    }
}

fn best(candidates: impl Iterator<Item = (f32, u32)>) -> Option<u32> {
    // folded, not looped over: a mask's tokens come from nested iterators, which are fast from inside only
    let better = |found: Option<(f32, u32)>, new: (f32, u32)| {
        if new.0.is_finite() && found.is_none_or(|f| new.0 > f.0) { Some(new) } else { found }
    };
    candidates.fold(None, better).map(|f| f.1)
}

fn best_of(candidates: &[(f32, u32)]) -> Option<(f32, u32)> {
    candidates.iter().copied().max_by(|a, b| a.0.total_cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Sampling = Sampling {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        penalty_window: 64,
        seed: 7,
    };

    /// How often each of `logits` is drawn, of 20,000.
    fn shares(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut sampler = Sampler::new(sampling).unwrap();
        let mut counts = vec![0.0; logits.len()];
        (0..20_000).for_each(|_| counts[sampler.sample(logits).unwrap() as usize] += 1.0 / 20_000.0);
        counts
    }

    fn softmax(logits: &[f32]) -> Vec<f64> {
        let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        logits.iter().map(|&l| f64::from(l).exp() / sum).collect()
    }

    fn near(a: &[f64], b: &[f64]) {
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.015), "{a:?} {b:?}");
    }

    const LOGITS: [f32; 5] = [0.5, 2.0, 1.0, -1.0, 1.9];

    #[test]
    fn greedy_takes_the_first_best() {
        let mut sampler = Sampler::new(Sampling::default()).unwrap();
        assert_eq!(sampler.sample(&LOGITS), Some(1));
        assert_eq!(sampler.sample(&[3.0, f32::NAN, 3.0]), Some(0));
        assert_eq!(sampler.sample(&[f32::NAN; 3]), None);
    }

    #[test]
    fn draws_follow_the_softmax() {
        near(&shares(ALL, &LOGITS), &softmax(&LOGITS));
        let cold: Vec<f32> = LOGITS.iter().map(|l| l / 0.5).collect();
        near(&shares(Sampling { temperature: 0.5, ..ALL }, &LOGITS), &softmax(&cold));
    }

    #[test]
    fn cuts_keep_the_right_tokens() {
        let kept = |s: Sampling| shares(s, &LOGITS).iter().map(|&p| p > 0.0).collect::<Vec<_>>();
        assert_eq!(kept(Sampling { top_k: 2, ..ALL }), [false, true, false, false, true]);
        // softmax: 0.087 0.389 0.143 0.019 0.352 (sum of the two best 0.741)
        assert_eq!(kept(Sampling { top_p: 0.70, ..ALL }), [false, true, false, false, true]);
        assert_eq!(kept(Sampling { top_p: 0.75, ..ALL }), [false, true, true, false, true]);
        assert_eq!(kept(Sampling { top_p: 1e-6, ..ALL }), [false, true, false, false, false]);
        assert_eq!(kept(Sampling { min_p: 0.3, ..ALL }), [false, true, true, false, true]); // 0.143 / 0.389 = 0.37
        assert_eq!(kept(Sampling { min_p: 1.0, ..ALL }), [false, true, false, false, false]);
        // top-p counts within what top-k left: 0.389 / 0.741 = 0.52
        assert_eq!(kept(Sampling { top_k: 2, top_p: 0.5, ..ALL }), [false, true, false, false, false]);
    }

    #[test]
    fn wide_top_p_equals_a_full_sort() {
        let logits: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 5000) as f32 / 1000.0).collect();
        let p = softmax(&logits);
        let mut order: Vec<usize> = (0..5000).collect();
        order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
        let before = |n: usize| order[..n].iter().map(|&i| p[i]).sum::<f64>();
        let cut = (0..5000).position(|n| before(n) >= 0.8).unwrap();
        let kept = &order[..cut];
        let drawn = shares(Sampling { top_p: 0.8, ..ALL }, &logits);
        assert!(drawn.iter().enumerate().all(|(i, &n)| n == 0.0 || kept.contains(&i)));
        assert!(kept.len() > 1024 && kept.iter().filter(|&&i| drawn[i] > 0.0).count() > kept.len() * 9 / 10);
    }

    #[test]
    fn penalties_count_in_their_window() {
        let greedy = |s: Sampling, seen: &[u32]| {
            let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..s }).unwrap();
            seen.iter().for_each(|&t| sampler.accept(t));
            sampler.sample(&LOGITS).unwrap()
        };
        assert_eq!(greedy(Sampling { repetition_penalty: 1.1, ..ALL }, &[1]), 4); // 2.0 / 1.1 = 1.82
        assert_eq!(greedy(Sampling { repetition_penalty: 1.04, ..ALL }, &[1]), 1); // 1.92
        assert_eq!(greedy(Sampling { presence_penalty: 0.5, ..ALL }, &[1, 1]), 4);
        assert_eq!(greedy(Sampling { frequency_penalty: 0.06, ..ALL }, &[1]), 1);
        assert_eq!(greedy(Sampling { frequency_penalty: 0.06, ..ALL }, &[1, 1]), 4);
        assert_eq!(greedy(Sampling { presence_penalty: 0.5, penalty_window: 2, ..ALL }, &[1, 0, 0]), 1);
    }

    #[test]
    fn within_a_mask_the_others_have_no_probability() {
        let allowed = |token: u32| !token.is_multiple_of(3);
        let mask = Mask::of((0..64).filter(|&t| allowed(t)), 64);
        let logits: Vec<f32> = (0..64).map(|i| ((i * 29) % 64) as f32 / 12.0).collect();
        let silenced: Vec<f32> = logits.iter().zip(0..).map(|(&l, t)| if allowed(t) { l } else { f32::NEG_INFINITY }).collect();
        let penalty = Sampling { repetition_penalty: 1.3, ..ALL };
        for sampling in
            [Sampling::default(), ALL, penalty, Sampling { top_k: 5, ..ALL }, Sampling { top_p: 0.5, min_p: 0.1, ..ALL }]
        {
            let (mut a, mut b) = (Sampler::new(sampling).unwrap(), Sampler::new(sampling).unwrap());
            for _ in 0..200 {
                let token = a.sample_within(&logits, &mask).unwrap();
                assert_eq!(Some(token), b.sample(&silenced), "{sampling:?}");
                assert!(allowed(token));
                a.accept(token);
                b.accept(token);
            }
        }
        assert_eq!(Sampler::new(ALL).unwrap().sample_within(&logits, &Mask::default()), None);
        assert_eq!(Sampler::new(ALL).unwrap().sample_within(&[1.0], &Mask::of([0, 70].into_iter(), 90)), Some(0));
    }

    #[test]
    fn draws_are_known_ahead() {
        let mut sampler = Sampler::new(ALL).unwrap();
        let ahead: Vec<u64> = (0..5).map(|i| sampler.draw(i).unwrap().random).collect();
        for want in ahead {
            assert_eq!(sampler.random, want);
            let mut drawn = want;
            uniform(&mut drawn);
            assert_eq!(sampler.take(Row::Chosen(Some(3), -1.0)), Some(3));
            assert_eq!(sampler.random, drawn);
        }
        let greedy = Sampler::new(Sampling { temperature: 0.0, ..ALL }).unwrap();
        assert_eq!(greedy.draw(3), greedy.draw(0), "it draws nothing");
        assert_eq!(Sampler::new(Sampling { presence_penalty: 1.0, ..ALL }).unwrap().draw(0), None);
    }

    #[test]
    fn seeds_repeat_and_ranges_hold() {
        let run = |seed| {
            let mut s = Sampler::new(Sampling { seed, ..ALL }).unwrap();
            (0..50).map(|_| s.sample(&LOGITS).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
        for bad in [
            Sampling { temperature: -1.0, ..ALL },
            Sampling { temperature: f32::NAN, ..ALL },
            Sampling { top_p: 0.0, ..ALL },
            Sampling { min_p: 1.5, ..ALL },
            Sampling { repetition_penalty: 0.0, ..ALL },
        ] {
            assert!(matches!(Sampler::new(bad), Err(Error::Usage(m)) if m.contains("is allowed")));
        }
    }
}
