//! Speed of the products beside what the machine can do: `cargo run --release -p dreamseed-kernels --example kernels [THREADS]`.
//!
//! Prints read bandwidth and peak of f32 multiply-adds, then per type and shape GB/s of weights (GEMV) and GOPS (GEMM, two
//! operations a multiply-add). Times are minima over repetitions.

use dreamseed_kernels::{
    AttentionPlan, BlockType, Dense, Epilogue, KV_BLOCK, KvShape, KvStore, KvType, Matrix, Paged, Pool, Span,
};
use dreamseed_kernels::{attention_dense, attention_paged, cpu::peak, linear, simd};
use std::time::Instant;

fn noise(len: usize) -> Vec<f32> {
    let mut s = 1u32;
    (0..len)
        .map(|_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// The fastest tenth of the runs within about 0.3 s, in seconds: what the machine does when nobody disturbs it.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let (mut times, start) = (Vec::new(), Instant::now());
    while times.len() < 10 || start.elapsed().as_secs_f64() < 0.3 {
        let t = Instant::now();
        f();
        times.push(t.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 10]
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or_else(Pool::default_threads);
    let pool = Pool::new(threads);
    println!("level {:?}, {threads} threads", simd::level());
    let empty = best(|| (0..1000).for_each(|_| pool.for_each(threads, |_| {})));
    println!("an empty region takes {:.2} us", empty * 1e3);
    let limit = peak::Reader::new(&pool).gb_s(&pool, 10);
    println!("read bandwidth {limit:.1} GB/s");
    let peak = peak::f32_gflops(&pool);
    let integer = peak::int8_gops(&pool);
    println!("f32 peak {peak:.0} GFLOPS, int8 peak {integer:.0} GOPS");

    println!("\nf32/f16 GEMM       m     n     k   GFLOPS  of peak");
    let shapes = [
        (1500, 2048, 512),
        (1500, 512, 2048),
        (1500, 512, 512),
        (4096, 96, 16),
        (1024, 192, 96),
        (256, 600, 100),
        (16384, 16, 16),
    ];
    for (m, n, k) in shapes {
        for kind in [BlockType::F32, BlockType::F16] {
            let w = noise(n * k);
            let w = match kind {
                BlockType::F16 => {
                    Matrix::from_f16(n, k, &w.iter().map(|&v| half::f16::from_f32(v)).collect::<Vec<_>>()).unwrap()
                }
                _ => Matrix::from_f32(n, k, &w).unwrap(),
            };
            let (x, mut out) = (noise(m * k), vec![0.0; m * n]);
            let seconds = best(|| linear(&pool, &x, &w, &mut out, Epilogue::default()));
            let rate = 2.0 * (m * n * k) as f64 / seconds / 1e9;
            println!("{:<14?} {m:>5} {n:>5} {k:>5} {rate:>8.0} {:>7.0}%", kind, 100.0 * rate / peak);
        }
    }

    println!("\nGEMV, weights beyond the cache     n     k     GB/s  of read");
    for kind in QUANTIZED.into_iter().chain([BlockType::F16, BlockType::BF16, BlockType::F32]) {
        for (n, k) in [(1536, 512), (1536, 2048), (4096, 4096)] {
            // Several matrices, used in turn, so that none stays in the cache.
            let (elements, size) = kind.block();
            let each = n * k / elements * size;
            let matrices: Vec<_> = (0..(96usize << 20).div_ceil(each)).map(|i| arbitrary(&pool, kind, n, k, i)).collect();
            let (x, mut out) = (noise(k), vec![0.0; n]);
            let mut turn = matrices.iter().cycle();
            let seconds = best(|| linear(&pool, &x, turn.next().unwrap(), &mut out, Epilogue::default()));
            let rate = each as f64 / seconds / 1e9;
            println!("{:<32?} {n:>5} {k:>5} {rate:>8.1} {:>7.0}%", kind, 100.0 * rate / limit);
        }
    }

    println!("\nint8 GEMM          m     n     k     GOPS  of peak");
    for kind in QUANTIZED {
        for (m, n, k) in [(8, 1536, 512), (64, 1536, 512), (512, 1536, 512), (512, 512, 1536)] {
            let w = arbitrary(&pool, kind, n, k, 0);
            let (x, mut out) = (noise(m * k), vec![0.0; m * n]);
            let seconds = best(|| linear(&pool, &x, &w, &mut out, Epilogue::default()));
            let rate = 2.0 * (m * n * k) as f64 / seconds / 1e9;
            println!("{:<14?} {m:>5} {n:>5} {k:>5} {rate:>8.0} {:>7.0}%", kind, 100.0 * rate / integer);
        }
    }
    attention(&pool);
}

/// An encoder's attention, and decode and prefill over caches of two lengths.
fn attention(pool: &Pool) {
    println!("\nattention");
    let (len, d) = (1500, 512);
    let (x, mut out) = (noise(len * d), vec![0.0; len * d]);
    let (q, k, v) = (&x[..], &x[..], &x[..]);
    let (q_len, kv_len, q_stride, kv_stride, heads, kv_heads, head_dim) = (len, len, d, d, 8, 8, 64);
    let causal = false;
    let a = Dense { q, k, v, q_len, kv_len, q_stride, kv_stride, heads, kv_heads, head_dim, scale: 0.125, causal };
    let seconds = best(|| attention_dense(pool, &a, &mut out));
    println!(
        "dense {len} x {len}, 8 heads of 64: {:.2} ms, {:.0} GFLOPS",
        seconds * 1e3,
        4e-9 * (len * len * d) as f64 / seconds
    );
    for (kind, (heads, kv_heads, head_dim)) in [KvType::F16, KvType::Q8_0]
        .into_iter()
        .flat_map(|kind| [(9, 3, 64), (4, 1, 256), (32, 8, 128)].map(|shape| (kind, shape)))
    {
        for len in [128, 2048] {
            // as many layers as do not fit the caches, taken in turn
            let layers = (64usize << 20).div_ceil(len * kv_heads * head_dim * 4);
            let mut store = KvStore::new(KvShape { layers, kv_heads, head_dim, kind });
            let table: Vec<u32> = (0..(len / KV_BLOCK) as u32).collect();
            store.reserve(table.len());
            let row = noise(len * kv_heads * head_dim);
            (0..layers).for_each(|layer| store.write(layer, &table, 0, &row, &row));
            let (mut turn, mut plan) = ((0..layers).cycle(), AttentionPlan::default());
            for tokens in [1, 128] {
                let (q, mut out) = (noise(tokens * heads * head_dim), vec![0.0; tokens * heads * head_dim]);
                let mut one = |layer| {
                    let a = Paged { store: &store, layer, heads, scale: 0.125, window: None };
                    let span = Span { tokens, len, blocks: &table, causal: true };
                    attention_paged(pool, &mut plan, a, [span].into_iter(), (&q, &mut out));
                };
                let seconds = best(|| one(turn.next().unwrap()));
                let bytes = (store.shape().block_bytes() / layers * table.len()) as f64 / seconds / 1e9;
                let rate = 4e-9 * (tokens * (len - tokens / 2) * heads * head_dim) as f64 / seconds;
                println!(
                    "{tokens:>4} of {len:>4} in {kind:?}, {heads}/{kv_heads} heads of {head_dim}: {:.1} us, {bytes:.1} GB/s, {rate:.0} GFLOPS",
                    seconds * 1e6
                );
            }
        }
    }
}

const QUANTIZED: [BlockType; 10] = {
    use BlockType::*;
    [Q4_1, Q8_0, Q4_0, Q5_0, Q5_1, Q4K, Q5K, Q6K, Q2K, Q3K]
};

/// A matrix of arbitrary bytes: the speed does not depend on the values.
fn arbitrary(pool: &Pool, kind: BlockType, n: usize, k: usize, seed: usize) -> Matrix {
    let (elements, size) = kind.block();
    let mut s = seed as u32;
    let bytes: Vec<u8> = (0..n * k / elements * size)
        .map(|_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 24) as u8
        })
        .collect();
    Matrix::from_blocks_on(pool, kind, n, k, &bytes).unwrap()
}
