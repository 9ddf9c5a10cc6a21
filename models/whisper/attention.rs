//! The decoder's attention. Across to the audio: keys and values of a head become packed matrices once a window, so that each
//! token's scores and sums are products like all others, and its weights are at hand for the times of words. Over the tokens:
//! plain loops, a few hundred positions at most.

use dreamseed_kernels::{Epilogue, Matrix, MatrixError, Pool, linear};
use half::f16;

use super::math::{dot, softmax};
use super::options::Precision;

/// Keys and values of one layer, packed by head.
pub(super) struct Packed {
    keys: Vec<Matrix>,   // (heads) of (positions, head_dim)
    values: Vec<Matrix>, // (heads) of (head_dim, positions)
    positions: usize,
}

/// Where keys and values lie in rows of activations.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    pub(super) stride: usize, // floats from one row to the next
    pub(super) keys: usize,   // where in the row the keys begin
    pub(super) values: usize, // where in the row the values begin
}

impl Packed {
    pub(super) fn new(pool: &Pool, rows: &[f32], layout: Layout, precision: Precision) -> Result<Self, MatrixError> {
        let Layout { heads, head_dim, stride, keys, values } = layout;
        let positions = rows.len() / stride;
        let mut packed: Vec<Option<Result<(Matrix, Matrix), MatrixError>>> = (0..heads).map(|_| None).collect();
        pool.for_each_chunk(&mut packed, 1, |head, slot| {
            let mut k = vec![0.0; positions * head_dim];
            let mut v = vec![0.0; positions * head_dim];
            for (t, row) in rows.chunks_exact(stride).enumerate() {
                k[t * head_dim..][..head_dim].copy_from_slice(&row[keys + head * head_dim..][..head_dim]);
                for (i, x) in row[values + head * head_dim..][..head_dim].iter().enumerate() {
                    v[i * positions + t] = *x;
                }
            }
            let pack = |rows, cols, values: &[f32]| match precision {
                Precision::Stored => Matrix::from_f32(rows, cols, values),
                Precision::Int8 => {
                    let halves: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
                    Matrix::from_f16(rows, cols, &halves)
                }
            };
            slot[0] = Some(pack(positions, head_dim, &k).and_then(|k| Ok((k, pack(head_dim, positions, &v)?))));
        });
        let both: Vec<_> = packed.into_iter().flatten().collect::<Result<_, _>>()?;
        let (keys, values): (Vec<Matrix>, Vec<Matrix>) = both.into_iter().unzip();
        Ok(Self { keys, values, positions })
    }

    /// Every query sees every key, one task a head. `queries` and `out`: (rows, heads x head_dim). `work` is (heads, rows x work_per_row) and holds the weights afterwards: see
    /// [`Self::weights`].
    pub(super) fn attend(&self, pool: &Pool, queries: &[f32], work: &mut Vec<f32>, out: &mut [f32]) {
        let (heads, head_dim) = (self.keys.len(), self.keys[0].cols());
        let d = heads * head_dim;
        let rows = queries.len() / d;
        let chunk = rows * self.work_per_row();
        work.resize(heads * chunk, 0.0);
        pool.for_each_chunk(work, chunk, |head, work| {
            self.one_head(pool, head, queries, work);
        });
        for (head, work) in work.chunks_exact(chunk).enumerate() {
            let sums = &work[rows * (head_dim + self.positions)..];
            for (out, sum) in out.chunks_exact_mut(d).zip(sums.chunks_exact(head_dim)) {
                out[head * head_dim..][..head_dim].copy_from_slice(sum);
            }
        }
    }

    /// The weights (rows, positions) of one head that [`Self::attend`] left in `work`.
    pub(super) fn weights<'a>(&self, work: &'a [f32], head: usize, rows: usize) -> &'a [f32] {
        let start = head * rows * self.work_per_row() + rows * self.keys[0].cols();
        &work[start..][..rows * self.positions]
    }

    /// Floats of scratch for one query of one head: query, weights, sum.
    fn work_per_row(&self) -> usize {
        2 * self.keys[0].cols() + self.positions
    }

    fn one_head(&self, pool: &Pool, head: usize, queries: &[f32], work: &mut [f32]) {
        let (head_dim, d) = (self.keys[0].cols(), self.keys.len() * self.keys[0].cols());
        let rows = queries.len() / d;
        let (q, rest) = work.split_at_mut(rows * head_dim);
        let (scores, sums) = rest.split_at_mut(rows * self.positions);
        for (q, row) in q.chunks_exact_mut(head_dim).zip(queries.chunks_exact(d)) {
            q.copy_from_slice(&row[head * head_dim..][..head_dim]);
        }
        linear(pool, q, &self.keys[head], scores, Epilogue::default());
        let scale = 1.0 / (head_dim as f32).sqrt();
        scores.chunks_exact_mut(self.positions).for_each(|row| softmax(row, scale));
        linear(pool, scores, &self.values[head], sums, Epilogue::default());
    }
}

/// Keys and values that grow by one position a token: (sequences, capacity, state) each.
pub(super) struct Grown<'a> {
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) capacity: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
}

impl Grown<'_> {
    /// Causal attention of `per_sequence` new positions of each sequence, the first of them at `first`; their keys and values
    /// are already in place. `qkv`: rows of 3 x state; `work`: (rows, heads, capacity); `out`: (rows, state).
    pub(super) fn attend(
        &self,
        pool: &Pool,
        qkv: &[f32],
        (first, per_sequence): (usize, usize),
        work: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let (d, heads, head_dim) = (self.heads * self.head_dim, self.heads, self.head_dim);
        let rows = out.len() / d;
        let chunk = self.capacity + head_dim;
        work.resize(rows * heads * chunk, 0.0);
        let scale = 1.0 / (head_dim as f32).sqrt();
        pool.for_each_chunk(work, heads * chunk, |row, work| {
            let seen = first + row % per_sequence + 1;
            let sequence = (row / per_sequence) * self.capacity * d;
            for (head, work) in work.chunks_exact_mut(chunk).enumerate() {
                let column = head * head_dim;
                let query = &qkv[row * 3 * d + column..][..head_dim];
                let (scores, sum) = work.split_at_mut(self.capacity);
                let scores = &mut scores[..seen];
                let keys = self.keys[sequence..].chunks_exact(d);
                scores.iter_mut().zip(keys).for_each(|(s, k)| *s = dot(query, &k[column..][..head_dim]));
                softmax(scores, scale);
                sum.fill(0.0);
                for (weight, v) in scores.iter().zip(self.values[sequence..].chunks_exact(d)) {
                    sum.iter_mut().zip(&v[column..][..head_dim]).for_each(|(s, v)| *s += weight * v);
                }
            }
        });
        for (out, work) in out.chunks_exact_mut(head_dim).zip(work.chunks_exact(chunk)) {
            out.copy_from_slice(&work[self.capacity..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    /// The definition in f64. q: (rows, d), k and v: (positions, d); row i sees `seen(i)` positions.
    fn reference(q: &[f32], kv: [&[f32]; 2], heads: usize, d: usize, seen: impl Fn(usize) -> usize) -> Vec<f64> {
        let hd = d / heads;
        let mut out = vec![0.0; q.len()];
        for (i, q) in q.chunks_exact(d).enumerate() {
            for h in 0..heads {
                let of = |x: &[f32], t: usize, j: usize| f64::from(x[t * d + h * hd + j]);
                let score =
                    |t: usize| (0..hd).map(|j| f64::from(q[h * hd + j]) * of(kv[0], t, j)).sum::<f64>() / (hd as f64).sqrt();
                let weights: Vec<f64> = (0..seen(i)).map(|t| score(t).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for j in 0..hd {
                    out[i * d + h * hd + j] = weights.iter().enumerate().map(|(t, w)| w / sum * of(kv[1], t, j)).sum();
                }
            }
        }
        out
    }

    fn close(a: &[f32], b: &[f64]) {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).for_each(|(a, b)| assert!((f64::from(*a) - b).abs() < 1e-5, "{a} {b}"));
    }

    #[test]
    fn packed_attention_equals_the_definition() {
        let (heads, head_dim, positions) = (3, 5, 70);
        let d = heads * head_dim;
        let (q, k, v) = (random(positions * d, 1), random(positions * d, 2), random(positions * d, 3));
        let row = |t: usize| [&q[t * d..][..d], &k[t * d..][..d], &v[t * d..][..d]].concat();
        let qkv: Vec<f32> = (0..positions).flat_map(row).collect();
        let layout = Layout { heads, head_dim, stride: 3 * d, keys: d, values: 2 * d };
        let wanted = reference(&q, [&k, &v], heads, d, |_| positions);
        for threads in [1, 2] {
            let pool = Pool::new(threads);
            let packed = Packed::new(&pool, &qkv, layout, Precision::Stored).unwrap();
            let mut out = vec![0.0; 4 * d];
            let mut work = Vec::new();
            packed.attend(&pool, &q[..4 * d], &mut work, &mut out);
            close(&out, &wanted[..4 * d]);
            let sum: f32 = packed.weights(&work, 1, 4)[..positions].iter().sum();
            assert!((sum - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn grown_attention_is_causal() {
        let (heads, head_dim, capacity, first, new) = (2, 6, 9, 3, 4);
        let d = heads * head_dim;
        let (q, k, v) = (random(2 * new * d, 4), random(2 * capacity * d, 5), random(2 * capacity * d, 6));
        let qkv: Vec<f32> = q.chunks_exact(d).flat_map(|q| [q, &[9.0; 12], &[9.0; 12]].concat()).collect();
        let grown = Grown { keys: &k, values: &v, capacity, heads, head_dim };
        let mut out = vec![0.0; 2 * new * d];
        grown.attend(&Pool::new(2), &qkv, (first, new), &mut Vec::new(), &mut out);
        for s in 0..2 {
            let part = |x: &[f32]| x[s * capacity * d..][..capacity * d].to_vec();
            let wanted = reference(&q[s * new * d..][..new * d], [&part(&k), &part(&v)], heads, d, |i| first + i + 1);
            close(&out[s * new * d..][..new * d], &wanted);
        }
    }
}
