//! Whisper on an NVIDIA GPU: the weights as they lie in the file (or in 8 bits), the encoder on tensor cores, and the decoder over keys
//! and values in half precision. What is searched for (beams, samples, rules, times of words) is the processor's: a pass brings back the
//! logits of the rows that want them, and of alignment heads what they look at.

mod graphs;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use dreamseed_kernels::{
    Activation, Pool,
    cuda::{
        BeamRows, Beams, BeamsAttend, BeamsProbe, BeamsShape, Buffer, Device, DeviceMatrix, Error as Refusal, Finish,
        LayerNorm, MelBank, add_places, embed, gather, unfold,
    },
};

use self::graphs::{Graphs, Launches};
use super::attention::Hearing;
use super::config::Config;
use super::decoder::{DecoderState, Probe};
use super::load::{DecoderLayer, How, Linear, Mlp, Norm, SelfAttention, Store, Weights};
use super::mel::{Mel, MelExtractor};
use super::model::Cross;
use super::options::Precision;
use crate::layers::cuda::{self as layers, Activations, Attention, FEW, Qkv, Room};
use crate::weights::{Error as WeightsError, Result as WeightsResult};

type Result<T> = std::result::Result<T, Refusal>;

/// Weights on a device: immutable, shared by all states.
pub(super) struct Model {
    pub(super) config: Config,
    device: Device,
    weights: Weights<Device>,
    bank: MelBank,
    quantized: bool,    // some weights are
    heard: AtomicUsize, // windows that have a number
}

/// Buffers of the encoder, with a stream of their own.
pub(super) struct Encoder {
    device: Device,
    mel: Buffer<f32>,    // (window_frames, n_mels)
    frames: Buffer<f32>, // (window_frames, n_state)
    near: Activations,   // (window_frames, 3 n_mels) or (n_audio_ctx, 3 n_state): what the convolutions multiply
    room: Room,          // of the layers
}

/// Keys and values of one window of audio for each decoder layer.
pub(super) struct Heard {
    beams: Vec<Beams>, // (n_text_layer)
    number: usize,     // of its own: graphs name it by that
}

/// Keys and values of sequences, and the buffers of a pass, with a stream of their own.
pub(super) struct Sequences {
    device: Device,
    beams: Vec<Beams>,    // (n_text_layer)
    origins: Buffer<i32>, // (slots, capacity)
    pass: Pass,
    logits: Buffer<f32>, // (rows whose logits are computed, n_vocab)
    graphs: Graphs,      // over these buffers
}

/// Buffers of a pass of so many rows.
struct Pass {
    rows: usize,
    tokens: Buffer<i32>,    // (rows)
    slots: Buffer<i32>,     // (rows)
    positions: Buffer<i32>, // (rows)
    room: Room,             // of the layers
    query: Buffer<f32>,     // (rows, n_state)
    picked: Buffer<f32>,    // (rows, n_state): of which logits are computed
}

impl Linear<Device> {
    fn on(&self) -> layers::Linear<'_> {
        layers::Linear { w: &self.w, b: Some(&self.b) }
    }
}

impl Norm<Device> {
    fn on(&self) -> LayerNorm<'_> {
        LayerNorm { gamma: &self.gamma, beta: &self.beta, eps: 1e-5 }
    }
}

impl Mlp<Device> {
    fn on(&self) -> layers::Mlp<'_> {
        let (up, down) = (self.up.on(), self.down.on());
        layers::Mlp { norm: self.norm.on(), gate: None, up, down, activation: Activation::Gelu }
    }
}

impl SelfAttention<Device> {
    fn on(&self, heads: usize) -> Attention<'_> {
        Attention { norm: self.norm.on(), qkv: Qkv::Joined(self.qkv.on()), out: self.out.on(), heads }
    }
}

impl Model {
    /// Takes the weights of a file to a device.
    ///
    /// # Errors
    /// What is wrong with the file, [`WeightsError::Unsupported`] for heads that no kernel has, or [`WeightsError::Device`].
    pub(super) fn load(
        device: &Device,
        (store, config): (&Store, Config),
        (pool, precision): (&Pool, Precision),
        mel: &MelExtractor,
    ) -> WeightsResult<Self> {
        for heads in [config.n_audio_head, config.n_text_head] {
            layers::check_heads(config.n_state, heads).map_err(WeightsError::Unsupported)?;
        }
        let weights = store.weights_at(&config, How { place: device, pool, precision })?;
        let quantized = matrices(&weights).any(layers::is_quantized);
        Ok(Self {
            bank: MelBank::new(device, mel.filters())?,
            device: device.clone(),
            config,
            weights,
            quantized,
            heard: AtomicUsize::new(0),
        })
    }

    /// Features of mono audio at 16 kHz, as [`MelExtractor::extract`] has them.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) fn features(&self, pcm: &[f32]) -> Result<Mel> {
        Ok(Mel { n_mels: self.config.n_mels, data: self.bank.extract(&self.device.fork()?, pcm)? })
    }

    /// Bytes of the keys and values of a window.
    pub(super) fn cross_bytes(&self) -> usize {
        let c = &self.config;
        c.n_text_layer * c.n_audio_ctx * 2 * c.n_state * size_of::<half::f16>()
    }

    /// Encodes a window of features and keeps of it what the decoder hears. `mel`: (window_frames, n_mels), time outermost.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) fn hear(&self, mel: &[f32], encoder: &mut Option<Encoder>, heard: &mut Option<Heard>) -> Result<()> {
        let c = &self.config;
        let encoder = match encoder {
            Some(made) => made,
            None => encoder.insert(self.encoder()?),
        };
        self.encode(mel, encoder)?;
        let shape = BeamsShape { lines: 1, capacity: c.n_audio_ctx, heads: c.n_text_head, head_dim: c.n_state / c.n_text_head };
        let Heard { beams, .. } = match heard {
            Some(made) => made,
            None => {
                let beams = (0..c.n_text_layer).map(|_| Beams::new(&encoder.device, shape)).collect::<Result<_>>()?;
                heard.insert(Heard { beams, number: self.heard.fetch_add(1, Ordering::Relaxed) })
            }
        };
        let (d, Encoder { device, room: Room { h, qkv, .. }, .. }) = (c.n_state, encoder);
        let [kv, ..] = &mut qkv[..] else { return Err(Refusal::Shape("no buffer for keys and values".into())) };
        for (layer, beams) in self.weights.decoder.iter().zip(beams) {
            layer.cross.kv.on().run(device, c.n_audio_ctx, h, kv, Finish::default())?;
            beams.append(device, (c.n_audio_ctx, None), (kv, 2 * d), [0, d])?;
        }
        device.synchronize() // who listens has another stream
    }

    fn encoder(&self) -> Result<Encoder> {
        let (c, device) = (&self.config, self.device.fork()?);
        let (d, frames) = (c.n_state, c.window_frames().max(FEW));
        let near = (frames * 3 * c.n_mels).max(c.n_audio_ctx.max(FEW) * 3 * d);
        Ok(Encoder {
            mel: device.zeros(frames * c.n_mels)?,
            frames: device.zeros(frames * d)?,
            near: Activations::new(&device, near, self.quantized)?,
            room: Room::new(&device, c.n_audio_ctx, [d, c.n_ffn[0]], true, self.quantized)?,
            device,
        })
    }

    /// Runs a window through the encoder; the result is `encoder.room.h`.
    fn encode(&self, mel: &[f32], encoder: &mut Encoder) -> Result<()> {
        let (c, w) = (&self.config, &self.weights);
        let (d, n) = (c.n_state, c.n_audio_ctx);
        let Encoder { device, mel: features, frames, near, room } = encoder;
        // 1. two convolutions over three frames each, the second of stride two
        features.write(0, mel)?;
        unfold(device, (c.window_frames(), c.n_mels), 1, features, &mut near.floats)?;
        near.quantize(device, (c.window_frames(), 3 * c.n_mels))?;
        let mut finish = Finish { accumulate: false, activation: Activation::Gelu };
        w.conv1.on().run(device, c.window_frames(), near, frames, finish)?;
        unfold(device, (c.window_frames(), d), 2, frames, &mut near.floats)?;
        near.quantize(device, (n, 3 * d))?;
        // 2. positions: the convolution adds to them
        room.x.copy_from(&w.audio_positions)?;
        finish.accumulate = true;
        w.conv2.on().run(device, n, near, &mut room.x, finish)?;
        // 3. layers
        for layer in &w.encoder {
            layer.attention.on(c.n_audio_head).run(device, n, room)?;
            layer.mlp.on().run(device, n, (&mut room.h, &mut room.wide), &mut room.x)?;
        }
        // 4. last norm
        room.h.norm(device, n, &room.x, w.encoder_norm.on())
    }

    /// Room for `slots` sequences decoded side by side.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) fn decoder_state(&self, slots: usize) -> Result<DecoderState> {
        let (c, device) = (&self.config, self.device.fork()?);
        let shape =
            BeamsShape { lines: slots, capacity: c.n_text_ctx, heads: c.n_text_head, head_dim: c.n_state / c.n_text_head };
        let beams = (0..c.n_text_layer).map(|_| Beams::new(&device, shape)).collect::<Result<_>>()?;
        let gpu = Sequences {
            beams,
            origins: device.zeros(slots * c.n_text_ctx)?,
            pass: self.pass_of(&device, slots.max(FEW))?,
            logits: device.zeros(FEW * c.n_vocab)?,
            graphs: Graphs::default(),
            device,
        };
        let mut state = DecoderState::empty(c.n_text_ctx, slots);
        state.gpu = Some(gpu);
        Ok(state)
    }

    /// Buffers of a pass of up to `rows` rows.
    fn pass_of(&self, device: &Device, rows: usize) -> Result<Pass> {
        let c = &self.config;
        Ok(Pass {
            rows,
            tokens: device.zeros(rows)?,
            slots: device.zeros(rows)?,
            positions: device.zeros(rows)?,
            room: Room::new(device, rows, [c.n_state, c.n_ffn[1]], true, self.quantized)?,
            query: device.zeros(rows * c.n_state)?,
            picked: device.zeros(rows * c.n_state)?,
        })
    }

    /// Runs the rows that were pushed. Afterwards `state.logits` has a row for each that was wanted. `cross`: the audio that rows name;
    /// where there is a probe, all rows hear the same.
    ///
    /// # Errors
    /// [`Refusal`]; the rows are gone then, too.
    pub(super) fn pass(&self, cross: &[Cross], state: &mut DecoderState, probe: Option<&mut Probe>) -> Result<()> {
        state.group();
        state.logits.clear();
        let wanted: Vec<i32> = state.wanted.iter().map(|row| *row as i32).collect();
        let mut gpu = state.gpu.take().ok_or_else(|| Refusal::Shape("a state that is not of a GPU".into()))?;
        let run = self.run(cross, state, &mut gpu, probe).and_then(|()| match wanted.as_slice() {
            [] => gpu.device.synchronize(), // who listens next may do so on another stream
            wanted => self.head(&mut gpu, wanted, &mut state.logits),
        });
        state.gpu = Some(gpu);
        state.rows.clear();
        state.wanted.clear();
        run
    }

    /// Tells the device what the rows are, and launches all before the head: by a graph where the same came before, except with a probe,
    /// which takes memory.
    fn run(&self, cross: &[Cross], state: &DecoderState, gpu: &mut Sequences, probe: Option<&mut Probe>) -> Result<()> {
        let n = state.rows.len();
        if n > gpu.pass.rows {
            gpu.graphs = Graphs::default(); // they know the old places
            gpu.pass = self.pass_of(&gpu.device, n.next_power_of_two())?;
        }
        let Sequences { origins, pass: Pass { tokens, slots, positions, .. }, .. } = &mut *gpu;
        let column = |of: fn(&super::attention::Row) -> u32| state.rows.iter().map(|r| of(r) as i32).collect::<Vec<_>>();
        tokens.write(0, &column(|r| r.token))?;
        slots.write(0, &column(|r| r.slot))?;
        positions.write(0, &column(|r| r.position))?;
        origins.write(0, &state.origins.iter().map(|o| *o as i32).collect::<Vec<_>>())?;
        let number = |h: &Hearing| Some((cross.get(h.audio)?.1.as_ref()?.number, h.rows));
        let what = state.hearings.iter().map(number).collect::<Option<_>>().filter(|_| probe.is_none()).map(Launches::Layers);
        let (device, mut graphs) = (gpu.device.clone(), std::mem::take(&mut gpu.graphs));
        let run = graphs.run(&device, what, || self.layers(cross, state, gpu, probe));
        gpu.graphs = graphs;
        run
    }

    fn layers(&self, cross: &[Cross], state: &DecoderState, gpu: &mut Sequences, mut probe: Option<&mut Probe>) -> Result<()> {
        let (c, w, n) = (&self.config, &self.weights, state.rows.len());
        let d = c.n_state;
        let Sequences { device, beams, origins, pass, .. } = gpu;
        let Pass { tokens, slots, positions, room, query, .. } = pass;
        // 1. embeddings and positions
        embed(device, n, &w.embedding, 1.0, tokens, &mut room.x)?;
        add_places(device, n, positions, (&w.text_positions, c.n_text_ctx, d), &mut room.x)?;
        let rows = BeamRows { sequences: slots, positions, origins };
        let scale = 1.0 / ((d / c.n_text_head) as f32).sqrt();
        for (i, (DecoderLayer { attention, cross: across, mlp }, beams)) in w.decoder.iter().zip(beams).enumerate() {
            // 2. causal attention over the tokens so far
            let Room { x, h, qkv, wide } = &mut *room;
            let [qkv, ..] = &mut qkv[..] else { return Err(Refusal::Shape("no buffer for queries".into())) };
            h.norm(device, n, x, attention.norm.on())?;
            attention.qkv.on().run(device, n, h, qkv, Finish::default())?;
            beams.append(device, (n, Some(&rows)), (qkv, 3 * d), [d, 2 * d])?;
            let a = BeamsAttend { q: (qkv, 3 * d), scale, out: &mut h.floats, quantized: None, probe: None };
            beams.attend(device, 0..n, Some(&rows), a)?;
            h.quantize(device, (n, d))?;
            attention.out.on().add(device, n, h, x)?;
            // 3. attention over the audio
            h.norm(device, n, x, across.norm.on())?;
            across.q.on().run(device, n, h, query, Finish::default())?;
            for Hearing { audio, first, rows } in state.hearings.iter().copied() {
                let heard = cross.get(audio).and_then(|c| c.1.as_ref()?.beams.get(i));
                let heard = heard.ok_or_else(|| Refusal::Shape(format!("audio {audio} was not heard")))?;
                self.listen(device, (heard, i), first..first + rows, (query, &mut h.floats), probe.as_deref_mut())?;
            }
            h.quantize(device, (n, d))?;
            across.out.on().add(device, n, h, x)?;
            // 4. feed forward
            mlp.on().run(device, n, (h, wide), x)?;
        }
        Ok(())
    }

    /// Attention of rows over an audio, and what the probe's heads of the layer look at.
    fn listen(
        &self,
        device: &Device,
        (heard, layer): (&Beams, usize),
        rows: Range<usize>,
        (query, out): (&Buffer<f32>, &mut Buffer<f32>),
        probe: Option<&mut Probe>,
    ) -> Result<()> {
        let (d, heads) = (self.config.n_state, self.config.n_text_head);
        let scale = 1.0 / ((d / heads) as f32).sqrt();
        let a = BeamsAttend { q: (query, d), scale, out, quantized: None, probe: None };
        let Some(probe) = probe.filter(|p| p.heads.iter().any(|(l, _)| *l == layer)) else {
            return heard.attend(device, rows, None, a);
        };
        let (mut places, all) = (vec![-1; heads], probe.heads);
        let own = || all.iter().enumerate().filter(|(_, (l, _))| *l == layer);
        own().zip(0..).for_each(|((_, (_, head)), place)| places[*head] = place);
        let (count, each) = (own().count(), rows.len() * self.config.n_audio_ctx);
        let (places, mut weights) = (device.upload(&places)?, device.zeros(count * each)?);
        let told = BeamsProbe { places: &places, count, weights: &mut weights };
        heard.attend(device, rows, None, BeamsAttend { probe: Some(told), ..a })?;
        for (place, (i, _)) in own().enumerate() {
            let out = &mut probe.weights[i];
            let from = out.len();
            out.resize(from + each, 0.0);
            weights.read(place * each, &mut out[from..])?;
        }
        Ok(())
    }

    /// Logits (rows.len(), n_vocab) of rows of the last pass.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) fn logits(&self, state: &mut DecoderState, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        let gpu = state.gpu.as_mut().ok_or_else(|| Refusal::Shape("a state that is not of a GPU".into()))?;
        self.head(gpu, &rows.map(|row| row as i32).collect::<Vec<_>>(), out)
    }

    fn head(&self, gpu: &mut Sequences, rows: &[i32], out: &mut Vec<f32>) -> Result<()> {
        let (d, n_vocab, count) = (self.config.n_state, self.config.n_vocab, rows.len());
        let Sequences { device, pass: Pass { tokens, picked, room, rows: most, .. }, logits, graphs, .. } = gpu;
        if count * n_vocab > logits.len() {
            *graphs = Graphs::default(); // they know the old place
            *logits = device.zeros(count.next_power_of_two() * n_vocab)?;
        }
        tokens.write(0, rows)?;
        graphs.run(device, Some(Launches::Head(count)), || {
            gather(device, count, tokens, (&room.x, *most, d), picked)?;
            room.h.norm(device, count, picked, self.weights.decoder_norm.on())?;
            let head = layers::Linear { w: &self.weights.embedding, b: None };
            head.run(device, count, &room.h, logits, Finish::default())
        })?;
        out.resize(count * n_vocab, 0.0);
        logits.read(0, out)
    }
}

/// All matrices.
fn matrices(w: &Weights<Device>) -> impl Iterator<Item = &DeviceMatrix> {
    fn own<'w>(a: &'w SelfAttention<Device>, m: &'w Mlp<Device>) -> [&'w DeviceMatrix; 4] {
        [&a.qkv.w, &a.out.w, &m.up.w, &m.down.w]
    }
    let encoder = w.encoder.iter().flat_map(|l| own(&l.attention, &l.mlp));
    let across = w.decoder.iter().flat_map(|l| [&l.cross.q.w, &l.cross.kv.w, &l.cross.out.w]);
    let decoder = w.decoder.iter().flat_map(|l| own(&l.attention, &l.mlp));
    encoder.chain(decoder).chain(across).chain([&w.conv1.w, &w.conv2.w, &w.embedding])
}
