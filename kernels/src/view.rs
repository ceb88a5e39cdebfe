//! What a layer reads and writes: regions of maps, some of which lie inside a wider map.
//!
//! ```text
//!   a position of the joined map      a0 a1 a2 | b0 b1
//!   a view of `b`                                b0 b1    step 5, channels 2
//! ```
//!
//! Safety of the module: a view or a target is made from memory that is readable, or writable, as
//! long as it lives. Two maps inside one joined map share no value, but the ranges from the first
//! to the last value of each overlap; so both are pointers, and slices are made only of single
//! positions or of maps that lie on their own.
#![allow(unsafe_code)]

use crate::piece::{Piece, offset};
use std::marker::PhantomData;
use tiling::{Region, Span};

/// A region of a map to read, with the size of the map it is cut from.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    /// The first channel of the first position.
    first: *const f32,
    pub(crate) region: Region,
    pub(crate) channels: usize,
    /// Values from one position to the next: more than `channels` inside a wider map.
    pub(crate) step: usize,
    pub(crate) map_rows: usize,
    pub(crate) map_cols: usize,
    values: PhantomData<&'a [f32]>,
}

// Safety: a target is an exclusive reference in all but name.
unsafe impl Send for Target<'_> {}

// Safety: a view is a shared reference in all but name.
unsafe impl Send for View<'_> {}
unsafe impl Sync for View<'_> {}

impl<'a> View<'a> {
    /// A whole piece.
    pub(crate) fn new(piece: &'a Piece, shape: &model::Shape) -> Self {
        let first = piece.values().as_ptr();
        // Safety: the piece holds its region.
        unsafe { Self::at(first, piece.region, piece.channels, piece.channels, shape) }
    }

    /// A region of a map that starts somewhere in memory.
    ///
    /// *Safety*: the channels of all positions of the region are readable while the view lives,
    /// and nobody writes them.
    pub(crate) unsafe fn at(
        first: *const f32,
        region: Region,
        channels: usize,
        step: usize,
        shape: &model::Shape,
    ) -> Self {
        assert!(step >= channels);
        let (map_rows, map_cols) = (shape.rows(), shape.cols());
        Self { first, region, channels, step, map_rows, map_cols, values: PhantomData }
    }

    /// Whether the map lies on its own.
    pub(crate) fn is_dense(&self) -> bool {
        self.step == self.channels
    }

    /// All values of a map that lies on its own.
    pub(crate) fn values(&self) -> &'a [f32] {
        assert!(self.is_dense());
        let len = self.region.positions() * self.channels;
        // Safety: a dense region is one range.
        unsafe { std::slice::from_raw_parts(self.first, len) }
    }

    /// The values of some columns of one row; all must be inside. The map lies on its own.
    pub(crate) fn strip(&self, row: usize, cols: Span) -> &'a [f32] {
        assert!(self.is_dense());
        let len = cols.len() * self.channels;
        // Safety: the columns are inside, as `pointer` asserts, and dense.
        unsafe { std::slice::from_raw_parts(self.pointer(row, cols), len) }
    }

    /// The channels of one position, which must be inside.
    pub(crate) fn pixel(&self, row: usize, col: usize) -> &'a [f32] {
        let first = self.pointer(row, Span::new(col, col + 1));
        // Safety: the position is inside, as `pointer` asserts.
        unsafe { std::slice::from_raw_parts(first, self.channels) }
    }

    /// The first of some columns of one row; all must be inside.
    pub(crate) fn pointer(&self, row: usize, cols: Span) -> *const f32 {
        assert!(self.region.contains(Region::new(Span::new(row, row + 1), cols)));
        // Safety: the position is inside.
        unsafe { self.first.add(offset(self.region, self.step, row, cols.start)) }
    }

    /// Some whole rows as one long row of a map of its own.
    pub(crate) fn as_one_row(&self, rows: Span) -> Self {
        assert!(self.region.rows.contains(rows));
        let positions = rows.len() * self.region.cols.len();
        let skipped = (rows.start - self.region.rows.start) * self.region.cols.len();
        // Safety: the rows are inside.
        let first = unsafe { self.first.add(skipped * self.step) };
        let region = Region::new(Span::whole(1), Span::whole(positions));
        Self { first, region, map_rows: 1, map_cols: positions, ..*self }
    }
}

/// Where a layer writes a region of its map.
pub(crate) struct Target<'a> {
    /// The first channel of the first position.
    first: *mut f32,
    pub(crate) region: Region,
    pub(crate) channels: usize,
    /// As of a [`View`].
    pub(crate) step: usize,
    values: PhantomData<&'a mut [f32]>,
}

impl<'a> Target<'a> {
    /// A whole piece.
    pub(crate) fn of(piece: &'a mut Piece) -> Self {
        let (region, channels) = (piece.region, piece.channels);
        // Safety: the piece holds its region, and is borrowed for as long.
        unsafe { Self::at(piece.values_mut().as_mut_ptr(), region, channels, channels) }
    }

    /// A region of a map that starts somewhere in memory.
    ///
    /// *Safety*: the channels of all positions of the region are writable while the target lives,
    /// and nobody else reads or writes them.
    pub(crate) unsafe fn at(first: *mut f32, region: Region, channels: usize, step: usize) -> Self {
        assert!(step >= channels);
        Self { first, region, channels, step, values: PhantomData }
    }

    /// The number of values.
    pub(crate) fn len(&self) -> usize {
        self.region.positions() * self.channels
    }

    /// The values of a map that lies on its own.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.step, self.channels);
        // Safety: a dense region is one range.
        unsafe { std::slice::from_raw_parts_mut(self.first, self.len()) }
    }

    /// The first channel of the first position.
    pub(crate) fn pointer(&mut self) -> *mut f32 {
        self.first
    }

    /// Some channels of all positions.
    pub(crate) fn part(&mut self, channel: usize, channels: usize) -> Target<'_> {
        assert!(channel + channels <= self.channels);
        // Safety: the channels are inside; this target is lent out for as long.
        unsafe { Target::at(self.first.add(channel), self.region, channels, self.step) }
    }

    /// Bands of rows.
    pub(crate) fn split_rows(&mut self, parts: usize) -> Vec<Target<'_>> {
        let Region { rows, cols } = self.region;
        let band = |span: Span| {
            let skipped = (span.start - rows.start) * cols.len() * self.step;
            // Safety: the bands are inside and disjoint; this target is lent out for as long.
            unsafe {
                let first = self.first.add(skipped);
                Target::at(first, Region::new(span, cols), self.channels, self.step)
            }
        };
        crate::threads::split(rows, parts).into_iter().map(band).collect()
    }

    /// Copies a view of the same map, which covers the region.
    pub(crate) fn copy(&mut self, from: View<'_>) {
        assert_eq!(self.channels, from.channels);
        let Region { rows, cols } = self.region;
        for (i, row) in rows.indices().enumerate() {
            for (j, col) in cols.indices().enumerate() {
                let from = from.pixel(row, col);
                let position = i * cols.len() + j;
                // Safety: the position is inside, and nobody else reads it now.
                unsafe {
                    let to = self.first.add(position * self.step);
                    std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len());
                }
            }
        }
    }
}
