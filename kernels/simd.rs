//! Which instruction set the processor has, and which of those is the fastest, found once at run time: a plain build is fast on every
//! machine.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use crate::{BlockType, Epilogue, Matrix, Pool, linear};

/// Instruction sets that have kernels, from the plainest to the widest of the architecture. Those from [`Level::Vnni`] on give the
/// same results bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Plain Rust, any processor.
    Portable = 1,
    /// AArch64 with NEON and dot products: so far run in an emulator only.
    Neon = 2,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2 = 3,
    /// The same with VNNI, on vectors of 256 bits (AVX-VNNI, or AVX-512's).
    Vnni = 4,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI, on vectors of 512 bits.
    Avx512 = 5,
}

const ALL: [Level; 5] = [Level::Portable, Level::Neon, Level::Avx2, Level::Vnni, Level::Avx512];

static LEVEL: AtomicU8 = AtomicU8::new(0);

/// The level in use: the fastest that the processor has, unless [`limit`] lowered it.
pub fn level() -> Level {
    let seen = LEVEL.load(Ordering::Relaxed);
    ALL.into_iter().find(|&l| l as u8 == seen).unwrap_or_else(fastest)
}

/// The widest level this processor has.
pub fn detect() -> Level {
    static DETECTED: OnceLock<Level> = OnceLock::new();
    *DETECTED.get_or_init(probe)
}

fn probe() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        use std::is_x86_feature_detected as has;
        let wide = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512vnni");
        let narrow = has!("avx2") && has!("fma") && has!("f16c");
        return match (narrow, wide, has!("avxvnni")) {
            (true, true, _) => Level::Avx512,
            (true, _, true) => Level::Vnni,
            (true, ..) => Level::Avx2,
            _ => Level::Portable,
        };
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("dotprod") {
        return Level::Neon;
    }
    #[cfg_attr(target_arch = "x86_64", allow(unreachable_code))]
    Level::Portable
}

/// Whether products of bf16 have an instruction at this level (AVX512-BF16): without one f32 is as fast and exacter.
pub fn bf16(level: Level) -> bool {
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 && detect() == Level::Avx512 {
        return std::is_x86_feature_detected!("avx512bf16");
    }
    let _ = level;
    false
}

/// The fastest level this processor has: some that have vectors of 512 bits compute them in halves, or slow down for them, so that
/// both sizes multiply for a moment (about a millisecond) and the clock decides.
pub fn fastest() -> Level {
    static FASTEST: OnceLock<Level> = OnceLock::new();
    *FASTEST.get_or_init(|| {
        let widest = detect();
        // Kernels ask for the level in use: while it is being measured that is the widest.
        let ours = LEVEL.compare_exchange(0, widest as u8, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        let slow = widest == Level::Avx512 && seconds(Level::Vnni) < 0.95 * seconds(Level::Avx512);
        let level = if slow { Level::Vnni } else { widest };
        if ours {
            let _ = LEVEL.compare_exchange(widest as u8, level as u8, Ordering::Relaxed, Ordering::Relaxed);
        }
        level
    })
}

/// The shortest of some runs of a product that stays in the innermost caches.
fn seconds(level: Level) -> f64 {
    const SHAPE: (usize, usize, usize) = (24, 64, 512);
    let (m, n, k) = SHAPE;
    let (block, size) = BlockType::Q4_1.block();
    let Ok(w) = Matrix::from_blocks(BlockType::Q4_1, n, k, &vec![0x11; n * k / block * size]) else { return f64::INFINITY };
    let (w, pool, x, mut out) = (w.at_level(level), Pool::new(1), vec![0.5; m * k], vec![0.0; m * n]);
    let run = |out: &mut [f32]| {
        let start = Instant::now();
        linear(&pool, &x, &w, out, Epilogue::default());
        start.elapsed().as_secs_f64()
    };
    (0..12).map(|_| run(&mut out)).fold(f64::INFINITY, f64::min)
}

/// Lowers the level (for tests and for `--simd`); a level that the processor lacks is ignored. Matrices packed before keep theirs.
pub fn limit(wanted: Level) {
    let level = if levels().contains(&wanted) { wanted } else { detect() };
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// All levels of this architecture that this processor has, the plainest first.
pub fn levels() -> Vec<Level> {
    let all: &[Level] = if cfg!(target_arch = "aarch64") {
        &[Level::Portable, Level::Neon]
    } else {
        &[Level::Portable, Level::Avx2, Level::Vnni, Level::Avx512]
    };
    all.iter().copied().filter(|&l| l <= detect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::tests::noise;

    #[test]
    fn the_fastest_is_one_of_the_widest_two() {
        assert!(fastest() == detect() || (fastest(), detect()) == (Level::Vnni, Level::Avx512));
    }

    #[test]
    fn both_vector_sizes_give_the_same_bits() {
        if detect() < Level::Avx512 {
            return;
        }
        let (m, n, k) = (13, 50, 256);
        let (pool, x) = (Pool::new(1), noise(1, m * k));
        for kind in [BlockType::Q4_1, BlockType::Q8_0, BlockType::Q6K] {
            let (block, size) = kind.block();
            let bytes: Vec<u8> = (0..n * k / block * size).map(|i| (i * 37 % 113) as u8).collect();
            let run = |level| {
                let w = Matrix::from_blocks(kind, n, k, &bytes).unwrap().at_level(level);
                let mut out = vec![0.0; m * n];
                linear(&pool, &x, &w, &mut out, Epilogue::default());
                out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
            };
            assert_eq!(run(Level::Vnni), run(Level::Avx512), "{kind:?}");
        }
    }
}
