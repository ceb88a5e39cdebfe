//! Half floats: which values are some, and rounding those that are not.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Values converted at a time.
const BLOCK: usize = 512;

/// The largest half float.
const LARGEST: f32 = 65504.0;

/// Values that lay beyond the range of half floats and became its ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saturated(pub usize);

/// Rounds values to half floats, to the nearest and in doubt to the even one. What lies beyond ±65504,
/// infinity included, becomes that; all NaN become one.
pub fn round_to_half(values: &mut [f32]) -> Saturated {
    let mut halves = [f16::ZERO; BLOCK];
    let mut beyond = 0;
    for block in values.chunks_mut(BLOCK) {
        for value in block.iter_mut() {
            beyond += usize::from(value.abs() > LARGEST);
            *value = if value.is_nan() { f32::NAN } else { value.clamp(-LARGEST, LARGEST) };
        }
        let halves = &mut halves[..block.len()];
        halves.convert_from_f32_slice(block);
        halves.convert_to_f32_slice(block);
    }
    Saturated(beyond)
}

/// Values as half floats; none where any is not one, which the sample usually tells.
pub(super) fn narrow(values: &[u32], mut sample: impl Iterator<Item = u32>) -> Option<Vec<u16>> {
    let is_half = |bits: u32| f16::from_f32(f32::from_bits(bits)).to_f32().to_bits() == bits;
    if !sample.all(is_half) {
        return None;
    }
    let mut narrowed = vec![0u16; values.len()];
    let mut again = [0.0; BLOCK];
    for (from, to) in values.chunks(BLOCK).zip(narrowed.chunks_mut(BLOCK)) {
        let halves: &mut [f16] = halves_of(to);
        halves.convert_from_f32_slice(bytemuck::cast_slice(from));
        let again = &mut again[..from.len()];
        halves.convert_to_f32_slice(again);
        let differ = from.iter().zip(again.iter()).fold(0, |sum, (a, b)| sum | (a ^ b.to_bits()));
        if differ != 0 {
            return None;
        }
    }
    Some(narrowed)
}

/// The values of half floats.
pub(super) fn widen(mut halves: impl Iterator<Item = u16>, values: &mut [f32]) {
    let mut block = [f16::ZERO; BLOCK];
    for to in values.chunks_mut(BLOCK) {
        let block = &mut block[..to.len()];
        block.iter_mut().zip(&mut halves).for_each(|(half, bits)| *half = f16::from_bits(bits));
        block.convert_to_f32_slice(to);
    }
}

fn halves_of(bits: &mut [u16]) -> &mut [f16] {
    use half::slice::HalfBitsSliceExt;
    bits.reinterpret_cast_mut()
}
