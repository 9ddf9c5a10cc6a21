//! A learner's timeline against a teacher's: alignment by dynamic time warping.

use dreamseed_models::dtw::{Band, tempo, warp};

use super::{Column, Timeline, series::median};

/// How two clips go together in time.
#[derive(Clone, Debug, PartialEq)]
pub struct Alignment {
    /// [seconds of the learner, seconds of the teacher], both never falling.
    pub path: Vec<[f64; 2]>,
    /// Root mean square difference along the path, in standard deviations of the features.
    pub distance: f64,
    /// Seconds of the learner for a second of the teacher: above 1 is slower. Over the middle 90% of the path.
    pub tempo: f64,
    /// Median of learner less teacher, seconds: positive is late.
    pub lag: f64,
    /// The columns it was made from.
    pub columns: Vec<String>,
}

/// Families of columns that clips are aligned by, the first that both have: what the body does is surer than how it sounds.
const FAMILIES: [&[&str]; 3] = [
    &[
        "pose.left_elbow.angle",
        "pose.right_elbow.angle",
        "pose.left_shoulder.angle",
        "pose.right_shoulder.angle",
        "pose.left_hip.angle",
        "pose.right_hip.angle",
        "pose.left_knee.angle",
        "pose.right_knee.angle",
        "pose.trunk.lean",
    ],
    &["prosody.semitones", "prosody.intensity", "prosody.voiced"],
    &["head.yaw", "head.pitch", "head.roll", "face.mouth_open", "face.brow_raise"],
];

/// Share of the rows of a column that must be valid for it to be used.
const VALID: f64 = 0.2;
/// Half width of the band about the diagonal (Sakoe and Chiba 1978): so much of the longer clip, but at least so many seconds.
const BAND: f64 = 0.15;
const LEAST_BAND: f64 = 1.5;
/// Cells of the band that are held at once, a byte each; longer clips are compared at fewer rows a second.
const MAX_CELLS: usize = 64 << 20;
/// What a step that is not diagonal costs on top, in squared standard deviations: where the rows tell nothing (gaps, standing
/// still) time runs on in both clips.
const STRAY: f64 = 0.02;

/// Aligns `learner` to `teacher` by the columns named, or by the first family of columns that both have enough of (joint angles,
/// voice, face). `None` where there is nothing to compare or a clip is shorter than four rows.
///
/// Features are z-scores over both clips; a row's distance is the mean over the columns that are valid in both, 0 where there is none. Steps are
/// Sakoe and Chiba's symmetric ones (a diagonal step counts twice), so that neither clip is preferred.
pub fn align(learner: &Timeline, teacher: &Timeline, columns: Option<&[&str]>) -> Option<Alignment> {
    if !(learner.rate > 0.0 && teacher.rate > 0.0) {
        return None;
    }
    let usable = |names: &[&str]| -> Vec<String> {
        let both = |n: &&&str| [learner, teacher].iter().all(|t| t.column(n).is_some_and(enough));
        names.iter().filter(both).map(|n| n.to_string()).collect()
    };
    let columns = match columns {
        Some(names) => usable(names),
        None => FAMILIES.iter().map(|f| usable(f)).find(|f| !f.is_empty())?,
    };
    let (mut a, mut b): (Vec<_>, Vec<_>) =
        columns.iter().filter_map(|n| Some((learner.column(n)?, teacher.column(n)?))).map(scored).unzip();
    if a.is_empty() {
        return None;
    }
    // Long clips: every k-th row.
    let stride = |n: usize, m: usize| {
        let cells = |k: usize| (n / k).saturating_mul(2 * half_band(n / k, m / k, learner.rate / k as f64) + 1);
        (1..).find(|&k| cells(k) <= MAX_CELLS).unwrap_or(1)
    };
    let k = stride(a[0].len(), b[0].len());
    for column in a.iter_mut().chain(&mut b) {
        *column = column.iter().step_by(k).copied().collect();
    }
    let (n, m) = (a[0].len(), b[0].len());
    if n < 4 || m < 4 {
        return None;
    }
    let band = Band { half: half_band(n, m, learner.rate / k as f64), stray: STRAY };
    let steps = warp(n, m, band, |i, j| distance(&a, &b, i, j));
    let path: Vec<[f64; 2]> =
        steps.iter().map(|&(i, j)| [(i * k) as f64 / learner.rate, (j * k) as f64 / teacher.rate]).collect();
    let apart: f64 = steps.iter().map(|&(i, j)| f64::from(distance(&a, &b, i, j))).sum();
    let lag = median(path.iter().map(|p| p[0] - p[1]).collect()).unwrap_or(0.0);
    Some(Alignment { tempo: tempo(&path), distance: (apart / steps.len() as f64).sqrt(), lag, path, columns })
}

/// How a learner follows a teacher who may stand in front as a mirror image.
#[derive(Clone, Debug)]
pub struct Followed {
    /// `None` where there is nothing to compare.
    pub alignment: Option<Alignment>,
    /// The teacher's timeline with left and right exchanged, where the learner follows that one.
    pub mirror: Option<Timeline>,
}

/// A mirrored alignment must be nearer than the plain one by this factor: a symmetric movement is not mirrored.
const MIRRORED: f64 = 0.8;

/// Aligns to the teacher as shown and to the teacher mirrored, and keeps the nearer one.
pub fn follow(learner: &Timeline, teacher: &Timeline) -> Followed {
    let alignment = align(learner, teacher, None);
    let body = alignment.as_ref().is_some_and(|a| a.columns.iter().any(|c| c.starts_with("pose.")));
    let mirror = body.then(|| exchanged(teacher));
    let other = mirror.as_ref().and_then(|m| align(learner, m, None));
    match (&alignment, other) {
        (Some(plain), Some(other)) if other.distance < MIRRORED * plain.distance => Followed { alignment: Some(other), mirror },
        _ => Followed { alignment, mirror: None },
    }
}

/// The same with left and right exchanged in the names of columns and events. What is signed left less right changes its sign.
fn exchanged(timeline: &Timeline) -> Timeline {
    let other = |name: &str| match (name.contains("left_"), name.contains("right_")) {
        (true, _) => name.replace("left_", "right_"),
        (_, true) => name.replace("right_", "left_"),
        _ => name.to_owned(),
    };
    let mut mirror = timeline.clone();
    for column in &mut mirror.columns {
        column.name = other(&column.name);
        if column.name.ends_with(".difference") {
            column.values.iter_mut().flatten().for_each(|v| *v = -*v);
        }
    }
    mirror.events.iter_mut().for_each(|e| e.label = other(&e.label));
    mirror
}

/// Learner less teacher of one column along the path: (learner's seconds, difference), where both are valid.
pub fn differences(learner: &Timeline, teacher: &Timeline, path: &[[f64; 2]], column: &str) -> Vec<(f64, f64)> {
    let at = |t: &Timeline, c: &Column, seconds: f64| c.values.get((seconds * t.rate).round() as usize).copied().flatten();
    let (Some(a), Some(b)) = (learner.column(column), teacher.column(column)) else { return Vec::new() };
    path.iter().filter_map(|p| Some((p[0], f64::from(at(learner, a, p[0])?) - f64::from(at(teacher, b, p[1])?)))).collect()
}

fn enough(column: &Column) -> bool {
    column.values.iter().flatten().count() as f64 >= VALID * column.values.len() as f64
        && column.values.iter().flatten().count() >= 2
}

/// Both clips' column as z-scores over the two together; NaN where invalid.
fn scored((a, b): (&Column, &Column)) -> (Vec<f32>, Vec<f32>) {
    let all = || a.values.iter().chain(&b.values).flatten().map(|&v| f64::from(v));
    let n = all().count().max(1) as f64;
    let mean = all().sum::<f64>() / n;
    let deviation = (all().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt().max(1e-6);
    let score =
        |c: &Column| c.values.iter().map(|v| v.map_or(f32::NAN, |v| ((f64::from(v) - mean) / deviation) as f32)).collect();
    (score(a), score(b))
}

fn distance(a: &[Vec<f32>], b: &[Vec<f32>], i: usize, j: usize) -> f32 {
    let (mut sum, mut n) = (0.0, 0u32);
    for (a, b) in a.iter().zip(b) {
        let d = a[i] - b[j];
        if !d.is_nan() {
            sum += d * d;
            n += 1;
        }
    }
    if n == 0 { 0.0 } else { sum / n as f32 }
}

fn half_band(n: usize, m: usize, rate: f64) -> usize {
    ((BAND * n.max(m) as f64).ceil() as usize).max((LEAST_BAND * rate).ceil() as usize).max(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Joint angles of a movement whose own time is `time(t)`.
    fn clip(seconds: f64, time: impl Fn(f64) -> f64) -> Timeline {
        let rows = (seconds * 25.0) as usize;
        let column = |name: &str, f: &dyn Fn(f64) -> f64| Column {
            name: name.into(),
            unit: "deg".into(),
            values: (0..rows).map(|i| Some(f(time(i as f64 / 25.0)) as f32)).collect(),
        };
        let columns = vec![
            column("pose.left_knee.angle", &|t| 120.0 + 40.0 * (2.1 * t).sin() + 10.0 * (0.7 * t).cos()),
            column("pose.right_elbow.angle", &|t| 90.0 + 30.0 * (1.3 * t + 0.5).cos()),
        ];
        Timeline { rate: 25.0, rows, columns, events: Vec::new(), duration: seconds }
    }

    #[test]
    fn a_clip_lies_on_itself() {
        let c = clip(8.0, |t| t);
        let a = align(&c, &c, None).unwrap();
        assert!(a.path.iter().all(|p| p[0] == p[1]) && a.distance == 0.0 && a.tempo == 1.0 && a.lag == 0.0);
        assert_eq!(a.columns.len(), 2);
        assert!(differences(&c, &c, &a.path, "pose.left_knee.angle").iter().all(|d| d.1 == 0.0));
    }

    #[test]
    fn a_slower_learner_is_slower() {
        let (learner, teacher) = (clip(10.0, |t| t / 1.25), clip(8.0, |t| t));
        let a = align(&learner, &teacher, None).unwrap();
        assert!((a.tempo - 1.25).abs() < 0.02, "{}", a.tempo);
        assert!(a.distance < 0.05);
        let worst = a.path.iter().map(|p| (p[0] / 1.25 - p[1]).abs()).fold(0.0, f64::max);
        assert!(worst <= 0.09, "{worst}");
        assert!(differences(&learner, &teacher, &a.path, "pose.left_knee.angle").iter().all(|d| d.1.abs() < 5.0));
    }

    #[test]
    fn a_late_passage_is_late_there_alone() {
        // From 3 to 5 s the learner falls 0.3 s behind, and catches up from 7 to 9 s.
        let behind = |t: f64| 0.3 * ((t - 3.0) / 2.0).clamp(0.0, 1.0) - 0.3 * ((t - 7.0) / 2.0).clamp(0.0, 1.0);
        let (learner, teacher) = (clip(12.0, |t| t - behind(t)), clip(12.0, |t| t));
        let a = align(&learner, &teacher, None).unwrap();
        let lag = |from: f64, to: f64| {
            median(a.path.iter().filter(|p| p[0] > from && p[0] < to).map(|p| p[0] - p[1]).collect()).unwrap()
        };
        assert!(lag(0.0, 2.5).abs() < 0.05 && (lag(5.2, 6.8) - 0.3).abs() < 0.05 && lag(9.5, 12.0).abs() < 0.05);
    }

    #[test]
    fn a_mirror_image_is_followed_as_one() {
        let sided = |left: f64| {
            let mut c = clip(8.0, |t| t);
            c.columns[0].name = if left > 0.0 { "pose.left_knee.angle" } else { "pose.right_knee.angle" }.into();
            c.columns[1].name = if left > 0.0 { "pose.right_knee.angle" } else { "pose.left_knee.angle" }.into();
            c
        };
        let mirrored = follow(&sided(1.0), &sided(-1.0));
        assert!(mirrored.mirror.is_some() && mirrored.alignment.unwrap().distance < 1e-6);
        assert!(follow(&sided(1.0), &sided(1.0)).mirror.is_none());
        assert!(follow(&sided(1.0), &Timeline::default()).alignment.is_none());
    }

    #[test]
    fn gaps_are_bridged_and_nothing_in_common_is_told() {
        let (mut learner, teacher) = (clip(8.0, |t| t), clip(8.0, |t| t));
        learner.columns[0].values[50..120].fill(None);
        learner.columns[1].values[60..80].fill(None);
        let a = align(&learner, &teacher, None).unwrap();
        assert!(a.path.windows(2).all(|w| w[0][0] <= w[1][0] && w[0][1] <= w[1][1]));
        assert!(a.path.iter().all(|p| (p[0] - p[1]).abs() < 0.2), "{:?}", a.path);
        assert!(align(&learner, &Timeline::default(), None).is_none());
        assert!(align(&learner, &clip(0.1, |t| t), None).is_none());
        assert!(align(&learner, &teacher, Some(&["none"])).is_none());
        let one = align(&learner, &clip(30.0, |t| t), None).unwrap(); // far from the same length: still a path from end to end
        assert_eq!((one.path[0], one.path[one.path.len() - 1]), ([0.0, 0.0], [7.96, 29.96]));
    }
}
