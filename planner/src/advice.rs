//! Why one device, and what would have to change.

use crate::{Cost, DeviceProfile, PlanOptions, Strategy, auto, deepthings};
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
    let moved = cost.stages.iter().map(|stage| stage.scatter_bytes + stage.gather_bytes);
    Some(TurnedDown { makespan_ns: cost.makespan_ns, moved_bytes: moved.sum() })
}

/// The most that links are made faster in the search for the one that turns the verdict.
const FASTER_MAX: f64 = 256.0;

/// The speed of the fastest link, in bytes a second, from which on several devices are predicted to
/// be faster than one; all links are scaled alike. None where they are now, or no link would help.
pub fn turning_link(model: &Model, devices: &[DeviceProfile], options: PlanOptions) -> Option<u64> {
    let scaled = |factor: f64| -> Vec<DeviceProfile> {
        let scaled = |device: &DeviceProfile| DeviceProfile {
            link_bytes_per_s: (device.link_bytes_per_s as f64 * factor) as u64,
            ..device.clone()
        };
        devices.iter().map(scaled).collect()
    };
    let shares = |factor: f64| {
        auto::plan(model, &scaled(factor), options).is_ok_and(|plan| devices_used(&plan) > 1)
    };
    if devices.len() < 2 || shares(1.0) {
        return None;
    }
    let (mut slow, mut fast) = (1.0, 2.0);
    while !shares(fast) {
        (slow, fast) = (fast, fast * 2.0);
        if fast > FASTER_MAX {
            return None;
        }
    }
    for _ in 0..3 {
        let middle = (slow * fast).sqrt();
        if shares(middle) { fast = middle } else { slow = middle }
    }
    scaled(fast).iter().map(|device| device.link_bytes_per_s).max()
}

/// Whether a strategy may leave devices out, so that advice is due.
pub(crate) fn is_due(strategy: Strategy, devices: usize, plan: &Plan) -> bool {
    strategy == Strategy::Auto && devices > 1 && devices_used(plan) == 1
}
