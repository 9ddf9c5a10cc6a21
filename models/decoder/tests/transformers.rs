//! Logits of small random models of every family and every rotary scaling, by HF transformers: tests/golden/make_decoder.py made
//! them. The models' weights are made here by the rule given there, and each model is run from both of its forms: a folder as
//! transformers saves it, and GGUF as llama.cpp's converter writes it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
use crate::layers::rope::Scaling;

/// Largest difference over largest value, with keys and values in f32. Measured are 3e-6 at most.
const ALLOWED: f32 = 2e-5;

/// A model: its config.json, the shape, scale and offset of each tensor, and the tokens it was run on.
#[derive(serde::Deserialize)]
pub(crate) struct Case {
    pub(crate) config: Value,
    #[serde(default)]
    prompt: Vec<u32>,
    pub(crate) tensors: BTreeMap<String, (Vec<usize>, f32, f32)>,
    /// Of the decoder's tensors, in a model that sees.
    #[serde(default)]
    pub(crate) prefix: String,
}

impl Case {
    pub(crate) fn config(&self) -> Config {
        Config::from_json(self.config.to_string().as_bytes()).unwrap()
    }

    pub(crate) fn values(&self, name: &str) -> Vec<f32> {
        let (shape, scale, offset) = &self.tensors[name];
        noise(shape.iter().product::<usize>() as u64, name).into_iter().map(|v| offset + scale * v).collect()
    }

    /// As transformers saves it.
    pub(crate) fn folder(&self) -> tempfile::TempDir {
        self.folder_as(&self.config, str::to_owned)
    }

    /// With another config.json and other names of tensors.
    fn folder_as(&self, config: &Value, rename: impl Fn(&str) -> String) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<(&String, Vec<u8>)> =
            self.tensors.keys().map(|name| (name, self.values(name).iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
        let views = bytes.iter().map(|(name, bytes)| {
            let shape = self.tensors[*name].0.clone();
            (rename(name), ::safetensors::tensor::TensorView::new(::safetensors::Dtype::F32, shape, bytes).unwrap())
        });
        std::fs::write(folder.path().join("model.safetensors"), ::safetensors::serialize(views, None).unwrap()).unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        folder
    }

    /// As llama.cpp's converter writes it; `None` for what GGUF cannot say.
    pub(crate) fn gguf(&self) -> Option<Writer> {
        let config = self.config();
        let mut w = metadata(&config)?;
        let mut add = |name: &str, from: &[String]| {
            let Some((shape, ..)) = from.first().and_then(|hf| self.tensors.get(hf)) else { return };
            let mut values: Vec<f32> = from.iter().flat_map(|hf| self.values(hf)).collect();
            if shape.len() == 1 && name.contains("norm") {
                values.iter_mut().for_each(|v| *v += config.norm_offset);
            }
            if matches!(config.family, Family::Llama | Family::Mistral)
                && (name.contains("attn_q.") || name.contains("attn_k."))
            {
                values = interleaved(&values, config.head_dim, shape.get(1).copied().unwrap_or(1));
            }
            let mut dims: Vec<u64> = shape.iter().rev().map(|n| *n as u64).collect();
            if from.len() > 1 {
                dims.push(from.len() as u64);
            }
            w = std::mem::take(&mut w).tensor(name, &dims, &values);
        };
        let hf = |name: &str| files::hf_name(name, &self.prefix, config.norm_offset != 0.0);
        for name in ["token_embd.weight", "output_norm.weight", "output.weight"] {
            add(name, &hf(name).into_iter().collect::<Vec<_>>());
        }
        for layer in 0..config.layers {
            for (part, suffix) in files::HF_NAMES.iter().flat_map(|n| [(n.0, "weight"), (n.0, "bias")]) {
                let name = |part: &str| format!("blk.{layer}.{part}.{suffix}");
                // GGUF names the joined gate and up of Phi 3 like up alone.
                let gguf = if part == "ffn_gate_up" { name("ffn_up") } else { name(part) };
                add(&gguf, &hf(&name(part)).into_iter().collect::<Vec<_>>());
                let stacked = format!("{part}_exps");
                let experts = 0..config.experts.as_ref().map_or(0, |e| e.count);
                add(&name(&stacked), &experts.filter_map(|e| hf(&name(&format!("{stacked}.{e}")))).collect::<Vec<_>>());
            }
        }
        Some(w)
    }
}

/// Rows of each head in the order that the rotation of neighbours needs.
fn interleaved(values: &[f32], head_dim: usize, cols: usize) -> Vec<f32> {
    let half = head_dim / 2;
    let order = |row: usize| row / head_dim * head_dim + row % head_dim % 2 * half + row % head_dim / 2;
    (0..values.len() / cols).flat_map(|row| values[order(row) * cols..][..cols].to_vec()).collect()
}

/// The metadata of a model, and the tensors that belong to its rotation.
fn metadata(config: &Config) -> Option<Writer> {
    let arch = match config.family {
        Family::Llama | Family::Mistral => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 if config.sections.is_some() => "qwen3vl",
        Family::Qwen3 => "qwen3",
        Family::Qwen3Moe => "qwen3moe",
        Family::Gemma3 => "gemma3",
        Family::Phi3 => "phi3",
    };
    let key = |name: &str| format!("{arch}.{name}");
    let mut w = Writer::default().str("general.architecture", arch);
    for (name, value) in [
        ("block_count", config.layers),
        ("context_length", config.context),
        ("embedding_length", config.dim),
        ("feed_forward_length", config.hidden),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.rope.dims),
    ] {
        w = w.u32(&key(name), value as u32);
    }
    w = w.f32(&key("attention.layer_norm_rms_epsilon"), config.eps).f32(&key("rope.freq_base"), config.rope.base as f32);
    if let Some([t, h, width]) = config.sections {
        w = w.i32s(&key("rope.dimension_sections"), &[t as i32, h as i32, width as i32, 0]);
        w = w.u32(&key("n_deepstack_layers"), config.deepstack as u32);
    }
    if let Some(cap) = config.logit_softcap {
        w = w.f32(&key("final_logit_softcapping"), cap);
    }
    if let Some(Experts { count, used, hidden, renormalise, step, dense }) = &config.experts {
        if *step > 1 || !dense.is_empty() {
            return None;
        }
        w = w.u32(&key("expert_count"), *count as u32).u32(&key("expert_used_count"), *used as u32);
        w = w.u32(&key("expert_feed_forward_length"), *hidden as u32).bool(&key("expert_weights_norm"), *renormalise);
    }
    if let Some(local) = &config.local {
        w = w.u32(&key("attention.sliding_window"), local.window as u32);
        let pattern = key("attention.sliding_window_pattern");
        w = match &local.layers {
            Layers::All => w,
            Layers::AllBut(n) => w.u32(&pattern, *n as u32),
            other => w.bools(&pattern, &(0..config.layers).map(|layer| other.contains(layer)).collect::<Vec<_>>()),
        };
        if let Some(rope) = &local.rope {
            w = w.f32(&key("rope.freq_base_swa"), rope.base as f32);
        }
    }
    scaling(w, &key("rope.scaling"), &config.rope)
}

fn scaling(w: Writer, key: &str, rope: &crate::layers::rope::Rope) -> Option<Writer> {
    let key = |name: &str| format!("{key}.{name}");
    let pairs = [rope.dims as u64 / 2];
    Some(match &rope.scaling {
        Scaling::None => w,
        Scaling::Linear { factor } => w.str(&key("type"), "linear").f32(&key("factor"), *factor as f32),
        Scaling::Llama3 { .. } => {
            let plain = crate::layers::rope::Rope { scaling: Scaling::None, ..rope.clone() }.frequencies(0).radians;
            let scaled = rope.frequencies(0).radians;
            let divisors: Vec<f32> = plain.iter().zip(&scaled).map(|(p, s)| (p / s) as f32).collect();
            w.tensor("rope_freqs.weight", &pairs, &divisors)
        }
        Scaling::Yarn { whole: false, .. } => return None,
        Scaling::Yarn { factor, original, fast, slow, magnitude, .. } => w
            .str(&key("type"), "yarn")
            .f32(&key("factor"), *factor as f32)
            .u32(&key("original_context_length"), *original as u32)
            .f32(&key("yarn_attn_factor"), *magnitude as f32)
            .f32(&key("yarn_beta_fast"), *fast as f32)
            .f32(&key("yarn_beta_slow"), *slow as f32),
        Scaling::Long { original, short, long, magnitude } => w
            .u32(&key("original_context_length"), *original as u32)
            .f32(&key("attn_factor"), *magnitude as f32)
            .tensor("rope_factors_short.weight", &pairs, short)
            .tensor("rope_factors_long.weight", &pairs, long),
    })
}

fn logits(decoder: &Decoder, prompt: &[u32]) -> Vec<f32> {
    let mut state = decoder.new_state_in(KvType::F32, prompt.len());
    decoder.forward(&Pool::new(2), &mut state, prompt, Logits::All).unwrap().to_vec()
}

fn cases() -> (BTreeMap<String, Case>, safetensors::File) {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/decoder/golden"));
    let cases = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    (cases, safetensors::File::open(&folder.join("logits.safetensors")).unwrap())
}

#[test]
fn every_family_and_scaling_equals_transformers_from_both_forms() {
    let (cases, golden) = cases();
    let pool = Pool::new(2);
    let mut worst = Vec::new();
    for (name, case) in &cases {
        let wanted = golden.tensor(name).unwrap().values.into_f32();
        let folder = case.folder();
        let error = apart(&wanted, &logits(&Decoder::open(folder.path(), &pool).unwrap(), &case.prompt));
        worst.push((error, format!("{name} from a folder")));
        if let Some(writer) = case.gguf() {
            let decoder = open(&writer).unwrap_or_else(|e| panic!("{name}: {e}"));
            worst.push((apart(&wanted, &logits(&decoder, &case.prompt)), format!("{name} from GGUF")));
        }
    }
    worst.sort_by(|a, b| b.0.total_cmp(&a.0));
    assert!(worst.len() == 2 * cases.len() - 2 && worst[0].0 < ALLOWED, "allowed are {ALLOWED}: {worst:#?}");
}

#[test]
fn the_part_for_text_of_a_model_that_sees_is_read() {
    let (cases, _) = cases();
    let (case, pool) = (&cases["llama"], Pool::new(1));
    let alone = logits(&Decoder::open(case.folder().path(), &pool).unwrap(), &case.prompt);
    let config = serde_json::json!({"model_type": "llava", "text_config": case.config, "vision_config": {"hidden_size": 8}});
    let old = |name: &str| format!("language_model.{name}");
    let new = |name: &str| match name.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None => name.into(),
    };
    for rename in [&old as &dyn Fn(&str) -> String, &new] {
        let folder = case.folder_as(&config, rename);
        assert_eq!(logits(&Decoder::open(folder.path(), &pool).unwrap(), &case.prompt), alone);
    }
}

/// The golden logits would not equal those of a model without its scaling, its window or its way of weighting experts: the
/// prompts are long enough for each to matter.
#[test]
fn what_a_family_has_of_its_own_shows_in_the_logits() {
    type Change = fn(&mut Config);
    let (cases, golden) = cases();
    let pool = Pool::new(2);
    let changes: [(&str, Change); 5] = [
        ("scaling", |c| c.rope.scaling = Scaling::None),
        ("magnitude", |c| match &mut c.rope.scaling {
            Scaling::Yarn { magnitude, .. } | Scaling::Long { magnitude, .. } => *magnitude = 1.0,
            _ => {}
        }),
        ("window", |c| {
            if let Some(local) = &mut c.local {
                local.window += 1;
            }
        }),
        ("layers of the window", |c| {
            if let Some(local) = &mut c.local {
                local.layers = if local.layers == Layers::All { Layers::AllBut(1) } else { Layers::All };
            }
        }),
        ("weights of experts", |c| {
            if let Some(experts) = &mut c.experts {
                experts.renormalise ^= true;
            }
        }),
    ];
    let mut seen = BTreeMap::<&str, usize>::new();
    for (name, case) in &cases {
        let wanted = golden.tensor(name).unwrap().values.into_f32();
        let folder = case.folder();
        for (what, change) in changes {
            let mut config = case.config();
            change(&mut config);
            if config == case.config() {
                continue;
            }
            *seen.entry(what).or_default() += 1;
            let decoder = Decoder::new(config, &Files::hf(folder.path()).unwrap(), &pool).unwrap();
            let error = apart(&wanted, &logits(&decoder, &case.prompt));
            assert!(error > 5.0 * ALLOWED, "{name} with another {what} is only {error} away");
        }
    }
    assert_eq!(seen.into_values().collect::<Vec<_>>(), [5, 6, 9, 2, 5]);
}
