//! One decoder for all families of language models: what differs is in its [`Config`].
//!
//! [`Decoder`] holds what is immutable and shared (configuration, weights, rotation); a [`KvStore`] the keys and values of all
//! sequences in blocks; a [`Workspace`] the buffers of a pass, allocated once. A pass is a flat sequence of operations over those
//! buffers, the same for one token (decode) and for many (prefill), of one sequence or several. A token's result does not depend on
//! what runs beside it. [`State`] is a store and a workspace for one sequence alone.

mod config;
#[cfg(feature = "cuda")]
pub mod cuda;
mod experts;
mod files;
mod pictures;
pub mod shards;
mod state;
mod weights;

use std::path::Path;

use dreamseed_kernels::{
    Epilogue, KvStore, KvType, Matrix, Paged, Pool, Product, add_in_place, attention_paged, linear, linear_many, rms_norm,
    rms_norm_in_place, rope,
};

use crate::{
    layers::rope::Rotation,
    weights::{Result as WeightsResult, gguf::Gguf},
};
use experts::FeedForward;
use files::Files;
use weights::Layer;

pub use config::{Config, Experts, Family, Layers, Local};
pub use pictures::{Features, Picture, whole};
pub use state::{State, Workspace};
pub use weights::{Cpu, Place, Weights};

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
    /// A picture that is not this model's, or not at a place where one can stand.
    #[error("the picture at row {at}: {problem}")]
    Picture {
        /// Its first row.
        at: usize,
        /// What was seen, what is allowed.
        problem: String,
    },
    /// More tokens than a pass takes.
    #[error("{tokens} tokens in a pass of at most {rows}; run them in several passes")]
    Rows {
        /// Tokens given.
        tokens: usize,
        /// Rows of the workspace.
        rows: usize,
    },
    /// The GPU does not do it.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Device(#[from] dreamseed_kernels::cuda::Error),
}

/// Which logits a call wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: more of the prompt follows.
    None,
    /// Those after the last token: (vocab).
    Last,
    /// Those after each token: (n, vocab), which is n times the vocabulary's size in memory.
    All,
}

/// What a pass appends to one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    /// New tokens.
    pub tokens: &'a [u32],
    /// Positions that the store holds already.
    pub past: usize,
    /// Positions that the sequence may have one day: some models rotate long sequences otherwise, from their first token on.
    pub context: usize,
    /// Blocks of the store for all positions, the new ones among them.
    pub blocks: &'a [u32],
    /// Which logits are wanted.
    pub logits: Logits,
    /// All pictures of the sequence, in order: those before the new tokens, too, move positions.
    pub pictures: &'a [Picture],
}

impl Slice<'_> {
    /// The rows of the slice whose logits are wanted.
    fn wanted(&self) -> std::ops::Range<usize> {
        let n = self.tokens.len();
        match self.logits {
            Logits::None => n..n,
            Logits::Last => n - 1..n,
            Logits::All => 0..n,
        }
    }
}

/// An operation of a pass, over the workspace's buffers; the number is the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Embed,
    NormQkv(usize),
    RopeAppend(usize),
    Attend(usize),
    Output(usize),
    GateUp(usize),
    Down(usize),
    Experts(usize),
    Deep(usize),
    Head,
}

/// What a pass does, in order: the same for every pass of a model, whatever its sequences and their lengths.
fn plan<P: Place>(layers: &[Layer<P>], config: &Config) -> Vec<Op> {
    let mut plan = vec![Op::Embed];
    plan.extend(layers.iter().enumerate().flat_map(|(i, layer)| layer_plan(i, layer, config)));
    plan.push(Op::Head);
    plan
}

/// What it does in layer `i`.
fn layer_plan<P: Place>(i: usize, layer: &Layer<P>, config: &Config) -> Vec<Op> {
    let mut plan = vec![Op::NormQkv(i), Op::RopeAppend(i), Op::Attend(i), Op::Output(i)];
    match layer.feed_forward {
        FeedForward::Dense(_) => plan.extend([Op::GateUp(i), Op::Down(i)]),
        FeedForward::Mixture(_) => plan.push(Op::Experts(i)),
    }
    if i < config.deepstack {
        plan.push(Op::Deep(i));
    }
    plan
}

/// A language model. Immutable: share it, and give each sequence its own [`State`].
pub struct Decoder {
    config: Config,
    weights: Weights,
    plan: Vec<Op>,
    global: Rotation,
    local: Rotation,
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
        Self::new(Config::from_json(&text)?, &Files::hf(path)?, pool)
    }

    /// From an open GGUF file.
    ///
    /// # Errors
    /// As [`Decoder::open`].
    pub fn from_gguf(gguf: &Gguf, pool: &Pool) -> WeightsResult<Self> {
        Self::new(Config::from_gguf(gguf)?, &Files::Gguf(gguf), pool)
    }

    fn new(config: Config, files: &Files, pool: &Pool) -> WeightsResult<Self> {
        let weights = Weights::load(files, &config, &Cpu, pool)?;
        let local = config.local.as_ref().and_then(|l| l.rope.as_ref()).unwrap_or(&config.rope).rotation();
        let global = config.rope.rotation();
        let plan = plan(&weights.layers, &config);
        Ok(Self { config, weights, plan, global, local })
    }

    /// Its shape and kind.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// A fresh sequence of at most `context` positions, with keys and values in f16.
    pub fn new_state(&self, context: usize) -> State {
        self.new_state_in(KvType::default(), context)
    }

    /// A fresh sequence of at most `context` positions, with keys and values in `kind`.
    pub fn new_state_in(&self, kind: KvType, context: usize) -> State {
        State::new(&self.config, context, kind)
    }

    /// Buffers for passes of up to `rows` tokens.
    pub fn workspace(&self, rows: usize) -> Workspace {
        Workspace::new(&self.config, rows)
    }

    /// Whether sequences of up to `context` positions are rotated otherwise than short ones: the two cannot share keys.
    pub fn is_long(&self, context: usize) -> bool {
        self.global.is_long(context) || self.local.is_long(context)
    }

    /// Appends `tokens` to the sequence and gives the logits after the last one, or after each.
    ///
    /// # Errors
    /// [`Error`]; the state is as before then.
    pub fn forward<'s>(&self, pool: &Pool, state: &'s mut State, tokens: &[u32], logits: Logits) -> Result<&'s [f32], Error> {
        self.forward_with(pool, state, tokens, &[], logits)
    }

    /// As [`Decoder::forward`], with pictures in the place of some of `tokens`.
    ///
    /// # Errors
    /// [`Error`]; the state is as before then.
    pub fn forward_with<'s>(
        &self,
        pool: &Pool,
        state: &'s mut State,
        tokens: &[u32],
        pictures: &[Picture],
        logits: Logits,
    ) -> Result<&'s [f32], Error> {
        if tokens.is_empty() {
            return Err(Error::Empty);
        }
        if tokens.len() > state.context() - state.len() {
            return Err(Error::Context { past: state.len(), new: tokens.len(), context: state.context() });
        }
        let together = self.config.whole_pictures;
        // every pass is checked before the first one runs; nothing is kept of that, since a step allocates nothing
        let mut seen = 0;
        while seen < tokens.len() {
            seen += state.piece(tokens.len() - seen, state.len() + seen, pictures, together)?;
        }
        let known = [&state.pictures, pictures].concat();
        self.check_pictures(&Slice {
            tokens,
            past: state.len(),
            context: state.context(),
            blocks: &[],
            logits,
            pictures: &known,
        })?;
        state.pictures = known;
        state.workspace.logits.clear();
        let mut left = tokens;
        while !left.is_empty() {
            let taken = state.piece(left.len(), state.len(), &state.pictures, together)?;
            let (chunk, rest) = left.split_at(taken);
            let wanted = if logits == Logits::Last && !rest.is_empty() { Logits::None } else { logits };
            let (slice, store, workspace) = state.pass(chunk, wanted);
            pool.keep_awake(|| self.pass(pool, workspace, store, &[slice]));
            left = rest;
        }
        Ok(state.logits())
    }

    /// One pass over new tokens of several sequences: their keys and values go to the store, and the logits that they want come
    /// back, (rows wanted, vocab), slice by slice.
    ///
    /// # Errors
    /// [`Error`]; nothing is changed then.
    ///
    /// # Panics
    /// When a slice's blocks do not cover its positions, or the store is another model's: the accounting is wrong.
    pub fn run<'w>(
        &self,
        pool: &Pool,
        workspace: &'w mut Workspace,
        store: &mut KvStore,
        slices: &[Slice],
    ) -> Result<&'w [f32], Error> {
        let tokens: usize = slices.iter().map(|s| s.tokens.len()).sum();
        if slices.is_empty() || slices.iter().any(|s| s.tokens.is_empty()) {
            return Err(Error::Empty);
        }
        if tokens > workspace.rows() {
            return Err(Error::Rows { tokens, rows: workspace.rows() });
        }
        slices.iter().try_for_each(|s| self.check_pictures(s))?;
        workspace.logits.clear();
        pool.keep_awake(|| self.pass(pool, workspace, store, slices));
        Ok(workspace.logits())
    }

    fn check(&self, tokens: &[u32]) -> Result<(), Error> {
        let vocab = self.config.vocab;
        match tokens.iter().find(|&&t| t as usize >= vocab) {
            Some(&token) => Err(Error::Token { token, vocab }),
            None => Ok(()),
        }
    }

    /// Runs the plan over new tokens of several sequences; the wanted logits are appended to the workspace's.
    fn pass(&self, pool: &Pool, workspace: &mut Workspace, store: &mut KvStore, slices: &[Slice]) {
        for op in &self.plan {
            self.step(pool, workspace, store, slices, *op);
        }
    }

    /// Runs one operation over the workspace's buffers.
    fn step(&self, pool: &Pool, workspace: &mut Workspace, store: &mut KvStore, slices: &[Slice], op: Op) {
        let n = slices.iter().map(|s| s.tokens.len()).sum();
        match op {
            Op::Embed => self.embed(workspace, slices),
            Op::NormQkv(layer) => self.norm_qkv(pool, workspace, layer, n),
            Op::RopeAppend(layer) => self.rope_append(pool, workspace, (store, slices), layer, n),
            Op::Attend(layer) => self.attend(pool, workspace, (store, slices), layer, n),
            Op::Output(layer) => self.output(pool, workspace, layer, n),
            Op::GateUp(layer) => self.gate_up(pool, workspace, layer, n),
            Op::Down(layer) => self.down(pool, workspace, layer, n),
            Op::Experts(layer) => self.experts(pool, workspace, layer, n),
            Op::Deep(layer) => self.add_deep(workspace, slices, layer),
            Op::Head => self.logits(pool, workspace, slices),
        }
    }

    /// Embeddings of tokens and pictures, and the rotations of their positions.
    fn embed(&self, workspace: &mut Workspace, slices: &[Slice]) {
        self.embed_rows(workspace, slices);
        workspace.global.clear();
        workspace.local.clear();
        for s in slices {
            self.append_positions(s, self.global.within(s.context), &mut workspace.global);
            if self.config.local.is_some() {
                self.append_positions(s, self.local.within(s.context), &mut workspace.local);
            }
        }
    }

    /// Norm, then query, key and value together.
    fn norm_qkv(&self, pool: &Pool, ws: &mut Workspace, layer: usize, n: usize) {
        let Config { dim, heads, head_dim, eps, .. } = self.config;
        let (q_dim, kv_dim) = (heads * head_dim, self.config.kv_dim());
        let (w, h) = (&self.weights.layers[layer], &mut ws.h[..n * dim]);
        let (q, k, v) = (&mut ws.q[..n * q_dim], &mut ws.k[..n * kv_dim], &mut ws.v[..n * kv_dim]);
        rms_norm(pool, &ws.x[..n * dim], &w.attn_norm, eps, h);
        let mut products = [(&w.wq, q, &w.bq), (&w.wk, k, &w.bk), (&w.wv, v, &w.bv)].map(|(weights, out, bias)| Product {
            weights,
            out,
            epilogue: Epilogue { bias: bias.as_deref(), ..Epilogue::default() },
        });
        linear_many(pool, h, &mut products);
    }

    /// Norms of the heads and rotary embedding, then keys and values to the store.
    fn rope_append(&self, pool: &Pool, ws: &mut Workspace, (store, slices): (&mut KvStore, &[Slice]), layer: usize, n: usize) {
        let Config { heads, head_dim, eps, .. } = self.config;
        let (q_dim, kv_dim) = (heads * head_dim, self.config.kv_dim());
        let w = &self.weights.layers[layer];
        let (q, k, v) = (&mut ws.q[..n * q_dim], &mut ws.k[..n * kv_dim], &ws.v[..n * kv_dim]);
        let table = if self.config.local(layer).is_some() { &ws.local } else { &ws.global };
        let rotary = self.config.rope.dims;
        let turn = dreamseed_kernels::Rope { kind: self.config.rope.kind, cos: &table.cos, sin: &table.sin, rotary };
        for (rows, norm) in [(q, &w.q_norm), (&mut *k, &w.k_norm)] {
            if let Some(norm) = norm {
                rms_norm_in_place(pool, rows, norm, eps);
            }
            rope(pool, &turn, rows, head_dim, &ws.positions[..n]);
        }
        let mut row = 0;
        for s in slices {
            let rows = row * kv_dim..(row + s.tokens.len()) * kv_dim;
            store.write(layer, s.blocks, s.past, &k[rows.clone()], &v[rows]);
            row += s.tokens.len();
        }
    }

    /// Attention over the store.
    fn attend(&self, pool: &Pool, ws: &mut Workspace, (store, slices): (&KvStore, &[Slice]), layer: usize, n: usize) {
        let Config { heads, head_dim, attention_scale: scale, .. } = self.config;
        let q_dim = heads * head_dim;
        let a = Paged { store, layer, heads, scale, window: self.config.local(layer).map(|l| l.window) };
        let (q, attended) = (&ws.q[..n * q_dim], &mut ws.attended[..n * q_dim]);
        let spans = slices.iter().flat_map(|s| s.spans(self.config.whole_pictures));
        attention_paged(pool, &mut ws.plan, a, spans, (q, attended));
    }

    /// The heads' output, onto the residual stream.
    fn output(&self, pool: &Pool, ws: &mut Workspace, layer: usize, n: usize) {
        let Config { dim, heads, head_dim, eps, .. } = self.config;
        let w = &self.weights.layers[layer];
        let (x, h) = (&mut ws.x[..n * dim], &mut ws.h[..n * dim]);
        let attended = &ws.attended[..n * heads * head_dim];
        add_product(pool, attended, (&w.wo, w.bo.as_deref()), &w.post_attn_norm, eps, (h, x));
    }

    /// Norm, gate and up together, activation.
    fn gate_up(&self, pool: &Pool, ws: &mut Workspace, layer: usize, n: usize) {
        let Config { dim, hidden, eps, activation, .. } = self.config;
        let w = &self.weights.layers[layer];
        let FeedForward::Dense(mlp) = &w.feed_forward else { unreachable!("the plan has experts here") };
        let h = &mut ws.h[..n * dim];
        rms_norm(pool, &ws.x[..n * dim], &w.ffn_norm, eps, h);
        mlp.gate(pool, activation, h, &mut ws.gate[..n * hidden], &mut ws.up[..n * hidden]);
    }

    /// Down, onto the residual stream.
    fn down(&self, pool: &Pool, ws: &mut Workspace, layer: usize, n: usize) {
        let Config { dim, hidden, eps, .. } = self.config;
        let w = &self.weights.layers[layer];
        let FeedForward::Dense(mlp) = &w.feed_forward else { unreachable!("the plan has experts here") };
        let (x, h) = (&mut ws.x[..n * dim], &mut ws.h[..n * dim]);
        let down = (&mlp.down, mlp.biases.down.as_deref());
        add_product(pool, &ws.gate[..n * hidden], down, &w.post_ffn_norm, eps, (h, x));
    }

    /// Norm, then the experts that each row is routed to, onto the residual stream. No family has a norm after its experts.
    fn experts(&self, pool: &Pool, ws: &mut Workspace, layer: usize, n: usize) {
        let Config { dim, eps, activation, .. } = self.config;
        let w = &self.weights.layers[layer];
        let FeedForward::Mixture(mixture) = &w.feed_forward else { unreachable!("the plan has a dense network here") };
        let (x, h) = (&mut ws.x[..n * dim], &mut ws.h[..n * dim]);
        rms_norm(pool, x, &w.ffn_norm, eps, h);
        mixture.run(pool, activation, h, x, &mut ws.experts);
    }

    /// Last norm and logits, of consecutive rows together.
    fn logits(&self, pool: &Pool, workspace: &mut Workspace, slices: &[Slice]) {
        let (mut row, mut wanted) = (0, 0..0);
        for slice in slices {
            let more = slice.wanted();
            let more = row + more.start..row + more.end;
            row += slice.tokens.len();
            if more.start == wanted.end {
                wanted.end = more.end;
            } else if !more.is_empty() {
                self.head(pool, workspace, wanted);
                wanted = more;
            }
        }
        self.head(pool, workspace, wanted);
    }

    /// Appends the logits of the given rows of the residual stream.
    fn head(&self, pool: &Pool, workspace: &mut Workspace, rows: std::ops::Range<usize>) {
        let Config { dim, vocab, eps, .. } = self.config;
        let n = rows.len();
        if n == 0 {
            return;
        }
        let (h, logits) = (&mut workspace.h[..n * dim], &mut workspace.logits);
        rms_norm(pool, &workspace.x[rows.start * dim..rows.end * dim], &self.weights.output_norm, eps, h);
        let before = logits.len();
        logits.resize(before + n * vocab, 0.0);
        let output = self.weights.output.as_ref().unwrap_or(&self.weights.embeddings);
        linear(pool, h, output, &mut logits[before..], Epilogue::default());
        if let Some(cap) = self.config.logit_softcap {
            logits[before..].iter_mut().for_each(|l| *l = cap * (*l / cap).tanh());
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
pub(crate) mod tests;
