//! What all matrix products share: where a tile goes, and how the work is split. However it is split, sums over k run in one order: a
//! result is the same whatever the number of threads, and a row's result whatever the other rows.

use super::math;
use super::vector::{LANES, Simd, Task, dispatch};
use crate::simd::Level;
use crate::{Activation, Epilogue};

/// The output of a product and what happens to a tile before it is stored.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub(crate) out: *mut f32,     // (m, n)
    pub(crate) stride: usize,     // elements between two rows
    pub(crate) n: usize,          // columns
    pub(crate) bias: *const f32,  // (n) or null
    pub(crate) clamp: (f32, f32), // applied after the bias
    pub(crate) accumulate: bool,
}

// SAFETY: tasks write disjoint tiles; who builds an Output vouches for its pointers while the region runs.
unsafe impl Sync for Output {}
// SAFETY: as above.
unsafe impl Send for Output {}

impl Output {
    /// An (m, n) output; activations that are a clamp are folded in, others are applied by [`finish`].
    pub(crate) fn new(out: *mut f32, n: usize, epilogue: &Epilogue) -> Self {
        let clamp = match epilogue.activation {
            Activation::Relu => (0.0, f32::INFINITY),
            Activation::Relu6 => (0.0, 6.0),
            _ => (f32::NEG_INFINITY, f32::INFINITY),
        };
        let bias = epilogue.bias.map_or(std::ptr::null(), <[f32]>::as_ptr);
        Self { out, stride: n, n, bias, clamp, accumulate: epilogue.accumulate }
    }

    /// Stores 16 columns of panel `panel` in row `row`.
    ///
    /// # Safety
    /// The row is within `out`, and no other thread writes this tile.
    #[inline(always)]
    pub(crate) unsafe fn store<S: Simd>(&self, row: usize, panel: usize, v: S::F) {
        let col = panel * LANES;
        let left = self.n - col;
        // SAFETY: col < n, because panels cover n; `left` bounds what is touched of the last one.
        unsafe {
            let p = self.out.add(row * self.stride + col);
            let mut v = v;
            if left >= LANES {
                if !self.bias.is_null() {
                    v = S::add(v, S::load(self.bias.add(col)));
                }
                v = self.clamped::<S>(v);
                if self.accumulate {
                    v = S::add(v, S::load(p));
                }
                S::store(p, v);
            } else {
                if !self.bias.is_null() {
                    v = S::add(v, S::load_part(self.bias.add(col), left, 0.0));
                }
                v = self.clamped::<S>(v);
                if self.accumulate {
                    v = S::add(v, S::load_part(p, left, 0.0));
                }
                S::store_part(p, v, left);
            }
        }
    }

    #[inline(always)]
    unsafe fn clamped<S: Simd>(&self, v: S::F) -> S::F {
        // SAFETY: the caller's. The value stands second: a NaN stays a NaN.
        unsafe { S::max(S::splat(self.clamp.0), S::min(S::splat(self.clamp.1), v)) }
    }
}

/// A block of the output that one task computes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) row: usize,
    pub(crate) rows: usize,
    pub(crate) panel: usize,
    pub(crate) panels: usize,
}

/// How a product is cut into blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    m: usize,
    panels: usize,
    rows: usize,  // of a block
    group: usize, // panels of a block
}

/// Weight bytes that a task of a product with few rows reads at least: hides the cost of handing it out.
const STREAM: usize = 32 << 10;
/// Multiply-adds that a task of a product with many rows has at least.
const WORK: usize = 1 << 20;
/// Bytes of activations that a block of rows holds at most: they stay in the second-level cache.
const CACHED: usize = 384 << 10;

/// Most and fewest rows of a block that unpacks its panels.
const TALL: usize = 512;
const LOW: usize = 48;

impl Split {
    /// For few rows: all of them in a block, panels by weight bytes. `unit` panels are computed together.
    pub(crate) fn stream(m: usize, panels: usize, panel_bytes: usize, unit: usize) -> Self {
        let group = (STREAM / panel_bytes.max(1)).max(1).next_multiple_of(unit).min(panels.max(1));
        Self { m, panels, rows: m, group }
    }

    /// For many rows of k elements of `size` bytes by floats; blocks of a multiple of `tile` rows.
    pub(crate) fn blocked(m: usize, panels: usize, k: usize, size: usize, tile: (usize, usize)) -> Self {
        let most = (CACHED / (k * size).max(1)).max(4 * tile.0);
        let blocks = m.div_ceil(most.max(1)).max(1);
        let rows = m.div_ceil(blocks).next_multiple_of(tile.0);
        let work = (rows * LANES * k).max(1);
        let group = WORK.div_ceil(work).next_multiple_of(tile.1).min(panels.max(1));
        Self { m, panels, rows, group }
    }

    /// For many rows by quantized weights, of which a task unpacks its panels once for all its rows: blocks as tall as they may be while
    /// each of `threads` still has some tasks to choose from.
    pub(crate) fn unpacked(m: usize, panels: usize, k: usize, tile: (usize, usize), threads: usize) -> Self {
        let mut blocks = m.div_ceil(TALL).max(1);
        let tall = |blocks: usize| m.div_ceil(blocks) > LOW;
        while blocks * panels.div_ceil(tile.1) < 4 * threads && tall(2 * blocks) {
            blocks *= 2;
        }
        let rows = m.div_ceil(blocks).next_multiple_of(tile.0);
        let group = WORK.div_ceil((rows * LANES * k).max(1)).next_multiple_of(tile.1).min(panels.max(1));
        Self { m, panels, rows, group }
    }

    pub(crate) fn blocks(&self) -> usize {
        self.m.div_ceil(self.rows.max(1)) * self.panels.div_ceil(self.group)
    }

    pub(crate) fn block(&self, index: usize) -> Block {
        let groups = self.panels.div_ceil(self.group);
        let (row, panel) = (index / groups * self.rows, index % groups * self.group);
        Block { row, rows: self.rows.min(self.m - row), panel, panels: self.group.min(self.panels - panel) }
    }
}

struct Finish {
    activation: Activation,
    target: Output,
    block: Block,
}

impl Task for Finish {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (o, b) = (self.target, self.block);
        let first = b.panel * LANES;
        let cols = (b.panels * LANES).min(o.n - first);
        for row in b.row..b.row + b.rows {
            let mut col = 0;
            while col < cols {
                let left = (cols - col).min(LANES);
                // SAFETY: the block lies within the output and is this task's own.
                unsafe {
                    let p = o.out.add(row * o.stride + first + col);
                    S::store_part(p, math::activate::<S>(self.activation, S::load_part(p, left, 0.0)), left);
                }
                col += LANES;
            }
        }
    }
}

/// Runs `tiles` for a block, then the activation that it could not fold in.
pub(crate) fn finish(level: Level, activation: Activation, target: Output, block: Block, tiles: impl Fn(Output)) {
    if matches!(activation, Activation::None | Activation::Relu | Activation::Relu6) {
        return tiles(target);
    }
    if !target.accumulate {
        tiles(target);
        return dispatch(level, Finish { activation, target, block });
    }
    // Rare: activation and accumulation together take a block of their own, which is then added.
    let first = block.panel * LANES;
    let cols = (block.panels * LANES).min(target.n - first);
    let mut own = vec![0.0f32; block.rows * cols];
    // The block's corner of `own` stands where the tiles expect the whole output's origin.
    let origin = own.as_mut_ptr().wrapping_sub(block.row * cols + first);
    let temporary = Output { out: origin, stride: cols, accumulate: false, ..target };
    tiles(temporary);
    dispatch(level, Finish { activation, target: temporary, block });
    for (r, own) in own.chunks_exact(cols).enumerate() {
        for (c, v) in own.iter().enumerate() {
            // SAFETY: the block lies within the output and is this task's own.
            unsafe { *target.out.add((block.row + r) * target.stride + first + c) += v }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_output_once() {
        for (m, n, k) in [(1, 1, 1), (1, 4096, 4096), (13, 33, 7), (1500, 2048, 512), (4096, 16, 16), (300, 600, 1)] {
            let panels = usize::div_ceil(n, LANES);
            for split in [
                Split::stream(m, panels, k * LANES * 4, 4),
                Split::blocked(m, panels, k, 4, (12, 2)),
                Split::unpacked(m, panels, k, (6, 2), 16),
            ] {
                let mut seen = vec![0u8; m * panels];
                for i in 0..split.blocks() {
                    let b = split.block(i);
                    for r in b.row..b.row + b.rows {
                        (b.panel..b.panel + b.panels).for_each(|p| seen[r * panels + p] += 1);
                    }
                }
                assert!(seen.iter().all(|&n| n == 1), "{m} {n} {k} {split:?}");
            }
        }
    }
}
