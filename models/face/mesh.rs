//! The face mesh net and the expression net, each on a square region of the picture.

use dreamseed_kernels::Pool;

use super::EXPRESSIONS;
use crate::graph::{Network, Session};
use crate::image::{Border, Image, Roi, Sampling, rotation};
use crate::weights::{Error, Result};

const MESH_SIDE: usize = 192;
const POINTS: usize = 468;
const EXPRESSION_SIDE: usize = 64;

/// Outer corners of the eyes in the mesh: the person's right and left.
const EYES: [usize; 2] = [33, 263];

/// 468 points from a 192 x 192 region.
pub(super) struct MeshNet {
    network: Network,
    points: usize,   // 468 * 3 values: x, y, z in pixels of the region
    presence: usize, // 1 value, logit
}

/// Mesh in pixels of the picture (z in pixels, smaller is nearer) and the probability of a face.
pub(super) struct Mesh {
    pub score: f32,
    pub points: Vec<[f32; 3]>,
}

/// Buffers of one net.
pub(super) struct NetSession {
    pub(super) net: Session,
    pub(super) input: Vec<f32>,
}

pub(super) fn misfit(what: &str, seen: impl std::fmt::Debug) -> Error {
    Error::Tensor { name: "shapes".into(), problem: format!("{what}, the file has {seen:?}") }
}

impl MeshNet {
    pub(super) fn new(network: Network) -> Result<Self> {
        let sizes: Vec<usize> = network.outputs().iter().map(|t| t.shape.iter().product()).collect();
        let find = |n: usize| sizes.iter().position(|&s| s == n);
        let input = network.inputs().iter().map(|t| t.shape.as_slice()).collect::<Vec<_>>();
        match (find(POINTS * 3), find(1), input.as_slice()) {
            (Some(points), Some(presence), [[1, MESH_SIDE, MESH_SIDE, 3]]) => Ok(Self { points, presence, network }),
            _ => Err(misfit("a face mesh net takes [1, 192, 192, 3] and gives 1404 and 1 values", (input, &sizes))),
        }
    }

    pub(super) fn session(&self) -> NetSession {
        NetSession { net: self.network.session(), input: vec![0.0; MESH_SIDE * MESH_SIDE * 3] }
    }

    /// Looks at `roi`. `None` when the net's output is not finite.
    pub(super) fn look(&self, pool: &Pool, session: &mut NetSession, image: &Image, roi: &Roi) -> Result<Option<Mesh>> {
        let sampling = Sampling { side: MESH_SIDE, range: [0.0, 1.0], border: Border::Replicate };
        image.sample(pool, roi, sampling, &mut session.input);
        session.net.run(pool, &[&session.input])?;
        let raw = session.net.output(self.points);
        if raw.iter().any(|v| !v.is_finite()) {
            return Ok(None);
        }
        let side = MESH_SIDE as f32;
        let place = |p: &[f32]| {
            let [x, y] = roi.to_picture([p[0] / side, p[1] / side]);
            [x, y, p[2] / side * roi.size]
        };
        let score = 1.0 / (1.0 + (-session.net.output(self.presence)[0]).exp());
        Ok(Some(Mesh { score, points: raw.chunks_exact(3).map(place).collect() }))
    }
}

impl Mesh {
    /// [left, top, right, bottom] in pixels.
    pub(super) fn bbox(&self) -> [f32; 4] {
        self.points.iter().fold([f32::MAX, f32::MAX, f32::MIN, f32::MIN], |b, p| {
            [b[0].min(p[0]), b[1].min(p[1]), b[2].max(p[0]), b[3].max(p[1])]
        })
    }

    /// The square that holds the face with its eyes level.
    pub(super) fn region(&self) -> Roi {
        let eye = |i: usize| [self.points[i][0], self.points[i][1]];
        square(&self.bbox(), rotation(eye(EYES[0]), eye(EYES[1]), 0.0))
    }
}

/// The square about a box's centre on its longer side.
pub(super) fn square(b: &[f32; 4], rotation: f32) -> Roi {
    Roi { center: [(b[0] + b[2]) / 2.0, (b[1] + b[3]) / 2.0], size: (b[2] - b[0]).max(b[3] - b[1]), rotation }
}

/// Seven expressions from a 64 x 64 grey picture of the upright face.
pub(super) struct ExpressionNet {
    network: Network,
}

impl ExpressionNet {
    pub(super) fn new(network: Network) -> Result<Self> {
        let shapes = |t: &[crate::graph::TensorInfo]| t.iter().map(|t| t.shape.clone()).collect::<Vec<_>>();
        let (inputs, outputs) = (shapes(network.inputs()), shapes(network.outputs()));
        let fits = inputs == [[1, EXPRESSION_SIDE, EXPRESSION_SIDE, 1]] && outputs == [[1, EXPRESSIONS.len()]];
        if fits {
            Ok(Self { network })
        } else {
            Err(misfit("an expression net takes [1, 64, 64, 1] and gives [1, 7]", (inputs, outputs)))
        }
    }

    pub(super) fn session(&self) -> NetSession {
        NetSession { net: self.network.session(), input: vec![0.0; EXPRESSION_SIDE * EXPRESSION_SIDE] }
    }

    /// Probabilities in the order of [`EXPRESSIONS`]. `None` when the net's output is not finite.
    pub(super) fn look(&self, pool: &Pool, session: &mut NetSession, image: &Image, face: &Roi) -> Result<Option<[f32; 7]>> {
        // The net takes 64 x 64; twice that, averaged, so that a large face does not alias.
        const FINE: usize = 2 * EXPRESSION_SIDE;
        let mut fine = vec![0.0; FINE * FINE * 3];
        let sampling = Sampling { side: FINE, range: [-1.0, 1.0], border: Border::Replicate };
        image.sample(pool, face, sampling, &mut fine);
        let grey = |x: usize, y: usize| {
            let p = &fine[(y * FINE + x) * 3..][..3];
            0.2989 * p[0] + 0.5870 * p[1] + 0.1140 * p[2]
        };
        for (i, v) in session.input.iter_mut().enumerate() {
            let (x, y) = (i % EXPRESSION_SIDE * 2, i / EXPRESSION_SIDE * 2);
            *v = (grey(x, y) + grey(x + 1, y) + grey(x, y + 1) + grey(x + 1, y + 1)) / 4.0;
        }
        session.net.run(pool, &[&session.input])?;
        let out = session.net.output(0);
        Ok(out.iter().all(|v| v.is_finite()).then(|| std::array::from_fn(|i| out[i])))
    }
}
