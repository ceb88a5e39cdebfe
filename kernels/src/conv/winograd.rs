//! Winograd convolution of 3x3 windows with stride 1: blocks of `m x m` outputs at a time.
//!
//! ```text
//!   input ──B^T d B──▶ factors ──products with the weights──▶ products ──A^T p A──▶ output
//!          each tile   [position][tile][in]  (micro-kernel)   [position][tile][out]
//! ```
//!
//! The `(m + 2)^2` positions of a block are independent products of matrices. The tiles go through
//! all three steps some at a time, so that factors and products stay in the second-level cache.
//!
//! Winograd tiles are counted from the first row and column of the region; those at its far edges
//! may overhang. What they would read beyond the region's receptive field counts as zero, even if
//! the piece has it: the bits depend on the region alone. Each product is one chain of fused
//! multiply-adds over the input channels from `0.0`; then come the output transform, the bias, the
//! residual and the activation.

// A square is indexed by row and col alike; iterators over one of them hide that.
#![allow(clippy::needless_range_loop)]

use super::micro::{Finish, Micro, Runs};
use super::transform::{Four, Line, Six, Transform, Two, WIDTH_MAX};
use super::{Conv, Out};
use crate::math;
use crate::pack::PANEL;
use crate::piece::AlignedBuffer;
use crate::simd::{Cpu, Kernel, Simd};
use crate::threads::{Threads, split};
use crate::view::Target;
use std::marker::PhantomData;
use std::ops::Range;
use tiling::{Algorithm, Region, Span};

/// Values of factors and products that the second-level cache holds beside some weights.
const BLOCK_VALUES: usize = 288 << 10;

/// Weights above this are worth reading for more tiles at a time.
const WEIGHTS_VALUES: usize = 256 << 10;

/// One thread's share.
struct Part<'a> {
    conv: &'a Conv<'a>,
    out: &'a Out,
    region: Region,
    /// The input that may be read.
    field: Region,
    /// Rows of Winograd tiles.
    tile_rows: Span,
    /// Panels of output channels.
    panels: Range<usize>,
    /// Factors and products.
    scratch: &'a mut [f32],
}

/// How a part is worked through.
#[derive(Clone, Copy)]
struct Blocking {
    /// Winograd tiles in a row of the region.
    tile_cols: usize,
    /// Tiles that go through the three steps together.
    tiles: usize,
    /// Values from one position to the next, of factors and of products.
    factor_step: usize,
    product_step: usize,
}

impl Blocking {
    fn new(
        algorithm: Algorithm,
        region: Region,
        tile_rows: Span,
        inputs: usize,
        outs: usize,
    ) -> Self {
        let m = algorithm.outputs();
        let positions = (m + 2) * (m + 2);
        let tile_cols = region.cols.len().div_ceil(m);
        let all = tile_rows.len() * tile_cols;
        let mut tiles = BLOCK_VALUES / (positions * (inputs + outs)).max(1);
        if positions * inputs * outs > WEIGHTS_VALUES {
            tiles = tiles.max(56);
        }
        let tiles = tiles.max(28).min(all.max(1));
        let tiles = all.div_ceil(all.div_ceil(tiles).max(1)).max(1);
        // A step that is a power of two would put all positions of a tile into one cache set.
        let step = |channels: usize| (tiles * channels).next_multiple_of(16) + 16;
        Self { tile_cols, tiles, factor_step: step(inputs), product_step: step(outs) }
    }

    fn scratch_values(&self, positions: usize) -> usize {
        positions * (self.factor_step + self.product_step)
    }
}

/// Computes a region.
pub(super) fn run(threads: &Threads, conv: &Conv<'_>, field: Region, target: &mut Target<'_>) {
    let (packed, region) = (conv.packed, target.region);
    let algorithm = packed.algorithm;
    let m = algorithm.outputs();
    let positions = (m + 2) * (m + 2);
    let panels = packed.panels_per_group();
    assert_eq!(packed.groups, 1);
    assert_eq!(packed.values.values().len(), positions * panels * packed.group_inputs * PANEL);
    assert_eq!(packed.bias.len(), panels * PANEL);
    let all_rows = Span::whole(region.rows.len().div_ceil(m));
    let out = Out::of(target);
    let count = threads.count;
    let pairs = panels.div_ceil(2);
    // Few tiles: the weights are the larger part of what is read, and each thread takes some.
    let tiles = all_rows.len() * region.cols.len().div_ceil(m);
    let by_panels = pairs.is_multiple_of(count) || pairs >= 8 * count;
    let small = tiles * positions * packed.group_inputs * packed.group_outputs < 1 << 17;
    let shares: Vec<(Span, Range<usize>)> = if count == 1 || small {
        vec![(all_rows, 0..panels)]
    } else if by_panels && tiles < 128 * count {
        let shares = split(Span::whole(pairs), count).into_iter();
        shares.map(|s| (all_rows, 2 * s.start..(2 * s.end).min(panels))).collect()
    } else {
        split(all_rows, count.min(all_rows.len())).into_iter().map(|s| (s, 0..panels)).collect()
    };
    threads.for_each_part(shares.len(), |part| {
        let (tile_rows, panels) = shares[part].clone();
        let outs = panels.len() * PANEL;
        let blocking = Blocking::new(algorithm, region, tile_rows, packed.group_inputs, outs);
        threads.with_scratch(part, blocking.scratch_values(positions), |scratch| {
            let part = Part { conv, out: &out, region, field, tile_rows, panels, scratch };
            match algorithm {
                Algorithm::Winograd2 => threads.cpu.run(Typed::<Two>(part, blocking, PhantomData)),
                Algorithm::Winograd4 => threads.cpu.run(Typed::<Four>(part, blocking, PhantomData)),
                Algorithm::Winograd6 => threads.cpu.run(Typed::<Six>(part, blocking, PhantomData)),
                Algorithm::Direct => unreachable!("these weights are transformed"),
            }
        });
    });
}

/// A part with its transform.
struct Typed<'a, T>(Part<'a>, Blocking, PhantomData<T>);

impl<T: Transform> Kernel for Typed<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(Part { conv, out, region, field, tile_rows, panels, scratch }, blocking, _) = self;
        let Blocking { tile_cols, tiles: block_tiles, factor_step, product_step } = blocking;
        let packed = conv.packed;
        let (inputs, outs) = (packed.group_inputs, panels.len() * PANEL);
        let (factors, products) = scratch.split_at_mut(T::WIDTH * T::WIDTH * factor_step);
        let mut patch = vec![0.0; T::WIDTH * T::WIDTH * inputs];
        let all = Span::new(tile_rows.start * tile_cols, tile_rows.end * tile_cols);
        // The row and the column of the region where a tile starts.
        let start = |tile: usize| (tile / tile_cols * T::OUTPUTS, tile % tile_cols * T::OUTPUTS);
        for first in all.indices().step_by(block_tiles) {
            let tiles = Span::new(first, (first + block_tiles).min(all.end));
            for tile in tiles.indices() {
                let (row, col) = start(tile);
                let pads = conv.window.pads;
                let row = (region.rows.start + row) as isize - pads.top as isize;
                let col = (region.cols.start + col) as isize - pads.left as isize;
                let source = source::<T>(conv, field, (row, col), &mut patch);
                let to = &mut factors[(tile - first) * inputs..];
                assert!(to.len() >= (T::WIDTH * T::WIDTH - 1) * factor_step + inputs);
                s.enter(Factors::<'_, T> {
                    source,
                    inputs,
                    to,
                    step: factor_step,
                    of: PhantomData,
                });
            }
            multiply::<S, T>(s, conv, &panels, tiles.len(), blocking, factors, products);
            for tile in tiles.indices() {
                let (row, col) = start(tile);
                let rows = T::OUTPUTS.min(region.rows.len() - row);
                let cols = T::OUTPUTS.min(region.cols.len() - col);
                let at = (region.rows.start + row, region.cols.start + col);
                let channel = panels.start * PANEL;
                let from = &products[(tile - first) * outs..];
                assert!(from.len() >= (T::WIDTH * T::WIDTH - 1) * product_step + outs);
                let channels = (packed.group_outputs - channel).min(outs);
                let step = product_step;
                let of = PhantomData;
                let outputs = Outputs::<'_, T> {
                    conv,
                    out,
                    at,
                    rows,
                    cols,
                    channel,
                    channels,
                    from,
                    step,
                    of,
                };
                s.enter(outputs);
            }
        }
    }
}

/// The inputs of one tile: where its first lies, and the values from one row and col to the next.
struct Source {
    first: *const f32,
    row_step: usize,
    col_step: usize,
}

/// Finds a tile's inputs, with zeros in place of what must not be read.
fn source<T: Transform>(
    conv: &Conv<'_>,
    field: Region,
    (row, col): (isize, isize),
    patch: &mut [f32],
) -> Source {
    let input = &conv.input;
    let end = (row + T::WIDTH as isize, col + T::WIDTH as isize);
    let inside = |start: isize, end: isize, of: Span| {
        let clamp = |at: isize| (at.max(0) as usize).clamp(of.start, of.end);
        Span::new(clamp(start), clamp(end))
    };
    let rows = inside(row, end.0, field.rows);
    let cols = inside(col, end.1, field.cols);
    if rows.len() == T::WIDTH && cols.len() == T::WIDTH {
        let first = input.pointer(rows.start, cols);
        // The last row is inside too.
        input.pointer(rows.end - 1, cols);
        let row_step = input.region.cols.len() * input.step;
        return Source { first, row_step, col_step: input.step };
    }
    let channels = input.channels;
    patch.fill(0.0);
    for at in rows.indices() {
        for col_at in cols.indices() {
            let position =
                (at as isize - row) as usize * T::WIDTH + (col_at as isize - col) as usize;
            patch[position * channels..][..channels].copy_from_slice(input.pixel(at, col_at));
        }
    }
    Source { first: patch.as_ptr(), row_step: T::WIDTH * channels, col_step: channels }
}

/// The factors of one tile.
struct Factors<'a, T> {
    source: Source,
    inputs: usize,
    /// Of the tile at the first position.
    to: &'a mut [f32],
    step: usize,
    of: PhantomData<T>,
}

impl<T: Transform> Kernel for Factors<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let whole = self.inputs / S::LANES * S::LANES;
        let to = self.to.as_mut_ptr();
        for channel in (0..whole).step_by(S::LANES) {
            // Safety: all channels of all positions are readable and writable.
            unsafe { self.vector(s, channel, S::LANES, to.add(channel)) };
        }
        if whole < self.inputs {
            // Safety: as above.
            unsafe { self.vector(s, whole, self.inputs - whole, to.add(whole)) };
        }
    }
}

impl<T: Transform> Factors<'_, T> {
    /// *Safety*: `n` channels of every position are readable and writable.
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, s: S, channel: usize, n: usize, to: *mut f32) {
        let Source { first, row_step, col_step } = self.source;
        let mut half = [[s.splat(0.0); WIDTH_MAX]; WIDTH_MAX];
        for col in 0..T::WIDTH {
            let mut d: Line<S> = [s.splat(0.0); WIDTH_MAX];
            for (row, d) in d.iter_mut().enumerate().take(T::WIDTH) {
                // Safety: as asked.
                *d = unsafe {
                    let from = first.add(row * row_step + col * col_step + channel);
                    if n == S::LANES { s.load(from) } else { s.load_first(from, n) }
                };
            }
            let y = T::input(s, d);
            for row in 0..T::WIDTH {
                half[row][col] = y[row];
            }
        }
        for (row, half) in half.into_iter().enumerate().take(T::WIDTH) {
            let y = T::input(s, half);
            for (col, y) in y.into_iter().enumerate().take(T::WIDTH) {
                // Safety: as asked.
                unsafe {
                    let to = to.add((row * T::WIDTH + col) * self.step);
                    if n == S::LANES { s.store(to, y) } else { s.store_first(to, n, y) }
                }
            }
        }
    }
}

/// The products of some tiles at all positions.
#[inline(always)]
fn multiply<S: Simd, T: Transform>(
    s: S,
    conv: &Conv<'_>,
    panels: &Range<usize>,
    tiles: usize,
    blocking: Blocking,
    factors: &[f32],
    products: &mut [f32],
) {
    let packed = conv.packed;
    let (inputs, outs) = (packed.group_inputs, panels.len() * PANEL);
    let Blocking { factor_step, product_step, .. } = blocking;
    let panels_per_unit = (S::VECTORS * S::LANES / PANEL).max(1);
    let weights = packed.values.values();
    let calls = split(Span::whole(tiles), tiles.div_ceil(S::PIXELS));
    assert!(factors.len() >= (T::WIDTH * T::WIDTH - 1) * factor_step + tiles * inputs);
    assert!(products.len() >= (T::WIDTH * T::WIDTH - 1) * product_step + tiles * outs);
    for position in 0..T::WIDTH * T::WIDTH {
        let of_position = &weights[position * packed.panels_per_group() * inputs * PANEL..];
        for unit in (0..panels.len()).step_by(panels_per_unit) {
            let unit_panels = panels_per_unit.min(panels.len() - unit);
            let vectors = unit_panels * PANEL / S::LANES;
            let of_unit = &of_position[(panels.start + unit) * inputs * PANEL..];
            assert!(of_unit.len() >= unit_panels * inputs * PANEL);
            for call in &calls {
                let from = &factors[position * factor_step + call.start * inputs..];
                let channel = unit * PANEL;
                let to = &mut products[position * product_step + call.start * outs + channel..];
                let micro = Micro {
                    rows: &[from.as_ptr()],
                    runs: Runs { count: 1, len: inputs, step: 0 },
                    pixel_step: inputs,
                    weights: of_unit.as_ptr(),
                    panel_step: inputs * PANEL,
                    finish: Finish::Raw,
                    out: to.as_mut_ptr(),
                    out_step: outs,
                    last_lanes: S::LANES,
                };
                // Safety: factors and products of these tiles are inside, as asserted; the weights
                // of the unit are whole panels.
                unsafe { micro.call(s, call.len(), vectors) };
            }
        }
    }
}

/// The outputs of one tile.
struct Outputs<'a, T> {
    conv: &'a Conv<'a>,
    out: &'a Out,
    /// The first output's row and col.
    at: (usize, usize),
    /// Outputs inside the region.
    rows: usize,
    cols: usize,
    /// The first output channel, and how many.
    channel: usize,
    channels: usize,
    /// Of the tile at the first position.
    from: &'a [f32],
    step: usize,
    of: PhantomData<T>,
}

impl<T: Transform> Kernel for Outputs<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let whole = self.channels / S::LANES * S::LANES;
        for channel in (0..whole).step_by(S::LANES) {
            // Safety: the channels are inside.
            unsafe { self.vector(s, channel, S::LANES) };
        }
        if whole < self.channels {
            // Safety: the channels are inside.
            unsafe { self.vector(s, whole, self.channels - whole) };
        }
        let activation = self.conv.activation;
        if math::as_clamp(activation).is_none() {
            for row in 0..self.rows {
                // Safety: the row is inside, with these channels.
                let first = unsafe { self.out.at(self.at.0 + row, self.at.1).add(self.channel) };
                self.out.activate(s, activation, first, self.cols, self.channels);
            }
        }
    }
}

impl<T: Transform> Outputs<'_, T> {
    /// *Safety*: `n` channels from `channel` on are inside the part's.
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, s: S, channel: usize, n: usize) {
        let mut half = [[s.splat(0.0); WIDTH_MAX]; WIDTH_MAX];
        for col in 0..T::WIDTH {
            let mut p: Line<S> = [s.splat(0.0); WIDTH_MAX];
            for (row, p) in p.iter_mut().enumerate().take(T::WIDTH) {
                // Safety: products are whole panels at every position.
                *p = unsafe {
                    s.load(self.from.as_ptr().add((row * T::WIDTH + col) * self.step + channel))
                };
            }
            let y = T::output(s, p);
            for row in 0..T::OUTPUTS {
                half[row][col] = y[row];
            }
        }
        let channel = self.channel + channel;
        let clamp = math::as_clamp(self.conv.activation);
        let (low, high) = clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let (low, high) = (s.splat(low), s.splat(high));
        // Safety: the bias is of whole panels.
        let bias = unsafe { s.load(self.conv.packed.bias.as_ptr().add(channel)) };
        for (row, half) in half.into_iter().enumerate().take(self.rows) {
            let y = T::output(s, half);
            for (col, y) in y.into_iter().enumerate().take(T::OUTPUTS) {
                if col >= self.cols {
                    break;
                }
                let mut y = s.add(y, bias);
                if let Some(other) = &self.conv.residual {
                    let other = &other.pixel(self.at.0 + row, self.at.1 + col)[channel..];
                    y = s.add(y, s.read(&other[..n]));
                }
                let y = s.min(high, s.max(low, y));
                // Safety: the position is inside the region, the channels inside its pixel.
                unsafe {
                    let to = self.out.at(self.at.0 + row, self.at.1 + col).add(channel);
                    if n == S::LANES { s.store(to, y) } else { s.store_first(to, n, y) }
                }
            }
        }
    }
}

/// Transforms the weights of a 3x3 convolution, `[out][in][3 x 3]`, to panels for each position:
/// `[position][panel][in][16]`, the last panel filled up with zeros.
pub(crate) fn transformed(
    algorithm: Algorithm,
    weights: &[f32],
    inputs: usize,
    outputs: usize,
) -> AlignedBuffer {
    let positions = (algorithm.outputs() + 2) * (algorithm.outputs() + 2);
    let panels = outputs.div_ceil(PANEL);
    let mut to = AlignedBuffer::zeroed(positions * panels * inputs * PANEL);
    let filters = Filters { weights, inputs, outputs, to: to.values_mut(), of: PhantomData };
    // Every instruction set gives the same bits.
    let cpu = Cpu::detect();
    match algorithm {
        Algorithm::Winograd2 => cpu.run(filters.typed::<Two>()),
        Algorithm::Winograd4 => cpu.run(filters.typed::<Four>()),
        Algorithm::Winograd6 => cpu.run(filters.typed::<Six>()),
        Algorithm::Direct => unreachable!("these weights are not transformed"),
    }
    to
}

/// The weights of a convolution on their way through `G g G^T`.
struct Filters<'a, T> {
    weights: &'a [f32],
    inputs: usize,
    outputs: usize,
    to: &'a mut [f32],
    of: PhantomData<T>,
}

impl<'a> Filters<'a, ()> {
    fn typed<T>(self) -> Filters<'a, T> {
        let Self { weights, inputs, outputs, to, .. } = self;
        Filters { weights, inputs, outputs, to, of: PhantomData }
    }
}

impl<T: Transform> Kernel for Filters<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { weights, inputs, outputs, to, .. } = self;
        let position_step = outputs.div_ceil(PANEL) * inputs * PANEL;
        // A vector holds neighbouring output channels.
        for out in (0..outputs).step_by(S::LANES) {
            let lanes = S::LANES.min(outputs - out);
            for input in 0..inputs {
                let mut taps = [[0.0; PANEL]; 9];
                for lane in 0..lanes {
                    let from = &weights[((out + lane) * inputs + input) * 9..][..9];
                    for (taps, &tap) in taps.iter_mut().zip(from) {
                        taps[lane] = tap;
                    }
                }
                let taps = taps.map(|taps| s.read(&taps));
                let mut half = [[s.splat(0.0); 3]; WIDTH_MAX];
                for col in 0..3 {
                    let y = T::filter(s, [taps[col], taps[3 + col], taps[6 + col]]);
                    for row in 0..T::WIDTH {
                        half[row][col] = y[row];
                    }
                }
                let at = (out / PANEL * inputs + input) * PANEL + out % PANEL;
                for (row, half) in half.into_iter().enumerate().take(T::WIDTH) {
                    let y = T::filter(s, half);
                    for (col, y) in y.into_iter().enumerate().take(T::WIDTH) {
                        let at = at + (row * T::WIDTH + col) * position_step;
                        s.write(&mut to[at..at + S::LANES], y);
                    }
                }
            }
        }
    }
}
