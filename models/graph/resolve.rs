//! From operators to layers: shapes worked out, attributes that are constants (or computed from shapes) resolved, constants
//! folded. Everything that a file may get wrong about its graph is refused here.

use super::ir::{Data, Graph, Node, Op, Value, limits};
use super::layer::{Kind, Layer, Simple};
use crate::weights::{Error, Result};
use dreamseed_kernels::cpu::conv::{Act, Finish, WindowError};
use dreamseed_kernels::cpu::elementwise::Unary;
use dreamseed_kernels::cpu::movement::{RANK, Walk};
use std::sync::Arc;

/// A graph of layers.
pub(crate) struct Resolved {
    pub(crate) values: Vec<Value>, // all that layers touch have a shape
    pub(crate) layers: Vec<Layer>,
    pub(crate) inputs: Vec<usize>,
    pub(crate) outputs: Vec<usize>,
}

/// Elements up to which operations on constants are carried out while reading.
const FOLDED: usize = 1 << 16;
/// The same of all operations together.
const FOLDED_ALL: usize = 1 << 22;

/// Works out every layer of `graph`.
pub(crate) fn resolve(graph: Graph) -> Result<Resolved> {
    let Graph { format, values, nodes, inputs, outputs, file } = graph;
    let mut r = Resolver { format, values, layers: Vec::new(), weights: limits::constants(file) / 4, folded: FOLDED_ALL };
    for &i in &inputs {
        let value = &r.values[i];
        let elements = value.shape.as_ref().map(|s| s.iter().fold(1usize, |n, &d| n.saturating_mul(d)));
        if !elements.is_some_and(|n| (1..=limits::ELEMENTS).contains(&n)) || value.data.is_some() {
            return Err(r.tensor(i, "an input needs a shape of 1 or more elements and no value"));
        }
    }
    for node in &nodes {
        r.node(node)?;
    }
    for &o in &outputs {
        if r.values[o].shape.is_none() {
            return Err(r.tensor(o, "an output that nothing computes"));
        }
    }
    Ok(Resolved { values: r.values, layers: r.layers, inputs, outputs })
}

pub(super) struct Resolver {
    format: &'static str,
    pub(super) values: Vec<Value>,
    layers: Vec<Layer>,
    weights: usize, // elements that layers may still copy: weights may be used twice, but not a thousand times
    folded: usize,  // elements that may still be folded
}

/// A node with its error context.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) node: &'a Node,
    format: &'static str,
}

impl At<'_> {
    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        let field = format!("operator {}", self.node.name);
        Error::Field { format: self.format, field, offset: self.node.offset, problem: problem.into() }
    }

    /// Operand `i`, which must be there.
    pub(super) fn input(&self, i: usize) -> Result<usize> {
        let found = self.node.inputs.get(i).copied().flatten();
        found.ok_or_else(|| self.error(format!("operand {i} is missing: it has {}", self.node.inputs.len())))
    }

    pub(super) fn output(&self) -> Result<usize> {
        match self.node.outputs.as_slice() {
            &[o] => Ok(o),
            other => Err(self.error(format!("{} outputs instead of one", other.len()))),
        }
    }

    pub(super) fn window(&self, e: WindowError) -> Error {
        self.error(e.to_string())
    }
}

impl Resolver {
    fn tensor(&self, i: usize, problem: &str) -> Error {
        Error::Tensor { name: self.values[i].name.clone(), problem: problem.to_owned() }
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        let at = At { node, format: self.format };
        match &node.op {
            Op::Conv { .. } | Op::Depthwise { .. } | Op::FullyConnected { .. } | Op::Pool { .. } | Op::Resize(_) => {
                self.windowed(at)
            }
            Op::Identity | Op::Reshape | Op::ExpandDims | Op::Squeeze(_) | Op::Shape => self.reshaped(at),
            Op::Concat(_)
            | Op::Pack(_)
            | Op::Unpack(_)
            | Op::StridedSlice(_)
            | Op::Transpose
            | Op::DepthToSpace(_)
            | Op::Pad => self.moved(at),
            _ => self.computed(at),
        }
    }

    /// Shape of a value that an earlier node, an input or a constant defines.
    pub(super) fn shape(&self, at: At, i: usize) -> Result<&[usize]> {
        let value = &self.values[i];
        let missing = || at.error(format!("tensor {} is used before it is computed (a cycle, or a wrong order)", value.name));
        value.shape.as_deref().ok_or_else(missing)
    }

    /// (h, w, c) of a picture: four dimensions, batch 1.
    pub(super) fn picture(&self, at: At, i: usize) -> Result<[usize; 3]> {
        match self.shape(at, i)? {
            &[1, h, w, c] => Ok([h, w, c]),
            other => Err(at.error(format!("an operand of shape {other:?}; pictures are (1, h, w, c)"))),
        }
    }

    /// A constant's integers.
    pub(super) fn integers(&self, at: At, i: usize) -> Result<Vec<i64>> {
        match &self.values[i].data {
            Some(Data::I32(v)) => Ok(v.iter().map(|&v| v.into()).collect()),
            Some(Data::F32(_)) => Err(at.error(format!("operand {} must be integers", self.values[i].name))),
            None => Err(at.error(format!("operand {} must be a constant", self.values[i].name))),
        }
    }

    /// A constant's floats.
    pub(super) fn floats(&self, at: At, i: usize) -> Result<Arc<Vec<f32>>> {
        match &self.values[i].data {
            Some(Data::F32(v)) => Ok(Arc::clone(v)),
            Some(Data::I32(v)) => widen(v).map(Arc::new).ok_or_else(|| at.error("integers beyond 2^24 are no floats")),
            None => Err(at.error(format!("operand {} must be a constant", self.values[i].name))),
        }
    }

    /// Takes `elements` of weights out of what the file's size justifies.
    pub(super) fn spend(&mut self, at: At, elements: usize) -> Result<()> {
        let left = self.weights.checked_sub(elements);
        self.weights = left.ok_or_else(|| at.error("the layers use the weights of this file far too often"))?;
        Ok(())
    }

    /// An axis of a tensor of `rank` dimensions, negative ones from the end.
    pub(super) fn axis(&self, at: At, axis: i64, rank: usize) -> Result<usize> {
        let found = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
        let found = found.and_then(|a| usize::try_from(a).ok()).filter(|&a| a < rank);
        found.ok_or_else(|| at.error(format!("axis {axis} of {rank} dimensions")))
    }

    /// Gives `output` its shape, within the limits.
    pub(super) fn define(&mut self, at: At, output: usize, shape: Vec<usize>) -> Result<()> {
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if !elements.is_some_and(|n| (1..=limits::ELEMENTS).contains(&n)) || shape.len() > RANK {
            let most = limits::ELEMENTS;
            return Err(
                at.error(format!("an output of shape {shape:?}; at most {RANK} dimensions and {most} elements, at least one"))
            );
        }
        let value = &mut self.values[output];
        if value.shape.is_some() {
            return Err(at.error(format!("computes {}, which is an input, a constant, or computed before", value.name)));
        }
        value.shape = Some(shape);
        Ok(())
    }

    /// Adds a layer with weights, whose output is new.
    pub(super) fn layer(&mut self, at: At, kind: Kind, input: usize, output: usize, shape: Vec<usize>) -> Result<()> {
        self.define(at, output, shape)?;
        self.layers.push(Layer { kind, inputs: vec![input], output, finish: Finish::default(), residual: None });
        Ok(())
    }

    /// Adds plain layers that together compute `output` (several for a concatenation), or its value where all is constant.
    pub(super) fn simple(&mut self, at: At, parts: Vec<(Simple, Vec<usize>)>, output: usize, shape: Vec<usize>) -> Result<()> {
        self.define(at, output, shape.clone())?;
        let elements: usize = shape.iter().product();
        let constant = parts.iter().flat_map(|p| &p.1).all(|&i| self.values[i].data.is_some());
        let [(Simple::Copy, inputs)] = parts.as_slice() else {
            if !constant {
                let layers = parts.into_iter().map(|(op, inputs)| {
                    let kind = Kind::Simple(op);
                    Layer { kind, inputs, output, finish: Finish::default(), residual: None }
                });
                self.layers.extend(layers);
                return Ok(());
            }
            return self.fold(at, &parts, output, elements);
        };
        if constant {
            self.values[output].data = self.values[inputs[0]].data.clone();
        } else {
            let kind = Kind::Simple(Simple::Copy);
            self.layers.push(Layer { kind, inputs: inputs.clone(), output, finish: Finish::default(), residual: None });
        }
        Ok(())
    }

    /// Carries out an operation on constants.
    fn fold(&mut self, at: At, parts: &[(Simple, Vec<usize>)], output: usize, elements: usize) -> Result<()> {
        let left = self.folded.checked_sub(elements).filter(|_| elements <= FOLDED);
        let refusal =
            || at.error(format!("folds a constant of {elements} elements; at most {FOLDED} at once, {FOLDED_ALL} in all"));
        self.folded = left.ok_or_else(refusal)?;
        let mut out = vec![0.0; elements];
        let mut whole = true;
        for (op, inputs) in parts {
            whole &= !matches!(op, Simple::Unary(f) if *f != Unary::Truncate);
            whole &= inputs.iter().all(|&i| matches!(self.values[i].data, Some(Data::I32(_))));
            let a = self.floats(at, inputs[0])?;
            let b = inputs.get(1).map_or_else(|| Ok(Arc::default()), |&b| self.floats(at, b))?;
            op.run(&a, &b, &mut out);
        }
        let data = if whole { Data::I32(Arc::new(out.iter().map(|&v| v as i32).collect())) } else { Data::F32(Arc::new(out)) };
        self.values[output].data = Some(data);
        Ok(())
    }

    /// Operators that keep the elements and change the shape.
    fn reshaped(&mut self, at: At) -> Result<()> {
        let (x, output) = (at.input(0)?, at.output()?);
        let from = self.shape(at, x)?.to_vec();
        let shape = match &at.node.op {
            Op::Identity => from,
            Op::Reshape => {
                let wanted = self.integers(at, at.input(1)?)?;
                reshape(&from, &wanted).ok_or_else(|| at.error(format!("a reshape from {from:?} to {wanted:?}")))?
            }
            Op::ExpandDims => {
                let axis = self.integers(at, at.input(1)?)?.first().copied().unwrap_or(0);
                let mut shape = from;
                shape.insert(self.axis(at, axis, shape.len() + 1)?, 1);
                shape
            }
            Op::Squeeze(axes) => {
                let axes = axes.iter().map(|&a| self.axis(at, a, from.len())).collect::<Result<Vec<_>>>()?;
                let gone = |(d, &n): (usize, &usize)| n == 1 && (axes.is_empty() || axes.contains(&d));
                from.iter().enumerate().filter(|&d| !gone(d)).map(|(_, &n)| n).collect()
            }
            _ => {
                // The shape itself, a constant.
                self.define(at, output, vec![from.len()])?;
                self.values[output].data = Some(Data::I32(Arc::new(from.iter().map(|&d| d as i32).collect())));
                return Ok(());
            }
        };
        if shape.iter().product::<usize>() != self.shape(at, x)?.iter().product::<usize>() {
            return Err(at.error(format!("a new shape {shape:?} with another number of elements")));
        }
        self.simple(at, vec![(Simple::Copy, vec![x])], output, shape)
    }

    /// Elementwise operators and reductions.
    fn computed(&mut self, at: At) -> Result<()> {
        let (x, output) = (at.input(0)?, at.output()?);
        let shape = self.shape(at, x)?.to_vec();
        let channels = shape.last().copied().unwrap_or(1);
        let op = match &at.node.op {
            Op::Clamp(lo, hi) => Simple::Act(Act::Clamp(*lo, *hi), channels),
            Op::Unary(f) => Simple::Unary(*f),
            Op::ToInt => Simple::Unary(Unary::Truncate),
            Op::ToFloat => {
                if self.values[x].data.is_some() {
                    let data = self.floats(at, x)?;
                    self.define(at, output, shape)?;
                    self.values[output].data = Some(Data::F32(data));
                    return Ok(());
                }
                Simple::Copy
            }
            Op::Softmax(beta) => Simple::Softmax { channels, beta: *beta },
            Op::Prelu => {
                let slopes = self.floats(at, at.input(1)?)?;
                if slopes.len() != channels {
                    return Err(at.error(format!("{} slopes for {channels} channels; one each is needed", slopes.len())));
                }
                Simple::Act(Act::Prelu(slopes.to_vec()), channels)
            }
            Op::Binary(f) => return self.binary(at, *f),
            Op::Fold { fold, keep_dims } => return self.reduced(at, *fold, *keep_dims),
            _ => return self.gathered(at),
        };
        self.simple(at, vec![(op, vec![x])], output, shape)
    }

    /// Rows of `x` looked up by index.
    fn gathered(&mut self, at: At) -> Result<()> {
        let (x, indices, output) = (at.input(0)?, at.input(1)?, at.output()?);
        let (from, index) = (self.shape(at, x)?.to_vec(), self.shape(at, indices)?.to_vec());
        let Some((&depth, outer)) = index.split_last().filter(|&(&d, _)| (1..=from.len()).contains(&d)) else {
            return Err(at.error(format!("indices of shape {index:?} into {from:?}")));
        };
        let (dims, rest) = from.split_at(depth);
        let op = Simple::GatherNd { dims: dims.to_vec(), inner: rest.iter().product() };
        let shape = outer.iter().chain(rest).copied().collect();
        self.simple(at, vec![(op, vec![x, indices])], output, shape)
    }
}

fn widen(v: &[i32]) -> Option<Vec<f32>> {
    v.iter().map(|&v| (v.unsigned_abs() <= 1 << 24).then_some(v as f32)).collect()
}

/// The shape asked for by a reshape: one dimension may be -1.
fn reshape(from: &[usize], wanted: &[i64]) -> Option<Vec<usize>> {
    let elements: usize = from.iter().product();
    let known = wanted.iter().filter(|&&d| d != -1).try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?))?;
    let free = wanted.iter().filter(|&&d| d == -1).count();
    if wanted.len() > RANK || known == 0 || free > 1 || !elements.is_multiple_of(known) || (free == 0 && known != elements) {
        return None;
    }
    Some(wanted.iter().map(|&d| usize::try_from(d).unwrap_or(elements / known)).collect())
}

/// A walk over at most [`RANK`] dimensions, given innermost last.
pub(super) fn walk(shape: &[usize], step: &[isize], base: usize) -> Walk {
    let mut walk = Walk { shape: [1; RANK], step: [0; RANK], base };
    let skip = RANK - shape.len();
    walk.shape[skip..].copy_from_slice(shape);
    walk.step[skip..].copy_from_slice(step);
    if shape.is_empty() {
        walk.step[RANK - 1] = 1;
    }
    walk
}

/// How far the source moves a dimension, row-major.
pub(super) fn strides(shape: &[usize]) -> Vec<isize> {
    let mut out = vec![1isize; shape.len()];
    for d in (1..shape.len()).rev() {
        out[d - 1] = out[d] * shape[d] as isize;
    }
    out
}
