//! Masks, steps and bounds on small vocabularies. Texts of a real vocabulary and model are in the root package's tests.

use std::time::{Duration, Instant};

use dreamseed_models::tokenizer::{Specials, Tokenizer};
use serde_json::json;

use super::*;

/// The characters that byte-level vocabularies write bytes as (GPT-2's).
fn byte_chars() -> Vec<char> {
    let plain = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 256;
    let mut other = || {
        next += 1;
        char::from_u32(next - 1).unwrap()
    };
    (0..=u8::MAX).map(|b| if plain(b) { char::from(b) } else { other() }).collect()
}

const WORDS: [&str; 10] = ["ab", "abc", "tr", "ue", "true", "{\"", "\":", "\",", "한", "한국"];
/// Ends of a text, and a control token that is none.
const SPECIALS: [&str; 3] = ["<|im_end|>", "<|endoftext|>", "<|im_start|>"];

/// A byte-level vocabulary: 256 bytes (or those that `keep` says), the words, the special tokens.
fn compiler(keep: impl Fn(u8) -> bool) -> (Compiler, Arc<Tokenizer>) {
    let chars = byte_chars();
    let spell = |word: &str| word.bytes().map(|b| chars[usize::from(b)]).collect::<String>();
    let mut tokens: Vec<String> = (0..=u8::MAX).filter(|b| keep(*b)).map(|b| chars[usize::from(b)].to_string()).collect();
    tokens.extend(WORDS.iter().map(|w| spell(w)));
    let first = tokens.len() as u32;
    let vocab: serde_json::Map<_, _> = tokens.into_iter().zip(0u32..).map(|(t, id)| (t, id.into())).collect();
    let merges = [("a", "b"), ("ab", "c"), ("t", "r"), ("u", "e"), ("tr", "ue")];
    let special = |(content, id): (&&str, u32)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let json = json!({
        "version": "1.0", "added_tokens": SPECIALS.iter().zip(first..).map(special).collect::<Vec<_>>(), "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges.map(|(a, b)| format!("{a} {b}"))},
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json.to_string()).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_json(file.path(), None, &[first + 1]).unwrap());
    (Compiler::new(tokenizer.clone()).unwrap(), tokenizer)
}

fn all(_: u8) -> bool {
    true
}

fn printable(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

fn problem(grammar: &Grammar, compiler: &Compiler) -> String {
    match compiler.compile(grammar).err() {
        Some(Error::Usage(message)) => message,
        Some(e) => panic!("{grammar:?}: {e}"),
        None => panic!("{grammar:?} is allowed"),
    }
}

fn grammars() -> [Grammar; 7] {
    let schema = json!({"type": "object", "properties": {"ab": {"type": "boolean"}, "한국": {"enum": ["한", "abc", 7]}},
        "required": ["ab", "한국"], "additionalProperties": false});
    let plain =
        json!({"type": "object", "properties": {"ab": {"type": "boolean"}}, "required": ["ab"], "additionalProperties": false});
    [
        Grammar::Json,
        Grammar::JsonSchema(schema.to_string()),
        Grammar::Tagged { open: "<a>".into(), schema: plain.to_string(), close: "</a>".into(), most: 3 },
        Grammar::Regex("(ab|[0-9]{2,4})+ok|한국?".into()),
        Grammar::Lark("start: \"[\" (item (\",\" item)*)? \"]\"\nitem: /[a-c]+/ | start\n".into()),
        Grammar::Lark("start: body \"!\"\nbody[stop=\"|\"]: /[ab|]*/\n".into()), // the parser cannot go back in this one
        Grammar::Lark("start: short \"c\"\nshort[max_tokens=3]: /[ab]+/\n".into()), // nor in this one
    ]
}

/// Numbers to walk by (an LCG).
fn numbers(mut seed: u64) -> impl FnMut() -> usize {
    move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    }
}

#[test]
fn tagged_texts_are_as_many_as_are_allowed() {
    let (compiler, tokenizer) = compiler(all);
    let schema =
        json!({"anyOf": [{"const": {"a": 1}}, {"$ref": "#/$defs/b"}], "$defs": {"b": {"type": "integer"}}}).to_string();
    let grammar = |most| Grammar::Tagged { open: "<a>\n".into(), schema: schema.clone(), close: "\n</a>".into(), most };
    let follows = |most: usize, text: &str| {
        let mut constraint = compiler.compile(&grammar(most)).unwrap();
        let tokens = tokenizer.encode(text, Specials::Text).unwrap();
        tokens.iter().all(|&t| constraint.accept(t).is_ok()) && {
            let mask = constraint.mask().unwrap();
            constraint_ends(&tokenizer, mask)
        }
    };
    let (one, other) = ("<a>\n7\n</a>", "<a>\n{\"a\":1}\n</a>");
    assert!(follows(1, one) && follows(1, other) && follows(3, one));
    assert!(follows(3, &format!("{one}\n{other}\n{one}")) && !follows(2, &format!("{one}\n{other}\n{one}")));
    assert!(!follows(1, &format!("{one}\n{one}")) && !follows(2, "7") && !follows(2, "<a>\n\"x\"\n</a>"));
    assert!(problem(&grammar(0), &compiler).contains("at least one"));
}

fn constraint_ends(tokenizer: &Tokenizer, mask: &Mask) -> bool {
    mask.tokens().any(|t| tokenizer.is_end(t))
}

#[test]
fn a_mask_is_exactly_what_can_be_accepted() {
    for (compiler, tokenizer) in [compiler(all), compiler(printable)] {
        for grammar in grammars() {
            let Ok(mut constraint) = compiler.compile(&grammar) else { continue }; // no Korean in a vocabulary without it
            let mut random = numbers(3);
            for step in 0..12 {
                let mask = constraint.mask().unwrap().clone();
                let forced = constraint.forced();
                for token in 0..tokenizer.len() as u32 {
                    let outcome = constraint.clone().accept(token);
                    if mask.allows(token) {
                        assert!(outcome.is_ok(), "{grammar:?}, step {step}: {token} {outcome:?}");
                        assert!(tokenizer.is_end(token) || !tokenizer.is_control(token));
                    } else {
                        // what is forced is spelled in one way only, though others would lead to the same text
                        assert!(outcome.is_err() || !forced.is_empty(), "{grammar:?}, step {step}: {token}");
                    }
                    assert!(mask.allows(token) || constraint.takes(&[token]) == 0 || !forced.is_empty());
                }
                let tokens: Vec<u32> = mask.tokens().filter(|t| !tokenizer.is_end(*t)).collect();
                assert_eq!(mask.tokens().count(), (0..2000).filter(|&t| mask.allows(t)).count());
                let Some(&token) = tokens.get(random() % tokens.len().max(1)) else { break };
                constraint.accept(token).unwrap();
            }
        }
    }
}

#[test]
fn going_back_is_as_if_it_had_never_gone() {
    let (compiler, tokenizer) = compiler(all);
    for grammar in grammars() {
        let mut random = numbers(11);
        let mut constraint = compiler.compile(&grammar).unwrap();
        let mut masks = vec![constraint.mask().unwrap().clone()]; // before each token, and now
        for _ in 0..60 {
            let tokens: Vec<u32> = masks.last().unwrap().tokens().collect();
            if constraint.is_complete() || random().is_multiple_of(4) {
                let back = random() % masks.len();
                constraint.rollback(back).unwrap();
                masks.truncate(masks.len() - back);
            } else {
                constraint.accept(tokens[random() % tokens.len()]).unwrap();
                masks.push(constraint.mask().unwrap().clone());
            }
            assert_eq!(constraint.mask().unwrap(), masks.last().unwrap(), "{grammar:?}");
        }
        let n = masks.len();
        assert!(matches!(constraint.rollback(n), Err(Error::Usage(m)) if m.contains("cannot go back")));
    }
    assert!(tokenizer.len() > 256);
}

#[test]
fn all_ends_are_allowed_where_the_grammar_may_end_and_nowhere_else() {
    let (compiler, tokenizer) = compiler(all);
    let id = |name: &str| tokenizer.special(name).unwrap();
    let ends = [id("<|im_end|>"), id("<|endoftext|>")];
    let mut c = compiler.compile(&Grammar::Regex("ab?".into())).unwrap();
    let a = tokenizer.encode_continued("a").unwrap()[0];
    assert!(ends.iter().all(|&e| !c.mask().unwrap().allows(e)));
    assert!(matches!(c.accept(ends[0]), Err(Error::Usage(m)) if m.contains("not allowed")));
    c.accept(a).unwrap();
    assert!(ends.iter().all(|&e| c.mask().unwrap().allows(e)) && !c.mask().unwrap().allows(id("<|im_start|>")));
    assert!(!c.is_complete()); // a "b" could still come
    let mut ended = c.clone();
    ended.accept(ends[1]).unwrap();
    assert!(ended.is_complete() && ended.forced().is_empty() && ended.takes(&[a]) == 0);
    ended.rollback(1).unwrap();
    assert!(!ended.is_complete() && ended.mask().unwrap() == c.mask().unwrap());
    c.accept(tokenizer.encode_continued("b").unwrap()[0]).unwrap();
    assert!(c.is_complete() && c.mask().unwrap().tokens().eq(ends));
    assert!(matches!(c.accept(a), Err(Error::Usage(m)) if m.contains("not allowed")));
}

#[test]
fn what_is_forced_is_spelled_as_the_model_would() {
    let (compiler, tokenizer) = compiler(all);
    let mut c = compiler.compile(&Grammar::Regex("abctrue한국[ab]+".into())).unwrap();
    let want = tokenizer.encode_continued("abctrue한국").unwrap();
    let mut seen = Vec::new();
    while let [first, ..] = c.forced()[..] {
        assert!(c.mask().unwrap().tokens().eq([first]), "forced is the only one that is allowed");
        c.accept(first).unwrap();
        seen.push(first);
    }
    assert_eq!((seen.len(), seen), (8, want)); // two words, then six bytes
    assert!(c.mask().unwrap().tokens().count() > 1);
    // a vocabulary that cannot spell everything forces nothing; there the masks alone lead
    let (compiler, _) = self::compiler(printable);
    let mut c = compiler.compile(&Grammar::Regex("abctrue".into())).unwrap();
    assert!(c.forced().is_empty() && c.mask().unwrap().tokens().count() == 3); // a, ab, abc
    assert!(problem(&Grammar::Regex("가".into()), &compiler).contains("no text follows it"));
}

#[test]
fn malformed_grammars_are_told_by_what_is_wrong() {
    let (compiler, _) = compiler(all);
    let schema = |s: serde_json::Value| Grammar::JsonSchema(s.to_string());
    let (regex, lark) = (|s: &str| Grammar::Regex(s.into()), |s: &str| Grammar::Lark(s.into()));
    for (grammar, wanted) in [
        (Grammar::JsonSchema("{\"type\": ".into()), "JSON schema: no JSON: EOF"),
        (Grammar::JsonSchema("[]".into()), "an object is expected"),
        (Grammar::JsonSchema("false".into()), "an object is expected"),
        (Grammar::JsonSchema(format!("{}1{}", "[".repeat(500), "]".repeat(500))), "recursion limit"),
        (schema(json!({"type": "text"})), "text"),
        (schema(json!({"type": "string", "format": "telephone"})), "telephone"),
        (schema(json!({"type": "object", "if": {}, "then": {}})), "if"),
        (schema(json!({"$ref": "#/$defs/nothing"})), "nothing"),
        (schema(json!({"$ref": "https://example.org/schema"})), "https://example.org/schema"),
        (schema(json!({"type": "integer", "minimum": 5, "maximum": 2})), "minimum"),
        (schema(json!({"type": "string", "pattern": "(["})), "("),
        (schema(json!({"type": "string", "minLength": "가".repeat(60)})), "minLength"),
        (schema(json!({"$ref": "#"})), "no text follows it"),
        (schema(json!({"x-guidance": {"whitespace": 1}})), "whitespace"),
        (regex("a(b"), "unclosed"),
        (regex("a\\"), "backslash"),
        (regex(""), "empty"),
        (regex("^$"), "empty"),
        (regex("a(?=b)"), "look"),
        (lark("begin: \"a\""), "no start rule"),
        (lark("start: a\n"), "unknown name: \"a\""),
        (lark("start: \"a"), "1("),
        (lark("start: <|im_end|>\n"), "tokens by name"),
        (lark("start: \"a\" <[7]>\n"), "by number"),
        (lark("start: <[^7]>\n"), "by number"),
        (lark("start: a\na[temperature=0.5]: /x+/\n"), "temperature"),
        (lark("start: \"a\"..\"한국\"\n"), "single character"),
    ] {
        let message = problem(&grammar, &compiler);
        assert!(message.starts_with(grammar.name()) && message.contains(wanted), "{grammar:?} says {wanted:?}: {message}");
        assert!(!message.contains("backtrace") && message.len() < 900, "{message}");
    }
}

/// Each of these kept llguidance busy for more than a minute, overflowed a stack, or took more than a gigabyte, in its first form.
#[test]
fn hostile_grammars_end_soon() {
    let (compiler, _) = compiler(all);
    let schema = |s: serde_json::Value| Grammar::JsonSchema(s.to_string());
    let chain = |n: usize, last: serde_json::Value| {
        let link = |i: usize| (format!("d{i}"), json!({"items": {"$ref": format!("#/$defs/d{}", i + 1)}}));
        let mut defs: serde_json::Map<_, _> = (0..n).map(link).collect();
        defs.insert(format!("d{n}"), last);
        json!({"$ref": "#/$defs/d0", "$defs": defs})
    };
    let deep = |n: usize| (0..n).fold(json!({"$ref": "#/$defs/d0"}), |inner, _| json!({"items": inner}));
    let rules = |n: usize| (0..n).map(|i| format!("a{i}: a{} \"x\"\n", i + 1)).collect::<String>();
    let both = |parts: Vec<String>| Grammar::Lark(format!("start: A\nA: {}\n", parts.join(" & ")));
    let alternatives = |ch: char| {
        let each = (0..400).map(|i| format!("[{ch}{}]x{i:03}", (b'a' + (i % 26) as u8) as char));
        format!("/({})*/", each.collect::<Vec<_>>().join("|"))
    };
    let named = |n: usize, value: serde_json::Value| {
        (0..n).map(|i| (format!("k{i}"), value.clone())).collect::<serde_json::Map<_, _>>()
    };
    let multiples =
        |of: &[u32]| json!({"allOf": of.iter().map(|d| json!({"type": "integer", "multipleOf": d})).collect::<Vec<_>>()});
    let far = "/(.{997})*/ & /(.{991})*/ & /(.{983})*/ & /(.{997})*./";
    let cases = [
        (both((1..40).map(|n| format!("/.*[a-z]{{{n}}}.*/")).collect()), Some("at once")),
        (both("abcd".chars().map(alternatives).collect()), Some("at once")),
        (Grammar::Lark(format!("start: T\nT: \"x\" | \"y\" ({far})\n")), Some("too")),
        (schema(multiples(&[65_521, 65_519, 65_497])), Some("multipleOf")),
        (schema(json!({"type": "number", "multipleOf": 1_000_003})), Some("1000003")),
        (Grammar::Regex("a?".repeat(2000) + &"a".repeat(2000)), None),
        (Grammar::Regex("a?".repeat(20_000)), Some("at most 8192")),
        (Grammar::Regex("((a{1,1000}){1,1000}){1,1000}".into()), None),
        (Grammar::Lark(format!("start: a0\n{}", rules(500))), Some("a500")),
        (Grammar::Lark(format!("start: a0\n{}", rules(3000))), Some("at most 512")),
        (Grammar::Lark(format!("start: {}\"a\"{}\n", "(".repeat(20_000), ")".repeat(20_000))), Some("nested")),
        (Grammar::Lark(format!("start: %json {{\"anyOf\": [{}1]}}\n", "1,".repeat(3000))), Some("1000 in one")),
        (Grammar::Lark(format!("start: x::0\nx::_: \"a\" %if {}true{}\n", "not(".repeat(9000), ")".repeat(9000))), None),
        (schema(chain(5000, json!({"type": "null"}))), Some("1000 in one")),
        (schema(chain(900, json!({"type": "null"}))), None),
        (schema(json!({"$ref": "#/$defs/d0", "$defs": {"d0": deep(60), "d1": deep(60)}})), None),
        (schema(json!({"properties": named(5000, json!({}))})), Some("1000 in one")),
        (schema(json!({"properties": named(1000, json!({})), "additionalProperties": false})), None),
        (schema(json!({"enum": (0..20_000).map(|i| format!("w{i:04}")).collect::<Vec<_>>()})), None),
        (
            schema(json!({"type": "array", "items": {"type": "integer"}, "minItems": 100_000_000, "maxItems": 200_000_000})),
            None,
        ),
        (schema(json!({"type": "string", "minLength": 100_000_000, "maxLength": 4_000_000_000u32})), None),
        (schema(json!({"type": "string", "pattern": "a".repeat(2000)})), Some("1000 bytes")),
        (Grammar::JsonSchema(" ".repeat(300_000)), Some("262144")),
    ];
    for (grammar, wanted) in cases {
        let shown: String = format!("{grammar:?}").chars().take(120).collect();
        let begin = Instant::now();
        match (compiler.compile(&grammar), wanted) {
            (Err(Error::Usage(message)), Some(wanted)) => {
                assert!(message.contains(wanted), "{shown} says {wanted:?}: {message}")
            }
            (Err(Error::Usage(_)), None) => {}
            (Err(e), _) => panic!("{shown}: {e}"),
            (Ok(_), Some(wanted)) => panic!("{shown} should say {wanted:?}"),
            (Ok(mut constraint), None) => {
                // and so does every step along a text
                let mut random = numbers(5);
                for _ in 0..40 {
                    let Ok(mask) = constraint.mask() else { break };
                    let tokens: Vec<u32> = mask.tokens().collect();
                    if constraint.is_complete() || constraint.accept(tokens[random() % tokens.len()]).is_err() {
                        break;
                    }
                }
            }
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{shown}: {:?}", begin.elapsed());
    }
}

#[test]
fn constraints_go_from_thread_to_thread() {
    fn sends<T: Send>() {}
    fn shares<T: Send + Sync>() {}
    sends::<Constraint>();
    shares::<Compiler>();
}
