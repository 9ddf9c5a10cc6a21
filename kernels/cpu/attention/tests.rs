use super::*;
use crate::cpu::kv::KvShape;
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
            attention_dense_at::<f32>(level, &pool, &a, &mut got);
            close(&got, &want, &format!("{level:?} {q_len}x{kv_len} heads {heads}/{kv_heads} of {hd}"));
        }
    }
}

/// Against the definition on inputs that are bf16 already: what is left is the rounding of queries times the scale and of weights.
#[test]
fn dense_attention_in_bf16_agrees_with_f64_at_every_level() {
    let pool = Pool::new(2);
    let rounded = |seed, n| noise(seed, n).into_iter().map(|v| bf16::from_f32(v).to_f32()).collect::<Vec<_>>();
    for (q_len, kv_len, heads, kv_heads, hd, causal) in [
        (1, 1, 1, 1, 2, false),
        (5, 9, 2, 2, 16, false),
        (130, 130, 3, 1, 20, true),
        (27, 300, 4, 2, 64, false),
        (37, 257, 2, 1, 34, true),
    ] {
        let (q, k, v) =
            (rounded(1, q_len * heads * hd), rounded(2, kv_len * kv_heads * hd), rounded(3, kv_len * kv_heads * hd));
        let (q_stride, kv_stride, scale) = (heads * hd, kv_heads * hd, 0.25);
        let a = Dense { q: &q, k: &k, v: &v, q_len, kv_len, q_stride, kv_stride, heads, kv_heads, head_dim: hd, scale, causal };
        let want = reference::attention(&a, usize::MAX);
        for level in simd::levels() {
            let mut got = vec![f32::NAN; q.len()];
            attention_dense_at::<Pair>(level, &pool, &a, &mut got);
            for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                assert!(
                    (g - w).abs() < 2e-3,
                    "{level:?} {q_len}x{kv_len} heads {heads}/{kv_heads} of {hd} [{i}]: {g}, not {w}"
                );
            }
        }
        let mut other = vec![f32::NAN; q.len()];
        attention_dense_bf16(&Pool::new(1), &a, &mut other);
        let mut same = vec![f32::NAN; q.len()];
        attention_dense_bf16(&pool, &a, &mut same);
        assert_eq!(same, other, "one thread and two");
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

/// A store whose second layer holds a sequence of `len` positions in blocks out of order, the table, and what it holds as floats.
struct Sequence {
    store: KvStore,
    table: Vec<u32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

fn sequence(kind: KvType, len: usize, kv_heads: usize, head_dim: usize) -> Sequence {
    let mut store = KvStore::new(KvShape { layers: 2, kv_heads, head_dim, kind });
    let blocks = len.div_ceil(KV_BLOCK) as u32;
    store.reserve(blocks as usize + 1);
    let table: Vec<u32> = (1..=blocks).rev().collect();
    let (k, v) = (noise(5, len * kv_heads * head_dim), noise(6, len * kv_heads * head_dim));
    store.write(1, &table, 0, &k, &v);
    let stored = |value: bool| {
        let at = (0..len).flat_map(|t| (0..kv_heads).map(move |h| (t, h)));
        at.flat_map(|(t, h)| if value { store.get(1, &table, h, t).1 } else { store.get(1, &table, h, t).0 })
            .collect::<Vec<_>>()
    };
    let (k, v) = (stored(false), stored(true));
    Sequence { store, table, k, v }
}

impl Sequence {
    fn paged(&self, heads: usize, scale: f32, window: Option<usize>) -> Paged<'_> {
        Paged { store: &self.store, layer: 1, heads, scale, window }
    }

    fn span(&self, tokens: usize, len: usize) -> Span<'_> {
        Span { tokens, len, blocks: &self.table, causal: true }
    }
}

const KINDS: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8_0];

#[test]
fn paged_attention_agrees_with_f64_at_every_level_and_in_every_type() {
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
        for kind in KINDS {
            let s = sequence(kind, len, kv_heads, hd);
            let q = noise(7, tokens * heads * hd);
            let scale = 2.0 / (hd as f32).sqrt();
            let (q_stride, kv_stride) = (heads * hd, kv_heads * hd);
            let (q_len, kv_len, head_dim) = (tokens, len, hd);
            let (k, v) = (&s.k[..], &s.v[..]);
            let a = Dense { q: &q, k, v, q_len, kv_len, q_stride, kv_stride, heads, kv_heads, head_dim, scale, causal: true };
            let want = reference::attention(&a, window.unwrap_or(usize::MAX));
            for level in simd::levels() {
                let mut got = vec![f32::NAN; q.len()];
                let spans = [s.span(tokens, len)].into_iter();
                let mut plan = AttentionPlan::default();
                attention_paged_at(level, &pool, &mut plan, s.paged(heads, scale, window), spans, (&q, &mut got));
                let what = format!("{level:?} {kind:?} {tokens} of {len}, heads {heads}/{kv_heads} of {hd}, window {window:?}");
                close(&got, &want, &what);
            }
        }
    }
}

#[test]
fn a_span_that_is_not_causal_sees_all_of_itself() {
    let pool = Pool::new(2);
    for (tokens, len, heads, kv_heads, hd, window) in [
        (1, 1, 1, 1, 16, None),
        (4, 4, 2, 1, 16, Some(2)),
        (30, 300, 4, 2, 32, None),
        (150, 400, 4, 2, 32, Some(130)),
        (150, 290, 2, 2, 20, Some(17)),
        (3, 500, 4, 1, 64, Some(200)),
    ] {
        let s = sequence(KvType::F16, len, kv_heads, hd);
        let q = noise(7, tokens * heads * hd);
        let scale = 2.0 / (hd as f32).sqrt();
        let (q_stride, kv_stride, k, v) = (heads * hd, kv_heads * hd, &s.k[..], &s.v[..]);
        let (q_len, kv_len, head_dim) = (tokens, len, hd);
        let a = Dense { q: &q, k, v, q_len, kv_len, q_stride, kv_stride, heads, kv_heads, head_dim, scale, causal: false };
        let want = reference::attention(&a, window.unwrap_or(usize::MAX));
        for level in simd::levels() {
            let mut got = vec![f32::NAN; q.len()];
            let spans = [Span { causal: false, ..s.span(tokens, len) }].into_iter();
            let mut plan = AttentionPlan::default();
            attention_paged_at(level, &pool, &mut plan, s.paged(heads, scale, window), spans, (&q, &mut got));
            close(&got, &want, &format!("{level:?} {tokens} of {len}, window {window:?}"));
        }
    }
}

#[test]
fn a_query_depends_neither_on_threads_nor_on_the_queries_beside_it() {
    let (tokens, len, heads, kv_heads, hd) = (60, 500, 6, 2, 64);
    let q = noise(8, tokens * heads * hd);
    let row = heads * hd;
    for (kind, level) in KINDS.into_iter().flat_map(|k| simd::levels().into_iter().map(move |l| (k, l))) {
        let s = sequence(kind, len, kv_heads, hd);
        for window in [None, Some(200)] {
            let run = |threads, from: usize, to: usize| {
                let mut out = vec![0.0; (to - from) * row];
                let spans = [s.span(to - from, len - tokens + to)].into_iter();
                let (pool, mut plan) = (Pool::new(threads), AttentionPlan::default());
                let q = &q[from * row..to * row];
                attention_paged_at(level, &pool, &mut plan, s.paged(heads, 0.125, window), spans, (q, &mut out));
                out
            };
            let all = run(1, 0, tokens);
            assert_eq!(all, run(3, 0, tokens));
            for (from, to) in [(0, 1), (59, 60), (13, 15), (20, 45)] {
                assert_eq!(all[from * row..to * row], run(2, from, to), "{kind:?} {level:?} {window:?} {from}..{to}");
            }
        }
    }
}

#[test]
fn sequences_of_different_lengths_run_together() {
    let s = sequence(KvType::F16, 300, 2, 32);
    let other = [s.table[1]]; // shares the second block
    let row = 4 * 32;
    let q = noise(9, 31 * row);
    let pool = Pool::new(2);
    let run = |spans: &[Span], q: &[f32]| {
        let mut out = vec![1.0; q.len()];
        attention_paged(&pool, &mut AttentionPlan::default(), s.paged(4, 0.2, None), spans.iter().copied(), (q, &mut out));
        out
    };
    let (a, b) = (s.span(1, 300), Span { tokens: 30, len: 40, blocks: &other, causal: true });
    let together = run(&[a, b], &q);
    assert_eq!([run(&[a], &q[..row]), run(&[b], &q[row..])].concat(), together);
}

#[test]
fn a_query_that_is_not_finite_shows() {
    let s = sequence(KvType::F16, 20, 1, 16);
    let mut q = noise(11, 32);
    q[3] = f32::NAN;
    let mut out = vec![0.0; 32];
    let spans = [s.span(2, 20)].into_iter();
    attention_paged(&Pool::new(1), &mut AttentionPlan::default(), s.paged(1, 1.0, None), spans, (&q, &mut out));
    assert!(out[..16].iter().all(|v| v.is_nan()) && out[16..].iter().all(|v| v.is_finite()));
}

#[test]
#[should_panic(expected = "usable blocks")]
fn a_table_that_ends_too_early_is_refused() {
    let s = sequence(KvType::F16, 200, 1, 16);
    let span = Span { tokens: 1, len: 200, blocks: &s.table[..1], causal: true };
    let (q, mut out) = ([0.0; 16], [0.0; 16]);
    attention_paged(&Pool::new(1), &mut AttentionPlan::default(), s.paged(1, 1.0, None), [span].into_iter(), (&q, &mut out));
}
