//! What a GPU can hold and how fast it will decode, by arithmetic: nothing is loaded, no GPU is needed.
//!
//! A [`shape::Shape`] (a GGUF file's header, a config.json, or a published model) and a [`gpu::Gpu`] give the memory that is needed
//! ([`memory`]), the division over several GPUs ([`split`]), and tokens a second ([`predict`]), whose constants are fitted to
//! published figures of llama.cpp ([`fit`]). **None of it was measured with this engine**: a prediction says what its kernels reach if
//! they read memory as well as llama.cpp's and a node of a graph costs the same.

pub mod fit;
pub mod gpu;
pub mod memory;
pub mod predict;
pub mod shape;
pub mod split;
pub mod tensor;

#[cfg(test)]
mod tests;

use std::ops::Range;

use dreamseed_models::decoder::Config;
use serde::Serialize;

use memory::{CONTEXT, Need, ROWS, Wish};
use predict::{Costs, Pass, kv_read, nodes, tokens_per_verification};
use shape::Shape;
use split::Place;

use crate::router::Tier;

/// Tokens a second that the product wants of its LLM.
pub const WANTED: [f64; 2] = [120.0, 180.0];
/// Nodes of a layer in llama.cpp, for the lower end of a prediction.
const NODES_OF_LLAMA_CPP: u64 = 30;

/// Guessing by a draft model.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The model that guesses. Its weights and cache lie on the first GPU.
    pub shape: Shape,
    /// Probability that a guess is accepted, 0 to 1.
    pub acceptance: f64,
    /// Guesses a verification.
    pub guesses: u64,
}

/// What is planned: one model on one GPU, or over several.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// GPUs, their free memory without a context.
    pub places: &'a [Place],
    /// The model.
    pub shape: &'a Shape,
    /// Sequences and positions.
    pub wish: Wish,
    /// The draft model, where there is one.
    pub draft: Option<&'a Draft>,
}

/// Tokens a second: with as many nodes a layer as llama.cpp has, and with this engine's.
pub type Speed = [f64; 2];

/// What one GPU holds.
#[derive(Clone, Debug, Serialize)]
pub struct Device {
    /// Its name.
    pub gpu: &'static str,
    /// First layer, and the one after its last.
    pub layers: [usize; 2],
    /// What they need.
    #[serde(flatten)]
    pub need: Need,
    /// Bytes of the draft model beside them.
    pub draft: u64,
    /// Bytes free, the context taken off.
    pub free: u64,
}

/// A plan for one model on one GPU or over several.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Names of the GPUs.
    pub gpu: String,
    /// Name of the model.
    pub model: String,
    /// Its size class.
    pub tier: Tier,
    /// Sequences and positions.
    pub wish: Wish,
    /// Weights, counted.
    pub parameters: u64,
    /// Bytes of all weights.
    pub weights: u64,
    /// Bytes of keys and values that the wish needs.
    pub kv: u64,
    /// Bytes of weights that a token reads.
    pub bytes_per_token: u64,
    /// Nodes of the graph of a pass.
    pub launches: u64,
    /// What lies where; empty where it does not fit.
    pub devices: Vec<Device>,
    /// Why it does not fit.
    pub problem: Option<String>,
    /// Most positions of as many sequences on one GPU.
    pub most_positions: Option<u64>,
    /// Most sequences of as many positions on one GPU.
    pub most_sequences: Option<u64>,
    /// Tokens a second of each sequence at half its context. Also where it does not fit: what the memory's speed would allow.
    pub tokens_per_second: Speed,
    /// Of all sequences together.
    pub total_per_second: Speed,
    /// With the draft model's guesses; of one sequence.
    pub speculative: Option<Speed>,
    /// Where the GPUs are equal: with every layer cut over them.
    pub tensor: Option<tensor::Tensor>,
    /// What `llm.parallel = "auto"` takes on these GPUs, where NCCL is there.
    pub way: Way,
}

/// How a model lies on its GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// All of it on one.
    One,
    /// Some of its layers on each.
    Layers,
    /// A part of every layer on each.
    Tensor,
}

impl Plan {
    /// Whether it fits.
    pub fn fits(&self) -> bool {
        self.problem.is_none()
    }

    /// Whether a sequence reaches what is wanted, its guesses included: at the lower and at the upper end of the prediction.
    pub fn reaches(&self) -> [bool; 2] {
        let with = self.speculative.unwrap_or_default();
        [0, 1].map(|i| self.fits() && self.tokens_per_second[i].max(with[i]) >= WANTED[0])
    }
}

/// Plans one model.
pub fn plan(costs: &Costs, request: &Request) -> Plan {
    let Request { places, shape, wish, draft } = *request;
    let (config, weights) = (&shape.config, &shape.weights);
    let names: Vec<&str> = places.iter().map(|p| p.gpu.name).collect();
    let beside = draft.map_or(0, |d| draft_bytes(d, places, wish));
    let left: Vec<Place> = places
        .iter()
        .enumerate()
        .map(|(i, p)| Place {
            gpu: p.gpu.clone(),
            free: p.free.saturating_sub(CONTEXT).saturating_sub(if i == 0 { beside } else { 0 }),
        })
        .collect();
    let mut plan = Plan {
        gpu: names.join(" + "),
        model: shape.name.clone(),
        tier: shape.tier(),
        wish,
        parameters: weights.parameters,
        weights: weights.total(),
        kv: memory::need(config, memory::Part::whole(config), 0, 1, wish).kv,
        bytes_per_token: weights.per_token(config.tied),
        launches: nodes(config, config.layers as u64, wish.sequences),
        devices: Vec::new(),
        problem: None,
        most_positions: None,
        most_sequences: None,
        tokens_per_second: [0.0; 2],
        total_per_second: [0.0; 2],
        speculative: None,
        tensor: tensor::tensor(costs, request),
        way: if places.len() > 1 { Way::Layers } else { Way::One },
    };
    let stages = lay_out(&mut plan, &left, shape, wish);
    let seconds = |rows: u64| [true, false].map(|slow| step(costs, request, &stages, rows, slow));
    plan.tokens_per_second = seconds(wish.sequences).map(f64::recip);
    plan.total_per_second = plan.tokens_per_second.map(|t| t * wish.sequences as f64);
    if let (Some(d), Some(first)) = (draft, places.first()) {
        let guess = Request { places: std::slice::from_ref(first), shape: &d.shape, wish, draft: None };
        let whole = 0..d.shape.config.layers;
        let verified = tokens_per_verification(d.acceptance, d.guesses);
        let of = |slow| {
            let pass = step(costs, request, &stages, d.guesses + 1, slow);
            verified / (pass + d.guesses as f64 * step(costs, &guess, std::slice::from_ref(&whole), 1, slow))
        };
        plan.speculative = (wish.sequences == 1).then(|| [of(true), of(false)]);
    }
    let faster = |t: &tensor::Tensor| !plan.fits() || t.tokens_per_second[1] > plan.tokens_per_second[1];
    if plan.tensor.as_ref().is_some_and(faster) {
        plan.way = Way::Tensor;
    }
    let layers = stages.iter().map(|s| [s.start, s.end]);
    for (i, (device, layers)) in plan.devices.iter_mut().zip(layers).enumerate() {
        (device.layers, device.draft) = (layers, if i == 0 { beside } else { 0 });
    }
    plan
}

/// Bytes of a draft model: weights, cache and buffers.
fn draft_bytes(draft: &Draft, places: &[Place], wish: Wish) -> u64 {
    let multiprocessors = places.first().map_or(1, |p| p.gpu.multiprocessors);
    let (config, weights) = (&draft.shape.config, draft.shape.weights.total());
    memory::need(config, memory::Part::whole(config), weights, multiprocessors, wish).total()
}

/// Which layers lie where, and what that needs; where they do not fit, as if all lay on the first.
fn lay_out(plan: &mut Plan, places: &[Place], shape: &Shape, wish: Wish) -> Vec<Range<usize>> {
    let (config, weights) = (&shape.config, &shape.weights);
    let device = |p: &Place, need| Device { gpu: p.gpu.name, layers: [0, 0], need, draft: 0, free: p.free };
    let outcome = match places {
        [one] => memory::budget(one.free, config, weights.total(), one.gpu.multiprocessors, wish)
            .map(|fit| {
                (plan.most_positions, plan.most_sequences) = (Some(fit.most_positions), Some(fit.most_sequences));
                (vec![device(one, fit.need)], whole(config))
            })
            .map_err(|e| e.to_string()),
        several => memory::check(config, wish)
            .map_err(|e| e.to_string())
            .and_then(|()| split::split(several, config, weights, wish).map_err(|e| e.to_string()))
            .map(|stages| {
                let devices = several.iter().zip(&stages).map(|(p, s)| device(p, s.need)).collect();
                (devices, stages.into_iter().map(|s| s.layers).collect())
            }),
    };
    match outcome {
        Ok((devices, layers)) => {
            plan.devices = devices;
            layers
        }
        Err(problem) => {
            plan.problem = Some(problem);
            whole(config)
        }
    }
}

/// All layers on one device.
fn whole(config: &Config) -> Vec<Range<usize>> {
    std::iter::once(0..config.layers).collect()
}

/// Seconds of a pass of `rows` rows, stage after stage. `slow`: with llama.cpp's nodes.
fn step(costs: &Costs, request: &Request, stages: &[Range<usize>], rows: u64, slow: bool) -> f64 {
    let Request { places, shape, wish, .. } = request;
    let (config, last) = (&shape.config, stages.len().saturating_sub(1));
    // rows of a verification are of one sequence and read its cache once
    let sequences = rows.min(wish.sequences);
    let stage = |(i, layers): (usize, &Range<usize>)| {
        let head = if i == last { shape.weights.head + if config.tied { shape.weights.embeddings } else { 0 } } else { 0 };
        let count = layers.len() as u64;
        let pass = Pass {
            weights: shape.weights.layers[layers.clone()].iter().sum::<u64>() + head,
            kv: kv_read(config, layers.clone(), wish.positions / 2, wish.cache).saturating_mul(sequences),
            nodes: if slow { count * NODES_OF_LLAMA_CPP * rows.div_ceil(ROWS) } else { nodes(config, count, rows) },
            rows,
        };
        places.get(i).map_or(0.0, |p| costs.device_seconds(&p.gpu, &pass))
    };
    stages.iter().enumerate().map(stage).sum::<f64>() + costs.host_us / 1e6
}
