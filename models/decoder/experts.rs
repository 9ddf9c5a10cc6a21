//! The feed-forward network of a layer: dense, or a mixture of experts of which each token uses a few.

use dreamseed_kernels::{Activation, Epilogue, Matrix, Pool, Product, cpu::math::gated, linear, linear_many, simd, softmax};

use super::{
    Config, Experts,
    weights::{Cpu, Place},
};

/// `down(act(gate(x)) * up(x))`.
pub(super) struct Mlp<P: Place = Cpu> {
    pub(super) gate: P::Matrix, // (hidden, dim)
    pub(super) up: P::Matrix,   // (hidden, dim)
    pub(super) down: P::Matrix, // (dim, hidden)
    pub(super) biases: Biases<P>,
}

/// Biases, where the model has them.
pub(super) struct Biases<P: Place = Cpu> {
    pub(super) gate: Option<P::Vector>, // (hidden)
    pub(super) up: Option<P::Vector>,   // (hidden)
    pub(super) down: Option<P::Vector>, // (dim)
}

impl<P: Place> Default for Biases<P> {
    fn default() -> Self {
        Self { gate: None, up: None, down: None }
    }
}

/// The feed-forward network of a layer.
pub(super) enum FeedForward<P: Place = Cpu> {
    Dense(Mlp<P>),
    Mixture(Mixture<P>),
}

/// Experts and who chooses among them.
pub(super) struct Mixture<P: Place = Cpu> {
    pub(super) router: P::Matrix,    // (experts, dim)
    pub(super) experts: Vec<Mlp<P>>, // (experts)
    pub(super) used: usize,          // experts a row goes to
    pub(super) renormalise: bool,    // whether their weights are divided by their sum
}

impl Mlp {
    /// `gate = act(gate(x)) * up(x)`. `x`: (rows, dim), `gate` and `up`: (rows, hidden).
    pub(super) fn gate(&self, pool: &Pool, activation: Activation, x: &[f32], gate: &mut [f32], up: &mut [f32]) {
        let hidden = self.gate.rows();
        let Biases { gate: gate_bias, up: up_bias, .. } = &self.biases;
        let mut products = [(&self.gate, &mut *gate, gate_bias), (&self.up, &mut *up, up_bias)].map(|(weights, out, bias)| {
            Product { weights, out, epilogue: Epilogue { bias: bias.as_deref(), ..Epilogue::default() } }
        });
        linear_many(pool, x, &mut products);
        let level = simd::level();
        pool.for_each_chunk(gate, hidden, |row, gate| {
            gated(level, activation, gate, &up[row * hidden..(row + 1) * hidden]);
        });
    }

    /// All of its matrices.
    pub(super) fn matrices(&self) -> [&Matrix; 3] {
        [&self.gate, &self.up, &self.down]
    }
}

impl FeedForward {
    /// All of its matrices.
    pub(super) fn matrices(&self) -> Vec<&Matrix> {
        match self {
            Self::Dense(mlp) => mlp.matrices().into(),
            Self::Mixture(m) => m.experts.iter().flat_map(Mlp::matrices).chain([&m.router]).collect(),
        }
    }

    /// The sum of `of` over the matrices that one token needs.
    pub(super) fn per_token(&self, of: impl Fn(&Matrix) -> u64) -> u64 {
        match self {
            Self::Dense(mlp) => mlp.matrices().into_iter().map(of).sum(),
            Self::Mixture(m) => {
                let experts: u64 = m.experts.iter().flat_map(Mlp::matrices).map(&of).sum();
                of(&m.router) + experts * m.used as u64 / m.experts.len().max(1) as u64
            }
        }
    }
}

/// One token's use of one expert.
#[derive(Clone, Copy, Default)]
struct Choice {
    expert: usize,
    row: usize,
    weight: f32,
}

/// The buffers of a mixture for passes of up to so many rows. Empty where a model has no experts.
#[derive(Default)]
pub(super) struct Scratch {
    scores: Vec<f32>,     // (rows, experts) probabilities
    choices: Vec<Choice>, // (rows * used) by expert, then by row
    x: Vec<f32>,          // (rows, dim) the rows of one expert
    gate: Vec<f32>,       // (rows, hidden)
    up: Vec<f32>,         // (rows, hidden)
    out: Vec<f32>,        // (rows, dim)
}

impl Scratch {
    pub(super) fn new(config: &Config, rows: usize) -> Self {
        let Some(Experts { count, used, hidden, .. }) = config.experts else { return Self::default() };
        Self {
            scores: vec![0.0; rows * count],
            choices: vec![Choice::default(); rows * used],
            x: vec![0.0; rows * config.dim],
            gate: vec![0.0; rows * hidden],
            up: vec![0.0; rows * hidden],
            out: vec![0.0; rows * config.dim],
        }
    }
}

/// Rows that a task gathers or sums.
const ROWS: usize = 16;

impl Mixture {
    /// `residual += sum of weight * expert(x)` over the experts that each row is routed to, in the order of the experts: a row's
    /// result depends neither on the rows beside it nor on the threads. `x` and `residual`: (rows, dim).
    ///
    /// Rows are grouped by expert, so that an expert's weights are read once a pass, and those of unused ones never.
    pub(super) fn run(&self, pool: &Pool, activation: Activation, x: &[f32], residual: &mut [f32], scratch: &mut Scratch) {
        let dim = self.router.cols();
        let n = x.len() / dim;
        self.route(pool, x, scratch);
        let Scratch { choices, x: input, gate, up, out, .. } = scratch;
        for group in choices[..n * self.used].chunk_by(|a, b| a.expert == b.expert) {
            let (mlp, rows) = (&self.experts[group[0].expert], group.len());
            let (input, out) = (&mut input[..rows * dim], &mut out[..rows * dim]);
            let hidden = mlp.gate.rows();
            let (gate, up) = (&mut gate[..rows * hidden], &mut up[..rows * hidden]);
            // 1. the rows of this expert, side by side
            pool.for_each_chunk(input, ROWS * dim, |i, chunk| {
                for (choice, to) in group[i * ROWS..].iter().zip(chunk.chunks_exact_mut(dim)) {
                    to.copy_from_slice(&x[choice.row * dim..][..dim]);
                }
            });
            // 2. through it
            mlp.gate(pool, activation, input, gate, up);
            linear(pool, gate, &mlp.down, out, Epilogue { bias: mlp.biases.down.as_deref(), ..Epilogue::default() });
            // 3. onto the rows they came from: a group's rows ascend
            pool.for_each_chunk(residual, ROWS * dim, |i, chunk| {
                let first = group.partition_point(|c| c.row < i * ROWS);
                let own = group.iter().enumerate().skip(first).take_while(|(_, c)| c.row < (i + 1) * ROWS);
                for (at, choice) in own {
                    let to = &mut chunk[(choice.row - i * ROWS) * dim..][..dim];
                    to.iter_mut().zip(&out[at * dim..]).for_each(|(to, v)| *to += choice.weight * v);
                }
            });
        }
    }

    /// Chooses for each row the experts of the largest probabilities (of equal ones the first), into `scratch.choices`.
    fn route(&self, pool: &Pool, x: &[f32], scratch: &mut Scratch) {
        let (count, used, n) = (self.router.rows(), self.used, x.len() / self.router.cols());
        let scores = &mut scratch.scores[..n * count];
        linear(pool, x, &self.router, scores, Epilogue::default());
        softmax(pool, scores, count);
        let (scores, choices) = (&*scores, &mut scratch.choices[..n * used]);
        pool.for_each_chunk(choices, used, |row, choices| {
            let scores = &scores[row * count..][..count];
            // In the order of falling probability, rising number, which is total whatever the scores are.
            let before = |a: usize, b: usize| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)).is_lt();
            for i in 0..used {
                let last = i.checked_sub(1).map(|last| choices[last].expert);
                let open = (0..count).filter(|&e| last.is_none_or(|last| before(last, e)));
                let expert = open.reduce(|best, e| if before(e, best) { e } else { best }).unwrap_or(0);
                choices[i] = Choice { expert, row, weight: scores[expert] };
            }
            if self.renormalise {
                let sum: f32 = choices.iter().map(|c| c.weight).sum();
                choices.iter_mut().for_each(|c| c.weight /= sum);
            }
        });
        choices.sort_unstable_by_key(|c| (c.expert, c.row));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 40;
    const HIDDEN: usize = 24;
    const COUNT: usize = 7;

    /// Repeatable values in -1..1.
    fn noise(n: usize, mut state: u32) -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn mixture(used: usize, renormalise: bool) -> (Mixture, Scratch) {
        let matrix = |rows, cols, seed| Matrix::from_f32(rows, cols, &noise(rows * cols, seed)).unwrap();
        let mlp = |e: u32| Mlp {
            gate: matrix(HIDDEN, DIM, e),
            up: matrix(HIDDEN, DIM, 100 + e),
            down: matrix(DIM, HIDDEN, 200 + e),
            biases: Biases::default(),
        };
        let mixture =
            Mixture { router: matrix(COUNT, DIM, 300), experts: (0..COUNT as u32).map(mlp).collect(), used, renormalise };
        let scratch = Scratch {
            scores: vec![f32::NAN; 50 * COUNT],
            choices: vec![Choice { expert: 9, row: 9, weight: f32::NAN }; 50 * used],
            x: vec![f32::NAN; 50 * DIM],
            gate: vec![f32::NAN; 50 * HIDDEN],
            up: vec![f32::NAN; 50 * HIDDEN],
            out: vec![f32::NAN; 50 * DIM],
        };
        (mixture, scratch)
    }

    /// One row, in f64 straight from the definition: softmax over all, the largest `used`, renormalised where asked.
    fn reference(used: usize, renormalise: bool, x: &[f32]) -> Vec<f64> {
        let product = |w: &[f32], x: &[f64]| -> Vec<f64> {
            w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()).collect()
        };
        let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        let scores = product(&noise(COUNT * DIM, 300), &x);
        let sum: f64 = scores.iter().map(|s| s.exp()).sum();
        let mut order: Vec<usize> = (0..COUNT).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let weight = |e: &usize| scores[*e].exp() / sum;
        let norm = if renormalise { order[..used].iter().map(weight).sum() } else { 1.0 };
        let mut out = vec![0.0; DIM];
        for e in &order[..used] {
            let [gate, up] = [*e, 100 + e].map(|seed| product(&noise(HIDDEN * DIM, seed as u32), &x));
            let h: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            let down = product(&noise(DIM * HIDDEN, 200 + *e as u32), &h);
            out.iter_mut().zip(&down).for_each(|(o, d)| *o += weight(e) / norm * d);
        }
        out
    }

    #[test]
    fn a_mixture_is_the_weighted_sum_of_the_chosen_experts() {
        for (used, renormalise) in [(1, true), (1, false), (3, true), (3, false), (COUNT, false)] {
            let (mixture, mut scratch) = mixture(used, renormalise);
            let (x, before) = (noise(50 * DIM, 400), noise(50 * DIM, 500));
            let mut residual = before.clone();
            mixture.run(&Pool::new(3), Activation::Silu, &x, &mut residual, &mut scratch);
            for row in 0..50 {
                let want = reference(used, renormalise, &x[row * DIM..][..DIM]);
                for i in 0..DIM {
                    let (got, want) = (residual[row * DIM + i], f64::from(before[row * DIM + i]) + want[i]);
                    assert!((f64::from(got) - want).abs() < 2e-4, "{used} {renormalise} row {row} [{i}]: {got}, not {want}");
                }
            }
        }
    }

    #[test]
    fn a_row_depends_neither_on_the_batch_nor_on_threads() {
        let (mixture, mut scratch) = mixture(3, true);
        let x = noise(50 * DIM, 600);
        let mut run = |threads, x: &[f32]| {
            let mut residual = noise(x.len(), 700)[..x.len()].to_vec();
            residual.chunks_exact_mut(DIM).for_each(|row| row.copy_from_slice(&noise(DIM, 800)));
            mixture.run(&Pool::new(threads), Activation::Silu, x, &mut residual, &mut scratch);
            residual
        };
        let all = run(1, &x);
        assert_eq!(all, run(4, &x));
        for (first, rows) in [(0, 1), (13, 1), (49, 1), (7, 20)] {
            assert_eq!(
                all[first * DIM..][..rows * DIM],
                run(2, &x[first * DIM..][..rows * DIM]),
                "rows {first} and on, {rows}"
            );
        }
    }

    #[test]
    fn scores_that_are_no_numbers_choose_experts_all_the_same() {
        let (mixture, mut scratch) = mixture(3, true);
        let mut residual = vec![0.0; 2 * DIM];
        let x = [vec![f32::NAN; DIM], vec![f32::INFINITY; DIM]].concat();
        mixture.run(&Pool::new(1), Activation::Silu, &x, &mut residual, &mut scratch);
        assert!(residual.iter().all(|v| v.is_nan()));
    }
}
