//! The graph as both front ends give it: tensors, constants and operators in order, before shapes are worked out.

use dreamseed_kernels::cpu::conv::Padding;
use dreamseed_kernels::cpu::elementwise::{Binary, Fold, Unary};
use dreamseed_kernels::cpu::pooling::Reduce;
use dreamseed_kernels::cpu::resize::Centres;
use std::sync::Arc;

/// A graph read from a file. Operators are in topological order.
pub(crate) struct Graph {
    /// The file format, for errors.
    pub(crate) format: &'static str,
    pub(crate) values: Vec<Value>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) inputs: Vec<usize>,
    pub(crate) outputs: Vec<usize>,
    pub(crate) file: u64, // bytes read, weights included
}

/// A tensor. Only inputs and constants have a shape here; that of the others follows from the operators.
#[derive(Clone, Debug, Default)]
pub(crate) struct Value {
    pub(crate) name: String,
    pub(crate) shape: Option<Vec<usize>>,
    pub(crate) data: Option<Data>,
}

/// The elements of a constant: quantized and half floats are widened by the reader.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    F32(Arc<Vec<f32>>),
    I32(Arc<Vec<i32>>),
}

/// An operator.
pub(crate) struct Node {
    pub(crate) op: Op,
    pub(crate) name: String,
    pub(crate) inputs: Vec<Option<usize>>, // values; None for an optional operand that is left out
    pub(crate) outputs: Vec<usize>,
    pub(crate) offset: u64, // in the file, for errors
}

/// Operators of the two formats, told apart by meaning alone. Activations fused in a file are nodes of their own here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    Identity,
    /// x, weights (out, h, w, in), or (h, w, in, out) where `hwio`, bias?
    Conv {
        stride: [usize; 2],
        dilation: [usize; 2],
        padding: Padding,
        hwio: bool,
    },
    /// x, weights (1, h, w, in * multiplier), or (h, w, in, multiplier) where `hwio`, bias?
    Depthwise {
        stride: [usize; 2],
        dilation: [usize; 2],
        padding: Padding,
        hwio: bool,
    },
    /// x, weights (out, in), or (in, out) where `transposed`, bias?
    FullyConnected {
        transposed: bool,
        keep_dims: bool,
    },
    Pool {
        reduce: Reduce,
        window: [usize; 2],
        stride: [usize; 2],
        padding: Padding,
    },
    Clamp(f32, f32),
    Unary(Unary),
    Binary(Binary),
    /// x, slopes
    Prelu,
    /// x, (rank, 2) amounts, value?
    Pad,
    /// x, (height, width)
    Resize(Centres),
    DepthToSpace(usize),
    /// operands, and the axis as the last one where it is not given here
    Concat(Option<i64>),
    /// x, shape
    Reshape,
    ExpandDims,
    /// without axes: every dimension of one
    Squeeze(Vec<i64>),
    Softmax(f32),
    /// x, axes
    Fold {
        fold: Fold,
        keep_dims: bool,
    },
    /// x, begin, end, strides
    StridedSlice(SliceMasks),
    /// x, permutation
    Transpose,
    Pack(i64),
    Unpack(i64),
    Shape,
    ToInt,
    ToFloat,
    /// x, indices
    GatherNd,
}

/// Bit `d` speaks of entry `d` of a strided slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SliceMasks {
    pub(crate) begin: u32,
    pub(crate) end: u32,
    pub(crate) ellipsis: u32,
    pub(crate) new_axis: u32,
    pub(crate) shrink: u32,
}

/// Limits on what a file may ask for, far above any real network of this kind.
pub(crate) mod limits {
    /// Operators of a graph.
    pub(crate) const NODES: usize = 1 << 16;
    /// Tensors of a graph.
    pub(crate) const VALUES: usize = 1 << 17;
    /// Operands of all operators together.
    pub(crate) const OPERANDS: usize = 1 << 20;
    /// Bytes of a name.
    pub(crate) const NAME: usize = 1024;
    /// Elements of one tensor.
    pub(crate) const ELEMENTS: usize = 1 << 28;
    /// Bytes of all activations of a session.
    pub(crate) const ACTIVATIONS: usize = 1 << 30;
    /// Multiply-adds of one run.
    pub(crate) const MACS: u64 = 1 << 40;
    /// Bytes of a weight file.
    pub(crate) const FILE: u64 = 1 << 31;

    /// Bytes that the constants of a file of `len` bytes may take once widened and made dense.
    pub(crate) fn constants(len: u64) -> usize {
        (len.min(FILE) as usize).saturating_mul(16).saturating_add(1 << 20)
    }
}
