//! `dreamseed bench llm` of a model on a GPU: as the engine serves it, beside what the plan predicts.

use std::ops::ControlFlow;
use std::sync::Arc;

use dreamseed_kernels::cuda::Device;
use serde::Serialize;

use super::{bar, median};
use crate::Result;
use crate::config::Cache;
use crate::llm::{Llm, Options, Session};
use crate::plan::{self, Request, Way, fit, gpu, memory::Wish, shape::Shape, split::Place};

/// What was measured. A part that was not asked for is null.
#[derive(Serialize)]
pub(super) struct GpuResult {
    prefill_tokens_per_s: Option<f64>,
    decode_tokens_per_s: Option<f64>,
    /// Weights that a decoded token reads.
    bytes_per_token: u64,
    /// These times the rate.
    decode_gb_s: Option<f64>,
    /// What `plan` says of this GPU, where it knows it: with llama.cpp's nodes a layer, and with this engine's.
    predicted_tokens_per_s: Option<[f64; 2]>,
    load_s: f64,
    /// The devices that hold it, in the order of its layers.
    device: String,
    /// How it lies on them.
    way: Option<Way>,
    /// Bytes allocated on them.
    device_bytes: usize,
    prompt: usize,
    r#gen: usize,
    depth: usize,
}

/// What to measure: tokens read in one go, written, and in the cache before either begins.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) prompt: usize,
    pub(super) r#gen: usize,
    pub(super) depth: usize,
}

/// Measures a model that is on a GPU.
pub(super) fn run(
    llm: &Arc<Llm>,
    devices: &[Device],
    (shape, cache): (&Shape, Cache),
    (load_s, sizes, runs): (f64, Sizes, usize),
) -> Result<GpuResult> {
    let Sizes { prompt, r#gen, depth } = sizes;
    let mut session = Session::new(llm.clone(), Some(depth + prompt.max(1) + r#gen + 1))?;
    let (mut prefill, mut decode, bar) = (Vec::new(), Vec::new(), bar("texts", runs));
    // the first one captures the graphs
    for run in 0..=runs {
        // each text is another one from its first token on, or the cache would know it
        let token = |i: usize| ((run + 1) * 104_729 + i * 7919).checked_rem(llm.config().vocab).unwrap_or(0) as u32;
        let text: Vec<u32> = (0..depth + prompt.max(1)).map(token).collect();
        let mut write = |text: &[u32], max_tokens: usize| {
            let options = Options { max_tokens, ..Options::default() };
            session.generate(text, &options, |_| ControlFlow::Continue(()))
        };
        if depth > 0 {
            write(&text[..depth], 1)?;
        }
        let written = write(&text, r#gen.max(1))?;
        if run > 0 {
            prefill.extend(Some(written.prefill_tokens_per_s).filter(|rate| prompt > 0 && *rate > 0.0));
            decode.extend(Some(written.decode_tokens_per_s).filter(|rate| *rate > 0.0));
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let known = |rates: Vec<f64>| Some(median(rates)).filter(|m| m.is_finite());
    let (bytes, decode) = (shape.weights.per_token(shape.config.tied), known(decode));
    let positions = (2 * depth + r#gen).clamp(1, shape.config.context) as u64; // read at half of it
    let wish = Wish { sequences: 1, positions, cache };
    let costs = fit::fit()?.costs;
    let place = |device: &Device| {
        let gpu = gpu::named_by_driver(&device.info().name, device.info().memory as u64)?;
        Some(Place { free: gpu.memory, gpu })
    };
    let places: Option<Vec<Place>> = devices.iter().map(place).collect();
    let way = llm.way();
    let predicted = places.and_then(|places| {
        let plan = plan::plan(&costs, &Request { places: &places, shape, wish, draft: None });
        if way == Some(Way::Tensor) { plan.tensor.map(|t| t.tokens_per_second) } else { Some(plan.tokens_per_second) }
    });
    let names: Vec<&str> = devices.iter().map(|d| d.info().name.as_str()).collect();
    Ok(GpuResult {
        prefill_tokens_per_s: known(prefill),
        decode_tokens_per_s: decode,
        bytes_per_token: bytes,
        decode_gb_s: decode.map(|rate| rate * bytes as f64 / 1e9),
        predicted_tokens_per_s: predicted,
        load_s,
        device: names.join(" + "),
        way,
        device_bytes: devices.iter().map(Device::used).sum(),
        prompt,
        r#gen,
        depth,
    })
}
