//! One sequence: its keys and values, and the buffers of a step.

use super::{CHUNK, Config};

/// What a sequence has of its own. Made by [`super::Decoder::new_state`].
pub struct State {
    context: usize,
    pub(super) len: usize,
    pub(super) keys: Vec<Vec<f32>>,   // (layers) of (context, kv_heads, head_dim)
    pub(super) values: Vec<Vec<f32>>, // (layers) of (context, kv_heads, head_dim)
    pub(super) x: Vec<f32>,           // (rows, dim) residual stream
    pub(super) h: Vec<f32>,           // (rows, dim) normed
    pub(super) q: Vec<f32>,           // (rows, heads, head_dim)
    pub(super) attended: Vec<f32>,    // (rows, heads, head_dim)
    pub(super) gate: Vec<f32>,        // (rows, hidden)
    pub(super) up: Vec<f32>,          // (rows, hidden)
    pub(super) logits: Vec<f32>,      // (1 or tokens of the call, vocab)
    pub(super) global: Vec<[f32; 2]>, // (rows, rope.dims / 2) cosine and sine
    pub(super) local: Vec<[f32; 2]>,  // the same for local layers
}

impl State {
    pub(super) fn new(config: &Config, context: usize) -> Self {
        let rows = context.clamp(1, CHUNK);
        let q_dim = config.heads * config.head_dim;
        let cache = || (0..config.layers).map(|_| vec![0.0; context * config.kv_dim()]).collect();
        Self {
            context,
            len: 0,
            keys: cache(),
            values: cache(),
            x: vec![0.0; rows * config.dim],
            h: vec![0.0; rows * config.dim],
            q: vec![0.0; rows * q_dim],
            attended: vec![0.0; rows * q_dim],
            gate: vec![0.0; rows * config.hidden],
            up: vec![0.0; rows * config.hidden],
            logits: Vec::with_capacity(config.vocab),
            global: Vec::with_capacity(rows * config.rope.dims / 2),
            local: Vec::with_capacity(rows * config.rope.dims / 2),
        }
    }

    /// Tokens in the sequence.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is still empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most tokens it can hold.
    pub fn context(&self) -> usize {
        self.context
    }

    /// What the last call of [`super::Decoder::forward`] gave.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Forgets all but the first `n` tokens (to go on from a shared prefix).
    pub fn truncate(&mut self, n: usize) {
        self.len = self.len.min(n);
    }

    pub(super) fn rows(&self) -> usize {
        self.context.clamp(1, CHUNK)
    }
}
