//! The arithmetic of dreamseed: everything hot, and the only crate with `unsafe`.
//!
//! Weights live in a [`Matrix`], packed once at load at their native bit size for the widest vectors; [`linear()`] multiplies
//! activations by it, one row (decode: GEMV) or many (prefill, encoders: blocked GEMM), with bias, activation and residual sum
//! fused. All parallel work runs on a [`Pool`] that the caller passes in. The instruction set is found at run time ([`simd`]).
//!
//! | what | where |
//! |---|---|
//! | products | [`linear()`]; [`linear_many`] for several that share their input (query, key and value; gate and up) |
//! | weights | [`Matrix::from_f32`], [`Matrix::from_f16`], [`Matrix::from_bf16`], [`Matrix::from_blocks`] (ggml); [`Matrix::row`] looks a row up |
//! | attention | [`attention_dense`] (encoders, cross attention; [`attention_dense_bf16`] where that is faster), [`attention_paged`] (prefill and decode over a [`KvStore`]) |
//! | rows | [`rms_norm`], [`layer_norm`], [`softmax`], [`log_softmax`], [`rope`], [`cpu::math::gated`] |
//! | NVIDIA GPUs | `cuda`, with the feature of that name |
//! | formats | [`quant::dequantize`], exactly as ggml does |
//!
//! A row's result depends neither on the number of threads nor on the rows computed beside it: work is split by shape, sums
//! over k and over keys run in one order. A token decoded alone and the same token verified in a batch are equal bit by bit.
//! On AArch64 with dot products, products and attention run on NEON, and convolutions on plain Rust that the compiler turns into it. All
//! of that passed its tests in an emulator (`.ci/arm`), and has not run on a real processor yet.
//!
//! ```
//! use dreamseed_kernels::{Activation, Epilogue, Matrix, Pool, linear};
//!
//! let pool = Pool::new(Pool::default_threads());
//! let w = Matrix::from_f32(2, 3, &[1.0, 0.0, 0.0, 0.0, 1.0, 1.0])?;
//! let mut out = [0.0; 2];
//! let epilogue = Epilogue { bias: Some(&[0.5, -9.0]), activation: Activation::Relu, ..Default::default() };
//! linear(&pool, &[1.0, 2.0, 3.0], &w, &mut out, epilogue);
//! assert_eq!(out, [1.5, 0.0]);
//! # Ok::<(), dreamseed_kernels::MatrixError>(())
//! ```

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod linear;
pub mod matrix;
mod memory;
pub mod pool;
pub mod quant;
pub mod random;
pub mod simd;

pub use cpu::attention::{AttentionPlan, Dense, Paged, Span, attention_dense, attention_dense_bf16, attention_paged};
pub use cpu::kv::{KV_BLOCK, KvShape, KvStore, KvType};
pub use cpu::norm::{Rope, RopeKind, add_in_place, layer_norm, log_softmax, rms_norm, rms_norm_in_place, rope, softmax};
pub use linear::{Activation, Epilogue, Product, linear, linear_many};
pub use matrix::{Matrix, MatrixError};
pub use pool::Pool;
pub use quant::BlockType;
