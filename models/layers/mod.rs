//! Layers that several models share.

pub mod rope;
