//! Fully connected layers and matrix products.

use crate::error::ModelError;
use crate::graph::{MapId, Shape};
use crate::onnx::elements::transposed;
use crate::onnx::import::{Importer, Value};
use crate::onnx::node::Node;
use crate::onnx::tensor::Tensor;
use crate::op::{Activation, CombineKind, Op};

type Lowered = Result<MapId, ModelError>;

pub(super) fn gemm(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&["alpha", "beta", "transA", "transB"])?;
    let (alpha, beta) = (node.float("alpha", 1.0), node.float("beta", 1.0));
    let mut left = importer.map(node, 0)?;
    let dims = importer.builder.shape(left).dims();
    if dims.len() != 2 {
        return node.bad_shape("a matrix", format!("{dims:?}"));
    }
    if node.int("transA", 0) != 0 {
        left = importer.emit_helper(node, Op::Transpose { perm: vec![1, 0] }, &[left], None)?;
    }
    let rows = importer.builder.shape(left).dims()[0];
    let is_transposed = node.int("transB", 0) != 0;
    let Value::Constant(matrix) = importer.value(node, 1)?.clone() else {
        return gemm_of_maps(importer, node, left, is_transposed);
    };
    let [a, b] = matrix_dims(node, &matrix)?;
    let out = if is_transposed { a } else { b };
    let matrix = if is_transposed { matrix } else { transposed(&matrix, &[1, 0]) };
    let matrix = scaled(&matrix, alpha);
    let addend = match node.input(2) {
        None => None,
        Some(_) => Some(importer.value(node, 2)?.clone()),
    };
    // One value for each output, the same in each row, is a bias.
    let bias = match &addend {
        Some(Value::Constant(tensor)) => row_bias(tensor, rows, out).map(|b| times(&b, beta)),
        _ => None,
    };
    let is_done = bias.is_some() || addend.is_none();
    let bias = bias.map(|bias| importer.builder.weight(bias, &[out])).transpose()?;
    let op = linear_op(importer, node, &matrix, bias)?;
    if is_done {
        return importer.emit(node, op, &[left], None);
    }
    let product = importer.emit_helper(node, op, &[left], None)?;
    add_c(importer, node, product)
}

/// Both factors change from frame to frame.
fn gemm_of_maps(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
    left: MapId,
    is_transposed: bool,
) -> Lowered {
    if node.float("alpha", 1.0) != 1.0 {
        return node.unsupported("alpha", "1 where B is no constant", "another");
    }
    let mut right = importer.map(node, 1)?;
    if is_transposed {
        right = importer.emit_helper(node, Op::Transpose { perm: vec![1, 0] }, &[right], None)?;
    }
    if node.input(2).is_none() {
        return importer.emit(node, Op::MatMul, &[left, right], None);
    }
    let product = importer.emit_helper(node, Op::MatMul, &[left, right], None)?;
    add_c(importer, node, product)
}

/// Adds input `C` of a Gemm to its product.
fn add_c(importer: &mut Importer<'_>, node: &Node<'_>, product: MapId) -> Lowered {
    let beta = node.float("beta", 1.0);
    let addend = match importer.value(node, 2)?.clone() {
        Value::Constant(tensor) => {
            let dims = if tensor.dims.is_empty() { vec![1] } else { tensor.dims.clone() };
            let name = node.input(2).unwrap_or_default().to_owned();
            let name = if beta == 1.0 { name } else { format!("{name}*{beta}") };
            importer.constant_map(node, &name, &scaled(&tensor.with_dims(dims), beta))?
        }
        Value::Map(_) | Value::ChannelsLast(_) if beta == 1.0 => importer.map(node, 2)?,
        Value::Map(_) | Value::ChannelsLast(_) => {
            return node.unsupported("beta", "1 where C is no constant", "another");
        }
    };
    let op = Op::Combine { kind: CombineKind::Add, activation: Activation::None };
    importer.emit(node, op, &[product, addend], None)
}

pub(super) fn matmul(importer: &mut Importer<'_>, node: &Node<'_>) -> Lowered {
    node.allow(&[])?;
    let (left_dims, right_dims) = (importer.dims(node, 0)?, importer.dims(node, 1)?);
    if left_dims.len() < 2 || right_dims.len() < 2 {
        return node.bad_shape("2 or more dims", format!("{left_dims:?} and {right_dims:?}"));
    }
    let left = without_batch(importer, node, 0)?;
    let constant = match importer.value(node, 1)? {
        Value::Constant(tensor) if tensor.dims.len() == 2 => Some(tensor.clone()),
        _ => None,
    };
    let (op, inputs) = match constant {
        Some(matrix) => {
            matrix_dims(node, &matrix)?;
            (linear_op(importer, node, &transposed(&matrix, &[1, 0]), None)?, vec![left])
        }
        None => (Op::MatMul, vec![left, without_batch(importer, node, 1)?]),
    };
    let is_spatial = |dims: &[usize]| matches!(*dims, [1, _, _, _]);
    let had_batch = left_dims.len().max(right_dims.len()) == 4
        && (is_spatial(&left_dims) || is_spatial(&right_dims));
    if !had_batch {
        return importer.emit(node, op, &inputs, None);
    }
    // The product of [1, a, b, c] was made without the leading 1, which comes back here.
    let product = importer.emit_helper(node, op, &inputs, None)?;
    let dims = importer.builder.shape(product).dims();
    let dims = if dims.len() == 3 { [vec![1], dims].concat() } else { dims };
    importer.emit(node, Op::Reshape, &[product], Some(Shape::from_dims(&dims)))
}

/// An input of a product, general: `[1, a, b, c]` becomes `[a, b, c]`.
fn without_batch(importer: &mut Importer<'_>, node: &Node<'_>, index: usize) -> Lowered {
    let map = importer.map(node, index)?;
    match *importer.builder.shape(map).dims() {
        [1, a, b, c] => importer.reshape(node, map, &[a, b, c]),
        _ => Ok(map),
    }
}

fn matrix_dims(node: &Node<'_>, tensor: &Tensor) -> Result<[usize; 2], ModelError> {
    match (tensor.dims.as_slice(), tensor.as_floats()) {
        (&[rows, cols], Some(values)) if !values.is_empty() => Ok([rows, cols]),
        _ => node.bad_shape("a constant f32 matrix", format!("{:?}", tensor.dims)),
    }
}

/// A layer for a matrix of `(out, in)`.
fn linear_op(
    importer: &mut Importer<'_>,
    node: &Node<'_>,
    matrix: &Tensor,
    bias: Option<crate::weights::WeightId>,
) -> Result<Op, ModelError> {
    let Some(values) = matrix.as_floats().cloned() else {
        return node.bad_shape("a constant f32 matrix", "integers");
    };
    let weights = importer.builder.weight(values, &matrix.dims)?;
    Ok(Op::Linear { weights, bias, activation: Activation::None })
}

fn row_bias(tensor: &Tensor, rows: usize, out: usize) -> Option<Vec<f32>> {
    let values = tensor.as_floats()?;
    match (tensor.dims.as_slice(), values.as_slice()) {
        ([] | [1] | [1, 1], [value]) => Some(vec![*value; out]),
        ([count] | [1, count], values) if *count == out => Some(values.to_vec()),
        ([r, 1], [value]) if *r == rows => Some(vec![*value; out]),
        _ => None,
    }
}

fn scaled(tensor: &Tensor, factor: f32) -> Tensor {
    match tensor.as_floats() {
        Some(values) if factor != 1.0 => Tensor::floats(tensor.dims.clone(), times(values, factor)),
        _ => tensor.clone(),
    }
}

fn times(values: &[f32], factor: f32) -> Vec<f32> {
    values.iter().map(|value| value * factor).collect()
}
