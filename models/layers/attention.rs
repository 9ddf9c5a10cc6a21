//! Causal attention of new positions over a cache of keys and values.

use dreamseed_kernels::Pool;

/// Shape of one call.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions in the cache before the first new one; the new ones are in the cache too.
    pub past: usize,
    /// How many positions a query sees, its own among them; `None`: all up to its own.
    pub window: Option<usize>,
    /// Scores times this before the softmax.
    pub scale: f32,
}

/// `out = softmax(q k^T scale) v`. `q`, `out`: (n, heads, head_dim); `keys`, `values`: (past + n or more, kv_heads, head_dim).
pub fn causal(pool: &Pool, shape: Shape, q: &[f32], keys: &[f32], values: &[f32], out: &mut [f32]) {
    let Shape { heads, kv_heads, head_dim, past, window, scale } = shape;
    let stride = kv_heads * head_dim;
    pool.for_each_chunk(out, head_dim, |i, out| {
        let (row, head) = (i / heads, i % heads);
        let query = &q[i * head_dim..(i + 1) * head_dim];
        let end = past + row + 1;
        let start = window.map_or(0, |w| end.saturating_sub(w));
        let at = head / (heads / kv_heads) * head_dim;
        // Softmax in one pass: sums so far are rescaled when a larger score comes (Milakov and Gimelshein 2018).
        let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0f32);
        out.fill(0.0);
        for position in start..end {
            let base = position * stride + at;
            let score = dot(query, &keys[base..base + head_dim]) * scale;
            if score > max {
                let shrink = (max - score).exp();
                sum *= shrink;
                out.iter_mut().for_each(|o| *o *= shrink);
                max = score;
            }
            let weight = (score - max).exp();
            sum += weight;
            for (o, v) in out.iter_mut().zip(&values[base..base + head_dim]) {
                *o += weight * v;
            }
        }
        let scale = sum.recip();
        out.iter_mut().for_each(|o| *o *= scale);
    });
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 + seed) * 12.9898).sin() * 2.0).collect()
    }

    #[test]
    fn equals_the_plain_formula() {
        for (heads, kv_heads, head_dim, past, n, window) in
            [(4, 2, 20, 5, 3, None), (3, 3, 16, 0, 7, Some(3)), (2, 1, 8, 9, 1, Some(4))]
        {
            let (q, k, v) = (
                noise(n * heads * head_dim, 0.1),
                noise((past + n) * kv_heads * head_dim, 0.5),
                noise((past + n) * kv_heads * head_dim, 0.9),
            );
            let mut out = vec![0.0; q.len()];
            let shape = Shape { heads, kv_heads, head_dim, past, window, scale: 0.3 };
            causal(&Pool::new(2), shape, &q, &k, &v, &mut out);
            for row in 0..n {
                for head in 0..heads {
                    let kv = head / (heads / kv_heads);
                    let seen: Vec<usize> =
                        (0..past + n).filter(|&p| p <= past + row && window.is_none_or(|w| past + row - p < w)).collect();
                    let at = |p: usize, d: usize| (p * kv_heads + kv) * head_dim + d;
                    let score = |p: usize| {
                        (0..head_dim)
                            .map(|d| f64::from(q[(row * heads + head) * head_dim + d]) * f64::from(k[at(p, d)]))
                            .sum::<f64>()
                            * 0.3
                    };
                    let max = seen.iter().map(|&p| score(p)).fold(f64::MIN, f64::max);
                    let sum: f64 = seen.iter().map(|&p| (score(p) - max).exp()).sum();
                    for d in 0..head_dim {
                        let wanted: f64 = seen.iter().map(|&p| (score(p) - max).exp() / sum * f64::from(v[at(p, d)])).sum();
                        let got = f64::from(out[(row * heads + head) * head_dim + d]);
                        assert!((got - wanted).abs() < 1e-5, "{got} {wanted}");
                    }
                }
            }
        }
    }
}
