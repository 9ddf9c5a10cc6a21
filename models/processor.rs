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

/// The first GPU, or the emulator's; without one a test says so and passes, unless `DREAMSEED_CUDA_TEST` asks for it.
#[cfg(all(test, feature = "cuda"))]
pub(crate) fn device() -> Option<dreamseed_kernels::cuda::Device> {
    match dreamseed_kernels::cuda::Device::open(0) {
        Ok(device) => Some(device),
        Err(e) if std::env::var_os("DREAMSEED_CUDA_TEST").is_none() => {
            eprintln!("skipped: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}
