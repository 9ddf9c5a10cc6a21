//! A decoder in every format of weights against the same decoder with the dequantized weights in f32.

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use dreamseed_kernels::quant::dequantize;

use super::*;

const SIZE: Size = Size { dim: 256, hidden: 512, heads: 4, kv_heads: 2, head_dim: 64, vocab: 96, layers: 2 };
const TOKENS: usize = 24;

/// Root of the mean squared difference over that of the mean square.
fn apart_rms(a: &[f32], b: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(a - b))).sum();
    (difference / a.iter().map(|a| square(f64::from(*a))).sum::<f64>()).sqrt()
}

/// A model of a family with all matrices in `kind`, and the same with what they hold in f32.
fn pair(arch: &str, kind: BlockType, theirs: GgmlDType) -> [Decoder; 2] {
    let mut writers = [Writer::default(), Writer::default()];
    for (name, dims, values) in model(arch, &SIZE).f32_tensors() {
        let norm = dims.len() == 1;
        let scale = (3.0 / dims[0] as f32).sqrt(); // rows of unit length: attention is neither uniform nor a choice of one
        let values: Vec<f32> = values.iter().map(|v| if norm { 1.0 + v / 8.0 } else { v * scale }).collect();
        // Routers stay in f32 in all files.
        if norm || name.contains("gate_inp") {
            writers = writers.map(|w| w.tensor(&name, &dims, &values));
            continue;
        }
        let shape = (values.len() / dims[0] as usize, dims[0] as usize);
        let tensor = Tensor::from_vec(values.clone(), shape, &Device::Cpu).unwrap();
        let blocks = QTensor::quantize(&tensor, theirs).unwrap().data().unwrap().into_owned();
        let mut plain = vec![0.0; values.len()];
        dequantize(kind, &blocks, &mut plain).unwrap();
        let [a, b] = writers;
        writers = [a.blocks(&name, &dims, kind, blocks), b.tensor(&name, &dims, &plain)];
    }
    writers.map(|w| open(&model(arch, &SIZE).with_tensors_of(w)).unwrap())
}

fn logits(decoder: &Decoder) -> Vec<f32> {
    let tokens: Vec<u32> = (0..TOKENS as u32).map(|i| i * 37 % SIZE.vocab as u32).collect();
    let mut state = decoder.new_state_in(KvType::F32, TOKENS);
    decoder.forward(&Pool::new(2), &mut state, &tokens, Logits::All).unwrap().to_vec()
}

/// Activations are rounded to 8 bits in blocks of 32: a step is the largest of 32 over 127, so that the rounding of normally
/// distributed ones has a root mean square of 2.1 / 127 / sqrt(12) = 0.5% of theirs. A product passes that on undiminished,
/// and 9 of them lie behind each other (four in each of two layers, one for the logits): 0.5% * sqrt(9) = 1.4% if nothing else
/// happened; attention's exponentials add to it. Measured are 1.6% to 1.8%, for every format alike: the weights have no share in
/// it, both decoders have the same.
#[test]
fn every_format_equals_its_dequantized_weights_up_to_8_bit_activations() {
    let quantized = [
        (BlockType::Q4_0, GgmlDType::Q4_0),
        (BlockType::Q4_1, GgmlDType::Q4_1),
        (BlockType::Q5_0, GgmlDType::Q5_0),
        (BlockType::Q5_1, GgmlDType::Q5_1),
        (BlockType::Q8_0, GgmlDType::Q8_0),
        (BlockType::Q2K, GgmlDType::Q2K),
        (BlockType::Q3K, GgmlDType::Q3K),
        (BlockType::Q4K, GgmlDType::Q4K),
        (BlockType::Q5K, GgmlDType::Q5K),
        (BlockType::Q6K, GgmlDType::Q6K),
    ];
    let float = [(BlockType::F32, GgmlDType::F32), (BlockType::F16, GgmlDType::F16), (BlockType::BF16, GgmlDType::BF16)];
    for (arch, kind, theirs, allowed) in quantized
        .map(|(kind, theirs)| ("llama", kind, theirs, 0.02))
        .into_iter()
        // Floats: the same f32 sums.
        .chain(float.map(|(kind, theirs)| ("llama", kind, theirs, 1e-6)))
        // Cut and stacked tensors: rows of blocks must stay whole.
        .chain([("phi3", BlockType::Q4K, GgmlDType::Q4K, 0.02), ("phi3", BlockType::Q5_1, GgmlDType::Q5_1, 0.02)])
    {
        let [blocks, plain] = pair(arch, kind, theirs);
        let error = apart_rms(&logits(&plain), &logits(&blocks));
        assert!(error < allowed, "{arch} in {kind:?}: {error}");
    }
}

/// Experts: rounding may send a row whose scores are close to another expert, which no bound on rounding covers. Most rows are
/// not close.
#[test]
fn quantized_experts_equal_their_dequantized_weights() {
    for (kind, theirs) in [(BlockType::Q4K, GgmlDType::Q4K), (BlockType::Q8_0, GgmlDType::Q8_0)] {
        let [blocks, plain] = pair("qwen3moe", kind, theirs);
        let (a, b) = (logits(&plain), logits(&blocks));
        let vocab = SIZE.vocab as usize;
        let mut errors: Vec<f64> = a.chunks(vocab).zip(b.chunks(vocab)).map(|(a, b)| apart_rms(a, b)).collect();
        errors.sort_by(f64::total_cmp);
        assert!(errors[TOKENS / 2] < 0.02, "{kind:?}: {errors:?}");
    }
}
