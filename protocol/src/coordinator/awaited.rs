//! Weights that are on their way to a worker.
//!
//! A task that reads them begins when they are there, however fast its worker is: after seconds, where
//! megabytes cross a slow link. So they count as time that is left to the worker, and whoever is idle and
//! has these weights takes what waits or makes a copy, as from any worker that is late.

use super::Coordinator;
use crate::Nanos;
use crate::ids::{TaskId, WorkerId};
use model::WeightHash;
use std::collections::BTreeMap;

/// When each blob that a worker asked for should be there.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    blobs: BTreeMap<WeightHash, Nanos>,
    /// The last of these times: mostly nothing is awaited, and that is seen at once.
    until_ns: Nanos,
}

impl Coordinator {
    /// A worker is sent blobs of these sizes, in this order. Whoever else is sent some shares the way out.
    pub(super) fn await_weights(&mut self, now: Nanos, id: WorkerId, sizes: &[(WeightHash, u64)]) {
        let others = self.workers.iter().filter(|&(&other, w)| other != id && w.alive);
        let sharers = 1 + others.filter(|(_, w)| w.awaited.until_ns > now).count() as u64;
        let takes = |&(_, bytes): &(_, u64)| self.transfer(id, bytes).saturating_mul(sharers);
        let takes: Vec<Nanos> = sizes.iter().map(takes).collect();
        let Some(Awaited { blobs, until_ns }) = self.workers.get_mut(&id).map(|w| &mut w.awaited)
        else {
            return;
        };
        blobs.retain(|_, at| *at > now);
        *until_ns = (*until_ns).max(now);
        for (&(hash, _), takes) in sizes.iter().zip(takes) {
            *until_ns = until_ns.saturating_add(takes);
            blobs.insert(hash, *until_ns);
        }
        self.look_at_awaited(now, id);
    }

    /// A task ended that waited for weights: these are there.
    pub(super) fn weights_came(&mut self, now: Nanos, id: WorkerId, task: TaskId) {
        let hashes = self.hashes_of(task);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.awaited.blobs.retain(|hash, _| !hashes.contains(hash));
        self.look_at_awaited(now, id);
    }

    /// Works out again what the tasks of a worker wait for.
    fn look_at_awaited(&mut self, now: Nanos, id: WorkerId) {
        let held = self.workers.get(&id).map_or(&[][..], |w| w.load.held());
        let held: Vec<(TaskId, u32)> = held.iter().map(|h| (h.task, h.attempt)).collect();
        for (task, attempt) in held {
            let weights_ns = self.weights_ns(now, id, task);
            let worker = self.workers.get_mut(&id);
            if let Some(held) = worker.and_then(|w| w.load.find(task, attempt)) {
                held.weights_ns = weights_ns;
            }
        }
    }

    /// The weights that a task reads.
    fn hashes_of(&self, task: TaskId) -> Vec<WeightHash> {
        let Some(plan) = self.frames.get(&task.frame).map(|f| f.plan()) else { return Vec::new() };
        let weights = plan.weights(plan.weight_set(task.stage, task.tile));
        weights.map(|((.., weight), _)| plan.model.weight(weight).hash).collect()
    }

    /// When the weights of a task should be on a worker, if they are on their way; zero where not.
    pub(super) fn weights_ns(&self, now: Nanos, id: WorkerId, task: TaskId) -> Nanos {
        let awaited = self.workers.get(&id).map(|w| &w.awaited);
        let Some(awaited) = awaited.filter(|a| a.until_ns > now) else { return 0 };
        let times = self.hashes_of(task).into_iter();
        times.filter_map(|hash| awaited.blobs.get(&hash).copied()).max().unwrap_or(0)
    }

    /// How long a worker still waits for the weights of a task.
    pub(super) fn waits_ns(&self, now: Nanos, id: WorkerId, task: TaskId) -> Nanos {
        self.weights_ns(now, id, task).saturating_sub(now)
    }
}
