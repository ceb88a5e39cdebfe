//! 4 outputs in a vector: with the dot product extension, or with bytes widened to 16 bits.
//!
//! Both multiply i8 by i8, so that inputs are taken 128 lower, and 128 times the sum of the weights
//! is added at the start.

use super::{Dots, Micro};
use crate::quant::pack::{PANEL, QUAD};
use crate::quant::requantize::{Block, SUMS};
use std::arch::aarch64::*;
use std::arch::asm;

/// Proof that the processor has NEON, as all of aarch64 do.
pub(in crate::quant) struct Neon;

/// Proof that the processor has the dot product extension.
pub(in crate::quant) struct NeonDot(());

impl NeonDot {
    /// *Safety*: the processor has the extension.
    pub(in crate::quant) unsafe fn new() -> Self {
        Self(())
    }
}

/// Vectors of a panel.
const VECTORS: usize = PANEL / 4;

/// Adds the products of four i8 in each lane: intrinsics for it are not stable.
#[inline(always)]
unsafe fn dot_step(mut sum: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
    // Safety: reached where the extension is only.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// The same by products of 16 bits, none of which overflows.
#[inline(always)]
unsafe fn wide_step(sum: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
    // Safety: all of aarch64 has NEON.
    unsafe {
        let low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(w)));
        let high = vpaddlq_s16(vmull_high_s8(x, w));
        vaddq_s32(sum, vpaddq_s32(low, high))
    }
}

macro_rules! impl_dots {
    ($name:ident, $block:ident, $step:ident) => {
        #[inline(always)]
        unsafe fn $block<const PIXELS: usize>(m: &Micro<'_>, panel: usize) {
            // Safety: as asked by the trait.
            unsafe {
                let minus_one = vdupq_n_s8(-128);
                let mut sums = [[vdupq_n_s32(0); VECTORS]; PIXELS];
                let mut weight_sums = [vdupq_n_s32(0); VECTORS];
                for (run, &from) in m.runs.iter().enumerate() {
                    let weights = m.weights.add(panel * m.panel_step + run * m.run_step);
                    for quad in 0..m.quads() {
                        let mut w = [vdupq_n_s8(0); VECTORS];
                        for (v, w) in w.iter_mut().enumerate() {
                            *w = vld1q_s8(weights.add(quad * 64 + v * 16).cast());
                            weight_sums[v] = $step(weight_sums[v], minus_one, *w);
                        }
                        for (pixel, sums) in sums.iter_mut().enumerate() {
                            let x = from.add(pixel * m.pixel_step + quad * QUAD);
                            let x = x.cast::<u32>().read_unaligned() ^ 0x8080_8080;
                            let x = vreinterpretq_s8_u32(vdupq_n_u32(x));
                            for (sum, w) in sums.iter_mut().zip(&w) {
                                *sum = $step(*sum, x, *w);
                            }
                        }
                    }
                }
                for (pixel, sums) in sums.iter().enumerate() {
                    for (v, sum) in sums.iter().enumerate() {
                        let at = m.sums.add(pixel * SUMS + panel * PANEL + v * 4);
                        // Less minus 128 times the weights.
                        vst1q_s32(at, vsubq_s32(*sum, weight_sums[v]));
                    }
                }
            }
        }

        impl Dots for $name {
            const PIXELS: usize = 4;

            unsafe fn dots(&mut self, m: &Micro<'_>) {
                for panel in 0..m.panels {
                    // Safety: the token proves the features; the rest is as asked by the trait.
                    unsafe {
                        match m.pixels {
                            1 => $block::<1>(m, panel),
                            2 => $block::<2>(m, panel),
                            3 => $block::<3>(m, panel),
                            4 => $block::<4>(m, panel),
                            _ => unreachable!("a block has at most 4 pixels"),
                        }
                    }
                }
            }

            unsafe fn requantize(&self, block: &Block<'_>) {
                // Safety: as asked by the trait.
                unsafe { block.plain() }
            }
        }
    };
}

impl_dots!(NeonDot, dotted, dot_step);
impl_dots!(Neon, widened, wide_step);
