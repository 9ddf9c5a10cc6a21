//! Products of many rows on tensor cores against f64, by both tiles.

use super::gemm::{Tile, gated_by, products};
use super::tests::{close, device, product, read, rounded, weights};
use super::*;
use crate::cpu::reference;
use crate::linear::tests::noise;
use crate::{Activation, BlockType};

/// What stands where nothing must be written.
const GUARD: f32 = 12345.0;

/// Rows of activations, in floats and in 8 bits, on the device, and as they are.
struct Activations {
    x: Vec<f32>,
    floats: Buffer<f32>,
    codes: Option<Quantized>,
}

impl Activations {
    fn new(device: &Device, m: usize, k: usize, seed: u32) -> Self {
        let x: Vec<f32> = noise(seed, m * k).into_iter().map(|v| 3.0 * v).collect();
        let floats = device.upload(&x).unwrap();
        let codes = k.is_multiple_of(32).then(|| {
            let mut codes = Quantized::new(device, m, k).unwrap();
            quantize(device, (m, k), &floats, &mut codes).unwrap();
            codes
        });
        Self { x, floats, codes }
    }

    fn input(&self) -> GemvInput<'_> {
        GemvInput::Plain { x: &self.floats, quantized: self.codes.as_ref() }
    }

    /// As a product by weights of this kind sees them.
    fn seen(&self, kind: BlockType) -> Vec<f32> {
        match kind {
            BlockType::F32 => self.x.iter().map(|&v| tf32(v)).collect(),
            BlockType::F16 => self.x.iter().map(|&v| half::f16::from_f32(v.clamp(-65504.0, 65504.0)).to_f32()).collect(),
            BlockType::BF16 => self.x.iter().map(|&v| half::bf16::from_f32(v).to_f32()).collect(),
            _ => rounded(&self.x),
        }
    }
}

/// The nearest value with 10 bits of mantissa, halves away from zero.
fn tf32(v: f32) -> f32 {
    f32::from_bits((v.to_bits() + 0x1000) & !0x1fff)
}

/// Weights of `kind` as the kernel sees them: their bytes and values.
fn weights_seen(kind: BlockType, n: usize, k: usize, seed: u32) -> (Vec<u8>, Vec<f32>) {
    let (bytes, mut values) = weights(kind, n, k, seed);
    if kind == BlockType::F32 {
        values.iter_mut().for_each(|v| *v = tf32(*v));
    }
    (bytes, values)
}

/// `m` rows of a product of `n`, with rows behind them that nobody may touch.
fn guarded(device: &Device, before: &[f32], n: usize) -> Buffer<f32> {
    let mut all = before.to_vec();
    all.resize(before.len() + 3 * n + 5, GUARD);
    device.upload(&all).unwrap()
}

fn guards_hold(what: &str, out: &Buffer<f32>, len: usize) {
    assert!(read(out, out.len())[len..].iter().all(|&v| v == GUARD), "{what}: written behind the last row");
}

/// One product by one matrix, with bias, added to what was there.
fn check(device: &Device, kind: BlockType, (m, n, k): (usize, usize, usize), tile: Tile) {
    let what = format!("{kind:?} {m} x {n} x {k} {tile:?}");
    let (bytes, w) = weights_seen(kind, n, k, 3 + k as u32);
    let matrix = DeviceMatrix::new(device, kind, n, k, &bytes).unwrap();
    let a = Activations::new(device, m, k, 5 + m as u32);
    let (bias, before) = (noise(6, n), noise(7, m * n));
    let bias_on = device.upload(&bias).unwrap();
    let mut out = guarded(device, &before, n);
    let finish = Finish { accumulate: true, ..Default::default() };
    let mut parts = [Part { weights: &matrix, bias: Some(&bias_on), out: &mut out }];
    products(device, m, &a.input(), &mut parts, finish, Some(tile)).unwrap();
    let mut want = product(&a.seen(kind), &w, k);
    want.iter_mut().enumerate().for_each(|(i, v)| *v += f64::from(bias[i % n]) + f64::from(before[i]));
    close(&what, &read(&out, m * n), &want, 2e-6);
    guards_hold(&what, &out, m * n);
}

#[test]
fn products_of_many_rows_agree_with_f64_for_every_block_type() {
    let Some(device) = device() else { return };
    for kind in BlockType::ALL {
        let block = kind.block().0;
        // one block; an odd number of units, whose last step and slice are not full; several slices
        let ks = match block {
            1 => [1, 33, 72],
            32 => [32, 96, 288],
            _ => [256, 512, 768],
        };
        check(&device, kind, (17, 37, ks[1]), Tile::Small);
        check(&device, kind, (33, 5, ks[2]), Tile::Large);
        check(&device, kind, (1, 3, ks[0]), Tile::Small);
        check(&device, kind, (130, 9, ks[0]), Tile::Large);
    }
}

#[test]
fn several_tiles_of_rows_and_columns_fit_together() {
    let Some(device) = device() else { return };
    for (kind, k) in [(BlockType::Q4_0, 64), (BlockType::Q4K, 256), (BlockType::F16, 40), (BlockType::F32, 16)] {
        check(&device, kind, (130, 131, k), Tile::Large);
        check(&device, kind, (67, 66, k), Tile::Small);
    }
}

#[test]
fn three_products_of_several_types_share_their_rows() {
    let Some(device) = device() else { return };
    let (m, k) = (33, 256);
    let a = Activations::new(&device, m, k, 21);
    for tile in [Tile::Small, Tile::Large] {
        let kinds = [(BlockType::Q4K, 150), (BlockType::Q6K, 31), (BlockType::Q4K, 9)];
        let made: Vec<_> = kinds.iter().zip(30..).map(|(&(kind, n), seed)| weights_seen(kind, n, k, seed)).collect();
        let on: Vec<_> = kinds
            .iter()
            .zip(&made)
            .map(|(&(kind, n), (bytes, _))| DeviceMatrix::new(&device, kind, n, k, bytes).unwrap())
            .collect();
        let mut outs: Vec<_> = kinds.iter().map(|&(_, n)| guarded(&device, &vec![GUARD; m * n], n)).collect();
        let bias = noise(40, 31);
        let bias_on = device.upload(&bias).unwrap();
        let mut parts: Vec<_> = on.iter().zip(&mut outs).map(|(weights, out)| Part { weights, bias: None, out }).collect();
        parts[1].bias = Some(&bias_on);
        products(&device, m, &a.input(), &mut parts, Finish::default(), Some(tile)).unwrap();
        for (i, ((&(kind, n), (_, w)), out)) in kinds.iter().zip(&made).zip(&outs).enumerate() {
            let mut want = product(&a.seen(kind), w, k);
            if i == 1 {
                want.iter_mut().enumerate().for_each(|(i, v)| *v += f64::from(bias[i % n]));
            }
            close(&format!("part {i} {tile:?}"), &read(out, m * n), &want, 2e-6);
            guards_hold(&format!("part {i}"), out, m * n);
        }
    }
}

#[test]
fn every_activation_is_applied() {
    let Some(device) = device() else { return };
    let (m, n, k) = (5, 35, 32);
    let a = Activations::new(&device, m, k, 50);
    let (bytes, w) = weights_seen(BlockType::F16, n, k, 51);
    let matrix = DeviceMatrix::new(&device, BlockType::F16, n, k, &bytes).unwrap();
    use Activation::*;
    for activation in [None, Relu, Relu6, Gelu, GeluTanh, Silu, Sigmoid, HardSwish] {
        let mut out = guarded(&device, &vec![0.0; m * n], n);
        let mut parts = [Part { weights: &matrix, bias: Option::None, out: &mut out }];
        gemm(&device, m, &a.input(), &mut parts, Finish { activation, ..Default::default() }).unwrap();
        let want: Vec<f64> =
            product(&a.seen(BlockType::F16), &w, k).into_iter().map(|v| reference::activation(activation, v)).collect();
        close(&format!("{activation:?}"), &read(&out, m * n), &want, 2e-6);
        guards_hold(&format!("{activation:?}"), &out, m * n);
    }
}

#[test]
fn the_gate_of_many_rows_is_multiplied_and_quantized() {
    let Some(device) = device() else { return };
    let (hidden, k) = (160, 256);
    for (m, kinds, activation, tile) in [
        (17, [BlockType::Q4K, BlockType::Q4K], Activation::Silu, Tile::Small),
        (130, [BlockType::Q4_0, BlockType::Q6K], Activation::GeluTanh, Tile::Large),
        (3, [BlockType::F16, BlockType::Q8_0], Activation::Relu, Tile::Small),
    ] {
        let a = Activations::new(&device, m, k, 60);
        let [(gate, wg), (up, wu)] = [0, 1].map(|i| weights_seen(kinds[i], hidden, k, 61 + i as u32));
        let on = |i: usize, bytes: &[u8]| DeviceMatrix::new(&device, kinds[i], hidden, k, bytes).unwrap();
        let (gate, up) = (on(0, &gate), on(1, &up));
        let bias = noise(63, hidden);
        let bias_on = device.upload(&bias).unwrap();
        let (mut out, mut codes) =
            (guarded(&device, &vec![GUARD; m * hidden], hidden), Quantized::new(&device, m + 2, hidden).unwrap());
        let g = Gate { gate: (&gate, Some(&bias_on)), up: (&up, None), activation, out: &mut out, quantized: Some(&mut codes) };
        gated_by(&device, m, &a.input(), g, Some(tile)).unwrap();
        let biased = product(&a.seen(kinds[0]), &wg, k).into_iter().enumerate().map(|(i, v)| v + f64::from(bias[i % hidden]));
        let want: Vec<f64> =
            biased.zip(product(&a.seen(kinds[1]), &wu, k)).map(|(g, u)| reference::activation(activation, g) * u).collect();
        let what = format!("{kinds:?} {m} {tile:?}");
        let got = read(&out, m * hidden);
        close(&what, &got, &want, 3e-6);
        guards_hold(&what, &out, m * hidden);
        let (codes, scales) = (read(&codes.q, (m + 2) * hidden), read(&codes.scale, (m + 2) * hidden / 32));
        for (u, values) in got.chunks(32).enumerate() {
            let d = values.iter().fold(0.0f32, |most, v| most.max(v.abs())) / 127.0;
            let own = &codes[32 * u..][..32];
            assert_eq!(scales[u], [d, own.iter().map(|&c| i32::from(c)).sum::<i32>() as f32 * d], "{what} unit {u}");
            assert!(own.iter().zip(values).all(|(&c, v)| (f32::from(c) * d - v).abs() <= 0.5001 * d), "{what} unit {u}");
        }
        assert!(codes[m * hidden..].iter().all(|&c| c == 0) && scales[m * hidden / 32..].iter().all(|s| *s == [0.0; 2]));
    }
}

/// A row alone, among others, in another tile and in another product: the same bits.
#[test]
fn a_row_depends_on_nothing_beside_it() {
    let Some(device) = device() else { return };
    let (m, n, k) = (70, 40, 256);
    let a = Activations::new(&device, m, k, 70);
    for kind in [BlockType::Q4K, BlockType::Q6K, BlockType::F16] {
        let matrix = DeviceMatrix::new(&device, kind, n, k, &weights(kind, n, k, 71).0).unwrap();
        let run = |m: usize, tile: Tile| {
            let mut out = device.zeros(m * n).unwrap();
            let mut parts = [Part { weights: &matrix, bias: None, out: &mut out }];
            products(&device, m, &a.input(), &mut parts, Finish::default(), Some(tile)).unwrap();
            read(&out, m * n)
        };
        let all = run(m, Tile::Large);
        assert_eq!(all, run(m, Tile::Small), "{kind:?}");
        assert_eq!(all[..n], run(1, Tile::Small), "{kind:?}");
    }
}

#[test]
fn what_does_not_fit_a_product_is_refused() {
    let Some(device) = device() else { return };
    let (m, n, k) = (9, 4, 64);
    let a = Activations::new(&device, m, k, 80);
    let quantized = DeviceMatrix::new(&device, BlockType::Q4_0, n, k, &vec![0; n * 36]).unwrap();
    let wider = DeviceMatrix::new(&device, BlockType::Q4_0, n, 96, &vec![0; n * 54]).unwrap();
    let mut out = device.zeros(m * n).unwrap();
    let one = device.upload(&vec![1.0; k]).unwrap();
    let refused = |input: &GemvInput, m: usize, weights: &DeviceMatrix, out: &mut Buffer<f32>| {
        let result = gemm(&device, m, input, &mut [Part { weights, bias: None, out }], Finish::default());
        assert!(matches!(result, Err(Error::Shape(_))), "{result:?}");
    };
    refused(&GemvInput::Plain { x: &a.floats, quantized: None }, m, &quantized, &mut out);
    refused(&GemvInput::Normed { x: &a.floats, weight: &one, eps: 0.0 }, 1, &quantized, &mut out);
    refused(&a.input(), m + 1, &quantized, &mut out);
    refused(&a.input(), m, &wider, &mut out);
    assert!(matches!(gemm(&device, m, &a.input(), &mut [], Finish::default()), Err(Error::Shape(_))));
    gemm(&device, 0, &a.input(), &mut [Part { weights: &quantized, bias: None, out: &mut out }], Finish::default()).unwrap();
}
