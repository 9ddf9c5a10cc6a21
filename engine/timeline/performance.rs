//! A performance against a reference, pose by pose along the alignment: OKS, PCK@0.2, PA-MPJPE.

use serde::Serialize;

use super::series::median;
use crate::extract::{Observed, main_of};
use dreamseed_models::pose::Person;

/// COCO's 17 keypoints: name, MediaPipe's landmark, falloff (Lin et al. 2014; the constants of cocoeval).
#[rustfmt::skip]
pub const JOINTS: [(&str, usize, f64); 17] = [
    ("nose", 0, 0.026), ("left_eye", 2, 0.025), ("right_eye", 5, 0.025), ("left_ear", 7, 0.035), ("right_ear", 8, 0.035),
    ("left_shoulder", 11, 0.079), ("right_shoulder", 12, 0.079), ("left_elbow", 13, 0.072), ("right_elbow", 14, 0.072),
    ("left_wrist", 15, 0.062), ("right_wrist", 16, 0.062), ("left_hip", 23, 0.107), ("right_hip", 24, 0.107),
    ("left_knee", 25, 0.087), ("right_knee", 26, 0.087), ("left_ankle", 27, 0.089), ("right_ankle", 28, 0.089),
];

/// The joint on the other side.
#[rustfmt::skip]
const OTHER: [usize; 17] = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15];

/// Landmarks less visible than this are not compared.
const VISIBLE: f32 = 0.5;
/// Joints that both must show for a pose to be compared.
const LEAST: usize = 8;
/// Width of the stretch that differs most, seconds.
const MOMENT: f64 = 1.0;
/// Share of the torso within which a keypoint is correct.
const CORRECT: f64 = 0.2;

/// How near the poses of a learner are to those of a teacher.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Performance {
    /// Poses compared, one a frame of the learner.
    pub poses: usize,
    /// Object keypoint similarity, 0..1, the mean over the poses: the learner's body is laid on the teacher's hips and brought to
    /// the size of the teacher's torso first; the area is that of the box around the teacher's keypoints.
    pub oks: f64,
    /// Share of the keypoints, laid on likewise, within 0.2 of the teacher's torso (left shoulder to right hip, Sapp and Taskar
    /// 2013) of the teacher's.
    pub pck: f64,
    /// Mean distance of the joints in space after the best rotation, scale and shift of each pose (Procrustes), millimetres.
    pub pa_mpjpe: f64,
    /// The joint that is furthest off in space on average.
    pub worst_joint: &'static str,
    /// Its mean distance, millimetres.
    pub worst_joint_error: f64,
    /// Seconds of the learner's clip in which the poses differ most in space.
    pub worst_span: [f64; 2],
    /// Mean PA-MPJPE there, millimetres.
    pub worst_span_error: f64,
}

/// One person's 17 keypoints; `None` where not seen.
struct Pose {
    picture: [Option<[f64; 2]>; 17], // pixels
    space: [Option<[f64; 3]>; 17],   // metres
}

/// Compares the main persons along `path` ([seconds of the learner, seconds of the teacher]). `mirrored`: the teacher's mirror
/// image is the reference. `None` where no pose of the one meets one of the other with at least eight joints in common.
pub fn performance(
    learner: &[Observed<Person>],
    teacher: &[Observed<Person>],
    path: &[[f64; 2]],
    mirrored: bool,
) -> Option<Performance> {
    let (mut oks, mut correct, mut seen) = (0.0, 0usize, 0usize);
    let mut errors: Vec<(f64, f64)> = Vec::new(); // (learner's time, mm)
    let mut joints = [(0.0, 0usize); 17];
    let step = |times: &mut dyn Iterator<Item = f64>| {
        let times: Vec<f64> = times.collect();
        median(times.windows(2).map(|w| w[1] - w[0]).filter(|d| *d > 0.0).collect()).unwrap_or(0.0)
    };
    let (reach, far) = (0.5 * step(&mut path.iter().map(|p| p[0])), 0.5 * step(&mut teacher.iter().map(|o| o.t)));
    let (own_main, shown_main) = (main_of(learner), main_of(teacher));
    for frame in learner {
        // The middle of where the path passes this frame: a wait of the teacher is one pose, not many.
        let from = path.partition_point(|p| p[0] < frame.t - reach - 1e-9);
        let to = path.partition_point(|p| p[0] <= frame.t + reach + 1e-9);
        let there = path.get(from..to).and_then(|part| median(part.iter().map(|p| p[1]).collect()));
        let Some(shown) = there.and_then(|t| nearest(teacher, t, far)) else { continue };
        let (Some(own), Some(person)) = (own_main(frame), shown_main(shown)) else { continue };
        let (own, shown) = (Pose::new(frame, own, false), Pose::new(shown, person, mirrored));
        let Some(distances) = in_space(&own.space, &shown.space) else { continue };
        let Some((similarity, right, of)) = in_picture(&own.picture, &shown.picture) else { continue };
        oks += similarity;
        correct += right;
        seen += of;
        let known = || distances.iter().flatten();
        errors.push((frame.t, 1e3 * known().sum::<f64>() / known().count().max(1) as f64));
        for (joint, d) in joints.iter_mut().zip(distances) {
            *joint = d.map_or(*joint, |d| (joint.0 + 1e3 * d, joint.1 + 1));
        }
    }
    let poses = errors.len();
    let often = |&(_, &(_, n)): &(usize, &(f64, usize))| 2 * n >= poses && n > 0;
    let off = |j: &(f64, usize)| j.0 / j.1 as f64;
    let worst = joints.iter().enumerate().filter(often).max_by(|a, b| off(a.1).total_cmp(&off(b.1)))?;
    let (worst_span, worst_span_error) = worst_moment(&errors)?;
    Some(Performance {
        poses,
        oks: oks / poses as f64,
        pck: correct as f64 / seen.max(1) as f64,
        pa_mpjpe: errors.iter().map(|e| e.1).sum::<f64>() / poses as f64,
        worst_joint: JOINTS[worst.0].0,
        worst_joint_error: off(worst.1),
        worst_span,
        worst_span_error,
    })
}

/// The frame nearest to `t`, at most `far` or a tenth of a second away.
fn nearest(track: &[Observed<Person>], t: f64, far: f64) -> Option<&Observed<Person>> {
    let next = track.partition_point(|o| o.t < t);
    let around = track.get(next.saturating_sub(1)..(next + 1).min(track.len()))?;
    let near = around.iter().min_by(|a, b| (a.t - t).abs().total_cmp(&(b.t - t).abs()))?;
    ((near.t - t).abs() <= far.max(0.1) + 1e-9).then_some(near)
}

/// The stretch of a second with the largest mean.
fn worst_moment(errors: &[(f64, f64)]) -> Option<([f64; 2], f64)> {
    let (first, last) = (errors.first()?.0, errors.last()?.0);
    let (mut to, mut sum, mut worst) = (0, 0.0, None);
    for (from, &(begin, error)) in errors.iter().enumerate() {
        while to < errors.len() && errors[to].0 <= begin + MOMENT + 1e-9 {
            sum += errors[to].1;
            to += 1;
        }
        let mean = sum / (to - from) as f64;
        // A stretch that the clip cuts short is none, unless the clip is.
        let whole = begin == first || begin + MOMENT <= last + 1e-9;
        if whole && worst.is_none_or(|(_, most)| mean > most) {
            worst = Some(([begin, errors[to - 1].0], mean));
        }
        sum -= error;
    }
    worst
}

impl Pose {
    fn new(frame: &Observed<Person>, person: &Person, mirrored: bool) -> Self {
        let joint = |i: usize| JOINTS[if mirrored { OTHER[i] } else { i }].1;
        let visible = |i: usize| person.landmarks.get(joint(i)).filter(|l| l.visibility >= VISIBLE);
        let side = if mirrored { -1.0 } else { 1.0 };
        let picture = std::array::from_fn(|i| {
            let l = visible(i)?;
            let point = [side * f64::from(l.x) * f64::from(frame.width), f64::from(l.y) * f64::from(frame.height)];
            point.iter().all(|v| v.is_finite()).then_some(point)
        });
        let space = std::array::from_fn(|i| {
            visible(i)?;
            let [x, y, z] = person.world.get(joint(i))?.map(f64::from);
            [x, y, z].iter().all(|v| v.is_finite()).then_some([side * x, y, z])
        });
        Self { picture, space }
    }
}

/// OKS, keypoints within 0.2 of the torso, and keypoints that both show; `None` without both hips and shoulders in both.
fn in_picture(own: &[Option<[f64; 2]>; 17], shown: &[Option<[f64; 2]>; 17]) -> Option<(f64, usize, usize)> {
    let middle = |p: &[Option<[f64; 2]>; 17], a: usize, b: usize| -> Option<[f64; 2]> {
        let (a, b) = (p[a]?, p[b]?);
        Some([0, 1].map(|k| (a[k] + b[k]) / 2.0))
    };
    let apart = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).hypot(a[1] - b[1]);
    let (hips, their_hips) = (middle(own, 11, 12)?, middle(shown, 11, 12)?);
    let (trunk, their_trunk) = (apart(middle(own, 5, 6)?, hips), apart(middle(shown, 5, 6)?, their_hips));
    let torso = apart(shown[5]?, shown[12]?);
    if !(trunk > 1e-6 && their_trunk > 1e-6 && torso > 1e-6) {
        return None;
    }
    let scale = their_trunk / trunk;
    let laid = own.map(|p| p.map(|p| [0, 1].map(|k| (p[k] - hips[k]) * scale + their_hips[k])));
    let pairs: Vec<(f64, f64)> = (0..17).filter_map(|i| Some((apart(laid[i]?, shown[i]?), JOINTS[i].2))).collect();
    let span = |k: usize| {
        let all = || shown.iter().flatten().map(move |p| p[k]);
        all().fold(f64::MIN, f64::max) - all().fold(f64::MAX, f64::min)
    };
    let area = span(0) * span(1);
    let alike = |&(d, falloff): &(f64, f64)| (-d * d / (2.0 * area * (2.0 * falloff).powi(2))).exp();
    let oks = pairs.iter().map(alike).sum::<f64>() / pairs.len() as f64;
    let correct = pairs.iter().filter(|p| p.0 <= CORRECT * torso).count();
    (pairs.len() >= LEAST && area > 0.0).then_some((oks, correct, pairs.len()))
}

/// Distances in metres of the joints that both show after the rotation (never a reflection), scale and shift of the learner's
/// pose that make their squares least. The rotation is the quaternion of Horn (1987), "Closed-form solution of absolute
/// orientation using unit quaternions".
fn in_space(own: &[Option<[f64; 3]>; 17], shown: &[Option<[f64; 3]>; 17]) -> Option<[Option<f64>; 17]> {
    let both: Vec<usize> = (0..17).filter(|&i| own[i].is_some() && shown[i].is_some()).collect();
    if both.len() < LEAST {
        return None;
    }
    // 1. about the middles
    let centred = |p: &[Option<[f64; 3]>; 17]| -> Vec<[f64; 3]> {
        let known = || both.iter().filter_map(|&i| p[i]);
        let middle = [0, 1, 2].map(|k| known().map(|v| v[k]).sum::<f64>() / both.len() as f64);
        known().map(|v| [0, 1, 2].map(|k| v[k] - middle[k])).collect()
    };
    let (from, to) = (centred(own), centred(shown));
    let size: f64 = from.iter().flatten().map(|v| v * v).sum();
    if size < 1e-9 {
        return None;
    }
    // 2. rotation and scale
    let s = |a: usize, b: usize| from.iter().zip(&to).map(|(f, t)| f[a] * t[b]).sum::<f64>();
    let (xx, yy, zz) = (s(0, 0), s(1, 1), s(2, 2));
    let (a, b, c) = (s(1, 2) - s(2, 1), s(2, 0) - s(0, 2), s(0, 1) - s(1, 0));
    let (d, e, f) = (s(0, 1) + s(1, 0), s(2, 0) + s(0, 2), s(1, 2) + s(2, 1));
    let (value, [w, x, y, z]) =
        largest([[xx + yy + zz, a, b, c], [a, xx - yy - zz, d, e], [b, d, yy - xx - zz, f], [c, e, f, zz - xx - yy]]);
    let rotation = [
        [w * w + x * x - y * y - z * z, 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)],
        [2.0 * (x * y + w * z), w * w - x * x + y * y - z * z, 2.0 * (y * z - w * x)],
        [2.0 * (x * z - w * y), 2.0 * (y * z + w * x), w * w - x * x - y * y + z * z],
    ];
    let scale = value / size;
    // 3. what is left
    let mut distances = [None; 17];
    for ((&i, p), q) in both.iter().zip(&from).zip(&to) {
        let turned = rotation.map(|r| scale * (r[0] * p[0] + r[1] * p[1] + r[2] * p[2]));
        distances[i] = Some((0..3).map(|k| (turned[k] - q[k]).powi(2)).sum::<f64>().sqrt());
    }
    Some(distances)
}

/// Largest eigenvalue of a symmetric matrix and its unit eigenvector, by Jacobi's rotations.
fn largest(mut m: [[f64; 4]; 4]) -> (f64, [f64; 4]) {
    let mut v = [[0.0; 4]; 4]; // columns are the eigenvectors
    (0..4).for_each(|i| v[i][i] = 1.0);
    for _ in 0..30 {
        for (p, q) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] {
            if m[p][q].abs() < 1e-300 {
                continue;
            }
            let theta = (m[q][q] - m[p][p]) / (2.0 * m[p][q]);
            let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
            let cos = 1.0 / (t * t + 1.0).sqrt();
            let sin = t * cos;
            for row in m.iter_mut().chain(&mut v) {
                (row[p], row[q]) = (cos * row[p] - sin * row[q], sin * row[p] + cos * row[q]);
            }
            for k in 0..4 {
                (m[p][k], m[q][k]) = (cos * m[p][k] - sin * m[q][k], sin * m[p][k] + cos * m[q][k]);
            }
        }
    }
    let best = (0..4).max_by(|&a, &b| m[a][a].total_cmp(&m[b][b])).unwrap_or(0);
    (m[best][best], v.map(|row| row[best]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dreamseed_models::pose::Landmark;

    /// 33 landmarks in a picture of 1,000 x 1,000 and in metres, from 17 of each.
    fn person(picture: &[[f64; 2]], space: &[[f64; 3]]) -> Observed<Person> {
        let (mut landmarks, mut world) = (vec![Landmark::default(); 33], vec![[0f32; 3]; 33]);
        for (i, (_, at, _)) in JOINTS.iter().enumerate() {
            let [x, y] = picture[i].map(|v| (v / 1000.0) as f32);
            landmarks[*at] = Landmark { x, y, z: 0.0, visibility: 1.0 };
            world[*at] = space[i].map(|v| v as f32);
        }
        Observed { t: 0.0, width: 1000, height: 1000, found: vec![Person { id: 0, score: 1.0, landmarks, world }] }
    }

    fn one(o: &Observed<Person>) -> &[Observed<Person>] {
        std::slice::from_ref(o)
    }

    fn golden() -> Vec<serde_json::Value> {
        serde_json::from_str(include_str!("performance.json")).unwrap()
    }

    fn points<const N: usize>(v: &serde_json::Value) -> Vec<[f64; N]> {
        let point = |p: &serde_json::Value| std::array::from_fn(|k| p[k].as_f64().unwrap());
        v.as_array().unwrap().iter().map(point).collect()
    }

    #[test]
    fn the_measures_are_those_of_numpy_and_scipy() {
        for row in golden() {
            let own = person(&points(&row["learner"]["picture"]), &points(&row["learner"]["space"]));
            let shown = person(&points(&row["teacher"]["picture"]), &points(&row["teacher"]["space"]));
            let p = performance(one(&own), one(&shown), &[[0.0, 0.0]], row["mirrored"].as_bool().unwrap()).unwrap();
            let near = |name: &str, value: f64, tolerance: f64| {
                let want = row[name].as_f64().unwrap();
                assert!((value - want).abs() <= tolerance, "{name}: {value}, not {want}");
            };
            near("oks", p.oks, 1e-5);
            near("pck", p.pck, 1e-6);
            near("pa_mpjpe", p.pa_mpjpe, 1e-3);
            near("worst_joint_error", p.worst_joint_error, 1e-3);
            assert_eq!(p.worst_joint, row["worst_joint"]);
        }
    }

    #[test]
    fn the_same_pose_elsewhere_is_the_same_and_a_mirror_image_is_not() {
        let row = &golden()[0];
        let (picture, space) = (points::<2>(&row["teacher"]["picture"]), points::<3>(&row["teacher"]["space"]));
        let shown = person(&picture, &space);
        // Half the size, elsewhere; turned by a quarter in space.
        let small: Vec<[f64; 2]> = picture.iter().map(|p| [100.0 + 0.5 * p[0], 30.0 + 0.5 * p[1]]).collect();
        let turned: Vec<[f64; 3]> = space.iter().map(|p| [1.0 + 0.7 * p[2], 0.7 * p[1], -0.7 * p[0]]).collect();
        let same = performance(&[person(&small, &turned)], one(&shown), &[[0.0, 0.0]], false).unwrap();
        assert!(same.oks > 0.9999 && same.pck == 1.0 && same.pa_mpjpe < 0.01, "{same:?}");
        let mirror = |i: usize| OTHER[i];
        let flat: Vec<[f64; 2]> = (0..17).map(|i| [1000.0 - picture[mirror(i)][0], picture[mirror(i)][1]]).collect();
        let space: Vec<[f64; 3]> = (0..17).map(|i| space[mirror(i)]).map(|[x, y, z]| [-x, y, z]).collect();
        let image = person(&flat, &space);
        let as_image = performance(one(&image), one(&shown), &[[0.0, 0.0]], true).unwrap();
        assert!(as_image.oks > 0.9999 && as_image.pa_mpjpe < 0.01, "{as_image:?}");
        let plain = performance(one(&image), one(&shown), &[[0.0, 0.0]], false).unwrap();
        assert!(plain.oks < 0.9 && plain.pa_mpjpe > 5.0, "{plain:?}");
    }

    #[test]
    fn where_the_main_person_is_hidden_nobody_else_is_compared() {
        let row = &golden()[0];
        let (picture, space) = (points::<2>(&row["teacher"]["picture"]), points::<3>(&row["teacher"]["space"]));
        let shown = person(&picture, &space);
        // A smaller one behind, with another pose: the arms and legs the other way round.
        let small: Vec<[f64; 2]> = picture.iter().map(|p| [700.0 + 0.3 * p[0], 600.0 - 0.3 * p[1]]).collect();
        let bent: Vec<[f64; 3]> = space.iter().map(|p| [p[0], p[1].abs(), 0.3 - p[2]]).collect();
        let mut other = person(&small, &bent).found.remove(0);
        other.id = 1;
        let frame = |i: usize, with: &[&Person]| Observed {
            t: i as f64 * 0.1,
            found: with.iter().map(|p| (*p).clone()).collect(),
            ..shown.clone()
        };
        let main = &shown.found[0];
        let (both, hidden) = ([main, &other], [&other]);
        let seen = |i: usize| if (4..7).contains(&i) { frame(i, &hidden) } else { frame(i, &both) };
        let (learner, teacher): (Vec<_>, Vec<_>) = ((0..10).map(seen).collect(), (0..10).map(|i| frame(i, &[main])).collect());
        let path: Vec<[f64; 2]> = (0..10).map(|i| [i as f64 * 0.1; 2]).collect();
        let p = performance(&learner, &teacher, &path, false).unwrap();
        assert!(p.poses == 7 && p.oks > 0.9999 && p.pa_mpjpe < 0.01, "{p:?}");
        let p = performance(&teacher, &learner, &path, false).unwrap();
        assert!(p.poses == 7 && p.oks > 0.9999 && p.pa_mpjpe < 0.01, "{p:?}");
    }

    #[test]
    fn what_cannot_be_compared_is_nothing() {
        let row = &golden()[0];
        let good = person(&points(&row["teacher"]["picture"]), &points(&row["teacher"]["space"]));
        let path = [[0.0, 0.0]];
        assert!(performance(&[], &[], &path, false).is_none());
        assert!(performance(one(&good), one(&good), &[], false).is_none());
        let mut hidden = good.clone();
        hidden.found[0].landmarks[23].visibility = 0.1; // a hip
        assert!(performance(one(&hidden), one(&good), &path, false).is_none());
        let (mut short, mut point, mut broken) = (good.clone(), good.clone(), good.clone());
        short.found[0].world.truncate(3);
        point.found[0].world.fill([0.0; 3]);
        broken.found[0].world.fill([f32::NAN; 3]);
        for bad in [short, point, broken] {
            assert!(performance(one(&bad), one(&good), &path, false).is_none());
        }
    }
}
