//! Face: detector, mesh of 468 points, where the head points, irises, expression.

pub mod expression;
pub mod head;
mod iris;
mod mesh;
mod track;

use std::path::Path;

use serde::Serialize;

pub use track::{FaceTracker, Options};

use crate::Processor;
use crate::detection::{self, Detector};
use crate::graph::Network;
use crate::weights::Result;
use iris::IrisNet;
use mesh::{ExpressionNet, MeshNet};

/// BlazeFace detector, face mesh and expression net; immutable; a [`FaceTracker`] holds what changes.
///
/// Sources: Bazarevsky et al. 2019 (BlazeFace), Kartynnik et al. 2019 (face mesh).
pub struct FaceNets {
    detector: Detector,
    mesh: MeshNet,
    expression: Option<ExpressionNet>,
    iris: Option<IrisNet>,
    on: Processor,
}

impl FaceNets {
    /// From `face_detection_short_range.tflite`, `face_landmark.tflite` and, if wanted, `emotion.json`; all run `on` one processor.
    pub fn open(on: &Processor, detector: &Path, mesh: &Path, expression: Option<&Path>) -> Result<Self> {
        let config = detection::Config { side: 128, strides: &[8, 16, 16, 16], keypoints: 6, min_score: 0.5, max_overlap: 0.3 };
        Ok(Self {
            detector: Detector::new(Network::open_on(on, detector)?, config)?,
            mesh: MeshNet::new(Network::open_on(on, mesh)?)?,
            expression: expression.map(|p| ExpressionNet::new(Network::open_on(on, p)?)).transpose()?,
            iris: None,
            on: on.clone(),
        })
    }

    /// With `iris_landmark.tflite`, from which the direction of the gaze follows.
    pub fn with_iris(mut self, iris: &Path) -> Result<Self> {
        self.iris = Some(IrisNet::new(Network::open_on(&self.on, iris)?)?);
        Ok(self)
    }

    /// A tracker for one clip or camera.
    pub fn tracker(&self, options: Options) -> FaceTracker<'_> {
        FaceTracker::new(self, options)
    }
}

/// Names of the expressions, in the order of [`Face::expression`].
pub const EXPRESSIONS: [&str; 7] = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"];

/// One face in one frame.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Face {
    /// Detector or tracker confidence, 0..1.
    pub score: f32,
    /// [left, top, right, bottom], 0..1 of the picture.
    pub bbox: [f32; 4],
    /// 468 points: x and y in 0..1 of the picture, z in the scale of x.
    pub mesh: Vec<[f32; 3]>,
    /// Probabilities in the order of [`EXPRESSIONS`]; `None` without an expression net.
    pub expression: Option<[f32; 7]>,
    /// Of the person's right and left iris the centre and four points of the edge (right, top, left, bottom), in 0..1 of the picture;
    /// `None` without an iris net.
    pub irises: Option<[[[f32; 2]; 5]; 2]>,
}
