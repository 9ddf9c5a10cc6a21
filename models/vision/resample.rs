//! Resampling as Pillow does it for 8-bit pictures and PyTorch for position embeddings: the filter widens when it shrinks
//! (antialias), and rows and columns are taken one after the other.

use crate::image::Image;

/// How values between samples are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// A triangle, widened when shrinking.
    Bilinear,
    /// Keys' cubic with a = -0.5, widened when shrinking.
    Bicubic,
    /// Keys' cubic with a = -0.75 over four neighbours, never widened: PyTorch without antialias.
    BicubicPlain,
}

impl Filter {
    fn reach(self) -> f64 {
        if self == Self::Bilinear { 1.0 } else { 2.0 }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        let a = match self {
            Self::Bilinear => return (1.0 - x).max(0.0),
            Self::Bicubic => -0.5,
            Self::BicubicPlain => -0.75,
        };
        match x {
            x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
            _ => 0.0,
        }
    }
}

/// What makes one output sample: the first input sample, and the weights of it and those after it, which sum to 1.
struct Taps {
    first: usize,
    weights: Vec<f64>,
}

fn taps(input: usize, output: usize, filter: Filter) -> Vec<Taps> {
    let scale = input as f64 / output as f64;
    let stretch = if filter == Filter::BicubicPlain { 1.0 } else { scale.max(1.0) };
    let support = filter.reach() * stretch;
    let one = |o: usize| {
        let centre = (o as f64 + 0.5) * scale;
        if filter == Filter::BicubicPlain {
            return plain(centre - 0.5, input);
        }
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(input);
        let mut weights: Vec<f64> = (first..end).map(|i| filter.at((i as f64 - centre + 0.5) / stretch)).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
        Taps { first, weights }
    };
    (0..output).map(one).collect()
}

/// Four neighbours of `x`; those beyond the edge are the edge.
fn plain(x: f64, input: usize) -> Taps {
    let base = x.floor() as i64 - 1;
    let place = |k: i64| (base + k).clamp(0, input as i64 - 1) as usize;
    let first = place(0);
    let mut weights = vec![0.0; place(3) - first + 1];
    (0..4).for_each(|k| weights[place(k) - first] += Filter::BicubicPlain.at(x - (base + k) as f64));
    Taps { first, weights }
}

/// A grid of vectors, (rows, cols, width) to (rows and cols of `to`, width).
pub fn grid(x: &[f32], from: [usize; 2], to: [usize; 2], filter: Filter) -> Vec<f32> {
    let width = x.len() / (from[0] * from[1]).max(1);
    let (down, across) = (taps(from[0], to[0], filter), taps(from[1], to[1], filter));
    let mut wide = vec![0f32; from[0] * to[1] * width];
    for (i, out) in wide.chunks_exact_mut(width.max(1)).enumerate() {
        let (row, taps) = (i / to[1], &across[i % to[1]]);
        for (k, w) in taps.weights.iter().enumerate() {
            let from = &x[(row * from[1] + taps.first + k) * width..][..width];
            out.iter_mut().zip(from).for_each(|(o, v)| *o += v * *w as f32);
        }
    }
    let mut out = vec![0f32; to[0] * to[1] * width];
    for (i, out) in out.chunks_exact_mut((to[1] * width).max(1)).enumerate() {
        for (k, w) in down[i].weights.iter().enumerate() {
            let from = &wide[(down[i].first + k) * to[1] * width..][..to[1] * width];
            out.iter_mut().zip(from).for_each(|(o, v)| *o += v * *w as f32);
        }
    }
    out
}

/// Bits of a weight's fraction: 8 bits of value and two of room remain of 32 (Pillow).
const FRACTION: u32 = 22;

/// An 8-bit picture in another size, bit for bit as Pillow's `resize`: whole 22-bit weights, 8 bits between the two passes.
pub fn picture(image: &Image, [height, width]: [usize; 2], filter: Filter) -> Vec<u8> {
    let (rows, cols) = (image.height(), image.width());
    let whole = |taps: Vec<Taps>| -> Vec<(usize, Vec<i32>)> {
        let round = |w: &f64| (w * f64::from(1 << FRACTION) + 0.5f64.copysign(*w)) as i32;
        taps.iter().map(|t| (t.first, t.weights.iter().map(round).collect())).collect()
    };
    let half = 1 << (FRACTION - 1);
    let clip = |v: i32| (v >> FRACTION).clamp(0, 255) as u8;
    let across = whole(taps(cols, width, filter));
    let wide: Vec<u8> = match cols == width {
        true => image.rgb().to_vec(),
        false => {
            let mut wide = Vec::with_capacity(rows * width * 3);
            for row in image.rgb().chunks_exact(cols * 3) {
                for (first, weights) in &across {
                    let mut sum = [half; 3];
                    for (pixel, w) in row[first * 3..].as_chunks::<3>().0.iter().zip(weights) {
                        sum.iter_mut().zip(pixel).for_each(|(s, p)| *s += i32::from(*p) * w);
                    }
                    wide.extend(sum.map(clip));
                }
            }
            wide
        }
    };
    if rows == height {
        return wide;
    }
    let stride = width * 3;
    let (mut out, mut sum) = (Vec::with_capacity(height * stride), vec![0i32; stride]);
    for (first, weights) in whole(taps(rows, height, filter)) {
        sum.fill(half);
        for (row, w) in wide[first * stride..].chunks_exact(stride).zip(&weights) {
            sum.iter_mut().zip(row).for_each(|(s, p)| *s += i32::from(*p) * w);
        }
        out.extend(sum.iter().map(|v| clip(*v)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_the_same_size_changes_nothing() {
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::BicubicPlain] {
            for (input, output) in [(1, 1), (1, 7), (7, 1), (5, 5), (16, 9), (9, 16), (37, 14), (2, 3)] {
                for t in taps(input, output, filter) {
                    assert!((t.weights.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{filter:?} {input} to {output}");
                    assert!(t.first + t.weights.len() <= input, "{filter:?} {input} to {output}");
                }
            }
            let x: Vec<f32> = (0..5 * 4 * 3).map(|i| (i as f32 * 0.7).sin()).collect();
            let same = grid(&x, [5, 4], [5, 4], filter);
            assert!(same.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-6), "{filter:?}");
        }
    }

    #[test]
    fn a_flat_picture_stays_flat() {
        let rgb = [200u8, 3, 77].repeat(31 * 17);
        let image = Image::new(31, 17, &rgb).unwrap();
        for size in [[5, 9], [40, 61], [17, 31], [1, 1]] {
            assert_eq!(picture(&image, size, Filter::Bicubic), [200u8, 3, 77].repeat(size[0] * size[1]));
        }
    }
}
