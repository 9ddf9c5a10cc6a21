//! A vocabulary as llguidance wants it, and grammars compiled against it.

use std::{panic::AssertUnwindSafe, sync::Arc, thread};

use dreamseed_models::tokenizer::Tokenizer;
use llguidance::{
    ParserFactory, TokenParser,
    api::{GrammarInit, TopLevelGrammar},
    earley::SlicedBiasComputer,
    toktrie::{INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv},
};

use super::{Constraint, Grammar, Mask, limits};
use crate::{Error, Result};

/// Longest token that the tree of tokens can hold; longer ones (runs of spaces) are left out.
const LONGEST_TOKEN: usize = 1000;
/// Most bytes of all tokens, a bound on the nodes of that tree.
const VOCABULARY_BYTES: usize = (1 << 22) - 1;
/// Most tokens that it can number.
const VOCABULARY_TOKENS: usize = (1 << 24) - 1;
/// Stack of the thread that compiles: the recursion follows the nesting of a grammar, which is bounded by its size.
const STACK: usize = 128 << 20;
/// Longest message of llguidance that is passed on, in characters.
const LONGEST_REASON: usize = 500;

/// The text of each token, as a tree.
pub(super) struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    tree: TokTrie,
    canonical: bool,
    pub(super) text: Mask, // tokens that stand for text
    pub(super) ends: Mask, // tokens that end one
}

impl Vocabulary {
    fn new(tokenizer: Arc<Tokenizer>) -> Result<Self, String> {
        let tokens = tokenizer.len();
        // The tree marks control tokens of its own with the byte 0xFF, which no text has.
        let is_text = |&id: &u32| {
            let bytes = tokenizer.bytes(id);
            !tokenizer.is_control(id) && !tokenizer.is_end(id) && !bytes.is_empty() && bytes[0] != TokTrie::SPECIAL_TOKEN_MARKER
        };
        let ids = || 0..tokens as u32;
        let word = |id| tokenizer.bytes(id).to_vec();
        let words = ids().map(|id| if is_text(&id) { word(id) } else { Vec::new() });
        let words: Vec<Vec<u8>> = words.map(|w| if w.len() <= LONGEST_TOKEN { w } else { Vec::new() }).collect();
        let bytes: usize = words.iter().map(Vec::len).sum();
        if tokens > VOCABULARY_TOKENS || bytes > VOCABULARY_BYTES {
            return Err(format!(
                "the vocabulary has {tokens} tokens of {bytes} bytes; at most {VOCABULARY_TOKENS} of {VOCABULARY_BYTES} can be constrained"
            ));
        }
        let ends: Vec<u32> = ids().filter(|&id| tokenizer.is_end(id)).collect();
        let info = TokRxInfo::new(tokens as u32, ends.first().copied().unwrap_or(INVALID_TOKEN));
        let tree = guarded(|| Ok(TokTrie::from(&info, &words)))?;
        let tree = if ends.is_empty() { tree } else { tree.with_eos_tokens(&ends) };
        // Bytes that Unicode's assigned characters are made of, but for control characters.
        let mut needed = (0x20..=0x7E).chain(0x80..=0xBF).chain(0xC2..=0xF0);
        Ok(Self {
            canonical: needed.all(|byte: u8| tree.token_id(&[byte]).is_some()),
            text: Mask::of(ids().filter(|&id| !words[id as usize].is_empty()), tokens),
            ends: Mask::of(ends.into_iter(), tokens),
            tokenizer,
            tree,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.tokenizer.len()
    }

    /// The tokens that the model was trained to see for `text`, where they spell it exactly.
    fn encode(&self, text: &str) -> Vec<u32> {
        let spelled = |tokens: &[u32]| tokens.iter().flat_map(|&t| self.tokenizer.bytes(t)).eq(text.as_bytes());
        let tokens = self.tokenizer.encode_continued(text).ok().filter(|t| spelled(t));
        tokens.unwrap_or_else(|| self.tree.greedy_tokenize(text.as_bytes()))
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.tree
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.tree.tokenize_with_greedy_fallback(bytes, |text| self.encode(text))
    }

    /// Whether text that a grammar forces is written in the tokens that the model would use for it. A vocabulary that cannot spell
    /// every text chooses among the tokens that fit instead.
    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}

/// Compiles grammars for a vocabulary. Immutable; share it.
pub(in crate::llm) struct Compiler {
    factory: ParserFactory,
    vocabulary: Arc<Vocabulary>,
}

impl Compiler {
    /// Sorts the vocabulary: a tenth of a second for 50,000 tokens, once a model.
    ///
    /// # Errors
    /// A vocabulary that is too large.
    pub(in crate::llm) fn new(tokenizer: Arc<Tokenizer>) -> Result<Self, String> {
        let vocabulary = Arc::new(Vocabulary::new(tokenizer)?);
        let env: TokEnv = vocabulary.clone();
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = guarded(|| ParserFactory::new(&env, InferenceCapabilities::default(), &slices))?;
        factory.quiet();
        *factory.limits_mut() = limits::parser();
        Ok(Self { factory, vocabulary })
    }

    /// A grammar's beginning.
    ///
    /// # Errors
    /// [`Error::Usage`] for a grammar that is malformed, too large, asks for what is not supported, or that no text follows.
    pub(in crate::llm) fn compile(&self, grammar: &Grammar) -> Result<Constraint> {
        let (name, source) = (grammar.name(), limits::source(grammar)?);
        let parser = thread::scope(|scope| {
            let thread = thread::Builder::new().name("grammar".into()).stack_size(STACK);
            let thread = thread.spawn_scoped(scope, || self.parser(source));
            let thread = thread.map_err(|e| Error::Internal(format!("no thread for the {name}: {e}")))?;
            thread.join().map_err(|_| Error::Internal(format!("{name}: its compiler ended")))
        })?;
        let parser = parser.map_err(|problem| {
            // An expression and a tagged schema are compiled as rules of a grammar; who gave them knows nothing of that.
            let inside = match grammar {
                Grammar::Regex(_) => Some("(in regex): "),
                Grammar::Tagged { .. } => Some("failed to compile JSON schema: "),
                _ => None,
            };
            let told = inside.and_then(|place| problem.split(place).last()).and_then(|p| p.split("\n   1 | start").next());
            Error::Usage(format!("{name}: {}", told.unwrap_or(&problem)))
        })?;
        Constraint::new(parser, self.vocabulary.clone(), name)
    }

    fn parser(&self, source: TopLevelGrammar) -> Result<TokenParser, String> {
        let limits = self.factory.limits();
        let compiled = GrammarInit::Serialized(source);
        let (grammar, lexer) = guarded(|| compiled.to_internal(Some(self.factory.tok_env().clone()), limits.clone()))?;
        limits::check_lexer(&lexer)?;
        guarded(|| limits::try_lexer(lexer.clone(), &self.factory))??;
        guarded(|| self.factory.create_parser_from_init_default(GrammarInit::Internal(grammar, lexer)))
    }
}

/// Runs a part of llguidance. When it panics on a hostile grammar, that is an error of the grammar, and nothing is printed.
pub(super) fn guarded<T>(part: impl FnOnce() -> anyhow::Result<T>) -> Result<T, String> {
    let outcome = llguidance::panic_utils::catch_unwind(AssertUnwindSafe(part));
    outcome.map_err(|e| reason(&e.to_string()))
}

/// Its message without the state and the traces that follow it.
fn reason(message: &str) -> String {
    let message = message.split("\n<").next().unwrap_or_default().trim_end();
    let short: String = message.chars().take(LONGEST_REASON).collect();
    let hint = if short.contains("special token") { "; a grammar describes text: tokens by name are not allowed" } else { "" };
    match short.strip_prefix("panic: ") {
        Some(short) => format!("llguidance cannot compile it ({short}){hint}"),
        None => short + hint,
    }
}
