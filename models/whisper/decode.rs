//! From windows of encoded audio to tokens: greedy, beam search or sampling, with fallback to higher temperatures
//! (openai/whisper `decoding.py`, `transcribe.py`; Radford et al. 2022, section 4.5). Windows that do not depend on each other are decoded
//! side by side: a step reads the weights once for all of their hypotheses, and a window's text is the same as alone.

use std::io::Write;
use std::ops::ControlFlow;

use dreamseed_kernels::Pool;

use super::executor::Model;
use super::hypotheses::{Best, Hypotheses, Way};
use super::math;
use super::model::{Cross, DecoderState};
use super::options::Result;
use super::timestamps::{Past, Rules};
use super::tokens::Tokens;

/// Rows of prompts that run in one pass, if more than one prompt has part in it.
const PROMPT_ROWS: usize = 64;

/// How a window is decoded, after the options were checked.
pub(super) struct Search {
    pub(super) beam_size: usize,
    pub(super) temperatures: Vec<f32>,
    pub(super) timestamps: bool,
    pub(super) max_initial: u32, // steps of 20 ms
    pub(super) compression_ratio_threshold: f32,
    pub(super) logprob_threshold: f32,
    pub(super) no_speech_threshold: f32,
    pub(super) seed: u64,
}

impl Search {
    fn way(&self, temperature: f32) -> Way {
        if temperature > 0.0 { Way::Sample(temperature) } else { Way::Beam(self.beam_size) }
    }

    /// Hypotheses of a window side by side, at most.
    fn width(&self) -> usize {
        self.temperatures.iter().map(|t| self.way(*t).width()).max().unwrap_or(1)
    }

    /// Whether there is no need to try again: neither repetitive nor improbable, or silence.
    fn accepts(&self, outcome: &Outcome) -> bool {
        let repetitive = outcome.compression_ratio > self.compression_ratio_threshold;
        let improbable = outcome.avg_logprob < self.logprob_threshold;
        let silent = improbable && outcome.no_speech_prob > self.no_speech_threshold;
        silent || !(repetitive || improbable)
    }

    /// Of outcomes none of which is good: the likeliest among those that do not repeat themselves, else among all.
    fn least_bad(&self, tried: Vec<Outcome>) -> Outcome {
        let temperature = self.temperatures.last().copied().unwrap_or(0.0);
        let fine = |o: &Outcome| o.compression_ratio <= self.compression_ratio_threshold;
        let best = tried.into_iter().max_by(|a, b| fine(a).cmp(&fine(b)).then(a.avg_logprob.total_cmp(&b.avg_logprob)));
        Outcome { temperature, ..best.unwrap_or_default() }
    }
}

/// A window to decode.
pub(super) struct Ask {
    pub(super) prompt: Vec<u32>, // previous text, start, language, task
    pub(super) start: usize,     // where in the prompt the start token is
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

/// Decodes windows of one recording.
pub(super) struct Decoder<'a> {
    pub(super) model: &'a Model,
    pub(super) tokens: &'a Tokens,
    pub(super) pool: &'a Pool,
    pub(super) search: &'a Search,
    pub(super) state: DecoderState,
    work: Work,
}

/// What decoding needs memory for: kept from one recording to the next it is made once.
#[derive(Default)]
pub(super) struct Buffers {
    state: Option<DecoderState>,
    work: Work,
}

#[derive(Default)]
struct Work {
    searches: Vec<Hypotheses>, // one a window
    first: Vec<f32>,           // (windows, n_vocab): logits after the prompts
    pasts: Vec<Option<Past>>,  // (rows of logits): of the hypothesis that goes on from there
    draws: Vec<Draw>,          // (hypotheses of all windows)
    bests: Vec<Best>,          // beside `draws`
}

/// A hypothesis whose next token is sought.
#[derive(Clone, Copy)]
struct Draw {
    row: usize, // of the logits
    way: Way,
    uniform: f32,
}

/// Told after each step how many hypotheses it took on; says whether to go on.
pub(super) type OnStep<'a> = &'a mut dyn FnMut(usize) -> ControlFlow<()>;

impl<'a> Decoder<'a> {
    /// For up to `windows` side by side.
    ///
    /// # Errors
    /// Those of a GPU, as of all that follows.
    pub(super) fn new(
        model: &'a Model,
        tokens: &'a Tokens,
        pool: &'a Pool,
        search: &'a Search,
        windows: usize,
        buffers: Buffers,
    ) -> Result<Self> {
        let slots = search.width() * windows;
        let kept = buffers.state.filter(|state| state.slots() >= slots);
        let state = kept.map_or_else(|| model.decoder_state(slots), Ok)?;
        Ok(Self { model, tokens, pool, search, state, work: buffers.work })
    }

    pub(super) fn into_buffers(self) -> Buffers {
        Buffers { state: Some(self.state), work: self.work }
    }

    /// Decodes windows, each with rising temperatures until its text is neither repetitive nor improbable. `cross`: their audio, one for
    /// each of `asks`. `None` where `on_step` said stop.
    pub(super) fn windows(&mut self, cross: &[Cross], asks: &[Ask], on_step: OnStep) -> Result<Option<Vec<Outcome>>> {
        let search = self.search;
        let mut good: Vec<Option<Outcome>> = asks.iter().map(|_| None).collect();
        let mut tried: Vec<Vec<Outcome>> = asks.iter().map(|_| Vec::new()).collect();
        for temperature in &search.temperatures {
            let open: Vec<usize> = (0..asks.len()).filter(|i| good[*i].is_none()).collect();
            if open.is_empty() {
                break;
            }
            let Some(outcomes) = self.once(cross, asks, &open, *temperature, on_step)? else { return Ok(None) };
            for (i, outcome) in open.iter().zip(outcomes) {
                if search.accepts(&outcome) {
                    good[*i] = Some(outcome);
                } else {
                    tried[*i].push(outcome);
                }
            }
        }
        let outcomes = good.into_iter().zip(tried).map(|(good, tried)| good.unwrap_or_else(|| search.least_bad(tried)));
        Ok(Some(outcomes.collect()))
    }

    /// Decodes the windows `open` side by side at one temperature.
    fn once(
        &mut self,
        cross: &[Cross],
        asks: &[Ask],
        open: &[usize],
        temperature: f32,
        on_step: OnStep,
    ) -> Result<Option<Vec<Outcome>>> {
        let way = self.search.way(temperature);
        // 1. the prompts; the no-speech probability is what the start token predicts
        let no_speech = self.prompts(cross, asks, open, way.width())?;
        let n_text_ctx = self.model.config().n_text_ctx;
        self.work.searches.resize_with(open.len().max(self.work.searches.len()), Hypotheses::default);
        for (row, (i, search)) in open.iter().zip(&mut self.work.searches).enumerate() {
            let limit = (n_text_ctx / 2).min(n_text_ctx - asks[*i].prompt.len());
            search.start(way, limit, self.search.seed.wrapping_add(u64::from(temperature.to_bits())), row);
        }
        self.work.reserve(open.len() * way.width());
        // 2. tokens
        loop {
            self.choose(open.len());
            let rows = self.push(open, way.width());
            if rows == 0 {
                break;
            }
            if on_step(rows).is_break() {
                self.state.clear();
                return Ok(None);
            }
            self.model.pass(self.pool, cross, &mut self.state, None)?;
        }
        // 3. how good they are
        let outcome = |(search, no_speech_prob): (&mut Hypotheses, f32)| {
            let (tokens, logprob) = search.best();
            let text = self.tokens.decode(&tokens);
            Outcome {
                avg_logprob: logprob / (tokens.len() + 1) as f32,
                compression_ratio: compression_ratio(text.trim()),
                tokens,
                no_speech_prob,
                temperature,
            }
        };
        Ok(Some(self.work.searches.iter_mut().zip(no_speech).map(outcome).collect()))
    }

    /// Runs the prompts; afterwards the state's logits have a row for each, and the sequence of each is the first of its `width` slots.
    /// Gives the no-speech probabilities.
    fn prompts(&mut self, cross: &[Cross], asks: &[Ask], open: &[usize], width: usize) -> Result<Vec<f32>> {
        let n_vocab = self.model.config().n_vocab;
        let (mut no_speech, mut seen) = (Vec::with_capacity(open.len()), 0);
        self.state.clear();
        self.work.first.clear();
        while seen < open.len() {
            let mut rows: Vec<[usize; 2]> = Vec::new(); // of the logits after start and end of each prompt
            let mut length = 0;
            for (place, i) in open.iter().enumerate().skip(seen) {
                let Ask { prompt, start } = &asks[*i];
                if length > 0 && length + prompt.len() > PROMPT_ROWS {
                    break;
                }
                length += prompt.len();
                let first = prompt.iter().map(|token| self.state.push(*token, *i, place * width)).min().unwrap_or(0);
                let after_start = self.state.want(first + start);
                let is_end = start + 1 == prompt.len();
                rows.push([after_start, if is_end { after_start } else { self.state.want(first + prompt.len() - 1) }]);
            }
            seen += rows.len();
            self.model.pass(self.pool, cross, &mut self.state, None)?;
            for [start, end] in rows {
                let row = |i: usize| &self.state.logits[i * n_vocab..][..n_vocab];
                let of = |id: u32| (row(start)[id as usize] - math::log_sum_exp(row(start))).exp();
                no_speech.push(self.tokens.no_speech.map_or(0.0, of));
                self.work.first.extend_from_slice(row(end));
            }
        }
        self.state.logits.clear();
        self.state.logits.extend_from_slice(&self.work.first);
        Ok(no_speech)
    }

    /// Takes each hypothesis of the first `windows` searches a token on.
    fn choose(&mut self, windows: usize) {
        let (n_vocab, tokens) = (self.model.config().n_vocab, self.tokens);
        let Work { searches, pasts, draws, bests, .. } = &mut self.work;
        let searches = &mut searches[..windows];
        let logits = &mut self.state.logits;
        // 1. what may follow
        pasts.clear();
        pasts.resize(logits.len() / n_vocab, None);
        draws.clear();
        for search in searches.iter_mut().filter(|search| !search.is_done()) {
            let (way, first) = (search.way(), draws.len());
            for line in search.going_on() {
                pasts[line.row] = Some(line.past);
                draws.push(Draw { row: line.row, way, uniform: 0.0 });
            }
            draws[first..].iter_mut().for_each(|draw| draw.uniform = search.uniform());
        }
        let rules = Rules { tokens, timestamps: self.search.timestamps, max_initial: self.search.max_initial };
        self.pool.for_each_chunk(logits, n_vocab, |row, logits| {
            if let Some(past) = pasts[row] {
                rules.apply(past, logits);
            }
        });
        // 2. the likeliest, or what was drawn
        bests.resize(draws.len(), Best::default());
        self.pool.for_each_chunk(bests, 1, |i, best| {
            let Draw { row, way, uniform } = draws[i];
            best[0] = Best::of(way, &logits[row * n_vocab..][..n_vocab], uniform);
        });
        // 3. the hypotheses
        let mut bests = bests.as_slice();
        for search in searches.iter_mut().filter(|search| !search.is_done()) {
            let (own, rest) = bests.split_at(search.going_on().count());
            search.advance(own, tokens.eot, tokens.timestamp_begin());
            bests = rest;
        }
    }

    /// Puts the tokens of those that go on into the next pass; gives how many they are.
    fn push(&mut self, open: &[usize], width: usize) -> usize {
        let (state, mut rows) = (&mut self.state, 0);
        for (place, (audio, search)) in open.iter().zip(&mut self.work.searches).enumerate() {
            if search.is_done() {
                continue;
            }
            state.fork(place * width, search.parents());
            search.run(|i, token| {
                rows += 1;
                let row = state.push(token, *audio, place * width + i);
                state.want(row)
            });
        }
        rows
    }
}

impl Work {
    /// Makes room for steps of so many hypotheses.
    fn reserve(&mut self, hypotheses: usize) {
        self.pasts.clear();
        self.pasts.reserve(hypotheses);
        self.draws.clear();
        self.draws.reserve(hypotheses);
        self.bests.clear();
        self.bests.reserve(hypotheses);
    }
}

/// Bytes of a text over bytes of the same compressed: above 2.4 it repeats itself.
pub(super) fn compression_ratio(text: &str) -> f32 {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    // writing to memory cannot fail; if it did the text would count as incompressible
    let compressed = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
    compressed.map_or(1.0, |c| text.len() as f32 / c.len().max(1) as f32)
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
}
