//! Text to tokens and back: byte-level BPE and SentencePiece vocabularies from a GGUF's metadata, or a tokenizer.json.
//!
//! Control tokens (`<|im_end|>`, `<bos>`, ...) are found in a text only where the caller says so ([`Specials::Parse`]), so that what a
//! user types never becomes one. Tokens are the same as llama.cpp's for the same file.

mod bpe;
mod detokenizer;
pub(crate) mod hub;
mod spm;

use std::{collections::HashMap, path::Path};

use crate::weights::{
    Error, Result,
    gguf::{Gguf, Strings},
};

pub use bpe::PRE_TOKENIZERS;
pub use detokenizer::Detokenizer;

/// Whether the names of control tokens in a text stand for the tokens or for themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// Plain text: what users type.
    Text,
    /// Control tokens: what templates write.
    Parse,
}

/// What a token is for (GGUF's `tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Byte,
}

enum Model {
    Bpe(Box<tokenizers::Tokenizer>), // byte-level from GGUF, or whatever a tokenizer.json describes
    Spm(spm::Spm),
}

/// A vocabulary with its rules. Immutable; share it.
pub struct Tokenizer {
    model: Model,
    bytes: Vec<u8>,   // what each token stands for, one after the other
    ends: Vec<usize>, // (vocabulary) end of each token's bytes
    kinds: Vec<Kind>, // (vocabulary)
    named: Named,
    space_prefix: bool,
    add_bos: bool,
    add_eos: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    end_of_generation: Vec<u32>,
}

/// A token with a name.
#[derive(Clone, Copy)]
struct Name {
    id: u32,
    always: bool, // found in plain text too
    strips: bool, // white space after it goes
}

/// Tokens that are found in a text by their name before the model sees it.
#[derive(Default)]
struct Named {
    ids: HashMap<Box<str>, Name>,
    lengths: Vec<Vec<usize>>, // (256) by first byte: lengths of names, longest first
}

/// Longest name, in bytes, of a token that is found in a text: those in use have some 30.
const MAX_NAME: usize = 256;

impl Named {
    fn new(names: impl Iterator<Item = (String, Name)>) -> std::result::Result<Self, String> {
        let mut named = Self { ids: HashMap::new(), lengths: vec![Vec::new(); 256] };
        for (text, name) in names.filter(|n| !n.0.is_empty()) {
            if text.len() > MAX_NAME {
                let (id, len) = (name.id, text.len());
                return Err(format!("token {id} has a name of {len} bytes; control tokens have at most {MAX_NAME}"));
            }
            let lengths = &mut named.lengths[usize::from(text.as_bytes()[0])];
            if !lengths.contains(&text.len()) {
                lengths.push(text.len());
            }
            named.ids.insert(text.into(), name);
        }
        named.lengths.iter_mut().for_each(|l| l.sort_unstable_by(|a, b| b.cmp(a)));
        Ok(named)
    }

    /// What is named at byte `at` of `text`, the longest first, each with its end.
    fn at<'t>(&'t self, text: &'t str, at: usize) -> impl Iterator<Item = (usize, Name)> + 't {
        let lengths = self.lengths.get(usize::from(text.as_bytes()[at])).into_iter().flatten();
        lengths.filter_map(move |len| Some((at + len, *self.ids.get(text.get(at..at + len)?)?)))
    }

    /// The first name in `text` at or after byte `from`, the longest where several start: start, end (after white space that
    /// goes with it) and id.
    fn find(&self, text: &str, from: usize, specials: Specials) -> Option<(usize, usize, u32)> {
        (from..text.len()).find_map(|at| {
            let (end, name) = self.at(text, at).find(|(_, name)| name.always || specials == Specials::Parse)?;
            let blank = |b: &u8| name.strips && (b.is_ascii_whitespace() || *b == 0x0B);
            let after = text.as_bytes()[end..].iter().take_while(|b| blank(b)).count();
            Some((at, end + after, name.id))
        })
    }
}

/// Names by which models end a turn or a text, whatever their metadata say.
#[rustfmt::skip]
const END_NAMES: [&str; 15] = [
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>",
    "<|end_of_text|>", "<EOT>", "_<EOT>", "<|end_of_turn|>", "<end_of_utterance>", "<eos>", "</s>",
];

const TOKENS: &str = "tokenizer.ggml.tokens";

impl Tokenizer {
    /// From a GGUF's metadata.
    ///
    /// # Errors
    /// [`Error::Field`] for missing, mistyped or contradictory metadata, [`Error::Unsupported`] for a vocabulary of another kind.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let model = gguf.str("tokenizer.ggml.model")?.ok_or_else(|| gguf.field_error("tokenizer.ggml.model", "is missing"))?;
        let tokens = gguf.strings(TOKENS)?.ok_or_else(|| gguf.field_error(TOKENS, "is missing"))?;
        if u32::try_from(tokens.len()).is_err() || tokens.is_empty() {
            return Err(gguf.field_error(TOKENS, format!("{} tokens; 1 to 2^32 - 1 are allowed", tokens.len())));
        }
        let kinds = token_kinds(gguf, tokens.len())?;
        let byte_level = model == "gpt2";
        let (model, mut defaults) = match model {
            "gpt2" => {
                let pre = gguf.str("tokenizer.ggml.pre")?.unwrap_or("default");
                let bos = bpe::adds_bos(pre);
                (Model::Bpe(Box::new(bpe::from_gguf(gguf, tokens, &kinds, pre)?)), (false, bos, None, None))
            }
            "llama" => (Model::Spm(spm::Spm::from_gguf(gguf, tokens, &kinds)?), (true, true, Some(1), Some(2))),
            other => {
                let known = "\"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece)";
                return Err(Error::Unsupported(format!("tokenizer.ggml.model is \"{other}\"; this version reads {known}")));
            }
        };
        defaults.2 = token_id(gguf, "tokenizer.ggml.bos_token_id", tokens.len())?.or(defaults.2);
        defaults.3 = token_id(gguf, "tokenizer.ggml.eos_token_id", tokens.len())?.or(defaults.3);
        let mut end_of_generation: Vec<u32> = defaults.3.into_iter().collect();
        for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
            end_of_generation.extend(token_id(gguf, key, tokens.len())?);
        }
        let (bytes, ends) = token_bytes(tokens.iter(), &kinds, byte_level);
        // Files of Phi 3 do not say that the marks of its turns take the white space after them.
        let phi = !byte_level && gguf.str("general.architecture")? == Some("phi3");
        let named = tokens.iter().zip(&kinds).zip(0..).filter_map(|((text, kind), id)| {
            let strips = phi && !matches!(text, "<unk>" | "<s>" | "<|endoftext|>");
            match kind {
                Kind::UserDefined => Some((text.to_owned(), Name { id, always: true, strips })),
                Kind::Control | Kind::Unknown => Some((text.to_owned(), Name { id, always: false, strips })),
                Kind::Normal | Kind::Byte => None,
            }
        });
        let mut tokenizer = Self {
            model,
            bytes,
            ends,
            named: Named::new(named).map_err(|problem| gguf.field_error(TOKENS, problem))?,
            kinds,
            space_prefix: gguf.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(defaults.0) && !byte_level,
            add_bos: gguf.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(defaults.1),
            add_eos: gguf.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            bos: defaults.2,
            eos: defaults.3,
            end_of_generation,
        };
        tokenizer.collect_ends();
        Ok(tokenizer)
    }

    /// From a tokenizer.json of HF tokenizers. `bos` and `eos` come from the model's config.json.
    ///
    /// # Errors
    /// [`Error::Field`] where the file does not parse.
    pub fn from_json(path: &Path, bos: Option<u32>, eos: &[u32]) -> Result<Self> {
        let bad =
            |problem: String| Error::Field { format: "tokenizer.json", field: path.display().to_string(), offset: 0, problem };
        let text = crate::weights::read_whole(path, crate::weights::TEXT)
            .map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let mut model = hub::from_bytes(&text).map_err(bad)?;
        model.set_encode_special_tokens(true);
        let prefix = hub::encode(&model, "", true).map_err(bad)?;
        let size = model.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if size > text.len() {
            return Err(bad(format!("token ids up to {size} in a file of {} bytes", text.len())));
        }
        let byte_level = format!("{:?}", model.get_decoder()).contains("ByteLevel");
        let added = model.get_added_tokens_decoder();
        let texts: Vec<String> = (0..size as u32).map(|id| model.id_to_token(id).unwrap_or_default()).collect();
        let kinds = texts.iter().zip(0..).map(|(text, id)| match added.get(&id) {
            Some(token) if token.special => Kind::Control,
            Some(_) => Kind::UserDefined,
            None if !byte_level && spm::byte_of(text).is_some() => Kind::Byte,
            None => Kind::Normal,
        });
        let kinds: Vec<Kind> = kinds.collect();
        let (bytes, ends) = token_bytes(texts.iter().map(String::as_str), &kinds, byte_level);
        let named = added.iter().map(|(&id, token)| {
            let name = Name { id, always: !token.special, strips: token.rstrip };
            (token.content.clone(), name)
        });
        let mut tokenizer = Self {
            bytes,
            ends,
            named: Named::new(named).map_err(bad)?,
            kinds,
            space_prefix: false, // part of its normalizer
            add_bos: bos.is_some() && prefix.get_ids().first().copied() == bos,
            add_eos: false,
            bos: bos.filter(|&id| (id as usize) < size),
            eos: eos.first().copied().filter(|&id| (id as usize) < size),
            end_of_generation: eos.to_vec(),
            model: Model::Bpe(Box::new(model)),
        };
        tokenizer.collect_ends();
        Ok(tokenizer)
    }

    fn collect_ends(&mut self) {
        let named = END_NAMES.iter().filter_map(|name| self.named.ids.get(*name));
        self.end_of_generation.extend(named.filter(|name| !name.always).map(|name| name.id));
        self.end_of_generation.sort_unstable();
        self.end_of_generation.dedup();
    }

    /// Tokens in the vocabulary.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether the vocabulary is empty.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Beginning of a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// End of a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether the model stops with this token (end of text or of turn).
    pub fn is_end(&self, id: u32) -> bool {
        self.end_of_generation.binary_search(&id).is_ok()
    }

    /// The id of a control or user-defined token by its name.
    pub fn special(&self, name: &str) -> Option<u32> {
        self.named.ids.get(name).map(|name| name.id)
    }

    /// Where in `text` the name of a control token begins, in bytes.
    pub(crate) fn control_starts<'t>(&'t self, text: &'t str) -> impl Iterator<Item = usize> + 't {
        (0..text.len()).filter(|&at| self.named.at(text, at).any(|(_, name)| !name.always))
    }

    /// Names of the control tokens.
    pub fn control_names(&self) -> impl Iterator<Item = &str> {
        self.named.ids.iter().filter(|(_, name)| !name.always).map(|(text, _)| &**text)
    }

    /// Tokens of a text as it stands: nothing added but the space that some vocabularies put before a text.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the model of a tokenizer.json refuses the text.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>> {
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        self.encode_into(text, specials, |s| s, true, &mut out)?;
        Ok(out)
    }

    /// Tokens of a plain text that goes on where another one ends: without the space that some vocabularies put first.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_continued(&self, text: &str) -> Result<Vec<u32>> {
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        self.encode_into(text, Specials::Text, |s| s, false, &mut out)?;
        Ok(out)
    }

    /// The mark that the model's metadata ask for before a prompt.
    pub fn prompt_bos(&self) -> Option<u32> {
        self.bos.filter(|_| self.add_bos)
    }

    /// Tokens of a whole prompt: with the beginning and end marks that the model's metadata ask for; a mark that the text
    /// already begins with is not doubled. `clean` is applied to stretches of plain text after the control tokens were found.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str, specials: Specials, clean: impl Fn(&str) -> String) -> Result<Vec<u32>> {
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        out.extend(self.prompt_bos());
        self.encode_into(text, specials, clean, true, &mut out)?;
        if self.add_bos && out.len() > 1 && self.bos.is_some_and(|bos| out[..2] == [bos, bos]) {
            out.remove(0);
        }
        out.extend(self.eos.filter(|_| self.add_eos));
        Ok(out)
    }

    fn encode_into<'t, S>(
        &self,
        text: &'t str,
        specials: Specials,
        clean: impl Fn(&'t str) -> S,
        mut begins: bool, // the text, or a stretch of it after a control token
        out: &mut Vec<u32>,
    ) -> Result<()>
    where
        S: AsRef<str> + 't,
    {
        let mut at = 0;
        while at < text.len() {
            let (start, end, id) =
                self.named.find(text, at, specials).map_or((text.len(), text.len(), None), |(s, e, id)| (s, e, Some(id)));
            if start > at {
                self.encode_plain(clean(&text[at..start]).as_ref(), begins, out)?;
                begins = false;
            }
            if let Some(id) = id {
                out.push(id);
                begins = true;
            }
            at = end;
        }
        Ok(())
    }

    fn encode_plain(&self, text: &str, begins: bool, out: &mut Vec<u32>) -> Result<()> {
        match &self.model {
            Model::Spm(spm) => spm.encode(text, self.space_prefix && begins, out),
            Model::Bpe(bpe) => {
                let encoding = hub::encode(bpe, text, false);
                out.extend(encoding.map_err(|e| Error::Unsupported(format!("tokenizer: {e}")))?.get_ids());
            }
        }
        Ok(())
    }

    /// What a token stands for: part of a text, not always whole characters. Empty for an id outside the vocabulary.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends.get(id - 1).copied().unwrap_or(usize::MAX) };
        self.ends.get(id).and_then(|&end| self.bytes.get(start..end)).unwrap_or_default()
    }

    /// Whether a token is a control token, which is no part of the text.
    pub fn is_control(&self, id: u32) -> bool {
        self.kinds.get(id as usize).is_some_and(|k| matches!(k, Kind::Control | Kind::Unknown))
    }

    /// The text of tokens without control tokens; broken characters become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut text = Detokenizer::default();
        let mut out = String::new();
        for &id in tokens.iter().filter(|&&id| !self.is_control(id)) {
            text.push(self.bytes(id), &mut out);
        }
        text.finish(&mut out);
        out
    }
}

fn token_kinds(gguf: &Gguf, n: usize) -> Result<Vec<Kind>> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(types) = gguf.integers(KEY)? else { return Ok(vec![Kind::Normal; n]) };
    if types.len() != n {
        return Err(gguf.field_error(KEY, format!("{} types for {n} tokens", types.len())));
    }
    let kind = |t| match t {
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        6 => Kind::Byte,
        _ => Kind::Normal, // 0 undefined, 1 normal, 5 unused
    };
    Ok(types.into_iter().map(kind).collect())
}

fn token_id(gguf: &Gguf, key: &str, n: usize) -> Result<Option<u32>> {
    match gguf.u64(key)? {
        None => Ok(None),
        Some(id) if id < n as u64 => Ok(Some(id as u32)),
        // 2^32 - 1 is how writers say "none"
        Some(id) if id == u64::from(u32::MAX) => Ok(None),
        Some(id) => Err(gguf.field_error(key, format!("token {id} of a vocabulary of {n}"))),
    }
}

/// The bytes behind each token, joined, and where each ends.
fn token_bytes<'a>(tokens: impl Iterator<Item = &'a str>, kinds: &[Kind], byte_level: bool) -> (Vec<u8>, Vec<usize>) {
    let alphabet = bpe::bytes_of_chars();
    let mut bytes = Vec::new();
    let ends = tokens.zip(kinds).map(|(text, kind)| {
        match kind {
            Kind::Normal | Kind::Unknown if byte_level => {
                for c in text.chars() {
                    match alphabet.get(&c) {
                        Some(&byte) => bytes.push(byte),
                        None => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
            }
            Kind::Byte => bytes.extend(spm::byte_of(text)),
            Kind::Normal => bytes.extend(text.replace(spm::SPACE, " ").as_bytes()),
            Kind::Control | Kind::UserDefined | Kind::Unknown => bytes.extend(text.as_bytes()),
        }
        bytes.len()
    });
    let ends = ends.collect();
    (bytes, ends)
}

/// The `i`-th token for error messages.
fn token_name(tokens: &Strings, id: u32) -> &str {
    tokens.get(id as usize).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests;
