//! SigLIP and SigLIP 2: pictures and texts in one space, and how probable it is that a text fits a picture (Zhai et al. 2023,
//! Tschannen et al. 2025). Fixed sizes and NaFlex (any shape, up to a number of patches).

mod words;

use std::path::Path;

#[cfg(feature = "cuda")]
use dreamseed_kernels::cuda::Device;
use dreamseed_kernels::{Activation, Dense, Pool, attention_dense, layer_norm};
use serde::Deserialize;

use super::backbone::{Backbone, Source};
use super::encoder::{self, Encoder, Linear, Mlp, Norm, State};
use super::load::{Loader, Part, Precision};
use super::preprocess::{Patches, Preprocess, Size};
use super::resample::Filter;
use super::vit::{Config, First, Layout, Names, Positions};
use super::{activation, read_json, unsupported};
use crate::Processor;
use crate::decoder::Place;
use crate::weights::{Error, Result, safetensors};
use words::Words;

/// Largest vocabulary and longest text that are believed.
const MAX_VOCABULARY: usize = 1 << 22;
const MAX_TEXT: usize = 4096;

/// config.json.
#[derive(Clone, Debug, Deserialize)]
struct Settings {
    model_type: String,
    #[serde(default)]
    text_config: TextSettings,
    #[serde(default)]
    vision_config: VisionSettings,
}

/// What a file leaves out has transformers' values; so with the pictures'.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct TextSettings {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    projection_size: Option<usize>,
}

impl Default for TextSettings {
    fn default() -> Self {
        Self {
            vocab_size: 32000,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            max_position_embeddings: 64,
            hidden_act: "gelu_pytorch_tanh".into(),
            layer_norm_eps: 1e-6,
            projection_size: None,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct VisionSettings {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: usize,
    num_patches: usize,
    patch_size: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    vision_use_head: bool,
}

impl Default for VisionSettings {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            num_patches: 256,
            patch_size: 16,
            hidden_act: "gelu_pytorch_tanh".into(),
            layer_norm_eps: 1e-6,
            vision_use_head: true,
        }
    }
}

impl Settings {
    /// SigLIP 2 whose pictures keep their shape.
    fn flexible(&self) -> bool {
        self.model_type == "siglip2"
    }

    fn vision(&self) -> std::result::Result<Config, String> {
        let v = &self.vision_config;
        super::only_colour(v.num_channels)?;
        if !v.vision_use_head {
            return Err("vision_use_head is false: a model with its pooling head is needed".into());
        }
        let side = match self.flexible() {
            true => v.num_patches.isqrt(),
            false => v.image_size / v.patch_size.max(1),
        };
        if self.flexible() && side * side != v.num_patches {
            return Err(format!("num_patches is {}: a square number is allowed", v.num_patches));
        }
        let filter = if self.flexible() { Filter::Bilinear } else { Filter::BicubicPlain };
        let config = Config {
            patch: v.patch_size,
            channels: v.num_channels,
            encoder: encoder::Config {
                width: v.hidden_size,
                layers: v.num_hidden_layers,
                heads: v.num_attention_heads,
                ffn: v.intermediate_size,
                eps: v.layer_norm_eps,
                activation: activation(&v.hidden_act)?,
                gated: false,
            },
            cls: false,
            registers: 0,
            positions: Positions::Learned { grid: [side; 2], first: First::None, filter },
            layout: if self.flexible() { Layout::Pixels } else { Layout::Convolution },
        };
        config.check().map_err(|p| format!("vision_config.{p}")).map(|()| config)
    }

    fn text(&self) -> std::result::Result<encoder::Config, String> {
        let t = &self.text_config;
        for (name, value, most) in
            [("vocab_size", t.vocab_size, MAX_VOCABULARY), ("max_position_embeddings", t.max_position_embeddings, MAX_TEXT)]
        {
            if !(1..=most).contains(&value) {
                return Err(format!("text_config.{name} is {value}: 1 to {most} is allowed"));
            }
        }
        let out = t.projection_size.unwrap_or(t.hidden_size);
        if out != self.vision_config.hidden_size {
            let pictures = self.vision_config.hidden_size;
            return Err(format!(
                "text_config.projection_size is {out}, vision_config.hidden_size {pictures}: they must be equal"
            ));
        }
        let config = encoder::Config {
            width: t.hidden_size,
            layers: t.num_hidden_layers,
            heads: t.num_attention_heads,
            ffn: t.intermediate_size,
            eps: t.layer_norm_eps,
            activation: activation(&t.hidden_act)?,
            gated: false,
        };
        config.check().map_err(|p| format!("text_config.{p}")).map(|()| config)
    }
}

/// Attention of one learned query over all patches.
pub(super) struct Pooling<P: Place = Pool> {
    pub(super) query: P::Vector, // (width): the probe, projected
    pub(super) k: Linear<P>,     // (width, width)
    pub(super) v: Linear<P>,     // (width, width)
    pub(super) out: Linear<P>,   // (width, width)
    pub(super) norm: Norm<P>,
    pub(super) mlp: Mlp<P>,
}

/// The tower of texts.
pub(super) struct Text<P: Place = Pool> {
    pub(super) tokens: P::Matrix, // (vocab_size, width)
    pub(super) places: P::Vector, // (length, width)
    pub(super) encoder: Encoder<P>,
    pub(super) head: Linear<P>, // (projection, width)
}

/// What is over the patches, and the tower of texts, where the model runs.
enum Towers {
    Cpu(Box<(Pooling, Text)>),
    #[cfg(feature = "cuda")]
    Gpu(Box<(Pooling<Device>, Text<Device>)>, Device),
}

impl Towers {
    fn load(
        target: &Processor,
        source: Source,
        vision: &encoder::Config,
        (text, settings): (encoder::Config, &TextSettings),
    ) -> Result<Self> {
        match target {
            Processor::Cpu => towers(&source.to(source.pool), vision, (text, settings)).map(Box::new).map(Self::Cpu),
            #[cfg(feature = "cuda")]
            Processor::Gpu(device) => {
                crate::layers::cuda::check_heads(text.width, text.heads).map_err(Error::Unsupported)?;
                let towers = towers(&source.to(device), vision, (text, settings))?;
                Ok(Self::Gpu(Box::new(towers), device.clone()))
            }
        }
    }
}

fn towers<P: Place>(
    loader: &Loader<P>,
    vision: &encoder::Config,
    (text, settings): (encoder::Config, &TextSettings),
) -> Result<(Pooling<P>, Text<P>)> {
    Ok((Pooling::load(loader, vision.width, vision.ffn)?, Text::load(loader, text, settings, vision.width)?))
}

/// A SigLIP model with both towers.
pub struct SigLip {
    vit: Backbone,
    towers: Towers,
    length: usize, // tokens of a text
    vocabulary: usize,
    words: Option<Words>,
    preprocess: Preprocess,
    scale: f32, // exp(logit_scale)
    bias: f32,
}

impl SigLip {
    /// From a folder with `config.json`, `model.safetensors` and, for words, `tokenizer.json`, as transformers writes them.
    ///
    /// # Errors
    /// Missing or damaged files, settings that no model has (by field), tensors of another shape (by name).
    pub fn open(folder: &Path, pool: &Pool, precision: Precision) -> Result<Self> {
        Self::open_at(&Processor::Cpu, folder, pool, precision)
    }

    /// As [`SigLip::open`], to run where it is told.
    ///
    /// # Errors
    /// As there; those of a GPU.
    pub fn open_at(target: &Processor, folder: &Path, pool: &Pool, precision: Precision) -> Result<Self> {
        let path = folder.join("config.json");
        let settings: Settings = read_json(&path)?;
        let vision = settings.vision().map_err(|p| unsupported(&path, p))?;
        let text = settings.text().map_err(|p| unsupported(&path, p))?;
        let file = safetensors::File::open(&folder.join("model.safetensors"))?;
        let source = Source { pool, tensors: &file, precision };
        let size = match settings.flexible() {
            true => Size::Patches(256),
            false => Size::Exact([settings.vision_config.image_size; 2]),
        };
        let filter = if settings.flexible() { Filter::Bilinear } else { Filter::Bicubic };
        let preprocess = Preprocess { size, filter, crop: None, mean: [0.5; 3], std: [0.5; 3] };
        let names = Names {
            patch: "vision_model.embeddings.patch_embedding",
            positions: "vision_model.embeddings.position_embedding.weight",
            norm: "vision_model.post_layernorm",
            ..Names::default()
        };
        let loader = source.to(pool);
        let scalar = |name: &str| loader.floats(name, &[1]).or_else(|_| loader.floats(name, &[])).map(|v| v[0]);
        Ok(Self {
            towers: Towers::load(target, source, &vision.encoder, (text, &settings.text_config))?,
            vit: Backbone::load(target, source, vision, names, &|i, part| name("vision_model", i, part))?,
            length: settings.text_config.max_position_embeddings,
            vocabulary: settings.text_config.vocab_size,
            words: Words::open(folder, settings.text_config.vocab_size)?,
            preprocess: preprocess.or_file(&folder.join("preprocessor_config.json"))?,
            scale: scalar("logit_scale")?.exp(),
            bias: scalar("logit_bias")?,
        })
    }

    /// The transformer over patches.
    pub fn vit(&self) -> &Backbone {
        &self.vit
    }

    /// What becomes of a picture first.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// The embedding of a picture in patches, (width), not of unit length. `places`: of [`Backbone::places`].
    ///
    /// # Errors
    /// Those of a GPU.
    pub fn pool(&self, pool: &Pool, patches: &Patches, places: &[f32], state: &mut State) -> Result<Vec<f32>> {
        let _tokens = self.vit.forward(pool, &patches.values, places, state, |_| 0)?;
        let c = &self.vit.config().encoder;
        match &self.towers {
            Towers::Cpu(towers) => Ok(towers.0.run(pool, c, &state.x)),
            #[cfg(feature = "cuda")]
            Towers::Gpu(towers, _) => match &mut state.gpu {
                Some(passes) => Ok(towers.0.attend(c, _tokens, passes)?),
                None => Err(Error::Unsupported("a pass that did not run on the GPU".into())),
            },
        }
    }

    /// Embeddings of unit length, one a text, in lower case and padded as in training.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without a `tokenizer.json`.
    pub fn embed_texts(&self, pool: &Pool, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let words = self.words()?;
        let rows = texts.iter().map(|t| words.ids(t, self.length)).collect::<Result<Vec<_>>>()?;
        self.embed_ids(pool, &rows)
    }

    /// How many tokens of a text count, padding aside.
    ///
    /// # Errors
    /// As [`SigLip::embed_texts`].
    pub fn tokens(&self, text: &str) -> Result<usize> {
        self.words()?.count(text, self.length)
    }

    fn words(&self) -> Result<&Words> {
        self.words.as_ref().ok_or_else(|| {
            Error::Unsupported("this model has no tokenizer.json: texts cannot be read; put it beside model.safetensors".into())
        })
    }

    /// Embeddings of unit length, one a row of tokens; each has the model's full text length, padded.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for rows of another length and tokens beyond the vocabulary.
    pub fn embed_ids(&self, pool: &Pool, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let (length, vocabulary) = (self.length, self.vocabulary);
        if let Some(bad) = rows.iter().flatten().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::Unsupported(format!("token {bad}: the vocabulary has {vocabulary}")));
        }
        if let Some(row) = rows.iter().find(|r| r.len() != length) {
            return Err(Error::Unsupported(format!("a text of {} tokens: {length} are needed, padded", row.len())));
        }
        let mut state = State::default();
        let embed = |ids: &Vec<u32>| -> Result<Vec<f32>> {
            match &self.towers {
                Towers::Cpu(towers) => Ok(towers.1.run(pool, ids, &mut state)),
                #[cfg(feature = "cuda")]
                Towers::Gpu(towers, device) => Ok(unit(towers.1.embed(device, ids, &mut state.gpu)?)),
            }
        };
        rows.iter().map(embed).collect()
    }

    /// How similar a picture and a text are to the model: scale * cosine + bias. Both embeddings of unit length.
    pub fn logit(&self, picture: &[f32], text: &[f32]) -> f32 {
        self.scale * picture.iter().zip(text).map(|(a, b)| a * b).sum::<f32>() + self.bias
    }

    /// The probability that each text fits the picture, by itself: the sigmoid that the model was trained with. They need not sum
    /// to 1, and a text that fits nothing has all low.
    pub fn probabilities(&self, picture: &[f32], texts: &[Vec<f32>]) -> Vec<f32> {
        texts.iter().map(|t| 1.0 / (1.0 + (-self.logit(picture, t)).exp())).collect()
    }

    /// The share of each text where exactly one of them is right: the softmax of the logits.
    pub fn shares(&self, picture: &[f32], texts: &[Vec<f32>]) -> Vec<f32> {
        let logits: Vec<f32> = texts.iter().map(|t| self.logit(picture, t)).collect();
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f32> = logits.iter().map(|l| (l - most).exp()).collect();
        let sum: f32 = powers.iter().sum();
        powers.iter().map(|p| p / sum).collect()
    }
}

/// The vector in unit length; zeros stay.
pub(super) fn unit(mut x: Vec<f32>) -> Vec<f32> {
    let length = x.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
    x.iter_mut().for_each(|v| *v /= length);
    x
}

impl<P: Place> Pooling<P> {
    fn load(loader: &Loader<P>, d: usize, ffn: usize) -> Result<Self> {
        let at = "vision_model.head";
        let joined = ["weight", "bias"].map(|what| format!("{at}.attention.in_proj_{what}"));
        let parts = loader.split(&joined[0], &joined[1], [3, d, d])?;
        let [_, k, v] =
            <[Linear<P>; 3]>::try_from(parts).map_err(|_| super::load::problem(at, "does not hold 3 parts".into()))?;
        // the query is the same for every picture
        let (w, b) = (loader.floats(&joined[0], &[3 * d, d])?, loader.floats(&joined[1], &[3 * d])?);
        let probe = loader.floats(&format!("{at}.probe"), &[1, 1, d])?;
        let dot = |w: &[f32]| w.iter().zip(&probe).map(|(w, p)| w * p).sum::<f32>();
        let query = w.chunks_exact(d).zip(&b).take(d).map(|(w, b)| dot(w) + b).collect();
        Ok(Self {
            query: loader.place.vector(query)?,
            k,
            v,
            out: loader.linear(&format!("{at}.attention.out_proj"), d, d)?,
            norm: loader.norm(&format!("{at}.layernorm"), d)?,
            mlp: Mlp {
                gate: None,
                up: loader.linear(&format!("{at}.mlp.fc1"), ffn, d)?,
                down: loader.linear(&format!("{at}.mlp.fc2"), d, ffn)?,
            },
        })
    }
}

impl Pooling {
    /// `x`: (n, width), the patches after the last norm.
    fn run(&self, pool: &Pool, c: &encoder::Config, x: &[f32]) -> Vec<f32> {
        let (d, head_dim) = (c.width, c.width / c.heads);
        let (mut k, mut v) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        self.k.apply(pool, x, Activation::None, &mut k);
        self.v.apply(pool, x, Activation::None, &mut v);
        let dense = Dense {
            q: &self.query,
            k: &k,
            v: &v,
            q_len: 1,
            kv_len: x.len() / d,
            q_stride: d,
            kv_stride: d,
            heads: c.heads,
            kv_heads: c.heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            causal: false,
        };
        let (mut sums, mut out, mut h) = (vec![0.0; d], vec![0.0; d], vec![0.0; d]);
        attention_dense(pool, &dense, &mut sums);
        self.out.apply(pool, &sums, Activation::None, &mut out);
        layer_norm(pool, &out, (&self.norm.gamma, &self.norm.beta), c.eps, &mut h);
        self.mlp.add(pool, c.activation, &h, (&mut Vec::new(), &mut Vec::new()), &mut out);
        out
    }
}

impl<P: Place> Text<P> {
    fn load(loader: &Loader<P>, config: encoder::Config, settings: &TextSettings, out: usize) -> Result<Self> {
        let (d, length) = (config.width, settings.max_position_embeddings);
        let at = "text_model.embeddings";
        let table = format!("{at}.token_embedding.weight");
        let tokens = loader.floats(&table, &[settings.vocab_size, d])?;
        Ok(Self {
            tokens: loader.matrix(&table, settings.vocab_size, d, &tokens)?,
            places: loader.place.vector(loader.floats(&format!("{at}.position_embedding.weight"), &[length, d])?)?,
            encoder: loader.encoder(config, &|i, part| name("text_model", i, part), "text_model.final_layer_norm")?,
            head: loader.linear("text_model.head", out, d)?,
        })
    }
}

impl Text {
    /// The embedding of unit length: the last token's, projected.
    fn run(&self, pool: &Pool, ids: &[u32], state: &mut State) -> Vec<f32> {
        let d = self.encoder.config().width;
        state.x.resize(ids.len() * d, 0.0);
        for ((x, id), place) in state.x.chunks_exact_mut(d).zip(ids).zip(self.places.chunks_exact(d)) {
            self.tokens.row(*id as usize, x);
            x.iter_mut().zip(place).for_each(|(x, p)| *x += p);
        }
        self.encoder.forward(pool, None, state);
        let mut out = vec![0.0; self.head.w.rows()];
        self.head.apply(pool, &state.x[state.x.len() - d..], Activation::None, &mut out);
        unit(out)
    }
}

/// What the files call the parts of a layer.
fn name(tower: &str, i: usize, part: Part) -> String {
    let part = match part {
        Part::Norm1 => "layer_norm1",
        Part::Query => "self_attn.q_proj",
        Part::Key => "self_attn.k_proj",
        Part::Value => "self_attn.v_proj",
        Part::Out => "self_attn.out_proj",
        Part::Norm2 => "layer_norm2",
        Part::Gate | Part::Up => "mlp.fc1",
        Part::Down => "mlp.fc2",
        Part::Scale1 | Part::Scale2 => "layer_scale",
    };
    format!("{tower}.encoder.layers.{i}.{part}")
}

#[cfg(test)]
mod tests;
