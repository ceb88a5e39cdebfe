//! A worker's memory: what it takes in never exceeds the budget that it said it has.
//!
//! The coordinator counts, too, and sends nothing that should not fit. But it cannot know of copies
//! that it gave up, so the worker has the last word: what does not fit is refused, not run.

use super::Worker;
use crate::ids::ModelHash;
use crate::message::{Bundle, Message};
use model::LayerId;
use std::collections::BTreeSet;

impl Worker {
    fn budget(&self) -> Option<u64> {
        (self.hello.memory_bytes > 0).then_some(self.hello.memory_bytes)
    }

    /// Layers whose weights it has packed or packs.
    fn packed_layers(&self) -> BTreeSet<(ModelHash, u32)> {
        let mut layers = BTreeSet::new();
        for plan in self.plans.values() {
            for &stage in plan.prepared.union(&plan.preparing) {
                let Some(body) = plan.body.stages.get(stage as usize) else { continue };
                layers.extend((body.first_layer..body.end_layer).map(|l| (plan.model, l)));
            }
        }
        layers
    }

    fn layer_bytes(&self, model: ModelHash, layer: u32) -> u64 {
        let Some(model) = self.models.get(&model) else { return 0 };
        let ids = model.layer(LayerId(layer)).op.weight_ids();
        ids.iter().map(|&id| model.weight(id).bytes() as u64).sum()
    }

    fn packed_bytes(&self) -> u64 {
        let layers = self.packed_layers();
        layers.into_iter().map(|(model, layer)| self.layer_bytes(model, layer)).sum()
    }

    /// Weights of these layers that are not packed yet.
    pub(super) fn weight_bytes(&self, model: ModelHash, layers: std::ops::Range<u32>) -> u64 {
        let packed = self.packed_layers();
        let fresh = layers.map(|l| (model, l)).filter(|key| !packed.contains(key));
        fresh.map(|(model, layer)| self.layer_bytes(model, layer)).sum()
    }

    fn running_bytes(&self, bundle: &Bundle) -> u64 {
        let plan = self.plans.get(&bundle.plan);
        let Some((plan, survey)) = plan.and_then(|p| Some((p, p.survey.as_ref()?))) else {
            return 0;
        };
        let Some(model) = self.models.get(&plan.model) else { return 0 };
        survey.running_bytes(model, bundle.task.stage as usize, bundle.task.tile as usize)
    }

    fn input_bytes(&self) -> u64 {
        let queued = self.queue.iter().map(|(_, bundle)| bundle);
        let all = queued.chain(self.running.as_ref().map(|r| &r.bundle));
        all.map(|b| b.byte_len().unwrap_or(0) as u64).sum()
    }

    /// Whether one more bundle fits beside what is here.
    pub(super) fn has_room(&self, bundle: &Bundle) -> bool {
        let Some(budget) = self.budget() else { return true };
        let running = self.running.as_ref().map_or(0, |r| self.running_bytes(&r.bundle));
        let all = self.input_bytes() + bundle.byte_len().unwrap_or(usize::MAX) as u64;
        all + running + self.packed_bytes() <= budget
    }

    /// Whether a queued task may run now. It was taken off the queue.
    pub(super) fn may_run(&self, bundle: &Bundle) -> bool {
        let Some(budget) = self.budget() else { return true };
        let inputs = self.input_bytes() + bundle.byte_len().unwrap_or(0) as u64;
        inputs + self.running_bytes(bundle) + self.packed_bytes() <= budget
    }

    /// Whether the weights of a stage fit beside what is here.
    pub(super) fn may_pack(&self, bytes: u64) -> bool {
        let Some(budget) = self.budget() else { return true };
        let running = self.running.as_ref().map_or(0, |r| self.running_bytes(&r.bundle));
        self.input_bytes() + running + self.packed_bytes() + bytes <= budget
    }

    pub(super) fn refuse(&mut self, bundle: &Bundle) {
        self.drop_task(bundle);
        let (task, attempt) = (bundle.task, bundle.attempt);
        self.send(Message::Refused { task, attempt });
    }
}
