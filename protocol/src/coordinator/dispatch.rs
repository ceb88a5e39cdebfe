//! Who gets which task next.
//!
//! Placement first: a worker gets the waiting tasks of its own share, up to its window. A worker
//! with nothing left steals: first a waiting task out of the largest share, which costs nothing
//! extra, then a queued one, which its victim hands over peer to peer.

use super::{Coordinator, Held, Output};
use crate::ids::{TaskId, WorkerId};
use crate::message::{Bundle, BundleKind, Message};
use crate::{Nanos, SECOND};
use std::collections::{BTreeMap, BTreeSet};

/// What a link between two workers is taken to carry, until links are measured.
const PEER_BYTES_PER_S: u64 = 10_000_000;

/// Plans that a worker keeps ready. Frames in a row use the same few.
const PLANS_MAX: usize = 8;

/// The time saved by a steal must exceed the cost of moving the inputs by this factor.
const STEAL_MARGIN: u64 = 2;

/// No task is taken to last longer: speeds come over the wire, and sums of times must not overflow.
const EXPECTED_NS_MAX: Nanos = 24 * 3600 * SECOND;

impl Coordinator {
    pub(super) fn dispatch(&mut self, now: Nanos) {
        let live: BTreeSet<WorkerId> = self.live().map(|(id, ..)| id).collect();
        if live.is_empty() {
            return;
        }
        self.frames.values_mut().for_each(|frame| frame.own_orphans(&live));
        // One task a worker a round, so that the first tasks of all go out before the second of
        // any: on a shared link everybody starts early.
        for depth in 0..self.config.window_tasks_max {
            for &id in &live {
                if self.workers[&id].held.len() == depth
                    && let Some(task) = self.own_waiting(id)
                {
                    self.scatter(now, id, task, false);
                }
            }
        }
        if self.config.stealing {
            for &id in &live {
                self.steal_for(now, id);
            }
        }
    }

    fn own_waiting(&self, id: WorkerId) -> Option<TaskId> {
        let waiting = self.frames.values().flat_map(|f| f.waiting());
        waiting.into_iter().find(|&(_, owner)| owner == Some(id)).map(|(task, _)| task)
    }

    fn scatter(&mut self, now: Nanos, id: WorkerId, task: TaskId, stolen: bool) {
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        let Some((attempt, pieces)) = frame.begin_attempt(task) else { return };
        let plan = frame.plan().clone();
        self.announce(id, &plan);
        let bundle = Bundle { kind: BundleKind::Scatter, plan: plan.id, task, attempt, pieces };
        self.hold(now, id, task, attempt, stolen, bundle.byte_len().unwrap_or(0) as u64);
        self.outputs.push_back(Output::SendBundle(id, bundle));
    }

    /// Tells a worker of a plan before its first task; the oldest plan that no frame uses is retired
    /// when a worker knows many.
    fn announce(&mut self, id: WorkerId, plan: &super::ActivePlan) {
        let used: BTreeSet<_> = self.frames.values().map(|f| f.plan_id()).collect();
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.announced.insert(plan.id) {
            let oldest = worker.announced.iter().copied().find(|p| !used.contains(p));
            if let Some(plan) = oldest.filter(|_| worker.announced.len() > PLANS_MAX) {
                worker.announced.remove(&plan);
                self.send(id, Message::Retire { plan });
            }
            let message = Message::Announce {
                plan: plan.id,
                model: plan.model_hash,
                body: plan.plan.clone(),
                stages: plan.stages_of(id),
            };
            self.send(id, message);
        }
    }

    fn hold(
        &mut self,
        now: Nanos,
        id: WorkerId,
        task: TaskId,
        attempt: u32,
        stolen: bool,
        bytes: u64,
    ) {
        let expected = self.backlog(id) + self.expected(id, task);
        let lease = expected.saturating_mul(self.config.lease_factor);
        let lease_ns = now.saturating_add(lease.max(self.config.lease_min_ns));
        let held = Held { task, attempt, stolen, lease_ns, yielding_to: None, kept: false };
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.hungry = false;
        worker.report.bytes_in += bytes;
        worker.held.push(held);
    }

    /// How long a worker should take for a task; zero while its speed is unknown.
    fn expected(&self, id: WorkerId, task: TaskId) -> Nanos {
        let rate = self.workers.get(&id).map_or(0, |w| w.multiply_adds_per_s);
        let Some(frame) = self.frames.get(&task.frame).filter(|_| rate > 0) else { return 0 };
        let ns = frame.multiply_adds(task) as u128 * SECOND as u128 / rate as u128;
        u64::try_from(ns).unwrap_or(u64::MAX).min(EXPECTED_NS_MAX)
    }

    fn steal_for(&mut self, now: Nanos, thief: WorkerId) {
        let worker = &self.workers[&thief];
        let promised = self.workers.values().flat_map(|w| &w.held);
        let promised = promised.filter(|h| h.yielding_to == Some(thief)).count();
        // A worker asks early, while its last task still runs.
        if promised > 0 || worker.held.len() > 1 || (worker.held.len() == 1 && !worker.hungry) {
            return;
        }
        if let Some(task) = self.waiting_for(thief) {
            return self.scatter(now, thief, task, true);
        }
        let Some((victim, task, attempt)) = self.best_queued_for(thief) else { return };
        let Some(next_attempt) =
            self.frames.get_mut(&task.frame).and_then(|f| f.next_attempt(task))
        else {
            return;
        };
        let plan = self.frames[&task.frame].plan().clone();
        self.announce(thief, &plan);
        if let Some(held) = self.workers.get_mut(&victim).and_then(|w| w.find_held(task, attempt)) {
            held.yielding_to = Some(thief);
        }
        self.promised.insert((task, attempt), (thief, next_attempt));
        self.send(victim, Message::Yield { task, attempt, thief, next_attempt });
    }

    /// The last waiting task of the worker that has most work left, where the thief ends it
    /// sooner than its owner would.
    fn waiting_for(&self, thief: WorkerId) -> Option<TaskId> {
        let mut shares: BTreeMap<WorkerId, (Nanos, TaskId)> = BTreeMap::new();
        for (task, owner) in self.frames.values().flat_map(|f| f.waiting()) {
            let Some(owner) = owner.filter(|&w| w != thief) else { continue };
            let (left, last) = shares.entry(owner).or_insert_with(|| (self.backlog(owner), task));
            *left += self.expected(owner, task);
            *last = task;
        }
        let (there, task) = shares.into_values().max()?;
        let here = self.backlog(thief) + self.expected(thief, task);
        (here <= there).then_some(task)
    }

    /// How long a worker should need for what it holds.
    fn backlog(&self, id: WorkerId) -> Nanos {
        self.workers[&id].held.iter().map(|h| self.expected(id, h.task)).sum()
    }

    /// The queued task whose move to the thief saves most time, where it saves enough.
    fn best_queued_for(&self, thief: WorkerId) -> Option<(WorkerId, TaskId, u32)> {
        let mut best: Option<(Nanos, (WorkerId, TaskId, u32))> = None;
        for (&victim, worker) in self.workers.iter().filter(|&(&id, w)| id != thief && w.alive) {
            let last = worker.held.iter().enumerate().rev();
            let Some((position, held)) = last.into_iter().find(|(i, h)| {
                *i > 0
                    && h.yielding_to.is_none()
                    && !h.kept
                    && self.frames.get(&h.task.frame).is_some_and(|f| f.live_attempts(h.task) == 1)
            }) else {
                continue;
            };
            let bytes = self.frames[&held.task.frame].input_bytes(held.task);
            let moving = bytes.saturating_mul(SECOND) / PEER_BYTES_PER_S;
            let ahead = &worker.held[..=position];
            let there: Nanos = ahead.iter().map(|h| self.expected(victim, h.task)).sum();
            let here = self.backlog(thief) + self.expected(thief, held.task);
            let saved = there.saturating_sub(here);
            if saved > moving.saturating_mul(STEAL_MARGIN) && best.is_none_or(|(s, _)| saved > s) {
                best = Some((saved, (victim, held.task, held.attempt)));
            }
        }
        best.map(|(_, choice)| choice)
    }

    /// The victim and its attempt, where a thief was promised this attempt of a task.
    pub(super) fn promised_to(
        &self,
        thief: WorkerId,
        task: TaskId,
        next_attempt: u32,
    ) -> Option<(WorkerId, u32)> {
        let promise =
            self.promised.iter().find(|&(&(t, _), &p)| t == task && p == (thief, next_attempt));
        let (&(_, attempt), _) = promise?;
        let holds =
            |w: &super::WorkerState| w.held.iter().any(|h| h.task == task && h.attempt == attempt);
        let (&victim, _) = self.workers.iter().find(|(_, w)| holds(w))?;
        Some((victim, attempt))
    }

    /// The victim handed the task over: the thief holds it now.
    pub(super) fn on_yielded(&mut self, now: Nanos, victim: WorkerId, task: TaskId, attempt: u32) {
        let Some(worker) = self.workers.get_mut(&victim) else { return };
        let Some(held) = worker.release(task, attempt) else { return };
        let Some((thief, next_attempt)) = self.promised.remove(&(task, attempt)) else {
            // The thief was lost meanwhile, or the worker was never asked: nobody has the task.
            return self.take_back(&held);
        };
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        let bytes = frame.input_bytes(task);
        frame.end_attempt(task, attempt);
        if let Some(worker) = self.workers.get_mut(&victim) {
            worker.report.bytes_out += bytes;
        }
        if self.workers.get(&thief).is_some_and(|w| w.alive) {
            self.hold(now, thief, task, next_attempt, true, bytes);
        } else if let Some(frame) = self.frames.get_mut(&task.frame)
            && frame.end_attempt(task, next_attempt)
        {
            self.reassigned += 1;
        }
    }

    /// The victim kept the task: the thief's attempt never was.
    pub(super) fn on_kept(&mut self, victim: WorkerId, task: TaskId, attempt: u32) {
        if let Some(held) = self.workers.get_mut(&victim).and_then(|w| w.find_held(task, attempt)) {
            held.yielding_to = None;
            held.kept = true;
        }
        self.withdraw_promise(task, attempt);
    }

    /// Takes back what was promised to a thief out of an attempt that ended.
    pub(super) fn withdraw_promise(&mut self, task: TaskId, attempt: u32) {
        if let Some((_, next_attempt)) = self.promised.remove(&(task, attempt))
            && let Some(frame) = self.frames.get_mut(&task.frame)
        {
            frame.end_attempt(task, next_attempt);
        }
    }

    /// A late task gets a second copy on another worker; the first result wins.
    pub(super) fn check_leases(&mut self, now: Nanos) {
        let mut late = Vec::new();
        let frames = &self.frames;
        let awaited = |task: TaskId| frames.get(&task.frame).is_some_and(|f| f.awaits(task));
        for (&id, worker) in self.workers.iter_mut().filter(|(_, w)| w.alive) {
            // Another copy won. What is late may also be lost, so that its holder would never say
            // more of it, and its place in the window would be gone for good.
            worker.held.retain(|h| now < h.lease_ns || awaited(h.task));
            for held in worker.held.iter_mut().filter(|h| now >= h.lease_ns) {
                late.push((id, held.task));
                held.lease_ns = now + self.config.lease_min_ns;
            }
        }
        for (id, task) in late {
            let copies = self.frames.get(&task.frame).map_or(0, |f| f.live_attempts(task));
            let others = self.workers.iter().filter(|&(&w, s)| w != id && s.alive);
            // With no other worker it goes to the same one again: what is late may be lost, as a
            // hand-over is whose victim vanished with it.
            let other = others.min_by_key(|(_, s)| s.held.len()).map_or(id, |(&w, _)| w);
            if copies == 1 {
                self.reassigned += 1;
                self.scatter(now, other, task, false);
            }
        }
    }
}
