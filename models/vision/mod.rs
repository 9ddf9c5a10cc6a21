//! Vision encoders on the project's kernels: SigLIP and SigLIP 2 (pictures and texts in one space), DINOv2 (pictures alone), and
//! ViTPose (17 body points by a transformer).

mod backbone;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod dino;
pub mod encoder;
pub mod load;
pub mod preprocess;
pub mod resample;
pub mod shots;
pub mod siglip;
pub mod vit;
pub mod vitpose;

use std::path::Path;

use dreamseed_kernels::{Activation, Pool};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Processor;
use crate::image::Image;
use crate::weights::{Error, Result, TEXT, read_whole};
use encoder::State;
use load::Tensors;
use preprocess::Patches;

pub use backbone::Backbone;
pub use load::Precision;
pub use siglip::SigLip;

/// Mean and deviation of the colours of ImageNet.
const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// A model that turns pictures into vectors.
pub enum Vision {
    /// Pictures and texts.
    SigLip(Box<SigLip>),
    /// Pictures alone.
    Dino(Box<dino::Dino>),
}

/// Buffers of a series of pictures: made by the first, kept for those of its size.
#[derive(Default)]
pub struct Session {
    state: State,
    grid: [usize; 2],
    places: Vec<f32>, // (grid, width)
}

impl Session {
    /// Patches of the picture that was seen last.
    pub fn patches(&self) -> usize {
        self.grid[0] * self.grid[1]
    }
}

#[derive(Deserialize)]
struct Kind {
    model_type: String,
}

impl Vision {
    /// From a folder as transformers writes it: `config.json` says which model it is.
    ///
    /// # Errors
    /// Missing or damaged files, a model that this version does not run, settings that no model has (by field), tensors of
    /// another shape (by name).
    pub fn open(folder: &Path, pool: &Pool, precision: Precision) -> Result<Self> {
        Self::open_at(&Processor::Cpu, folder, pool, precision)
    }

    /// As [`Vision::open`], to run where it is told.
    ///
    /// # Errors
    /// As there; [`Error::Unsupported`] for heads that no kernel has, an error of the device where there is no room.
    pub fn open_at(target: &Processor, folder: &Path, pool: &Pool, precision: Precision) -> Result<Self> {
        let path = folder.join("config.json");
        match read_json::<Kind>(&path)?.model_type.as_str() {
            "siglip" | "siglip2" => SigLip::open_at(target, folder, pool, precision).map(|m| Self::SigLip(Box::new(m))),
            "dinov2" | "dinov2_with_registers" => {
                dino::Dino::open_at(target, folder, pool, precision).map(|m| Self::Dino(Box::new(m)))
            }
            other => {
                let known = "siglip, siglip2, dinov2 and dinov2_with_registers";
                Err(unsupported(&path, format!("model_type is {other:?}: {known} are allowed")))
            }
        }
    }

    /// The model with words, where it is one.
    pub fn siglip(&self) -> Option<&SigLip> {
        match self {
            Self::SigLip(model) => Some(model),
            Self::Dino(_) => None,
        }
    }

    /// The transformer over patches.
    pub fn vit(&self) -> &Backbone {
        match self {
            Self::SigLip(model) => model.vit(),
            Self::Dino(model) => model.vit(),
        }
    }

    /// The embedding of a picture, of unit length.
    ///
    /// # Errors
    /// Those of a GPU, as of all that runs the model.
    pub fn embed(&self, pool: &Pool, image: &Image, session: &mut Session) -> Result<Vec<f32>> {
        let preprocess = match self {
            Self::SigLip(model) => model.preprocess(),
            Self::Dino(model) => model.preprocess(),
        };
        Ok(siglip::unit(self.forward(pool, &preprocess.patches(image, self.vit().config().patch), session)?))
    }

    /// The embedding of a picture in patches, as the model gives it: not of unit length.
    ///
    /// # Errors
    /// As [`Vision::embed`].
    pub fn forward(&self, pool: &Pool, patches: &Patches, session: &mut Session) -> Result<Vec<f32>> {
        let vit = self.vit();
        if session.grid != patches.grid
            || session.places.len() != patches.grid[0] * patches.grid[1] * vit.config().encoder.width
        {
            (session.grid, session.places) = (patches.grid, vit.places(patches.grid));
        }
        match self {
            Self::SigLip(model) => model.pool(pool, patches, &session.places, &mut session.state),
            Self::Dino(model) => Ok(model.pool(pool, patches, &session.places, &mut session.state)?.to_vec()),
        }
    }
}

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
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;
    use crate::weights::safetensors;

    /// Repeatable values in -1..1, as tests/golden/make_vision.py makes them.
    pub(crate) fn noise(n: usize, seed: &str) -> Vec<f32> {
        let mut state = seed.bytes().fold(0x9E37_79B9u32, |s, b| (s ^ u32::from(b)).wrapping_mul(0x0100_0193));
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// The 8-bit picture that the processors were given.
    pub(crate) fn picture(height: usize, width: usize) -> Vec<u8> {
        noise(height * width * 3, "picture").iter().map(|v| ((f64::from(*v) + 1.0) * 127.99) as u8).collect()
    }

    #[derive(Deserialize)]
    struct Rules {
        config: serde_json::Value,
        tensors: BTreeMap<String, (Vec<usize>, f32, f32)>,
    }

    /// A small random model and what transformers makes with it.
    pub(crate) struct Case {
        name: String,
        rules: Option<Rules>,
        outputs: safetensors::File,
    }

    impl Case {
        pub(crate) fn open(name: &str) -> Self {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vision/golden");
            let mut all: BTreeMap<String, Rules> = read_json(&folder.join("cases.json")).unwrap();
            let outputs = safetensors::File::open(&folder.join("outputs.safetensors")).unwrap();
            Self { name: name.into(), rules: all.remove(name), outputs }
        }

        /// As transformers saves it.
        pub(crate) fn folder(&self) -> tempfile::TempDir {
            let (folder, rules) = (tempfile::tempdir().unwrap(), self.rules.as_ref().unwrap());
            let bytes = rules.tensors.iter().map(|(name, (shape, scale, offset))| {
                let values = noise(shape.iter().product(), name);
                (name, shape, values.iter().flat_map(|v| (offset + scale * v).to_le_bytes()).collect::<Vec<u8>>())
            });
            let bytes: Vec<_> = bytes.collect();
            let views = bytes.iter().map(|(name, shape, bytes)| {
                let dtype = ::safetensors::Dtype::F32;
                (name.as_str(), ::safetensors::tensor::TensorView::new(dtype, shape.to_vec(), bytes).unwrap())
            });
            std::fs::write(folder.path().join("model.safetensors"), ::safetensors::serialize(views, None).unwrap()).unwrap();
            std::fs::write(folder.path().join("config.json"), rules.config.to_string()).unwrap();
            folder
        }

        pub(crate) fn output(&self, name: &str) -> Vec<f32> {
            self.outputs.tensor(&format!("{}.{name}", self.name)).unwrap().values.into_f32()
        }
    }

    #[test]
    fn any_model_embeds_any_picture_and_others_are_refused() {
        let pool = Pool::new(2);
        for name in ["siglip2", "siglip", "dinov2", "dinov2-registers"] {
            let model = Vision::open(Case::open(name).folder().path(), &pool, Precision::Stored).unwrap();
            let mut session = Session::default();
            for (w, h) in [(1, 1), (300, 2), (64, 48), (5, 700), (64, 48)] {
                let image = vec![90; w * h * 3];
                let x = model.embed(&pool, &Image::new(w as u32, h as u32, &image).unwrap(), &mut session).unwrap();
                assert!((x.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-4, "{name} {w} x {h}");
            }
        }
        let folder = Case::open("vitpose").folder();
        let refused = Vision::open(folder.path(), &pool, Precision::Stored).err().unwrap().to_string();
        assert!(refused.contains("model_type is \"vitpose\""), "{refused}");
    }

    #[test]
    fn a_tensor_of_another_shape_is_refused_by_name() {
        let (pool, mut case) = (Pool::new(1), Case::open("dinov2"));
        let rules = case.rules.as_mut().unwrap();
        rules.config["hidden_size"] = 64.into();
        let refused = Vision::open(case.folder().path(), &pool, Precision::Stored).err().unwrap().to_string();
        assert!(refused.contains("embeddings.") && refused.contains("32") && refused.contains("64"), "{refused}");
        let rules = case.rules.as_mut().unwrap();
        rules.config["hidden_size"] = 32.into();
        rules.tensors.remove("layernorm.bias").unwrap();
        let refused = Vision::open(case.folder().path(), &pool, Precision::Stored).err().unwrap().to_string();
        assert!(refused.contains("layernorm.bias") && refused.contains("not in the file"), "{refused}");
    }

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
