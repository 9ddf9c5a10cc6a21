//! Sums, softmax and exponentials over rows, in eight lanes so that the compiler vectorizes them.

pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 8];
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(l, (a, b))| *l += a * b);
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// `softmax(scale x row)` in place.
pub(super) fn softmax(row: &mut [f32], scale: f32) {
    let max = max(row);
    let mut lanes = [0f32; 8];
    let (chunks, rest) = row.as_chunks_mut::<8>();
    for chunk in chunks {
        chunk.iter_mut().zip(&mut lanes).for_each(|(x, l)| {
            *x = exp((*x - max) * scale);
            *l += *x;
        });
    }
    let mut sum: f32 = lanes.iter().sum();
    for x in rest {
        *x = exp((*x - max) * scale);
        sum += *x;
    }
    let inverse = 1.0 / sum;
    row.iter_mut().for_each(|x| *x *= inverse);
}

/// `e^x` for x <= 0, relative error below 2e-7, plain enough for the compiler to vectorize: x = n ln 2 + r, a polynomial in r,
/// n added to the exponent's bits (Cephes `expf`).
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the integer in the low bits
    let x = if x > -87.0 { x } else { -87.0 };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_2e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5] {
        p = p * r + c;
    }
    let exponent = (shifted.to_bits() as i32).wrapping_shl(23).wrapping_add(127 << 23);
    (p * r * r + r + 1.0) * f32::from_bits(exponent as u32)
}

/// The largest value; negative infinity where there is none.
pub(super) fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 8];
    let (chunks, rest) = row.as_chunks::<8>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(l, x)| *l = if *x > *l { *x } else { *l });
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// `ln(sum(e^row))`; negative infinity where every value is.
pub(super) fn log_sum_exp(row: &[f32]) -> f32 {
    let max = max(row);
    if max == f32::NEG_INFINITY {
        return max;
    }
    let mut lanes = [0f32; 8];
    let (chunks, rest) = row.as_chunks::<8>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(l, x)| *l += exp(x - max));
    }
    max + (lanes.iter().sum::<f32>() + rest.iter().map(|x| exp(x - max)).sum::<f32>()).ln()
}

/// The index that `uniform`, in [0, 1), falls on where each has its share of `softmax(logits / temperature)`; never one of negative
/// infinity unless all are.
pub(super) fn draw(logits: &[f32], temperature: f32, uniform: f32) -> usize {
    let (max, scale) = (max(logits), 1.0 / temperature);
    let share = |x: &f32| f64::from(if *x > f32::NEG_INFINITY { exp((x - max) * scale) } else { 0.0 });
    let mut left = f64::from(uniform) * logits.iter().map(share).sum::<f64>();
    let mut last = 0;
    for (i, x) in logits.iter().enumerate().filter(|(_, x)| **x > f32::NEG_INFINITY) {
        left -= share(x);
        last = i;
        if left < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        for i in 0..=86_999 {
            let x = -i as f32 * 1e-3;
            let (seen, wanted) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((seen - wanted).abs() <= 3e-7 * wanted, "{x}: {seen} {wanted}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn log_sum_exp_equals_the_definition() {
        let row: Vec<f32> = (0..37).map(|i| (i as f32 * 1.7).sin() * 9.0).collect();
        let wanted = row.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
        assert!((f64::from(log_sum_exp(&row)) - wanted).abs() < 1e-5);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 9]), f32::NEG_INFINITY);
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }

    #[test]
    fn draws_have_their_shares_and_what_is_banned_none() {
        let logits = [2f32.ln(), f32::NEG_INFINITY, 0.0, 0.0];
        let mut counts = [0; 4];
        (0..1000).for_each(|i| counts[draw(&logits, 1.0, i as f32 / 1000.0)] += 1);
        assert!(
            counts[1] == 0 && [500, 0, 250, 250].iter().zip(counts).all(|(w, c): (&i32, i32)| (w - c).abs() < 3),
            "{counts:?}"
        );
        // at half the temperature a share is squared: 4 : 1 : 1
        let first = (0..1000).filter(|i| draw(&logits, 0.5, *i as f32 / 1000.0) == 0).count();
        assert!((664..670).contains(&first), "{first}");
        assert_eq!(draw(&[f32::NEG_INFINITY; 3], 1.0, 0.5), 0);
    }
}
