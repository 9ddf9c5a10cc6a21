//! Weights of vision transformers from any file that names its tensors.

use dreamseed_kernels::{BlockType, Pool, quant::quantize_q8_0};

use super::encoder::{Config, Encoder, Layer, Linear, Mlp, Norm};
use crate::decoder::Place;
use crate::weights::{Error, Result, Tensor, Values, gguf::Gguf, safetensors};
pub use crate::whisper::Precision;

/// Where tensors come from, by name.
pub trait Tensors: Sync {
    /// Outermost dimension first; `None` where there is no such tensor.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// The tensor's values.
    ///
    /// # Errors
    /// Tensor where it is missing or not of floats; Io.
    fn tensor(&self, name: &str) -> Result<Tensor>;

    /// The tensor's blocks, where products are to take them as they are stored; `None` where its values are to be packed.
    ///
    /// # Errors
    /// Tensor where it is not to be read; Io.
    fn blocks(&self, _name: &str) -> Result<Option<(BlockType, Vec<u8>)>> {
        Ok(None)
    }
}

impl Tensors for safetensors::File {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.info(name).map(|i| i.shape.clone())
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        Self::tensor(self, name)
    }
}

/// Quantized tensors come as floats: vision parts (mmproj) are stored in half precision or in 8 bits.
impl Tensors for Gguf {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Self::tensor(self, name)?.dims.iter().rev().map(|&d| usize::try_from(d).ok()).collect()
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let shape = Tensors::shape(self, name).ok_or_else(|| problem(name, "is not in the file".into()))?;
        let (rows, cols) = (shape.iter().rev().skip(1).product(), shape.last().copied().unwrap_or(1));
        let kind = self.kind(name, rows, cols)?;
        let bytes = self.bytes(name)?;
        let values = match kind {
            BlockType::F32 => Values::f32_le(&bytes),
            BlockType::F16 => Values::f16_le(&bytes),
            BlockType::BF16 => Values::bf16_le(&bytes),
            kind => {
                let mut values = vec![0.0; rows * cols];
                dreamseed_kernels::quant::dequantize(kind, &bytes, &mut values).map_err(|e| problem(name, e.to_string()))?;
                Values::F32(values)
            }
        };
        Ok(Tensor { shape, values })
    }
}

/// A part of a layer, as a file calls it without `.weight` and `.bias`. Queries, keys and values that have one name lie one under the
/// other in one tensor; so do gate and up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Norm before attention.
    Norm1,
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// Projection after attention.
    Out,
    /// Scale of what attention adds (the tensor's whole name); looked for, not required.
    Scale1,
    /// Norm before the feed-forward part.
    Norm2,
    /// Into the feed-forward part.
    Gate,
    /// Into the feed-forward part.
    Up,
    /// Out of it.
    Down,
    /// Scale of what it adds (the tensor's whole name); looked for, not required.
    Scale2,
}

/// How tensors are read and packed.
pub struct Loader<'a, P = Pool> {
    /// Threads that read.
    pub pool: &'a Pool,
    /// Where they go.
    pub place: &'a P,
    /// The file.
    pub tensors: &'a dyn Tensors,
    /// Of the weights of the layers.
    pub precision: Precision,
}

impl<P: Place> Loader<'_, P> {
    /// The layers and the norm after them. `name(i, part)` is what the file calls a part of layer i.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a config that no model has; [`Error::Tensor`] by name for what is missing or has another shape.
    pub fn encoder(&self, config: Config, name: &(dyn Fn(usize, Part) -> String + Sync), norm: &str) -> Result<Encoder<P>> {
        config.check().map_err(Error::Unsupported)?;
        let d = config.width;
        let layer = |i: usize| -> Result<Layer<P>> {
            let part = |part| name(i, part);
            let [q, k, v] = self.joined([part(Part::Query), part(Part::Key), part(Part::Value)], d, d)?;
            let (gate, up) = if config.gated {
                let [gate, up] = self.joined([part(Part::Gate), part(Part::Up)], config.ffn, d)?;
                (Some(gate), up)
            } else {
                (None, self.linear(&part(Part::Up), config.ffn, d)?)
            };
            let (scale1, scale2) = (self.scale(&part(Part::Scale1), d)?, self.scale(&part(Part::Scale2), d)?);
            Ok(Layer {
                norm1: self.norm(&part(Part::Norm1), d)?,
                q,
                k,
                v,
                out: self.scaled(&part(Part::Out), d, d, scale1)?,
                norm2: self.norm(&part(Part::Norm2), d)?,
                mlp: Mlp { gate, up, down: self.scaled(&part(Part::Down), d, config.ffn, scale2)? },
            })
        };
        let mut slots: Vec<Option<Result<Layer<P>>>> = (0..config.layers).map(|_| None).collect();
        self.pool.for_each_chunk(&mut slots, 1, |i, slot| slot[0] = Some(layer(i)));
        let layers = slots.into_iter().flatten().collect::<Result<_>>()?;
        Ok(Encoder { layers, norm: self.norm(norm, d)?, config })
    }

    /// Floats of this shape; the shape is checked before a byte is read.
    pub fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.fits(name, shape)?;
        self.tensors.tensor(name).map(|t| t.values.into_f32())
    }

    fn fits(&self, name: &str, shape: &[usize]) -> Result<()> {
        match self.tensors.shape(name) {
            Some(seen) if seen == shape => Ok(()),
            Some(seen) => Err(problem(name, format!("has shape {seen:?}, {shape:?} is needed"))),
            None => Err(problem(name, "is not in the file".into())),
        }
    }

    /// A layer norm of this name.
    pub fn norm(&self, name: &str, d: usize) -> Result<Norm<P>> {
        let read = |what: &str| self.place.vector(self.floats(&format!("{name}.{what}"), &[d])?);
        Ok(Norm { gamma: read("weight")?, beta: read("bias")? })
    }

    /// A linear layer of this name; it may have no bias.
    pub fn linear(&self, name: &str, rows: usize, cols: usize) -> Result<Linear<P>> {
        self.scaled(name, rows, cols, None)
    }

    /// A linear layer whose weights lie in the file as `shape`, rows outermost.
    pub fn reshaped(&self, name: &str, rows: usize, shape: &[usize]) -> Result<Linear<P>> {
        let w = self.floats(&format!("{name}.weight"), shape)?;
        let b = self.vector(self.bias(&format!("{name}.bias"), rows)?)?;
        Ok(Linear { w: self.matrix(name, rows, shape[1..].iter().product(), &w)?, b })
    }

    /// Rows `i` of `N` equal parts of a joined layer, or `N` layers of their own names.
    fn joined<const N: usize>(&self, names: [String; N], rows: usize, cols: usize) -> Result<[Linear<P>; N]> {
        let parts = match names.iter().all(|n| *n == names[0]) {
            false => names.iter().map(|n| self.linear(n, rows, cols)).collect::<Result<Vec<_>>>()?,
            true => self.split(&format!("{}.weight", names[0]), &format!("{}.bias", names[0]), [N, rows, cols])?,
        };
        parts.try_into().map_err(|_| problem(&names[0], format!("does not hold {N} parts")))
    }

    /// `parts` linear layers of `rows` x `cols` that lie one under the other in one tensor.
    pub fn split(&self, weight: &str, bias: &str, [parts, rows, cols]: [usize; 3]) -> Result<Vec<Linear<P>>> {
        let (matrices, b) = (self.matrices(weight, [parts, rows, cols])?, self.bias(bias, parts * rows)?);
        let bias = |i: usize| self.vector(b.as_ref().map(|b| b[i * rows..][..rows].to_vec()));
        matrices.into_iter().enumerate().map(|(i, w)| Ok(Linear { w, b: bias(i)? })).collect()
    }

    fn scaled(&self, name: &str, rows: usize, cols: usize, scale: Option<Vec<f32>>) -> Result<Linear<P>> {
        let (weight, mut b) = (format!("{name}.weight"), self.bias(&format!("{name}.bias"), rows)?);
        let Some(scale) = scale else {
            let [w] = <[P::Matrix; 1]>::try_from(self.matrices(&weight, [1, rows, cols])?)
                .map_err(|_| problem(&weight, "is no matrix".into()))?;
            return Ok(Linear { w, b: self.vector(b)? });
        };
        let mut w = self.floats(&weight, &[rows, cols])?;
        w.chunks_exact_mut(cols).zip(&scale).for_each(|(row, s)| row.iter_mut().for_each(|w| *w *= s));
        b.iter_mut().flatten().zip(&scale).for_each(|(b, s)| *b *= s);
        Ok(Linear { w: self.matrix(name, rows, cols, &w)?, b: self.vector(b)? })
    }

    fn vector(&self, values: Option<Vec<f32>>) -> Result<Option<P::Vector>> {
        values.map(|values| self.place.vector(values)).transpose()
    }

    /// `parts` matrices of `rows` x `cols` that lie one under the other.
    fn matrices(&self, name: &str, [parts, rows, cols]: [usize; 3]) -> Result<Vec<P::Matrix>> {
        self.fits(name, &[parts * rows, cols])?;
        let Some((kind, bytes)) = self.tensors.blocks(name)? else {
            let w = self.floats(name, &[parts * rows, cols])?;
            return w.chunks_exact(rows * cols).map(|w| self.matrix(name, rows, cols, w)).collect();
        };
        let packed = |bytes| self.place.matrix(name, kind, (rows, cols), bytes);
        bytes.chunks_exact((bytes.len() / parts).max(1)).map(packed).collect()
    }

    fn scale(&self, name: &str, d: usize) -> Result<Option<Vec<f32>>> {
        self.tensors.shape(name).map(|_| self.floats(name, &[d])).transpose()
    }

    fn bias(&self, name: &str, rows: usize) -> Result<Option<Vec<f32>>> {
        self.tensors.shape(name).map(|_| self.floats(name, &[rows])).transpose()
    }

    /// Packed in the loader's precision. What is stored in half precision is widened, or rounded to it where that is what is multiplied:
    /// the products are the same.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize, values: &[f32]) -> Result<P::Matrix> {
        match self.precision {
            Precision::Int8 if cols.is_multiple_of(BlockType::Q8_0.block().0) => {
                self.place.matrix(name, BlockType::Q8_0, (rows, cols), &quantize_q8_0(values))
            }
            _ => self.place.rounded(name, (rows, cols), values),
        }
    }
}

pub(super) fn problem(name: &str, problem: String) -> Error {
    Error::Tensor { name: name.to_string(), problem }
}
