//! DINOv2, with and without registers: what a picture shows as one vector, without words (Oquab et al. 2023; Darcet et al. 2024).

use std::path::Path;

use dreamseed_kernels::{Activation, Pool};
use serde::Deserialize;

use super::backbone::{Backbone, Source};
use super::encoder::{self, State};
use super::load::{Part, Precision, Tensors};
use super::preprocess::{Patches, Preprocess, Size};
use super::resample::Filter;
use super::vit::{Config, First, Layout, Names, Positions};
use super::{activation, either, read_json, unsupported};
use crate::Processor;
use crate::weights::{Result, safetensors};

/// config.json; what a file leaves out has transformers' values.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct Settings {
    model_type: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    mlp_ratio: f64,
    hidden_act: String,
    layer_norm_eps: f32,
    image_size: usize,
    patch_size: usize,
    num_channels: usize,
    use_swiglu_ffn: bool,
    num_register_tokens: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model_type: "dinov2".into(),
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4.0,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-6,
            image_size: 224,
            patch_size: 14,
            num_channels: 3,
            use_swiglu_ffn: false,
            num_register_tokens: 4,
        }
    }
}

impl Settings {
    fn config(&self) -> std::result::Result<Config, String> {
        let with_registers = self.model_type == "dinov2_with_registers";
        if !(0.0..=64.0).contains(&self.mlp_ratio) {
            return Err(format!("mlp_ratio is {}: 0 to 64 is allowed", self.mlp_ratio));
        }
        let ffn = (self.hidden_size as f64 * self.mlp_ratio) as usize;
        // SwiGLU has two thirds of it, in eights
        let ffn = if self.use_swiglu_ffn { ((ffn as f64 * 2.0 / 3.0) as usize).div_ceil(8) * 8 } else { ffn };
        let side = self.image_size / self.patch_size.max(1);
        let config = Config {
            patch: self.patch_size,
            channels: self.num_channels,
            encoder: encoder::Config {
                width: self.hidden_size,
                layers: self.num_hidden_layers,
                heads: self.num_attention_heads,
                ffn,
                eps: self.layer_norm_eps,
                activation: if self.use_swiglu_ffn { Activation::Silu } else { activation(&self.hidden_act)? },
                gated: self.use_swiglu_ffn,
            },
            cls: true,
            registers: if with_registers { self.num_register_tokens } else { 0 },
            positions: Positions::Learned {
                grid: [side; 2],
                first: First::Class,
                filter: if with_registers { Filter::Bicubic } else { Filter::BicubicPlain },
            },
            layout: Layout::Convolution,
        };
        super::only_colour(config.channels)?;
        config.check().map(|()| config)
    }
}

/// A DINOv2 model.
pub struct Dino {
    vit: Backbone,
    preprocess: Preprocess,
}

impl Dino {
    /// From a folder with `config.json`, `model.safetensors` and, if there is one, `preprocessor_config.json`.
    ///
    /// # Errors
    /// Missing or damaged files, settings that no model has (by field), tensors of another shape (by name).
    pub fn open(folder: &Path, pool: &Pool, precision: Precision) -> Result<Self> {
        Self::open_at(&Processor::Cpu, folder, pool, precision)
    }

    /// As [`Dino::open`], to run where it is told.
    ///
    /// # Errors
    /// As there; those of a GPU.
    pub fn open_at(target: &Processor, folder: &Path, pool: &Pool, precision: Precision) -> Result<Self> {
        let path = folder.join("config.json");
        let config = read_json::<Settings>(&path)?.config().map_err(|p| unsupported(&path, p))?;
        let file = safetensors::File::open(&folder.join("model.safetensors"))?;
        let vit = load(target, Source { pool, tensors: &file, precision }, config)?;
        let preprocess = Preprocess {
            size: Size::Shortest(256),
            filter: Filter::Bicubic,
            crop: Some([224, 224]),
            mean: super::IMAGENET.0,
            std: super::IMAGENET.1,
        };
        Ok(Self { vit, preprocess: preprocess.or_file(&folder.join("preprocessor_config.json"))? })
    }

    /// The transformer; its class token is what describes the picture.
    pub fn vit(&self) -> &Backbone {
        &self.vit
    }

    /// What becomes of a picture first.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// The class token of a picture in patches, (width), not of unit length. `places`: of [`Backbone::places`].
    ///
    /// # Errors
    /// Those of a GPU.
    pub fn pool<'s>(&self, pool: &Pool, patches: &Patches, places: &[f32], state: &'s mut State) -> Result<&'s [f32]> {
        self.vit.forward(pool, &patches.values, places, state, |_| 1)?;
        Ok(&state.x[..self.vit.config().encoder.width])
    }
}

/// Names of the hub's files, and those of later versions of transformers.
fn load(target: &Processor, source: Source, config: Config) -> Result<Backbone> {
    let names = Names {
        patch: "embeddings.patch_embeddings.projection",
        positions: "embeddings.position_embeddings",
        cls: "embeddings.cls_token",
        registers: "embeddings.register_tokens",
        norm: "layernorm",
    };
    Backbone::load(target, source, config, names, &|i, part| name(source.tensors, &format!("encoder.layer.{i}."), part))
}

/// What the files of DINOv2 and ViTPose call the parts of a layer.
pub(super) fn name(tensors: &dyn Tensors, layer: &str, part: Part) -> String {
    let names = match part {
        Part::Norm1 => ["norm1", "layernorm_before"],
        Part::Query => ["attention.attention.query", "attention.q_proj"],
        Part::Key => ["attention.attention.key", "attention.k_proj"],
        Part::Value => ["attention.attention.value", "attention.v_proj"],
        Part::Out => ["attention.output.dense", "attention.o_proj"],
        Part::Scale1 => return format!("{layer}layer_scale1.lambda1"),
        Part::Norm2 => ["norm2", "layernorm_after"],
        Part::Gate => ["mlp.weights_in", "mlp.gate_proj"],
        Part::Up => match either(tensors, layer, ["mlp.fc1", "mlp.weights_in"]) {
            Some(name) => return name,
            None => ["mlp.up_proj", "mlp.fc1"],
        },
        Part::Down => match either(tensors, layer, ["mlp.fc2", "mlp.weights_out"]) {
            Some(name) => return name,
            None => ["mlp.down_proj", "mlp.fc2"],
        },
        Part::Scale2 => return format!("{layer}layer_scale2.lambda1"),
    };
    either(tensors, layer, names).unwrap_or_else(|| format!("{layer}{}", names[0]))
}

#[cfg(test)]
mod tests {
    use super::super::preprocess::cut;
    use super::super::tests::{Case, Golden, golden, noise, relative_error};
    use super::*;

    #[test]
    fn equals_transformers() {
        let Some(folder) = golden("dinov2") else { return };
        let (pool, golden) = (Pool::new(2), Golden::open(&folder));
        for (precision, bound) in [(Precision::Stored, 1e-4), (Precision::Int8, 0.03)] {
            let model = Dino::open(&folder, &pool, precision).unwrap();
            let patches = cut(&golden.floats("in.pixel_values"), [28, 28], 14);
            let mut state = State::default();
            let pooled = model.pool(&pool, &patches, &model.vit.places(patches.grid), &mut state).unwrap().to_vec();
            let errors =
                [(&state.x, "out.last"), (&pooled, "out.pooled")].map(|(x, name)| relative_error(x, &golden.floats(name)));
            println!("DINOv2 {precision:?}: {errors:?}");
            assert!(errors.iter().all(|e| *e < bound), "{precision:?}: {errors:?}");
        }
    }

    #[test]
    fn registers_gates_and_other_sizes_equal_transformers() {
        let pool = Pool::new(2);
        for name in ["dinov2", "dinov2-swiglu", "dinov2-registers"] {
            let case = Case::open(name);
            let model = Dino::open(case.folder().path(), &pool, Precision::Stored).unwrap();
            for (h, w) in [(28, 28), (21, 35), (49, 42)] {
                let patches = cut(&noise(3 * h * w, "pixels"), [h, w], 7);
                let mut state = State::default();
                model.pool(&pool, &patches, &model.vit.places(patches.grid), &mut state).unwrap();
                let error = relative_error(&state.x, &case.output(&format!("{h}x{w}")));
                println!("{name} {h} x {w}: {error}");
                assert!(error < 1e-4, "{name} {h} x {w}: {error}");
            }
        }
    }

    #[test]
    fn a_lying_config_is_refused_with_its_field() {
        let of = |text: &str| serde_json::from_str::<Settings>(text).unwrap().config().map(|_| ()).unwrap_err();
        for (text, want) in [
            (r#"{"num_attention_heads": 7}"#, "hidden_size 768 is no multiple of num_attention_heads 7"),
            (r#"{"patch_size": 0}"#, "patch_size is 0"),
            (r#"{"image_size": 99999999}"#, "image_size / patch_size is 7142857"),
            (r#"{"mlp_ratio": 1e300}"#, "mlp_ratio is"),
            (r#"{"hidden_act": "tanh"}"#, "hidden_act is \"tanh\""),
            (r#"{"num_channels": 4}"#, "num_channels is 4"),
        ] {
            assert!(of(text).contains(want), "{text}: {}", of(text));
        }
    }
}
