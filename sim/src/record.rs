//! What is kept of a run: bytes by kind always, the timeline where it is asked for.

use crate::events::Parcel;
use protocol::{BundleKind, Nanos, TaskId};
use serde::Serialize;
use timeline::{Activity, Mark, Span, Timeline, Try};

/// Bytes that were sent, by what they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Inputs of tasks from the coordinator.
    pub scatter_bytes: u64,
    /// Results to the coordinator.
    pub gather_bytes: u64,
    /// Inputs of tasks from victims to thieves.
    pub handover_bytes: u64,
    /// Pieces that workers send each other between stages.
    pub exchange_bytes: u64,
    /// Weights and graphs.
    pub weight_bytes: u64,
    /// Control messages.
    pub control_bytes: u64,
}

/// Keeps what happens.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) keep: bool,
    pub(crate) traffic: Traffic,
    pub(crate) timeline: Timeline,
}

/// A task as timelines name it.
pub(crate) fn try_of(task: TaskId, attempt: u32) -> Try {
    Try { frame: task.frame.number(), stage: task.stage, tile: task.tile, attempt }
}

impl Recorder {
    pub(crate) fn new(devices: impl Iterator<Item = String>) -> Self {
        let timeline = Timeline { devices: devices.collect(), ..Timeline::default() };
        Self { keep: false, traffic: Traffic::default(), timeline }
    }

    pub(crate) fn control(&mut self, bytes: u64) {
        self.traffic.control_bytes += bytes;
    }

    /// Something was moved, to or from a device.
    pub(crate) fn transfer(
        &mut self,
        device: usize,
        parcel: &Parcel,
        to_head: bool,
        from_peer: bool,
        (start_ns, end_ns): (Nanos, Nanos),
    ) {
        let bytes = parcel.bytes();
        let traffic = &mut self.traffic;
        let (activity, task) = match parcel {
            Parcel::Message(_) => return,
            Parcel::Blob(..) => {
                traffic.weight_bytes += bytes;
                (Activity::Weights, None)
            }
            Parcel::Bundle(bundle, _) => {
                match bundle.kind {
                    BundleKind::Scatter => traffic.scatter_bytes += bytes,
                    BundleKind::Handover => traffic.handover_bytes += bytes,
                    BundleKind::Result { .. } => traffic.gather_bytes += bytes,
                    BundleKind::Exchange => traffic.exchange_bytes += bytes,
                }
                let activity = if to_head { Activity::Send } else { Activity::Receive };
                (activity, Some(try_of(bundle.task, bundle.attempt)))
            }
        };
        let device = device as u32;
        self.span(Span { device, activity, task, start_ns, end_ns, bytes, stolen: from_peer });
    }

    pub(crate) fn span(&mut self, span: Span) {
        if self.keep {
            self.timeline.spans.push(span);
        }
    }

    pub(crate) fn mark(&mut self, at_ns: Nanos, device: Option<usize>, what: impl Into<String>) {
        if self.keep {
            let device = device.map(|d| d as u32);
            self.timeline.marks.push(Mark { at_ns, device, what: what.into() });
        }
    }
}
