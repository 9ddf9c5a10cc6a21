//! The stack of layers that vision transformers and SigLIP's text tower share: pre-norm, bidirectional (Dosovitskiy et al. 2021).

use dreamseed_kernels::cpu::math::gated;
use dreamseed_kernels::{
    Activation, Dense, Epilogue, Pool, Product, Rope, attention_dense, layer_norm, linear, linear_many, rope, simd,
};

use crate::decoder::Place;

/// Largest width and feed-forward width, most layers and heads that are believed: above every published model.
const MAX_WIDTH: usize = 1 << 16;
const MAX_FFN: usize = 1 << 18;
const MAX_LAYERS: usize = 512;

/// Shapes of a stack of layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Elements of a token.
    pub width: usize,
    /// How many layers.
    pub layers: usize,
    /// Attention heads, each of width / heads.
    pub heads: usize,
    /// Width inside the feed-forward part.
    pub ffn: usize,
    /// What is added to the variance in a layer norm.
    pub eps: f32,
    /// Of the feed-forward part.
    pub activation: Activation,
    /// The feed-forward part is `down(activation(gate(x)) * up(x))` (SwiGLU), not `down(activation(up(x)))`.
    pub gated: bool,
}

impl Config {
    /// Names the first field that no model has.
    ///
    /// # Errors
    /// The field, what it is and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        for (name, value, most) in [
            ("hidden_size", self.width, MAX_WIDTH),
            ("num_hidden_layers", self.layers, MAX_LAYERS),
            ("num_attention_heads", self.heads, MAX_WIDTH),
            ("intermediate_size", self.ffn, MAX_FFN),
        ] {
            if !(1..=most).contains(&value) {
                return Err(format!("{name} is {value}: 1 to {most} is allowed"));
            }
        }
        if !self.width.is_multiple_of(self.heads) {
            return Err(format!("hidden_size {} is no multiple of num_attention_heads {}", self.width, self.heads));
        }
        match self.eps.is_finite() && (0.0..=1.0).contains(&self.eps) {
            true => Ok(()),
            false => Err(format!("layer_norm_eps is {}: 0 to 1 is allowed", self.eps)),
        }
    }
}

/// `y = x w^T [+ b]`
pub struct Linear<P: Place = Pool> {
    /// (out, in)
    pub w: P::Matrix,
    /// (out)
    pub b: Option<P::Vector>,
}

impl Linear {
    fn epilogue(&self, activation: Activation, accumulate: bool) -> Epilogue<'_> {
        Epilogue { bias: self.b.as_deref(), activation, accumulate }
    }

    /// `out = activation(x w^T + b)`
    pub fn apply(&self, pool: &Pool, x: &[f32], activation: Activation, out: &mut [f32]) {
        linear(pool, x, &self.w, out, self.epilogue(activation, false));
    }

    /// `out += x w^T + b`
    pub fn add(&self, pool: &Pool, x: &[f32], out: &mut [f32]) {
        linear(pool, x, &self.w, out, self.epilogue(Activation::None, true));
    }
}

/// Layer norm.
pub struct Norm<P: Place = Pool> {
    /// (width)
    pub gamma: P::Vector,
    /// (width)
    pub beta: P::Vector,
}

/// Feed-forward part.
pub struct Mlp<P: Place = Pool> {
    pub(super) gate: Option<Linear<P>>, // (ffn, width)
    pub(super) up: Linear<P>,           // (ffn, width)
    pub(super) down: Linear<P>,         // (width, ffn)
}

impl Mlp {
    /// `x += down(activation(up(h)))`, or with the gate. `wide` and `gate`: buffers.
    pub(super) fn add(
        &self,
        pool: &Pool,
        activation: Activation,
        h: &[f32],
        (wide, gate): (&mut Vec<f32>, &mut Vec<f32>),
        x: &mut [f32],
    ) {
        wide.resize(h.len() / self.up.w.cols() * self.up.w.rows(), 0.0);
        let Some(gating) = &self.gate else {
            self.up.apply(pool, h, activation, wide);
            return self.down.add(pool, wide, x);
        };
        gate.resize(wide.len(), 0.0);
        let products = &mut [
            Product { weights: &gating.w, out: gate, epilogue: gating.epilogue(Activation::None, false) },
            Product { weights: &self.up.w, out: wide, epilogue: self.up.epilogue(Activation::None, false) },
        ];
        linear_many(pool, h, products);
        gated(simd::level(), activation, gate, wide);
        self.down.add(pool, gate, x);
    }
}

/// One layer. Layer scales are folded into `out` and `mlp.down` at load.
pub(super) struct Layer<P: Place = Pool> {
    pub(super) norm1: Norm<P>,
    pub(super) q: Linear<P>,   // (width, width)
    pub(super) k: Linear<P>,   // (width, width)
    pub(super) v: Linear<P>,   // (width, width)
    pub(super) out: Linear<P>, // (width, width)
    pub(super) norm2: Norm<P>,
    pub(super) mlp: Mlp<P>,
}

/// A rotary embedding of queries and keys, and each token's row in its tables.
pub type Turn<'a> = (Rope<'a>, &'a [usize]);

/// Buffers of a pass: made by the first, kept for the next; a pass over no more tokens allocates nothing.
#[derive(Default)]
pub struct State {
    /// (tokens, width): what goes into the layers and what comes out.
    pub x: Vec<f32>,
    h: Vec<f32>, // (tokens, width): normed, or sums of attention
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    wide: Vec<f32>, // (tokens, ffn)
    gate: Vec<f32>, // (tokens, ffn) where it is gated
    /// Where the model is there; what is above is empty then, but for what was read back.
    #[cfg(feature = "cuda")]
    pub(super) gpu: Option<super::cuda::Passes>,
}

/// The layers and the norm after them: immutable, shared by all passes.
pub struct Encoder<P: Place = Pool> {
    pub(super) config: Config,
    pub(super) layers: Vec<Layer<P>>,
    pub(super) norm: Norm<P>,
}

impl<P: Place> Encoder<P> {
    /// Its shapes.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

impl Encoder {
    /// All layers and the last norm, in place in `state.x`.
    pub fn forward(&self, pool: &Pool, turn: Option<Turn>, state: &mut State) {
        (0..self.layers.len()).for_each(|i| self.layer(pool, i, turn, state));
        self.finish(pool, state);
    }

    /// Layer `i` in place in `state.x`: for those who want what is between the layers.
    ///
    /// # Panics
    /// Where there is no such layer, or `state.x` is not whole tokens.
    pub fn layer(&self, pool: &Pool, i: usize, turn: Option<Turn>, state: &mut State) {
        let (c, l) = (&self.config, &self.layers[i]);
        let (tokens, head_dim) = (state.x.len() / c.width, c.width / c.heads);
        let State { x, h, q, k, v, wide, gate, .. } = state;
        [&mut *h, q, k, v].into_iter().for_each(|b| b.resize(x.len(), 0.0));
        // 1. attention
        layer_norm(pool, x, (&l.norm1.gamma, &l.norm1.beta), c.eps, h);
        let mut products = [(&l.q, &mut *q), (&l.k, &mut *k), (&l.v, &mut *v)].map(|(l, out)| Product {
            weights: &l.w,
            out,
            epilogue: l.epilogue(Activation::None, false),
        });
        linear_many(pool, h, &mut products);
        if let Some((table, positions)) = turn {
            rope(pool, &table, q, head_dim, positions);
            rope(pool, &table, k, head_dim, positions);
        }
        let dense = Dense {
            q,
            k,
            v,
            q_len: tokens,
            kv_len: tokens,
            q_stride: c.width,
            kv_stride: c.width,
            heads: c.heads,
            kv_heads: c.heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            causal: false,
        };
        attention_dense(pool, &dense, h);
        l.out.add(pool, h, x);
        // 2. feed forward
        layer_norm(pool, x, (&l.norm2.gamma, &l.norm2.beta), c.eps, h);
        l.mlp.add(pool, c.activation, h, (wide, gate), x);
    }

    /// The last norm, in place in `state.x`.
    pub fn finish(&self, pool: &Pool, state: &mut State) {
        state.h.resize(state.x.len(), 0.0);
        layer_norm(pool, &state.x, (&self.norm.gamma, &self.norm.beta), self.config.eps, &mut state.h);
        std::mem::swap(&mut state.x, &mut state.h);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lying_config_is_refused_with_its_field() {
        let good =
            Config { width: 768, layers: 12, heads: 12, ffn: 3072, eps: 1e-6, activation: Activation::Gelu, gated: false };
        assert_eq!(good.check(), Ok(()));
        for (bad, want) in [
            (Config { heads: 0, ..good.clone() }, "num_attention_heads is 0"),
            (Config { heads: 7, ..good.clone() }, "hidden_size 768 is no multiple of num_attention_heads 7"),
            (Config { width: 1 << 40, ..good.clone() }, "hidden_size is 1099511627776: 1 to 65536"),
            (Config { layers: 100_000, ..good.clone() }, "num_hidden_layers is 100000: 1 to 512"),
            (Config { ffn: 0, ..good.clone() }, "intermediate_size is 0"),
            (Config { eps: f32::NAN, ..good.clone() }, "layer_norm_eps is NaN"),
        ] {
            let problem = bad.check().unwrap_err();
            assert!(problem.contains(want), "{problem}");
        }
    }
}
