//! Beats by dynamic programming (Ellis 2007, "Beat tracking by dynamic programming").

/// How much a beat's distance from the one before is held to the tempo.
const TIGHTNESS: f64 = 100.0;

/// Frames of the beats of an onset `envelope`, about `period` frames apart, rising: `beat_track` of librosa 0.11, weak beats at both
/// ends trimmed. Empty where no onset is.
pub(super) fn track(envelope: &[f64], period: usize) -> Vec<usize> {
    let n = envelope.len() as f64;
    let mean = envelope.iter().sum::<f64>() / n;
    let deviation = (envelope.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0)).sqrt();
    if envelope.len() < 2 || deviation <= 0.0 || !(1..=envelope.len()).contains(&period) {
        return Vec::new();
    }
    let score = local_score(envelope, deviation, period);
    let (score_so_far, before) = best_so_far(&score, period);
    let mut beats = Vec::new();
    let mut at = Some(last(&score_so_far));
    while let Some(beat) = at {
        beats.push(beat);
        at = before[beat];
    }
    beats.reverse();
    trim(&score, beats)
}

/// The envelope in standard deviations, under a Gaussian of a 32nd of the period.
fn local_score(envelope: &[f64], deviation: f64, period: usize) -> Vec<f64> {
    let weight = |d: usize| (-0.5 * (32.0 * d as f64 / period as f64).powi(2)).exp();
    let weights: Vec<f64> = (0..=period).map(weight).collect();
    let at = |i: usize| {
        let near = i.saturating_sub(period)..(i + period + 1).min(envelope.len());
        near.map(|j| weights[i.abs_diff(j)] * envelope[j]).sum::<f64>() / deviation
    };
    (0..envelope.len()).map(at).collect()
}

/// The best score of a row of beats that ends at each frame, and the beat before it in that row.
fn best_so_far(score: &[f64], period: usize) -> (Vec<f64>, Vec<Option<usize>>) {
    let loud = 0.01 * score.iter().copied().fold(0.0, f64::max);
    let (mut total, mut before) = (vec![0.0; score.len()], vec![None; score.len()]);
    let nearest = ((period as f64 / 2.0).round_ties_even() as usize).max(1);
    let costs: Vec<f64> = (0..=2 * period).map(|gap| TIGHTNESS * (gap as f64 / period as f64).ln().powi(2)).collect();
    let mut begun = false;
    for i in 0..score.len() {
        let mut best: Option<(f64, usize)> = None;
        for gap in nearest..=(2 * period).min(i) {
            let candidate = total[i - gap] - costs[gap];
            if best.is_none_or(|(b, _)| candidate > b) {
                best = Some((candidate, i - gap));
            }
        }
        total[i] = score[i] + best.map_or(0.0, |b| b.0);
        // Silence at the beginning holds no beats.
        begun |= score[i] >= loud;
        before[i] = best.map(|b| b.1).filter(|_| begun);
    }
    (total, before)
}

/// The last local maximum of the score that is at least half of their median.
fn last(total: &[f64]) -> usize {
    let end = total.len() - 1;
    let is_peak = |i: &usize| *i > 0 && total[*i] > total[i - 1] && total.get(i + 1).is_none_or(|after| total[*i] >= *after);
    let mut heights: Vec<f64> = (0..=end).filter(is_peak).map(|i| total[i]).collect();
    heights.sort_by(f64::total_cmp);
    let (Some(low), Some(high)) = (heights.get((heights.len().max(1) - 1) / 2), heights.get(heights.len() / 2)) else {
        return end;
    };
    let least = 0.25 * (low + high);
    (0..=end).rev().filter(is_peak).find(|&i| total[i] >= least).unwrap_or(end)
}

/// Without the beats before and after all that reaches half of the beats' root mean square.
fn trim(score: &[f64], mut beats: Vec<usize>) -> Vec<usize> {
    let at = |k: isize| usize::try_from(k).ok().and_then(|k| beats.get(k)).map_or(0.0, |&b| score[b]);
    let count = beats.len() as isize;
    let smooth = |k: isize| 0.5 * at(k - 1) + at(k) + 0.5 * at(k + 1);
    let square: f64 = (0..count + 2).map(|k| smooth(k).powi(2)).sum();
    let least = 0.5 * (square / (count + 2) as f64).sqrt();
    let (Some(first), Some(last)) = (score.iter().position(|s| *s > least), score.iter().rposition(|s| *s > least)) else {
        return Vec::new();
    };
    beats.retain(|b| (first..=last).contains(b));
    beats
}
