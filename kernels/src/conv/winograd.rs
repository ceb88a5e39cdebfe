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

pub(super) use super::blocks::Job;
use super::blocks::{Block, Inputs, Overhanging, Soon, inside, overhanging, readable};
use super::micro::{Ahead, Finish, Micro, Runs, TURN};
use super::transform::{Five, Four, Line, Six, Three, Transform, Two, WIDTH_MAX, unrolled};
use super::{Conv, Out};
use crate::math;
use crate::pack::{PANEL, PackedConv};
use crate::simd::caches::second_level_bytes;
use crate::simd::{Kernel, Simd};
use crate::threads::{Threads, split};
use std::marker::PhantomData;
use std::ops::Range;
use tiling::{Algorithm, Region, Span};

/// The share of the second-level cache that factors and products may take, beside some weights.
const BLOCK_SHARE: f64 = 9.0 / 16.0;

/// Weights above this are worth reading for more tiles at a time.
const WEIGHTS_VALUES: usize = 256 << 10;

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
        let bytes = (second_level_bytes() as f64 * BLOCK_SHARE) as usize;
        let mut blocks = bytes / size_of::<f32>() / (positions * (inputs + outs)).max(1);
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
                Algorithm::Winograd3 => {
                    threads.cpu.run(Typed::<Three>(part, blocking, PhantomData))
                }
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
        let mut soon: Vec<Soon> = Vec::with_capacity(together);
        let mut chunks = blocks.chunks(together).peekable();
        while let Some(blocks) = chunks.next() {
            for (i, block) in blocks.iter().enumerate() {
                let job @ Job { conv, field, .. } = &jobs[block.job];
                let (row, col) = job.first_input(block);
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
            soon.clear();
            let next = chunks.peek().copied().unwrap_or_default();
            soon.extend((0..blocks.len()).map(|i| Soon {
                input: next.get(i).and_then(|block| jobs[block.job].input_soon::<T>(block)),
                output: jobs[blocks[i].job].output_soon::<T>(&blocks[i], &panels),
            }));
            multiply::<S, T>(s, packed, &panels, &soon, blocking, factors, products);
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
        unrolled!(col < T::WIDTH => {
            let mut d: Line<S> = [s.splat(0.0); WIDTH_MAX];
            unrolled!(row < T::WIDTH => {
                // Safety: as asked.
                d[row] = unsafe {
                    let from = self.from.at(row, col).add(channel);
                    if n == S::LANES { s.load(from) } else { s.load_first(from, n) }
                };
            });
            let y = T::input(s, d);
            unrolled!(row < T::WIDTH => { half[row][col] = y[row]; });
        });
        unrolled!(row < T::WIDTH => {
            let y = T::input(s, half[row]);
            unrolled!(col < T::WIDTH => {
                // Safety: as asked.
                unsafe {
                    let to = to.add((row * T::WIDTH + col) * self.step);
                    if n == S::LANES { s.store(to, y[col]) } else { s.store_first(to, n, y[col]) }
                }
            });
        });
    }
}

/// The products of some blocks at all positions.
#[inline(always)]
fn multiply<S: Simd, T: Transform>(
    s: S,
    packed: &PackedConv,
    panels: &Range<usize>,
    soon: &[Soon],
    blocking: Blocking,
    factors: &[f32],
    products: &mut [f32],
) {
    let (inputs, outs) = (packed.group_inputs, panels.len() * PANEL);
    let Blocking { factor_step, product_step, .. } = blocking;
    let panels_per_unit = (S::VECTORS * S::LANES / PANEL).max(1);
    let units = panels.len().div_ceil(panels_per_unit);
    let input_lines = inputs.div_ceil(PANEL);
    let (weights, blocks) = (packed.values.values(), soon.len());
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
            let at = unit / panels_per_unit;
            let inputs_soon =
                input_lines * at / units * PANEL..input_lines * (at + 1) / units * PANEL;
            let outs_soon = unit * PANEL..(unit + unit_panels) * PANEL;
            for (i, call) in calls.iter().enumerate() {
                for soon in &soon[call.indices()] {
                    soon.fetch::<S, T>(s, position, inputs_soon.clone(), outs_soon.clone());
                }
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
        unrolled!(col < T::WIDTH => {
            let mut p: Line<S> = [s.splat(0.0); WIDTH_MAX];
            unrolled!(row < T::WIDTH => {
                // Safety: products are whole panels at every position.
                p[row] = unsafe {
                    s.load(self.from.as_ptr().add((row * T::WIDTH + col) * self.step + channel))
                };
            });
            let y = T::output(s, p);
            unrolled!(row < T::OUTPUTS => { half[row][col] = y[row]; });
        });
        let channel = self.channel + channel;
        let clamp = math::as_clamp(self.conv.activation);
        let (low, high) = clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let (low, high) = (s.splat(low), s.splat(high));
        // Safety: the bias is of whole panels; the position is inside the region.
        let (bias, first) = unsafe {
            let first = self.out.at(self.at.0, self.at.1).add(channel);
            (s.load(self.conv.packed.bias.as_ptr().add(channel)), first)
        };
        unrolled!(row < T::OUTPUTS => {
            if row < self.rows {
                let y = T::output(s, half[row]);
                unrolled!(col < T::OUTPUTS => {
                    if col < self.cols {
                        let mut y = s.add(y[col], bias);
                        if let Some(other) = &self.conv.residual {
                            let other = &other.pixel(self.at.0 + row, self.at.1 + col)[channel..];
                            y = s.add(y, s.read(&other[..n]));
                        }
                        let y = s.min(high, s.max(low, y));
                        // Safety: the position is inside the region, the channels in its pixel.
                        unsafe {
                            let to = first.add(row * self.out.row_step + col * self.out.step);
                            if n == S::LANES { s.store(to, y) } else { s.store_first(to, n, y) }
                        }
                    }
                });
            }
        });
    }
}
