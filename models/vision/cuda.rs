//! Vision transformers on an NVIDIA GPU: the patches go there, the layers and the heads of SigLIP run there, and what was asked for comes
//! back. Float weights are kept in half precision, which is what tensor cores multiply.

#[cfg(test)]
mod tests;

use dreamseed_kernels::cuda::{
    Buffer, DenseAttention, Device, Error as Refusal, Finish, LayerNorm, Strided, add_places, attend_dense, embed, gather,
};

use super::encoder::{self, Encoder, Layer, Linear, Mlp, Norm};
use super::siglip::{Pooling, Text};
use super::vit::Vit;
use crate::layers::cuda::{self as layers, Activations, Attention, FEW, Qkv, Room};

type Result<T> = std::result::Result<T, Refusal>;

/// Buffers of passes, with a stream of their own: made by the first, kept while they are large enough.
pub struct Passes {
    device: Device,
    tokens: usize, // that there is room for
    shape: [usize; 2],
    quantized: bool,
    room: Room,
    patches: Activations,
    rows: Buffer<i32>,
    keys: Option<[Buffer<f32>; 2]>, // of the patches, for the pooling
}

impl Linear<Device> {
    fn on(&self) -> layers::Linear<'_> {
        layers::Linear { w: &self.w, b: self.b.as_ref() }
    }
}

impl Norm<Device> {
    fn on(&self, eps: f32) -> LayerNorm<'_> {
        LayerNorm { gamma: &self.gamma, beta: &self.beta, eps }
    }
}

impl Mlp<Device> {
    fn on<'a>(&'a self, norm: &'a Norm<Device>, c: &encoder::Config) -> layers::Mlp<'a> {
        let (up, down, gate) = (self.up.on(), self.down.on(), self.gate.as_ref().map(Linear::on));
        layers::Mlp { norm: norm.on(c.eps), gate, up, down, activation: c.activation }
    }
}

impl Layer<Device> {
    fn run(&self, device: &Device, tokens: usize, room: &mut Room, c: &encoder::Config) -> Result<()> {
        let qkv = Qkv::Apart([self.q.on(), self.k.on(), self.v.on()]);
        Attention { norm: self.norm1.on(c.eps), qkv, out: self.out.on(), heads: c.heads }.run(device, tokens, room)?;
        self.mlp.on(&self.norm2, c).run(device, tokens, (&mut room.h, &mut room.wide), &mut room.x)
    }
}

impl Encoder<Device> {
    /// Whether products take activations in 8 bits.
    fn is_quantized(&self) -> bool {
        let of = |l: &Layer<Device>| [&l.q, &l.k, &l.v, &l.out, &l.mlp.up, &l.mlp.down].map(|l| layers::is_quantized(&l.w));
        self.layers.iter().any(|l| of(l).contains(&true))
    }

    /// All layers and the last norm: from `room.x` to `room.h`.
    fn run(&self, device: &Device, tokens: usize, room: &mut Room) -> Result<()> {
        self.layers.iter().try_for_each(|layer| layer.run(device, tokens, room, &self.config))?;
        room.h.norm(device, tokens, &room.x, self.norm.on(self.config.eps))
    }
}

impl Passes {
    /// Those of a slot, or larger ones.
    fn of<'s>(slot: &'s mut Option<Self>, device: &Device, tokens: usize, encoder: &Encoder<Device>) -> Result<&'s mut Self> {
        let (shape, quantized) = ([encoder.config.width, encoder.config.ffn], encoder.is_quantized());
        let fits = |p: &Self| p.tokens >= tokens && p.shape == shape && p.quantized == quantized;
        if !slot.as_ref().is_some_and(fits) {
            *slot = None; // its memory first
            let device = device.fork()?;
            *slot = Some(Self {
                tokens,
                shape,
                quantized,
                room: Room::new(&device, tokens, shape, false, quantized)?,
                patches: Activations::new(&device, 0, false)?,
                rows: device.zeros(tokens.max(FEW))?,
                keys: None,
                device,
            });
        }
        slot.as_mut().ok_or_else(|| Refusal::Shape("no buffers for a pass".into()))
    }

    /// The first `rows` rows of what the last pass gave, into `out`.
    pub(super) fn read(&self, rows: usize, out: &mut Vec<f32>) -> Result<()> {
        out.resize(rows * self.shape[0], 0.0);
        self.room.h.floats.read(0, out)
    }
}

impl Vit<Device> {
    /// As [`Vit::forward`] on the processor; the hidden states stay on the device, in `slot`. Gives how many tokens they are.
    pub(super) fn run(&self, device: &Device, patches: &[f32], places: &[f32], slot: &mut Option<Passes>) -> Result<usize> {
        let (d, length) = (self.config().encoder.width, self.config().patch_len());
        let (n, first) = (patches.len() / length, self.first_patch());
        let tokens = first + n;
        let passes = Passes::of(slot, device, tokens, &self.encoder)?;
        let Passes { device, room, patches: held, quantized, .. } = passes;
        if held.floats.len() < n.max(FEW) * length {
            let quantized = *quantized || layers::is_quantized(&self.embed.w);
            *held = Activations::new(device, n.max(FEW) * length, quantized)?;
        }
        // 1. patches, onto their places; what stands before them
        held.floats.write(0, patches)?;
        held.quantize(device, (n, length))?;
        if !places.is_empty() {
            room.h.floats.write(0, places)?;
        }
        let finish = Finish { accumulate: !places.is_empty(), ..Finish::default() };
        self.embed.on().run(device, n, held, &mut room.h.floats, finish)?;
        if first > 0 {
            room.x.write(0, &self.before)?;
        }
        room.x.copy_at(first * d, &room.h.floats, n * d)?;
        // 2. layers
        self.encoder.run(device, tokens, room)?;
        Ok(tokens)
    }
}

impl Pooling<Device> {
    /// As on the processor, over the `tokens` rows of the last pass in `passes`.
    pub(super) fn attend(&self, c: &encoder::Config, tokens: usize, passes: &mut Passes) -> Result<Vec<f32>> {
        let (d, head_dim) = (c.width, c.width / c.heads);
        let Passes { device, room: Room { x, h, wide, .. }, keys, tokens: most, .. } = passes;
        let [k, v] = match keys {
            Some(made) => made,
            None => keys.insert([device.zeros((*most).max(FEW) * d)?, device.zeros((*most).max(FEW) * d)?]),
        };
        // 1. attention of the query over all patches
        self.k.on().run(device, tokens, h, k, Finish::default())?;
        self.v.on().run(device, tokens, h, v, Finish::default())?;
        attend_dense(
            device,
            DenseAttention {
                q: whole(&self.query, d),
                k: whole(k, d),
                v: whole(v, d),
                lengths: None,
                batch: 1,
                q_len: 1,
                kv_len: tokens,
                heads: c.heads,
                kv_heads: c.heads,
                head_dim,
                scale: 1.0 / (head_dim as f32).sqrt(),
                causal: false,
                out: &mut h.floats,
            },
        )?;
        h.quantize(device, (1, d))?;
        self.out.on().run(device, 1, h, x, Finish::default())?;
        // 2. the network after it
        self.mlp.on(&self.norm, c).run(device, 1, (h, wide), x)?;
        let mut out = vec![0.0; d];
        x.read(0, &mut out)?;
        Ok(out)
    }
}

fn whole(data: &Buffer<f32>, stride: usize) -> Strided<'_> {
    Strided { data, offset: 0, stride, item: 0 }
}

impl Text<Device> {
    /// The last token's, projected; not of unit length.
    pub(super) fn embed(&self, device: &Device, ids: &[u32], slot: &mut Option<Passes>) -> Result<Vec<f32>> {
        let (n, d, out) = (ids.len(), self.encoder.config.width, self.head.w.rows());
        let passes = Passes::of(slot, device, n, &self.encoder)?;
        let Passes { device, room, rows, .. } = passes;
        let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
        rows.write(0, &ids)?;
        embed(device, n, &self.tokens, 1.0, rows, &mut room.x)?;
        rows.write(0, &(0..n as i32).collect::<Vec<_>>())?;
        add_places(device, n, rows, (&self.places, self.places.len() / d, d), &mut room.x)?;
        self.encoder.run(device, n, room)?;
        rows.write(0, &[n as i32 - 1])?;
        gather(device, 1, rows, (&room.h.floats, n, d), &mut room.x)?;
        let mut last = Activations::new(device, FEW * d, passes.quantized)?;
        last.floats.copy_at(0, &room.x, d)?;
        last.quantize(device, (1, d))?;
        let mut projected = device.zeros(FEW * out)?;
        self.head.on().run(device, 1, &last, &mut projected, Finish::default())?;
        let mut values = vec![0.0; out];
        projected.read(0, &mut values)?;
        Ok(values)
    }
}
