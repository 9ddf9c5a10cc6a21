//! Face: detector, mesh of 468 points, expression.

use serde::Serialize;

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
}
