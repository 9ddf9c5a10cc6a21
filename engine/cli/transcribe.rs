//! `dreamseed transcribe`: speech to text, segments as they come.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use dreamseed_models::whisper::{Options, Progress, Segment, Task, Transcript};

use super::{emit, emit_json, engine};
use crate::config::Config;
use crate::{Error, Result, media};

/// Arguments of `transcribe`.
#[derive(Clone, Debug, Args)]
pub struct TranscribeArgs {
    /// Any audio file, or a video with sound; with --stream also - for standard input (WAV, or raw 16-bit mono at 16 kHz)
    pub file: PathBuf,
    /// Whisper: an id of `dreamseed models` or a folder (default: the profile's)
    #[arg(long, value_name = "ID|DIR")]
    pub model: Option<String>,
    /// Language of the speech as ISO 639-1 code (default: found in the first 30 s)
    #[arg(long, value_name = "CODE")]
    pub language: Option<String>,
    /// Translate into English instead of transcribing
    #[arg(long)]
    pub translate: bool,
    /// Beam search with N beams instead of greedy decoding
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub beam: u8,
    /// Words and names that are likely to come up
    #[arg(long, value_name = "TEXT")]
    pub hint: Option<String>,
    /// Leave out the times of words
    #[arg(long)]
    pub no_words: bool,
    /// Listen to silence and noise too, not only to what sounds like speech
    #[arg(long)]
    pub no_vad: bool,
    /// Give words while they are spoken: a line a sentence, the one under way below; with --json partial and final words as events
    #[arg(long)]
    pub stream: bool,
    /// Take a file at the pace at which it was recorded
    #[arg(long, requires = "stream")]
    pub realtime: bool,
    /// What to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// One JSON object (same as --format json)
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
}

/// What `transcribe` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line a segment, with its times
    Text,
    /// One JSON object
    Json,
    /// SubRip subtitles
    Srt,
    /// WebVTT subtitles
    Vtt,
}

pub(super) fn run(config: Config, args: TranscribeArgs) -> Result<()> {
    let format = if args.json { Format::Json } else { args.format };
    let options = Options {
        language: args.language.clone(),
        task: if args.translate { Task::Translate } else { Task::Transcribe },
        beam_size: usize::from(args.beam),
        initial_prompt: args.hint.clone(),
        vad: config.speech.vad && !args.no_vad,
        word_timestamps: !args.no_words,
        ..Options::default()
    };
    if args.stream {
        return super::stream::run(config, &args, options, format);
    }
    let engine = engine(config)?;
    let pcm = media::open_audio(&args.file, &engine.limits())?;
    let mut failed = None;
    let mut show = |progress: Progress| {
        if let (Format::Text, Progress::Segment(s)) = (format, &progress)
            && let Err(e) = emit(&line(s))
        {
            failed = Some(e);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    let transcript = engine.transcribe(args.model.as_deref(), &pcm, &options, &mut show)?;
    match (failed, format) {
        (Some(e), _) => Err(e),
        (None, Format::Json) => emit_json(&transcript),
        (None, Format::Srt) => emit(srt(&transcript).trim_end()),
        (None, Format::Vtt) => emit(vtt(&transcript).trim_end()),
        (None, Format::Text) if transcript.segments.is_empty() => {
            Err(Error::Media { path: args.file, problem: format!("no speech in its {:.1} seconds", transcript.duration) })
        }
        (None, Format::Text) => Ok(()),
    }
}

pub(super) fn line(s: &Segment) -> String {
    format!("[{} - {}] {}", clock(s.start, '.'), clock(s.end, '.'), s.text.trim())
}

/// `00:01:02.345`
fn clock(seconds: f64, point: char) -> String {
    let ms = (seconds.max(0.0) * 1000.0).round() as u64;
    format!("{:02}:{:02}:{:02}{point}{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

fn srt(t: &Transcript) -> String {
    let cue = |(i, s): (usize, &Segment)| {
        format!("{}\n{} --> {}\n{}\n\n", i + 1, clock(s.start, ','), clock(s.end, ','), s.text.trim())
    };
    t.segments.iter().enumerate().map(cue).collect()
}

fn vtt(t: &Transcript) -> String {
    let cue = |s: &Segment| {
        // "-->" inside a cue's text would end the cue
        format!("{} --> {}\n{}\n\n", clock(s.start, '.'), clock(s.end, '.'), s.text.trim().replace("-->", "->"))
    };
    "WEBVTT\n\n".to_string() + &t.segments.iter().map(cue).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtitles_carry_times_and_text() {
        let segment = Segment { start: 3661.0, end: 3662.5, text: " And so --> on.".into(), ..Segment::default() };
        let t = Transcript { segments: vec![segment], ..Transcript::default() };
        assert_eq!(srt(&t), "1\n01:01:01,000 --> 01:01:02,500\nAnd so --> on.\n\n");
        assert_eq!(vtt(&t), "WEBVTT\n\n01:01:01.000 --> 01:01:02.500\nAnd so -> on.\n\n");
    }
}
