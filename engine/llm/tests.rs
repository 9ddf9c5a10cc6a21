//! Sessions and conversations on the small random llama of the reference material.

use std::{ops::ControlFlow, path::PathBuf, sync::Arc};

use dreamseed_kernels::Pool;

use super::*;
use crate::Error;

/// A folder with the golden llama and a tokenizer of single characters: id 3 + i is the i-th printable one.
fn llm(template: &str) -> Option<Arc<Llm>> {
    llm_with(template, &Settings::default())
}

fn llm_with(template: &str, settings: &Settings) -> Option<Arc<Llm>> {
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
    Some(Arc::new(Llm::open_with(dir.path(), Arc::new(Pool::new(2)), settings).unwrap()))
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
    for speculation in [Speculation::LookUp, draft] {
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
        assert!(total.accepted > 20 && total.accepted <= total.drafted, "{total:?}");
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
