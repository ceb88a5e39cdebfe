//! What the coordinator knows of one worker, and how long it thinks that things take.

use super::awaited::Awaited;
use super::learn::Learned;
use super::load::Load;
use super::packed::PackedBook;
use super::passed::Passed;
use super::{Coordinator, PairLink, WorkerReport};
use crate::ids::{FrameId, PlanId, TaskId, WorkerId};
use crate::link::Link;
use crate::message::{Health, Power};
use crate::{LAST_VERSION, Nanos, SECOND};
use model::MapId;
use std::collections::{BTreeMap, BTreeSet};
use tiling::Work;

/// No task is taken to last longer: speeds come over the wire, and sums of times must not overflow.
pub(super) const EXPECTED_NS_MAX: Nanos = 24 * 3600 * SECOND;

/// By so much a task may be late before its worker is taken to be slow: words are on their way, and a short
/// task says little. What others send it may wait in their queues.
pub(super) const SLACK_NS: Nanos = SECOND / 200;
pub(super) const SLACK_OF_PIECES_NS: Nanos = SECOND / 20;

/// One task that a worker holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) task: TaskId,
    pub(super) attempt: u32,
    pub(super) stolen: bool,
    pub(super) issued_ns: Nanos,
    /// By how much it may be late before anything is made of that.
    pub(super) slack_ns: Nanos,
    pub(super) lease_ns: Nanos,
    pub(super) bytes: u64,
    /// What of them the coordinator sent.
    pub(super) scattered_bytes: u64,
    pub(super) multiply_adds: u64,
    pub(super) work: Work,
    /// When the weights that it reads should be there, where these were on their way; else zero.
    pub(super) weights_ns: Nanos,
    pub(super) yielding_to: Option<WorkerId>,
    /// How often its worker was asked to hand it over and kept it: it ran, or had not arrived, or the
    /// thief is out of reach.
    pub(super) kept: u32,
    /// When it may be asked for again.
    pub(super) ask_ns: Nanos,
}

#[derive(Debug)]
pub(super) struct WorkerState {
    pub(super) alive: bool,
    /// Of the protocol, as its session speaks it.
    pub(super) version: u32,
    pub(super) heard_ns: Nanos,
    pub(super) hungry: bool,
    pub(super) load: Load,
    /// When the first of them is taken to have begun.
    pub(super) running_since_ns: Nanos,
    /// How fast it is: its own measurement, and what its tasks tell.
    pub(super) learned: Learned,
    pub(super) link: Link,
    pub(super) health: Health,
    pub(super) board: Option<String>,
    pub(super) power: Option<Power>,
    /// The ways to others that it measured.
    pub(super) pairs: BTreeMap<WorkerId, PairLink>,
    pub(super) speedups_per_mille: Vec<u32>,
    /// A task of its is late, and no result came since: it gets nothing more while others can.
    pub(super) stuck: bool,
    /// Leases that ran out since its last result.
    pub(super) strikes: u32,
    /// It was expelled for computing nothing: one task at a time, until it delivers.
    pub(super) probation: bool,
    /// It had no memory for a task: it gets none until this time, or until one of its tasks ends.
    pub(super) full_until_ns: Nanos,
    /// Budget for inputs, the running tile and packed weights; zero for no limit.
    pub(super) memory_bytes: u64,
    /// Weights that it was made to prepare.
    pub(super) packed: PackedBook,
    /// Until when it may be busy reading and packing weights.
    pub(super) prepares_until_ns: Nanos,
    /// Weights that it was sent and may not have yet.
    pub(super) awaited: Awaited,
    /// Plans that it was told of, each with the frame that was the first to need it; none where it was
    /// told before any did.
    pub(super) announced: BTreeMap<PlanId, Option<FrameId>>,
    /// Of these, the ones whose weights it has packed.
    pub(super) prepared: BTreeSet<PlanId>,
    /// The workers that it can send pieces to.
    pub(super) reaches: BTreeSet<WorkerId>,
    /// Bytes of pieces of frames that stay on it, or are on their way to stay.
    pub(super) kept: BTreeMap<(FrameId, MapId), u64>,
    pub(super) kept_bytes: u64,
    /// What it sent to other workers.
    pub(super) passed: Passed,
    pub(super) report: WorkerReport,
}

impl WorkerState {
    /// Whether it gives up weights that no plan reads, where memory is short. Those of Tilehive 0.1 keep
    /// them as long as the model is open.
    pub(super) fn gives_up_weights(&self) -> bool {
        self.version > LAST_VERSION
    }

    pub(super) fn release(&mut self, now: Nanos, task: TaskId, attempt: u32) -> Option<Held> {
        let (held, running) = self.load.release(task, attempt)?;
        if running {
            self.running_since_ns = now;
        }
        Some(held)
    }

    /// What it did, with what it sent to other workers.
    pub(super) fn report_now(&self) -> WorkerReport {
        let bytes_out = self.report.bytes_out.saturating_add(self.passed.bytes());
        WorkerReport { bytes_out, ..self.report.clone() }
    }

    /// Whether what a task of a plan took tells of the link alone: while weights travel and are packed it
    /// does not, nor in the first frame of a plan that nobody had prepared.
    pub(super) fn is_settled(&self, plan: PlanId, frame: FrameId) -> bool {
        let first = self.announced.get(&plan);
        first.is_some_and(|first| first.is_none_or(|first| frame > first))
            && self
                .announced
                .iter()
                .all(|(id, first)| first.is_some() || self.prepared.contains(id))
    }

    /// Counts a gathered task and learns the worker's speed from it.
    pub(super) fn done(&mut self, held: &Held, busy_ns: u64) {
        self.report.tasks += 1;
        self.report.stolen += u64::from(held.stolen);
        self.report.multiply_adds += held.multiply_adds;
        // The number comes over the wire.
        self.report.busy_ns = self.report.busy_ns.saturating_add(busy_ns);
        self.learned.learn(&held.work, busy_ns);
        self.load.changed();
    }

    /// What was sent with an attempt was encoded to so many bytes. Returns what it was taken for.
    pub(super) fn packed(&mut self, task: TaskId, attempt: u32, bytes: u64) -> Option<u64> {
        let held = self.load.find(task, attempt)?;
        let before = std::mem::replace(&mut held.scattered_bytes, bytes);
        self.report.bytes_in = self.report.bytes_in.saturating_sub(before).saturating_add(bytes);
        Some(before)
    }

    /// Learns what its link carries: what a task took beyond waiting and computing was the network.
    pub(super) fn moved(
        &mut self,
        now: Nanos,
        held: &Held,
        bytes_out: u64,
        known_ns: u64,
        sharers: u64,
    ) {
        let network_ns = now.saturating_sub(held.issued_ns).saturating_sub(known_ns);
        let bytes = held.scattered_bytes.saturating_add(bytes_out);
        self.link.moved(bytes, network_ns, sharers);
    }
}

/// What is left of a worker's time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Remaining {
    /// Of the running task.
    pub(super) running_ns: Nanos,
    /// Until everything that it holds and owns is done.
    pub(super) all_ns: Nanos,
    /// How many times as long as expected the running task takes, in thousandths.
    pub(super) late_per_mille: u64,
}

/// Time that an amount takes at a rate. Long division is slow and rarely needed.
fn duration(amount: u64, per_s: u64) -> Nanos {
    let ns = match amount.checked_mul(SECOND) {
        Some(product) => product / per_s,
        None => {
            let ns = u128::from(amount) * u128::from(SECOND) / u128::from(per_s);
            u64::try_from(ns).unwrap_or(u64::MAX)
        }
    };
    ns.min(EXPECTED_NS_MAX)
}

impl Coordinator {
    /// How long a worker should take for some work; zero while its speed is unknown.
    pub(super) fn takes(&self, id: WorkerId, work: &Work) -> Nanos {
        self.workers.get(&id).map_or(0, |w| w.learned.takes(work))
    }

    /// How long a worker should take for a task; zero while its speed is unknown.
    pub(super) fn expected(&self, id: WorkerId, task: TaskId) -> Nanos {
        self.frames.get(&task.frame).map_or(0, |f| self.takes(id, &f.work(task)))
    }

    /// How long so many bytes should take to or from a worker.
    pub(super) fn transfer(&self, id: WorkerId, bytes: u64) -> Nanos {
        let link = self.workers.get(&id).map(|w| w.link).unwrap_or_default();
        duration(bytes, link.bytes_per_s())
    }

    /// How long so many bytes should take from one worker to another.
    pub(super) fn handing_over(&self, from: WorkerId, to: WorkerId, bytes: u64) -> Nanos {
        match self.pair(from, to) {
            Some(pair) => duration(bytes, pair.bytes_per_s),
            None => self.transfer(to, bytes).max(self.transfer(from, bytes)),
        }
    }

    /// How long a worker should need for what it holds and what waits in its share. A running task
    /// that is overdue says that the worker is slower than was thought, and by how much at least.
    pub(super) fn remaining(&self, now: Nanos, id: WorkerId) -> Remaining {
        let Some(worker) = self.workers.get(&id) else { return Remaining::default() };
        let estimate = worker.load.estimate(|work| worker.learned.takes(work));
        let (expected, rest) = (estimate.first_ns, estimate.rest_ns);
        let Some(first) = worker.load.held().first() else {
            return Remaining { running_ns: 0, all_ns: rest, late_per_mille: 1000 };
        };
        let waits = first.weights_ns.saturating_sub(now);
        let passed = now.saturating_sub(worker.running_since_ns.max(first.weights_ns));
        let allowed = expected.saturating_add(first.slack_ns);
        if passed <= allowed || expected == 0 {
            let running_ns = waits.saturating_add(expected.saturating_sub(passed));
            return Remaining {
                running_ns,
                all_ns: running_ns.saturating_add(rest),
                late_per_mille: 1000,
            };
        }
        let late_per_mille = u128::from(passed) * 1000 / u128::from(allowed);
        let late_per_mille = late_per_mille.min(1_000_000) as u64;
        // It may end any moment, or take as long again: half of that.
        let running_ns = passed / 2;
        let all_ns = running_ns.saturating_add(rest.saturating_mul(late_per_mille) / 1000);
        Remaining { running_ns, all_ns, late_per_mille }
    }
}
