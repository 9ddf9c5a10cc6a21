//! A network on an NVIDIA GPU: the same plan as on the processor, over the kernels of [`dreamseed_kernels::cuda`].
//!
//! All values of a session lie in one memory: inputs, then outputs, then what lies between, then constants. So a run writes the inputs
//! at once, replays one graph of launches, and reads the outputs at once. The first session's room is made with the network: what does
//! not run there, or does not fit, is refused when a file is opened.

use std::sync::{Mutex, PoisonError};

use dreamseed_kernels::cpu::conv::{Act, Finish, Window};
use dreamseed_kernels::cpu::pooling::Reduce;
use dreamseed_kernels::cpu::resize::Centres;
use dreamseed_kernels::cuda::{Buffer, Conv, Device, DeviceFinish, Error as Refusal, Graph, Operands, Span, tensor};

use super::layer::{Kind, Layer, Simple, Weighted};
use super::plan::{Place, Plan, Step, Target, elements, plan};
use super::resolve::Resolved;
use crate::weights::{Error, Result};

/// What a step launches.
pub(crate) enum Run {
    Conv(Conv),
    Pooling(Window, Reduce, DeviceFinish),
    Resize { input: [usize; 3], size: [usize; 2], centres: Centres, finish: DeviceFinish },
    Activation(DeviceFinish, usize),
    Simple(Simple),
}

impl Target for Device {
    type Run = Run;
    const OWN_OUTPUTS: bool = true;

    fn pack(&self, name: &str, layer: &Layer) -> Result<Run> {
        let end = |finish: &Finish| DeviceFinish::new(self, finish);
        let packed = || {
            Ok(match &layer.kind {
                Kind::Conv(Weighted { window, weights, bias }) => {
                    Run::Conv(Conv::new(self, window, weights, bias, &layer.finish)?)
                }
                Kind::Depthwise(Weighted { window, weights, bias }) => {
                    Run::Conv(Conv::depthwise(self, window, weights, bias, &layer.finish)?)
                }
                Kind::Pooling(window, reduce) => Run::Pooling(window.clone(), *reduce, end(&layer.finish)?),
                &Kind::Resize { input, size, centres } => Run::Resize { input, size, centres, finish: end(&layer.finish)? },
                Kind::Simple(Simple::Act(act, channels)) => {
                    Run::Activation(end(&Finish { before: act.clone(), after: Act::None })?, *channels)
                }
                Kind::Simple(op) => Run::Simple(op.clone()),
                Kind::Block { .. } => return Err(Refusal::Shape("joined layers run on the processor alone".into())),
            })
        };
        packed().map_err(|e| told(name, e))
    }
}

/// A refusal, with the value's name where its shape is to blame.
fn told(name: &str, e: Refusal) -> Error {
    match e {
        Refusal::Shape(problem) => Error::Tensor { name: name.to_owned(), problem },
        other => other.into(),
    }
}

/// A network's plan and weights on a device. Immutable but for the room that it keeps for the next session.
pub(crate) struct Net {
    device: Device,
    plan: Plan<Run>,
    layout: Layout,
    spare: Mutex<Option<State>>,
}

/// Where the values of a session lie in its memory.
struct Layout {
    inputs: Vec<Span>,
    slots: Vec<Span>,
    constants: Vec<Span>,
    read: Span, // from the first output to the last
    len: usize,
}

/// A session's memory and the graph of launches on it, with a stream of its own.
pub(crate) struct State {
    graph: Graph,
    memory: Buffer<f32>,
    input: Vec<f32>,  // from the first input to the last, where there are several
    output: Vec<f32>, // as on the device, from the first output to the last
    _device: Device,
}

/// Elements that values begin at multiples of: 256 bytes, so that neighbours share no cache line and four elements are loaded at once.
const ALIGNMENT: usize = 64;

impl Layout {
    /// `inputs`: elements of each.
    fn new(plan: &Plan<Run>, inputs: impl Iterator<Item = usize>) -> Self {
        let mut len = 0usize;
        let mut next = |elements: usize| {
            let at = len;
            len = len.saturating_add(elements).checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX);
            Span { at, len: elements }
        };
        let inputs = inputs.map(&mut next).collect();
        let mut slots = vec![Span { at: 0, len: 0 }; plan.slots.len()];
        let is_output = |slot: usize| plan.outputs.iter().any(|o| o.0 == slot);
        let first = next(0).at;
        let mut end = first;
        for slot in (0..plan.slots.len()).filter(|&s| is_output(s)) {
            slots[slot] = next(plan.slots[slot]);
            end = slots[slot].at + slots[slot].len;
        }
        for slot in (0..plan.slots.len()).filter(|&s| !is_output(s)) {
            slots[slot] = next(plan.slots[slot]);
        }
        let constants = plan.constants.iter().map(|c| next(c.len())).collect();
        Self { inputs, slots, constants, read: Span { at: first, len: end - first }, len }
    }

    fn span(&self, place: Place, len: usize) -> Span {
        let Span { at, .. } = match place {
            Place::Input(i) => self.inputs[i],
            Place::Constant(i) => self.constants[i],
            Place::Slot(i) => self.slots[i],
        };
        Span { at, len }
    }
}

impl Net {
    /// Copies a graph's weights to a device, and makes the room of a session.
    pub(super) fn new(device: &Device, graph: &Resolved) -> Result<Self> {
        let plan = plan(graph, device)?;
        let layout = Layout::new(&plan, graph.inputs.iter().map(|&v| elements(graph, v)));
        let net = Self { device: device.clone(), plan, layout, spare: Mutex::new(None) };
        net.keep(net.state()?);
        Ok(net)
    }

    /// A session's room: its memory, and the graph of all launches.
    fn state(&self) -> Result<State> {
        let name = || "a session".to_owned();
        let device = self.device.fork().map_err(|e| told(&name(), e))?;
        let mut memory = device.zeros(self.layout.len)?;
        for (span, constant) in self.layout.constants.iter().zip(&self.plan.constants) {
            memory.write(span.at, constant)?;
        }
        let mut refused = None;
        let graph = device.capture(|| {
            self.plan
                .steps
                .iter()
                .enumerate()
                .try_for_each(|(i, step)| self.launch(&device, &mut memory, step).inspect_err(|_| refused = Some(i)))
        });
        let graph = graph.map_err(|e| told(&refused.map_or_else(name, |i| describe(&self.plan.steps[i])), e))?;
        let input = match self.layout.inputs.as_slice() {
            [_] | [] => Vec::new(),
            several => vec![0.0; several.last().map_or(0, |s| s.at + s.len)],
        };
        Ok(State { graph, memory, input, output: vec![0.0; self.layout.read.len], _device: device })
    }

    fn launch(&self, device: &Device, memory: &mut Buffer<f32>, step: &Step<Run>) -> std::result::Result<(), Refusal> {
        let span = |(place, len)| self.layout.span(place, len);
        let residual = step.residual.map(|(place, len, channels)| (span((place, len)), channels));
        let (a, b, out) = (span(step.a), step.b.map(span), self.layout.span(Place::Slot(step.out.0), step.out.1));
        let at = &mut Operands { memory, a, b, residual, out };
        match &step.run {
            Run::Conv(conv) => conv.launch(device, at),
            Run::Pooling(window, reduce, finish) => tensor::pool(device, at, window, *reduce, finish),
            Run::Resize { input, size, centres, finish } => tensor::resize(device, at, *input, *size, *centres, finish),
            Run::Activation(finish, channels) => tensor::activate(device, at, *channels, finish),
            Run::Simple(op) => simple(device, at, op),
        }
    }

    /// One run in `state`, which is made where it is not there. After an error there is none.
    pub(super) fn run(&self, state: &mut Option<State>, inputs: &[&[f32]]) -> Result<()> {
        let room = match state.take().or_else(|| self.spare().take()) {
            Some(room) => room,
            None => self.state()?,
        };
        let room = state.insert(room);
        let done = self.run_in(room, inputs);
        if done.is_err() {
            *state = None;
        }
        done
    }

    fn run_in(&self, State { graph, memory, input, output, .. }: &mut State, inputs: &[&[f32]]) -> Result<()> {
        match inputs {
            [] => {}
            [x] => memory.write(self.layout.inputs[0].at, x)?,
            several => {
                for (span, x) in self.layout.inputs.iter().zip(several) {
                    input[span.at..span.at + span.len].copy_from_slice(x);
                }
                memory.write(0, input)?;
            }
        }
        graph.replay()?;
        Ok(memory.read(self.layout.read.at, output)?)
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Option<State>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a session's room back, for the next one.
    pub(super) fn keep(&self, state: State) {
        let other = self.spare().replace(state);
        drop(other); // not while the others wait
    }

    /// Output `i` of the last run in `state`.
    pub(super) fn output<'a>(&self, state: &'a State, i: usize) -> &'a [f32] {
        self.plan.outputs.get(i).map_or(&[], |&(slot, len)| {
            let at = self.layout.slots[slot].at - self.layout.read.at;
            &state.output[at..at + len]
        })
    }

    /// Multiply-adds of one run.
    pub(super) fn macs(&self) -> u64 {
        self.plan.steps.iter().map(|s| s.macs).sum()
    }

    /// Bytes of a session on the device.
    pub(super) fn session_bytes(&self) -> usize {
        self.layout.len * size_of::<f32>()
    }

    /// One line a launch.
    pub(super) fn steps(&self) -> Vec<String> {
        self.plan.steps.iter().map(describe).collect()
    }

    /// Launches of a run, as the graph counts them.
    #[cfg(test)]
    pub(super) fn launches(&self) -> usize {
        self.spare().as_ref().map_or(0, |s| s.graph.launches())
    }

    /// Bytes of weights and biases.
    #[cfg(test)]
    pub(super) fn weight_bytes(&self) -> usize {
        self.plan.steps.iter().map(|s| if let Run::Conv(conv) = &s.run { conv.bytes() } else { 0 }).sum()
    }
}

fn simple(device: &Device, at: &mut Operands, op: &Simple) -> std::result::Result<(), Refusal> {
    match op {
        Simple::Copy => tensor::concat(device, at, at.a.len, at.a.len, 0),
        Simple::Unary(f) => tensor::unary(device, at, *f),
        Simple::Act(..) => Err(Refusal::Shape("an activation without its slopes on the device".into())),
        Simple::Binary { f, lay, swapped } => tensor::binary(device, at, *f, *lay, *swapped),
        Simple::Pad { from, to, before, value } => tensor::pad(device, at, *from, *to, *before, *value),
        Simple::ConcatPart { len, total, from } => tensor::concat(device, at, *len, *total, *from),
        Simple::Walk(walk) => tensor::walk(device, at, walk),
        Simple::Softmax { channels, beta } => tensor::softmax(device, at, *channels, *beta),
        Simple::Fold { fold, len, inner } => tensor::fold(device, at, *fold, *len, *inner),
        Simple::GatherNd { dims, inner } => tensor::gather(device, at, dims, *inner),
    }
}

fn describe(step: &Step<Run>) -> String {
    let end = if step.residual.is_some() { " + residual" } else { "" };
    match &step.run {
        Run::Conv(conv) => {
            let w = conv.window();
            format!("{} {:?} to {:?} kernel {:?} stride {:?}{end}", conv.kernel(), w.input, w.output, w.kernel, w.stride)
        }
        Run::Pooling(w, ..) => format!("pool {:?} to {:?} kernel {:?} stride {:?}", w.input, w.output, w.kernel, w.stride),
        Run::Resize { input, size, .. } => format!("resize {input:?} to {size:?}{end}"),
        Run::Activation(..) => format!("activation of {}", step.out.1),
        Run::Simple(op) => {
            let text = format!("{op:?}");
            format!("{} of {}", text.chars().take(60).collect::<String>(), step.out.1)
        }
    }
}
