//! Tensors of a tower and its projector, held against their [`Config`].

use std::collections::HashSet;

use dreamseed_kernels::Matrix;

use super::{
    Config, Kind, Merger,
    tower::{Layer, Linear, Norm},
};
use crate::weights::{Error, Result, gguf::Gguf};

/// Reads tensors, and remembers which.
pub(super) struct Loader<'a> {
    gguf: &'a Gguf,
    config: &'a Config,
    read: HashSet<String>,
}

fn bad<T>(name: &str, problem: impl Into<String>) -> Result<T> {
    Err(Error::Tensor { name: name.into(), problem: problem.into() })
}

impl<'a> Loader<'a> {
    pub(super) fn new(gguf: &'a Gguf, config: &'a Config) -> Result<Self> {
        // The last layer's first tensor: a lying count is found before anything is allocated for it.
        let last = format!("v.blk.{}.ln1.weight", config.layers - 1);
        if gguf.tensor(&last).is_none() {
            return bad(&last, format!("is missing, but the file says that the tower has {} layers", config.layers));
        }
        Ok(Self { gguf, config, read: HashSet::new() })
    }

    fn values(&mut self, name: &str, rows: usize, cols: usize) -> Result<Vec<f32>> {
        self.read.insert(name.into());
        self.gguf.values(name, rows, cols)
    }

    fn norm(&mut self, name: &str, len: usize) -> Result<Norm> {
        let [weight, bias] = ["weight", "bias"].map(|part| self.values(&format!("{name}.{part}"), 1, len));
        Ok(Norm { weight: weight?, bias: bias? })
    }

    fn linear(&mut self, name: &str, rows: usize, cols: usize) -> Result<Linear> {
        let weight = format!("{name}.weight");
        self.read.insert(weight.clone());
        let weight = self.gguf.matrix(&weight, rows, cols)?;
        Ok(Linear { weight, bias: self.values(&format!("{name}.bias"), 1, rows)? })
    }

    /// A matrix of `parts` matrices one below the other.
    fn joined(&mut self, name: &str, dim: usize) -> Result<[Linear; 3]> {
        let weight = format!("{name}.weight");
        self.read.insert(weight.clone());
        let kind = self.gguf.kind(&weight, 3 * dim, dim)?;
        let (bytes, bias) = (self.gguf.bytes(&weight)?, self.values(&format!("{name}.bias"), 1, 3 * dim)?);
        let parts = bytes.chunks_exact((bytes.len() / 3).max(1)).zip(bias.chunks_exact(dim)).map(|(bytes, bias)| {
            let matrix = Matrix::from_blocks(kind, dim, dim, bytes);
            let weight = matrix.map_err(|e| Error::Tensor { name: weight.clone(), problem: e.to_string() })?;
            Ok(Linear { weight, bias: bias.to_vec() })
        });
        let parts = parts.collect::<Result<Vec<_>>>()?;
        parts.try_into().or_else(|_| bad(&weight, "does not hold query, key and value"))
    }

    /// The embedding of patches. A still picture is a film of two equal pictures: their two kernels add up.
    pub(super) fn patch(&mut self) -> Result<Linear> {
        let Config { dim, patch, .. } = *self.config;
        let rows = dim * 3 * patch;
        let mut weight = self.values("v.patch_embd.weight", rows, patch)?;
        if self.config.kind == Kind::Qwen3Vl {
            let second = self.values("v.patch_embd.weight.1", rows, patch)?;
            weight.iter_mut().zip(second).for_each(|(w, second)| *w += second);
        }
        let bias = self.values("v.patch_embd.bias", 1, dim)?;
        let weight = Matrix::from_f32(dim, 3 * patch * patch, &weight);
        let problem =
            |e: dreamseed_kernels::MatrixError| Error::Tensor { name: "v.patch_embd.weight".into(), problem: e.to_string() };
        Ok(Linear { weight: weight.map_err(problem)?, bias })
    }

    /// The learnt positions, and how many they are each way.
    pub(super) fn positions(&mut self) -> Result<(Vec<f32>, usize)> {
        const NAME: &str = "v.position_embd.weight";
        let side = self.config.side();
        Ok((self.values(NAME, side * side, self.config.dim)?, side))
    }

    pub(super) fn layer(&mut self, i: usize) -> Result<Layer> {
        let Config { dim, hidden, .. } = *self.config;
        let name = |part: &str| format!("v.blk.{i}.{part}");
        let qkv = if self.gguf.tensor(&name("attn_qkv.weight")).is_some() {
            self.joined(&name("attn_qkv"), dim)?
        } else {
            let [q, k, v] = ["attn_q", "attn_k", "attn_v"].map(|part| self.linear(&name(part), dim, dim));
            [q?, k?, v?]
        };
        // The first converted files of Gemma 3 name the two the other way round.
        let swapped = dim != hidden && self.gguf.tensor(&name("ffn_up.weight")).is_some_and(|t| t.dims[0] == hidden as u64);
        let [up, down] = if swapped { ["ffn_down", "ffn_up"] } else { ["ffn_up", "ffn_down"] };
        Ok(Layer {
            ln1: self.norm(&name("ln1"), dim)?,
            qkv,
            out: self.linear(&name("attn_out"), dim, dim)?,
            ln2: self.norm(&name("ln2"), dim)?,
            up: self.linear(&name(up), hidden, dim)?,
            down: self.linear(&name(down), dim, hidden)?,
        })
    }

    pub(super) fn post_norm(&mut self) -> Result<Norm> {
        self.norm("v.post_ln", self.config.dim)
    }

    /// Gemma's norm (1 is added to its weight already) and matrix, which lies the other way round.
    pub(super) fn soft(&mut self) -> Result<(Vec<f32>, Matrix)> {
        const NAME: &str = "mm.input_projection.weight";
        let Config { dim, out, .. } = *self.config;
        let norm = self.values("mm.soft_emb_norm.weight", 1, dim)?;
        let values = self.values(NAME, dim, out)?;
        let turned: Vec<f32> = (0..out).flat_map(|o| (0..dim).map(move |i| (i, o))).map(|(i, o)| values[i * out + o]).collect();
        let matrix = Matrix::from_f32(out, dim, &turned);
        Ok((norm, matrix.map_err(|e| Error::Tensor { name: NAME.into(), problem: e.to_string() })?))
    }

    /// The two matrices that make an embedding of the patches of a square.
    pub(super) fn merger(&mut self) -> Result<[Linear; 2]> {
        let (wide, out) = (self.config.dim * self.config.merge * self.config.merge, self.config.out);
        Ok([self.linear("mm.0", wide, wide)?, self.linear("mm.2", out, wide)?])
    }

    /// The same for the output of a layer, with the norm over the joined patches.
    pub(super) fn deep(&mut self, layer: usize) -> Result<Merger> {
        let (wide, out) = (self.config.dim * self.config.merge * self.config.merge, self.config.out);
        let name = |part: &str| format!("v.deepstack.{layer}.{part}");
        let norm = self.norm(&name("norm"), wide)?;
        Ok(Merger { norm, fc: [self.linear(&name("fc1"), wide, wide)?, self.linear(&name("fc2"), out, wide)?] })
    }

    /// Refuses a file with tensors that were not read.
    pub(super) fn finish(self) -> Result<()> {
        match self.gguf.tensor_names().filter(|name| !self.read.contains(*name)).min() {
            None => Ok(()),
            Some(name) => {
                let why = "which is no part of a projector that this version runs: its share in the result would be missing";
                Err(Error::Unsupported(format!("the tensor {name}, {why}")))
            }
        }
    }
}
