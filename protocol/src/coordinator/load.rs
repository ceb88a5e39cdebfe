//! What a worker has to do: the tasks that it holds, and those that wait in its share.

use super::state::Held;
use crate::Nanos;
use crate::ids::{FrameId, TaskId, WorkerId};
use std::cell::Cell;
use std::collections::BTreeSet;
use tiling::Work;

/// How long a load should take its worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Estimate {
    /// The task that is taken to be running, from its start.
    pub(super) first_ns: Nanos,
    /// Everything else.
    pub(super) rest_ns: Nanos,
}

#[derive(Debug, Default)]
pub(super) struct Load {
    /// In the order scattered; the first is taken to be running.
    held: Vec<Held>,
    /// Tasks of its share that no attempt is at, oldest frame first.
    own: BTreeSet<TaskId>,
    own_work: Work,
    /// Who is to give and who is to take is asked of all workers in every step, and the answer
    /// changes for few: it is kept until then.
    estimate: Cell<Option<Estimate>>,
}

impl Load {
    pub(super) fn held(&self) -> &[Held] {
        &self.held
    }

    pub(super) fn own(&self) -> &BTreeSet<TaskId> {
        &self.own
    }

    /// What it holds, and what is in its share.
    pub(super) fn into_tasks(self) -> (Vec<Held>, BTreeSet<TaskId>) {
        (self.held, self.own)
    }

    /// Looks an attempt up, to change anything of it but its work.
    pub(super) fn find(&mut self, task: TaskId, attempt: u32) -> Option<&mut Held> {
        self.held.iter_mut().find(|h| h.task == task && h.attempt == attempt)
    }

    /// The worker has an attempt, or will.
    pub(super) fn hold(&mut self, held: Held) {
        self.changed();
        self.held.push(held);
    }

    /// An attempt is over; whether it was the running one.
    pub(super) fn release(&mut self, task: TaskId, attempt: u32) -> Option<(Held, bool)> {
        let position = self.held.iter().position(|h| h.task == task && h.attempt == attempt)?;
        self.changed();
        Some((self.held.remove(position), position == 0))
    }

    /// Puts a task into the share.
    pub(super) fn add(&mut self, task: TaskId, work: Work) {
        if self.own.insert(task) {
            self.changed();
            self.own_work += work;
        }
    }

    /// Takes a task out of the share.
    pub(super) fn remove(&mut self, task: TaskId, work: Work) {
        if self.own.remove(&task) {
            self.changed();
            self.own_work -= work;
        }
    }

    /// Empties the share.
    pub(super) fn take_own(&mut self) -> BTreeSet<TaskId> {
        self.changed();
        self.own_work = Work::default();
        std::mem::take(&mut self.own)
    }

    /// Forgets what belongs to a frame.
    pub(super) fn forget(&mut self, frame: FrameId, work: impl Fn(TaskId) -> Work) {
        self.changed();
        self.held.retain(|h| h.task.frame != frame);
        let end = TaskId { frame, stage: u32::MAX, tile: u32::MAX };
        let start = TaskId { frame, stage: 0, tile: 0 };
        let over: Vec<TaskId> = self.own.range(start..=end).copied().collect();
        for task in over {
            self.remove(task, work(task));
        }
    }

    /// How long all of it should take, where `takes` says how long some work does.
    pub(super) fn estimate(&self, takes: impl Fn(&Work) -> Nanos) -> Estimate {
        let fresh = || {
            let first_ns = self.held.first().map_or(0, |held| takes(&held.work));
            let queued: Work = self.held.iter().skip(1).map(|h| h.work).sum();
            Estimate { first_ns, rest_ns: takes(&(queued + self.own_work)) }
        };
        let known = self.estimate.get();
        debug_assert!(
            known.is_none_or(|known| known == fresh()),
            "an estimate that is out of date"
        );
        let estimate = known.unwrap_or_else(fresh);
        self.estimate.set(Some(estimate));
        estimate
    }

    /// The tasks or the speed of the worker are others than before.
    pub(super) fn changed(&self) {
        self.estimate.set(None);
    }

    /// Bytes of the inputs of what it holds.
    pub(super) fn input_bytes(&self) -> u64 {
        self.held.iter().map(|h| h.bytes).sum()
    }

    /// Puts off the leases of everything held, and names the new ones.
    pub(super) fn prolong(
        &mut self,
        id: WorkerId,
        by_ns: Nanos,
    ) -> Vec<(Nanos, WorkerId, TaskId, u32)> {
        let prolonged = self.held.iter_mut().map(|held| {
            held.lease_ns = held.lease_ns.saturating_add(by_ns);
            (held.lease_ns, id, held.task, held.attempt)
        });
        prolonged.collect()
    }
}
