//! A decoder's configuration from the config.json of HF transformers, in the forms of its versions 4 and 5.

use dreamseed_kernels::{Activation, RopeKind};
use serde::{Deserialize, Deserializer};

use super::{Config, Experts, Family, Layers, Local};
use crate::{
    layers::rope::{Rope, Scaling, long_magnitude, yarn_magnitude},
    weights::{Error, Result},
};

/// The file's fields. What models leave out has the default of the family's class in transformers.
#[derive(Deserialize)]
struct Json {
    model_type: String,
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    original_max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rope_parameters: Option<RopeJson>,
    rope_scaling: Option<RopeJson>,
    partial_rotary_factor: Option<f64>,
    #[serde(default, deserialize_with = "given")]
    sliding_window: Option<Option<usize>>, // not given, null, a number
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    sliding_window_pattern: Option<usize>,
    #[serde(rename = "_sliding_window_pattern")]
    saved_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    use_bidirectional_attention: Option<bool>,
    query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f32>,
    tie_word_embeddings: Option<bool>,
    num_experts: Option<usize>,
    num_local_experts: Option<usize>, // its name in version 5
    num_experts_per_tok: Option<usize>,
    moe_intermediate_size: Option<usize>,
    norm_topk_prob: Option<bool>,
    decoder_sparse_step: Option<usize>,
    mlp_only_layers: Option<Vec<usize>>,
}

/// `rope_scaling` or `rope_parameters`; the latter may hold one for each kind of layer.
#[derive(Clone, Default, Deserialize)]
struct RopeJson {
    full_attention: Option<Box<Self>>,
    sliding_attention: Option<Box<Self>>,
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    attention_factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
    mrope_section: Option<Vec<usize>>,
    mrope_interleaved: Option<bool>,
    short_factor: Option<Vec<f32>>,
    long_factor: Option<Vec<f32>>,
}

fn given<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Option<usize>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn error(field: &str, offset: u64, problem: impl Into<String>) -> Error {
    Error::Field { format: "config.json", field: field.into(), offset, problem: problem.into() }
}

fn need<T>(value: Option<T>, field: &str) -> Result<T> {
    value.ok_or_else(|| error(field, 0, "is missing"))
}

impl Config {
    /// From the config.json of HF transformers; of a model that sees too, the part for text.
    ///
    /// # Errors
    /// [`Error::Field`] for missing or impossible values, [`Error::Unsupported`] for families and kinds this version does not run.
    pub fn from_json(text: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Outer {
            text_config: Option<Json>,
            #[serde(default)]
            vision_config: Vision,
        }
        #[derive(Default, Deserialize)]
        struct Vision {
            #[serde(default)]
            deepstack_visual_indexes: Vec<usize>,
        }
        let unread = |e: serde_json::Error| error("model", e.column() as u64, e.to_string());
        let outer: Outer = serde_json::from_slice(text).map_err(unread)?;
        let json = outer.text_config.map_or_else(|| serde_json::from_slice(text).map_err(unread), Ok)?;
        let family = Family::named(&json.model_type)?;
        let mut config = json.config(family)?;
        if config.sections.is_some() {
            config.deepstack = outer.vision_config.deepstack_visual_indexes.len();
        }
        match config.problem() {
            Some((field, problem)) => Err(error(field, 0, problem)),
            None => Ok(config),
        }
    }
}

impl Json {
    fn config(&self, family: Family) -> Result<Config> {
        let gemma = family == Family::Gemma3;
        self.refuse(gemma)?;
        let or = |value: Option<usize>, default: usize| value.or(gemma.then_some(default));
        let dim = need(self.hidden_size, "hidden_size")?;
        let heads = need(or(self.num_attention_heads, 8), "num_attention_heads")?;
        let layers = need(self.num_hidden_layers, "num_hidden_layers")?;
        let head_dim = self.head_dim.unwrap_or(match family {
            Family::Gemma3 => 256,
            Family::Qwen3 => 128,
            _ => dim / heads.max(1),
        });
        let context = need(or(self.max_position_embeddings, 131_072), "max_position_embeddings")?;
        let rope = self.rope(family, head_dim, context)?;
        let experts = (family == Family::Qwen3Moe).then(|| self.experts()).transpose()?;
        let hidden = match &experts {
            Some(e) if (e.step == 1 || layers == 0) && e.dense.iter().all(|d| *d >= layers) => e.hidden,
            _ => need(self.intermediate_size, "intermediate_size")?,
        };
        Ok(Config {
            family,
            vocab: need(or(self.vocab_size, 262_208), "vocab_size")?,
            dim,
            hidden,
            layers,
            heads,
            kv_heads: or(self.num_key_value_heads, 4).unwrap_or(heads),
            head_dim,
            context,
            eps: self.rms_norm_eps.unwrap_or(1e-6) as f32,
            local: self.local(family, &rope, context)?,
            rope,
            attention_scale: self.query_pre_attn_scalar.unwrap_or(if gemma { 256.0 } else { head_dim as f64 }).sqrt().recip()
                as f32,
            embedding_scale: if gemma { (dim as f32).sqrt() } else { 1.0 },
            activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
            experts,
            tied: self.tie_word_embeddings.unwrap_or(gemma),
            logit_softcap: self.final_logit_softcapping,
            norm_offset: if gemma { 1.0 } else { 0.0 },
            sections: self.sections()?,
            deepstack: 0,
            whole_pictures: gemma,
        })
    }

    /// Sections of the rotation, in models that see.
    fn sections(&self) -> Result<Option<[usize; 3]>> {
        if self.model_type != "qwen3_vl_text" {
            return Ok(None);
        }
        let rope = self.rope_scaling.as_ref().or(self.rope_parameters.as_ref());
        if let Some(false) = rope.and_then(|r| r.mrope_interleaved) {
            return Err(Error::Unsupported("mrope_interleaved false; this version runs sections that take turns".into()));
        }
        match rope.and_then(|r| r.mrope_section.as_deref()) {
            None => Ok(Some([24, 20, 20])),
            Some(&[t, h, w]) => Ok(Some([t, h, w])),
            Some(other) => Err(error("rope_parameters.mrope_section", 0, format!("{other:?}; three numbers are needed"))),
        }
    }

    /// What changes the arithmetic in a way that this version does not run.
    fn refuse(&self, gemma: bool) -> Result<()> {
        let expected = if gemma { "gelu_pytorch_tanh" } else { "silu" };
        let activation = self.hidden_activation.as_deref().or(self.hidden_act.as_deref()).unwrap_or(expected);
        let what = if activation != expected {
            format!("the activation \"{activation}\"; {} uses \"{expected}\"", self.model_type)
        } else if let Some(cap) = self.attn_logit_softcapping {
            format!("attn_logit_softcapping {cap}; this version runs models without")
        } else if self.use_bidirectional_attention == Some(true) {
            "use_bidirectional_attention: an encoder, not a decoder".into()
        } else {
            return Ok(());
        };
        Err(Error::Unsupported(what))
    }

    fn rope(&self, family: Family, head_dim: usize, context: usize) -> Result<Rope> {
        let all = self.rope_scaling.as_ref().or(self.rope_parameters.as_ref());
        let json = all.map(|all| all.full_attention.as_deref().unwrap_or(all)).cloned().unwrap_or_default();
        let default = if family == Family::Gemma3 { 1e6 } else { 1e4 };
        let partial = json.partial_rotary_factor.or(self.partial_rotary_factor).unwrap_or(1.0);
        if partial != 1.0 && family != Family::Phi3 {
            return Err(Error::Unsupported(format!("partial_rotary_factor {partial} in {}; phi3 has one", self.model_type)));
        }
        Ok(Rope {
            kind: RopeKind::HalfSplit,
            dims: (head_dim as f64 * partial) as usize,
            base: json.rope_theta.or(self.rope_theta).unwrap_or(default),
            divisors: Vec::new(),
            scaling: json.scaling(family, self.original_max_position_embeddings, context)?,
        })
    }

    fn local(&self, family: Family, rope: &Rope, context: usize) -> Result<Option<Local>> {
        let listed = match family {
            Family::Qwen2 | Family::Qwen3 | Family::Gemma3 => self.listed()?,
            _ => None,
        };
        let (used, default) = match family {
            Family::Llama => (false, None),
            Family::Phi3 => (true, None),
            Family::Mistral | Family::Gemma3 => (true, Some(4096)),
            Family::Qwen2 | Family::Qwen3 | Family::Qwen3Moe => (self.use_sliding_window == Some(true), Some(4096)),
        };
        let Some(window) = self.sliding_window.unwrap_or(default).filter(|_| used) else { return Ok(None) };
        let layers = match (listed, family) {
            (Some(list), _) => Layers::Listed(list),
            (None, Family::Gemma3) => Layers::AllBut(self.sliding_window_pattern.or(self.saved_window_pattern).unwrap_or(6)),
            (None, Family::Qwen2 | Family::Qwen3) => Layers::From(self.max_window_layers.unwrap_or(28)),
            (None, _) => Layers::All,
        };
        let own = match family {
            Family::Gemma3 => {
                let all = self.rope_parameters.as_ref();
                let json = all.and_then(|all| all.sliding_attention.as_deref()).cloned().unwrap_or_default();
                let base = json.rope_theta.or(self.rope_local_base_freq).unwrap_or(1e4);
                let scaling = json.scaling(family, None, context)?;
                Some(Rope { base, divisors: Vec::new(), scaling, ..rope.clone() })
            }
            _ => None,
        };
        Ok(Some(Local { window, layers, rope: own }))
    }

    /// Which layers are local, where the file lists them.
    fn listed(&self) -> Result<Option<Vec<bool>>> {
        let kind = |name: &String| match name.as_str() {
            "sliding_attention" => Ok(true),
            "full_attention" => Ok(false),
            other => {
                Err(Error::Unsupported(format!("a layer of type {other:?}; sliding_attention and full_attention are known")))
            }
        };
        self.layer_types.as_ref().map(|types| types.iter().map(kind).collect()).transpose()
    }

    fn experts(&self) -> Result<Experts> {
        Ok(Experts {
            count: need(self.num_experts.or(self.num_local_experts), "num_experts")?,
            used: need(self.num_experts_per_tok, "num_experts_per_tok")?,
            hidden: need(self.moe_intermediate_size, "moe_intermediate_size")?,
            renormalise: self.norm_topk_prob.unwrap_or(false),
            step: self.decoder_sparse_step.unwrap_or(1),
            dense: self.mlp_only_layers.clone().unwrap_or_default(),
        })
    }
}

impl RopeJson {
    /// `original`: the trained context, where it stands outside; `context`: the one that the model is for.
    fn scaling(&self, family: Family, original: Option<usize>, context: usize) -> Result<Scaling> {
        let phi = family == Family::Phi3;
        let original = original.or(self.original_max_position_embeddings).unwrap_or(if phi { 4096 } else { context });
        let ratio = context as f64 / original as f64;
        let field = |value: Option<f64>, name: &str| need(value, &format!("rope_scaling.{name}"));
        let kind = self.rope_type.as_deref().or(self.old_type.as_deref());
        match kind.unwrap_or("default") {
            "default" => Ok(Scaling::None),
            "linear" => Ok(Scaling::Linear { factor: field(self.factor, "factor")? }),
            "llama3" => Ok(Scaling::Llama3 {
                factor: field(self.factor, "factor")?,
                low: field(self.low_freq_factor, "low_freq_factor")?,
                high: field(self.high_freq_factor, "high_freq_factor")?,
                original,
            }),
            // The first files of Phi 3 name it "su" or "yarn".
            name if name == "longrope" || phi && matches!(name, "su" | "yarn") => {
                let magnitude = || long_magnitude(self.factor.unwrap_or(ratio), original);
                Ok(Scaling::Long {
                    original,
                    short: need(self.short_factor.clone(), "rope_scaling.short_factor")?,
                    long: need(self.long_factor.clone(), "rope_scaling.long_factor")?,
                    magnitude: self.attention_factor.unwrap_or_else(magnitude),
                })
            }
            "yarn" => {
                let factor = self.factor.unwrap_or(ratio);
                let scaled = |m: f64| 1.0 + m * (yarn_magnitude(factor) - 1.0);
                let magnitude = match (self.mscale.unwrap_or(0.0), self.mscale_all_dim.unwrap_or(0.0)) {
                    (above, below) if above != 0.0 && below != 0.0 => scaled(above) / scaled(below),
                    _ => scaled(1.0),
                };
                Ok(Scaling::Yarn {
                    factor,
                    original,
                    fast: self.beta_fast.filter(|b| *b != 0.0).unwrap_or(32.0),
                    slow: self.beta_slow.filter(|b| *b != 0.0).unwrap_or(1.0),
                    whole: self.truncate.unwrap_or(true),
                    magnitude: self.attention_factor.unwrap_or(magnitude),
                })
            }
            other => {
                let known = "default, linear, yarn, llama3 and longrope are known";
                Err(Error::Unsupported(format!("rope scaling {other:?}; {known}")))
            }
        }
    }
}
