//! How long a decoded token takes: bytes read at a share of the memory's peak, a fixed time for each node of the graph, a fixed time
//! for each pass. The constants are fitted in [`super::fit`].

use std::ops::Range;

use dreamseed_models::decoder::{Config, Family};
use serde::Serialize;

use super::{
    gpu::{Gpu, Ram},
    memory::{FEW, HEADS, ROWS, head_bytes},
};
use crate::config::Cache;

/// What a model of the speed is made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// Share of the peak bandwidth that products reach with GDDR.
    pub gddr_share: f64,
    /// The same with HBM.
    pub hbm_share: f64,
    /// Microseconds of a node of a CUDA graph: its start, and the end of a kernel in which not all multiprocessors work.
    pub node_us: f64,
    /// Microseconds more where a kernel is launched by itself, not in a graph.
    pub launch_us: f64,
    /// Microseconds of a pass for all else: sampling, copies, the wait for the host.
    pub host_us: f64,
    /// Part of the time to read the weights that each row after the first adds. Fitted up to eight rows; taken for more too, which have
    /// tensor cores: too long a time rather than too short a one.
    pub row: f64,
}

/// One pass through a model, or through some of its layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pass {
    /// Bytes of weights that are read.
    pub weights: u64,
    /// Bytes of keys and values that are read.
    pub kv: u64,
    /// Nodes of its graph.
    pub nodes: u64,
    /// Rows: sequences, or guesses that are verified.
    pub rows: u64,
}

/// Launches of so many rows and their sizes, as the decoder has them: powers of two, of which at most a quarter is padding beyond 32.
fn launches_of(rows: u64) -> Vec<(u64, u64)> {
    let mut launches = Vec::from_iter((rows >= ROWS).then_some((rows / ROWS, ROWS)));
    let mut left = if rows == 0 { 1 } else { rows % ROWS };
    while left > 0 {
        let above = left.next_power_of_two();
        let size = if above <= 32 || above - left <= above / 4 { above } else { above / 2 };
        launches.push((1, size));
        left = left.saturating_sub(size);
    }
    launches
}

/// Nodes of a pass in the decoder's plan, where every row's next token is wanted: embedding, layers, head and the choice of tokens. Of
/// a row alone norms are part of the products that follow them; two more a layer and one before the head are launched for several, and
/// one more a layer where products are of matrices. Norms after a block are always launched.
pub fn nodes(config: &Config, layers: u64, rows: u64) -> u64 {
    let after = if config.family == Family::Gemma3 { 2 } else { 0 };
    let cap = u64::from(config.logit_softcap.is_some());
    let of = |(count, size): (u64, u64)| {
        let (layer, head) = match size {
            1 => (6, 2),
            ..=FEW => (8, 3),
            _ => (9, 3),
        };
        let heads = size.div_ceil(HEADS);
        let gathered = u64::from(heads > 1);
        count.saturating_mul((layer + after) * layers + 1 + heads * (head + cap + gathered))
    };
    launches_of(rows).into_iter().map(of).fold(0, u64::saturating_add)
}

/// Bytes of keys and values that attention reads for a new token at a position; local layers read their window.
pub fn kv_read(config: &Config, layers: Range<usize>, position: u64, cache: Cache) -> u64 {
    let of = |layer| config.local(layer).map_or(position, |l| position.min(l.window as u64));
    layers.map(of).sum::<u64>().saturating_mul(2 * config.kv_heads as u64 * head_bytes(config.head_dim as u64, cache))
}

impl Costs {
    fn share(&self, ram: Ram) -> f64 {
        match ram {
            Ram::Gddr => self.gddr_share,
            Ram::Hbm => self.hbm_share,
        }
    }

    /// Seconds of a pass on a GPU, without the host's part.
    pub fn device_seconds(&self, gpu: &Gpu, pass: &Pass) -> f64 {
        let read = |(count, size): (u64, u64)| count as f64 * (1.0 + self.row * (size - 1) as f64);
        let weights = pass.weights as f64 * launches_of(pass.rows).into_iter().map(read).sum::<f64>();
        (weights + pass.kv as f64) / (gpu.bandwidth * self.share(gpu.ram)) + pass.nodes as f64 * self.node_us / 1e6
    }

    /// Seconds of a pass.
    pub fn seconds(&self, gpu: &Gpu, pass: &Pass) -> f64 {
        self.device_seconds(gpu, pass) + self.host_us / 1e6
    }
}

/// Tokens that a verification yields on average, where each of `guesses` is accepted with probability `acceptance` independently:
/// `(1 - a^(g + 1)) / (1 - a)` (Leviathan et al. 2023, equation 1).
pub fn tokens_per_verification(acceptance: f64, guesses: u64) -> f64 {
    (0..=guesses.min(1 << 10)).map(|i| acceptance.powi(i as i32)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{gpu, shape::Shape};

    #[test]
    fn speculation_yields_what_its_paper_says() {
        assert_eq!(tokens_per_verification(0.0, 4), 1.0);
        assert_eq!(tokens_per_verification(1.0, 4), 5.0);
        assert!((tokens_per_verification(0.7, 4) - (1.0 - 0.7f64.powi(5)) / 0.3).abs() < 1e-12);
    }

    #[test]
    fn nodes_are_those_of_the_plan() {
        let llama = Shape::published("llama3-8b-q4_k_m").unwrap().config;
        assert_eq!([1, 2, 5, 8].map(|n| nodes(&llama, 32, n)), [195, 260, 260, 260]);
        // products of matrices take a launch more a layer; of 33 rows one is by itself, of 64 the heads are two
        assert_eq!([9, 32, 33, 64].map(|n| nodes(&llama, 32, n)), [292, 292, 292 + 195, 289 + 8]);
        let gemma = Shape::published("gemma3-4b-q4_k_m").unwrap().config;
        assert_eq!(nodes(&gemma, 34, 1), 8 * 34 + 3);
    }

    #[test]
    fn local_layers_read_their_window() {
        let config = Shape::published("gemma3-4b-q4_k_m").unwrap().config;
        let row = 4 * config.kv_dim() as u64;
        assert_eq!(kv_read(&config, 0..6, 500, Cache::F16), 6 * 500 * row);
        assert_eq!(kv_read(&config, 0..6, 5000, Cache::F16), (5 * 1024 + 5000) * row);
        assert_eq!(kv_read(&config, 0..1, 64, Cache::Q8_0), 64 * row * 17 / 32); // 34 bytes for 32 elements
    }

    #[test]
    fn a_pass_is_no_faster_than_the_memory() {
        let gpu = gpu::find("rtx5090").unwrap();
        let costs = Costs { gddr_share: 1.0, hbm_share: 1.0, node_us: 0.0, launch_us: 0.0, host_us: 0.0, row: 0.1 };
        let pass = Pass { weights: 1_792_000_000, kv: 0, nodes: 10, rows: 1 };
        assert!((costs.seconds(&gpu, &pass) - 1e-3).abs() < 1e-12);
        assert_eq!(launches_of(1000), [(1, 512), (1, 512)]);
        assert_eq!(launches_of(1536 + 300), [(3, 512), (1, 256), (1, 32), (1, 16)]);
        let many = Pass { rows: 3, ..pass }; // launched as four
        assert!((costs.seconds(&gpu, &many) - 1.3e-3).abs() < 1e-12);
    }
}
