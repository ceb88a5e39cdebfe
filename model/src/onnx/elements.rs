//! Moves the elements of constants: transposing, broadcasting, selecting.

use super::tensor::{Data, Tensor};
use crate::limits;
use std::sync::Arc;

/// Output axis `i` is input axis `perm[i]`, which the caller has checked to be a permutation.
pub(super) fn transposed(input: &Tensor, perm: &[usize]) -> Tensor {
    let strides = strides_of(&input.dims);
    let dims: Vec<usize> = perm.iter().map(|axis| input.dims[*axis]).collect();
    let strides: Vec<isize> = perm.iter().map(|axis| strides[*axis]).collect();
    let from = walk(&dims, &strides, 0);
    select(input, dims, from)
}

/// Repeats elements along axes of length 1; the caller has checked that the dims broadcast.
pub(super) fn broadcast_to(input: &Tensor, dims: Vec<usize>) -> Tensor {
    let strides = broadcast_strides(&input.dims, dims.len());
    let from = walk(&dims, &strides, 0);
    select(input, dims, from)
}

pub(super) fn strides_of(dims: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(dims[axis] as isize);
    }
    strides
}

pub(super) fn broadcast_strides(dims: &[usize], rank: usize) -> Vec<isize> {
    let mut strides = vec![0; rank - dims.len()];
    let own = strides_of(dims);
    strides.extend(own.iter().zip(dims).map(|(stride, dim)| if *dim == 1 { 0 } else { *stride }));
    strides
}

/// Offsets of all positions of `dims`, last axis fastest.
pub(super) fn walk(
    dims: &[usize],
    strides: &[isize],
    first: isize,
) -> impl Iterator<Item = usize> + use<> {
    let (dims, strides) = (dims.to_vec(), strides.to_vec());
    let mut left = limits::elements(&dims).unwrap_or(0);
    let mut at = vec![0usize; dims.len()];
    let mut offset = first;
    std::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        let here = offset as usize;
        for axis in (0..dims.len()).rev() {
            at[axis] += 1;
            offset += strides[axis];
            if at[axis] < dims[axis] {
                break;
            }
            offset -= strides[axis] * dims[axis] as isize;
            at[axis] = 0;
        }
        Some(here)
    })
}

pub(super) fn select(
    input: &Tensor,
    dims: Vec<usize>,
    from: impl Iterator<Item = usize>,
) -> Tensor {
    let data = match &input.data {
        Data::Float(values) => Data::Float(Arc::new(from.map(|i| values[i]).collect())),
        Data::Int(values) => Data::Int(Arc::new(from.map(|i| values[i]).collect())),
        Data::Bytes(element, values) => {
            Data::Bytes(*element, Arc::new(from.map(|i| values[i]).collect()))
        }
    };
    Tensor { dims, data }
}

pub(super) fn join<'a, T: Copy + 'a>(
    parts: &[&'a Tensor],
    outer: usize,
    chunk: impl Fn(&Tensor) -> usize,
    values: impl Fn(&'a Tensor) -> &'a [T],
) -> Vec<T> {
    let mut joined = Vec::new();
    for index in 0..outer {
        for part in parts {
            let size = chunk(part);
            joined.extend_from_slice(&values(part)[index * size..(index + 1) * size]);
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(dims: &[usize]) -> Tensor {
        Tensor::ints(dims.to_vec(), (0..dims.iter().product::<usize>() as i64).collect())
    }

    #[test]
    fn transposes() {
        let tensor = transposed(&ramp(&[2, 3]), &[1, 0]);
        assert_eq!(tensor, Tensor::ints(vec![3, 2], vec![0, 3, 1, 4, 2, 5]));
    }

    #[test]
    fn broadcasts() {
        let tensor = broadcast_to(&ramp(&[2, 1]), vec![2, 2, 3]);
        assert_eq!(tensor.as_ints(), Some([0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1].as_slice()));
    }

    #[test]
    fn walks_backwards_and_over_nothing() {
        assert!(walk(&[3], &[-1], 2).eq([2, 1, 0]));
        assert_eq!(walk(&[3, 0], &[1, 1], 0).count(), 0);
        assert!(walk(&[], &[], 5).eq([5]));
    }
}
