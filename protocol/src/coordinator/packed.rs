//! The weights that a worker has packed, or is to pack: how many bytes, and for which plans.

use super::ActivePlan;
use crate::ids::PlanId;
use crate::survey::{PackedWeight, WeightSet};
use std::collections::{BTreeMap, BTreeSet};

/// What a worker was made to pack.
#[derive(Debug, Default)]
pub(super) struct PackedBook {
    weights: BTreeMap<PackedWeight, Weight>,
    /// The sets of plans that are wholly among these.
    committed: BTreeSet<(PlanId, WeightSet)>,
    bytes: u64,
}

#[derive(Debug)]
struct Weight {
    bytes: u64,
    /// The announced plans that read it.
    plans: BTreeSet<PlanId>,
}

impl PackedBook {
    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of a set's weights that are not among them.
    pub(super) fn fresh_bytes(&self, plan: &ActivePlan, set: WeightSet) -> u64 {
        if self.committed.contains(&(plan.id, set)) {
            return 0;
        }
        let fresh = plan.weights(set).filter(|(weight, _)| !self.weights.contains_key(weight));
        fresh.map(|(_, bytes)| bytes).sum()
    }

    /// Takes a set's weights in. Returns the bytes that are new.
    pub(super) fn commit(&mut self, plan: &ActivePlan, set: WeightSet) -> u64 {
        if !self.committed.insert((plan.id, set)) {
            return 0;
        }
        let mut fresh = 0;
        for (weight, bytes) in plan.weights(set) {
            let known = self.weights.entry(weight).or_insert_with(|| {
                fresh += bytes;
                Weight { bytes, plans: BTreeSet::new() }
            });
            known.plans.insert(plan.id);
        }
        self.bytes += fresh;
        fresh
    }

    /// A plan is over. What no other one reads is given up, layer by layer, as the worker does it; where
    /// the worker does not, it stays.
    pub(super) fn retire(&mut self, plan: PlanId, gives_up: bool) {
        self.committed.retain(|&(of, _)| of != plan);
        self.weights.values_mut().for_each(|weight| _ = weight.plans.remove(&plan));
        if gives_up {
            let read = self.weights.iter().filter(|(_, weight)| !weight.plans.is_empty());
            let read: BTreeSet<_> = read.map(|(weight, _)| weight.0).collect();
            self.weights.retain(|weight, _| read.contains(&weight.0));
            self.bytes = self.weights.values().map(|weight| weight.bytes).sum();
        }
    }

    /// Bytes that there would be with a set's weights and those of `plans` alone.
    pub(super) fn least_bytes(
        &self,
        plans: &BTreeSet<PlanId>,
        of: (&ActivePlan, WeightSet),
    ) -> u64 {
        let read = |weight: &Weight| weight.plans.iter().any(|plan| plans.contains(plan));
        let stay = self.weights.iter().filter(|(_, weight)| read(weight));
        let layers: BTreeSet<_> = stay.map(|(weight, _)| weight.0).collect();
        let stays =
            |weight: &PackedWeight| self.weights.contains_key(weight) && layers.contains(&weight.0);
        let here = self.weights.iter().filter(|(weight, _)| stays(weight));
        let here: u64 = here.map(|(_, weight)| weight.bytes).sum();
        let more = of.0.weights(of.1).filter(|(weight, _)| !stays(weight));
        here + more.map(|(_, bytes)| bytes).sum::<u64>()
    }
}
