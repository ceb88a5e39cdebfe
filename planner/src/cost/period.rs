//! How soon one frame may follow another in a stream of them.

use super::{DeviceCost, StageCost, nanos};
use crate::DeviceProfile;

/// What the busiest processor or link needs for a frame. Where whole frames go to whoever is free
/// (`free`: what each device needs for one), all devices share them.
pub(super) fn of(
    devices: &[DeviceProfile],
    loads: &[DeviceCost],
    stages: &[StageCost],
    free: Option<&[u64]>,
) -> u64 {
    let cables = devices.iter().filter(|d| !d.same_machine).map(|d| d.link_bytes_per_s);
    let cable = cables.max();
    let over = |bytes: u64| cable.map_or(0, |rate| nanos(bytes, rate.max(1)));
    if let Some(alone) = free {
        // One device stands for all in the loads.
        let Some(load) = loads.iter().find(|load| load.tiles > 0) else { return 0 };
        let unit = |(device, &busy): (&DeviceProfile, &u64)| {
            let own = device.link_bytes_per_s.max(1);
            busy.max(nanos(load.bytes_in, own)).max(nanos(load.bytes_out, own)).max(1)
        };
        let per_ns: f64 = devices.iter().zip(alone).map(|pair| 1.0 / unit(pair) as f64).sum();
        return ((1.0 / per_ns) as u64).max(over(load.bytes_in)).max(over(load.bytes_out));
    }
    let busiest = devices.iter().zip(loads).map(|(device, load)| {
        let own = device.link_bytes_per_s.max(1);
        load.busy_ns.max(nanos(load.bytes_in, own)).max(nanos(load.bytes_out, own))
    });
    let scattered = over(stages.iter().map(|s| s.scatter_bytes).sum());
    let gathered = over(stages.iter().map(|s| s.gather_bytes).sum());
    busiest.max().unwrap_or(0).max(scattered).max(gathered)
}
