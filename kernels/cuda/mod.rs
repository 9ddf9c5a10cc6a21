//! NVIDIA GPUs: one [`Device`] with its memory and stream, and the twins of the CPU's kernels for a decode
//! step and for convolutional networks.
//!
//! The `.cu` files are compiled with the crate (`build.rs`) and embedded; the driver's library is looked up when a device is opened.
//! Nothing here allocates or waits but what says so: a step can be captured into a [`Graph`] and replayed. All launches of a device
//! go to one stream, in order; a [`Link`] orders the streams of two.
//!
//! The kernels have run in an emulator of the driver, against the CPU's references (`tests/cuda.sh`). **They have not run on a real
//! GPU yet.**

mod attention;
mod beams;
mod buffer;
mod conv;
#[cfg(test)]
mod conv_tests;
mod dense;
mod device;
mod gemm;
mod gemv;
mod graph;
mod link;
mod mel;
mod nccl;
mod picture;
mod rows;
mod sample;
mod store;
pub mod tensor;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_gemm;
mod transformer;

pub use attention::{Attend, Counters, HeadNorms, RopeAppend, attend, attend_rows, rope_append};
pub use beams::{BeamRows, Beams, BeamsAttend, BeamsProbe, BeamsShape};
pub use buffer::{Buffer, Element};
pub use conv::Conv;
pub use dense::{DenseAttention, Strided, attend_dense};
pub use device::{Device, Error, Info};
pub use gemm::{Finish, gated_rows, gemm};
pub use gemv::{DeviceMatrix, Gate, GemvInput, Part, Quantized, embed, gated, gemv};
pub use graph::Graph;
pub use link::Link;
pub use mel::MelBank;
pub use nccl::{Communicator, NcclError, nccl_version, turn};
pub use picture::{DeviceFinish, Operands, Span};
pub use rows::{add_norm, quantize, rms_norm, softcap};
pub use sample::{Choice, Chosen, choose};
pub use store::{DeviceStore, Rows};
pub use transformer::{LayerNorm, activate, add_places, gather, join, layer_norm, unfold};
