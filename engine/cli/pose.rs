//! `dreamseed pose`: the landmarks of everyone in pictures or video, a line a frame.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use dreamseed_models::pose::{Options, Person};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{emit, emit_json, engine, open_pictures};
use crate::config::Config;
use crate::extract::view;
use crate::{Error, Result};

/// Arguments of `pose`.
#[derive(Clone, Debug, Args)]
pub struct PoseArgs {
    /// A picture, a video, or a folder of pictures
    pub file: PathBuf,
    /// lite, full, heavy, vitpose-base or vitpose-small, another id, a landmark net's file or folder (default: the configuration's
    /// `pose.model`)
    #[arg(long, value_name = "ID|FILE")]
    pub model: Option<String>,
    /// Pictures a second (folder: their rate; video: how often to look, default its own)
    #[arg(long, value_name = "N")]
    pub fps: Option<f64>,
    /// Most people to follow, each with an id that is kept while they are seen (found six at a time)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub people: u8,
    /// The nets' own landmarks: no smoothing over time
    #[arg(long)]
    pub no_smooth: bool,
    /// A JSON object a frame
    #[arg(long)]
    pub json: bool,
}

/// One line of `pose --json`.
#[derive(Serialize)]
struct Line<'a> {
    t: f64,
    width: u32,
    height: u32,
    people: &'a [Person],
}

pub(super) fn run(config: Config, args: PoseArgs) -> Result<()> {
    let engine = engine(config)?;
    let pose = match args.people {
        1 => engine.pose(args.model.as_deref())?,
        _ => engine.pose_of_several(args.model.as_deref())?,
    };
    let frames = open_pictures(&engine, &args.file, args.fps)?;
    let video = frames.len() > 1 && !args.no_smooth;
    let mut tracker = pose.tracker(Options { max_people: usize::from(args.people), smooth: video, ..Options::default() });
    let bar = (!args.json).then(|| ProgressBar::new(frames.len() as u64).with_style(style()));
    let (mut found, start) = (0, Instant::now());
    for frame in &frames {
        let people = tracker.track(engine.pool(), &view(frame)?, frame.t)?;
        found += usize::from(!people.is_empty());
        if args.json {
            emit_json(&Line { t: frame.t, width: frame.width, height: frame.height, people: &people })?;
        } else {
            let line = summary(frame.t, &people);
            bar.as_ref().map_or(Ok(()), |b| {
                b.inc(1);
                b.suspend(|| emit(&line))
            })?;
        }
    }
    let spent = start.elapsed().as_secs_f64();
    if let Some(bar) = bar {
        bar.finish_and_clear();
        let each = spent * 1000.0 / frames.len().max(1) as f64;
        super::note(&format!("{found} of {} frames with a person, {each:.1} ms a frame", frames.len()));
    }
    match frames.is_empty() {
        true => Err(Error::Media { path: args.file, problem: "no pictures in it".into() }),
        false => Ok(()),
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:40} {pos}/{len} frames {eta}").unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// What a person reads of a frame: where the main joints are.
fn summary(t: f64, people: &[Person]) -> String {
    const SHOWN: [(&str, usize); 5] =
        [("nose", 0), ("left wrist", 15), ("right wrist", 16), ("left ankle", 27), ("right ankle", 28)];
    let Some(person) = people.first() else { return format!("{t:7.2} s  nobody") };
    let joint = |&(name, i): &(&str, usize)| {
        let l = person.landmarks.get(i)?;
        Some(if l.visibility < 0.5 { format!("{name} hidden") } else { format!("{name} {:.2} {:.2}", l.x, l.y) })
    };
    let more = if people.len() > 1 { format!("  (+{} more)", people.len() - 1) } else { String::new() };
    format!("{t:7.2} s  {}{more}", SHOWN.iter().filter_map(joint).collect::<Vec<_>>().join(", "))
}
