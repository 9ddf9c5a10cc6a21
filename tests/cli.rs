//! The command line as a stranger and a script would use it: exit codes, messages, hostile files.

mod common;

use common::{dreamseed, outcome, reference, weights, write_wav};
use serde_json::Value;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

#[test]
fn exit_codes_tell_usage_from_failure() {
    let empty = tempfile::tempdir().unwrap();
    let home = empty.path().to_str().unwrap();
    for (args, code, wanted) in [
        (vec!["--version"], 0, "dreamseed "),
        (vec!["--help"], 0, "coach"),
        (vec!["--print-config"], 0, "threads"),
        (vec!["completions", "bash"], 0, "_dreamseed"),
        (vec![], 2, "Usage"),
        (vec!["dance"], 2, "unrecognized subcommand"),
        (vec!["coach"], 2, "nothing to look at"),
        (vec!["coach", "--frames", home], 2, "--fps"),
        (vec!["run", "--model", "no-such-model", "--prompt", "x"], 2, "no model is called"),
        (vec!["run", "--prompt", "x", "--temperature=-1"], 2, "temperature"),
        (vec!["run", "--prompt", "x", "--regex", "a("], 2, "regular expression: regex parse error"),
        (vec!["run", "--prompt", "x", "--json-schema", "{"], 2, "JSON schema: no JSON"),
        (vec!["run", "--prompt", "x", "--json-schema", "{\"not\": {}}"], 2, "not"),
        (vec!["run", "--prompt", "x", "--grammar", "no-such-file.lark"], 1, "no-such-file.lark"),
        (vec!["run", "--prompt", "x", "--regex", "a", "--json-schema", "{}"], 2, "cannot be used with"),
        (vec!["bench", "grammar"], 2, "--json-schema"),
        (vec!["features", "x.wav", "--out", "x.xml"], 2, ".safetensors"),
        (vec!["transcribe", "no-such-file.wav"], 1, "no-such-file.wav"),
        (vec!["transcribe", "--realtime", "x.wav"], 2, "--stream"),
        (vec!["transcribe", "--stream", "--format", "srt", "x.wav"], 2, "--stream"),
        (vec!["features", "--audio", "-", "x.wav"], 2, "standard input"),
        (vec!["pose", home], 2, "--fps"),
        (vec!["coach", "--frames", home, "--fps", "0"], 2, "0.1 to 240"),
        (vec!["--offline", "--home", home, "run", "--prompt", "x"], 1, "smollm2-135m"),
        (vec!["--threads", "x", "doctor"], 2, "invalid value"),
        (vec!["plan", "--gpu", "rtx9090"], 2, "a100-80gb"),
        (vec!["plan", "--model", "gpt-5"], 2, "llama3.3-70b"),
        (vec!["plan", "--model", "no-such.gguf"], 1, "no-such.gguf"),
        (vec!["plan", "--gpu", "rtx5090", "--free", "8,8"], 2, "one number for each"),
        (vec!["plan", "--gpu", "rtx5090", "--free", "NaN"], 2, "4096 GiB"),
        (vec!["plan", "--draft", "qwen3-0.6b-q8_0", "--acceptance", "1.5"], 2, "probability"),
        (vec!["plan", "--model", "llama3-8b-f16", "--draft", "qwen3-0.6b-q8_0"], 2, "vocabulary"),
        (vec!["plan", "--context", "0"], 2, "at least 1"),
    ] {
        let (seen, out, err) = outcome(&mut dreamseed(&args));
        assert_eq!(seen, code, "{args:?}: {out}{err}");
        assert!(format!("{out}{err}").contains(wanted), "{args:?} says {wanted:?}: {out}{err}");
        assert!(!err.contains("panicked"), "{args:?}: {err}");
    }
}

/// Text, noise and beginnings of real files, under every name, to every command that takes a file.
#[test]
fn hostile_files_give_errors() {
    let folder = tempfile::tempdir().unwrap();
    let mut files: Vec<(String, Vec<u8>)> = vec![
        ("empty".into(), Vec::new()),
        ("text".into(), b"not media at all\n".repeat(100)),
        ("noise".into(), (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()),
    ];
    let real = [
        ("gguf", weights("smollm2-135m").join("smollm2-135m.gguf")),
        ("bin", weights("whisper-tiny.en").join("model.bin")),
        ("tflite", weights("blazepose-full").join("pose_landmark_full.tflite")),
        ("wav", weights("sample-speech").join("jfk.wav")),
        ("png", weights("sample-portrait").join("astronaut.png")),
    ];
    for (ending, path) in &real {
        let bytes = std::fs::read(path).unwrap();
        for cut in [4, 13, 200, 40_000] {
            files.push((format!("cut{cut}.{ending}"), bytes[..cut].to_vec()));
        }
        let mut lying = bytes[..100_000.min(bytes.len())].to_vec();
        lying[8..24].fill(0xff);
        files.push((format!("lying.{ending}"), lying));
    }
    for (name, bytes) in files {
        let path = folder.path().join(&name);
        std::fs::write(&path, bytes).unwrap();
        let path = path.to_str().unwrap();
        for args in [
            vec!["run", "--prompt", "x", "--raw", "--max-tokens", "1", "--model", path],
            vec!["pose", "--json", path],
            vec!["transcribe", "--json", path, "--model", "whisper-tiny.en"],
            vec!["features", "--no-speech", path],
            vec!["plan", "--gpu", "a2000", "--model", path],
        ] {
            let (code, out, err) = outcome(&mut dreamseed(&args));
            // a recording or picture that is cut late is still one; everything else is refused
            let usable = args[0] != "plan" && (name.ends_with("wav") || name.ends_with("png"));
            assert!(code == 1 || code == 2 || (usable && code == 0), "{args:?}: {code} {out}{err}");
            assert!(!err.contains("panicked") && (code == 0 || !err.is_empty()), "{args:?}: {err}");
        }
    }
}

#[test]
fn a_hostile_model_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let real = weights("whisper-tiny.en");
    for name in ["tokenizer.json", "config.json", "vocabulary.txt"] {
        std::fs::copy(real.join(name), folder.path().join(name)).unwrap();
    }
    let model = std::fs::read(real.join("model.bin")).unwrap();
    let speech = weights("sample-speech").join("jfk.wav");
    for cut in [0, 5, 1000, 1_000_000, model.len() - 1] {
        std::fs::write(folder.path().join("model.bin"), &model[..cut]).unwrap();
        let args = ["transcribe", speech.to_str().unwrap(), "--model", folder.path().to_str().unwrap()];
        let (code, _, err) = outcome(&mut dreamseed(&args));
        assert!(code == 1 && (err.contains("model.bin") || err.contains("byte")), "{cut}: {code} {err}");
    }
}

#[test]
fn transcribe_prints_one_object() {
    let speech = weights("sample-speech").join("jfk.wav");
    let (code, out, err) = outcome(&mut dreamseed(&["transcribe", speech.to_str().unwrap(), "--model", "tiny.en", "--json"]));
    assert_eq!(code, 0, "{err}");
    let [t] = lines(&out).try_into().expect("one line");
    assert_eq!(t["language"], "en");
    assert!(t["text"].as_str().unwrap().contains("ask not what your country can do for you"));
    let segment = &t["segments"][0];
    for key in ["start", "end", "avg_logprob", "no_speech_prob"] {
        assert!(segment[key].is_number(), "{key}: {segment}");
    }
    for key in ["start", "end", "probability"] {
        assert!(segment["words"][0][key].is_number(), "{key}: {segment}");
    }
    let (_, srt, _) =
        outcome(&mut dreamseed(&["transcribe", speech.to_str().unwrap(), "--model", "tiny.en", "--format", "srt"]));
    assert!(srt.starts_with("1\n00:00:00,") && srt.contains(" --> "), "{srt}");
}

#[test]
fn a_stream_from_standard_input_ends_with_the_transcript() {
    let speech = weights("sample-speech").join("jfk.wav");
    let mut command = dreamseed(&["transcribe", "--stream", "-", "--model", "tiny.en", "--json"]);
    let (code, out, err) = outcome(command.stdin(std::fs::File::open(&speech).unwrap()));
    assert_eq!(code, 0, "{err}");
    let events = lines(&out);
    let of = |kind: &str| events.iter().filter(|e| e["event"] == kind).cloned().collect::<Vec<_>>();
    let done = events.last().unwrap();
    assert!(done["event"] == "done" && done["text"].as_str().unwrap().contains("what your country can do for you"), "{out}");
    let finals: usize = of("final").iter().map(|e| e["words"].as_array().unwrap().len()).sum();
    let words: usize = done["segments"].as_array().unwrap().iter().map(|s| s["words"].as_array().unwrap().len()).sum();
    assert!(finals == 22 && words == 22, "{finals} {words}");
    let nothing = std::process::Stdio::null();
    let (code, out, err) = outcome(dreamseed(&["transcribe", "--stream", "-", "--model", "tiny.en"]).stdin(nothing));
    assert!(code == 1 && out.is_empty() && err.contains("no speech"), "{code} {out} {err}");
    let nothing = std::process::Stdio::null();
    let (code, _, err) = outcome(dreamseed(&["coach", "--audio", "-", "--no-llm"]).stdin(nothing));
    assert!(code == 1 && err.contains("no sound"), "{code} {err}");
}

#[test]
fn pose_prints_a_line_a_frame() {
    let portrait = weights("sample-portrait").join("astronaut.png");
    let (code, out, err) = outcome(&mut dreamseed(&["pose", portrait.to_str().unwrap(), "--model", "lite", "--json"]));
    assert_eq!(code, 0, "{err}");
    let [frame] = lines(&out).try_into().expect("one line");
    assert_eq!((&frame["width"], &frame["height"]), (&512.into(), &512.into()));
    let person = &frame["people"][0];
    assert_eq!(person["landmarks"].as_array().unwrap().len(), 33);
    assert_eq!(person["world"].as_array().unwrap().len(), 33);
    let nose: Vec<f64> = person["landmarks"][0].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(nose.len(), 4);
    assert!((nose[0] - 0.435).abs() < 0.02 && (nose[1] - 0.25).abs() < 0.02 && nose[3] > 0.9, "{nose:?}");
}

#[test]
fn run_is_deterministic_and_stops_where_told() {
    let args = ["run", "--prompt", "The capital of France is", "--raw", "--temperature", "0", "--max-tokens", "12", "--json"];
    let (code, out, err) = outcome(&mut dreamseed(&args));
    assert_eq!(code, 0, "{err}");
    let [g] = lines(&out).try_into().expect("one line");
    assert!(g["text"].as_str().unwrap().contains("Paris"), "{g}");
    assert_eq!(g["tokens"].as_array().unwrap().len(), 12);
    assert!(g["prefill_tokens_per_s"].as_f64().unwrap() > 0.0 && g["decode_tokens_per_s"].as_f64().unwrap() > 0.0);
    let tokens = |threads: &str| {
        let (_, out, _) = outcome(dreamseed(&args).args(["--threads", threads]));
        lines(&out)[0]["tokens"].clone()
    };
    assert_eq!(tokens("1"), g["tokens"], "the number of threads changes nothing");
    let (_, out, _) = outcome(dreamseed(&args).args(["--stop", "Paris"]));
    let stopped = &lines(&out)[0];
    assert!(!stopped["text"].as_str().unwrap().contains("Paris") && stopped["finish"] == "stop", "{stopped}");
}

#[test]
fn run_writes_what_a_schema_says() {
    let schema = r#"{"type": "object", "properties": {"city": {"enum": ["서울", "Paris"]}, "n": {"type": "integer", "minimum": 1,
        "maximum": 9}}, "required": ["city", "n"], "additionalProperties": false}"#;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), schema).unwrap();
    let args = ["run", "--prompt", "The capital of France, as JSON.", "--json", "--json-schema", file.path().to_str().unwrap()];
    let (code, out, err) = outcome(&mut dreamseed(&args));
    assert_eq!(code, 0, "{err}");
    let [g] = lines(&out).try_into().expect("one line");
    let answer: Value = serde_json::from_str(g["text"].as_str().unwrap()).unwrap();
    assert_eq!((&g["finish"], answer.as_object().unwrap().len()), (&"eos".into(), 2), "{g}");
    assert!(["서울", "Paris"].contains(&answer["city"].as_str().unwrap()) && (1..=9).contains(&answer["n"].as_u64().unwrap()));
    // a chat holds every answer to it
    let (code, out, err) = {
        let mut child = dreamseed(&["run", "--regex", "(yes|no)"]);
        child.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = child.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"Is it?\nSure?\n").unwrap();
        let done = child.wait_with_output().unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap())
    };
    assert_eq!((code, out.lines().count()), (Some(0), 2), "{err}");
    assert!(out.lines().all(|l| l == "yes" || l == "no"), "{out}");
}

#[test]
fn chat_reads_lines_and_ends_with_them() {
    use std::io::Write;
    let mut child = dreamseed(&["run", "--temperature", "0", "--max-tokens", "16"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all("Say hello.\n/clear\nSay hello.\n".as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).unwrap();
    let answers: Vec<&str> = text.trim_end().split('\n').collect();
    assert!(!answers[0].trim().is_empty() && answers.len().is_multiple_of(2), "two answers: {text:?}");
    assert_eq!(answers[0], answers[answers.len() / 2], "after /clear the same question has the same answer");
}

#[test]
fn features_are_written_in_three_formats() {
    let folder = tempfile::tempdir().unwrap();
    let tone = folder.path().join("tone.wav");
    let wave: Vec<f32> = (0..32_000).map(|i| 0.4 * (i as f32 * std::f32::consts::TAU * 220.0 / 16_000.0).sin()).collect();
    write_wav(&tone, 16_000, &wave);
    for name in ["f.json", "f.csv", "f.safetensors"] {
        let out = folder.path().join(name);
        let args = ["features", tone.to_str().unwrap(), "--no-speech", "--out", out.to_str().unwrap()];
        let (code, _, err) = outcome(&mut dreamseed(&args));
        assert_eq!(code, 0, "{err}");
        assert!(out.metadata().unwrap().len() > 500, "{name}");
    }
    let timeline: Value = serde_json::from_slice(&std::fs::read(folder.path().join("f.json")).unwrap()).unwrap();
    let f0 = timeline["columns"].as_array().unwrap().iter().find(|c| c["name"] == "prosody.f0").expect("prosody.f0");
    let voiced: Vec<f64> = f0["values"].as_array().unwrap().iter().filter_map(|v| v.as_f64()).collect();
    assert!(voiced.len() > 40 && voiced.iter().all(|f| (f - 220.0).abs() < 1.0), "{voiced:?}");
    assert!(folder.path().join("f.events.csv").exists());
}

#[test]
fn a_lesson_goes_through_a_pipe_to_a_reader_that_leaves() {
    let portrait = weights("sample-portrait").join("astronaut.png");
    let mut child = dreamseed(&["coach", portrait.to_str().unwrap(), "--no-llm", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !err.contains("panicked"), "{err}");
}

#[test]
fn the_squats_are_a_dance_lesson() {
    let Some(video) = reference("media/pose_squats.mp4") else { return };
    if !common::ffmpeg() {
        return;
    }
    let args = ["coach", "--lab", "dance", "--video", video.to_str().unwrap(), "--no-llm", "--json", "--language", "ko"];
    let (code, out, err) = outcome(&mut dreamseed(&args));
    assert_eq!(code, 0, "{err}");
    let events = lines(&out);
    let points: Vec<_> = events.iter().filter(|e| e["event"] == "point").collect();
    assert!(!points.is_empty());
    for point in points {
        assert!(point["text"].as_str().unwrap().chars().any(|c| ('가'..='힣').contains(&c)), "{point}");
        assert!(!point["evidence"].as_array().unwrap().is_empty() && point["span"][1].as_f64().unwrap() <= 13.1, "{point}");
    }
}

#[test]
fn a_plan_says_what_fits_and_how_fast_it_should_be() {
    let home = tempfile::tempdir().unwrap();
    let at = home.path().to_str().unwrap();
    let plan = |args: &[&str]| {
        let (code, out, err) = outcome(&mut dreamseed(&[&["--home", at, "plan"], args].concat()));
        assert_eq!(code, 0, "{args:?}: {err}");
        out
    };
    let told = plan(&["--gpu", "rtx5090,a2000", "--draft", "qwen3-0.6b-q8_0", "--acceptance", "0.8", "--json"]);
    let report = &lines(&told)[0];
    let plans = report["plans"].as_array().unwrap();
    assert_eq!(plans.len(), 8, "four tiers on two GPUs");
    let fits = |p: &Value| p["problem"].is_null();
    assert_eq!(plans.iter().map(fits).collect::<Vec<_>>(), [true, true, true, false, true, true, false, false], "{told}");
    assert!(plans[3]["problem"].as_str().unwrap().contains("GB"));
    let speeds = |p: &Value, of: &str| [p[of][0].as_f64().unwrap(), p[of][1].as_f64().unwrap()];
    for p in plans {
        let [low, high] = speeds(p, "tokens_per_second");
        assert!(low > 1.0 && low < high && high < 1000.0, "{p}");
    }
    assert!(
        speeds(&plans[2], "speculative")[1] > speeds(&plans[2], "tokens_per_second")[1],
        "guesses help a large model: {told}"
    );
    assert!(plans[3]["speculative"].is_null(), "a draft of another vocabulary");
    assert!(report["held_error"]["mean"].as_f64().unwrap() < 0.12 && report["note"].as_str().unwrap().contains("not measured"));

    // two GPUs hold what one does not; a table for people says so, and that nothing was measured
    let table = plan(&["--gpus", "rtx5090,rtx5090", "--free", "31,31", "--model", "llama3.3-70b-q4_k_m", "--figures"]);
    for wanted in ["layers 0..", "..80", "not measured", "pull request 6766", "llama3.3-70b-q4_k_m"] {
        assert!(table.contains(wanted), "{wanted:?} in {table}");
    }
    let table = plan(&["--gpu", "a2000"]);
    assert!(table.contains("the largest that fits is qwen3-14b-q4_k_m") && table.contains("does not fit"), "{table}");
    // a file's own header
    let file = weights("smollm2-135m").join("smollm2-135m.gguf");
    let told = lines(&plan(&["--gpu", "a2000", "--model", file.to_str().unwrap(), "--context", "2048", "--json"])).remove(0);
    let p = &told["plans"][0];
    assert_eq!((p["parameters"].as_u64(), p["tier"].as_str()), (Some(134_515_008), Some("small")), "{p}");
    let bytes = std::fs::metadata(&file).unwrap().len();
    let seen = p["weights"].as_u64().unwrap();
    assert!(seen < bytes && seen > bytes * 95 / 100, "{seen} of {bytes}");
}
