//! The arithmetic of dreamseed: everything hot, and the only crate with `unsafe`.
//!
//! Weights live in a [`Matrix`], packed once at load for the widest instruction set the processor has (runtime dispatch, see
//! [`simd`]); [`linear`] multiplies activations by it, one row (decode: GEMV) or many (prefill, encoders: blocked GEMM). All
//! parallel work runs on a [`Pool`] that the caller passes in. Results do not depend on the number of threads.

pub mod cpu;
pub mod linear;
pub mod matrix;
mod memory;
pub mod pool;
pub mod quant;
pub mod simd;

pub use cpu::attention::{Cached, Dense, attention_cached, attention_dense};
pub use cpu::kv::KvCache;
pub use cpu::norm::{Rope, RopeKind, add_in_place, layer_norm, log_softmax, rms_norm, rms_norm_in_place, rope, softmax};
pub use linear::{Activation, Epilogue, Product, linear, linear_many};
pub use matrix::{Matrix, MatrixError};
pub use pool::Pool;
pub use quant::BlockType;
