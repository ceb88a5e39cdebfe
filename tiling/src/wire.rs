//! How values travel between devices: what a plan allows, and what becomes of one piece.

use crate::zeros;
use model::{Element, MapId, Model};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What may become of values on their way between devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// Fewer bytes for the same bits, where a link is slower than encoding.
    #[default]
    Auto,
    /// As values lie in memory.
    Raw,
    /// Fewer bytes for the same bits, whatever the link.
    Lossless,
    /// Half floats: every map of floats that leaves a stage, and the inputs of the model, are rounded
    /// by whoever makes them. The model's outputs stay as they are.
    F16,
}

impl Wire {
    /// Whether pieces for a device are encoded.
    pub fn encodes(self, slow_link: bool) -> bool {
        match self {
            Wire::Raw => false,
            Wire::Auto => slow_link,
            Wire::Lossless | Wire::F16 => true,
        }
    }
}

/// The form of a piece's values on the wire. Each gives back the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// As they lie in memory.
    #[default]
    Raw,
    /// A table of values for each channel, and a byte for each value.
    Palette,
    /// A bit for each value, and those that are not zero.
    Zeros,
    /// Half floats.
    Half,
    /// A bit for each value, and those that are not zero as half floats.
    HalfZeros,
}

/// What part of its bytes each map of a model takes on the wire, in thousandths; all of them where
/// nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares(Arc<[u32]>);

/// Nothing is taken for shorter than a bit in 32.
const PER_MILLE_MIN: u32 = 31;

/// A byte for each value of a picture, and its tables.
const PICTURE_PER_MILLE: u32 = 255;

/// A bit for each value, beside those that are not zero.
const MASK_PER_MILLE: u32 = 32;

/// What an encoding takes at most of a map: one that saves less is not used.
const WORTH_PER_MILLE: u32 = 900;

impl Shares {
    /// What is expected of a model's maps: what was `seen` before, and of others that half floats take
    /// half, and zeros a bit.
    pub fn expected(
        model: &Model,
        wire: Wire,
        seen: impl IntoIterator<Item = (MapId, u32)>,
    ) -> Self {
        let halved = |map: MapId| {
            let is_float = model.element(map) == Element::F32;
            wire == Wire::F16 && is_float && !model.outputs.contains(&map)
        };
        let likely = |(map, zeros): (u32, u32)| {
            let map = MapId(map);
            let dense = if halved(map) { 500 } else { 1000 };
            let masked = MASK_PER_MILLE + dense * (1000 - zeros) / 1000;
            let pays = masked < dense && masked <= WORTH_PER_MILLE;
            if pays && model.element(map) == Element::F32 { masked } else { dense }
        };
        let mut shares: Vec<u32> = (0..).zip(zeros::expected(model)).map(likely).collect();
        for (map, per_mille) in seen {
            if let Some(share) = shares.get_mut(map.index()) {
                *share = per_mille.clamp(PER_MILLE_MIN, 1000);
            }
        }
        Self(shares.into())
    }

    /// The inputs of a model that look like pictures, with what these take: where there is no input to
    /// look at yet.
    pub fn of_pictures(model: &Model) -> impl Iterator<Item = (MapId, u32)> + '_ {
        let is_picture = |&map: &MapId| {
            let shape = model.shape(map);
            let spatial = shape.rows() > 1 && shape.cols() > 1;
            spatial && matches!(shape.channels(), 1 | 3) && model.element(map) == Element::F32
        };
        model.inputs.iter().copied().filter(is_picture).map(|map| (map, PICTURE_PER_MILLE))
    }

    /// Whether anything is expected.
    pub fn is_known(&self) -> bool {
        !self.0.is_empty()
    }

    /// The part of a map.
    pub fn per_mille(&self, map: MapId) -> u32 {
        self.0.get(map.index()).copied().unwrap_or(1000)
    }

    /// What of so many bytes of a map travels.
    pub fn of(&self, map: MapId, bytes: u64) -> u64 {
        match self.per_mille(map) {
            1000 => bytes,
            per_mille => (u128::from(bytes) * u128::from(per_mille)).div_ceil(1000) as u64,
        }
    }

    /// Whether a map takes clearly more or less than before: a tenth of all its bytes.
    pub fn differ(&self, other: &Self) -> bool {
        self.differ_by_more_than(100, other)
    }

    /// Whether a map takes more or less than before by so many thousandths of all its bytes.
    pub fn differ_by_more_than(&self, per_mille: u32, other: &Self) -> bool {
        let maps = (0..self.0.len().max(other.0.len()) as u32).map(MapId);
        maps.into_iter().any(|m| self.per_mille(m).abs_diff(other.per_mille(m)) > per_mille)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{LoadOptions, open};

    #[test]
    fn what_is_expected_of_a_model() {
        let model = open("zoo:unet@32x32", &LoadOptions::default()).unwrap().graph;
        let (input, output, made) = (model.inputs[0], model.outputs[0], model.layers[0].output);
        let of = |wire| Shares::expected(&model, wire, Shares::of_pictures(&model));
        let maps = |shares: &Shares| [input, made, output].map(|map| shares.of(map, 10_000));
        assert_eq!(maps(&Shares::default()), [10_000; 3]);
        assert_eq!(maps(&of(Wire::Auto)), [2550, 5320, 10_000]);
        // The outputs are what people read, and are not rounded.
        assert_eq!(maps(&of(Wire::F16)), [2550, 2820, 10_000]);
        let seen = Shares::expected(&model, Wire::Auto, [(made, 1), (output, 4000)]);
        assert_eq!(maps(&seen), [10_000, 310, 10_000]);
        assert!(seen.differ(&of(Wire::Auto)) && !seen.differ(&seen.clone()));
        assert!(seen.of(made, u64::MAX) < u64::MAX / 30, "no overflow on the way");
    }
}
