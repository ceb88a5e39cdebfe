//! A piece: the values of one region of one feature map, in memory as they go over the wire.
//!
//! ```text
//!  cols ->   pixel (row 0, col 0)   pixel (row 0, col 1)
//!            c0 c1 c2 ...           c0 c1 c2 ...          then row 1, row 2, ...
//! ```

use crate::error::KernelError;
use bytemuck::{Pod, Zeroable};
use model::Element;
use ndarray::{Array3, ArrayView3};
use std::ops::Range;
use tiling::{Region, Span};

const _: () = assert!(cfg!(target_endian = "little"), "pieces are sent as they lie in memory");

/// As much as a system's allocator aligns by itself: of more, zeroed memory is not had as it is, but
/// written once more.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(16))]
struct Quad([f32; 4]);

/// Bytes of a cache line.
const LINE: usize = 64;

/// What the elements of a piece can be.
pub(crate) trait Value: Pod + Send + Sync {}

impl Value for f32 {}
impl Value for u8 {}
impl Value for i8 {}

/// f32 values aligned to a cache line.
///
/// One more line follows them, so that a kernel over bytes may read a whole vector from any of
/// them on.
#[derive(Default)]
pub(crate) struct AlignedBuffer {
    memory: Vec<Quad>,
    /// The part of it that starts where a line does.
    aligned: Range<usize>,
    len: usize,
}

impl Clone for AlignedBuffer {
    fn clone(&self) -> Self {
        let mut other = Self::zeroed(self.len);
        other.values_mut().copy_from_slice(self.values());
        other
    }
}

impl AlignedBuffer {
    pub(crate) fn zeroed(len: usize) -> Self {
        let bytes = len.checked_mul(size_of::<f32>()).expect("a size that was checked");
        let bytes = bytes.next_multiple_of(LINE) + LINE;
        // Where huge pages are asked for, the buffer starts with one.
        let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { LINE };
        let mut memory: Vec<Quad> = bytemuck::zeroed_vec((bytes + align) / size_of::<Quad>());
        let address = memory.as_ptr().addr();
        let start = (address.next_multiple_of(align) - address) / size_of::<Quad>();
        let aligned = start..start + bytes / size_of::<Quad>();
        huge_pages(&mut memory[aligned.clone()]);
        Self { memory, aligned, len }
    }

    /// How many values fit without a new allocation.
    pub(crate) fn capacity(&self) -> usize {
        (self.aligned.len() * size_of::<Quad>()).saturating_sub(LINE) / size_of::<f32>()
    }

    /// The same memory for another number of values, which must fit; their values are old ones.
    pub(crate) fn reused(mut self, len: usize) -> Self {
        assert!(len <= self.capacity());
        self.len = len;
        self
    }

    /// The values and what else the memory holds.
    pub(crate) fn all_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.memory[self.aligned.clone()])
    }

    pub(crate) fn values(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.memory[self.aligned.clone()])[..self.len]
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        let len = self.len;
        &mut self.all_mut()[..len]
    }

    /// Memory for a number of bytes.
    pub(crate) fn zeroed_bytes(len: usize) -> Self {
        Self::zeroed(len.div_ceil(size_of::<f32>()))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.values())
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(self.values_mut())
    }
}

/// Bytes of a huge page, of most machines.
const HUGE_PAGE: usize = 2 << 20;

/// Asks for huge pages, which spare page faults and misses of the translation cache: reading
/// 200 MB of weights went from 10.6 to 14.2 GB/s. The system may say no, and nothing is lost.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn huge_pages(memory: &mut [Quad]) {
    let whole = size_of_val(memory) / HUGE_PAGE * HUGE_PAGE;
    if whole == 0 {
        return;
    }
    // Safety: the pages lie inside the memory, and the advice does not change their contents.
    unsafe {
        libc::madvise(memory.as_mut_ptr().cast(), whole, libc::MADV_HUGEPAGE);
    }
}

#[cfg(not(target_os = "linux"))]
fn huge_pages(_: &mut [Quad]) {}

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
    element: Element,
    values: AlignedBuffer,
}

impl Piece {
    /// All zeros, of f32.
    pub fn zeroed(region: Region, channels: usize) -> Self {
        Self::zeroed_of(region, channels, Element::F32)
    }

    /// All zeros.
    pub fn zeroed_of(region: Region, channels: usize, element: Element) -> Self {
        let values = AlignedBuffer::zeroed(words(region, channels, element));
        Self { region, channels, element, values }
    }

    /// Copies values that lie in memory as they go over the wire.
    ///
    /// *Errors*: their number is not positions times channels.
    pub fn from_bytes(
        region: Region,
        channels: usize,
        element: Element,
        bytes: &[u8],
    ) -> Result<Self, KernelError> {
        check_length(region, channels, element, bytes.len())?;
        let mut piece = Self::zeroed_of(region, channels, element);
        piece.as_bytes_mut().copy_from_slice(bytes);
        Ok(piece)
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
    pub(crate) fn from_buffer(
        region: Region,
        channels: usize,
        element: Element,
        values: AlignedBuffer,
    ) -> Self {
        assert_eq!(values.values().len(), words(region, channels, element));
        Self { region, channels, element, values }
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

    /// What one value is.
    pub fn element(&self) -> Element {
        self.element
    }

    /// The values in order of rows, cols, channels.
    ///
    /// *Panics* when they are not f32.
    pub fn values(&self) -> &[f32] {
        assert_eq!(self.element, Element::F32, "values are floats");
        self.values.values()
    }

    /// The values in order of rows, cols, channels.
    ///
    /// *Panics* when they are not f32.
    pub fn values_mut(&mut self) -> &mut [f32] {
        assert_eq!(self.element, Element::F32, "values are floats");
        self.values.values_mut()
    }

    /// The values as another type: from floats to bytes rounded and saturated.
    pub fn cast(&self, element: Element) -> Piece {
        if element == self.element {
            return self.clone();
        }
        let numbers: Vec<f32> = match self.element {
            Element::I8 => self.as_bytes().iter().map(|v| f32::from(*v as i8)).collect(),
            Element::U8 => self.as_bytes().iter().map(|v| f32::from(*v)).collect(),
            _ => self.values().to_vec(),
        };
        let mut piece = Piece::zeroed_of(self.region, self.channels, element);
        match element {
            Element::U8 => {
                let to = piece.as_bytes_mut().iter_mut();
                to.zip(numbers).for_each(|(to, v)| *to = v.round_ties_even() as u8);
            }
            Element::I8 => {
                let to = piece.as_bytes_mut().iter_mut();
                to.zip(numbers).for_each(|(to, v)| *to = v.round_ties_even() as i8 as u8);
            }
            _ => piece.values_mut().copy_from_slice(&numbers),
        }
        piece
    }

    /// The values of a type that has the size of the piece's elements.
    pub(crate) fn typed<T: Value>(&self) -> &[T] {
        assert_eq!(size_of::<T>(), self.element.bytes());
        bytemuck::cast_slice(self.as_bytes())
    }

    /// The values as little-endian bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.values.bytes()[..self.byte_len()]
    }

    /// The values as little-endian bytes, to read into.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        let len = self.byte_len();
        &mut self.values.bytes_mut()[..len]
    }

    /// Size on the wire.
    pub fn byte_len(&self) -> usize {
        self.region.positions() * self.channels * self.element.bytes()
    }

    /// Copies a sub-region out.
    ///
    /// *Panics* when the region is not inside.
    pub fn crop(&self, region: Region) -> Piece {
        assert!(self.region.contains(region), "cannot crop {region} out of {}", self.region);
        let mut piece = Piece::zeroed_of(region, self.channels, self.element);
        piece.paste(self);
        piece
    }

    /// Copies the part of another piece of the same map that lies in this one.
    ///
    /// *Panics* when the channels differ.
    pub fn paste(&mut self, piece: &Piece) {
        assert_eq!(self.channels, piece.channels, "pieces of one map have the same channels");
        assert_eq!(self.element, piece.element, "pieces of one map have the same elements");
        self.paste_strips(piece.region, piece.as_bytes());
    }

    /// Where the bytes of a region lie in [`Piece::as_bytes`]: full rows are one run, narrower
    /// regions one a row.
    ///
    /// *Panics* when the region is not inside the piece.
    pub fn runs(&self, region: Region) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        assert!(self.region.contains(region), "{region} inside {}", self.region);
        let pixel = self.channels * self.element.bytes();
        let own = self.region;
        let full = region.cols == own.cols && !region.is_empty();
        let rows = if full { 1 } else { region.rows.len() };
        let long = region.positions() / rows.max(1) * pixel;
        (0..rows).map(move |row| {
            let start = offset(own, pixel, region.rows.start + row, region.cols.start);
            start..start + long
        })
    }

    /// Copies the values of a region of the same map, as they came over the wire, into this piece.
    ///
    /// *Errors*: their number is not positions times channels.
    pub fn paste_bytes(&mut self, region: Region, bytes: &[u8]) -> Result<(), KernelError> {
        check_length(region, self.channels, self.element, bytes.len())?;
        self.paste_strips(region, bytes);
        Ok(())
    }

    fn paste_strips(&mut self, region: Region, bytes: &[u8]) {
        let common = self.region.intersect(region);
        let pixel = self.channels * self.element.bytes();
        let strip = common.cols.len() * pixel;
        let own = self.region;
        let to_bytes = self.as_bytes_mut();
        for row in common.rows.indices() {
            let from = offset(region, pixel, row, common.cols.start);
            let to = offset(own, pixel, row, common.cols.start);
            to_bytes[to..to + strip].copy_from_slice(&bytes[from..from + strip]);
        }
    }
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Piece({} x {} channels)", self.region, self.channels)
    }
}

/// f32 words that hold a piece's values.
fn words(region: Region, channels: usize, element: Element) -> usize {
    (region.positions() * channels * element.bytes()).div_ceil(size_of::<f32>())
}

fn check_length(
    region: Region,
    channels: usize,
    element: Element,
    bytes: usize,
) -> Result<(), KernelError> {
    let expected = region.positions().checked_mul(channels);
    let size = element.bytes();
    if expected.and_then(|expected| expected.checked_mul(size)) == Some(bytes) {
        return Ok(());
    }
    let (expected, got) = (expected.unwrap_or(usize::MAX), bytes / size);
    Err(KernelError::PieceLength { region, channels, expected, got })
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
