//! Recordings of any length: windows of 30 s, each beginning where the last certain segment ended (openai/whisper
//! `transcribe.py`; Radford et al. 2022, section 4.5).

use std::borrow::Cow;
use std::ops::ControlFlow;

use dreamseed_kernels::Pool;

use super::align::{Aligner, Spoken, distribute};
use super::cuts::Cuts;
use super::decode::{Decoder, Outcome, Search};
use super::mel::{HOP, Mel, SAMPLE_RATE};
use super::model::{Cross, EncoderState, Run};
use super::options::{Error, Options, Result, Task};
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

/// One transcription under way.
pub(super) struct Session<'a> {
    whisper: &'a Whisper,
    pool: &'a Pool,
    options: &'a Options,
    pcm: Cow<'a, [f32]>, // of the recording what is kept
    cuts: Option<Cuts>,
    mel: Mel,
    pub(super) encoder: EncoderState,
    decoder: Decoder<'a>,
    window: Vec<f32>, // (window_frames, n_mels), zero where the recording ended
    language: Option<u32>,
    pub(super) history: Vec<u32>, // tokens of all windows since the last reset
    /// One window and no more, whose unfinished end is taken as it is: what may be said of sound that goes on.
    pub(super) provisional: bool,
    spoken_until: f64, // seconds
    transcript: Transcript,
}

/// A window of the recording, in mel frames.
#[derive(Clone, Copy)]
struct Window {
    start: usize,
    frames: usize,
}

/// What came of a window.
struct Decoded {
    segments: Vec<Segment>,
    next: usize, // mel frame at which to go on
}

impl<'a> Session<'a> {
    pub(super) fn new(
        whisper: &'a Whisper,
        pool: &'a Pool,
        pcm: &'a [f32],
        options: &'a Options,
        search: &'a Search,
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
        Ok(Self {
            whisper,
            pool,
            options,
            mel: whisper.mel.extract(pool, &pcm),
            pcm,
            cuts,
            encoder: EncoderState::default(),
            decoder: Decoder::new(&whisper.model, tokens, pool, search, options.seed),
            window: Vec::new(),
            language,
            history,
            provisional: false,
            spoken_until: 0.0,
            transcript,
        })
    }

    /// Window after window to the end, or until `progress` says stop: what is there by then is returned.
    pub(super) fn run(&mut self, progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Transcript> {
        let total = self.mel.frames();
        let per_frame = self.transcript.duration / total.max(1) as f64;
        let mut next = 0;
        while next < total {
            let done = next as f64 * per_frame;
            if progress(Progress::Position { done, total: self.transcript.duration }).is_break() {
                break;
            }
            // A window never reaches over a cut: what was said there has nothing to do with this, and would draw words away from their times.
            let until =
                self.cuts.as_ref().map_or(total, |cuts| cuts.end_of_span(next * HOP).div_ceil(HOP).clamp(next + 1, total));
            if next > 0 && until < total && until - next < LEAST_ADVANCE {
                next = until;
                continue;
            }
            let window = Window { start: next, frames: (until - next).min(self.whisper.model.config.window_frames()) };
            let known = !self.transcript.language.is_empty();
            let Some(decoded) = self.decode(window, progress)? else { break };
            if !known
                && !self.transcript.language.is_empty()
                && progress(Progress::Language(&self.transcript.language)).is_break()
            {
                break;
            }
            next = if self.provisional { total } else { decoded.next.max(next + LEAST_ADVANCE) };
            let restore = |segment| match &self.cuts {
                Some(cuts) => cuts.restore(segment),
                None => vec![segment],
            };
            let segments: Vec<Segment> = decoded.segments.into_iter().flat_map(restore).collect();
            for segment in segments {
                let stop = progress(Progress::Segment(&segment)).is_break();
                self.transcript.text.push_str(&segment.text);
                self.transcript.segments.push(segment);
                if stop {
                    next = total;
                    break;
                }
            }
        }
        self.transcript.text = self.transcript.text.trim().to_string();
        Ok(std::mem::take(&mut self.transcript))
    }

    /// `None` where `progress` said stop.
    fn decode(&mut self, window: Window, progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Option<Decoded>> {
        let after = window.start + window.frames;
        let nothing = Decoded { segments: Vec::new(), next: after };
        // 1. silence needs no decoding
        let pcm = &self.pcm[(window.start * HOP).min(self.pcm.len())..(after * HOP).min(self.pcm.len())];
        let sound = silence::measure(pcm);
        if sound.is_silent() {
            return Ok(Some(nothing));
        }
        // 2. encoder, and what the decoder looks at
        let n_mels = self.mel.n_mels;
        self.window.clear();
        self.window.extend_from_slice(&self.mel.data[window.start * n_mels..after * n_mels]);
        self.window.resize(self.whisper.model.config.window_frames() * n_mels, 0.0);
        self.whisper.model.encode(self.pool, &self.window, &mut self.encoder);
        let cross = self.whisper.model.cross(self.pool, &self.encoder.x)?;
        if progress(Progress::Encoded).is_break() {
            return Ok(None);
        }
        // 3. language, until something was said in it
        let unknown = self.transcript.language.is_empty();
        if unknown {
            let (id, code) = self.detect(&cross);
            self.language = Some(id);
            self.transcript.language = code;
        }
        // 4. tokens
        let start = self.start_sequence();
        let prompt = self.prompt(&start);
        let outcome = self.decoder.window(&cross, &prompt, prompt.len() - self.start_length(&start));
        let search = self.decoder.search;
        let doubtful = outcome.no_speech_prob > search.no_speech_threshold;
        if doubtful && (outcome.avg_logprob <= search.logprob_threshold || sound.is_steady()) {
            if unknown {
                self.transcript.language.clear();
                self.language = None;
            }
            return Ok(Some(nothing));
        }
        // 5. segments, words
        Ok(Some(self.segments(window, &outcome, &cross, &start)))
    }

    fn segments(&mut self, window: Window, outcome: &Outcome, cross: &Cross, start: &[u32]) -> Decoded {
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
            let spoken = Spoken { cross, start, text: &text, language: &self.transcript.language, frames: window.frames };
            let whisper = self.whisper;
            let aligner = Aligner { model: &whisper.model, tokens, pool: self.pool, heads: &whisper.heads };
            let words = aligner.align(&spoken, &mut self.decoder.state);
            self.spoken_until = distribute(&mut segments, &counts, words, offset, self.spoken_until);
            let last_end = segments.iter().rev().find_map(|s| s.words.last()).map(|w| w.end);
            if let Some(end) = last_end.filter(|end| !cut.closed && *end > offset) {
                next = (end * FRAMES_PER_SECOND).round() as usize;
            }
        }
        // an instant or a blank is no segment, and is no prompt either
        let kept = |s: &Segment| s.start < s.end && !s.text.trim().is_empty();
        for (_, slice) in segments.iter().zip(&cut.slices).filter(|(s, _)| kept(s)) {
            self.history.extend_from_slice(&slice.tokens);
        }
        if !self.options.condition_on_previous_text || outcome.temperature > PROMPT_RESET_TEMPERATURE {
            self.history.clear();
        }
        segments.retain(kept);
        Decoded { segments, next }
    }

    /// The likeliest language of a window: what the start token predicts among the languages.
    fn detect(&mut self, cross: &Cross) -> (u32, String) {
        let (model, tokens) = (&self.whisper.model, &self.whisper.tokens);
        let state = &mut self.decoder.state;
        state.clear();
        model.decode(self.pool, Run { cross, tokens: &[tokens.sot], sequences: 1 }, state, None);
        let mut logits = Vec::new();
        model.logits(self.pool, &state.x, &mut logits);
        let logit = |id: u32| logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let best = tokens.languages.iter().max_by(|a, b| logit(a.1).total_cmp(&logit(b.1)));
        best.map_or((tokens.sot, "en".into()), |(code, id)| (*id, code.clone()))
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
    fn prompt(&self, start: &[u32]) -> Vec<u32> {
        let tokens = &self.whisper.tokens;
        let mut prompt = Vec::new();
        if let Some(before) = tokens.sot_prev.filter(|_| !self.history.is_empty()) {
            let room = self.whisper.model.config.n_text_ctx / 2 - 1;
            prompt.push(before);
            prompt.extend_from_slice(&self.history[self.history.len().saturating_sub(room)..]);
        }
        prompt.extend_from_slice(start);
        if !self.options.timestamps {
            prompt.push(tokens.no_timestamps);
        }
        prompt
    }

    fn start_length(&self, start: &[u32]) -> usize {
        start.len() + usize::from(!self.options.timestamps)
    }
}

fn text_of(slice: &Slice, eot: u32) -> Vec<u32> {
    slice.tokens.iter().copied().filter(|id| *id < eot).collect()
}
