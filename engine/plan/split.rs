//! A model's layers over several GPUs: which device holds which, so that each has room and the slowest stage is as fast as can be.

use std::ops::Range;

use dreamseed_models::decoder::Config;

use super::{
    gpu::Gpu,
    memory::{Need, Part, Wish, gb, need},
    shape::Weights,
};

/// A device and the bytes that are free on it.
#[derive(Clone, Debug)]
pub struct Place {
    /// What it is.
    pub gpu: Gpu,
    /// Free bytes, its context allocated already.
    pub free: u64,
}

/// What one device holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its layers; none where it is better left out.
    pub layers: Range<usize>,
    /// What they need of it, buffers included.
    pub need: Need,
}

/// Layers as they cannot be laid out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no division of {layers} layers over {devices} GPUs fits: {} are needed at the least, and {} are free together; take a smaller \
     model, fewer bits, a shorter context or fewer sequences",
    gb(*.needed), gb(*.free)
)]
pub struct Refusal {
    /// Layers of the model.
    pub layers: usize,
    /// Devices.
    pub devices: usize,
    /// Bytes of weights, keys and values, and the buffers of one device.
    pub needed: u64,
    /// Bytes.
    pub free: u64,
}

/// Bytes of weights on device `d` of `devices` whatever its layers: the first holds the embeddings, the last the head (of tied
/// embeddings a copy of them).
fn fixed(config: &Config, weights: &Weights, (d, devices): (usize, usize)) -> u64 {
    let first = if d == 0 { weights.embeddings } else { 0 };
    let copy = if config.tied && d > 0 { weights.embeddings } else { 0 };
    first + if d + 1 == devices { weights.head + copy } else { 0 }
}

/// Divides the layers, in order and each device's together. Of the divisions that fit, the one whose slowest stage reads its weights
/// soonest at its memory's bandwidth; of equals, the one that fills the first devices.
///
/// # Errors
/// [`Refusal`] when none fits.
pub fn split(places: &[Place], config: &Config, weights: &Weights, wish: Wish) -> Result<Vec<Stage>, Refusal> {
    let (layers, devices) = (config.layers, places.len());
    // what a device needs for no layer, and the cache of one
    let bare = |(d, p): (usize, &Place)| {
        let part = Part { layers: 0, ends: d + 1 == devices, over: 1 };
        need(config, part, fixed(config, weights, (d, devices)), p.gpu.multiprocessors, wish)
    };
    let bare: Vec<Need> = places.iter().enumerate().map(bare).collect();
    let kv = need(config, Part { layers: 1, ends: false, over: 1 }, 0, 1, wish).kv;
    let stage = |d: usize, count: usize, own: u64| match bare[d] {
        Need { weights: 0, .. } if count == 0 => Need::default(), // a device left out needs nothing
        of => Need { weights: of.weights + own, kv: kv.saturating_mul(count as u64), ..of },
    };
    // best[d][end]: seconds of the slowest of devices 0..d that hold layers 0..end, and where the last of them begins
    let mut best = vec![vec![None::<(f64, usize)>; layers + 1]; devices + 1];
    best[0][0] = Some((0.0, 0));
    for d in 0..devices {
        for end in 0..=layers {
            let mut own = 0;
            for start in (0..=end).rev() {
                own += if start < end { weights.layers[start] } else { 0 };
                let need = stage(d, end - start, own);
                if need.total() > places[d].free {
                    break; // with more layers it fits the less
                }
                let Some((before, _)) = best[d][start] else { continue };
                let seconds = before.max(need.weights as f64 / places[d].gpu.bandwidth);
                if best[d + 1][end].is_none_or(|(least, _)| seconds < least) {
                    best[d + 1][end] = Some((seconds, start));
                }
            }
        }
    }
    let refused = || {
        let multiprocessors = places.first().map_or(1, |p| p.gpu.multiprocessors);
        let needed = need(config, Part::whole(config), weights.total(), multiprocessors, wish).total();
        Refusal { layers, devices, needed, free: places.iter().fold(0u64, |sum, p| sum.saturating_add(p.free)) }
    };
    if places.is_empty() {
        return Err(refused());
    }
    let mut end = layers;
    let mut stages = Vec::with_capacity(devices);
    for d in (0..devices).rev() {
        let Some((_, start)) = best[d + 1][end] else {
            return Err(refused());
        };
        let own = weights.layers[start..end].iter().sum();
        stages.push(Stage { layers: start..end, need: stage(d, end - start, own) });
        end = start;
    }
    stages.reverse();
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{gpu, shape::Shape};

    const WISH: Wish = Wish { sequences: 1, positions: 4096, cache: crate::config::Cache::F16 };

    fn places(names: &[(&str, u64)]) -> Vec<Place> {
        names.iter().map(|&(name, gb)| Place { gpu: gpu::find(name).unwrap(), free: gb * 1_000_000_000 }).collect()
    }

    fn check(model: &str, names: &[(&str, u64)]) -> Result<Vec<usize>, Refusal> {
        let (shape, places) = (Shape::published(model).unwrap(), places(names));
        let stages = split(&places, &shape.config, &shape.weights, WISH)?;
        let mut next = 0;
        for (stage, place) in stages.iter().zip(&places) {
            assert_eq!(stage.layers.start, next, "layers in order, none left out");
            assert!(stage.need.total() <= place.free);
            next = stage.layers.end;
        }
        assert_eq!((next, stages.len()), (shape.config.layers, places.len()));
        Ok(stages.iter().map(|s| s.layers.len()).collect())
    }

    #[test]
    fn layers_are_divided_by_bandwidth_and_room() {
        // equals share alike: the head, which is larger than a layer, lies on the last
        let halves = check("llama3.3-70b-q4_k_m", &[("rtx5090", 31), ("rtx5090", 31)]).unwrap();
        assert!(halves[0] + halves[1] == 80 && (39..=43).contains(&halves[0]), "{halves:?}");
        // twice the bandwidth, about twice the layers
        let uneven = check("qwen3-8b-q4_k_m", &[("rtx5090", 31), ("rtx3090", 24)]).unwrap();
        assert!(uneven[0] > uneven[1], "{uneven:?}");
        // the fast one is full: the slow one takes the rest
        let full = check("llama3.3-70b-q4_k_m", &[("rtx5090", 10), ("a100-80gb", 80)]).unwrap();
        assert!(full[0] < 20 && full[1] > 60, "{full:?}");
        assert_eq!(check("qwen3-8b-q4_k_m", &[("rtx4090", 20)]).unwrap(), [36]);
    }

    #[test]
    fn odd_divisions() {
        // a device without room for a layer is passed over; the last holds the head
        let small = check("qwen3-8b-q4_k_m", &[("rtx3090", 20), ("rtx3070", 0), ("rtx3090", 20)]).unwrap();
        assert_eq!(small[1], 0, "{small:?}");
        // more devices than layers
        let many = vec![("rtx3070", 8); 40];
        assert_eq!(check("qwen3-0.6b-q8_0", &many).unwrap().iter().sum::<usize>(), 28);
        let refused = check("llama3.3-70b-q4_k_m", &[("a2000", 11), ("a2000", 11)]).unwrap_err();
        assert!(refused.to_string().contains("80 layers over 2 GPUs"), "{refused}");
        // no device at all
        assert!(check("qwen3-0.6b-q8_0", &[]).is_err());
    }
}
