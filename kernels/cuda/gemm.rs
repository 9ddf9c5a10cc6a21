//! Products of many rows by weights as they lie in GGUF files, on tensor cores: prefill and encoders. Their references are those of
//! `linear.rs`.
//!
//! By the machine code of a large tile, not by a clock. For each product of 16 x 8 x 32 in 8 bits on sm_120 its loop has 18 issue
//! slots with Q4_0, Q8_0, Q8_1 and Q8_K, 22 with Q5_0 and Q4_1, 24 with Q4_K, 26 with Q5_K and 33 with Q2_K, Q3_K and Q6_K (on sm_80
//! about 3 more). 8 of them scale the 4 sums of a lane; a minimum adds 4, a second scale 8; the rest takes codes apart and moves tiles.
//! A quarter of a multiprocessor of compute capability 8.6, 8.9 or 12.0 begins such a product every 16 cycles and an instruction in
//! each, so that issue allows 48 to 88 % of the tensor peak (Q4_K: 68 %). On 8.0 the product takes 8 cycles and each scaling 2: they
//! allow 50, 33 and 25 %, at best the peak of f16. Floats have 10 to 14 slots for an mma of 8 to 32 cycles. A large tile reads about
//! 14 bytes a cycle from the second-level cache, which may be near its limit. One block of 8 warps runs on a multiprocessor, for it
//! takes 52 to 92 KiB of shared memory and up to 221 registers a thread; no kernel spills.

use super::device::{Device, Error};
use super::gemv::{Gate, GemvInput, Part, RawPart, holds, raw_part};
use crate::{Activation, BlockType};
use std::ffi::c_void;
use std::ptr::from_mut;

type Result<T> = std::result::Result<T, Error>;

/// What is done with a product before it is stored: `out = act(x w^T + bias) [+ out if accumulate]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finish {
    /// Adds to what `out` holds instead of overwriting it.
    pub accumulate: bool,
    /// Applied after the bias.
    pub activation: Activation,
}

/// A tile of the result that a block of threads makes; as in gemm.cu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    Large,
    Small,
}

impl Tile {
    /// (rows, columns, threads)
    fn shape(self) -> (usize, usize, usize) {
        match self {
            Self::Large => (128, 128, 256),
            Self::Small => (64, 64, 128),
        }
    }

    /// The larger that leaves no multiprocessor without work.
    fn fitting(device: &Device, m: usize, columns: &[usize]) -> Self {
        let (rows, width, _) = Self::Large.shape();
        let blocks = m.div_ceil(rows) * columns.iter().map(|n| n.div_ceil(width)).sum::<usize>();
        if m > Self::Small.shape().0 && blocks >= device.info().multiprocessors { Self::Large } else { Self::Small }
    }

    fn kernel(self, kind: BlockType) -> &'static str {
        macro_rules! names {
            ($($kind:ident $name:literal),*) => {
                match (kind, self) {
                    $((BlockType::$kind, Self::Large) => concat!("gemm_", $name, "_large"),
                    (BlockType::$kind, Self::Small) => concat!("gemm_", $name, "_small"),)*
                }
            };
        }
        names!(
            F32 "f32", F16 "f16", BF16 "bf16", Q4_0 "q4_0", Q4_1 "q4_1", Q5_0 "q5_0", Q5_1 "q5_1", Q8_0 "q8_0", Q8_1 "q8_1",
            Q2K "q2_k", Q3K "q3_k", Q4K "q4_k", Q5K "q5_k", Q6K "q6_k", Q8K "q8_k"
        )
    }

    /// Bytes of shared memory: both tiles of two steps.
    fn shared(self, kind: BlockType) -> usize {
        let (rows, columns, _) = self.shape();
        if kind.block().0 == 1 {
            return 2 * 64 * (rows + columns);
        }
        2 * columns * slice(kind) + 2 * rows * (64 + 2 * 8) + 2 * columns * 2 * 8
    }
}

/// Bytes of a slice of a row of quantized weights in shared memory: `16 * slice_chunks` of gemm.cu.
fn slice(kind: BlockType) -> usize {
    let (elements, size) = kind.block();
    let bytes = match kind {
        BlockType::Q8K => 260,
        _ if elements == 256 => size,
        _ => 4 * size,
    };
    let aligned = 1 << size.trailing_zeros().min(4);
    16 * ((bytes + 16 - aligned).div_ceil(16) | 1)
}

/// What becomes of `out`; as in gemm.cu.
#[derive(Clone, Copy)]
enum Store {
    Set,
    Add,
    Multiply,
}

#[repr(C)]
struct Raw {
    part: [RawPart; 3],
    m: i32,
    k: i32,
    activation: i32,
    store: i32,
    x: u64,
    q: u64,
    scale: u64,
    out_q: u64,
    out_scale: u64,
}

/// Up to three products of `m` rows, any number: `out = act(x w^T + bias)`, or added to `out`.
///
/// Quantized weights take activations in 8 bits: sums of a unit of 32 are exact, those over units in f32 and in one order, so that a
/// row's result depends on nothing beside it. Float weights take `x` rounded to their type, and sum in f32: of the largest summand,
/// the rounding of an activation is at most 2^-11 with F16 (values beyond 65504 are held there), 2^-8 with BF16, and 2^-11 with F32,
/// whose weights are rounded alike (TF32).
///
/// # Errors
/// [`Error::Shape`], [`Error::Driver`], [`Error::Lost`].
pub fn gemm(device: &Device, m: usize, input: &GemvInput, parts: &mut [Part], finish: Finish) -> Result<()> {
    products(device, m, input, parts, finish, None)
}

/// [`gemm`] by tiles of this shape.
pub(super) fn products(
    device: &Device,
    m: usize,
    input: &GemvInput,
    parts: &mut [Part],
    finish: Finish,
    tile: Option<Tile>,
) -> Result<()> {
    let Some(k) = parts.first().map(|p| p.weights.cols()).filter(|_| parts.len() <= 3) else {
        return Err(Error::Shape(format!("{} products in a launch; 1 to 3", parts.len())));
    };
    let mut parts = parts.iter_mut().map(|p| checked(m, k, p)).collect::<Result<Vec<_>>>()?;
    let store = if finish.accumulate { Store::Add } else { Store::Set };
    while let Some(kind) = parts.first().map(|p| p.0) {
        let mut raw = raw(m, k, input, kind)?;
        (raw.activation, raw.store) = (finish.activation as i32, store as i32);
        let same: Vec<RawPart> = parts.extract_if(.., |p| p.0 == kind).map(|p| p.1).collect();
        launch(device, &mut raw, kind, &same, tile)?;
    }
    Ok(())
}

/// The first half of a gated feed-forward network for `m` rows, any number: `out = act(gate(x)) * up(x)`, and the same in 8 bits.
/// Two launches, the second of which multiplies what the first left in `out`.
///
/// # Errors
/// As [`gemm`].
pub fn gated_rows(device: &Device, m: usize, input: &GemvInput, gate: Gate) -> Result<()> {
    gated_by(device, m, input, gate, None)
}

/// [`gated_rows`] by tiles of this shape.
pub(super) fn gated_by(device: &Device, m: usize, input: &GemvInput, gate: Gate, tile: Option<Tile>) -> Result<()> {
    let (hidden, k) = (gate.gate.0.rows(), gate.gate.0.cols());
    if gate.up.0.rows() != hidden {
        return Err(Error::Shape(format!("{hidden} rows of the gate, {} of what it gates", gate.up.0.rows())));
    }
    holds("the gated product", gate.out, m * hidden)?;
    let out = gate.out.pointer();
    let mut launches = Vec::new();
    for ((weights, bias), activation, store) in
        [(gate.gate, gate.activation, Store::Set), (gate.up, Activation::None, Store::Multiply)]
    {
        let mut raw = raw(m, k, input, weights.kind())?;
        (raw.activation, raw.store) = (activation as i32, store as i32);
        launches.push((raw, weights.kind(), RawPart { out, ..raw_part((weights, bias), k)? }));
    }
    if let Some(to) = gate.quantized {
        to.check(m, hidden)?;
        (launches[1].0.out_q, launches[1].0.out_scale) = (to.q.pointer(), to.scale.pointer());
    }
    launches.iter_mut().try_for_each(|(raw, kind, part)| launch(device, raw, *kind, &[*part], tile))
}

fn checked(m: usize, k: usize, part: &mut Part) -> Result<(BlockType, RawPart)> {
    holds("the product", part.out, m * part.weights.rows())?;
    let raw = raw_part((part.weights, part.bias), k)?;
    Ok((part.weights.kind(), RawPart { out: part.out.pointer(), ..raw }))
}

/// Without parts, and nothing done to the product.
fn raw(m: usize, k: usize, input: &GemvInput, kind: BlockType) -> Result<Raw> {
    let GemvInput::Plain { x, quantized } = *input else {
        return Err(Error::Shape(format!("{m} rows normed in a product; norm them first")));
    };
    if k == 0 {
        return Err(Error::Shape("a product by weights without columns".into()));
    }
    let (mut q, mut scale) = (0, 0);
    match quantized {
        _ if kind.block().0 == 1 => holds("x", x, m * k)?,
        Some(to) => {
            to.check(m, k)?;
            (q, scale) = (to.q.pointer(), to.scale.pointer());
        }
        None => return Err(Error::Shape("quantized weights take activations in 8 bits".into())),
    }
    let part = [RawPart::default(); 3];
    let Ok(rows) = i32::try_from(m) else {
        return Err(Error::Shape(format!("{m} rows in a product; at most 2^31 - 1")));
    };
    let x = x.pointer();
    Ok(Raw { part, m: rows, k: k as i32, activation: 0, store: 0, x, q, scale, out_q: 0, out_scale: 0 })
}

/// Products by weights of one kind.
fn launch(device: &Device, raw: &mut Raw, kind: BlockType, parts: &[RawPart], tile: Option<Tile>) -> Result<()> {
    let columns: Vec<usize> = parts.iter().map(|p| p.rows as usize).collect();
    let m = raw.m as usize;
    let tile = tile.unwrap_or_else(|| Tile::fitting(device, m, &columns));
    let (rows, width, threads) = tile.shape();
    let blocks = m.div_ceil(rows) * columns.iter().map(|n| n.div_ceil(width)).sum::<usize>();
    if blocks == 0 {
        return Ok(());
    }
    raw.part[..parts.len()].copy_from_slice(parts);
    let mut args: [*mut c_void; 1] = [from_mut(raw).cast()];
    // SAFETY: the structure is the kernel's; all its buffers were measured.
    unsafe { device.launch(tile.kernel(kind), [blocks, 1, 1], threads, tile.shared(kind), &mut args) }
}
