//! `dreamseed features`: everything perceived on one clock, written to a file or printed.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::Args;

use super::{ClipArgs, emit_json, engine, note};
use crate::config::Config;
use crate::session::Wanted;
use crate::{Error, Result, media, timeline};

/// Arguments of `features`.
#[derive(Clone, Debug, Args)]
pub struct FeaturesArgs {
    /// What to look at and listen to
    #[command(flatten)]
    pub clip: ClipArgs,
    /// Where to write: .json, .csv (events beside it in .events.csv) or .safetensors (default: JSON on stdout)
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Rows a second
    #[arg(long, value_name = "HZ", default_value_t = timeline::RATE)]
    pub rate: f64,
    /// A vision model (an id, or a folder as transformers writes it): finer cuts, and similarity to the reference
    #[arg(long, value_name = "ID|DIR")]
    pub vision: Option<String>,
    /// A teacher's clip: column vision.similarity
    #[arg(long, value_name = "FILE", requires = "vision")]
    pub reference: Option<PathBuf>,
    /// Leave out speech to text (words and pauses)
    #[arg(long)]
    pub no_speech: bool,
}

pub(super) fn run(config: Config, args: FeaturesArgs) -> Result<()> {
    if !(1.0..=200.0).contains(&args.rate) {
        return Err(Error::Usage(format!("--rate {}: 1 to 200 rows a second are allowed", args.rate)));
    }
    if let Some(out) = &args.out {
        let ending = out.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        if !["json", "csv", "safetensors"].contains(&ending.as_str()) {
            // said before the work, not after
            let problem = format!("{}: features are written as .json, .csv or .safetensors", out.display());
            return Err(Error::Usage(problem));
        }
    }
    let engine = engine(config)?;
    let clip = args.clip.open(&engine)?;
    let wanted = Wanted { speech: !args.no_speech, vision_model: args.vision.clone(), ..Wanted::default() };
    let tracks = engine.perceive(&clip, &wanted, &AtomicBool::new(false))?;
    let mut timeline = timeline::fuse(&tracks, args.rate);
    if let Some(file) = &args.reference {
        let theirs = engine.perceive(&media::open(file, &engine.limits())?, &wanted, &AtomicBool::new(false))?;
        timeline::similarity(&mut timeline, &tracks, (&timeline::fuse(&theirs, args.rate), &theirs));
    }
    match &args.out {
        None => emit_json(&timeline),
        Some(out) => {
            let files = timeline::export(&timeline, out)?;
            let names: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
            let (rows, columns, events) = (timeline.rows, timeline.columns.len(), timeline.events.len());
            note(&format!("{}: {rows} rows x {columns} columns, {events} events", names.join(", ")));
            Ok(())
        }
    }
}
