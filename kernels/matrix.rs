//! Packed weight matrices.

use crate::cpu::format::{self, Format, with_format};
use crate::cpu::gemm_float::pack_panel;
use crate::cpu::vector::LANES;
use crate::memory::Aligned;
use crate::quant::{Codes, dequantize};
use crate::simd::{self, Level};
use crate::{BlockType, Pool};
use half::{bf16, f16};

/// What is wrong with the bytes or shape of a weight matrix.
#[allow(missing_docs)] // the fields are what the messages name
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MatrixError {
    /// The number of bytes does not fit the shape.
    #[error("a {rows} x {cols} matrix of {kind:?} takes {wanted} bytes, not {seen}")]
    Size { kind: BlockType, rows: usize, cols: usize, wanted: usize, seen: usize },
    /// A row is not a whole number of blocks.
    #[error("a row of {cols} elements is not a whole number of {kind:?} blocks of {block}")]
    Ragged { kind: BlockType, cols: usize, block: usize },
}

/// Weights (rows = output features n, cols = input features k), immutable, at their native bit size: panels of 16 rows,
/// interleaved for the widest vectors. The layout is the same at every SIMD level.
pub struct Matrix {
    rows: usize,
    cols: usize,
    kind: BlockType,
    level: Level,
    data: Aligned, // (rows / 16 rounded up) panels of panel_bytes()
}

impl Matrix {
    /// From plain floats, row-major (rows, cols).
    pub fn from_f32(rows: usize, cols: usize, data: &[f32]) -> Result<Self, MatrixError> {
        Self::from_floats(BlockType::F32, rows, cols, data)
    }

    /// From half floats, row-major (rows, cols); kept as such, products are summed in f32.
    pub fn from_f16(rows: usize, cols: usize, data: &[f16]) -> Result<Self, MatrixError> {
        Self::from_floats(BlockType::F16, rows, cols, data)
    }

    /// From brain floats, row-major (rows, cols); kept as such, products are summed in f32.
    pub fn from_bf16(rows: usize, cols: usize, data: &[bf16]) -> Result<Self, MatrixError> {
        Self::from_floats(BlockType::BF16, rows, cols, data)
    }

    fn from_floats<T: Copy>(kind: BlockType, rows: usize, cols: usize, data: &[T]) -> Result<Self, MatrixError> {
        if Some(data.len()) != rows.checked_mul(cols) {
            let wanted = rows.saturating_mul(cols).saturating_mul(size_of::<T>());
            return Err(MatrixError::Size { kind, rows, cols, wanted, seen: size_of_val(data) });
        }
        let mut packed = Aligned::zeroed(rows.div_ceil(LANES) * cols * LANES * size_of::<T>());
        pack_floats(&mut packed, rows, cols, data);
        Ok(Self { rows, cols, kind, level: simd::level(), data: packed })
    }

    /// Takes other values, row-major, in the place of those it was made from: what is a matrix only until the next input comes (keys and
    /// values of an audio) keeps its memory.
    ///
    /// # Errors
    /// [`MatrixError::Size`] where it is not of that kind or size; nothing is changed then.
    pub fn refill_f32(&mut self, data: &[f32]) -> Result<(), MatrixError> {
        self.refill(BlockType::F32, data)
    }

    /// As [`Matrix::refill_f32`], for a matrix of half floats.
    ///
    /// # Errors
    /// As there.
    pub fn refill_f16(&mut self, data: &[f16]) -> Result<(), MatrixError> {
        self.refill(BlockType::F16, data)
    }

    fn refill<T: Copy>(&mut self, kind: BlockType, data: &[T]) -> Result<(), MatrixError> {
        let Self { rows, cols, .. } = *self;
        if self.kind != kind || data.len() != rows * cols {
            let wanted = rows * cols * self.kind.block().1;
            return Err(MatrixError::Size { kind: self.kind, rows, cols, wanted, seen: size_of_val(data) });
        }
        pack_floats(&mut self.data, rows, cols, data);
        Ok(())
    }

    /// From ggml blocks as they lie in a GGUF file: `bytes` holds `rows` rows of `cols / block` blocks each, little endian.
    ///
    /// The weights keep their bits (K-quants take 3% more for their scales; Q8_K, which files do not hold, becomes f32); products
    /// quantize the activations to 8 bits a block of 32. Plain float types may also come this way.
    pub fn from_blocks(kind: BlockType, rows: usize, cols: usize, bytes: &[u8]) -> Result<Self, MatrixError> {
        Self::from_blocks_on(&Pool::new(1), kind, rows, cols, bytes)
    }

    /// As [`Matrix::from_blocks`], packed by all threads of `pool`.
    pub fn from_blocks_on(pool: &Pool, kind: BlockType, rows: usize, cols: usize, bytes: &[u8]) -> Result<Self, MatrixError> {
        let (block, size) = kind.block();
        if !cols.is_multiple_of(block) {
            return Err(MatrixError::Ragged { kind, cols, block });
        }
        let wanted = (cols / block).checked_mul(size).and_then(|row| row.checked_mul(rows));
        if wanted != Some(bytes.len()) {
            let wanted = wanted.unwrap_or(usize::MAX);
            return Err(MatrixError::Size { kind, rows, cols, wanted, seen: bytes.len() });
        }
        match kind {
            BlockType::F16 => {
                let values: Vec<_> = bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect();
                Self::from_f16(rows, cols, &values)
            }
            BlockType::BF16 => {
                let values: Vec<_> = bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]])).collect();
                Self::from_bf16(rows, cols, &values)
            }
            BlockType::F32 | BlockType::Q8K => {
                let mut values = vec![0.0; bytes.len() / size * block];
                // The length was made to fit.
                let _ = dequantize(kind, bytes, &mut values);
                Self::from_f32(rows, cols, &values)
            }
            _ => {
                let data = with_format!(kind, F => pack_records::<F>(pool, kind, cols, bytes), Aligned::zeroed(0));
                Ok(Self { rows, cols, kind, level: simd::level(), data })
            }
        }
    }

    /// The same matrix computed with at `level` (tests compare all levels; one that the processor lacks runs as its widest).
    pub fn at_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Output features n.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features k.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The storage type it was made from.
    pub fn kind(&self) -> BlockType {
        self.kind
    }

    /// Bytes that the packed weights take.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    pub(crate) fn level(&self) -> Level {
        self.level
    }

    pub(crate) fn data(&self) -> *const u8 {
        self.data.as_ptr()
    }

    /// Row `row` as floats (embedding look-up). `out`: (cols).
    ///
    /// # Panics
    /// When there is no such row, or `out` is not a row long.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {} into {} of {}", self.rows, out.len(), self.cols);
        with_format!(self.kind, F => self.quantized_row::<F>(row, out), self.float_row(row, out));
    }

    fn quantized_row<F: Format>(&self, row: usize, out: &mut [f32]) {
        let records = self.cols / 32 / F::UNITS;
        let panel = &self.data.bytes()[row / LANES * records * F::RECORD..][..records * F::RECORD];
        let mut codes = Codes::new();
        for (record, out) in panel.chunks_exact(F::RECORD).zip(out.chunks_exact_mut(32 * F::UNITS)) {
            format::unpack::<F>(record, row % LANES, &mut codes);
            codes.values(self.kind, out);
        }
    }

    fn float_row(&self, row: usize, out: &mut [f32]) {
        let first = row / LANES * self.cols * LANES + row % LANES;
        for (i, o) in out.iter_mut().enumerate() {
            let at = first + i * LANES;
            // SAFETY: the element lies within the row's panel, and the panels hold elements of `kind`.
            *o = unsafe {
                match self.kind {
                    BlockType::F16 => (*self.data.as_ptr().cast::<f16>().add(at)).to_f32(),
                    BlockType::BF16 => (*self.data.as_ptr().cast::<bf16>().add(at)).to_f32(),
                    _ => *self.data.as_ptr().cast::<f32>().add(at),
                }
            };
        }
    }
}

/// Packs plain rows of floats into the panels of `packed`, which has room for exactly them.
fn pack_floats<T: Copy>(packed: &mut Aligned, rows: usize, cols: usize, data: &[T]) {
    let (panel, panels) = (cols * LANES, rows.div_ceil(LANES));
    assert!(packed.len() >= panels * panel * size_of::<T>(), "{} bytes for {rows} x {cols}", packed.len());
    if panel > 0 && rows > 0 {
        // SAFETY: the buffer is aligned, was zeroed or filled with the same type (T is a float), and holds whole panels of T.
        let all = unsafe { std::slice::from_raw_parts_mut(packed.as_mut_ptr().cast::<T>(), panels * panel) };
        all.chunks_exact_mut(panel).zip(data.chunks(panel)).for_each(|(to, from)| pack_panel(from, cols, to));
    }
}

/// Packs rows of blocks into panels of records.
fn pack_records<F: Format>(pool: &Pool, kind: BlockType, cols: usize, bytes: &[u8]) -> Aligned {
    let (block, size) = kind.block();
    let (stride, records) = (cols / block * size, cols / block);
    if stride == 0 || bytes.is_empty() {
        return Aligned::zeroed(0);
    }
    let mut packed = Aligned::zeroed((bytes.len() / stride).div_ceil(LANES) * records * F::RECORD);
    pool.for_each_chunk(packed.bytes_mut(), records * F::RECORD, |p, panel| {
        let mut codes = Codes::new();
        let rows = &bytes[p * LANES * stride..];
        for (r, row) in rows.chunks_exact(stride).take(LANES).enumerate() {
            for (record, block) in panel.chunks_exact_mut(F::RECORD).zip(row.chunks_exact(size)) {
                codes.read(kind, block);
                format::pack::<F>(&codes, record, r);
            }
        }
    });
    packed
}
