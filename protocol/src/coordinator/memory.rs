//! What fits where: nothing is sent to a worker that should not fit into the memory it said it has.

use super::{ActivePlan, Coordinator};
use crate::ids::{PlanId, TaskId, WorkerId};
use crate::message::Message;
use crate::survey::WeightSet;
use crate::{Nanos, SECOND};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The slowest reading and packing of weights for which a task is not called late.
const PACK_BYTES_PER_S_MIN: u64 = 20_000_000;

/// What a task takes.
pub(super) struct Need {
    inputs: u64,
    running: u64,
    plan: Arc<ActivePlan>,
    /// Weights, of which some may be packed there.
    set: WeightSet,
}

impl Coordinator {
    /// What a task would take on a worker; none where memory is not counted.
    fn need(&self, id: WorkerId, task: TaskId) -> Option<Need> {
        self.workers.get(&id).filter(|w| w.memory_bytes > 0)?;
        let plan = self.frames.get(&task.frame)?.plan();
        Some(Need {
            inputs: plan.input_bytes(task.stage, task.tile),
            running: plan.running_bytes(task.stage, task.tile),
            plan: plan.clone(),
            set: plan.weight_set(task.stage, task.tile),
        })
    }

    /// Whether a worker may have a task now: it knows how, and the task fits beside what it holds.
    pub(super) fn fits(&self, id: WorkerId, task: TaskId) -> bool {
        if !self.knows(id, task) {
            return false;
        }
        let Some(need) = self.need(id, task) else { return true };
        self.leaves_room(id, &need, self.beside(id, &need))
    }

    /// What a worker holds beside weights while it runs a task after those that it has.
    fn beside(&self, id: WorkerId, need: &Need) -> u64 {
        let worker = &self.workers[&id];
        let inputs = worker.load.input_bytes();
        let running = worker.load.held().iter().filter_map(|h| {
            let plan = self.frames.get(&h.task.frame)?.plan();
            Some(plan.running_bytes(h.task.stage, h.task.tile))
        });
        let running = running.max().unwrap_or(0).max(need.running);
        inputs + need.inputs + running + worker.kept_bytes
    }

    /// Whether the weights of a task fit beside so many bytes, if those of plans that no frame uses are
    /// given up.
    fn leaves_room(&self, id: WorkerId, need: &Need, bytes: u64) -> bool {
        let worker = &self.workers[&id];
        let least = || worker.packed.least_bytes(&self.plans_in_use(), (&need.plan, need.set));
        self.leaves_room_now(id, need, bytes)
            || (worker.gives_up_weights() && least() + bytes <= worker.memory_bytes)
    }

    /// The same beside all weights that it has.
    fn leaves_room_now(&self, id: WorkerId, need: &Need, bytes: u64) -> bool {
        let worker = &self.workers[&id];
        let weights = worker.packed.bytes() + worker.packed.fresh_bytes(&need.plan, need.set);
        weights + bytes <= worker.memory_bytes
    }

    /// Has a worker give up weights that no frame uses, where a task that fits without them is to go there.
    pub(super) fn make_room(&mut self, id: WorkerId, task: TaskId) {
        let Some(need) = self.need(id, task) else { return };
        while !self.leaves_room_now(id, &need, self.beside(id, &need))
            && self.retire_oldest(id, &[need.plan.id])
        {}
    }

    /// The same for the tiles of a plan that it is told of, while another one is in use.
    pub(super) fn make_room_for_plan(
        &mut self,
        id: WorkerId,
        plan: &Arc<ActivePlan>,
        known: Option<PlanId>,
    ) {
        let sets = plan.weight_sets_of(id);
        let fits = |me: &Self| {
            let Some(worker) = me.workers.get(&id).filter(|w| w.memory_bytes > 0) else {
                return true;
            };
            let fresh: u64 = sets.iter().map(|&set| worker.packed.fresh_bytes(plan, set)).sum();
            let tile = plan.tile_bytes_max(id) + plan.kept_bytes(id);
            worker.packed.bytes() + fresh + tile <= worker.memory_bytes
        };
        let keep: Vec<PlanId> = known.into_iter().chain([plan.id]).collect();
        while !fits(self) && self.retire_oldest(id, &keep) {}
    }

    /// Tells a worker that the oldest plan of those that it knows, that no frame uses and that is not to be
    /// kept is over. Returns whether there was one.
    pub(super) fn retire_oldest(&mut self, id: WorkerId, keep: &[PlanId]) -> bool {
        let used = self.plans_in_use();
        let Some(worker) = self.workers.get_mut(&id) else { return false };
        let gives_up = worker.gives_up_weights();
        let known = worker.announced.keys().copied();
        let oldest = known.filter(|plan| !keep.contains(plan)).find(|plan| !used.contains(plan));
        let Some(plan) = oldest else { return false };
        worker.announced.remove(&plan);
        worker.prepared.remove(&plan);
        worker.packed.retire(plan, gives_up);
        self.send(id, Message::Retire { plan });
        true
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
        self.leaves_room(id, &need, need.inputs + need.running)
    }

    /// Whether a task that the plan gives to another one would take the room that a worker needs for its own
    /// part of the plan: for weights that it has yet to pack, for what it keeps, and for its tiles.
    pub(super) fn crowds_out(&self, id: WorkerId, task: TaskId) -> bool {
        let Some(need) = self.need(id, task) else { return false };
        let Need { inputs, running, plan, set } = need;
        let worker = &self.workers[&id];
        let kept = self.frames.values().map(|f| f.plan().kept_bytes(id)).sum::<u64>();
        let kept = kept.max(worker.kept_bytes);
        // Mostly there is room for the whole model, and this is asked often.
        if worker.packed.bytes() + kept + plan.most_bytes() <= worker.memory_bytes {
            return false;
        }
        let (stage, tile) = (task.stage as usize, task.tile as usize);
        if plan.planned(stage, tile).is_none_or(|owner| owner == id) {
            return false;
        }
        let sets: BTreeSet<WeightSet> = plan.weight_sets_of(id).into_iter().chain([set]).collect();
        let fresh: u64 = sets.into_iter().map(|set| worker.packed.fresh_bytes(&plan, set)).sum();
        // What it reads comes to stay, too, where others keep it.
        let stays = worker.packed.bytes() + fresh + kept + inputs + running;
        stays + plan.tile_bytes_max(id).max(inputs + running) > worker.memory_bytes
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
        let fresh = worker.packed.commit(plan, set);
        let takes_ns = fresh.saturating_mul(SECOND) / PACK_BYTES_PER_S_MIN;
        worker.prepares_until_ns = worker.prepares_until_ns.max(now).saturating_add(takes_ns);
    }

    /// Whether a worker has the weights for a task, or will have them anyway.
    pub(super) fn has_weights(&self, id: WorkerId, task: TaskId) -> bool {
        let plan = self.frames.get(&task.frame).map(|f| f.plan());
        let worker = self.workers.get(&id);
        plan.zip(worker).is_some_and(|(plan, worker)| {
            worker.packed.fresh_bytes(plan, plan.weight_set(task.stage, task.tile)) == 0
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
        let mut packed = worker.packed.bytes();
        let counted = known.filter(|_| worker.memory_bytes > 0);
        let tile = counted.map_or(0, |known| known.tile_bytes_max(id));
        let most = (worker.memory_bytes / 2).min(worker.memory_bytes.saturating_sub(tile));
        let mut sets = Vec::new();
        for set in plan.weight_sets_of(id) {
            let weights = worker.packed.fresh_bytes(plan, set);
            if worker.memory_bytes == 0 || packed + weights <= most {
                packed += weights;
                sets.push(set);
            }
        }
        sets
    }

    /// Whether the workers of a plan can keep what one more frame of it leaves with them, beside what the
    /// frames in flight do: else their tasks would wait for each other's memory.
    pub(super) fn can_keep(&self, plan: &ActivePlan) -> bool {
        let limited = self.workers.iter().filter(|(_, w)| w.alive && w.memory_bytes > 0);
        let mut full = limited.filter(|&(&id, worker)| {
            let more = plan.kept_bytes(id);
            let kept = self.frames.values().map(|f| f.plan().kept_bytes(id)).sum::<u64>() + more;
            let fresh = plan.weight_sets_of(id);
            let fresh = fresh.into_iter().map(|set| worker.packed.fresh_bytes(plan, set));
            let weights = || worker.packed.bytes() + fresh.sum::<u64>();
            more > 0 && kept + weights() + plan.tile_bytes_max(id) > worker.memory_bytes
        });
        self.frames.is_empty() || full.next().is_none()
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
