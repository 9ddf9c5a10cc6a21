//! Small random models that see, in the two files that llama.cpp's converter writes: language model and mmproj.

use std::path::{Path, PathBuf};

use dreamseed_kernels::BlockType;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use writer::Writer;

#[allow(dead_code)] // the tests of the reader use all of it
#[path = "../../models/weights/gguf/writer.rs"]
mod writer;

/// A family of models that see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Gemma3,
    Qwen3Vl,
}

/// The kinds of tensors that these files have, for the writer.
fn block_type(id: u32) -> Option<BlockType> {
    (id == 0).then_some(BlockType::F32)
}

/// Repeatable values in -1..1.
pub(crate) fn noise(n: usize, seed: &str) -> Vec<f32> {
    let mut state = seed.bytes().fold(0x9E37_79B9u32, |s, b| (s ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Writes tensors (name, shape, values) as transformers does.
pub(crate) fn save(folder: &Path, tensors: Vec<(String, Vec<usize>, Vec<f32>)>) {
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let data: Vec<_> = tensors.iter().map(|t| bytes(&t.2)).collect();
    let view = |shape: &[usize], data| TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap();
    let views: Vec<_> = tensors.iter().zip(&data).map(|(t, data)| (t.0.as_str(), view(&t.1, data))).collect();
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Shape of a tensor, and scale and offset of its values.
type Rule = (Vec<usize>, f32, f32);

/// Writes a model that golden outputs were made with, as transformers does; `change` sees config.json and each tensor's name and rule.
pub(crate) fn golden(name: &str, folder: &Path, change: impl Fn(&mut Value, &str, &mut Rule)) {
    let cases = include_str!("../../models/vision/golden/cases.json");
    let mut case = serde_json::from_str::<Value>(cases).unwrap()[name].take();
    let (mut config, rules) = (case["config"].take(), case["tensors"].as_object().unwrap());
    let tensors = rules.iter().map(|(name, rule)| {
        let mut rule = serde_json::from_value::<Rule>(rule.clone()).unwrap();
        change(&mut config, name, &mut rule);
        let (shape, scale, offset) = rule;
        let values = noise(shape.iter().product(), name).iter().map(|v| offset + scale * v).collect();
        (name.clone(), shape, values)
    });
    save(folder, tensors.collect());
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// Adds a tensor (fastest dimension first) whose values keep the size of what goes through it.
fn add(w: &mut Writer, name: &str, dims: &[u64]) {
    let (n, cols) = (dims.iter().product::<u64>() as usize, dims[0] as f32);
    let (offset, scale) = match name {
        _ if name.ends_with("bias") => (0.0, 0.1),
        _ if dims.len() == 1 => (1.0, 0.25),
        "token_embd.weight" => (0.0, 1.0),
        _ => (0.0, (3.0 / cols).sqrt()),
    };
    let values: Vec<f32> = noise(n, name).iter().map(|v| offset + scale * v).collect();
    *w = std::mem::take(w).tensor(name, dims, &values);
}

const DIM: u64 = 32;

impl Kind {
    /// The token whose place a picture's rows take.
    pub(crate) fn row(self) -> &'static str {
        match self {
            Self::Gemma3 => "<image_soft_token>",
            Self::Qwen3Vl => "<|image_pad|>",
        }
    }

    fn template(self) -> &'static str {
        match self {
            Self::Gemma3 => {
                "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n\
                 {{ m['content'] | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
            }
            Self::Qwen3Vl => {
                "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}\
                 {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
            }
        }
    }

    /// Names and types (GGUF's numbers) of the tokens.
    fn vocabulary(self) -> (Vec<String>, Vec<i32>) {
        let named = |names: &[&str], kind: i32| names.iter().map(|n| ((*n).to_owned(), kind)).collect::<Vec<_>>();
        let all = match self {
            Self::Gemma3 => [
                named(&["<pad>", "<eos>", "<bos>"], 3),
                named(&["<unk>"], 2),
                (0..256).map(|b| (format!("<0x{b:02X}>"), 6)).collect(),
                named(&["▁", "a", "e", "t", "▁a"], 1),
                named(&["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"], 3),
            ]
            .concat(),
            Self::Qwen3Vl => {
                // GPT-2's characters for bytes: those that print stand for themselves
                let prints = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
                let others = (0..256).filter(|b| !prints(*b)).zip(256..);
                let byte = |b: u32| if prints(b) { b } else { others.clone().find(|o| o.0 == b).unwrap().1 };
                let bytes = (0..256).map(|b| (char::from_u32(byte(b)).unwrap().to_string(), 1)).collect();
                let marks =
                    ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"];
                [bytes, named(&["he"], 1), named(&marks, 3)].concat()
            }
        };
        all.into_iter().unzip()
    }

    fn tokenizer(self) -> (Writer, u64) {
        let (tokens, types) = self.vocabulary();
        let id = |name: &str| tokens.iter().position(|t| t == name).unwrap() as u32;
        let w = Writer::default()
            .strs("tokenizer.ggml.tokens", &tokens)
            .i32s("tokenizer.ggml.token_type", &types)
            .str("tokenizer.chat_template", self.template());
        let w = match self {
            Self::Gemma3 => w
                .str("tokenizer.ggml.model", "llama")
                .f32s("tokenizer.ggml.scores", &(0..tokens.len()).map(|i| -(i as f32)).collect::<Vec<_>>())
                .bool("tokenizer.ggml.add_space_prefix", false)
                .u32("tokenizer.ggml.bos_token_id", id("<bos>"))
                .u32("tokenizer.ggml.eos_token_id", id("<eos>")),
            Self::Qwen3Vl => w
                .str("tokenizer.ggml.model", "gpt2")
                .str("tokenizer.ggml.pre", "qwen2")
                .strs("tokenizer.ggml.merges", &["h e"])
                .bool("tokenizer.ggml.add_bos_token", false)
                .u32("tokenizer.ggml.eos_token_id", id("<|im_end|>")),
        };
        (w, tokens.len() as u64)
    }

    /// The language model.
    fn decoder(self) -> Writer {
        let (arch, (mut w, vocabulary)) = (if self == Self::Gemma3 { "gemma3" } else { "qwen3vl" }, self.tokenizer());
        let key = |name: &str| format!("{arch}.{name}");
        w = w.str("general.architecture", arch);
        for (name, value) in [
            ("block_count", 3),
            ("context_length", 512),
            ("embedding_length", DIM as u32),
            ("feed_forward_length", 48),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("attention.key_length", 16),
            ("attention.value_length", 16),
        ] {
            w = w.u32(&key(name), value);
        }
        w = w.f32(&key("attention.layer_norm_rms_epsilon"), 1e-6).f32(&key("rope.freq_base"), 10_000.0);
        w = match self {
            Self::Gemma3 => w.u32(&key("attention.sliding_window"), 16).u32(&key("attention.sliding_window_pattern"), 2),
            Self::Qwen3Vl => w.i32s(&key("rope.dimension_sections"), &[4, 2, 2, 0]).u32(&key("n_deepstack_layers"), 2),
        };
        add(&mut w, "token_embd.weight", &[DIM, vocabulary]);
        add(&mut w, "output_norm.weight", &[DIM]);
        for layer in 0..3 {
            let mut part = |name: &str, dims: &[u64]| add(&mut w, &format!("blk.{layer}.{name}.weight"), dims);
            part("attn_q", &[DIM, 64]);
            part("attn_k", &[DIM, 32]);
            part("attn_v", &[DIM, 32]);
            part("attn_output", &[64, DIM]);
            part("ffn_gate", &[DIM, 48]);
            part("ffn_up", &[DIM, 48]);
            part("ffn_down", &[48, DIM]);
            ["attn_q_norm", "attn_k_norm"].iter().for_each(|name| part(name, &[16]));
            ["attn_norm", "ffn_norm"].iter().for_each(|name| part(name, &[DIM]));
            if self == Self::Gemma3 {
                ["post_attention_norm", "post_ffw_norm"].iter().for_each(|name| part(name, &[DIM]));
            }
        }
        w
    }

    /// Width, patch and layers of the vision tower.
    fn tower(self) -> (u64, u64, u32) {
        if self == Self::Gemma3 { (24, 6, 2) } else { (32, 8, 3) }
    }

    /// What the mmproj file says of itself.
    fn sight(self) -> Writer {
        let (gemma, (dim, patch, blocks)) = (self == Self::Gemma3, self.tower());
        let mut w = Writer::default()
            .str("general.architecture", "clip")
            .str("clip.projector_type", if gemma { "gemma3" } else { "qwen3vl_merger" })
            .bool("clip.use_gelu", true)
            .f32("clip.vision.attention.layer_norm_epsilon", 1e-6)
            .f32s("clip.vision.image_mean", &[0.5; 3])
            .f32s("clip.vision.image_std", &[0.5; 3]);
        for (name, value) in [
            ("projection_dim", DIM as u32),
            ("image_size", 48),
            ("patch_size", patch as u32),
            ("embedding_length", dim as u32),
            ("feed_forward_length", 40),
            ("block_count", blocks),
            ("attention.head_count", 2),
        ] {
            w = w.u32(&format!("clip.vision.{name}"), value);
        }
        match self {
            Self::Gemma3 => w.u32("clip.vision.projector.scale_factor", 2),
            Self::Qwen3Vl => w
                .u32("clip.vision.spatial_merge_size", 2)
                .u32("clip.vision.image_min_pixels", 256)
                .bools("clip.vision.is_deepstack_layers", &[true, true, false]),
        }
    }

    /// Vision tower and projector: Gemma's makes 16 rows of a picture, Qwen's one of 16 x 16 pixels.
    fn mmproj(self) -> Writer {
        let (mut w, (dim, patch, blocks)) = (self.sight(), self.tower());
        let mut linear = |name: &str, dims: &[u64]| {
            add(&mut w, &format!("{name}.weight"), dims);
            add(&mut w, &format!("{name}.bias"), &[dims[dims.len() - 1]]);
        };
        linear("v.patch_embd", &[patch, patch, 3, dim]);
        linear("v.post_ln", &[dim]);
        for i in 0..blocks {
            let of = |part: &str| format!("v.blk.{i}.{part}");
            match self {
                Self::Gemma3 => ["attn_q", "attn_k", "attn_v"].iter().for_each(|p| linear(&of(p), &[dim, dim])),
                Self::Qwen3Vl => linear(&of("attn_qkv"), &[dim, 3 * dim]),
            }
            linear(&of("attn_out"), &[dim, dim]);
            linear(&of("ffn_up"), &[dim, 40]);
            linear(&of("ffn_down"), &[40, dim]);
            ["ln1", "ln2"].iter().for_each(|p| linear(&of(p), &[dim]));
        }
        if self == Self::Qwen3Vl {
            let wide = 4 * dim;
            linear("mm.0", &[wide, wide]);
            linear("mm.2", &[wide, DIM]);
            for i in 0..2 {
                let of = |part: &str| format!("v.deepstack.{i}.{part}");
                linear(&of("norm"), &[wide]);
                linear(&of("fc1"), &[wide, wide]);
                linear(&of("fc2"), &[wide, DIM]);
            }
            add(&mut w, "v.patch_embd.weight.1", &[patch, patch, 3, dim]);
        } else {
            add(&mut w, "mm.input_projection.weight", &[DIM, dim]);
            add(&mut w, "mm.soft_emb_norm.weight", &[dim]);
        }
        add(&mut w, "v.position_embd.weight", &[dim, (48 / patch) * (48 / patch)]);
        w
    }

    /// Writes the two files: the projector is not called mmproj, so that nobody finds it by its name.
    pub(crate) fn write(self, folder: &Path) -> [PathBuf; 2] {
        let files = ["model.gguf", "sight.gguf"].map(|name| folder.join(name));
        std::fs::write(&files[0], self.decoder().bytes()).unwrap();
        std::fs::write(&files[1], self.mmproj().bytes()).unwrap();
        files
    }
}
