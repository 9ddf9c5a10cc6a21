//! The landmark net: a square region in, 39 points (33 of the body, 2 that place the next region, 4 unused) out.

use dreamseed_kernels::Pool;

use super::Landmark;
use crate::graph::{Network, Session};
use crate::image::{Border, Image, Roi, Sampling};
use crate::weights::{Error, Result};

const SIDE: usize = 256;
const POINTS: usize = 39;
const BODY: usize = 33;
const HEATMAP: usize = 64;

/// What the net saw in one region.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Probability that a person is in the region, 0..1.
    pub score: f32,
    /// 33 points; x, y in pixels of the picture, z in pixels.
    pub body: Vec<Landmark>,
    /// 33 points in metres, upright.
    pub world: Vec<[f32; 3]>,
    /// Centre of the hips, and a point on the circle around the person; pixels.
    pub region: [[f32; 2]; 2],
}

/// A landmark net with the places of its outputs.
pub(super) struct LandmarkNet {
    network: Network,
    points: usize,   // (1, 39 * 5): x, y, z in pixels of the region, visibility and presence as logits
    presence: usize, // (1, 1)
    heatmap: usize,  // (1, 64, 64, 39), logits
    world: usize,    // (1, 39 * 3), metres
}

/// Preallocated buffers of one caller.
pub(super) struct LandmarkSession {
    net: Session,
    input: Vec<f32>, // (256, 256, 3)
}

impl LandmarkNet {
    pub(super) fn new(network: Network) -> Result<Self> {
        let seen: Vec<_> = network.outputs().iter().map(|t| t.shape.clone()).collect();
        let find = |wanted: &[usize]| {
            seen.iter().position(|s| s == wanted).ok_or_else(|| Error::Tensor {
                name: "outputs".into(),
                problem: format!("a pose landmark net has an output {wanted:?}, the file has {seen:?}"),
            })
        };
        let (points, presence) = (find(&[1, POINTS * 5])?, find(&[1, 1])?);
        let (heatmap, world) = (find(&[1, HEATMAP, HEATMAP, POINTS])?, find(&[1, POINTS * 3])?);
        match network.inputs() {
            [input] if input.shape == [1, SIDE, SIDE, 3] => Ok(Self { points, presence, heatmap, world, network }),
            inputs => Err(Error::Tensor {
                name: "inputs".into(),
                problem: format!("a pose landmark net takes [1, 256, 256, 3], the file {inputs:?}"),
            }),
        }
    }

    pub(super) fn session(&self) -> LandmarkSession {
        LandmarkSession { net: self.network.session(), input: vec![0.0; SIDE * SIDE * 3] }
    }

    /// Looks at `roi`. `None` when the net's output is not finite.
    pub(super) fn look(&self, pool: &Pool, session: &mut LandmarkSession, image: &Image, roi: &Roi) -> Result<Option<Seen>> {
        // 1. region to tensor, 2. net
        let sampling = Sampling { side: SIDE, range: [0.0, 1.0], border: Border::Replicate };
        image.sample(pool, roi, sampling, &mut session.input);
        session.net.run(pool, &[&session.input])?;
        // 3. points, refined by their heatmaps
        let raw = session.net.output(self.points);
        let world = session.net.output(self.world);
        if raw.iter().chain(world).any(|v| !v.is_finite()) {
            return Ok(None);
        }
        let heatmap = session.net.output(self.heatmap);
        let points: Vec<Landmark> = raw.chunks_exact(5).enumerate().map(|(i, p)| point(p, i, heatmap)).collect();
        // 4. to the picture: z is in the scale of x
        let place = |l: &Landmark| {
            let [x, y] = roi.to_picture([l.x, l.y]);
            Landmark { x, y, z: l.z * roi.size, visibility: l.visibility }
        };
        let (sin, cos) = roi.rotation.sin_cos();
        let upright = |w: &[f32]| [w[0] * cos - w[1] * sin, w[0] * sin + w[1] * cos, w[2]];
        let region = [&points[BODY], &points[BODY + 1]].map(|l| roi.to_picture([l.x, l.y]));
        Ok(Some(Seen {
            // this net's presence output is a probability already
            score: session.net.output(self.presence)[0],
            body: points[..BODY].iter().map(place).collect(),
            world: world.chunks_exact(3).take(BODY).map(upright).collect(),
            region,
        }))
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// One point in 0..1 of the region.
fn point(raw: &[f32], index: usize, heatmap: &[f32]) -> Landmark {
    let side = SIDE as f32;
    let [x, y] = refine([raw[0] / side, raw[1] / side], index, heatmap);
    Landmark { x, y, z: raw[2] / side, visibility: sigmoid(raw[3]) }
}

/// The centre of mass of the heatmap's 7x7 cells around the point, where the map is sure (a cell above 0.5) of anything there.
fn refine(at: [f32; 2], index: usize, heatmap: &[f32]) -> [f32; 2] {
    const REACH: i64 = 3;
    let size = HEATMAP as i64;
    let [column, row] = at.map(|v| (v * HEATMAP as f32).clamp(-1e6, 1e6) as i64);
    if !(0..size).contains(&column) || !(0..size).contains(&row) {
        return at;
    }
    let (mut sum, mut best, mut mass) = (0.0, 0.0f32, [0.0; 2]);
    for r in (row - REACH).max(0)..(row + REACH + 1).min(size) {
        for c in (column - REACH).max(0)..(column + REACH + 1).min(size) {
            let p = sigmoid(heatmap[(r * size + c) as usize * POINTS + index]);
            sum += p;
            best = best.max(p);
            mass = [mass[0] + p * c as f32, mass[1] + p * r as f32];
        }
    }
    if best >= 0.5 { mass.map(|m| m / sum / HEATMAP as f32) } else { at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sure_heatmap_draws_the_point_and_an_unsure_one_does_not() {
        let mut heatmap = vec![-20.0; HEATMAP * HEATMAP * POINTS];
        assert_eq!(refine([0.5, 0.5], 4, &heatmap), [0.5, 0.5]);
        heatmap[(33 * HEATMAP + 34) * POINTS + 4] = 10.0;
        let [x, y] = refine([0.5, 0.5], 4, &heatmap);
        assert!((x - 34.0 / 64.0).abs() < 1e-4 && (y - 33.0 / 64.0).abs() < 1e-4, "{x} {y}");
        assert_eq!(refine([1.5, f32::MAX], 4, &heatmap), [1.5, f32::MAX]);
    }
}
