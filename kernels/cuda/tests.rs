//! The kernels against the references of their CPU twins. They need a driver: a GPU's, or the emulator of `tests/cuda.sh`. Without one
//! they say so and pass, unless `DREAMSEED_CUDA_TEST` asks for them.

mod attention;
mod transformer;

use super::*;
use crate::linear::tests::noise;
use crate::quant::dequantize;
use crate::random::{tests::before, uniform};
use crate::{Activation, BlockType};

/// The device of the tests.
pub(super) fn device() -> Option<Device> {
    match Device::open(0) {
        Ok(device) => Some(device),
        Err(e) if std::env::var_os("DREAMSEED_CUDA_TEST").is_none() => {
            eprintln!("skipped: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

pub(super) fn read<T: Element + Default>(buffer: &Buffer<T>, len: usize) -> Vec<T> {
    let mut values = vec![T::default(); len];
    buffer.read(0, &mut values).unwrap();
    values
}

/// Blocks of a kind with plausible scales, and their values.
pub(super) fn weights(kind: BlockType, n: usize, k: usize, seed: u32) -> (Vec<u8>, Vec<f32>) {
    let (block, size) = kind.block();
    let mut bytes: Vec<u8> = noise(seed, n * k / block * size).iter().map(|v| (v * 128.0) as i8 as u8).collect();
    let half = |v: f32| half::f16::from_f32(v).to_le_bytes();
    for (i, (b, v)) in bytes.chunks_exact_mut(size).zip(noise(seed + 1, n * k / block)).enumerate() {
        match kind {
            BlockType::F32 => b.copy_from_slice(&v.to_le_bytes()),
            BlockType::F16 => b.copy_from_slice(&half(v)),
            BlockType::BF16 => b.copy_from_slice(&half::bf16::from_f32(v).to_le_bytes()),
            BlockType::Q8K => b[..4].copy_from_slice(&(0.01 * v).to_le_bytes()),
            BlockType::Q6K => b[208..].copy_from_slice(&half(0.001 * v)),
            BlockType::Q3K => b[108..].copy_from_slice(&half(0.002 * v)),
            BlockType::Q2K => {
                b[80..82].copy_from_slice(&half(0.02 * v));
                b[82..].copy_from_slice(&half(0.01 * v.abs()));
            }
            _ => {
                b[..2].copy_from_slice(&half(if kind.block().0 == 256 { 0.002 } else { 0.05 } * v));
                if matches!(kind, BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K) {
                    b[2..4].copy_from_slice(&half(0.01 * (i as f32).sin()));
                }
            }
        }
    }
    let mut values = vec![0.0; n * k];
    dequantize(kind, &bytes, &mut values).unwrap();
    (bytes, values)
}

/// x as 8 bits have it.
pub(super) fn rounded(x: &[f32]) -> Vec<f32> {
    let unit = |u: &[f32]| {
        let d = u.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
        u.iter().map(|v| if d > 0.0 { (v / d).round_ties_even() * d } else { 0.0 }).collect::<Vec<_>>()
    };
    x.chunks(32).flat_map(unit).collect()
}

pub(super) fn close(what: &str, got: &[f32], want: &[f64], bound: f64) {
    let size = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let apart = (f64::from(*g) - w).abs() / size;
        assert!(apart <= bound, "{what} [{i}]: {g}, not {w}");
    }
}

pub(super) fn product(x: &[f32], w: &[f32], k: usize) -> Vec<f64> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    x.chunks_exact(k).flat_map(|x| w.chunks_exact(k).map(move |w| dot(x, w))).collect()
}

fn normed(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let norm = |x: &[f32]| {
        let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / x.len() as f64;
        let by = 1.0 / (mean + f64::from(eps)).sqrt();
        x.iter().zip(weight).map(|(v, w)| (f64::from(*v) * by * f64::from(*w)) as f32).collect::<Vec<_>>()
    };
    x.chunks_exact(weight.len()).flat_map(norm).collect()
}

#[test]
fn norms_and_their_codes_agree_with_f64() {
    let Some(device) = device() else { return };
    for (rows, k) in [(1, 32), (3, 64), (2, 576), (1, 96)] {
        let (x, weight) = (noise(1, rows * k), noise(2, k));
        let (dx, dw) = (device.upload(&x).unwrap(), device.upload(&weight).unwrap());
        let (mut h, mut q) = (device.zeros(rows * k).unwrap(), Quantized::new(&device, rows, k).unwrap());
        rms_norm(&device, rows, &dx, (&dw, 1e-5), &mut h, Some(&mut q)).unwrap();
        let want = normed(&x, &weight, 1e-5);
        let exact: Vec<f64> = want.iter().map(|&v| v.into()).collect();
        close("norm", &read(&h, rows * k), &exact, 1e-6);
        let (codes, scales) = (read(&q.q, rows * k), read(&q.scale, rows * k / 32));
        for (u, [d, sum]) in scales.iter().enumerate() {
            let codes = &codes[32 * u..][..32];
            assert_eq!(codes.iter().map(|&c| i32::from(c)).sum::<i32>() as f32 * d, *sum);
            let back: Vec<f32> = codes.iter().map(|&c| f32::from(c) * d).collect();
            close("codes", &back, &exact[32 * u..][..32], 0.5 / 127.0 + 1e-5);
        }
        let mut residual = device.upload(&x).unwrap();
        add_norm(&device, rows, &dx, (&dw, 1e-5), &mut residual).unwrap();
        let sums: Vec<f64> = x.iter().zip(&exact).map(|(x, n)| f64::from(*x) + n).collect();
        close("sum", &read(&residual, rows * k), &sums, 1e-6);
    }
}

#[test]
fn products_agree_with_f64_for_every_block_type() {
    let Some(device) = device() else { return };
    for kind in BlockType::ALL {
        let k = if kind.block().0 == 256 { 512 } else { 96 };
        for rows in [1, 2, 4, 8] {
            let (n, other) = (37, 5);
            let ((bytes, w), (bytes2, w2)) = (weights(kind, n, k, 3), weights(BlockType::Q8_0, other, k, 4));
            let (x, ones, bias) = (noise(5, rows * k), vec![1.0; k], noise(6, n));
            let (dx, ones) = (device.upload(&x).unwrap(), device.upload(&ones).unwrap());
            let mut h = device.zeros(rows * k).unwrap();
            let mut q = Quantized::new(&device, rows, k).unwrap();
            rms_norm(&device, rows, &dx, (&ones, 0.0), &mut h, Some(&mut q)).unwrap();
            let a = DeviceMatrix::new(&device, kind, n, k, &bytes).unwrap();
            let b = DeviceMatrix::new(&device, BlockType::Q8_0, other, k, &bytes2).unwrap();
            let bias_on = device.upload(&bias).unwrap();
            let before = noise(7, rows * n);
            let (mut out, mut out2) = (device.upload(&before).unwrap(), device.zeros(rows * other).unwrap());
            let h_plain = normed(&x, &vec![1.0; k], 0.0);
            let input = GemvInput::Plain { x: &h, quantized: Some(&q) };
            let mut parts =
                [Part { weights: &a, bias: Some(&bias_on), out: &mut out }, Part { weights: &b, bias: None, out: &mut out2 }];
            gemv(&device, rows, &input, &mut parts, true).unwrap();
            let seen = if kind.block().0 > 1 { rounded(&h_plain) } else { h_plain.clone() };
            let mut want = product(&seen, &w, k);
            want.iter_mut().enumerate().for_each(|(i, v)| *v += f64::from(bias[i % n]) + f64::from(before[i]));
            close(&format!("{kind:?} {rows}"), &read(&out, rows * n), &want, 2e-4);
            close("second", &read(&out2, rows * other), &product(&rounded(&h_plain), &w2, k), 2e-4);
            let (some, mut out3) = (a.some(16..n).unwrap(), device.zeros(rows * (n - 16)).unwrap());
            gemv(&device, rows, &input, &mut [Part { weights: &some, bias: None, out: &mut out3 }], false).unwrap();
            close("some rows", &read(&out3, rows * (n - 16)), &product(&seen, &w[16 * k..], k), 2e-4);
            assert!(matches!(a.some(16..n + 1).map(drop), Err(Error::Shape(_))));
            if rows == 1 {
                let input = GemvInput::Normed { x: &dx, weight: &ones, eps: 0.0 };
                let mut out = device.zeros(n).unwrap();
                gemv(&device, 1, &input, &mut [Part { weights: &a, bias: None, out: &mut out }], false).unwrap();
                close(&format!("{kind:?} normed"), &read(&out, n), &product(&seen, &w, k), 2e-4);
            }
        }
    }
}

/// In one launch, whatever the types of the two: of one row its norm too.
#[test]
fn the_gate_is_activated_multiplied_and_quantized_for_every_block_type() {
    let Some(device) = device() else { return };
    let (hidden, k) = (64, 256);
    let others = BlockType::ALL.into_iter().cycle().skip(3);
    for (i, (kind, other)) in BlockType::ALL.into_iter().zip(others).enumerate() {
        let activation = [Activation::Silu, Activation::GeluTanh][i % 2];
        let act = |v: f64| crate::cpu::reference::activation(activation, v);
        let ((gate, wg), (up, wu)) = (weights(kind, hidden, k, 8), weights(other, hidden, k, 9));
        let a = DeviceMatrix::new(&device, kind, hidden, k, &gate).unwrap();
        let b = DeviceMatrix::new(&device, other, hidden, k, &up).unwrap();
        let (bias, ones) = (noise(11, hidden), device.upload(&vec![1.0; k]).unwrap());
        let bias_on = device.upload(&bias).unwrap();
        for rows in [1, 2, 4, 8] {
            let x = noise(10, rows * k);
            let dx = device.upload(&x).unwrap();
            let (mut h, mut q) = (device.zeros(rows * k).unwrap(), Quantized::new(&device, rows, k).unwrap());
            rms_norm(&device, rows, &dx, (&ones, 0.0), &mut h, Some(&mut q)).unwrap();
            let plain = normed(&x, &vec![1.0; k], 0.0);
            let seen = |kind: BlockType| if kind.block().0 > 1 { rounded(&plain) } else { plain.clone() };
            let gates = product(&seen(kind), &wg, k).into_iter().enumerate().map(|(i, g)| act(g + f64::from(bias[i % hidden])));
            let want: Vec<f64> = gates.zip(product(&seen(other), &wu, k)).map(|(g, u)| g * u).collect();
            let inputs = [
                Some(GemvInput::Plain { x: &h, quantized: Some(&q) }),
                (rows == 1).then_some(GemvInput::Normed { x: &dx, weight: &ones, eps: 0.0 }),
            ];
            for input in inputs.into_iter().flatten() {
                let (mut out, mut out_q) =
                    (device.zeros(rows * hidden).unwrap(), Quantized::new(&device, rows, hidden).unwrap());
                let (gate, up) = ((&a, Some(&bias_on)), (&b, None));
                let g = Gate { gate, up, activation, out: &mut out, quantized: Some(&mut out_q) };
                gated(&device, rows, &input, g).unwrap();
                let what = format!("{kind:?} and {other:?}, {rows} rows");
                close(&what, &read(&out, rows * hidden), &want, 2e-4);
                let (codes, scales) = (read(&out_q.q, rows * hidden), read(&out_q.scale, rows * hidden / 32));
                let back: Vec<f32> = codes.iter().enumerate().map(|(i, &c)| f32::from(c) * scales[i / 32][0]).collect();
                close(&format!("{what} in 8 bits"), &back, &want, 0.5 / 127.0 + 1e-3);
            }
        }
    }
}

#[test]
fn embeddings_and_capped_logits() {
    let Some(device) = device() else { return };
    for kind in BlockType::ALL {
        let k = if kind.block().0 == 256 { 256 } else { 64 };
        let (bytes, values) = weights(kind, 7, k, 11);
        let table = DeviceMatrix::new(&device, kind, 7, k, &bytes).unwrap();
        let (tokens, mut x) = (device.upload(&[3, 0, 6, 99]).unwrap(), device.zeros(4 * k).unwrap());
        embed(&device, 4, &table, 2.0, &tokens, &mut x).unwrap();
        let want: Vec<f64> =
            [3, 0, 6, 6].iter().flat_map(|&t| values[t * k..][..k].iter().map(|v| 2.0 * f64::from(*v))).collect();
        close(&format!("{kind:?}"), &read(&x, 4 * k), &want, 1e-6);
    }
    let n = 3001;
    let logits = noise(12, n);
    let mut x = device.upload(&logits).unwrap();
    softcap(&device, &mut x, n, 2.0).unwrap();
    let want: Vec<f64> = logits.iter().map(|&v| 2.0 * (f64::from(v) / 2.0).tanh()).collect();
    close("softcap", &read(&x, n), &want, 1e-6);
}

/// The choice as the CPU's sampler makes it, by sorting.
fn chosen_by_sorting(logits: &[f32], c: &Choice) -> i32 {
    let mut all: Vec<(f32, i32)> = logits.iter().copied().zip(0..).filter(|l| l.0.is_finite()).collect();
    let Some(best) = all.iter().copied().reduce(|a, b| if b.0 > a.0 { b } else { a }) else { return -1 };
    if c.temperature == 0.0 {
        return best.1;
    }
    if c.top_k > 0 || c.top_p < 1.0 {
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    }
    all.truncate(if c.top_k > 0 { c.top_k as usize } else { all.len() });
    let mass = |l: f32, t: f32| f64::from((l - best.0) / t).exp();
    if c.top_p < 1.0 {
        let goal = f64::from(c.top_p) * all.iter().map(|l| mass(l.0, 1.0)).sum::<f64>();
        let mut sum = 0.0;
        let reaches = |l: &(f32, i32)| {
            sum += mass(l.0, 1.0);
            sum >= goal
        };
        let kept = all.iter().position(reaches).map_or(all.len(), |last| last + 1);
        all.truncate(kept);
    }
    all.retain(|l| l.0 >= best.0 + c.ln_min_p);
    let mut random = c.random;
    let mut left = uniform(&mut random) * all.iter().map(|l| mass(l.0, c.temperature)).sum::<f64>();
    let drawn = all.iter().find(|l| {
        left -= mass(l.0, c.temperature);
        left < 0.0
    });
    drawn.unwrap_or(&all[0]).1
}

#[test]
fn tokens_are_chosen_as_by_sorting() {
    let Some(device) = device() else { return };
    let all = Choice { random: 0, temperature: 1.0, top_p: 1.0, ln_min_p: f32::NEG_INFINITY, top_k: 0 };
    let kinds = [
        Choice { temperature: 0.0, ..all },
        all,
        Choice { temperature: 0.3, ..all },
        Choice { top_k: 1, ..all },
        Choice { top_k: 40, top_p: 0.95, ln_min_p: 0.05f32.ln(), ..all },
        Choice { top_k: 5000, temperature: 2.0, ..all },
        Choice { top_p: 0.5, ..all },
        Choice { top_p: 1e-6, ..all },
        Choice { top_p: 0.999, ln_min_p: 0.1f32.ln(), temperature: 0.7, ..all },
        Choice { ln_min_p: 0.0, ..all },
        Choice { top_k: 7, ln_min_p: 0.5f32.ln(), ..all },
    ];
    for n in [1, 31, 1025, 9001] {
        let row = |seed: u32| -> Vec<f32> {
            let mut x: Vec<f32> = noise(seed, n).iter().map(|v| 6.0 * v + (seed % 3) as f32 * 40.0 - 40.0).collect();
            match seed % 5 {
                0 => x.iter_mut().for_each(|v| *v = v.round()), // many are equal
                1 => x.iter_mut().skip(1).step_by(3).for_each(|v| *v = [f32::NAN, f32::NEG_INFINITY, -3e38][seed as usize % 3]),
                2 => x.iter_mut().step_by(2).for_each(|v| *v *= 1e-3),
                3 if n > 1 => x[n / 2] = 1e4,
                _ => {}
            }
            x
        };
        let rows = kinds.len();
        for round in 0..6u32 {
            let mut logits: Vec<f32> = (0..rows as u32).flat_map(|r| row(round * 100 + r)).collect();
            if round == 5 {
                logits[..n].fill(f32::INFINITY);
                logits[n..2 * n].fill(f32::NAN);
            }
            let choices: Vec<Choice> = kinds
                .iter()
                .zip(noise(900 + round, rows))
                .map(|(c, u)| Choice {
                    random: [u64::from(u.to_bits()), before(0), before(!0 / 1_000_000 * 999_999)][round as usize % 3],
                    ..*c
                })
                .collect();
            let (x, mut choices_on) = (device.upload(&logits).unwrap(), device.upload(&choices).unwrap());
            let mut out = device.zeros(rows).unwrap();
            choose(&device, rows, (&x, n), (&mut choices_on, &mut out), None).unwrap();
            assert_eq!(read(&choices_on, rows), choices);
            for (r, (got, c)) in read(&out, rows).into_iter().zip(&choices).enumerate() {
                let own = &logits[r * n..][..n];
                assert_eq!(got.token, chosen_by_sorting(own, c), "{n} logits, round {round}, {c:?}");
                if got.token >= 0 {
                    let finite = || own.iter().filter(|l| l.is_finite()).map(|&l| f64::from(l));
                    let max = finite().fold(f64::NEG_INFINITY, f64::max);
                    let want = f64::from(own[got.token as usize]) - max - finite().map(|l| (l - max).exp()).sum::<f64>().ln();
                    assert!((f64::from(got.logprob) - want).abs() < 1e-4 * want.abs().max(1.0), "{got:?} for {want}");
                }
            }
        }
    }
}

/// Step after step without a word from the host: greedy rows, drawn ones, one without a finite logit and an empty one.
#[test]
fn rows_go_on_by_what_was_chosen() {
    let Some(device) = device() else { return };
    let (n, rows, most) = (300, 6, 8);
    let drawn = Choice { random: 7, temperature: 0.8, top_p: 1.0, ln_min_p: f32::NEG_INFINITY, top_k: 0 };
    let greedy = Choice { temperature: 0.0, ..drawn };
    let mut choices = [drawn, greedy, Choice { random: u64::MAX - 3, top_k: 20, ..drawn }, drawn, drawn, greedy];
    let mut on = Rows::new(&device, most, 3, 1).unwrap();
    let mut inputs: Vec<i32> = (0..4 * most as i32).map(|i| 5 * i).collect();
    inputs[most + 3] = -1;
    on.inputs.write(0, &inputs).unwrap();
    let mut choices_on = device.upload(&choices).unwrap();
    let mut out = device.zeros(rows).unwrap();
    for step in 0..4 {
        let mut logits = noise(40 + step, rows * n);
        logits[4 * n..5 * n].fill(f32::NAN);
        let x = device.upload(&logits).unwrap();
        choose(&device, rows, (&x, n), (&mut choices_on, &mut out), Some(&mut on)).unwrap();
        for (i, c) in choices.iter_mut().enumerate() {
            let token = chosen_by_sorting(&logits[i * n..][..n], c);
            assert_eq!(read(&out, rows)[i].token, token, "row {i}, step {step}");
            if i != 3 {
                inputs[i] = token;
                inputs[most + i] += 1;
                inputs[2 * most + i] += 1;
                *c = c.after();
            }
        }
        assert_eq!(read(&on.inputs, 4 * most), inputs, "step {step}");
        assert_eq!(read(&choices_on, rows), choices, "step {step}");
    }
    let mut random = 7;
    (0..4).for_each(|_| _ = uniform(&mut random));
    assert_eq!((choices[0].random, choices[1].random, choices[3].random), (random, 7, 7));
    let (mut few, x) = (Rows::new(&device, 2, 1, 1).unwrap(), device.zeros(rows * n).unwrap());
    let refused = choose(&device, rows, (&x, n), (&mut choices_on, &mut out), Some(&mut few));
    assert!(matches!(refused, Err(Error::Shape(_))));
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_left_behind() {
    let Some(device) = device() else { return };
    assert!(matches!(Device::open(99), Err(Error::NoDevice { ordinal: 99, .. })));
    let before = device.used();
    {
        let x: Buffer<f32> = device.zeros(64).unwrap();
        let w = DeviceMatrix::new(&device, BlockType::Q4_0, 4, 64, &[0; 4 * 36]).unwrap();
        let mut out = device.zeros(4).unwrap();
        let plain = GemvInput::Plain { x: &x, quantized: None };
        let refused = |r: Result<(), Error>| assert!(matches!(r, Err(Error::Shape(_))), "{r:?}");
        refused(gemv(&device, 1, &plain, &mut [Part { weights: &w, bias: None, out: &mut out }], false));
        refused(gemv(&device, 3, &plain, &mut [Part { weights: &w, bias: None, out: &mut out }], false));
        refused(DeviceMatrix::new(&device, BlockType::Q4K, 4, 64, &[]).map(drop));
        assert!(matches!(device.zeros::<f32>(usize::MAX / 2), Err(Error::OutOfMemory { .. })));
        assert!(device.used() > before);
    }
    assert_eq!(device.used(), before);
}
