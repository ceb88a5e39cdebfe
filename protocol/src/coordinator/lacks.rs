//! What a worker lacks: weights, the memory for a task, or success.

use super::{Coordinator, Output};
use crate::ids::{TaskId, WorkerId};
use crate::{Nanos, SECOND};
use model::WeightHash;
use std::collections::BTreeMap;

/// The slowest link on which a task is not called late for want of its weights.
const WEIGHT_BYTES_PER_S_MIN: u64 = 500_000;

/// How long a worker that had no memory for a task is left alone.
const FULL_NS: Nanos = SECOND / 2;

/// So often a task is refused before its frame is given up: the two ends count memory differently,
/// and would go on for ever.
const REFUSALS_MAX: usize = 256;

/// After so many refusals of a task its frame keeps no pieces on workers any more.
const REFUSALS_KEPT: usize = 16;

impl Coordinator {
    pub(super) fn on_want(&mut self, now: Nanos, id: WorkerId, hashes: Vec<WeightHash>) {
        let plans = self.frames.values().map(|f| f.plan()).chain(self.upcoming.values());
        let models: Vec<_> = plans.map(|p| p.model.clone()).collect();
        let weights = models.iter().flat_map(|m| &m.weights);
        let sizes: BTreeMap<_, _> = weights.map(|w| (w.hash, w.bytes() as u64)).collect();
        let known = hashes.iter().filter_map(|hash| Some((*hash, *sizes.get(hash)?)));
        let sizes: Vec<(WeightHash, u64)> = known.collect();
        let bytes: u64 = sizes.iter().map(|(_, bytes)| bytes).sum();
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.report.weight_bytes += bytes;
        // What it holds cannot start before the weights are there.
        let patience = bytes.saturating_mul(SECOND) / WEIGHT_BYTES_PER_S_MIN;
        self.leases.extend(worker.load.prolong(id, patience));
        self.await_weights(now, id, &sizes);
        self.outputs.push_back(Output::SendBlobs(id, hashes));
    }

    pub(super) fn on_failed(
        &mut self,
        now: Nanos,
        id: WorkerId,
        task: TaskId,
        attempt: u32,
        reason: String,
    ) {
        self.hear_of_promise(now, id, task, attempt);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(held) = worker.release(now, task, attempt) else { return };
        let relieved = worker.relieve();
        self.touched.insert(id);
        if relieved {
            self.rescue(now);
        }
        self.take_back(now, &held);
        let attempts_max = self.config.attempts_max;
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        if frame.count_failure(task) >= attempts_max {
            let name = self.workers.get(&id).map(|w| w.report.name.clone()).unwrap_or_default();
            let reason = format!("{task} failed {attempts_max} times, last on {name}: {reason}");
            self.end_frame(task.frame);
            self.outputs.push_back(Output::FrameFailed(task.frame, reason));
        }
    }

    pub(super) fn on_refused(&mut self, now: Nanos, id: WorkerId, task: TaskId, attempt: u32) {
        self.hear_of_promise(now, id, task, attempt);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(held) = worker.release(now, task, attempt) else { return };
        worker.full_until_ns = now + FULL_NS;
        self.counters.refused += 1;
        let tile = self.frames.get_mut(&task.frame).and_then(|f| f.tile(task));
        let refusals = tile.map_or(0, |tile| {
            tile.refused.push(id);
            tile.refused.len()
        });
        self.touched.insert(id);
        self.review_in(now, FULL_NS);
        self.take_back(now, &held);
        if refusals >= REFUSALS_KEPT {
            self.fall_back(now, task.frame);
        }
        if refusals >= REFUSALS_MAX {
            let reason = format!(
                "{task} was refused {refusals} times: the workers that are left lack the memory"
            );
            self.end_frame(task.frame);
            self.outputs.push_back(Output::FrameFailed(task.frame, reason));
        }
    }
}
