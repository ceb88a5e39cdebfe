//! What following a plan tells: when its stages end, and what each device does for a frame.

use super::period::Paired;
use super::{
    Cut, DeviceCost, Flow, Made, StageCost, TileLoad, bytes, layer_multiply_adds, loads, period,
    read_once, take_from,
};
use crate::profile::fastest;
use crate::{DeviceProfile, Power};
use model::Model;
use std::collections::BTreeMap;
use std::rc::Rc;
use tiling::{Handover, Slot, Stage, Work};

/// What was found out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Followed {
    pub(crate) makespan_ns: u64,
    pub(crate) period_ns: u64,
    pub(crate) energy_j: Option<f64>,
    pub(crate) stages: Vec<StageCost>,
    pub(crate) devices: Vec<DeviceCost>,
}

/// Follows a plan whose stages have these tiles. Where a frame goes to whoever is free, it is
/// followed to the fastest, and each device's load is that of a frame that comes to it.
pub(crate) fn plan(
    model: &Model,
    devices: &[DeviceProfile],
    stages: &[Stage],
    cuts: &[Rc<Cut>],
) -> Followed {
    if !stages.iter().any(|stage| stage.placement.contains(&Slot::ANY)) {
        let (bound, paired) = bound(model, devices, stages, cuts);
        let period_ns = period::of(devices, &bound.devices, &bound.stages, &paired);
        let energy_j = bound.devices.iter().filter(|load| load.tiles > 0);
        let energy_j = energy_j.map(|load| load.energy_j).sum();
        return Followed { period_ns, energy_j, ..bound };
    }
    let to = |device: &dyn Fn(usize) -> Slot| -> Vec<Stage> {
        let mut stages = stages.to_vec();
        for (i, stage) in stages.iter_mut().enumerate() {
            let any = stage.placement.iter_mut().filter(|slot| **slot == Slot::ANY);
            any.for_each(|slot| *slot = device(i));
        }
        stages
    };
    let quickest = |i: usize| fastest(devices, &cuts[i].works.iter().copied().sum::<Work>());
    let (mut followed, _) = bound(model, devices, &to(&quickest), cuts);
    let of = |device: usize| {
        let stages = to(&|_| Slot(device as u32));
        bound(model, devices, &stages, cuts).0.devices.swap_remove(device)
    };
    followed.devices = (0..devices.len()).map(of).collect();
    let (period_ns, shares) = period::shared(devices, &followed.devices, &followed.stages);
    let each = followed.devices.iter().zip(&shares);
    let energy_j = each.map(|(load, share)| Some(load.energy_j? * share)).sum();
    Followed { period_ns, energy_j, ..followed }
}

/// Follows a plan that names every device; tells what goes over ways that are known apart, too.
fn bound(
    model: &Model,
    devices: &[DeviceProfile],
    stages: &[Stage],
    cuts: &[Rc<Cut>],
) -> (Followed, Paired) {
    let mut paired = Paired::new();
    let mut total = vec![DeviceCost::default(); devices.len()];
    let mut costs: Vec<StageCost> = Vec::with_capacity(stages.len());
    let made = stages.iter().zip(cuts).map(|(stage, cut)| Made { stage, cut });
    let made: Vec<Made<'_>> = made.collect();
    let mut flow = Flow::new(devices, &[]);
    let mut ended_ns = 0;
    for (index, &Made { stage, cut }) in made.iter().enumerate() {
        let mut tiles = loads(model, devices, made[index]);
        take_from(model, devices, &made[..index], cut, &mut tiles);
        let mut slices: BTreeMap<usize, u64> = BTreeMap::new();
        for (tile, slice_bytes) in tiles.iter().zip(&cut.slice_bytes) {
            let foreign = tile.origins.iter().filter(|o| o.device != tile.device);
            for origin in foreign {
                let Some(holder) = total.get_mut(origin.device) else { continue };
                holder.bytes_out += origin.bytes;
                let taker = devices.get(tile.device);
                if taker.is_some_and(|d| d.pair_with(&devices[origin.device]).is_some()) {
                    *paired.entry((origin.device, tile.device)).or_default() += origin.bytes;
                }
            }
            let Some(load) = total.get_mut(tile.device) else { continue };
            load.tiles += 1;
            load.multiply_adds += tile.multiply_adds;
            load.busy_ns += tile.takes_ns;
            load.bytes_in += tile.bytes_in + tile.exchange_bytes();
            load.bytes_out += tile.bytes_out;
            let here = slices.entry(tile.device).or_insert(0);
            *here += slice_bytes;
        }
        for (device, slice_bytes) in slices {
            total[device].weight_bytes += cut.weights(slice_bytes);
        }
        let (computed, gathered) = flow.stage(&tiles);
        let stays = stage.handover == Handover::Exchange && index + 1 < made.len();
        let end_ns = if stays { computed } else { gathered };
        if stage.handover == Handover::Gather {
            flow.wait_for(gathered);
        }
        let duration_ns = end_ns.saturating_sub(ended_ns);
        costs.push(StageCost { duration_ns, ..stage_cost(model, cut, stage, &tiles) });
        ended_ns = ended_ns.max(end_ns);
    }
    for (load, device) in total.iter_mut().zip(devices) {
        load.energy_j = device.power.map(|power| energy_j(power, load, device));
    }
    let followed = Followed {
        makespan_ns: costs.iter().map(|s| s.duration_ns).sum(),
        period_ns: 0,
        energy_j: None,
        stages: costs,
        devices: total,
    };
    (followed, paired)
}

/// What the radio of a device draws beyond idle while something is in the air. *Source*: as in the
/// simulator, the Wi-Fi states of ns-3.
const RADIO_W: f64 = 0.22;

/// What a load makes a device draw beyond idle.
fn energy_j(power: Power, load: &DeviceCost, device: &DeviceProfile) -> f64 {
    let moved = (load.bytes_in + load.bytes_out) as f64 / device.link_bytes_per_s.max(1) as f64;
    let radio = if device.same_machine { 0.0 } else { moved * RADIO_W };
    load.busy_ns as f64 / 1e9 * (power.active_w - power.idle_w).max(0.0) + radio
}

fn stage_cost(model: &Model, cut: &Cut, stage: &Stage, tiles: &[TileLoad]) -> StageCost {
    let borders = &cut.borders;
    let covered: u64 = borders.input_maps.iter().map(|&m| read_once(model, borders, m)).sum();
    let all: u64 = borders.tiles.iter().map(|t| bytes(model, &t.inputs)).sum();
    StageCost {
        duration_ns: 0,
        handover: stage.handover,
        scatter_bytes: tiles.iter().map(|t| t.bytes_in).sum::<u64>(),
        exchange_bytes: tiles.iter().map(TileLoad::exchange_bytes).sum(),
        halo_bytes: all.saturating_sub(covered),
        gather_bytes: tiles.iter().map(|t| t.bytes_out).sum(),
        multiply_adds: tiles.iter().map(|t| t.multiply_adds).sum(),
        layer_multiply_adds: layer_multiply_adds(model, stage.first_layer..stage.end_layer),
    }
}
