//! The decoder's attention. Across to the audio: keys and values of a head become packed matrices once a window, so that each
//! token's scores and sums are products like all others, and its weights are at hand for the times of words. Over the tokens:
//! plain loops, a few hundred positions at most.

use dreamseed_kernels::{BlockType, Epilogue, Matrix, MatrixError, Pool, linear};
use half::{f16, slice::HalfFloatSliceExt};

use super::math::{dot, softmax};
use super::options::Precision;

/// Keys and values of one layer over one window of audio, packed by head.
#[derive(Default)]
pub(super) struct Packed {
    heads: Vec<Head>,
    positions: usize,
}

struct Head {
    keys: Matrix,   // (positions, head_dim)
    values: Matrix, // (head_dim, positions)
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

/// What a head's keys and values go through on their way into matrices.
#[derive(Default)]
pub(super) struct Scratch {
    floats: Vec<f32>, // (positions, head_dim), then (head_dim, positions)
    halves: Vec<f16>, // the same
}

impl Packed {
    /// Takes the keys and values of other rows, one task a head; memory is kept where the shape is the same. `scratch`: one a head.
    pub(super) fn fill(
        &mut self,
        pool: &Pool,
        rows: &[f32],
        layout: Layout,
        precision: Precision,
        scratch: &mut Vec<Scratch>,
    ) -> Result<(), MatrixError> {
        let (positions, head_dim) = (rows.len() / layout.stride, layout.head_dim);
        scratch.resize_with(layout.heads, Scratch::default);
        if self.heads.len() != layout.heads || self.positions != positions {
            let empty = |rows, cols| match precision {
                Precision::Stored => Matrix::from_f32(rows, cols, &vec![0.0; rows * cols]),
                Precision::Int8 => Matrix::from_f16(rows, cols, &vec![f16::ZERO; rows * cols]),
            };
            let head = |_| Ok(Head { keys: empty(positions, head_dim)?, values: empty(head_dim, positions)? });
            *self = Self { heads: (0..layout.heads).map(head).collect::<Result<_, _>>()?, positions };
        }
        let mut tasks: Vec<_> = self.heads.iter_mut().zip(scratch).map(|both| (both, Ok(()))).collect();
        pool.for_each_chunk(&mut tasks, 1, |i, task| {
            let ((head, scratch), result) = &mut task[0];
            *result = head.fill(rows, layout, i, scratch);
        });
        tasks.into_iter().try_for_each(|(_, result)| result)
    }

    /// Heads, their width, and floats of scratch for one query of one head: query, weights, sum.
    pub(super) fn shape(&self) -> (usize, usize, usize) {
        let head_dim = self.heads.first().map_or(0, |head| head.keys.cols());
        (self.heads.len(), head_dim, 2 * head_dim + self.positions)
    }

    /// Every query (rows, heads x head_dim) of one head sees every key. `work`: (rows x work_per_row), afterwards queries, weights and
    /// sums, each of all rows: see [`Hearing::attend`].
    fn attend(&self, pool: &Pool, head: usize, queries: &[f32], work: &mut [f32]) {
        let Head { keys, values } = &self.heads[head];
        let (head_dim, d) = (keys.cols(), self.heads.len() * keys.cols());
        let rows = queries.len() / d;
        let (q, rest) = work.split_at_mut(rows * head_dim);
        let (scores, sums) = rest.split_at_mut(rows * self.positions);
        for (q, row) in q.chunks_exact_mut(head_dim).zip(queries.chunks_exact(d)) {
            q.copy_from_slice(&row[head * head_dim..][..head_dim]);
        }
        linear(pool, q, keys, scores, Epilogue::default());
        let scale = 1.0 / (head_dim as f32).sqrt();
        scores.chunks_exact_mut(self.positions).for_each(|row| softmax(row, scale));
        linear(pool, scores, values, sums, Epilogue::default());
    }
}

impl Head {
    fn fill(&mut self, rows: &[f32], layout: Layout, head: usize, scratch: &mut Scratch) -> Result<(), MatrixError> {
        let Layout { head_dim, stride, keys, values, .. } = layout;
        let (positions, Scratch { floats, halves }) = (rows.len() / stride, scratch);
        floats.resize(positions * head_dim, 0.0);
        let (keys, values) = (keys + head * head_dim, values + head * head_dim);
        for (to, row) in floats.chunks_exact_mut(head_dim).zip(rows.chunks_exact(stride)) {
            to.copy_from_slice(&row[keys..][..head_dim]);
        }
        refill(&mut self.keys, floats, halves)?;
        for (t, row) in rows.chunks_exact(stride).enumerate() {
            row[values..][..head_dim].iter().enumerate().for_each(|(i, x)| floats[i * positions + t] = *x);
        }
        refill(&mut self.values, floats, halves)
    }
}

fn refill(matrix: &mut Matrix, floats: &[f32], halves: &mut Vec<f16>) -> Result<(), MatrixError> {
    if matrix.kind() == BlockType::F32 {
        return matrix.refill_f32(floats);
    }
    halves.resize(floats.len(), f16::ZERO);
    halves.convert_from_f32_slice(floats);
    matrix.refill_f16(halves)
}

/// Neighbouring rows that hear the same audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hearing {
    pub(super) audio: usize,
    pub(super) first: usize, // row
    pub(super) rows: usize,
}

impl Hearing {
    /// Attention of queries (rows, state) over what each row hears, one task a head of an audio. `packed`: an audio's keys and values;
    /// `out`: (rows, state). `work` is (hearings, heads, chunk) and keeps the weights: see [`Self::weights`].
    pub(super) fn attend<'p>(
        hearings: &[Self],
        pool: &Pool,
        packed: impl Fn(usize) -> &'p Packed + Sync,
        queries: &[f32],
        work: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let Some(first) = hearings.first() else { return };
        let (heads, head_dim, per_row) = packed(first.audio).shape();
        let (d, most) = (heads * head_dim, hearings.iter().map(|h| h.rows).max().unwrap_or(0));
        let chunk = most * per_row;
        let work = room(work, hearings.len() * heads * chunk);
        pool.for_each_chunk(work, chunk, |i, work| {
            let Self { audio, first, rows } = hearings[i / heads];
            packed(audio).attend(pool, i % heads, &queries[first * d..][..rows * d], &mut work[..rows * per_row]);
        });
        for (i, work) in work.chunks_exact(chunk).enumerate() {
            let Self { first, rows, .. } = hearings[i / heads];
            let sums = work[rows * (per_row - head_dim)..].chunks_exact(head_dim);
            for (out, sum) in out[first * d..][..rows * d].chunks_exact_mut(d).zip(sums) {
                out[i % heads * head_dim..][..head_dim].copy_from_slice(sum);
            }
        }
    }

    /// The weights (rows, positions) of one head that [`Self::attend`] over a single audio left in `work`.
    pub(super) fn weights<'w>(packed: &Packed, work: &'w [f32], head: usize, rows: usize) -> &'w [f32] {
        let (_, head_dim, per_row) = packed.shape();
        &work[rows * (head * per_row + head_dim)..][..rows * packed.positions]
    }
}

/// The first `len` elements of a buffer that only grows.
pub(super) fn room<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}

/// A token on its way through the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) token: u32,
    pub(super) audio: u32,    // that it hears
    pub(super) slot: u32,     // of its sequence
    pub(super) position: u32, // in the sequence
}

/// Keys and values of sequences that grow by a position a token: (slots, capacity, state) each. A sequence that goes on from another
/// shares its positions: `origins` (slots, capacity) tells in which slot each lies.
pub(super) struct Grown<'a> {
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) origins: &'a [u32],
    pub(super) capacity: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
}

impl Grown<'_> {
    /// Causal attention of new rows, whose keys and values are already in place, one task a head of a row. `qkv`: (rows, 3 state);
    /// `work`: (rows, heads, capacity + head_dim); `out`: (rows, state).
    pub(super) fn attend(&self, pool: &Pool, rows: &[Row], qkv: &[f32], work: &mut Vec<f32>, out: &mut [f32]) {
        let (d, heads, head_dim) = (self.heads * self.head_dim, self.heads, self.head_dim);
        let chunk = self.capacity + head_dim;
        let work = room(work, rows.len() * heads * chunk);
        let scale = 1.0 / (head_dim as f32).sqrt();
        pool.for_each_chunk(work, chunk, |i, work| {
            let (row, column) = (i / heads, i % heads * head_dim);
            let seen = rows[row].position as usize + 1;
            let origins = &self.origins[rows[row].slot as usize * self.capacity..][..seen];
            let places = || origins.iter().enumerate().map(|(t, slot)| (*slot as usize * self.capacity + t) * d + column);
            let query = &qkv[row * 3 * d + column..][..head_dim];
            let (scores, sum) = work.split_at_mut(self.capacity);
            let scores = &mut scores[..seen];
            scores.iter_mut().zip(places()).for_each(|(s, at)| *s = dot(query, &self.keys[at..][..head_dim]));
            softmax(scores, scale);
            sum.fill(0.0);
            for (weight, at) in scores.iter().zip(places()) {
                sum.iter_mut().zip(&self.values[at..][..head_dim]).for_each(|(s, v)| *s += weight * v);
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

    fn close(a: &[f32], b: &[f64], near: f64) {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).for_each(|(a, b)| assert!((f64::from(*a) - b).abs() < near, "{a} {b}"));
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
        let other: Vec<f32> = qkv.iter().map(|x| -x).collect();
        let inverted: Vec<f32> = v.iter().map(|x| -x).collect();
        let against = reference(&q, [&k.iter().map(|x| -x).collect::<Vec<_>>(), &inverted], heads, d, |_| positions);
        for (threads, precision, near) in
            [(1, Precision::Stored, 1e-5), (2, Precision::Stored, 1e-5), (2, Precision::Int8, 2e-3)]
        {
            let pool = Pool::new(threads);
            let mut packed = [Packed::default(), Packed::default()];
            let mut scratch = Vec::new();
            // the first takes other values before its own: nothing of them stays
            for (at, rows) in [(0, &other), (1, &other), (0, &qkv)] {
                packed[at].fill(&pool, rows, layout, precision, &mut scratch).unwrap();
            }
            let (mut out, mut work) = (vec![0.0; 4 * d], Vec::new());
            // rows 0 to 2 hear the first, row 3 the second
            let hearings = [Hearing { audio: 0, first: 0, rows: 3 }, Hearing { audio: 1, first: 3, rows: 1 }];
            Hearing::attend(&hearings, &pool, |i| &packed[i], &q[..4 * d], &mut work, &mut out);
            close(&out[..3 * d], &wanted[..3 * d], near);
            close(&out[3 * d..], &against[3 * d..4 * d], near);
            let alone = [Hearing { audio: 0, first: 0, rows: 4 }];
            Hearing::attend(&alone, &pool, |i| &packed[i], &q[..4 * d], &mut work, &mut out);
            close(&out, &wanted[..4 * d], near);
            let sum: f32 = Hearing::weights(&packed[0], &work, 1, 4)[..positions].iter().sum();
            assert!((sum - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn grown_attention_is_causal_and_shares_what_went_before() {
        let (heads, head_dim, capacity, first, new) = (2, 6, 9, 3, 4);
        let d = heads * head_dim;
        let (q, k, v) = (random(2 * new * d, 4), random(2 * capacity * d, 5), random(2 * capacity * d, 6));
        let qkv: Vec<f32> = q.chunks_exact(d).flat_map(|q| [q, &[9.0; 12], &[9.0; 12]].concat()).collect();
        // the second sequence went on from the first one after `first` positions
        let origins: Vec<u32> = (0..2 * capacity).map(|i| u32::from(i >= capacity + first)).collect();
        let grown = Grown { keys: &k, values: &v, origins: &origins, capacity, heads, head_dim };
        let row = |i: usize| Row { token: 0, audio: 0, slot: (i / new) as u32, position: (first + i % new) as u32 };
        let rows: Vec<Row> = (0..2 * new).map(row).collect();
        let mut out = vec![0.0; 2 * new * d];
        grown.attend(&Pool::new(2), &rows, &qkv, &mut Vec::new(), &mut out);
        for s in 0..2 {
            let part = |x: &[f32]| [&x[..first * d], &x[(s * capacity + first) * d..][..(capacity - first) * d]].concat();
            let wanted = reference(&q[s * new * d..][..new * d], [&part(&k), &part(&v)], heads, d, |i| first + i + 1);
            close(&out[s * new * d..][..new * d], &wanted, 1e-5);
        }
    }
}
