//! The weights of Winograd convolutions, transformed once.

use super::transform::{Five, Four, Six, Transform, Two, WIDTH_MAX};
use crate::pack::PANEL;
use crate::piece::AlignedBuffer;
use crate::simd::{Cpu, Kernel, Simd};
use std::marker::PhantomData;
use tiling::Algorithm;

/// Transforms the weights of a 3x3 convolution, `[out][in][3 x 3]`, to panels for each position:
/// `[position][panel][in][16]`, the last panel filled up with zeros.
pub(crate) fn transformed(
    algorithm: Algorithm,
    weights: &[f32],
    inputs: usize,
    outputs: usize,
) -> AlignedBuffer {
    let positions = algorithm.positions();
    let panels = outputs.div_ceil(PANEL);
    let mut to = AlignedBuffer::zeroed(positions * panels * inputs * PANEL);
    let filters = Filters { weights, inputs, outputs, to: to.values_mut(), of: PhantomData };
    // Every instruction set gives the same bits.
    let cpu = Cpu::detect();
    match algorithm {
        Algorithm::Winograd2 => cpu.run(filters.typed::<Two>()),
        Algorithm::Winograd4 => cpu.run(filters.typed::<Four>()),
        Algorithm::Winograd5 => cpu.run(filters.typed::<Five>()),
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
