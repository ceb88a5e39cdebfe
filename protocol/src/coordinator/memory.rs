//! What fits where: nothing is sent to a worker that should not fit into the memory it said it has.

use super::state::WorkerState;
use super::{ActivePlan, Coordinator};
use crate::ids::{TaskId, WorkerId};
use crate::survey::WeightSet;
use crate::{Nanos, SECOND};
use std::sync::Arc;

/// The slowest reading and packing of weights for which a task is not called late.
const PACK_BYTES_PER_S_MIN: u64 = 20_000_000;

/// What a task takes.
pub(super) struct Need {
    inputs: u64,
    running: u64,
    /// Weights that are not packed there yet.
    weights: u64,
}

impl Coordinator {
    /// What a task would take on a worker; none where memory is not counted.
    fn need(&self, id: WorkerId, task: TaskId) -> Option<Need> {
        let worker = self.workers.get(&id).filter(|w| w.memory_bytes > 0)?;
        let plan = self.frames.get(&task.frame)?.plan();
        let set = plan.weight_set(task.stage, task.tile);
        Some(Need {
            inputs: plan.input_bytes(task.stage, task.tile),
            running: plan.running_bytes(task.stage, task.tile),
            weights: worker.fresh_bytes(plan, set),
        })
    }

    /// Whether a worker may have a task now: it knows how, and the task fits beside what it holds.
    pub(super) fn fits(&self, id: WorkerId, task: TaskId) -> bool {
        if !self.knows(id, task) {
            return false;
        }
        let Some(need) = self.need(id, task) else { return true };
        let worker = &self.workers[&id];
        let inputs = worker.load.input_bytes();
        let running = worker.load.held().iter().filter_map(|h| {
            let plan = self.frames.get(&h.task.frame)?.plan();
            Some(plan.running_bytes(h.task.stage, h.task.tile))
        });
        let running = running.max().unwrap_or(0).max(need.running);
        let stay = worker.packed_bytes + need.weights + worker.kept_bytes;
        inputs + need.inputs + running + stay <= worker.memory_bytes
    }

    /// Whether a worker could do a task: it knows how, has the memory, and gets the pieces.
    pub(super) fn able(&self, id: WorkerId, task: TaskId) -> bool {
        self.could_fit(id, task) && self.reaches_sources(id, task)
    }

    /// Whether a worker's version of the protocol has everything that a task uses.
    fn knows(&self, id: WorkerId, task: TaskId) -> bool {
        self.frames.get(&task.frame).is_none_or(|frame| self.understands(id, frame.plan()))
    }

    /// Whether a worker's version of the protocol has everything that a plan uses.
    pub(super) fn understands(&self, id: WorkerId, plan: &ActivePlan) -> bool {
        self.workers.get(&id).is_some_and(|w| w.version >= plan.needed_version())
    }

    /// Whether a worker that holds nothing else may have a task.
    pub(super) fn could_fit(&self, id: WorkerId, task: TaskId) -> bool {
        if !self.knows(id, task) {
            return false;
        }
        let Some(need) = self.need(id, task) else { return true };
        let worker = &self.workers[&id];
        need.inputs + need.running + worker.packed_bytes + need.weights <= worker.memory_bytes
    }

    /// Notes the weights that a worker will have.
    pub(super) fn commit_weights(
        &mut self,
        now: Nanos,
        id: WorkerId,
        plan: &Arc<ActivePlan>,
        set: WeightSet,
    ) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let fresh = worker.fresh_bytes(plan, set);
        if worker.committed.insert((plan.id, set)) {
            worker.weights.extend(plan.weights(set).map(|(weight, _)| weight));
        }
        worker.packed_bytes += fresh;
        let takes_ns = fresh.saturating_mul(SECOND) / PACK_BYTES_PER_S_MIN;
        worker.prepares_until_ns = worker.prepares_until_ns.max(now).saturating_add(takes_ns);
    }

    /// Whether a worker has the weights for a task, or will have them anyway.
    pub(super) fn has_weights(&self, id: WorkerId, task: TaskId) -> bool {
        let plan = self.frames.get(&task.frame).map(|f| f.plan());
        let worker = self.workers.get(&id);
        plan.zip(worker).is_some_and(|(plan, worker)| {
            worker.fresh_bytes(plan, plan.weight_set(task.stage, task.tile)) == 0
        })
    }

    /// The weights of a plan that a worker shall prepare early: those of its tiles, as long as they
    /// fit beside a tile, and beside those of a plan that is in use until then.
    pub(super) fn weights_to_prepare(
        &self,
        id: WorkerId,
        plan: &Arc<ActivePlan>,
        known: Option<&Arc<ActivePlan>>,
    ) -> Vec<WeightSet> {
        let Some(worker) = self.workers.get(&id) else { return Vec::new() };
        let mut packed = worker.packed_bytes;
        let counted = known.filter(|_| worker.memory_bytes > 0);
        let tile = counted.map_or(0, |known| known.tile_bytes_max(id));
        let most = (worker.memory_bytes / 2).min(worker.memory_bytes.saturating_sub(tile));
        let mut sets = Vec::new();
        for set in plan.weight_sets_of(id) {
            let weights = worker.fresh_bytes(plan, set);
            if worker.memory_bytes == 0 || packed + weights <= most {
                packed += weights;
                sets.push(set);
            }
        }
        sets
    }

    /// Why a plan cannot run on anybody who is there; none when it can.
    pub(super) fn too_large(&self, plan: &Arc<ActivePlan>) -> Option<String> {
        let budgets: Vec<u64> =
            self.workers.values().filter(|w| w.alive).map(|w| w.memory_bytes).collect();
        let most = *budgets.iter().max()?;
        if budgets.contains(&0) {
            return None;
        }
        for (stage, body) in plan.plan.stages.iter().enumerate() {
            for tile in 0..body.tiles() as u32 {
                let stage = stage as u32;
                let weights: u64 =
                    plan.weights(plan.weight_set(stage, tile)).map(|(_, bytes)| bytes).sum();
                let takes =
                    weights + plan.input_bytes(stage, tile) + plan.running_bytes(stage, tile);
                if takes > most {
                    return Some(format!(
                        "stage {stage} tile {tile} takes {} kB with its weights, and no worker has \
                         more than {} kB; cut the stage into smaller tiles or add a worker with \
                         more memory",
                        takes.div_ceil(1_000),
                        most / 1_000
                    ));
                }
            }
        }
        None
    }
}

impl WorkerState {
    /// Bytes of a set's weights that the worker was not made to prepare.
    fn fresh_bytes(&self, plan: &ActivePlan, set: WeightSet) -> u64 {
        if self.committed.contains(&(plan.id, set)) {
            return 0;
        }
        let fresh = plan.weights(set).filter(|(weight, _)| !self.weights.contains(weight));
        fresh.map(|(_, bytes)| bytes).sum()
    }
}
