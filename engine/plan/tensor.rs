//! Tensor parallelism: every layer cut over equal GPUs, which sum twice a layer. Each GPU is planned as one with a smaller model; what the
//! sums cost is added, and that all gather the logits of all. The decoder does so (`dreamseed_models::decoder::cuda::Layout::Tensor`),
//! and has done it in an emulator alone.

use dreamseed_models::decoder::{Config, shards::vocab_rows};
use serde::Serialize;

use super::{
    Request, Speed,
    gpu::{Gpu, Ram},
    memory::{self, CONTEXT, TOGETHER},
    predict::Costs,
    shape::Shape,
    split::Place,
    step,
};

/// Seconds of a sum of a few bytes over two GPUs that NVLink joins: 6 us for 128 bytes to 64 KiB on two H100, in CUDA graphs (NVIDIA/nccl, issue
/// 1259). Taken for all GPUs with HBM; those in PCIe slots have it with a bridge alone.
const NVLINK: f64 = 6e-6;
/// The same over PCIe without access to each other's memory: two RTX 4090 exchange a few bytes in 11.3 to 11.9 us (tinygrad/open-gpu-kernel-modules,
/// issue 17). Taken for all GPUs with GDDR.
const PCIE: f64 = 12e-6;
/// Bytes a second that NVLink carries each way in such a ring: a third of what an A100's links do. An assumption.
const NVLINK_RATE: f64 = 100e9;
/// The same over PCIe: half of PCIe 4.0's 32 GB/s, for they go through the host's memory. An assumption.
const PCIE_RATE: f64 = 16e9;

/// What equal GPUs reach together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tensor {
    /// GPUs.
    pub parts: usize,
    /// Microseconds of one of the two sums a layer.
    pub sum_us: f64,
    /// Bytes that each GPU needs at most.
    pub need: u64,
    /// Tokens a second of each sequence.
    pub tokens_per_second: Speed,
}

/// Seconds in which `bytes` bytes go once around `parts` GPUs: a ring of more than two takes `parts - 1` steps for two GPUs' one. A sum
/// of that many goes around twice, in one call.
fn around(gpu: &Gpu, parts: usize, bytes: f64, times: f64) -> f64 {
    let steps = (parts - 1) as f64;
    let (each, rate) = match gpu.ram {
        Ram::Hbm => (NVLINK, NVLINK_RATE),
        Ram::Gddr => (PCIE, PCIE_RATE),
    };
    steps * each + bytes / rate * times * steps / parts as f64
}

/// The largest of the parts that `parts` GPUs hold, as the decoder cuts them where blocks of the weights are 256 wide. `None`: the model
/// cannot be cut so.
pub(super) fn part(config: &Config, parts: usize) -> Option<Config> {
    let unit = [256, 32, 1].into_iter().find(|unit| config.hidden.is_multiple_of(*unit))?;
    let (units, last) = (config.hidden / unit, vocab_rows(config.vocab, parts, parts.checked_sub(1)?));
    if config.experts.is_some() || !config.kv_heads.is_multiple_of(parts) || units < parts || last.is_empty() {
        return None;
    }
    let (heads, kv_heads, hidden) = (config.heads / parts, config.kv_heads / parts, units.div_ceil(parts) * unit);
    Some(Config { heads, kv_heads, hidden, ..config.clone() })
}

/// What the GPUs of a request reach where they are equal and each has room for its part.
pub(super) fn tensor(costs: &Costs, request: &Request) -> Option<Tensor> {
    let Request { places, shape, wish, .. } = *request;
    let (first, parts) = (places.first()?, places.len());
    if parts < 2 || places.iter().any(|p| p.gpu.id != first.gpu.id) || memory::check(&shape.config, wish).is_err() {
        return None;
    }
    let (config, own) = (&shape.config, part(&shape.config, parts)?);
    let weights = shape.weights.part(config, &own, (0, parts));
    let whole = memory::Part { over: parts as u64, ..memory::Part::whole(config) };
    let need = memory::need(&own, whole, weights.total(), first.gpu.multiprocessors, wish).total();
    let free = places.iter().map(|p| p.free).min()?.saturating_sub(CONTEXT + TOGETHER);
    if need > free {
        return None;
    }
    // a token reads the part's rows of the head, of tied embeddings too
    let tied = if config.tied { weights.embeddings / parts as u64 } else { 0 };
    let weights = super::shape::Weights { head: weights.head + tied, ..weights };
    let part = Shape { name: shape.name.clone(), config: Config { tied: false, ..own }, weights };
    let (layers, one) = (0..config.layers, [Place { free, gpu: first.gpu.clone() }]);
    let request = Request { places: &one, shape: &part, wish, draft: None };
    let pass = [true, false].map(|slow| step(costs, &request, std::slice::from_ref(&layers), wish.sequences, slow));
    let rows = 4.0 * wish.sequences as f64;
    let sum = around(&first.gpu, parts, rows * config.dim as f64, 2.0);
    let gather = around(&first.gpu, parts, rows * config.vocab as f64, 1.0);
    let together = 2.0 * config.layers as f64 * sum + gather;
    Some(Tensor { parts, sum_us: sum * 1e6, need, tokens_per_second: pass.map(|seconds| (seconds + together).recip()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cache;
    use crate::plan::{Way, fit::fit, gpu, memory::Wish, plan};

    fn on(gpus: &[&str], model: &str) -> (Speed, Option<Tensor>) {
        let place = |name: &&str| {
            let gpu = gpu::find(name).unwrap();
            Place { free: gpu.memory, gpu }
        };
        let (places, shape) = (gpus.iter().map(place).collect::<Vec<_>>(), Shape::published(model).unwrap());
        let wish = Wish { sequences: 1, positions: 8192, cache: Cache::F16 };
        let plan = plan(&fit().unwrap().costs, &Request { places: &places, shape: &shape, wish, draft: None });
        let [row, cut] = [Some(plan.tokens_per_second), plan.tensor.as_ref().map(|t| t.tokens_per_second)];
        let faster = cut.is_some_and(|cut| !plan.fits() || cut[1] > row.unwrap()[1]);
        let way = if faster { Way::Tensor } else { [Way::One, Way::Layers][usize::from(gpus.len() > 1)] };
        assert_eq!(plan.way, way, "{gpus:?} {model}");
        (plan.tokens_per_second, plan.tensor)
    }

    #[test]
    fn two_equal_gpus_are_faster_than_their_layers_in_a_row() {
        for pair in [["rtx5090", "rtx5090"], ["h100", "h100"]] {
            let (row, tensor) = on(&pair, "llama3.3-70b-q4_k_m");
            let tensor = tensor.unwrap();
            // half of the weights each, less what 160 sums cost
            for i in 0..2 {
                let faster = tensor.tokens_per_second[i] / row[i];
                assert!((1.2..2.0).contains(&faster), "{pair:?}: {row:?}, {tensor:?}");
            }
            assert_eq!(tensor.parts, 2);
        }
        // 8192 floats: 12 us, and 2 us for 32 KiB
        let sum = on(&["rtx5090", "rtx5090"], "llama3.3-70b-q4_k_m").1.unwrap().sum_us;
        assert!((sum - 14.05).abs() < 0.01, "{sum}");
    }

    #[test]
    fn what_cannot_be_cut_has_no_prediction() {
        assert_eq!(on(&["rtx5090"], "qwen3-8b-q4_k_m").1, None);
        assert_eq!(on(&["rtx5090", "rtx4090"], "qwen3-8b-q4_k_m").1, None, "GPUs that are not equal");
        assert_eq!(on(&["rtx5090"; 3], "qwen3-8b-q4_k_m").1, None, "8 heads of keys over 3 GPUs");
        assert_eq!(on(&["a2000"; 2], "llama3.3-70b-q4_k_m").1, None, "no room");
        assert!(on(&["a2000"; 4], "qwen3-32b-q4_k_m").1.is_some());
    }
}
