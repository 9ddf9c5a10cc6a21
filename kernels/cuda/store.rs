//! Keys and values in paged blocks on a device, and what the rows of a pass are.

use super::buffer::Buffer;
use super::device::{Device, Error, Gap};
use crate::cpu::kv::SUB;
use crate::{KV_BLOCK, KvShape, KvType};
use half::f16;

type Result<T> = std::result::Result<T, Error>;

/// The kernels of a width of heads, for keys and values in f16 and in 8 bits.
pub(super) struct Kernels {
    dim: usize,
    /// Decode.
    pub(super) attend: [&'static str; 2],
    /// Prefill.
    pub(super) rows: [&'static str; 2],
}

macro_rules! kernels {
    ($($dim:literal),*) => {
        [$(Kernels {
            dim: $dim,
            attend: [concat!("attend_", $dim), concat!("attend_", $dim, "_q8")],
            rows: [concat!("attend_rows_", $dim), concat!("attend_rows_", $dim, "_q8")],
        }),*]
    };
}

/// Widths of heads that have kernels.
static KERNELS: [Kernels; 7] = kernels![16, 32, 64, 80, 96, 128, 256];

/// Keys and values of all layers in blocks of [`KV_BLOCK`] positions, in f16 or q8_0. Which block belongs to whom is the caller's accounting.
pub struct DeviceStore {
    pub(super) data: Buffer<u8>,
    shape: KvShape,
    blocks: usize,
}

impl DeviceStore {
    /// Room for `blocks` blocks.
    ///
    /// # Errors
    /// [`Error::Shape`] for a kind or a width of heads that no kernel has, and those of [`Device::zeros`].
    pub fn new(device: &Device, shape: KvShape, blocks: usize) -> Result<Self> {
        Self::supports(&shape)?;
        let data = device.zeros(blocks.saturating_mul(Self::block_bytes(&shape)))?;
        Ok(Self { data, shape, blocks })
    }

    /// Bytes of a block.
    pub fn block_bytes(shape: &KvShape) -> usize {
        shape.layers * shape.kv_heads * Self::head_bytes(shape)
    }

    /// Bytes of a head of a layer in a block: keys, their scales, values, their scales.
    fn head_bytes(shape: &KvShape) -> usize {
        let position = match shape.kind {
            KvType::F32 => size_of::<f32>() * shape.head_dim,
            KvType::F16 => size_of::<f16>() * shape.head_dim,
            KvType::Q8_0 => shape.head_dim + size_of::<f16>() * shape.head_dim.div_ceil(SUB),
        };
        2 * KV_BLOCK * position
    }

    /// Blocks that it has room for.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// What it holds.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Copies block `from` over block `to`.
    ///
    /// # Errors
    /// [`Error::Shape`] when one of them is not there, [`Error::Driver`], [`Error::Lost`].
    pub fn copy(&mut self, from: u32, to: u32) -> Result<()> {
        let size = Self::block_bytes(&self.shape);
        if from == to { Ok(()) } else { self.data.copy_within(from as usize * size, to as usize * size, size) }
    }

    /// Takes over what `other`, a smaller store of the same shape, holds.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape or a larger store, [`Error::Driver`], [`Error::Lost`].
    pub fn copy_from(&mut self, other: &Self) -> Result<()> {
        if self.shape != other.shape {
            return Err(Error::Shape(format!("{:?} into a store of {:?}", other.shape, self.shape)));
        }
        self.data.copy_from(&other.data)
    }

    /// Whether there is a kernel for keys and values of this shape.
    ///
    /// # Errors
    /// [`Error::Shape`] that says what there is.
    pub fn supports(shape: &KvShape) -> Result<()> {
        kind(shape)?;
        kernels(shape.head_dim).map(drop)
    }

    /// The kernels of its width, and which of each two are for its kind.
    pub(super) fn kernels(&self) -> Result<(&'static Kernels, usize)> {
        Ok((kernels(self.shape.head_dim)?, kind(&self.shape)? as usize))
    }

    pub(super) fn raw(&self, rows: &Rows, layer: usize) -> Result<RawStore> {
        if layer >= self.shape.layers {
            return Err(Error::Shape(format!("layer {layer} of a store of {}", self.shape.layers)));
        }
        Ok(RawStore {
            gap: 0,
            data: self.data.pointer(),
            tables: rows.tables.pointer(),
            sequences: rows.input(3),
            table: (rows.tables.len() / rows.sequences().max(1)) as i32,
            block: Self::block_bytes(&self.shape) as u64,
            head: Self::head_bytes(&self.shape) as u64,
            layer: layer as i32,
            kv_heads: self.shape.kv_heads as i32,
            head_dim: self.shape.head_dim as i32,
            kind: kind(&self.shape)?,
        })
    }
}

fn kernels(head_dim: usize) -> Result<&'static Kernels> {
    let found = KERNELS.iter().find(|k| k.dim == head_dim);
    found.ok_or_else(|| {
        let dims = KERNELS.each_ref().map(|k| k.dim);
        Error::Shape(format!("heads of {head_dim} elements; {dims:?} have a kernel"))
    })
}

/// As `Element` of store.cuh numbers them.
fn kind(shape: &KvShape) -> Result<i32> {
    match shape.kind {
        KvType::F16 => Ok(0),
        KvType::Q8_0 => Ok(1),
        KvType::F32 => Err(Error::Shape("keys and values in F32; on a GPU they are in F16 or Q8_0".into())),
    }
}

/// What the rows of a pass are, on the device: a graph reads them anew at every replay. **Not checked on the device**: sequences must be
/// rows of the tables, and blocks must be of the store as far as positions reach.
pub struct Rows {
    /// (4, rows): tokens; positions in the sequence, negative for a row that is empty; rows of the tables of cosines and sines; the
    /// sequence that each row belongs to.
    pub inputs: Buffer<i32>,
    /// (3, sequences) for attention of many rows: the first row of each sequence; how many rows it has, next to each other; the
    /// position up to which all of them see at least (rows of a picture see those behind them), or -1 where a row sees up to its own.
    pub spans: Buffer<i32>,
    /// (sequences, longest) the blocks of each sequence.
    pub tables: Buffer<i32>,
}

impl Rows {
    /// Room for `rows` rows of `sequences` sequences of up to `blocks` blocks. All rows are empty.
    ///
    /// # Errors
    /// Those of [`Device::zeros`].
    pub fn new(device: &Device, rows: usize, sequences: usize, blocks: usize) -> Result<Self> {
        Ok(Self {
            inputs: device.upload(&[vec![0; rows], vec![-1; rows], vec![0; 2 * rows]].concat())?,
            spans: device.upload(&[vec![0; 2 * sequences], vec![-1; sequences]].concat())?,
            tables: device.zeros(sequences.saturating_mul(blocks))?,
        })
    }

    /// Most rows.
    pub fn most(&self) -> usize {
        self.inputs.len() / 4
    }

    /// Most sequences.
    pub fn sequences(&self) -> usize {
        self.spans.len() / 3
    }

    /// Where row `i` of the inputs lies.
    fn input(&self, i: usize) -> u64 {
        self.inputs.pointer() + (i * self.most() * size_of::<i32>()) as u64
    }

    pub(super) fn positions(&self) -> u64 {
        self.input(1)
    }

    pub(super) fn turns(&self) -> u64 {
        self.input(2)
    }

    pub(super) fn check(&self, rows: usize) -> Result<()> {
        if rows <= self.most() { Ok(()) } else { Err(Error::Shape(format!("{rows} rows of at most {}", self.most()))) }
    }
}

#[repr(C)]
pub(super) struct RawStore {
    data: u64,
    tables: u64,
    sequences: u64,
    table: i32,
    gap: Gap,
    block: u64,
    head: u64,
    layer: i32,
    kv_heads: i32,
    head_dim: i32,
    kind: i32,
}
