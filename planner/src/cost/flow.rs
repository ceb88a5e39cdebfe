//! A plan followed through links and processors: when each tile has what it needs, is computed, and
//! is where it is wanted.
//!
//! The coordinator has one link, over which it sends one piece after another and receives likewise;
//! it can do both at a time. So does each device with its own; those on the air of one access point
//! share that in both directions, and what one of them sends another crosses it twice. A device
//! computes its tiles one by one, first what has its inputs first; pieces that stay on a worker
//! travel from there, as fast as the slower of the two links, or as the way between the two is known to
//! be. A task is given out when the coordinator has heard that its pieces are made,
//! which takes a message each way; who waits for several waits for one that is late.

use super::load::{Made, TileLoad};
use super::nanos;
use crate::DeviceProfile;

/// Time in the air that a message takes beside its bytes. *Source*: the link files of the simulator.
const AIR_MESSAGE_NS: u64 = 150_000;

/// Time in the air of so many bytes to or from a device; none for one with a cable.
pub(super) fn air_ns(device: &DeviceProfile, bytes: u64) -> u64 {
    match device.air {
        Some(_) => nanos(bytes, device.link_bytes_per_s.max(1)) + AIR_MESSAGE_NS,
        None => 0,
    }
}

/// Lets transfers of these times share something evenly from a time on, puts off the arrivals of those
/// that are through later than by themselves, and returns when all are.
fn share(start: u64, mut times: Vec<(u64, usize)>, arrivals: &mut [u64]) -> u64 {
    times.sort_unstable();
    let (mut now, mut before) = (start, 0);
    for (i, &(time, place)) in times.iter().enumerate() {
        now += (time - before) * (times.len() - i) as u64;
        before = time;
        arrivals[place] = arrivals[place].max(now);
    }
    now
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
    /// The same of the air of each access point.
    airs: Vec<(u32, u64)>,
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
        let airs = Vec::new();
        Self { devices, cable, sends: 0, receives: 0, lanes, airs, gathered: 0, made }
    }

    /// Until when the air of an access point is busy.
    fn air(&mut self, point: u32) -> &mut u64 {
        let place = self.airs.iter().position(|&(at, _)| at == point).unwrap_or_else(|| {
            self.airs.push((point, 0));
            self.airs.len() - 1
        });
        &mut self.airs[place].1
    }

    /// Sends so many bytes through the air, from when they are there, where a device is on it;
    /// returns when they are through.
    fn cross(&mut self, device: usize, from: u64, bytes: u64) -> u64 {
        let device = &self.devices[device];
        let Some(point) = device.air else { return from };
        let busy = self.air(point);
        *busy = from.max(*busy) + air_ns(device, bytes);
        *busy
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
        let mut there = vec![0; tiles.len()];
        for turn in order.chunk_by(|a, b| a.0 == b.0) {
            let arrivals = self.scatter(tiles, turn);
            turn.iter().zip(arrivals).for_each(|(&(_, i), arrival)| there[i] = arrival);
        }
        // What was made first is on its way first, and what is there first is computed first.
        order.sort_by_key(|&(turn, i)| (self.ready(&tiles[i]), turn, i));
        order.iter().for_each(|&(_, i)| there[i] = self.fetch(&tiles[i], there[i]));
        order.sort_by_key(|&(turn, i)| (there[i], turn, i));
        order.iter().for_each(|&(_, i)| made[i] = self.compute(&tiles[i], there[i]));
        let computed = made.iter().copied().max().unwrap_or(0);
        let gathered = self.gather(tiles, &made);
        self.made.push(made);
        (computed, gathered)
    }

    /// When what the coordinator sends is there, for one tile of each device: these share its link
    /// and the air evenly, so that the small ones are through first.
    fn scatter(&mut self, tiles: &[TileLoad], turn: &[(usize, usize)]) -> Vec<u64> {
        let devices = self.devices;
        let sent = |tile: &TileLoad| tile.bytes_in > 0 || tile.origins.is_empty();
        let mut arrivals = vec![0; turn.len()];
        let mut over_cable = Vec::new();
        let mut over_air: Vec<(u32, Vec<(u64, usize)>)> = Vec::new();
        for (place, &(_, i)) in turn.iter().enumerate().filter(|&(_, &(_, i))| sent(&tiles[i])) {
            let tile = &tiles[i];
            let device = &devices[tile.device];
            let start = match device.same_machine {
                true => self.gathered,
                false => self.gathered.max(self.sends),
            };
            let lane = &mut self.lanes[tile.device];
            let own = nanos(tile.bytes_in, device.link_bytes_per_s.max(1));
            lane.received = start.max(lane.received) + own;
            arrivals[place] = lane.received;
            if !device.same_machine {
                over_cable.push((nanos(tile.bytes_in, self.cable), place));
            }
            if let Some(air) = device.air {
                let time = (air_ns(device, tile.bytes_in), place);
                match over_air.iter_mut().find(|(at, _)| *at == air) {
                    Some((_, times)) => times.push(time),
                    None => over_air.push((air, vec![time])),
                }
            }
        }
        self.sends = share(self.gathered.max(self.sends), over_cable, &mut arrivals);
        for (air, times) in over_air {
            let start = self.gathered.max(*self.air(air));
            *self.air(air) = share(start, times, &mut arrivals);
        }
        for (&(_, i), arrival) in turn.iter().zip(&mut arrivals) {
            let tile = &tiles[i];
            if sent(tile) {
                let lane = &mut self.lanes[tile.device];
                lane.received = lane.received.max(*arrival);
                *arrival += devices[tile.device].round_trip_ns / 2;
            }
        }
        arrivals
    }

    /// When the last of what a tile reads from workers is made.
    fn ready(&self, tile: &TileLoad) -> u64 {
        let made = tile.origins.iter().map(|origin| self.made[origin.maker.0][origin.maker.1]);
        made.max().unwrap_or(0)
    }

    /// When all is there that a tile reads, what the coordinator sends by then.
    fn fetch(&mut self, tile: &TileLoad, arrival: u64) -> u64 {
        let device = &self.devices[tile.device];
        let own = device.link_bytes_per_s.max(1);
        let half = device.round_trip_ns / 2;
        let mut there = arrival;
        for origin in &tile.origins {
            let (stage, index) = origin.maker;
            let made = self.made[stage][index];
            let from = &self.devices[origin.device];
            // The coordinator hears of it and gives the task out.
            let way = from.late_round_trip_ns / 2 + half;
            there = there.max(made + way);
            if origin.device != tile.device {
                let sender = &self.lanes[origin.device];
                let start = made.max(sender.sent).max(self.lanes[tile.device].received);
                let pair = from.pair_with(device);
                let rate = pair.map_or(own.min(from.link_bytes_per_s), |pair| pair.bytes_per_s);
                let mut end = start + nanos(origin.bytes, rate.max(1));
                // A way that carries more than the air of the two is not through that air.
                if pair.is_none_or(|pair| pair.bytes_per_s <= own.min(from.link_bytes_per_s)) {
                    let up = self.cross(origin.device, start, origin.bytes);
                    end = end.max(self.cross(tile.device, up, origin.bytes));
                }
                self.lanes[origin.device].sent = end;
                self.lanes[tile.device].received = end;
                let late = pair.map_or(way, |pair| (pair.round_trip_ns / 2).max(way));
                there = there.max(end + late);
            }
        }
        there
    }

    /// When a tile is computed whose inputs are there by then.
    fn compute(&mut self, tile: &TileLoad, there: u64) -> u64 {
        let lane = &mut self.lanes[tile.device];
        lane.computed = lane.computed.max(there) + tile.takes_ns;
        lane.computed
    }

    /// When all that goes to the coordinator is there.
    fn gather(&mut self, tiles: &[TileLoad], made: &[u64]) -> u64 {
        let mut done: Vec<(u64, &TileLoad)> = made.iter().copied().zip(tiles).collect();
        done.retain(|(_, tile)| tile.device < self.devices.len());
        done.sort_by_key(|(end, _)| *end);
        let several = done.len() > 1;
        let mut last = self.gathered;
        for (end, tile) in done {
            let device = &self.devices[tile.device];
            let own = device.link_bytes_per_s.max(1);
            let through = match tile.bytes_out {
                0 => end,
                bytes => self.cross(tile.device, end.max(self.lanes[tile.device].sent), bytes),
            };
            let lane = &mut self.lanes[tile.device];
            lane.sent = (lane.sent.max(end) + nanos(tile.bytes_out, own)).max(through);
            let mut there = lane.sent;
            if !device.same_machine {
                self.receives = self.receives.max(end) + nanos(tile.bytes_out, self.cable);
                there = there.max(self.receives);
            }
            let way = if several { device.late_round_trip_ns } else { device.round_trip_ns };
            last = last.max(there + way / 2);
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
    use super::super::load::Origin;
    use super::*;
    use crate::Pair;
    use tiling::Rates;

    fn device(link_bytes_per_s: u64) -> DeviceProfile {
        let mut device = DeviceProfile::wired("d", Rates::uniform(1));
        device.link_bytes_per_s = link_bytes_per_s;
        device.same_machine = link_bytes_per_s > SECOND;
        (device.round_trip_ns, device.late_round_trip_ns) = (0, 0);
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
        // Two seconds to send both, one to compute, two to return both.
        assert_eq!(gathered(&devices, &tiles), 5 * SECOND);
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
        // A fifth of a second on the cable, a second on the slow link; the other ends at 1.1.
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

    #[test]
    fn pieces_take_the_way_between_two_workers_as_it_is_known() {
        let halo = |bytes_per_s: u64, round_trip_ns: u64, air: Option<u32>| {
            let pair = |with| Pair { with, bytes_per_s, round_trip_ns };
            let end =
                |key: u64| DeviceProfile { key, air, pairs: vec![pair(1 - key)], ..device(1000) };
            let devices = [end(0), end(1)];
            let mut flow = Flow::new(&devices, &[]);
            flow.stage(&[tile(0, 0, 0, 0), tile(1, 0, 0, 0)]);
            let origin = Origin { maker: (0, 0), device: 0, bytes: 500 };
            let before = flow.clone();
            let reads = TileLoad { origins: vec![origin], ..tile(1, 0, 0, 0) };
            let made = before.made[0].iter().copied().max().unwrap();
            flow.stage(&[reads]).0 - made
        };
        assert_eq!(halo(1000, 0, None), SECOND / 2);
        assert_eq!(halo(100, 0, None), 5 * SECOND);
        assert_eq!(halo(5000, 0, None), SECOND / 10);
        assert_eq!(halo(1000, SECOND, None), SECOND);
        // Faster than the air: past it.
        assert_eq!(halo(5000, 0, Some(1)), SECOND / 10);
        assert!(halo(500, 0, Some(1)) >= SECOND);
    }

    #[test]
    fn halo_travels_while_the_other_half_of_a_strip_is_computed() {
        let devices = [device(1000), device(1000)];
        let travel = |halves: usize| {
            let mut flow = Flow::new(&devices, &[]);
            // The strips of the first device above those of the second.
            let strips = |tile: &dyn Fn(usize) -> TileLoad| -> Vec<TileLoad> {
                (0..2 * halves).map(tile).collect()
            };
            let takes = SECOND / halves as u64;
            flow.stage(&strips(&|at| tile(at / halves, takes, 0, 0)));
            let needs = |at: usize| {
                let around = at.saturating_sub(1)..(at + 2).min(2 * halves);
                let origin =
                    |from: usize| Origin { maker: (0, from), device: from / halves, bytes: 500 };
                let origins = around.map(origin).collect();
                TileLoad { origins, ..tile(at / halves, takes, 0, 0) }
            };
            flow.stage(&strips(&needs)).0
        };
        // Half a second for the halo, unless there is something else to do meanwhile: what the upper half
        // reads was made before the lower half was.
        assert_eq!(travel(1), 2 * SECOND + SECOND / 2);
        assert_eq!(travel(2), 2 * SECOND);
    }

    #[test]
    fn the_air_is_shared_in_both_directions_and_crossed_twice_between_two_stations() {
        let station = || DeviceProfile { air: Some(3), ..device(1000) };
        let (wired, air) = ([device(1000), device(1000)], [station(), station()]);
        let message =
            |devices: &[DeviceProfile]| u64::from(devices[0].air.is_some()) * AIR_MESSAGE_NS;
        let tiles = [tile(0, 0, 1000, 1000), tile(1, 0, 3000, 0)];
        // The first result is back while the second input is on its way; through the air, after it.
        assert_eq!(gathered(&wired, &tiles), 4 * SECOND);
        assert_eq!(gathered(&air, &tiles), 5 * SECOND + 3 * message(&air));
        // Both ways at once with cables; through the air twice each.
        let halo = |devices: &[DeviceProfile]| {
            let mut flow = Flow::new(devices, &[]);
            flow.stage(&[tile(0, SECOND, 0, 0), tile(1, SECOND, 0, 0)]);
            let needs = |device: usize| {
                let origin = Origin { maker: (0, 1 - device), device: 1 - device, bytes: 500 };
                TileLoad { origins: vec![origin], ..tile(device, 0, 0, 0) }
            };
            flow.stage(&[needs(0), needs(1)]).0
        };
        assert_eq!(halo(&wired), SECOND + SECOND / 2);
        let first = 2 * message(&air);
        assert_eq!(halo(&air), SECOND + 2 * SECOND + 4 * message(&air) + first);
    }

    #[test]
    fn who_waits_for_others_waits_for_a_late_one() {
        let slow = DeviceProfile { round_trip_ns: 20, late_round_trip_ns: 100, ..device(1000) };
        let devices = [slow.clone(), slow];
        assert_eq!(gathered(&devices, &[tile(0, 1000, 0, 0)]), 10 + 1000 + 10);
        assert_eq!(gathered(&devices, &[tile(0, 1000, 0, 0), tile(1, 1000, 0, 0)]), 1060);
    }
}
