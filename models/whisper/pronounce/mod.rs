//! Pronunciation against an expected text, word by word.
//!
//! Two looks at the same audio are joined. What the recognizer hears freely is aligned with the expected words: what is left out,
//! added and changed. And the decoder is forced along the expected text (teacher forcing): how probable each expected word is
//! given the audio, how far it is behind the best alternative, how far it is ahead of what the text alone makes probable (the same
//! pass over no audio), and whether the decoder would rather go on with one of the next words. The first look decides where the
//! second one does not contradict it: a word that the recognizer missed but that the audio speaks for is not called left out.
//!
//! The measure is a goodness of pronunciation at word level, in the form of a likelihood ratio (Witt and Young 2000), by a
//! sequence model over tokens of text. It is not a score of phones: Whisper has none.

mod goodness;

use std::ops::ControlFlow;

use dreamseed_kernels::Pool;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use super::align::{Aligner, Spoken};
use super::mel::{HOP, Mel, SAMPLE_RATE};
use super::model::{Cross, DecoderState, EncoderState, Run};
use super::options::{Error, Result};
use super::spoken::{Classes, Unit, units};
use super::{Progress, Transcript, Whisper, Word};
use crate::words::{self, Step};

pub use goodness::Goodness;
use goodness::{Predicted, goodness};

/// Longest expected text, bytes.
pub const MAX_TEXT: usize = 64 << 10;
/// Latest second of a window at which it is cut; the encoder sees 30.
const LATEST_CUT: f64 = 28.0;
/// A cut is looked for from this second of a window on.
const EARLIEST_CUT: f64 = 12.0;
/// Sound kept before the first word of a window, seconds.
const LEAD: f64 = 0.4;
/// Rows of logits computed at once.
const LOGIT_ROWS: usize = 16;
/// Words ahead that a skip may lead to.
const REACH: usize = 4;
/// Goodness from which on a word that was recognized is clear: nothing else was likelier.
const CLEAR: f32 = 0.0;
/// The same of a word that was not recognized: its spelling is another, or the recognizer slipped.
const CLEAR_UNHEARD: f32 = 2.0;
/// How well the words of a text were pronounced. Times are seconds from the start of the audio.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pronunciation {
    /// ISO 639-1 code.
    pub language: String,
    /// In the order of the text, with added words where they were heard.
    pub words: Vec<Pronounced>,
    /// Share of the expected words that were said, clearly or not, 0..1.
    pub accuracy: f32,
    /// Mean [`Goodness::word_gop`] of the words that were said; `None` where there are none.
    pub word_gop: Option<f32>,
}

/// A word that was expected, heard, or both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pronounced {
    /// What became of it.
    pub kind: Kind,
    /// As in the text, without punctuation around it; `None` for added words.
    pub expected: Option<String>,
    /// As recognized; `None` where nothing was.
    pub heard: Option<String>,
    /// Seconds. Of a word that was left out: where it belongs.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// Of expected words; `None` where the work was stopped or nothing was heard at all.
    #[serde(flatten)]
    pub goodness: Option<Goodness>,
}

/// What became of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Said as expected.
    Correct,
    /// Said, but something else would have been likelier by its sound.
    Unclear,
    /// Expected and not said.
    Omitted,
    /// Said and not expected.
    Inserted,
    /// Another word was said in its place.
    Substituted,
}

impl Kind {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Correct => "correct",
            Kind::Unclear => "unclear",
            Kind::Omitted => "omitted",
            Kind::Inserted => "inserted",
            Kind::Substituted => "substituted",
        }
    }
}

/// The language that a text's letters name: `ko` for Hangul, `ja` for kana; `None` for letters that many languages share.
pub fn language_of(text: &str) -> Option<&'static str> {
    let count = |of: fn(char) -> bool| text.chars().filter(|c| of(*c)).count();
    let letters = count(char::is_alphabetic);
    let hangul = count(|c| matches!(c, '\u{1100}'..='\u{11ff}' | '\u{3130}'..='\u{318f}' | '\u{ac00}'..='\u{d7a3}'));
    let kana = count(|c| matches!(c, '\u{3041}'..='\u{30ff}'));
    match () {
        () if 2 * hangul > letters => Some("ko"),
        () if 5 * kana > letters => Some("ja"),
        () => None,
    }
}

/// One examination under way.
pub(super) struct Examination<'a> {
    whisper: &'a Whisper,
    pool: &'a Pool,
    units: Vec<Unit>,                            // expected
    heard: Vec<Heard<'a>>,                       // recognized
    steps: Vec<Step>,                            // of the one against the other
    goodness: Vec<Option<(Goodness, [f64; 2])>>, // (units), with the span of the attention
    language: String,
    start: Vec<u32>, // start, language, task
    mel: Mel,
    encoder: EncoderState,
    state: DecoderState,
    classes: Classes,
    duration: f64,
}

/// A part of a recognized word, as it is compared.
struct Heard<'a> {
    normal: String,
    word: &'a Word,
}

/// An expected word among the tokens that are forced.
struct Place {
    unit: usize,
    tokens: std::ops::Range<usize>,
}

/// Steps that are forced on one window of audio.
struct Window {
    steps: std::ops::Range<usize>,
    start: usize, // mel frames
    end: usize,
}

impl<'a> Examination<'a> {
    pub(super) fn new(
        whisper: &'a Whisper,
        pool: &'a Pool,
        pcm: &[f32],
        expected: &str,
        transcript: &'a Transcript,
    ) -> Result<Self> {
        let problem = |problem: String| Error::option("expected text", problem);
        if expected.len() > MAX_TEXT {
            return Err(problem(format!("{} bytes seen, at most {MAX_TEXT} are compared; give a part of it", expected.len())));
        }
        let language = known_language(whisper, expected, transcript)?;
        // texts from macOS come decomposed; Whisper writes composed letters
        let units = units(&whisper.tokens, &expected.nfc().collect::<String>(), &language)?;
        let normal: Vec<String> = units.iter().map(|u| u.normal.clone()).collect();
        let spoken = transcript.segments.iter().flat_map(|s| &s.words);
        let heard: Vec<Heard> =
            spoken.flat_map(|word| words::split(&word.word).into_iter().map(move |normal| Heard { normal, word })).collect();
        if heard.is_empty() && !words::split(&transcript.text).is_empty() {
            return Err(Error::option("transcript", "it has no word times; transcribe with word_timestamps".into()));
        }
        let recognized: Vec<String> = heard.iter().map(|h| h.normal.clone()).collect();
        let most = words::MAX_WORDS;
        let too_many = || problem(format!("{} words seen, about {most} are compared; give a part of it", units.len()));
        let steps = words::align(&normal, &recognized).ok_or_else(too_many)?;
        let task = whisper.tokens.transcribe.filter(|_| !whisper.tokens.languages.is_empty());
        let code = whisper.tokens.languages.iter().find(|(code, _)| *code == language).map(|(_, id)| *id);
        Ok(Self {
            whisper,
            pool,
            goodness: vec![None; units.len()],
            units,
            heard,
            steps,
            language,
            start: [Some(whisper.tokens.sot), code, task].into_iter().flatten().collect(),
            mel: whisper.model.features(pool, &whisper.mel, pcm)?,
            encoder: EncoderState::default(),
            state: whisper.model.decoder_state(1)?,
            classes: Classes::new(&whisper.tokens),
            duration: pcm.len() as f64 / SAMPLE_RATE as f64,
        })
    }

    pub(super) fn run(mut self, progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<Pronunciation> {
        for window in self.windows() {
            let done = window.start as f64 * HOP as f64 / SAMPLE_RATE as f64;
            if progress(Progress::Position { done, total: self.duration }).is_break() {
                break;
            }
            self.force(&window)?;
        }
        Ok(self.judge())
    }

    /// Cuts the steps so that each window's audio fits the encoder and its text the decoder: in the longest break between two
    /// words that were heard as expected, or where need be between any two.
    fn windows(&self) -> Vec<Window> {
        let model = self.whisper.model.config();
        let room = model.n_text_ctx.saturating_sub(self.start.len() + 2);
        let frame = |t: f64| ((t * (SAMPLE_RATE / HOP) as f64).round().max(0.0) as usize).min(self.mel.frames());
        let mut windows: Vec<Window> = Vec::new();
        let mut from = 0;
        while from < self.steps.len() && !self.heard.is_empty() {
            let start = if from == 0 && self.duration <= 30.0 { 0.0 } else { (self.place(from)[0] - LEAD).max(0.0) };
            let (mut best, mut tokens) = (None::<(f64, usize)>, 0);
            let mut to = from;
            while to < self.steps.len() {
                tokens += self.tokens(to).len();
                let late = self.place(to)[1] - start > LATEST_CUT && self.duration - start > 30.0;
                if to > from && (tokens > room || late) {
                    break;
                }
                to += 1;
                let sure = |s: Option<&Step>| matches!(s, Some(Step::Same { .. }));
                let at = self.place(to - 1)[1];
                if sure(self.steps.get(to - 1)) && sure(self.steps.get(to)) && at - start > EARLIEST_CUT {
                    let gap = self.place(to)[0] - at;
                    if best.is_none_or(|(widest, _)| gap >= widest) {
                        best = Some((gap, to));
                    }
                }
            }
            if to < self.steps.len() {
                to = best.map_or(to, |b| b.1);
            }
            let end = match self.steps.get(to) {
                Some(_) => (self.place(to - 1)[1] + self.place(to)[0]) / 2.0,
                None => self.duration,
            };
            let start = frame(start);
            let end = frame(end).clamp(start, start + model.window_frames());
            windows.push(Window { steps: from..to, start, end });
            from = to;
        }
        windows
    }

    /// Where a step is in the audio by what was heard, seconds.
    fn place(&self, step: usize) -> [f64; 2] {
        match self.steps[step] {
            Step::Same { h, .. } | Step::Changed { h, .. } | Step::Added { h } => {
                let word = self.heard[h].word;
                [word.start, word.end.max(word.start)]
            }
            Step::Omitted { h, .. } => {
                let before = h.checked_sub(1).and_then(|h| self.heard.get(h)).map_or(0.0, |b| b.word.end);
                [before, self.heard.get(h).map_or(self.duration, |n| n.word.start).max(before)]
            }
        }
    }

    /// What the decoder is forced along at a step: the expected word, or the added one that was heard in between.
    fn tokens(&self, step: usize) -> Vec<u32> {
        match self.steps[step] {
            Step::Same { e, .. } | Step::Changed { e, .. } | Step::Omitted { e, .. } => self.units[e].tokens.clone(),
            Step::Added { h } => self.heard_tokens(h),
        }
    }

    /// Tokens of a recognized word, at the first of its parts: it is said once.
    fn heard_tokens(&self, h: usize) -> Vec<u32> {
        let again = h > 0 && std::ptr::eq(self.heard[h].word, self.heard[h - 1].word);
        if again { Vec::new() } else { self.whisper.tokens.encode(&self.heard[h].word.word).unwrap_or_default() }
    }

    fn force(&mut self, window: &Window) -> Result<()> {
        let model = &self.whisper.model;
        // 1. the audio
        let n_mels = self.mel.n_mels;
        let mut mel = self.mel.data[window.start * n_mels..window.end * n_mels].to_vec();
        mel.resize(model.config().window_frames() * n_mels, 0.0);
        let mut cross = Cross::default();
        model.hear(self.pool, &mel, &mut self.encoder, &mut cross)?;
        // 2. every expected word in its place
        self.along(window, &cross, false)?;
        // 3. words after one that was not said, as they follow what was: a wrong word makes the next ones improbable
        let missed = |step: &Step| match *step {
            Step::Omitted { e, .. } | Step::Changed { e, .. } => self.goodness[e].is_some_and(|(g, _)| !g.is_said()),
            _ => false,
        };
        if self.steps[window.steps.clone()].iter().any(missed) {
            self.along(window, &cross, true)?;
        }
        Ok(())
    }

    /// Forces the decoder along a window's text. With `corrected`, words that were found not to be said give way to what was heard, and
    /// keep their goodness.
    fn along(&mut self, window: &Window, cross: &Cross, corrected: bool) -> Result<()> {
        let whisper = self.whisper;
        let (model, pool) = (&whisper.model, self.pool);
        // 1. the text, and whose its tokens are
        let mut text: Vec<u32> = Vec::new();
        let mut places: Vec<Place> = Vec::new();
        for step in window.steps.clone() {
            let first = text.len();
            let expected = match self.steps[step] {
                Step::Same { e, .. } | Step::Changed { e, .. } | Step::Omitted { e, .. } => Some(e),
                Step::Added { .. } => None,
            };
            let sure = matches!(self.steps[step], Step::Same { .. });
            let gone = corrected && !sure && expected.is_some_and(|e| self.goodness[e].is_some_and(|(g, _)| !g.is_said()));
            match self.steps[step] {
                Step::Changed { h, .. } if gone => text.extend(self.heard_tokens(h)),
                _ if gone => {}
                _ => text.extend(self.tokens(step)),
            }
            places.extend(expected.filter(|_| !gone).map(|unit| Place { unit, tokens: first..text.len() }));
        }
        // 2. the decoder along the text, with the audio and without
        let aligner = Aligner { model, tokens: &whisper.tokens, pool, heads: &whisper.heads };
        let frames = window.end - window.start;
        let spoken = Spoken { cross, start: &self.start, text: &text, language: &self.language, frames };
        let Some(onsets) = aligner.force(&spoken, &mut self.state)? else { return Ok(()) };
        let wanted = self.wanted(&text, &places);
        let with = self.log_probabilities(&wanted, text.len())?;
        let mut all = self.start.clone();
        all.push(whisper.tokens.no_timestamps);
        all.extend_from_slice(&text);
        self.state.clear();
        let prior = whisper.prior(pool)?;
        model.decode(pool, Run { cross: prior, tokens: &all, sequences: 1 }, &mut self.state, None)?;
        let without = self.log_probabilities(&wanted, text.len())?;
        // 3. a word at a time
        let offset = window.start as f64 * HOP as f64 / SAMPLE_RATE as f64;
        for Place { unit, tokens } in places {
            let time = |token: usize| offset + onsets.get(token).copied().unwrap_or(0.0);
            let span = [time(tokens.start), time(tokens.end)];
            self.goodness[unit] = goodness(&with[tokens.clone()], &without[tokens]).map(|g| (g, span));
        }
        Ok(())
    }

    /// For each token of the text, the classes whose probability is asked for: its own, then those of the words that may follow
    /// where it begins a word.
    fn wanted(&self, text: &[u32], places: &[Place]) -> Vec<Vec<u32>> {
        let class = |token: u32| self.classes.of(token);
        let mut wanted: Vec<Vec<u32>> = text.iter().map(|t| class(*t).into_iter().collect()).collect();
        let first = |range: &std::ops::Range<usize>| range.clone().find(|i| class(text[*i]).is_some());
        for (i, place) in places.iter().enumerate() {
            let Some(at) = first(&place.tokens) else { continue };
            let next = places[i + 1..].iter().take(REACH).filter_map(|p| class(text[first(&p.tokens)?]));
            let own = class(text[at]);
            let mut next: Vec<u32> = next.filter(|c| Some(*c) != own).collect();
            if places.len() - i <= REACH {
                next.extend(class(self.whisper.tokens.eot));
            }
            wanted[at].extend(next);
        }
        wanted
    }

    /// What the last pass predicts at each token of the text.
    fn log_probabilities(&mut self, wanted: &[Vec<u32>], tokens: usize) -> Result<Vec<Predicted>> {
        let (model, n_vocab) = (&self.whisper.model, self.whisper.model.config().n_vocab);
        let mut logits = Vec::new();
        let mut out = Vec::with_capacity(tokens);
        for (i, wanted) in wanted[..tokens].chunks(LOGIT_ROWS).enumerate() {
            let from = self.start.len() + i * LOGIT_ROWS;
            model.logits(self.pool, &mut self.state, from..from + wanted.len(), &mut logits)?;
            let both = logits.chunks_exact(n_vocab).zip(wanted);
            out.extend(both.map(|(row, wanted)| Predicted::new(&self.classes, row, wanted)));
        }
        Ok(out)
    }

    fn judge(self) -> Pronunciation {
        let mut out = Vec::with_capacity(self.steps.len());
        for (i, step) in self.steps.iter().enumerate() {
            let place = self.place(i);
            let shown = |h: usize| super::spoken::shown(&self.heard[h].word.word);
            let (e, h) = match *step {
                Step::Same { e, h } | Step::Changed { e, h } => (Some(e), Some(h)),
                Step::Omitted { e, .. } => (Some(e), None),
                Step::Added { h } => (None, Some(h)),
            };
            let forced = e.and_then(|e| self.goodness[e]);
            let goodness = forced.map(|f| f.0);
            let kind = match (step, goodness) {
                (Step::Added { .. }, _) => Kind::Inserted,
                (Step::Same { .. }, Some(g)) if g.word_gop < CLEAR => Kind::Unclear,
                (Step::Same { .. }, _) => Kind::Correct,
                (_, Some(g)) if g.is_said() => {
                    if g.word_gop < CLEAR_UNHEARD {
                        Kind::Unclear
                    } else {
                        Kind::Correct
                    }
                }
                (Step::Changed { .. }, _) => Kind::Substituted,
                (Step::Omitted { .. }, _) => Kind::Omitted,
            };
            let [start, end] = match (kind, step, forced) {
                (Kind::Correct | Kind::Unclear, Step::Omitted { .. }, Some((_, span))) => span,
                _ => place,
            };
            let heard = h.map(shown).filter(|w| !w.is_empty());
            let expected = e.map(|e| self.units[e].shown.clone());
            out.push(Pronounced { kind, expected, heard, start, end, goodness });
        }
        let said = |w: &&Pronounced| matches!(w.kind, Kind::Correct | Kind::Unclear);
        let accuracy = out.iter().filter(said).count() as f32 / self.units.len().max(1) as f32;
        let gops: Vec<f32> = out.iter().filter(said).filter_map(|w| Some(w.goodness?.word_gop)).collect();
        let word_gop = (!gops.is_empty()).then(|| gops.iter().sum::<f32>() / gops.len() as f32);
        Pronunciation { language: self.language, words: out, accuracy, word_gop }
    }
}

/// The transcript's language, or the one that the text's letters name.
fn known_language(whisper: &Whisper, text: &str, transcript: &Transcript) -> Result<String> {
    let known = |code: &str| match whisper.tokens.languages.as_slice() {
        [] => code == "en",
        languages => languages.iter().any(|(c, _)| c == code),
    };
    match language_of(text) {
        Some(code) if !known(code) => {
            let problem = format!("its letters are of {code:?}, which this model does not know; take a multilingual one");
            Err(Error::option("expected text", problem))
        }
        Some(code) if transcript.language.is_empty() => Ok(code.into()),
        None if transcript.language.is_empty() => Ok("en".into()),
        _ => Ok(transcript.language.clone()),
    }
}

impl Whisper {
    /// What the decoder attends to where there is no audio: a window of padding. Computed once.
    fn prior(&self, pool: &Pool) -> Result<&Cross> {
        if let Some(cross) = self.prior.get() {
            return Ok(cross);
        }
        let (c, mut cross) = (self.model.config(), Cross::default());
        self.model.hear(pool, &vec![0.0; c.window_frames() * c.n_mels], &mut EncoderState::default(), &mut cross)?;
        Ok(self.prior.get_or_init(|| cross))
    }
}

#[cfg(test)]
mod tests;
