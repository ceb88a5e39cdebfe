//! The blocks of a Winograd convolution: where each finds its inputs, and what is fetched for it
//! before it is its turn.

use super::transform::{Transform, WIDTH_MAX};
use super::{Conv, Out};
use crate::pack::PANEL;
use crate::simd::Simd;
use std::ops::Range;
use tiling::{Region, Span};

/// A region that is computed.
pub(super) struct Job<'a> {
    pub(super) conv: Conv<'a>,
    pub(super) out: Out,
    pub(super) region: Region,
    /// The input that may be read.
    pub(super) field: Region,
}

impl Job<'_> {
    /// The row and col of the first input of a block; negative in the padding.
    pub(super) fn first_input(&self, block: &Block) -> (isize, isize) {
        let (Region { rows, cols }, pads) = (self.region, self.conv.window.pads);
        let row = (rows.start + block.row) as isize - pads.top as isize;
        let col = (cols.start + block.col) as isize - pads.left as isize;
        (row, col)
    }

    /// What a block will read, unless it overhangs.
    pub(super) fn input_soon<T: Transform>(&self, block: &Block) -> Option<Inside> {
        let readable = readable::<T>(self.field, self.first_input(block));
        let is_inside = readable.rows.len() == T::WIDTH && readable.cols.len() == T::WIDTH;
        is_inside.then(|| inside(&self.conv, readable))
    }

    /// What a block will write, unless it overhangs.
    pub(super) fn output_soon<T: Transform>(
        &self,
        block: &Block,
        panels: &Range<usize>,
    ) -> Option<Inside> {
        let (Region { rows, cols }, out) = (self.region, &self.out);
        if rows.len() < block.row + T::OUTPUTS || cols.len() < block.col + T::OUTPUTS {
            return None;
        }
        let first = out.at(rows.start + block.row, cols.start + block.col);
        let first = first.wrapping_add(panels.start * PANEL).cast_const();
        Some(Inside { first, row_step: out.row_step, col_step: out.step })
    }
}

/// What is fetched while other blocks are multiplied, since the transforms would wait for it: the
/// inputs of a block of the next chunk, and the place of the outputs of one of this chunk.
pub(super) struct Soon {
    pub(super) input: Option<Inside>,
    pub(super) output: Option<Inside>,
}

impl Soon {
    /// Fetches some channels of the input and of the output at one position: each is fetched at
    /// the position whose number it has.
    #[inline(always)]
    pub(super) fn fetch<S: Simd, T: Transform>(
        &self,
        s: S,
        position: usize,
        inputs: Range<usize>,
        outs: Range<usize>,
    ) {
        let (row, col) = (position / T::WIDTH, position % T::WIDTH);
        if let Some(input) = &self.input {
            let first = input.at(row, col);
            inputs.step_by(PANEL).for_each(|channel| s.prefetch(first.wrapping_add(channel)));
        }
        if row < T::OUTPUTS
            && col < T::OUTPUTS
            && let Some(output) = &self.output
        {
            let first = output.at(row, col);
            outs.step_by(PANEL).for_each(|channel| s.prefetch(first.wrapping_add(channel)));
        }
    }
}

/// `m x m` outputs of a job.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// Index into the jobs.
    pub(super) job: usize,
    /// The first output, counted from the first of the region.
    pub(super) row: usize,
    pub(super) col: usize,
}

/// Where the inputs of one block lie.
pub(super) trait Inputs: Copy {
    /// All channels of one input, counted from the block's first.
    fn at(&self, row: usize, col: usize) -> *const f32;
}

/// A block that reads the piece alone: values from one row and col to the next.
#[derive(Clone, Copy)]
pub(super) struct Inside {
    first: *const f32,
    row_step: usize,
    col_step: usize,
}

impl Inputs for Inside {
    #[inline(always)]
    fn at(&self, row: usize, col: usize) -> *const f32 {
        self.first.wrapping_add(row * self.row_step + col * self.col_step)
    }
}

/// A block that reads beyond what is there, with zeros in place of it.
#[derive(Clone, Copy)]
pub(super) struct Overhanging<'a>(pub(super) &'a [[*const f32; WIDTH_MAX]; WIDTH_MAX]);

impl Inputs for Overhanging<'_> {
    #[inline(always)]
    fn at(&self, row: usize, col: usize) -> *const f32 {
        self.0[row][col]
    }
}

/// The rows and cols of a block's inputs that may be read.
pub(super) fn readable<T: Transform>(field: Region, (row, col): (isize, isize)) -> Region {
    let inside = |start: isize, of: Span| {
        let clamp = |at: isize| (at.max(0) as usize).clamp(of.start, of.end);
        Span::new(clamp(start), clamp(start + T::WIDTH as isize))
    };
    Region::new(inside(row, field.rows), inside(col, field.cols))
}

/// Finds the inputs of a block that reads the piece alone.
pub(super) fn inside(conv: &Conv<'_>, readable: Region) -> Inside {
    let input = &conv.input;
    let first = input.pointer(readable.rows.start, readable.cols);
    // The last row is inside too.
    input.pointer(readable.rows.end - 1, readable.cols);
    Inside { first, row_step: input.region.cols.len() * input.step, col_step: input.step }
}

/// Finds the inputs of any block; `zeros` are as many as there are channels.
pub(super) fn overhanging(
    conv: &Conv<'_>,
    readable: Region,
    (row, col): (isize, isize),
    zeros: &[f32],
) -> [[*const f32; WIDTH_MAX]; WIDTH_MAX] {
    assert!(zeros.len() >= conv.input.channels);
    let mut at = [[zeros.as_ptr(); WIDTH_MAX]; WIDTH_MAX];
    if readable.is_empty() {
        return at;
    }
    for row_at in readable.rows.indices() {
        let first = conv.input.pointer(row_at, readable.cols);
        let to = &mut at[(row_at as isize - row) as usize];
        for (i, col_at) in readable.cols.indices().enumerate() {
            let to = &mut to[(col_at as isize - col) as usize];
            *to = first.wrapping_add(i * conv.input.step);
        }
    }
    at
}
