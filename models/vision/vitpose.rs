//! ViTPose: the points of a body in a box, by a plain vision transformer and a light decoder (Xu et al. 2022). Pictures are cut
//! out and points are read from heatmaps as transformers' processor does it (unbiased data processing, Huang et al. 2020; DARK,
//! Zhang et al. 2020).

mod experts;

use std::path::Path;

use dreamseed_kernels::Pool;
use dreamseed_kernels::cpu::conv::{Act, Finish, Padding, Window, WindowError};
use dreamseed_kernels::cpu::dense::Conv;
use serde::Deserialize;

use super::backbone::{self, Source};
use super::encoder::{self, State};
use super::load::{Loader, Precision, Tensors};
use super::preprocess::cut;
use super::resample::{self, Filter};
use super::vit::{Config, First, Layout, Names, Positions};
use super::{IMAGENET, activation, dino, read_json, unsupported};
use crate::Processor;
use crate::image::Image;
use crate::weights::{Error, Result, safetensors};
use experts::Experts;

/// Most points, largest enlargement and longest side of the input that are believed.
const MAX_POINTS: usize = 1024;
const MAX_SCALE: usize = 16;
const MAX_SIDE: usize = 2048;
/// Channels between the two steps of the classic decoder.
const DECONV: usize = 256;
/// Pixels that the first convolution reaches over the edge.
const PAD: usize = 2;
/// How much larger than its box a person's cut-out is.
const MARGIN: f32 = 1.25;

/// config.json; what a file leaves out has transformers' values.
#[derive(Clone, Debug, Deserialize)]
struct Settings {
    backbone_config: Backbone,
    #[serde(default)]
    id2label: Option<std::collections::HashMap<String, String>>,
    #[serde(default = "four")]
    scale_factor: usize,
    #[serde(default = "yes")]
    use_simple_decoder: bool,
}

fn four() -> usize {
    4
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct Backbone {
    image_size: [usize; 2],
    patch_size: [usize; 2],
    num_channels: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    mlp_ratio: f64,
    num_experts: usize,
    part_features: usize,
    hidden_act: String,
    layer_norm_eps: f32,
}

impl Default for Backbone {
    fn default() -> Self {
        Self {
            image_size: [256, 192],
            patch_size: [16, 16],
            num_channels: 3,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4.0,
            num_experts: 1,
            part_features: 0,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-12,
        }
    }
}

impl Settings {
    fn config(&self) -> std::result::Result<Config, String> {
        let b = &self.backbone_config;
        let [patch, other] = b.patch_size;
        for (name, value, most) in [
            ("scale_factor", self.scale_factor, MAX_SCALE),
            ("backbone_config.image_size", b.image_size[0], MAX_SIDE),
            ("backbone_config.image_size", b.image_size[1], MAX_SIDE),
            ("id2label", self.points(), MAX_POINTS),
        ] {
            if !(1..=most).contains(&value) {
                return Err(format!("{name} is {value}: 1 to {most} is allowed"));
            }
        }
        if b.num_experts > 1 && b.part_features >= b.hidden_size {
            let problem = format!("backbone_config.part_features is {}", b.part_features);
            return Err(format!("{problem}: fewer than hidden_size, {}, are allowed", b.hidden_size));
        }
        if patch != other || patch <= 2 * PAD || b.image_size.iter().any(|s| !s.is_multiple_of(patch)) {
            let problem = format!("patch_size {:?} of image_size {:?}", b.patch_size, b.image_size);
            return Err(format!("{problem}: squares above {} that fill the picture are allowed", 2 * PAD));
        }
        if !(0.0..=64.0).contains(&b.mlp_ratio) {
            return Err(format!("backbone_config.mlp_ratio is {}: 0 to 64 is allowed", b.mlp_ratio));
        }
        super::only_colour(b.num_channels)?;
        let config = Config {
            patch,
            channels: b.num_channels,
            encoder: encoder::Config {
                width: b.hidden_size,
                layers: b.num_hidden_layers,
                heads: b.num_attention_heads,
                ffn: (b.hidden_size as f64 * b.mlp_ratio) as usize,
                eps: b.layer_norm_eps,
                activation: activation(&b.hidden_act)?,
                gated: false,
            },
            cls: false,
            registers: 0,
            positions: Positions::Learned {
                grid: b.image_size.map(|s| s / patch),
                first: First::All,
                filter: Filter::Bilinear,
            },
            layout: Layout::Convolution,
        };
        config.check().map_err(|p| format!("backbone_config.{p}")).map(|()| config)
    }

    fn points(&self) -> usize {
        self.id2label.as_ref().map_or(17, std::collections::HashMap::len)
    }
}

/// From the backbone's patches to heatmaps.
enum Decoder {
    /// Enlarged between pixels, then one convolution.
    Simple { scale: usize, conv: Conv },
    /// Twice a transposed convolution that doubles the sides, then a 1x1 convolution.
    Classic { up: Box<[Doubling; 2]>, conv: Conv },
}

/// A transposed convolution (4x4, stride 2, padding 1), as a 2x2 convolution for each of the four places of an output pixel; the
/// batch norm is folded in.
struct Doubling([Conv; 4]);

/// A ViTPose model.
pub struct VitPose {
    vit: backbone::Backbone,
    places: Vec<f32>,
    decoder: Decoder,
    size: [usize; 2], // (height, width) of the input
    points: usize,
}

/// A point of the body.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Pixels of the picture.
    pub x: f32,
    /// Pixels of the picture.
    pub y: f32,
    /// The heatmap's highest value, about 0..1; 0 or less where the point was not found (x and y are then those of the box).
    pub score: f32,
}

/// Where the points of one person are looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    center: [f32; 2],
    size: [f32; 2], // pixels of the picture that fill the input
}

impl VitPose {
    /// From a folder with `config.json` and `model.safetensors` as transformers writes them.
    ///
    /// # Errors
    /// Missing or damaged files, settings that no model has (by field), tensors of another shape (by name).
    pub fn open(folder: &Path, pool: &Pool, precision: Precision) -> Result<Self> {
        Self::open_at(&Processor::Cpu, folder, pool, precision)
    }

    /// As [`VitPose::open`], its transformer to run where it is told; the decoder to heatmaps runs on the processor.
    ///
    /// # Errors
    /// As there; those of a GPU.
    pub fn open_at(target: &Processor, folder: &Path, pool: &Pool, precision: Precision) -> Result<Self> {
        let path = folder.join("config.json");
        let settings: Settings = read_json(&path)?;
        let config = settings.config().map_err(|p| unsupported(&path, p))?;
        let file = safetensors::File::open(&folder.join("model.safetensors"))?;
        let experts = Experts { part: settings.backbone_config.part_features, file: &file };
        let tensors: &dyn Tensors = if settings.backbone_config.num_experts > 1 { &experts } else { &file };
        let source = Source { pool, tensors, precision };
        let names = Names {
            patch: "backbone.embeddings.patch_embeddings.projection",
            positions: "backbone.embeddings.position_embeddings",
            norm: "backbone.layernorm",
            ..Names::default()
        };
        let size = settings.backbone_config.image_size;
        let (grid, width) = (size.map(|s| s / config.patch), config.encoder.width);
        let name = |i: usize, part| dino::name(&file, &format!("backbone.encoder.layer.{i}."), part);
        let vit = backbone::Backbone::load(target, source, config, names, &name)?;
        let points = settings.points();
        let decoder = Decoder::load(&source.to(pool), &settings, [grid[0], grid[1], width], points)?;
        Ok(Self { places: vit.places(grid), vit, decoder, size, points })
    }

    /// How many points it finds.
    pub fn points(&self) -> usize {
        self.points
    }

    /// The part of the picture about a person's box (left, top, width, height in pixels).
    pub fn region(&self, [x, y, w, h]: [f32; 4]) -> Region {
        let aspect = self.size[1] as f32 / self.size[0] as f32;
        let (width, height) = if w > aspect * h { (w, w / aspect) } else { (h * aspect, h) };
        // the reference works in units of 200 pixels
        let size = [width, height].map(|s| s / 200.0 * MARGIN * 200.0);
        Region { center: [x + w * 0.5, y + h * 0.5], size }
    }

    /// The points of the person in a region.
    ///
    /// # Errors
    /// Those of a GPU.
    pub fn detect(&self, pool: &Pool, image: &Image, region: &Region, state: &mut State) -> Result<Vec<Point>> {
        let (maps, size) = self.heatmaps(pool, &self.cut_out(image, region), state)?;
        Ok(maps.chunks_exact(size[0] * size[1]).map(|map| point(map, size, region)).collect())
    }

    /// The region as the net takes it: (3, height, width), normalized.
    fn cut_out(&self, image: &Image, region: &Region) -> Vec<f32> {
        let [height, width] = self.size;
        // the reference keeps its matrix in 32 bits
        let axis = |d: usize, last: usize| {
            let scale = (last as f64 / f64::from(region.size[d])) as f32;
            let shift = (last as f64 / f64::from(region.size[d]) * f64::from(-region.center[d] + 0.5 * region.size[d])) as f32;
            (f64::from(scale), f64::from(shift))
        };
        let (horizontal, vertical) = (axis(0, width - 1), axis(1, height - 1));
        let mut out = vec![0.0; 3 * height * width];
        for i in 0..height * width {
            let back = |o: usize, (scale, shift): (f64, f64)| (o as f64 - shift) / scale;
            let (x, y) = (back(i % width, horizontal), back(i / width, vertical));
            for (c, v) in bilinear(image, x, y).into_iter().enumerate() {
                out[c * height * width + i] = (v / 255.0 - IMAGENET.0[c]) / IMAGENET.1[c];
            }
        }
        out
    }

    /// (points, height, width) and the last two.
    fn heatmaps(&self, pool: &Pool, pixels: &[f32], state: &mut State) -> Result<(Vec<f32>, [usize; 2])> {
        let ([height, width], patch) = (self.size, self.vit.config().patch);
        // 1. the first convolution reaches over the edge: its patches begin there, and the last ones end before the other edge
        let mut shifted = vec![0.0; pixels.len()];
        for (from, to) in pixels.chunks_exact(height * width).zip(shifted.chunks_exact_mut(height * width)) {
            for y in PAD..height {
                to[y * width + PAD..(y + 1) * width].copy_from_slice(&from[(y - PAD) * width..][..width - PAD]);
            }
        }
        // 2. backbone
        let patches = cut(&shifted, self.size, patch);
        self.vit.forward(pool, &patches.values, &self.places, state, |all| all)?;
        // 3. decoder
        let (maps, size) = self.decoder.run(pool, &state.x, patches.grid);
        let area = size[0] * size[1];
        Ok(((0..maps.len()).map(|i| maps[i % area * self.points + i / area]).collect(), size))
    }
}

/// The colour at (`x`, `y`), rounded to 8 bits; black beyond the centres of the outermost pixels.
fn bilinear(image: &Image, x: f64, y: f64) -> [f32; 3] {
    let (w, h) = (image.width(), image.height());
    if !(x >= 0.0 && y >= 0.0 && x <= (w - 1) as f64 && y <= (h - 1) as f64) {
        return [0.0; 3];
    }
    let (x0, y0) = (x as usize, y as usize);
    let (ax, ay) = (x - x0 as f64, y - y0 as f64);
    let pixel = |x: usize, y: usize, c: usize| f64::from(image.rgb()[(y.min(h - 1) * w + x.min(w - 1)) * 3 + c]);
    std::array::from_fn(|c| {
        let top = pixel(x0, y0, c) * (1.0 - ax) + pixel(x0 + 1, y0, c) * ax;
        let bottom = pixel(x0, y0 + 1, c) * (1.0 - ax) + pixel(x0 + 1, y0 + 1, c) * ax;
        (top * (1.0 - ay) + bottom * ay + 0.5).floor() as f32
    })
}

fn shape(e: WindowError) -> Error {
    Error::Unsupported(format!("the decoder of ViTPose: {e}"))
}

fn relu() -> Finish {
    Finish { before: Act::None, after: Act::Clamp(0.0, f32::INFINITY) }
}

impl Decoder {
    fn load(loader: &Loader, settings: &Settings, [h, w, c]: [usize; 3], points: usize) -> Result<Self> {
        let conv = |input: [usize; 3], kernel: usize| {
            let padding = if kernel == 1 { Padding::Valid } else { Padding::Same };
            let window = Window::new(input, points, [kernel; 2], [1; 2], [1; 2], padding).map_err(shape)?;
            let weights = loader.floats("head.conv.weight", &[points, input[2], kernel, kernel])?;
            // (out, in, h, w) to (out, h, w, in)
            let (taps, depth) = (kernel * kernel, input[2]);
            let turned: Vec<f32> = (0..weights.len())
                .map(|i| weights[i / (taps * depth) * taps * depth + i % depth * taps + i / depth % taps])
                .collect();
            Conv::new(window, &turned, &loader.floats("head.conv.bias", &[points])?, Finish::default()).map_err(shape)
        };
        if settings.use_simple_decoder {
            let scale = settings.scale_factor;
            return Ok(Self::Simple { scale, conv: conv([h * scale, w * scale, c], 3)? });
        }
        let up = Box::new([Doubling::load(loader, 1, [h, w, c])?, Doubling::load(loader, 2, [h * 2, w * 2, DECONV])?]);
        Ok(Self::Classic { up, conv: conv([h * 4, w * 4, DECONV], 1)? })
    }

    /// `x`: (h, w, width) of the backbone; gives (h', w', points) and (h', w').
    fn run(&self, pool: &Pool, x: &[f32], grid: [usize; 2]) -> (Vec<f32>, [usize; 2]) {
        let (large, conv, size) = match self {
            Self::Simple { scale, conv } => {
                let positive: Vec<f32> = x.iter().map(|v| v.max(0.0)).collect();
                let size = grid.map(|g| g * scale);
                (resample::grid(&positive, grid, size, Filter::Bilinear), conv, size)
            }
            Self::Classic { up, conv } => (up[1].run(pool, &up[0].run(pool, x)), conv, grid.map(|g| g * 4)),
        };
        let mut out = vec![0.0; conv.window().output_len()];
        conv.run(pool, &large, None, &mut out);
        (out, size)
    }
}

impl Doubling {
    fn load(loader: &Loader, step: usize, input: [usize; 3]) -> Result<Self> {
        let depth = input[2];
        let weights = loader.floats(&format!("head.deconv{step}.weight"), &[depth, DECONV, 4, 4])?;
        let norm = |what: &str| loader.floats(&format!("head.batchnorm{step}.{what}"), &[DECONV]);
        let (gamma, beta, mean, var) = (norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?);
        let gain: Vec<f32> = gamma.iter().zip(&var).map(|(g, v)| g / (v + 1e-5).sqrt()).collect();
        let bias: Vec<f32> = (0..DECONV).map(|o| beta[o] - mean[o] * gain[o]).collect();
        // output 2 i + phase sees inputs i - 1 and i (phase 0), or i and i + 1 (phase 1), through these taps of the kernel
        let phase = |p: usize| -> Result<Conv> {
            let taps = [[3, 1], [2, 0]];
            let (down, across) = (p / 2, p % 2);
            let padding = Padding::Explicit([down, across].map(|phase| [1 - phase, phase]));
            let window = Window::new(input, DECONV, [2; 2], [1; 2], [1; 2], padding).map_err(shape)?;
            let mut turned = Vec::with_capacity(DECONV * 4 * depth);
            for (o, tap) in (0..DECONV * 4).map(|i| (i / 4, i % 4)) {
                let (y, x) = (taps[down][tap / 2], taps[across][tap % 2]);
                turned.extend((0..depth).map(|i| weights[((i * DECONV + o) * 4 + y) * 4 + x] * gain[o]));
            }
            Conv::new(window, &turned, &bias, relu()).map_err(shape)
        };
        Ok(Self([phase(0)?, phase(1)?, phase(2)?, phase(3)?]))
    }

    /// (h, w, c) to (2 h, 2 w, 256).
    fn run(&self, pool: &Pool, x: &[f32]) -> Vec<f32> {
        let [rows, cols, n] = self.0[0].window().output;
        let (mut out, mut part) = (vec![0.0; 4 * rows * cols * n], vec![0.0; rows * cols * n]);
        for (phase, conv) in self.0.iter().enumerate() {
            conv.run(pool, x, None, &mut part);
            for (i, pixel) in part.chunks_exact(n).enumerate() {
                let at = (2 * (i / cols) + phase / 2) * 2 * cols + 2 * (i % cols) + phase % 2;
                out[at * n..][..n].copy_from_slice(pixel);
            }
        }
        out
    }
}

/// The point of a heatmap: its highest place, moved by the slope and curvature of the blurred map's logarithm.
fn point(map: &[f32], [height, width]: [usize; 2], region: &Region) -> Point {
    let (best, score) = map.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, v)| if *v > b.1 { (i, *v) } else { b });
    if score.is_nan() || score <= 0.0 {
        return Point { x: region.center[0], y: region.center[1], score: if score.is_finite() { score } else { 0.0 } };
    }
    let (px, py) = (best % width, best / width);
    let log = |dx: i64, dy: i64| {
        let place = |p: usize, d: i64, len: usize| (p as i64 + d).clamp(0, len as i64 - 1) as usize;
        let (x, y) = (place(px, dx, width), place(py, dy, height));
        f64::from(blurred(map, [height, width], [y, x]).clamp(0.001, 50.0).ln())
    };
    let l = |dx, dy| log(dx, dy);
    let (dx, dy) = (0.5 * (l(1, 0) - l(-1, 0)), 0.5 * (l(0, 1) - l(0, -1)));
    let eps = f64::from(f32::EPSILON);
    let (dxx, dyy) = (l(1, 0) - 2.0 * l(0, 0) + l(-1, 0) + eps, l(0, 1) - 2.0 * l(0, 0) + l(0, -1) + eps);
    let dxy = 0.5 * (l(1, 1) - l(1, 0) - l(0, 1) + 2.0 * l(0, 0) - l(-1, 0) - l(0, -1) + l(-1, -1));
    let determinant = dxx * dyy - dxy * dxy;
    let moved = [(dyy * dx - dxy * dy) / determinant, (dxx * dy - dxy * dx) / determinant];
    // where the map is flat there is nothing to be read between its pixels
    let moved = if moved.iter().all(|m| m.is_finite()) { moved } else { [0.0; 2] };
    let place = |p: usize, d: usize, len: usize| {
        let step = f64::from(region.size[d]) / (len as f64 - 1.0).max(1.0);
        ((p as f64 - moved[d]) * step + f64::from(region.center[d]) - 0.5 * f64::from(region.size[d])) as f32
    };
    Point { x: place(px, 0, width), y: place(py, 1, height), score }
}

/// A Gaussian (0.8 pixels, 5 to each side) of the map at one place; beyond the edges it is mirrored.
fn blurred(map: &[f32], [height, width]: [usize; 2], [y, x]: [usize; 2]) -> f32 {
    const REACH: i64 = 5;
    let weight = |d: i64| (-0.5 * (d as f64 / 0.8).powi(2)).exp();
    let sum: f64 = (-REACH..=REACH).map(weight).sum();
    let mirror = |p: i64, len: usize| {
        let (len, around) = (len as i64, 2 * len as i64);
        let p = p.rem_euclid(around);
        (if p < len { p } else { around - 1 - p }) as usize
    };
    let row = |x: usize| {
        (-REACH..=REACH).map(|d| weight(d) / sum * f64::from(map[mirror(y as i64 + d, height) * width + x])).sum::<f64>() as f32
    };
    (-REACH..=REACH).map(|d| weight(d) / sum * f64::from(row(mirror(x as i64 + d, width)))).sum::<f64>() as f32
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Case, Golden, golden, picture, relative_error};
    use super::*;

    #[test]
    fn heatmaps_equal_transformers() {
        let Some(folder) = golden("vitpose") else { return };
        let (pool, golden) = (Pool::new(2), Golden::open(&folder));
        let model = VitPose::open(&folder, &pool, Precision::Stored).unwrap();
        let (maps, size) = model.heatmaps(&pool, &golden.floats("in.pixel_values"), &mut State::default()).unwrap();
        let error = relative_error(&maps, &golden.floats("out.heatmaps"));
        println!("ViTPose: {error}");
        assert!(error < 1e-4 && size == [16, 12] && model.points() == 17, "{error} {size:?}");
    }

    #[test]
    fn a_person_in_a_box_is_found_as_by_transformers() {
        let (pool, rgb) = (Pool::new(2), picture(90, 70));
        let image = Image::new(70, 90, &rgb).unwrap();
        for name in ["vitpose", "vitpose-classic", "vitpose-plus"] {
            let case = Case::open(name);
            let model = VitPose::open(case.folder().path(), &pool, Precision::Stored).unwrap();
            let region = model.region([9.5, 12.25, 30.0, 51.0]);
            let pixels = model.cut_out(&image, &region);
            let sparse: Vec<f32> = pixels.iter().step_by(7).copied().collect();
            let far = sparse.iter().zip(case.output("pixels")).filter(|(a, b)| (*a - b).abs() > 1e-4).count();
            assert!(far * 500 < sparse.len(), "{name}: {far} of {} pixels", sparse.len()); // halves may be rounded the other way
            let (maps, _) = model.heatmaps(&pool, &pixels, &mut State::default()).unwrap();
            let error = relative_error(&maps, &case.output("heatmaps"));
            let points = model.detect(&pool, &image, &region, &mut State::default()).unwrap();
            println!("{name}: {far} pixels, heatmaps {error}, {points:?}");
            assert!(error < if far == 0 { 1e-4 } else { 2e-3 }, "{name}: {error}");
            for ((p, xy), score) in points.iter().zip(case.output("keypoints").chunks(2)).zip(case.output("scores")) {
                assert!((p.score - score).abs() < 1e-3 * score.abs().max(1.0), "{name}: {p:?}, {score}");
                // the reference has a place even for what it did not find
                assert!(score <= 0.0 || (p.x - xy[0]).abs() < 0.02 && (p.y - xy[1]).abs() < 0.02, "{name}: {p:?}, {xy:?}");
            }
        }
    }

    #[test]
    fn a_lying_config_is_refused_with_its_field() {
        let of = |text: &str| serde_json::from_str::<Settings>(text).unwrap().config().map(|_| ()).unwrap_err();
        for (text, want) in [
            (r#"{"backbone_config": {"num_experts": 6, "part_features": 768}}"#, "part_features is 768"),
            (r#"{"backbone_config": {"patch_size": [16, 14]}}"#, "patch_size [16, 14]"),
            (r#"{"backbone_config": {"image_size": [0, 192]}}"#, "image_size is 0"),
            (r#"{"backbone_config": {"num_attention_heads": 5}}"#, "768 is no multiple"),
            (r#"{"backbone_config": {}, "scale_factor": 99}"#, "scale_factor is 99"),
        ] {
            assert!(of(text).contains(want), "{text}: {}", of(text));
        }
    }
}
