//! Operations on rows: norms, softmax, rotary embedding, sums. Each row is one thread's, so results do not depend on the split.

use super::math;
use super::vector::{LANES, Simd, Task, dispatch};
use crate::Pool;
use crate::pool::Shareable;
use crate::simd::{self, Level};

/// Elements that a task takes at least.
const GRAIN: usize = 1 << 14;

/// What is done to a row.
#[derive(Clone, Copy)]
enum Op<'a> {
    /// `x / sqrt(mean(x^2) + eps) * weight`
    Rms {
        weight: &'a [f32],
        eps: f32,
    },
    /// `(x - mean) / sqrt(var + eps) * weight + bias`
    Layer {
        weight: &'a [f32],
        bias: &'a [f32],
        eps: f32,
    },
    Softmax,
    LogSoftmax,
}

struct Rows<'a> {
    op: Op<'a>,
    x: *const f32,
    out: *mut f32, // may be x
    rows: usize,
    cols: usize,
}

impl Task for Rows<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for r in 0..self.rows {
            let at = r * self.cols;
            // SAFETY: rows of x and out exist, and are this task's own.
            unsafe {
                let (x, out) = (self.x.add(at), self.out.add(at));
                match self.op {
                    Op::Rms { weight, eps } => rms::<S>(x, weight, eps, out),
                    Op::Layer { weight, bias, eps } => layer::<S>(x, weight, bias, eps, out),
                    Op::Softmax => softmax_row::<S>(x, self.cols, out),
                    Op::LogSoftmax => log_softmax_row::<S>(x, self.cols, out),
                }
            }
        }
    }
}

/// Calls `$body` for each 16 (or last few) of `$n` elements: `$at` the offset, `$count` how many.
macro_rules! vectors {
    ($n:expr, |$at:ident, $count:ident| $body:expr) => {{
        let n = $n;
        let mut $at = 0;
        while $at + LANES <= n {
            let $count = LANES;
            $body;
            $at += LANES;
        }
        if $at < n {
            let $count = n - $at;
            $body;
        }
    }};
}

/// Whole vectors by a plain load, the last few by a masked one.
#[inline(always)]
unsafe fn load<S: Simd>(p: *const f32, count: usize, fill: f32) -> S::F {
    // SAFETY: the caller vouches for `count` elements.
    unsafe { if count == LANES { S::load(p) } else { S::load_part(p, count, fill) } }
}

#[inline(always)]
unsafe fn store<S: Simd>(p: *mut f32, v: S::F, count: usize) {
    // SAFETY: as above.
    unsafe { if count == LANES { S::store(p, v) } else { S::store_part(p, v, count) } }
}

#[inline(always)]
unsafe fn rms<S: Simd>(x: *const f32, weight: &[f32], eps: f32, out: *mut f32) {
    let n = weight.len();
    // SAFETY: the row holds n elements.
    unsafe {
        let mut sum = S::splat(0.0);
        vectors!(n, |i, count| {
            let v = load::<S>(x.add(i), count, 0.0);
            sum = S::fma(v, v, sum)
        });
        let scale = S::splat(1.0 / (S::sum(sum) / n as f32 + eps).sqrt());
        vectors!(n, |i, count| {
            let v = S::mul(S::mul(load::<S>(x.add(i), count, 0.0), scale), load::<S>(weight.as_ptr().add(i), count, 0.0));
            store::<S>(out.add(i), v, count)
        });
    }
}

#[inline(always)]
unsafe fn layer<S: Simd>(x: *const f32, weight: &[f32], bias: &[f32], eps: f32, out: *mut f32) {
    let n = weight.len();
    // SAFETY: the row, weight and bias hold n elements.
    unsafe {
        let mut sum = S::splat(0.0);
        vectors!(n, |i, count| sum = S::add(sum, load::<S>(x.add(i), count, 0.0)));
        let mean = S::sum(sum) / n as f32;
        // The variance about the mean in a second pass: the difference of squares would cancel.
        let mut squares = S::splat(0.0);
        vectors!(n, |i, count| {
            let v = S::sub(load::<S>(x.add(i), count, mean), S::splat(mean));
            squares = S::fma(v, v, squares)
        });
        let scale = S::splat(1.0 / (S::sum(squares) / n as f32 + eps).sqrt());
        vectors!(n, |i, count| {
            let v = S::mul(S::sub(load::<S>(x.add(i), count, 0.0), S::splat(mean)), scale);
            let (w, b) = (load::<S>(weight.as_ptr().add(i), count, 0.0), load::<S>(bias.as_ptr().add(i), count, 0.0));
            store::<S>(out.add(i), S::fma(v, w, b), count)
        });
    }
}

/// Largest element (-inf for none).
#[inline(always)]
unsafe fn largest<S: Simd>(x: *const f32, n: usize) -> f32 {
    // SAFETY: the row holds n elements.
    unsafe {
        let mut max = S::splat(f32::NEG_INFINITY);
        vectors!(n, |i, count| max = S::max(load::<S>(x.add(i), count, f32::NEG_INFINITY), max));
        S::max_lane(max)
    }
}

#[inline(always)]
unsafe fn softmax_row<S: Simd>(x: *const f32, n: usize, out: *mut f32) {
    // SAFETY: the row holds n elements.
    unsafe {
        let max = S::splat(largest::<S>(x, n));
        let mut sum = S::splat(0.0);
        vectors!(n, |i, count| {
            let e = math::exp::<S>(S::sub(load::<S>(x.add(i), count, f32::NEG_INFINITY), max));
            sum = S::add(sum, e);
            store::<S>(out.add(i), e, count)
        });
        let scale = S::splat(1.0 / S::sum(sum));
        vectors!(n, |i, count| store::<S>(out.add(i), S::mul(load::<S>(out.add(i), count, 0.0), scale), count));
    }
}

#[inline(always)]
unsafe fn log_softmax_row<S: Simd>(x: *const f32, n: usize, out: *mut f32) {
    // SAFETY: the row holds n elements.
    unsafe {
        let max = largest::<S>(x, n);
        let mut sum = S::splat(0.0);
        vectors!(n, |i, count| {
            let v = S::sub(load::<S>(x.add(i), count, f32::NEG_INFINITY), S::splat(max));
            sum = S::add(sum, math::exp::<S>(v))
        });
        let log = S::splat(max + S::sum(sum).ln());
        vectors!(n, |i, count| store::<S>(out.add(i), S::sub(load::<S>(x.add(i), count, 0.0), log), count));
    }
}

/// Runs `op` on all rows of x into out.
fn rows(level: Level, pool: &Pool, op: Op, x: *const f32, out: *mut f32, (len, cols): (usize, usize)) {
    if len == 0 || cols == 0 {
        return;
    }
    let (total, each) = (len / cols, (GRAIN / cols).max(1));
    let (x, out) = (Shareable::new(x.cast_mut()), Shareable::new(out));
    pool.for_each(total.div_ceil(each), |i| {
        let (at, rows) = (i * each * cols, each.min(total - i * each));
        let (x, out) = (x.get().wrapping_add(at), out.get().wrapping_add(at));
        dispatch(level, Rows { op, x, out, rows, cols });
    });
}

fn check(len: usize, out: usize, cols: usize) -> (usize, usize) {
    assert!(cols > 0 && len.is_multiple_of(cols) && out == len, "{len} elements in rows of {cols} into {out}");
    (len, cols)
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` for each row of `weight.len()` elements.
///
/// # Panics
/// When x is not whole rows, or out has another length (so all functions here).
pub fn rms_norm(pool: &Pool, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let shape = check(x.len(), out.len(), weight.len());
    rows(simd::level(), pool, Op::Rms { weight, eps }, x.as_ptr(), out.as_mut_ptr(), shape);
}

/// [`rms_norm`] in place (norms of queries and keys a head: rows of head_dim).
pub fn rms_norm_in_place(pool: &Pool, x: &mut [f32], weight: &[f32], eps: f32) {
    let shape = check(x.len(), x.len(), weight.len());
    rows(simd::level(), pool, Op::Rms { weight, eps }, x.as_ptr(), x.as_mut_ptr(), shape);
}

/// `out = (x - mean) / sqrt(variance + eps) * weight + bias` for each row of `weight.len()` elements.
pub fn layer_norm(pool: &Pool, x: &[f32], (weight, bias): (&[f32], &[f32]), eps: f32, out: &mut [f32]) {
    let shape = check(x.len(), out.len(), weight.len());
    assert_eq!(weight.len(), bias.len(), "weight and bias of a layer norm");
    rows(simd::level(), pool, Op::Layer { weight, bias, eps }, x.as_ptr(), out.as_mut_ptr(), shape);
}

/// Softmax of each row of `cols` elements, in place.
pub fn softmax(pool: &Pool, x: &mut [f32], cols: usize) {
    let shape = check(x.len(), x.len(), cols);
    rows(simd::level(), pool, Op::Softmax, x.as_ptr(), x.as_mut_ptr(), shape);
}

/// Logarithm of the softmax of each row of `cols` elements, in place.
pub fn log_softmax(pool: &Pool, x: &mut [f32], cols: usize) {
    let shape = check(x.len(), x.len(), cols);
    rows(simd::level(), pool, Op::LogSoftmax, x.as_ptr(), x.as_mut_ptr(), shape);
}

/// `x += y`, element by element (residual).
pub fn add_in_place(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "both sides of a sum");
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Which elements of a head rotary embedding turns together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeKind {
    /// Pairs (2i, 2i + 1): ggml's "norm" (llama's GGUF files).
    Interleaved,
    /// Pairs (i, i + rotary / 2): ggml's "neox" (Qwen, Gemma, Phi).
    HalfSplit,
}

/// Rotary embedding with given tables.
#[derive(Clone, Copy, Debug)]
pub struct Rope<'a> {
    /// Which pairs turn together.
    pub kind: RopeKind,
    /// (positions, rotary / 2): cosines of the angles.
    pub cos: &'a [f32],
    /// As `cos`: sines.
    pub sin: &'a [f32],
    /// Elements of a head that turn, an even number; those beyond stay.
    pub rotary: usize,
}

/// Turns each head of `x` (tokens, heads, head_dim) in place; token t stands at `positions[t]`.
///
/// # Panics
/// When shapes do not fit, or a position lies beyond the tables.
pub fn rope(pool: &Pool, rope: &Rope, x: &mut [f32], head_dim: usize, positions: &[usize]) {
    let half = rope.rotary / 2;
    assert!(head_dim > 0 && rope.rotary <= head_dim && half * 2 == rope.rotary, "{} of {head_dim} turn", rope.rotary);
    assert!(rope.cos.len() == rope.sin.len(), "{} cosines, {} sines", rope.cos.len(), rope.sin.len());
    if positions.is_empty() || half == 0 {
        return;
    }
    let row = x.len() / positions.len();
    assert!(
        row * positions.len() == x.len() && row.is_multiple_of(head_dim),
        "{} elements at {} positions",
        x.len(),
        positions.len()
    );
    let each = (GRAIN / row.max(1)).max(1);
    pool.for_each_chunk(x, each * row, |i, chunk| {
        for (token, &position) in chunk.chunks_exact_mut(row).zip(&positions[i * each..]) {
            let (cos, sin) = (&rope.cos[position * half..][..half], &rope.sin[position * half..][..half]);
            for head in token.chunks_exact_mut(head_dim) {
                turn(rope.kind, &mut head[..rope.rotary], cos, sin);
            }
        }
    });
}

fn turn(kind: RopeKind, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let angles = cos.iter().zip(sin);
    match kind {
        RopeKind::Interleaved => {
            for (pair, (c, s)) in head.chunks_exact_mut(2).zip(angles) {
                (pair[0], pair[1]) = (pair[0] * c - pair[1] * s, pair[0] * s + pair[1] * c);
            }
        }
        RopeKind::HalfSplit => {
            let (a, b) = head.split_at_mut(cos.len());
            for ((a, b), (c, s)) in a.iter_mut().zip(b).zip(angles) {
                (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::reference;
    use crate::linear::tests::noise;

    const COLS: [usize; 8] = [1, 5, 16, 33, 64, 576, 1000, 5001];

    fn at_every_level(op: Op, x: &[f32], cols: usize, want: &[f64], what: &str) {
        for level in simd::levels() {
            for threads in [1, 3] {
                let mut got = vec![f32::NAN; x.len()];
                rows(level, &Pool::new(threads), op, x.as_ptr(), got.as_mut_ptr(), (x.len(), cols));
                for (i, (g, w)) in got.iter().zip(want).enumerate() {
                    assert!((f64::from(*g) - w).abs() < 4e-6 * w.abs().max(1.0), "{what} {level:?} {cols} [{i}]: {g}, not {w}");
                }
            }
        }
    }

    #[test]
    fn norms_and_softmax_agree_with_f64() {
        for cols in COLS {
            let x: Vec<f32> = noise(1, 9 * cols).iter().map(|v| 5.0 * v + 2.0).collect();
            let (w, b) = (noise(2, cols), noise(3, cols));
            let of = |f: &dyn Fn(&[f32]) -> Vec<f64>| x.chunks(cols).flat_map(f).collect::<Vec<_>>();
            at_every_level(Op::Rms { weight: &w, eps: 1e-5 }, &x, cols, &of(&|r| reference::rms_norm(r, &w, 1e-5)), "rms");
            let layer = of(&|r| reference::layer_norm(r, &w, &b, 1e-5));
            if cols > 1 {
                at_every_level(Op::Layer { weight: &w, bias: &b, eps: 1e-5 }, &x, cols, &layer, "layer");
            }
            at_every_level(Op::Softmax, &x, cols, &of(&reference::softmax), "softmax");
            at_every_level(Op::LogSoftmax, &x, cols, &of(&|r| reference::softmax(r).iter().map(|p| p.ln()).collect()), "log");
        }
    }

    #[test]
    fn softmax_takes_masked_and_large_scores() {
        let mut x = [f32::NEG_INFINITY, 1e4, 1e4, f32::NEG_INFINITY];
        softmax(&Pool::new(1), &mut x, 4);
        assert_eq!(x, [0.0, 0.5, 0.5, 0.0]);
    }

    #[test]
    fn rope_turns_pairs_by_their_angle() {
        let (heads, head_dim, rotary, positions) = (3, 10, 8, [4usize, 0, 7]);
        let angle = |p: usize, i: usize| p as f64 * 10_000f64.powf(-(i as f64) / 4.0);
        let table = |f: fn(f64) -> f64| (0..8).flat_map(|p| (0..4).map(move |i| f(angle(p, i)) as f32)).collect::<Vec<_>>();
        let (cos, sin) = (table(f64::cos), table(f64::sin));
        for kind in [RopeKind::Interleaved, RopeKind::HalfSplit] {
            let x = noise(4, 3 * heads * head_dim);
            let mut got = x.clone();
            rope(&Pool::new(2), &Rope { kind, cos: &cos, sin: &sin, rotary }, &mut got, head_dim, &positions);
            for (t, &p) in positions.iter().enumerate() {
                for h in 0..heads {
                    let (x, got) =
                        (&x[(t * heads + h) * head_dim..][..head_dim], &got[(t * heads + h) * head_dim..][..head_dim]);
                    assert_eq!(x[8..], got[8..]);
                    for i in 0..4 {
                        let (a, b) = if kind == RopeKind::Interleaved { (2 * i, 2 * i + 1) } else { (i, i + 4) };
                        // As a complex number: times e^(i angle).
                        let (s, c) = angle(p, i).sin_cos();
                        let (re, im) = (f64::from(x[a]), f64::from(x[b]));
                        assert!((f64::from(got[a]) - (re * c - im * s)).abs() < 1e-6);
                        assert!((f64::from(got[b]) - (re * s + im * c)).abs() < 1e-6);
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "rows of")]
    fn a_part_of_a_row_is_refused() {
        softmax(&Pool::new(1), &mut [0.0; 5], 2);
    }
}
