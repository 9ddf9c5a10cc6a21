//! Texts to tokens, as SigLIP's processor does it.

use std::path::Path;

use serde::Deserialize;

use super::super::{read_json, unsupported};
use crate::tokenizer::hub;
use crate::weights::{Error, Result, TEXT, read_whole};

/// Text to tokens, as the processor does it.
pub(super) struct Words {
    tokenizer: tokenizers::Tokenizer,
    pad: u32,
    end: Option<u32>, // written after a text that has none
    pad_first: bool,
}

/// tokenizer_config.json, as far as it is looked at.
#[derive(Default, Deserialize)]
#[serde(default)]
struct WordSettings {
    padding_side: Option<String>,
    add_eos_token: bool,
    tokenizer_class: Option<String>,
}

impl Words {
    pub(super) fn open(folder: &Path, vocabulary: usize) -> Result<Option<Self>> {
        let path = folder.join("tokenizer.json");
        if !path.exists() {
            return Ok(None);
        }
        let bad =
            |problem: String| Error::Field { format: "tokenizer.json", field: path.display().to_string(), offset: 0, problem };
        let bytes = read_whole(&path, TEXT).map_err(|source| Error::Io { path: path.clone(), source })?;
        let tokenizer = hub::from_bytes(&bytes).map_err(bad)?;
        let beside = folder.join("tokenizer_config.json");
        let settings: WordSettings = if beside.exists() { read_json(&beside)? } else { WordSettings::default() };
        if settings.tokenizer_class.as_deref().is_some_and(|c| c.starts_with("SiglipTokenizer")) {
            let problem =
                "the tokenizer of the first SigLIP also takes punctuation out, which this version does not; use SigLIP 2";
            return Err(unsupported(&beside, problem.into()));
        }
        let special = |names: [&str; 2]| names.iter().find_map(|n| tokenizer.token_to_id(n));
        let pad = special(["<pad>", "</s>"]).ok_or_else(|| bad("has no token <pad>".into()))?;
        let end = special(["<eos>", "</s>"]).filter(|_| settings.add_eos_token);
        match [Some(pad), end].into_iter().flatten().find(|&id| id as usize >= vocabulary) {
            Some(id) => Err(bad(format!("token {id}: the model has {vocabulary}"))),
            None => Ok(Some(Self { pad, end, pad_first: settings.padding_side.as_deref() == Some("left"), tokenizer })),
        }
    }

    /// Tokens of a text, at most `length`.
    pub(super) fn count(&self, text: &str, length: usize) -> Result<usize> {
        Ok(self.ids(text, length)?.iter().filter(|id| **id != self.pad).count())
    }

    /// Exactly `length` tokens: in lower case, cut (its end mark stays) or padded.
    pub(super) fn ids(&self, text: &str, length: usize) -> Result<Vec<u32>> {
        let encoded = hub::encode(&self.tokenizer, &text.to_lowercase(), true);
        let encoded = encoded.map_err(|e| Error::Unsupported(format!("tokenizer: {e}")))?;
        let mut ids = encoded.get_ids().to_vec();
        ids.extend(self.end.filter(|end| ids.last() != Some(end)));
        // the marks that the tokenizer itself writes after a text stay too
        let mark =
            ids.last().copied().filter(|id| Some(*id) == self.end || encoded.get_special_tokens_mask().last() == Some(&1));
        if ids.len() > length {
            ids.truncate(length);
            if let (Some(mark), Some(last)) = (mark, ids.last_mut()) {
                *last = mark;
            }
        }
        let padding = std::iter::repeat_n(self.pad, length - ids.len());
        Ok(if self.pad_first { padding.chain(ids).collect() } else { ids.into_iter().chain(padding).collect() })
    }
}
