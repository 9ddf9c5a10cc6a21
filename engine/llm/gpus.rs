//! The GPUs that language models may use, and which of them a model lies on, and how.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use dreamseed_kernels::{
    KV_BLOCK,
    cuda::{Device, Error as Refusal, nccl_version},
};
use dreamseed_models::decoder::{
    Config,
    cuda::{self, Capacity, Decoder, Share},
    shards,
};

use crate::{
    Error, Result,
    config::{Cache, Devices, Parallel},
    plan::{
        self, Request, Way, fit,
        gpu::{self, Gpu},
        memory::{self, TOGETHER, Wish},
        shape::{Shape, Weights},
        split::{self, Place},
    },
};

/// Bytes of a GPU that stay free for what is not counted: graphs, and pages that are not full.
const SPARE: u64 = 128 << 20;
/// Positions of a sequence for which speeds are predicted, as `plan` does by itself.
const USUAL: u64 = 8192;
/// Bandwidth of each GPU, where one is among them that the plan does not know: equals share alike.
const EQUAL: f64 = 1e12;

/// GPUs that may be used. One is opened when it is first needed, for a context alone takes hundreds of MB of it. Clones share them.
#[derive(Clone)]
pub struct Gpus {
    ordinals: Arc<[usize]>,
    all: bool, // whether each is to hold a part of every model
    parallel: Parallel,
    opened: Arc<Mutex<BTreeMap<usize, std::result::Result<Device, Refusal>>>>,
}

/// Where a model lies.
pub(super) struct Layout {
    pub(super) on: On,
    /// Positions that there is room for, at most those that were wished.
    pub(super) positions: u64,
}

/// How it lies there.
pub(super) enum On {
    Layers(Vec<Share>),
    Tensor(Vec<Device>),
}

impl On {
    pub(super) fn layout(&self) -> cuda::Layout<'_> {
        match self {
            Self::Layers(shares) => cuda::Layout::Layers(shares),
            Self::Tensor(devices) => cuda::Layout::Tensor(devices),
        }
    }
}

/// A model that is to be laid out.
#[derive(Clone, Copy)]
pub(super) struct Model<'a> {
    pub(super) source: shards::Source<'a>,
    pub(super) config: &'a Config,
    pub(super) weights: &'a Weights,
    pub(super) cache: Cache,
}

impl Model<'_> {
    /// Room for so many blocks.
    fn wish(&self, blocks: u64) -> Wish {
        Wish { sequences: blocks, positions: KV_BLOCK as u64, cache: self.cache }
    }
}

/// A model cut over devices.
struct Cut<'a> {
    model: Model<'a>,
    devices: &'a [(Device, u64)], // and their free bytes
    parts: Vec<(Config, u64)>,    // and bytes of their weights
}

impl<'a> Cut<'a> {
    /// # Errors
    /// Why it cannot be: devices that are not equal, no NCCL, heads that do not divide.
    fn new(model: Model<'a>, devices: &'a [(Device, u64)]) -> std::result::Result<Self, String> {
        let n = devices.len();
        if n < 2 {
            return Err(format!("{n} GPU(s) may be used, and layers are cut over two or more; see devices"));
        }
        let alike: Vec<Device> = devices.iter().map(|(device, _)| device.clone()).collect();
        cuda::equal(&alike).map_err(|e| e.to_string())?;
        nccl_version().map_err(|e| e.to_string())?;
        let configs = shards::configs(model.source, model.config, n).map_err(|e| e.to_string())?;
        let of = |(i, own): (usize, Config)| (own.clone(), model.weights.part(model.config, &own, (i, n)).total());
        Ok(Self { model, devices, parts: configs.into_iter().enumerate().map(of).collect() })
    }

    /// What each device needs for so many blocks, and has.
    fn needs(&self, blocks: u64) -> impl Iterator<Item = (u64, u64)> {
        let wish = self.model.wish(blocks);
        self.parts.iter().zip(self.devices).map(move |((own, weights), (device, free))| {
            let part = memory::Part { over: self.parts.len() as u64, ..memory::Part::whole(own) };
            (memory::need(own, part, *weights, multiprocessors(device), wish).total(), free.saturating_sub(TOGETHER))
        })
    }

    /// As many of `blocks` blocks as there is room for.
    fn most(&self, blocks: u64) -> u64 {
        memory::most(blocks, |n| n == 0 || self.needs(n).all(|(need, free)| need <= free))
    }

    fn on(&self) -> On {
        On::Tensor(self.devices.iter().map(|(device, _)| device.clone()).collect())
    }
}

impl Gpus {
    /// Those that the configuration names; the first that can be used is opened, of numbers each.
    ///
    /// # Errors
    /// [`Error::Device`] that says why there is none, or not each of those that are named.
    pub fn open(devices: &Devices) -> Result<Self> {
        let (ordinals, all) = match devices {
            Devices::Auto => ((0..Device::count().map_err(refused)?.min(Devices::MOST)).collect(), false),
            Devices::These(numbers) => (numbers.clone(), true),
        };
        let gpus = Self { ordinals: ordinals.into(), all, parallel: Parallel::Auto, opened: Arc::default() };
        if all {
            gpus.ordinals.iter().try_for_each(|&n| gpus.device(n).map(drop)).map_err(refused)?;
        } else {
            gpus.first()?;
        }
        Ok(gpus)
    }

    /// Devices that are open already. `all`: each is to hold a part of every model.
    pub fn of(devices: &[Device], all: bool) -> Self {
        let opened = devices.iter().map(|d| (d.ordinal(), Ok(d.clone()))).collect();
        let ordinals = devices.iter().map(Device::ordinal).collect();
        Self { ordinals, all, parallel: Parallel::Auto, opened: Arc::new(Mutex::new(opened)) }
    }

    /// The same, over which models are to lie in this way.
    pub fn parallel(self, parallel: Parallel) -> Self {
        Self { parallel, ..self }
    }

    fn device(&self, ordinal: usize) -> std::result::Result<Device, Refusal> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.entry(ordinal).or_insert_with(|| Device::open(ordinal)).clone()
    }

    /// Those that can be opened, one by one; one error where there is none.
    fn usable(&self) -> impl Iterator<Item = std::result::Result<Device, Refusal>> {
        let mut found = self.ordinals.iter().map(|&n| self.device(n));
        let (mut first, mut any) = (None, false);
        std::iter::from_fn(move || {
            loop {
                match found.next() {
                    Some(Ok(device)) => {
                        any = true;
                        return Some(Ok(device));
                    }
                    Some(Err(e)) => {
                        tracing::warn!("a GPU is left out: {e}");
                        first = first.take().or(Some(e));
                    }
                    None => return first.take().filter(|_| !any).map(Err),
                }
            }
        })
    }

    /// The first that can be used.
    ///
    /// # Errors
    /// [`Error::Device`] that says why there is none.
    pub(crate) fn first(&self) -> Result<Device> {
        self.usable().next().unwrap_or(Err(Refusal::NoDevice { ordinal: 0, count: 0 })).map_err(refused)
    }

    /// Where a model is to lie, with room for `wished` positions of all sequences together or as many of them as fit: on one GPU where
    /// that has room for all, else on as few as have; on all of those that were named, or where every layer is to be cut.
    ///
    /// # Errors
    /// [`Error::Device`] with the numbers, when it does not fit, or every layer is to be cut and cannot be.
    pub(super) fn lay_out(&self, model: Model, wished: u64) -> Result<Layout> {
        let blocks = wished.div_ceil(KV_BLOCK as u64).max(1);
        if self.parallel == Parallel::Tensor {
            return self.cut(model, (wished, blocks));
        }
        let (on, fit) = self.by_layers(model, blocks)?;
        let positions = wished.min(fit * KV_BLOCK as u64);
        let faster = (self.parallel == Parallel::Auto).then(|| faster(model, &on, fit)).flatten();
        Ok(Layout { on: faster.unwrap_or(On::Layers(on)), positions })
    }

    /// Every layer over all GPUs.
    fn cut(&self, model: Model, (wished, blocks): (u64, u64)) -> Result<Layout> {
        let devices = self.usable().map(|d| free(d?)).collect::<std::result::Result<Vec<_>, _>>().map_err(refused)?;
        let not = |why: String| Error::Device(format!("parallel = \"tensor\": {why}; set it to \"auto\" or \"layers\""));
        let cut = Cut::new(model, &devices).map_err(not)?;
        let most = cut.most(blocks);
        if most == 0 {
            let (needed, free) = cut.needs(1).max_by_key(|(need, free)| need.saturating_sub(*free)).unwrap_or_default();
            return Err(not(format!("the model does not fit: {}", memory::Refusal::Weights { needed, free })));
        }
        Ok(Layout { on: cut.on(), positions: wished.min(most * KV_BLOCK as u64) })
    }

    /// Layers on each, and the blocks that there is room for.
    fn by_layers(&self, model: Model, blocks: u64) -> Result<(Vec<Share>, u64)> {
        let Model { config, weights, .. } = model;
        let wish = |blocks| model.wish(blocks);
        let mut found = Vec::new(); // devices and their free bytes
        for device in self.usable() {
            let device = device.map_err(refused)?;
            let (device, bytes) = free(device).map_err(refused)?;
            let need =
                memory::need(config, memory::Part::whole(config), weights.total(), multiprocessors(&device), wish(blocks));
            if !self.all && need.total() <= bytes {
                return Ok((vec![Share { device, layers: config.layers }], blocks));
            }
            found.push((device, bytes));
        }
        let divided = |some: &[(Device, u64)], blocks| divide(some, config, weights, wish(blocks));
        if !self.all {
            for n in 2..found.len() {
                if let Ok(shares) = divided(&freest(&found, n), blocks) {
                    return Ok((shares, blocks));
                }
            }
        }
        let most = memory::most(blocks, |n| n == 0 || divided(&found, n).is_ok());
        Ok((divided(&found, most.max(1))?, most))
    }
}

/// A device and its free bytes.
fn free(device: Device) -> std::result::Result<(Device, u64), Refusal> {
    let bytes = (device.free()? as u64).saturating_sub(SPARE);
    Ok((device, bytes))
}

/// Every layer over the devices that hold some each, where they can, have as much room and are predicted to be faster so. Of GPUs that
/// the plan does not know nothing is predicted.
fn faster(model: Model, shares: &[Share], blocks: u64) -> Option<On> {
    let devices = shares.iter().map(|s| free(s.device.clone())).collect::<std::result::Result<Vec<_>, _>>().ok()?;
    let cut = Cut::new(model, &devices).ok().filter(|cut| blocks > 0 && cut.most(blocks) == blocks)?;
    let places = known(&devices).into_iter().collect::<Option<Vec<_>>>()?;
    let shape = Shape { name: String::new(), config: model.config.clone(), weights: model.weights.clone() };
    if predicted(&places, &shape, model.cache) != Some(Way::Tensor) {
        return None;
    }
    let ordinals: Vec<_> = devices.iter().map(|(device, _)| device.ordinal()).collect();
    tracing::info!("every layer is cut over GPUs {ordinals:?}: predicted to be faster than some on each");
    Some(cut.on())
}

/// The way that is predicted to be faster, for one sequence of a usual length.
fn predicted(places: &[Place], shape: &Shape, cache: Cache) -> Option<Way> {
    let wish = Wish { sequences: 1, positions: USUAL.min(shape.config.context as u64), cache };
    // contexts are there already, and what has to fit was counted
    let places: Vec<Place> = places.iter().map(|p| Place { free: u64::MAX, gpu: p.gpu.clone() }).collect();
    Some(plan::plan(&fit::fit().ok()?.costs, &Request { places: &places, shape, wish, draft: None }).way)
}

/// Whether there is room for a store of `blocks` blocks beside the one that is there, and for what is not counted.
///
/// # Errors
/// [`Refusal::OutOfMemory`] with the numbers.
pub(super) fn check_growth(decoder: &Decoder, now: Capacity, blocks: usize) -> std::result::Result<(), Refusal> {
    let (devices, cut) = (decoder.devices().len(), decoder.is_cut());
    for (i, ((device, layers), config)) in decoder.devices().zip(decoder.configs()).enumerate() {
        let over = if cut { devices as u64 } else { 1 };
        let part = memory::Part { layers: layers.len() as u64, ends: cut || i + 1 == devices, over };
        let need = |blocks: usize| {
            let wish = Wish { sequences: blocks as u64, positions: KV_BLOCK as u64, cache: now.cache.into() };
            memory::need(config, part, 0, multiprocessors(device), wish).total()
        };
        let (wanted, free) = (need(blocks).saturating_sub(need(0)), device.free()?.saturating_sub(SPARE as usize));
        if wanted > free as u64 {
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            return Err(Refusal::OutOfMemory { gpu: device.ordinal(), wanted, free });
        }
    }
    Ok(())
}

/// Those `n` with the most free memory, in their order.
fn freest(all: &[(Device, u64)], n: usize) -> Vec<(Device, u64)> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(all[i].1));
    order.truncate(n);
    order.sort_unstable();
    order.into_iter().map(|i| all[i].clone()).collect()
}

/// Layers over devices.
fn divide(devices: &[(Device, u64)], config: &Config, weights: &Weights, wish: Wish) -> Result<Vec<Share>> {
    let not = |e: String| Error::Device(format!("the model does not fit: {e}, or use the CPU"));
    if let [(device, free)] = devices {
        let whole = memory::need(config, memory::Part::whole(config), weights.total(), multiprocessors(device), wish).total();
        return match whole <= *free {
            true => Ok(vec![Share { device: device.clone(), layers: config.layers }]),
            false => Err(not(memory::Refusal::Weights { needed: whole, free: *free }.to_string())),
        };
    }
    let stages = split::split(&places(devices), config, weights, wish).map_err(|e| not(e.to_string()))?;
    let held = devices.iter().zip(stages).filter(|(_, stage)| stage.need.total() > 0);
    Ok(held.map(|((device, _), stage)| Share { device: device.clone(), layers: stage.layers.len() }).collect())
}

/// Devices as a plan sees them.
fn places(devices: &[(Device, u64)]) -> Vec<Place> {
    let known = known(devices);
    let all = known.iter().all(Option::is_some);
    let place = |((device, free), known): (&(Device, u64), Option<Place>)| {
        let (memory, multiprocessors) = (device.info().memory as u64, multiprocessors(device));
        let unknown =
            Gpu { id: "", name: "GPU", memory, bandwidth: EQUAL, multiprocessors, ram: gpu::Ram::Gddr, product: false };
        let gpu = known.filter(|_| all).map_or(unknown, |p| p.gpu);
        Place { gpu: Gpu { multiprocessors, ..gpu }, free: *free }
    };
    devices.iter().zip(known).map(place).collect()
}

/// Those that the plan knows.
fn known(devices: &[(Device, u64)]) -> Vec<Option<Place>> {
    let named = |(device, free): &(Device, u64)| {
        let gpu = gpu::named_by_driver(&device.info().name, device.info().memory as u64)?;
        Some(Place { gpu, free: *free })
    };
    devices.iter().map(named).collect()
}

fn multiprocessors(device: &Device) -> u64 {
    device.info().multiprocessors as u64
}

fn refused(error: Refusal) -> Error {
    Error::Device(error.to_string())
}
