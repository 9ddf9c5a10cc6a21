//! What is shown while weights are fetched: bars on a terminal, plain lines elsewhere, events for a caller. Never on stdout.

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Where progress is shown.
pub struct Progress(Sink);

enum Sink {
    Silent,
    Bars(MultiProgress),
    Lines,
    Events(Box<dyn Fn(Event<'_>) + Send + Sync>),
}

/// One piece of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A sentence.
    Note(&'a str),
    /// A transfer stands at `done` bytes of `total`.
    At {
        /// What is done, to which package or file.
        task: &'a str,
        /// Bytes so far.
        done: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
}

impl Progress {
    /// Bars where stderr is a terminal, else lines.
    pub fn auto() -> Self {
        if std::io::stderr().is_terminal() { Self(Sink::Bars(MultiProgress::new())) } else { Self(Sink::Lines) }
    }

    /// Nothing is shown.
    pub fn silent() -> Self {
        Self(Sink::Silent)
    }

    /// Each event goes to `call`, from whichever thread it happens on.
    pub fn events(call: impl Fn(Event<'_>) + Send + Sync + 'static) -> Self {
        Self(Sink::Events(Box::new(call)))
    }

    /// Shows a sentence.
    pub fn note(&self, text: &str) {
        match &self.0 {
            Sink::Silent => {}
            // Without a terminal to draw on println is swallowed: then a plain line is right.
            Sink::Bars(bars) if bars.is_hidden() => eprintln!("{text}"),
            Sink::Bars(bars) => drop(bars.println(text)),
            Sink::Lines => eprintln!("{text}"),
            Sink::Events(call) => call(Event::Note(text)),
        }
    }

    /// Begins a transfer of `total` bytes, where that is known; `name` begins with a verb.
    pub(super) fn task(&self, name: &str, total: Option<u64>) -> Task<'_> {
        let bar = match &self.0 {
            Sink::Bars(bars) => Some(bars.add(bar(name, total))),
            // What is done at once is not worth a line.
            Sink::Lines if total.is_none_or(|n| n > 4 << 20) => {
                let size = total.map_or(String::new(), |n| format!(" ({})", HumanBytes(n)));
                eprintln!("{name}{size}");
                None
            }
            _ => None,
        };
        Task { progress: self, name: name.into(), total, bar, shown: Cell::new(Instant::now()) }
    }
}

fn bar(name: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(n) => (ProgressBar::new(n), "{msg:40!} {wide_bar} {bytes:>10} of {total_bytes:<10} {eta:>4}"),
        None => (ProgressBar::new_spinner(), "{msg:40!} {spinner} {bytes:>10} {binary_bytes_per_sec:>12}"),
    };
    bar.enable_steady_tick(Duration::from_millis(120));
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.with_message(name.to_string())
}

/// A transfer that is shown until it is dropped.
pub(super) struct Task<'a> {
    progress: &'a Progress,
    name: String,
    total: Option<u64>,
    bar: Option<ProgressBar>,
    shown: Cell<Instant>,
}

impl Task<'_> {
    /// The transfer stands at `done` bytes.
    pub(super) fn at(&self, done: u64) {
        let done = self.total.map_or(done, |n| done.min(n));
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
        // A line or an event for each block would drown everything else.
        let (lines, pause) = match &self.progress.0 {
            Sink::Lines => (true, Duration::from_secs(10)),
            Sink::Events(_) => (false, Duration::from_millis(100)),
            _ => return,
        };
        if self.shown.get().elapsed() < pause && self.total != Some(done) {
            return;
        }
        self.shown.set(Instant::now());
        match &self.progress.0 {
            Sink::Events(call) => call(Event::At { task: &self.name, done, total: self.total }),
            _ if lines && self.total != Some(done) => {
                let of = self.total.map_or(String::new(), |n| format!(" of {}", HumanBytes(n)));
                eprintln!("{}: {}{of}", self.name, HumanBytes(done));
            }
            _ => {}
        }
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
