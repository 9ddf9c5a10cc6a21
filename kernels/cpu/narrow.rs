//! Dense convolution to one or two channels (score and mask heads): vectorised over the products of a pixel, since a vector of
//! output channels would be nearly empty.

use super::conv::{Shared, Tail, Width, Window, by_width, part, tasks};
use super::lanes::{Lanes, Plain};
use crate::Pool;

/// Products of a pixel from which this beats a panel of output channels.
const PRODUCTS: usize = 32;

/// Whether a convolution is better run here, and with which vectors.
pub(crate) fn width(w: &Window) -> Option<Width> {
    let run = if w.dilation[1] == 1 { w.kernel[1] * w.input[2] } else { w.input[2] };
    (w.output[2] <= 2 && w.taps() * w.input[2] >= PRODUCTS).then(|| if run % 16 == 0 { Width::of(run) } else { Width::of(8) })
}

/// What a run needs besides the output.
pub(crate) struct Call<'a> {
    pub(crate) window: &'a Window,
    pub(crate) width: Width,
    pub(crate) weights: &'a [f32], // (out, kernel h, kernel w, in)
    pub(crate) bias: &'a [f32],    // (out) or longer
    pub(crate) x: &'a [f32],
    pub(crate) tail: &'a Tail<'a>,
}

/// All rows of the output.
pub(crate) fn run(pool: &Pool, call: &Call, out: &mut [f32]) {
    let w = call.window;
    assert!(call.x.len() == w.input_len() && out.len() == w.output_len() && w.output[2] <= 2, "picture of another shape");
    assert!(call.weights.len() == w.output[2] * w.taps() * w.input[2], "weights of another shape");
    let (rows, out) = (w.output[0], Shared(out.as_mut_ptr()));
    let count = tasks(pool.threads(), rows, call.weights.len() * rows * w.output[1] * 2);
    pool.for_each(count, |i| {
        let out = &out;
        for y in part(rows, i, count) {
            let out = out.0;
            by_width!(call.width, row::<L>(call: &Call, y: usize, out: *mut f32));
        }
    });
}

/// One output row.
///
/// # Safety
/// The instruction set of `L` is there; no other task writes row `y` of `out`.
#[inline(always)]
unsafe fn row<L: Lanes>(call: &Call, y: usize, out: *mut f32) {
    let (inner, rows) = (call.window.interior(), call.window.inside(0, y));
    let mut x = 0;
    while x < call.window.output[1] {
        // Taps of a row inside the picture lie side by side, unless dilated.
        let left = if inner.contains(&x) { inner.end - x } else { 0 };
        // SAFETY: `rows` and `taps` name taps inside the picture, of all pixels of a tile; the row is this task's.
        unsafe {
            if left >= 8 {
                tile::<L, 8>(call, [y, x], &rows, 0..call.window.kernel[1], out);
                x += 8;
            } else {
                tile::<L, 1>(call, [y, x], &rows, call.window.inside(1, x), out);
                x += 1;
            }
        }
    }
}

/// `P` pixels from `(y, x)`: as many chains of sums, so that none waits for another.
///
/// # Safety
/// As [`row`]; `rows` and `taps` are taps inside the picture, of every pixel.
#[inline(always)]
unsafe fn tile<L: Lanes, const P: usize>(
    call: &Call,
    [y, x]: [usize; 2],
    rows: &std::ops::Range<usize>,
    taps: std::ops::Range<usize>,
    out: *mut f32,
) {
    let w = call.window;
    let (c, n) = (w.input[2], w.output[2]);
    let mut sums = [[0.0f32; 4]; P];
    for o in 0..n {
        // SAFETY: the caller's contract; weights have one row of `c` floats a tap.
        unsafe {
            let mut acc = [L::splat(0.0); P];
            for ky in rows.clone() {
                let iy = y * w.stride[0] + ky * w.dilation[0] - w.pad[0];
                let at = |kx: usize| (iy * w.input[1] + x * w.stride[1] + kx * w.dilation[1] - w.pad[1]) * c;
                let weight = |kx: usize| ((o * w.kernel[0] + ky) * w.kernel[1] + kx) * c;
                // Neighbouring taps are one long run.
                let joined = w.dilation[1] == 1 && !taps.is_empty();
                let (runs, len) = if joined { (1, taps.len() * c) } else { (taps.len(), c) };
                for kx in taps.start..taps.start + runs {
                    let (x, weights) = (call.x.as_ptr().add(at(kx)), call.weights.as_ptr().add(weight(kx)));
                    dots(&mut acc, x, w.stride[1] * c, weights, len);
                }
            }
            for (sums, acc) in sums.iter_mut().zip(acc) {
                let mut lanes = [0.0f32; 16];
                acc.store(lanes.as_mut_ptr());
                sums[o] = tree(&lanes) + call.bias[o];
            }
        }
    }
    // Of four lanes, which every processor has: wider ones would be stored under a mask, which is slow.
    // SAFETY: the row is this task's; lanes beyond the channels are not written.
    unsafe {
        let mut v = [Plain::splat(0.0); P];
        for p in 0..P {
            v[p] = Plain::load(sums[p].as_ptr());
        }
        call.tail.store(v, out, y * w.output[1] + x, 0);
    }
}

/// `acc[p] + a[p] * b`, lane by lane over `len` floats; the `a` lie `step` floats apart.
///
/// # Safety
/// The instruction set of `L` is there; `len` floats are readable at each `a` and at `b`.
#[inline(always)]
unsafe fn dots<L: Lanes, const P: usize>(acc: &mut [L; P], a: *const f32, step: usize, b: *const f32, len: usize) {
    let whole = len - len % L::N;
    // SAFETY: the caller's contract.
    unsafe {
        for i in (0..whole).step_by(L::N) {
            let b = L::load(b.add(i));
            for p in 0..P {
                acc[p] = acc[p].fma(L::load(a.add(p * step + i)), b);
            }
        }
        if whole < len {
            let b = L::load_n(b.add(whole), len - whole);
            for p in 0..P {
                acc[p] = acc[p].fma(L::load_n(a.add(p * step + whole), len - whole), b);
            }
        }
    }
}

/// The sum of all lanes, in halves.
#[inline(always)]
fn tree(v: &[f32; 16]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| v[i] + v[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}
