//! What must hold after every step, and how it is said when it does not.
//!
//! | invariant | defends against |
//! |---|---|
//! | a task is gathered once | a double gather would hide a lost tile behind an equal count |
//! | only an issued attempt, by its own worker, is gathered | stale and invented results |
//! | what the coordinator takes a worker to hold, it has, or it is on its way, or the world lost it | a task that everybody thinks somebody else has |
//! | first attempts on a worker are within its window, or one it runs and one it stole | queues without a bound |
//! | frames in flight are within their bound | memory without a bound |
//! | every frame ends, and then nobody holds anything | a hang; a leak |

use protocol::{Bundle, CoordinatorConfig};
use protocol::{BundleKind, FrameId, Message, Nanos, TaskId, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// How a run broke a promise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// There is no plan for the workers that are there.
    #[error("no plan: {0}")]
    Plan(String),
    /// One result was stitched in a second time.
    #[error("{task} was gathered twice")]
    GatheredTwice {
        /// Which task.
        task: TaskId,
    },
    /// A result was taken that nobody was asked for.
    #[error("{task}: attempt {attempt} of {worker} was gathered, but never issued to it")]
    GatheredUnasked {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
        /// Whose.
        worker: WorkerId,
    },
    /// The coordinator waits for a worker that has nothing to do.
    #[error("{worker} does not have {task} attempt {attempt}, and nothing lost it")]
    Phantom {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
        /// Who should have it.
        worker: WorkerId,
    },
    /// Too much was sent ahead to one worker.
    #[error("{worker} was sent {tasks} tasks ahead, the window is {window}")]
    Window {
        /// Who.
        worker: WorkerId,
        /// First attempts that it holds.
        tasks: usize,
        /// How many it may.
        window: usize,
    },
    /// Too many frames at once.
    #[error("{frames} frames are in flight, {bound} may be")]
    FramesInFlight {
        /// How many.
        frames: usize,
        /// How many may be.
        bound: usize,
    },
    /// A frame ended in an error.
    #[error("frame {} failed: {reason}", frame.0)]
    FrameFailed {
        /// Which frame.
        frame: FrameId,
        /// What the coordinator says.
        reason: String,
    },
    /// Not all frames ended in time.
    #[error("{missing} frames have not ended after {now_ns} ns")]
    NeverEnded {
        /// How many.
        missing: usize,
        /// Virtual time.
        now_ns: Nanos,
    },
    /// All frames ended, but somebody still holds tensors of theirs.
    #[error("after the last frame {holder} still holds {tasks} tasks or frames")]
    Leak {
        /// Who.
        holder: String,
        /// How many.
        tasks: usize,
    },
    /// Something happens for ever without time passing.
    #[error("{steps} steps, and it is only {now_ns} ns")]
    Livelock {
        /// Steps so far.
        steps: u64,
        /// Virtual time.
        now_ns: Nanos,
    },
}

/// What the invariants remember: a record of their own, so that the machines are not asked about
/// themselves.
#[derive(Debug, Default)]
pub(crate) struct Invariants {
    issued: BTreeSet<(WorkerId, TaskId, u32)>,
    gathered: BTreeSet<TaskId>,
    in_flight: BTreeMap<(TaskId, u32), usize>,
    lost: BTreeSet<(TaskId, u32)>,
}

/// What a control message says of an attempt, where the coordinator waits for that word.
fn attempt_of(message: &Message) -> Option<(TaskId, u32)> {
    match message {
        Message::Yielded { task, attempt } | Message::Failed { task, attempt, .. } => {
            Some((*task, *attempt))
        }
        _ => None,
    }
}

impl Invariants {
    /// The coordinator asked a worker for an attempt.
    pub(crate) fn issue(&mut self, worker: WorkerId, task: TaskId, attempt: u32) {
        self.issued.insert((worker, task, attempt));
    }

    pub(crate) fn sent_message(&mut self, message: &Message) {
        if let Some(key) = attempt_of(message) {
            *self.in_flight.entry(key).or_default() += 1;
        }
    }

    pub(crate) fn sent_bundle(&mut self, bundle: &Bundle) {
        *self.in_flight.entry((bundle.task, bundle.attempt)).or_default() += 1;
    }

    pub(crate) fn message_left_the_wire(&mut self, message: &Message) {
        if let Some(key) = attempt_of(message) {
            self.landed(key);
        }
    }

    pub(crate) fn bundle_left_the_wire(&mut self, bundle: &Bundle) {
        self.landed((bundle.task, bundle.attempt));
    }

    fn landed(&mut self, key: (TaskId, u32)) {
        if let Some(count) = self.in_flight.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.in_flight.remove(&key);
            }
        }
    }

    /// The world (a crash, a cut link) lost a bundle, and nobody can know.
    pub(crate) fn lost(&mut self, bundle: &Bundle) {
        self.lost.insert((bundle.task, bundle.attempt));
    }

    /// The coordinator's driver stitches a result in.
    pub(crate) fn gather(&mut self, worker: WorkerId, bundle: &Bundle) -> Result<(), Violation> {
        let (task, attempt) = (bundle.task, bundle.attempt);
        let is_result = matches!(bundle.kind, BundleKind::Result { .. });
        if !is_result || !self.issued.contains(&(worker, task, attempt)) {
            return Err(Violation::GatheredUnasked { task, attempt, worker });
        }
        if !self.gathered.insert(task) {
            return Err(Violation::GatheredTwice { task });
        }
        Ok(())
    }

    /// Compares what the coordinator believes with what is. `has` says whether a worker has an
    /// attempt, or is not in a state to have any.
    pub(crate) fn check(
        &self,
        held: impl Iterator<Item = (WorkerId, TaskId, u32)>,
        config: &CoordinatorConfig,
        has: impl Fn(WorkerId, TaskId, u32) -> bool,
    ) -> Result<(), Violation> {
        let mut ahead: BTreeMap<WorkerId, usize> = BTreeMap::new();
        let mut frames: BTreeSet<FrameId> = BTreeSet::new();
        for (worker, task, attempt) in held {
            frames.insert(task.frame);
            *ahead.entry(worker).or_default() += usize::from(attempt == 1);
            let key = (task, attempt);
            let somewhere = self.in_flight.contains_key(&key) || self.lost.contains(&key);
            if !somewhere && !has(worker, task, attempt) {
                return Err(Violation::Phantom { task, attempt, worker });
            }
        }
        // A worker that asks early steals its second task while the first runs.
        let stolen = if config.stealing { 2 } else { 0 };
        let window = config.window_tasks_max.max(stolen);
        if let Some((worker, tasks)) = ahead.into_iter().find(|(_, tasks)| *tasks > window) {
            return Err(Violation::Window { worker, tasks, window });
        }
        let (frames, bound) = (frames.len(), config.frames_in_flight_max);
        if frames > bound {
            return Err(Violation::FramesInFlight { frames, bound });
        }
        Ok(())
    }
}
