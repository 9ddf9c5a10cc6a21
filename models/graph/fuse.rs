//! Rewrites that save passes over memory: padding inside the window of a convolution, bias, activation and residual at its end.

use super::ir::{Data, Value};
use super::layer::{Kind, Layer, Simple, Weighted};
use super::resolve::Resolved;
use dreamseed_kernels::cpu::block::Block;
use dreamseed_kernels::cpu::conv::{Act, Finish};
use dreamseed_kernels::cpu::elementwise::{Binary, Broadcast};

/// Fuses what can be fused and drops layers that no output needs. `blocks`: whether depthwise convolutions join the pointwise ones
/// around them.
pub(crate) fn fuse(graph: &mut Resolved, blocks: bool) {
    drop_unused(graph);
    fold_pads(graph);
    drop_unused(graph);
    let mut fuser = Fuser::new(graph);
    for i in 0..fuser.layers.len() {
        fuser.step(i);
    }
    graph.layers = fuser.layers.into_iter().flatten().collect();
    resize_last(graph);
    drop_unused(graph);
    if blocks {
        join_blocks(graph);
    }
}

/// Depthwise convolutions join the pointwise ones around them where nothing else reads what lies between.
fn join_blocks(graph: &mut Resolved) {
    let mut uses = vec![0; graph.values.len()];
    graph.outputs.iter().for_each(|&o| uses[o] += 1);
    graph.layers.iter().flat_map(|l| l.inputs.iter().chain(l.residual.iter().map(|r| &r.0))).for_each(|&i| uses[i] += 1);
    let mut producer = vec![None; graph.values.len()];
    graph.layers.iter().enumerate().for_each(|(i, l)| producer[l.output] = Some(i));
    let mut layers: Vec<Option<Layer>> = std::mem::take(&mut graph.layers).into_iter().map(Some).collect();
    // The layer before, if it has a plain end and this one reader.
    let before = |layers: &[Option<Layer>], i: usize| {
        let value = layers[i].as_ref()?.inputs[0];
        let p = producer[value].filter(|_| uses[value] == 1)?;
        layers[p].as_ref()?.residual.is_none().then_some(p)
    };
    for i in 0..layers.len() {
        let Some(Layer { kind: Kind::Conv(project), .. }) = &layers[i] else { continue };
        let Some(p) = before(&layers, i) else { continue };
        let Some(Layer { kind: Kind::Depthwise(d), .. }) = &layers[p] else { continue };
        if !Block::joins(&d.window, &project.window) {
            continue;
        }
        let q = before(&layers, p).filter(|&q| match layers[q].as_ref().map(|l| &l.kind) {
            Some(Kind::Conv(e)) => Block::joins_before(&e.window, &d.window),
            _ => false,
        });
        let (project, d) = (project.clone(), d.clone());
        let Some(middle) = layers[p].take() else { continue };
        let mut input = middle.inputs[0];
        let expand = q.and_then(|q| layers[q].take()).and_then(|l| match l.kind {
            Kind::Conv(e) => {
                input = l.inputs[0];
                Some((e, l.finish))
            }
            _ => None,
        });
        if let Some(last) = &mut layers[i] {
            last.kind = Kind::Block { expand, depthwise: (d, middle.finish), project };
            last.inputs = vec![input];
        }
    }
    graph.layers = layers.into_iter().flatten().collect();
}

/// A 1x1 convolution of an enlarged picture is the enlarged picture of the convolution (both are linear, and the weights of an
/// interpolation sum to one): the products are then as few as the smaller picture's pixels.
fn resize_last(graph: &mut Resolved) {
    let mut uses = vec![0; graph.values.len()];
    graph.outputs.iter().for_each(|&o| uses[o] += 1);
    graph.layers.iter().flat_map(|l| l.inputs.iter().chain(l.residual.iter().map(|r| &r.0))).for_each(|&i| uses[i] += 1);
    let mut producer = vec![None; graph.values.len()];
    for i in 0..graph.layers.len() {
        producer[graph.layers[i].output] = Some(i);
        let Kind::Conv(w) = &graph.layers[i].kind else { continue };
        let (window, source) = (&w.window, graph.layers[i].inputs[0]);
        let Some(p) = producer[source].filter(|_| uses[source] == 1) else { continue };
        let Kind::Resize { input, size, centres } = graph.layers[p].kind else { continue };
        let bare = graph.layers[p].finish == Finish::default() && graph.layers[p].residual.is_none();
        let pointwise = window.taps() == 1 && window.stride == [1, 1] && window.pad == [0, 0] && window.output[..2] == size;
        let n = window.output[2];
        if !bare || !pointwise || size[0] * size[1] < 2 * input[0] * input[1] || n > input[2] {
            continue;
        }
        let small = graph.values.len();
        let name = format!("{} before its enlargement", graph.values[graph.layers[i].output].name);
        graph.values.push(Value { name, shape: Some(vec![1, input[0], input[1], n]), data: None });
        uses.push(1);
        producer.push(Some(p));
        let (mut window, weights, bias) = (window.clone(), w.weights.clone(), w.bias.clone());
        (window.input, window.output) = (input, [input[0], input[1], n]);
        graph.layers[p].kind = Kind::Conv(Weighted { window, weights, bias });
        graph.layers[p].output = small;
        let resize = Kind::Resize { input: [input[0], input[1], n], size, centres };
        (graph.layers[i].kind, graph.layers[i].inputs) = (resize, vec![small]);
    }
}

/// Keeps the layers that the outputs depend on.
fn drop_unused(graph: &mut Resolved) {
    let mut needed = vec![false; graph.values.len()];
    graph.outputs.iter().for_each(|&o| needed[o] = true);
    for layer in graph.layers.iter().rev() {
        if needed[layer.output] {
            layer.inputs.iter().chain(layer.residual.iter().map(|r| &r.0)).for_each(|&i| needed[i] = true);
        }
    }
    graph.layers.retain(|l| needed[l.output]);
}

/// Zeros around a picture that a convolution reads become padding of its window.
fn fold_pads(graph: &mut Resolved) {
    let mut pads = vec![None; graph.values.len()];
    for layer in &mut graph.layers {
        match &mut layer.kind {
            Kind::Simple(Simple::Pad { from, to, before, value }) if *value == 0.0 && from[0] == to[0] && from[3] == to[3] => {
                pads[layer.output] = Some((layer.inputs[0], *from, *before));
            }
            Kind::Conv(w) | Kind::Depthwise(w) => {
                if let Some((source, from, before)) = pads[layer.inputs[0]] {
                    layer.inputs[0] = source;
                    w.window.input = [from[1], from[2], from[3]];
                    w.window.pad = [w.window.pad[0] + before[1], w.window.pad[1] + before[2]];
                }
            }
            _ => {}
        }
    }
}

/// What is known of the layers before the one looked at.
struct Fuser<'a> {
    graph: &'a Resolved,
    layers: Vec<Option<Layer>>,
    producer: Vec<Option<usize>>, // value -> layer
    uses: Vec<usize>,             // value -> readers
}

impl<'a> Fuser<'a> {
    fn new(graph: &'a Resolved) -> Self {
        let mut uses = vec![0; graph.values.len()];
        graph.outputs.iter().for_each(|&o| uses[o] += 1);
        graph.layers.iter().flat_map(|l| &l.inputs).for_each(|&i| uses[i] += 1);
        let layers = graph.layers.iter().cloned().map(Some).collect();
        Self { graph, layers, producer: vec![None; graph.values.len()], uses }
    }

    /// Merges layer `i` into an earlier one where that is possible.
    fn step(&mut self, i: usize) {
        let Some(layer) = self.layers[i].take() else { return };
        let merged = match &layer.kind {
            Kind::Simple(Simple::Act(act, _)) => self.activation(&layer, act),
            Kind::Simple(Simple::Binary { f: Binary::Add, lay, .. }) => {
                self.bias(&layer, *lay).or_else(|| self.residual(&layer, *lay))
            }
            _ => None,
        };
        let layer = merged.unwrap_or(layer);
        self.producer[layer.output] = Some(i);
        self.layers[i] = Some(layer);
    }

    /// The layer that computes `value` for one reader alone and can still take something at its end.
    fn open(&self, value: usize) -> Option<usize> {
        let p = self.producer[value].filter(|_| self.uses[value] == 1)?;
        let layer = self.layers[p].as_ref()?;
        let fusable = matches!(layer.kind, Kind::Conv(_) | Kind::Depthwise(_) | Kind::Resize { .. });
        fusable.then_some(p)
    }

    fn activation(&mut self, layer: &Layer, act: &Act) -> Option<Layer> {
        let p = self.open(layer.inputs[0])?;
        if self.layers[p].as_ref()?.finish.after != Act::None {
            return None;
        }
        let mut out = self.layers[p].take()?;
        out.finish.after = act.clone();
        out.output = layer.output;
        Some(out)
    }

    /// A constant a channel added to a plain convolution is its bias.
    fn bias(&mut self, layer: &Layer, lay: Broadcast) -> Option<Layer> {
        let &[x, constant] = layer.inputs.as_slice() else { return None };
        let Some(Data::F32(constant)) = &self.graph.values[constant].data else { return None };
        let p = self.open(x)?;
        let candidate = self.layers[p].as_ref()?;
        let (Kind::Conv(w) | Kind::Depthwise(w)) = &candidate.kind else { return None };
        let channels = w.window.output[2];
        let plain = candidate.finish == Finish::default() && candidate.residual.is_none();
        if !plain || lay != (Broadcast { inner: 1, period: channels }) || constant.len() != channels {
            return None;
        }
        let mut out = self.layers[p].take()?;
        if let Kind::Conv(w) | Kind::Depthwise(w) = &mut out.kind {
            w.bias.resize(channels, 0.0);
            w.bias.iter_mut().zip(constant.iter()).for_each(|(b, c)| *b += c);
        }
        out.output = layer.output;
        Some(out)
    }

    /// A picture added to a layer's result, perhaps one with fewer channels (zeros padded at their end).
    fn residual(&mut self, layer: &Layer, lay: Broadcast) -> Option<Layer> {
        let shape = self.graph.values[layer.output].shape.as_ref()?;
        let &[x, y] = layer.inputs.as_slice() else { return None };
        if lay != (Broadcast { inner: 1, period: shape.iter().product() }) {
            return None;
        }
        let free = |value: usize| {
            let p = self.open(value)?;
            let l = self.layers[p].as_ref()?;
            (l.residual.is_none() && l.finish.before == Act::None).then_some(p)
        };
        // Of two layers that could take it, the later: its operands live shorter.
        let (p, other) = match (free(x), free(y)) {
            (Some(p), Some(q)) if q > p => (q, x),
            (Some(p), _) => (p, y),
            (None, Some(q)) => (q, x),
            (None, None) => return None,
        };
        let channels = shape.last().copied()?;
        let mut residual = (other, channels);
        if let Some(Kind::Simple(Simple::Pad { from, to, before, value })) =
            self.producer[other].and_then(|q| self.layers[q].as_ref()).map(|l| &l.kind)
            && *value == 0.0
            && *before == [0; 4]
            && from[..3] == to[..3]
        {
            let pad = self.layers[self.producer[other]?].as_ref()?;
            residual = (pad.inputs[0], from[3]);
        }
        let mut out = self.layers[p].take()?;
        out.finish = Finish { before: std::mem::take(&mut out.finish.after), after: Act::None };
        out.residual = Some(residual);
        out.output = layer.output;
        Some(out)
    }
}
