//! One task of attention: some rows over the chunks of keys that they see.

use super::super::gemm_float::Element;
use super::super::kv::SUB;
use super::super::math;
use super::super::vector::{LANES, Simd, Task};
use super::product::{Operand, Pairs, product, product_bf16};
use super::{CHUNK, Chunk, Head, ROWS, Stage};
use half::bf16;
use std::marker::PhantomData;

pub(super) struct Attend<'a, E> {
    pub(super) head: &'a Head,
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) stage: Stage,
    pub(super) next: *const u8,   // what this thread reads after it, or null
    pub(super) scratch: *mut f32, // Head::scratch() floats
    pub(super) element: PhantomData<E>,
}

impl<E: Element> Task for Attend<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (h, partial) = (self.head, self.head.partial());
        // SAFETY: scratch and partial results have the sizes that Head names; rows are this task's own.
        unsafe {
            let own = self.scratch.add(ROWS * (h.padded() + 2 * CHUNK));
            let running = own.add(partial);
            match self.stage {
                Stage::Whole => {
                    self.queries::<S>();
                    self.clear(running);
                    let chunks = h.chunks(self.row, self.rows);
                    for chunk in chunks.clone() {
                        let next = if chunk + 1 < chunks.end { h.chunk::<E>(chunk + 1).keys.cast() } else { self.next };
                        self.chunk::<S>(chunk, next, own);
                        self.merge::<S>(own, running);
                    }
                    self.finish::<S>(running);
                }
                Stage::Chunk(chunk, stored) => {
                    self.queries::<S>();
                    self.chunk::<S>(chunk, self.next, stored);
                }
                Stage::Merge(stored, size) => {
                    self.clear(running);
                    for i in 0..h.chunks(self.row, self.rows).len() {
                        self.merge::<S>(stored.add(i * size), running);
                    }
                    self.finish::<S>(running);
                }
            }
        }
    }
}

impl<E: Element> Attend<'_, E> {
    /// Copies the queries together, scaled; for pairs as bf16.
    #[inline(always)]
    unsafe fn queries<S: Simd>(&self) {
        let h = self.head;
        for r in 0..self.rows {
            let row = self.row + r;
            // SAFETY: the row exists, scratch begins with the queries.
            unsafe {
                let from = h.q.add(row / h.group * h.q_stride + row % h.group * h.head_dim);
                if E::PAIRED {
                    let to = self.scratch.cast::<bf16>().add(r * h.head_dim);
                    for i in 0..h.head_dim {
                        *to.add(i) = bf16::from_f32(*from.add(i) * h.scale);
                    }
                    continue;
                }
                let to = self.scratch.add(r * h.head_dim);
                for i in 0..h.head_dim {
                    *to.add(i) = *from.add(i) * h.scale;
                }
            }
        }
    }

    /// An empty result: sums 0, maxima -inf.
    #[inline(always)]
    unsafe fn clear(&self, result: *mut f32) {
        let padded = self.head.padded();
        // SAFETY: a result holds ROWS (padded + 2) floats.
        unsafe {
            std::ptr::write_bytes(result, 0, ROWS * (padded + 2));
            for r in 0..ROWS {
                *result.add(ROWS * padded + 2 * r) = f32::NEG_INFINITY;
            }
        }
    }

    /// One chunk of keys: scores, exponentials about the chunk's maximum, weighted sum of values. `next` is read after it.
    #[inline(always)]
    unsafe fn chunk<S: Simd>(&self, chunk: usize, next: *const u8, result: *mut f32) {
        let (h, padded) = (self.head, self.head.padded());
        let first = chunk * CHUNK;
        let last = h.seen(self.row + self.rows - 1).1.min(first + CHUNK); // one past the last key that any row sees
        let panels = (last - first).div_ceil(LANES);
        // SAFETY: the chunk holds `panels` panels; scratch has room for twice ROWS x CHUNK scores.
        unsafe {
            let scores = self.scratch.add(ROWS * padded);
            let at = h.chunk::<E>(chunk);
            // 1. scores (rows, panels * 16) = q k^T
            if E::SCALED {
                self.scaled_scores::<S>(&at, panels, scores);
            } else if E::PAIRED {
                let keys = Pairs { b: at.keys.cast(), step: 2 * LANES, panel: h.head_dim * LANES };
                let shape = (self.rows, h.head_dim / 2, panels);
                product_bf16::<S>(self.scratch.cast(), h.head_dim, shape, keys, (scores, CHUNK));
            } else {
                let keys = Operand { b: at.keys, step: LANES, panel: h.head_dim * LANES, then: at.values.cast() };
                product::<S, E>(self.scratch, h.head_dim, (self.rows, h.head_dim, panels), keys, (scores, CHUNK));
            }
            // 2. softmax within the chunk
            for r in 0..self.rows {
                let (from, to) = h.seen(self.row + r);
                let visible = (from.clamp(first, last) - first, to.clamp(first, last) - first);
                let (max, sum) = exponentials::<S>(scores.add(r * CHUNK), panels, visible);
                *result.add(ROWS * padded + 2 * r) = max;
                *result.add(ROWS * padded + 2 * r + 1) = sum;
            }
            // 3. sums (rows, head_dim) = p v
            if E::SCALED {
                self.scaled_sums::<S>(&at, last - first, next, scores, result);
            } else if E::PAIRED {
                let values = Pairs { b: at.values.cast(), step: 2 * padded, panel: 2 * LANES };
                let weights = self.narrow::<S>(scores, panels, result);
                let shape = (self.rows, panels * LANES / 2, padded / LANES);
                product_bf16::<S>(weights, 2 * CHUNK, shape, values, (result, padded));
            } else {
                let values = Operand { b: at.values, step: padded, panel: LANES, then: next };
                product::<S, E>(scores, CHUNK, (self.rows, last - first, padded / LANES), values, (result, padded));
            }
        }
    }

    /// Rounds the weights to bf16, each row at the beginning of its own room: rows are 2 CHUNK elements apart. Their sums become those of
    /// the rounded ones, so that what is divided by them is a mean again.
    #[inline(always)]
    unsafe fn narrow<S: Simd>(&self, scores: *mut f32, panels: usize, result: *mut f32) -> *const bf16 {
        for r in 0..self.rows {
            // SAFETY: the row holds `panels` panels; what is written lies before what is yet to be read. A result has a sum for each row.
            unsafe {
                let row = scores.add(r * CHUNK);
                let mut sum = S::splat(0.0);
                for p in 0..panels {
                    let to = row.cast::<bf16>().add(p * LANES);
                    S::store_bf16(to, S::load(row.add(p * LANES)));
                    sum = S::add(sum, S::load_bf16(to));
                }
                *result.add(ROWS * self.head.padded() + 2 * r + 1) = S::sum(sum);
            }
        }
        scores.cast()
    }

    /// Scores over keys with scales: each sub-block's product times its scales.
    #[inline(always)]
    unsafe fn scaled_scores<S: Simd>(&self, at: &Chunk<E>, panels: usize, scores: *mut f32) {
        let hd = self.head.head_dim;
        // SAFETY: the caller's; the second half of the scores' room is free.
        unsafe {
            let part = scores.add(ROWS * CHUNK);
            for sub in 0..hd.div_ceil(SUB) {
                let then = if sub == 0 { at.values.cast() } else { std::ptr::null() };
                let keys = Operand { b: at.keys.add(sub * SUB * LANES), step: LANES, panel: hd * LANES, then };
                let dims = SUB.min(hd - sub * SUB);
                product::<S, E>(self.scratch.add(sub * SUB), hd, (self.rows, dims, panels), keys, (part, CHUNK));
                for p in 0..panels {
                    let scale = S::load_f16(at.key_scales.add((p * hd.div_ceil(SUB) + sub) * LANES));
                    for r in 0..self.rows {
                        let (from, to) = (part.add(r * CHUNK + p * LANES), scores.add(r * CHUNK + p * LANES));
                        let before = if sub == 0 { S::splat(0.0) } else { S::load(to) };
                        S::store(to, S::fma(S::load(from), scale, before));
                    }
                }
            }
        }
    }

    /// Weighted sums over values with scales: the weights of each sub-block are multiplied by its scales.
    #[inline(always)]
    unsafe fn scaled_sums<S: Simd>(
        &self,
        at: &Chunk<E>,
        positions: usize,
        next: *const u8,
        scores: *mut f32,
        result: *mut f32,
    ) {
        let padded = self.head.padded();
        // SAFETY: the caller's; the second half of the scores' room is free.
        unsafe {
            let weights = scores.add(ROWS * CHUNK);
            for sub in 0..padded.div_ceil(SUB) {
                for p in 0..positions.div_ceil(LANES) {
                    let scale = S::load_f16(at.value_scales.add(sub * CHUNK + p * LANES));
                    for r in 0..self.rows {
                        let at = r * CHUNK + p * LANES;
                        S::store(weights.add(at), S::mul(S::load(scores.add(at)), scale));
                    }
                }
                let then = if sub == 0 { next } else { std::ptr::null() };
                let values = Operand { b: at.values.add(sub * SUB), step: padded, panel: LANES, then };
                let panels = (SUB.min(padded - sub * SUB)) / LANES;
                product::<S, E>(weights, CHUNK, (self.rows, positions, panels), values, (result.add(sub * SUB), padded));
            }
        }
    }

    /// Adds a chunk's result to the running one, both brought to the larger maximum.
    #[inline(always)]
    unsafe fn merge<S: Simd>(&self, part: *const f32, running: *mut f32) {
        let padded = self.head.padded();
        for r in 0..self.rows {
            // SAFETY: both hold ROWS (padded + 2) floats.
            unsafe {
                let (a, b) = (running.add(ROWS * padded + 2 * r), part.add(ROWS * padded + 2 * r));
                let max = (*a).max(*b);
                if max == f32::NEG_INFINITY {
                    continue; // nothing seen so far
                }
                let (old, new) = (math::exp::<S>(S::splat(*a - max)), math::exp::<S>(S::splat(*b - max)));
                let mut lanes = [0.0; LANES];
                S::store(lanes.as_mut_ptr(), S::fma(S::splat(*a.add(1)), old, S::mul(S::splat(*b.add(1)), new)));
                (*a, *a.add(1)) = (max, lanes[0]);
                for i in (0..padded).step_by(LANES) {
                    let (to, from) = (running.add(r * padded + i), part.add(r * padded + i));
                    S::store(to, S::fma(S::load(to), old, S::mul(S::load(from), new)));
                }
            }
        }
    }

    /// Divides by the sums and writes the rows out.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, result: *const f32) {
        let (h, padded) = (self.head, self.head.padded());
        for r in 0..self.rows {
            let row = self.row + r;
            // SAFETY: the row exists and is this task's own.
            unsafe {
                let to = h.out.add(row / h.group * h.out_stride + row % h.group * h.head_dim);
                let inverse = S::splat(1.0 / *result.add(ROWS * padded + 2 * r + 1));
                for i in (0..h.head_dim).step_by(LANES) {
                    let v = S::mul(S::load(result.add(r * padded + i)), inverse);
                    S::store_part(to.add(i), v, LANES.min(h.head_dim - i));
                }
            }
        }
    }
}

/// Turns a row of scores into `exp(score - max)` in place, 0 where not visible; returns (max, sum).
#[inline(always)]
unsafe fn exponentials<S: Simd>(scores: *mut f32, panels: usize, visible: (usize, usize)) -> (f32, f32) {
    // SAFETY: the caller vouches for 16 * panels scores.
    unsafe {
        for i in (0..visible.0).chain(visible.1..panels * LANES) {
            *scores.add(i) = f32::NEG_INFINITY;
        }
        let mut largest = S::splat(f32::NEG_INFINITY);
        for p in 0..panels {
            largest = S::max(S::load(scores.add(p * LANES)), largest);
        }
        let max = S::max_lane(largest);
        let centre = S::splat(if max == f32::NEG_INFINITY { 0.0 } else { max });
        let mut sum = S::splat(0.0);
        for p in 0..panels {
            let e = math::exp::<S>(S::sub(S::load(scores.add(p * LANES)), centre));
            S::store(scores.add(p * LANES), e);
            sum = S::add(sum, e);
        }
        (max, S::sum(sum))
    }
}
