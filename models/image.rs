//! Pictures as the perception nets take them: a rotated region of interest, sampled into a tensor.

use dreamseed_kernels::Pool;

/// A borrowed 8-bit RGB picture, row-major.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    width: usize,
    height: usize,
    rgb: &'a [u8], // (height, width, 3)
}

impl<'a> Image<'a> {
    /// `None` when a side is zero or `rgb` is not width * height * 3 bytes.
    pub fn new(width: u32, height: u32, rgb: &'a [u8]) -> Option<Self> {
        let (width, height) = (width as usize, height as usize);
        let bytes = width.checked_mul(height)?.checked_mul(3)?;
        (bytes > 0 && rgb.len() == bytes).then_some(Self { width, height, rgb })
    }

    /// Pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// (height, width, 3)
    pub fn rgb(&self) -> &'a [u8] {
        self.rgb
    }

    /// The whole picture, widened to a square: what letterboxing shows a detector.
    pub fn letterbox(&self) -> Roi {
        let (w, h) = (self.width as f32, self.height as f32);
        Roi { center: [w / 2.0, h / 2.0], size: w.max(h), rotation: 0.0 }
    }

    /// The pixel at (`x`, `y`); `None` outside of the picture.
    pub(crate) fn color(&self, [x, y]: [f32; 2]) -> Option<[u8; 3]> {
        let inside = x >= 0.0 && y >= 0.0 && x < self.width as f32 && y < self.height as f32;
        inside.then(|| self.pixel(x as i64, y as i64, Border::Replicate))
    }

    /// The colour at (`x`, `y`) in pixel indices, bilinear between pixels.
    fn bilinear(&self, x: f32, y: f32, border: Border) -> [f32; 3] {
        let (fx, fy) = (x.floor(), y.floor());
        let (ax, ay) = (x - fx, y - fy);
        let (x0, y0) = (fx as i64, fy as i64);
        let (top, bottom) = (self.pair(x0, y0, ax, border), self.pair(x0, y0 + 1, ax, border));
        std::array::from_fn(|c| top[c] + (bottom[c] - top[c]) * ay)
    }

    /// Mix of the pixels (`x`, `y`) and (`x` + 1, `y`).
    fn pair(&self, x: i64, y: i64, a: f32, border: Border) -> [f32; 3] {
        let (left, right) = (self.pixel(x, y, border), self.pixel(x + 1, y, border));
        std::array::from_fn(|c| f32::from(left[c]) + (f32::from(right[c]) - f32::from(left[c])) * a)
    }

    fn pixel(&self, x: i64, y: i64, border: Border) -> [u8; 3] {
        let (w, h) = (self.width as i64, self.height as i64);
        let inside = (0..w).contains(&x) && (0..h).contains(&y);
        if !inside && border == Border::Zero {
            return [0; 3];
        }
        let i = ((y.clamp(0, h - 1) * w + x.clamp(0, w - 1)) * 3) as usize;
        [self.rgb[i], self.rgb[i + 1], self.rgb[i + 2]]
    }

    /// Samples `roi` into `out` (side, side, 3), pixel values mapped from 0..255 to `range`. Pixel indices as OpenCV's
    /// warpPerspective takes them (index = coordinate), which is what the nets' reference pipeline feeds them.
    pub fn sample(&self, pool: &Pool, roi: &Roi, sampling: Sampling, out: &mut [f32]) {
        let side = sampling.side;
        assert_eq!(out.len(), side * side * 3, "the tensor holds side * side * 3 values");
        let [low, high] = sampling.range;
        let gain = (high - low) / 255.0;
        let (sin, cos) = roi.rotation.sin_cos();
        let step = roi.size / side as f32;
        pool.for_each_chunk(out, side * 3 * 16, |chunk, rows| {
            for (r, row) in rows.chunks_exact_mut(side * 3).enumerate() {
                let dy = (chunk * 16 + r) as f32 * step - roi.size / 2.0;
                for (i, pixel) in row.chunks_exact_mut(3).enumerate() {
                    let dx = i as f32 * step - roi.size / 2.0;
                    let (x, y) = (roi.center[0] + dx * cos - dy * sin, roi.center[1] + dx * sin + dy * cos);
                    for (o, v) in pixel.iter_mut().zip(self.bilinear(x, y, sampling.border)) {
                        *o = v * gain + low;
                    }
                }
            }
        });
    }
}

/// A rotated square of the picture, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Roi {
    /// Pixels.
    pub center: [f32; 2],
    /// Length of a side, pixels.
    pub size: f32,
    /// Radians, clockwise in the picture (y points down).
    pub rotation: f32,
}

impl Roi {
    /// The square scaled about its centre.
    pub fn scaled(self, factor: f32) -> Self {
        Self { size: self.size * factor, ..self }
    }

    /// From the square's own coordinates (0..1 each way) to pixels of the picture.
    pub fn to_picture(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        let (sin, cos) = self.rotation.sin_cos();
        let (dx, dy) = ((x - 0.5) * self.size, (y - 0.5) * self.size);
        [self.center[0] + dx * cos - dy * sin, self.center[1] + dx * sin + dy * cos]
    }

    /// Whether a net can be run on it: finite and neither vanishing nor absurd beside a picture of these sides.
    pub fn usable(&self, image: &Image) -> bool {
        let finite = self.center.iter().chain([&self.size, &self.rotation]).all(|v| v.is_finite());
        finite && self.size >= 4.0 && self.size <= 16.0 * image.width.max(image.height) as f32
    }
}

/// How a region is turned into a tensor.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Width and height of the tensor.
    pub side: usize,
    /// What 0 and 255 become.
    pub range: [f32; 2],
    /// What lies outside of the picture.
    pub border: Border,
}

/// What lies outside of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Border {
    /// Black.
    Zero,
    /// The nearest pixel.
    Replicate,
}

/// The angle that turns the line from `a` to `b` (pixels) to `target` radians (counted counter-clockwise as in mathematics),
/// within -pi..pi: how the region's rotation follows from two key points.
pub fn rotation(a: [f32; 2], b: [f32; 2], target: f32) -> f32 {
    use std::f32::consts::{PI, TAU};
    let angle = target - (a[1] - b[1]).atan2(b[0] - a[0]);
    angle - TAU * ((angle + PI) / TAU).floor()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_the_whole_picture_gives_it_back() {
        let rgb: Vec<u8> = (0..8 * 8 * 3).map(|i| i as u8).collect();
        let image = Image::new(8, 8, &rgb).unwrap();
        let mut out = vec![0.0; 8 * 8 * 3];
        let sampling = Sampling { side: 8, range: [0.0, 255.0], border: Border::Zero };
        image.sample(&Pool::new(2), &image.letterbox(), sampling, &mut out);
        assert!(out.iter().zip(&rgb).all(|(o, &i)| (o - f32::from(i)).abs() < 1e-4));
    }

    #[test]
    fn a_quarter_turn_moves_the_corner_and_outside_is_black_or_the_edge() {
        let mut rgb = vec![0u8; 16 * 16 * 3];
        rgb[..3].fill(255); // the top left pixel
        let image = Image::new(16, 16, &rgb).unwrap();
        let roi = Roi { rotation: std::f32::consts::FRAC_PI_2, ..image.letterbox() };
        let corner = roi.to_picture([0.0, 1.0]);
        assert!(corner[0].abs() < 1e-4 && corner[1].abs() < 1e-4, "{corner:?}");
        let mut out = vec![0.0; 4 * 4 * 3];
        let far = Roi { center: [-100.0, -100.0], size: 8.0, rotation: 0.0 };
        for (border, wanted) in [(Border::Zero, -1.0), (Border::Replicate, 1.0)] {
            image.sample(&Pool::new(1), &far, Sampling { side: 4, range: [-1.0, 1.0], border }, &mut out);
            assert!(out.iter().all(|&v| v == wanted), "{border:?}");
        }
    }

    #[test]
    fn rotation_follows_the_line_between_two_points() {
        use std::f32::consts::FRAC_PI_2;
        assert!(rotation([0.0, 0.0], [0.0, -5.0], FRAC_PI_2).abs() < 1e-6, "upright");
        assert!((rotation([0.0, 0.0], [5.0, 0.0], FRAC_PI_2) - FRAC_PI_2).abs() < 1e-6, "fallen to the right");
    }

    #[test]
    fn pictures_of_the_wrong_size_are_refused() {
        assert!(Image::new(0, 4, &[]).is_none());
        assert!(Image::new(2, 2, &[0; 11]).is_none());
        assert!(Image::new(u32::MAX, u32::MAX, &[0; 12]).is_none());
    }
}
