//! A decoder on NVIDIA GPUs: the same plan as on the processor, over the kernels of [`dreamseed_kernels::cuda`].
//!
//! Its layers lie on one device or over several, one part each, in order: the embeddings on the first, the head on the last. A pass
//! goes through the parts one after the other, and the rows of the residual stream move between them; two passes that do not wait for
//! each other's results overlap.
//!
//! A pass takes its rows in launches of fixed sizes; fewer rows are padded by rows without a position, so that each of these sizes can
//! be captured into a graph once and replayed. What differs from pass to pass (tokens, positions, blocks) lies in buffers that a graph
//! reads anew. Where tokens are chosen on the device, the rows that go on by them are made there too: a step that follows another one is
//! told nothing but new blocks, and tells its tokens (up to 32 texts; the rows of more are told). Mixtures of experts and pictures are
//! refused.
//!
//! Launches of up to eight rows and those of more round differently. On the processor a row's result depends on nothing beside it; here
//! it may change with the number of rows that run beside it, by that rounding and no more.

mod ops;
mod pass;
mod state;
#[cfg(test)]
mod tests;
mod told;

use std::{ops::Range, path::Path};

use dreamseed_kernels::{
    BlockType, KvType, Pool,
    cuda::{Buffer, Device, DeviceMatrix, DeviceStore, Error as Refusal},
};

use super::{
    Config, Op,
    experts::{FeedForward, Mlp},
    files::Files,
    layer_plan,
    weights::{Layer, Place, Reader},
};
use crate::{
    layers::rope::Rotation,
    weights::{Error as WeightsError, Result as WeightsResult, gguf::Gguf},
};

pub use state::{Capacity, State};

impl Place for Device {
    type Matrix = DeviceMatrix;
    type Vector = Buffer<f32>;

    fn matrix(&self, name: &str, kind: BlockType, (rows, cols): (usize, usize), bytes: &[u8]) -> WeightsResult<DeviceMatrix> {
        DeviceMatrix::new(self, kind, rows, cols, bytes).map_err(|e| match e {
            Refusal::Shape(problem) => WeightsError::Tensor { name: name.into(), problem },
            other => other.into(),
        })
    }

    /// In half precision, as far as that reaches: what tensor cores multiply is rounded so far in any case.
    fn rounded(&self, name: &str, shape: (usize, usize), values: &[f32]) -> WeightsResult<DeviceMatrix> {
        let fits = values.iter().all(|v| v.abs() <= f32::from(half::f16::MAX));
        let bytes: Vec<u8> = match fits {
            true => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            false => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        self.matrix(name, if fits { BlockType::F16 } else { BlockType::F32 }, shape, &bytes)
    }

    fn vector(&self, values: Vec<f32>) -> WeightsResult<Buffer<f32>> {
        Ok(self.upload(&values)?)
    }
}

/// A device and how many of a model's layers it holds. The same device may have several shares.
#[derive(Clone)]
pub struct Share {
    /// The device.
    pub device: Device,
    /// Layers, after those of the shares before it.
    pub layers: usize,
}

/// A language model on one GPU or over several. Immutable: share it, and give each user a [`State`].
pub struct Decoder {
    config: Config,
    parts: Vec<Part>,
    global: Rotation,
    local: Rotation,
}

/// What lies on one device.
struct Part {
    device: Device,
    first: usize, // number of its first layer
    layers: Vec<Layer<Device>>,
    embeddings: Option<DeviceMatrix>, // (vocab, dim); of the first part, and of the last where they are its output too
    head: Option<Head>,               // of the last part
    plan: Vec<Op>,
}

/// The end of a model.
struct Head {
    norm: Buffer<f32>,            // (dim)
    output: Option<DeviceMatrix>, // (vocab, dim); `None`: the part's embeddings serve
}

impl Decoder {
    /// Loads a GGUF file, or a folder with config.json and safetensors, onto one device.
    ///
    /// # Errors
    /// What is wrong with the files, that the model is of a kind that does not run here, or [`WeightsError::Device`].
    pub fn open(device: &Device, path: &Path, pool: &Pool) -> WeightsResult<Self> {
        if !path.is_dir() {
            return Self::from_gguf(device, &Gguf::open(path)?, pool);
        }
        let config = folder_config(path)?;
        let shares = [Share { device: device.clone(), layers: config.layers }];
        Self::new(&shares, config, &Files::hf(path)?, pool)
    }

    /// Loads a folder with config.json and safetensors onto several devices.
    ///
    /// # Errors
    /// As [`Decoder::open`]; [`WeightsError::Device`] also for shares that are not all of the layers.
    pub fn from_folder_over(shares: &[Share], path: &Path, pool: &Pool) -> WeightsResult<Self> {
        Self::new(shares, folder_config(path)?, &Files::hf(path)?, pool)
    }

    /// From an open GGUF file, onto one device.
    ///
    /// # Errors
    /// As [`Decoder::open`].
    pub fn from_gguf(device: &Device, gguf: &Gguf, pool: &Pool) -> WeightsResult<Self> {
        let config = Config::from_gguf(gguf)?;
        let shares = [Share { device: device.clone(), layers: config.layers }];
        Self::new(&shares, config, &Files::Gguf(gguf), pool)
    }

    /// From an open GGUF file, onto several devices.
    ///
    /// # Errors
    /// As [`Decoder::from_folder_over`].
    pub fn from_gguf_over(shares: &[Share], gguf: &Gguf, pool: &Pool) -> WeightsResult<Self> {
        Self::new(shares, Config::from_gguf(gguf)?, &Files::Gguf(gguf), pool)
    }

    /// Whether there are kernels for such a model with keys and values of this type.
    ///
    /// # Errors
    /// [`WeightsError::Unsupported`] for a model of a kind that runs on the processor alone, [`WeightsError::Device`] for keys and
    /// values of a type that runs there alone.
    pub fn supports(config: &Config, cache: KvType) -> WeightsResult<()> {
        if config.experts.is_some() {
            return Err(WeightsError::Unsupported("mixtures of experts run on the processor alone".into()));
        }
        let unsupported = |e: Refusal| WeightsError::Unsupported(e.to_string());
        DeviceStore::supports(&config.kv_shape(KvType::F16)).map_err(unsupported)?;
        Ok(DeviceStore::supports(&config.kv_shape(cache))?)
    }

    fn new(shares: &[Share], config: Config, files: &Files, pool: &Pool) -> WeightsResult<Self> {
        Self::supports(&config, KvType::F16)?;
        let shared = shares.iter().fold(0usize, |sum, s| sum.saturating_add(s.layers));
        if shares.is_empty() || shared != config.layers {
            let problem = format!("{} shares of {shared} layers in all, of a model of {}", shares.len(), config.layers);
            return Err(Refusal::Shape(problem).into());
        }
        let reader = Reader::new(files, &config, pool)?;
        let mut parts = Vec::with_capacity(shares.len());
        for (i, share) in shares.iter().enumerate() {
            let first = parts.last().map_or(0, Part::end);
            parts.push(Part::load((&reader, &config), share, first, [i == 0, i + 1 == shares.len()])?);
        }
        let local = config.local.as_ref().and_then(|l| l.rope.as_ref()).unwrap_or(&config.rope).rotation();
        let global = config.rope.rotation();
        Ok(Self { config, parts, global, local })
    }

    /// Its shape and kind.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it is: the devices of its parts, in order, and the layers on each.
    pub fn devices(&self) -> impl ExactSizeIterator<Item = (&Device, Range<usize>)> {
        self.parts.iter().map(|p| (&p.device, p.first..p.end()))
    }

    /// Number of weights in the matrices, a tied embedding counted once.
    pub fn parameters(&self) -> u64 {
        let count = |m: &DeviceMatrix| m.rows() as u64 * m.cols() as u64;
        let all: u64 = self.parts.iter().flat_map(Part::matrices).map(count).sum();
        // of tied embeddings the last of several parts has a copy
        let copies = self.parts.iter().skip(1).filter_map(|p| p.embeddings.as_ref()).map(count).sum::<u64>();
        all - copies
    }

    /// Bytes of its matrices on the devices.
    pub fn bytes(&self) -> usize {
        self.parts.iter().flat_map(Part::matrices).map(DeviceMatrix::bytes).sum()
    }

    /// Whether sequences of up to `context` positions are rotated otherwise than short ones: the two cannot share keys.
    pub fn is_long(&self, context: usize) -> bool {
        self.global.is_long(context) || self.local.is_long(context)
    }
}

fn folder_config(path: &Path) -> WeightsResult<Config> {
    let json = path.join("config.json");
    let text = crate::weights::read_whole(&json, crate::weights::TEXT)
        .map_err(|source| WeightsError::Io { path: json.clone(), source })?;
    Config::from_json(&text)
}

impl Part {
    /// Loads a share whose first layer is `first`. The beginning of a model has the embeddings, its end the head.
    fn load(
        (reader, config): (&Reader, &Config),
        share: &Share,
        first: usize,
        [begins, ends]: [bool; 2],
    ) -> WeightsResult<Self> {
        let device = share.device.clone();
        let embeddings = (begins || ends && config.tied).then(|| reader.embeddings(&device)).transpose()?;
        let layers = reader.layers(&device, first..first + share.layers)?;
        let head = ends.then(|| reader.head(&device)).transpose()?.map(|(norm, output)| Head { norm, output });
        let mut plan = Vec::from_iter(begins.then_some(Op::Embed));
        plan.extend(layers.iter().enumerate().flat_map(|(i, layer)| layer_plan(first + i, layer, config)));
        plan.extend(ends.then_some(Op::Head));
        Ok(Self { device, first, layers, embeddings, head, plan })
    }

    /// The number after its last layer's.
    fn end(&self) -> usize {
        self.first + self.layers.len()
    }

    fn layer(&self, layer: usize) -> &Layer<Device> {
        &self.layers[layer - self.first]
    }

    fn matrices(&self) -> impl Iterator<Item = &DeviceMatrix> {
        let layer = |l| {
            let Layer { wq, wk, wv, wo, .. }: &Layer<Device> = l;
            [wq, wk, wv, wo].into_iter().chain(dense(l).into_iter().flat_map(|m| [&m.gate, &m.up, &m.down]))
        };
        let output = self.head.as_ref().and_then(|h| h.output.as_ref());
        self.layers.iter().flat_map(layer).chain(&self.embeddings).chain(output)
    }
}

/// A layer's feed-forward network; models with experts are not opened.
fn dense(layer: &Layer<Device>) -> Option<&Mlp<Device>> {
    match &layer.feed_forward {
        FeedForward::Dense(mlp) => Some(mlp),
        FeedForward::Mixture(_) => None,
    }
}
