//! The convolution micro-kernel: some pixels times some vectors of output channels, all
//! accumulators in registers.
//!
//! For each product index, one load for each vector of weights and one broadcast for each pixel
//! feed `pixels * vectors` fused multiply-adds. For dilation 1 a kernel row is one contiguous run
//! of `kernel cols * channels` values, so no patch matrix is ever made.

use super::source::Source;
use super::{Conv, Out, Part};
use crate::math;
use crate::pack::PANEL;
use crate::simd::{Kernel, Simd};
use tiling::Span;

/// One thread's share of a convolution with more than one channel to a group.
pub(super) struct DensePart<'a> {
    pub(super) conv: &'a Conv<'a>,
    pub(super) part: &'a Part,
    pub(super) out: &'a Out,
}

/// The runs of values that one pixel reads from a kernel row.
#[derive(Clone, Copy)]
struct Runs {
    count: usize,
    /// Values of a run.
    len: usize,
    /// Values from one run to the next.
    step: usize,
}

/// The arguments of a micro-kernel.
struct Micro<'a> {
    /// Where the first pixel's first tap lies, for each kernel row.
    rows: &'a [*const f32],
    runs: Runs,
    /// Values from one pixel's window to the next.
    pixel_step: usize,
    weights: *const f32,
    /// Values from one panel of weights to the next.
    panel_step: usize,
    bias: *const f32,
    /// The activation, as far as it is a clamp.
    low: f32,
    high: f32,
    out: *mut f32,
    /// Values from one output pixel to the next.
    out_step: usize,
    /// Lanes of the last vector that are written.
    last_lanes: usize,
}

/// A rough share of the second-level cache for the input that all panels read again.
const CHUNK_VALUES: usize = 64 << 10;

impl Kernel for DensePart<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { conv: Conv { input, window, packed, activation }, part, out } = self;
        let mut source = Source::new(*input, window, part, S::PIXELS);
        let (group_inputs, depth) = (packed.group_inputs, packed.depth());
        let contiguous = window.dilation.cols == 1 && packed.groups == 1;
        let kernel_cols = window.kernel.cols;
        let runs = if contiguous {
            Runs { count: 1, len: kernel_cols * group_inputs, step: 0 }
        } else {
            let step = window.dilation.cols * input.channels;
            Runs { count: kernel_cols, len: group_inputs, step }
        };
        let clamp = math::as_clamp(*activation);
        let (low, high) = clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let weights = packed.values.values();
        // Weights that do not fit the cache are read once for each chunk: then it is as large.
        let chunk_values = CHUNK_VALUES.max(weights.len());
        let row_values = (input.region.cols.len() * input.channels * window.stride.rows).max(1);
        let chunk_rows = (chunk_values / row_values).max(1);
        let pairs_per_group = packed.panels_per_group().div_ceil(2);
        let panels_per_unit = (S::VECTORS * S::LANES / PANEL).max(1);
        let mut rows = Vec::with_capacity(window.kernel.rows);
        for start in part.rows.indices().step_by(chunk_rows) {
            let chunk = Span::new(start, (start + chunk_rows).min(part.rows.end));
            source.fill(chunk);
            for pair in part.pairs.clone() {
                let (group, pair) = (pair / pairs_per_group, pair % pairs_per_group);
                for panel in (2 * pair..2 * pair + 2).step_by(panels_per_unit) {
                    if panel >= packed.panels_per_group() {
                        continue;
                    }
                    let first_out = panel * PANEL;
                    let outs = (packed.group_outputs - first_out).min(S::VECTORS * S::LANES);
                    let vectors = outs.div_ceil(S::LANES);
                    let at = group * packed.panels_per_group() + panel;
                    let unit_weights = &weights[at * depth * PANEL..];
                    let unit_bias = &packed.bias[at * PANEL..];
                    let unit_panels = (vectors * S::LANES).div_ceil(PANEL);
                    assert!(unit_weights.len() >= unit_panels * depth * PANEL);
                    assert!(unit_bias.len() >= unit_panels * PANEL);
                    let out_channel = group * packed.group_outputs + first_out;
                    for row in chunk.indices() {
                        for block in &source.blocks {
                            source.rows(row, block, &mut rows);
                            for pointer in &mut rows {
                                // Safety: a pixel has the channels of all groups.
                                *pointer = unsafe { pointer.add(group * group_inputs) };
                            }
                            let micro = Micro {
                                rows: &rows,
                                runs,
                                pixel_step: window.stride.cols * input.channels,
                                weights: unit_weights.as_ptr(),
                                panel_step: depth * PANEL,
                                bias: unit_bias.as_ptr(),
                                low,
                                high,
                                // Safety: the channels of this unit are inside the pixel's.
                                out: unsafe { out.at(row, block.out_col).add(out_channel) },
                                out_step: out.channels,
                                last_lanes: outs - (vectors - 1) * S::LANES,
                            };
                            micro.call(s, block.pixels, vectors);
                            if clamp.is_none() {
                                for pixel in 0..block.pixels {
                                    // Safety: just written by the call above, by this thread.
                                    let values = unsafe {
                                        let first = micro.out.add(pixel * micro.out_step);
                                        std::slice::from_raw_parts_mut(first, outs)
                                    };
                                    math::activate_slice(s, *activation, values);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Products of one turn of the inner loop.
const TURN: usize = 4;

impl Micro<'_> {
    /// One product for each pixel and output channel.
    ///
    /// *Safety*: the pixels' values at `input` and the units' weights at `weights` are readable.
    #[inline(always)]
    unsafe fn step<S: Simd, const PIXELS: usize, const VECTORS: usize>(
        &self,
        s: S,
        input: *const f32,
        weights: *const f32,
        sums: &mut [[S::V; VECTORS]; PIXELS],
    ) {
        let vectors_per_panel = (PANEL / S::LANES).max(1);
        let mut w = [s.splat(0.0); VECTORS];
        for (v, w) in w.iter_mut().enumerate() {
            let panel = v / vectors_per_panel * self.panel_step;
            // Safety: as asked.
            *w = unsafe { s.load(weights.add(panel + v % vectors_per_panel * S::LANES)) };
        }
        for (pixel, sums) in sums.iter_mut().enumerate() {
            // Safety: as asked.
            let x = s.splat(unsafe { *input.add(pixel * self.pixel_step) });
            for v in 0..VECTORS {
                sums[v] = s.fma(x, w[v], sums[v]);
            }
        }
    }

    #[inline(always)]
    fn call<S: Simd>(&self, s: S, pixels: usize, vectors: usize) {
        match vectors {
            1 => self.call_vectors::<S, 1>(s, pixels),
            2 if S::VECTORS >= 2 => self.call_vectors::<S, 2>(s, pixels),
            3 if S::VECTORS >= 3 => self.call_vectors::<S, 3>(s, pixels),
            4 if S::VECTORS >= 4 => self.call_vectors::<S, 4>(s, pixels),
            _ => unreachable!("a unit has at most {} vectors", S::VECTORS),
        }
    }

    #[inline(always)]
    fn call_vectors<S: Simd, const VECTORS: usize>(&self, s: S, pixels: usize) {
        /// One arm for each block size that the instruction set can have.
        macro_rules! sizes {
            ($($n:literal)*) => {
                match pixels {
                    $($n if $n <= S::PIXELS => s.enter(Fixed::<'_, $n, VECTORS>(self)),)*
                    _ => unreachable!("a block has at most {} pixels", S::PIXELS),
                }
            };
        }
        sizes!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    }
}

/// A micro-kernel of a fixed size.
struct Fixed<'a, const PIXELS: usize, const VECTORS: usize>(&'a Micro<'a>);

impl<const PIXELS: usize, const VECTORS: usize> Kernel for Fixed<'_, PIXELS, VECTORS> {
    type Output = ();

    // The accumulators stay in registers only while every loop over them has a constant length
    // and does little: a richer epilogue once cost a store for each multiply-add.
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let m = self.0;
        let mut sums = [[s.splat(0.0); VECTORS]; PIXELS];
        let mut weights = m.weights;
        for &row in m.rows {
            for run in 0..m.runs.count {
                // Safety: `Source::rows` gives the span of the block; the weights of a unit hold
                // `depth` products for each of its panels, which is what the loops add up to.
                unsafe {
                    let mut input = row.add(run * m.runs.step);
                    // Some products to a turn, so that the pixels' addresses are made less often.
                    for _ in 0..m.runs.len / TURN {
                        for k in 0..TURN {
                            let weights = weights.add(k * PANEL);
                            m.step(s, input.add(k), weights, &mut sums);
                        }
                        input = input.add(TURN);
                        weights = weights.add(TURN * PANEL);
                    }
                    for _ in 0..m.runs.len % TURN {
                        m.step(s, input, weights, &mut sums);
                        input = input.add(1);
                        weights = weights.add(PANEL);
                    }
                }
            }
        }
        let (low, high) = (s.splat(m.low), s.splat(m.high));
        for v in 0..VECTORS {
            // Safety: bias of whole panels; the output pixels have these channels.
            unsafe {
                let bias = s.load(m.bias.add(v * S::LANES));
                let out = m.out.add(v * S::LANES);
                for (pixel, sums) in sums.iter().enumerate() {
                    let y = s.min(high, s.max(low, s.add(sums[v], bias)));
                    let out = out.add(pixel * m.out_step);
                    if v + 1 == VECTORS {
                        s.store_first(out, m.last_lanes, y);
                    } else {
                        s.store(out, y);
                    }
                }
            }
        }
    }
}
