use proptest::prelude::*;

use super::*;
use crate::weights::gguf::writer::Writer;

const BYTE_LEVEL_WORDS: [&str; 7] = ["he", "ll", "hell", "hello", "Ġw", "or", "ld"];

/// All byte characters, some words, and three named tokens at the end.
pub(crate) fn byte_level() -> Writer {
    byte_level_with(&[])
}

/// The same with more control tokens behind them.
pub(crate) fn byte_level_with(controls: &[&str]) -> Writer {
    let mut alphabet: Vec<_> = bpe::bytes_of_chars().into_iter().collect();
    alphabet.sort_by_key(|&(_, byte)| byte);
    let mut tokens: Vec<String> = alphabet.iter().map(|(c, _)| c.to_string()).collect();
    tokens.extend(BYTE_LEVEL_WORDS.map(String::from));
    tokens.extend(["<|im_start|>", "<|im_end|>", "<user>"].map(String::from));
    tokens.extend(controls.iter().map(|c| (*c).to_owned()));
    let mut types = vec![1; 263];
    types.extend([3, 3, 4]);
    types.resize(tokens.len(), 3);
    Writer::default()
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "smollm")
        .strs(TOKENS, &tokens)
        .i32s("tokenizer.ggml.token_type", &types)
        .strs("tokenizer.ggml.merges", &["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "l d"])
        .u32("tokenizer.ggml.bos_token_id", 263)
        .u32("tokenizer.ggml.eos_token_id", 264)
}

/// SentencePiece: 4 named tokens, 256 byte tokens, some pieces.
fn pieces() -> Writer {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>", "[user]"].map(String::from).into();
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    let words = [("▁", -1.0), ("a", -2.0), ("b", -3.0), ("ab", -4.0), ("▁a", -5.0), ("bb", -3.5), ("▁ab", -6.0)];
    tokens.extend(words.map(|w| w.0.to_owned()));
    let mut types = vec![2, 3, 3, 4];
    types.extend([6; 256]);
    types.extend([1; 7]);
    let mut scores = vec![0.0; 260];
    scores.extend(words.map(|w| w.1));
    Writer::default()
        .str("tokenizer.ggml.model", "llama")
        .strs(TOKENS, &tokens)
        .i32s("tokenizer.ggml.token_type", &types)
        .f32s("tokenizer.ggml.scores", &scores)
        .u32("tokenizer.ggml.unknown_token_id", 0)
}

fn load(writer: &Writer) -> Result<Tokenizer> {
    let (_dir, path) = writer.file();
    Tokenizer::from_gguf(&Gguf::open(&path)?)
}

fn names(t: &Tokenizer, ids: &[u32]) -> Vec<String> {
    ids.iter().map(|&id| String::from_utf8_lossy(t.bytes(id)).into_owned()).collect()
}

#[test]
fn byte_level_merges_by_rank() {
    let t = load(&byte_level()).unwrap();
    let ids = t.encode("hello world 42", Specials::Text).unwrap();
    assert_eq!(names(&t, &ids), ["hello", " w", "or", "ld", " ", "4", "2"]);
    assert_eq!(t.decode(&ids), "hello world 42");
}

#[test]
fn control_tokens_only_where_asked() {
    for writer in [byte_level(), pieces()] {
        let t = load(&writer).unwrap();
        let name = if t.special("<s>").is_some() { "</s>" } else { "<|im_end|>" };
        let id = t.special(name).unwrap();
        let text = format!("a{name}b");
        assert!(!t.encode(&text, Specials::Text).unwrap().contains(&id));
        assert_eq!(t.encode(&text, Specials::Parse).unwrap().iter().filter(|&&i| i == id).count(), 1);
        assert!(t.is_end(id) && t.is_control(id));
    }
    let t = load(&byte_level()).unwrap();
    assert_eq!(t.encode("<user>", Specials::Text).unwrap(), [265]); // user-defined tokens are text
}

#[test]
fn pieces_join_by_score_and_fall_back_to_bytes() {
    let t = load(&pieces()).unwrap();
    // "bb" (-3.5) is joined before "ab" (-4)
    let ids = t.encode("abb", Specials::Text).unwrap();
    assert_eq!(names(&t, &ids), [" a", "bb"]); // with the vocabulary's space before the text
    let ids = t.encode_prompt("é", Specials::Text, str::to_owned).unwrap();
    assert_eq!(ids, [1, 260, 4 + 0xC3, 4 + 0xA9]);
    assert_eq!(t.decode(&ids), " é");
    assert_eq!(names(&t, &t.encode_continued("abb").unwrap()), ["a", "bb"]);
}

#[test]
fn marks_of_phi_3_take_the_white_space_after_them() {
    let [plain, phi] = ["llama", "phi3"].map(|arch| load(&pieces().str("general.architecture", arch)).unwrap());
    let text = "[user] \n\tab</s>\na<s> a";
    let seen = |t: &Tokenizer| names(t, &t.encode(text, Specials::Parse).unwrap()).concat();
    assert_eq!(seen(&phi), "[user] ab</s> a<s>  a");
    assert_eq!(seen(&plain), "[user]  \n\tab</s> \na<s>  a");
    // words of a user are no marks
    let typed = phi.encode("a</s> b", Specials::Text).unwrap();
    assert_eq!(phi.decode(&typed), " a</s> b");
}

#[test]
fn a_begin_mark_is_not_doubled() {
    let t = load(&pieces()).unwrap();
    assert_eq!(t.encode_prompt("<s>b", Specials::Parse, str::to_owned).unwrap()[..2], [1, 260]);
    assert_eq!(t.encode_prompt("", Specials::Parse, str::to_owned).unwrap(), [1]);
}

#[test]
fn contradictions_are_refused() {
    let error = |w: Writer| load(&w).err().map(|e| e.to_string()).unwrap();
    assert!(error(byte_level().u32("tokenizer.ggml.eot_token_id", 9999)).contains("token 9999 of a vocabulary of 266"));
    assert!(error(Writer::default().str("tokenizer.ggml.model", "rwkv")).contains("tokenizer.ggml.tokens"));
    assert!(error(Writer::default().str("tokenizer.ggml.model", "rwkv").strs(TOKENS, &["a"])).contains("rwkv"));
    let bad_pre = Writer::default().str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", "nope").strs(TOKENS, &["a"]);
    assert!(error(bad_pre).contains("qwen2"));
    let one = Writer::default().str("tokenizer.ggml.model", "gpt2").strs(TOKENS, &["a"]);
    assert!(error(one.clone()).contains("merges"));
    assert!(error(one.clone().strs("tokenizer.ggml.merges", &["ab"])).contains("merge 0"));
    assert!(error(one.i32s("tokenizer.ggml.token_type", &[1, 1])).contains("2 types for 1 tokens"));
    let scores = Writer::default().str("tokenizer.ggml.model", "llama").strs(TOKENS, &["a"]);
    assert!(error(scores.clone().f32s("tokenizer.ggml.scores", &[])).contains("0 scores"));
    assert!(error(scores.f32s("tokenizer.ggml.scores", &[0.0])).contains("byte tokens"));
}

#[test]
fn all_patterns_compile_and_cut() {
    for pre in ["default", "gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "gpt-4o", "tekken"] {
        let alphabet: Vec<String> = bpe::bytes_of_chars().into_keys().map(String::from).collect();
        let writer =
            Writer::default().str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", pre).strs(TOKENS, &alphabet);
        let t = load(&writer.strs::<&str>("tokenizer.ggml.merges", &[])).unwrap();
        let text = "It's 12345 naïve  \n\n 한국어 x_y=z; \u{1F600}";
        assert_eq!(t.decode(&t.encode(text, Specials::Text).unwrap()), text, "{pre}");
    }
}

#[test]
fn characters_are_streamed_whole() {
    let mut d = Detokenizer::default();
    let mut out = String::new();
    let text = "한😀";
    for byte in text.as_bytes() {
        d.push(&[*byte], &mut out);
        assert!(text.starts_with(&out), "{out}");
    }
    assert_eq!(out, text);
    d.push(&[0xED, 0x95, b'a', 0xFF], &mut out);
    assert_eq!(out, "한😀\u{FFFD}a\u{FFFD}");
    d.push(&[0xF0, 0x9F], &mut out);
    d.finish(&mut out);
    assert_eq!(out, "한😀\u{FFFD}a\u{FFFD}\u{FFFD}");
}

#[test]
fn reads_a_tokenizer_json() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let json = r#"{"version":"1.0","added_tokens":[{"id":3,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,
        "normalized":false,"special":true}],"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,
        "trim_offsets":true,"use_regex":true},"post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":false,
        "trim_offsets":true,"use_regex":true},
        "model":{"type":"BPE","vocab":{"a":0,"Ġ":1,"Ġa":2},"merges":["Ġ a"]}}"#;
    std::fs::write(&path, json).unwrap();
    let t = Tokenizer::from_json(&path, None, &[3]).unwrap();
    assert_eq!(t.encode("a a<s>", Specials::Parse).unwrap(), [0, 2, 3]);
    assert_eq!(t.encode("a a", Specials::Text).unwrap(), [0, 2]);
    assert!(!t.encode("<s>", Specials::Text).unwrap().contains(&3));
    assert_eq!((t.decode(&[0, 2, 3]), t.is_end(3)), ("a a".into(), true));
    std::fs::write(&path, &json[..100]).unwrap();
    assert!(Tokenizer::from_json(&path, None, &[]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_comes_back(text in "\\PC{0,40}|[ \\n\\ta-c<|>]{0,60}") {
        static TOKENIZER: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
        let t = TOKENIZER.get_or_init(|| load(&byte_level()).unwrap());
        prop_assert_eq!(t.decode(&t.encode(&text, Specials::Text).unwrap()), text);
    }

    #[test]
    fn streaming_equals_decoding_at_once(bytes in prop::collection::vec(any::<u8>(), 0..40), step in 1usize..5) {
        let mut d = Detokenizer::default();
        let mut out = String::new();
        bytes.chunks(step).for_each(|c| d.push(c, &mut out));
        d.finish(&mut out);
        prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn names_without_end_are_refused() {
    let of =
        |bytes: usize| Named::new([("x".repeat(bytes), Name { id: 7, always: false, strips: false })].into_iter()).map(drop);
    assert!(of(MAX_NAME).is_ok());
    assert!(of(MAX_NAME + 1).unwrap_err().contains("token 7 has a name of 257 bytes"));
}
