//! CPU kernels. `reference` holds the plain f64 twins that every fast kernel is tested against.

pub(crate) mod format;
pub(crate) mod gemm_float;
pub(crate) mod gemm_quant;
pub mod math;
pub mod peak;
pub(crate) mod product;
pub mod reference;
pub(crate) mod vector;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;
