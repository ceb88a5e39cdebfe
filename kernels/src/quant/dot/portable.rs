//! Plain code.

use super::{Dots, Micro};
use crate::quant::pack::{PANEL, QUAD};
use crate::quant::requantize::{Block, SUMS};

/// What any processor can.
pub(in crate::quant) struct Portable;

impl Dots for Portable {
    const PIXELS: usize = 8;

    unsafe fn dots(&mut self, micro: &Micro<'_>) {
        for pixel in 0..micro.pixels {
            for panel in 0..micro.panels {
                let mut sums = [0i32; PANEL];
                for (run, &from) in micro.runs.iter().enumerate() {
                    // Safety: as asked by the trait.
                    let (x, w) = unsafe {
                        let from = from.add(pixel * micro.pixel_step);
                        let w = micro.weights.add(panel * micro.panel_step + run * micro.run_step);
                        let bytes = micro.quads() * QUAD;
                        (
                            std::slice::from_raw_parts(from, bytes),
                            std::slice::from_raw_parts(w, bytes * PANEL),
                        )
                    };
                    for (x, w) in x.chunks_exact(QUAD).zip(w.chunks_exact(QUAD * PANEL)) {
                        for (sum, w) in sums.iter_mut().zip(w.chunks_exact(QUAD)) {
                            for (x, w) in x.iter().zip(w) {
                                *sum = sum.wrapping_add(i32::from(*x) * i32::from(*w as i8));
                            }
                        }
                    }
                }
                // Safety: as asked by the trait.
                unsafe {
                    let to = micro.sums.add(pixel * SUMS + panel * PANEL);
                    std::ptr::copy_nonoverlapping(sums.as_ptr(), to, PANEL);
                }
            }
        }
    }

    unsafe fn requantize(&self, block: &Block<'_>) {
        // Safety: as asked by the trait.
        unsafe { block.plain() }
    }
}
