//! The dims that Reshape, Flatten, Squeeze and Unsqueeze give, for maps and for constants alike.

use super::node::Node;
use super::tensor::Tensor;
use crate::error::ModelError;
use crate::limits;

/// The output dims of one of these operators. `argument` is the second input: the target of a
/// reshape or, from operator set 13 on, the axes.
pub(super) fn reshaped(
    node: &Node<'_>,
    dims: &[usize],
    argument: Option<&Tensor>,
) -> Result<Vec<usize>, ModelError> {
    match node.operator {
        "Reshape" => {
            node.allow(&["allowzero", "shape"])?;
            let Some(target) = list(node, "shape", argument)? else {
                return node.unsupported("shape", "a constant", "nothing");
            };
            reshape(node, dims, &target)
        }
        "Flatten" => {
            node.allow(&["axis"])?;
            let axis = match node.int("axis", 1) {
                axis if axis < 0 => node.axis(axis, dims.len())?,
                // Unlike elsewhere the axis may be equal to the rank.
                axis => node.axis(axis, dims.len() + 1)?,
            };
            Ok(vec![dims[..axis].iter().product(), dims[axis..].iter().product()])
        }
        "Squeeze" => squeeze(node, dims, argument),
        _ => unsqueeze(node, dims, argument),
    }
}

/// A list that old operator sets keep in an attribute and new ones in an input.
pub(super) fn list(
    node: &Node<'_>,
    attribute: &str,
    input: Option<&Tensor>,
) -> Result<Option<Vec<i64>>, ModelError> {
    match (node.ints(attribute), input) {
        (Some(ints), _) => Ok(Some(ints.to_vec())),
        (None, Some(tensor)) => node.int_list(attribute, tensor).map(Some),
        (None, None) => Ok(None),
    }
}

fn reshape(node: &Node<'_>, dims: &[usize], target: &[i64]) -> Result<Vec<usize>, ModelError> {
    let got = || format!("{target:?} for {dims:?}");
    let keep_zeros = node.int("allowzero", 0) != 0;
    let mut result = Vec::with_capacity(target.len());
    let mut free = None;
    for (axis, want) in target.iter().enumerate() {
        match *want {
            -1 if free.is_none() => {
                free = Some(axis);
                result.push(1);
            }
            0 if !keep_zeros && axis < dims.len() => result.push(dims[axis]),
            want => match usize::try_from(want) {
                Ok(want) if want > 0 || keep_zeros => result.push(want),
                _ => return node.bad_shape("a reshape to possible dims", got()),
            },
        }
    }
    let (Some(have), Some(fixed)) = (limits::elements(dims), limits::elements(&result)) else {
        return node.bad_shape("a reshape to possible dims", got());
    };
    if let Some(axis) = free.filter(|_| fixed > 0 && have % fixed == 0) {
        result[axis] = have / fixed;
    }
    if limits::elements(&result) != Some(have) {
        return node.bad_shape(format!("a reshape that keeps {have} elements"), got());
    }
    Ok(result)
}

fn squeeze(
    node: &Node<'_>,
    dims: &[usize],
    argument: Option<&Tensor>,
) -> Result<Vec<usize>, ModelError> {
    node.allow(&["axes"])?;
    let mut drop = vec![false; dims.len()];
    match list(node, "axes", argument)? {
        None => drop.iter_mut().zip(dims).for_each(|(drop, dim)| *drop = *dim == 1),
        Some(axes) => {
            for axis in axes {
                let axis = node.axis(axis, dims.len())?;
                if dims[axis] != 1 {
                    return node
                        .bad_shape("to squeeze axes of length 1", format!("{axis} of {dims:?}"));
                }
                drop[axis] = true;
            }
        }
    }
    Ok(dims.iter().zip(drop).filter(|(_, drop)| !drop).map(|(dim, _)| *dim).collect())
}

fn unsqueeze(
    node: &Node<'_>,
    dims: &[usize],
    argument: Option<&Tensor>,
) -> Result<Vec<usize>, ModelError> {
    node.allow(&["axes"])?;
    let Some(axes) = list(node, "axes", argument)? else {
        return node.unsupported("axes", "constant axes", "none");
    };
    let rank = dims.len() + axes.len();
    if rank > limits::RANK_MAX {
        return node.bad_shape(format!("at most {} dims", limits::RANK_MAX), rank.to_string());
    }
    let mut is_new = vec![false; rank];
    for axis in &axes {
        let axis = node.axis(*axis, rank)?;
        if std::mem::replace(&mut is_new[axis], true) {
            return node.unsupported("axes", "each axis once", format!("{axes:?}"));
        }
    }
    let mut old = dims.iter();
    Ok(is_new.into_iter().map(|new| if new { 1 } else { *old.next().unwrap_or(&1) }).collect())
}
