//! Where a model's passes run: on the processor, or on a GPU. The rest of the engine does not know which.

use std::{path::Path, sync::Arc};

use dreamseed_kernels::{KvStore, KvType, Pool};
#[cfg(feature = "cuda")]
use dreamseed_models::{
    decoder::cuda,
    weights::{self, Error as WeightsError},
};
use dreamseed_models::{
    decoder::{self, Config, Decoder, Slice, Workspace},
    weights::gguf::Gguf,
};

#[cfg(feature = "cuda")]
use super::gpus::{self, Gpus, Model};
use super::{
    Settings,
    sampling::{Draw, Row},
};
#[cfg(feature = "cuda")]
use crate::plan::shape;
use crate::{Error, Result};

/// Where a model is to run.
#[derive(Clone, Default)]
pub enum Placement {
    /// On the processor.
    #[default]
    Cpu,
    /// On GPUs.
    #[cfg(feature = "cuda")]
    Gpu {
        /// Which.
        gpus: Gpus,
        /// Whether a model of a kind that does not run there is an error; otherwise it runs on the processor, with a warning.
        required: bool,
    },
}

impl Placement {
    /// The same for a model that guesses: too small to gain by being cut, and refused nowhere for its heads.
    pub(crate) fn of_draft(self) -> Self {
        match self {
            Self::Cpu => Self::Cpu,
            #[cfg(feature = "cuda")]
            Self::Gpu { gpus, required } => Self::Gpu { gpus: gpus.parallel(crate::config::Parallel::Layers), required },
        }
    }
}

/// Weights as they were found.
pub(super) enum Source<'a> {
    /// An open GGUF file.
    Gguf(&'a Gguf),
    /// A folder with config.json and safetensors.
    Folder(&'a Path),
}

#[cfg(feature = "cuda")]
impl Source<'_> {
    fn config(&self) -> Result<Config> {
        Ok(match self {
            Self::Gguf(gguf) => Config::from_gguf(gguf)?,
            Self::Folder(path) => {
                let json = path.join("config.json");
                let text = weights::read_whole(&json, weights::TEXT);
                Config::from_json(&text.map_err(|source| Error::Io { path: json, source })?)?
            }
        })
    }

    fn headers(&self) -> decoder::shards::Source<'_> {
        match self {
            Self::Gguf(gguf) => decoder::shards::Source::Gguf(gguf),
            Self::Folder(path) => decoder::shards::Source::Folder(path),
        }
    }

    /// Bytes of its weights on a GPU. Those of a folder are divided over the layers as weights of one type would be.
    fn weights(&self, config: &Config) -> Result<shape::Weights> {
        let path = match self {
            Self::Gguf(gguf) => return shape::Weights::of_gguf(gguf, config),
            Self::Folder(path) => path,
        };
        let failed = |source| Error::Io { path: path.to_path_buf(), source };
        let mut bytes = 0;
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.path().extension().is_some_and(|e| e == "safetensors") {
                bytes += std::fs::metadata(entry.path()).map_err(failed)?.len();
            }
        }
        let even = shape::Weights::of(config, shape::Mix::F16);
        let scale = bytes as f64 / even.total().max(1) as f64;
        let of = |n: u64| (n as f64 * scale).ceil() as u64;
        let layers = even.layers.iter().map(|&n| of(n)).collect();
        let cut = even.cut.iter().map(|c| shape::Cut { heads: of(c.heads), hidden: of(c.hidden), first: of(c.first) });
        Ok(shape::Weights { layers, cut: cut.collect(), embeddings: of(even.embeddings), head: of(even.head), ..even })
    }
}

/// A decoder where it runs.
pub(super) enum Executor {
    Cpu(Arc<Decoder>),
    #[cfg(feature = "cuda")]
    Gpu(Arc<cuda::Decoder>),
}

impl Executor {
    /// Loads weights to where `settings` place them. Where a GPU has room for fewer positions than they say, they say so from then on.
    ///
    /// # Errors
    /// [`Error::Weights`]; [`Error::Usage`] for keys and values of a type that a GPU has not, where one is required;
    /// [`Error::Device`] when the model does not fit.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "there is one place alone"))]
    pub(super) fn open(source: &Source, pool: &Pool, settings: &mut Settings) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Placement::Gpu { gpus, required } = settings.placement.clone() {
            match Self::on_gpus(source, pool, &gpus, settings) {
                Err(Error::Weights(WeightsError::Unsupported(why)) | Error::Usage(why)) if !required => {
                    tracing::warn!("the model runs on the CPU: {why}");
                }
                other => return other,
            }
        }
        Ok(Self::Cpu(Arc::new(match source {
            Source::Gguf(gguf) => Decoder::from_gguf(gguf, pool)?,
            Source::Folder(path) => Decoder::open(path, pool)?,
        })))
    }

    #[cfg(feature = "cuda")]
    fn on_gpus(source: &Source, pool: &Pool, gpus: &Gpus, settings: &mut Settings) -> Result<Self> {
        let config = source.config()?;
        // what does not run there at all is told before it is loaded
        cuda::Decoder::supports(&config, settings.cache).map_err(|e| match e {
            WeightsError::Device(e) => Error::Usage(format!("llm.cache: {e}; set llm.cache = \"f16\"")),
            other => other.into(),
        })?;
        shape::check("the model", &config)?;
        let wished = settings.cache_tokens as u64;
        let (weights, cache) = (source.weights(&config)?, settings.cache.into());
        let model = Model { source: source.headers(), config: &config, weights: &weights, cache };
        let layout = gpus.lay_out(model, wished)?;
        if layout.positions < wished {
            let room = layout.positions;
            tracing::warn!("there is room for {room} of the {wished} positions of llm.cache_tokens beside the model");
            settings.cache_tokens = room as usize;
        }
        let on = layout.on.layout();
        Ok(Self::Gpu(Arc::new(match source {
            Source::Gguf(gguf) => cuda::Decoder::from_gguf_over(on, gguf, pool)?,
            Source::Folder(path) => cuda::Decoder::from_folder_over(on, path, pool)?,
        })))
    }

    /// The model's shape and kind.
    pub(super) fn config(&self) -> &Config {
        match self {
            Self::Cpu(decoder) => decoder.config(),
            #[cfg(feature = "cuda")]
            Self::Gpu(decoder) => decoder.config(),
        }
    }

    /// Number of weights.
    pub(super) fn parameters(&self) -> u64 {
        match self {
            Self::Cpu(decoder) => decoder.weights().parameters(),
            #[cfg(feature = "cuda")]
            Self::Gpu(decoder) => decoder.parameters(),
        }
    }

    /// Whether sequences of up to `context` positions are rotated otherwise than short ones.
    pub(super) fn is_long(&self, context: usize) -> bool {
        match self {
            Self::Cpu(decoder) => decoder.is_long(context),
            #[cfg(feature = "cuda")]
            Self::Gpu(decoder) => decoder.is_long(context),
        }
    }

    /// What passes of up to `rows` tokens run on, with room for `blocks` blocks of keys and values in `cache`. On the processor the
    /// room is taken as it is needed, on a GPU at once.
    ///
    /// # Errors
    /// [`Error::Device`].
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "the processor takes room as it needs it"))]
    pub(super) fn passes(&self, rows: usize, cache: KvType, blocks: usize) -> Result<Passes> {
        Ok(match self {
            Self::Cpu(decoder) => Passes {
                rows,
                runs: Runs::Cpu {
                    store: KvStore::new(decoder.config().kv_shape(cache)),
                    workspace: None,
                    decoder: decoder.clone(),
                },
            },
            #[cfg(feature = "cuda")]
            Self::Gpu(decoder) => {
                let state = decoder.state(cuda::Capacity { blocks, cache, graphs: true }).map_err(failed)?;
                Passes { rows, runs: Runs::Gpu { state, decoder: decoder.clone(), choices: Vec::new() } }
            }
        })
    }
}

/// Keys and values of all sequences, and the buffers of a pass. Made by [`Executor::passes`].
pub(super) struct Passes {
    rows: usize,
    runs: Runs,
}

/// Why there are not more blocks.
pub(super) struct Short {
    /// What to tell who needs them.
    pub(super) error: Error,
    /// Whether it is the room alone: everything else is as it was, and goes on.
    pub(super) of_memory: bool,
}

#[cfg(feature = "cuda")]
impl From<dreamseed_kernels::cuda::Error> for Short {
    fn from(error: dreamseed_kernels::cuda::Error) -> Self {
        decoder::Error::Device(error).into()
    }
}

impl From<decoder::Error> for Short {
    fn from(error: decoder::Error) -> Self {
        #[cfg(feature = "cuda")]
        let of_memory = matches!(error, decoder::Error::Device(dreamseed_kernels::cuda::Error::OutOfMemory { .. }));
        #[cfg(not(feature = "cuda"))]
        let of_memory = false;
        Self { error: failed(error), of_memory }
    }
}

enum Runs {
    Cpu {
        decoder: Arc<Decoder>,
        store: KvStore,
        workspace: Option<Workspace>, // made for the first pass
    },
    #[cfg(feature = "cuda")]
    Gpu { decoder: Arc<cuda::Decoder>, state: cuda::State, choices: Vec<dreamseed_kernels::cuda::Choice> },
}

impl Passes {
    /// Most tokens of a pass.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Allows `blocks` blocks in all.
    ///
    /// # Errors
    /// [`Short`]; what there was stays.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "the processor takes room as it needs it"))]
    pub(super) fn allow(&mut self, blocks: usize) -> Result<(), Short> {
        match &mut self.runs {
            Runs::Cpu { .. } => Ok(()),
            #[cfg(feature = "cuda")]
            Runs::Gpu { decoder, state, .. } => {
                if blocks > state.blocks() {
                    gpus::check_growth(decoder, state.capacity(), blocks)?;
                }
                Ok(decoder.grow(state, blocks)?)
            }
        }
    }

    /// Takes room for the first `blocks` of the allowed blocks.
    pub(super) fn reserve(&mut self, blocks: usize) {
        match &mut self.runs {
            Runs::Cpu { store, .. } => store.reserve(blocks),
            #[cfg(feature = "cuda")]
            Runs::Gpu { .. } => {} // it has all that is allowed
        }
    }

    /// Copies block `from` over block `to`.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub(super) fn copy(&mut self, from: u32, to: u32) -> Result<()> {
        self.reserve(from.max(to) as usize + 1);
        match &mut self.runs {
            Runs::Cpu { store, .. } => {
                store.copy(from, to);
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Runs::Gpu { state, .. } => state.copy(from, to).map_err(failed),
        }
    }

    /// One pass. `draws`: what the tokens after all rows that are wanted are to be chosen by, where that may be done where the logits
    /// are; none: the logits are needed.
    ///
    /// # Errors
    /// [`Error::Device`] when a GPU fails; [`Error::Internal`] when a slice is not sound: the accounting is wrong.
    pub(super) fn run(&mut self, pool: &Pool, slices: &[Slice], draws: Option<&[Draw]>) -> Result<()> {
        match &mut self.runs {
            Runs::Cpu { decoder, store, workspace } => {
                let _ = draws; // the logits are here
                let workspace = workspace.get_or_insert_with(|| decoder.workspace(self.rows));
                decoder.run(pool, workspace, store, slices).map(drop).map_err(failed)
            }
            #[cfg(feature = "cuda")]
            Runs::Gpu { decoder, state, choices } => match draws {
                None => decoder.run(state, slices).map(drop).map_err(failed),
                Some(draws) => {
                    choices.clear();
                    choices.extend(draws.iter().map(choice));
                    decoder.choose(state, slices, choices).map(drop).map_err(failed)
                }
            },
        }
    }

    /// What the last pass gave, one for each row that was wanted, slice by slice.
    pub(super) fn rows_wanted(&self) -> impl Iterator<Item = Row<'_>> {
        let (logits, vocab) = match &self.runs {
            Runs::Cpu { decoder, workspace, .. } => {
                (workspace.as_ref().map_or(&[][..], Workspace::logits), decoder.config().vocab)
            }
            #[cfg(feature = "cuda")]
            Runs::Gpu { decoder, state, .. } => (state.logits(), decoder.config().vocab),
        };
        let logits = logits.chunks_exact(vocab).map(Row::Logits);
        #[cfg(feature = "cuda")]
        let logits = logits.chain(
            match &self.runs {
                Runs::Cpu { .. } => [].iter(),
                Runs::Gpu { state, .. } => state.chosen().iter(),
            }
            .map(|c| Row::Chosen(u32::try_from(c.token).ok(), c.logprob)),
        );
        logits
    }
}

/// A draw as the device takes it.
#[cfg(feature = "cuda")]
fn choice(draw: &Draw) -> dreamseed_kernels::cuda::Choice {
    let s = &draw.sampling;
    dreamseed_kernels::cuda::Choice {
        random: draw.random,
        temperature: s.temperature,
        top_p: s.top_p,
        ln_min_p: s.min_p.ln(), // of 0: all
        top_k: s.top_k.min(i32::MAX as usize) as i32,
    }
}

#[cfg(feature = "cuda")]
fn refused(error: dreamseed_kernels::cuda::Error) -> Error {
    Error::Device(error.to_string())
}

fn failed(error: decoder::Error) -> Error {
    match error {
        #[cfg(feature = "cuda")]
        decoder::Error::Device(e) => refused(e),
        other => Error::Internal(other.to_string()),
    }
}
