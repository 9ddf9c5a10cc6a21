//! `dreamseed bench batch`: how the tokens a second grow with the texts that are written at once.

use std::time::Instant;

use clap::Args;
use dreamseed_kernels::{KV_BLOCK, KvStore, KvType};
use dreamseed_models::decoder::{Logits, Slice};
use serde::Serialize;

use super::{bar, failed, median, peak_rss_mb};
use crate::{Engine, Error, Result};

/// Arguments of `bench batch`.
#[derive(Clone, Debug, Args)]
pub struct BatchArgs {
    /// An id or a GGUF file (default: the profile's)
    #[arg(long, value_name = "ID|FILE")]
    model: Option<String>,
    /// Texts at once, 1 to 64 each
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16])]
    batch: Vec<usize>,
    /// Tokens written to each text
    #[arg(long, value_name = "N", default_value_t = 32)]
    r#gen: usize,
    /// Tokens in each text before that
    #[arg(long, value_name = "N", default_value_t = 128)]
    depth: usize,
}

/// A number of texts at once and what came of it.
#[derive(Serialize)]
struct Row {
    batch: usize,
    /// Of all texts together.
    tokens_per_s: f64,
    /// Against one text alone, where that was measured.
    gain: Option<f64>,
}

#[derive(Serialize)]
pub(super) struct BatchResult {
    rows: Vec<Row>,
    r#gen: usize,
    depth: usize,
    threads: usize,
    peak_rss_mb: u64,
}

pub(super) fn run(engine: &Engine, args: &BatchArgs, runs: usize) -> Result<BatchResult> {
    let (most, each) = (args.batch.iter().copied().max().unwrap_or(0), args.depth.saturating_add(args.r#gen));
    let limit = engine.config().limits.tokens;
    if args.batch.contains(&0) || most == 0 || most > 64 || args.r#gen == 0 || each.saturating_mul(most) > limit {
        let seen = format!("--batch {:?} --gen {} --depth {}", args.batch, args.r#gen, args.depth);
        return Err(Error::Usage(format!(
            "{seen}: 1 to 64 texts of at least 1 token, together at most {limit} (limits.tokens)"
        )));
    }
    let llm = engine.llm(args.model.as_deref())?;
    let (decoder, pool) = (llm.decoder()?, engine.pool());
    let token = |i: usize| (i * 7919 + 13).checked_rem(decoder.config().vocab).unwrap_or(0) as u32;
    let blocks = each.div_ceil(KV_BLOCK);
    let mut store = KvStore::new(decoder.config().kv_shape(KvType::F16));
    store.reserve(blocks * most);
    let mut workspace = decoder.workspace(512);
    let tables: Vec<Vec<u32>> = (0..most).map(|s| (0..blocks).map(|b| (s * blocks + b) as u32).collect()).collect();
    let progress = bar("texts at once", most + args.batch.len() * runs);
    // every text its own tokens before it
    for (s, table) in tables.iter().enumerate() {
        let text: Vec<u32> = (0..args.depth).map(|i| token(i + s * args.depth)).collect();
        for (i, part) in text.chunks(512).enumerate() {
            let slice =
                Slice { tokens: part, past: i * 512, context: each, blocks: table, logits: Logits::None, pictures: &[] };
            decoder.run(pool, &mut workspace, &mut store, &[slice]).map_err(failed)?;
        }
        progress.inc(1);
    }
    let mut rates = vec![Vec::new(); args.batch.len()];
    // in turn, so that a disturbance does not hit one size alone
    for _ in 0..runs {
        for (rates, &batch) in rates.iter_mut().zip(&args.batch) {
            let begin = Instant::now();
            for step in 0..args.r#gen {
                let tokens: Vec<[u32; 1]> = (0..batch).map(|s| [token(step + s)]).collect();
                let past = args.depth + step;
                let slice =
                    |(tokens, blocks)| Slice { tokens, past, context: each, blocks, logits: Logits::Last, pictures: &[] };
                let slices: Vec<Slice> = tokens.iter().map(|t| &t[..]).zip(tables.iter().map(|t| &t[..])).map(slice).collect();
                decoder.run(pool, &mut workspace, &mut store, &slices).map_err(failed)?;
            }
            rates.push((batch * args.r#gen) as f64 / begin.elapsed().as_secs_f64());
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    let rates: Vec<f64> = rates.into_iter().map(median).collect();
    let one = args.batch.iter().position(|&b| b == 1).map(|i| rates[i]);
    let row = |(&batch, tokens_per_s): (&usize, f64)| Row { batch, tokens_per_s, gain: one.map(|one| tokens_per_s / one) };
    let rows = args.batch.iter().zip(rates).map(row).collect();
    Ok(BatchResult { rows, r#gen: args.r#gen, depth: args.depth, threads: pool.threads(), peak_rss_mb: peak_rss_mb() })
}

/// A table for people.
pub(super) fn table(result: &BatchResult) -> String {
    let line = |row: &Row| {
        let gain = row.gain.map_or_else(String::new, |g| format!("{g:>8.2}"));
        format!("{:>6}{:>12.1}{:>14.1}{gain}", row.batch, row.tokens_per_s, row.tokens_per_s / row.batch as f64)
    };
    let head = format!("{:>6}{:>12}{:>14}{:>8}", "texts", "tokens/s", "each", "gain");
    std::iter::once(head).chain(result.rows.iter().map(line)).collect::<Vec<_>>().join("\n")
}
