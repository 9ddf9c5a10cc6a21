//! Which words of sound that still goes on are certain: those on which two hypotheses in a row agree (LocalAgreement-2, Liu et al.
//! 2020; Machacek et al. 2023).

use super::Word;

/// A word with what is known of the segment that it came in.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Heard {
    pub(super) word: Word,
    pub(super) avg_logprob: f32,
    pub(super) no_speech_prob: f32,
}

/// The words of the sound that is held.
#[derive(Default)]
pub(super) struct Agreement {
    /// They never change again.
    pub(super) confirmed: Vec<Heard>,
    /// What the last hypothesis has after them.
    pub(super) rest: Vec<Heard>,
    /// How many of `confirmed` the listener was told of.
    pub(super) told: usize,
    until: f64, // end of the last confirmed word, seconds
}

impl Agreement {
    /// Takes a hypothesis about all that is held. Words are confirmed on which it agrees with the one before, and those that end
    /// before `overdue` seconds. Returns how many were.
    pub(super) fn take(&mut self, hypothesis: Vec<Heard>, overdue: f64) -> usize {
        let known = continuation(&self.confirmed, &hypothesis);
        let new: Vec<Heard> = hypothesis.into_iter().skip(known).collect();
        let agreed = self.rest.iter().zip(&new).take_while(|(a, b)| plain(a) == plain(b)).count();
        let late = new.iter().take_while(|heard| heard.word.end < overdue).count();
        self.rest = new;
        self.confirm(agreed.max(late))
    }

    /// Confirms the first `count` of the rest; how many there were.
    pub(super) fn confirm(&mut self, count: usize) -> usize {
        let count = count.min(self.rest.len());
        for mut heard in self.rest.drain(..count) {
            // hypotheses may differ about times: words still follow each other
            heard.word.start = heard.word.start.max(self.until);
            heard.word.end = heard.word.end.max(heard.word.start);
            self.until = heard.word.end;
            self.confirmed.push(heard);
        }
        count
    }

    /// The first `count` confirmed words, which are held no longer.
    pub(super) fn forget(&mut self, count: usize) -> Vec<Heard> {
        let count = count.min(self.confirmed.len());
        self.told = self.told.saturating_sub(count);
        self.confirmed.drain(..count).collect()
    }
}

/// A word without case and punctuation; of one that is nothing else, as it is.
fn plain(heard: &Heard) -> String {
    let word = heard.word.word.trim();
    let letters: String = word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    if letters.is_empty() { word.into() } else { letters }
}

/// How many words of the hypothesis are the confirmed ones: the beginning of it that is nearest to them by edits; among equals the
/// one whose end is nearest in time.
fn continuation(confirmed: &[Heard], hypothesis: &[Heard]) -> usize {
    let Some(last) = confirmed.last() else { return 0 };
    let theirs: Vec<String> = hypothesis.iter().map(plain).collect();
    let mut row: Vec<usize> = (0..=theirs.len()).collect();
    for (i, ours) in confirmed.iter().map(plain).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, word) in theirs.iter().enumerate() {
            let change = diagonal + usize::from(ours != *word);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    let away = |count: usize| {
        let end = count.checked_sub(1).and_then(|i| hypothesis.get(i)).map_or(0.0, |h| h.word.end);
        (end - last.word.end).abs()
    };
    let nearest = row.iter().enumerate().min_by(|a, b| a.1.cmp(b.1).then(away(a.0).total_cmp(&away(b.0))));
    nearest.map_or(0, |(count, _)| count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Heard> {
        let word =
            |(i, w): (usize, &str)| Word { start: i as f64, end: i as f64 + 0.9, word: format!(" {w}"), probability: 1.0 };
        text.split_whitespace().enumerate().map(|w| Heard { word: word(w), ..Heard::default() }).collect()
    }

    fn text(heard: &[Heard]) -> String {
        heard.iter().map(|h| h.word.word.trim()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn two_in_a_row_confirm_what_they_share() {
        let mut agreement = Agreement::default();
        for (hypothesis, confirmed, rest) in [
            ("And so", "", "And so"),
            ("And so my fell", "And so", "my fell"),
            ("And so, my fellow", "And so my", "fellow"),
            ("and so my fellow. Americans", "And so my fellow.", "Americans"),
            ("", "And so my fellow.", ""),
            ("So my fellow Americans ask", "And so my fellow.", "Americans ask"),
            ("And so my fellow Americans ask not", "And so my fellow. Americans ask", "not"),
        ] {
            agreement.take(words(hypothesis), 0.0);
            assert_eq!(
                (text(&agreement.confirmed).as_str(), text(&agreement.rest).as_str()),
                (confirmed, rest),
                "{hypothesis}"
            );
        }
    }

    #[test]
    fn repeated_words_are_told_apart() {
        let confirmed = words("ask not what you ask");
        assert_eq!(continuation(&confirmed, &words("ask not what you ask what you ask")), 5);
        assert_eq!(continuation(&confirmed, &words("ask what you ask what")), 4);
        assert_eq!(continuation(&confirmed, &[]), 0);
        assert_eq!(continuation(&[], &words("ask")), 0);
        // nothing in common: by time
        assert_eq!(continuation(&words("a b"), &words("x y z")), 2);
    }

    #[test]
    fn late_words_are_confirmed_and_times_follow_each_other() {
        let mut agreement = Agreement::default();
        assert_eq!(agreement.take(words("a b c d"), 2.0), 2);
        let mut again = words("a b c d");
        again[2].word.start = 0.1;
        assert_eq!(agreement.take(again, 0.0), 2);
        assert!(agreement.confirmed.windows(2).all(|w| w[0].word.end <= w[1].word.start));
        assert_eq!((text(&agreement.forget(3)).as_str(), agreement.confirmed.len()), ("a b c", 1));
    }
}
