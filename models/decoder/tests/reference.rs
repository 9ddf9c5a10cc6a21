//! The dense families written down plainly, in f64: a text's logits from the weights of [`model`](super::model), and the same with
//! operands rounded as a GPU's tensor cores take them.

use dreamseed_kernels::{Activation, RopeKind};
use half::f16;

use super::{Size, apart, model, noise};
use crate::decoder::{Config, Decoder, Family, Logits};
use crate::layers::rope::{Rope, Table};
use dreamseed_kernels::{KvType, Pool};

/// What becomes of operands before they are multiplied; sums are those of f64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rounding {
    /// Keys and values are kept in f16.
    pub(crate) store: bool,
    /// Weights and what they are multiplied with are TF32.
    pub(crate) products: bool,
    /// Queries, and the attention's weights over their largest, are f16.
    pub(crate) attention: bool,
}

impl Rounding {
    pub(crate) const NONE: Self = Self { store: false, products: false, attention: false };
}

/// The nearest value with 10 bits of mantissa, halves away from zero.
fn tf32(v: f64) -> f64 {
    f64::from(f32::from_bits(((v as f32).to_bits() + 0x1000) & !0x1fff))
}

fn halved(v: f64) -> f64 {
    f64::from(f16::from_f32(v as f32))
}

type Rows = Vec<Vec<f64>>;

pub(crate) struct Reference<'a> {
    arch: &'a str,
    config: &'a Config,
    rounding: Rounding,
}

impl<'a> Reference<'a> {
    pub(crate) fn new(arch: &'a str, config: &'a Config, rounding: Rounding) -> Self {
        Self { arch, config, rounding }
    }

    fn values(name: &str, n: usize) -> Vec<f64> {
        noise(n as u64, name).into_iter().map(f64::from).collect()
    }

    /// `x w^T + bias`; x: (n, cols), w: (rows, cols).
    fn product(&self, x: &Rows, weights: &[f64], bias: Option<&[f64]>) -> Rows {
        let seen = |v: &f64| if self.rounding.products { tf32(*v) } else { *v };
        let cols = x[0].len();
        let w: Vec<f64> = weights.iter().map(seen).collect();
        let row = |x: &Vec<f64>| {
            let x: Vec<f64> = x.iter().map(seen).collect();
            let sums = w.chunks(cols).map(|w| w.iter().zip(&x).map(|(a, b)| a * b).sum::<f64>());
            sums.enumerate().map(|(i, sum)| sum + bias.map_or(0.0, |b| b[i])).collect()
        };
        x.iter().map(row).collect()
    }

    fn norm(&self, x: &[f64], weight: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        let by = 1.0 / (mean + f64::from(self.config.eps)).sqrt();
        x.iter().zip(weight).map(|(v, w)| v * by * (w + f64::from(self.config.norm_offset))).collect()
    }

    fn rotate(rope: &Rope, head: &mut [f64], cos: &[f32], sin: &[f32]) {
        for (i, (cos, sin)) in cos.iter().zip(sin).map(|(c, s)| (f64::from(*c), f64::from(*s))).enumerate() {
            let (a, b) = match rope.kind {
                RopeKind::Interleaved => (2 * i, 2 * i + 1),
                RopeKind::HalfSplit => (i, i + rope.dims / 2),
            };
            (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
        }
    }

    /// Normed and rotated heads of queries or keys.
    fn heads(&self, layer: usize, part: &str, rows: &mut Rows, table: &Table) {
        let (c, name) = (self.config, format!("blk.{layer}.{part}_norm.weight"));
        let local = c.local(layer).and_then(|l| l.rope.as_ref()).unwrap_or(&c.rope);
        let (half, weight) = (local.dims / 2, Self::values(&name, c.head_dim));
        for (t, row) in rows.iter_mut().enumerate() {
            for head in row.chunks_mut(c.head_dim) {
                if c.family.has_head_norms() {
                    let normed = self.norm(head, &weight);
                    head.copy_from_slice(&normed);
                }
                Self::rotate(local, head, &table.cos[t * half..][..half], &table.sin[t * half..][..half]);
            }
        }
    }

    fn attend(&self, layer: usize, [q, k, v]: [&Rows; 3]) -> Rows {
        let c = self.config;
        let kept = |v: f64| if self.rounding.store { halved(v) } else { v };
        let seen = |v: f64| if self.rounding.attention { halved(v) } else { v };
        let scale = f64::from(c.attention_scale) * std::f64::consts::LOG2_E;
        let window = c.local(layer).map_or(usize::MAX, |l| l.window);
        let one = |t: usize, head: usize| -> Vec<f64> {
            let q: Vec<f64> = q[t][head * c.head_dim..][..c.head_dim].iter().map(|v| seen(v * scale)).collect();
            let at = head / (c.heads / c.kv_heads) * c.head_dim;
            let from = (t + 1).saturating_sub(window);
            let score = |p: usize| q.iter().zip(&k[p][at..]).map(|(q, k)| q * kept(*k)).sum::<f64>();
            let scores: Vec<f64> = (from..=t).map(score).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp2()).collect();
            let total: f64 = weights.iter().sum();
            let sum = |e: usize| (from..=t).zip(&weights).map(|(p, w)| seen(*w) * kept(v[p][at + e])).sum::<f64>() / total;
            (0..c.head_dim).map(sum).collect()
        };
        (0..q.len()).map(|t| (0..c.heads).flat_map(|head| one(t, head)).collect()).collect()
    }

    fn layer(&self, layer: usize, x: &mut Rows, table: &Table) {
        let c = self.config;
        let (q_rows, kv_rows) = (c.heads * c.head_dim, c.kv_dim());
        let weights = |part: &str, n: usize| Self::values(&format!("blk.{layer}.{part}.weight"), n);
        let normed = |x: &Rows, part: &str| -> Rows {
            let weight = weights(part, c.dim);
            x.iter().map(|x| self.norm(x, &weight)).collect()
        };
        let add = |x: &mut Rows, product: Rows, after: &str| {
            let product = if c.family == Family::Gemma3 { normed(&product, after) } else { product };
            x.iter_mut().flatten().zip(product.into_iter().flatten()).for_each(|(x, p)| *x += p);
        };
        // 1. attention
        let h = normed(x, "attn_norm");
        let [mut q, mut k, v] = if self.arch == "phi3" {
            let all = weights("attn_qkv", (q_rows + 2 * kv_rows) * c.dim);
            let (q, kv) = all.split_at(q_rows * c.dim);
            let (k, v) = kv.split_at(kv_rows * c.dim);
            [q, k, v].map(|w| self.product(&h, w, None))
        } else {
            [("attn_q", q_rows), ("attn_k", kv_rows), ("attn_v", kv_rows)].map(|(part, rows)| {
                let bias = Self::values(&format!("blk.{layer}.{part}.bias"), rows);
                self.product(&h, &weights(part, rows * c.dim), (self.arch == "qwen2").then_some(&bias))
            })
        };
        self.heads(layer, "attn_q", &mut q, table);
        self.heads(layer, "attn_k", &mut k, table);
        let attended = self.attend(layer, [&q, &k, &v]);
        add(x, self.product(&attended, &weights("attn_output", q_rows * c.dim), None), "post_attention_norm");
        // 2. feed-forward network
        let (h, n) = (normed(x, "ffn_norm"), c.hidden * c.dim);
        let [gate, up] = if self.arch == "phi3" {
            let both = weights("ffn_up", 2 * n);
            [&both[..n], &both[n..]].map(|w| self.product(&h, w, None))
        } else {
            ["ffn_gate", "ffn_up"].map(|part| self.product(&h, &weights(part, n), None))
        };
        let act = |v: f64| match c.activation {
            Activation::GeluTanh => {
                0.5 * v * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (v + 0.044_715 * v.powi(3))).tanh())
            }
            _ => v / (1.0 + (-v).exp()),
        };
        let gated: Rows = gate.iter().zip(&up).map(|(g, u)| g.iter().zip(u).map(|(g, u)| act(*g) * u).collect()).collect();
        add(x, self.product(&gated, &weights("ffn_down", n), None), "post_ffw_norm");
    }

    /// Logits of all tokens of a text, (tokens, vocab).
    pub(crate) fn logits(&self, tokens: &[u32], context: usize) -> Vec<f32> {
        let c = self.config;
        let table = |rope: &Rope| {
            let mut table = Table::default();
            rope.rotation().within(context).append(0..tokens.len(), &mut table);
            table
        };
        let global = table(&c.rope);
        let local = c.local.as_ref().and_then(|l| l.rope.as_ref()).map(table);
        let embeddings = Self::values("embedding", c.dim * c.vocab);
        let embed =
            |t: &u32| embeddings[*t as usize * c.dim..][..c.dim].iter().map(|v| v * f64::from(c.embedding_scale)).collect();
        let mut x: Rows = tokens.iter().map(embed).collect();
        for layer in 0..c.layers {
            let own = local.as_ref().filter(|_| c.local(layer).is_some());
            self.layer(layer, &mut x, own.unwrap_or(&global));
        }
        let weight = Self::values("norm", c.dim);
        let x: Rows = x.iter().map(|x| self.norm(x, &weight)).collect();
        self.product(&x, &embeddings, None).into_iter().flatten().map(|v| v as f32).collect()
    }
}

/// The names of the dense families.
pub(crate) const DENSE: [&str; 5] = ["llama", "qwen2", "qwen3", "gemma3", "phi3"];

#[test]
fn every_dense_family_is_what_is_written_down() {
    let (pool, size) = (Pool::new(2), Size { dim: 64, hidden: 96, heads: 4, kv_heads: 2, head_dim: 16, vocab: 50, layers: 3 });
    let tokens: Vec<u32> = (0..32).map(|i| i * 11 % 50).collect();
    for arch in DENSE {
        let (_dir, path) = model(arch, &size).file();
        let decoder = Decoder::open(&path, &pool).unwrap();
        for (kind, store) in [(KvType::F32, false), (KvType::F16, true)] {
            let reference = Reference::new(arch, decoder.config(), Rounding { store, ..Rounding::NONE });
            let want = reference.logits(&tokens, 64);
            let mut state = decoder.new_state_in(kind, 64);
            let got = decoder.forward(&pool, &mut state, &tokens, Logits::All).unwrap();
            let error = apart(&want, got);
            println!("{arch} {kind:?}: {error:.1e} from f64");
            // keys and values near the middle of two halves may go either way
            assert!(error < if store { 1e-3 } else { 1e-4 }, "{arch} {kind:?}: {error}");
        }
    }
}
