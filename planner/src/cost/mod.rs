//! What a plan should cost.
//!
//! Rates by operator class, the stages one after another. Shared air and lower bounds are not
//! modelled.

mod stage;

pub(crate) use stage::{cost as stage_cost, loads as stage_loads};

use crate::{DeviceProfile, TurnedDown};
use model::{LayerId, MapId, Model};
use serde::Serialize;
use std::collections::BTreeSet;
use tiling::{Order, Plan, PlanError, Region, Schedule, StageGeometry};

/// Predicted cost of a plan on a set of devices.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// First scatter to last gather of one frame.
    pub makespan_ns: u64,
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
    /// From its scatter to its gather.
    pub duration_ns: u64,
    /// Bytes scattered to all tiles.
    pub scatter_bytes: u64,
    /// Of those, bytes that more than one tile needs.
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
    pub(crate) fn estimate(
        model: &Model,
        devices: &[DeviceProfile],
        plan: &Plan,
    ) -> Result<Cost, PlanError> {
        plan.check(model)?;
        let mut total = vec![DeviceCost::default(); devices.len()];
        let mut stages = Vec::with_capacity(plan.stages.len());
        let mut weights = vec![BTreeSet::new(); devices.len()];
        for (index, stage) in plan.stages.iter().enumerate() {
            let geometry = StageGeometry::new(model, plan.numerics, index, stage)?;
            let tiles = stage_loads(model, &geometry, stage);
            for tile in &tiles {
                let Some(load) = total.get_mut(tile.device) else { continue };
                load.tiles += 1;
                load.multiply_adds += tile.multiply_adds;
                load.bytes_in += tile.bytes_in;
                load.bytes_out += tile.bytes_out;
                weights[tile.device].extend(stage.first_layer..stage.end_layer);
            }
            stages.push(stage_cost(model, devices, &geometry, stage, &tiles));
        }
        for (load, layers) in total.iter_mut().zip(weights) {
            load.weight_bytes = layers.into_iter().map(|l| weight_bytes(model, LayerId(l))).sum();
        }
        let model_multiply_adds = model.multiply_adds();
        let whole = StageGeometry::whole(model, plan.numerics);
        let whole = whole.tile_work(model, 0);
        Ok(Cost {
            makespan_ns: stages.iter().map(|s| s.duration_ns).sum(),
            one_device_ns: devices.iter().map(|d| d.takes_ns(&whole)).min().unwrap_or(0),
            multiply_adds: stages.iter().map(|s| s.multiply_adds).sum(),
            model_multiply_adds,
            stages,
            devices: total,
            turned_down: None,
        })
    }
}

/// At most three days, so that sums over the layers of any model stay in range.
fn nanos(amount: u64, per_s: u64) -> u64 {
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
