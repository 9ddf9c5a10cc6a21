//! Bilinear resizing of NHWC pictures, in TensorFlow's three conventions.

use super::conv::{Finish, Residual, Shared, Tail, Width, WindowError, by_width, part, tasks};
use super::lanes::Lanes;
use crate::Pool;

/// Where the centres of pixels lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Centres {
    /// `src = dst * in / out` (TensorFlow 1's default).
    Corner,
    /// The corner pixels coincide: `src = dst * (in - 1) / (out - 1)`.
    Aligned,
    /// `src = (dst + 0.5) * in / out - 0.5`
    Half,
}

impl Centres {
    /// The two source positions and the weight of the second, for output position `o`.
    pub fn sample(self, o: usize, input: usize, output: usize) -> (usize, usize, f32) {
        let scale = match self {
            Self::Aligned if output > 1 => (input - 1) as f32 / (output - 1) as f32,
            _ => input as f32 / output as f32,
        };
        let at = if self == Self::Half { (o as f32 + 0.5) * scale - 0.5 } else { o as f32 * scale };
        let floor = at.floor();
        let last = input - 1;
        ((floor.max(0.0) as usize).min(last), ((floor + 1.0).max(0.0) as usize).min(last), at - floor)
    }
}

/// A resizing layer with its positions worked out.
pub struct Resize {
    input: [usize; 3],
    output: [usize; 3],
    rows: Vec<(usize, usize, f32)>, // (output h)
    cols: Vec<(usize, usize, f32)>, // (output w)
    finish: Finish,
    pub(crate) width: Width,
}

impl Resize {
    /// From (h, w, c) to (h, w) of `size`. A dimension is 1 to 2^24.
    pub fn new(input: [usize; 3], size: [usize; 2], centres: Centres, finish: Finish) -> Result<Self, WindowError> {
        if let Some(bad) = input.iter().chain(&size).find(|&&v| v == 0 || v > 1 << 24) {
            return Err(WindowError(format!(
                "a resize from {input:?} to {size:?}: each value must lie in 1..=2^24, not {bad}"
            )));
        }
        let table = |d: usize| (0..size[d]).map(|o| centres.sample(o, input[d], size[d])).collect();
        let (rows, cols) = (table(0), table(1));
        let output = [size[0], size[1], input[2]];
        Ok(Self { input, output, rows, cols, finish: finish.padded(input[2]), width: Width::of(input[2]) })
    }

    /// (h, w, c)
    pub fn output(&self) -> [usize; 3] {
        self.output
    }

    /// `out` (h, w, c) from `x` (h, w, c).
    ///
    /// # Panics
    /// When the lengths do not fit the layer.
    pub fn run(&self, pool: &Pool, x: &[f32], residual: Option<Residual>, out: &mut [f32]) {
        let len = |d: [usize; 3]| d.iter().product::<usize>();
        assert!(x.len() == len(self.input) && out.len() == len(self.output), "picture of another shape");
        let [rows, cols, c] = self.output;
        let tail = &Tail::new(&self.finish, residual, rows * cols, c);
        let out = Shared(out.as_mut_ptr());
        let count = tasks(pool.threads(), rows, len(self.output) * 16);
        pool.for_each(count, |i| {
            let out = &out;
            let call = &Call { layer: self, x, tail, out: out.0 };
            for y in part(rows, i, count) {
                by_width!(self.width, row::<L>(call: &Call, y: usize));
            }
        });
    }
}

struct Call<'a> {
    layer: &'a Resize,
    x: &'a [f32],
    tail: &'a Tail<'a>,
    out: *mut f32,
}

/// One output row.
///
/// # Safety
/// The instruction set of `L` is there; no other task writes row `y`.
#[inline(always)]
unsafe fn row<L: Lanes>(call: &Call, y: usize) {
    let [_, width, channels] = call.layer.input;
    let (y0, y1, fy) = call.layer.rows[y];
    for (x, &(x0, x1, fx)) in call.layer.cols.iter().enumerate() {
        // SAFETY: the tables hold positions inside the picture; lanes beyond the channels are neither read nor written.
        unsafe {
            let at = |y: usize, x: usize| call.x.as_ptr().add((y * width + x) * channels);
            let corners = [at(y0, x0), at(y0, x1), at(y1, x0), at(y1, x1)];
            let weights = [(1.0 - fy) * (1.0 - fx), (1.0 - fy) * fx, fy * (1.0 - fx), fy * fx].map(|w| L::splat(w));
            for c in (0..channels).step_by(L::N) {
                let load =
                    |p: *const f32| if c + L::N <= channels { L::load(p.add(c)) } else { L::load_n(p.add(c), channels - c) };
                let mut v = load(corners[0]).mul(weights[0]);
                for i in 1..4 {
                    v = v.fma(load(corners[i]), weights[i]);
                }
                call.tail.store([v], call.out, y * call.layer.output[1] + x, c);
            }
        }
    }
}
