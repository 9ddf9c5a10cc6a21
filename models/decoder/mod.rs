//! One decoder for all families of language models: what differs is in its [`Config`].
//!
//! [`Decoder`] holds what is immutable and shared (configuration, weights, rotation); [`State`] one sequence's keys and values and
//! the buffers of a step, allocated once. A step is a flat sequence of operations over those buffers, the same for one token
//! (decode) and for many (prefill).

mod config;
mod state;
mod weights;

use std::path::Path;

use dreamseed_kernels::{
    Cached, Epilogue, Matrix, Pool, Product, add_in_place, attention_cached, cpu::math::gated, linear, linear_many, rms_norm,
    rms_norm_in_place, rope, simd,
};

use crate::{
    layers::rope::{Frequencies, Rope, Scaling},
    weights::{Result as WeightsResult, gguf::Gguf},
};

pub use config::{Config, Family, Local};
pub use state::State;
pub use weights::Weights;

/// Positions that are computed in one pass.
const CHUNK: usize = 512;

/// Why tokens cannot be run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The sequence would not fit its cache.
    #[error(
        "{past} tokens are in the context and {new} more do not fit its {context}; shorten the text or open a larger context"
    )]
    Context {
        /// Positions in the cache.
        past: usize,
        /// Tokens given.
        new: usize,
        /// Positions there are.
        context: usize,
    },
    /// No such token.
    #[error("token {token} of a vocabulary of {vocab}")]
    Token {
        /// The id given.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// Nothing to run.
    #[error("no tokens; give at least one")]
    Empty,
}

/// Which logits a call wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// Those after the last token: (vocab).
    Last,
    /// Those after each token: (n, vocab), which is n times the vocabulary's size in memory.
    All,
}

/// A language model. Immutable: share it, and give each sequence its own [`State`].
pub struct Decoder {
    config: Config,
    weights: Weights,
    global: Frequencies,
    local: Frequencies,
}

impl Decoder {
    /// Opens a GGUF file, or a folder with config.json and safetensors.
    ///
    /// # Errors
    /// What is wrong with the files, or that the model is of a kind that this version does not run.
    pub fn open(path: &Path, pool: &Pool) -> WeightsResult<Self> {
        if !path.is_dir() {
            return Self::from_gguf(&Gguf::open(path)?, pool);
        }
        let json = path.join("config.json");
        let text = crate::weights::read_whole(&json, crate::weights::TEXT)
            .map_err(|source| crate::weights::Error::Io { path: json, source })?;
        Self::new(Config::from_json(&text)?, &weights::Files::hf(path)?, pool)
    }

    /// From an open GGUF file.
    ///
    /// # Errors
    /// As [`Decoder::open`].
    pub fn from_gguf(gguf: &Gguf, pool: &Pool) -> WeightsResult<Self> {
        Self::new(Config::from_gguf(gguf)?, &weights::Files::Gguf(gguf), pool)
    }

    fn new(config: Config, files: &weights::Files, pool: &Pool) -> WeightsResult<Self> {
        let weights = Weights::load(files, &config, pool)?;
        let global = config.rope.frequencies(&weights.rope_factors);
        let local_base = config.local.map_or(config.rope.base, |l| l.rope_base);
        let local = Rope { base: local_base, scaling: Scaling::None, ..config.rope }.frequencies(&[]);
        Ok(Self { config, weights, global, local })
    }

    /// Its shape and kind.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// A fresh sequence of at most `context` positions.
    pub fn new_state(&self, context: usize) -> State {
        State::new(&self.config, context)
    }

    /// Appends `tokens` to the sequence and gives the logits after the last one, or after each.
    ///
    /// # Errors
    /// [`Error`]; the state is as before then.
    pub fn forward<'s>(&self, pool: &Pool, state: &'s mut State, tokens: &[u32], logits: Logits) -> Result<&'s [f32], Error> {
        let (vocab, context) = (self.config.vocab, state.context());
        if tokens.is_empty() {
            return Err(Error::Empty);
        }
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocab) {
            return Err(Error::Token { token, vocab });
        }
        if state.len + tokens.len() > context {
            return Err(Error::Context { past: state.len, new: tokens.len(), context });
        }
        let wanted = if logits == Logits::All { tokens.len() } else { 1 };
        state.logits.resize(wanted * vocab, 0.0);
        let mut done = 0;
        for chunk in tokens.chunks(state.rows()) {
            self.run_layers(pool, state, chunk);
            done += chunk.len();
            if logits == Logits::All {
                self.run_head(pool, state, 0..chunk.len(), done - chunk.len());
            } else if done == tokens.len() {
                self.run_head(pool, state, chunk.len() - 1..chunk.len(), 0);
            }
        }
        Ok(&state.logits)
    }

    /// All layers over `tokens`; leaves the residual stream in `state.x` and the sequence that much longer.
    fn run_layers(&self, pool: &Pool, state: &mut State, tokens: &[u32]) {
        let (dim, n) = (self.config.dim, tokens.len());
        // 1. embeddings
        for (&token, x) in tokens.iter().zip(state.x.chunks_exact_mut(dim)) {
            self.weights.embeddings.row(token as usize, x);
            if self.config.embedding_scale != 1.0 {
                x.iter_mut().for_each(|x| *x *= self.config.embedding_scale);
            }
        }
        self.global.fill(state.len, n, &mut state.global);
        if self.config.local.is_some() {
            self.local.fill(state.len, n, &mut state.local);
        }
        for layer in 0..self.config.layers {
            self.attention(pool, state, layer, n);
            self.feed_forward(pool, state, layer, n);
        }
        state.len += n;
    }

    fn attention(&self, pool: &Pool, state: &mut State, layer: usize, n: usize) {
        let Config { dim, heads, head_dim, eps, attention_scale: scale, .. } = self.config;
        let (q_dim, kv_dim) = (heads * head_dim, self.config.kv_dim());
        let w = &self.weights.layers[layer];
        let local = self.config.local(layer);
        let (x, h) = (&mut state.x[..n * dim], &mut state.h[..n * dim]);
        let (q, attended) = (&mut state.q[..n * q_dim], &mut state.attended[..n * q_dim]);
        let (k, v) = (&mut state.k[..n * kv_dim], &mut state.v[..n * kv_dim]);
        // 2. norm, then query, key and value
        rms_norm(pool, x, &w.attn_norm, eps, h);
        let mut products =
            [(&w.wq, &mut *q, &w.bq), (&w.wk, &mut *k, &w.bk), (&w.wv, &mut *v, &w.bv)].map(|(weights, out, bias)| Product {
                weights,
                out,
                epilogue: Epilogue { bias: bias.as_deref(), ..Epilogue::default() },
            });
        linear_many(pool, h, &mut products);
        // 3. norms of the heads and rotary embedding
        let table = if local.is_some() { &state.local } else { &state.global };
        let rotary = self.config.rope.dims;
        let turn = dreamseed_kernels::Rope { kind: self.config.rope.kind, cos: &table.cos, sin: &table.sin, rotary };
        for (rows, norm) in [(&mut *q, &w.q_norm), (&mut *k, &w.k_norm)] {
            if let Some(norm) = norm {
                rms_norm_in_place(pool, rows, norm, eps);
            }
            rope(pool, &turn, rows, head_dim, &state.positions[..n]);
        }
        // 4. attention over the cache, the new positions among it
        let cache = &mut state.caches[layer];
        cache.append(k, v);
        let window = local.map(|l| l.window);
        attention_cached(pool, &mut [Cached { q, cache, heads, scale, window, out: attended }]);
        // 5. output, onto the residual stream
        add_product(pool, attended, (&w.wo, w.bo.as_deref()), &w.post_attn_norm, eps, (h, x));
    }

    fn feed_forward(&self, pool: &Pool, state: &mut State, layer: usize, n: usize) {
        let Config { dim, hidden, eps, activation, .. } = self.config;
        let w = &self.weights.layers[layer];
        let (x, h) = (&mut state.x[..n * dim], &mut state.h[..n * dim]);
        let (gate, up) = (&mut state.gate[..n * hidden], &mut state.up[..n * hidden]);
        // 6. norm, then gate and up
        rms_norm(pool, x, &w.ffn_norm, eps, h);
        let mut products = [(&w.w_gate, &mut *gate), (&w.w_up, &mut *up)].map(|(weights, out)| Product {
            weights,
            out,
            epilogue: Epilogue::default(),
        });
        linear_many(pool, h, &mut products);
        // 7. gate, then down, onto the residual stream
        let level = simd::level();
        pool.for_each_chunk(gate, hidden, |row, gate| {
            gated(level, activation, gate, &up[row * hidden..(row + 1) * hidden]);
        });
        add_product(pool, gate, (&w.w_down, None), &w.post_ffn_norm, eps, (h, x));
    }

    /// Logits of the given rows of the residual stream, into row `to` and on of `state.logits`.
    fn run_head(&self, pool: &Pool, state: &mut State, rows: std::ops::Range<usize>, to: usize) {
        let Config { dim, vocab, eps, .. } = self.config;
        let n = rows.len();
        let h = &mut state.h[..n * dim];
        // 8. last norm, then logits
        rms_norm(pool, &state.x[rows.start * dim..rows.end * dim], &self.weights.output_norm, eps, h);
        let logits = &mut state.logits[to * vocab..(to + n) * vocab];
        let output = self.weights.output.as_ref().unwrap_or(&self.weights.embeddings);
        linear(pool, h, output, logits, Epilogue::default());
        if let Some(cap) = self.config.logit_softcap {
            logits.iter_mut().for_each(|l| *l = cap * (*l / cap).tanh());
        }
    }
}

/// `residual += norm(input w^T + bias)`; without a norm in one operation. `scratch`: as `residual`.
fn add_product(
    pool: &Pool,
    input: &[f32],
    (w, bias): (&Matrix, Option<&[f32]>),
    norm: &Option<Vec<f32>>,
    eps: f32,
    (scratch, residual): (&mut [f32], &mut [f32]),
) {
    let Some(norm) = norm else {
        return linear(pool, input, w, residual, Epilogue { bias, accumulate: true, ..Epilogue::default() });
    };
    linear(pool, input, w, scratch, Epilogue { bias, ..Epilogue::default() });
    rms_norm_in_place(pool, scratch, norm, eps);
    add_in_place(residual, scratch);
}

#[cfg(test)]
mod tests;
