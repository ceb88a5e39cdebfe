//! Why one device.

use crate::{Cost, DeviceProfile, PlanOptions, Strategy, deepthings};
use model::Model;
use serde::Serialize;
use tiling::{Plan, Slot};

/// The best of the plans over several devices that was turned down for one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TurnedDown {
    /// First scatter to last gather of one frame.
    pub makespan_ns: u64,
    /// Bytes that it moves for a frame.
    pub moved_bytes: u64,
}

/// How many devices a plan uses; the greatest number where it takes whoever is free.
pub fn devices_used(plan: &Plan) -> usize {
    if plan.stages.iter().any(|stage| stage.placement.contains(&Slot::ANY)) {
        return usize::MAX; // As many as there are.
    }
    let mut used: Vec<u32> =
        plan.stages.iter().flat_map(|stage| &stage.placement).map(|slot| slot.0).collect();
    used.sort_unstable();
    used.dedup();
    used.len()
}

/// What sharing the early layers would have cost.
pub(crate) fn turned_down(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
) -> Option<TurnedDown> {
    let plan = deepthings::plan(model, devices, options).ok()?;
    let cost = Cost::estimate(model, devices, &plan).ok()?;
    Some(TurnedDown { makespan_ns: cost.makespan_ns, moved_bytes: cost.moved_bytes() })
}

/// Whether a strategy may leave devices out, so that advice is due.
pub(crate) fn is_due(strategy: Strategy, devices: usize, plan: &Plan) -> bool {
    strategy == Strategy::Auto && devices > 1 && devices_used(plan) == 1
}
