//! Convolutions and pools.

use super::{SpatialInput, emit_spatial, float_list, not_spatial, quant, spatial_input};
use crate::error::ModelError;
use crate::graph::{MapId, Shape};
use crate::infer::pooled_up;
use crate::onnx::dims::list;
use crate::onnx::import::Importer;
use crate::onnx::node::Node;
use crate::op::{Activation, Axes, Op, Pads, PoolKind, Window};

type Lowered = Result<MapId, ModelError>;

pub(super) fn conv(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"])?;
    let input = spatial_input(importer, node, 0)?;
    let Some(kernel) = importer.constant(node, 1, "weights")?.cloned() else {
        return node.unsupported("weights", "a constant", "none");
    };
    let mut dims = kernel.dims.clone();
    if input.is_1d && dims.len() == 3 {
        dims.insert(2, 1);
    }
    let (Some(values), &[out, _, rows, cols]) = (kernel.as_floats(), dims.as_slice()) else {
        return node.bad_shape("f32 weights of 4 dims", format!("{:?}", kernel.dims));
    };
    if values.is_empty() {
        return node.bad_shape("weights with elements", format!("{:?}", kernel.dims));
    }
    let given = kernel_shape(node, &input)?;
    if given.is_some_and(|given| given != Axes::new(rows, cols)) {
        return node.unsupported("kernel_shape", format!("{rows}x{cols}"), format!("{given:?}"));
    }
    let window = window(importer, node, &input, Axes::new(rows, cols))?;
    let groups = usize::try_from(node.int("group", 1)).unwrap_or(0);
    let bias = match importer.constant(node, 2, "bias")? {
        None => None,
        Some(_) => {
            let bias = float_list(importer, node, 2, "bias", out)?;
            Some(importer.builder.weight(bias, &[out])?)
        }
    };
    let weights = importer.builder.weight(values.clone(), &dims)?;
    let op = Op::Conv { window, groups, weights, bias, activation: Activation::None };
    emit_spatial(importer, node, op, input, None)
}

pub(super) fn qlinear_conv(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"])?;
    let input = spatial_input(importer, node, 0)?;
    let mut kernel = quant::weights(importer, node, 3)?;
    if input.is_1d && kernel.dims.len() == 3 {
        kernel.dims.insert(2, 1);
    }
    let &[_, _, rows, cols] = kernel.dims.as_slice() else {
        return node.bad_shape("weights of 4 dims", format!("{:?}", kernel.dims));
    };
    let given = kernel_shape(node, &input)?;
    if given.is_some_and(|given| given != Axes::new(rows, cols)) {
        return node.unsupported("kernel_shape", format!("{rows}x{cols}"), format!("{given:?}"));
    }
    let window = window(importer, node, &input, Axes::new(rows, cols))?;
    let groups = usize::try_from(node.int("group", 1)).unwrap_or(0);
    let places = quant::Places { input: 1, weights: 4, bias: 8, output: 6 };
    let product = quant::product(importer, node, &kernel, places)?;
    emit_spatial(importer, node, Op::QConv { window, groups, product }, input, None)
}

pub(super) fn pool(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    let input = spatial_input(importer, node, 0)?;
    let (op, declared) = pool_op(importer, node, &input)?;
    emit_spatial(importer, node, op, input, declared)
}

/// The operator of a pool, and its output where it is to be rounded up.
pub(super) fn pool_op(
    importer: &Importer<'_>,
    node: &Node<'_>,
    input: &SpatialInput,
) -> Result<(Op, Option<Shape>), ModelError> {
    node.allow(&[
        "auto_pad",
        "ceil_mode",
        "channels_last",
        "count_include_pad",
        "dilations",
        "kernel_shape",
        "pads",
        "storage_order",
        "strides",
    ])?;
    let Some(kernel) = kernel_shape(node, input)? else {
        return node.unsupported("kernel_shape", "a shape", "none");
    };
    let window = window(importer, node, input, kernel)?;
    let kind = match node.operator {
        "MaxPool" => PoolKind::Max,
        _ => PoolKind::Average { count_padding: node.int("count_include_pad", 0) != 0 },
    };
    let declared = match (node.int("ceil_mode", 0), node.string("auto_pad", "NOTSET")) {
        (0, _) => None,
        (_, "NOTSET" | "") => {
            let rounded = pooled_up(importer.builder.shape(input.map), &window);
            Some(rounded.map_err(|mismatch| node.mismatch(mismatch))?)
        }
        (_, auto_pad) => {
            return node.unsupported("auto_pad", "explicit pads with ceil_mode", auto_pad);
        }
    };
    Ok((Op::Pool { window, kind }, declared))
}

pub(super) fn global_max_pool(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&[])?;
    let input = spatial_input(importer, node, 0)?;
    let shape = importer.builder.shape(input.map);
    let window = Window {
        kernel: Axes::new(shape.rows(), shape.cols()),
        stride: Axes::new(1, 1),
        dilation: Axes::new(1, 1),
        pads: Pads::default(),
    };
    emit_spatial(importer, node, Op::Pool { window, kind: PoolKind::Max }, input, None)
}

pub(super) fn global_average_pool(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&[])?;
    let input = spatial_input(importer, node, 0)?;
    emit_spatial(importer, node, Op::GlobalAveragePool, input, None)
}

/// The mean over rows and columns, which PyTorch writes as a reduction.
pub(super) fn reduce_mean(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["axes", "keepdims", "noop_with_empty_axes"])?;
    let map = importer.map(node, 0)?;
    let shape = importer.builder.shape(map).clone();
    let given = list(node, "axes", importer.constant(node, 1, "axes")?)?;
    let mut axes = Vec::new();
    for axis in given.iter().flatten() {
        axes.push(node.axis(*axis, shape.dims().len())?);
    }
    axes.sort_unstable();
    if axes != [2, 3] {
        let expected = "the mean over rows and columns of [1, channels, rows, cols]";
        return node.unsupported("axes", expected, format!("{axes:?} of {:?}", shape.dims()));
    }
    if !shape.is_spatial() {
        return Err(not_spatial(node, &shape.dims()));
    }
    if node.int("keepdims", 1) != 0 {
        return importer.emit(node, Op::GlobalAveragePool, &[map], None);
    }
    let mean = importer.emit_helper(node, Op::GlobalAveragePool, &[map], None)?;
    let dims = Shape::General(vec![1, shape.channels()]);
    importer.emit(node, Op::Reshape, &[mean], Some(dims))
}

/// Two lengths, or one for a 1-D map, whose row is then `row`.
fn axes(
    node: &Node<'_>,
    name: &str,
    input: &SpatialInput,
    row: usize,
) -> Result<Axes<usize>, ModelError> {
    if input.is_1d {
        let [cols] = node.lengths(name, [1])?;
        return Ok(Axes::new(row, cols));
    }
    let [rows, cols] = node.lengths(name, [1, 1])?;
    Ok(Axes::new(rows, cols))
}

fn kernel_shape(node: &Node<'_>, input: &SpatialInput) -> Result<Option<Axes<usize>>, ModelError> {
    match node.ints("kernel_shape") {
        None => Ok(None),
        Some(_) => axes(node, "kernel_shape", input, 1).map(Some),
    }
}

fn window(
    importer: &Importer<'_>,
    node: &Node<'_>,
    input: &SpatialInput,
    kernel: Axes<usize>,
) -> Result<Window, ModelError> {
    let stride = axes(node, "strides", input, 1)?;
    let dilation = axes(node, "dilations", input, 1)?;
    let shape = importer.builder.shape(input.map);
    let same = || -> Option<Axes<usize>> {
        Some(Axes::new(
            same_padding(shape.rows(), kernel.rows, stride.rows, dilation.rows)?,
            same_padding(shape.cols(), kernel.cols, stride.cols, dilation.cols)?,
        ))
    };
    let half = |total: usize| (total / 2, total - total / 2);
    let pads = match node.string("auto_pad", "NOTSET") {
        "VALID" => Pads::default(),
        upper @ ("SAME_UPPER" | "SAME_LOWER") => {
            let Some(total) = same() else {
                return node.unsupported("strides", "at least 1", "0 or far too many");
            };
            let ((top, bottom), (left, right)) = (half(total.rows), half(total.cols));
            if upper == "SAME_UPPER" {
                Pads { top, left, bottom, right }
            } else {
                Pads { top: bottom, left: right, bottom: top, right: left }
            }
        }
        "NOTSET" | "" if input.is_1d => {
            let [left, right] = node.lengths("pads", [0, 0])?;
            Pads { top: 0, left, bottom: 0, right }
        }
        "NOTSET" | "" => {
            let [top, left, bottom, right] = node.lengths("pads", [0; 4])?;
            Pads { top, left, bottom, right }
        }
        other => {
            return node.unsupported("auto_pad", "NOTSET, SAME_UPPER, SAME_LOWER or VALID", other);
        }
    };
    Ok(Window { kernel, stride, dilation, pads })
}

/// The padding that gives `ceil(length / stride)` outputs; none when the numbers are out of range.
fn same_padding(length: usize, kernel: usize, stride: usize, dilation: usize) -> Option<usize> {
    let outputs = length.checked_add(stride.checked_sub(1)?)?.checked_div(stride)?;
    let extent = kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
    let reach = outputs.checked_sub(1)?.checked_mul(stride)?.checked_add(extent)?;
    Some(reach.saturating_sub(length))
}

#[cfg(test)]
mod tests {
    use super::same_padding;

    #[test]
    fn same_padding_by_hand() {
        assert_eq!(same_padding(224, 3, 2, 1), Some(1));
        assert_eq!(same_padding(225, 3, 2, 1), Some(2));
        assert_eq!(same_padding(8, 3, 1, 2), Some(4));
        assert_eq!(same_padding(8, 1, 2, 1), Some(0));
        assert_eq!(same_padding(8, 3, 0, 1), None);
        assert_eq!(same_padding(8, usize::MAX, 1, usize::MAX), None);
    }
}
