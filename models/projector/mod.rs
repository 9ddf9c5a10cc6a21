//! Pictures for language models that see: a vision tower and the projector of its output into the decoder's rows, from the mmproj file
//! that llama.cpp's converter writes beside a model's GGUF.
//!
//! [`Projector::encode`] makes [`Features`] of a picture; a decoder takes them in place of tokens. Gemma 3 sees a square of 896 pixels
//! in 256 rows; Qwen3-VL a picture of any size in about a row for each 32 x 32 pixels.

mod config;
mod load;
mod pixels;
#[cfg(test)]
mod tests;
mod tower;

use std::path::Path;

use dreamseed_kernels::{Activation, Epilogue, Matrix, Pool, layer_norm, linear, rms_norm_in_place};

use crate::{
    decoder::Features,
    image::Image,
    vision::{
        Precision,
        encoder::{Linear, Norm},
        load::Loader,
    },
    weights::{Result, gguf::Gguf},
};
use load::File;
use tower::Tower;

pub use config::{Config, Kind};

/// How a picture is written in a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// What stands before the picture.
    pub before: &'static str,
    /// The token that each of its rows takes the place of.
    pub row: &'static str,
    /// What stands behind it.
    pub after: &'static str,
}

/// What is not a picture that the model can take.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Unfit(String);

/// What makes an embedding of the normed patches of a square: (wide, wide), (out, wide); wide: merge * merge * dim.
struct Merger([Linear; 2]);

/// What makes rows of the tower's output.
enum Head {
    Gemma3 { norm: Vec<f32>, matrix: Matrix },
    Qwen3Vl { merger: Merger, deep: Vec<(Norm, Merger)> }, // norms of all patches of a square together
}

/// A vision tower and its projector. Immutable: share it.
pub struct Projector {
    config: Config,
    tower: Tower,
    head: Head,
}

impl Projector {
    /// Opens an mmproj file.
    ///
    /// # Errors
    /// What is wrong with the file, or that the projector is of a kind that this version does not run.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_gguf(&Gguf::open(path)?)
    }

    /// From an open file.
    ///
    /// # Errors
    /// As [`Projector::open`].
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let config = Config::from_gguf(gguf)?;
        let (file, pool) = (File::new(gguf, &config)?, Pool::new(1));
        let loader = Loader { pool: &pool, place: &pool, tensors: &file, precision: Precision::Stored };
        let tower = Tower::load(&loader, &file, &config)?;
        let head = match config.kind {
            Kind::Gemma3 => {
                let (norm, matrix) = load::soft(&loader, &config)?;
                Head::Gemma3 { norm, matrix }
            }
            Kind::Qwen3Vl => {
                let deep = config.deepstack.iter().map(|&layer| load::deep(&loader, &config, layer)).collect::<Result<_>>()?;
                Head::Qwen3Vl { merger: load::merger(&loader, &config, ["mm.0", "mm.2"])?, deep }
            }
        };
        file.finish()?;
        Ok(Self { config, tower, head })
    }

    /// Its shape and kind.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How a picture is written in a prompt.
    pub fn marks(&self) -> Marks {
        match self.config.kind {
            Kind::Gemma3 => Marks { before: "\n\n<start_of_image>", row: "<image_soft_token>", after: "<end_of_image>\n\n" },
            Kind::Qwen3Vl => Marks { before: "<|vision_start|>", row: "<|image_pad|>", after: "<|vision_end|>" },
        }
    }

    /// Rows and columns of embeddings that a picture of `height` x `width` pixels becomes, with at most `tokens` embeddings where the
    /// kind leaves that open.
    ///
    /// # Errors
    /// [`Unfit`] where one side is much longer than the other.
    pub fn grid(&self, height: usize, width: usize, tokens: usize) -> std::result::Result<[usize; 2], Unfit> {
        self.config.scaled([height, width], tokens).map(|size| size.map(|s| s / self.config.cell())).map_err(Unfit)
    }

    /// What a decoder takes of a picture; `tokens`: see [`Projector::grid`].
    ///
    /// # Errors
    /// As [`Projector::grid`].
    pub fn encode(&self, pool: &Pool, image: &Image, tokens: usize) -> std::result::Result<Features, Unfit> {
        let c = &self.config;
        let size = c.scaled([image.height(), image.width()], tokens).map_err(Unfit)?;
        let patches = c.patches(pool, image, size);
        let grid = size.map(|s| s / c.cell());
        let mut deep = Vec::new();
        let mut levels = match &self.head {
            Head::Qwen3Vl { deep, .. } => deep.iter(),
            Head::Gemma3 { .. } => [].iter(),
        };
        let x = self.tower.run(pool, c, &patches, |x| {
            if let Some((norm, merger)) = levels.next() {
                let mut h = vec![0.0; x.len()];
                layer_norm(pool, x, (&norm.gamma, &norm.beta), c.eps, &mut h);
                deep.extend(merger.project(pool, &h));
            }
        });
        let rows = match &self.head {
            Head::Qwen3Vl { merger, .. } => merger.project(pool, &x),
            Head::Gemma3 { norm, matrix } => {
                let mut cells = average(&x, c);
                rms_norm_in_place(pool, &mut cells, norm, c.eps);
                let mut rows = vec![0.0; grid[0] * grid[1] * c.out];
                linear(pool, &cells, matrix, &mut rows, Epilogue::default());
                rows
            }
        };
        Ok(Features { grid, rows, deep })
    }
}

impl Merger {
    /// `x`: normed patches, those of a square after each other.
    fn project(&self, pool: &Pool, x: &[f32]) -> Vec<f32> {
        let [first, second] = &self.0;
        let (mut h, mut out) = (vec![0.0; x.len()], vec![0.0; x.len() / first.w.cols() * second.w.rows()]);
        first.apply(pool, x, Activation::Gelu, &mut h);
        second.apply(pool, &h, Activation::None, &mut out);
        out
    }
}

/// Averages of `merge` x `merge` patches of the square grid `x`: (cells, dim).
fn average(x: &[f32], c: &Config) -> Vec<f32> {
    let (side, cells) = (c.side(), c.side() / c.merge);
    let mut out = vec![0.0; cells * cells * c.dim];
    let share = ((c.merge * c.merge) as f32).recip();
    for (i, patch) in x.chunks_exact(c.dim).enumerate() {
        let cell = i / side / c.merge * cells + i % side / c.merge;
        out[cell * c.dim..][..c.dim].iter_mut().zip(patch).for_each(|(out, v)| *out += share * v);
    }
    out
}
