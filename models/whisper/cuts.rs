//! Silence cut out: spans of speech laid end to end, and the way back to the clock of the recording.

use std::ops::Range;

use super::{Segment, Word};
use crate::voice::{SAMPLE_RATE, Span};

/// The spans that are kept, and where each lies among what is kept.
pub(super) struct Cuts {
    spans: Vec<Span>,
    starts: Vec<usize>, // sample of what is kept, for each span
}

impl Cuts {
    /// `spans`: ascending and apart.
    pub(super) fn new(spans: Vec<Span>) -> Self {
        let mut kept = 0;
        let start = |span: &Span| {
            let start = kept;
            kept += span.end - span.start;
            start
        };
        let starts = spans.iter().map(start).collect();
        Self { spans, starts }
    }

    /// The kept parts of the recording that the spans are of.
    pub(super) fn keep(&self, pcm: &[f32]) -> Vec<f32> {
        let parts: Vec<&[f32]> = self.spans.iter().filter_map(|span| pcm.get(span.start..span.end)).collect();
        parts.concat()
    }

    /// How many spans there are.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The samples of what is kept that each span takes: what follows one was said after a silence.
    pub(super) fn kept(&self) -> impl Iterator<Item = Range<usize>> {
        self.starts.iter().zip(&self.spans).map(|(start, span)| *start..start + (span.end - span.start))
    }

    /// The span in which a time of what is kept lies.
    fn span_at(&self, seconds: f64) -> usize {
        let sample = seconds * SAMPLE_RATE as f64;
        self.starts.partition_point(|start| *start as f64 <= sample).saturating_sub(1)
    }

    /// A time of what is kept on the clock of the recording; one outside of `span` is brought to its nearer end.
    fn time(&self, seconds: f64, span: usize) -> f64 {
        let (Some(at), Some(start)) = (self.spans.get(span), self.starts.get(span)) else { return seconds };
        let [low, high] = at.seconds();
        let shift = (at.start - start) as f64 / SAMPLE_RATE as f64;
        // times are in hundredths of a second, and cuts lie on those: what rounding adds is taken away
        let restored = ((seconds + shift) * 1e6).round() / 1e6;
        restored.clamp(low, high)
    }

    /// A segment of what is kept on the clock of the recording. A word lies in the span of its middle; where the words of a segment
    /// lie in several, it falls into as many.
    pub(super) fn restore(&self, segment: Segment) -> Vec<Segment> {
        if segment.words.is_empty() {
            let (first, last) = (self.span_at(segment.start), self.span_at(segment.end - 1e-3));
            let (start, end) = (self.time(segment.start, first), self.time(segment.end, last.max(first)));
            return vec![Segment { start, end, ..segment }];
        }
        let mut parts: Vec<(usize, Segment)> = Vec::new();
        for word in &segment.words {
            let span = self.span_at((word.start + word.end) / 2.0);
            let word = Word { start: self.time(word.start, span), end: self.time(word.end, span), ..word.clone() };
            match parts.last_mut() {
                Some((at, part)) if *at == span => {
                    part.end = word.end;
                    part.text.push_str(&word.word);
                    part.words.push(word);
                }
                _ => {
                    let (start, end, text) = (word.start, word.end, word.word.clone());
                    parts.push((span, Segment { start, end, text, words: vec![word], ..segment.clone() }));
                }
            }
        }
        if let [(span, part)] = parts.as_mut_slice() {
            (part.start, part.end) = (self.time(segment.start, *span), self.time(segment.end, *span));
            part.text = segment.text;
        }
        parts.into_iter().map(|(_, part)| part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str, start: f64, end: f64) -> Word {
        Word { start, end, word: text.into(), probability: 1.0 }
    }

    /// Kept: 1 to 3 s and 10 to 12 s.
    fn cuts() -> Cuts {
        Cuts::new(vec![Span { start: 16_000, end: 48_000 }, Span { start: 160_000, end: 192_000 }])
    }

    #[test]
    fn keeps_the_spans_and_knows_the_way_back() {
        let pcm: Vec<f32> = (0..200_000).map(|i| i as f32).collect();
        let (cuts, kept) = (cuts(), cuts().keep(&pcm));
        assert_eq!(kept.len(), 64_000);
        for sample in [0, 17, 31_999, 32_000, 63_999] {
            let seconds = sample as f64 / 16e3;
            let back = cuts.time(seconds, cuts.span_at(seconds));
            assert!((back - f64::from(kept[sample]) / 16e3).abs() < 1e-6, "{sample}: {back}");
        }
        assert_eq!(cuts.kept().collect::<Vec<_>>(), [0..32_000, 32_000..64_000]);
        assert!(Cuts::new(Vec::new()).keep(&pcm).is_empty());
    }

    #[test]
    fn no_word_spans_a_cut() {
        let words = vec![word(" a", 0.5, 1.0), word(" b", 1.5, 2.2), word(" c", 1.9, 2.5), word(" d", 2.5, 4.5)];
        let segment = Segment { start: 0.4, end: 4.5, text: " a b c d".into(), words, ..Segment::default() };
        let parts = cuts().restore(segment);
        assert_eq!(parts.iter().map(|p| p.text.as_str()).collect::<Vec<_>>(), [" a b", " c d"]);
        let times: Vec<(f64, f64)> = parts.iter().flat_map(|p| &p.words).map(|w| (w.start, w.end)).collect();
        assert_eq!(times, [(1.5, 2.0), (2.5, 3.0), (10.0, 10.5), (10.5, 12.0)]);
        assert_eq!(parts.iter().map(|p| (p.start, p.end)).collect::<Vec<_>>(), [(1.5, 3.0), (10.0, 12.0)]);
    }

    #[test]
    fn segments_without_words_keep_their_text() {
        let segment = Segment { start: 0.4, end: 2.0, text: " a".into(), ..Segment::default() };
        let parts = cuts().restore(segment);
        assert_eq!((parts.len(), parts[0].start, parts[0].end, parts[0].text.as_str()), (1, 1.4, 3.0, " a"));
    }
}
