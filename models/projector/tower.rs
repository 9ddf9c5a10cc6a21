//! The vision tower: a transformer over patches with layer norms before its blocks (ViT, Dosovitskiy et al. 2021; SigLIP; Qwen3-VL).

use dreamseed_kernels::{
    Activation, Dense, Epilogue, Matrix, Pool, Product, Rope, RopeKind, attention_dense, layer_norm, linear, linear_many, rope,
};

use super::{Config, Kind, load::Loader, pixels::Patches, pixels::place};
use crate::weights::Result;

/// Base of the wavelengths of patches' rows and columns.
const ROPE_BASE: f64 = 10_000.0;

/// Weight and bias of a norm.
pub(super) struct Norm {
    pub(super) weight: Vec<f32>, // (dim)
    pub(super) bias: Vec<f32>,   // (dim)
}

impl Norm {
    pub(super) fn run(&self, pool: &Pool, x: &[f32], eps: f32, out: &mut [f32]) {
        layer_norm(pool, x, (&self.weight, &self.bias), eps, out);
    }
}

/// A matrix and its bias.
pub(super) struct Linear {
    pub(super) weight: Matrix, // (out, in)
    pub(super) bias: Vec<f32>, // (out)
}

impl Linear {
    pub(super) fn run(&self, pool: &Pool, x: &[f32], activation: Activation, accumulate: bool, out: &mut [f32]) {
        linear(pool, x, &self.weight, out, Epilogue { bias: Some(&self.bias), activation, accumulate });
    }
}

pub(super) struct Layer {
    pub(super) ln1: Norm,
    pub(super) qkv: [Linear; 3], // each (dim, dim)
    pub(super) out: Linear,      // (dim, dim)
    pub(super) ln2: Norm,
    pub(super) up: Linear,   // (hidden, dim)
    pub(super) down: Linear, // (dim, hidden)
}

pub(super) struct Tower {
    patch: Linear,       // (dim, 3 * patch * patch)
    positions: Vec<f32>, // (side, side, dim)
    side: usize,
    layers: Vec<Layer>,
}

/// Buffers over the patches of a picture.
struct Buffers {
    x: Vec<f32>,        // (n, dim) residual stream
    h: Vec<f32>,        // (n, dim)
    qkv: [Vec<f32>; 3], // (n, dim)
    up: Vec<f32>,       // (n, hidden)
}

impl Tower {
    pub(super) fn load(loader: &mut Loader, config: &Config) -> Result<Self> {
        let (positions, side) = loader.positions()?;
        let patch = loader.patch()?;
        let layers = (0..config.layers).map(|i| loader.layer(i)).collect::<Result<_>>()?;
        Ok(Self { patch, positions, side, layers })
    }

    /// The last layer's output, (patches, dim), and after each layer of `config.deepstack` what `deep` makes of it.
    pub(super) fn run(&self, pool: &Pool, config: &Config, patches: &Patches, mut deep: impl FnMut(&[f32])) -> Vec<f32> {
        let (n, dim) = (patches.grid[0] * patches.grid[1], config.dim);
        let zeros = |width: usize| vec![0.0; n * width];
        let mut b = Buffers {
            x: self.placed(config, patches.grid),
            h: zeros(dim),
            qkv: [zeros(dim), zeros(dim), zeros(dim)],
            up: zeros(config.hidden),
        };
        self.patch.run(pool, &patches.values, Activation::None, true, &mut b.x);
        let turns = (config.kind == Kind::Qwen3Vl).then(|| Turns::new(config, patches.grid));
        for (i, layer) in self.layers.iter().enumerate() {
            layer.run(pool, config, turns.as_ref(), &mut b);
            if config.deepstack.contains(&i) {
                deep(&b.x);
            }
        }
        b.x
    }

    /// The learnt positions of a grid of patches, (n, dim): between those of the square, where the grid is another one.
    fn placed(&self, config: &Config, [rows, columns]: [usize; 2]) -> Vec<f32> {
        if config.kind == Kind::Gemma3 {
            return self.positions.clone();
        }
        let dim = config.dim;
        let axis = |i: usize, n: usize| {
            let at = if n > 1 { i as f32 * ((self.side - 1) as f32 / (n - 1) as f32) } else { 0.0 };
            let low = (at as usize).min(self.side - 1);
            (low, (low + 1).min(self.side - 1), at - low as f32)
        };
        let mut out = vec![0.0; rows * columns * dim];
        for (i, out) in out.chunks_exact_mut(dim).enumerate() {
            let [row, column] = place(i, columns, config.merge);
            let ((top, bottom, down), (left, right, across)) = (axis(row, rows), axis(column, columns));
            for (y, x, weight) in [
                (top, left, (1.0 - down) * (1.0 - across)),
                (top, right, (1.0 - down) * across),
                (bottom, left, down * (1.0 - across)),
                (bottom, right, down * across),
            ] {
                let from = &self.positions[(y * self.side + x) * dim..][..dim];
                out.iter_mut().zip(from).for_each(|(out, v)| *out += weight * v);
            }
        }
        out
    }
}

impl Layer {
    fn run(&self, pool: &Pool, config: &Config, turns: Option<&Turns>, b: &mut Buffers) {
        let Config { dim, heads, eps, .. } = *config;
        let (n, head_dim) = (b.x.len() / dim, dim / heads);
        // 1. norm, then query, key and value together
        self.ln1.run(pool, &b.x, eps, &mut b.h);
        let [q, k, v] = &mut b.qkv;
        let [wq, wk, wv] = &self.qkv;
        let mut products = [(wq, &mut *q), (wk, &mut *k), (wv, &mut *v)].map(|(linear, out)| Product {
            weights: &linear.weight,
            out,
            epilogue: Epilogue { bias: Some(&linear.bias), ..Epilogue::default() },
        });
        linear_many(pool, &b.h, &mut products);
        // 2. rotary embedding
        if let Some(turns) = turns {
            turns.run(pool, q, head_dim);
            turns.run(pool, k, head_dim);
        }
        // 3. attention of all patches to all
        let a = Dense {
            q,
            k,
            v,
            q_len: n,
            kv_len: n,
            q_stride: dim,
            kv_stride: dim,
            heads,
            kv_heads: heads,
            head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            causal: false,
        };
        attention_dense(pool, &a, &mut b.h);
        self.out.run(pool, &b.h, Activation::None, true, &mut b.x);
        // 4. feed-forward network
        self.ln2.run(pool, &b.x, eps, &mut b.h);
        self.up.run(pool, &b.h, config.activation, false, &mut b.up);
        self.down.run(pool, &b.up, Activation::None, true, &mut b.x);
    }
}

/// Rotations of patches: the first half of a head's pairs turns by the patch's row, the second by its column.
struct Turns {
    cos: Vec<f32>,         // (n, head_dim / 2)
    sin: Vec<f32>,         // (n, head_dim / 2)
    positions: Vec<usize>, // 0, 1, 2, ...
}

impl Turns {
    fn new(config: &Config, [rows, columns]: [usize; 2]) -> Self {
        let (n, quarter) = (rows * columns, config.dim / config.heads / 4);
        let radians: Vec<f64> = (0..quarter).map(|i| ROPE_BASE.powf(-(i as f64) / quarter as f64)).collect();
        let places = (0..n).flat_map(|i| place(i, columns, config.merge));
        let angles = places.flat_map(|position| radians.iter().map(move |r| position as f64 * r));
        let (sin, cos) = angles.map(f64::sin_cos).map(|(s, c)| (s as f32, c as f32)).unzip();
        Self { cos, sin, positions: (0..n).collect() }
    }

    fn run(&self, pool: &Pool, x: &mut [f32], head_dim: usize) {
        let turn = Rope { kind: RopeKind::HalfSplit, cos: &self.cos, sin: &self.sin, rotary: head_dim };
        rope(pool, &turn, x, head_dim, &self.positions);
    }
}
