//! Pooling, vectorised over channels.
//!
//! A window visits its taps in the order row, col. The maximum starts from `-inf` and ignores
//! padding, so a window wholly outside the map gives `-inf`. The mean is the sum from `0.0` of the
//! taps inside the map, divided by the number of taps that count; `0.0` where none does.

use crate::simd::{Kernel, Simd};
use crate::threads::Threads;
use crate::view::{Target, View};
use model::{PoolKind, Window};
use tiling::Region;

/// Pools a region.
pub(crate) fn run(
    threads: &Threads,
    input: View<'_>,
    window: &Window,
    kind: PoolKind,
    output: &mut Target<'_>,
) {
    let work = output.len() * window.kernel.rows * window.kernel.cols;
    threads.bands(output, work, |region, values| {
        threads.cpu.run(PoolBand { input, window, kind, region, values });
    });
}

/// Some taps of a window along one axis.
#[derive(Clone, Copy)]
pub(crate) struct Taps {
    /// First input index inside the map.
    pub(crate) first: usize,
    /// How many taps lie inside the map.
    pub(crate) inside: usize,
    /// How many lie inside the map or its declared padding.
    pub(crate) declared: usize,
}

/// The taps of one output index: `pads` before and after the map of length `len`.
pub(crate) fn taps(
    out: usize,
    (kernel, stride, dilation): (usize, usize, usize),
    (before, after): (usize, usize),
    len: usize,
) -> Taps {
    // Indices are counted from the first value of the declared padding, so none is negative.
    let start = out * stride;
    let below = |end: usize| kernel.min(end.saturating_sub(start).div_ceil(dilation));
    let outside = below(before);
    let inside = below(before + len) - outside;
    let first = (start + outside * dilation).saturating_sub(before);
    Taps { first, inside, declared: below(before + len + after) }
}

struct PoolBand<'a> {
    input: View<'a>,
    window: &'a Window,
    kind: PoolKind,
    region: Region,
    values: &'a mut [f32],
}

impl Kernel for PoolBand<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { input, window: Window { kernel, stride, dilation, pads }, .. } = self;
        let row_window = (kernel.rows, stride.rows, dilation.rows);
        let col_window = (kernel.cols, stride.cols, dilation.cols);
        let channels = input.channels;
        let columns: Vec<Taps> = (self.region.cols.indices())
            .map(|col| taps(col, col_window, (pads.left, pads.right), input.map_cols))
            .collect();
        let row_values = columns.len() * channels;
        let rows = self.region.rows.indices().zip(self.values.chunks_mut(row_values));
        for (row, output) in rows {
            let rows = taps(row, row_window, (pads.top, pads.bottom), input.map_rows);
            for (cols, output) in columns.iter().zip(output.chunks_mut(channels)) {
                let pixel = Pixel { input: &input, rows, cols: *cols, dilation };
                match self.kind {
                    PoolKind::Max => pixel.max(s, output),
                    // A division by one changes nothing.
                    PoolKind::Sum => pixel.mean(s, 1.0, output),
                    PoolKind::Average { count_padding } => {
                        let count = match count_padding {
                            true => rows.declared * cols.declared,
                            false => rows.inside * cols.inside,
                        };
                        pixel.mean(s, count.max(1) as f32, output);
                    }
                }
            }
        }
    }
}

/// One output position.
struct Pixel<'a> {
    input: &'a View<'a>,
    rows: Taps,
    cols: Taps,
    dilation: &'a model::Axes<usize>,
}

impl Pixel<'_> {
    /// Folds the taps into some vectors of channels at a time, so that the sums stay in registers.
    #[inline(always)]
    fn fold<S: Simd, F: Fold, const VECTORS: usize>(
        &self,
        s: S,
        divisor: f32,
        channel: usize,
        output: &mut [f32],
    ) {
        let mut sums = [s.splat(F::START); VECTORS];
        for row in 0..self.rows.inside {
            for col in 0..self.cols.inside {
                let pixel = self.input.pixel(
                    self.rows.first + row * self.dilation.rows,
                    self.cols.first + col * self.dilation.cols,
                );
                let values = &pixel[channel..channel + output.len()];
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = F::step(s, *sum, s.read(&values[v * S::LANES..]));
                }
            }
        }
        for (v, sum) in sums.iter().enumerate() {
            let y = F::end(s, *sum, divisor);
            s.write(&mut output[v * S::LANES..], y);
        }
    }

    #[inline(always)]
    fn all<S: Simd, F: Fold>(&self, s: S, divisor: f32, output: &mut [f32]) {
        let mut channel = 0;
        while channel + 4 * S::LANES <= output.len() {
            let some = &mut output[channel..channel + 4 * S::LANES];
            self.fold::<S, F, 4>(s, divisor, channel, some);
            channel += 4 * S::LANES;
        }
        while channel < output.len() {
            let n = S::LANES.min(output.len() - channel);
            self.fold::<S, F, 1>(s, divisor, channel, &mut output[channel..channel + n]);
            channel += n;
        }
    }

    #[inline(always)]
    fn max<S: Simd>(&self, s: S, output: &mut [f32]) {
        self.all::<S, Maximum>(s, 1.0, output);
    }

    #[inline(always)]
    fn mean<S: Simd>(&self, s: S, divisor: f32, output: &mut [f32]) {
        self.all::<S, Mean>(s, divisor, output);
    }
}

/// How the taps of a window become one value.
trait Fold {
    const START: f32;
    fn step<S: Simd>(s: S, so_far: S::V, x: S::V) -> S::V;
    fn end<S: Simd>(s: S, so_far: S::V, divisor: f32) -> S::V;
}

struct Maximum;

impl Fold for Maximum {
    const START: f32 = f32::NEG_INFINITY;

    #[inline(always)]
    fn step<S: Simd>(s: S, so_far: S::V, x: S::V) -> S::V {
        s.max(so_far, x)
    }

    #[inline(always)]
    fn end<S: Simd>(_: S, so_far: S::V, _: f32) -> S::V {
        so_far
    }
}

struct Mean;

impl Fold for Mean {
    const START: f32 = 0.0;

    #[inline(always)]
    fn step<S: Simd>(s: S, so_far: S::V, x: S::V) -> S::V {
        s.add(so_far, x)
    }

    #[inline(always)]
    fn end<S: Simd>(s: S, so_far: S::V, divisor: f32) -> S::V {
        s.div(so_far, s.splat(divisor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_are_those_inside_the_map() {
        for len in 1..6 {
            for (kernel, stride, dilation) in [(1, 1, 1), (2, 2, 1), (3, 2, 1), (3, 1, 2)] {
                for (before, after) in [(0, 0), (1, 1), (2, 0), (1, 3)] {
                    for out in 0..6 {
                        let at = |k: usize| (out * stride + k * dilation) as isize;
                        let position = |k: &usize| at(*k) - before as isize;
                        let inside: Vec<isize> = (0..kernel)
                            .map(|k| position(&k))
                            .filter(|&i| i >= 0 && i < len as isize)
                            .collect();
                        let declared =
                            (0..kernel).filter(|&k| at(k) < (before + len + after) as isize);
                        let t = taps(out, (kernel, stride, dilation), (before, after), len);
                        assert_eq!(t.inside, inside.len());
                        assert_eq!(t.declared, declared.count());
                        if let Some(&first) = inside.first() {
                            assert_eq!(t.first as isize, first);
                        }
                    }
                }
            }
        }
    }
}
