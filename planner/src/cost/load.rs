//! What the tiles of a stage ask for: time to compute, bytes from the coordinator and to it, and pieces
//! that lie on workers.

use super::{Cut, region_bytes};
use crate::DeviceProfile;
use model::{MapId, Model};
use tiling::{Handover, Region, Stage};

/// A stage that was followed, or whose pieces are where it left them.
#[derive(Clone, Copy)]
pub(crate) struct Made<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) cut: &'a Cut,
}

/// Where a piece of a tile's inputs is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Index of its stage among those before, and its tile.
    pub(crate) maker: (usize, usize),
    pub(crate) device: usize,
    pub(crate) bytes: u64,
}

/// What a tile asks for.
#[derive(Clone, Debug)]
pub(crate) struct TileLoad {
    pub(crate) device: usize,
    /// Time to compute it there.
    pub(crate) takes_ns: u64,
    pub(crate) multiply_adds: u64,
    /// Bytes that the coordinator sends with it.
    pub(crate) bytes_in: u64,
    /// Bytes that it sends the coordinator.
    pub(crate) bytes_out: u64,
    /// Its inputs that lie on workers.
    pub(crate) origins: Vec<Origin>,
}

impl TileLoad {
    /// Bytes that come from other workers.
    pub(crate) fn exchange_bytes(&self) -> u64 {
        self.origins.iter().filter(|o| o.device != self.device).map(|o| o.bytes).sum()
    }
}

/// The tiles of a stage, in the order in which they are sent; what they read is not looked at yet.
pub(crate) fn loads(model: &Model, devices: &[DeviceProfile], made: Made<'_>) -> Vec<TileLoad> {
    let Made { stage, cut } = made;
    let keeps = stage.handover == Handover::Exchange;
    let load = |(tile, slot): (usize, &tiling::Slot)| {
        let device = slot.0 as usize;
        let outputs = cut.borders.tiles[tile].outputs.iter();
        let sent = outputs.filter(|(map, _)| !keeps || model.outputs.contains(map));
        TileLoad {
            device,
            takes_ns: devices.get(device).map_or(0, |d| d.takes_ns(&cut.works[tile])),
            multiply_adds: cut.multiply_adds[tile],
            bytes_in: 0,
            bytes_out: sent
                .map(|&(map, region)| travels(model, devices, device, map, region))
                .sum(),
            origins: Vec::new(),
        }
    };
    stage.placement.iter().enumerate().map(load).collect()
}

/// Finds where the tiles of a stage get what they read, after the stages before it.
pub(crate) fn take_from(
    model: &Model,
    devices: &[DeviceProfile],
    before: &[Made<'_>],
    cut: &Cut,
    loads: &mut [TileLoad],
) {
    let keepers: Vec<(MapId, Option<usize>)> =
        cut.borders.input_maps.iter().map(|&map| (map, keeper(before, map))).collect();
    for (load, tile) in loads.iter_mut().zip(&cut.borders.tiles) {
        for &(map, region) in &tile.inputs {
            let keeper = keepers.iter().find(|(of, _)| *of == map).and_then(|(_, keeper)| *keeper);
            match keeper {
                Some(index) => {
                    load.origins.extend(origins((model, devices), before, index, map, region));
                }
                None => load.bytes_in += travels(model, devices, load.device, map, region),
            }
        }
    }
}

/// The stage that made a map, where it stayed on the workers.
fn keeper(before: &[Made<'_>], map: MapId) -> Option<usize> {
    let index = before.iter().rposition(|m| m.cut.borders.output_maps.contains(&map))?;
    (before[index].stage.handover == Handover::Exchange).then_some(index)
}

/// Bytes of a region of a map on the wire, to a device or from it.
fn travels(
    model: &Model,
    devices: &[DeviceProfile],
    device: usize,
    map: MapId,
    region: Region,
) -> u64 {
    let bytes = region_bytes(model, map, region);
    devices.get(device).map_or(bytes, |device| device.shares.of(map, bytes))
}

fn origins<'a>(
    (model, devices): (&'a Model, &'a [DeviceProfile]),
    before: &'a [Made<'_>],
    index: usize,
    map: MapId,
    region: Region,
) -> impl Iterator<Item = Origin> + 'a {
    let Made { stage, cut } = before[index];
    cut.borders.makers(map, region).map(move |(tile, part)| {
        let device = stage.placement[tile].0 as usize;
        let bytes = travels(model, devices, device, map, part);
        Origin { maker: (index, tile), device, bytes }
    })
}
