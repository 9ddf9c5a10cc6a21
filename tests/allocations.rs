//! A decode step and a run of a network allocate nothing, on no thread: what a CUDA graph replays must not either.

mod common;

use std::alloc::System;
use std::path::Path;

use common::{engine, weights};
use dreamseed_kernels::{KvType, Pool};
use dreamseed_models::decoder::{Decoder, Logits};
use dreamseed_models::graph::Network;
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
