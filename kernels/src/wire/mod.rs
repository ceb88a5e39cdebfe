//! Pieces in fewer bytes, for links that are slower than a processor. Every encoding gives back the
//! same bits.
//!
//! ```text
//!  raw         4 bytes a value
//!  palette     for each channel a table of at most 256 values; 1 byte a value
//!  zeros       1 bit a value; 4 bytes for each that is not zero
//!  half        2 bytes a value, where every value is a half float
//!  half zeros  1 bit a value; 2 bytes for each that is not zero
//! ```
//!
//! A photograph has a palette, however it was normalised; maps after a ReLU are half zeros or more. The
//! smallest is taken, if it saves a tenth. What cannot pay is found out from a sample or within the
//! first few hundred values, so that a piece without structure costs next to nothing.

mod halves;
mod palette;
mod zeros;

pub use halves::{Saturated, round_to_half};

use crate::{KernelError, Piece, Pieces};
use halves::widen;
use model::{Element, MapId, Model};
use std::borrow::Cow;
use std::sync::Arc;
use tiling::{Encoding, Region, Wire};

/// Rounds the maps that leave a stage as its plan's wire wants them, whoever made them. The model's
/// outputs stay as they are.
pub fn round_outputs(model: &Model, wire: Wire, outputs: &mut [(MapId, Piece)]) -> Saturated {
    let rounded = outputs.iter_mut().filter(|(map, _)| is_rounded(model, wire, *map));
    let saturated = rounded.map(|(_, piece)| round_to_half(piece.values_mut()).0);
    Saturated(saturated.sum())
}

/// The inputs of a model as a plan's wire wants them.
pub fn inputs_for(model: &Model, wire: Wire, inputs: Pieces) -> (Pieces, Saturated) {
    let mut saturated = 0;
    let rounded = |(map, piece): (MapId, Arc<Piece>)| {
        if !is_rounded(model, wire, map) {
            return (map, piece);
        }
        let mut piece = Piece::clone(&piece);
        saturated += round_to_half(piece.values_mut()).0;
        (map, Arc::new(piece))
    };
    let inputs = inputs.into_iter().map(rounded).collect();
    (inputs, Saturated(saturated))
}

fn is_rounded(model: &Model, wire: Wire, map: MapId) -> bool {
    wire == Wire::F16 && model.element(map) == Element::F32 && !model.outputs.contains(&map)
}

/// Values that a sample looks at.
const SAMPLE: usize = 512;

/// The part of the raw bytes that an encoding may have at most, in tenths.
const WORTH_TENTHS: usize = 9;

/// A piece in fewer bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Their form.
    pub encoding: Encoding,
    /// What goes over the wire.
    pub bytes: Vec<u8>,
}

/// The values of a region of a piece in fewer bytes; none where none of the encodings saves a tenth.
///
/// *Panics* when the region is not inside the piece.
pub fn encode(piece: &Piece, region: Region) -> Option<Encoded> {
    if piece.element() != Element::F32 || region.is_empty() || piece.channels == 0 {
        return None;
    }
    let bits: &[u32] = bytemuck::cast_slice(piece.values());
    let mut runs = piece.runs(region).map(|run| run.start / 4..run.end / 4);
    let values = match (runs.next(), runs.next()) {
        (Some(only), None) => Cow::Borrowed(&bits[only]),
        _ => {
            let mut values = Vec::with_capacity(region.positions() * piece.channels);
            let runs = piece.runs(region).map(|run| run.start / 4..run.end / 4);
            runs.for_each(|run| values.extend_from_slice(&bits[run]));
            Cow::Owned(values)
        }
    };
    smallest(&values, piece.channels)
}

fn smallest(values: &[u32], channels: usize) -> Option<Encoded> {
    let most = values.len() * 4 / 10 * WORTH_TENTHS;
    let looks_empty = sample(values).filter(|&v| v == 0).count() * 10 > SAMPLE;
    let filled = if looks_empty { zeros::filled(values) } else { values.len() };
    let halves = halves::narrow(values, sample(values));
    let palette = palette::Palette::of(values, channels);
    let mask = zeros::mask_bytes(values.len());
    let sizes = [
        (Encoding::Palette, palette.as_ref().map(palette::Palette::byte_len)),
        (Encoding::Zeros, looks_empty.then_some(mask + 4 * filled)),
        (Encoding::Half, halves.as_ref().map(|halves| 2 * halves.len())),
        (Encoding::HalfZeros, halves.as_ref().filter(|_| looks_empty).map(|_| mask + 2 * filled)),
    ];
    let sizes = sizes.into_iter().filter_map(|(encoding, size)| Some((encoding, size?)));
    let (encoding, _) = sizes.filter(|&(_, size)| size <= most).min_by_key(|&(_, size)| size)?;
    let bytes = match (encoding, palette, halves) {
        (Encoding::Palette, Some(palette), _) => palette.into_bytes(),
        (Encoding::Half, _, Some(halves)) => bytemuck::cast_slice(&halves).to_vec(),
        (Encoding::HalfZeros, _, Some(halves)) => zeros::encode(&halves, filled),
        _ => zeros::encode(values, filled),
    };
    Some(Encoded { encoding, bytes })
}

/// Values from all over, at places that are spread by the golden ratio: equal steps would meet the same
/// channel again and again.
fn sample(values: &[u32]) -> impl Iterator<Item = u32> {
    const STEP: u32 = 0x9E37_79B9;
    let places = (0..SAMPLE as u32).map(|k| u64::from(k.wrapping_mul(STEP)));
    places.map(|place| values[((place * values.len() as u64) >> 32) as usize])
}

/// The piece that was encoded so.
///
/// *Errors*: bytes that are no such piece: of another length than they say, with more table entries
/// than there are, with values that are not there. Nothing is allocated before that is checked.
pub fn decode(
    region: Region,
    channels: usize,
    element: Element,
    encoding: Encoding,
    bytes: &[u8],
) -> Result<Piece, KernelError> {
    let broken = |what| KernelError::Encoded { region, channels, encoding, what };
    if encoding != Encoding::Raw && element != Element::F32 {
        return Err(broken("its values are no floats"));
    }
    let positions = region.rows.len().checked_mul(region.cols.len());
    let len = positions.and_then(|positions| positions.checked_mul(channels));
    // No encoding takes less than a bit a value, which bounds what is asked for below.
    let len = len.filter(|len| len.div_ceil(8) <= bytes.len());
    let len = len.ok_or(broken("there are too few bytes for its values"))?;
    let piece = || {
        let piece = Piece::zeroed_of(region, channels, element);
        debug_assert_eq!(piece.values().len(), len);
        piece
    };
    match encoding {
        Encoding::Raw => Piece::from_bytes(region, channels, element, bytes),
        Encoding::Palette => {
            let palette = palette::Packed::read(bytes, len, channels).map_err(broken)?;
            let mut piece = piece();
            palette.unpack(bits_of(&mut piece)).map_err(broken)?;
            Ok(piece)
        }
        Encoding::Zeros => {
            let packed = zeros::Packed::<u32>::read(bytes, len).map_err(broken)?;
            let mut piece = piece();
            packed.unpack(bits_of(&mut piece));
            Ok(piece)
        }
        Encoding::Half => {
            if Some(bytes.len()) != len.checked_mul(2) {
                return Err(broken("it has not two bytes a value"));
            }
            let mut piece = piece();
            let (pairs, _) = bytes.as_chunks::<2>();
            widen(pairs.iter().map(|&pair| u16::from_le_bytes(pair)), piece.values_mut());
            Ok(piece)
        }
        Encoding::HalfZeros => {
            let packed = zeros::Packed::<u16>::read(bytes, len).map_err(broken)?;
            let mut piece = piece();
            let mut halves = vec![0u16; len];
            packed.unpack(&mut halves);
            widen(halves.into_iter(), piece.values_mut());
            Ok(piece)
        }
    }
}

fn bits_of(piece: &mut Piece) -> &mut [u32] {
    bytemuck::cast_slice_mut(piece.values_mut())
}

#[cfg(test)]
mod tests;
