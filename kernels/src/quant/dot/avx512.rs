//! 16 outputs in a vector: AVX-512 with VNNI.

use super::{Dots, Micro};
use crate::quant::pack::{PANEL, QUAD};
use crate::quant::requantize::{Block, SUMS};
use std::arch::x86_64::*;

/// Proof that the processor has AVX-512 F, BW, VL and VNNI.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Vnni512(());

impl Vnni512 {
    /// *Safety*: the processor has the features.
    pub(in crate::quant) unsafe fn new() -> Self {
        Self(())
    }
}

/// The sums of a block, each panel's from a start on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn sums<const PIXELS: usize, const PANELS: usize>(
    m: &Micro<'_>,
    start: [__m512i; PANELS],
) -> [[__m512i; PANELS]; PIXELS] {
    let mut sums = [start; PIXELS];
    let mut weights = m.weights;
    for &from in m.runs {
        for quad in 0..m.quads() {
            let mut w = [_mm512_setzero_si512(); PANELS];
            for (panel, w) in w.iter_mut().enumerate() {
                // Safety: as asked by the trait.
                *w = unsafe {
                    let at = weights.add(panel * m.panel_step + quad * PANEL * QUAD);
                    _mm512_load_si512(at.cast())
                };
            }
            for (pixel, sums) in sums.iter_mut().enumerate() {
                // Safety: as asked by the trait.
                let x = unsafe {
                    let x = from.add(pixel * m.pixel_step + quad * QUAD);
                    _mm512_set1_epi32(x.cast::<i32>().read_unaligned())
                };
                for (sum, w) in sums.iter_mut().zip(&w) {
                    *sum = _mm512_dpbusd_epi32(*sum, x, *w);
                }
            }
        }
        weights = weights.wrapping_add(m.run_step);
    }
    sums
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn block<const PIXELS: usize, const PANELS: usize>(m: &Micro<'_>) {
    // Safety: as asked by the trait.
    unsafe {
        let sums = sums::<PIXELS, PANELS>(m, [_mm512_setzero_si512(); PANELS]);
        for (pixel, sums) in sums.iter().enumerate() {
            for (panel, sum) in sums.iter().enumerate() {
                let at = m.sums.add(pixel * SUMS + panel * PANEL);
                _mm512_storeu_si512(at.cast(), *sum);
            }
        }
    }
}

/// Two panels' sums as bytes, without a way through memory.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn block_bytes<const PIXELS: usize>(m: &Micro<'_>, block: &Block<'_>) {
    let narrowing = Narrowing::new(block);
    // Safety: as asked by the trait.
    let sums = unsafe { sums::<PIXELS, 2>(m, narrowing.offsets) };
    for pixel in (0..PIXELS).step_by(2) {
        let next = (pixel + 1).min(PIXELS - 1);
        // Safety: as asked by the trait.
        unsafe { narrowing.write(block, [pixel, next], [sums[pixel], sums[next]]) };
    }
}

/// The bytes of 16 sums, each in a lane of 32 bits.
///
/// *Safety*: the processor has AVX-512F.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::quant) unsafe fn bytes(
    sum: __m512i,
    scale: __m512,
    low: __m512,
    high: __m512,
    zero: __m512i,
) -> __m512i {
    let x = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
    let x = _mm512_min_ps(_mm512_max_ps(x, low), high);
    _mm512_add_epi32(_mm512_cvtps_epi32(x), zero)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn requantize(block: &Block<'_>) {
    if block.numbers.is_small {
        // Safety: as asked by the trait.
        return unsafe { requantize_small(block) };
    }
    let numbers = block.numbers;
    let (low, high) = (_mm512_set1_ps(numbers.low), _mm512_set1_ps(numbers.high));
    let zero = _mm512_set1_epi32(numbers.zero);
    let channels = block.offsets.len();
    assert_eq!(block.scales.len(), channels);
    for first in (0..channels).step_by(PANEL) {
        let mask = match channels - first {
            0..PANEL => (1u16 << (channels - first)) - 1,
            _ => u16::MAX,
        };
        // Safety: as asked by the trait; masked lanes are not touched.
        unsafe {
            let offsets = _mm512_maskz_loadu_epi32(mask, block.offsets.as_ptr().add(first));
            let scales = _mm512_maskz_loadu_ps(mask, block.scales.as_ptr().add(first));
            let mut from = block.sums.add(first);
            let mut to = block.out.add(first);
            for _ in 0..block.pixels {
                let sum = _mm512_add_epi32(_mm512_loadu_si512(from.cast()), offsets);
                let y = _mm512_cvtepi32_epi8(bytes(sum, scales, low, high, zero));
                if mask == u16::MAX {
                    _mm_storeu_si128(to.cast(), y);
                } else {
                    _mm_mask_storeu_epi8(to.cast(), mask, y);
                }
                from = from.add(SUMS);
                to = to.wrapping_add(block.out_step);
            }
        }
    }
}

/// Integers of 16 bits as bytes, with the zero point and the bounds of an output.
#[derive(Clone, Copy)]
pub(in crate::quant) struct Narrow {
    zero: __m512i,
    low: __m512i,
    high: __m512i,
    is_signed: bool,
}

impl Narrow {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in crate::quant) fn new(zero: i32, (low, high): (i32, i32), is_signed: bool) -> Self {
        Self {
            zero: _mm512_set1_epi16(zero as i16),
            low: _mm512_set1_epi8(low as i8),
            high: _mm512_set1_epi8(high as i8),
            is_signed,
        }
    }

    /// Four vectors of i32; within each 128 bits the first's come first. Every step saturates, so
    /// that this is the same as to clamp first.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in crate::quant) fn bytes(&self, y: [__m512i; 4]) -> __m512i {
        let a = _mm512_adds_epi16(_mm512_packs_epi32(y[0], y[1]), self.zero);
        let b = _mm512_adds_epi16(_mm512_packs_epi32(y[2], y[3]), self.zero);
        if self.is_signed {
            let y = _mm512_packs_epi16(a, b);
            _mm512_min_epi8(_mm512_max_epi8(y, self.low), self.high)
        } else {
            let y = _mm512_packus_epi16(a, b);
            _mm512_min_epu8(_mm512_max_epu8(y, self.low), self.high)
        }
    }
}

/// A sum times its scale, rounded; for those that fit i32.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::quant) fn scaled(sum: __m512i, scale: __m512) -> __m512i {
    _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale))
}

/// Two pixels of two panels at a time, narrowed together: for sums that are small.
struct Narrowing {
    offsets: [__m512i; 2],
    scales: [__m512; 2],
    narrow: Narrow,
    /// The channels that there are.
    lanes: u32,
}

impl Narrowing {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn new(block: &Block<'_>) -> Self {
        let numbers = block.numbers;
        let channels = block.offsets.len();
        assert!(channels <= SUMS && block.scales.len() == channels);
        let lanes = u32::MAX >> (SUMS - channels);
        let masks = [lanes as u16, (lanes >> PANEL) as u16];
        // Safety: masked lanes are not touched.
        let offsets = [0, 1].map(|i| unsafe {
            _mm512_maskz_loadu_epi32(masks[i], block.offsets.as_ptr().wrapping_add(i * PANEL))
        });
        // Safety: as above.
        let scales = [0, 1].map(|i| unsafe {
            _mm512_maskz_loadu_ps(masks[i], block.scales.as_ptr().wrapping_add(i * PANEL))
        });
        let narrow = Narrow::new(numbers.zero, numbers.bounds, numbers.is_signed);
        Self { offsets, scales, narrow, lanes }
    }

    /// Writes two pixels, which may be the same, from sums with their offsets.
    ///
    /// *Safety*: the pixels are the block's.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn write(&self, block: &Block<'_>, pixels: [usize; 2], sums: [[__m512i; 2]; 2]) {
        // Narrowing leaves the groups of four of each 128 bits side by side.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let scaled = |pixel: usize, i: usize| scaled(sums[pixel][i], self.scales[i]);
        let y = [scaled(0, 0), scaled(0, 1), scaled(1, 0), scaled(1, 1)];
        let y = _mm512_permutexvar_epi32(order, self.narrow.bytes(y));
        let both = [_mm512_castsi512_si256(y), _mm512_extracti64x4_epi64::<1>(y)];
        for (pixel, y) in pixels.into_iter().zip(both) {
            // Safety: as asked; masked bytes are not touched.
            unsafe {
                let to = block.out.add(pixel * block.out_step);
                if self.lanes == u32::MAX {
                    _mm256_storeu_si256(to.cast(), y);
                } else {
                    _mm256_mask_storeu_epi8(to.cast(), self.lanes, y);
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn requantize_small(block: &Block<'_>) {
    let narrowing = Narrowing::new(block);
    let sums = |pixel: usize| {
        [0, 1].map(|i| {
            // Safety: as asked by the trait, all sums are there.
            let sum =
                unsafe { _mm512_loadu_si512(block.sums.add(pixel * SUMS + i * PANEL).cast()) };
            _mm512_add_epi32(sum, narrowing.offsets[i])
        })
    };
    for pixel in (0..block.pixels).step_by(2) {
        let next = (pixel + 1).min(block.pixels - 1);
        // Safety: as asked by the trait.
        unsafe { narrowing.write(block, [pixel, next], [sums(pixel), sums(next)]) };
    }
}

/// The sum of two maps' bytes: `(a, b, fixed)` are the ratios and what the zero points amount to.
///
/// *Safety*: the processor has AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(in crate::quant) unsafe fn add(
    inputs: [&[u8]; 2],
    signs: [bool; 2],
    (a, b, fixed): (f32, f32, f32),
    narrow: Narrow,
    to: &mut [u8],
) {
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let ratios = [_mm512_set1_ps(a), _mm512_set1_ps(b)];
    let fixed = _mm512_set1_ps(fixed);
    let integers = |x: __m128i, is_signed: bool| {
        let x = if is_signed { _mm512_cvtepi8_epi32(x) } else { _mm512_cvtepu8_epi32(x) };
        _mm512_cvtepi32_ps(x)
    };
    let len = to.len();
    assert!(inputs.iter().all(|input| input.len() == len));
    for at in (0..len).step_by(64) {
        let mask = if len - at >= 64 { u64::MAX } else { (1u64 << (len - at)) - 1 };
        let mut y = [_mm512_setzero_si512(); 4];
        for (v, y) in y.iter_mut().enumerate() {
            let part = (mask >> (16 * v)) as u16;
            // Safety: masked bytes are not touched, the others are inside.
            let [a, b] = unsafe {
                [0, 1].map(|i| {
                    let from = inputs[i].as_ptr().wrapping_add(at + 16 * v);
                    integers(_mm_maskz_loadu_epi8(part, from.cast()), signs[i])
                })
            };
            let sum = _mm512_fmadd_ps(a, ratios[0], _mm512_fmadd_ps(b, ratios[1], fixed));
            *y = _mm512_cvtps_epi32(sum);
        }
        let y = _mm512_permutexvar_epi32(order, narrow.bytes(y));
        // Safety: as above.
        unsafe { _mm512_mask_storeu_epi8(to.as_mut_ptr().add(at).cast(), mask, y) }
    }
}

impl Dots for Vnni512 {
    const PIXELS: usize = 14;

    unsafe fn dots(&mut self, m: &Micro<'_>) {
        macro_rules! dispatch {
            ($($n:literal),*) => {
                match (m.pixels, m.panels) {
                    $(($n, 1) => block::<$n, 1>(m),
                    ($n, 2) => block::<$n, 2>(m),)*
                    _ => unreachable!("a block has at most 14 pixels and 2 panels"),
                }
            };
        }
        // Safety: the token proves the features; the rest is as asked by the trait.
        unsafe { dispatch!(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14) }
    }

    unsafe fn requantize(&self, block: &Block<'_>) {
        // Safety: as above.
        unsafe { requantize(block) }
    }

    unsafe fn bytes(&mut self, m: &Micro<'_>, block: &Block<'_>) {
        macro_rules! dispatch {
            ($($n:literal),*) => {
                match m.pixels {
                    $($n => block_bytes::<$n>(m, block),)*
                    _ => unreachable!("a block has at most 14 pixels"),
                }
            };
        }
        // Safety: as above.
        unsafe {
            if m.panels == 2 && block.numbers.is_small {
                dispatch!(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)
            } else {
                self.dots(m);
                self.requantize(block);
            }
        }
    }
}
