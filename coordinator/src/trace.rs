//! The timeline of a real run, as the simulator writes it of simulated ones.
//!
//! The clocks of two devices never agree, so everything is told by the coordinator's: a result says
//! how long its task waited and how long it took, and what is left between sending the inputs and
//! having the outputs was the network, here shared out by bytes.

use protocol::coordinator::Output;
use protocol::{Bundle, BundleKind, Message, TaskId, WorkerId};
use std::collections::BTreeMap;
use std::time::Instant;
use timeline::{Activity, Mark, Span, Timeline, Try};

/// Spans that are kept: some hundred megabytes at most, however long a run is.
const SPANS_MAX: usize = 1_000_000;

/// An attempt that is out.
struct Issued {
    worker: WorkerId,
    at_ns: u64,
    bytes: u64,
    stolen: bool,
}

/// Writes down what happens.
pub(crate) struct Tracer {
    started: Instant,
    timeline: Timeline,
    issued: BTreeMap<(TaskId, u32), Issued>,
}

impl Tracer {
    pub(crate) fn new() -> Self {
        let (timeline, issued) = (Timeline::default(), BTreeMap::new());
        Self { started: Instant::now(), timeline, issued }
    }

    pub(crate) fn timeline(&self) -> Timeline {
        self.timeline.clone()
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Names a device.
    pub(crate) fn name(&mut self, id: WorkerId, name: &str) {
        let index = id.0 as usize;
        while self.timeline.devices.len() <= index {
            self.timeline.devices.push(format!("w{}", self.timeline.devices.len()));
        }
        self.timeline.devices[index] = name.to_owned();
    }

    /// Something happened.
    pub(crate) fn mark(&mut self, id: Option<WorkerId>, what: impl Into<String>) {
        let (at_ns, device) = (self.now_ns(), id.map(|id| id.0));
        self.timeline.marks.push(Mark { at_ns, device, what: what.into() });
    }

    /// The machine wants something done.
    pub(crate) fn output(&mut self, output: &Output) {
        let at_ns = self.now_ns();
        match output {
            Output::SendBundle(worker, bundle) => {
                let bytes = bundle.byte_len().unwrap_or(0) as u64;
                let issued = Issued { worker: *worker, at_ns, bytes, stolen: false };
                self.issued.insert((bundle.task, bundle.attempt), issued);
            }
            Output::Send(_, Message::Yield { task, attempt, thief, next_attempt }) => {
                let bytes = self.issued.get(&(*task, *attempt)).map_or(0, |issued| issued.bytes);
                let issued = Issued { worker: *thief, at_ns, bytes, stolen: true };
                self.issued.insert((*task, *next_attempt), issued);
            }
            Output::Finished(frame) => {
                self.issued.retain(|(task, _), _| task.frame != *frame);
                self.mark(None, format!("frame {} done", frame.number()));
            }
            Output::FrameFailed(frame, reason) => {
                self.issued.retain(|(task, _), _| task.frame != *frame);
                self.mark(None, format!("frame {} failed: {reason}", frame.number()));
            }
            Output::Disconnect(id, reason) => self.mark(Some(*id), format!("expelled: {reason}")),
            _ => {}
        }
    }

    /// What was sent with an attempt was encoded to so many bytes.
    pub(crate) fn packed(&mut self, task: TaskId, attempt: u32, bytes: u64) {
        if let Some(issued) = self.issued.get_mut(&(task, attempt)) {
            issued.bytes = bytes;
        }
    }

    /// A result arrived.
    pub(crate) fn result(&mut self, bundle: &Bundle) {
        let BundleKind::Result { busy_ns, waited_ns } = bundle.kind else { return };
        let now_ns = self.now_ns();
        let Some(issued) = self.issued.remove(&(bundle.task, bundle.attempt)) else { return };
        if self.timeline.spans.len() + 3 > SPANS_MAX {
            return;
        }
        let out = bundle.wire_len().unwrap_or(0) as u64;
        let all_ns = now_ns.saturating_sub(issued.at_ns);
        // The numbers come over the wire.
        let busy_ns = busy_ns.min(all_ns);
        let waited_ns = waited_ns.min(all_ns - busy_ns);
        let network_ns = all_ns - busy_ns - waited_ns;
        let share = u128::from(network_ns) * u128::from(issued.bytes);
        let in_ns = (share / u128::from((issued.bytes + out).max(1))) as u64;
        let ended_ns = now_ns - (network_ns - in_ns);
        let task = Some(Try {
            frame: bundle.task.frame.number(),
            stage: bundle.task.stage,
            tile: bundle.task.tile,
            attempt: bundle.attempt,
        });
        let spans = [
            (Activity::Receive, issued.at_ns, issued.at_ns + in_ns, issued.bytes),
            (Activity::Compute, ended_ns - busy_ns, ended_ns, 0),
            (Activity::Send, ended_ns, now_ns, out),
        ];
        let (device, stolen) = (issued.worker.0, issued.stolen);
        self.timeline.spans.extend(spans.map(|(activity, start_ns, end_ns, bytes)| Span {
            device,
            activity,
            task,
            start_ns,
            end_ns,
            bytes,
            stolen,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{FrameId, Orders, PlanId};

    #[test]
    fn the_parts_of_a_task_add_up_to_what_passed_here() {
        let mut tracer = Tracer::new();
        tracer.name(WorkerId(1), "pi");
        let task = TaskId { frame: FrameId(7 << 32 | 2), stage: 0, tile: 3 };
        let kind = BundleKind::Scatter;
        let mut bundle = Bundle {
            kind,
            plan: PlanId(1),
            task,
            attempt: 1,
            pieces: Vec::new(),
            forms: Vec::new(),
            orders: Orders::default(),
        };
        tracer.output(&Output::SendBundle(WorkerId(1), bundle.clone()));
        // Even where a worker lies about its times.
        bundle.kind = BundleKind::Result { busy_ns: u64::MAX, waited_ns: u64::MAX };
        tracer.result(&bundle);
        let timeline = tracer.timeline();
        let [receive, compute, send] = timeline.spans.as_slice() else { panic!("{timeline:?}") };
        assert_eq!((receive.device, receive.task.unwrap().frame), (1, 2));
        assert!(receive.end_ns <= compute.start_ns && compute.end_ns == send.start_ns);
        assert_eq!(timeline.devices, ["w0", "pi"]);
        // A result that nobody was asked for leaves nothing.
        tracer.result(&bundle);
        assert_eq!(tracer.timeline().spans.len(), 3);
    }
}
