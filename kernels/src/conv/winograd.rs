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

use super::micro::{Ahead, Finish, Micro, Runs, TURN};
use super::transform::{Five, Four, Line, Six, Transform, Two, WIDTH_MAX};
use super::{Conv, Out};
use crate::math;
use crate::pack::{PANEL, PackedConv};
use crate::simd::{Kernel, Simd};
use crate::threads::{Threads, split};
use std::marker::PhantomData;
use std::ops::Range;
use tiling::{Algorithm, Region, Span};

/// Values of factors and products that the second-level cache holds beside some weights.
const BLOCK_VALUES: usize = 288 << 10;

/// Weights above this are worth reading for more tiles at a time.
const WEIGHTS_VALUES: usize = 256 << 10;

/// A region that is computed.
pub(super) struct Job<'a> {
    pub(super) conv: Conv<'a>,
    pub(super) out: Out,
    pub(super) region: Region,
    /// The input that may be read.
    pub(super) field: Region,
}

/// `m x m` outputs of a job.
#[derive(Clone, Copy)]
struct Block {
    /// Index into the jobs.
    job: usize,
    /// The first output, counted from the first of the region.
    row: usize,
    col: usize,
}

/// One thread's share.
struct Part<'a> {
    jobs: &'a [Job<'a>],
    blocks: &'a [Block],
    /// Panels of output channels.
    panels: Range<usize>,
    /// Factors and products.
    scratch: &'a mut [f32],
}

/// How a part is worked through.
#[derive(Clone, Copy)]
struct Blocking {
    /// Blocks that go through the three steps together.
    blocks: usize,
    /// Values from one position to the next, of factors and of products.
    factor_step: usize,
    product_step: usize,
}

impl Blocking {
    fn new(algorithm: Algorithm, all: usize, inputs: usize, outs: usize) -> Self {
        let positions = algorithm.positions();
        let mut blocks = BLOCK_VALUES / (positions * (inputs + outs)).max(1);
        if positions * inputs * outs > WEIGHTS_VALUES {
            blocks = blocks.max(56);
        }
        let blocks = blocks.max(28).min(all.max(1));
        let blocks = all.div_ceil(all.div_ceil(blocks).max(1)).max(1);
        // A step that is a power of two would put all positions of a block into one cache set.
        let step = |channels: usize| (blocks * channels).next_multiple_of(16) + 16;
        Self { blocks, factor_step: step(inputs), product_step: step(outs) }
    }

    fn scratch_values(&self, positions: usize) -> usize {
        positions * (self.factor_step + self.product_step)
    }
}

/// What making a factor costs, in multiply-adds.
const FACTOR: usize = 24;

/// Computes regions, of one tile or of several, with one set of weights: these are read once for
/// some blocks of all of them.
pub(super) fn run(threads: &Threads, jobs: &[Job<'_>]) {
    let Some(first) = jobs.first() else { return };
    let packed = first.conv.packed;
    let m = packed.algorithm.outputs();
    let positions = packed.algorithm.positions();
    let (inputs, panels) = (packed.group_inputs, packed.panels_per_group());
    assert!(jobs.iter().all(|job| std::ptr::eq(job.conv.packed, packed)));
    assert_eq!(packed.groups, 1);
    assert_eq!(packed.values.values().len(), positions * panels * inputs * PANEL);
    assert_eq!(packed.bias.len(), panels * PANEL);
    let of_job = |(job, at): (usize, &Job<'_>)| {
        let Region { rows, cols } = at.region;
        let row = move |row| (0..cols.len()).step_by(m).map(move |col| Block { job, row, col });
        (0..rows.len()).step_by(m).flat_map(row)
    };
    let blocks: Vec<Block> = jobs.iter().enumerate().flat_map(of_job).collect();
    let shares = shares(threads.count, packed, blocks.len());
    threads.for_each_part(shares.len(), |part| {
        let (blocks, panels) = (&blocks[shares[part].0.indices()], shares[part].1.clone());
        let outs = panels.len() * PANEL;
        let blocking = Blocking::new(packed.algorithm, blocks.len(), inputs, outs);
        threads.with_scratch(part, blocking.scratch_values(positions), |scratch| {
            let part = Part { jobs, blocks, panels, scratch };
            match packed.algorithm {
                Algorithm::Winograd2 => threads.cpu.run(Typed::<Two>(part, blocking, PhantomData)),
                Algorithm::Winograd4 => threads.cpu.run(Typed::<Four>(part, blocking, PhantomData)),
                Algorithm::Winograd5 => threads.cpu.run(Typed::<Five>(part, blocking, PhantomData)),
                Algorithm::Winograd6 => threads.cpu.run(Typed::<Six>(part, blocking, PhantomData)),
                Algorithm::Direct => unreachable!("these weights are transformed"),
            }
        });
    });
}

/// The blocks and the panels of each thread.
///
/// Threads that share the blocks each read all weights; threads that share the output channels
/// each make all factors. Few blocks want the latter, unless the channels do not divide.
fn shares(threads: usize, packed: &PackedConv, blocks: usize) -> Vec<(Span, Range<usize>)> {
    let (inputs, outputs) = (packed.group_inputs, packed.group_outputs);
    let panels = packed.panels_per_group();
    let pairs = panels.div_ceil(2);
    let small = blocks * packed.algorithm.positions() * inputs * outputs < 1 << 17;
    if threads == 1 || small {
        return vec![(Span::whole(blocks), 0..panels)];
    }
    let even = pairs.is_multiple_of(threads) || pairs >= 8 * threads;
    let products = |blocks: usize, outputs: usize| outputs * (blocks + 2).max(14);
    let by_blocks = blocks.div_ceil(threads);
    let by_blocks = products(by_blocks, outputs) + by_blocks * FACTOR;
    let by_panels = products(blocks, outputs.div_ceil(threads)) + blocks * FACTOR;
    if even && by_panels < by_blocks {
        let shares = split(Span::whole(pairs), threads).into_iter();
        let panels = |s: Span| 2 * s.start..(2 * s.end).min(panels);
        return shares.map(|s| (Span::whole(blocks), panels(s))).collect();
    }
    let shares = split(Span::whole(blocks), threads.min(blocks)).into_iter();
    shares.map(|s| (s, 0..panels)).collect()
}

/// A part with its transform.
struct Typed<'a, T>(Part<'a>, Blocking, PhantomData<T>);

impl<T: Transform> Kernel for Typed<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(Part { jobs, blocks, panels, scratch }, blocking, _) = self;
        let Blocking { blocks: together, factor_step, product_step } = blocking;
        let packed = jobs[0].conv.packed;
        let (inputs, outs) = (packed.group_inputs, panels.len() * PANEL);
        let (factors, products) = scratch.split_at_mut(T::WIDTH * T::WIDTH * factor_step);
        let zeros = vec![0.0; inputs];
        for blocks in blocks.chunks(together) {
            for (i, block) in blocks.iter().enumerate() {
                let Job { conv, region, field, .. } = &jobs[block.job];
                let pads = conv.window.pads;
                let row = (region.rows.start + block.row) as isize - pads.top as isize;
                let col = (region.cols.start + block.col) as isize - pads.left as isize;
                let readable = readable::<T>(*field, (row, col));
                let to = &mut factors[i * inputs..];
                assert!(to.len() >= (T::WIDTH * T::WIDTH - 1) * factor_step + inputs);
                let (step, of) = (factor_step, PhantomData::<T>);
                if readable.rows.len() == T::WIDTH && readable.cols.len() == T::WIDTH {
                    let from = inside(conv, readable);
                    s.enter(Factors { from, inputs, to, step, of });
                } else {
                    let at = overhanging(conv, readable, (row, col), &zeros);
                    s.enter(Factors { from: Overhanging(&at), inputs, to, step, of });
                }
            }
            multiply::<S, T>(s, packed, &panels, blocks.len(), blocking, factors, products);
            for (i, &Block { job, row, col }) in blocks.iter().enumerate() {
                let Job { conv, region, out, .. } = &jobs[job];
                let rows = T::OUTPUTS.min(region.rows.len() - row);
                let cols = T::OUTPUTS.min(region.cols.len() - col);
                let at = (region.rows.start + row, region.cols.start + col);
                let channel = panels.start * PANEL;
                let from = &products[i * outs..];
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

/// Where the inputs of one block lie.
trait Inputs: Copy {
    /// All channels of one input, counted from the block's first.
    fn at(&self, row: usize, col: usize) -> *const f32;
}

/// A block that reads the piece alone: values from one row and col to the next.
#[derive(Clone, Copy)]
struct Inside {
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
struct Overhanging<'a>(&'a [[*const f32; WIDTH_MAX]; WIDTH_MAX]);

impl Inputs for Overhanging<'_> {
    #[inline(always)]
    fn at(&self, row: usize, col: usize) -> *const f32 {
        self.0[row][col]
    }
}

/// The rows and cols of a block's inputs that may be read.
fn readable<T: Transform>(field: Region, (row, col): (isize, isize)) -> Region {
    let inside = |start: isize, of: Span| {
        let clamp = |at: isize| (at.max(0) as usize).clamp(of.start, of.end);
        Span::new(clamp(start), clamp(start + T::WIDTH as isize))
    };
    Region::new(inside(row, field.rows), inside(col, field.cols))
}

/// Finds the inputs of a block that reads the piece alone.
fn inside(conv: &Conv<'_>, readable: Region) -> Inside {
    let input = &conv.input;
    let first = input.pointer(readable.rows.start, readable.cols);
    // The last row is inside too.
    input.pointer(readable.rows.end - 1, readable.cols);
    Inside { first, row_step: input.region.cols.len() * input.step, col_step: input.step }
}

/// Finds the inputs of any block; `zeros` are as many as there are channels.
fn overhanging(
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

/// The factors of one block.
struct Factors<'a, T, I> {
    from: I,
    inputs: usize,
    /// Of the block at the first position.
    to: &'a mut [f32],
    step: usize,
    of: PhantomData<T>,
}

impl<T: Transform, I: Inputs> Kernel for Factors<'_, T, I> {
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

impl<T: Transform, I: Inputs> Factors<'_, T, I> {
    /// *Safety*: `n` channels of every position are readable and writable.
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, s: S, channel: usize, n: usize, to: *mut f32) {
        let mut half = [[s.splat(0.0); WIDTH_MAX]; WIDTH_MAX];
        for col in 0..T::WIDTH {
            let mut d: Line<S> = [s.splat(0.0); WIDTH_MAX];
            for (row, d) in d.iter_mut().enumerate().take(T::WIDTH) {
                // Safety: as asked.
                *d = unsafe {
                    let from = self.from.at(row, col).add(channel);
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

/// The products of some blocks at all positions.
#[inline(always)]
fn multiply<S: Simd, T: Transform>(
    s: S,
    packed: &PackedConv,
    panels: &Range<usize>,
    blocks: usize,
    blocking: Blocking,
    factors: &[f32],
    products: &mut [f32],
) {
    let (inputs, outs) = (packed.group_inputs, panels.len() * PANEL);
    let Blocking { factor_step, product_step, .. } = blocking;
    let panels_per_unit = (S::VECTORS * S::LANES / PANEL).max(1);
    let weights = packed.values.values();
    let calls = split(Span::whole(blocks), blocks.div_ceil(S::PIXELS));
    assert!(factors.len() >= (T::WIDTH * T::WIDTH - 1) * factor_step + blocks * inputs);
    assert!(products.len() >= (T::WIDTH * T::WIDTH - 1) * product_step + blocks * outs);
    for position in 0..T::WIDTH * T::WIDTH {
        let of_position = &weights[position * packed.panels_per_group() * inputs * PANEL..];
        for unit in (0..panels.len()).step_by(panels_per_unit) {
            let unit_panels = panels_per_unit.min(panels.len() - unit);
            let vectors = unit_panels * PANEL / S::LANES;
            let of_unit = &of_position[(panels.start + unit) * inputs * PANEL..];
            assert!(of_unit.len() >= unit_panels * inputs * PANEL);
            // The weights of the next unit come from far; each turn fetches its share of them.
            let next = match unit + panels_per_unit {
                unit if unit < panels.len() => (position, unit),
                _ => (position + 1, 0),
            };
            let next =
                (next.0 * packed.panels_per_group() + panels.start + next.1) * inputs * PANEL;
            let turns = (inputs / TURN).max(1);
            let lines = (unit_panels * inputs).div_ceil(turns * calls.len());
            let lines = if weights.len() > WEIGHTS_VALUES { lines } else { 0 };
            for (i, call) in calls.iter().enumerate() {
                let from = weights.as_ptr().wrapping_add(next + i * lines * turns * PANEL);
                let ahead = Ahead { from, lines };
                let from = &factors[position * factor_step + call.start * inputs..];
                let channel = unit * PANEL;
                let to = &mut products[position * product_step + call.start * outs + channel..];
                let micro = Micro {
                    rows: &[from.as_ptr()],
                    runs: Runs { count: 1, len: inputs, step: 0 },
                    pixel_step: inputs,
                    weights: of_unit.as_ptr(),
                    panel_step: inputs * PANEL,
                    ahead,
                    finish: Finish::Raw,
                    out: to.as_mut_ptr(),
                    out_step: outs,
                    last_lanes: S::LANES,
                };
                // Safety: factors and products of these blocks are inside, as asserted; the weights
                // of the unit are whole panels.
                unsafe { micro.call(s, call.len(), vectors) };
            }
        }
    }
}

/// The outputs of one block.
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
    /// Of the block at the first position.
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
