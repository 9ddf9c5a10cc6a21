//! What distinguishes one family of decoders from another: fields, read from GGUF metadata or a config.json.

mod gguf;
mod json;

use dreamseed_kernels::Activation;

use crate::{
    layers::rope::Rope,
    weights::{Error, Result},
};

/// A family of decoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3, SmolLM, Yi and all that are converted as "llama" (Mistral among them).
    Llama,
    /// Mistral: llama whose layers may see a window only.
    Mistral,
    /// Qwen 1.5, 2 and 2.5: biases on query, key and value.
    Qwen2,
    /// Qwen 3, and the decoder of Qwen 3 VL: norms on the heads of query and key.
    Qwen3,
    /// Qwen 3 with a mixture of experts for its feed-forward network.
    Qwen3Moe,
    /// Gemma 3: head norms, norms after each block, local layers with a sliding window.
    Gemma3,
    /// Phi 3 and 4: joined projections, LongRoPE.
    Phi3,
}

impl Family {
    /// The families by their names in `general.architecture` and `model_type`.
    pub const NAMES: [(&'static str, Self); 11] = [
        ("llama", Self::Llama),
        ("mistral", Self::Mistral),
        ("qwen2", Self::Qwen2),
        ("qwen3", Self::Qwen3),
        ("qwen3vl", Self::Qwen3),
        ("qwen3_vl_text", Self::Qwen3),
        ("qwen3moe", Self::Qwen3Moe),
        ("qwen3_moe", Self::Qwen3Moe),
        ("gemma3", Self::Gemma3),
        ("gemma3_text", Self::Gemma3),
        ("phi3", Self::Phi3),
    ];

    fn named(name: &str) -> Result<Self> {
        let found = Self::NAMES.iter().find(|(n, _)| *n == name);
        found.map(|f| f.1).ok_or_else(|| {
            let runs = "llama, mistral, qwen2, qwen3, qwen3vl, qwen3moe, gemma3 and phi3";
            Error::Unsupported(format!("the model's architecture is \"{name}\"; this version runs {runs}"))
        })
    }

    /// Whether each head of query and key has a norm.
    pub(super) fn has_head_norms(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Qwen3Moe | Self::Gemma3)
    }
}

/// Layers that see only the last positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// How many positions they see, their own among them.
    pub window: usize,
    /// Which layers.
    pub layers: Layers,
    /// A rotation of their own (Gemma 3); `None`: that of the other layers.
    pub rope: Option<Rope>,
}

/// Some of a decoder's layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layers {
    /// All.
    All,
    /// All but every n-th: not layer `i` where `(i + 1) % n == 0`.
    AllBut(usize),
    /// From the n-th on.
    From(usize),
    /// Those with `true`.
    Listed(Vec<bool>), // (layers)
}

impl Layers {
    /// Whether a layer is among them.
    pub fn contains(&self, layer: usize) -> bool {
        match self {
            Self::All => true,
            Self::AllBut(n) => !(layer + 1).is_multiple_of(*n),
            Self::From(n) => layer >= *n,
            Self::Listed(list) => list.get(layer) == Some(&true),
        }
    }
}

/// A mixture of experts in place of the feed-forward network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many each token goes to.
    pub used: usize,
    /// Width of each.
    pub hidden: usize,
    /// Whether the weights of the chosen ones are divided by their sum.
    pub renormalise: bool,
    /// Every how many-th layer has them: layer `i` where `(i + 1) % step == 0`.
    pub step: usize,
    /// Layers that have none all the same.
    pub dense: Vec<usize>,
}

impl Experts {
    /// Whether a layer has experts.
    pub fn on(&self, layer: usize) -> bool {
        (layer + 1).is_multiple_of(self.step) && !self.dense.contains(&layer)
    }
}

/// The shape and kind of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Family; what follows says all that differs.
    pub family: Family,
    /// Tokens.
    pub vocab: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Width of the feed-forward network; of one expert where all layers have experts.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions the model was trained on.
    pub context: usize,
    /// Added to the mean square in each RMS norm.
    pub eps: f32,
    /// Rotary embedding.
    pub rope: Rope,
    /// Which layers are local; `None`: none.
    pub local: Option<Local>,
    /// Query times this before the product with the key.
    pub attention_scale: f32,
    /// Embeddings times this (Gemma: the root of `dim`).
    pub embedding_scale: f32,
    /// Gate of the feed-forward network.
    pub activation: Activation,
    /// Experts, where it has any.
    pub experts: Option<Experts>,
    /// Whether the embeddings are the output matrix too.
    pub tied: bool,
    /// Logits become `c tanh(logit / c)`.
    pub logit_softcap: Option<f32>,
    /// Added to stored norm weights (checkpoints of Gemma store weight - 1; GGUF has it added already).
    pub norm_offset: f32,
    /// Pairs of the rotation that time, height and width have, where a picture's rows stand at all three (Qwen 3 VL).
    pub sections: Option<[usize; 3]>,
    /// Layers from the first on after which features are added to a picture's rows.
    pub deepstack: usize,
    /// Whether a picture's rows see each other, those behind them too (Gemma 3): they go into one pass.
    pub whole_pictures: bool,
}

/// Most experts a model may have: above any model's, and few enough for the buffers that grow with them.
const MAX_EXPERTS: usize = 1024;
/// Largest of all other sizes: above any model's, below what could overflow when two are multiplied.
const MAX_SIZE: usize = 1 << 30;

impl Config {
    /// What a layer is limited to, where it is local.
    pub fn local(&self, layer: usize) -> Option<&Local> {
        self.local.as_ref().filter(|l| l.layers.contains(layer))
    }

    /// The experts of a layer, where it has any.
    pub fn experts(&self, layer: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|e| e.on(layer))
    }

    /// Width of all keys (or values) of one position.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// What is wrong with the numbers, if anything: a field (by its GGUF name) and a sentence.
    fn problem(&self) -> Option<(&'static str, String)> {
        let sizes = [self.vocab, self.dim, self.hidden, self.layers, self.heads, self.kv_heads, self.head_dim, self.context];
        if sizes.contains(&0) || sizes.iter().any(|&n| n > MAX_SIZE) {
            let names = "vocabulary, width, feed-forward width, layers, heads, key heads, head width, context";
            return Some(("block_count", format!("a size of 0 or above 2^30: {names} are {sizes:?}")));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let problem = format!("{} query heads are no multiple of {} key heads", self.heads, self.kv_heads);
            return Some(("attention.head_count", problem));
        }
        let ropes = [Some(&self.rope), self.local.as_ref().and_then(|l| l.rope.as_ref())];
        for rope in ropes.into_iter().flatten() {
            if rope.dims > self.head_dim || !rope.dims.is_multiple_of(2) || rope.dims == 0 {
                let problem =
                    format!("{} of {} dimensions turn; an even number up to all is allowed", rope.dims, self.head_dim);
                return Some(("rope.dimension_count", problem));
            }
            if let Some(problem) = rope.problem() {
                return Some(("rope.scaling", problem));
            }
        }
        let scales = [self.attention_scale, self.embedding_scale, self.logit_softcap.unwrap_or(1.0)];
        if !(self.eps >= 0.0 && self.eps < 1.0) || scales.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
            let problem = format!("{} of 0 to 1, scales of attention, embeddings and logits {scales:?}: positive", self.eps);
            return Some(("attention.layer_norm_rms_epsilon", problem));
        }
        if let Some(sections) = self.sections
            && sections.iter().try_fold(0usize, |sum, n| sum.checked_add(*n)) != Some(self.rope.dims / 2)
        {
            let problem = format!("{sections:?}: their sum is to be the {} rotated pairs", self.rope.dims / 2);
            return Some(("rope.dimension_sections", problem));
        }
        if self.deepstack > self.layers {
            let problem = format!("features after {} of {} layers", self.deepstack, self.layers);
            return Some(("n_deepstack_layers", problem));
        }
        self.local_problem().or_else(|| self.experts_problem())
    }

    fn local_problem(&self) -> Option<(&'static str, String)> {
        let local = self.local.as_ref()?;
        if local.window == 0 {
            return Some(("attention.sliding_window", "a window of 0 positions; at least 1 is needed".into()));
        }
        let pattern = "attention.sliding_window_pattern";
        match &local.layers {
            Layers::AllBut(0) => Some((pattern, "every 0th layer; at least 1 is needed".into())),
            Layers::Listed(list) if list.len() != self.layers => {
                Some((pattern, format!("tells {} layers of {}; one entry a layer is needed", list.len(), self.layers)))
            }
            _ => None,
        }
    }

    fn experts_problem(&self) -> Option<(&'static str, String)> {
        let Experts { count, used, hidden, step, .. } = *self.experts.as_ref()?;
        if !(1..=MAX_EXPERTS).contains(&count) {
            Some(("expert_count", format!("{count} experts; 1 to {MAX_EXPERTS} are allowed")))
        } else if !(1..=count).contains(&used) {
            Some(("expert_used_count", format!("{used} of {count} experts for each token; 1 to all are allowed")))
        } else if !(1..=MAX_SIZE).contains(&hidden) || step == 0 {
            let problem =
                format!("experts of width {hidden} in every {step}-th layer; both must be positive, the width at most 2^30");
            Some(("expert_feed_forward_length", problem))
        } else {
            None
        }
    }
}
