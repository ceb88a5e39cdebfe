//! What devices draw: as their workers were told, or as files that come with the program say of their
//! boards.

use protocol::WorkerProfile;
use serde::Serialize;
use sim::files::board_power;

/// What a device draws, and who says so.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Watts {
    /// With nothing to do.
    pub idle_w: f64,
    /// With all threads at work.
    pub active_w: f64,
    /// Where these numbers are from.
    pub source: String,
}

impl Watts {
    /// What is known of a worker's device.
    pub(crate) fn of(known: &WorkerProfile) -> Option<Self> {
        if let Some(power) = known.power {
            let watts = |milliwatts: u32| f64::from(milliwatts) / 1e3;
            let (idle_w, active_w) = (watts(power.idle_mw), watts(power.active_mw));
            return Some(Self { idle_w, active_w, source: "as its worker was told".into() });
        }
        let (power, file) = board_power(known.board.as_deref()?)?;
        let sim::physics::Power { idle_w, active_w } = power;
        let source = format!("by the figures of configs/devices/{file}.toml");
        Some(Self { idle_w, active_w, source })
    }

    /// As the planner wants it.
    pub(crate) fn planned(&self) -> planner::Power {
        planner::Power { idle_w: self.idle_w, active_w: self.active_w }
    }
}
