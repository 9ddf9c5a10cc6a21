//! `dreamseed bench`: one question a subcommand, medians of several runs, one JSON object for programs.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};
use dreamseed_models::decoder::Logits;
use dreamseed_models::pose::Options as PoseOptions;
use dreamseed_models::whisper;
use serde::Serialize;

use super::{emit, emit_json, engine, open_pictures};
use crate::config::Config;
use crate::extract::view;
use crate::{Engine, Error, Result, media};

/// Arguments of `bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// What to measure
    #[command(subcommand)]
    pub what: What,
    /// Measured runs; the median counts
    #[arg(long, global = true, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// One JSON object
    #[arg(long, global = true)]
    pub json: bool,
}

/// The questions.
#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// Tokens a second: reading a prompt and writing an answer
    Llm {
        /// An id or a GGUF file (default: the profile's)
        #[arg(long, value_name = "ID|FILE")]
        model: Option<String>,
        /// Tokens read in one pass
        #[arg(long, value_name = "N", default_value_t = 512)]
        prompt: usize,
        /// Tokens written
        #[arg(long, value_name = "N", default_value_t = 128)]
        r#gen: usize,
        /// Tokens in the cache before either begins
        #[arg(long, value_name = "N", default_value_t = 0)]
        depth: usize,
    },
    /// Seconds to transcribe a recording
    Speech {
        /// An id or a folder (default: the profile's)
        #[arg(long, value_name = "ID|DIR")]
        model: Option<String>,
        /// The recording
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Milliseconds a frame: detector, landmarks, tracking
    Pose {
        /// lite, full, heavy or a file
        #[arg(long, value_name = "ID|FILE", default_value = "full")]
        model: String,
        /// A video, picture or folder
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
}

pub(super) fn run(config: Config, args: BenchArgs) -> Result<()> {
    let engine = engine(config)?;
    let runs = usize::from(args.runs);
    match &args.what {
        What::Llm { model, prompt, r#gen, depth } => {
            show(args.json, &llm(&engine, model.as_deref(), [*prompt, *r#gen, *depth], runs)?)
        }
        What::Speech { model, file } => show(args.json, &speech(&engine, model.as_deref(), file, runs)?),
        What::Pose { model, file } => show(args.json, &pose(&engine, model, file, runs)?),
    }
}

/// A line a figure for people, one object for programs.
fn show(json: bool, result: &impl Serialize) -> Result<()> {
    if json {
        return emit_json(result);
    }
    let value = serde_json::to_value(result).map_err(|e| Error::Internal(e.to_string()))?;
    for (name, v) in value.as_object().into_iter().flatten() {
        emit(&match v.as_f64() {
            Some(x) if v.is_f64() => format!("{name:<24}{x:>12.3}"),
            _ => format!("{name:<24}{:>12}", v.to_string().trim_matches('"')),
        })?;
    }
    Ok(())
}

#[derive(Serialize)]
struct LlmResult {
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    bytes_per_token: usize,
    /// Of weights, while decoding: bytes_per_token * decode_tokens_per_s.
    weights_gb_s: f64,
    load_s: f64,
    logits_hash: String,
    threads: usize,
    peak_rss_mb: u64,
}

fn llm(engine: &Engine, model: Option<&str>, [prompt, tokens, depth]: [usize; 3], runs: usize) -> Result<LlmResult> {
    let limit = engine.config().limits.tokens;
    if prompt == 0 || tokens == 0 || prompt.saturating_add(tokens).saturating_add(depth) > limit {
        let seen = format!("--prompt {prompt} --gen {tokens} --depth {depth}");
        return Err(Error::Usage(format!("{seen}: at least 1 read and 1 written, together at most {limit} (limits.tokens)")));
    }
    let begin = Instant::now();
    let llm = engine.llm(model)?;
    let load_s = begin.elapsed().as_secs_f64();
    let (decoder, pool) = (llm.decoder(), engine.pool());
    let vocab = decoder.config().vocab;
    // a fixed walk through the vocabulary: speed does not depend on the tokens, and the hash can be compared
    let token = |i: usize| ((i * 7919 + 13) % vocab) as u32;
    let text: Vec<u32> = (0..depth + prompt).map(token).collect();
    let mut state = decoder.new_state(depth + prompt + tokens);
    let failed = |e: dreamseed_models::decoder::Error| Error::Internal(e.to_string());
    if depth > 0 {
        decoder.forward(pool, &mut state, &text[..depth], Logits::Last).map_err(failed)?;
    }
    let (mut prefill, mut decode, mut hash) = (Vec::new(), Vec::new(), 0);
    for _ in 0..runs {
        state.truncate(depth);
        let begin = Instant::now();
        let logits = decoder.forward(pool, &mut state, &text[depth..], Logits::Last).map_err(failed)?;
        prefill.push(prompt as f64 / begin.elapsed().as_secs_f64());
        hash = fnv(logits);
        // written tokens follow the depth alone, as in other engines' benches
        state.truncate(depth);
        let begin = Instant::now();
        for i in 0..tokens {
            decoder.forward(pool, &mut state, &[token(i)], Logits::Last).map_err(failed)?;
        }
        decode.push(tokens as f64 / begin.elapsed().as_secs_f64());
    }
    let (bytes_per_token, decode) = (decoder.weights().bytes_per_token(), median(decode));
    Ok(LlmResult {
        prefill_tokens_per_s: median(prefill),
        decode_tokens_per_s: decode,
        bytes_per_token,
        weights_gb_s: bytes_per_token as f64 * decode / 1e9,
        load_s,
        logits_hash: format!("{hash:016x}"),
        threads: pool.threads(),
        peak_rss_mb: peak_rss_mb(),
    })
}

#[derive(Serialize)]
struct SpeechResult {
    seconds: f64,
    audio_seconds: f64,
    load_s: f64,
    text: String,
    threads: usize,
    peak_rss_mb: u64,
}

fn speech(engine: &Engine, model: Option<&str>, file: &std::path::Path, runs: usize) -> Result<SpeechResult> {
    let pcm = media::open_audio(file, &engine.limits())?;
    let begin = Instant::now();
    let whisper = engine.speech(model)?;
    let load_s = begin.elapsed().as_secs_f64();
    let (mut seconds, mut text) = (Vec::new(), String::new());
    for _ in 0..runs {
        let begin = Instant::now();
        let on = &mut |_: whisper::Progress| ControlFlow::Continue(());
        text = whisper.transcribe(engine.pool(), &pcm, &whisper::Options::default(), on)?.text;
        seconds.push(begin.elapsed().as_secs_f64());
    }
    Ok(SpeechResult {
        seconds: median(seconds),
        audio_seconds: pcm.len() as f64 / f64::from(media::SAMPLE_RATE),
        load_s,
        text,
        threads: engine.pool().threads(),
        peak_rss_mb: peak_rss_mb(),
    })
}

#[derive(Serialize)]
struct PoseResult {
    frames: usize,
    /// Each frame on its own: detector and landmarks.
    static_ms: f64,
    /// Tracked: landmarks, the detector only when a person is lost.
    pipeline_ms: f64,
    people: usize,
    threads: usize,
    peak_rss_mb: u64,
}

fn pose(engine: &Engine, model: &str, file: &std::path::Path, runs: usize) -> Result<PoseResult> {
    let net = engine.pose(Some(model))?;
    let frames = open_pictures(engine, file, None)?;
    if frames.is_empty() {
        return Err(Error::Media { path: file.into(), problem: "no pictures in it".into() });
    }
    let mut people = 0;
    let mut measure = |smooth: bool| -> Result<f64> {
        let mut times = Vec::new();
        for _ in 0..runs {
            let mut tracker = net.tracker(PoseOptions { smooth, ..PoseOptions::default() });
            let begin = Instant::now();
            people = 0;
            for frame in &frames {
                people += tracker.track(engine.pool(), &view(frame)?, frame.t)?.len();
            }
            times.push(begin.elapsed().as_secs_f64() * 1e3 / frames.len() as f64);
        }
        Ok(median(times))
    };
    let (static_ms, pipeline_ms) = (measure(false)?, measure(true)?);
    let threads = engine.pool().threads();
    Ok(PoseResult { frames: frames.len(), static_ms, pipeline_ms, people, threads, peak_rss_mb: peak_rss_mb() })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n == 0 { f64::NAN } else { (values[(n - 1) / 2] + values[n / 2]) / 2.0 }
}

/// FNV-1a over the bits: two runs agree or they do not.
fn fnv(values: &[f32]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    values.iter().flat_map(|v| v.to_bits().to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, step)
}

/// The most memory that the process has had, MiB; 0 where the system does not tell.
fn peak_rss_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).map_or(0, |kb| kb / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_none() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn one_bit_changes_the_hash() {
        assert_ne!(fnv(&[1.0, 2.0]), fnv(&[1.0, f32::from_bits(2.0f32.to_bits() ^ 1)]));
    }
}
