//! Vision encoders: SigLIP / SigLIP2 (fixed size), pictures and texts into one embedding space (Zhai et al. 2023).
//!
//! Not hot in a lesson, so this is plain candle: the same code runs on the CPU and, with the feature `cuda`, on the GPU.

use std::path::Path;

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::siglip;

use crate::weights::{Error, Result, read_whole};

/// Largest side of the input, layers, width and vocabulary that are believed: well above every published model.
const LIMIT: usize = 1 << 20;

/// A SigLIP model with both towers.
pub struct SigLip {
    model: siglip::Model,
    config: siglip::Config,
    device: Device,
}

fn failed(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::Tensor { name: path.display().to_string(), problem: what.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    read_whole(path, 16 << 30).map_err(|source| Error::Io { path: path.into(), source })
}

impl SigLip {
    /// From a folder with `config.json` and `model.safetensors` as Hugging Face transformers writes them.
    pub fn open(folder: &Path, device: &Device) -> Result<Self> {
        let path = folder.join("config.json");
        let config: siglip::Config = serde_json::from_slice(&read(&path)?).map_err(|e| failed(&path, e))?;
        check(&config).map_err(|problem| failed(&path, problem))?;
        let path = folder.join("model.safetensors");
        let weights = VarBuilder::from_buffered_safetensors(read(&path)?, DType::F32, device).map_err(|e| failed(&path, e))?;
        let model = siglip::Model::new(&config, weights).map_err(|e| failed(&path, e))?;
        Ok(Self { model, config, device: device.clone() })
    }

    /// Width and height that [`SigLip::embed_pictures`] takes.
    pub fn side(&self) -> usize {
        self.config.vision_config.image_size
    }

    /// Embeddings of unit length, one a picture. `pixels`: (n, 3, side, side), (value / 255 - 0.5) / 0.5.
    pub fn embed_pictures(&self, pixels: &[f32]) -> Result<Vec<Vec<f32>>> {
        let side = self.side();
        let shape = (pixels.len() / (3 * side * side).max(1), 3, side, side);
        self.run(|| {
            let pixels = Tensor::from_slice(pixels, shape, &self.device)?;
            unit_rows(&self.model.get_image_features(&pixels)?)
        })
    }

    /// Embeddings of unit length, one a text. Each row of `ids` has the model's full text length, padded.
    pub fn embed_texts(&self, ids: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let text = &self.config.text_config;
        if let Some(bad) = ids.iter().flatten().find(|&&id| id as usize >= text.vocab_size) {
            return Err(Error::Unsupported(format!("token {bad}: the vocabulary has {}", text.vocab_size)));
        }
        if let Some(row) = ids.iter().find(|r| r.len() != text.max_position_embeddings) {
            let problem = format!("a text of {} tokens: {} are needed, padded", row.len(), text.max_position_embeddings);
            return Err(Error::Unsupported(problem));
        }
        let flat: Vec<u32> = ids.concat();
        self.run(|| {
            let ids = Tensor::from_slice(&flat, (ids.len(), text.max_position_embeddings), &self.device)?;
            unit_rows(&self.model.get_text_features(&ids)?)
        })
    }

    fn run(&self, f: impl FnOnce() -> candle_core::Result<Vec<Vec<f32>>>) -> Result<Vec<Vec<f32>>> {
        f().map_err(|e| Error::Unsupported(format!("SigLIP: {e}")))
    }
}

fn unit_rows(x: &Tensor) -> candle_core::Result<Vec<Vec<f32>>> {
    let rows = x.dim(0)?;
    let x = x.broadcast_div(&x.sqr()?.sum_keepdim(1)?.sqrt()?.clamp(1e-12, f64::MAX)?)?;
    (0..rows).map(|i| x.i(i)?.to_vec1()).collect()
}

/// What candle would divide by or multiply without asking.
fn check(config: &siglip::Config) -> std::result::Result<(), String> {
    let (t, v) = (&config.text_config, &config.vision_config);
    for (name, value) in [
        ("text_config.hidden_size", t.hidden_size),
        ("text_config.num_attention_heads", t.num_attention_heads),
        ("text_config.intermediate_size", t.intermediate_size),
        ("text_config.max_position_embeddings", t.max_position_embeddings),
        ("text_config.vocab_size", t.vocab_size),
        ("vision_config.hidden_size", v.hidden_size),
        ("vision_config.num_attention_heads", v.num_attention_heads),
        ("vision_config.intermediate_size", v.intermediate_size),
        ("vision_config.num_channels", v.num_channels),
        ("vision_config.image_size", v.image_size),
        ("vision_config.patch_size", v.patch_size),
    ] {
        if !(1..=LIMIT).contains(&value) {
            return Err(format!("{name} is {value}: 1 to {LIMIT} is allowed"));
        }
    }
    let heads = [(t.hidden_size, t.num_attention_heads), (v.hidden_size, v.num_attention_heads)];
    match heads.iter().find(|(width, heads)| width % heads != 0) {
        Some((width, heads)) => Err(format!("hidden_size {width} is no multiple of num_attention_heads {heads}")),
        None if v.patch_size > v.image_size => Err(format!("patch_size {} is above image_size {}", v.patch_size, v.image_size)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> Option<std::path::PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let base = std::env::var("DREAMSEED_REFERENCE").map_or_else(|_| root.join("../../shared/reference"), Into::into);
        let folder = base.join("golden/siglip");
        let there = folder.exists();
        if !there {
            eprintln!("skipped: {} is not there", folder.display());
        }
        there.then_some(folder)
    }

    #[test]
    fn both_towers_equal_the_reference() {
        let Some(folder) = golden() else { return };
        let model = SigLip::open(&folder, &Device::Cpu).unwrap();
        let golden = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
        let pixels: Vec<f32> = golden["in.pixel_values"].flatten_all().unwrap().to_vec1().unwrap();
        let ids: Vec<Vec<i64>> = golden["in.input_ids"].to_vec2().unwrap();
        let ids: Vec<Vec<u32>> = ids.iter().map(|r| r.iter().map(|&v| v as u32).collect()).collect();
        for (ours, name) in [
            (model.embed_pictures(&pixels).unwrap(), "out.image_embeds"),
            (model.embed_texts(&ids).unwrap(), "out.text_embeds"),
        ] {
            let theirs: Vec<Vec<f32>> = golden[name].to_vec2().unwrap();
            let worst = ours.concat().iter().zip(theirs.concat()).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
            assert!(ours.len() == theirs.len() && worst < 1e-5, "{name}: {worst}");
        }
    }

    #[test]
    fn a_lying_config_is_refused_with_its_field() {
        let mut config: siglip::Config = serde_json::from_str(r#"{"text_config": {}, "vision_config": {}}"#).unwrap();
        assert_eq!(check(&config), Ok(()));
        config.vision_config.num_attention_heads = 0;
        assert!(check(&config).unwrap_err().contains("vision_config.num_attention_heads is 0"));
        config.vision_config.num_attention_heads = 7;
        assert!(check(&config).unwrap_err().contains("768 is no multiple"));
    }
}
