//! Plain reference kernels with f64 sums: slow, obvious, and what the fast kernels are tested against.

/// `out[m][n] = sum_k x[m][k] * w[n][k]`, sums in f64. `x`: (m, k), `w`: (n, k), row-major.
pub fn matmul(x: &[f32], w: &[f32], k: usize, out: &mut [f32]) {
    let n = w.len() / k;
    for (row, out) in x.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        for (w, o) in w.chunks_exact(k).zip(out) {
            *o = row.iter().zip(w).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32;
        }
    }
}
