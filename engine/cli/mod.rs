//! The command line: typed flags, one readable dispatch, one file a command.
//!
//! Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 failed, 2 the request was wrong.

mod bench;
mod coach;
mod compare;
mod doctor;
mod features;
mod follow;
mod listen;
mod plan;
mod pose;
mod run;
mod see;
mod serve;
mod stream;
mod transcribe;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{Config, Flags};
use crate::fetch::{self, Store};
use crate::media::{self, Clip, Frame, Limits};
use crate::{Error, Result};

/// Listens, watches and coaches: Whisper, prosody, pose, face and an LLM in one process.
#[derive(Debug, Parser)]
#[command(name = "dreamseed", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub flags: Flags,
    /// More messages (-v, -vv); DREAMSEED_LOG=filter for a finer choice
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Messages as JSON lines with times and request ids, for programs that collect them
    #[arg(long, global = true)]
    pub log_json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch and hear a clip, score it and stream feedback with evidence
    Coach(coach::CoachArgs),
    /// Chat with an LLM, or complete one prompt
    Run(run::RunArgs),
    /// Speech to text with segments and word times
    Transcribe(transcribe::TranscribeArgs),
    /// Body landmarks of pictures or video
    Pose(pose::PoseArgs),
    /// Hold a learner's movement against a teacher's: OKS, PCK, PA-MPJPE, tempo ratio
    Compare(compare::CompareArgs),
    /// Which labels fit pictures or the shots of a video, and where a video is cut
    See(see::SeeArgs),
    /// The fused feature matrix and events of a clip, as JSON, CSV or safetensors
    Features(features::FeaturesArgs),
    /// Download weights: a model, a profile, or what this machine needs
    Pull(fetch::PullArgs),
    /// List the models that are known and what of them is here
    Models(fetch::ListArgs),
    /// Say what is built in, what is used, what is missing and what to do about it
    Doctor(doctor::DoctorArgs),
    /// Serve everything over HTTP: OpenAI's API for text and speech, the engine's own for lessons, poses and features
    Serve(serve::ServeArgs),
    /// API keys of `serve`
    #[command(subcommand)]
    Key(serve::KeyCommand),
    /// What GPUs can hold and how fast they should decode: arithmetic, no GPU needed
    Plan(plan::PlanArgs),
    /// Measure this machine
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

/// Does what the command line says. Errors come back to `main`, which prints them and picks the exit code.
pub fn run(cli: Cli) -> Result<()> {
    let config = Config::load(&cli.flags)?;
    if cli.flags.print_config {
        return emit(config.to_toml()?.trim_end());
    }
    match cli.command {
        None => Err(Error::Usage("no command given; `dreamseed --help` lists them".into())),
        Some(Command::Coach(args)) => coach::run(config, args),
        Some(Command::Run(args)) => run::run(config, args),
        Some(Command::Transcribe(args)) => transcribe::run(config, args),
        Some(Command::Pose(args)) => pose::run(config, args),
        Some(Command::Compare(args)) => compare::run(config, args),
        Some(Command::See(args)) => see::run(config, args),
        Some(Command::Features(args)) => features::run(config, args),
        Some(Command::Pull(args)) => fetch::pull(&config, &Store::open(&config)?, &args, &mut std::io::stdout()),
        Some(Command::Models(args)) => fetch::list(&config, &Store::open(&config)?, &args, &mut std::io::stdout()),
        Some(Command::Doctor(args)) => doctor::run(&config, &args),
        Some(Command::Serve(args)) => serve::run(config, args),
        Some(Command::Key(command)) => serve::key(command),
        Some(Command::Plan(args)) => plan::run(&config, &args),
        Some(Command::Bench(args)) => bench::run(config, args),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new(); // clap_complete panics where it cannot write
            clap_complete::generate(shell, &mut Cli::command(), "dreamseed", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    }
}

/// A line on stdout. A reader that has gone away (`| head`) ends the program quietly.
pub(crate) fn emit(line: &str) -> Result<()> {
    print(&format!("{line}\n"))
}

/// Text on stdout as it is, flushed.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Error::Cancelled),
        Err(source) => Err(Error::Io { path: "standard output".into(), source }),
        Ok(()) => Ok(()),
    }
}

/// One JSON object a line on stdout.
pub(crate) fn emit_json(value: &impl serde::Serialize) -> Result<()> {
    emit(&serde_json::to_string(value).map_err(|e| Error::Internal(e.to_string()))?)
}

/// A message for people on stderr; says nothing when stderr is no terminal and `quiet` is asked.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// An engine for a command: downloads show on stderr.
fn engine(config: Config) -> Result<crate::Engine> {
    crate::Engine::builder().config(config).progress(fetch::Progress::auto()).build()
}

/// Most pictures a second that are looked at: every one of the fastest cameras.
const MAX_FPS: f64 = 240.0;

/// What to look at and listen to.
#[derive(Clone, Debug, Default, Args)]
pub struct ClipArgs {
    /// A video, sound file or picture
    pub file: Option<PathBuf>,
    /// A video file (its sound too, unless --audio is given)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "frames"])]
    pub video: Option<PathBuf>,
    /// A folder of pictures, in the order of their names
    #[arg(long, value_name = "DIR", conflicts_with = "file", requires = "fps")]
    pub frames: Option<PathBuf>,
    /// Pictures a second
    #[arg(long, value_name = "N")]
    pub fps: Option<f64>,
    /// A sound file; for `coach` also - for sound that standard input brings while it is made (WAV, or raw 16-bit mono at 16 kHz)
    #[arg(long, value_name = "FILE")]
    pub audio: Option<PathBuf>,
}

impl ClipArgs {
    /// Decodes everything that is named into one clip.
    fn open(&self, engine: &crate::Engine) -> Result<Clip> {
        if self.audio.as_deref() == Some(Path::new("-")) {
            return Err(Error::Usage("sound from standard input is taken by `coach` and by `transcribe --stream`".into()));
        }
        let limits = limits(engine, self.fps)?;
        let mut clip = match (self.file.as_ref().or(self.video.as_ref()), &self.frames) {
            (Some(file), _) => media::open(file, &limits)?,
            (None, Some(folder)) => open_folder(folder, self.fps, &limits)?,
            (None, None) if self.audio.is_some() => Clip::default(),
            (None, None) => {
                return Err(Error::Usage(
                    "nothing to look at: name a FILE, --video F, --frames DIR --fps N or --audio F".into(),
                ));
            }
        };
        if let Some(audio) = &self.audio {
            clip.pcm = media::open_audio(audio, &limits)?;
        }
        Ok(clip)
    }
}

fn limits(engine: &crate::Engine, fps: Option<f64>) -> Result<Limits> {
    match fps {
        Some(fps) if !(0.1..=MAX_FPS).contains(&fps) => {
            Err(Error::Usage(format!("--fps {fps}: 0.1 to {MAX_FPS} pictures a second are allowed")))
        }
        Some(fps) => Ok(Limits { fps, ..engine.limits() }),
        None => Ok(engine.limits()),
    }
}

fn open_folder(folder: &Path, fps: Option<f64>, limits: &Limits) -> Result<Clip> {
    let fps = fps.ok_or_else(|| Error::Usage(format!("{}: a folder of pictures needs --fps N", folder.display())))?;
    media::open_frames(folder, fps, limits)
}

/// The pictures of a file or folder: all of them, unless `fps` asks for fewer.
fn open_pictures(engine: &crate::Engine, path: &Path, fps: Option<f64>) -> Result<Vec<Frame>> {
    let limits = limits(engine, fps.or(Some(MAX_FPS)))?;
    let clip = if path.is_dir() { open_folder(path, fps, &limits)? } else { media::open(path, &limits)? };
    Ok(clip.frames)
}
