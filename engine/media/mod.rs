//! Decoding of audio, pictures and video into a [`Clip`], within limits that are checked before anything is decoded.

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
