//! Layers that move values about in a map, and the two that sum a few: plain code.
//!
//! Nothing here fuses a multiply-add, so the compiler may vectorise as it likes and the bits stay.

use crate::math;
use crate::piece::Value;
use crate::threads::Threads;
use crate::view::{Erased, Target, View};
use model::{Axes, DepthOrder, Pads, ResizeMode};
use std::sync::Mutex;
use tiling::Span;
use tiling::receptive::ResizeAxis;

/// Joins maps along the channels; those that lie in their place already are none.
pub(crate) fn concat(
    threads: &Threads,
    inputs: &[(usize, Option<Erased<'_>>)],
    output: &mut Target<'_>,
) {
    let copied = |(channels, view): &(usize, Option<Erased<'_>>)| view.map_or(0, |_| *channels);
    let work = inputs.iter().map(copied).sum::<usize>() * output.region.positions();
    if work == 0 {
        return;
    }
    let parts: Vec<_> = output.split_rows(threads.parts(output.region, work));
    let parts: Vec<_> = parts.into_iter().map(Mutex::new).collect();
    threads.for_each_part(parts.len(), |part| {
        let mut part = parts[part].lock().expect("a part is taken once");
        let mut channel = 0;
        for &(channels, view) in inputs {
            if let Some(view) = view {
                part.part(channel, channels).copy(view);
            }
            channel += channels;
        }
    });
}

/// Surrounds a map with a constant.
pub(crate) fn pad<T: Value>(
    threads: &Threads,
    input: View<'_, T>,
    pads: Pads,
    value: T,
    output: &mut Target<'_>,
) {
    let (work, channels) = (output.region.positions() * output.channels, output.channels);
    threads.bands_of(output, work, |region, values: &mut [T]| {
        let strip = region.cols.len() * channels;
        // The columns of the output that come from the map.
        let copied = Span::new(pads.left, pads.left + input.map_cols).intersect(region.cols);
        for (row, to) in region.rows.indices().zip(values.chunks_mut(strip)) {
            if row < pads.top || row >= pads.top + input.map_rows || copied.is_empty() {
                to.fill(value);
                continue;
            }
            let start = (copied.start - region.cols.start) * channels;
            let end = (copied.end - region.cols.start) * channels;
            to[..start].fill(value);
            to[end..].fill(value);
            let cols = Span::new(copied.start - pads.left, copied.end - pads.left);
            to[start..end].copy_from_slice(input.strip(row - pads.top, cols));
        }
    });
}

/// Rescales rows and columns by repeating or leaving out values.
pub(crate) fn resize_nearest<T: Value>(
    threads: &Threads,
    input: View<'_, T>,
    mode: ResizeMode,
    axes: Axes<ResizeAxis>,
    output: &mut Target<'_>,
) {
    let (work, channels) = (output.region.positions() * output.channels, output.channels);
    threads.bands_of(output, work, |region, values: &mut [T]| {
        let cols: Vec<usize> =
            region.cols.indices().map(|col| axes.cols.samples(mode, col).0).collect();
        let strip = region.cols.len() * channels;
        for (row, to) in region.rows.indices().zip(values.chunks_mut(strip)) {
            let (from, _) = axes.rows.samples(mode, row);
            for (&col, to) in cols.iter().zip(to.chunks_mut(channels)) {
                to.copy_from_slice(input.pixel(from, col));
            }
        }
    });
}

/// Rescales rows and columns. Between samples: `a + (b - a) * fraction`, columns first.
pub(crate) fn resize(
    threads: &Threads,
    input: View<'_>,
    mode: ResizeMode,
    axes: Axes<ResizeAxis>,
    output: &mut Target<'_>,
) {
    if mode != ResizeMode::Bilinear {
        return resize_nearest(threads, input, mode, axes, output);
    }
    let (work, channels) = (4 * output.len(), output.channels);
    threads.bands(output, work, |region, values| {
        let sample = |axis: &ResizeAxis, out: usize| {
            let (first, last) = axis.samples(mode, out);
            (first, last, axis.fraction(out))
        };
        let cols: Vec<_> = region.cols.indices().map(|col| sample(&axes.cols, col)).collect();
        let strip = region.cols.len() * channels;
        // Neighbouring rows are made of the same rows of the input: each of these is stretched once.
        let mut stretched = [(None, vec![0.0; strip]), (None, vec![0.0; strip])];
        let stretch = |row: usize, to: &mut [f32]| {
            for (&(left, right, fraction), to) in cols.iter().zip(to.chunks_mut(channels)) {
                let (a, b) = (input.pixel(row, left), input.pixel(row, right));
                for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
                    *to = a + (b - a) * fraction;
                }
            }
        };
        for (row, to) in region.rows.indices().zip(values.chunks_mut(strip)) {
            let (top, bottom, fraction) = sample(&axes.rows, row);
            if stretched[1].0 == Some(top) {
                stretched.swap(0, 1);
            }
            for (row, (is, values)) in [top, bottom].into_iter().zip(&mut stretched) {
                if *is != Some(row) {
                    stretch(row, values);
                    *is = Some(row);
                }
            }
            let [(_, above), (_, below)] = &stretched;
            for ((to, above), below) in to.iter_mut().zip(above).zip(below) {
                *to = above + (below - above) * fraction;
            }
        }
    });
}

/// Moves channels into blocks of positions.
pub(crate) fn depth_to_space<T: Value>(
    threads: &Threads,
    input: View<'_, T>,
    block: usize,
    order: DepthOrder,
    output: &mut Target<'_>,
) {
    let (work, channels) = (output.region.positions() * output.channels, output.channels);
    threads.bands_of(output, work, |region, values: &mut [T]| {
        let strip = region.cols.len() * channels;
        for (row, mut to) in region.rows.indices().zip(values.chunks_mut(strip)) {
            let mut start = region.cols.start;
            // All that one position of the input gives to this row.
            while start < region.cols.end {
                let from = input.pixel(row / block, start / block);
                let end = (start / block * block + block).min(region.cols.end);
                let first = row % block * block + start % block;
                let (here, rest) = to.split_at_mut((end - start) * channels);
                match order {
                    // A short run is not worth a call that copies.
                    DepthOrder::Dcr => {
                        let from = &from[first * channels..][..here.len()];
                        here.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                    }
                    DepthOrder::Crd => {
                        for (in_block, to) in (first..).zip(here.chunks_mut(channels)) {
                            let every = from[in_block..].iter().step_by(block * block);
                            to.iter_mut().zip(every).for_each(|(to, from)| *to = *from);
                        }
                    }
                }
                (to, start) = (rest, end);
            }
        }
    });
}

/// Moves blocks of positions into channels.
pub(crate) fn space_to_depth<T: Value>(
    threads: &Threads,
    input: View<'_, T>,
    block: usize,
    output: &mut Target<'_>,
) {
    let (work, channels) = (output.region.positions() * output.channels, output.channels);
    threads.bands_of(output, work, |region, values: &mut [T]| {
        let positions =
            region.rows.indices().flat_map(|row| region.cols.indices().map(move |col| (row, col)));
        for ((row, col), to) in positions.zip(values.chunks_mut(channels)) {
            let cols = Span::new(col * block, (col + 1) * block);
            let strips = to.chunks_mut(block * input.channels);
            for (in_block, to) in strips.enumerate() {
                to.copy_from_slice(input.strip(row * block + in_block, cols));
            }
        }
    });
}

/// Takes some places along an axis: channels, rows or cols by their logical number.
pub(crate) fn select<T: Value>(
    threads: &Threads,
    input: View<'_, T>,
    axis: usize,
    indices: &[u32],
    output: &mut Target<'_>,
) {
    let (work, channels) = (output.region.positions() * output.channels, output.channels);
    let place = |at: usize, of: usize| if axis == of { indices[at] as usize } else { at };
    // Channels that lie side by side, as those of a split, are copied as one.
    let run = indices.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    threads.bands_of(output, work, |region, values: &mut [T]| {
        let positions =
            region.rows.indices().flat_map(|row| region.cols.indices().map(move |col| (row, col)));
        for ((row, col), to) in positions.zip(values.chunks_mut(channels)) {
            let from = input.pixel(place(row, 2), place(col, 3));
            match axis {
                1 if run => to.copy_from_slice(&from[indices[0] as usize..][..channels]),
                1 => to.iter_mut().zip(indices).for_each(|(to, &i)| *to = from[i as usize]),
                _ => to.copy_from_slice(from),
            }
        }
    });
}

/// The constants of a local response normalisation.
#[derive(Clone, Copy)]
pub(crate) struct Lrn {
    pub(crate) size: usize,
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    pub(crate) bias: f32,
}

impl Lrn {
    /// The channels whose squares count for one channel, in the order they are added.
    pub(crate) fn window(&self, channel: usize, channels: usize) -> Span {
        let before = self.size.saturating_sub(1) / 2;
        let first = channel.saturating_sub(before);
        Span::new(first, (channel + self.size - before).min(channels))
    }

    /// `x / (bias + alpha / size * sum)^beta`
    pub(crate) fn scaled(&self, x: f32, sum: f32) -> f32 {
        x / math::power(self.bias + self.alpha / self.size as f32 * sum, self.beta)
    }
}

/// Local response normalisation across channels.
pub(crate) fn lrn(threads: &Threads, input: View<'_>, lrn: Lrn, output: &mut Target<'_>) {
    let (work, channels) = (output.len() * 8, output.channels);
    threads.bands(output, work, |region, values| {
        let mut squares = vec![0.0; channels];
        let strip = region.cols.len() * channels;
        for (row, to) in region.rows.indices().zip(values.chunks_mut(strip)) {
            let from = input.strip(row, region.cols);
            for (to, from) in to.chunks_mut(channels).zip(from.chunks(channels)) {
                squares.iter_mut().zip(from).for_each(|(square, x)| *square = x * x);
                for (channel, to) in to.iter_mut().enumerate() {
                    let window = &squares[lrn.window(channel, channels).indices()];
                    let sum = window.iter().fold(0.0, |sum, square| sum + square);
                    *to = lrn.scaled(from[channel], sum);
                }
            }
        }
    });
}

/// The mean of so many positions: summed from `0.0` row by row, then divided.
pub(crate) fn global_average_pool(input: View<'_>, positions: usize, output: &mut Target<'_>) {
    let sums = output.values_mut();
    sums.fill(0.0);
    for pixel in input.values().chunks(input.channels.max(1)) {
        sums.iter_mut().zip(pixel).for_each(|(sum, x)| *sum += x);
    }
    let count = positions as f32;
    sums.iter_mut().for_each(|sum| *sum /= count);
}
