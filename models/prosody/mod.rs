//! Prosody: pitch, loudness, pauses, rate, rhythm and voice quality of speech at 16 kHz.

use serde::Serialize;

/// Frame-wise tracks (one hop apart) and measures over the whole recording.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Prosody {
    /// Seconds between frames.
    pub hop: f64,
    /// Time of the first frame's centre, seconds.
    pub start: f64,
    /// Fundamental frequency in Hz; `None` where unvoiced. (frames)
    pub f0: Vec<Option<f32>>,
    /// Probability or strength of voicing, 0..1. (frames)
    pub voicing: Vec<f32>,
    /// Intensity in dB re 2e-5 Pa, full scale taken as 1 Pa as Praat does. (frames)
    pub intensity: Vec<f32>,
    /// Stretches of silence inside the speech, seconds [start, end).
    pub pauses: Vec<[f64; 2]>,
    /// Syllable nuclei, seconds.
    pub nuclei: Vec<f64>,
    /// Measures over the whole recording.
    pub measures: Measures,
}

/// Measures over a recording; `None` where the signal gives no basis for one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Measures {
    /// Median F0, Hz.
    pub f0_median: Option<f32>,
    /// Range of F0 (5th to 95th percentile), semitones about the speaker's median.
    pub f0_range_semitones: Option<f32>,
    /// Standard deviation of F0, semitones.
    pub f0_sd_semitones: Option<f32>,
    /// Voiced frames over speech frames, 0..1.
    pub voiced_ratio: f32,
    /// Slope of F0 over the last voiced stretch, semitones a second: positive rises, negative falls.
    pub final_slope: Option<f32>,
    /// Syllables a second over the whole span of speech, pauses included.
    pub speech_rate: Option<f32>,
    /// Syllables a second without the pauses.
    pub articulation_rate: Option<f32>,
    /// Share of the span of speech that is pause, 0..1.
    pub pause_ratio: Option<f32>,
    /// Mean intensity over speech, dB.
    pub intensity_mean: Option<f32>,
    /// Standard deviation of intensity over speech, dB.
    pub intensity_sd: Option<f32>,
    /// Normalized pairwise variability index of vocalic intervals (Grabe and Low 2002), 0..200.
    pub npvi: Option<f32>,
    /// Local jitter, ratio.
    pub jitter: Option<f32>,
    /// Local shimmer, ratio.
    pub shimmer: Option<f32>,
    /// Mean harmonics-to-noise ratio, dB.
    pub hnr: Option<f32>,
}
