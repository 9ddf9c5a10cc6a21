//! What a face expresses: the shape of the mesh and the expression net, weighed together, with the right to say "unsure".
//!
//! The net alone is sure of itself and often wrong (it was trained on small pictures of posed faces), and the shape alone knows
//! little of anger or fear. Both give probabilities for smile, surprise, neutral and the rest; these are multiplied (a product of
//! experts, Hinton 2002), the net's flattened by a temperature (Guo et al. 2017). Where they disagree nothing stands out, and
//! below a least probability the answer is "unsure": Chow's rule (1970), which for a cost of 1 for an error and c for a rejection
//! rejects below 1 - c.
//!
//! The scales of the measures are set by hand from published proportions and two pictures (a smile, a straight face), not fitted to
//! a labelled set: none is at hand. The probabilities are therefore ranks to compare rather than frequencies.

use super::EXPRESSIONS;

/// Lengths over the distance of the outer corners of the eyes, the face turned to the front.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measures {
    /// Gap between the lips.
    pub mouth_open: f32,
    /// Corner to corner.
    pub mouth_width: f32,
    /// How far the corners of the mouth lie above the middle of the lips.
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
    Measures { mouth_open: 0.02, mouth_width: 0.6, corner_lift: -0.01, brow_raise: 0.3, brow_gap: 0.29, eye_open: 0.32 };
/// How far people at rest differ from that.
const SPREAD: Measures =
    Measures { mouth_open: 0.02, mouth_width: 0.04, corner_lift: 0.02, brow_raise: 0.04, brow_gap: 0.03, eye_open: 0.06 };

/// Least probability of an answer: an error costs 1, an "unsure" 0.4.
const SURE: f32 = 0.6;

/// How shape and net are weighed. The default is fitted (tests/faces).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weighing {
    /// Multiplies the shape's sums before their softmax.
    pub slope: f32,
    /// Added to the shape's sum for a smile.
    pub smile: f32,
    /// Added to the shape's sum for surprise.
    pub surprise: f32,
    /// Flattens the net's probabilities.
    pub temperature: f32,
    /// Probability that the net leaves to what it does not see: it alone cannot rule out what the shape shows.
    pub floor: f32,
}

impl Default for Weighing {
    fn default() -> Self {
        Self { slope: 1.0, smile: 0.0, surprise: 0.0, temperature: 2.0, floor: 0.05 }
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

    /// Probabilities of smile, surprise, neutral and the rest from the shape alone: a softmax over sums of steps.
    fn shape(&self, by: &Weighing) -> [f32; 4] {
        let m = self;
        let lift = (m.corner_lift - 0.025) / 0.03;
        let smile = 2.0 * lift + (m.mouth_width - 0.65) / 0.05;
        let brows = (m.brow_raise - 0.36) / 0.04;
        let surprise = 1.5 * ((m.mouth_open - 0.25) / 0.1).min(2.0) + 1.5 * brows + 0.5 * (m.eye_open - 0.38) / 0.08;
        let moved = ((m.mouth_open - 0.1) / 0.1).max(0.0) * 2.0;
        let neutral =
            2.5 - moved - (m.corner_lift - REST.corner_lift).abs() / 0.03 - (m.brow_raise - REST.brow_raise).abs() / 0.04;
        let rest = ((0.27 - m.brow_gap) / 0.02).clamp(0.0, 2.0) - 1.0;
        let [smile, surprise, neutral, rest] = [smile, surprise, neutral, rest].map(|v| v.clamp(-4.0, 4.0) * by.slope);
        softmax([smile + by.smile, surprise + by.surprise, neutral, rest])
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
            mouth_width: 0.71,
            corner_lift: 0.074,
            brow_raise: 0.3,
            brow_gap: 0.29,
            eye_open: 0.37,
        };
        let straight = Measures {
            mouth_open: 0.013,
            mouth_width: 0.59,
            corner_lift: -0.014,
            brow_raise: 0.298,
            brow_gap: 0.287,
            eye_open: 0.3,
        };
        let surprised = Measures { mouth_open: 0.42, brow_raise: 0.4, eye_open: 0.42, ..straight };
        for (shape, is) in [(smile, HAPPY), (straight, NEUTRAL), (surprised, SURPRISE)] {
            assert_eq!(told(shape, None), Some(is));
            assert_eq!(told(shape, sure_of(is)), Some(is));
        }
        let talking = Measures { mouth_open: 0.2, ..straight };
        assert_ne!(told(talking, None), Some(SURPRISE), "an open mouth alone is no surprise");
    }

    #[test]
    fn what_disagrees_or_is_weak_is_unsure() {
        let straight = REST;
        assert_eq!(told(straight, Some([1.0 / 7.0; 7])), Some(NEUTRAL));
        let between = Measures { corner_lift: 0.02, mouth_width: 0.64, ..REST };
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
        let smile = Measures { corner_lift: 0.09, mouth_width: 0.75, ..REST };
        assert_eq!(told(smile.beside(&smile), None), Some(HAPPY), "a smile from beginning to end");
    }
}
