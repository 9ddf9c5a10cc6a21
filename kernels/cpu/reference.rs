//! Plain reference kernels with f64 sums: slow, obvious, and what the fast kernels are tested against.

use crate::Activation;

/// `out[m][n] = sum_k x[m][k] * w[n][k]`, sums in f64. `x`: (m, k), `w`: (n, k), row-major.
pub fn matmul(x: &[f32], w: &[f32], k: usize, out: &mut [f32]) {
    let n = w.len() / k;
    for (row, out) in x.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        for (w, o) in w.chunks_exact(k).zip(out) {
            *o = row.iter().zip(w).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32;
        }
    }
}

/// `activation(v)`
pub fn activation(activation: Activation, v: f64) -> f64 {
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    match activation {
        Activation::None => v,
        Activation::Relu => v.max(0.0),
        Activation::Relu6 => v.clamp(0.0, 6.0),
        Activation::Gelu => 0.5 * v * (1.0 + erf(v * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => 0.5 * v * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v * v * v)).tanh()),
        Activation::Silu => v * sigmoid(v),
        Activation::Sigmoid => sigmoid(v),
        Activation::HardSwish => v * (v + 3.0).clamp(0.0, 6.0) / 6.0,
    }
}

/// Error function: its Taylor series in the middle, 1 beyond (the rest is below 1e-16).
pub fn erf(v: f64) -> f64 {
    if v.abs() > 6.0 {
        return v.signum();
    }
    // erf(x) = 2/sqrt(pi) e^(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!!: all terms have one sign, so nothing cancels.
    let (mut term, mut sum) = (v, v);
    for n in 1..200 {
        term *= 2.0 * v * v / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-v * v).exp() * sum
}
