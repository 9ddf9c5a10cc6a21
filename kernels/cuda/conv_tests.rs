//! Layers of convolutional networks against the references of their CPU twins; see `tests.rs` for where they run.

use super::tests::{close, device, read};
use super::*;
use crate::cpu::conv::{Act, Finish, Padding, Residual, Window};
use crate::cpu::conv_reference as reference;
use crate::cpu::elementwise::{self, Binary, Broadcast, Fold, Unary};
use crate::cpu::movement::{self, Walk};
use crate::cpu::pooling::Reduce;
use crate::cpu::resize::Centres;

/// Runs a layer of up to three operands in one memory, with gaps of another value around them that must not be written.
fn run(
    device: &Device,
    values: [&[f32]; 3],
    residual: Option<usize>, // channels of the third operand
    len: usize,
    launch: impl FnOnce(&mut Operands) -> Result<(), Error>,
) -> Vec<f32> {
    const GAP: usize = 64;
    let mut host = vec![777.0; GAP];
    let mut span = |values: &[f32]| {
        let at = host.len();
        host.extend_from_slice(values);
        host.resize(host.len().next_multiple_of(4) + GAP, 777.0);
        Span { at, len: values.len() }
    };
    let [a, b, r] = values.map(&mut span);
    let out = span(&vec![f32::NAN; len]);
    let mut memory = device.upload(&host).unwrap();
    let residual = residual.map(|channels| (r, channels));
    launch(&mut Operands { memory: &mut memory, a, b: (b.len > 0).then_some(b), residual, out }).unwrap();
    let after = read(&memory, host.len());
    let outside = |i: &usize| !(out.at..out.at + len).contains(i);
    assert!((0..host.len()).filter(outside).all(|i| after[i].to_bits() == host[i].to_bits()), "written outside the result");
    after[out.at..out.at + len].to_vec()
}

/// One layer with a finish and a residual of the given kind, held against the sums of its reference.
fn check(
    device: &Device,
    what: &str,
    x: &[f32],
    ([rows, columns, channels], sums): ([usize; 3], &[f64]),
    (finish, extra): &(Finish, Option<usize>),
    launch: impl FnOnce(&mut Operands) -> Result<(), Error>,
) {
    let pixels = rows * columns;
    let data = extra.map_or_else(Vec::new, |c| reference::noise(5, pixels * c));
    let residual = extra.map(|channels| Residual { data: &data, channels });
    let mut wanted = sums.to_vec();
    reference::finish(finish, residual, channels, &mut wanted);
    let got = run(device, [x, &[], &data], *extra, pixels * channels, launch);
    close(what, &got, &wanted, 2e-6);
}

/// Values that half floats hold, as the files of most networks do.
fn halves(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&v| half::f16::from_f32(v).to_f32()).collect()
}

fn dense(device: &Device, w: &Window, seed: u64, kernel: &str) {
    let n = w.output[2];
    let (x, weights) = (reference::noise(seed, w.input_len()), reference::noise(seed + 1, n * w.taps() * w.input[2]));
    let bias = reference::noise(seed + 2, n);
    for (i, f) in reference::finishes(n).into_iter().enumerate() {
        let weights = if i % 2 == 0 { halves(&weights) } else { weights.clone() };
        let bias = if i == 2 { &[][..] } else { &bias };
        let layer = Conv::new(device, w, &weights, bias, &f.0).unwrap();
        assert_eq!(layer.kernel(), kernel, "{w:?}");
        let sums = reference::conv(w, &x, &weights, bias);
        check(device, &format!("{w:?} {f:?}"), &x, (w.output, &sums), &f, |at| layer.launch(device, at));
    }
}

#[test]
fn dense_convolutions_equal_their_twin() {
    let Some(device) = device() else { return };
    for (i, (input, kernel, stride, dilation, padding)) in reference::geometries().into_iter().enumerate() {
        for n in [1, 17, 40] {
            let w = Window::new(input, n, kernel, stride, dilation, padding).expect("valid");
            let (k, pixels) = (w.taps() * input[2], w.output[0] * w.output[1]);
            let name = match (input[2].is_multiple_of(4) && k >= 16, pixels <= 8 && k >= 128) {
                (true, true) => "conv_dot",
                (true, false) => "conv_mma",
                _ => "conv_direct",
            };
            dense(&device, &w, i as u64 * 7 + n as u64, name);
        }
    }
    let same = |input, n, kernel, stride| Window::new(input, n, kernel, stride, [1, 1], Padding::Same).expect("valid");
    dense(&device, &same([9, 11, 20], 70, [1, 1], [1, 1]), 1, "conv_mma"); // tiles cut at both ends
    dense(&device, &same([7, 6, 36], 33, [3, 3], [2, 2]), 2, "conv_mma"); // four warps a tile, steps cut
    dense(&device, &same([16, 15, 3], 24, [5, 5], [2, 2]), 3, "conv_direct");
    dense(&device, &same([2, 2, 68], 195, [2, 2], [2, 2]), 4, "conv_dot");
    assert_eq!(device.used(), 0);
}

#[test]
fn depthwise_convolutions_equal_their_twin() {
    let Some(device) = device() else { return };
    let mut all = reference::geometries();
    all.push(([13, 14, 12], [5, 5], [2, 2], [1, 1], Padding::Same));
    let full = 2 * 256 * 16 * device.info().multiprocessors / 64; // pixels of 64 channels that give a thread four of them
    if device.info().multiprocessors <= 16 {
        all.push(([full.div_ceil(34), 34, 64], [3, 3], [1, 1], [1, 1], Padding::Same));
    }
    for (i, (input, kernel, stride, dilation, padding)) in all.into_iter().enumerate() {
        let c = input[2];
        let w = Window::new(input, c, kernel, stride, dilation, padding).expect("valid");
        let (x, weights) = (reference::noise(i as u64, w.input_len()), reference::noise(1, w.taps() * c));
        let bias = reference::noise(2, c);
        let sums = reference::depthwise(&w, &x, &weights, &bias);
        for f in reference::finishes(c) {
            let layer = Conv::depthwise(&device, &w, &weights, &bias, &f.0).unwrap();
            let large = w.output_len() >= 64 * full;
            assert_eq!(
                layer.kernel(),
                if c % 4 != 0 {
                    "depthwise_1x1"
                } else if large {
                    "depthwise_4x4"
                } else {
                    "depthwise_4x1"
                }
            );
            check(&device, &format!("{w:?} {f:?}"), &x, (w.output, &sums), &f, |at| layer.launch(&device, at));
            if large {
                break;
            }
        }
    }
}

#[test]
fn pooling_and_resizing_equal_their_twins() {
    let Some(device) = device() else { return };
    for (i, (input, kernel, stride, dilation, padding)) in reference::geometries().into_iter().enumerate() {
        let w = Window::new(input, input[2], kernel, stride, dilation, padding).expect("valid");
        let x = reference::noise(i as u64, w.input_len());
        let f = (Finish { before: Act::Clamp(-0.5, 0.5), after: Act::None }, None);
        let finish = DeviceFinish::new(&device, &f.0).unwrap();
        for reduce in [Reduce::Max, Reduce::Mean] {
            if matches!(padding, Padding::Explicit(_)) {
                continue; // some of its windows see nothing
            }
            let sums = reference::pooling(&w, &x, reduce);
            let launch = |at: &mut Operands| tensor::pool(&device, at, &w, reduce, &finish);
            check(&device, &format!("{w:?} {reduce:?}"), &x, (w.output, &sums), &f, launch);
        }
    }
    for (input, size) in
        [([4, 4, 8], [8, 8]), ([7, 5, 19], [14, 11]), ([9, 8, 3], [4, 3]), ([1, 1, 33], [3, 2]), ([3, 4, 16], [1, 1])]
    {
        let x = reference::noise(3, input.iter().product());
        for centres in [Centres::Corner, Centres::Aligned, Centres::Half] {
            let sums = reference::resize(input, size, centres, &x);
            for f in reference::finishes(input[2]) {
                let finish = DeviceFinish::new(&device, &f.0).unwrap();
                let launch = |at: &mut Operands| tensor::resize(&device, at, input, size, centres, &finish);
                let what = format!("{input:?} {size:?} {centres:?}");
                check(&device, &what, &x, ([size[0], size[1], input[2]], &sums), &f, launch);
            }
        }
    }
}

/// Equal but for a last bit or two; what is not a number on one side is none on the other.
fn alike(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let same = g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= 2e-6 * w.abs().max(1e-3);
        assert!(same, "{what} [{i}]: {g}, not {w}");
    }
}

#[test]
fn functions_of_elements_equal_those_of_the_processor() {
    let Some(device) = device() else { return };
    let n = 301;
    let mut x: Vec<f32> = reference::noise(1, n).iter().map(|v| 8.0 * v).collect();
    x[..7].copy_from_slice(&[0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-30, 100.0]);
    let run = |values: [&[f32]; 3], launch: &dyn Fn(&mut Operands) -> Result<(), Error>| run(&device, values, None, n, launch);
    use Unary::*;
    for f in
        [Sigmoid, Tanh, HardSwish, Exp, Log, Sqrt, Rsqrt, Square, Abs, Neg, Floor, Reciprocal, Elu, LeakyRelu(0.3), Truncate]
    {
        let want: Vec<f32> = x.iter().map(|&v| f.of(v)).collect();
        alike(&format!("{f:?}"), &run([&x, &[], &[]], &|at| tensor::unary(&device, at, f)), &want);
    }
    let x = reference::noise(2, n);
    use Binary::*;
    for f in [Add, Sub, Mul, Div, Min, Max, SquaredDifference, FloorDiv] {
        for (inner, period) in [(1, 1), (1, n), (1, 7), (43, 7), (7, 43), (n, 1)] {
            let (b, lay) = (reference::noise(3, period), Broadcast { inner, period });
            for swapped in [false, true] {
                let mut want = vec![0.0; n];
                elementwise::binary(f, &x, &b, lay, swapped, &mut want);
                let got = run([&x, &b, &[]], &|at| tensor::binary(&device, at, f, lay, swapped));
                alike(&format!("{f:?} {lay:?} {swapped}"), &got, &want);
            }
        }
    }
    for act in [Act::None, Act::Clamp(-0.25, f32::INFINITY), Act::Prelu(reference::noise(4, 7))] {
        let mut want = x.clone();
        elementwise::activate(&act, &mut want, 7);
        let finish = DeviceFinish::new(&device, &Finish { before: act, after: Act::None }).unwrap();
        alike("activation", &run([&x, &[], &[]], &|at| tensor::activate(&device, at, 7, &finish)), &want);
    }
    for channels in [1, 7, 43, 301] {
        let mut want = vec![0.0; n];
        elementwise::softmax(&x, channels, 1.5, &mut want);
        let got = run([&x, &[], &[]], &|at| tensor::softmax(&device, at, channels, 1.5));
        close("softmax", &got, &want.iter().map(|&v| v.into()).collect::<Vec<_>>(), 2e-6);
    }
}

#[test]
fn reductions_and_moves_equal_those_of_the_processor() {
    let Some(device) = device() else { return };
    let run = |values: [&[f32]; 3], n: usize, launch: &dyn Fn(&mut Operands) -> Result<(), Error>| {
        run(&device, values, None, n, launch)
    };
    for (outer, len, inner) in [(3, 50, 7), (1, 1, 5), (2, 33, 1), (1, 300, 2)] {
        let mut x = reference::noise(1, outer * len * inner);
        x.iter_mut().step_by(3).for_each(|v| *v = 0.5); // equal ones: the first counts
        for f in [Fold::Sum, Fold::Mean, Fold::Max, Fold::Min, Fold::ArgMax] {
            let mut want = vec![0.0; outer * inner];
            elementwise::fold(f, &x, len, inner, &mut want);
            let got = run([&x, &[], &[]], outer * inner, &|at| tensor::fold(&device, at, f, len, inner));
            close(&format!("{f:?} {len}"), &got, &want.iter().map(|&v| v.into()).collect::<Vec<_>>(), 2e-6);
        }
    }
    let x = reference::noise(2, 2 * 3 * 4 * 5);
    let (from, to, before) = ([2, 3, 4, 5], [3, 3, 6, 9], [1, 0, 2, 1]);
    let mut want = vec![0.0; 3 * 3 * 6 * 9];
    movement::pad(&x, from, &mut want, to, before, -1.5);
    assert_eq!(run([&x, &[], &[]], want.len(), &|at| tensor::pad(&device, at, from, to, before, -1.5)), want);
    let turned = Walk { shape: [1, 5, 4, 3, 1, 2], step: [0, 1, 5, 20, 0, 60], base: 0 };
    let backwards = Walk { shape: [1, 1, 1, 2, 3, 3], step: [0, 0, 0, 60, -20, 2], base: 40 };
    for walk in [turned, backwards] {
        let mut want = vec![0.0; walk.shape.iter().product()];
        walk.run(&x, &mut want);
        assert_eq!(run([&x, &[], &[]], want.len(), &|at| tensor::walk(&device, at, &walk)), want);
    }
    // the columns of a concatenation that are another's stay
    let got = run([&x, &[], &[]], 24 * 9, &|at| tensor::concat(&device, at, 5, 9, 3));
    for (row, x) in got.chunks_exact(9).zip(x.chunks_exact(5)) {
        assert!(row[3..8] == *x && row[..3].iter().chain(&row[8..]).all(|v| v.is_nan()));
    }
    let indices = [0.0, 1.9, 1.0, 99.0, -3.0, 0.0, f32::NAN, 2.0];
    let want: Vec<f32> =
        [[0, 1], [1, 2], [0, 0], [0, 2]].iter().flat_map(|[i, j]| x[(i * 3 + j) * 20..][..20].to_vec()).collect();
    assert_eq!(run([&x, &indices, &[]], 80, &|at| tensor::gather(&device, at, &[2, 3], 20)), want);
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_launched() {
    let Some(device) = device() else { return };
    let w = Window::new([4, 4, 8], 8, [3, 3], [1, 1], [1, 1], Padding::Same).unwrap();
    let none = Finish::default();
    let refused = |result: Result<Conv, Error>| matches!(result, Err(Error::Shape(_)));
    assert!(refused(Conv::new(&device, &w, &[0.0; 575], &[], &none)));
    assert!(refused(Conv::new(&device, &w, &[0.0; 576], &[0.0; 7], &none)));
    assert!(refused(Conv::depthwise(&device, &w, &[0.0; 73], &[], &none)));
    let slopes = Finish { before: Act::Prelu(vec![0.0; 7]), after: Act::None };
    assert!(refused(Conv::new(&device, &w, &[0.0; 576], &[], &slopes)));
    let far = Window { pad: [1 << 30, 0], ..w.clone() };
    assert!(refused(Conv::new(&device, &far, &[0.0; 576], &[], &none)));
    let layer = Conv::new(&device, &w, &[0.0; 576], &[], &none).unwrap();
    let mut memory = device.zeros(256).unwrap();
    let mut attempt = |a: Span, out: Span| {
        let at = &mut Operands { memory: &mut memory, a, b: None, residual: None, out };
        layer.launch(&device, at).is_ok()
    };
    let span = |at, len| Span { at, len };
    assert!(attempt(span(0, 128), span(128, 128)));
    assert!(!attempt(span(0, 127), span(128, 128)), "an operand too short");
    assert!(!attempt(span(0, 128), span(132, 128)), "past the end");
    assert!(!attempt(span(64, 128), span(128, 128)), "over the operand");
    assert!(!attempt(span(1, 128), span(128, 128)), "where four at once cannot be loaded");
    assert!(!attempt(span(usize::MAX, 128), span(128, 128)), "nowhere");
    drop((layer, memory));
    assert_eq!(device.used(), 0);
}
