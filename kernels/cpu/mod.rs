//! CPU kernels. `reference` holds the plain f64 twins that every fast kernel is tested against.

pub mod reference;
