//! `replicate`: each frame whole on whichever device can be done with it first. What to do with a
//! stream of frames when throughput is all that counts.

use crate::PlanOptions;
use model::Model;
use tiling::{Plan, Slot, Stage};

pub(crate) fn plan(model: &Model, options: PlanOptions) -> Plan {
    let layers = model.layers.len();
    let stages = if layers == 0 { Vec::new() } else { vec![Stage::whole(0..layers, Slot::ANY)] };
    Plan::new("replicate", options.numerics, stages)
}
