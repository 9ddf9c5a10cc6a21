//! Rotary position embedding (Su et al. 2021) and its scalings to longer contexts.

/// How the context is stretched beyond what the rotation was trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// Positions divided by `factor` (Chen et al. 2023).
    Linear {
        /// New over old context.
        factor: f64,
    },
    /// Low frequencies divided, high ones kept (Llama 3.1).
    Llama3 {
        /// New over old context.
        factor: f64,
        /// Wavelengths above `original / low` are divided.
        low: f64,
        /// Wavelengths below `original / high` are kept.
        high: f64,
        /// Trained context.
        original: usize,
    },
    /// YaRN (Peng et al. 2023) with its default betas 32 and 1.
    Yarn {
        /// New over old context.
        factor: f64,
        /// Trained context.
        original: usize,
    },
}

/// The rotation of a family of models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Pairs are (i, i + dims / 2) as in GPT-NeoX; otherwise (2 i, 2 i + 1) as in the first Llama.
    pub neox: bool,
    /// How many dimensions of a head are rotated; even.
    pub dims: usize,
    /// Base of the wavelengths.
    pub base: f64,
    /// Stretching.
    pub scaling: Scaling,
}

/// Angles a position for each pair of dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// Radians a position. (dims / 2)
    pub radians: Vec<f32>,
    /// Cosine and sine times this.
    pub magnitude: f32,
    neox: bool,
}

impl Rope {
    /// The angles; `factors`: each divided by this too (`rope_freqs` of Llama 3 in GGUF), empty or (dims / 2).
    pub fn frequencies(&self, factors: &[f32]) -> Frequencies {
        let n = self.dims as f64;
        let half = self.dims / 2;
        let plain = (0..half).map(|i| self.base.powf(-2.0 * i as f64 / n));
        let radians = plain.enumerate().map(|(i, r)| {
            let r = r / f64::from(factors.get(i).copied().unwrap_or(1.0));
            self.scaled(r, i) as f32
        });
        let magnitude = match self.scaling {
            Scaling::Yarn { factor, .. } if factor > 1.0 => 1.0 + 0.1 * factor.ln(),
            _ => 1.0,
        };
        Frequencies { radians: radians.collect(), magnitude: magnitude as f32, neox: self.neox }
    }

    fn scaled(&self, radians: f64, pair: usize) -> f64 {
        use std::f64::consts::TAU;
        match self.scaling {
            Scaling::None => radians,
            Scaling::Linear { factor } => radians / factor,
            Scaling::Llama3 { factor, low, high, original } => {
                let turns = original as f64 * radians / TAU;
                let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                radians * (keep + (1.0 - keep) / factor)
            }
            Scaling::Yarn { factor, original } => {
                // The pair that turns `beta` times over the trained context.
                let pair_of = |beta: f64| self.dims as f64 * (original as f64 / (beta * TAU)).ln() / (2.0 * self.base.ln());
                let (low, high) = (pair_of(32.0).floor().max(0.0), pair_of(1.0).ceil().min(self.dims as f64 - 1.0));
                let interpolate = ((pair as f64 - low) / (high - low).max(1e-3)).clamp(0.0, 1.0);
                radians * (interpolate / factor + 1.0 - interpolate)
            }
        }
    }
}

impl Frequencies {
    /// Cosines and sines of positions `from..from + n`, into `out`: (n, dims / 2) pairs.
    pub fn table(&self, from: usize, n: usize, out: &mut Vec<[f32; 2]>) {
        out.clear();
        for position in from..from + n {
            out.extend(self.radians.iter().map(|r| {
                let (sin, cos) = (position as f32 * r).sin_cos();
                [cos * self.magnitude, sin * self.magnitude]
            }));
        }
    }

    /// Rotates one head in place. `x`: (head_dim), `table`: (dims / 2) of its position.
    pub fn rotate(&self, x: &mut [f32], table: &[[f32; 2]]) {
        if self.neox {
            let (a, b) = x[..2 * table.len()].split_at_mut(table.len());
            for ((a, b), [cos, sin]) in a.iter_mut().zip(b).zip(table) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        } else {
            for (pair, [cos, sin]) in x.chunks_exact_mut(2).zip(table) {
                let (a, b) = (pair[0], pair[1]);
                (pair[0], pair[1]) = (a * cos - b * sin, a * sin + b * cos);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: Scaling) -> Rope {
        Rope { neox: true, dims: 64, base: 10_000.0, scaling }
    }

    #[test]
    fn plain_angles() {
        let f = rope(Scaling::None).frequencies(&[]);
        assert_eq!((f.radians[0], f.radians.len(), f.magnitude), (1.0, 32, 1.0));
        assert!((f.radians[16] - 0.01).abs() < 1e-8);
    }

    #[test]
    fn scalings_keep_fast_pairs_and_divide_slow_ones() {
        let plain = rope(Scaling::None).frequencies(&[]).radians;
        for scaling in [
            Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 2048 },
            Scaling::Yarn { factor: 8.0, original: 2048 },
        ] {
            let scaled = rope(scaling).frequencies(&[]).radians;
            assert_eq!(scaled[0], plain[0]);
            assert!((scaled[31] - plain[31] / 8.0).abs() < 1e-9);
            assert!(scaled.windows(2).all(|w| w[0] > w[1]));
        }
        let linear = rope(Scaling::Linear { factor: 4.0 }).frequencies(&[]).radians;
        assert!(plain.iter().zip(&linear).all(|(p, l)| (p / 4.0 - l).abs() < 1e-7));
        let divided = rope(Scaling::None).frequencies(&[2.0; 32]).radians;
        assert!(plain.iter().zip(&divided).all(|(p, d)| (p / 2.0 - d).abs() < 1e-7));
    }

    #[test]
    fn both_pairings_rotate_by_the_same_angles() {
        for neox in [false, true] {
            let f = Rope { neox, ..rope(Scaling::None) }.frequencies(&[]);
            let mut table = Vec::new();
            f.table(3, 1, &mut table);
            let mut x = [0.0; 66];
            let pair = if neox { [1, 33] } else { [2, 3] };
            x[pair[0]] = 1.0;
            x[65] = 5.0; // not rotated
            f.rotate(&mut x, &table);
            let angle = 3.0 * f.radians[1];
            assert!((x[pair[0]] - angle.cos()).abs() < 1e-6 && (x[pair[1]] - angle.sin()).abs() < 1e-6);
            assert_eq!(x[65], 5.0);
        }
    }
}
