//! Faces of two people whose expression is warped along the mesh: what is told of them, and how sure it is.
//!
//!     cargo test --release --test faces -- --nocapture
//!
//! prints the measures. What such pictures can show: that a mouth that opens, corners that rise and brows that go up are told apart
//! at graded strengths, on both faces, by the whole way from pixels to judgement, also where the picture is rolled, dark, blurred,
//! noisy or small. What they cannot show: real smiles and surprise have cheeks, wrinkles and teeth that a warp does not make, two
//! adults are no sample of mankind, and of the other expressions there are none. The pictures are made here and kept nowhere.

#[path = "../common/mod.rs"]
mod common;
mod fit;
mod warp;

use std::path::PathBuf;

use common::{engine, reference, weights};
use dreamseed::extract::{Observed, Tracks};
use dreamseed::media::{self, Limits};
use dreamseed::timeline;
use dreamseed_models::face::expression::{Measures, REST};
use dreamseed_models::face::head::HeadPose;
use dreamseed_models::face::{self, Face};
use warp::{Act, Harm, Picture};

/// What a picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Smile,
    Surprise,
    Neutral,
}

/// One picture as it was seen.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) person: usize,
    pub(crate) shown: Shown,
    pub(crate) strength: f32, // 0 at rest, 1 in full
    pub(crate) harm: Harm,
    pub(crate) measures: Measures,
    pub(crate) net: Option<[f32; 7]>,
}

impl Sample {
    /// What is to be told: halfway nothing is.
    pub(crate) fn label(&self) -> Option<Shown> {
        match self.strength {
            s if s < 0.4 => Some(Shown::Neutral),
            s if s > 0.6 => Some(self.shown),
            _ => None,
        }
    }
}

/// A face and its mesh in pixels.
struct Person {
    picture: Picture,
    points: Vec<[f64; 3]>,
    eyes: f32, // pixels between their outer corners
    own: Measures,
}

/// The face that is found, in a second look by the mesh's own region, and what the timeline says of it.
fn seen(picture: &Picture) -> Option<(Observed<Face>, Measures, HeadPose)> {
    let nets = engine().face().expect("face nets");
    let mut tracker = nets.tracker(face::Options::default());
    let look = |image: &dreamseed_models::image::Image| {
        tracker.track(engine().pool(), image, None).expect("a run");
        tracker.track(engine().pool(), image, None).expect("a run")
    };
    let found = picture.with_image(look);
    let (width, height) = (picture.width as u32, picture.height as u32);
    let observed = Observed { t: 0.0, width, height, found };
    let head = HeadPose::of(observed.found.first()?, width, height)?;
    let tracks = Tracks { duration: 0.04, face: Some(vec![observed.clone()]), ..Tracks::default() };
    let line = timeline::fuse(&tracks, 25.0);
    let get = |name: &str| line.column(&format!("face.{name}"))?.values[0];
    let measures = Measures {
        mouth_open: get("mouth_open")?,
        mouth_width: get("mouth_width")?,
        corner_lift: get("corner_lift")?,
        brow_raise: get("brow_raise")?,
        brow_gap: get("brow_gap")?,
        eye_open: get("eye_open")?,
    };
    Some((observed, measures, head))
}

fn person(path: &PathBuf) -> Person {
    let frame = media::open(path, &Limits::default()).expect("a picture").frames.remove(0);
    let picture = Picture::new(frame.width, frame.height, &frame.rgb);
    let (o, own, head) = seen(&picture).expect("a face");
    let (w, h) = (f64::from(o.width), f64::from(o.height));
    let points = o.found[0].mesh.iter().map(|p| [f64::from(p[0]) * w, f64::from(p[1]) * h, f64::from(p[2]) * w]).collect();
    Person { picture, points, eyes: head.scale as f32, own }
}

/// The two people of the reference pictures, one smiling, one with a straight face.
fn people() -> Option<[Person; 2]> {
    let straight = reference("media/grace_hopper.jpg")?;
    Some([person(&weights("sample-portrait").join("astronaut.png")), person(&straight)])
}

/// Smiles with the mouth closed and open, surprise by mouth and brows and mostly by one of them.
const STYLES: [(Shown, Measures); 5] = [
    (Shown::Smile, full(0.02, 0.7, 0.07, 0.3, 0.3)),
    (Shown::Smile, full(0.14, 0.74, 0.08, 0.31, 0.32)),
    (Shown::Surprise, full(0.4, 0.56, -0.01, 0.4, 0.42)),
    (Shown::Surprise, full(0.5, 0.6, -0.01, 0.37, 0.38)),
    (Shown::Surprise, full(0.27, 0.55, -0.01, 0.43, 0.46)),
];

const fn full(mouth_open: f32, mouth_width: f32, corner_lift: f32, brow_raise: f32, eye_open: f32) -> Measures {
    Measures { mouth_open, mouth_width, corner_lift, brow_raise, brow_gap: REST.brow_gap, eye_open }
}

impl Person {
    /// From the own face to the way between rest and an expression. Brows and lids start from the person's own.
    fn act(&self, style: &Measures, strength: f32) -> Act {
        let own = &self.own;
        let way = |rest: f32, full: f32| rest + strength * (full - rest);
        Act {
            lift: way(REST.corner_lift, style.corner_lift) - own.corner_lift,
            width: way(REST.mouth_width, style.mouth_width) - own.mouth_width,
            open: way(REST.mouth_open, style.mouth_open) - own.mouth_open,
            brows: strength * (style.brow_raise - REST.brow_raise),
            lids: strength * (style.eye_open - REST.eye_open) * 0.31,
        }
    }

    fn shows(&self, style: &Measures, strength: f32) -> Picture {
        self.picture.acted(&self.points, self.act(style, strength))
    }
}

const HARMS: [Harm; 7] =
    [Harm::None, Harm::Roll(-15.0), Harm::Roll(20.0), Harm::Dark(0.3), Harm::Blur(0.03), Harm::Noise(25.0), Harm::Small(28.0)];
/// Of which little can be told.
const RUINS: [Harm; 4] = [Harm::Dark(0.02), Harm::Blur(0.25), Harm::Small(7.0), Harm::Noise(140.0)];
const STRENGTHS: [f32; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// All pictures of the set under these harms; how many of them show no face to the nets.
fn samples(people: &[Person; 2], harms: &[Harm]) -> (Vec<Sample>, usize) {
    let (mut all, mut lost) = (Vec::new(), 0);
    for (k, person) in people.iter().enumerate() {
        for (style, (shown, full)) in STYLES.iter().enumerate() {
            // at rest all styles are the same
            for strength in STRENGTHS.into_iter().filter(|s| style == 0 || *s > 0.0) {
                let acted = person.shows(full, strength);
                for harm in harms {
                    let picture = acted.harmed(*harm, person.eyes, all.len() as u64);
                    let Some((o, measures, _)) = seen(&picture) else {
                        lost += 1;
                        continue;
                    };
                    let net = o.found[0].expression;
                    all.push(Sample { person: k, shown: *shown, strength, harm: *harm, measures, net });
                }
            }
        }
    }
    (all, lost)
}

#[test]
fn warped_expressions_are_told_apart() {
    let Some(people) = people() else { return };
    if let Ok(folder) = std::env::var("WARPED_FACES") {
        for (k, person) in people.iter().enumerate() {
            for (i, (_, full)) in STYLES.iter().enumerate() {
                for strength in [0.0, 0.5, 1.0] {
                    let p = person.shows(full, strength);
                    let path = format!("{folder}/{k}-{i}-{strength}.png");
                    image::save_buffer(path, &p.bytes(), p.width as u32, p.height as u32, image::ExtendedColorType::Rgb8)
                        .unwrap();
                }
            }
        }
    }
    let (all, lost) = samples(&people, &HARMS);
    println!("{} pictures, no face found in {lost}", all.len());
    for s in all.iter().filter(|s| s.harm == Harm::None) {
        println!("{} {:?} {} {:?} {:?}", s.person, s.shown, s.strength, s.measures, s.net);
    }
    fit::report(&all);
    let (ruined, lost) = samples(&people, &RUINS);
    println!("ruined: {} pictures, no face found in {lost}", ruined.len());
    fit::show("ruined", &ruined, &Default::default());
}
