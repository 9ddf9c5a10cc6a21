//! Syllables, rate and rhythm without a transcript.

use super::{intensity::Intensity, pitch::PitchTrack, signal::quantile};

/// A vocalic interval ends where the sound is this far under its nucleus, dB.
const VOWEL_DEPTH: f64 = 6.0;
/// Half of the time within which a nucleus must be voiced, seconds.
const VOICED_REACH: f64 = 0.01;

/// Syllable nuclei, seconds: maxima of intensity that stand within `below_peak` dB of the loud parts (99th percentile), are followed
/// by a dip of at least `min_dip` dB before the next maximum, are voiced, and lie in a sounding stretch. de Jong and Wempe (2009),
/// "Praat script to detect syllable nuclei and measure speech rate automatically", Behavior Research Methods 41, 385-390.
pub(super) fn nuclei(curve: &Intensity, pitch: &PitchTrack, sounding: &[[f64; 2]], below_peak: f64, min_dip: f64) -> Vec<f64> {
    let mut sorted = curve.db.clone();
    sorted.sort_by(f64::total_cmp);
    let (Some(loud), Some((_, softest))) = (quantile(&sorted, 0.99), curve.extremes()) else {
        return Vec::new();
    };
    let threshold = (loud - below_peak).max(softest);

    // 1. local maxima over the threshold
    let db = &curve.db;
    let tops = (1..db.len().saturating_sub(1)).filter(|&i| db[i] > db[i - 1] && db[i] >= db[i + 1] && db[i] > threshold);
    // 2. those with a dip after them; of maxima without one between them the last stands for all
    let tops: Vec<usize> = tops.collect();
    let dips = |pair: &[usize]| db[pair[0]..=pair[1]].iter().copied().fold(f64::INFINITY, f64::min);
    let mut kept: Vec<usize> = tops.windows(2).filter(|p| db[p[0]] - dips(p) > min_dip).map(|p| p[0]).collect();
    kept.extend(tops.last().filter(|&&i| db[i] - db[i..].iter().copied().fold(f64::INFINITY, f64::min) > min_dip));
    // 3. voiced, and not in a pause
    let inside = |t: f64| sounding.iter().any(|[a, b]| (*a..*b).contains(&t));
    kept.into_iter().map(|i| curve.grid.time(i)).filter(|&t| pitch.voiced_near(t, VOICED_REACH) && inside(t)).collect()
}

/// Vocalic intervals [start, end) in seconds, one a nucleus: from the nucleus outwards while the sound is voiced and less than 6 dB
/// under the nucleus, at most to the softest point between it and its neighbours. A stand-in for the segmentation by hand that
/// rhythm measures ask for: sonorant consonants count with the vowel they lean on.
pub(super) fn vocalic_intervals(nuclei: &[f64], curve: &Intensity, pitch: &PitchTrack) -> Vec<[f64; 2]> {
    let step = pitch.hop;
    let end = pitch.time(pitch.f0.len());
    let valleys: Vec<f64> = nuclei.windows(2).map(|n| valley(curve, n[0], n[1])).collect();
    let walk = |from: f64, direction: f64, limit: f64| {
        let floor = curve.at(from).unwrap_or(0.0) - VOWEL_DEPTH;
        let mut t = from;
        loop {
            let next = t + direction * step;
            let over = if direction > 0.0 { next > limit } else { next < limit };
            if over || !pitch.voiced_near(next, 0.0) || curve.at(next).is_none_or(|db| db < floor) {
                return t;
            }
            t = next;
        }
    };
    let before = |i: usize| i.checked_sub(1).map_or(pitch.start, |p| valleys[p]);
    let after = |i: usize| valleys.get(i).copied().unwrap_or(end);
    let half = 0.5 * step;
    nuclei.iter().enumerate().map(|(i, &t)| [walk(t, -1.0, before(i)) - half, walk(t, 1.0, after(i)) + half]).collect()
}

/// Time of the softest frame between `a` and `b`.
fn valley(curve: &Intensity, a: f64, b: f64) -> f64 {
    let (from, to) = (curve.grid.nearest(a).unwrap_or(0), curve.grid.nearest(b).unwrap_or(0));
    let softest = (from..=to).min_by(|&x, &y| curve.db[x].total_cmp(&curve.db[y]));
    softest.map_or(0.5 * (a + b), |i| curve.grid.time(i))
}

/// Normalized pairwise variability index, 0..200: mean of 200 |a - b| / (a + b) over neighbouring intervals (Grabe and Low 2002,
/// "Durational variability in speech and the rhythm class hypothesis"); pairs with a pause between them are left out. `None` with
/// fewer than three pairs.
pub(super) fn npvi(intervals: &[[f64; 2]], pauses: &[[f64; 2]]) -> Option<f64> {
    let mut pairs = Vec::new();
    for pair in intervals.windows(2) {
        let paused = pauses.iter().any(|p| p[0] >= pair[0][0] && p[0] < pair[1][0]);
        let (a, b) = (pair[0][1] - pair[0][0], pair[1][1] - pair[1][0]);
        if !paused && a + b > 0.0 {
            pairs.push(200.0 * (a - b).abs() / (a + b));
        }
    }
    (pairs.len() >= 3).then(|| pairs.iter().sum::<f64>() / pairs.len() as f64)
}
