//! Intonation and rhythm against a reference reading of the same text: both are aligned by dynamic time warping, then compared along
//! the path.
//!
//! A frame is the shape of the spectrum (MFCC 1 to 12), the level, and where both are voiced the pitch, each as z-scores of its own
//! speaker, so that voices, microphones and registers do not count.

use dreamseed_kernels::Pool;
use serde::Serialize;

use super::mfcc::{COEFFICIENTS, FRAME, mfcc};
use super::signal::{mean_sd, quantile, semitones};
use super::{Measures, Prosody};
use crate::dtw::{Band, tempo, warp};

/// Half width of the band: so much of the longer reading, but at least so many seconds.
const BAND: f64 = 0.2;
const LEAST_BAND: f64 = 2.0;
/// Cells of the band held at once, a byte each; longer readings are aligned on every k-th frame.
const MAX_CELLS: usize = 64 << 20;
/// Cost of a step that is not diagonal, squared standard deviations.
const STRAY: f64 = 0.05;
/// Weights of spectrum, level and pitch in the distance of two frames.
const WEIGHTS: [f32; 3] = [0.6, 0.25, 0.15];
/// Softer than the loudest moment by this many dB is not speech, at either end and between words.
const SILENCE_DB: f32 = 35.0;
/// Shortest reading that is compared, seconds.
const LEAST: f64 = 0.5;
/// Frames on either side in the running median that takes single octave errors out of the pitch.
const MEDIAN_REACH: usize = 2;
/// Frames with pitch in both readings below which the melody is not compared: 0.3 s.
const LEAST_VOICED: usize = 30;
/// A contour with a smaller standard deviation, semitones, has no shape that could be compared.
const LEAST_SHAPE: f64 = 0.3;
/// Width of the stretch in which the melodies differ most, seconds.
const STRETCH: f64 = 0.8;
/// Shortest word whose length is compared, seconds: a few frames of the alignment.
const LEAST_WORD: f64 = 0.08;
/// A pause is misplaced when it is longer by this, seconds, than what the other reading has there.
const PAUSE_APART: f64 = 0.3;
/// Slack of the alignment about a pause, seconds.
const PAUSE_SLACK: f64 = 0.2;

/// A reading: mono sound at 16 kHz, its prosody, and its words where they are known.
#[derive(Clone, Copy, Debug)]
pub struct Voice<'a> {
    /// Full scale 1.
    pub pcm: &'a [f32],
    /// Of the same sound.
    pub prosody: &'a Prosody,
    /// In order of time; may be empty.
    pub words: &'a [Span],
}

/// A stretch of a reading with what is said in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Span {
    /// The word.
    pub label: String,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
}

/// How a learner's reading differs from a teacher's. Times are the learner's, seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// [seconds of the learner, seconds of the teacher], both never falling.
    #[serde(skip)]
    pub path: Vec<[f64; 2]>,
    /// Root mean square distance along the path, in standard deviations of the features.
    pub distance: f64,
    /// Seconds of the learner for a second of the teacher: above 1 is slower.
    pub tempo: f64,
    /// Pearson's r of the pitch contours in semitones along the path, -1..1. `None` where too little is voiced or a voice is flat.
    pub pitch_correlation: Option<f64>,
    /// The same as a concordance, -1..1: 2 cov / (var + var + (difference of the means)^2) (Lin 1989). As r for contours of one
    /// range; lower the flatter or the wilder the learner's is, 0 for a flat voice. `None` where too little is voiced or the teacher's
    /// voice is flat.
    pub pitch_concordance: Option<f64>,
    /// Root mean square difference of the contours, semitones, each about its own median.
    pub pitch_rmse: Option<f64>,
    /// Learner's standard deviation of pitch over the teacher's, on the frames voiced in both: below 1 is flatter.
    pub pitch_range_ratio: Option<f64>,
    /// Where the melodies differ most.
    pub pitch_difference: Option<Difference>,
    /// Pearson's r of the levels in dB along the path: whether the same syllables are strong.
    pub energy_correlation: Option<f64>,
    /// Learner's less teacher's nPVI of vocalic intervals.
    pub npvi_difference: Option<f64>,
    /// Lengths of the teacher's words in the learner's reading.
    pub words: Vec<WordTiming>,
    /// 2 to the power of minus the mean of |log2 `relative`| over the words: 1 where all words have the teacher's proportions, 0.5 where
    /// they are off by a factor of two. `None` without three words.
    pub rhythm: Option<f64>,
    /// Pauses of the learner where the teacher goes on.
    pub pauses_added: Vec<[f64; 2]>,
    /// Where the teacher pauses and the learner goes on.
    pub pauses_missing: Vec<[f64; 2]>,
}

/// A stretch in which two contours lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Seconds of the learner.
    pub span: [f64; 2],
    /// Root mean square difference there, semitones.
    pub semitones: f64,
}

/// How long a word lasts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WordTiming {
    /// The teacher's word.
    pub word: String,
    /// Seconds of the learner.
    pub start: f64,
    /// Seconds of the learner.
    pub end: f64,
    /// Learner's length over the teacher's.
    pub ratio: f64,
    /// The same with the tempo of the whole taken off: above 1 is stretched.
    pub relative: f64,
}

/// Compares two readings of one text. `None` where either has less than half a second of sound.
pub fn compare(pool: &Pool, learner: &Voice, teacher: &Voice) -> Option<Comparison> {
    let (a, b) = (Frames::new(pool, learner)?, Frames::new(pool, teacher)?);
    // 1. the path
    let cells = |k: usize| (a.rows.len() / k).saturating_mul(2 * half_band(a.rows.len(), b.rows.len(), k) + 1);
    let k = (1..).find(|&k| cells(k) <= MAX_CELLS).unwrap_or(1);
    let band = Band { half: half_band(a.rows.len(), b.rows.len(), k), stray: STRAY };
    let (n, m) = (a.rows.len().div_ceil(k), b.rows.len().div_ceil(k));
    let steps = warp(n, m, band, |i, j| apart(&a.rows[i * k], &b.rows[j * k]));
    let steps: Vec<(usize, usize)> = steps.into_iter().map(|(i, j)| (i * k, j * k)).collect();
    let square: f64 = steps.iter().map(|&(i, j)| f64::from(apart(&a.rows[i], &b.rows[j]))).sum();
    let path: Vec<[f64; 2]> = steps.iter().map(|&(i, j)| [a.time(i), b.time(j)]).collect();
    let tempo = tempo(&path);
    // 2. along it
    let melody = Melody::new(&a, &b, &steps);
    let levels: Vec<[f64; 2]> = steps
        .iter()
        .map(|&(i, j)| [f64::from(a.level[i]), f64::from(b.level[j])])
        .filter(|l| l[0] > f64::from(a.floor) || l[1] > f64::from(b.floor))
        .collect();
    let words = timings(&path, teacher.words, tempo);
    let npvi = |m: &Measures| m.npvi.map(f64::from);
    Some(Comparison {
        distance: (square / steps.len() as f64).sqrt(),
        tempo,
        pitch_correlation: melody.correlation(),
        pitch_concordance: melody.concordance(),
        pitch_rmse: melody.rmse(),
        pitch_range_ratio: melody.range_ratio(),
        pitch_difference: melody.difference(),
        energy_correlation: correlation(&levels, 1.0),
        npvi_difference: npvi(&learner.prosody.measures).zip(npvi(&teacher.prosody.measures)).map(|(l, t)| l - t),
        rhythm: rhythm(&words),
        words,
        pauses_added: added(&learner.prosody.pauses, &teacher.prosody.pauses, &path, 1.0 / tempo),
        pauses_missing: missing(&learner.prosody.pauses, &teacher.prosody.pauses, &path, tempo),
        path,
    })
}

/// Frames of a reading from its first sound to its last.
struct Frames {
    first: usize,
    rows: Vec<Row>,
    level: Vec<f32>,             // dB, no lower than `floor`
    floor: f32,                  // dB
    semitones: Vec<Option<f32>>, // about the median of the voice
}

/// What frames are aligned by: z-scores of MFCC 1 to 12, of the level, and of the pitch (NaN where unvoiced).
struct Row([f32; COEFFICIENTS + 1]);

impl Frames {
    fn new(pool: &Pool, voice: &Voice) -> Option<Self> {
        let p = voice.prosody;
        let mut cepstra = mfcc(pool, voice.pcm);
        // 1. level and pitch on the frames of the cepstra
        let at = |i: usize| {
            let frame = (i as f64 * FRAME - p.start) / p.hop;
            (frame.round().max(0.0) as usize).min(p.intensity.len().saturating_sub(1))
        };
        let level = |i: usize| p.intensity.get(at(i)).copied().filter(|l| l.is_finite()).unwrap_or(0.0);
        let loudest = (0..cepstra.len()).map(level).fold(f32::NEG_INFINITY, f32::max);
        let floor = loudest - SILENCE_DB;
        // 2. from the first sound to the last
        let first = (0..cepstra.len()).find(|&i| level(i) > floor)?;
        let last = (0..cepstra.len()).rfind(|&i| level(i) > floor)?;
        if ((last - first) as f64) * FRAME < LEAST || p.hop <= 0.0 {
            return None;
        }
        cepstra.truncate(last + 1);
        cepstra.drain(..first);
        let level: Vec<f32> = (first..=last).map(|i| level(i).max(floor)).collect();
        let pitch: Vec<Option<f32>> = (first..=last).map(|i| steady(&p.f0, at(i))).collect();
        let mut known: Vec<f64> = pitch.iter().flatten().map(|f| f64::from(*f)).collect();
        known.sort_by(f64::total_cmp);
        let middle = quantile(&known, 0.5).unwrap_or(1.0);
        let semitones: Vec<Option<f32>> = pitch.iter().map(|f| f.map(|f| semitones(f64::from(f), middle) as f32)).collect();
        // 3. z-scores
        let mut rows: Vec<Row> = cepstra.iter().map(|_| Row([f32::NAN; COEFFICIENTS + 1])).collect();
        for c in 1..COEFFICIENTS {
            let sounding = || cepstra.iter().zip(&level).filter(|(_, l)| **l > floor).map(|(r, _)| f64::from(r[c]));
            put(&mut rows, c - 1, sounding(), |i| Some(cepstra[i][c]));
        }
        put(&mut rows, COEFFICIENTS - 1, level.iter().map(|l| f64::from(*l)), |i| Some(level[i]));
        put(&mut rows, COEFFICIENTS, semitones.iter().flatten().map(|s| f64::from(*s)), |i| semitones[i]);
        Some(Self { first, rows, level, floor, semitones })
    }

    fn time(&self, i: usize) -> f64 {
        (self.first + i) as f64 * FRAME
    }
}

/// Column `c` of the rows: `value` as a z-score over `all`.
fn put(rows: &mut [Row], c: usize, all: impl Iterator<Item = f64> + Clone, value: impl Fn(usize) -> Option<f32>) {
    let (mean, sd) = mean_sd(all).unwrap_or((0.0, 1.0));
    // a voice without a melody is not made to have one
    let sd = if sd < LEAST_SHAPE { 1.0 } else { sd };
    for (i, row) in rows.iter_mut().enumerate() {
        row.0[c] = value(i).map_or(f32::NAN, |v| ((f64::from(v) - mean) / sd) as f32);
    }
}

/// Running median of the voiced frames about `i`; `None` where that frame is unvoiced.
fn steady(f0: &[Option<f32>], i: usize) -> Option<f32> {
    f0.get(i).copied().flatten()?;
    let near = &f0[i.saturating_sub(MEDIAN_REACH)..(i + MEDIAN_REACH + 1).min(f0.len())];
    let mut near: Vec<f32> = near.iter().flatten().copied().filter(|f| f.is_finite() && *f > 0.0).collect();
    near.sort_by(f32::total_cmp);
    near.get(near.len() / 2).copied()
}

/// Squared distance of two frames, standard deviations.
fn apart(a: &Row, b: &Row) -> f32 {
    let square = |c: usize| (a.0[c] - b.0[c]).powi(2);
    let shapes = COEFFICIENTS - 1;
    let spectrum = (0..shapes).map(square).sum::<f32>() / shapes as f32;
    let (level, pitch) = (square(shapes), square(COEFFICIENTS));
    let [of_spectrum, of_level, of_pitch] = WEIGHTS;
    let sum = of_spectrum * spectrum + of_level * level;
    if pitch.is_nan() { sum / (of_spectrum + of_level) } else { sum + of_pitch * pitch }
}

fn half_band(n: usize, m: usize, k: usize) -> usize {
    let share = (BAND * n.max(m) as f64 / k as f64).ceil() as usize;
    share.max((LEAST_BAND / FRAME / k as f64).ceil() as usize).max(2)
}

/// Both pitch contours along the path, where both are voiced.
struct Melody(Vec<(f64, [f64; 2])>); // learner's seconds, semitones of learner and teacher

impl Melody {
    fn new(a: &Frames, b: &Frames, steps: &[(usize, usize)]) -> Self {
        let pair = |&(i, j): &(usize, usize)| Some((a.time(i), [f64::from(a.semitones[i]?), f64::from(b.semitones[j]?)]));
        let pairs: Vec<_> = steps.iter().filter_map(pair).collect();
        Self(if pairs.len() < LEAST_VOICED { Vec::new() } else { pairs })
    }

    fn correlation(&self) -> Option<f64> {
        correlation(&self.0.iter().map(|p| p.1).collect::<Vec<_>>(), LEAST_SHAPE)
    }

    fn concordance(&self) -> Option<f64> {
        let side = |of: usize| mean_sd(self.0.iter().map(move |p| p.1[of]));
        let ((mean_l, sd_l), (mean_t, sd_t)) = (side(0)?, side(1).filter(|t| t.1 >= LEAST_SHAPE)?);
        let product: f64 = self.0.iter().map(|(_, [l, t])| (l - mean_l) * (t - mean_t)).sum();
        let covariance = product / (self.0.len() - 1) as f64;
        Some(2.0 * covariance / (sd_l * sd_l + sd_t * sd_t + (mean_l - mean_t).powi(2)))
    }

    fn rmse(&self) -> Option<f64> {
        root_mean_square(self.0.iter().map(|(_, [l, t])| l - t))
    }

    fn range_ratio(&self) -> Option<f64> {
        let sd = |of: usize| mean_sd(self.0.iter().map(move |p| p.1[of])).map(|m| m.1);
        Some(sd(0)? / sd(1).filter(|sd| *sd >= LEAST_SHAPE)?)
    }

    fn difference(&self) -> Option<Difference> {
        let mut best: Option<Difference> = None;
        let mut from = 0;
        for (to, (time, _)) in self.0.iter().enumerate() {
            while time - self.0[from].0 > STRETCH {
                from += 1;
            }
            let stretch = &self.0[from..=to];
            if stretch.len() < LEAST_VOICED {
                continue;
            }
            let semitones = root_mean_square(stretch.iter().map(|(_, [l, t])| l - t))?;
            if best.is_none_or(|b| semitones > b.semitones) {
                best = Some(Difference { span: [stretch[0].0, *time], semitones });
            }
        }
        best
    }
}

fn root_mean_square(values: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let n = values.len();
    (n > 0).then(|| (values.map(|v| v * v).sum::<f64>() / n as f64).sqrt())
}

/// Pearson's r; `None` where either side varies by less than `least`.
fn correlation(pairs: &[[f64; 2]], least: f64) -> Option<f64> {
    let (mean_a, sd_a) = mean_sd(pairs.iter().map(|p| p[0]))?;
    let (mean_b, sd_b) = mean_sd(pairs.iter().map(|p| p[1]))?;
    if pairs.len() < 3 || sd_a < least || sd_b < least {
        return None;
    }
    let product: f64 = pairs.iter().map(|p| (p[0] - mean_a) * (p[1] - mean_b)).sum();
    Some((product / ((pairs.len() - 1) as f64 * sd_a * sd_b)).clamp(-1.0, 1.0))
}

/// The time on side `to` of the path that goes with `t` on side `from`: the middle of all that do, else between neighbours.
fn across(path: &[[f64; 2]], from: usize, t: f64) -> f64 {
    let to = 1 - from;
    let low = path.partition_point(|p| p[from] < t - 1e-9);
    let high = path.partition_point(|p| p[from] <= t + 1e-9);
    let (Some(first), Some(last)) = (path.first(), path.last()) else { return t };
    match (low, high) {
        (l, h) if l < h => (path[l][to] + path[h - 1][to]) / 2.0,
        (0, _) => first[to],
        (l, _) if l == path.len() => last[to],
        (l, _) => {
            let (a, b) = (path[l - 1], path[l]);
            a[to] + (b[to] - a[to]) * (t - a[from]) / (b[from] - a[from])
        }
    }
}

fn timings(path: &[[f64; 2]], words: &[Span], tempo: f64) -> Vec<WordTiming> {
    let (Some(first), Some(last)) = (path.first(), path.last()) else { return Vec::new() };
    let timing = |w: &Span| {
        if !(w.start.is_finite() && w.end.is_finite()) {
            return None;
        }
        let (from, to) = (w.start.max(first[1]), w.end.min(last[1]));
        let long = to - from >= LEAST_WORD;
        let [start, end] = [across(path, 1, from), across(path, 1, to)];
        let ratio = (end - start) / (to - from);
        long.then(|| WordTiming { word: w.label.clone(), start, end, ratio, relative: ratio / tempo })
    };
    words.iter().filter_map(timing).collect()
}

fn rhythm(words: &[WordTiming]) -> Option<f64> {
    // a word that the path passes over in no time counts as four times too short
    let off = |w: &WordTiming| w.relative.max(0.25).log2().abs();
    (words.len() >= 3).then(|| (-words.iter().map(off).sum::<f64>() / words.len() as f64).exp2())
}

/// Seconds of `spans` within `[from, to]`.
fn within(spans: &[[f64; 2]], [from, to]: [f64; 2]) -> f64 {
    spans.iter().map(|s| (s[1].min(to) - s[0].max(from)).max(0.0)).sum()
}

/// Pauses of the learner that are longer than the teacher's at the same place, in the learner's measure of time.
fn added(learner: &[[f64; 2]], teacher: &[[f64; 2]], path: &[[f64; 2]], tempo: f64) -> Vec<[f64; 2]> {
    let longer = |s: &&[f64; 2]| {
        let there = [across(path, 0, s[0]) - PAUSE_SLACK, across(path, 0, s[1]) + PAUSE_SLACK];
        s[1] - s[0] - within(teacher, there) / tempo >= PAUSE_APART
    };
    learner.iter().filter(longer).copied().collect()
}

/// Where the learner goes on through the teacher's pauses.
fn missing(learner: &[[f64; 2]], teacher: &[[f64; 2]], path: &[[f64; 2]], tempo: f64) -> Vec<[f64; 2]> {
    let here = |s: &[f64; 2]| [across(path, 1, s[0]), across(path, 1, s[1])];
    let shorter = |s: &&[f64; 2]| {
        let [from, to] = here(s);
        (s[1] - s[0]) * tempo - within(learner, [from - PAUSE_SLACK, to + PAUSE_SLACK]) >= PAUSE_APART
    };
    teacher.iter().filter(shorter).map(here).collect()
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
