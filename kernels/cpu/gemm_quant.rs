//! Products with quantized weights: activations are quantized to 8 bits a block of 32, products summed in integers a
//! sub-block, and sub-blocks in f32, in the same order for one row as for many.

use super::format::{self, Format};
use super::product::{Block, Output};
use super::vector::{LANES, Simd, Task, dispatch, prefetch_bytes};
use crate::Pool;
use crate::pool::Shareable;
use crate::simd::Level;

/// Activations quantized to 8 bits: `x = scale * q`, 32 elements a scale; in scratch memory.
#[derive(Clone, Copy)]
pub(crate) struct Quantized {
    k: usize,
    q: *mut i8,       // (m, k)
    scale: *mut f32,  // (m, k / 32)
    sum: *mut i32,    // (m, k / 16): sums of q
    total: *mut f32,  // (m, k / 16): the same times the scale
    totals: *mut f32, // (m, k / 32): of both halves together
}

// SAFETY: written row by row by tasks of their own, then only read; who made it keeps the memory.
unsafe impl Sync for Quantized {}
// SAFETY: as above.
unsafe impl Send for Quantized {}

/// Elements that a task quantizes at least.
const GRAIN: usize = 1 << 15;

impl Quantized {
    /// Bytes of scratch for m rows of k elements.
    pub(crate) fn bytes(m: usize, k: usize) -> usize {
        m * k + 2 * (m * k / 32 * 4) + 2 * (m * k / 16 * 4)
    }

    /// Quantizes x (m, k) into `scratch` (bytes(m, k) bytes, aligned); k is a multiple of 32.
    pub(crate) fn new(pool: &Pool, level: Level, x: &[f32], m: usize, k: usize, scratch: *mut u8) -> Self {
        let q = scratch.cast::<i8>();
        let scale = scratch.wrapping_add(m * k).cast::<f32>();
        let sum = scratch.wrapping_add(m * k + m * k / 32 * 4).cast::<i32>();
        let total = sum.wrapping_add(m * k / 16).cast::<f32>();
        let this = Self { k, q, scale, sum, total, totals: total.wrapping_add(m * k / 16) };
        let rows = (GRAIN / k.max(1)).max(1);
        let from = Shareable::new(x.as_ptr().cast_mut());
        pool.for_each(m.div_ceil(rows), |i| {
            let (row, rows) = (i * rows, rows.min(m - i * rows));
            dispatch(level, QuantizeRows { x: from.get().wrapping_add(row * k), to: this, row, rows });
        });
        this
    }
}

struct QuantizeRows {
    x: *const f32,
    to: Quantized,
    row: usize,
    rows: usize,
}

impl Task for QuantizeRows {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let first = self.row * self.to.k / 32;
        for b in 0..self.rows * self.to.k / 32 {
            // SAFETY: rows are whole blocks; x and the target hold them, and the rows are this task's own.
            unsafe {
                let p = self.x.add(b * 32);
                let (lo, hi) = (S::load(p), S::load(p.add(LANES)));
                let largest = S::max_lane(S::max(S::abs(lo), S::abs(hi)));
                // Zero, or NaN where an element is not finite: the result then shows it.
                let taint = S::sum(S::mul(S::add(lo, hi), S::splat(0.0)));
                let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                let scale = largest / 127.0 + taint;
                let mut both = 0;
                let q = self.to.q.add((first + b) * 32);
                for (half, v) in [lo, hi].into_iter().enumerate() {
                    S::store_i8(q.add(half * LANES), S::mul(v, S::splat(inverse)));
                    let mut sum = 0;
                    for i in 0..LANES {
                        sum += i32::from(*q.add(half * LANES + i));
                    }
                    both += sum;
                    *self.to.sum.add((first + b) * 2 + half) = sum;
                    *self.to.total.add((first + b) * 2 + half) = scale * sum as f32;
                }
                *self.to.scale.add(first + b) = scale;
                *self.to.totals.add(first + b) = scale * both as f32;
            }
        }
    }
}

/// One block of `out = x w^T` with weights in records.
pub(crate) struct Quant<F> {
    pub(crate) x: Quantized,
    pub(crate) w: *const u8, // panels of k / 32 / UNITS records, panel 0 of the whole matrix
    pub(crate) target: Output,
    pub(crate) block: Block,
    pub(crate) scratch: *mut u8, // scratch_bytes(block.rows)
    pub(crate) format: std::marker::PhantomData<F>,
}

/// Rows from which on a panel is unpacked once for all of them.
pub(crate) const UNPACKED: usize = 9;

/// Bytes of weights that are asked for ahead of those in use: what memory delivers in some hundred nanoseconds, and half of the smallest
/// first-level cache. From 0 to 2 KiB products slow down by up to a fifth, at 8 KiB they are as fast.
pub(crate) const AHEAD: usize = 4096;

/// Units of a panel that are unpacked at once, then multiplied by all rows: they stay in the second-level cache, however long a row is.
const DEPTH: usize = 32;
/// An unpacked part of a panel: codes (DEPTH * 8, 16, 4), scales and minima (DEPTH * 2, 16) each.
const PART: usize = DEPTH * 8 * 64 + 2 * SCALES;
const SCALES: usize = DEPTH * 2 * LANES * size_of::<f32>();

/// Most panels of a tile.
const WIDE: usize = 2;

/// Scratch bytes that a block takes: parts of WIDE panels, and running sums (rows, WIDE, 16).
pub(crate) fn scratch_bytes(rows: usize) -> usize {
    if rows < UNPACKED { 0 } else { WIDE * PART + rows * WIDE * LANES * size_of::<f32>() }
}

impl<F: Format> Task for Quant<F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let b = self.block;
        // SAFETY: the caller built the block from the shapes of x, w and out.
        unsafe {
            let mut p = b.panel;
            while p < b.panel + b.panels {
                if b.rows < UNPACKED {
                    self.stream::<S>(p);
                    p += 1;
                } else {
                    let wide = S::TILE_INT.1.min(b.panel + b.panels - p);
                    let units = self.x.k / 32;
                    for first in (0..units).step_by(DEPTH) {
                        let part = (first, DEPTH.min(units - first));
                        for v in 0..wide {
                            self.unpack::<S>(p + v, part, self.scratch.add(v * PART));
                        }
                        self.rows::<S>(p, wide, part);
                    }
                    p += wide;
                }
            }
        }
    }
}

impl<F: Format> Quant<F> {
    #[inline(always)]
    fn panel(&self, p: usize) -> *const u8 {
        self.w.wrapping_add(p * (self.x.k / 32 / F::UNITS) * F::RECORD)
    }

    /// The sum of a sub-block's activations, which a bias of the codes multiplies.
    #[inline(always)]
    unsafe fn sum(&self, row: usize, unit: usize, half: usize) -> i32 {
        // SAFETY: the caller vouches for the row and the unit.
        unsafe {
            let s = self.x.sum.add((row * self.x.k / 32 + unit) * 2);
            if F::SUB == 32 { *s + *s.add(1) } else { *s.add(half) }
        }
    }

    #[inline(always)]
    unsafe fn dot<S: Simd>(acc: S::I, codes: S::I, x: *const i8) -> S::I {
        // SAFETY: the caller's.
        unsafe { if F::BITS == 8 { S::dot_full(acc, codes, x) } else { S::dot(acc, codes, x) } }
    }

    /// The bias that [`Self::dot`] leaves to be taken away.
    #[inline(always)]
    fn bias<S: Simd>() -> i32 {
        F::BIAS - if F::BITS == 8 { S::FULL_BIAS } else { 0 }
    }

    /// Adds a sub-block's integer sum to the running f32 sum.
    #[inline(always)]
    unsafe fn fold<S: Simd>(&self, acc: S::F, int: S::I, scale: S::F, min: S::F, at: (usize, usize, usize)) -> S::F {
        let (row, unit, half) = at;
        // SAFETY: the caller vouches for the row and the unit.
        unsafe {
            let d = *self.x.scale.add(row * self.x.k / 32 + unit);
            let acc = S::fma(S::to_float(int), S::mul(scale, S::splat(d)), acc);
            let at = row * self.x.k / 32 + unit;
            let total = if F::SUB == 32 { self.x.totals.add(at) } else { self.x.total.add(2 * at + half) };
            if F::MINS { S::fma(min, S::splat(*total), acc) } else { acc }
        }
    }

    /// Few rows: the panel is unpacked in registers as it streams by.
    #[inline(always)]
    unsafe fn stream<S: Simd>(&self, panel: usize) {
        let (mut r, end) = (self.block.row, self.block.row + self.block.rows);
        macro_rules! step {
            ($size:literal) => {
                if S::TILE_INT.0 >= $size {
                    while end - r >= $size {
                        // SAFETY: rows r..r + $size exist.
                        unsafe { self.stream_tile::<S, $size>(panel, r) };
                        r += $size;
                    }
                }
            };
        }
        step!(6);
        step!(4);
        if S::TILE_INT.0 == 3 {
            step!(3);
        }
        step!(2);
        step!(1);
    }

    #[inline(always)]
    unsafe fn stream_tile<S: Simd, const R: usize>(&self, panel: usize, row: usize) {
        let k = self.x.k;
        // SAFETY: R rows of x from `row` on and the panel's records exist.
        unsafe {
            let mut record = self.panel(panel);
            let mut acc = [S::splat(0.0); R];
            for first in (0..k / 32).step_by(F::UNITS) {
                for u in 0..F::UNITS {
                    prefetch_bytes(record.wrapping_add(F::HEAD + u * F::UNIT + AHEAD), F::UNIT);
                    let codes = format::codes::<S, F>(record, u);
                    for half in 0..32 / F::SUB {
                        let scale = format::scale::<S, F>(record, u, half);
                        let min = if F::MINS { format::min::<S, F>(record, u, half) } else { scale };
                        for r in 0..R {
                            let at = (row + r, first + u, half);
                            let x = self.x.q.add((row + r) * k + (first + u) * 32 + half * F::SUB);
                            let mut int = S::splati(0);
                            if Self::bias::<S>() != 0 {
                                int = S::splati(-Self::bias::<S>() * self.sum(at.0, at.1, at.2));
                            }
                            for g in 0..F::SUB / 4 {
                                int = Self::dot::<S>(int, codes[half * F::SUB / 4 + g], x.add(4 * g));
                            }
                            acc[r] = self.fold::<S>(acc[r], int, scale, min, at);
                        }
                    }
                }
                record = record.add(F::RECORD);
            }
            for r in 0..R {
                self.target.store::<S>(row + r, panel, acc[r]);
            }
        }
    }

    /// Unpacks `units` units of a panel from `begin` on: codes to bytes, scales and minima to f32.
    #[inline(always)]
    unsafe fn unpack<S: Simd>(&self, panel: usize, (begin, units): (usize, usize), to: *mut u8) {
        // SAFETY: `to` holds PART bytes, the panel its records; parts are whole records.
        unsafe {
            let mut record = self.panel(panel).add(begin / F::UNITS * F::RECORD);
            let scales = to.add(PART - 2 * SCALES).cast::<f32>();
            let mins = to.add(PART - SCALES).cast::<f32>();
            for first in (0..units).step_by(F::UNITS) {
                for u in 0..F::UNITS {
                    prefetch_bytes(record.wrapping_add(F::HEAD + u * F::UNIT + AHEAD), F::UNIT);
                    let codes = format::codes::<S, F>(record, u);
                    for g in 0..8 {
                        S::storei(to.add(((first + u) * 8 + g) * 64), codes[g]);
                    }
                    for half in 0..32 / F::SUB {
                        let at = ((first + u) * (32 / F::SUB) + half) * LANES;
                        S::store(scales.add(at), format::scale::<S, F>(record, u, half));
                        if F::MINS {
                            S::store(mins.add(at), format::min::<S, F>(record, u, half));
                        }
                    }
                }
                record = record.add(F::RECORD);
            }
        }
    }

    /// All rows by an unpacked part of up to WIDE panels.
    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, panel: usize, wide: usize, part: (usize, usize)) {
        let (mut r, end) = (self.block.row, self.block.row + self.block.rows);
        macro_rules! step {
            ($size:literal) => {
                if S::TILE_INT.0 >= $size {
                    while end - r >= $size {
                        // SAFETY: rows r..r + $size and `wide` unpacked panels exist.
                        unsafe {
                            match wide {
                                2 if S::TILE_INT.1 >= 2 => self.tile::<S, $size, 2>(panel, r, part),
                                _ => self.tile::<S, $size, 1>(panel, r, part),
                            }
                        }
                        r += $size;
                    }
                }
            };
        }
        step!(6);
        step!(4);
        if S::TILE_INT.0 == 3 {
            step!(3);
        }
        step!(2);
        step!(1);
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const V: usize>(&self, panel: usize, row: usize, (begin, units): (usize, usize)) {
        let k = self.x.k;
        // SAFETY: R rows of x from `row` on exist, and scratch holds the part of V panels and sums of all rows of the block.
        unsafe {
            let sums = self.scratch.add(WIDE * PART).cast::<f32>().add((row - self.block.row) * WIDE * LANES);
            let mut acc = [[S::splat(0.0); V]; R];
            if begin > 0 {
                for r in 0..R {
                    for v in 0..V {
                        acc[r][v] = S::load(sums.add((WIDE * r + v) * LANES));
                    }
                }
            }
            for at in 0..units {
                let unit = begin + at;
                for half in 0..32 / F::SUB {
                    let mut int = [[S::splati(0); V]; R];
                    if Self::bias::<S>() != 0 {
                        for r in 0..R {
                            int[r] = [S::splati(-Self::bias::<S>() * self.sum(row + r, unit, half)); V];
                        }
                    }
                    for g in 0..F::SUB / 4 {
                        let group = half * F::SUB / 4 + g;
                        for v in 0..V {
                            let codes = S::loadi(self.scratch.add(v * PART + (at * 8 + group) * 64));
                            for r in 0..R {
                                let x = self.x.q.add((row + r) * k + (unit * 8 + group) * 4);
                                int[r][v] = Self::dot::<S>(int[r][v], codes, x);
                            }
                        }
                    }
                    for v in 0..V {
                        let scales = self.scratch.add(v * PART + PART - 2 * SCALES).cast::<f32>();
                        let at = (at * (32 / F::SUB) + half) * LANES;
                        let scale = S::load(scales.add(at));
                        let min = if F::MINS { S::load(scales.add(SCALES / size_of::<f32>() + at)) } else { scale };
                        for r in 0..R {
                            acc[r][v] = self.fold::<S>(acc[r][v], int[r][v], scale, min, (row + r, unit, half));
                        }
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    if begin + units < k / 32 {
                        S::store(sums.add((WIDE * r + v) * LANES), acc[r][v]);
                    } else {
                        self.target.store::<S>(row + r, panel + v, acc[r][v]);
                    }
                }
            }
        }
    }
}
