//! How long a decoded token takes: bytes read at a share of the memory's peak, a fixed time for each node of the graph, a fixed time
//! for each pass. The constants are fitted in [`super::fit`].

use dreamseed_models::decoder::{Config, Family};
use serde::Serialize;

use super::{
    gpu::{Gpu, Ram},
    memory::ROWS,
};

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
    /// Part of the time to read the weights that each row after the first adds.
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

/// Rows as they are launched: padded to 1, 2, 4 or 8, and by eights beyond.
fn launches_of(rows: u64) -> (u64, u64) {
    (rows.div_ceil(ROWS).max(1), rows.min(ROWS).next_power_of_two())
}

/// Nodes of a pass in the decoder's plan: embedding, layers, head and the choice of tokens. Of a row alone norms are part of the products that follow them;
/// two more a layer and one before the head are launched for several. Norms after a block are always launched.
pub fn nodes(config: &Config, layers: u64, rows: u64) -> u64 {
    let (launches, rows) = launches_of(rows);
    let (norms, last) = if rows > 1 { (2, 1) } else { (0, 0) };
    let after = if config.family == Family::Gemma3 { 2 } else { 0 };
    let cap = u64::from(config.logit_softcap.is_some());
    launches * ((6 + norms + after) * layers + 3 + last + cap)
}

/// Bytes of keys and values that attention reads for a new token at a position; local layers read their window.
pub fn kv_read(config: &Config, layers: std::ops::Range<usize>, position: u64) -> u64 {
    let of = |layer| config.local(layer).map_or(position, |l| position.min(l.window as u64));
    layers.map(of).sum::<u64>().saturating_mul(4 * config.kv_dim() as u64)
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
        let (launches, rows) = launches_of(pass.rows);
        let weights = pass.weights as f64 * launches as f64 * (1.0 + self.row * (rows - 1) as f64);
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
        assert_eq!([1, 2, 5, 8, 9].map(|n| nodes(&llama, 32, n)), [195, 260, 260, 260, 2 * 260]);
        let gemma = Shape::published("gemma3-4b-q4_k_m").unwrap().config;
        assert_eq!(nodes(&gemma, 34, 1), 8 * 34 + 3);
    }

    #[test]
    fn local_layers_read_their_window() {
        let config = Shape::published("gemma3-4b-q4_k_m").unwrap().config;
        let row = 4 * config.kv_dim() as u64;
        assert_eq!(kv_read(&config, 0..6, 500), 6 * 500 * row);
        assert_eq!(kv_read(&config, 0..6, 5000), (5 * 1024 + 5000) * row);
    }

    #[test]
    fn a_pass_is_no_faster_than_the_memory() {
        let gpu = gpu::find("rtx5090").unwrap();
        let costs = Costs { gddr_share: 1.0, hbm_share: 1.0, node_us: 0.0, launch_us: 0.0, host_us: 0.0, row: 0.1 };
        let pass = Pass { weights: 1_792_000_000, kv: 0, nodes: 10, rows: 1 };
        assert!((costs.seconds(&gpu, &pass) - 1e-3).abs() < 1e-12);
        let many = Pass { rows: 3, ..pass }; // launched as four
        assert!((costs.seconds(&gpu, &many) - 1.3e-3).abs() < 1e-12);
    }
}
