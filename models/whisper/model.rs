//! The encoder of Whisper (Radford et al. 2022; openai/whisper `model.py`): a pre-norm transformer, GELU by erf, over two convolutions;
//! and what the decoder (in `decoder.rs`) hears of its output.

use dreamseed_kernels::{
    Activation, Dense, Epilogue, MatrixError, Pool, attention_dense, attention_dense_bf16, layer_norm, linear,
};

use super::attention::{Layout, Packed, Scratch};
use super::config::Config;
use super::decoder::{self, Op};
use super::load::{EncoderLayer, Linear, Mlp, Norm, SelfAttention, Weights};
use super::options::Precision;

pub(super) use super::decoder::{DecoderState, Probe, Run};

/// Weights and shapes: immutable, shared by all decoding states.
pub(super) struct Model {
    pub(super) config: Config,
    pub(super) weights: Weights,
    pub(super) plan: Vec<Op>,
}

/// Buffers of the encoder, made once; afterwards `x` holds its output.
#[derive(Default)]
pub(super) struct EncoderState {
    #[cfg(feature = "cuda")]
    pub(super) gpu: Option<super::cuda::Encoder>, // where the model is there; the others are empty then
    pub(super) x: Vec<f32>, // (n_audio_ctx, n_state)
    h: Vec<f32>,            // (n_audio_ctx, n_state): normed, or sums of attention
    wide: Vec<f32>,         // (n_audio_ctx, 3 n_state or n_ffn), and rows of three frames for the convolutions
    frames: Vec<f32>,       // (window_frames, n_state)
    kv: Vec<f32>,           // (n_audio_ctx, 2 n_state): of one decoder layer
    heads: Vec<Scratch>,    // (n_text_head)
}

/// Keys and values of the encoder's output for each decoder layer: computed once a window, where the model is.
#[derive(Default)]
pub(super) struct Cross(pub(super) Vec<Packed>, #[cfg(feature = "cuda")] pub(super) Option<super::cuda::Heard>);

impl Model {
    pub(super) fn new(config: Config, weights: Weights) -> Self {
        let plan = decoder::plan(&config);
        Self { config, weights, plan }
    }

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
    #[cfg(test)]
    pub(super) fn cross(&self, pool: &Pool, audio: &[f32]) -> Result<Cross, MatrixError> {
        let (mut cross, mut state) = (Cross::default(), EncoderState::default());
        self.project_audio(pool, audio, (&mut state.kv, &mut state.heads), &mut cross)?;
        Ok(cross)
    }

    /// Bytes of the keys and values of a window.
    pub(super) fn cross_bytes(&self) -> usize {
        let c = &self.config;
        let element = match self.weights.precision {
            Precision::Stored => size_of::<f32>(),
            Precision::Int8 => size_of::<half::f16>(),
        };
        c.n_text_layer * c.n_audio_ctx * 2 * c.n_state * element
    }

    /// Encodes a window (see [`Self::encode`]) and projects it to keys and values, in the memory of those that `cross` held.
    ///
    /// # Errors
    /// None for a checked model: its own shapes fit.
    pub(super) fn hear(
        &self,
        pool: &Pool,
        mel: &[f32],
        state: &mut EncoderState,
        cross: &mut Cross,
    ) -> Result<(), MatrixError> {
        self.encode(pool, mel, state);
        self.project_audio(pool, &state.x, (&mut state.kv, &mut state.heads), cross)
    }

    fn project_audio(
        &self,
        pool: &Pool,
        audio: &[f32],
        (kv, scratch): (&mut Vec<f32>, &mut Vec<Scratch>),
        cross: &mut Cross,
    ) -> Result<(), MatrixError> {
        let d = self.config.n_state;
        let heads = self.config.n_text_head;
        let layout = Layout { heads, head_dim: d / heads, stride: 2 * d, keys: 0, values: d };
        kv.resize(audio.len() * 2, 0.0);
        cross.0.resize_with(self.weights.decoder.len(), Packed::default);
        for (layer, packed) in self.weights.decoder.iter().zip(&mut cross.0) {
            apply(pool, audio, &layer.cross.kv, kv, Activation::None);
            packed.fill(pool, kv, layout, self.weights.precision, scratch)?;
        }
        Ok(())
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

pub(super) fn apply(pool: &Pool, x: &[f32], layer: &Linear, out: &mut [f32], activation: Activation) {
    linear(pool, x, &layer.w, out, Epilogue { bias: Some(&layer.b), activation, accumulate: false });
}

/// `out += x w^T + b`
pub(super) fn add(pool: &Pool, x: &[f32], layer: &Linear, out: &mut [f32]) {
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

pub(super) fn norm(pool: &Pool, x: &[f32], norm: &Norm, out: &mut [f32]) {
    layer_norm(pool, x, (&norm.gamma, &norm.beta), 1e-5, out);
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::super::config::Settings;
    use super::super::load::Store;
    use super::super::options::Precision;
    use super::*;
    use crate::weights::gguf::writer::Writer;
    use crate::weights::safetensors;
    use dreamseed_kernels::{BlockType, quant::quantize_q8_0};

    pub(in super::super) fn reference() -> Option<PathBuf> {
        let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference");
        let root = std::env::var_os("DREAMSEED_REFERENCE").map_or(beside, PathBuf::from);
        let folder = root.join("golden/whisper");
        if !folder.exists() {
            eprintln!("skipped: {} is not there", folder.display());
            return None;
        }
        Some(folder)
    }

    pub(in super::super) fn relative_error(seen: &[f32], wanted: &[f32]) -> f32 {
        assert_eq!(seen.len(), wanted.len());
        let difference: f32 = seen.iter().zip(wanted).map(|(a, b)| (a - b) * (a - b)).sum();
        (difference / wanted.iter().map(|x| x * x).sum::<f32>()).sqrt()
    }

    fn int64(file: &safetensors::File, name: &str) -> Vec<u32> {
        let bytes = file.bytes(name).unwrap();
        bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
    }

    /// What transformers made of a window and a text.
    #[cfg(feature = "cuda")]
    pub(in super::super) struct Golden {
        pub(in super::super) mel: Vec<f32>, // (window_frames, n_mels)
        pub(in super::super) tokens: Vec<u32>,
        pub(in super::super) logits: Vec<f32>, // (tokens, n_vocab)
    }

    #[cfg(feature = "cuda")]
    impl Golden {
        pub(in super::super) fn open() -> Self {
            let folder = reference().expect("the golden model");
            let file = safetensors::File::open(&folder.join("golden.safetensors")).unwrap();
            let features = file.tensor("in.input_features").unwrap();
            let [.., n_mels, frames] = features.shape[..] else { panic!("{:?}", features.shape) };
            let values = features.values.into_f32();
            let mel = (0..values.len()).map(|i| values[i % n_mels * frames + i / n_mels]).collect();
            let (tokens, logits) = (int64(&file, "in.decoder_input_ids"), file.tensor("out.logits").unwrap());
            Self { mel, tokens, logits: logits.values.into_f32() }
        }
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
            let model = Model::new(config.clone(), store.weights(&pool, &config, precision).unwrap());
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
            let weights = store.weights(&pool, &config, Precision::Int8).unwrap();
            let model = Model::new(config, weights);
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
            state.fork(0, &[1, 0]);
            model.logits(pool, &state.x, &mut logits);
            for row in logits.chunks_exact(n_vocab) {
                let error = relative_error(row, &wanted[i * n_vocab..][..n_vocab]);
                assert!(error < bound, "step {i}: {error}");
            }
        }
    }
}
