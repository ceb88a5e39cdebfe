//! What came of a run in which every promise was kept.

use crate::bound::Bound;
use crate::device::Device;
use crate::physics::Energy;
use crate::record::Traffic;
use kernels::Pieces;
use protocol::{Counters, FrameId, Nanos, WorkerId, WorkerReport};
use serde::Serialize;
use std::collections::BTreeMap;
use timeline::Timeline;

/// When a frame was submitted and when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FrameOutcome {
    /// Handed to the coordinator.
    pub submitted_ns: Nanos,
    /// Its first bundle left.
    pub started_ns: Nanos,
    /// Its answer was complete.
    pub ended_ns: Nanos,
}

impl FrameOutcome {
    /// From submission to answer, waiting for other frames included.
    pub fn latency_ns(&self) -> Nanos {
        self.ended_ns - self.submitted_ns
    }

    /// First scatter to last gather.
    pub fn makespan_ns(&self) -> Nanos {
        self.ended_ns - self.started_ns
    }
}

/// What one device did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceOutcome {
    /// Its name.
    pub name: String,
    /// Tasks of its that were gathered.
    pub tasks: u64,
    /// Of those, from another's share.
    pub stolen: u64,
    /// Time that it computed.
    pub busy_ns: Nanos,
    /// Part of the time that it was there in which it computed.
    pub utilisation: f64,
    /// Bytes to it.
    pub received_bytes: u64,
    /// Bytes from it.
    pub sent_bytes: u64,
    /// The most that it held: inputs, the running tile, packed weights, results not sent yet.
    pub peak_bytes: u64,
    /// Energy.
    pub energy: Energy,
    /// The highest temperature; none where it was not modelled.
    pub peak_c: Option<f64>,
}

impl DeviceOutcome {
    pub(crate) fn new(
        device: &mut Device,
        report: &WorkerReport,
        moved: &crate::physics::Moved,
        ended_ns: Nanos,
    ) -> Self {
        let there_ns = ended_ns.saturating_sub(device.spec.joins_ns).max(1);
        let in_air = matches!(device.spec.link.medium, crate::physics::Medium::Air(_));
        let radio_ns = if in_air { moved.medium_ns as Nanos } else { 0 };
        let busy_ns = device.busy_ns.min(there_ns);
        Self {
            name: device.spec.name.clone(),
            tasks: report.tasks,
            stolen: report.stolen,
            busy_ns,
            utilisation: busy_ns as f64 / there_ns as f64,
            received_bytes: moved.received as u64,
            sent_bytes: moved.sent as u64,
            peak_bytes: device.peak_bytes,
            energy: device.spec.device.power.energy(there_ns, busy_ns, radio_ns),
            peak_c: device.spec.device.thermal.as_ref().map(|t| device.peak_c.max(t.ambient_c)),
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The output maps of each frame; none without values.
    pub outputs: Vec<Pieces>,
    /// From the first scatter to the last frame's end.
    pub makespan_ns: Nanos,
    /// When the last frame ended.
    pub ended_ns: Nanos,
    /// Each frame that ended well, in order.
    pub frames: Vec<FrameOutcome>,
    /// Each frame that failed, and why.
    pub failures: Vec<(FrameId, String)>,
    /// What each worker did, as the coordinator counts.
    pub reports: BTreeMap<WorkerId, WorkerReport>,
    /// What each device did, as the world knows.
    pub devices: Vec<DeviceOutcome>,
    /// Tasks issued again.
    pub reassigned: u64,
    /// What the scheduler did.
    pub counters: Counters,
    /// Multiply-adds of all tasks gathered.
    pub multiply_adds: u64,
    /// Multiply-adds of one frame on one device.
    pub model_multiply_adds: u64,
    /// Bytes that the coordinator sent.
    pub head_sent_bytes: u64,
    /// Bytes that the coordinator received.
    pub head_received_bytes: u64,
    /// The least possible times.
    pub bound: Bound,
    /// The last plan that was made.
    pub plan: Option<tiling::Plan>,
    /// Steps taken.
    pub steps: u64,
    /// A hash of everything that happened, in order.
    pub event_hash: u64,
    /// What happened, where it was asked for.
    pub timeline: Timeline,
    /// Bytes by kind.
    pub traffic: Traffic,
}

impl Outcome {
    /// Tasks that were gathered from a thief.
    pub fn stolen(&self) -> u64 {
        self.reports.values().map(|r| r.stolen).sum()
    }

    /// Multiply-adds executed / multiply-adds of the untiled model.
    pub fn redundancy(&self) -> f64 {
        let needed = self.model_multiply_adds as f64 * self.frames.len() as f64;
        self.multiply_adds as f64 / needed.max(1.0)
    }
}
