//! Small integers that stand for numbers.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What one element of a feature map or a weight tensor is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Element {
    /// A float.
    #[default]
    F32,
    /// 0 to 255.
    U8,
    /// -128 to 127.
    I8,
    /// Biases of quantised layers; no feature map has it.
    I32,
    /// A float of half the length: weights that convolutions and fully connected layers multiply with;
    /// no feature map has it.
    F16,
}

impl Element {
    /// Size in memory and on the wire.
    pub const fn bytes(self) -> usize {
        match self {
            Element::F32 | Element::I32 => 4,
            Element::F16 => 2,
            Element::U8 | Element::I8 => 1,
        }
    }

    /// Whether feature maps may have it.
    pub const fn is_of_maps(self) -> bool {
        !matches!(self, Element::I32 | Element::F16)
    }

    /// Whether it is an integer of one byte.
    pub const fn is_byte(self) -> bool {
        matches!(self, Element::U8 | Element::I8)
    }

    /// The least and the largest integer of one byte; those of `U8` for the other types.
    pub const fn range(self) -> (i32, i32) {
        match self {
            Element::I8 => (-128, 127),
            _ => (0, 255),
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Element::F32 => "f32",
            Element::U8 => "u8",
            Element::I8 => "i8",
            Element::I32 => "i32",
            Element::F16 => "f16",
        })
    }
}

/// How the bytes of a map stand for numbers: `(q - zero) * scale`.
///
/// ```
/// use model::{Element, Quant};
/// let quant = Quant { element: Element::U8, scale: 0.5, zero: 10 };
/// assert_eq!(quant.dequantize(12), 1.0);
/// assert_eq!(quant.quantize(1.25), 12); // halves to even
/// assert_eq!(quant.quantize(-99.0), 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quant {
    /// `U8` or `I8`.
    pub element: Element,
    /// The step between neighbours.
    pub scale: f32,
    /// The integer that stands for 0.
    pub zero: i32,
}

impl Quant {
    /// The number that an integer stands for.
    pub fn dequantize(&self, q: i32) -> f32 {
        (q - self.zero) as f32 * self.scale
    }

    /// The integer that stands for a number: halves to even, saturating.
    pub fn quantize(&self, x: f32) -> i32 {
        self.round(x / self.scale)
    }

    /// The integer for a number in units of the scale.
    pub fn round(&self, x: f32) -> i32 {
        let (low, high) = self.element.range();
        let (low, high) = ((low - self.zero) as f32, (high - self.zero) as f32);
        // Clamped first, so that the conversion cannot overflow; a NaN becomes the least.
        let x = if x > low { x } else { low };
        let x = if x < high { x } else { high };
        x.round_ties_even() as i32 + self.zero
    }

    /// Whether its numbers make sense.
    pub fn is_sound(&self) -> bool {
        let (low, high) = self.element.range();
        let scale = self.scale.is_finite() && self.scale > 0.0;
        self.element.is_byte() && scale && (low..=high).contains(&self.zero)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_integer_comes_back() {
        for (element, zero) in [(Element::U8, 128), (Element::U8, 0), (Element::I8, -3)] {
            for scale in [0.017, 1.0, 3.3e-5] {
                let quant = Quant { element, scale, zero };
                let (low, high) = element.range();
                assert!((low..=high).all(|q| quant.quantize(quant.dequantize(q)) == q));
            }
        }
    }

    #[test]
    fn what_is_out_of_range_saturates() {
        let quant = Quant { element: Element::I8, scale: 0.1, zero: 5 };
        assert_eq!(quant.quantize(f32::INFINITY), 127);
        assert_eq!(quant.quantize(f32::NEG_INFINITY), -128);
        assert_eq!(quant.quantize(f32::NAN), -128);
    }
}
