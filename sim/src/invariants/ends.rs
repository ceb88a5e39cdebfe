//! After the faults end, every frame ends, and then nobody holds anything.

use super::Violation;
use crate::cluster::Cluster;
use crate::device::Device;

impl Cluster {
    /// Whether a run goes on for too long.
    pub(crate) fn overdue(&self, missing: usize, steps: u64) -> Option<Violation> {
        if missing > 0 && self.now > self.scenario.patience_ns {
            return Some(Violation::NeverEnded { missing, now_ns: self.now });
        }
        let livelock = steps > self.scenario.steps_max;
        livelock.then_some(Violation::Livelock { steps, now_ns: self.now })
    }

    /// Who still holds something, once all frames ended.
    pub(crate) fn leak(&self) -> Option<Violation> {
        let frames = self.head.frames.len();
        if frames > 0 {
            return Some(Violation::Leak { holder: "the coordinator".into(), tasks: frames });
        }
        let holds = |d: &&Device| !d.inputs.is_empty() || !d.kept.is_empty();
        let device = self.devices.iter().filter(|d| d.up && !d.hangs).find(holds)?;
        let tasks = device.inputs.len() + device.kept.len();
        Some(Violation::Leak { holder: device.id().to_string(), tasks })
    }
}
