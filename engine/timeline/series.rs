//! Irregularly sampled tracks: onto a regular grid, and their slopes.

use super::Column;

/// The timeline's clock: row i is at i / rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) rate: f64,
    pub(super) rows: usize,
}

/// Neighbours further apart than this are not joined, unless the track itself is slower: then one and a half of its steps.
const MAX_GAP: f64 = 0.25;
/// Half of the window of the local fit behind a slope: seven frames at 30 a second. Slower tracks use their neighbours.
const SLOPE_WINDOW: f64 = 0.1;

/// One quantity over time; `None` where it was looked for and not found.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    /// Seconds, rising. (samples)
    pub(super) t: Vec<f64>,
    /// (samples)
    pub(super) v: Vec<Option<f64>>,
}

impl Series {
    /// Samples whose time is not later than the one before are left out; what is no number counts as not found.
    pub(super) fn new(samples: impl IntoIterator<Item = (f64, Option<f64>)>) -> Self {
        let mut series = Self::default();
        for (t, v) in samples {
            if t.is_finite() && series.t.last().is_none_or(|&last| t > last) {
                series.t.push(t);
                series.v.push(v.filter(|v| v.is_finite()));
            }
        }
        series
    }

    /// Median time between samples, seconds; 0 for fewer than two.
    pub(super) fn step(&self) -> f64 {
        median(self.t.windows(2).map(|w| w[1] - w[0]).collect()).unwrap_or(0.0)
    }

    /// The same times with other values.
    pub(super) fn with(&self, v: Vec<Option<f64>>) -> Self {
        Self { t: self.t.clone(), v }
    }

    /// Linear between measured neighbours that are near enough; no value elsewhere.
    pub(super) fn linear(&self, grid: Grid) -> Vec<Option<f32>> {
        let gap = MAX_GAP.max(1.5 * self.step()) + 1e-9;
        let known: Vec<(f64, f64)> = self.t.iter().zip(&self.v).filter_map(|(&t, &v)| Some((t, v?))).collect();
        grid.sample(|at| {
            let next = known.partition_point(|&(t, _)| t < at - 1e-9);
            let &(t1, v1) = known.get(next)?;
            if (t1 - at).abs() <= 1e-6 {
                return Some(v1);
            }
            let &(t0, v0) = known.get(next.checked_sub(1)?)?;
            (t1 - t0 <= gap).then(|| v0 + (v1 - v0) * (at - t0) / (t1 - t0))
        })
    }

    /// The nearest sample, at most one step away: for what has no between, such as pitch at the edge of voicing.
    pub(super) fn nearest(&self, grid: Grid) -> Vec<Option<f32>> {
        let far = self.step().max(1e-6);
        grid.sample(|at| {
            let next = self.t.partition_point(|&t| t < at);
            let candidates = [next.checked_sub(1), Some(next)];
            let distance = |i: &usize| (self.t[*i] - at).abs();
            let i = candidates
                .into_iter()
                .flatten()
                .filter(|&i| i < self.t.len())
                .min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
            self.v[i].filter(|_| distance(&i) <= far)
        })
    }

    /// Change a second at each sample, by a quadratic fitted to its surroundings (Savitzky and Golay 1964, for any spacing); a
    /// straight line where the surroundings lie on one side. `None` where there are not two neighbours to go by.
    pub(super) fn slope(&self) -> Self {
        let half = SLOPE_WINDOW.max(1.5 * self.step()) + 1e-9;
        let at = |i: usize| {
            self.v[i]?;
            let from = self.t.partition_point(|&t| t < self.t[i] - half);
            let to = self.t.partition_point(|&t| t <= self.t[i] + half);
            let near = || (from..to).filter_map(|j| Some((self.t[j] - self.t[i], self.v[j]?)));
            fitted_slope(near)
        };
        self.with((0..self.t.len()).map(at).collect())
    }
}

/// Slope at 0 of the parabola (or line) through points (time, value) by least squares.
fn fitted_slope<I: Iterator<Item = (f64, f64)>>(points: impl Fn() -> I) -> Option<f64> {
    let (mut s, mut y) = ([0.0; 5], [0.0; 3]); // sums of t^k and of v t^k
    let (mut before, mut after) = (false, false);
    for (t, v) in points() {
        let mut p = 1.0;
        for k in 0..5 {
            s[k] += p;
            if k < 3 {
                y[k] += v * p;
            }
            p *= t;
        }
        before |= t < 0.0;
        after |= t > 0.0;
    }
    if s[0] < 2.5 {
        return None;
    }
    let line = |d: f64| (d.abs() > 1e-12).then(|| (s[0] * y[1] - s[1] * y[0]) / d);
    if !(before && after) {
        return line(s[0] * s[2] - s[1] * s[1]);
    }
    // Cramer's rule for the linear coefficient of the 3 x 3 normal equations
    let det = |a: [[f64; 3]; 3]| {
        a[0][0] * (a[1][1] * a[2][2] - a[1][2] * a[2][1]) - a[0][1] * (a[1][0] * a[2][2] - a[1][2] * a[2][0])
            + a[0][2] * (a[1][0] * a[2][1] - a[1][1] * a[2][0])
    };
    let d = det([[s[0], s[1], s[2]], [s[1], s[2], s[3]], [s[2], s[3], s[4]]]);
    if d <= 1e-9 * s[0] * s[2] * s[4] {
        return line(s[0] * s[2] - s[1] * s[1]);
    }
    Some(det([[s[0], y[0], s[2]], [s[1], y[1], s[3]], [s[2], y[2], s[4]]]) / d)
}

impl Grid {
    fn sample(self, at: impl Fn(f64) -> Option<f64>) -> Vec<Option<f32>> {
        (0..self.rows).map(|i| at(i as f64 / self.rate).map(|v| v as f32).filter(|v| v.is_finite())).collect()
    }

    /// A column of this many rows.
    pub(super) fn column(self, name: impl Into<String>, unit: &str, values: Vec<Option<f32>>) -> Column {
        debug_assert_eq!(values.len(), self.rows);
        Column { name: name.into(), unit: unit.into(), values }
    }
}

/// Median of numbers; `None` of none.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    quantile(&mut values, 0.5)
}

/// Quantile `q` (0..1) of numbers, between neighbours by rounding; sorts them.
pub(super) fn quantile(values: &mut [f64], q: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(((values.len().checked_sub(1)?) as f64 * q).round() as usize).copied()
}

/// Moving average with a Gaussian of `sigma` rows over what is valid; what is not stays so.
pub(super) fn smooth(values: &[Option<f32>], sigma: f64) -> Vec<Option<f32>> {
    let reach = (3.0 * sigma).ceil().max(0.0) as usize;
    let weights: Vec<f64> = (0..=reach).map(|d| (-0.5 * (d as f64 / sigma.max(1e-9)).powi(2)).exp()).collect();
    let at = |i: usize| {
        values[i]?;
        let (mut sum, mut total) = (0.0, 0.0);
        for j in i.saturating_sub(reach)..(i + reach + 1).min(values.len()) {
            if let Some(v) = values[j] {
                let w = weights[i.abs_diff(j)];
                sum += w * f64::from(v);
                total += w;
            }
        }
        Some((sum / total) as f32)
    };
    (0..values.len()).map(at).collect()
}

/// A local maximum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Peak {
    pub(super) at: usize,
    /// Height above the higher of the two valleys that part it from anything higher.
    pub(super) prominence: f32,
}

/// Local maxima that stand out by at least `least` within `reach` rows on both sides. The ends of a valid stretch are no maxima.
pub(super) fn peaks(values: &[Option<f32>], least: f32, reach: usize) -> Vec<Peak> {
    let mut found = Vec::new();
    let mut i = 1;
    while i + 1 < values.len() {
        let (Some(v), Some(before)) = (values[i], values[i - 1]) else {
            i += 1;
            continue;
        };
        let mut end = i; // a plateau counts once, at its middle
        while end + 1 < values.len() && values[end + 1] == Some(v) {
            end += 1;
        }
        let falls = values.get(end + 1).copied().flatten().is_some_and(|after| after < v);
        if before < v && falls {
            let valley = |rows: &mut dyn Iterator<Item = usize>| {
                let mut low = v;
                for j in rows.take(reach) {
                    match values[j] {
                        Some(u) if u <= v => low = low.min(u),
                        _ => break,
                    }
                }
                low
            };
            let sides = valley(&mut (0..i).rev()).max(valley(&mut (end + 1..values.len())));
            if v - sides >= least {
                found.push(Peak { at: (i + end) / 2, prominence: v - sides });
            }
        }
        i = end + 1;
    }
    found
}

/// Of peaks nearer to each other than `distance` rows, the highest stays.
pub(super) fn apart(mut peaks: Vec<Peak>, values: &[Option<f32>], distance: usize) -> Vec<Peak> {
    let height = |p: &Peak| values[p.at].unwrap_or(f32::MIN);
    let mut kept: Vec<Peak> = Vec::new();
    peaks.sort_by_key(|p| p.at);
    for peak in peaks {
        match kept.last_mut() {
            Some(last) if peak.at - last.at < distance => {
                if height(&peak) > height(last) {
                    *last = peak;
                }
            }
            _ => kept.push(peak),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { rate: 25.0, rows: 50 };

    #[test]
    fn a_line_stays_a_line_and_gaps_stay_open() {
        let times = [0.0, 0.11, 0.2, 0.33, 0.9, 1.0];
        let y = Series::new(times.map(|t| (t, Some(3.0 * t + 1.0)))).linear(GRID);
        for (i, v) in y.iter().enumerate() {
            let t = i as f64 / 25.0;
            match v {
                Some(v) => assert!((f64::from(*v) - 3.0 * t - 1.0).abs() < 1e-6, "{t}"),
                None => assert!((t > 0.33 && t < 0.9) || t > 1.0, "{t}"),
            }
        }
        assert!(y[0].is_some() && y[8].is_some() && y[9].is_none() && y[22].is_none() && y[23].is_some() && y[26].is_none());
    }

    #[test]
    fn a_slow_track_is_joined_at_its_own_step() {
        let y = Series::new((0..3).map(|i| (f64::from(i) * 0.5, Some(1.0)))).linear(GRID);
        assert!(y[..=25].iter().all(Option::is_some) && y[26..].iter().all(Option::is_none));
        let one = Series::new([(0.0, Some(7.0))]).linear(GRID);
        assert!(one[0] == Some(7.0) && one[1].is_none());
    }

    #[test]
    fn hostile_times_and_values_are_left_out() {
        let s =
            Series::new([(0.0, Some(1.0)), (f64::NAN, Some(2.0)), (-1.0, Some(3.0)), (0.0, Some(9.0)), (0.1, Some(f64::NAN))]);
        assert_eq!((s.t, s.v), (vec![0.0, 0.1], vec![Some(1.0), None]));
        assert!(Series::default().linear(GRID).iter().all(Option::is_none));
        assert!(Series::default().nearest(GRID).iter().all(Option::is_none));
    }

    #[test]
    fn the_slope_of_a_parabola_is_exact_at_uneven_times() {
        let times: Vec<f64> = (0..40).map(|i| f64::from(i) / 30.0 + if i % 3 == 0 { 0.007 } else { 0.0 }).collect();
        let slope = Series::new(times.iter().map(|&t| (t, Some(2.0 * t * t - t)))).slope();
        for (t, v) in times.iter().zip(&slope.v).skip(1).take(38) {
            let edge = *t < 0.1 || *t > 1.2;
            assert!((v.unwrap() - (4.0 * t - 1.0)).abs() < if edge { 0.5 } else { 1e-9 }, "{t} {v:?}");
        }
    }

    #[test]
    fn peaks_have_prominence_and_plateaus_count_once() {
        let v: Vec<_> = [0.0, 1.0, 0.5, 3.0, 3.0, 3.0, 0.0, 0.4, 0.0, 5.0].map(Some).to_vec();
        let found = peaks(&v, 0.3, 100);
        assert_eq!(found.iter().map(|p| p.at).collect::<Vec<_>>(), [1, 4, 7]);
        assert_eq!(found.iter().map(|p| p.prominence).collect::<Vec<_>>(), [0.5, 3.0, 0.4]);
        assert_eq!(apart(found, &v, 4).iter().map(|p| p.at).collect::<Vec<_>>(), [4, 7][..1].to_vec());
    }
}
