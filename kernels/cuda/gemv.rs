//! Products of a few rows by weights as they lie in GGUF files; their references are those of `linear.rs`.

use super::buffer::{Buffer, Element};
use super::device::{Device, Error, Gap};
use crate::{Activation, BlockType};
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::from_mut;
use std::sync::Arc;

type Result<T> = std::result::Result<T, Error>;

/// Warps of a block of threads.
const WARPS: usize = 8;
/// Most rows of activations in a launch; the numbers that have a kernel of their own.
const ROWS: [(usize, &str); 4] = [(1, "gemv_1"), (2, "gemv_2"), (4, "gemv_4"), (8, "gemv_8")];

/// Refuses a buffer that is too small.
pub(super) fn holds<T: Element>(what: &str, buffer: &Buffer<T>, len: usize) -> Result<()> {
    if buffer.len() >= len {
        return Ok(());
    }
    Err(Error::Shape(format!("{what}: a buffer of {} elements, and {len} are needed", buffer.len())))
}

/// Weights (rows = output features n, cols = input features k) in ggml's blocks.
pub struct DeviceMatrix {
    data: Arc<Buffer<u8>>,
    first: usize, // byte of `data` where its rows begin
    kind: BlockType,
    rows: usize,
    cols: usize,
}

impl DeviceMatrix {
    /// Copies weights to the device. `bytes`: rows of blocks as in a GGUF file, or little-endian floats.
    ///
    /// # Errors
    /// [`Error::Shape`] when the bytes do not fit, and those of [`Device::zeros`].
    pub fn new(device: &Device, kind: BlockType, rows: usize, cols: usize, bytes: &[u8]) -> Result<Self> {
        let (block, size) = kind.block();
        let wanted = (cols / block).checked_mul(size).and_then(|row| row.checked_mul(rows));
        if !cols.is_multiple_of(block) || wanted != Some(bytes.len()) {
            let problem = format!("{} bytes do not make {rows} x {cols} weights of {kind:?}", bytes.len());
            return Err(Error::Shape(problem));
        }
        if rows.max(cols) > i32::MAX as usize {
            return Err(Error::Shape(format!("{rows} x {cols} weights; at most 2^31 - 1 rows and columns")));
        }
        Ok(Self { data: device.upload(bytes)?.into(), first: 0, kind, rows, cols })
    }

    /// Some of its rows, where they lie. Products expect their first byte at a multiple of 16, as which every 16th row begins.
    ///
    /// # Errors
    /// [`Error::Shape`] for rows that it has not, or that begin elsewhere.
    pub fn some(&self, rows: Range<usize>) -> Result<Self> {
        let Self { kind, cols, .. } = *self;
        let (block, size) = kind.block();
        let first = self.first + rows.start.saturating_mul(cols / block * size);
        if rows.start > rows.end || rows.end > self.rows || !first.is_multiple_of(16) {
            return Err(Error::Shape(format!("rows {rows:?} of {} x {cols} weights of {kind:?}", self.rows)));
        }
        Ok(Self { data: self.data.clone(), first, kind, rows: rows.len(), cols })
    }

    fn pointer(&self) -> u64 {
        self.data.pointer() + self.first as u64
    }

    /// Output features n.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features k.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The type of its blocks.
    pub fn kind(&self) -> BlockType {
        self.kind
    }

    /// Bytes on the device, all rows of what it may be some of.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    fn is_quantized(&self) -> bool {
        self.kind.block().0 > 1
    }
}

/// Rows of activations in 8 bits: (rows, k) codes, and for each 32 their scale and the scale times their sum.
pub struct Quantized {
    pub(super) q: Buffer<i8>,
    pub(super) scale: Buffer<[f32; 2]>,
}

impl Quantized {
    /// Room for `rows` rows of `k` elements.
    ///
    /// # Errors
    /// Those of [`Device::zeros`].
    pub fn new(device: &Device, rows: usize, k: usize) -> Result<Self> {
        Ok(Self { q: device.zeros(rows * k)?, scale: device.zeros(rows * k.div_ceil(32))? })
    }

    pub(super) fn check(&self, rows: usize, k: usize) -> Result<()> {
        if !k.is_multiple_of(32) {
            return Err(Error::Shape(format!("rows of {k} elements in 8 bits; they come in 32s")));
        }
        holds("activations in 8 bits", &self.q, rows * k)?;
        holds("scales of activations", &self.scale, rows * k / 32)
    }
}

/// What a product multiplies.
pub enum GemvInput<'a> {
    /// One row, RMS-normed on the way: by each block of threads for itself, which costs less than a launch.
    Normed {
        /// (k)
        x: &'a Buffer<f32>,
        /// (k)
        weight: &'a Buffer<f32>,
        /// Added to the mean square.
        eps: f32,
    },
    /// Rows as they are, in floats and (for quantized weights) in 8 bits.
    Plain {
        /// (rows, k)
        x: &'a Buffer<f32>,
        /// The same.
        quantized: Option<&'a Quantized>,
    },
}

/// One of several products of the same activations.
pub struct Part<'a> {
    /// (n, k)
    pub weights: &'a DeviceMatrix,
    /// (n)
    pub bias: Option<&'a Buffer<f32>>,
    /// (rows, n)
    pub out: &'a mut Buffer<f32>,
}

/// The two halves of a gated feed-forward network: `out = act(gate(x)) * up(x)`.
pub struct Gate<'a> {
    /// (hidden, k) and its bias.
    pub gate: (&'a DeviceMatrix, Option<&'a Buffer<f32>>),
    /// As `gate`.
    pub up: (&'a DeviceMatrix, Option<&'a Buffer<f32>>),
    /// Any but [`Activation::None`].
    pub activation: Activation,
    /// (rows, hidden)
    pub out: &'a mut Buffer<f32>,
    /// The same in 8 bits.
    pub quantized: Option<&'a mut Quantized>,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct RawPart {
    pub(super) weights: u64,
    pub(super) bias: u64,
    pub(super) out: u64,
    pub(super) rows: i32,
    pub(super) kind: i32,
}

#[repr(C)]
struct Raw {
    part: [RawPart; 3],
    parts: i32,
    k: i32,
    rows_per_warp: i32,
    activation: i32,
    accumulate: i32,
    gap_a: Gap,
    x: u64,
    norm: u64,
    eps: f32,
    gap_b: Gap,
    q: u64,
    scale: u64,
    out_q: u64,
    out_scale: u64,
}

/// Up to three products of `rows` rows (1, 2, 4 or 8): `out = x w^T + bias`, or added to `out` where `accumulate` is set.
///
/// # Errors
/// [`Error::Shape`], [`Error::Driver`], [`Error::Lost`].
pub fn gemv(device: &Device, rows: usize, input: &GemvInput, parts: &mut [Part], accumulate: bool) -> Result<()> {
    let Some(k) = parts.first().map(|p| p.weights.cols).filter(|_| parts.len() <= 3) else {
        return Err(Error::Shape(format!("{} products in a launch; 1 to 3", parts.len())));
    };
    let mut raw = raw(rows, input, k, parts.iter().any(|p| p.weights.is_quantized()))?;
    let mut total = 0;
    for (to, part) in raw.part.iter_mut().zip(&*parts) {
        holds("the product", part.out, rows * part.weights.rows)?;
        *to = raw_part((part.weights, part.bias), k)?;
        to.out = part.out.pointer();
        total += part.weights.rows;
    }
    raw.parts = parts.len() as i32;
    raw.accumulate = accumulate.into();
    launch(device, rows, &mut raw, total, 0)
}

/// The first half of a gated feed-forward network, for `rows` rows (1, 2, 4 or 8).
///
/// # Errors
/// As [`gemv`].
pub fn gated(device: &Device, rows: usize, input: &GemvInput, gate: Gate) -> Result<()> {
    let (hidden, k) = (gate.gate.0.rows, gate.gate.0.cols);
    let quantized = gate.gate.0.is_quantized() || gate.up.0.is_quantized();
    if gate.up.0.rows != hidden {
        return Err(Error::Shape(format!("{hidden} rows of the gate, {} of what it gates", gate.up.0.rows)));
    }
    let mut raw = raw(rows, input, k, quantized)?;
    holds("the gated product", gate.out, rows * hidden)?;
    raw.part[0] = raw_part(gate.gate, k)?;
    raw.part[1] = raw_part(gate.up, k)?;
    raw.part[0].out = gate.out.pointer();
    raw.parts = 2;
    if gate.activation == Activation::None {
        return Err(Error::Shape("a gate without an activation".into()));
    }
    raw.activation = gate.activation as i32;
    let mut tile = 0;
    if let Some(to) = gate.quantized {
        to.check(rows, hidden)?;
        (raw.out_q, raw.out_scale) = (to.q.pointer(), to.scale.pointer());
        tile = 32;
    }
    launch(device, rows, &mut raw, hidden, tile)
}

pub(super) fn raw_part((weights, bias): (&DeviceMatrix, Option<&Buffer<f32>>), k: usize) -> Result<RawPart> {
    if weights.cols != k {
        return Err(Error::Shape(format!("weights of {} columns beside others of {k}", weights.cols)));
    }
    if let Some(bias) = bias {
        holds("the bias", bias, weights.rows)?;
    }
    let bias = bias.map_or(0, Buffer::pointer);
    Ok(RawPart { weights: weights.pointer(), bias, out: 0, rows: weights.rows as i32, kind: weights.kind as i32 })
}

fn raw(rows: usize, input: &GemvInput, k: usize, quantized: bool) -> Result<Raw> {
    let mut raw = Raw {
        gap_a: 0,
        gap_b: 0,
        part: [RawPart::default(); 3],
        parts: 0,
        k: k as i32,
        rows_per_warp: 1,
        activation: 0,
        accumulate: 0,
        x: 0,
        norm: 0,
        eps: 0.0,
        q: 0,
        scale: 0,
        out_q: 0,
        out_scale: 0,
    };
    match *input {
        GemvInput::Normed { x, weight, eps } if rows == 1 => {
            holds("x", x, k)?;
            holds("the norm's weights", weight, k)?;
            (raw.x, raw.norm, raw.eps) = (x.pointer(), weight.pointer(), eps);
        }
        GemvInput::Normed { .. } => return Err(Error::Shape(format!("{rows} rows normed in a product; one at most"))),
        GemvInput::Plain { x, quantized: q } => {
            holds("x", x, rows * k)?;
            raw.x = x.pointer();
            match q {
                Some(q) => {
                    q.check(rows, k)?;
                    (raw.q, raw.scale) = (q.q.pointer(), q.scale.pointer());
                }
                None if quantized => return Err(Error::Shape("quantized weights take activations in 8 bits".into())),
                None => {}
            }
        }
    }
    Ok(raw)
}

/// `tile`: rows that a block of threads must have, where its result is quantized; 0: as many as fill the device.
fn launch(device: &Device, rows: usize, raw: &mut Raw, total: usize, tile: usize) -> Result<()> {
    let Some((_, name)) = ROWS.into_iter().find(|r| r.0 == rows) else {
        return Err(Error::Shape(format!("{rows} rows in a product; 1, 2, 4 or 8")));
    };
    // Four rows a warp where that still leaves every multiprocessor two blocks: the norm in front is shared by more rows then.
    let full = 2 * device.info().multiprocessors;
    let each = [4, 2, 1].into_iter().find(|each| total >= full * WARPS * each);
    raw.rows_per_warp = if tile > 0 { tile / WARPS } else { each.unwrap_or(1) } as i32;
    let blocks = total.div_ceil(WARPS * raw.rows_per_warp as usize);
    let k = raw.k as usize;
    let shared = if raw.norm != 0 { k.div_ceil(32) * (32 * 4 + 32 + 8) } else { 0 };
    let mut args: [*mut c_void; 1] = [from_mut(raw).cast()];
    // SAFETY: the structure is the kernel's; all its buffers were measured above.
    unsafe { device.launch(name, [blocks, 1, 1], WARPS * 32, shared, &mut args) }
}

/// `x[i] = scale * table[tokens[i]]` for `rows` tokens. x: (rows, k). Tokens outside the table take its nearest row.
///
/// # Errors
/// As [`gemv`].
pub fn embed(
    device: &Device,
    rows: usize,
    table: &DeviceMatrix,
    scale: f32,
    tokens: &Buffer<i32>,
    x: &mut Buffer<f32>,
) -> Result<()> {
    holds("tokens", tokens, rows)?;
    holds("x", x, rows * table.cols)?;
    let (mut data, mut kind, mut k, mut vocab) = (table.pointer(), table.kind as i32, table.cols as i32, table.rows as i32);
    let (mut scale, mut tokens, mut x) = (scale, tokens.pointer(), x.pointer());
    let mut args: [*mut c_void; 7] = [
        from_mut(&mut data).cast(),
        from_mut(&mut kind).cast(),
        from_mut(&mut k).cast(),
        from_mut(&mut vocab).cast(),
        from_mut(&mut scale).cast(),
        from_mut(&mut tokens).cast(),
        from_mut(&mut x).cast(),
    ];
    // SAFETY: the arguments are the kernel's; tokens are held within the table there.
    unsafe { device.launch("embed", [rows, 1, 1], 256, 0, &mut args) }
}
