//! A decoder on NVIDIA GPUs: the same plan as on the processor, over the kernels of [`dreamseed_kernels::cuda`].
//!
//! Its layers lie on one device or over several, one part each, in order: the embeddings on the first, the head on the last. A pass
//! goes through the parts one after the other, and the rows of the residual stream move between them; two passes that do not wait for
//! each other's results overlap. Or every layer is cut over equal devices ([`Layout::Tensor`], see [`super::shards`]): all go through a
//! pass side by side, sum twice a layer and gather the logits by NCCL, which graphs hold too. That has run in an emulator and with a
//! double of NCCL alone. **It has not run on real GPUs yet.**
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
    cuda::{Buffer, Device, DeviceMatrix, DeviceStore, Error as Refusal, nccl_version},
};

use super::{
    Config, Op,
    experts::{FeedForward, Mlp},
    files::Files,
    layer_plan,
    shards::{self, Split, vocab_rows},
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

/// How a model lies on devices.
#[derive(Clone, Copy)]
pub enum Layout<'a> {
    /// Some of its layers on each, in order.
    Layers(&'a [Share]),
    /// A part of every layer on each. They have to be equal, and each be there once.
    Tensor(&'a [Device]),
}

/// A language model on one GPU or over several. Immutable: share it, and give each user a [`State`].
pub struct Decoder {
    config: Config,
    parts: Vec<Part>,
    cut: bool, // whether the parts are parts of every layer
    global: Rotation,
    local: Rotation,
}

/// What lies on one device.
struct Part {
    device: Device,
    config: Config, // of the part as a model: fewer heads and a smaller width where layers are cut
    adds: bool,     // whether it adds to the residual stream what all sum: one of those that do
    first: usize,   // number of its first layer
    layers: Vec<Layer<Device>>,
    embeddings: Option<DeviceMatrix>, // (vocab, dim); where tokens come in, and with a head whose output they are too
    head: Option<Head>,               // of the last part, or where layers are cut of each
    plan: Vec<Op>,
}

/// The end of a model.
struct Head {
    rows: Range<usize>,           // of the vocabulary
    norm: Buffer<f32>,            // (dim)
    output: Option<DeviceMatrix>, // (rows, dim); `None`: these rows of the part's embeddings serve
}

/// What a part is to hold.
struct Wanted {
    layers: Range<usize>,
    begins: bool,               // whether tokens come in here
    head: Option<Range<usize>>, // rows of the vocabulary
    adds: bool,
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
        Self::new(Layout::Layers(&shares), config, &Files::hf(path)?, pool)
    }

    /// Loads a folder with config.json and safetensors onto several devices.
    ///
    /// # Errors
    /// As [`Decoder::open`]; [`WeightsError::Device`] also for shares that are not all of the layers, for devices that are not equal
    /// and where there is no NCCL, [`WeightsError::Unsupported`] for layers that cannot be cut over so many.
    pub fn from_folder_over(layout: Layout, path: &Path, pool: &Pool) -> WeightsResult<Self> {
        Self::new(layout, folder_config(path)?, &Files::hf(path)?, pool)
    }

    /// From an open GGUF file, onto one device.
    ///
    /// # Errors
    /// As [`Decoder::open`].
    pub fn from_gguf(device: &Device, gguf: &Gguf, pool: &Pool) -> WeightsResult<Self> {
        let config = Config::from_gguf(gguf)?;
        let shares = [Share { device: device.clone(), layers: config.layers }];
        Self::new(Layout::Layers(&shares), config, &Files::Gguf(gguf), pool)
    }

    /// From an open GGUF file, onto several devices.
    ///
    /// # Errors
    /// As [`Decoder::from_folder_over`].
    pub fn from_gguf_over(layout: Layout, gguf: &Gguf, pool: &Pool) -> WeightsResult<Self> {
        Self::new(layout, Config::from_gguf(gguf)?, &Files::Gguf(gguf), pool)
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

    fn new(layout: Layout, config: Config, files: &Files, pool: &Pool) -> WeightsResult<Self> {
        Self::supports(&config, KvType::F16)?;
        let (parts, cut) = match layout {
            Layout::Layers(shares) => (Self::stacked(shares, &config, files, pool)?, false),
            Layout::Tensor(devices) => (Self::sharded(devices, &config, files, pool)?, true),
        };
        let local = config.local.as_ref().and_then(|l| l.rope.as_ref()).unwrap_or(&config.rope).rotation();
        let global = config.rope.rotation();
        Ok(Self { config, parts, cut, global, local })
    }

    /// Parts of some layers each.
    fn stacked(shares: &[Share], config: &Config, files: &Files, pool: &Pool) -> WeightsResult<Vec<Part>> {
        let shared = shares.iter().fold(0usize, |sum, s| sum.saturating_add(s.layers));
        if shares.is_empty() || shared != config.layers {
            let problem = format!("{} shares of {shared} layers in all, of a model of {}", shares.len(), config.layers);
            return Err(Refusal::Shape(problem).into());
        }
        let reader = Reader::new(files, config, pool)?;
        let mut parts = Vec::with_capacity(shares.len());
        for (i, share) in shares.iter().enumerate() {
            let first = parts.last().map_or(0, Part::end);
            let head = (i + 1 == shares.len()).then_some(0..config.vocab);
            let wanted = Wanted { layers: first..first + share.layers, begins: i == 0, head, adds: true };
            parts.push(Part::load((&reader, config), &share.device, wanted)?);
        }
        Ok(parts)
    }

    /// A part of every layer on each device.
    fn sharded(devices: &[Device], config: &Config, files: &Files, pool: &Pool) -> WeightsResult<Vec<Part>> {
        equal(devices)?;
        nccl_version().map_err(Refusal::from)?;
        let split = Split::for_gpus(files, config, devices.len())?;
        let part = |(index, device): (usize, &Device)| {
            let (own, files) = (split.config(index), Files::Part(shards::Part { split: &split, index }));
            let head = Some(vocab_rows(config.vocab, devices.len(), index));
            let wanted = Wanted { layers: 0..config.layers, begins: true, head, adds: index == 0 };
            Part::load((&Reader::new(&files, &own, pool)?, &own), device, wanted)
        };
        devices.iter().enumerate().map(part).collect()
    }

    /// Its shape and kind.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it is: the devices of its parts, in order, and the layers on each.
    pub fn devices(&self) -> impl ExactSizeIterator<Item = (&Device, Range<usize>)> {
        self.parts.iter().map(|p| (&p.device, p.first..p.end()))
    }

    /// Whether each of its devices has a part of every layer.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// What its parts are as models, in the order of the devices.
    pub fn configs(&self) -> impl ExactSizeIterator<Item = &Config> {
        self.parts.iter().map(|p| &p.config)
    }

    /// Number of weights in the matrices, a tied embedding counted once.
    pub fn parameters(&self) -> u64 {
        let count = |m: &DeviceMatrix| m.rows() as u64 * m.cols() as u64;
        let all: u64 = self.parts.iter().flat_map(Part::matrices).map(count).sum();
        // where embeddings are needed again there is a copy
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

/// That devices can share each layer: parts of one size take them the same time, and each room.
///
/// # Errors
/// [`Refusal::Unequal`] with what two of them are, [`Refusal::Shape`] for none.
pub fn equal(devices: &[Device]) -> Result<(), Refusal> {
    let Some(first) = devices.first() else { return Err(Refusal::Shape("no GPU to cut layers over".into())) };
    let kind = |d: &Device| (d.info().name.clone(), d.info().memory, d.info().capability);
    let told = |d: &Device| {
        let (name, memory, (major, minor)) = kind(d);
        format!("GPU {} is {name} of {memory} bytes and compute capability {major}.{minor}", d.ordinal())
    };
    match devices.iter().find(|d| kind(d) != kind(first)) {
        Some(other) => Err(Refusal::Unequal(format!("{}, {}", told(first), told(other)))),
        None => Ok(()),
    }
}

impl Part {
    fn load((reader, config): (&Reader, &Config), device: &Device, wanted: Wanted) -> WeightsResult<Self> {
        let Wanted { layers, begins, head, adds } = wanted;
        let (first, ends) = (layers.start, head.is_some());
        let embeddings = (begins || ends && config.tied).then(|| reader.embeddings(device)).transpose()?;
        let layers = reader.layers(device, layers)?;
        let load = |rows: Range<usize>| -> WeightsResult<Head> {
            let (norm, output) = reader.head(device, rows.clone())?;
            Ok(Head { rows, norm, output })
        };
        let head = head.map(load).transpose()?;
        let mut plan = Vec::from_iter(begins.then_some(Op::Embed));
        plan.extend(layers.iter().enumerate().flat_map(|(i, layer)| layer_plan(first + i, layer, config)));
        plan.extend(ends.then_some(Op::Head));
        Ok(Self { device: device.clone(), config: config.clone(), adds, first, layers, embeddings, head, plan })
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
