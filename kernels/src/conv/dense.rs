//! Direct convolution with more than one channel to a group: which blocks the micro-kernel
//! computes, in an order that keeps weights and input in the cache.

use super::micro::{Ahead, Clamp, Finish, Micro, Runs};
use super::source::Source;
use super::{Conv, Out, Part};
use crate::math;
use crate::pack::PANEL;
use crate::simd::{Kernel, Simd};
use half::f16;
use tiling::Span;

/// One thread's share of a convolution with more than one channel to a group.
pub(super) struct DensePart<'a> {
    pub(super) conv: &'a Conv<'a>,
    pub(super) part: &'a Part,
    pub(super) out: &'a Out,
    /// Room for the weights of a unit where they are stored as half floats: they are widened once
    /// for all pixels of a chunk.
    pub(super) widened: &'a mut [f32],
}

/// A rough share of the second-level cache for the input that all panels read again.
const CHUNK_VALUES: usize = 64 << 10;

impl Kernel for DensePart<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { conv: Conv { input, window, packed, activation, residual }, part, out, widened } =
            self;
        let mut source = Source::new(*input, window, part, S::PIXELS);
        let (group_inputs, depth) = (packed.group_inputs, packed.depth());
        let contiguous = window.dilation.cols == 1 && packed.groups == 1 && input.is_dense();
        let kernel_cols = window.kernel.cols;
        let runs = if contiguous {
            Runs { count: 1, len: kernel_cols * group_inputs, step: 0 }
        } else {
            let step = window.dilation.cols * input.step;
            Runs { count: kernel_cols, len: group_inputs, step }
        };
        let clamp_only = math::as_clamp(*activation);
        let (low, high) = clamp_only.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let weights = packed.values.values();
        // Weights that do not fit the cache are read once for each chunk: then it is as large.
        let chunk_values = CHUNK_VALUES.max(packed.elements());
        let row_values = (input.region.cols.len() * input.step * window.stride.rows).max(1);
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
                    let unit_bias = &packed.bias[at * PANEL..];
                    let unit_panels = (vectors * S::LANES).div_ceil(PANEL);
                    let unit_weights = if packed.halves.is_empty() {
                        &weights[at * depth * PANEL..]
                    } else {
                        let halves = &packed.halves[at * depth * PANEL..];
                        widen(s, &halves[..unit_panels * depth * PANEL], widened);
                        &*widened
                    };
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
                            let clamp = Clamp { bias: unit_bias.as_ptr(), low, high };
                            let finish = match residual {
                                None => Finish::Bias(clamp),
                                Some(other) => {
                                    let pixel = other.pixel(row, block.out_col);
                                    let values = pixel[out_channel..].as_ptr();
                                    Finish::Residual { clamp, values, step: other.step }
                                }
                            };
                            let micro = Micro {
                                rows: &rows,
                                runs,
                                pixel_step: window.stride.cols * input.step,
                                weights: unit_weights.as_ptr(),
                                panel_step: depth * PANEL,
                                ahead: Ahead::NOTHING,
                                finish,
                                // Safety: the channels of this unit are inside the pixel's.
                                out: unsafe { out.at(row, block.out_col).add(out_channel) },
                                out_step: out.step,
                                last_lanes: outs - (vectors - 1) * S::LANES,
                            };
                            // Safety: `Source::rows` gives the span of the block; the weights of a
                            // unit hold `depth` products for each of its panels; the residual
                            // covers the output region.
                            unsafe { micro.call(s, block.pixels, vectors) };
                            if clamp_only.is_none() {
                                out.activate(s, *activation, micro.out, block.pixels, outs);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Widens whole panels.
#[inline(always)]
fn widen<S: Simd>(s: S, halves: &[f16], to: &mut [f32]) {
    assert!(halves.len() <= to.len() && halves.len().is_multiple_of(PANEL));
    for at in (0..halves.len()).step_by(S::LANES) {
        // Safety: both have a vector here, since a panel is whole vectors.
        unsafe { s.store(to.as_mut_ptr().add(at), s.widen(halves.as_ptr().add(at))) };
    }
}
