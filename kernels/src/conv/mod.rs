//! Direct convolution over pieces in NHWC.
//!
//! Each output element is one chain of fused multiply-adds in the order kernel row, kernel col,
//! input channel, starting from `0.0`; then the bias is added (`0.0` where there is none), then
//! the activation. A tap outside the map is the value `0.0` and is multiplied like any other: it
//! is not skipped, since skipping could keep a `-0.0` that adding `0.0` turns into `0.0`.
//! A transposed convolution is made of such ones: see [`transposed`].
//!
//! Safety of the module: [`run`] asserts that the input piece contains the receptive field of the
//! output region and that the packed weights fit both; every pointer below is derived from these.
#![allow(unsafe_code)]

mod blocks;
mod dense;
mod depthwise;
mod filters;
mod micro;
mod source;
pub(crate) mod transform;
pub(crate) mod transposed;
mod winograd;

use crate::math;
use crate::pack::{PANEL, PackedConv};
use crate::simd::Simd;
use crate::threads::{Threads, split};
use crate::view::{Target, View};
use model::{Activation, Window};
use std::ops::Range;
use tiling::{Algorithm, Region, Span};

pub(crate) use filters::transformed;

/// A convolution of one region.
#[derive(Clone, Copy)]
pub(crate) struct Conv<'a> {
    pub(crate) input: View<'a>,
    pub(crate) window: &'a Window,
    pub(crate) packed: &'a PackedConv,
    pub(crate) activation: Activation,
    /// A map of the output's shape that is added before the activation.
    pub(crate) residual: Option<View<'a>>,
}

/// Which share of the output one thread computes.
struct Part {
    rows: Span,
    cols: Span,
    /// Pairs of panels, counted over all groups; all of them for a depthwise convolution.
    pairs: Range<usize>,
}

/// The output values, written by several threads at disjoint places.
#[derive(Clone, Copy)]
struct Out {
    values: *mut f32,
    region: Region,
    /// Values from one row to the next.
    row_step: usize,
    /// Values from one position of a row to the next.
    step: usize,
}

// Safety: the parts of one run are disjoint in rows, in cols or in output channels.
unsafe impl Sync for Out {}
// Safety: as above.
unsafe impl Send for Out {}

impl Out {
    /// All of a target.
    fn of(output: &mut Target<'_>) -> Self {
        let (region, step) = (output.region, output.step);
        Self { values: output.pointer(), region, row_step: region.cols.len() * step, step }
    }

    /// The same values as another region of as many positions, one row after the other.
    fn like(self, region: Region) -> Self {
        Self { region, row_step: region.cols.len() * self.step, ..self }
    }

    /// Where a position starts, which must be inside.
    fn at(&self, row: usize, col: usize) -> *mut f32 {
        let Region { rows, cols } = self.region;
        debug_assert!(rows.indices().contains(&row) && cols.indices().contains(&col));
        let at = (row - rows.start) * self.row_step + (col - cols.start) * self.step;
        // Safety: the position is inside the region, whose values the piece holds.
        unsafe { self.values.add(at) }
    }

    /// Applies an activation to some channels of neighbouring pixels, just written by this thread.
    #[inline(always)]
    fn activate<S: Simd>(
        &self,
        s: S,
        activation: Activation,
        first: *mut f32,
        pixels: usize,
        channels: usize,
    ) {
        for pixel in 0..pixels {
            // Safety: the caller has just written these values, which no other thread does.
            let values =
                unsafe { std::slice::from_raw_parts_mut(first.add(pixel * self.step), channels) };
            math::activate_slice(s, activation, values);
        }
    }
}

/// Multiply-adds below which one thread is faster than waking the others.
const MULTIPLY_ADDS_MIN: usize = 1 << 15;

/// Computes a region of a convolution.
///
/// *Panics* when the input piece lacks a part of the receptive field, or the weights do not fit.
pub(crate) fn run(threads: &Threads, conv: Conv<'_>, output: &mut Target<'_>) {
    if conv.packed.algorithm != Algorithm::Direct {
        return winograd::run(threads, &[winograd_job(conv, output)]);
    }
    let (conv, region) = flattened(conv, output.region);
    checked_field(&conv, region, output);
    let parts = parts(threads.count, &conv, region, output.channels);
    let out = Out::of(output).like(region);
    threads.for_each_part(parts.len(), |i| compute(threads, i, &conv, &parts[i], &out));
}

/// Computes regions of one layer, each for a tile of its own: with the bits of [`run`], and what
/// reads its weights from far reads them for all regions at once.
///
/// *Panics*: as [`run`].
pub(crate) fn run_together(threads: &Threads, convs: Vec<(Conv<'_>, Target<'_>)>) {
    if convs.iter().any(|(conv, _)| conv.packed.algorithm == Algorithm::Direct) {
        return convs.into_iter().for_each(|(conv, mut output)| run(threads, conv, &mut output));
    }
    let job = |(conv, mut output)| winograd_job(conv, &mut output);
    winograd::run(threads, &convs.into_iter().map(job).collect::<Vec<_>>());
}

fn winograd_job<'a>(conv: Conv<'a>, output: &mut Target<'_>) -> winograd::Job<'a> {
    let (region, field) = (output.region, checked_field(&conv, output.region, output));
    winograd::Job { conv, out: Out::of(output), region, field }
}

/// The input that a region of a convolution reads, all of which is there; the weights fit.
fn checked_field(conv: &Conv<'_>, region: Region, output: &Target<'_>) -> Region {
    let Conv { input, window, packed, residual, .. } = conv;
    assert!(residual.is_none_or(|other| {
        other.region.contains(region) && other.channels == output.channels
    }));
    assert_eq!(window.kernel, packed.kernel);
    assert_eq!(input.channels, packed.groups * packed.group_inputs);
    assert_eq!(output.channels, packed.groups * packed.group_outputs);
    let field = source::field(window, region, input);
    assert!(input.region.contains(field));
    field
}

/// One thread's share, the one of this index.
fn compute(threads: &Threads, index: usize, conv: &Conv<'_>, part: &Part, out: &Out) {
    if conv.packed.is_depthwise() {
        return threads.cpu.run(depthwise::DepthwisePart { conv, part, out });
    }
    let widened = if conv.packed.halves.is_empty() { 0 } else { 2 * PANEL * conv.packed.depth() };
    threads.with_scratch(index, widened, |widened| {
        threads.cpu.run(dense::DensePart { conv, part, out, widened });
    });
}

/// A 1x1 convolution over whole rows as one long row, so that no pixel block is cut short.
fn flattened<'a>(mut conv: Conv<'a>, output: Region) -> (Conv<'a>, Region) {
    static ONE: Window = Window {
        kernel: model::Axes::new(1, 1),
        stride: model::Axes::new(1, 1),
        dilation: model::Axes::new(1, 1),
        pads: model::Pads { top: 0, left: 0, bottom: 0, right: 0 },
    };
    let Window { kernel, stride, pads, .. } = *conv.window;
    let pointwise = kernel == ONE.kernel && stride == ONE.stride && pads.top == 0 && pads.left == 0;
    let (input, residual) = (&mut conv.input, &mut conv.residual);
    // Output rows and cols right of the map or below it read padding, and are not the input's.
    let same = output.cols == input.region.cols && input.region.rows.contains(output.rows);
    let same = same && residual.is_none_or(|other| other.region.cols == output.cols);
    if !pointwise || !same || conv.packed.is_depthwise() {
        return (conv, output);
    }
    for view in std::iter::once(input).chain(residual) {
        *view = view.as_one_row(output.rows);
    }
    let region = Region::new(Span::whole(1), Span::whole(output.positions()));
    conv.window = &ONE;
    (conv, region)
}

/// Cuts the output over the threads: by output channels where the weights are the larger part of
/// what is read, else by rows, or by columns where there are few rows.
fn parts(threads: usize, conv: &Conv<'_>, region: Region, channels: usize) -> Vec<Part> {
    let packed = conv.packed;
    let Region { rows, cols } = region;
    let pairs = packed.groups * packed.panels_per_group().div_ceil(2);
    let multiply_adds = region.positions() * channels * packed.depth();
    let whole = |rows, cols| Part { rows, cols, pairs: 0..pairs };
    if threads == 1 || multiply_adds < MULTIPLY_ADDS_MIN {
        return vec![whole(rows, cols)];
    }
    let weights_dominate = packed.elements() > conv.input.region.positions() * conv.input.channels;
    let even_pairs = pairs.is_multiple_of(threads) || pairs >= 8 * threads;
    let by_pairs = !packed.is_depthwise() && pairs >= threads;
    if by_pairs && weights_dominate && even_pairs {
        let share = |s: Span| Part { rows, cols, pairs: s.indices() };
        return split(Span::whole(pairs), threads).into_iter().map(share).collect();
    }
    if rows.len() >= threads {
        return split(rows, threads).into_iter().map(|rows| whole(rows, cols)).collect();
    }
    let parts = threads.min(cols.len()).max(1);
    split(cols, parts).into_iter().map(|cols| whole(rows, cols)).collect()
}
