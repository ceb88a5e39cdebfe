//! Files that keep channels last, as TensorFlow does: transposes that cost nothing, and the layers
//! between them as layers over spatial maps.
//!
//! ```text
//!   Conv -> Transpose(0,2,3,1) -> Add -> MatMul -> Transpose(0,3,1,2) -> Conv      the file
//!   Conv ------------------------ Add -> Conv 1x1 ---------------------> Conv      here
//! ```
//!
//! A node of which an input has its channels last is lowered as if all its inputs had them second,
//! and what comes out has them last again. What cannot be lowered so gets a real transpose.

use super::reduce::layer_norm_op;
use super::{list, lower_one};
use crate::error::ModelError;
use crate::onnx::elements::transposed;
use crate::onnx::fold::permutation;
use crate::onnx::import::{Importer, Value};
use crate::onnx::node::Node;
use crate::onnx::tensor::Tensor;
use crate::op::{Activation, Op};
use crate::window::{Axes, Pads, Window};
use rten_onnx::onnx::NodeProto;

/// Channels second to channels last, and back.
const TO_LAST: [usize; 4] = [0, 2, 3, 1];
const TO_SECOND: [usize; 4] = [0, 3, 1, 2];

/// Adds the layers of a node that has to do with channels kept last; none where it has not.
pub(super) fn lower(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
) -> Result<Option<Value>, ModelError> {
    if node.proto.input.is_empty() || node.input(0).is_none() {
        return Ok(None);
    }
    if node.operator == "Transpose" {
        return transpose(importer, node);
    }
    let is_last = |index: usize| matches!(importer.value(node, index), Ok(Value::ChannelsLast(_)));
    if !(0..node.proto.input.len()).any(|i| node.input(i).is_some() && is_last(i)) {
        return Ok(None);
    }
    match node.operator {
        "Relu" | "LeakyRelu" | "Sigmoid" | "HardSigmoid" | "HardSwish" | "Swish" | "Tanh"
        | "Elu" | "Selu" | "Celu" | "Softplus" | "Softsign" | "Mish" | "Gelu" | "Erf" | "Exp"
        | "Sqrt" | "Abs" | "Neg" | "Identity" | "Dropout" | "Clip" | "Cast" | "Reciprocal" => {
            turned(importer, node, 1, node.proto.clone())
        }
        "Add" | "Sub" | "Mul" | "Div" | "Sum" | "Min" | "Max" | "Pow" => {
            turned(importer, node, node.proto.input.len(), node.proto.clone())
        }
        "Concat" => {
            let axis = node.axis(node.int("axis", 1), 4)?;
            let proto = with_int(node, "axis", TO_LAST[axis]);
            turned(importer, node, node.proto.input.len(), proto)
        }
        "Softmax" => {
            let axis = node.axis(node.int("axis", if node.opset < 13 { 1 } else { -1 }), 4)?;
            if node.opset < 13 && axis != 3 {
                return Ok(None);
            }
            // Without later axes to flatten, the new meaning is the old one.
            let node = Node { opset: node.opset.max(13), ..*node };
            let proto = with_int(&node, "axis", TO_LAST[axis]);
            turned(importer, &node, 1, proto)
        }
        "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceSum" => reduce(importer, node),
        "LayerNormalization" => {
            let Value::ChannelsLast(map) = *importer.value(node, 0)? else { return Ok(None) };
            let dims = importer.dims(node, 0)?;
            let op = layer_norm_op(importer, node, &dims)?;
            importer.emit(node, op, &[map], None).map(|map| Some(Value::ChannelsLast(map)))
        }
        "MatMul" => matmul(importer, node),
        "Pad" => pad(importer, node),
        _ => Ok(None),
    }
}

fn transpose(importer: &mut Importer<'_>, node: &Node<'_>) -> Result<Option<Value>, ModelError> {
    let perm = permutation(node, importer.dims(node, 0)?.len())?;
    Ok(match *importer.value(node, 0)? {
        Value::Map(map) if perm == TO_LAST && importer.builder.shape(map).is_spatial() => {
            Some(Value::ChannelsLast(map))
        }
        Value::ChannelsLast(map) if perm == TO_SECOND => Some(Value::Map(map)),
        _ => None,
    })
}

/// Lowers a node with channels second in its first `count` inputs.
fn turned(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
    count: usize,
    proto: NodeProto,
) -> Result<Option<Value>, ModelError> {
    let mut replacements = Vec::with_capacity(count);
    for index in 0..count {
        let Some(name) = node.input(index) else { continue };
        let value = match importer.value(node, index)?.clone() {
            Value::ChannelsLast(map) => Value::Map(map),
            // One number is the same in every order.
            Value::Constant(tensor) if tensor.len() == 1 && tensor.dims.len() <= 1 => continue,
            Value::Constant(tensor) if tensor.dims.len() <= 4 => {
                let dims = [vec![1; 4 - tensor.dims.len()], tensor.dims.clone()].concat();
                Value::Constant(transposed(&tensor.with_dims(dims), &TO_SECOND))
            }
            Value::Map(map) => {
                let shape = importer.builder.shape(map).clone();
                match *shape.dims() {
                    [1, _, _, _] => {
                        let op = Op::Transpose { perm: TO_SECOND.to_vec() };
                        Value::Map(importer.emit_helper(node, op, &[map], None)?)
                    }
                    [length] | [1, length] | [1, 1, length] => {
                        Value::Map(importer.reshape(node, map, &[1, length, 1, 1])?)
                    }
                    _ => return Ok(None),
                }
            }
            Value::Constant(_) => return Ok(None),
        };
        replacements.push((name, value));
    }
    replacements.sort_by_key(|(name, _)| *name);
    replacements.dedup_by_key(|(name, _)| *name);
    let turned = Node { proto: &proto, ..*node };
    let lowered = with_replaced(importer, replacements, |importer| lower_one(importer, &turned))?;
    Ok(Some(Value::ChannelsLast(lowered)))
}

/// Does something while some names stand for something else.
fn with_replaced<T>(
    importer: &mut Importer<'_>,
    replacements: Vec<(&str, Value)>,
    f: impl FnOnce(&mut Importer<'_>) -> T,
) -> T {
    let mut before = Vec::with_capacity(replacements.len());
    for (name, value) in replacements {
        before.push((name, importer.replace(name, value)));
    }
    let result = f(importer);
    for (name, value) in before {
        if let Some(value) = value {
            importer.replace(name, value);
        }
    }
    result
}

fn reduce(importer: &mut Importer<'_>, node: &Node<'_>) -> Result<Option<Value>, ModelError> {
    let Value::ChannelsLast(map) = *importer.value(node, 0)? else { return Ok(None) };
    let given = list(node, "axes", importer.constant(node, 1, "axes")?)?.unwrap_or_default();
    let mut axes = Vec::with_capacity(given.len());
    for axis in &given {
        axes.push(TO_LAST[node.axis(*axis, 4)?]);
    }
    axes.sort_unstable();
    let keeps = node.int("keepdims", 1) != 0;
    // Without the axes the others must follow one another as they do in the file.
    if axes.is_empty() || (!keeps && axes != [2, 3] && axes != [1]) {
        return Ok(None);
    }
    let mut proto = node.proto.clone();
    proto.attribute.retain(|attribute| attribute.name.as_deref() != Some("axes"));
    let axes: Vec<i64> = axes.iter().map(|axis| *axis as i64).collect();
    let mut replacements = vec![(node.input(0).unwrap_or_default(), Value::Map(map))];
    match node.input(1) {
        Some(name) => {
            let axes = Tensor::ints(vec![axes.len()], axes);
            replacements.push((name, Value::Constant(axes)));
        }
        None => proto.attribute.push(crate::export::ints_attribute("axes", axes)),
    }
    let turned = Node { proto: &proto, ..*node };
    let reduced = with_replaced(importer, replacements, |importer| lower_one(importer, &turned))?;
    Ok(Some(if keeps { Value::ChannelsLast(reduced) } else { Value::Map(reduced) }))
}

/// The pads of both ends change places with their axes.
fn pad(importer: &mut Importer<'_>, node: &Node<'_>) -> Result<Option<Value>, ModelError> {
    let Value::ChannelsLast(map) = *importer.value(node, 0)? else { return Ok(None) };
    let pads = list(node, "pads", importer.constant(node, 1, "pads")?)?.unwrap_or_default();
    if pads.len() != 8 || node.input(3).is_some() {
        return Ok(None);
    }
    let pads = pads.chunks(4).flat_map(|ends| TO_SECOND.map(|axis| ends[axis]));
    let pads: Vec<i64> = pads.collect();
    let mut proto = node.proto.clone();
    let mut replacements = vec![(node.input(0).unwrap_or_default(), Value::Map(map))];
    match node.input(1) {
        Some(name) => replacements.push((name, Value::Constant(Tensor::ints(vec![8], pads)))),
        None => {
            proto.attribute.retain(|attribute| attribute.name.as_deref() != Some("pads"));
            proto.attribute.push(crate::export::ints_attribute("pads", pads));
        }
    }
    let turned = Node { proto: &proto, ..*node };
    let padded = with_replaced(importer, replacements, |importer| lower_one(importer, &turned))?;
    Ok(Some(Value::ChannelsLast(padded)))
}

/// A product with a constant matrix along the last axis is a convolution of one tap.
fn matmul(importer: &mut Importer<'_>, node: &Node<'_>) -> Result<Option<Value>, ModelError> {
    let matrix = match (importer.value(node, 0)?, importer.value(node, 1)?) {
        (Value::ChannelsLast(_), Value::Constant(tensor)) => tensor.clone(),
        _ => return Ok(None),
    };
    let Value::ChannelsLast(map) = *importer.value(node, 0)? else { return Ok(None) };
    let &[inputs, outputs] = matrix.dims.as_slice() else { return Ok(None) };
    let channels = importer.builder.shape(map).channels();
    let filters = transposed(&matrix, &[1, 0]);
    let Some(values) = filters.as_floats().filter(|_| inputs == channels) else {
        return Ok(None);
    };
    let weights = importer.builder.weight(values.clone(), &[outputs, inputs, 1, 1])?;
    let one = Axes::new(1, 1);
    let window = Window { kernel: one, stride: one, dilation: one, pads: Pads::default() };
    let (groups, bias, activation) = (1, None, Activation::None);
    let op = Op::Conv { window, groups, weights, bias, activation };
    importer.emit(node, op, &[map], None).map(|map| Some(Value::ChannelsLast(map)))
}

/// The node with another number in an attribute.
fn with_int(node: &Node<'_>, name: &str, value: usize) -> NodeProto {
    let mut proto = node.proto.clone();
    proto.attribute.retain(|attribute| attribute.name.as_deref() != Some(name));
    proto.attribute.push(crate::export::int_attribute(name, value as i64));
    proto
}
