//! Byte-level BPE from a GGUF's metadata, through `tokenizers`.

use std::collections::HashMap;

use tokenizers::{
    Tokenizer,
    models::bpe::{BPE, Vocab},
    pre_tokenizers::{
        PreTokenizerWrapper,
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
    tokenizer::SplitDelimiterBehavior::Isolated,
};

use crate::weights::{
    Error, Result,
    gguf::{Gguf, Strings},
};

use super::Kind;

/// How a family of models cuts text into words before BPE: its names in `tokenizer.ggml.pre`, the patterns in order.
struct Family {
    names: &'static [&'static str],
    patterns: &'static [&'static str],
    whole_words: bool, // a word that is a token is taken before any merge
    adds_bos: bool,    // unless the metadata say otherwise
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";
const LLAMA3: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The families, by the patterns of the models' own tokenizer.json (and llama.cpp's table of names).
const FAMILIES: &[Family] = &[
    Family {
        names: &["default"],
        patterns: &[PUNCTUATION, GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
        whole_words: false,
        adds_bos: false,
    },
    Family {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "roberta-bpe",
            "jina-es",
            "jina-de",
            "jina-v2-en",
            "jina-v2-es",
            "jina-v2-de",
        ],
        patterns: &[GPT2],
        whole_words: false,
        adds_bos: false,
    },
    Family {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        patterns: &[r"\p{N}", GPT2],
        whole_words: false,
        adds_bos: false,
    },
    Family { names: &["llama3", "llama-v3", "llama-bpe", "falcon3"], patterns: &[LLAMA3], whole_words: true, adds_bos: true },
    Family { names: &["dbrx", "smaug-bpe"], patterns: &[LLAMA3], whole_words: false, adds_bos: false },
    Family {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"],
        patterns: &[QWEN2],
        whole_words: false,
        adds_bos: false,
    },
    Family { names: &["gpt-4o", "llama4", "kanana2"], patterns: &[GPT4O], whole_words: false, adds_bos: false },
    Family { names: &["tekken"], patterns: &[TEKKEN], whole_words: true, adds_bos: true },
];

/// The names of pre-tokenizers that this version knows.
pub const PRE_TOKENIZERS: &str = "default, gpt-2, phi-2, mpt, olmo, roberta-bpe, jina-*, smollm, starcoder, refact, command-r, \
     codeshell, exaone, minerva-7b, llama3, llama-v3, llama-bpe, falcon3, dbrx, smaug-bpe, qwen2, deepseek-r1-qwen, stablelm2, \
     megrez, gpt-4o, llama4, kanana2, tekken";

fn family(pre: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| f.names.contains(&pre))
}

/// Whether a prompt begins with the beginning mark when the metadata do not say.
pub(super) fn adds_bos(pre: &str) -> bool {
    family(pre).is_some_and(|f| f.adds_bos)
}

/// GPT-2's alphabet: printable characters stand for themselves, the other bytes for U+0100 and up.
pub(super) fn bytes_of_chars() -> HashMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let others = (0..=255).filter(|&b| !printable(b)).zip('\u{100}'..).map(|(b, c)| (c, b));
    (0..=255).filter(|&b| printable(b)).map(|b| (char::from(b), b)).chain(others).collect()
}

pub(super) fn from_gguf(gguf: &Gguf, tokens: &Strings, kinds: &[Kind], pre: &str) -> Result<Tokenizer> {
    const MERGES: &str = "tokenizer.ggml.merges";
    let Some(family) = family(pre) else {
        return Err(Error::Unsupported(format!("tokenizer.ggml.pre is \"{pre}\"; this version knows {PRE_TOKENIZERS}")));
    };
    // Control tokens are left out: plain text never makes one.
    let words = tokens.iter().zip(kinds).zip(0..).filter(|((_, kind), _)| !matches!(kind, Kind::Control | Kind::Unknown));
    let vocab: Vocab = words.map(|((text, _), id)| (text.to_owned(), id)).collect();
    let lines = gguf.strings(MERGES)?.ok_or_else(|| gguf.field_error(MERGES, "is missing"))?;
    let mut merges = Vec::with_capacity(lines.len());
    let mut joined = String::new();
    for (i, line) in lines.iter().enumerate() {
        // The first space after the first character: a token may itself be written with a leading space.
        let cut = line.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(at, _)| at);
        let Some((left, right)) = cut.map(|at| (&line[..at], &line[at + 1..])) else {
            return Err(gguf.field_error(MERGES, format!("merge {i} is {line:?}: two tokens with a space between are needed")));
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        // A rule about tokens that the vocabulary lacks can never apply.
        if [left, right, &joined].iter().all(|t| vocab.contains_key(*t)) {
            merges.push((left.to_owned(), right.to_owned()));
        }
    }
    let failed = |e: tokenizers::Error| Error::Unsupported(format!("tokenizer.ggml: {e}"));
    let model = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(family.whole_words).build().map_err(failed)?;
    let mut steps = Vec::new();
    for pattern in family.patterns {
        let split = Split::new(SplitPattern::Regex((*pattern).into()), Isolated, false).map_err(failed)?;
        steps.push(PreTokenizerWrapper::Split(split));
    }
    steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)));
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(steps))));
    Ok(tokenizer)
}
