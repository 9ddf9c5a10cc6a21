//! A decoder on an NVIDIA GPU: the same plan as on the processor, over the kernels of [`dreamseed_kernels::cuda`].
//!
//! A pass takes rows eight at a time; fewer are padded to 1, 2, 4 or 8 by rows without a position, so that each of these sizes can be
//! captured into a graph once and replayed. What differs from pass to pass (tokens, positions, blocks) lies in buffers that a graph
//! reads anew. Mixtures of experts, pictures, and keys in other types than f16 are refused.

#[cfg(test)]
mod tests;

use std::{ops::Range, path::Path};

use dreamseed_kernels::{
    BlockType, KV_BLOCK, KvType, Pool,
    cuda::{
        Attend, Buffer, Choice, Chosen, Counters, Device, DeviceMatrix, DeviceStore, Error as Refusal, Gate, GemvInput, Graph,
        HeadNorms, Part, Quantized, RopeAppend, Rows, add_norm, attend, choose, embed, gated, gemv, quantize, rms_norm,
        rope_append, softcap,
    },
};

use super::{
    Config, Error, Op, Slice,
    experts::{FeedForward, Mlp},
    files::Files,
    plan,
    weights::{Layer, Place, Weights},
};
use crate::{
    layers::rope::{Rotation, Table},
    weights::{Error as WeightsError, Result as WeightsResult, gguf::Gguf},
};

/// Rows of a launch that have graphs of their own; the last is the most.
const BUCKETS: [usize; 4] = [1, 2, 4, 8];
/// Most rows of a launch.
const ROWS: usize = 8;
/// Blocks of threads that share a head's context, at most.
const SPLITS: usize = 64;

impl Place for Device {
    type Matrix = DeviceMatrix;
    type Vector = Buffer<f32>;

    fn matrix(&self, name: &str, kind: BlockType, (rows, cols): (usize, usize), bytes: &[u8]) -> WeightsResult<DeviceMatrix> {
        DeviceMatrix::new(self, kind, rows, cols, bytes).map_err(|e| match e {
            Refusal::Shape(problem) => WeightsError::Tensor { name: name.into(), problem },
            other => other.into(),
        })
    }

    /// In half precision, as far as that reaches: what tensor cores multiply is rounded so far in any case.
    fn rounded(&self, name: &str, shape: (usize, usize), values: &[f32]) -> WeightsResult<DeviceMatrix> {
        let fits = values.iter().all(|v| v.abs() <= f32::from(half::f16::MAX));
        let bytes: Vec<u8> = match fits {
            true => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            false => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        self.matrix(name, if fits { BlockType::F16 } else { BlockType::F32 }, shape, &bytes)
    }

    fn vector(&self, values: Vec<f32>) -> WeightsResult<Buffer<f32>> {
        Ok(self.upload(&values)?)
    }
}

/// A language model on a GPU. Immutable: share it, and give each user a [`State`].
pub struct Decoder {
    device: Device,
    config: Config,
    weights: Weights<Device>,
    plan: Vec<Op>,
    global: Rotation,
    local: Rotation,
}

/// Cosines and sines: (positions, dims / 2) each.
type Turns = (Buffer<f32>, Buffer<f32>);

/// One row of a pass.
#[derive(Clone, Copy)]
struct Row {
    slice: usize,
    token: u32,
    position: usize,
    turn: usize,
    wanted: bool,
}

/// Keys and values of all sequences, the buffers of a pass and its graphs, with a stream of its own. Only [`Decoder::grow`]
/// allocates on the device after it is made. Made by [`Decoder::state`].
pub struct State {
    device: Device,
    graphs: Option<[[Option<Graph>; 3]; BUCKETS.len()]>, // of each bucket its stages
    room: Room,
    x: Buffer<f32>,                // (ROWS, dim) residual stream
    h: Buffer<f32>,                // (ROWS, dim) normed
    q: Buffer<f32>,                // (ROWS, heads, head_dim)
    k: Buffer<f32>,                // (ROWS, kv_heads, head_dim)
    v: Buffer<f32>,                // (ROWS, kv_heads, head_dim)
    attended: Buffer<f32>,         // (ROWS, heads, head_dim)
    gate: Buffer<f32>,             // (ROWS, hidden)
    codes: Codes,                  // h, attended and gate in 8 bits
    device_logits: Buffer<f32>,    // (ROWS, vocab)
    choices: Buffer<Choice>,       // (ROWS)
    device_chosen: Buffer<Chosen>, // (ROWS)
    logits: Vec<f32>,              // (rows wanted, vocab)
    chosen: Vec<Chosen>,           // (rows wanted)
    pending: Vec<Row>,
}

/// What of a pass is captured together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// All before the head.
    Layers,
    /// Logits.
    Head,
    /// Logits and the tokens chosen by them.
    Choice,
}

/// What grows with the number of blocks.
struct Room {
    store: DeviceStore,
    rows: Rows,
    tables: Vec<i32>, // (ROWS, blocks) as on the device; -1 where that is not known
    counters: Counters,
    global: Turns,        // rotation of all positions; behind them, that of long sequences where it is another one
    local: Option<Turns>, // the same for local layers
}

/// Activations in 8 bits, where their rows are a multiple of 32.
struct Codes {
    h: Option<Quantized>,
    attended: Quantized,
    gate: Option<Quantized>,
}

impl Decoder {
    /// Loads a GGUF file, or a folder with config.json and safetensors, onto a device.
    ///
    /// # Errors
    /// What is wrong with the files, that the model is of a kind that does not run here, or [`WeightsError::Device`].
    pub fn open(device: &Device, path: &Path, pool: &Pool) -> WeightsResult<Self> {
        if !path.is_dir() {
            return Self::from_gguf(device, &Gguf::open(path)?, pool);
        }
        let json = path.join("config.json");
        let text = crate::weights::read_whole(&json, crate::weights::TEXT)
            .map_err(|source| WeightsError::Io { path: json, source })?;
        Self::new(device, Config::from_json(&text)?, &Files::hf(path)?, pool)
    }

    /// From an open GGUF file.
    ///
    /// # Errors
    /// As [`Decoder::open`].
    pub fn from_gguf(device: &Device, gguf: &Gguf, pool: &Pool) -> WeightsResult<Self> {
        Self::new(device, Config::from_gguf(gguf)?, &Files::Gguf(gguf), pool)
    }

    fn new(device: &Device, config: Config, files: &Files, pool: &Pool) -> WeightsResult<Self> {
        if config.experts.is_some() {
            return Err(WeightsError::Unsupported("mixtures of experts run on the processor alone".into()));
        }
        DeviceStore::supports(&config.kv_shape(KvType::F16)).map_err(|e| WeightsError::Unsupported(e.to_string()))?;
        let weights = Weights::load(files, &config, device, pool)?;
        let local = config.local.as_ref().and_then(|l| l.rope.as_ref()).unwrap_or(&config.rope).rotation();
        let global = config.rope.rotation();
        let plan = plan(&weights, &config);
        Ok(Self { device: device.clone(), config, weights, plan, global, local })
    }

    /// Its shape and kind.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it is.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Its matrices, a tied embedding once.
    fn matrices(&self) -> impl Iterator<Item = &DeviceMatrix> {
        let layer = |l| {
            let Layer { wq, wk, wv, wo, .. }: &Layer<Device> = l;
            [wq, wk, wv, wo].into_iter().chain(dense(l).into_iter().flat_map(|m| [&m.gate, &m.up, &m.down]))
        };
        self.weights.layers.iter().flat_map(layer).chain([&self.weights.embeddings]).chain(&self.weights.output)
    }

    /// Number of weights in the matrices, a tied embedding counted once.
    pub fn parameters(&self) -> u64 {
        self.matrices().map(|m| m.rows() as u64 * m.cols() as u64).sum()
    }

    /// Bytes of its matrices on the device.
    pub fn bytes(&self) -> usize {
        self.matrices().map(DeviceMatrix::bytes).sum()
    }

    /// Whether sequences of up to `context` positions are rotated otherwise than short ones: the two cannot share keys.
    pub fn is_long(&self, context: usize) -> bool {
        self.global.is_long(context) || self.local.is_long(context)
    }

    /// A store of `blocks` blocks of [`KV_BLOCK`] positions in f16, and the buffers of a pass. `graphs`: launches of a pass are captured
    /// when it is first of its size, and replayed as one from then on.
    ///
    /// # Errors
    /// [`Error::Device`]: no room, or heads of a width that no kernel has.
    pub fn state(&self, blocks: usize, graphs: bool) -> Result<State, Error> {
        let Config { dim, hidden, heads, head_dim, vocab, .. } = self.config;
        let (device, q_dim, kv_dim) = (self.device.fork()?, heads * head_dim, self.config.kv_dim());
        let zeros = |width: usize| device.zeros::<f32>(ROWS * width);
        let codes = |width: usize| width.is_multiple_of(32).then(|| Quantized::new(&device, ROWS, width)).transpose();
        Ok(State {
            graphs: graphs.then(Default::default),
            room: self.room(&device, blocks)?,
            x: zeros(dim)?,
            h: zeros(dim)?,
            q: zeros(q_dim)?,
            k: zeros(kv_dim)?,
            v: zeros(kv_dim)?,
            attended: zeros(q_dim)?,
            gate: zeros(hidden)?,
            codes: Codes { h: codes(dim)?, attended: Quantized::new(&device, ROWS, q_dim)?, gate: codes(hidden)? },
            device_logits: zeros(vocab)?,
            choices: device.zeros(ROWS)?,
            device_chosen: device.zeros(ROWS)?,
            logits: Vec::new(),
            chosen: Vec::new(),
            pending: Vec::new(),
            device,
        })
    }

    fn room(&self, device: &Device, blocks: usize) -> Result<Room, Error> {
        let (shape, positions) = (self.config.kv_shape(KvType::F16), blocks.saturating_mul(KV_BLOCK));
        let splits = (2 * device.info().multiprocessors).div_ceil(shape.kv_heads).clamp(1, blocks.clamp(1, SPLITS));
        Ok(Room {
            store: DeviceStore::new(device, shape, blocks)?,
            rows: Rows::new(device, ROWS, ROWS, blocks)?,
            tables: vec![0; ROWS * blocks],
            counters: Counters::new(device, ROWS, self.config.heads, &shape, splits)?,
            global: self.turns(device, &self.global, positions)?,
            local: self.config.local.is_some().then(|| self.turns(device, &self.local, positions)).transpose()?,
        })
    }

    /// Makes room for `blocks` blocks in all, where there are fewer; what they hold stays. Graphs are captured anew.
    ///
    /// # Errors
    /// [`Error::Device`] where the old and the new store do not fit beside each other; the state is as before then.
    pub fn grow(&self, state: &mut State, blocks: usize) -> Result<(), Error> {
        if blocks <= state.blocks() {
            return Ok(());
        }
        let mut room = self.room(&state.device, blocks)?;
        room.store.copy_from(&state.room.store)?;
        state.graphs = state.graphs.is_some().then(Default::default); // they know the old places
        state.room = room;
        Ok(())
    }

    /// The angles of positions up to `positions`, and where the model has others for long sequences, those behind them.
    fn turns(&self, device: &Device, rotation: &Rotation, positions: usize) -> Result<Turns, Error> {
        let mut table = Table::default();
        rotation.within(0).append(0..positions, &mut table);
        if self.is_long(usize::MAX) {
            rotation.within(usize::MAX).append(0..positions, &mut table);
        }
        Ok((device.upload(&table.cos)?, device.upload(&table.sin)?))
    }

    /// One pass over new tokens of several sequences: their keys and values go to the store, and the logits that they want come
    /// back, (rows wanted, vocab), slice by slice.
    ///
    /// # Errors
    /// [`Error`], before anything runs where a slice is not sound. What the store holds of positions before the new ones is as before.
    pub fn run<'s>(&self, state: &'s mut State, slices: &[Slice]) -> Result<&'s [f32], Error> {
        self.pass(state, slices, None)?;
        Ok(&state.logits)
    }

    /// As [`Decoder::run`], but the next tokens are chosen on the device, and nothing else comes back: one for each row whose logits
    /// are wanted, by as many `choices`.
    ///
    /// # Errors
    /// As [`Decoder::run`]; [`Error::Device`] for another number of choices.
    pub fn choose<'s>(&self, state: &'s mut State, slices: &[Slice], choices: &[Choice]) -> Result<&'s [Chosen], Error> {
        let wanted: usize = slices.iter().map(|s| s.wanted().len()).sum();
        if wanted != choices.len() {
            return Err(Refusal::Shape(format!("{} choices for {wanted} rows", choices.len())).into());
        }
        self.pass(state, slices, Some(choices))?;
        Ok(&state.chosen)
    }

    fn pass(&self, state: &mut State, slices: &[Slice], choices: Option<&[Choice]>) -> Result<(), Error> {
        slices.iter().try_for_each(|s| self.check(state, s))?;
        state.logits.clear();
        state.chosen.clear();
        state.pending.clear();
        for (slice, s) in slices.iter().enumerate() {
            let (wanted, behind) = (s.wanted(), if self.is_long(s.context) { state.blocks() * KV_BLOCK } else { 0 });
            state.pending.extend(s.tokens.iter().enumerate().map(|(i, &token)| {
                let position = s.past + i;
                Row { slice, token, position, turn: position + behind, wanted: wanted.contains(&i) }
            }));
        }
        for from in (0..state.pending.len()).step_by(ROWS) {
            if let Err(e) = self.launch(state, slices, from, choices) {
                state.room.tables.fill(-1); // what is on the device now is not known
                return Err(e);
            }
        }
        Ok(())
    }

    /// That every row of a slice lies within the model, the store and its tables: kernels do not look.
    fn check(&self, state: &State, s: &Slice) -> Result<(), Error> {
        let (vocab, new, blocks) = (self.config.vocab, s.tokens.len(), state.blocks());
        if new == 0 {
            return Err(Error::Empty);
        }
        if let Some(&token) = s.tokens.iter().find(|&&t| t as usize >= vocab) {
            return Err(Error::Token { token, vocab });
        }
        if let Some(picture) = s.pictures.first() {
            let problem = "pictures run on the processor alone".into();
            return Err(Error::Picture { at: picture.at, problem });
        }
        let context = s.blocks.len().min(blocks).saturating_mul(KV_BLOCK);
        if s.past.checked_add(new).is_none_or(|end| end > context) {
            return Err(Error::Context { past: s.past, new, context });
        }
        match s.blocks.iter().find(|&&b| b as usize >= blocks) {
            Some(block) => Err(Refusal::Shape(format!("block {block} of a store of {blocks}")).into()),
            None => Ok(()),
        }
    }

    /// Runs up to [`ROWS`] of the pending rows, and fetches the logits that are wanted of them, or the tokens chosen by them.
    fn launch(&self, state: &mut State, slices: &[Slice], from: usize, choices: Option<&[Choice]>) -> Result<(), Error> {
        let rows = &state.pending[from..state.pending.len().min(from + ROWS)];
        let count = rows.len();
        let bucket = BUCKETS.iter().position(|&b| b >= count).unwrap_or(BUCKETS.len() - 1);
        let sequences = std::array::from_fn(|i| i as i32); // each row has a table of its own
        let mut inputs = [[0; ROWS], [-1; ROWS], [0; ROWS], sequences]; // tokens, positions, turns
        let (width, mut moved) = (state.blocks(), false);
        for (i, row) in rows.iter().enumerate() {
            [inputs[0][i], inputs[1][i], inputs[2][i]] = [row.token as i32, row.position as i32, row.turn as i32];
            let blocks = &slices[row.slice].blocks[..=row.position / KV_BLOCK];
            for (known, &block) in state.room.tables[i * width..].iter_mut().zip(blocks) {
                moved |= *known != block as i32;
                *known = block as i32;
            }
        }
        state.room.rows.inputs.write(0, inputs.as_flattened())?;
        if moved {
            state.room.rows.tables.write(0, &state.room.tables)?;
        }
        self.replay(state, bucket, Stage::Layers)?;
        let rows = from..from + count;
        match choices {
            _ if !state.pending[rows.clone()].iter().any(|r| r.wanted) => Ok(()),
            Some(choices) => self.choose_rows(state, bucket, rows, choices),
            None => self.read_logits(state, bucket, rows),
        }
    }

    /// Chooses tokens of the pending rows that are wanted; `choices`: of all wanted rows of the pass.
    fn choose_rows(&self, state: &mut State, bucket: usize, rows: Range<usize>, choices: &[Choice]) -> Result<(), Error> {
        let (mut own, mut next) = ([Choice::default(); ROWS], state.chosen.len());
        for (choice, row) in own.iter_mut().zip(&state.pending[rows.clone()]) {
            if row.wanted {
                *choice = choices[next];
                next += 1;
            }
        }
        state.choices.write(0, &own)?;
        self.replay(state, bucket, Stage::Choice)?;
        let mut chosen = [Chosen::default(); ROWS];
        state.device_chosen.read(0, &mut chosen)?;
        let wanted = chosen.iter().zip(&state.pending[rows]).filter(|(_, row)| row.wanted);
        state.chosen.extend(wanted.map(|(chosen, _)| chosen));
        Ok(())
    }

    /// Fetches the logits of the pending rows that are wanted.
    fn read_logits(&self, state: &mut State, bucket: usize, rows: Range<usize>) -> Result<(), Error> {
        self.replay(state, bucket, Stage::Head)?;
        let vocab = self.config.vocab;
        // rows that lie together are read together
        let mut row = 0;
        for run in state.pending[rows].chunk_by(|a, b| a.wanted == b.wanted) {
            if run[0].wanted {
                let at = state.logits.len();
                state.logits.resize(at + run.len() * vocab, 0.0);
                state.device_logits.read(row * vocab, &mut state.logits[at..])?;
            }
            row += run.len();
        }
        Ok(())
    }

    /// A stage of a bucket: by its graph where there are graphs, captured the first time.
    fn replay(&self, state: &mut State, bucket: usize, stage: Stage) -> Result<(), Error> {
        let missing = state.graphs.as_ref().map(|g| g[bucket][stage as usize].is_none());
        if missing == Some(true) {
            let graph = state.device.clone().capture(|| self.launches(state, BUCKETS[bucket], stage))?;
            if let Some(graphs) = &mut state.graphs {
                graphs[bucket][stage as usize] = Some(graph);
            }
        }
        match state.graphs.as_ref().and_then(|g| g[bucket][stage as usize].as_ref()) {
            Some(graph) => Ok(graph.replay()?),
            None => Ok(self.launches(state, BUCKETS[bucket], stage)?),
        }
    }

    /// Launches a stage over `n` rows.
    fn launches(&self, state: &mut State, n: usize, stage: Stage) -> Result<(), Refusal> {
        self.plan.iter().filter(|op| (**op == Op::Head) == (stage != Stage::Layers)).try_for_each(|op| match *op {
            Op::Embed => {
                let (table, scale) = (&self.weights.embeddings, self.config.embedding_scale);
                embed(&state.device, n, table, scale, &state.room.rows.inputs, &mut state.x)
            }
            Op::NormQkv(layer) => self.norm_qkv(state, layer, n),
            Op::RopeAppend(layer) => self.rope_append(state, layer, n),
            Op::Attend(layer) => self.attend(state, layer, n),
            Op::Output(layer) => self.output(state, layer, n),
            Op::GateUp(layer) => self.gate_up(state, layer, n),
            Op::Down(layer) => self.down(state, layer, n),
            // models with experts are not opened, and without pictures there is nothing to add
            Op::Experts(_) | Op::Deep(_) => Ok(()),
            Op::Head => self.head(state, n),
        })?;
        if stage == Stage::Choice {
            let logits = (&state.device_logits, self.config.vocab);
            choose(&state.device, n, logits, &state.choices, &mut state.device_chosen)?;
        }
        Ok(())
    }

    /// What a product of the normed residual stream takes: of one row the norm is part of the product.
    fn normed<'a>(
        &self,
        (device, n): (&Device, usize),
        (x, weight): (&'a Buffer<f32>, &'a Buffer<f32>),
        (h, codes): (&'a mut Buffer<f32>, &'a mut Option<Quantized>),
    ) -> Result<GemvInput<'a>, Refusal> {
        let eps = self.config.eps;
        if n == 1 {
            return Ok(GemvInput::Normed { x, weight, eps });
        }
        rms_norm(device, n, x, (weight, eps), h, codes.as_mut())?;
        Ok(GemvInput::Plain { x: h, quantized: codes.as_ref() })
    }

    fn norm_qkv(&self, s: &mut State, layer: usize, n: usize) -> Result<(), Refusal> {
        let w = &self.weights.layers[layer];
        let input = self.normed((&s.device, n), (&s.x, &w.attn_norm), (&mut s.h, &mut s.codes.h))?;
        let mut parts = [(&w.wq, &w.bq, &mut s.q), (&w.wk, &w.bk, &mut s.k), (&w.wv, &w.bv, &mut s.v)]
            .map(|(weights, bias, out)| Part { weights, bias: bias.as_ref(), out });
        gemv(&s.device, n, &input, &mut parts, false)
    }

    fn rope_append(&self, s: &mut State, layer: usize, n: usize) -> Result<(), Refusal> {
        let w = &self.weights.layers[layer];
        let local = s.room.local.as_ref().filter(|_| self.config.local(layer).is_some());
        let (cos, sin) = local.unwrap_or(&s.room.global);
        let a = RopeAppend {
            q: &mut s.q,
            k: &s.k,
            v: &s.v,
            norms: HeadNorms { q: w.q_norm.as_ref(), k: w.k_norm.as_ref(), eps: self.config.eps },
            turns: (cos, sin),
            rotary: self.config.rope.dims,
            kind: self.config.rope.kind,
            heads: self.config.heads,
        };
        rope_append(&s.device, n, &s.room.rows, a, (&mut s.room.store, layer))
    }

    fn attend(&self, s: &mut State, layer: usize, n: usize) -> Result<(), Refusal> {
        let Config { heads, head_dim, attention_scale: scale, .. } = self.config;
        let window = self.config.local(layer).map(|l| l.window);
        let a = Attend { q: &s.q, heads, scale, window, out: &mut s.attended, quantized: &mut s.codes.attended };
        attend(&s.device, n, &s.room.rows, a, (&s.room.store, layer), &mut s.room.counters)?;
        // heads that are no multiple of 32 are not put into 8 bits by the kernel
        let floats = self.weights.layers[layer].wo.kind().block().0 == 1;
        if !floats && !head_dim.is_multiple_of(32) && (heads * head_dim).is_multiple_of(32) {
            quantize(&s.device, (n, heads * head_dim), &s.attended, &mut s.codes.attended)?;
        }
        Ok(())
    }

    fn output(&self, s: &mut State, layer: usize, n: usize) -> Result<(), Refusal> {
        let w = &self.weights.layers[layer];
        let whole = (self.config.heads * self.config.head_dim).is_multiple_of(32);
        let input = GemvInput::Plain { x: &s.attended, quantized: whole.then_some(&s.codes.attended) };
        self.add_product((&s.device, n), &input, (&w.wo, w.bo.as_ref(), w.post_attn_norm.as_ref()), (&mut s.h, &mut s.x))
    }

    fn gate_up(&self, s: &mut State, layer: usize, n: usize) -> Result<(), Refusal> {
        let w = &self.weights.layers[layer];
        let Some(mlp) = dense(w) else { return Ok(()) };
        let input = self.normed((&s.device, n), (&s.x, &w.ffn_norm), (&mut s.h, &mut s.codes.h))?;
        let gate = Gate {
            gate: (&mlp.gate, mlp.biases.gate.as_ref()),
            up: (&mlp.up, mlp.biases.up.as_ref()),
            activation: self.config.activation,
            out: &mut s.gate,
            quantized: s.codes.gate.as_mut(),
        };
        gated(&s.device, n, &input, gate)
    }

    fn down(&self, s: &mut State, layer: usize, n: usize) -> Result<(), Refusal> {
        let w = &self.weights.layers[layer];
        let Some(mlp) = dense(w) else { return Ok(()) };
        let input = GemvInput::Plain { x: &s.gate, quantized: s.codes.gate.as_ref() };
        let product = (&mlp.down, mlp.biases.down.as_ref(), w.post_ffn_norm.as_ref());
        self.add_product((&s.device, n), &input, product, (&mut s.h, &mut s.x))
    }

    /// `residual += norm(input w^T + bias)`; without a norm in one launch. `scratch`: as `residual`.
    fn add_product(
        &self,
        (device, n): (&Device, usize),
        input: &GemvInput,
        (weights, bias, norm): (&DeviceMatrix, Option<&Buffer<f32>>, Option<&Buffer<f32>>),
        (scratch, residual): (&mut Buffer<f32>, &mut Buffer<f32>),
    ) -> Result<(), Refusal> {
        let Some(norm) = norm else {
            return gemv(device, n, input, &mut [Part { weights, bias, out: residual }], true);
        };
        gemv(device, n, input, &mut [Part { weights, bias, out: scratch }], false)?;
        add_norm(device, n, scratch, (norm, self.config.eps), residual)
    }

    /// Last norm and logits.
    fn head(&self, s: &mut State, n: usize) -> Result<(), Refusal> {
        let weights = self.weights.output.as_ref().unwrap_or(&self.weights.embeddings);
        let input = self.normed((&s.device, n), (&s.x, &self.weights.output_norm), (&mut s.h, &mut s.codes.h))?;
        gemv(&s.device, n, &input, &mut [Part { weights, bias: None, out: &mut s.device_logits }], false)?;
        match self.config.logit_softcap {
            Some(cap) => softcap(&s.device, &mut s.device_logits, n * self.config.vocab, cap),
            None => Ok(()),
        }
    }
}

/// A layer's feed-forward network; models with experts are not opened.
fn dense(layer: &Layer<Device>) -> Option<&Mlp<Device>> {
    match &layer.feed_forward {
        FeedForward::Dense(mlp) => Some(mlp),
        FeedForward::Mixture(_) => None,
    }
}

impl State {
    /// Blocks of its store.
    pub fn blocks(&self) -> usize {
        self.room.store.blocks()
    }

    /// Copies block `from` over block `to`.
    ///
    /// # Errors
    /// [`Error::Device`] when one of them is not there.
    pub fn copy(&mut self, from: u32, to: u32) -> Result<(), Error> {
        Ok(self.room.store.copy(from, to)?)
    }

    /// Launches of a pass over `rows` rows as they were captured: its layers, its head. `None` before the first pass of this size.
    pub fn launches(&self, rows: usize) -> Option<[usize; 2]> {
        let bucket = BUCKETS.iter().position(|&b| b >= rows)?;
        let [layers, head, _] = self.graphs.as_ref()?.get(bucket)?;
        Some([layers.as_ref()?.launches(), head.as_ref()?.launches()])
    }

    /// What the last [`Decoder::run`] gave: (rows wanted, vocab).
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// What the last [`Decoder::choose`] gave: one for each row that was wanted.
    pub fn chosen(&self) -> &[Chosen] {
        &self.chosen
    }
}
