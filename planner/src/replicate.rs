//! `replicate`: each frame whole on whichever device can be done with it first. What to do with a
//! stream of frames when throughput is all that counts.

use crate::PlanOptions;
use crate::local::whole;
use model::Model;
use tiling::{Plan, Slot};

pub(crate) fn plan(model: &Model, options: PlanOptions) -> Plan {
    let layers = model.layers.len();
    let stages = if layers == 0 { Vec::new() } else { vec![whole(0, layers, Slot::ANY.0)] };
    Plan { strategy: "replicate".into(), numerics: options.numerics, stages }
}
