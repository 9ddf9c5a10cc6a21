//! The parts of transformer layers on a GPU that encoders of sound and of pictures share: pre-norm attention over all tokens, and the
//! feed-forward network.

use dreamseed_kernels::{
    Activation,
    cuda::{
        Buffer, DenseAttention, Device, DeviceMatrix, Error, Finish, Gate, GemvInput, LayerNorm, Part, Quantized, Strided,
        activate, attend_dense, gated_rows, gemm, gemv, layer_norm, quantize,
    },
};

type Result<T> = std::result::Result<T, Error>;

/// Rows that buffers have room for at least: fewer are multiplied as 1, 2, 4 or 8.
pub const FEW: usize = 8;

const ADD: Finish = Finish { accumulate: true, activation: Activation::None };

/// Rows of activations in floats, and in 8 bits where quantized weights multiply them.
pub struct Activations {
    /// (rows, width)
    pub floats: Buffer<f32>,
    /// The same, up to date where rows are whole 32s.
    codes: Option<Quantized>,
}

impl Activations {
    /// Room for `len` elements.
    ///
    /// # Errors
    /// Those of [`Device::zeros`].
    pub fn new(device: &Device, len: usize, quantized: bool) -> Result<Self> {
        let codes = quantized.then(|| Quantized::new(device, 1, len.next_multiple_of(32))).transpose()?;
        Ok(Self { floats: device.zeros(len)?, codes })
    }

    /// The floats, and where the 8 bits of rows of `k` elements go.
    pub fn parts(&mut self, k: usize) -> (&mut Buffer<f32>, Option<&mut Quantized>) {
        (&mut self.floats, self.codes.as_mut().filter(|_| k.is_multiple_of(32)))
    }

    /// Brings the 8 bits up to what the floats are.
    ///
    /// # Errors
    /// [`Error`].
    pub fn quantize(&mut self, device: &Device, (rows, k): (usize, usize)) -> Result<()> {
        match self.parts(k) {
            (floats, Some(codes)) => quantize(device, (rows, k), floats, codes),
            _ => Ok(()),
        }
    }

    /// Takes the norm of `rows` rows of `x`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn norm(&mut self, device: &Device, rows: usize, x: &Buffer<f32>, norm: LayerNorm) -> Result<()> {
        let (floats, codes) = self.parts(norm.gamma.len());
        layer_norm(device, rows, x, norm, floats, codes)
    }

    fn input(&self, k: usize) -> GemvInput<'_> {
        GemvInput::Plain { x: &self.floats, quantized: self.codes.as_ref().filter(|_| k.is_multiple_of(32)) }
    }
}

/// A linear layer.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// (out, in)
    pub w: &'a DeviceMatrix,
    /// (out)
    pub b: Option<&'a Buffer<f32>>,
}

impl<'a> Linear<'a> {
    fn part(self, out: &'a mut Buffer<f32>) -> Part<'a> {
        Part { weights: self.w, bias: self.b, out }
    }

    /// `out = x w^T + b` and what follows it, for any number of rows. `out` has room for [`FEW`] rows at least.
    ///
    /// # Errors
    /// [`Error`].
    pub fn run(&self, device: &Device, rows: usize, x: &Activations, out: &mut Buffer<f32>, finish: Finish) -> Result<()> {
        multiply(device, rows, x, &mut [self.part(out)], finish)
    }

    /// `out += x w^T + b`
    ///
    /// # Errors
    /// [`Error`].
    pub fn add(&self, device: &Device, rows: usize, x: &Activations, out: &mut Buffer<f32>) -> Result<()> {
        self.run(device, rows, x, out, ADD)
    }
}

/// By a matrix-vector kernel where rows are few.
fn multiply(device: &Device, rows: usize, x: &Activations, parts: &mut [Part], finish: Finish) -> Result<()> {
    let input = x.input(parts.first().map_or(0, |p| p.weights.cols()));
    match rows {
        ..=FEW if finish.activation == Activation::None => {
            gemv(device, rows.next_power_of_two(), &input, parts, finish.accumulate)
        }
        _ => gemm(device, rows, &input, parts, finish),
    }
}

/// Queries, keys and values.
pub enum Qkv<'a> {
    /// One product: (3 width, width).
    Joined(Linear<'a>),
    /// Three.
    Apart([Linear<'a>; 3]),
}

/// Attention of all tokens to each other, and what it adds.
pub struct Attention<'a> {
    /// Before it.
    pub norm: LayerNorm<'a>,
    /// Queries, keys and values.
    pub qkv: Qkv<'a>,
    /// (width, width)
    pub out: Linear<'a>,
    /// Of width / heads elements.
    pub heads: usize,
}

/// The feed-forward network, and what it adds.
pub struct Mlp<'a> {
    /// Before it.
    pub norm: LayerNorm<'a>,
    /// (ffn, width) where `down` takes `activation(gate(x)) * up(x)`.
    pub gate: Option<Linear<'a>>,
    /// (ffn, width)
    pub up: Linear<'a>,
    /// (width, ffn)
    pub down: Linear<'a>,
    /// Inside.
    pub activation: Activation,
}

/// Buffers of layers.
pub struct Room {
    /// (tokens, width): the residual stream.
    pub x: Buffer<f32>,
    /// (tokens, width): normed, or sums of attention.
    pub h: Activations,
    /// (tokens, 3 width), or three of (tokens, width).
    pub qkv: Vec<Buffer<f32>>,
    /// (tokens, ffn)
    pub wide: Activations,
}

impl Room {
    /// For layers of this width whose queries, keys and values are one product (`joined`) or three.
    ///
    /// # Errors
    /// Those of [`Device::zeros`].
    pub fn new(device: &Device, tokens: usize, [width, ffn]: [usize; 2], joined: bool, quantized: bool) -> Result<Self> {
        let rows = tokens.max(FEW);
        let (parts, each) = if joined { (1, 3 * width) } else { (3, width) };
        Ok(Self {
            x: device.zeros(rows * width)?,
            h: Activations::new(device, rows * width, quantized)?,
            qkv: (0..parts).map(|_| device.zeros(rows * each)).collect::<Result<_>>()?,
            wide: Activations::new(device, rows * ffn, quantized)?,
        })
    }
}

impl Attention<'_> {
    /// Adds the attention of `tokens` tokens to `room.x`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn run(&self, device: &Device, tokens: usize, room: &mut Room) -> Result<()> {
        let (d, Room { x, h, qkv, .. }) = (self.out.w.rows(), room);
        h.norm(device, tokens, x, self.norm)?;
        match (&self.qkv, &mut qkv[..]) {
            (Qkv::Joined(all), [to, ..]) => all.run(device, tokens, h, to, Finish::default())?,
            (Qkv::Apart([a, b, c]), [q, k, v]) => {
                multiply(device, tokens, h, &mut [a.part(q), b.part(k), c.part(v)], Finish::default())?;
            }
            (Qkv::Apart(_), few) => return Err(Error::Shape(format!("{} buffers for queries, keys and values", few.len()))),
            (Qkv::Joined(_), []) => return Err(Error::Shape("no buffer for queries, keys and values".into())),
        }
        let of = |i: usize| match &qkv[..] {
            [data] => Strided { data, offset: i * d, stride: 3 * d, item: 0 },
            all => Strided { data: &all[i], offset: 0, stride: d, item: 0 },
        };
        let head_dim = d / self.heads;
        attend_dense(
            device,
            DenseAttention {
                q: of(0),
                k: of(1),
                v: of(2),
                lengths: None,
                batch: 1,
                q_len: tokens,
                kv_len: tokens,
                heads: self.heads,
                kv_heads: self.heads,
                head_dim,
                scale: 1.0 / (head_dim as f32).sqrt(),
                causal: false,
                out: &mut h.floats,
            },
        )?;
        h.quantize(device, (tokens, d))?;
        self.out.add(device, tokens, h, x)
    }
}

impl Mlp<'_> {
    /// Adds what the network makes of `rows` rows to `x`. `h`: (rows, width), `wide`: (rows, ffn).
    ///
    /// # Errors
    /// [`Error`].
    pub fn run(
        &self,
        device: &Device,
        rows: usize,
        (h, wide): (&mut Activations, &mut Activations),
        x: &mut Buffer<f32>,
    ) -> Result<()> {
        let (d, ffn, activation) = (self.down.w.rows(), self.up.w.rows(), self.activation);
        h.norm(device, rows, x, self.norm)?;
        let (floats, codes) = wide.parts(ffn);
        match self.gate {
            Some(gate) => {
                let gate =
                    Gate { gate: (gate.w, gate.b), up: (self.up.w, self.up.b), activation, out: floats, quantized: codes };
                gated_rows(device, rows, &h.input(d), gate)?;
            }
            None if rows > FEW && codes.is_none() => {
                self.up.run(device, rows, h, floats, Finish { accumulate: false, activation })?;
            }
            None => {
                self.up.run(device, rows, h, floats, Finish::default())?;
                activate(device, (rows, ffn), activation, floats, None, codes)?;
            }
        }
        self.down.add(device, rows, wide, x)
    }
}

/// Whether products by these weights take 8 bits.
pub fn is_quantized(weights: &DeviceMatrix) -> bool {
    weights.kind().block().0 > 1
}

/// Refuses heads that no attention kernel has.
///
/// # Errors
/// What they are and what is there.
pub fn check_heads(width: usize, heads: usize) -> std::result::Result<(), String> {
    let head_dim = width / heads.max(1);
    match head_dim.is_multiple_of(8) && (8..=128).contains(&head_dim) {
        true => Ok(()),
        false => Err(format!("attention heads of {head_dim} elements: multiples of 8 up to 128 run on a GPU")),
    }
}
