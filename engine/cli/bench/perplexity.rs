//! `dreamseed bench perplexity`: how well a model foretells a text. Windows, beginning marks and the part of each window that
//! counts are those of llama.cpp's perplexity tool (tools/perplexity), so that the figures compare.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use dreamseed_models::decoder::{Logits, State};
use dreamseed_models::tokenizer::Specials;
use dreamseed_models::weights;
use serde::Serialize;

use super::{bar, failed};
use crate::llm::{Llm, log_probability};
use crate::{Engine, Error, Result};

/// Arguments of `bench perplexity`.
#[derive(Clone, Debug, Args)]
pub struct PerplexityArgs {
    /// An id or a GGUF file (default: the profile's)
    #[arg(long, value_name = "ID|FILE")]
    model: Option<String>,
    /// The text, UTF-8
    #[arg(long, value_name = "TEXT")]
    file: PathBuf,
    /// Tokens of a window; the second half of each counts
    #[arg(long, value_name = "N", default_value_t = 512)]
    context: usize,
    /// Windows begin this many tokens apart, are half as many longer, and their last so many count; 0: one after the other
    #[arg(long, value_name = "N", default_value_t = 0)]
    stride: usize,
    /// Windows at most (default: all of the text)
    #[arg(long, value_name = "N")]
    chunks: Option<usize>,
}

/// What was computed.
#[derive(Serialize)]
pub(super) struct PerplexityResult {
    /// `exp` of the mean negative log-probability of the tokens that count.
    perplexity: f64,
    /// Of the mean, by its normal approximation, times the perplexity.
    standard_error: f64,
    scored_tokens: usize,
    text_tokens: usize,
    chunks: usize,
    context: usize,
    stride: usize,
    seconds: f64,
    tokens_per_s: f64,
    threads: usize,
}

/// Most bytes of logits that are held at once.
const HELD: usize = 64 << 20;

pub(super) fn run(engine: &Engine, args: &PerplexityArgs) -> Result<PerplexityResult> {
    let windows = Windows::new(args.context, args.stride, engine.config().limits.tokens)?;
    let bytes = weights::read_whole(&args.file, weights::TEXT);
    let bytes = bytes.map_err(|source| Error::Io { path: args.file.clone(), source })?;
    let unusable = |problem: String| Error::Media { path: args.file.clone(), problem };
    let text = String::from_utf8(bytes).map_err(|e| unusable(format!("{e}; the text must be UTF-8")))?;
    let llm = engine.llm(args.model.as_deref())?;
    let tokens = llm.tokenizer().encode_prompt(&text, Specials::Text, str::to_owned)?;
    if tokens.len() < 2 * windows.width {
        let (seen, wanted) = (tokens.len(), 2 * windows.width);
        return Err(unusable(format!(
            "{seen} tokens; windows of {} need {wanted}: a longer text, a smaller --context",
            windows.width
        )));
    }
    let all: Vec<Window> = windows.over(tokens.len()).take(args.chunks.unwrap_or(usize::MAX).max(1)).collect();
    // windows that stand alone begin as a text does
    let bos = llm.tokenizer().prompt_bos().filter(|_| args.stride == 0);
    let (mut state, mut losses) = (llm.decoder()?.new_state(windows.width), Vec::new());
    let (begin, bar) = (Instant::now(), bar("windows", all.len()));
    for window in &all {
        let mut part = tokens[window.tokens.clone()].to_vec();
        if let Some(bos) = bos {
            part[0] = bos;
        }
        score(&llm, engine, &mut state, &part, window.scored.clone(), &mut losses)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let seconds = begin.elapsed().as_secs_f64();
    let (perplexity, standard_error) = summary(&losses);
    if !perplexity.is_finite() {
        return Err(unusable(format!("the model gives it a perplexity of {perplexity}; its weights are damaged")));
    }
    Ok(PerplexityResult {
        perplexity,
        standard_error,
        scored_tokens: losses.len(),
        text_tokens: tokens.len(),
        chunks: all.len(),
        context: args.context,
        stride: args.stride,
        seconds,
        tokens_per_s: (all.len() * windows.width) as f64 / seconds,
        threads: engine.pool().threads(),
    })
}

/// Negative log-probabilities of tokens `scored` of a window, onto `losses`.
fn score(
    llm: &Llm,
    engine: &Engine,
    state: &mut State,
    tokens: &[u32],
    scored: Range<usize>,
    losses: &mut Vec<f64>,
) -> Result<()> {
    let (decoder, pool, vocab) = (llm.decoder()?, engine.pool(), llm.config().vocab);
    let first = scored.start - 1; // its logits foretell the first that counts
    state.truncate(0);
    if first > 0 {
        decoder.forward(pool, state, &tokens[..first], Logits::None).map_err(failed)?;
    }
    let rows = (HELD / (vocab * size_of::<f32>())).clamp(1, 512);
    for at in (first..scored.end - 1).step_by(rows) {
        let part = &tokens[at..(at + rows).min(scored.end - 1)];
        let logits = decoder.forward(pool, state, part, Logits::All).map_err(failed)?;
        let from = losses.len();
        losses.resize(from + part.len(), 0.0);
        pool.for_each_chunk(&mut losses[from..], 1, |row, loss| {
            loss[0] = -f64::from(log_probability(&logits[row * vocab..][..vocab], tokens[at + row + 1]));
        });
    }
    Ok(())
}

/// Perplexity and its standard error.
fn summary(losses: &[f64]) -> (f64, f64) {
    let n = losses.len() as f64;
    let mean = losses.iter().sum::<f64>() / n;
    let variance = losses.iter().map(|l| l * l).sum::<f64>() / n - mean * mean;
    (mean.exp(), (variance.max(0.0) / (n - 1.0).max(1.0)).sqrt() * mean.exp())
}

/// How a text is cut.
struct Windows {
    width: usize,
    step: usize,
    count: usize, // tokens at the end of each window that count
    stride: usize,
}

/// One piece of the text, and which of its tokens count.
#[derive(Debug, PartialEq)]
struct Window {
    tokens: Range<usize>,
    scored: Range<usize>, // within the window, from 1 on
}

impl Windows {
    fn new(context: usize, stride: usize, limit: usize) -> Result<Self> {
        let width = context.saturating_add(stride / 2);
        if context < 4 || width > limit {
            let seen = format!("--context {context} --stride {stride}: windows of {width} tokens");
            return Err(Error::Usage(format!("{seen}; 4 to {limit} (limits.tokens) are allowed")));
        }
        if stride >= width {
            return Err(Error::Usage(format!("--stride {stride} with windows of {width} tokens; it must be below that")));
        }
        let (step, count) = if stride == 0 { (width, width - width / 2 - 1) } else { (stride, stride) };
        Ok(Self { width, step, count, stride })
    }

    /// The windows of a text of `tokens` tokens.
    fn over(&self, tokens: usize) -> impl Iterator<Item = Window> {
        let windows = match self.stride {
            0 => tokens / self.width,
            stride => tokens.saturating_sub(self.width).div_ceil(stride),
        };
        let (width, step, count) = (self.width, self.step, self.count);
        (0..windows).map(move |i| Window { tokens: i * step..i * step + width, scored: width - count..width })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(context: usize, stride: usize, tokens: usize) -> Vec<Window> {
        Windows::new(context, stride, 1 << 20).unwrap().over(tokens).collect()
    }

    #[test]
    fn windows_that_stand_alone_count_their_second_half() {
        // 8 tokens: 0 to 3 are context, the logits after 4 to 6 foretell 5 to 7
        let seen = windows(8, 0, 31);
        assert_eq!(seen.iter().map(|w| w.tokens.start).collect::<Vec<_>>(), [0, 8, 16]);
        assert!(seen.iter().all(|w| w.tokens.len() == 8 && w.scored == (5..8)));
        assert_eq!(windows(9, 0, 9)[0].scored, 5..9);
    }

    #[test]
    fn strided_windows_count_each_token_once() {
        for (context, stride, tokens) in [(8, 4, 40), (8, 3, 41), (10, 9, 50), (4, 1, 12)] {
            let seen = windows(context, stride, tokens);
            let counted: Vec<usize> = seen.iter().flat_map(|w| w.scored.clone().map(|i| w.tokens.start + i)).collect();
            let first = context + stride / 2 - stride;
            assert_eq!(counted, (first..first + counted.len()).collect::<Vec<_>>());
            assert!(counted.len() + first <= tokens && counted.len() + first + stride >= tokens);
        }
    }

    #[test]
    fn impossible_windows_are_refused_with_the_numbers() {
        let refusal = |context, stride| Windows::new(context, stride, 1000).err().map(|e| e.to_string()).unwrap();
        assert!(refusal(3, 0).contains("windows of 3 tokens; 4 to 1000"));
        assert!(refusal(900, 400).contains("windows of 1100 tokens"));
        assert!(refusal(8, 20).contains("--stride 20 with windows of 18 tokens"));
        assert!(refusal(usize::MAX, usize::MAX).contains("limits.tokens"));
    }

    #[test]
    fn a_fair_coin_has_a_perplexity_of_two() {
        let (perplexity, error) = summary(&[2f64.ln(); 10]);
        assert!((perplexity - 2.0).abs() < 1e-12 && error < 1e-6);
        let (perplexity, error) = summary(&[0.0, 4f64.ln()]);
        assert!((perplexity - 2.0).abs() < 1e-12);
        assert!((error - 2.0 * 2f64.ln()).abs() < 1e-12); // deviation ln 2, over the root of n - 1 = 1
    }
}
