//! Perception: speech, prosody, pose and face in parallel, each on its own track.

use dreamseed_models::{face::Face, pose::Person, prosody::Prosody, whisper::Transcript};

/// What was perceived in one frame; times are the clip's.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Observed<T> {
    /// Seconds from the start of the clip.
    pub t: f64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Everything found in the frame; the first is the main one (largest, longest tracked).
    pub found: Vec<T>,
}

/// All tracks of a clip. A track is `None` when it was not asked for or the clip has nothing for it.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Tracks {
    /// Seconds.
    pub duration: f64,
    /// What was said.
    pub speech: Option<Transcript>,
    /// How it was said.
    pub prosody: Option<Prosody>,
    /// How the body moved, a frame each.
    pub pose: Option<Vec<Observed<Person>>>,
    /// What the face did, a frame each.
    pub face: Option<Vec<Observed<Face>>>,
}
