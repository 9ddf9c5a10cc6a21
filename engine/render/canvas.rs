//! Drawing primitives: antialiased shapes by tiny-skia, text from a bitmap font, pictures scaled by area.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use tiny_skia::{
    Color, FillRule, FilterQuality, GradientStop, LineCap, LineJoin, LinearGradient, Paint, Path, PathBuilder, Pattern, Pixmap,
    Point, Rect, Shader, SpreadMode, Stroke, StrokeDash, Transform,
};

use crate::{Error, Result, media::Frame};

/// Red, green, blue, opacity.
pub(super) type Rgba = [u8; 4];

/// The same colour at `alpha` (0..1) of its opacity.
pub(super) fn fade(c: Rgba, alpha: f32) -> Rgba {
    [c[0], c[1], c[2], (f32::from(c[3]) * alpha.clamp(0.0, 1.0)) as u8]
}

/// Left, top, width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Area {
    pub(super) x: f32,
    pub(super) y: f32,
    pub(super) w: f32,
    pub(super) h: f32,
}

impl Area {
    pub(super) fn bottom(&self) -> f32 {
        self.y + self.h
    }

    pub(super) fn right(&self) -> f32 {
        self.x + self.w
    }
}

/// Size and weight of text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Font(FontWeight, RasterHeight);

impl Font {
    pub(super) const SMALL: Self = Self(FontWeight::Regular, RasterHeight::Size16);
    pub(super) const SMALL_BOLD: Self = Self(FontWeight::Bold, RasterHeight::Size16);
    pub(super) const BODY: Self = Self(FontWeight::Regular, RasterHeight::Size20);
    pub(super) const TITLE: Self = Self(FontWeight::Bold, RasterHeight::Size32);

    /// Pixels that `text` takes.
    pub(super) fn width(self, text: &str) -> f32 {
        (text.chars().count() * get_raster_width(self.0, self.1)) as f32
    }
}

/// Whether the font has every character of `text`.
pub(super) fn writable(text: &str) -> bool {
    text.chars().all(|c| get_raster(c, FontWeight::Regular, RasterHeight::Size16).is_some())
}

/// A picture being drawn.
pub(super) struct Canvas(Pixmap);

impl Canvas {
    /// `width` by `height` pixels of one colour.
    pub(super) fn new(width: u32, height: u32, background: Rgba) -> Result<Self> {
        let mut pixmap = Pixmap::new(width, height)
            .ok_or_else(|| Error::Internal(format!("a picture of {width}x{height} pixels cannot be made")))?;
        pixmap.fill(color(background));
        Ok(Self(pixmap))
    }

    /// The file.
    pub(super) fn png(&self) -> Result<Vec<u8>> {
        self.0.encode_png().map_err(|e| Error::Internal(format!("the picture cannot be written as PNG: {e}")))
    }

    pub(super) fn rect(&mut self, area: Area, radius: f32, fill: Rgba) {
        self.fill(rounded(area, radius), Shader::SolidColor(color(fill)));
    }

    pub(super) fn circle(&mut self, x: f32, y: f32, radius: f32, fill: Rgba) {
        self.fill(PathBuilder::from_circle(x, y, radius), Shader::SolidColor(color(fill)));
    }

    pub(super) fn ring(&mut self, x: f32, y: f32, radius: f32, width: f32, stroke: Rgba) {
        self.stroke(PathBuilder::from_circle(x, y, radius), width, stroke, None);
    }

    pub(super) fn line(&mut self, from: (f32, f32), to: (f32, f32), width: f32, stroke: Rgba) {
        self.polyline(&[from, to], width, stroke);
    }

    pub(super) fn dashed(&mut self, from: (f32, f32), to: (f32, f32), width: f32, stroke: Rgba) {
        self.stroke(path(&[from, to], false), width, stroke, StrokeDash::new(vec![6.0, 6.0], 0.0));
    }

    pub(super) fn polyline(&mut self, points: &[(f32, f32)], width: f32, stroke: Rgba) {
        self.stroke(path(points, false), width, stroke, None);
    }

    pub(super) fn polygon(&mut self, points: &[(f32, f32)], fill: Rgba) {
        self.fill(path(points, true), Shader::SolidColor(color(fill)));
    }

    /// The shape under `points` down to `base`, fading from `top` at the highest point to nothing at the base.
    pub(super) fn under(&mut self, points: &[(f32, f32)], base: f32, top: Rgba) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
        let highest = points.iter().map(|p| p.1).fold(base, f32::min);
        let mut closed = points.to_vec();
        closed.extend([(last.0, base), (first.0, base)]);
        let stops = vec![GradientStop::new(0.0, color(top)), GradientStop::new(1.0, color(fade(top, 0.08)))];
        let (from, to) = (Point::from_xy(0.0, highest), Point::from_xy(0.0, base));
        let shader = LinearGradient::new(from, to, stops, SpreadMode::Pad, Transform::identity());
        self.fill(path(&closed, true), shader.unwrap_or(Shader::SolidColor(color(top))));
    }

    /// `text` with its top left corner at (x, y); characters that the font lacks are left blank.
    pub(super) fn text(&mut self, (x, y): (f32, f32), text: &str, font: Font, fill: Rgba) {
        let step = get_raster_width(font.0, font.1) as i32;
        for (i, c) in text.chars().enumerate() {
            let Some(glyph) = get_raster(c, font.0, font.1) else { continue };
            let left = x.round() as i32 + i as i32 * step;
            for (row, line) in glyph.raster().iter().enumerate() {
                for (column, &coverage) in line.iter().enumerate() {
                    self.blend(left + column as i32, y.round() as i32 + row as i32, fill, coverage);
                }
            }
        }
    }

    /// One pixel of `fill` at `coverage` of its opacity.
    fn blend(&mut self, x: i32, y: i32, fill: Rgba, coverage: u8) {
        let (width, height) = (self.0.width() as i32, self.0.height() as i32);
        if coverage == 0 || x < 0 || y < 0 || x >= width || y >= height {
            return;
        }
        let at = (y * width + x) as usize * 4;
        let alpha = u32::from(coverage) * u32::from(fill[3]) / 255;
        let pixel = &mut self.0.data_mut()[at..at + 4];
        for (channel, value) in pixel.iter_mut().zip([fill[0], fill[1], fill[2], 255]) {
            *channel = ((u32::from(value) * alpha + u32::from(*channel) * (255 - alpha)) / 255) as u8;
        }
    }

    /// `frame` scaled to fill `area` with rounded corners. Nothing for a frame whose bytes do not match its size.
    pub(super) fn picture(&mut self, frame: &Frame, area: Area, radius: f32) {
        let (width, height) = (area.w.round().max(1.0) as u32, area.h.round().max(1.0) as u32);
        let (Some(rgb), Some(mut pixmap)) = (resized(frame, width, height), Pixmap::new(width, height)) else { return };
        for (to, from) in pixmap.data_mut().chunks_exact_mut(4).zip(rgb.chunks_exact(3)) {
            to[..3].copy_from_slice(from);
            to[3] = 255;
        }
        let place = Transform::from_translate(area.x, area.y);
        let pattern = Pattern::new(pixmap.as_ref(), SpreadMode::Pad, FilterQuality::Bilinear, 1.0, place);
        let paint = Paint { shader: pattern, ..Paint::default() };
        if let Some(path) = rounded(area, radius) {
            self.0.fill_path(&path, &paint, FillRule::Winding, Transform::identity(), None);
        }
    }

    fn fill(&mut self, path: Option<Path>, shader: Shader<'_>) {
        if let Some(path) = path {
            let paint = Paint { shader, ..Paint::default() };
            self.0.fill_path(&path, &paint, FillRule::Winding, Transform::identity(), None);
        }
    }

    fn stroke(&mut self, path: Option<Path>, width: f32, stroke: Rgba, dash: Option<StrokeDash>) {
        if let Some(path) = path {
            let paint = Paint { shader: Shader::SolidColor(color(stroke)), ..Paint::default() };
            let stroke = Stroke { width, dash, line_cap: LineCap::Round, line_join: LineJoin::Round, ..Stroke::default() };
            self.0.stroke_path(&path, &paint, &stroke, Transform::identity(), None);
        }
    }
}

/// `frame` at another size, 8-bit RGB, each pixel the mean of what it covers. `None` when the frame's bytes do not match its size.
pub(super) fn resized(frame: &Frame, width: u32, height: u32) -> Option<Vec<u8>> {
    let (from_w, from_h) = (frame.width as usize, frame.height as usize);
    if from_w == 0 || from_h == 0 || from_w.checked_mul(from_h)?.checked_mul(3)? != frame.rgb.len() {
        return None;
    }
    let span = |i: u32, to: u32, from: usize| {
        let first = i as usize * from / to as usize;
        first..((i as usize + 1) * from / to as usize).max(first + 1)
    };
    let mut out = Vec::with_capacity(width as usize * height as usize * 3);
    for y in 0..height {
        for x in 0..width {
            let (columns, rows) = (span(x, width, from_w), span(y, height, from_h));
            let mut sum = [0u64; 3];
            for row in rows.clone() {
                let line = &frame.rgb[(row * from_w + columns.start) * 3..(row * from_w + columns.end) * 3];
                for pixel in line.chunks_exact(3) {
                    (0..3).for_each(|c| sum[c] += u64::from(pixel[c]));
                }
            }
            let n = (rows.len() * columns.len()) as u64;
            out.extend(sum.map(|s| (s / n) as u8));
        }
    }
    Some(out)
}

fn color(c: Rgba) -> Color {
    Color::from_rgba8(c[0], c[1], c[2], c[3])
}

fn path(points: &[(f32, f32)], closed: bool) -> Option<Path> {
    let mut builder = PathBuilder::new();
    let (first, rest) = points.split_first()?;
    builder.move_to(first.0, first.1);
    rest.iter().for_each(|p| builder.line_to(p.0, p.1));
    if closed {
        builder.close();
    }
    builder.finish()
}

/// A rectangle with quarter circles for corners.
fn rounded(a: Area, radius: f32) -> Option<Path> {
    let r = radius.min(0.5 * a.w).min(0.5 * a.h);
    if r <= 0.0 {
        return Some(PathBuilder::from_rect(Rect::from_xywh(a.x, a.y, a.w, a.h)?));
    }
    // Distance of a cubic's handles that makes a quarter circle.
    let k = r * 0.447_715;
    let (right, bottom) = (a.right(), a.bottom());
    let mut b = PathBuilder::new();
    b.move_to(a.x + r, a.y);
    b.line_to(right - r, a.y);
    b.cubic_to(right - k, a.y, right, a.y + k, right, a.y + r);
    b.line_to(right, bottom - r);
    b.cubic_to(right, bottom - k, right - k, bottom, right - r, bottom);
    b.line_to(a.x + r, bottom);
    b.cubic_to(a.x + k, bottom, a.x, bottom - k, a.x, bottom - r);
    b.line_to(a.x, a.y + r);
    b.cubic_to(a.x, a.y + k, a.x + k, a.y, a.x + r, a.y);
    b.close();
    b.finish()
}
