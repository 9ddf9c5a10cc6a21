//! Keys and values of all layers, paged: blocks of [`KV_BLOCK`] positions that sequences name in tables of their own.
//!
//! A block holds its positions in all layers, so that one number a sequence and block says where they are. Which block belongs to
//! whom, and which are shared, is the caller's accounting; the store only reads and writes.

use super::vector::LANES;
use crate::memory::Aligned;
use crate::quant::nearest;
use half::f16;

/// Positions of a block: as many as attention takes at once.
pub const KV_BLOCK: usize = 128;
/// Elements of a head that share a scale where elements have 8 bits.
pub(crate) const SUB: usize = 32;

/// How an element of a key or a value is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// 32 bits: the reference.
    F32,
    /// 16 bits.
    #[default]
    F16,
    /// 8 bits, with an f16 scale for each 32 elements: 8.5 bits.
    Q8_0,
}

/// What a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers of the model.
    pub layers: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Storage of an element.
    pub kind: KvType,
}

/// Byte offsets within the part of a block that one head of one layer has. Keys lie as product panels (128 / 16, head_dim, 16
/// positions), values as (128, head_dim rounded up to 16): both products of attention read whole vectors. Scales, where there are
/// any, lie (.., 16 or 128 positions) beside each other, so that they multiply whole vectors of scores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLayout {
    pub(crate) key_scales: usize,   // (128 / 16, subs of head_dim, 16) f16
    pub(crate) values: usize,       // (128, padded)
    pub(crate) value_scales: usize, // (subs of padded, 128) f16
    pub(crate) bytes: usize,
}

impl KvShape {
    fn element(&self) -> usize {
        match self.kind {
            KvType::F32 => 4,
            KvType::F16 => 2,
            KvType::Q8_0 => 1,
        }
    }

    fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    pub(crate) fn layout(&self) -> HeadLayout {
        let scales = |dims: usize| if self.kind == KvType::Q8_0 { KV_BLOCK * dims.div_ceil(SUB) * size_of::<f16>() } else { 0 };
        let key_scales = KV_BLOCK * self.head_dim * self.element();
        let values = key_scales + scales(self.head_dim);
        let value_scales = values + KV_BLOCK * self.padded() * self.element();
        HeadLayout { key_scales, values, value_scales, bytes: value_scales + scales(self.padded()) }
    }

    /// Bytes of a block: [`KV_BLOCK`] positions in all layers.
    pub fn block_bytes(&self) -> usize {
        self.layers * self.kv_heads * self.layout().bytes
    }
}

/// Storage of blocks.
pub struct KvStore {
    shape: KvShape,
    layout: HeadLayout,
    blocks: Vec<Aligned>,
}

impl KvStore {
    /// A store without blocks.
    pub fn new(shape: KvShape) -> Self {
        Self { shape, layout: shape.layout(), blocks: Vec::new() }
    }

    /// What it holds.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Makes blocks `0..count` usable: each is one allocation, which stays until the store goes.
    pub fn reserve(&mut self, count: usize) {
        while self.blocks.len() < count {
            self.blocks.push(Aligned::zeroed(self.shape.block_bytes()));
        }
    }

    /// Blocks that are usable.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Bytes of all usable blocks.
    pub fn bytes(&self) -> usize {
        self.blocks.len() * self.shape.block_bytes()
    }

    /// Writes keys and values of one layer at positions `from..` of the sequence with block table `table`. `k`, `v`: (positions,
    /// kv_heads, head_dim), row-major, rotated already.
    ///
    /// # Panics
    /// When the lengths are not whole positions, or the table or the store ends before them.
    pub fn write(&mut self, layer: usize, table: &[u32], from: usize, k: &[f32], v: &[f32]) {
        let KvShape { kv_heads, head_dim, .. } = self.shape;
        let row = kv_heads * head_dim;
        assert!(
            k.len() == v.len() && row > 0 && k.len().is_multiple_of(row),
            "{} keys, {} values, {row} a position",
            k.len(),
            v.len()
        );
        for (i, (k, v)) in k.chunks_exact(row).zip(v.chunks_exact(row)).enumerate() {
            let at = from + i;
            for (h, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
                let start = self.head_offset(layer, h);
                let head = &mut self.blocks[table[at / KV_BLOCK] as usize].bytes_mut()[start..start + self.layout.bytes];
                match self.shape.kind {
                    KvType::F32 => plain(head, &self.layout, at % KV_BLOCK, (k, v), f32::to_ne_bytes),
                    KvType::F16 => plain(head, &self.layout, at % KV_BLOCK, (k, v), |x| f16::from_f32(x).to_ne_bytes()),
                    KvType::Q8_0 => quantized(head, &self.layout, at % KV_BLOCK, (k, v)),
                }
            }
        }
    }

    /// Copies block `from` over block `to`: a sequence goes on from positions that another one shares.
    ///
    /// # Panics
    /// When one of them is not usable.
    pub fn copy(&mut self, from: u32, to: u32) {
        let [from, to] = [from as usize, to as usize];
        if from != to {
            let [a, b] =
                self.blocks.get_disjoint_mut([from, to]).unwrap_or_else(|_| panic!("blocks {from} and {to} are to be usable"));
            b.bytes_mut().copy_from_slice(a.bytes());
        }
    }

    /// Where head `h` of a layer begins in a block.
    pub(crate) fn head_offset(&self, layer: usize, h: usize) -> usize {
        (layer * self.shape.kv_heads + h) * self.layout.bytes
    }

    /// The bytes of a block.
    pub(crate) fn block(&self, block: u32) -> &[u8] {
        self.blocks[block as usize].bytes()
    }

    /// The key and the value of head `h` at `position` of a sequence as floats (tests, debugging).
    pub fn get(&self, layer: usize, table: &[u32], h: usize, position: usize) -> (Vec<f32>, Vec<f32>) {
        let KvShape { head_dim, .. } = self.shape;
        let start = self.head_offset(layer, h);
        let head = &self.block(table[position / KV_BLOCK])[start..start + self.layout.bytes];
        let (at, size) = (position % KV_BLOCK, self.shape.element());
        let half = |at: usize| f16::from_ne_bytes([head[at], head[at + 1]]).to_f32();
        let element = |at: usize| match self.shape.kind {
            KvType::F32 => f32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]),
            KvType::F16 => half(at),
            KvType::Q8_0 => f32::from(head[at] as i8),
        };
        let scale = |at: usize| if self.shape.kind == KvType::Q8_0 { half(at) } else { 1.0 };
        let l = &self.layout;
        let key = |i: usize| {
            element(key_index(head_dim, at, i) * size) * scale(l.key_scales + 2 * key_scale_index(head_dim, at, i / SUB))
        };
        let value = |i: usize| {
            element(l.values + (at * self.shape.padded() + i) * size) * scale(l.value_scales + 2 * (i / SUB * KV_BLOCK + at))
        };
        ((0..head_dim).map(key).collect(), (0..head_dim).map(value).collect())
    }
}

/// Place of element `i` of the key at position `at` of a block.
fn key_index(head_dim: usize, at: usize, i: usize) -> usize {
    (at / LANES * head_dim + i) * LANES + at % LANES
}

/// Place of the scale of sub-block `sub` of the key at position `at` of a block.
fn key_scale_index(head_dim: usize, at: usize, sub: usize) -> usize {
    (at / LANES * head_dim.div_ceil(SUB) + sub) * LANES + at % LANES
}

/// Stores a key and a value in elements of `N` bytes.
fn plain<const N: usize>(
    head: &mut [u8],
    layout: &HeadLayout,
    at: usize,
    (k, v): (&[f32], &[f32]),
    to: impl Fn(f32) -> [u8; N],
) {
    let (hd, padded) = (k.len(), k.len().next_multiple_of(LANES));
    let panel = &mut head[at / LANES * hd * LANES * N..][..hd * LANES * N];
    for (slot, &k) in panel.chunks_exact_mut(LANES * N).zip(k) {
        slot[at % LANES * N..][..N].copy_from_slice(&to(k));
    }
    let row = &mut head[layout.values + at * padded * N..][..hd * N];
    for (slot, &v) in row.chunks_exact_mut(N).zip(v) {
        slot.copy_from_slice(&to(v));
    }
}

/// Stores a key and a value in 8 bits, each 32 elements by their largest.
fn quantized(head: &mut [u8], layout: &HeadLayout, at: usize, (k, v): (&[f32], &[f32])) {
    let (hd, padded) = (k.len(), k.len().next_multiple_of(LANES));
    for (sub, (k, v)) in k.chunks(SUB).zip(v.chunks(SUB)).enumerate() {
        let (scale, codes) = eight_bits(k);
        for (i, code) in codes.iter().enumerate().take(k.len()) {
            head[key_index(hd, at, sub * SUB + i)] = *code as u8;
        }
        head[layout.key_scales + 2 * key_scale_index(hd, at, sub)..][..2].copy_from_slice(&scale.to_ne_bytes());
        let (scale, codes) = eight_bits(v);
        for (i, code) in codes.iter().enumerate().take(v.len()) {
            head[layout.values + at * padded + sub * SUB + i] = *code as u8;
        }
        head[layout.value_scales + 2 * (sub * KV_BLOCK + at)..][..2].copy_from_slice(&scale.to_ne_bytes());
    }
}

/// The scale of up to 32 elements and their codes, as ggml's q8_0.
fn eight_bits(x: &[f32]) -> (f16, [i8; SUB]) {
    let most = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let scale = f16::from_f32(most / 127.0);
    let inverse = if most == 0.0 { 0.0 } else { 127.0 / most };
    let mut codes = [0; SUB];
    for (code, x) in codes.iter_mut().zip(x) {
        *code = nearest(x * inverse);
    }
    (scale, codes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_comes_back_in_every_type_and_through_any_table() {
        let (layers, kv_heads, head_dim) = (2, 3, 36);
        let value = |t: usize, h: usize, i: usize| ((t * 64 + h * 24 + i) % 509) as f32 / 64.0 - 4.0;
        let rows = |from: usize, to: usize| {
            let all = (from..to).flat_map(|t| (0..kv_heads).flat_map(move |h| (0..head_dim).map(move |i| value(t, h, i))));
            all.collect::<Vec<_>>()
        };
        let negated = |v: &[f32]| v.iter().map(|v| -v).collect::<Vec<_>>();
        for (kind, error) in [(KvType::F32, 0.0), (KvType::F16, 4.0 / 2048.0), (KvType::Q8_0, 4.1 / 127.0)] {
            let mut store = KvStore::new(KvShape { layers, kv_heads, head_dim, kind });
            store.reserve(4);
            let table = [2, 0, 3];
            for (from, to) in [(0, 3), (3, 290), (40, 70)] {
                store.write(1, &table, from, &rows(from, to), &negated(&rows(from, to)));
            }
            store.copy(0, 1);
            for table in [table, [2, 1, 3]] {
                for t in [0, 2, 3, 39, 40, 127, 128, 200, 289] {
                    for h in 0..kv_heads {
                        let (k, v) = store.get(1, &table, h, t);
                        for i in 0..head_dim {
                            let want = value(t, h, i);
                            assert!(
                                (k[i] - want).abs() <= error && (v[i] + want).abs() <= error,
                                "{kind:?} {t} {h} {i}: {} {}",
                                k[i],
                                v[i]
                            );
                        }
                    }
                }
            }
            assert_eq!(store.get(0, &table, 2, 5).0, vec![0.0; head_dim], "another layer");
        }
    }

    #[test]
    fn eight_bits_take_seventeen_thirty_seconds_of_sixteen() {
        let shape = |kind| KvShape { layers: 1, kv_heads: 2, head_dim: 64, kind };
        assert_eq!(shape(KvType::F16).block_bytes(), 2 * 2 * 64 * 2 * KV_BLOCK);
        assert_eq!(shape(KvType::Q8_0).block_bytes() * 32, shape(KvType::F16).block_bytes() * 17);
    }
}
