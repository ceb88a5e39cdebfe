//! Recognises what files write as Reshape, Transpose, Reshape: channel shuffles, and blocks of
//! positions that become channels or come from them.

use super::Links;
use crate::graph::{Layer, Model, Shape};
use crate::op::{DepthOrder, Op};

/// Turns such a chain into one layer that tiles can compute. Returns whether anything changed.
pub(super) fn run(model: &mut Model) -> bool {
    let links = Links::of(model);
    let mut changed = false;
    for index in 0..model.layers.len() {
        let Some((source, op)) = found(model, &links, &model.layers[index]) else {
            continue;
        };
        let layer = &mut model.layers[index];
        layer.op = op;
        layer.inputs = vec![source];
        changed = true;
    }
    changed
}

/// What the chain that ends with a layer does, and to which map.
fn found(model: &Model, links: &Links, last: &Layer) -> Option<(crate::graph::MapId, Op)> {
    if last.op != Op::Reshape {
        return None;
    }
    let turn = model.layer(links.producer(last.inputs[0])?);
    let Op::Transpose { perm } = &turn.op else { return None };
    let first = model.layer(links.producer(turn.inputs[0])?);
    if first.op != Op::Reshape {
        return None;
    }
    let source = first.inputs[0];
    let dims = model.shape(turn.inputs[0]).dims();
    let op = meaning(model.shape(source), &dims, perm, model.shape(last.output))?;
    Some((source, op))
}

/// The operator that takes `from`, looks at it under `dims`, permutes these and gives `to`.
fn meaning(from: &Shape, dims: &[usize], perm: &[usize], to: &Shape) -> Option<Op> {
    let (Shape::Spatial { .. }, Shape::Spatial { .. }) = (from, to) else { return None };
    // A leading axis of length 1 that stays says nothing.
    let (dims, perm) = match (dims, perm) {
        ([1, dims @ ..], [0, perm @ ..]) => {
            (dims.to_vec(), perm.iter().map(|axis| axis - 1).collect::<Vec<_>>())
        }
        _ => (dims.to_vec(), perm.to_vec()),
    };
    shuffle(from, &dims, &perm, to).or_else(|| blocks(from, &dims, &perm, to))
}

/// The positions stay, and the channels change places.
fn shuffle(from: &Shape, dims: &[usize], perm: &[usize], to: &Shape) -> Option<Op> {
    let count = dims.len().checked_sub(2)?;
    let stays =
        perm.get(count..)? == [count, count + 1] && dims[count..] == [from.rows(), from.cols()];
    let same = (from.channels(), from.rows(), from.cols()) == (to.channels(), to.rows(), to.cols());
    let channels: usize = dims[..count].iter().product();
    if !stays || !same || channels != from.channels() {
        return None;
    }
    let place = |channel: usize| {
        // Digits of the channel in the permuted dims, last first, put together in the old order.
        let mut digits = vec![0; count];
        let mut rest = channel;
        for axis in perm[..count].iter().rev() {
            digits[*axis] = rest % dims[*axis];
            rest /= dims[*axis];
        }
        digits.iter().zip(dims).fold(0, |place, (digit, dim)| place * dim + digit) as u32
    };
    Some(Op::Select { axis: 1, indices: (0..channels).map(place).collect() })
}

/// Square blocks of positions become channels, or channels become such blocks.
fn blocks(from: &Shape, dims: &[usize], perm: &[usize], to: &Shape) -> Option<Op> {
    let depth_to_space = |block: usize, order| {
        let fits = from.channels() == to.channels() * block * block
            && (from.rows() * block, from.cols() * block) == (to.rows(), to.cols());
        fits.then_some(Op::DepthToSpace { block, order })
    };
    let (rows, cols) = (from.rows(), from.cols());
    match (dims, perm) {
        (&[b, again, _, r, c], [2, 3, 0, 4, 1]) if b == again && (r, c) == (rows, cols) => {
            depth_to_space(b, DepthOrder::Dcr)
        }
        (&[_, b, again, r, c], [0, 3, 1, 4, 2]) if b == again && (r, c) == (rows, cols) => {
            depth_to_space(b, DepthOrder::Crd)
        }
        (&[channels, r, b, c, again], [2, 4, 0, 1, 3])
            if b == again && channels == from.channels() && (r * b, c * b) == (rows, cols) =>
        {
            let fits = to.channels() == channels * b * b && (to.rows(), to.cols()) == (r, c);
            fits.then_some(Op::SpaceToDepth { block: b })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(channels: usize, rows: usize, cols: usize) -> Shape {
        Shape::Spatial { channels, rows, cols }
    }

    #[test]
    fn groups_change_places() {
        let shape = map(6, 4, 5);
        let op = meaning(&shape, &[1, 2, 3, 4, 5], &[0, 2, 1, 3, 4], &shape);
        assert_eq!(op, Some(Op::Select { axis: 1, indices: vec![0, 3, 1, 4, 2, 5] }));
        // As the second exporter of PyTorch writes it, without the batch.
        let op = meaning(&shape, &[2, 3, 4, 5], &[1, 0, 2, 3], &shape);
        assert_eq!(op, Some(Op::Select { axis: 1, indices: vec![0, 3, 1, 4, 2, 5] }));
    }

    #[test]
    fn blocks_become_positions_and_back() {
        let (deep, wide) = (map(12, 4, 5), map(3, 8, 10));
        let op = meaning(&deep, &[1, 3, 2, 2, 4, 5], &[0, 1, 4, 2, 5, 3], &wide);
        assert_eq!(op, Some(Op::DepthToSpace { block: 2, order: DepthOrder::Crd }));
        let op = meaning(&deep, &[1, 2, 2, 3, 4, 5], &[0, 3, 4, 1, 5, 2], &wide);
        assert_eq!(op, Some(Op::DepthToSpace { block: 2, order: DepthOrder::Dcr }));
        let op = meaning(&wide, &[1, 3, 4, 2, 5, 2], &[0, 3, 5, 1, 2, 4], &deep);
        assert_eq!(op, Some(Op::SpaceToDepth { block: 2 }));
    }

    #[test]
    fn other_permutations_stay() {
        let shape = map(6, 4, 4);
        assert_eq!(meaning(&shape, &[1, 2, 3, 4, 4], &[0, 2, 1, 4, 3], &shape), None);
        assert_eq!(meaning(&shape, &[6, 16], &[1, 0], &map(16, 2, 3)), None);
    }
}
