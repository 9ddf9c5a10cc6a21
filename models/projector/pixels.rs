//! Pictures to patches: scaled as the models' own preprocessors do, normalised, in the order that the tower takes them.

use dreamseed_kernels::Pool;

use super::{Config, Kind};
use crate::image::Image;

/// Longest side over shortest that is taken: beyond it a picture is a line.
const MAX_RATIO: usize = 200;

/// A picture as the tower takes it.
pub(super) struct Patches {
    /// Rows and columns of patches.
    pub(super) grid: [usize; 2],
    /// (grid, 3, patch, patch): squares of `merge` x `merge` patches after each other where those are joined, else row by row.
    pub(super) values: Vec<f32>,
}

impl Config {
    /// Height and width in pixels that a picture is scaled to, for at most `tokens` embeddings.
    ///
    /// # Errors
    /// What is wrong with the picture's sides.
    pub(super) fn scaled(&self, [height, width]: [usize; 2], tokens: usize) -> Result<[usize; 2], String> {
        if self.kind == Kind::Gemma3 {
            return Ok([self.image_size; 2]);
        }
        if height.max(width) > MAX_RATIO * height.min(width) {
            return Err(format!("a picture of {width} x {height}: one side is more than {MAX_RATIO} times the other"));
        }
        let cell = self.cell() as f64;
        let most = self.pixels[1].min(tokens.max(1).saturating_mul(self.cell() * self.cell())) as f64;
        let least = (self.pixels[0] as f64).min(most);
        let ([h, w], area) = ([height as f64, width as f64], height as f64 * width as f64);
        let near = |side: f64| (side / cell).round_ties_even() * cell;
        let [mut h_near, mut w_near] = [near(h), near(w)];
        if h_near * w_near > most {
            let shrink = (area / most).sqrt();
            [h_near, w_near] = [h, w].map(|side| ((side / shrink / cell).floor() * cell).max(cell));
        } else if h_near * w_near < least {
            let grow = (least / area).sqrt();
            [h_near, w_near] = [h, w].map(|side| (side * grow / cell).ceil() * cell);
        }
        Ok([h_near as usize, w_near as usize])
    }

    /// The patches of a picture scaled to `size`, whole patches each way.
    pub(super) fn patches(&self, pool: &Pool, image: &Image, size: [usize; 2]) -> Patches {
        let filter = if self.kind == Kind::Gemma3 { Filter::Triangle } else { Filter::Cubic };
        let rgb = resize(pool, image, size, filter);
        let ([rows, columns], p) = (size.map(|s| s / self.patch), self.patch);
        let group = if self.kind == Kind::Gemma3 { 1 } else { self.merge };
        let mut values = vec![0.0; rows * columns * 3 * p * p];
        pool.for_each_chunk(&mut values, 3 * p * p, |i, patch| {
            let [row, column] = place(i, columns, group);
            for (c, plane) in patch.chunks_exact_mut(p * p).enumerate() {
                let (scale, offset) = (1.0 / (255.0 * self.std[c]), self.mean[c] / self.std[c]);
                for (y, line) in plane.chunks_exact_mut(p).enumerate() {
                    let from = ((row * p + y) * size[1] + column * p) * 3;
                    for (out, pixel) in line.iter_mut().zip(rgb[from..].chunks_exact(3)) {
                        *out = pixel[c] * scale - offset;
                    }
                }
            }
        });
        Patches { grid: [rows, columns], values }
    }
}

/// Row and column of the i-th patch, squares of `group` x `group` patches after each other.
pub(super) fn place(i: usize, columns: usize, group: usize) -> [usize; 2] {
    let (square, within) = (i / (group * group), i % (group * group));
    let across = columns / group;
    [square / across * group + within / group, square % across * group + within % group]
}

/// How pixels are mixed.
#[derive(Clone, Copy)]
enum Filter {
    /// Bilinear.
    Triangle,
    /// Bicubic with a = -1/2 (Keys 1981).
    Cubic,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Self::Triangle => 1.0,
            Self::Cubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Triangle => (1.0 - x).max(0.0),
            Self::Cubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Cubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Self::Cubic => 0.0,
        }
    }

    /// For each of `to` pixels the first of `from` pixels that it mixes, and their shares. What is made smaller is averaged over all
    /// that it covers, as Pillow and transformers do.
    fn taps(self, from: usize, to: usize) -> Vec<(usize, Vec<f32>)> {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let reach = self.support() * stretch;
        let tap = |o: usize| {
            let centre = (o as f64 + 0.5) * scale;
            let first = (centre - reach + 0.5).max(0.0) as usize;
            let end = ((centre + reach + 0.5) as usize).clamp(first + 1, from.max(first + 1));
            let weights: Vec<f64> = (first..end).map(|i| self.at((i as f64 - centre + 0.5) / stretch)).collect();
            let sum: f64 = weights.iter().sum();
            (first, weights.into_iter().map(|w| (w / sum) as f32).collect())
        };
        (0..to).map(tap).collect()
    }
}

/// Whole numbers of 0 to 255, (height, width, 3).
fn resize(pool: &Pool, image: &Image, [height, width]: [usize; 2], filter: Filter) -> Vec<f32> {
    let (from, mut out) = (image.width(), vec![0.0; height * width * 3]);
    if [image.height(), from] == [height, width] {
        out.iter_mut().zip(image.rgb()).for_each(|(out, v)| *out = f32::from(*v));
        return out;
    }
    // 1. along the lines
    let across = filter.taps(from, width);
    let mut lines = vec![0.0; image.height() * width * 3];
    pool.for_each_chunk(&mut lines, width * 3, |y, line| {
        let pixels = &image.rgb()[y * from * 3..][..from * 3];
        for (out, (first, weights)) in line.chunks_exact_mut(3).zip(&across) {
            let mut sums = [0.0f32; 3];
            for (w, pixel) in weights.iter().zip(pixels[first * 3..].chunks_exact(3)) {
                sums.iter_mut().zip(pixel).for_each(|(sum, v)| *sum += w * f32::from(*v));
            }
            // Pillow keeps whole numbers between the two directions.
            out.copy_from_slice(&sums.map(|s| s.round().clamp(0.0, 255.0)));
        }
    });
    // 2. along the columns
    let down = filter.taps(image.height(), height);
    pool.for_each_chunk(&mut out, width * 3, |y, line| {
        let (first, weights) = &down[y];
        for (i, w) in weights.iter().enumerate() {
            let from = &lines[(first + i) * width * 3..][..width * 3];
            line.iter_mut().zip(from).for_each(|(out, v)| *out += w * v);
        }
        line.iter_mut().for_each(|v| *v = v.round().clamp(0.0, 255.0));
    });
    out
}
