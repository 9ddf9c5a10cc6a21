//! Constrained output: text that follows a JSON schema, a regular expression or a grammar, token by token.
//!
//! llguidance says which tokens may come next. This module gives it the vocabulary, keeps hostile grammars within bounds, and knows
//! for each text where in its grammar it stands. Control tokens are never part of a constrained text; the tokens that end one are
//! allowed where the grammar may end. A token is chosen from the model's own logits among those that are allowed, so that the text
//! is what the model would write if it could write nothing else.

mod compile;
mod limits;

use std::sync::Arc;

use llguidance::{TokenParser, api::StopReason};

pub(super) use compile::Compiler;
use compile::{Vocabulary, guarded};

use crate::{Error, Result};

/// What a text has to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// Any JSON object.
    Json,
    /// JSON that is valid against this schema. Properties come in the order in which the schema names them; between two of its
    /// parts JSON may have a space or a line break with up to 40 spaces, so that no text is blank for long. `"x-guidance"` at its top
    /// sets other separators (llguidance's options). Keywords that cannot be kept are refused by name, never ignored.
    JsonSchema(String),
    /// A regular expression that the whole text matches: the syntax of the crate `regex`, without anchors and boundaries inside.
    Regex(String),
    /// One to `most` texts, a line each: JSON that is valid against `schema`, as [`Grammar::JsonSchema`] has it, between `open` and
    /// `close`.
    Tagged {
        /// Before the JSON.
        open: String,
        /// A JSON schema.
        schema: String,
        /// After the JSON.
        close: String,
        /// 1 and up.
        most: usize,
    },
    /// A context-free grammar in llguidance's form of Lark; its first rule is `start`.
    Lark(String),
}

impl Grammar {
    /// Whether its text is within bounds and, where that can be told without a model, well formed.
    ///
    /// # Errors
    /// [`Error::Usage`] with what was seen and what is allowed.
    pub fn check(&self) -> Result<()> {
        limits::source(self).map(drop)
    }

    /// What messages call it.
    fn name(&self) -> &'static str {
        match self {
            Self::Json | Self::JsonSchema(_) | Self::Tagged { .. } => "JSON schema",
            Self::Regex(_) => "regular expression",
            Self::Lark(_) => "grammar",
        }
    }
}

/// A set of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u32>, // (vocabulary / 32) a bit a token, the lowest first
}

impl Mask {
    pub(super) fn of(tokens: impl Iterator<Item = u32>, vocabulary: usize) -> Self {
        let mut mask = Self { words: vec![0; vocabulary.div_ceil(32)] };
        tokens.for_each(|t| mask.insert(t));
        mask
    }

    fn insert(&mut self, token: u32) {
        self.words[token as usize / 32] |= 1 << (token % 32);
    }

    /// Whether `token` is in it.
    pub fn allows(&self, token: u32) -> bool {
        self.words.get(token as usize / 32).is_some_and(|w| w >> (token % 32) & 1 == 1)
    }

    /// Its tokens, ascending.
    pub fn tokens(&self) -> impl Iterator<Item = u32> {
        self.words.iter().zip(0..).flat_map(|(&word, i)| {
            let some = |w: u32| (w != 0).then_some(w);
            std::iter::successors(some(word), move |w| some(w & (w - 1))).map(move |w| i * 32 + w.trailing_zeros())
        })
    }
}

/// Where one text stands in its grammar.
pub struct Constraint {
    parser: TokenParser,
    start: Option<Box<TokenParser>>, // to begin again from, where the parser cannot go back
    accepted: Vec<u32>,
    mask: Option<Mask>, // of the tokens that may come now, once asked for
    vocabulary: Arc<Vocabulary>,
    name: &'static str,
}

impl Constraint {
    /// Before the first token.
    ///
    /// # Errors
    /// [`Error::Usage`] when no text follows the grammar.
    fn new(mut parser: TokenParser, vocabulary: Arc<Vocabulary>, name: &'static str) -> Result<Self> {
        parser.start_without_prompt();
        let goes_back = parser.parser.grammar().lexer_spec().can_rollback();
        let start = (!goes_back).then(|| Box::new(parser.deep_clone()));
        let mut constraint = Self { parser, start, accepted: Vec::new(), mask: None, vocabulary, name };
        let parser = &mut constraint.parser;
        guarded(|| parser.check_stop()).map_err(|e| constraint.stuck(&e))?;
        constraint.mask()?;
        Ok(constraint)
    }

    /// The tokens that may come next: those of the text, and those that end it where it may end. Computed once a place.
    ///
    /// # Errors
    /// [`Error::Usage`] when the grammar is too complex at this place, or no token of this vocabulary can go on.
    pub fn mask(&mut self) -> Result<&Mask> {
        let mask = match self.mask.take() {
            Some(mask) => mask,
            None => self.compute()?,
        };
        Ok(self.mask.insert(mask))
    }

    fn compute(&mut self) -> Result<Mask> {
        let vocabulary = &self.vocabulary;
        if self.is_complete() {
            return Ok(vocabulary.ends.clone());
        }
        let parser = &mut self.parser;
        let allowed = guarded(|| parser.compute_mask()).map_err(|e| self.stuck(&e))?;
        let mut mask = Mask { words: allowed.into() };
        let ends = vocabulary.ends.tokens().any(|t| mask.allows(t));
        // tokens that the grammar names by number are no text
        mask.words.truncate(vocabulary.text.words.len());
        for (i, word) in mask.words.iter_mut().enumerate() {
            *word = *word & vocabulary.text.words[i] | if ends { vocabulary.ends.words[i] } else { 0 };
        }
        if mask.words.iter().all(|w| *w == 0) { Err(self.stuck("")) } else { Ok(mask) }
    }

    /// Goes on by a token.
    ///
    /// # Errors
    /// [`Error::Usage`] when the token is not allowed here, or the grammar is too complex at this place.
    pub fn accept(&mut self, token: u32) -> Result<()> {
        if self.vocabulary.ends.allows(token) || self.is_complete() {
            if !self.mask()?.allows(token) {
                return Err(self.stuck(&format!("token {token} is not allowed here")));
            }
        } else {
            let parser = &mut self.parser;
            let step = guarded(|| {
                parser.consume_token(token)?;
                parser.check_stop()
            });
            step.map_err(|e| self.stuck(&e))?;
        }
        self.accepted.push(token);
        self.mask = None;
        Ok(())
    }

    /// Goes back by the last `tokens` that were accepted.
    ///
    /// # Errors
    /// [`Error::Usage`] when fewer were.
    pub fn rollback(&mut self, tokens: usize) -> Result<()> {
        let Some(left) = self.accepted.len().checked_sub(tokens) else {
            let accepted = self.accepted.len();
            return Err(self.stuck(&format!("{accepted} tokens were accepted; it cannot go back by {tokens}")));
        };
        let back = self.accepted.split_off(left);
        self.mask = None;
        if let Some(start) = &self.start {
            self.parser = start.deep_clone();
            return std::mem::take(&mut self.accepted).into_iter().try_for_each(|t| self.accept(t));
        }
        let back = back.into_iter().filter(|t| !self.vocabulary.ends.allows(*t)).count(); // the parser never sees those
        let parser = &mut self.parser;
        guarded(|| parser.rollback(back)).map_err(|e| self.stuck(&e))
    }

    /// Tokens that the grammar forces from here on: nothing else is allowed at their places. They need no choice and make drafts
    /// that are always right. Empty where there is a choice.
    pub fn forced(&mut self) -> Vec<u32> {
        if self.is_complete() {
            return Vec::new();
        }
        let parser = &mut self.parser;
        guarded(|| Ok(parser.compute_ff_tokens())).unwrap_or_default()
    }

    /// How many of `tokens` could come next, one after the other: what is worth to be tried as a draft.
    pub fn takes(&mut self, tokens: &[u32]) -> usize {
        let known = tokens.iter().take_while(|t| (**t as usize) < self.vocabulary.len()).count();
        if self.is_complete() {
            return 0;
        }
        let parser = &mut self.parser;
        guarded(|| parser.validate_tokens_raw(&tokens[..known])).unwrap_or(0)
    }

    /// Whether the text is at its end: nothing but an end may follow, or has.
    pub fn is_complete(&self) -> bool {
        matches!(self.parser.stop_reason(), StopReason::NoExtension | StopReason::EndOfSentence)
            || self.accepted.last().is_some_and(|t| self.vocabulary.ends.allows(*t))
    }

    fn stuck(&self, reason: &str) -> Error {
        let (name, n) = (self.name, self.accepted.len());
        Error::Usage(match self.parser.stop_reason() {
            StopReason::LexerTooComplex | StopReason::ParserTooComplex => {
                format!("{name}: too complex after {n} tokens of the text ({reason}); make it simpler")
            }
            StopReason::NotStopped | StopReason::NoExtension | StopReason::InternalError if !reason.is_empty() => {
                format!("{name}: {reason}")
            }
            _ if n == 0 => format!("{name}: no text follows it"),
            _ => format!("{name}: after {n} tokens no token of this model can go on"),
        })
    }
}

impl Clone for Constraint {
    /// One that goes its own way from here, with caches of its own.
    fn clone(&self) -> Self {
        Self {
            parser: self.parser.deep_clone(),
            start: self.start.clone(),
            accepted: self.accepted.clone(),
            mask: self.mask.clone(),
            vocabulary: self.vocabulary.clone(),
            name: self.name,
        }
    }
}

#[cfg(test)]
mod tests;
