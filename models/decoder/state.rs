//! One sequence: its keys and values, and the buffers of a step.

use dreamseed_kernels::KvCache;

use super::{CHUNK, Config};
use crate::layers::rope::Table;

/// What a sequence has of its own. Made by [`super::Decoder::new_state`].
pub struct State {
    context: usize,
    pub(super) len: usize,
    pub(super) caches: Vec<KvCache>,  // (layers), of up to `context` positions
    pub(super) x: Vec<f32>,           // (rows, dim) residual stream
    pub(super) h: Vec<f32>,           // (rows, dim) normed
    pub(super) q: Vec<f32>,           // (rows, heads, head_dim)
    pub(super) k: Vec<f32>,           // (rows, kv_heads, head_dim)
    pub(super) v: Vec<f32>,           // (rows, kv_heads, head_dim)
    pub(super) attended: Vec<f32>,    // (rows, heads, head_dim)
    pub(super) gate: Vec<f32>,        // (rows, hidden)
    pub(super) up: Vec<f32>,          // (rows, hidden)
    pub(super) logits: Vec<f32>,      // (1 or tokens of the call, vocab)
    pub(super) positions: Vec<usize>, // (rows) 0, 1, 2, ...: rows of the tables
    pub(super) global: Table,         // rotation of the pass's positions
    pub(super) local: Table,          // the same for local layers
}

impl State {
    pub(super) fn new(config: &Config, context: usize) -> Self {
        let rows = context.clamp(1, CHUNK);
        let (q_dim, kv_dim) = (config.heads * config.head_dim, config.kv_dim());
        let cache = || KvCache::new(config.kv_heads, config.head_dim, rows);
        Self {
            context,
            len: 0,
            caches: (0..config.layers).map(|_| cache()).collect(),
            x: vec![0.0; rows * config.dim],
            h: vec![0.0; rows * config.dim],
            q: vec![0.0; rows * q_dim],
            k: vec![0.0; rows * kv_dim],
            v: vec![0.0; rows * kv_dim],
            attended: vec![0.0; rows * q_dim],
            gate: vec![0.0; rows * config.hidden],
            up: vec![0.0; rows * config.hidden],
            logits: Vec::with_capacity(config.vocab),
            positions: (0..rows).collect(),
            global: Table::default(),
            local: Table::default(),
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
        self.caches.iter_mut().for_each(|c| c.truncate(n));
    }

    pub(super) fn rows(&self) -> usize {
        self.context.clamp(1, CHUNK)
    }
}
