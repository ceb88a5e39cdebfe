//! `split`: this device up to a layer, the best other one from there on; what passes between them
//! goes straight from one to the other. *Source*: Kang et al., Neurosurgeon, ASPLOS 2017.

use crate::exact::Exact;
use crate::profile::{here, layer_works, speeds};
use crate::{DeviceProfile, PlanOptions, PlannerError};
use model::Model;
use tiling::{Plan, Slot, Stage, Work};

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
        let near = (cut > 0).then(|| Stage::whole(0..cut, Slot(here as u32)));
        let near = near.map(|stage| if cut < layers { stage.exchanging() } else { stage });
        let far = (cut < layers).then(|| Stage::whole(cut..layers, Slot(there as u32)));
        let stages = near.into_iter().chain(far).collect();
        Plan::new("split", options.numerics, stages)
    };
    let mut exact = Exact::new(model, devices, options.numerics);
    let ranked = exact.ranked(&PlanOptions::EXACT, (0..=layers).map(at).collect());
    Ok(ranked.into_iter().next().map_or_else(|| at(0), |(_, plan)| plan))
}
