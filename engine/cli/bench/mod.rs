//! `dreamseed bench`: one question a subcommand, medians of several runs, one JSON object for programs.

mod batch;
mod firewall;
#[cfg(feature = "cuda")]
mod gpu;
mod grammar;
#[cfg(feature = "cuda")]
mod graph;
mod llm;
mod net;
mod perplexity;
mod pose;
mod vision;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};
use dreamseed_models::{decoder, voice, whisper};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{emit, emit_json, engine};
use crate::config::Config;
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
    /// Tokens a second: reading a prompt and writing an answer, beside what memory and arithmetic allow
    Llm(llm::LlmArgs),
    /// Tokens a second of several texts written at once
    Batch(batch::BatchArgs),
    /// How well a model foretells a text, as llama.cpp's perplexity tool computes it
    Perplexity(perplexity::PerplexityArgs),
    /// What it costs to hold text to a schema, a regular expression or a grammar
    Grammar(grammar::GrammarArgs),
    /// Milliseconds of a decode step on a GPU, its launches one by one and replayed as graphs, and the memory that it takes
    #[cfg(feature = "cuda")]
    Graph(graph::GraphArgs),
    /// Seconds to transcribe a recording
    Speech {
        /// An id or a folder (default: the profile's)
        #[arg(long, value_name = "ID|DIR")]
        model: Option<String>,
        /// The recording
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// How many texts of a list look like attacks on a model's instructions
    Firewall(firewall::FirewallArgs),
    /// Milliseconds a run of one network file, beside what the arithmetic allows
    Net(net::NetArgs),
    /// Milliseconds a picture of a vision model, beside what the arithmetic allows
    Vision(vision::VisionArgs),
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
        What::Llm(llm) => show(args.json, &llm::run(&engine, llm, runs)?),
        What::Batch(batch) => {
            let result = batch::run(&engine, batch, runs)?;
            if args.json { emit_json(&result) } else { emit(&batch::table(&result)) }
        }
        What::Perplexity(perplexity) => show(args.json, &perplexity::run(&engine, perplexity)?),
        What::Grammar(grammar) => show(args.json, &grammar::run(&engine, grammar, runs)?),
        #[cfg(feature = "cuda")]
        What::Graph(graph) => show(args.json, &graph::run(&engine, graph, runs)?),
        What::Speech { model, file } => show(args.json, &speech(&engine, model.as_deref(), file, runs)?),
        What::Firewall(firewall) => show(args.json, &firewall::run(firewall)?),
        What::Net(net) => show(args.json, &net::run(&engine, net, runs)?),
        What::Vision(vision) => show(args.json, &vision::run(&engine, vision, runs)?),
        What::Pose { model, file } => show(args.json, &pose::run(&engine, model, file, runs)?),
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
            _ if v.is_null() => format!("{name:<24}{:>12}", "-"),
            _ => format!("{name:<24}{:>12}", v.to_string().trim_matches('"')),
        })?;
    }
    Ok(())
}

#[derive(Serialize)]
struct SpeechResult {
    seconds: f64,
    /// Finding where somebody speaks: a part of `encode_s`, measured apart.
    vad_s: f64,
    /// Detector, features and encoder.
    encode_s: f64,
    /// Language, tokens and the rest.
    decode_s: f64,
    /// Passes of the decoder that took hypotheses a token on.
    steps: usize,
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
    let options = whisper::Options { windows: engine.config().speech.windows.into(), ..whisper::Options::default() };
    let (mut seconds, mut vad, mut encode, mut decode) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut text, mut steps) = (String::new(), 0);
    for _ in 0..runs {
        let begin = Instant::now();
        std::hint::black_box(voice::speech(&pcm, &voice::Options::default()));
        vad.push(begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        let (mut stage, mut encoding) = (begin, 0.0);
        steps = 0;
        let on = &mut |progress: whisper::Progress| {
            match progress {
                // the first window's features are extracted before it
                whisper::Progress::Position { done, .. } if done > 0.0 => stage = Instant::now(),
                whisper::Progress::Encoded => encoding += stage.elapsed().as_secs_f64(),
                whisper::Progress::Step { .. } => steps += 1,
                _ => {}
            }
            ControlFlow::Continue(())
        };
        text = whisper.transcribe(engine.pool(), &pcm, &options, on)?.text;
        let all = begin.elapsed().as_secs_f64();
        seconds.push(all);
        encode.push(encoding);
        decode.push(all - encoding);
    }
    Ok(SpeechResult {
        seconds: median(seconds),
        vad_s: median(vad),
        encode_s: median(encode),
        decode_s: median(decode),
        steps,
        audio_seconds: pcm.len() as f64 / f64::from(media::SAMPLE_RATE),
        load_s,
        text,
        threads: engine.pool().threads(),
        peak_rss_mb: peak_rss_mb(),
    })
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n == 0 { f64::NAN } else { (values[(n - 1) / 2] + values[n / 2]) / 2.0 }
}

/// A bar on stderr for what takes long; hidden where stderr is no terminal.
fn bar(what: &'static str, steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(steps as u64).with_style(style).with_message(what)
}

/// Tokens were held against vocabulary and context before: what is left is a defect.
fn failed(error: decoder::Error) -> Error {
    Error::Internal(error.to_string())
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
}
