//! The workers that are there, as people see them.

use super::{Driver, Reached};
use crate::cluster::{Device, PairReport};
use crate::watts::Watts;
use planner::DeviceProfile;
use protocol::{PairLink, WorkerId, WorkerReport};
use std::collections::BTreeMap;

impl Driver {
    pub(super) fn devices(&self) -> Vec<Device> {
        let reports: BTreeMap<WorkerId, &WorkerReport> = self.machine.live().collect();
        let (ids, profiles) = self.profiles();
        let device = |(id, profile): (WorkerId, DeviceProfile)| {
            let report = reports.get(&id)?;
            let Reached { peer, version, addresses } = self.reached.get(&id)?;
            let known = self.machine.profile(id)?;
            let health = &known.health;
            let pairs = known.pairs.iter().filter_map(|pair| {
                let PairLink { peer, bytes_per_s, round_trip_ns } = *pair;
                Some(PairReport {
                    with: reports.get(&peer)?.name.clone(),
                    id: peer.0,
                    bytes_per_s,
                    round_trip_ns,
                    unusual: profile.pairs.iter().any(|pair| pair.with == u64::from(peer.0)),
                })
            });
            Some(Device {
                id: id.0,
                pairs: pairs.collect(),
                watts: Watts::of(&known),
                board: known.board.clone(),
                threads: report.threads,
                speed: known.speed,
                link_bytes_per_s: known.link_bytes_per_s,
                round_trip_ns: known.round_trip_ns,
                memory_bytes: Some(known.memory_bytes).filter(|&bytes| bytes > 0),
                free_bytes: health.free_bytes,
                temperature_c: health.temperature_mc.map(|mc| f64::from(mc) / 1e3),
                throttled: health.throttled.map(|_| health.is_throttled()),
                battery_percent: health.battery.map(|battery| battery.percent),
                on_battery: health.battery.is_some_and(|battery| battery.discharging),
                speedups_per_mille: known.speedups_per_mille.clone(),
                protocol: *version,
                peer: peer.to_string(),
                addresses: addresses.iter().map(|a| a.to_string()).collect(),
                ..Device::of(profile)
            })
        };
        ids.into_iter().zip(profiles).filter_map(device).collect()
    }
}
