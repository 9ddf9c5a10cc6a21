//! The encoder and decoder of Whisper (Radford et al. 2022; openai/whisper `model.py`): pre-norm transformers, GELU by erf,
//! learned positions in the decoder.

use dreamseed_kernels::{
    Activation, Dense, Epilogue, MatrixError, Pool, attention_dense, attention_dense_bf16, layer_norm, linear,
};

use super::attention::{Grown, Layout, Packed};
use super::config::Config;
use super::load::{DecoderLayer, EncoderLayer, Linear, Mlp, Norm, SelfAttention, Weights};
use super::options::Precision;

/// Weights and shapes: immutable, shared by all decoding states.
pub(super) struct Model {
    pub(super) config: Config,
    pub(super) weights: Weights,
}

/// Buffers of the encoder, made once; afterwards `x` holds its output.
#[derive(Default)]
pub(super) struct EncoderState {
    pub(super) x: Vec<f32>, // (n_audio_ctx, n_state)
    h: Vec<f32>,            // (n_audio_ctx, n_state): normed, or sums of attention
    wide: Vec<f32>,         // (n_audio_ctx, 3 n_state or n_ffn), and rows of three frames for the convolutions
    frames: Vec<f32>,       // (window_frames, n_state)
}

/// Keys and values of the encoder's output for each decoder layer: computed once a window.
pub(super) struct Cross(Vec<Packed>);

/// Keys and values of the tokens so far, and the buffers of a step. All sequences have the same length.
pub(super) struct DecoderState {
    capacity: usize, // positions
    max_sequences: usize,
    len: usize,
    keys: Vec<f32>,         // (n_text_layer, max_sequences, capacity, n_state)
    values: Vec<f32>,       // the same
    spare: Vec<f32>,        // (max_sequences, capacity, n_state), for reordering
    pub(super) x: Vec<f32>, // (rows, n_state): after a step normed by the last norm, ready for `logits`
    h: Vec<f32>,            // (rows, n_state)
    wide: Vec<f32>,         // (rows, 3 n_state or n_ffn)
    work: Vec<f32>,         // scores
}

/// Takes down the cross-attention of chosen heads while tokens run through the decoder.
pub(super) struct Probe<'a> {
    pub(super) heads: &'a [(usize, usize)], // (layer, head)
    pub(super) weights: Vec<Vec<f32>>,      // for each of `heads`: (rows, n_audio_ctx), rows sum to 1
}

impl Model {
    /// Runs a window of features through the encoder; the result is `state.x`.
    /// `mel`: (window_frames, n_mels), time outermost.
    pub(super) fn encode(&self, pool: &Pool, mel: &[f32], state: &mut EncoderState) {
        let (c, w) = (&self.config, &self.weights);
        let d = c.n_state;
        // 1. two convolutions over three frames each, the second of stride two
        unfold(mel, c.n_mels, 1, &mut state.wide);
        state.frames.resize(c.window_frames() * d, 0.0);
        apply(pool, &state.wide, &w.conv1, &mut state.frames, Activation::Gelu);
        unfold(&state.frames, d, 2, &mut state.wide);
        // 2. positions: the convolution adds to them
        state.x.clear();
        state.x.extend_from_slice(&w.audio_positions);
        let epilogue = Epilogue { bias: Some(&w.conv2.b), activation: Activation::Gelu, accumulate: true };
        linear(pool, &state.wide, &w.conv2.w, &mut state.x, epilogue);
        // 3. layers
        state.h.resize(state.x.len(), 0.0);
        for EncoderLayer { attention, mlp } in &w.encoder {
            project(pool, &state.x, attention, &mut state.h, &mut state.wide);
            let heads = c.n_audio_head;
            let dense = Dense {
                q: &state.wide,
                k: &state.wide[d..],
                v: &state.wide[2 * d..],
                q_len: c.n_audio_ctx,
                kv_len: c.n_audio_ctx,
                q_stride: 3 * d,
                kv_stride: 3 * d,
                heads,
                kv_heads: heads,
                head_dim: d / heads,
                scale: 1.0 / ((d / heads) as f32).sqrt(),
                causal: false,
            };
            match w.precision {
                Precision::Stored => attention_dense(pool, &dense, &mut state.h),
                Precision::Int8 => attention_dense_bf16(pool, &dense, &mut state.h),
            }
            add(pool, &state.h, &attention.out, &mut state.x);
            feed_forward(pool, mlp, &mut state.x, &mut state.h, &mut state.wide);
        }
        // 4. last norm
        state.h.copy_from_slice(&state.x);
        norm(pool, &state.h, &w.encoder_norm, &mut state.x);
    }

    /// Keys and values for the decoder's cross-attention over the encoder's output `audio`: (n_audio_ctx, n_state).
    ///
    /// # Errors
    /// None for a checked model: its own shapes fit.
    pub(super) fn cross(&self, pool: &Pool, audio: &[f32]) -> Result<Cross, MatrixError> {
        let d = self.config.n_state;
        let heads = self.config.n_text_head;
        let layout = Layout { heads, head_dim: d / heads, stride: 2 * d, keys: 0, values: d };
        let mut kv = vec![0.0; audio.len() * 2];
        let pack = |layer: &DecoderLayer| {
            apply(pool, audio, &layer.cross.kv, &mut kv, Activation::None);
            Packed::new(pool, &kv, layout, self.weights.precision)
        };
        self.weights.decoder.iter().map(pack).collect::<Result<_, _>>().map(Cross)
    }

    /// Room for `max_sequences` decoded side by side.
    pub(super) fn decoder_state(&self, max_sequences: usize) -> DecoderState {
        let (capacity, d) = (self.config.n_text_ctx, self.config.n_state);
        let size = max_sequences * capacity * d;
        DecoderState {
            capacity,
            max_sequences,
            len: 0,
            keys: vec![0.0; self.config.n_text_layer * size],
            values: vec![0.0; self.config.n_text_layer * size],
            spare: vec![0.0; size],
            x: Vec::new(),
            h: Vec::new(),
            wide: Vec::new(),
            work: Vec::new(),
        }
    }

    /// Runs tokens through the decoder: `sequences` times as many new tokens each, sequence after sequence, appended to what
    /// `state` holds. Afterwards `state.x` is (tokens, n_state). Tokens beyond the vocabulary count as the last one.
    ///
    /// # Panics
    /// When the tokens do not fit: callers bound lengths by `n_text_ctx`.
    pub(super) fn decode(&self, pool: &Pool, run: Run, state: &mut DecoderState, mut probe: Option<&mut Probe>) {
        let (c, w) = (&self.config, &self.weights);
        let d = c.n_state;
        let Run { cross, tokens, sequences } = run;
        let per_sequence = tokens.len() / sequences;
        let first = state.len;
        assert!(first + per_sequence <= state.capacity && sequences <= state.max_sequences, "{first} + {per_sequence} tokens");
        // 1. embeddings and positions
        state.x.resize(tokens.len() * d, 0.0);
        state.h.resize(tokens.len() * d, 0.0);
        for (i, (x, token)) in state.x.chunks_exact_mut(d).zip(tokens).enumerate() {
            w.embedding.row((*token as usize).min(c.n_vocab - 1), x);
            let position = first + i % per_sequence;
            x.iter_mut().zip(&w.text_positions[position * d..]).for_each(|(x, p)| *x += p);
        }
        let size = state.max_sequences * state.capacity * d;
        for (layer, DecoderLayer { attention, cross: across, mlp }) in w.decoder.iter().enumerate() {
            // 2. causal attention over the tokens so far
            project(pool, &state.x, attention, &mut state.h, &mut state.wide);
            let keys = &mut state.keys[layer * size..][..size];
            let values = &mut state.values[layer * size..][..size];
            for (i, qkv) in state.wide.chunks_exact(3 * d).enumerate() {
                let at = ((i / per_sequence) * state.capacity + first + i % per_sequence) * d;
                keys[at..at + d].copy_from_slice(&qkv[d..2 * d]);
                values[at..at + d].copy_from_slice(&qkv[2 * d..]);
            }
            let grown = Grown { keys, values, capacity: state.capacity, heads: c.n_text_head, head_dim: d / c.n_text_head };
            grown.attend(pool, &state.wide, (first, per_sequence), &mut state.work, &mut state.h);
            add(pool, &state.h, &attention.out, &mut state.x);
            // 3. attention over the audio
            norm(pool, &state.x, &across.norm, &mut state.h);
            state.wide.resize(tokens.len() * d, 0.0);
            apply(pool, &state.h, &across.q, &mut state.wide, Activation::None);
            let packed = &cross.0[layer];
            packed.attend(pool, &state.wide, &mut state.work, &mut state.h);
            if let Some(Probe { heads, weights }) = probe.as_deref_mut() {
                for ((_, head), out) in heads.iter().zip(weights).filter(|((l, _), _)| *l == layer) {
                    out.extend_from_slice(packed.weights(&state.work, *head, tokens.len()));
                }
            }
            add(pool, &state.h, &across.out, &mut state.x);
            // 4. feed forward
            feed_forward(pool, mlp, &mut state.x, &mut state.h, &mut state.wide);
        }
        // 5. last norm
        state.h.copy_from_slice(&state.x);
        norm(pool, &state.h, &w.decoder_norm, &mut state.x);
        state.len += per_sequence;
    }

    /// Logits (rows, n_vocab) of decoded rows (rows, n_state) as [`Self::decode`] left them.
    pub(super) fn logits(&self, pool: &Pool, rows: &[f32], out: &mut Vec<f32>) {
        out.resize(rows.len() / self.config.n_state * self.config.n_vocab, 0.0);
        linear(pool, rows, &self.weights.embedding, out, Epilogue::default());
    }
}

/// What runs through the decoder.
pub(super) struct Run<'a> {
    pub(super) cross: &'a Cross,
    pub(super) tokens: &'a [u32],
    pub(super) sequences: usize,
}

impl DecoderState {
    /// Forgets all tokens.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Sequence i goes on from what was sequence `parents[i]`.
    pub(super) fn reorder(&mut self, parents: &[usize]) {
        if parents.iter().enumerate().all(|(i, p)| i == *p) {
            return;
        }
        let row = self.spare.len() / self.max_sequences;
        let used = row / self.capacity * self.len;
        for side in [&mut self.keys, &mut self.values] {
            for layer in side.chunks_exact_mut(self.spare.len()) {
                for (i, p) in parents.iter().enumerate() {
                    self.spare[i * row..][..used].copy_from_slice(&layer[p * row..][..used]);
                }
                for i in 0..parents.len() {
                    layer[i * row..][..used].copy_from_slice(&self.spare[i * row..][..used]);
                }
            }
        }
    }
}

/// Rows of three neighbouring frames, zero beyond the edges. `x`: (frames, channels); `out`: (frames / stride, 3 x channels).
fn unfold(x: &[f32], channels: usize, stride: usize, out: &mut Vec<f32>) {
    let frames = x.len() / channels;
    out.resize(frames.div_ceil(stride) * 3 * channels, 0.0);
    for (i, row) in out.chunks_exact_mut(3 * channels).enumerate() {
        let centre = i * stride;
        for (tap, part) in row.chunks_exact_mut(channels).enumerate() {
            match (centre + tap).checked_sub(1).filter(|t| *t < frames) {
                Some(t) => part.copy_from_slice(&x[t * channels..][..channels]),
                None => part.fill(0.0),
            }
        }
    }
}

fn apply(pool: &Pool, x: &[f32], layer: &Linear, out: &mut [f32], activation: Activation) {
    linear(pool, x, &layer.w, out, Epilogue { bias: Some(&layer.b), activation, accumulate: false });
}

/// `out += x w^T + b`
fn add(pool: &Pool, x: &[f32], layer: &Linear, out: &mut [f32]) {
    linear(pool, x, &layer.w, out, Epilogue { bias: Some(&layer.b), activation: Activation::None, accumulate: true });
}

/// Norm, then queries, keys and values into `wide`.
fn project(pool: &Pool, x: &[f32], attention: &SelfAttention, h: &mut [f32], wide: &mut Vec<f32>) {
    norm(pool, x, &attention.norm, h);
    wide.resize(3 * x.len(), 0.0);
    apply(pool, h, &attention.qkv, wide, Activation::None);
}

/// `x += down(gelu(up(norm(x))))`
fn feed_forward(pool: &Pool, mlp: &Mlp, x: &mut [f32], h: &mut [f32], wide: &mut Vec<f32>) {
    norm(pool, x, &mlp.norm, h);
    wide.resize(x.len() / mlp.up.w.cols() * mlp.up.w.rows(), 0.0);
    apply(pool, h, &mlp.up, wide, Activation::Gelu);
    add(pool, wide, &mlp.down, x);
}

fn norm(pool: &Pool, x: &[f32], norm: &Norm, out: &mut [f32]) {
    layer_norm(pool, x, (&norm.gamma, &norm.beta), 1e-5, out);
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::config::Settings;
    use super::super::load::Store;
    use super::super::options::Precision;
    use super::*;
    use crate::weights::gguf::writer::Writer;
    use crate::weights::safetensors;
    use dreamseed_kernels::{BlockType, quant::quantize_q8_0};

    fn reference() -> Option<PathBuf> {
        let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference");
        let root = std::env::var_os("DREAMSEED_REFERENCE").map_or(beside, PathBuf::from);
        let folder = root.join("golden/whisper");
        if !folder.exists() {
            eprintln!("skipped: {} is not there", folder.display());
            return None;
        }
        Some(folder)
    }

    fn relative_error(seen: &[f32], wanted: &[f32]) -> f32 {
        assert_eq!(seen.len(), wanted.len());
        let difference: f32 = seen.iter().zip(wanted).map(|(a, b)| (a - b) * (a - b)).sum();
        (difference / wanted.iter().map(|x| x * x).sum::<f32>()).sqrt()
    }

    fn int64(file: &safetensors::File, name: &str) -> Vec<u32> {
        let bytes = file.bytes(name).unwrap();
        bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
    }

    #[test]
    fn equals_transformers_on_a_small_random_model() {
        let Some(folder) = reference() else { return };
        let settings: Settings = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let store = Store::Hub(safetensors::File::open(&folder.join("model.safetensors")).unwrap());
        let config = store.config(&settings).unwrap();
        let pool = Pool::new(2);
        let golden = safetensors::File::open(&folder.join("golden.safetensors")).unwrap();
        let floats = |name| golden.tensor(name).unwrap().values.into_f32();
        let (features, frames) = (floats("in.input_features"), config.window_frames());
        let mel: Vec<f32> = (0..features.len()).map(|i| features[i % config.n_mels * frames + i / config.n_mels]).collect();
        let (tokens, wanted) = (int64(&golden, "in.decoder_input_ids"), floats("out.logits"));
        // 8 bits round a weight and an activation by up to 0.4% of the largest beside it
        for (precision, bound) in [(Precision::Int8, 0.02), (Precision::Stored, 1e-4)] {
            let model = Model { config: config.clone(), weights: store.weights(&pool, &config, precision).unwrap() };
            let mut encoder = EncoderState::default();
            model.encode(&pool, &mel, &mut encoder);
            let error = relative_error(&encoder.x, &floats("out.enc"));
            assert!(error < bound, "{precision:?}: encoder {error}");
            let cross = model.cross(&pool, &encoder.x).unwrap();
            let mut state = model.decoder_state(2);
            let mut logits = Vec::new();
            model.decode(&pool, Run { cross: &cross, tokens: &tokens, sequences: 1 }, &mut state, None);
            model.logits(&pool, &state.x, &mut logits);
            let error = relative_error(&logits, &wanted);
            assert!(error < bound, "{precision:?}: decoder {error}");
            one_by_one(&pool, &model, (&cross, &mut state), (&tokens, &wanted), bound);
        }
    }

    /// The golden model as a GGUF file, its matrices in blocks of 8 bits, under the hub's names and openai/whisper's.
    #[test]
    fn a_gguf_file_gives_the_same_logits() {
        let Some(folder) = reference() else { return };
        let settings: Settings = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let hub = safetensors::File::open(&folder.join("model.safetensors")).unwrap();
        let openai = |name: &str| {
            let mut name = name.trim_start_matches("model.").replace(".layers.", ".blocks.");
            for (from, to) in [
                ("encoder_attn_layer_norm.", "cross_attn_ln."),
                ("self_attn_layer_norm.", "attn_ln."),
                ("final_layer_norm.", "mlp_ln."),
                ("encoder_attn.", "cross_attn."),
                ("self_attn.", "attn."),
                ("q_proj.", "query."),
                ("k_proj.", "key."),
                ("v_proj.", "value."),
                ("out_proj.", "out."),
                ("fc1.", "mlp.0."),
                ("fc2.", "mlp.2."),
                ("encoder.layer_norm.", "encoder.ln_post."),
                ("decoder.layer_norm.", "decoder.ln."),
                ("embed_tokens.", "token_embedding."),
                ("embed_positions.weight", "positional_embedding"),
            ] {
                name = name.replace(from, to);
            }
            name
        };
        let pool = Pool::new(2);
        let run = |store: &Store| {
            let config = store.config(&settings).unwrap();
            let model = Model { weights: store.weights(&pool, &config, Precision::Int8).unwrap(), config };
            let mut encoder = EncoderState::default();
            let mel: Vec<f32> =
                (0..model.config.window_frames() * model.config.n_mels).map(|i| (i as f32 * 0.37).sin()).collect();
            model.encode(&pool, &mel, &mut encoder);
            let cross = model.cross(&pool, &encoder.x).unwrap();
            let (mut state, mut logits) = (model.decoder_state(1), Vec::new());
            model.decode(&pool, Run { cross: &cross, tokens: &[1, 5, 9], sequences: 1 }, &mut state, None);
            model.logits(&pool, &state.x, &mut logits);
            logits
        };
        let wanted = run(&Store::Hub(safetensors::File::open(&folder.join("model.safetensors")).unwrap()));
        for names in [&(|name: &str| name.to_string()) as &dyn Fn(&str) -> String, &openai] {
            let mut writer = Writer::default();
            for name in hub.names().filter(|name| !name.starts_with("proj_out")) {
                let tensor = hub.tensor(name).unwrap();
                let dims: Vec<u64> = tensor.shape.iter().rev().map(|d| *d as u64).collect();
                let values = tensor.values.into_f32();
                let matrix = dims.len() == 2 && dims[0].is_multiple_of(32) && !name.contains("positions");
                writer = match matrix {
                    true => writer.blocks(&names(name), &dims, BlockType::Q8_0, quantize_q8_0(&values)),
                    false => writer.tensor(&names(name), &dims, &values),
                };
            }
            let (_held, path) = writer.file();
            assert_eq!(run(&Store::open(&path).unwrap()), wanted);
        }
    }

    /// Two sequences side by side, changing places on the way.
    fn one_by_one(
        pool: &Pool,
        model: &Model,
        (cross, state): (&Cross, &mut DecoderState),
        (tokens, wanted): (&[u32], &[f32]),
        bound: f32,
    ) {
        let (n_vocab, mut logits) = (model.config.n_vocab, Vec::new());
        state.clear();
        for (i, token) in tokens.iter().enumerate() {
            model.decode(pool, Run { cross, tokens: &[*token; 2], sequences: 2 }, state, None);
            state.reorder(&[1, 0]);
            model.logits(pool, &state.x, &mut logits);
            for row in logits.chunks_exact(n_vocab) {
                let error = relative_error(row, &wanted[i * n_vocab..][..n_vocab]);
                assert!(error < bound, "step {i}: {error}");
            }
        }
    }
}
