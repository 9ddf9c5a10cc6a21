//! Single-shot detectors with key points (BlazePose, BlazeFace): anchors, box decoding, weighted suppression.
//!
//! Liu et al. 2016 (SSD) for the anchors, Bazarevsky et al. 2019 (BlazeFace) for the blending of overlapping boxes.

use dreamseed_kernels::Pool;

use crate::graph::{Network, Session};
use crate::image::{Border, Image, Roi, Sampling};
use crate::weights::{Error, Result};

/// What distinguishes one detector from another.
#[derive(Clone, Debug)]
pub struct Config {
    /// Width and height of the input.
    pub side: usize,
    /// Stride of each layer of anchors; two anchors a cell and layer, all at the cell's centre.
    pub strides: &'static [usize],
    /// Key points after the box.
    pub keypoints: usize,
    /// Lowest score that counts.
    pub min_score: f32,
    /// Overlap (intersection over union) from which two boxes are the same object.
    pub max_overlap: f32,
}

/// One object in the picture, in pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// 0..1
    pub score: f32,
    /// [left, top, right, bottom]
    pub bbox: [f32; 4],
    /// (x, y) each.
    pub keypoints: Vec<[f32; 2]>,
}

/// A detector net with its anchors.
pub struct Detector {
    config: Config,
    network: Network,
    anchors: Vec<[f32; 2]>, // (boxes, 2): centres in 0..1 of the input
    boxes: usize,           // index of the output with boxes and key points
    scores: usize,          // index of the output with scores
}

impl Detector {
    /// Takes a net whose input is (1, side, side, 3) and whose outputs are (1, boxes, 4 + 2 * keypoints) and (1, boxes, 1).
    pub fn new(network: Network, config: Config) -> Result<Self> {
        let anchors = anchors(config.side, config.strides);
        let input = [1, config.side, config.side, 3];
        if network.inputs().len() != 1 || network.inputs()[0].shape != input {
            return Err(shape_error("input", &network.inputs().iter().map(|t| &t.shape).collect::<Vec<_>>(), &input));
        }
        let find = |width: usize| {
            let wanted = [1, anchors.len(), width];
            let seen: Vec<_> = network.outputs().iter().map(|t| &t.shape).collect();
            seen.iter().position(|s| **s == wanted).ok_or_else(|| shape_error("outputs", &seen, &wanted))
        };
        let (boxes, scores) = (find(4 + 2 * config.keypoints)?, find(1)?);
        Ok(Self { config, anchors, boxes, scores, network })
    }

    /// Buffers for one caller.
    pub fn session(&self) -> DetectorSession {
        DetectorSession { net: self.network.session(), input: vec![0.0; self.config.side * self.config.side * 3] }
    }

    /// All objects of `image`, the surest first.
    pub fn detect(&self, pool: &Pool, session: &mut DetectorSession, image: &Image) -> Result<Vec<Detection>> {
        // 1. letterbox
        let roi = image.letterbox();
        let sampling = Sampling { side: self.config.side, range: [-1.0, 1.0], border: Border::Zero };
        image.sample(pool, &roi, sampling, &mut session.input);
        // 2. net
        session.net.run(pool, &[&session.input])?;
        // 3. boxes above the least score, 4. blended where they overlap
        let found = self.decode(session.net.output(self.boxes), session.net.output(self.scores), &roi);
        Ok(blend(found, self.config.max_overlap))
    }

    fn decode(&self, boxes: &[f32], scores: &[f32], roi: &Roi) -> Vec<Detection> {
        let width = 4 + 2 * self.config.keypoints;
        let side = self.config.side as f32;
        let rows = boxes.chunks_exact(width).zip(scores).zip(&self.anchors);
        rows.filter_map(|((raw, &logit), anchor)| {
            let score = 1.0 / (1.0 + (-logit.clamp(-100.0, 100.0)).exp());
            // `partial_cmp` drops NaN as well
            if score.partial_cmp(&self.config.min_score).is_none_or(|o| o.is_lt()) || raw.iter().any(|v| !v.is_finite()) {
                return None;
            }
            let point = |i: usize| roi.to_picture([raw[i] / side + anchor[0], raw[i + 1] / side + anchor[1]]);
            let ([x, y], scale) = (point(0), roi.size / side);
            let (w, h) = (raw[2] * scale, raw[3] * scale);
            let bbox = [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0];
            Some(Detection { score, bbox, keypoints: (4..width).step_by(2).map(point).collect() })
        })
        .collect()
    }
}

/// Preallocated buffers of one detector.
pub struct DetectorSession {
    net: Session,
    input: Vec<f32>, // (side, side, 3)
}

fn shape_error(name: &str, seen: &[&Vec<usize>], wanted: &[usize]) -> Error {
    Error::Tensor { name: name.into(), problem: format!("a detector with {wanted:?} is needed, the file has {seen:?}") }
}

/// Centres of the anchors in 0..1: layer after layer, layers of equal stride interleaved cell by cell.
fn anchors(side: usize, strides: &[usize]) -> Vec<[f32; 2]> {
    let mut out = Vec::new();
    for group in strides.chunk_by(|a, b| a == b) {
        let cells = side.div_ceil(group[0]);
        for cell in 0..cells * cells {
            let centre = |i: usize| (i as f32 + 0.5) / cells as f32;
            out.extend(std::iter::repeat_n([centre(cell % cells), centre(cell / cells)], 2 * group.len()));
        }
    }
    out
}

/// Non-maximum suppression that averages the boxes and key points of a cluster by score instead of dropping all but one.
fn blend(mut found: Vec<Detection>, max_overlap: f32) -> Vec<Detection> {
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut out = Vec::new();
    while let Some(best) = found.first().cloned() {
        let (same, rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|d| overlap(&best.bbox, &d.bbox) > max_overlap);
        found = if same.is_empty() { rest.into_iter().skip(1).collect() } else { rest };
        out.push(if same.is_empty() { best } else { mean(&best, &same) });
    }
    out
}

fn mean(best: &Detection, same: &[Detection]) -> Detection {
    let total: f32 = same.iter().map(|d| d.score).sum();
    let weighted = |f: &dyn Fn(&Detection) -> f32| same.iter().map(|d| f(d) * d.score).sum::<f32>() / total;
    Detection {
        score: best.score,
        bbox: std::array::from_fn(|i| weighted(&|d| d.bbox[i])),
        keypoints: (0..best.keypoints.len())
            .map(|k| [weighted(&|d| d.keypoints[k][0]), weighted(&|d| d.keypoints[k][1])])
            .collect(),
    }
}

/// Intersection over union; 0 for empty boxes.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |r: &[f32; 4]| (r[2] - r[0]).max(0.0) * (r[3] - r[1]).max(0.0);
    let shared = area(&[a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let union = area(a) + area(b) - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_of_the_published_detectors() {
        let pose = anchors(224, &[8, 16, 32, 32, 32]);
        assert_eq!(pose.len(), 2254);
        assert_eq!(pose[0], [0.5 / 28.0, 0.5 / 28.0]);
        assert_eq!(pose[1568], [0.5 / 14.0, 0.5 / 14.0]);
        assert_eq!(&pose[1960..1966], &[[0.5 / 7.0, 0.5 / 7.0]; 6]);
        assert_eq!(anchors(128, &[8, 16, 16, 16]).len(), 896);
    }

    fn at(score: f32, x: f32) -> Detection {
        Detection { score, bbox: [x, 0.0, x + 10.0, 10.0], keypoints: vec![[x, 1.0]] }
    }

    #[test]
    fn overlapping_boxes_are_blended_by_score_and_others_kept() {
        let out = blend(vec![at(0.6, 1.0), at(0.9, 0.0), at(0.7, 100.0)], 0.3);
        assert_eq!(out.len(), 2);
        assert_eq!(out[0].score, 0.9);
        assert!((out[0].keypoints[0][0] - 0.6 / 1.5).abs() < 1e-6);
        assert_eq!(out[1], at(0.7, 100.0));
    }

    #[test]
    fn empty_boxes_end() {
        let point = Detection { score: 0.9, bbox: [5.0; 4], keypoints: vec![] };
        assert_eq!(blend(vec![point.clone(), point.clone()], 0.3).len(), 2);
    }
}
