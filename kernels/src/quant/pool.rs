//! The largest byte of each window.

use super::reach;
use crate::piece::Value;
use crate::simd::{Kernel, Simd};
use crate::threads::Threads;
use crate::view::{Target, View};
use model::Window;
use tiling::{Region, Span};

/// Keeps the larger of two runs of values.
struct Larger<'a, T> {
    to: &'a mut [T],
    from: &'a [T],
}

impl<T: Value + Ord> Kernel for Larger<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            *to = (*to).max(*from);
        }
    }
}

/// Maximum over the values of each window that are inside the map; the least value where none is.
pub(super) fn max<T: Value + Ord + Least>(
    threads: &Threads,
    input: View<'_, T>,
    window: &Window,
    output: &mut Target<'_>,
) {
    let channels = output.channels;
    let work = output.len() * window.kernel.rows * window.kernel.cols;
    threads.bands_of(output, work, |region, values: &mut [T]| {
        let strip = region.cols.len() * channels;
        let [_, cols] = reach(window, region);
        let cols = inside(cols, input.map_cols);
        // Rows first: their maximum is one run of values, and is used by all windows beside.
        let mut column = vec![T::LEAST; cols.len() * channels];
        for (row, to) in region.rows.indices().zip(values.chunks_mut(strip.max(1))) {
            column.fill(T::LEAST);
            for k in 0..window.kernel.rows {
                let from = (row * window.stride.rows + k * window.dilation.rows) as isize
                    - window.pads.top as isize;
                if from >= 0 && (from as usize) < input.map_rows && !cols.is_empty() {
                    let from = input.strip(from as usize, cols);
                    threads.cpu.run(Larger { to: &mut column, from });
                }
            }
            threads.cpu.run(Row { column: &column, cols, window, region, channels, to });
        }
    });
}

/// The part of a range that lies in the map.
fn inside((first, end): (isize, isize), len: usize) -> Span {
    let first = (first.max(0) as usize).min(len);
    Span::new(first, (end.max(0) as usize).min(len).max(first))
}

/// One row of output from the maxima of its rows of input.
struct Row<'a, T> {
    column: &'a [T],
    cols: Span,
    window: &'a Window,
    region: Region,
    channels: usize,
    to: &'a mut [T],
}

impl<T: Value + Ord + Least> Kernel for Row<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { column, cols, window, region, channels, to } = self;
        for (col, to) in region.cols.indices().zip(to.chunks_mut(channels)) {
            to.fill(T::LEAST);
            for k in 0..window.kernel.cols {
                let from = (col * window.stride.cols + k * window.dilation.cols) as isize
                    - window.pads.left as isize;
                if from >= cols.start as isize && (from as usize) < cols.end {
                    let at = (from as usize - cols.start) * channels;
                    let from = &column[at..at + channels];
                    for (to, from) in to.iter_mut().zip(from) {
                        *to = (*to).max(*from);
                    }
                }
            }
        }
    }
}

/// The least value of a type.
pub(super) trait Least: Copy {
    const LEAST: Self;
}

impl Least for u8 {
    const LEAST: Self = u8::MIN;
}

impl Least for i8 {
    const LEAST: Self = i8::MIN;
}
