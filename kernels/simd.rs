//! Which instruction set the processor has, found once at run time: a plain build is fast on every machine.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// Instruction sets that have kernels, from the plainest to the widest of the architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Plain Rust, any processor.
    Portable = 1,
    /// AArch64 with dot products.
    Neon = 2,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2 = 3,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VNNI.
    Avx512 = 4,
}

static LEVEL: AtomicU8 = AtomicU8::new(0);

/// The level in use: the widest the processor has, unless [`limit`] lowered it.
pub fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        0 => {
            let level = detect();
            LEVEL.store(level as u8, Ordering::Relaxed);
            level
        }
        1 => Level::Portable,
        2 => Level::Neon,
        3 => Level::Avx2,
        _ => Level::Avx512,
    }
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
        if narrow {
            return if wide { Level::Avx512 } else { Level::Avx2 };
        }
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("dotprod") {
        return Level::Neon;
    }
    Level::Portable
}

/// Lowers the level (for tests and for `--simd`); a level that the processor lacks is ignored. Matrices packed before keep theirs.
pub fn limit(wanted: Level) {
    let level = if wanted <= detect() { wanted } else { detect() };
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// All levels of this architecture that this processor has, the plainest first.
pub fn levels() -> Vec<Level> {
    let all = if cfg!(target_arch = "aarch64") {
        [Level::Portable, Level::Neon].as_slice()
    } else {
        &[Level::Portable, Level::Avx2, Level::Avx512]
    };
    all.iter().copied().filter(|&l| l <= detect()).collect()
}
