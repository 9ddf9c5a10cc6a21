//! Speech to text while it is spoken: sound comes in pieces of any size, words go out as soon as they are certain.
//!
//! What is held of the sound is decoded every [`Options::step`] seconds; words on which two hypotheses in a row agree are final
//! (LocalAgreement-2, Liu et al. 2020; Machacek et al. 2023). Silence of [`Options::silence`] makes all words before it final at
//! once and costs nothing; after two seconds of it the sound before is forgotten. Final words are the prompt of what follows.
//!
//! Delay: while computation keeps up, a word is final at the latest [`Options::max_delay`] + [`Options::step`] seconds and the time of
//! one decoding after it ended, or [`Options::silence`] and one decoding into a pause, whichever comes first; most are final after
//! two steps. A caller that is slow pushes more at once, and fewer decodings are made of it.

use dreamseed_kernels::Pool;
use serde::Serialize;

use super::agreement::{Agreement, Heard};
use super::decode::{Search, compression_ratio};
use super::options::{Error, Result, Windows};
use super::transcribe::{Buffers, Session};
use super::{Segment, Transcript, Whisper, Word};
use crate::voice::{self, Detector, HOP, SAMPLE_RATE};

/// Samples that are looked at for speech at once, 0.1 s.
const PIECE: usize = SAMPLE_RATE / 10;
/// Held before speech is found: the detector looks half a second back, and pads.
const BEFORE: usize = 3 * SAMPLE_RATE / 2;
/// Silence that ends the context of what was said before it.
const APART: usize = 2 * SAMPLE_RATE;
/// From this length on what is held is cut after a sentence, and in any case before [`LONGEST`].
const LONG: usize = 15 * SAMPLE_RATE;
const LONGEST: usize = 20 * SAMPLE_RATE;
/// Sound from which a language can be told.
const TELLING: usize = 5 * SAMPLE_RATE;
/// A decoding that saw this much after the last sound of an utterance has heard all of it.
const HEARD: usize = SAMPLE_RATE / 5;
const SENTENCE_END: &str = ".。!！?？";

/// When words go out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Seconds of new sound between two decodings, 0.2 to 10.
    pub step: f64,
    /// Seconds after which a word is final even where hypotheses differ about it, 1 to 15.
    pub max_delay: f64,
    /// Seconds of silence that make all words before it final, 0.2 to 2.
    pub silence: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { step: 1.0, max_delay: 4.0, silence: 0.6 }
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        let ranges =
            [("step", self.step, 0.2, 10.0), ("max_delay", self.max_delay, 1.0, 15.0), ("silence", self.silence, 0.2, 2.0)];
        match ranges.iter().find(|(_, seen, low, high)| !(*low..=*high).contains(seen)) {
            Some((name, seen, low, high)) => Err(Error::option(name, format!("{seen} seen, {low} to {high} s is allowed"))),
            None => Ok(()),
        }
    }
}

/// What happened. Times are seconds from the start of the stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The words after the final ones as they look now; they replace those of the last such event.
    Partial {
        /// May be none.
        words: Vec<Word>,
        /// Final words of the stream so far: they stand before these and never change.
        stable: usize,
    },
    /// Further words that never change.
    Final {
        /// At least one.
        words: Vec<Word>,
    },
    /// A segment whose words are all final: a sentence, or what was said before a long silence.
    Segment {
        /// With its words.
        segment: Segment,
    },
}

/// One stream of speech under way. Streams share nothing but the weights.
pub struct Stream<'a> {
    whisper: &'a Whisper,
    pool: &'a Pool,
    options: super::Options,
    timing: Options,
    search: Search,      // of what is final
    provisional: Search, // of what may still change: greedy, once
    detector: Detector,
    speaking: bool,
    voiced_until: usize, // one after the last sample that was active
    held: Vec<f32>,
    start: usize,      // of `held` in the stream, a multiple of HOP
    samples: usize,    // of the stream
    decoded_to: usize, // one after the last sample that was decoded
    trusted: bool,     // whether the last hypothesis was probable and did not repeat itself
    agreement: Agreement,
    history: Vec<u32>, // tokens of what is final and no longer held
    stable: usize,
    segment: Segment, // under way
    transcript: Transcript,
    buffers: Buffers, // of all decodings
}

impl Whisper {
    /// Begins a stream. Word times are always made; `options.task` and `options.language` hold for all of it, a language that is not
    /// given is found once five seconds or an utterance were heard.
    ///
    /// # Errors
    /// [`Error::Option`] for values that are out of range or that this model cannot do.
    pub fn stream<'a>(&'a self, pool: &'a Pool, options: &super::Options, timing: Options) -> Result<Stream<'a>> {
        timing.check()?;
        let search = options.search()?;
        let provisional = super::Options { temperatures: vec![0.0], beam_size: 1, ..options.clone() }.search()?;
        // what is held is shorter than a window
        let words = super::Options { word_timestamps: true, timestamps: true, windows: Windows::InTurn, ..options.clone() };
        let session = Session::new(self, pool, &[], &words, &search, Buffers::default())?;
        let (history, buffers) = (session.history.clone(), session.into_buffers());
        let detecting = voice::Options { min_silence: timing.silence, ..voice::Options::default() };
        Ok(Stream {
            whisper: self,
            pool,
            options: super::Options { initial_prompt: None, ..words },
            timing,
            search,
            provisional,
            detector: Detector::new(&detecting),
            speaking: false,
            voiced_until: 0,
            held: Vec::new(),
            start: 0,
            samples: 0,
            decoded_to: 0,
            trusted: false,
            agreement: Agreement::default(),
            history,
            stable: 0,
            segment: Segment::default(),
            transcript: Transcript { language: options.language.clone().unwrap_or_default(), ..Transcript::default() },
            buffers,
        })
    }
}

impl Stream<'_> {
    /// Takes the next samples (mono, 16 kHz, full scale 1), any number; decodes where a step is due.
    ///
    /// # Errors
    /// None for a checked model.
    pub fn push(&mut self, pcm: &[f32]) -> Result<Vec<Event>> {
        let mut events = self.hear(pcm)?;
        let step = (self.timing.step * SAMPLE_RATE as f64) as usize;
        if self.speaking && self.samples >= self.decoded_to + step {
            self.provision(&mut events)?;
        }
        Ok(events)
    }

    /// Takes samples as [`Self::push`] does, but decodes only what cannot wait: pauses, and sound beyond what is held.
    ///
    /// # Errors
    /// None for a checked model.
    pub fn hear(&mut self, pcm: &[f32]) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        for piece in pcm.chunks(PIECE) {
            self.held.extend(piece.iter().map(|x| if x.is_finite() { *x } else { 0.0 }));
            self.samples += piece.len();
            self.look(piece, &mut events)?;
            if !self.speaking && self.samples > self.voiced_until + APART {
                self.part(&mut events);
            }
            if self.held.len() >= LONGEST {
                self.provision(&mut events)?;
                self.shorten(&mut events);
            }
        }
        Ok(events)
    }

    /// Ends the stream: what is left becomes final.
    ///
    /// # Errors
    /// None for a checked model.
    pub fn finish(mut self) -> Result<(Vec<Event>, Transcript)> {
        let mut events = Vec::new();
        if self.speaking {
            self.settle(&mut events)?;
        }
        self.part(&mut events);
        self.transcript.duration = self.samples as f64 / SAMPLE_RATE as f64;
        let text: String = self.transcript.segments.iter().map(|s| s.text.as_str()).collect();
        self.transcript.text = text.trim().to_string();
        Ok((events, self.transcript))
    }

    /// Whether somebody speaks.
    fn look(&mut self, piece: &[f32], events: &mut Vec<Event>) -> Result<()> {
        if !self.options.vad {
            (self.speaking, self.voiced_until) = (true, self.samples);
            return Ok(());
        }
        self.detector.push(piece);
        let closed = self.detector.closed();
        if self.speaking && !closed.is_empty() {
            self.settle(events)?;
        }
        if let Some(span) = self.detector.open() {
            if !self.speaking && self.agreement.confirmed.is_empty() {
                self.drop_before(span.start);
                self.decoded_to = self.start;
            }
            (self.speaking, self.voiced_until) = (true, span.end);
        }
        Ok(())
    }

    /// The end of an utterance: all of its words are final.
    fn settle(&mut self, events: &mut Vec<Event>) -> Result<()> {
        self.speaking = false;
        if self.trusted && self.decoded_to >= (self.voiced_until + HEARD).min(self.samples) {
            self.agreement.confirm(usize::MAX);
        } else {
            let hypothesis = self.decode(self.samples, false)?;
            self.agreement.take(hypothesis, f64::INFINITY);
        }
        self.tell(events);
        if !self.transcript.language.is_empty() && self.stable > 0 {
            self.options.language = Some(self.transcript.language.clone());
        }
        if self.held.len() >= LONG {
            self.part(events);
        }
        Ok(())
    }

    /// What is held as it looks now.
    fn provision(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let hypothesis = self.decode(self.samples, true)?;
        // a text that repeats itself says nothing: the next one will
        if self.trusted || hypothesis.is_empty() {
            let overdue = self.samples as f64 / SAMPLE_RATE as f64 - self.timing.max_delay;
            self.agreement.take(hypothesis, overdue);
        }
        if self.held.len() >= TELLING && self.stable > 0 && !self.transcript.language.is_empty() {
            self.options.language = Some(self.transcript.language.clone());
        }
        self.tell(events);
        let words = self.agreement.rest.iter().map(|h| h.word.clone()).collect();
        events.push(Event::Partial { words, stable: self.stable });
        if self.held.len() >= LONG {
            self.cut_after_sentence();
        }
        Ok(())
    }

    /// Words of what is held up to sample `end` of the stream, on its clock.
    fn decode(&mut self, end: usize, provisional: bool) -> Result<Vec<Heard>> {
        let pcm = self.held.get(..end - self.start).unwrap_or(&self.held);
        let options = super::Options { vad: false, ..self.options.clone() };
        let search = if provisional { &self.provisional } else { &self.search };
        let mut session = Session::new(self.whisper, self.pool, pcm, &options, search, std::mem::take(&mut self.buffers))?;
        session.provisional = provisional;
        session.history.clone_from(&self.history);
        let transcript = session.run(&mut |_| std::ops::ControlFlow::Continue(()))?;
        self.buffers = session.into_buffers();
        self.decoded_to = end;
        let probable = transcript.segments.iter().all(|s| s.avg_logprob >= search.logprob_threshold);
        self.trusted = probable && compression_ratio(&transcript.text) <= search.compression_ratio_threshold;
        if !transcript.language.is_empty() {
            self.transcript.language = transcript.language;
        }
        let offset = self.start as f64 / SAMPLE_RATE as f64;
        let shift = |t: f64| ((t + offset) * 100.0).round() / 100.0;
        let mut heard = Vec::new();
        for Segment { words, avg_logprob, no_speech_prob, .. } in transcript.segments {
            heard.extend(words.into_iter().map(|word| {
                let word = Word { start: shift(word.start), end: shift(word.end), ..word };
                Heard { word, avg_logprob, no_speech_prob }
            }));
        }
        Ok(heard)
    }

    /// Sends the words that became final, and the segments that they end.
    fn tell(&mut self, events: &mut Vec<Event>) {
        let held = self.agreement.confirmed.len();
        let new = held - self.agreement.told;
        let words: Vec<Word> = self.agreement.confirmed[held - new..].iter().map(|h| h.word.clone()).collect();
        if words.is_empty() {
            return;
        }
        events.push(Event::Final { words });
        for i in held - new..held {
            let Heard { word, avg_logprob, no_speech_prob } = self.agreement.confirmed[i].clone();
            let segment = &mut self.segment;
            if segment.words.is_empty() {
                *segment = Segment { start: word.start, avg_logprob, no_speech_prob, ..Segment::default() };
            }
            segment.end = word.end;
            segment.text.push_str(&word.word);
            let ends = word.word.ends_with(|c| SENTENCE_END.contains(c));
            segment.words.push(word);
            if ends {
                self.end_segment(events);
            }
        }
        self.stable += new;
        self.agreement.told = held;
    }

    fn end_segment(&mut self, events: &mut Vec<Event>) {
        let segment = std::mem::take(&mut self.segment);
        if !segment.words.is_empty() {
            self.transcript.segments.push(segment.clone());
            events.push(Event::Segment { segment });
        }
    }

    /// Nothing of the sound so far is needed, but what may be the start of the next utterance.
    fn part(&mut self, events: &mut Vec<Event>) {
        self.agreement.rest.clear();
        self.forget(usize::MAX);
        self.end_segment(events);
        self.drop_before(self.samples.saturating_sub(BEFORE));
        self.trusted = false;
    }

    /// Cuts what is held after its last final sentence.
    fn cut_after_sentence(&mut self) {
        let ends = |h: &Heard| h.word.word.ends_with(|c| SENTENCE_END.contains(c));
        if let Some(last) = self.agreement.confirmed.iter().rposition(ends) {
            self.cut_after(last);
        }
    }

    /// Makes what is held shorter than [`LONGEST`], whatever was heard in it.
    fn shorten(&mut self, events: &mut Vec<Event>) {
        const LEAVES: usize = LONG;
        if self.held.len() >= LEAVES && !self.agreement.confirmed.is_empty() {
            self.cut_after(self.agreement.confirmed.len() - 1);
        }
        if self.held.len() >= LEAVES && self.agreement.rest.len() > 2 {
            self.agreement.confirm(self.agreement.rest.len() - 2);
            self.tell(events);
            self.cut_after(self.agreement.confirmed.len() - 1);
        }
        if self.held.len() >= LEAVES {
            self.drop_before(self.samples - LONGEST / 4);
        }
    }

    /// Cuts what is held between the confirmed word `last` and the one after it.
    fn cut_after(&mut self, last: usize) {
        let words = &self.agreement.confirmed;
        let Some(end) = words.get(last).map(|h| h.word.end) else { return };
        let next = words.get(last + 1).or(self.agreement.rest.first()).map_or(end, |h| h.word.start.max(end));
        self.forget(last + 1);
        self.drop_before(((end + next) / 2.0 * SAMPLE_RATE as f64) as usize);
    }

    /// The first final words that are held are so no longer, but a prompt.
    fn forget(&mut self, count: usize) {
        if self.agreement.confirmed.is_empty() {
            return;
        }
        let text: String = self.agreement.forget(count).iter().map(|h| h.word.word.as_str()).collect();
        if !self.options.condition_on_previous_text {
            self.history.clear();
        } else if let Some(tokens) = self.whisper.tokens.encode(&text) {
            self.history.extend(tokens);
            let room = self.whisper.model.config().n_text_ctx / 2;
            self.history.drain(..self.history.len().saturating_sub(room));
        }
    }

    fn drop_before(&mut self, sample: usize) {
        let count = (sample.saturating_sub(self.start) / HOP * HOP).min(self.held.len() / HOP * HOP);
        self.held.drain(..count);
        self.start += count;
    }
}
