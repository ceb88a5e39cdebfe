//! 8 outputs in a vector: with AVX-VNNI, or with bytes widened to 16 bits.

use super::{Dots, Micro};
use crate::quant::pack::{PANEL, QUAD};
use crate::quant::requantize::{Block, SUMS};
use std::arch::x86_64::*;

/// Proof that the processor has AVX2.
pub(in crate::quant) struct Avx2(());

/// Proof that the processor has AVX2 and AVX-VNNI.
pub(in crate::quant) struct VnniAvx(());

impl Avx2 {
    /// *Safety*: the processor has AVX2.
    pub(in crate::quant) unsafe fn new() -> Self {
        Self(())
    }
}

impl VnniAvx {
    /// *Safety*: the processor has AVX2 and AVX-VNNI.
    pub(in crate::quant) unsafe fn new() -> Self {
        Self(())
    }
}

/// Vectors of a panel.
const VECTORS: usize = 2;

/// One panel at a time: the sums of some pixels, and the two vectors of a panel's weights.
macro_rules! block {
    ($name:ident, $features:literal, $prepare:expr, $step:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const PIXELS: usize>(m: &Micro<'_>, panel: usize) {
            // Safety: as asked by the trait.
            unsafe {
                let mut sums = [[_mm256_setzero_si256(); VECTORS]; PIXELS];
                for (run, &from) in m.runs.iter().enumerate() {
                    let weights = m.weights.add(panel * m.panel_step + run * m.run_step);
                    for quad in 0..m.quads() {
                        let mut w = [_mm256_setzero_si256(); VECTORS];
                        for (v, w) in w.iter_mut().enumerate() {
                            let at = weights.add((quad * VECTORS + v) * 32);
                            *w = _mm256_load_si256(at.cast());
                        }
                        let w = w.map($prepare);
                        for (pixel, sums) in sums.iter_mut().enumerate() {
                            let x = from.add(pixel * m.pixel_step + quad * QUAD);
                            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
                            for (sum, w) in sums.iter_mut().zip(&w) {
                                *sum = $step(*sum, x, *w);
                            }
                        }
                    }
                }
                for (pixel, sums) in sums.iter().enumerate() {
                    for (v, sum) in sums.iter().enumerate() {
                        let at = m.sums.add(pixel * SUMS + panel * PANEL + v * 8);
                        _mm256_storeu_si256(at.cast(), *sum);
                    }
                }
            }
        }
    };
}

/// The even and the odd bytes as 16 bits.
#[inline(always)]
fn widened(w: __m256i) -> [__m256i; 2] {
    // Safety: reached from functions with AVX2 only.
    unsafe { [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w)), _mm256_srai_epi16::<8>(w)] }
}

/// Two products of 16 bits for each lane and parity; none can overflow.
#[inline(always)]
fn wide_step(sum: __m256i, x: __m256i, [even, odd]: [__m256i; 2]) -> __m256i {
    // Safety: reached from functions with AVX2 only.
    unsafe {
        let x_even = _mm256_and_si256(x, _mm256_set1_epi16(0xff));
        let x_odd = _mm256_srli_epi16::<8>(x);
        let products =
            _mm256_add_epi32(_mm256_madd_epi16(x_even, even), _mm256_madd_epi16(x_odd, odd));
        _mm256_add_epi32(sum, products)
    }
}

#[inline(always)]
fn as_it_is(w: __m256i) -> __m256i {
    w
}

block!(wide, "avx2", widened, wide_step);
block!(vnni, "avx2,avxvnni", as_it_is, _mm256_dpbusd_avx_epi32);

#[target_feature(enable = "avx2")]
unsafe fn requantize(block: &Block<'_>) {
    // Safety: as asked by the trait.
    unsafe { block.plain() }
}

macro_rules! impl_dots {
    ($name:ident, $block:ident, $pixels:literal, [$($n:literal),*]) => {
        impl Dots for $name {
            const PIXELS: usize = $pixels;

            unsafe fn dots(&mut self, m: &Micro<'_>) {
                for panel in 0..m.panels {
                    // Safety: the token proves the features; the rest is as asked by the trait.
                    unsafe {
                        match m.pixels {
                            $($n => $block::<$n>(m, panel),)*
                            _ => unreachable!("a block has at most {} pixels", $pixels),
                        }
                    }
                }
            }

            unsafe fn requantize(&self, block: &Block<'_>) {
                // Safety: the token proves AVX2; the rest is as asked by the trait.
                unsafe { requantize(block) }
            }
        }
    };
}

impl_dots!(Avx2, wide, 4, [1, 2, 3, 4]);
impl_dots!(VnniAvx, vnni, 6, [1, 2, 3, 4, 5, 6]);
