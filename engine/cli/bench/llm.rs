//! `dreamseed bench llm`: speed of prefill and decode, and how near they come to what the machine can do.

use std::time::Instant;

use clap::Args;
use dreamseed_kernels::{KV_BLOCK, KvType, Pool, cpu::peak, simd};
use dreamseed_models::decoder::{Config, Decoder, Logits, State};
use serde::Serialize;

use super::{bar, failed, median, peak_rss_mb};
use crate::config::Cache;
use crate::{Engine, Error, Result};

/// Arguments of `bench llm`.
#[derive(Clone, Debug, Args)]
pub struct LlmArgs {
    /// An id or a GGUF file (default: the profile's)
    #[arg(long, value_name = "ID|FILE")]
    model: Option<String>,
    /// Tokens read in one pass; 0 measures no prefill
    #[arg(long, value_name = "N", default_value_t = 512)]
    prompt: usize,
    /// Tokens written; 0 measures no decode
    #[arg(long, value_name = "N", default_value_t = 128)]
    r#gen: usize,
    /// Tokens in the cache before either begins
    #[arg(long, value_name = "N", default_value_t = 0)]
    depth: usize,
    /// How keys and values are stored (default: f16; on a GPU as llm.cache says)
    #[arg(long, value_enum)]
    cache: Option<Cache>,
}

/// What was measured. A part that was not asked for is null.
#[derive(Serialize)]
pub(super) struct LlmResult {
    prefill_tokens_per_s: Option<f64>,
    decode_tokens_per_s: Option<f64>,
    /// Weights that a decoded token reads, as they lie packed in memory.
    bytes_per_token: usize,
    /// Keys and values that it reads beside them, on average over the tokens written.
    kv_bytes_per_token: usize,
    /// What decoding reads a second: both of these, times the rate.
    decode_gb_s: Option<f64>,
    /// What all threads read a second when they do nothing else, beside each run.
    bandwidth_gb_s: f64,
    /// The former over the latter, run by run; above 1 only where the weights fit a cache.
    decode_of_bandwidth: Option<f64>,
    /// Integer operations of the prompt's matrix products a second, a multiply-add counting as two.
    prefill_gops: Option<f64>,
    /// What all threads compute a second when they do nothing else.
    int8_gops: f64,
    prefill_of_peak: Option<f64>,
    load_s: f64,
    /// Of the logits after the prompt, then of those after the last token written.
    logits_hash: String,
    prompt: usize,
    r#gen: usize,
    depth: usize,
    cache: Cache,
    threads: usize,
    simd: String,
    peak_rss_mb: u64,
}

/// Of a model where it runs.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Measured {
    Cpu(LlmResult),
    #[cfg(feature = "cuda")]
    Gpu(super::gpu::GpuResult),
}

pub(super) fn run(engine: &Engine, args: &LlmArgs, runs: usize) -> Result<Measured> {
    let LlmArgs { prompt, r#gen, depth, cache, .. } = *args;
    let (limit, total) = (engine.config().limits.tokens, prompt.saturating_add(r#gen).saturating_add(depth));
    if prompt.max(r#gen) == 0 || total > limit {
        let seen = format!("--prompt {prompt} --gen {gen} --depth {depth}");
        return Err(Error::Usage(format!("{seen}: at least 1 read or written, together at most {limit} (limits.tokens)")));
    }
    let begin = Instant::now();
    let llm = engine.llm(args.model.as_deref())?;
    let load_s = begin.elapsed().as_secs_f64();
    #[cfg(feature = "cuda")]
    if let Some(devices) = llm.devices() {
        let own = engine.config().llm.cache;
        if cache.is_some_and(|wanted| wanted != own) {
            return Err(Error::Usage(
                "--cache: on a GPU keys and values are as llm.cache says; set that, or choose --device cpu".into(),
            ));
        }
        let mix = crate::plan::shape::Mix::F16; // of a folder's weights: nothing tells
        let shape = crate::plan::shape::Shape::open(&engine.llm_file(args.model.as_deref())?, mix)?;
        let sizes = super::gpu::Sizes { prompt, r#gen, depth };
        return Ok(Measured::Gpu(super::gpu::run(&llm, &devices, (&shape, own), (load_s, sizes, runs))?));
    }
    let cache = cache.unwrap_or(Cache::F16);
    let (decoder, pool) = (llm.decoder()?, engine.pool());
    let mut bench = Bench { decoder, pool, state: decoder.new_state_in(cache.into(), total), hash: FNV };
    bench.state.reserve(total);
    bench.fill(depth)?;
    let (weights, kv) = (decoder.weights().bytes_per_token(), kv_bytes(decoder.config(), cache.into(), depth, r#gen));
    let operations = 2.0 * decoder.weights().integer_products(prompt as u64, 1) as f64 / prompt.max(1) as f64; // a token
    let (mut prefill, mut decode) = (Rates::new(operations), Rates::new((weights + kv) as f64));
    let (mut peak_rss, mut reader) = (0, None);
    for _ in 0..runs {
        bench.hash = FNV;
        let (read, written) = (bench.prefill(depth, prompt)?, bench.decode(depth, r#gen)?);
        if reader.is_none() {
            peak_rss = peak_rss_mb(); // before the yardstick takes memory of its own
        }
        // The yardsticks are measured beside each run: what a shared machine gives changes from second to second.
        prefill.add(read, peak::int8_gops(pool));
        decode.add(written, reader.get_or_insert_with(|| peak::Reader::new(pool)).gb_s(pool, 5));
    }
    Ok(Measured::Cpu(LlmResult {
        prefill_tokens_per_s: known(prefill.tokens),
        decode_tokens_per_s: known(decode.tokens),
        bytes_per_token: weights,
        kv_bytes_per_token: kv,
        decode_gb_s: known(decode.used),
        bandwidth_gb_s: median(decode.limit),
        decode_of_bandwidth: known(decode.share),
        prefill_gops: known(prefill.used),
        int8_gops: median(prefill.limit),
        prefill_of_peak: known(prefill.share),
        load_s,
        logits_hash: format!("{:016x}", bench.hash),
        prompt,
        r#gen,
        depth,
        cache,
        threads: pool.threads(),
        simd: format!("{:?}", simd::level()).to_lowercase(),
        peak_rss_mb: peak_rss,
    }))
}

/// One kind of work in several runs, each with what the machine could do at most just then.
struct Rates {
    each: f64,        // bytes or operations of a token
    tokens: Vec<f64>, // a second
    used: Vec<f64>,   // billions of bytes or operations a second
    limit: Vec<f64>,  // the same when nothing else is done
    share: Vec<f64>,  // the former of the latter
}

impl Rates {
    fn new(each: f64) -> Self {
        Self { each, tokens: Vec::new(), used: Vec::new(), limit: Vec::new(), share: Vec::new() }
    }

    fn add(&mut self, tokens: Option<f64>, limit: f64) {
        self.limit.push(limit);
        if let Some(rate) = tokens {
            self.tokens.push(rate);
            self.used.push(rate * self.each / 1e9);
            self.share.push(rate * self.each / 1e9 / limit);
        }
    }
}

/// The median; none of what was not measured.
fn known(values: Vec<f64>) -> Option<f64> {
    Some(median(values)).filter(|m| m.is_finite())
}

struct Bench<'a> {
    decoder: &'a Decoder,
    pool: &'a Pool,
    state: State,
    hash: u64,
}

impl Bench<'_> {
    /// A fixed walk through the vocabulary: speed does not depend on the tokens, and the hash can be compared.
    fn token(&self, i: usize) -> u32 {
        (i * 7919 + 13).checked_rem(self.decoder.config().vocab).unwrap_or(0) as u32
    }

    /// Fills the cache up to `depth`; without one, runs a few tokens so that no first touch of memory is measured.
    fn fill(&mut self, depth: usize) -> Result<()> {
        let wanted = if depth > 0 { depth } else { 8.min(self.state.context()) };
        let text: Vec<u32> = (0..wanted).map(|i| self.token(i)).collect();
        let bar = bar("filling the cache", wanted);
        for part in text.chunks(512) {
            self.decoder.forward(self.pool, &mut self.state, part, Logits::None).map_err(failed)?;
            bar.inc(part.len() as u64);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Tokens a second of one pass over `prompt` tokens behind `depth` others.
    fn prefill(&mut self, depth: usize, prompt: usize) -> Result<Option<f64>> {
        if prompt == 0 {
            return Ok(None);
        }
        self.state.truncate(depth);
        let text: Vec<u32> = (depth..depth + prompt).map(|i| self.token(i)).collect();
        let begin = Instant::now();
        let logits = self.decoder.forward(self.pool, &mut self.state, &text, Logits::Last).map_err(failed)?;
        let seconds = begin.elapsed().as_secs_f64();
        self.hash = fnv(self.hash, logits);
        Ok(Some(prompt as f64 / seconds))
    }

    /// Tokens a second of `count` steps of one token, the first behind `depth` others: the prompt is not among them, as in
    /// other engines' benches.
    fn decode(&mut self, depth: usize, count: usize) -> Result<Option<f64>> {
        if count == 0 {
            return Ok(None);
        }
        self.state.truncate(depth);
        let text: Vec<u32> = (0..count).map(|i| self.token(i)).collect();
        let begin = Instant::now();
        for token in text {
            self.decoder.forward(self.pool, &mut self.state, &[token], Logits::Last).map_err(failed)?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        self.hash = fnv(self.hash, self.state.logits());
        Ok(Some(count as f64 / seconds))
    }
}

/// Bytes of keys and values that a step of decode reads, on average over `count` steps behind `depth` positions.
fn kv_bytes(config: &Config, kind: KvType, depth: usize, count: usize) -> usize {
    let seen = |layer: usize, step: usize| {
        let all = depth + step + 1;
        config.local(layer).map_or(all, |local| all.min(local.window))
    };
    let positions: usize = (0..count).flat_map(|step| (0..config.layers).map(move |layer| seen(layer, step))).sum();
    let shape = config.kv_shape(kind);
    (positions as u128 * shape.block_bytes() as u128 / (shape.layers * KV_BLOCK * count.max(1)) as u128) as usize
}

const FNV: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a over the bits, on from `hash`: two runs agree or they do not.
fn fnv(hash: u64, values: &[f32]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    values.iter().flat_map(|v| v.to_bits().to_le_bytes()).fold(hash, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_changes_the_hash_and_so_does_the_order() {
        assert_ne!(fnv(FNV, &[1.0, 2.0]), fnv(FNV, &[1.0, f32::from_bits(2.0f32.to_bits() ^ 1)]));
        assert_ne!(fnv(fnv(FNV, &[1.0]), &[2.0]), fnv(fnv(FNV, &[2.0]), &[1.0]));
        assert_eq!(fnv(fnv(FNV, &[1.0]), &[2.0]), fnv(FNV, &[1.0, 2.0]));
    }

    #[test]
    fn the_cache_is_read_up_to_its_depth_and_the_window() {
        let json = r#"{"model_type": "gemma3_text", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 8,
            "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 64, "sliding_window": 5, "sliding_window_pattern": 3}"#;
        let config = Config::from_json(json.as_bytes()).unwrap();
        let bytes = |depth, count| kv_bytes(&config, KvType::F16, depth, count);
        let position = 2 * 16 * 2; // keys and values of one head of 16, two bytes each
        assert_eq!(bytes(0, 1), 3 * position);
        assert_eq!(bytes(9, 1), (5 + 5 + 10) * position); // two layers are local
        assert_eq!(bytes(2, 3), ((3 + 4 + 5) * 3 * position) / 3);
        assert_eq!(bytes(2, 0), 0);
        let half = kv_bytes(&config, KvType::Q8_0, 9, 1);
        assert!(half > bytes(9, 1) / 2 && half < bytes(9, 1) * 2 / 3, "{half}");
    }
}
