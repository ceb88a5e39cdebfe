//! Layers that move elements without computing, and Softmax, whose axis is about the dims.

use crate::error::ModelError;
use crate::graph::{MapId, Shape};
use crate::onnx::dims::reshaped;
use crate::onnx::fold::permutation;
use crate::onnx::import::Importer;
use crate::onnx::node::Node;
use crate::op::Op;

type Lowered = Result<MapId, ModelError>;

pub(super) fn reshape(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    let map = importer.map(node, 0)?;
    let dims = importer.builder.shape(map).dims();
    let dims = reshaped(node, &dims, importer.constant(node, 1, "shape")?)?;
    importer.emit(node, Op::Reshape, &[map], Some(Shape::from_dims(&dims)))
}

pub(super) fn transpose(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    let map = importer.map(node, 0)?;
    let perm = permutation(node, importer.builder.shape(map).dims().len())?;
    importer.emit(node, Op::Transpose { perm }, &[map], None)
}

pub(super) fn softmax(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["axis"])?;
    let map = importer.map(node, 0)?;
    let dims = importer.builder.shape(map).dims();
    let flattens = node.opset < 13;
    let axis = node.axis(node.int("axis", if flattens { 1 } else { -1 }), dims.len())?;
    // Where all later axes have length 1, both meanings are the same.
    let flattened = flattens && dims[axis + 1..].iter().any(|dim| *dim > 1);
    importer.emit(node, Op::Softmax { axis, flattened }, &[map], None)
}
