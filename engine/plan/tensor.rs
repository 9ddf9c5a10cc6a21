//! Tensor parallelism: every layer cut over equal GPUs, which sum twice a layer. Each GPU is planned as one with a smaller model; what the
//! sums cost is added. The decoder does not run so yet: [`dreamseed_models::decoder::shards`] has the cut and its reference.

use serde::Serialize;

use super::{
    Request, Speed,
    gpu::{Gpu, Ram},
    plan,
    predict::Costs,
    shape::Shape,
    split::Place,
};

/// Seconds of a sum of a few bytes over two GPUs that NVLink joins: 6 us for 128 bytes to 64 KiB on two H100, in CUDA graphs (NVIDIA/nccl, issue
/// 1259). Taken for all GPUs with HBM; those in PCIe slots have it with a bridge alone.
const NVLINK: f64 = 6e-6;
/// The same over PCIe without access to each other's memory: two RTX 4090 exchange a few bytes in 11.3 to 11.9 us (tinygrad/open-gpu-kernel-modules,
/// issue 17). Taken for all GPUs with GDDR.
const PCIE: f64 = 12e-6;
/// Bytes a second that such a sum carries: half of PCIe 4.0's 32 GB/s, for they go through the host's memory. An assumption.
const PCIE_RATE: f64 = 16e9;

/// What equal GPUs reach together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tensor {
    /// GPUs.
    pub parts: usize,
    /// Microseconds of one of the two sums a layer.
    pub sum_us: f64,
    /// Bytes that each GPU needs.
    pub need: u64,
    /// Tokens a second of each sequence.
    pub tokens_per_second: Speed,
}

/// Seconds of a sum of `bytes` bytes over `parts` GPUs: a ring of more than two takes `parts - 1` steps for two GPUs' one.
fn sum_seconds(gpu: &Gpu, parts: usize, bytes: f64) -> f64 {
    let steps = (parts - 1) as f64;
    match gpu.ram {
        Ram::Hbm => steps * NVLINK,
        Ram::Gddr => steps * PCIE + bytes / PCIE_RATE * 2.0 * steps / parts as f64,
    }
}

/// The part of a model that one of `parts` GPUs holds: layers cut, embeddings and head whole. `None`: it cannot be cut so.
fn part(shape: &Shape, parts: usize) -> Option<Shape> {
    let config = &shape.config;
    if config.experts.is_some() || !config.kv_heads.is_multiple_of(parts) || config.hidden < parts {
        return None;
    }
    let mut part = shape.clone();
    (part.config.heads, part.config.kv_heads) = (config.heads / parts, config.kv_heads / parts);
    part.config.hidden = config.hidden.div_ceil(parts);
    part.weights.layers.iter_mut().for_each(|bytes| *bytes = bytes.div_ceil(parts as u64));
    Some(part)
}

/// What the GPUs of a request reach where they are equal and each has room for its part.
pub(super) fn tensor(costs: &Costs, request: &Request) -> Option<Tensor> {
    let Request { places, shape, wish, .. } = *request;
    let (first, parts) = (places.first()?, places.len());
    if parts < 2 || places.iter().any(|p| p.gpu.id != first.gpu.id) {
        return None;
    }
    let part = part(shape, parts)?;
    let free = places.iter().map(|p| p.free).min()?;
    let one = [Place { free, gpu: first.gpu.clone() }];
    let one = plan(costs, &Request { places: &one, shape: &part, wish, draft: None });
    let need = one.devices.first().filter(|_| one.fits())?.need.total();
    let sum = sum_seconds(&first.gpu, parts, 4.0 * shape.config.dim as f64 * wish.sequences as f64);
    // what is summed is added to the residual stream by launches of their own
    let more = 2.0 * shape.config.layers as f64 * (sum + costs.node_us / 1e6);
    let tokens_per_second = one.tokens_per_second.map(|rate| (rate.recip() + more).recip());
    Some(Tensor { parts, sum_us: sum * 1e6, need, tokens_per_second })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cache;
    use crate::plan::{fit::fit, gpu, memory::Wish};

    fn on(gpus: &[&str], model: &str) -> (Speed, Option<Tensor>) {
        let place = |name: &&str| {
            let gpu = gpu::find(name).unwrap();
            Place { free: gpu.memory, gpu }
        };
        let (places, shape) = (gpus.iter().map(place).collect::<Vec<_>>(), Shape::published(model).unwrap());
        let wish = Wish { sequences: 1, positions: 8192, cache: Cache::F16 };
        let plan = plan(&fit().unwrap().costs, &Request { places: &places, shape: &shape, wish, draft: None });
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
