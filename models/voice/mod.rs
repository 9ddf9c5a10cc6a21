//! Voice activity: where in a recording somebody speaks, from energy and spectrum, frame by frame as the sound comes.
//!
//! Every 10 ms the levels of 16 bands (150 to 3800 Hz) are held against the noise under them, which is the minimum of the last three
//! seconds (Martin 2001). Sound that rises above it is activity; activity is speech when it moves as speech does, in syllables, or
//! vibrates and moves a little. Noise, hum and silence move by less than that whatever their level, and a click is over too soon.
//! Two thresholds, shortest lengths and padding make spans of it. The detector keeps what it doubts: a span without speech costs
//! time, a lost word is lost. So music, animals and the clatter of dishes count as speech.
//!
//! Audio is mono at 16 kHz, full scale 1; it may come from 8 kHz.

mod features;
mod noise;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use features::{FRAME, Features, Frame};

/// Samples a second.
pub const SAMPLE_RATE: usize = 16_000;
/// Samples from one frame to the next, 10 ms.
pub const HOP: usize = 160;
/// Louder samples count as this loud: sums of squares would lose their meaning.
const LOUDEST: f32 = 100.0;

/// Mean level above the noise at which activity begins, and at which it goes on, dB.
const BEGINS_DB: f32 = 3.0;
const GOES_ON_DB: f32 = 2.0;
/// Frames that are looked back on to tell whether activity is speech, half a second.
const LOOK: usize = 50;
/// Frames of activity among them that speech has, at least.
const ACTIVE: usize = 8;
/// Change of level within [`APART`] frames that noise does not reach, dB, and the most that one change counts.
const MOVES_DB: f32 = 2.0;
const MOST_DB: f32 = 4.0;
/// Voiced sound moves by more than this even in a held vowel; hum does not.
const TREMBLES_DB: f32 = 0.5;
const APART: usize = 3;
/// Sum of the changes beyond [`MOVES_DB`] among the frames that are looked back on, dB.
const MOVEMENT: f32 = 8.0;
/// Autocorrelation of a voiced frame.
const VOICED: f32 = 0.6;

/// A stretch of time in samples from the start of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First sample.
    pub start: usize,
    /// One after the last.
    pub end: usize,
}

impl Span {
    /// Start and end in seconds.
    pub fn seconds(&self) -> [f64; 2] {
        [self.start, self.end].map(|at| at as f64 / SAMPLE_RATE as f64)
    }
}

/// Lengths in seconds. Values outside of the ranges are brought to the nearest end, those that are not numbers to the default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Silence that ends a span, 0.1..=10.
    pub min_silence: f64,
    /// Kept before and after what was found, 0..=2, at most half of `min_silence`.
    pub padding: f64,
}

impl Default for Options {
    /// Only silence that is longer than the pauses within a speech is cut.
    fn default() -> Self {
        Self { min_silence: 2.0, padding: 0.4 }
    }
}

/// Where speech is in a whole recording: ascending, apart, within it.
pub fn speech(pcm: &[f32], options: &Options) -> Vec<Span> {
    let mut detector = Detector::new(options);
    detector.push(pcm);
    detector.finish()
}

/// Finds speech in sound as it comes.
pub struct Detector {
    features: Features,
    pending: Vec<f32>,            // what is not measured yet, FRAME - HOP samples of context first
    min_silence: usize,           // frames
    padding: usize,               // samples
    frames: usize,                // measured
    samples: usize,               // seen
    recent: VecDeque<Frame>,      // LOOK, the newest last
    active: VecDeque<bool>,       // beside `recent`
    quiet: usize,                 // frames since the last activity
    onset: usize,                 // frame at which the activity under way began
    open: Option<(usize, usize)>, // first frame of the span under way, one after its last active frame
    closed: Vec<Span>,
    until: usize, // end of the last closed span, samples
}

impl Detector {
    /// A detector at the start of a stream.
    pub fn new(options: &Options) -> Self {
        let standard = Options::default();
        let within = |x: f64, (low, high): (f64, f64), default: f64| if x.is_nan() { default } else { x.clamp(low, high) };
        let silence = within(options.min_silence, (0.1, 10.0), standard.min_silence);
        let padding = within(options.padding, (0.0, 2.0), standard.padding).min(silence / 2.0);
        Self {
            features: Features::new(),
            pending: vec![0.0; FRAME - HOP],
            min_silence: (silence * (SAMPLE_RATE / HOP) as f64).round() as usize,
            padding: (padding * (SAMPLE_RATE / HOP) as f64).round() as usize * HOP,
            frames: 0,
            samples: 0,
            recent: VecDeque::with_capacity(LOOK + 1),
            active: VecDeque::with_capacity(LOOK + 1),
            quiet: usize::MAX,
            onset: 0,
            open: None,
            closed: Vec::new(),
            until: 0,
        }
    }

    /// Takes the next samples, any number; those that are not finite count as silence.
    pub fn push(&mut self, pcm: &[f32]) {
        self.samples += pcm.len();
        for part in pcm.chunks(SAMPLE_RATE) {
            self.pending.extend(part.iter().map(|x| if x.is_finite() { x.clamp(-LOUDEST, LOUDEST) } else { 0.0 }));
            let mut at = 0;
            while at + FRAME <= self.pending.len() {
                let frame = self.features.measure(&self.pending[at..at + FRAME]);
                self.step(frame);
                at += HOP;
            }
            self.pending.drain(..at);
        }
    }

    /// Spans that are over, with their padding, since this was last asked.
    pub fn closed(&mut self) -> Vec<Span> {
        std::mem::take(&mut self.closed)
    }

    /// The span under way: its first sample with padding, and one after the last sample that was active.
    pub fn open(&self) -> Option<Span> {
        let (first, end) = self.open?;
        Some(Span { start: self.begin(first), end: (end * HOP).min(self.samples) })
    }

    /// Ends the stream; the spans that [`Self::closed`] has not given yet.
    pub fn finish(mut self) -> Vec<Span> {
        self.close();
        self.closed
    }

    fn step(&mut self, frame: Frame) {
        // 1. activity: begins above one threshold, goes on above another
        let going_on = self.active.back().copied().unwrap_or(false);
        let active = frame.above > if going_on { GOES_ON_DB } else { BEGINS_DB };
        if active && self.quiet > LOOK / 2 {
            self.onset = self.frames;
        }
        self.quiet = if active { 0 } else { self.quiet.saturating_add(1) };
        if self.recent.len() == LOOK {
            self.recent.pop_front();
            self.active.pop_front();
        }
        self.recent.push_back(frame);
        self.active.push_back(active);
        self.frames += 1;
        // 2. spans
        match self.open {
            Some((first, _)) if active => self.open = Some((first, self.frames)),
            Some((_, end)) if self.frames - end >= self.min_silence => self.close(),
            None if active && self.is_speech() => self.open = Some((self.onset, self.frames)),
            _ => {}
        }
    }

    /// Whether the activity of the last half second moves as speech does.
    fn is_speech(&self) -> bool {
        let (mut frames, mut movement) = (0, 0.0);
        for i in (0..self.recent.len()).filter(|i| self.active[*i]) {
            frames += 1;
            // the first frames of an activity rise from the noise: any sound does
            if i < 2 * APART || !(i - 2 * APART..i).all(|j| self.active[j]) {
                continue;
            }
            let (now, before) = (self.recent[i], self.recent[i - APART]);
            let change = (now.level - before.level).abs();
            let voiced = now.periodicity > VOICED && before.periodicity > VOICED;
            movement +=
                if voiced && change > TREMBLES_DB { change.min(MOST_DB) } else { (change - MOVES_DB).clamp(0.0, MOST_DB) };
        }
        frames >= ACTIVE && movement >= MOVEMENT
    }

    /// First sample of a span whose first frame is `frame`: with its padding, after the span before.
    fn begin(&self, frame: usize) -> usize {
        // frame i ends with sample (i + 1) HOP and looks FRAME samples back; its centre counts
        let start = (frame * HOP).saturating_sub(self.padding + FRAME / 2 - HOP);
        // what is softer at the very start of a recording has no noise to stand out from
        let start = if start < SAMPLE_RATE { 0 } else { start / HOP * HOP };
        start.max(self.until)
    }

    fn close(&mut self) {
        if let Some((first, end)) = self.open.take() {
            let end = (end * HOP + self.padding).min(self.samples);
            self.closed.push(Span { start: self.begin(first).min(end), end });
            self.until = end;
            self.quiet = usize::MAX;
        }
    }
}
