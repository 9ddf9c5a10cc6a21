//! The face on the timeline: expression, mouth, brows, eyes, and where the head points.

use super::{
    Column, gaze,
    series::{Grid, Series, median},
};
use crate::extract::Observed;
use dreamseed_models::face::{
    EXPRESSIONS, Face,
    expression::{self, Measures},
};

pub(super) type Point = [f64; 3];

/// Columns `face.EXPRESSION` (probability, of mesh and net together: [`expression::judge`]), `face.unsure` (1 where none of them can
/// be told), `face.mouth_open`, `face.mouth_width`, `face.corner_lift`, `face.brow_raise`, `face.brow_gap` (all over the distance of
/// the outer eye corners), `face.eye_open` (height over width, mean of both eyes; Soukupova and Cech 2016), `head.yaw`, `head.pitch`,
/// `head.roll` (deg), and those of [`gaze`]. Yaw is positive to the person's left, pitch up, roll towards the person's left shoulder.
/// The axes are those of the mesh (eye corners, forehead to chin), so a straight look has a pitch of a few degrees that differs
/// between people.
pub(super) fn columns(track: &[Observed<Face>], grid: Grid) -> Vec<Column> {
    let shapes: Vec<Option<Measures>> = track.iter().map(|o| measures(o, o.found.first()?)).collect();
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
    let first = |i: usize| Some((&track[i], track[i].found.first()?));
    for (k, name) in ["yaw", "pitch", "roll"].iter().enumerate() {
        add(format!("head.{name}"), "deg", &|i| first(i).and_then(|(o, f)| Some(pointing(o, f)?[k])));
    }
    for (k, name) in gaze::COLUMNS.iter().enumerate() {
        add(format!("gaze.{name}"), "deg", &|i| first(i).and_then(|(o, f)| Some(gaze::direction(o, f)?[k])));
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
fn measures(o: &Observed<Face>, f: &Face) -> Option<Measures> {
    let [_, down, _] = axes(o, f)?;
    let middle = |a: usize, b: usize| {
        let (a, b) = (point(o, f, a)?, point(o, f, b)?);
        Some([0, 1, 2].map(|i| (a[i] + b[i]) / 2.0))
    };
    let lift = dot(minus(middle(13, 14)?, middle(61, 291)?), down);
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

fn unit(a: Point) -> Option<Point> {
    let n = dot(a, a).sqrt();
    (n > 1e-9).then(|| a.map(|v| v / n))
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

/// The axes of the mesh in the camera's (x right, y down, z away from it): to the person's left, down, and forward.
pub(super) fn axes(o: &Observed<Face>, f: &Face) -> Option<[Point; 3]> {
    let x = unit(minus(point(o, f, 263)?, point(o, f, 33)?))?;
    let down = minus(point(o, f, 152)?, point(o, f, 10)?);
    let along = dot(down, x);
    let y = unit([0, 1, 2].map(|i| down[i] - along * x[i]))?;
    let back = [x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]];
    Some([x, y, back.map(|v| -v)])
}

/// [yaw, pitch, roll] in degrees.
fn pointing(o: &Observed<Face>, f: &Face) -> Option<[f64; 3]> {
    let [x, _, forward] = axes(o, f)?;
    // Turn = roll * yaw * pitch: the line of the eyes tells roll and yaw, what is left of the look after the roll the pitch.
    let roll = x[1].atan2(x[0]);
    let lowered = forward[1] * roll.cos() - forward[0] * roll.sin();
    let degrees = [x[2].atan2(x[0].hypot(x[1])), -lowered.clamp(-1.0, 1.0).asin(), roll];
    Some(degrees.map(f64::to_degrees))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flat face of 100 pixels, turned about the vertical, then tilted, then rolled.
    fn face(yaw: f64, pitch: f64, roll: f64, mouth: f64) -> Observed<Face> {
        let mut mesh = vec![[0f32; 3]; 468];
        let mut put = |i: usize, x: f64, y: f64| {
            let (s, c) = pitch.to_radians().sin_cos();
            let (x, y, z) = (x, y * c, y * s);
            let (s, c) = yaw.to_radians().sin_cos();
            let (x, y, z) = (x * c - z * s, y, z * c + x * s);
            let (s, c) = roll.to_radians().sin_cos();
            let (x, y) = (x * c - y * s, x * s + y * c);
            mesh[i] = [((200.0 + x) / 640.0) as f32, ((150.0 + y) / 480.0) as f32, (z / 640.0) as f32];
        };
        let points: [(usize, f64, f64); 18] = [
            (61, -30.0, 40.0 + mouth / 2.0),
            (291, 30.0, 40.0 + mouth / 2.0),
            (55, -14.0, -45.0),
            (285, 14.0, -45.0),
            (33, -50.0, -20.0),
            (133, -20.0, -20.0),
            (362, 20.0, -20.0),
            (263, 50.0, -20.0),
            (10, 0.0, -80.0),
            (152, 0.0, 80.0),
            (13, 0.0, 40.0),
            (14, 0.0, 40.0 + mouth),
            (105, -35.0, -45.0),
            (334, 35.0, -45.0),
            (159, -35.0, -25.0),
            (145, -35.0, -15.0),
            (386, 35.0, -25.0),
            (374, 35.0, -15.0),
        ];
        for (i, x, y) in points {
            put(i, x, y);
        }
        let found = vec![Face { score: 1.0, mesh, expression: Some([0.0, 0.0, 0.0, 0.2, 0.0, 0.0, 0.8]), ..Face::default() }];
        Observed { t: 0.0, width: 640, height: 480, found }
    }

    #[test]
    fn a_turned_face_tells_its_turn_and_keeps_its_measures() {
        for (yaw, pitch, roll) in [(0.0, 0.0, 0.0), (30.0, 0.0, 0.0), (0.0, 20.0, 0.0), (0.0, 0.0, -25.0), (-40.0, 15.0, 10.0)]
        {
            let columns = columns(&[face(yaw, pitch, roll, 10.0)], Grid { rate: 25.0, rows: 1 });
            let get = |name: &str| f64::from(columns.iter().find(|c| c.name == name).unwrap().values[0].unwrap());
            let near = |name: &str, want: f64| assert!((get(name) - want).abs() < 0.01, "{name} {} {want}", get(name));
            near("head.yaw", yaw);
            near("head.pitch", -pitch); // the chin goes back: it looks down
            near("head.roll", roll);
            near("face.mouth_open", 0.1);
            near("face.brow_raise", 0.25);
            near("face.eye_open", 10.0 / 30.0);
            near("face.mouth_width", 0.6);
            near("face.corner_lift", 0.0);
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
