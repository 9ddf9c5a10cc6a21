//! TensorFlow Lite files: a FlatBuffer with one graph, its weights beside it. Half floats, 8-bit weights and block-sparse
//! constants are widened here, once; what the graph computes is in [`crate::graph`].
//! Schema: tensorflow/compiler/mlir/lite/schema/schema.fbs (version 3); fields are looked up by their number there.

use super::flatbuffer::{Buffer, Table, Vector};
use super::tflite_tensor::{self, Budget};
use super::{Error, Result};
use crate::graph::ir::{Graph, Node, Op, SliceMasks, Value, limits};
use dreamseed_kernels::cpu::conv::Padding;
use dreamseed_kernels::cpu::elementwise::{Binary, Fold, Unary};
use dreamseed_kernels::cpu::pooling::Reduce;
use dreamseed_kernels::cpu::resize::Centres;

const FORMAT: &str = "tflite";

/// Names of the builtin operators in the order of the schema's numbers.
const BUILTINS: &str = "ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR \
    FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC \
    LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH \
    SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER \
    BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE \
    BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM \
    ARG_MAX MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE \
    TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK \
    LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL \
    FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL \
    REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND \
    HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM \
    BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS \
    HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE \
    ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU \
    DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2 \
    UNSORTED_SEGMENT_MIN SIGN ";

/// Whether `bytes` begin as a TFLite file does.
pub(crate) fn is_tflite(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(b"TFL3")
}

/// The graph of a file.
pub(crate) fn read(bytes: &[u8]) -> Result<Graph> {
    let buffer = Buffer { bytes, format: FORMAT };
    if !is_tflite(bytes) {
        return Err(buffer.error("file_identifier", 4, "not TFL3: this is no TensorFlow Lite file"));
    }
    let model = buffer.table("Model", 0)?;
    let version = model.u32("Model.version", 0)?;
    if version != 3 {
        return Err(model.error("Model.version", format!("version {version}; only 3 is known")));
    }
    let subgraphs = model.tables("Model.subgraphs", 2, 1024)?;
    let [graph] = subgraphs.as_slice() else {
        return Err(model.error("Model.subgraphs", format!("{} graphs; only files with one are run", subgraphs.len())));
    };
    let codes = model.tables("Model.operator_codes", 1, limits::NODES)?;
    let buffers = model.tables("Model.buffers", 4, limits::VALUES)?;
    let tensors = graph.tables("SubGraph.tensors", 0, limits::VALUES)?;
    let mut reader = Reader { values: Vec::with_capacity(tensors.len()), nodes: Vec::new(), tensors: &tensors, operands: 0 };
    for t in &tensors {
        reader.values.push(Value { name: t.string("Tensor.name", 3, limits::NAME)?, ..Value::default() });
    }
    let inputs = reader.indices(graph, "SubGraph.inputs", 1)?;
    let outputs = reader.indices(graph, "SubGraph.outputs", 2)?;
    for operator in graph.tables("SubGraph.operators", 3, limits::NODES)? {
        let code = operator.u32("Operator.opcode_index", 0)?;
        let code = codes.get(code as usize).ok_or_else(|| {
            operator.error("Operator.opcode_index", format!("{code}, but the file has {} operator codes", codes.len()))
        })?;
        reader.operator(&operator, &operator_name(code)?)?;
    }
    let mut budget = Budget::new(bytes.len());
    reader.constants(buffer, &buffers, &mut budget)?;
    for &i in &inputs {
        let shape = tflite_tensor::shape(&tensors[i])?;
        reader.values[i].shape = Some(shape);
    }
    Ok(Graph { format: FORMAT, values: reader.values, nodes: reader.nodes, inputs, outputs, file: bytes.len() as u64 })
}

/// The operator's name; a custom one keeps its own.
fn operator_name(code: &Table) -> Result<String> {
    // Files older than the wider field hold the number in the narrow one; newer ones fill both up to 127.
    let number =
        code.i32("OperatorCode.builtin_code", 3, 0)?.max(i32::from(code.u8("OperatorCode.deprecated_builtin_code", 0)?));
    match usize::try_from(number).ok().and_then(|n| BUILTINS.split_whitespace().nth(n)) {
        Some("CUSTOM") => Ok(format!("custom operator {}", code.string("OperatorCode.custom_code", 1, limits::NAME)?)),
        Some(name) => Ok(name.to_owned()),
        None => Ok(format!("builtin operator {number}")),
    }
}

struct Reader<'a> {
    values: Vec<Value>,
    nodes: Vec<Node>,
    tensors: &'a [Table<'a>],
    operands: usize,
}

impl Reader<'_> {
    /// A list of tensors that must all be there.
    fn indices(&self, t: &Table, field: &str, id: usize) -> Result<Vec<usize>> {
        let list = t.i32s(field, id)?;
        if list.len() > limits::NAME {
            return Err(t.error(field, format!("{} tensors; at most {} are read", list.len(), limits::NAME)));
        }
        list.into_iter().map(|i| self.index(t, field, i)).collect()
    }

    fn index(&self, t: &Table, field: &str, i: i32) -> Result<usize> {
        let found = usize::try_from(i).ok().filter(|&i| i < self.tensors.len());
        found.ok_or_else(|| t.error(field, format!("tensor {i}, but the graph has {}", self.tensors.len())))
    }

    /// One operator, and its fused activation as a node of its own.
    fn operator(&mut self, t: &Table, name: &str) -> Result<()> {
        let list = t.i32s("Operator.inputs", 1)?;
        self.operands = self.operands.saturating_add(list.len());
        if self.operands > limits::OPERANDS {
            return Err(t.error("Operator.inputs", format!("more than {} operands in all", limits::OPERANDS)));
        }
        let input = |i: i32| if i == -1 { Ok(None) } else { self.index(t, "Operator.inputs", i).map(Some) };
        let mut inputs = list.into_iter().map(input).collect::<Result<Vec<_>>>()?;
        let mut outputs = self.indices(t, "Operator.outputs", 2)?;
        let (op, fused) = operation(t, name)?;
        if op == Op::Squeeze(Vec::new()) && name == "RESHAPE" {
            // The shape is an attribute: as a constant of its own it reads like the operand form.
            let shape = options(t)?.map_or(Ok(Vec::new()), |o| o.i32s("ReshapeOptions.new_shape", 0))?;
            inputs.truncate(1);
            inputs.push(Some(self.values.len()));
            self.values.push(tflite_tensor::integers("new_shape", shape));
        }
        let op = if name == "RESHAPE" { Op::Reshape } else { op };
        let (label, offset) = (name.to_owned(), t.offset() as u64);
        if let (Some(clamp), [output]) = (fused, outputs.as_mut_slice()) {
            let inner = self.values.len();
            self.values.push(Value { name: format!("{} before activation", self.values[*output].name), ..Value::default() });
            self.nodes.push(Node { op, name: label.clone(), inputs, outputs: vec![inner], offset });
            self.nodes.push(Node { op: clamp, name: label, inputs: vec![Some(inner)], outputs, offset });
        } else {
            self.nodes.push(Node { op, name: label, inputs, outputs, offset });
        }
        Ok(())
    }

    /// Decodes the constants that operators use, and refuses activations that are not floats or integers.
    fn constants(&mut self, buffer: Buffer, buffers: &[Table], budget: &mut Budget) -> Result<()> {
        let mut used = vec![false; self.tensors.len()];
        let operands = self.nodes.iter().flat_map(|n| n.inputs.iter().flatten().chain(&n.outputs));
        for &i in operands {
            if let Some(used) = used.get_mut(i) {
                *used = true;
            }
        }
        for (i, t) in self.tensors.iter().enumerate().filter(|&(i, _)| used[i]) {
            let index = t.u32("Tensor.buffer", 2)? as usize;
            let Some(holder) = buffers.get(index) else {
                return Err(t.error("Tensor.buffer", format!("{index}, but the file has {} buffers", buffers.len())));
            };
            let bytes = content(buffer, holder)?;
            if !bytes.bytes.is_empty() {
                self.values[i].shape = Some(tflite_tensor::shape(t)?);
                self.values[i].data = Some(tflite_tensor::decode(t, bytes, budget)?);
            } else {
                tflite_tensor::check_activation(t)?;
            }
        }
        Ok(())
    }
}

/// The bytes of a buffer: inside its table or, in files written for large weights, somewhere behind the graph.
fn content<'a>(buffer: Buffer<'a>, t: &Table<'a>) -> Result<Vector<'a>> {
    let (offset, size) = (t.u64("Buffer.offset", 1)?, t.u64("Buffer.size", 2)?);
    if offset <= 1 {
        return t.vector("Buffer.data", 0, 1);
    }
    let (pos, size) = (usize::try_from(offset).unwrap_or(usize::MAX), usize::try_from(size).unwrap_or(usize::MAX));
    buffer.vector("Buffer.offset", pos, size)
}

fn options<'a>(t: &Table<'a>) -> Result<Option<Table<'a>>> {
    t.table("Operator.builtin_options", 4)
}

/// What an operator does, and the activation fused into it.
fn operation(t: &Table, name: &str) -> Result<(Op, Option<Op>)> {
    let none = t.empty();
    let o = &options(t)?.unwrap_or(none);
    let op = match name {
        "CONV_2D" => return convolution(o),
        "DEPTHWISE_CONV_2D" => return depthwise(o),
        "MAX_POOL_2D" => return pool(o, Reduce::Max),
        "AVERAGE_POOL_2D" => return pool(o, Reduce::Mean),
        "ADD" => return Ok((Op::Binary(Binary::Add), activation(o, 0)?)),
        "SUB" => return Ok((Op::Binary(Binary::Sub), activation(o, 0)?)),
        "MUL" => return Ok((Op::Binary(Binary::Mul), activation(o, 0)?)),
        "DIV" => return Ok((Op::Binary(Binary::Div), activation(o, 0)?)),
        "FULLY_CONNECTED" => {
            if o.u8("FullyConnectedOptions.weights_format", 1)? != 0 {
                return Err(o.error("FullyConnectedOptions.weights_format", "shuffled weights are not read"));
            }
            let keep_dims = o.bool("FullyConnectedOptions.keep_num_dims", 2)?;
            return Ok((Op::FullyConnected { transposed: false, keep_dims }, activation(o, 0)?));
        }
        "CONCATENATION" => {
            let axis = o.i32("ConcatenationOptions.axis", 0, 0)?.into();
            return Ok((Op::Concat(Some(axis)), activation(o, 1)?));
        }
        "MAXIMUM" => Op::Binary(Binary::Max),
        "MINIMUM" => Op::Binary(Binary::Min),
        "SQUARED_DIFFERENCE" => Op::Binary(Binary::SquaredDifference),
        "FLOOR_DIV" => Op::Binary(Binary::FloorDiv),
        // Constants are widened and made dense as they are read; on activations these two change nothing.
        "DEQUANTIZE" | "DENSIFY" => Op::Identity,
        "RELU" => Op::Clamp(0.0, f32::INFINITY),
        "RELU6" => Op::Clamp(0.0, 6.0),
        "RELU_N1_TO_1" => Op::Clamp(-1.0, 1.0),
        "PRELU" => Op::Prelu,
        "LEAKY_RELU" => Op::Unary(Unary::LeakyRelu(o.f32("LeakyReluOptions.alpha", 0)?)),
        "LOGISTIC" => Op::Unary(Unary::Sigmoid),
        "TANH" => Op::Unary(Unary::Tanh),
        "HARD_SWISH" => Op::Unary(Unary::HardSwish),
        "ELU" => Op::Unary(Unary::Elu),
        "EXP" => Op::Unary(Unary::Exp),
        "LOG" => Op::Unary(Unary::Log),
        "SQRT" => Op::Unary(Unary::Sqrt),
        "RSQRT" => Op::Unary(Unary::Rsqrt),
        "SQUARE" => Op::Unary(Unary::Square),
        "ABS" => Op::Unary(Unary::Abs),
        "NEG" => Op::Unary(Unary::Neg),
        "FLOOR" => Op::Unary(Unary::Floor),
        "PAD" | "PADV2" => Op::Pad,
        "RESIZE_BILINEAR" => {
            let (aligned, half) = (o.bool("ResizeBilinearOptions.align_corners", 2)?, o.bool("half_pixel_centers", 3)?);
            Op::Resize(if aligned {
                Centres::Aligned
            } else if half {
                Centres::Half
            } else {
                Centres::Corner
            })
        }
        "DEPTH_TO_SPACE" => Op::DepthToSpace(positive(o, "DepthToSpaceOptions.block_size", o.i32("block_size", 0, 0)?)?),
        // With one operand the shape is an attribute: `operator` tells the two apart by this mark.
        "RESHAPE" if t.vector("Operator.inputs", 1, 4)?.bytes.len() <= 4 => Op::Squeeze(Vec::new()),
        "RESHAPE" => Op::Reshape,
        "EXPAND_DIMS" => Op::ExpandDims,
        "SQUEEZE" => Op::Squeeze(o.i32s("SqueezeOptions.squeeze_dims", 0)?.into_iter().map(i64::from).collect()),
        "SOFTMAX" => Op::Softmax(o.f32("SoftmaxOptions.beta", 0)?),
        "MEAN" => Op::Fold { fold: Fold::Mean, keep_dims: o.bool("ReducerOptions.keep_dims", 0)? },
        "SUM" => Op::Fold { fold: Fold::Sum, keep_dims: o.bool("ReducerOptions.keep_dims", 0)? },
        "REDUCE_MAX" => Op::Fold { fold: Fold::Max, keep_dims: o.bool("ReducerOptions.keep_dims", 0)? },
        "REDUCE_MIN" => Op::Fold { fold: Fold::Min, keep_dims: o.bool("ReducerOptions.keep_dims", 0)? },
        "ARG_MAX" => Op::Fold { fold: Fold::ArgMax, keep_dims: false },
        "TRANSPOSE" => Op::Transpose,
        "PACK" => Op::Pack(o.i32("PackOptions.axis", 1, 0)?.into()),
        "UNPACK" => Op::Unpack(o.i32("UnpackOptions.axis", 1, 0)?.into()),
        "SHAPE" => Op::Shape,
        "GATHER_ND" => Op::GatherNd,
        "STRIDED_SLICE" => Op::StridedSlice(SliceMasks {
            begin: o.u32("StridedSliceOptions.begin_mask", 0)?,
            end: o.u32("StridedSliceOptions.end_mask", 1)?,
            ellipsis: o.u32("StridedSliceOptions.ellipsis_mask", 2)?,
            new_axis: o.u32("StridedSliceOptions.new_axis_mask", 3)?,
            shrink: o.u32("StridedSliceOptions.shrink_axis_mask", 4)?,
        }),
        _ => return Err(Error::Unsupported(format!("tflite: {name} is not among the operators that this version runs"))),
    };
    Ok((op, None))
}

fn convolution(o: &Table) -> Result<(Op, Option<Op>)> {
    let field = |name: &str, id, default| positive(o, name, o.i32(name, id, default)?);
    let stride = [field("Conv2DOptions.stride_h", 2, 0)?, field("Conv2DOptions.stride_w", 1, 0)?];
    let dilation = [field("Conv2DOptions.dilation_h_factor", 5, 1)?, field("Conv2DOptions.dilation_w_factor", 4, 1)?];
    Ok((Op::Conv { stride, dilation, padding: padding(o)?, hwio: false }, activation(o, 3)?))
}

fn depthwise(o: &Table) -> Result<(Op, Option<Op>)> {
    let field = |name: &str, id, default| positive(o, name, o.i32(name, id, default)?);
    let stride = [field("DepthwiseConv2DOptions.stride_h", 2, 0)?, field("DepthwiseConv2DOptions.stride_w", 1, 0)?];
    let dilation = [field("dilation_h_factor", 6, 1)?, field("dilation_w_factor", 5, 1)?];
    Ok((Op::Depthwise { stride, dilation, padding: padding(o)?, hwio: false }, activation(o, 4)?))
}

fn pool(o: &Table, reduce: Reduce) -> Result<(Op, Option<Op>)> {
    let field = |name: &str, id| positive(o, name, o.i32(name, id, 0)?);
    let stride = [field("Pool2DOptions.stride_h", 2)?, field("Pool2DOptions.stride_w", 1)?];
    let window = [field("Pool2DOptions.filter_height", 4)?, field("Pool2DOptions.filter_width", 3)?];
    Ok((Op::Pool { reduce, window, stride, padding: padding(o)? }, activation(o, 5)?))
}

fn positive(o: &Table, field: &str, v: i32) -> Result<usize> {
    let found = usize::try_from(v).ok().filter(|&v| v > 0);
    found.ok_or_else(|| o.error(field, format!("{v}; it must be at least 1")))
}

fn padding(o: &Table) -> Result<Padding> {
    match o.u8("padding", 0)? {
        0 => Ok(Padding::Same),
        1 => Ok(Padding::Valid),
        other => Err(o.error("padding", format!("{other}; known are 0 (SAME) and 1 (VALID)"))),
    }
}

/// The activation fused into an operator.
fn activation(o: &Table, id: usize) -> Result<Option<Op>> {
    Ok(match o.u8("fused_activation_function", id)? {
        0 => None,
        1 => Some(Op::Clamp(0.0, f32::INFINITY)),
        2 => Some(Op::Clamp(-1.0, 1.0)),
        3 => Some(Op::Clamp(0.0, 6.0)),
        4 => Some(Op::Unary(Unary::Tanh)),
        other => return Err(o.error("fused_activation_function", format!("{other}; known are 0 to 4"))),
    })
}
