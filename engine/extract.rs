//! Perception: speech and prosody on one lane, pose and face on the other, in parallel, each on its own track.

use std::sync::atomic::{AtomicBool, Ordering};

use dreamseed_kernels::Pool;
use dreamseed_models::face::{self, Face, FaceNets};
use dreamseed_models::image::Image;
use dreamseed_models::music::{self, Music};
use dreamseed_models::pose::{self, Person, Pose};
use dreamseed_models::prosody::{self, Prosody};
use dreamseed_models::vision::Vision;
use dreamseed_models::whisper::{self, Pronunciation, Transcript, Whisper};

use crate::media::{Clip, Frame};
use crate::scene::{Scene, Watch};
use crate::{Error, Result};

/// What was perceived in one frame; times are the clip's.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Observed<T> {
    /// Seconds from the start of the clip.
    pub t: f64,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Everything found in the frame; the first is the main one (largest, longest tracked). Of faces the main person's alone, where
    /// the bodies of several are known.
    pub found: Vec<T>,
}

/// All tracks of a clip. A track is `None` when it was not asked for or the clip has nothing for it.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Tracks {
    /// Seconds.
    pub duration: f64,
    /// What was said.
    pub speech: Option<Transcript>,
    /// The same against the text that should have been said, where one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pronunciation: Option<Pronunciation>,
    /// How it was said.
    pub prosody: Option<Prosody>,
    /// What the music does: onsets, tempo, beats.
    pub music: Option<Music>,
    /// How the body moved, a frame each.
    pub pose: Option<Vec<Observed<Person>>>,
    /// What the face did, a frame each.
    pub face: Option<Vec<Observed<Face>>>,
    /// How the film is cut and what its pictures show; `None` for a single picture without a vision model.
    pub scene: Option<Scene>,
}

/// The models that perceive; what is `None` is not asked for.
#[derive(Default)]
pub struct Perception<'a> {
    /// Speech to text.
    pub speech: Option<&'a Whisper>,
    /// Its options.
    pub speech_options: whisper::Options,
    /// What should be said.
    pub expected: Option<&'a str>,
    /// Pitch, loudness, rhythm.
    pub prosody: bool,
    /// Onsets, tempo and beats: 35 ms for a minute of sound.
    pub music: bool,
    /// Body.
    pub pose: Option<&'a Pose>,
    /// Most bodies followed; 0 counts as 1.
    pub people: usize,
    /// Face.
    pub face: Option<&'a FaceNets>,
    /// Embeddings of the pictures.
    pub vision: Option<&'a Vision>,
    /// Pictures belong together in time: follow and smooth.
    pub video: bool,
}

/// Perceives a clip. The two lanes share the pool: while one waits or does what cannot be split, the other computes.
///
/// # Errors
/// [`Error::Cancelled`] soon after `cancel` is set; a model's own error otherwise.
pub fn extract(pool: &Pool, clip: &Clip, perception: &Perception, cancel: &AtomicBool) -> Result<Tracks> {
    let (sound, sight) = std::thread::scope(|scope| {
        let sight = scope.spawn(|| watch(pool, &clip.frames, perception, cancel));
        let sound = listen(pool, &clip.pcm, perception, cancel);
        (sound, sight.join())
    });
    let sight = sight.map_err(|_| Error::Internal("the lane of pose and face panicked".into()));
    let (Heard { speech, pronunciation, prosody, music }, (pose, face, scene)) = (sound?, sight??);
    Ok(Tracks { duration: clip.duration(), speech, pronunciation, prosody, music, pose, face, scene })
}

fn check(cancel: &AtomicBool) -> Result<()> {
    if cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
}

/// What the lane of sound gives.
#[derive(Default)]
struct Heard {
    speech: Option<Transcript>,
    pronunciation: Option<Pronunciation>,
    prosody: Option<Prosody>,
    music: Option<Music>,
}

/// The lane of sound.
fn listen(pool: &Pool, pcm: &[f32], with: &Perception, cancel: &AtomicBool) -> Result<Heard> {
    if pcm.is_empty() {
        return Ok(Heard::default());
    }
    let music = with.music.then(|| music::analyse(pool, pcm));
    let prosody = with.prosody.then(|| prosody::analyse(pool, pcm, &prosody::Options::default()));
    check(cancel)?;
    let Some(model) = with.speech else { return Ok(Heard { prosody, music, ..Heard::default() }) };
    let mut goes_on = |_: whisper::Progress| match cancel.load(Ordering::Relaxed) {
        true => std::ops::ControlFlow::Break(()),
        false => std::ops::ControlFlow::Continue(()),
    };
    let speech = model.transcribe(pool, pcm, &with.speech_options, &mut goes_on)?;
    check(cancel)?;
    let against = |text: &str| model.pronunciation(pool, pcm, text, &speech, &mut goes_on);
    let pronunciation = with.expected.filter(|text| !text.trim().is_empty()).map(against).transpose()?;
    check(cancel)?;
    Ok(Heard { speech: Some(speech), pronunciation, prosody, music })
}

/// Tracks of bodies, faces and scenes.
pub(crate) type Watched = (Option<Vec<Observed<Person>>>, Option<Vec<Observed<Face>>>, Option<Scene>);

/// The lane of sight.
fn watch(pool: &Pool, frames: &[Frame], with: &Perception, cancel: &AtomicBool) -> Result<Watched> {
    if frames.is_empty() {
        return Ok((None, None, None));
    }
    let mut watcher = Watcher::new(with);
    for frame in frames {
        check(cancel)?;
        watcher.see(pool, frame)?;
    }
    Ok(watcher.finish())
}

/// Looks at pictures one after the other.
pub(crate) struct Watcher<'a> {
    bodies: Option<(pose::Tracker<'a>, Vec<Observed<Person>>)>,
    faces: Option<(face::FaceTracker<'a>, Vec<Observed<Face>>)>,
    scenes: Option<Watch<'a>>,
}

/// What was found in one picture.
pub struct Look<'a> {
    /// Bodies, where they are looked for.
    pub pose: Option<&'a Observed<Person>>,
    /// Faces, where they are looked for.
    pub face: Option<&'a Observed<Face>>,
}

impl<'a> Watcher<'a> {
    /// Before the first picture.
    pub(crate) fn new(with: &Perception<'a>) -> Self {
        let several = pose::Options { max_people: with.people.max(1), smooth: with.video, ..Default::default() };
        let followed = face::Options { follow: with.video, max_faces: with.people.max(1), ..Default::default() };
        Self {
            bodies: with.pose.map(|p| (p.tracker(several), Vec::new())),
            faces: with.face.map(|f| (f.tracker(followed), Vec::new())),
            scenes: (with.video || with.vision.is_some()).then(|| Watch::new(with.vision)),
        }
    }

    /// Looks at the next picture, later than those before.
    ///
    /// # Errors
    /// A frame whose bytes are not its size; those of a GPU.
    pub(crate) fn see(&mut self, pool: &Pool, frame: &Frame) -> Result<Look<'_>> {
        let image = view(frame)?;
        if let Some((tracker, track)) = &mut self.bodies {
            track.push(observed(frame, tracker.track(pool, &image, frame.t)?));
        }
        if let Some((tracker, track)) = &mut self.faces {
            let body = self.bodies.as_ref().and_then(|(_, track)| track.last()?.found.first());
            track.push(observed(frame, tracker.track(pool, &image, body.and_then(head))?));
        }
        if let Some(scenes) = &mut self.scenes {
            scenes.see(pool, &image, frame.t)?;
        }
        let pose = self.bodies.as_ref().and_then(|(_, track)| track.last());
        Ok(Look { pose, face: self.faces.as_ref().and_then(|(_, track)| track.last()) })
    }

    /// The tracks, the main person first.
    pub(crate) fn finish(self) -> Watched {
        let bodies = self.bodies.map(|(_, mut track)| {
            main_first(&mut track);
            track
        });
        let faces = self.faces.map(|(_, mut track)| {
            if let Some(bodies) = &bodies {
                main_face(&mut track, bodies);
            }
            track
        });
        (bodies, faces, self.scenes.map(Watch::finish))
    }
}

/// The id of the main person of a track in which people are beside each other: who fills most of the picture over the whole clip.
/// `None` where no frame has more than one.
pub(crate) fn main_person(track: &[Observed<Person>]) -> Option<u32> {
    let several = track.iter().any(|o| o.found.len() > 1);
    let mut filled: Vec<(u32, f64)> = Vec::new();
    for person in track.iter().flat_map(|o| &o.found) {
        let seen = person.landmarks.iter().filter(|l| l.visibility >= 0.5 && l.x.is_finite() && l.y.is_finite());
        let [left, top, right, bottom] = seen.fold([f32::MAX, f32::MAX, f32::MIN, f32::MIN], |b, l| {
            [b[0].min(l.x), b[1].min(l.y), b[2].max(l.x), b[3].max(l.y)]
        });
        let area = f64::from((right - left).clamp(0.0, 1.0) * (bottom - top).clamp(0.0, 1.0));
        match filled.iter_mut().find(|f| f.0 == person.id) {
            Some(known) => known.1 += area,
            None => filled.push((person.id, area)),
        }
    }
    let most = filled.into_iter().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
    most.filter(|_| several).map(|m| m.0)
}

/// Of each frame the main person of the track, `None` where it is not seen: who else is there does not take its place.
pub(crate) fn main_of(track: &[Observed<Person>]) -> impl Fn(&Observed<Person>) -> Option<&Person> {
    let main = main_person(track);
    move |o| o.found.iter().find(|p| main.is_none_or(|id| p.id == id))
}

/// The main person comes first where it is seen.
fn main_first(track: &mut [Observed<Person>]) {
    if let Some(main) = main_person(track) {
        track.iter_mut().for_each(|o| o.found.sort_by_key(|p| (p.id != main, p.id)));
    }
}

/// Leaves of each frame the face of the main person alone, where bodies tell of several: another one's expression is not theirs.
/// `faces` and `bodies` are of the same frames.
fn main_face(faces: &mut [Observed<Face>], bodies: &[Observed<Person>]) {
    if main_person(bodies).is_none() {
        return;
    }
    let main = main_of(bodies);
    for (seen, body) in faces.iter_mut().zip(bodies) {
        let own = main(body).and_then(head).and_then(|head| nearest(&seen.found, head));
        seen.found = own.map(|i| seen.found.swap_remove(i)).into_iter().collect();
    }
}

/// The face that lies about a head: the nearest, and no further than half its own size beyond its box.
fn nearest(faces: &[Face], [x, y]: [f32; 2]) -> Option<usize> {
    let away = |f: &Face| {
        let [left, top, right, bottom] = f.bbox;
        let along = |at: f32, from: f32, to: f32| (at - (from + to) / 2.0).abs() / (to - from).max(1e-6);
        along(x, left, right).max(along(y, top, bottom))
    };
    let near = faces.iter().map(away).enumerate().filter(|(_, d)| *d <= 1.0);
    near.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
}

/// The middle of a body's head, 0..1 of the picture: of its landmarks from nose to mouth, as far as the net tells them.
fn head(person: &Person) -> Option<[f32; 2]> {
    let told = person.landmarks.iter().take(11).filter(|l| l.visibility > 0.0);
    let points: Vec<[f32; 2]> = told.map(|l| [l.x, l.y]).collect();
    let mean = |axis: usize| points.iter().map(|p| p[axis]).sum::<f32>() / points.len() as f32;
    let middle = [mean(0), mean(1)];
    middle.iter().all(|v| v.is_finite()).then_some(middle)
}

/// A frame as the nets take it.
pub fn view(frame: &Frame) -> Result<Image<'_>> {
    Image::new(frame.width, frame.height, &frame.rgb).ok_or_else(|| {
        let (w, h, n) = (frame.width, frame.height, frame.rgb.len());
        Error::Usage(format!("a frame of {w} x {h} pixels needs {w} * {h} * 3 > 0 bytes, not {n}"))
    })
}

fn observed<T>(frame: &Frame, found: Vec<T>) -> Observed<T> {
    Observed { t: frame.t, width: frame.width, height: frame.height, found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dreamseed_models::pose::Landmark;

    /// A body whose head is at (x, y) and that fills `size` of the picture.
    fn body(id: u32, [x, y]: [f32; 2], size: f32) -> Person {
        let landmark = |x, y| Landmark { x, y, visibility: 1.0, ..Landmark::default() };
        let mut landmarks = vec![landmark(x, y); 33];
        landmarks[28] = landmark(x + size, y + size);
        Person { id, score: 1.0, landmarks, world: Vec::new() }
    }

    fn face([x, y]: [f32; 2]) -> Face {
        Face { bbox: [x - 0.05, y - 0.05, x + 0.05, y + 0.05], ..Face::default() }
    }

    fn frame<T>(found: Vec<T>) -> Observed<T> {
        Observed { t: 0.0, width: 640, height: 480, found }
    }

    #[test]
    fn the_face_on_the_timeline_is_the_main_persons() {
        let (own, other, nobody) = ([0.3, 0.2], [0.7, 0.2], [0.5, 0.8]);
        let bodies: Vec<_> = (0..4).map(|_| frame(vec![body(1, other, 0.1), body(7, own, 0.5)])).collect();
        let found = [vec![own, other], vec![other, own, nobody], vec![other, nobody], vec![]];
        let mut faces: Vec<_> = found.iter().map(|f| frame(f.iter().map(|at| face(*at)).collect())).collect();
        main_face(&mut faces, &bodies);
        let left: Vec<usize> = faces.iter().map(|o| o.found.len()).collect();
        assert_eq!(left, [1, 1, 0, 0], "another one's face does not take its place");
        assert!(faces[..2].iter().all(|o| o.found[0] == face(own)));
    }

    #[test]
    fn one_body_alone_takes_no_face_away() {
        let mut faces = vec![frame(vec![face([0.9, 0.9])])];
        main_face(&mut faces, &[frame(vec![body(0, [0.1, 0.1], 0.5)])]);
        assert_eq!(faces[0].found.len(), 1);
    }

    #[test]
    fn a_head_without_a_place_is_near_no_face() {
        assert_eq!(head(&body(0, [f32::NAN, 0.5], 0.1)), None);
        assert_eq!(head(&Person { landmarks: Vec::new(), ..body(0, [0.5, 0.5], 0.1) }), None);
        assert_eq!(nearest(&[face([0.5, 0.5])], [0.5, 0.62]), None);
        assert_eq!(nearest(&[face([0.5, 0.5]), face([0.6, 0.5])], [0.57, 0.5]), Some(1));
    }
}
