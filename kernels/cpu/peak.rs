//! What the machine can do at most, measured: the yardsticks of the benches. They read the clock; no kernel does.

use super::gemm_quant::AHEAD;
use super::vector::{LANES, Simd, Task, dispatch, prefetch_bytes};
use crate::memory::Aligned;
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
            let mut acc = [S::splat(1.0); SUMS];
            for v in 0..SUMS {
                acc[v] = S::splat(black_box(1.0)); // each of its own, so that none is found to equal another
            }
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

/// Integer dot products of codes with 8-bit activations that come from the innermost cache, as in the matrix products.
struct Dots<'a> {
    codes: &'a [u8; 64],
    x: &'a [i8; 64],
    steps: usize,
}

impl Task for Dots<'_> {
    type Output = [i32; LANES];

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Self::Output {
        // SAFETY: both arrays hold 64 bytes, and the group read from x ends within them.
        unsafe {
            let codes = S::loadi(self.codes.as_ptr());
            let mut acc = [S::splati(0); SUMS];
            for v in 0..SUMS {
                acc[v] = S::splati(black_box(0)); // as above
            }
            for step in 0..self.steps {
                let x = self.x.as_ptr().add(step % 16 * 4);
                for v in 0..SUMS {
                    acc[v] = S::dot(acc[v], codes, x);
                }
            }
            let mut sums = [[0i32; LANES]; SUMS];
            for v in 0..SUMS {
                S::storei(sums[v].as_mut_ptr().cast(), acc[v]);
            }
            let mut out = [0i32; LANES];
            for i in 0..LANES {
                out[i] = (0..SUMS).fold(0, |s: i32, v| s.wrapping_add(sums[v][i]));
            }
            out
        }
    }
}

/// Bytes that a task of [`Sweep`] reads.
const SWEPT: usize = 2 << 20;

/// Reads `SWEPT` bytes once, from front to back (several places at once are slower), asking for what is [`AHEAD`] as the products do, and
/// gives the union of their bits.
struct Sweep(*const u8);

impl Task for Sweep {
    type Output = [u8; 64];

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Self::Output {
        // SAFETY: the caller vouches for SWEPT bytes, a whole number of 512.
        unsafe {
            let mut seen = [S::splati(0); 8];
            for at in (0..SWEPT).step_by(512) {
                prefetch_bytes(self.0.wrapping_add(at + AHEAD), 512);
                for v in 0..8 {
                    seen[v] = S::or(seen[v], S::loadi(self.0.add(at + 64 * v)));
                }
            }
            let mut all = seen[0];
            for v in seen {
                all = S::or(all, v);
            }
            let mut out = [0; 64];
            S::storei(out.as_mut_ptr(), all);
            out
        }
    }
}

/// Seconds of the fastest of `times` calls.
fn shortest(times: usize, mut f: impl FnMut()) -> f64 {
    (0..times).fold(f64::INFINITY, |shortest, _| {
        let start = Instant::now();
        f();
        shortest.min(start.elapsed().as_secs_f64())
    })
}

/// GFLOPS of independent f32 multiply-adds on all threads (best of 20).
pub fn f32_gflops(pool: &Pool) -> f64 {
    let seconds = shortest(20, || {
        pool.for_each(pool.threads() * 4, |_| {
            black_box(dispatch(simd::level(), Fma));
        });
    });
    (pool.threads() * 4 * STEPS * SUMS * 2 * LANES) as f64 / seconds / 1e9
}

/// Billions of operations a second of independent 8-bit integer dot products on all threads (best of 20); a multiply-add
/// counts as two.
pub fn int8_gops(pool: &Pool) -> f64 {
    let (codes, x) = ([7; 64], [-3; 64]);
    let seconds = shortest(20, || {
        pool.for_each(pool.threads() * 4, |_| {
            black_box(dispatch(simd::level(), Dots { codes: black_box(&codes), x: black_box(&x), steps: STEPS }));
        });
    });
    (pool.threads() * 4 * STEPS * SUMS * 2 * 64) as f64 / seconds / 1e9
}

/// Memory that is more than any cache holds, to be read again and again.
pub struct Reader {
    data: Aligned,
}

impl Reader {
    /// As many bytes as eight of the largest cache have, 256 MiB to 2 GiB.
    pub fn new(pool: &Pool) -> Self {
        Self::of(pool, (8 * largest_cache().unwrap_or(32 << 20)).clamp(256 << 20, 2 << 30))
    }

    /// `bytes`, rounded up to 2 MiB.
    fn of(pool: &Pool, bytes: usize) -> Self {
        let mut data = Aligned::zeroed(bytes.div_ceil(SWEPT).max(1) * SWEPT);
        // Zeroed memory may be one page mapped many times until it is written.
        pool.for_each_chunk(data.bytes_mut(), SWEPT, |i, part| part.fill(i as u8 | 1));
        Self { data }
    }

    /// GB/s at which all threads together read it: the median of `passes`. Not the best: a machine that was idle may read twice as
    /// fast for some milliseconds than it can go on.
    pub fn gb_s(&self, pool: &Pool, passes: usize) -> f64 {
        let data = self.data.bytes();
        let pass = |_| {
            shortest(1, || {
                pool.for_each(data.len() / SWEPT, |i| {
                    black_box(dispatch(simd::level(), Sweep(data[i * SWEPT..][..SWEPT].as_ptr())));
                });
            })
        };
        let mut seconds: Vec<f64> = (0..passes.max(1)).map(pass).collect();
        seconds.sort_by(f64::total_cmp);
        data.len() as f64 / seconds[seconds.len() / 2] / 1e9
    }
}

/// Bytes of the largest cache of the first processor; `None` where the system does not tell.
fn largest_cache() -> Option<usize> {
    let caches = std::fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    let size = |cache: std::fs::DirEntry| {
        let text = std::fs::read_to_string(cache.path().join("size")).ok()?;
        let text = text.trim();
        let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let unit = match unit {
            "" => 0,
            "K" => 10,
            "M" => 20,
            _ => return None,
        };
        digits.parse::<usize>().ok()?.checked_mul(1 << unit).filter(|&n| n <= 16 << 30)
    };
    caches.flatten().filter_map(size).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_reads_every_byte_at_every_level() {
        let mut data = vec![0u8; SWEPT];
        for level in simd::levels() {
            for at in (0..SWEPT).step_by(64 * 1021).chain([SWEPT - 64]) {
                let at = at + at / 64 % 64; // every place within a vector comes up
                data[at] = 0x5a;
                let seen = dispatch(level, Sweep(data.as_ptr()));
                data[at] = 0;
                let union = seen.iter().fold(0, |a, b| a | b);
                assert_eq!(union, 0x5a, "{level:?}: byte {at}");
            }
        }
    }

    #[test]
    fn no_dot_product_is_left_out_at_any_level() {
        let mut codes = [0u8; 64];
        let mut x = [0i8; 64];
        for i in 0..64 {
            codes[i] = (i * 37 % 64) as u8;
            x[i] = (i as i8).wrapping_mul(53) / 4;
        }
        let steps = 1001;
        let want: Vec<i32> = (0..LANES)
            .map(|lane| {
                let group = |step: usize| (0..4).map(move |b| (lane * 4 + b, step % 16 * 4 + b));
                let product = |(c, a): (usize, usize)| i32::from(codes[c]) * i32::from(x[a]);
                (0..steps).flat_map(group).map(product).sum::<i32>() * SUMS as i32
            })
            .collect();
        for level in simd::levels() {
            assert_eq!(dispatch(level, Dots { codes: &codes, x: &x, steps })[..], want[..], "{level:?}");
        }
    }

    #[test]
    fn measured_limits_are_rates() {
        let pool = Pool::new(2);
        let reader = Reader::of(&pool, 3 << 20);
        assert_eq!(reader.data.len(), 4 << 20);
        for rate in [reader.gb_s(&pool, 2), int8_gops(&pool), f32_gflops(&pool)] {
            assert!(rate.is_finite() && rate > 0.0, "{rate}");
        }
    }
}
