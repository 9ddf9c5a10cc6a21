//! NVIDIA GPUs: one [`Device`] with its memory and stream, and the twins of the CPU's kernels for a decode step.
//!
//! The `.cu` files are compiled with the crate (`build.rs`) and embedded; the driver's library is looked up when a device is opened.
//! Nothing here allocates or waits but what says so: a step can be captured into a [`Graph`] and replayed. All launches of a device
//! go to one stream, in order.
//!
//! The kernels have run in an emulator of the driver, against the CPU's references (`tests/cuda.sh`). **They have not run on a real
//! GPU yet.**

mod attention;
mod beams;
mod dense;
mod device;
mod gemm;
mod gemv;
mod mel;
mod rows;
mod sample;
mod store;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_gemm;
mod transformer;

pub use attention::{Attend, Counters, HeadNorms, RopeAppend, attend, attend_rows, rope_append};
pub use beams::{BeamRows, Beams, BeamsAttend, BeamsProbe, BeamsShape};
pub use dense::{DenseAttention, Strided, attend_dense};
pub use device::{Buffer, Device, Element, Error, Graph, Info};
pub use gemm::{Finish, gated_rows, gemm};
pub use gemv::{DeviceMatrix, Gate, GemvInput, Part, Quantized, embed, gated, gemv};
pub use mel::MelBank;
pub use rows::{add_norm, quantize, rms_norm, softcap};
pub use sample::{Choice, Chosen, choose};
pub use store::{DeviceStore, Rows};
pub use transformer::{LayerNorm, activate, add_places, gather, layer_norm, unfold};
