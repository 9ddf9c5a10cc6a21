//! Milliseconds of each part of the pose pipeline.

use std::path::Path;
use std::time::Instant;

use dreamseed_models::pose::{Options, Pose};
use serde::Serialize;

use super::super::open_pictures;
use super::{median, peak_rss_mb};
use crate::extract::view;
use crate::media::Frame;
use crate::{Engine, Error, Result};

/// Medians of the runs, each a mean over the frames where nothing else is said.
#[derive(Serialize)]
pub(super) struct PoseResult {
    frames: usize,
    /// Looking for people in a frame: letterbox, net, boxes.
    detector_ms: f64,
    /// A frame in which the one person is followed: region, net, points, smoothing (median of those frames); none where nobody is.
    landmarks_ms: Option<f64>,
    /// Each frame on its own: detector and landmarks.
    static_ms: f64,
    /// Tracked: landmarks, the detector only when a person is lost.
    pipeline_ms: f64,
    /// Seen in all frames together, tracked.
    people: usize,
    threads: usize,
    peak_rss_mb: u64,
}

/// One pass over the frames.
struct Pass {
    frame_ms: f64,
    followed_ms: Vec<f64>,
    people: usize,
}

pub(super) fn run(engine: &Engine, model: &str, file: &Path, runs: usize) -> Result<PoseResult> {
    let net = engine.pose(Some(model))?;
    let frames = open_pictures(engine, file, None)?;
    if frames.is_empty() {
        return Err(Error::Media { path: file.into(), problem: "no pictures in it".into() });
    }
    let (mut detector, mut alone, mut tracked) = (Vec::new(), Vec::new(), Vec::new());
    let (mut followed, mut people) = (Vec::new(), 0);
    for _ in 0..runs {
        detector.push(detect(engine, &net, &frames)?);
        alone.push(track(engine, &net, &frames, false)?.frame_ms);
        let pass = track(engine, &net, &frames, true)?;
        tracked.push(pass.frame_ms);
        followed.extend(pass.followed_ms);
        people = pass.people;
    }
    Ok(PoseResult {
        frames: frames.len(),
        detector_ms: median(detector),
        landmarks_ms: (!followed.is_empty()).then(|| median(followed)),
        static_ms: median(alone),
        pipeline_ms: median(tracked),
        people,
        threads: engine.pool().threads(),
        peak_rss_mb: peak_rss_mb(),
    })
}

/// Milliseconds a frame of the detector alone.
fn detect(engine: &Engine, net: &Pose, frames: &[Frame]) -> Result<f64> {
    let (detector, begin) = (net.detector(), Instant::now());
    let mut session = detector.session();
    for frame in frames {
        detector.detect(engine.pool(), &mut session, &view(frame)?)?;
    }
    Ok(begin.elapsed().as_secs_f64() * 1e3 / frames.len() as f64)
}

fn track(engine: &Engine, net: &Pose, frames: &[Frame], smooth: bool) -> Result<Pass> {
    let mut tracker = net.tracker(Options { smooth, ..Options::default() });
    let (mut followed_ms, mut people, mut before) = (Vec::new(), 0, 0);
    let begin = Instant::now();
    for frame in frames {
        let start = Instant::now();
        let seen = tracker.track(engine.pool(), &view(frame)?, frame.t)?.len();
        // Where the frame before showed somebody the detector does not run.
        if before > 0 && seen > 0 {
            followed_ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
        (before, people) = (seen, people + seen);
    }
    Ok(Pass { frame_ms: begin.elapsed().as_secs_f64() * 1e3 / frames.len() as f64, followed_ms, people })
}
