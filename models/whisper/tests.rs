//! Whole models with random weights: shapes that no small published model has, and windows side by side.

use std::ops::ControlFlow;
use std::path::Path;

use dreamseed_kernels::Pool;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use super::decode::{Ask, Buffers, Decoder, Search};
use super::model::{Cross, EncoderState};
use super::{Options, Precision, Progress, Whisper, Windows};

/// Encoder positions: a window is 2 s.
const POSITIONS: usize = 100;
const VOCAB: usize = 267 + POSITIONS + 1;
const STATE: usize = 64;

/// A model of large-v3-turbo's kind: 128 mel bands, fewer layers in the decoder than in the encoder.
fn write_model(folder: &Path) {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut seed = 1u32;
    let mut add = |name: String, shape: &[usize], scale: f32, offset: f32| {
        let mut value = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((seed >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale + offset
        };
        let len: usize = shape.iter().product();
        let bytes = (0..len).flat_map(|_| value().to_le_bytes()).collect();
        tensors.push((name, shape.to_vec(), bytes));
    };
    let spread = |cols: usize| 1.7 / (cols as f32).sqrt();
    add("model.encoder.conv1.weight".into(), &[STATE, 128, 3], spread(384), 0.0);
    add("model.encoder.conv2.weight".into(), &[STATE, STATE, 3], spread(3 * STATE), 0.0);
    for i in [1, 2] {
        add(format!("model.encoder.conv{i}.bias"), &[STATE], 0.1, 0.0);
    }
    for (side, layers, positions) in [("encoder", 6, POSITIONS), ("decoder", 4, 64)] {
        add(format!("model.{side}.embed_positions.weight"), &[positions, STATE], 0.5, 0.0);
        let mut norm = |name: String| {
            add(format!("{name}.weight"), &[STATE], 0.2, 1.0);
            add(format!("{name}.bias"), &[STATE], 0.1, 0.0);
        };
        norm(format!("model.{side}.layer_norm"));
        for layer in 0..layers {
            let of = |part: &str| format!("model.{side}.layers.{layer}.{part}");
            norm(of("self_attn_layer_norm"));
            norm(of("final_layer_norm"));
            if side == "decoder" {
                norm(of("encoder_attn_layer_norm"));
            }
        }
        for layer in 0..layers {
            let of = |part: &str| format!("model.{side}.layers.{layer}.{part}");
            let kinds: &[&str] = if side == "decoder" { &["self_attn", "encoder_attn"] } else { &["self_attn"] };
            for kind in kinds {
                for part in ["q", "k", "v", "out"] {
                    add(of(&format!("{kind}.{part}_proj.weight")), &[STATE, STATE], spread(STATE), 0.0);
                    if part != "k" {
                        add(of(&format!("{kind}.{part}_proj.bias")), &[STATE], 0.1, 0.0);
                    }
                }
            }
            for (part, rows, cols) in [("fc1", 160, STATE), ("fc2", STATE, 160)] {
                add(of(&format!("{part}.weight")), &[rows, cols], spread(cols), 0.0);
                add(of(&format!("{part}.bias")), &[rows], 0.1, 0.0);
            }
        }
    }
    add("model.decoder.embed_tokens.weight".into(), &[VOCAB, STATE], 1.0, 0.0);
    let views =
        tensors.iter().map(|(n, shape, bytes)| (n.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    let config = json!({"encoder_attention_heads": 2, "decoder_attention_heads": 4, "activation_function": "gelu"});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let special = "<|endoftext|> <|startoftranscript|> <|en|> <|ko|> <|translate|> <|transcribe|> <|startoflm|> <|startofprev|> \
                   <|nospeech|> <|notimestamps|>";
    // the letters from U+0100 on stand for bytes that cannot be printed, as in GPT-2's vocabulary
    let letters = ('!'..='~').chain('\u{a1}'..='\u{ac}').chain('\u{ae}'..='\u{ff}').chain('\u{100}'..).take(256);
    let mut names: Vec<String> = letters.map(String::from).chain(["\u{120}so".into()]).collect();
    names.extend(special.split_whitespace().map(String::from));
    names.extend((0..=POSITIONS).map(|i| format!("<|{:.2}|>", i as f32 / 50.0)));
    std::fs::write(folder.join("vocabulary.json"), json!(names).to_string()).unwrap();
}

/// Bursts of a hum: it rises and falls as syllables do.
fn sound(seconds: usize) -> Vec<f32> {
    let loud = |i: usize| if (i / 2000).is_multiple_of(3) { 0.02 } else { 0.3 };
    (0..seconds * 16_000).map(|i| (i as f32 * (0.05 + (i / 16_000) as f32 * 0.01)).sin() * loud(i)).collect()
}

fn relative_error(seen: &[f32], wanted: &[f32]) -> f32 {
    let difference: f32 = seen.iter().zip(wanted).map(|(a, b)| (a - b) * (a - b)).sum();
    (difference / wanted.iter().map(|x| x * x).sum::<f32>()).sqrt()
}

#[test]
fn a_model_of_turbos_shape_runs_in_both_precisions() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let (pool, pcm) = (Pool::new(2), sound(7));
    let logits = [Precision::Stored, Precision::Int8].map(|precision| {
        let whisper = Whisper::open(folder.path(), &pool, precision).unwrap();
        let c = whisper.config();
        assert_eq!((c.n_mels, c.n_audio_layer, c.n_text_layer, c.n_audio_head, c.n_text_head), (128, 6, 4, 2, 4));
        assert!(whisper.languages().next().is_none(), "a vocabulary of this size is an English-only one");
        let mut encoder = EncoderState::default();
        let mel = whisper.mel.extract(&pool, &pcm[..2 * 16_000]);
        let mut cross = Cross::default();
        whisper.model.hear(&pool, &mel.data, &mut encoder, &mut cross).unwrap();
        let mut state = whisper.model.decoder_state(1).unwrap();
        for token in [258, 259, 262, 300, 97] {
            let row = state.push(token, 0, 0);
            state.want(row);
        }
        whisper.model.pass(&pool, &[cross], &mut state, None).unwrap();
        let options = Options {
            vad: false,
            word_timestamps: true,
            temperatures: vec![0.0],
            logprob_threshold: -99.0,
            ..Options::default()
        };
        let mut windows = 0;
        let count = &mut |p: Progress| {
            windows += usize::from(matches!(p, Progress::Encoded));
            ControlFlow::Continue(())
        };
        let heard = whisper.transcribe(&pool, &pcm, &options, count).unwrap();
        assert!(windows >= 4 && (heard.duration - 7.0).abs() < 1e-9, "{windows} windows");
        state.logits
    });
    assert!(logits[0].len() == 5 * VOCAB && logits[0].iter().all(|x| x.is_finite()));
    let error = relative_error(&logits[1], &logits[0]);
    assert!(error > 0.0 && error < 0.05, "{error}");
}

/// Windows with prompts of different lengths, whose texts end at different steps: greedy, beams and samples.
#[test]
fn windows_side_by_side_are_each_as_alone() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let (pool, pcm) = (Pool::new(2), sound(8));
    let whisper = Whisper::open(folder.path(), &pool, Precision::Int8).unwrap();
    let mut encoder = EncoderState::default();
    let audio = |pcm: &[f32]| {
        let mut cross = Cross::default();
        whisper.model.hear(&pool, &whisper.mel.extract(&pool, pcm).data, &mut encoder, &mut cross).unwrap();
        cross
    };
    let cross: Vec<Cross> = pcm.chunks(2 * 16_000).map(audio).collect();
    let history = |n: u32| [264].into_iter().chain(97..97 + n).chain([258, 259, 262]).collect::<Vec<u32>>();
    let prompts = [vec![258, 259, 262], history(3), history(25), vec![258, 260, 262, 266]];
    let asks: Vec<Ask> =
        prompts.into_iter().map(|prompt| Ask { start: prompt.iter().position(|id| *id == 258).unwrap(), prompt }).collect();
    for (beam_size, temperatures) in [(1, vec![0.0]), (4, vec![0.0]), (1, vec![0.8]), (3, vec![0.0, 0.5, 1.0])] {
        // a threshold in the middle: some windows are tried again, others are not
        let options = Options { beam_size, temperatures, logprob_threshold: -2.0, timestamps: true, ..Options::default() };
        let search: Search = options.search().unwrap();
        let decoder =
            |windows| Decoder::new(&whisper.model, &whisper.tokens, &pool, &search, windows, Buffers::default()).unwrap();
        let mut all = decoder(asks.len());
        let (mut steps, mut on_step) = (Vec::new(), |_: usize| ControlFlow::Continue(()));
        let mut count = |hypotheses: usize| {
            steps.push(hypotheses);
            ControlFlow::Continue(())
        };
        let together = all.windows(&cross, &asks, &mut count).unwrap().unwrap();
        // again in the same buffers
        let again = all.windows(&cross, &asks, &mut on_step).unwrap().unwrap();
        for (i, (seen, again)) in together.iter().zip(&again).enumerate() {
            let alone = decoder(1).windows(&cross[i..=i], &asks[i..=i], &mut on_step).unwrap().unwrap().remove(0);
            for other in [&alone, again] {
                assert_eq!(seen.tokens, other.tokens, "window {i}, beam {beam_size}");
                assert_eq!((seen.avg_logprob, seen.temperature), (other.avg_logprob, other.temperature));
                assert_eq!(seen.no_speech_prob, other.no_speech_prob);
            }
        }
        assert!(steps[0] >= asks.len() && together.iter().any(|o| !o.tokens.is_empty()), "{steps:?}");
        // a caller that says stop is heard in the middle of a window
        let mut left = 2;
        let stop = &mut |_: usize| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        assert!(steps.len() < 2 || all.windows(&cross, &asks, stop).unwrap().is_none());
    }
}

/// Stretches cut where it is soft are handed out in order of time, each within its own.
#[test]
fn segments_come_in_order_of_time() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let (pool, mut pcm) = (Pool::new(2), sound(23));
    for at in [3, 8, 9, 15] {
        pcm[at * 16_000 - 3000..at * 16_000 + 3000].fill(0.0);
    }
    let whisper = Whisper::open(folder.path(), &pool, Precision::Int8).unwrap();
    for windows in [Windows::Cut, Windows::Together, Windows::InTurn] {
        let temperatures = vec![0.0];
        let options = Options {
            windows,
            temperatures,
            vad: false,
            logprob_threshold: -99.0,
            compression_ratio_threshold: 99.0,
            ..Options::default()
        };
        let (mut told, mut most) = (Vec::new(), 0);
        let hear = &mut |p: Progress| {
            match p {
                Progress::Segment(segment) => told.push(segment.clone()),
                Progress::Step { hypotheses } => most = most.max(hypotheses),
                _ => {}
            }
            ControlFlow::Continue(())
        };
        let heard = whisper.transcribe(&pool, &pcm, &options, hear).unwrap();
        assert_eq!(heard.segments, told);
        assert!(told.len() > 2 && told.windows(2).all(|s| s[0].start <= s[1].start), "{told:?}");
        assert!(if windows == Windows::Cut { most > 4 } else { most == 1 }, "{most} side by side");
    }
}
