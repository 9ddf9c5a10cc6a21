//! The decoder of Whisper (Radford et al. 2022; openai/whisper `model.py`): a pre-norm transformer over tokens, with attention across to
//! the audio and learned positions.
//!
//! A pass is a flat list of operations ([`Op`]), made once with the model, over buffers that a [`DecoderState`] keeps: any number of rows,
//! each a token of some sequence that hears some audio. One list serves prompts, greedy steps, beams and several windows side by side,
//! and after the first step a step allocates nothing. A row's result does not depend on the rows beside it.

use dreamseed_kernels::{Activation, Epilogue, Pool, linear};

use super::attention::{Grown, Hearing, Row, room};
use super::config::Config;
use super::load::DecoderLayer;
use super::model::{Cross, Model, add, apply, norm};

/// An operation of a pass, over the state's buffers; the number is the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// Embeddings of tokens and positions.
    Embed,
    /// Norm; queries, keys and values.
    Qkv(usize),
    /// Keys and values to where the sequences keep them.
    Append(usize),
    /// Attention over the tokens so far.
    Attend(usize),
    /// Its output, onto the residual stream.
    Output(usize),
    /// Norm; queries to the audio.
    CrossQuery(usize),
    /// Attention over the audio.
    CrossAttend(usize),
    /// Its output, onto the residual stream.
    CrossOutput(usize),
    /// Norm, up, activation.
    Up(usize),
    /// Down, onto the residual stream.
    Down(usize),
    /// The last norm.
    Norm,
    /// Logits of the rows that want them.
    Head,
}

/// What a pass does, in order: the same for every pass of a model.
pub(super) fn plan(config: &Config) -> Vec<Op> {
    let mut plan = vec![Op::Embed];
    for i in 0..config.n_text_layer {
        plan.extend([Op::Qkv(i), Op::Append(i), Op::Attend(i), Op::Output(i)]);
        plan.extend([Op::CrossQuery(i), Op::CrossAttend(i), Op::CrossOutput(i), Op::Up(i), Op::Down(i)]);
    }
    plan.extend([Op::Norm, Op::Head]);
    plan
}

/// Sequences in slots, each with the keys and values of its tokens so far, and the buffers of a pass.
#[derive(Default)]
pub(super) struct DecoderState {
    #[cfg(feature = "cuda")]
    pub(super) gpu: Option<super::cuda::Sequences>, // keys, values and buffers, where the model is there; those below are empty then
    capacity: usize, // positions
    lens: Vec<u32>,  // (slots): positions that are taken
    keys: Vec<f32>,  // (n_text_layer, slots, capacity, n_state); memory that was never touched costs nothing
    values: Vec<f32>,
    pub(super) origins: Vec<u32>, // (slots, capacity): the slot in which a position of a sequence lies
    moved: Vec<u32>,              // (slots, capacity): scratch of `fork`
    pub(super) rows: Vec<Row>,    // of the next pass
    pub(super) wanted: Vec<u32>,  // rows of the next pass whose logits are computed
    pub(super) hearings: Vec<Hearing>, // of the rows
    pub(super) x: Vec<f32>,       // (rows, n_state): after a pass normed by the last norm, ready for `logits`
    h: Vec<f32>,                  // (rows, n_state)
    qkv: Vec<f32>,                // (rows, 3 n_state)
    hidden: Vec<f32>,             // (rows, n_ffn)
    scores: Vec<f32>,             // of the attention over tokens
    heard: Vec<f32>,              // of the attention over the audio
    pub(super) logits: Vec<f32>,  // (wanted, n_vocab)
}

/// Takes down the cross-attention of chosen heads while tokens run through the decoder.
pub(super) struct Probe<'a> {
    pub(super) heads: &'a [(usize, usize)], // (layer, head)
    pub(super) weights: Vec<Vec<f32>>,      // for each of `heads`: (rows, n_audio_ctx), rows sum to 1
}

/// What runs through the decoder.
pub(super) struct Run<'a> {
    pub(super) cross: &'a Cross,
    pub(super) tokens: &'a [u32],
    pub(super) sequences: usize,
}

impl DecoderState {
    /// `slots` sequences of up to `capacity` positions, without memory for what a pass computes.
    pub(super) fn empty(capacity: usize, slots: usize) -> Self {
        let table = || vec![0; slots * capacity];
        Self { capacity, lens: vec![0; slots], origins: table(), moved: table(), ..Self::default() }
    }

    /// How many sequences there is room for.
    pub(super) fn slots(&self) -> usize {
        self.lens.len()
    }

    /// Forgets all tokens.
    pub(super) fn clear(&mut self) {
        self.lens.fill(0);
        self.rows.clear();
        self.wanted.clear();
    }

    /// Puts a token at the end of a sequence: it runs in the next pass, and hears audio `audio` of those that the pass is given. Rows
    /// of the same audio come one after the other. Gives its row.
    ///
    /// # Panics
    /// When the sequence is full: callers bound lengths by `n_text_ctx`.
    pub(super) fn push(&mut self, token: u32, audio: usize, slot: usize) -> usize {
        let position = self.lens[slot];
        assert!((position as usize) < self.capacity, "{position} tokens of a context of {}", self.capacity);
        self.origins[slot * self.capacity + position as usize] = slot as u32;
        self.lens[slot] += 1;
        self.rows.push(Row { token, audio: audio as u32, slot: slot as u32, position });
        self.rows.len() - 1
    }

    /// Puts `sequences` times as many tokens at the ends of the first sequences, which hear audio 0.
    ///
    /// # Panics
    /// As [`Self::push`].
    pub(super) fn push_all(&mut self, run: &Run) {
        let per_sequence = run.tokens.len() / run.sequences;
        for (i, token) in run.tokens.iter().enumerate() {
            self.push(*token, 0, i / per_sequence);
        }
    }

    /// Asks for the logits of a row of the next pass. Gives the row of `logits` where they will be.
    pub(super) fn want(&mut self, row: usize) -> usize {
        self.wanted.push(row as u32);
        self.wanted.len() - 1
    }

    /// Sequence `base + i` goes on from what was sequence `base + parents[i]`: no key or value is moved.
    pub(super) fn fork(&mut self, base: usize, parents: &[usize]) {
        let capacity = self.capacity;
        if parents.iter().enumerate().all(|(i, p)| i == *p) {
            return;
        }
        let len = self.lens[base + parents[0]];
        for (moved, p) in self.moved.chunks_exact_mut(capacity).zip(parents) {
            moved[..len as usize].copy_from_slice(&self.origins[(base + p) * capacity..][..len as usize]);
        }
        for (i, moved) in self.moved.chunks_exact(capacity).take(parents.len()).enumerate() {
            self.origins[(base + i) * capacity..][..len as usize].copy_from_slice(&moved[..len as usize]);
            self.lens[base + i] = len;
        }
    }

    /// The runs of rows that hear the same audio.
    pub(super) fn group(&mut self) {
        self.hearings.clear();
        for (i, row) in self.rows.iter().enumerate() {
            match self.hearings.last_mut() {
                Some(last) if last.audio == row.audio as usize => last.rows += 1,
                _ => self.hearings.push(Hearing { audio: row.audio as usize, first: i, rows: 1 }),
            }
        }
    }
}

impl Model {
    /// Room for `slots` sequences decoded side by side, and the buffers of a step of all of them.
    pub(super) fn decoder_state(&self, slots: usize) -> DecoderState {
        let c = &self.config;
        let (capacity, d) = (c.n_text_ctx, c.n_state);
        let size = c.n_text_layer * slots * capacity * d;
        DecoderState {
            keys: vec![0.0; size],
            values: vec![0.0; size],
            rows: Vec::with_capacity(slots),
            wanted: Vec::with_capacity(slots),
            hearings: Vec::with_capacity(slots),
            x: Vec::with_capacity(slots * d),
            h: Vec::with_capacity(slots * d),
            qkv: Vec::with_capacity(slots * 3 * d),
            hidden: Vec::with_capacity(slots * c.n_ffn[1]),
            scores: Vec::with_capacity(slots * (c.n_text_head * capacity + d)),
            heard: Vec::with_capacity(slots * (c.n_text_head * c.n_audio_ctx + 2 * d)),
            logits: Vec::with_capacity(slots * c.n_vocab),
            ..DecoderState::empty(capacity, slots)
        }
    }

    /// Runs tokens through the decoder: `sequences` times as many new tokens each, sequence after sequence, appended to what
    /// the state's first slots hold. Afterwards `state.x` is (tokens, n_state). Tokens beyond the vocabulary count as the last one.
    ///
    /// # Panics
    /// When the tokens do not fit: callers bound lengths by `n_text_ctx`.
    #[cfg(test)]
    pub(super) fn decode(&self, pool: &Pool, run: Run, state: &mut DecoderState, probe: Option<&mut Probe>) {
        state.push_all(&run);
        self.pass(pool, std::slice::from_ref(run.cross), state, probe);
    }

    /// Runs the rows that were pushed. Afterwards `state.x` is (rows, n_state) and `state.logits` has a row for each that was wanted.
    /// `cross`: the audio that rows name; where there is a probe, all rows hear the same.
    pub(super) fn pass(&self, pool: &Pool, cross: &[Cross], state: &mut DecoderState, mut probe: Option<&mut Probe>) {
        state.group();
        let (n, d) = (state.rows.len(), self.config.n_state);
        state.x.resize(n * d, 0.0);
        state.h.resize(n * d, 0.0);
        pool.keep_awake(|| {
            for op in &self.plan {
                match *op {
                    Op::Embed => self.embed(state),
                    Op::Qkv(layer) => self.qkv(pool, state, layer),
                    Op::Append(layer) => self.append(state, layer),
                    Op::Attend(layer) => self.attend(pool, state, layer),
                    Op::Output(layer) => add(pool, &state.h, &self.layer(layer).attention.out, &mut state.x),
                    Op::CrossQuery(layer) => self.cross_query(pool, state, layer),
                    Op::CrossAttend(layer) => self.cross_attend(pool, (cross, state), layer, probe.as_deref_mut()),
                    Op::CrossOutput(layer) => add(pool, &state.h, &self.layer(layer).cross.out, &mut state.x),
                    Op::Up(layer) => self.up(pool, state, layer),
                    Op::Down(layer) => self.down(pool, state, layer),
                    Op::Norm => {
                        state.h.copy_from_slice(&state.x);
                        norm(pool, &state.h, &self.weights.decoder_norm, &mut state.x);
                    }
                    Op::Head => self.head(pool, state),
                }
            }
        });
        state.rows.clear();
        state.wanted.clear();
    }

    fn layer(&self, layer: usize) -> &DecoderLayer {
        &self.weights.decoder[layer]
    }

    fn embed(&self, state: &mut DecoderState) {
        let (d, w) = (self.config.n_state, &self.weights);
        for (x, row) in state.x.chunks_exact_mut(d).zip(&state.rows) {
            w.embedding.row((row.token as usize).min(self.config.n_vocab - 1), x);
            x.iter_mut().zip(&w.text_positions[row.position as usize * d..]).for_each(|(x, p)| *x += p);
        }
    }

    fn qkv(&self, pool: &Pool, state: &mut DecoderState, layer: usize) {
        let attention = &self.layer(layer).attention;
        norm(pool, &state.x, &attention.norm, &mut state.h);
        apply(pool, &state.h, &attention.qkv, room(&mut state.qkv, 3 * state.x.len()), Activation::None);
    }

    fn append(&self, state: &mut DecoderState, layer: usize) {
        let d = self.config.n_state;
        let first = layer * state.slots() * state.capacity;
        for (row, qkv) in state.rows.iter().zip(state.qkv.chunks_exact(3 * d)) {
            let at = (first + row.slot as usize * state.capacity + row.position as usize) * d;
            state.keys[at..at + d].copy_from_slice(&qkv[d..2 * d]);
            state.values[at..at + d].copy_from_slice(&qkv[2 * d..]);
        }
    }

    fn attend(&self, pool: &Pool, state: &mut DecoderState, layer: usize) {
        let (d, heads) = (self.config.n_state, self.config.n_text_head);
        let size = state.slots() * state.capacity * d;
        let of = |side: &[f32]| layer * size..(layer * size + size).min(side.len());
        let grown = Grown {
            keys: &state.keys[of(&state.keys)],
            values: &state.values[of(&state.values)],
            origins: &state.origins,
            capacity: state.capacity,
            heads,
            head_dim: d / heads,
        };
        grown.attend(pool, &state.rows, &state.qkv, &mut state.scores, &mut state.h);
    }

    fn cross_query(&self, pool: &Pool, state: &mut DecoderState, layer: usize) {
        let across = &self.layer(layer).cross;
        norm(pool, &state.x, &across.norm, &mut state.h);
        apply(pool, &state.h, &across.q, room(&mut state.qkv, state.x.len()), Activation::None);
    }

    fn cross_attend(
        &self,
        pool: &Pool,
        (cross, state): (&[Cross], &mut DecoderState),
        layer: usize,
        probe: Option<&mut Probe>,
    ) {
        let packed = |audio: usize| &cross[audio].0[layer];
        let queries = &state.qkv[..state.x.len()];
        Hearing::attend(&state.hearings, pool, packed, queries, &mut state.heard, &mut state.h);
        let (Some(Probe { heads, weights }), [all]) = (probe, state.hearings.as_slice()) else { return };
        for ((_, head), out) in heads.iter().zip(weights).filter(|((l, _), _)| *l == layer) {
            out.extend_from_slice(Hearing::weights(packed(all.audio), &state.heard, *head, all.rows));
        }
    }

    fn up(&self, pool: &Pool, state: &mut DecoderState, layer: usize) {
        let mlp = &self.layer(layer).mlp;
        norm(pool, &state.x, &mlp.norm, &mut state.h);
        let hidden = room(&mut state.hidden, state.rows.len() * self.config.n_ffn[1]);
        apply(pool, &state.h, &mlp.up, hidden, Activation::Gelu);
    }

    fn down(&self, pool: &Pool, state: &mut DecoderState, layer: usize) {
        let hidden = &state.hidden[..state.rows.len() * self.config.n_ffn[1]];
        add(pool, hidden, &self.layer(layer).mlp.down, &mut state.x);
    }

    fn head(&self, pool: &Pool, state: &mut DecoderState) {
        let d = self.config.n_state;
        for (h, row) in state.h.chunks_exact_mut(d).zip(&state.wanted) {
            h.copy_from_slice(&state.x[*row as usize * d..][..d]);
        }
        self.logits(pool, &state.h[..state.wanted.len() * d], &mut state.logits);
    }

    /// Logits (rows, n_vocab) of decoded rows (rows, n_state) as [`Self::pass`] left them.
    pub(super) fn logits(&self, pool: &Pool, rows: &[f32], out: &mut Vec<f32>) {
        out.resize(rows.len() / self.config.n_state * self.config.n_vocab, 0.0);
        linear(pool, rows, &self.weights.embedding, out, Epilogue::default());
    }
}
