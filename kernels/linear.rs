//! The one product that everything uses: activations by packed weights, with a fused epilogue.

use crate::cpu::format::with_format;
use crate::cpu::gemm_float::{self, Float};
use crate::cpu::gemm_quant::{self, Quant, Quantized, UNPACKED};
use crate::cpu::product::{Output, Split, finish};
use crate::cpu::vector::{Simd, Task, dispatch};
use crate::memory::with_scratch;
use crate::{BlockType, Matrix, Pool};
use half::{bf16, f16};
use std::marker::PhantomData;

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

/// Several products of the same `x` (query, key and value; gate and up) in one parallel region; at most eight.
///
/// # Panics
/// When the lengths do not fit: shapes are checked once, where a model is built.
pub fn linear_many(pool: &Pool, x: &[f32], products: &mut [Product]) {
    let Some(k) = products.first().map(|p| p.weights.cols()) else { return };
    let m = x.len() / k.max(1);
    let count = products.len();
    assert!(count <= TOGETHER, "{count} products of one input; at most {TOGETHER}");
    // In place, so that a step allocates nothing.
    let mut plans = [const { None }; TOGETHER];
    for (plan, product) in plans.iter_mut().zip(products) {
        *plan = Some(Plan::new(pool.threads(), x, m, k, product));
    }
    let plans = &plans[..count];
    let Some(level) = plans.iter().flatten().find(|p| is_quantized(p.w.kind())).map(|p| p.w.level()) else {
        return run(pool, &Input { x: x.as_ptr(), k, quantized: None }, plans);
    };
    with_scratch(Quantized::bytes(m, k), |scratch| {
        let quantized = Some(Quantized::new(pool, level, x, m, k, scratch));
        run(pool, &Input { x: x.as_ptr(), k, quantized }, plans);
    });
}

/// The most products that may share an input in one call.
const TOGETHER: usize = 8;

/// The activations, as floats and (where a product needs them) in 8 bits.
struct Input {
    x: *const f32, // (m, k)
    k: usize,
    quantized: Option<Quantized>,
}

// SAFETY: only read while the products run; the slice it was made from is borrowed meanwhile.
unsafe impl Sync for Input {}

fn is_quantized(kind: BlockType) -> bool {
    !matches!(kind, BlockType::F32 | BlockType::F16 | BlockType::BF16 | BlockType::Q8K)
}

/// All blocks of all plans in one region.
fn run(pool: &Pool, input: &Input, plans: &[Option<Plan>]) {
    let count = plans.iter().flatten().map(|p| p.split.blocks()).sum();
    pool.for_each(count, |mut i| {
        for plan in plans.iter().flatten() {
            if i < plan.split.blocks() {
                return plan.run(input, i);
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
    fn new(threads: usize, x: &[f32], m: usize, k: usize, product: &'a mut Product) -> Self {
        let w = product.weights;
        let (n, panels) = (w.rows(), w.panels());
        assert!(
            w.cols() == k && x.len() == m * k,
            "{} activations do not fit weights of {n} x {} (k = {k})",
            x.len(),
            w.cols()
        );
        assert_eq!(product.out.len(), m * n, "the output of {m} rows by weights of {n} x {k}");
        let bias = product.epilogue.bias.map_or(n, <[f32]>::len);
        assert_eq!(bias, n, "the bias of weights of {n} x {k}");
        let ((float, int), panel_bytes) = (dispatch(w.level(), Tiles), w.bytes() / panels.max(1));
        let split = match (is_quantized(w.kind()), m) {
            (true, 0..UNPACKED) => Split::stream(m, panels, panel_bytes, 1),
            (true, _) => Split::unpacked(m, panels, k, int, threads),
            (false, 0..=1) => Split::stream(m, panels, panel_bytes, 4),
            (false, _) if m <= float.0 => Split::stream(m, panels, panel_bytes, float.1),
            (false, _) => Split::blocked(m, panels, k, size_of::<f32>(), float),
        };
        let target = Output::new(product.out.as_mut_ptr(), n, &product.epilogue);
        Self { w, target, activation: product.epilogue.activation, split }
    }

    fn run(&self, input: &Input, index: usize) {
        let (block, w, k) = (self.split.block(index), self.w, input.k);
        let (level, data, x) = (w.level(), w.data(), input.x);
        finish(level, self.activation, self.target, block, |target| {
            let Some(quantized) = input.quantized.filter(|_| is_quantized(w.kind())) else {
                return with_scratch(gemm_float::SCRATCH * k * size_of::<f32>(), |scratch| {
                    let scratch = scratch.cast();
                    match w.kind() {
                        BlockType::F16 => dispatch(level, Float::<f16> { x, k, w: data.cast(), target, block, scratch }),
                        BlockType::BF16 => dispatch(level, Float::<bf16> { x, k, w: data.cast(), target, block, scratch }),
                        _ => dispatch(level, Float::<f32> { x, k, w: data.cast(), target, block, scratch }),
                    }
                });
            };
            with_scratch(gemm_quant::scratch_bytes(block.rows), |scratch| {
                let (x, w) = (quantized, data);
                with_format!(self.w.kind(), F => dispatch(level, Quant::<F> { x, w, target, block, scratch, format: PhantomData }), {});
            });
        });
    }
}

/// The register tiles at a level: of float products and of integer products, each (rows of x, panels).
struct Tiles;

impl Task for Tiles {
    type Output = ((usize, usize), (usize, usize));

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Self::Output {
        (S::TILE, S::TILE_INT)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cpu::reference;
    use crate::{MatrixError, simd};

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
    fn a_matrix_takes_other_values_in_its_place() {
        let (mut floats, mut halves) = (matrix(BlockType::F32, 37, 11, 9).0, matrix(BlockType::F16, 37, 11, 9).0);
        let plain = matrix(BlockType::F16, 37, 11, 10).1;
        let half: Vec<f16> = plain.iter().map(|v| f16::from_f32(*v)).collect();
        floats.refill_f32(&plain).unwrap();
        halves.refill_f16(&half).unwrap();
        let mut row = vec![0.0; 11];
        for w in [&floats, &halves] {
            for r in 0..37 {
                w.row(r, &mut row);
                assert_eq!(row, plain[r * 11..][..11]);
            }
        }
        assert!(matches!(floats.refill_f16(&half), Err(MatrixError::Size { kind: BlockType::F32, .. })));
        assert!(matches!(halves.refill_f16(&half[1..]), Err(MatrixError::Size { wanted: 814, seen: 812, .. })));
        halves.row(36, &mut row);
        assert_eq!(row, plain[36 * 11..], "what is refused changes nothing");
    }

    #[test]
    fn a_wrong_size_is_an_error() {
        assert!(matches!(Matrix::from_f32(2, 3, &[0.0; 5]), Err(MatrixError::Size { wanted: 24, seen: 20, .. })));
        assert!(Matrix::from_f32(usize::MAX, 3, &[]).is_err());
        assert!(Matrix::from_f32(0, 3, &[]).is_ok());
    }

    /// A quantized matrix and its values; blocks quantized by candle.
    fn quantized(kind: BlockType, n: usize, k: usize, seed: u32) -> (Matrix, Vec<f32>) {
        use candle_core::quantized::{GgmlDType as T, QTensor};
        let theirs = match kind {
            BlockType::Q4_0 => T::Q4_0,
            BlockType::Q4_1 => T::Q4_1,
            BlockType::Q5_0 => T::Q5_0,
            BlockType::Q5_1 => T::Q5_1,
            BlockType::Q8_0 => T::Q8_0,
            BlockType::Q8_1 => T::Q8_1,
            BlockType::Q2K => T::Q2K,
            BlockType::Q3K => T::Q3K,
            BlockType::Q4K => T::Q4K,
            BlockType::Q5K => T::Q5K,
            BlockType::Q6K => T::Q6K,
            _ => T::Q8K,
        };
        let tensor = candle_core::Tensor::from_vec(noise(seed, n * k), (n, k), &candle_core::Device::Cpu).unwrap();
        let bytes = QTensor::quantize(&tensor, theirs).unwrap().data().unwrap().into_owned();
        let mut plain = vec![0.0; n * k];
        crate::quant::dequantize(kind, &bytes, &mut plain).unwrap();
        (Matrix::from_blocks_on(&Pool::new(2), kind, n, k, &bytes).unwrap(), plain)
    }

    const QUANTIZED: [BlockType; 12] = {
        use BlockType::*;
        [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, Q2K, Q3K, Q4K, Q5K, Q6K, Q8K]
    };

    #[test]
    fn quantized_products_agree_with_f64_at_every_level() {
        let pool = Pool::new(2);
        for kind in QUANTIZED {
            let ks: &[usize] = if kind.block().0 == 32 { &[32, 96, 576] } else { &[256, 768] };
            for &k in ks {
                for n in [1, 16, 33, 47] {
                    let (mut w, plain) = quantized(kind, n, k, 11);
                    for level in simd::levels() {
                        w = w.at_level(level);
                        for m in [1, 2, 3, 7, 8, 9, 33] {
                            let x = noise(12, m * k);
                            let (mut got, mut want) = (vec![f32::NAN; m * n], vec![0.0; m * n]);
                            linear(&pool, &x, &w, &mut got, Epilogue::default());
                            reference::matmul(&x, &plain, k, &mut want);
                            // |x| <= 1: the step of 8 bits is at most 1 / 127, its error uniform; six standard deviations.
                            let norm = |v: &[f32]| v.iter().map(|v| v * v).sum::<f32>().sqrt();
                            let mut error = 0.0;
                            for (i, (g, t)) in got.iter().zip(&want).enumerate() {
                                let bound = 6.0 / (127.0 * 12f32.sqrt()) * norm(&plain[i % n * k..][..k]);
                                assert!(
                                    (g - t).abs() < bound,
                                    "{kind:?} {level:?} {m}x{n}x{k} [{i}]: {g}, not {t} (+-{bound})"
                                );
                                error += (g - t) * (g - t);
                            }
                            assert!(
                                m * n < 100 || error.sqrt() < 0.01 * norm(&want),
                                "{kind:?} {level:?} {m}x{n}x{k}: {error}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn quantized_results_depend_neither_on_threads_nor_on_other_rows() {
        for kind in QUANTIZED {
            let (m, n, k) = (31, 90, 512);
            let (mut w, _) = quantized(kind, n, k, 13);
            let x = noise(14, m * k);
            for level in simd::levels() {
                w = w.at_level(level);
                let run = |threads, x: &[f32]| {
                    let mut out = vec![0.0; x.len() / k * n];
                    linear(&Pool::new(threads), x, &w, &mut out, Epilogue::default());
                    out
                };
                let many = run(1, &x);
                assert_eq!(many, run(3, &x), "{kind:?} {level:?}");
                for (first, rows) in [(0, 1), (30, 1), (3, 8), (11, 13)] {
                    assert_eq!(
                        many[first * n..][..rows * n],
                        run(2, &x[first * k..][..rows * k])[..],
                        "{kind:?} {level:?} {first}+{rows}"
                    );
                }
            }
        }
    }

    #[test]
    fn quantized_rows_are_ggmls_values() {
        for kind in QUANTIZED {
            let (w, plain) = quantized(kind, 35, 512, 15);
            let mut row = vec![0.0; 512];
            for r in [0, 1, 15, 16, 34] {
                w.row(r, &mut row);
                assert_eq!(row, plain[r * 512..][..512], "{kind:?} row {r}");
            }
            let native = 48 * 512 / kind.block().0 * kind.block().1;
            assert!(
                kind == BlockType::Q8K || w.bytes() * 100 <= native * 105,
                "{kind:?}: {} bytes, {native} in the file",
                w.bytes()
            );
        }
    }

    #[test]
    fn a_value_that_is_not_finite_shows() {
        let (w, _) = quantized(BlockType::Q4_1, 5, 64, 16);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = noise(17, 64);
            x[40] = bad;
            let mut out = [0.0; 5];
            linear(&Pool::new(1), &x, &w, &mut out, Epilogue::default());
            assert!(out.iter().all(|v| !v.is_finite()), "{out:?}");
        }
    }

    #[test]
    fn blocks_that_do_not_fit_are_errors() {
        for kind in QUANTIZED {
            let (block, size) = kind.block();
            assert!(matches!(Matrix::from_blocks(kind, 1, block + 1, &vec![0; size]), Err(MatrixError::Ragged { .. })));
            assert!(matches!(Matrix::from_blocks(kind, 2, block, &vec![0; size]), Err(MatrixError::Size { .. })));
            assert!(Matrix::from_blocks(kind, usize::MAX, block * 2, &[]).is_err());
            let most = usize::MAX / block * block;
            assert!(Matrix::from_blocks(kind, 1, most, &[]).is_err());
            assert!(Matrix::from_blocks(kind, 0, block, &[]).is_ok());
            assert!(Matrix::from_blocks(kind, 3, 0, &[]).is_ok());
        }
    }
}
