//! Plain reference kernels with f64 sums: slow, obvious, and what the fast kernels are tested against.

use super::attention::Dense;
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

/// Attention as [`crate::cpu::attention::attention_dense`] defines it, each query seeing the last `window` keys up to its own, and where
/// it is not causal those behind it.
pub fn attention(a: &Dense, window: usize) -> Vec<f32> {
    let (hd, group) = (a.head_dim, a.heads / a.kv_heads);
    let mut out = Vec::new();
    for (token, head) in (0..a.q_len).flat_map(|t| (0..a.heads).map(move |h| (t, h))) {
        let q = &a.q[token * a.q_stride + head * hd..][..hd];
        let own = a.kv_len.saturating_sub(a.q_len) + token + 1;
        let end = if a.causal { own } else { a.kv_len };
        let row = |of: &'_ [f32], j: usize, i: usize| f64::from(of[j * a.kv_stride + head / group * hd + i]);
        let keys = own.saturating_sub(window)..end;
        let score = |j: usize| (0..hd).map(|i| f64::from(q[i]) * row(a.k, j, i)).sum::<f64>() * f64::from(a.scale);
        let scores: Vec<f64> = keys.clone().map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        out.extend((0..hd).map(|i| (keys.clone().zip(&weights).map(|(j, w)| w * row(a.v, j, i)).sum::<f64>() / total) as f32));
    }
    out
}

/// `x / sqrt(mean(x^2) + eps) * weight` of one row.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(&v, &w)| f64::from(v) / (mean + eps).sqrt() * f64::from(w)).collect()
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` of one row.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f64) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    let unit = |v: f32| (f64::from(v) - mean) / (variance + eps).sqrt();
    x.iter().zip(weight).zip(bias).map(|((&v, &w), &b)| unit(v) * f64::from(w) + f64::from(b)).collect()
}

/// Softmax of one row.
pub fn softmax(x: &[f32]) -> Vec<f64> {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let e: Vec<f64> = x.iter().map(|&v| f64::from(v - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| e / sum).collect()
}
