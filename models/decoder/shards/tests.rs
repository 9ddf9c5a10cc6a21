use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use dreamseed_kernels::{KvType, Pool, quant::dequantize};

use super::*;
use crate::{
    decoder::{
        Decoder, Error as RunError, Logits,
        tests::{Size, apart, model, noise},
    },
    weights::gguf::writer::Writer,
};

const FAMILIES: [&str; 5] = ["llama", "qwen2", "qwen3", "gemma3", "phi3"];
const SMALL: Size = Size { dim: 24, hidden: 44, heads: 8, kv_heads: 4, head_dim: 8, vocab: 50, layers: 7 };
/// Of whole blocks in two parts: 512 columns of the heads, 5 blocks of 256 of the feed-forward width (2 and 3).
const BLOCKS: Size = Size { dim: 256, hidden: 1280, heads: 8, kv_heads: 4, head_dim: 64, vocab: 96, layers: 2 };

fn tokens(vocab: u64) -> Vec<u32> {
    (0..30).map(|i| i * 37 % vocab as u32).collect()
}

/// How far the parts' logits are from those of the whole, relative to the largest.
fn difference(writer: &Writer, parts: usize, vocab: u64) -> f32 {
    let (pool, (_dir, path)) = (Pool::new(2), writer.file());
    let whole = Decoder::open(&path, &pool).unwrap();
    let mut state = whole.new_state_in(KvType::F32, 30);
    let want = whole.forward(&pool, &mut state, &tokens(vocab), Logits::All).unwrap();
    apart(want, &Sharded::open(&path, parts, &pool).unwrap().forward(&pool, &tokens(vocab)).unwrap())
}

/// Floats: the parts' sums are of the same products in another order. Each order is off by some units in the last place (6e-8) a sum,
/// over seven layers; 1e-5 is a hundred of them. A tensor cut at a wrong place gives logits of another model, about 1 away.
#[test]
fn parts_of_every_dense_family_sum_to_the_whole() {
    for arch in FAMILIES {
        for parts in [1, 2, 4] {
            let error = difference(&model(arch, &SMALL), parts, SMALL.vocab);
            assert!(error < 1e-5, "{arch} in {parts} parts: {error}");
        }
    }
}

#[test]
fn biases_of_what_is_summed_count_once() {
    let writer = (0..SMALL.layers).fold(model("llama", &SMALL), |w, layer| {
        let all = [("attn_output", SMALL.dim), ("ffn_down", SMALL.dim), ("ffn_gate", SMALL.hidden), ("ffn_up", SMALL.hidden)];
        all.into_iter().fold(w, |w, (part, len)| {
            let name = format!("blk.{layer}.{part}.bias");
            w.tensor(&name, &[len], &noise(len, &name))
        })
    });
    let joined = (0..SMALL.layers).fold(model("phi3", &SMALL), |w, layer| {
        let (name, len) = (format!("blk.{layer}.attn_qkv.bias"), (SMALL.heads + 2 * SMALL.kv_heads) * SMALL.head_dim);
        w.tensor(&name, &[len], &noise(len, &name))
    });
    for (what, writer) in [("llama", writer), ("phi3", joined)] {
        for parts in [2, 4] {
            let error = difference(&writer, parts, SMALL.vocab);
            assert!(error < 1e-5, "{what} in {parts} parts: {error}");
        }
    }
}

/// The same model with its matrices in blocks.
pub(in crate::decoder) fn quantized(arch: &str, kind: BlockType, theirs: GgmlDType) -> Writer {
    let mut writer = Writer::default();
    for (name, dims, values) in model(arch, &BLOCKS).f32_tensors() {
        writer = if dims.len() == 1 {
            writer.tensor(&name, &dims, &values)
        } else {
            let shape = (values.len() / dims[0] as usize, dims[0] as usize);
            let blocks = QTensor::quantize(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap(), theirs).unwrap();
            writer.blocks(&name, &dims, kind, blocks.data().unwrap().into_owned())
        };
    }
    model(arch, &BLOCKS).with_tensors_of(writer)
}

/// Blocks keep their bits. Activations are rounded to 8 bits by 32 columns, and parts end between those: a sum in another order moves
/// an activation over the edge of a step (1/127 of the largest of 32) now and then, and later products carry it on. 1e-2 is less than
/// what rounding itself costs (1.6% to 1.8%, `formats.rs`).
#[test]
fn parts_of_quantized_models_sum_to_the_whole() {
    for (kind, theirs) in [
        (BlockType::Q4K, GgmlDType::Q4K),
        (BlockType::Q6K, GgmlDType::Q6K),
        (BlockType::Q8_0, GgmlDType::Q8_0),
        (BlockType::Q4_0, GgmlDType::Q4_0),
    ] {
        for arch in ["llama", "phi3"] {
            let error = difference(&quantized(arch, kind, theirs), 2, BLOCKS.vocab);
            assert!(error < 1e-2, "{arch} in {kind:?}: {error}");
        }
    }
}

/// Cut blocks hold the numbers that stand in the whole at their place.
#[test]
fn cuts_hold_whole_blocks() {
    let (rows, cols) = (3, 1024);
    for kind in BlockType::ALL {
        let (block, size) = kind.block();
        let bytes: Vec<u8> =
            noise((rows * cols / block * size) as u64, "bytes").iter().map(|v| (v * 60.0) as i8 as u8 & 0x7b).collect();
        let values = |bytes: &[u8]| {
            let mut out = vec![0.0; bytes.len() / size * block];
            dequantize(kind, bytes, &mut out).unwrap();
            out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        let whole = values(&bytes);
        let cut = values(&cut_cols(kind, cols, 256..768, &bytes));
        assert!(cut.chunks(512).zip(whole.chunks(cols)).all(|(cut, row)| *cut == row[256..768]), "{kind:?}");
        // of two tensors of one and two rows, the first and the last
        let cut = values(&cut_rows(kind, cols, &[(1, 0..1), (2, 1..2)], &bytes));
        assert_eq!(cut, [&whole[..cols], &whole[2 * cols..]].concat(), "{kind:?}");
    }
}

#[test]
fn what_cannot_be_cut_is_refused_with_the_numbers() {
    let pool = Pool::new(1);
    let refusal = |writer: &Writer, parts: usize| {
        let (_dir, path) = writer.file();
        Sharded::open(&path, parts, &pool).err().map(|e| e.to_string()).expect("must be refused")
    };
    let small = model("llama", &SMALL);
    for parts in [0, 3, 8, usize::MAX] {
        let seen = refusal(&small, parts);
        assert!(seen.contains(&format!("4 heads of keys and values cannot be divided evenly over {parts} parts")), "{seen}");
    }
    let seen = refusal(&model("qwen3moe", &SMALL), 2);
    assert!(seen.contains("mixtures of experts"), "{seen}");
    // 512 columns of the heads in four parts are half a block of a K-quant each
    let seen = refusal(&quantized("llama", BlockType::Q4K, GgmlDType::Q4K), 4);
    assert!(seen.contains("128 of 512 columns of each of 4 parts are not whole Q4K blocks of 256"), "{seen}");
    let narrow = Size { hidden: 3, ..SMALL };
    let seen = refusal(&model("llama", &narrow), 4);
    assert!(seen.contains("a feed-forward width of 3 cannot be divided over 4 parts in blocks of 1"), "{seen}");
}

#[test]
fn tokens_that_cannot_be_run_are_refused() {
    let (pool, (_dir, path)) = (Pool::new(1), model("llama", &SMALL).file());
    let parts = Sharded::open(&path, 2, &pool).unwrap();
    assert_eq!(parts.forward(&pool, &[]).unwrap_err(), RunError::Empty);
    assert_eq!(parts.forward(&pool, &[50]).unwrap_err(), RunError::Token { token: 50, vocab: 50 });
    assert_eq!(parts.forward(&pool, &[0; 513]).unwrap_err(), RunError::Rows { tokens: 513, rows: 512 });
}
