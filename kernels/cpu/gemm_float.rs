//! Products with weights stored as f32, f16 or bf16: panels of 16 rows interleaved, (panels, k, 16).

use super::product::{Block, Output};
use super::vector::{LANES, Simd, Task};

/// A storage type of plain floats.
pub(crate) trait Element: Copy {
    /// Whether loading it takes a conversion that is worth doing once a block of rows.
    const CONVERTED: bool;
    /// Whether elements are codes with scales beside them (keys and values of 8 bits).
    const SCALED: bool = false;
    /// Whether elements lie in pairs along k, for products of bf16: see [`Pair`].
    const PAIRED: bool = false;

    /// 16 elements at `p`.
    unsafe fn load<S: Simd>(p: *const Self) -> S::F;
}

impl Element for f32 {
    const CONVERTED: bool = false;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::load(p) }
    }
}

impl Element for half::f16 {
    const CONVERTED: bool = true;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::load_f16(p) }
    }
}

impl Element for half::bf16 {
    const CONVERTED: bool = true;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::load_bf16(p) }
    }
}

impl Element for i8 {
    const CONVERTED: bool = true;
    const SCALED: bool = true;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::load_i8(p) }
    }
}

/// Half of a pair of bf16 whose two products are summed at once; multiplied by no other element than its own kind.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
pub(crate) struct Pair(pub(crate) half::bf16);

impl Element for Pair {
    const CONVERTED: bool = true;
    const PAIRED: bool = true;

    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const Self) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::load_bf16(p.cast()) }
    }
}

/// One block of `out = x w^T`.
pub(crate) struct Float<W> {
    pub(crate) x: *const f32, // (m, k), row 0 of the whole product
    pub(crate) k: usize,
    pub(crate) w: *const W, // (panels, k, 16), panel 0 of the whole matrix
    pub(crate) target: Output,
    pub(crate) block: Block,
    pub(crate) scratch: *mut f32, // SCRATCH * k elements
}

/// Scratch elements that a block takes for each element of a row: two panels, converted.
pub(crate) const SCRATCH: usize = 2 * LANES;

impl<W: Element> Task for Float<W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let b = self.block;
        // SAFETY: the caller built the block from the shapes of x, w and out.
        unsafe {
            if b.rows == 1 {
                // One row: four panels at once, for enough independent sums.
                let mut p = 0;
                while p + 4 <= b.panels {
                    self.tile::<S, W, 1, 4>(self.panel(p), b.row, b.panel + p);
                    p += 4;
                }
                while p < b.panels {
                    self.tile::<S, W, 1, 1>(self.panel(p), b.row, b.panel + p);
                    p += 1;
                }
            } else if W::CONVERTED && b.rows > S::TILE.0 {
                self.converted::<S>(self.scratch);
            } else {
                let mut p = 0;
                while p < b.panels {
                    let wide = if S::TILE.1 == 2 && p + 2 <= b.panels { 2 } else { 1 };
                    self.rows::<S, W>(self.panel(p), b.panel + p, wide);
                    p += wide;
                }
            }
        }
    }
}

impl<W: Element> Float<W> {
    #[inline(always)]
    fn panel(&self, p: usize) -> *const W {
        self.w.wrapping_add((self.block.panel + p) * self.k * LANES)
    }

    /// Converts one or two panels to f32, then multiplies all rows by them.
    #[inline(always)]
    unsafe fn converted<S: Simd>(&self, scratch: *mut f32) {
        let mut p = 0;
        while p < self.block.panels {
            let wide = if S::TILE.1 == 2 && p + 2 <= self.block.panels { 2 } else { 1 };
            let from = self.panel(p);
            let mut i = 0;
            // SAFETY: `wide` panels from `p` on exist, and scratch holds two.
            unsafe {
                while i < wide * self.k * LANES {
                    S::store(scratch.add(i), W::load::<S>(from.add(i)));
                    i += LANES;
                }
                self.rows::<S, f32>(scratch, self.block.panel + p, wide);
            }
            p += wide;
        }
    }

    /// All rows of the block by one or two panels: the largest tile first, then smaller ones for what is left.
    #[inline(always)]
    unsafe fn rows<S: Simd, E: Element>(&self, w: *const E, panel: usize, wide: usize) {
        let mut r = self.block.row;
        let end = r + self.block.rows;
        macro_rules! step {
            ($size:literal) => {
                // Sizes above the level's tile are never compiled in: the condition is constant.
                if S::TILE.0 >= $size {
                    while end - r >= $size {
                        // SAFETY: rows r..r + $size and `wide` panels exist.
                        unsafe {
                            if S::TILE.1 == 2 && wide == 2 {
                                self.tile::<S, E, $size, 2>(w, r, panel);
                            } else {
                                self.tile::<S, E, $size, 1>(w, r, panel);
                            }
                        }
                        r += $size;
                    }
                }
            };
        }
        step!(12);
        step!(6);
        step!(4);
        step!(2);
        step!(1);
    }

    /// R rows by V panels, sums in registers over the whole of k.
    #[inline(always)]
    unsafe fn tile<S: Simd, E: Element, const R: usize, const V: usize>(&self, w: *const E, row: usize, panel: usize) {
        let (k, stride) = (self.k, self.k * LANES);
        // SAFETY: the caller vouches for R rows of x and V panels at w.
        unsafe {
            let x = self.x.add(row * k);
            let mut acc = [[S::splat(0.0); V]; R];
            for i in 0..k {
                let mut b = [S::splat(0.0); V];
                for v in 0..V {
                    b[v] = E::load::<S>(w.add(v * stride + i * LANES));
                }
                for r in 0..R {
                    let a = S::splat(*x.add(r * k + i));
                    for v in 0..V {
                        acc[r][v] = S::fma(a, b[v], acc[r][v]);
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    self.target.store::<S>(row + r, panel + v, acc[r][v]);
                }
            }
        }
    }
}

/// Interleaves `rows` rows (at most 16) of `cols` elements into one panel (cols, 16); missing rows stay zero.
pub(crate) fn pack_panel<W: Copy>(rows: &[W], cols: usize, panel: &mut [W]) {
    for (r, row) in rows.chunks_exact(cols.max(1)).enumerate() {
        for (i, &v) in row.iter().enumerate() {
            panel[i * LANES + r] = v;
        }
    }
}
