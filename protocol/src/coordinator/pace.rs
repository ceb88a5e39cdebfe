//! Whether a worker keeps the pace that its plan was made for.
//!
//! A plan whose maps stay on workers fits together like a timetable: each tile has its inputs where it is
//! made, and a worker that waits for a neighbour's rows has work of its own to come. There a worker with
//! nothing to do at the moment is no reason to move anything; one that falls behind is.

use super::{ActivePlan, Coordinator};
use crate::Nanos;
use crate::ids::{PlanId, TaskId, WorkerId};
use std::collections::BTreeMap;
use tiling::Work;

/// A worker is behind when its part of a plan should take so many thousandths of what it should have taken
/// when the plan came, or the running task of what it should.
const BEHIND_PER_MILLE: u64 = 1250;
const LATE_PER_MILLE: u64 = 1500;

/// The part of a worker in a plan.
#[derive(Clone, Copy, Debug)]
struct Part {
    work: Work,
    /// How long it should have taken when the plan came.
    takes_ns: Nanos,
}

/// The parts of all workers in the plans that are in use.
#[derive(Debug, Default)]
pub(super) struct Paces(BTreeMap<PlanId, BTreeMap<WorkerId, Part>>);

impl Coordinator {
    /// Notes what a plan asks of its workers when the first frame comes that uses it.
    pub(super) fn note_pace(&mut self, plan: &ActivePlan) {
        if !plan.exchanges_any() || self.paces.0.contains_key(&plan.id) {
            return;
        }
        let used = self.plans_in_use();
        self.paces.0.retain(|id, _| used.contains(id));
        let part = |(worker, work): (WorkerId, Work)| {
            (worker, Part { work, takes_ns: self.takes(worker, &work) })
        };
        let parts = plan.work_by_worker().into_iter().map(part).collect();
        self.paces.0.insert(plan.id, parts);
    }

    /// Whether a worker is slower than the plan of a task has it, or waits for weights. Who has no part in
    /// the plan, or is of a speed that nobody knew, keeps no pace.
    pub(super) fn is_behind(&self, now: Nanos, id: WorkerId, task: TaskId) -> bool {
        let plan = self.frames.get(&task.frame).map(|frame| frame.plan_id());
        let parts = plan.and_then(|plan| self.paces.0.get(&plan));
        let Some(part) = parts.and_then(|parts| parts.get(&id)).filter(|p| p.takes_ns > 0) else {
            return true;
        };
        let takes_ns = self.takes(id, &part.work);
        let first = self.workers.get(&id).and_then(|worker| worker.load.held().first());
        let lacks_weights = first.is_some_and(|held| held.weights_ns > now);
        lacks_weights
            || self.waits_ns(now, id, task) > 0
            || takes_ns > part.takes_ns.saturating_mul(BEHIND_PER_MILLE) / 1000
            || self.remaining(now, id).late_per_mille > LATE_PER_MILLE
    }
}
