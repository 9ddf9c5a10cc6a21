//! Times of words: dynamic time warping over the cross-attention of the heads that follow the audio (openai/whisper
//! `timing.py`), and the clean-up of words that pauses make too long.

use dreamseed_kernels::Pool;

use super::executor::Model;
use super::math;
use super::model::{Cross, DecoderState, Probe, Run};
use super::options::Result;
use super::tokens::Tokens;
use super::{Segment, Word};

/// Encoder positions a second.
const POSITIONS_PER_SECOND: f64 = 50.0;
/// Width of the median filter over time.
const MEDIAN: usize = 7;
/// Rows of logits computed at once.
const LOGIT_ROWS: usize = 16;
const PREPENDED: &str = "\"'“¿([{-";
const APPENDED: &str = "\"'.。,，!！?？:：”)]}、";
const SENTENCE_END: &str = ".。!！?？";

/// What the alignment runs on.
pub(super) struct Aligner<'a> {
    pub(super) model: &'a Model,
    pub(super) tokens: &'a Tokens,
    pub(super) pool: &'a Pool,
    pub(super) heads: &'a [(usize, usize)],
}

/// A window's text and audio.
pub(super) struct Spoken<'a> {
    pub(super) cross: &'a Cross,
    pub(super) start: &'a [u32], // start, language, task
    pub(super) text: &'a [u32],  // text tokens of all segments
    pub(super) language: &'a str,
    pub(super) frames: usize, // mel frames that hold audio
}

/// A word with its time in the window.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Timing {
    pub(super) word: String,
    pub(super) tokens: usize,
    pub(super) start: f64,
    pub(super) end: f64,
    pub(super) probability: f32,
}

impl Aligner<'_> {
    /// Times of the words of a window, in seconds from its start.
    ///
    /// # Errors
    /// Those of a GPU.
    pub(super) fn align(&self, spoken: &Spoken, state: &mut DecoderState) -> Result<Vec<Timing>> {
        let words = self.tokens.words(spoken.text, spoken.language);
        let Some(onsets) = self.force(spoken, state)? else { return Ok(Vec::new()) };
        let probabilities = self.probabilities(state, spoken.start.len(), spoken.text)?;
        let mut first = 0;
        let time = |token: usize| onsets.get(token).copied().unwrap_or(0.0);
        let timing = |(word, ids): (String, Vec<u32>)| {
            let range = first..first + ids.len();
            first = range.end;
            let probability = probabilities[range.clone()].iter().sum::<f32>() / ids.len().max(1) as f32;
            Timing { word, tokens: ids.len(), start: time(range.start), end: time(range.end), probability }
        };
        Ok(words.into_iter().map(timing).collect())
    }

    /// Runs the text through the decoder as if it had been decoded without timestamps. Gives the second at which each token
    /// begins and, after the last, where that one ends; row `start.len() + i` of the pass predicts token i.
    /// `None` for no text, no audio, or more text than the context holds.
    ///
    /// # Errors
    /// Those of a GPU.
    pub(super) fn force(&self, spoken: &Spoken, state: &mut DecoderState) -> Result<Option<Vec<f64>>> {
        let Spoken { cross, start, text, frames, .. } = *spoken;
        let positions = (frames / 2).min(self.model.config().n_audio_ctx);
        let room = self.model.config().n_text_ctx.saturating_sub(start.len() + 2);
        if text.is_empty() || positions == 0 || text.len() > room {
            return Ok(None);
        }
        // 1. the tokens
        let mut all = start.to_vec();
        all.push(self.tokens.no_timestamps);
        all.extend_from_slice(text);
        all.push(self.tokens.eot);
        let mut probe = Probe { heads: self.heads, weights: vec![Vec::new(); self.heads.len()] };
        state.clear();
        self.model.decode(self.pool, Run { cross, tokens: &all, sequences: 1 }, state, Some(&mut probe))?;
        // 2. where each token's attention was; a row more than tokens: it ends the last word
        let weights = self.attention(probe.weights, all.len(), positions);
        let onsets = warp(&weights[start.len() * positions..(all.len() - 1) * positions], positions);
        Ok(Some(onsets.into_iter().map(|at| at as f64 / POSITIONS_PER_SECOND).collect()))
    }

    /// Probability of each text token among all text tokens, given those before it. `first`: the row that predicts the first.
    fn probabilities(&self, state: &mut DecoderState, first: usize, text: &[u32]) -> Result<Vec<f32>> {
        let (n_vocab, eot) = (self.model.config().n_vocab, self.tokens.eot as usize);
        let mut logits = std::mem::take(&mut state.logits); // the memory of a step
        let mut out = Vec::with_capacity(text.len());
        for (i, ids) in text.chunks(LOGIT_ROWS).enumerate() {
            let from = first + i * LOGIT_ROWS;
            self.model.logits(self.pool, state, from..from + ids.len(), &mut logits)?;
            let row = |(row, id): (&[f32], &u32)| (row[*id as usize] - math::log_sum_exp(&row[..eot])).exp();
            out.extend(logits.chunks_exact(n_vocab).zip(ids).map(row));
        }
        state.logits = logits;
        Ok(out)
    }

    /// Mean over heads of the normalized, smoothed attention. `weights`: (heads) of (tokens, n_audio_ctx); the result is
    /// (tokens, positions).
    fn attention(&self, mut weights: Vec<Vec<f32>>, tokens: usize, positions: usize) -> Vec<f32> {
        let context = self.model.config().n_audio_ctx;
        self.pool.for_each_chunk(&mut weights, 1, |_, head| {
            let rows = &mut head[0];
            // 1. only what holds audio, summing to 1 again
            let mut kept: Vec<f32> = Vec::with_capacity(tokens * positions);
            for row in rows.chunks_exact(context) {
                let sum: f32 = row[..positions].iter().sum();
                kept.extend(row[..positions].iter().map(|w| w / sum.max(f32::MIN_POSITIVE)));
            }
            // 2. each position about its mean over the tokens, in standard deviations
            standardize(&mut kept, positions);
            // 3. median over time
            *rows = kept.chunks_exact(positions).flat_map(median).collect();
        });
        let mut mean = vec![0.0; tokens * positions];
        for head in &weights {
            mean.iter_mut().zip(head).for_each(|(m, w)| *m += w / weights.len() as f32);
        }
        mean
    }
}

fn standardize(rows: &mut [f32], width: usize) {
    let count = (rows.len() / width) as f32;
    let (mut mean, mut square) = (vec![0f32; width], vec![0f32; width]);
    rows.chunks_exact(width).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += x / count));
    for row in rows.chunks_exact(width) {
        square.iter_mut().zip(row.iter().zip(&mean)).for_each(|(s, (x, m))| *s += (x - m) * (x - m) / count);
    }
    for row in rows.chunks_exact_mut(width) {
        let statistics = mean.iter().zip(&square);
        row.iter_mut().zip(statistics).for_each(|(x, (m, s))| *x = if *s > 0.0 { (*x - m) / s.sqrt() } else { 0.0 });
    }
}

/// Median over [`MEDIAN`] neighbours, edges reflected; a row too short for that stays as it is.
fn median(row: &[f32]) -> Vec<f32> {
    let (half, last) = (MEDIAN as isize / 2, row.len() as isize - 1);
    if last < half {
        return row.to_vec();
    }
    let reflected = |i: isize| row[(last - (last - i.abs()).abs()) as usize];
    (0..=last)
        .map(|i| {
            let mut window: [f32; MEDIAN] = std::array::from_fn(|j| reflected(i + j as isize - half));
            window.sort_unstable_by(f32::total_cmp);
            window[MEDIAN / 2]
        })
        .collect()
}

/// The column at which each row begins on the path of largest sum from corner to corner, down or right or both.
/// `weights`: (rows, columns)
fn warp(weights: &[f32], columns: usize) -> Vec<usize> {
    const DIAGONAL: u8 = 0;
    const DOWN: u8 = 1;
    const RIGHT: u8 = 2;
    let rows = weights.len() / columns;
    let mut trace = vec![RIGHT; rows * columns];
    let mut above = vec![f32::INFINITY; columns + 1];
    above[0] = 0.0;
    let mut current = vec![f32::INFINITY; columns + 1];
    for (weights, trace) in weights.chunks_exact(columns).zip(trace.chunks_exact_mut(columns)) {
        current[0] = f32::INFINITY;
        for j in 0..columns {
            let (diagonal, down, right) = (above[j], above[j + 1], current[j]);
            let (cost, step) = if diagonal < down && diagonal < right {
                (diagonal, DIAGONAL)
            } else if down < diagonal && down < right {
                (down, DOWN)
            } else {
                (right, RIGHT)
            };
            current[j + 1] = cost - weights[j];
            trace[j] = step;
        }
        std::mem::swap(&mut above, &mut current);
    }
    let mut onsets = vec![0; rows];
    let (mut i, mut j) = (rows.saturating_sub(1), columns.saturating_sub(1));
    while i > 0 || j > 0 {
        onsets[i] = j;
        let step = match (i, j) {
            (0, _) => RIGHT,
            (_, 0) => DOWN,
            _ => trace[i * columns + j],
        };
        i -= usize::from(step != RIGHT);
        j -= usize::from(step != DOWN);
    }
    if let Some(first) = onsets.first_mut() {
        *first = 0;
    }
    onsets
}

/// Longest duration that is credible for a word: twice the median, at most 1.4 s; and the median itself.
fn durations(words: &[Timing]) -> (f64, f64) {
    let mut all: Vec<f64> = words.iter().map(|w| w.end - w.start).filter(|d| *d != 0.0).collect();
    all.sort_unstable_by(f64::total_cmp);
    let median = match all.len() {
        0 => 0.0,
        n if n % 2 == 1 => all[n / 2],
        n => (all[n / 2 - 1] + all[n / 2]) / 2.0,
    };
    let median = median.min(0.7);
    (median, 2.0 * median)
}

/// Shortens long words at sentence ends, where a pause stretches them, and joins punctuation to its word.
pub(super) fn tidy(words: &mut Vec<Timing>) -> (f64, f64) {
    let (median, longest) = durations(words);
    let ends_sentence = |w: &str| SENTENCE_END.contains(w);
    if longest > 0.0 {
        for i in 1..words.len() {
            if words[i].end - words[i].start > longest {
                if ends_sentence(&words[i].word) {
                    words[i].end = words[i].start + longest;
                } else if ends_sentence(&words[i - 1].word) {
                    words[i].start = words[i].end - longest;
                }
            }
        }
    }
    // opening punctuation goes to the word after it
    for i in (1..words.len()).rev() {
        let mark = &words[i - 1].word;
        if mark.starts_with(' ') && !mark.trim().is_empty() && PREPENDED.contains(mark.trim()) {
            let mark = words.remove(i - 1);
            words[i - 1].word.insert_str(0, &mark.word);
            words[i - 1].tokens += mark.tokens;
        }
    }
    // closing punctuation to the word before it
    let mut i = 1;
    while i < words.len() {
        if !words[i - 1].word.ends_with(' ') && APPENDED.contains(words[i].word.as_str()) {
            let mark = words.remove(i);
            words[i - 1].word.push_str(&mark.word);
            words[i - 1].tokens += mark.tokens;
        } else {
            i += 1;
        }
    }
    (median, longest)
}

/// Gives each segment its words, `offset` seconds into the recording, and lets segment and word times correct each other.
/// `counts`: text tokens of each segment; `spoken_until`: end of the last word before. Returns the end of the last one now.
pub(super) fn distribute(
    segments: &mut [Segment],
    counts: &[usize],
    mut words: Vec<Timing>,
    offset: f64,
    mut spoken_until: f64,
) -> f64 {
    let (median, longest) = tidy(&mut words);
    let mut words = words.into_iter();
    for (segment, count) in segments.iter_mut().zip(counts) {
        let mut seen = 0;
        while seen < *count {
            let Some(w) = words.next() else { break };
            seen += w.tokens;
            let round = |t: f64| ((offset + t) * 100.0).round() / 100.0;
            segment.words.push(Word { start: round(w.start), end: round(w.end), word: w.word, probability: w.probability });
        }
        if !segment.words.is_empty() {
            correct(segment, (median, longest), spoken_until);
            spoken_until = segment.end;
        }
    }
    spoken_until
}

/// A word after a pause is no longer than credible; where the first or last word exceeds its segment by half a second the
/// segment is right, otherwise the word.
fn correct(segment: &mut Segment, (median, longest): (f64, f64), spoken_until: f64) {
    let words = &mut segment.words;
    if words[0].end - spoken_until > 4.0 * median {
        let second = words.get(1).map(|w| (w.start, w.end));
        let first = &words[0];
        let stretched = second.is_some_and(|(_, end)| end - first.start > 2.0 * longest);
        if first.end - first.start > longest || stretched {
            if let Some((_, end)) = second.filter(|(start, end)| end - start > longest) {
                let boundary = (end / 2.0).max(end - longest);
                words[0].end = boundary;
                words[1].start = boundary;
            }
            words[0].start = (words[0].end - longest).max(0.0);
        }
    }
    let first = &mut words[0];
    if segment.start < first.end && segment.start - 0.5 > first.start {
        first.start = (first.end - median).min(segment.start).max(0.0);
    } else {
        segment.start = first.start;
    }
    let Some(last) = words.last_mut() else { return };
    if segment.end > last.start && segment.end + 0.5 < last.end {
        last.end = (last.start + median).max(segment.end);
    } else {
        segment.end = last.end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warps_along_the_ridge() {
        #[rustfmt::skip]
        let weights = [
            9.0, 9.0, -1.0, -1.0, -1.0, -1.0,
            -1.0, -1.0, 9.0, -1.0, -1.0, -1.0,
            -1.0, -1.0, -1.0, 9.0, 9.0, 9.0,
        ];
        assert_eq!(warp(&weights, 6), [0, 2, 3]);
        assert_eq!(warp(&[1.0; 4], 1), [0, 0, 0, 0]);
        assert_eq!(warp(&[1.0; 4], 4), [0]);
    }

    #[test]
    fn median_reflects_at_the_edges() {
        // scipy.ndimage.median_filter(x, 7, mode="mirror")
        let x = [5.0, 1.0, 4.0, 2.0, 8.0, 0.0, 3.0, 9.0];
        assert_eq!(median(&x), [2.0, 4.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0]);
        assert_eq!(median(&[1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]).len(), 4);
    }

    #[test]
    fn standardizes_over_tokens() {
        let mut rows = [1.0, 5.0, 3.0, 5.0];
        standardize(&mut rows, 2);
        assert_eq!(rows, [-1.0, 0.0, 1.0, 0.0]);
    }

    fn word(text: &str, start: f64, end: f64) -> Timing {
        Timing { word: text.into(), tokens: 1, start, end, probability: 1.0 }
    }

    #[test]
    fn punctuation_joins_its_word() {
        let mut words = vec![word(" \"", 0.0, 0.1), word(" Hi", 0.1, 0.3), word("!", 0.3, 0.4), word("\"", 0.4, 0.4)];
        tidy(&mut words);
        assert_eq!(words.len(), 1);
        assert_eq!((words[0].word.as_str(), words[0].tokens), (" \" Hi!\"", 4));
        assert_eq!((words[0].start, words[0].end), (0.1, 0.3));
    }

    #[test]
    fn a_word_after_a_pause_is_shortened() {
        let mut segments = [Segment { start: 4.0, end: 6.0, ..Segment::default() }];
        let words = vec![word(" So", 0.0, 5.0), word(" it", 5.0, 5.2), word(" is", 5.2, 5.4), word(".", 5.4, 5.4)];
        let end = distribute(&mut segments, &[4], words, 0.0, 0.0);
        let s = &segments[0];
        assert_eq!(s.words.len(), 3);
        assert!((s.words[0].start - 4.6).abs() < 1e-9 && s.start == s.words[0].start, "{s:?}");
        assert!((end - 5.4).abs() < 1e-9 && s.end == end);
    }
}
