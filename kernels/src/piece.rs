//! A piece: the values of one region of one feature map, in memory as they go over the wire.
//!
//! ```text
//!  cols ->   pixel (row 0, col 0)   pixel (row 0, col 1)
//!            c0 c1 c2 ...           c0 c1 c2 ...          then row 1, row 2, ...
//! ```

use crate::error::KernelError;
use bytemuck::{Pod, Zeroable};
use ndarray::{Array3, ArrayView3};
use tiling::{Region, Span};

const _: () = assert!(cfg!(target_endian = "little"), "pieces are sent as they lie in memory");

/// One cache line, so that the allocation is aligned to it.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// Values of a cache line.
const LINE: usize = 16;

/// f32 values aligned to a cache line.
#[derive(Clone, Default)]
pub(crate) struct AlignedBuffer {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedBuffer {
    pub(crate) fn zeroed(len: usize) -> Self {
        let mut lines: Vec<Line> = bytemuck::zeroed_vec(len.div_ceil(LINE));
        huge_pages(&mut lines);
        Self { lines, len }
    }

    /// How many values fit without a new allocation.
    pub(crate) fn capacity(&self) -> usize {
        self.lines.len() * LINE
    }

    /// The same memory for another number of values, which must fit; their values are old ones.
    pub(crate) fn reused(mut self, len: usize) -> Self {
        assert!(len <= self.capacity());
        self.len = len;
        self
    }

    /// The values and what else the memory holds.
    pub(crate) fn all_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }

    pub(crate) fn values(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

/// From this many bytes on memory is asked for in huge pages.
#[cfg(target_os = "linux")]
const HUGE_FROM: usize = 4 << 20;

/// Asks for huge pages, which spare page faults and misses of the translation cache: reading
/// 200 MB of weights went from 10.6 to 14.2 GB/s. The system may say no, and nothing is lost.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn huge_pages(lines: &mut [Line]) {
    const PAGE: usize = 4 << 10;
    let bytes = size_of_val(lines);
    if bytes < HUGE_FROM {
        return;
    }
    let first = lines.as_mut_ptr().addr();
    let skipped = first.next_multiple_of(PAGE) - first;
    let whole = (bytes - skipped) / PAGE * PAGE;
    // Safety: whole pages inside the allocation, whose contents the advice does not change.
    unsafe {
        let start = lines.as_mut_ptr().cast::<u8>().add(skipped);
        libc::madvise(start.cast(), whole, libc::MADV_HUGEPAGE);
    }
}

#[cfg(not(target_os = "linux"))]
fn huge_pages(_: &mut [Line]) {}

/// The values of one region of one feature map: rows, cols, channels, dense.
///
/// *Shapes*: a general map is a piece of 1 row x 1 col with its elements as channels, in row-major
/// order.
#[derive(Clone)]
pub struct Piece {
    /// Where it lies in its map.
    pub region: Region,
    /// Channels of the map.
    pub channels: usize,
    values: AlignedBuffer,
}

impl Piece {
    /// All zeros.
    pub fn zeroed(region: Region, channels: usize) -> Self {
        Self { region, channels, values: AlignedBuffer::zeroed(region.positions() * channels) }
    }

    /// Takes over values.
    ///
    /// *Errors*: their number is not positions times channels.
    pub fn from_values(
        region: Region,
        channels: usize,
        values: Vec<f32>,
    ) -> Result<Self, KernelError> {
        let expected = region.positions().checked_mul(channels);
        if expected != Some(values.len()) {
            let (expected, got) = (expected.unwrap_or(usize::MAX), values.len());
            return Err(KernelError::PieceLength { region, channels, expected, got });
        }
        let mut piece = Self::zeroed(region, channels);
        piece.values_mut().copy_from_slice(&values);
        Ok(piece)
    }

    /// A piece over used memory; every value must still be written.
    pub(crate) fn from_buffer(region: Region, channels: usize, values: AlignedBuffer) -> Self {
        assert_eq!(values.values().len(), region.positions() * channels);
        Self { region, channels, values }
    }

    pub(crate) fn into_buffer(self) -> AlignedBuffer {
        self.values
    }

    /// A whole map from logical order (channels, rows, cols).
    pub fn from_chw(values: ArrayView3<'_, f32>) -> Self {
        let (channels, rows, cols) = values.dim();
        let region = Region::new(Span::whole(rows), Span::whole(cols));
        let mut piece = Self::zeroed(region, channels);
        let in_memory_order = values.permuted_axes([1, 2, 0]);
        piece
            .values_mut()
            .iter_mut()
            .zip(in_memory_order.iter())
            .for_each(|(to, from)| *to = *from);
        piece
    }

    /// The values in logical order (channels, rows, cols).
    pub fn to_chw(&self) -> Array3<f32> {
        let dims = (self.region.rows.len(), self.region.cols.len(), self.channels);
        let view = ArrayView3::from_shape(dims, self.values()).expect("a piece fills its region");
        view.permuted_axes([2, 0, 1]).as_standard_layout().into_owned()
    }

    /// The values in order of rows, cols, channels.
    pub fn values(&self) -> &[f32] {
        self.values.values()
    }

    /// The values in order of rows, cols, channels.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.values.values_mut()
    }

    /// The values as little-endian bytes.
    pub fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.values())
    }

    /// The values as little-endian bytes, to read into.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(self.values_mut())
    }

    /// Size on the wire.
    pub fn byte_len(&self) -> usize {
        size_of_val(self.values())
    }

    /// Copies a sub-region out.
    ///
    /// *Panics* when the region is not inside.
    pub fn crop(&self, region: Region) -> Piece {
        assert!(self.region.contains(region), "cannot crop {region} out of {}", self.region);
        let mut piece = Piece::zeroed(region, self.channels);
        piece.paste(self);
        piece
    }

    /// Copies the part of another piece of the same map that lies in this one.
    ///
    /// *Panics* when the channels differ.
    pub fn paste(&mut self, piece: &Piece) {
        assert_eq!(self.channels, piece.channels, "pieces of one map have the same channels");
        self.paste_strips(piece.region, piece.values());
    }

    /// Copies the values of a region of the same map, as they came over the wire, into this piece.
    ///
    /// *Errors*: their number is not positions times channels.
    pub fn paste_values(&mut self, region: Region, values: &[f32]) -> Result<(), KernelError> {
        let channels = self.channels;
        let expected = region.positions().checked_mul(channels);
        if expected != Some(values.len()) {
            let (expected, got) = (expected.unwrap_or(usize::MAX), values.len());
            return Err(KernelError::PieceLength { region, channels, expected, got });
        }
        self.paste_strips(region, values);
        Ok(())
    }

    fn paste_strips(&mut self, region: Region, values: &[f32]) {
        let common = self.region.intersect(region);
        let strip = common.cols.len() * self.channels;
        for row in common.rows.indices() {
            let from = offset(region, self.channels, row, common.cols.start);
            let to = offset(self.region, self.channels, row, common.cols.start);
            self.values.values_mut()[to..to + strip].copy_from_slice(&values[from..from + strip]);
        }
    }
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Piece({} x {} channels)", self.region, self.channels)
    }
}

/// Where a position of the map starts in a piece's values.
pub(crate) fn offset(region: Region, channels: usize, row: usize, col: usize) -> usize {
    ((row - region.rows.start) * region.cols.len() + col - region.cols.start) * channels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(rows: usize, cols: usize, channels: usize) -> Piece {
        let region = Region::new(Span::whole(rows), Span::whole(cols));
        let values = (0..rows * cols * channels).map(|i| i as f32).collect();
        Piece::from_values(region, channels, values).unwrap()
    }

    #[test]
    fn pasted_crops_make_the_whole_again() {
        let whole = numbered(5, 7, 3);
        let mut again = Piece::zeroed(whole.region, 3);
        for rows in [Span::new(0, 2), Span::new(2, 5)] {
            for cols in [Span::new(0, 3), Span::new(3, 7)] {
                again.paste(&whole.crop(Region::new(rows, cols)));
            }
        }
        assert_eq!(again.values(), whole.values());
    }

    #[test]
    fn logical_order_is_channels_rows_cols() {
        let piece = numbered(2, 3, 4);
        let chw = piece.to_chw();
        assert_eq!(chw.dim(), (4, 2, 3));
        assert_eq!(chw[[3, 1, 2]], piece.values()[(3 + 2) * 4 + 3]);
        assert_eq!(Piece::from_chw(chw.view()).values(), piece.values());
    }

    #[test]
    fn the_values_start_at_a_cache_line() {
        for len in [1, 15, 16, 17] {
            let piece = numbered(1, 1, len);
            assert_eq!(piece.values().as_ptr().addr() % 64, 0);
            assert_eq!(piece.byte_len(), 4 * len);
        }
    }

    #[test]
    fn a_wrong_length_is_an_error() {
        let region = Region::new(Span::whole(2), Span::whole(2));
        let error = Piece::from_values(region, 3, vec![0.0; 11]).unwrap_err();
        assert!(error.to_string().contains("has 12 values, got 11"), "{error}");
    }
}
