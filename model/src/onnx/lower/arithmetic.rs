//! Arithmetic over maps, and of maps with constants.

use super::{emit_spatial, float_list, not_spatial, per_channel, spatial_input};
use crate::error::ModelError;
use crate::graph::{MapId, Shape};
use crate::infer::broadcast;
use crate::onnx::elements::broadcast_to;
use crate::onnx::import::{Importer, Value};
use crate::onnx::node::Node;
use crate::onnx::tensor::Tensor;
use crate::op::{Activation, CombineKind, Op};

type Lowered = Result<MapId, ModelError>;

/// Elements up to which a constant beside a general map becomes one scale and shift for each.
const AFFINE_ELEMENTS_MAX: usize = 1 << 16;

pub(super) fn batch_normalization(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["epsilon", "momentum", "spatial", "training_mode"])?;
    if node.int("training_mode", 0) != 0 {
        return node.unsupported("training_mode", "0", "1");
    }
    if node.int("spatial", 1) != 1 {
        return node.unsupported("spatial", "1", "0");
    }
    let dims = importer.dims(node, 0)?;
    let (input, channels) = match *dims {
        // After a fully connected layer.
        [1, channels] => {
            let map = importer.map(node, 0)?;
            (super::SpatialInput { map, is_1d: false }, channels)
        }
        [1, channels, ..] => (spatial_input(importer, node, 0)?, channels),
        _ => return Err(not_spatial(node, &dims)),
    };
    let gamma = float_list(importer, node, 1, "scale", channels)?;
    let beta = float_list(importer, node, 2, "B", channels)?;
    let mean = float_list(importer, node, 3, "input_mean", channels)?;
    let variance = float_list(importer, node, 4, "input_var", channels)?;
    let epsilon = f64::from(node.float("epsilon", 1e-5));
    let (mut scale, mut shift) = (Vec::with_capacity(channels), Vec::with_capacity(channels));
    for channel in 0..channels {
        // In f64, so that the constants are rounded once.
        let factor = f64::from(gamma[channel]) / (f64::from(variance[channel]) + epsilon).sqrt();
        scale.push(factor as f32);
        // A mean of 0 must leave the sign of a zero alone.
        shift.push(match mean[channel] {
            0.0 => beta[channel],
            mean => (f64::from(beta[channel]) - f64::from(mean) * factor) as f32,
        });
    }
    let op = channel_affine(importer, scale, shift)?;
    emit_spatial(importer, node, op, input, None)
}

pub(super) fn arithmetic(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&[])?;
    let kind = match node.operator {
        "Min" => CombineKind::Min,
        "Max" => CombineKind::Max,
        "Add" | "Sum" => CombineKind::Add,
        "Mul" => CombineKind::Mul,
        "Sub" => CombineKind::Sub,
        _ => CombineKind::Div,
    };
    let count = node.proto.input.len();
    let any_number = matches!(node.operator, "Sum" | "Min" | "Max");
    if any_number && count == 1 {
        let map = importer.map(node, 0)?;
        return importer.emit(node, Op::Activate(Activation::None), &[map], None);
    }
    if count < 2 || (!any_number && count != 2) {
        return node.unsupported("inputs", "2", count.to_string());
    }
    if count == 2 {
        let values = (importer.value(node, 0)?.clone(), importer.value(node, 1)?.clone());
        let affine = match values {
            (Value::Map(map), Value::Constant(constant)) => {
                affine(importer, map, &constant, kind, Side::Right).map(|affine| (map, affine))
            }
            (Value::Constant(constant), Value::Map(map)) => {
                affine(importer, map, &constant, kind, Side::Left).map(|affine| (map, affine))
            }
            _ => None,
        };
        if let Some((map, (scale, shift))) = affine {
            let op = channel_affine(importer, scale, shift)?;
            return importer.emit(node, op, &[map], None);
        }
    }
    combine(importer, node, kind)
}

pub(super) fn negative(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&[])?;
    let map = importer.map(node, 0)?;
    let channels = importer.builder.shape(map).channels();
    importer.spend(node, channels)?;
    let op = channel_affine(importer, vec![-1.0; channels], vec![0.0; channels])?;
    importer.emit(node, op, &[map], None)
}

pub(super) fn reciprocal(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&[])?;
    let map = importer.map(node, 0)?;
    let rank = importer.builder.shape(map).dims().len();
    let one = Tensor::floats(vec![1; rank.max(1)], vec![1.0]);
    let one = importer.constant_map(node, "one", &one)?;
    let op = Op::Combine { kind: CombineKind::Div, activation: Activation::None };
    importer.emit(node, op, &[one, map], None)
}

/// A power with a constant exponent that takes no logarithm.
pub(super) fn power(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&[])?;
    let map = importer.map(node, 0)?;
    let exponent = importer.constant(node, 1, "exponent")?;
    let exponent = exponent.filter(|tensor| tensor.len() == 1).and_then(|tensor| {
        let int = tensor.to_ints().and_then(|ints| ints.first().map(|int| *int as f32));
        int.or_else(|| tensor.as_floats().and_then(|floats| floats.first().copied()))
    });
    let product = Op::Combine { kind: CombineKind::Mul, activation: Activation::None };
    match exponent {
        Some(1.0) => importer.emit(node, Op::Activate(Activation::None), &[map], None),
        Some(0.5) => importer.emit(node, Op::Activate(Activation::Sqrt), &[map], None),
        Some(2.0) => importer.emit(node, product, &[map, map], None),
        Some(3.0) => importer.emit(node, product, &[map, map, map], None),
        Some(other) => node.unsupported("exponent", "0.5, 1, 2 or 3", other.to_string()),
        None => node.unsupported("exponent", "one constant number", "others"),
    }
}

/// On which side of the operator the constant is.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Left,
    Right,
}

/// Scale and shift that do the same as the arithmetic with a constant, where there are such.
fn affine(
    importer: &Importer<'_>,
    map: MapId,
    constant: &Tensor,
    kind: CombineKind,
    side: Side,
) -> Option<(Vec<f32>, Vec<f32>)> {
    let shape = importer.builder.shape(map);
    let values = match shape {
        Shape::Spatial { .. } => per_channel(constant, shape)?,
        Shape::General(dims) => {
            // A general map is one position, so that each element is a channel of its own.
            constant.as_floats()?;
            let fits = shape.channels() <= AFFINE_ELEMENTS_MAX
                && broadcast(&constant.dims, dims).is_ok_and(|result| result == *dims);
            fits.then_some(())?;
            broadcast_to(constant, dims.clone()).as_floats()?.to_vec()
        }
    };
    let same = |value: f32| vec![value; values.len()];
    Some(match (kind, side) {
        (CombineKind::Add, _) => (same(1.0), values),
        (CombineKind::Mul, _) => {
            let zeros = same(0.0);
            (values, zeros)
        }
        (CombineKind::Sub, Side::Right) => (same(1.0), values.iter().map(|value| -value).collect()),
        (CombineKind::Sub, Side::Left) => (same(-1.0), values),
        (CombineKind::Div, Side::Right) => {
            let inverse: Vec<f32> = values.iter().map(|value| value.recip()).collect();
            // A division by 0 keeps its meaning only as a division.
            inverse.iter().all(|value| value.is_normal()).then_some(())?;
            (inverse, same(0.0))
        }
        (CombineKind::Div, Side::Left) | (CombineKind::Max | CombineKind::Min, _) => return None,
    })
}

fn channel_affine(
    importer: &mut Importer<'_>,
    scale: Vec<f32>,
    shift: Vec<f32>,
) -> Result<Op, ModelError> {
    let channels = scale.len();
    Ok(Op::ChannelAffine {
        scale: importer.builder.weight(scale, &[channels])?,
        shift: importer.builder.weight(shift, &[channels])?,
        activation: Activation::None,
    })
}

/// Arithmetic over maps, whose shapes are made all spatial or all general.
fn combine(importer: &mut Importer<'_>, node: &Node<'_>, kind: CombineKind) -> Lowered {
    let mut result = Vec::new();
    for index in 0..node.proto.input.len() {
        let dims = importer.dims(node, index)?;
        result = broadcast(&result, &dims).map_err(|mismatch| node.mismatch(mismatch))?;
    }
    let is_spatial = matches!(*result, [1, _, _, _]);
    let mut maps = Vec::with_capacity(node.proto.input.len());
    for index in 0..node.proto.input.len() {
        let dims = importer.dims(node, index)?;
        let dims = match *dims {
            // All inputs then have rank 4 or less and batch 1, which the left of the dims is.
            _ if is_spatial => [vec![1; 4 - dims.len()], dims].concat(),
            // The leading 1 broadcasts, so that it may as well be absent.
            [1, channels, rows, cols] => vec![channels, rows, cols],
            [] => vec![1],
            _ => dims,
        };
        maps.push(match importer.value(node, index)?.clone() {
            Value::Map(_) | Value::ChannelsLast(_) => {
                let map = importer.map(node, index)?;
                importer.reshape(node, map, &dims)?
            }
            Value::Constant(tensor) => {
                let name = node.input(index).unwrap_or_default();
                importer.constant_map(node, name, &tensor.with_dims(dims))?
            }
        });
    }
    importer.emit(node, Op::Combine { kind, activation: Activation::None }, &maps, None)
}
