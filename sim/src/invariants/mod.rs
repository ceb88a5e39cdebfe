//! What must hold after every step, and how it is said when it does not.
//!
//! | file | what must hold |
//! |---|---|
//! | `gathered_once.rs` | each task is gathered once |
//! | `not_stale.rs` | only an issued attempt, by its own worker, is gathered |
//! | `accounted.rs` | what the coordinator takes a worker to hold is somewhere: no steal loses or doubles a task |
//! | `kept.rs` | what the coordinator takes a worker to keep for later stages, it keeps |
//! | `bounded.rs` | queues are bounded |
//! | `memory.rs` | no worker is above its memory |
//! | `beats_bound.rs` | simulated time never beats the lower bound |
//! | `ends.rs` | after the faults end every frame ends, and then nobody holds anything |
//!
//! They keep a record of their own, so that the machines are not asked about themselves. After each
//! step the tasks that it touched are looked at; now and then all are, which finds out a step that
//! touches more than it says.

mod accounted;
mod beats_bound;
mod bounded;
mod ends;
mod gathered_once;
mod kept;
mod memory;
mod not_stale;

use crate::cluster::Cluster;
use crate::head::Arrived;
use accounted::Accounted;
use gathered_once::GatheredOnce;
use not_stale::NotStale;
use protocol::{Bundle, BundleKind, FrameId, Message, Nanos, TaskId, WorkerId};

/// Steps between two looks at everything.
const LOOK_AT_ALL: u64 = 4096;

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
    /// An attempt came to a worker that was not to make it.
    #[error("{task}: attempt {attempt} reached {worker}, and another was to make it")]
    Doubled {
        /// Which task.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
        /// Where it went.
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
    /// The coordinator would send others for pieces that a worker does not have.
    #[error("{worker} does not keep pieces of frame {} that it should", frame.number())]
    NotKept {
        /// Who should.
        worker: WorkerId,
        /// The frame.
        frame: FrameId,
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
    /// A worker holds more than it may.
    #[error("{worker} holds {used} bytes, its budget is {budget}")]
    Memory {
        /// Who.
        worker: WorkerId,
        /// Bytes that it holds.
        used: u64,
        /// Bytes that it may hold.
        budget: u64,
    },
    /// A frame ended sooner than it can.
    #[error("frame {} took {took_ns} ns, and no schedule takes less than {bound_ns} ns", frame.number())]
    BeatsBound {
        /// Which frame.
        frame: FrameId,
        /// Its time.
        took_ns: Nanos,
        /// The least possible.
        bound_ns: Nanos,
    },
    /// A frame ended in an error.
    #[error("frame {} failed: {reason}", frame.number())]
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

/// What the invariants remember.
#[derive(Debug, Default)]
pub(crate) struct Invariants {
    once: GatheredOnce,
    stale: NotStale,
    pub(crate) accounted: Accounted,
}

impl Invariants {
    /// The coordinator asked a worker for an attempt.
    pub(crate) fn issue(&mut self, worker: WorkerId, task: TaskId, attempt: u32) {
        self.stale.issue(worker, task, attempt);
    }

    /// The coordinator's driver stitches a result in.
    pub(crate) fn gather(&mut self, arrived: &Arrived) -> Result<(), Violation> {
        let &Arrived { worker, kind, task, attempt, .. } = arrived;
        if !matches!(kind, BundleKind::Result { .. }) {
            return Err(Violation::GatheredUnasked { task, attempt, worker });
        }
        self.stale.gather(worker, task, attempt)?;
        self.once.gather(task)
    }

    /// A task reached a device.
    pub(crate) fn arrive(&mut self, worker: WorkerId, bundle: &Bundle) -> Result<(), Violation> {
        self.stale.arrive(worker, bundle.task, bundle.attempt)
    }

    /// The coordinator heard something of a task.
    pub(crate) fn heard(&mut self, message: &Message) {
        if let Message::Yielded { task, .. } | Message::Kept { task, .. } = message {
            self.accounted.suspect(*task);
        }
    }

    /// A frame ended, after so much time.
    pub(crate) fn end_frame(
        &mut self,
        frame: FrameId,
        took_ns: Nanos,
        bound_ns: Nanos,
    ) -> Result<(), Violation> {
        self.once.end(frame);
        self.stale.end(frame);
        self.accounted.end(frame);
        beats_bound::check(frame, took_ns, bound_ns)
    }

    /// The coordinator starts anew.
    pub(crate) fn begin_again(&mut self) {
        self.once.begin_again();
        self.stale.begin_again();
        self.accounted.begin_again();
    }
}

impl Cluster {
    /// Looks at what the last step touched.
    pub(crate) fn check(&mut self, steps: u64) -> Result<(), Violation> {
        let mut workers = std::mem::take(&mut self.touched);
        for &task in self.invariants.accounted.suspects() {
            for &(attempt, worker) in self.invariants.stale.of(task) {
                self.check_attempt(worker, task, attempt)?;
            }
        }
        self.invariants.accounted.clear_suspects();
        if steps.is_multiple_of(LOOK_AT_ALL) {
            for (worker, task, attempt) in self.head.machine.held() {
                self.check_attempt(worker, task, attempt)?;
            }
            workers.extend(0..self.devices.len());
        }
        let config = &self.scenario.machine;
        for i in workers.drain(..) {
            let device = &self.devices[i];
            bounded::window(&self.head.machine, config, device.id())?;
            memory::within(device.id(), device.held_bytes(), device.spec.device.memory_bytes)?;
            self.check_kept(i)?;
        }
        self.touched = workers;
        bounded::frames(&self.head.machine, config)
    }

    fn check_attempt(&self, worker: WorkerId, task: TaskId, attempt: u32) -> Result<(), Violation> {
        if !self.head.machine.holds(worker, task, attempt) {
            return Ok(());
        }
        let i = worker.0 as usize;
        let (device, head) = (&self.devices[i], &self.head);
        let in_touch =
            device.up && device.session == head.sessions[i] && device.session == head.joined[i];
        let there = !in_touch || device.inputs.contains_key(&(task, attempt));
        self.invariants.accounted.check(worker, task, attempt, there)
    }
}
