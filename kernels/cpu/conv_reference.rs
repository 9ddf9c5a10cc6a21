//! f64 twins of the convolution kernels, and the tests that compare the two on odd shapes at every instruction set.

use super::block::Block;
use super::conv::{Act, Finish, Padding, Residual, Tail, Width, Window};
use super::dense::Conv;
use super::depthwise::Depthwise;
use super::narrow;
use super::pooling::{Pooling, Reduce};
use super::resize::{Centres, Resize};
use crate::Pool;
use proptest::prelude::*;

/// The input pixel under a tap, where there is one.
fn under(w: &Window, o: [usize; 2], tap: [usize; 2]) -> Option<usize> {
    let at = |d: usize| (o[d] * w.stride[d] + tap[d] * w.dilation[d]).checked_sub(w.pad[d]).filter(|&i| i < w.input[d]);
    Some(at(0)? * w.input[1] + at(1)?)
}

/// All (output pixel, tap, input pixel) that lie in the picture.
fn pairs(w: &Window) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
    let [rows, cols, _] = w.output;
    (0..rows * cols).flat_map(move |o| {
        (0..w.taps()).filter_map(move |t| under(w, [o / cols, o % cols], [t / w.kernel[1], t % w.kernel[1]]).map(|i| (o, t, i)))
    })
}

pub(crate) fn conv(w: &Window, x: &[f32], weights: &[f32], bias: &[f32]) -> Vec<f64> {
    let (n, c) = (w.output[2], w.input[2]);
    let mut out: Vec<f64> = (0..w.output_len()).map(|i| bias.get(i % n).map_or(0.0, |&b| f64::from(b))).collect();
    for (o, t, i) in pairs(w) {
        for j in 0..n {
            let row = &weights[(j * w.taps() + t) * c..][..c];
            out[o * n + j] += row.iter().zip(&x[i * c..]).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        }
    }
    out
}

pub(crate) fn depthwise(w: &Window, x: &[f32], weights: &[f32], bias: &[f32]) -> Vec<f64> {
    let c = w.input[2];
    let mut out: Vec<f64> = (0..w.output_len()).map(|i| bias.get(i % c).map_or(0.0, |&b| f64::from(b))).collect();
    for (o, t, i) in pairs(w) {
        for j in 0..c {
            out[o * c + j] += f64::from(x[i * c + j]) * f64::from(weights[t * c + j]);
        }
    }
    out
}

pub(crate) fn pooling(w: &Window, x: &[f32], reduce: Reduce) -> Vec<f64> {
    let c = w.input[2];
    let mut out = vec![(if reduce == Reduce::Max { f64::NEG_INFINITY } else { 0.0 }, 0.0); w.output_len()];
    for (o, _, i) in pairs(w) {
        for j in 0..c {
            let (v, n) = &mut out[o * c + j];
            let x = f64::from(x[i * c + j]);
            *v = if reduce == Reduce::Max { v.max(x) } else { *v + x };
            *n += 1.0;
        }
    }
    out.into_iter().map(|(v, n)| if reduce == Reduce::Max { v } else { v / n }).collect()
}

pub(crate) fn resize(input: [usize; 3], size: [usize; 2], centres: Centres, x: &[f32]) -> Vec<f64> {
    let [h, w, c] = input;
    let at = |o: usize, from: usize, to: usize| {
        let scale = match centres {
            Centres::Aligned if to > 1 => (from - 1) as f64 / (to - 1) as f64,
            _ => from as f64 / to as f64,
        };
        let at = if centres == Centres::Half { (o as f64 + 0.5) * scale - 0.5 } else { o as f64 * scale };
        at.clamp(0.0, (from - 1) as f64)
    };
    let mut out = Vec::new();
    for i in 0..size[0] * size[1] * c {
        let (y, xx) = (at(i / c / size[1], h, size[0]), at(i / c % size[1], w, size[1]));
        let pixel = |y: f64, x_: f64| f64::from(x[((y as usize).min(h - 1) * w + (x_ as usize).min(w - 1)) * c + i % c]);
        let (fy, fx) = (y.fract(), xx.fract());
        let line = |y: f64| pixel(y, xx.floor()) * (1.0 - fx) + pixel(y, xx.floor() + 1.0) * fx;
        out.push(line(y.floor()) * (1.0 - fy) + line(y.floor() + 1.0) * fy);
    }
    out
}

fn act(act: &Act, v: f64, c: usize) -> f64 {
    match act {
        Act::None => v,
        Act::Clamp(lo, hi) => v.clamp(f64::from(*lo), f64::from(*hi)),
        Act::Prelu(slopes) => v.max(0.0) + v.min(0.0) * f64::from(slopes[c]),
    }
}

pub(crate) fn finish(finish: &Finish, residual: Option<Residual>, channels: usize, sums: &mut [f64]) {
    for (i, v) in sums.iter_mut().enumerate() {
        let (pixel, c) = (i / channels, i % channels);
        let extra = residual.filter(|r| c < r.channels).map_or(0.0, |r| f64::from(r.data[pixel * r.channels + c]));
        *v = act(&finish.after, act(&finish.before, *v, c) + extra, c);
    }
}

pub(crate) fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn close(seen: &[f32], wanted: &[f64], terms: usize, what: &str) {
    let allowed = 1e-6 * (terms as f64).max(4.0);
    assert_eq!(seen.len(), wanted.len(), "{what}");
    for (i, (&s, &w)) in seen.iter().zip(wanted).enumerate() {
        assert!((f64::from(s) - w).abs() <= allowed * w.abs().max(1.0), "{what}: element {i} is {s}, not {w}");
    }
}

/// A finish and a residual of each kind.
pub(crate) fn finishes(channels: usize) -> Vec<(Finish, Option<usize>)> {
    let prelu = Act::Prelu(noise(9, channels));
    let relu6 = Act::Clamp(0.0, 6.0);
    vec![
        (Finish::default(), None),
        (Finish { before: Act::None, after: relu6.clone() }, Some(channels)),
        (Finish { before: prelu.clone(), after: Act::None }, Some(channels.div_ceil(2))),
        (Finish { before: relu6, after: prelu }, Some(1)),
    ]
}

/// The same result from one and from three threads, and the one of the twin.
fn check(
    run: impl Fn(&Pool, Option<Residual>, &mut [f32]),
    w: &[usize; 3],
    sums: &[f64],
    f: &(Finish, Option<usize>),
    what: &str,
) {
    let [rows, cols, channels] = *w;
    let data = f.1.map(|c| (noise(5, rows * cols * c), c));
    let residual = data.as_ref().map(|(data, channels)| Residual { data, channels: *channels });
    let mut wanted = sums.to_vec();
    finish(&f.0, residual, channels, &mut wanted);
    let mut out = vec![f32::NAN; rows * cols * channels];
    run(&Pool::new(1), residual, &mut out);
    close(&out, &wanted, 500, what);
    let mut again = vec![f32::NAN; out.len()];
    run(&Pool::new(3), residual, &mut again);
    assert_eq!(out, again, "{what}: the result depends on the number of threads");
}

fn compare_conv(w: &Window, seed: u64) {
    let (x, weights) = (noise(seed, w.input_len()), noise(seed + 1, w.output[2] * w.taps() * w.input[2]));
    let bias = noise(seed + 2, w.output[2]);
    let sums = conv(w, &x, &weights, &bias);
    for width in Width::available() {
        for f in finishes(w.output[2]) {
            let layer = Conv::packed(w.clone(), &weights, &bias, f.0.clone(), width).expect("fits");
            check(|p, r, out| layer.run(p, &x, r, out), &w.output, &sums, &f, &format!("{w:?} {width:?} {f:?}"));
        }
    }
}

/// One or two channels, as [`Conv::new`] runs them, at every width.
fn compare_narrow(w: &Window, seed: u64) {
    let (x, weights) = (noise(seed, w.input_len()), noise(seed + 1, w.output[2] * w.taps() * w.input[2]));
    let bias = noise(seed + 2, w.output[2]);
    let sums = conv(w, &x, &weights, &bias);
    for width in Width::available() {
        for f in finishes(w.output[2]) {
            let padded = f.0.clone().padded(w.output[2]);
            let run = |p: &Pool, r: Option<Residual>, out: &mut [f32]| {
                let tail = &Tail::new(&padded, r, w.output[0] * w.output[1], w.output[2]);
                narrow::run(p, &narrow::Call { window: w, width, weights: &weights, bias: &bias, x: &x, tail }, out);
            };
            check(run, &w.output, &sums, &f, &format!("{w:?} {width:?} {f:?}"));
        }
    }
    let layer = Conv::new(w.clone(), &weights, &bias, Finish::default()).expect("fits");
    check(|p, r, out| layer.run(p, &x, r, out), &w.output, &sums, &(Finish::default(), None), &format!("{w:?}"));
}

fn compare_depthwise(w: &Window, seed: u64) {
    let (x, weights) = (noise(seed, w.input_len()), noise(seed + 1, w.taps() * w.input[2]));
    let bias = noise(seed + 2, w.output[2]);
    let sums = depthwise(w, &x, &weights, &bias);
    for width in Width::available() {
        for f in finishes(w.output[2]) {
            let layer = Depthwise::at_width(w.clone(), &weights, &bias, f.0.clone(), width).expect("fits");
            check(|p, r, out| layer.run(p, &x, r, out), &w.output, &sums, &f, &format!("{w:?} {width:?} {f:?}"));
        }
    }
}

/// Input, kernel, stride, dilation, padding.
pub(crate) type Geometry = ([usize; 3], [usize; 2], [usize; 2], [usize; 2], Padding);

/// Geometries that networks use, and odd ones.
pub(crate) fn geometries() -> Vec<Geometry> {
    vec![
        ([7, 9, 3], [3, 3], [2, 2], [1, 1], Padding::Same),
        ([8, 20, 3], [5, 5], [2, 2], [1, 1], Padding::Same),
        ([5, 33, 17], [3, 3], [1, 1], [1, 1], Padding::Same),
        ([6, 6, 40], [1, 1], [1, 1], [1, 1], Padding::Valid),
        ([9, 5, 8], [1, 1], [2, 2], [1, 1], Padding::Same),
        ([11, 13, 5], [3, 2], [1, 3], [2, 2], Padding::Explicit([[3, 0], [1, 4]])),
        ([2, 2, 24], [5, 5], [2, 2], [1, 1], Padding::Same),
        ([1, 1, 70], [1, 1], [1, 1], [1, 1], Padding::Valid),
        ([3, 3, 32], [3, 3], [1, 1], [1, 1], Padding::Valid),
        ([20, 24, 1], [3, 3], [1, 1], [3, 3], Padding::Same),
    ]
}

#[test]
fn dense_convolutions_equal_their_twin() {
    for (i, (input, kernel, stride, dilation, padding)) in geometries().into_iter().enumerate() {
        for n in [1, 2, 8, 17, 40, 100] {
            let w = Window::new(input, n, kernel, stride, dilation, padding).expect("valid");
            compare_conv(&w, i as u64 * 7 + n as u64);
            if n <= 2 {
                compare_narrow(&w, i as u64);
            }
        }
    }
}

#[test]
fn depthwise_convolutions_equal_their_twin() {
    for (i, (input, kernel, stride, dilation, padding)) in geometries().into_iter().enumerate() {
        compare_depthwise(&Window::new(input, input[2], kernel, stride, dilation, padding).expect("valid"), i as u64);
    }
}

#[test]
fn a_block_equals_its_layers_bit_for_bit() {
    let (one, same) = ([1, 1], Padding::Same);
    for (i, (input, c, n, kernel, stride, dilation)) in [
        ([33, 20, 5], 24, 17, [3, 3], one, one),
        ([64, 9, 16], 40, 24, [5, 5], [2, 2], one),
        ([17, 3, 8], 8, 8, [3, 3], one, one),
        ([12, 2, 6], 33, 100, [5, 3], one, [1, 2]),
        ([40, 5, 3], 16, 3, [3, 3], [3, 1], [2, 1]),
        ([1, 1, 4], 7, 5, [5, 5], [2, 2], one),
    ]
    .into_iter()
    .enumerate()
    {
        let window = |input, n, kernel, stride, dilation| Window::new(input, n, kernel, stride, dilation, same).expect("valid");
        let e = window(input, c, one, one, one);
        let d = window(e.output, c, kernel, stride, dilation);
        let p = window(d.output, n, one, one, one);
        let (x, extra) = (noise(i as u64, e.input_len()), noise(8, p.output_len()));
        let weights = [noise(1, c * input[2]), noise(2, c * d.taps()), noise(3, n * c)];
        let act = |n: usize| Finish { before: Act::Prelu(noise(4, n)), after: Act::Clamp(-1.0, 6.0) };
        for width in Width::available() {
            let expand = || Conv::packed(e.clone(), &weights[0], &noise(5, c), act(c), width).expect("fits");
            let depthwise = || Depthwise::at_width(d.clone(), &weights[1], &noise(6, c), act(c), width).expect("fits");
            let project = || Conv::packed(p.clone(), &weights[2], &noise(7, n), act(n), width).expect("fits");
            let residual = Some(Residual { data: &extra, channels: n });
            let (mut a, mut b) = (vec![0.0; e.output_len()], vec![0.0; d.output_len()]);
            let mut wanted = vec![0.0; p.output_len()];
            let pool = Pool::new(1);
            expand().run(&pool, &x, None, &mut a);
            depthwise().run(&pool, &a, None, &mut b);
            project().run(&pool, &b, residual, &mut wanted);
            for threads in [1, 3] {
                let (pool, mut out) = (Pool::new(threads), vec![f32::NAN; p.output_len()]);
                Block::new(Some(expand()), depthwise(), project()).expect("fits").run(&pool, &x, residual, &mut out);
                assert_eq!(out, wanted, "{d:?} {width:?}, {threads} threads, all three");
                out.fill(f32::NAN);
                Block::new(None, depthwise(), project()).expect("fits").run(&pool, &a, residual, &mut out);
                assert_eq!(out, wanted, "{d:?} {width:?}, {threads} threads, the last two");
            }
        }
        let project = Conv::new(p.clone(), &weights[2], &[], Finish::default()).expect("fits");
        let other = Window { input: [p.input[0] + 1, p.input[1], c], output: [p.input[0] + 1, p.input[1], c], ..p };
        let depthwise = Depthwise::new(other, &weights[1][..c], &[], Finish::default()).expect("fits");
        assert!(Block::new(None, depthwise, project).is_err(), "layers that do not follow each other");
    }
}

#[test]
fn large_pictures_are_cut_into_tasks() {
    compare_conv(&Window::new([41, 40, 16], 48, [3, 3], [1, 1], [1, 1], Padding::Same).expect("valid"), 1);
    compare_conv(&Window::new([7, 7, 320], 200, [1, 1], [1, 1], [1, 1], Padding::Same).expect("valid"), 2);
    compare_depthwise(&Window::new([61, 60, 48], 48, [5, 5], [1, 1], [1, 1], Padding::Same).expect("valid"), 3);
}

#[test]
fn pooling_equals_its_twin() {
    for (i, (input, kernel, stride, dilation, padding)) in geometries().into_iter().enumerate() {
        let w = Window::new(input, input[2], kernel, stride, dilation, padding).expect("valid");
        for (reduce, width) in
            [Reduce::Max, Reduce::Mean].into_iter().flat_map(|r| Width::available().into_iter().map(move |w| (r, w)))
        {
            let Ok(mut layer) = Pooling::new(w.clone(), reduce, Act::None) else {
                assert!(matches!(padding, Padding::Explicit(_)), "{w:?}");
                continue;
            };
            layer.width = width;
            let x = noise(i as u64, w.input_len());
            let sums = pooling(&w, &x, reduce);
            check(
                |p, _, out| layer.run(p, &x, out),
                &w.output,
                &sums,
                &(Finish::default(), None),
                &format!("{w:?} {reduce:?}"),
            );
        }
    }
}

#[test]
fn resizing_equals_its_twin() {
    for (input, size) in
        [([4, 4, 8], [8, 8]), ([7, 5, 19], [14, 11]), ([9, 8, 3], [4, 3]), ([1, 1, 33], [3, 2]), ([3, 4, 16], [1, 1])]
    {
        for centres in [Centres::Corner, Centres::Aligned, Centres::Half] {
            let x = noise(3, input.iter().product());
            let sums = resize(input, size, centres, &x);
            for (f, width) in
                finishes(input[2]).into_iter().flat_map(|f| Width::available().into_iter().map(move |w| (f.clone(), w)))
            {
                let mut layer = Resize::new(input, size, centres, f.0.clone()).expect("valid");
                layer.width = width;
                let what = format!("{input:?} {size:?} {centres:?} {f:?}");
                check(|p, r, out| layer.run(p, &x, r, out), &layer.output(), &sums, &f, &what);
            }
        }
    }
}

#[test]
fn windows_follow_tensorflow() {
    let same = |n: usize, k: usize, s: usize| {
        Window::new([n, n, 1], 1, [k, k], [s, s], [1, 1], Padding::Same).map(|w| (w.output[0], w.pad[0]))
    };
    assert_eq!(same(256, 3, 2), Ok((128, 0)), "the odd pixel of padding goes to the end");
    assert_eq!(same(257, 3, 2), Ok((129, 1)));
    assert_eq!(same(128, 5, 2), Ok((64, 1)));
    assert_eq!(same(4, 5, 1), Ok((4, 2)));
    assert!(Window::new([4, 4, 1], 1, [5, 5], [1, 1], [1, 1], Padding::Valid).is_err());
    assert!(Window::new([4, 0, 1], 1, [1, 1], [1, 1], [1, 1], Padding::Valid).is_err());
    assert!(Window::new([4, 4, 1], 1, [1, 1], [1, 1], [1, 1], Padding::Explicit([[usize::MAX, 1], [0, 0]])).is_err());
    let w = Window::new([4, 4, 2], 3, [1, 1], [1, 1], [1, 1], Padding::Valid).expect("valid");
    assert!(Conv::new(w.clone(), &[0.0; 5], &[], Finish::default()).is_err());
    assert!(Depthwise::new(w, &[0.0; 6], &[], Finish::default()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_geometry_equals_its_twin(
        input in [1usize..14, 1usize..14, 1usize..37], n in 1usize..70, kernel in [1usize..5, 1usize..5],
        stride in [1usize..4, 1usize..4], dilation in [1usize..3, 1usize..3],
        pads in [[0usize..4, 0usize..4], [0usize..4, 0usize..4]], same: bool, seed in 0u64..1000,
    ) {
        let padding = if same { Padding::Same } else { Padding::Explicit(pads) };
        if let Ok(w) = Window::new(input, n, kernel, stride, dilation, padding) {
            compare_conv(&w, seed);
            compare_narrow(&Window { output: [w.output[0], w.output[1], 1 + n % 2], ..w.clone() }, seed);
            compare_depthwise(&Window { output: [w.output[0], w.output[1], input[2]], ..w }, seed);
        }
    }
}
