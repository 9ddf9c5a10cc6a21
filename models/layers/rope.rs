//! Angles of the rotary position embedding (Su et al. 2021) and its scalings to longer contexts.

use dreamseed_kernels::RopeKind;

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
    /// Which dimensions turn together.
    pub kind: RopeKind,
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
}

/// Cosines and sines of the positions of a pass.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// (n, dims / 2)
    pub cos: Vec<f32>,
    /// (n, dims / 2)
    pub sin: Vec<f32>,
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
        Frequencies { radians: radians.collect(), magnitude: magnitude as f32 }
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
    /// Fills `table` for `positions`.
    pub fn fill(&self, positions: impl Iterator<Item = usize>, table: &mut Table) {
        table.cos.clear();
        table.sin.clear();
        for position in positions {
            for radians in &self.radians {
                let (sin, cos) = (position as f32 * radians).sin_cos();
                table.cos.push(cos * self.magnitude);
                table.sin.push(sin * self.magnitude);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: Scaling) -> Rope {
        Rope { kind: RopeKind::HalfSplit, dims: 64, base: 10_000.0, scaling }
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
    fn tables_hold_the_angles_of_their_positions() {
        let f = rope(Scaling::Yarn { factor: 2.0, original: 64 }).frequencies(&[]);
        let mut table = Table::default();
        f.fill(3..5, &mut table);
        assert_eq!((table.cos.len(), table.sin.len()), (64, 64));
        for (at, angle) in [(1, 3.0 * f.radians[1]), (32 + 5, 4.0 * f.radians[5])] {
            assert!((table.cos[at] - angle.cos() * f.magnitude).abs() < 1e-6);
            assert!((table.sin[at] - angle.sin() * f.magnitude).abs() < 1e-6);
        }
        assert!((f.magnitude - 1.0693).abs() < 1e-4);
    }
}
