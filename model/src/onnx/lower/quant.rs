//! Quantised operators: ONNX's own, and those that ONNX Runtime's quantiser writes.

use super::{SpatialInput, spatial_input, window};
use crate::error::ModelError;
use crate::graph::{MapId, Shape};
use crate::onnx::elements::{strides_of, transposed};
use crate::onnx::import::{Importer, Value};
use crate::onnx::node::Node;
use crate::onnx::tensor::Tensor;
use crate::op::{Activation, CombineKind, Op, QProduct};
use crate::passes::{Origin, QuantWeights};
use crate::quant::{Element, Quant};

type Lowered = Result<MapId, ModelError>;

pub(super) fn quantize(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["axis", "saturate", "block_size", "output_dtype", "precision"])?;
    if node.int("block_size", 0) != 0 {
        return node.unsupported("block_size", "0", node.int("block_size", 0).to_string());
    }
    let element = match node.int("output_dtype", 0) {
        0 | 2 => Element::U8,
        3 => Element::I8,
        other => return node.unsupported("output_dtype", "u8 or i8", other.to_string()),
    };
    let map = importer.map(node, 0)?;
    let output = scale_at(importer, node, 1, element)?;
    importer.emit(node, Op::Quantize { output }, &[map], None)
}

pub(super) fn dequantize(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["axis", "block_size", "output_dtype"])?;
    let map = importer.map(node, 0)?;
    let element = importer.builder.model().element(map);
    let input = scale_at(importer, node, 1, element)?;
    importer.emit(node, Op::Dequantize { input }, &[map], None)
}

/// Where a node has the scale of a thing; its zero point comes right after.
fn scale_at(
    importer: &Importer<'_>,
    node: &Node<'_>,
    at: usize,
    default: Element,
) -> Result<Quant, ModelError> {
    let scale = importer.constant(node, at, "a scale")?;
    let scale = match scale.and_then(|tensor| tensor.as_floats()).map(|values| values.as_slice()) {
        Some([scale]) => *scale,
        Some(scales) => {
            let expected = "one scale for a whole feature map";
            return node.unsupported("a scale", expected, format!("{} scales", scales.len()));
        }
        None => return node.unsupported("a scale", "a constant f32", "another type, or none"),
    };
    let (element, zero) = match importer.constant(node, at + 1, "a zero point")? {
        None => (default, 0),
        Some(tensor) => match (tensor.as_bytes(), tensor.to_ints().as_deref()) {
            (Some((element, _)), Some([zero])) => (element, *zero as i32),
            _ => return node.unsupported("a zero point", "one u8 or i8", "another type"),
        },
    };
    let quant = Quant { element, scale, zero };
    if !quant.is_sound() {
        return node.unsupported("a scale", "a positive number", scale.to_string());
    }
    Ok(quant)
}

/// Weights as the file has them, outputs first.
pub(super) struct Weights {
    pub(super) dims: Vec<usize>,
    element: Element,
    bytes: Vec<u8>,
}

/// A constant of bytes.
pub(super) fn weights(
    importer: &Importer<'_>,
    node: &Node<'_>,
    at: usize,
) -> Result<Weights, ModelError> {
    match importer.constant(node, at, "weights")? {
        Some(tensor) => of_tensor(node, tensor),
        None => node.unsupported("weights", "a constant", "none"),
    }
}

fn of_tensor(node: &Node<'_>, tensor: &Tensor) -> Result<Weights, ModelError> {
    match tensor.as_bytes().filter(|(_, bytes)| !bytes.is_empty()) {
        Some((element, bytes)) => {
            Ok(Weights { dims: tensor.dims.clone(), element, bytes: bytes.to_vec() })
        }
        None => node.unsupported("weights", "u8 or i8", "another type"),
    }
}

/// At which inputs a node has its scales (zero points follow them) and its bias.
#[derive(Clone, Copy)]
pub(super) struct Places {
    pub(super) input: usize,
    pub(super) weights: usize,
    pub(super) bias: usize,
    pub(super) output: usize,
}

/// Gathers the numbers of a quantised product.
pub(super) fn product(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
    weights: &Weights,
    places: Places,
) -> Result<QProduct, ModelError> {
    let element = importer.map(node, 0)?;
    let element = importer.builder.model().element(element);
    let input = scale_at(importer, node, places.input, element)?;
    let output = scale_at(importer, node, places.output, element)?;
    let outputs = weights.dims[0];
    let scales = importer.constant(node, places.weights, "scales of weights")?;
    let Some(scales) = scales.and_then(|tensor| tensor.as_floats()).cloned() else {
        return node.unsupported("scales of weights", "constant floats", "another type, or none");
    };
    let zeros = importer.constant(node, places.weights + 1, "zero points of weights")?;
    let zeros = zeros.and_then(Tensor::to_ints).unwrap_or_default();
    let quantised = QuantWeights::new(weights.element, &weights.bytes, &scales, &zeros, outputs);
    let Some(quantised) = quantised else {
        let got = format!("{} scales and {} zero points", scales.len(), zeros.len());
        return node.unsupported("scales of weights", format!("1 or {outputs} of each"), got);
    };
    let bias = match importer.constant(node, places.bias, "bias")? {
        None => None,
        Some(tensor) => match tensor.as_ints().filter(|ints| ints.len() == outputs) {
            Some(ints) => Some(ints.iter().map(|value| *value as i32).collect::<Vec<i32>>()),
            None => return node.unsupported("bias", format!("{outputs} of i32"), "others"),
        },
    };
    let builder = &mut importer.builder;
    let bias = bias.map(|bias| {
        let bytes = bias.iter().flat_map(|value| value.to_le_bytes()).collect();
        builder.weight_bytes(bytes, &[outputs], Element::I32)
    });
    let bias = bias.transpose()?;
    let zeros = quantised.zeros.map(|zeros| builder.weight_bytes(zeros, &[outputs], Element::I8));
    let (low, high) = output.element.range();
    Ok(QProduct {
        weights: builder.weight_bytes(quantised.values, &weights.dims, Element::I8)?,
        scales: builder.weight(quantised.scales, &[outputs])?,
        zeros: zeros.transpose()?,
        bias,
        input,
        output,
        low,
        high,
    })
}

pub(super) fn matmul(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&[])?;
    let map = importer.map(node, 0)?;
    let matrix = match importer.value(node, 3)? {
        Value::Constant(tensor) if tensor.dims.len() == 2 => Some(tensor.clone()),
        _ => None,
    };
    let is_general = !importer.builder.shape(map).is_spatial();
    let Some(matrix) = matrix.filter(|_| is_general) else {
        return matmul_of_maps(importer, node, map);
    };
    let weights = of_tensor(node, &transposed(&matrix, &[1, 0]))?;
    let places = Places { input: 1, weights: 4, bias: usize::MAX, output: 6 };
    let product = product(importer, node, &weights, places)?;
    importer.emit(node, Op::QLinear { product }, &[map], None)
}

/// Batches of products, or a product of two maps: by way of the numbers.
fn matmul_of_maps(importer: &mut Importer<'_>, node: &Node<'_>, left: MapId) -> Lowered {
    let right = importer.map(node, 3)?;
    let element = importer.builder.model().element(left);
    let output = scale_at(importer, node, 6, element)?;
    let left = numbers(importer, node, left, 1)?;
    let right = numbers(importer, node, right, 4)?;
    let (a, b) = (importer.builder.shape(left).dims(), importer.builder.shape(right).dims());
    let unbatched = |dims: &[usize]| match *dims {
        [1, a, b, c] => vec![a, b, c],
        _ => dims.to_vec(),
    };
    let had_batch = a.len().max(b.len()) == 4 && (unbatched(&a) != a || unbatched(&b) != b);
    let left = importer.reshape(node, left, &unbatched(&a))?;
    let right = importer.reshape(node, right, &unbatched(&b))?;
    let mut map = importer.emit_helper(node, Op::MatMul, &[left, right], None)?;
    let dims = importer.builder.shape(map).dims();
    if had_batch && dims.len() == 3 {
        map = importer.reshape(node, map, &[vec![1], dims].concat())?;
    }
    importer.emit(node, Op::Quantize { output }, &[map], None)
}

/// The numbers of a map of bytes whose scale is at some input of the node.
fn numbers(importer: &mut Importer<'_>, node: &Node<'_>, map: MapId, scale: usize) -> Lowered {
    let element = importer.builder.model().element(map);
    let input = scale_at(importer, node, scale, element)?;
    importer.emit_helper(node, Op::Dequantize { input }, &[map], None)
}

pub(super) fn gemm(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["alpha", "transA", "transB"])?;
    if node.float("alpha", 1.0) != 1.0 || node.int("transA", 0) != 0 {
        return node.unsupported("alpha", "1, and no transposed A", "others");
    }
    let map = importer.map(node, 0)?;
    let Some(matrix) = importer.constant(node, 3, "B")?.cloned() else {
        return node.unsupported("B", "a constant", "none");
    };
    if matrix.dims.len() != 2 {
        return node.bad_shape("a matrix", format!("{:?}", matrix.dims));
    }
    let is_transposed = node.int("transB", 0) != 0;
    let matrix = if is_transposed { matrix } else { transposed(&matrix, &[1, 0]) };
    let weights = of_tensor(node, &matrix)?;
    if node.input(7).is_none() {
        return node.unsupported("y_scale", "a scale", "none");
    }
    let places = Places { input: 1, weights: 4, bias: 6, output: 7 };
    let product = product(importer, node, &weights, places)?;
    importer.emit(node, Op::QLinear { product }, &[map], None)
}

pub(super) fn combine(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&[])?;
    let kind = if node.operator == "QLinearAdd" { CombineKind::Add } else { CombineKind::Mul };
    let (a, b) = (importer.map(node, 0)?, importer.map(node, 3)?);
    let element = |map: MapId| importer.builder.model().element(map);
    let inputs =
        [scale_at(importer, node, 1, element(a))?, scale_at(importer, node, 4, element(b))?];
    let output = scale_at(importer, node, 6, element(a))?;
    let (low, high) = output.element.range();
    importer.emit(node, Op::QCombine { kind, inputs, output, low, high }, &[a, b], None)
}

pub(super) fn global_average_pool(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["channels_last"])?;
    not_last(node)?;
    let map = importer.map(node, 0)?;
    let element = importer.builder.model().element(map);
    let input = scale_at(importer, node, 1, element)?;
    let output = scale_at(importer, node, 3, element)?;
    importer.emit(node, Op::QGlobalAveragePool { input, output }, &[map], None)
}

fn not_last(node: &Node<'_>) -> Result<(), ModelError> {
    match node.int("channels_last", 0) {
        0 => Ok(()),
        other => node.unsupported("channels_last", "0", other.to_string()),
    }
}

pub(super) fn concat(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["axis"])?;
    let mut maps = Vec::new();
    let first = importer.map(node, 2)?;
    let element = importer.builder.model().element(first);
    let output = scale_at(importer, node, 0, element)?;
    for at in (2..node.proto.input.len()).step_by(3) {
        let map = importer.map(node, at)?;
        let element = importer.builder.model().element(map);
        let input = scale_at(importer, node, at + 1, element)?;
        let op = Op::Requantize { input, activation: Activation::None, output };
        let same = input == output;
        maps.push(if same { map } else { importer.emit_helper(node, op, &[map], None)? });
    }
    let shape = importer.builder.shape(maps[0]).clone();
    let axis = node.axis(node.int("axis", 1), shape.dims().len())?;
    let op = match (&shape, axis) {
        (Shape::Spatial { .. }, 1) => Op::Concat,
        (Shape::General(_), _) => Op::ConcatGeneral { axis },
        _ => return node.unsupported("axis", "1 for a spatial map", axis.to_string()),
    };
    importer.emit(node, op, &maps, None)
}

pub(super) fn activate(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["alpha"])?;
    let activation = match node.operator {
        "QLinearSigmoid" => Activation::Sigmoid,
        _ => Activation::LeakyRelu { alpha: node.float("alpha", 0.01) },
    };
    let map = importer.map(node, 0)?;
    let element = importer.builder.model().element(map);
    let input = scale_at(importer, node, 1, element)?;
    let output = scale_at(importer, node, 3, element)?;
    importer.emit(node, Op::Requantize { input, activation, output }, &[map], None)
}

pub(super) fn average_pool(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    not_last(node)?;
    let input = spatial_input(importer, node, 0)?;
    let element = importer.builder.model().element(input.map);
    let output = scale_at(importer, node, 3, element)?;
    let (op, declared) = window::pool_op(importer, node, &input)?;
    let map = numbers(importer, node, input.map, 1)?;
    let map = importer.emit_helper(node, op, &[map], declared)?;
    let input = SpatialInput { map, is_1d: input.is_1d };
    super::emit_spatial(importer, node, Op::Quantize { output }, input, None)
}

pub(super) fn softmax(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["axis", "opset"])?;
    let map = importer.map(node, 0)?;
    let element = importer.builder.model().element(map);
    let output = scale_at(importer, node, 3, element)?;
    let dims = importer.builder.shape(map).dims();
    let flattens = node.int("opset", node.opset) < 13;
    let axis = node.axis(node.int("axis", if flattens { 1 } else { -1 }), dims.len())?;
    let flattened = flattens && dims[axis + 1..].iter().any(|dim| *dim > 1);
    let map = numbers(importer, node, map, 1)?;
    let map = importer.emit_helper(node, Op::Softmax { axis, flattened }, &[map], None)?;
    importer.emit(node, Op::Quantize { output }, &[map], None)
}

/// The numbers of a constant of integers; what they were is kept for the layers that read them.
pub(crate) fn dequantize_constant(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
) -> Result<Tensor, ModelError> {
    node.allow(&["axis", "block_size", "output_dtype"])?;
    if node.int("block_size", 0) != 0 {
        return node.unsupported("block_size", "0", node.int("block_size", 0).to_string());
    }
    let Some(tensor) = importer.constant(node, 0, "x")?.cloned() else {
        return node.unsupported("inputs", "input 0", "none");
    };
    let scales = importer.constant(node, 1, "x_scale")?;
    let scales = scales.and_then(|tensor| tensor.as_floats()).cloned();
    let zeros = importer.constant(node, 2, "x_zero_point")?.and_then(Tensor::to_ints);
    let (Some(ints), Some(scales)) = (tensor.to_ints(), scales) else {
        return node.unsupported("x", "integers with scales of f32", "others");
    };
    let zeros = zeros.unwrap_or_else(|| vec![0; scales.len()]);
    let (axis, length) = match scales.len() {
        1 => (0, 1),
        _ => {
            let axis = node.axis(node.int("axis", 1), tensor.dims.len())?;
            (axis, tensor.dims[axis])
        }
    };
    if scales.len() != length || zeros.len() != length {
        let got = format!("{} scales, {} zero points", scales.len(), zeros.len());
        return node.unsupported("x_scale", format!("{length} of each"), got);
    }
    let inner =
        if length == 1 { ints.len().max(1) } else { strides_of(&tensor.dims)[axis] as usize };
    let at = |i: usize| i / inner % length;
    let floats: Vec<f32> = ints
        .iter()
        .enumerate()
        .map(|(i, value)| value.wrapping_sub(zeros[at(i)]) as f32 * scales[at(i)])
        .collect();
    let result = Tensor::floats(tensor.dims.clone(), floats);
    let floats = |tensor: &Tensor| tensor.as_floats().cloned().unwrap_or_default();
    match tensor.as_bytes() {
        None => {
            let bias = ints.iter().map(|value| *value as i32).collect();
            importer.builder.origin(&floats(&result), Origin::Bias(bias));
        }
        Some((element, bytes)) => {
            let origin = |bytes: &[u8], outputs: usize| {
                let weights = QuantWeights::new(element, bytes, &scales, &zeros, outputs);
                weights.map(Origin::Weights)
            };
            let outputs = tensor.dims.first().copied().unwrap_or(0);
            if let Some(origin) = origin(bytes, outputs).filter(|_| length == 1 || axis == 0) {
                importer.builder.origin(&floats(&result), origin);
            }
            // A fully connected layer may keep its weights with the outputs last.
            if let [_, outputs] = tensor.dims[..] {
                let (bytes, numbers) = (transposed(&tensor, &[1, 0]), transposed(&result, &[1, 0]));
                let bytes = bytes.as_bytes().map_or(&[][..], |(_, bytes)| bytes);
                if let Some(origin) = origin(bytes, outputs).filter(|_| length == 1 || axis == 1) {
                    importer.builder.origin(&floats(&numbers), origin);
                }
            }
        }
    }
    Ok(result)
}
