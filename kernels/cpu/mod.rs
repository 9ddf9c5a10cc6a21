//! CPU kernels. `reference` holds the plain f64 twins that every fast kernel is tested against.

pub mod attention;
pub mod block;
pub mod conv;
#[cfg(test)]
pub(crate) mod conv_reference;
pub mod dense;
pub mod depthwise;
pub mod elementwise;
pub(crate) mod format;
pub(crate) mod gemm_float;
pub(crate) mod gemm_quant;
pub mod kv;
pub(crate) mod lanes;
pub mod math;
pub mod movement;
pub(crate) mod narrow;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub mod norm;
pub mod peak;
pub mod pooling;
pub(crate) mod product;
pub mod reference;
pub mod resize;
pub(crate) mod vector;
#[cfg(test)]
mod vector_tests;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;
