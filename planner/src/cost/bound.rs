//! What no plan can stay below: the work spread over all devices and the layers that nothing can run
//! beside, the layers that cannot be cut, and the way there and back where no device is the
//! coordinator's own.
//!
//! For any weights `m` of the devices that add up to one, all layers together take at least `sum over
//! layers of min over devices of m * time`. *Source*: the dual of the linear programme that spreads
//! each layer over all devices at will (Lenstra, Shmoys, Tardos, 1990).

use super::{nanos, region_bytes};
use crate::DeviceProfile;
use model::{LayerId, MapId, Model};
use serde::Serialize;
use tiling::{Locality, Region, Work, locality};

/// What the bound on the makespan is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bound {
    /// All work spread over all devices at will; the layers that cannot be cut and through which all
    /// maps pass, one after another on the device that is fastest at each.
    pub work_ns: u64,
    /// The layers that cannot be cut, one after another.
    pub uncut_ns: u64,
    /// The input on its way, or the output.
    pub moving_ns: u64,
    /// A message there and one back.
    pub way_ns: u64,
}

impl Bound {
    pub(crate) fn of(model: &Model, devices: &[DeviceProfile], works: &[Work]) -> Self {
        let takes: Vec<Vec<u64>> =
            works.iter().map(|work| devices.iter().map(|d| d.takes_ns(work)).collect()).collect();
        let all = |device: usize| takes.iter().map(|layer| layer[device]).sum::<u64>().max(1);
        let weights: Vec<f64> = (0..devices.len()).map(|d| 1.0 / all(d) as f64).collect();
        let total: f64 = weights.iter().sum();
        let spread = |layer: &Vec<u64>| {
            let shares = layer.iter().zip(&weights).map(|(&ns, m)| ns as f64 * m / total);
            let least = shares.fold(f64::INFINITY, f64::min);
            if least.is_finite() { least } else { 0.0 }
        };
        let alone = |layer: &Vec<u64>| layer.iter().copied().min().unwrap_or(0);
        let crossing = crossing(model);
        let (mut work, mut in_line, mut uncut_ns) = (0.0, 0, 0);
        for (i, layer) in takes.iter().enumerate() {
            let whole = locality(model, LayerId(i as u32)) == Locality::Whole;
            uncut_ns += if whole { alone(layer) } else { 0 };
            match whole && crossing[i] == 1 && crossing[i + 1] == 1 {
                true => in_line += alone(layer),
                false => work += spread(layer),
            }
        }
        let work_ns = work as u64 + in_line;
        if devices.iter().any(|d| d.same_machine) {
            return Self { work_ns, uncut_ns, moving_ns: 0, way_ns: 0 };
        }
        let bytes = |maps: &[MapId]| -> u64 {
            let least = |&map: &MapId| {
                let bytes = region_bytes(model, map, Region::whole(model.shape(map)));
                devices.iter().map(|d| d.shares.of(map, bytes)).min().unwrap_or(bytes)
            };
            maps.iter().map(least).sum()
        };
        // Whoever gets the first byte, and gives the last, does so over its own link.
        let link = devices.iter().map(|d| d.link_bytes_per_s).max().unwrap_or(1).max(1);
        let way_ns = devices.iter().map(|d| d.round_trip_ns).min().unwrap_or(0);
        let moving_ns = nanos(bytes(&model.inputs).max(bytes(&model.outputs)), link);
        Self { work_ns, uncut_ns, moving_ns, way_ns }
    }

    /// The bound.
    pub fn ns(&self) -> u64 {
        self.work_ns.max(self.uncut_ns).max(self.moving_ns) + self.way_ns
    }
}

/// For each layer, how many maps exist before it that it or a later one reads; then how many there
/// are in the end. Where there is one before and one after a layer, nothing runs beside it.
fn crossing(model: &Model) -> Vec<usize> {
    let layers = model.layers.len();
    let mut read_until = vec![0; model.maps.len()];
    for (i, layer) in model.layers.iter().enumerate() {
        layer.inputs.iter().for_each(|map| read_until[map.index()] = i + 1);
    }
    model.outputs.iter().for_each(|map| read_until[map.index()] = layers + 1);
    let mut crossing = vec![0; layers + 1];
    let given = model.inputs.iter().map(|&map| (0, map));
    let made = model.layers.iter().enumerate().map(|(i, layer)| (i + 1, layer.output));
    for (from, map) in given.chain(made) {
        (from..read_until[map.index()].min(layers + 1)).for_each(|i| crossing[i] += 1);
    }
    crossing
}
