//! What distinguishes one family of decoders from another: fields, read from GGUF metadata or a config.json.

use dreamseed_kernels::{Activation, RopeKind};
use serde::Deserialize;

use crate::{
    layers::rope::{Rope, Scaling},
    weights::{Error, Result, gguf::Gguf},
};

/// A family of decoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3, SmolLM, Mistral, Yi and all that are converted as "llama".
    Llama,
    /// Qwen 1.5, 2 and 2.5: biases on query, key and value.
    Qwen2,
    /// Qwen 3: norms on the heads of query and key.
    Qwen3,
    /// Gemma 3: head norms, norms after each block, local layers with a sliding window.
    Gemma3,
}

impl Family {
    /// The families by their names in `general.architecture` and `model_type`.
    pub const NAMES: [(&'static str, Self); 6] = [
        ("llama", Self::Llama),
        ("mistral", Self::Llama),
        ("qwen2", Self::Qwen2),
        ("qwen3", Self::Qwen3),
        ("gemma3", Self::Gemma3),
        ("gemma3_text", Self::Gemma3),
    ];

    fn named(name: &str) -> Result<Self> {
        let found = Self::NAMES.iter().find(|(n, _)| *n == name);
        found.map(|f| f.1).ok_or_else(|| {
            Error::Unsupported(format!(
                "the model's architecture is \"{name}\"; this version runs llama, qwen2, qwen3 and gemma3"
            ))
        })
    }
}

/// Layers that see only the last positions, with a rotation of their own (Gemma 3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Local {
    /// How many positions they see, their own among them.
    pub window: usize,
    /// Every how many-th layer is global: layer `i` is local unless `(i + 1) % pattern == 0`.
    pub pattern: usize,
    /// Base of their rotation; no scaling applies.
    pub rope_base: f64,
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
    /// Width of the feed-forward network.
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
    /// Rotary embedding of the global layers.
    pub rope: Rope,
    /// Which layers are local; `None`: none.
    pub local: Option<Local>,
    /// Query times this before the product with the key.
    pub attention_scale: f32,
    /// Embeddings times this (Gemma: the root of `dim`).
    pub embedding_scale: f32,
    /// Gate of the feed-forward network.
    pub activation: Activation,
    /// Whether the embeddings are the output matrix too.
    pub tied: bool,
    /// Logits become `c tanh(logit / c)`.
    pub logit_softcap: Option<f32>,
    /// Added to stored norm weights (checkpoints of Gemma store weight - 1; GGUF has it added already).
    pub norm_offset: f32,
}

impl Config {
    /// Whether a layer is local.
    pub fn local(&self, layer: usize) -> Option<&Local> {
        self.local.as_ref().filter(|l| !(layer + 1).is_multiple_of(l.pattern))
    }

    /// Width of all keys (or values) of one position.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// From GGUF metadata. Tensors give what the metadata leave out (size of the vocabulary).
    ///
    /// # Errors
    /// [`Error::Field`] for missing or impossible values, [`Error::Unsupported`] for families and kinds this version does not run.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let arch = gguf.str("general.architecture")?.ok_or_else(|| gguf.field_error("general.architecture", "is missing"))?;
        let family = Family::named(arch)?;
        let keys = Keys { gguf, arch };
        if keys.usize("expert_count")?.unwrap_or(0) > 0 {
            return Err(Error::Unsupported("a mixture of experts; this version runs dense models".into()));
        }
        let dim = keys.needed("embedding_length")?;
        let heads = keys.needed("attention.head_count")?;
        let head_dim = match keys.usize("attention.key_length")? {
            Some(n) => n,
            None if dim.is_multiple_of(heads) => dim / heads,
            None => return Err(keys.error("attention.head_count", format!("{heads} heads do not divide a width of {dim}"))),
        };
        if keys.usize("attention.value_length")?.is_some_and(|v| v != head_dim) {
            return Err(
                keys.error("attention.value_length", format!("differs from the key length {head_dim}; this version needs one"))
            );
        }
        let layers = keys.needed("block_count")?;
        let vocab = match gguf.tensor("token_embd.weight") {
            Some(info) if info.dims.len() == 2 => usize::try_from(info.dims[1]).unwrap_or(usize::MAX),
            _ => return Err(Error::Tensor { name: "token_embd.weight".into(), problem: "a matrix is needed".into() }),
        };
        let gemma = family == Family::Gemma3;
        let config = Self {
            family,
            vocab,
            dim,
            hidden: keys.needed("feed_forward_length")?,
            layers,
            heads,
            kv_heads: keys.usize("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            context: keys.needed("context_length")?,
            eps: keys.f64("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6) as f32,
            rope: Rope {
                kind: if family == Family::Llama { RopeKind::Interleaved } else { RopeKind::HalfSplit },
                dims: keys.usize("rope.dimension_count")?.unwrap_or(head_dim),
                base: keys.f64("rope.freq_base")?.unwrap_or(10_000.0),
                scaling: keys.scaling()?,
            },
            local: gemma_local(family, keys.usize("attention.sliding_window")?, keys.f64("rope.freq_base_swa")?, 6),
            // Gemma 3 27B (62 layers) scales by the width over the heads, all others by the width of a head.
            attention_scale: if gemma && layers == 62 { (dim / heads) as f32 } else { head_dim as f32 }.sqrt().recip(),
            embedding_scale: if gemma { (dim as f32).sqrt() } else { 1.0 },
            activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
            tied: gguf.tensor("output.weight").is_none(),
            logit_softcap: keys.f64("final_logit_softcapping")?.map(|c| c as f32),
            norm_offset: 0.0,
        };
        config.check(|problem| keys.error("attention.head_count", problem))?;
        Ok(config)
    }

    /// From the config.json of HF transformers.
    ///
    /// # Errors
    /// [`Error::Field`] for missing or impossible values, [`Error::Unsupported`] for families and kinds this version does not run.
    pub fn from_json(text: &[u8]) -> Result<Self> {
        let error = |field: &str, offset, problem| Error::Field { format: "config.json", field: field.into(), offset, problem };
        let json: Json = serde_json::from_slice(text).map_err(|e| error("model", e.column() as u64, e.to_string()))?;
        let family = Family::named(&json.model_type)?;
        let gemma = family == Family::Gemma3;
        let expected = if gemma { "gelu_pytorch_tanh" } else { "silu" };
        let activation = json.hidden_activation.or(json.hidden_act).unwrap_or_else(|| expected.into());
        if activation != expected {
            return Err(Error::Unsupported(format!(
                "the activation \"{activation}\"; {} uses \"{expected}\"",
                json.model_type
            )));
        }
        let heads = json.num_attention_heads.max(1);
        let head_dim = json.head_dim.unwrap_or(json.hidden_size / heads);
        let parameters = json.rope_parameters.or(json.rope_scaling);
        let base = json.rope_theta.or(parameters.as_ref().and_then(|p| p.rope_theta));
        let base = base.unwrap_or(if gemma { 1e6 } else { 1e4 });
        let scalar = json.query_pre_attn_scalar.unwrap_or(head_dim as f64);
        let config = Self {
            family,
            vocab: json.vocab_size,
            dim: json.hidden_size,
            hidden: json.intermediate_size,
            layers: json.num_hidden_layers,
            heads,
            kv_heads: json.num_key_value_heads.unwrap_or(heads),
            head_dim,
            context: json.max_position_embeddings,
            eps: json.rms_norm_eps as f32,
            rope: Rope {
                kind: RopeKind::HalfSplit,
                dims: head_dim,
                base,
                scaling: parameters.map_or(Ok(Scaling::None), RopeJson::scaling)?,
            },
            local: gemma_local(
                family,
                json.sliding_window,
                json.rope_local_base_freq,
                json.sliding_window_pattern.unwrap_or(6),
            ),
            attention_scale: scalar.sqrt().recip() as f32,
            embedding_scale: if gemma { (json.hidden_size as f32).sqrt() } else { 1.0 },
            activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
            tied: json.tie_word_embeddings.unwrap_or(gemma),
            logit_softcap: json.final_logit_softcapping,
            norm_offset: if gemma { 1.0 } else { 0.0 },
        };
        config.check(|problem| error("num_attention_heads", 0, problem))?;
        Ok(config)
    }

    fn check(&self, error: impl Fn(String) -> Error) -> Result<()> {
        let sizes = [self.vocab, self.dim, self.hidden, self.layers, self.heads, self.kv_heads, self.head_dim, self.context];
        let problem = if sizes.contains(&0) || sizes.iter().any(|&n| n > 1 << 30) {
            "a size of 0 or above 2^30: vocabulary, width, feed-forward width, layers, heads, key heads, head width, context are "
                .to_owned()
                + &format!("{sizes:?}")
        } else if !self.heads.is_multiple_of(self.kv_heads) {
            format!("{} query heads are no multiple of {} key heads", self.heads, self.kv_heads)
        } else if self.rope.dims > self.head_dim || !self.rope.dims.is_multiple_of(2) || self.rope.dims == 0 {
            format!(
                "rotary embedding of {} of {} dimensions; an even number up to all is allowed",
                self.rope.dims, self.head_dim
            )
        } else if !(self.eps >= 0.0 && self.eps < 1.0 && self.rope.base > 0.0 && self.attention_scale.is_finite()) {
            format!("epsilon {}, rotary base {}, attention scale {}", self.eps, self.rope.base, self.attention_scale)
        } else if self.local.is_some_and(|l| l.window == 0 || l.pattern == 0 || l.rope_base <= 0.0) {
            format!("local layers {:?}: all must be positive", self.local)
        } else {
            return Ok(());
        };
        Err(error(problem))
    }
}

/// Other families name a window too (Mistral, Qwen 2), but their converted weights are run without one, as llama.cpp does.
fn gemma_local(family: Family, window: Option<usize>, rope_base: Option<f64>, pattern: usize) -> Option<Local> {
    let window = window.filter(|_| family == Family::Gemma3)?;
    Some(Local { window, pattern, rope_base: rope_base.unwrap_or(10_000.0) })
}

/// Metadata under the architecture's name.
struct Keys<'a> {
    gguf: &'a Gguf,
    arch: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    fn error(&self, name: &str, problem: impl Into<String>) -> Error {
        self.gguf.field_error(&self.key(name), problem)
    }

    fn usize(&self, name: &str) -> Result<Option<usize>> {
        let value = self.gguf.u64(&self.key(name))?;
        value.map(|v| usize::try_from(v).map_err(|_| self.error(name, format!("{v} is too large")))).transpose()
    }

    fn needed(&self, name: &str) -> Result<usize> {
        match self.usize(name)? {
            Some(v) if v > 0 => Ok(v),
            Some(_) => Err(self.error(name, "is 0")),
            None => Err(self.error(name, "is missing")),
        }
    }

    fn f64(&self, name: &str) -> Result<Option<f64>> {
        self.gguf.f64(&self.key(name))
    }

    fn scaling(&self) -> Result<Scaling> {
        let factor = self.f64("rope.scaling.factor")?.or(self.f64("rope.scale_linear")?).unwrap_or(1.0);
        if factor <= 0.0 {
            return Err(self.error("rope.scaling.factor", format!("{factor}; a positive number is needed")));
        }
        match self.gguf.str(&self.key("rope.scaling.type"))? {
            Some("none") => Ok(Scaling::None),
            None | Some("linear") if factor == 1.0 => Ok(Scaling::None),
            None | Some("linear") => Ok(Scaling::Linear { factor }),
            Some("yarn") => {
                let original = self.usize("rope.scaling.original_context_length")?.unwrap_or(self.needed("context_length")?);
                Ok(Scaling::Yarn { factor, original })
            }
            Some(other) => Err(Error::Unsupported(format!("rope.scaling.type \"{other}\"; none, linear and yarn are known"))),
        }
    }
}

#[derive(Deserialize)]
struct Json {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rope_parameters: Option<RopeJson>,
    rope_scaling: Option<RopeJson>,
    sliding_window: Option<usize>,
    sliding_window_pattern: Option<usize>,
    query_pre_attn_scalar: Option<f64>,
    final_logit_softcapping: Option<f32>,
    tie_word_embeddings: Option<bool>,
}

#[derive(Deserialize)]
struct RopeJson {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

impl RopeJson {
    fn scaling(self) -> Result<Scaling> {
        let missing = |field: &str| Error::Field {
            format: "config.json",
            field: format!("rope_scaling.{field}"),
            offset: 0,
            problem: "is missing or not positive".into(),
        };
        let factor = self.factor.filter(|f| *f > 0.0).ok_or_else(|| missing("factor"));
        let original = self.original_max_position_embeddings.filter(|n| *n > 0);
        let original = original.ok_or_else(|| missing("original_max_position_embeddings"));
        match self.rope_type.as_deref() {
            None | Some("default") => Ok(Scaling::None),
            Some("linear") => Ok(Scaling::Linear { factor: factor? }),
            Some("yarn") => Ok(Scaling::Yarn { factor: factor?, original: original? }),
            Some("llama3") => Ok(Scaling::Llama3 {
                factor: factor?,
                low: self.low_freq_factor.filter(|f| *f > 0.0).ok_or_else(|| missing("low_freq_factor"))?,
                high: self.high_freq_factor.filter(|f| *f > 0.0).ok_or_else(|| missing("high_freq_factor"))?,
                original: original?,
            }),
            Some(other) => {
                Err(Error::Unsupported(format!("rope scaling \"{other}\"; default, linear, yarn and llama3 are known")))
            }
        }
    }
}
