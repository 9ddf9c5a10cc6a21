//! The two products of attention, on rows that lie as the store keeps them.

use super::super::gemm_float::Element;
use super::super::vector::{LANES, Simd, prefetch_bytes};
use half::bf16;

/// The right side of a product: element (k, column) at `panel * (column / 16) + step * k + column % 16`.
#[derive(Clone, Copy)]
pub(super) struct Operand<E> {
    pub(super) b: *const E,
    pub(super) step: usize,
    pub(super) panel: usize,
    pub(super) then: *const u8, // what is read after it; null: nothing is asked for ahead
}

/// Bytes of rows of an operand that are asked for ahead of those in use.
const AHEAD: usize = 8192;

impl<E> Operand<E> {
    /// What to ask for while panels `p..p + wide` of `panels` are read, `k` elements each: a stream that runs ahead of the reading.
    #[inline(always)]
    fn ahead(&self, p: usize, wide: usize, (k, panels): (usize, usize)) -> Ahead {
        let size = size_of::<E>();
        if self.then.is_null() {
            return Ahead { at: self.then, bytes: 0, until: 0, then: self.then };
        }
        if self.panel >= k * self.step {
            // Panels lie one after the other: the next ones.
            let at = if p + wide < panels { self.b.wrapping_add((p + wide) * self.panel).cast() } else { self.then };
            return Ahead { at, bytes: wide * self.panel * size / k, until: k, then: at };
        }
        // Panels lie side by side: whole rows, while the first panels are read.
        let bytes = if p == 0 { self.step * size } else { 0 };
        let rows = (AHEAD / (self.step * size)).min(k);
        Ahead { at: self.b.wrapping_add(rows * self.step).cast(), bytes, until: k - rows, then: self.then }
    }
}

/// Step i of a tile asks for `bytes` at `at + i * bytes`, from step `until` on for those at `then`.
#[derive(Clone, Copy)]
struct Ahead {
    at: *const u8,
    bytes: usize,
    until: usize,
    then: *const u8,
}

impl Ahead {
    #[inline(always)]
    fn ask(&self, i: usize) {
        let from = if i < self.until {
            self.at.wrapping_add(i * self.bytes)
        } else {
            self.then.wrapping_add((i - self.until) * self.bytes)
        };
        prefetch_bytes(from, self.bytes);
    }
}

/// `out = a b` for `(rows, k, panels)`; rows of a are `stride` apart, rows of out `out.1`.
#[inline(always)]
pub(super) unsafe fn product<S: Simd, E: Element>(
    a: *const f32,
    stride: usize,
    (rows, k, panels): (usize, usize, usize),
    b: Operand<E>,
    out: (*mut f32, usize),
) {
    let mut r = 0;
    // Rows of a tile, and the panels that it takes at once where registers allow: few rows need more panels for enough sums.
    macro_rules! step {
        ($size:literal, $wide:literal) => {
            if S::TILE.0 >= $size {
                while rows - r >= $size {
                    let mut p = 0;
                    // SAFETY: rows r..r + $size and the panels exist.
                    unsafe {
                        while p < panels {
                            let at = Operand { b: b.b.add(p * b.panel), ..b };
                            let to = (out.0.add(r * out.1 + p * LANES), out.1);
                            let many = (S::TILE.1 == 2 || $size * $wide <= 4) && p + $wide <= panels;
                            let ahead = b.ahead(p, if many { $wide } else { 1 }, (k, panels));
                            // Many rows multiply for longer than they read, and later rows find what the first have read.
                            let ahead = if $size <= 4 && r == 0 { ahead } else { Ahead { bytes: 0, ..ahead } };
                            if many {
                                tile::<S, E, $size, $wide>(a.add(r * stride), stride, k, at, ahead, to);
                                p += $wide;
                            } else {
                                tile::<S, E, $size, 1>(a.add(r * stride), stride, k, at, ahead, to);
                                p += 1;
                            }
                        }
                    }
                    r += $size;
                }
            }
        };
    }
    step!(12, 2);
    step!(6, 4);
    step!(4, 4);
    step!(3, 4);
    step!(2, 4);
    step!(1, 4);
}

#[inline(always)]
unsafe fn tile<S: Simd, E: Element, const R: usize, const V: usize>(
    a: *const f32,
    stride: usize,
    k: usize,
    b: Operand<E>,
    ahead: Ahead,
    out: (*mut f32, usize),
) {
    // SAFETY: the caller vouches for R rows and V panels.
    unsafe {
        let mut acc = [[S::splat(0.0); V]; R];
        for i in 0..k {
            if R <= 4 {
                ahead.ask(i);
            }
            let mut column = [S::splat(0.0); V];
            for v in 0..V {
                column[v] = E::load::<S>(b.b.add(v * b.panel + i * b.step));
            }
            for r in 0..R {
                let x = S::splat(*a.add(r * stride + i));
                for v in 0..V {
                    acc[r][v] = S::fma(x, column[v], acc[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                S::store(out.0.add(r * out.1 + v * LANES), acc[r][v]);
            }
        }
    }
}

/// The right side of a product of bf16: pair (k / 2, column) at `panel * (column / 16) + step * (k / 2) + 2 * (column % 16)`.
#[derive(Clone, Copy)]
pub(super) struct Pairs {
    pub(super) b: *const bf16,
    pub(super) step: usize,
    pub(super) panel: usize,
}

/// `out = a b` for `(rows, pairs, panels)`, a pair being two neighbours along k; rows of a are `stride` elements apart, rows of out
/// `out.1`.
#[inline(always)]
pub(super) unsafe fn product_bf16<S: Simd>(
    a: *const bf16,
    stride: usize,
    (rows, pairs, panels): (usize, usize, usize),
    b: Pairs,
    out: (*mut f32, usize),
) {
    let mut r = 0;
    macro_rules! step {
        ($size:literal, $wide:literal) => {
            while rows - r >= $size {
                let mut p = 0;
                // SAFETY: rows r..r + $size and the panels exist.
                unsafe {
                    while p < panels {
                        let at = Pairs { b: b.b.add(p * b.panel), ..b };
                        let to = (out.0.add(r * out.1 + p * LANES), out.1);
                        if p + $wide <= panels {
                            tile_bf16::<S, $size, $wide>(a.add(r * stride), stride, pairs, at, to);
                            p += $wide;
                        } else {
                            tile_bf16::<S, $size, 1>(a.add(r * stride), stride, pairs, at, to);
                            p += 1;
                        }
                    }
                }
                r += $size;
            }
        };
    }
    step!(12, 2);
    step!(6, 4);
    step!(1, 4);
}

#[inline(always)]
unsafe fn tile_bf16<S: Simd, const R: usize, const V: usize>(
    a: *const bf16,
    stride: usize,
    pairs: usize,
    b: Pairs,
    out: (*mut f32, usize),
) {
    // SAFETY: the caller vouches for R rows and V panels.
    unsafe {
        let mut acc = [[S::splat(0.0); V]; R];
        for i in 0..pairs {
            let mut column = [S::splati(0); V];
            for v in 0..V {
                column[v] = S::loadi(b.b.add(v * b.panel + i * b.step).cast());
            }
            for r in 0..R {
                let x = S::splati(a.add(r * stride + 2 * i).cast::<i32>().read_unaligned());
                for v in 0..V {
                    acc[r][v] = S::dot_bf16(acc[r][v], x, column[v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                S::store(out.0.add(r * out.1 + v * LANES), acc[r][v]);
            }
        }
    }
}
