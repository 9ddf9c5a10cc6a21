//! Where the eyes look: the iris against the eyeball behind the eye's corners.
//!
//! The eyeball is a sphere that turns about its centre, which lies behind the middle of the eye's corners; the iris is a disc on it.
//! Scale comes from the iris itself: its diameter is 11.7 mm in nearly everyone (Hashemi et al. 2015; the measure behind MediaPipe's
//! depth from iris). Sizes of the eye are those of the mean adult. Without calibration to the person the error is several degrees,
//! more up and down than sideways: lids hide the iris, and where the corners lie about the eyeball differs between people.

use super::head::{dot, eye, minus, point};
use crate::extract::Observed;
use dreamseed_models::face::{
    Face,
    head::{HeadPose, Point},
};

/// Seen from the camera (0, 0 looks into it), and from the head: to the person's left and up are positive.
pub(super) const COLUMNS: [&str; 4] = ["yaw", "pitch", "in_head.yaw", "in_head.pitch"];

/// Millimetres: the iris, from the eyeball's centre to the iris, from the corners back to that centre.
const IRIS: f64 = 11.7;
const RADIUS: f64 = 10.0;
const DEPTH: f64 = 6.0;
/// How far the eyeball's centre lies above the line of the corners, over the eye's width: seen in straight looks.
const ABOVE: f64 = 0.06;
/// Height over width below which an eye is closed.
const CLOSED: f64 = 0.15;
/// Degrees by which a head may be turned, and two eyes may look apart.
const TURNED: f64 = 40.0;
const APART: f64 = 25.0;

/// Outer corner, inner corner, middle of the upper and of the lower lid; right and left eye.
const EYES: [[usize; 4]; 2] = [[33, 133, 159, 145], [263, 362, 386, 374]];

/// Degrees in the order of [`COLUMNS`], the mean of both eyes. `None` without irises, with an eye closed, with the head turned
/// far, or where the eyes do not agree.
pub(super) fn direction(o: &Observed<Face>, f: &Face, head: &HeadPose) -> Option<[f64; 4]> {
    let irises = f.irises?;
    let [left, down, forward] = head.axes;
    if forward[2] > -TURNED.to_radians().cos() {
        return None;
    }
    let mut looks = [[0.0; 3]; 2];
    for ((look, iris), corners) in looks.iter_mut().zip(irises).zip(EYES) {
        let open = eye(o, f, corners)?;
        *look = one(o, f, &iris, corners, [down, forward]).filter(|_| open >= CLOSED)?;
    }
    if dot(looks[0], looks[1]) < APART.to_radians().cos() {
        return None;
    }
    let mean = [0, 1, 2].map(|i| looks[0][i] + looks[1][i]);
    let length = dot(mean, mean).sqrt();
    let look = mean.map(|v| v / length);
    let angles = |x: f64, y: f64, towards: f64| [x.atan2(towards), -y.clamp(-1.0, 1.0).asin()].map(f64::to_degrees);
    let ([yaw, pitch], [head_yaw, head_pitch]) =
        (angles(look[0], look[1], -look[2]), angles(dot(look, left), dot(look, down), dot(look, forward)));
    Some([yaw, pitch, head_yaw, head_pitch])
}

/// The look of one eye: a unit vector in the camera's axes.
fn one(o: &Observed<Face>, f: &Face, iris: &[[f32; 2]; 5], corners: [usize; 4], [down, forward]: [Point; 2]) -> Option<Point> {
    let (w, h) = (f64::from(o.width), f64::from(o.height));
    let p = iris.map(|[x, y]| [f64::from(x) * w, f64::from(y) * h]);
    let across = |a: usize, b: usize| (p[a][0] - p[b][0]).hypot(p[a][1] - p[b][1]);
    let pixels = across(1, 3).max(across(2, 4)) / IRIS; // of a millimetre
    let (outer, inner) = (point(o, f, corners[0])?, point(o, f, corners[1])?);
    let along = minus(inner, outer);
    let width = dot(along, along).sqrt();
    // an iris is about 0.4 of the eye: what is far from that is none
    if !(pixels > 0.0 && (0.2..0.8).contains(&(pixels * IRIS / width))) {
        return None;
    }
    let centre = |i: usize| (outer[i] + inner[i]) / 2.0 - down[i] * ABOVE * width - forward[i] * DEPTH * pixels;
    let [x, y] = [0, 1].map(|i| (p[0][i] - centre(i)) / (RADIUS * pixels));
    let towards = 1.0 - x * x - y * y;
    (towards > 0.2).then(|| [x, y, -towards.sqrt()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use dreamseed_models::face::head::mean_face;

    /// A face turned by `yaw` (to the person's left, degrees) whose eyes look `x` and `y` (camera's axes) from a 640 x 480 picture.
    fn face(yaw: f64, [x, y]: [f64; 2], lids: f64) -> Observed<Face> {
        let mut mesh = vec![[0f32; 3]; 468];
        let (s, c) = yaw.to_radians().sin_cos();
        let turned = |[x, y, z]: [f64; 3]| [320.0 + x * c - z * s, 240.0 + y, z * c + x * s];
        let mut put = |i: usize, at: [f64; 3]| {
            let [x, y, z] = turned(at);
            mesh[i] = [(x / 640.0) as f32, (y / 480.0) as f32, (z / 640.0) as f32];
        };
        mean_face().for_each(|(i, at, _)| put(i, at.map(|v| 100.0 * v)));
        let mut irises = [[[0f32; 2]; 5]; 2];
        for (eye, side) in [(0, -1.0), (1, 1.0)] {
            // the corners as the mean face has them: 31 pixels apart, the inner one nearer to the camera
            let middle = [34.58 * side, 0.55, -2.97];
            let [_, _, upper, lower] = EYES[eye];
            put(upper, [middle[0], middle[1] - lids, middle[2]]);
            put(lower, [middle[0], middle[1] + lids, middle[2]]);
            let width = 30.84f64.hypot(1.1).hypot(5.94);
            let [ex, ey, _] = turned([middle[0], middle[1] - ABOVE * width, middle[2] + DEPTH]); // one pixel a millimetre
            let edge = [[0.0, 0.0], [-IRIS / 2.0, 0.0], [0.0, -IRIS / 2.0], [IRIS / 2.0, 0.0], [0.0, IRIS / 2.0]];
            irises[eye] =
                edge.map(|[dx, dy]| [((ex + RADIUS * x + dx) / 640.0) as f32, ((ey + RADIUS * y + dy) / 480.0) as f32]);
        }
        let found = vec![Face { score: 1.0, mesh, irises: Some(irises), ..Face::default() }];
        Observed { t: 0.0, width: 640, height: 480, found }
    }

    fn seen(o: &Observed<Face>) -> Option<[f64; 4]> {
        direction(o, &o.found[0], &HeadPose::of(&o.found[0], o.width, o.height)?)
    }

    #[test]
    fn a_look_is_told_from_the_camera_and_from_the_head() {
        for (yaw, gaze) in [(0.0, 0.0), (0.0, 20.0), (0.0, -15.0), (20.0, 0.0), (-25.0, -10.0)] {
            let o = face(yaw, [f64::to_radians(gaze).sin(), 0.0], 5.0);
            let [y, p, hy, hp] = seen(&o).expect("a look");
            assert!((y - gaze).abs() < 0.5 && p.abs() < 0.5, "head {yaw}, look {gaze}: {y} {p}");
            assert!((hy - (gaze - yaw)).abs() < 0.5 && hp.abs() < 0.5, "head {yaw}, look {gaze}: {hy} {hp}");
        }
        let up = seen(&face(0.0, [0.0, f64::to_radians(-12.0).sin()], 5.0)).expect("a look");
        assert!((up[1] - 12.0).abs() < 0.5, "{up:?}");
    }

    #[test]
    fn closed_eyes_and_turned_heads_look_nowhere() {
        assert_eq!(seen(&face(0.0, [0.0, 0.0], 1.0)), None, "closed");
        assert_eq!(seen(&face(60.0, [0.0, 0.0], 5.0)), None, "turned");
        let mut none = face(0.0, [0.0, 0.0], 5.0);
        none.found[0].irises = Some([[[0.5; 2]; 5]; 2]);
        assert_eq!(seen(&none), None, "irises without size");
    }
}
