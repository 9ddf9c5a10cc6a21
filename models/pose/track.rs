//! From frame to frame: find once, then follow each person by the region that their last landmarks give; say who is who by motion
//! and colour, so that people who cross keep their ids.

use dreamseed_kernels::Pool;

use super::associate::{COCO, Colors, Motion, Points, assign, oks};
use super::landmarks::Seen;
use super::multipose::MultiPoseSession;
use super::smooth::{self, Filter};
use super::{NetSession, Person, Pose};
use crate::detection::DetectorSession;
use crate::image::{Image, Roi, rotation};
use crate::weights::Result;

/// How to track.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most people followed at once. Above 1 they are found by MoveNet (six a pass) where [`Pose::with_finder`] gave it.
    pub max_people: usize,
    /// Presence below which a person is lost, 0..1.
    pub min_presence: f32,
    /// Smooth over time; off for pictures that do not belong together.
    pub smooth: bool,
    /// Seconds for which a person who is not seen keeps the id.
    pub keep: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_people: 1, min_presence: 0.5, smooth: true, keep: 1.0 }
    }
}

/// Poses more alike than this (object key point similarity) are of one body.
const SAME_BODY: f32 = 0.6;
/// Frames between two looks for more people while all those known are seen.
const FIND_EVERY: u32 = 5;
/// Least score of MoveNet's people.
const FOUND: f32 = 0.2;

/// One person between frames.
struct Followed {
    id: u32,
    roi: Roi,
    motion: Motion,
    colors: Option<Colors>,
    seen_at: f64,
    lost: bool,
    body: Filter,
    world: Filter,
    region: Filter,
    visibility: Vec<f32>,
}

/// A body in the current frame.
struct Observed {
    seen: Seen,
    points: Points,
    roi: Roi, // the region that its landmarks give
    colors: Option<Colors>,
    by: Vec<usize>, // the people whose regions it was seen in; none where it was found anew
}

/// Follows people through the frames of one clip. Holds all buffers.
pub struct Tracker<'a> {
    pose: &'a Pose,
    options: Options,
    detector: DetectorSession,
    finder: Option<MultiPoseSession>,
    net: NetSession,
    people: Vec<Followed>, // longest followed first
    next_id: u32,
    since_find: u32, // frames
}

/// The square around a person and its turn: from the middle of the hips, twice as far as a point on the circle around them,
/// and a quarter more; upright is hips below head.
fn region([center, edge]: [[f32; 2]; 2]) -> Roi {
    let reach = (edge[0] - center[0]).hypot(edge[1] - center[1]);
    Roi { center, size: reach * 2.0 * 1.25, rotation: rotation(center, edge, std::f32::consts::FRAC_PI_2) }
}

impl<'a> Tracker<'a> {
    pub(super) fn new(pose: &'a Pose, options: Options) -> Self {
        let (detector, net) = (pose.detector.session(), pose.net.session());
        let finder = pose.finder.as_ref().filter(|_| options.max_people > 1).map(|f| f.session());
        Self { pose, options, detector, finder, net, people: Vec::new(), next_id: 0, since_find: 0 }
    }

    /// Everyone in the frame at time `t` (seconds), longest followed first, at first the largest. Coordinates in 0..1 of the
    /// picture.
    pub fn track(&mut self, pool: &Pool, image: &Image, t: f64) -> Result<Vec<Person>> {
        // 1. bodies where people were, 2. and new ones where there is room for more
        let mut bodies = self.look_again(pool, image)?;
        if self.due(bodies.len()) {
            self.since_find = 0;
            self.find(pool, image, &mut bodies)?;
        }
        self.since_find += 1;
        // 3. who is who
        let owner = assign(&self.costs(&bodies, t), bodies.len());
        // 4. what everyone does now
        let mut found = self.update(bodies, &owner, image, t);
        self.people.retain(|p| !p.lost || (t - p.seen_at).abs() <= self.options.keep);
        if !self.options.smooth {
            self.people.clear(); // each picture stands alone
        }
        found.sort_by_key(|p| p.id);
        Ok(found)
    }

    /// Whether to look for people: always while nobody is followed or someone is lost, else now and then. Never when all are there.
    fn due(&self, bodies: usize) -> bool {
        let lost = self.people.iter().any(|p| p.lost) || bodies < self.people.len();
        bodies < self.options.max_people && (bodies == 0 || lost || self.since_find >= FIND_EVERY)
    }

    /// Looks into the regions of those who were seen in the last frame. Two that have come to lie on one body are one.
    fn look_again(&mut self, pool: &Pool, image: &Image) -> Result<Vec<Observed>> {
        let mut bodies = Vec::new();
        for i in 0..self.people.len() {
            let Followed { lost, roi, .. } = self.people[i];
            if !lost && let Some(body) = self.look(pool, image, &roi, vec![i])? {
                join(&mut bodies, body);
            }
        }
        Ok(bodies)
    }

    fn look(&mut self, pool: &Pool, image: &Image, roi: &Roi, by: Vec<usize>) -> Result<Option<Observed>> {
        if !roi.usable(image) {
            return Ok(None);
        }
        let seen = self.pose.net.look(pool, &mut self.net, image, roi)?;
        let Some(seen) = seen.filter(|s| s.score >= self.options.min_presence) else { return Ok(None) };
        let points = COCO.map(|(i, _)| [seen.body[i].x, seen.body[i].y, seen.body[i].visibility]);
        // with one person there is nobody to be told apart from
        let colors = if self.options.max_people > 1 { Colors::of(image, &points) } else { None };
        Ok(Some(Observed { roi: region(seen.region), seen, points, colors, by }))
    }

    /// Adds people that are not among `bodies`, the largest first.
    fn find(&mut self, pool: &Pool, image: &Image, bodies: &mut Vec<Observed>) -> Result<()> {
        let mut new = Vec::new();
        if let (Some(net), Some(session)) = (&self.pose.finder, &mut self.finder) {
            let found = net.find(pool, session, image, FOUND)?;
            for person in found.iter().filter(|f| bodies.iter().all(|b| oks(&f.points, &b.points) < SAME_BODY)) {
                // the net's reach is a guess: the landmarks' own region is the one to look at
                let Some(first) = self.look(pool, image, &region(person.region()), Vec::new())? else { continue };
                if let Some(body) = self.look(pool, image, &first.roi, Vec::new())? {
                    join(&mut new, body);
                }
            }
        }
        for seen in self.pose.detector.detect(pool, &mut self.detector, image)? {
            let roi = region([seen.keypoints[0], seen.keypoints[1]]);
            let known = bodies.iter().chain(&new).any(|b| distance(b.roi.center, roi.center) < 0.25 * b.roi.size.max(roi.size));
            if !known && let Some(body) = self.look(pool, image, &roi, Vec::new())? {
                join(&mut new, body);
            }
            if self.options.max_people == 1 && !new.is_empty() {
                break;
            }
        }
        new.sort_by(|a, b| b.roi.size.total_cmp(&a.roi.size));
        new.into_iter().for_each(|body| join(bodies, body));
        Ok(())
    }

    /// What it would cost to take each body for each person; `None` where it cannot be.
    fn costs(&self, bodies: &[Observed], t: f64) -> Vec<Vec<Option<f32>>> {
        let cost = |(i, p): (usize, &Followed)| bodies.iter().map(|b| p.cost(b, b.by.contains(&i), t)).collect();
        self.people.iter().enumerate().map(cost).collect()
    }

    /// Carries on everyone who has a body, starts new people where there is room, and marks the others lost.
    fn update(&mut self, bodies: Vec<Observed>, owner: &[Option<usize>], image: &Image, t: f64) -> Vec<Person> {
        let near = |a: &Observed, b: &Observed| distance(a.roi.center, b.roi.center) < 0.5 * a.roi.size.max(b.roi.size);
        let alone: Vec<bool> = bodies.iter().map(|a| bodies.iter().filter(|b| near(a, b)).count() == 1).collect();
        let (mut found, mut room) = (Vec::new(), self.options.max_people);
        let mut bodies: Vec<_> = bodies.into_iter().map(Some).collect();
        for (person, body) in self.people.iter_mut().zip(owner) {
            let taken = body.filter(|_| room > 0).and_then(|b| Some((bodies[b].take()?, alone[b])));
            person.lost = taken.is_none();
            if let Some((body, alone)) = taken {
                room -= 1;
                found.push(person.take(body, alone, self.options.smooth, image, t));
            }
        }
        for body in bodies.into_iter().flatten().take(room) {
            let mut person = Followed::new(self.next_id, &body, t);
            self.next_id += 1;
            found.push(person.take(body, true, self.options.smooth, image, t));
            self.people.push(person);
        }
        found
    }
}

fn distance(a: [f32; 2], b: [f32; 2]) -> f32 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// Adds a body, or makes it one with the same body seen before.
fn join(bodies: &mut Vec<Observed>, body: Observed) {
    match bodies.iter_mut().find(|b| oks(&b.points, &body.points) >= SAME_BODY) {
        Some(same) => same.by.extend(body.by),
        None => bodies.push(body),
    }
}

impl Followed {
    fn new(id: u32, body: &Observed, t: f64) -> Self {
        Self {
            id,
            roi: body.roi,
            motion: Motion::new(body.roi.center, t),
            colors: None,
            seen_at: t,
            lost: false,
            body: Filter::new(smooth::PICTURE),
            world: Filter::new(smooth::METRES),
            region: Filter::new(smooth::REGION),
            visibility: Vec::new(),
        }
    }

    /// Of where it should be, how large and of which colours: 0 for the same. A body outside of all that a person could have done is
    /// forbidden, unless it was seen in the person's own region.
    fn cost(&self, body: &Observed, own: bool, t: f64) -> Option<f32> {
        const REACH: f32 = 0.25; // of the region, and as much more for each second unseen
        const GROWTH: f32 = 0.7; // logarithm of the ratio of sizes: half or twice
        let size = self.roi.size.max(1.0);
        let allowed = REACH * size * (1.0 + (t - self.seen_at).clamp(0.0, 2.0) as f32);
        let off = distance(self.motion.predict(t), body.roi.center) / allowed;
        let growth = (body.roi.size.max(1.0) / size).ln().abs() / GROWTH;
        let colors = match (&self.colors, &body.colors) {
            (Some(a), Some(b)) => a.distance(b),
            _ => 0.3,
        };
        let cost = 0.5 * off.min(2.0) + 0.2 * growth.min(2.0) + colors;
        match own {
            true => Some(cost - 0.1), // between equals, who was followed goes on
            false => (off <= 1.0 && growth <= 1.0).then_some(cost),
        }
    }

    /// The person does what `body` does. Colours are learnt only where nobody else is near.
    fn take(&mut self, mut body: Observed, alone: bool, smooth: bool, image: &Image, t: f64) -> Person {
        if t - self.seen_at > 0.5 {
            self.forget();
        }
        self.motion.update(body.roi.center, t);
        match (&mut self.colors, body.colors) {
            (Some(known), Some(seen)) if alone => known.follow(&seen),
            (None, seen) => self.colors = seen,
            _ => {}
        }
        if smooth {
            self.smooth(&mut body.seen, t);
        }
        (self.roi, self.seen_at) = (region(body.seen.region), t);
        self.report(body.seen, image)
    }

    /// Filters do not join what lies far apart in time.
    fn forget(&mut self) {
        self.body = Filter::new(smooth::PICTURE);
        self.world = Filter::new(smooth::METRES);
        self.region = Filter::new(smooth::REGION);
        self.visibility.clear();
    }

    /// One-Euro for places, a slow low-pass for visibility.
    fn smooth(&mut self, seen: &mut Seen, t: f64) {
        const VISIBILITY_ALPHA: f32 = 0.1;
        let [center, edge] = seen.region;
        let size = 2.0 * distance(center, edge);
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
