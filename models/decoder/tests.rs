mod formats;
mod hostile;
pub(crate) mod reference;
pub(crate) mod transformers;

use std::path::PathBuf;

use dreamseed_kernels::{BlockType, KvStore, KvType};

use super::*;
use crate::weights::{gguf::writer::Writer, safetensors};

fn golden(name: &str) -> Option<PathBuf> {
    let base = std::env::var_os("DREAMSEED_REFERENCE").map(PathBuf::from);
    let base = base.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/reference")));
    let path = base.join("golden").join(name);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
    }
    path.exists().then_some(path)
}

fn integers(file: &safetensors::File, name: &str) -> Vec<u32> {
    let bytes = file.bytes(name).unwrap();
    bytes.chunks(8).map(|b| u32::try_from(i64::from_le_bytes(b.try_into().unwrap())).unwrap()).collect()
}

pub(crate) fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

/// Largest difference over the largest value.
pub(crate) fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
fn equals_transformers() {
    // Keys and values in f16 alone are 3.6e-4 (llama) and 6.8e-4 (qwen3) away.
    for name in ["llama", "qwen3"] {
        let Some(path) = golden(name) else { continue };
        let pool = Pool::new(2);
        let decoder = Decoder::open(&path, &pool).unwrap();
        let file = safetensors::File::open(&path.join("golden.safetensors")).unwrap();
        let prompt = integers(&file, "in.input_ids");
        let wanted = file.tensor("out.logits").unwrap().values.into_f32();
        let mut state = decoder.new_state_in(KvType::F32, 64);
        let logits = decoder.forward(&pool, &mut state, &prompt, Logits::All).unwrap();
        let error = apart(&wanted, logits);
        assert!(error < 1e-4, "{name}: {error}");
        let mut tokens = prompt.clone();
        let mut next = argmax(&logits[logits.len() - decoder.config().vocab..]);
        let greedy = integers(&file, "out.greedy");
        while tokens.len() < greedy.len() {
            tokens.push(next);
            next = argmax(decoder.forward(&pool, &mut state, &[next], Logits::Last).unwrap());
        }
        assert_eq!(tokens, greedy, "{name}");
    }
}

pub(crate) struct Size {
    pub(crate) dim: u64,
    pub(crate) hidden: u64,
    pub(crate) heads: u64,
    pub(crate) kv_heads: u64,
    pub(crate) head_dim: u64,
    pub(crate) vocab: u64,
    pub(crate) layers: u32,
}

const SMALL: Size = Size { dim: 24, hidden: 40, heads: 4, kv_heads: 2, head_dim: 8, vocab: 50, layers: 7 };

/// Repeatable values in -1..1.
pub(crate) fn noise(n: u64, seed: &str) -> Vec<f32> {
    let mut state = seed.bytes().fold(0x9E37_79B9u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

const EXPERTS: u64 = 5;

/// A sound random model of a family.
pub(crate) fn model(arch: &str, s: &Size) -> Writer {
    let key = |name: &str| format!("{arch}.{name}");
    let mut w = Writer::default()
        .str("general.architecture", arch)
        .u32(&key("block_count"), s.layers)
        .u32(&key("context_length"), 64)
        .u32(&key("embedding_length"), s.dim as u32)
        .u32(&key("feed_forward_length"), s.hidden as u32)
        .u32(&key("attention.head_count"), s.heads as u32)
        .u32(&key("attention.head_count_kv"), s.kv_heads as u32)
        .u32(&key("attention.key_length"), s.head_dim as u32)
        .u32(&key("attention.sliding_window"), 5)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-6)
        .u32(&key("expert_count"), if arch == "qwen3moe" { EXPERTS as u32 } else { 0 })
        .u32(&key("expert_used_count"), 2)
        .u32(&key("expert_feed_forward_length"), s.hidden as u32)
        .tensor("token_embd.weight", &[s.dim, s.vocab], &noise(s.dim * s.vocab, "embedding"))
        .tensor("output_norm.weight", &[s.dim], &noise(s.dim, "norm"));
    for layer in 0..s.layers {
        let mut add = |part: &str, dims: &[u64]| {
            let name = format!("blk.{layer}.{part}");
            let values = noise(dims.iter().product(), &name);
            w = std::mem::take(&mut w).tensor(&name, dims, &values);
        };
        let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
        let separate = [("attn_q", [s.dim, q]), ("attn_k", [s.dim, kv]), ("attn_v", [s.dim, kv]), ("attn_output", [q, s.dim])];
        let joined = [("attn_qkv", [s.dim, q + 2 * kv]), ("attn_output", [q, s.dim])];
        for &(part, dims) in if arch == "phi3" { &joined[..] } else { &separate } {
            add(&format!("{part}.weight"), &dims);
            if arch == "qwen2" && part != "attn_output" {
                add(&format!("{part}.bias"), &dims[1..]);
            }
        }
        if arch == "qwen3moe" {
            add("ffn_gate_inp.weight", &[s.dim, EXPERTS]);
            add("ffn_gate_exps.weight", &[s.dim, s.hidden, EXPERTS]);
            add("ffn_up_exps.weight", &[s.dim, s.hidden, EXPERTS]);
            add("ffn_down_exps.weight", &[s.hidden, s.dim, EXPERTS]);
        } else if arch == "phi3" {
            add("ffn_up.weight", &[s.dim, 2 * s.hidden]);
            add("ffn_down.weight", &[s.hidden, s.dim]);
        } else {
            add("ffn_gate.weight", &[s.dim, s.hidden]);
            add("ffn_up.weight", &[s.dim, s.hidden]);
            add("ffn_down.weight", &[s.hidden, s.dim]);
        }
        add("attn_norm.weight", &[s.dim]);
        add("ffn_norm.weight", &[s.dim]);
        if matches!(arch, "qwen3" | "qwen3moe" | "gemma3") {
            add("attn_q_norm.weight", &[s.head_dim]);
            add("attn_k_norm.weight", &[s.head_dim]);
        }
        if arch == "gemma3" {
            add("post_attention_norm.weight", &[s.dim]);
            add("post_ffw_norm.weight", &[s.dim]);
        }
    }
    w
}

pub(crate) fn open(writer: &Writer) -> WeightsResult<Decoder> {
    let (_dir, path) = writer.file();
    Decoder::open(&path, &Pool::new(2))
}

fn refusal(writer: &Writer) -> String {
    open(writer).err().map(|e| e.to_string()).expect("must be refused")
}

#[test]
fn one_pass_equals_token_by_token_and_any_number_of_threads() {
    let (pool, single) = (Pool::new(2), Pool::new(1));
    let archs = ["llama", "qwen2", "qwen3", "qwen3moe", "gemma3", "phi3"];
    for (arch, kind) in archs.into_iter().flat_map(|a| KINDS.map(|k| (a, k))) {
        let decoder = open(&model(arch, &SMALL)).unwrap();
        let tokens: Vec<u32> = (0..30).map(|i| i * 7 % 50).collect();
        let mut state = decoder.new_state_in(kind, 40);
        let all = decoder.forward(&pool, &mut state, &tokens, Logits::All).unwrap().to_vec();
        let mut state = decoder.new_state_in(kind, 40);
        for (i, &token) in tokens.iter().enumerate() {
            let one = decoder.forward(&single, &mut state, &[token], Logits::Last).unwrap();
            assert_eq!(all[i * 50..(i + 1) * 50], *one, "{arch} {kind:?} token {i}");
        }
        // 1. going on from a shared prefix gives the same
        state.truncate(10);
        let again = decoder.forward(&pool, &mut state, &tokens[10..], Logits::Last).unwrap();
        assert_eq!(all[29 * 50..], *again, "{arch} {kind:?}");
        // 2. chunks of a small context give the same
        let mut state = decoder.new_state_in(kind, 30);
        let last = decoder.forward(&pool, &mut state, &tokens, Logits::Last).unwrap();
        assert_eq!(all[29 * 50..], *last, "{arch} {kind:?}");
    }
}

const KINDS: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8_0];

#[test]
fn sequences_in_one_pass_equal_each_alone() {
    let pool = Pool::new(2);
    let decoder = open(&model("gemma3", &SMALL)).unwrap();
    let tokens: Vec<u32> = (0..300).map(|i| i * 11 % 50).collect();
    let alone = |tokens: &[u32], logits| {
        let mut state = decoder.new_state(512);
        decoder.forward(&pool, &mut state, tokens, logits).unwrap().to_vec()
    };
    let mut store = KvStore::new(decoder.config().kv_shape(KvType::F16));
    store.reserve(8);
    let mut workspace = decoder.workspace(256);
    // Two sequences of 140 and 60 tokens, the second of which shares the first one's block: prefill in unequal parts beside each other.
    let (a, b) = (&tokens[..140], &[&tokens[..128], &tokens[200..260]].concat());
    let slice = |tokens, past, blocks, logits| Slice { tokens, past, context: 512, blocks, logits, pictures: &[] };
    let run = |workspace: &mut Workspace, store: &mut KvStore, slices: &[Slice]| {
        decoder.run(&pool, workspace, store, slices).unwrap().to_vec()
    };
    assert!(run(&mut workspace, &mut store, &[slice(&a[..130], 0, &[5, 2], Logits::None)]).is_empty());
    let got = run(
        &mut workspace,
        &mut store,
        &[
            slice(&a[130..139], 130, &[5, 2], Logits::None),
            slice(&b[128..], 128, &[5, 7], Logits::All),
            slice(&a[139..], 139, &[5, 2], Logits::Last),
        ],
    );
    assert_eq!(got[..60 * 50], alone(b, Logits::All)[128 * 50..]);
    assert_eq!(got[60 * 50..], alone(a, Logits::Last));
    // Both go on, one token each, and one of them with a draft of three.
    let got = run(
        &mut workspace,
        &mut store,
        &[slice(&[9], 140, &[5, 2], Logits::Last), slice(&[9, 8, 7], 188, &[5, 7], Logits::All)],
    );
    assert_eq!(got[..50], alone(&[a, &[9]].concat(), Logits::Last));
    assert_eq!(got[50..], alone(&[b, &[9, 8, 7][..]].concat(), Logits::All)[188 * 50..]);
    let error = decoder.run(&pool, &mut workspace, &mut store, &[slice(&tokens[..257], 0, &[0, 1, 2], Logits::Last)]);
    assert_eq!(error.unwrap_err(), Error::Rows { tokens: 257, rows: 256 });
}

#[test]
fn local_layers_forget_and_global_ones_do_not() {
    // One local layer (pattern 6): position 8 no longer sees position 0 with a window of 5.
    let run = |layers: u32, first: u32| {
        let decoder = open(&model("gemma3", &Size { layers, ..SMALL })).unwrap();
        let pool = Pool::new(1);
        let mut state = decoder.new_state(16);
        decoder.forward(&pool, &mut state, &[first, 1, 2, 3, 4, 5, 6, 7, 8], Logits::Last).unwrap().to_vec()
    };
    assert_eq!(run(1, 10), run(1, 20));
    assert_ne!(run(6, 10), run(6, 20));
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let decoder = open(&model("llama", &SMALL)).unwrap();
    let pool = Pool::new(1);
    let mut state = decoder.new_state(4);
    let before = decoder.forward(&pool, &mut state, &[1, 2], Logits::Last).unwrap().to_vec();
    let error = decoder.forward(&pool, &mut state, &[3, 4, 5], Logits::Last).unwrap_err();
    assert_eq!(error, Error::Context { past: 2, new: 3, context: 4 });
    assert_eq!(decoder.forward(&pool, &mut state, &[50], Logits::Last).unwrap_err(), Error::Token { token: 50, vocab: 50 });
    assert_eq!(decoder.forward(&pool, &mut state, &[], Logits::Last).unwrap_err(), Error::Empty);
    state.truncate(1);
    assert_eq!(decoder.forward(&pool, &mut state, &[2], Logits::Last).unwrap(), before);
}

#[test]
fn impossible_models_are_refused_with_the_reason() {
    let llama = || model("llama", &SMALL);
    assert!(refusal(&Writer::default().str("general.architecture", "mamba")).contains("qwen3moe, gemma3 and phi3"));
    assert!(refusal(&Writer::default()).contains("general.architecture"));
    assert!(refusal(&Writer::default().str("general.architecture", "llama")).contains("llama.embedding_length"));
    assert!(refusal(&model("llama", &Size { kv_heads: 3, ..SMALL })).contains("no multiple of 3"));
    assert!(refusal(&llama().u32("llama.rope.dimension_count", 7)).contains("an even number"));
    assert!(refusal(&llama().f32("llama.rope.freq_base", f32::NAN)).contains("finite"));
    assert!(refusal(&llama().u32("llama.attention.value_length", 4)).contains("value_length"));
    // counts that lie: found before anything is read for them
    let text = |w: Writer, from: &[u8], to: &[u8]| {
        let mut bytes = w.bytes();
        let at = bytes.windows(from.len()).position(|b| b == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
        let (_dir, path) = crate::weights::gguf::writer::save(&bytes);
        Decoder::open(&path, &Pool::new(1)).err().map(|e| e.to_string()).expect("must be refused")
    };
    let count = |n: u32| [&b"block_count\x04\0\0\0"[..], &n.to_le_bytes()].concat();
    assert!(text(llama(), &count(7), &count(1 << 29)).contains("it has 536870912 layers"));
    assert!(text(llama(), &count(7), &count(8)).contains("blk.7.attn_norm"));
    let width = |n: u32| [&b"feed_forward_length\x04\0\0\0"[..], &n.to_le_bytes()].concat();
    assert!(
        text(llama(), &width(40), &width(44)).contains("[44, 24]")
            || text(llama(), &width(40), &width(44)).contains("[24, 44]")
    );
    assert!(text(llama(), &count(7), &count(6)).contains("blk.6.attn_k.weight, which is no part of a model of 6 layers"));
    assert!(text(llama(), b"blk.3.ffn_up", b"blk.3.ffn_xx").contains("blk.3.ffn_xx.weight, which is no part"));
    assert!(text(llama(), b"blk.3.ffn_up", b"xxx.3.ffn_up").contains("blk.3.ffn_up"));
    let quantized = llama().blocks("rope_freqs.weight", &[32], BlockType::Q8_0, vec![0; 34]);
    assert!(refusal(&quantized).contains("rope_freqs"));
}
