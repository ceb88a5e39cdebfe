//! `split`: this device up to a layer, the best other one from there on; what passes between them
//! goes straight from one to the other. *Source*: Kang et al., Neurosurgeon, ASPLOS 2017.

use crate::local::whole;
use crate::profile::{here, layer_works, speeds};
use crate::{Cost, DeviceProfile, PlanOptions, PlannerError};
use model::Model;
use tiling::{Handover, Plan, Stage, Work};

pub(crate) fn plan(
    model: &Model,
    devices: &[DeviceProfile],
    options: PlanOptions,
) -> Result<Plan, PlannerError> {
    let here = here(devices);
    let works = layer_works(model, options.numerics);
    let all = speeds(devices, &works.iter().copied().sum::<Work>());
    let others = (0..devices.len()).filter(|&i| i != here);
    let there = others.max_by_key(|&i| (all[i], std::cmp::Reverse(i)));
    let there = there.ok_or(PlannerError::NoOtherDevice { strategy: "split" })?;
    let layers = model.layers.len();
    let at = |cut: usize| {
        let near = (cut > 0).then(|| whole(0, cut, here as u32));
        let near = near.map(|stage| match cut < layers {
            true => Stage { handover: Handover::Exchange, ..stage },
            false => stage,
        });
        let far = (cut < layers).then(|| whole(cut, layers, there as u32));
        let stages = near.into_iter().chain(far).collect();
        Plan { strategy: "split".into(), numerics: options.numerics, stages }
    };
    let mut best: Option<(u64, Plan)> = None;
    for plan in (0..=layers).map(at) {
        let ns = Cost::estimate(model, devices, &plan)?.makespan_ns;
        if best.as_ref().is_none_or(|(least, _)| ns < *least) {
            best = Some((ns, plan));
        }
    }
    Ok(best.map_or_else(|| at(0), |(_, plan)| plan))
}
