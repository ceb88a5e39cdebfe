//! What a layer reads and writes: regions of maps, some of which lie inside a wider map.
//!
//! ```text
//!   a position of the joined map      a0 a1 a2 | b0 b1
//!   a view of `b`                                b0 b1    step 5, channels 2
//! ```
//!
//! Safety of the module: a view or a target is made from memory that is readable, or writable, as
//! long as it lives, and in which every bit pattern is a value. Two maps inside one joined map
//! share no value, but the ranges from the first to the last value of each overlap; so both are
//! pointers, and slices are made only of single positions or of maps that lie on their own.
#![allow(unsafe_code)]

use crate::piece::{Piece, Value, offset};
use model::{Element, Shape};
use std::marker::PhantomData;
use tiling::{Region, Span};

/// A region of a map to read, with the size of the map it is cut from.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, T = f32> {
    /// The first channel of the first position.
    first: *const T,
    pub(crate) region: Region,
    pub(crate) channels: usize,
    /// Values from one position to the next: more than `channels` inside a wider map.
    pub(crate) step: usize,
    pub(crate) map_rows: usize,
    pub(crate) map_cols: usize,
    values: PhantomData<&'a [T]>,
}

// Safety: a view is a shared reference in all but name.
unsafe impl<T: Sync> Send for View<'_, T> {}
// Safety: as above.
unsafe impl<T: Sync> Sync for View<'_, T> {}

impl<'a, T: Value> View<'a, T> {
    /// A whole piece.
    #[cfg(test)]
    pub(crate) fn new(piece: &'a Piece, shape: &Shape) -> Self {
        Erased::new(piece, shape).typed()
    }

    /// A whole piece in place of a view of the same region.
    pub(crate) fn like(piece: &'a Piece, other: &Erased<'_>) -> Self {
        let (region, channels) = (piece.region, piece.channels);
        let first = piece.typed::<T>().as_ptr();
        let Erased { map_rows, map_cols, .. } = *other;
        Self { first, region, channels, step: channels, map_rows, map_cols, values: PhantomData }
    }

    /// Whether the map lies on its own.
    pub(crate) fn is_dense(&self) -> bool {
        self.step == self.channels
    }

    /// All values of a map that lies on its own.
    pub(crate) fn values(&self) -> &'a [T] {
        assert!(self.is_dense());
        let len = self.region.positions() * self.channels;
        // Safety: a dense region is one range.
        unsafe { std::slice::from_raw_parts(self.first, len) }
    }

    /// The values of some columns of one row; all must be inside. The map lies on its own.
    pub(crate) fn strip(&self, row: usize, cols: Span) -> &'a [T] {
        assert!(self.is_dense());
        let len = cols.len() * self.channels;
        // Safety: the columns are inside, as `pointer` asserts, and dense.
        unsafe { std::slice::from_raw_parts(self.pointer(row, cols), len) }
    }

    /// The channels of one position, which must be inside.
    pub(crate) fn pixel(&self, row: usize, col: usize) -> &'a [T] {
        let first = self.pointer(row, Span::new(col, col + 1));
        // Safety: the position is inside, as `pointer` asserts.
        unsafe { std::slice::from_raw_parts(first, self.channels) }
    }

    /// The first of some columns of one row; all must be inside.
    pub(crate) fn pointer(&self, row: usize, cols: Span) -> *const T {
        assert!(self.region.contains(Region::new(Span::new(row, row + 1), cols)));
        // Safety: the position is inside.
        unsafe { self.first.add(offset(self.region, self.step, row, cols.start)) }
    }

    /// The region as a map of its own.
    pub(crate) fn as_map(&self) -> Self {
        let (map_rows, map_cols) = (self.region.rows.len(), self.region.cols.len());
        let region = Region::new(Span::whole(map_rows), Span::whole(map_cols));
        Self { region, map_rows, map_cols, ..*self }
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

    /// All values as one row of positions with so many channels.
    pub(crate) fn as_positions(&self, channels: usize) -> Self {
        let positions = self.values().len() / channels.max(1);
        let region = Region::new(Span::whole(1), Span::whole(positions));
        Self { region, channels, step: channels, map_rows: 1, map_cols: positions, ..*self }
    }
}

/// A [`View`] that does not know the type of its values.
#[derive(Clone, Copy)]
pub(crate) struct Erased<'a> {
    first: *const u8,
    pub(crate) element: Element,
    pub(crate) region: Region,
    pub(crate) channels: usize,
    step: usize,
    map_rows: usize,
    map_cols: usize,
    values: PhantomData<&'a [u8]>,
}

// Safety: a view is a shared reference in all but name.
unsafe impl Sync for Erased<'_> {}

impl<'a> Erased<'a> {
    /// A whole piece.
    pub(crate) fn new(piece: &'a Piece, shape: &Shape) -> Self {
        let (first, channels) = (piece.as_bytes().as_ptr(), piece.channels);
        // Safety: the piece holds its region.
        unsafe { Self::at(first, piece.element(), piece.region, (channels, channels), shape) }
    }

    /// A region of a map that starts somewhere in memory, with its channels and the values from
    /// one position to the next.
    ///
    /// *Safety*: the channels of all positions of the region are readable while the view lives,
    /// nobody writes them, and the start is aligned for the element.
    pub(crate) unsafe fn at(
        first: *const u8,
        element: Element,
        region: Region,
        (channels, step): (usize, usize),
        shape: &Shape,
    ) -> Self {
        assert!(step >= channels);
        let (map_rows, map_cols) = (shape.rows(), shape.cols());
        Self { first, element, region, channels, step, map_rows, map_cols, values: PhantomData }
    }

    /// The view with values of a type of the element's size.
    pub(crate) fn typed<T: Value>(self) -> View<'a, T> {
        assert_eq!(size_of::<T>(), self.element.bytes());
        let Self { region, channels, step, map_rows, map_cols, .. } = self;
        let first = self.first.cast();
        View { first, region, channels, step, map_rows, map_cols, values: PhantomData }
    }
}

/// Where a layer writes a region of its map.
pub(crate) struct Target<'a> {
    /// The first channel of the first position.
    first: *mut u8,
    element: Element,
    pub(crate) region: Region,
    pub(crate) channels: usize,
    /// As of a [`View`].
    pub(crate) step: usize,
    values: PhantomData<&'a mut [u8]>,
}

// Safety: a target is an exclusive reference in all but name.
unsafe impl Send for Target<'_> {}

impl<'a> Target<'a> {
    /// A whole piece.
    pub(crate) fn of(piece: &'a mut Piece) -> Self {
        let (region, channels, element) = (piece.region, piece.channels, piece.element());
        let first = piece.as_bytes_mut().as_mut_ptr();
        // Safety: the piece holds its region, and is borrowed for as long.
        unsafe { Self::at(first, element, region, channels, channels) }
    }

    /// A region of a map that starts somewhere in memory.
    ///
    /// *Safety*: the channels of all positions of the region are writable while the target lives,
    /// nobody else reads or writes them, and the start is aligned for the element.
    pub(crate) unsafe fn at(
        first: *mut u8,
        element: Element,
        region: Region,
        channels: usize,
        step: usize,
    ) -> Self {
        assert!(step >= channels);
        Self { first, element, region, channels, step, values: PhantomData }
    }

    /// The number of values.
    pub(crate) fn len(&self) -> usize {
        self.region.positions() * self.channels
    }

    /// The values of a map of floats that lies on its own.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        self.typed_mut()
    }

    /// The values of a map that lies on its own, of a type of the element's size.
    pub(crate) fn typed_mut<T: Value>(&mut self) -> &mut [T] {
        assert_eq!(self.step, self.channels);
        let first = self.pointer();
        // Safety: a dense region is one range.
        unsafe { std::slice::from_raw_parts_mut(first, self.len()) }
    }

    /// The first channel of the first position.
    pub(crate) fn pointer<T: Value>(&mut self) -> *mut T {
        assert_eq!(size_of::<T>(), self.element.bytes());
        self.first.cast()
    }

    /// Some channels of all positions.
    pub(crate) fn part(&mut self, channel: usize, channels: usize) -> Target<'_> {
        assert!(channel + channels <= self.channels);
        let Self { first, element, region, step, .. } = *self;
        // Safety: the channels are inside; this target is lent out for as long.
        unsafe {
            let first = first.add(channel * element.bytes());
            Target::at(first, element, region, channels, step)
        }
    }

    /// Bands of rows.
    pub(crate) fn split_rows(&mut self, parts: usize) -> Vec<Target<'_>> {
        let Self { first, element, region: Region { rows, cols }, channels, step, .. } = *self;
        let band = |span: Span| {
            let skipped = (span.start - rows.start) * cols.len() * step * element.bytes();
            // Safety: the bands are inside and disjoint; this target is lent out for as long.
            unsafe {
                Target::at(first.add(skipped), element, Region::new(span, cols), channels, step)
            }
        };
        crate::threads::split(rows, parts).into_iter().map(band).collect()
    }

    /// Copies a view of the same map, which covers the region.
    pub(crate) fn copy(&mut self, from: Erased<'_>) {
        assert_eq!((self.channels, self.element), (from.channels, from.element));
        assert!(from.region.contains(self.region));
        let Region { rows, cols } = self.region;
        let size = self.element.bytes();
        let (bytes, is_dense) = (self.channels * size, self.step == self.channels);
        for (i, row) in rows.indices().enumerate() {
            let at = offset(from.region, from.step, row, cols.start);
            // Safety: the columns are inside on both sides, and nobody else touches them now.
            unsafe {
                let from_row = from.first.add(at * size);
                let to_row = self.first.add(i * cols.len() * self.step * size);
                if is_dense && from.step == from.channels {
                    std::ptr::copy_nonoverlapping(from_row, to_row, cols.len() * bytes);
                    continue;
                }
                for j in 0..cols.len() {
                    let from = from_row.add(j * from.step * size);
                    std::ptr::copy_nonoverlapping(from, to_row.add(j * self.step * size), bytes);
                }
            }
        }
    }
}
