//! A mask of the values that are not zero, in words of 32 bits, then those values. Minus zero is not
//! zero.

use bytemuck::Pod;

/// Values that a word of the mask tells of.
const WORD: usize = 32;

/// Bits of a value.
pub(super) trait Bits: Pod + Eq + Default {
    /// The same bits where `keep` is one, none where it is zero.
    fn kept(self, keep: u32) -> Self;
}

impl Bits for u32 {
    fn kept(self, keep: u32) -> Self {
        self & 0u32.wrapping_sub(keep)
    }
}

impl Bits for u16 {
    fn kept(self, keep: u32) -> Self {
        self & 0u16.wrapping_sub(keep as u16)
    }
}

/// How many values are not zero.
pub(super) fn filled(values: &[u32]) -> usize {
    let of = |block: &[u32]| block.iter().map(|&v| u32::from(v != 0)).sum::<u32>() as usize;
    values.chunks(1 << 16).map(of).sum()
}

/// Bytes of the mask of so many values.
pub(super) fn mask_bytes(values: usize) -> usize {
    values.div_ceil(WORD) * 4
}

/// Encodes values of which so many are not zero.
pub(super) fn encode<T: Bits>(values: &[T], filled: usize) -> Vec<u8> {
    let masks = mask_bytes(values.len());
    let mut bytes = Vec::with_capacity(masks + filled * size_of::<T>());
    bytes.resize(masks, 0);
    for (word, chunk) in values.chunks(WORD).enumerate() {
        // No branch depends on a value: each is written, and the place moves on or does not.
        let mut kept = [T::default(); 2 * WORD];
        let (mut mask, mut count) = (0u32, 0);
        for (i, &value) in chunk.iter().enumerate() {
            let bit = u32::from(value != T::default());
            mask |= bit << i;
            kept[count % (2 * WORD)] = value;
            count += bit as usize;
        }
        bytes[4 * word..4 * word + 4].copy_from_slice(&mask.to_le_bytes());
        bytes.extend_from_slice(bytemuck::cast_slice(&kept[..count]));
    }
    bytes
}

/// Bytes whose lengths agree.
pub(super) struct Packed<'a, T> {
    masks: &'a [[u8; 4]],
    values: &'a [u8],
    kind: std::marker::PhantomData<T>,
}

impl<'a, T: Bits> Packed<'a, T> {
    pub(super) fn read(bytes: &'a [u8], len: usize) -> Result<Self, &'static str> {
        let mask = bytes.get(..mask_bytes(len)).ok_or("its mask is cut off")?;
        let (masks, _) = mask.as_chunks::<4>();
        let values = &bytes[mask.len()..];
        let ones = |mask: &[u8; 4]| u32::from_le_bytes(*mask).count_ones() as usize;
        let filled: usize = masks.iter().map(ones).sum();
        if filled.checked_mul(size_of::<T>()) != Some(values.len()) {
            return Err("its mask counts other values than there are");
        }
        let last = masks.last().map_or(0, |mask| u32::from_le_bytes(*mask));
        if !len.is_multiple_of(WORD) && last >> (len % WORD) != 0 {
            return Err("its mask has bits beyond its values");
        }
        Ok(Self { masks, values, kind: std::marker::PhantomData })
    }

    pub(super) fn unpack(&self, to: &mut [T]) {
        let mut rest = self.values;
        for (mask, to) in self.masks.iter().zip(to.chunks_mut(WORD)) {
            let mask = u32::from_le_bytes(*mask);
            let (own, after) = rest.split_at(mask.count_ones() as usize * size_of::<T>());
            rest = after;
            let mut kept = [T::default(); 2 * WORD];
            bytemuck::cast_slice_mut(&mut kept)[..own.len()].copy_from_slice(own);
            let mut at = 0;
            for (i, to) in to.iter_mut().enumerate() {
                let bit = mask >> i & 1;
                *to = kept[at % (2 * WORD)].kept(bit);
                at += bit as usize;
            }
        }
    }
}
