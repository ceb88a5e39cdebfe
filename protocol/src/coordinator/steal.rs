//! A worker with nothing left takes work from the one that has most left to do.
//!
//! A worker asks when its last task starts, so that the answer arrives before it is idle. Tasks that
//! wait here change their share for nothing; tasks that a victim has queued travel peer to peer, and
//! only when that saves well more than it costs. In both cases the thief takes as much as lets it and
//! its victim finish together. When nothing is left to move, an idle worker makes a second copy of
//! the task that is likeliest to end last. *Sources*: DeepThings (TCAD 2018) for stealing tiles;
//! dask/distributed#5390 for steals that cost more than they save; LATE (OSDI 2008) for copies.

use super::Coordinator;
use crate::ids::{TaskId, WorkerId};
use crate::message::Message;
use crate::{Nanos, SECOND};
use std::collections::BTreeSet;
use tiling::Work;

/// The time saved by a steal must exceed the cost of moving the inputs by this factor.
const STEAL_MARGIN: u64 = 2;

/// What asking a victim costs on top of its bytes: three messages.
const ASKING_NS: Nanos = SECOND / 500;

/// A copy must be expected to end in this part of the original's time, in thousandths.
const BACKUP_GAIN_PER_MILLE: u64 = 600;

/// Waiting tasks that are considered for a thief.
const CHOICE_MAX: usize = 4;

/// Idle workers that are looked at again in one review, and victims that are considered.
const LOOKERS_MAX: usize = 16;
const VICTIMS_MAX: usize = 16;

/// Among so many workers an idle one is looked at again with everything that happens; where there are more it
/// waits for the next review, since to look for a victim is to look at all.
const FEW_WORKERS: usize = 64;

/// A task that was kept is asked for again, after a pause that grows: the order to hand it over may
/// have overtaken its inputs. Where two workers cannot reach each other that must end.
const KEPT_MAX: u32 = 4;
const KEPT_PAUSE_NS: Nanos = SECOND / 100;

/// How soon idle workers look again, at the earliest and at the latest.
const REVIEW_MIN_NS: Nanos = SECOND / 50;
const REVIEW_MAX_NS: Nanos = SECOND;

impl Coordinator {
    /// Looks for work for those who just ran out of it, and again for some who did before: for more
    /// of them when it is time for a review.
    pub(super) fn look_for_work(&mut self, now: Nanos, touched: BTreeSet<WorkerId>, review: bool) {
        let after = self
            .idle
            .range((std::ops::Bound::Excluded(self.idle_last), std::ops::Bound::Unbounded));
        let between = usize::from(self.workers.len() <= FEW_WORKERS);
        let again = if review { LOOKERS_MAX } else { between };
        let again: Vec<WorkerId> = after.chain(self.idle.iter()).copied().take(again).collect();
        self.idle_last = again.last().copied().unwrap_or(self.idle_last);
        let mut lookers = touched;
        lookers.extend(again);
        lookers.retain(|&id| {
            let hungry = self.is_hungry(now, id);
            if !hungry {
                self.idle.remove(&id);
            }
            hungry
        });
        if lookers.is_empty() {
            return;
        }
        let mut victims = self.victims(now);
        for id in lookers {
            let news = !self.idle.contains(&id);
            self.counters.steals_asked += u64::from(news);
            if self.steal_for(now, id, &victims) {
                self.counters.steals_granted += 1;
                self.idle.remove(&id);
                victims = self.victims(now);
            } else if !(news || review) || !self.copy_for(now, id) {
                self.counters.steals_refused += u64::from(news);
                self.idle.insert(id);
            }
        }
        if !self.idle.is_empty() && self.review_ns.is_none() {
            self.plan_review(now);
        }
    }

    /// Those who have something to give, the one with most time left first.
    fn victims(&self, now: Nanos) -> Vec<WorkerId> {
        let rich = self
            .workers
            .iter()
            .filter(|(_, w)| w.alive && (!w.load.own().is_empty() || w.load.held().len() > 1));
        let mut rich: Vec<(Nanos, WorkerId)> =
            rich.map(|(&id, _)| (self.remaining(now, id).all_ns, id)).collect();
        if rich.len() > VICTIMS_MAX {
            rich.select_nth_unstable_by(VICTIMS_MAX, |a, b| b.cmp(a));
            rich.truncate(VICTIMS_MAX);
        }
        rich.sort_unstable_by(|a, b| b.cmp(a));
        rich.into_iter().map(|(_, id)| id).collect()
    }

    /// Looks again when what runs now should be half done: a slow worker shows by then.
    fn plan_review(&mut self, now: Nanos) {
        let running = self.workers.iter().filter(|(_, w)| w.alive && !w.load.held().is_empty());
        let takes = running.map(|(&id, w)| self.takes(id, &w.load.held()[0].work));
        if let Some(shortest) = takes.min() {
            self.review_in(now, (shortest / 2).clamp(REVIEW_MIN_NS, REVIEW_MAX_NS));
        }
    }

    pub(super) fn review_in(&mut self, now: Nanos, wait_ns: Nanos) {
        let at = now + wait_ns;
        self.review_ns = Some(self.review_ns.map_or(at, |known| known.min(at).max(now + 1)));
    }

    fn is_hungry(&self, now: Nanos, id: WorkerId) -> bool {
        let Some(worker) = self.workers.get(&id).filter(|w| w.alive && !w.stuck) else {
            return false;
        };
        let asks =
            worker.load.held().is_empty() || (worker.load.held().len() == 1 && worker.hungry);
        asks && worker.load.own().is_empty()
            && self.takes_work(now, id)
            && !self.promised.values().any(|&(thief, _)| thief == id)
    }

    fn steal_for(&mut self, now: Nanos, thief: WorkerId, victims: &[WorkerId]) -> bool {
        let others = || victims.iter().copied().filter(|&id| id != thief);
        let fullest = others().find(|id| !self.workers[id].load.own().is_empty());
        if fullest.is_some_and(|victim| self.take_waiting(now, thief, victim)) {
            return true;
        }
        let queued = others().filter(|id| self.workers[id].load.held().len() > 1);
        let best =
            queued.filter_map(|victim| Some((self.saves(now, thief, victim)?, victim))).max();
        let Some(((_, task, attempt), victim)) = best else { return false };
        self.ask(now, thief, (victim, task, attempt));
        // As many more as the two need to finish together.
        while self.workers[&thief].load.held().len() + self.promises(thief)
            < self.config.window_tasks_max
            && let Some((_, task, attempt)) = self.saves(now, thief, victim)
        {
            self.ask(now, thief, (victim, task, attempt));
        }
        true
    }

    fn promises(&self, thief: WorkerId) -> usize {
        self.promised.values().filter(|&&(to, _)| to == thief).count()
    }

    /// Moves waiting tasks from one share to another, until both should end together.
    fn take_waiting(&mut self, now: Nanos, thief: WorkerId, victim: WorkerId) -> bool {
        let left = self.remaining(now, victim);
        let mut there = left.all_ns;
        let mut here = self.remaining(now, thief).all_ns;
        let known =
            self.workers[&thief].learned.is_known() && self.workers[&victim].learned.is_known();
        // Of speeds that nobody knows, half is a fair guess.
        let most =
            if known { usize::MAX } else { self.workers[&victim].load.own().len().div_ceil(2) };
        let mut moved = 0;
        while moved < most
            && let Some(task) = self.best_of_oldest(victim, thief)
        {
            let cost_here = self.expected(thief, task);
            let begins = here.max(self.waits_ns(now, thief, task));
            let cost_there = self.expected(victim, task).saturating_mul(left.late_per_mille) / 1000;
            // The first need only end sooner than its owner's last; then both meet.
            let until = if moved == 0 { there } else { there.saturating_sub(cost_there) };
            let suits_ill = self.frames.get(&task.frame).is_some_and(|f| f.suits_ill(task, thief));
            let moves = self.strays(victim, thief, task);
            let ends = begins.saturating_add(cost_here).saturating_add(moves);
            let stays = suits_ill || self.had_better_stay(now, victim, task);
            let crowds = || self.crowds_out(thief, task);
            if ends > until || stays || !self.able(thief, task) || crowds() {
                break;
            }
            self.dequeue(task);
            self.enqueue(now, task, Some(thief));
            if let Some(tile) = self.frames.get_mut(&task.frame).and_then(|f| f.tile(task)) {
                tile.stolen = tile.owner == Some(thief);
            }
            here = begins + cost_here;
            there = there.saturating_sub(cost_there);
            moved += 1;
        }
        self.counters.stolen_tasks += moved as u64;
        if moved > 0 {
            self.fill(now, thief);
        }
        moved > 0
    }

    /// Whether a task had better be made where the plan has it: it takes what stays on workers, or leaves
    /// something there, and its worker keeps pace.
    fn had_better_stay(&self, now: Nanos, victim: WorkerId, task: TaskId) -> bool {
        let stays = self.frames.get(&task.frame).is_some_and(|f| f.takes_or_leaves(task));
        stays && !self.is_behind(now, victim, task)
    }

    /// What it costs, with a margin, that another worker makes a task: pieces that stay on workers go
    /// there first, and what the next tiles read of it comes back. Nothing where the coordinator sends
    /// the inputs and gathers the outputs anyway.
    fn strays(&self, victim: WorkerId, thief: WorkerId, task: TaskId) -> Nanos {
        let Some(frame) = self.frames.get(&task.frame).filter(|f| f.takes_or_leaves(task)) else {
            return 0;
        };
        let bytes =
            frame.kept_elsewhere(task, thief).saturating_add(frame.bytes_back(task, victim));
        let moving = self.handing_over(victim, thief, bytes);
        moving.saturating_add(ASKING_NS).saturating_mul(STEAL_MARGIN)
    }

    /// Of the last waiting tasks of the oldest frame in a share, the one of which the thief keeps
    /// most; the last, where it keeps nothing: what is left stays in one piece, and older frames go
    /// first.
    fn best_of_oldest(&self, victim: WorkerId, thief: WorkerId) -> Option<TaskId> {
        let own = self.workers[&victim].load.own();
        let frame = own.first()?.frame;
        let end = TaskId { frame, stage: u32::MAX, tile: u32::MAX };
        let last = own.range(..=end).rev().take(CHOICE_MAX);
        // The first of equals is the last task.
        last.copied().reduce(|best, task| {
            let kept = |task| self.kept_inputs(thief, task);
            if kept(task) > kept(best) { task } else { best }
        })
    }

    /// The last queued task of a victim, with its attempt and the time that is saved when the thief
    /// makes it, where that is well over what the move costs.
    fn saves(&self, now: Nanos, thief: WorkerId, victim: WorkerId) -> Option<(Nanos, TaskId, u32)> {
        let worker = self.workers.get(&victim)?;
        let last = worker.load.held().iter().enumerate().rev();
        let (position, held) = last.into_iter().find(|(i, h)| {
            *i > 0
                && h.yielding_to.is_none()
                && h.kept < KEPT_MAX
                && now >= h.ask_ns
                && self.frames.get(&h.task.frame).is_some_and(|f| f.live_attempts(h.task) == 1)
        })?;
        let fits = self.fits(thief, held.task) && !self.crowds_out(thief, held.task);
        if !fits || self.had_better_stay(now, victim, held.task) {
            return None;
        }
        let back = self.frames.get(&held.task.frame)?.bytes_back(held.task, victim);
        let moving = self.handing_over(victim, thief, held.bytes.saturating_add(back));
        let left = self.remaining(now, victim);
        let stays = worker.load.held()[1..=position].iter().filter(|h| h.yielding_to.is_none());
        let queued = stays.map(|h| h.work).sum();
        let queued = self.takes(victim, &queued).saturating_mul(left.late_per_mille) / 1000;
        let promised: Work = self
            .promised
            .iter()
            .filter(|&(_, &(to, _))| to == thief)
            .filter_map(|(&(task, _), _)| Some(self.frames.get(&task.frame)?.work(task)))
            .sum();
        let there = left.running_ns + queued;
        let begins = self.remaining(now, thief).all_ns + self.takes(thief, &promised);
        let here =
            begins.max(self.waits_ns(now, thief, held.task)) + self.expected(thief, held.task);
        let saved = there.saturating_sub(here);
        let worth = saved > (moving + ASKING_NS).saturating_mul(STEAL_MARGIN);
        worth.then_some((saved, held.task, held.attempt))
    }

    /// Tells a victim to hand a task over.
    fn ask(
        &mut self,
        now: Nanos,
        thief: WorkerId,
        (victim, task, attempt): (WorkerId, TaskId, u32),
    ) {
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        let Some(next_attempt) = frame.next_attempt(task, attempt, thief) else { return };
        let plan = frame.plan().clone();
        self.make_room(thief, task);
        self.announce(now, thief, &plan, task.frame);
        if let Some(held) = self.workers.get_mut(&victim).and_then(|w| w.load.find(task, attempt)) {
            held.yielding_to = Some(thief);
        }
        self.promised.insert((task, attempt), (thief, next_attempt));
        self.send(victim, Message::Yield { task, attempt, thief, next_attempt });
    }

    /// Makes a second copy of the task that should end last, where that should end it much sooner.
    fn copy_for(&mut self, now: Nanos, thief: WorkerId) -> bool {
        let cap = self.counters.tasks * self.config.backups_per_mille_max / 1000;
        if self.counters.backups >= cap || !self.workers[&thief].load.held().is_empty() {
            return false;
        }
        let mut latest: Option<(Nanos, TaskId, WorkerId)> = None;
        for (&id, worker) in self.workers.iter().filter(|&(&id, w)| id != thief && w.alive) {
            let Some(held) = worker.load.held().first() else { continue };
            let alone = |f: &super::Frame| f.live_attempts(held.task) == 1 && f.awaits(held.task);
            let only = self.frames.get(&held.task.frame).is_some_and(alone);
            if !only || self.had_better_stay(now, id, held.task) {
                continue;
            }
            let ends = self.remaining(now, id).running_ns + self.transfer(id, held.bytes) / 4;
            if latest.is_none_or(|(best, ..)| ends > best) {
                latest = Some((ends, held.task, id));
            }
        }
        let Some((there, task, owner)) = latest else { return false };
        let bytes = self.frames.get(&task.frame).map_or(0, |f| f.input_bytes(task));
        let back = self.frames.get(&task.frame).map_or(0, |f| f.bytes_back(task, owner));
        let moving = self.transfer(thief, bytes.saturating_add(back));
        let travels = moving.max(self.waits_ns(now, thief, task));
        let here = self.expected(thief, task) + travels + ASKING_NS;
        let suits_ill = self.frames.get(&task.frame).is_some_and(|f| f.suits_ill(task, thief));
        let worth = here < there.saturating_mul(BACKUP_GAIN_PER_MILLE) / 1000;
        // To read and pack weights for a copy takes longer than to wait.
        let able = self.fits(thief, task)
            && !self.crowds_out(thief, task)
            && self.has_weights(thief, task)
            && self.reaches_sources(thief, task);
        if !worth || suits_ill || !able || self.expected(thief, task) == 0 {
            return false;
        }
        self.counters.backups += 1;
        self.scatter(now, thief, task);
        true
    }

    /// The victim and its attempt, where a thief was promised this attempt of a task.
    fn promised_to(
        &self,
        thief: WorkerId,
        task: TaskId,
        next_attempt: u32,
    ) -> Option<(WorkerId, u32)> {
        let promises = self.promised.range((task, 0)..=(task, u32::MAX));
        let mut promises = promises.filter(|&(_, &p)| p == (thief, next_attempt));
        let (&(_, attempt), _) = promises.next()?;
        let holds = |w: &super::WorkerState| {
            w.load.held().iter().any(|h| h.task == task && h.attempt == attempt)
        };
        let (&victim, _) = self.workers.iter().find(|(_, w)| holds(w))?;
        Some((victim, attempt))
    }

    /// The victim handed the task over: the thief holds it now.
    pub(super) fn on_yielded(&mut self, now: Nanos, victim: WorkerId, task: TaskId, attempt: u32) {
        let Some(worker) = self.workers.get_mut(&victim) else { return };
        let Some(held) = worker.release(now, task, attempt) else { return };
        self.touched.insert(victim);
        let Some((thief, next_attempt)) = self.promised.remove(&(task, attempt)) else {
            // The thief was lost meanwhile, or the worker was never asked: nobody has the task.
            return self.take_back(now, &held);
        };
        if let Some(frame) = self.frames.get_mut(&task.frame) {
            frame.end_attempt(task, attempt);
        }
        self.counters.stolen_tasks += 1;
        self.note_handed_over((victim, thief), task);
        self.touched.insert(thief);
        if self.workers.get(&thief).is_some_and(|w| w.alive) {
            self.note_made(thief, task);
            // None of it comes from here.
            self.hold(now, (thief, 0), task, next_attempt, true);
        } else {
            self.touched.remove(&thief);
            self.end_attempt(now, task, next_attempt);
        }
    }

    /// A thief speaks of an attempt that it was promised: so the victim has handed it over, whose own
    /// word is still on its way, and will be stale.
    pub(super) fn hear_of_promise(
        &mut self,
        now: Nanos,
        thief: WorkerId,
        task: TaskId,
        attempt: u32,
    ) {
        if let Some((victim, yielded)) = self.promised_to(thief, task, attempt) {
            self.on_yielded(now, victim, task, yielded);
        }
    }

    /// The victim kept the task: the thief's attempt never was.
    pub(super) fn on_kept(&mut self, now: Nanos, victim: WorkerId, task: TaskId, attempt: u32) {
        if let Some(held) = self.workers.get_mut(&victim).and_then(|w| w.load.find(task, attempt)) {
            // A worker may say so unasked.
            if held.yielding_to.take().is_some() {
                // Four times as long as last time.
                held.ask_ns = now + (KEPT_PAUSE_NS << (2 * held.kept.min(KEPT_MAX)));
                held.kept += 1;
            }
        }
        if let Some(&(thief, _)) = self.promised.get(&(task, attempt)) {
            self.counters.steals_kept += 1;
            if self.workers.get(&thief).is_some_and(|w| w.alive) {
                self.touched.insert(thief);
            }
            self.review_in(now, REVIEW_MIN_NS);
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
}
