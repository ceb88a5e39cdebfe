//! A plan that follows another one without a stall.
//!
//! A new plan wants weights that are not packed yet. So those who have a part in it are told at once, and
//! frames go on with the known plan until all of these have said that they are done. What cannot run any
//! more is not waited with.

use super::{ActivePlan, Coordinator};
use crate::Nanos;
use crate::ids::PlanId;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Plans that are being prepared at a time, for different models or settings; the oldest is forgotten.
const UPCOMING_MAX: usize = 4;

impl Coordinator {
    pub(super) fn prepare(&mut self, now: Nanos, next: Arc<ActivePlan>, known: &Arc<ActivePlan>) {
        self.upcoming.insert(next.id, next.clone());
        if self.upcoming.len() > UPCOMING_MAX {
            self.upcoming.pop_first();
        }
        let live = self.workers.iter().filter(|(_, w)| w.alive);
        let untold = live.filter(|(_, w)| !w.announced.contains_key(&next.id));
        let untold: Vec<_> = untold.map(|(&id, _)| id).collect();
        // One that came back with an older release could not even read it.
        let has_part = |id| next.has_part_for(id) && self.understands(id, &next);
        let untold: Vec<_> = untold.into_iter().filter(|&id| has_part(id)).collect();
        for id in untold {
            self.make_room_for_plan(id, &next, Some(known.id));
            let weights = self.weights_to_prepare(id, &next, Some(known));
            self.tell_plan(now, id, &next, (None, weights));
        }
    }

    /// Whether all who have a part in a plan that was to be prepared have packed its weights.
    pub fn is_prepared(&self, plan: &ActivePlan) -> bool {
        let mut parts = self.workers.iter().filter(|(id, w)| w.alive && plan.has_part_for(**id));
        parts.all(|(_, w)| w.prepared.contains(&plan.id))
    }

    /// Whether a plan can be carried out as it was meant: all that it gives tiles to are there, and
    /// where it has them send each other pieces they can.
    pub fn can_run(&self, plan: &ActivePlan) -> bool {
        let live: BTreeSet<_> = self.live().map(|(id, _)| id).collect();
        let understood = |needed: &BTreeSet<_>| match needed.is_empty() {
            true => live.iter().any(|&id| self.understands(id, plan)),
            false => needed.iter().all(|&id| self.understands(id, plan)),
        };
        let needed = plan.needed();
        needed.is_subset(&live)
            && understood(&needed)
            && (!plan.exchanges_any() || self.all_reach_all())
    }
}

/// The plan that frames get, and the one that will follow it, each with what its maker remembers of it.
#[derive(Debug)]
pub struct Succession<T> {
    known: (Arc<ActivePlan>, T),
    next: Option<(Arc<ActivePlan>, T)>,
}

impl<T> Succession<T> {
    /// A plan that the next frame gets.
    pub fn new(plan: Arc<ActivePlan>, about: T) -> Self {
        Self { known: (plan, about), next: None }
    }

    /// What the next frame gets.
    pub fn known(&self) -> (&Arc<ActivePlan>, &T) {
        (&self.known.0, &self.known.1)
    }

    /// The same, to remember something else of it.
    pub fn about_mut(&mut self) -> &mut T {
        &mut self.known.1
    }

    /// Whether another plan is being prepared: one change at a time.
    pub fn is_changing(&self) -> bool {
        self.next.is_some()
    }

    /// Another plan is to follow; its weights are to be prepared.
    pub fn follow(&mut self, plan: Arc<ActivePlan>, about: T) {
        self.next = Some((plan, about));
    }

    /// Forgets the plan that was to follow: those who are there have changed.
    pub fn stay(&mut self) {
        self.next = None;
    }

    /// Moves on to the plan that was to follow when it is prepared, or when it can run and the known one
    /// cannot any more. Returns the plan that was in use, or nothing where it still is.
    pub fn advance(&mut self, machine: &Coordinator) -> Option<PlanId> {
        let (next, _) = self.next.as_ref()?;
        if !machine.can_run(next) {
            self.next = None;
            return None;
        }
        if !machine.is_prepared(next) && machine.can_run(&self.known.0) {
            return None;
        }
        let before = std::mem::replace(&mut self.known, self.next.take()?);
        Some(before.0.id)
    }
}
