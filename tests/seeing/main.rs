//! Models that look at pictures, on small random ones: `run --image` of both families, `see --labels` with a real vocabulary,
//! poses by ViTPose.

#[path = "../common/mod.rs"]
mod common;
mod labels;
mod model;
mod pose;
mod vectors;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{dreamseed, outcome};
use dreamseed_kernels::Pool;
use dreamseed_models::decoder::{Decoder, Logits, Picture};
use dreamseed_models::image::Image;
use dreamseed_models::projector::Projector;
use dreamseed_models::tokenizer::{Specials, Tokenizer};
use dreamseed_models::vision::{Precision, Session, Vision, preprocess};
use dreamseed_models::weights::gguf::Gguf;
use model::{Kind, noise};
use serde_json::Value;
use tempfile::TempDir;

/// Pixels of a picture of noise, 8 x 8 of one colour.
fn pixels(width: usize, height: usize, seed: &str) -> Vec<u8> {
    let coarse = noise(width.div_ceil(8) * height.div_ceil(8) * 3, seed);
    let at = |i: usize| (i / 3 / width / 8 * width.div_ceil(8) + i / 3 % width / 8) * 3 + i % 3;
    (0..width * height * 3).map(|i| ((coarse[at(i)] + 1.0) * 127.0) as u8).collect()
}

/// The same as a PNG file.
fn picture(folder: &Path, width: u32, height: u32, seed: &str) -> PathBuf {
    let path = folder.join(format!("{seed}.png"));
    let rgb = pixels(width as usize, height as usize, seed);
    image::save_buffer(&path, &rgb, width, height, image::ExtendedColorType::Rgb8).unwrap();
    path
}

/// A model, its projector and two pictures.
struct Given {
    kind: Kind,
    folder: TempDir,
    model: PathBuf,
    mmproj: PathBuf,
    pictures: [PathBuf; 2],
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Given {
    fn new(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [model, mmproj] = kind.write(folder.path());
        let pictures = [picture(folder.path(), 64, 48, "one"), picture(folder.path(), 40, 72, "two")];
        Self { kind, folder, model, mmproj, pictures }
    }

    /// Exit code, stdout and stderr of `run` with these arguments.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let first = ["--offline", "--threads", "2", "run", "--model", text(&self.model), "--temperature", "0", "--json"];
        let last = ["--max-tokens", "10", "--prompt", "What is the difference?"];
        outcome(&mut dreamseed(&[&first[..], args, &last].concat()))
    }

    fn answer(&self, args: &[&str]) -> Value {
        let (code, out, err) = self.run(args);
        assert_eq!(code, 0, "{:?} {args:?}: {out}{err}", self.kind);
        serde_json::from_str(&out).unwrap()
    }

    /// The tokens after those of `answer`'s prompt, by decoder and projector alone.
    fn directly(&self, answer: &Value, pictures: &[(u32, u32, &str)]) -> Vec<u32> {
        let (pool, gguf) = (Pool::new(2), Gguf::open(&self.model).unwrap());
        let (decoder, tokenizer) = (Decoder::from_gguf(&gguf, &pool).unwrap(), Tokenizer::from_gguf(&gguf).unwrap());
        let projector = Projector::open(&self.mmproj).unwrap();
        let (prompt, tokens) = (numbers(&answer["prompt_tokens"]), numbers(&answer["tokens"]));
        let row = tokenizer.encode(self.kind.row(), Specials::Parse).unwrap()[0];
        let (mut seen, mut from) = (Vec::new(), 0);
        for (w, h, seed) in pictures {
            let rgb = pixels(*w as usize, *h as usize, seed);
            let features = projector.encode(&pool, &Image::new(*w, *h, &rgb).unwrap(), 1024).unwrap();
            let at = from + prompt[from..].iter().position(|t| *t == row).unwrap();
            from = at + features.len();
            assert!(prompt[at..from].iter().all(|t| *t == row) && prompt[from] != row, "{:?}: {prompt:?}", self.kind);
            seen.push(Picture { at, features: Arc::new(features) });
        }
        assert!(!prompt[from..].contains(&row));
        let best = |logits: &[f32]| {
            let at = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a)));
            at.unwrap() as u32
        };
        let mut state = decoder.new_state(512);
        let mut next = vec![best(decoder.forward_with(&pool, &mut state, &prompt, &seen, Logits::Last).unwrap())];
        while next.len() < tokens.len() {
            let last = next[next.len() - 1];
            next.push(best(decoder.forward(&pool, &mut state, &[last], Logits::Last).unwrap()));
        }
        next
    }
}

fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

const KINDS: [Kind; 2] = [Kind::Gemma3, Kind::Qwen3Vl];

#[test]
fn pictures_are_seen_where_the_prompt_has_them() {
    for given in KINDS.map(Given::new) {
        let [one, two] = given.pictures.each_ref().map(|p| text(p));
        let args = ["--mmproj", text(&given.mmproj), "--image", one, "--image", two, "--logprobs"];
        let answer = given.answer(&args);
        let tokens = numbers(&answer["tokens"]);
        assert_eq!(tokens, given.directly(&answer, &[(64, 48, "one"), (40, 72, "two")]), "{:?}", given.kind);
        let again = given.answer(&args);
        for same in ["text", "tokens", "prompt_tokens", "logprobs"] {
            assert_eq!(answer[same], again[same], "{:?}: {same}", given.kind);
        }
        // what a picture shows, and which one is the first, matters
        for other in [[two, two], [two, one]] {
            let args = ["--mmproj", text(&given.mmproj), "--image", other[0], "--image", other[1], "--logprobs"];
            assert_ne!(given.answer(&args)["logprobs"], answer["logprobs"], "{:?}", given.kind);
        }
    }
}

#[test]
fn text_alone_is_answered_as_without_a_projector() {
    for given in KINDS.map(Given::new) {
        let plain = given.answer(&[]);
        assert_eq!(numbers(&plain["tokens"]), given.directly(&plain, &[]), "{:?}", given.kind);
        let engine = dreamseed::Engine::builder().offline().home(given.folder.path()).threads(2).build().unwrap();
        let llm = engine.llm_that_sees(Some(text(&given.model)), Some(&given.mmproj)).unwrap();
        let mut chat = dreamseed::llm::Chat::new(llm, None, None).unwrap();
        let options = dreamseed::llm::Options { max_tokens: 10, ..Default::default() };
        let seeing = chat.say("What is the difference?", &options, |_| std::ops::ControlFlow::Continue(())).unwrap();
        assert_eq!((&seeing.prompt_tokens, &seeing.tokens), (&numbers(&plain["prompt_tokens"]), &numbers(&plain["tokens"])));
    }
}

/// Where the projector comes from: beside the model by its name, or named in weights.toml and copied from a local folder.
#[test]
fn a_projector_is_found_beside_the_model_and_by_the_manifest() {
    let given = Given::new(Kind::Qwen3Vl);
    let image = ["--image", text(&given.pictures[0])];
    let wanted = given.answer(&[&image[..], &["--mmproj", text(&given.mmproj)]].concat())["tokens"].clone();
    let (code, _, err) = given.run(&image);
    assert!(code == 2 && err.contains("no projector beside it") && err.contains("--mmproj"), "{code}: {err}");

    // 1. named in weights.toml
    let home = tempfile::tempdir().unwrap();
    let model = |id: &str, role: &str, file: &str, more: &str| {
        format!(
            "[[model]]\nid='{id}'\nname='x'\nrole='{role}'\nformat='gguf'\nlicence='x'\nlicence_url='x'\nnotice='x'\nverified=false\n\
             memory_mb=1\n{more}\nfiles=[{{path='{file}'}}]\nsources=[{{kind='local', path='{}'}}]\n",
            text(given.folder.path())
        )
    };
    let manifest = model("seer", "llm", "model.gguf", "projector='seer-sight'")
        + &model("seer-sight", "projector", "sight.gguf", "")
        + &model("lost", "llm", "model.gguf", "projector='lost-sight'")
        + &model("lost-sight", "projector", "nowhere.gguf", "");
    let file = given.folder.path().join("weights.toml");
    std::fs::write(&file, manifest).unwrap();
    let run = |model: &str, more: &[&str]| {
        let first = ["--offline", "--home", text(home.path()), "--weights", text(&file), "run", "--model", model];
        let last = ["--temperature", "0", "--json", "--max-tokens", "10", "--prompt", "What is the difference?"];
        outcome(&mut dreamseed(&[&first[..], more, &last].concat()))
    };
    let (code, out, err) = run("seer", &image);
    assert_eq!(code, 0, "{err}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["tokens"], wanted);
    assert!(home.path().join("models/seer-sight/sight.gguf").exists());
    let (code, _, err) = run("lost", &image);
    assert!(code == 1 && err.contains("lost-sight") && err.contains("nowhere.gguf"), "{code}: {err}");
    assert_eq!(run("lost", &[]).0, 0, "text alone needs no projector");
    let (code, _, err) = run("seer-sight", &[]);
    assert!(code == 2 && err.contains("model for projector"), "{code}: {err}");

    // 2. beside the model
    std::fs::rename(&given.mmproj, given.folder.path().join("mmproj-f32.gguf")).unwrap();
    assert_eq!(given.answer(&image)["tokens"], wanted);
}

#[test]
fn what_cannot_be_seen_is_told() {
    let [gemma, qwen] = KINDS.map(Given::new);
    let folder = gemma.folder.path();
    let broken = folder.join("broken.png");
    let whole = std::fs::read(&gemma.pictures[0]).unwrap();
    std::fs::write(&broken, &whole[..whole.len() / 2]).unwrap();
    let (line, large) = (picture(folder, 300, 1, "line"), picture(folder, 640, 480, "large"));
    let one = text(&gemma.pictures[0]);
    for (given, code, args, wanted) in [
        (&gemma, 1, ["--mmproj", text(&gemma.mmproj), "--image", text(&broken)], vec!["broken.png"]),
        (&gemma, 1, ["--mmproj", text(&gemma.mmproj), "--image", "nowhere.png"], vec!["nowhere.png"]),
        (&gemma, 2, ["--mmproj", text(&qwen.mmproj), "--image", one], vec!["not this model's projector"]),
        (&qwen, 2, ["--mmproj", text(&gemma.mmproj), "--image", one], vec!["not this model's projector"]),
        (&gemma, 1, ["--mmproj", text(&gemma.model), "--image", one], vec!["gemma3", "clip", "mmproj"]),
        (&gemma, 1, ["--mmproj", one, "--image", one], vec!["GGUF"]),
        (&qwen, 2, ["--mmproj", text(&qwen.mmproj), "--image", text(&line)], vec!["300 x 1", "200 times"]),
    ] {
        let (seen, out, err) = given.run(&args);
        assert_eq!(seen, code, "{args:?}: {out}{err}");
        assert!(wanted.iter().all(|w| err.contains(w)) && !err.contains("panicked"), "{args:?} says {wanted:?}: {err}");
    }
    // too large: for the configuration, for the context; Qwen's is scaled to what it may take
    let args = ["--mmproj", text(&qwen.mmproj), "--image", text(&large)];
    let rows = |answer: Value| {
        let row = Tokenizer::from_gguf(&Gguf::open(&qwen.model).unwrap()).unwrap().encode(Kind::Qwen3Vl.row(), Specials::Parse);
        numbers(&answer["prompt_tokens"]).iter().filter(|t| **t == row.as_ref().unwrap()[0]).count()
    };
    let few = rows(qwen.answer(&[&args[..], &["--image-tokens", "60"]].concat()));
    assert!((40..=60).contains(&few), "{few}");
    let (code, _, err) = qwen.run(&args);
    assert!(code == 2 && err.contains("context") && err.contains("512"), "{code}: {err}");
    let tiny = picture(folder, 1500, 1000, "huge");
    let mut command = dreamseed(&["--offline", "run", "--model", text(&gemma.model), "--mmproj", text(&gemma.mmproj)]);
    command.args(["--prompt", "x", "--image", text(&tiny)]).env("DREAMSEED_LIMITS_MEGAPIXELS", "1");
    let (code, _, err) = outcome(&mut command);
    assert!(code == 1 && err.contains("huge.png") && err.contains("1500"), "{code}: {err}");
}

#[test]
fn a_vision_model_is_timed_on_the_picture_that_it_writes() {
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    model::golden("dinov2", folder.path(), |_, _, _| {});
    let run = |side: &str| {
        let first = ["--threads", "2", "bench", "vision", "--model", text(folder.path()), "--side", side];
        outcome(&mut dreamseed(&[&first[..], &["--dump", text(out.path()), "--runs", "2", "--json"]].concat()))
    };
    let (code, seen, err) = run("28");
    assert_eq!(code, 0, "{err}");
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen["tokens"], 4 * 4 + 1);
    assert!(["ms", "best_ms", "gflops", "of_peak"].iter().all(|f| seen[f].as_f64().unwrap() > 0.0), "{seen}");
    let floats = |name: &str| -> Vec<f32> {
        let bytes = std::fs::read(out.path().join(name)).unwrap();
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let pool = Pool::new(1);
    let model = Vision::open(folder.path(), &pool, Precision::Stored).unwrap();
    let patches = preprocess::cut(&floats("input0.f32"), [28, 28], 7);
    assert_eq!(model.forward(&pool, &patches, &mut Session::default()).unwrap(), floats("output0.f32"));
    let (code, _, err) = run("30");
    assert!(code == 2 && err.contains("--side 30") && err.contains("7 pixels"), "{code}: {err}");
}
