//! A decode step (of a language model, and of Whisper) and a run of a network allocate nothing, on no thread: what a CUDA graph replays
//! must not either. A stream of speech keeps its buffers.

mod common;

use std::alloc::System;
use std::ops::ControlFlow;
use std::path::Path;

use common::{engine, weights};
use dreamseed_kernels::{KvType, Pool};
use dreamseed_models::decoder::{Decoder, Logits};
use dreamseed_models::graph::Network;
use dreamseed_models::whisper::{Options, Progress, Whisper};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

// One test: what another one allocates meanwhile would count.
#[test]
fn decode_steps_and_networks_allocate_nothing() {
    let llm = engine().llm(None).expect("the model");
    let folder = tempfile::tempdir().expect("a folder");
    write_mixture(folder.path());
    let mixture = Decoder::open(folder.path(), engine().pool()).expect("a mixture of experts");
    for kind in [KvType::F16, KvType::Q8_0] {
        steps_allocate_nothing(llm.decoder().unwrap(), engine().pool(), kind);
        steps_allocate_nothing(&mixture, engine().pool(), kind);
    }
    for id in ["blazepose-detector", "blazepose-full", "face-detector", "face-mesh"] {
        runs_allocate_nothing(id, engine().pool());
    }
    let whisper = engine().speech(Some("whisper-tiny.en")).expect("the model");
    // greedy, beams and samples
    for (beam_size, temperature) in [(1, 0.0), (5, 0.0), (1, 0.4)] {
        words_allocate_nothing(
            &whisper,
            engine().pool(),
            Options { beam_size, temperatures: vec![temperature], ..Options::default() },
        );
    }
    streams_keep_their_buffers(&whisper, engine().pool());
}

fn spoken() -> Vec<f32> {
    let limits = dreamseed::media::Limits::default();
    dreamseed::media::open_audio(&weights("sample-speech").join("jfk.wav"), &limits).expect("the sample")
}

/// Three windows side by side.
fn words_allocate_nothing(whisper: &Whisper, pool: &Pool, options: Options) {
    let (pcm, still) = (spoken(), vec![0.0; 3 * 16_000]);
    let pcm = [&pcm[..], &still, &pcm, &still, &pcm].concat();
    let mut worst = stats_alloc::Stats::default();
    // the first steps size each thread's scratch, and on a busy machine a thread may come late
    for _ in 0..20 {
        let (mut region, mut steps, mut most) = (None::<Region<System>>, 0, 0);
        worst = stats_alloc::Stats::default();
        let between = &mut |progress: Progress| {
            let Progress::Step { hypotheses } = progress else {
                region = None;
                return ControlFlow::Continue(());
            };
            if let Some(change) = region.take().map(|r| r.change()) {
                worst.allocations += change.allocations;
                worst.reallocations += change.reallocations;
                worst.deallocations += change.deallocations;
                steps += 1;
            }
            most = most.max(hypotheses);
            region = Some(Region::new(ALLOCATOR));
            ControlFlow::Continue(())
        };
        whisper.transcribe(pool, &pcm, &options, between).expect("a transcript");
        assert!(steps > 20 && most >= 3, "{steps} steps of {most}");
        if (worst.allocations, worst.reallocations, worst.deallocations) == (0, 0, 0) {
            return;
        }
    }
    panic!("steps of {options:?} allocate again and again: {worst:?}");
}

/// The states of the encoder and the decoder take far more than what a decoding may still ask for (features, alignment of words).
fn streams_keep_their_buffers(whisper: &Whisper, pool: &Pool) {
    const STATES: usize = 24 << 20;
    let pcm = [spoken(), vec![0.0; 2 * 16_000], spoken()].concat();
    let begin = Region::new(ALLOCATOR);
    let mut stream = whisper.stream(pool, &Options::default(), Default::default()).expect("a stream");
    let mut each = Vec::new();
    for piece in pcm.chunks(16_000) {
        let region = Region::new(ALLOCATOR);
        stream.push(piece).expect("events");
        each.push(region.change().bytes_allocated);
    }
    let all = begin.change().bytes_allocated;
    let later = each[3..].iter().max().copied().unwrap_or_default();
    assert!(later < STATES / 2, "{later} bytes for a decoding: {each:?}");
    assert!(all > STATES, "{all} bytes in all: the states were made outside of the stream");
}

fn runs_allocate_nothing(id: &str, pool: &Pool) {
    let files = std::fs::read_dir(weights(id)).expect("a folder").map(|f| f.expect("an entry").path());
    let file = files.into_iter().find(|f| f.extension().is_some_and(|e| e == "tflite")).expect("a network");
    let network = Network::open(&file).expect("a network");
    let mut session = network.session();
    let input: Vec<f32> = (0..network.inputs()[0].shape.iter().product()).map(|i| (i * 7919 % 199) as f32 / 199.0).collect();
    let mut change = stats_alloc::Stats::default();
    // The first runs size each thread's scratch, and on a busy machine a thread may come late.
    for _ in 0..20 {
        let region = Region::new(ALLOCATOR);
        for _ in 0..10 {
            session.run(pool, &[&input]).unwrap();
        }
        change = region.change();
        if (change.allocations, change.reallocations, change.deallocations) == (0, 0, 0) {
            return;
        }
    }
    panic!("{id}: ten runs allocate again and again: {change:?}");
}

fn steps_allocate_nothing(decoder: &Decoder, pool: &Pool, kind: KvType) {
    let token = |i: usize| (i * 7919 % decoder.config().vocab) as u32;
    let mut state = decoder.new_state_in(kind, 640);
    state.reserve(640);
    let prompt: Vec<u32> = (0..520).map(token).collect();
    decoder.forward(pool, &mut state, &prompt, Logits::Last).unwrap();
    // the first steps size each thread's scratch; which thread takes the largest piece is chance
    for i in 0..40 {
        decoder.forward(pool, &mut state, &[token(i)], Logits::Last).unwrap();
    }
    let region = Region::new(ALLOCATOR);
    for i in 0..80 {
        decoder.forward(pool, &mut state, &[token(i)], Logits::Last).unwrap();
    }
    let (change, family) = (region.change(), decoder.config().family);
    assert_eq!((change.allocations, change.reallocations, change.deallocations), (0, 0, 0), "{family:?} {kind:?}: {change:?}");
}

/// A small mixture of experts with arbitrary weights, as the hub stores them.
fn write_mixture(folder: &Path) {
    const DIM: usize = 64;
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        let len: usize = shape.iter().product();
        let value = |i: usize| ((i * 7919 + tensors.len() * 31) % 199) as f32 / 1990.0 - 0.05;
        let bytes = (0..len).flat_map(|i| value(i).to_le_bytes()).collect();
        tensors.push((name, shape.to_vec(), bytes));
    };
    for layer in 0..2 {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        for (part, rows, cols) in [("q", DIM, DIM), ("k", 32, DIM), ("v", 32, DIM), ("o", DIM, DIM)] {
            add(name(&format!("self_attn.{part}_proj")), &[rows, cols]);
        }
        for norm in ["q_norm", "k_norm"] {
            add(name(&format!("self_attn.{norm}")), &[16]);
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(name(norm), &[DIM]);
        }
        add(name("mlp.gate"), &[8, DIM]);
        for expert in 0..8 {
            for (part, shape) in [("gate", [96, DIM]), ("up", [96, DIM]), ("down", [DIM, 96])] {
                add(name(&format!("mlp.experts.{expert}.{part}_proj")), &shape);
            }
        }
    }
    add("model.norm.weight".into(), &[DIM]);
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        add(name.into(), &[300, DIM]);
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a tensor")));
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).expect("written");
    let config = json!({
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "vocab_size": 300, "hidden_size": DIM,
        "intermediate_size": 128, "moe_intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "num_experts": 8, "num_experts_per_tok": 3, "norm_topk_prob": true,
        "max_position_embeddings": 1024, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": false, "attention_bias": false,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("written");
}
