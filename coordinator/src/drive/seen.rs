//! What the maps of a model took on the wire so far: what the next plan is made for.

use super::Driver;
use kernels::wire::encode;
use kernels::{Piece, Pieces};
use model::{MapId, Model};
use protocol::{Bundle, Carried, Message, ModelHash};
use std::collections::BTreeMap;
use std::sync::Arc;
use tiling::{Shares, Wire};

/// Models whose maps are remembered; more begin anew.
const MODELS_MAX: usize = 64;

/// Maps of a model that are remembered, and bytes that one word may tell of: it comes over the wire.
const CARRIED_MAX: usize = 1 << 14;
const BYTES_MAX: u64 = 1 << 40;

/// Bytes as they lie in memory, and as they travelled.
#[derive(Clone, Copy, Debug, Default)]
struct Travelled {
    raw: u64,
    wire: u64,
}

impl Travelled {
    fn per_mille(self) -> u32 {
        let share = u128::from(self.wire) * 1000 / u128::from(self.raw.max(1));
        share.min(1000) as u32
    }
}

/// Of each model, by what becomes of its values.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<(ModelHash, bool), BTreeMap<MapId, Travelled>>);

fn key(model: ModelHash, wire: Wire) -> (ModelHash, bool) {
    (model, wire == Wire::F16)
}

impl Seen {
    /// Takes in what the pieces of a bundle took. Those that travel as they lie in memory although they
    /// could be encoded count too: their form says so.
    pub(super) fn see(&mut self, (model, wire): (ModelHash, Wire), bundle: &Bundle) {
        let sent = bundle.pieces.iter().zip(&bundle.forms);
        let carried = sent.map(|(piece, form)| {
            let (map, raw_bytes) = (piece.map, piece.byte_len().unwrap_or(0) as u64);
            Carried { map, raw_bytes, wire_bytes: form.bytes }
        });
        self.add((model, wire), carried);
    }

    /// Takes in what a worker says of pieces that it sent to others.
    pub(super) fn hear(&mut self, (model, wire): (ModelHash, Wire), maps: &[Carried]) {
        // Nothing tells of more maps than a model has.
        let maps = maps.iter().take(CARRIED_MAX);
        let bounded = |carried: &Carried| Carried {
            raw_bytes: carried.raw_bytes.min(BYTES_MAX),
            wire_bytes: carried.wire_bytes.min(carried.raw_bytes).min(BYTES_MAX),
            ..*carried
        };
        self.add((model, wire), maps.map(bounded));
    }

    fn add(&mut self, (model, wire): (ModelHash, Wire), carried: impl Iterator<Item = Carried>) {
        let mut carried = carried.peekable();
        if carried.peek().is_none() {
            return;
        }
        if self.0.len() >= MODELS_MAX {
            self.0.clear();
        }
        let maps = self.0.entry(key(model, wire)).or_default();
        for Carried { map, raw_bytes, wire_bytes } in carried {
            if maps.len() >= CARRIED_MAX && !maps.contains_key(&map) {
                return;
            }
            let travelled = maps.entry(map).or_default();
            // What is long ago counts for less.
            if travelled.raw > 1 << 30 {
                *travelled = Travelled { raw: travelled.raw / 2, wire: travelled.wire / 2 };
            }
            travelled.raw += raw_bytes;
            travelled.wire += wire_bytes;
        }
    }

    /// What is expected of a frame. Where its inputs are new they are looked at.
    pub(super) fn shares(
        &self,
        (hash, model): (ModelHash, &Model),
        wire: Wire,
        inputs: &Pieces,
    ) -> Shares {
        let seen = self.0.get(&key(hash, wire));
        let looked = |(map, piece): &(MapId, Arc<Piece>)| {
            let known = seen.is_some_and(|maps| maps.contains_key(map));
            let encoded = (!known).then(|| encode(piece, piece.region))??;
            let bytes = piece.byte_len() as u64;
            let travelled = Travelled { raw: bytes, wire: encoded.bytes.len() as u64 };
            Some((*map, travelled.per_mille()))
        };
        let before = seen.into_iter().flatten().map(|(&map, seen)| (map, seen.per_mille()));
        Shares::expected(model, wire, inputs.iter().filter_map(looked).chain(before))
    }
}

impl Driver {
    /// Looks at what the maps of a bundle take on the wire.
    pub(super) fn see(&mut self, bundle: &Bundle) {
        if let Some(frame) = self.frames.get(&bundle.task.frame) {
            self.seen.see((frame.model.hash, frame.plan.plan.wire), bundle);
        }
    }

    /// Takes in what maps took on their way between workers. Nothing is remembered of models that nobody
    /// here computes.
    pub(super) fn hear_of_maps(&mut self, message: &Message) {
        if let Message::Carried { model, wire, maps } = message
            && self.blobs.contains_key(&model.0)
        {
            self.seen.hear((*model, *wire), maps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{LoadOptions, WeightHash, open};
    use protocol::{BundleKind, Form, FrameId, Orders, PieceHeader, PlanId, TaskId};
    use tiling::{Encoding, Region};

    #[test]
    fn what_travelled_is_what_is_expected() {
        let model = open("zoo:unet@32x32", &LoadOptions::default()).unwrap().graph;
        let hash = ModelHash(WeightHash::of_bytes(b"model"));
        let mut seen = Seen::default();
        let none = Pieces::new();
        let (input, made) = (model.inputs[0], model.layers[0].output);
        let share =
            |seen: &Seen, map| seen.shares((hash, &model), Wire::Auto, &none).per_mille(map);
        assert_eq!((share(&seen, input), share(&seen, made)), (1000, 532));
        let shape = model.shape(made);
        let (region, element) = (Region::whole(shape), model.element(made));
        let piece = PieceHeader { map: made, region, channels: shape.channels() as u32, element };
        let bytes = piece.byte_len().unwrap() as u64 / 4;
        let mut bundle = Bundle {
            kind: BundleKind::Scatter,
            plan: PlanId(1),
            task: TaskId { frame: FrameId(0), stage: 0, tile: 0 },
            attempt: 1,
            pieces: vec![piece],
            forms: Vec::new(),
            orders: Orders::default(),
        };
        // Without forms it says nothing.
        seen.see((hash, Wire::Auto), &bundle);
        assert_eq!(share(&seen, made), 532);
        bundle.forms = vec![Form { encoding: Encoding::Zeros, bytes }];
        seen.see((hash, Wire::Auto), &bundle);
        assert_eq!((share(&seen, input), share(&seen, made)), (1000, 250));
        // What workers sent each other counts like the rest, and as much as it can be.
        let carried = |raw_bytes, wire_bytes| Carried { map: made, raw_bytes, wire_bytes };
        seen.hear((hash, Wire::Auto), &[carried(4 * bytes, 3 * bytes)]);
        assert_eq!(share(&seen, made), 500);
        seen.hear((hash, Wire::Auto), &[carried(u64::MAX, u64::MAX); 3]);
        assert_eq!(share(&seen, made), 999);
        let mut seen = Seen::default();
        seen.see((hash, Wire::Auto), &bundle);
        // Half floats are another matter.
        let halves = seen.shares((hash, &model), Wire::F16, &none);
        assert_eq!((halves.per_mille(input), halves.per_mille(made)), (500, 282));
        assert_eq!(halves.per_mille(model.outputs[0]), 1000);
        // A picture is looked at.
        let shape = model.shape(input);
        let values = (0..shape.elements()).map(|i| (i % 7) as f32).collect();
        let picture = Piece::from_values(Region::whole(shape), shape.channels(), values).unwrap();
        let inputs = vec![(input, Arc::new(picture))];
        let shares = seen.shares((hash, &model), Wire::Auto, &inputs);
        assert!((250..260).contains(&shares.per_mille(input)), "{}", shares.per_mille(input));
    }
}
