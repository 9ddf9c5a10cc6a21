//! What a face expresses: the shape of the mesh and the expression net, weighed together, with the right to say "unsure".
//!
//! The net alone is sure of itself and often wrong (it was trained on small pictures of posed faces), and the shape alone knows
//! little of anger or fear. Both give probabilities for smile, surprise, neutral and the rest; these are multiplied (a product of
//! experts, Hinton 2002), the net's flattened by a temperature (Guo et al. 2017). Where they disagree nothing stands out, and
//! below a least probability the answer is "unsure": Chow's rule (1970), which for a cost of 1 for an error and c for a rejection
//! rejects below 1 - c.
//!
//! How it was fitted. How steep the judgement is ([`Weighing::slope`]) and how much of an expression is as likely as none
//! ([`Weighing::half`]) come from the shapes of two reference faces warped to graded expressions (tests/faces, 224 pictures). Where the
//! half is fitted on one face and held against the other, slopes of 5 and 6 lose least (0.70 and 0.71); over both, halves of 0.40 and
//! 0.45 lose the same. The faces disagree on it (0.55 and 0.25: the one smiles in the picture that is warped), so that what is fitted
//! on one is right of 71% and 64% on the other; over both the shape alone is right of 83%, of 89% of what it tells, and tells 74%. The
//! net's weight is not fitted: a warp moves no cheeks and shows no teeth, and the net
//! goes on seeing what the picture showed before. A face at rest and a full expression are set by hand, after published proportions
//! (Farkas 1994), the two pictures, and a look at what full smiles and surprise measure in the pictures of the next paragraph; so is
//! the weight of a neutral face against the rest, by which the straight face of the two is told.
//!
//! On 160 real pictures of ten people (posed, grey, seen from the front: the first and the last three of 40 sequences) 24 of 24 smiles
//! are told; of 27 surprises 24, the others as neutral; 40 of 40 neutral faces; of 69 others 26, 12 are "unsure", 22 told as neutral, 6 as
//! a smile (fear stretches the mouth), 3 as surprise. 93% are told, 77% of these right; Brier score 0.36 (of 2), expected calibration error
//! 0.10 (a copy of these formulas over the nets' outputs). They are no held-out set: no number was fitted to them, but they were looked at
//! as said, a few values of half and of the neutral weight were compared on them, and the net may have been trained on their like. The
//! neutral weight is what a straight face needs to be told where the net says nothing; 1.5 would be right of 81% of these. Of other people
//! and light expect less. Of 13 pictures that warping had ruined, and in which a face was found all the same, 6 were told, all wrongly:
//! what is no face of anybody is not always "unsure".

use super::EXPRESSIONS;

/// Lengths over the distance of the outer corners of the eyes, the face turned to the front.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measures {
    /// Gap between the lips.
    pub mouth_open: f32,
    /// Corner to corner.
    pub mouth_width: f32,
    /// How far the corners of the mouth lie above the base of the nose, along the face: they are below it, so it is negative. Lips
    /// do not move that base, while their own middle sinks or rises as the mouth opens.
    pub corner_lift: f32,
    /// Middle of the brows above the middle of the eyes' corners.
    pub brow_raise: f32,
    /// Between the inner ends of the brows.
    pub brow_gap: f32,
    /// Height over width of the eyes.
    pub eye_open: f32,
}

/// A face at rest.
pub const REST: Measures =
    Measures { mouth_open: 0.02, mouth_width: 0.58, corner_lift: -0.235, brow_raise: 0.3, brow_gap: 0.28, eye_open: 0.32 };
/// How far people at rest differ from that.
const SPREAD: Measures =
    Measures { mouth_open: 0.02, mouth_width: 0.04, corner_lift: 0.025, brow_raise: 0.04, brow_gap: 0.03, eye_open: 0.06 };

/// Least probability of an answer: an error costs 1, an "unsure" 0.4.
const SURE: f32 = 0.6;

/// From rest to a full smile or a full surprise: corners and width belong to the one, the others to the other.
const FULL: Measures =
    Measures { mouth_open: 0.25, mouth_width: 0.15, corner_lift: 0.07, brow_raise: 0.06, brow_gap: 0.03, eye_open: 0.1 };

/// How shape and net are weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weighing {
    /// Log-odds of a full expression over none.
    pub slope: f32,
    /// Share of a full expression that is as likely as none.
    pub half: f32,
    /// Log-odds of a neutral face over all the rest, where the shape shows neither a smile nor surprise nor a frown.
    pub neutral: f32,
    /// Flattens the net's probabilities.
    pub temperature: f32,
    /// Probability that the net leaves to what it does not see: it alone cannot rule out what the shape shows.
    pub floor: f32,
}

impl Default for Weighing {
    fn default() -> Self {
        Self { slope: 6.0, half: 0.45, neutral: 1.9, temperature: 2.0, floor: 0.05 }
    }
}

impl Measures {
    fn each(&self, other: &Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self {
            mouth_open: f(self.mouth_open, other.mouth_open),
            mouth_width: f(self.mouth_width, other.mouth_width),
            corner_lift: f(self.corner_lift, other.corner_lift),
            brow_raise: f(self.brow_raise, other.brow_raise),
            brow_gap: f(self.brow_gap, other.brow_gap),
            eye_open: f(self.eye_open, other.eye_open),
        }
    }

    /// As seen beside the person's own usual face: high brows or a wide mouth are no expression in who always has them. No more is
    /// taken off than people at rest differ, so that who smiles all along still smiles.
    pub fn beside(&self, usual: &Self) -> Self {
        let own = usual.each(&REST, |u, r| u - r).each(&SPREAD, |d, s| d.clamp(-s, s));
        self.each(&own, |m, o| m - o)
    }

    /// Probabilities of smile, surprise, neutral and the rest from the shape alone. Each measure counts up to a full expression and
    /// no further, so that a mouth alone, however wide open, is no surprise.
    fn shape(&self, by: &Weighing) -> [f32; 4] {
        let step = self.each(&REST, |m, r| m - r).each(&FULL, |d, full| (d / full).clamp(-1.0, 1.0));
        let smile = (step.corner_lift + step.mouth_width) / 2.0;
        let surprise = (step.mouth_open + step.brow_raise + 0.5 * step.eye_open) / 2.5;
        let frown = -(step.brow_raise + step.eye_open) / 2.0;
        softmax([by.slope * (smile - by.half), by.slope * (surprise - by.half), 0.0, frown - by.neutral])
    }
}

fn softmax<const N: usize>(logits: [f32; N]) -> [f32; N] {
    let top = logits.iter().fold(f32::MIN, |a, &b| a.max(b));
    normal(logits.map(|v| (v - top).exp()))
}

fn normal<const N: usize>(p: [f32; N]) -> [f32; N] {
    let sum: f32 = p.iter().sum();
    if sum > 0.0 { p.map(|v| v / sum) } else { [1.0 / N as f32; N] }
}

/// What a face expresses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// Probabilities in the order of [`EXPRESSIONS`].
    pub expression: [f32; 7],
    /// No expression is probable enough to be told.
    pub unsure: bool,
}

/// In the order of [`EXPRESSIONS`]: which of smile, surprise, neutral and the rest it belongs to.
const GROUP: [usize; EXPRESSIONS.len()] = [3, 3, 3, 0, 3, 1, 2];

/// Judges by the shape, the net's probabilities (in the order of [`EXPRESSIONS`]), or both. `None` with neither, or what is not
/// finite. The rest is shared out as the net has it.
pub fn judge(shape: Option<&Measures>, net: Option<&[f32; 7]>) -> Option<Judgement> {
    Weighing::default().judge(shape, net)
}

impl Weighing {
    /// As [`judge`], by this weighing.
    pub fn judge(&self, shape: Option<&Measures>, net: Option<&[f32; 7]>) -> Option<Judgement> {
        let net = net.filter(|n| n.iter().all(|v| v.is_finite() && *v >= 0.0));
        let groups = shape.map(|m| m.shape(self)).filter(|p| p.iter().all(|v| v.is_finite()));
        let together = |n: &[f32; 7], floor: f32| {
            let mut p = [0.0; 4];
            n.iter().zip(GROUP).for_each(|(v, g)| p[g] += v);
            normal(p.map(|v| v + floor))
        };
        let p = match (groups, net) {
            (Some(shape), Some(net)) => {
                let net = together(&normal(net.map(|p| p.powf(1.0 / self.temperature))), self.floor);
                normal([0, 1, 2, 3].map(|i| shape[i] * net[i]))
            }
            (Some(shape), None) => shape,
            (None, net) => together(net?, 0.0),
        };
        let within = net.copied().unwrap_or([1.0; 7]);
        let rest: f32 = within.iter().zip(GROUP).filter(|(_, g)| *g == 3).map(|(v, _)| v).sum::<f32>().max(1e-9);
        let expression = std::array::from_fn(|i| if GROUP[i] == 3 { p[3] * within[i] / rest } else { p[GROUP[i]] });
        Some(Judgement { expression: normal(expression), unsure: p.iter().all(|v| *v < SURE) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HAPPY: usize = 3;
    const SURPRISE: usize = 5;
    const NEUTRAL: usize = 6;

    fn told(shape: Measures, net: Option<[f32; 7]>) -> Option<usize> {
        let j = judge(Some(&shape), net.as_ref()).expect("a judgement");
        assert!((j.expression.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        let best = (0..7).max_by(|&a, &b| j.expression[a].total_cmp(&j.expression[b]));
        best.filter(|_| !j.unsure)
    }

    fn sure_of(i: usize) -> Option<[f32; 7]> {
        Some(std::array::from_fn(|k| if k == i { 0.94 } else { 0.01 }))
    }

    /// The smile and the straight face have the measures of the reference pictures.
    #[test]
    fn smile_surprise_and_neutral_are_told_apart() {
        let smile = Measures {
            mouth_open: 0.12,
            mouth_width: 0.717,
            corner_lift: -0.149,
            brow_raise: 0.322,
            brow_gap: 0.288,
            eye_open: 0.366,
        };
        let straight = Measures {
            mouth_open: 0.012,
            mouth_width: 0.566,
            corner_lift: -0.206,
            brow_raise: 0.295,
            brow_gap: 0.303,
            eye_open: 0.285,
        };
        let surprised = Measures { mouth_open: 0.42, brow_raise: 0.4, eye_open: 0.42, ..straight };
        for (shape, is) in [(smile, HAPPY), (straight, NEUTRAL), (surprised, SURPRISE)] {
            assert_eq!(told(shape, None), Some(is));
            assert_eq!(told(shape, sure_of(is)), Some(is));
        }
        for mouth_open in [0.2, 0.5] {
            let talking = Measures { mouth_open, ..straight };
            assert_ne!(told(talking, None), Some(SURPRISE), "an open mouth alone is no surprise");
        }
        // an open mouth takes the corners down
        let gaping = Measures { mouth_open: 0.4, corner_lift: -0.28, ..straight };
        assert_ne!(told(gaping, None), Some(HAPPY));
    }

    #[test]
    fn what_disagrees_or_is_weak_is_unsure() {
        let straight = REST;
        assert_eq!(told(straight, Some([1.0 / 7.0; 7])), Some(NEUTRAL));
        let between = Measures { corner_lift: -0.205, mouth_width: 0.635, ..REST };
        assert_eq!(told(between, sure_of(0)), None, "a half smile that the net takes for anger");
        let j = judge(None, Some(&[0.3, 0.0, 0.0, 0.35, 0.0, 0.0, 0.35])).expect("a judgement");
        assert!(j.unsure, "{j:?}");
        assert_eq!(judge(None, None), None);
        assert_eq!(judge(None, Some(&[f32::NAN; 7])), None);
    }

    #[test]
    fn the_own_face_is_the_measure_within_limits() {
        let high = Measures { brow_raise: 0.34, ..REST };
        assert!((high.beside(&high).brow_raise - REST.brow_raise).abs() < 1e-6, "high brows by nature");
        let smile = Measures { corner_lift: -0.145, mouth_width: 0.75, ..REST };
        assert_eq!(told(smile.beside(&smile), None), Some(HAPPY), "a smile from beginning to end");
    }
}
