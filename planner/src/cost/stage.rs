//! How long a stage takes: its tiles scattered, computed and gathered.
//!
//! The coordinator has one link, over which it sends one piece after another and receives likewise;
//! it can do both at a time. A device computes its tiles in order, each from when its inputs have
//! arrived. What a device far slower than the coordinator's link receives is held up by its own.

use super::{StageCost, bytes, layer_multiply_adds, nanos, region_bytes};
use crate::DeviceProfile;
use model::{MapId, Model};
use tiling::{Region, Stage, StageGeometry, Work};

/// What a tile asks for.
pub(crate) struct TileLoad {
    pub(crate) device: usize,
    /// By operator class.
    pub(crate) work: Work,
    pub(crate) multiply_adds: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// The tiles of a stage, in the order in which they are sent.
pub(crate) fn loads(model: &Model, geometry: &StageGeometry, stage: &Stage) -> Vec<TileLoad> {
    let tiles = stage.placement.iter().enumerate();
    let load = |(tile, slot): (usize, &tiling::Slot)| TileLoad {
        device: slot.0 as usize,
        work: geometry.tile_work(model, tile),
        multiply_adds: geometry.tile_multiply_adds(model, tile),
        bytes_in: bytes(model, &geometry.tiles[tile].inputs),
        bytes_out: bytes(model, &geometry.tiles[tile].outputs),
    };
    tiles.map(load).collect()
}

/// The cost of a stage whose tiles ask for so much.
pub(crate) fn cost(
    model: &Model,
    devices: &[DeviceProfile],
    geometry: &StageGeometry,
    stage: &Stage,
    tiles: &[TileLoad],
) -> StageCost {
    let scatter_bytes = tiles.iter().map(|t| t.bytes_in).sum::<u64>();
    let covered: u64 = geometry.input_maps.iter().map(|&m| read_once(model, geometry, m)).sum();
    StageCost {
        duration_ns: duration_ns(devices, tiles),
        scatter_bytes,
        halo_bytes: scatter_bytes.saturating_sub(covered),
        gather_bytes: tiles.iter().map(|t| t.bytes_out).sum(),
        multiply_adds: tiles.iter().map(|t| t.multiply_adds).sum(),
        layer_multiply_adds: layer_multiply_adds(model, stage.first_layer..stage.end_layer),
    }
}

/// From the first byte sent to the last received.
pub(crate) fn duration_ns(devices: &[DeviceProfile], tiles: &[TileLoad]) -> u64 {
    let cables = devices.iter().filter(|d| !d.same_machine).map(|d| d.link_bytes_per_s);
    let cable = cables.max().unwrap_or(1).max(1);
    let mut sent = 0;
    let mut lanes = vec![Lane::default(); devices.len()];
    let mut done: Vec<(u64, &TileLoad)> = Vec::with_capacity(tiles.len());
    // Each device gets its first tile before any gets its second.
    let mut turns: Vec<(usize, &TileLoad)> = Vec::with_capacity(tiles.len());
    for tile in tiles.iter().filter(|tile| tile.device < devices.len()) {
        let lane = &mut lanes[tile.device];
        turns.push((lane.tiles, tile));
        lane.tiles += 1;
    }
    turns.sort_by_key(|(turn, _)| *turn);
    for (_, tile) in turns {
        let (device, lane) = (&devices[tile.device], &mut lanes[tile.device]);
        let own = device.link_bytes_per_s.max(1);
        let start = if device.same_machine { 0 } else { sent };
        if !device.same_machine {
            sent += nanos(tile.bytes_in, cable);
        }
        lane.received = start.max(lane.received) + nanos(tile.bytes_in, own);
        let there = lane.received + device.round_trip_ns / 2;
        lane.computed = lane.computed.max(there) + device.takes_ns(&tile.work);
        done.push((lane.computed, tile));
    }
    done.sort_by_key(|(end, _)| *end);
    let (mut received, mut last) = (0u64, 0);
    for (end, tile) in done {
        let (device, lane) = (&devices[tile.device], &mut lanes[tile.device]);
        let own = device.link_bytes_per_s.max(1);
        lane.sent = lane.sent.max(end) + nanos(tile.bytes_out, own);
        let mut there = lane.sent;
        if !device.same_machine {
            received = received.max(end) + nanos(tile.bytes_out, cable);
            there = there.max(received);
        }
        last = last.max(there + device.round_trip_ns / 2);
    }
    last
}

/// Until when each part of a device is busy.
#[derive(Clone, Default)]
struct Lane {
    tiles: usize,
    received: u64,
    computed: u64,
    sent: u64,
}

/// Bytes of an input map that any tile reads, each counted once. Tiles form a grid and their
/// fields are rectangles over it, so their hull is what is read.
fn read_once(model: &Model, geometry: &StageGeometry, map: MapId) -> u64 {
    let reads = geometry.tiles.iter().flat_map(|t| &t.inputs).filter(|(m, _)| *m == map);
    let hull = reads.fold(Region::EMPTY, |hull, &(_, region)| hull.hull(region));
    region_bytes(model, map, hull)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiling::{OperatorClass, Rates};

    fn device(speed: u64, link_bytes_per_s: u64) -> DeviceProfile {
        let mut device = DeviceProfile::wired("d", Rates::uniform(speed));
        device.link_bytes_per_s = link_bytes_per_s;
        device.round_trip_ns = 0;
        device.same_machine = link_bytes_per_s > SECOND;
        device
    }

    fn tile(device: usize, work: u64, bytes_in: u64, bytes_out: u64) -> TileLoad {
        let (work, multiply_adds) = (Work::of(OperatorClass::Conv, work), work);
        TileLoad { device, work, multiply_adds, bytes_in, bytes_out }
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_coordinators_link_is_shared() {
        let devices = [device(100, 1000), device(100, 1000)];
        let tiles = [tile(0, 100, 1000, 1000), tile(1, 100, 1000, 1000)];
        // One second to send each, one to compute, one to return: the second device a second later.
        assert_eq!(duration_ns(&devices, &tiles), 4 * SECOND);
        assert_eq!(duration_ns(&devices[..1], &tiles[..1]), 3 * SECOND);
    }

    #[test]
    fn tiles_arrive_while_others_are_computed() {
        let devices = [device(100, 1000)];
        let tiles = [tile(0, 200, 1000, 0), tile(0, 200, 1000, 0)];
        assert_eq!(duration_ns(&devices, &tiles), 5 * SECOND);
    }

    #[test]
    fn a_slow_link_holds_up_its_own_device_alone() {
        let devices = [device(100, 100), device(100, 1000)];
        let tiles = [tile(0, 0, 100, 0), tile(1, 0, 1000, 0)];
        // A tenth of a second on the cable, a second on the slow link; the other ends at 1.1.
        assert_eq!(duration_ns(&devices, &tiles), SECOND + SECOND / 10);
    }

    #[test]
    fn the_coordinators_own_machine_uses_no_cable() {
        let devices = [device(100, 2 * SECOND), device(100, 1000)];
        let tiles = [tile(0, 100, 1000, 0), tile(1, 100, 1000, 0)];
        assert_eq!(duration_ns(&devices, &tiles), 2 * SECOND);
    }
}
