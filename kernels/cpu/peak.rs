//! What the arithmetic units can do at most: the yardstick of the benches.

use super::vector::{Simd, Task, dispatch};
use crate::{Pool, simd};
use std::hint::black_box;
use std::time::Instant;

const STEPS: usize = 1 << 16;
const SUMS: usize = 12;

struct Fma;

impl Task for Fma {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        // SAFETY: arithmetic on registers alone.
        unsafe {
            let (a, b) = (S::splat(black_box(0.999)), S::splat(black_box(1e-3)));
            let mut acc = [S::splat(black_box(1.0)); SUMS];
            for _ in 0..STEPS {
                for v in 0..SUMS {
                    acc[v] = S::fma(acc[v], a, b);
                }
            }
            let mut sum = acc[0];
            for v in 1..SUMS {
                sum = S::add(sum, acc[v]);
            }
            S::sum(sum)
        }
    }
}

/// GFLOPS of independent f32 multiply-adds on all threads (best of 20).
pub fn f32_gflops(pool: &Pool) -> f64 {
    let mut shortest = f64::INFINITY;
    for _ in 0..20 {
        let start = Instant::now();
        pool.for_each(pool.threads() * 4, |_| {
            black_box(dispatch(simd::level(), Fma));
        });
        shortest = shortest.min(start.elapsed().as_secs_f64());
    }
    (pool.threads() * 4 * STEPS * SUMS * 32) as f64 / shortest / 1e9
}
