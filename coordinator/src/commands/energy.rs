//! What a frame is predicted to make the devices draw, where it is known what they draw.

use crate::cluster::{Answer, Device};
use crate::watts::Watts;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use tiling::Slot;

/// Energy of one frame beyond what the devices draw idle.
#[derive(Debug, Serialize)]
pub(super) struct Energy {
    /// Of all devices that have a part in the plan; none where the watts of one are not known.
    predicted_j_per_frame: Option<f64>,
    /// One entry for each device that has a part in the plan.
    devices: Vec<Part>,
}

#[derive(Debug, Serialize)]
struct Part {
    device: String,
    predicted_j_per_frame: Option<f64>,
    watts: Option<Watts>,
}

impl Energy {
    /// By the cost of a frame's plan, and what was known of its devices.
    pub(super) fn of(answer: &Answer, devices: &[Device]) -> Self {
        let (plan, cost) = (&answer.plan, &answer.predicted);
        let placed = plan.plan.stages.iter().flat_map(|stage| &stage.placement).copied();
        let placed: BTreeSet<Slot> = placed.collect();
        let slots = plan.slots.iter().zip(&cost.devices).enumerate();
        // Where frames go to whoever is free, each may get one.
        let used =
            slots.filter(|(i, _)| placed.contains(&Slot(*i as u32)) || placed.contains(&Slot::ANY));
        let part = |(_, (worker, load)): (usize, (&protocol::WorkerId, &planner::DeviceCost))| {
            let device = devices.iter().find(|device| device.id == worker.0);
            Part {
                device: device.map_or_else(|| worker.to_string(), |d| d.name.clone()),
                predicted_j_per_frame: load.energy_j,
                watts: device.and_then(|device| device.watts.clone()),
            }
        };
        Self { predicted_j_per_frame: cost.energy_j, devices: used.map(part).collect() }
    }
}

impl Energy {
    /// Whether it is worth a line for people: where nobody said what any device draws, nobody asked.
    pub(super) fn is_told(&self) -> bool {
        self.devices.iter().any(|part| part.watts.is_some())
    }
}

impl fmt::Display for Energy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(joules) = self.predicted_j_per_frame {
            return write!(f, "predicted {joules:.3} J a frame, beyond what idle devices draw");
        }
        let unknown = self.devices.iter().filter(|part| part.predicted_j_per_frame.is_none());
        let unknown: Vec<&str> = unknown.map(|part| part.device.as_str()).collect();
        write!(
            f,
            "energy is not predicted: nobody said what {} draw{} (`tilehive-worker --watts`)",
            unknown.join(", "),
            if unknown.len() == 1 { "s" } else { "" }
        )
    }
}
