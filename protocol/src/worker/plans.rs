//! The plans that a worker knows: their models, their geometry, the weights of their stages.

use super::{Output, Peer, Worker};
use crate::ids::{ModelHash, PlanId};
use crate::message::{Bundle, Message};
use crate::survey::WeightSet;
use model::WeightHash;
use std::collections::BTreeSet;

impl Worker {
    /// A plan whose model is open gets its geometry and the weights of its stages.
    pub(super) fn open_plans(&mut self, hash: ModelHash) {
        let Some(model) = self.models.get(&hash).cloned() else { return };
        let mut broken = None;
        for (&id, plan) in &mut self.plans {
            if plan.model != hash || plan.survey.is_some() {
                continue;
            }
            match self.surveys.of((hash, &model), id, &plan.body) {
                Ok(survey) => plan.survey = Some(survey),
                Err(error) => broken = Some(format!("plan {} does not fit: {error}", id.0)),
            }
        }
        if let Some(reason) = broken {
            return self.break_off(Peer::Coordinator, reason);
        }
        self.prepare_weights();
    }

    pub(super) fn prepare_weights(&mut self) {
        let mut wanted = Vec::new();
        for (&id, plan) in &self.plans {
            let Some(survey) = &plan.survey else { continue };
            let of_tasks = plan.tasks.iter().map(|&(stage, tile)| survey.weight_set(stage, tile));
            let begun =
                |set: &WeightSet| plan.prepared.contains(set) || plan.preparing.contains(set);
            // Mostly none is left, and this is asked with every bundle.
            let sets = plan.wanted.iter().copied().chain(of_tasks).filter(|set| !begun(set));
            let sets: BTreeSet<WeightSet> = sets.collect();
            wanted.extend(sets.into_iter().map(|set| (id, set)));
        }
        for (id, set) in wanted {
            self.prepare(id, set);
        }
        self.tell_prepared();
    }

    /// Says which plans could begin without waiting for weights.
    pub(super) fn tell_prepared(&mut self) {
        let mut done = Vec::new();
        for (&id, plan) in &mut self.plans {
            let packed = plan.survey.is_some() && plan.wanted.is_subset(&plan.prepared);
            if packed && !std::mem::replace(&mut plan.told, true) {
                done.push(id);
            }
        }
        done.into_iter().for_each(|plan| self.send(Message::Prepared { plan }));
    }

    pub(super) fn prepare(&mut self, id: PlanId, set: WeightSet) {
        let Some(plan) = self.plans.get(&id) else { return };
        let Some(survey) = plan.survey.clone() else { return };
        let Some(weights) = survey.weights(set) else { return };
        let model = plan.model;
        if !self.with_room(|me| me.may_pack(me.weight_bytes(model, weights))) {
            // What waits for these weights would wait for ever.
            let waits =
                |b: &Bundle| b.plan == id && survey.weight_set(b.task.stage, b.task.tile) == set;
            let refused = self.queue.iter().filter(|(_, b)| waits(b));
            let refused: Vec<Bundle> = refused.map(|(_, bundle)| bundle.clone()).collect();
            self.queue.retain(|(_, b)| !waits(b));
            // Nobody need wait for what was only to be early. A task that comes tries again.
            if let Some(plan) = self.plans.get_mut(&id) {
                plan.wanted.remove(&set);
            }
            return refused.iter().for_each(|bundle| self.refuse(bundle));
        }
        if let Some(plan) = self.plans.get_mut(&id) {
            plan.preparing.insert(set);
        }
        self.note_packed(model, weights);
        let weights = weights.to_vec();
        self.outputs.push_back(Output::Prepare { plan: id, set, model, weights });
    }

    pub(super) fn want(&mut self, hashes: Vec<WeightHash>) {
        if !self.connected {
            // A job from before: remembered as asked for, its blobs would never be asked for.
            return;
        }
        let hashes: Vec<_> = hashes.into_iter().filter(|h| self.missing.insert(*h)).collect();
        if !hashes.is_empty() {
            self.send(Message::Want { hashes });
        }
    }

    pub(super) fn retry_after_blobs(&mut self) {
        let unopened: BTreeSet<ModelHash> =
            self.plans.values().filter(|p| p.survey.is_none()).map(|p| p.model).collect();
        self.outputs.extend(unopened.into_iter().map(Output::Open));
        self.plans.values_mut().for_each(|p| p.preparing.clear());
        self.prepare_weights();
    }
}
