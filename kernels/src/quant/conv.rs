//! Dense convolution over bytes in NHWC.
//!
//! Where no padding is read the micro-kernels read the input piece itself. Else rows are copied
//! with the padding in place, some rows at a time so that the copies stay in the cache.
//!
//! Safety of the module: [`run`] asserts that the input piece contains what the output region
//! reads, and that the packed weights fit both; every pointer below is derived from these. A piece
//! has a line of 64 bytes after its values, so that a run may be read to its end.
#![allow(unsafe_code)]

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::dot::Dot;
use super::dot::{Dots, Micro, Portable};
use super::pack::{PANEL, PackedQuant};
use super::reach;
use super::requantize::{Block, SUMS};
use crate::piece::AlignedBuffer;
use crate::threads::{Threads, split};
use crate::view::{Target, View};
use model::{Axes, Pads, Window};
use std::ops::Range;
use tiling::{Region, Span};

/// A convolution of one region.
struct Conv<'a> {
    input: View<'a, u8>,
    window: &'a Window,
    packed: &'a PackedQuant,
    region: Region,
    /// Channels of the output.
    channels: usize,
}

/// Which share of the output one thread computes.
struct Part {
    region: Region,
    /// Pairs of panels, counted over all groups.
    pairs: Range<usize>,
}

/// The output bytes, written by several threads at disjoint places.
#[derive(Clone, Copy)]
struct Out(*mut u8);

// Safety: the parts of one run are disjoint in rows, in cols or in output channels.
unsafe impl Sync for Out {}
// Safety: as above.
unsafe impl Send for Out {}

/// Multiply-adds below which one thread is faster than waking the others.
const MULTIPLY_ADDS_MIN: usize = 1 << 20;

/// A window of one tap.
const ONE: Window = Window {
    kernel: Axes::new(1, 1),
    stride: Axes::new(1, 1),
    dilation: Axes::new(1, 1),
    pads: Pads { top: 0, left: 0, bottom: 0, right: 0 },
};

/// Computes a region of a convolution.
///
/// *Panics* when the input piece lacks a part of what is read, or the weights do not fit.
pub(super) fn run(
    threads: &Threads,
    input: View<'_, u8>,
    window: &Window,
    packed: &PackedQuant,
    output: &mut Target<'_>,
) {
    let region = output.region;
    let Window { kernel, stride, pads, .. } = *window;
    let one_tap = kernel == ONE.kernel && stride == ONE.stride && pads.top == 0 && pads.left == 0;
    // Output rows and cols right of the map or below it read padding, and are not the input's.
    let same = region.cols == input.region.cols && input.region.rows.contains(region.rows);
    if one_tap && same {
        // Whole rows are one long row, so that no block of pixels is cut short.
        let view = input.as_one_row(region.rows);
        return run_positions(threads, view, packed, output.typed_mut());
    }
    let channels = output.channels;
    run_region(threads, &Conv { input, window, packed, region, channels }, output.typed_mut());
}

/// Computes a convolution of one tap over one row of positions.
pub(super) fn run_positions(
    threads: &Threads,
    input: View<'_, u8>,
    packed: &PackedQuant,
    output: &mut [u8],
) {
    let channels = packed.groups * packed.group_outputs;
    let conv = Conv { input, window: &ONE, packed, region: input.region, channels };
    run_region(threads, &conv, output);
}

// Where there is plain code alone, nothing of it is unsafe.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(unused_unsafe))]
fn run_region(threads: &Threads, conv: &Conv<'_>, output: &mut [u8]) {
    let Conv { input, window, packed, region, channels } = *conv;
    assert_eq!(window.kernel, packed.kernel);
    assert_eq!(input.channels, packed.groups * packed.group_inputs);
    assert_eq!(channels, packed.groups * packed.group_outputs);
    assert_eq!(output.len(), region.positions() * channels);
    if region.is_empty() {
        return;
    }
    let inside = |(first, end): (isize, isize), len: usize| {
        Span::new((first.max(0) as usize).min(len), (end.max(0) as usize).min(len))
    };
    let [rows, cols] = reach(window, region);
    let read = Region::new(inside(rows, input.map_rows), inside(cols, input.map_cols));
    assert!(read.is_empty() || input.region.contains(read));
    let parts = parts(threads.count, conv);
    let out = Out(output.as_mut_ptr());
    threads.for_each_part(parts.len(), |i| {
        let (part, out) = (&parts[i], &out);
        // Safety: `Cpu` names only what the processor has.
        unsafe {
            match threads.cpu.dot() {
                #[cfg(target_arch = "x86_64")]
                Dot::Amx => compute(conv, part, *out, super::dot::Amx::new()),
                #[cfg(target_arch = "x86_64")]
                Dot::Vnni512 => compute(conv, part, *out, super::dot::Vnni512::new()),
                #[cfg(target_arch = "x86_64")]
                Dot::VnniAvx => compute(conv, part, *out, super::dot::VnniAvx::new()),
                #[cfg(target_arch = "x86_64")]
                Dot::Avx2 => compute(conv, part, *out, super::dot::Avx2::new()),
                #[cfg(target_arch = "aarch64")]
                Dot::Sdot => compute(conv, part, *out, super::dot::NeonDot::new()),
                #[cfg(target_arch = "aarch64")]
                Dot::Neon => compute(conv, part, *out, super::dot::Neon),
                _ => compute(conv, part, *out, Portable),
            }
        }
    });
}

/// Cuts the output over the threads: by output channels where the weights are the larger part of
/// what is read, else by rows, or by columns where there are few rows.
fn parts(threads: usize, conv: &Conv<'_>) -> Vec<Part> {
    let Conv { input, packed, region, channels, .. } = conv;
    let pairs = packed.groups * packed.panels_per_group().div_ceil(2);
    let multiply_adds = region.positions() * channels * packed.depth();
    if threads == 1 || multiply_adds < MULTIPLY_ADDS_MIN {
        return vec![Part { region: *region, pairs: 0..pairs }];
    }
    let weights_dominate = packed.values.bytes().len() > input.values().len();
    if weights_dominate && (pairs.is_multiple_of(threads) || pairs >= 8 * threads) {
        let share = |s: Span| Part { region: *region, pairs: s.indices() };
        return split(Span::whole(pairs), threads).into_iter().map(share).collect();
    }
    let share = |region| Part { region, pairs: 0..pairs };
    let Region { rows, cols } = *region;
    if rows.len() >= threads {
        let cut = split(rows, threads).into_iter();
        return cut.map(|rows| share(Region::new(rows, cols))).collect();
    }
    let cut = split(cols, threads.min(cols.len()).max(1)).into_iter();
    cut.map(|cols| share(Region::new(rows, cols))).collect()
}

/// Bytes of input that all panels read again, and of output that they write side by side: about
/// what the first-level cache holds.
const CHUNK_BYTES: usize = 48 << 10;

/// Where the bytes of a chunk of output are read: row by row, padding included.
struct Rows {
    /// The byte of the first row and column.
    start: *const u8,
    row_step: usize,
    first_row: isize,
    first_col: isize,
}

/// Copies of rows with their padding; each thread has its own.
#[derive(Default)]
pub(super) struct Padded {
    buffer: AlignedBuffer,
}

impl Padded {
    /// The rows that a chunk of output reads, with padding; and where the first of them starts.
    ///
    /// The result is the bytes from one row to the next, and the first row and column.
    pub(super) fn fill(
        &mut self,
        input: &View<'_, u8>,
        window: &Window,
        chunk: Region,
        padding: u8,
    ) -> (&[u8], usize, isize, isize) {
        let [rows, cols] = reach(window, chunk);
        let row_step = (cols.1 - cols.0) as usize * input.channels;
        let len = (rows.1 - rows.0) as usize * row_step;
        if self.buffer.capacity() * size_of::<f32>() < len {
            self.buffer = AlignedBuffer::zeroed_bytes(len);
        }
        let bytes = &mut self.buffer.bytes_mut()[..len];
        let copied =
            Span::new(cols.0.max(0) as usize, (cols.1.max(0) as usize).min(input.map_cols));
        for (row, to) in (rows.0..rows.1).zip(bytes.chunks_mut(row_step.max(1))) {
            if row < 0 || row as usize >= input.map_rows || copied.end <= copied.start {
                to.fill(padding);
                continue;
            }
            let before = (copied.start as isize - cols.0) as usize * input.channels;
            let from = input.strip(row as usize, copied);
            to[..before].fill(padding);
            to[before..before + from.len()].copy_from_slice(from);
            to[before + from.len()..].fill(padding);
        }
        (&self.buffer.bytes()[..len], row_step, rows.0, cols.0)
    }
}

/// Computes a part, chunk by chunk.
fn compute<D: Dots>(conv: &Conv<'_>, part: &Part, out: Out, mut dots: D) {
    let Conv { input, window, packed, region, .. } = conv;
    let [rows, cols] = reach(window, part.region);
    let is_padded = rows.0 < 0
        || cols.0 < 0
        || rows.1 as usize > input.map_rows
        || cols.1 as usize > input.map_cols;
    let mut padded = Padded::default();
    let mut work = Work {
        packed,
        window,
        channels: conv.channels,
        in_channels: input.channels,
        sums: vec![0; D::PIXELS * SUMS],
        inputs: vec![0; D::PIXELS],
        runs: Vec::with_capacity(packed.runs),
    };
    for chunk in chunks(conv, part, D::PIXELS) {
        let rows = if is_padded {
            let (bytes, row_step, first_row, first_col) =
                padded.fill(input, window, chunk, packed.padding);
            Rows { start: bytes.as_ptr(), row_step, first_row, first_col }
        } else {
            let at = input.region;
            Rows {
                start: input.values().as_ptr(),
                row_step: at.cols.len() * input.channels,
                first_row: at.rows.start as isize,
                first_col: at.cols.start as isize,
            }
        };
        let place = |row: usize, col: usize| {
            let position = (row - region.rows.start) * region.cols.len() + col - region.cols.start;
            // Safety: the position is inside the output.
            unsafe { out.0.add(position * conv.channels) }
        };
        for pair in part.pairs.clone() {
            work.pair(&mut dots, pair, chunk, &rows, place);
        }
    }
}

/// Cuts a part so that the input of each share stays in the cache while all panels read it.
fn chunks(conv: &Conv<'_>, part: &Part, pixels: usize) -> Vec<Region> {
    let Conv { input, window, packed, .. } = conv;
    let Region { rows, cols } = part.region;
    // Weights that do not fit the cache are read once for each chunk: then it is as large.
    let bytes = CHUNK_BYTES.max(packed.values.bytes().len());
    let pixel = input.channels * window.stride.cols * window.stride.rows + conv.channels;
    let row_bytes = (cols.len() * pixel).max(1);
    if rows.len() == 1 {
        let length = (bytes / pixel.max(1)).max(1).next_multiple_of(pixels);
        let count = cols.len().div_ceil(length);
        let starts = (0..count).map(|i| cols.start + i * length);
        let cut = starts.map(|start| Span::new(start, (start + length).min(cols.end)));
        return cut.map(|cols| Region::new(rows, cols)).collect();
    }
    let count = rows.len().div_ceil((bytes / row_bytes).max(1));
    split(rows, count).into_iter().map(|rows| Region::new(rows, cols)).collect()
}

/// What stays the same over a part, and memory for a block.
struct Work<'a> {
    packed: &'a PackedQuant,
    window: &'a Window,
    channels: usize,
    in_channels: usize,
    sums: Vec<i32>,
    /// Sums of a block's inputs, where weights have zero points.
    inputs: Vec<i32>,
    runs: Vec<*const u8>,
}

impl Work<'_> {
    /// One pair of panels over a chunk.
    fn pair<D: Dots>(
        &mut self,
        dots: &mut D,
        pair: usize,
        chunk: Region,
        rows: &Rows,
        place: impl Fn(usize, usize) -> *mut u8,
    ) {
        let packed = self.packed;
        let pairs_per_group = packed.panels_per_group().div_ceil(2);
        let (group, pair) = (pair / pairs_per_group, pair % pairs_per_group);
        let panel = group * packed.panels_per_group() + 2 * pair;
        let first_out = 2 * pair * PANEL;
        let outs = (packed.group_outputs - first_out).min(2 * PANEL);
        let panel_step = packed.panel_bytes();
        let weights = &packed.values.bytes()[panel * panel_step..];
        assert!(weights.len() >= outs.div_ceil(PANEL) * panel_step);
        let lanes = panel * PANEL..panel * PANEL + outs;
        let count = chunk.cols.len().div_ceil(D::PIXELS).max(1);
        let blocks = split(chunk.cols, count);
        let Window { kernel, stride, dilation, pads } = *self.window;
        for row in chunk.rows.indices() {
            for cols in &blocks {
                let top = (row * stride.rows) as isize - pads.top as isize - rows.first_row;
                let left =
                    (cols.start * stride.cols) as isize - pads.left as isize - rows.first_col;
                let at = |y: usize, x: usize| {
                    let row = (top as usize + y * dilation.rows) * rows.row_step;
                    let col = (left as usize + x * dilation.cols) * self.in_channels;
                    // Safety: a tap of the block, which the rows hold.
                    unsafe { rows.start.add(row + col + group * packed.group_inputs) }
                };
                self.runs.clear();
                let taps = packed.runs / kernel.rows;
                let all = (0..kernel.rows).flat_map(|y| (0..taps).map(move |x| (y, x)));
                self.runs.extend(all.map(|(y, x)| at(y, x)));
                let micro = Micro {
                    runs: &self.runs,
                    run_len: packed.run_len,
                    pixel_step: stride.cols * self.in_channels,
                    weights: weights.as_ptr(),
                    run_step: packed.run_bytes(),
                    panel_step,
                    pixels: cols.len(),
                    panels: outs.div_ceil(PANEL),
                    sums: self.sums.as_mut_ptr(),
                };
                let out_channel = group * packed.group_outputs + first_out;
                let block = Block {
                    sums: self.sums.as_ptr(),
                    pixels: cols.len(),
                    offsets: &packed.offsets[lanes.clone()],
                    scales: &packed.scales[lanes.clone()],
                    numbers: &packed.numbers,
                    // Safety: the channels of this pair are inside the pixel's.
                    out: unsafe { place(row, cols.start).add(out_channel) },
                    out_step: self.channels,
                };
                let Some(ones) = &packed.ones else {
                    // Safety: the block's pixels, its panels, and room for the sums of all; and the
                    // bytes of the block.
                    unsafe { dots.bytes(&micro, &block) };
                    continue;
                };
                let of_ones = Micro { weights: ones.bytes().as_ptr(), panels: 1, ..micro };
                // Safety: as above; the panel of ones is as long as any other.
                unsafe { dots.dots(&of_ones) };
                for (pixel, input) in self.inputs.iter_mut().enumerate() {
                    *input = self.sums[pixel * SUMS];
                }
                // Safety: as above.
                unsafe { dots.dots(&micro) };
                let zeros = &packed.zeros[lanes.clone()];
                for (sums, input) in self.sums.chunks_mut(SUMS).zip(&self.inputs) {
                    for (sum, zero) in sums.iter_mut().zip(zeros) {
                        *sum = sum.wrapping_sub(zero.wrapping_mul(*input));
                    }
                }
                let block = Block { sums: self.sums.as_ptr(), ..block };
                // Safety: as above.
                unsafe { dots.requantize(&block) };
            }
        }
    }
}
