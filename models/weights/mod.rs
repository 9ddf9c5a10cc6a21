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

pub use source::{TEXT, read_whole};
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
    /// A GPU does not take them.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Device(#[from] dreamseed_kernels::cuda::Error),
}

/// Result of reading weights.
pub type Result<T> = std::result::Result<T, Error>;
