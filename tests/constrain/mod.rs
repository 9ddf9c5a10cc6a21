//! Constrained output on real vocabularies and models: every text is what its grammar says.

mod validate;

use std::ops::ControlFlow;
use std::sync::Arc;

use dreamseed::llm::{Constraint, Finish, Generation, Grammar, Llm, Options, Sampling, Session, Settings, Speculation, raw};
use dreamseed_models::tokenizer::Tokenizer;
use serde_json::{Value, json};
use validate::problem;

use crate::common::{engine, weights};

/// Schemas with an end that a model finds by itself, and what they are about.
fn bounded() -> Vec<(&'static str, Value)> {
    let closed = |properties: Value| {
        let required: Vec<&String> = properties.as_object().unwrap().keys().collect();
        json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false})
    };
    let text = |most: usize| json!({"type": "string", "minLength": 1, "maxLength": most});
    let person = closed(json!({"name": text(12), "age": {"type": "integer", "minimum": 5, "maximum": 120}}));
    vec![
        (
            "nested objects",
            closed(json!({"learner": person, "lesson": closed(json!({"title": text(20), "level": {"enum": [1, 2, 3]}}))})),
        ),
        (
            "arrays",
            closed(json!({"scores": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 2,
            "maxItems": 4}, "done": {"type": "boolean"}})),
        ),
        (
            "enums",
            closed(
                json!({"lab": {"enum": ["speech", "dance", "drama"]}, "mark": {"const": null}, "step": {"enum": [0.5, true, "x"]}}),
            ),
        ),
        (
            "numbers",
            closed(json!({"t": {"type": "number", "exclusiveMinimum": -2.5, "maximum": 12.75}, "n": {"type": "integer",
            "minimum": -20, "maximum": -3}, "five": {"type": "integer", "multipleOf": 5, "minimum": 10, "maximum": 100}})),
        ),
        (
            "Korean",
            closed(
                json!({"이름": {"type": "string", "pattern": "^[가-힣]{2,5}$"}, "평가": {"enum": ["아주 좋아요", "다시 해 봐요"]}}),
            ),
        ),
        (
            "characters",
            closed(json!({"word": {"type": "string", "minLength": 3, "maxLength": 6}, "day": {"type": "string",
            "format": "date"}})),
        ),
        (
            "either",
            json!({"anyOf": [closed(json!({"kind": {"const": "a"}, "a": text(8)})), closed(json!({"kind": {"const": "b"}, "b": {"type":
            ["integer", "null"], "minimum": 0, "maximum": 9}}))]}),
        ),
        (
            "references",
            json!({"$ref": "#/$defs/tree", "$defs": {"tree": closed(json!({"name": {"enum": ["leaf", "한"]},
            "children": {"type": "array", "maxItems": 1, "items": {"type": ["integer", "null"], "minimum": 1, "maximum": 3}}}))}}),
        ),
    ]
}

/// Schemas whose texts may go on for ever.
fn open() -> Vec<(&'static str, Value)> {
    vec![
        ("any object", json!({"type": "object"})),
        (
            "optional",
            json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "number"}, "c": {}}, "required": ["b"]}),
        ),
        ("a map", json!({"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}, "minProperties": 1})),
        (
            "a tree",
            json!({"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "properties": {"v": {"type": "integer"}, "kids": {"type":
            "array", "items": {"$ref": "#/$defs/t"}}}, "required": ["v", "kids"], "additionalProperties": false}}}),
        ),
        (
            "patterns",
            json!({"type": "object", "patternProperties": {"^[a-z]+_id$": {"type": "integer"}}, "additionalProperties": false}),
        ),
    ]
}

fn schema(value: &Value) -> Grammar {
    Grammar::JsonSchema(value.to_string())
}

/// Numbers to walk by (an LCG).
fn numbers(mut seed: u64) -> impl FnMut() -> usize {
    move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    }
}

/// A text of tokens that are drawn from what is allowed, whatever a model would say; `None` when it does not end within 400 tokens.
fn walk(mut constraint: Constraint, tokenizer: &Tokenizer, seed: u64) -> Option<String> {
    let (mut random, mut tokens) = (numbers(seed), Vec::new());
    while tokens.len() < 400 {
        let mask = constraint.mask().unwrap();
        let allowed: Vec<u32> = mask.tokens().collect();
        // closing marks are drawn more often, or most walks would not end
        let closes = |t: &&u32| tokenizer.is_end(**t) || matches!(tokenizer.bytes(**t), [b'"' | b'}' | b']', ..]);
        let closing: Vec<&u32> = allowed.iter().filter(closes).collect();
        let token = match random() % 3 {
            0 if !closing.is_empty() => *closing[random() % closing.len()],
            _ => allowed[random() % allowed.len()],
        };
        assert!(mask.allows(token) && (tokenizer.is_end(token) || !tokenizer.is_control(token)));
        if !tokenizer.is_end(token) {
            tokens.push(token);
        }
        constraint.accept(token).unwrap();
        if constraint.is_complete() {
            let bytes: Vec<u8> = tokens.iter().flat_map(|&t| tokenizer.bytes(t)).copied().collect();
            return Some(String::from_utf8(bytes).expect("whole characters"));
        }
    }
    None
}

fn valid(schema: &Value, text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    if let Some(problem) = problem(schema, schema, &value) {
        panic!("{problem}: {text} against {schema}");
    }
}

#[test]
fn whatever_is_drawn_from_the_masks_is_valid() {
    for id in ["smollm2-135m", "gemma3-270m"] {
        let llm = engine().llm(Some(id)).expect("the model");
        let (mut ended, mut walks) = (0, 0);
        for (name, value) in bounded().into_iter().chain(open()) {
            let begin = llm.constrain(&schema(&value)).unwrap_or_else(|e| panic!("{name}: {e}"));
            for seed in 0..12 {
                walks += 1;
                if let Some(text) = walk(begin.clone(), llm.tokenizer(), seed) {
                    valid(&value, &text);
                    ended += 1;
                }
            }
        }
        assert!(ended * 2 > walks, "{id}: {ended} of {walks} walks ended");
    }
}

/// Whether a text is whole.
type Check<'a> = &'a dyn Fn(&str) -> bool;

#[test]
fn drawn_texts_match_their_expression_wholly() {
    let llm = engine().llm(None).expect("the model");
    let hex = |s: &str| s.len() == 8 && s.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
    let phone = |s: &str| s.split('-').map(str::len).eq([3, 4, 4]) && s.chars().all(|c| c.is_ascii_digit() || c == '-');
    let words =
        |s: &str| s.split(", ").all(|w| (2..=6).contains(&w.chars().count()) && w.chars().all(|c| ('가'..='힣').contains(&c)));
    let path = |s: &str| s.starts_with("a/b\\") && s.ends_with('$') && s.chars().count() == 7;
    let cases: [(&str, Check); 4] = [
        ("[0-9a-f]{8}", &hex),
        (r"^\d{3}-\d{4}-\d{4}$", &|s| phone(&s.chars().map(|c| if c.is_numeric() { '0' } else { c }).collect::<String>())),
        ("[가-힣]{2,6}(, [가-힣]{2,6}){0,2}", &words),
        (r"a/b\\..\$", &path),
    ];
    for (regex, holds) in cases {
        let begin = llm.constrain(&Grammar::Regex(regex.into())).unwrap();
        for seed in 0..40 {
            let text = walk(begin.clone(), llm.tokenizer(), seed).expect("it ends");
            assert!(holds(&text), "{regex}: {text:?}");
        }
    }
}

fn write(llm: &Arc<Llm>, prompt: &str, grammar: Option<Grammar>, temperature: f32, seed: u64) -> Generation {
    let sampling = Sampling { temperature, seed, ..Sampling::default() };
    let options = Options { max_tokens: 120, sampling, grammar, ..Options::default() };
    raw(&mut Session::new(llm.clone(), Some(512)).unwrap(), prompt, &options, |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn what_a_model_writes_is_valid() {
    let llm = engine().llm(None).expect("the model");
    let free = write(&llm, "The three most important things are", None, 0.0, 0);
    for (name, value) in bounded() {
        let prompt = format!("A lesson, told as JSON about {name}:\n");
        for (temperature, seed) in [(0.0, 0), (1.0, 1), (1.0, 2)] {
            let g = write(&llm, &prompt, Some(schema(&value)), temperature, seed);
            assert_eq!(g.finish, Finish::Eos, "{name}: {}", g.text);
            valid(&value, &g.text);
        }
    }
    // a text that is cut does not follow its grammar to the end, and says so
    let options = Options { max_tokens: 3, grammar: Some(schema(&bounded()[0].1)), ..Options::default() };
    let cut = raw(&mut Session::new(llm.clone(), None).unwrap(), "JSON:", &options, |_| ControlFlow::Continue(())).unwrap();
    assert!(cut.finish == Finish::Length && serde_json::from_str::<Value>(&cut.text).is_err());
    // and whoever is not constrained writes what they wrote before
    assert_eq!(write(&llm, "The three most important things are", None, 0.0, 0).tokens, free.tokens);
}

#[test]
fn guesses_and_company_change_no_constrained_text() {
    let file = weights("smollm2-135m").join("smollm2-135m.gguf");
    let alone = engine().llm(None).expect("the model");
    let schemas = bounded();
    let settings = Settings { speculation: Speculation::LookUp, ..Settings::default() };
    let llm = Arc::new(Llm::open_with(&file, engine().pool().clone(), &settings).unwrap());
    let held = |llm: &Arc<Llm>, i: usize| {
        let g = write(llm, "A lesson as JSON:\n", Some(schema(&schemas[i].1)), (i % 2) as f32, i as u64);
        (g.tokens, g.text, g.finish)
    };
    let got: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|i| {
                scope.spawn({
                    let (held, llm) = (&held, &llm);
                    move || held(llm, i)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for (i, got) in got.into_iter().enumerate() {
        assert_eq!(got, held(&alone, i), "{}", schemas[i].0);
    }
}
