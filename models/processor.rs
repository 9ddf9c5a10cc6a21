//! Where a model runs.

/// Where a model runs.
#[derive(Clone, Default)]
pub enum Processor {
    /// On the threads of the pool that a run is given.
    #[default]
    Cpu,
    /// On a GPU.
    #[cfg(feature = "cuda")]
    Gpu(dreamseed_kernels::cuda::Device),
}
