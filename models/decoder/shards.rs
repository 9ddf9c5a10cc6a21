//! A dense model cut into parts that compute side by side: tensor parallelism as in Megatron-LM (Shoeybi et al. 2019, section 3).
//!
//! Each part has some of the heads and some of the feed-forward width, and is a smaller model of the same kind: query, key, value,
//! gate and up lose rows, output and down lose columns. What the parts' output (and down) products give is summed over them, by an
//! all-reduce between GPUs, before the norm behind it and the residual stream: two sums a layer, of (rows, dim) floats. Biases of
//! output and down are the first part's alone. Norms and embeddings are whole in every part: no part asks another for a token's row.
//! On GPUs each part has some rows of the head ([`vocab_rows`]) and all gather the others' logits, so that each chooses the same next
//! token by itself.
//!
//! [`Sharded`] does it on the processor, with the head whole: the reference of `cuda::Layout::Tensor`.

mod reference;
#[cfg(test)]
pub(super) mod tests;

use std::{ops::Range, path::Path};

use dreamseed_kernels::BlockType;

use super::{Config, files::Files};
use crate::weights::{Error, Result, gguf::Gguf};

pub use reference::Sharded;

/// Which elements of a whole are cut, and along which axis.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    HeadRows,
    HeadCols,
    HiddenRows,
    HiddenCols,
}

/// How a tensor is cut, by its name; `None`: every part has it whole.
fn cut(name: &str) -> Option<Cut> {
    let (_, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    match rest.rsplit_once('.')?.0 {
        "attn_q" | "attn_k" | "attn_v" | "attn_qkv" => Some(Cut::HeadRows),
        "attn_output" => Some(Cut::HeadCols),
        "ffn_gate" | "ffn_up" | "ffn_gate_up" => Some(Cut::HiddenRows),
        "ffn_down" => Some(Cut::HiddenCols),
        _ => None,
    }
}

/// How much of a tensor one of several parts holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// All of it.
    Whole,
    /// All of it, where the part is the first; nothing elsewhere.
    ByFirst,
    /// As much as of the heads.
    OfHeads,
    /// As much as of the feed-forward width.
    OfHidden,
    /// As much as of the vocabulary.
    OfVocab,
}

/// How much of a tensor a part holds, by GGUF's name of it.
pub fn held(name: &str) -> Held {
    match cut(name) {
        Some(Cut::HeadCols | Cut::HiddenCols) if name.ends_with(".bias") => Held::ByFirst,
        Some(Cut::HeadRows | Cut::HeadCols) => Held::OfHeads,
        Some(Cut::HiddenRows | Cut::HiddenCols) => Held::OfHidden,
        None if name == "output.weight" => Held::OfVocab,
        None => Held::Whole,
    }
}

/// Rows of the head that a part has: as even as whole 16s allow, at which products on GPUs can begin. Beyond the vocabulary there is
/// none: [`configs`] refuses parts without one.
pub fn vocab_rows(vocab: usize, parts: usize, index: usize) -> Range<usize> {
    let width = vocab.div_ceil(parts.max(1)).next_multiple_of(16);
    (width * index).min(vocab)..(width * (index + 1)).min(vocab)
}

/// The configurations of the parts into which a model can be cut for so many GPUs. Of the files only headers are read.
///
/// # Errors
/// [`Error::Unsupported`] for what cannot be cut, with the numbers; what is wrong with the files.
pub fn configs(source: Source, config: &Config, parts: usize) -> Result<Vec<Config>> {
    let files = match source {
        Source::Gguf(gguf) => &Files::Gguf(gguf),
        Source::Folder(path) => &Files::hf(path)?,
    };
    let split = Split::for_gpus(files, config, parts)?;
    Ok((0..parts).map(|i| split.config(i)).collect())
}

/// Weights as they are found.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// An open GGUF file.
    Gguf(&'a Gguf),
    /// A folder with safetensors.
    Folder(&'a Path),
}

/// How a model is cut.
pub(super) struct Split<'a> {
    files: &'a Files<'a>,
    config: &'a Config,
    hidden: Vec<Range<usize>>, // (parts) of the feed-forward width
}

impl<'a> Split<'a> {
    /// Cuts heads evenly, and the feed-forward width as evenly as whole blocks of the weights allow.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what cannot be cut, with the numbers; [`Error::Tensor`] for tensors of a wrong shape.
    pub(super) fn new(files: &'a Files<'a>, config: &'a Config, parts: usize) -> Result<Self> {
        let Config { dim, hidden, layers, heads, kv_heads, head_dim, .. } = *config;
        let refused = |problem: String| Err(Error::Unsupported(format!("{problem}; choose another number of parts")));
        if config.experts.is_some() {
            return Err(Error::Unsupported("mixtures of experts cannot be cut into parts".into()));
        }
        if parts == 0 || !kv_heads.is_multiple_of(parts) {
            return refused(format!("{kv_heads} heads of keys and values cannot be divided evenly over {parts} parts"));
        }
        let (q_dim, mut unit) = (heads * head_dim, 1);
        for layer in 0..layers {
            let name = |part| format!("blk.{layer}.{part}.weight");
            let output = files.kind(&name("attn_output"), (dim, q_dim), config)?;
            if !(q_dim / parts).is_multiple_of(output.block().0) {
                let block = output.block().0;
                let own = q_dim / parts;
                return refused(format!(
                    "{}: {own} of {q_dim} columns of each of {parts} parts are not whole {output:?} blocks of {block}",
                    name("attn_output")
                ));
            }
            unit = unit.max(files.kind(&name("ffn_down"), (dim, hidden), config)?.block().0);
        }
        // products on GPUs take columns in groups of 32
        unit = if unit == 1 && hidden.is_multiple_of(32) && hidden / 32 >= parts { 32 } else { unit };
        let units = hidden / unit;
        if !hidden.is_multiple_of(unit) || units < parts {
            return refused(format!(
                "a feed-forward width of {hidden} cannot be divided over {parts} parts in blocks of {unit}"
            ));
        }
        let hidden = (0..parts).map(|i| units * i / parts * unit..units * (i + 1) / parts * unit).collect();
        Ok(Self { files, config, hidden })
    }

    /// As [`Split::new`], for parts that have some rows of the head each.
    ///
    /// # Errors
    /// As [`Split::new`].
    pub(super) fn for_gpus(files: &'a Files<'a>, config: &'a Config, parts: usize) -> Result<Self> {
        let split = Self::new(files, config, parts)?;
        if vocab_rows(config.vocab, parts, parts - 1).is_empty() {
            return Err(Error::Unsupported(format!(
                "a vocabulary of {} cannot be divided over {parts} parts in rows of 16; choose another number of parts",
                config.vocab
            )));
        }
        Ok(split)
    }

    /// Number of parts.
    pub(super) fn parts(&self) -> usize {
        self.hidden.len()
    }

    /// The configuration of a part, as a model.
    pub(super) fn config(&self, index: usize) -> Config {
        let (parts, whole) = (self.parts(), self.config);
        Config {
            heads: whole.heads / parts,
            kv_heads: whole.kv_heads / parts,
            hidden: self.hidden[index].len(),
            ..whole.clone()
        }
    }
}

/// The tensors of one part.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) split: &'a Split<'a>,
    pub(super) index: usize,
}

impl Part<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        let summed = name.ends_with(".bias") && matches!(cut(name), Some(Cut::HeadCols | Cut::HiddenCols));
        self.split.files.has(name, self.split.config) && (self.index == 0 || !summed)
    }

    pub(super) fn unknown(&self, layers: usize) -> Option<&str> {
        self.split.files.unknown(layers)
    }

    /// Of `own` elements along what is cut: how many the whole has, and which of them are this part's.
    fn along(&self, by: Cut, own: usize) -> (usize, Range<usize>) {
        match by {
            Cut::HeadRows | Cut::HeadCols => (own.saturating_mul(self.split.parts()), own * self.index..own * (self.index + 1)),
            Cut::HiddenRows | Cut::HiddenCols => (self.split.config.hidden, self.split.hidden[self.index].clone()),
        }
    }

    pub(super) fn kind(&self, name: &str, (rows, cols): (usize, usize)) -> Result<BlockType> {
        let whole = match cut(name) {
            Some(by @ (Cut::HeadRows | Cut::HiddenRows)) => (self.along(by, rows).0, cols),
            Some(by @ (Cut::HeadCols | Cut::HiddenCols)) => (rows, self.along(by, cols).0),
            None => (rows, cols),
        };
        self.split.files.kind(name, whole, self.split.config)
    }

    /// As [`Files::blocks`], of this part's rows or columns. Of tensors joined along their rows each is cut by itself.
    pub(super) fn blocks(&self, name: &str, (rows, cols): (&[usize], usize)) -> Result<(BlockType, Vec<u8>)> {
        let Split { files, config, .. } = self.split;
        match cut(name) {
            Some(by @ (Cut::HeadRows | Cut::HiddenRows)) => {
                let joined: Vec<_> = rows.iter().map(|&own| self.along(by, own)).collect();
                let whole: Vec<usize> = joined.iter().map(|(whole, _)| *whole).collect();
                let (kind, bytes) = files.blocks(name, (&whole, cols), config)?;
                Ok((kind, cut_rows(kind, cols, &joined, &bytes)))
            }
            Some(by @ (Cut::HeadCols | Cut::HiddenCols)) => {
                let (whole, own) = self.along(by, cols);
                let (kind, bytes) = files.blocks(name, (rows, whole), config)?;
                Ok((kind, cut_cols(kind, whole, own, &bytes)))
            }
            None => files.blocks(name, (rows, cols), config),
        }
    }

    pub(super) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let Split { files, config, .. } = self.split;
        match cut(name) {
            // a joined bias holds query, key and value, each of which is cut
            Some(Cut::HeadRows) if name.contains("attn_qkv") => {
                let own = self.split.config(self.index);
                let joined = [own.heads * own.head_dim, own.kv_dim(), own.kv_dim()].map(|n| self.along(Cut::HeadRows, n));
                let all = files.vector(name, joined.iter().map(|(whole, _)| whole).sum(), config)?;
                let starts = joined.iter().scan(0, |at, (whole, _)| Some(std::mem::replace(at, *at + whole)));
                Ok(joined.iter().zip(starts).flat_map(|((_, own), at)| &all[at + own.start..at + own.end]).copied().collect())
            }
            Some(by @ (Cut::HeadRows | Cut::HiddenRows)) => {
                let (whole, own) = self.along(by, len);
                Ok(files.vector(name, whole, config)?[own].to_vec())
            }
            _ => files.vector(name, len, config),
        }
    }
}

/// Of tensors joined along their rows, of so many rows each, some rows of each: whole rows of `cols / block` blocks.
fn cut_rows(kind: BlockType, cols: usize, joined: &[(usize, Range<usize>)], bytes: &[u8]) -> Vec<u8> {
    let (block, size) = kind.block();
    let row = cols / block * size;
    let (mut at, mut own) = (0, Vec::with_capacity(joined.iter().map(|(_, own)| own.len() * row).sum()));
    for (whole, rows) in joined {
        own.extend_from_slice(&bytes[(at + rows.start) * row..(at + rows.end) * row]);
        at += whole;
    }
    own
}

/// Some columns of every row. `own`: whole blocks of `cols` columns.
fn cut_cols(kind: BlockType, cols: usize, own: Range<usize>, bytes: &[u8]) -> Vec<u8> {
    let (block, size) = kind.block();
    let (row, own) = (cols / block * size, own.start / block * size..own.end / block * size);
    let mut cut = Vec::with_capacity(bytes.len() / row.max(1) * own.len());
    bytes.chunks_exact(row.max(1)).for_each(|row| cut.extend_from_slice(&row[own.clone()]));
    cut
}
