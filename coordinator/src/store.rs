//! The feature maps of the frames in flight.
//!
//! A map is written by gathering, then only read: it is stitched once, and pieces of it are sent
//! from where it lies.

use kernels::{KernelError, Piece, Pieces};
use model::{MapId, Model};
use net::{Owner, Payload};
use protocol::PieceHeader;
use std::collections::BTreeMap;
use std::sync::Arc;
use tiling::{Region, StageGeometry};

/// The maps of one frame.
pub(crate) struct FrameMaps {
    maps: BTreeMap<MapId, Arc<Piece>>,
    /// What is made of each map: all of it, or a band.
    made: BTreeMap<MapId, Region>,
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
    pub(crate) fn gather(
        &mut self,
        model: &Model,
        map: MapId,
        region: Region,
        values: Vec<u8>,
    ) -> Result<(), KernelError> {
        let whole = self.made.get(&map).copied().unwrap_or_default();
        let (channels, element) = (model.shape(map).channels(), model.element(map));
        if region == whole {
            let piece = Piece::from_bytes(region, channels, element, &values)?;
            self.maps.insert(map, Arc::new(piece));
            return Ok(());
        }
        let zeroed = || Arc::new(Piece::zeroed_of(whole, channels, element));
        let target = self.maps.entry(map).or_insert_with(zeroed);
        // Nobody reads a map before all its tiles are in.
        let target = Arc::get_mut(target).expect("a map is not shared while it is gathered");
        target.paste_bytes(region, &values)
    }

    /// Pieces of maps, as references.
    ///
    /// *Panics* when a map is not there: the state machine names only complete maps.
    pub(crate) fn cut(&self, pieces: &[PieceHeader]) -> Payload {
        let mut payload = Payload::new();
        for header in pieces {
            let map = self.maps.get(&header.map).expect("a scattered map is complete");
            let owner: Owner = Arc::new(PieceBytes(map.clone()));
            map.runs(header.region).for_each(|run| payload.push(owner.clone(), run));
        }
        payload
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
    use tiling::Span;

    #[test]
    fn a_cut_has_the_bytes_of_a_crop() {
        let whole = Region::new(Span::whole(5), Span::whole(7));
        let values = (0..5 * 7 * 3).map(|v| v as f32).collect();
        let piece = Arc::new(Piece::from_values(whole, 3, values).unwrap());
        let maps = FrameMaps::new([(MapId(0), piece.clone())], &[]);
        for (rows, cols) in [((1, 4), (2, 5)), ((0, 5), (0, 7)), ((2, 3), (0, 7))] {
            let region = Region::new(Span::new(rows.0, rows.1), Span::new(cols.0, cols.1));
            let cut = maps.cut(&[PieceHeader {
                map: MapId(0),
                region,
                channels: 3,
                element: model::Element::F32,
            }]);
            let bytes: Vec<u8> = cut.slices().flatten().copied().collect();
            assert_eq!(bytes, piece.crop(region).as_bytes());
        }
    }
}
