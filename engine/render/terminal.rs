//! Pictures out of characters: two pixels a cell by half blocks, curves by braille dots.

use std::fmt::Write;

use dreamseed_models::pose::Person;

use super::{canvas::resized, skeleton::bones};
use crate::media::Frame;

/// Fewest and most cells in a row.
const WIDTHS: std::ops::RangeInclusive<usize> = 8..=400;

/// `frame` as text with the skeletons of `people` over it, `width_cells` (8..=400) wide and half as many rows as the picture's shape
/// asks for: each cell is an upper half block whose foreground and background are two pixels. With `true_color` 24-bit colours,
/// else the 256-colour palette. Each line ends in a reset. Empty for a frame whose bytes do not match its size.
pub fn terminal(frame: &Frame, people: &[Person], width_cells: usize, true_color: bool) -> String {
    let width = width_cells.clamp(*WIDTHS.start(), *WIDTHS.end()) as u32;
    // Rows of pixels: even, at most twice the width for very tall pictures.
    let tall = f64::from(width) * f64::from(frame.height) / f64::from(frame.width.max(1));
    let height = ((tall / 2.0).round().clamp(1.0, f64::from(width)) as u32) * 2;
    let Some(mut rgb) = resized(frame, width, height) else { return String::new() };
    for bone in people.iter().flat_map(bones) {
        stroke(&mut rgb, (width, height), bone.from, bone.to, bone.color);
    }
    let pixel = |x: u32, y: u32| {
        let at = ((y * width + x) * 3) as usize;
        [rgb[at], rgb[at + 1], rgb[at + 2]]
    };
    let mut out = String::new();
    for y in (0..height).step_by(2) {
        let mut last = None;
        for x in 0..width {
            let pair = (pixel(x, y), pixel(x, y + 1));
            if last != Some(pair) {
                escape(&mut out, 38, pair.0, true_color);
                escape(&mut out, 48, pair.1, true_color);
                last = Some(pair);
            }
            out.push('▀');
        }
        out.push_str("\x1b[0m\n");
    }
    out
}

/// Sets the foreground (`layer` 38) or background (48) colour.
fn escape(out: &mut String, layer: u8, [r, g, b]: [u8; 3], true_color: bool) {
    // Writing to a String cannot fail.
    let _ = if true_color {
        write!(out, "\x1b[{layer};2;{r};{g};{b}m")
    } else {
        write!(out, "\x1b[{layer};5;{}m", palette([r, g, b]))
    };
}

/// Nearest of the 256 colours: the 6x6x6 cube, or the 24 greys where they are closer.
fn palette(rgb: [u8; 3]) -> u8 {
    const LEVELS: [i32; 6] = [0, 95, 135, 175, 215, 255];
    let cube = rgb.map(|c| (0..6).min_by_key(|&i| (LEVELS[i] - i32::from(c)).abs()).unwrap_or(0));
    let mean = rgb.iter().map(|&c| i32::from(c)).sum::<i32>() / 3;
    let grey = ((mean - 3) / 10).clamp(0, 23);
    let error = |level: [i32; 3]| (0..3).map(|i| (level[i] - i32::from(rgb[i])).pow(2)).sum::<i32>();
    if error([8 + 10 * grey; 3]) < error(cube.map(|i| LEVELS[i])) {
        232 + grey as u8
    } else {
        (16 + 36 * cube[0] + 6 * cube[1] + cube[2]) as u8
    }
}

/// A line between two points (0..1) into an RGB picture, one pixel wide.
fn stroke(rgb: &mut [u8], (width, height): (u32, u32), from: (f32, f32), to: (f32, f32), color: [u8; 4]) {
    let scale = |p: (f32, f32)| (p.0 * width as f32, p.1 * height as f32);
    let ((x0, y0), (x1, y1)) = (scale(from), scale(to));
    let steps = (x1 - x0).abs().max((y1 - y0).abs()).ceil().clamp(1.0, 8000.0) as usize;
    let alpha = u32::from(color[3]);
    for i in 0..=steps {
        let s = i as f32 / steps as f32;
        let (x, y) = (x0 + s * (x1 - x0), y0 + s * (y1 - y0));
        if x < 0.0 || y < 0.0 || x >= width as f32 || y >= height as f32 {
            continue;
        }
        let at = (y as usize * width as usize + x as usize) * 3;
        for (channel, value) in rgb[at..at + 3].iter_mut().zip(color) {
            *channel = ((u32::from(value) * alpha + u32::from(*channel) * (255 - alpha)) / 255) as u8;
        }
    }
}

/// A small curve of F0 out of braille dots, `width_cells` (8..=400) by `rows` (1..=16) cells, one line each, lowest F0 at the
/// bottom, on a logarithmic scale; unvoiced stretches are blank. Empty when nothing is voiced.
pub fn pitch_line(f0: &[Option<f32>], width_cells: usize, rows: usize) -> String {
    let (width, rows) = (width_cells.clamp(*WIDTHS.start(), *WIDTHS.end()), rows.clamp(1, 16));
    let octaves: Vec<Option<f32>> = f0.iter().map(|f| f.filter(|f| f.is_finite() && *f > 0.0).map(f32::log2)).collect();
    let mut sorted: Vec<f32> = octaves.iter().flatten().copied().collect();
    sorted.sort_by(f32::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return String::new() };
    // From the 2nd to the 98th percentile: a stray octave jump must not flatten the rest.
    let (low, high) = (sorted[last * 2 / 100], sorted[last - last * 2 / 100]);
    // At least a third of an octave, so that a monotone looks like one.
    let pad = (0.5 * (1.0 / 3.0 - (high - low))).max(0.0);
    let (low, high) = (low - pad, high + pad);
    let (dots_x, dots_y) = (2 * width, 4 * rows);
    let mut cells = vec![0u8; width * rows];
    for x in 0..dots_x {
        // The median of the frames of this column; voiced when at least half of them are.
        let part = &octaves[x * octaves.len() / dots_x..((x + 1) * octaves.len()).div_ceil(dots_x)];
        let mut voiced: Vec<f32> = part.iter().flatten().copied().collect();
        if voiced.is_empty() || 2 * voiced.len() < part.len() {
            continue;
        }
        voiced.sort_by(f32::total_cmp);
        let place = ((voiced[voiced.len() / 2] - low) / (high - low)).clamp(0.0, 1.0);
        let y = dots_y - 1 - ((place * dots_y as f32) as usize).min(dots_y - 1);
        cells[y / 4 * width + x / 2] |= braille_bit(x % 2, y % 4);
    }
    let line = |row: &[u8]| row.iter().map(|&c| char::from_u32(0x2800 + u32::from(c)).unwrap_or(' ')).collect::<String>();
    cells.chunks(width).map(line).collect::<Vec<_>>().join("\n")
}

/// Bit of the dot in column 0..2 and row 0..4 of a braille cell.
fn braille_bit(column: usize, row: usize) -> u8 {
    match (column, row) {
        (0, 3) => 1 << 6,
        (1, 3) => 1 << 7,
        (column, row) => 1 << (3 * column + row),
    }
}
