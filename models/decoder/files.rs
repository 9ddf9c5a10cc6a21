//! Where the tensors of a decoder come from: a GGUF file, or HF's safetensors under GGUF's names.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use dreamseed_kernels::BlockType;

use super::{Config, shards::Part, weights::Place};
use crate::weights::{Error, Result, gguf::Gguf, safetensors};

/// Tensors by GGUF's names.
pub(super) enum Files<'a> {
    Gguf(&'a Gguf),
    Hf {
        shards: Vec<safetensors::File>,
        prefix: &'static str, // of the language model's names
    },
    Part(Part<'a>), // of other files, for one of several GPUs
}

/// HF's names begin with this; with more in a model that sees too (two orders are found).
const PREFIXES: [&str; 3] = ["", "language_model.", "model.language_model."];

/// GGUF's name of a part of a layer, HF's name of it, and HF's where the layer has a norm after each block.
#[rustfmt::skip]
pub(super) const HF_NAMES: [(&str, &str, &str); 16] = [
    ("attn_norm", "input_layernorm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj", "self_attn.qkv_proj"),
    ("attn_q_norm", "self_attn.q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj", "self_attn.o_proj"),
    ("post_attention_norm", "", "post_attention_layernorm"),
    ("ffn_norm", "post_attention_layernorm", "pre_feedforward_layernorm"),
    ("ffn_gate", "mlp.gate_proj", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj", "mlp.up_proj"),
    ("ffn_gate_up", "mlp.gate_up_proj", "mlp.gate_up_proj"),
    ("ffn_down", "mlp.down_proj", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate", "mlp.gate"),
    ("post_ffw_norm", "", "post_feedforward_layernorm"),
];

/// Parts of a layer that may have a bias.
const WITH_BIAS: [&str; 8] = ["attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

/// HF's name of a tensor, from GGUF's.
pub(super) fn hf_name(name: &str, prefix: &str, sandwich: bool) -> Option<String> {
    // The language model of one that sees: `language_model.model.X` of old, `model.language_model.X` now; the head stands outside.
    let (model, head) = match prefix {
        "model.language_model." => (prefix.to_owned(), ""),
        _ => (format!("{prefix}model."), prefix),
    };
    match name {
        "token_embd.weight" => return Some(format!("{model}embed_tokens.weight")),
        "output_norm.weight" => return Some(format!("{model}norm.weight")),
        "output.weight" => return Some(format!("{head}lm_head.weight")),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, suffix) = rest.rsplit_once('.')?;
    let (part, expert) = part.split_once("_exps.").map_or((part, None), |(part, expert)| (part, Some(expert)));
    let (_, plain, sandwiched) = HF_NAMES.iter().find(|n| n.0 == part)?;
    let part = if sandwich { sandwiched } else { plain };
    let part = match expert {
        Some(expert) => part.replace("mlp.", &format!("mlp.experts.{expert}.")),
        None => (*part).into(),
    };
    (!part.is_empty()).then(|| format!("{model}layers.{layer}.{part}.{suffix}"))
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
        let shards: Vec<_> = names.iter().map(|name| safetensors::File::open(&folder.join(name))).collect::<Result<_>>()?;
        let has = |prefix: &&&str| {
            let name = hf_name("token_embd.weight", prefix, false);
            name.is_some_and(|name| shards.iter().any(|f| f.info(&name).is_some()))
        };
        let prefix = PREFIXES.iter().find(has).copied().unwrap_or_default();
        Ok(Self::Hf { shards, prefix })
    }

    fn find<'s>(&'s self, name: &str, config: &Config) -> Option<(&'s safetensors::File, String)> {
        let Self::Hf { shards, prefix } = self else { return None };
        let name = hf_name(name, prefix, config.norm_offset != 0.0)?;
        shards.iter().find(|f| f.info(&name).is_some()).map(|f| (f, name))
    }

    pub(super) fn has(&self, name: &str, config: &Config) -> bool {
        match self {
            Self::Gguf(gguf) => gguf.tensor(name).is_some(),
            Self::Hf { .. } => self.find(name, config).is_some(),
            Self::Part(part) => part.has(name),
        }
    }

    /// A tensor of a GGUF file's layers that is not read (of several the first by name). HF's files hold other things too.
    pub(super) fn unknown(&self, layers: usize) -> Option<&str> {
        let gguf = match self {
            Self::Gguf(gguf) => gguf,
            Self::Hf { .. } => return None,
            Self::Part(part) => return part.unknown(layers),
        };
        let known = |name: &str| {
            let Some((layer, rest)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else { return true };
            let part = match rest.rsplit_once('.') {
                Some((part, "weight")) => HF_NAMES.iter().any(|n| n.0 == part.strip_suffix("_exps").unwrap_or(part)),
                Some((part, "bias")) => WITH_BIAS.contains(&part),
                _ => false,
            };
            part && layer.parse::<usize>().is_ok_and(|layer| layer < layers)
        };
        gguf.tensor_names().filter(|name| !known(name)).min()
    }

    /// The file with a tensor of `shape`, and its name there. The header knows the shape: nothing is read for one that lies.
    fn shaped(&self, name: &str, shape: &[usize], config: &Config) -> Result<(&safetensors::File, String)> {
        let error = |problem| Error::Tensor { name: name.into(), problem };
        let (file, hf) = self.find(name, config).ok_or_else(|| error("is not in the files".into()))?;
        match file.info(&hf) {
            Some(info) if info.shape == shape => Ok((file, hf)),
            info => {
                let seen = info.map(|i| i.shape.clone()).unwrap_or_default();
                Err(error(format!("{hf} has shape {seen:?}, but {shape:?} is needed")))
            }
        }
    }

    /// A matrix of (rows, cols).
    pub(super) fn matrix<P: Place>(
        &self,
        place: &P,
        name: &str,
        (rows, cols): (usize, usize),
        config: &Config,
    ) -> Result<P::Matrix> {
        let mut parts = self.matrices(place, name, (&[rows], cols), config)?;
        parts.pop().ok_or_else(|| Error::Tensor { name: name.into(), problem: "holds no matrix".into() })
    }

    /// Some rows of a matrix of (all, cols).
    pub(super) fn rows<P: Place>(
        &self,
        place: &P,
        name: &str,
        (rows, all, cols): (Range<usize>, usize, usize),
        config: &Config,
    ) -> Result<P::Matrix> {
        let (kind, bytes) = self.blocks(name, (&[all], cols), config)?;
        let (block, size) = kind.block();
        let row = cols / block * size;
        let own = bytes.get(rows.start * row..rows.end * row).ok_or_else(|| Error::Tensor {
            name: name.into(),
            problem: format!("holds {} bytes, and rows {rows:?} of {row} are needed", bytes.len()),
        })?;
        place.matrix(name, kind, (rows.len(), cols), own)
    }

    /// A tensor cut along its rows: matrices of `rows` rows each, one below the other.
    pub(super) fn matrices<P: Place>(
        &self,
        place: &P,
        name: &str,
        (rows, cols): (&[usize], usize),
        config: &Config,
    ) -> Result<Vec<P::Matrix>> {
        let (kind, bytes) = self.blocks(name, (rows, cols), config)?;
        let (block, size) = kind.block();
        let row = cols / block * size;
        let mut left = &bytes[..];
        let part = |&rows: &usize| {
            let problem = || format!("{} bytes are left for {rows} rows of {row}", left.len());
            let short = || Error::Tensor { name: name.into(), problem: problem() };
            let (own, rest) = rows.checked_mul(row).and_then(|n| left.split_at_checked(n)).ok_or_else(short)?;
            left = rest;
            place.matrix(name, kind, (rows, cols), own)
        };
        rows.iter().map(part).collect()
    }

    /// The type of a tensor of `rows` rows in all, and its bytes.
    pub(super) fn blocks(&self, name: &str, (rows, cols): (&[usize], usize), config: &Config) -> Result<(BlockType, Vec<u8>)> {
        let sum = sum(name, (rows, cols))?;
        match self {
            Self::Gguf(gguf) => Ok((gguf.kind(name, sum, cols)?, gguf.bytes(name)?)),
            Self::Hf { .. } => {
                let (file, hf) = self.shaped(name, &[sum, cols], config)?;
                Ok((file.block_type(&hf)?, file.bytes(&hf)?))
            }
            Self::Part(part) => part.blocks(name, (rows, cols)),
        }
    }

    /// The type of a tensor of this shape. Nothing is read.
    pub(super) fn kind(&self, name: &str, (rows, cols): (usize, usize), config: &Config) -> Result<BlockType> {
        match self {
            Self::Gguf(gguf) => gguf.kind(name, rows, cols),
            Self::Hf { .. } => {
                let (file, hf) = self.shaped(name, &[rows, cols], config)?;
                file.block_type(&hf)
            }
            Self::Part(part) => part.kind(name, (rows, cols)),
        }
    }

    pub(super) fn vector(&self, name: &str, len: usize, config: &Config) -> Result<Vec<f32>> {
        match self {
            Self::Gguf(gguf) => gguf.vector(name, len),
            Self::Hf { .. } => {
                let (file, hf) = self.shaped(name, &[len], config)?;
                Ok(file.tensor(&hf)?.values.into_f32())
            }
            Self::Part(part) => part.vector(name, len),
        }
    }
}

/// All rows, where their elements can be counted.
fn sum(name: &str, (rows, cols): (&[usize], usize)) -> Result<usize> {
    let sum = rows.iter().try_fold(0usize, |sum, r| sum.checked_add(*r)).filter(|sum| sum.checked_mul(cols).is_some());
    sum.ok_or_else(|| Error::Tensor { name: name.into(), problem: "more than 2^64 elements".into() })
}
