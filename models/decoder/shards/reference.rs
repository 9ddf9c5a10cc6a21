//! A model in parts on the processor, with sums where GPUs reduce: what an executor over several GPUs is held against.

use std::path::Path;

use dreamseed_kernels::{Epilogue, KvType, Pool, add_in_place, linear, rms_norm_in_place};

use super::{Part, Split};
use crate::{
    decoder::{CHUNK, Config, Decoder, Error, Logits, Op, Workspace, experts::FeedForward, files::Files},
    weights::{Result as WeightsResult, gguf::Gguf},
};

/// A dense model in parts.
pub struct Sharded {
    parts: Vec<Decoder>, // each a model of its own, whose output and down products are to be summed
}

impl Sharded {
    /// Opens a GGUF file and cuts it into `parts` parts.
    ///
    /// # Errors
    /// As [`Decoder::open`]; [`crate::weights::Error::Unsupported`] for what cannot be cut, with the numbers.
    pub fn open(path: &Path, parts: usize, pool: &Pool) -> WeightsResult<Self> {
        let gguf = Gguf::open(path)?;
        let (files, config) = (Files::Gguf(&gguf), Config::from_gguf(&gguf)?);
        let split = Split::new(&files, &config, parts)?;
        let part = |index| Decoder::new(split.config(index), &Files::Part(Part { split: &split, index }), pool);
        Ok(Self { parts: (0..parts).map(part).collect::<WeightsResult<_>>()? })
    }

    /// The logits after each of `tokens`, a text from its beginning: (tokens, vocab). Keys and values in f32.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Token`]; [`Error::Rows`] for more tokens than one pass takes.
    pub fn forward(&self, pool: &Pool, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let n = tokens.len();
        if n == 0 {
            return Err(Error::Empty);
        }
        if n > CHUNK {
            return Err(Error::Rows { tokens: n, rows: CHUNK });
        }
        self.parts[0].check(tokens)?;
        let mut states: Vec<_> = self.parts.iter().map(|p| p.new_state_in(KvType::F32, n)).collect();
        let mut passes: Vec<_> = states.iter_mut().map(|s| s.pass(tokens, Logits::All)).collect();
        for &op in &self.parts[0].plan {
            let parts = self.parts.iter().zip(&mut passes);
            if !matches!(op, Op::Output(_) | Op::Down(_)) {
                parts.for_each(|(part, (slice, store, ws))| part.step(pool, ws, store, &[*slice], op));
                continue;
            }
            // 1. each part's own product
            parts.for_each(|(part, (_, _, ws))| part.partial(pool, ws, op, n));
            // 2. their sum, in order: the all-reduce
            let width = n * self.parts[0].config.dim;
            let mut sum = passes[0].2.h[..width].to_vec();
            passes[1..].iter().for_each(|(_, _, ws)| add_in_place(&mut sum, &ws.h[..width]));
            // 3. onto the residual stream of each
            for (part, (_, _, ws)) in self.parts.iter().zip(&mut passes) {
                ws.h[..width].copy_from_slice(&sum);
                part.add_sum(pool, ws, op, n);
            }
        }
        Ok(passes[0].2.logits().to_vec())
    }
}

impl Decoder {
    /// The product of output or down alone: (n, dim) in `h`.
    fn partial(&self, pool: &Pool, ws: &mut Workspace, op: Op, n: usize) {
        let Config { dim, heads, head_dim, hidden, .. } = self.config;
        let (input, matrix, bias) = match op {
            Op::Output(layer) => {
                let w = &self.weights.layers[layer];
                (&ws.attended[..n * heads * head_dim], &w.wo, &w.bo)
            }
            Op::Down(layer) => {
                let FeedForward::Dense(mlp) = &self.weights.layers[layer].feed_forward else {
                    unreachable!("mixtures of experts are not cut")
                };
                (&ws.gate[..n * hidden], &mlp.down, &mlp.biases.down)
            }
            _ => unreachable!("no product that is summed"),
        };
        linear(pool, input, matrix, &mut ws.h[..n * dim], Epilogue { bias: bias.as_deref(), ..Epilogue::default() });
    }

    /// Adds the sum in `h` to the residual stream, behind the norm that the family has there.
    fn add_sum(&self, pool: &Pool, ws: &mut Workspace, op: Op, n: usize) {
        let norm = match op {
            Op::Output(layer) => &self.weights.layers[layer].post_attn_norm,
            Op::Down(layer) => &self.weights.layers[layer].post_ffn_norm,
            _ => unreachable!("no product that is summed"),
        };
        let (h, x) = (&mut ws.h[..n * self.config.dim], &mut ws.x[..n * self.config.dim]);
        if let Some(norm) = norm {
            rms_norm_in_place(pool, h, norm, self.config.eps);
        }
        add_in_place(x, h);
    }
}
