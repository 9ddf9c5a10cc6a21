//! Recordings of any length: windows of 30 s, each beginning where the last certain segment ended (openai/whisper
//! `transcribe.py`; Radford et al. 2022, section 4.5); or, side by side, those of stretches that silences or cuts divide.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};

use dreamseed_kernels::Pool;

use super::align::{Aligner, Spoken, distribute};
use super::cuts::Cuts;
use super::decode::{self, Ask, Decoder, Outcome, Search};
use super::mel::{HOP, Mel, SAMPLE_RATE};
use super::model::{Cross, EncoderState};
use super::options::{Error, Options, Result, Task, Windows};
use super::timestamps::{Slice, cut};
use super::{Progress, Segment, Transcript, Whisper, silence};
use crate::voice;

const FRAMES_PER_SECOND: f64 = (SAMPLE_RATE / HOP) as f64;
/// Mel frames a step of the timestamps.
const FRAMES_PER_STEP: usize = 2;
/// A window begins at least this much after the one before, whatever the model says.
const LEAST_ADVANCE: usize = 10;
/// Above this temperature a window's text is too uncertain to be the next one's prompt.
const PROMPT_RESET_TEMPERATURE: f32 = 0.5;

/// Windows decoded side by side, at most: by then reading the weights is a small part of each.
const SIDE_BY_SIDE: usize = 8;
/// Memory for the audio of windows decoded side by side, bytes.
const AUDIO_BYTES: usize = 256 << 20;

/// One transcription under way.
pub(super) struct Session<'a> {
    whisper: &'a Whisper,
    pool: &'a Pool,
    options: &'a Options,
    pcm: Cow<'a, [f32]>, // of the recording what is kept
    cuts: Option<Cuts>,
    mel: Mel,
    encoder: EncoderState,
    audio: Vec<Cross>,  // of the windows that are decoded side by side
    features: Vec<f32>, // (window_frames, n_mels), zero where the recording ended
    decoder: Decoder<'a>,
    language: Option<u32>,
    side_by_side: usize, // windows, at most
    /// Tokens that went before.
    pub(super) history: Vec<u32>,
    /// One window and no more, whose unfinished end is taken as it is: what may be said of sound that goes on.
    pub(super) provisional: bool,
    transcript: Transcript,
}

/// What transcriptions compute in: kept from one to the next it is made once.
#[derive(Default)]
pub(super) struct Buffers {
    encoder: EncoderState,
    audio: Vec<Cross>,
    features: Vec<f32>,
    decoder: decode::Buffers,
}

/// A part of the recording whose windows follow each other: each begins where the last certain segment of the one before ended.
struct Stretch {
    next: usize, // mel frame
    end: usize,
    history: Vec<u32>, // tokens of all windows since the last reset
    spoken_until: f64, // seconds
    segments: Vec<Segment>,
}

/// A window of the recording, in mel frames.
#[derive(Clone, Copy)]
struct Window {
    start: usize,
    frames: usize,
}

/// A window that went through the encoder.
struct Encoded {
    stretch: usize,
    window: Window,
    steady: bool,
}

impl Stretch {
    fn is_done(&self) -> bool {
        self.next >= self.end
    }

    /// Goes on at a frame; what is left is done too where it is too short to hold a word and more follows (`total` frames there are).
    fn go_on(&mut self, next: usize, total: usize) {
        let short = self.end < total && self.end.saturating_sub(next) < LEAST_ADVANCE;
        self.next = if short { self.end } else { next };
    }
}

impl<'a> Session<'a> {
    pub(super) fn new(
        whisper: &'a Whisper,
        pool: &'a Pool,
        pcm: &'a [f32],
        options: &'a Options,
        search: &'a Search,
        buffers: Buffers,
    ) -> Result<Self> {
        let tokens = &whisper.tokens;
        let language = match (&options.language, tokens.languages.as_slice()) {
            (None, _) => None,
            (Some(code), []) if code == "en" => None,
            (Some(code), known) => {
                let found = known.iter().find(|(c, _)| c == code).map(|(_, id)| *id);
                let allowed: Vec<&str> = known.iter().map(|(c, _)| c.as_str()).collect();
                let allowed = if known.is_empty() { "en (an English-only model)".into() } else { allowed.join(" ") };
                Some(found.ok_or_else(|| Error::option("language", format!("{code:?} is not one of {allowed}")))?)
            }
        };
        if options.task == Task::Translate && (tokens.languages.is_empty() || tokens.translate.is_none()) {
            return Err(Error::option("task", "this model does not translate; take a multilingual one".into()));
        }
        let mut history = Vec::new();
        if let Some(prompt) = options.initial_prompt.as_deref().map(str::trim).filter(|p| !p.is_empty()) {
            let problem = "the model's folder has no tokenizer.json, which is needed to read a prompt";
            history = tokens.encode(&format!(" {prompt}")).ok_or_else(|| Error::option("initial_prompt", problem.into()))?;
        }
        let english = options.language.clone().or_else(|| tokens.languages.is_empty().then(|| "en".to_string()));
        let duration = pcm.len() as f64 / SAMPLE_RATE as f64;
        let transcript = Transcript { language: english.unwrap_or_default(), duration, ..Transcript::default() };
        let cuts = options.vad.then(|| Cuts::new(voice::speech(pcm, &voice::Options::default())));
        let pcm = cuts.as_ref().map_or(Cow::Borrowed(pcm), |cuts| Cow::Owned(cuts.keep(pcm)));
        let mel = whisper.model.features(pool, &whisper.mel, &pcm)?;
        let (stretches, windows) =
            (cuts.as_ref().map_or(1, Cuts::len), mel.frames().div_ceil(whisper.model.config().window_frames()));
        let together = (AUDIO_BYTES / whisper.model.cross_bytes().max(1)).clamp(1, SIDE_BY_SIDE);
        let side_by_side = match options.windows {
            Windows::InTurn => 1,
            Windows::Together => together.min(stretches).max(1),
            Windows::Cut => together.min(stretches + windows).max(1), // what is cut may be shorter than a window
        };
        Ok(Self {
            whisper,
            pool,
            options,
            mel,
            pcm,
            cuts,
            encoder: buffers.encoder,
            audio: buffers.audio,
            features: buffers.features,
            decoder: Decoder::new(&whisper.model, tokens, pool, search, side_by_side, buffers.decoder)?,
            language,
            side_by_side,
            history,
            provisional: false,
            transcript,
        })
    }

    pub(super) fn into_buffers(self) -> Buffers {
        let Self { encoder, audio, features, decoder, .. } = self;
        Buffers { encoder, audio, features, decoder: decoder.into_buffers() }
    }

    /// Window after window to the end, or until `progress` says stop: what is there by then is returned.
    pub(super) fn run(&mut self, progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Transcript> {
        let mut left = VecDeque::from(self.stretches());
        while !left.is_empty() {
            let known = !self.transcript.language.is_empty();
            let ready = match self.options.windows {
                Windows::InTurn => 1, // the next stretch waits for the text of this one
                Windows::Together | Windows::Cut => left.len(),
            };
            if self.round(&mut left.make_contiguous()[..ready], progress)?.is_break() {
                break;
            }
            if !known
                && !self.transcript.language.is_empty()
                && progress(Progress::Language(&self.transcript.language)).is_break()
            {
                break;
            }
            if self.hand_out(&mut left, progress).is_break() {
                break;
            }
        }
        self.transcript.text = self.transcript.text.trim().to_string();
        Ok(std::mem::take(&mut self.transcript))
    }

    /// The parts of the recording that may be decoded side by side, in order. None reaches over a cut: what was said there has nothing to
    /// do with it, and would draw words away from their times.
    fn stretches(&self) -> Vec<Stretch> {
        let total = self.mel.frames();
        let frames = |span: Range<usize>| (span.start / HOP).min(total)..span.end.div_ceil(HOP).min(total);
        let spans: Vec<Range<usize>> = match &self.cuts {
            Some(cuts) => cuts.kept().map(frames).collect(),
            None => std::iter::once(0..total).collect(),
        };
        let longest = self.whisper.model.config().window_frames();
        let parts = spans.into_iter().flat_map(|span| match self.options.windows {
            Windows::InTurn | Windows::Together => vec![span],
            Windows::Cut => silence::cut(&self.pcm, span, longest),
        });
        let stretch = |(i, part): (usize, Range<usize>)| {
            let apart = self.options.windows != Windows::InTurn;
            let history = if apart || i == 0 { self.history.clone() } else { Vec::new() };
            let spoken_until = if apart { part.start as f64 / FRAMES_PER_SECOND } else { 0.0 };
            Stretch { next: part.start, end: part.end, history, spoken_until, segments: Vec::new() }
        };
        parts.filter(|part| !part.is_empty()).enumerate().map(stretch).collect()
    }

    /// The next windows of the first stretches, side by side. `Break` where `progress` said stop.
    fn round(
        &mut self,
        stretches: &mut [Stretch],
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        // 1. encoder, and what the decoder looks at
        let Some(encoded) = self.encode(stretches, progress)? else { return Ok(ControlFlow::Break(())) };
        if encoded.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        // 2. language, until something was said in it
        let unknown = self.transcript.language.is_empty();
        if unknown {
            let (id, code) = self.detect()?;
            self.language = Some(id);
            self.transcript.language = code;
        }
        // 3. tokens
        let start = self.start_sequence();
        let ask = |e: &Encoded| self.ask(&start, &stretches[e.stretch].history);
        let asks: Vec<Ask> = encoded.iter().map(ask).collect();
        let on_step = &mut |hypotheses| progress(Progress::Step { hypotheses });
        let Some(outcomes) = self.decoder.windows(&self.audio, &asks, on_step)? else { return Ok(ControlFlow::Break(())) };
        // 4. segments, words
        let (total, mut said) = (self.mel.frames(), false);
        for (i, (Encoded { stretch, window, steady }, outcome)) in encoded.into_iter().zip(outcomes).enumerate() {
            let stretch = &mut stretches[stretch];
            let search = self.decoder.search;
            let doubtful = outcome.no_speech_prob > search.no_speech_threshold;
            if doubtful && (outcome.avg_logprob <= search.logprob_threshold || steady) {
                stretch.go_on(window.start + window.frames, total);
                if unknown && !said {
                    // the language is that of something else: the next windows tell theirs
                    self.transcript.language.clear();
                    self.language = None;
                    break;
                }
                continue;
            }
            said = true;
            let next = self.segments(window, &outcome, (i, &start), stretch)?;
            stretch.go_on(if self.provisional { stretch.end } else { next.max(window.start + LEAST_ADVANCE) }, total);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Encodes the next window that is not silent of each of the first stretches. `None` where `progress` said stop.
    fn encode(
        &mut self,
        stretches: &mut [Stretch],
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Option<Vec<Encoded>>> {
        let (config, total) = (self.whisper.model.config(), self.mel.frames());
        let per_frame = self.transcript.duration / total.max(1) as f64;
        let mut encoded: Vec<Encoded> = Vec::new();
        for (stretch, part) in stretches.iter_mut().enumerate() {
            while encoded.len() < self.side_by_side && !part.is_done() {
                let position = Progress::Position { done: part.next as f64 * per_frame, total: self.transcript.duration };
                if progress(position).is_break() {
                    return Ok(None);
                }
                let window = Window { start: part.next, frames: (part.end - part.next).min(config.window_frames()) };
                let after = window.start + window.frames;
                let pcm = &self.pcm[(window.start * HOP).min(self.pcm.len())..(after * HOP).min(self.pcm.len())];
                let sound = silence::measure(pcm);
                if sound.is_silent() {
                    part.go_on(after, total); // silence needs no decoding
                    continue;
                }
                let n_mels = self.mel.n_mels;
                self.features.clear();
                self.features.extend_from_slice(&self.mel.data[window.start * n_mels..after * n_mels]);
                self.features.resize(config.window_frames() * n_mels, 0.0);
                if self.audio.len() <= encoded.len() {
                    self.audio.push(Cross::default());
                }
                let cross = &mut self.audio[encoded.len()];
                self.whisper.model.hear(self.pool, &self.features, &mut self.encoder, cross)?;
                encoded.push(Encoded { stretch, window, steady: sound.is_steady() });
                if progress(Progress::Encoded).is_break() {
                    return Ok(None);
                }
                break;
            }
        }
        Ok(Some(encoded))
    }

    /// Segments in order of time, as far as there are no gaps.
    fn hand_out(
        &mut self,
        left: &mut VecDeque<Stretch>,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        while let Some(front) = left.front_mut() {
            for segment in front.segments.drain(..) {
                let restored = match &self.cuts {
                    Some(cuts) => cuts.restore(segment),
                    None => vec![segment],
                };
                for segment in restored {
                    let went_on = progress(Progress::Segment(&segment));
                    self.transcript.text.push_str(&segment.text);
                    self.transcript.segments.push(segment);
                    went_on?;
                }
            }
            if !front.is_done() {
                break;
            }
            let Some(done) = left.pop_front() else { break };
            if let (Windows::InTurn, Some(next)) = (self.options.windows, left.front_mut()) {
                (next.history, next.spoken_until) = (done.history, done.spoken_until);
            }
        }
        ControlFlow::Continue(())
    }

    /// Cuts a window's tokens into segments with their words; gives the mel frame at which its stretch goes on. `audio`: which of those
    /// that were encoded.
    fn segments(
        &mut self,
        window: Window,
        outcome: &Outcome,
        (audio, start): (usize, &[u32]),
        stretch: &mut Stretch,
    ) -> Result<usize> {
        let tokens = &self.whisper.tokens;
        let begin = tokens.timestamp_begin();
        let offset = window.start as f64 / FRAMES_PER_SECOND;
        let length = (window.frames / FRAMES_PER_STEP) as u32;
        let mut cut = cut(&outcome.tokens, begin, length);
        if self.provisional {
            cut.take_tail(&outcome.tokens, begin, length);
        }
        let mut next = match cut.resume {
            Some(step) => window.start + step as usize * FRAMES_PER_STEP,
            None => window.start + window.frames,
        };
        let kept = self.pcm.len() as f64 / SAMPLE_RATE as f64;
        let time = |step: u32| (offset + f64::from(step) / 50.0).min(kept);
        let segment = |slice: &Slice| Segment {
            start: time(slice.start),
            end: time(slice.end),
            text: tokens.decode(&text_of(slice, tokens.eot)),
            avg_logprob: outcome.avg_logprob,
            no_speech_prob: outcome.no_speech_prob,
            words: Vec::new(),
        };
        let mut segments: Vec<Segment> = cut.slices.iter().map(segment).collect();
        if self.options.word_timestamps {
            let texts: Vec<Vec<u32>> = cut.slices.iter().map(|s| text_of(s, tokens.eot)).collect();
            let counts: Vec<usize> = texts.iter().map(Vec::len).collect();
            let text = texts.concat();
            let cross = &self.audio[audio];
            let spoken = Spoken { cross, start, text: &text, language: &self.transcript.language, frames: window.frames };
            let whisper = self.whisper;
            let aligner = Aligner { model: &whisper.model, tokens, pool: self.pool, heads: &whisper.heads };
            let words = aligner.align(&spoken, &mut self.decoder.state)?;
            stretch.spoken_until = distribute(&mut segments, &counts, words, offset, stretch.spoken_until);
            let last_end = segments.iter().rev().find_map(|s| s.words.last()).map(|w| w.end);
            if let Some(end) = last_end.filter(|end| !cut.closed && *end > offset) {
                next = (end * FRAMES_PER_SECOND).round() as usize;
            }
        }
        // an instant or a blank is no segment, and is no prompt either
        let kept = |s: &Segment| s.start < s.end && !s.text.trim().is_empty();
        for (_, slice) in segments.iter().zip(&cut.slices).filter(|(s, _)| kept(s)) {
            stretch.history.extend_from_slice(&slice.tokens);
        }
        if !self.options.condition_on_previous_text || outcome.temperature > PROMPT_RESET_TEMPERATURE {
            stretch.history.clear();
        }
        stretch.segments.extend(segments.into_iter().filter(kept));
        Ok(next)
    }

    /// The likeliest language of the first window: what the start token predicts among the languages.
    fn detect(&mut self) -> Result<(u32, String)> {
        let (model, tokens) = (&self.whisper.model, &self.whisper.tokens);
        let state = &mut self.decoder.state;
        state.clear();
        let row = state.push(tokens.sot, 0, 0);
        state.want(row);
        model.pass(self.pool, &self.audio, state, None)?;
        let logit = |id: u32| state.logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let best = tokens.languages.iter().max_by(|a, b| logit(a.1).total_cmp(&logit(b.1)));
        Ok(best.map_or((tokens.sot, "en".into()), |(code, id)| (*id, code.clone())))
    }

    /// Start, language and task; the start alone for English-only models.
    fn start_sequence(&self) -> Vec<u32> {
        let tokens = &self.whisper.tokens;
        let task = match self.options.task {
            Task::Transcribe => tokens.transcribe,
            Task::Translate => tokens.translate,
        };
        let task = task.filter(|_| self.language.is_some());
        [Some(tokens.sot), self.language, task].into_iter().flatten().collect()
    }

    /// Previous text as far as half of the context holds it, then the start.
    fn ask(&self, start: &[u32], history: &[u32]) -> Ask {
        let tokens = &self.whisper.tokens;
        let mut prompt = Vec::new();
        if let Some(before) = tokens.sot_prev.filter(|_| !history.is_empty()) {
            let room = self.whisper.model.config().n_text_ctx / 2 - 1;
            prompt.push(before);
            prompt.extend_from_slice(&history[history.len().saturating_sub(room)..]);
        }
        let before = prompt.len();
        prompt.extend_from_slice(start);
        if !self.options.timestamps {
            prompt.push(tokens.no_timestamps);
        }
        Ask { prompt, start: before }
    }
}

fn text_of(slice: &Slice, eot: u32) -> Vec<u32> {
    slice.tokens.iter().copied().filter(|id| *id < eot).collect()
}
