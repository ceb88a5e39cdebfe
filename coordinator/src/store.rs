//! The feature maps of the frames in flight.
//!
//! A map is written by gathering, then only read: it is stitched once, and pieces of it are sent
//! from where it lies.

use kernels::wire::decode;
use kernels::{KernelError, Piece, Pieces};
use model::{MapId, Model};
use protocol::{Bundle, PieceHeader};
use std::collections::BTreeMap;
use std::sync::Arc;
use tiling::{Encoding, Region, StageGeometry};
use worker::outbox::Held;

/// The maps of one frame.
pub(crate) struct FrameMaps {
    maps: BTreeMap<MapId, Arc<Piece>>,
    /// What is made of each map: all of it, or a band.
    made: BTreeMap<MapId, Region>,
}

/// The values of a piece that came.
#[derive(Clone, Debug)]
pub(crate) enum Arrived {
    /// As they lie in memory.
    Raw(Vec<u8>),
    /// They were encoded.
    Decoded(Piece),
}

impl Arrived {
    /// Decodes the pieces of a bundle where they are encoded.
    ///
    /// *Errors*: bytes that are no such piece.
    pub(crate) fn all(bundle: &Bundle, values: Vec<Vec<u8>>) -> Result<Vec<Self>, KernelError> {
        let arrived = |(i, bytes): (usize, Vec<u8>)| {
            let header = &bundle.pieces[i];
            let (channels, element) = (header.channels as usize, header.element);
            match bundle.encoding(i) {
                Encoding::Raw => Ok(Self::Raw(bytes)),
                encoding => {
                    decode(header.region, channels, element, encoding, &bytes).map(Self::Decoded)
                }
            }
        };
        values.into_iter().enumerate().map(arrived).collect()
    }

    /// The values as they lie in memory.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Raw(bytes) => bytes,
            Self::Decoded(piece) => piece.as_bytes(),
        }
    }
}

struct PieceBytes(Arc<Piece>);

impl AsRef<[u8]> for PieceBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl FrameMaps {
    /// Starts with the maps that the caller gives.
    pub(crate) fn new(
        inputs: impl IntoIterator<Item = (MapId, Arc<Piece>)>,
        geometry: &[StageGeometry],
    ) -> Self {
        let mut made: BTreeMap<MapId, Region> = BTreeMap::new();
        for (map, region) in geometry.iter().flat_map(|s| &s.tiles).flat_map(|t| &t.outputs) {
            let hull = made.entry(*map).or_default();
            *hull = hull.hull(*region);
        }
        Self { maps: inputs.into_iter().collect(), made }
    }

    /// Stitches the values of a region into its map: the one copy between the socket and the map.
    ///
    /// *Errors*: their number does not fit the region.
    ///
    /// *Panics* when they were decoded as something else than the map has.
    pub(crate) fn gather(
        &mut self,
        model: &Model,
        map: MapId,
        region: Region,
        values: Arrived,
    ) -> Result<(), KernelError> {
        let whole = self.made.get(&map).copied().unwrap_or_default();
        let (channels, element) = (model.shape(map).channels(), model.element(map));
        if region == whole {
            let piece = match values {
                Arrived::Raw(bytes) => Piece::from_bytes(region, channels, element, &bytes)?,
                Arrived::Decoded(piece) => piece,
            };
            self.maps.insert(map, Arc::new(piece));
            return Ok(());
        }
        let zeroed = || Arc::new(Piece::zeroed_of(whole, channels, element));
        let target = self.maps.entry(map).or_insert_with(zeroed);
        // Nobody reads a map before all its tiles are in.
        let target = Arc::get_mut(target).expect("a map is not shared while it is gathered");
        match values {
            Arrived::Raw(bytes) => target.paste_bytes(region, &bytes),
            Arrived::Decoded(piece) => {
                target.paste(&piece);
                Ok(())
            }
        }
    }

    /// Pieces of maps, as references.
    ///
    /// *Panics* when a map is not there: the state machine names only complete maps.
    pub(crate) fn cut(&self, pieces: &[PieceHeader]) -> Vec<Held> {
        let cut = |header: &PieceHeader| {
            let piece = self.maps.get(&header.map).expect("a scattered map is complete").clone();
            Held { owner: Arc::new(PieceBytes(piece.clone())), piece, until_sent: None }
        };
        pieces.iter().map(cut).collect()
    }

    /// Lets go of a map.
    pub(crate) fn release(&mut self, map: MapId) {
        self.maps.remove(&map);
    }

    /// Takes the maps that the caller wants.
    pub(crate) fn take(mut self, maps: &[MapId]) -> Pieces {
        maps.iter().filter_map(|&map| Some((map, self.maps.remove(&map)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::wire::encode;
    use protocol::{BundleKind, Form, FrameId, Orders, PlanId, TaskId};
    use tiling::Span;

    /// A map comes back from its pieces, however these travelled.
    #[test]
    fn what_is_gathered_is_what_was_cut() {
        let model = model::open("zoo:unet@32x32", &model::LoadOptions::default()).unwrap().graph;
        let map = model.inputs[0];
        let shape = model.shape(map).clone();
        let values = (0..shape.elements()).map(|v| (v % 200) as f32).collect();
        let piece = Piece::from_values(Region::whole(&shape), shape.channels(), values).unwrap();
        let maps = FrameMaps::new([(map, Arc::new(piece.clone()))], &[]);
        let mut again = FrameMaps::new([], &[]);
        again.made.insert(map, piece.region);
        let cols = Span::whole(shape.cols());
        for rows in [Span::new(0, 20), Span::new(20, shape.rows())] {
            let region = Region::new(rows, cols);
            let channels = shape.channels() as u32;
            let header = PieceHeader { map, region, channels, element: model::Element::F32 };
            let held = &maps.cut(&[header])[0];
            let encoded = encode(&held.piece, region).expect("few different values");
            let form = Form { encoding: encoded.encoding, bytes: encoded.bytes.len() as u64 };
            let bundle = bundle(header, form);
            let mut arrived = Arrived::all(&bundle, vec![encoded.bytes.clone()]).unwrap();
            again.gather(&model, map, region, arrived.remove(0)).unwrap();
            assert!(Arrived::all(&bundle, vec![encoded.bytes[1..].to_vec()]).is_err());
        }
        assert_eq!(again.maps[&map].as_bytes(), piece.as_bytes());
    }

    fn bundle(piece: PieceHeader, form: Form) -> Bundle {
        Bundle {
            kind: BundleKind::Result { busy_ns: 1, waited_ns: 0 },
            plan: PlanId(1),
            task: TaskId { frame: FrameId(0), stage: 0, tile: 0 },
            attempt: 1,
            pieces: vec![piece],
            forms: vec![form],
            orders: Orders::default(),
        }
    }
}
