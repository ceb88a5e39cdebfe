//! What the coordinator takes a worker to hold, it has, or it is on its way, or the world lost it.
//! So a steal neither loses a task that everybody thinks somebody else has, nor doubles one.

use super::Violation;
use protocol::{Bundle, FrameId, Message, TaskId, WorkerId};
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;

/// What is on its way, what was lost, and which tasks to look at after this step.
#[derive(Debug, Default)]
pub(crate) struct Accounted {
    in_flight: FxHashMap<(TaskId, u32), usize>,
    lost: BTreeSet<(TaskId, u32)>,
    suspects: Vec<TaskId>,
}

/// What a control message says of an attempt, where the coordinator waits for that word.
fn attempt_of(message: &Message) -> Option<(TaskId, u32)> {
    match message {
        Message::Yielded { task, attempt }
        | Message::Failed { task, attempt, .. }
        | Message::Lacking { task, attempt, .. }
        | Message::Refused { task, attempt } => Some((*task, *attempt)),
        _ => None,
    }
}

impl Accounted {
    /// Something changed about a task.
    pub(crate) fn suspect(&mut self, task: TaskId) {
        self.suspects.push(task);
    }

    pub(crate) fn message_sent(&mut self, message: &Message) {
        if let Some(key) = attempt_of(message) {
            *self.in_flight.entry(key).or_default() += 1;
        }
    }

    pub(crate) fn bundle_sent(&mut self, bundle: &Bundle) {
        *self.in_flight.entry((bundle.task, bundle.attempt)).or_default() += 1;
    }

    pub(crate) fn message_landed(&mut self, message: &Message) {
        if let Some(key) = attempt_of(message) {
            self.landed(key);
        }
    }

    pub(crate) fn bundle_landed(&mut self, bundle: &Bundle) {
        self.landed((bundle.task, bundle.attempt));
    }

    fn landed(&mut self, key: (TaskId, u32)) {
        self.suspect(key.0);
        if let Some(count) = self.in_flight.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.in_flight.remove(&key);
            }
        }
    }

    /// The world (a crash, a cut link) lost a bundle, and nobody can know.
    pub(crate) fn lose(&mut self, bundle: &Bundle) {
        self.lost.insert((bundle.task, bundle.attempt));
    }

    /// The tasks about which something changed in the last step.
    pub(crate) fn suspects(&self) -> &[TaskId] {
        &self.suspects
    }

    /// They were looked at.
    pub(crate) fn clear_suspects(&mut self) {
        self.suspects.clear();
    }

    /// Whether an attempt that the coordinator takes a worker to hold is somewhere.
    pub(crate) fn check(
        &self,
        worker: WorkerId,
        task: TaskId,
        attempt: u32,
        there: bool,
    ) -> Result<(), Violation> {
        let key = (task, attempt);
        if there || self.in_flight.contains_key(&key) || self.lost.contains(&key) {
            return Ok(());
        }
        Err(Violation::Phantom { task, attempt, worker })
    }

    pub(crate) fn end(&mut self, frame: FrameId) {
        self.lost.retain(|(task, _)| task.frame != frame);
    }

    pub(crate) fn begin_again(&mut self) {
        self.lost.clear();
        self.suspects.clear();
    }
}
