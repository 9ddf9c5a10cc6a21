//! `dreamseed bench grammar`: what it costs to hold a text to a grammar.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::super::follow::FollowArgs;
use super::median;
use crate::llm::{Generation, Grammar, Llm, Options, Sampling, Session, raw};
use crate::{Engine, Error, Result};

/// Arguments of `bench grammar`.
#[derive(Clone, Debug, Args)]
pub struct GrammarArgs {
    /// An id or a GGUF file (default: the profile's)
    #[arg(long, value_name = "ID|FILE")]
    pub model: Option<String>,
    /// What the text follows.
    #[command(flatten)]
    pub follow: FollowArgs,
    /// What the text goes on from
    #[arg(long, value_name = "TEXT", default_value = "Here is a record with all fields filled in:\n")]
    pub prompt: String,
    /// Tokens written
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub r#gen: usize,
    /// 0: always the likeliest token; higher: more varied
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f32,
}

#[derive(Serialize)]
pub(super) struct GrammarResult {
    /// To sort the model's vocabulary, once a model.
    vocabulary_ms: f64,
    /// To compile the grammar, with the first mask.
    compile_ms: f64,
    /// To find out which tokens may come next.
    mask_us_median: f64,
    mask_us_p99: f64,
    mask_us_max: f64,
    /// To go on by a token.
    accept_us_median: f64,
    /// Of one text.
    tokens: usize,
    /// Those of them that the grammar forced.
    forced: usize,
    complete: bool,
    decode_tokens_per_s: f64,
    decode_tokens_per_s_free: f64,
    /// Constrained over free, the median of pairs.
    decode_ratio: f64,
    threads: usize,
}

pub(super) fn run(engine: &Engine, args: &GrammarArgs, runs: usize) -> Result<GrammarResult> {
    let Some(grammar) = args.follow.grammar()? else {
        return Err(Error::Usage("what to follow? give --json-schema, --regex or --grammar".into()));
    };
    let limit = engine.config().limits.tokens;
    if args.r#gen < 2 || args.r#gen > limit {
        return Err(Error::Usage(format!("--gen {}: 2 to {limit} tokens are allowed (limits.tokens)", args.r#gen)));
    }
    let sampling = |seed| Sampling { temperature: args.temperature, seed, ..Sampling::default() };
    sampling(0).check()?;
    let llm = engine.llm(args.model.as_deref())?;
    let begin = Instant::now();
    llm.constrain(&Grammar::Json)?;
    let vocabulary_ms = begin.elapsed().as_secs_f64() * 1e3;

    // 1. the speed of writing, constrained and free in turn
    let mut session = Session::new(llm.clone(), None)?;
    let mut write = |grammar: Option<&Grammar>, seed| {
        let options =
            Options { max_tokens: args.r#gen, sampling: sampling(seed), grammar: grammar.cloned(), ..Options::default() };
        raw(&mut session, &args.prompt, &options, |_| ControlFlow::Continue(()))
    };
    write(None, 0)?; // reads the prompt once
    let (mut pairs, mut steps, mut last) = (Vec::new(), Steps::default(), None);
    for seed in 0..runs as u64 {
        let (held, free) = (write(Some(&grammar), seed)?, write(None, seed)?);
        pairs.push((held.decode_tokens_per_s, free.decode_tokens_per_s));
        // 2. the same text once more, without the model
        steps.replay(&llm, &grammar, &held)?;
        last = Some(held);
    }
    let (held, free) = (pairs.iter().map(|p| p.0).collect(), pairs.iter().map(|p| p.1).collect());
    let ratios = pairs.iter().filter(|p| p.0 > 0.0 && p.1 > 0.0).map(|p| p.0 / p.1);
    steps.masks.sort_by(f64::total_cmp);
    let worst = steps.masks.len().saturating_sub(1);
    let part = |share: f64| steps.masks.get(((steps.masks.len() as f64 * share) as usize).min(worst)).copied().unwrap_or(0.0);
    let last = last.as_ref();
    Ok(GrammarResult {
        vocabulary_ms,
        compile_ms: median(steps.compile),
        mask_us_median: part(0.5),
        mask_us_p99: part(0.99),
        mask_us_max: part(1.0),
        accept_us_median: median(steps.accepts),
        tokens: last.map_or(0, |g| g.tokens.len()),
        forced: steps.forced,
        complete: last.is_some_and(|g| g.finish == crate::llm::Finish::Eos),
        decode_tokens_per_s: median(held),
        decode_tokens_per_s_free: median(free),
        decode_ratio: median(ratios.collect()),
        threads: engine.pool().threads(),
    })
}

/// What a grammar cost along some texts.
#[derive(Default)]
struct Steps {
    compile: Vec<f64>, // ms, one a text
    masks: Vec<f64>,   // us, one a token
    accepts: Vec<f64>, // us, one a token
    forced: usize,     // of the last text
}

impl Steps {
    fn replay(&mut self, llm: &Arc<Llm>, grammar: &Grammar, text: &Generation) -> Result<()> {
        let us = |since: Instant| since.elapsed().as_secs_f64() * 1e6;
        let begin = Instant::now();
        let mut constraint = llm.constrain(grammar)?;
        self.compile.push(us(begin) / 1e3);
        self.forced = 0;
        for (i, &token) in text.tokens.iter().enumerate() {
            if i > 0 {
                let begin = Instant::now(); // the first mask was part of compiling
                constraint.mask()?;
                self.masks.push(us(begin));
            }
            self.forced += usize::from(constraint.mask()?.tokens().nth(1).is_none());
            let begin = Instant::now();
            constraint.accept(token)?;
            self.accepts.push(us(begin));
        }
        Ok(())
    }
}
