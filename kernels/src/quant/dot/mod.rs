//! The micro-kernels of quantised products: some pixels times one or two panels of outputs.
//!
//! Every one gives the exact sums, so that all of them agree. On x86 the multiplication of u8 by i8
//! that adds pairs in 16 bits saturates and is not used: without VNNI the bytes are widened first.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(super) use amx::Amx;
#[cfg(target_arch = "x86_64")]
pub(super) use avx2::{Avx2, VnniAvx};
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Vnni512;
#[cfg(target_arch = "aarch64")]
pub(super) use neon::{Neon, NeonDot};
pub(super) use portable::Portable;

use super::pack::QUAD;
use super::requantize::Block;
use crate::simd::Isa;

/// How products of bytes are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dot {
    /// Tiles of 16 x 64 bytes (AMX-INT8).
    Amx,
    /// Groups of four in lanes of 512 bits (AVX-512 VNNI).
    Vnni512,
    /// Groups of four in lanes of 256 bits (AVX-VNNI).
    VnniAvx,
    /// Widened to 16 bits (AVX2).
    Avx2,
    /// Groups of four in lanes of 128 bits (dot product extension).
    Sdot,
    /// Widened to 16 bits (NEON).
    Neon,
    /// Any processor.
    Portable,
}

impl Dot {
    /// All that this processor has beside an instruction set, fastest first.
    pub(crate) fn available(isa: Isa) -> Vec<Dot> {
        let all: &[Dot] = match isa {
            Isa::Avx512 => &[Dot::Amx, Dot::Vnni512, Dot::VnniAvx, Dot::Avx2, Dot::Portable],
            Isa::Avx2 => &[Dot::VnniAvx, Dot::Avx2, Dot::Portable],
            Isa::Neon => &[Dot::Sdot, Dot::Neon, Dot::Portable],
            Isa::Portable => &[Dot::Portable],
        };
        all.iter().copied().filter(|dot| dot.is_available()).collect()
    }

    fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Dot::Amx => Dot::Vnni512.is_available() && amx::is_available(),
            #[cfg(target_arch = "x86_64")]
            Dot::Vnni512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Dot::VnniAvx => Dot::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Dot::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "aarch64")]
            Dot::Sdot => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Dot::Neon => true,
            Dot::Portable => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }
}

/// The arguments of a micro-kernel.
pub(super) struct Micro<'a> {
    /// Where the first pixel's bytes of each run start.
    pub(super) runs: &'a [*const u8],
    /// Bytes of a run; up to the next multiple of 64 are readable.
    pub(super) run_len: usize,
    /// Bytes from one pixel to the next.
    pub(super) pixel_step: usize,
    /// The first panel.
    pub(super) weights: *const u8,
    /// Bytes from one run's weights to the next.
    pub(super) run_step: usize,
    /// Bytes from one panel to the next.
    pub(super) panel_step: usize,
    /// At most `Dots::PIXELS`.
    pub(super) pixels: usize,
    /// 1 or 2.
    pub(super) panels: usize,
    /// Where the sums go: `SUMS` for each pixel, of which 16 for each panel are written.
    pub(super) sums: *mut i32,
}

impl Micro<'_> {
    /// Groups of four of a run.
    fn quads(&self) -> usize {
        self.run_len.div_ceil(QUAD)
    }
}

/// A way to compute products; made only where the processor has it.
pub(super) trait Dots {
    /// Pixels of a block.
    const PIXELS: usize;

    /// Computes the sums of a block.
    ///
    /// *Safety*: every pixel's runs and the panels are readable, the sums writable.
    unsafe fn dots(&mut self, micro: &Micro<'_>);

    /// Writes the bytes of a block.
    ///
    /// *Safety*: as [`Block::plain`].
    unsafe fn requantize(&self, block: &Block<'_>);

    /// Computes a block, one after the other.
    ///
    /// *Safety*: as of both.
    unsafe fn bytes(&mut self, micro: &Micro<'_>, block: &Block<'_>) {
        // Safety: as asked.
        unsafe {
            self.dots(micro);
            self.requantize(block);
        }
    }
}
