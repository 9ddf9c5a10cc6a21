//! One vector interface for all instruction sets: 16 lanes of f32 or i32, or 64 bytes. Kernels are written once against [`Simd`]
//! and compiled once a level by [`dispatch`]; packed weights have the same layout at every level.

use crate::simd::Level;

/// Lanes of a vector at every level; also the rows that a weight panel interleaves.
pub(crate) const LANES: usize = 16;

/// The operations of one instruction set.
///
/// # Safety
/// Every method needs the processor features of its level: call them only from code reached through [`dispatch`]. Pointers must
/// be valid for the elements that the method names; no alignment is needed.
pub(crate) trait Simd: Copy + 'static {
    /// 16 f32.
    type F: Copy;
    /// 16 i32, or 64 bytes.
    type I: Copy;
    /// Rows and panels of the f32 product's register tile.
    const TILE: (usize, usize);
    /// Rows and panels of the int8 product's register tile.
    const TILE_INT: (usize, usize);
    /// What [`Simd::dot_full`] leaves subtracted from its codes: it multiplies `code - FULL_BIAS`.
    const FULL_BIAS: i32;

    unsafe fn splat(v: f32) -> Self::F;
    /// 16 elements at `p`.
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn load_f16(p: *const half::f16) -> Self::F;
    unsafe fn load_bf16(p: *const half::bf16) -> Self::F;
    unsafe fn load_u8(p: *const u8) -> Self::F;
    unsafe fn load_i8(p: *const i8) -> Self::F;
    unsafe fn store(p: *mut f32, v: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `b` where `a` is not a number.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `b` where `a` is not a number.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest integer, ties to even; |v| below 2^31.
    unsafe fn round(v: Self::F) -> Self::F;
    /// 0 where `a < b`, elsewhere `v` (also where a or b is not a number).
    unsafe fn zero_lt(a: Self::F, b: Self::F, v: Self::F) -> Self::F;
    /// `v * 2^n` for integral n in -126..=128.
    unsafe fn scale2(v: Self::F, n: Self::F) -> Self::F;
    /// Sum of the lanes, as a tree: (i, i+8), (i, i+4), (i, i+2), (0, 1).
    unsafe fn sum(v: Self::F) -> f32;
    unsafe fn abs(v: Self::F) -> Self::F;

    /// 64 bytes at `p`.
    unsafe fn loadi(p: *const u8) -> Self::I;
    unsafe fn storei(p: *mut u8, v: Self::I);
    /// 16 equal i32.
    unsafe fn splati(v: i32) -> Self::I;
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    /// `(byte >> N) & mask` for each byte.
    unsafe fn bits_right<const N: u32>(v: Self::I, mask: u8) -> Self::I;
    /// `(byte << N) & mask` for each byte.
    unsafe fn bits_left<const N: u32>(v: Self::I, mask: u8) -> Self::I;
    /// Adds in each i32 lane four products of codes (at most 63) with the four i8 at `x`.
    unsafe fn dot(acc: Self::I, codes: Self::I, x: *const i8) -> Self::I;
    /// As [`Simd::dot`] for codes up to 255, less [`Simd::FULL_BIAS`].
    unsafe fn dot_full(acc: Self::I, codes: Self::I, x: *const i8) -> Self::I;
    unsafe fn to_float(v: Self::I) -> Self::F;
    /// 16 values rounded to nearest even, |v| at most 127, as i8.
    unsafe fn store_i8(p: *mut i8, v: Self::F);

    /// Adds in each f32 lane two products: the pair of bf16 in that lane of `a` with the pair in that lane of `b`. Only code reached
    /// through [`dispatch_bf16`] finds an instruction for it.
    #[inline(always)]
    unsafe fn dot_bf16(acc: Self::F, a: Self::I, b: Self::I) -> Self::F {
        // SAFETY: the caller's.
        unsafe { plain_dot_bf16::<Self>(acc, a, b) }
    }

    /// 16 values as bf16, rounded to nearest even.
    #[inline(always)]
    unsafe fn store_bf16(p: *mut half::bf16, v: Self::F) {
        // SAFETY: the caller's.
        unsafe { plain_store_bf16::<Self>(p, v) }
    }

    /// `count` (at most 16) elements at `p`, then `fill`.
    #[inline(always)]
    unsafe fn load_part(p: *const f32, count: usize, fill: f32) -> Self::F {
        let mut lanes = [fill; LANES];
        // SAFETY: the caller vouches for `count` elements; lanes holds 16.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), count.min(LANES));
            Self::load(lanes.as_ptr())
        }
    }

    /// The first `count` (at most 16) lanes to `p`.
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: Self::F, count: usize) {
        let mut lanes = [0.0; LANES];
        // SAFETY: the caller vouches for `count` elements; lanes holds 16.
        unsafe {
            Self::store(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, count.min(LANES));
        }
    }

    /// Largest lane.
    #[inline(always)]
    unsafe fn max_lane(v: Self::F) -> f32 {
        let mut lanes = [0.0; LANES];
        // SAFETY: lanes holds 16.
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

/// [`Simd::dot_bf16`] without an instruction for it.
#[inline(always)]
pub(crate) unsafe fn plain_dot_bf16<S: Simd>(acc: S::F, a: S::I, b: S::I) -> S::F {
    let (mut sums, mut pairs) = ([0f32; LANES], [[[0u16; 2]; LANES]; 2]);
    let value = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    // SAFETY: the arrays hold 16 lanes of 4 bytes.
    unsafe {
        S::store(sums.as_mut_ptr(), acc);
        S::storei(pairs[0].as_mut_ptr().cast(), a);
        S::storei(pairs[1].as_mut_ptr().cast(), b);
        for (sum, (a, b)) in sums.iter_mut().zip(pairs[0].iter().zip(&pairs[1])) {
            *sum += value(a[0]) * value(b[0]) + value(a[1]) * value(b[1]);
        }
        S::load(sums.as_ptr())
    }
}

/// [`Simd::store_bf16`] without an instruction for it.
#[inline(always)]
pub(crate) unsafe fn plain_store_bf16<S: Simd>(p: *mut half::bf16, v: S::F) {
    let mut lanes = [0f32; LANES];
    // SAFETY: lanes holds 16; the caller vouches for 16 elements at `p`.
    unsafe {
        S::store(lanes.as_mut_ptr(), v);
        for (i, lane) in lanes.into_iter().enumerate() {
            p.add(i).write_unaligned(half::bf16::from_f32(lane));
        }
    }
}

/// Asks for the cache line at `p`, which need not be readable: a stream that is computed on as it is read gets ahead of the processor's own
/// prefetching, which stops at pages and where the stream jumps.
#[inline(always)]
pub(crate) fn prefetch(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint that every x86-64 processor knows; it never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint; it never faults.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) p, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = p;
}

/// As [`prefetch`], for `bytes` from `p` on.
#[inline(always)]
pub(crate) fn prefetch_bytes(p: *const u8, bytes: usize) {
    for at in (0..bytes).step_by(64) {
        prefetch(p.wrapping_add(at));
    }
}

/// Work that is compiled once for each level.
pub(crate) trait Task {
    type Output;

    /// The work; `#[inline(always)]`, so that it takes on the features of the level that calls it.
    ///
    /// # Safety
    /// The processor has the features of `S`.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Runs `task` compiled for `level` (a level that the processor lacks runs as the widest it has).
#[inline]
pub(crate) fn dispatch<T: Task>(level: Level, task: T) -> T::Output {
    match level.min(crate::simd::detect()) {
        // SAFETY: detect() found the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { super::x86::run_avx512(task) },
        // SAFETY: as above; AVX-512 includes the 256-bit forms.
        #[cfg(target_arch = "x86_64")]
        Level::Vnni if crate::simd::detect() == Level::Avx512 => unsafe { super::x86::run_vnni_of_avx512(task) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Vnni => unsafe { super::x86::run_avx_vnni(task) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { super::x86::run_avx2(task) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { super::neon::run(task) },
        // SAFETY: Portable needs no features.
        _ => unsafe { task.run::<Portable>() },
    }
}

/// As [`dispatch`], for work on pairs of bf16 ([`crate::simd::bf16`] says where there are instructions for them).
#[inline]
pub(crate) fn dispatch_bf16<T: Task>(level: Level, task: T) -> T::Output {
    #[cfg(target_arch = "x86_64")]
    if crate::simd::bf16(level) {
        // SAFETY: the features were found.
        return unsafe { super::x86::run_avx512_bf16(task) };
    }
    dispatch(level, task)
}

/// Plain arrays that the compiler vectorises.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

/// Exact, subnormals and infinities included (a NaN stays one).
#[inline(always)]
pub(crate) fn f16_to_f32(h: half::f16) -> f32 {
    let bits = u32::from(h.to_bits());
    let (sign, rest) = ((bits & 0x8000) << 16, (bits & 0x7fff) << 13);
    let finite = (f32::from_bits(rest) * f32::from_bits(0x7780_0000)).to_bits(); // exponent bias 15 -> 127: times 2^112
    f32::from_bits(sign | if rest >= 0x0f80_0000 { rest | 0x7f80_0000 } else { finite })
}

/// `a * b + c`: fused where that is one instruction.
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
}

macro_rules! lanes {
    ($i:ident => $e:expr) => {{
        let mut out = [Default::default(); LANES];
        for $i in 0..LANES {
            out[$i] = $e;
        }
        out
    }};
}

impl Simd for Portable {
    type F = [f32; LANES];
    type I = [i32; LANES];
    const TILE: (usize, usize) = (if cfg!(target_arch = "aarch64") { 6 } else { 2 }, 1);
    const TILE_INT: (usize, usize) = (if cfg!(target_arch = "aarch64") { 4 } else { 1 }, 1);
    const FULL_BIAS: i32 = 0;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self::F {
        [v; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: the caller vouches for 16 elements.
        unsafe { p.cast::<Self::F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const half::f16) -> Self::F {
        // SAFETY: as above.
        lanes!(i => f16_to_f32(unsafe { p.add(i).read_unaligned() }))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const half::bf16) -> Self::F {
        // SAFETY: as above.
        lanes!(i => f32::from_bits(u32::from(unsafe { p.add(i).read_unaligned() }.to_bits()) << 16))
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::F {
        // SAFETY: as above.
        lanes!(i => f32::from(unsafe { *p.add(i) }))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self::F {
        // SAFETY: as above.
        lanes!(i => f32::from(unsafe { *p.add(i) }))
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        // SAFETY: as above.
        unsafe { p.cast::<Self::F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        lanes!(i => mul_add(a[i], b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        lanes!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn round(v: Self::F) -> Self::F {
        // Adding 1.5 * 2^23 leaves no fraction bits; exact for |v| < 2^22, which is all that is asked of it.
        lanes!(i => (v[i] + 12_582_912.0) - 12_582_912.0)
    }
    #[inline(always)]
    unsafe fn zero_lt(a: Self::F, b: Self::F, v: Self::F) -> Self::F {
        lanes!(i => if a[i] < b[i] { 0.0 } else { v[i] })
    }
    #[inline(always)]
    unsafe fn scale2(v: Self::F, n: Self::F) -> Self::F {
        // In two halves: 2^128 alone is not a float.
        lanes!(i => {
            let n = n[i] as i32;
            let half = n >> 1;
            v[i] * f32::from_bits(((half + 127) << 23) as u32) * f32::from_bits(((n - half + 127) << 23) as u32)
        })
    }
    #[inline(always)]
    unsafe fn sum(v: Self::F) -> f32 {
        let mut v = v;
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                v[i] += v[i + half];
            }
            half /= 2;
        }
        v[0]
    }
    #[inline(always)]
    unsafe fn abs(v: Self::F) -> Self::F {
        lanes!(i => v[i].abs())
    }
    #[inline(always)]
    unsafe fn loadi(p: *const u8) -> Self::I {
        // SAFETY: the caller vouches for 64 bytes.
        unsafe { p.cast::<Self::I>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn storei(p: *mut u8, v: Self::I) {
        // SAFETY: as above.
        unsafe { p.cast::<Self::I>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn splati(v: i32) -> Self::I {
        [v; LANES]
    }
    #[inline(always)]
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I {
        lanes!(i => a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn bits_right<const N: u32>(v: Self::I, mask: u8) -> Self::I {
        // The mask must not hold bits that come from the neighbouring byte: true for all masks below 256 >> N.
        let mask = i32::from_ne_bytes([mask; 4]);
        lanes!(i => ((v[i] as u32) >> N) as i32 & mask)
    }
    #[inline(always)]
    unsafe fn bits_left<const N: u32>(v: Self::I, mask: u8) -> Self::I {
        let mask = i32::from_ne_bytes([mask; 4]);
        lanes!(i => ((v[i] as u32) << N) as i32 & mask)
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::I, codes: Self::I, x: *const i8) -> Self::I {
        // SAFETY: the caller vouches for four bytes.
        let x = unsafe { x.cast::<[i8; 4]>().read_unaligned() };
        lanes!(i => {
            let c = codes[i].to_ne_bytes();
            let mut sum = acc[i];
            for b in 0..4 {
                sum += i32::from(c[b]) * i32::from(x[b]);
            }
            sum
        })
    }
    #[inline(always)]
    unsafe fn dot_full(acc: Self::I, codes: Self::I, x: *const i8) -> Self::I {
        // SAFETY: as above.
        unsafe { Self::dot(acc, codes, x) }
    }
    #[inline(always)]
    unsafe fn to_float(v: Self::I) -> Self::F {
        lanes!(i => v[i] as f32)
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: Self::F) {
        for i in 0..LANES {
            // SAFETY: the caller vouches for 16 bytes.
            unsafe { *p.add(i) = v[i].round_ties_even() as i8 }
        }
    }
}
