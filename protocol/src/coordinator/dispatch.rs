//! Who gets which task next.
//!
//! Placement first: a worker gets the waiting tasks of its own share, oldest frame first, up to its
//! window. What happens to a worker with nothing left is in `steal.rs`.

use super::state::{Held, SLACK_NS, SLACK_OF_PIECES_NS, WorkerState};
use super::{ActivePlan, Coordinator, Output};
use crate::Nanos;
use crate::ids::{FrameId, PlanId, TaskId, WorkerId};
use crate::message::{Bundle, BundleKind, Message};
use crate::survey::WeightSet;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Plans that a worker keeps ready. Frames in a row use the same few.
const PLANS_MAX: usize = 8;

impl Coordinator {
    pub(super) fn dispatch(&mut self, now: Nanos) {
        let review = self.review(now);
        let touched = std::mem::take(&mut self.touched);
        // One task a worker a round, so that the first tasks of all go out before the second of
        // any: on a shared link everybody starts early.
        for depth in 0..self.config.window_tasks_max {
            for &id in &touched {
                if self.workers[&id].load.held().len() == depth {
                    self.give_own(now, id);
                }
            }
        }
        if self.config.stealing {
            self.look_for_work(now, touched, review);
        }
        self.unblock(now);
    }

    /// Gives those who had no memory for a task another chance, when it is time. Returns whether it
    /// is.
    fn review(&mut self, now: Nanos) -> bool {
        if self.review_ns.is_none_or(|at| now < at) {
            return false;
        }
        self.review_ns = None;
        for (&id, worker) in self.workers.iter_mut().filter(|(_, w)| w.full_until_ns > 0) {
            if now >= worker.full_until_ns {
                worker.full_until_ns = 0;
                self.touched.insert(id);
            } else {
                let next =
                    self.review_ns.map_or(worker.full_until_ns, |at| at.min(worker.full_until_ns));
                self.review_ns = Some(next);
            }
        }
        true
    }

    /// Fills a worker's window from its own share.
    pub(super) fn fill(&mut self, now: Nanos, id: WorkerId) {
        for depth in 0..self.config.window_tasks_max {
            if self.workers[&id].load.held().len() == depth {
                self.give_own(now, id);
            }
        }
    }

    /// Whether a worker may be given anything now.
    pub(super) fn takes_work(&self, now: Nanos, id: WorkerId) -> bool {
        let Some(worker) = self.workers.get(&id).filter(|w| w.alive) else { return false };
        let window = if worker.probation { 1 } else { self.config.window_tasks_max };
        worker.load.held().len() < window
            && now >= worker.full_until_ns
            && (!worker.stuck || worker.load.held().is_empty() || self.all_stuck())
    }

    /// Whether nobody is left who is not late with something.
    fn all_stuck(&self) -> bool {
        self.workers.values().all(|w| !w.alive || w.stuck)
    }

    fn give_own(&mut self, now: Nanos, id: WorkerId) {
        if !self.takes_work(now, id) {
            return;
        }
        while let Some(&task) = self.workers[&id].load.own().first() {
            let worker = &self.workers[&id];
            let bytes = self.frames.get(&task.frame).map_or(0, |f| f.input_bytes(task));
            let out = worker.load.input_bytes();
            let within =
                worker.load.held().is_empty() || out + bytes <= self.config.window_bytes_max;
            if within && self.fits(id, task) {
                return self.scatter(now, id, task);
            }
            if !worker.load.held().is_empty() || self.could_fit(id, task) {
                return; // There is room when what it holds is done.
            }
            self.dequeue(task);
            let nobody = self.best_owner(now, task).is_none_or(|other| other == id);
            if nobody && !self.may_fall_back(task.frame) {
                // Its weights fill every memory: this cannot go on.
                let reason = format!("{task} fits into the memory of no worker that is there");
                self.end_frame(task.frame);
                return self.outputs.push_back(Output::FrameFailed(task.frame, reason));
            }
            self.enqueue(now, task, None);
        }
    }

    /// Puts a task into a worker's share: the one asked for, where it can, or the one that should
    /// be done with it first.
    pub(super) fn enqueue(&mut self, now: Nanos, task: TaskId, wanted: Option<WorkerId>) {
        let able = |id: &WorkerId| {
            let ready = |w: &WorkerState| w.alive && !w.stuck && now >= w.full_until_ns;
            self.workers.get(id).is_some_and(ready) && self.able(*id, task)
        };
        let owner = wanted.filter(able).or_else(|| self.best_owner(now, task));
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        if !frame.waits(task) {
            return;
        }
        let work = frame.work(task);
        let Some(tile) = frame.tile(task) else { return };
        (tile.owner, tile.stolen) = (owner, false);
        if owner.is_none() && self.may_fall_back(task.frame) {
            // Perhaps those who have room cannot reach those who hold its pieces.
            return self.fall_back(now, task.frame);
        }
        let Some(worker) = owner.and_then(|id| self.workers.get_mut(&id)) else {
            self.orphans.insert(task);
            return;
        };
        worker.load.add(task, work);
        self.touched.extend(owner);
    }

    /// Takes a task out of the share that it waits in.
    pub(super) fn dequeue(&mut self, task: TaskId) {
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        let work = frame.work(task);
        let owner = frame.tile(task).and_then(|tile| tile.owner);
        if let Some(worker) = owner.and_then(|id| self.workers.get_mut(&id)) {
            worker.load.remove(task, work);
        }
        self.orphans.remove(&task);
    }

    /// The live worker that should be done with a task first; one that is late with something, or
    /// that vanished over this very task, only where there is no other.
    pub(super) fn best_owner(&self, now: Nanos, task: TaskId) -> Option<WorkerId> {
        let suits_ill = |id| self.frames.get(&task.frame).is_some_and(|f| f.suits_ill(task, id));
        let live = self.workers.iter().filter(|(_, w)| w.alive);
        let able = live.filter(|(id, _)| self.able(**id, task));
        let best = able.min_by_key(|&(&id, w)| {
            let takes = self.expected(id, task).saturating_sub(self.spared(id, task));
            let left = self.remaining(now, id).all_ns.max(self.waits_ns(now, id, task));
            let ends = left.saturating_add(takes);
            let full = now < w.full_until_ns;
            let crowds = self.crowds_out(id, task);
            (
                w.stuck,
                suits_ill(id),
                crowds,
                full,
                ends,
                w.load.own().len() + w.load.held().len(),
                id,
            )
        });
        best.map(|(&id, _)| id)
    }

    /// Time that it spares to give a task to a worker that keeps some of its inputs.
    fn spared(&self, id: WorkerId, task: TaskId) -> Nanos {
        match self.kept_inputs(id, task) {
            0 => 0,
            kept => self.transfer(id, kept),
        }
    }

    /// Sends a task with its inputs.
    pub(super) fn scatter(&mut self, now: Nanos, id: WorkerId, task: TaskId) {
        self.dequeue(task);
        self.make_room(id, task);
        let Some(frame) = self.frames.get(&task.frame) else { return };
        let orders = frame.orders(task, id, |from, to| self.reaches(from, to));
        let pieces = frame.attached(task);
        let sends = orders.deliveries.clone();
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        let Some(attempt) = frame.begin_attempt(task, id, sends) else { return };
        let stolen = frame.tile(task).is_some_and(|t| t.stolen && t.owner == Some(id));
        let plan = frame.plan().clone();
        self.announce(now, id, &plan, task.frame);
        let kind = BundleKind::Scatter;
        let bundle =
            Bundle { kind, plan: plan.id, task, attempt, pieces, forms: Vec::new(), orders };
        let bytes = bundle.byte_len().unwrap_or(0) as u64;
        self.counters.scattered_bytes += bytes;
        self.note_made(id, task);
        self.note_exchange(id, &bundle);
        self.hold(now, (id, bytes), task, attempt, stolen);
        self.outputs.push_back(Output::SendBundle(id, bundle));
    }

    /// Tells a worker of a plan before its first task.
    pub(super) fn announce(
        &mut self,
        now: Nanos,
        id: WorkerId,
        plan: &Arc<ActivePlan>,
        frame: FrameId,
    ) {
        if self.workers.get(&id).is_some_and(|w| !w.announced.contains_key(&plan.id)) {
            self.make_room_for_plan(id, plan, None);
            let weights = self.weights_to_prepare(id, plan, None);
            self.tell_plan(now, id, plan, (Some(frame), weights));
        }
    }

    /// The plans of all frames that have not ended, and those that are to follow.
    pub(super) fn plans_in_use(&self) -> BTreeSet<PlanId> {
        let frames = self.frames.values().map(|f| f.plan_id());
        let waiting = self.waiting.iter().map(|(_, plan)| plan.id);
        frames.chain(waiting).chain(self.upcoming.keys().copied()).collect()
    }

    /// Tells a worker of a plan, the first frame that needs it, and the weights to prepare early; the
    /// oldest plan that no frame uses is retired when a worker knows many.
    pub(super) fn tell_plan(
        &mut self,
        now: Nanos,
        id: WorkerId,
        plan: &Arc<ActivePlan>,
        (frame, weights): (Option<FrameId>, Vec<WeightSet>),
    ) {
        for &set in &weights {
            self.commit_weights(now, id, plan, set);
        }
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.announced.insert(plan.id, frame);
        if worker.announced.len() > PLANS_MAX {
            self.retire_oldest(id, &[plan.id]);
        }
        let message = Message::Announce {
            plan: plan.id,
            model: plan.model_hash,
            body: plan.plan.clone(),
            weights,
            encodes: plan.encodes(id),
        };
        self.send(id, message);
    }

    /// Notes that a worker has a task, or will as soon as it arrives with so many bytes.
    pub(super) fn hold(
        &mut self,
        now: Nanos,
        (id, sent): (WorkerId, u64),
        task: TaskId,
        attempt: u32,
        stolen: bool,
    ) {
        let Some(frame) = self.frames.get(&task.frame) else { return };
        let (bytes, work) = (frame.input_bytes(task), frame.work(task));
        let multiply_adds = frame.multiply_adds(task);
        let from_others = frame.kept_elsewhere(task, id) > 0;
        let slack_ns = if from_others { SLACK_OF_PIECES_NS } else { SLACK_NS };
        let plan = frame.plan().clone();
        self.commit_weights(now, id, &plan, plan.weight_set(task.stage, task.tile));
        let travels = self.transfer(id, bytes);
        let weights_ns = self.weights_ns(now, id, task);
        let expected = self.remaining(now, id).all_ns + self.expected(id, task) + 2 * travels;
        let lease = expected.saturating_mul(self.config.lease_factor);
        let lease = lease.max(self.config.lease_min_ns).saturating_mul(self.patience(task));
        let idle = self.workers.get(&id).is_some_and(|w| w.load.held().is_empty());
        let sharers = if idle { self.live().count() as u64 } else { 0 };
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let begins_ns = worker.prepares_until_ns.max(weights_ns).max(now);
        let lease_ns = begins_ns.saturating_add(lease);
        worker.hungry = false;
        worker.report.bytes_in += sent;
        if idle {
            // All may be sent to at once, through one cable.
            let together = travels.saturating_mul(sharers);
            worker.running_since_ns = now.saturating_add(together);
        }
        worker.load.hold(Held {
            task,
            attempt,
            stolen,
            issued_ns: now,
            slack_ns,
            lease_ns,
            bytes,
            scattered_bytes: sent,
            multiply_adds,
            work,
            weights_ns,
            yielding_to: None,
            kept: 0,
            ask_ns: 0,
        });
        self.idle.remove(&id);
        self.leases.insert((lease_ns, id, task, attempt));
    }
}
