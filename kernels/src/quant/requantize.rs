//! How sums become bytes.
//!
//! Safety of the module: who asks for bytes says where sums and bytes lie.
#![allow(unsafe_code)]

use model::{Element, Quant};

/// The numbers of a layer's output, beside the scale of each channel.
///
/// `(sum as f32 * scale)` kept within `low..=high`, rounded with halves to even, plus `zero`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Requantize {
    pub(crate) low: f32,
    pub(crate) high: f32,
    pub(crate) zero: i32,
    /// The bounds with the zero point, and whether they are those of i8.
    pub(super) bounds: (i32, i32),
    pub(super) is_signed: bool,
    /// Whether every scaled sum is sure to fit i32.
    pub(super) is_small: bool,
}

impl Requantize {
    /// Bounds are those of the bytes, before the zero point is added.
    pub(crate) fn new(output: &Quant, low: i32, high: i32) -> Self {
        let zero = output.zero;
        Self {
            low: (low - zero) as f32,
            high: (high - zero) as f32,
            zero,
            bounds: (low, high),
            is_signed: output.element == Element::I8,
            is_small: false,
        }
    }

    /// Knows the scales that will be used.
    pub(crate) fn for_scales(mut self, scales: &[f32]) -> Self {
        self.is_small = scales.iter().all(|scale| *scale < 0.99);
        self
    }

    /// The byte of a sum.
    #[inline(always)]
    pub(crate) fn one(&self, sum: i32, scale: f32) -> u8 {
        self.round(sum as f32 * scale)
    }

    /// The byte of a number in units of the output's scale.
    #[inline(always)]
    pub(crate) fn round(&self, x: f32) -> u8 {
        let x = if x > self.low { x } else { self.low };
        let x = if x < self.high { x } else { self.high };
        (rounded(x) + self.zero) as u8
    }
}

/// To the nearest integer, halves to even; for what is far within i32.
#[inline(always)]
pub(crate) fn rounded(x: f32) -> i32 {
    // The sum has no room for a fraction, and its low bits are the integer.
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()) as i32
}

/// The sums of a block of pixels as bytes of some channels.
pub(super) struct Block<'a> {
    /// Sums of a pixel lie `SUMS` after those of the one before.
    pub(super) sums: *const i32,
    pub(super) pixels: usize,
    /// For each channel, what is added to its sum.
    pub(super) offsets: &'a [i32],
    pub(super) scales: &'a [f32],
    pub(super) numbers: &'a Requantize,
    pub(super) out: *mut u8,
    /// Bytes from one pixel of the output to the next.
    pub(super) out_step: usize,
}

/// Sums of a pixel: two panels of output channels.
pub(super) const SUMS: usize = 32;

impl Block<'_> {
    /// Plain code, compiled for the features of who calls it.
    ///
    /// *Safety*: as many sums are readable, and bytes writable, as there are pixels and channels.
    #[inline(always)]
    pub(super) unsafe fn plain(&self) {
        let channels = self.offsets.len();
        for pixel in 0..self.pixels {
            // Safety: as asked.
            let (sums, out) = unsafe {
                let sums = std::slice::from_raw_parts(self.sums.add(pixel * SUMS), channels);
                let out = self.out.add(pixel * self.out_step);
                (sums, std::slice::from_raw_parts_mut(out, channels))
            };
            for i in 0..channels {
                let sum = sums[i].wrapping_add(self.offsets[i]);
                out[i] = self.numbers.one(sum, self.scales[i]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_go_to_even() {
        for (x, expected) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (254.5, 254)] {
            assert_eq!(rounded(x), expected, "{x}");
        }
        assert!(
            (-2000..2000)
                .all(|i| rounded(i as f32 / 8.0) as f32 == (i as f32 / 8.0).round_ties_even())
        );
    }

    #[test]
    fn it_is_what_the_model_says() {
        let quant = Quant { element: Element::U8, scale: 0.25, zero: 7 };
        let numbers = Requantize::new(&quant, 0, 255);
        for i in -3000..3000 {
            let x = i as f32 * 0.03;
            assert_eq!(i32::from(numbers.round(x)), quant.round(x), "{x}");
        }
    }
}
