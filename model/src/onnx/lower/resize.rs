//! Layers that change the rows and columns of a map without a window, and LRN.

use super::{emit_spatial, not_spatial, spatial_input};
use crate::error::ModelError;
use crate::graph::{MapId, Shape};
use crate::onnx::dims::list;
use crate::onnx::import::Importer;
use crate::onnx::node::Node;
use crate::op::{DepthOrder, Op, ResizeCoordinates, ResizeMode};
use crate::window::{Axes, Pads};

type Lowered = Result<MapId, ModelError>;

pub(super) fn pad(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["mode", "pads", "value"])?;
    let mode = node.string("mode", "constant");
    if !matches!(mode, "constant" | "reflect" | "edge" | "wrap") {
        return node.unsupported("mode", "constant, reflect, edge or wrap", mode);
    }
    let map = importer.map(node, 0)?;
    let rank = importer.builder.shape(map).dims().len();
    let Some(ints) = list(node, "pads", importer.constant(node, 1, "pads")?)? else {
        return node.unsupported("pads", "constants", "none");
    };
    let axes = match importer.constant(node, 3, "axes")? {
        None => (0..rank).collect(),
        Some(axes) => {
            let mut counted = Vec::new();
            for axis in node.int_list("axes", axes)? {
                counted.push(node.axis(axis, rank)?);
            }
            counted
        }
    };
    if ints.len() != 2 * axes.len() {
        return node.unsupported(
            "pads",
            format!("{} numbers", 2 * axes.len()),
            format!("{ints:?}"),
        );
    }
    if !importer.builder.shape(map).is_spatial() && ints.iter().any(|pad| *pad != 0) {
        return Err(not_spatial(node, &importer.builder.shape(map).dims()));
    }
    let (mut before, mut after) = ([0usize; 4], [0usize; 4]);
    for (index, axis) in axes.iter().enumerate() {
        let ends = (usize::try_from(ints[index]), usize::try_from(ints[axes.len() + index]));
        match ends {
            (Ok(0), Ok(0)) => {}
            (Ok(first), Ok(last)) if *axis >= 2 => {
                // An axis may be listed twice; what is too much, the shape rule rejects.
                before[*axis] = before[*axis].saturating_add(first);
                after[*axis] = after[*axis].saturating_add(last);
            }
            _ => {
                let expected = "pads from 0, of rows and columns only";
                return node.unsupported("pads", expected, format!("{ints:?}"));
            }
        }
    }
    let value = match importer.constant(node, 2, "constant_value")? {
        None => node.float("value", 0.0),
        Some(tensor) => match tensor.as_floats().map(|values| values.as_slice()) {
            Some([value]) => *value,
            Some([]) => 0.0,
            _ => return node.unsupported("constant_value", "one float", "another"),
        },
    };
    let pads = Pads { top: before[2], left: before[3], bottom: after[2], right: after[3] };
    if pads == Pads::default() {
        let op = Op::Activate(crate::op::Activation::None);
        return importer.emit(node, op, &[map], None);
    }
    if mode != "constant" {
        return repeated(importer, node, map, mode, [before, after]);
    }
    importer.emit(node, Op::Pad { pads, value }, &[map], None)
}

/// Padding with rows and columns of the map itself.
fn repeated(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
    map: MapId,
    mode: &str,
    [before, after]: [[usize; 4]; 2],
) -> Lowered {
    let dims = importer.builder.shape(map).dims();
    let mut selections = Vec::new();
    for axis in [2, 3].into_iter().filter(|axis| before[*axis] + after[*axis] > 0) {
        let length = dims[axis];
        // Each reflection, and each turn around, is one length at most.
        let most = if mode == "reflect" { length - 1 } else { length };
        if mode != "edge" && before[axis].max(after[axis]) > most {
            let got = format!("{} and {}", before[axis], after[axis]);
            return node.unsupported("pads", format!("at most {most} for {length}"), got);
        }
        let last = length - 1;
        let place = |at: usize| match (at.checked_sub(before[axis]), mode) {
            (Some(inside), _) if inside < length => inside,
            (None, "reflect") => before[axis] - at,
            (Some(beyond), "reflect") => 2 * last - beyond,
            (None, "wrap") => length - (before[axis] - at),
            (Some(beyond), "wrap") => beyond - length,
            (None, _) => 0,
            (Some(_), _) => last,
        };
        let count = before[axis].saturating_add(length).saturating_add(after[axis]);
        selections.push((axis, super::select::places(importer, node, count, place)?));
    }
    super::select::chain(importer, node, map, selections)
}

pub(super) fn resize(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&[
        "antialias",
        "axes",
        "coordinate_transformation_mode",
        "cubic_coeff_a",
        "exclude_outside",
        "extrapolation_value",
        "height_scale",
        "keep_aspect_ratio_policy",
        "mode",
        "nearest_mode",
        "scales",
        "width_scale",
    ])?;
    for name in ["antialias", "exclude_outside"] {
        if node.int(name, 0) != 0 {
            return node.unsupported(name, "0", "1");
        }
    }
    let policy = node.string("keep_aspect_ratio_policy", "stretch");
    if policy != "stretch" {
        return node.unsupported("keep_aspect_ratio_policy", "stretch", policy);
    }
    let map = importer.map(node, 0)?;
    let Shape::Spatial { channels, rows, cols } = *importer.builder.shape(map) else {
        return Err(not_spatial(node, &importer.builder.shape(map).dims()));
    };
    // Before operator set 11 there was one way: no offset, and down for nearest.
    let is_old = node.operator == "Upsample" || node.opset < 11;
    let default = if is_old { "asymmetric" } else { "half_pixel" };
    let name = "coordinate_transformation_mode";
    let coordinates = match node.string(name, default) {
        "half_pixel" => ResizeCoordinates::HalfPixel,
        "pytorch_half_pixel" => ResizeCoordinates::PytorchHalfPixel,
        "asymmetric" => ResizeCoordinates::Asymmetric,
        "align_corners" => ResizeCoordinates::AlignCorners,
        other => {
            let expected = "half_pixel, pytorch_half_pixel, asymmetric or align_corners";
            return node.unsupported(name, expected, other);
        }
    };
    let default = if is_old { "floor" } else { "round_prefer_floor" };
    let mode = match (node.string("mode", "nearest"), node.string("nearest_mode", default)) {
        ("linear" | "bilinear", _) => ResizeMode::Bilinear,
        ("nearest", "floor") => ResizeMode::NearestFloor,
        ("nearest", "ceil") => ResizeMode::NearestCeil,
        ("nearest", "round_prefer_floor") => ResizeMode::NearestRoundPreferFloor,
        ("nearest", "round_prefer_ceil") => ResizeMode::NearestRoundPreferCeil,
        ("nearest", other) => return node.unsupported("nearest_mode", "a known one", other),
        (other, _) => return node.unsupported("mode", "nearest or linear", other),
    };
    let dims = [1, channels, rows, cols];
    let (scale, declared) = match sizes(importer, node)? {
        Some(sizes) => {
            let sizes = over_axes(node, "sizes", &sizes, &dims)?;
            let scale = Axes::new(sizes[2] as f32 / rows as f32, sizes[3] as f32 / cols as f32);
            (scale, Some(Shape::Spatial { channels, rows: sizes[2], cols: sizes[3] }))
        }
        None => {
            let scales = over_axes(node, "scales", &scales(importer, node)?, &[1.0; 4])?;
            (Axes::new(scales[2], scales[3]), None)
        }
    };
    importer.emit(node, Op::Resize { mode, coordinates, scale }, &[map], declared)
}

/// The output size, where the node gives one.
fn sizes(importer: &Importer<'_>, node: &Node<'_>) -> Result<Option<Vec<usize>>, ModelError> {
    let Some(tensor) = importer.constant(node, 3, "sizes")?.filter(|tensor| tensor.len() > 0)
    else {
        return Ok(None);
    };
    let ints = node.int_list("sizes", tensor)?;
    let sizes: Option<Vec<usize>> = ints.iter().map(|size| usize::try_from(*size).ok()).collect();
    match sizes {
        Some(sizes) => Ok(Some(sizes)),
        None => node.unsupported("sizes", "lengths", format!("{ints:?}")),
    }
}

fn scales(importer: &Importer<'_>, node: &Node<'_>) -> Result<Vec<f32>, ModelError> {
    if let Some(scales) = node.floats("scales") {
        return Ok(scales.to_vec());
    }
    // Operator set 11 put the region of interest before the scales.
    let index = if node.operator == "Resize" && node.opset >= 11 { 2 } else { 1 };
    match importer.constant(node, index, "scales")?.and_then(|tensor| tensor.as_floats()) {
        Some(scales) => Ok(scales.to_vec()),
        None => node.unsupported("scales", "a constant list of floats", "none"),
    }
}

/// The values of the axes that the node gives, in place of `default`; those of the first two axes
/// must be the default.
fn over_axes<T: Copy + PartialEq + std::fmt::Debug>(
    node: &Node<'_>,
    what: &str,
    values: &[T],
    default: &[T; 4],
) -> Result<[T; 4], ModelError> {
    let axes = node.ints("axes").unwrap_or(&[0, 1, 2, 3]);
    let mut result = *default;
    if values.len() != axes.len() {
        return node.unsupported(what, format!("{} numbers", axes.len()), format!("{values:?}"));
    }
    for (axis, value) in axes.iter().zip(values) {
        result[node.axis(*axis, 4)?] = *value;
    }
    if result[..2] != default[..2] {
        return node.unsupported(what, "rows and columns only to change", format!("{values:?}"));
    }
    Ok(result)
}

pub(super) fn blocks(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["blocksize", "mode"])?;
    let input = spatial_input(importer, node, 0)?;
    if input.is_1d {
        return Err(not_spatial(node, &importer.dims(node, 0)?));
    }
    let block = usize::try_from(node.int("blocksize", 0)).unwrap_or(0);
    let op = match (node.operator, node.string("mode", "DCR")) {
        ("SpaceToDepth", "DCR") => Op::SpaceToDepth { block },
        ("SpaceToDepth", other) => return node.unsupported("mode", "DCR", other),
        (_, "DCR") => Op::DepthToSpace { block, order: DepthOrder::Dcr },
        (_, "CRD") => Op::DepthToSpace { block, order: DepthOrder::Crd },
        (_, other) => return node.unsupported("mode", "DCR or CRD", other),
    };
    emit_spatial(importer, node, op, input, None)
}

pub(super) fn lrn(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["alpha", "beta", "bias", "size"])?;
    let input = spatial_input(importer, node, 0)?;
    let op = Op::Lrn {
        size: usize::try_from(node.int("size", 0)).unwrap_or(0),
        alpha: node.float("alpha", 1e-4),
        beta: node.float("beta", 0.75),
        bias: node.float("bias", 1.0),
    };
    emit_spatial(importer, node, op, input, None)
}
