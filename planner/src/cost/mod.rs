//! What a plan should cost.
//!
//! Rates by operator class. Shared air and lower bounds are not modelled.

mod bound;
mod flow;
mod period;

pub(crate) use flow::{Flow, Made, TileLoad, loads, take_from};

use crate::profile::{fastest, layer_works};
use crate::{DeviceProfile, TurnedDown};
use model::{LayerId, MapId, Model};
use serde::Serialize;
use std::collections::BTreeSet;
use tiling::{Handover, Order, Plan, PlanError, Region, Schedule, Slot, Stage, StageGeometry};

/// Predicted cost of a plan on a set of devices.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// First scatter to last gather of one frame.
    pub makespan_ns: u64,
    /// From the end of one frame to that of the next in a stream of them, at the least: what the
    /// busiest processor or link needs for each.
    pub period_ns: u64,
    /// What no plan for these devices can stay below.
    pub bound_ns: u64,
    /// The whole model on the fastest device, inputs there already.
    pub one_device_ns: u64,
    /// Multiply-adds executed.
    pub multiply_adds: u64,
    /// Multiply-adds of the untiled model.
    pub model_multiply_adds: u64,
    /// One entry for each stage.
    pub stages: Vec<StageCost>,
    /// One entry for each device.
    pub devices: Vec<DeviceCost>,
    /// Where the search has left the work to one of several devices: what sharing would have cost.
    pub turned_down: Option<TurnedDown>,
}

/// Predicted cost of a stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageCost {
    /// From the end of the stage before it to its own: its gather, or its last tile where its
    /// outputs stay on the workers.
    pub duration_ns: u64,
    /// What happens to its outputs.
    pub handover: Handover,
    /// Bytes scattered to all tiles.
    pub scatter_bytes: u64,
    /// Bytes that its tiles get from other workers.
    pub exchange_bytes: u64,
    /// Bytes that more than one tile needs, wherever they come from.
    pub halo_bytes: u64,
    /// Bytes gathered from all tiles.
    pub gather_bytes: u64,
    /// Multiply-adds executed.
    pub multiply_adds: u64,
    /// Multiply-adds of its layers, untiled.
    pub layer_multiply_adds: u64,
}

/// Predicted load of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DeviceCost {
    /// Tiles of all stages.
    pub tiles: usize,
    /// Multiply-adds.
    pub multiply_adds: u64,
    /// Time that it computes for a frame.
    pub busy_ns: u64,
    /// Tensor bytes received.
    pub bytes_in: u64,
    /// Tensor bytes sent.
    pub bytes_out: u64,
    /// Weights of its stages.
    pub weight_bytes: u64,
    /// Largest sum of maps that one of its tiles holds at a time, inputs and outputs included.
    pub tile_bytes: u64,
}

impl Cost {
    /// Multiply-adds executed / multiply-adds of the untiled model.
    pub fn redundancy(&self) -> f64 {
        self.multiply_adds as f64 / (self.model_multiply_adds as f64).max(1.0)
    }

    /// Works out the cost of a plan.
    ///
    /// *Errors*: the plan does not fit the model.
    pub fn of(model: &Model, devices: &[DeviceProfile], plan: &Plan) -> Result<Cost, PlanError> {
        let mut cost = Self::estimate(model, devices, plan)?;
        for (index, stage) in plan.stages.iter().enumerate() {
            let geometry = StageGeometry::new(model, plan.numerics, index, stage)?;
            for (tile, slot) in stage.placement.iter().enumerate() {
                let Some(load) = cost.devices.get_mut(slot.0 as usize) else { continue };
                load.tile_bytes = load.tile_bytes.max(peak_bytes(model, &geometry, tile));
            }
        }
        Ok(cost)
    }

    /// As [`Cost::of`] without the memory, which takes the schedule of each tile: for a search.
    ///
    /// *Errors*: the plan does not fit the model.
    pub fn estimate(
        model: &Model,
        devices: &[DeviceProfile],
        plan: &Plan,
    ) -> Result<Cost, PlanError> {
        plan.check(model)?;
        let free = plan.stages.iter().any(|s| s.placement.contains(&Slot::ANY));
        let bound;
        let plan = if free {
            bound = bound_to_fastest(model, devices, plan);
            &bound
        } else {
            plan
        };
        let mut total = vec![DeviceCost::default(); devices.len()];
        let mut stages: Vec<StageCost> = Vec::with_capacity(plan.stages.len());
        let mut weights = vec![BTreeSet::new(); devices.len()];
        let made = plan.stages.iter().enumerate();
        let made = made.map(|(i, stage)| StageGeometry::new(model, plan.numerics, i, stage));
        let made: Vec<StageGeometry> = made.collect::<Result<_, _>>()?;
        let made: Vec<Made<'_>> = plan.stages.iter().zip(&made).map(Made::of).collect();
        let mut flow = Flow::new(devices, &[]);
        let mut ended_ns = 0;
        for (index, &Made { stage, geometry }) in made.iter().enumerate() {
            let mut tiles = loads(model, devices, made[index]);
            take_from(model, &made[..index], geometry, &mut tiles);
            for tile in &tiles {
                let foreign = tile.origins.iter().filter(|o| o.device != tile.device);
                for origin in foreign {
                    if let Some(holder) = total.get_mut(origin.device) {
                        holder.bytes_out += origin.bytes;
                    }
                }
                let Some(load) = total.get_mut(tile.device) else { continue };
                load.tiles += 1;
                load.multiply_adds += tile.multiply_adds;
                load.busy_ns += tile.takes_ns;
                load.bytes_in += tile.bytes_in + tile.exchange_bytes();
                load.bytes_out += tile.bytes_out;
                weights[tile.device].extend(stage.first_layer..stage.end_layer);
            }
            let (computed, gathered) = flow.stage(&tiles);
            let stays = stage.handover == Handover::Exchange && index + 1 < made.len();
            let end_ns = if stays { computed } else { gathered };
            if stage.handover == Handover::Gather {
                flow.wait_for(gathered);
            }
            stages.push(StageCost {
                duration_ns: end_ns.saturating_sub(ended_ns),
                ..stage_cost(model, geometry, stage, &tiles)
            });
            ended_ns = ended_ns.max(end_ns);
        }
        for (load, layers) in total.iter_mut().zip(weights) {
            load.weight_bytes = layers.into_iter().map(|l| weight_bytes(model, LayerId(l))).sum();
        }
        let model_multiply_adds = model.multiply_adds();
        let whole = StageGeometry::whole(model, plan.numerics);
        let whole = whole.tile_work(model, 0);
        let alone: Vec<u64> = devices.iter().map(|d| d.takes_ns(&whole)).collect();
        Ok(Cost {
            makespan_ns: stages.iter().map(|s| s.duration_ns).sum(),
            period_ns: period::of(devices, &total, &stages, free.then_some(&alone)),
            bound_ns: bound::of(model, devices, plan.numerics),
            one_device_ns: alone.iter().copied().min().unwrap_or(0),
            multiply_adds: stages.iter().map(|s| s.multiply_adds).sum(),
            model_multiply_adds,
            stages,
            devices: total,
            turned_down: None,
        })
    }
}

/// A plan for whoever is free, as if that were the fastest.
fn bound_to_fastest(model: &Model, devices: &[DeviceProfile], plan: &Plan) -> Plan {
    let works = layer_works(model, plan.numerics);
    let mut plan = plan.clone();
    for stage in &mut plan.stages {
        let layers = stage.first_layer as usize..stage.end_layer as usize;
        let fastest = fastest(devices, &works[layers].iter().copied().sum());
        let any = stage.placement.iter_mut().filter(|slot| **slot == Slot::ANY);
        any.for_each(|slot| *slot = fastest);
    }
    plan
}

fn stage_cost(
    model: &Model,
    geometry: &StageGeometry,
    stage: &Stage,
    tiles: &[TileLoad],
) -> StageCost {
    let scatter_bytes = tiles.iter().map(|t| t.bytes_in).sum::<u64>();
    let exchange_bytes = tiles.iter().map(TileLoad::exchange_bytes).sum();
    let covered: u64 = geometry.input_maps.iter().map(|&m| read_once(model, geometry, m)).sum();
    let all: u64 = geometry.tiles.iter().map(|t| bytes(model, &t.inputs)).sum();
    StageCost {
        duration_ns: 0,
        handover: stage.handover,
        scatter_bytes,
        exchange_bytes,
        halo_bytes: all.saturating_sub(covered),
        gather_bytes: tiles.iter().map(|t| t.bytes_out).sum(),
        multiply_adds: tiles.iter().map(|t| t.multiply_adds).sum(),
        layer_multiply_adds: layer_multiply_adds(model, stage.first_layer..stage.end_layer),
    }
}

/// Bytes of an input map that any tile reads, each counted once. Tiles form a grid and their
/// fields are rectangles over it, so their hull is what is read.
fn read_once(model: &Model, geometry: &StageGeometry, map: MapId) -> u64 {
    let reads = geometry.tiles.iter().flat_map(|t| &t.inputs).filter(|(m, _)| *m == map);
    let hull = reads.fold(Region::EMPTY, |hull, &(_, region)| hull.hull(region));
    region_bytes(model, map, hull)
}

/// At most three days, so that sums over the layers of any model stay in range.
pub(crate) fn nanos(amount: u64, per_s: u64) -> u64 {
    let ns = amount as u128 * 1_000_000_000 / per_s as u128;
    ns.min(1 << 48) as u64
}

fn bytes(model: &Model, pieces: &[(MapId, Region)]) -> u64 {
    pieces.iter().map(|&(map, region)| region_bytes(model, map, region)).sum()
}

fn region_bytes(model: &Model, map: MapId, region: Region) -> u64 {
    (region.positions() * model.pixel_bytes(map)) as u64
}

fn layer_multiply_adds(model: &Model, layers: std::ops::Range<u32>) -> u64 {
    let positions = |l: u32| {
        let shape = model.shape(model.layers[l as usize].output);
        (shape.rows() * shape.cols()) as u64
    };
    layers.map(|l| model.multiply_adds_per_position(LayerId(l)) * positions(l)).sum()
}

fn weight_bytes(model: &Model, layer: LayerId) -> u64 {
    let ids = model.layer(layer).op.weight_ids();
    ids.into_iter().map(|id| model.weight(id).bytes() as u64).sum()
}

/// What a tile holds at most on its device: its inputs, its outputs, and the arena that its
/// schedule has planned for the maps in between.
fn peak_bytes(model: &Model, geometry: &StageGeometry, tile: usize) -> u64 {
    let schedule = Schedule::new(model, geometry, tile, Order::depth_first(1));
    let made = schedule.arena_bytes + schedule.output_bytes();
    bytes(model, &geometry.tiles[tile].inputs) + made as u64
}
