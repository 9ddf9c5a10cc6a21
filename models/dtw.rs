//! Dynamic time warping within a band about the diagonal (Sakoe and Chiba 1978).

/// Where a path may run, and what leaving the diagonal costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// Columns on either side of the diagonal; widened where the diagonal is so steep that the band would fall apart.
    pub half: usize,
    /// Cost of a step that is not diagonal.
    pub stray: f64,
}

/// The cheapest path from (0, 0) to (n - 1, m - 1) within `half` columns of the diagonal. Steps are Sakoe and Chiba's symmetric ones:
/// a diagonal step counts its `distance` twice. A step that is not diagonal costs `stray` on top: where the rows tell nothing, time
/// runs on in both. Takes n * (2 half + 1) bytes. Empty where `n` or `m` is 0.
pub fn warp(n: usize, m: usize, band: Band, distance: impl Fn(usize, usize) -> f32) -> Vec<(usize, usize)> {
    if n < 2 || m < 2 {
        return (0..n.max(m))
            .map(|i| (i.min(n.wrapping_sub(1)), i.min(m.wrapping_sub(1))))
            .filter(|_| n > 0 && m > 0)
            .collect();
    }
    let Band { half, stray } = band;
    const DIAGONAL: u8 = 0;
    const UP: u8 = 1;
    const LEFT: u8 = 2;
    let middle = |i: usize| i * (m - 1) / (n - 1);
    // A steep diagonal moves by several columns a row: the band must be connected.
    let half = half.max((m - 1).div_ceil(n - 1) + 1);
    let bounds = |i: usize| (middle(i).saturating_sub(half), (middle(i) + half).min(m - 1));
    let width = 2 * half + 1;
    let mut from = vec![DIAGONAL; n * width];
    let (mut before, mut row): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    for i in 0..n {
        let (low, high) = bounds(i);
        row.clear();
        for j in low..=high {
            let d = f64::from(distance(i, j));
            let above = |j: usize| {
                let first = bounds(i.wrapping_sub(1)).0;
                if i == 0 || j < first { f64::INFINITY } else { before.get(j - first).copied().unwrap_or(f64::INFINITY) }
            };
            let (diagonal, up) = if i == 0 {
                (f64::INFINITY, f64::INFINITY)
            } else {
                (if j == 0 { f64::INFINITY } else { above(j - 1) }, above(j))
            };
            let left = if j > low { row[j - low - 1] } else { f64::INFINITY };
            let options = [(diagonal + 2.0 * d, DIAGONAL), (up + d + stray, UP), (left + d + stray, LEFT)];
            let best = if (i, j) == (0, 0) {
                (2.0 * d, DIAGONAL)
            } else {
                options.into_iter().fold(options[0], |a, b| if b.0 < a.0 { b } else { a })
            };
            from[i * width + j - low] = best.1;
            row.push(best.0);
        }
        std::mem::swap(&mut before, &mut row);
    }
    let (mut i, mut j) = (n - 1, m - 1);
    let mut path = vec![(i, j)];
    while (i, j) != (0, 0) {
        match from[i * width + j - bounds(i).0] {
            UP => i -= 1,
            LEFT => j -= 1,
            _ => (i, j) = (i.saturating_sub(1), j.saturating_sub(1)),
        }
        path.push((i, j));
    }
    path.reverse();
    path
}

/// Slope of the first over the second time of a path by the median of slopes between points half the path apart (Theil and Sen): a wait in one
/// place does not change it.
pub fn tempo(path: &[[f64; 2]]) -> f64 {
    let cut = path.len() / 20;
    let inner = &path[cut..path.len() - cut];
    let far = inner.len() / 2;
    let slopes = (0..inner.len() - far).map(|i| (inner[i], inner[i + far])).filter(|(a, b)| b[1] > a[1]);
    let mut slopes: Vec<f64> = slopes.map(|(a, b)| (b[0] - a[0]) / (b[1] - a[1])).collect();
    slopes.sort_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied().unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAND: Band = Band { half: 8, stray: 0.01 };

    #[test]
    fn a_path_follows_what_is_alike() {
        // b waits for five rows at its third
        let a: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let b: Vec<f32> = (0..12).flat_map(|i| vec![i as f32; if i == 3 { 6 } else { 1 }]).collect();
        let path = warp(a.len(), b.len(), BAND, |i, j| (a[i] - b[j]).powi(2));
        assert!(path.iter().all(|&(i, j)| a[i] == b[j]), "{path:?}");
        assert_eq!((path[0], path[path.len() - 1]), ((0, 0), (11, 16)));
        assert!(path.windows(2).all(|w| w[1].0 - w[0].0 <= 1 && w[1].1 - w[0].1 <= 1 && w[0] != w[1]));
    }

    #[test]
    fn short_and_steep_ones_have_a_path_too() {
        let flat = |_: usize, _: usize| 0.0;
        assert!(warp(0, 5, BAND, flat).is_empty() && warp(5, 0, BAND, flat).is_empty());
        assert_eq!(warp(1, 3, BAND, flat), [(0, 0), (0, 1), (0, 2)]);
        assert_eq!(warp(2, 1, BAND, flat), [(0, 0), (1, 0)]);
        for (n, m) in [(2, 200), (200, 2), (3, 500), (37, 38)] {
            let path = warp(n, m, Band { half: 0, stray: 0.0 }, flat);
            assert_eq!((path[0], path[path.len() - 1]), ((0, 0), (n - 1, m - 1)));
        }
    }

    #[test]
    fn tempo_is_the_slope() {
        let path: Vec<[f64; 2]> = (0..100).map(|i| [0.8 * f64::from(i), f64::from(i)]).collect();
        assert!((tempo(&path) - 0.8).abs() < 1e-12);
        assert_eq!(tempo(&[]), 1.0);
        assert_eq!(tempo(&[[0.0, 0.0]; 3]), 1.0);
    }
}
