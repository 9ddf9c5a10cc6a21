//! Every operation of [`Simd`] at every level that this processor has, beside plain Rust.

use super::vector::{LANES, Simd, Task, dispatch};
use crate::simd;

type Lanes<T> = [T; LANES];

/// A function of two vectors at the level that runs it.
struct Pair<F>(F, Lanes<f32>, Lanes<f32>);

/// What [`Pair`] computes; a closure cannot be generic over the level.
trait Op {
    unsafe fn of<S: Simd>(&self, a: S::F, b: S::F) -> S::F;
}

impl<F: Op> Task for Pair<F> {
    type Output = Lanes<f32>;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Lanes<f32> {
        let mut out = [0.0; LANES];
        // SAFETY: all arrays hold 16.
        unsafe { S::store(out.as_mut_ptr(), self.0.of::<S>(S::load(self.1.as_ptr()), S::load(self.2.as_ptr()))) };
        out
    }
}

macro_rules! op {
    ($name:ident: $s:ident, $a:ident, $b:ident => $e:expr) => {
        struct $name;
        impl Op for $name {
            #[inline(always)]
            unsafe fn of<$s: Simd>(&self, $a: $s::F, $b: $s::F) -> $s::F {
                // SAFETY: arithmetic on registers alone.
                unsafe { $e }
            }
        }
    };
}
op!(Max: S, a, b => S::max(a, b));
op!(Min: S, a, b => S::min(a, b));
op!(ZeroLt: S, a, b => S::zero_lt(a, b, b));
op!(Scale2: S, a, b => S::scale2(a, b));
op!(Round: S, a, _b => S::round(a));
op!(Abs: S, a, _b => S::abs(a));
op!(Quotient: S, a, b => S::div(S::sub(a, b), S::mul(b, b)));

fn same(got: &[f32], want: &[f32], what: &str) {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan()), "{what}, lane {i}: {g} instead of {w}");
    }
}

#[test]
fn every_level_computes_lane_by_lane() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let a = [nan, 1.0, nan, inf, -inf, 0.5, 1.5, 2.5, -0.5, -1.5, 3.25, -7.0, 100.75, -3.0, 8.0, 1e-3];
    let b = [1.0, nan, nan, 1.0, 2.0, 0.5, -126.0, 128.0, -1.0, 0.0, 7.0, 3.0, -5.0, 127.0, 1.0, 64.0];
    let n = b.map(|n| if n.is_nan() { 0.0 } else { n.round_ties_even() });
    let each = |f: fn(f32, f32) -> f32, b: &Lanes<f32>| std::array::from_fn::<f32, LANES, _>(|i| f(a[i], b[i]));
    for level in simd::levels() {
        let name = |op: &str| format!("{op} at {level:?}");
        same(&dispatch(level, Pair(Max, a, b)), &each(|a, b| if a > b { a } else { b }, &b), &name("max"));
        same(&dispatch(level, Pair(Min, a, b)), &each(|a, b| if a < b { a } else { b }, &b), &name("min"));
        same(&dispatch(level, Pair(ZeroLt, a, b)), &each(|a, b| if a < b { 0.0 } else { b }, &b), &name("zero_lt"));
        same(
            &dispatch(level, Pair(Scale2, a, n)),
            &each(|a, n| (f64::from(a) * f64::from(n).exp2()) as f32, &n),
            &name("scale2"),
        );
        same(&dispatch(level, Pair(Abs, a, b)), &each(|a, _| a.abs(), &b), &name("abs"));
        same(&dispatch(level, Pair(Quotient, a, b)), &each(|a, b| (a - b) / (b * b), &b), &name("quotient"));
        let round = dispatch(level, Pair(Round, a, b)).map(|v| v + 0.0); // the sign of zero is left open
        same(&round, &each(|a, _| a.round_ties_even() + 0.0, &b), &name("round"));
    }
}

/// Everything that reads or writes other types than f32, and the sums: 64 bytes and four activations.
struct Bytes<'a>(&'a [u8; 64], [i8; 4]);

#[derive(Debug, PartialEq)]
struct Seen {
    dots: [Lanes<i32>; 2],
    right: [u8; 64],
    left: [u8; 64],
    unsigned: Lanes<f32>,
    signed: Lanes<f32>,
    stored: Lanes<i8>,
    sum: f32,
    largest: f32,
}

impl Task for Bytes<'_> {
    type Output = Seen;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Seen {
        let (zeros, bytes) = ([0.0; LANES], [0; 64]);
        let (dots, stored, sum, largest) = ([[0; LANES]; 2], [0; LANES], 0.0, 0.0);
        let mut seen = Seen { dots, right: bytes, left: bytes, unsigned: zeros, signed: zeros, stored, sum, largest };
        let (p, x) = (self.0.as_ptr(), self.1.as_ptr());
        let bias = S::FULL_BIAS * self.1.iter().map(|&x| i32::from(x)).sum::<i32>();
        // SAFETY: the arrays hold 64 bytes or 16 numbers, x four.
        unsafe {
            let v = S::loadi(p);
            S::storei(seen.dots[0].as_mut_ptr().cast(), S::dot(S::splati(5), S::bits_right::<0>(v, 63), x));
            S::storei(seen.dots[1].as_mut_ptr().cast(), S::dot_full(S::splati(bias), v, x));
            S::storei(seen.right.as_mut_ptr(), S::or(S::bits_right::<2>(v, 3), S::bits_right::<5>(v, 4)));
            S::storei(seen.left.as_mut_ptr(), S::or(S::bits_left::<4>(v, 48), S::bits_left::<1>(v, 4)));
            S::store(seen.unsigned.as_mut_ptr(), S::load_u8(p));
            let signed = S::load_i8(p.cast());
            S::store(seen.signed.as_mut_ptr(), signed);
            S::store_i8(seen.stored.as_mut_ptr(), S::mul(signed, S::splat(0.5)));
            let parts = S::mul(signed, S::splat(1.0 / 3.0));
            (seen.sum, seen.largest) = (S::sum(parts), S::max_lane(parts));
        }
        seen
    }
}

#[test]
fn every_level_reads_and_counts_bytes_alike() {
    let mut codes = [0u8; 64];
    codes.iter_mut().enumerate().for_each(|(i, c)| *c = (i * 73 + 190) as u8);
    for x in [[127, 127, 127, 127], [-127, 3, -90, 127], [-127; 4]] {
        let dot = |i: usize, mask: u8| (0..4).map(|b| i32::from(codes[4 * i + b] & mask) * i32::from(x[b])).sum::<i32>();
        let mut sums: Lanes<f32> = std::array::from_fn(|i| f32::from(codes[i] as i8) * (1.0 / 3.0));
        let largest = sums.into_iter().fold(f32::NEG_INFINITY, f32::max);
        for half in [8, 4, 2, 1] {
            (0..half).for_each(|i| sums[i] += sums[i + half]);
        }
        let want = Seen {
            dots: [std::array::from_fn(|i| 5 + dot(i, 63)), std::array::from_fn(|i| dot(i, 255))],
            right: codes.map(|c| c >> 2 & 3 | c >> 5 & 4),
            left: codes.map(|c| c << 4 & 48 | c << 1 & 4),
            unsigned: std::array::from_fn(|i| f32::from(codes[i])),
            signed: std::array::from_fn(|i| f32::from(codes[i] as i8)),
            stored: std::array::from_fn(|i| (f32::from(codes[i] as i8) * 0.5).round_ties_even() as i8),
            sum: sums[0],
            largest,
        };
        for level in simd::levels() {
            assert_eq!(dispatch(level, Bytes(&codes, x)), want, "{level:?}");
        }
    }
}

/// 16 numbers of 16 bits, as f16 and as bf16.
struct Halves<'a>(&'a Lanes<u16>);

impl Task for Halves<'_> {
    type Output = [Lanes<f32>; 2];

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> [Lanes<f32>; 2] {
        let mut out = [[0.0; LANES]; 2];
        // SAFETY: all arrays hold 16.
        unsafe {
            S::store(out[0].as_mut_ptr(), S::load_f16(self.0.as_ptr().cast()));
            S::store(out[1].as_mut_ptr(), S::load_bf16(self.0.as_ptr().cast()));
        }
        out
    }
}

#[test]
fn every_level_reads_all_halves() {
    for first in (0..=u16::MAX).step_by(LANES) {
        let bits: Lanes<u16> = std::array::from_fn(|i| first + i as u16);
        for level in simd::levels() {
            let [f16, bf16] = dispatch(level, Halves(&bits));
            same(&f16, &bits.map(|b| half::f16::from_bits(b).to_f32()), &format!("f16 at {level:?}"));
            same(&bf16, &bits.map(|b| half::bf16::from_bits(b).to_f32()), &format!("bf16 at {level:?}"));
        }
    }
}
