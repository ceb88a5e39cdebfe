//! Where a convolution finds its input: pixel blocks, and rows of values with padding in place.
//!
//! Most blocks of a row read the input piece as it is. A block whose windows reach outside the
//! map reads a strip instead: a copy of just its columns, with zeros for the padding.
//!
//! ```text
//!    map row      | 0 1 2 3 4 5 6 7 8 9 ... 25 26 27 |
//!    blocks       [ strip 0 ][  input   ][  strip 1  ]
//!    strip 0     0 0 1 2 3 4 5                          (0: padding left of the map)
//! ```
//!
//! A kernel row above or below the map reads one shared run of zeros.

use super::Part;
use crate::view::View;
use model::{Axes, Pads, Window};
use std::ops::Range;
use tiling::{Region, Span};

/// Neighbouring output pixels of one row that a micro-kernel computes together.
pub(super) struct Block {
    /// First output column, in the map.
    pub(super) out_col: usize,
    pub(super) pixels: usize,
    /// First input column of the first pixel's window; negative in the padding.
    first_col: isize,
    /// Input columns that the block reads.
    span: usize,
    /// Where its strip starts within a row of strips, in values; none when no padding is read.
    strip: Option<usize>,
}

/// The input of one part.
pub(super) struct Source<'a> {
    input: View<'a>,
    window: &'a Window,
    pub(super) blocks: Vec<Block>,
    zeros: Vec<f32>,
    strips: Vec<f32>,
    /// Values of one row of all strips.
    strip_row: usize,
    /// Input rows that the strips hold.
    strip_rows: Span,
}

/// The input region that an output region reads, without the padding.
pub(super) fn field(window: &Window, output: Region, input: &View<'_>) -> Region {
    if output.is_empty() {
        return Region::EMPTY;
    }
    let Window { kernel, stride, dilation, pads } = *window;
    let rows = touched(output.rows, kernel.rows, stride.rows, dilation.rows, pads.top);
    let cols = touched(output.cols, kernel.cols, stride.cols, dilation.cols, pads.left);
    Region::new(inside(rows, input.map_rows), inside(cols, input.map_cols))
}

/// First input index and the one after the last, padding included.
fn touched(out: Span, kernel: usize, stride: usize, dilation: usize, pad: usize) -> (isize, isize) {
    let first = (out.start * stride) as isize - pad as isize;
    let last = ((out.end - 1) * stride + (kernel - 1) * dilation) as isize - pad as isize;
    (first, last + 1)
}

/// The part of a range that lies in the map.
fn inside((first, end): (isize, isize), len: usize) -> Span {
    Span::new(first.max(0) as usize, (end.max(0) as usize).min(len))
}

impl<'a> Source<'a> {
    pub(super) fn new(input: View<'a>, window: &'a Window, part: &Part, pixels_max: usize) -> Self {
        let Window { kernel: Axes { cols: kernel, .. }, stride, dilation, pads } = *window;
        let Pads { left, .. } = pads;
        let count = part.cols.len().div_ceil(pixels_max).max(1);
        let mut blocks = Vec::with_capacity(count);
        let (mut strip_row, mut span_max) = (0, 0);
        for cols in crate::threads::split(part.cols, count) {
            if cols.is_empty() {
                continue;
            }
            let (first_col, end) = touched(cols, kernel, stride.cols, dilation.cols, left);
            let span = (end - first_col) as usize;
            span_max = span_max.max(span);
            let padded = first_col < 0 || end as usize > input.map_cols;
            let strip = padded.then_some(strip_row);
            if padded {
                strip_row += span * input.step;
            }
            let (out_col, pixels) = (cols.start, cols.len());
            blocks.push(Block { out_col, pixels, first_col, span, strip });
        }
        let zeros = vec![0.0; span_max * input.step];
        let (strips, strip_rows) = (Vec::new(), Span::EMPTY);
        Self { input, window, blocks, zeros, strips, strip_row, strip_rows }
    }

    /// As [`Source::rows`], for a kernel that fills in the padding left and right by itself: the
    /// columns of the block that are inside the map; the others must not be read.
    pub(super) fn bare_rows(
        &self,
        output_row: usize,
        block: &Block,
        rows: &mut Vec<*const f32>,
    ) -> Range<usize> {
        let Window { kernel, stride, dilation, pads } = *self.window;
        let end = block.first_col + block.span as isize;
        let cols = inside((block.first_col, end), self.input.map_cols);
        let skipped = (cols.start as isize - block.first_col).max(0) as usize;
        rows.clear();
        for k in 0..kernel.rows {
            let row = (output_row * stride.rows + k * dilation.rows) as isize - pads.top as isize;
            let outside = row < 0 || row as usize >= self.input.map_rows || cols.is_empty();
            rows.push(if outside {
                self.zeros[..block.span * self.input.step].as_ptr()
            } else {
                let first = self.input.pointer(row as usize, cols);
                first.wrapping_sub(skipped * self.input.step)
            });
        }
        if cols.is_empty() { 0..0 } else { skipped..skipped + cols.len() }
    }

    /// Makes the strips of the input rows that some output rows read.
    pub(super) fn fill(&mut self, output_rows: Span) {
        if self.strip_row == 0 || output_rows.is_empty() {
            return;
        }
        let Window { kernel, stride, dilation, pads } = *self.window;
        let rows = touched(output_rows, kernel.rows, stride.rows, dilation.rows, pads.top);
        self.strip_rows = inside(rows, self.input.map_rows);
        let len = self.strip_rows.len() * self.strip_row;
        // The padding of a strip is the same in every row, so it is cleared only once.
        if self.strips.len() < len {
            self.strips.resize(len, 0.0);
        }
        let step = self.input.step;
        for (row, to) in self.strip_rows.indices().zip(self.strips.chunks_mut(self.strip_row)) {
            for block in &self.blocks {
                let Some(at) = block.strip else { continue };
                let end = block.first_col + block.span as isize;
                let cols = inside((block.first_col, end), self.input.map_cols);
                if cols.is_empty() {
                    continue;
                }
                let skipped = (cols.start as isize - block.first_col) as usize;
                let to = to[at + skipped * step..].chunks_mut(step);
                for (col, to) in cols.indices().zip(to) {
                    let from = self.input.pixel(row, col);
                    to[..from.len()].copy_from_slice(from);
                }
            }
        }
    }

    /// For each kernel row, where the first tap of the block's first pixel lies.
    ///
    /// From each of these the values of `span` columns are readable. The strips of the block's
    /// rows have been filled.
    pub(super) fn rows(&self, output_row: usize, block: &Block, rows: &mut Vec<*const f32>) {
        let Window { kernel, stride, dilation, pads } = *self.window;
        rows.clear();
        for k in 0..kernel.rows {
            let row = (output_row * stride.rows + k * dilation.rows) as isize - pads.top as isize;
            let len = block.span * self.input.step;
            rows.push(if row < 0 || row as usize >= self.input.map_rows {
                self.zeros[..len].as_ptr()
            } else if let Some(at) = block.strip {
                let filled = row as usize - self.strip_rows.start;
                self.strips[filled * self.strip_row + at..][..len].as_ptr()
            } else {
                let first = block.first_col as usize;
                self.input.pointer(row as usize, Span::new(first, first + block.span))
            });
        }
    }
}
