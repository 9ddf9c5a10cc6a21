//! [`Simd`] for x86-64: AVX-512 (F, BW, DQ, VL, VNNI), and 256 bits with or without VNNI (and AVX2, FMA and F16C).
//!
//! Every method's safety rests on the trait's contract: the features were found at run time, and pointers are valid.
#![allow(clippy::undocumented_unsafe_blocks)] // one contract for all of them, above

use super::vector::{Simd, Task, plain_dot_bf16, plain_store_bf16};
use std::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run_avx512<T: Task>(task: T) -> T::Output {
    unsafe { task.run::<Avx512<false>>() }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
pub(super) unsafe fn run_avx512_bf16<T: Task>(task: T) -> T::Output {
    unsafe { task.run::<Avx512<true>>() }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run_vnni_of_avx512<T: Task>(task: T) -> T::Output {
    unsafe { task.run::<Half<VNNI_OF_AVX512>>() }
}

#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
pub(super) unsafe fn run_avx_vnni<T: Task>(task: T) -> T::Output {
    unsafe { task.run::<Half<AVX_VNNI>>() }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_avx2<T: Task>(task: T) -> T::Output {
    unsafe { task.run::<Half<AVX2>>() }
}

/// One 512-bit register a vector; `BF16` says whether pairs of bf16 have an instruction.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>;

impl<const BF16: bool> Simd for Avx512<BF16> {
    type F = __m512;
    type I = __m512i;
    const TILE: (usize, usize) = (12, 2);
    const TILE_INT: (usize, usize) = (6, 2);
    const FULL_BIAS: i32 = 0;

    #[inline(always)]
    unsafe fn splat(v: f32) -> __m512 {
        unsafe { _mm512_set1_ps(v) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const half::f16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const half::bf16) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))) }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(v: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }
    #[inline(always)]
    unsafe fn zero_lt(a: __m512, b: __m512, v: __m512) -> __m512 {
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(a, b), v) }
    }
    #[inline(always)]
    unsafe fn scale2(v: __m512, n: __m512) -> __m512 {
        unsafe { _mm512_scalef_ps(v, n) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m512) -> f32 {
        unsafe {
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)));
            sum8(_mm256_add_ps(_mm512_castps512_ps256(v), high))
        }
    }
    #[inline(always)]
    unsafe fn abs(v: __m512) -> __m512 {
        unsafe { _mm512_abs_ps(v) }
    }
    #[inline(always)]
    unsafe fn loadi(p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn storei(p: *mut u8, v: __m512i) {
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn splati(v: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(v) }
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn bits_right<const N: u32>(v: __m512i, mask: u8) -> __m512i {
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<N>(v), _mm512_set1_epi8(mask as i8)) }
    }
    #[inline(always)]
    unsafe fn bits_left<const N: u32>(v: __m512i, mask: u8) -> __m512i {
        unsafe { _mm512_and_si512(_mm512_slli_epi16::<N>(v), _mm512_set1_epi8(mask as i8)) }
    }
    #[inline(always)]
    unsafe fn dot(acc: __m512i, codes: __m512i, x: *const i8) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(acc, codes, _mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn dot_full(acc: __m512i, codes: __m512i, x: *const i8) -> __m512i {
        unsafe { Self::dot(acc, codes, x) }
    }
    #[inline(always)]
    unsafe fn to_float(v: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: __m512) {
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v))) }
    }
    #[inline(always)]
    unsafe fn dot_bf16(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
        // The same 512 bits under the name that the instruction wants.
        let pairs = |v: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(v) };
        unsafe { if BF16 { _mm512_dpbf16_ps(acc, pairs(a), pairs(b)) } else { plain_dot_bf16::<Self>(acc, a, b) } }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut half::bf16, v: __m512) {
        unsafe {
            if BF16 {
                p.cast::<__m256bh>().write_unaligned(_mm512_cvtneps_pbh(v));
            } else {
                plain_store_bf16::<Self>(p, v);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, count: usize, fill: f32) -> __m512 {
        unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), part(count), p) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, v: __m512, count: usize) {
        unsafe { _mm512_mask_storeu_ps(p, part(count), v) }
    }
    #[inline(always)]
    unsafe fn max_lane(v: __m512) -> f32 {
        unsafe { _mm512_reduce_max_ps(v) }
    }
}

/// A mask of the first `count` lanes.
#[inline(always)]
fn part(count: usize) -> u16 {
    ((1u32 << count.min(16)) - 1) as u16
}

/// Sum of 8 lanes as a tree: (i, i+4), (i, i+2), (0, 1).
#[inline(always)]
unsafe fn sum8(v: __m256) -> f32 {
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

/// Two 256-bit registers a vector. `BY` is how four products of bytes are summed: by AVX2's instructions, by one of AVX-VNNI, or by
/// the same of AVX-512, which has twice the registers.
#[derive(Clone, Copy)]
pub(crate) struct Half<const BY: u8>;

const AVX2: u8 = 0;
const AVX_VNNI: u8 = 1;
const VNNI_OF_AVX512: u8 = 2;

/// Four products of unsigned and signed bytes added to each i32.
#[inline(always)]
unsafe fn dpbusd<const BY: u8>(acc: __m256i, codes: __m256i, x: __m256i) -> __m256i {
    unsafe { if BY == AVX_VNNI { _mm256_dpbusd_avx_epi32(acc, codes, x) } else { _mm256_dpbusd_epi32(acc, codes, x) } }
}

type F2 = [__m256; 2];
type I2 = [__m256i; 2];

impl<const BY: u8> Simd for Half<BY> {
    type F = F2;
    type I = I2;
    const TILE: (usize, usize) = (if BY == VNNI_OF_AVX512 { 12 } else { 6 }, 1);
    const TILE_INT: (usize, usize) = (if BY == VNNI_OF_AVX512 { 6 } else { 2 }, 1);
    const FULL_BIAS: i32 = if BY == AVX2 { 128 } else { 0 };

    #[inline(always)]
    unsafe fn splat(v: f32) -> F2 {
        unsafe { [_mm256_set1_ps(v); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F2 {
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const half::f16) -> F2 {
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))] }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const half::bf16) -> F2 {
        unsafe {
            let a = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())));
            let b = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(8).cast())));
            [_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)]
        }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> F2 {
        unsafe {
            let v = _mm_loadu_si128(p.cast());
            let (a, b) = (_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(v, v)));
            [_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b)]
        }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> F2 {
        unsafe {
            let v = _mm_loadu_si128(p.cast());
            let (a, b) = (_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(v, v)));
            [_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b)]
        }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: F2) {
        unsafe {
            _mm256_storeu_ps(p, v[0]);
            _mm256_storeu_ps(p.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn add(a: F2, b: F2) -> F2 {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn sub(a: F2, b: F2) -> F2 {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn mul(a: F2, b: F2) -> F2 {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn div(a: F2, b: F2) -> F2 {
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn fma(a: F2, b: F2, c: F2) -> F2 {
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    unsafe fn max(a: F2, b: F2) -> F2 {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn min(a: F2, b: F2) -> F2 {
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn round(v: F2) -> F2 {
        const MODE: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe { [_mm256_round_ps::<MODE>(v[0]), _mm256_round_ps::<MODE>(v[1])] }
    }
    #[inline(always)]
    unsafe fn zero_lt(a: F2, b: F2, v: F2) -> F2 {
        unsafe {
            let m = [_mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])];
            [_mm256_andnot_ps(m[0], v[0]), _mm256_andnot_ps(m[1], v[1])]
        }
    }
    #[inline(always)]
    unsafe fn scale2(v: F2, n: F2) -> F2 {
        unsafe { [scale2(v[0], n[0]), scale2(v[1], n[1])] }
    }
    #[inline(always)]
    unsafe fn sum(v: F2) -> f32 {
        unsafe { sum8(_mm256_add_ps(v[0], v[1])) }
    }
    #[inline(always)]
    unsafe fn abs(v: F2) -> F2 {
        unsafe {
            let m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
            [_mm256_and_ps(v[0], m), _mm256_and_ps(v[1], m)]
        }
    }
    #[inline(always)]
    unsafe fn loadi(p: *const u8) -> I2 {
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn storei(p: *mut u8, v: I2) {
        unsafe {
            _mm256_storeu_si256(p.cast(), v[0]);
            _mm256_storeu_si256(p.add(32).cast(), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn splati(v: i32) -> I2 {
        unsafe { [_mm256_set1_epi32(v); 2] }
    }
    #[inline(always)]
    unsafe fn or(a: I2, b: I2) -> I2 {
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn bits_right<const N: u32>(v: I2, mask: u8) -> I2 {
        unsafe {
            let (m, n) = (_mm256_set1_epi8(mask as i8), _mm_cvtsi32_si128(N as i32));
            [_mm256_and_si256(_mm256_srl_epi16(v[0], n), m), _mm256_and_si256(_mm256_srl_epi16(v[1], n), m)]
        }
    }
    #[inline(always)]
    unsafe fn bits_left<const N: u32>(v: I2, mask: u8) -> I2 {
        unsafe {
            let (m, n) = (_mm256_set1_epi8(mask as i8), _mm_cvtsi32_si128(N as i32));
            [_mm256_and_si256(_mm256_sll_epi16(v[0], n), m), _mm256_and_si256(_mm256_sll_epi16(v[1], n), m)]
        }
    }
    #[inline(always)]
    unsafe fn dot(acc: I2, codes: I2, x: *const i8) -> I2 {
        if BY != AVX2 {
            unsafe {
                let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
                return [dpbusd::<BY>(acc[0], codes[0], x), dpbusd::<BY>(acc[1], codes[1], x)];
            }
        }
        // Pairs of products stay within i16: 2 * 63 * 127.
        unsafe {
            let (x, one) = (_mm256_set1_epi32(x.cast::<i32>().read_unaligned()), _mm256_set1_epi16(1));
            let a = _mm256_madd_epi16(_mm256_maddubs_epi16(codes[0], x), one);
            let b = _mm256_madd_epi16(_mm256_maddubs_epi16(codes[1], x), one);
            [_mm256_add_epi32(acc[0], a), _mm256_add_epi32(acc[1], b)]
        }
    }
    #[inline(always)]
    unsafe fn dot_full(acc: I2, codes: I2, x: *const i8) -> I2 {
        if BY != AVX2 {
            return unsafe { Self::dot(acc, codes, x) };
        }
        // |code - 128| times x with its sign: 2 * 128 * 127 stays within i16.
        unsafe {
            let (x, one) = (_mm256_set1_epi32(x.cast::<i32>().read_unaligned()), _mm256_set1_epi16(1));
            let flip = _mm256_set1_epi8(-128);
            let (a, b) = (_mm256_xor_si256(codes[0], flip), _mm256_xor_si256(codes[1], flip));
            let pa = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(x, a));
            let pb = _mm256_maddubs_epi16(_mm256_abs_epi8(b), _mm256_sign_epi8(x, b));
            [_mm256_add_epi32(acc[0], _mm256_madd_epi16(pa, one)), _mm256_add_epi32(acc[1], _mm256_madd_epi16(pb, one))]
        }
    }
    #[inline(always)]
    unsafe fn to_float(v: I2) -> F2 {
        unsafe { [_mm256_cvtepi32_ps(v[0]), _mm256_cvtepi32_ps(v[1])] }
    }
    #[inline(always)]
    unsafe fn store_i8(p: *mut i8, v: F2) {
        unsafe {
            let v = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
            let v = _mm256_permute4x64_epi64::<0b11_01_10_00>(v);
            let v = _mm_packs_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            _mm_storeu_si128(p.cast(), v);
        }
    }
}

/// `v * 2^n` in two halves: 2^128 alone is not a float.
#[inline(always)]
unsafe fn scale2(v: __m256, n: __m256) -> __m256 {
    unsafe {
        let (n, bias) = (_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        let half = _mm256_srai_epi32::<1>(n);
        let a = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
        let b = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias));
        _mm256_mul_ps(_mm256_mul_ps(v, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four products of each 64 codes, plain and with the bias of the level taken away.
    struct Dots<'a>(&'a [u8; 64], [i8; 4]);

    impl Task for Dots<'_> {
        type Output = [[i32; 16]; 2];

        #[inline(always)]
        unsafe fn run<S: Simd>(self) -> Self::Output {
            let mut out = [[0; 16]; 2];
            let x = self.1.as_ptr();
            let bias = S::FULL_BIAS * self.1.iter().map(|&x| i32::from(x)).sum::<i32>();
            unsafe {
                let codes = S::loadi(self.0.as_ptr());
                S::storei(out[0].as_mut_ptr().cast(), S::dot(S::splati(5), S::bits_right::<0>(codes, 63), x));
                S::storei(out[1].as_mut_ptr().cast(), S::dot_full(S::splati(bias), codes, x));
            }
            out
        }
    }

    #[test]
    fn every_form_of_the_dot_product_counts_alike() {
        use std::is_x86_feature_detected as has;
        let mut codes = [0; 64];
        codes.iter_mut().enumerate().for_each(|(i, c)| *c = (i * 73 + 190) as u8);
        for x in [[127, 127, 127, 127], [-127, 3, -90, 127], [-127; 4]] {
            let sum = |i: usize, mask: u8| (0..4).map(|b| i32::from(codes[4 * i + b] & mask) * i32::from(x[b])).sum::<i32>();
            let want = [std::array::from_fn(|i| 5 + sum(i, 63)), std::array::from_fn(|i| sum(i, 255))];
            let task = || Dots(&codes, x);
            if has!("avx2") && has!("fma") && has!("f16c") {
                assert_eq!(unsafe { run_avx2(task()) }, want);
            }
            if has!("avxvnni") {
                assert_eq!(unsafe { run_avx_vnni(task()) }, want);
            }
            if crate::simd::detect() == crate::simd::Level::Avx512 {
                assert_eq!(unsafe { run_vnni_of_avx512(task()) }, want);
                assert_eq!(unsafe { run_avx512(task()) }, want);
            }
        }
    }
}
