//! Where a model runs: on the processor or on a GPU. Who decodes, aligns and examines asks this, and does not know.

use std::ops::Range;

use dreamseed_kernels::Pool;

use super::config::Config;
#[cfg(feature = "cuda")]
use super::cuda;
use super::decoder::{DecoderState, Probe, Run};
use super::mel::{Mel, MelExtractor};
use super::model::{self, Cross, EncoderState};
use super::options::Result;

/// A model where it is. Buffers that one made are of no use to another.
pub(super) enum Model {
    Cpu(Box<model::Model>),
    #[cfg(feature = "cuda")]
    Gpu(Box<cuda::Model>),
}

impl Model {
    pub(super) fn config(&self) -> &Config {
        match self {
            Self::Cpu(model) => &model.config,
            #[cfg(feature = "cuda")]
            Self::Gpu(model) => &model.config,
        }
    }

    /// Features of mono audio at 16 kHz.
    ///
    /// # Errors
    /// Those of a GPU.
    pub(super) fn features(&self, pool: &Pool, mel: &MelExtractor, pcm: &[f32]) -> Result<Mel> {
        match self {
            Self::Cpu(_) => Ok(mel.extract(pool, pcm)),
            #[cfg(feature = "cuda")]
            Self::Gpu(model) => Ok(model.features(pcm)?),
        }
    }

    /// Bytes of the keys and values of a window.
    pub(super) fn cross_bytes(&self) -> usize {
        match self {
            Self::Cpu(model) => model.cross_bytes(),
            #[cfg(feature = "cuda")]
            Self::Gpu(model) => model.cross_bytes(),
        }
    }

    /// Encodes a window of features, (window_frames, n_mels), and keeps in `cross` what the decoder hears.
    ///
    /// # Errors
    /// Those of a GPU.
    pub(super) fn hear(&self, pool: &Pool, mel: &[f32], state: &mut EncoderState, cross: &mut Cross) -> Result<()> {
        match self {
            Self::Cpu(model) => Ok(model.hear(pool, mel, state, cross)?),
            #[cfg(feature = "cuda")]
            Self::Gpu(model) => Ok(model.hear(mel, &mut state.gpu, &mut cross.1)?),
        }
    }

    /// Room for `slots` sequences decoded side by side.
    ///
    /// # Errors
    /// Those of a GPU.
    pub(super) fn decoder_state(&self, slots: usize) -> Result<DecoderState> {
        match self {
            Self::Cpu(model) => Ok(model.decoder_state(slots)),
            #[cfg(feature = "cuda")]
            Self::Gpu(model) => Ok(model.decoder_state(slots)?),
        }
    }

    /// Runs the rows that were pushed: see [`model::Model::pass`].
    ///
    /// # Errors
    /// Those of a GPU.
    pub(super) fn pass(&self, pool: &Pool, cross: &[Cross], state: &mut DecoderState, probe: Option<&mut Probe>) -> Result<()> {
        match self {
            Self::Cpu(model) => model.pass(pool, cross, state, probe),
            #[cfg(feature = "cuda")]
            Self::Gpu(model) => model.pass(cross, state, probe)?,
        }
        Ok(())
    }

    /// Appends tokens to the first sequences, as many to each, and runs them.
    ///
    /// # Errors
    /// Those of a GPU.
    pub(super) fn decode(&self, pool: &Pool, run: Run, state: &mut DecoderState, probe: Option<&mut Probe>) -> Result<()> {
        state.push_all(&run);
        self.pass(pool, std::slice::from_ref(run.cross), state, probe)
    }

    /// Logits (rows.len(), n_vocab) of rows of the last pass.
    ///
    /// # Errors
    /// Those of a GPU.
    pub(super) fn logits(&self, pool: &Pool, state: &mut DecoderState, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        match self {
            Self::Cpu(model) => {
                let d = model.config.n_state;
                model.logits(pool, &state.x[rows.start * d..rows.end * d], out);
            }
            #[cfg(feature = "cuda")]
            Self::Gpu(model) => model.logits(state, rows, out)?,
        }
        Ok(())
    }
}
