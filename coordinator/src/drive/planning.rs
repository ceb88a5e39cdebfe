//! What is asked of the planner, and what it is told: the workers that are there now, as they were
//! measured. A plan is kept until these have changed, and until the one that follows is prepared.

use super::planned::{InUse, Kind, Planned, shares_of};
use super::thinking::{Answer, Asked, Question, Thought};
use super::{Driver, FrameReply};
use crate::cluster::{BandJob, HostedModel, Job};
use crate::watts::Watts;
use kernels::Pieces;
use model::Model;
use planner::{Again, Cost, DeviceProfile, Pair, PlanOptions, PlannerError, Strategy};
use protocol::coordinator::Input;
use protocol::{ActivePlan, ModelHash, PairLink, PlanId, Succession};
use protocol::{WorkerId, WorkerProfile, WorkerReport};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tiling::{Grid, Handover, Numerics, Plan, Wire};

/// A frame, or a band of one, and how it is to be planned.
pub(crate) struct Work {
    pub(super) model: Arc<HostedModel>,
    pub(super) inputs: Pieces,
    wanted: Wanted,
}

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
    fn within_reach(&self, options: PlanOptions) -> PlanOptions {
        let numerics = protocol::shared_numerics(self.machine.shared_version(), options.numerics);
        let gathers = self.spot_checks || !self.machine.all_reach_all();
        let handover = if gathers { Some(Handover::Gather) } else { options.handover };
        PlanOptions { numerics, handover, ..options }
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

    /// A frame that came: it begins, or waits for a worker or its plan.
    pub(super) fn submit(&mut self, work: Work, reply: FrameReply) {
        if self.machine.live().next().is_none() {
            self.waiting.push((work, reply));
            return;
        }
        match work.wanted {
            Wanted::Strategy(strategy, options) => {
                let kind = Kind { model: work.model.hash.0, strategy, options };
                match self.plan(kind, &work) {
                    Some(planned) => self.begin(work, planned, reply),
                    None => {
                        self.progress.planned_for.fetch_add(1, Ordering::Relaxed);
                        self.planned.of(kind).waiting.push((work, reply));
                    }
                }
            }
            // Each band has a plan of its own, made once and without a search.
            Wanted::Band { ref grid, row, numerics } => {
                match self.plan_band(&work, grid, row, numerics) {
                    Ok(planned) => self.begin(work, planned, reply),
                    Err(reason) => {
                        let _ = reply.send(Err(reason));
                    }
                }
            }
        }
    }

    /// The plan that frames of a kind get now, the known one as long as it runs and until a better one is
    /// prepared; none where that is still being thought about.
    fn plan(&mut self, kind: Kind, work: &Work) -> Option<(Arc<ActivePlan>, Cost)> {
        let Planned { in_use, is_asked, .. } = self.planned.of(kind);
        if let Some(in_use) = in_use.as_mut()
            && in_use.plans.advance(&self.machine).is_some()
        {
            tracing::info!("frames get the new plan from now on: its weights are packed");
        }
        let in_use = in_use.as_ref().filter(|u| self.machine.can_run(u.plans.known().0));
        let (runs, is_changing) = (in_use.is_some(), in_use.is_some_and(|u| u.plans.is_changing()));
        if !*is_asked && !is_changing {
            self.reconsider(kind, work, runs);
        }
        let in_use = self.planned.of(kind).in_use.as_ref().filter(|_| runs)?;
        let (plan, cost) = in_use.plans.known();
        Some((plan.clone(), cost.clone()))
    }

    fn plan_band(
        &mut self,
        work: &Work,
        grid: &Grid,
        row: usize,
        numerics: Numerics,
    ) -> Result<(Arc<ActivePlan>, Cost), String> {
        let numerics = protocol::shared_numerics(self.machine.shared_version(), numerics);
        let (slots, devices) = self.devices_for(work);
        let model = (work.model.hash, &work.model.loaded.graph);
        let made = planner::band(model.1, &devices, grid, row, numerics);
        let (plan, cost) = made.map_err(|e| e.to_string())?;
        Ok((self.bind(model, (slots, &devices), plan)?, cost))
    }

    /// Has the planner think, where no plan runs, or where the one in use may not be the one to have any
    /// more.
    fn reconsider(&mut self, kind: Kind, work: &Work, runs: bool) {
        let (slots, devices) = self.devices_for(work);
        let options = self.within_reach(kind.options);
        let model = (work.model.hash, work.model.loaded.graph.clone());
        let Planned { in_use, is_asked, is_stale, .. } = self.planned.of(kind);
        let asked = match in_use.as_mut().filter(|_| runs) {
            None => Asked::First,
            Some(in_use) => {
                let drifted = match *is_stale {
                    true => Some("other devices are there, or reach each other".to_owned()),
                    false => planner::drifted(&in_use.devices, &devices, &in_use.work),
                };
                let is_due = *is_stale || self.looks.are_due(Instant::now());
                let Some(change) = drifted.filter(|_| is_due) else {
                    return in_use.tell(&model.1, &slots, &devices);
                };
                Asked::Next { known: in_use.rebound(&slots), anew: *is_stale, change }
            }
        };
        (*is_asked, *is_stale) = (true, false);
        self.thinker.ask(Question { kind, model, slots, devices, options, asked });
    }

    /// What the planner thought.
    pub(super) fn on_thought(&mut self, Thought { question, answer }: Thought) {
        let there: Vec<WorkerId> = self.machine.live().map(|(id, _)| id).collect();
        let planned = self.planned.of(question.kind);
        planned.is_asked = false;
        let waiting = std::mem::take(&mut planned.waiting);
        self.progress.planned_for.fetch_sub(waiting.len() as u64, Ordering::Relaxed);
        let is_for_all = question.slots == there;
        if !is_for_all {
            tracing::info!("others are there now than the plan was made for");
            planned.is_stale = true;
        }
        match answer {
            // Who came meanwhile has a part in the next plan: frames have waited long enough.
            Answer::First(made)
                if is_for_all
                    || made.is_ok() && question.slots.iter().all(|id| there.contains(id)) =>
            {
                return self.use_first(question, made, waiting);
            }
            Answer::Next { again, change, took } => {
                self.looks.took(took);
                if is_for_all {
                    self.use_next(question, again, &change);
                }
            }
            Answer::First(_) => {}
        }
        for (work, reply) in waiting {
            self.submit(work, reply);
        }
    }

    /// Frames of a kind have a plan from now on, or cannot be planned for.
    fn use_first(
        &mut self,
        question: Question,
        made: Result<(Plan, Cost), PlannerError>,
        waiting: Vec<(Work, FrameReply)>,
    ) {
        let Question { kind, model, slots, devices, options, .. } = question;
        let bound = made.map_err(|e| e.to_string()).and_then(|(plan, cost)| {
            Ok((self.bind((model.0, &model.1), (slots, &devices), plan)?, cost))
        });
        match bound {
            Ok((plan, cost)) => {
                let work = planner::model_work(&model.1, options.numerics);
                let plans = Succession::new(plan.clone(), cost.clone());
                let told = shares_of(&devices);
                self.planned.of(kind).in_use = Some(InUse { plans, devices, told, work });
                for (work, reply) in waiting {
                    self.begin(work, (plan.clone(), cost.clone()), reply);
                }
            }
            Err(reason) => {
                for (_, reply) in waiting {
                    let _ = reply.send(Err(reason.clone()));
                }
            }
        }
    }

    /// Frames of a kind keep their plan, or get another one as soon as it is prepared.
    fn use_next(&mut self, question: Question, again: Result<Again, PlannerError>, change: &str) {
        let Question { kind, model, slots, devices, .. } = question;
        let told = shares_of(&devices);
        let next = again.map_err(|e| e.to_string()).and_then(|again| match again {
            Again::Stays(cost) => Ok((None, cost)),
            Again::Changes(plan, cost) => {
                let next = self.bind((model.0, &model.1), (slots, &devices), plan)?;
                Ok((Some(next), cost))
            }
        });
        let Some(in_use) = &mut self.planned.of(kind).in_use else { return };
        (in_use.devices, in_use.told) = (devices, told);
        match next {
            Ok((None, cost)) => {
                tracing::info!("the plan stays, no other is much better: {change}");
                *in_use.plans.about_mut() = cost;
            }
            Ok((Some(next), cost)) => {
                tracing::info!("a new plan, used as soon as its weights are packed: {change}");
                let known = in_use.plans.known().0.clone();
                in_use.plans.follow(next.clone(), cost);
                self.handle(Input::Prepare { next, known }, None);
            }
            Err(reason) => tracing::warn!("the plan stays, there is no other: {reason} ({change})"),
        }
    }

    /// Binds a plan to the workers it was made for.
    fn bind(
        &mut self,
        (hash, graph): (ModelHash, &Arc<Model>),
        (slots, devices): (Vec<WorkerId>, &[DeviceProfile]),
        plan: Plan,
    ) -> Result<Arc<ActivePlan>, String> {
        self.next_plan += 1;
        let id = PlanId(self.next_plan);
        let encoding = slots.iter().zip(devices).filter(|(_, device)| device.encodes(plan.wire));
        let encoding: Vec<WorkerId> = encoding.map(|(&worker, _)| worker).collect();
        let shares = shares_of(devices);
        let plan = ActivePlan::new(id, graph.clone(), hash, plan, slots);
        Ok(Arc::new(plan.map_err(|e| e.to_string())?.encoding(encoding, shares)))
    }
}
