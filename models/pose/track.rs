//! From frame to frame: detect once, then follow each person by the region that their last landmarks give.

use dreamseed_kernels::Pool;

use super::landmarks::{LandmarkSession, Seen};
use super::smooth::{self, Filter};
use super::{Person, Pose};
use crate::detection::DetectorSession;
use crate::image::{Image, Roi, rotation};
use crate::weights::Result;

/// How to track.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most people followed at once.
    pub max_people: usize,
    /// Presence below which a person is lost, 0..1.
    pub min_presence: f32,
    /// Smooth over time; off for pictures that do not belong together.
    pub smooth: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_people: 1, min_presence: 0.5, smooth: true }
    }
}

/// One person between frames.
struct Followed {
    id: u32,
    roi: Roi,
    body: Filter,
    world: Filter,
    region: Filter,
    visibility: Vec<f32>,
}

/// Follows people through the frames of one clip. Holds all buffers.
pub struct Tracker<'a> {
    pose: &'a Pose,
    options: Options,
    detector: DetectorSession,
    net: LandmarkSession,
    people: Vec<Followed>,
    next_id: u32,
}

/// The square around a person and its turn: from the middle of the hips, twice as far as a point on the circle around them,
/// and a quarter more; upright is hips below head.
fn region(center: [f32; 2], edge: [f32; 2]) -> Roi {
    let reach = (edge[0] - center[0]).hypot(edge[1] - center[1]);
    Roi { center, size: reach * 2.0 * 1.25, rotation: rotation(center, edge, std::f32::consts::FRAC_PI_2) }
}

impl<'a> Tracker<'a> {
    pub(super) fn new(pose: &'a Pose, options: Options) -> Self {
        let (detector, net) = (pose.detector.session(), pose.net.session());
        Self { pose, options, detector, net, people: Vec::new(), next_id: 0 }
    }

    /// Everyone in the frame at time `t` (seconds), longest followed first. Coordinates in 0..1 of the picture.
    pub fn track(&mut self, pool: &Pool, image: &Image, t: f64) -> Result<Vec<Person>> {
        // 1. new people, where there is room for more
        if self.people.len() < self.options.max_people {
            self.find(pool, image)?;
        }
        // 2. landmarks in each region; 3. the next region from them
        let mut found = Vec::new();
        for mut person in std::mem::take(&mut self.people) {
            if !person.roi.usable(image) {
                continue;
            }
            let seen = self.pose.net.look(pool, &mut self.net, image, &person.roi)?;
            let Some(mut seen) = seen.filter(|s| s.score >= self.options.min_presence) else { continue };
            if self.options.smooth {
                person.smooth(&mut seen, t);
            }
            person.roi = region(seen.region[0], seen.region[1]);
            found.push(person.report(seen, image));
            self.people.push(person);
        }
        if !self.options.smooth {
            self.people.clear(); // each picture stands alone
        }
        Ok(found)
    }

    /// Adds the detector's people that are not followed already.
    fn find(&mut self, pool: &Pool, image: &Image) -> Result<()> {
        for seen in self.pose.detector.detect(pool, &mut self.detector, image)? {
            let roi = region(seen.keypoints[0], seen.keypoints[1]);
            let known = self.people.iter().any(|p| {
                let [dx, dy] = [p.roi.center[0] - roi.center[0], p.roi.center[1] - roi.center[1]];
                dx.hypot(dy) < 0.25 * p.roi.size.max(roi.size)
            });
            if known || self.people.len() >= self.options.max_people {
                continue;
            }
            self.people.push(Followed {
                id: self.next_id,
                roi,
                body: Filter::new(smooth::PICTURE),
                world: Filter::new(smooth::METRES),
                region: Filter::new(smooth::REGION),
                visibility: Vec::new(),
            });
            self.next_id += 1;
        }
        Ok(())
    }
}

impl Followed {
    /// One-Euro for places, a slow low-pass for visibility.
    fn smooth(&mut self, seen: &mut Seen, t: f64) {
        const VISIBILITY_ALPHA: f32 = 0.1;
        let [center, edge] = seen.region;
        let size = 2.0 * (edge[0] - center[0]).hypot(edge[1] - center[1]);
        let scale = 1.0 / size.max(1e-6);
        let mut flat: Vec<f32> = seen.body.iter().flat_map(|l| [l.x, l.y, l.z]).collect();
        self.body.apply(t, scale, &mut flat);
        for (l, v) in seen.body.iter_mut().zip(flat.chunks_exact(3)) {
            (l.x, l.y, l.z) = (v[0], v[1], v[2]);
        }
        self.world.apply(t, 1.0, seen.world.as_flattened_mut());
        self.region.apply(t, scale, seen.region.as_flattened_mut());
        if self.visibility.len() != seen.body.len() {
            self.visibility = seen.body.iter().map(|l| l.visibility).collect();
        }
        for (l, kept) in seen.body.iter_mut().zip(&mut self.visibility) {
            *kept += VISIBILITY_ALPHA * (l.visibility - *kept);
            l.visibility = *kept;
        }
    }

    fn report(&self, seen: Seen, image: &Image) -> Person {
        let (w, h) = (image.width() as f32, image.height() as f32);
        let mut landmarks = seen.body;
        for l in &mut landmarks {
            (l.x, l.y, l.z) = (l.x / w, l.y / h, l.z / w);
        }
        Person { id: self.id, score: seen.score.clamp(0.0, 1.0), landmarks, world: seen.world }
    }
}
