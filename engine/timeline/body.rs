//! The body on the timeline: joint angles, speeds, energy, symmetry.

use super::{
    Column, mass,
    series::{Grid, Series, median},
};
use crate::extract::{Observed, main_of};
use dreamseed_models::pose::Person;

/// Joints and the landmarks (MediaPipe's numbers) on either side of each. All angles are of the 3D landmarks in metres: 180 is
/// straight for elbow, hip and knee; at the shoulder 0 is an arm along the trunk; at the ankle, shin to toe, 90 is a foot flat under
/// an upright shin.
#[rustfmt::skip]
const JOINTS: [(&str, [usize; 3]); 10] = [
    ("left_elbow", [11, 13, 15]), ("right_elbow", [12, 14, 16]), ("left_shoulder", [23, 11, 13]), ("right_shoulder", [24, 12, 14]),
    ("left_hip", [11, 23, 25]), ("right_hip", [12, 24, 26]), ("left_knee", [23, 25, 27]), ("right_knee", [24, 26, 28]),
    ("left_ankle", [25, 27, 31]), ("right_ankle", [26, 28, 32]),
];

/// The twelve landmarks whose mean speed is the motion of the body; `true` for those with a column of their own.
#[rustfmt::skip]
const MOVERS: [(&str, usize, bool); 12] = [
    ("left_shoulder", 11, false), ("right_shoulder", 12, false), ("left_elbow", 13, false), ("right_elbow", 14, false),
    ("left_wrist", 15, true), ("right_wrist", 16, true), ("left_hip", 23, true), ("right_hip", 24, true),
    ("left_knee", 25, false), ("right_knee", 26, false), ("left_ankle", 27, true), ("right_ankle", 28, true),
];

/// Landmarks less visible than this are not measured.
const VISIBLE: f32 = 0.5;

/// Columns `pose.JOINT.angle` (deg), `pose.JOINT.velocity` (deg/s), `pose.trunk.lean` (deg from the vertical),
/// `pose.LIMB.speed`, `pose.motion` (mean speed, m/s), `pose.asymmetry` (mean |left - right|, deg), `pose.JOINT.difference` (left
/// less right, deg), and by mass `pose.energy`, `pose.LIMB.energy`, `pose.mass.height`, `pose.mass.travel` (see [`mass`]).
///
/// Speeds are of the landmarks in the picture, brought to metres by the ratio of the body's size in metres to its size in pixels
/// (median over the clip): steady, and with the body's travel; movement towards the camera does not count.
pub(super) fn columns(track: &[Observed<Person>], grid: Grid) -> Vec<Column> {
    let mut columns = Vec::new();
    let mut angles = Vec::new();
    for (name, [a, b, c]) in JOINTS {
        let angle = series(track, |_, p| angle(world(p, a)?, world(p, b)?, world(p, c)?));
        columns.push(grid.column(format!("pose.{name}.angle"), "deg", angle.linear(grid)));
        columns.push(grid.column(format!("pose.{name}.velocity"), "deg/s", angle.slope().linear(grid)));
        angles.push(angle);
    }
    columns.push(grid.column("pose.trunk.lean", "deg", series(track, |_, p| lean(p)).linear(grid)));
    for (pair, (name, _)) in angles.chunks_exact(2).zip(JOINTS.iter().step_by(2)) {
        let apart = pair[0].with(pair[0].v.iter().zip(&pair[1].v).map(|(l, r)| Some((*l)? - (*r)?)).collect());
        let joint = name.trim_start_matches("left_");
        columns.push(grid.column(format!("pose.{joint}.difference"), "deg", apart.linear(grid)));
    }
    // Toes are seen less surely than the rest: ankles do not count.
    columns.push(grid.column("pose.asymmetry", "deg", asymmetry(&angles[..8]).linear(grid)));
    let main = main_of(track);
    let metres = median(track.iter().filter_map(|o| metres_per_pixel(o, main(o)?)).collect());
    let mut speeds = Vec::new();
    for (name, landmark, own) in MOVERS {
        let along = |axis: usize| series(track, |o, p| Some(pixel(o, p, landmark)?[axis] * metres?)).slope();
        let (x, y) = (along(0), along(1));
        let speed = x.with(x.v.iter().zip(&y.v).map(|(x, y)| Some((*x)?.hypot((*y)?))).collect());
        if own {
            columns.push(grid.column(format!("pose.{name}.speed"), "m/s", speed.linear(grid)));
        }
        speeds.push(speed);
    }
    columns.push(grid.column("pose.motion", "m/s", mean_of(&speeds).linear(grid)));
    let place = |landmark: usize| [0, 1].map(|axis| series(track, |o, p| Some(pixel(o, p, landmark)?[axis] * metres?)).v);
    let times = series(track, |_, _| None);
    columns.extend(mass::columns(&times, &place, grid));
    columns
}

/// One value a frame of the main person.
fn series(track: &[Observed<Person>], value: impl Fn(&Observed<Person>, &Person) -> Option<f64>) -> Series {
    let main = main_of(track);
    Series::new(track.iter().map(|o| (o.t, main(o).and_then(|p| value(o, p)))))
}

/// A visible landmark in metres.
fn world(person: &Person, landmark: usize) -> Option<[f64; 3]> {
    let seen = person.landmarks.get(landmark)?.visibility >= VISIBLE;
    seen.then_some(person.world.get(landmark)?.map(f64::from))
}

/// A visible landmark in pixels.
fn pixel(frame: &Observed<Person>, person: &Person, landmark: usize) -> Option<[f64; 2]> {
    let l = person.landmarks.get(landmark).filter(|l| l.visibility >= VISIBLE)?;
    Some([f64::from(l.x) * f64::from(frame.width), f64::from(l.y) * f64::from(frame.height)])
}

/// Angle at `b`, degrees; `None` where two points fall together.
fn angle(a: [f64; 3], b: [f64; 3], c: [f64; 3]) -> Option<f64> {
    between(minus(a, b), minus(c, b))
}

fn minus(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn between(u: [f64; 3], v: [f64; 3]) -> Option<f64> {
    let dot = |a: [f64; 3], b: [f64; 3]| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    let norm = (dot(u, u) * dot(v, v)).sqrt();
    (norm > 1e-12).then(|| (dot(u, v) / norm).clamp(-1.0, 1.0).acos().to_degrees())
}

/// Angle of the line from the hips' middle to the shoulders' middle to the picture's vertical.
fn lean(p: &Person) -> Option<f64> {
    let middle = |a: usize, b: usize| {
        let (a, b) = (world(p, a)?, world(p, b)?);
        Some([0, 1, 2].map(|i| (a[i] + b[i]) / 2.0))
    };
    between(minus(middle(11, 12)?, middle(23, 24)?), [0.0, -1.0, 0.0])
}

/// Mean difference between the left and the right joint's angle, over the pairs that are seen.
fn asymmetry(angles: &[Series]) -> Series {
    let Some(first) = angles.first() else { return Series::default() };
    let at = |i: usize| {
        let pairs = angles.chunks_exact(2).filter_map(|p| Some((p[0].v[i]? - p[1].v[i]?).abs()));
        let (sum, n) = pairs.fold((0.0, 0u32), |(s, n), d| (s + d, n + 1));
        (n > 0).then(|| sum / f64::from(n))
    };
    first.with((0..first.t.len()).map(at).collect())
}

/// Mean over the landmarks, where at least half of them are known.
fn mean_of(speeds: &[Series]) -> Series {
    let Some(first) = speeds.first() else { return Series::default() };
    let at = |i: usize| {
        let (sum, n) = speeds.iter().filter_map(|s| s.v[i]).fold((0.0, 0usize), |(s, n), v| (s + v, n + 1));
        (2 * n >= speeds.len()).then(|| sum / n as f64)
    };
    first.with((0..first.t.len()).map(at).collect())
}

/// A landmark in pixels and in metres.
type Pair = ([f64; 2], [f64; 2]);

/// Spread of the visible landmarks about their middle in metres over that in pixels, both in the plane of the picture.
fn metres_per_pixel(frame: &Observed<Person>, person: &Person) -> Option<f64> {
    let points: Vec<Pair> = (11..person.landmarks.len().min(33))
        .filter_map(|i| Some((pixel(frame, person, i)?, world(person, i).map(|w| [w[0], w[1]])?)))
        .filter(|(p, w)| p.iter().chain(w).all(|v| v.is_finite()))
        .collect();
    if points.len() < 6 {
        return None;
    }
    let spread = |get: fn(&Pair) -> [f64; 2]| {
        let n = points.len() as f64;
        let middle = [0, 1].map(|k| points.iter().map(|p| get(p)[k]).sum::<f64>() / n);
        points.iter().map(|p| (get(p)[0] - middle[0]).powi(2) + (get(p)[1] - middle[1]).powi(2)).sum::<f64>().sqrt()
    };
    let (pixels, metres) = (spread(|p| p.0), spread(|p| p.1));
    (pixels > 1.0 && metres > 1e-3).then(|| metres / pixels)
}
