//! Models that lie, and models of kinds that are not run: refused by name, before anything is allocated for what they claim.

use serde_json::{Value, json};

use super::*;

/// `base` with fields replaced; null takes a field away.
fn config(base: Value, changes: Value) -> Result<Config, String> {
    let (Value::Object(mut base), Value::Object(changes)) = (base, changes) else { panic!("objects") };
    base.extend(changes);
    base.retain(|_, value| !value.is_null());
    Config::from_json(Value::Object(base).to_string().as_bytes()).map_err(|e| e.to_string())
}

fn base(kind: &str) -> Value {
    json!({
        "model_type": kind, "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
    })
}

fn refused(kind: &str, changes: Value) -> String {
    config(base(kind), changes).expect_err("must be refused")
}

#[test]
fn a_config_json_that_cannot_be_is_refused_by_field() {
    let scaled = |scaling: Value| refused("llama", json!({ "rope_scaling": scaling }));
    assert!(refused("mamba", json!({})).contains("\"mamba\"; this version runs llama, mistral"));
    assert!(refused("llama", json!({"hidden_size": null})).contains("hidden_size at byte 0: is missing"));
    assert!(refused("llama", json!({"hidden_size": -1})).contains("integer `-1`"));
    assert!(refused("llama", json!({"num_attention_heads": 0})).contains("a size of 0"));
    assert!(refused("llama", json!({"num_hidden_layers": 1u64 << 40})).contains("above 2^30"));
    assert!(refused("llama", json!({"rope_theta": 0.5})).contains("above 1"));
    assert!(
        refused("llama", json!({"rope_theta": 1e39, "rope_scaling": {"type": "linear", "factor": -2.0}})).contains("Linear")
    );
    assert!(refused("llama", json!({"hidden_act": "relu"})).contains("\"relu\""));
    assert!(refused("llama", json!({"partial_rotary_factor": 0.5})).contains("partial_rotary_factor 0.5"));
    assert!(scaled(json!({"type": "dynamic", "factor": 2.0})).contains("\"dynamic\"; default, linear"));
    assert!(scaled(json!({"rope_type": "linear"})).contains("rope_scaling.factor at byte 0: is missing"));
    assert!(scaled(json!({"rope_type": "yarn", "factor": 0.0})).contains("Yarn"));
    assert!(scaled(json!({"rope_type": "yarn", "factor": 2.0, "attention_factor": -1.0})).contains("magnitude"));
    assert!(scaled(json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0})).contains("original: 0"));
    assert!(
        scaled(json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}))
            .contains("Llama3")
    );
    let long = |short: usize, long: usize, original: usize| {
        let scaling = json!({"type": "longrope", "short_factor": vec![1.0; short], "long_factor": vec![2.0; long]});
        refused("phi3", json!({"rope_scaling": scaling, "original_max_position_embeddings": original}))
    };
    assert!(long(4, 5, 16).contains("4 and 5 factors of 4 pairs"));
    assert!(long(4, 4, 0).contains("original: 0") && long(4, 4, 1).contains("magnitude: inf"));
    assert!(refused("phi3", json!({"partial_rotary_factor": -0.5})).contains("0 of 8 dimensions turn"));
    assert!(refused("mistral", json!({"sliding_window": 0})).contains("a window of 0"));
    assert!(refused("gemma3", json!({"sliding_window_pattern": 0})).contains("every 0th layer"));
    assert!(refused("gemma3", json!({"layer_types": ["full_attention"]})).contains("1 layers of 4"));
    assert!(refused("qwen3", json!({"layer_types": ["linear_attention"]})).contains("\"linear_attention\""));
    assert!(refused("gemma3", json!({"attn_logit_softcapping": 50.0})).contains("attn_logit_softcapping 50"));
    assert!(refused("gemma3", json!({"use_bidirectional_attention": true})).contains("encoder"));
    assert!(refused("gemma3", json!({"query_pre_attn_scalar": -4.0})).contains("positive"));
    assert!(refused("gemma3", json!({"final_logit_softcapping": 0.0})).contains("positive"));
    assert!(Config::from_json(b"[1]").is_err() && Config::from_json(b"{\"model_type\": \"llama\"").is_err());
    assert!(Config::from_json(&[b"{\"rope_scaling\":".repeat(100_000), vec![b'}'; 100_000]].concat()).is_err());
}

#[test]
fn experts_that_cannot_be_are_refused_by_field() {
    let moe = |count: usize, used: usize, hidden: usize, step: usize| {
        let own = json!({"num_experts": count, "num_experts_per_tok": used, "moe_intermediate_size": hidden, "decoder_sparse_step": step});
        config(base("qwen3_moe"), own)
    };
    assert!(moe(8, 2, 24, 1).is_ok());
    assert!(moe(8, 9, 24, 1).unwrap_err().contains("9 of 8 experts"));
    assert!(moe(8, 0, 24, 1).unwrap_err().contains("0 of 8 experts"));
    assert!(moe(0, 0, 24, 1).unwrap_err().contains("0 experts"));
    assert!(moe(1 << 40, 1, 24, 1).unwrap_err().contains("1024 are allowed"));
    assert!(moe(8, 2, 0, 1).unwrap_err().contains("a size of 0"));
    assert!(moe(8, 2, 24, 0).unwrap_err().contains("0-th layer"));
    assert!(refused("qwen3_moe", json!({})).contains("num_experts at byte 0: is missing"));

    let with = |key: &str, value: u32| refusal(&model("qwen3moe", &SMALL).replaced_u32(&format!("qwen3moe.{key}"), value));
    assert!(with("expert_used_count", 6).contains("6 of 5 experts"));
    assert!(with("expert_used_count", 0).contains("is 0"));
    assert!(with("expert_count", 0).contains("0 experts"));
    assert!(with("expert_count", 1 << 20).contains("1024 are allowed"));
    assert!(with("expert_count", 1000).contains("blk.0.ffn_gate_inp.weight"));
    assert!(with("expert_count", 4).contains("ffn_gate_inp"));
    assert!(with("expert_feed_forward_length", 1 << 29).contains("_exps.weight"));
    for (key, value) in [("expert_shared_count", 1), ("expert_gating_func", 2), ("expert_group_count", 4)] {
        let writer = model("qwen3moe", &SMALL).u32(&format!("qwen3moe.{key}"), value);
        assert!(refusal(&writer).contains(&format!("{key} {value}")), "{key}");
    }
    assert!(refusal(&model("qwen3moe", &SMALL).f32("qwen3moe.expert_weights_scale", 2.5)).contains("expert_weights_scale 2.5"));
    assert!(refusal(&model("llama", &SMALL).replaced_u32("llama.expert_count", 8)).contains("8 experts in a model of llama"));
}

#[test]
fn metadata_that_cannot_be_are_refused_by_key() {
    let llama = || model("llama", &SMALL);
    let scaling =
        |kind: &str, factor: f32| llama().str("llama.rope.scaling.type", kind).f32("llama.rope.scaling.factor", factor);
    assert!(refusal(&scaling("linear", -2.0)).contains("Linear { factor: -2.0 }"));
    assert!(refusal(&scaling("yarn", -2.0)).contains("factor: -2.0"));
    assert!(refusal(&scaling("yarn", 2.0).u32("llama.rope.scaling.original_context_length", 0)).contains("original: 0"));
    assert!(refusal(&scaling("yarn", 2.0).f32("llama.rope.scaling.yarn_beta_slow", 40.0)).contains("slow: 40"));
    assert!(
        refusal(&scaling("yarn", 2.0).f32("llama.rope.scaling.yarn_log_multiplier", 0.1)).contains("yarn_log_multiplier 0.1")
    );
    assert!(refusal(&scaling("yarn", 2.0).f32("llama.rope.scaling.yarn_ext_factor", 0.5)).contains("yarn_ext_factor 0.5"));
    assert!(refusal(&scaling("dynamic", 2.0)).contains("\"dynamic\""));
    assert!(refusal(&scaling("longrope", 2.0)).contains("rope_factors_long"));
    let factors = |long: &[f32]| {
        let writer = model("phi3", &SMALL).tensor("rope_factors_short.weight", &[4], &[1.0; 4]);
        refusal(&writer.tensor("rope_factors_long.weight", &[long.len() as u64], long))
    };
    assert!(factors(&[1.0; 3]).contains("[3] (fastest first)"));
    assert!(factors(&[1.0, 2.0, -3.0, 4.0]).contains("one positive number"));
    assert!(refusal(&model("phi3", &SMALL).tensor("rope_factors_long.weight", &[4], &[1.0; 4])).contains("rope_factors_short"));
    assert!(refusal(&llama().tensor("rope_freqs.weight", &[4], &[1.0, 0.0, 1.0, 1.0])).contains("divisors"));
    assert!(refusal(&model("llama", &SMALL).replaced_u32("llama.attention.sliding_window", 0)).contains("a window of 0"));
    assert!(open(&model("phi3", &SMALL).replaced_u32("phi3.attention.sliding_window", 0)).unwrap().config().local.is_none());
    let pattern = "gemma3.attention.sliding_window_pattern";
    assert!(refusal(&model("gemma3", &SMALL).u32(pattern, 0)).contains("every 0th layer"));
    assert!(refusal(&model("gemma3", &SMALL).bools(pattern, &[true; 3])).contains("3 layers of 7"));
    assert!(refusal(&model("gemma3", &SMALL).str(pattern, "LLG")).contains("integer is needed"));
    for name in ["blk.3.attn_sinks.weight", "blk.3.ffn_norm.bias", "blk.3.ffn_up.scale"] {
        assert!(refusal(&llama().tensor(name, &[4], &[1.0; 4])).contains(name));
    }
    // joined tensors of another size
    let narrow = Size { kv_heads: 4, ..SMALL };
    assert!(refusal(&model("phi3", &narrow).replaced_u32("phi3.attention.head_count_kv", 2)).contains("attn_qkv"));
    assert!(refusal(&model("phi3", &SMALL).replaced_u32("phi3.feed_forward_length", 44)).contains("ffn_up"));
}

/// What configurations of real models say, in the forms in which model hubs have them.
#[test]
fn windows_and_rotations_are_read_as_each_family_means_them() {
    let read = |kind: &str, changes: Value| config(base(kind), changes).unwrap();
    let window = |c: Config| c.local.map(|l| (l.window, l.layers));
    assert_eq!(window(read("llama", json!({"sliding_window": 8}))), None);
    assert_eq!(window(read("mistral", json!({"sliding_window": 8}))), Some((8, Layers::All)));
    assert_eq!(window(read("mistral", json!({}))), Some((4096, Layers::All)));
    // a field that is null is given, and says "none"
    let null = r#"{"model_type":"mistral","vocab_size":50,"hidden_size":32,"intermediate_size":48,"num_hidden_layers":4,
        "num_attention_heads":4,"max_position_embeddings":64,"rms_norm_eps":1e-6,"sliding_window":null}"#;
    assert_eq!(window(Config::from_json(null.as_bytes()).unwrap()), None);
    assert_eq!(window(read("qwen2", json!({"sliding_window": 8, "use_sliding_window": false}))), None);
    let from = json!({"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 3});
    assert_eq!(window(read("qwen2", from)), Some((8, Layers::From(3))));
    assert_eq!(window(read("gemma3", json!({"sliding_window": 8}))), Some((8, Layers::AllBut(6))));
    let phi = read(
        "phi3",
        json!({"original_max_position_embeddings": 16, "partial_rotary_factor": 0.5, "rope_scaling": {
        "type": "su", "short_factor": [1.0, 1.0], "long_factor": [2.0, 4.0]}}),
    );
    let new = read(
        "phi3",
        json!({"original_max_position_embeddings": 16, "rope_parameters": {"rope_type": "longrope",
        "partial_rotary_factor": 0.5, "short_factor": [1.0, 1.0], "long_factor": [2.0, 4.0]}}),
    );
    assert_eq!((phi.rope.dims, &phi.local, &phi), (4, &None, &new));
    assert!(matches!(phi.rope.scaling, crate::layers::rope::Scaling::Long { original: 16, .. }));
    // Gemma 3 that sees: the part for text, with what it leaves out
    let text = json!({"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
        "sliding_window": 1024, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}});
    let seeing = json!({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}});
    let gemma = Config::from_json(seeing.to_string().as_bytes()).unwrap();
    assert_eq!((gemma.vocab, gemma.heads, gemma.kv_heads, gemma.head_dim, gemma.tied), (262_208, 8, 4, 256, true));
    assert_eq!(gemma.rope.scaling, crate::layers::rope::Scaling::Linear { factor: 8.0 });
    let local = gemma.local.unwrap();
    assert_eq!(
        (local.window, local.rope.map(|r| (r.base, r.scaling))),
        (1024, Some((1e4, crate::layers::rope::Scaling::None)))
    );
}
