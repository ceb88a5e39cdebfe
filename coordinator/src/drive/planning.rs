//! What is asked of the planner, and what it is told: the workers that are there now, as they were
//! measured. A plan is kept until these have changed, and until the one that follows is prepared.

use super::Driver;
use crate::cluster::{BandJob, HostedModel, Job};
use crate::watts::Watts;
use kernels::Pieces;
use model::WeightHash;
use planner::{Again, Cost, DeviceProfile, Pair, PlanOptions, Strategy};
use protocol::coordinator::Input;
use protocol::{ActivePlan, PairLink, PlanId, Succession, WorkerId, WorkerProfile, WorkerReport};
use sim::rehearsal::Wish;
use std::sync::Arc;
use std::time::Instant;
use tiling::{Grid, Handover, Numerics, Plan, Shares, Wire};

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

/// Where maps take more or less than that, in thousandths, it is told anew what a frame moves.
const TOLD_PER_MILLE: u32 = 5;

/// Plans that are remembered, for different models or settings; the oldest is forgotten.
const PLANNED_MAX: usize = 64;

/// What was planned before, and what it was planned for.
pub(super) struct Planned {
    model: WeightHash,
    strategy: Strategy,
    options: PlanOptions,
    devices: Vec<DeviceProfile>,
    /// What maps took on the wire when it was last told what a frame moves.
    told: Shares,
    /// What these are compared by.
    work: tiling::Work,
    /// Who is there, or who reaches whom, has changed since.
    is_stale: bool,
    plans: Succession<Cost>,
}

impl Planned {
    /// Who reaches whom has changed.
    pub(super) fn look_again(&mut self) {
        self.is_stale = true;
    }

    /// Who is there has changed: what is being prepared is for others.
    pub(super) fn begin_again(&mut self) {
        self.plans.stay();
        self.is_stale = true;
    }

    fn is_for(&self, work: &Work) -> bool {
        matches!(work.wanted, Wanted::Strategy(strategy, options)
            if strategy == self.strategy && options == self.options)
            && self.model == work.model.hash.0
    }
}

impl Driver {
    /// What the planner knows of a worker: what was measured, and where nothing was yet, what such
    /// links usually carry.
    pub(super) fn profile(&self, id: WorkerId, name: &str, known: &WorkerProfile) -> DeviceProfile {
        let seen_at = self.reached.get(&id).and_then(|reached| reached.addresses.first());
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
            power: Watts::of(known).map(|watts| watts.planned()),
            key: id.0.into(),
            ..usual
        }
    }

    /// The workers that are there, with what the planner knows of them and of the ways between them.
    pub(super) fn profiles(&self) -> (Vec<WorkerId>, Vec<DeviceProfile>) {
        let of = |(id, report): (WorkerId, &WorkerReport)| {
            let known = self.machine.profile(id)?;
            Some((id, self.profile(id, &report.name, &known), known.pairs))
        };
        let all: Vec<_> = self.machine.live().filter_map(of).collect();
        let pairs = all.iter().map(|(_, profile, pairs)| {
            let unusual = pairs.iter().filter_map(|pair| {
                let with = u64::from(pair.peer.0);
                let (_, other, _) = all.iter().find(|(id, ..)| *id == pair.peer)?;
                let PairLink { bytes_per_s, round_trip_ns, .. } = *pair;
                let pair = Pair { with, bytes_per_s, round_trip_ns };
                profile.is_unusual(other, pair).then_some(pair)
            });
            unusual.collect::<Vec<_>>()
        });
        let pairs: Vec<_> = pairs.collect();
        let told = all.into_iter().zip(pairs);
        told.map(|((id, profile, _), pairs)| (id, DeviceProfile { pairs, ..profile })).unzip()
    }

    /// What of it those who are there can do: all compute as the oldest release among them does, and where
    /// they cannot all send each other pieces, or answers are to be compared, every map is gathered.
    fn within_reach(&self, wanted: &Wanted) -> Wanted {
        let mut wanted = wanted.clone();
        let (Wanted::Strategy(_, PlanOptions { numerics, .. }) | Wanted::Band { numerics, .. }) =
            &mut wanted;
        *numerics = protocol::shared_numerics(self.machine.shared_version(), *numerics);
        if let Wanted::Strategy(_, options) = &mut wanted
            && (self.spot_checks || !self.machine.all_reach_all())
        {
            options.handover = Some(Handover::Gather);
        }
        wanted
    }

    /// What the planner is told of the workers that are there now, for some work.
    fn devices_for(&self, work: &Work) -> (Vec<WorkerId>, Vec<DeviceProfile>) {
        let (slots, mut devices) = self.profiles();
        let wire = match &work.wanted {
            Wanted::Strategy(_, options) => options.wire,
            Wanted::Band { .. } => Wire::Auto,
        };
        let of = (work.model.hash, &*work.model.loaded.graph);
        if devices.iter().any(|device| device.encodes(wire)) {
            let shares = self.seen.shares(of, wire, &work.inputs);
            devices = devices.into_iter().map(|device| device.sharing(wire, &shares)).collect();
        }
        for device in &devices {
            tracing::debug!(
                "{}: link {} B/s, round trip {} ns, late {} ns, unusual ways {:?}",
                device.name,
                device.link_bytes_per_s,
                device.round_trip_ns,
                device.late_round_trip_ns,
                device.pairs
            );
        }
        (slots, devices)
    }

    /// The plan for a frame: the known one as long as it runs, until a better one is prepared.
    pub(super) fn plan(&mut self, work: &Work) -> Result<(Arc<ActivePlan>, Cost), String> {
        let at = self.planned.iter().position(|known| known.is_for(work));
        let known = at.map(|at| self.planned.remove(at));
        if let Some(mut known) = known {
            if known.plans.advance(&self.machine).is_some() {
                tracing::info!("frames get the new plan from now on: its weights are packed");
            }
            if self.machine.can_run(known.plans.known().0) {
                if !known.plans.is_changing() {
                    self.reconsider(work, &mut known)?;
                }
                let (plan, cost) = known.plans.known();
                let planned = (plan.clone(), cost.clone());
                self.planned.push(known);
                return Ok(planned);
            }
        }
        let (slots, devices) = self.devices_for(work);
        let graph = &work.model.loaded.graph;
        let made = match self.within_reach(&work.wanted) {
            Wanted::Strategy(strategy, options) => {
                let rehearsed = true;
                Wish { graph, devices: &devices, strategy, options, rehearsed }.plan()
            }
            Wanted::Band { grid, row, numerics } => {
                planner::band(graph, &devices, &grid, row, numerics)
            }
        };
        let (plan, cost) = made.map_err(|e| e.to_string())?;
        let plan = self.bind(work, (slots, &devices), plan)?;
        // Each band has a plan of its own, made once.
        if let Wanted::Strategy(strategy, options) = work.wanted {
            if self.planned.len() >= PLANNED_MAX {
                self.planned.remove(0);
            }
            let (model, is_stale) = (work.model.hash.0, false);
            let plans = Succession::new(plan.clone(), cost.clone());
            let work = planner::model_work(graph, options.numerics);
            let told = shares_of(&devices);
            let known = Planned { model, strategy, options, devices, told, work, is_stale, plans };
            self.planned.push(known);
        }
        Ok((plan, cost))
    }

    /// Looks whether a plan that can run is still the one to have. Where it is not, another one is
    /// prepared.
    fn reconsider(&mut self, work: &Work, known: &mut Planned) -> Result<(), String> {
        let (slots, devices) = self.devices_for(work);
        let change = match known.is_stale {
            true => Some("other devices are there, or reach each other".to_owned()),
            false => planner::drifted(&known.devices, &devices, &known.work),
        };
        let now = shares_of(&devices);
        let begun = Instant::now();
        let is_due = known.is_stale || self.looks.are_due(begun);
        let Some(change) = change.filter(|_| is_due) else {
            if now.differ_by_more_than(TOLD_PER_MILLE, &known.told) {
                let plan =
                    known.plans.known().0.rebound(&slots).expect("all its workers are there");
                let cost = known.plans.known().1.clone();
                let moving = cost.moving_now(&work.model.loaded.graph, &devices, &plan);
                *known.plans.about_mut() = moving.map_err(|e| e.to_string())?;
                known.told = now;
            }
            return Ok(());
        };
        let Wanted::Strategy(strategy, options) = self.within_reach(&work.wanted) else {
            return Ok(());
        };
        let (graph, rehearsed) = (&work.model.loaded.graph, true);
        let wish = Wish { graph, devices: &devices, strategy, options, rehearsed };
        let plan = known.plans.known().0.rebound(&slots).expect("all its workers are there");
        let again = match known.is_stale {
            // Those who came are to get work, however little that saves.
            true => wish.plan().map(|(made, cost)| match made == plan {
                true => Again::Stays(cost),
                false => Again::Changes(made, cost),
            }),
            false => wish.again(&plan),
        };
        self.looks.took(begun.elapsed());
        match again.map_err(|e| e.to_string())? {
            Again::Stays(cost) => {
                tracing::info!("the plan stays, no other is much better: {change}");
                *known.plans.about_mut() = cost;
            }
            Again::Changes(plan, cost) => {
                tracing::info!("a new plan, used as soon as its weights are packed: {change}");
                let next = self.bind(work, (slots, &devices), plan)?;
                let before = known.plans.known().0.clone();
                known.plans.follow(next.clone(), cost);
                self.handle(Input::Prepare { next, known: before }, None);
            }
        }
        (known.devices, known.told, known.is_stale) = (devices, now, false);
        Ok(())
    }

    /// Binds a plan to the workers it was made for.
    fn bind(
        &mut self,
        work: &Work,
        (slots, devices): (Vec<WorkerId>, &[DeviceProfile]),
        plan: Plan,
    ) -> Result<Arc<ActivePlan>, String> {
        let graph = &work.model.loaded.graph;
        self.next_plan += 1;
        let id = PlanId(self.next_plan);
        let encoding = slots.iter().zip(devices).filter(|(_, device)| device.encodes(plan.wire));
        let encoding: Vec<WorkerId> = encoding.map(|(&worker, _)| worker).collect();
        let shares = shares_of(devices);
        let plan = ActivePlan::new(id, graph.clone(), work.model.hash, plan, slots);
        Ok(Arc::new(plan.map_err(|e| e.to_string())?.encoding(encoding, shares)))
    }
}

/// What maps take on the wire where they are encoded.
fn shares_of(devices: &[DeviceProfile]) -> Shares {
    let shares = devices.iter().map(|device| &device.shares);
    shares.max_by_key(|shares| shares.is_known()).cloned().unwrap_or_default()
}
