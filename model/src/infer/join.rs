//! Layers that join maps, or mix all elements of an axis.

use super::{Inferred, Mismatch, arity, expect_dims, general, spatial, sum};
use crate::graph::Shape;

/// The dims that ONNX broadcasting gives.
pub(crate) fn broadcast(left: &[usize], right: &[usize]) -> Result<Vec<usize>, Mismatch> {
    let rank = left.len().max(right.len());
    let at = |dims: &[usize], axis: usize| {
        (axis + dims.len()).checked_sub(rank).map_or(1, |axis| dims[axis])
    };
    (0..rank)
        .map(|axis| match (at(left, axis), at(right, axis)) {
            (a, b) if a == b => Ok(a),
            (1, b) => Ok(b),
            (a, 1) => Ok(a),
            _ => Err(Mismatch::new(
                format!("dims that broadcast with {left:?}"),
                format!("{right:?}"),
            )),
        })
        .collect()
}

pub(super) fn combine(inputs: &[&Shape]) -> Inferred {
    let Some((first, rest)) = inputs.split_first().filter(|(_, rest)| !rest.is_empty()) else {
        return Err(arity("2 or more inputs", inputs));
    };
    let mut dims = first.dims();
    for input in rest {
        if input.is_spatial() != first.is_spatial() {
            return Err(Mismatch::new(
                "all inputs spatial or all general",
                format!("{:?} and {:?}", first.dims(), input.dims()),
            ));
        }
        dims = broadcast(&dims, &input.dims())?;
    }
    Ok(Shape::from_dims(&dims))
}

pub(super) fn concat(inputs: &[&Shape]) -> Inferred {
    let Some(first) = inputs.first() else {
        return Err(arity("1 or more inputs", inputs));
    };
    let (_, size) = spatial(first)?;
    let mut channels = 0;
    for input in inputs {
        let (more, got) = spatial(input)?;
        if got != size {
            return Err(Mismatch::new(
                format!("{}x{} rows and columns", size.rows, size.cols),
                format!("{}x{}", got.rows, got.cols),
            ));
        }
        channels = sum(&[channels, more])?;
    }
    Ok(Shape::Spatial { channels, rows: size.rows, cols: size.cols })
}

pub(super) fn concat_general(inputs: &[&Shape], axis: usize) -> Inferred {
    let Some(first) = inputs.first() else {
        return Err(arity("1 or more inputs", inputs));
    };
    let mut dims = general(first)?.to_vec();
    if axis >= dims.len() {
        return Err(Mismatch::new(format!("an axis below {}", dims.len()), axis.to_string()));
    }
    for input in &inputs[1..] {
        let more = general(input)?;
        let fits = more.len() == dims.len()
            && more.iter().zip(&dims).enumerate().all(|(i, (a, b))| i == axis || a == b);
        if !fits {
            return Err(Mismatch::new(
                format!("dims as {dims:?} but for axis {axis}"),
                format!("{more:?}"),
            ));
        }
        dims[axis] = sum(&[dims[axis], more[axis]])?;
    }
    Ok(Shape::from_dims(&dims))
}

pub(super) fn linear(input: &[usize], matrix: &[usize], bias: Option<&[usize]>) -> Inferred {
    let (&[out, inner], Some((last, outer))) = (matrix, input.split_last()) else {
        return Err(Mismatch::new(
            "a map of 1 or more dims and weights of 2",
            format!("{input:?} and {matrix:?}"),
        ));
    };
    if *last != inner || out == 0 {
        return Err(Mismatch::new(format!("weights of [_, {last}]"), format!("{matrix:?}")));
    }
    if let Some(bias) = bias {
        expect_dims("a bias", bias, &[out])?;
    }
    Ok(Shape::from_dims(&[outer, &[out]].concat()))
}

/// One row of as many elements as the input has, whatever its shape.
pub(super) fn linear_rows(input: &Shape, slices: &[&[usize]], bias: Option<&[usize]>) -> Inferred {
    let is_slice = |slice: &&&[usize]| slice.len() == 2 && slice[0] > 0;
    let is_even = slices.windows(2).all(|two| two[0].first() == slices[0].first());
    let (Some(last), true, true) = (slices.last(), slices.iter().all(|s| is_slice(&s)), is_even)
    else {
        return Err(Mismatch::new("slices of as many rows each", format!("{slices:?}")));
    };
    let inner = input.elements();
    if slices.iter().any(|slice| slice[1] != inner) || last[0] > slices[0][0] {
        return Err(Mismatch::new(format!("slices of [_, {inner}]"), format!("{slices:?}")));
    }
    let out = slices.iter().map(|slice| slice[0]).fold(0, usize::saturating_add);
    if let Some(bias) = bias {
        expect_dims("a bias", bias, &[out])?;
    }
    Ok(Shape::Spatial { channels: 1, rows: out, cols: 1 })
}

pub(super) fn matmul(left: &[usize], right: &[usize]) -> Inferred {
    let ([outer_left @ .., rows, inner], [outer_right @ .., depth, cols]) = (left, right) else {
        return Err(Mismatch::new("two maps of 2 or more dims", format!("{left:?} and {right:?}")));
    };
    if inner != depth {
        return Err(Mismatch::new(format!("a right side with {inner} rows"), format!("{right:?}")));
    }
    let mut dims = broadcast(outer_left, outer_right)?;
    dims.extend([*rows, *cols]);
    Ok(Shape::from_dims(&dims))
}
