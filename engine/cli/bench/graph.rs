//! `dreamseed bench graph`: a decode step on a GPU, its launches one by one and replayed as graphs, and the memory that it takes.

use std::time::Instant;

use clap::Args;
use dreamseed_kernels::{KV_BLOCK, KvType, cuda::Device};
use dreamseed_models::decoder::{
    Logits, Slice,
    cuda::{Capacity, Decoder},
};
use serde::Serialize;

use super::{failed, median};
use crate::plan::fit;
use crate::{Engine, Error, Result};

/// Arguments of `bench graph`.
#[derive(Clone, Debug, Args)]
pub struct GraphArgs {
    /// An id or a GGUF file (default: the profile's)
    #[arg(long, value_name = "ID|FILE")]
    model: Option<String>,
    /// Steps of each run
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    steps: u16,
}

/// What was measured. A step reads one token and brings its logits back.
#[derive(Serialize)]
pub(super) struct GraphResult {
    device: String,
    capability: String,
    /// Of a step.
    launches: usize,
    /// A step, replayed.
    replayed_ms: f64,
    /// A step, launch by launch.
    direct_ms: f64,
    /// What a launch by itself costs more than one in a graph, microseconds.
    launch_us: f64,
    /// What the plan takes for it.
    planned_launch_us: f64,
    memory_bytes: usize,
    /// With a context alone.
    free_before_bytes: usize,
    /// Of weights and two states.
    allocated_bytes: usize,
    free_loaded_bytes: usize,
    free_after_bytes: usize,
    /// Allocated and never freed: 0.
    left_behind_bytes: usize,
}

pub(super) fn run(engine: &Engine, args: &GraphArgs, runs: usize) -> Result<GraphResult> {
    let gone = |e: dreamseed_kernels::cuda::Error| Error::Device(e.to_string());
    let file = engine.llm_file(args.model.as_deref())?;
    let device = Device::open(0).map_err(gone)?;
    let before = device.free().map_err(gone)?;
    let decoder = Decoder::open(&device, &file, engine.pool())?;
    let steps = usize::from(args.steps).min(decoder.config().context);
    let blocks: Vec<u32> = (0..steps.div_ceil(KV_BLOCK) as u32).collect();
    let state = |graphs| decoder.state(Capacity { blocks: blocks.len(), cache: KvType::F16, graphs }).map_err(failed);
    let mut states = [state(true)?, state(false)?];
    let mut seconds = [Vec::new(), Vec::new()];
    // the first run captures the graphs
    for run in 0..=runs {
        for (state, seconds) in states.iter_mut().zip(&mut seconds) {
            let begin = Instant::now();
            for past in 0..steps {
                let token = (past * 7919 % decoder.config().vocab) as u32;
                let (tokens, logits) = ([token], Logits::Last);
                let slice = Slice { tokens: &tokens, past, context: steps, blocks: &blocks, logits, pictures: &[] };
                decoder.run(state, &[slice]).map_err(failed)?;
            }
            seconds.extend((run > 0).then(|| begin.elapsed().as_secs_f64()));
        }
    }
    let (allocated, loaded) = (device.used(), device.free().map_err(gone)?);
    let launches = states[0].launches(1, 1).map_or(0, |stages| stages.iter().sum());
    drop((states, decoder));
    let [replayed, direct] = seconds.map(|s| 1e3 * median(s) / steps as f64);
    Ok(GraphResult {
        device: device.info().name.clone(),
        capability: format!("{}.{}", device.info().capability.0, device.info().capability.1),
        launches,
        replayed_ms: replayed,
        direct_ms: direct,
        launch_us: 1e3 * (direct - replayed) / launches.max(1) as f64,
        planned_launch_us: fit::fit()?.costs.launch_us,
        memory_bytes: device.info().memory,
        free_before_bytes: before,
        allocated_bytes: allocated,
        free_loaded_bytes: loaded,
        free_after_bytes: device.free().map_err(gone)?,
        left_behind_bytes: device.used(),
    })
}
