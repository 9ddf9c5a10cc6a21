//! The keys and values of one layer of one sequence.

use super::vector::LANES;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Keys and values as f16. Keys lie as product panels (kv_heads, capacity / 16, head_dim, 16 positions), values as
/// (kv_heads, capacity, head_dim rounded up to 16): both products of attention then read whole vectors. The capacity grows as
/// positions are appended.
#[derive(Clone)]
pub struct KvCache {
    kv_heads: usize,
    head_dim: usize,
    len: usize,
    capacity: usize, // positions; a multiple of 16
    keys: Vec<f16>,
    values: Vec<f16>,
}

impl KvCache {
    /// An empty cache with room for `capacity` positions before it has to grow.
    pub fn new(kv_heads: usize, head_dim: usize, capacity: usize) -> Self {
        let mut cache = Self { kv_heads, head_dim, len: 0, capacity: 0, keys: Vec::new(), values: Vec::new() };
        cache.reserve(capacity);
        cache
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no position.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Heads that keys and values have.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Bytes that the storage takes.
    pub fn bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * size_of::<f16>()
    }

    /// Forgets all positions from `len` on (a rejected draft, a shared prefix).
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes room for `capacity` positions in all.
    pub fn reserve(&mut self, capacity: usize) {
        let capacity = capacity.next_multiple_of(LANES);
        if capacity <= self.capacity {
            return;
        }
        let (key, value) = (self.head_dim, self.head_dim.next_multiple_of(LANES)); // elements a position
        let grow = |old: &[f16], element: usize| {
            let mut new = vec![f16::ZERO; self.kv_heads * capacity * element];
            let used = self.len.next_multiple_of(LANES) * element;
            for h in 0..self.kv_heads {
                new[h * capacity * element..][..used].copy_from_slice(&old[h * self.capacity * element..][..used]);
            }
            new
        };
        (self.keys, self.values) = (grow(&self.keys, key), grow(&self.values, value));
        self.capacity = capacity;
    }

    /// Appends positions. `k` and `v`: (positions, kv_heads, head_dim), row-major, rotated already.
    ///
    /// # Panics
    /// When the lengths are not whole positions, or differ.
    pub fn append(&mut self, k: &[f32], v: &[f32]) {
        let row = self.kv_heads * self.head_dim;
        assert!(
            k.len() == v.len() && row > 0 && k.len().is_multiple_of(row),
            "{} keys, {} values, {row} a position",
            k.len(),
            v.len()
        );
        let count = k.len() / row;
        if self.len + count > self.capacity {
            self.reserve((self.len + count).max(self.capacity * 2).max(4 * LANES));
        }
        let (hd, padded) = (self.head_dim, self.head_dim.next_multiple_of(LANES));
        let mut key = vec![f16::ZERO; hd];
        for t in 0..count {
            let position = self.len + t;
            for h in 0..self.kv_heads {
                let from = t * row + h * hd;
                key.convert_from_f32_slice(&k[from..from + hd]);
                let panel = (h * self.capacity + position / LANES * LANES) * hd;
                let panel = &mut self.keys[panel..panel + LANES * hd];
                for (to, &k) in panel.chunks_exact_mut(LANES).zip(&key) {
                    to[position % LANES] = k;
                }
                self.values[(h * self.capacity + position) * padded..][..hd].convert_from_f32_slice(&v[from..from + hd]);
            }
        }
        self.len += count;
    }

    /// Panels of head `h`.
    pub(crate) fn keys(&self, h: usize) -> &[f16] {
        &self.keys[h * self.capacity * self.head_dim..][..self.capacity * self.head_dim]
    }

    /// Rows of head `h`.
    pub(crate) fn values(&self, h: usize) -> &[f16] {
        let size = self.capacity * self.head_dim.next_multiple_of(LANES);
        &self.values[h * size..][..size]
    }

    /// The key and the value of `position` in head `h` as floats (tests, debugging).
    pub fn get(&self, h: usize, position: usize) -> (Vec<f32>, Vec<f32>) {
        assert!(h < self.kv_heads && position < self.len, "head {h} of {}, position {position} of {}", self.kv_heads, self.len);
        let panel = position / LANES * LANES * self.head_dim + position % LANES;
        let key = (0..self.head_dim).map(|i| self.keys(h)[panel + i * LANES].to_f32()).collect();
        let value = &self.values(h)[position * self.head_dim.next_multiple_of(LANES)..][..self.head_dim];
        (key, value.iter().map(|v| v.to_f32()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_comes_back_after_growth_and_truncation() {
        let (heads, dim) = (3, 20);
        let mut cache = KvCache::new(heads, dim, 5);
        let value = |t: usize, h: usize, i: usize| (t * 64 + h * 24 + i) as f32 / 4.0;
        let rows = |from: usize, to: usize| {
            let all = (from..to).flat_map(|t| (0..heads).flat_map(move |h| (0..dim).map(move |i| value(t, h, i))));
            all.collect::<Vec<_>>()
        };
        let negated = |v: &[f32]| v.iter().map(|v| -v).collect::<Vec<_>>();
        cache.append(&rows(0, 3), &negated(&rows(0, 3)));
        cache.append(&rows(3, 90), &negated(&rows(3, 90)));
        cache.truncate(40);
        cache.append(&rows(40, 70), &negated(&rows(40, 70)));
        assert_eq!(cache.len(), 70);
        for t in [0, 2, 3, 39, 40, 69] {
            for h in 0..heads {
                let want: Vec<_> = (0..dim).map(|i| f16::from_f32(value(t, h, i)).to_f32()).collect();
                assert_eq!(cache.get(h, t), (want.clone(), negated(&want)), "position {t} head {h}");
            }
        }
    }
}
