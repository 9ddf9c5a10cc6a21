//! Functions of single values and reductions over tensors: plain loops that the compiler vectorises.

use super::conv::Act;

/// A function of one value.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    Sigmoid,
    Tanh,
    HardSwish,
    Exp,
    Log,
    Sqrt,
    Rsqrt,
    Square,
    Abs,
    Neg,
    Floor,
    /// `1 / x`
    Reciprocal,
    /// Exponential linear unit.
    Elu,
    /// `x > 0 ? x : slope * x`
    LeakyRelu(f32),
    /// Towards zero, to a whole number (a cast to an integer type).
    Truncate,
}

impl Unary {
    /// The function of one value.
    #[inline(always)]
    pub fn of(self, x: f32) -> f32 {
        match self {
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::Tanh => x.tanh(),
            Self::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Self::Exp => x.exp(),
            Self::Log => x.ln(),
            Self::Sqrt => x.sqrt(),
            Self::Rsqrt => 1.0 / x.sqrt(),
            Self::Square => x * x,
            Self::Abs => x.abs(),
            Self::Neg => -x,
            Self::Floor => x.floor(),
            Self::Reciprocal => 1.0 / x,
            Self::Elu => {
                if x > 0.0 {
                    x
                } else {
                    x.exp_m1()
                }
            }
            Self::LeakyRelu(slope) => {
                if x > 0.0 {
                    x
                } else {
                    slope * x
                }
            }
            Self::Truncate => x.trunc(),
        }
    }
}

/// A function of two values.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    SquaredDifference,
    /// Quotient rounded down.
    FloorDiv,
}

impl Binary {
    /// The function of two values.
    #[inline(always)]
    pub fn of(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Div => a / b,
            Self::Min => a.min(b),
            Self::Max => a.max(b),
            Self::SquaredDifference => (a - b) * (a - b),
            Self::FloorDiv => (a / b).floor(),
        }
    }
}

/// `out[i] = f(x[i])`.
pub fn unary(f: Unary, x: &[f32], out: &mut [f32]) {
    for (o, &x) in out.iter_mut().zip(x) {
        *o = f.of(x);
    }
}

/// How the second operand of [`binary`] lies over the first, row-major: `b[i / inner % period]`. One value: (1, 1); a value a
/// channel: (1, channels); a value a pixel: (channels, pixels); the same shape: (1, length).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// Neighbours that share a value.
    pub inner: usize,
    /// Values until they repeat.
    pub period: usize,
}

/// `out[i] = f(a[i], b[..])`, or `f(b[..], a[i])` where `swapped`.
pub fn binary(f: Binary, a: &[f32], b: &[f32], lay: Broadcast, swapped: bool, out: &mut [f32]) {
    let of = |x: f32, y: f32| if swapped { f.of(y, x) } else { f.of(x, y) };
    let run = lay.inner * lay.period;
    for (out, a) in out.chunks_mut(run).zip(a.chunks(run)) {
        if lay.inner == 1 {
            for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *o = of(a, b);
            }
            continue;
        }
        for ((out, a), &b) in out.chunks_mut(lay.inner).zip(a.chunks(lay.inner)).zip(b) {
            for (o, &a) in out.iter_mut().zip(a) {
                *o = of(a, b);
            }
        }
    }
}

/// Applies `act` in place; `channels` is the innermost dimension.
pub fn activate(act: &Act, x: &mut [f32], channels: usize) {
    match act {
        Act::None => {}
        Act::Clamp(lo, hi) => x.iter_mut().for_each(|x| *x = x.max(*lo).min(*hi)),
        Act::Prelu(slopes) => {
            for row in x.chunks_mut(channels) {
                for (x, slope) in row.iter_mut().zip(slopes) {
                    *x = x.max(0.0) + x.min(0.0) * slope;
                }
            }
        }
    }
}

/// `softmax(beta * x)` over rows of `channels`.
pub fn softmax(x: &[f32], channels: usize, beta: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
        let top = x.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
        let mut sum = 0.0;
        for (o, &v) in out.iter_mut().zip(x) {
            *o = (beta * (v - top)).exp();
            sum += *o;
        }
        out.iter_mut().for_each(|o| *o /= sum);
    }
}

/// How the elements of a group become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// The position of the largest, the first of equals.
    ArgMax,
}

/// Reduces the middle of (outer, len, inner) to (outer, inner). `outer` follows from the length of `x`.
pub fn fold(f: Fold, x: &[f32], len: usize, inner: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(len * inner).zip(out.chunks_exact_mut(inner)) {
        for (i, o) in out.iter_mut().enumerate() {
            let group = x[i..].iter().step_by(inner);
            *o = match f {
                Fold::Sum => group.sum(),
                Fold::Mean => group.sum::<f32>() / len as f32,
                Fold::Max => group.fold(f32::NEG_INFINITY, |m, &v| m.max(v)),
                Fold::Min => group.fold(f32::INFINITY, |m, &v| m.min(v)),
                Fold::ArgMax => {
                    let best =
                        group.enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &v)| if v > best.1 { (i, v) } else { best });
                    best.0 as f32
                }
            };
        }
    }
}
