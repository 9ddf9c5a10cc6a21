//! Layers that several models share.

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod rope;
