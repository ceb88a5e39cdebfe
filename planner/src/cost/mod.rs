//! What a plan should cost.
//!
//! Rates by operator class. Shared air and lower bounds are not modelled.

mod bound;
mod cut;
mod flow;
mod follow;
mod load;
mod period;

pub use bound::Bound;
pub(crate) use cut::{Cut, Parts, Reach, walk};
pub(crate) use flow::Flow;
use flow::air_ns;
pub(crate) use follow::{Followed, plan as follow};
pub(crate) use load::{Made, TileLoad, loads, take_from};

use crate::memory::kept_bytes;
use crate::profile::layer_works;
use crate::{DeviceProfile, TurnedDown};
use model::{LayerId, MapId, Model, Op};
use serde::Serialize;
use std::rc::Rc;
use tiling::{Handover, Order, Plan, PlanError, Region, Schedule, Slot, StageGeometry};

/// Predicted cost of a plan on a set of devices.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// First scatter to last gather of one frame.
    pub makespan_ns: u64,
    /// The same by a simulation of the scheduler, where somebody played the plan through.
    pub rehearsed_ns: Option<u64>,
    /// From the end of one frame to that of the next in a stream of them, at the least: what the
    /// busiest processor or link needs for each.
    pub period_ns: u64,
    /// What no plan for these devices can stay below.
    pub bound_ns: u64,
    /// What the bound is made of.
    pub bound: Bound,
    /// The whole model on the fastest device, inputs there already.
    pub one_device_ns: u64,
    /// What one frame makes the devices draw beyond what they draw idle; none where the watts of a
    /// device that computes are not known.
    pub energy_j: Option<f64>,
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

/// Predicted load of a device by one frame; where whole frames go to whoever is free, by each frame
/// that it gets.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DeviceCost {
    /// Tiles of all stages.
    pub tiles: usize,
    /// Multiply-adds.
    pub multiply_adds: u64,
    /// Time that it computes.
    pub busy_ns: u64,
    /// Tensor bytes received.
    pub bytes_in: u64,
    /// Tensor bytes sent.
    pub bytes_out: u64,
    /// Weights of its stages.
    pub weight_bytes: u64,
    /// Largest sum of maps that one of its tiles holds at a time, inputs and outputs included.
    pub tile_bytes: u64,
    /// What stays there of the maps of a frame until it is over: what it makes and sends on, or is sent.
    pub kept_bytes: u64,
    /// What it draws beyond what it draws idle, where its watts are known.
    pub energy_j: Option<f64>,
}

impl DeviceCost {
    /// Memory that it must have: weights, what stays there, and the tile that takes most.
    pub fn memory_bytes(&self) -> u64 {
        self.weight_bytes + self.kept_bytes + self.tile_bytes
    }
}

impl Cost {
    /// Multiply-adds executed / multiply-adds of the untiled model.
    pub fn redundancy(&self) -> f64 {
        self.multiply_adds as f64 / (self.model_multiply_adds as f64).max(1.0)
    }

    /// The best word on how long one frame takes.
    pub fn predicted_ns(&self) -> u64 {
        self.rehearsed_ns.unwrap_or(self.makespan_ns)
    }

    /// Bytes that a frame moves, to devices, between them and back.
    pub fn moved_bytes(&self) -> u64 {
        let of =
            |stage: &StageCost| stage.scatter_bytes + stage.exchange_bytes + stage.gather_bytes;
        self.stages.iter().map(of).sum()
    }

    /// How much longer one frame takes than the lower bound.
    pub fn over_bound(&self) -> f64 {
        self.makespan_ns as f64 / self.bound_ns.max(1) as f64
    }

    /// Works out the cost of a plan.
    ///
    /// *Errors*: the plan does not fit the model.
    pub fn of(model: &Model, devices: &[DeviceProfile], plan: &Plan) -> Result<Cost, PlanError> {
        let mut cost = Self::estimate(model, devices, plan)?;
        let cuts = cuts(model, plan)?;
        for (device, load) in cost.devices.iter_mut().enumerate() {
            let stages = plan.stages.iter().zip(cuts.iter().map(|cut| &**cut));
            load.kept_bytes = kept_bytes(model, stages, device);
        }
        for (index, stage) in plan.stages.iter().enumerate() {
            let geometry = StageGeometry::new(model, plan.numerics, index, stage)?;
            for (tile, slot) in stage.placement.iter().enumerate() {
                let holders = match *slot {
                    Slot::ANY => 0..devices.len(),
                    Slot(device) => device as usize..device as usize + 1,
                };
                let bytes = peak_bytes(model, &geometry, tile);
                for load in cost.devices.get_mut(holders).into_iter().flatten() {
                    load.tile_bytes = load.tile_bytes.max(bytes);
                }
            }
        }
        Ok(cost)
    }

    /// The same plan where it moves other bytes than was thought, which is no reason to look for another:
    /// only what it moves is worked out again.
    ///
    /// *Errors*: the plan does not fit the model.
    pub fn moving_now(
        self,
        model: &Model,
        devices: &[DeviceProfile],
        plan: &Plan,
    ) -> Result<Cost, PlanError> {
        let now = Self::estimate(model, devices, plan)?;
        let stages = self.stages.into_iter().zip(now.stages).map(|(known, now)| StageCost {
            scatter_bytes: now.scatter_bytes,
            exchange_bytes: now.exchange_bytes,
            gather_bytes: now.gather_bytes,
            ..known
        });
        let loads = self.devices.into_iter().zip(now.devices).map(|(known, now)| DeviceCost {
            bytes_in: now.bytes_in,
            bytes_out: now.bytes_out,
            ..known
        });
        Ok(Cost { stages: stages.collect(), devices: loads.collect(), ..self })
    }

    /// As [`Cost::of`] without the memory, which takes the schedule of each tile: for a search.
    ///
    /// *Errors*: the plan does not fit the model.
    pub fn estimate(
        model: &Model,
        devices: &[DeviceProfile],
        plan: &Plan,
    ) -> Result<Cost, PlanError> {
        let cuts = cuts(model, plan)?;
        let followed = follow::plan(model, devices, &plan.stages, &cuts);
        let works = layer_works(model, plan.numerics);
        let whole = works.iter().copied().sum();
        let bound = Bound::of(model, devices, &works);
        Ok(Cost {
            makespan_ns: followed.makespan_ns,
            rehearsed_ns: None,
            period_ns: followed.period_ns,
            bound_ns: bound.ns(),
            bound,
            one_device_ns: devices.iter().map(|d| d.takes_ns(&whole)).min().unwrap_or(0),
            energy_j: followed.energy_j,
            multiply_adds: followed.stages.iter().map(|s| s.multiply_adds).sum(),
            model_multiply_adds: model.multiply_adds(),
            stages: followed.stages,
            devices: followed.devices,
            turned_down: None,
        })
    }
}

/// The tiles of every stage of a plan.
///
/// *Errors*: the plan does not fit the model.
fn cuts(model: &Model, plan: &Plan) -> Result<Vec<Rc<Cut>>, PlanError> {
    plan.check(model)?;
    let stages = plan.stages.iter().enumerate();
    let cut = |(index, stage)| {
        let geometry = StageGeometry::new(model, plan.numerics, index, stage)?;
        Ok(Rc::new(Cut::of(model, geometry)))
    };
    stages.map(cut).collect()
}

/// Bytes of an input map that any tile reads, each counted once. Tiles form a grid and their
/// fields are rectangles over it, so their hull is what is read.
fn read_once(model: &Model, borders: &StageGeometry, map: MapId) -> u64 {
    let reads = borders.tiles.iter().flat_map(|t| &t.inputs).filter(|(m, _)| *m == map);
    let hull = reads.fold(Region::EMPTY, |hull, &(_, region)| hull.hull(region));
    region_bytes(model, map, hull)
}

/// At most three days, so that sums over the layers of any model stay in range.
pub(crate) fn nanos(amount: u64, per_s: u64) -> u64 {
    let ns = amount as u128 * 1_000_000_000 / per_s as u128;
    ns.min(1 << 48) as u64
}

pub(crate) fn bytes(model: &Model, pieces: &[(MapId, Region)]) -> u64 {
    pieces.iter().map(|&(map, region)| region_bytes(model, map, region)).sum()
}

fn region_bytes(model: &Model, map: MapId, region: Region) -> u64 {
    (region.positions() * model.pixel_bytes(map)) as u64
}

pub(crate) fn layer_multiply_adds(model: &Model, layers: std::ops::Range<u32>) -> u64 {
    let positions = |l: u32| {
        let shape = model.shape(model.layers[l as usize].output);
        (shape.rows() * shape.cols()) as u64
    };
    layers.map(|l| model.multiply_adds_per_position(LayerId(l)) * positions(l)).sum()
}

pub(crate) fn weight_bytes(model: &Model, layer: LayerId) -> u64 {
    let ids = model.layer(layer).op.weight_ids();
    ids.into_iter().map(|id| model.weight(id).bytes() as u64).sum()
}

/// Bytes of a layer's weights where these lie in slices, of which a tile reads some; else none.
pub(crate) fn sliced_bytes(model: &Model, layer: LayerId) -> u64 {
    let is_sliced = matches!(model.layer(layer).op, Op::LinearRows { .. });
    if is_sliced { weight_bytes(model, layer) } else { 0 }
}

/// What a tile holds at most on its device: its inputs, its outputs, and the arena that its
/// schedule has planned for the maps in between.
pub(crate) fn peak_bytes(model: &Model, geometry: &StageGeometry, tile: usize) -> u64 {
    let schedule = Schedule::new(model, geometry, tile, Order::depth_first(1));
    let made = schedule.arena_bytes + schedule.output_bytes();
    bytes(model, &geometry.tiles[tile].inputs) + made as u64
}
