//! Faces from frame to frame: detect once, then follow by the region that the last mesh gives.

use dreamseed_kernels::Pool;

use super::mesh::{Mesh, NetSession, square};
use super::{Face, FaceNets};
use crate::detection::DetectorSession;
use crate::image::{Image, Roi, rotation};
use crate::weights::Result;

/// How much larger than the face the mesh net's region is.
const MESH_MARGIN: f32 = 1.5;
/// The same for the expression net: forehead to chin.
const EXPRESSION_MARGIN: f32 = 1.15;

/// How to track.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most faces followed at once.
    pub max_faces: usize,
    /// Presence below which a face is lost, 0..1.
    pub min_presence: f32,
    /// Follow from frame to frame; off for pictures that do not belong together.
    pub follow: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_faces: 1, min_presence: 0.5, follow: true }
    }
}

/// Follows faces through the frames of one clip. Holds all buffers.
pub struct FaceTracker<'a> {
    nets: &'a FaceNets,
    options: Options,
    detector: DetectorSession,
    mesh: NetSession,
    expression: Option<NetSession>,
    iris: Option<NetSession>,
    regions: Vec<Roi>, // of the faces in the last frame
}

impl<'a> FaceTracker<'a> {
    pub(super) fn new(nets: &'a FaceNets, options: Options) -> Self {
        let expression = nets.expression.as_ref().map(|e| e.session());
        let (detector, mesh, iris) = (nets.detector.session(), nets.mesh.session(), nets.iris.as_ref().map(|i| i.session()));
        Self { nets, options, detector, mesh, expression, iris, regions: Vec::new() }
    }

    /// All faces of a frame, longest followed first. Coordinates in 0..1 of the picture. `about`: where the face that matters is
    /// expected, so that it is the one followed where there are more faces than places; without it the surest are.
    pub fn track(&mut self, pool: &Pool, image: &Image, about: Option<[f32; 2]>) -> Result<Vec<Face>> {
        // 1. regions: those followed, and the detector's where there is room for more
        let mut regions = std::mem::take(&mut self.regions);
        if regions.len() < self.options.max_faces {
            let mut found = self.nets.detector.detect(pool, &mut self.detector, image)?;
            if let Some([x, y]) = about {
                let (x, y) = (x * image.width() as f32, y * image.height() as f32);
                let away = |b: &[f32; 4]| ((b[0] + b[2]) / 2.0 - x).hypot((b[1] + b[3]) / 2.0 - y);
                found.sort_by(|a, b| away(&a.bbox).total_cmp(&away(&b.bbox)));
            }
            for seen in found {
                let [right, left] = [seen.keypoints[0], seen.keypoints[1]];
                let roi = square(&seen.bbox, rotation(right, left, 0.0)).scaled(MESH_MARGIN);
                let near = |r: &Roi| (r.center[0] - roi.center[0]).hypot(r.center[1] - roi.center[1]) < 0.35 * roi.size;
                if regions.len() < self.options.max_faces && !regions.iter().any(near) {
                    regions.push(roi);
                }
            }
        }
        // 2. mesh, 3. expression, 4. irises
        let mut faces = Vec::new();
        for roi in regions {
            if !roi.usable(image) {
                continue;
            }
            let mesh = self.nets.mesh.look(pool, &mut self.mesh, image, &roi)?;
            let Some(mesh) = mesh.filter(|m| m.score >= self.options.min_presence) else { continue };
            let face = mesh.region();
            if !face.usable(image) {
                continue;
            }
            let expression = match (&self.nets.expression, &mut self.expression) {
                (Some(net), Some(session)) => net.look(pool, session, image, &face.scaled(EXPRESSION_MARGIN))?,
                _ => None,
            };
            let irises = match (&self.nets.iris, &mut self.iris) {
                (Some(net), Some(session)) => net.look(pool, session, image, &mesh)?,
                _ => None,
            };
            if self.options.follow {
                self.regions.push(face.scaled(MESH_MARGIN));
            }
            let mut face = report(&mesh, image);
            face.expression = expression;
            face.irises =
                irises.map(|i| i.map(|points| points.map(|[x, y]| [x / image.width() as f32, y / image.height() as f32])));
            faces.push(face);
        }
        Ok(faces)
    }
}

fn report(mesh: &Mesh, image: &Image) -> Face {
    let (w, h) = (image.width() as f32, image.height() as f32);
    let b = mesh.bbox();
    Face {
        score: mesh.score,
        bbox: [b[0] / w, b[1] / h, b[2] / w, b[3] / h],
        mesh: mesh.points.iter().map(|p| [p[0] / w, p[1] / h, p[2] / w]).collect(),
        ..Face::default()
    }
}
