//! From a window of encoded audio to tokens: greedy, beam search or sampling, with fallback to higher temperatures
//! (openai/whisper `decoding.py`, `transcribe.py`; Radford et al. 2022, section 4.5).

use std::io::Write;

use dreamseed_kernels::Pool;

use super::math;
use super::model::{Cross, DecoderState, Model, Run};
use super::timestamps::Rules;
use super::tokens::Tokens;

/// Samples drawn side by side at a temperature above zero.
pub(super) const BEST_OF: usize = 5;

/// How a window is decoded, after the options were checked.
pub(super) struct Search {
    pub(super) beam_size: usize,
    pub(super) temperatures: Vec<f32>,
    pub(super) timestamps: bool,
    pub(super) max_initial: u32, // steps of 20 ms
    pub(super) compression_ratio_threshold: f32,
    pub(super) logprob_threshold: f32,
    pub(super) no_speech_threshold: f32,
}

/// What a window was decoded to.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) tokens: Vec<u32>, // without the end
    pub(super) avg_logprob: f32,
    pub(super) no_speech_prob: f32,
    pub(super) compression_ratio: f32,
    pub(super) temperature: f32,
}

/// Decodes windows of one recording: holds the buffers of all steps.
pub(super) struct Decoder<'a> {
    pub(super) model: &'a Model,
    pub(super) tokens: &'a Tokens,
    pub(super) pool: &'a Pool,
    pub(super) search: &'a Search,
    pub(super) state: DecoderState,
    pub(super) rng: Rng,
    logits: Vec<f32>, // (sequences, n_vocab)
    rows: Vec<f32>,   // (2, n_state)
}

/// One line of tokens under way.
#[derive(Clone, Default)]
struct Hypothesis {
    tokens: Vec<u32>,
    logprob: f32, // sum, the end's included where it ended
    ended: bool,
}

impl Hypothesis {
    fn grown(&self, token: u32, logprob: f32, eot: u32) -> Self {
        let mut next = Self { tokens: self.tokens.clone(), logprob: self.logprob + logprob, ended: token == eot };
        if !next.ended {
            next.tokens.push(token);
        }
        next
    }

    /// Mean log-probability a token: what hypotheses of different length are ranked by.
    fn score(&self) -> f32 {
        self.logprob / self.tokens.len().max(1) as f32
    }
}

impl<'a> Decoder<'a> {
    pub(super) fn new(model: &'a Model, tokens: &'a Tokens, pool: &'a Pool, search: &'a Search, seed: u64) -> Self {
        let sampling = search.temperatures.iter().any(|t| *t > 0.0);
        let sequences = search.beam_size.max(if sampling { BEST_OF } else { 1 });
        let state = model.decoder_state(sequences);
        Self { model, tokens, pool, search, state, rng: Rng(seed), logits: Vec::new(), rows: Vec::new() }
    }

    /// Decodes with rising temperatures until the text is neither repetitive nor improbable.
    /// `prompt`: previous text, start, language, task; `start`: where in it the start token is.
    pub(super) fn window(&mut self, cross: &Cross, prompt: &[u32], start: usize) -> Outcome {
        let search = self.search;
        let mut tried: Vec<Outcome> = Vec::new();
        for temperature in &search.temperatures {
            let outcome = self.once(cross, prompt, start, *temperature);
            let repetitive = outcome.compression_ratio > search.compression_ratio_threshold;
            let improbable = outcome.avg_logprob < search.logprob_threshold;
            let silent = improbable && outcome.no_speech_prob > search.no_speech_threshold;
            if silent || !(repetitive || improbable) {
                return outcome;
            }
            tried.push(outcome);
        }
        // none is good: the likeliest among those that do not repeat themselves, else among all
        let temperature = search.temperatures.last().copied().unwrap_or(0.0);
        let fine = |o: &Outcome| o.compression_ratio <= search.compression_ratio_threshold;
        let best = tried.into_iter().max_by(|a, b| fine(a).cmp(&fine(b)).then(a.avg_logprob.total_cmp(&b.avg_logprob)));
        Outcome { temperature, ..best.unwrap_or_default() }
    }

    fn once(&mut self, cross: &Cross, prompt: &[u32], start: usize, temperature: f32) -> Outcome {
        let (d, n_vocab) = (self.model.config.n_state, self.model.config.n_vocab);
        // 1. the prompt; the no-speech probability is what the start token predicts
        self.state.clear();
        self.model.decode(self.pool, Run { cross, tokens: prompt, sequences: 1 }, &mut self.state, None);
        self.rows.clear();
        self.rows.extend_from_slice(&self.state.x[start * d..][..d]);
        self.rows.extend_from_slice(&self.state.x[(prompt.len() - 1) * d..]);
        self.model.logits(self.pool, &self.rows, &mut self.logits);
        let no_speech_prob = self.tokens.no_speech.map_or(0.0, |id| {
            let logits = &self.logits[..n_vocab];
            (logits[id as usize] - math::log_sum_exp(logits)).exp()
        });
        self.logits.copy_within(n_vocab.., 0);
        self.logits.truncate(n_vocab);
        // 2. tokens
        let limit = (self.model.config.n_text_ctx / 2).min(self.model.config.n_text_ctx - prompt.len());
        let best = match temperature {
            t if t > 0.0 => self.sample(cross, limit, t),
            _ if self.search.beam_size > 1 => self.beam(cross, limit),
            _ => self.greedy(cross, limit),
        };
        // 3. how good they are
        let text = self.tokens.decode(&best.tokens);
        Outcome {
            avg_logprob: best.logprob / (best.tokens.len() + 1) as f32,
            compression_ratio: compression_ratio(text.trim()),
            tokens: best.tokens,
            no_speech_prob,
            temperature,
        }
    }

    fn greedy(&mut self, cross: &Cross, limit: usize) -> Hypothesis {
        let mut line = Hypothesis { tokens: Vec::with_capacity(limit), ..Default::default() };
        for step in 0..limit {
            self.filter(0, &line.tokens);
            let (token, top) = argmax(&self.logits);
            line.logprob += top - math::log_sum_exp(&self.logits);
            if token == self.tokens.eot {
                break;
            }
            line.tokens.push(token);
            if step + 1 < limit {
                self.step(cross, &[token]);
            }
        }
        line
    }

    /// Independent samples side by side; the likeliest on the average wins.
    fn sample(&mut self, cross: &Cross, limit: usize, temperature: f32) -> Hypothesis {
        let (n_vocab, eot) = (self.model.config.n_vocab, self.tokens.eot);
        let mut lines = vec![Hypothesis::default(); BEST_OF];
        self.logits.resize(BEST_OF * n_vocab, 0.0);
        (1..BEST_OF).for_each(|i| self.logits.copy_within(..n_vocab, i * n_vocab));
        self.state.reorder(&[0; BEST_OF]);
        let mut scaled = vec![0.0; n_vocab];
        for step in 0..limit {
            let mut next = [eot; BEST_OF];
            for (i, line) in lines.iter_mut().enumerate().filter(|(_, line)| !line.ended) {
                self.filter(i, &line.tokens);
                let logits = &self.logits[i * n_vocab..][..n_vocab];
                scaled.copy_from_slice(logits);
                math::softmax(&mut scaled, 1.0 / temperature);
                let token = self.rng.pick(&scaled);
                next[i] = token;
                *line = line.grown(token, logits[token as usize] - math::log_sum_exp(logits), eot);
            }
            if step + 1 == limit || lines.iter().all(|line| line.ended) {
                break;
            }
            self.step(cross, &next);
        }
        best(lines)
    }

    /// Beam search with patience 1: ends when as many hypotheses ended as there are beams.
    fn beam(&mut self, cross: &Cross, limit: usize) -> Hypothesis {
        let (n_vocab, eot, width) = (self.model.config.n_vocab, self.tokens.eot, self.search.beam_size);
        let mut beams = vec![Hypothesis::default()];
        let mut ended: Vec<Hypothesis> = Vec::new();
        for step in 0..limit {
            // 1. one more candidate a beam than there are beams: at most one of them ends
            let mut candidates: Vec<(f32, usize, u32, f32)> = Vec::with_capacity(beams.len() * (width + 1));
            for (i, beam) in beams.iter().enumerate() {
                self.filter(i, &beam.tokens);
                let logits = &self.logits[i * n_vocab..][..n_vocab];
                let sum = math::log_sum_exp(logits);
                candidates.extend(top(logits, width + 1).into_iter().map(|(x, id)| (beam.logprob + x - sum, i, id, x - sum)));
            }
            candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
            // 2. the best go on or end
            let (mut next, mut parents) = (Vec::with_capacity(width), Vec::with_capacity(width));
            for (_, parent, token, logprob) in candidates {
                let line = beams[parent].grown(token, logprob, eot);
                if line.ended {
                    ended.push(line);
                } else {
                    next.push(line);
                    parents.push(parent);
                }
                if next.len() == width {
                    break;
                }
            }
            beams = next;
            if ended.len() >= width || beams.is_empty() || step + 1 == limit {
                break;
            }
            self.state.reorder(&parents);
            let tokens: Vec<u32> = beams.iter().map(|b| b.tokens.last().copied().unwrap_or(eot)).collect();
            self.step(cross, &tokens);
        }
        ended.truncate(width);
        if ended.len() < width {
            beams.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
            ended.extend(beams.into_iter().take(width - ended.len()));
        }
        best(ended)
    }

    /// Appends a token to each sequence; afterwards `logits` has a row for each.
    fn step(&mut self, cross: &Cross, tokens: &[u32]) {
        self.model.decode(self.pool, Run { cross, tokens, sequences: tokens.len() }, &mut self.state, None);
        self.model.logits(self.pool, &self.state.x, &mut self.logits);
    }

    fn filter(&mut self, row: usize, sampled: &[u32]) {
        let n_vocab = self.model.config.n_vocab;
        let rules = Rules { tokens: self.tokens, timestamps: self.search.timestamps, max_initial: self.search.max_initial };
        rules.apply(sampled, &mut self.logits[row * n_vocab..][..n_vocab]);
    }
}

fn best(lines: Vec<Hypothesis>) -> Hypothesis {
    // the first of equals, so that the order of the search decides
    lines.into_iter().rev().max_by(|a, b| a.score().total_cmp(&b.score())).unwrap_or_default()
}

/// The first of the largest values.
fn argmax(logits: &[f32]) -> (u32, f32) {
    let max = math::max(logits);
    (logits.iter().position(|x| *x == max).unwrap_or(0) as u32, max)
}

/// The `count` largest values that are not negative infinity, in descending order.
fn top(logits: &[f32], count: usize) -> Vec<(f32, u32)> {
    let mut out: Vec<(f32, u32)> = Vec::with_capacity(count + 1);
    let mut floor = f32::NEG_INFINITY;
    for (x, id) in logits.iter().zip(0..).filter(|(x, _)| **x > f32::NEG_INFINITY) {
        if *x > floor || out.len() < count {
            let at = out.partition_point(|(y, _)| y >= x);
            out.insert(at, (*x, id));
            out.truncate(count);
            floor = if out.len() == count { out[count - 1].0 } else { f32::NEG_INFINITY };
        }
    }
    out
}

/// Bytes of a text over bytes of the same compressed: above 2.4 it repeats itself.
pub(super) fn compression_ratio(text: &str) -> f32 {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    // writing to memory cannot fail; if it did the text would count as incompressible
    let compressed = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
    compressed.map_or(1.0, |c| text.len() as f32 / c.len().max(1) as f32)
}

/// SplitMix64 (Steele et al. 2014): the same seed gives the same text.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    /// Uniform in [0, 1).
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32
    }

    fn pick(&mut self, probabilities: &[f32]) -> u32 {
        let mut left = f64::from(self.uniform()) * probabilities.iter().map(|p| f64::from(*p)).sum::<f64>();
        let mut last = 0;
        // what was banned has a probability of some 1e-38, for lack of a zero among exponentials
        for (p, id) in probabilities.iter().zip(0..).filter(|(p, _)| **p > 1e-30) {
            left -= f64::from(*p);
            last = id;
            if left < 0.0 {
                break;
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_compresses() {
        assert!(compression_ratio(&"I am sorry. ".repeat(20)) > 2.4);
        assert!(compression_ratio("And so my fellow Americans, ask not what your country can do for you.") < 1.5);
        assert_eq!(compression_ratio(""), 0.0);
    }

    #[test]
    fn top_is_sorted_and_skips_what_is_banned() {
        let logits = [1.0, f32::NEG_INFINITY, 3.0, 3.0, -2.0];
        assert_eq!(top(&logits, 3), [(3.0, 2), (3.0, 3), (1.0, 0)]);
        assert_eq!(top(&logits, 9).len(), 4);
        assert_eq!(argmax(&logits), (2, 3.0));
    }

    #[test]
    fn samples_follow_the_probabilities_and_the_seed() {
        let probabilities = [0.5, 0.0, 0.25, 0.25];
        let mut counts = [0; 4];
        let mut rng = Rng(7);
        (0..10_000).for_each(|_| counts[rng.pick(&probabilities) as usize] += 1);
        assert!(counts[1] == 0 && (4800..5200).contains(&counts[0]) && (2300..2700).contains(&counts[3]), "{counts:?}");
        let draw = |seed| {
            (0..8)
                .map({
                    let mut r = Rng(seed);
                    move |_| r.pick(&[0.25; 4])
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn the_first_of_equal_lines_wins() {
        let line = |tokens: &[u32], logprob| Hypothesis { tokens: tokens.to_vec(), logprob, ended: true };
        assert_eq!(best(vec![line(&[1], -1.0), line(&[2, 3], -2.0), line(&[4], -3.0)]).tokens, [1]);
        assert_eq!(best(vec![line(&[1], -2.0), line(&[2, 3], -3.0)]).tokens, [2, 3]);
        assert!(best(Vec::new()).tokens.is_empty());
    }
}
