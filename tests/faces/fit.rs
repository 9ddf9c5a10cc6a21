//! How well the judgement does on a set of pictures, and how its steepness is fitted.

use dreamseed_models::face::expression::{Judgement, Weighing};

use super::{Sample, Shown};

/// Bins of the reliability diagram.
const BINS: usize = 10;

/// Measures over a set. Of the samples that show something certain, but for the last one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quality {
    pub(crate) labelled: usize,
    pub(crate) accuracy: f64,              // of the likeliest, sure or not
    pub(crate) told: f64,                  // share that is sure
    pub(crate) right: f64,                 // share of those that is right
    pub(crate) ece: f64,                   // expected calibration error of the likeliest (Guo et al. 2017)
    pub(crate) brier: f64,                 // mean squared distance of the four probabilities from what is shown, 0 to 2
    pub(crate) loss: f64,                  // mean negative log-probability of what is shown
    pub(crate) halfway_unsure: f64,        // share of those between two expressions
    pub(crate) confusion: [[usize; 5]; 4], // shown: told smile, surprise, neutral, the rest, nothing
}

/// Which of the two experts are heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Shape,
    Both,
}

/// Probabilities of smile, surprise, neutral and all the rest together, and the likeliest.
fn grouped(j: &Judgement) -> ([f64; 4], usize) {
    let e = j.expression.map(f64::from);
    let p = [e[3], e[5], e[6], e[0] + e[1] + e[2] + e[4]];
    (p, (0..4).max_by(|&a, &b| p[a].total_cmp(&p[b])).unwrap_or(0))
}

pub(crate) fn quality<'a>(set: impl IntoIterator<Item = &'a Sample>, by: &Weighing, heard: Heard) -> Quality {
    let mut q = Quality::default();
    let (mut halfway, mut bins) = (0usize, [[0.0f64; 2]; BINS]); // probability, right
    let one = |yes: bool| f64::from(u8::from(yes));
    for s in set {
        let net = s.net.as_ref().filter(|_| heard == Heard::Both);
        let j = by.judge(Some(&s.measures), net).expect("a judgement");
        let Some(label) = s.shown.map(|shown| shown as usize) else {
            halfway += 1;
            q.halfway_unsure += one(j.unsure);
            continue;
        };
        let (p, best) = grouped(&j);
        let hit = one(best == label);
        let bin = &mut bins[((p[best] * BINS as f64) as usize).min(BINS - 1)];
        *bin = [bin[0] + p[best], bin[1] + hit];
        q.labelled += 1;
        q.accuracy += hit;
        q.told += one(!j.unsure);
        q.right += if j.unsure { 0.0 } else { hit };
        q.brier += (0..4).map(|i| (p[i] - one(i == label)).powi(2)).sum::<f64>();
        q.loss -= p[label].max(1e-6).ln();
        q.confusion[label][if j.unsure { 4 } else { best }] += 1;
    }
    let n = q.labelled.max(1) as f64;
    q.ece = bins.iter().map(|[p, hit]| (p - hit).abs()).sum::<f64>() / n;
    q.right /= q.told.max(1.0);
    [&mut q.accuracy, &mut q.told, &mut q.brier, &mut q.loss].into_iter().for_each(|v| *v /= n);
    q.halfway_unsure /= halfway.max(1) as f64;
    q
}

/// The share of a full expression at which the shape alone loses least.
fn half(set: &[&Sample], slope: f32) -> Weighing {
    let tried = (4..14).map(|i| Weighing { slope, half: 0.05 * i as f32, ..Weighing::default() });
    let loss = |w: &Weighing| quality(set.iter().copied(), w, Heard::Shape).loss;
    tried.min_by(|a, b| loss(a).total_cmp(&loss(b))).expect("some are tried")
}

/// What is fitted on one person and held against the other, for each steepness; what is fitted on both.
pub(crate) fn report(all: &[Sample]) {
    let of = |k: usize| all.iter().filter(move |s| s.person == k).collect::<Vec<_>>();
    for slope in [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0] {
        let held = [(0, 1), (1, 0)].map(|(fit, test)| {
            let by = half(&of(fit), slope);
            let q = quality(of(test), &by, Heard::Shape);
            println!("slope {slope}, half {:.2} fitted on {fit}; on {test}: {q:.3?}", by.half);
            q.loss
        });
        let both = half(&all.iter().collect::<Vec<_>>(), slope);
        println!("slope {slope}: loss on the other {:.3}; half of both {:.2}", (held[0] + held[1]) / 2.0, both.half);
    }
}

pub(crate) fn show(name: &str, set: &[Sample]) {
    for heard in [Heard::Shape, Heard::Both] {
        println!("{name}, {heard:?}: {:.3?}", quality(set, &Weighing::default(), heard));
    }
}

/// What is told of a set: rows are what is shown.
pub(crate) fn table(set: &[Sample], heard: Heard) {
    println!("{heard:?}: told Smile, Surprise, Neutral, Rest, nothing");
    let q = quality(set, &Weighing::default(), heard);
    for (shown, row) in [Shown::Smile, Shown::Surprise, Shown::Neutral, Shown::Rest].iter().zip(q.confusion) {
        println!("{shown:>10?} {row:?}");
    }
    println!("{q:.3?}");
}
