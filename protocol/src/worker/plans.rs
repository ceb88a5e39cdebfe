//! The plans that a worker knows: their models, their geometry, the weights of their stages.

use super::{Output, Peer, Worker};
use crate::ids::{ModelHash, PlanId};
use crate::message::{Bundle, Message};
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
        self.prepare_stages();
    }

    pub(super) fn prepare_stages(&mut self) {
        let mut wanted = Vec::new();
        for (&id, plan) in self.plans.iter().filter(|(_, plan)| plan.survey.is_some()) {
            let done =
                |stage: &u32| plan.prepared.contains(stage) || plan.preparing.contains(stage);
            wanted.extend(plan.wanted_stages.iter().filter(|s| !done(s)).map(|&s| (id, s)));
        }
        for (id, stage) in wanted {
            self.prepare(id, stage);
        }
    }

    pub(super) fn prepare(&mut self, id: PlanId, stage: u32) {
        let Some(plan) = self.plans.get(&id) else { return };
        let (Some(survey), Some(body)) = (&plan.survey, plan.body.stages.get(stage as usize))
        else {
            return;
        };
        let layers = body.first_layer..body.end_layer;
        let algorithms = survey.stages[stage as usize].algorithms.clone();
        let model = plan.model;
        let mut room = self.may_pack(self.weight_bytes(model, layers.clone()));
        if !room {
            self.close_unused();
            room = self.may_pack(self.weight_bytes(model, layers.clone()));
        }
        if !room {
            // What waits for these weights would wait for ever.
            let refused = self.queue.iter().filter(|(_, b)| b.plan == id && b.task.stage == stage);
            let refused: Vec<Bundle> = refused.map(|(_, bundle)| bundle.clone()).collect();
            self.queue.retain(|(_, b)| b.plan != id || b.task.stage != stage);
            return refused.iter().for_each(|bundle| self.refuse(bundle));
        }
        if let Some(plan) = self.plans.get_mut(&id) {
            plan.preparing.insert(stage);
        }
        self.note_packed(model, layers.clone());
        self.outputs.push_back(Output::Prepare { plan: id, stage, model, layers, algorithms });
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
        self.prepare_stages();
    }
}
