//! Decoding of audio, pictures and video into a [`Clip`], within limits that are checked before anything is decoded.
//!
//! What a file is, its first bytes decide, never its name. Sound is decoded here (symphonia), pictures too (image); video needs
//! the programs `ffmpeg` and `ffprobe`. Only regular files are opened: a pipe or a device could hold the engine for ever.

mod audio;
mod frames;
mod incoming;
mod mp4;
mod picture;
mod process;
mod resample;
mod sniff;
#[cfg(test)]
mod tests;
mod video;
mod wav;

use crate::{Error, Result};
use std::path::Path;

pub use frames::open_frames;
pub use incoming::Incoming;
pub use sniff::Kind;
pub use video::ffmpeg_version;

/// What the perception models take: everything on one clock that starts at 0.
#[derive(Clone, Debug, Default)]
pub struct Clip {
    /// Mono samples at 16 kHz, -1..1; empty without sound.
    pub pcm: Vec<f32>,
    /// Pictures with their times, in order; empty without pictures.
    pub frames: Vec<Frame>,
    /// Text that came along: what should be said, a question, a description of the task.
    pub text: Option<String>,
}

/// Samples a second of [`Clip::pcm`].
pub const SAMPLE_RATE: u32 = 16_000;

impl Clip {
    /// Length in seconds: the later end of sound and pictures.
    pub fn duration(&self) -> f64 {
        let sound = self.pcm.len() as f64 / f64::from(SAMPLE_RATE);
        let step = match self.frames.as_slice() {
            [first, .., last] => (last.t - first.t) / (self.frames.len() - 1) as f64,
            _ => 0.0,
        };
        sound.max(self.frames.last().map_or(0.0, |f| f.t + step))
    }
}

/// One picture: 8-bit RGB, row-major, upright (EXIF rotation applied).
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Seconds from the start of the clip.
    pub t: f64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// width * height * 3 bytes.
    pub rgb: Vec<u8>,
}

/// What is accepted. Checked against the headers before anything is decoded, and again while decoding, because headers lie.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Size of a file.
    pub max_bytes: u64,
    /// Length of sound or video.
    pub max_seconds: f64,
    /// Width times height of a picture as it is stored.
    pub max_pixels: u64,
    /// Pictures in a clip.
    pub max_frames: usize,
    /// Memory for the decoded pictures of a clip. Video and animations that would need more are scaled down to
    /// [`Limits::MIN_SIDE`] before they are refused.
    pub max_frame_bytes: u64,
    /// Longer side to which the pictures of a clip are scaled down; a single picture keeps its size.
    pub max_side: u32,
    /// Most pictures a second that are kept of a video or an animation.
    pub fps: f64,
}

impl Limits {
    /// Longer side below which pictures are not scaled down to save memory.
    pub const MIN_SIDE: u32 = 480;
}

impl Default for Limits {
    /// An hour of sound; about three minutes of video at 15 pictures a second within 2 GiB.
    fn default() -> Self {
        Self {
            max_bytes: 4 << 30,
            max_seconds: 3600.0,
            max_pixels: 64_000_000,
            max_frames: 20_000,
            max_frame_bytes: 2 << 30,
            max_side: 1280,
            fps: 15.0,
        }
    }
}

/// Opens a sound, picture, animation or video file.
pub fn open(path: &Path, limits: &Limits) -> Result<Clip> {
    limits.check()?;
    let kind = sniff::look(path, limits)?;
    match kind {
        Kind::Picture => Ok(Clip { frames: guarded(path, || picture::open(path, limits))?, ..Clip::default() }),
        Kind::Audio => Ok(Clip { pcm: audio::open(path, limits)?, ..Clip::default() }),
        Kind::Container => video::open(path, limits),
    }
}

/// Opens a picture; of an animation the first.
pub fn open_picture(path: &Path, limits: &Limits) -> Result<Frame> {
    limits.check()?;
    match sniff::look(path, limits)? {
        Kind::Picture => guarded(path, || picture::open_still(path, limits)),
        Kind::Audio | Kind::Container => Err(problem(path, "it is no picture; a png, jpeg, webp or gif file is needed here")),
    }
}

/// Decodes a picture in memory, of an animation the first, scaled down to [`Limits::max_side`].
pub fn decode_picture(bytes: &[u8], limits: &Limits) -> Result<Frame> {
    limits.check()?;
    let name = Path::new("picture");
    if bytes.len() as u64 > limits.max_bytes {
        return Err(problem(name, format!("it has {} bytes; at most {} are allowed", bytes.len(), limits.max_bytes)));
    }
    let frame = guarded(name, || picture::decode_still(name, bytes, limits))?;
    let size = limits.fit(name, (frame.width, frame.height), 1)?;
    Ok(picture::scaled(frame, size))
}

/// Opens the sound of a sound or video file: mono at 16 kHz, never empty.
pub fn open_audio(path: &Path, limits: &Limits) -> Result<Vec<f32>> {
    limits.check()?;
    match sniff::look(path, limits)? {
        Kind::Picture => Err(problem(path, "it is a picture; a sound or video file is needed here")),
        Kind::Audio => audio::open(path, limits),
        Kind::Container => video::open_audio(path, limits),
    }
}

impl Limits {
    fn check(&self) -> Result<()> {
        let rates = self.fps.is_finite() && self.fps > 0.0 && self.fps <= 1000.0;
        if !rates || self.max_seconds.is_nan() || self.max_seconds <= 0.0 || self.max_side < 16 {
            return Err(Error::Usage(format!(
                "limits cannot be met: fps {} (allowed: above 0 up to 1000), max_seconds {} (above 0), max_side {} (16 or more)",
                self.fps, self.max_seconds, self.max_side
            )));
        }
        Ok(())
    }

    fn check_seconds(&self, path: &Path, seconds: f64) -> Result<()> {
        if seconds <= self.max_seconds {
            return Ok(());
        }
        Err(problem(
            path,
            format!("it is {seconds:.1} s long; at most {} s are allowed: cut it, or raise the limit", self.max_seconds),
        ))
    }

    fn check_frames(&self, path: &Path, frames: usize) -> Result<()> {
        if frames <= self.max_frames {
            return Ok(());
        }
        Err(problem(
            path,
            format!(
                "it has {frames} pictures; at most {} are allowed: lower the pictures a second, or cut it",
                self.max_frames
            ),
        ))
    }

    fn check_pixels(&self, path: &Path, width: u32, height: u32) -> Result<()> {
        if width == 0 || height == 0 {
            return Err(problem(path, format!("it is {width} x {height} pixels: there is nothing to see")));
        }
        if u64::from(width) * u64::from(height) <= self.max_pixels {
            return Ok(());
        }
        Err(problem(path, format!("it is {width} x {height} pixels; at most {} are allowed: scale it down", self.max_pixels)))
    }

    /// Size at which `count` pictures of this size fit: at most `max_side`, at most `max_frame_bytes` in all.
    fn fit(&self, path: &Path, (width, height): (u32, u32), count: usize) -> Result<(u32, u32)> {
        let longer = width.max(height);
        let bytes = f64::from(width) * f64::from(height) * 3.0 * count.max(1) as f64;
        let by_memory = (self.max_frame_bytes as f64 / bytes).sqrt() * 0.999; // rounding up must not exceed the limit
        let scale = by_memory.min(f64::from(self.max_side) / f64::from(longer)).min(1.0);
        if scale < 1.0 && by_memory < 1.0 && f64::from(longer) * scale < f64::from(Self::MIN_SIDE.min(longer)) {
            return Err(problem(
                path,
                format!(
                    "{count} pictures of {width} x {height} need more than {} MiB even when scaled down to {}: take fewer a \
                     second, or cut the clip",
                    self.max_frame_bytes >> 20,
                    Self::MIN_SIDE
                ),
            ));
        }
        let side = |n: u32| ((f64::from(n) * scale).round() as u32).max(1);
        Ok((side(width), side(height)))
    }

    /// Whether a picture at `t` is kept after the one before it in the file: the first in each cell of 1 / fps. The cells start
    /// a fifth before their round times, so that rounded timestamps on the grid do not fall to either side of an edge.
    fn keeps(&self, t: f64, before: Option<f64>) -> bool {
        let cell = |t: f64| (t * self.fps + 0.2).floor();
        before.is_none_or(|b| cell(t) > cell(b))
    }
}

/// An error about `path`.
fn problem(path: &Path, what: impl Into<String>) -> Error {
    Error::Media { path: path.to_path_buf(), problem: what.into() }
}

/// What is said of a file on which a decoder panicked.
const DEFECT: &str = "its decoder failed on it";

/// Runs a decoder of another house: if it panics on a hostile file (symphonia does, on a time base of 0), that is an error of
/// the file, and nothing is printed.
fn guarded<T, E: From<Error>>(path: &Path, decoder: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    dreamseed_models::guard::guarded(decoder)
        .unwrap_or_else(|| Err(problem(path, format!("{DEFECT}: the file is broken")).into()))
}

/// The operating system's refusal.
fn refused(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_path_buf(), source }
}
