//! Layers that take some places along an axis: slices, splits, gathers, and repeats.

use crate::error::ModelError;
use crate::graph::{MapId, Shape};
use crate::infer::broadcast;
use crate::limits;
use crate::onnx::fold::{cuts, split_parts};
use crate::onnx::import::{Importer, Value};
use crate::onnx::node::Node;
use crate::op::{Activation, Op};

type Lowered = Result<MapId, ModelError>;

/// Places along one axis, by a rule.
///
/// *Errors*: with those before they are more than a file may ask for.
pub(super) fn places(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
    count: usize,
    place: impl Fn(usize) -> usize,
) -> Result<Vec<u32>, ModelError> {
    importer.spend(node, count)?;
    Ok((0..count).map(|i| place(i) as u32).collect())
}

pub(super) fn slice(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["starts", "ends", "axes"])?;
    let map = importer.map(node, 0)?;
    let dims = importer.builder.shape(map).dims();
    let cuts = {
        let what = ["starts", "ends", "axes", "steps"];
        let mut constants = [None; 4];
        for (index, constant) in constants.iter_mut().enumerate() {
            *constant = importer.constant(node, index + 1, what[index])?;
        }
        cuts(node, &dims, constants)?
    };
    let selections = cuts.iter().filter(|cut| cut.step != 1 || cut.count != dims[cut.axis]);
    let selections = selections.map(|cut| {
        let place = |i: usize| (cut.start + i as i64 * cut.step) as usize;
        Ok((cut.axis, places(importer, node, cut.count, place)?))
    });
    let selections = selections.collect::<Result<_, _>>()?;
    chain(importer, node, map, selections)
}

pub(super) fn split(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
) -> Result<Vec<Value>, ModelError> {
    let map = importer.map(node, 0)?;
    let dims = importer.builder.shape(map).dims();
    let (axis, parts) = split_parts(node, &dims, importer.constant(node, 1, "split")?)?;
    let mut values = Vec::with_capacity(parts.len());
    for (index, (start, length)) in parts.into_iter().enumerate() {
        let indices = places(importer, node, length, |i| start + i)?;
        let op = Op::Select { axis, indices };
        values.push(Value::Map(importer.emit_output(node, index, op, &[map], None)?));
    }
    Ok(values)
}

/// With indices that are known.
pub(super) fn gather(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["axis"])?;
    let map = importer.map(node, 0)?;
    let dims = importer.builder.shape(map).dims();
    let axis = node.axis(node.int("axis", 0), dims.len())?;
    let Some(tensor) = importer.constant(node, 1, "indices")?.cloned() else {
        return node.unsupported("indices", "a constant", "none");
    };
    let Some(list) = tensor.as_ints() else {
        return node.unsupported("indices", "integers", "floats");
    };
    let mut indices = Vec::with_capacity(list.len());
    for index in list {
        indices.push(node.axis(*index, dims[axis])? as u32);
    }
    if tensor.dims.len() == 1 {
        return importer.emit(node, Op::Select { axis, indices }, &[map], None);
    }
    let selected = importer.emit_helper(node, Op::Select { axis, indices }, &[map], None)?;
    let dims = [&dims[..axis], &tensor.dims, &dims[axis + 1..]].concat();
    importer.emit(node, Op::Reshape, &[selected], Some(Shape::from_dims(&dims)))
}

/// Repeats along axes of length 1.
pub(super) fn expand(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&[])?;
    let map = importer.map(node, 0)?;
    let dims = importer.builder.shape(map).dims();
    let Some(target) = importer.constant(node, 1, "shape")?.cloned() else {
        return node.unsupported("shape", "a constant", "none");
    };
    let target = node.int_list("shape", &target)?;
    let lengths: Option<Vec<usize>> = target.iter().map(|l| usize::try_from(*l).ok()).collect();
    let Some(lengths) = lengths.filter(|l| limits::elements(l).is_some_and(|count| count > 0))
    else {
        return node.bad_shape("lengths from 1", format!("{target:?}"));
    };
    let to = broadcast(&dims, &lengths).map_err(|mismatch| node.mismatch(mismatch))?;
    let from = [vec![1; to.len() - dims.len()], dims].concat();
    let map = importer.reshape(node, map, &from)?;
    let repeated = (0..to.len()).filter(|axis| from[*axis] != to[*axis]);
    let selections = repeated.map(|axis| Ok((axis, places(importer, node, to[axis], |_| 0)?)));
    let selections = selections.collect::<Result<_, _>>()?;
    chain(importer, node, map, selections)
}

/// The whole some times over along each axis.
pub(super) fn tile(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&[])?;
    let map = importer.map(node, 0)?;
    let dims = importer.builder.shape(map).dims();
    let Some(repeats) = importer.constant(node, 1, "repeats")?.cloned() else {
        return node.unsupported("repeats", "a constant", "none");
    };
    let repeats = node.int_list("repeats", &repeats)?;
    let times: Option<Vec<usize>> = repeats.iter().map(|t| usize::try_from(*t).ok()).collect();
    let lengths = times.filter(|times| times.len() == dims.len()).and_then(|times| {
        let product = |(dim, times): (&usize, &usize)| dim.checked_mul(*times);
        dims.iter().zip(&times).map(product).collect::<Option<Vec<usize>>>()
    });
    // Before anything is made of that size.
    let Some(to) = lengths.filter(|l| limits::elements(l).is_some_and(|count| count > 0)) else {
        return node
            .bad_shape(format!("a repeat from 1 for each of {dims:?}"), format!("{repeats:?}"));
    };
    let repeated = (0..to.len()).filter(|axis| dims[*axis] != to[*axis]);
    let selections =
        repeated.map(|axis| Ok((axis, places(importer, node, to[axis], |at| at % dims[axis])?)));
    let selections = selections.collect::<Result<_, _>>()?;
    chain(importer, node, map, selections)
}

/// One selection after the other; the last one is the node's own layer.
pub(super) fn chain(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
    mut map: MapId,
    mut selections: Vec<(usize, Vec<u32>)>,
) -> Lowered {
    let Some((axis, indices)) = selections.pop() else {
        return importer.emit(node, Op::Activate(Activation::None), &[map], None);
    };
    for (axis, indices) in selections {
        map = importer.emit_helper(node, Op::Select { axis, indices }, &[map], None)?;
    }
    importer.emit(node, Op::Select { axis, indices }, &[map], None)
}
