//! The face on the timeline: expression, mouth, brows, eyes, and where the head points.

use super::{
    Column, gaze,
    series::{Grid, Series, median},
};
use crate::extract::Observed;
use dreamseed_models::face::{
    EXPRESSIONS, Face,
    expression::{self, Measures},
    head::{HeadPose, Point},
};

/// Columns `face.EXPRESSION` (probability, of mesh and net together: [`expression::judge`]), `face.unsure` (1 where none of them can
/// be told), `face.mouth_open`, `face.mouth_width`, `face.corner_lift`, `face.brow_raise`, `face.brow_gap` (all over the distance of
/// the outer eye corners), `face.eye_open` (height over width, mean of both eyes; Soukupova and Cech 2016), `head.yaw`, `head.pitch`,
/// `head.roll` (deg), `head.scale` (pixels from one outer eye corner to the other, were the face seen straight on), and those of
/// [`gaze`]. Yaw is positive to the person's left, pitch up, roll towards the person's left shoulder, all by [`HeadPose`]. Where the
/// line from forehead to chin is upright the pitch is 0, so a straight look has one of a few degrees that differs between people.
pub(super) fn columns(track: &[Observed<Face>], grid: Grid) -> Vec<Column> {
    let heads: Vec<Option<HeadPose>> = track.iter().map(|o| HeadPose::of(o.found.first()?, o.width, o.height)).collect();
    let seen = track.iter().zip(&heads);
    let shapes: Vec<Option<Measures>> = seen.map(|(o, head)| measures(o, o.found.first()?, head.as_ref()?)).collect();
    let usual = usual(&shapes);
    let judged: Vec<_> = track
        .iter()
        .zip(&shapes)
        .map(|(o, shape)| expression::judge(shape.map(|s| s.beside(&usual)).as_ref(), o.found.first()?.expression.as_ref()))
        .collect();
    let mut columns = Vec::new();
    let mut add = |name: String, unit: &str, value: &dyn Fn(usize) -> Option<f64>| {
        let series = Series::new(track.iter().enumerate().map(|(i, o)| (o.t, value(i))));
        columns.push(grid.column(name, unit, series.linear(grid)));
    };
    for (e, name) in EXPRESSIONS.iter().enumerate() {
        add(format!("face.{name}"), "1", &|i| Some(f64::from(judged[i]?.expression[e])));
    }
    add("face.unsure".into(), "1", &|i| Some(f64::from(u8::from(judged[i]?.unsure))));
    for (name, get) in MEASURES {
        add(format!("face.{name}"), "1", &|i| Some(f64::from(get(&shapes[i]?))));
    }
    for (k, name) in ["yaw", "pitch", "roll"].iter().enumerate() {
        add(format!("head.{name}"), "deg", &|i| Some(heads[i]?.angles()[k]));
    }
    add("head.scale".into(), "px", &|i| Some(heads[i]?.scale));
    for (k, name) in gaze::COLUMNS.iter().enumerate() {
        add(format!("gaze.{name}"), "deg", &|i| {
            let o = &track[i];
            Some(gaze::direction(o, o.found.first()?, heads[i].as_ref()?)?[k])
        });
    }
    columns
}

type Measure = (&'static str, fn(&Measures) -> f32);

const MEASURES: [Measure; 6] = [
    ("mouth_open", |m| m.mouth_open),
    ("mouth_width", |m| m.mouth_width),
    ("corner_lift", |m| m.corner_lift),
    ("brow_raise", |m| m.brow_raise),
    ("brow_gap", |m| m.brow_gap),
    ("eye_open", |m| m.eye_open),
];

/// The person's face as it mostly is: the median of each measure; of clips with fewer than ten faces nothing is known of that, and
/// a face at rest is taken.
fn usual(shapes: &[Option<Measures>]) -> Measures {
    let known: Vec<&Measures> = shapes.iter().flatten().collect();
    if known.len() < 10 {
        return expression::REST;
    }
    let middle = |get: fn(&Measures) -> f32| median(known.iter().map(|m| f64::from(get(m))).collect()).unwrap_or(0.0) as f32;
    let [mouth_open, mouth_width, corner_lift, brow_raise, brow_gap, eye_open] = MEASURES.map(|(_, get)| middle(get));
    Measures { mouth_open, mouth_width, corner_lift, brow_raise, brow_gap, eye_open }
}

/// The measures of the mesh; all are lengths in space or along the face's own axes, so that turning the head does not change them.
fn measures(o: &Observed<Face>, f: &Face, head: &HeadPose) -> Option<Measures> {
    let [_, down, _] = head.axes;
    let middle = |a: usize, b: usize| {
        let (a, b) = (point(o, f, a)?, point(o, f, b)?);
        Some([0, 1, 2].map(|i| (a[i] + b[i]) / 2.0))
    };
    let lift = dot(minus(point(o, f, 2)?, middle(61, 291)?), down);
    let brows = (brow(o, f, 105, 33, 133)? + brow(o, f, 334, 263, 362)?) / 2.0;
    let eyes = (eye(o, f, [33, 133, 159, 145])? + eye(o, f, [263, 362, 386, 374])?) / 2.0;
    let over = |length: f64| Some(over_eyes(o, f, length)? as f32);
    Some(Measures {
        mouth_open: over(distance(o, f, 13, 14)?)?,
        mouth_width: over(distance(o, f, 61, 291)?)?,
        corner_lift: over(lift)?,
        brow_raise: over(brows)?,
        brow_gap: over(distance(o, f, 55, 285)?)?,
        eye_open: eyes as f32,
    })
}

/// A point of the mesh in pixels.
pub(super) fn point(o: &Observed<Face>, f: &Face, i: usize) -> Option<Point> {
    let [x, y, z] = f.mesh.get(i)?.map(f64::from);
    let (w, h) = (f64::from(o.width), f64::from(o.height));
    Some([x * w, y * h, z * w])
}

pub(super) fn minus(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

pub(super) fn dot(a: Point, b: Point) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn distance(o: &Observed<Face>, f: &Face, a: usize, b: usize) -> Option<f64> {
    let d = minus(point(o, f, a)?, point(o, f, b)?);
    Some(dot(d, d).sqrt())
}

/// A length over that between the outer corners of the eyes.
fn over_eyes(o: &Observed<Face>, f: &Face, length: f64) -> Option<f64> {
    distance(o, f, 33, 263).filter(|d| *d > 1e-6).map(|d| length / d)
}

/// Middle of the brow to the middle of the eye's corners: blinking does not move it.
fn brow(o: &Observed<Face>, f: &Face, brow: usize, outer: usize, inner: usize) -> Option<f64> {
    let (a, b) = (point(o, f, outer)?, point(o, f, inner)?);
    let d = minus(point(o, f, brow)?, [0, 1, 2].map(|i| (a[i] + b[i]) / 2.0));
    Some(dot(d, d).sqrt())
}

/// Height over width.
pub(super) fn eye(o: &Observed<Face>, f: &Face, [outer, inner, upper, lower]: [usize; 4]) -> Option<f64> {
    let width = distance(o, f, outer, inner).filter(|d| *d > 1e-6)?;
    Some(distance(o, f, upper, lower)? / width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dreamseed_models::face::head::mean_face;

    /// A mean face, 100 pixels from eye to eye, turned about the vertical, then tilted, then rolled.
    fn face(yaw: f64, pitch: f64, roll: f64, mouth: f64) -> Observed<Face> {
        let mut mesh = vec![[0f32; 3]; 468];
        let mut put = |i: usize, [x, y, z]: Point| {
            let (s, c) = (-pitch).to_radians().sin_cos();
            let (y, z) = (y * c - z * s, y * s + z * c);
            let (s, c) = yaw.to_radians().sin_cos();
            let (x, z) = (x * c - z * s, z * c + x * s);
            let (s, c) = roll.to_radians().sin_cos();
            let (x, y) = (x * c - y * s, x * s + y * c);
            mesh[i] = [((200.0 + x) / 640.0) as f32, ((150.0 + y) / 480.0) as f32, (z / 640.0) as f32];
        };
        let rigid: std::collections::HashMap<usize, Point> = mean_face().map(|(i, at, _)| (i, at.map(|v| 100.0 * v))).collect();
        rigid.iter().for_each(|(i, at)| put(*i, *at));
        for (side, [outer, inner, brow, upper, lower]) in [(-1.0, [33, 133, 105, 159, 145]), (1.0, [263, 362, 334, 386, 374])] {
            let middle = [0, 1, 2].map(|k| (rigid[&outer][k] + rigid[&inner][k]) / 2.0);
            let width = distance(rigid[&outer], rigid[&inner]);
            put(brow, [middle[0], middle[1] - 25.0, middle[2]]);
            put(upper, [middle[0], middle[1] - width / 6.0, middle[2]]);
            put(lower, [middle[0], middle[1] + width / 6.0, middle[2]]);
            put(if side < 0.0 { 55 } else { 285 }, [14.0 * side, -25.0, -20.0]);
            put(if side < 0.0 { 61 } else { 291 }, [30.0 * side, 60.0 + mouth / 2.0, -25.0]);
        }
        put(2, [0.0, 40.0, -40.0]);
        put(13, [0.0, 60.0, -35.0]);
        put(14, [0.0, 60.0 + mouth, -35.0]);
        let found = vec![Face { score: 1.0, mesh, expression: Some([0.0, 0.0, 0.0, 0.2, 0.0, 0.0, 0.8]), ..Face::default() }];
        Observed { t: 0.0, width: 640, height: 480, found }
    }

    fn distance(a: Point, b: Point) -> f64 {
        let d = minus(a, b);
        dot(d, d).sqrt()
    }

    #[test]
    fn a_turned_face_tells_its_turn_and_keeps_its_measures() {
        for (yaw, pitch, roll) in [(0.0, 0.0, 0.0), (30.0, 0.0, 0.0), (0.0, 20.0, 0.0), (0.0, 0.0, -25.0), (-40.0, 15.0, 10.0)]
        {
            let columns = columns(&[face(yaw, pitch, roll, 10.0)], Grid { rate: 25.0, rows: 1 });
            let get = |name: &str| f64::from(columns.iter().find(|c| c.name == name).unwrap().values[0].unwrap());
            let near = |name: &str, want: f64| assert!((get(name) - want).abs() < 0.01, "{name} {} {want}", get(name));
            near("head.yaw", yaw);
            near("head.pitch", pitch);
            near("head.scale", 100.0);
            near("head.roll", roll);
            near("face.mouth_open", 0.1);
            near("face.brow_raise", 0.25);
            near("face.eye_open", 1.0 / 3.0);
            near("face.mouth_width", 0.6);
            near("face.corner_lift", -0.25);
            near("face.brow_gap", 0.28);
            near("face.unsure", 0.0);
            let rest: f64 = EXPRESSIONS[..6].iter().map(|e| get(&format!("face.{e}"))).sum();
            assert!(get("face.neutral") > 0.6 && (get("face.neutral") + rest - 1.0).abs() < 1e-3, "{}", get("face.neutral"));
        }
    }

    #[test]
    fn a_face_without_a_mesh_has_no_measures() {
        let bare = Observed { t: 0.0, width: 0, height: 0, found: vec![Face::default()] };
        assert!(columns(&[bare], Grid { rate: 25.0, rows: 2 }).iter().all(|c| c.values.iter().all(Option::is_none)));
    }
}
