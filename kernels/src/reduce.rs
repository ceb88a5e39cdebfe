//! Layers that make one number of many: reductions along axes, and normalisation by them.
//!
//! Elements are added in logical order from `0.0`, in plain f32 without fused multiply-adds, so the
//! bits are the same everywhere.

use crate::general::{logical, write_logical};
use crate::threads::Threads;
use crate::view::{Target, View};
use model::{ReduceKind, Shape};
use ndarray::IxDyn;

/// Where a fold starts.
fn start(kind: ReduceKind) -> f32 {
    match kind {
        ReduceKind::Sum | ReduceKind::Mean => 0.0,
        ReduceKind::Max => f32::NEG_INFINITY,
        ReduceKind::Min => f32::INFINITY,
    }
}

/// One step of a fold.
fn step(kind: ReduceKind, so_far: f32, x: f32) -> f32 {
    match kind {
        ReduceKind::Sum | ReduceKind::Mean => so_far + x,
        ReduceKind::Max => {
            if x > so_far {
                x
            } else {
                so_far
            }
        }
        ReduceKind::Min => {
            if x < so_far {
                x
            } else {
                so_far
            }
        }
    }
}

/// What the fold of so many elements stands for.
fn end(kind: ReduceKind, folded: f32, count: usize) -> f32 {
    if kind == ReduceKind::Mean { folded / count as f32 } else { folded }
}

/// Folds the channels of each position of a spatial map.
pub(crate) fn channels(
    threads: &Threads,
    input: View<'_>,
    kind: ReduceKind,
    output: &mut Target<'_>,
) {
    let count = input.channels;
    threads.bands(output, count * output.region.positions(), |region, values| {
        let positions =
            region.rows.indices().flat_map(|row| region.cols.indices().map(move |col| (row, col)));
        for ((row, col), to) in positions.zip(values) {
            let folded = input.pixel(row, col).iter().fold(start(kind), |y, &x| step(kind, y, x));
            *to = end(kind, folded, count);
        }
    });
}

/// Folds the elements along some logical axes of a whole map.
pub(crate) fn axes(
    from: &[f32],
    from_shape: &Shape,
    kind: ReduceKind,
    axes: &[usize],
    to_shape: &Shape,
    to: &mut [f32],
) {
    let view = logical(from, from_shape);
    // The axes that stay go first; the others then follow one another within each of their places.
    let rank = view.ndim();
    let kept = (0..rank).filter(|axis| !axes.contains(axis));
    let order: Vec<usize> = kept.chain(axes.iter().copied()).collect();
    let count: usize = axes.iter().map(|&axis| view.shape()[axis]).product();
    let permuted = view.permuted_axes(IxDyn(&order));
    let mut elements = permuted.iter().copied();
    let folded = (0..to.len()).map(|_| {
        let folded = elements.by_ref().take(count).fold(start(kind), |y, x| step(kind, y, x));
        end(kind, folded, count)
    });
    let folded: Vec<f32> = folded.collect();
    write_logical(to_shape, folded.into_iter(), to);
}

/// The constants of a layer normalisation.
#[derive(Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub(crate) scale: &'a [f32],
    pub(crate) shift: &'a [f32],
    pub(crate) epsilon: f32,
}

impl Norm<'_> {
    /// Normalises runs of values that lie side by side.
    pub(crate) fn run(&self, from: &[f32], to: &mut [f32]) {
        let len = self.scale.len();
        for (from, to) in from.chunks(len).zip(to.chunks_mut(len)) {
            self.one(from, to);
        }
    }

    fn one(&self, from: &[f32], to: &mut [f32]) {
        let count = from.len() as f32;
        let mean = from.iter().fold(0.0, |sum, x| sum + x) / count;
        let squares = from.iter().fold(0.0, |sum, x| sum + (x - mean) * (x - mean));
        let divisor = (squares / count + self.epsilon).sqrt();
        let constants = self.scale.iter().zip(self.shift);
        for ((to, x), (scale, shift)) in to.iter_mut().zip(from).zip(constants) {
            *to = (x - mean) / divisor * scale + shift;
        }
    }
}

/// Normalises the channels of each position of a spatial map.
pub(crate) fn norm_channels(
    threads: &Threads,
    input: View<'_>,
    norm: Norm<'_>,
    output: &mut Target<'_>,
) {
    let channels = output.channels;
    threads.bands(output, 8 * output.len(), |region, values| {
        let positions =
            region.rows.indices().flat_map(|row| region.cols.indices().map(move |col| (row, col)));
        for ((row, col), to) in positions.zip(values.chunks_mut(channels)) {
            norm.one(input.pixel(row, col), to);
        }
    });
}
