//! Small convolutional networks from TensorFlow Lite and TensorFlow.js files: parsed once into a flat plan, run over buffers that
//! are allocated once.
//!
//! The way of a file: a reader ([`crate::weights`]) gives operators and constants (`ir`); `resolve` works out every shape, folds
//! constants and refuses what does not hold; `fuse` merges padding, bias, activation and residual into the convolutions; `plan`
//! packs weights and assigns buffers. Pictures are NHWC with batch 1.

mod fuse;
pub(crate) mod ir;
mod layer;
mod plan;
mod resolve;
mod resolve_ops;
#[cfg(test)]
mod tests;

use crate::weights::{Error, Result, read_whole, tfjs, tflite};
use dreamseed_kernels::Pool;
use dreamseed_kernels::cpu::conv::{Buffer, Residual};
use plan::{Place, Plan, Run, Step};
use std::path::Path;
use std::sync::Arc;

/// A tensor that goes in or comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name in the file.
    pub name: String,
    /// Its dimensions; pictures are (1, height, width, channels).
    pub shape: Vec<usize>,
}

/// A network: plan and weights, immutable and shared. See [`Network::session`].
#[derive(Clone)]
pub struct Network {
    plan: Arc<Plan>,
    inputs: Arc<[TensorInfo]>,
    outputs: Arc<[TensorInfo]>,
}

impl Network {
    /// Opens a `.tflite` file or a TensorFlow.js `model.json` with its weights beside it; which of the two, its content tells.
    ///
    /// # Errors
    /// [`Error`] with field and offset where the file does not hold, or the name of an operator that is not run.
    pub fn open(path: &Path) -> Result<Self> {
        Self::build(read(path, &[])?)
    }

    /// As [`Network::open`], of the outputs only those named, in this order: what only the others need is not computed. In a
    /// TensorFlow.js file the names may be those of any nodes within.
    pub fn open_outputs(path: &Path, names: &[&str]) -> Result<Self> {
        let mut graph = read(path, names)?;
        let find = |name: &&str| graph.outputs.iter().copied().find(|&o| graph.values[o].name == **name);
        let found: Option<Vec<usize>> = names.iter().map(find).collect();
        let Some(found) = found.filter(|f| !f.is_empty()) else {
            let there: Vec<&str> = graph.outputs.iter().map(|&o| graph.values[o].name.as_str()).collect();
            let problem = format!("outputs {names:?} wanted, the file has {there:?}");
            return Err(Error::Tensor { name: names.join(", "), problem });
        };
        graph.outputs = found;
        Self::build(graph)
    }

    fn build(graph: ir::Graph) -> Result<Self> {
        let mut graph = resolve::resolve(graph)?;
        fuse::fuse(&mut graph);
        let info = |&v: &usize| {
            let value = &graph.values[v];
            TensorInfo { name: value.name.clone(), shape: value.shape.clone().unwrap_or_default() }
        };
        let inputs = graph.inputs.iter().map(info).collect();
        let outputs = graph.outputs.iter().map(info).collect();
        Ok(Self { plan: Arc::new(plan::plan(&graph)?), inputs, outputs })
    }

    /// What [`Session::run`] takes, in order.
    pub fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    /// What a run gives, in order.
    pub fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    /// Buffers to run in. Sessions are independent: one a thread of control.
    pub fn session(&self) -> Session {
        let slots = self.plan.slots.iter().enumerate().map(|(i, &n)| Buffer::staggered(n, 23 * i)).collect();
        Session { network: self.clone(), slots }
    }

    /// Multiply-adds of one run.
    pub fn macs(&self) -> u64 {
        self.plan.steps.iter().map(|s| s.macs).sum()
    }

    /// Bytes of activations in a session.
    pub fn session_bytes(&self) -> usize {
        self.plan.slots.iter().sum::<usize>() * 4
    }

    /// One line a step, in the order that [`Session::run_observed`] tells of them.
    pub fn steps(&self) -> impl Iterator<Item = String> + '_ {
        self.plan.steps.iter().map(describe)
    }
}

fn read(path: &Path, wanted: &[&str]) -> Result<ir::Graph> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let bytes = read_whole(path, ir::limits::FILE).map_err(io)?;
    if tflite::is_tflite(&bytes) { tflite::read(&bytes) } else { tfjs::read(path, &bytes, wanted) }
}

/// A network's buffers.
pub struct Session {
    network: Network,
    slots: Vec<Buffer>,
}

impl Session {
    /// Computes the outputs of `inputs`, each row-major in the shape that [`Network::inputs`] tells. Allocates nothing.
    ///
    /// # Errors
    /// [`Error::Tensor`] when an input is missing or has another length.
    pub fn run(&mut self, pool: &Pool, inputs: &[&[f32]]) -> Result<()> {
        self.run_observed(pool, inputs, |_| {})
    }

    /// As [`Session::run`]; calls `done` with the index of each step after it ran (to measure where time goes).
    pub fn run_observed(&mut self, pool: &Pool, inputs: &[&[f32]], mut done: impl FnMut(usize)) -> Result<()> {
        let plan = Arc::clone(&self.network.plan);
        for (i, &wanted) in plan.inputs.iter().enumerate() {
            let seen = inputs.get(i).map(|x| x.len());
            if seen != Some(wanted) || inputs.len() != plan.inputs.len() {
                let info = &self.network.inputs[i];
                let problem = format!("{} inputs, this one of {seen:?} values; {:?} is needed", inputs.len(), info.shape);
                return Err(Error::Tensor { name: info.name.clone(), problem });
            }
        }
        for (i, step) in plan.steps.iter().enumerate() {
            // The output's buffer is taken out while the operands are borrowed; it is never one of them.
            let mut buffer = std::mem::take(&mut self.slots[step.out.0]);
            self.step(pool, &plan, step, inputs, &mut buffer[..step.out.1]);
            self.slots[step.out.0] = buffer;
            done(i);
        }
        Ok(())
    }

    fn step(&self, pool: &Pool, plan: &Plan, step: &Step, inputs: &[&[f32]], out: &mut [f32]) {
        let operand = |(place, len): (Place, usize)| match place {
            Place::Input(i) => &inputs[i][..len],
            Place::Constant(i) => &plan.constants[i][..len],
            Place::Slot(i) => &self.slots[i][..len],
        };
        let a = operand(step.a);
        let residual = step.residual.map(|(place, len, channels)| Residual { data: operand((place, len)), channels });
        match &step.run {
            Run::Conv(conv) => conv.run(pool, a, residual, out),
            Run::Depthwise(conv) => conv.run(pool, a, residual, out),
            Run::Block(block) => block.run(pool, a, residual, out),
            Run::Pooling(layer) => layer.run(pool, a, out),
            Run::Resize(layer) => layer.run(pool, a, residual, out),
            Run::Simple(op) => op.run(a, step.b.map_or(&[], operand), out),
        }
    }

    /// The network it runs.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Output `i` of the last run, row-major; empty when there is no such output.
    pub fn output(&self, i: usize) -> &[f32] {
        self.network.plan.outputs.get(i).map_or(&[], |&(slot, len)| &self.slots[slot][..len])
    }

    /// The output of this name.
    pub fn output_by_name(&self, name: &str) -> Option<&[f32]> {
        self.network.outputs.iter().position(|o| o.name == name).map(|i| self.output(i))
    }
}

fn describe(step: &Step) -> String {
    let end = if step.residual.is_some() { " + residual" } else { "" };
    let window = |name: &str, w: &dreamseed_kernels::cpu::conv::Window| {
        format!("{name} {:?} to {:?} kernel {:?} stride {:?}{end}", w.input, w.output, w.kernel, w.stride)
    };
    match &step.run {
        Run::Conv(c) => window("conv", c.window()),
        Run::Depthwise(c) => window("depthwise", c.window()),
        Run::Block(b) => {
            let (first, d, last) = b.windows();
            let (input, output) = (first.input, last.output);
            format!("block {input:?} through {:?} to {output:?} kernel {:?} stride {:?}{end}", d.input, d.kernel, d.stride)
        }
        Run::Pooling(p) => window("pool", p.window()),
        Run::Resize(r) => format!("resize to {:?}{end}", r.output()),
        Run::Simple(op) => {
            let text = format!("{op:?}");
            format!("{} of {}", text.chars().take(60).collect::<String>(), step.out.1)
        }
    }
}
