//! F0: which method, within which range.

use dreamseed_kernels::Pool;
use serde::{Deserialize, Serialize};

use super::{
    boersma::{self, Boersma},
    pyin::{self, Pyin},
    signal::quantile,
};

/// How F0 is found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Autocorrelation and least-cost path, as Praat (Boersma 1993).
    Boersma(Boersma),
    /// Probabilistic YIN and hidden Markov model, as librosa (Mauch and Dixon 2014).
    Pyin(Pyin),
}

impl Default for Method {
    fn default() -> Self {
        Self::Boersma(Boersma::default())
    }
}

/// Where F0 is looked for, Hz. `floor` is brought into 30..=1000 and `ceiling` into 1.25 * floor..=3000.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// Lowest F0; also sets the length of the analysis window.
    pub floor: f64,
    /// Highest F0.
    pub ceiling: f64,
}

impl Bounds {
    /// Praat's defaults for an unknown speaker.
    pub const PRAAT: Self = Self { floor: 75.0, ceiling: 600.0 };

    /// The nearest allowed bounds; those of Praat for what is not a number.
    pub(super) fn allowed(self) -> Self {
        let or = |x: f64, default: f64| if x.is_nan() { default } else { x };
        let floor = or(self.floor, Self::PRAAT.floor).clamp(30.0, 1000.0);
        Self { floor, ceiling: or(self.ceiling, Self::PRAAT.ceiling).clamp(1.25 * floor, 3000.0) }
    }
}

/// Fixed bounds, or bounds that follow the speaker.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Range {
    /// One pass within these bounds.
    Fixed(Bounds),
    /// A first pass within `first`, then a second from 0.75 times its lower to `ceiling` times its upper quartile: De Looze and
    /// Hirst (2008), "Detecting changes in key and range for the automatic modelling and coding of intonation", Speech Prosody.
    /// They take 1.5 for read speech; 2.5 leaves room for expressive speech (Hirst 2011). Falls back to the first pass where
    /// fewer than [`MIN_VOICED`] frames are voiced.
    Adaptive {
        /// Bounds of the first pass.
        first: Bounds,
        /// Factor on the upper quartile, 1.2..=4.
        ceiling: f64,
    },
}

/// Voiced frames that quartiles need to say something about a speaker.
pub const MIN_VOICED: usize = 20;

/// F0 over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PitchTrack {
    /// Time of the first frame's centre, seconds.
    pub start: f64,
    /// Seconds between frames.
    pub hop: f64,
    /// Hz; `None` where unvoiced. (frames)
    pub f0: Vec<Option<f32>>,
    /// Boersma: height of the correlation at the chosen period (of the strongest candidate where unvoiced). pYIN: probability of
    /// voicing. 0..1. (frames)
    pub voicing: Vec<f32>,
}

impl PitchTrack {
    /// Centre of frame `i`, seconds.
    pub fn time(&self, i: usize) -> f64 {
        self.start + i as f64 * self.hop
    }

    /// F0 at `t` seconds: linear between voiced frames, that of the nearer frame where only it is voiced, `None` where the nearer
    /// frame is unvoiced or `t` lies outside.
    pub fn at(&self, t: f64) -> Option<f64> {
        let place = (t - self.start) / self.hop;
        let near = place.round();
        let value = |i: f64| if i < 0.0 { None } else { *self.f0.get(i as usize)? }.map(f64::from);
        let here = value(near)?;
        let fraction = place - near;
        Some(value(near + fraction.signum()).map_or(here, |there| here + fraction.abs() * (there - here)))
    }

    /// Whether a frame within `reach` seconds of `t` is voiced.
    pub fn voiced_near(&self, t: f64, reach: f64) -> bool {
        let place = |t: f64| ((t - self.start) / self.hop).round().max(0.0) as usize;
        let end = (place(t + reach) + 1).min(self.f0.len());
        self.f0[place(t - reach).min(end)..end].iter().any(Option::is_some)
    }

    /// Runs of voiced frames: [first, end).
    pub fn stretches(&self) -> Vec<[usize; 2]> {
        runs(&self.f0, Option::is_some)
    }

    /// All voiced F0 in ascending order, Hz.
    pub fn sorted(&self) -> Vec<f64> {
        let mut voiced: Vec<f64> = self.f0.iter().flatten().map(|&f| f64::from(f)).collect();
        voiced.sort_by(f64::total_cmp);
        voiced
    }
}

/// Maximal runs [first, end) of items that `holds` is true of.
pub(super) fn runs<T>(items: &[T], holds: impl Fn(&T) -> bool) -> Vec<[usize; 2]> {
    let mut out = Vec::new();
    let mut start = None;
    for (i, item) in items.iter().enumerate() {
        match (holds(item), start) {
            (true, None) => start = Some(i),
            (false, Some(s)) => {
                out.push([s, i]);
                start = None;
            }
            _ => {}
        }
    }
    out.extend(start.map(|s| [s, items.len()]));
    out
}

/// F0 of mono `pcm` at 16 kHz, a frame every `hop` seconds (brought into 0.001..=0.1), and the bounds that it was looked for in.
/// Samples that are not finite count as silence; a sound shorter than one analysis window has no frames.
pub fn f0(pool: &Pool, pcm: &[f32], method: &Method, range: Range, hop: f64) -> (PitchTrack, Bounds) {
    let pcm = super::signal::sanitized(pcm);
    let hop = super::allowed_hop(hop);
    let pass = |bounds: Bounds| match method {
        Method::Boersma(costs) => boersma::track(pool, &pcm, bounds, hop, costs),
        Method::Pyin(options) => pyin::track(pool, &pcm, bounds, hop, options),
    };
    match range {
        Range::Fixed(bounds) => (pass(bounds.allowed()), bounds.allowed()),
        Range::Adaptive { first, ceiling } => {
            let first = first.allowed();
            let track = pass(first);
            match adapted(&track, ceiling, first) {
                Some(bounds) => (pass(bounds), bounds),
                None => (track, first),
            }
        }
    }
}

/// The speaker's own bounds by the quartiles of a first pass, never wider than that pass.
fn adapted(track: &PitchTrack, ceiling: f64, first: Bounds) -> Option<Bounds> {
    let voiced = track.sorted();
    if voiced.len() < MIN_VOICED {
        return None;
    }
    let floor = (0.75 * quantile(&voiced, 0.25)?).clamp(first.floor, 1000.0);
    let factor = if ceiling.is_nan() { 2.5 } else { ceiling.clamp(1.2, 4.0) };
    let ceiling = (factor * quantile(&voiced, 0.75)?).min(first.ceiling);
    Some(Bounds { floor, ceiling }.allowed())
}
