//! Leases: every task that is out has a deadline from the cost model.
//!
//! What is late gets a second copy on another worker; the first result wins. Its holder gets nothing
//! more while others can work, and is sent away when it is late again without a result in between: a
//! worker that beats but never computes costs two leases, not the frame.

use super::Coordinator;
use crate::Nanos;
use crate::ids::{TaskId, WorkerId};

/// Leases that may run out one after another, without a result in between, before a worker that is
/// not alone is sent away.
const STRIKES_MAX: u32 = 2;

/// Leases of one task that ran out, as far as they are counted.
const LAPSES_MAX: u32 = 12;

impl super::state::WorkerState {
    /// It ended a task: whatever was thought of it, it works. Returns whether that is news.
    pub(super) fn relieve(&mut self) -> bool {
        let news = std::mem::replace(&mut self.stuck, false);
        self.strikes = 0;
        self.probation = false;
        self.full_until_ns = 0;
        news
    }
}

impl Coordinator {
    /// Somebody can work again: what waits in the share of a worker that is late goes to others.
    pub(super) fn rescue(&mut self, now: Nanos) {
        let late = self.workers.values_mut().filter(|w| w.stuck);
        let mut tasks = Vec::new();
        for worker in late {
            tasks.extend(worker.load.take_own());
        }
        for task in tasks {
            self.enqueue(now, task, None);
        }
    }

    /// Looks at the leases that have run out.
    pub(super) fn check_leases(&mut self, now: Nanos) {
        while let Some(&(at, id, task, attempt)) = self.leases.first() {
            if at > now {
                return;
            }
            self.leases.pop_first();
            let lease = self.config.lease_min_ns.saturating_mul(2 * self.patience(task));
            let next_ns = now.saturating_add(lease);
            let Some(worker) = self.workers.get_mut(&id).filter(|w| w.alive) else { continue };
            let Some(held) = worker.load.find(task, attempt) else { continue };
            if held.lease_ns != at {
                continue; // It was prolonged.
            }
            held.lease_ns = next_ns;
            if let Some(tile) = self.frames.get_mut(&task.frame).and_then(|f| f.tile(task)) {
                tile.lapses += 1;
            }
            self.leases.insert((next_ns, id, task, attempt));
            self.on_late(now, id, task);
        }
    }

    /// How many times as long as usual a task may take: twice as long after each lease that ran out,
    /// since it may be that all workers are slower than they said.
    pub(super) fn patience(&self, task: TaskId) -> u64 {
        let lapses = self.frames.get(&task.frame).map_or(0, |f| f.lapses(task));
        1 << lapses.min(LAPSES_MAX)
    }

    fn on_late(&mut self, now: Nanos, id: WorkerId, task: TaskId) {
        let alone = self.workers.iter().all(|(&w, s)| w == id || !s.alive);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.stuck = true;
        worker.strikes += 1;
        let strikes = worker.strikes;
        let own = worker.load.take_own();
        for waiting in own {
            self.enqueue(now, waiting, None);
        }
        if strikes > STRIKES_MAX && !alone {
            return self.expel(now, id, "nothing that it is given comes back".into());
        }
        if self.frames.get(&task.frame).is_none_or(|f| f.live_attempts(task) != 1) {
            return;
        }
        // With no other worker it goes to the same one again: what is late may be lost, as a
        // hand-over is whose victim vanished with it.
        let others = self.workers.iter().filter(|&(&w, s)| w != id && s.alive);
        let able = others.filter(|(w, _)| self.able(**w, task));
        let other =
            able.min_by_key(|(_, s)| (s.stuck, s.load.held().len())).map_or(id, |(&w, _)| w);
        self.reassigned += 1;
        self.scatter(now, other, task);
    }
}
