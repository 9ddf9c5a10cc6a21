//! What of a text is spoken: its words with their tokens, and tokens that sound alike as one.

use std::collections::HashMap;

use super::math;
use super::options::{Error, Result};
use super::tokens::Tokens;
use crate::words;

/// Longest word of an expected text, characters; each can take several tokens of a context of 448.
const MAX_WORD: usize = 60;

/// A word of the expected text.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) shown: String,
    pub(super) normal: String,   // as it is compared
    pub(super) tokens: Vec<u32>, // with the punctuation that follows it
}

/// The words of a text: split where [`words::split`] splits, at every letter for languages without blanks.
pub(super) fn units(tokens: &Tokens, text: &str, language: &str) -> Result<Vec<Unit>> {
    let problem = |problem: String| Error::option("expected text", problem);
    let encode = |piece: &str| {
        let missing = "the model's folder has no tokenizer.json, which is needed to read a text";
        tokens.encode(piece).ok_or_else(|| problem(missing.into()))
    };
    let mut units: Vec<Unit> = Vec::new();
    let mut before: Vec<u32> = Vec::new(); // of punctuation ahead of the first word
    for piece in pieces(text, tokens.is_unspaced(language)) {
        let normal = words::normal(&piece);
        let length = piece.trim().chars().count();
        if length > MAX_WORD {
            let start: String = normal.chars().take(12).collect();
            return Err(problem(format!("a word of {length} characters seen ({start:?}...), at most {MAX_WORD} are allowed")));
        }
        let ids = encode(&piece)?;
        match (normal.is_empty(), units.last_mut()) {
            (true, Some(last)) if last.tokens.len() < 2 * MAX_WORD => last.tokens.extend(ids),
            (true, _) => before = ids,
            (false, _) => {
                let mut all = std::mem::take(&mut before);
                all.extend(ids);
                units.push(Unit { shown: shown(&piece), normal, tokens: all });
            }
        }
    }
    if units.is_empty() {
        return Err(problem("it has no words; give what should be said".into()));
    }
    Ok(units)
}

/// Stretches of the text that are words, each with the blank before it.
fn pieces(text: &str, unspaced: bool) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let mut piece = if unspaced { String::new() } else { String::from(" ") };
        for c in word.chars() {
            piece.push(c);
            if matches!(c, '-' | '–' | '—' | '/') || unspaced && c.is_alphanumeric() {
                out.push(std::mem::take(&mut piece));
            }
        }
        if !piece.trim().is_empty() {
            out.push(piece);
        }
    }
    out
}

/// A word without what is around it.
pub(super) fn shown(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric()).into()
}

/// Text tokens by their sound: those that differ in case or in the blank before them are one class, punctuation has none.
pub(super) struct Classes(Vec<u32>); // (text tokens and the end): class, or SILENT

const SILENT: u32 = u32::MAX;

impl Classes {
    pub(super) fn new(tokens: &Tokens) -> Self {
        let mut known: HashMap<String, u32> = HashMap::new();
        let class = |id: u32| {
            // a part of a character stands for itself
            let Ok(text) = std::str::from_utf8(tokens.piece(id)) else { return id };
            match text.chars().any(char::is_alphanumeric) {
                true => *known.entry(text.trim().to_lowercase()).or_insert(id),
                false => SILENT,
            }
        };
        let mut all: Vec<u32> = (0..tokens.eot).map(class).collect();
        all.push(tokens.eot);
        Self(all)
    }

    /// The class of a token; `None` for what is not spoken.
    pub(super) fn of(&self, token: u32) -> Option<u32> {
        self.0.get(token as usize).copied().filter(|c| *c != SILENT)
    }

    /// ln P of the `wanted` classes, and of the likeliest single token outside of class `own`, among all that is spoken.
    pub(super) fn log_probabilities(&self, row: &[f32], wanted: &[u32], own: u32) -> (Vec<f32>, f32) {
        let spoken = || self.0.iter().zip(row).filter(|(class, _)| **class != SILENT);
        let mut members: Vec<Vec<f32>> = vec![Vec::new(); wanted.len()];
        let mut alternative = f32::NEG_INFINITY;
        let mut all = Vec::with_capacity(self.0.len());
        for (class, logit) in spoken() {
            all.push(*logit);
            if *class != own {
                alternative = alternative.max(*logit);
            }
            for (wanted, members) in wanted.iter().zip(&mut members) {
                if wanted == class {
                    members.push(*logit);
                }
            }
        }
        let total = math::log_sum_exp(&all);
        (members.iter().map(|m| math::log_sum_exp(m) - total).collect(), alternative - total)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokens::tests::sample;
    use super::*;

    #[test]
    fn words_are_cut_where_they_are_compared() {
        assert_eq!(pieces("A well-known  man.", false), [" A", " well-", "known", " man."]);
        assert_eq!(pieces("今日は、いい", true).concat(), "今日は、いい");
        assert_eq!(pieces(" \n", false), Vec::<String>::new());
    }

    #[test]
    fn what_sounds_alike_is_one_class_and_punctuation_none() {
        let tokens = sample(); // bytes as ids, 256 is " so"
        let classes = Classes::new(&tokens);
        assert_eq!(classes.of(u32::from(b'A')), classes.of(u32::from(b'a')));
        assert_eq!(classes.of(u32::from(b'.')), None);
        assert_eq!(classes.of(0xec), Some(0xec)); // the first byte of a Korean letter
        assert_eq!(classes.of(tokens.eot), Some(tokens.eot));
        assert_eq!(classes.of(tokens.sot), None);
    }

    #[test]
    fn probabilities_leave_punctuation_out() {
        let tokens = sample();
        let classes = Classes::new(&tokens);
        let mut row = vec![f32::NEG_INFINITY; 300];
        row[usize::from(b'.')] = 9.0; // would take nearly all
        row[usize::from(b'a')] = 1.0;
        row[usize::from(b'A')] = 1.0;
        row[usize::from(b'b')] = 1.0;
        let own = classes.of(u32::from(b'a')).unwrap();
        let (found, alternative) = classes.log_probabilities(&row, &[own], own);
        assert!((found[0] - (2f32 / 3.0).ln()).abs() < 1e-5 && (alternative - (1f32 / 3.0).ln()).abs() < 1e-5);
    }
}
