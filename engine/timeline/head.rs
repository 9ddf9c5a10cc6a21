//! The face on the timeline: expression, mouth, brows, eyes, and where the head points.

use super::{
    Column,
    series::{Grid, Series},
};
use crate::extract::Observed;
use dreamseed_models::face::{EXPRESSIONS, Face};

type Point = [f64; 3];

/// Columns `face.EXPRESSION` (probability), `face.mouth_open`, `face.brow_raise` (both over the distance of the outer eye
/// corners), `face.eye_open` (height over width, mean of both eyes; Soukupova and Cech 2016), and `head.yaw`, `head.pitch`,
/// `head.roll` (deg). Yaw is positive to the person's left, pitch up, roll towards the person's left shoulder. The axes are those
/// of the mesh (eye corners, forehead to chin), so a straight look has a pitch of a few degrees that differs between people.
pub(super) fn columns(track: &[Observed<Face>], grid: Grid) -> Vec<Column> {
    let mut columns = Vec::new();
    let mut add = |name: String, unit: &str, value: &dyn Fn(&Observed<Face>, &Face) -> Option<f64>| {
        let series = Series::new(track.iter().map(|o| (o.t, o.found.first().and_then(|f| value(o, f)))));
        columns.push(grid.column(name, unit, series.linear(grid)));
    };
    for (i, name) in EXPRESSIONS.iter().enumerate() {
        add(format!("face.{name}"), "1", &|_, f| Some(f64::from(f.expression?[i])));
    }
    add("face.mouth_open".into(), "1", &|o, f| over_eyes(o, f, distance(o, f, 13, 14)?));
    add("face.brow_raise".into(), "1", &|o, f| over_eyes(o, f, (brow(o, f, 105, 33, 133)? + brow(o, f, 334, 263, 362)?) / 2.0));
    add("face.eye_open".into(), "1", &|o, f| Some((eye(o, f, [33, 133, 159, 145])? + eye(o, f, [263, 362, 386, 374])?) / 2.0));
    for (i, name) in ["yaw", "pitch", "roll"].iter().enumerate() {
        add(format!("head.{name}"), "deg", &|o, f| Some(pointing(o, f)?[i]));
    }
    columns
}

/// A point of the mesh in pixels.
fn point(o: &Observed<Face>, f: &Face, i: usize) -> Option<Point> {
    let [x, y, z] = f.mesh.get(i)?.map(f64::from);
    let (w, h) = (f64::from(o.width), f64::from(o.height));
    Some([x * w, y * h, z * w])
}

fn minus(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn dot(a: Point, b: Point) -> f64 {
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
fn eye(o: &Observed<Face>, f: &Face, [outer, inner, upper, lower]: [usize; 4]) -> Option<f64> {
    let width = distance(o, f, outer, inner).filter(|d| *d > 1e-6)?;
    Some(distance(o, f, upper, lower)? / width)
}

/// [yaw, pitch, roll] in degrees from the axes of the mesh: x right, y down, z away from the camera.
fn pointing(o: &Observed<Face>, f: &Face) -> Option<[f64; 3]> {
    let x = unit(minus(point(o, f, 263)?, point(o, f, 33)?))?;
    let down = minus(point(o, f, 152)?, point(o, f, 10)?);
    let along = dot(down, x);
    let y = unit([0, 1, 2].map(|i| down[i] - along * x[i]))?;
    let back = [x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]];
    let forward = back.map(|v| -v);
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
        let points: [(usize, f64, f64); 14] = [
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
        let found = vec![Face { score: 1.0, mesh, expression: Some([0.0, 0.0, 0.0, 0.8, 0.0, 0.0, 0.2]), ..Face::default() }];
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
            near("face.happy", 0.8);
        }
    }

    #[test]
    fn a_face_without_a_mesh_has_no_measures() {
        let bare = Observed { t: 0.0, width: 0, height: 0, found: vec![Face::default()] };
        assert!(columns(&[bare], Grid { rate: 25.0, rows: 2 }).iter().all(|c| c.values.iter().all(Option::is_none)));
    }
}
