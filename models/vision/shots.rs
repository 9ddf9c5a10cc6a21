//! Where a film changes its shot, found without any network from how colours are spread (Zhang, Kankanhalli and Smoliar 1993), or
//! from embeddings of its pictures.
//!
//! The threshold follows the film's own unrest. A cut must hold: pictures shortly before it and shortly after it all differ, so a
//! flash is none. Histograms do not know where a colour is: a shaking camera changes little. Fades and dissolves are found between
//! two stretches that differ from each other and are each at rest.

use crate::image::Image;

/// Bins of hue, saturation and value.
const BINS: [usize; 3] = [8, 4, 8];
/// Pixels that are looked at, about.
const SAMPLES: usize = 16_384;

/// How the colours of a picture are spread: shares of the bins, neighbouring bins share what lies between them.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram(Vec<f32>);

impl Histogram {
    /// Of a picture.
    pub fn new(image: &Image) -> Self {
        let step = ((image.width() * image.height() / SAMPLES) as f64).sqrt().max(1.0) as usize;
        let mut bins = vec![0.0; BINS.iter().product()];
        for row in image.rgb().chunks_exact(image.width() * 3).step_by(step) {
            row.as_chunks::<3>().0.iter().step_by(step).for_each(|pixel| add(&mut bins, *pixel));
        }
        let sum: f32 = bins.iter().sum();
        bins.iter_mut().for_each(|b| *b /= sum.max(1.0));
        Self(bins)
    }

    /// 0 for the same spread, 1 for nothing in common.
    pub fn distance(&self, other: &Self) -> f32 {
        1.0 - self.0.iter().zip(&other.0).map(|(a, b)| a.min(*b)).sum::<f32>()
    }
}

/// One pixel, shared between the two nearest bins of each of hue, saturation and value.
fn add(bins: &mut [f32], pixel: [u8; 3]) {
    let [r, g, b] = pixel.map(|v| f32::from(v) / 255.0);
    let (value, least) = (r.max(g).max(b), r.min(g).min(b));
    let chroma = value - least;
    let saturation = if value > 0.0 { chroma / value } else { 0.0 };
    let hue = match chroma {
        c if c <= 0.0 => 0.0,
        c if value == r => ((g - b) / c).rem_euclid(6.0),
        c if value == g => (b - r) / c + 2.0,
        c => (r - g) / c + 4.0,
    } / 6.0;
    // the hue of what is grey or dark is noise: its saturation counts by its brightness
    let at = |x: f32, n: usize| {
        let x = x.clamp(0.0, 1.0) * (n - 1) as f32;
        let low = (x as usize).min(n - 2);
        [(low, 1.0 - (x - low as f32)), (low + 1, x - low as f32)]
    };
    let around = hue * BINS[0] as f32;
    let first = around as usize % BINS[0];
    let hues = [(first, 1.0 - around.fract()), ((first + 1) % BINS[0], around.fract())];
    for (s, sw) in at(saturation * value.min(0.25) * 4.0, BINS[1]) {
        for (v, vw) in at(value, BINS[2]) {
            // without saturation all hues are one
            match s {
                0 => bins[v] += sw * vw,
                _ => hues.iter().for_each(|(h, hw)| bins[(h * BINS[1] + s) * BINS[2] + v] += hw * sw * vw),
            }
        }
    }
}

/// A change of shot.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Change {
    /// Seconds: the first picture of the new shot; of a fade its beginning.
    pub start: f64,
    /// Seconds: equal to `start` for a cut; of a fade its end.
    pub end: f64,
    /// Distance of the two shots, 0..1.
    pub distance: f32,
}

/// What counts as a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Least distance between two shots.
    pub least: f32,
    /// How far above the film's own unrest, in its median deviations.
    pub deviations: f32,
    /// Seconds that a shot lasts at least; what is shorter is a flash.
    pub hold: f64,
    /// Longest fade, seconds.
    pub fade: f64,
}

impl Options {
    /// For distances of [`Histogram`]s.
    pub const COLOURS: Self = Self { least: 0.3, deviations: 8.0, hold: 0.3, fade: 2.0 };
    /// For one less the cosine of embeddings, some a second.
    pub const EMBEDDINGS: Self = Self { least: 0.25, deviations: 6.0, hold: 0.6, fade: 0.0 };
}

/// The changes of shot, in order. `times`: seconds of the pictures, rising; `distance(i, j)` of pictures i and j, 0..1.
pub fn changes(times: &[f64], distance: impl Fn(usize, usize) -> f32, options: &Options) -> Vec<Change> {
    let n = times.len();
    let steps: Vec<f32> = (1..n).map(|i| distance(i - 1, i)).collect();
    let gap = match times {
        [first, .., last] => ((last - first) / (n - 1) as f64).max(1e-3),
        _ => return Vec::new(),
    };
    let frames = |seconds: f64| (seconds / gap).round().clamp(0.0, n as f64) as usize;
    let hold = frames(options.hold).max(2);
    // 1. cuts: the strongest of their surroundings, above the unrest, and nothing before like anything after
    let mut found: Vec<(usize, usize, f32)> = Vec::new(); // last picture before, first after, distance
    for i in 1..n {
        let d = steps[i - 1];
        let near = i.saturating_sub(hold + 1)..(i - 1 + hold + 1).min(steps.len());
        let strongest = near.clone().all(|k| steps[k] < d || (steps[k] == d && k >= i - 1));
        if d < options.least || !strongest || d < unrest(&steps, i - 1, frames(2.0).max(4), options) {
            continue;
        }
        let (before, after) = (i.saturating_sub(hold)..i, i..(i + hold).min(n));
        let apart = before.flat_map(|a| after.clone().map(move |b| (a, b))).map(|(a, b)| distance(a, b));
        let nearest = apart.fold(f32::INFINITY, f32::min);
        // a step of a dissolve is a part of the way alone, and has others beside it
        let beside =
            (i.saturating_sub(3)..(i + 2).min(steps.len())).filter(|k| *k != i - 1).map(|k| steps[k]).fold(0.0, f32::max);
        let whole = distance(i.saturating_sub(hold), (i + hold - 1).min(n - 1));
        if nearest >= options.least && 1.5 * d >= whole && beside <= 0.5 * d {
            found.push((i - 1, i, d));
        }
    }
    // 2. fades: two stretches at rest that differ, with a way between them that is no cut
    fades(n, &distance, (frames(options.fade), hold), options.least, &mut found);
    found.sort_unstable_by_key(|f| f.0);
    let change = |&(a, b, distance): &(usize, usize, f32)| match b - a {
        1 => Change { start: times[b], end: times[b], distance },
        _ => Change { start: times[a], end: times[b], distance },
    };
    found.iter().map(change).collect()
}

/// What the steps about `at`, itself left out, are like: their median and so many median deviations.
fn unrest(steps: &[f32], at: usize, reach: usize, options: &Options) -> f32 {
    let near = at.saturating_sub(reach)..(at + reach + 1).min(steps.len());
    let mut around: Vec<f32> = near.filter(|k| *k != at).map(|k| steps[k]).collect();
    let middle = |v: &mut Vec<f32>| {
        v.sort_by(f32::total_cmp);
        v.get(v.len() / 2).copied().unwrap_or(0.0)
    };
    let median = middle(&mut around);
    let deviation = middle(&mut around.iter().map(|v| (v - median).abs()).collect());
    median + options.deviations * deviation
}

/// Share of a fade's distance that a stretch at rest may move by.
const REST: f32 = 0.25;

fn fades(
    n: usize,
    distance: &impl Fn(usize, usize) -> f32,
    (longest, hold): (usize, usize),
    least: f32,
    found: &mut Vec<(usize, usize, f32)>,
) {
    let mut a = hold;
    'next: while a + hold < n {
        for b in a + 2..=(a + longest).min(n.saturating_sub(hold + 1)) {
            let d = distance(a, b);
            let rest = distance(a - hold, a).max(distance(b, b + hold));
            let moving = distance(a, a + 1) > 1e-3 || distance(b - 1, b) > 1e-3;
            let cut = found.iter().any(|f| f.0 < b && f.1 > a);
            if d >= least && rest <= REST * d && moving && !cut {
                // its end is where nothing moves any more: on as long as the distance still grows
                let end =
                    (b..(a + longest).min(n - hold - 1)).take_while(|k| distance(*k, k + 1) > 0.01).last().map_or(b, |k| k + 1);
                let begin = (a..end).take_while(|k| distance(a, k + 1) < 0.02).last().map_or(a, |k| k + 1);
                found.push((begin, end.max(begin + 2).min(n - 1), distance(a, end)));
                a = end + hold;
                continue 'next;
            }
        }
        a += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: usize = 64;
    const H: usize = 48;

    /// A scene: stripes and a disc of its own colours, moved by (dx, dy).
    fn scene(kind: u8, dx: i32, dy: i32) -> Vec<u8> {
        let colours = match kind {
            0 => [[200, 60, 40], [230, 200, 120], [60, 40, 30]],
            1 => [[30, 90, 180], [120, 180, 90], [220, 230, 240]],
            _ => [[90, 30, 120], [20, 20, 20], [200, 160, 220]],
        };
        let pixel = |i: usize| {
            let (x, y) = ((i % W) as i32 + dx, (i / W) as i32 + dy);
            let disc = (x - 30).pow(2) + (y - 22).pow(2) < 150;
            colours[if disc { 2 } else { usize::from((x + 64) / 9 % 2 == 0) }]
        };
        (0..W * H).flat_map(pixel).collect()
    }

    fn mix(a: &[u8], b: &[u8], share: f64) -> Vec<u8> {
        a.iter().zip(b).map(|(a, b)| (f64::from(*a) * (1.0 - share) + f64::from(*b) * share) as u8).collect()
    }

    fn found(frames: &[Vec<u8>], fps: f64) -> Vec<Change> {
        let all: Vec<_> = frames.iter().map(|f| Histogram::new(&Image::new(W as u32, H as u32, f).unwrap())).collect();
        let times: Vec<f64> = (0..all.len()).map(|i| i as f64 / fps).collect();
        changes(&times, |i, j| all[i].distance(&all[j]), &Options::COLOURS)
    }

    /// A hand-held camera.
    fn shaken(kind: u8, i: usize) -> Vec<u8> {
        scene(kind, (i * 7 % 11) as i32 - 5, (i * 5 % 7) as i32 - 3)
    }

    #[test]
    fn cuts_are_found_where_they_are() {
        for fps in [5.0, 15.0, 30.0] {
            let frames: Vec<_> = (0..90).map(|i| shaken([0, 1, 2][i / 30], i)).collect();
            let cuts = found(&frames, fps);
            let at: Vec<usize> = cuts.iter().map(|c| (c.start * fps).round() as usize).collect();
            assert_eq!(at, [30, 60], "{fps} {cuts:?}");
            assert!(cuts.iter().all(|c| c.start == c.end && c.distance > 0.5), "{cuts:?}");
        }
    }

    #[test]
    fn a_flash_is_no_cut() {
        let white = vec![255u8; W * H * 3];
        for length in 1..=3 {
            let flash = |i: usize, at: usize| (at..at + length).contains(&i);
            let frames: Vec<_> = (0..60).map(|i| if flash(i, 30) { white.clone() } else { shaken(0, i) }).collect();
            assert_eq!(found(&frames, 15.0), [], "{length} white pictures");
        }
    }

    #[test]
    fn a_shaking_or_panning_camera_is_no_cut() {
        let shaking: Vec<_> = (0..90).map(|i| shaken(1, i * 3)).collect();
        assert_eq!(found(&shaking, 15.0), []);
        let panning: Vec<_> = (0..90).map(|i| scene(1, i / 3, 0)).collect();
        assert_eq!(found(&panning, 15.0), []);
        let noise = |i: usize| (0..W * H * 3).map(|k| (128 + (k * 31 + i * 77) * 2_654_435_761 % 23) as u8).collect::<Vec<_>>();
        assert_eq!(found(&(0..60).map(noise).collect::<Vec<_>>(), 15.0), []);
    }

    #[test]
    fn a_fade_is_one_change_with_a_span() {
        for (length, black) in [(10, false), (20, false), (20, true)] {
            let dark = vec![0u8; W * H * 3];
            let frame = |i: usize| {
                let share = ((i as f64 - 40.0) / length as f64).clamp(0.0, 1.0);
                let (a, b) = (scene(0, 0, 0), scene(1, 0, 0));
                match black {
                    false => mix(&a, &b, share),
                    true if share < 0.5 => mix(&a, &dark, 2.0 * share),
                    true => mix(&dark, &b, 2.0 * share - 1.0),
                }
            };
            let changes = found(&(0..100).map(frame).collect::<Vec<_>>(), 15.0);
            assert_eq!(changes.len(), 1, "{length} {black}: {changes:?}");
            let (start, end) = (40.0 / 15.0, (40 + length) as f64 / 15.0);
            let c = changes[0];
            assert!((c.start - start).abs() < 0.34 && (c.end - end).abs() < 0.34 && c.end > c.start, "{start} {end} {c:?}");
        }
    }

    #[test]
    fn nothing_is_found_in_nothing() {
        assert_eq!(changes(&[], |_, _| 1.0, &Options::COLOURS), []);
        assert_eq!(changes(&[0.0], |_, _| 1.0, &Options::COLOURS), []);
        assert_eq!(changes(&[0.0; 30], |_, _| f32::NAN, &Options::COLOURS), []);
        let still: Vec<_> = (0..40).map(|_| scene(2, 0, 0)).collect();
        assert_eq!(found(&still, 15.0), []);
    }
}
