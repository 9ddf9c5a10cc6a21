//! Packed weight matrices and the one product that everything uses.

use crate::cpu::gemm_float::{self, Float, pack_panel};
use crate::cpu::product::{Output, Split, finish};
use crate::cpu::vector::{LANES, Simd, dispatch};
use crate::memory::{Aligned, with_scratch};
use crate::pool::Shareable;
use crate::simd::{self, Level};
use crate::{BlockType, Pool};
use half::{bf16, f16};

/// What is wrong with the bytes or shape of a weight matrix.
#[allow(missing_docs)] // the fields are what the messages name
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MatrixError {
    /// The number of bytes does not fit the shape.
    #[error("a {rows} x {cols} matrix of {kind:?} takes {wanted} bytes, not {seen}")]
    Size { kind: BlockType, rows: usize, cols: usize, wanted: usize, seen: usize },
    /// A row is not a whole number of blocks.
    #[error("a row of {cols} elements is not a whole number of {kind:?} blocks of {block}")]
    Ragged { kind: BlockType, cols: usize, block: usize },
}

/// A function applied to each element of a product, after the bias.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `max(x, 0)`
    Relu,
    /// `clamp(x, 0, 6)`
    Relu6,
    /// Gaussian error linear unit by erf (Whisper).
    Gelu,
    /// Its tanh approximation (Gemma, SigLIP).
    GeluTanh,
    /// `x * sigmoid(x)`
    Silu,
    /// Logistic function.
    Sigmoid,
    /// `x * relu6(x + 3) / 6`
    HardSwish,
}

/// What happens to a product before it is stored: `out = act(x w^T + bias) [+ out if accumulate]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// One value a row of the weights (n).
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Adds to what `out` holds (residual stream) instead of overwriting it.
    pub accumulate: bool,
}

/// Weights (rows = output features n, cols = input features k), immutable, at their native bit size: panels of 16 rows,
/// interleaved for the widest vectors. The layout is the same at every SIMD level.
pub struct Matrix {
    rows: usize,
    cols: usize,
    kind: BlockType,
    level: Level,
    data: Aligned, // (rows / 16 rounded up) panels of panel_bytes()
}

impl Matrix {
    /// From plain floats, row-major (rows, cols).
    pub fn from_f32(rows: usize, cols: usize, data: &[f32]) -> Result<Self, MatrixError> {
        Self::from_floats(BlockType::F32, rows, cols, data)
    }

    /// From half floats, row-major (rows, cols); kept as such, products are summed in f32.
    pub fn from_f16(rows: usize, cols: usize, data: &[f16]) -> Result<Self, MatrixError> {
        Self::from_floats(BlockType::F16, rows, cols, data)
    }

    /// From brain floats, row-major (rows, cols); kept as such, products are summed in f32.
    pub fn from_bf16(rows: usize, cols: usize, data: &[bf16]) -> Result<Self, MatrixError> {
        Self::from_floats(BlockType::BF16, rows, cols, data)
    }

    fn from_floats<T: Copy>(kind: BlockType, rows: usize, cols: usize, data: &[T]) -> Result<Self, MatrixError> {
        if Some(data.len()) != rows.checked_mul(cols) {
            let wanted = rows.saturating_mul(cols).saturating_mul(size_of::<T>());
            return Err(MatrixError::Size { kind, rows, cols, wanted, seen: size_of_val(data) });
        }
        let panel = cols * LANES;
        let mut packed = Aligned::zeroed(rows.div_ceil(LANES) * panel * size_of::<T>());
        if panel > 0 && rows > 0 {
            // SAFETY: the buffer is aligned, zeroed (a valid T: T is a float) and holds whole panels of T.
            let all = unsafe { std::slice::from_raw_parts_mut(packed.as_mut_ptr().cast::<T>(), rows.div_ceil(LANES) * panel) };
            all.chunks_exact_mut(panel).zip(data.chunks(panel)).for_each(|(to, from)| pack_panel(from, cols, to));
        }
        Ok(Self { rows, cols, kind, level: simd::level(), data: packed })
    }

    /// The same matrix computed with at `level` (tests compare all levels; one that the processor lacks runs as its widest).
    pub fn at_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Output features n.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features k.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The storage type it was made from.
    pub fn kind(&self) -> BlockType {
        self.kind
    }

    /// Bytes that the packed weights take.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// Row `row` as floats (embedding look-up). `out`: (cols).
    ///
    /// # Panics
    /// When there is no such row, or `out` is not a row long.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {} into {} of {}", self.rows, out.len(), self.cols);
        let first = row / LANES * self.cols * LANES + row % LANES;
        for (i, o) in out.iter_mut().enumerate() {
            let at = first + i * LANES;
            // SAFETY: the element lies within the row's panel, and the panels hold elements of `kind`.
            *o = unsafe {
                match self.kind {
                    BlockType::F16 => (*self.data.as_ptr().cast::<f16>().add(at)).to_f32(),
                    BlockType::BF16 => (*self.data.as_ptr().cast::<bf16>().add(at)).to_f32(),
                    _ => *self.data.as_ptr().cast::<f32>().add(at),
                }
            };
        }
    }
}

/// One of several products of the same activations, for [`linear_many`].
pub struct Product<'a> {
    /// Weights (n, k).
    pub weights: &'a Matrix,
    /// (m, n), row-major.
    pub out: &'a mut [f32],
    /// What happens to each element before it is stored.
    pub epilogue: Epilogue<'a>,
}

/// `out = epilogue(x w^T)`. `x`: (m, k) row-major, `out`: (m, n) row-major; m is `x.len() / w.cols()`.
///
/// A row of the result depends neither on the number of threads nor on the other rows of `x`.
///
/// # Panics
/// When the lengths do not fit: shapes are checked once, where a model is built.
pub fn linear(pool: &Pool, x: &[f32], w: &Matrix, out: &mut [f32], epilogue: Epilogue) {
    linear_many(pool, x, &mut [Product { weights: w, out, epilogue }]);
}

/// Several products of the same `x` (query, key and value; gate and up) in one parallel region.
///
/// # Panics
/// When the lengths do not fit: shapes are checked once, where a model is built.
pub fn linear_many(pool: &Pool, x: &[f32], products: &mut [Product]) {
    let Some(k) = products.first().map(|p| p.weights.cols) else { return };
    let m = x.len() / k.max(1);
    let plans: Vec<Plan> = products.iter_mut().map(|p| Plan::new(x, m, k, p)).collect();
    let count = plans.iter().map(|p| p.split.blocks()).sum();
    let x = Shareable::new(x.as_ptr().cast_mut());
    pool.for_each(count, |mut i| {
        for plan in &plans {
            if i < plan.split.blocks() {
                return plan.run(x.get(), k, i);
            }
            i -= plan.split.blocks();
        }
    });
}

/// One product, cut into blocks.
struct Plan<'a> {
    w: &'a Matrix,
    target: Output,
    activation: Activation,
    split: Split,
}

impl<'a> Plan<'a> {
    fn new(x: &[f32], m: usize, k: usize, product: &'a mut Product) -> Self {
        let w = product.weights;
        assert!(
            w.cols == k && x.len() == m * k,
            "{} activations do not fit weights of {} x {} (k = {k})",
            x.len(),
            w.rows,
            w.cols
        );
        assert_eq!(product.out.len(), m * w.rows, "the output of {m} rows by weights of {} x {}", w.rows, w.cols);
        let bias = product.epilogue.bias.map_or(w.rows, <[f32]>::len);
        assert_eq!(bias, w.rows, "the bias of weights of {} x {}", w.rows, w.cols);
        let (tile, panel_bytes) = (w.tile(), w.bytes() / w.panels().max(1));
        let split = match m {
            0..=2 => Split::stream(m, w.panels(), panel_bytes, 4),
            _ if m <= tile.0 => Split::stream(m, w.panels(), panel_bytes, tile.1),
            _ => Split::blocked(m, w.panels(), k, size_of::<f32>(), tile),
        };
        let target = Output::new(product.out.as_mut_ptr(), w.rows, &product.epilogue);
        Self { w, target, activation: product.epilogue.activation, split }
    }

    fn run(&self, x: *const f32, k: usize, index: usize) {
        let (block, w) = (self.split.block(index), self.w);
        finish(w.level, self.activation, self.target, block, |target| {
            with_scratch(gemm_float::SCRATCH * k * size_of::<f32>(), |scratch| {
                let (scratch, data) = (scratch.cast(), w.data.as_ptr());
                match w.kind {
                    BlockType::F16 => dispatch(w.level, Float::<f16> { x, k, w: data.cast(), target, block, scratch }),
                    BlockType::BF16 => dispatch(w.level, Float::<bf16> { x, k, w: data.cast(), target, block, scratch }),
                    _ => dispatch(w.level, Float::<f32> { x, k, w: data.cast(), target, block, scratch }),
                }
            });
        });
    }
}

impl Matrix {
    /// The register tile of the product at this level: (rows of x, panels).
    fn tile(&self) -> (usize, usize) {
        struct Tile;
        impl crate::cpu::vector::Task for Tile {
            type Output = (usize, usize);
            #[inline(always)]
            unsafe fn run<S: Simd>(self) -> Self::Output {
                S::TILE
            }
        }
        dispatch(self.level, Tile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::reference;

    /// Values in -1..1 from a small generator.
    pub(crate) fn noise(seed: u32, len: usize) -> Vec<f32> {
        let mut s = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        (0..len)
            .map(|_| {
                s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (s >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    const SHAPES: [(usize, usize, usize); 14] = [
        (1, 1, 1),
        (1, 64, 33),
        (1, 100, 576),
        (2, 17, 5),
        (3, 48, 40),
        (5, 130, 64),
        (7, 31, 63),
        (12, 32, 16),
        (13, 33, 100),
        (33, 65, 257),
        (64, 16, 16),
        (101, 50, 24),
        (300, 40, 513),
        (0, 5, 3),
    ];

    fn matrix(kind: BlockType, n: usize, k: usize, seed: u32) -> (Matrix, Vec<f32>) {
        let w = noise(seed, n * k);
        let h: Vec<f16> = w.iter().map(|&v| f16::from_f32(v)).collect();
        let b: Vec<bf16> = w.iter().map(|&v| bf16::from_f32(v)).collect();
        match kind {
            BlockType::F16 => (Matrix::from_f16(n, k, &h).unwrap(), h.iter().map(|v| v.to_f32()).collect()),
            BlockType::BF16 => (Matrix::from_bf16(n, k, &b).unwrap(), b.iter().map(|v| v.to_f32()).collect()),
            _ => (Matrix::from_f32(n, k, &w).unwrap(), w),
        }
    }

    #[test]
    fn float_products_agree_with_f64_at_every_level() {
        let pool = Pool::new(2);
        for level in simd::levels() {
            for kind in [BlockType::F32, BlockType::F16, BlockType::BF16] {
                for (m, n, k) in SHAPES {
                    let (w, plain) = matrix(kind, n, k, 1);
                    let w = w.at_level(level);
                    let x = noise(2, m * k);
                    let (mut got, mut want) = (vec![f32::NAN; m * n], vec![0.0; m * n]);
                    linear(&pool, &x, &w, &mut got, Epilogue::default());
                    reference::matmul(&x, &plain, k, &mut want);
                    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                        assert!((g - w).abs() < 2e-6 * k as f32, "{level:?} {kind:?} {m}x{n}x{k} [{i}]: {g}, not {w}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_epilogue_is_bias_then_activation_then_sum() {
        let pool = Pool::new(2);
        for level in simd::levels() {
            for (m, n, k) in [(1, 70, 33), (5, 19, 20), (40, 35, 17)] {
                for activation in [Activation::None, Activation::Relu, Activation::Relu6, Activation::Gelu, Activation::Silu] {
                    for (accumulate, with_bias) in [(false, false), (false, true), (true, false), (true, true)] {
                        let (w, plain) = matrix(BlockType::F32, n, k, 3);
                        let w = w.at_level(level);
                        let (x, bias, before) = (noise(4, m * k), noise(5, n), noise(6, m * n));
                        let (mut got, mut want) = (before.clone(), vec![0.0; m * n]);
                        let epilogue = Epilogue { bias: with_bias.then_some(&bias), activation, accumulate };
                        linear(&pool, &x, &w, &mut got, epilogue);
                        reference::matmul(&x, &plain, k, &mut want);
                        for (i, g) in got.iter().enumerate() {
                            let sum = f64::from(want[i]) + if with_bias { f64::from(bias[i % n]) } else { 0.0 };
                            let v =
                                reference::activation(activation, sum) + if accumulate { f64::from(before[i]) } else { 0.0 };
                            assert!((f64::from(*g) - v).abs() < 1e-4, "{level:?} {activation:?} [{i}] {g}, not {v}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_result_depends_neither_on_threads_nor_on_other_rows() {
        for level in simd::levels() {
            for kind in [BlockType::F32, BlockType::F16] {
                let (m, n, k) = (61, 200, 129);
                let w = matrix(kind, n, k, 7).0.at_level(level);
                let x = noise(8, m * k);
                let run = |threads, x: &[f32]| {
                    let mut out = vec![0.0; x.len() / k * n];
                    linear(&Pool::new(threads), x, &w, &mut out, Epilogue::default());
                    out
                };
                let one = run(1, &x);
                assert_eq!(one, run(4, &x));
                for r in [0, 5, 60] {
                    assert_eq!(one[r * n..][..n], run(2, &x[r * k..][..k])[..], "{level:?} {kind:?} row {r} alone");
                }
            }
        }
    }

    #[test]
    fn several_products_share_their_input() {
        let pool = Pool::new(2);
        let (a, b) = (matrix(BlockType::F32, 40, 30, 1).0, matrix(BlockType::F16, 9, 30, 2).0);
        let x = noise(3, 4 * 30);
        let (mut one, mut two) = (vec![0.0; 160], vec![0.0; 36]);
        let (mut first, mut second) = (one.clone(), two.clone());
        linear(&pool, &x, &a, &mut one, Epilogue::default());
        linear(&pool, &x, &b, &mut two, Epilogue::default());
        let epilogue = Epilogue::default();
        linear_many(
            &pool,
            &x,
            &mut [Product { weights: &a, out: &mut first, epilogue }, Product { weights: &b, out: &mut second, epilogue }],
        );
        assert!(one == first && two == second);
    }

    #[test]
    fn rows_come_back_as_they_went_in() {
        for kind in [BlockType::F32, BlockType::F16, BlockType::BF16] {
            let (w, plain) = matrix(kind, 37, 11, 9);
            let mut row = vec![0.0; 11];
            for r in 0..37 {
                w.row(r, &mut row);
                assert_eq!(row, plain[r * 11..][..11]);
            }
        }
    }

    #[test]
    fn a_wrong_size_is_an_error() {
        assert!(matches!(Matrix::from_f32(2, 3, &[0.0; 5]), Err(MatrixError::Size { wanted: 24, seen: 20, .. })));
        assert!(Matrix::from_f32(usize::MAX, 3, &[]).is_err());
        assert!(Matrix::from_f32(0, 3, &[]).is_ok());
    }
}
