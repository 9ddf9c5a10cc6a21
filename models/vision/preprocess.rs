//! Pictures as vision transformers take them: resized, cut and scaled as the processors of HF transformers do (their Pillow
//! backend, bit for bit), then cut into patches.

use std::path::Path;

use serde::Deserialize;

use super::read_json;
use super::resample::{self, Filter};
use crate::image::Image;
use crate::weights::{Error, Result};

/// Longest side that a picture is resized to.
const MAX_SIDE: usize = 4096;

/// What becomes of a picture before it is cut into patches.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// The size it is brought to.
    pub size: Size,
    /// How.
    pub filter: Filter,
    /// Cut from the middle afterwards, (height, width).
    pub crop: Option<[usize; 2]>,
    /// Subtracted from values in 0..1, a channel each.
    pub mean: [f32; 3],
    /// What is left is divided by this, a channel each.
    pub std: [f32; 3],
}

/// The size a picture is brought to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// (height, width), whatever its shape was.
    Exact([usize; 2]),
    /// The shorter side becomes this long, the shape stays.
    Shortest(usize),
    /// The most patches of the model that keep the shape (NaFlex): as many as this at most.
    Patches(usize),
}

/// A picture in patches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patches {
    /// Patches (down, across).
    pub grid: [usize; 2],
    /// (down * across, 3 * patch * patch), channels outermost.
    pub values: Vec<f32>,
}

/// preprocessor_config.json, as far as it is looked at.
#[derive(Default, Deserialize)]
struct Settings {
    size: Option<Sides>,
    crop_size: Option<Sides>,
    do_center_crop: Option<bool>,
    resample: Option<u32>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
    rescale_factor: Option<f64>,
    max_num_patches: Option<usize>,
}

/// A size as the files of different years write it.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Sides {
    Side(usize),
    Both { height: usize, width: usize },
    Shortest { shortest_edge: usize },
}

impl Preprocess {
    /// `self` with what a preprocessor_config.json says, where there is one.
    ///
    /// # Errors
    /// [`Error::Field`] where it does not parse; [`Error::Unsupported`] for what this version does not do, by field.
    pub fn or_file(mut self, path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(self);
        }
        let s: Settings = read_json(path)?;
        let refused = |problem: String| Err(Error::Unsupported(format!("{}: {problem}", path.display())));
        match (self.size, s.size, s.max_num_patches) {
            (Size::Patches(_), _, Some(most)) => self.size = Size::Patches(most),
            (Size::Patches(_), ..) | (_, None, _) => {}
            (_, Some(Sides::Both { height, width }), _) => self.size = Size::Exact([height, width]),
            (_, Some(Sides::Shortest { shortest_edge }), _) => self.size = Size::Shortest(shortest_edge),
            (_, Some(Sides::Side(side)), _) => self.size = Size::Exact([side; 2]),
        }
        match (s.do_center_crop, s.crop_size) {
            (Some(false), _) => self.crop = None,
            (_, Some(Sides::Both { height, width })) if self.crop.is_some() || s.do_center_crop == Some(true) => {
                self.crop = Some([height, width]);
            }
            (_, Some(Sides::Side(side))) if self.crop.is_some() || s.do_center_crop == Some(true) => {
                self.crop = Some([side; 2])
            }
            _ => {}
        }
        self.filter = match s.resample {
            None => self.filter,
            Some(2) => Filter::Bilinear,
            Some(3) => Filter::Bicubic,
            Some(other) => return refused(format!("resample is {other}; 2 (bilinear) or 3 (bicubic) is allowed")),
        };
        if s.rescale_factor.is_some_and(|f| (f - 1.0 / 255.0).abs() > 1e-9) {
            return refused(format!("rescale_factor is {:?}; 1/255 is allowed", s.rescale_factor));
        }
        (self.mean, self.std) = (s.image_mean.unwrap_or(self.mean), s.image_std.unwrap_or(self.std));
        self.check().map(|()| self).or_else(refused)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let sides = match self.size {
            Size::Exact(sides) => sides,
            Size::Shortest(side) | Size::Patches(side) => [side; 2],
        };
        let crop = self.crop.unwrap_or(sides);
        for (name, value) in [("size", sides[0]), ("size", sides[1]), ("crop_size", crop[0]), ("crop_size", crop[1])] {
            if !(1..=MAX_SIDE).contains(&value) {
                return Err(format!("{name} is {value}: 1 to {MAX_SIDE} is allowed"));
            }
        }
        let patches = matches!(self.size, Size::Patches(_));
        if !patches && (crop[0] > sides[0] || crop[1] > sides[1]) {
            return Err(format!("crop_size {crop:?} is above size {sides:?}"));
        }
        match self.mean.iter().all(|v| v.is_finite()) && self.std.iter().all(|v| v.is_finite() && *v > 0.0) {
            true => Ok(()),
            false => Err(format!("image_mean {:?}, image_std {:?}: finite, and above 0, are allowed", self.mean, self.std)),
        }
    }

    /// The size that a picture is brought to, (height, width), and the part of it that is kept: top, left, height, width.
    fn sizes(&self, image: &Image, patch: usize) -> ([usize; 2], [usize; 4]) {
        let [h, w] = [image.height(), image.width()];
        let [height, width] = match self.size {
            Size::Exact(size) => size,
            Size::Patches(most) => flexible([h, w], patch, most),
            // a strip a thousand times as long as it is wide is not worth its memory: its end is cut off with the crop anyway
            Size::Shortest(side) if h < w => [side, (side as u64 * w as u64 / h as u64).min(MAX_SIDE as u64 * 4) as usize],
            Size::Shortest(side) => [(side as u64 * h as u64 / w as u64).min(MAX_SIDE as u64 * 4) as usize, side],
        };
        let [ch, cw] = self.crop.unwrap_or([height, width]);
        // whole patches, as a convolution takes them
        let [ph, pw] = [ch / patch * patch, cw / patch * patch];
        ([height, width], [(height - ch) / 2, (width - cw) / 2, ph, pw])
    }

    /// A picture in patches of `patch` pixels a side.
    pub fn patches(&self, image: &Image, patch: usize) -> Patches {
        let (size, [top, left, height, width]) = self.sizes(image, patch);
        let pixels = resample::picture(image, size, self.filter);
        let grid = [height / patch, width / patch];
        let mut values = Vec::with_capacity(height * width * 3);
        for p in 0..grid[0] * grid[1] {
            let (y0, x0) = (top + p / grid[1] * patch, left + p % grid[1] * patch);
            for c in 0..3 {
                for y in y0..y0 + patch {
                    let row = &pixels[(y * size[1] + x0) * 3..][..patch * 3];
                    values.extend(row.iter().skip(c).step_by(3).map(|&v| (f32::from(v) / 255.0 - self.mean[c]) / self.std[c]));
                }
            }
        }
        Patches { grid, values }
    }
}

/// NaFlex: the largest (height, width) in whole patches, `most` of them, that keeps the shape; by halving, as the processor finds it.
fn flexible(size: [usize; 2], patch: usize, most: usize) -> [usize; 2] {
    const NEAR: f64 = 1e-5;
    let scaled = |scale: f64| size.map(|s| ((s as f64 * scale / patch as f64).ceil() as usize).max(1));
    let (mut low, mut high) = (NEAR / 10.0, 100.0);
    while high - low >= NEAR {
        let scale = (low + high) / 2.0;
        let [down, across] = scaled(scale);
        if down.saturating_mul(across) <= most { low = scale } else { high = scale }
    }
    // a strip: one patch wide even at the smallest scale
    scaled(low).map(|n| n.min(most) * patch)
}

/// Patches of pixels as tensors hold them, (3, height, width): for inputs that are prepared elsewhere.
pub fn cut(pixels: &[f32], [height, width]: [usize; 2], patch: usize) -> Patches {
    let grid = [height / patch, width / patch];
    let mut values = Vec::with_capacity(pixels.len());
    for p in 0..grid[0] * grid[1] {
        for c in 0..3 {
            for y in 0..patch {
                let at = (c * height + p / grid[1] * patch + y) * width + p % grid[1] * patch;
                values.extend_from_slice(&pixels[at..at + patch]);
            }
        }
    }
    Patches { grid, values }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Case, picture};
    use super::*;

    #[test]
    fn pictures_come_out_as_from_the_processors() {
        let (rgb, case) = (picture(37, 51), Case::open("picture"));
        let image = Image::new(51, 37, &rgb).unwrap();
        let half = ([0.5; 3], [0.5; 3]);
        let clip = ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11]);
        for (name, size, filter, crop, (mean, std)) in [
            ("bilinear", Size::Exact([24, 20]), Filter::Bilinear, None, half),
            ("bicubic", Size::Exact([24, 20]), Filter::Bicubic, None, half),
            ("enlarge", Size::Exact([44, 56]), Filter::Bicubic, None, half),
            ("crop", Size::Shortest(23), Filter::Bicubic, Some([16, 16]), clip),
        ] {
            let preprocess = Preprocess { size, filter, crop, mean, std };
            let seen = preprocess.patches(&image, 4);
            let wanted = cut(&case.output(name), seen.grid.map(|g| g * 4), 4);
            let worst = seen.values.iter().zip(&wanted.values).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
            assert!(seen.values.len() == wanted.values.len() && worst < 1e-5, "{name}: {worst}");
        }
    }

    #[test]
    fn a_processor_file_is_followed_and_its_lies_refused() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let base = Preprocess {
            size: Size::Shortest(256),
            filter: Filter::Bicubic,
            crop: Some([224; 2]),
            mean: [0.0; 3],
            std: [1.0; 3],
        };
        let of = |text: &str| {
            std::fs::write(path.path(), text).unwrap();
            base.clone().or_file(path.path())
        };
        assert_eq!(of("{}").unwrap(), base);
        let seen =
            of(r#"{"size": {"height": 32, "width": 48}, "do_center_crop": false, "resample": 2, "image_std": [2, 2, 2]}"#);
        let wanted =
            Preprocess { size: Size::Exact([32, 48]), filter: Filter::Bilinear, crop: None, mean: [0.0; 3], std: [2.0; 3] };
        assert_eq!(seen.unwrap(), wanted);
        for (text, want) in [
            (r#"{"size": {"shortest_edge": 99999999}}"#, "size is 99999999"),
            (r#"{"size": {"shortest_edge": 100}}"#, "crop_size [224, 224] is above size"),
            (r#"{"resample": 1}"#, "resample is 1"),
            (r#"{"image_std": [1, 0, 1]}"#, "image_std [1.0, 0.0, 1.0]"),
            (r#"{"rescale_factor": 1}"#, "rescale_factor"),
        ] {
            let problem = of(text).unwrap_err().to_string();
            assert!(problem.contains(want), "{text}: {problem}");
        }
    }
}
