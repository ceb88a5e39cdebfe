//! The weights of Winograd convolutions, transformed once.

use super::transform::{Five, Four, Six, Three, Transform, Two, WIDTH_MAX};
use crate::pack::{PANEL, Steps};
use crate::piece::AlignedBuffer;
use crate::simd::{Cpu, Kernel, Simd};
use std::marker::PhantomData;
use tiling::Algorithm;

/// Input channels that are transformed before their values go to the panels: the panels of different
/// positions often lie a power of two apart, where a cache keeps few lines at a time. One input at a time took
/// 149 ms for 512 to 1024 channels, eight 85 (`cargo bench -p kernels --bench pack`, fastest of 100, machine busy).
const BLOCK: usize = 8;

/// Transforms the weights of a 3x3 convolution, `[out][in][3 x 3]`, to panels for each position:
/// `[position][panel][in][16]`, the last panel filled up with zeros.
pub(crate) fn transformed(
    algorithm: Algorithm,
    weights: &[f32],
    inputs: usize,
    outputs: usize,
    steps: &mut Steps<'_>,
) -> AlignedBuffer {
    let positions = algorithm.positions();
    let panels = outputs.div_ceil(PANEL);
    let mut to = AlignedBuffer::zeroed(positions * panels * inputs * PANEL);
    let mut filters: Vec<Filters<'_, ()>> = (0..panels)
        .map(|panel| Filters { weights, inputs, outputs, panel, to: Vec::new(), of: PhantomData })
        .collect();
    // Without inputs there are no values either.
    for (at, values) in to.values_mut().chunks_mut((inputs * PANEL).max(1)).enumerate() {
        filters[at % panels].to.push(values);
    }
    // Every instruction set gives the same bits.
    let cpu = Cpu::detect();
    let bytes = positions * inputs * PANEL * size_of::<f32>();
    steps.each(filters, bytes, |panel| match algorithm {
        Algorithm::Winograd2 => cpu.run(panel.typed::<Two>()),
        Algorithm::Winograd3 => cpu.run(panel.typed::<Three>()),
        Algorithm::Winograd4 => cpu.run(panel.typed::<Four>()),
        Algorithm::Winograd5 => cpu.run(panel.typed::<Five>()),
        Algorithm::Winograd6 => cpu.run(panel.typed::<Six>()),
        Algorithm::Direct => unreachable!("these weights are not transformed"),
    });
    to
}

/// A panel of the filters of a convolution on their way through `G g G^T`.
struct Filters<'a, T> {
    weights: &'a [f32],
    inputs: usize,
    outputs: usize,
    panel: usize,
    /// Where it goes, for each position.
    to: Vec<&'a mut [f32]>,
    of: PhantomData<T>,
}

impl<'a> Filters<'a, ()> {
    fn typed<T>(self) -> Filters<'a, T> {
        let Self { weights, inputs, outputs, panel, to, .. } = self;
        Filters { weights, inputs, outputs, panel, to, of: PhantomData }
    }
}

impl<T: Transform> Kernel for Filters<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { weights, inputs, outputs, panel, mut to, .. } = self;
        let first = panel * PANEL;
        let mut block = vec![0.0; T::WIDTH * T::WIDTH * BLOCK * PANEL];
        for from in (0..inputs).step_by(BLOCK) {
            let inputs_here = BLOCK.min(inputs - from);
            // A vector holds neighbouring output channels.
            for lane in (0..PANEL).step_by(S::LANES) {
                let lanes = S::LANES.min(outputs.saturating_sub(first + lane));
                for i in 0..inputs_here {
                    let at = ((first + lane) * inputs + from + i) * 9;
                    let mut taps = [[0.0; PANEL]; 9];
                    let filters = weights.get(at..).unwrap_or_default().chunks(inputs * 9);
                    for (l, filter) in filters.take(lanes).enumerate() {
                        for (taps, &tap) in taps.iter_mut().zip(filter) {
                            taps[l] = tap;
                        }
                    }
                    let block = &mut block[i * PANEL + lane..];
                    Self::filter(s, taps.map(|taps| s.read(&taps)), block);
                }
            }
            for (to, values) in to.iter_mut().zip(block.chunks(BLOCK * PANEL)) {
                to[from * PANEL..][..inputs_here * PANEL]
                    .copy_from_slice(&values[..inputs_here * PANEL]);
            }
        }
    }
}

impl<T: Transform> Filters<'_, T> {
    /// Transforms a vector of filters, to a place in the block of the first position.
    #[inline(always)]
    fn filter<S: Simd>(s: S, taps: [S::V; 9], block: &mut [f32]) {
        let mut half = [[s.splat(0.0); 3]; WIDTH_MAX];
        for col in 0..3 {
            let y = T::filter(s, [taps[col], taps[3 + col], taps[6 + col]]);
            for row in 0..T::WIDTH {
                half[row][col] = y[row];
            }
        }
        for (row, half) in half.into_iter().enumerate().take(T::WIDTH) {
            let y = T::filter(s, half);
            for (col, y) in y.into_iter().enumerate().take(T::WIDTH) {
                let at = (row * T::WIDTH + col) * BLOCK * PANEL;
                s.write(&mut block[at..at + S::LANES], y);
            }
        }
    }
}
