//! Weights of Whisper from CTranslate2's `model.bin`, the hub's `model.safetensors` or a GGUF file, into the same structures.

use std::collections::HashMap;
use std::path::Path;

use dreamseed_kernels::{BlockType, Pool, quant};

use super::config::{Config, Settings};
use super::names::{CT2, HUB, HUB_BARE, Names, OPENAI, Part};
use super::options::Precision;
use crate::decoder::Place;
use crate::weights::{Error, Result, Tensor, Values, ct2, gguf::Gguf, safetensors};

/// `y = x w^T + b`
pub(super) struct Linear<P: Place = Pool> {
    pub(super) w: P::Matrix, // (out, in)
    pub(super) b: P::Vector, // (out)
}

pub(super) struct Norm<P: Place = Pool> {
    pub(super) gamma: P::Vector, // (n_state)
    pub(super) beta: P::Vector,  // (n_state)
}

pub(super) struct Mlp<P: Place = Pool> {
    pub(super) norm: Norm<P>,
    pub(super) up: Linear<P>,   // (n_ffn, n_state)
    pub(super) down: Linear<P>, // (n_state, n_ffn)
}

pub(super) struct SelfAttention<P: Place = Pool> {
    pub(super) norm: Norm<P>,
    pub(super) qkv: Linear<P>, // (3 n_state, n_state): queries, keys, values
    pub(super) out: Linear<P>, // (n_state, n_state)
}

pub(super) struct CrossAttention<P: Place = Pool> {
    pub(super) norm: Norm<P>,
    pub(super) q: Linear<P>,   // (n_state, n_state)
    pub(super) kv: Linear<P>,  // (2 n_state, n_state): keys, values
    pub(super) out: Linear<P>, // (n_state, n_state)
}

pub(super) struct EncoderLayer<P: Place = Pool> {
    pub(super) attention: SelfAttention<P>,
    pub(super) mlp: Mlp<P>,
}

pub(super) struct DecoderLayer<P: Place = Pool> {
    pub(super) attention: SelfAttention<P>,
    pub(super) cross: CrossAttention<P>,
    pub(super) mlp: Mlp<P>,
}

/// All weights, immutable.
pub(super) struct Weights<P: Place = Pool> {
    pub(super) precision: Precision,
    pub(super) conv1: Linear<P>,           // (n_state, 3 n_mels): one row a filter, times outermost
    pub(super) conv2: Linear<P>,           // (n_state, 3 n_state)
    pub(super) audio_positions: P::Vector, // (n_audio_ctx, n_state)
    pub(super) encoder: Vec<EncoderLayer<P>>,
    pub(super) encoder_norm: Norm<P>,
    pub(super) embedding: P::Matrix,      // (n_vocab, n_state), also the projection to logits
    pub(super) text_positions: P::Vector, // (n_text_ctx, n_state)
    pub(super) decoder: Vec<DecoderLayer<P>>,
    pub(super) decoder_norm: Norm<P>,
}

/// A weight file of any kind.
pub(super) enum Store {
    Ct2(ct2::File),
    Hub(safetensors::File),
    Gguf(Gguf, HashMap<String, Vec<usize>>), // and the shapes, slowest first
}

impl Store {
    /// By the ending of the name: `.safetensors`, `.gguf`, else CTranslate2.
    pub(super) fn open(path: &Path) -> Result<Self> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => safetensors::File::open(path).map(Self::Hub),
            Some("gguf") => Gguf::open(path).map(Self::of_gguf),
            _ => ct2::File::open(path).map(Self::Ct2),
        }
    }

    pub(super) fn of_gguf(file: Gguf) -> Self {
        let shape = |name: &str| {
            let dims = file.tensor(name).map_or(&[][..], |info| &info.dims).iter().rev();
            dims.map(|d| usize::try_from(*d).unwrap_or(usize::MAX)).collect()
        };
        let shapes = file.tensor_names().map(|name| (name.to_string(), shape(name))).collect();
        Self::Gguf(file, shapes)
    }

    /// Shapes from the tensors; what they do not tell (heads) from the file's scalars or the settings.
    pub(super) fn config(&self, settings: &Settings) -> Result<Config> {
        let names = self.names();
        let conv1 = self.shape(&format!("{}weight", names.conv(1)))?;
        let embedding = self.shape(names.embedding)?;
        let (audio, text) = (self.shape(names.audio_positions)?, self.shape(names.text_positions)?);
        let ([n_state, n_mels, 3], [n_vocab, _], [n_audio_ctx, _], [n_text_ctx, _]) = (conv1, embedding, audio, text) else {
            let seen = format!("conv1 {conv1:?}, embeddings {embedding:?}, positions {audio:?} and {text:?}");
            return Err(Error::Unsupported(format!("not the shapes of a Whisper: {seen}")));
        };
        let layers = |side| (0..=256).take_while(|i| self.has(&names.norm(side, *i, names.self_norm))).count();
        let ffn =
            |side| self.shape(&format!("{}weight", names.layer(side, 0, names.up))).map(|s| s.first().copied().unwrap_or(0));
        let heads = |side: &str, given: Option<usize>| match self {
            Self::Ct2(file) if file.variable(&format!("{side}/num_heads")).is_some() => {
                file.integer(&format!("{side}/num_heads")).map(|n| usize::try_from(n).unwrap_or(0))
            }
            _ => Ok(given.unwrap_or(n_state / 64)), // every published Whisper has heads of 64
        };
        let config = Config {
            n_mels: *n_mels,
            n_audio_ctx: *n_audio_ctx,
            n_audio_layer: layers("encoder"),
            n_audio_head: heads("encoder", settings.encoder_attention_heads)?,
            n_text_ctx: *n_text_ctx,
            n_text_layer: layers("decoder"),
            n_text_head: heads("decoder", settings.decoder_attention_heads)?,
            n_state: *n_state,
            n_ffn: [ffn("encoder")?, ffn("decoder")?],
            n_vocab: *n_vocab,
        };
        config.check()?;
        self.refuse_variants(settings)?;
        Ok(config)
    }

    /// Reads and packs all weights for the processor, layers in parallel.
    pub(super) fn weights(&self, pool: &Pool, config: &Config, precision: Precision) -> Result<Weights> {
        self.weights_at(config, How { place: pool, pool, precision })
    }

    /// Reads all weights and takes them to a place, layers in parallel.
    pub(super) fn weights_at<P: Place>(&self, config: &Config, how: How<P>) -> Result<Weights<P>> {
        let (d, names, place, pool) = (config.n_state, self.names(), how.place, how.pool);
        let linear = |parts: &[Part], cols| self.linear(parts, cols, how);
        let layer = |side: &'static str, i: usize| -> Result<(SelfAttention<P>, Mlp<P>)> {
            let attention = SelfAttention {
                norm: self.norm(&names.norm(side, i, names.self_norm), d, place)?,
                qkv: linear(&names.parts(side, i, names.qkv, d), d)?,
                out: linear(&[(names.layer(side, i, names.self_out), d)], d)?,
            };
            let n_ffn = config.n_ffn[usize::from(side == "decoder")];
            let mlp = Mlp {
                norm: self.norm(&names.norm(side, i, names.mlp_norm), d, place)?,
                up: linear(&[(names.layer(side, i, names.up), n_ffn)], d)?,
                down: linear(&[(names.layer(side, i, names.down), d)], n_ffn)?,
            };
            Ok((attention, mlp))
        };
        let encoder = parallel(pool, config.n_audio_layer, |i| {
            layer("encoder", i).map(|(attention, mlp)| EncoderLayer { attention, mlp })
        })?;
        let decoder = parallel(pool, config.n_text_layer, |i| {
            let (attention, mlp) = layer("decoder", i)?;
            let cross = CrossAttention {
                norm: self.norm(&names.norm("decoder", i, names.cross_norm), d, place)?,
                q: linear(&[(names.layer("decoder", i, names.cross_q), d)], d)?,
                kv: linear(&names.parts("decoder", i, names.cross_kv, d), d)?,
                out: linear(&[(names.layer("decoder", i, names.cross_out), d)], d)?,
            };
            Ok(DecoderLayer { attention, cross, mlp })
        })?;
        let embedding = match self.blocks(&[(names.embedding.into(), config.n_vocab)], d)? {
            Some((kind, bytes)) => place.matrix(names.embedding, kind, (config.n_vocab, d), &bytes)?,
            None => matrix(names.embedding, config.n_vocab, d, self.shaped(names.embedding, &[config.n_vocab, d])?, how)?,
        };
        Ok(Weights {
            precision: how.precision,
            conv1: self.conv(&names.conv(1), d, config.n_mels, how)?,
            conv2: self.conv(&names.conv(2), d, d, how)?,
            audio_positions: place.vector(self.floats(names.audio_positions, &[config.n_audio_ctx, d])?)?,
            encoder,
            encoder_norm: self.norm(names.encoder_norm, d, place)?,
            embedding,
            text_positions: place.vector(self.floats(names.text_positions, &[config.n_text_ctx, d])?)?,
            decoder,
            decoder_norm: self.norm(names.decoder_norm, d, place)?,
        })
    }

    /// Graph variants that CTranslate2 can express and Whisper does not use would give wrong text without a word.
    fn refuse_variants(&self, settings: &Settings) -> Result<()> {
        if let Some(other) = settings.activation_function.as_deref().filter(|a| *a != "gelu") {
            return Err(Error::Unsupported(format!("Whisper with activation {other:?}; gelu is needed")));
        }
        let Self::Ct2(file) = self else { return Ok(()) };
        if file.spec != "WhisperSpec" {
            return Err(Error::Unsupported(format!("a CTranslate2 model of {:?}; WhisperSpec is needed", file.spec)));
        }
        let wanted =
            [("activation", 3), ("pre_norm", 1), ("alibi", 0), ("scale_embeddings", 0), ("start_from_zero_embedding", 0)];
        for (what, wanted) in wanted {
            let name = format!("decoder/{what}");
            if file.variable(&name).is_some() && file.integer(&name)? != wanted {
                let seen = file.integer(&name)?;
                return Err(Error::Unsupported(format!("{name} is {seen}; Whisper has {wanted}")));
            }
        }
        Ok(())
    }

    fn names(&self) -> &'static Names {
        if matches!(self, Self::Ct2(_)) {
            return &CT2;
        }
        [&HUB_BARE, &OPENAI].into_iter().find(|names| self.shape(names.embedding).is_ok()).unwrap_or(&HUB)
    }

    fn has(&self, norm: &str) -> bool {
        self.shape(&format!("{norm}{}", self.names().gamma)).is_ok()
    }

    fn shape(&self, name: &str) -> Result<&[usize]> {
        let shape = match self {
            Self::Ct2(file) => file.variable(name).map(|v| v.shape.as_slice()),
            Self::Hub(file) => file.info(name).map(|i| i.shape.as_slice()),
            Self::Gguf(_, shapes) => shapes.get(name).map(Vec::as_slice),
        };
        shape.ok_or_else(|| problem(name, "is not in the file".into()))
    }

    /// A tensor that must have this shape; the shape is checked before a byte is read.
    fn shaped(&self, name: &str, shape: &[usize]) -> Result<Values> {
        let seen = self.shape(name)?;
        if seen != shape {
            return Err(problem(name, format!("has shape {seen:?}, {shape:?} is needed")));
        }
        let Tensor { values, .. } = match self {
            Self::Ct2(file) => file.tensor(name)?,
            Self::Hub(file) => file.tensor(name)?,
            Self::Gguf(file, _) => return dequantized(file, name, shape),
        };
        Ok(values)
    }

    /// Where a GGUF file has a matrix quantized, its blocks as they are: they need no second rounding.
    fn blocks(&self, parts: &[(String, usize)], cols: usize) -> Result<Option<(BlockType, Vec<u8>)>> {
        let Self::Gguf(file, _) = self else { return Ok(None) };
        let mut all: Option<(BlockType, Vec<u8>)> = None;
        for (name, rows) in parts {
            let kind = file.kind(name, *rows, cols)?;
            match &mut all {
                _ if matches!(kind, BlockType::F32 | BlockType::F16 | BlockType::BF16) => return Ok(None),
                None => all = Some((kind, file.bytes(name)?)),
                Some((first, bytes)) if *first == kind => bytes.extend(file.bytes(name)?),
                Some(_) => return Ok(None),
            }
        }
        Ok(all)
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.shaped(name, shape).map(Values::into_f32)
    }

    fn norm<P: Place>(&self, name: &str, d: usize, place: &P) -> Result<Norm<P>> {
        let names = self.names();
        let read = |suffix| place.vector(self.floats(&format!("{name}{suffix}"), &[d])?);
        Ok(Norm { gamma: read(names.gamma)?, beta: read(names.beta)? })
    }

    /// Parts one under the other; keys have no bias on the hub.
    fn linear<P: Place>(&self, parts: &[Part], cols: usize, how: How<P>) -> Result<Linear<P>> {
        let mut b = Vec::new();
        for (name, rows) in parts {
            let bias = format!("{name}bias");
            let keys = name.ends_with("k_proj.") || name.ends_with(".key.");
            match self {
                Self::Hub(_) | Self::Gguf(..) if keys && self.shape(&bias).is_err() => b.resize(b.len() + rows, 0.0),
                _ => b.extend(self.floats(&bias, &[*rows])?),
            }
        }
        let name = parts.first().map_or("", |(name, _)| name);
        let weights: Vec<(String, usize)> = parts.iter().map(|(name, rows)| (format!("{name}weight"), *rows)).collect();
        if let Some((kind, bytes)) = self.blocks(&weights, cols)? {
            let w = how.place.matrix(name, kind, (b.len(), cols), &bytes)?;
            return Ok(Linear { w, b: how.place.vector(b)? });
        }
        let mut values: Option<Values> = None;
        for (name, rows) in &weights {
            let part = self.shaped(name, &[*rows, cols])?;
            values = Some(match values {
                None => part,
                Some(above) => join(above, part),
            });
        }
        let w = matrix(name, b.len(), cols, values.unwrap_or(Values::F32(Vec::new())), how)?;
        Ok(Linear { w, b: how.place.vector(b)? })
    }

    /// A convolution over three times as a matrix whose columns run over (time, channel): three frames of (time, channel)
    /// activations are then one row as they lie.
    fn conv<P: Place>(&self, name: &str, out: usize, channels: usize, how: How<P>) -> Result<Linear<P>> {
        let w = self.shaped(&format!("{name}weight"), &[out, channels, 3])?;
        let reorder = |i: usize| {
            let (filter, time, channel) = (i / (3 * channels), i / channels % 3, i % channels);
            (filter * channels + channel) * 3 + time
        };
        let w = match w {
            Values::F32(w) => Values::F32((0..w.len()).map(|i| w[reorder(i)]).collect()),
            Values::F16(w) => Values::F16((0..w.len()).map(|i| w[reorder(i)]).collect()),
            Values::Bf16(w) => Values::Bf16((0..w.len()).map(|i| w[reorder(i)]).collect()),
        };
        let b = how.place.vector(self.floats(&format!("{name}bias"), &[out])?)?;
        Ok(Linear { w: matrix(name, out, 3 * channels, w, how)?, b })
    }
}

/// `load(0..count)` on all threads, in order; the first error where there is one.
fn parallel<T: Send>(pool: &Pool, count: usize, load: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let mut slots: Vec<Option<Result<T>>> = (0..count).map(|_| None).collect();
    pool.for_each_chunk(&mut slots, 1, |i, slot| slot[0] = Some(load(i)));
    slots.into_iter().flatten().collect()
}

fn join(above: Values, below: Values) -> Values {
    match (above, below) {
        (Values::F16(mut a), Values::F16(b)) => {
            a.extend(b);
            Values::F16(a)
        }
        (Values::Bf16(mut a), Values::Bf16(b)) => {
            a.extend(b);
            Values::Bf16(a)
        }
        (a, b) => {
            let mut a = a.into_f32();
            a.extend(b.into_f32());
            Values::F32(a)
        }
    }
}

/// How weights are packed and where they go, and who prepares them.
pub(super) struct How<'a, P> {
    pub(super) place: &'a P,
    pub(super) pool: &'a Pool,
    pub(super) precision: Precision,
}

impl<P> Clone for How<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for How<'_, P> {}

/// Blocks that a task quantizes.
const PIECE: usize = 4096;

fn matrix<P: Place>(name: &str, rows: usize, cols: usize, values: Values, how: How<P>) -> Result<P::Matrix> {
    let (block, size) = BlockType::Q8_0.block();
    let (kind, bytes) = match values {
        values if how.precision == Precision::Int8 && cols.is_multiple_of(block) => {
            let values = values.into_f32();
            let mut bytes = vec![0; values.len() / block * size];
            how.pool.for_each_chunk(&mut bytes, PIECE * size, |i, bytes| {
                let end = (i * PIECE + bytes.len() / size) * block;
                bytes.copy_from_slice(&quant::quantize_q8_0(&values[i * PIECE * block..end]));
            });
            (BlockType::Q8_0, bytes)
        }
        Values::F32(v) => (BlockType::F32, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Values::F16(v) => (BlockType::F16, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Values::Bf16(v) => (BlockType::BF16, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
    };
    how.place.matrix(name, kind, (rows, cols), &bytes)
}

/// A tensor of a GGUF file as floats, whatever it is stored as.
fn dequantized(file: &Gguf, name: &str, shape: &[usize]) -> Result<Values> {
    let (rows, cols) = (shape[..shape.len() - 1].iter().product(), shape[shape.len() - 1]);
    let kind = file.kind(name, rows, cols)?;
    let bytes = file.bytes(name)?;
    let halves = || bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b));
    match kind {
        BlockType::F16 => Ok(Values::F16(halves().map(half::f16::from_bits).collect())),
        BlockType::BF16 => Ok(Values::Bf16(halves().map(half::bf16::from_bits).collect())),
        _ => {
            let mut out = vec![0.0; rows * cols];
            quant::dequantize(kind, &bytes, &mut out).map_err(|e| problem(name, e.to_string()))?;
            Ok(Values::F32(out))
        }
    }
}

fn problem(name: &str, problem: String) -> Error {
    Error::Tensor { name: name.to_string(), problem }
}
