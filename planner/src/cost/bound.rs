//! What no plan can stay below: the work spread over all devices, the layers that cannot be cut one
//! after another, and the way there and back where no device is the coordinator's own.
//!
//! For any weights `m` of the devices that add up to one, all layers together take at least `sum over
//! layers of min over devices of m * time`. *Source*: the dual of the linear programme that spreads
//! each layer over all devices at will (Lenstra, Shmoys, Tardos, 1990).

use super::{nanos, region_bytes};
use crate::DeviceProfile;
use crate::profile::layer_works;
use model::{LayerId, MapId, Model};
use tiling::{Locality, Numerics, Region, locality};

pub(super) fn of(model: &Model, devices: &[DeviceProfile], numerics: Numerics) -> u64 {
    let works = layer_works(model, numerics);
    let takes: Vec<Vec<u64>> =
        works.iter().map(|work| devices.iter().map(|d| d.takes_ns(work)).collect()).collect();
    let all = |device: usize| takes.iter().map(|layer| layer[device]).sum::<u64>().max(1);
    let weights: Vec<f64> = (0..devices.len()).map(|d| 1.0 / all(d) as f64).collect();
    let total: f64 = weights.iter().sum();
    let least = |layer: &Vec<u64>| {
        let shares = layer.iter().zip(&weights).map(|(&ns, m)| ns as f64 * m / total);
        shares.fold(f64::INFINITY, f64::min)
    };
    let spread: f64 = takes.iter().map(least).filter(|ns| ns.is_finite()).sum();
    let uncut = takes
        .iter()
        .enumerate()
        .filter(|(i, _)| locality(model, LayerId(*i as u32)) == Locality::Whole);
    let uncut: u64 = uncut.map(|(_, layer)| layer.iter().copied().min().unwrap_or(0)).sum();
    let computing = (spread as u64).max(uncut);
    if devices.iter().any(|d| d.same_machine) {
        return computing;
    }
    let bytes = |maps: &[MapId]| -> u64 {
        maps.iter().map(|&map| region_bytes(model, map, Region::whole(model.shape(map)))).sum()
    };
    // Whoever gets the first byte, and gives the last, does so over its own link.
    let link = devices.iter().map(|d| d.link_bytes_per_s).max().unwrap_or(1).max(1);
    let way = devices.iter().map(|d| d.round_trip_ns).min().unwrap_or(0);
    let moving = nanos(bytes(&model.inputs).max(bytes(&model.outputs)), link);
    computing.max(moving) + way
}
