//! Root mean square norm (Zhang and Sennrich 2019).

/// `x / sqrt(mean(x^2) + eps) * weight`, row by row. `x`, `out`: (n, width), `weight`: (width).
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        let scale = inverse_rms(x, eps);
        for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
            *o = x * scale * w;
        }
    }
}

/// [`rms_norm`] in place.
pub fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    for x in x.chunks_exact_mut(weight.len()) {
        let scale = inverse_rms(x, eps);
        for (x, w) in x.iter_mut().zip(weight) {
            *x *= scale * w;
        }
    }
}

fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (whole, rest) = x.as_chunks::<16>();
    for chunk in whole {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += v * v;
        }
    }
    let sum = lanes.iter().sum::<f32>() + rest.iter().map(|v| v * v).sum::<f32>();
    (sum / x.len() as f32 + eps).sqrt().recip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_get_the_weights_as_their_root_mean_square() {
        let x: Vec<f32> = (0..2 * 19).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let weight: Vec<f32> = (0..19).map(|i| 1.0 + i as f32).collect();
        let mut out = vec![0.0; x.len()];
        rms_norm(&x, &weight, 1e-6, &mut out);
        for (x, out) in x.chunks(19).zip(out.chunks(19)) {
            let rms = (x.iter().map(|v| f64::from(v * v)).sum::<f64>() / 19.0 + 1e-6).sqrt();
            for i in 0..19 {
                let wanted = f64::from(x[i]) / rms * f64::from(weight[i]);
                assert!((f64::from(out[i]) - wanted).abs() < 1e-5, "{i}");
            }
        }
        let mut in_place = x.clone();
        rms_norm_in_place(&mut in_place, &weight, 1e-6);
        assert!(out.iter().zip(&in_place).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}
