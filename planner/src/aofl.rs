//! `aofl`: where to fuse and over how many devices, by dynamic programming; equal strips, gather after
//! each fused group. *Source*: Zhou et al., Adaptive parallel execution of deep neural networks on
//! heterogeneous edge devices, SEC 2019.

use crate::exact::Exact;
use crate::search::{Search, Space, World};
use crate::{DeviceProfile, PlanOptions, local};
use model::Model;
use tiling::{Handover, Plan};

pub(crate) fn plan(model: &Model, devices: &[DeviceProfile], options: PlanOptions) -> Plan {
    let local = local::plan(model, devices, options.numerics);
    let mut exact = Exact::new(model, devices, options.numerics);
    let limit_ns = exact.follow(&local.stages).map_or(u64::MAX, |followed| followed.makespan_ns);
    let search = Search::new(model, devices, options.numerics, Space::EqualStrips);
    let devices = devices.to_vec();
    let world = World { devices, handover: Some(Handover::Gather), limit_ns };
    let found = search.run(&[world]).pop().flatten();
    let stages = found.unwrap_or(local.stages);
    Plan::new("aofl", options.numerics, stages)
}
