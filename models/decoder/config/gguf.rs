//! A decoder's configuration from GGUF metadata.

use dreamseed_kernels::{Activation, RopeKind};

use super::{Config, Experts, Family, Layers, Local};
use crate::{
    layers::rope::{Rope, Scaling, long_magnitude, yarn_magnitude},
    weights::{
        Error, Result,
        gguf::{Gguf, Value},
    },
};

impl Config {
    /// From GGUF metadata. Tensors give what the metadata leave out: the size of the vocabulary and factors of the rotation.
    ///
    /// # Errors
    /// [`Error::Field`] for missing or impossible values, [`Error::Unsupported`] for families and kinds this version does not run.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let arch = gguf.str("general.architecture")?.ok_or_else(|| gguf.field_error("general.architecture", "is missing"))?;
        let family = Family::named(arch)?;
        let keys = Keys { gguf, arch, family };
        let dim = keys.needed("embedding_length")?;
        let heads = keys.needed("attention.head_count")?;
        let head_dim = keys.head_dim(dim, heads)?;
        let layers = keys.needed("block_count")?;
        let vocab = match gguf.tensor("token_embd.weight") {
            Some(info) if info.dims.len() == 2 => usize::try_from(info.dims[1]).unwrap_or(usize::MAX),
            _ => return Err(Error::Tensor { name: "token_embd.weight".into(), problem: "a matrix is needed".into() }),
        };
        let gemma = family == Family::Gemma3;
        let context = keys.needed("context_length")?;
        let rope = keys.rope(head_dim, context)?;
        let experts = keys.experts()?;
        let hidden = match &experts {
            Some(e) => e.hidden,
            None => keys.needed("feed_forward_length")?,
        };
        let config = Self {
            family,
            vocab,
            dim,
            hidden,
            layers,
            heads,
            kv_heads: keys.usize("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            context,
            eps: keys.f64("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6) as f32,
            local: keys.local(&rope)?,
            rope,
            // Gemma 3 27B (62 layers) scales by the width over the heads, all others by the width of a head.
            attention_scale: if gemma && layers == 62 { (dim / heads) as f32 } else { head_dim as f32 }.sqrt().recip(),
            embedding_scale: if gemma { (dim as f32).sqrt() } else { 1.0 },
            activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
            experts,
            tied: gguf.tensor("output.weight").is_none(),
            logit_softcap: keys.f64("final_logit_softcapping")?.map(|c| c as f32),
            norm_offset: 0.0,
            sections: keys.sections()?,
            deepstack: keys.usize("n_deepstack_layers")?.unwrap_or(0),
            whole_pictures: gemma,
        };
        match config.problem() {
            Some((field, problem)) => Err(keys.error(field, problem)),
            None => Ok(config),
        }
    }
}

/// Metadata under the architecture's name.
struct Keys<'a> {
    gguf: &'a Gguf,
    arch: &'a str,
    family: Family,
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

    /// Sections of the rotation, in models that see. GGUF pads them to four.
    fn sections(&self) -> Result<Option<[usize; 3]>> {
        const NAME: &str = "rope.dimension_sections";
        let seen = self.gguf.integers(&self.key(NAME))?;
        let seen = seen.as_deref().map(|s| s.strip_suffix(&[0]).filter(|s| s.len() == 3).unwrap_or(s));
        match seen {
            _ if self.arch != "qwen3vl" => Ok(None),
            None => Err(self.error(NAME, "is missing")),
            Some(&[t, h, w]) if t >= 0 && h >= 0 && w >= 0 => Ok(Some([t as usize, h as usize, w as usize])),
            Some(other) => Err(self.error(NAME, format!("{other:?}; pairs of time, height and width are needed"))),
        }
    }

    fn head_dim(&self, dim: usize, heads: usize) -> Result<usize> {
        let head_dim = match self.usize("attention.key_length")? {
            Some(n) => n,
            None if dim.is_multiple_of(heads) => dim / heads,
            None => return Err(self.error("attention.head_count", format!("{heads} heads do not divide a width of {dim}"))),
        };
        if self.usize("attention.value_length")?.is_some_and(|v| v != head_dim) {
            let problem = format!("differs from the key length {head_dim}; this version needs one");
            return Err(self.error("attention.value_length", problem));
        }
        Ok(head_dim)
    }

    fn rope(&self, head_dim: usize, context: usize) -> Result<Rope> {
        let interleaved = matches!(self.family, Family::Llama | Family::Mistral);
        let dims = self.usize("rope.dimension_count")?.unwrap_or(head_dim);
        let base = self.f64("rope.freq_base")?.unwrap_or(10_000.0);
        let divisors = self.factors("rope_freqs.weight", dims)?.unwrap_or_default();
        Ok(Rope {
            kind: if interleaved { RopeKind::Interleaved } else { RopeKind::HalfSplit },
            dims,
            base,
            divisors,
            scaling: self.scaling(dims, context)?,
        })
    }

    /// A tensor of one number for each pair of rotated dimensions.
    fn factors(&self, name: &str, dims: usize) -> Result<Option<Vec<f32>>> {
        self.gguf.tensor(name).map(|_| self.gguf.vector(name, dims / 2)).transpose()
    }

    fn scaling(&self, dims: usize, context: usize) -> Result<Scaling> {
        // A factor of 0 is how some writers say "none".
        let factor = self.f64("rope.scaling.factor")?.or(self.f64("rope.scale_linear")?).filter(|f| *f != 0.0).unwrap_or(1.0);
        let original = self.usize("rope.scaling.original_context_length")?.unwrap_or(context);
        let attention = self.f64("rope.scaling.attn_factor")?;
        let [short, long] = ["rope_factors_short.weight", "rope_factors_long.weight"].map(|name| self.factors(name, dims));
        match (short?, long?) {
            (Some(short), Some(long)) => {
                let magnitude = attention.unwrap_or_else(|| long_magnitude(context as f64 / original as f64, original));
                return Ok(Scaling::Long { original, short, long, magnitude });
            }
            (None, None) => {}
            (Some(_), None) => return Err(lacks("rope_factors_long.weight")),
            (None, Some(_)) => return Err(lacks("rope_factors_short.weight")),
        }
        match self.gguf.str(&self.key("rope.scaling.type"))? {
            Some("none") => Ok(Scaling::None),
            None | Some("linear") if factor == 1.0 => Ok(Scaling::None),
            None | Some("linear") => Ok(Scaling::Linear { factor }),
            Some("yarn") => self.yarn(factor, original, attention.unwrap_or(1.0)),
            Some("longrope") => Err(lacks("rope_factors_long.weight")),
            Some(other) => {
                Err(Error::Unsupported(format!("rope.scaling.type \"{other}\"; none, linear, yarn and longrope are known")))
            }
        }
    }

    fn yarn(&self, factor: f64, original: usize, attention: f64) -> Result<Scaling> {
        // A negative mix is how writers say "not set"; 1 mixes fully, as the paper does.
        let mix = self.f64("rope.scaling.yarn_ext_factor")?.filter(|e| *e >= 0.0).unwrap_or(1.0);
        let multiplier = self.f64("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
        if mix != 1.0 || multiplier != 0.0 {
            return Err(Error::Unsupported(format!(
                "YaRN with yarn_ext_factor {mix} and yarn_log_multiplier {multiplier}; this version runs 1 and 0"
            )));
        }
        let own = self.f64("rope.scaling.yarn_attn_factor")?.unwrap_or_else(|| yarn_magnitude(factor));
        let fast = self.f64("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0);
        let slow = self.f64("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0);
        Ok(Scaling::Yarn { factor, original, fast, slow, whole: true, magnitude: own * attention })
    }

    fn local(&self, rope: &Rope) -> Result<Option<Local>> {
        const PATTERN: &str = "attention.sliding_window_pattern";
        let gemma = self.family == Family::Gemma3;
        // Writers of phi3 say 0 for "none".
        let window = self.usize("attention.sliding_window")?.filter(|w| *w > 0 || self.family != Family::Phi3);
        let Some(window) = window else { return Ok(None) };
        let layers = match self.gguf.get(&self.key(PATTERN)) {
            Some(Value::Array(_)) => {
                let flags = self.gguf.integers(&self.key(PATTERN))?.unwrap_or_default();
                Layers::Listed(flags.into_iter().map(|f| f != 0).collect())
            }
            Some(_) => Layers::AllBut(self.usize(PATTERN)?.unwrap_or(0)),
            None if gemma => Layers::AllBut(6),
            None => Layers::All,
        };
        let base = self.f64("rope.freq_base_swa")?.unwrap_or(10_000.0);
        let own = || Rope { base, divisors: Vec::new(), scaling: Scaling::None, ..rope.clone() };
        Ok(Some(Local { window, layers, rope: gemma.then(own) }))
    }

    fn experts(&self) -> Result<Option<Experts>> {
        let count = self.usize("expert_count")?.unwrap_or(0);
        if self.family != Family::Qwen3Moe {
            return match count {
                0 => Ok(None),
                _ => Err(Error::Unsupported(format!(
                    "{count} experts in a model of {}; this version runs them in qwen3moe",
                    self.arch
                ))),
            };
        }
        let other = [("expert_shared_count", 0.0), ("expert_group_count", 1.0), ("expert_gating_func", 1.0)];
        for (name, wanted) in other {
            if let Some(seen) = self.usize(name)?.filter(|&n| n != 0 && n as f64 != wanted) {
                return Err(Error::Unsupported(format!("{} {seen}; this version runs {wanted}", self.key(name))));
            }
        }
        if let Some(scale) = self.f64("expert_weights_scale")?.filter(|s| *s != 0.0 && *s != 1.0) {
            return Err(Error::Unsupported(format!("{} {scale}; this version runs 1", self.key("expert_weights_scale"))));
        }
        Ok(Some(Experts {
            count,
            used: self.needed("expert_used_count")?,
            hidden: self.needed("expert_feed_forward_length")?,
            // All models of this family divide by the sum; the key came later.
            renormalise: self.gguf.bool(&self.key("expert_weights_norm"))?.unwrap_or(true),
            step: 1,
            dense: Vec::new(),
        }))
    }
}

fn lacks(name: &str) -> Error {
    Error::Tensor { name: name.into(), problem: "is not in the file, but the model's rotary scaling needs it".into() }
}
