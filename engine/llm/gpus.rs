//! The GPUs that language models may use, and which of them a model's layers lie on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use dreamseed_kernels::{
    KV_BLOCK,
    cuda::{Device, Error as Refusal},
};
use dreamseed_models::decoder::{
    Config,
    cuda::{Capacity, Decoder, Share},
};

use crate::{
    Error, Result,
    config::{Cache, Devices},
    plan::{
        gpu::{self, Gpu},
        memory::{self, Wish},
        shape::Weights,
        split::{self, Place},
    },
};

/// Bytes of a GPU that stay free for what is not counted: graphs, and pages that are not full.
const SPARE: u64 = 128 << 20;
/// Bandwidth of each GPU, where one is among them that the plan does not know: equals share alike.
const EQUAL: f64 = 1e12;

/// GPUs that may be used. One is opened when it is first needed, for a context alone takes hundreds of MB of it. Clones share them.
#[derive(Clone)]
pub struct Gpus {
    ordinals: Arc<[usize]>,
    all: bool, // whether each is to hold a part of every model
    opened: Arc<Mutex<BTreeMap<usize, std::result::Result<Device, Refusal>>>>,
}

/// Where a model's layers lie.
pub(super) struct Layout {
    pub(super) shares: Vec<Share>,
    /// Positions that there is room for, at most those that were wished.
    pub(super) positions: u64,
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
        let gpus = Self { ordinals: ordinals.into(), all, opened: Arc::default() };
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
        Self { ordinals, all, opened: Arc::new(Mutex::new(opened)) }
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
    /// that has room for all, else on as few as have; on all of those that were named.
    ///
    /// # Errors
    /// [`Error::Device`] with the numbers, when it does not fit.
    pub(super) fn lay_out(&self, config: &Config, weights: &Weights, cache: Cache, wished: u64) -> Result<Layout> {
        let wish = |blocks| Wish { sequences: blocks, positions: KV_BLOCK as u64, cache };
        let blocks = wished.div_ceil(KV_BLOCK as u64).max(1);
        let mut free = Vec::new(); // devices and their free bytes
        for device in self.usable() {
            let device = device.map_err(refused)?;
            let bytes = (device.free().map_err(refused)? as u64).saturating_sub(SPARE);
            let need =
                memory::need(config, memory::Part::whole(config), weights.total(), multiprocessors(&device), wish(blocks));
            if !self.all && need.total() <= bytes {
                return Ok(Layout { shares: vec![Share { device, layers: config.layers }], positions: wished });
            }
            free.push((device, bytes));
        }
        let divided = |some: &[(Device, u64)], blocks| divide(some, config, weights, wish(blocks));
        if !self.all {
            for n in 2..free.len() {
                if let Ok(shares) = divided(&freest(&free, n), blocks) {
                    return Ok(Layout { shares, positions: wished });
                }
            }
        }
        let most = memory::most(blocks, |n| n == 0 || divided(&free, n).is_ok());
        let shares = divided(&free, most.max(1))?;
        Ok(Layout { shares, positions: wished.min(most * KV_BLOCK as u64) })
    }
}

/// Whether there is room for a store of `blocks` blocks beside the one that is there, and for what is not counted.
///
/// # Errors
/// [`Refusal::OutOfMemory`] with the numbers.
pub(super) fn check_growth(decoder: &Decoder, now: Capacity, blocks: usize) -> std::result::Result<(), Refusal> {
    let (config, devices) = (decoder.config(), decoder.devices().len());
    for (i, (device, layers)) in decoder.devices().enumerate() {
        let part = memory::Part { layers: layers.len() as u64, ends: i + 1 == devices };
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
    let named = |(device, _): &(Device, u64)| gpu::named_by_driver(&device.info().name, device.info().memory as u64);
    let known: Vec<_> = devices.iter().map(named).collect();
    let all = known.iter().all(Option::is_some);
    let place = |((device, free), gpu): (&(Device, u64), Option<Gpu>)| {
        let (memory, multiprocessors) = (device.info().memory as u64, multiprocessors(device));
        let unknown =
            Gpu { id: "", name: "GPU", memory, bandwidth: EQUAL, multiprocessors, ram: gpu::Ram::Gddr, product: false };
        Place { gpu: Gpu { multiprocessors, ..gpu.filter(|_| all).unwrap_or(unknown) }, free: *free }
    };
    devices.iter().zip(known).map(place).collect()
}

fn multiprocessors(device: &Device) -> u64 {
    device.info().multiprocessors as u64
}

fn refused(error: Refusal) -> Error {
    Error::Device(error.to_string())
}
