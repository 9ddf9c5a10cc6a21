//! A vision transformer where it runs: on the processor or on a GPU.

use dreamseed_kernels::Pool;
#[cfg(feature = "cuda")]
use dreamseed_kernels::cuda::Device;

use super::encoder::State;
use super::load::{Loader, Part, Precision, Tensors};
use super::vit::{Config, Names, Vit};
use crate::Processor;
use crate::weights::Result;

/// A vision transformer, immutable.
pub enum Backbone {
    /// On the processor.
    Cpu(Box<Vit>),
    /// On a GPU.
    #[cfg(feature = "cuda")]
    Gpu(Box<Vit<Device>>, Device),
}

/// What a model is read from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) pool: &'a Pool,
    pub(super) tensors: &'a dyn Tensors,
    pub(super) precision: Precision,
}

impl<'a> Source<'a> {
    /// Reads for a place.
    pub(super) fn to<P>(self, place: &'a P) -> Loader<'a, P> {
        Loader { pool: self.pool, place, tensors: self.tensors, precision: self.precision }
    }
}

impl Backbone {
    /// Reads the weights: see [`Vit::load`].
    ///
    /// # Errors
    /// As there; those of a GPU.
    pub(super) fn load(
        target: &Processor,
        source: Source,
        config: Config,
        names: Names,
        part: &(dyn Fn(usize, Part) -> String + Sync),
    ) -> Result<Self> {
        match target {
            #[cfg(feature = "cuda")]
            Processor::Gpu(device) => {
                let c = &config.encoder;
                crate::layers::cuda::check_heads(c.width, c.heads).map_err(crate::weights::Error::Unsupported)?;
                Vit::load(&source.to(device), config, names, part).map(|vit| Self::Gpu(Box::new(vit), device.clone()))
            }
            Processor::Cpu => Vit::load(&source.to(source.pool), config, names, part).map(|vit| Self::Cpu(Box::new(vit))),
        }
    }

    /// Its shapes.
    pub fn config(&self) -> &Config {
        match self {
            Self::Cpu(vit) => vit.config(),
            #[cfg(feature = "cuda")]
            Self::Gpu(vit, _) => vit.config(),
        }
    }

    /// Tokens before those of the patches.
    pub fn first_patch(&self) -> usize {
        match self {
            Self::Cpu(vit) => vit.first_patch(),
            #[cfg(feature = "cuda")]
            Self::Gpu(vit, _) => vit.first_patch(),
        }
    }

    /// What is added to the patches of a grid: see [`Vit::places`].
    pub fn places(&self, grid: [usize; 2]) -> Vec<f32> {
        match self {
            Self::Cpu(vit) => vit.places(grid),
            #[cfg(feature = "cuda")]
            Self::Gpu(vit, _) => vit.places(grid),
        }
    }

    /// The hidden states of patches after the last norm: see [`Vit::forward`]. Where they are on a GPU, as many of the first as
    /// `wanted` come to `state.x`. Gives how many there are.
    ///
    /// # Errors
    /// Those of a GPU.
    pub fn forward(
        &self,
        pool: &Pool,
        patches: &[f32],
        places: &[f32],
        state: &mut State,
        wanted: impl FnOnce(usize) -> usize,
    ) -> Result<usize> {
        match self {
            Self::Cpu(vit) => {
                let _ = wanted; // all are here
                vit.forward(pool, patches, places, None, state);
                Ok(state.x.len() / vit.config().encoder.width)
            }
            #[cfg(feature = "cuda")]
            Self::Gpu(vit, device) => {
                let tokens = vit.run(device, patches, places, &mut state.gpu)?;
                if let Some(passes) = &state.gpu {
                    passes.read(wanted(tokens), &mut state.x)?;
                }
                Ok(tokens)
            }
        }
    }
}
