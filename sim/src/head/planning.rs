//! What the simulated coordinator asks of the planner, as `coordinator::drive` does.

use crate::bound::bound;
use crate::cluster::Cluster;
use crate::invariants::Violation;
use crate::rehearsal::Wish;
use crate::scenario::Scenario;
use planner::{Again, DeviceProfile, PlanOptions};
use protocol::coordinator::Input;
use protocol::{ActivePlan, PlanId, Succession, WorkerId};
use std::sync::Arc;
use tiling::{Handover, Shares};

/// Plans, and what was known when they were made.
pub(super) struct Planned {
    pub(super) plans: Succession<()>,
    pub(super) profiles: Vec<DeviceProfile>,
    /// Who is there, or who reaches whom, has changed since.
    pub(super) is_stale: bool,
}

impl Cluster {
    /// What is known of the workers that are there.
    fn profiles(&self) -> (Vec<WorkerId>, Vec<DeviceProfile>) {
        let live = self.head.machine.live();
        let workers = &self.scenario.workers;
        let machine = &self.head.machine;
        let profile = |(id, report): (WorkerId, &protocol::WorkerReport)| {
            let known = machine.profile(id);
            let rates = known.as_ref().map(|known| known.rates).unwrap_or_default();
            let memory_bytes = known.map(|known| known.memory_bytes).filter(|&bytes| bytes > 0);
            let link = &workers[id.0 as usize].link;
            let crate::physics::Power { idle_w, active_w } = workers[id.0 as usize].device.power;
            let profile = DeviceProfile {
                link_bytes_per_s: link.send_bytes_per_s.min(link.receive_bytes_per_s),
                round_trip_ns: link.round_trip.p50_ns,
                late_round_trip_ns: link.round_trip.p90_ns,
                air: link.medium.air(),
                memory_bytes,
                power: (active_w > 0.0).then_some(planner::Power { idle_w, active_w }),
                ..DeviceProfile::wired(report.name.clone(), rates)
            };
            let profile = profile.sharing(self.scenario.options.wire, &self.head.shares);
            (id, profile)
        };
        let (ids, mut profiles): (Vec<WorkerId>, Vec<_>) = live.map(profile).unzip();
        crate::pairs::tell(&self.scenario.pairs, &mut profiles, |place| ids[place].0 as usize);
        (ids, profiles)
    }

    /// The plan for a frame: the known one as long as it runs, until a better one is prepared.
    pub(super) fn plan(&mut self) -> Result<Arc<ActivePlan>, Violation> {
        if let Some(mut known) = self.head.planned.take() {
            known.plans.advance(&self.head.machine);
            let plan = known.plans.known().0.clone();
            let runs = match self.scenario.plan {
                Some(_) => plan.slots.iter().all(|&slot| self.head.machine.profile(slot).is_some()),
                None => self.head.machine.can_run(&plan),
            };
            if runs {
                if !known.plans.is_changing() {
                    self.reconsider(&mut known)?;
                }
                self.head.planned = Some(known);
                return Ok(plan);
            }
        }
        let (slots, profiles) = self.profiles();
        let made = match self.scenario.plan.clone() {
            Some(plan) => Ok(plan),
            None => {
                let wish = Wish {
                    graph: &self.scenario.model.graph,
                    devices: &profiles,
                    strategy: self.scenario.strategy,
                    options: self.within_reach(),
                    rehearsed: self.scenario.rehearsed,
                };
                wish.plan().map(|(plan, _)| plan)
            }
        };
        let made = made.map_err(|e| Violation::Plan(e.to_string()))?;
        let plan = self.bind((slots, &profiles), made)?;
        let plans = Succession::new(plan.clone(), ());
        self.head.planned = Some(Planned { plans, profiles, is_stale: false });
        Ok(plan)
    }

    /// Looks whether a plan that can run is still the one to have. Where it is not, another one is
    /// prepared.
    fn reconsider(&mut self, known: &mut Planned) -> Result<(), Violation> {
        let (slots, profiles) = self.profiles();
        let Scenario { model, strategy, options, rehearsed, .. } = &self.scenario;
        let (graph, rehearsed, strategy) = (&model.graph, *rehearsed, *strategy);
        let work = planner::model_work(graph, options.numerics);
        if !known.is_stale && planner::drifted(&known.profiles, &profiles, &work).is_none() {
            return Ok(());
        }
        let plan = known.plans.known().0.rebound(&slots).expect("all its workers are there");
        let options = self.within_reach();
        let wish = Wish { graph, devices: &profiles, strategy, options, rehearsed };
        let made = match (&self.scenario.plan, known.is_stale) {
            (Some(_), false) => Ok(plan.clone()),
            (Some(made), true) => Ok(made.clone()),
            // Those who came are to get work, however little that saves.
            (None, true) => wish.plan().map(|(made, _)| made),
            (None, false) => wish.again(&plan).map(|again| match again {
                Again::Stays(_) => plan.clone(),
                Again::Changes(made, _) => made,
            }),
        };
        let made = made.map_err(|e| Violation::Plan(e.to_string()))?;
        let fixed = self.scenario.plan.is_some();
        if made != plan || fixed && known.plans.known().0.slots != slots {
            let next = self.bind((slots, &profiles), made)?;
            let before = known.plans.known().0.clone();
            known.plans.follow(next.clone(), ());
            self.head_handle(Input::Prepare { next, known: before }, None);
        }
        (known.profiles, known.is_stale) = (profiles, false);
        Ok(())
    }

    /// Where workers cannot all send each other pieces, or answers are to be compared, every map is
    /// gathered.
    fn within_reach(&self) -> PlanOptions {
        let mut options = self.scenario.options;
        let checks = self.scenario.machine.spot_checks_per_mille > 0;
        if checks || !self.head.machine.all_reach_all() {
            options.handover = Some(Handover::Gather);
        }
        options
    }

    /// Binds a plan to the workers it was made for.
    fn bind(
        &mut self,
        (slots, profiles): (Vec<WorkerId>, &[DeviceProfile]),
        plan: tiling::Plan,
    ) -> Result<Arc<ActivePlan>, Violation> {
        let model = self.scenario.model.clone();
        self.head.next_plan += 1;
        let id = PlanId(self.head.incarnation << 32 | self.head.next_plan);
        let encoding = slots.iter().zip(profiles).filter(|(_, device)| device.encodes(plan.wire));
        let encoding: Vec<WorkerId> = encoding.map(|(&worker, _)| worker).collect();
        let plan = ActivePlan::new(id, model.graph.clone(), self.head.model_hash, plan, slots);
        let shares = if encoding.is_empty() { Shares::default() } else { self.head.shares.clone() };
        self.head.encoding.extend(encoding.iter().map(|&worker| (id, worker)));
        let plan =
            plan.map_err(|e| Violation::Plan(e.to_string()))?.encoding(encoding, shares.clone());
        if self.scenario.checked {
            let (layers, link) = (&self.head.layer_works, self.scenario.head_link);
            let bound = bound((&plan, &shares), layers, &self.scenario.workers, link);
            self.bounds.insert(id, bound);
        }
        let plan = Arc::new(plan);
        self.plans.insert(id, plan.clone());
        Ok(plan)
    }
}
