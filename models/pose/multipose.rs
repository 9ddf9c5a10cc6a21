//! MoveNet multipose: finds up to six people at once, each with a box and the 17 key points of COCO.
//!
//! A CenterNet (Zhou et al. 2019, "Objects as Points") on MobileNetV2 with a feature pyramid; the network is run up to its six heads,
//! and the tail that the file holds as operators (peaks, weighted heatmaps, offsets) is written out here.

use dreamseed_kernels::Pool;

use crate::Processor;
use crate::graph::{Network, Session};
use crate::image::{Border, Image, Roi, Sampling};
use crate::weights::{Error, Result};

const SIDE: usize = 256;
/// Sampled twice as finely and averaged, so that small people in large pictures do not alias.
const FINE: usize = 2 * SIDE;
/// Cells of a head along one side.
const CELLS: usize = 64;
/// COCO's key points: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; left before right.
const POINTS: usize = 17;
/// Most people of one pass.
const PEOPLE: usize = 6;

/// The heads and their channels, in the order in which the network gives them.
const HEADS: [(&str, usize); 6] = [
    ("StatefulPartitionedCall/center_0/conv2d_4/BiasAdd", 1),
    ("StatefulPartitionedCall/box_scale_0/conv2d_5/BiasAdd", 2),
    ("StatefulPartitionedCall/box_offset_0/conv2d_6/BiasAdd", 2),
    ("StatefulPartitionedCall/kpt_regress_0/conv2d_8/BiasAdd", 2 * POINTS),
    ("StatefulPartitionedCall/kpt_heatmap_0/conv2d_7/BiasAdd", POINTS),
    ("StatefulPartitionedCall/kpt_offset_0/conv2d_9/BiasAdd", 2 * POINTS),
];

/// A person as the net finds one.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// 0..1
    pub score: f32,
    /// [left, top, right, bottom], pixels.
    pub bbox: [f32; 4],
    /// x and y in pixels and score (0..1) of each point, in COCO's order.
    pub points: [[f32; 3]; POINTS],
}

/// The net, immutable.
pub struct MultiPose {
    network: Network,
}

/// Preallocated buffers of one caller.
pub struct MultiPoseSession {
    net: Session,
    fine: Vec<f32>,  // (512, 512, 3)
    input: Vec<f32>, // (256, 256, 3)
    heat: Vec<f32>,  // (64, 64, 17), probabilities
}

impl MultiPose {
    /// From `movenet-multipose.json` with its weights beside it.
    pub fn open(path: &std::path::Path) -> Result<Self> {
        Self::open_on(&Processor::Cpu, path)
    }

    /// As [`MultiPose::open`], to run where `processor` says.
    pub fn open_on(processor: &Processor, path: &std::path::Path) -> Result<Self> {
        let network = Network::open_outputs_on(processor, path, &HEADS.map(|h| h.0))?;
        let fits = network.outputs().iter().zip(HEADS).all(|(o, (_, channels))| o.shape == [1, CELLS, CELLS, channels]);
        match network.inputs() {
            [input] if fits && input.shape == [1, SIDE, SIDE, 3] => Ok(Self { network }),
            inputs => Err(Error::Tensor {
                name: "shapes".into(),
                problem: format!(
                    "MoveNet multipose takes [1, 256, 256, 3] and has heads of 64 x 64; the file takes {inputs:?}"
                ),
            }),
        }
    }

    /// Buffers for one caller.
    pub fn session(&self) -> MultiPoseSession {
        MultiPoseSession {
            net: self.network.session(),
            fine: vec![0.0; FINE * FINE * 3],
            input: vec![0.0; SIDE * SIDE * 3],
            heat: vec![0.0; CELLS * CELLS * POINTS],
        }
    }

    /// Everyone in the picture with at least `min_score`, the surest first; in pixels.
    pub fn find(&self, pool: &Pool, s: &mut MultiPoseSession, image: &Image, min_score: f32) -> Result<Vec<Found>> {
        let roi = image.letterbox();
        image.sample(pool, &roi, Sampling { side: FINE, range: [0.0, 255.0], border: Border::Zero }, &mut s.fine);
        for (i, v) in s.input.iter_mut().enumerate() {
            let (pixel, c) = (i / 3, i % 3);
            let at = (pixel / SIDE * 2 * FINE + pixel % SIDE * 2) * 3 + c;
            *v = (s.fine[at] + s.fine[at + 3] + s.fine[at + FINE * 3] + s.fine[at + FINE * 3 + 3]) / 4.0;
        }
        let mut found = self.look(pool, s)?;
        found.retain(|f| f.score >= min_score);
        found.iter_mut().for_each(|f| f.place(&roi));
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(found)
    }

    /// Everyone in a picture as the net takes it: (256, 256, 3), 0..255. Places are in 0..1 of it, in the order of the centres' peaks.
    ///
    /// # Errors
    /// A picture of another size.
    pub fn find_in(&self, pool: &Pool, s: &mut MultiPoseSession, pixels: &[f32]) -> Result<Vec<Found>> {
        if pixels.len() != s.input.len() {
            let problem = format!("a picture of {} values: {SIDE} x {SIDE} x 3 are needed", pixels.len());
            return Err(Error::Tensor { name: "input".into(), problem });
        }
        s.input.copy_from_slice(pixels);
        self.look(pool, s)
    }

    /// Runs on `s.input`. What is not finite is left out.
    fn look(&self, pool: &Pool, s: &mut MultiPoseSession) -> Result<Vec<Found>> {
        s.net.run(pool, &[&s.input])?;
        for (p, &logit) in s.heat.iter_mut().zip(s.net.output(4)) {
            *p = sigmoid(logit);
        }
        let heads = Heads { net: &s.net, heat: &s.heat };
        let found = peaks(s.net.output(0)).into_iter().map(|(cell, score)| heads.person(cell, score));
        Ok(found.filter(Found::finite).collect())
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The six highest local maxima (within 5 x 5 cells) of the centres' logits: cell and probability.
fn peaks(logits: &[f32]) -> Vec<(usize, f32)> {
    const REACH: usize = 2;
    const EQUAL: f32 = 1e-6;
    let scores: Vec<f32> = logits.iter().map(|&l| sigmoid(l)).collect();
    let highest = |cell: usize| {
        let span = |i: usize| i.saturating_sub(REACH)..(i + REACH + 1).min(CELLS);
        let (row, column) = (cell / CELLS, cell % CELLS);
        span(row).flat_map(|r| span(column).map(move |c| r * CELLS + c)).fold(0.0, |best: f32, i| best.max(scores[i]))
    };
    let mut found: Vec<(usize, f32)> =
        scores.iter().copied().enumerate().filter(|&(i, s)| s > 0.0 && highest(i) - s < EQUAL).collect();
    found.sort_by(|a, b| b.1.total_cmp(&a.1));
    found.truncate(PEOPLE);
    found
}

/// The outputs of one pass.
struct Heads<'a> {
    net: &'a Session,
    heat: &'a [f32], // (64, 64, 17)
}

impl Heads<'_> {
    /// The person whose centre is in `cell`.
    fn person(&self, cell: usize, centre: f32) -> Found {
        let at = |head: usize, channel: usize| self.net.output(head)[cell * HEADS[head].1 + channel];
        let (row, column) = ((cell / CELLS) as f32, (cell % CELLS) as f32);
        // 1. box: centre with its offset, height and width
        let (y, x) = (row + at(2, 0), column + at(2, 1));
        let (h, w) = (at(1, 0).max(0.0) / 2.0, at(1, 1).max(0.0) / 2.0);
        let bbox = [x - w, y - h, x + w, y + h].map(|v| v.clamp(0.0, CELLS as f32));
        // 2. key points: the highest cell near to where the centre expects it, with its offset
        let points = std::array::from_fn(|k| self.point(k, [column + at(3, 2 * k + 1), row + at(3, 2 * k)], &bbox));
        // 3. the centre's score, weighed by those of the points that are seen
        const SEEN: f32 = 0.127;
        let seen: Vec<f32> = points.iter().map(|p: &[f32; 3]| p[2]).filter(|&s| s > SEEN).collect();
        let score = centre * seen.iter().sum::<f32>() / (seen.len().max(1) as f32);
        Found { score, bbox: bbox.map(|v| v / CELLS as f32), points }
    }

    /// Key point `k`: of the heatmap's cells within the box the one that is highest once weighed by its distance to `expected`. Its
    /// score is that weighed height; the file's own tail takes the largest over all six candidates, which lends the score of a
    /// person's joint to whoever stands in front of it, real or not.
    fn point(&self, k: usize, expected: [f32; 2], bbox: &[f32; 4]) -> [f32; 3] {
        const SPREAD: f32 = 0.3 * CELLS as f32;
        let weight = |i: usize, axis: usize| (-(i as f32 - expected[axis]).powi(2) / SPREAD).exp();
        let inside = |i: usize, axis: usize| i as f32 >= bbox[axis] && (i as f32) < bbox[axis + 2];
        let columns: [f32; CELLS] = std::array::from_fn(|c| if inside(c, 0) { weight(c, 0) } else { 0.0 });
        let (mut best, mut score) = (0, 0.0f32);
        for row in (0..CELLS).filter(|&r| inside(r, 1)) {
            let near = weight(row, 1);
            for (column, w) in columns.iter().enumerate() {
                let p = self.heat[(row * CELLS + column) * POINTS + k] * near * w;
                if p > score {
                    (best, score) = (row * CELLS + column, p);
                }
            }
        }
        let offset = &self.net.output(5)[best * 2 * POINTS + 2 * k..][..2];
        let scale = 1.0 / CELLS as f32;
        [((best % CELLS) as f32 + offset[1]) * scale, ((best / CELLS) as f32 + offset[0]) * scale, score]
    }
}

impl Found {
    fn finite(&self) -> bool {
        let values = self.bbox.iter().chain(self.points.as_flattened()).chain([&self.score]);
        values.into_iter().all(|v| v.is_finite())
    }

    /// From 0..1 of `roi` to pixels.
    fn place(&mut self, roi: &Roi) {
        let [left, top, right, bottom] = self.bbox;
        let ([l, t], [r, b]) = (roi.to_picture([left, top]), roi.to_picture([right, bottom]));
        self.bbox = [l, t, r, b];
        for p in &mut self.points {
            let [x, y] = roi.to_picture([p[0], p[1]]);
            (p[0], p[1]) = (x, y);
        }
    }

    /// Middle of the hips, and a point above it as far as the outermost point of the body: what places a region of interest.
    pub(super) fn region(&self) -> [[f32; 2]; 2] {
        /// From the eyes to the crown, from the ankles to the toes.
        const BEYOND: f32 = 1.1;
        const SEEN: f32 = 0.15;
        let middle = |a: usize, b: usize| [0, 1].map(|i| (self.points[a][i] + self.points[b][i]) / 2.0);
        let (hips, shoulders) = (middle(11, 12), middle(5, 6));
        let [dx, dy] = [shoulders[0] - hips[0], shoulders[1] - hips[1]];
        let trunk = dx.hypot(dy);
        let far = |p: &[f32; 3]| (p[0] - hips[0]).hypot(p[1] - hips[1]);
        let reach = BEYOND * self.points.iter().filter(|p| p[2] >= SEEN).map(far).fold(trunk, f32::max);
        let up = if trunk > 1.0 { [dx / trunk, dy / trunk] } else { [0.0, -1.0] };
        [hips, [hips[0] + up[0] * reach, hips[1] + up[1] * reach]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_local_maxima_and_at_most_six() {
        let mut logits = vec![-9.0f32; CELLS * CELLS];
        for (i, v) in [(0, 3.0), (5 * CELLS + 5, 1.0), (5 * CELLS + 7, 0.5), (9 * CELLS + 63, 2.0), (63 * CELLS + 63, 0.0)] {
            logits[i] = v;
        }
        let cells: Vec<usize> = peaks(&logits).iter().map(|p| p.0).collect();
        assert_eq!(cells[..4], [0, 9 * CELLS + 63, 5 * CELLS + 5, 63 * CELLS + 63], "the one beside a higher one is none");
        assert_eq!(cells.len(), PEOPLE);
    }

    #[test]
    fn the_region_is_about_the_hips_and_reaches_beyond_what_is_seen() {
        let mut points = [[0.0, 0.0, 0.0]; POINTS];
        for (i, x, y) in [(5, 110.0, 100.0), (6, 90.0, 100.0), (11, 105.0, 160.0), (12, 95.0, 160.0), (15, 100.0, 260.0)] {
            points[i] = [x, y, 0.9];
        }
        let [center, edge] = Found { score: 1.0, bbox: [0.0; 4], points }.region();
        assert_eq!(center, [100.0, 160.0]);
        assert!((edge[0] - 100.0).abs() < 1e-3 && (edge[1] - (160.0 - 110.0)).abs() < 1e-3, "{edge:?}");
    }
}
