//! The iris net: five points of the iris from the square around an eye (Ablavatski et al. 2020, "Real-time Pupil Tracking").

use dreamseed_kernels::Pool;

use super::mesh::{Mesh, NetSession, misfit, square};
use crate::graph::Network;
use crate::image::{Border, Image, Roi, Sampling, rotation};
use crate::weights::Result;

const SIDE: usize = 64;
/// Points of an iris: its centre, then right, top, left and bottom of its edge.
const POINTS: usize = 5;
/// How much larger than the eye (corner to corner) the net's region is.
const MARGIN: f32 = 2.3;
/// Outer and inner corner of the person's right eye, and of the left.
const CORNERS: [[usize; 2]; 2] = [[33, 133], [263, 362]];

/// Five points each of the right and the left iris; pixels.
pub(super) type Irises = [[[f32; 2]; POINTS]; 2];

/// The net. It knows right eyes; left ones are shown to it mirrored.
pub(super) struct IrisNet {
    network: Network,
    iris: usize, // (1, 15): x, y, z in pixels of the region
}

impl IrisNet {
    pub(super) fn new(network: Network) -> Result<Self> {
        let sizes: Vec<usize> = network.outputs().iter().map(|t| t.shape.iter().product()).collect();
        let input = network.inputs().iter().map(|t| t.shape.as_slice()).collect::<Vec<_>>();
        match (sizes.iter().position(|&n| n == POINTS * 3), input.as_slice()) {
            (Some(iris), [[1, SIDE, SIDE, 3]]) => Ok(Self { iris, network }),
            _ => Err(misfit("an iris net takes [1, 64, 64, 3] and gives 15 values", (input, &sizes))),
        }
    }

    pub(super) fn session(&self) -> NetSession {
        NetSession { net: self.network.session(), input: vec![0.0; SIDE * SIDE * 3] }
    }

    /// Both irises of a face; `None` where an eye has no size or the net's output is not finite.
    pub(super) fn look(&self, pool: &Pool, session: &mut NetSession, image: &Image, face: &Mesh) -> Result<Option<Irises>> {
        let mut found = [[[0.0; 2]; POINTS]; 2];
        for (eye, points) in found.iter_mut().enumerate() {
            let roi = region(face, eye);
            if !roi.usable(image) {
                return Ok(None);
            }
            // 1. the eye, a left one mirrored, 2. net
            let sampling = Sampling { side: SIDE, range: [0.0, 1.0], border: Border::Replicate };
            image.sample(pool, &roi, sampling, &mut session.input);
            let mirrored = eye == 1;
            if mirrored {
                mirror(&mut session.input);
            }
            session.net.run(pool, &[&session.input])?;
            // 3. to the picture
            for (point, raw) in points.iter_mut().zip(session.net.output(self.iris).chunks_exact(3)) {
                let x = if mirrored { (SIDE - 1) as f32 - raw[0] } else { raw[0] };
                *point = roi.to_picture([x / SIDE as f32, raw[1] / SIDE as f32]);
            }
        }
        Ok(found.as_flattened().as_flattened().iter().all(|v| v.is_finite()).then_some(found))
    }
}

/// The square around an eye, its corners level.
fn region(face: &Mesh, eye: usize) -> Roi {
    let [a, b] = CORNERS[eye].map(|i| [face.points[i][0], face.points[i][1]]);
    // a mirrored eye is level when its inner corner lies left
    let turn = if eye == 0 { rotation(a, b, 0.0) } else { rotation(b, a, 0.0) };
    square(&[a[0].min(b[0]), a[1].min(b[1]), a[0].max(b[0]), a[1].max(b[1])], turn).scaled(MARGIN)
}

/// Left and right change places in a (64, 64, 3) tensor.
fn mirror(input: &mut [f32]) {
    for row in input.chunks_exact_mut(SIDE * 3) {
        for x in 0..SIDE / 2 {
            for c in 0..3 {
                row.swap(x * 3 + c, (SIDE - 1 - x) * 3 + c);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirroring_twice_changes_nothing_and_once_moves_the_edge() {
        let plain: Vec<f32> = (0..SIDE * SIDE * 3).map(|i| i as f32).collect();
        let mut seen = plain.clone();
        mirror(&mut seen);
        assert_eq!(seen[..3], plain[(SIDE - 1) * 3..][..3]);
        mirror(&mut seen);
        assert_eq!(seen, plain);
    }

    #[test]
    fn both_eyes_of_a_level_face_are_seen_level() {
        let mut points = vec![[0.0; 3]; 468];
        for (i, x) in [(33, 100.0), (133, 130.0), (362, 160.0), (263, 190.0)] {
            points[i] = [x, 50.0, 0.0];
        }
        let face = Mesh { score: 1.0, points };
        for (eye, x) in [(0, 115.0), (1, 175.0)] {
            let roi = region(&face, eye);
            assert_eq!((roi.center, roi.size), ([x, 50.0], 30.0 * MARGIN));
            assert!(roi.rotation.abs() < 1e-5, "{}", roi.rotation);
        }
    }
}
