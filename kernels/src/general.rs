//! Layers over the logical axes of a map, which always see it whole: plain code over ndarray.

use crate::math;
use crate::piece::{Piece, Value};
use crate::simd::{Kernel, Simd};
use crate::threads::Threads;
use crate::view::{Target, View};
use model::{Activation, CombineKind, Element, Shape};
use ndarray::{ArrayD, ArrayViewD, Axis, IxDyn};
use tiling::Region;

/// A whole map as an array with the ONNX dims, batch included.
pub(crate) fn logical<'a, T: Value>(values: &'a [T], shape: &Shape) -> ArrayViewD<'a, T> {
    match shape {
        Shape::Spatial { channels, rows, cols } => {
            let dims = IxDyn(&[1, *rows, *cols, *channels]);
            let in_memory = ArrayViewD::from_shape(dims, values).expect("a whole map");
            in_memory.permuted_axes(IxDyn(&[0, 3, 1, 2]))
        }
        Shape::General(dims) => ArrayViewD::from_shape(IxDyn(dims), values).expect("a whole map"),
    }
}

/// A whole map from its elements in logical row-major order.
pub(crate) fn from_logical(shape: &Shape, values: &[f32]) -> Piece {
    let mut piece = Piece::zeroed(Region::whole(shape), shape.channels());
    write_logical(shape, values.iter().copied(), piece.values_mut());
    piece
}

/// A whole map of bytes from its elements in logical row-major order.
pub(crate) fn bytes_from_logical(shape: &Shape, element: Element, values: &[u8]) -> Piece {
    let mut piece = Piece::zeroed_of(Region::whole(shape), shape.channels(), element);
    write_logical(shape, values.iter().copied(), piece.as_bytes_mut());
    piece
}

/// Writes a whole map from its elements in logical row-major order.
pub(crate) fn write_logical<T>(shape: &Shape, values: impl Iterator<Item = T>, to: &mut [T]) {
    match shape {
        Shape::General(_) => to.iter_mut().zip(values).for_each(|(to, from)| *to = from),
        Shape::Spatial { channels, rows, cols } => {
            let (channels, positions) = (*channels, rows * cols);
            for (i, value) in values.enumerate() {
                to[i % positions * channels + i / positions] = value;
            }
        }
    }
}

/// The same elements in logical order under other dims.
pub(crate) fn reshape<T: Value>(from: &[T], from_shape: &Shape, to_shape: &Shape, to: &mut [T]) {
    // A map of one position has one order, and general maps have the same.
    let plain = |s: &Shape| s.rows() * s.cols() == 1;
    if plain(from_shape) && plain(to_shape) {
        to.copy_from_slice(from);
    } else {
        write_logical(to_shape, logical(from, from_shape).iter().copied(), to);
    }
}

/// Permutes the logical axes.
pub(crate) fn transpose<T: Value>(
    from: &[T],
    from_shape: &Shape,
    perm: &[usize],
    to_shape: &Shape,
    to: &mut [T],
) {
    let permuted = logical(from, from_shape).permuted_axes(IxDyn(perm));
    write_logical(to_shape, permuted.iter().copied(), to);
}

/// Takes some places along a logical axis.
pub(crate) fn select<T: Value>(
    from: &[T],
    from_shape: &Shape,
    axis: usize,
    indices: &[u32],
    to_shape: &Shape,
    to: &mut [T],
) {
    let places: Vec<usize> = indices.iter().map(|&index| index as usize).collect();
    let selected = logical(from, from_shape).select(Axis(axis), &places);
    write_logical(to_shape, selected.iter().copied(), to);
}

/// Joins general maps along an axis.
pub(crate) fn concat<T: Value>(
    inputs: &[(&[T], &Shape)],
    axis: usize,
    to_shape: &Shape,
    to: &mut [T],
) {
    let views: Vec<_> = inputs.iter().map(|(values, shape)| logical(values, shape)).collect();
    let joined = ndarray::concatenate(Axis(axis), &views).expect("dims that fit: checked on load");
    write_logical(to_shape, joined.iter().copied(), to);
}

/// Arithmetic over general maps with ONNX broadcasting, folded from the first to the last.
pub(crate) fn combine(
    inputs: &[(&[f32], &Shape)],
    kind: CombineKind,
    activation: Activation,
    to_shape: &Shape,
    to: &mut [f32],
) {
    let dims = IxDyn(&to_shape.dims());
    let mut result: Option<ArrayD<f32>> = None;
    for (values, shape) in inputs {
        let view = logical(values, shape);
        let view = view.broadcast(dims.clone()).expect("dims that broadcast: checked on load");
        match &mut result {
            None => result = Some(view.to_owned()),
            Some(result) => result.zip_mut_with(&view, |a, b| *a = arithmetic(kind, *a, *b)),
        }
    }
    let values = result.expect("a layer has inputs");
    let activated = values.iter().map(|x| math::activate_one(activation, *x));
    write_logical(to_shape, activated, to);
}

/// One step of a fold.
pub(crate) fn arithmetic(kind: CombineKind, a: f32, b: f32) -> f32 {
    match kind {
        CombineKind::Add => a + b,
        CombineKind::Mul => a * b,
        CombineKind::Sub => a - b,
        CombineKind::Div => a / b,
        CombineKind::Max => {
            if a > b {
                a
            } else {
                b
            }
        }
        CombineKind::Min => {
            if a < b {
                a
            } else {
                b
            }
        }
    }
}

/// `exp(x - max) / sum` over runs of values that lie side by side.
///
/// The maximum is folded from `-inf`, the sum from `0.0`, both in order; then one division each.
pub(crate) struct SoftmaxRuns<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) len: usize,
}

impl Kernel for SoftmaxRuns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for run in self.values.chunks_mut(self.len.max(1)) {
            let max = run.iter().fold(f32::NEG_INFINITY, |max, &x| if max > x { max } else { x });
            for lanes in run.chunks_mut(S::LANES) {
                let y = math::exp(s, s.sub(s.read(lanes), s.splat(max)));
                s.write(lanes, y);
            }
            let sum = run.iter().fold(0.0, |sum, x| sum + x);
            run.iter_mut().for_each(|x| *x /= sum);
        }
    }
}

/// Softmax over the channels of a region of a spatial map.
pub(crate) fn softmax_channels(threads: &Threads, input: View<'_>, output: &mut Target<'_>) {
    let (work, len) = (8 * output.len(), output.channels);
    threads.bands(output, work, |region, values| {
        let strip = region.cols.len() * len;
        for (row, to) in region.rows.indices().zip(values.chunks_mut(strip.max(1))) {
            to.copy_from_slice(input.strip(row, region.cols));
        }
        threads.cpu.run(SoftmaxRuns { values, len });
    });
}

/// Softmax along one logical axis of a whole map, or along all axes from it on.
pub(crate) fn softmax(
    threads: &Threads,
    from: &[f32],
    shape: &Shape,
    (axis, flattened): (usize, bool),
    to: &mut [f32],
) {
    let dims = shape.dims();
    let view = logical(from, shape);
    // The axes of a run go last; a run is then contiguous.
    let mut order: Vec<usize> = (0..dims.len()).collect();
    let len = if flattened {
        dims[axis..].iter().product()
    } else {
        let moved = order.remove(axis);
        order.push(moved);
        dims[axis]
    };
    let permuted = view.permuted_axes(IxDyn(&order));
    let mut values: Vec<f32> = permuted.iter().copied().collect();
    threads.cpu.run(SoftmaxRuns { values: &mut values, len });
    let permuted = ArrayViewD::from_shape(permuted.raw_dim(), &values).expect("the same dims");
    let mut back = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, &axis)| back[axis] = i);
    write_logical(shape, permuted.permuted_axes(IxDyn(&back)).iter().copied(), to);
}
