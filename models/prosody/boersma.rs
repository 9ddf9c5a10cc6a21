//! F0 by autocorrelation with a least-cost path through the candidates: Boersma (1993), "Accurate short-term analysis of the
//! fundamental frequency and the harmonics-to-noise ratio of a sampled sound", IFA Proceedings 17, 97-110; as Praat's
//! "To Pitch (raw ac)".

use dreamseed_kernels::Pool;
use serde::{Deserialize, Serialize};

use super::{
    correlation::{Candidate, Correlation, Correlator, Search},
    pitch::{Bounds, PitchTrack},
};

/// Frames that one task analyses with one set of buffers.
const BLOCK: usize = 32;

/// Thresholds and costs; the defaults are Praat's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Boersma {
    /// Candidates a frame, "unvoiced" among them, 2..=64; at least ceiling / floor are kept.
    pub candidates: usize,
    /// Frames whose peak is below this share of the whole sound's tend to be unvoiced, 0..1.
    pub silence_threshold: f64,
    /// Strength of the unvoiced candidate, 0..1.
    pub voicing_threshold: f64,
    /// Favours high F0, per octave.
    pub octave_cost: f64,
    /// Cost of a jump between voiced frames 10 ms apart, per octave.
    pub octave_jump_cost: f64,
    /// Cost of a change between voiced and unvoiced 10 ms apart.
    pub voiced_unvoiced_cost: f64,
}

impl Default for Boersma {
    fn default() -> Self {
        Self {
            candidates: 15,
            silence_threshold: 0.03,
            voicing_threshold: 0.45,
            octave_cost: 0.01,
            octave_jump_cost: 0.35,
            voiced_unvoiced_cost: 0.14,
        }
    }
}

/// Consecutive frames with their candidates, flat.
#[derive(Clone, Default)]
struct Block {
    peaks: Vec<f64>,            // (frames), 0..1 of the sound's peak
    ends: Vec<u32>,             // (frames), end of each frame's candidates
    candidates: Vec<Candidate>, // (all frames)
}

/// F0 of `pcm` (16 kHz, finite) between `bounds`, a frame every `hop` seconds.
pub(super) fn track(pool: &Pool, pcm: &[f32], bounds: Bounds, hop: f64, costs: &Boersma) -> PitchTrack {
    let search = Search {
        correlation: Correlation::Auto,
        floor: bounds.floor,
        candidates: costs.candidates.clamp(2, 64).max((bounds.ceiling / bounds.floor) as usize) - 1,
        voicing_threshold: costs.voicing_threshold,
        octave_cost: costs.octave_cost,
        highest_only: false,
    };
    let correlator = Correlator::new(search, pcm);
    let grid = correlator.grid(hop);
    let mut blocks = vec![Block::default(); grid.len.div_ceil(BLOCK)];
    pool.for_each_chunk(&mut blocks, 1, |b, block| {
        let mut scratch = correlator.scratch();
        for i in b * BLOCK..((b + 1) * BLOCK).min(grid.len) {
            let block = &mut block[0];
            let peak = correlator.frame(grid.time(i), &mut scratch, &mut block.candidates);
            block.peaks.push(peak);
            block.ends.push(block.candidates.len() as u32);
        }
    });
    let (f0, voicing) = path(&blocks, grid.len, bounds, hop, costs);
    PitchTrack { start: grid.start, hop, f0, voicing }
}

/// A state of the path: a candidate, or unvoiced.
#[derive(Clone, Copy)]
struct State {
    /// log2 of the frequency; `None` for unvoiced.
    octave: Option<f64>,
    score: f64,
}

/// The path with the highest sum of strengths less costs (Boersma 1993, eqs. 23 to 27), by dynamic programming.
fn path(blocks: &[Block], frames: usize, bounds: Bounds, hop: f64, costs: &Boersma) -> (Vec<Option<f32>>, Vec<f32>) {
    let per_frame = 0.01 / hop;
    let jump_cost = costs.octave_jump_cost * per_frame;
    let switch_cost = costs.voiced_unvoiced_cost * per_frame;
    let ceiling = bounds.ceiling.log2();

    // 1. forward: best predecessor of every state; state 0 of each frame is "unvoiced"
    let mut before: Vec<State> = Vec::new();
    let mut now: Vec<State> = Vec::new();
    let mut back: Vec<u8> = Vec::new();
    for (peak, candidates) in blocks.iter().flat_map(Block::frames) {
        now.clear();
        now.push(State { octave: None, score: unvoiced_strength(peak, costs) });
        now.extend(candidates.iter().map(|c| voiced_state(c, ceiling, bounds.ceiling, peak, costs)));
        for state in &mut now {
            let (mut best, mut place) = (if before.is_empty() { 0.0 } else { f64::NEG_INFINITY }, 0);
            for (j, previous) in before.iter().enumerate() {
                let cost = match (previous.octave, state.octave) {
                    (None, None) => 0.0,
                    (Some(a), Some(b)) => jump_cost * (a - b).abs(),
                    _ => switch_cost,
                };
                if previous.score - cost > best {
                    (best, place) = (previous.score - cost, j);
                }
            }
            state.score += best;
            back.push(place as u8);
        }
        std::mem::swap(&mut before, &mut now);
    }

    // 2. backward from the best last state
    let mut place = 0;
    for (j, state) in before.iter().enumerate() {
        if state.score > before[place].score {
            place = j;
        }
    }
    let (mut f0, mut voicing) = (vec![None; frames], vec![0.0; frames]);
    let mut end = back.len();
    let mut i = frames;
    for block in blocks.iter().rev() {
        for k in (0..block.peaks.len()).rev() {
            i -= 1;
            let candidates = block.candidates(k);
            let chosen = place.checked_sub(1).map(|c| candidates[c]).filter(|c| c.frequency < bounds.ceiling);
            f0[i] = chosen.map(|c| c.frequency as f32);
            let strongest = || candidates.iter().map(|c| c.strength).fold(0.0, f64::max);
            voicing[i] = chosen.map_or_else(strongest, |c| c.strength).clamp(0.0, 1.0) as f32;
            end -= candidates.len() + 1;
            place = back[end + place] as usize;
        }
    }
    (f0, voicing)
}

fn unvoiced_strength(peak: f64, costs: &Boersma) -> f64 {
    let silence = if costs.silence_threshold <= 0.0 {
        0.0
    } else {
        2.0 - peak * (1.0 + costs.voicing_threshold) / costs.silence_threshold
    };
    costs.voicing_threshold + silence.max(0.0)
}

/// A candidate at or over the ceiling counts as unvoiced.
fn voiced_state(c: &Candidate, log_ceiling: f64, ceiling: f64, peak: f64, costs: &Boersma) -> State {
    if c.frequency >= ceiling {
        return State { octave: None, score: unvoiced_strength(peak, costs) };
    }
    let octave = c.frequency.log2();
    State { octave: Some(octave), score: c.strength - costs.octave_cost * (log_ceiling - octave) }
}

impl Block {
    fn candidates(&self, k: usize) -> &[Candidate] {
        let begin = k.checked_sub(1).map_or(0, |p| self.ends[p]);
        &self.candidates[begin as usize..self.ends[k] as usize]
    }

    fn frames(&self) -> impl Iterator<Item = (f64, &[Candidate])> {
        self.peaks.iter().enumerate().map(|(k, &peak)| (peak, self.candidates(k)))
    }
}
