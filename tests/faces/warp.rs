//! Pictures of a face with another expression than it had: a smooth warp along the mesh (radial basis functions of compact support,
//! Wendland 1995), and what spoils a picture.

use dreamseed_models::face::head::HeadPose;
use dreamseed_models::image::Image;

/// RGB, 0..255.
#[derive(Clone)]
pub(crate) struct Picture {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) rgb: Vec<f32>,
}

/// Changes in the unit of the outer eye corners' distance; 0 leaves as it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Act {
    pub(crate) lift: f32,  // corners of the mouth, up
    pub(crate) width: f32, // of the mouth
    pub(crate) open: f32,  // gap between the lips
    pub(crate) brows: f32, // up
    pub(crate) lids: f32,  // apart
}

/// What spoils a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Harm {
    None,
    /// Rolled, degrees.
    Roll(f32),
    /// Of the brightness, this share is left.
    Dark(f32),
    /// Standard deviation over the eyes' distance.
    Blur(f32),
    /// Standard deviation, of 255.
    Noise(f32),
    /// Pixels between the outer corners of the eyes.
    Small(f32),
}

const UPPER_OUTER: [usize; 9] = [185, 40, 39, 37, 0, 267, 269, 270, 409];
const UPPER_INNER: [usize; 9] = [191, 80, 81, 82, 13, 312, 311, 310, 415];
const LOWER_INNER: [usize; 9] = [95, 88, 178, 87, 14, 317, 402, 318, 324];
const LOWER_OUTER: [usize; 9] = [146, 91, 181, 84, 17, 314, 405, 321, 375];
const CORNERS: [usize; 4] = [61, 291, 78, 308];
const CHEEKS: [usize; 4] = [205, 425, 50, 280];
const CHIN: [usize; 7] = [152, 148, 377, 176, 400, 199, 200];
const JAW: [usize; 6] = [150, 379, 136, 365, 172, 397];
const BROWS: [usize; 20] = [70, 63, 105, 66, 107, 46, 53, 52, 65, 55, 300, 293, 334, 296, 336, 276, 283, 282, 295, 285];
const UPPER_LIDS: [usize; 14] = [246, 161, 160, 159, 158, 157, 173, 466, 388, 387, 386, 385, 384, 398];
const LOWER_LIDS: [usize; 14] = [7, 163, 144, 145, 153, 154, 155, 249, 390, 373, 374, 380, 381, 382];
const STILL: [usize; 38] = [
    168, 6, 197, 195, 5, 4, 1, 2, 98, 327, 48, 278, 33, 133, 362, 263, 10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361,
    109, 67, 103, 54, 21, 162, 127, 234, 93, 132, 164,
];

/// Reach of a point that moves, over the eyes' distance.
const REACH: f32 = 0.55;
/// Lets points that lie on each other and go apart (closed lips) find a middle.
const RIDGE: f64 = 1e-2;

fn wendland(r: f32) -> f32 {
    let left = (1.0 - r).max(0.0);
    left.powi(4) * (4.0 * r + 1.0)
}

impl Picture {
    pub(crate) fn new(width: u32, height: u32, rgb: &[u8]) -> Self {
        Self { width: width as usize, height: height as usize, rgb: rgb.iter().map(|v| f32::from(*v)).collect() }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.rgb.iter().map(|v| v.round().clamp(0.0, 255.0) as u8).collect()
    }

    pub(crate) fn with_image<T>(&self, f: impl FnOnce(&Image) -> T) -> T {
        f(&Image::new(self.width as u32, self.height as u32, &self.bytes()).expect("a picture"))
    }

    /// Bilinear; beyond the edge its pixels go on.
    fn at(&self, x: f32, y: f32) -> [f32; 3] {
        let (x, y) = (x.clamp(0.0, self.width as f32 - 1.0), y.clamp(0.0, self.height as f32 - 1.0));
        let (x0, y0) = (x as usize, y as usize);
        let (x1, y1) = ((x0 + 1).min(self.width - 1), (y0 + 1).min(self.height - 1));
        let (ax, ay) = (x - x0 as f32, y - y0 as f32);
        std::array::from_fn(|c| {
            let p = |x: usize, y: usize| self.rgb[(y * self.width + x) * 3 + c];
            (p(x0, y0) * (1.0 - ax) + p(x1, y0) * ax) * (1.0 - ay) + (p(x0, y1) * (1.0 - ax) + p(x1, y1) * ax) * ay
        })
    }

    fn map(&self, width: usize, height: usize, from: impl Fn(f32, f32) -> [f32; 3]) -> Self {
        let rgb = (0..width * height).flat_map(|i| from((i % width) as f32, (i / width) as f32)).collect();
        Self { width, height, rgb }
    }

    /// The face `points` (pixels) with `act` done by it.
    pub(crate) fn acted(&self, points: &[[f64; 3]], act: Act) -> Self {
        let head = HeadPose::fit(|i| points.get(i).copied()).expect("a head");
        let eyes = head.scale as f32;
        let axis = |i: usize| [head.axes[i][0] as f32, head.axes[i][1] as f32];
        let (left, down) = (axis(0), axis(1));
        let place = |i: usize| [points[i][0] as f32, points[i][1] as f32];
        // where the points go, in pixels
        let moves = moves(points, &head, act);
        let targets: Vec<[f32; 2]> = moves
            .iter()
            .map(|&(i, [du, dv])| {
                let p = place(i);
                [0, 1].map(|k| p[k] + eyes * (du * left[k] + dv * down[k]))
            })
            .collect();
        let sources: Vec<[f32; 2]> = moves.iter().map(|m| place(m.0)).collect();
        let reach = REACH * eyes;
        let weights = solve(&targets, &sources, reach);
        let mouth: Vec<[f32; 2]> = [78]
            .iter()
            .chain(&UPPER_INNER)
            .chain(&[308])
            .chain(LOWER_INNER.iter().rev())
            .map(|i| targets[moves.iter().position(|m| m.0 == *i).expect("a lip")])
            .collect();
        let dark = ((act.open - 0.03) / 0.08).clamp(0.0, 1.0);
        let cheek = self.at(place(205)[0], place(205)[1]);
        let inside = [0.28, 0.16, 0.16].map(|share| share * cheek[0]);
        self.map(self.width, self.height, |x, y| {
            let mut from = [x, y];
            for (t, w) in targets.iter().zip(&weights) {
                let (dx, dy) = (x - t[0], y - t[1]);
                if dx.abs() < reach && dy.abs() < reach {
                    let k = wendland(dx.hypot(dy) / reach);
                    from = [from[0] + k * w[0], from[1] + k * w[1]];
                }
            }
            let seen = self.at(from[0], from[1]);
            let covered = if dark > 0.0 { dark * cover(&mouth, x, y) } else { 0.0 };
            std::array::from_fn(|c| seen[c] * (1.0 - covered) + inside[c] * covered)
        })
    }

    pub(crate) fn harmed(&self, harm: Harm, eyes: f32, seed: u64) -> Self {
        match harm {
            Harm::None => self.clone(),
            Harm::Dark(left) => Self { rgb: self.rgb.iter().map(|v| (v * left).round()).collect(), ..self.clone() },
            Harm::Roll(degrees) => {
                let (sin, cos) = degrees.to_radians().sin_cos();
                let (cx, cy) = (self.width as f32 / 2.0, self.height as f32 / 2.0);
                self.map(self.width, self.height, |x, y| {
                    let (dx, dy) = (x - cx, y - cy);
                    self.at(cx + dx * cos + dy * sin, cy - dx * sin + dy * cos)
                })
            }
            Harm::Blur(sigma) => self.blurred(sigma * eyes),
            Harm::Noise(sigma) => {
                let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
                let mut draw = || {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 40) as f32 / (1 << 24) as f32 - 0.5
                };
                // the sum of four uniform numbers is near enough to a normal one
                let mut normal = || (draw() + draw() + draw() + draw()) * 1.732;
                Self { rgb: self.rgb.iter().map(|v| v + sigma * normal()).collect(), ..self.clone() }
            }
            Harm::Small(wanted) => {
                let step = eyes / wanted;
                let soft = if step > 1.0 { self.blurred(0.4 * step) } else { self.clone() };
                let size = |n: usize| ((n as f32 / step) as usize).max(8);
                soft.map(size(self.width), size(self.height), |x, y| soft.at((x + 0.5) * step - 0.5, (y + 0.5) * step - 0.5))
            }
        }
    }

    fn blurred(&self, sigma: f32) -> Self {
        let n = (3.0 * sigma).ceil() as i32;
        let kernel: Vec<f32> = (-n..=n).map(|i| (-0.5 * (i as f32 / sigma).powi(2)).exp()).collect();
        let sum: f32 = kernel.iter().sum();
        let along = |p: &Self, step: [f32; 2]| {
            p.map(p.width, p.height, |x, y| {
                let mut out = [0.0; 3];
                for (i, k) in (-n..=n).zip(&kernel) {
                    let seen = p.at(x + i as f32 * step[0], y + i as f32 * step[1]);
                    (0..3).for_each(|c| out[c] += k / sum * seen[c]);
                }
                out
            })
        };
        along(&along(self, [1.0, 0.0]), [0.0, 1.0])
    }
}

/// How far each control point moves: to the person's left and down, over the eyes' distance.
fn moves(points: &[[f64; 3]], head: &HeadPose, act: Act) -> Vec<(usize, [f32; 2])> {
    let along = |i: usize, axis: usize| {
        let d = [0, 1, 2].map(|k| points[i][k] - (points[61][k] + points[291][k]) / 2.0);
        ((0..3).map(|k| d[k] * head.axes[axis][k]).sum::<f64>() / head.scale) as f32
    };
    let half = along(291, 0).abs().max(1e-3);
    // from the middle of the mouth (0) to its corner (1)
    let out = |i: usize| (along(i, 0).abs() / half).min(1.0);
    let aside = |i: usize| along(i, 0).signum() * out(i) * act.width / 2.0;
    let mut moves = Vec::new();
    let mut add = |set: &[usize], f: &dyn Fn(usize) -> [f32; 2]| moves.extend(set.iter().map(|&i| (i, f(i))));
    // lips: corners go up, their middle opens; two thirds of that by the jaw
    let (up, jaw) = (-act.open / 3.0, act.open * 2.0 / 3.0);
    let lip = |i: usize, share: f32| [aside(i), share * (1.0 - out(i).powi(2)) - act.lift * out(i).powi(2)];
    add(&UPPER_OUTER, &|i| lip(i, up));
    add(&UPPER_INNER, &|i| lip(i, up));
    add(&LOWER_INNER, &|i| lip(i, jaw));
    add(&LOWER_OUTER, &|i| lip(i, jaw));
    add(&CORNERS, &|i| [aside(i), -act.lift + act.open * 0.1]);
    add(&CHEEKS, &|i| [0.3 * aside(i), -0.35 * act.lift]);
    add(&CHIN, &|_| [0.0, jaw]);
    add(&JAW, &|_| [0.0, 0.5 * jaw]);
    add(&BROWS, &|_| [0.0, -act.brows]);
    add(&UPPER_LIDS, &|_| [0.0, -0.75 * act.lids]);
    add(&LOWER_LIDS, &|_| [0.0, 0.25 * act.lids]);
    add(&STILL, &|_| [0.0, 0.0]);
    moves
}

/// Weights of the basis functions at `targets` that lead back to `sources`: Cholesky's method.
fn solve(targets: &[[f32; 2]], sources: &[[f32; 2]], reach: f32) -> Vec<[f32; 2]> {
    let n = targets.len();
    let mut l = vec![0.0f64; n * n];
    for i in 0..n {
        for j in 0..=i {
            let r = (targets[i][0] - targets[j][0]).hypot(targets[i][1] - targets[j][1]) / reach;
            let sum: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
            let a = f64::from(wendland(r)) + if i == j { RIDGE } else { 0.0 } - sum;
            l[i * n + j] = if i == j { a.max(1e-12).sqrt() } else { a / l[j * n + j] };
        }
    }
    let mut x: Vec<[f64; 2]> = (0..n).map(|i| [0, 1].map(|k| f64::from(sources[i][k]) - f64::from(targets[i][k]))).collect();
    for i in 0..n {
        for k in 0..2 {
            let sum: f64 = (0..i).map(|j| l[i * n + j] * x[j][k]).sum();
            x[i][k] = (x[i][k] - sum) / l[i * n + i];
        }
    }
    for i in (0..n).rev() {
        for k in 0..2 {
            let sum: f64 = (i + 1..n).map(|j| l[j * n + i] * x[j][k]).sum();
            x[i][k] = (x[i][k] - sum) / l[i * n + i];
        }
    }
    x.into_iter().map(|w| w.map(|v| v as f32)).collect()
}

/// Share of a pixel that a polygon covers, by 9 samples.
fn cover(polygon: &[[f32; 2]], x: f32, y: f32) -> f32 {
    let inside = |x: f32, y: f32| {
        let mut odd = false;
        for (i, b) in polygon.iter().enumerate() {
            let a = polygon[(i + polygon.len() - 1) % polygon.len()];
            if (a[1] > y) != (b[1] > y) && x < (b[0] - a[0]) * (y - a[1]) / (b[1] - a[1]) + a[0] {
                odd = !odd;
            }
        }
        odd
    };
    let near = polygon.iter().fold([f32::MAX, f32::MAX, f32::MIN, f32::MIN], |b, p| {
        [b[0].min(p[0]), b[1].min(p[1]), b[2].max(p[0]), b[3].max(p[1])]
    });
    if x < near[0] - 1.0 || x > near[2] + 1.0 || y < near[1] - 1.0 || y > near[3] + 1.0 {
        return 0.0;
    }
    let steps = [-1.0 / 3.0, 0.0, 1.0 / 3.0];
    steps.iter().flat_map(|dy| steps.map(|dx| f32::from(u8::from(inside(x + dx, y + dy))))).sum::<f32>() / 9.0
}
