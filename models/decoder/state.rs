//! What changes while a decoder runs: the buffers of a pass, the paged keys and values, and one sequence of its own.

use dreamseed_kernels::{AttentionPlan, KV_BLOCK, KvShape, KvStore, KvType};

use super::{CHUNK, Config, Error, Logits, Picture, Slice, experts::Scratch, whole};
use crate::layers::rope::Table;

/// The buffers of a pass over up to [`Workspace::rows`] tokens, allocated once. Made by [`super::Decoder::workspace`].
pub struct Workspace {
    rows: usize,
    pub(super) plan: AttentionPlan,
    pub(super) x: Vec<f32>,           // (rows, dim) residual stream
    pub(super) h: Vec<f32>,           // (rows, dim) normed
    pub(super) q: Vec<f32>,           // (rows, heads, head_dim)
    pub(super) k: Vec<f32>,           // (rows, kv_heads, head_dim)
    pub(super) v: Vec<f32>,           // (rows, kv_heads, head_dim)
    pub(super) attended: Vec<f32>,    // (rows, heads, head_dim)
    pub(super) gate: Vec<f32>,        // (rows, hidden)
    pub(super) up: Vec<f32>,          // (rows, hidden)
    pub(super) experts: Scratch,      // of mixtures of experts
    pub(super) logits: Vec<f32>,      // (rows wanted, vocab)
    pub(super) positions: Vec<usize>, // (rows) 0, 1, 2, ...: rows of the tables
    pub(super) global: Table,         // rotation of the pass's positions
    pub(super) local: Table,          // the same for local layers
}

impl Workspace {
    pub(super) fn new(config: &Config, rows: usize) -> Self {
        let (q_dim, kv_dim) = (config.heads * config.head_dim, config.kv_dim());
        Self {
            rows,
            plan: AttentionPlan::default(),
            x: vec![0.0; rows * config.dim],
            h: vec![0.0; rows * config.dim],
            q: vec![0.0; rows * q_dim],
            k: vec![0.0; rows * kv_dim],
            v: vec![0.0; rows * kv_dim],
            attended: vec![0.0; rows * q_dim],
            gate: vec![0.0; rows * config.hidden],
            up: vec![0.0; rows * config.hidden],
            experts: Scratch::new(config, rows),
            logits: Vec::with_capacity(config.vocab),
            positions: (0..rows).collect(),
            global: Table::default(),
            local: Table::default(),
        }
    }

    /// Most tokens of a pass.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// What the last pass gave: (rows wanted, vocab).
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }
}

impl Config {
    /// What a paged store of this decoder's keys and values holds.
    pub fn kv_shape(&self, kind: KvType) -> KvShape {
        KvShape { layers: self.layers, kv_heads: self.kv_heads, head_dim: self.head_dim, kind }
    }
}

/// One sequence with a store of its own, for those who run one at a time. Made by [`super::Decoder::new_state`].
pub struct State {
    context: usize,
    len: usize,
    pub(super) store: KvStore,
    table: Vec<u32>, // 0, 1, 2, ...
    pub(super) pictures: Vec<Picture>,
    pub(super) workspace: Workspace,
}

impl State {
    pub(super) fn new(config: &Config, context: usize, kind: KvType) -> Self {
        Self {
            context,
            len: 0,
            store: KvStore::new(config.kv_shape(kind)),
            table: Vec::new(),
            pictures: Vec::new(),
            workspace: Workspace::new(config, context.clamp(1, CHUNK)),
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
        self.workspace.logits()
    }

    /// Forgets all but the first `n` tokens (to go on from a shared prefix); of a picture that would be cut, all.
    pub fn truncate(&mut self, n: usize) {
        let n = self.len.min(n);
        self.len = whole(&self.pictures, 0, n);
        self.pictures.retain(|p| p.end() <= self.len);
    }

    /// How many of `left` tokens, the first of them at row `past`, a pass takes: one that cuts no picture where those are to be whole.
    pub(super) fn piece(&self, left: usize, past: usize, pictures: &[Picture], together: bool) -> Result<usize, Error> {
        let rows = left.min(self.workspace.rows());
        match if together { whole(pictures, past, rows) } else { rows } {
            0 => {
                let tokens = pictures.iter().find(|p| p.at == past).map_or(rows, |p| p.features.len());
                Err(Error::Rows { tokens, rows: self.workspace.rows() })
            }
            taken => Ok(taken),
        }
    }

    /// Makes room for `len` tokens now, so that no step allocates.
    pub fn reserve(&mut self, len: usize) {
        let blocks = len.min(self.context).div_ceil(KV_BLOCK);
        self.store.reserve(blocks);
        self.table.extend(self.table.len() as u32..blocks as u32);
    }

    /// The pass that appends `tokens`, and what it runs on.
    pub(super) fn pass<'a>(&'a mut self, tokens: &'a [u32], logits: Logits) -> (Slice<'a>, &'a mut KvStore, &'a mut Workspace) {
        let past = self.len;
        self.len += tokens.len();
        self.reserve(self.len);
        let slice = Slice { tokens, past, context: self.context, blocks: &self.table, logits, pictures: &self.pictures };
        (slice, &mut self.store, &mut self.workspace)
    }
}
