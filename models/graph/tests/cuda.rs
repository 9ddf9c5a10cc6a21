//! Networks on a device against the same on the processor. They need a driver: a GPU's, or the emulator of `tests/cuda.sh`. Without one
//! they say so and pass, unless `DREAMSEED_CUDA_TEST` asks for them.

use std::path::PathBuf;

use dreamseed_kernels::cuda::{Device, Error as Refusal};
use dreamseed_kernels::simd;

use super::super::{Executor, Processor};
use super::flatfile::{Model, Obj};
use super::*;
use crate::processor::device;
use crate::weights::Error;

fn on(device: &Device, bytes: &[u8]) -> Result<Network> {
    Network::build_on(&Processor::Gpu(device.clone()), tflite::read(bytes)?)
}

fn net(network: &Network) -> &super::super::cuda::Net {
    match &network.executor {
        Executor::Gpu(net) => net,
        Executor::Cpu(_) => panic!("the network is on the processor"),
    }
}

/// Largest difference of an output, in units of its largest value (at least 1).
fn apart(want: &[f32], got: &[f32]) -> f32 {
    assert_eq!(want.len(), got.len());
    let size = want.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    let differences = want.iter().zip(got).map(|(w, g)| if w == g { 0.0 } else { (w - g).abs() / size });
    differences.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

/// Runs both and gives the largest difference of each output.
fn compare(cpu: &Network, gpu: &Network, inputs: &[&[f32]]) -> Vec<f32> {
    assert_eq!((cpu.inputs(), cpu.outputs()), (gpu.inputs(), gpu.outputs()));
    let (pool, mut want, mut got) = (Pool::new(2), cpu.session(), gpu.session());
    want.run(&pool, inputs).unwrap();
    got.run(&pool, inputs).unwrap();
    (0..cpu.outputs().len()).map(|i| apart(want.output(i), got.output(i))).collect()
}

const CONCATENATION: i32 = 2;
const DEPTHWISE_CONV_2D: i32 = 4;
const DEPTH_TO_SPACE: i32 = 5;
const FULLY_CONNECTED: i32 = 9;
const LOGISTIC: i32 = 14;
const MUL: i32 = 18;
const RESIZE_BILINEAR: i32 = 23;
const SOFTMAX: i32 = 25;
const TRANSPOSE: i32 = 39;
const MEAN: i32 = 40;
const STRIDED_SLICE: i32 = 45;
const ARG_MAX: i32 = 56;
const GATHER_ND: i32 = 107;
const HARD_SWISH: i32 = 117;

/// A network of an inverted residual with squeeze and excitation, a pyramid and several heads: most operators that there are.
fn large(seed: usize) -> Vec<u8> {
    let mut m = Model::new();
    let x = m.tensor("x", &[1, 13, 18, 3]);
    let (w, b) = (m.floats(&[8, 5, 5, 3], &steps(600, seed)), m.floats(&[8], &steps(8, seed)));
    let a = m.tensor("a", &[1, 7, 9, 8]);
    m.operator(CONV_2D, &[x, w, b], a, options(2, 3));
    // expanded, depthwise, gated by what the whole picture says, projected, added
    let w = m.floats(&[20, 1, 1, 8], &steps(160, seed + 1));
    let wide = m.tensor("wide", &[1, 7, 9, 20]);
    m.operator(CONV_2D, &[a, w, -1], wide, options(1, 0));
    let swished = m.tensor("swished", &[1, 7, 9, 20]);
    m.operator(HARD_SWISH, &[wide], swished, vec![]);
    let (w, b) = (m.floats(&[1, 5, 5, 20], &steps(500, seed + 2)), m.floats(&[20], &steps(20, seed + 3)));
    let deep = m.tensor("deep", &[1, 7, 9, 20]);
    let depthwise = vec![(0, Obj::U8(0)), (1, Obj::I32(1)), (2, Obj::I32(1)), (3, Obj::I32(1)), (4, Obj::U8(1))];
    m.operator(DEPTHWISE_CONV_2D, &[swished, w, b], deep, depthwise);
    let axes = m.ints(&[2], &[1, 2]);
    let mean = m.tensor("mean", &[1, 1, 1, 20]);
    m.operator(MEAN, &[deep, axes], mean, vec![(0, Obj::U8(1))]);
    let gate = m.tensor("gate", &[1, 1, 1, 20]);
    m.operator(LOGISTIC, &[mean], gate, vec![]);
    let gated = m.tensor("gated", &[1, 7, 9, 20]);
    m.operator(MUL, &[deep, gate], gated, vec![]);
    let (w, b) = (m.floats(&[8, 1, 1, 20], &steps(160, seed + 4)), m.floats(&[8], &steps(8, seed + 5)));
    let narrow = m.tensor("narrow", &[1, 7, 9, 8]);
    m.operator(CONV_2D, &[gated, w, b], narrow, options(1, 0));
    let sum = m.tensor("sum", &[1, 7, 9, 8]);
    m.operator(ADD, &[narrow, a], sum, vec![]);
    // down, up again, beside what was there, with slopes
    let down = m.tensor("down", &[1, 4, 5, 8]);
    m.operator(MAX_POOL_2D, &[sum], down, [options(2, 0), vec![(3, Obj::I32(3)), (4, Obj::I32(3))]].concat_fields());
    let size = m.ints(&[2], &[7, 9]);
    let up = m.tensor("up", &[1, 7, 9, 8]);
    m.operator(RESIZE_BILINEAR, &[down, size], up, vec![(3, Obj::U8(1))]);
    let both = m.tensor("both", &[1, 7, 9, 16]);
    m.operator(CONCATENATION, &[sum, up], both, vec![(0, Obj::I32(3))]);
    let slopes = m.floats(&[1, 1, 16], &steps(16, seed + 6));
    let sloped = m.tensor("sloped", &[1, 7, 9, 16]);
    m.operator(PRELU, &[both, slopes], sloped, vec![]);
    // heads: a heatmap, its shares, where each is highest, what stands there; a vector
    let w = m.floats(&[12, 3, 3, 16], &steps(1728, seed + 7));
    let heat = m.tensor("heat", &[1, 7, 9, 12]);
    m.operator(CONV_2D, &[sloped, w, -1], heat, options(1, 0));
    let fine = m.tensor("fine", &[1, 14, 18, 3]);
    m.operator(DEPTH_TO_SPACE, &[heat], fine, vec![(0, Obj::I32(2))]);
    let share = m.tensor("share", &[1, 14, 18, 3]);
    m.operator(SOFTMAX, &[fine], share, vec![(0, Obj::I32(1.0f32.to_bits() as i32))]);
    let shape = m.ints(&[2], &[63, 12]);
    let rows = m.tensor("rows", &[63, 12]);
    m.operator(RESHAPE, &[heat, shape], rows, vec![]);
    let zero = m.ints(&[1], &[0]);
    let best = m.tensor("best", &[12]);
    m.operator(ARG_MAX, &[rows, zero], best, vec![]);
    let column = m.ints(&[2], &[12, 1]);
    let places = m.tensor("places", &[12, 1]);
    m.operator(RESHAPE, &[best, column], places, vec![]);
    let there = m.tensor("there", &[12, 12]);
    m.operator(GATHER_ND, &[rows, places], there, vec![]);
    let order = m.ints(&[2], &[1, 0]);
    let turned = m.tensor("turned", &[12, 12]);
    m.operator(TRANSPOSE, &[there, order], turned, vec![]);
    let [begin, end, by] = [[2, 1], [12, 10], [3, 2]].map(|v| m.ints(&[2], &v));
    let slice = m.tensor("slice", &[4, 5]);
    m.operator(STRIDED_SLICE, &[turned, begin, end, by], slice, vec![]);
    let flat = m.ints(&[2], &[1, 1008]);
    let vector = m.tensor("vector", &[1, 1008]);
    m.operator(RESHAPE, &[sloped, flat], vector, vec![]);
    let (w, b) = (m.floats(&[33, 1008], &steps(33264, seed + 8)), m.floats(&[33], &steps(33, seed + 9)));
    let points = m.tensor("points", &[1, 33]);
    m.operator(FULLY_CONNECTED, &[vector, w, b], points, vec![]);
    m.bytes(&[x], &[share, slice, points, sum])
}

trait Fields {
    fn concat_fields(self) -> Vec<(usize, Obj)>;
}

impl Fields for [Vec<(usize, Obj)>; 2] {
    /// The second's fields instead of the first's of the same number.
    fn concat_fields(self) -> Vec<(usize, Obj)> {
        let [mut first, second] = self;
        first.retain(|f| second.iter().all(|s| s.0 != f.0));
        first.extend(second);
        first
    }
}

#[test]
fn small_networks_give_the_processors_outputs() {
    let Some(device) = device() else { return };
    for (bytes, len) in [(small(), 105), (large(1), 702), (large(4), 702)] {
        let (cpu, gpu) = (network(&bytes).unwrap(), on(&device, &bytes).unwrap());
        assert_eq!(net(&gpu).launches(), gpu.steps().count());
        for seed in 0..2 {
            let x: Vec<f32> = steps(len, seed);
            let differences = compare(&cpu, &gpu, &[&x]);
            assert!(differences.iter().all(|&d| d < 1e-5), "{differences:?}");
        }
        assert_eq!(cpu.macs(), gpu.macs());
    }
    assert_eq!(device.used(), 0, "what was unloaded leaves nothing behind");
}

#[test]
fn several_inputs_and_outputs_that_are_inputs() {
    let Some(device) = device() else { return };
    let mut m = Model::new();
    let (x, y, sum) = (m.tensor("x", &[2, 3]), m.tensor("y", &[2, 3]), m.tensor("sum", &[2, 3]));
    m.operator(ADD, &[x, y], sum, vec![]);
    let shape = m.ints(&[1], &[6]);
    let flat = m.tensor("flat", &[6]);
    m.operator(RESHAPE, &[y, shape], flat, vec![]);
    let bytes = m.bytes(&[x, y], &[flat, sum, sum]);
    let (cpu, gpu) = (network(&bytes).unwrap(), on(&device, &bytes).unwrap());
    assert_eq!(compare(&cpu, &gpu, &[&steps(6, 1), &steps(6, 2)]), [0.0; 3]);
    let mut session = gpu.session();
    assert!(session.run(&Pool::new(1), &[&[0.0; 6]]).is_err());
    assert!(session.output(0).is_empty() && session.output(9).is_empty(), "nothing ran yet");
}

#[test]
fn sessions_run_beside_each_other_and_their_room_is_used_again() {
    let Some(device) = device() else { return };
    let bytes = small();
    let gpu = on(&device, &bytes).unwrap();
    let alone = device.used();
    assert_eq!(alone, gpu.session_bytes() + net(&gpu).weight_bytes() + 6 * 4, "weights, slopes and one session");
    let pool = Pool::new(1);
    let run = |session: &mut super::super::Session, seed| {
        session.run(&pool, &[&steps(105, seed)]).unwrap();
        session.output(0).to_vec()
    };
    let wanted = run(&mut gpu.session(), 1);
    assert_eq!(device.used(), alone, "the first session's room was there");
    let (mut a, mut b) = (gpu.session(), gpu.session());
    let first = run(&mut a, 1);
    assert_ne!(run(&mut b, 2), first);
    assert!(a.output(0) == first && first == wanted);
    assert_eq!(device.used(), alone + gpu.session_bytes());
    drop((a, b));
    assert_eq!(device.used(), alone, "one is kept");
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..2).map(|_| scope.spawn(|| run(&mut gpu.session(), 1))).collect();
        runs.into_iter().for_each(|r| assert_eq!(r.join().unwrap(), wanted));
    });
    drop(gpu);
    assert_eq!(device.used(), 0);
}

#[test]
#[ignore = "needs a driver that fails: tests/cuda.sh has one"]
fn a_fault_fails_what_met_it_and_leaves_nothing_behind() {
    let fault = std::env::var("DREAMSEED_DRIVER_FAULT").expect("DREAMSEED_DRIVER_FAULT names a fault");
    let code: u32 = fault.rsplit(':').next().unwrap().parse().unwrap();
    let device = Device::open(0).unwrap();
    let (bytes, pool, x) = (small(), Pool::new(1), steps(105, 1));
    let want = run(&network(&bytes).unwrap(), &[&x]);
    let mut met = Vec::new();
    let told = |e: Error| match e {
        Error::Device(e) => e,
        other => panic!("{other}"),
    };
    for _ in 0..3 {
        match on(&device, &bytes) {
            Ok(gpu) => {
                // a session that failed runs again, unless the device is lost
                let mut session = gpu.session();
                for _ in 0..3 {
                    match session.run(&pool, &[&x]) {
                        Ok(()) => assert!(apart(&want[0], session.output(0)) < 1e-5),
                        Err(e) => met.push(told(e)),
                    }
                }
            }
            Err(e) => met.push(told(e)),
        }
        assert_eq!(device.used(), 0, "{met:?}");
    }
    match code {
        2 => assert!(matches!(met[..], [Refusal::OutOfMemory { .. }]), "{met:?}"),
        700 => assert!(!met.is_empty() && met.iter().all(|e| matches!(e, Refusal::Lost { .. })), "{met:?}"),
        _ => assert!(matches!(met[..], [Refusal::Driver { .. }]), "{met:?}"),
    }
}

/// A picture: a bright ellipse before dim waves, in the range that the network takes.
fn picture(shape: &[usize], [low, high]: [f32; 2]) -> Vec<f32> {
    let &[_, h, w, c] = shape else { panic!("{shape:?} is no picture") };
    let value = |i: usize| {
        let (x, y) = ((i / c % w) as f32 / w as f32 - 0.5, (i / c / w) as f32 / h as f32 - 0.5);
        let inside = (x / 0.25).powi(2) + (y / 0.4).powi(2) < 1.0;
        let wave = 0.25 + 0.2 * (19.0 * x + 3.0 * (i % c) as f32).sin() * (13.0 * y).cos();
        low + (high - low) * if inside { 0.9 - wave } else { wave }
    };
    (0..h * w * c).map(value).collect()
}

#[test]
#[ignore = "needs the real networks: tests/cuda.sh names them"]
fn real_networks_give_the_processors_outputs() {
    let folder =
        PathBuf::from(std::env::var_os("DREAMSEED_CUDA_NETS").expect("DREAMSEED_CUDA_NETS is a folder of models by id"));
    let all = std::env::var_os("DREAMSEED_CUDA_ALL").is_some();
    let device = Device::open(0).unwrap();
    let heads = ["center_0/conv2d_4", "box_scale_0/conv2d_5", "kpt_heatmap_0/conv2d_7", "kpt_regress_0/conv2d_8"]
        .map(|h| format!("StatefulPartitionedCall/{h}/BiasAdd"));
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let (unit, signed, mut far) = ([0.0, 1.0], [-1.0, 1.0], Vec::new());
    for (file, range, large, heads) in [
        ("face-iris/iris_landmark.tflite", unit, false, &[][..]),
        ("face-detector/face_detection_short_range.tflite", signed, false, &[]),
        ("face-emotion/emotion.json", signed, false, &[]),
        ("face-mesh/face_landmark.tflite", unit, false, &[]),
        ("blazepose-detector/pose_detection.tflite", signed, true, &[]),
        ("blazepose-lite/pose_landmark_lite.tflite", unit, true, &[]),
        ("blazepose-full/pose_landmark_full.tflite", unit, true, &[]),
        ("blazepose-heavy/pose_landmark_heavy.tflite", unit, true, &[]),
        ("movenet-multipose/movenet-multipose.json", [0.0, 255.0], true, &heads),
    ] {
        let path = folder.join(file);
        if !path.exists() || (large && !all) {
            eprintln!("skipped: {file}");
            continue;
        }
        let open = |on: &Processor| match heads {
            [] => Network::open_on(on, &path).unwrap(),
            heads => Network::open_outputs_on(on, &path, heads).unwrap(),
        };
        let (cpu, gpu) = (open(&Processor::Cpu), open(&Processor::Gpu(device.clone())));
        let x = picture(&cpu.inputs()[0].shape, range);
        let begin = std::time::Instant::now();
        let differences = compare(&cpu, &gpu, &[&x]);
        let seconds = begin.elapsed().as_secs_f32();
        // how far the processor's own instruction sets are apart tells how much a network makes of a last bit
        simd::limit(simd::Level::Portable);
        let plain = open(&Processor::Cpu);
        simd::limit(simd::detect());
        let own = compare(&plain, &cpu, &[&x]);
        let (launches, weights) = (net(&gpu).launches(), net(&gpu).weight_bytes());
        eprintln!(
            "{file}: {launches} launches, {weights} bytes of weights, {} of a session, {} million multiply-adds, off by at most {:.1e} \
             of an output's largest value (the processor's instruction sets among themselves: {:.1e}), {seconds:.1} s",
            gpu.session_bytes(),
            gpu.macs() / 1_000_000,
            differences.iter().fold(0.0f32, |m, &d| m.max(d)),
            own.iter().fold(0.0f32, |m, &d| m.max(d)),
        );
        // BlazePose makes much of a last bit, on the processor too: the bound is what that does to its outputs, measured, with room
        let bound = if large { 1e-3 } else { 1e-5 };
        if differences.iter().any(|&d| d.is_nan() || d > bound) {
            far.push(format!("{file}: {differences:?}, {own:?} on the processor"));
        }
        drop(gpu);
        assert_eq!(device.used(), 0, "{file}");
    }
    assert!(far.is_empty(), "{far:#?}");
}
