//! [`Simd`] for AArch64: NEON with dot products. Run in an emulator so far, never timed on a real processor.
//!
//! Every method's safety rests on the trait's contract: the features were found at run time, and pointers are valid.
#![allow(clippy::undocumented_unsafe_blocks)] // one contract for all of them, above

use super::vector::{Simd, Task};
use std::arch::aarch64::*;
use std::arch::asm;

#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn run<T: Task>(task: T) -> T::Output {
    unsafe { task.run::<Neon>() }
}

/// Four 128-bit registers a vector, of 32.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

type F4 = [float32x4_t; 4];
type I4 = [int32x4_t; 4];

/// `$e` for each of the four registers.
macro_rules! each {
    ($i:ident => $e:expr) => {{
        macro_rules! part {
            ($number:literal) => {{
                let $i = $number;
                $e
            }};
        }
        [part!(0), part!(1), part!(2), part!(3)]
    }};
}

/// Adds in each i32 lane four products of signed bytes with the first four of `x`. The intrinsic is not stable in the oldest Rust that
/// this crate builds with. `x` is a float so that it comes by one plain load.
#[inline(always)]
unsafe fn sdot(acc: int32x4_t, codes: int32x4_t, x: f32) -> int32x4_t {
    let mut sum = acc;
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[0]", inout(vreg) sum, in(vreg) codes, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// f16 to f32: the lower and the upper four. Intrinsics as in [`sdot`].
#[inline(always)]
unsafe fn widen(v: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high);
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) low, in(vreg) v, options(pure, nomem, nostack, preserves_flags));
        asm!("fcvtl2 {0:v}.4s, {1:v}.8h", out(vreg) high, in(vreg) v, options(pure, nomem, nostack, preserves_flags));
    }
    [low, high]
}

/// The 16 signed 16-bit values as f32.
#[inline(always)]
unsafe fn float_s16(v: [int16x8_t; 2]) -> F4 {
    unsafe {
        let [a, b] = v;
        let wide = [vmovl_s16(vget_low_s16(a)), vmovl_high_s16(a), vmovl_s16(vget_low_s16(b)), vmovl_high_s16(b)];
        each!(i => vcvtq_f32_s32(wide[i]))
    }
}

/// Each byte shifted, by a number that the instruction holds.
#[inline(always)]
unsafe fn shift_right<const N: u32>(v: uint8x16_t) -> uint8x16_t {
    unsafe {
        match N {
            0 => v,
            1 => vshrq_n_u8::<1>(v),
            2 => vshrq_n_u8::<2>(v),
            3 => vshrq_n_u8::<3>(v),
            4 => vshrq_n_u8::<4>(v),
            5 => vshrq_n_u8::<5>(v),
            6 => vshrq_n_u8::<6>(v),
            7 => vshrq_n_u8::<7>(v),
            _ => vdupq_n_u8(0),
        }
    }
}

/// As [`shift_right`].
#[inline(always)]
unsafe fn shift_left<const N: u32>(v: uint8x16_t) -> uint8x16_t {
    unsafe {
        match N {
            0 => v,
            1 => vshlq_n_u8::<1>(v),
            2 => vshlq_n_u8::<2>(v),
            3 => vshlq_n_u8::<3>(v),
            4 => vshlq_n_u8::<4>(v),
            5 => vshlq_n_u8::<5>(v),
            6 => vshlq_n_u8::<6>(v),
            7 => vshlq_n_u8::<7>(v),
            _ => vdupq_n_u8(0),
        }
    }
}

#[inline(always)]
unsafe fn and(v: uint8x16_t, mask: u8) -> int32x4_t {
    unsafe { vreinterpretq_s32_u8(vandq_u8(v, vdupq_n_u8(mask))) }
}

impl Simd for Neon {
    type F = F4;
    type I = I4;
    // 24 sums, 4 weights and an activation.
    const TILE: (usize, usize) = (6, 1);
    // 12 integer sums, 12 of floats, 4 codes and an activation.
    const TILE_INT: (usize, usize) = (3, 1);
    const FULL_BIAS: i32 = 128;

    #[inline(always)]
    unsafe fn splat(v: f32) -> F4 {
        unsafe { [vdupq_n_f32(v); 4] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F4 {
        unsafe { each!(i => vld1q_f32(p.add(4 * i))) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const half::f16) -> F4 {
        unsafe {
            let [a, b] = widen(vld1q_u16(p.cast()));
            let [c, d] = widen(vld1q_u16(p.add(8).cast()));
            [a, b, c, d]
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const half::bf16) -> F4 {
        unsafe {
            let (a, b) = (vld1q_u16(p.cast()), vld1q_u16(p.add(8).cast()));
            let wide = [
                vshll_n_u16::<16>(vget_low_u16(a)),
                vshll_high_n_u16::<16>(a),
                vshll_n_u16::<16>(vget_low_u16(b)),
                vshll_high_n_u16::<16>(b),
            ];
            each!(i => vreinterpretq_f32_u32(wide[i]))
        }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> F4 {
        unsafe {
            let v = vld1q_u8(p);
            float_s16([vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(v))), vreinterpretq_s16_u16(vmovl_high_u8(v))])
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> F4 {
        unsafe {
            let v = vld1q_s8(p);
            float_s16([vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v)])
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F4) {
        unsafe {
            for i in 0..4 {
                vst1q_f32(p.add(4 * i), v[i]);
            }
        }
    }
    #[inline(always)]
    unsafe fn add(a: F4, b: F4) -> F4 {
        unsafe { each!(i => vaddq_f32(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn sub(a: F4, b: F4) -> F4 {
        unsafe { each!(i => vsubq_f32(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn mul(a: F4, b: F4) -> F4 {
        unsafe { each!(i => vmulq_f32(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn div(a: F4, b: F4) -> F4 {
        unsafe { each!(i => vdivq_f32(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn fma(a: F4, b: F4, c: F4) -> F4 {
        unsafe { each!(i => vfmaq_f32(c[i], a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn max(a: F4, b: F4) -> F4 {
        // FMAX gives a NaN for either that is one, FMAXNM for neither: what is asked for takes a comparison.
        unsafe { each!(i => vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn min(a: F4, b: F4) -> F4 {
        unsafe { each!(i => vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn round(v: F4) -> F4 {
        unsafe { each!(i => vrndnq_f32(v[i])) }
    }
    #[inline(always)]
    unsafe fn zero_lt(a: F4, b: F4, v: F4) -> F4 {
        unsafe { each!(i => vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v[i]), vcltq_f32(a[i], b[i])))) }
    }
    #[inline(always)]
    unsafe fn scale2(v: F4, n: F4) -> F4 {
        unsafe { each!(i => scale2(v[i], n[i])) }
    }
    #[inline(always)]
    unsafe fn sum(v: F4) -> f32 {
        unsafe {
            let four = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
            vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)))
        }
    }
    #[inline(always)]
    unsafe fn abs(v: F4) -> F4 {
        unsafe { each!(i => vabsq_f32(v[i])) }
    }
    #[inline(always)]
    unsafe fn loadi(p: *const u8) -> I4 {
        unsafe { each!(i => vreinterpretq_s32_u8(vld1q_u8(p.add(16 * i)))) }
    }
    #[inline(always)]
    unsafe fn storei(p: *mut u8, v: I4) {
        unsafe {
            for i in 0..4 {
                vst1q_u8(p.add(16 * i), vreinterpretq_u8_s32(v[i]));
            }
        }
    }
    #[inline(always)]
    unsafe fn splati(v: i32) -> I4 {
        unsafe { [vdupq_n_s32(v); 4] }
    }
    #[inline(always)]
    unsafe fn or(a: I4, b: I4) -> I4 {
        unsafe { each!(i => vorrq_s32(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn bits_right<const N: u32>(v: I4, mask: u8) -> I4 {
        unsafe { each!(i => and(shift_right::<N>(vreinterpretq_u8_s32(v[i])), mask)) }
    }
    #[inline(always)]
    unsafe fn bits_left<const N: u32>(v: I4, mask: u8) -> I4 {
        unsafe { each!(i => and(shift_left::<N>(vreinterpretq_u8_s32(v[i])), mask)) }
    }
    #[inline(always)]
    unsafe fn dot(acc: I4, codes: I4, x: *const i8) -> I4 {
        unsafe {
            let x = x.cast::<f32>().read_unaligned();
            each!(i => sdot(acc[i], codes[i], x))
        }
    }
    #[inline(always)]
    unsafe fn dot_full(acc: I4, codes: I4, x: *const i8) -> I4 {
        // code - 128 as a signed byte.
        unsafe {
            let flip = vdupq_n_s32(i32::from_ne_bytes([0x80; 4]));
            Self::dot(acc, each!(i => veorq_s32(codes[i], flip)), x)
        }
    }
    #[inline(always)]
    unsafe fn to_float(v: I4) -> F4 {
        unsafe { each!(i => vcvtq_f32_s32(v[i])) }
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: F4) {
        unsafe {
            let v = each!(i => vcvtnq_s32_f32(v[i]));
            let (a, b) = (vmovn_high_s32(vmovn_s32(v[0]), v[1]), vmovn_high_s32(vmovn_s32(v[2]), v[3]));
            vst1q_s8(p, vmovn_high_s16(vmovn_s16(a), b));
        }
    }
    #[inline(always)]
    unsafe fn max_lane(v: F4) -> f32 {
        unsafe { vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(v[0], v[2]), vmaxnmq_f32(v[1], v[3]))).max(f32::NEG_INFINITY) }
    }
}

/// `v * 2^n` in two halves: 2^128 alone is not a float.
#[inline(always)]
unsafe fn scale2(v: float32x4_t, n: float32x4_t) -> float32x4_t {
    unsafe {
        let (n, bias) = (vcvtq_s32_f32(n), vdupq_n_s32(127));
        let half = vshrq_n_s32::<1>(n);
        let a = vshlq_n_s32::<23>(vaddq_s32(half, bias));
        let b = vshlq_n_s32::<23>(vaddq_s32(vsubq_s32(n, half), bias));
        vmulq_f32(vmulq_f32(v, vreinterpretq_f32_s32(a)), vreinterpretq_f32_s32(b))
    }
}
