//! Speed of the products beside what the machine can do: `cargo run --release -p dreamseed-kernels --example kernels [THREADS]`.
//!
//! Prints read bandwidth and peak of f32 multiply-adds, then per type and shape GB/s of weights (GEMV) and GOPS (GEMM, two
//! operations a multiply-add). Times are minima over repetitions.

use dreamseed_kernels::{BlockType, Epilogue, Matrix, Pool, linear, simd};
use std::hint::black_box;
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

/// Shortest of the runs within about 0.3 s, in seconds.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let (mut shortest, start) = (f64::INFINITY, Instant::now());
    for runs in 0.. {
        let t = Instant::now();
        f();
        shortest = shortest.min(t.elapsed().as_secs_f64());
        if start.elapsed().as_secs_f64() > 0.3 && runs >= 3 {
            break;
        }
    }
    shortest
}

/// GB/s of a read of 512 MiB by all threads.
fn bandwidth(pool: &Pool) -> f64 {
    let data = vec![1u64; 64 << 20];
    let chunk = 1 << 17;
    let seconds = best(|| {
        pool.for_each(data.len() / chunk, |i| {
            let mut sums = [0u64; 32];
            for c in data[i * chunk..][..chunk].chunks_exact(32) {
                for (s, v) in sums.iter_mut().zip(c) {
                    *s = s.wrapping_add(*v);
                }
            }
            black_box(sums);
        })
    });
    size_of_val(&data[..]) as f64 / seconds / 1e9
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or_else(Pool::default_threads);
    let pool = Pool::new(threads);
    println!("level {:?}, {threads} threads", simd::level());
    let empty = best(|| (0..1000).for_each(|_| pool.for_each(threads, |_| {})));
    println!("an empty region takes {:.2} us", empty * 1e3);
    let limit = bandwidth(&pool);
    println!("read bandwidth {limit:.1} GB/s");
    let peak = dreamseed_kernels::cpu::peak::f32_gflops(&pool);
    println!("f32 peak {peak:.0} GFLOPS");

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
}
