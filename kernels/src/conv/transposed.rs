//! Transposed convolution: ordinary ones, one for each residue of the output rows and columns.
//!
//! Output row `r` adds up the input rows `i` and kernel rows `k` with `r + top = i * stride +
//! k * dilation`. Of the rows with one remainder of `r + top` by the stride, all are hit by the
//! same kernel rows, and neighbours among them by neighbouring input rows: these rows are an
//! ordinary convolution with stride 1, its kernel being those kernel rows, the last one first.
//!
//! ```text
//!   kernel 3, stride 2, top 1      r + top     1   2   3   4   5   6
//!                                  output      0   1   2   3   4   5
//!   remainder 0, kernel 2 0                    .  0,1  .  1,2  .  2,-     input rows
//!   remainder 1, kernel 1                      0   .   1   .   2   .
//! ```
//!
//! So an element is one chain of fused multiply-adds from `0.0` over the input rows, input cols
//! and input channels whose taps hit it, in ascending order; then bias and activation. A tap that
//! hits it from outside the map is a product with `0.0`; the others are no part of the chain.
//!
//! Safety of the module: a phase writes the positions of its residues inside the output region,
//! so that no two phases share one, and the values it reads are asserted by [`Source`].
//!
//! [`Source`]: super::source::Source

use super::{Conv, Out, Part, compute, parts};
use crate::math;
use crate::pack::PackedConv;
use crate::threads::{Threads, split};
use crate::view::{Target, View};
use model::{Activation, Axes, Pads, Window};
use tiling::{Region, Span};

/// A transposed convolution of one region.
pub(crate) struct ConvTranspose<'a> {
    /// Holds the receptive field of the output region.
    pub(crate) input: View<'a>,
    pub(crate) window: &'a Window,
    pub(crate) packed: &'a PackedTranspose,
    pub(crate) activation: Activation,
}

/// Weights by phase.
pub(crate) struct PackedTranspose {
    /// Those that any tap hits.
    pub(crate) phases: Vec<(Axes<AxisPhase>, PackedConv)>,
    /// One for each output channel.
    pub(crate) bias: Vec<f32>,
}

/// Along one axis, the output positions that the same taps hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AxisPhase {
    /// Of `position + padding`, divided by the stride.
    residue: usize,
    /// Taps that hit it.
    pub(crate) taps: usize,
    /// The first of them, which is the last one of the convolution.
    first_tap: usize,
    /// From one to the next of them.
    tap_step: usize,
    /// From one to the next input position that they read.
    dilation: usize,
    /// Padding of the convolution, whose position 0 has the quotient 0.
    pad: usize,
}

impl AxisPhase {
    /// The phases of an axis that any tap hits.
    pub(crate) fn all(kernel: usize, stride: usize, dilation: usize) -> Vec<Self> {
        let common = gcd(stride, dilation);
        let (tap_step, dilation_in) = (stride / common, dilation / common);
        let phase = |first_tap: usize| {
            let at = first_tap * dilation;
            let taps = (kernel - first_tap).div_ceil(tap_step);
            let pad = at / stride + (taps - 1) * dilation_in;
            Self { residue: at % stride, taps, first_tap, tap_step, dilation: dilation_in, pad }
        };
        (0..kernel.min(tap_step)).map(phase).collect()
    }

    /// The tap of the kernel that is one of the convolution.
    pub(crate) fn tap(&self, of_convolution: usize) -> usize {
        self.first_tap + (self.taps - 1 - of_convolution) * self.tap_step
    }

    /// The positions of the convolution that make output positions.
    fn positions(&self, output: Span, pad: usize, stride: usize) -> Span {
        let quotients = |end: usize| (end + pad).saturating_sub(self.residue).div_ceil(stride);
        Span::new(quotients(output.start), quotients(output.end))
    }

    /// The output position that a position of the convolution makes.
    fn output(&self, position: usize, pad: usize, stride: usize) -> usize {
        position * stride + self.residue - pad
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// An ordinary convolution on its way: what it writes, and each thread's share.
struct Share<'a> {
    conv: Conv<'a>,
    out: Out,
    parts: Vec<Part>,
}

/// Computes a region of a transposed convolution.
///
/// *Panics* when the weights do not fit.
pub(crate) fn run(threads: &Threads, conv: ConvTranspose<'_>, output: &mut Target<'_>) {
    let ConvTranspose { window, packed, activation, .. } = conv;
    let Region { rows, cols } = output.region;
    assert_eq!(output.channels, packed.bias.len());
    let all = Out::of(output);
    if packed.phases.len() < window.stride.rows * window.stride.cols {
        fill(threads, &packed.bias, activation, &all);
    }
    // No tap touches what lies outside the region, so that it can be padding.
    let (from, input) = (conv.input.region, conv.input.as_map());
    let phase_window = |(phase, packed): &(Axes<AxisPhase>, PackedConv)| Window {
        kernel: packed.kernel,
        stride: Axes::new(1, 1),
        dilation: Axes::new(phase.rows.dilation, phase.cols.dilation),
        pads: Pads {
            top: phase.rows.pad + from.rows.start,
            left: phase.cols.pad + from.cols.start,
            ..Pads::default()
        },
    };
    let windows: Vec<Window> = packed.phases.iter().map(phase_window).collect();
    let Window { stride, pads, .. } = *window;
    let mut shares = Vec::with_capacity(windows.len());
    for ((phase, packed), window) in packed.phases.iter().zip(&windows) {
        assert_eq!(input.channels, packed.groups * packed.group_inputs);
        assert_eq!(output.channels, packed.groups * packed.group_outputs);
        let region = Region::new(
            phase.rows.positions(rows, pads.top, stride.rows),
            phase.cols.positions(cols, pads.left, stride.cols),
        );
        if region.is_empty() {
            continue;
        }
        let row = phase.rows.output(region.rows.start, pads.top, stride.rows);
        let col = phase.cols.output(region.cols.start, pads.left, stride.cols);
        let out = Out {
            values: all.at(row, col),
            region,
            // A stride beyond the region has one position there.
            row_step: all.row_step * stride.rows.min(rows.len()),
            step: all.step * stride.cols.min(cols.len()),
        };
        let conv = Conv { input, window, packed, activation, residual: None };
        let parts = parts(threads.count, &conv, region, output.channels);
        shares.push(Share { conv, out, parts });
    }
    let parts = shares.iter().map(|share| share.parts.len()).max().unwrap_or(0);
    threads.for_each_part(parts, |i| {
        for Share { conv, out, parts } in &shares {
            if let Some(part) = parts.get(i) {
                compute(threads, i, conv, part, out);
            }
        }
    });
}

/// Writes what an element is that no tap hits.
fn fill(threads: &Threads, bias: &[f32], activation: Activation, out: &Out) {
    let value = |bias: &f32| math::activate_one(activation, 0.0 + bias);
    let values: Vec<f32> = bias.iter().map(value).collect();
    let Region { rows, cols } = out.region;
    let bands = split(rows, threads.parts(out.region, out.region.positions() * values.len()));
    threads.for_each_part(bands.len(), |band| {
        for (row, col) in bands[band].indices().flat_map(|r| cols.indices().map(move |c| (r, c))) {
            // Safety: the bands are disjoint, and a position has a value for each channel.
            unsafe {
                let to = out.at(row, col);
                std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each pair of an input position and a tap is in one phase, at the position that it hits.
    #[test]
    fn phases_by_enumeration() {
        for (kernel, stride, dilation, pad) in numbers() {
            let phases = AxisPhase::all(kernel, stride, dilation);
            let mut seen = 0;
            for (phase, position) in phases.iter().flat_map(|p| (0..40).map(move |at| (p, at))) {
                for j in 0..phase.taps {
                    let input = (position + j * phase.dilation) as isize - phase.pad as isize;
                    if !(0..4).contains(&input) {
                        continue;
                    }
                    let hit = input as usize * stride + phase.tap(j) * dilation;
                    assert_eq!(hit, position * stride + phase.residue);
                    seen += 1;
                    if let Some(output) = hit.checked_sub(pad) {
                        let whole = phase.positions(Span::new(output, output + 1), pad, stride);
                        assert_eq!(whole, Span::new(position, position + 1));
                        assert_eq!(phase.output(position, pad, stride), output);
                    }
                }
            }
            assert_eq!(seen, 4 * kernel);
        }
    }

    fn numbers() -> impl Iterator<Item = (usize, usize, usize, usize)> {
        let strides = (1..=5).flat_map(|stride| (1..=5).map(move |dilation| (stride, dilation)));
        let all = move |kernel| strides.clone().map(move |(s, d)| (kernel, s, d, kernel % 3));
        (1..=6).flat_map(all)
    }
}
