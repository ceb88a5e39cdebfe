//! Convolutions and pools.

use super::{SpatialInput, emit_spatial, float_list, quant, spatial_input};
use crate::error::ModelError;
use crate::graph::{MapId, Shape};
use crate::infer::pooled_up;
use crate::onnx::import::Importer;
use crate::onnx::node::Node;
use crate::op::{Activation, Op, PoolKind};
use crate::weights::WeightId;
use crate::window::{Axes, Pads, Window};
use std::sync::Arc;

type Lowered = Result<MapId, ModelError>;

pub(super) fn conv(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"])?;
    let input = spatial_input(importer, node, 0)?;
    let filters = conv_weights(importer, node, &input)?;
    let window = window(importer, node, &input, filters.kernel())?;
    let groups = usize::try_from(node.int("group", 1)).unwrap_or(0);
    let bias = conv_bias(importer, node, filters.dims[0])?;
    let weights = importer.builder.weight(filters.values, &filters.dims)?;
    let op = Op::Conv { window, groups, weights, bias, activation: Activation::None };
    emit_spatial(importer, node, op, input, None)
}

/// The weights of a convolution.
struct Filters {
    values: Arc<Vec<f32>>,
    dims: [usize; 4],
}

impl Filters {
    fn kernel(&self) -> Axes<usize> {
        let [_, _, rows, cols] = self.dims;
        Axes::new(rows, cols)
    }
}

fn conv_weights(
    importer: &Importer<'_>,
    node: &Node<'_>,
    input: &SpatialInput,
) -> Result<Filters, ModelError> {
    let Some(kernel) = importer.constant(node, 1, "weights")? else {
        return node.unsupported("weights", "a constant", "none");
    };
    let mut dims = kernel.dims.clone();
    if input.is_1d && dims.len() == 3 {
        dims.insert(2, 1);
    }
    let (Some(values), Ok(dims)) = (kernel.as_floats(), <[usize; 4]>::try_from(dims)) else {
        return node.bad_shape("f32 weights of 4 dims", format!("{:?}", kernel.dims));
    };
    if values.is_empty() {
        return node.bad_shape("weights with elements", format!("{:?}", kernel.dims));
    }
    let filters = Filters { values: values.clone(), dims };
    let (given, Axes { rows, cols }) = (kernel_shape(node, input)?, filters.kernel());
    if given.is_some_and(|given| given != filters.kernel()) {
        return node.unsupported("kernel_shape", format!("{rows}x{cols}"), format!("{given:?}"));
    }
    Ok(filters)
}

fn conv_bias(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
    outputs: usize,
) -> Result<Option<WeightId>, ModelError> {
    if importer.constant(node, 2, "bias")?.is_none() {
        return Ok(None);
    }
    let bias = float_list(importer, node, 2, "bias", outputs)?;
    Ok(Some(importer.builder.weight(bias, &[outputs])?))
}

pub(super) fn conv_transpose(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&[
        "auto_pad",
        "dilations",
        "group",
        "kernel_shape",
        "output_padding",
        "output_shape",
        "pads",
        "strides",
    ])?;
    let input = spatial_input(importer, node, 0)?;
    let filters = conv_weights(importer, node, &input)?;
    let groups = usize::try_from(node.int("group", 1)).unwrap_or(0);
    let Some(outputs) = filters.dims[1].checked_mul(groups) else {
        return node.unsupported("group", "as many as channels at most", groups.to_string());
    };
    let (window, extra) = transposed_window(importer, node, &input, filters.kernel())?;
    let bias = conv_bias(importer, node, outputs)?;
    let weights = importer.builder.weight(filters.values, &filters.dims)?;
    let activation = Activation::None;
    let op = Op::ConvTranspose { window, extra, groups, weights, bias, activation };
    emit_spatial(importer, node, op, input, None)
}

/// The window of a transposed convolution, and how far its output goes beyond what it reaches.
///
/// Where the file gives the output's size, the padding follows from it: the larger half is that
/// before the map, except for SAME_UPPER.
fn transposed_window(
    importer: &Importer<'_>,
    node: &Node<'_>,
    input: &SpatialInput,
    kernel: Axes<usize>,
) -> Result<(Window, Axes<usize>), ModelError> {
    let stride = axes(node, "strides", input, 1)?;
    let dilation = axes(node, "dilations", input, 1)?;
    let extra = axes(node, "output_padding", input, 0)?;
    let shape = importer.builder.shape(input.map);
    let auto_pad = node.string("auto_pad", "NOTSET");
    let is_same = matches!(auto_pad, "SAME_UPPER" | "SAME_LOWER");
    let lengths = match node.ints("output_shape") {
        Some(_) => Some(axes(node, "output_shape", input, 1)?),
        None => is_same.then(|| {
            let times = |length: usize, stride: usize| length.saturating_mul(stride);
            Axes::new(times(shape.rows(), stride.rows), times(shape.cols(), stride.cols))
        }),
    };
    let Some(lengths) = lengths else {
        let pads = match auto_pad {
            "VALID" => Pads::default(),
            _ => declared_pads(node, input)?,
        };
        return Ok((Window { kernel, stride, dilation, pads }, extra));
    };
    let cut = |length: usize, axis: fn(&Axes<usize>) -> usize, wanted: usize| {
        let extra = axis(&extra);
        let spread = spread(length, axis(&kernel), axis(&stride), axis(&dilation))?;
        let spread = spread.checked_add(extra)?;
        let total = spread.saturating_sub(wanted);
        let half = total / 2;
        let ends =
            if auto_pad == "SAME_UPPER" { (half, total - half) } else { (total - half, half) };
        Some((ends, extra.checked_add(wanted.saturating_sub(spread))?))
    };
    let rows = cut(shape.rows(), |axes| axes.rows, lengths.rows);
    let cols = cut(shape.cols(), |axes| axes.cols, lengths.cols);
    let (Some(((top, bottom), below)), Some(((left, right), beside))) = (rows, cols) else {
        return node.unsupported("strides", "at least 1", "0 or far too many");
    };
    let pads = Pads { top, left, bottom, right };
    Ok((Window { kernel, stride, dilation, pads }, Axes::new(below, beside)))
}

/// The positions that a transposed convolution reaches; none when the numbers are out of range.
fn spread(length: usize, kernel: usize, stride: usize, dilation: usize) -> Option<usize> {
    let steps = length.checked_sub(1)?.checked_mul(stride)?;
    steps.checked_add(kernel.checked_sub(1)?.checked_mul(dilation)?)?.checked_add(1)
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
    let op = super::reduce::global_max_pool(importer.builder.shape(input.map));
    emit_spatial(importer, node, op, input, None)
}

pub(super) fn global_average_pool(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&[])?;
    let input = spatial_input(importer, node, 0)?;
    let op = Op::global_average_pool(importer.builder.shape(input.map));
    emit_spatial(importer, node, op, input, None)
}

/// Two lengths, or one for a 1-D map; `default` where the attribute or the row is absent.
fn axes(
    node: &Node<'_>,
    name: &str,
    input: &SpatialInput,
    default: usize,
) -> Result<Axes<usize>, ModelError> {
    if input.is_1d {
        let [cols] = node.lengths(name, [default])?;
        return Ok(Axes::new(default, cols));
    }
    let [rows, cols] = node.lengths(name, [default; 2])?;
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
        _ => declared_pads(node, input)?,
    };
    Ok(Window { kernel, stride, dilation, pads })
}

/// The padding that the file gives in numbers.
fn declared_pads(node: &Node<'_>, input: &SpatialInput) -> Result<Pads, ModelError> {
    match node.string("auto_pad", "NOTSET") {
        "NOTSET" | "" if input.is_1d => {
            let [left, right] = node.lengths("pads", [0, 0])?;
            Ok(Pads { top: 0, left, bottom: 0, right })
        }
        "NOTSET" | "" => {
            let [top, left, bottom, right] = node.lengths("pads", [0; 4])?;
            Ok(Pads { top, left, bottom, right })
        }
        other => node.unsupported("auto_pad", "NOTSET, SAME_UPPER, SAME_LOWER or VALID", other),
    }
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
