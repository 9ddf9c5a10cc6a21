//! Sessions and conversations on the small random llama of the reference material.

use std::{ops::ControlFlow, path::PathBuf, sync::Arc};

use dreamseed_kernels::Pool;

use super::*;
use crate::Error;

#[cfg(feature = "cuda")]
mod cuda;

/// A folder with the golden llama and a tokenizer of single characters: id 3 + i is the i-th printable one.
fn llm(template: &str) -> Option<Arc<Llm>> {
    llm_with(template, &Settings::default())
}

fn llm_with(template: &str, settings: &Settings) -> Option<Arc<Llm>> {
    let dir = folder(template)?;
    Some(Arc::new(Llm::open_with(dir.path(), Arc::new(Pool::new(2)), settings).unwrap()))
}

fn folder(template: &str) -> Option<tempfile::TempDir> {
    let base = std::env::var_os("DREAMSEED_REFERENCE").map(PathBuf::from);
    let base = base.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/reference")));
    let golden = base.join("golden/llama");
    if !golden.exists() {
        eprintln!("skipped: {} is not there", golden.display());
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(name), dir.path().join(name)).unwrap();
    }
    let mut vocab: serde_json::Map<String, serde_json::Value> =
        ('!'..='~').zip(3..).map(|(c, id)| (c.into(), id.into())).collect();
    vocab.extend([("<s>", 1), ("</s>", 2), ("Ġ", 100), ("Ċ", 101)].map(|(token, id)| (token.into(), id.into())));
    let byte_level =
        serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let special = |id: u32, content: &str| {
        serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let json = serde_json::json!({
        "version": "1.0", "added_tokens": [special(1, "<s>"), special(2, "</s>")], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    let config = serde_json::json!({"chat_template": template});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Some(dir)
}

const TEMPLATE: &str = "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}\n{% endfor %}<s>assistant:";

fn quiet(_: &str) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn options(max_tokens: usize) -> Options {
    Options { max_tokens, ..Options::default() }
}

#[test]
fn streams_what_it_returns_and_stops_where_it_should() {
    let Some(llm) = llm(TEMPLATE) else { return };
    let mut session = Session::new(llm, Some(64)).unwrap();
    let mut streamed = String::new();
    let whole = raw(&mut session, "Hello", &options(20), |text| {
        streamed.push_str(text);
        ControlFlow::Continue(())
    });
    let whole = whole.unwrap();
    assert_eq!((streamed.as_str(), whole.finish, whole.tokens.len()), (whole.text.as_str(), Finish::Length, 20));
    assert_eq!(whole.prompt_tokens.len(), 5);
    // 1. a stop text taken from the middle of it
    let stop: String = whole.text.chars().skip(4).take(3).collect();
    let before = &whole.text[..whole.text.find(&stop).unwrap()];
    let stopped = raw(&mut session, "Hello", &Options { stop: vec![stop], ..options(20) }, quiet).unwrap();
    assert_eq!((stopped.text.as_str(), stopped.finish), (before, Finish::Stop));
    // 2. the caller ends it after three tokens
    let mut calls = 0;
    let cancelled = raw(&mut session, "Hello", &options(20), |_| {
        calls += 1;
        if calls == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let cancelled = cancelled.unwrap();
    assert_eq!((cancelled.tokens.as_slice(), cancelled.finish), (&whole.tokens[..3], Finish::Cancelled));
    // 3. log-probabilities of greedy tokens are the largest
    let with = raw(&mut session, "Hello", &Options { logprobs: true, ..options(5) }, quiet).unwrap();
    assert!(with.logprobs.unwrap().iter().all(|p| *p < 0.0 && *p > -5.0));
}

#[test]
fn a_shared_beginning_is_read_once_and_changes_nothing() {
    let Some(model) = llm(TEMPLATE) else { return };
    let mut session = Session::new(model.clone(), Some(100)).unwrap();
    raw(&mut session, "The same beginning, one end", &options(8), quiet).unwrap();
    let warm = raw(&mut session, "The same beginning, another", &options(8), quiet).unwrap();
    assert_eq!(warm.reused_tokens, "The same beginning, ".len());
    let Some(other) = llm(TEMPLATE) else { return };
    let cold = raw(&mut Session::new(other, None).unwrap(), "The same beginning, another", &options(8), quiet).unwrap();
    assert_eq!((cold.reused_tokens, &cold.tokens), (0, &warm.tokens));
    // the same prompt again, in another session: all but its last token
    let again = raw(&mut Session::new(model, None).unwrap(), "The same beginning, another", &options(8), quiet).unwrap();
    assert_eq!((again.reused_tokens, again.tokens), (again.prompt_tokens.len() - 1, cold.tokens));
}

#[test]
fn limits_are_kept_with_numbers() {
    let Some(llm) = llm(TEMPLATE) else { return };
    let mut session = Session::new(llm.clone(), Some(10)).unwrap();
    let full = raw(&mut session, "12345678", &options(100), quiet).unwrap();
    assert_eq!((full.tokens.len(), full.finish), (3, Finish::Length)); // the third needs no room any more
    let message = |r: crate::Result<Generation>| match r.unwrap_err() {
        Error::Usage(m) => m,
        e => panic!("{e}"),
    };
    let long = message(raw(&mut session, "12345678901", &options(1), quiet));
    assert!(long.contains("11 tokens") && long.contains("10"), "{long}");
    assert!(message(raw(&mut session, "", &options(1), quiet)).contains("empty"));
    assert!(matches!(Session::new(llm.clone(), Some(129)), Err(Error::Usage(m)) if m.contains("1 to 128")));
    assert!(matches!(Session::new(llm, Some(0)), Err(Error::Usage(_))));
}

#[test]
fn conversations_keep_their_cache_and_survive_errors() {
    let Some(model) = llm(TEMPLATE) else { return };
    let mut chat = Chat::new(model, Some(90), Some("Be kind.")).unwrap();
    let first = chat.say("Hi", &options(6), quiet).unwrap();
    assert_eq!(first.prompt_tokens.iter().filter(|&&t| t == 1).count(), 3);
    let second = chat.say("<s>", &options(6), quiet).unwrap();
    assert!(second.reused_tokens >= first.prompt_tokens.len());
    assert_eq!(second.prompt_tokens.iter().filter(|&&t| t == 1).count(), 5); // the user's "<s>" is text
    assert_eq!(chat.messages().len(), 5);
    assert!(matches!(chat.say(&"x".repeat(100), &options(6), quiet), Err(Error::Usage(m)) if m.contains("context")));
    assert_eq!(chat.messages().len(), 5);
    let Some(model) = llm("{{ raise_exception('no') }}") else { return };
    let refused = Chat::new(model, None, None).unwrap().say("Hi", &options(1), quiet);
    assert!(matches!(refused, Err(Error::Usage(m)) if m.contains("refuses the conversation: no")));
}

/// `count` prompts of different lengths, some of which begin alike.
fn prompts(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{}{}", "The same beginning. ".repeat(i % 4), "xyz".repeat(1 + i * 5 % 11))).collect()
}

fn sampled(seed: u64) -> Options {
    Options { sampling: Sampling { temperature: 1.0, seed, ..Sampling::default() }, ..options(24) }
}

#[test]
fn many_at_once_get_what_each_would_get_alone() {
    // Room for few of them at once: some wait, some have to make room and begin again.
    for (cache_tokens, sequences) in [(8192, 32), (512, 3), (256, 32)] {
        let settings = Settings { cache_tokens, sequences, ..Settings::default() };
        let (Some(alone), Some(llm)) = (llm(TEMPLATE), llm_with(TEMPLATE, &settings)) else { return };
        let prompts = prompts(12);
        let one = |llm: &Arc<Llm>, i: usize| {
            let mut session = Session::new(llm.clone(), Some(128)).unwrap();
            raw(&mut session, &prompts[i], &if i.is_multiple_of(2) { options(24) } else { sampled(i as u64) }, quiet)
                .unwrap()
                .tokens
        };
        let want: Vec<_> = (0..prompts.len()).map(|i| one(&alone, i)).collect();
        let got: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..prompts.len())
                .map(|i| {
                    scope.spawn({
                        let one = &one;
                        let llm = &llm;
                        move || one(llm, i)
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(got, want, "{cache_tokens} positions, {sequences} at once");
    }
}

#[test]
fn guesses_change_no_text() {
    let Some(plain) = llm(TEMPLATE) else { return };
    let draft = Speculation::Draft(plain.clone());
    // A model guesses its own tokens right, and the look-up some of them; how many guesses are worth it depends on the clock.
    for (speculation, right) in [(Speculation::LookUp, 0.05), (draft, 0.95)] {
        let Some(llm) = llm_with(TEMPLATE, &Settings { speculation, ..Settings::default() }) else { return };
        let mut total = Speculated::default();
        for (i, prompt) in prompts(8).iter().enumerate() {
            for options in [options(40), sampled(i as u64)] {
                let want = raw(&mut Session::new(plain.clone(), None).unwrap(), prompt, &options, quiet).unwrap();
                let got = raw(&mut Session::new(llm.clone(), None).unwrap(), prompt, &options, quiet).unwrap();
                assert_eq!((got.tokens, got.text, got.finish), (want.tokens, want.text, want.finish), "{prompt}");
                total.drafted += got.speculated.drafted;
                total.accepted += got.speculated.accepted;
            }
        }
        assert!(total.drafted > 0 && total.accepted <= total.drafted, "{total:?}");
        assert!(total.accepted as f64 >= right * total.drafted as f64, "{total:?}");
    }
}

#[test]
fn a_caller_that_goes_away_frees_its_place_at_once() {
    let Some(llm) = llm_with(TEMPLATE, &Settings { sequences: 1, ..Settings::default() }) else { return };
    let long = |llm: &Arc<Llm>| {
        let mut session = Session::new(llm.clone(), Some(128)).unwrap();
        raw(&mut session, "Hello", &options(120), |_| ControlFlow::Break(())).unwrap()
    };
    for _ in 0..20 {
        let cut = long(&llm);
        assert_eq!((cut.tokens.len(), cut.finish), (1, Finish::Cancelled));
    }
    // a callback that panics is gone too
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = raw(&mut Session::new(llm.clone(), Some(128)).unwrap(), "Hello", &options(120), |_| panic!("gone"));
    }));
    assert!(panicked.is_err());
    assert_eq!(raw(&mut Session::new(llm, None).unwrap(), "Hi", &options(3), quiet).unwrap().tokens.len(), 3);
}

/// Pearson's statistic of `counts` against `n` draws from `p`, over bins of at least five expected draws, and the bins less one.
fn chi_square(counts: &[usize], p: &[f64], n: usize) -> (f64, usize) {
    let (mut statistic, mut bins, mut rest) = (0.0, 0, (0.0, 0.0));
    let mut add = |seen: f64, expected: f64| {
        statistic += (seen - expected).powi(2) / expected;
        bins += 1;
    };
    for (&count, &p) in counts.iter().zip(p) {
        let expected = p * n as f64;
        if expected >= 5.0 {
            add(count as f64, expected);
        } else {
            rest = (rest.0 + count as f64, rest.1 + expected);
        }
    }
    if rest.1 > 0.0 {
        add(rest.0, rest.1);
    }
    (statistic, bins - 1)
}

#[test]
fn sampling_with_guesses_follows_the_models_distribution() {
    const DRAWS: usize = 1500;
    let Some(plain) = llm(TEMPLATE) else { return };
    let prompt = "abcabcab"; // so that look-up has guesses
    let temperature = 0.15; // the model is random: cooler, it prefers some tokens
    let sampling = Sampling { temperature, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() };
    let softmax = |text: &[u32]| {
        let mut state = plain.decoder().unwrap().new_state(64);
        let last = dreamseed_models::decoder::Logits::Last;
        let logits = plain.decoder().unwrap().forward(&Pool::new(1), &mut state, text, last).unwrap();
        let weights: Vec<f64> = logits.iter().map(|&l| f64::from(l / temperature).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / sum).collect::<Vec<_>>()
    };
    for speculation in [Speculation::LookUp, Speculation::Draft(plain.clone())] {
        let Some(llm) = llm_with(TEMPLATE, &Settings { speculation, ..Settings::default() }) else { return };
        let mut session = Session::new(llm.clone(), Some(64)).unwrap();
        let mut text = Vec::new();
        let draws: Vec<Vec<u32>> = (0..DRAWS)
            .map(|seed| {
                let sampling = Sampling { seed: seed as u64 * 0x1234_5679, ..sampling };
                let generation = raw(&mut session, prompt, &Options { sampling, ..options(2) }, quiet).unwrap();
                text = generation.prompt_tokens;
                generation.tokens
            })
            .collect();
        // 1. the first token; an end mark is one too
        let end = (0..llm.tokenizer().len() as u32).find(|&t| llm.tokenizer().is_end(t)).unwrap();
        let count = |tokens: &mut dyn Iterator<Item = u32>| {
            let mut counts = vec![0; llm.config().vocab];
            tokens.for_each(|t| counts[t as usize] += 1);
            counts
        };
        let first = count(&mut draws.iter().map(|d| d.first().copied().unwrap_or(end)));
        let check = |counts: &[usize], p: &[f64], n: usize, what: &str| {
            let (statistic, freedom) = chi_square(counts, p, n);
            // mean and four standard deviations of the chi-square distribution: one in some 10,000 lies beyond
            let bound = freedom as f64 + 4.0 * (2.0 * freedom as f64).sqrt();
            assert!(freedom > 0 && statistic < bound, "{what}: {statistic} of {freedom} degrees of freedom");
        };
        check(&first, &softmax(&text), DRAWS, "first");
        // 2. the second, after the likeliest first
        let likeliest = (0..first.len()).max_by_key(|&t| if t as u32 == end { 0 } else { first[t] }).unwrap() as u32;
        let after: Vec<&Vec<u32>> = draws.iter().filter(|d| d.first() == Some(&likeliest)).collect();
        let second = count(&mut after.iter().map(|d| d.get(1).copied().unwrap_or(end)));
        text.push(likeliest);
        check(&second, &softmax(&text), after.len(), "second");
    }
}

#[test]
fn a_grammar_is_followed_whatever_guesses_and_company() {
    let Some(plain) = llm(TEMPLATE) else { return };
    let free = raw(&mut Session::new(plain.clone(), None).unwrap(), "Hello", &options(24), quiet).unwrap();
    let held = |llm: &Arc<Llm>, i: usize| {
        let sampled = if i.is_multiple_of(2) { options(100) } else { Options { max_tokens: 100, ..sampled(i as u64) } };
        let grammar = match i % 3 {
            0 => Grammar::Regex("[a-f]{2}(-[0-9]{3}){2}".into()),
            1 => Grammar::JsonSchema(
                r#"{"type": "object", "properties": {"a": {"type": "integer", "minimum": 3, "maximum": 99},
                "b": {"enum": ["x", "yz"]}}, "required": ["a", "b"], "additionalProperties": false}"#
                    .into(),
            ),
            _ => Grammar::Lark("start: \"<\" item{2,4} \">\"\nitem: /[A-Z]/ | start\n".into()),
        };
        let options = Options { grammar: Some(grammar), ..sampled };
        raw(&mut Session::new(llm.clone(), Some(128)).unwrap(), &prompts(9)[i], &options, quiet).unwrap()
    };
    let want: Vec<_> = (0..9).map(|i| held(&plain, i)).collect();
    for (i, text) in want.iter().map(|g| g.text.as_str()).enumerate() {
        if want[i].finish == Finish::Length {
            continue; // the third one may nest for ever
        }
        assert_eq!(want[i].finish, Finish::Eos, "{text}");
        match i % 3 {
            0 => assert!(
                text.len() == 10 && text[2..].split('-').skip(1).all(|n| n.len() == 3 && n.parse::<u32>().is_ok()),
                "{text}"
            ),
            1 => {
                let json: serde_json::Value = serde_json::from_str(text).unwrap();
                assert!((3..=99).contains(&json["a"].as_u64().unwrap()) && ["x", "yz"].contains(&json["b"].as_str().unwrap()));
            }
            _ => {
                assert!(text.matches('<').count() == text.matches('>').count() && text.starts_with('<') && text.ends_with('>'))
            }
        }
    }
    assert!(want.iter().filter(|g| g.finish == Finish::Eos).count() >= 6);
    for speculation in [Speculation::Off, Speculation::LookUp, Speculation::Draft(plain.clone())] {
        // little room: some of them have to begin again
        let settings = Settings { speculation, cache_tokens: 256, ..Settings::default() };
        let Some(llm) = llm_with(TEMPLATE, &settings) else { return };
        let got: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..9)
                .map(|i| {
                    scope.spawn({
                        let (held, llm) = (&held, &llm);
                        move || held(llm, i)
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        for (got, want) in got.iter().zip(&want) {
            assert_eq!((&got.text, got.finish), (&want.text, want.finish));
        }
    }
    let again = raw(&mut Session::new(plain.clone(), None).unwrap(), "Hello", &options(24), quiet).unwrap();
    assert_eq!(again.tokens, free.tokens);
    let refused = Options { grammar: Some(Grammar::Regex("(".into())), ..options(5) };
    let refused = raw(&mut Session::new(plain, None).unwrap(), "Hello", &refused, quiet);
    assert!(matches!(refused, Err(Error::Usage(m)) if m.starts_with("regular expression: ")));
}
