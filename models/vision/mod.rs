//! Vision encoders on the project's kernels: SigLIP and SigLIP 2 (pictures and texts in one space), DINOv2 (pictures alone), and
//! ViTPose (17 body points by a transformer).

pub mod dino;
pub mod encoder;
pub mod load;
pub mod preprocess;
pub mod resample;
pub mod siglip;
pub mod vit;

use std::path::Path;

use dreamseed_kernels::Activation;
use serde::de::DeserializeOwned;

use crate::weights::{Error, Result, TEXT, read_whole};
use load::Tensors;

/// Mean and deviation of the colours of ImageNet.
const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = read_whole(path, TEXT).map_err(|source| Error::Io { path: path.into(), source })?;
    serde_json::from_slice(&bytes).map_err(|e| Error::Field {
        format: "JSON",
        field: path.display().to_string(),
        offset: e.column() as u64,
        problem: e.to_string(),
    })
}

fn unsupported(path: &Path, problem: String) -> Error {
    Error::Unsupported(format!("{}: {problem}", path.display()))
}

/// transformers' name of an activation.
fn activation(name: &str) -> std::result::Result<Activation, String> {
    Ok(match name {
        "gelu" => Activation::Gelu,
        "gelu_pytorch_tanh" | "gelu_new" => Activation::GeluTanh,
        "silu" | "swish" => Activation::Silu,
        "relu" => Activation::Relu,
        other => return Err(format!("hidden_act is {other:?}: gelu, gelu_pytorch_tanh, silu or relu is allowed")),
    })
}

fn only_colour(channels: usize) -> std::result::Result<(), String> {
    if channels == 3 { Ok(()) } else { Err(format!("num_channels is {channels}: 3 is allowed")) }
}

/// The first of two names whose tensor is in the file, under `prefix`.
fn either(tensors: &dyn Tensors, prefix: &str, names: [&str; 2]) -> Option<String> {
    let there = |name: &&&str| tensors.shape(&format!("{prefix}{name}.weight")).is_some();
    names.iter().find(there).map(|name| format!("{prefix}{name}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::weights::safetensors;

    /// A folder of golden outputs; `None`, with a message, where it is absent.
    pub(crate) fn golden(name: &str) -> Option<PathBuf> {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference");
        let root = std::env::var_os("DREAMSEED_REFERENCE").map_or(beside, PathBuf::from);
        let folder = root.join("golden").join(name);
        let there = folder.exists();
        if !there {
            eprintln!("skipped: {} is not there", folder.display());
        }
        there.then_some(folder)
    }

    /// Inputs and outputs of the reference.
    pub(crate) struct Golden(safetensors::File);

    impl Golden {
        pub(crate) fn open(folder: &Path) -> Self {
            Self(safetensors::File::open(&folder.join("golden.safetensors")).unwrap())
        }

        pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
            self.0.tensor(name).unwrap().values.into_f32()
        }

        pub(crate) fn integers(&self, name: &str) -> Vec<u32> {
            self.0.bytes(name).unwrap().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
        }
    }

    /// Length of the difference over the length of what is wanted.
    pub(crate) fn relative_error(seen: &[f32], wanted: &[f32]) -> f32 {
        assert_eq!(seen.len(), wanted.len());
        let difference: f32 = seen.iter().zip(wanted).map(|(a, b)| (a - b) * (a - b)).sum();
        (difference / wanted.iter().map(|x| x * x).sum::<f32>()).sqrt()
    }
}
