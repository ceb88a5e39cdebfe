//! Depthwise convolution: each channel is its own group, so the lanes are channels.

use super::source::Source;
use super::{Conv, Out, Part};
use crate::math;
use crate::simd::{Kernel, Simd};
use std::ops::Range;
use tiling::Span;

/// One thread's share of a depthwise convolution.
pub(super) struct DepthwisePart<'a> {
    pub(super) conv: &'a Conv<'a>,
    pub(super) part: &'a Part,
    pub(super) out: &'a Out,
}

/// Pixels whose sums are kept in registers together.
const PIXELS: usize = 8;

/// Input values whose strips are made at once; they stay in the second-level cache.
const CHUNK_VALUES: usize = 64 << 10;

/// The arguments of a micro-kernel, for all channels of a block.
struct Micro<'a> {
    rows: &'a [*const f32],
    /// Of the columns that the block reads, those inside the map, where the window is known.
    cols: Range<usize>,
    kernel_cols: usize,
    /// Values from one tap of a kernel row to the next.
    tap_step: usize,
    /// Values from one pixel's window to the next.
    pixel_step: usize,
    channels: usize,
    weights: &'a [f32],
    bias: &'a [f32],
    low: f32,
    high: f32,
    out: *mut f32,
    /// Values from one output pixel to the next.
    out_step: usize,
}

impl Kernel for DepthwisePart<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { conv: Conv { input, window, packed, activation, .. }, part, out } = self;
        let mut source = Source::new(*input, window, part, PIXELS);
        let clamp = math::as_clamp(*activation);
        let (low, high) = clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let channels = input.channels;
        let weights = packed.values.values();
        assert_eq!(weights.len(), window.kernel.rows * window.kernel.cols * channels);
        assert_eq!(packed.bias.len(), channels);
        let mut rows = Vec::with_capacity(window.kernel.rows);
        let row_values = (input.region.cols.len() * input.step * window.stride.rows).max(1);
        let chunk_rows = (CHUNK_VALUES / row_values).max(1);
        let taps = window.kernel.cols;
        let is_known =
            matches!((taps, window.stride.cols, window.dilation.cols), (3 | 5, 1 | 2, 1));
        for row in part.rows.indices() {
            if !is_known && (row - part.rows.start) % chunk_rows == 0 {
                source.fill(Span::new(row, (row + chunk_rows).min(part.rows.end)));
            }
            for block in &source.blocks {
                let cols = if is_known {
                    source.bare_rows(row, block, &mut rows)
                } else {
                    source.rows(row, block, &mut rows);
                    0..usize::MAX
                };
                let micro = Micro {
                    rows: &rows,
                    cols,
                    kernel_cols: window.kernel.cols,
                    tap_step: window.dilation.cols * input.step,
                    pixel_step: window.stride.cols * input.step,
                    channels,
                    weights,
                    bias: &packed.bias,
                    low,
                    high,
                    out: out.at(row, block.out_col),
                    out_step: out.step,
                };
                // The usual windows have loops of known length.
                match (taps, window.stride.cols, window.dilation.cols) {
                    (3, 1, 1) => micro.call::<S, 3, 1>(s, block.pixels),
                    (3, 2, 1) => micro.call::<S, 3, 2>(s, block.pixels),
                    (5, 1, 1) => micro.call::<S, 5, 1>(s, block.pixels),
                    (5, 2, 1) => micro.call::<S, 5, 2>(s, block.pixels),
                    _ => micro.call::<S, 0, 0>(s, block.pixels),
                }
                if clamp.is_none() {
                    out.activate(s, *activation, micro.out, block.pixels, channels);
                }
            }
        }
    }
}

impl Micro<'_> {
    /// Computes a block: `TAPS` taps a row, windows `STRIDE` columns apart; zeros stand for any.
    #[inline(always)]
    fn call<S: Simd, const TAPS: usize, const STRIDE: usize>(&self, s: S, pixels: usize) {
        match pixels {
            1 => s.enter(Fixed::<'_, 1, TAPS, STRIDE>(self)),
            2 => s.enter(Fixed::<'_, 2, TAPS, STRIDE>(self)),
            3 => s.enter(Fixed::<'_, 3, TAPS, STRIDE>(self)),
            4 => s.enter(Fixed::<'_, 4, TAPS, STRIDE>(self)),
            5 => s.enter(Fixed::<'_, 5, TAPS, STRIDE>(self)),
            6 => s.enter(Fixed::<'_, 6, TAPS, STRIDE>(self)),
            7 => s.enter(Fixed::<'_, 7, TAPS, STRIDE>(self)),
            8 => s.enter(Fixed::<'_, 8, TAPS, STRIDE>(self)),
            _ => unreachable!("a block has at most {PIXELS} pixels"),
        }
    }
}

/// *Safety*: `n` values are readable at `p`.
#[inline(always)]
unsafe fn load<S: Simd>(s: S, p: *const f32, n: usize) -> S::V {
    // Safety: as asked.
    unsafe { if n == S::LANES { s.load(p) } else { s.load_first(p, n) } }
}

/// A micro-kernel for a fixed number of pixels, and perhaps a fixed window.
struct Fixed<'a, const PIXELS: usize, const TAPS: usize, const STRIDE: usize>(&'a Micro<'a>);

impl<const PIXELS: usize, const TAPS: usize, const STRIDE: usize> Kernel
    for Fixed<'_, PIXELS, TAPS, STRIDE>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let whole = self.0.channels / S::LANES * S::LANES;
        for channel in (0..whole).step_by(S::LANES) {
            self.vector(s, channel, S::LANES);
        }
        if whole < self.0.channels {
            self.vector(s, whole, self.0.channels - whole);
        }
    }
}

impl<const PIXELS: usize, const TAPS: usize, const STRIDE: usize> Fixed<'_, PIXELS, TAPS, STRIDE> {
    /// `n` channels from `channel` on; inlined once with a constant `n` and once without.
    #[inline(always)]
    fn vector<S: Simd>(&self, s: S, channel: usize, n: usize) {
        let m = self.0;
        let mut sums = [s.splat(0.0); PIXELS];
        // Safety: `Source::rows` gives the span of the block with all channels; weights and bias
        // have the channels of the input; the output block has as many.
        unsafe {
            let mut weights = m.weights.as_ptr().add(channel);
            for &row in m.rows {
                let row = row.add(channel);
                match TAPS {
                    0 => self.any_taps(s, row, weights, n, &mut sums),
                    _ if m.cols == (0..(PIXELS - 1) * STRIDE + TAPS) => {
                        self.known_taps::<S, false>(s, row, weights, n, &mut sums);
                    }
                    _ => self.known_taps::<S, true>(s, row, weights, n, &mut sums),
                }
                // After the last row this points past the weights, and is not read.
                weights = weights.wrapping_add(m.kernel_cols * m.channels);
            }
            let bias = load(s, m.bias.as_ptr().add(channel), n);
            let (low, high) = (s.splat(m.low), s.splat(m.high));
            for (pixel, sum) in sums.iter().enumerate() {
                let y = s.min(high, s.max(low, s.add(*sum, bias)));
                let out = m.out.add(pixel * m.out_step + channel);
                match n == S::LANES {
                    true => s.store(out, y),
                    false => s.store_first(out, n, y),
                }
            }
        }
    }

    /// One kernel row, tap by tap.
    ///
    /// *Safety*: `n` values of all taps and weights are readable.
    #[inline(always)]
    unsafe fn any_taps<S: Simd>(
        &self,
        s: S,
        row: *const f32,
        weights: *const f32,
        n: usize,
        sums: &mut [S::V; PIXELS],
    ) {
        let m = self.0;
        for tap in 0..m.kernel_cols {
            // Safety: as asked.
            unsafe {
                let w = load(s, weights.add(tap * m.channels), n);
                let input = row.add(tap * m.tap_step);
                for (pixel, sum) in sums.iter_mut().enumerate() {
                    *sum = s.fma(load(s, input.add(pixel * m.pixel_step), n), w, *sum);
                }
            }
        }
    }

    /// One kernel row; where windows overlap much, input column by input column: each is read once
    /// for all windows that have it. A pixel sees its taps from left to right, padding as zeros.
    ///
    /// *Safety*: `n` values of all columns inside the map and of all weights are readable.
    #[inline(always)]
    unsafe fn known_taps<S: Simd, const PADDED: bool>(
        &self,
        s: S,
        row: *const f32,
        weights: *const f32,
        n: usize,
        sums: &mut [S::V; PIXELS],
    ) {
        let m = self.0;
        // Safety: as asked.
        let w: [S::V; TAPS] =
            std::array::from_fn(|tap| unsafe { load(s, weights.add(tap * m.channels), n) });
        let read = |col: usize| match PADDED && !m.cols.contains(&col) {
            true => s.splat(0.0),
            // Safety: as asked.
            false => unsafe { load(s, row.wrapping_add(col * m.tap_step), n) },
        };
        if STRIDE > 1 {
            // Few columns are read twice, and the compiler would keep the sums of so many columns
            // in memory: a third of the speed.
            for (pixel, sum) in sums.iter_mut().enumerate() {
                for (tap, w) in w.iter().enumerate() {
                    *sum = s.fma(read(pixel * STRIDE + tap), *w, *sum);
                }
            }
            return;
        }
        for col in 0..PIXELS + TAPS - 1 {
            let x = read(col);
            for (tap, w) in w.iter().enumerate() {
                let Some(pixel) = col.checked_sub(tap) else { continue };
                if pixel < PIXELS {
                    sums[pixel] = s.fma(x, *w, sums[pixel]);
                }
            }
        }
    }
}
