//! `local`: the whole model on the fastest device.

use crate::DeviceProfile;
use crate::profile::{fastest, layer_works};
use model::Model;
use tiling::{Handover, Numerics, Plan, Slot, Split, Stage};

pub(crate) fn plan(model: &Model, devices: &[DeviceProfile], numerics: Numerics) -> Plan {
    let stages = if model.layers.is_empty() {
        Vec::new()
    } else {
        let work = layer_works(model, numerics).into_iter().sum();
        vec![whole(0, model.layers.len(), fastest(devices, &work))]
    };
    Plan { strategy: "local".into(), numerics, stages }
}

/// A group on one device.
pub(crate) fn whole(first: usize, end: usize, device: u32) -> Stage {
    Stage {
        first_layer: first as u32,
        end_layer: end as u32,
        split: Split::Whole,
        placement: vec![Slot(device)],
        handover: Handover::Gather,
    }
}
