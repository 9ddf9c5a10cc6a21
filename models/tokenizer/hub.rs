//! tokenizer.json of HF tokenizers, read as a stranger's file: the crate panics on some that do not parse, and what a file may ask
//! of it (a text padded to any length, replacements of replacements) has no bounds of its own.

use serde::Deserialize;
use serde_json::Value;

use crate::guard::guarded;

/// How much longer a text may become by replacements, in all.
const MAX_GROWTH: usize = 64;

/// The parts of a file that are looked at before it is built; the others are checked for being JSON.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Value,
}

/// Builds the tokenizer that a file describes, without padding and truncation.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn from_bytes(json: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    let parts: Parts = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let growth = growth(&parts.normalizer)?;
    if growth > MAX_GROWTH {
        return Err(format!("its normalizer makes a text {growth} times as long; at most {MAX_GROWTH} times is allowed"));
    }
    let built = guarded(|| tokenizers::Tokenizer::from_bytes(json)).ok_or("it breaks the tokenizer's reader")?;
    let mut tokenizer = built.map_err(|e| e.to_string())?;
    tokenizer.with_padding(None).with_truncation(None).map_err(|e| e.to_string())?;
    Ok(tokenizer)
}

/// The tokens of a text.
///
/// # Errors
/// Why the tokenizer refuses it.
pub(crate) fn encode(tokenizer: &tokenizers::Tokenizer, text: &str, marks: bool) -> Result<tokenizers::Encoding, String> {
    let encoded = guarded(|| tokenizer.encode_fast(text, marks)).ok_or("the tokenizer breaks on the text")?;
    encoded.map_err(|e| e.to_string())
}

/// How many times as long a normalizer may make a text.
fn growth(normalizer: &Value) -> Result<usize, String> {
    match normalizer["type"].as_str() {
        Some("Sequence") => {
            let steps = normalizer["normalizers"].as_array().map(Vec::as_slice).unwrap_or_default();
            steps.iter().try_fold(1usize, |product, step| Ok(product.saturating_mul(growth(step)?)))
        }
        Some("Replace") => {
            let content = normalizer["content"].as_str().map_or(0, str::len);
            let pattern = normalizer["pattern"]["String"].as_str().map_or(0, str::len);
            // a regular expression, or the empty text, is found between all characters
            Ok(if pattern == 0 { content + 1 } else { content.div_ceil(pattern).max(1) })
        }
        Some("Precompiled") => Err("a normalizer of the type Precompiled is not supported".into()),
        _ => Ok(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(extra: &str) -> String {
        format!(
            r#"{{"version": "1.0", "added_tokens": [], "model": {{"type": "BPE", "vocab": {{"a": 0, "b": 1}}, "merges": []}}{extra}}}"#
        )
    }

    fn read(extra: &str) -> Result<Vec<u32>, String> {
        encode(&from_bytes(file(extra).as_bytes())?, "abba", false).map(|e| e.get_ids().to_vec())
    }

    #[test]
    fn what_a_file_may_ask_for_is_bounded() {
        assert_eq!(read("").unwrap(), [0, 1, 1, 0]);
        let replace = |from: &str, to: &str| format!(r#"{{"type": "Replace", "pattern": {from}, "content": "{to}"}}"#);
        let normalizer =
            |steps: &[String]| format!(r#", "normalizer": {{"type": "Sequence", "normalizers": [{}]}}"#, steps.join(","));
        let double = replace(r#"{"String": "a"}"#, "aa");
        assert_eq!(read(&normalizer(std::slice::from_ref(&double))).unwrap(), [0, 0, 1, 1, 0, 0]);
        assert!(read(&normalizer(&vec![double; 40])).unwrap_err().contains("times as long"));
        assert!(read(&normalizer(&[replace(r#"{"Regex": ".?"}"#, &"a".repeat(1000))])).unwrap_err().contains("1001 times"));
        let charsmap = r#", "normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}"#;
        assert!(read(charsmap).unwrap_err().contains("Precompiled"));
        let padding = r#", "padding": {"strategy": {"Fixed": 99999999999}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}"#;
        assert_eq!(read(padding).unwrap(), [0, 1, 1, 0]);
        let truncation = r#", "truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 9}"#;
        assert_eq!(read(truncation).unwrap(), [0, 1, 1, 0]);
    }

    #[test]
    fn files_cut_and_changed_anywhere_are_errors() {
        let whole =
            file(r#", "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}"#);
        assert!(from_bytes(whole.as_bytes()).is_ok());
        for cut in 0..whole.len() {
            assert!(from_bytes(&whole.as_bytes()[..cut]).is_err(), "{cut}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone().into_bytes();
            changed[at] = if changed[at] == b'{' { b'[' } else { b'{' };
            let _ = from_bytes(&changed); // an error or a tokenizer, no panic
        }
        for decoder in ["5", "[]", "\"x\"", "{}", "{\"type\": 5}", "{\"type\": \"Sequence\", \"decoders\": [1]}"] {
            assert!(from_bytes(file(&format!(", \"decoder\": {decoder}")).as_bytes()).is_err(), "{decoder}");
        }
    }
}
