//! How well the judgement does on a set of pictures, and the weighing that does best on a part of it.

use dreamseed_models::face::expression::{Judgement, Weighing};

use super::{Sample, Shown};

/// Bins of the reliability diagram.
const BINS: usize = 10;

/// Measures over a set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quality {
    pub(crate) labelled: usize,
    pub(crate) accuracy: f64, // of the likeliest, sure or not
    pub(crate) told: f64,     // share of the labelled that are sure
    pub(crate) right: f64,    // share of those that are right
    pub(crate) ece: f64,      // expected calibration error of the likeliest (Guo et al. 2017)
    pub(crate) loss: f64,     // mean negative log-probability of what is shown
    pub(crate) halfway_unsure: f64,
    pub(crate) labelled_unsure: f64,
}

fn index(shown: Shown) -> usize {
    match shown {
        Shown::Smile => 3,
        Shown::Surprise => 5,
        Shown::Neutral => 6,
    }
}

pub(crate) fn judged(s: &Sample, by: &Weighing) -> Judgement {
    by.judge(Some(&s.measures), s.net.as_ref()).expect("a judgement")
}

/// Probabilities of smile, surprise, neutral and all the rest together, and the likeliest.
fn grouped(j: &Judgement) -> ([f32; 4], usize) {
    let e = &j.expression;
    let p = [e[3], e[5], e[6], e[0] + e[1] + e[2] + e[4]];
    (p, (0..4).max_by(|&a, &b| p[a].total_cmp(&p[b])).unwrap_or(0))
}

pub(crate) fn quality<'a>(set: impl IntoIterator<Item = &'a Sample>, by: &Weighing) -> Quality {
    let mut q = Quality::default();
    let (mut halfway, mut bins) = (0usize, [[0.0f64; 3]; BINS]); // count, probability, right
    for s in set {
        let j = judged(s, by);
        let Some(label) = s.label() else {
            halfway += 1;
            q.halfway_unsure += f64::from(u8::from(j.unsure));
            continue;
        };
        let (p, best) = grouped(&j);
        let hit = f64::from(u8::from([3, 5, 6].get(best) == Some(&index(label))));
        let bin = &mut bins[((p[best] * BINS as f32) as usize).min(BINS - 1)];
        [1.0, f64::from(p[best]), hit].into_iter().zip(bin).for_each(|(v, b)| *b += v);
        q.labelled += 1;
        q.accuracy += hit;
        q.told += f64::from(u8::from(!j.unsure));
        q.right += if j.unsure { 0.0 } else { hit };
        q.loss -= f64::from(j.expression[index(label)].max(1e-6).ln());
    }
    let n = q.labelled.max(1) as f64;
    q.ece = bins.iter().map(|[_, p, hit]| (p - hit).abs()).sum::<f64>() / n;
    q.right /= q.told.max(1.0);
    (q.accuracy, q.loss, q.told) = (q.accuracy / n, q.loss / n, q.told / n);
    q.labelled_unsure = 1.0 - q.told;
    q.halfway_unsure /= halfway.max(1) as f64;
    q
}

/// The weighing with the least loss: one constant after the other by ever smaller steps.
pub(crate) fn fitted(set: &[&Sample]) -> Weighing {
    let mut best = Weighing::default();
    let loss = |w: &Weighing| quality(set.iter().copied(), w).loss;
    let (mut least, mut step) = (loss(&best), 0.4f32);
    while step > 0.02 {
        let before = least;
        for k in 0..5 {
            for sign in [-1.0, 1.0] {
                let mut w = best;
                let by = sign * step;
                match k {
                    0 => w.slope *= by.exp(),
                    1 => w.smile += 2.0 * by,
                    2 => w.surprise += 2.0 * by,
                    3 => w.temperature *= by.exp(),
                    _ => w.floor *= by.exp(),
                }
                // the net is to keep a say, and not to have the last word
                (w.slope, w.temperature, w.floor) =
                    (w.slope.clamp(0.2, 3.0), w.temperature.clamp(1.0, 6.0), w.floor.clamp(0.01, 0.3));
                let l = loss(&w);
                if l < least {
                    (best, least) = (w, l);
                }
            }
        }
        if least > before - 1e-5 {
            step /= 2.0;
        }
    }
    best
}

pub(crate) fn show(name: &str, set: &[Sample], by: &Weighing) {
    println!("{name}: {:.3?}", quality(set, by));
}

pub(crate) fn report(all: &[Sample]) {
    show("default", all, &Weighing::default());
    let of = |k: usize| all.iter().filter(move |s| s.person == k).collect::<Vec<_>>();
    for (train, test) in [(0, 1), (1, 0)] {
        let by = fitted(&of(train));
        println!("fitted on {train}: {by:?}\n  itself {:.3?}\n  other {:.3?}", quality(of(train), &by), quality(of(test), &by));
    }
    let by = fitted(&all.iter().collect::<Vec<_>>());
    show(&format!("fitted on both {by:?}"), all, &by);
}
