//! `offload`: the whole model on the best device but this one.

use crate::profile::{here, layer_works, speeds};
use crate::{DeviceProfile, PlanOptions, PlannerError};
use model::Model;
use tiling::{Plan, Slot, Stage, Work};

pub(crate) fn plan(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
) -> Result<Plan, PlannerError> {
    let work: Work = layer_works(model, options.numerics).into_iter().sum();
    let speeds = speeds(devices, &work);
    let others = (0..devices.len()).filter(|&i| i != here(devices));
    let best = others.max_by_key(|&i| (speeds[i], std::cmp::Reverse(i)));
    let best = best.ok_or(PlannerError::NoOtherDevice { strategy: "offload" })?;
    let layers = model.layers.len();
    let stages =
        if layers == 0 { Vec::new() } else { vec![Stage::whole(0..layers, Slot(best as u32))] };
    Ok(Plan::new("offload", options.numerics, stages))
}
