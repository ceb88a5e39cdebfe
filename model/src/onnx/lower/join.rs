//! Concatenation along any axis.

use crate::error::ModelError;
use crate::graph::{MapId, Shape};
use crate::onnx::import::Importer;
use crate::onnx::node::Node;
use crate::op::{Activation, Op};

pub(super) fn concat(importer: &mut Importer<'_>, node: &Node<'_>) -> Result<MapId, ModelError> {
    node.allow(&["axis"])?;
    let mut maps = Vec::with_capacity(node.proto.input.len());
    for index in 0..node.proto.input.len() {
        maps.push(importer.map(node, index)?);
    }
    let Some(first) = maps.first() else {
        return node.unsupported("inputs", "1 or more", "none");
    };
    let first = importer.builder.shape(*first).clone();
    let dims = first.dims();
    let axis = node.axis(node.int("axis", 1), dims.len())?;
    if maps.len() == 1 {
        return importer.emit(node, Op::Activate(Activation::None), &maps, None);
    }
    if first.is_spatial() && axis == 1 {
        return importer.emit(node, Op::Concat, &maps, None);
    }
    if dims.len() != 4 || (axis > 0 && !first.is_spatial()) {
        return importer.emit(node, Op::ConcatGeneral { axis }, &maps, None);
    }
    // Spatial maps have no other axis to join along, so that they are general for a moment: rows
    // and columns of [channels, rows, cols], and the batch as more channels.
    let mut total = 0usize;
    let mut general = Vec::with_capacity(maps.len());
    for map in maps {
        let more = importer.builder.shape(map).dims();
        let &[batch, channels, rows, cols] = more.as_slice() else {
            return node.bad_shape(format!("dims as {dims:?}"), format!("{more:?}"));
        };
        let fits = (0..4).all(|i| i == axis || more[i] == dims[i]);
        if !fits {
            return node.bad_shape(format!("dims as {dims:?}"), format!("{more:?}"));
        }
        total += more[axis];
        general.push(importer.reshape(node, map, &[batch * channels, rows, cols])?);
    }
    let mut result = dims;
    result[axis] = total;
    let op = Op::ConcatGeneral { axis: axis.saturating_sub(1) };
    let joined = importer.emit_helper(node, op, &general, None)?;
    importer.emit(node, Op::Reshape, &[joined], Some(Shape::from_dims(&result)))
}
