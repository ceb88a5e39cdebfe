//! Reductions along axes, and normalisation by them.

use super::list;
use crate::error::ModelError;
use crate::graph::{MapId, Shape};
use crate::onnx::import::Importer;
use crate::onnx::node::Node;
use crate::op::{Activation, Op, PoolKind, ReduceKind};
use crate::weights::WeightId;
use crate::window::{Axes, Pads, Window};

type Lowered = Result<MapId, ModelError>;

pub(super) fn reduce(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["axes", "keepdims", "noop_with_empty_axes"])?;
    let map = importer.map(node, 0)?;
    let shape = importer.builder.shape(map).clone();
    let dims = shape.dims();
    let given = list(node, "axes", importer.constant(node, 1, "axes")?)?.unwrap_or_default();
    let mut axes = Vec::with_capacity(given.len());
    for axis in &given {
        axes.push(node.axis(*axis, dims.len())?);
    }
    axes.sort_unstable();
    axes.dedup();
    if axes.is_empty() {
        if node.int("noop_with_empty_axes", 0) != 0 {
            return node.unsupported("noop_with_empty_axes", "0", "1");
        }
        axes = (0..dims.len()).collect();
    }
    let op = match node.operator {
        "ReduceMean" if shape.is_spatial() && axes == [2, 3] => Op::global_average_pool(&shape),
        "ReduceMax" if shape.is_spatial() && axes == [2, 3] => global_max_pool(&shape),
        "ReduceMean" => Op::Reduce { kind: ReduceKind::Mean, axes: axes.clone() },
        "ReduceMax" => Op::Reduce { kind: ReduceKind::Max, axes: axes.clone() },
        "ReduceMin" => Op::Reduce { kind: ReduceKind::Min, axes: axes.clone() },
        _ => Op::Reduce { kind: ReduceKind::Sum, axes: axes.clone() },
    };
    if node.int("keepdims", 1) != 0 {
        return importer.emit(node, op, &[map], None);
    }
    let kept = dims.iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
    let kept: Vec<usize> = kept.map(|(_, dim)| *dim).collect();
    let reduced = importer.emit_helper(node, op, &[map], None)?;
    importer.emit(node, Op::Reshape, &[reduced], Some(Shape::from_dims(&kept)))
}

/// A window over the whole map.
pub(super) fn global_max_pool(shape: &Shape) -> Op {
    let window = Window {
        kernel: Axes::new(shape.rows(), shape.cols()),
        stride: Axes::new(1, 1),
        dilation: Axes::new(1, 1),
        pads: Pads::default(),
    };
    Op::Pool { window, kind: PoolKind::Max }
}

/// Over the last axis only; see [`layer_norm_op`] for channels.
pub(super) fn layer_norm(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    let map = importer.map(node, 0)?;
    let dims = importer.builder.shape(map).dims();
    let op = layer_norm_op(importer, node, &dims)?;
    if !importer.builder.shape(map).is_spatial() {
        return importer.emit(node, op, &[map], None);
    }
    // The last axis of a spatial map is not its channels: it is general for a moment.
    let general = importer.reshape(node, map, &dims[1..])?;
    let normal = importer.emit_helper(node, op, &[general], None)?;
    importer.emit(node, Op::Reshape, &[normal], Some(Shape::from_dims(&dims)))
}

/// A normalisation over the last of some dims.
pub(super) fn layer_norm_op(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
    dims: &[usize],
) -> Result<Op, ModelError> {
    node.allow(&["axis", "epsilon", "stash_type"])?;
    let axis = node.axis(node.int("axis", -1), dims.len())?;
    let length = dims[axis];
    if axis + 1 != dims.len() {
        return node.unsupported("axis", "the last one", axis.to_string());
    }
    let mut constant = |index: usize, what: &str| -> Result<WeightId, ModelError> {
        let values = match node.input(index) {
            // Only the shift may be left out; by then the scale has that length.
            None if index == 2 => vec![0.0; length],
            _ => super::float_list(importer, node, index, what, length)?,
        };
        importer.builder.weight(values, &[length])
    };
    let (scale, shift) = (constant(1, "Scale")?, constant(2, "B")?);
    Ok(Op::LayerNorm { scale, shift, epsilon: node.float("epsilon", 1e-5) })
}

/// Normalises all elements of each channel, then scales and shifts by channel.
pub(super) fn instance_norm(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["epsilon"])?;
    let map = importer.map(node, 0)?;
    let shape = importer.builder.shape(map).clone();
    let dims = shape.dims();
    let &[1, channels, ..] = dims.as_slice() else {
        return node.bad_shape("a map of [1, channels, ..]", format!("{dims:?}"));
    };
    let length = shape.elements() / channels;
    let gamma = super::float_list(importer, node, 1, "scale", channels)?;
    let beta = super::float_list(importer, node, 2, "B", channels)?;
    // Ones and zeros for each element, and perhaps a scale and a shift.
    importer.spend(node, shape.elements().saturating_add(length))?;
    let rows = importer.reshape(node, map, &[channels, length])?;
    let norm = Op::LayerNorm {
        scale: importer.builder.weight(vec![1.0; length], &[length])?,
        shift: importer.builder.weight(vec![0.0; length], &[length])?,
        epsilon: node.float("epsilon", 1e-5),
    };
    let normal = importer.emit_helper(node, norm, &[rows], None)?;
    // Where there are no channels to a map's memory, each of its elements is one.
    let each = if shape.is_spatial() { 1 } else { length };
    let spread = |values: Vec<f32>| -> Vec<f32> {
        values.into_iter().flat_map(|value| std::iter::repeat_n(value, each)).collect()
    };
    let is_plain = gamma.iter().all(|g| *g == 1.0) && beta.iter().all(|b| *b == 0.0);
    if is_plain {
        return importer.emit(node, Op::Reshape, &[normal], Some(shape));
    }
    let normal = importer.reshape(node, normal, &dims)?;
    let op = Op::ChannelAffine {
        scale: importer.builder.weight(spread(gamma), &[channels * each])?,
        shift: importer.builder.weight(spread(beta), &[channels * each])?,
        activation: Activation::None,
    };
    importer.emit(node, op, &[normal], None)
}
