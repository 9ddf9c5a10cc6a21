//! Whisper's vocabulary: bytes of each token, special tokens by name, words of a token sequence (openai/whisper `tokenizer.py`).

use std::collections::HashMap;
use std::path::Path;

use super::config::{Config, Settings};
use crate::{
    tokenizer::hub,
    weights::{Error, Result},
};

/// Longest vocabulary file that is read; the largest published one is 4 MB.
const MAX_FILE: u64 = 64 << 20;

/// Languages written without spaces: words are split at every character there.
const UNSPACED: [&str; 6] = ["zh", "ja", "th", "lo", "my", "yue"];

/// In Python's order, of which a token may hold a stretch.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// The vocabulary of one model.
pub(super) struct Tokens {
    pieces: Vec<Vec<u8>>, // (n_vocab): bytes of text tokens, empty for special ones
    encoder: Option<tokenizers::Tokenizer>,
    pub(super) languages: Vec<(String, u32)>, // code, token; empty for English-only models
    pub(super) sot: u32,
    pub(super) eot: u32,
    pub(super) transcribe: Option<u32>,
    pub(super) translate: Option<u32>,
    pub(super) sot_prev: Option<u32>,
    pub(super) no_speech: Option<u32>,
    pub(super) no_timestamps: u32,
    pub(super) suppress: Vec<u32>,       // never sampled
    pub(super) suppress_begin: Vec<u32>, // never sampled first: blank and the end
}

impl Tokens {
    /// Reads `tokenizer.json`, or CTranslate2's `vocabulary.json` or `.txt` (no text can be encoded then: no prompts).
    pub(super) fn open(folder: &Path, config: &Config, settings: &Settings) -> Result<Self> {
        let (encoder, ids) = read_vocabulary(folder)?;
        Self::new(encoder, ids, config, settings)
    }

    fn new(
        encoder: Option<tokenizers::Tokenizer>,
        ids: HashMap<String, u32>,
        config: &Config,
        settings: &Settings,
    ) -> Result<Self> {
        let id = |name: &str| ids.get(name).copied().filter(|id| (*id as usize) < config.n_vocab);
        let need = |name: &str| id(name).ok_or_else(|| Error::Unsupported(format!("the vocabulary has no {name}")));
        let (sot, eot) = (need("<|startoftranscript|>")?, need("<|endoftext|>")?);
        let no_timestamps = need("<|notimestamps|>")?;
        let last_timestamp = no_timestamps as usize + 1 + config.n_audio_ctx;
        if eot >= sot || sot >= no_timestamps || last_timestamp >= config.n_vocab {
            let order = format!("end {eot}, start {sot}, timestamps {} to {last_timestamp}", no_timestamps + 1);
            let needed = format!("they must ascend and lie below {}", config.n_vocab);
            return Err(Error::Unsupported(format!("the vocabulary's special tokens do not fit the model: {order}; {needed}")));
        }
        let code = |name: &str| name.strip_prefix("<|").and_then(|n| n.strip_suffix("|>")).map(str::to_string);
        let is_code = |c: &String| (2..=3).contains(&c.len()) && c.bytes().all(|b| b.is_ascii_lowercase());
        let mut languages: Vec<_> = ids
            .iter()
            .filter(|(_, id)| **id > sot && **id < no_timestamps)
            .filter_map(|(name, id)| Some((code(name).filter(is_code)?, *id)))
            .collect();
        languages.sort_by_key(|(_, id)| *id);
        // English-only vocabularies list the languages too, but their models were not trained on them; theirs has a token less.
        if eot < MULTILINGUAL_EOT && config.n_vocab <= 51864 {
            languages.clear();
        }
        let mut pieces = vec![Vec::new(); config.n_vocab];
        let bytes = byte_of_char();
        for (name, id) in ids.iter().filter(|(_, id)| **id < eot) {
            pieces[*id as usize] = name.chars().filter_map(|c| bytes.get(&c).copied()).collect();
        }
        let mut tokens = Self {
            pieces,
            encoder,
            languages,
            sot,
            eot,
            transcribe: id("<|transcribe|>"),
            translate: id("<|translate|>"),
            sot_prev: id("<|startofprev|>"),
            no_speech: id("<|nospeech|>").or_else(|| id("<|nocaptions|>")),
            no_timestamps,
            suppress: Vec::new(),
            suppress_begin: Vec::new(),
        };
        let valid = |list: &[i64]| -> Vec<u32> {
            list.iter().filter_map(|i| u32::try_from(*i).ok()).filter(|i| (*i as usize) < config.n_vocab).collect()
        };
        tokens.suppress = match &settings.suppress_ids {
            Some(list) if !list.contains(&-1) => valid(list),
            _ => tokens.non_speech(),
        };
        let special = [tokens.transcribe, tokens.translate, id("<|startoflm|>"), tokens.sot_prev, tokens.no_speech, Some(sot)];
        tokens.suppress.extend(special.into_iter().flatten());
        tokens.suppress.sort_unstable();
        tokens.suppress.dedup();
        tokens.suppress_begin = match &settings.suppress_ids_begin {
            Some(list) => valid(list),
            None => tokens.find(b" ").into_iter().chain([eot]).collect(),
        };
        Ok(tokens)
    }

    /// The first timestamp token, 0.00 s; each further one is 20 ms later.
    pub(super) fn timestamp_begin(&self) -> u32 {
        self.no_timestamps + 1
    }

    /// Bytes of a token; none for special ones.
    pub(super) fn piece(&self, id: u32) -> &[u8] {
        self.pieces.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// Whether the language is written without spaces.
    pub(super) fn is_unspaced(&self, language: &str) -> bool {
        UNSPACED.contains(&language)
    }

    /// Text of the text tokens among `ids`.
    pub(super) fn decode(&self, ids: &[u32]) -> String {
        String::from_utf8_lossy(&self.bytes(ids)).into_owned()
    }

    fn bytes(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter().filter_map(|id| self.pieces.get(*id as usize)).flatten().copied().collect()
    }

    /// Tokens of a text; `None` without a `tokenizer.json`.
    pub(super) fn encode(&self, text: &str) -> Option<Vec<u32>> {
        let encoding = hub::encode(self.encoder.as_ref()?, text, false).ok()?;
        // a prompt is text: what looks like a special token in it is dropped
        Some(encoding.get_ids().iter().copied().filter(|id| *id < self.eot).collect())
    }

    /// Splits text tokens into words: at spaces and punctuation, or at every character for languages without spaces.
    pub(super) fn words(&self, ids: &[u32], language: &str) -> Vec<(String, Vec<u32>)> {
        let characters = self.characters(ids);
        if UNSPACED.contains(&language) {
            return characters;
        }
        let mut words: Vec<(String, Vec<u32>)> = Vec::new();
        for (text, ids) in characters {
            let punctuation = PUNCTUATION.contains(text.trim());
            match words.last_mut() {
                Some(word) if !text.starts_with(' ') && !punctuation => {
                    word.0.push_str(&text);
                    word.1.extend(ids);
                }
                _ => words.push((text, ids)),
            }
        }
        words
    }

    /// The shortest runs of tokens that are whole characters.
    fn characters(&self, ids: &[u32]) -> Vec<(String, Vec<u32>)> {
        let mut out = Vec::new();
        let (mut bytes, mut run) = (Vec::new(), Vec::new());
        for id in ids {
            bytes.extend(self.bytes(&[*id]));
            run.push(*id);
            // bytes that no further byte can complete are taken as they are
            let cut_short = std::str::from_utf8(&bytes).is_err_and(|e| e.error_len().is_none());
            if !cut_short {
                out.push((String::from_utf8_lossy(&bytes).into_owned(), std::mem::take(&mut run)));
                bytes.clear();
            }
        }
        if !run.is_empty() {
            out.push((String::from_utf8_lossy(&bytes).into_owned(), run));
        }
        out
    }

    fn find(&self, text: &[u8]) -> Option<u32> {
        self.pieces.iter().position(|p| p == text).map(|i| i as u32)
    }

    /// Tokens of brackets, speaker marks and music that annotate speech instead of being spoken.
    fn non_speech(&self) -> Vec<u32> {
        let by_bytes: HashMap<&[u8], u32> = self.pieces.iter().zip(0..).map(|(p, i)| (p.as_slice(), i)).collect();
        let find = |text: &[u8]| by_bytes.get(text).copied();
        let symbols = "\" # ( ) * + / : ; < = > @ [ \\ ] ^ _ ` { | } ~ 「 」 『 』 << >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] \
                       {{ }} ♪♪ ♪♪♪";
        let mut out: Vec<u32> = [" -", " '"].iter().filter_map(|s| find(s.as_bytes())).collect();
        for symbol in symbols.split_whitespace() {
            out.extend([symbol.to_string(), format!(" {symbol}")].iter().filter_map(|s| find(s.as_bytes())));
        }
        // musical notes share their first two bytes with nothing that is spoken: their first token is enough
        for note in "♩♪♫♬♭♮♯".chars() {
            for text in [note.to_string(), format!(" {note}")] {
                let text = text.as_bytes();
                out.extend((1..=text.len()).rev().filter_map(|n| find(&text[..n])).next());
            }
        }
        out
    }
}

/// The end token of multilingual vocabularies; English-only ones have one text token less.
const MULTILINGUAL_EOT: u32 = 50257;

fn read_vocabulary(folder: &Path) -> Result<(Option<tokenizers::Tokenizer>, HashMap<String, u32>)> {
    let field = |file: &str, problem: String| Error::Field { format: "vocabulary", field: file.into(), offset: 0, problem };
    let tokenizer = folder.join("tokenizer.json");
    if tokenizer.exists() {
        let bytes = read_limited(&tokenizer)?;
        let tokenizer = hub::from_bytes(&bytes).map_err(|e| field("tokenizer.json", e))?;
        let ids = tokenizer.get_vocab(true);
        return Ok((Some(tokenizer), ids));
    }
    let json = folder.join("vocabulary.json");
    let list: Vec<String> = if json.exists() {
        serde_json::from_slice(&read_limited(&json)?).map_err(|e| field("vocabulary.json", e.to_string()))?
    } else {
        let text = folder.join("vocabulary.txt");
        if !text.exists() {
            let problem = format!("{} has no tokenizer.json, vocabulary.json or vocabulary.txt", folder.display());
            return Err(Error::Unsupported(problem));
        }
        let text = String::from_utf8(read_limited(&text)?).map_err(|e| field("vocabulary.txt", e.to_string()))?;
        text.lines().map(str::to_string).collect()
    };
    Ok((None, list.into_iter().zip(0..).collect()))
}

/// A file's bytes, no more than a vocabulary can need.
pub(super) fn read_limited(path: &Path) -> Result<Vec<u8>> {
    let source = crate::weights::source::Source::open(path)?;
    if source.len() > MAX_FILE {
        let problem = format!("{} bytes seen, at most {MAX_FILE} are read", source.len());
        return Err(Error::Field { format: "JSON", field: path.display().to_string(), offset: 0, problem });
    }
    Ok(source.take(0, source.len())?.unwrap_or_default())
}

/// GPT-2's byte alphabet: printable bytes stand for themselves, the others for the characters from U+0100 on.
fn byte_of_char() -> HashMap<char, u8> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let plain = (0..=255u8).filter(printable).map(|b| (char::from(b), b));
    let moved = (0..=255u8).filter(|b| !printable(b)).zip('\u{100}'..).map(|(b, c)| (c, b));
    plain.chain(moved).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn config(n_vocab: usize, n_audio_ctx: usize) -> Config {
        Config {
            n_mels: 80,
            n_audio_ctx,
            n_audio_layer: 1,
            n_audio_head: 1,
            n_text_ctx: 64,
            n_text_layer: 1,
            n_text_head: 1,
            n_state: 8,
            n_ffn: [8, 8],
            n_vocab,
        }
    }

    /// Bytes as ids 0 to 255, then " so", special tokens, timestamps of 0 to 0.2 s.
    pub(in super::super) fn sample() -> Tokens {
        let mut ids: HashMap<String, u32> = byte_of_char().into_iter().map(|(c, b)| (c.to_string(), u32::from(b))).collect();
        let special = ["Ġso", "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|ko|>", "<|translate|>", "<|transcribe|>"];
        let rest = ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"];
        ids.extend(special.into_iter().chain(rest).zip(256..).map(|(s, i)| (s.to_string(), i)));
        Tokens::new(None, ids, &config(60_000, 10), &Settings::default()).unwrap()
    }

    #[test]
    fn finds_special_tokens_and_languages() {
        let t = sample();
        assert_eq!((t.eot, t.sot, t.timestamp_begin()), (257, 258, 267));
        assert_eq!(t.languages, [("en".to_string(), 259), ("ko".to_string(), 260)]);
        assert_eq!(t.suppress_begin, [32, 257]);
        for never in [u32::from(b'['), t.sot, 264, 265] {
            assert!(t.suppress.contains(&never), "{never}");
        }
        assert!(!t.suppress.contains(&u32::from(b'.')) && !t.suppress.contains(&t.eot));
    }

    #[test]
    fn splits_words_at_spaces_and_characters() {
        let t = sample();
        let ids: Vec<u32> = [256].into_iter().chain("me, 안녕!".bytes().map(u32::from)).collect();
        let words: Vec<String> = t.words(&ids, "en").into_iter().map(|w| w.0).collect();
        assert_eq!(words, [" some", ",", " 안녕", "!"].map(str::to_string));
        let count: usize = t.words(&ids, "en").iter().map(|w| w.1.len()).sum();
        assert_eq!(count, ids.len());
        let words: Vec<String> = t.words(&ids[5..], "ja").into_iter().map(|w| w.0).collect();
        assert_eq!(words, ["안", "녕", "!"].map(str::to_string));
    }

    #[test]
    fn broken_bytes_are_one_word_not_a_loss() {
        let t = sample();
        let words = t.words(&[0xec, 0x95], "en");
        assert_eq!(words.len(), 1);
        assert_eq!(words[0].1, [0xec, 0x95]);
        assert_eq!(t.decode(&[0xec, 65]), "\u{fffd}A");
    }

    #[test]
    fn refuses_vocabularies_that_do_not_fit() {
        let ids = HashMap::from([("<|endoftext|>".to_string(), 5), ("<|startoftranscript|>".to_string(), 6)]);
        assert!(Tokens::new(None, ids.clone(), &config(100, 10), &Settings::default()).is_err());
        let mut ids = ids;
        ids.insert("<|notimestamps|>".into(), 95);
        assert!(Tokens::new(None, ids.clone(), &config(100, 10), &Settings::default()).is_err());
        assert!(Tokens::new(None, ids, &config(107, 10), &Settings::default()).is_ok());
    }
}
