//! How a coordinator is set, what happens to it, what it wants done, and what it counts.

use super::ActivePlan;
use crate::ids::{FrameId, TaskId, WorkerId};
use crate::message::{Bundle, Health, Hello, Message, Power};
use crate::{Nanos, SECOND};
use model::{MapId, WeightHash};
use serde::Serialize;
use std::sync::Arc;
use tiling::Rates;

/// What a person may set.
#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorConfig {
    /// Tasks scattered to one worker and not gathered yet, at most. Two keep a worker busy while
    /// the next inputs travel; more leave more to steal.
    pub window_tasks_max: usize,
    /// Input bytes scattered to one worker and not gathered yet, at most, beyond a first task.
    pub window_bytes_max: u64,
    /// Frames in flight at once; further ones wait in order.
    pub frames_in_flight_max: usize,
    /// Frames that may wait; one more is refused.
    pub frames_waiting_max: usize,
    /// Input bytes of frames that may wait.
    pub frames_waiting_bytes_max: u64,
    /// Whether idle workers steal.
    pub stealing: bool,
    /// Second copies of the likeliest last tasks, in thousandths of all tasks, at most.
    pub backups_per_mille_max: u64,
    /// Attempts of one task that may end in an error before its frame fails. Steals and lost
    /// workers do not count: they say nothing against the task.
    pub attempts_max: u32,
    /// Workers that may be lost while they run one task before its frame fails: a task that kills
    /// whoever computes it must not be issued for ever.
    pub deaths_max: u32,
    /// A task is tried elsewhere, too, when it takes this many times its expected duration...
    pub lease_factor: u64,
    /// ...and at least this long.
    pub lease_min_ns: Nanos,
    /// Tasks, in thousandths, that two workers compute; one that disagrees with two is expelled.
    pub spot_checks_per_mille: u64,
    /// Where the choice of tasks to check comes from.
    pub seed: u64,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            window_tasks_max: 3,
            window_bytes_max: 256 << 20,
            frames_in_flight_max: 4,
            frames_waiting_max: 256,
            frames_waiting_bytes_max: 1 << 30,
            stealing: true,
            backups_per_mille_max: 50,
            attempts_max: 5,
            deaths_max: 4,
            lease_factor: 8,
            lease_min_ns: 10 * SECOND,
            spot_checks_per_mille: 0,
            seed: 0,
        }
    }
}

/// What happens to a coordinator.
#[derive(Clone, Debug)]
pub enum Input {
    /// An admitted worker, which speaks this version of the protocol, said hello. A known id is a
    /// restart: what it held is gone.
    Joined(WorkerId, u32, Hello),
    /// A worker's connection is down.
    Left(WorkerId, String),
    /// A control message.
    Message(WorkerId, Message),
    /// A bundle with all its values, which the driver holds until the outputs of this call are
    /// drained: `Gather` keeps it, otherwise it is let go. The number is a checksum of the values
    /// where [`super::Coordinator::checks`] asks for one, and anything elsewhere.
    Bundle(WorkerId, Bundle, u64),
    /// Of the inputs that were sent with an attempt, so many bytes really travel: they were encoded.
    Packed {
        /// To whom.
        worker: WorkerId,
        /// The task.
        task: TaskId,
        /// The attempt.
        attempt: u32,
        /// Bytes of its pieces on the wire.
        bytes: u64,
    },
    /// A plan will follow another one: those who have a part in it prepare its weights, as far as there
    /// is memory for them beside the tasks of the other.
    Prepare {
        /// The plan that will come.
        next: Arc<ActivePlan>,
        /// The plan that is in use until then.
        known: Arc<ActivePlan>,
    },
    /// Compute one input, which the driver holds.
    Submit(FrameId, Arc<ActivePlan>),
    /// Time passed.
    Tick,
}

/// What a coordinator wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a control message.
    Send(WorkerId, Message),
    /// Cut these pieces out of the frame's maps and send them.
    SendBundle(WorkerId, Bundle),
    /// Send blobs.
    SendBlobs(WorkerId, Vec<WeightHash>),
    /// Stitch the pieces of the bundle just given into the frame's maps.
    Gather(TaskId),
    /// The same, over an answer that turned out to be wrong.
    Regather(TaskId),
    /// No later task of the frame reads this map.
    Release(FrameId, MapId),
    /// The frame's output maps are complete.
    Finished(FrameId),
    /// The frame ended in an error.
    FrameFailed(FrameId, String),
    /// End a worker's connection.
    Disconnect(WorkerId, String),
    /// The set of live workers changed: the next frames deserve a new plan.
    MembershipChanged,
    /// Whether all live workers can send pieces to each other changed: so do the plans that they
    /// could carry out.
    ReachChanged,
}

/// What one worker did, for the table at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// Its name.
    pub name: String,
    /// Compute threads.
    pub threads: u32,
    /// Tasks gathered from it.
    pub tasks: u64,
    /// Of those, taken over from another worker's share.
    pub stolen: u64,
    /// Multiply-adds of its gathered tasks.
    pub multiply_adds: u64,
    /// Tensor bytes that it received, as they travelled: from the coordinator, and what is expected of
    /// those that other workers sent it.
    pub bytes_in: u64,
    /// Tensor bytes that it sent, as they travelled: to the coordinator and to other workers.
    pub bytes_out: u64,
    /// Weight bytes sent to it.
    pub weight_bytes: u64,
    /// Time it computed.
    pub busy_ns: u64,
    /// Whether it is connected.
    pub alive: bool,
}

/// What is known of a live worker: what the next plan is made for.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerProfile {
    /// Its rates as its tasks have corrected them; zeros where nothing is known.
    pub rates: Rates,
    /// Its rates as it measured them.
    pub measured: Rates,
    /// How many times as fast as measured its tasks say it is.
    pub speed: f64,
    /// What its link carries, where that was measured.
    pub link_bytes_per_s: Option<u64>,
    /// Time of a word there and back, where that was measured.
    pub round_trip_ns: Option<Nanos>,
    /// The time that one in ten words exceeds.
    pub late_round_trip_ns: Option<Nanos>,
    /// Its budget; zero for no limit.
    pub memory_bytes: u64,
    /// How many times as fast as one thread each number of threads is, in thousandths.
    pub speedups_per_mille: Vec<u32>,
    /// How it was when it last said so.
    pub health: Health,
    /// What its system says that it is.
    pub board: Option<String>,
    /// What it draws, where somebody told it.
    pub power: Option<Power>,
    /// The ways to other live workers, as far as they are measured, by the others' ids.
    pub pairs: Vec<PairLink>,
}

/// What is known of the way between two workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairLink {
    /// The other worker.
    pub peer: WorkerId,
    /// What the way carries.
    pub bytes_per_s: u64,
    /// Time of a word there and back.
    pub round_trip_ns: Nanos,
}

/// What the scheduler did, all told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Tasks of all stages that were begun.
    pub tasks: u64,
    /// Times that a worker with nothing left looked for work in another's share.
    pub steals_asked: u64,
    /// Of those, times that it was worth the move.
    pub steals_granted: u64,
    /// Of those, times that it was not.
    pub steals_refused: u64,
    /// Tasks that a victim was asked for and kept.
    pub steals_kept: u64,
    /// Tasks that changed their share.
    pub stolen_tasks: u64,
    /// Bytes that are expected to have moved from victim to thief for that.
    pub stolen_bytes: u64,
    /// Second copies of likely last tasks.
    pub backups: u64,
    /// Tasks that were computed twice to compare.
    pub spot_checks: u64,
    /// Attempts that a worker had no memory for.
    pub refused: u64,
    /// Bytes of pieces that the coordinator sent with tasks, as they travelled.
    pub scattered_bytes: u64,
    /// Bytes of pieces that came with results, as they travelled.
    pub gathered_bytes: u64,
    /// Bytes of pieces that travelled from worker to worker between stages.
    pub exchanged_bytes: u64,
    /// Tiles that were computed again because the worker that kept them was lost.
    pub recomputed: u64,
    /// Frames that gave up exchanging pieces between workers.
    pub fallbacks: u64,
}

impl Counters {
    /// Bytes of pieces that went anywhere, each way between two devices counted once.
    pub fn moved_bytes(&self) -> u64 {
        self.scattered_bytes + self.gathered_bytes + self.exchanged_bytes + self.stolen_bytes
    }
}
