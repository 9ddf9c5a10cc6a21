//! The weights of a decoder, from GGUF or from HF's safetensors, held against its [`Config`].

use std::path::{Path, PathBuf};

use dreamseed_kernels::{Matrix, Pool};
use serde::Deserialize;

use super::Config;
use crate::weights::{Error, Result, gguf::Gguf, safetensors, tensor::Values};

/// One layer. Vectors that the family does not have are `None`.
pub(super) struct Layer {
    pub(super) attn_norm: Vec<f32>,              // (dim)
    pub(super) wq: Matrix,                       // (heads * head_dim, dim)
    pub(super) wk: Matrix,                       // (kv_dim, dim)
    pub(super) wv: Matrix,                       // (kv_dim, dim)
    pub(super) bq: Option<Vec<f32>>,             // (heads * head_dim)
    pub(super) bk: Option<Vec<f32>>,             // (kv_dim)
    pub(super) bv: Option<Vec<f32>>,             // (kv_dim)
    pub(super) q_norm: Option<Vec<f32>>,         // (head_dim)
    pub(super) k_norm: Option<Vec<f32>>,         // (head_dim)
    pub(super) wo: Matrix,                       // (dim, heads * head_dim)
    pub(super) bo: Option<Vec<f32>>,             // (dim)
    pub(super) post_attn_norm: Option<Vec<f32>>, // (dim)
    pub(super) ffn_norm: Vec<f32>,               // (dim)
    pub(super) w_gate: Matrix,                   // (hidden, dim)
    pub(super) w_up: Matrix,                     // (hidden, dim)
    pub(super) w_down: Matrix,                   // (dim, hidden)
    pub(super) post_ffn_norm: Option<Vec<f32>>,  // (dim)
}

/// All weights. Immutable, shared by every state.
pub struct Weights {
    pub(super) embeddings: Matrix,     // (vocab, dim)
    pub(super) layers: Vec<Layer>,     // (layers)
    pub(super) output_norm: Vec<f32>,  // (dim)
    pub(super) output: Option<Matrix>, // (vocab, dim); `None`: the embeddings serve
    pub(super) rope_factors: Vec<f32>, // (rope.dims / 2) or empty
}

/// Where tensors come from. Names are GGUF's.
pub(super) enum Files<'a> {
    Gguf(&'a Gguf),
    Hf(Vec<safetensors::File>),
}

/// GGUF's name of a part of a layer, HF's name of it, and HF's where the layer has a norm after each block.
#[rustfmt::skip]
const HF_NAMES: [(&str, &str, &str); 13] = [
    ("attn_norm", "input_layernorm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj", "self_attn.o_proj"),
    ("post_attention_norm", "", "post_attention_layernorm"),
    ("ffn_norm", "post_attention_layernorm", "pre_feedforward_layernorm"),
    ("ffn_gate", "mlp.gate_proj", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj", "mlp.down_proj"),
    ("post_ffw_norm", "", "post_feedforward_layernorm"),
];

/// HF's name of a tensor, from GGUF's.
fn hf_name(name: &str, sandwich: bool) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, suffix) = rest.rsplit_once('.')?;
    let (_, plain, sandwiched) = HF_NAMES.iter().find(|n| n.0 == part)?;
    let part = if sandwich { sandwiched } else { plain };
    (!part.is_empty()).then(|| format!("model.layers.{layer}.{part}.{suffix}"))
}

impl Files<'_> {
    /// The safetensors of a folder: one file, or the shards that its index names.
    pub(super) fn hf(folder: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: std::collections::BTreeMap<String, String>,
        }
        let index = folder.join("model.safetensors.index.json");
        let mut names = vec![PathBuf::from("model.safetensors")];
        if index.exists() {
            let text = crate::weights::read_whole(&index, crate::weights::TEXT)
                .map_err(|source| Error::Io { path: index.clone(), source })?;
            let index: Index = serde_json::from_slice(&text).map_err(|e| Error::Field {
                format: "model.safetensors.index.json",
                field: "weight_map".into(),
                offset: e.column() as u64,
                problem: e.to_string(),
            })?;
            let shards: std::collections::BTreeSet<String> = index.weight_map.into_values().collect();
            if let Some(outside) = shards.iter().find(|s| Path::new(s).components().count() != 1 || s.starts_with('.')) {
                return Err(Error::Unsupported(format!("the index names {outside:?}; shards must lie beside it")));
            }
            names = shards.into_iter().map(PathBuf::from).collect();
        }
        let files = names.iter().map(|name| safetensors::File::open(&folder.join(name))).collect::<Result<_>>()?;
        Ok(Self::Hf(files))
    }

    fn find<'s>(&'s self, name: &str, config: &Config) -> Option<(&'s safetensors::File, String)> {
        let Self::Hf(files) = self else { return None };
        let name = hf_name(name, config.norm_offset != 0.0)?;
        files.iter().find(|f| f.info(&name).is_some()).map(|f| (f, name))
    }

    fn has(&self, name: &str, config: &Config) -> bool {
        match self {
            Self::Gguf(gguf) => gguf.tensor(name).is_some(),
            Self::Hf(_) => self.find(name, config).is_some(),
        }
    }

    fn read(&self, name: &str, shape: &[usize], config: &Config) -> Result<Values> {
        let error = |problem| Error::Tensor { name: name.into(), problem };
        let (file, hf) = self.find(name, config).ok_or_else(|| error("is not in the files".into()))?;
        let tensor = file.tensor(&hf)?;
        match tensor.shape == shape {
            true => Ok(tensor.values),
            false => Err(error(format!("{hf} has shape {:?}, but {shape:?} is needed", tensor.shape))),
        }
    }

    fn matrix(&self, name: &str, rows: usize, cols: usize, config: &Config) -> Result<Matrix> {
        let made = match self {
            Self::Gguf(gguf) => return gguf.matrix(name, rows, cols),
            Self::Hf(_) => match self.read(name, &[rows, cols], config)? {
                Values::F32(v) => Matrix::from_f32(rows, cols, &v),
                Values::F16(v) => Matrix::from_f16(rows, cols, &v),
                Values::Bf16(v) => Matrix::from_bf16(rows, cols, &v),
            },
        };
        made.map_err(|e| Error::Tensor { name: name.into(), problem: e.to_string() })
    }

    fn vector(&self, name: &str, len: usize, config: &Config) -> Result<Vec<f32>> {
        match self {
            Self::Gguf(gguf) => gguf.vector(name, len),
            Self::Hf(_) => Ok(self.read(name, &[len], config)?.into_f32()),
        }
    }
}

/// Reads the tensors of one layer.
struct Loader<'a> {
    files: &'a Files<'a>,
    config: &'a Config,
    layer: usize,
}

impl Loader<'_> {
    fn name(&self, part: &str, suffix: &str) -> String {
        format!("blk.{}.{part}.{suffix}", self.layer)
    }

    fn matrix(&self, part: &str, rows: usize, cols: usize) -> Result<Matrix> {
        self.files.matrix(&self.name(part, "weight"), rows, cols, self.config)
    }

    fn bias(&self, part: &str, len: usize) -> Result<Option<Vec<f32>>> {
        let name = self.name(part, "bias");
        let has = self.files.has(&name, self.config);
        has.then(|| self.files.vector(&name, len, self.config)).transpose()
    }

    fn norm(&self, part: &str, len: usize) -> Result<Vec<f32>> {
        norm(self.files, &self.name(part, "weight"), len, self.config)
    }

    fn optional_norm(&self, part: &str, len: usize, needed: bool) -> Result<Option<Vec<f32>>> {
        let has = needed || self.files.has(&self.name(part, "weight"), self.config);
        has.then(|| self.norm(part, len)).transpose()
    }

    fn load(&self) -> Result<Layer> {
        let Config { dim, hidden, head_dim, .. } = *self.config;
        let (q_dim, kv_dim) = (self.config.heads * head_dim, self.config.kv_dim());
        let gemma = self.config.family == super::Family::Gemma3;
        let head_norms = gemma || self.config.family == super::Family::Qwen3;
        Ok(Layer {
            attn_norm: self.norm("attn_norm", dim)?,
            wq: self.matrix("attn_q", q_dim, dim)?,
            wk: self.matrix("attn_k", kv_dim, dim)?,
            wv: self.matrix("attn_v", kv_dim, dim)?,
            bq: self.bias("attn_q", q_dim)?,
            bk: self.bias("attn_k", kv_dim)?,
            bv: self.bias("attn_v", kv_dim)?,
            q_norm: self.optional_norm("attn_q_norm", head_dim, head_norms)?,
            k_norm: self.optional_norm("attn_k_norm", head_dim, head_norms)?,
            wo: self.matrix("attn_output", dim, q_dim)?,
            bo: self.bias("attn_output", dim)?,
            post_attn_norm: self.optional_norm("post_attention_norm", dim, gemma)?,
            ffn_norm: self.norm("ffn_norm", dim)?,
            w_gate: self.matrix("ffn_gate", hidden, dim)?,
            w_up: self.matrix("ffn_up", hidden, dim)?,
            w_down: self.matrix("ffn_down", dim, hidden)?,
            post_ffn_norm: self.optional_norm("post_ffw_norm", dim, gemma)?,
        })
    }
}

fn norm(files: &Files, name: &str, len: usize, config: &Config) -> Result<Vec<f32>> {
    let mut weight = files.vector(name, len, config)?;
    weight.iter_mut().for_each(|w| *w += config.norm_offset);
    Ok(weight)
}

impl Weights {
    /// Reads and packs everything, layers in parallel.
    pub(super) fn load(files: &Files, config: &Config, pool: &Pool) -> Result<Self> {
        let Config { vocab, dim, layers, .. } = *config;
        // The last layer's first tensor: a lying count is found before anything is allocated for it.
        let last = format!("blk.{}.attn_norm.weight", layers - 1);
        if !files.has(&last, config) {
            return Err(Error::Tensor {
                name: last,
                problem: format!("is missing, but the model says it has {layers} layers"),
            });
        }
        let embeddings = files.matrix("token_embd.weight", vocab, dim, config)?;
        let output = (!config.tied).then(|| files.matrix("output.weight", vocab, dim, config)).transpose()?;
        let factors = config.rope.dims / 2;
        let has_factors = files.has("rope_freqs.weight", config);
        let rope_factors = has_factors.then(|| files.vector("rope_freqs.weight", factors, config)).transpose()?;
        if let Some(bad) = rope_factors.iter().flatten().find(|f| !f.is_finite() || **f <= 0.0) {
            return Err(Error::Tensor {
                name: "rope_freqs.weight".into(),
                problem: format!("holds {bad}; positive numbers are needed"),
            });
        }
        let mut loaded: Vec<Option<Result<Layer>>> = (0..layers).map(|_| None).collect();
        pool.for_each_chunk(&mut loaded, 1, |layer, slot| slot[0] = Some(Loader { files, config, layer }.load()));
        Ok(Self {
            embeddings,
            layers: loaded.into_iter().flatten().collect::<Result<_>>()?,
            output_norm: norm(files, "output_norm.weight", dim, config)?,
            output,
            rope_factors: rope_factors.unwrap_or_default(),
        })
    }

    /// Number of weights in the matrices, a tied embedding counted once.
    pub fn parameters(&self) -> u64 {
        let count = |m: &Matrix| m.rows() as u64 * m.cols() as u64;
        let layer = |l: &Layer| [&l.wq, &l.wk, &l.wv, &l.wo, &l.w_gate, &l.w_up, &l.w_down].map(count).iter().sum::<u64>();
        self.layers.iter().map(layer).sum::<u64>() + count(&self.embeddings) + self.output.as_ref().map_or(0, count)
    }

    /// Bytes that one decoded token reads: all weights but the embeddings where they are not the output too.
    pub fn bytes_per_token(&self) -> usize {
        let layer = |l: &Layer| [&l.wq, &l.wk, &l.wv, &l.wo, &l.w_gate, &l.w_up, &l.w_down].map(size).iter().sum::<usize>();
        self.layers.iter().map(layer).sum::<usize>() + size(self.output.as_ref().unwrap_or(&self.embeddings))
    }
}

fn size(matrix: &Matrix) -> usize {
    let (block, bytes) = matrix.kind().block();
    matrix.rows() * matrix.cols() / block * bytes
}
