//! Where a head points: the rigid part of the mesh laid onto a mean face.
//!
//! Weighted orthogonal Procrustes: the rotation, scale and shift that bring the mean face nearest to the mesh, in the sum of squared
//! distances over the points (Umeyama 1991). The rotation is Horn's (1987), the first eigenvector of a symmetric 4 x 4 matrix, which is
//! always a turn and never a mirroring. The camera is a scaled orthographic one (weak perspective): x and y of the mesh are pixels, and
//! the net gives its depth in the same unit. Angles are those between the head and the line of sight to it; of a face at the edge of a
//! wide picture that line is not the camera's axis.

use super::Face;

/// A point in the camera's axes: x right, y down, z away from it.
pub type Point = [f64; 3];

/// The rigid part of a mean face: the person's right and left point (the same twice on the middle line), where the left one is, and its
/// weight. Unit: the distance of the outer corners of the eyes; origin: their middle; x to the person's left, y down, z away from
/// the camera. The line from the top of the forehead to the chin stands upright. It is the mean of what the mesh net gives for two
/// people, mirrored too, upright and rolled, made symmetric (tests/golden/make_head.py). What brows, mouth and jaw move is left out,
/// and the outline, which slides over the skull as the head turns, counts less.
pub const RIGID: [(usize, usize, Point, f64); 27] = [
    (168, 168, [0.0000, -0.0700, -0.2324], 1.0),
    (6, 6, [0.0000, 0.0090, -0.2879], 1.0),
    (197, 197, [0.0000, 0.0805, -0.3508], 1.0),
    (195, 195, [0.0000, 0.1459, -0.4173], 1.0),
    (5, 5, [0.0000, 0.2172, -0.4869], 1.0),
    (4, 4, [0.0000, 0.3093, -0.5218], 1.0),
    (122, 351, [0.0633, 0.0288, -0.2635], 1.0),
    (188, 412, [0.1060, 0.0716, -0.2257], 1.0),
    (174, 399, [0.1076, 0.1336, -0.2934], 1.0),
    (198, 420, [0.1540, 0.2348, -0.3018], 1.0),
    (33, 263, [0.5000, 0.0000, 0.0000], 1.0),
    (133, 362, [0.1916, 0.0110, -0.0594], 1.0),
    (130, 359, [0.5177, 0.0072, 0.0127], 1.0),
    (243, 463, [0.1675, 0.0152, -0.0700], 1.0),
    (143, 372, [0.6712, 0.0690, 0.1492], 0.5),
    (35, 265, [0.6177, 0.0488, 0.0852], 0.5),
    (111, 340, [0.6120, 0.1296, 0.0491], 0.5),
    (116, 345, [0.6795, 0.1816, 0.1196], 0.5),
    (34, 264, [0.7307, 0.0895, 0.3092], 0.25),
    (127, 356, [0.7449, 0.1088, 0.5252], 0.25),
    (162, 389, [0.7371, -0.0513, 0.4285], 0.25),
    (21, 251, [0.7064, -0.1865, 0.2993], 0.25),
    (54, 284, [0.6482, -0.3140, 0.1786], 0.25),
    (103, 332, [0.5493, -0.4195, 0.0511], 0.25),
    (67, 297, [0.3880, -0.4912, -0.0633], 0.25),
    (109, 338, [0.2107, -0.5252, -0.1299], 0.25),
    (10, 10, [0.0000, -0.5320, -0.1462], 0.25),
];

/// Least share by which the best rotation must beat the second best one: below it the points lie on a line, or nearly.
const UNIQUE: f64 = 1e-3;
/// Largest [`HeadPose::residual`] of a face. Two people who were not measured for it lie at 0.02 to 0.05; a face inside out at 0.3.
const MISFIT: f64 = 0.2;

/// Position of a head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadPose {
    /// Unit vectors in the camera's axes: to the person's left, down, and forward.
    pub axes: [Point; 3],
    /// Distance that the outer corners of the eyes of a mean head of this size would have, in the unit of the points (pixels).
    pub scale: f64,
    /// Root mean square distance from the mean face, over `scale`.
    pub residual: f64,
}

/// The points of a mean face by their index in the mesh, with their weights. Axes and unit of [`RIGID`].
pub fn mean_face() -> impl Iterator<Item = (usize, Point, f64)> {
    RIGID.iter().flat_map(|&(right, left, at, weight)| {
        let mirrored = (right != left).then_some((right, [-at[0], at[1], at[2]], weight));
        [Some((left, at, weight)), mirrored].into_iter().flatten()
    })
}

impl HeadPose {
    /// Of a face in a picture of `width` x `height` pixels. `None` where the mesh is missing, not finite, has no extent, or is no face.
    pub fn of(face: &Face, width: u32, height: u32) -> Option<Self> {
        let (w, h) = (f64::from(width), f64::from(height));
        Self::fit(|i| face.mesh.get(i).map(|p| [f64::from(p[0]) * w, f64::from(p[1]) * h, f64::from(p[2]) * w]))
    }

    /// Of points by their index in the mesh. `None` as of [`HeadPose::of`].
    pub fn fit(point: impl Fn(usize) -> Option<Point>) -> Option<Self> {
        // 1. means
        let pairs: Vec<(Point, Point, f64)> =
            mean_face().map(|(i, model, weight)| Some((model, point(i)?, weight))).collect::<Option<_>>()?;
        let total: f64 = pairs.iter().map(|p| p.2).sum();
        let mean = |of: fn(&(Point, Point, f64)) -> Point| {
            [0, 1, 2].map(|k| pairs.iter().map(|p| p.2 * of(p)[k]).sum::<f64>() / total)
        };
        let (model, seen) = (mean(|p| p.0), mean(|p| p.1));
        // 2. spreads and correlation
        let (mut of_model, mut of_seen, mut s) = (0.0, 0.0, [[0.0; 3]; 3]);
        for (m, p, weight) in &pairs {
            let (m, p) = (minus(*m, model), minus(*p, seen));
            of_model += weight * dot(m, m);
            of_seen += weight * dot(p, p);
            (0..9).for_each(|i| s[i / 3][i % 3] += weight * m[i / 3] * p[i % 3]);
        }
        if !(of_seen.is_finite() && of_seen > f64::MIN_POSITIVE) {
            return None;
        }
        // 3. rotation, scale
        let (values, vectors) = eigen(horn(&s));
        let mut order = [0, 1, 2, 3];
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
        let (best, second) = (values[order[0]], values[order[1]]);
        if best.is_nan() || best - second <= UNIQUE * (of_model * of_seen).sqrt() {
            return None;
        }
        let [left, down, back] = columns([0, 1, 2, 3].map(|i| vectors[i][order[0]]));
        // 4. what is left over (Umeyama's equation 33)
        let scale = best / of_model;
        let residual = ((of_seen - best * best / of_model).max(0.0) / total).sqrt() / scale;
        (residual <= MISFIT).then_some(Self { axes: [left, down, back.map(|v| -v)], scale, residual })
    }

    /// Degrees: yaw, positive to the person's left; pitch, positive up; roll, positive towards the person's left shoulder. The head
    /// is first pitched, then turned about the vertical, then rolled in the picture.
    pub fn angles(&self) -> [f64; 3] {
        let [x, _, forward] = self.axes;
        // The line of the eyes tells roll and yaw, what is left of the look after the roll the pitch.
        let roll = x[1].atan2(x[0]);
        let (sin, cos) = roll.sin_cos();
        let lowered = forward[1] * cos - forward[0] * sin;
        [x[2].atan2(x[0].hypot(x[1])), -lowered.clamp(-1.0, 1.0).asin(), roll].map(f64::to_degrees)
    }
}

fn minus(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn dot(a: Point, b: Point) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// Horn's matrix: a unit quaternion's form in it is how well the rotation brings the first points onto the second, from their
/// sums of products `s`.
fn horn(s: &[[f64; 3]; 3]) -> [[f64; 4]; 4] {
    let [[xx, xy, xz], [yx, yy, yz], [zx, zy, zz]] = *s;
    [
        [xx + yy + zz, yz - zy, zx - xz, xy - yx],
        [yz - zy, xx - yy - zz, xy + yx, zx + xz],
        [zx - xz, xy + yx, yy - xx - zz, yz + zy],
        [xy - yx, zx + xz, yz + zy, zz - xx - yy],
    ]
}

/// The axes after the rotation of a unit quaternion (w, x, y, z).
fn columns([w, x, y, z]: [f64; 4]) -> [Point; 3] {
    [
        [w * w + x * x - y * y - z * z, 2.0 * (x * y + w * z), 2.0 * (x * z - w * y)],
        [2.0 * (x * y - w * z), w * w - x * x + y * y - z * z, 2.0 * (y * z + w * x)],
        [2.0 * (x * z + w * y), 2.0 * (y * z - w * x), w * w - x * x - y * y + z * z],
    ]
}

/// Eigenvalues of a symmetric matrix, and the vectors as columns: Jacobi's cyclic rotations (Golub and Van Loan 2013, 8.5).
fn eigen(mut a: [[f64; 4]; 4]) -> ([f64; 4], [[f64; 4]; 4]) {
    /// Far more than any 4 x 4 matrix needs: it converges quadratically.
    const SWEEPS: usize = 16;
    let mut v = [[0.0; 4]; 4];
    (0..4).for_each(|i| v[i][i] = 1.0);
    for (p, q) in (0..SWEEPS).flat_map(|_| [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]) {
        if a[p][q] == 0.0 {
            continue;
        }
        let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
        let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
        let c = 1.0 / t.hypot(1.0);
        let s = t * c;
        for row in a.iter_mut().chain(&mut v) {
            (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
        }
        for k in 0..4 {
            (a[p][k], a[q][k]) = (c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]);
        }
    }
    ([0, 1, 2, 3].map(|i| a[i][i]), v)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pitched, turned, rolled (degrees as of [`HeadPose::angles`]), `scale` pixels from eye to eye, somewhere in the picture.
    fn turned(at: Point, [yaw, pitch, roll]: [f64; 3], scale: f64) -> Point {
        let [x, y, z] = at.map(|v| v * scale);
        let (s, c) = (-pitch).to_radians().sin_cos();
        let (y, z) = (y * c - z * s, y * s + z * c);
        let (s, c) = yaw.to_radians().sin_cos();
        let (x, z) = (x * c - z * s, z * c + x * s);
        let (s, c) = roll.to_radians().sin_cos();
        [320.0 + x * c - y * s, 200.0 + x * s + y * c, z - 40.0]
    }

    fn mesh(angles: [f64; 3], scale: f64) -> Vec<Point> {
        let mut points = vec![[f64::NAN; 3]; 468]; // what is not rigid does not count
        mean_face().for_each(|(i, at, _)| points[i] = turned(at, angles, scale));
        points
    }

    fn pose(points: &[Point]) -> Option<HeadPose> {
        HeadPose::fit(|i| points.get(i).copied())
    }

    /// Uniform in -1..1.
    fn noise(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        }
    }

    fn rotated() -> impl Strategy<Value = [f64; 3]> {
        [-80.0..80.0, -80.0..80.0, -170.0..170.0]
    }

    proptest! {
        #[test]
        fn any_turn_is_told(angles in rotated(), scale in 1e-3..1e4) {
            let found = pose(&mesh(angles, scale)).expect("a pose");
            for (seen, wanted) in found.angles().iter().zip(angles) {
                prop_assert!((seen - wanted).abs() < 1e-6, "{:?}, not {angles:?}", found.angles());
            }
            prop_assert!((found.scale / scale - 1.0).abs() < 1e-9 && found.residual < 1e-6);
        }

        #[test]
        fn a_mirrored_face_looks_to_the_other_side(angles in rotated(), seed in 0u64..1000) {
            let mut draw = noise(seed);
            let mut points = mesh(angles, 100.0);
            points.iter_mut().flatten().for_each(|v| *v += 2.0 * draw());
            let mut mirrored = points.clone();
            for (right, left, ..) in RIGID {
                mirrored[right] = [640.0 - points[left][0], points[left][1], points[left][2]];
                mirrored[left] = [640.0 - points[right][0], points[right][1], points[right][2]];
            }
            let [one, other] = [&points, &mirrored].map(|p| pose(p).expect("a pose").angles());
            for (k, sign) in [-1.0, 1.0, -1.0].into_iter().enumerate() {
                prop_assert!((one[k] - sign * other[k]).abs() < 1e-6, "{one:?} {other:?}");
            }
        }
    }

    /// Errors of up to 3% of the distance of the eyes on every coordinate.
    #[test]
    fn noise_moves_the_angles_little() {
        let (mut worst, mut sum) = (0.0f64, 0.0);
        for seed in 0..200 {
            let mut draw = noise(seed);
            let angles = [30.0 * draw(), 20.0 * draw(), 20.0 * draw()];
            let mut points = mesh(angles, 60.0);
            points.iter_mut().flatten().for_each(|v| *v += 1.8 * draw());
            let found = pose(&points).expect("a pose").angles();
            for (seen, wanted) in found.iter().zip(angles) {
                worst = worst.max((seen - wanted).abs());
                sum += (seen - wanted).powi(2);
            }
        }
        let typical = (sum / 600.0f64).sqrt();
        assert!(typical < 0.6 && worst < 2.0, "{typical} degrees, at most {worst}");
    }

    #[test]
    fn what_is_no_face_has_no_pose() {
        let face = mesh([10.0, 5.0, -5.0], 100.0);
        assert_eq!(pose(&[]), None, "no mesh");
        assert_eq!(pose(&vec![[3.0; 3]; 468]), None, "a point");
        assert_eq!(pose(&(0..468).map(|i| [f64::from(i), 2.0 * f64::from(i), 0.0]).collect::<Vec<_>>()), None, "a line");
        let with = |i: usize, at: Point| {
            let mut points = face.clone();
            points[i] = at;
            pose(&points)
        };
        assert_eq!(with(33, [f64::NAN, 0.0, 0.0]), None);
        assert_eq!(with(33, [f64::INFINITY, 0.0, 0.0]), None);
        assert_eq!(with(33, [1e300, 0.0, 0.0]), None, "squares that are not finite");
        assert_eq!(with(33, [5e4, 0.0, 0.0]), None, "one point far away");
        let inside_out: Vec<Point> = face.iter().map(|p| [p[0], p[1], -p[2]]).collect();
        assert_eq!(pose(&inside_out), None, "a mirroring is no turn");
        let mut draw = noise(7);
        let cloud: Vec<Point> = (0..468).map(|_| [100.0 * draw(), 100.0 * draw(), 100.0 * draw()]).collect();
        assert_eq!(pose(&cloud), None, "points anywhere");
    }
}
