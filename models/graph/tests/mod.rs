//! Networks written by the tests, run and compared with sums written out; damaged files.

#[cfg(feature = "cuda")]
mod cuda;
mod flatfile;
mod hostile;
mod tfjs;

use super::Network;
use crate::weights::{Result, tflite};
use dreamseed_kernels::Pool;
use flatfile::{FLOAT16, INT8, Model, Obj};
use half::f16;

/// The network of a TFLite file.
fn network(bytes: &[u8]) -> Result<Network> {
    Network::build(tflite::read(bytes)?)
}

/// Its plan on the processor.
fn plan(network: &Network) -> &super::Plan {
    match &network.executor {
        super::Executor::Cpu(plan) => plan,
        #[cfg(feature = "cuda")]
        super::Executor::Gpu(_) => panic!("the network is on a GPU"),
    }
}

/// All outputs for the given inputs, from one and from three threads.
fn run(network: &Network, inputs: &[&[f32]]) -> Vec<Vec<f32>> {
    let mut session = network.session();
    session.run(&Pool::new(1), inputs).expect("inputs fit");
    let first: Vec<Vec<f32>> = (0..network.outputs().len()).map(|i| session.output(i).to_vec()).collect();
    session.run(&Pool::new(3), inputs).expect("inputs fit");
    let again: Vec<Vec<f32>> = (0..network.outputs().len()).map(|i| session.output(i).to_vec()).collect();
    assert_eq!(first, again, "buffers or threads leak into the result");
    first
}

/// Values that f16 holds exactly.
fn steps(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + seed * 11) % 31) as f32 / 16.0 - 1.0).collect()
}

fn close(seen: &[f32], wanted: &[f64]) {
    assert_eq!(seen.len(), wanted.len());
    for (i, (&s, &w)) in seen.iter().zip(wanted).enumerate() {
        assert!((f64::from(s) - w).abs() < 1e-4 * w.abs().max(1.0), "element {i} is {s}, not {w}");
    }
}

/// A convolution written out: x (h, w, c), weights (n, k, k, c); SAME padding as TensorFlow has it.
fn conv(x: &[f64], [h, w, c]: [usize; 3], weights: &[f32], n: usize, k: usize, stride: usize) -> Vec<f64> {
    let before = |size: usize| (((size.div_ceil(stride) - 1) * stride + k).saturating_sub(size)) / 2;
    let mut out = Vec::new();
    for (oy, ox) in (0..h.div_ceil(stride)).flat_map(|y| (0..w.div_ceil(stride)).map(move |x| (y, x))) {
        for o in 0..n {
            let mut sum = 0.0;
            for (ky, kx) in (0..k).flat_map(|y| (0..k).map(move |x| (y, x))) {
                let at = ((oy * stride + ky).wrapping_sub(before(h)), (ox * stride + kx).wrapping_sub(before(w)));
                if at.0 < h && at.1 < w {
                    for i in 0..c {
                        sum += x[(at.0 * w + at.1) * c + i] * f64::from(weights[((o * k + ky) * k + kx) * c + i]);
                    }
                }
            }
            out.push(sum);
        }
    }
    out
}

const CONV_2D: i32 = 3;
const ADD: i32 = 0;
const DEQUANTIZE: i32 = 6;
const MAX_POOL_2D: i32 = 17;
const RESHAPE: i32 = 22;
const PAD: i32 = 34;
const PRELU: i32 = 54;
const DENSIFY: i32 = 124;

/// Options of a convolution: SAME, both strides, an activation.
fn options(stride: i32, activation: u8) -> Vec<(usize, Obj)> {
    vec![(0, Obj::U8(0)), (1, Obj::I32(stride)), (2, Obj::I32(stride)), (3, Obj::U8(activation))]
}

/// conv (stride 2, ReLU6, half-float weights) -> conv 1x1 -> add with fewer, padded channels -> PReLU -> reshape.
fn small() -> Vec<u8> {
    let mut m = Model::new();
    let x = m.tensor("x", &[1, 5, 7, 3]);
    let halves: Vec<u8> = steps(4 * 27, 1).iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
    let packed = m.typed("half", &[4, 3, 3, 3], FLOAT16, &halves, vec![]);
    let weights = m.tensor("w", &[4, 3, 3, 3]);
    m.operator(DEQUANTIZE, &[packed], weights, vec![]);
    let bias = m.floats(&[4], &[0.5, -0.25, 0.0, 1.0]);
    let a = m.tensor("a", &[1, 3, 4, 4]);
    m.operator(CONV_2D, &[x, weights, bias], a, options(2, 3));
    let pointwise = m.floats(&[6, 1, 1, 4], &steps(24, 2));
    let b = m.tensor("b", &[1, 3, 4, 6]);
    m.operator(CONV_2D, &[a, pointwise, -1], b, options(1, 0));
    let amounts = m.ints(&[4, 2], &[0, 0, 0, 0, 0, 0, 0, 2]);
    let padded = m.tensor("padded", &[1, 3, 4, 6]);
    m.operator(PAD, &[a, amounts], padded, vec![]);
    let sum = m.tensor("sum", &[1, 3, 4, 6]);
    m.operator(ADD, &[padded, b], sum, vec![]);
    let slopes = m.floats(&[1, 1, 6], &steps(6, 3));
    let y = m.tensor("y", &[1, 3, 4, 6]);
    m.operator(PRELU, &[sum, slopes], y, vec![]);
    let shape = m.ints(&[2], &[1, -1]);
    let flat = m.tensor("flat", &[1, 72]);
    m.operator(RESHAPE, &[y, shape], flat, vec![]);
    m.bytes(&[x], &[flat, a])
}

#[test]
fn a_small_network_equals_its_sums() {
    let net = network(&small()).expect("sound");
    let shapes: Vec<_> = net.outputs().iter().map(|o| (o.name.as_str(), o.shape.clone())).collect();
    assert_eq!(shapes, [("flat", vec![1, 72]), ("a", vec![1, 3, 4, 4])]);
    let x = steps(105, 4);
    let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
    let mut a = conv(&wide, [5, 7, 3], &steps(108, 1), 4, 3, 2);
    a.iter_mut().enumerate().for_each(|(i, v)| *v = (*v + [0.5, -0.25, 0.0, 1.0][i % 4]).clamp(0.0, 6.0));
    let mut y = conv(&a, [3, 4, 4], &steps(24, 2), 6, 1, 1);
    for (i, v) in y.iter_mut().enumerate() {
        *v += if i % 6 < 4 { a[i / 6 * 4 + i % 6] } else { 0.0 };
        *v = v.max(0.0) + v.min(0.0) * f64::from(steps(6, 3)[i % 6]);
    }
    let outputs = run(&net, &[&x]);
    close(&outputs[0], &y);
    close(&outputs[1], &a);
    assert_eq!(plan(&net).steps.len(), 2, "pad, add, activation and reshape are part of the convolutions");
}

#[test]
fn inputs_and_names_are_checked() {
    let net = network(&small()).expect("sound");
    let (pool, mut session) = (Pool::new(1), net.session());
    assert!(session.run(&pool, &[]).is_err());
    assert!(session.run(&pool, &[&[0.0; 104]]).is_err());
    assert!(session.run(&pool, &[&[0.0; 105], &[]]).is_err());
    session.run(&pool, &[&[0.0; 105]]).expect("fits");
    assert_eq!(session.output_by_name("a").map(<[f32]>::len), Some(48));
    assert!(session.output_by_name("b").is_none() && session.output(2).is_empty());
}

#[test]
fn only_wanted_outputs_are_computed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("small.tflite");
    std::fs::write(&path, small()).expect("written");
    let net = Network::open_outputs(&path, &["a"]).expect("sound");
    assert_eq!((plan(&net).steps.len(), net.outputs()[0].name.as_str()), (1, "a"));
    let message = Network::open_outputs(&path, &["q"]).err().expect("no such output").to_string();
    assert!(message.contains("flat"), "{message}");
}

/// One 1x1 convolution whose weights are the given tensor, through the given operator.
fn with_weights(kind: u8, data: &[u8], more: Vec<(usize, Obj)>, through: Option<i32>) -> Vec<u8> {
    let mut m = Model::new();
    let x = m.tensor("x", &[1, 2, 2, 4]);
    let mut weights = m.typed("stored", &[3, 1, 1, 4], kind, data, more);
    if let Some(operator) = through {
        let dense = m.tensor("dense", &[3, 1, 1, 4]);
        m.operator(operator, &[weights], dense, vec![]);
        weights = dense;
    }
    let y = m.tensor("y", &[1, 2, 2, 3]);
    m.operator(CONV_2D, &[x, weights], y, options(1, 0));
    m.bytes(&[x], &[y])
}

fn little(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Storage of rows x channels as dense rows of compressed columns.
fn sparsity(segments: &[i32], indices: &[u8]) -> Vec<(usize, Obj)> {
    let dense = |n: i32| Obj::Table(vec![(0, Obj::U8(0)), (1, Obj::I32(n))]);
    let vector = |v: Obj| Obj::Table(vec![(0, v)]);
    let compressed = vec![
        (0, Obj::U8(1)),
        (2, Obj::U8(1)),
        (3, vector(Obj::Ints(segments.to_vec()))),
        (4, Obj::U8(3)),
        (5, vector(Obj::Bytes(indices.to_vec()))),
    ];
    let levels = vec![dense(3), dense(1), dense(1), Obj::Table(compressed)];
    vec![(6, Obj::Table(vec![(0, Obj::Ints(vec![0, 1, 2, 3])), (2, Obj::List(levels))]))]
}

#[test]
fn sparse_weights_become_dense() {
    let dense = [0.0, 2.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.5];
    let plain = network(&with_weights(0, &little(&dense), vec![], None)).expect("sound");
    let stored = little(&[2.0, -1.0, 3.0, 0.5]);
    let file = |segments: &[i32], indices: &[u8]| with_weights(0, &stored, sparsity(segments, indices), Some(DENSIFY));
    let sparse = network(&file(&[0, 2, 2, 4], &[1, 3, 0, 3])).expect("sound");
    let x = steps(16, 1);
    assert_eq!(run(&sparse, &[&x]), run(&plain, &[&x]));
    for (segments, indices) in [
        (&[0, 2, 2, 5][..], &[1, 3, 0, 3][..]), // past the indices
        (&[0, 2, 1, 4], &[1, 3, 0, 3]),         // backwards
        (&[0, 2, 2, 4], &[1, 3, 0, 4]),         // outside the row
        (&[0, 2, 2, 3], &[1, 3, 0]),            // fewer places than values
        (&[0, 2], &[1, 3]),                     // rows missing
        (&[-1, 2, 2, 4], &[1, 3, 0, 3]),
    ] {
        assert!(network(&file(segments, indices)).is_err(), "{segments:?} {indices:?}");
    }
}

/// Blocks of 2 x 2 over a 4 x 4 matrix, traversed block row by block row: one block stored.
#[test]
fn blocks_become_dense() {
    let level = |n: i32| Obj::Table(vec![(0, Obj::U8(0)), (1, Obj::I32(n))]);
    let vector = |v: Vec<i32>| Obj::Table(vec![(0, Obj::Ints(v))]);
    let compressed =
        Obj::Table(vec![(0, Obj::U8(1)), (2, Obj::U8(1)), (3, vector(vec![0, 0, 1])), (4, Obj::U8(1)), (5, vector(vec![1]))]);
    let levels = Obj::List(vec![level(2), compressed, level(2), level(2)]);
    let sparsity = Obj::Table(vec![(0, Obj::Ints(vec![0, 1, 2, 3])), (1, Obj::Ints(vec![0, 1])), (2, levels)]);
    let mut m = Model::new();
    let stored = m.typed("stored", &[4, 4], 0, &little(&[1.0, 2.0, 3.0, 4.0]), vec![(6, sparsity)]);
    let (x, dense, y) = (m.tensor("x", &[4, 4]), m.tensor("dense", &[4, 4]), m.tensor("y", &[4, 4]));
    m.operator(DENSIFY, &[stored], dense, vec![]);
    m.operator(ADD, &[x, dense], y, vec![]);
    let net = network(&m.bytes(&[x], &[y])).expect("sound");
    let wanted = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 3.0, 4.0];
    assert_eq!(run(&net, &[&[0.0; 16]])[0], wanted);
}

#[test]
fn eight_bit_weights_are_scaled() {
    let codes: Vec<i8> = vec![1, -2, 3, 127, -128, 0, 5, 6, 7, 8, 9, 10];
    let bytes: Vec<u8> = codes.iter().map(|&v| v as u8).collect();
    let scale = |v: &[f32]| Obj::Ints(v.iter().map(|v| v.to_bits() as i32).collect());
    let quantization = |v: &[f32]| vec![(4, Obj::Table(vec![(2, scale(v)), (3, Obj::Longs(vec![0, 1, -3]))]))];
    let net = network(&with_weights(INT8, &bytes, quantization(&[0.5, 0.25, 2.0]), Some(DEQUANTIZE))).expect("sound");
    let (scales, zeros) = ([0.5f32, 0.25, 2.0], [0.0f32, 1.0, -3.0]);
    let floats: Vec<f32> = (0..12).map(|i| scales[i / 4] * (f32::from(codes[i]) - zeros[i / 4])).collect();
    let plain = network(&with_weights(0, &little(&floats), vec![], None)).expect("sound");
    let x = steps(16, 1);
    assert_eq!(run(&net, &[&x]), run(&plain, &[&x]));
    assert!(network(&with_weights(INT8, &bytes, quantization(&[0.5, 0.25]), Some(DEQUANTIZE))).is_err());
}

#[test]
fn zeros_around_a_picture_join_the_window_but_not_that_of_a_maximum() {
    let mut m = Model::new();
    let x = m.tensor("x", &[1, 4, 4, 1]);
    let amounts = m.ints(&[4, 2], &[0, 0, 1, 0, 0, 1, 0, 0]);
    let padded = m.tensor("padded", &[1, 5, 5, 1]);
    m.operator(PAD, &[x, amounts], padded, vec![]);
    let weights = m.floats(&[1, 2, 2, 1], &[1.0, 2.0, 3.0, 4.0]);
    let (y, z) = (m.tensor("y", &[1, 4, 4, 1]), m.tensor("z", &[1, 4, 4, 1]));
    let valid = |mut o: Vec<(usize, Obj)>| {
        o[0] = (0, Obj::U8(1));
        o
    };
    m.operator(CONV_2D, &[padded, weights], y, valid(options(1, 0)));
    let mut pool = valid(options(1, 0));
    pool[3] = (3, Obj::I32(2));
    pool.push((4, Obj::I32(2)));
    m.operator(MAX_POOL_2D, &[padded], z, pool);
    let net = network(&m.bytes(&[x], &[y, z])).expect("sound");
    let x: Vec<f32> = (1..=16).map(|v| -(v as f32)).collect();
    let at =
        |y: isize, c: isize| if (0..4).contains(&y) && (0..4).contains(&c) { f64::from(x[(y * 4 + c) as usize]) } else { 0.0 };
    let (mut sums, mut tops) = (Vec::new(), Vec::new());
    for (y, c) in (0..4).flat_map(|y| (0..4).map(move |c| (y, c))) {
        let four = [at(y - 1, c), at(y - 1, c + 1), at(y, c), at(y, c + 1)];
        sums.push(four.iter().zip([1.0, 2.0, 3.0, 4.0]).map(|(a, b)| a * b).sum());
        tops.push(four.into_iter().fold(f64::NEG_INFINITY, f64::max));
    }
    let outputs = run(&net, &[&x]);
    close(&outputs[0], &sums);
    close(&outputs[1], &tops);
}

#[test]
fn a_pointwise_convolution_of_an_enlarged_picture_runs_before_it_is_enlarged() {
    const RESIZE_BILINEAR: i32 = 23;
    let mut m = Model::new();
    let x = m.tensor("x", &[1, 3, 4, 5]);
    let size = m.ints(&[2], &[6, 8]);
    let large = m.tensor("large", &[1, 6, 8, 5]);
    m.operator(RESIZE_BILINEAR, &[x, size], large, vec![(3, Obj::U8(1))]);
    let (weights, bias) = (m.floats(&[3, 1, 1, 5], &steps(15, 1)), m.floats(&[3], &[0.5, -0.5, 0.25]));
    let (y, z) = (m.tensor("y", &[1, 6, 8, 3]), m.tensor("z", &[1, 6, 8, 3]));
    m.operator(CONV_2D, &[large, weights, bias], y, options(1, 1));
    let more = m.tensor("more", &[1, 6, 8, 3]);
    m.operator(ADD, &[y, more], z, vec![]);
    let bytes = m.bytes(&[x, more], &[z]);
    let net = network(&bytes).expect("sound");
    assert!(matches!(plan(&net).steps[0].run, super::plan::Run::Conv(_)) && plan(&net).steps.len() == 2);
    let (input, extra) = (steps(60, 2), steps(144, 3));
    let seen = run(&net, &[&input, &extra]);
    // The same in the file's order: half-pixel centres of an exact doubling weigh 1/4 and 3/4.
    let at = |o: usize, n: usize| {
        let at = (o as f64 + 0.5) / 2.0 - 0.5;
        let low = at.floor().max(0.0) as usize;
        (low, (at.floor() + 1.0).min(n as f64 - 1.0) as usize, if at < 0.0 { 0.0 } else { at.fract() })
    };
    let mut large = Vec::new();
    for i in 0..240 {
        let ((y0, y1, fy), (x0, x1, fx), c) = (at(i / 40, 3), at(i / 5 % 8, 4), i % 5);
        let p = |y: usize, x: usize| f64::from(input[(y * 4 + x) * 5 + c]);
        large.push((p(y0, x0) * (1.0 - fx) + p(y0, x1) * fx) * (1.0 - fy) + (p(y1, x0) * (1.0 - fx) + p(y1, x1) * fx) * fy);
    }
    let mut sums = conv(&large, [6, 8, 5], &steps(15, 1), 3, 1, 1);
    for (i, v) in sums.iter_mut().enumerate() {
        *v = (*v + [0.5, -0.5, 0.25][i % 3]).max(0.0) + f64::from(extra[i]);
    }
    close(&seen[0], &sums);
}
