//! `local`: the whole model on the fastest device.

use crate::DeviceProfile;
use crate::profile::{fastest, layer_works};
use model::Model;
use tiling::{Numerics, Plan, Stage};

pub(crate) fn plan(model: &Model, devices: &[DeviceProfile], numerics: Numerics) -> Plan {
    let stages = if model.layers.is_empty() {
        Vec::new()
    } else {
        let work = layer_works(model, numerics).into_iter().sum();
        vec![Stage::whole(0..model.layers.len(), fastest(devices, &work))]
    };
    Plan { strategy: "local".into(), numerics, stages }
}
