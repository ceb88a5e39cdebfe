//! `local`: the whole model on the fastest device, of those that it fits on.

use crate::DeviceProfile;
use crate::exact::Exact;
use crate::profile::{fastest, layer_works};
use model::Model;
use tiling::{Numerics, Plan, Slot, Stage};

pub(crate) fn plan(model: &Model, devices: &[DeviceProfile], numerics: Numerics) -> Plan {
    let of = |stages| Plan::new("local", numerics, stages);
    if model.layers.is_empty() {
        return of(Vec::new());
    }
    let on = |slot| of(vec![Stage::whole(0..model.layers.len(), slot)]);
    let works = layer_works(model, numerics);
    let best = fastest(devices, &works.iter().copied().sum());
    if devices.iter().all(|device| device.memory_bytes.is_none()) {
        return on(best);
    }
    let mut exact = Exact::new(model, devices, numerics);
    let fits = |slot: &Slot| exact.misfit(&on(*slot).stages).is_none();
    let fitting: Vec<Slot> = (0..devices.len() as u32).map(Slot).filter(fits).collect();
    let takes = |slot: &Slot| devices[slot.0 as usize].takes_ns(&works.iter().copied().sum());
    on(fitting.into_iter().min_by_key(takes).unwrap_or(best))
}
