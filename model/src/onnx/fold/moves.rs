//! Constants whose elements move: gathered, cut, joined, repeated.

use super::{Budget, Fold, permutation};
use crate::error::ModelError;
use crate::infer::broadcast;
use crate::limits;
use crate::onnx::dims::list;
use crate::onnx::elements::{broadcast_to, join, select, strides_of, transposed, walk};
use crate::onnx::node::Node;
use crate::onnx::tensor::{Data, Tensor};
use std::sync::Arc;

impl Fold<'_> {
    pub(super) fn gather(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let (node, input, indices) = (self.node, self.input(0)?, self.input(1)?);
        let axis = node.axis(node.int("axis", 0), input.dims.len())?;
        let length = input.dims[axis];
        let Some(list) = indices.as_ints() else {
            return node.unsupported("indices", "integers", "floats");
        };
        let mut chosen = Vec::with_capacity(list.len());
        for index in list {
            chosen.push(node.axis(*index, length)?);
        }
        let dims = [&input.dims[..axis], &indices.dims, &input.dims[axis + 1..]].concat();
        let count = budget.spend(node, &dims)?;
        let inner: usize = input.dims[axis + 1..].iter().product();
        let outer: usize = input.dims[..axis].iter().product();
        let chosen = &chosen;
        let from = (0..outer).flat_map(|o| {
            chosen.iter().flat_map(move |i| {
                let start = (o * length + i) * inner;
                start..start + inner
            })
        });
        // An empty result ends at once, however many empty pieces it would have.
        Ok(select(input, dims, from.take(count)))
    }

    pub(super) fn slice(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let (node, input) = (self.node, self.input(0)?);
        let constants = [1, 2, 3, 4].map(|index| self.optional(index));
        let (mut dims, mut strides) = (input.dims.clone(), strides_of(&input.dims));
        let mut first = 0isize;
        for Cut { axis, start, step, count } in cuts(node, &input.dims, constants)? {
            if count > 0 {
                first += start as isize * strides[axis];
            }
            dims[axis] = count;
            // With one element or none the stride is not used, and must not overflow.
            strides[axis] = if count > 1 { strides[axis] * step as isize } else { 0 };
        }
        budget.spend(node, &dims)?;
        let from = walk(&dims, &strides, first);
        Ok(select(input, dims, from))
    }

    pub(super) fn concat(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let (node, first) = (self.node, self.input(0)?);
        let axis = node.axis(node.int("axis", 0), first.dims.len())?;
        let mut dims = first.dims.clone();
        dims[axis] = 0;
        let mut parts = Vec::with_capacity(self.inputs.len());
        for index in 0..self.inputs.len() {
            let part = self.input(index)?;
            let fits = part.dims.len() == dims.len()
                && (0..dims.len()).all(|i| i == axis || part.dims[i] == dims[i])
                && part.as_ints().is_some() == first.as_ints().is_some()
                && part.as_bytes().map(|b| b.0) == first.as_bytes().map(|b| b.0);
            if !fits {
                return node
                    .bad_shape(format!("dims as {:?}", first.dims), format!("{:?}", part.dims));
            }
            dims[axis] += part.dims[axis];
            parts.push(part);
        }
        budget.spend(node, &dims)?;
        // Empty parts could otherwise make a small file take long.
        parts.retain(|part| part.len() > 0);
        let outer: usize = if parts.is_empty() { 0 } else { dims[..axis].iter().product() };
        let chunk = |part: &Tensor| part.dims[axis..].iter().product::<usize>();
        let data = match &first.data {
            Data::Float(_) => Data::Float(Arc::new(join(&parts, outer, chunk, |part| {
                part.as_floats().map_or(&[], |values| values.as_slice())
            }))),
            Data::Int(_) => Data::Int(Arc::new(join(&parts, outer, chunk, |part| {
                part.as_ints().unwrap_or(&[])
            }))),
            Data::Bytes(element, _) => {
                let bytes = join(&parts, outer, chunk, |part| {
                    part.as_bytes().map_or(&[], |(_, bytes)| bytes)
                });
                Data::Bytes(*element, Arc::new(bytes))
            }
        };
        Ok(Tensor { dims, data })
    }

    pub(super) fn transpose(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let input = self.input(0)?;
        let perm = permutation(self.node, input.dims.len())?;
        budget.spend(self.node, &input.dims)?;
        Ok(transposed(input, &perm))
    }

    pub(super) fn expand(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let (node, input, target) = (self.node, self.input(0)?, self.dims_from(1)?);
        let dims = broadcast(&input.dims, &target).map_err(|mismatch| node.mismatch(mismatch))?;
        budget.spend(node, &dims)?;
        Ok(broadcast_to(input, dims))
    }

    pub(super) fn range(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let node = self.node;
        let (start, limit, delta) = (self.input(0)?, self.input(1)?, self.input(2)?);
        let one = |tensor: &Tensor| tensor.as_ints().and_then(|ints| ints.first().copied());
        let (Some(start), Some(limit), Some(delta)) = (one(start), one(limit), one(delta)) else {
            return node.unsupported("inputs", "integers", "others");
        };
        if delta == 0 {
            return node.unsupported("delta", "a step other than 0", "0");
        }
        let distance = (i128::from(limit) - i128::from(start)) * i128::from(delta.signum());
        let count = distance.max(0).unsigned_abs().div_ceil(u128::from(delta.unsigned_abs()));
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        budget.spend(node, &[count])?;
        let values = (0..count as i64).map(|i| start.wrapping_add(i.wrapping_mul(delta)));
        Ok(Tensor::ints(vec![count], values.collect()))
    }

    /// The input some times over along each axis.
    pub(super) fn tile(&self, budget: &mut Budget) -> Result<Tensor, ModelError> {
        let (node, input) = (self.node, self.input(0)?);
        let times = self.dims_from(1)?;
        if times.len() != input.dims.len() {
            return node.unsupported("repeats", "one for each axis", format!("{times:?}"));
        }
        let product = |(a, b): (&usize, &usize)| a.checked_mul(*b);
        let dims: Option<Vec<usize>> = input.dims.iter().zip(&times).map(product).collect();
        let Some(dims) = dims else {
            return node.bad_shape("lengths that can be", format!("{times:?}"));
        };
        budget.spend(node, &dims)?;
        let (own, whole) = (strides_of(&input.dims), strides_of(&dims));
        let from = (0..limits::elements(&dims).unwrap_or(0)).map(|at| {
            let place = |axis: usize| at / whole[axis] as usize % input.dims[axis];
            (0..dims.len()).map(|axis| place(axis) * own[axis] as usize).sum()
        });
        Ok(select(input, dims.clone(), from))
    }

    pub(super) fn split(&self, budget: &mut Budget) -> Result<Vec<Tensor>, ModelError> {
        let (node, input) = (self.node, self.input(0)?);
        let (axis, parts) = split_parts(node, &input.dims, self.optional(1))?;
        budget.spend(node, &input.dims)?;
        let strides = strides_of(&input.dims);
        let part = |(start, length): &(usize, usize)| {
            let mut dims = input.dims.clone();
            dims[axis] = *length;
            let from = walk(&dims, &strides, *start as isize * strides[axis]);
            select(input, dims, from)
        };
        Ok(parts.iter().map(part).collect())
    }
}

/// The axis of a split and its parts, each by start and length.
pub(in crate::onnx) fn split_parts(
    node: &Node<'_>,
    dims: &[usize],
    lengths: Option<&Tensor>,
) -> Result<(usize, Vec<(usize, usize)>), ModelError> {
    node.allow(&["axis", "split", "num_outputs"])?;
    let axis = node.axis(node.int("axis", 0), dims.len())?;
    let (length, count) = (dims[axis], node.proto.output.len());
    let lengths = match list(node, "split", lengths)? {
        Some(lengths) => {
            lengths.iter().map(|l| usize::try_from(*l).ok()).collect::<Option<Vec<usize>>>()
        }
        // Equal parts, the last one shorter.
        None => {
            let each = length.div_ceil(count.max(1));
            Some((0..count).map(|i| each.min(length.saturating_sub(i * each))).collect())
        }
    };
    let fits = |lengths: &Vec<usize>| {
        lengths.len() == count
            && lengths.iter().try_fold(0usize, |sum, l| sum.checked_add(*l)) == Some(length)
    };
    let Some(lengths) = lengths.filter(fits) else {
        let expected = format!("{count} lengths that add up to {length}");
        return node.unsupported("split", expected, "others");
    };
    let mut start = 0;
    let parts = lengths.into_iter().map(|length| {
        start += length;
        (start - length, length)
    });
    Ok((axis, parts.collect()))
}

/// What a slice takes along one axis: `count` places from `start` on, `step` apart.
pub(in crate::onnx) struct Cut {
    pub(in crate::onnx) axis: usize,
    pub(in crate::onnx) start: i64,
    pub(in crate::onnx) step: i64,
    pub(in crate::onnx) count: usize,
}

/// The cuts of a slice of something with these dims; `constants` are its starts, ends, axes and
/// steps, where they are inputs.
pub(in crate::onnx) fn cuts(
    node: &Node<'_>,
    dims: &[usize],
    constants: [Option<&Tensor>; 4],
) -> Result<Vec<Cut>, ModelError> {
    let [starts, ends, axes, steps] = constants;
    let (starts, ends) = (list(node, "starts", starts)?, list(node, "ends", ends)?);
    let (Some(starts), Some(ends)) = (starts, ends) else {
        return node.unsupported("starts and ends", "both", "none");
    };
    let axes = list(node, "axes", axes)?;
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list(node, "steps", steps)?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return node.unsupported("starts", "as many as ends, axes and steps", "others");
    }
    let mut cuts: Vec<Cut> = Vec::with_capacity(axes.len());
    for (((start, end), axis), step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let (axis, step) = (node.axis(*axis, dims.len())?, *step);
        if cuts.iter().any(|cut| cut.axis == axis) {
            return node.unsupported("axes", "each axis once", format!("{axes:?}"));
        }
        let length = dims[axis] as i64;
        let wrap = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
        let (start, end) = match step {
            0 => return node.unsupported("steps", "a step other than 0", "0"),
            1.. => (wrap(*start).clamp(0, length), wrap(*end).clamp(0, length)),
            _ => (wrap(*start).clamp(-1, length - 1), wrap(*end).clamp(-1, length - 1)),
        };
        let distance = if step > 0 { end - start } else { start - end };
        let count = distance.max(0).unsigned_abs().div_ceil(step.unsigned_abs()) as usize;
        cuts.push(Cut { axis, start, step, count });
    }
    Ok(cuts)
}
