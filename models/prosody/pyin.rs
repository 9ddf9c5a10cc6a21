//! F0 by probabilistic YIN: Mauch and Dixon (2014), "pYIN: a fundamental frequency estimator using probabilistic threshold
//! distributions", ICASSP 659-663, with the details of its software as librosa 0.11 has them.

use dreamseed_kernels::Pool;
use serde::{Deserialize, Serialize};

use super::{
    fft::{Buffers, Fft},
    pitch::{Bounds, PitchTrack},
    signal::{RATE, parabola},
};

/// Frames that one task analyses with one set of buffers.
const BLOCK: usize = 32;
/// Frames whose back pointers are held at a time; the path over longer sounds is redone from checkpoints.
const SEGMENT: usize = 2048;
/// log of the probability that stands for "impossible" (the smallest positive f64).
const IMPOSSIBLE: f32 = -708.396_4;
/// Thresholds of YIN that the prior is spread over.
const THRESHOLDS: usize = 100;
/// Decay of the prior from trough to trough.
const BOLTZMANN: f64 = 2.0;

/// The defaults are librosa's, with its analysis frame at 64 ms. Threshold prior: Beta(2, 18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pyin {
    /// Analysis frame in samples, 256..=8192; made longer where it does not hold two periods of the floor.
    pub frame: usize,
    /// Pitch bins a semitone, 1..=20.
    pub bins_per_semitone: usize,
    /// Fastest change of F0, octaves a second.
    pub max_transition_rate: f64,
    /// Probability of a change between voiced and unvoiced from frame to frame, 0..1.
    pub switch_probability: f64,
    /// Share of the prior that the deepest trough gets from thresholds with no trough below them, 0..1.
    pub no_trough_probability: f64,
}

impl Default for Pyin {
    fn default() -> Self {
        Self {
            frame: 1024,
            bins_per_semitone: 10,
            max_transition_rate: 35.92,
            switch_probability: 0.01,
            no_trough_probability: 0.01,
        }
    }
}

/// Pitch bins with a probability above 0 in consecutive frames, flat.
#[derive(Clone, Default)]
struct Block {
    ends: Vec<u32>,        // (frames), end of each frame's entries
    bins: Vec<(u16, f32)>, // (all frames), bin and probability
    voicing: Vec<f32>,     // (frames)
}

/// F0 of `pcm` (16 kHz, finite) between `bounds`, a frame every `hop` seconds, the first centred on the first sample.
pub(super) fn track(pool: &Pool, pcm: &[f32], bounds: Bounds, hop: f64, options: &Pyin) -> PitchTrack {
    let empty = PitchTrack { start: 0.0, hop, ..PitchTrack::default() };
    if pcm.is_empty() {
        return empty;
    }
    let frames = (pcm.len() as f64 / (hop * RATE)) as usize + 1;
    let yin = Yin::new(bounds, options);
    let mut blocks = vec![Block::default(); frames.div_ceil(BLOCK)];
    pool.for_each_chunk(&mut blocks, 1, |b, block| {
        let mut scratch = yin.scratch();
        for i in b * BLOCK..((b + 1) * BLOCK).min(frames) {
            yin.frame(pcm, (i as f64 * hop * RATE).round() as isize, &mut scratch, &mut block[0]);
        }
    });
    let hmm = Hmm::new(yin.bins, hop, options);
    let f0 = hmm.decode(&blocks, frames).into_iter().map(|bin| bin.map(|b| yin.frequency(b))).collect();
    let voicing = blocks.iter().flat_map(|b| b.voicing.iter().copied()).collect();
    PitchTrack { f0, voicing, ..empty }
}

/// YIN's difference function and the probabilities that its troughs get.
struct Yin {
    frame: usize,
    min_period: usize,
    max_period: usize,
    floor: f64,
    bins_per_octave: f64,
    bins: usize,
    no_trough: f64,
    fft: Fft,
    prior: Vec<f64>, // (THRESHOLDS), probability that YIN's threshold lies in ((i) / 100, (i + 1) / 100]
}

/// Buffers of one task.
struct Scratch {
    fft: Buffers,               // samples: the frame
    head: Vec<f64>,             // (max_period + 1), energy of the first k samples
    difference: Vec<f64>,       // (max_period - min_period + 1), cumulative mean normalised
    troughs: Vec<(usize, f64)>, // index into `difference`, probability
}

impl Yin {
    fn new(bounds: Bounds, options: &Pyin) -> Self {
        let period = (RATE / bounds.floor).ceil() as usize;
        let bins_per_octave = 12.0 * options.bins_per_semitone.clamp(1, 20) as f64;
        let frame = options.frame.clamp(256, 8192).max(2 * period + 1);
        Self {
            frame,
            fft: Fft::new(frame + period + 1),
            min_period: (RATE / bounds.ceiling) as usize,
            max_period: period,
            floor: bounds.floor,
            bins_per_octave,
            bins: (bins_per_octave * (bounds.ceiling / bounds.floor).log2()) as usize + 1,
            no_trough: options.no_trough_probability.clamp(0.0, 1.0),
            prior: threshold_prior(),
        }
    }

    fn scratch(&self) -> Scratch {
        Scratch { fft: self.fft.buffers(), head: Vec::new(), difference: Vec::new(), troughs: Vec::new() }
    }

    fn frequency(&self, bin: usize) -> f32 {
        (self.floor * 2f64.powf(bin as f64 / self.bins_per_octave)) as f32
    }

    /// Probabilities of the pitch bins for the frame centred on sample `centre`.
    fn frame(&self, pcm: &[f32], centre: isize, p: &mut Scratch, out: &mut Block) {
        let begin = centre - (self.frame / 2) as isize;
        p.fft.samples.fill(0.0);
        for (j, y) in p.fft.samples[..self.frame].iter_mut().enumerate() {
            *y = usize::try_from(begin + j as isize).ok().and_then(|i| pcm.get(i)).map_or(0.0, |&x| f64::from(x));
        }
        let first = out.bins.len();
        self.difference(p);
        self.troughs(p);
        for &(i, probability) in &p.troughs {
            let shift = match p.difference.get(i.wrapping_sub(1)..i + 2) {
                Some(&[left, middle, right]) => parabola(left, middle, right).0,
                _ => 0.0,
            };
            let period = (self.min_period + i) as f64 + if shift.abs() < 1.0 { shift } else { 0.0 };
            let bin = (self.bins_per_octave * (RATE / period / self.floor).log2()).round();
            let bin = bin.clamp(0.0, (self.bins - 1) as f64) as u16;
            // Two troughs in one bin: the longer period counts, as in librosa.
            match out.bins[first..].iter_mut().find(|(b, _)| *b == bin) {
                Some(entry) => entry.1 = probability as f32,
                None => out.bins.push((bin, probability as f32)),
            }
        }
        out.voicing.push(out.bins[first..].iter().map(|b| b.1).sum::<f32>().clamp(0.0, 1.0));
        out.ends.push(out.bins.len() as u32);
    }

    /// Cumulative mean normalised difference (de Cheveigne and Kawahara 2002, eq. 8) by FFT; what follows the frame counts as 0.
    fn difference(&self, p: &mut Scratch) {
        p.head.clear();
        p.head.extend(p.fft.samples[..=self.max_period].iter().scan(0.0, |sum, x| {
            let before = *sum;
            *sum += x * x;
            Some(before)
        }));
        self.fft.autocorrelate(&mut p.fft);
        let r = &p.fft.samples;
        p.difference.clear();
        let mut sum = 0.0;
        for lag in 1..=self.max_period {
            let d = (2.0 * (r[0] - r[lag]) - p.head[lag]).max(0.0);
            sum += d;
            if lag >= self.min_period {
                p.difference.push(if sum > 0.0 { d * lag as f64 / sum } else { 0.0 });
            }
        }
    }

    /// Troughs and their probabilities (Mauch and Dixon 2014, eqs. 2 to 5): each threshold spreads its prior over the troughs below
    /// it, shorter periods first.
    fn troughs(&self, p: &mut Scratch) {
        p.troughs.clear();
        let d = &p.difference;
        for i in 0..d.len() {
            let falls = i == 0 || d[i] < d[i - 1];
            let rises = if i == 0 { d.len() > 1 && d[0] < d[1] } else { i + 1 == d.len() || d[i] <= d[i + 1] };
            if falls && rises {
                p.troughs.push((i, 0.0));
            }
        }
        for (t, prior) in self.prior.iter().enumerate() {
            let threshold = (t + 1) as f64 / THRESHOLDS as f64;
            let below = p.troughs.iter().filter(|(i, _)| d[*i] < threshold).count();
            let scale = prior * (1.0 - (-BOLTZMANN).exp()) / (1.0 - (-BOLTZMANN * below as f64).exp());
            let hit = p.troughs.iter_mut().filter(|(i, _)| d[*i] < threshold);
            for (rank, trough) in hit.enumerate() {
                trough.1 += scale * (-BOLTZMANN * rank as f64).exp();
            }
        }
        if let Some(deepest) = p.troughs.iter_mut().reduce(|a, b| if d[b.0] < d[a.0] { b } else { a }) {
            let missed = self.prior.iter().enumerate().filter(|(t, _)| d[deepest.0] >= (t + 1) as f64 / THRESHOLDS as f64);
            deepest.1 += self.no_trough * missed.map(|(_, prior)| prior).sum::<f64>();
        }
        p.troughs.retain(|t| t.1 > 0.0);
    }
}

/// Probability of each threshold interval under Beta(2, 18): its distribution function is the chance of two hits in 19.
fn threshold_prior() -> Vec<f64> {
    let cdf = |x: f64| 1.0 - (1.0 - x).powi(19) - 19.0 * x * (1.0 - x).powi(18);
    (0..THRESHOLDS).map(|i| cdf((i + 1) as f64 / THRESHOLDS as f64) - cdf(i as f64 / THRESHOLDS as f64)).collect()
}

/// Hidden Markov model: a voiced and an unvoiced state for every pitch bin.
struct Hmm {
    bins: usize,
    window: Vec<f32>, // (2 * reach + 1), log of the triangle that pitch moves by
    norms: Vec<f32>,  // (bins), log of the triangle's sum inside the bins
    stay: f32,
    switch: f32,
}

/// Where the best path into a state comes from.
#[derive(Clone, Copy, Default)]
struct Back {
    bin: u16,
    switched: bool,
}

/// Log probabilities of the best paths into all states, relative to the best.
#[derive(Clone)]
struct Scores {
    voiced: Vec<f32>,   // (bins)
    unvoiced: Vec<f32>, // (bins)
}

/// Buffers of one step.
struct Step {
    padded: Vec<f32>,    // (bins + 2 * reach)
    best: [Vec<f32>; 2], // (bins) of the voiced and of the unvoiced chain
    from: [Vec<u16>; 2], // (bins)
    observed: Vec<f32>,  // (bins)
}

impl Hmm {
    fn new(bins: usize, hop: f64, options: &Pyin) -> Self {
        let per_semitone = options.bins_per_semitone.clamp(1, 20);
        let semitones = (options.max_transition_rate.clamp(0.0, 1000.0) * 12.0 * hop).round() as usize;
        let reach = (semitones * per_semitone / 2).min(bins - 1);
        let triangle: Vec<f64> = (0..=2 * reach).map(|i| 1.0 - i.abs_diff(reach) as f64 / (reach + 1) as f64).collect();
        let inside = |i: usize| (0..bins).filter(|j| j.abs_diff(i) <= reach).map(|j| triangle[j + reach - i]).sum::<f64>();
        let switch =
            if options.switch_probability.is_nan() { 0.01 } else { options.switch_probability.clamp(1e-12, 1.0 - 1e-12) };
        Self {
            bins,
            norms: (0..bins).map(|i| inside(i).ln() as f32).collect(),
            window: triangle.iter().map(|w| w.ln() as f32).collect(),
            stay: (1.0 - switch).ln() as f32,
            switch: switch.ln() as f32,
        }
    }

    /// Most probable pitch bin of every frame, `None` where unvoiced. Exact, in memory that does not grow with states times frames:
    /// scores are kept every [`SEGMENT`] frames, and the back pointers of a segment are redone when the path comes to it.
    fn decode(&self, blocks: &[Block], frames: usize) -> Vec<Option<usize>> {
        let observations: Vec<&[(u16, f32)]> = blocks.iter().flat_map(Block::frames).collect();
        let voicing: Vec<f32> = blocks.iter().flat_map(|b| b.voicing.iter().copied()).collect();
        let mut step = Step::new(self);
        let mut back = vec![[Back::default(); 2]; self.bins * SEGMENT.min(frames)];

        // 1. forward over all segments; the last one's pointers stay
        let mut checkpoints = vec![Scores { voiced: vec![0.0; self.bins], unvoiced: vec![0.0; self.bins] }];
        let segments = frames.div_ceil(SEGMENT);
        let run = |segment: usize, scores: &mut Scores, back: &mut [[Back; 2]], step: &mut Step| {
            for (k, i) in (segment * SEGMENT..((segment + 1) * SEGMENT).min(frames)).enumerate() {
                self.observe(observations[i], step);
                self.step(i == 0, voicing[i], scores, step, &mut back[k * self.bins..(k + 1) * self.bins]);
            }
        };
        for segment in 0..segments {
            let mut scores = checkpoints[segment].clone();
            run(segment, &mut scores, &mut back, &mut step);
            checkpoints.push(scores);
        }

        // 2. backward
        let mut state = checkpoints.pop().map_or((0, false), |last| last.best());
        let mut path = vec![None; frames];
        for segment in (0..segments).rev() {
            if segment + 1 < segments {
                run(segment, &mut checkpoints[segment].clone(), &mut back, &mut step);
            }
            for i in (segment * SEGMENT..((segment + 1) * SEGMENT).min(frames)).rev() {
                let (bin, unvoiced) = state;
                path[i] = (!unvoiced).then_some(bin);
                let from = back[(i - segment * SEGMENT) * self.bins + bin][usize::from(unvoiced)];
                state = (from.bin as usize, unvoiced != from.switched);
            }
        }
        path
    }

    fn observe(&self, bins: &[(u16, f32)], step: &mut Step) {
        step.observed.fill(IMPOSSIBLE);
        for &(bin, probability) in bins {
            step.observed[bin as usize] = probability.ln().max(IMPOSSIBLE);
        }
    }

    /// One frame forward.
    fn step(&self, first: bool, voicing: f32, scores: &mut Scores, step: &mut Step, back: &mut [[Back; 2]]) {
        let unvoiced = ((1.0 - voicing) / self.bins as f32).ln().max(IMPOSSIBLE);
        if first {
            scores.voiced.copy_from_slice(&step.observed);
            scores.unvoiced.fill(unvoiced);
            return;
        }
        // 1. within each chain, the best predecessor of every bin
        self.spread(&scores.voiced, 0, step);
        self.spread(&scores.unvoiced, 1, step);
        // 2. stay or switch, and what was observed
        let mut top = f32::NEG_INFINITY;
        for j in 0..self.bins {
            let [voiced, silent] = [step.best[0][j], step.best[1][j]];
            for (chain, (own, other)) in [(voiced, silent), (silent, voiced)].into_iter().enumerate() {
                let switched = other + self.switch > own + self.stay;
                let (score, from) = match switched {
                    true => (other + self.switch, step.from[1 - chain][j]),
                    false => (own + self.stay, step.from[chain][j]),
                };
                back[j][chain] = Back { bin: from, switched };
                let score = score + if chain == 0 { step.observed[j] } else { unvoiced };
                let target = if chain == 0 { &mut scores.voiced } else { &mut scores.unvoiced };
                target[j] = score;
                top = top.max(score);
            }
        }
        // 3. relative to the best, so that sums over hours keep their digits
        scores.voiced.iter_mut().chain(&mut scores.unvoiced).for_each(|s| *s -= top);
    }

    /// For every bin, the best of the chain's scores moved there by the triangle, or from anywhere as if impossible.
    fn spread(&self, scores: &[f32], chain: usize, step: &mut Step) {
        let reach = self.window.len() / 2;
        let (mut anywhere, mut place) = (f32::NEG_INFINITY, 0);
        for (i, (&score, norm)) in scores.iter().zip(&self.norms).enumerate() {
            step.padded[reach + i] = score - norm;
            if score > anywhere {
                (anywhere, place) = (score, i);
            }
        }
        let (best, from) = (&mut step.best[chain], &mut step.from[chain]);
        best.fill(anywhere + IMPOSSIBLE);
        from.fill(place as u16);
        for (d, w) in self.window.iter().enumerate() {
            // The mover comes from bin j + d - reach; outside of the bins the padding is minus infinity.
            for (j, (b, f)) in best.iter_mut().zip(from.iter_mut()).enumerate() {
                let score = step.padded[j + d] + w;
                let better = score > *b;
                *b = if better { score } else { *b };
                *f = if better { (j + d) as u16 } else { *f };
            }
        }
        let unset = anywhere + IMPOSSIBLE;
        for (f, b) in from.iter_mut().zip(best.iter()) {
            *f = if *b > unset { *f - reach as u16 } else { place as u16 };
        }
    }
}

impl Step {
    fn new(hmm: &Hmm) -> Self {
        let row = || vec![0.0; hmm.bins];
        Self {
            padded: vec![f32::NEG_INFINITY; hmm.bins + hmm.window.len() - 1],
            best: [row(), row()],
            from: [vec![0; hmm.bins], vec![0; hmm.bins]],
            observed: row(),
        }
    }
}

impl Scores {
    /// Bin and chain (true: unvoiced) of the best state.
    fn best(&self) -> (usize, bool) {
        let top = |s: &[f32]| s.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, &v)| if v > b.1 { (i, v) } else { b });
        let (voiced, silent) = (top(&self.voiced), top(&self.unvoiced));
        if silent.1 > voiced.1 { (silent.0, true) } else { (voiced.0, false) }
    }
}

impl Block {
    fn frames(&self) -> impl Iterator<Item = &[(u16, f32)]> {
        (0..self.ends.len()).map(|k| {
            let begin = k.checked_sub(1).map_or(0, |p| self.ends[p]);
            &self.bins[begin as usize..self.ends[k] as usize]
        })
    }
}
