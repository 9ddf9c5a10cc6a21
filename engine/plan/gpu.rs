//! NVIDIA GPUs by what decoding needs of them: memory, bandwidth, multiprocessors.

use serde::Serialize;

use crate::{Error, Result};

/// Which kind of memory a GPU has. A share of the peak that one kind gives is not what the other gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ram {
    /// GDDR6, GDDR6X, GDDR7.
    Gddr,
    /// HBM2e, HBM3.
    Hbm,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gpu {
    /// As `--gpu` takes it.
    pub id: &'static str,
    /// For people.
    pub name: &'static str,
    /// Bytes that the driver tells of.
    pub memory: u64,
    /// Peak, in bytes a second.
    pub bandwidth: f64,
    /// Streaming multiprocessors.
    pub multiprocessors: u64,
    /// Kind of its memory.
    pub ram: Ram,
    /// Whether it is one that the product is for; the others are there because figures were published of them.
    pub product: bool,
}

/// (id, name, MiB, GB/s, multiprocessors, memory, product). Bandwidth and multiprocessors: NVIDIA's data sheet or architecture paper
/// of each; MiB: what nvidia-smi shows, the size on the box where that is not at hand.
#[rustfmt::skip]
const ALL: [(&str, &str, u64, f64, u64, Ram, bool); 15] = [
    ("rtx5090", "RTX 5090", 32_607, 1792.0, 170, Ram::Gddr, true),
    ("a100-40gb", "A100 40 GB", 40_960, 1555.0, 108, Ram::Hbm, true),
    ("a100-80gb", "A100 80 GB PCIe", 81_920, 1935.0, 108, Ram::Hbm, true),
    ("h100", "H100 SXM", 81_559, 3350.0, 132, Ram::Hbm, true),
    ("a2000", "RTX A2000 12 GB", 12_282, 288.0, 26, Ram::Gddr, true),
    ("a2000-6gb", "RTX A2000 6 GB", 6_138, 288.0, 26, Ram::Gddr, false),
    ("h100-pcie", "H100 PCIe", 81_559, 2039.0, 114, Ram::Hbm, false),
    ("rtx4090", "RTX 4090", 24_564, 1008.0, 128, Ram::Gddr, false),
    ("rtx4080", "RTX 4080", 16_376, 717.0, 76, Ram::Gddr, false),
    ("rtx6000ada", "RTX 6000 Ada", 49_140, 960.0, 142, Ram::Gddr, false),
    ("rtxa6000", "RTX A6000", 49_140, 768.0, 84, Ram::Gddr, false),
    ("rtx3090ti", "RTX 3090 Ti", 24_564, 1008.0, 84, Ram::Gddr, false),
    ("rtx3090", "RTX 3090", 24_576, 936.0, 82, Ram::Gddr, false),
    ("rtx3080", "RTX 3080 10 GB", 10_240, 760.0, 68, Ram::Gddr, false),
    ("rtx3070", "RTX 3070", 8_192, 448.0, 46, Ram::Gddr, false),
];

/// All that are known.
pub fn all() -> impl Iterator<Item = Gpu> {
    ALL.into_iter().map(|(id, name, mib, gb, multiprocessors, ram, product)| Gpu {
        id,
        name,
        memory: mib << 20,
        bandwidth: gb * 1e9,
        multiprocessors,
        ram,
        product,
    })
}

/// The GPU of this name: `rtx5090`, `RTX 5090` and `RTX-5090` are the same.
///
/// # Errors
/// [`Error::Usage`] with the names there are.
pub fn find(name: &str) -> Result<Gpu> {
    let plain = |s: &str| s.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let wanted = plain(name);
    all().find(|g| plain(g.id) == wanted || plain(g.name) == wanted).ok_or_else(|| {
        let ids: Vec<_> = ALL.iter().map(|g| g.0).collect();
        Error::Usage(format!("no GPU is known as {name:?}; there are {}", ids.join(", ")))
    })
}

/// The GPU that the driver gives this name and memory, as "NVIDIA GeForce RTX 5090" and "NVIDIA A100-SXM4-80GB".
pub fn named_by_driver(name: &str, memory: u64) -> Option<Gpu> {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let known = all().filter_map(|gpu| {
        let (model, kind) = gpu.id.split_once('-').unwrap_or((gpu.id, ""));
        let near = gpu.memory.abs_diff(memory) < gpu.memory / 8;
        let of_kind = if kind.is_empty() { 1 } else { 2 * u8::from(name.contains(kind)) };
        (name.contains(model) && near).then_some(((model.len(), of_kind), gpu))
    });
    known.max_by_key(|(likeness, _)| *likeness).map(|(_, gpu)| gpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_names_are_known() {
        let gib = |n: u64| n << 30;
        for (name, memory, id) in [
            ("NVIDIA GeForce RTX 5090", gib(32), "rtx5090"),
            ("NVIDIA A100-SXM4-80GB", gib(80), "a100-80gb"),
            ("NVIDIA A100-PCIE-40GB", gib(40), "a100-40gb"),
            ("NVIDIA H100 80GB HBM3", gib(80), "h100"),
            ("NVIDIA H100 PCIe", gib(80), "h100-pcie"),
            ("NVIDIA RTX A2000 12GB", gib(12), "a2000"),
            ("NVIDIA RTX A2000", gib(6), "a2000-6gb"),
            ("NVIDIA GeForce RTX 3090 Ti", gib(24), "rtx3090ti"),
            ("NVIDIA GeForce RTX 3090", gib(24), "rtx3090"),
        ] {
            assert_eq!(named_by_driver(name, memory).map(|g| g.id), Some(id), "{name}");
        }
        assert_eq!(named_by_driver("NVIDIA H200", gib(140)), None);
        assert_eq!(named_by_driver("NVIDIA GeForce RTX 5090 Laptop GPU", gib(24)), None);
    }

    #[test]
    fn gpus_are_found_by_any_writing_of_their_names() {
        for name in ["rtx5090", "RTX 5090", "rtx-5090"] {
            assert_eq!(find(name).unwrap().id, "rtx5090");
        }
        assert_eq!(find("A100 40GB").unwrap().memory, 40 << 30);
        let error = find("rtx9090").unwrap_err().to_string();
        assert!(error.contains("\"rtx9090\"") && error.contains("a100-80gb"), "{error}");
    }
}
