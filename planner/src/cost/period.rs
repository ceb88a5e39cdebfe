//! How soon one frame may follow another in a stream of them.

use super::{DeviceCost, StageCost, air_ns, nanos};
use crate::DeviceProfile;
use std::collections::BTreeMap;

/// Bytes from one device to another, where the way between them is known.
pub(super) type Paired = BTreeMap<(usize, usize), u64>;

/// What the busiest processor or link needs for a frame.
pub(super) fn of(
    devices: &[DeviceProfile],
    loads: &[DeviceCost],
    stages: &[StageCost],
    paired: &Paired,
) -> u64 {
    let (loads, ways) = apart(devices, loads, paired);
    let busiest = devices.iter().zip(&loads).map(unit).max().unwrap_or(0).max(ways);
    busiest.max(cable(devices, stages)).max(air(devices, &loads, &vec![1.0; devices.len()]))
}

/// The loads of the devices' links where a way that carries more is used beside them, and what the
/// busiest of the known ways needs.
fn apart(
    devices: &[DeviceProfile],
    loads: &[DeviceCost],
    paired: &Paired,
) -> (Vec<DeviceCost>, u64) {
    let (mut loads, mut busiest) = (loads.to_vec(), 0);
    for (&(from, to), &bytes) in paired {
        let (sender, taker) = (&devices[from], &devices[to]);
        let Some(pair) = taker.pair_with(sender) else { continue };
        busiest = busiest.max(nanos(bytes, pair.bytes_per_s.max(1)));
        let slower = sender.link_bytes_per_s.min(taker.link_bytes_per_s);
        if pair.bytes_per_s > slower {
            loads[from].bytes_out = loads[from].bytes_out.saturating_sub(bytes);
            loads[to].bytes_in = loads[to].bytes_in.saturating_sub(bytes);
        }
    }
    (loads, busiest)
}

/// Where whole frames go to whoever is free: what one frame of many needs, and the part of the frames
/// that each device gets.
pub(super) fn shared(
    devices: &[DeviceProfile],
    loads: &[DeviceCost],
    stages: &[StageCost],
) -> (u64, Vec<f64>) {
    let rates = devices.iter().zip(loads).map(|pair| 1.0 / unit(pair).max(1) as f64);
    let rates: Vec<f64> = rates.collect();
    let all: f64 = rates.iter().sum();
    let shares: Vec<f64> = rates.iter().map(|rate| rate / all).collect();
    let shared = cable(devices, stages).max(air(devices, loads, &shares));
    (((1.0 / all) as u64).max(shared), shares)
}

/// What a device or its link needs for its load.
fn unit((device, load): (&DeviceProfile, &DeviceCost)) -> u64 {
    let own = device.link_bytes_per_s.max(1);
    load.busy_ns.max(nanos(load.bytes_in, own)).max(nanos(load.bytes_out, own))
}

/// What the air of the busiest access point needs, where each device has this part of its load.
fn air(devices: &[DeviceProfile], loads: &[DeviceCost], shares: &[f64]) -> u64 {
    let mut airs: BTreeMap<u32, f64> = BTreeMap::new();
    for ((device, load), share) in devices.iter().zip(loads).zip(shares) {
        if let Some(air) = device.air.filter(|_| load.tiles > 0) {
            let crossed = air_ns(device, load.bytes_in) + air_ns(device, load.bytes_out);
            *airs.entry(air).or_default() += crossed as f64 * share;
        }
    }
    airs.into_values().fold(0.0, f64::max) as u64
}

/// What the coordinator's link needs.
fn cable(devices: &[DeviceProfile], stages: &[StageCost]) -> u64 {
    let cables = devices.iter().filter(|d| !d.same_machine).map(|d| d.link_bytes_per_s);
    let Some(rate) = cables.max() else { return 0 };
    let over = |bytes: fn(&StageCost) -> u64| nanos(stages.iter().map(bytes).sum(), rate.max(1));
    over(|stage| stage.scatter_bytes).max(over(|stage| stage.gather_bytes))
}
