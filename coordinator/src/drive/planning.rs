//! What is asked of the planner, and what it is told: the workers that are there now, as they were
//! measured. A plan is kept until these have changed.

use super::Driver;
use crate::cluster::{BandJob, HostedModel, Job};
use kernels::Pieces;
use model::WeightHash;
use planner::{Again, Cost, DeviceProfile, PlanOptions, Strategy};
use protocol::{ActivePlan, PlanId, WorkerId, WorkerProfile, WorkerReport};
use sim::rehearsal::Wish;
use std::sync::Arc;
use tiling::{Grid, Handover, Numerics, Plan, Wire};

/// A frame, or a band of one, and how it is to be planned.
pub(crate) struct Work {
    pub(super) model: Arc<HostedModel>,
    pub(super) inputs: Pieces,
    wanted: Wanted,
}

#[derive(Clone)]
enum Wanted {
    Strategy(Strategy, PlanOptions),
    Band { grid: Grid, row: usize, numerics: Numerics },
}

impl Work {
    pub(crate) fn of(job: Job) -> Self {
        let Job { model, inputs, strategy, options } = job;
        Self { model, inputs, wanted: Wanted::Strategy(strategy, options) }
    }

    pub(crate) fn of_band(job: BandJob) -> Self {
        let BandJob { model, inputs, grid, row, numerics } = job;
        Self { model, inputs, wanted: Wanted::Band { grid, row, numerics } }
    }

    /// Refuses inputs that lack what the tasks of the plan read: nobody asks again before pieces
    /// are cut.
    pub(super) fn check_inputs(&self, plan: &ActivePlan) -> Result<(), String> {
        let model = &plan.model;
        let read = plan.geometry().iter().flat_map(|s| &s.tiles).flat_map(|t| &t.inputs);
        for (map, region) in read.filter(|(map, _)| model.inputs.contains(map)) {
            let given = self.inputs.iter().find(|(given, _)| given == map);
            if !given.is_some_and(|(_, piece)| piece.region.contains(*region)) {
                let name = &model.map(*map).name;
                return Err(format!("the input `{name}` lacks {region}, which a tile reads"));
            }
        }
        Ok(())
    }
}

/// A plan that was made before, and what it was made for.
pub(super) struct Planned {
    model: WeightHash,
    strategy: Strategy,
    options: PlanOptions,
    devices: Vec<DeviceProfile>,
    /// What these are compared by.
    work: tiling::Work,
    plan: Arc<ActivePlan>,
    cost: Cost,
}

impl Driver {
    /// What the planner knows of a worker: what was measured, and where nothing was yet, what such
    /// links usually carry.
    pub(super) fn profile(&self, id: WorkerId, name: &str, known: &WorkerProfile) -> DeviceProfile {
        let seen_at = self.addresses.get(&id).and_then(|(_, addresses)| addresses.first());
        let usual = match seen_at.is_some_and(net::is_loopback) {
            true => DeviceProfile::same_machine(name, known.rates),
            false => DeviceProfile::wired(name, known.rates),
        };
        // All radios of a home are taken to share one access point. Where the coordinator's link is
        // one, everything crosses that air.
        let on_air = (self.on_air || known.health.wireless == Some(true)) && !usual.same_machine;
        DeviceProfile {
            link_bytes_per_s: known.link_bytes_per_s.unwrap_or(usual.link_bytes_per_s),
            round_trip_ns: known.round_trip_ns.unwrap_or(usual.round_trip_ns),
            late_round_trip_ns: known.late_round_trip_ns.unwrap_or(usual.late_round_trip_ns),
            air: on_air.then_some(0),
            memory_bytes: Some(known.memory_bytes).filter(|&bytes| bytes > 0),
            ..usual
        }
    }

    fn profiles(&self) -> (Vec<WorkerId>, Vec<DeviceProfile>) {
        let of = |(id, report): (WorkerId, &WorkerReport)| {
            let known = self.machine.profile(id)?;
            Some((id, self.profile(id, &report.name, &known)))
        };
        self.machine.live().filter_map(of).unzip()
    }

    /// Where workers cannot all send each other pieces, or answers are to be compared, every map is
    /// gathered.
    fn within_reach(&self, wanted: &Wanted) -> Wanted {
        let mut wanted = wanted.clone();
        if let Wanted::Strategy(_, options) = &mut wanted
            && (self.spot_checks || !self.machine.all_reach_all())
        {
            options.handover = Some(Handover::Gather);
        }
        wanted
    }

    /// The plan for the workers that are there now.
    pub(super) fn plan(&mut self, work: &Work) -> Result<(Arc<ActivePlan>, Cost), String> {
        let wanted = self.within_reach(&work.wanted);
        let (slots, mut devices) = self.profiles();
        let wire = match &wanted {
            Wanted::Strategy(_, options) => options.wire,
            Wanted::Band { .. } => Wire::Auto,
        };
        let of = (work.model.hash, &*work.model.loaded.graph);
        if devices.iter().any(|device| device.encodes(wire)) {
            let shares = self.seen.shares(of, wire, &work.inputs);
            devices = devices.into_iter().map(|device| device.sharing(wire, &shares)).collect();
        }
        let graph = &work.model.loaded.graph;
        if let Wanted::Strategy(strategy, options) = wanted {
            let known = self.planned.iter().position(|p| {
                p.model == work.model.hash.0 && p.strategy == strategy && p.options == options
            });
            if let Some(at) = known {
                let known = &self.planned[at];
                let Some(change) = planner::drifted(&known.devices, &devices, &known.work) else {
                    return Ok((known.plan.clone(), known.cost.clone()));
                };
                let known = self.planned.remove(at);
                let rehearsed = true;
                let wish = Wish { graph, devices: &devices, strategy, options, rehearsed };
                match wish.again(&known.plan.plan).map_err(|e| e.to_string())? {
                    Again::Stays(cost) => {
                        tracing::info!("the plan stays, no other is much better: {change}");
                        let plan = known.plan.clone();
                        self.planned.push(Planned { devices, cost: cost.clone(), ..known });
                        return Ok((plan, cost));
                    }
                    Again::Changes(plan, cost) => {
                        tracing::info!("a new plan: {change}");
                        return self.take_up(work, &wanted, (slots, devices), (plan, cost));
                    }
                }
            }
        }
        let made = match &wanted {
            &Wanted::Strategy(strategy, options) => {
                let rehearsed = true;
                Wish { graph, devices: &devices, strategy, options, rehearsed }.plan()
            }
            Wanted::Band { grid, row, numerics } => {
                planner::band(graph, &devices, grid, *row, *numerics)
            }
        };
        self.take_up(work, &wanted, (slots, devices), made.map_err(|e| e.to_string())?)
    }

    /// Binds a plan to the workers it was made for, and remembers it.
    fn take_up(
        &mut self,
        work: &Work,
        wanted: &Wanted,
        (slots, devices): (Vec<WorkerId>, Vec<DeviceProfile>),
        (plan, cost): (Plan, Cost),
    ) -> Result<(Arc<ActivePlan>, Cost), String> {
        let graph = &work.model.loaded.graph;
        self.next_plan += 1;
        let id = PlanId(self.next_plan);
        let encoding = slots.iter().zip(&devices).filter(|(_, device)| device.encodes(plan.wire));
        let encoding: Vec<WorkerId> = encoding.map(|(&worker, _)| worker).collect();
        let shares = devices.iter().map(|device| &device.shares);
        let shares = shares.max_by_key(|shares| shares.is_known()).cloned().unwrap_or_default();
        let plan = ActivePlan::new(id, graph.clone(), work.model.hash, plan, slots);
        let plan = Arc::new(plan.map_err(|e| e.to_string())?.encoding(encoding, shares));
        // Each band has a plan of its own, made once.
        if let Wanted::Strategy(strategy, options) = wanted {
            let (model, plan, cost) = (work.model.hash.0, plan.clone(), cost.clone());
            let work = planner::model_work(graph, options.numerics);
            let (strategy, options) = (*strategy, *options);
            self.planned.push(Planned { model, strategy, options, devices, work, plan, cost });
        }
        Ok((plan, cost))
    }
}
