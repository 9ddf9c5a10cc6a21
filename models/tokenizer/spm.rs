//! SentencePiece vocabularies without merge rules: neighbours are joined by the score of what they make (Kudo 2018; the greedy
//! order is that of llama.cpp). What no token covers is spelled in byte tokens.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use crate::weights::{
    Error, Result,
    gguf::{Gguf, Strings},
};

use super::{Kind, token_name};

/// How the vocabulary writes a space.
pub(super) const SPACE: char = '\u{2581}';

/// The byte of a token named like `<0x0A>`.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

pub(super) struct Spm {
    ids: HashMap<Box<str>, u32>,
    scores: Vec<f32>,        // (vocabulary)
    bytes: Vec<Option<u32>>, // (256) byte tokens
    unknown: Option<u32>,    // stands for a byte without a token
}

/// A stretch of the text, linked to its neighbours; empty once it was joined to the left.
struct Symbol {
    start: usize,
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that make a token; the best score first, then the leftmost.
#[derive(PartialEq)]
struct Join {
    score: f32,
    left: Reverse<usize>,
    right: usize,
    start: usize,
    end: usize,
}

impl Eq for Join {}

impl Ord for Join {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then(self.left.cmp(&other.left))
    }
}

impl PartialOrd for Join {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Spm {
    pub(super) fn from_gguf(gguf: &Gguf, tokens: &Strings, kinds: &[Kind]) -> Result<Self> {
        const SCORES: &str = "tokenizer.ggml.scores";
        let scores = gguf.floats(SCORES)?.ok_or_else(|| gguf.field_error(SCORES, "is missing"))?;
        if scores.len() != tokens.len() {
            return Err(gguf.field_error(SCORES, format!("{} scores for {} tokens", scores.len(), tokens.len())));
        }
        if let Some(i) = scores.iter().position(|s| s.is_nan()) {
            return Err(gguf.field_error(SCORES, format!("score {i} is not a number")));
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        let mut bytes = vec![None; 256];
        for ((text, kind), id) in tokens.iter().zip(kinds).zip(0..) {
            match (kind, byte_of(text)) {
                (Kind::Byte, Some(byte)) => bytes[usize::from(byte)] = Some(id),
                (Kind::Byte, None) => {
                    let problem =
                        format!("byte token {id} is named {:?}; <0x00> to <0xFF> are allowed", token_name(tokens, id));
                    return Err(gguf.field_error(super::TOKENS, problem));
                }
                (Kind::Normal | Kind::UserDefined, _) => {
                    ids.insert(text.into(), id);
                }
                (Kind::Control | Kind::Unknown, _) => {} // never made of plain text
            }
        }
        let unknown = super::token_id(gguf, "tokenizer.ggml.unknown_token_id", tokens.len())?;
        if unknown.is_none() && bytes.contains(&None) {
            return Err(Error::Unsupported("the vocabulary has neither all 256 byte tokens nor an unknown token".into()));
        }
        Ok(Self { ids, scores, bytes, unknown })
    }

    pub(super) fn encode(&self, text: &str, space_before: bool, out: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + text.len() / 4 + 3);
        if space_before {
            escaped.push(SPACE);
        }
        escaped.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        let mut symbols: Vec<Symbol> = Vec::with_capacity(escaped.len());
        for (i, (start, c)) in escaped.char_indices().enumerate() {
            symbols.push(Symbol { start, end: start + c.len_utf8(), previous: i.checked_sub(1), next: Some(i + 1) });
        }
        let Some(last) = symbols.last_mut() else { return };
        last.next = None;
        self.join(&escaped, &mut symbols);
        let mut at = Some(0);
        while let Some(i) = at {
            let piece = &escaped[symbols[i].start..symbols[i].end];
            match self.ids.get(piece) {
                Some(&id) => out.push(id),
                None => out.extend(piece.bytes().filter_map(|b| self.bytes[usize::from(b)].or(self.unknown))),
            }
            at = symbols[i].next;
        }
    }

    fn join(&self, text: &str, symbols: &mut [Symbol]) {
        let candidate = |symbols: &[Symbol], left: usize, right: usize| {
            let (start, end) = (symbols[left].start, symbols[right].end);
            let &id = self.ids.get(&text[start..end])?;
            Some(Join { score: self.scores[id as usize], left: Reverse(left), right, start, end })
        };
        let mut queue: BinaryHeap<Join> = (1..symbols.len()).filter_map(|i| candidate(symbols, i - 1, i)).collect();
        while let Some(Join { left: Reverse(left), right, start, end, .. }) = queue.pop() {
            let (l, r) = (&symbols[left], &symbols[right]);
            let stale = l.start == l.end || r.start == r.end || l.start != start || r.end != end || l.end != r.start;
            if stale {
                continue;
            }
            let next = symbols[right].next;
            symbols[right].start = symbols[right].end;
            symbols[left].end = end;
            symbols[left].next = next;
            if let Some(next) = next {
                symbols[next].previous = Some(left);
                queue.extend(candidate(symbols, left, next));
            }
            if let Some(previous) = symbols[left].previous {
                queue.extend(candidate(symbols, previous, left));
            }
        }
    }
}
