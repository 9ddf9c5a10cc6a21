//! Rows of transformers, sequences side by side, and features of sound, on odd shapes.

use super::*;
use crate::cpu::reference;
use std::f64::consts::TAU;

fn doubles(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| v.into()).collect()
}

/// What codes and scales say.
fn decoded(q: &Quantized, len: usize) -> Vec<f32> {
    let (codes, scales) = (read(&q.q, len), read(&q.scale, len / 32));
    codes.iter().enumerate().map(|(i, &c)| f32::from(c) * scales[i / 32][0]).collect()
}

#[test]
fn layer_norms_and_their_codes_agree_with_f64() {
    let Some(device) = device() else { return };
    for (rows, k) in [(1, 32), (3, 384), (2, 576), (5, 33), (2, 1)] {
        // far from zero: a variance by differences of squares would be lost
        let x: Vec<f32> = noise(1, rows * k).iter().map(|v| v + 100.0).collect();
        let (gamma, beta) = (noise(2, k), noise(3, k));
        let (on, dx) = ([&gamma, &beta].map(|v| device.upload(v).unwrap()), device.upload(&x).unwrap());
        let norm = LayerNorm { gamma: &on[0], beta: &on[1], eps: 1e-5 };
        let (mut h, mut q) = (device.zeros(rows * k).unwrap(), Quantized::new(&device, rows, k).unwrap());
        let want: Vec<f64> = x.chunks(k).flat_map(|x| reference::layer_norm(x, &gamma, &beta, 1e-5)).collect();
        if !k.is_multiple_of(32) {
            assert!(matches!(layer_norm(&device, rows, &dx, norm, &mut h, Some(&mut q)), Err(Error::Shape(_))));
            layer_norm(&device, rows, &dx, norm, &mut h, None).unwrap();
        } else {
            layer_norm(&device, rows, &dx, norm, &mut h, Some(&mut q)).unwrap();
            close("codes", &decoded(&q, rows * k), &want, 0.5 / 127.0 + 1e-4);
        }
        close(&format!("norm {rows} x {k}"), &read(&h, rows * k), &want, 1e-4);
    }
}

#[test]
fn activations_gates_and_their_codes_agree_with_f64() {
    let Some(device) = device() else { return };
    let all = [Activation::None, Activation::Relu, Activation::Relu6, Activation::Gelu, Activation::GeluTanh];
    for activation in all.into_iter().chain([Activation::Silu, Activation::Sigmoid, Activation::HardSwish]) {
        for (rows, k, gated) in [(3, 64, false), (2, 45, true), (1, 288, true)] {
            let x: Vec<f32> = noise(4, rows * k).iter().map(|v| 8.0 * v).collect();
            let up = noise(5, rows * k);
            let (mut dx, dup) = (device.upload(&x).unwrap(), device.upload(&up).unwrap());
            let mut q = k.is_multiple_of(32).then(|| Quantized::new(&device, rows, k).unwrap());
            activate(&device, (rows, k), activation, &mut dx, gated.then_some(&dup), q.as_mut()).unwrap();
            let one = |(x, up): (&f32, &f32)| {
                reference::activation(activation, f64::from(*x)) * if gated { f64::from(*up) } else { 1.0 }
            };
            let want: Vec<f64> = x.iter().zip(&up).map(one).collect();
            close(&format!("{activation:?} {rows} x {k}"), &read(&dx, rows * k), &want, 1e-5);
            if let Some(q) = q {
                close("codes", &decoded(&q, rows * k), &want, 0.5 / 127.0 + 1e-4);
            }
        }
    }
}

#[test]
fn frames_places_and_rows_are_where_they_belong() {
    let Some(device) = device() else { return };
    for (frames, channels, stride) in [(1, 3, 1), (7, 80, 1), (7, 5, 2), (10, 384, 2)] {
        let x = noise(6, frames * channels);
        let rows = frames.div_ceil(stride);
        let mut out = device.zeros(rows * 3 * channels).unwrap();
        unfold(&device, (frames, channels), stride, &device.upload(&x).unwrap(), &mut out).unwrap();
        let value = |i: usize| {
            let (row, tap, channel) = (i / (3 * channels), i / channels % 3, i % channels);
            let frame = (row * stride + tap).checked_sub(1).filter(|f| *f < frames);
            frame.map_or(0.0, |f| x[f * channels + channel])
        };
        assert_eq!(read(&out, rows * 3 * channels), (0..rows * 3 * channels).map(value).collect::<Vec<_>>());
    }
    let (k, table) = (37, noise(7, 11 * 37));
    let on = device.upload(&table).unwrap();
    let mut x = device.upload(&vec![1.0; 4 * k]).unwrap();
    let rows = device.upload(&[10, 0, 99, 3]).unwrap();
    add_places(&device, 4, &rows, (&on, 11, k), &mut x).unwrap();
    let want = |i: usize| table[[10, 0, 10, 3][i / k] * k + i % k];
    assert_eq!(read(&x, 4 * k), (0..4 * k).map(|i| 1.0 + want(i)).collect::<Vec<_>>());
    let mut out = device.zeros(4 * k).unwrap();
    gather(&device, 4, &rows, (&on, 11, k), &mut out).unwrap();
    assert_eq!(read(&out, 4 * k), (0..4 * k).map(want).collect::<Vec<_>>());
    assert!(matches!(gather(&device, 4, &rows, (&on, 12, k), &mut out), Err(Error::Shape(_))));
}

#[test]
fn rows_in_parts_are_put_together() {
    let Some(device) = device() else { return };
    for (rows, parts, width, k) in [(1, 1, 1, 1), (3, 2, 25, 49), (32, 4, 150, 600), (2, 3, 300, 898)] {
        let x = noise(8, parts * rows * width);
        let mut out = device.zeros(rows * k).unwrap();
        join(&device, rows, (&device.upload(&x).unwrap(), parts, width), k, &mut out).unwrap();
        let want = |i: usize| {
            let (row, part, column) = (i / k, i % k / width, i % k % width);
            x[part * rows * width + row * width.min(k - part * width) + column]
        };
        assert_eq!(read(&out, rows * k), (0..rows * k).map(want).collect::<Vec<_>>());
    }
    let (x, mut out) = (device.zeros(12).unwrap(), device.zeros(12).unwrap());
    for (rows, parts, width, k) in [(2, 2, 3, 7), (3, 2, 3, 6), (2, 2, 3, 0)] {
        let refused = join(&device, rows, (&x, parts, width), k, &mut out);
        assert!(matches!(refused, Err(Error::Shape(_))), "{rows} {parts} {width} {k}");
    }
}

/// The definition in f64: one query's sums and weights over keys and values of one head, (positions) of (head_dim).
fn attended(q: &[f32], keys: &[&[f32]], values: &[&[f32]], scale: f64) -> (Vec<f64>, Vec<f64>) {
    let half = |v: f32| half::f16::from_f32(v).to_f64();
    let score = |k: &&[f32]| q.iter().zip(*k).map(|(a, b)| f64::from(*a) * half(*b)).sum::<f64>() * scale;
    let weights: Vec<f64> = keys.iter().map(|k| score(k).exp()).collect();
    let total: f64 = weights.iter().sum();
    let weights: Vec<f64> = weights.iter().map(|w| w / total).collect();
    let sum = |e: usize| weights.iter().zip(values).map(|(w, v)| w * half(v[e])).sum();
    ((0..q.len()).map(sum).collect(), weights)
}

#[test]
fn sequences_that_part_share_what_was_before() {
    let Some(device) = device() else { return };
    for (heads, dim) in [(2, 32), (3, 64), (1, 128), (5, 8)] {
        let (capacity, width) = (9, heads * dim);
        let mut beams = Beams::new(&device, BeamsShape { lines: 3, capacity, heads, head_dim: dim }).unwrap();
        // five positions of sequence 0 at once; then all three go on from them; then 0 goes on from what 1 wrote, and 1 too
        let origins = [vec![0; 27], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 2, 2, 2, 2].into()];
        let last = [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 2, 2, 2, 2].into();
        type Pass<'a> = (&'a [(usize, usize)], &'a Vec<i32>); // lines and positions of its rows, and where each line comes from
        let passes: [Pass; 3] = [
            (&[(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)], &origins[0]),
            (&[(0, 5), (1, 5), (2, 5)], &origins[1]),
            (&[(0, 6), (1, 6)], &last),
        ];
        let mut held: Vec<Vec<f32>> = vec![Vec::new(); 27]; // keys and values of each position of each line
        for (pass, (rows, origins)) in passes.into_iter().enumerate() {
            let count = rows.len();
            let qkv = noise(8 + pass as u32, count * 3 * width);
            let upload = |of: fn(&(usize, usize)) -> usize| {
                device.upload(&rows.iter().map(|r| of(r) as i32).collect::<Vec<_>>()).unwrap()
            };
            let (sequences, positions, table) = (upload(|r| r.0), upload(|r| r.1), device.upload(origins).unwrap());
            let r = BeamRows { sequences: &sequences, positions: &positions, origins: &table };
            let from = device.upload(&qkv).unwrap();
            beams.append(&device, (count, Some(&r)), (&from, 3 * width), [width, 2 * width]).unwrap();
            let line = |s: usize, p: usize| origins[s * capacity + p] as usize * capacity + p;
            for (row, (s, p)) in qkv.chunks(3 * width).zip(rows) {
                held[line(*s, *p)] = row[width..].to_vec();
            }
            let (mut out, mut q8) = (device.zeros(count * width).unwrap(), Quantized::new(&device, count, width).unwrap());
            let quantized = dim.is_multiple_of(32).then_some(&mut q8);
            let a = BeamsAttend { q: (&from, 3 * width), scale: 0.3, out: &mut out, quantized, probe: None };
            beams.attend(&device, 0..count, Some(&r), a).unwrap();
            let got = read(&out, count * width);
            for (i, h) in (0..count).flat_map(|i| (0..heads).map(move |h| (i, h))) {
                let (s, p) = rows[i];
                let part = |p: usize, of: usize| &held[line(s, p)][of * width + h * dim..][..dim];
                let (keys, values): (Vec<_>, Vec<_>) = (0..=p).map(|p| (part(p, 0), part(p, 1))).unzip();
                let (want, _) = attended(&qkv[i * 3 * width + h * dim..][..dim], &keys, &values, 0.3);
                close(&format!("{heads} x {dim} pass {pass} row {i}"), &got[i * width + h * dim..][..dim], &want, 1e-5);
            }
            if dim.is_multiple_of(32) {
                close("codes", &decoded(&q8, count * width), &doubles(&got), 0.5 / 127.0 + 1e-5);
            }
        }
    }
}

#[test]
fn attention_across_tells_what_heads_look_at() {
    let Some(device) = device() else { return };
    let (heads, dim, capacity, count) = (3, 32, 301, 4);
    let (width, range) = (heads * dim, 2..6);
    let mut beams = Beams::new(&device, BeamsShape { lines: 1, capacity, heads, head_dim: dim }).unwrap();
    let (kv, q) = (noise(9, capacity * 2 * width), noise(10, range.end * width));
    beams.append(&device, (capacity, None), (&device.upload(&kv).unwrap(), 2 * width), [0, width]).unwrap();
    let places = device.upload(&[1, -1, 0]).unwrap();
    let (mut out, mut weights) = (device.zeros(range.end * width).unwrap(), device.zeros(2 * count * capacity).unwrap());
    let mut codes = Quantized::new(&device, range.end, width).unwrap();
    let dq = device.upload(&q).unwrap();
    let probe = Some(BeamsProbe { places: &places, count: 2, weights: &mut weights });
    let a = BeamsAttend { q: (&dq, width), scale: 0.2, out: &mut out, quantized: Some(&mut codes), probe };
    beams.attend(&device, range.clone(), None, a).unwrap();
    let (got, weights) = (read(&out, range.end * width), read(&weights, 2 * count * capacity));
    assert!(got[..range.start * width].iter().all(|v| *v == 0.0), "rows before are another's");
    close("codes", &decoded(&codes, range.end * width), &doubles(&got), 0.5 / 127.0 + 1e-5);
    for (i, h) in (0..count).flat_map(|i| (0..heads).map(move |h| (i, h))) {
        let part = |of: usize| move |p: usize| (p * 2 + of) * width + h * dim;
        let keys: Vec<&[f32]> = (0..capacity).map(part(0)).map(|at| &kv[at..at + dim]).collect();
        let values: Vec<&[f32]> = (0..capacity).map(part(1)).map(|at| &kv[at..at + dim]).collect();
        let at = (range.start + i) * width + h * dim;
        let (want, looked) = attended(&q[at..at + dim], &keys, &values, 0.2);
        close(&format!("row {i} head {h}"), &got[at..at + dim], &want, 1e-4);
        if let Some(probe) = [Some(1), None, Some(0)][h] {
            close("weights", &weights[(probe * count + i) * capacity..][..capacity], &looked, 1e-4);
        }
    }
}

#[test]
fn rows_beyond_what_there_is_are_refused() {
    let Some(device) = device() else { return };
    let shape = BeamsShape { lines: 2, capacity: 4, heads: 1, head_dim: 8 };
    let mut beams = Beams::new(&device, shape).unwrap();
    let (from, few, lines) = (device.zeros(24 * 9).unwrap(), device.zeros(1).unwrap(), device.zeros(8).unwrap());
    let all = BeamRows { sequences: &few, positions: &few, origins: &lines };
    let mut append = |count, rows, stride, parts| {
        assert!(matches!(beams.append(&device, (count, rows), (&from, stride), parts), Err(Error::Shape(_))), "{count}");
    };
    append(5, None, 24, [8, 16]);
    append(1, None, 24, [8, 17]);
    append(3, None, 99, [8, 16]);
    append(2, Some(&all), 24, [8, 16]);
    append(1, Some(&BeamRows { origins: &few, ..all }), 24, [8, 16]);
    let mut out = device.zeros(8).unwrap();
    let a = BeamsAttend { q: (&from, 24), scale: 1.0, out: &mut out, quantized: None, probe: None };
    assert!(matches!(beams.attend(&device, 0..2, None, a), Err(Error::Shape(_))));
    for head_dim in [0, 12, 136] {
        assert!(matches!(Beams::new(&device, BeamsShape { head_dim, ..shape }), Err(Error::Shape(_))));
    }
    let vast = BeamsShape { lines: usize::MAX / 2, ..shape };
    assert!(matches!(Beams::new(&device, vast), Err(Error::OutOfMemory { .. })));
}

#[test]
fn features_of_sound_equal_the_definition() {
    let Some(device) = device() else { return };
    // bands of all widths, the last bin's too
    let filters: Vec<(std::ops::Range<usize>, Vec<f32>)> = [1..2, 2..9, 5..60, 150..201, 77..77]
        .map(|b| (b.clone(), noise(b.end as u32, b.len()).iter().map(|v| v.abs()).collect()))
        .into();
    let bank = MelBank::new(&device, &filters).unwrap();
    assert!(matches!(MelBank::new(&device, &[(200..202, vec![1.0; 2])]), Err(Error::Shape(_))));
    for len in [159, 160, 777, 2400] {
        let mut pcm = noise(11, len);
        if len > 700 {
            (pcm[300], pcm[650]) = (f32::NAN, f32::INFINITY);
        }
        let sample = |i: isize| match pcm.get(i.unsigned_abs()) {
            Some(x) if x.is_finite() => f64::from(*x),
            _ => 0.0,
        };
        let mut want = Vec::new();
        for t in 0..len / 160 {
            let power = |bin: usize| {
                let turn = |n: usize| TAU * ((bin * n) % 400) as f64 / 400.0;
                let x = |n: usize| sample((t * 160 + n) as isize - 200) * (0.5 - 0.5 * (TAU * n as f64 / 400.0).cos());
                let part = |f: fn(f64) -> f64| (0..400).map(|n| x(n) * f(turn(n))).sum::<f64>();
                part(f64::cos).powi(2) + part(f64::sin).powi(2)
            };
            want.extend(filters.iter().map(|(bins, weights)| {
                bins.clone().zip(weights).map(|(b, w)| power(b) * f64::from(*w)).sum::<f64>().max(1e-10).log10()
            }));
        }
        let floor = want.iter().copied().fold(f64::NEG_INFINITY, f64::max) - 8.0;
        want.iter_mut().for_each(|x| *x = (x.max(floor) + 4.0) / 4.0);
        let got = bank.extract(&device, &pcm).unwrap();
        assert_eq!(got.len(), want.len());
        close(&format!("{len} samples"), &got, &want, 1e-4);
    }
    assert!(bank.extract(&device, &[0.0; 480]).unwrap().iter().all(|x| (x + 1.5).abs() < 1e-5));
}
