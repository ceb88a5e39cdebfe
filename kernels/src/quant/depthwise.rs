//! Depthwise convolution over bytes: the lanes are channels.
//!
//! With VNNI four rows of one column lie side by side in a lane, so that one instruction adds four
//! taps of 16 channels, and what a column was put together for serves all outputs that read it:
//!
//! ```text
//!  row 0   a0 a1 a2 ...        a0 b0 c0 0 | a1 b1 c1 0 | a2 b2 c2 0 | ...   one column
//!  row 1   b0 b1 b2 ...   ──▶    times      times        times
//!  row 2   c0 c1 c2 ...        w0 w1 w2 0 | ...                             its taps
//! ```
//!
//! Interleaving leaves the channels in an order of its own, which narrowing the sums undoes.
//!
//! Safety of the module: as of `conv`.
#![allow(unsafe_code)]

use super::conv::Padded;
use super::dot::Dot;
use super::pack::PackedQuant;
use super::reach;
use crate::piece::AlignedBuffer;
use crate::simd::{Kernel, Simd};
use crate::threads::Threads;
use crate::view::{Target, View};
use model::{Axes, Window};
use tiling::{Region, Span};

/// Rows of a column that lie in one lane.
const ROWS: usize = 4;

/// How the channels are cut: blocks of 64, and what is left as 16, 32 or 64.
fn widths(channels: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..channels.div_ceil(64)).map(move |block| {
        let width = match channels - block * 64 {
            0..=16 => 16,
            17..=32 => 32,
            _ => 64,
        };
        (block * 64, width)
    })
}

/// The channel of a lane in one of the four vectors of a block.
fn channel(lane: usize, vector: usize) -> usize {
    lane / 4 * 16 + vector * 4 + lane % 4
}

/// Weights by block, group of rows, kernel col, vector, lane and row, then offsets and scales by
/// block, vector and lane are taken from the packed layer's own lists as they are needed.
pub(super) fn pack(
    kernel: Axes<usize>,
    channels: usize,
    weight: impl Fn(usize, usize, usize) -> i8,
) -> AlignedBuffer {
    let groups = kernel.rows.div_ceil(ROWS);
    let width_sum: usize = widths(channels).map(|(_, width)| width).sum();
    let mut buffer = AlignedBuffer::zeroed_bytes(width_sum * groups * kernel.cols * ROWS);
    let mut to = buffer.bytes_mut().iter_mut();
    for (first, width) in widths(channels) {
        for group in 0..groups {
            for col in 0..kernel.cols {
                for (vector, lane) in (0..4).flat_map(|v| (0..width / 4).map(move |l| (v, l))) {
                    let out = first + channel(lane, vector);
                    for row in group * ROWS..group * ROWS + ROWS {
                        let to = to.next().expect("as many as counted");
                        if out < channels && row < kernel.rows {
                            *to = weight(out, row, col) as u8;
                        }
                    }
                }
            }
        }
    }
    buffer
}

/// One thread's share.
struct Part<'a> {
    input: View<'a, u8>,
    window: &'a Window,
    packed: &'a PackedQuant,
    dot: Dot,
    region: Region,
    out: &'a mut [u8],
}

/// Bytes of padded rows that are made at once; they stay in the first caches.
const CHUNK_BYTES: usize = 64 << 10;

/// Computes a region of a depthwise convolution.
///
/// *Panics* when the input piece lacks a part of what is read, or the weights do not fit.
pub(super) fn run(
    threads: &Threads,
    input: View<'_, u8>,
    window: &Window,
    packed: &PackedQuant,
    output: &mut Target<'_>,
) {
    assert_eq!(window.kernel, packed.kernel);
    assert_eq!((input.channels, output.channels), (packed.groups, packed.groups));
    if output.region.is_empty() {
        return;
    }
    let work = output.region.positions() * output.channels * packed.depth();
    let dot = threads.cpu.dot();
    threads.bands_of(output, work, |region, out: &mut [u8]| {
        threads.cpu.run(Part { input, window, packed, dot, region, out });
    });
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { input, window, packed, dot, region, out } = self;
        let channels = input.channels;
        let [rows, cols] = reach(window, region);
        let is_padded = rows.0 < 0
            || cols.0 < 0
            || rows.1 as usize > input.map_rows
            || cols.1 as usize > input.map_cols;
        let mut padded = Padded::default();
        let row_bytes = (cols.1 - cols.0) as usize * channels * window.stride.rows;
        let chunk_rows = (CHUNK_BYTES / row_bytes.max(1)).max(1);
        let strip = region.cols.len() * channels;
        let starts = region.rows.indices().step_by(chunk_rows);
        for (start, out) in starts.zip(out.chunks_mut(chunk_rows * strip)) {
            let chunk_rows = Span::new(start, (start + chunk_rows).min(region.rows.end));
            let chunk = Region::new(chunk_rows, region.cols);
            let (bytes, row_step, first_row, first_col) = if is_padded {
                padded.fill(&input, window, chunk, packed.padding)
            } else {
                let at = input.region;
                let row_step = at.cols.len() * channels;
                (input.values(), row_step, at.rows.start as isize, at.cols.start as isize)
            };
            for (row, out) in chunk.rows.indices().zip(out.chunks_mut(strip)) {
                let [rows, cols] = reach(window, Region::new(Span::new(row, row + 1), region.cols));
                let top = (rows.0 - first_row) as usize * row_step;
                let left = (cols.0 - first_col) as usize * channels;
                let last = top + left + (rows.1 - rows.0 - 1) as usize * row_step;
                assert!(last + (cols.1 - cols.0) as usize * channels <= bytes.len());
                let line = Line {
                    from: &bytes[top + left..],
                    row_step: row_step * window.dilation.rows,
                    stride: window.stride.cols,
                    dilation: window.dilation.cols,
                    packed,
                    channels,
                    cols: region.cols.len(),
                };
                if !line.by_lanes(dot, out) {
                    line.plain(out);
                }
            }
        }
    }
}

/// One row of output.
struct Line<'a> {
    /// From the first tap of the first output on.
    from: &'a [u8],
    /// Bytes from one kernel row to the next.
    row_step: usize,
    stride: usize,
    dilation: usize,
    packed: &'a PackedQuant,
    channels: usize,
    cols: usize,
}

/// Channels whose sums are kept at once by plain code.
const LANES: usize = 64;

impl Line<'_> {
    #[inline(always)]
    fn plain(&self, out: &mut [u8]) {
        let Self { packed, channels, .. } = *self;
        let kernel = packed.kernel;
        for (col, out) in out.chunks_mut(channels).enumerate() {
            for first in (0..channels).step_by(LANES) {
                let count = LANES.min(channels - first);
                let mut sums = [0i32; LANES];
                for (tap, w) in packed.taps.chunks(channels).enumerate() {
                    let (y, x) = (tap / kernel.cols, tap % kernel.cols);
                    let at = y * self.row_step
                        + (col * self.stride + x * self.dilation) * channels
                        + first;
                    let from = &self.from[at..at + count];
                    for ((sum, x), w) in sums.iter_mut().zip(from).zip(&w[first..first + count]) {
                        *sum += i32::from(*x) * i32::from(*w);
                    }
                }
                for i in 0..count {
                    let sum = sums[i].wrapping_add(packed.offsets[first + i]);
                    out[first + i] = packed.numbers.one(sum, packed.scales[first + i]);
                }
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn by_lanes(&self, _: Dot, _: &mut [u8]) -> bool {
        false
    }

    /// Whether there is a kernel for this shape, which then has filled the line.
    #[cfg(target_arch = "x86_64")]
    fn by_lanes(&self, dot: Dot, out: &mut [u8]) -> bool {
        if !matches!(dot, Dot::Amx | Dot::Vnni512)
            || self.packed.zeros_exist()
            || !self.packed.numbers.is_small
            || self.dilation != 1
        {
            return false;
        }
        let kernel = self.packed.kernel;
        // Safety: the processor has VNNI; the line's bytes are there, as `run` asserts.
        unsafe {
            match (kernel.cols, self.stride) {
                (3, 1) => lanes::line::<3, 1, 6>(self, out),
                (3, 2) => lanes::line::<3, 2, 9>(self, out),
                (5, 1) => lanes::line::<5, 1, 8>(self, out),
                (5, 2) => lanes::line::<5, 2, 11>(self, out),
                _ => return false,
            }
        }
        true
    }
}

#[cfg(target_arch = "x86_64")]
mod lanes {
    use super::{Line, ROWS, widths};
    use crate::quant::dot::avx512::{Narrow, scaled};
    use std::arch::x86_64::*;

    /// Outputs whose sums are kept in registers together.
    const PIXELS: usize = 4;

    /// The kernel of one width: `$n` blocks of 16 channels.
    macro_rules! block {
        ($name:ident, $n:literal, $zero:ident, $load:ident, $low8:ident, $high8:ident,
         $low16:ident, $high16:ident, $dot:ident, $load_weights:ident, $store:ident) => {
            /// `SPAN` is how many input columns some outputs read.
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
            unsafe fn $name<
                const COLS: usize,
                const STRIDE: usize,
                const SPAN: usize,
                const P: usize,
            >(
                line: &Line<'_>,
                from: *const u8,
                weights: *const u8,
                first: usize,
                out: *mut u8,
            ) {
                // Safety: as asked by `line`.
                unsafe {
                    let mut sums = [[$zero(); 4]; P];
                    let rows = line.packed.kernel.rows;
                    let mut weights = weights;
                    for top in (0..rows).step_by(ROWS) {
                        for col in 0..SPAN {
                            if col > (P - 1) * STRIDE + COLS - 1 {
                                continue;
                            }
                            let at = from.add(top * line.row_step + col * line.channels);
                            let a = $load(at.cast());
                            let (mut b, mut c, mut d) = ($zero(), $zero(), $zero());
                            if top + 1 < rows {
                                b = $load(at.add(line.row_step).cast());
                            }
                            if top + 2 < rows {
                                c = $load(at.add(2 * line.row_step).cast());
                            }
                            if top + 3 < rows {
                                d = $load(at.add(3 * line.row_step).cast());
                            }
                            let (ab, cd) = ($low8(a, b), $low8(c, d));
                            let (ab_high, cd_high) = ($high8(a, b), $high8(c, d));
                            let x = [
                                $low16(ab, cd),
                                $high16(ab, cd),
                                $low16(ab_high, cd_high),
                                $high16(ab_high, cd_high),
                            ];
                            for tap in 0..COLS {
                                if col >= tap
                                    && (col - tap) % STRIDE == 0
                                    && (col - tap) / STRIDE < P
                                {
                                    let sums = &mut sums[(col - tap) / STRIDE];
                                    for v in 0..4 {
                                        let w = weights.add((tap * 4 + v) * 16 * $n);
                                        sums[v] = $dot(sums[v], x[v], $load_weights(w.cast()));
                                    }
                                }
                            }
                        }
                        weights = weights.wrapping_add(COLS * 4 * 16 * $n);
                    }
                    $store(line, &sums, first, out);
                }
            }
        };
    }

    /// Narrows four vectors of sums, which are in the order of the interleaving, to bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn narrowed(
        line: &Line<'_>,
        sums: [__m512i; 4],
        offsets: [__m512i; 4],
        scales: [__m512; 4],
    ) -> __m512i {
        let numbers = &line.packed.numbers;
        let narrow = Narrow::new(numbers.zero, numbers.bounds, numbers.is_signed);
        let y = [0, 1, 2, 3].map(|v| scaled(_mm512_add_epi32(sums[v], offsets[v]), scales[v]));
        narrow.bytes(y)
    }

    /// Writes the channels from `first` on, at most `width` of them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn write(line: &Line<'_>, first: usize, width: usize, y: __m512i, to: *mut u8) {
        let count = (line.channels - first).min(width);
        // Safety: as asked by `line`; masked bytes are not touched.
        unsafe { _mm512_mask_storeu_epi8(to.cast(), u64::MAX >> (64 - count), y) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn store64(line: &Line<'_>, sums: &[[__m512i; 4]], first: usize, to: *mut u8) {
        // Safety: as asked by `line`; the lists are by lane, filled up to whole blocks.
        unsafe {
            let offsets = line.packed.lane_offsets.as_ptr().add(first);
            let scales = line.packed.lane_scales.as_ptr().add(first);
            let offsets = [0, 1, 2, 3].map(|v| _mm512_loadu_si512(offsets.add(v * 16).cast()));
            let scales = [0, 1, 2, 3].map(|v| _mm512_loadu_ps(scales.add(v * 16)));
            for (pixel, sums) in sums.iter().enumerate() {
                let y = narrowed(line, *sums, offsets, scales);
                write(line, first, 64, y, to.add(pixel * line.channels));
            }
        }
    }

    /// Two pixels side by side.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn store32(line: &Line<'_>, sums: &[[__m256i; 4]], first: usize, to: *mut u8) {
        // Safety: as of `store64`.
        unsafe {
            let offsets = line.packed.lane_offsets.as_ptr().add(first);
            let scales = line.packed.lane_scales.as_ptr().add(first);
            let twice = |p: *const i32| _mm512_broadcast_i64x4(_mm256_loadu_si256(p.cast()));
            let offsets = [0, 1, 2, 3].map(|v| twice(offsets.add(v * 16)));
            let scales =
                [0, 1, 2, 3].map(|v| _mm512_castsi512_ps(twice(scales.add(v * 16).cast())));
            for (pair, sums) in sums.chunks(2).enumerate() {
                let last = sums[sums.len() - 1];
                let both = [0, 1, 2, 3]
                    .map(|v| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(sums[0][v]), last[v]));
                let y = narrowed(line, both, offsets, scales);
                let to = to.add(2 * pair * line.channels);
                write(line, first, 32, y, to);
                if sums.len() == 2 {
                    let y = _mm512_castsi256_si512(_mm512_extracti64x4_epi64::<1>(y));
                    write(line, first, 32, y, to.add(line.channels));
                }
            }
        }
    }

    /// Four pixels side by side.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn store16(line: &Line<'_>, sums: &[[__m128i; 4]], first: usize, to: *mut u8) {
        // Safety: as of `store64`.
        unsafe {
            let offsets = line.packed.lane_offsets.as_ptr().add(first);
            let scales = line.packed.lane_scales.as_ptr().add(first);
            let often = |p: *const i32| _mm512_broadcast_i32x4(_mm_loadu_si128(p.cast()));
            let offsets = [0, 1, 2, 3].map(|v| often(offsets.add(v * 16)));
            let scales =
                [0, 1, 2, 3].map(|v| _mm512_castsi512_ps(often(scales.add(v * 16).cast())));
            for (four, sums) in sums.chunks(4).enumerate() {
                let of = |pixel: usize, v: usize| sums[pixel.min(sums.len() - 1)][v];
                let all = [0, 1, 2, 3].map(|v| {
                    let y = _mm512_castsi128_si512(of(0, v));
                    let y = _mm512_inserti32x4::<1>(y, of(1, v));
                    let y = _mm512_inserti32x4::<2>(y, of(2, v));
                    _mm512_inserti32x4::<3>(y, of(3, v))
                });
                let mut y = narrowed(line, all, offsets, scales);
                for pixel in 0..sums.len() {
                    write(line, first, 16, y, to.add((4 * four + pixel) * line.channels));
                    y = _mm512_alignr_epi64::<2>(y, y);
                }
            }
        }
    }

    block!(
        block64,
        4,
        _mm512_setzero_si512,
        _mm512_loadu_si512,
        _mm512_unpacklo_epi8,
        _mm512_unpackhi_epi8,
        _mm512_unpacklo_epi16,
        _mm512_unpackhi_epi16,
        _mm512_dpbusd_epi32,
        _mm512_loadu_si512,
        store64
    );
    block!(
        block32,
        2,
        _mm256_setzero_si256,
        _mm256_loadu_si256,
        _mm256_unpacklo_epi8,
        _mm256_unpackhi_epi8,
        _mm256_unpacklo_epi16,
        _mm256_unpackhi_epi16,
        _mm256_dpbusd_epi32,
        _mm256_loadu_si256,
        store32
    );
    block!(
        block16,
        1,
        _mm_setzero_si128,
        _mm_loadu_si128,
        _mm_unpacklo_epi8,
        _mm_unpackhi_epi8,
        _mm_unpacklo_epi16,
        _mm_unpackhi_epi16,
        _mm_dpbusd_epi32,
        _mm_loadu_si128,
        store16
    );

    /// Fills a row of output.
    ///
    /// *Safety*: the processor has AVX-512 F, BW, VL and VNNI; from the line's first byte on, all
    /// that its outputs read is there, with 64 bytes after it.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn line<const COLS: usize, const STRIDE: usize, const SPAN: usize>(
        line: &Line<'_>,
        out: &mut [u8],
    ) {
        const { assert!(SPAN == (PIXELS - 1) * STRIDE + COLS) };
        assert_eq!(out.len(), line.cols * line.channels);
        let groups = line.packed.kernel.rows.div_ceil(ROWS);
        let mut weights = line.packed.values.bytes().as_ptr();
        for (first, width) in widths(line.channels) {
            // The last block may compute some outputs again: they come out the same.
            let whole = line.cols >= PIXELS;
            let step = if whole { PIXELS } else { 1 };
            for col in (0..line.cols).step_by(step) {
                let col = if whole { col.min(line.cols - PIXELS) } else { col };
                // Safety: as asked; the block's outputs are inside the line.
                unsafe {
                    let from = line.from.as_ptr().add(col * STRIDE * line.channels + first);
                    let to = out.as_mut_ptr().add(col * line.channels + first);
                    match (width, whole) {
                        (64, true) => {
                            block64::<COLS, STRIDE, SPAN, PIXELS>(line, from, weights, first, to);
                        }
                        (64, false) => {
                            block64::<COLS, STRIDE, SPAN, 1>(line, from, weights, first, to);
                        }
                        (32, true) => {
                            block32::<COLS, STRIDE, SPAN, PIXELS>(line, from, weights, first, to);
                        }
                        (32, false) => {
                            block32::<COLS, STRIDE, SPAN, 1>(line, from, weights, first, to);
                        }
                        (_, true) => {
                            block16::<COLS, STRIDE, SPAN, PIXELS>(line, from, weights, first, to);
                        }
                        (_, false) => {
                            block16::<COLS, STRIDE, SPAN, 1>(line, from, weights, first, to);
                        }
                    }
                }
            }
            weights = weights.wrapping_add(groups * COLS * ROWS * width);
        }
    }
}

/// A list by channel as the vectors of each block want it: `[block of 64][vector][16 lanes]`.
pub(super) fn by_lane<T: Copy + Default>(list: &[T]) -> Vec<T> {
    let mut lanes = vec![T::default(); list.len().next_multiple_of(64)];
    for (first, width) in widths(list.len()) {
        for vector in 0..4 {
            for lane in 0..width / 4 {
                if let Some(value) = list.get(first + channel(lane, vector)) {
                    lanes[first + vector * 16 + lane] = *value;
                }
            }
        }
    }
    lanes
}
