//! Copies that change where elements lie: padding, concatenation, slices, transposition, depth to space.

/// Most dimensions of a tensor.
pub const RANK: usize = 6;

/// A walk over a tensor of up to [`RANK`] dimensions: element `(i0, i1, ..)` of the output is `source[base + sum(i_d * step_d)]`.
/// Slices, transpositions and depth-to-space are such walks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Sizes of the output; unused leading dimensions are 1.
    pub shape: [usize; RANK],
    /// How far the source moves when an index grows by one (may be negative).
    pub step: [isize; RANK],
    /// The element at index zero.
    pub base: usize,
}

impl Walk {
    /// Whether every element it touches lies in a source of `len` elements.
    pub fn fits(&self, len: usize) -> bool {
        let (mut lo, mut hi) = (self.base as i128, self.base as i128);
        for (&n, &step) in self.shape.iter().zip(&self.step) {
            let reach = step as i128 * (n as i128 - 1);
            if n == 0 {
                return true;
            }
            (lo, hi) = (lo + reach.min(0), hi + reach.max(0));
        }
        lo >= 0 && hi < len as i128
    }

    /// Copies the elements to `out`, row-major.
    ///
    /// # Panics
    /// When the walk leaves `x` ([`Walk::fits`]) or `out` has another length.
    pub fn run(&self, x: &[f32], out: &mut [f32]) {
        let [a, b, c, d, e, f] = self.shape;
        assert!(out.len() == self.shape.iter().product::<usize>(), "walk of another length");
        let at = |i: usize, n: usize| i as isize * self.step[n];
        let mut rows = out.chunks_exact_mut(f.max(1));
        for i in 0..a * b * c * d * e {
            let (i, ie) = (i / e, i % e);
            let (i, id) = (i / d, i % d);
            let (i, ic) = (i / c, i % c);
            let (ia, ib) = (i / b, i % b);
            let from = self.base as isize + at(ia, 0) + at(ib, 1) + at(ic, 2) + at(id, 3) + at(ie, 4);
            let Some(row) = rows.next() else { return };
            if self.step[5] == 1 {
                row.copy_from_slice(&x[from as usize..from as usize + f]);
            } else {
                for (j, o) in row.iter_mut().enumerate() {
                    *o = x[(from + at(j, 5)) as usize];
                }
            }
        }
    }
}

/// Copies `x`, seen as (outer, len), to columns `from..from + len` of `out`, seen as (outer, total): concatenation, one operand.
pub fn concat(x: &[f32], len: usize, out: &mut [f32], total: usize, from: usize) {
    for (x, out) in x.chunks_exact(len).zip(out.chunks_exact_mut(total)) {
        out[from..from + len].copy_from_slice(x);
    }
}

/// Zeros around a picture: `x` (a, b, c, d) lies in `out` (of shape `to`) at offset `before`; everything else becomes `value`.
pub fn pad(x: &[f32], from: [usize; 4], out: &mut [f32], to: [usize; 4], before: [usize; 4], value: f32) {
    out.fill(value);
    let [_, b, c, d] = from;
    if d == 0 {
        return;
    }
    for (i, row) in x.chunks_exact(d).enumerate() {
        let (i, ic) = (i / c, i % c);
        let (ia, ib) = (i / b, i % b);
        let at = (((ia + before[0]) * to[1] + ib + before[1]) * to[2] + ic + before[2]) * to[3] + before[3];
        out[at..at + d].copy_from_slice(row);
    }
}
