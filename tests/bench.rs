//! `dreamseed bench` on a small model with random weights, which a script of benches/peers makes.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{dreamseed, outcome, reference, weights};
use serde_json::Value;

/// A GGUF file in the mixture of types that most people run; `None` where there is no Python.
fn tiny(folder: &Path) -> Option<PathBuf> {
    let file = folder.join("tiny.gguf");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/synthetic.py");
    match Command::new("python3").arg(script).arg("tiny").arg(&file).output() {
        Ok(done) => assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr)),
        Err(_) => {
            eprintln!("skipped: python3 is not installed");
            return None;
        }
    }
    Some(file)
}

fn json(args: &[&str]) -> Value {
    let (code, out, err) = outcome(&mut dreamseed(args));
    assert_eq!(code, 0, "{args:?}: {out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

#[test]
fn speech_measures_its_parts() {
    let file = weights("sample-speech").join("jfk.wav");
    let model = ["bench", "speech", "--model", "whisper-tiny.en", "--file", file.to_str().unwrap(), "--runs", "1", "--json"];
    weights("whisper-tiny.en");
    let seen = json(&model);
    let of = |name: &str| seen[name].as_f64().unwrap_or_else(|| panic!("{name} of {seen}"));
    assert!((of("audio_seconds") - 11.0).abs() < 0.01);
    // the detector is a small part of what comes before the decoder; the parts are the whole
    assert!(of("vad_s") > 0.0 && of("vad_s") < of("encode_s"), "{seen}");
    assert!((of("encode_s") + of("decode_s") - of("seconds")).abs() < 1e-6, "{seen}");
    // 22 words with their marks, and timestamps
    assert!((22.0..60.0).contains(&of("steps")), "{seen}");
}

#[test]
fn llm_measures_what_was_asked_and_says_what_it_read() {
    let folder = tempfile::tempdir().unwrap();
    let Some(file) = tiny(folder.path()) else { return };
    let model = ["bench", "llm", "--model", file.to_str().unwrap(), "--runs", "1", "--json"];
    let run = |rest: &[&str]| json(&[&model[..], rest].concat());
    let sizes = ["--prompt", "20", "--gen", "4", "--depth", "30"];
    let one = run(&[&sizes[..], &["--threads", "1"]].concat());
    for (name, value) in one.as_object().unwrap() {
        assert!(!value.as_f64().is_some_and(|v| v < 0.0) && !value.is_null(), "{name}: {value}");
    }
    for rate in ["prefill_tokens_per_s", "decode_tokens_per_s", "bandwidth_gb_s", "int8_gops", "prefill_of_peak"] {
        assert!(one[rate].as_f64().unwrap() > 0.0, "{rate}");
    }
    // two layers of two heads of 64: keys and values of 31, 32, 33 and 34 positions, two bytes each
    assert_eq!(one["kv_bytes_per_token"], 2 * 2 * (2 * 64) * 2 * (31 + 32 + 33 + 34) / 4);
    let (bytes, size) = (one["bytes_per_token"].as_u64().unwrap(), file.metadata().unwrap().len());
    assert!(
        bytes > size * 9 / 10 && bytes < size * 11 / 10,
        "{bytes} of a file of {size}, whose embeddings are its output too"
    );
    let used = one["decode_gb_s"].as_f64().unwrap();
    let wanted = (bytes + one["kv_bytes_per_token"].as_u64().unwrap()) as f64 * one["decode_tokens_per_s"].as_f64().unwrap();
    assert!((used * 1e9 / wanted - 1.0).abs() < 1e-9);

    let two = run(&[&sizes[..], &["--threads", "2"]].concat());
    assert_eq!((&one["threads"], &two["threads"]), (&1.into(), &2.into()));
    assert_eq!(one["logits_hash"], two["logits_hash"], "threads change no bit");
    let decode = run(&["--prompt", "0", "--gen", "4", "--depth", "30"]);
    assert!(decode["prefill_tokens_per_s"].is_null() && decode["prefill_of_peak"].is_null());
    assert_ne!(decode["logits_hash"], one["logits_hash"]);
    let prefill = run(&["--prompt", "20", "--gen", "0"]);
    assert!(prefill["decode_tokens_per_s"].is_null() && prefill["decode_of_bandwidth"].is_null());
    let (code, _, err) = outcome(&mut dreamseed(&[&model[..], &["--prompt", "0", "--gen", "0"]].concat()));
    assert!(code == 2 && err.contains("at least 1 read or written"), "{code}: {err}");
}

#[test]
fn perplexity_of_random_weights_is_about_the_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let Some(file) = tiny(folder.path()) else { return };
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "The quick brown fox jumps over the lazy dog; twice, if it must.\n".repeat(8)).unwrap();
    let command = ["bench", "perplexity", "--model", file.to_str().unwrap(), "--file", text.to_str().unwrap(), "--json"];
    let plain = json(&[&command[..], &["--context", "64"]].concat());
    assert_eq!(plain["chunks"].as_u64().unwrap(), plain["text_tokens"].as_u64().unwrap() / 64);
    assert_eq!(plain["scored_tokens"].as_u64().unwrap(), plain["chunks"].as_u64().unwrap() * 31);
    let perplexity = plain["perplexity"].as_f64().unwrap();
    assert!((100.0..5000.0).contains(&perplexity), "{perplexity} of a vocabulary of 512");
    let strided = json(&[&command[..], &["--context", "64", "--stride", "16", "--chunks", "3"]].concat());
    assert_eq!((strided["chunks"].as_u64(), strided["scored_tokens"].as_u64()), (Some(3), Some(48)));

    for (args, code, wanted) in [
        (vec!["--context", "512"], 1, "need 1024"),
        (vec!["--context", "2"], 2, "4 to"),
        (vec!["--context", "64", "--stride", "200"], 2, "must be below"),
    ] {
        let (seen, out, err) = outcome(&mut dreamseed(&[&command[..], &args].concat()));
        assert!(seen == code && err.contains(wanted), "{args:?}: {seen}: {out}{err}");
    }
    std::fs::write(&text, [0xff; 5000]).unwrap();
    let (code, _, err) = outcome(&mut dreamseed(&command));
    assert!(code == 1 && err.contains("UTF-8"), "{code}: {err}");
}

#[test]
fn net_times_a_network_and_writes_what_it_computed() {
    let (file, folder) = (weights("face-detector").join("face_detection_short_range.tflite"), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name);
    let run = |threads: &str| {
        let (file, dump) = (file.to_str().unwrap(), folder.path().to_str().unwrap());
        let seen = json(&["--threads", threads, "bench", "net", "--file", file, "--dump", dump, "--runs", "2", "--json"]);
        (seen, [path("output0.f32"), path("output1.f32")].map(|p| std::fs::read(p).unwrap()))
    };
    let ((one, outputs), (two, again)) = (run("1"), run("2"));
    for name in ["ms", "best_ms", "gflops", "peak_gflops", "of_peak"] {
        assert!(one[name].as_f64().unwrap() > 0.0, "{name}");
    }
    assert!(one["of_peak"].as_f64().unwrap() < 1.1 && one["ms"].as_f64() >= one["best_ms"].as_f64(), "{one}");
    assert_eq!((&one["threads"], &two["threads"], &one["mega_macs"]), (&1.into(), &2.into(), &two["mega_macs"]));
    assert!(outputs == again, "threads change no bit");
    // 896 boxes of 16 numbers and their scores; a picture of 128 x 128
    let sizes = [&outputs[0], &outputs[1], &std::fs::read(path("input0.f32")).unwrap()].map(Vec::len);
    assert_eq!(sizes, [896 * 16 * 4, 896 * 4, 128 * 128 * 3 * 4]);
    let (code, _, error) = outcome(&mut dreamseed(&["bench", "net", "--file", path("none.tflite").to_str().unwrap()]));
    assert!(code == 1 && error.contains("none.tflite"), "{code}: {error}");
}

#[test]
fn pose_tells_the_parts_of_the_pipeline() {
    let Some(picture) = reference("media/pose.jpg") else { return };
    let seen = json(&["bench", "pose", "--file", picture.to_str().unwrap(), "--runs", "1", "--json"]);
    for name in ["detector_ms", "static_ms", "pipeline_ms"] {
        assert!(seen[name].as_f64().unwrap() > 0.0, "{name}");
    }
    assert!(seen["landmarks_ms"].is_null(), "one picture follows nobody: {seen}");
    assert_eq!((&seen["frames"], &seen["people"]), (&1.into(), &1.into()));
    assert!(seen["static_ms"].as_f64() > seen["detector_ms"].as_f64());
}
