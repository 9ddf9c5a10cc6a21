//! The flat plan: layers with packed weights, and buffers shared by values that are not alive at the same time.

use super::ir::{Data, limits};
use super::layer::{Kind, Layer, Simple, Weighted};
use super::resolve::Resolved;
use crate::weights::{Error, Result};
use dreamseed_kernels::cpu::conv::{Finish, WindowError};
use dreamseed_kernels::cpu::{block::Block, dense::Conv, depthwise::Depthwise, pooling::Pooling, resize::Resize};
use std::sync::Arc;

/// Where an operand's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Input(usize),
    Constant(usize),
    Slot(usize),
}

/// One operation, ready to run as `R`.
pub(crate) struct Step<R = Run> {
    pub(crate) run: R,
    pub(crate) a: (Place, usize), // first operand and its length
    pub(crate) b: Option<(Place, usize)>,
    pub(crate) residual: Option<(Place, usize, usize)>, // place, length, channels
    pub(crate) out: (usize, usize),                     // slot, length
    pub(crate) macs: u64,
}

/// What a step runs on the processor.
pub(crate) enum Run {
    Conv(Conv),
    Depthwise(Depthwise),
    Block(Box<Block>),
    Pooling(Pooling),
    Resize(Resize),
    Simple(Simple),
}

/// A network's steps, constants and buffer sizes.
pub(crate) struct Plan<R = Run> {
    pub(crate) steps: Vec<Step<R>>,
    pub(crate) constants: Vec<Arc<Vec<f32>>>,
    pub(crate) slots: Vec<usize>,            // elements
    pub(crate) outputs: Vec<(usize, usize)>, // slot, elements
}

/// Positions of all pooling and resizing layers together: tables that are worked out beforehand.
const POSITIONS: usize = 1 << 22;

/// Who runs a plan: the processor, or a GPU.
pub(crate) trait Target {
    /// A layer with its constants where they are needed.
    type Run;
    /// Whether each output has a slot of its own, so that all can be read together.
    const OWN_OUTPUTS: bool;

    /// Prepares a layer. `name`: its output's, for errors.
    fn pack(&self, name: &str, layer: &Layer) -> Result<Self::Run>;
}

/// Prepares the layers for `target` and assigns buffers.
pub(crate) fn plan<T: Target>(graph: &Resolved, target: &T) -> Result<Plan<T::Run>> {
    let mut p = Planner::new(graph, target);
    let mut positions = 0usize;
    for (i, layer) in graph.layers.iter().enumerate() {
        if let Kind::Pooling(window, _) = &layer.kind {
            positions = positions.saturating_add(window.output[0] + window.output[1]);
        }
        if let Kind::Resize { size, .. } = &layer.kind {
            positions = positions.saturating_add(size[0]).saturating_add(size[1]);
        }
        if positions > POSITIONS {
            return Err(Error::Unsupported(format!("pooling and resizing over more than {POSITIONS} rows and columns in all")));
        }
        p.layer(i, layer)?;
    }
    p.finish()
}

fn dense(w: &Weighted, finish: Finish) -> std::result::Result<Conv, WindowError> {
    Conv::new(w.window.clone(), &w.weights, &w.bias, finish)
}

fn depthwise(w: &Weighted, finish: Finish) -> std::result::Result<Depthwise, WindowError> {
    Depthwise::new(w.window.clone(), &w.weights, &w.bias, finish)
}

/// The processor.
pub(crate) struct Cpu;

impl Target for Cpu {
    type Run = Run;
    const OWN_OUTPUTS: bool = false;

    fn pack(&self, name: &str, layer: &Layer) -> Result<Run> {
        let fail = |e: WindowError| Error::Tensor { name: name.to_owned(), problem: e.to_string() };
        let finish = layer.finish.clone();
        Ok(match &layer.kind {
            Kind::Conv(w) => Run::Conv(dense(w, finish).map_err(fail)?),
            Kind::Depthwise(w) => Run::Depthwise(depthwise(w, finish).map_err(fail)?),
            Kind::Block { expand, depthwise: d, project } => {
                let first = expand.as_ref().map(|(w, finish)| dense(w, finish.clone())).transpose().map_err(fail)?;
                let (middle, last) = (depthwise(&d.0, d.1.clone()).map_err(fail)?, dense(project, finish).map_err(fail)?);
                Run::Block(Box::new(Block::new(first, middle, last).map_err(fail)?))
            }
            Kind::Pooling(window, reduce) => Run::Pooling(Pooling::new(window.clone(), *reduce, finish.after).map_err(fail)?),
            Kind::Resize { input, size, centres } => Run::Resize(Resize::new(*input, *size, *centres, finish).map_err(fail)?),
            Kind::Simple(op) => Run::Simple(op.clone()),
        })
    }
}

/// Multiply-adds of a convolution: one for each weight and pixel.
fn macs(w: &Weighted) -> u64 {
    let pixels = w.window.output[..2].iter().map(|&n| n as u64).product::<u64>();
    pixels.saturating_mul(w.weights.len() as u64)
}

/// Multiply-adds of a layer, about.
fn work(kind: &Kind, a: usize, out: usize) -> u64 {
    match kind {
        Kind::Conv(w) | Kind::Depthwise(w) => macs(w),
        Kind::Block { expand, depthwise: d, project } => {
            let all = [&d.0, project].into_iter().chain(expand.as_ref().map(|e| &e.0)).map(macs);
            all.fold(0, u64::saturating_add)
        }
        Kind::Pooling(window, _) => (out as u64).saturating_mul(window.taps() as u64),
        Kind::Resize { .. } => out as u64 * 4,
        Kind::Simple(_) => a.max(out) as u64,
    }
}

struct Planner<'a, T: Target> {
    target: &'a T,
    graph: &'a Resolved,
    root: Vec<usize>,          // value -> the value whose elements it shares
    last: Vec<usize>,          // root -> last layer that reads it; usize::MAX for outputs
    place: Vec<Option<Place>>, // root -> where
    free: Vec<usize>,          // slots
    plan: Plan<T::Run>,
    macs: u64,
}

impl<'a, T: Target> Planner<'a, T> {
    fn new(graph: &'a Resolved, target: &'a T) -> Self {
        let n = graph.values.len();
        let mut root: Vec<usize> = (0..n).collect();
        let mut last = vec![0; n];
        for (i, layer) in graph.layers.iter().enumerate() {
            if matches!(layer.kind, Kind::Simple(Simple::Copy)) {
                root[layer.output] = root[layer.inputs[0]];
            }
            layer.inputs.iter().chain(layer.residual.iter().map(|r| &r.0)).for_each(|&v| last[root[v]] = i);
        }
        graph.outputs.iter().for_each(|&o| last[root[o]] = usize::MAX);
        let mut place = vec![None; n];
        graph.inputs.iter().enumerate().for_each(|(i, &v)| place[v] = Some(Place::Input(i)));
        let plan = Plan { steps: Vec::new(), constants: Vec::new(), slots: Vec::new(), outputs: Vec::new() };
        Self { target, graph, root, last, place, free: Vec::new(), plan, macs: 0 }
    }

    fn layer(&mut self, i: usize, layer: &Layer) -> Result<()> {
        if matches!(layer.kind, Kind::Simple(Simple::Copy)) {
            return Ok(());
        }
        let (a, b) = (self.operand(layer.inputs[0])?, layer.inputs.get(1).map(|&v| self.operand(v)).transpose()?);
        let residual = layer.residual.map(|(v, c)| self.operand(v).map(|(p, n)| (p, n, c))).transpose()?;
        let out = (self.slot(layer.output), elements(self.graph, layer.output));
        let run = self.target.pack(&self.graph.values[layer.output].name, layer)?;
        let macs = work(&layer.kind, a.1, out.1);
        self.macs = self.macs.saturating_add(macs);
        if self.macs > limits::MACS {
            return Err(Error::Unsupported(format!("a run takes more than {} multiply-adds", limits::MACS)));
        }
        self.plan.steps.push(Step { run, a, b, residual, out, macs });
        let read = layer.inputs.iter().chain(layer.residual.iter().map(|r| &r.0)).chain([&layer.output]);
        for &v in read {
            self.release(self.root[v], i);
        }
        Ok(())
    }

    /// Hands back the slot of a value that nothing reads after layer `i`.
    fn release(&mut self, root: usize, i: usize) {
        if let (Some(Place::Slot(slot)), true) = (self.place[root], self.last[root] <= i)
            && !self.free.contains(&slot)
        {
            self.free.push(slot);
            self.place[root] = None;
        }
    }

    fn operand(&mut self, v: usize) -> Result<(Place, usize)> {
        let root = self.root[v];
        let len = elements(self.graph, v);
        if let Some(place) = self.place[root] {
            return Ok((place, len));
        }
        let missing =
            || Error::Tensor { name: self.graph.values[v].name.clone(), problem: "read before it is computed".to_owned() };
        let data = match self.graph.values[root].data.as_ref().ok_or_else(missing)? {
            Data::F32(data) => Arc::clone(data),
            Data::I32(data) => Arc::new(data.iter().map(|&v| v as f32).collect()),
        };
        self.plan.constants.push(data);
        let place = Place::Constant(self.plan.constants.len() - 1);
        self.place[root] = Some(place);
        Ok((place, len))
    }

    /// The slot of a value that is computed: its own where it has one, else the free one that fits best.
    fn slot(&mut self, v: usize) -> usize {
        let (root, need) = (self.root[v], elements(self.graph, v));
        if let Some(Place::Slot(slot)) = self.place[root] {
            return slot;
        }
        if T::OWN_OUTPUTS && self.last[root] == usize::MAX {
            self.plan.slots.push(need);
            self.place[root] = Some(Place::Slot(self.plan.slots.len() - 1));
            return self.plan.slots.len() - 1;
        }
        let slots = &mut self.plan.slots;
        // The smallest that is large enough, or else the largest, which then grows.
        let best = (0..self.free.len()).min_by_key(|&f| {
            let size = slots[self.free[f]];
            if size >= need { (0, size) } else { (1, usize::MAX - size) }
        });
        let slot = match best {
            Some(f) => self.free.swap_remove(f),
            None => {
                slots.push(0);
                slots.len() - 1
            }
        };
        slots[slot] = slots[slot].max(need);
        self.place[root] = Some(Place::Slot(slot));
        slot
    }

    /// Outputs that are inputs or constants get a copy; then the limits.
    fn finish(mut self) -> Result<Plan<T::Run>> {
        for &o in &self.graph.outputs {
            let (place, len) = self.operand(o)?;
            let slot = match place {
                Place::Slot(slot) => slot,
                a => {
                    self.plan.slots.push(len);
                    let out = (self.plan.slots.len() - 1, len);
                    let kind = Kind::Simple(Simple::Copy);
                    let copy = Layer { kind, inputs: vec![o], output: o, finish: Finish::default(), residual: None };
                    let run = self.target.pack(&self.graph.values[o].name, &copy)?;
                    self.plan.steps.push(Step { run, a: (a, len), b: None, residual: None, out, macs: len as u64 });
                    out.0
                }
            };
            self.plan.outputs.push((slot, len));
        }
        let bytes = self.plan.slots.iter().fold(0usize, |n, &s| n.saturating_add(s.saturating_mul(4)));
        if bytes > limits::ACTIVATIONS {
            return Err(Error::Unsupported(format!(
                "a session takes {bytes} bytes; at most {} are given",
                limits::ACTIVATIONS
            )));
        }
        Ok(self.plan)
    }
}

/// Elements of a value.
pub(crate) fn elements(graph: &Resolved, v: usize) -> usize {
    graph.values[v].shape.iter().flatten().product()
}
