use super::*;
use crate::cpu::reference;
use crate::linear::tests::noise;

fn close(got: &[f32], want: &[f32], what: &str) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() < 3e-6, "{what} [{i}]: {g}, not {w}");
    }
}

#[test]
fn dense_attention_agrees_with_f64_at_every_level() {
    let pool = Pool::new(2);
    for (q_len, kv_len, heads, kv_heads, hd, causal) in [
        (1, 1, 1, 1, 1, false),
        (5, 9, 2, 2, 16, false),
        (130, 130, 3, 1, 20, true),
        (1, 300, 4, 2, 64, false),
        (27, 200, 2, 1, 33, true),
        (100, 257, 2, 2, 64, false),
    ] {
        let (q, k, v) = (noise(1, q_len * heads * hd), noise(2, kv_len * kv_heads * hd), noise(3, kv_len * kv_heads * hd));
        let scale = 3.0 / (hd as f32).sqrt();
        let (q_stride, kv_stride) = (heads * hd, kv_heads * hd);
        let a = Dense { q: &q, k: &k, v: &v, q_len, kv_len, q_stride, kv_stride, heads, kv_heads, head_dim: hd, scale, causal };
        let want = reference::attention(&a, usize::MAX);
        for level in simd::levels() {
            let mut got = vec![f32::NAN; q.len()];
            attention_dense_at(level, &pool, &a, &mut got);
            close(&got, &want, &format!("{level:?} {q_len}x{kv_len} heads {heads}/{kv_heads} of {hd}"));
        }
    }
}

#[test]
fn strided_slices_of_a_joined_product_are_read_in_place() {
    let (len, heads, hd) = (19, 2, 16);
    let d = heads * hd;
    let joined = noise(4, len * 3 * d);
    let part = |i: usize| joined.chunks_exact(3 * d).flat_map(|row| row[i * d..][..d].to_vec()).collect::<Vec<_>>();
    let (q, k, v) = (part(0), part(1), part(2));
    let apart = Dense {
        q: &q,
        k: &k,
        v: &v,
        q_len: len,
        kv_len: len,
        q_stride: d,
        kv_stride: d,
        heads,
        kv_heads: heads,
        head_dim: hd,
        scale: 0.25,
        causal: false,
    };
    let together = Dense { q: &joined, k: &joined[d..], v: &joined[2 * d..], q_stride: 3 * d, kv_stride: 3 * d, ..apart };
    let (mut a, mut b) = (vec![0.0; len * d], vec![1.0; len * d]);
    attention_dense(&Pool::new(1), &apart, &mut a);
    attention_dense(&Pool::new(2), &together, &mut b);
    assert_eq!(a, b);
}

/// A cache of `len` positions and its contents as the f16 that it stores.
fn cache(len: usize, kv_heads: usize, hd: usize) -> (KvCache, Vec<f32>, Vec<f32>) {
    let rounded = |seed| noise(seed, len * kv_heads * hd).iter().map(|&v| f16::from_f32(v).to_f32()).collect::<Vec<_>>();
    let (k, v) = (rounded(5), rounded(6));
    let mut cache = KvCache::new(kv_heads, hd, 7);
    cache.append(&k, &v);
    (cache, k, v)
}

#[test]
fn cached_attention_agrees_with_f64_at_every_level() {
    let pool = Pool::new(2);
    for (tokens, len, heads, kv_heads, hd, window) in [
        (1, 1, 1, 1, 16, None),
        (1, 700, 9, 3, 64, None),
        (3, 700, 4, 1, 256, Some(300)),
        (1, 129, 6, 2, 40, Some(1)),
        (150, 150, 4, 2, 64, None),
        (150, 400, 3, 1, 32, Some(130)),
        (40, 300, 2, 2, 20, Some(17)),
    ] {
        let (cache, k, v) = cache(len, kv_heads, hd);
        let q = noise(7, tokens * heads * hd);
        let scale = 2.0 / (hd as f32).sqrt();
        let (q_stride, kv_stride) = (heads * hd, kv_heads * hd);
        let a = Dense {
            q: &q,
            k: &k,
            v: &v,
            q_len: tokens,
            kv_len: len,
            q_stride,
            kv_stride,
            heads,
            kv_heads,
            head_dim: hd,
            scale,
            causal: true,
        };
        let want = reference::attention(&a, window.unwrap_or(usize::MAX));
        for level in simd::levels() {
            let mut got = vec![f32::NAN; q.len()];
            let one = Cached { q: &q, cache: &cache, heads, scale, window, out: &mut got };
            attention_cached_at(level, &pool, &mut [one]);
            close(&got, &want, &format!("{level:?} {tokens} of {len}, heads {heads}/{kv_heads} of {hd}, window {window:?}"));
        }
    }
}

#[test]
fn a_query_depends_neither_on_threads_nor_on_the_queries_beside_it() {
    let (tokens, len, heads, kv_heads, hd) = (60, 500, 6, 2, 64);
    let (cache, _, _) = cache(len, kv_heads, hd);
    let q = noise(8, tokens * heads * hd);
    let row = heads * hd;
    for level in simd::levels() {
        for window in [None, Some(200)] {
            let run = |threads, from: usize, to: usize| {
                let mut shorter = cache.clone();
                shorter.truncate(len - tokens + to);
                let mut out = vec![0.0; (to - from) * row];
                let one = Cached { q: &q[from * row..to * row], cache: &shorter, heads, scale: 0.125, window, out: &mut out };
                attention_cached_at(level, &Pool::new(threads), &mut [one]);
                out
            };
            let all = run(1, 0, tokens);
            assert_eq!(all, run(3, 0, tokens));
            for (from, to) in [(0, 1), (59, 60), (13, 15), (20, 45)] {
                assert_eq!(all[from * row..to * row], run(2, from, to), "{level:?} {window:?} {from}..{to}");
            }
        }
    }
}

#[test]
fn sequences_of_different_lengths_run_together() {
    let ((a, _, _), (b, _, _)) = (cache(300, 2, 32), cache(40, 2, 32));
    let (qa, qb) = (noise(9, 4 * 32), noise(10, 30 * 4 * 32));
    let (mut apart, mut together) = ((vec![0.0; qa.len()], vec![0.0; qb.len()]), (vec![1.0; qa.len()], vec![1.0; qb.len()]));
    let pool = Pool::new(2);
    let one = |q, cache, out| Cached { q, cache, heads: 4, scale: 0.2, window: None, out };
    attention_cached(&pool, &mut [one(&qa, &a, &mut apart.0)]);
    attention_cached(&pool, &mut [one(&qb, &b, &mut apart.1)]);
    attention_cached(&pool, &mut [one(&qa, &a, &mut together.0), one(&qb, &b, &mut together.1)]);
    assert_eq!(apart, together);
}

#[test]
fn a_query_that_is_not_finite_shows() {
    let (cache, _, _) = cache(20, 1, 16);
    let mut q = noise(11, 32);
    q[3] = f32::NAN;
    let mut out = vec![0.0; 32];
    let one = Cached { q: &q, cache: &cache, heads: 1, scale: 1.0, window: None, out: &mut out };
    attention_cached(&Pool::new(1), &mut [one]);
    assert!(out[..16].iter().all(|v| v.is_nan()) && out[16..].iter().all(|v| v.is_finite()));
}
