//! The vision tower: a vision transformer (SigLIP; Qwen3-VL) whose layers may be looked into.

use dreamseed_kernels::{Pool, Rope, RopeKind};

use super::{Config, Kind, load::File, pixels::Patches, pixels::place};
use crate::vision::encoder::{self, State};
use crate::vision::load::Loader;
use crate::vision::resample::Filter;
use crate::vision::vit::{self, First, Layout, Names, Positions, Vit};
use crate::weights::Result;

/// Base of the wavelengths of patches' rows and columns.
const ROPE_BASE: f64 = 10_000.0;

pub(super) struct Tower(Vit);

impl Config {
    /// As a vision transformer.
    pub(super) fn vit(&self) -> vit::Config {
        vit::Config {
            patch: self.patch,
            channels: 3,
            encoder: encoder::Config {
                width: self.dim,
                layers: self.layers,
                heads: self.heads,
                ffn: self.hidden,
                eps: self.eps,
                activation: self.activation,
                gated: false,
            },
            cls: false,
            registers: 0,
            positions: Positions::Learned { grid: [self.side(); 2], first: First::None, filter: Filter::Bilinear },
            layout: Layout::Convolution,
        }
    }
}

impl Tower {
    pub(super) fn load(loader: &Loader, file: &File, config: &Config) -> Result<Self> {
        let names = Names { patch: "v.patch_embd", positions: "v.position_embd.weight", norm: "v.post_ln", ..Names::default() };
        Vit::load(loader, config.vit(), names, &|i, part| file.name(config, i, part)).map(Self)
    }

    /// What the norm after the last layer gives, (patches, dim). `deep` sees each layer of `config.deepstack`, before any norm.
    pub(super) fn run(&self, pool: &Pool, config: &Config, patches: &Patches, mut deep: impl FnMut(&[f32])) -> Vec<f32> {
        let (vit, mut state) = (&self.0, State::default());
        let table = vit.places([config.side(); 2]);
        let (places, turns) = match config.kind {
            Kind::Gemma3 => (table, None),
            Kind::Qwen3Vl => (between(&table, config, patches.grid), Some(Turns::new(config, patches.grid))),
        };
        vit.embed(pool, &patches.values, &places, &mut state);
        for i in 0..config.layers {
            vit.encoder().layer(pool, i, turns.as_ref().map(|t| (t.table(), &t.positions[..])), &mut state);
            if config.deepstack.contains(&i) {
                deep(&state.x);
            }
        }
        vit.encoder().finish(pool, &mut state);
        state.x
    }
}

/// The learnt positions of a grid of patches, (n, dim), between those of the square; squares of patches after each other.
fn between(table: &[f32], config: &Config, [rows, columns]: [usize; 2]) -> Vec<f32> {
    let (dim, side) = (config.dim, config.side());
    let axis = |i: usize, n: usize| {
        let at = if n > 1 { i as f32 * ((side - 1) as f32 / (n - 1) as f32) } else { 0.0 };
        let low = (at as usize).min(side - 1);
        (low, (low + 1).min(side - 1), at - low as f32)
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
            let from = &table[(y * side + x) * dim..][..dim];
            out.iter_mut().zip(from).for_each(|(out, v)| *out += weight * v);
        }
    }
    out
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

    fn table(&self) -> Rope<'_> {
        let half = self.cos.len() / self.positions.len();
        Rope { kind: RopeKind::HalfSplit, cos: &self.cos, sin: &self.sin, rotary: 2 * half }
    }
}
