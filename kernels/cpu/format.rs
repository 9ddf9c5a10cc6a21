//! How quantized weights lie in memory: for 16 rows, records of 32 or 256 columns, one after the other.
//!
//! A record holds d and dmin, then units of 32 columns with their codes and byte scales: read from front to back, as hardware
//! prefetching likes it (scales at the record's end took a third of the bandwidth). In a unit, group g is the four columns 4g..4g+4 of
//! all 16 rows: 64 bytes, one vector, the operand of an integer dot product. Codes below 8 bits lie in bit planes of whole
//! vectors, so that a unit unpacks with a few shifts and masks. K-quants keep their 6-bit scales in a byte each: 3% more.

use super::vector::{LANES, Simd};
use crate::quant::Codes;

/// A quantized format: `w = scale(sub) * (code - BIAS) + min(sub)`.
pub(crate) trait Format: 'static {
    /// Bits of a code.
    const BITS: usize;
    /// Units of 32 columns in a record.
    const UNITS: usize;
    /// Columns that share a scale: 16 or 32.
    const SUB: usize;
    const BIAS: i32;
    /// Whether there are minima.
    const MINS: bool;
    /// Whether a scale is a byte times the record's d (K-quants), not a float of its own.
    const BYTES: bool;
    /// Whether minima share the scales' bytes, as high nibbles (Q2_K).
    const NIBBLES: bool = Self::BITS == 2;

    /// Bytes of a unit's codes.
    const CODES: usize = 64 * Self::BITS;
    /// Sub-blocks in a unit.
    const SUBS: usize = 32 / Self::SUB;
    /// A record begins with d, then dmin; its units follow.
    const HEAD: usize = 2 * LANES * (1 + Self::MINS as usize);
    /// In a unit, the byte scales follow the codes, then the byte minima.
    const BYTE_MINS: usize = Self::CODES + LANES * Self::SUBS * Self::BYTES as usize;
    /// Bytes of a unit.
    const UNIT: usize = Self::BYTE_MINS + LANES * Self::SUBS * (Self::BYTES && Self::MINS && !Self::NIBBLES) as usize;
    /// Bytes of a record.
    const RECORD: usize = Self::HEAD + Self::UNITS * Self::UNIT;
}

macro_rules! formats {
    ($($name:ident: bits $bits:literal, units $units:literal, sub $sub:literal, bias $bias:literal, mins $mins:literal;)*) => {$(
        pub(crate) struct $name;

        impl Format for $name {
            const BITS: usize = $bits;
            const UNITS: usize = $units;
            const SUB: usize = $sub;
            const BIAS: i32 = $bias;
            const MINS: bool = $mins;
            const BYTES: bool = $units == 8;
        }
    )*};
}

formats! {
    Q4_0: bits 4, units 1, sub 32, bias 8, mins false;
    Q4_1: bits 4, units 1, sub 32, bias 0, mins true;
    Q5_0: bits 5, units 1, sub 32, bias 16, mins false;
    Q5_1: bits 5, units 1, sub 32, bias 0, mins true;
    Q8_0: bits 8, units 1, sub 32, bias 128, mins false;
    Q2K: bits 2, units 8, sub 16, bias 0, mins true;
    Q3K: bits 3, units 8, sub 16, bias 4, mins false;
    Q4K: bits 4, units 8, sub 32, bias 0, mins true;
    Q5K: bits 5, units 8, sub 32, bias 0, mins true;
    Q6K: bits 6, units 8, sub 16, bias 32, mins false;
}

/// Evaluates `$e` with `$f` standing for the format of `$kind`; `$other` for a type that is not stored in records.
macro_rules! with_format {
    ($kind:expr, $f:ident => $e:expr, $other:expr) => {{
        macro_rules! arm {
            ($name:ident) => {{
                type $f = $crate::cpu::format::$name;
                $e
            }};
        }
        match $kind {
            $crate::BlockType::Q4_0 => arm!(Q4_0),
            $crate::BlockType::Q4_1 => arm!(Q4_1),
            $crate::BlockType::Q5_0 => arm!(Q5_0),
            $crate::BlockType::Q5_1 => arm!(Q5_1),
            $crate::BlockType::Q8_0 | $crate::BlockType::Q8_1 => arm!(Q8_0),
            $crate::BlockType::Q2K => arm!(Q2K),
            $crate::BlockType::Q3K => arm!(Q3K),
            $crate::BlockType::Q4K => arm!(Q4K),
            $crate::BlockType::Q5K => arm!(Q5K),
            $crate::BlockType::Q6K => arm!(Q6K),
            $crate::BlockType::F32 | $crate::BlockType::F16 | $crate::BlockType::BF16 | $crate::BlockType::Q8K => $other,
        }
    }};
}
pub(crate) use with_format;

/// The eight code vectors of unit `unit` of a record.
#[inline(always)]
pub(crate) unsafe fn codes<S: Simd, F: Format>(record: *const u8, unit: usize) -> [S::I; 8] {
    // SAFETY: the caller vouches for a record; each arm reads BITS vectors.
    unsafe {
        let at = |v: usize| record.add(F::HEAD + unit * F::UNIT + 64 * v);
        let mut out = [S::splati(0); 8];
        match F::BITS {
            8 => {
                for g in 0..8 {
                    out[g] = S::loadi(at(g));
                }
            }
            2 | 3 => {
                for h in 0..2 {
                    let v = S::loadi(at(h));
                    out[4 * h] = S::bits_right::<0>(v, 3);
                    out[4 * h + 1] = S::bits_right::<2>(v, 3);
                    out[4 * h + 2] = S::bits_right::<4>(v, 3);
                    out[4 * h + 3] = S::bits_right::<6>(v, 3);
                }
            }
            _ => {
                for g in 0..4 {
                    let v = S::loadi(at(g));
                    out[g] = S::bits_right::<0>(v, 15);
                    out[g + 4] = S::bits_right::<4>(v, 15);
                }
            }
        }
        match F::BITS {
            3 => {
                let v = S::loadi(at(2));
                out[0] = S::or(out[0], S::bits_left::<2>(v, 4));
                out[1] = S::or(out[1], S::bits_left::<1>(v, 4));
                out[2] = S::or(out[2], S::bits_right::<0>(v, 4));
                out[3] = S::or(out[3], S::bits_right::<1>(v, 4));
                out[4] = S::or(out[4], S::bits_right::<2>(v, 4));
                out[5] = S::or(out[5], S::bits_right::<3>(v, 4));
                out[6] = S::or(out[6], S::bits_right::<4>(v, 4));
                out[7] = S::or(out[7], S::bits_right::<5>(v, 4));
            }
            5 => {
                let v = S::loadi(at(4));
                out[0] = S::or(out[0], S::bits_left::<4>(v, 16));
                out[1] = S::or(out[1], S::bits_left::<3>(v, 16));
                out[2] = S::or(out[2], S::bits_left::<2>(v, 16));
                out[3] = S::or(out[3], S::bits_left::<1>(v, 16));
                out[4] = S::or(out[4], S::bits_right::<0>(v, 16));
                out[5] = S::or(out[5], S::bits_right::<1>(v, 16));
                out[6] = S::or(out[6], S::bits_right::<2>(v, 16));
                out[7] = S::or(out[7], S::bits_right::<3>(v, 16));
            }
            6 => {
                for h in 0..2 {
                    let v = S::loadi(at(4 + h));
                    out[4 * h] = S::or(out[4 * h], S::bits_left::<4>(v, 48));
                    out[4 * h + 1] = S::or(out[4 * h + 1], S::bits_left::<2>(v, 48));
                    out[4 * h + 2] = S::or(out[4 * h + 2], S::bits_right::<0>(v, 48));
                    out[4 * h + 3] = S::or(out[4 * h + 3], S::bits_right::<2>(v, 48));
                }
            }
            _ => {}
        }
        out
    }
}

/// The scales of sub-block `sub` of a unit, one a row.
#[inline(always)]
pub(crate) unsafe fn scale<S: Simd, F: Format>(record: *const u8, unit: usize, sub: usize) -> S::F {
    // SAFETY: the caller vouches for a record.
    unsafe {
        let d = S::load_f16(record.cast());
        let byte = record.add(F::HEAD + unit * F::UNIT + F::CODES + LANES * sub);
        match (F::BYTES, F::NIBBLES) {
            (false, _) => d,
            (true, false) => S::mul(d, S::load_i8(byte.cast())),
            (true, true) => {
                let both = S::load_u8(byte);
                S::mul(d, S::fma(high_nibble::<S>(both), S::splat(-16.0), both))
            }
        }
    }
}

/// The minima of sub-block `sub` of a unit, to be added.
#[inline(always)]
pub(crate) unsafe fn min<S: Simd, F: Format>(record: *const u8, unit: usize, sub: usize) -> S::F {
    // SAFETY: the caller vouches for a record of a format with minima.
    unsafe {
        let dmin = S::load_f16(record.add(2 * LANES).cast());
        let minus = S::sub(S::splat(0.0), dmin);
        let unit = record.add(F::HEAD + unit * F::UNIT + LANES * sub);
        match (F::BYTES, F::NIBBLES) {
            (false, _) => dmin,
            (true, false) => S::mul(minus, S::load_u8(unit.add(F::BYTE_MINS))),
            (true, true) => S::mul(minus, high_nibble::<S>(S::load_u8(unit.add(F::CODES)))),
        }
    }
}

/// `floor(v / 16)` of bytes.
#[inline(always)]
unsafe fn high_nibble<S: Simd>(v: S::F) -> S::F {
    // SAFETY: the caller's. (16 h + l - 7.5) / 16 is within 0.47 of h.
    unsafe { S::round(S::mul(S::sub(v, S::splat(7.5)), S::splat(1.0 / 16.0))) }
}

/// Four codes, one byte each, at `at`: shifts and masks act on all of them, none leaves its byte.
fn four(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put_four(bytes: &mut [u8], at: usize, more: u32) {
    let both = four(bytes, at) | more;
    bytes[at..at + 4].copy_from_slice(&both.to_ne_bytes());
}

/// The same byte four times.
const fn mask(byte: u8) -> u32 {
    u32::from_ne_bytes([byte; 4])
}

/// Writes one row's block into `record` (zeroed before) as row `row` of 16.
pub(crate) fn pack<F: Format>(block: &Codes, record: &mut [u8], row: usize) {
    let (units, codes) = (record[F::HEAD..].chunks_exact_mut(F::UNIT), block.codes.chunks_exact(32));
    for (unit, codes) in units.zip(codes) {
        for g in 0..8 {
            let (c, at) = (four(codes, 4 * g), row * 4);
            match F::BITS {
                8 => put_four(unit, g * 64 + at, c),
                2 | 3 => put_four(unit, g / 4 * 64 + at, (c & mask(3)) << (g % 4 * 2)),
                _ => put_four(unit, g % 4 * 64 + at, (c & mask(15)) << (g / 4 * 4)),
            }
            match F::BITS {
                3 => put_four(unit, 128 + at, (c >> 2 & mask(1)) << g),
                5 => put_four(unit, 256 + at, (c >> 4 & mask(1)) << g),
                6 => put_four(unit, 256 + g / 4 * 64 + at, (c >> 4 & mask(3)) << (g % 4 * 2)),
                _ => {}
            }
        }
    }
    let half = |v: f32| half::f16::from_f32(v).to_ne_bytes();
    record[2 * row..][..2].copy_from_slice(&half(block.d));
    if F::MINS {
        record[2 * LANES + 2 * row..][..2].copy_from_slice(&half(block.dmin));
    }
    if F::BYTES {
        for s in 0..F::UNITS * F::SUBS {
            let unit = &mut record[F::HEAD + s / F::SUBS * F::UNIT..][..F::UNIT];
            let at = LANES * (s % F::SUBS) + row;
            let shared = if F::NIBBLES { block.mins[s] << 4 } else { 0 };
            unit[F::CODES + at] = block.scales[s] as u8 | shared;
            if F::MINS && !F::NIBBLES {
                unit[F::BYTE_MINS + at] = block.mins[s];
            }
        }
    }
}

/// Takes row `row` of 16 back out of a record: the inverse of [`pack`].
pub(crate) fn unpack<F: Format>(record: &[u8], row: usize, block: &mut Codes) {
    let (units, codes) = (record[F::HEAD..].chunks_exact(F::UNIT), block.codes.chunks_exact_mut(32));
    for (unit, codes) in units.zip(codes) {
        for g in 0..8 {
            let at = row * 4;
            let low = match F::BITS {
                8 => four(unit, g * 64 + at),
                2 | 3 => four(unit, g / 4 * 64 + at) >> (g % 4 * 2) & mask(3),
                _ => four(unit, g % 4 * 64 + at) >> (g / 4 * 4) & mask(15),
            };
            let high = match F::BITS {
                3 => (four(unit, 128 + at) >> g & mask(1)) << 2,
                5 => (four(unit, 256 + at) >> g & mask(1)) << 4,
                6 => (four(unit, 256 + g / 4 * 64 + at) >> (g % 4 * 2) & mask(3)) << 4,
                _ => 0,
            };
            codes[4 * g..4 * g + 4].copy_from_slice(&(low | high).to_ne_bytes());
        }
    }
    let half = |at: usize| half::f16::from_ne_bytes([record[at + 2 * row], record[at + 2 * row + 1]]).to_f32();
    block.d = half(0);
    if F::MINS {
        block.dmin = half(2 * LANES);
    }
    if F::BYTES {
        for s in 0..F::UNITS * F::SUBS {
            let unit = &record[F::HEAD + s / F::SUBS * F::UNIT..][..F::UNIT];
            let at = LANES * (s % F::SUBS) + row;
            let byte = unit[F::CODES + at];
            block.scales[s] = (if F::NIBBLES { byte & 15 } else { byte }) as i8;
            if F::NIBBLES {
                block.mins[s] = byte >> 4;
            } else if F::MINS {
                block.mins[s] = unit[F::BYTE_MINS + at];
            }
        }
    }
}
