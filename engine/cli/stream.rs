//! `dreamseed transcribe --stream`: words while they are spoken. On a terminal the sentence under way is shown with what may still
//! change in it dimmed; finished sentences are lines on stdout. For programs a JSON line an event.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dreamseed_models::whisper::{Options, Transcript, Word};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::transcribe::{Format, TranscribeArgs, line};
use super::{emit, emit_json, engine, listen};
use crate::config::Config;
use crate::live::{Event, Heard, Listening, Timing};
use crate::{Error, Result, media};

/// The last line of `--json`.
#[derive(Serialize)]
struct Done<'a> {
    event: &'static str,
    #[serde(flatten)]
    transcript: &'a Transcript,
}

pub(super) fn run(config: Config, args: &TranscribeArgs, options: Options, format: Format) -> Result<()> {
    if !matches!(format, Format::Text | Format::Json) {
        return Err(Error::Usage("--stream prints text or --json; subtitles are made without --stream".into()));
    }
    let piped = args.file.as_os_str() == "-";
    let engine = engine(config)?;
    let pcm = if piped { Vec::new() } else { media::open_audio(&args.file, &engine.limits())? };
    let page = Arc::new(Mutex::new(Page::new(format)));
    let shown = Arc::clone(&page);
    let listening = Listening { model: args.model.clone(), options, timing: Timing::default() };
    let mut live = engine.listen(listening, move |event| {
        if let Ok(mut page) = shown.lock() {
            page.show(&event);
        }
    })?;
    listen::end_on_interrupt()?;
    let goes_on = || page.lock().is_ok_and(|page| page.failed.is_none());
    match piped {
        true => listen::standard_input(&mut live, &goes_on)?,
        false => listen::recording(&mut live, &pcm, args.realtime, &goes_on)?,
    }
    let Heard { transcript, .. } = live.finish()?;
    let mut page = page.lock().map_err(|_| Error::Internal("printing panicked".into()))?;
    page.bar.finish_and_clear();
    match (page.failed.take(), format) {
        (Some(e), _) => Err(e),
        (None, Format::Json) => emit_json(&Done { event: "done", transcript: &transcript }),
        (None, _) if transcript.segments.is_empty() => {
            let problem = format!("no speech in its {:.1} seconds", transcript.duration);
            Err(Error::Media { path: args.file.clone(), problem })
        }
        (None, _) => Ok(()),
    }
}

/// What is printed.
struct Page {
    format: Format,
    bar: ProgressBar,
    sentence: String, // final words of the one under way
    failed: Option<Error>,
}

impl Page {
    fn new(format: Format) -> Self {
        let style = ProgressStyle::with_template("{spinner} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = if format == Format::Json { ProgressBar::hidden() } else { ProgressBar::new_spinner().with_style(style) };
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { format, bar, sentence: String::new(), failed: None }
    }

    fn show(&mut self, event: &Event) {
        let shown = match (self.format, event) {
            (Format::Json, event) => emit_json(event),
            (_, Event::Final { words }) => {
                self.sentence.push_str(&joined(words));
                self.under_way("");
                Ok(())
            }
            (_, Event::Partial { words, .. }) => {
                self.under_way(&joined(words));
                Ok(())
            }
            (_, Event::Segment { segment }) => {
                self.sentence.clear();
                self.bar.suspend(|| emit(&line(segment)))
            }
        };
        if let Err(e) = shown {
            self.failed.get_or_insert(e);
        }
    }

    /// The end of the sentence, as much as is read at a glance.
    fn under_way(&self, uncertain: &str) {
        const GLANCE: usize = 100;
        let skipped = self.sentence.chars().count().saturating_sub(GLANCE);
        let certain: String = self.sentence.chars().skip(skipped).collect();
        self.bar.set_message(format!("{}{}", certain.trim_start(), console::style(uncertain).for_stderr().dim()));
    }
}

/// Words as text, without what would steer the terminal.
fn joined(words: &[Word]) -> String {
    words.iter().flat_map(|w| w.word.chars()).filter(|c| !c.is_control()).collect()
}
