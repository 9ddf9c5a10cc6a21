//! ggml's block formats: sizes, exact dequantization, and the Q8_0 quantizer.

use half::{bf16, f16};

/// A storage type of weights: plain floats or one of ggml's block formats.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
}

impl BlockType {
    /// (elements in a block, bytes of a block), as in ggml.
    pub const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q8_1 => (32, 36),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
            Self::Q8K => (256, 292),
        }
    }

    /// Every type.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q8_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Q8K,
    ];
}

/// Bytes that are not a whole number of blocks, or an output of another length.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{bytes} bytes of {kind:?} (blocks of {block} bytes) do not make {elements} elements")]
#[allow(missing_docs)] // the fields are what the message names
pub struct DequantizeError {
    pub kind: BlockType,
    pub block: usize,
    pub bytes: usize,
    pub elements: usize,
}

/// One block taken apart: `value[e] = d * scales[s] * (codes[e] - bias) - dmin * mins[s]`, where s is the element's sub-block.
pub(crate) struct Codes {
    pub(crate) codes: [u8; 256],
    pub(crate) scales: [i8; 16],
    pub(crate) mins: [u8; 16],
    pub(crate) d: f32,
    pub(crate) dmin: f32, // of Q4_1 and Q5_1: the minimum, to be added
}

impl Codes {
    pub(crate) fn new() -> Self {
        Self { codes: [0; 256], scales: [0; 16], mins: [0; 16], d: 0.0, dmin: 0.0 }
    }

    /// Takes apart `block`, one whole block of a quantized `kind`.
    pub(crate) fn read(&mut self, kind: BlockType, block: &[u8]) {
        match kind {
            BlockType::Q4_0 | BlockType::Q4_1 | BlockType::Q5_0 | BlockType::Q5_1 => self.read_nibbles(kind, block),
            BlockType::Q8_0 | BlockType::Q8_1 => {
                self.d = half(block, 0);
                let from = block.len() - 32;
                (0..32).for_each(|i| self.codes[i] = block[from + i] ^ 0x80);
            }
            BlockType::Q8K => {
                self.d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
                (0..256).for_each(|i| self.codes[i] = block[4 + i] ^ 0x80);
            }
            BlockType::Q2K => self.read_q2k(block),
            BlockType::Q3K => self.read_q3k(block),
            BlockType::Q4K | BlockType::Q5K => self.read_q45k(kind, block),
            BlockType::Q6K => self.read_q6k(block),
            BlockType::F32 | BlockType::F16 | BlockType::BF16 => unreachable!("plain floats have no blocks"),
        }
    }

    fn read_nibbles(&mut self, kind: BlockType, block: &[u8]) {
        let (minimum, fifth) = match kind {
            BlockType::Q4_1 => (true, false),
            BlockType::Q5_0 => (false, true),
            BlockType::Q5_1 => (true, true),
            _ => (false, false),
        };
        self.d = half(block, 0);
        self.dmin = if minimum { half(block, 2) } else { 0.0 };
        let nibbles = &block[block.len() - 16..];
        let (low, high) = self.codes.split_at_mut(16);
        for i in 0..16 {
            (low[i], high[i]) = (nibbles[i] & 15, nibbles[i] >> 4);
        }
        if fifth {
            let at = if minimum { 4 } else { 2 };
            let bits = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
            (0..32).for_each(|i| self.codes[i] |= ((bits >> i & 1) << 4) as u8);
        }
    }

    fn read_q2k(&mut self, block: &[u8]) {
        let (scales, codes) = (&block[..16], &block[16..80]);
        (self.d, self.dmin) = (half(block, 80), half(block, 82));
        for s in 0..16 {
            (self.scales[s], self.mins[s]) = ((scales[s] & 15) as i8, scales[s] >> 4);
        }
        for e in 0..256 {
            self.codes[e] = codes[e / 128 * 32 + e % 32] >> (e % 128 / 32 * 2) & 3;
        }
    }

    fn read_q3k(&mut self, block: &[u8]) {
        let (mask, codes, scales) = (&block[..32], &block[32..96], &block[96..108]);
        self.d = half(block, 108);
        for s in 0..16 {
            let low = if s < 8 { scales[s] & 15 } else { scales[s - 8] >> 4 };
            self.scales[s] = (low | (scales[8 + s % 4] >> (s / 4 * 2) & 3) << 4) as i8 - 32;
        }
        for e in 0..256 {
            let low = codes[e / 128 * 32 + e % 32] >> (e % 128 / 32 * 2) & 3;
            self.codes[e] = low | (mask[e % 32] >> (e / 32) & 1) << 2;
        }
    }

    fn read_q45k(&mut self, kind: BlockType, block: &[u8]) {
        (self.d, self.dmin) = (half(block, 0), half(block, 2));
        let packed = &block[4..16];
        for s in 0..8 {
            let (scale, min) = if s < 4 {
                (packed[s] & 63, packed[s + 4] & 63)
            } else {
                (packed[s + 4] & 15 | packed[s - 4] >> 6 << 4, packed[s + 4] >> 4 | packed[s] >> 6 << 4)
            };
            (self.scales[s], self.mins[s]) = (scale as i8, min);
        }
        let codes = &block[block.len() - 128..];
        for (sub, out) in self.codes.chunks_exact_mut(32).enumerate() {
            let from = &codes[sub / 2 * 32..][..32];
            (0..32).for_each(|i| out[i] = from[i] >> (sub % 2 * 4) & 15);
            if kind == BlockType::Q5K {
                let high = &block[16..48];
                (0..32).for_each(|i| out[i] |= (high[i] >> sub & 1) << 4);
            }
        }
    }

    fn read_q6k(&mut self, block: &[u8]) {
        let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
        self.d = half(block, 208);
        for s in 0..16 {
            self.scales[s] = scales[s] as i8;
        }
        for (i, out) in self.codes.chunks_exact_mut(32).enumerate() {
            let (part, quarter) = (i / 4, i % 4);
            let (low, high) = (&low[part * 64 + quarter % 2 * 32..][..32], &high[part * 32..][..32]);
            for l in 0..32 {
                out[l] = low[l] >> (quarter / 2 * 4) & 15 | (high[l] >> (quarter * 2) & 3) << 4;
            }
        }
    }

    /// The values of the block in order, with ggml's order of operations. `out`: one block long.
    pub(crate) fn values(&self, kind: BlockType, out: &mut [f32]) {
        let (d, dmin) = (self.d, self.dmin);
        let signed = |e: usize, bias: i32| (i32::from(self.codes[e]) - bias) as f32;
        for (e, o) in out.iter_mut().enumerate() {
            let scale = |size: usize| f32::from(self.scales[e / size]);
            let min = |size: usize| dmin * f32::from(self.mins[e / size]);
            *o = match kind {
                BlockType::Q4_0 => signed(e, 8) * d,
                BlockType::Q5_0 => signed(e, 16) * d,
                BlockType::Q4_1 | BlockType::Q5_1 => signed(e, 0) * d + dmin,
                BlockType::Q8_0 | BlockType::Q8_1 | BlockType::Q8K => signed(e, 128) * d,
                BlockType::Q2K => d * scale(16) * signed(e, 0) - min(16),
                BlockType::Q3K => d * scale(16) * signed(e, 4),
                BlockType::Q4K | BlockType::Q5K => d * scale(32) * signed(e, 0) - min(32),
                BlockType::Q6K => d * scale(16) * signed(e, 32),
                BlockType::F32 | BlockType::F16 | BlockType::BF16 => unreachable!("plain floats have no blocks"),
            };
        }
    }
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The values of `bytes` (whole blocks of `kind`, little endian as in GGUF), exactly as ggml dequantizes them.
pub fn dequantize(kind: BlockType, bytes: &[u8], out: &mut [f32]) -> Result<(), DequantizeError> {
    let (elements, size) = kind.block();
    if !bytes.len().is_multiple_of(size) || out.len() != bytes.len() / size * elements {
        return Err(DequantizeError { kind, block: size, bytes: bytes.len(), elements: out.len() });
    }
    let blocks = bytes.chunks_exact(size);
    match kind {
        BlockType::F32 => blocks.zip(out).for_each(|(b, o)| *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        BlockType::F16 => blocks.zip(out).for_each(|(b, o)| *o = half(b, 0)),
        BlockType::BF16 => blocks.zip(out).for_each(|(b, o)| *o = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        _ => {
            let mut codes = Codes::new();
            for (block, out) in blocks.zip(out.chunks_exact_mut(elements)) {
                codes.read(kind, block);
                codes.values(kind, out);
            }
        }
    }
    Ok(())
}

/// Q8_0 blocks of `values`, rounded as ggml does (d = largest / 127). A last block that is not full is filled with zeros.
pub fn quantize_q8_0(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len().div_ceil(32) * 34);
    for block in values.chunks(32) {
        let d = block.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        bytes.extend(f16::from_f32(d).to_le_bytes());
        bytes.extend((0..32).map(|i| nearest(block.get(i).map_or(0.0, |v| v * inverse)) as u8));
    }
    bytes
}

/// The nearest integer of a number within -128..=127, halves away from zero; `f32::round` is a call on processors without the
/// instruction, and this is not.
#[inline]
pub(crate) fn nearest(x: f32) -> i8 {
    let whole = x as i32;
    let rest = x - whole as f32;
    (whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)) as i8
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use candle_core::quantized::{GgmlDType, QTensor};

    fn theirs(kind: BlockType) -> GgmlDType {
        match kind {
            BlockType::F32 => GgmlDType::F32,
            BlockType::F16 => GgmlDType::F16,
            BlockType::BF16 => GgmlDType::BF16,
            BlockType::Q4_0 => GgmlDType::Q4_0,
            BlockType::Q4_1 => GgmlDType::Q4_1,
            BlockType::Q5_0 => GgmlDType::Q5_0,
            BlockType::Q5_1 => GgmlDType::Q5_1,
            BlockType::Q8_0 => GgmlDType::Q8_0,
            BlockType::Q8_1 => GgmlDType::Q8_1,
            BlockType::Q2K => GgmlDType::Q2K,
            BlockType::Q3K => GgmlDType::Q3K,
            BlockType::Q4K => GgmlDType::Q4K,
            BlockType::Q5K => GgmlDType::Q5K,
            BlockType::Q6K => GgmlDType::Q6K,
            BlockType::Q8K => GgmlDType::Q8K,
        }
    }

    #[test]
    fn dequantization_equals_candles_on_arbitrary_bytes() {
        let mut state = 88_172_645_463_325_252u64;
        let mut byte = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        for kind in BlockType::ALL {
            if kind == BlockType::Q8_1 {
                continue; // candle does not dequantize it; its Q8_0 part is covered
            }
            let (elements, size) = kind.block();
            let count = 512 / elements;
            let mut bytes: Vec<u8> = (0..count * size).map(|_| byte()).collect();
            // Scales that are finite, so that values compare.
            let halves: &[usize] = match kind {
                BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K => &[0, 2],
                BlockType::Q2K => &[80, 82],
                BlockType::Q3K => &[108],
                BlockType::Q6K => &[208],
                _ => &[0],
            };
            for b in bytes.chunks_exact_mut(size) {
                for &h in halves {
                    b[h + size.min(2) - 1] &= 0x3b;
                }
                if matches!(kind, BlockType::F32 | BlockType::Q8K) {
                    b[3] &= 0x3f;
                }
            }
            let mut got = vec![0.0; count * elements];
            dequantize(kind, &bytes, &mut got).unwrap();
            let storage = candle_core::quantized::QStorage::from_data(bytes.into(), &Device::Cpu, theirs(kind)).unwrap();
            let tensor = QTensor::new(storage, count * elements).unwrap().dequantize(&Device::Cpu).unwrap();
            assert_eq!(got, tensor.to_vec1::<f32>().unwrap(), "{kind:?}");
        }
    }

    #[test]
    fn nearest_is_round() {
        for i in -128_000..=127_000 {
            let x = i as f32 / 1000.0;
            for x in [x, x.next_up(), x.next_down()] {
                assert_eq!(nearest(x), x.round() as i8, "{x}");
            }
        }
    }

    #[test]
    fn q8_0_comes_back_within_half_a_step() {
        let values: Vec<f32> = (0..70).map(|i| ((i * 37 % 71) as f32 - 35.0) / 9.0).collect();
        let bytes = quantize_q8_0(&values);
        let mut back = vec![0.0; 96];
        dequantize(BlockType::Q8_0, &bytes, &mut back).unwrap();
        assert!(values.iter().zip(&back).all(|(a, b)| (a - b).abs() < 4.0 / 127.0 * 0.51));
        assert!(back[70..].iter().all(|&v| v == 0.0));
    }

    #[test]
    fn a_broken_block_is_an_error() {
        for kind in BlockType::ALL {
            let (elements, size) = kind.block();
            assert!(dequantize(kind, &vec![0; size + 1], &mut vec![0.0; elements]).is_err() || size == 1);
            assert!(dequantize(kind, &vec![0; size], &mut vec![0.0; elements + 1]).is_err());
        }
    }
}
