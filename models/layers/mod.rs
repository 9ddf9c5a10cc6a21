//! Layers that several models share.

pub mod attention;
pub mod norm;
pub mod rope;
