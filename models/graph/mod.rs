//! Small convolutional networks from TensorFlow Lite and TensorFlow.js files: parsed once into a flat plan, run over buffers that
//! are allocated once.
//!
//! The way of a file: a reader ([`crate::weights`]) gives operators and constants (`ir`); `resolve` works out every shape, folds
//! constants and refuses what does not hold; `fuse` merges padding, bias, activation and residual into the convolutions; `plan`
//! packs weights and assigns buffers. Pictures are NHWC with batch 1. On a GPU (`cuda`) the same plan is one graph of launches over one
//! memory.

#[cfg(feature = "cuda")]
mod cuda;
mod fuse;
pub(crate) mod ir;
mod layer;
mod plan;
mod resolve;
mod resolve_ops;
#[cfg(test)]
mod tests;

use crate::Processor;
use crate::weights::{Error, Result, read_whole, tfjs, tflite};
use dreamseed_kernels::Pool;
use dreamseed_kernels::cpu::conv::{Buffer, Residual};
use plan::{Cpu, Place, Plan, Run, Step};
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
    executor: Executor,
    inputs: Arc<[TensorInfo]>,
    outputs: Arc<[TensorInfo]>,
}

/// The plan with its weights where they are multiplied.
#[derive(Clone)]
enum Executor {
    Cpu(Arc<Plan>),
    #[cfg(feature = "cuda")]
    Gpu(Arc<cuda::Net>),
}

impl Network {
    /// Opens a `.tflite` file or a TensorFlow.js `model.json` with its weights beside it, to run on the processor; which of the two, its
    /// content tells.
    ///
    /// # Errors
    /// [`Error`] with field and offset where the file does not hold, or the name of an operator that is not run.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_on(&Processor::Cpu, path)
    }

    /// As [`Network::open`], to run where `processor` says.
    ///
    /// # Errors
    /// As [`Network::open`]; on a GPU `Error::Device` where there is no room for weights and a session.
    pub fn open_on(processor: &Processor, path: &Path) -> Result<Self> {
        Self::build_on(processor, read(path, &[])?)
    }

    /// As [`Network::open`], of the outputs only those named, in this order: what only the others need is not computed. In a
    /// TensorFlow.js file the names may be those of any nodes within.
    pub fn open_outputs(path: &Path, names: &[&str]) -> Result<Self> {
        Self::open_outputs_on(&Processor::Cpu, path, names)
    }

    /// As [`Network::open_outputs`], to run where `processor` says.
    ///
    /// # Errors
    /// As [`Network::open_on`].
    pub fn open_outputs_on(processor: &Processor, path: &Path, names: &[&str]) -> Result<Self> {
        let mut graph = read(path, names)?;
        let find = |name: &&str| graph.outputs.iter().copied().find(|&o| graph.values[o].name == **name);
        let found: Option<Vec<usize>> = names.iter().map(find).collect();
        let Some(found) = found.filter(|f| !f.is_empty()) else {
            let there: Vec<&str> = graph.outputs.iter().map(|&o| graph.values[o].name.as_str()).collect();
            let problem = format!("outputs {names:?} wanted, the file has {there:?}");
            return Err(Error::Tensor { name: names.join(", "), problem });
        };
        graph.outputs = found;
        Self::build_on(processor, graph)
    }

    #[cfg(test)]
    fn build(graph: ir::Graph) -> Result<Self> {
        Self::build_on(&Processor::Cpu, graph)
    }

    fn build_on(processor: &Processor, graph: ir::Graph) -> Result<Self> {
        let mut graph = resolve::resolve(graph)?;
        fuse::fuse(&mut graph, matches!(processor, Processor::Cpu));
        let info = |&v: &usize| {
            let value = &graph.values[v];
            TensorInfo { name: value.name.clone(), shape: value.shape.clone().unwrap_or_default() }
        };
        let inputs = graph.inputs.iter().map(info).collect();
        let outputs = graph.outputs.iter().map(info).collect();
        let executor = match processor {
            Processor::Cpu => Executor::Cpu(Arc::new(plan::plan(&graph, &Cpu)?)),
            #[cfg(feature = "cuda")]
            Processor::Gpu(device) => Executor::Gpu(Arc::new(cuda::Net::new(device, &graph)?)),
        };
        Ok(Self { executor, inputs, outputs })
    }

    /// What [`Session::run`] takes, in order.
    pub fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    /// What a run gives, in order.
    pub fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    /// Buffers to run in. Sessions are independent: one a thread of control. On a GPU the room of a second one at the same time is
    /// taken when it first runs.
    pub fn session(&self) -> Session {
        let room = match &self.executor {
            Executor::Cpu(plan) => {
                Room::Cpu(plan.slots.iter().enumerate().map(|(i, &n)| Buffer::staggered(n, 23 * i)).collect())
            }
            #[cfg(feature = "cuda")]
            Executor::Gpu(_) => Room::Gpu(None),
        };
        Session { network: self.clone(), room }
    }

    /// Refuses inputs of other numbers or lengths.
    fn check(&self, inputs: &[&[f32]]) -> Result<()> {
        for (i, info) in self.inputs.iter().enumerate() {
            let (wanted, seen) = (info.shape.iter().product(), inputs.get(i).map(|x| x.len()));
            if seen != Some(wanted) || inputs.len() != self.inputs.len() {
                let problem = format!("{} inputs, this one of {seen:?} values; {:?} is needed", inputs.len(), info.shape);
                return Err(Error::Tensor { name: info.name.clone(), problem });
            }
        }
        Ok(())
    }

    /// Multiply-adds of one run.
    pub fn macs(&self) -> u64 {
        match &self.executor {
            Executor::Cpu(plan) => plan.steps.iter().map(|s| s.macs).sum(),
            #[cfg(feature = "cuda")]
            Executor::Gpu(net) => net.macs(),
        }
    }

    /// Bytes of activations in a session.
    pub fn session_bytes(&self) -> usize {
        match &self.executor {
            Executor::Cpu(plan) => plan.slots.iter().sum::<usize>() * 4,
            #[cfg(feature = "cuda")]
            Executor::Gpu(net) => net.session_bytes(),
        }
    }

    /// One line a step, in the order in which they run: that in which [`Session::run_observed`] tells of them.
    pub fn steps(&self) -> impl Iterator<Item = String> + '_ {
        let lines: Vec<String> = match &self.executor {
            Executor::Cpu(plan) => plan.steps.iter().map(describe).collect(),
            #[cfg(feature = "cuda")]
            Executor::Gpu(net) => net.steps(),
        };
        lines.into_iter()
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
    room: Room,
}

enum Room {
    Cpu(Slots),
    #[cfg(feature = "cuda")]
    Gpu(Option<cuda::State>), // none before the first run and after one that failed
}

impl Session {
    /// Computes the outputs of `inputs`, each row-major in the shape that [`Network::inputs`] tells. Allocates nothing (but see
    /// [`Network::session`]).
    ///
    /// # Errors
    /// [`Error::Tensor`] when an input is missing or has another length; on a GPU `Error::Device`.
    pub fn run(&mut self, pool: &Pool, inputs: &[&[f32]]) -> Result<()> {
        self.run_observed(pool, inputs, |_| {})
    }

    /// As [`Session::run`]; calls `done` with the index of each step after it ran (to measure where time goes). On a GPU all steps are
    /// one graph, and nobody is called.
    pub fn run_observed(&mut self, pool: &Pool, inputs: &[&[f32]], mut done: impl FnMut(usize)) -> Result<()> {
        self.network.check(inputs)?;
        match (&self.network.executor, &mut self.room) {
            (Executor::Cpu(plan), Room::Cpu(slots)) => {
                for (i, step) in plan.steps.iter().enumerate() {
                    // The output's buffer is taken out while the operands are borrowed; it is never one of them.
                    let mut buffer = std::mem::take(&mut slots[step.out.0]);
                    run_step(slots, pool, plan, step, inputs, &mut buffer[..step.out.1]);
                    slots[step.out.0] = buffer;
                    done(i);
                }
                Ok(())
            }
            #[cfg(feature = "cuda")]
            (Executor::Gpu(net), Room::Gpu(state)) => net.run(state, inputs),
            #[cfg(feature = "cuda")]
            _ => unreachable!("a session's room is its network's own"),
        }
    }

    /// The network it runs.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Output `i` of the last run, row-major; empty when there is no such output.
    pub fn output(&self, i: usize) -> &[f32] {
        match (&self.network.executor, &self.room) {
            (Executor::Cpu(plan), Room::Cpu(slots)) => plan.outputs.get(i).map_or(&[], |&(slot, len)| &slots[slot][..len]),
            #[cfg(feature = "cuda")]
            (Executor::Gpu(net), Room::Gpu(Some(state))) => net.output(state, i),
            #[cfg(feature = "cuda")]
            _ => &[],
        }
    }

    /// The output of this name.
    pub fn output_by_name(&self, name: &str) -> Option<&[f32]> {
        self.network.outputs.iter().position(|o| o.name == name).map(|i| self.output(i))
    }
}

#[cfg(feature = "cuda")]
impl Drop for Session {
    /// The next session of the network runs in the room of this one.
    fn drop(&mut self) {
        if let (Executor::Gpu(net), Room::Gpu(Some(state))) =
            (&self.network.executor, std::mem::replace(&mut self.room, Room::Gpu(None)))
        {
            net.keep(state);
        }
    }
}

/// The processor's buffers.
type Slots = Vec<Buffer>;

fn run_step(slots: &Slots, pool: &Pool, plan: &Plan, step: &Step, inputs: &[&[f32]], out: &mut [f32]) {
    let operand = |(place, len): (Place, usize)| match place {
        Place::Input(i) => &inputs[i][..len],
        Place::Constant(i) => &plan.constants[i][..len],
        Place::Slot(i) => &slots[i][..len],
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
