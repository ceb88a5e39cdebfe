//! Bytes of pieces that workers send each other, past the coordinator.

use super::{Coordinator, Counters};
use crate::ids::{TaskId, WorkerId};
use crate::message::Carried;

/// One word tells of no more than that: it comes over the wire.
const TOLD_MAX: u64 = 1 << 40;

/// What a worker sent to others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Passed {
    /// As it lies in memory: of this the coordinator knows how much it is.
    raw_bytes: u64,
    /// Encoded, to what the plans expected.
    expected_bytes: u64,
    /// Encoded, to what the worker says that it came to. A simulated one says nothing.
    told_bytes: u64,
}

impl Passed {
    pub(super) fn bytes(&self) -> u64 {
        let encoded = if self.told_bytes > 0 { self.told_bytes } else { self.expected_bytes };
        self.raw_bytes.saturating_add(encoded)
    }
}

impl Coordinator {
    /// A worker is to send another one so many bytes, encoded or as they are.
    pub(super) fn note_passed(
        &mut self,
        (from, to): (WorkerId, WorkerId),
        bytes: u64,
        is_encoded: bool,
    ) {
        if let Some(worker) = self.workers.get_mut(&from) {
            let passed = &mut worker.passed;
            *if is_encoded { &mut passed.expected_bytes } else { &mut passed.raw_bytes } += bytes;
        }
        if let Some(worker) = self.workers.get_mut(&to) {
            worker.report.bytes_in += bytes;
        }
    }

    /// A victim handed a task over, with all that it reads.
    pub(super) fn note_handed_over(&mut self, way: (WorkerId, WorkerId), task: TaskId) {
        let Some(frame) = self.frames.get(&task.frame) else { return };
        let plan = frame.plan().clone();
        let inputs = &plan.geometry()[task.stage as usize].tiles[task.tile as usize].inputs;
        let pieces = inputs.iter().map(|&(map, region)| plan.header(map, region));
        let bytes = pieces.map(|piece| plan.wire_bytes(way.0, &piece)).sum();
        self.counters.stolen_bytes += bytes;
        self.note_passed(way, bytes, plan.encodes(way.0));
    }

    /// A worker says what pieces took that it encoded and sent to others.
    pub(super) fn on_carried(&mut self, id: WorkerId, maps: &[Carried]) {
        let bytes = maps.iter().fold(0, |sum: u64, map| sum.saturating_add(map.wire_bytes));
        if let Some(worker) = self.workers.get_mut(&id) {
            let told_bytes = &mut worker.passed.told_bytes;
            *told_bytes = told_bytes.saturating_add(bytes.min(TOLD_MAX));
        }
    }

    /// What the scheduler did so far.
    pub fn counters(&self) -> Counters {
        let passed = self.workers.values().map(|worker| worker.passed.bytes());
        let passed = passed.fold(0, u64::saturating_add);
        let exchanged_bytes = passed.saturating_sub(self.counters.stolen_bytes);
        Counters { exchanged_bytes, ..self.counters }
    }
}
