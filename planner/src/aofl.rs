//! `aofl`: where to fuse and over how many devices, by dynamic programming; equal strips, gather after
//! each fused group. *Source*: Zhou et al., Adaptive parallel execution of deep neural networks on
//! heterogeneous edge devices, SEC 2019.

use crate::auto::{Search, Space};
use crate::{DeviceProfile, PlanOptions};
use model::Model;
use tiling::{Handover, Plan};

pub(crate) fn plan(model: &Model, devices: &[DeviceProfile], options: PlanOptions) -> Plan {
    let options = PlanOptions { handover: Some(Handover::Gather), ..options };
    let stages = Search::new(model, devices, options, Space::EqualStrips).run();
    Plan { strategy: "aofl".into(), numerics: options.numerics, stages }
}
