//! Angles of the rotary position embedding (Su et al. 2021) and its scalings to longer contexts.
//!
//! Angles are computed in f64: in f32 the product of position 100,000 and one radian is already off by 0.004.

use dreamseed_kernels::RopeKind;

/// How the context is stretched beyond what the rotation was trained on.
#[derive(Clone, Debug, PartialEq)]
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
    /// YaRN (Peng et al. 2023).
    Yarn {
        /// New over old context.
        factor: f64,
        /// Trained context.
        original: usize,
        /// Pairs that turn more often than this over the trained context are kept (paper: 32).
        fast: f64,
        /// Pairs that turn less often than this are divided (paper: 1).
        slow: f64,
        /// Whether the two bounds are moved outwards to whole pairs, as the paper's code does.
        whole: bool,
        /// Cosine and sine times this (paper: [`yarn_magnitude`]).
        magnitude: f64,
    },
    /// LongRoPE (Ding et al. 2024): each pair divided by a searched number of its own.
    Long {
        /// Trained context: sequences up to it divide by `short`, longer ones by `long`.
        original: usize,
        /// (dims / 2)
        short: Vec<f32>,
        /// (dims / 2)
        long: Vec<f32>,
        /// Cosine and sine times this (paper: [`long_magnitude`]).
        magnitude: f64,
    },
}

/// YaRN's factor of cosine and sine: 1 + 0.1 ln(factor), 1 where nothing is stretched.
pub fn yarn_magnitude(factor: f64) -> f64 {
    if factor > 1.0 { 1.0 + 0.1 * factor.ln() } else { 1.0 }
}

/// LongRoPE's factor of cosine and sine: sqrt(1 + ln(factor) / ln(original)), 1 where nothing is stretched.
pub fn long_magnitude(factor: f64, original: usize) -> f64 {
    if factor > 1.0 { (1.0 + factor.ln() / (original as f64).ln()).sqrt() } else { 1.0 }
}

/// The rotation of a family of models.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Which dimensions turn together.
    pub kind: RopeKind,
    /// How many dimensions of a head are rotated; even.
    pub dims: usize,
    /// Base of the wavelengths.
    pub base: f64,
    /// Each pair's angle is divided by its number before the scaling (`rope_freqs`, which is how GGUF stores Llama 3's scaling).
    pub divisors: Vec<f32>, // (dims / 2) or empty
    /// Stretching.
    pub scaling: Scaling,
}

/// Angles a position for each pair of dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// Radians a position.
    pub radians: Vec<f64>, // (dims / 2)
    /// Cosine and sine times this.
    pub magnitude: f64,
}

/// The angles of a model, which may depend on how long a sequence can become.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    usual: Frequencies,
    long: Option<(usize, Frequencies)>, // for sequences that may become longer than so many positions
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
    /// What is wrong with the numbers, if anything.
    pub fn problem(&self) -> Option<String> {
        let pairs = self.dims / 2;
        let positive = |values: &[f32]| values.iter().all(|v| v.is_finite() && *v > 0.0);
        if !(self.base > 1.0 && self.base.is_finite()) {
            return Some(format!("the rotary base is {}; a number above 1 is needed", self.base));
        }
        if !(self.divisors.is_empty() || self.divisors.len() == pairs) || !positive(&self.divisors) {
            let seen = self.divisors.len();
            return Some(format!("rotary divisors: {seen} of {pairs} pairs; one positive number a pair is needed"));
        }
        let sound = match &self.scaling {
            Scaling::None => true,
            Scaling::Linear { factor } => *factor > 0.0 && factor.is_finite(),
            Scaling::Llama3 { factor, low, high, original } => {
                *factor > 0.0 && factor.is_finite() && *low > 0.0 && high > low && high.is_finite() && *original > 0
            }
            Scaling::Yarn { factor, original, fast, slow, magnitude, .. } => {
                let magnitude = *magnitude > 0.0 && magnitude.is_finite();
                *factor > 0.0
                    && factor.is_finite()
                    && *slow > 0.0
                    && fast > slow
                    && fast.is_finite()
                    && *original > 0
                    && magnitude
            }
            Scaling::Long { original, short, long, magnitude } => {
                let lists = [short, long].iter().all(|l| l.len() == pairs && positive(l));
                *original > 0 && lists && *magnitude > 0.0 && magnitude.is_finite()
            }
        };
        let rule = "factors, contexts and magnitudes must be positive, upper bounds above lower ones, and lists of factors hold one \
                    positive number for each pair of rotated dimensions";
        let seen = match &self.scaling {
            Scaling::Long { original, short, long, magnitude } => {
                format!(
                    "Long {{ original: {original}, magnitude: {magnitude} }} with {} and {} factors",
                    short.len(),
                    long.len()
                )
            }
            other => format!("{other:?}"),
        };
        (!sound).then(|| format!("the rotary scaling {seen} of {pairs} pairs: {rule}"))
    }

    /// The angles for sequences of at most `positions` positions.
    pub fn frequencies(&self, positions: usize) -> Frequencies {
        let divisor = |pair: usize| f64::from(self.divisors.get(pair).copied().unwrap_or(1.0));
        let plain = |pair: usize| self.base.powf(-2.0 * pair as f64 / self.dims as f64) / divisor(pair);
        let radians = (0..self.dims / 2).map(|pair| self.scaled(plain(pair), pair, positions)).collect();
        let magnitude = match self.scaling {
            Scaling::Yarn { magnitude, .. } | Scaling::Long { magnitude, .. } => magnitude,
            _ => 1.0,
        };
        Frequencies { radians, magnitude }
    }

    /// The angles for sequences of any length.
    pub fn rotation(&self) -> Rotation {
        let long = match self.scaling {
            Scaling::Long { original, .. } => Some((original, self.frequencies(usize::MAX))),
            _ => None,
        };
        Rotation { usual: self.frequencies(0), long }
    }

    fn scaled(&self, radians: f64, pair: usize, positions: usize) -> f64 {
        use std::f64::consts::TAU;
        match &self.scaling {
            Scaling::None => radians,
            Scaling::Linear { factor } => radians / factor,
            Scaling::Llama3 { factor, low, high, original } => {
                let turns = *original as f64 * radians / TAU;
                let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                radians * (keep + (1.0 - keep) / factor)
            }
            Scaling::Yarn { factor, original, fast, slow, whole, .. } => {
                // The pair that turns `turns` times over the trained context.
                let pair_of = |turns: f64| self.dims as f64 * (*original as f64 / (turns * TAU)).ln() / (2.0 * self.base.ln());
                let (low, high) = (pair_of(*fast), pair_of(*slow));
                let (low, high) = if *whole { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(self.dims as f64 - 1.0));
                let divide = ((pair as f64 - low) / (high - low).max(1e-3)).clamp(0.0, 1.0);
                radians * (divide / factor + 1.0 - divide)
            }
            Scaling::Long { original, short, long, .. } => {
                let factors = if positions > *original { long } else { short };
                radians / f64::from(factors.get(pair).copied().unwrap_or(1.0))
            }
        }
    }
}

impl Rotation {
    /// The angles for a sequence that can become `positions` long. They must stay the same for all its life, and for all
    /// sequences that share its keys.
    pub fn within(&self, positions: usize) -> &Frequencies {
        match &self.long {
            Some((_, long)) if self.is_long(positions) => long,
            _ => &self.usual,
        }
    }

    /// Whether a sequence that can become `positions` long has other angles than a short one.
    pub fn is_long(&self, positions: usize) -> bool {
        self.long.as_ref().is_some_and(|(original, _)| positions > *original)
    }
}

impl Table {
    /// Forgets all positions.
    pub fn clear(&mut self) {
        self.cos.clear();
        self.sin.clear();
    }
}

impl Frequencies {
    /// Appends `positions` to `table`.
    pub fn append(&self, positions: impl Iterator<Item = usize>, table: &mut Table) {
        for position in positions {
            for radians in &self.radians {
                let (sin, cos) = (position as f64 * radians).sin_cos();
                table.cos.push((cos * self.magnitude) as f32);
                table.sin.push((sin * self.magnitude) as f32);
            }
        }
    }

    /// Appends rows that stand at three positions, of time, height and width, which take turns over the pairs: height has the first
    /// `sections[1]` pairs of remainder 1 by three, width the first `sections[2]` of remainder 2, and time all others (Qwen3-VL).
    pub fn append_sections(&self, rows: impl Iterator<Item = [usize; 3]>, sections: [usize; 3], table: &mut Table) {
        for positions in rows {
            for (pair, radians) in self.radians.iter().enumerate() {
                let axis = pair % 3;
                let position = positions[if pair / 3 < sections[axis] { axis } else { 0 }];
                let (sin, cos) = (position as f64 * radians).sin_cos();
                table.cos.push((cos * self.magnitude) as f32);
                table.sin.push((sin * self.magnitude) as f32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: Scaling) -> Rope {
        Rope { kind: RopeKind::HalfSplit, dims: 64, base: 10_000.0, divisors: Vec::new(), scaling }
    }

    fn yarn(factor: f64, original: usize) -> Scaling {
        Scaling::Yarn { factor, original, fast: 32.0, slow: 1.0, whole: true, magnitude: yarn_magnitude(factor) }
    }

    fn long(factors: [f32; 2]) -> Scaling {
        let [short, long] = factors.map(|f| vec![f; 32]);
        Scaling::Long { original: 64, short, long, magnitude: long_magnitude(4.0, 64) }
    }

    #[test]
    fn plain_angles() {
        let f = rope(Scaling::None).frequencies(0);
        assert_eq!((f.radians[0], f.radians.len(), f.magnitude), (1.0, 32, 1.0));
        assert!((f.radians[16] - 0.01).abs() < 1e-15);
    }

    #[test]
    fn scalings_keep_fast_pairs_and_divide_slow_ones() {
        let plain = rope(Scaling::None).frequencies(0).radians;
        for scaling in [Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 2048 }, yarn(8.0, 2048)] {
            let scaled = rope(scaling).frequencies(0).radians;
            assert_eq!(scaled[0], plain[0]);
            assert!((scaled[31] - plain[31] / 8.0).abs() < 1e-15);
            assert!(scaled.windows(2).all(|w| w[0] > w[1]));
        }
        let linear = rope(Scaling::Linear { factor: 4.0 }).frequencies(0).radians;
        assert!(plain.iter().zip(&linear).all(|(p, l)| (p / 4.0 - l).abs() < 1e-15));
        let divided = Rope { divisors: vec![2.0; 32], ..rope(Scaling::None) }.frequencies(0).radians;
        assert!(plain.iter().zip(&divided).all(|(p, d)| (p / 2.0 - d).abs() < 1e-15));
    }

    #[test]
    fn long_factors_are_chosen_by_what_a_sequence_can_become() {
        let rotation = rope(long([2.0, 8.0])).rotation();
        let (short, long) = (rotation.within(64), rotation.within(65));
        assert_eq!((short.radians[0], long.radians[0]), (0.5, 0.125));
        assert!((long.magnitude - (1.0 + 4f64.ln() / 64f64.ln()).sqrt()).abs() < 1e-15 && short.magnitude == long.magnitude);
        assert_eq!(rope(Scaling::None).rotation().within(usize::MAX).radians[0], 1.0);
    }

    #[test]
    fn tables_hold_the_angles_of_their_positions() {
        let f = rope(yarn(2.0, 64)).frequencies(0);
        let mut table = Table::default();
        f.append(3..5, &mut table);
        assert_eq!((table.cos.len(), table.sin.len()), (64, 64));
        for (at, angle) in [(1, 3.0 * f.radians[1]), (32 + 5, 4.0 * f.radians[5])] {
            assert!((f64::from(table.cos[at]) - angle.cos() * f.magnitude).abs() < 1e-7);
            assert!((f64::from(table.sin[at]) - angle.sin() * f.magnitude).abs() < 1e-7);
        }
        assert!((f.magnitude - 1.0693).abs() < 1e-4);
    }

    /// Cosines and sines by mpmath with 50 digits; transformers and llama.cpp, in f32, are 0.001 (100,000) and 0.025 (2^20 - 1)
    /// away from them.
    #[test]
    fn far_positions_are_exact() {
        for (position, base, dims, known) in [
            (
                100_000,
                1e4,
                64,
                [
                    (0, -0.999360807438, 0.035748797972),
                    (1, 0.922723910911, -0.385461521079),
                    (16, 0.562379076291, 0.826879540532),
                    (31, 0.718715125616, 0.695304658556),
                ],
            ),
            (
                100_000,
                5e5,
                128,
                [
                    (0, -0.999360807438, 0.035748797972),
                    (1, 0.974597828051, 0.223962214578),
                    (32, -0.998765863605, -0.0496663839799),
                    (63, 0.970012503645, 0.243055020051),
                ],
            ),
            (
                1_048_575,
                1e6,
                256,
                [
                    (0, 0.788042239529, -0.615621173059),
                    (1, -0.425989890428, 0.904727922225),
                    (64, 0.753815784324, -0.657085811218),
                    (127, 0.391914076214, 0.920001824382),
                ],
            ),
        ] {
            let mut table = Table::default();
            Rope { dims, base, ..rope(Scaling::None) }.frequencies(0).append(std::iter::once(position), &mut table);
            for (pair, cos, sin) in known {
                let seen = (f64::from(table.cos[pair]), f64::from(table.sin[pair]));
                assert!((seen.0 - cos).abs() < 1e-7 && (seen.1 - sin).abs() < 1e-7, "{position} {base} pair {pair}: {seen:?}");
            }
        }
    }

    #[test]
    fn numbers_that_cannot_be_are_told() {
        assert_eq!(rope(long([1.0, 2.0])).problem(), None);
        assert_eq!(rope(yarn(4.0, 64)).problem(), None);
        let bad = [
            Scaling::Linear { factor: -2.0 },
            Scaling::Linear { factor: f64::NAN },
            Scaling::Llama3 { factor: 8.0, low: 4.0, high: 4.0, original: 64 },
            Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 0 },
            yarn(0.0, 64),
            yarn(f64::INFINITY, 64),
            Scaling::Yarn { factor: 2.0, original: 64, fast: 1.0, slow: 32.0, whole: true, magnitude: 1.0 },
            Scaling::Yarn { factor: 2.0, original: 64, fast: 32.0, slow: 1.0, whole: true, magnitude: -1.0 },
            long([-1.0, 2.0]),
            long([1.0, f32::NAN]),
            Scaling::Long { original: 64, short: vec![1.0; 32], long: vec![1.0; 31], magnitude: 1.0 },
            Scaling::Long { original: 1, short: vec![1.0; 32], long: vec![1.0; 32], magnitude: long_magnitude(4.0, 1) },
        ];
        for scaling in bad {
            assert!(rope(scaling.clone()).problem().is_some(), "{scaling:?}");
        }
        assert!(Rope { base: 1.0, ..rope(Scaling::None) }.problem().is_some_and(|p| p.contains("above 1")));
        assert!(Rope { divisors: vec![1.0; 31], ..rope(Scaling::None) }.problem().is_some_and(|p| p.contains("31 of 32")));
        assert!(Rope { divisors: vec![0.0; 32], ..rope(Scaling::None) }.problem().is_some());
    }
}
