//! A worker's memory: what it takes in never exceeds the budget that it said it has.
//!
//! The coordinator counts, too, and sends nothing that should not fit. But it cannot know of copies
//! that it gave up, so the worker has the last word: what does not fit is refused, not run.

use super::{ActivePlan, Output, Worker};
use crate::ids::ModelHash;
use crate::message::{Bundle, Message};
use crate::survey::{PackedLayer, packed_weights};
use std::collections::BTreeSet;
use tiling::LayerWeights;

impl Worker {
    fn budget(&self) -> Option<u64> {
        (self.hello.memory_bytes > 0).then_some(self.hello.memory_bytes)
    }

    fn packed_bytes(&self) -> u64 {
        self.packed.values().sum()
    }

    /// Notes weights that are packed now. They stay when their plan ends, and even when the
    /// coordinator does: the driver keeps the model open.
    pub(super) fn note_packed(&mut self, model: ModelHash, weights: &[LayerWeights]) {
        let Some(graph) = self.models.get(&model) else { return };
        self.packed.extend(packed_weights((model, graph), weights));
    }

    /// Gives up the weights that no plan reads, to make room: models that none computes, and layers of
    /// others.
    fn give_up_unused(&mut self) {
        let used: BTreeSet<ModelHash> = self.plans.values().map(|p| p.model).collect();
        let packed: BTreeSet<ModelHash> =
            self.packed.keys().map(|((model, ..), _)| *model).collect();
        for model in packed.difference(&used) {
            self.packed.retain(|((of, ..), _), _| of != model);
            self.outputs.push_back(Output::Close(*model));
        }
        let read: BTreeSet<PackedLayer> = self.plans.values().flat_map(ActivePlan::reads).collect();
        let packed: BTreeSet<PackedLayer> = self.packed.keys().map(|&(layer, _)| layer).collect();
        for &(model, layer, algorithm) in packed.difference(&read) {
            self.packed.retain(|(of, _), _| *of != (model, layer, algorithm));
            self.outputs.push_back(Output::Unpack { model, layer, algorithm });
        }
    }

    /// Whether something fits, if need be when what no plan reads is given up.
    pub(super) fn with_room(&mut self, fits: impl Fn(&Self) -> bool) -> bool {
        fits(self) || {
            self.give_up_unused();
            fits(self)
        }
    }

    /// Bytes of weights that are not packed yet.
    pub(super) fn weight_bytes(&self, model: ModelHash, weights: &[LayerWeights]) -> u64 {
        let Some(graph) = self.models.get(&model) else { return 0 };
        let all = packed_weights((model, graph), weights);
        let fresh = all.filter(|(weight, _)| !self.packed.contains_key(weight));
        fresh.map(|(_, bytes)| bytes).sum()
    }

    pub(super) fn running_bytes(&self, bundle: &Bundle) -> u64 {
        let plan = self.plans.get(&bundle.plan);
        let Some((plan, survey)) = plan.and_then(|p| Some((p, p.survey.as_ref()?))) else {
            return 0;
        };
        let Some(model) = self.models.get(&plan.model) else { return 0 };
        let (stage, tile) = (bundle.task.stage as usize, bundle.task.tile as usize);
        // What lies here in parts is pasted together.
        let pasted = bundle.source_bytes().unwrap_or(0) as u64;
        survey.running_bytes(model, stage, tile) + pasted
    }

    /// Inputs, what is kept, and results that are not out yet.
    fn tensor_bytes(&self) -> u64 {
        let queued = self.queue.iter().map(|(_, bundle)| bundle);
        let all = queued.chain(self.running.as_ref().map(|r| &r.bundle));
        let inputs: u64 = all.map(|b| b.byte_len().unwrap_or(0) as u64).sum();
        inputs + self.kept.bytes() + self.unsent_bytes
    }

    /// Whether one more bundle fits beside what is here.
    pub(super) fn has_room(&self, bundle: &Bundle) -> bool {
        let Some(budget) = self.budget() else { return true };
        let running = self.running.as_ref().map_or(0, |r| r.bytes);
        let all = self.tensor_bytes() + bundle.byte_len().unwrap_or(usize::MAX) as u64;
        all + running + self.packed_bytes() <= budget
    }

    /// Whether a queued task may run now. It was taken off the queue.
    pub(super) fn may_run(&self, bundle: &Bundle) -> bool {
        let Some(budget) = self.budget() else { return true };
        let inputs = self.tensor_bytes() + bundle.byte_len().unwrap_or(0) as u64;
        inputs + self.running_bytes(bundle) + self.packed_bytes() <= budget
    }

    /// Whether the weights of a stage fit beside what is here.
    pub(super) fn may_pack(&self, bytes: u64) -> bool {
        let Some(budget) = self.budget() else { return true };
        let running = self.running.as_ref().map_or(0, |r| r.bytes);
        self.tensor_bytes() + running + self.packed_bytes() + bytes <= budget
    }

    pub(super) fn refuse(&mut self, bundle: &Bundle) {
        self.drop_task(bundle);
        let (task, attempt) = (bundle.task, bundle.attempt);
        self.send(Message::Refused { task, attempt });
    }
}
