//! `dreamseed coach`: a lesson about a clip. For people a picture, scores and points; for programs a JSON line an event.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use dreamseed_models::whisper;
use indicatif::{ProgressBar, ProgressStyle};

use super::{ClipArgs, emit, emit_json, engine, listen, note};
use crate::coach::events::{Done, Event, Features, Said, Source};
use crate::coach::{Lab, Language, PointKind, Score};
use crate::config::Config;
use crate::extract::Tracks;
use crate::lesson::{EventStream, Request, Voice};
use crate::live::{Heard, Listening};
use crate::{Engine, Error, Result, demo, media, render};

/// Arguments of `coach`.
#[derive(Clone, Debug, Args)]
pub struct CoachArgs {
    /// The learner's clip
    #[command(flatten)]
    pub clip: ClipArgs,
    /// What is practised (default: speech for sound alone, dance for pictures alone, drama for both)
    #[arg(long, value_enum)]
    pub lab: Option<LabName>,
    /// A teacher's clip to measure against: a video or a sound file
    #[arg(long, value_name = "FILE")]
    pub reference: Option<PathBuf>,
    /// What should be said, to be compared word by word
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
    /// Language of the feedback
    #[arg(long, value_enum, default_value_t = LanguageName::En)]
    pub language: LanguageName,
    /// LLM that phrases the points: an id or a GGUF file (default: the router picks one of the profile's)
    #[arg(long, value_name = "ID|FILE", conflicts_with = "no_llm")]
    pub model: Option<String>,
    /// The planner's own sentences only
    #[arg(long)]
    pub no_llm: bool,
    /// Speech model: an id or a folder
    #[arg(long, value_name = "ID|DIR")]
    pub speech: Option<String>,
    /// Pose model: lite, full, heavy or a file
    #[arg(long, value_name = "ID|FILE")]
    pub pose: Option<String>,
    /// Vision model: an id or a folder; with --reference, how alike the pictures look
    #[arg(long, value_name = "ID|DIR")]
    pub vision: Option<String>,
    /// Write a picture of the lesson: key frames with the skeleton, pitch, words, scores
    #[arg(long, value_name = "FILE.png")]
    pub picture: Option<PathBuf>,
    /// Seed of the LLM's sampling
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// A clip that dreamseed makes itself from packages: a person who moves and speaks
    #[arg(long, conflicts_with_all = ["file", "video", "frames", "audio", "fps"])]
    pub demo: bool,
    /// A JSON line an event
    #[arg(long)]
    pub json: bool,
}

/// Labs by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum LabName {
    Speech,
    Dance,
    Drama,
}

/// Languages by ISO 639-1 code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum LanguageName {
    En,
    Ko,
}

impl CoachArgs {
    fn lab(&self, clip: &media::Clip) -> Lab {
        match self.lab {
            Some(LabName::Speech) => Lab::Speech,
            Some(LabName::Dance) => Lab::Dance,
            Some(LabName::Drama) => Lab::Drama,
            None => Lab::for_clip(clip),
        }
    }

    fn request(&self, engine: &Engine) -> Result<Request> {
        let mut request = Request {
            language: if self.language == LanguageName::Ko { Language::Korean } else { Language::English },
            voice: match (&self.model, self.no_llm) {
                (_, true) => Voice::Planner,
                (Some(m), _) => Voice::Model(m.clone()),
                (None, _) => Voice::Routed,
            },
            speech: self.speech.clone(),
            pose: self.pose.clone(),
            vision: self.vision.clone(),
            seed: self.seed,
            ..Request::new(Lab::Drama, media::Clip::default())
        };
        let mut clip = match self.demo {
            true => demo::open(engine)?,
            false if self.is_live() => {
                let heard = self.listen(engine)?;
                request.known = Arc::new(Tracks { speech: Some(heard.transcript), ..Tracks::default() });
                media::Clip { pcm: heard.pcm, ..self.pictures(engine)? }
            }
            false => self.clip.open(engine)?,
        };
        clip.text = self.text.clone();
        request.lab = self.lab(&clip);
        request.clip = Arc::new(clip);
        request.reference = self.reference.as_ref().map(|f| media::open(f, &engine.limits())).transpose()?.map(Arc::new);
        Ok(request)
    }

    /// Whether the sound comes from standard input while it is made.
    fn is_live(&self) -> bool {
        self.clip.audio.as_deref() == Some(Path::new("-"))
    }

    /// Listens until the sound ends or Ctrl-C; what was said is known soon after.
    fn listen(&self, engine: &Engine) -> Result<Heard> {
        let options = whisper::Options { vad: engine.config().speech.vad, ..whisper::Options::default() };
        let listening = Listening { model: self.speech.clone(), options, ..Listening::default() };
        let mut live = engine.listen(listening, |_| {})?;
        listen::end_on_interrupt()?;
        listen::standard_input(&mut live, &|| true)?;
        let heard = live.finish()?;
        if heard.pcm.is_empty() {
            return Err(Error::Media { path: "standard input".into(), problem: "it brought no sound".into() });
        }
        Ok(heard)
    }

    /// What there is to see beside sound that comes from standard input.
    fn pictures(&self, engine: &Engine) -> Result<media::Clip> {
        let clip = ClipArgs { audio: None, ..self.clip.clone() };
        let none = clip.file.is_none() && clip.video.is_none() && clip.frames.is_none();
        if none { Ok(media::Clip::default()) } else { clip.open(engine) }
    }

    /// Where the picture of the lesson goes: where asked, and for the demo always.
    fn picture(&self) -> Option<&Path> {
        let demo = self.demo.then_some(Path::new("dreamseed-demo.png"));
        self.picture.as_deref().or(demo)
    }
}

pub(super) fn run(config: Config, args: CoachArgs) -> Result<()> {
    if let Some(p) = args.picture.as_ref().filter(|p| p.extension().is_none_or(|e| !e.eq_ignore_ascii_case("png"))) {
        return Err(Error::Usage(format!("{}: the picture of a lesson is a .png", p.display())));
    }
    let engine = engine(config)?;
    let request = args.request(&engine)?;
    let clip = request.clip.clone();
    let mut stream = engine.coach(request);
    if args.json {
        for event in stream.by_ref() {
            emit_json(&event?)?;
        }
    } else {
        let mut page = Page::new(&clip);
        while let Some(event) = stream.next() {
            let event = event?;
            let scores = matches!(event, Event::Point(_)) && page.first_point;
            if scores {
                page.picture(&clip, &stream)?;
            }
            page.show(event)?;
        }
    }
    match args.picture() {
        Some(path) => write_picture(path, &clip, &stream),
        None => Ok(()),
    }
}

/// The lesson as a PNG, whole or not at all.
fn write_picture(path: &Path, clip: &media::Clip, stream: &EventStream) -> Result<()> {
    let seen = stream.seen().ok_or_else(|| Error::Internal("the lesson ended without a plan".into()))?;
    let png = render::overview_png("dreamseed", &clip.frames, &seen.tracks, &seen.timeline, Some(&seen.plan))?;
    let failed = |source| Error::Io { path: path.into(), source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    std::io::Write::write_all(&mut file, &png).map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    note(&format!("picture of the lesson: {}", path.display()));
    Ok(())
}

/// What a person sees on a terminal.
struct Page {
    bar: ProgressBar,
    scores: Vec<Score>,
    heard: String,
    first_point: bool,
}

impl Page {
    fn new(clip: &media::Clip) -> Self {
        let style = ProgressStyle::with_template("{spinner} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style);
        let (sound, frames) = (clip.duration(), clip.frames.len());
        bar.set_message(format!("watching and listening: {sound:.1} s, {frames} pictures"));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, scores: Vec::new(), heard: String::new(), first_point: true }
    }

    fn line(&self, text: &str) -> Result<()> {
        self.bar.suspend(|| emit(text))
    }

    fn show(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Features(f) => self.features(&f),
            Event::Score(s) => {
                self.scores.push(s);
                Ok(())
            }
            Event::Token { text, .. } => self.token(&text),
            Event::Point(p) => self.point(&p),
            Event::Done(d) => self.done(&d),
        }
    }

    fn features(&mut self, f: &Features) -> Result<()> {
        let mut line = format!("{:.1} s", f.duration);
        if f.words > 0 {
            line += &format!(", {} words ({})", f.words, f.language);
        }
        if f.frames > 0 {
            line += &format!(", {} pictures, {} with a face, at most {} in one", f.frames, f.faces, people(f.people));
        }
        self.line(&format!("Seen and heard: {line}; {} features, {} events", f.columns.len(), f.events))?;
        if !f.text.is_empty() {
            self.line(&format!("Heard: “{}”", f.text))?;
        }
        self.bar.set_message("thinking about what to say");
        Ok(())
    }

    /// The middle frame with its skeleton and the pitch curve, on a terminal only.
    fn picture(&self, clip: &media::Clip, stream: &EventStream) -> Result<()> {
        let Some(seen) = stream.seen().filter(|_| std::io::stdout().is_terminal()) else { return Ok(()) };
        let colours = std::env::var("COLORTERM").is_ok_and(|v| v == "truecolor" || v == "24bit");
        if let Some(frame) = clip.frames.get(clip.frames.len() / 2) {
            let pose = seen.tracks.pose.as_deref().and_then(|p| p.iter().find(|o| o.t == frame.t));
            let people = pose.map_or(&[][..], |o| &o.found);
            self.line(render::terminal(frame, people, 48, colours).trim_end())?;
        }
        if let Some(prosody) = &seen.tracks.prosody {
            let curve = render::pitch_line(&prosody.f0, 72, 4);
            if !curve.is_empty() {
                self.line(&format!("pitch of the voice\n{}", curve.trim_end_matches('\n')))?;
            }
        }
        Ok(())
    }

    /// The LLM's words as they come, on one line that the finished point replaces: they may still be refused.
    fn token(&mut self, text: &str) -> Result<()> {
        self.heard.push_str(&text.replace(['\n', '\r'], " "));
        let tail = self.heard.chars().rev().take(120).collect::<Vec<_>>().into_iter().rev().collect::<String>();
        self.bar.set_message(tail);
        Ok(())
    }

    fn scores(&mut self) -> Result<()> {
        if self.scores.is_empty() {
            return Ok(());
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        for s in &self.scores {
            // the overall score is made of the others
            let from = if s.name == "overall" { String::new() } else { s.measures.join(", ").replace('_', " ") };
            table.add_row([s.name.replace('_', " "), meter(s.value), format!("{:.0}", s.value), from]);
        }
        self.scores.clear();
        self.line(&format!("\n{table}"))
    }

    fn point(&mut self, p: &Said) -> Result<()> {
        self.heard.clear();
        if std::mem::take(&mut self.first_point) {
            self.scores()?;
        }
        let mark = if p.point.kind == PointKind::Strength { "+" } else { ">" };
        let [from, to] = p.point.span;
        let by = if p.source == Source::Llm { "" } else { " ·" };
        self.line(&format!("\n{mark} [{from:.1}-{to:.1} s] {}{by}", p.text))?;
        let evidence: Vec<_> = p.point.evidence.iter().map(measured).collect();
        self.line(&format!("    {}", evidence.join("; ")))
    }

    fn done(&mut self, d: &Done) -> Result<()> {
        self.scores()?;
        self.bar.finish_and_clear();
        let seconds: Vec<_> = d.seconds.iter().map(|(stage, s)| format!("{stage} {s:.2} s")).collect();
        let by = match &d.model {
            Some(m) => {
                format!("{} point(s) in the words of {m}, checked against the evidence; · marks the planner's own", d.from_llm)
            }
            None => "in the planner's own words".into(),
        };
        note(&format!("\n{by}\n{}", seconds.join(", ")));
        Ok(())
    }
}

fn people(n: usize) -> String {
    if n == 1 { "1 person".into() } else { format!("{n} people") }
}

/// Twenty cells of score.
fn meter(value: f64) -> String {
    let full = (value / 5.0).round().clamp(0.0, 20.0) as usize;
    "█".repeat(full) + &"░".repeat(20 - full)
}

fn measured(m: &crate::coach::Measure) -> String {
    use crate::coach::Target;
    let unit = if m.unit == "1" { String::new() } else { format!(" {}", m.unit) };
    let target = match m.target {
        Some(Target::Reference(v)) => format!(" (teacher {v:.2}{unit})"),
        Some(Target::Range(a, b)) => format!(" (good: {a:.2} to {b:.2}{unit})"),
        None => String::new(),
    };
    format!("{} {:.2}{unit}{target}", m.name.replace('_', " "), m.value)
}
