//! Operators of TensorFlow graphs as TensorFlow.js writes them.

use super::tfjs::{JsonNode, Shape, error};
use super::{Error, Result};
use crate::graph::ir::{Op, SliceMasks};
use dreamseed_kernels::cpu::conv::Padding;
use dreamseed_kernels::cpu::elementwise::{Binary, Fold, Unary};
use dreamseed_kernels::cpu::pooling::Reduce;
use dreamseed_kernels::cpu::resize::Centres;
use serde::Deserialize;
use serde_json::Value as Json;

/// An attribute: one of these is set.
#[derive(Deserialize, Default)]
pub(super) struct Attr {
    s: Option<Json>,
    i: Option<Json>,
    f: Option<Json>,
    b: Option<bool>,
    list: Option<List>,
    pub(super) shape: Option<Shape>,
    #[serde(rename = "type")]
    kind: Option<Json>,
}

#[derive(Deserialize, Default)]
struct List {
    #[serde(default)]
    i: Vec<Json>,
    #[serde(default)]
    s: Vec<Json>,
}

/// An integer, which JSON may hold as a string.
pub(super) fn integer(v: &Json) -> Option<i64> {
    v.as_i64().or_else(|| v.as_str().and_then(|s| s.parse().ok()))
}

/// A string, which TensorFlow's JSON holds in base64.
fn text(v: &Json) -> Option<String> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => Some(u32::from(c - b'A')),
        b'a'..=b'z' => Some(u32::from(c - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(c - b'0') + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    };
    let (mut out, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for c in v.as_str()?.trim_end_matches('=').bytes() {
        bits = (bits << 6 | value(c)?) & 0xFFFF;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    String::from_utf8(out).ok()
}

impl JsonNode {
    fn wrong(&self, at: usize, name: &str) -> Error {
        error(format!("node {}, attribute {name}", self.name), at, "missing, or not of the right type and range")
    }

    fn integer(&self, at: usize, name: &str, default: Option<i64>) -> Result<i64> {
        match self.attr.get(name) {
            Some(a) => a.i.as_ref().and_then(integer).ok_or_else(|| self.wrong(at, name)),
            None => default.ok_or_else(|| self.wrong(at, name)),
        }
    }

    fn flag(&self, name: &str) -> bool {
        self.attr.get(name).and_then(|a| a.b).unwrap_or(false)
    }

    fn list(&self, name: &str) -> Vec<i64> {
        self.attr.get(name).and_then(|a| a.list.as_ref()).map_or_else(Vec::new, |l| l.i.iter().filter_map(integer).collect())
    }

    fn string(&self, name: &str) -> Option<String> {
        self.attr.get(name)?.s.as_ref().and_then(text)
    }

    /// The (height, width) of a list over (batch, height, width, channels).
    fn pair(&self, at: usize, name: &str, default: Option<[usize; 2]>) -> Result<[usize; 2]> {
        if let (None, Some(default)) = (self.attr.get(name), default) {
            return Ok(default);
        }
        match self.list(name).as_slice() {
            &[1, h @ 1..0xFFFF, w @ 1..0xFFFF, 1] => Ok([h as usize, w as usize]),
            _ => Err(self.wrong(at, name)),
        }
    }

    fn padding(&self, at: usize) -> Result<Padding> {
        match self.string("padding").as_deref() {
            Some("SAME") => Ok(Padding::Same),
            Some("VALID") => Ok(Padding::Valid),
            Some("EXPLICIT") => match self.list("explicit_paddings").as_slice() {
                &[0, 0, t @ 0..0xFFFF, b @ 0..0xFFFF, l @ 0..0xFFFF, r @ 0..0xFFFF, 0, 0] => {
                    Ok(Padding::Explicit([[t as usize, b as usize], [l as usize, r as usize]]))
                }
                _ => Err(self.wrong(at, "explicit_paddings")),
            },
            _ => Err(self.wrong(at, "padding")),
        }
    }

    /// Outputs of an Unpack.
    pub(super) fn ports(&self, at: usize) -> Result<usize> {
        let n = self.integer(at, "num", None)?;
        usize::try_from(n).ok().filter(|n| (1..=1024).contains(n)).ok_or_else(|| self.wrong(at, "num"))
    }

    fn nhwc(&self, at: usize) -> Result<()> {
        match self.string("data_format").as_deref() {
            None | Some("NHWC") => Ok(()),
            Some(_) => Err(self.wrong(at, "data_format")),
        }
    }
}

/// What a node does: its operation, then what is fused into it.
pub(super) fn operation(n: &JsonNode, at: usize) -> Result<Vec<Op>> {
    let keep_dims = n.flag("keep_dims");
    let one = match n.op.as_str() {
        "Conv2D" | "_FusedConv2D" | "DepthwiseConv2dNative" | "FusedDepthwiseConv2dNative" | "MatMul" | "_FusedMatMul" => {
            return weighted(n, at);
        }
        "MaxPool" => pool(n, at, Reduce::Max)?,
        "AvgPool" => pool(n, at, Reduce::Mean)?,
        "Identity" => Op::Identity,
        "Add" | "AddV2" | "BiasAdd" => Op::Binary(Binary::Add),
        "Sub" => Op::Binary(Binary::Sub),
        "Mul" => Op::Binary(Binary::Mul),
        "RealDiv" | "Div" => Op::Binary(Binary::Div),
        "FloorDiv" => Op::Binary(Binary::FloorDiv),
        "Minimum" => Op::Binary(Binary::Min),
        "Maximum" => Op::Binary(Binary::Max),
        "SquaredDifference" => Op::Binary(Binary::SquaredDifference),
        "Prelu" => Op::Prelu,
        "Relu" | "Relu6" | "Elu" | "LeakyRelu" | "Sigmoid" | "Tanh" => activation(n, at, &n.op, "alpha")?,
        "Exp" => Op::Unary(Unary::Exp),
        "Log" => Op::Unary(Unary::Log),
        "Sqrt" => Op::Unary(Unary::Sqrt),
        "Rsqrt" => Op::Unary(Unary::Rsqrt),
        "Square" => Op::Unary(Unary::Square),
        "Abs" => Op::Unary(Unary::Abs),
        "Neg" => Op::Unary(Unary::Neg),
        "Floor" => Op::Unary(Unary::Floor),
        "Reciprocal" => Op::Unary(Unary::Reciprocal),
        "Softmax" => Op::Softmax(1.0),
        "Mean" => Op::Fold { fold: Fold::Mean, keep_dims },
        "Sum" => Op::Fold { fold: Fold::Sum, keep_dims },
        "Max" => Op::Fold { fold: Fold::Max, keep_dims },
        "Min" => Op::Fold { fold: Fold::Min, keep_dims },
        "ArgMax" => Op::Fold { fold: Fold::ArgMax, keep_dims: false },
        "Pad" | "PadV2" => Op::Pad,
        "ResizeBilinear" => Op::Resize(match (n.flag("align_corners"), n.flag("half_pixel_centers")) {
            (true, _) => Centres::Aligned,
            (false, true) => Centres::Half,
            (false, false) => Centres::Corner,
        }),
        "DepthToSpace" => {
            n.nhwc(at)?;
            let block = usize::try_from(n.integer(at, "block_size", None)?).ok().filter(|b| (1..0xFFFF).contains(b));
            Op::DepthToSpace(block.ok_or_else(|| n.wrong(at, "block_size"))?)
        }
        "ConcatV2" => Op::Concat(None),
        "Reshape" => Op::Reshape,
        "ExpandDims" => Op::ExpandDims,
        "Squeeze" => Op::Squeeze(n.list("squeeze_dims")),
        "Shape" => Op::Shape,
        "Pack" => Op::Pack(n.integer(at, "axis", Some(0))?),
        "Unpack" => Op::Unpack(n.integer(at, "axis", Some(0))?),
        "Transpose" => Op::Transpose,
        "GatherNd" => Op::GatherNd,
        "Cast" => match n.attr.get("DstT").and_then(|a| a.kind.as_ref()) {
            Some(kind) if kind == "DT_FLOAT" || kind == 1 => Op::ToFloat,
            Some(kind) if kind == "DT_INT32" || kind == 3 || kind == "DT_INT64" || kind == 9 => Op::ToInt,
            _ => return Err(n.wrong(at, "DstT")),
        },
        "StridedSlice" => {
            let mask = |name: &str| Ok::<u32, Error>(n.integer(at, name, Some(0))?.clamp(0, u32::MAX.into()) as u32);
            Op::StridedSlice(SliceMasks {
                begin: mask("begin_mask")?,
                end: mask("end_mask")?,
                ellipsis: mask("ellipsis_mask")?,
                new_axis: mask("new_axis_mask")?,
                shrink: mask("shrink_axis_mask")?,
            })
        }
        other => {
            let name: String = other.chars().take(80).collect();
            return Err(Error::Unsupported(format!("tfjs: {name} is not among the operators that this version runs")));
        }
    };
    Ok(vec![one])
}

/// A convolution or product with its fused bias and activation.
fn weighted(n: &JsonNode, at: usize) -> Result<Vec<Op>> {
    let op = if n.op.contains("MatMul") {
        if n.flag("transpose_a") {
            return Err(n.wrong(at, "transpose_a"));
        }
        Op::FullyConnected { transposed: !n.flag("transpose_b"), keep_dims: false }
    } else {
        n.nhwc(at)?;
        let (stride, dilation) = (n.pair(at, "strides", None)?, n.pair(at, "dilations", Some([1, 1]))?);
        let padding = n.padding(at)?;
        match n.op.contains("Depthwise") {
            true => Op::Depthwise { stride, dilation, padding, hwio: true },
            false => Op::Conv { stride, dilation, padding, hwio: true },
        }
    };
    let mut chain = vec![op];
    let fused = n.attr.get("fused_ops").and_then(|a| a.list.as_ref()).map_or(&[][..], |l| &l.s);
    for (i, fused) in fused.iter().enumerate() {
        match (i, text(fused).as_deref()) {
            (0, Some("BiasAdd")) => {}
            (1, Some("Prelu")) => chain.push(Op::Prelu),
            (1, Some(name)) => chain.push(activation(n, at, name, "leakyrelu_alpha")?),
            _ => return Err(n.wrong(at, "fused_ops")),
        }
    }
    Ok(chain)
}

fn activation(n: &JsonNode, at: usize, name: &str, slope: &str) -> Result<Op> {
    Ok(match name {
        "Relu" => Op::Clamp(0.0, f32::INFINITY),
        "Relu6" => Op::Clamp(0.0, 6.0),
        "Elu" => Op::Unary(Unary::Elu),
        "Sigmoid" => Op::Unary(Unary::Sigmoid),
        "Tanh" => Op::Unary(Unary::Tanh),
        "LeakyRelu" => {
            let slope = n.attr.get(slope).and_then(|a| a.f.as_ref()).and_then(Json::as_f64);
            Op::Unary(Unary::LeakyRelu(slope.unwrap_or(0.2) as f32))
        }
        _ => return Err(n.wrong(at, "fused_ops")),
    })
}

fn pool(n: &JsonNode, at: usize, reduce: Reduce) -> Result<Op> {
    n.nhwc(at)?;
    let (window, stride) = (n.pair(at, "ksize", None)?, n.pair(at, "strides", None)?);
    Ok(Op::Pool { reduce, window, stride, padding: n.padding(at)? })
}
