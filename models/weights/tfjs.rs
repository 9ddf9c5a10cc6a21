//! TensorFlow.js graph models: `model.json` with the graph and a list of weight files ("shards") that lie beside it.

use super::tfjs_ops::{Attr, operation};
use super::{Error, Result};
use crate::graph::ir::{Data, Graph, Node, Op, Value, limits};
use half::f16;
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

pub(super) const FORMAT: &str = "tfjs";

/// Bytes of a `model.json`; real ones have less than one million.
const JSON: usize = 1 << 24;

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "modelTopology")]
    topology: Topology,
    #[serde(rename = "weightsManifest")]
    manifest: Vec<Group>,
    signature: Option<Signature>,
    #[serde(rename = "userDefinedMetadata")]
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Metadata {
    signature: Option<Signature>,
}

#[derive(Deserialize, Default)]
struct Signature {
    #[serde(default)]
    inputs: BTreeMap<String, Port>,
    #[serde(default)]
    outputs: BTreeMap<String, Port>,
}

#[derive(Deserialize)]
struct Port {
    name: Option<String>,
    #[serde(rename = "tensorShape")]
    shape: Option<Shape>,
}

#[derive(Deserialize)]
struct Topology {
    node: Vec<JsonNode>,
}

/// A node of TensorFlow's GraphDef.
#[derive(Deserialize)]
pub(super) struct JsonNode {
    pub(super) name: String,
    pub(super) op: String,
    #[serde(default)]
    pub(super) input: Vec<String>,
    #[serde(default)]
    pub(super) attr: HashMap<String, Attr>,
}

#[derive(Deserialize)]
pub(super) struct Shape {
    #[serde(default)]
    dim: Vec<Dim>,
}

#[derive(Deserialize)]
struct Dim {
    size: Option<Json>,
}

#[derive(Deserialize)]
struct Group {
    paths: Vec<String>,
    weights: Vec<Weight>,
}

#[derive(Deserialize)]
struct Weight {
    name: String,
    shape: Vec<u64>,
    dtype: String,
    quantization: Option<Quantization>,
}

#[derive(Deserialize)]
struct Quantization {
    dtype: String,
    scale: Option<f64>,
    min: Option<f64>,
}

/// Something wrong with the file; `offset` counts in the weights, or the nodes where the field is one.
pub(super) fn error(field: impl Into<String>, offset: usize, problem: impl Into<String>) -> Error {
    Error::Field { format: FORMAT, field: field.into(), offset: offset as u64, problem: problem.into() }
}

/// The graph of a `model.json` at `path` with the content `json`. Where `wanted` names nodes, these are its outputs and what they
/// do not need is not read: a tail of operators that are not run here may be cut off and computed by the caller.
pub(crate) fn read(path: &Path, json: &[u8], wanted: &[&str]) -> Result<Graph> {
    if json.len() > JSON {
        return Err(error("model.json", 0, format!("{} bytes; at most {JSON} are read", json.len())));
    }
    let model: Model = serde_json::from_slice(json).map_err(|e| {
        let before = json.split(|&b| b == b'\n').take(e.line().saturating_sub(1)).map(|l| l.len() + 1).sum::<usize>();
        error("model.json", before + e.column(), format!("neither TFLite nor a TensorFlow.js model: {e}"))
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut size = json.len() as u64;
    let mut weights = HashMap::new();
    for group in &model.manifest {
        shards(folder, group, &mut size, &mut weights)?;
    }
    let own = model.metadata.and_then(|m| m.signature).unwrap_or_default();
    let signature = model.signature.filter(|s| !s.outputs.is_empty()).unwrap_or(own);
    Builder::new(&model.topology.node, weights)?.graph(&signature, wanted, size)
}

/// Reads the shards of a group and takes its weights out of them.
fn shards(folder: &Path, group: &Group, size: &mut u64, weights: &mut HashMap<String, Value>) -> Result<()> {
    let mut bytes = Vec::new();
    for name in &group.paths {
        // A plain file name: a model must not read elsewhere on the disk.
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', ':']) {
            return Err(error("weightsManifest.paths", 0, format!("{name:?} is not a plain file name")));
        }
        let path = folder.join(name);
        let io = |source| Error::Io { path: path.clone(), source };
        *size = size.saturating_add(std::fs::metadata(&path).map_err(io)?.len());
        if *size > limits::FILE {
            return Err(error("weightsManifest", 0, format!("weights of more than {} bytes", limits::FILE)));
        }
        bytes.extend(super::read_whole(&path, limits::FILE).map_err(io)?);
    }
    let mut at = 0usize;
    for w in &group.weights {
        let field = || format!("weight {}", w.name.chars().take(80).collect::<String>());
        let dims = w.shape.iter().map(|&d| usize::try_from(d).ok().filter(|&d| d > 0)).collect::<Option<Vec<_>>>();
        let count = dims.as_ref().and_then(|s| s.iter().try_fold(1usize, |n, &d| n.checked_mul(d)));
        let stored = w.quantization.as_ref().map_or(w.dtype.as_str(), |q| q.dtype.as_str());
        let width = match stored {
            "float32" | "int32" => 4,
            "float16" | "uint16" => 2,
            "uint8" | "bool" => 1,
            other => return Err(error(field(), at, format!("elements of type {other:?} are not read"))),
        };
        let (Some(shape), Some(count)) = (dims, count.filter(|&n| n <= limits::ELEMENTS)) else {
            return Err(error(field(), at, format!("shape {:?}", &w.shape[..w.shape.len().min(8)])));
        };
        let Some(raw) = bytes.get(at..at.saturating_add(count * width)) else {
            let seen = bytes.len();
            return Err(error(field(), at, format!("{count} elements of {width} bytes, but the shards end at byte {seen}")));
        };
        let data = decode(w, stored, raw).ok_or_else(|| error(field(), at, format!("{stored} stored as {:?}", w.dtype)))?;
        at += raw.len();
        weights.insert(w.name.clone(), Value { name: w.name.clone(), shape: Some(shape), data: Some(data) });
    }
    if at != bytes.len() {
        return Err(error("weightsManifest", at, format!("the weights end here, but the shards have {} bytes", bytes.len())));
    }
    Ok(())
}

/// The elements of a weight; `None` when the types do not go together.
fn decode(w: &Weight, stored: &str, raw: &[u8]) -> Option<Data> {
    let scale = w.quantization.as_ref().and_then(|q| q.scale).unwrap_or(1.0);
    let min = w.quantization.as_ref().and_then(|q| q.min).unwrap_or(0.0);
    let words = || raw.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
    let halves = || raw.chunks_exact(2).map(|b| [b[0], b[1]]);
    let affine = |v: f64| (v * scale + min) as f32;
    let integer = w.dtype == "int32" || w.dtype == "bool";
    let floats: Vec<f32> = match stored {
        "int32" if integer => return Some(Data::I32(Arc::new(words().map(i32::from_le_bytes).collect()))),
        "bool" if integer => return Some(Data::I32(Arc::new(raw.iter().map(|&b| b.into()).collect()))),
        "float32" => words().map(f32::from_le_bytes).collect(),
        "float16" => halves().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        "uint16" => halves().map(|b| affine(u16::from_le_bytes(b).into())).collect(),
        "uint8" => raw.iter().map(|&b| affine(b.into())).collect(),
        _ => return None,
    };
    match w.dtype.as_str() {
        "float32" => Some(Data::F32(Arc::new(floats))),
        "int32" => Some(Data::I32(Arc::new(floats.iter().map(|v| v.round() as i32).collect()))),
        _ => None,
    }
}

/// Turns nodes into values and operators.
struct Builder<'a> {
    nodes: &'a [JsonNode],
    index: HashMap<&'a str, usize>,
    values: Vec<Value>,
    first: Vec<usize>, // node -> its first output's value
    ports: Vec<usize>, // node -> outputs
}

impl<'a> Builder<'a> {
    fn new(nodes: &'a [JsonNode], mut weights: HashMap<String, Value>) -> Result<Self> {
        let operands = nodes.iter().map(|n| n.input.len()).sum::<usize>();
        if nodes.len() > limits::NODES || operands > limits::OPERANDS {
            let problem =
                format!("{} nodes, {operands} operands; at most {} and {}", nodes.len(), limits::NODES, limits::OPERANDS);
            return Err(error("modelTopology.node", 0, problem));
        }
        let mut b = Self { nodes, index: HashMap::new(), values: Vec::new(), first: Vec::new(), ports: Vec::new() };
        for (i, node) in nodes.iter().enumerate() {
            if node.name.len() > limits::NAME || b.index.insert(&node.name, i).is_some() {
                let name: String = node.name.chars().take(80).collect();
                return Err(error("node.name", i, format!("{name:?}: named twice, or longer than {} bytes", limits::NAME)));
            }
            b.first.push(b.values.len());
            let ports = if node.op == "Unpack" { node.ports(i)? } else { 1 };
            b.ports.push(ports);
            match weights.remove(&node.name) {
                Some(weight) if node.op == "Const" => b.values.push(weight),
                None if node.op == "Const" => {
                    return Err(error(format!("node {}", node.name), i, "a constant without weights"));
                }
                _ => b.values.extend((0..ports).map(|_| Value { name: node.name.clone(), ..Value::default() })),
            }
            if b.values.len() > limits::VALUES {
                return Err(error("modelTopology.node", i, format!("more than {} tensors", limits::VALUES)));
            }
        }
        Ok(b)
    }

    /// The value that `name` or `name:port` refers to.
    fn value(&self, at: usize, reference: &str) -> Result<usize> {
        let (name, port) = match reference.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().ok()),
            None => (reference, Some(0usize)),
        };
        let node = self.index.get(name).copied();
        match (node, port) {
            (Some(node), Some(port)) if port < self.ports[node] => Ok(self.first[node] + port),
            _ => Err(error(
                "node.input",
                at,
                format!("{:?} is not in the graph", reference.chars().take(80).collect::<String>()),
            )),
        }
    }

    /// Every node after the nodes it reads; otherwise in the file's order.
    fn order(&self) -> Result<Vec<usize>> {
        let mut readers = vec![Vec::new(); self.nodes.len()];
        let mut waiting = vec![0usize; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for reference in &node.input {
                // "^name" only asks for an order, which a graph without side effects does not need.
                let name = reference.split(':').next().unwrap_or(reference);
                if let Some(&source) = self.index.get(name).filter(|_| !reference.starts_with('^')) {
                    readers[source].push(i);
                    waiting[i] += 1;
                }
            }
        }
        let mut ready: std::collections::BTreeSet<usize> = (0..self.nodes.len()).filter(|&i| waiting[i] == 0).collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(i) = ready.pop_first() {
            order.push(i);
            for &reader in &readers[i] {
                waiting[reader] -= 1;
                if waiting[reader] == 0 {
                    ready.insert(reader);
                }
            }
        }
        match waiting.iter().position(|&n| n > 0) {
            Some(i) => Err(error(format!("node {}", self.nodes[i].name), i, "lies on a cycle")),
            None => Ok(order),
        }
    }

    /// The nodes called `names`, and all that these read; `None` unless every one of them is there.
    fn needed(&self, names: &[&str]) -> Option<Vec<bool>> {
        let mut open = names.iter().map(|name| self.index.get(name).copied()).collect::<Option<Vec<_>>>()?;
        let mut needed = vec![false; self.nodes.len()];
        while let Some(i) = open.pop() {
            if !std::mem::replace(&mut needed[i], true) {
                let sources = self.nodes[i].input.iter().map(|r| r.split(':').next().unwrap_or(r));
                open.extend(sources.filter_map(|name| self.index.get(name).copied()));
            }
        }
        (!names.is_empty()).then_some(needed)
    }

    fn graph(mut self, signature: &Signature, wanted: &[&str], file: u64) -> Result<Graph> {
        let (mut nodes, mut inputs) = (Vec::new(), Vec::new());
        let needed = self.needed(wanted);
        for i in self.order()? {
            if needed.as_ref().is_some_and(|needed| !needed[i]) {
                continue;
            }
            let node = &self.nodes[i];
            match node.op.as_str() {
                "Const" => {}
                "Placeholder" => {
                    let port = signature.inputs.values().find(|p| p.name.as_deref().is_some_and(|n| same(n, &node.name)));
                    let shape = node.attr.get("shape").and_then(|a| a.shape.as_ref()).and_then(|s| s.dims());
                    let shape = shape.or_else(|| port.and_then(|p| p.shape.as_ref()).and_then(|s| s.dims()));
                    let problem = "an input without a fixed shape (only the first dimension may be open)";
                    self.values[self.first[i]].shape =
                        Some(shape.ok_or_else(|| error(format!("node {}", node.name), i, problem))?);
                    inputs.push(self.first[i]);
                }
                _ => self.node(i, &mut nodes)?,
            }
        }
        let outputs = match needed {
            Some(_) => wanted.iter().map(|name| self.value(0, name)).collect::<Result<_>>()?,
            None => self.outputs(signature, &mut nodes)?,
        };
        Ok(Graph { format: FORMAT, values: self.values, nodes, inputs, outputs, file })
    }

    /// One node, and what is fused into it as nodes of their own.
    fn node(&mut self, i: usize, nodes: &mut Vec<Node>) -> Result<()> {
        let node = &self.nodes[i];
        let data = node.input.iter().filter(|r| !r.starts_with('^'));
        let mut operands = data.map(|r| self.value(i, r).map(Some)).collect::<Result<Vec<_>>>()?;
        let chain = operation(node, i)?;
        let outputs: Vec<usize> = (0..self.ports[i]).map(|p| self.first[i] + p).collect();
        let mut slopes = operands.get(3).copied().flatten();
        let fused = chain.len() > 1
            || matches!(chain.first(), Some(Op::Conv { .. } | Op::Depthwise { .. } | Op::FullyConnected { .. }));
        if fused {
            operands.truncate(3);
        }
        let last = chain.len() - 1;
        for (k, op) in chain.into_iter().enumerate() {
            let mut inputs = std::mem::take(&mut operands);
            if k > 0 && op == Op::Prelu {
                inputs.push(slopes.take());
            }
            let outputs = if k == last {
                outputs.clone()
            } else {
                self.values.push(Value { name: format!("{} before activation", node.name), ..Value::default() });
                operands = vec![Some(self.values.len() - 1)];
                vec![self.values.len() - 1]
            };
            let name = format!("{} ({})", node.op, node.name);
            nodes.push(Node { op, name, inputs, outputs, offset: i as u64 });
        }
        Ok(())
    }

    /// The outputs by the signature's names, in their alphabetical order; without a signature, what no node reads.
    fn outputs(&mut self, signature: &Signature, nodes: &mut Vec<Node>) -> Result<Vec<usize>> {
        let mut outputs = Vec::new();
        for (key, port) in &signature.outputs {
            let source = self.value(0, port.name.as_deref().unwrap_or(key))?;
            if key.len() > limits::NAME {
                return Err(error("signature.outputs", 0, format!("a name of {} bytes", key.len())));
            }
            // The same elements under the signature's name.
            let output = self.values.len();
            self.values.push(Value { name: key.clone(), ..Value::default() });
            let (op, name) = (Op::Identity, format!("output {key}"));
            nodes.push(Node { op, name, inputs: vec![Some(source)], outputs: vec![output], offset: 0 });
            outputs.push(output);
        }
        if outputs.is_empty() {
            let read: std::collections::HashSet<usize> =
                nodes.iter().flat_map(|n| n.inputs.iter().flatten().copied()).collect();
            let ends = nodes.iter().flat_map(|n| n.outputs.iter().copied());
            outputs = ends.filter(|o| !read.contains(o)).collect();
        }
        Ok(outputs)
    }
}

/// Whether `reference` (perhaps with a port) names `node`.
fn same(reference: &str, node: &str) -> bool {
    reference == node || reference.strip_suffix(":0") == Some(node)
}

impl Shape {
    /// Fixed dimensions; an open first one is a batch of 1.
    fn dims(&self) -> Option<Vec<usize>> {
        let size = |(i, d): (usize, &Dim)| match d.size.as_ref().and_then(super::tfjs_ops::integer) {
            Some(-1) | None if i == 0 => Some(1),
            size => size.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0),
        };
        let dims: Option<Vec<usize>> = self.dim.iter().take(7).enumerate().map(size).collect();
        dims.filter(|d| (1..=6).contains(&d.len()))
    }
}
