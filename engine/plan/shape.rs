//! A language model's shape and the bytes of its weights, without reading a weight: from a GGUF file's header, from a config.json,
//! or from the shapes of published models, with the types that llama.cpp's quantizer gives each tensor.

use std::path::Path;

use dreamseed_kernels::BlockType;
use dreamseed_models::{
    decoder::{
        Config, Family,
        shards::{Held, held, vocab_rows},
    },
    weights::{self, gguf::Gguf},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{Error, Result, router::Tier};

/// Most layers that a plan is made for: far above any model's.
const MAX_LAYERS: usize = 4096;
/// Largest width or vocabulary, so that no product of theirs overflows.
const MAX_WIDTH: usize = 1 << 22;
/// The published models.
const SHAPES: &str = include_str!("shapes.json");

/// Bytes of weights on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Each layer's.
    pub layers: Vec<u64>, // (layers)
    /// What of them is cut where layers are.
    pub cut: Vec<Cut>, // (layers)
    /// The embeddings'.
    pub embeddings: u64,
    /// The output matrix's and the last norm's; of tied embeddings the norm's alone.
    pub head: u64,
    /// All weights, counted.
    pub parameters: u64,
}

/// Bytes of a layer by what cuts them over GPUs; what is left of it is whole on each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Divided as heads are.
    pub heads: u64,
    /// Divided as the feed-forward width is.
    pub hidden: u64,
    /// On the first alone.
    pub first: u64,
}

/// A model as a plan sees it.
#[derive(Clone, Debug)]
pub struct Shape {
    /// For people.
    pub name: String,
    /// What distinguishes it.
    pub config: Config,
    /// Its weights.
    pub weights: Weights,
}

/// A mix of types, by llama.cpp's name of it.
#[allow(non_camel_case_types, missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    F16,
    Q8_0,
    Q4_0,
    Q4_K_M,
    Q3_K_M,
    Q2_K,
}

impl Mix {
    const ALL: [(&str, Self); 6] = [
        ("f16", Self::F16),
        ("q8_0", Self::Q8_0),
        ("q4_0", Self::Q4_0),
        ("q4_k_m", Self::Q4_K_M),
        ("q3_k_m", Self::Q3_K_M),
        ("q2_k", Self::Q2_K),
    ];

    /// The mix of this name.
    ///
    /// # Errors
    /// [`Error::Usage`] with the names there are.
    pub fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|m| m.0.eq_ignore_ascii_case(name));
        found.map(|m| m.1).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|m| m.0).collect();
            Error::Usage(format!("weights as {name:?}; a plan knows {}", names.join(", ")))
        })
    }

    /// Type of most matrices, and of the output.
    fn plain(self) -> (BlockType, BlockType) {
        match self {
            Self::F16 => (BlockType::F16, BlockType::F16),
            Self::Q8_0 => (BlockType::Q8_0, BlockType::Q8_0),
            Self::Q4_0 => (BlockType::Q4_0, BlockType::Q6K),
            Self::Q4_K_M => (BlockType::Q4K, BlockType::Q6K),
            Self::Q3_K_M => (BlockType::Q3K, BlockType::Q6K),
            Self::Q2_K => (BlockType::Q2K, BlockType::Q6K),
        }
    }

    /// Types of value, attention output and down projections in a layer (llama.cpp, `llama_tensor_get_type`).
    fn layer(self, config: &Config, layer: usize) -> [BlockType; 3] {
        let (n, plain) = (config.layers, self.plain().0);
        let more = layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
        let grouped = config.heads / config.kv_heads >= 4;
        let [mut value, output, down] = match self {
            Self::F16 | Self::Q8_0 | Self::Q4_0 => [plain; 3],
            Self::Q4_K_M => {
                let better = if more { BlockType::Q6K } else { plain };
                [better, plain, better]
            }
            Self::Q3_K_M => [
                if layer < 2 { BlockType::Q5K } else { BlockType::Q4K },
                BlockType::Q4K,
                if layer < n / 16 { BlockType::Q5K } else { BlockType::Q4K },
            ],
            Self::Q2_K => [if grouped { BlockType::Q4K } else { BlockType::Q3K }, BlockType::Q3K, BlockType::Q3K],
        };
        // of a 70B eight query heads share a value: it costs little to keep it better
        if n == 80 && config.heads / config.kv_heads == 8 && matches!(value, BlockType::Q3K | BlockType::Q4K) {
            value = BlockType::Q5K;
        }
        [value, output, down]
    }
}

/// Bytes of a matrix; rows that are no whole number of blocks go to a type of blocks of 32, as in llama.cpp.
fn matrix(kind: BlockType, rows: usize, cols: usize) -> u64 {
    let (per, bytes) = kind.block();
    let (per, bytes) = if cols.is_multiple_of(per) { (per, bytes) } else { BlockType::Q5_0.block() };
    (rows as u64 * (cols as u64).div_ceil(per as u64)).saturating_mul(bytes as u64)
}

impl Weights {
    /// Of a model whose tensors have the types of a mix.
    pub fn of(config: &Config, mix: Mix) -> Self {
        let Config { dim, hidden, vocab, .. } = *config;
        let (plain, output) = mix.plain();
        let (q_dim, kv_dim) = (config.heads * config.head_dim, config.kv_dim());
        // norms, and the biases or head norms that some families have, are f32
        let vectors = 4 * match config.family {
            Family::Qwen2 => 2 * dim + q_dim + 2 * kv_dim,
            Family::Gemma3 => 4 * dim + 2 * config.head_dim,
            _ => 2 * dim + 2 * config.head_dim,
        } as u64;
        let biases = if config.family == Family::Qwen2 { 4 * (q_dim + 2 * kv_dim) as u64 } else { 0 };
        let cut = |i: usize| {
            let [value, out, down] = mix.layer(config, i);
            let heads = matrix(plain, q_dim + kv_dim, dim) + matrix(value, kv_dim, dim) + matrix(out, dim, q_dim);
            Cut { heads: heads + biases, hidden: matrix(plain, 2 * hidden, dim) + matrix(down, dim, hidden), first: 0 }
        };
        let cut: Vec<Cut> = (0..config.layers).map(cut).collect();
        let (norm, tied) = (4 * dim as u64, config.tied);
        // tied embeddings are the output too, and have its type
        let embeddings = matrix(if tied { output } else { plain }, vocab, dim);
        let each = (q_dim * 2 + kv_dim * 2 + hidden * 3) as u64 * dim as u64;
        Self {
            layers: cut.iter().map(|c| c.heads + c.hidden + vectors - biases).collect(),
            cut,
            embeddings,
            head: norm + if tied { 0 } else { matrix(output, vocab, dim) },
            parameters: each * config.layers as u64 + (vocab * dim) as u64 * if tied { 1 } else { 2 },
        }
    }

    /// Of the tensors that a GGUF file's header tells of.
    pub(crate) fn of_gguf(gguf: &Gguf, config: &Config) -> Result<Self> {
        let none = (vec![0; config.layers], vec![Cut::default(); config.layers]);
        let mut weights = Self { layers: none.0, cut: none.1, embeddings: 0, head: 0, parameters: 0 };
        for name in gguf.tensor_names() {
            let Some(info) = gguf.tensor(name) else { continue };
            let bytes = match info.dims[..] {
                [cols, rows] => {
                    let (per, bytes) = gguf.kind(name, rows as usize, cols as usize)?.block();
                    info.elements() / per as u64 * bytes as u64
                }
                _ => 4 * info.elements(), // vectors lie in f32 whatever the file has
            };
            let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
            match layer.map(|i| Some((weights.layers.get_mut(i)?, weights.cut.get_mut(i)?))) {
                Some(Some((sum, cut))) => {
                    *sum += bytes;
                    match held(name) {
                        Held::OfHeads => cut.heads += bytes,
                        Held::OfHidden => cut.hidden += bytes,
                        Held::ByFirst => cut.first += bytes,
                        Held::Whole | Held::OfVocab => {}
                    }
                }
                Some(None) => continue,
                None if name == "token_embd.weight" => weights.embeddings += bytes,
                None if name.starts_with("output") => weights.head += bytes,
                None => continue, // factors of the rotation: not on the device
            }
            weights.parameters += info.elements();
        }
        Ok(weights)
    }

    /// Of the part that one of `parts` GPUs has of every layer, whose configuration is `own`; `config`: the model's.
    pub fn part(&self, config: &Config, own: &Config, (index, parts): (usize, usize)) -> Self {
        let of = |bytes: u64, own: usize, all: usize| (u128::from(bytes) * own as u128).div_ceil(all.max(1) as u128) as u64;
        let layer = |(&all, c): (&u64, &Cut)| {
            let whole = all.saturating_sub(c.heads + c.hidden + c.first) + if index == 0 { c.first } else { 0 };
            whole + of(c.heads, own.heads, config.heads) + of(c.hidden, own.hidden, config.hidden)
        };
        let (norm, rows) = (4 * config.dim as u64, vocab_rows(config.vocab, parts, index).len());
        Self {
            layers: self.layers.iter().zip(&self.cut).map(layer).collect(),
            head: self.head.min(norm) + of(self.head.saturating_sub(norm), rows, config.vocab),
            ..self.clone()
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.layers.iter().sum::<u64>() + self.embeddings + self.head
    }

    /// What a decoded token reads: all but the embeddings, of which it reads a row, unless they are the output too.
    pub fn per_token(&self, tied: bool) -> u64 {
        self.total() - if tied { 0 } else { self.embeddings }
    }
}

impl Shape {
    /// Of a file or folder: a GGUF file's header, or a config.json (its folder) with the weights in a mix. No weight is read.
    ///
    /// # Errors
    /// What is wrong with the file; [`Error::Usage`] for what no plan can be made for.
    pub fn open(path: &Path, mix: Mix) -> Result<Self> {
        let name = path.file_stem().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
        let json = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
        if json.extension().is_some_and(|e| e == "json") {
            let text = weights::read_whole(&json, weights::TEXT).map_err(|source| Error::Io { path: json.clone(), source })?;
            return Self::checked(name, Config::from_json(&text)?, |config| Ok(Weights::of(config, mix)));
        }
        let gguf = Gguf::open(path)?;
        Self::checked(name, Config::from_gguf(&gguf)?, |config| Weights::of_gguf(&gguf, config))
    }

    /// A published model in a mix: `llama3-8b-q4_k_m`, `qwen3-32b-q8_0`.
    ///
    /// # Errors
    /// [`Error::Usage`] with the names there are.
    pub fn published(id: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Entry {
            id: String,
            config: Value,
        }
        let entries: Vec<Entry> = serde_json::from_str(SHAPES).map_err(|e| Error::Internal(format!("shapes.json: {e}")))?;
        let found = entries.iter().find_map(|e| Some((e, id.strip_prefix(&e.id)?.strip_prefix('-')?)));
        let Some((entry, mix)) = found else {
            let ids: Vec<_> = entries.iter().map(|e| e.id.as_str()).collect();
            return Err(Error::Usage(format!(
                "no shape is known of {id:?}: give a GGUF file, a folder with a config.json, or one of {} followed by a type, as \
                 llama3-8b-q4_k_m",
                ids.join(", ")
            )));
        };
        let mix = Mix::named(mix)?;
        Self::checked(id.into(), Config::from_json(entry.config.to_string().as_bytes())?, |config| Ok(Weights::of(config, mix)))
    }

    fn checked(name: String, config: Config, weights: impl Fn(&Config) -> Result<Weights>) -> Result<Self> {
        check(&name, &config)?;
        let weights = weights(&config)?;
        Ok(Self { name, config, weights })
    }

    /// Its size class.
    pub fn tier(&self) -> Tier {
        Tier::of_parameters(self.weights.parameters)
    }
}

/// Whether a plan can be made for a model: nothing overflows then, and no list is longer than a model has a use for.
///
/// # Errors
/// [`Error::Usage`] with the numbers.
pub(crate) fn check(name: &str, config: &Config) -> Result<()> {
    if config.experts.is_some() {
        return Err(Error::Usage(format!("{name} is a mixture of experts, and those run on the processor alone")));
    }
    if config.layers > MAX_LAYERS {
        return Err(Error::Usage(format!("{name} has {} layers; a plan is made for up to {MAX_LAYERS}", config.layers)));
    }
    let widths = [config.dim, config.hidden, config.vocab, config.heads * config.head_dim];
    if widths.iter().any(|&w| w > MAX_WIDTH) {
        return Err(Error::Usage(format!(
            "{name}: width, feed-forward width, vocabulary and width of all heads are {widths:?}; a plan is made for up to \
             {MAX_WIDTH}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes in GiB that were published: of Llama 3 70B in llama.cpp's pull request 6745, of Llama 2 7B by llama-bench in 4766, of
    /// Qwen 3 in 17505.
    #[test]
    fn sizes_are_those_of_published_files() {
        for (id, gib) in [
            ("llama3.3-70b-q2_k", 24.56),
            ("llama3.3-70b-q3_k_m", 31.91),
            ("llama3.3-70b-q4_k_m", 39.60),
            ("llama3.3-70b-q8_0", 69.83),
            ("llama3.3-70b-f16", 131.43),
            ("llama2-7b-q4_0", 3.56),
            ("llama2-7b-q8_0", 6.67),
            ("llama2-7b-f16", 12.55),
            ("qwen3-14b-q4_k_m", 8.38),
            ("qwen3-8b-q8_0", 8.11),
        ] {
            let seen = Shape::published(id).unwrap().weights.total() as f64 / (1u64 << 30) as f64;
            assert!((seen / gib - 1.0).abs() < 0.01, "{id}: {seen:.2} GiB, published {gib}");
        }
    }

    #[test]
    fn all_published_shapes_can_be_read() {
        for entry in serde_json::from_str::<Vec<serde_json::Value>>(SHAPES).unwrap() {
            let id = format!("{}-q4_k_m", entry["id"].as_str().unwrap());
            let shape = Shape::published(&id).unwrap();
            // the number in the name is the number of parameters
            let named = id.split('-').find_map(|p| p.strip_suffix('b')?.parse::<f64>().ok()).unwrap();
            let seen = shape.weights.parameters as f64 / 1e9;
            assert!((seen / named - 1.0).abs() < 0.25, "{id}: {seen:.2}");
            assert_eq!(shape.weights.layers.len(), shape.config.layers);
        }
        let error = Shape::published("gpt-5").unwrap_err().to_string();
        assert!(error.contains("llama3.3-70b") && error.contains("q4_k_m"), "{error}");
        assert!(Shape::published("llama3-8b-q9").unwrap_err().to_string().contains("q8_0"));
    }
}
