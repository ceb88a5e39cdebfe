//! A plan followed through links and processors: when each tile has what it needs, is computed, and
//! is where it is wanted.
//!
//! The coordinator has one link, over which it sends one piece after another and receives likewise;
//! it can do both at a time. So does each device with its own. A device computes its tiles in order,
//! each from when its inputs have arrived; pieces that stay on a worker travel from there. A task is
//! given out when the coordinator has heard that its pieces are made, which takes a message each way.

use super::{Cut, nanos, region_bytes};
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
            bytes_out: sent.map(|&(map, region)| region_bytes(model, map, region)).sum(),
            origins: Vec::new(),
        }
    };
    stage.placement.iter().enumerate().map(load).collect()
}

/// Finds where the tiles of a stage get what they read, after the stages before it.
pub(crate) fn take_from(model: &Model, before: &[Made<'_>], cut: &Cut, loads: &mut [TileLoad]) {
    let keepers: Vec<(MapId, Option<usize>)> =
        cut.borders.input_maps.iter().map(|&map| (map, keeper(before, map))).collect();
    for (load, tile) in loads.iter_mut().zip(&cut.borders.tiles) {
        for &(map, region) in &tile.inputs {
            let keeper = keepers.iter().find(|(of, _)| *of == map).and_then(|(_, keeper)| *keeper);
            match keeper {
                Some(index) => load.origins.extend(origins(model, before, index, map, region)),
                None => load.bytes_in += region_bytes(model, map, region),
            }
        }
    }
}

/// The stage that made a map, where it stayed on the workers.
fn keeper(before: &[Made<'_>], map: MapId) -> Option<usize> {
    let index = before.iter().rposition(|m| m.cut.borders.output_maps.contains(&map))?;
    (before[index].stage.handover == Handover::Exchange).then_some(index)
}

fn origins<'a>(
    model: &'a Model,
    before: &'a [Made<'_>],
    index: usize,
    map: MapId,
    region: Region,
) -> impl Iterator<Item = Origin> + 'a {
    let Made { stage, cut } = before[index];
    cut.borders.makers(map, region).map(move |(tile, part)| Origin {
        maker: (index, tile),
        device: stage.placement[tile].0 as usize,
        bytes: region_bytes(model, map, part),
    })
}

/// Until when everything is busy.
#[derive(Clone, Debug)]
pub(crate) struct Flow<'a> {
    devices: &'a [DeviceProfile],
    /// What the coordinator's link carries.
    cable: u64,
    /// Until when it sends, and receives.
    sends: u64,
    receives: u64,
    lanes: Vec<Lane>,
    /// When the last stage before a gather was complete at the coordinator.
    gathered: u64,
    /// For each stage so far, when its tiles were computed.
    made: Vec<Vec<u64>>,
}

#[derive(Clone, Debug, Default)]
struct Lane {
    received: u64,
    computed: u64,
    sent: u64,
}

impl<'a> Flow<'a> {
    /// All idle at time zero, and the pieces of so many stages there.
    pub(crate) fn new(devices: &'a [DeviceProfile], before: &[Made<'_>]) -> Self {
        let cables = devices.iter().filter(|d| !d.same_machine).map(|d| d.link_bytes_per_s);
        let cable = cables.max().unwrap_or(1).max(1);
        let lanes = vec![Lane::default(); devices.len()];
        let made = before.iter().map(|m| vec![0; m.stage.placement.len()]).collect();
        Self { devices, cable, sends: 0, receives: 0, lanes, gathered: 0, made }
    }

    /// Follows a stage; returns when its last tile is computed, and when what the coordinator gets of
    /// it is there.
    pub(crate) fn stage(&mut self, tiles: &[TileLoad]) -> (u64, u64) {
        let mut made = vec![0; tiles.len()];
        let mut turns = vec![0; self.devices.len()];
        let mut order: Vec<(usize, usize)> = Vec::with_capacity(tiles.len());
        // Each device gets its first tile before any gets its second.
        for (i, tile) in tiles.iter().enumerate().filter(|(_, t)| t.device < self.devices.len()) {
            order.push((turns[tile.device], i));
            turns[tile.device] += 1;
        }
        order.sort_unstable();
        for (_, i) in order {
            made[i] = self.compute(&tiles[i]);
        }
        let computed = made.iter().copied().max().unwrap_or(0);
        let gathered = self.gather(tiles, &made);
        self.made.push(made);
        (computed, gathered)
    }

    /// When a tile is computed.
    fn compute(&mut self, tile: &TileLoad) -> u64 {
        let device = &self.devices[tile.device];
        let own = device.link_bytes_per_s.max(1);
        let half = device.round_trip_ns / 2;
        let mut there = 0;
        if tile.bytes_in > 0 || tile.origins.is_empty() {
            let mut start = self.gathered;
            if !device.same_machine {
                start = start.max(self.sends);
                self.sends = start + nanos(tile.bytes_in, self.cable);
            }
            let lane = &mut self.lanes[tile.device];
            lane.received = start.max(lane.received) + nanos(tile.bytes_in, own);
            there = lane.received + half;
        }
        for origin in &tile.origins {
            let (stage, index) = origin.maker;
            let made = self.made[stage][index];
            let from = &self.devices[origin.device];
            // The coordinator hears of it and gives the task out.
            there = there.max(made + from.round_trip_ns / 2 + half);
            if origin.device != tile.device {
                let rate = own.min(from.link_bytes_per_s.max(1));
                let sender = &self.lanes[origin.device];
                let start = made.max(sender.sent).max(self.lanes[tile.device].received);
                let end = start + nanos(origin.bytes, rate);
                self.lanes[origin.device].sent = end;
                self.lanes[tile.device].received = end;
                there = there.max(end + (from.round_trip_ns / 2).max(half));
            }
        }
        let lane = &mut self.lanes[tile.device];
        lane.computed = lane.computed.max(there) + tile.takes_ns;
        lane.computed
    }

    /// When all that goes to the coordinator is there.
    fn gather(&mut self, tiles: &[TileLoad], made: &[u64]) -> u64 {
        let mut done: Vec<(u64, &TileLoad)> = made.iter().copied().zip(tiles).collect();
        done.retain(|(_, tile)| tile.device < self.devices.len());
        done.sort_by_key(|(end, _)| *end);
        let mut last = self.gathered;
        for (end, tile) in done {
            let device = &self.devices[tile.device];
            let own = device.link_bytes_per_s.max(1);
            let lane = &mut self.lanes[tile.device];
            lane.sent = lane.sent.max(end) + nanos(tile.bytes_out, own);
            let mut there = lane.sent;
            if !device.same_machine {
                self.receives = self.receives.max(end) + nanos(tile.bytes_out, self.cable);
                there = there.max(self.receives);
            }
            last = last.max(there + device.round_trip_ns / 2);
        }
        last
    }

    /// Waits until the coordinator has all of the last stage before it goes on.
    pub(crate) fn wait_for(&mut self, gathered: u64) {
        self.gathered = self.gathered.max(gathered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiling::Rates;

    fn device(link_bytes_per_s: u64) -> DeviceProfile {
        let mut device = DeviceProfile::wired("d", Rates::uniform(1));
        device.link_bytes_per_s = link_bytes_per_s;
        device.same_machine = link_bytes_per_s > SECOND;
        device.round_trip_ns = 0;
        device
    }

    fn tile(device: usize, takes_ns: u64, bytes_in: u64, bytes_out: u64) -> TileLoad {
        let (multiply_adds, origins) = (takes_ns, Vec::new());
        TileLoad { device, takes_ns, multiply_adds, bytes_in, bytes_out, origins }
    }

    fn gathered(devices: &[DeviceProfile], tiles: &[TileLoad]) -> u64 {
        Flow::new(devices, &[]).stage(tiles).1
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_coordinators_link_is_shared() {
        let devices = [device(1000), device(1000)];
        let tiles = [tile(0, SECOND, 1000, 1000), tile(1, SECOND, 1000, 1000)];
        // One second to send each, one to compute, one to return: the second device a second later.
        assert_eq!(gathered(&devices, &tiles), 4 * SECOND);
        assert_eq!(gathered(&devices[..1], &tiles[..1]), 3 * SECOND);
    }

    #[test]
    fn tiles_arrive_while_others_are_computed() {
        let devices = [device(1000)];
        let tiles = [tile(0, 2 * SECOND, 1000, 0), tile(0, 2 * SECOND, 1000, 0)];
        assert_eq!(gathered(&devices, &tiles), 5 * SECOND);
    }

    #[test]
    fn a_slow_link_holds_up_its_own_device_alone() {
        let devices = [device(100), device(1000)];
        let tiles = [tile(0, 0, 100, 0), tile(1, 0, 1000, 0)];
        // A tenth of a second on the cable, a second on the slow link; the other ends at 1.1.
        assert_eq!(gathered(&devices, &tiles), SECOND + SECOND / 10);
    }

    #[test]
    fn the_coordinators_own_machine_uses_no_cable() {
        let devices = [device(2 * SECOND), device(1000)];
        let tiles = [tile(0, SECOND, 1000, 0), tile(1, SECOND, 1000, 0)];
        assert_eq!(gathered(&devices, &tiles), 2 * SECOND);
    }

    #[test]
    fn pieces_travel_from_worker_to_worker_beside_each_other() {
        let devices = [device(1000), device(1000)];
        let mut flow = Flow::new(&devices, &[]);
        let first = [tile(0, SECOND, 0, 0), tile(1, SECOND, 0, 0)];
        assert_eq!(flow.stage(&first).0, SECOND);
        let needs = |device: usize| {
            let origin = |from: usize, bytes| Origin { maker: (0, from), device: from, bytes };
            let origins = vec![origin(device, 5000), origin(1 - device, 500)];
            TileLoad { origins, ..tile(device, SECOND, 0, 1000) }
        };
        // Half a second for the halo, both ways at once, a second to compute, and two to gather.
        assert_eq!(flow.stage(&[needs(0), needs(1)]), (2 * SECOND + SECOND / 2, 9 * SECOND / 2));
    }
}
