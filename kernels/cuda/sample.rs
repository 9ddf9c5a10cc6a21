//! The choice of the next token on the device.

use std::ptr::from_mut;

use super::buffer::Buffer;
use super::device::{Device, Error};
use super::gemv::holds;
use super::store::Rows;
use crate::random;

type Result<T> = std::result::Result<T, Error>;

/// Threads of a block.
const THREADS: usize = 512;

/// How the next token of a row is chosen. The default takes the best.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choice {
    /// The state of the random numbers before the draw ([`random::uniform`]).
    pub random: u64,
    /// Divides the logits; 0: the best token.
    pub temperature: f32,
    /// Only the best that together have this probability; 1: all.
    pub top_p: f32,
    /// Only those whose logit is at most so far below the best one's (negative); -infinity: all.
    pub ln_min_p: f32,
    /// Only the best so many; 0: all.
    pub top_k: i32,
}

impl Choice {
    /// How the token after the next one is chosen: a draw takes one random number.
    pub fn after(self) -> Self {
        let drawn = if self.temperature > 0.0 { random::STEP } else { 0 };
        Self { random: self.random.wrapping_add(drawn), ..self }
    }
}

/// What was chosen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Chosen {
    /// The token; negative where no logit is a finite number.
    pub token: i32,
    /// Its natural log-probability among all, before any cut and at temperature 1.
    pub logprob: f32,
}

/// Chooses a token for each of `rows` rows of `n` logits: top-k, top-p and min-p, temperature, draw; of equal logits the first is the
/// better one. The cuts are found without a sort, so that a launch is the same for every choice.
///
/// With `on`, whose first rows are these, those that are not empty become the rows that go on from them: their tokens are what was chosen,
/// their positions and turns the next ones, and so are `choices` ([`Choice::after`]).
///
/// # Errors
/// [`super::Error::Shape`] for buffers that are too short, [`super::Error::Driver`], [`super::Error::Lost`].
pub fn choose(
    device: &Device,
    rows: usize,
    (logits, n): (&Buffer<f32>, usize),
    (choices, chosen): (&mut Buffer<Choice>, &mut Buffer<Chosen>),
    on: Option<&mut Rows>,
) -> Result<()> {
    holds("logits", logits, rows * n)?;
    holds("choices", choices, rows)?;
    holds("what is chosen", chosen, rows)?;
    let (mut x, mut n, mut choices, mut out) = (logits.pointer(), n as i32, choices.pointer(), chosen.pointer());
    let (mut inputs, mut most) = match on {
        Some(on) => {
            on.check(rows)?;
            (on.inputs.pointer(), on.most() as i32)
        }
        None => (0, 0),
    };
    let mut args = [
        from_mut(&mut x).cast(),
        from_mut(&mut n).cast(),
        from_mut(&mut choices).cast(),
        from_mut(&mut out).cast(),
        from_mut(&mut inputs).cast(),
        from_mut(&mut most).cast(),
    ];
    // SAFETY: the arguments are the kernel's, and the buffers were measured.
    unsafe { device.launch("choose", [rows, 1, 1], THREADS, 0, &mut args) }
}
