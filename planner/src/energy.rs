//! The least energy within a deadline.
//!
//! Devices that are on draw their idle power whatever is planned, so a plan is charged with what it
//! adds. The fewest devices add least: there is no halo to compute and nothing to send. So each device
//! alone is a candidate; where the thriftiest is too slow, the fastest plans of the thriftiest two,
//! three, ... devices are.

use crate::cost::Followed;
use crate::exact::Exact;
use crate::profile::layer_works;
use crate::{DeviceProfile, Objective, PlanOptions, PlannerError, auto};
use model::Model;
use tiling::{Plan, Slot, Stage};

/// The numbers of devices that are tried together.
const TOGETHER: [usize; 8] = [2, 3, 4, 6, 8, 12, 16, 32];

/// Plans that may be the thriftiest.
///
/// *Errors*: a device of which it is not known what it draws.
pub(crate) fn plans(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
    exact: &mut Exact<'_>,
) -> Result<Vec<Plan>, PlannerError> {
    if let Some(device) = devices.iter().find(|device| device.power.is_none()) {
        return Err(PlannerError::NoPower { device: device.name.clone() });
    }
    let work = layer_works(model, options.numerics).into_iter().sum();
    let alone_j = |&device: &usize| {
        let profile = &devices[device];
        let watts = profile.power.map_or(0.0, |power| (power.active_w - power.idle_w).max(0.0));
        watts * profile.takes_ns(&work) as f64
    };
    let mut thrifty: Vec<usize> = (0..devices.len()).collect();
    thrifty.sort_by(|a, b| alone_j(a).total_cmp(&alone_j(b)));
    let on = |&device: &usize| {
        let stages = vec![Stage::whole(0..model.layers.len(), Slot(device as u32))];
        Plan::new("auto", options.numerics, stages)
    };
    let mut plans: Vec<Plan> = thrifty.iter().map(on).collect();
    let first = plans.first().and_then(|plan| exact.follow(&plan.stages));
    let is_enough = first.is_some_and(|f| options.deadline_ns.is_none_or(|ns| f.makespan_ns <= ns));
    if is_enough {
        return Ok(plans);
    }
    let counts = TOGETHER.into_iter().filter(|&count| count < devices.len());
    for count in counts.chain([devices.len()]).filter(|&count| count > 1) {
        let used = &thrifty[..count];
        let some: Vec<DeviceProfile> = used.iter().map(|&i| devices[i].clone()).collect();
        let alone = PlanOptions { objective: Objective::Latency, ..options };
        let mut of_some = Exact::new(model, &some, options.numerics);
        for mut plan in auto::latency(model, &some, alone, &mut of_some) {
            let slots = plan.stages.iter_mut().flat_map(|stage| &mut stage.placement);
            slots.for_each(|slot| slot.0 = used[slot.0 as usize] as u32);
            plans.push(plan);
        }
    }
    Ok(plans)
}

/// Refuses what does not end in time.
pub(crate) fn in_time(options: PlanOptions, best: &Followed) -> Result<(), PlannerError> {
    match options.deadline_ns.filter(|&deadline| best.makespan_ns > deadline) {
        // Among plans that are late, the least late is the best: the fastest that there is.
        Some(deadline_ns) => {
            Err(PlannerError::Deadline { deadline_ns, fastest_ns: best.makespan_ns })
        }
        None => Ok(()),
    }
}
