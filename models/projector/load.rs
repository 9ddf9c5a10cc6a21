//! Tensors of a tower and its projector, held against their [`Config`].

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use dreamseed_kernels::{BlockType, Matrix};

use super::{Config, Kind, Merger};
use crate::vision::encoder::{Linear, Norm};
use crate::vision::load::{Loader, Part, Tensors};
use crate::weights::{Error, Result, Tensor, Values, gguf::Gguf};

/// An mmproj file, and which of its tensors were read.
pub(super) struct File<'a> {
    gguf: &'a Gguf,
    kind: Kind,
    read: Mutex<HashSet<String>>,
    lacks: Mutex<Option<String>>, // a bias: all that are asked for must be there
}

fn bad<T>(name: &str, problem: impl Into<String>) -> Result<T> {
    Err(Error::Tensor { name: name.into(), problem: problem.into() })
}

/// The embedding of patches, and the kernel of its second moment.
const PATCH: &str = "v.patch_embd.weight";
const SECOND: &str = "v.patch_embd.weight.1";

impl Tensors for File<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let shape = Tensors::shape(self.gguf, name);
        if shape.is_none() && name.ends_with(".bias") {
            self.lacks.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| name.into());
        }
        shape
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        self.note(name);
        let tensor = Tensors::tensor(self.gguf, name)?;
        if name != PATCH || self.kind == Kind::Gemma3 {
            return Ok(tensor);
        }
        // A still picture is a film of two equal pictures: their two kernels add up.
        let second = self.tensor(SECOND)?;
        if second.shape != tensor.shape {
            return bad(SECOND, format!("has shape {:?}, {:?} is needed", second.shape, tensor.shape));
        }
        let mut values = tensor.values.into_f32();
        values.iter_mut().zip(second.values.into_f32()).for_each(|(w, second)| *w += second);
        Ok(Tensor { shape: tensor.shape, values: Values::F32(values) })
    }

    fn blocks(&self, name: &str) -> Result<Option<(BlockType, Vec<u8>)>> {
        self.note(name);
        let [rows, cols] = Tensors::shape(self.gguf, name).unwrap_or_default()[..] else { return Ok(None) };
        Ok(Some((self.gguf.kind(name, rows, cols)?, self.gguf.bytes(name)?)))
    }
}

impl<'a> File<'a> {
    pub(super) fn new(gguf: &'a Gguf, config: &Config) -> Result<Self> {
        // The last layer's first tensor: a lying count is found before anything is allocated for it.
        let last = format!("v.blk.{}.ln1.weight", config.layers - 1);
        if gguf.tensor(&last).is_none() {
            return bad(&last, format!("is missing, but the file says that the tower has {} layers", config.layers));
        }
        Ok(Self { gguf, kind: config.kind, read: Mutex::default(), lacks: Mutex::default() })
    }

    fn note(&self, name: &str) {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into());
    }

    /// What the file calls a part of layer `i`.
    pub(super) fn name(&self, config: &Config, i: usize, part: Part) -> String {
        let of = |part: &str| format!("v.blk.{i}.{part}");
        let joined = self.gguf.tensor(&of("attn_qkv.weight")).is_some();
        // The first converted files of Gemma 3 name the two the other way round.
        let up = self.gguf.tensor(&of("ffn_up.weight"));
        let swapped = config.dim != config.hidden && up.is_some_and(|t| t.dims[0] == config.hidden as u64);
        of(match part {
            Part::Norm1 => "ln1",
            Part::Query | Part::Key | Part::Value if joined => "attn_qkv",
            Part::Query => "attn_q",
            Part::Key => "attn_k",
            Part::Value => "attn_v",
            Part::Out => "attn_out",
            Part::Scale1 => "ls1.weight",
            Part::Norm2 => "ln2",
            Part::Gate => "ffn_gate",
            Part::Up => ["ffn_up", "ffn_down"][usize::from(swapped)],
            Part::Down => ["ffn_down", "ffn_up"][usize::from(swapped)],
            Part::Scale2 => "ls2.weight",
        })
    }

    /// Refuses a file with tensors that were not read, and one without a bias that was asked for.
    pub(super) fn finish(self) -> Result<()> {
        if let Some(name) = self.lacks.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return bad(&name, "is not in the file");
        }
        let read = self.read.into_inner().unwrap_or_else(PoisonError::into_inner);
        match self.gguf.tensor_names().filter(|name| !read.contains(*name)).min() {
            None => Ok(()),
            Some(name) => {
                let why = "which is no part of a projector that this version runs: its share in the result would be missing";
                Err(Error::Unsupported(format!("the tensor {name}, {why}")))
            }
        }
    }
}

/// Gemma's norm (1 is added to its weight already) and matrix, which lies the other way round.
pub(super) fn soft(loader: &Loader, &Config { dim, out, .. }: &Config) -> Result<(Vec<f32>, Matrix)> {
    const NAME: &str = "mm.input_projection.weight";
    let norm = loader.floats("mm.soft_emb_norm.weight", &[dim])?;
    let values = loader.floats(NAME, &[dim, out])?;
    let turned: Vec<f32> = (0..out).flat_map(|o| (0..dim).map(move |i| (i, o))).map(|(i, o)| values[i * out + o]).collect();
    Ok((norm, loader.matrix(NAME, out, dim, &turned)?))
}

/// The two matrices that make an embedding of the patches of a square.
pub(super) fn merger(loader: &Loader, config: &Config, names: [&str; 2]) -> Result<Merger> {
    let wide = config.dim * config.merge * config.merge;
    let [first, second]: [Linear; 2] = [loader.linear(names[0], wide, wide)?, loader.linear(names[1], config.out, wide)?];
    Ok(Merger([first, second]))
}

/// The same for the output of a layer, with the norm over the joined patches.
pub(super) fn deep(loader: &Loader, config: &Config, layer: usize) -> Result<(Norm, Merger)> {
    let [norm, fc1, fc2] = ["norm", "fc1", "fc2"].map(|part| format!("v.deepstack.{layer}.{part}"));
    let norm = loader.norm(&norm, config.dim * config.merge * config.merge)?;
    Ok((norm, merger(loader, config, [&fc1, &fc2])?))
}
