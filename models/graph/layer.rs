//! Layers: operators with their shapes known and their attributes resolved, each with one output.

use dreamseed_kernels::cpu::conv::{Act, Finish, Window};
use dreamseed_kernels::cpu::elementwise::{self, Binary, Broadcast, Fold, Unary};
use dreamseed_kernels::cpu::movement::{self, Walk};
use dreamseed_kernels::cpu::pooling::Reduce;
use dreamseed_kernels::cpu::resize::Centres;
use std::sync::Arc;

/// One operation over values (indices into [`super::resolve::Resolved::values`]).
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) kind: Kind,
    pub(crate) inputs: Vec<usize>,
    pub(crate) output: usize,
    pub(crate) finish: Finish,
    pub(crate) residual: Option<(usize, usize)>, // value, channels
}

/// What a layer does.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // a network has a few dozen of them
pub(crate) enum Kind {
    Conv(Weighted),
    Depthwise(Weighted),
    /// A depthwise convolution with the pointwise ones around it. The layer's finish and residual are the last one's.
    Block {
        expand: Option<(Weighted, Finish)>,
        depthwise: (Weighted, Finish),
        project: Weighted,
    },
    Pooling(Window, Reduce),
    Resize {
        input: [usize; 3],
        size: [usize; 2],
        centres: Centres,
    },
    Simple(Simple),
}

/// A convolution's geometry and constants.
#[derive(Clone, Debug)]
pub(crate) struct Weighted {
    pub(crate) window: Window,
    pub(crate) weights: Arc<Vec<f32>>, // (out, h, w, in), or (h, w, c) of a depthwise one
    pub(crate) bias: Vec<f32>,         // one a channel, or none
}

/// Operations that are one plain loop.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Simple {
    /// The same elements, perhaps in another shape.
    Copy,
    Unary(Unary),
    /// The activation, and the innermost dimension.
    Act(Act, usize),
    /// Operands: the one of the output's shape, the broadcast one.
    Binary {
        f: Binary,
        lay: Broadcast,
        swapped: bool,
    },
    Pad {
        from: [usize; 4],
        to: [usize; 4],
        before: [usize; 4],
        value: f32,
    },
    /// One operand of a concatenation; the others are layers with the same output.
    ConcatPart {
        len: usize,
        total: usize,
        from: usize,
    },
    Walk(Walk),
    Softmax {
        channels: usize,
        beta: f32,
    },
    Fold {
        fold: Fold,
        len: usize,
        inner: usize,
    },
    /// Operands: x, seen as (.., inner), and indices (n, dims). An index outside its dimension is clamped.
    GatherNd {
        dims: Vec<usize>,
        inner: usize,
    },
}

impl Simple {
    /// Runs on plain slices. `b` is empty for operations of one operand.
    pub(crate) fn run(&self, a: &[f32], b: &[f32], out: &mut [f32]) {
        match self {
            Self::Copy => out.copy_from_slice(a),
            Self::Unary(f) => elementwise::unary(*f, a, out),
            Self::Act(act, channels) => {
                out.copy_from_slice(a);
                elementwise::activate(act, out, *channels);
            }
            Self::Binary { f, lay, swapped } => elementwise::binary(*f, a, b, *lay, *swapped, out),
            Self::Pad { from, to, before, value } => movement::pad(a, *from, out, *to, *before, *value),
            Self::ConcatPart { len, total, from } => movement::concat(a, *len, out, *total, *from),
            Self::Walk(walk) => walk.run(a, out),
            Self::Softmax { channels, beta } => elementwise::softmax(a, *channels, *beta, out),
            Self::Fold { fold, len, inner } => elementwise::fold(*fold, a, *len, *inner, out),
            Self::GatherNd { dims, inner } => gather(dims, *inner, a, b, out),
        }
    }
}

fn gather(dims: &[usize], inner: usize, x: &[f32], indices: &[f32], out: &mut [f32]) {
    for (index, out) in indices.chunks_exact(dims.len()).zip(out.chunks_exact_mut(inner)) {
        // A float to integer cast saturates: below zero is 0, not a number is 0.
        let at = index.iter().zip(dims).fold(0, |at, (&i, &n)| at * n + (i as usize).min(n - 1));
        out.copy_from_slice(&x[at * inner..(at + 1) * inner]);
    }
}
