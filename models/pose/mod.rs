//! Body pose: people found (BlazePose detector, MoveNet for several), region of interest, 33 landmarks in the picture and in metres
//! (or 17 of them in the picture, by ViTPose), tracking and smoothing.

mod associate;
mod coco;
mod landmarks;
mod multipose;
mod smooth;
mod track;

use std::path::Path;

use serde::{Serialize, ser::SerializeTuple};

pub use multipose::{Found, MultiPose, MultiPoseSession};
pub use track::{Options, Tracker};

use crate::Processor;
use crate::detection::{self, Detector};
use crate::graph::Network;
use crate::image::{Image, Roi};
use crate::vision::encoder::State;
use crate::weights::Result;
use coco::CocoNet;
use dreamseed_kernels::Pool;
use landmarks::{LandmarkNet, LandmarkSession, Seen};

/// BlazePose's detector (Bazarevsky et al. 2020) and a landmark net, immutable; a [`Tracker`] holds what changes.
pub struct Pose {
    detector: Detector,
    net: Net,
    finder: Option<MultiPose>,
    on: Processor,
}

/// What finds the points of a body in a region.
enum Net {
    BlazePose(Box<LandmarkNet>),
    VitPose(Box<CocoNet>),
}

/// Buffers of a landmark net.
enum NetSession {
    BlazePose(LandmarkSession),
    VitPose(Box<State>),
}

impl Net {
    fn session(&self) -> NetSession {
        match self {
            Self::BlazePose(net) => NetSession::BlazePose(net.session()),
            Self::VitPose(_) => NetSession::VitPose(Box::default()),
        }
    }

    /// Looks at a region. `None` where nothing can be read there.
    fn look(&self, pool: &Pool, session: &mut NetSession, image: &Image, roi: &Roi) -> Result<Option<Seen>> {
        match (self, session) {
            (Self::BlazePose(net), NetSession::BlazePose(session)) => net.look(pool, session, image, roi),
            (Self::VitPose(net), NetSession::VitPose(state)) => net.look(pool, state, image, roi),
            _ => unreachable!("a tracker's session is its net's own"),
        }
    }
}

impl Pose {
    /// From `pose_detection.tflite` and one of `pose_landmark_{lite,full,heavy}.tflite`; all its networks run `on` one processor.
    pub fn open(on: &Processor, detector: &Path, landmarks: &Path) -> Result<Self> {
        Self::new(on, detector, Net::BlazePose(Box::new(LandmarkNet::new(Network::open_on(on, landmarks)?)?)))
    }

    /// From `pose_detection.tflite` and a folder of ViTPose as transformers writes it: COCO's 17 points in the picture. The other 16
    /// landmarks and all depths are NaN with a visibility of 0, and there are no points in metres. The detector runs `on` that processor,
    /// ViTPose on the CPU.
    ///
    /// # Errors
    /// Files that cannot be used; a net of other points than those 17.
    pub fn open_vitpose(on: &Processor, detector: &Path, folder: &Path, pool: &Pool) -> Result<Self> {
        Self::new(on, detector, Net::VitPose(Box::new(CocoNet::open(on, folder, pool)?)))
    }

    fn new(on: &Processor, detector: &Path, net: Net) -> Result<Self> {
        let config =
            detection::Config { side: 224, strides: &[8, 16, 32, 32, 32], keypoints: 4, min_score: 0.5, max_overlap: 0.3 };
        let detector = Detector::new(Network::open_on(on, detector)?, config)?;
        Ok(Self { detector, net, finder: None, on: on.clone() })
    }

    /// With `movenet-multipose.json`, which finds several people: BlazePose's detector is made for one who fills the picture, and
    /// of three who are 3/8 as high as the picture is wide it sees one.
    pub fn with_finder(mut self, finder: &Path) -> Result<Self> {
        self.finder = Some(MultiPose::open_on(&self.on, finder)?);
        Ok(self)
    }

    /// What finds people where none is followed.
    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// A tracker for one clip or camera.
    pub fn tracker(&self, options: Options) -> Tracker<'_> {
        Tracker::new(self, options)
    }
}

/// One point of the body in the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Landmark {
    /// 0 left edge, 1 right edge of the picture; may lie outside for cut-off bodies. NaN (null in JSON) for a point that the net
    /// does not have, as `y` and `z`.
    pub x: f32,
    /// 0 top, 1 bottom.
    pub y: f32,
    /// Depth about the hips, in the scale of `x`; smaller is nearer to the camera.
    pub z: f32,
    /// Probability that the point is in the picture and not hidden, 0..1.
    pub visibility: f32,
}

impl Serialize for Landmark {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        let mut t = s.serialize_tuple(4)?;
        for v in [self.x, self.y, self.z, self.visibility] {
            t.serialize_element(&v)?;
        }
        t.end()
    }
}

/// One person in one frame.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Person {
    /// Kept while the person is tracked.
    pub id: u32,
    /// Confidence that a person is there, 0..1.
    pub score: f32,
    /// The 33 points in MediaPipe's order ([`LANDMARK_NAMES`]).
    pub landmarks: Vec<Landmark>,
    /// The same points in metres about the middle of the hips: x right, y down, z away from the camera. Empty where the net tells
    /// none (ViTPose).
    pub world: Vec<[f32; 3]>,
}

/// Names of the 33 landmarks in MediaPipe's order; left and right are the person's own.
#[rustfmt::skip]
pub const LANDMARK_NAMES: [&str; 33] = [
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
    "left_ear", "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index", "left_thumb", "right_thumb",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_heel", "right_heel",
    "left_foot_index", "right_foot_index",
];
