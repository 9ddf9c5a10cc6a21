//! What a model needs of a GPU's memory: pure arithmetic, the same for a plan and for an engine about to load it.

use dreamseed_kernels::KV_BLOCK;
use dreamseed_models::decoder::{Config, shards::vocab_rows};
use serde::Serialize;

use crate::config::Cache;

/// Rows of the largest launch: those of the decoder's buffers.
pub const ROWS: u64 = 512;
/// Most rows of a launch whose attention is computed by several blocks of threads each; as in the decoder.
pub const FEW: u64 = 8;
/// Most sequences of a launch; as in the decoder.
const SEQUENCES: u64 = 64;
/// Most rows whose logits are computed together; as in the decoder.
pub const HEADS: u64 = 32;
/// Blocks of threads that share a head's context, at most; as in the decoder.
const SPLITS: u64 = 64;
/// What a process's context takes before anything is allocated, and what rounding up to pages costs: measured contexts take about
/// 300 MB (ollama's pull request 12102, PyTorch's issue 107667); pages are 2 MiB.
pub const CONTEXT: u64 = 512 << 20;

/// What NCCL keeps on each GPU that takes part: an assumption, for it depends on the machine. Buffers of a channel are 4 MiB and more,
/// and there are from two to some dozens of them.
pub const TOGETHER: u64 = 256 << 20;

/// Sequences at once and positions of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Wish {
    /// Sequences that are decoded at once.
    pub sequences: u64,
    /// Positions of each: prompt and answer.
    pub positions: u64,
    /// How keys and values are stored.
    pub cache: Cache,
}

/// The part of a model that one device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Layers.
    pub layers: u64,
    /// Whether the head is among it.
    pub ends: bool,
    /// GPUs that have a part of every layer; 1: whole layers. The configuration beside it is the part's.
    pub over: u64,
}

impl Part {
    /// All of a model.
    pub fn whole(config: &Config) -> Self {
        Self { layers: config.layers as u64, ends: true, over: 1 }
    }
}

/// Bytes on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Need {
    /// Weights.
    pub weights: u64,
    /// Keys and values, in blocks.
    pub kv: u64,
    /// Buffers of a pass and tables of the rotation.
    pub workspace: u64,
}

impl Need {
    /// All together.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.workspace)
    }
}

/// A wish that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fit {
    /// What it needs.
    pub need: Need,
    /// Blocks of the store.
    pub blocks: u64,
    /// Most positions of as many sequences, up to what the model was trained on.
    pub most_positions: u64,
    /// Most sequences of as many positions.
    pub most_sequences: u64,
}

/// Why a wish is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing is wished, or more than the model can.
    #[error(
        "{positions} positions of {sequences} sequence(s) are wished; 1 to {context} positions, which the model was \
         trained on, and at least 1 sequence are allowed"
    )]
    Wish {
        /// Wished.
        positions: u64,
        /// Wished.
        sequences: u64,
        /// Positions that the model was trained on.
        context: u64,
    },
    /// The weights alone are too large.
    #[error(
        "{} are needed for weights and buffers alone, and {} are free: {} too few; take a smaller model or fewer bits",
        gb(*.needed), gb(*.free), gb(.needed.saturating_sub(*.free))
    )]
    Weights {
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// Keys and values are.
    #[error(
        "{} are needed, and {} are free: {} too few; {} fit",
        gb(*.needed), gb(*.free), gb(.needed.saturating_sub(*.free)), smaller(*.most_positions, *.most_sequences, .wish)
    )]
    Context {
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
        /// What was wished.
        wish: Wish,
        /// Most positions of as many sequences.
        most_positions: u64,
        /// Most sequences of as many positions; 0: not one.
        most_sequences: u64,
    },
}

/// Bytes in GB for people.
pub fn gb(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

fn smaller(positions: u64, sequences: u64, wish: &Wish) -> String {
    let shorter = format!("{positions} positions of {} sequence(s)", wish.sequences);
    if sequences == 0 { shorter } else { format!("{shorter}, or {sequences} sequence(s) of {} positions,", wish.positions) }
}

fn product(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |all, &f| all.saturating_mul(f))
}

/// Blocks of a sequence of so many positions.
fn blocks_of(positions: u64) -> u64 {
    positions.div_ceil(KV_BLOCK as u64)
}

/// Bytes of a block of some of a model's layers.
fn block_bytes(config: &Config, layers: u64, cache: Cache) -> u64 {
    product(&[layers, config.kv_heads as u64, 2 * KV_BLOCK as u64, head_bytes(config.head_dim as u64, cache)])
}

/// Bytes of a key or a value of one head.
pub fn head_bytes(head_dim: u64, cache: Cache) -> u64 {
    match cache {
        Cache::F32 => head_dim.saturating_mul(4),
        Cache::F16 => head_dim.saturating_mul(2),
        Cache::Q8_0 => head_dim.saturating_add(2 * head_dim.div_ceil(32)), // a byte each, and a scale for each 32
    }
}

/// Bytes of the decoder's buffers on a GPU for a store of `blocks` blocks: those of its `State` but the store itself.
pub fn workspace(config: &Config, part: Part, multiprocessors: u64, blocks: u64) -> u64 {
    let [dim, hidden, vocab, heads, kv_heads, head_dim] =
        [config.dim, config.hidden, config.vocab, config.heads, config.kv_heads, config.head_dim].map(|n| n as u64);
    let (q_dim, kv_dim) = (heads.saturating_mul(head_dim), kv_heads.saturating_mul(head_dim));
    let sum = |of: &[u64]| of.iter().fold(0u64, |sum, &n| sum.saturating_add(n));
    // floats of a row: x, h, q, attended, k, v, gate
    let row = sum(&[dim, dim, q_dim, q_dim, kv_dim, kv_dim, hidden]).saturating_mul(4);
    // codes of a byte, and two floats for each 32
    let codes = |width: u64| width.saturating_add(width.div_ceil(32).saturating_mul(8));
    let coded = |width: u64| if width.is_multiple_of(32) { codes(width) } else { 0 };
    let quantized = sum(&[coded(dim), codes(q_dim), coded(hidden)]);
    // token, position, turn and sequence
    let rows = sum(&[row, quantized, 16]).saturating_mul(ROWS);
    // span and table of a sequence
    let sequences = 12u64.saturating_add(blocks.saturating_mul(4)).saturating_mul(SEQUENCES);
    let splits = (2 * multiprocessors).div_ceil(kv_heads).clamp(1, blocks.clamp(1, SPLITS));
    let partial = product(&[heads, splits, head_dim + 2]).saturating_add(heads).saturating_mul(4 * FEW);
    // the residual stream and the logits of a row of the head, which row it is, how its token is chosen, which it is
    let ends = sum(&[dim, vocab]).saturating_mul(4).saturating_add(4 + 24 + 8).saturating_mul(HEADS);
    // of a head in parts the own logits, and those of all before they are put together
    let columns = vocab_rows(config.vocab, part.over as usize, 0).len() as u64;
    let gathered = if part.over > 1 { product(&[columns, part.over + 1, 4, HEADS]) } else { 0 };
    // cosines and sines of every position, again where long sequences have others, and for local layers
    let long = config.rope.rotation().is_long(usize::MAX)
        || config.local.as_ref().and_then(|l| l.rope.as_ref()).is_some_and(|r| r.rotation().is_long(usize::MAX));
    let tables = (1 + u64::from(config.local.is_some())) * (1 + u64::from(long));
    let turns = product(&[tables, blocks, KV_BLOCK as u64, config.rope.dims as u64, 4]);
    sum(&[rows, sequences, partial, turns, if part.ends { ends.saturating_add(gathered) } else { 0 }])
}

/// What a part of a model needs of a device.
pub fn need(config: &Config, part: Part, weights: u64, multiprocessors: u64, wish: Wish) -> Need {
    let blocks = blocks_of(wish.positions).saturating_mul(wish.sequences);
    let kv = blocks.saturating_mul(block_bytes(config, part.layers, wish.cache));
    Need { weights, kv, workspace: workspace(config, part, multiprocessors, blocks) }
}

/// Whether a wish is within what the model can.
///
/// # Errors
/// [`Refusal::Wish`].
pub fn check(config: &Config, wish: Wish) -> Result<(), Refusal> {
    let (Wish { sequences, positions, .. }, context) = (wish, config.context as u64);
    match sequences > 0 && (1..=context).contains(&positions) {
        true => Ok(()),
        false => Err(Refusal::Wish { positions, sequences, context }),
    }
}

/// Whether a wish fits into `free` bytes (of a context that is there already) beside `weights` bytes of weights, and how much more or
/// less would.
///
/// # Errors
/// [`Refusal`] with the numbers.
pub fn budget(free: u64, config: &Config, weights: u64, multiprocessors: u64, wish: Wish) -> Result<Fit, Refusal> {
    check(config, wish)?;
    let (Wish { sequences, positions, .. }, context) = (wish, config.context as u64);
    let of = |wish| need(config, Part::whole(config), weights, multiprocessors, wish);
    let fits = |wish| of(wish).total() <= free;
    let most_blocks = most(blocks_of(context), |n| fits(Wish { positions: n * KV_BLOCK as u64, ..wish }));
    let most_positions = (most_blocks * KV_BLOCK as u64).min(context);
    let most_sequences = most(1 << 20, |n| fits(Wish { sequences: n, ..wish }));
    let needed = of(wish);
    if needed.total() <= free {
        let blocks = blocks_of(positions) * sequences;
        return Ok(Fit { need: needed, blocks, most_positions, most_sequences });
    }
    let least = of(Wish { positions: 1, ..wish }).total();
    if most_positions == 0 && most_sequences == 0 {
        return Err(Refusal::Weights { needed: least, free });
    }
    Err(Refusal::Context { needed: needed.total(), free, wish, most_positions, most_sequences })
}

/// The largest of 0 to `end` for which `fits` holds, which it does for 0 and for all below one for which it does.
pub(crate) fn most(end: u64, fits: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, end);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}
