//! ViTPose's 17 points as landmarks: those of MediaPipe's 33 that COCO has too.

use std::path::Path;

use dreamseed_kernels::Pool;

use super::associate::COCO;
use super::landmarks::Seen;
use super::{LANDMARK_NAMES, Landmark};
use crate::Processor;
use crate::image::{Image, Roi};
use crate::vision::Precision;
use crate::vision::encoder::State;
use crate::vision::vitpose::{Point, VitPose};
use crate::weights::{Error, Result};

/// Least score of a point that counts as found: transformers' own threshold for what it returns.
const FOUND: f32 = 0.3;
/// Fewest points that are a body.
const FEWEST: usize = 4;
/// How much more of the square a person's box leaves free than the net's own margin does.
const MARGIN: f32 = 1.25;
/// From the eyes to the crown, from the ankles to the toes.
const BEYOND: f32 = 1.1;
/// Width over height of the net's input, and so of the boxes that it is trained with.
const ASPECT: f32 = 0.75;

/// A landmark that the net does not have.
const ABSENT: Landmark = Landmark { x: f32::NAN, y: f32::NAN, z: f32::NAN, visibility: 0.0 };

/// A ViTPose of COCO's points.
pub(super) struct CocoNet(VitPose);

impl CocoNet {
    pub(super) fn open(target: &Processor, folder: &Path, pool: &Pool) -> Result<Self> {
        let net = VitPose::open_at(target, folder, pool, Precision::Stored)?;
        match net.points() {
            17 => Ok(Self(net)),
            n => Err(Error::Unsupported(format!("{}: a net of {n} points; COCO's 17 are needed", folder.display()))),
        }
    }

    /// Looks at the upright box in `roi`: a square with a quarter more than the person's height. `None` where no body is found.
    pub(super) fn look(&self, pool: &Pool, state: &mut State, image: &Image, roi: &Roi) -> Result<Option<Seen>> {
        let height = roi.size / MARGIN;
        let (width, [x, y]) = (height * ASPECT, roi.center);
        let region = self.0.region([x - width / 2.0, y - height / 2.0, width, height]);
        Ok(seen(&self.0.detect(pool, image, &region, state)?))
    }
}

/// What the points of a body say: landmarks, score, the next region.
fn seen(points: &[Point]) -> Option<Seen> {
    let finite = |p: &Point| [p.x, p.y, p.score].iter().all(|v| v.is_finite());
    let found: Vec<&Point> = points.iter().filter(|p| finite(p) && p.score >= FOUND).collect();
    if found.len() < FEWEST {
        return None;
    }
    let mut body = vec![ABSENT; LANDMARK_NAMES.len()];
    for ((place, _), p) in COCO.iter().zip(points).filter(|(_, p)| finite(p)) {
        body[*place] = Landmark { x: p.x, y: p.y, z: f32::NAN, visibility: p.score.clamp(0.0, 1.0) };
    }
    let least = |get: fn(&Point) -> f32| found.iter().map(|p| get(p)).fold(f32::INFINITY, f32::min);
    let most = |get: fn(&Point) -> f32| found.iter().map(|p| get(p)).fold(f32::NEG_INFINITY, f32::max);
    let ([left, top], [right, bottom]) = ([least(|p| p.x), least(|p| p.y)], [most(|p| p.x), most(|p| p.y)]);
    let reach = BEYOND * (bottom - top).max((right - left) / ASPECT) / 2.0;
    let center = [(left + right) / 2.0, (top + bottom) / 2.0];
    Some(Seen {
        score: found.iter().map(|p| p.score.min(1.0)).sum::<f32>() / found.len() as f32,
        body,
        world: Vec::new(),
        region: [center, [center[0], center[1] - reach]],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A standing body of COCO's points, 100 x 400 pixels.
    fn standing() -> Vec<Point> {
        let at = |i: usize| [100.0 + if i % 2 == 1 { 100.0 } else { 0.0 }, 50.0 + 25.0 * i as f32];
        (0..17).map(|i| Point { x: at(i)[0], y: at(i)[1], score: 0.8 }).collect()
    }

    #[test]
    fn points_become_the_landmarks_of_their_names() {
        #[rustfmt::skip]
        const NAMES: [&str; 17] = [
            "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
            "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
        ];
        let points = standing();
        let seen = seen(&points).unwrap();
        for (name, point) in NAMES.iter().zip(&points) {
            let landmark = &seen.body[LANDMARK_NAMES.iter().position(|n| n == name).unwrap()];
            assert_eq!((landmark.x, landmark.y, landmark.visibility), (point.x, point.y, 0.8), "{name}");
            assert!(landmark.z.is_nan());
        }
        let absent = seen.body.iter().filter(|l| l.x.is_nan() && l.y.is_nan() && l.visibility == 0.0).count();
        assert_eq!((seen.body.len(), absent, seen.world.len()), (33, 16, 0));
        assert_eq!(serde_json::to_string(&ABSENT).unwrap(), "[null,null,null,0.0]");
    }

    #[test]
    fn the_next_region_holds_the_body() {
        let region = seen(&standing()).unwrap().region;
        assert_eq!(region[0], [150.0, 250.0]);
        assert!((region[0][1] - region[1][1] - 1.1 * 200.0).abs() < 1e-3 && region[1][0] == 150.0, "{region:?}");
        // of a body that lies, its width counts
        let lying: Vec<Point> = standing().iter().map(|p| Point { x: p.y, y: p.x, ..*p }).collect();
        let region = seen(&lying).unwrap().region;
        assert!((region[0][1] - region[1][1] - 1.1 * 200.0 / 0.75).abs() < 1e-3, "{region:?}");
    }

    #[test]
    fn what_is_hardly_found_is_nobody() {
        let mut points = standing();
        points.iter_mut().skip(3).for_each(|p| p.score = 0.2);
        assert!(seen(&points).is_none());
        points[3].score = 0.9;
        let few = seen(&points).unwrap();
        assert!((few.score - (3.0 * 0.8 + 0.9) / 4.0).abs() < 1e-6 && few.body[23].visibility == 0.2);
        points[3].x = f32::NAN;
        assert!(seen(&points).is_none());
    }
}
