//! `dreamseed compare`: a learner's movement against a teacher's, in numbers.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde::Serialize;

use super::{emit, emit_json, engine, limits};
use crate::config::Config;
use crate::session::Wanted;
use crate::timeline::{self, Performance};
use crate::{Error, Result, media};

/// Arguments of `compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// The learner's video
    pub learner: PathBuf,
    /// The teacher's video
    pub teacher: PathBuf,
    /// Pictures a second to look at (default: the videos' own)
    #[arg(long, value_name = "N")]
    pub fps: Option<f64>,
    /// A JSON object
    #[arg(long)]
    pub json: bool,
}

/// What `compare --json` prints.
#[derive(Serialize)]
struct Comparison {
    /// Seconds of the learner for a second of the teacher.
    tempo_ratio: f64,
    /// Median of learner less teacher, seconds.
    lag: f64,
    /// Root mean square difference along the path, standard deviations of the joint angles.
    distance: f64,
    /// Whether the learner follows the teacher's mirror image.
    mirrored: bool,
    #[serde(flatten)]
    performance: Performance,
    /// Mean |learner - teacher| of each joint angle, degrees.
    angle_errors: Vec<(String, f64)>,
}

pub(super) fn run(config: Config, args: CompareArgs) -> Result<()> {
    let engine = engine(config)?;
    let limits = limits(&engine, args.fps)?;
    let wanted = Wanted { speech: false, prosody: false, music: false, face: false, ..Wanted::default() };
    let see = |path: &PathBuf| {
        let tracks = engine.perceive(&media::open(path, &limits)?, &wanted, &AtomicBool::new(false))?;
        Ok::<_, Error>((timeline::fuse(&tracks, timeline::RATE), tracks.pose.unwrap_or_default()))
    };
    let ((learner, poses), (teacher, shown)) = (see(&args.learner)?, see(&args.teacher)?);
    let followed = timeline::follow(&learner, &teacher);
    let mirrored = followed.mirror.is_some();
    let found = followed.alignment.and_then(|a| Some((timeline::performance(&poses, &shown, &a.path, mirrored)?, a)));
    let Some((performance, alignment)) = found else {
        return Err(Error::Usage(format!(
            "{} and {}: no movement of one person that both show (a whole body, for at least a second)",
            args.learner.display(),
            args.teacher.display()
        )));
    };
    let reference = followed.mirror.as_ref().unwrap_or(&teacher);
    let error = |name: &String| {
        let off = timeline::differences(&learner, reference, &alignment.path, name);
        let mean = off.iter().map(|d| d.1.abs()).sum::<f64>() / off.len().max(1) as f64;
        (!off.is_empty()).then(|| (name.trim_start_matches("pose.").trim_end_matches(".angle").to_owned(), mean))
    };
    let angle_errors = alignment.columns.iter().filter_map(error).collect();
    let (tempo_ratio, lag, distance) = (alignment.tempo, alignment.lag, alignment.distance);
    let comparison = Comparison { tempo_ratio, lag, distance, mirrored, performance, angle_errors };
    if args.json { emit_json(&comparison) } else { emit(&text(&comparison)) }
}

fn text(c: &Comparison) -> String {
    let p = &c.performance;
    let mirror = if c.mirrored { "; against the mirror image" } else { "" };
    let angles: Vec<_> = c.angle_errors.iter().map(|(name, e)| format!("{name} {e:.0}")).collect();
    format!(
        "OKS {:.3}, PCK@0.2 {:.3}, PA-MPJPE {:.0} mm over {} poses{mirror}\n\
         tempo ratio {:.2} (above 1 is slower), lag {:.2} s\n\
         furthest off: {} ({:.0} mm), and {:.1} to {:.1} s ({:.0} mm)\n\
         joint angles off by, degrees: {}",
        p.oks,
        p.pck,
        p.pa_mpjpe,
        p.poses,
        c.tempo_ratio,
        c.lag,
        p.worst_joint,
        p.worst_joint_error,
        p.worst_span[0],
        p.worst_span[1],
        p.worst_span_error,
        angles.join(", ")
    )
}
