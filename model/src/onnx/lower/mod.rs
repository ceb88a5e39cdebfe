//! Turns nodes of the file into layers, one file for each family of operators.

mod activation;
mod arithmetic;
mod join;
mod layout;
mod linear;
mod quant;
mod reduce;
mod resize;
mod select;
mod shape;
mod table;
mod window;

pub(super) use quant::dequantize_constant;
pub use table::{OPERATORS, Operator, Sharing};

pub(in crate::onnx) use super::dims::list;
use super::import::{Importer, Value};
use super::node::Node;
use super::tensor::Tensor;
use crate::error::ModelError;
use crate::graph::{MapId, Shape};
use crate::op::Op;

/// Adds the layers of a node and returns what its first outputs stand for.
pub(super) fn lower(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
) -> Result<Vec<Value>, ModelError> {
    if let Some(value) = layout::lower(importer, node)? {
        return Ok(vec![value]);
    }
    match table::find(node).map(|operator| operator.lowering) {
        Some(table::Lowering::Many(lower)) => lower(importer, node),
        _ => lower_one(importer, node).map(|map| vec![Value::Map(map)]),
    }
}

/// Whether an operator is known, be it of constants only.
pub(super) fn is_known(node: &Node<'_>) -> bool {
    table::find(node).is_some()
}

/// The layers of a node with one output.
fn lower_one(importer: &mut Importer<'_>, node: &Node<'_>) -> Result<MapId, ModelError> {
    match table::find(node).map(|operator| operator.lowering) {
        Some(table::Lowering::One(lower)) => lower(importer, node),
        _ => Err(unsupported_operator(node)),
    }
}

/// The error for an operator without a lowering, with advice for those that people meet.
pub(super) fn unsupported_operator(node: &Node<'_>) -> ModelError {
    let hint = match node.operator {
        "If" | "Loop" | "Scan" => Some("export with fixed shapes and simplify with onnxsim"),
        "ConvInteger" | "MatMulInteger" | "DynamicQuantizeLinear" => {
            Some("quantise statically: the scales of maps must be in the file")
        }
        "NonMaxSuppression" | "TopK" => {
            Some("export the model without its post-processing and do that on the output")
        }
        _ if is_known(node) => {
            Some("it may only compute with constants; simplify the file with onnxsim")
        }
        _ => None,
    };
    let operator = match node.proto.domain.as_deref() {
        None | Some("" | "ai.onnx") => node.operator.into(),
        Some(domain) => format!("{domain}::{}", node.operator).into(),
    };
    ModelError::UnsupportedOperator {
        operator,
        layer: node.name.into(),
        file: node.file.into(),
        hint: hint.map(Into::into),
    }
}

/// A map that spatial operators work on.
struct SpatialInput {
    map: MapId,
    /// Whether the file has it as `[1, channels, cols]`, so that the output must be so as well.
    is_1d: bool,
}

/// Input `index` as a spatial map; one row where the file has a 1-D map.
///
/// *Errors* for all other ranks and batches.
fn spatial_input(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
    index: usize,
) -> Result<SpatialInput, ModelError> {
    let map = importer.map(node, index)?;
    match *importer.builder.shape(map).dims() {
        [1, _, _, _] => Ok(SpatialInput { map, is_1d: false }),
        [1, channels, cols] => {
            let map = importer.reshape(node, map, &[1, channels, 1, cols])?;
            Ok(SpatialInput { map, is_1d: true })
        }
        ref dims => Err(not_spatial(node, dims)),
    }
}

fn not_spatial(node: &Node<'_>, dims: &[usize]) -> ModelError {
    let hint = match dims {
        [batch, _, _] | [batch, _, _, _] if *batch > 1 => Some(
            format!("batch {batch}: export with batch 1 and run the frames as a stream").into(),
        ),
        [_, _, _, _, _] => Some("3-D convolutions are not supported".into()),
        _ => None,
    };
    ModelError::UnsupportedShape {
        operator: node.operator.into(),
        layer: node.name.into(),
        file: node.file.into(),
        expected: "a map of [1, channels, rows, cols]".into(),
        got: format!("{dims:?}").into(),
        hint,
    }
}

/// Adds a spatial layer, and takes the row away again that [`spatial_input`] gave.
fn emit_spatial(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
    op: Op,
    input: SpatialInput,
    declared: Option<Shape>,
) -> Result<MapId, ModelError> {
    if !input.is_1d {
        return importer.emit(node, op, &[input.map], declared);
    }
    let map = importer.emit_helper(node, op, &[input.map], declared)?;
    let shape = importer.builder.shape(map);
    let dims = Shape::General(vec![1, shape.channels(), shape.cols()]);
    importer.emit(node, Op::Reshape, &[map], Some(dims))
}

/// A constant as one value for each channel of a spatial map, where broadcasting means just that.
fn per_channel(tensor: &Tensor, shape: &Shape) -> Option<Vec<f32>> {
    let (values, channels) = (tensor.as_floats()?, shape.channels());
    if tensor.dims.len() > 4 || !shape.is_spatial() {
        return None;
    }
    let mut dims = vec![1; 4 - tensor.dims.len()];
    dims.extend(&tensor.dims);
    match (dims.as_slice(), values.as_slice()) {
        ([1, 1, 1, 1], [value]) => Some(vec![*value; channels]),
        ([1, count, 1, 1], values) if *count == channels => Some(values.to_vec()),
        _ => None,
    }
}

/// A constant list of floats of a given length.
fn float_list(
    importer: &Importer<'_>,
    node: &Node<'_>,
    index: usize,
    what: &str,
    length: usize,
) -> Result<Vec<f32>, ModelError> {
    let tensor = importer.constant(node, index, what)?;
    match tensor.and_then(Tensor::as_floats) {
        Some(values) if values.len() == length => Ok(values.to_vec()),
        _ => node.unsupported(
            what,
            format!("a constant of {length} floats"),
            tensor.map_or("nothing".into(), |tensor| format!("dims {:?}", tensor.dims)),
        ),
    }
}
