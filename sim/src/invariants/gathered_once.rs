//! Each task is gathered once: a double gather would hide a lost tile behind an equal count.

use super::Violation;
use protocol::{FrameId, TaskId};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeSet;

/// What was gathered.
#[derive(Debug, Default)]
pub(crate) struct GatheredOnce {
    tasks: FxHashMap<FrameId, FxHashSet<TaskId>>,
    ended: BTreeSet<FrameId>,
}

impl GatheredOnce {
    pub(crate) fn gather(&mut self, task: TaskId) -> Result<(), Violation> {
        let fresh = !self.ended.contains(&task.frame)
            && self.tasks.entry(task.frame).or_default().insert(task);
        if fresh { Ok(()) } else { Err(Violation::GatheredTwice { task }) }
    }

    /// A frame ended: nothing of it may be gathered any more.
    pub(crate) fn end(&mut self, frame: FrameId) {
        self.tasks.remove(&frame);
        self.ended.insert(frame);
    }

    /// A new coordinator begins the frames that had not ended anew.
    pub(crate) fn begin_again(&mut self) {
        self.tasks.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_gather_is_seen_before_and_after_the_end() {
        let task = |tile| TaskId { frame: FrameId(1), stage: 0, tile };
        let mut once = GatheredOnce::default();
        assert!(once.gather(task(0)).is_ok() && once.gather(task(1)).is_ok());
        assert_eq!(once.gather(task(1)), Err(Violation::GatheredTwice { task: task(1) }));
        once.end(FrameId(1));
        assert!(once.gather(task(2)).is_err());
    }
}
