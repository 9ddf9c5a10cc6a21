//! Who is who from frame to frame: similarity of two poses, motion, colour, and the best assignment. Nothing here runs a net.

use crate::image::Image;

/// The landmarks (MediaPipe's numbers) that stand for COCO's 17 key points, and COCO's spread of each (Lin et al. 2014).
#[rustfmt::skip]
pub(super) const COCO: [(usize, f32); 17] = [
    (0, 0.026), (2, 0.025), (5, 0.025), (7, 0.035), (8, 0.035), (11, 0.079), (12, 0.079), (13, 0.072), (14, 0.072),
    (15, 0.062), (16, 0.062), (23, 0.107), (24, 0.107), (25, 0.087), (26, 0.087), (27, 0.089), (28, 0.089),
];

/// The 17 points of a person in pixels, with how visible each is (0..1).
pub(super) type Points = [[f32; 3]; 17];

/// Object key point similarity, 0..1, of two poses over the points that both show; their scale is that of the larger one. 0 where
/// fewer than four points are common.
pub(super) fn oks(a: &Points, b: &Points) -> f32 {
    const SEEN: f32 = 0.2;
    let area = area(a).max(area(b)).max(1.0);
    let common = a.iter().zip(b).zip(COCO).filter(|((p, q), _)| p[2] >= SEEN && q[2] >= SEEN);
    let each: Vec<f32> = common
        .map(|((p, q), (_, sigma))| {
            let d = (p[0] - q[0]).powi(2) + (p[1] - q[1]).powi(2);
            (-d / (2.0 * area * (2.0 * sigma).powi(2))).exp()
        })
        .collect();
    if each.len() < 4 { 0.0 } else { each.iter().sum::<f32>() / each.len() as f32 }
}

/// Of the box about the points.
fn area(points: &Points) -> f32 {
    let fold = |i: usize, from: f32, f: fn(f32, f32) -> f32| points.iter().map(|p| p[i]).fold(from, f);
    (fold(0, f32::MIN, f32::max) - fold(0, f32::MAX, f32::min)) * (fold(1, f32::MIN, f32::max) - fold(1, f32::MAX, f32::min))
}

/// Position with constant velocity, corrected by what is seen: a Kalman filter in its steady state (alpha-beta filter).
#[derive(Clone, Copy, Debug)]
pub(super) struct Motion {
    place: [f32; 2],    // pixels
    velocity: [f32; 2], // pixels a second
    t: f64,
}

impl Motion {
    pub(super) fn new(place: [f32; 2], t: f64) -> Self {
        Self { place, velocity: [0.0; 2], t }
    }

    /// Where it should be at time `t`.
    pub(super) fn predict(&self, t: f64) -> [f32; 2] {
        let dt = (t - self.t).clamp(0.0, 2.0) as f32;
        [0, 1].map(|i| self.place[i] + self.velocity[i] * dt)
    }

    pub(super) fn update(&mut self, seen: [f32; 2], t: f64) {
        const ALPHA: f32 = 0.8;
        const BETA: f32 = 0.4;
        let (expected, dt) = (self.predict(t), (t - self.t) as f32);
        for i in 0..2 {
            let off = seen[i] - expected[i];
            self.place[i] = expected[i] + ALPHA * off;
            if dt > 1e-4 {
                self.velocity[i] += BETA * off / dt;
            }
        }
        self.t = t;
    }
}

/// Bins along each of red, green and blue.
const BINS: usize = 4;

/// The colours of a trunk: a histogram over red, green and blue with linear shares between bins, sum 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Colors([f32; BINS * BINS * BINS]);

impl Colors {
    /// Of the quadrangle between shoulders and hips; `None` where less than a quarter of it is in the picture.
    pub(super) fn of(image: &Image, points: &Points) -> Option<Self> {
        const STEPS: usize = 12;
        let [left, right, below_left, below_right] = [5, 6, 11, 12].map(|i| [points[i][0], points[i][1]]);
        let between = |a: [f32; 2], b: [f32; 2], s: f32| [a[0] + (b[0] - a[0]) * s, a[1] + (b[1] - a[1]) * s];
        let (mut bins, mut count) = ([0.0f32; BINS * BINS * BINS], 0usize);
        for i in 0..STEPS * STEPS {
            let (s, t) = ((i % STEPS) as f32 + 0.5, (i / STEPS) as f32 + 0.5);
            let (s, t) = (s / STEPS as f32, t / STEPS as f32);
            let at = between(between(left, right, s), between(below_left, below_right, s), t);
            if let Some(color) = image.color(at) {
                share(&mut bins, color);
                count += 1;
            }
        }
        (count * 4 >= STEPS * STEPS).then(|| Self(bins.map(|b| b / count as f32)))
    }

    /// Hellinger's distance, 0 (equal) to 1 (nothing in common).
    pub(super) fn distance(&self, other: &Self) -> f32 {
        let common: f32 = self.0.iter().zip(&other.0).map(|(a, b)| (a * b).sqrt()).sum();
        (1.0 - common).max(0.0).sqrt()
    }

    /// Moves a tenth of the way to `seen`.
    pub(super) fn follow(&mut self, seen: &Self) {
        self.0.iter_mut().zip(&seen.0).for_each(|(a, b)| *a += 0.1 * (b - *a));
    }
}

/// Adds one pixel to the eight bins about it.
fn share(bins: &mut [f32; BINS * BINS * BINS], color: [u8; 3]) {
    let place = color.map(|c| f32::from(c) / 255.0 * (BINS - 1) as f32);
    for corner in 0..8usize {
        let (mut index, mut weight) = (0, 1.0);
        for (axis, &p) in place.iter().enumerate() {
            let (low, part) = (p as usize, p.fract());
            let up = corner >> axis & 1;
            index = index * BINS + (low + up).min(BINS - 1);
            weight *= if up == 1 { part } else { 1.0 - part };
        }
        bins[index] += weight;
    }
}

/// The assignment of rows to columns with the least total cost in which as many as possible are assigned; `None` in `cost` is
/// forbidden. For each row its column. The Hungarian method by shortest augmenting paths (Jonker and Volgenant 1987).
pub(super) fn assign(cost: &[Vec<Option<f32>>], columns: usize) -> Vec<Option<usize>> {
    const FORBIDDEN: f64 = 1e6;
    let n = cost.len().max(columns);
    let at = |i: usize, j: usize| match cost.get(i).and_then(|r| r.get(j)) {
        Some(&Some(c)) if c.is_finite() => f64::from(c),
        _ => FORBIDDEN,
    };
    // potentials of rows and columns, and the row of each column; index 0 is the free one
    let (mut u, mut v, mut row_of) = (vec![0.0; n + 1], vec![0.0; n + 1], vec![0usize; n + 1]);
    for i in 1..=n {
        row_of[0] = i;
        let (mut j0, mut least, mut used, mut way) = (0, vec![f64::INFINITY; n + 1], vec![false; n + 1], vec![0usize; n + 1]);
        while row_of[j0] != 0 {
            used[j0] = true;
            let (i0, mut delta, mut next) = (row_of[j0], f64::INFINITY, 0);
            for j in (1..=n).filter(|&j| !used[j]) {
                let reduced = at(i0 - 1, j - 1) - u[i0] - v[j];
                if reduced < least[j] {
                    (least[j], way[j]) = (reduced, j0);
                }
                if least[j] < delta {
                    (delta, next) = (least[j], j);
                }
            }
            for j in 0..=n {
                if used[j] {
                    u[row_of[j]] += delta;
                    v[j] -= delta;
                } else {
                    least[j] -= delta;
                }
            }
            j0 = next;
        }
        while j0 != 0 {
            row_of[j0] = row_of[way[j0]];
            j0 = way[j0];
        }
    }
    let mut out = vec![None; cost.len()];
    for j in 1..=columns {
        let i = row_of[j];
        if i >= 1 && i <= cost.len() && at(i - 1, j - 1) < FORBIDDEN {
            out[i - 1] = Some(j - 1);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A standing figure of `size` pixels at `x`.
    fn figure(x: f32, size: f32) -> Points {
        const SHAPE: [[f32; 2]; 17] = [
            [0.0, 0.0],
            [0.02, -0.02],
            [-0.02, -0.02],
            [0.04, 0.0],
            [-0.04, 0.0],
            [0.1, 0.15],
            [-0.1, 0.15],
            [0.15, 0.3],
            [-0.15, 0.3],
            [0.15, 0.45],
            [-0.15, 0.45],
            [0.07, 0.5],
            [-0.07, 0.5],
            [0.08, 0.7],
            [-0.08, 0.7],
            [0.08, 0.95],
            [-0.08, 0.95],
        ];
        SHAPE.map(|[dx, dy]| [x + dx * size, 100.0 + dy * size, 1.0])
    }

    #[test]
    fn poses_are_alike_where_they_are() {
        let a = figure(200.0, 300.0);
        assert!((oks(&a, &a) - 1.0).abs() < 1e-6);
        assert!(oks(&a, &figure(203.0, 300.0)) > 0.85);
        assert!(oks(&a, &figure(240.0, 300.0)) < 0.5);
        assert!(oks(&a, &figure(500.0, 300.0)) < 0.01);
        let hidden = a.map(|[x, y, _]| [x, y, 0.0]);
        assert_eq!(oks(&a, &hidden), 0.0, "nothing in common is seen");
    }

    /// Against all permutations, on costs from a fixed sequence with gaps.
    #[test]
    fn the_assignment_is_the_cheapest() {
        fn best(cost: &[Vec<Option<f32>>], row: usize, used: u32, columns: usize) -> (usize, f32) {
            let Some(line) = cost.get(row) else { return (0, 0.0) };
            let mut found = best(cost, row + 1, used, columns);
            for j in (0..columns).filter(|j| used >> j & 1 == 0) {
                if let Some(c) = line[j] {
                    let (n, sum) = best(cost, row + 1, used | 1 << j, columns);
                    if n + 1 > found.0 || (n + 1 == found.0 && sum + c < found.1) {
                        found = (n + 1, sum + c);
                    }
                }
            }
            found
        }
        let mut seed = 7u32;
        for (rows, columns) in [(0, 3), (3, 0), (1, 1), (2, 5), (5, 2), (4, 4), (5, 5), (6, 4)] {
            for _ in 0..20 {
                let mut next = || {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let v = (seed >> 16) as f32 / 65536.0;
                    (v > 0.2).then_some(v)
                };
                let cost: Vec<Vec<_>> = (0..rows).map(|_| (0..columns).map(|_| next()).collect()).collect();
                let out = assign(&cost, columns);
                let chosen: Vec<_> = out.iter().enumerate().filter_map(|(i, j)| Some((i, (*j)?))).collect();
                let mut columns_used: Vec<_> = chosen.iter().map(|c| c.1).collect();
                columns_used.dedup();
                assert_eq!(columns_used.len(), chosen.len());
                let sum: f32 = chosen.iter().map(|&(i, j)| cost[i][j].expect("allowed")).sum();
                let wanted = best(&cost, 0, 0, columns);
                assert!(chosen.len() == wanted.0 && (sum - wanted.1).abs() < 1e-4, "{cost:?}: {out:?} {sum}, not {wanted:?}");
            }
        }
    }

    #[test]
    fn motion_goes_on_while_nothing_is_seen() {
        let mut m = Motion::new([0.0, 50.0], 0.0);
        for i in 1..30 {
            m.update([4.0 * i as f32, 50.0], f64::from(i) / 25.0);
        }
        let [x, y] = m.predict(29.0 / 25.0 + 0.5);
        assert!((x - (116.0 + 50.0)).abs() < 5.0 && (y - 50.0).abs() < 1e-3, "{x} {y}");
    }

    #[test]
    fn colours_tell_two_shirts_apart_and_a_shadow_does_not_matter_as_much() {
        let picture = |c: [u8; 3]| c.iter().copied().cycle().take(600 * 400 * 3).collect::<Vec<u8>>();
        let colors = |c| Colors::of(&Image::new(600, 400, &picture(c)).unwrap(), &figure(300.0, 250.0)).unwrap();
        let (red, shade, blue) = (colors([200, 30, 30]), colors([170, 25, 25]), colors([30, 30, 200]));
        assert!(red.distance(&red) < 1e-3);
        assert!(red.distance(&shade) < 0.5 * red.distance(&blue), "{} {}", red.distance(&shade), red.distance(&blue));
        let image = picture([9; 3]);
        assert_eq!(Colors::of(&Image::new(600, 400, &image).unwrap(), &figure(-900.0, 250.0)), None, "outside of the picture");
    }
}
