//! `dreamseed transcribe`: speech to text, segments as they come.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use dreamseed_models::whisper::{self, Kind, Options, Progress, Pronunciation, Segment, Task};

use super::{emit, emit_json, engine};
use crate::config::{Config, Windows};
use crate::subtitles::{clock, srt, vtt};
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
    /// What should be said: how well each word of it was pronounced, what was left out, added and changed (text or JSON)
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["translate", "no_words"])]
    pub expect: Option<String>,
    /// Leave out the times of words
    #[arg(long)]
    pub no_words: bool,
    /// Listen to silence and noise too, not only to what sounds like speech
    #[arg(long)]
    pub no_vad: bool,
    /// Windows of a long recording: side by side between silences, in turn with the text before as prompt, or cut where it is softest
    /// (default: as configured, together)
    #[arg(long, value_name = "HOW", value_enum)]
    pub windows: Option<Windows>,
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
    if args.expect.is_some() && (args.stream || matches!(format, Format::Srt | Format::Vtt)) {
        return Err(Error::Usage(
            "--expect is told as text or as JSON of a whole recording; leave out --format and --stream".into(),
        ));
    }
    let known = args.expect.as_deref().and_then(whisper::language_of).map(str::to_owned);
    let options = Options {
        language: args.language.clone().or(known),
        task: if args.translate { Task::Translate } else { Task::Transcribe },
        beam_size: usize::from(args.beam),
        initial_prompt: args.hint.clone(),
        vad: config.speech.vad && !args.no_vad,
        windows: args.windows.unwrap_or(config.speech.windows).into(),
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
        if let (Format::Text, None, Progress::Segment(s)) = (format, &args.expect, &progress)
            && let Err(e) = emit(&line(s))
        {
            failed = Some(e);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    let transcript = engine.transcribe(args.model.as_deref(), &pcm, &options, &mut show)?;
    if let Some(text) = &args.expect {
        let mut go_on = |_: Progress| ControlFlow::Continue(());
        let pronunciation = engine.pronunciation(args.model.as_deref(), &pcm, text, &transcript, &mut go_on)?;
        return match format {
            Format::Json => emit_json(&serde_json::json!({ "transcript": transcript, "pronunciation": pronunciation })),
            _ => emit(pronounced(&pronunciation, is_coloured()).trim_end()),
        };
    }
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

fn is_coloured() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// The text with marks, a line for each word that was not as expected, and the whole in numbers.
fn pronounced(p: &Pronunciation, coloured: bool) -> String {
    let mut text = String::new();
    let mut lines = String::new();
    for word in &p.words {
        let (expected, heard) = (word.expected.as_deref().unwrap_or(""), word.heard.as_deref().unwrap_or(""));
        let (marked, colour) = match word.kind {
            Kind::Correct => (expected.to_owned(), ""),
            Kind::Unclear => (format!("{expected}?"), "33"),
            Kind::Omitted => (format!("[{expected}]"), "31"),
            Kind::Inserted => (format!("+{heard}"), "36"),
            Kind::Substituted => (format!("{expected}/{heard}"), "35"),
        };
        match coloured && !colour.is_empty() {
            true => text.push_str(&format!("\x1b[{colour}m{marked}\x1b[0m ")),
            false => text.push_str(&format!("{marked} ")),
        }
        if word.kind != Kind::Correct {
            let goodness = word.goodness.map_or_else(String::new, |g| {
                format!("  gop {:.1}  ln P {:.1}  by the audio {:+.1}", g.word_gop, g.logprob, g.audio_gain)
            });
            let (from, to) = (clock(word.start, '.'), clock(word.end, '.'));
            lines.push_str(&format!("[{from} - {to}] {:<11} {marked}{goodness}\n", word.kind.name()));
        }
    }
    let gop = p.word_gop.map_or_else(String::new, |g| format!(", mean word-level goodness {g:.1}"));
    format!("{}\n{lines}{:.0}% of the words as expected{gop}\n", text.trim_end(), 100.0 * p.accuracy)
}

pub(super) fn line(s: &Segment) -> String {
    format!("[{} - {}] {}", clock(s.start, '.'), clock(s.end, '.'), s.text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_show_what_became_of_each_word() {
        let word = |kind, expected: Option<&str>, heard: Option<&str>| whisper::Pronounced {
            kind,
            expected: expected.map(str::to_owned),
            heard: heard.map(str::to_owned),
            start: 1.0,
            end: 1.5,
            goodness: None,
        };
        let words = vec![
            word(Kind::Correct, Some("ask"), Some("ask")),
            word(Kind::Omitted, Some("not"), None),
            word(Kind::Inserted, None, Some("well")),
            word(Kind::Substituted, Some("country"), Some("county")),
        ];
        let p = Pronunciation { words, accuracy: 1.0 / 3.0, ..Pronunciation::default() };
        let shown = pronounced(&p, false);
        assert!(
            shown.starts_with("ask [not] +well country/county\n[00:00:01.000 - 00:00:01.500] omitted     [not]\n"),
            "{shown}"
        );
        assert!(shown.ends_with("33% of the words as expected\n") && pronounced(&p, true).contains("\x1b[31m[not]\x1b[0m"));
    }
}
