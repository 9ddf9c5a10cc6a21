//! Readers of weight files, one facade: GGUF, safetensors, CTranslate2, TFLite and TensorFlow.js.
//!
//! Files come from outside: truncated, lying or malicious ones give an [`Error`] that names the field and the offset; nothing
//! is allocated that the file's real size does not justify.

pub mod ct2;
pub(crate) mod flatbuffer;
pub mod gguf;
pub mod safetensors;
pub(crate) mod source;
pub mod tensor;
pub(crate) mod tfjs;
mod tfjs_ops;
pub(crate) mod tflite;
pub(crate) mod tflite_tensor;

use std::path::PathBuf;

use dreamseed_kernels::{BlockType, Matrix, MatrixError};
pub use tensor::{Tensor, Values};

/// What is wrong with a weight file: where, what was seen and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// A field has a value that the format or this reader does not allow.
    #[error("{format}: {field} at byte {offset}: {problem}")]
    Field {
        /// The file format.
        format: &'static str,
        /// The field's name in the format's specification.
        field: String,
        /// Where in the file.
        offset: u64,
        /// What was seen, what is allowed.
        problem: String,
    },
    /// A tensor is missing or does not have the shape or type that the model needs.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// Its name in the file.
        name: String,
        /// What was seen, what is needed.
        problem: String,
    },
    /// The file is sound but describes a model that this version does not run.
    #[error("{0}")]
    Unsupported(String),
}

/// Result of reading weights.
pub type Result<T> = std::result::Result<T, Error>;

/// A packed matrix from blocks as a file holds them, row-major.
pub(crate) fn matrix_from_blocks(
    kind: BlockType,
    rows: usize,
    cols: usize,
    bytes: &[u8],
) -> std::result::Result<Matrix, MatrixError> {
    let (block, size) = kind.block();
    let wanted = rows * (cols / block) * size;
    if bytes.len() != wanted {
        return Err(MatrixError::Size { kind, rows, cols, wanted, seen: bytes.len() });
    }
    use candle_core::quantized::{GgmlDType as G, QStorage, QTensor};
    let dtype = match kind {
        BlockType::F32 => G::F32,
        BlockType::F16 => G::F16,
        BlockType::BF16 => G::BF16,
        BlockType::Q4_0 => G::Q4_0,
        BlockType::Q4_1 => G::Q4_1,
        BlockType::Q5_0 => G::Q5_0,
        BlockType::Q5_1 => G::Q5_1,
        BlockType::Q8_0 => G::Q8_0,
        BlockType::Q8_1 => G::Q8_1,
        BlockType::Q2K => G::Q2K,
        BlockType::Q3K => G::Q3K,
        BlockType::Q4K => G::Q4K,
        BlockType::Q5K => G::Q5K,
        BlockType::Q6K => G::Q6K,
        BlockType::Q8K => G::Q8K,
    };
    let cpu = candle_core::Device::Cpu;
    let data = QStorage::from_data(std::borrow::Cow::Borrowed(bytes), &cpu, dtype)
        .and_then(|s| QTensor::new(s, (rows, cols)))
        .and_then(|t| t.dequantize(&cpu)?.flatten_all()?.to_vec1::<f32>())
        .unwrap_or_default();
    Matrix::from_f32(rows, cols, &data)
}
