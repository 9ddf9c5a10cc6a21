//! exp, erf and the activations, 16 lanes at a time.

use super::vector::{LANES, Simd, Task, dispatch};
use crate::Activation;
use crate::simd::Level;

/// `e^v` within 2 ulp; 0 below -87.34, f32::MAX-like above 88.72.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(v: S::F) -> S::F {
    // SAFETY: the caller reached this through dispatch.
    unsafe {
        let low = S::splat(-87.336_54);
        let x = S::min(S::splat(88.722_83), S::max(low, v)); // the value stands second: a NaN stays one
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        // Cody and Waite: ln 2 in two parts, so that x - n ln 2 keeps its bits.
        let r = S::fma(n, S::splat(-0.693_359_375), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        // Taylor-like minimax polynomial of Cephes' expf on |r| <= ln 2 / 2.
        let mut p = S::splat(1.987_569_15e-4);
        for c in [1.398_199_95e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_55e-1, 5.000_000_1e-1] {
            p = S::fma(p, r, S::splat(c));
        }
        let y = S::add(S::fma(p, S::mul(r, r), r), S::splat(1.0));
        S::zero_lt(v, low, S::scale2(y, n))
    }
}

/// Logistic function.
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(v: S::F) -> S::F {
    // SAFETY: as in exp.
    unsafe {
        let one = S::splat(1.0);
        S::div(one, S::add(one, exp::<S>(S::sub(S::splat(0.0), v))))
    }
}

/// Error function within 3e-7 (Abramowitz and Stegun 7.1.26), odd by construction.
#[inline(always)]
pub(crate) unsafe fn erf<S: Simd>(v: S::F) -> S::F {
    // SAFETY: as in exp.
    unsafe {
        let (one, x) = (S::splat(1.0), S::abs(v));
        let t = S::div(one, S::fma(S::splat(0.327_591_1), x, one));
        let mut p = S::splat(1.061_405_429);
        for c in [-1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592] {
            p = S::fma(p, t, S::splat(c));
        }
        let e = exp::<S>(S::sub(S::splat(0.0), S::mul(x, x)));
        let y = S::sub(one, S::mul(S::mul(p, t), e));
        // Twice y taken away where v is not positive: y - 2y = -y.
        S::sub(y, S::zero_lt(S::splat(0.0), v, S::add(y, y)))
    }
}

/// `activation(v)`
#[inline(always)]
pub(crate) unsafe fn activate<S: Simd>(activation: Activation, v: S::F) -> S::F {
    // SAFETY: as in exp.
    unsafe {
        let (zero, half) = (S::splat(0.0), S::splat(0.5));
        match activation {
            Activation::None => v,
            Activation::Relu => S::max(zero, v),
            Activation::Relu6 => S::max(zero, S::min(S::splat(6.0), v)),
            Activation::Gelu => {
                let half_v = S::mul(half, v);
                S::fma(half_v, erf::<S>(S::mul(v, S::splat(std::f32::consts::FRAC_1_SQRT_2))), half_v)
            }
            Activation::GeluTanh => {
                let cube = S::mul(S::mul(v, v), v);
                let inner = S::mul(S::splat(0.797_884_56), S::fma(S::splat(0.044_715), cube, v)); // sqrt(2 / pi)
                // v * sigmoid(2 u) = v (1 + tanh u) / 2, without tanh's cancellation for large negative u.
                S::mul(v, sigmoid::<S>(S::add(inner, inner)))
            }
            Activation::Silu => S::mul(v, sigmoid::<S>(v)),
            Activation::Sigmoid => sigmoid::<S>(v),
            Activation::HardSwish => {
                let gate = S::max(zero, S::min(S::splat(6.0), S::add(v, S::splat(3.0))));
                S::mul(v, S::mul(gate, S::splat(1.0 / 6.0)))
            }
        }
    }
}

struct InPlace<'a>(Activation, &'a mut [f32]);

impl Task for InPlace<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self(activation, data) = self;
        let mut chunks = data.chunks_exact_mut(LANES);
        for c in &mut chunks {
            // SAFETY: a chunk is 16 elements.
            unsafe { S::store(c.as_mut_ptr(), activate::<S>(activation, S::load(c.as_ptr()))) }
        }
        let rest = chunks.into_remainder();
        // SAFETY: rest.len() elements are read and written.
        unsafe {
            S::store_part(
                rest.as_mut_ptr(),
                activate::<S>(activation, S::load_part(rest.as_ptr(), rest.len(), 0.0)),
                rest.len(),
            )
        }
    }
}

/// Applies `activation` to each element.
pub fn activate_in_place(level: Level, activation: Activation, data: &mut [f32]) {
    if activation != Activation::None {
        dispatch(level, InPlace(activation, data));
    }
}

struct Gate<'a>(Activation, &'a mut [f32], &'a [f32]);

impl Task for Gate<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self(activation, gate, up) = self;
        for (g, u) in gate.chunks_mut(LANES).zip(up.chunks(LANES)) {
            let n = g.len().min(u.len());
            // SAFETY: n elements are read and written.
            unsafe {
                let v = activate::<S>(activation, S::load_part(g.as_ptr(), n, 0.0));
                S::store_part(g.as_mut_ptr(), S::mul(v, S::load_part(u.as_ptr(), n, 0.0)), n);
            }
        }
    }
}

/// `gate = activation(gate) * up`, element by element (SwiGLU, GeGLU).
pub fn gated(level: Level, activation: Activation, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up have the same shape");
    dispatch(level, Gate(activation, gate, up));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::reference;
    use crate::simd;

    struct Exp<'a>(&'a mut [f32; LANES]);

    impl Task for Exp<'_> {
        type Output = ();

        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            // SAFETY: 16 elements.
            unsafe { S::store(self.0.as_mut_ptr(), exp::<S>(S::load(self.0.as_ptr()))) }
        }
    }

    #[test]
    fn exp_is_within_two_ulp() {
        for level in simd::levels() {
            for i in -8700..8870 {
                let x = i as f32 * 0.01 + 0.0013;
                let mut lanes = [x; LANES];
                dispatch(level, Exp(&mut lanes));
                let want = f64::from(x).exp();
                assert!(((f64::from(lanes[5]) - want) / want).abs() < 2.5e-7, "{level:?} exp({x}) = {}, not {want}", lanes[5]);
            }
            let mut lanes = [f32::NEG_INFINITY; LANES];
            dispatch(level, Exp(&mut lanes));
            assert_eq!(lanes, [0.0; LANES]);
            let mut lanes = [f32::NAN; LANES];
            dispatch(level, Exp(&mut lanes));
            assert!(lanes.iter().all(|v| v.is_nan()));
        }
    }

    #[test]
    fn activations_agree_with_f64() {
        use Activation::*;
        for level in simd::levels() {
            for act in [None, Relu, Relu6, Gelu, GeluTanh, Silu, Sigmoid, HardSwish] {
                let x: Vec<f32> = (-1203..1203).map(|i| i as f32 * 0.01).chain([-1e4, 1e4, 0.0]).collect();
                let mut y = x.clone();
                activate_in_place(level, act, &mut y);
                for (&x, &y) in x.iter().zip(&y) {
                    let want = reference::activation(act, f64::from(x));
                    assert!(
                        (f64::from(y) - want).abs() < 1e-6 * want.abs().max(1.0),
                        "{level:?} {act:?}({x}) = {y}, not {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_gate_multiplies() {
        for level in simd::levels() {
            let mut gate: Vec<f32> = (0..37).map(|i| i as f32 * 0.2 - 3.0).collect();
            let up: Vec<f32> = (0..37).map(|i| 1.0 - i as f32 * 0.1).collect();
            let want: Vec<f64> = gate
                .iter()
                .zip(&up)
                .map(|(&g, &u)| reference::activation(Activation::Silu, f64::from(g)) * f64::from(u))
                .collect();
            gated(level, Activation::Silu, &mut gate, &up);
            assert!(gate.iter().zip(&want).all(|(&g, w)| (f64::from(g) - w).abs() < 1e-6 * w.abs().max(1.0)));
        }
    }
}
