//! Nothing stale or invented is accepted: only an attempt that was issued, from the worker that it
//! was issued to.

use super::Violation;
use protocol::{FrameId, TaskId, WorkerId};
use rustc_hash::FxHashMap;

/// What was issued to whom.
#[derive(Debug, Default)]
pub(crate) struct NotStale {
    issued: FxHashMap<TaskId, Vec<(u32, WorkerId)>>,
}

impl NotStale {
    /// The coordinator asked a worker for an attempt.
    pub(crate) fn issue(&mut self, worker: WorkerId, task: TaskId, attempt: u32) {
        self.issued.entry(task).or_default().push((attempt, worker));
    }

    /// Everybody who was asked for a task.
    pub(crate) fn of(&self, task: TaskId) -> &[(u32, WorkerId)] {
        self.issued.get(&task).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn gather(
        &self,
        worker: WorkerId,
        task: TaskId,
        attempt: u32,
    ) -> Result<(), Violation> {
        let asked = self.of(task).contains(&(attempt, worker));
        if asked { Ok(()) } else { Err(Violation::GatheredUnasked { task, attempt, worker }) }
    }

    /// An attempt reached a device.
    pub(crate) fn arrive(
        &self,
        worker: WorkerId,
        task: TaskId,
        attempt: u32,
    ) -> Result<(), Violation> {
        let mut others = self.of(task).iter().filter(|(a, _)| *a == attempt);
        match others.all(|&(_, asked)| asked == worker) {
            true => Ok(()),
            false => Err(Violation::Doubled { task, attempt, worker }),
        }
    }

    pub(crate) fn end(&mut self, frame: FrameId) {
        self.issued.retain(|task, _| task.frame != frame);
    }

    pub(crate) fn begin_again(&mut self) {
        self.issued.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_worker_that_was_asked_is_heard() {
        let task = TaskId { frame: FrameId(0), stage: 0, tile: 3 };
        let mut stale = NotStale::default();
        stale.issue(WorkerId(1), task, 2);
        assert!(stale.gather(WorkerId(1), task, 2).is_ok());
        assert!(stale.gather(WorkerId(1), task, 1).is_err());
        assert!(stale.gather(WorkerId(0), task, 2).is_err());
        assert!(stale.arrive(WorkerId(1), task, 2).is_ok());
        assert!(stale.arrive(WorkerId(0), task, 2).is_err(), "two have one attempt");
    }
}
