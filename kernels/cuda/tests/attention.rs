//! Attention against f64, over stores whose unwritten positions are no numbers.

use super::*;
use crate::cpu::reference;
use crate::{Dense, KV_BLOCK, KvShape, KvStore, KvType, RopeKind};

/// Plain attention of one query head over keys and values of positions `from..`.
fn plain_attention(q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>], from: usize, scale: f64) -> Vec<f64> {
    let score = |k: &Vec<f32>| scale * q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let scores: Vec<f64> = keys[from..].iter().map(score).collect();
    let most = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
    let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    (0..q.len()).map(|e| weights.iter().zip(&values[from..]).map(|(w, v)| w * f64::from(v[e])).sum::<f64>() / sum).collect()
}

#[test]
fn keys_are_rotated_stored_and_attended() {
    let Some(device) = device() else { return };
    for (dim, heads, kv_heads, splits, window, kind) in [
        (64, 6, 2, 1, None, RopeKind::Interleaved),
        (32, 4, 4, 3, Some(7), RopeKind::HalfSplit),
        (128, 4, 1, 2, Some(140), RopeKind::HalfSplit),
        (80, 2, 1, 2, None, RopeKind::HalfSplit),
    ] {
        let shape = KvShape { layers: 2, kv_heads, head_dim: dim, kind: KvType::F16 };
        let mut store = DeviceStore::new(&device, shape, 6).unwrap();
        let (count, length, table) = (2, [KV_BLOCK + 9, 5], [[4, 1, 0], [2, 3, 0]]);
        let rotary = dim / 2;
        let mut rows = Rows::new(&device, count, count, 3).unwrap();
        rows.tables.write(0, &table.concat()).unwrap();
        let angle = |p: usize, i: usize| p as f64 * 0.9f64.powi(i as i32);
        let turn = |f: fn(f64) -> f64| -> Vec<f32> {
            (0..2 * KV_BLOCK).flat_map(|p| (0..rotary / 2).map(move |i| f(angle(p, i)) as f32)).collect()
        };
        let turns = (device.upload(&turn(f64::cos)).unwrap(), device.upload(&turn(f64::sin)).unwrap());
        let norm = noise(20, dim);
        let norm_on = device.upload(&norm).unwrap();
        let prepare = |x: &[f32], p: usize| -> Vec<f32> {
            let mut x = normed(x, &norm, 1e-6);
            for i in 0..rotary / 2 {
                let (a, b) = if kind == RopeKind::Interleaved { (2 * i, 2 * i + 1) } else { (i, i + rotary / 2) };
                let (s, c) = angle(p, i).sin_cos();
                let (u, v) = (f64::from(x[a]), f64::from(x[b]));
                (x[a], x[b]) = ((u * c - v * s) as f32, (u * s + v * c) as f32);
            }
            x
        };
        let short = |v: Vec<f32>| -> Vec<f32> { v.into_iter().map(|v| half::f16::from_f32(v).to_f32()).collect() };
        let (mut keys, mut values) = (vec![vec![Vec::new(); kv_heads]; count], vec![vec![Vec::new(); kv_heads]; count]);
        let mut counters = Counters::new(&device, count, heads, &shape, splits).unwrap();
        let (mut out, mut out_q) =
            (device.zeros(count * heads * dim).unwrap(), Quantized::new(&device, count, heads * dim).unwrap());
        // every position is appended, and the last ones of each sequence are attended
        for p in 0..length[0] {
            let at: Vec<i32> = length.iter().map(|&l| if p < l { p as i32 } else { -1 }).collect();
            rows.inputs.write(2, &[at[0], at[1], p as i32, p as i32, 0, 1]).unwrap();
            let (q, k, v) = (
                noise(p as u32, count * heads * dim),
                noise(1000 + p as u32, count * kv_heads * dim),
                noise(2000 + p as u32, count * kv_heads * dim),
            );
            let (mut dq, dk, dv) = (device.upload(&q).unwrap(), device.upload(&k).unwrap(), device.upload(&v).unwrap());
            let norms = HeadNorms { q: Some(&norm_on), k: Some(&norm_on), eps: 1e-6 };
            let a = RopeAppend { q: &mut dq, k: &dk, v: &dv, norms, turns: (&turns.0, &turns.1), rotary, kind, heads };
            rope_append(&device, count, &rows, a, (&mut store, 1)).unwrap();
            for r in (0..count).filter(|&r| p < length[r]) {
                for h in 0..kv_heads {
                    let at = (r * kv_heads + h) * dim;
                    keys[r][h].push(short(prepare(&k[at..at + dim], p)));
                    values[r][h].push(short(v[at..at + dim].to_vec()));
                }
            }
            if !(length.contains(&(p + 1)) || p == 0) {
                continue;
            }
            let scale = 0.17;
            let a = Attend { q: &dq, heads, scale, window, out: &mut out, quantized: &mut out_q };
            attend(&device, count, &rows, a, (&store, 1), &mut counters).unwrap();
            let got = read(&out, count * heads * dim);
            for r in (0..count).filter(|&r| p < length[r]) {
                for h in 0..heads {
                    let (at, kv) = ((r * heads + h) * dim, h / (heads / kv_heads));
                    let from = window.map_or(0, |w| (p + 1usize).saturating_sub(w));
                    let q = prepare(&q[at..at + dim], p);
                    let want = plain_attention(&q, &keys[r][kv], &values[r][kv], from, scale.into());
                    close(&format!("{dim} {heads}/{kv_heads} row {r} head {h} at {p}"), &got[at..at + dim], &want, 2e-3);
                }
            }
        }
    }
}

/// A store that holds what rows of several sequences see, on the device and on the processor.
struct Filled {
    store: DeviceStore,
    same: KvStore,
    tables: Vec<Vec<u32>>,
    rows: Rows,
    positions: Vec<(usize, i32)>, // of each row: sequence, position
}

const LAYER: usize = 1;
const BLOCKS: usize = 7;

/// The rows of sequences: (positions before, new ones); the third begins with the block of the first. What nobody wrote is poisoned.
fn filled(device: &Device, shape: KvShape, sequences: &[(usize, usize)]) -> Filled {
    let mut store = DeviceStore::new(device, shape, BLOCKS).unwrap();
    let poison: Vec<u8> = [0x00, 0x7e].repeat(store.data.len() / 2);
    store.data.write(0, &poison).unwrap();
    let mut same = KvStore::new(shape);
    same.reserve(BLOCKS);
    let tables: Vec<Vec<u32>> = [vec![3, 1, 5], vec![2, 6, 0], vec![3, 4, 0]][..sequences.len()].to_vec();
    let width = shape.kv_heads * shape.head_dim;
    let most = sequences.iter().map(|s| s.0 + s.1).sum::<usize>();
    let mut rows = Rows::new(device, most, sequences.len(), 3).unwrap();
    rows.tables.write(0, &tables.concat().iter().map(|&b| b as i32).collect::<Vec<_>>()).unwrap();
    for (s, &(past, new)) in sequences.iter().enumerate() {
        let from = if s == 2 && past >= KV_BLOCK { KV_BLOCK } else { 0 };
        let n = past + new - from;
        let (k, v) = (noise(30 + s as u32, n * width), noise(40 + s as u32, n * width));
        same.write(LAYER, &tables[s], from, &k, &v);
        let mut inputs = vec![0; 4 * most];
        for i in 0..most {
            inputs[most + i] = if i < n { (from + i) as i32 } else { -1 };
            inputs[3 * most + i] = s as i32;
        }
        rows.inputs.write(0, &inputs).unwrap();
        let (none, mut q) = (device.zeros(1).unwrap(), device.zeros(most * shape.head_dim).unwrap());
        let (k, v) = (device.upload(&k).unwrap(), device.upload(&v).unwrap());
        let norms = HeadNorms { q: None, k: None, eps: 0.0 };
        let a = RopeAppend {
            q: &mut q,
            k: &k,
            v: &v,
            norms,
            turns: (&none, &none),
            rotary: 0,
            kind: RopeKind::HalfSplit,
            heads: 1,
        };
        rope_append(device, n, &rows, a, (&mut store, LAYER)).unwrap();
    }
    let positions = sequences.iter().enumerate().flat_map(|(s, &(past, new))| (past..past + new).map(move |p| (s, p as i32)));
    let positions: Vec<_> = positions.collect();
    let count = positions.len();
    let mut inputs = vec![0; 4 * most];
    inputs[most..2 * most].fill(-1);
    for (i, &(s, p)) in positions.iter().enumerate() {
        (inputs[most + i], inputs[3 * most + i]) = (p, s as i32);
    }
    rows.inputs.write(0, &inputs).unwrap();
    let mut firsts: Vec<i32> = sequences.iter().scan(0, |at, s| Some(std::mem::replace(at, *at + s.1 as i32))).collect();
    firsts.extend(sequences.iter().map(|s| s.1 as i32));
    firsts.extend(sequences.iter().map(|_| -1));
    rows.spans.write(0, &firsts).unwrap();
    assert!(count <= most);
    Filled { store, same, tables, rows, positions }
}

impl Filled {
    /// What a row that sees up to `end` gives for a head.
    fn want(
        &self,
        q: &[f32],
        (sequence, position): (usize, usize),
        kv: usize,
        end: usize,
        a: (f32, Option<usize>),
    ) -> Vec<f64> {
        let from = a.1.map_or(0, |w| (position + 1).saturating_sub(w));
        let (keys, values): (Vec<_>, Vec<_>) = (from..end).map(|p| self.same.get(LAYER, &self.tables[sequence], kv, p)).unzip();
        plain_attention(q, &keys, &values, 0, a.0.into())
    }
}

#[test]
fn stored_keys_and_values_are_those_of_the_processor() {
    let Some(device) = device() else { return };
    for (head_dim, kind) in [(16, KvType::F16), (16, KvType::Q8_0), (64, KvType::F16), (80, KvType::Q8_0), (256, KvType::Q8_0)]
    {
        let shape = KvShape { layers: 2, kv_heads: 2, head_dim, kind };
        let s = filled(&device, shape, &[(60, 75)]);
        let bytes = read(&s.store.data, s.store.data.len());
        let head = DeviceStore::block_bytes(&shape) / 4;
        let half = |at: usize| half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
        for (p, h) in (0..135).flat_map(|p| [(p, 0), (p, 1)]) {
            let (key, value) = s.same.get(LAYER, &s.tables[0], h, p);
            let at = (s.tables[0][p / KV_BLOCK] as usize * 4 + 2 * LAYER + h) * head;
            let i = p % KV_BLOCK;
            let element = |e: usize, second: bool| {
                let start = at + if second { head / 2 } else { 0 };
                let (wide, size) = if kind == KvType::F16 { (8, 2) } else { (16, 1) };
                let place = if second { i * head_dim + e } else { (e / wide * KV_BLOCK + i) * wide + e % wide };
                if kind == KvType::F16 {
                    return half(start + size * place);
                }
                f32::from(bytes[start + place] as i8) * half(start + KV_BLOCK * head_dim + 2 * (e / 32 * KV_BLOCK + i))
            };
            let got = |second| (0..head_dim).map(|e| element(e, second)).collect::<Vec<_>>();
            assert_eq!((got(false), got(true)), (key, value), "{kind:?} {head_dim}: {p} {h}");
        }
    }
}

#[test]
fn many_rows_agree_with_f64() {
    let Some(device) = device() else { return };
    let (mut worst, mut alone) = (0.0f64, 0.0f64);
    for (head_dim, heads, kv_heads, window, kind, sequences) in [
        (64, 6, 2, None, KvType::F16, &[(0, 130), (0, 1), (130, 7)][..]),
        (64, 6, 2, None, KvType::Q8_0, &[(0, 130), (0, 1), (130, 7)]),
        (128, 4, 1, Some(50), KvType::Q8_0, &[(70, 65), (3, 1)]),
        (128, 2, 1, Some(130), KvType::F16, &[(200, 65)]),
        (96, 8, 1, None, KvType::F16, &[(125, 7), (0, 3)]),
        (256, 2, 1, Some(17), KvType::F16, &[(100, 40)]),
        (256, 2, 1, None, KvType::Q8_0, &[(31, 33)]),
        (80, 1, 1, None, KvType::Q8_0, &[(0, 65)]),
        (32, 16, 1, Some(1), KvType::Q8_0, &[(0, 9)]),
        (16, 2, 2, None, KvType::F16, &[(0, 65)]),
    ] {
        let shape = KvShape { layers: 2, kv_heads, head_dim, kind };
        let mut s = filled(&device, shape, sequences);
        let (width, count) = (heads * head_dim, s.positions.len());
        let (q, scale) = (noise(50, count * width), 6.0 / (head_dim as f32).sqrt());
        let dq = device.upload(&q).unwrap();
        // an empty row, and one behind those of the pass
        let (most, last) = (s.rows.most(), count - 1);
        let empty = last / 2;
        if count > 5 {
            s.rows.inputs.write(most + empty, &[-1]).unwrap();
        }
        let mut out = device.upload(&vec![7.0; count * width]).unwrap();
        let mut codes = Quantized::new(&device, count, width.next_multiple_of(32)).unwrap();
        let a = Attend { q: &dq, heads, scale, window, out: &mut out, quantized: &mut codes };
        attend_rows(&device, last, &s.rows, a, (&s.store, LAYER)).unwrap();
        let got = read(&out, count * width);
        let (codes, scales) = (read(&codes.q, count * width), read(&codes.scale, count * width / 32));
        let mut counters = Counters::new(&device, count, heads, &shape, 2).unwrap();
        let (mut single, mut single_codes) =
            (device.zeros(count * width).unwrap(), Quantized::new(&device, count, width).unwrap());
        let a = Attend { q: &dq, heads, scale, window, out: &mut single, quantized: &mut single_codes };
        attend(&device, count.min(3), &s.rows, a, (&s.store, LAYER), &mut counters).unwrap();
        let single = read(&single, count * width);
        for (row, h) in (0..count).flat_map(|r| (0..heads).map(move |h| (r, h))) {
            let (at, (sequence, position)) = (row * width + h * head_dim, s.positions[row]);
            let own = &got[at..at + head_dim];
            let what = format!("{kind:?} {head_dim} {heads}/{kv_heads} window {window:?} row {row} head {h}");
            if row == last || (count > 5 && row == empty) {
                assert_eq!(own, vec![7.0; head_dim], "{what} is not to be touched");
                continue;
            }
            let position = position as usize;
            let (q, kv) = (&q[at..at + head_dim], h / (heads / kv_heads));
            let want = s.want(q, (sequence, position), kv, position + 1, (scale, window));
            let apart = |got: &[f32]| got.iter().zip(&want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
            assert!(own.iter().all(|v| v.is_finite()) && apart(own) < 2e-3, "{what}: {own:?}, not {want:?}");
            worst = worst.max(apart(own));
            if row < 3 {
                alone = alone.max(apart(&single[at..at + head_dim]));
                let bound = if kind == KvType::F16 { 2e-5 } else { 1e-3 };
                assert!(
                    apart(&single[at..at + head_dim]) < bound,
                    "{what}, alone: {:?}, not {want:?}",
                    &single[at..at + head_dim]
                );
            }
            if head_dim % 32 == 0 {
                for (u, [d, sum]) in scales[at / 32..(at + head_dim) / 32].iter().enumerate() {
                    let codes = &codes[at + 32 * u..][..32];
                    assert_eq!(codes.iter().map(|&c| i32::from(c)).sum::<i32>() as f32 * d, *sum, "{what}");
                    let back: Vec<f32> = codes.iter().map(|&c| f32::from(c) * d).collect();
                    let exact: Vec<f64> = own[32 * u..][..32].iter().map(|&v| v.into()).collect();
                    close(&what, &back, &exact, 0.5 / 127.0 + 1e-5);
                }
            }
        }
    }
    eprintln!("attend_rows: at most {worst:e} from f64; attend: {alone:e}");
}

#[test]
fn rows_of_a_picture_see_those_behind_them() {
    let Some(device) = device() else { return };
    let (head_dim, heads) = (64, 2);
    let shape = KvShape { layers: 2, kv_heads: 1, head_dim, kind: KvType::F16 };
    let mut s = filled(&device, shape, &[(120, 20)]);
    s.rows.spans.write(2, &[135]).unwrap(); // the first rows see up to 135, the others up to their own
    let (q, scale, count, width) = (noise(51, 20 * heads * head_dim), 0.5, 20, heads * head_dim);
    for window in [None, Some(9)] {
        let (dq, mut out) = (device.upload(&q).unwrap(), device.zeros(count * width).unwrap());
        let mut codes = Quantized::new(&device, count, width).unwrap();
        let a = Attend { q: &dq, heads, scale, window, out: &mut out, quantized: &mut codes };
        attend_rows(&device, count, &s.rows, a, (&s.store, LAYER)).unwrap();
        let got = read(&out, count * width);
        for (row, h) in (0..count).flat_map(|r| [(r, 0), (r, 1)]) {
            let (at, position) = (row * width + h * head_dim, 120 + row);
            let want = s.want(&q[at..at + head_dim], (0, position), 0, position.max(135) + 1, (scale, window));
            close(&format!("row {row} head {h}"), &got[at..at + head_dim], &want, 4e-3);
        }
    }
}

#[test]
fn dense_attention_agrees_with_f64() {
    let Some(device) = device() else { return };
    let mut worst = 0.0f64;
    for (batch, q_len, kv_len, heads, kv_heads, hd, causal, lengths) in [
        (1, 130, 130, 2, 2, 64, false, None),
        (2, 7, 65, 4, 1, 72, true, None),
        (1, 1, 300, 3, 3, 64, false, None),
        (2, 65, 130, 6, 2, 32, true, Some([130, 66])),
        (2, 3, 70, 1, 1, 40, false, Some([0, 69])),
        (1, 5, 9, 2, 2, 16, true, None),
        (1, 20, 33, 2, 2, 128, false, None),
        (1, 9, 65, 8, 1, 112, false, None),
        (1, 66, 66, 1, 1, 96, true, None),
        (1, 3, 40, 8, 1, 112, false, None),
        (1, 8, 520, 1, 1, 64, true, None),
    ] {
        // queries, keys and values of a token lie beside each other, behind something else
        let (q_width, width, len) = (heads * hd, kv_heads * hd, kv_len.max(q_len));
        let (stride, offset) = (q_width + 2 * width + 4, 8);
        let mut joined = noise(60, offset + batch * len * stride);
        let lengths: Option<[usize; 2]> = lengths;
        let length = |b: usize| lengths.map_or(kv_len, |l| l[b]);
        for (b, t) in (0..batch).flat_map(|b| (0..len).map(move |t| (b, t))) {
            if t >= length(b) {
                joined[offset + (b * len + t) * stride..][q_width..q_width + 2 * width].fill(f32::NAN);
            }
        }
        let data = device.upload(&joined).unwrap();
        let part = |at: usize| Strided { data: &data, offset: offset + at, stride, item: len * stride };
        let lengths = lengths.map(|l| device.upload(&l.map(|l| l as i32)).unwrap());
        let (scale, size) = (6.0 / (hd as f32).sqrt(), batch * q_len * q_width);
        let mut out = device.upload(&vec![7.0; size + 5]).unwrap();
        let (q, k, v, lengths) = (part(0), part(q_width), part(q_width + width), lengths.as_ref());
        let a = DenseAttention {
            q,
            k,
            v,
            lengths,
            batch,
            q_len,
            kv_len,
            heads,
            kv_heads,
            head_dim: hd,
            scale,
            causal,
            out: &mut out,
        };
        attend_dense(&device, a).unwrap();
        let got = read(&out, size + 5);
        assert_eq!(got[size..], [7.0; 5]);
        for b in 0..batch {
            let from = |at: usize| &joined[offset + b * len * stride + at..];
            let (q, k, v) = (from(0), from(q_width), from(q_width + width));
            let what = format!("{q_len}x{} heads {heads}/{kv_heads} of {hd}", length(b));
            let own = &got[b * q_len * q_width..][..q_len * q_width];
            if length(b) == 0 {
                assert!(own.iter().all(|v| *v == 0.0), "{what}");
                continue;
            }
            let (kv_len, q_stride, kv_stride, head_dim) = (length(b), stride, stride, hd);
            let a = Dense { q, k, v, q_len, kv_len, q_stride, kv_stride, heads, kv_heads, head_dim, scale, causal };
            for (i, (g, w)) in own.iter().zip(reference::attention(&a, usize::MAX)).enumerate() {
                assert!((g - w).abs() < 2e-3, "{what} [{i}]: {g}, not {w}");
                worst = worst.max((g - w).abs().into());
            }
        }
    }
    eprintln!("attend_dense: at most {worst:e} from f64");
}

#[test]
fn attention_that_has_no_kernel_is_refused() {
    let Some(device) = device() else { return };
    let refused = |r: Result<(), Error>| assert!(matches!(r, Err(Error::Shape(_))), "{r:?}");
    let shape = KvShape { layers: 1, kv_heads: 1, head_dim: 64, kind: KvType::F16 };
    refused(DeviceStore::new(&device, KvShape { kind: KvType::F32, ..shape }, 1).map(drop));
    refused(DeviceStore::new(&device, KvShape { head_dim: 48, ..shape }, 1).map(drop));
    let store = DeviceStore::new(&device, shape, 1).unwrap();
    let rows = Rows::new(&device, 2, 1, 1).unwrap();
    let q = device.zeros(2 * 17 * 64).unwrap();
    let (mut out, mut codes) = (device.zeros(2 * 17 * 64).unwrap(), Quantized::new(&device, 2, 17 * 64).unwrap());
    for (heads, count, layer) in [(17, 1, 0), (1, 3, 0), (1, 1, 1), (0, 1, 0)] {
        let a = Attend { q: &q, heads, scale: 1.0, window: None, out: &mut out, quantized: &mut codes };
        refused(attend_rows(&device, count, &rows, a, (&store, layer)));
    }
    let whole = Strided { data: &q, offset: 0, stride: 64, item: 0 };
    for (head_dim, stride, q_len, kv_len, kv_heads) in [
        (36, 64, 1, 1, 1),
        (136, 136, 1, 1, 1),
        (64, 66, 1, 1, 1),
        (64, 64, 2, 1, 1),
        (64, 64, 1, 35, 1),
        (64, 64, 1, 1, 0),
        (64, 64, 0, 1, 1),
        (0, 64, 1, 1, 1),
        (64, usize::MAX / 8 * 4, 1, 9, 1),
    ] {
        let (scale, at) = (1.0, Strided { stride, ..whole });
        let (batch, lengths, heads, causal, out) = (1, None, 1, true, &mut out);
        let a = DenseAttention {
            q: whole,
            k: at,
            v: at,
            lengths,
            batch,
            q_len,
            kv_len,
            heads,
            kv_heads,
            head_dim,
            scale,
            causal,
            out,
        };
        refused(attend_dense(&device, a));
    }
}
