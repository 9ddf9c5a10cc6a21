//! One vector of floats, whatever the instruction set: convolution kernels are written once over [`Lanes`] and compiled three
//! times. Every method is inlined into a caller that carries the `target_feature`; called from elsewhere they are unsound on a
//! processor without the set, hence `unsafe`.

/// A vector of `N` floats.
pub(crate) trait Lanes: Copy {
    /// Floats in a vector.
    const N: usize;
    /// # Safety
    /// The instruction set is there.
    unsafe fn splat(x: f32) -> Self;
    /// # Safety
    /// The instruction set is there; `N` floats are readable at `p`.
    unsafe fn load(p: *const f32) -> Self;
    /// The first `n` floats, zeros after. # Safety: as `load`, for `n <= N` floats.
    unsafe fn load_n(p: *const f32, n: usize) -> Self;
    /// # Safety
    /// The instruction set is there; `N` floats are writable at `p`.
    unsafe fn store(self, p: *mut f32);
    /// The first `n` floats. # Safety: as `store`, for `n <= N` floats.
    unsafe fn store_n(self, p: *mut f32, n: usize);
    /// `self + a * b`. # Safety: the instruction set is there.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// # Safety
    /// The instruction set is there.
    unsafe fn add(self, o: Self) -> Self;
    /// # Safety
    /// The instruction set is there.
    unsafe fn mul(self, o: Self) -> Self;
    /// # Safety
    /// The instruction set is there.
    unsafe fn max(self, o: Self) -> Self;
    /// # Safety
    /// The instruction set is there.
    unsafe fn min(self, o: Self) -> Self;
}

/// Four floats in plain Rust: SSE2 on x86-64, on AArch64 the NEON instructions that one would write by hand, whatever the compiler makes
/// of it elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f32; 4]);

impl Plain {
    #[inline(always)]
    fn zip(self, o: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], o.0[i])))
    }
}

// SAFETY (all methods): pointers are valid for the floats named by the trait's contract.
impl Lanes for Plain {
    const N: usize = 4;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 4])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: four floats are readable (contract).
        Self(unsafe { p.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> Self {
        let mut v = [0.0; 4];
        for i in 0..n {
            // SAFETY: `n` floats are readable (contract).
            v[i] = unsafe { *p.add(i) };
        }
        Self(v)
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: four floats are writable (contract).
        unsafe { p.cast::<[f32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize) {
        for i in 0..n {
            // SAFETY: `n` floats are writable (contract).
            unsafe { *p.add(i) = self.0[i] };
        }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // A fused operation where it is one instruction; elsewhere it would be a library call.
        let f = |x: f32, y: f32, z: f32| if cfg!(target_arch = "aarch64") { x.mul_add(y, z) } else { x * y + z };
        Self(std::array::from_fn(|i| f(a.0[i], b.0[i], self.0[i])))
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        self.zip(o, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        self.zip(o, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        self.zip(o, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, o: Self) -> Self {
        self.zip(o, |a, b| if a < b { a } else { b })
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Ymm, Zmm};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// Eight floats: AVX2 with FMA.
    #[derive(Clone, Copy)]
    pub(crate) struct Ymm(__m256);

    /// Sixteen floats: AVX-512 F.
    #[derive(Clone, Copy)]
    pub(crate) struct Zmm(__m512);

    /// `n` ones, then zeros, for masked moves of eight floats: read at `8 - n`.
    static ONES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

    #[inline(always)]
    unsafe fn mask8(n: usize) -> __m256i {
        debug_assert!(n <= 8);
        // SAFETY: `n <= 8`, so eight words from `8 - n` lie in the table.
        unsafe { _mm256_loadu_si256(ONES.as_ptr().add(8 - n).cast()) }
    }

    impl Lanes for Ymm {
        const N: usize = 8;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the instruction set is there (contract), here and below.
            Self(unsafe { _mm256_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: eight floats are readable (contract).
            Self(unsafe { _mm256_loadu_ps(p) })
        }
        #[inline(always)]
        unsafe fn load_n(p: *const f32, n: usize) -> Self {
            // SAFETY: a masked load touches the first `n` floats alone, which are readable (contract).
            Self(unsafe { _mm256_maskload_ps(p, mask8(n)) })
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: eight floats are writable (contract).
            unsafe { _mm256_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn store_n(self, p: *mut f32, n: usize) {
            // SAFETY: a masked store touches the first `n` floats alone, which are writable (contract).
            unsafe { _mm256_maskstore_ps(p, mask8(n), self.0) }
        }
        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: the instruction set is there (contract).
            Self(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
        }
        #[inline(always)]
        unsafe fn add(self, o: Self) -> Self {
            // SAFETY: the instruction set is there (contract).
            Self(unsafe { _mm256_add_ps(self.0, o.0) })
        }
        #[inline(always)]
        unsafe fn mul(self, o: Self) -> Self {
            // SAFETY: the instruction set is there (contract).
            Self(unsafe { _mm256_mul_ps(self.0, o.0) })
        }
        #[inline(always)]
        unsafe fn max(self, o: Self) -> Self {
            // SAFETY: the instruction set is there (contract).
            Self(unsafe { _mm256_max_ps(self.0, o.0) })
        }
        #[inline(always)]
        unsafe fn min(self, o: Self) -> Self {
            // SAFETY: the instruction set is there (contract).
            Self(unsafe { _mm256_min_ps(self.0, o.0) })
        }
    }

    impl Lanes for Zmm {
        const N: usize = 16;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the instruction set is there (contract), here and below.
            Self(unsafe { _mm512_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: sixteen floats are readable (contract).
            Self(unsafe { _mm512_loadu_ps(p) })
        }
        #[inline(always)]
        unsafe fn load_n(p: *const f32, n: usize) -> Self {
            // SAFETY: a masked load touches the first `n` floats alone, which are readable (contract).
            Self(unsafe { _mm512_maskz_loadu_ps(mask16(n), p) })
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: sixteen floats are writable (contract).
            unsafe { _mm512_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn store_n(self, p: *mut f32, n: usize) {
            // SAFETY: a masked store touches the first `n` floats alone, which are writable (contract).
            unsafe { _mm512_mask_storeu_ps(p, mask16(n), self.0) }
        }
        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: the instruction set is there (contract).
            Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }
        #[inline(always)]
        unsafe fn add(self, o: Self) -> Self {
            // SAFETY: the instruction set is there (contract).
            Self(unsafe { _mm512_add_ps(self.0, o.0) })
        }
        #[inline(always)]
        unsafe fn mul(self, o: Self) -> Self {
            // SAFETY: the instruction set is there (contract).
            Self(unsafe { _mm512_mul_ps(self.0, o.0) })
        }
        #[inline(always)]
        unsafe fn max(self, o: Self) -> Self {
            // SAFETY: the instruction set is there (contract).
            Self(unsafe { _mm512_max_ps(self.0, o.0) })
        }
        #[inline(always)]
        unsafe fn min(self, o: Self) -> Self {
            // SAFETY: the instruction set is there (contract).
            Self(unsafe { _mm512_min_ps(self.0, o.0) })
        }
    }

    #[inline(always)]
    fn mask16(n: usize) -> u16 {
        debug_assert!(n <= 16);
        ((1u32 << n) - 1) as u16
    }
}
