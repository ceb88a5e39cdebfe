//! A plan is played through before it is used.
//!
//! The planner's cost model says what a stage takes; the real scheduler also waits for words,
//! overlaps transfers and steals. So the plans that the planner thinks best are simulated, over honest
//! devices as they were measured, and the best of them is made better by small changes, each of
//! which is simulated too. No chance is involved: the same arguments give the same plan.

use crate::physics::{Medium, Power, RoundTrip};
use crate::{Cluster, DeviceModel, LinkSpec, Payload, Scenario, Weights, WorkerSpec};
use model::{LoadedModel, Model, WeightStore};
use planner::{
    Again, Cost, DeviceProfile, Objective, PlanOptions, PlannerError, Strategy, Verdict,
};
use protocol::{CoordinatorConfig, Nanos, SECOND};
use std::cell::Cell;
use std::sync::Arc;
use tiling::Plan;

/// Devices up to which plans are rehearsed: a simulation of more takes longer than it is worth.
const DEVICES_MAX: usize = 16;

/// Of the planner's best plans, so many are rehearsed.
const PLANS_MAX: usize = 7;

/// Steps of all rehearsals of one plan: two or three tenths of a second.
const STEPS_MAX: u64 = 100_000;

/// What a rehearsal costs on top of its steps, in steps, by tile and layer.
const STEPS_A_TILE_LAYER: u64 = 1;

/// A simulated frame that never ends would be a fault of the simulator; so many steps are enough for
/// any that does.
const FRAME_STEPS_MAX: u64 = 200_000;

/// When the frame starts: all have joined, and the links are measured.
const START_NS: Nanos = SECOND;

/// A change must save one of so many parts of the time.
const GAINS: u64 = 500;

/// Devices that play plans through.
struct Rehearsal {
    scenario: Scenario,
    steps: Cell<u64>,
}

impl Rehearsal {
    fn new(graph: &Arc<Model>, devices: &[DeviceProfile], options: PlanOptions) -> Self {
        let workers = devices.iter().map(worker).collect();
        // Values are not computed, so that no weight is read.
        let model = LoadedModel { graph: graph.clone(), weights: WeightStore::default() };
        let cables = devices.iter().filter(|d| !d.same_machine).map(|d| d.link_bytes_per_s);
        let head_link = match cables.max() {
            Some(bytes_per_s) => LinkSpec::wire(0, bytes_per_s, 0),
            None => LinkSpec::unlimited(),
        };
        let encoded = devices.iter().find(|device| device.encodes(options.wire));
        let shares = encoded.map(|device| device.shares.clone());
        let base = Scenario::sized(model, 1, workers);
        let machine = CoordinatorConfig { frames_in_flight_max: 1, ..base.machine.clone() };
        let scenario = Scenario {
            payload: Payload::Sizes(1),
            weights: Weights::Packed,
            frames_from_ns: START_NS,
            frame_interval_ns: 0,
            machine,
            head_link,
            pairs: crate::pairs::known(devices),
            options,
            shares,
            patience_ns: u64::MAX / 2,
            steps_max: FRAME_STEPS_MAX,
            may_fail: true,
            checked: false,
            ..base
        };
        Self { scenario, steps: Cell::new(0) }
    }

    /// How long one frame takes; none where it does not end.
    fn frame_ns(&self, plan: &Plan) -> Option<Nanos> {
        let scenario = Scenario { plan: Some(plan.clone()), ..self.scenario.clone() };
        let outcome = Cluster::new(scenario).run().ok()?;
        let shapes = plan.stages.iter();
        let shapes = shapes.map(|s| s.tiles() as u64 * u64::from(s.end_layer - s.first_layer));
        let built = shapes.sum::<u64>() * STEPS_A_TILE_LAYER;
        self.steps.set(self.steps.get() + outcome.steps + built);
        outcome.frames.last().filter(|_| outcome.failures.is_empty()).map(|f| f.makespan_ns())
    }

    fn is_tired(&self) -> bool {
        self.steps.get() > STEPS_MAX
    }
}

/// A worker that is as it was measured, with words that are always as late as they usually are.
fn worker(profile: &DeviceProfile) -> WorkerSpec {
    let device = DeviceModel {
        name: profile.name.clone(),
        rates: profile.rates,
        speedup_by_threads: vec![1.0],
        threads: 1,
        overhead_ns: 100_000,
        memory_bytes: profile.memory_bytes.unwrap_or(0),
        thermal: None,
        load: None,
        power: Power::default(),
    };
    let usual = RoundTrip::even(profile.round_trip_ns, profile.round_trip_ns);
    let link = match profile.same_machine {
        true => LinkSpec { round_trip: usual, ..LinkSpec::unlimited() },
        false => LinkSpec {
            medium: profile.air.map_or(Medium::Wire, Medium::Air),
            send_bytes_per_s: profile.link_bytes_per_s.max(1),
            receive_bytes_per_s: profile.link_bytes_per_s.max(1),
            round_trip: usual,
            message_ns: 50_000,
            airtime_fair: profile.air.is_some(),
        },
    };
    WorkerSpec::of(device, link)
}

/// A plan that is wanted.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    /// The model.
    pub graph: &'a Arc<Model>,
    /// Who is there.
    pub devices: &'a [DeviceProfile],
    /// Which plan.
    pub strategy: Strategy,
    /// Settings of the strategy.
    pub options: PlanOptions,
    /// Whether what `auto` would choose for one frame on a few devices is played through first; the
    /// cost then says how long that took.
    pub rehearsed: bool,
}

impl Wish<'_> {
    /// Makes the plan, as [`planner::plan`] does.
    ///
    /// *Errors*: as for [`planner::plan`].
    pub fn plan(&self) -> Result<(Plan, Cost), PlannerError> {
        let Self { graph, devices, strategy, options, .. } = *self;
        let finalists = match self.is_rehearsed() {
            true => planner::finalists(graph, devices, options),
            false => Vec::new(),
        };
        let rehearsal = Rehearsal::new(graph, devices, options);
        let played = finalists.into_iter().take(PLANS_MAX);
        let played = played.filter_map(|plan| Some((rehearsal.frame_ns(&plan)?, plan)));
        // Of equals the first: the planner thinks more of it.
        let Some((first_ns, best)) = played.min_by_key(|(ns, _)| *ns) else {
            return planner::plan(graph, devices, strategy, options);
        };
        let grain = (first_ns / GAINS).max(1);
        let best = planner::refine(graph, devices, options, best, |plan| {
            if rehearsal.is_tired() {
                return Verdict::Enough;
            }
            let Some(ns) = rehearsal.frame_ns(plan) else { return Verdict::NoPlan };
            Verdict::Is(ns / grain)
        });
        let mut cost = planner::cost_of(graph, devices, strategy, options, &best)?;
        cost.rehearsed_ns = rehearsal.frame_ns(&best);
        Ok((best, cost))
    }

    /// What becomes of a plan when its devices are not as they were.
    ///
    /// *Errors*: as for [`planner::plan`].
    pub fn again(&self, known: &Plan) -> Result<Again, PlannerError> {
        let Self { graph, devices, strategy, options, .. } = *self;
        let made = self.plan()?;
        let mut now = planner::cost_of(graph, devices, strategy, options, known)?;
        if self.is_rehearsed() {
            now.rehearsed_ns = Rehearsal::new(graph, devices, options).frame_ns(known);
        }
        Ok(planner::again(graph, devices, options, (known, now), made))
    }

    /// How long a frame takes by a plan that was made elsewhere; none where it does not end, or where
    /// there are too many devices to play it through.
    pub fn rehearse(&self, plan: &Plan) -> Option<Nanos> {
        let few = self.devices.len() <= DEVICES_MAX;
        few.then(|| Rehearsal::new(self.graph, self.devices, self.options).frame_ns(plan))?
    }

    fn is_rehearsed(&self) -> bool {
        self.rehearsed
            && self.strategy == Strategy::Auto
            && self.options.objective == Objective::Latency
            && (2..=DEVICES_MAX).contains(&self.devices.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{LoadOptions, open};
    use tiling::Rates;

    fn devices(count: usize) -> Vec<DeviceProfile> {
        let device = |i: usize| DeviceProfile {
            round_trip_ns: 400_000,
            late_round_trip_ns: 500_000,
            ..DeviceProfile::wired(format!("d{i}"), Rates::typical(8_000_000_000))
        };
        (0..count).map(device).collect()
    }

    fn wish<'a>(graph: &'a Arc<Model>, devices: &'a [DeviceProfile]) -> Wish<'a> {
        let (strategy, options) = (Strategy::Auto, PlanOptions::default());
        Wish { graph, devices, strategy, options, rehearsed: true }
    }

    #[test]
    fn a_rehearsed_plan_is_as_good_as_any_finalist_and_always_the_same() {
        for (name, count) in [("zoo:unet@128x128", 4), ("zoo:resnet50@128x128", 3)] {
            let model = open(name, &LoadOptions::default()).unwrap();
            let devices = devices(count);
            let (plan, cost) = wish(&model.graph, &devices).plan().unwrap();
            let rehearsal = Rehearsal::new(&model.graph, &devices, PlanOptions::default());
            let least = rehearsal.frame_ns(&plan).unwrap();
            assert_eq!(cost.rehearsed_ns, Some(least), "{name}");
            assert!(least >= cost.bound_ns, "{name}");
            for other in planner::finalists(&model.graph, &devices, PlanOptions::default()) {
                let ns = rehearsal.frame_ns(&other).unwrap();
                assert!(least <= ns, "{name}: {least} of {ns}");
            }
            assert_eq!(wish(&model.graph, &devices).plan().unwrap().0, plan, "{name}");
        }
    }

    /// A run of CoEdge's plan over four of six devices, of which one may become ten times as slow.
    fn four_of_six(name: &str, slows_down: bool) -> (crate::Outcome, u64) {
        let model = open(name, &LoadOptions::default()).unwrap();
        let (six, options) = (devices(6), PlanOptions::default());
        let four = &six[..4];
        let (plan, cost) = planner::plan(&model.graph, four, Strategy::CoEdge, options).unwrap();
        let rehearsal = Rehearsal::new(&model.graph, &six, options);
        let at_ns = START_NS + cost.makespan_ns / 3;
        let slow = crate::Fault { at_ns, kind: crate::FaultKind::SlowDown(1, 10) };
        let faults = if slows_down { vec![slow] } else { Vec::new() };
        let scenario = Scenario { plan: Some(plan), faults, ..rehearsal.scenario };
        (Cluster::new(scenario).run().unwrap(), cost.makespan_ns)
    }

    #[test]
    fn what_stays_on_workers_is_made_where_the_plan_has_it_unless_one_falls_behind() {
        for name in ["zoo:googlenet@128x128", "zoo:resnet50@128x128", "zoo:vgg16@128x128"] {
            let (outcome, predicted_ns) = four_of_six(name, false);
            let moved = (outcome.counters.stolen_tasks, outcome.counters.backups);
            assert_eq!(moved, (0, 0), "{name}: workers wait for neighbours, and have work to come");
            let took_ns = outcome.frames[0].makespan_ns();
            assert!(took_ns * 100 <= predicted_ns * 115, "{name}: {took_ns} of {predicted_ns}");
        }
        let (outcome, _) = four_of_six("zoo:vgg16@128x128", true);
        assert!(outcome.counters.stolen_tasks + outcome.counters.backups > 0);
    }

    #[test]
    fn memory_is_kept_to_and_what_fits_nowhere_is_an_error() {
        let model = open("zoo:unet@128x128", &LoadOptions::default()).unwrap();
        let limited = |bytes| {
            let small = |d: DeviceProfile| DeviceProfile { memory_bytes: Some(bytes), ..d };
            devices(3).into_iter().map(small).collect::<Vec<_>>()
        };
        let (plan, cost) = wish(&model.graph, &limited(60_000_000)).plan().unwrap();
        assert!(cost.devices.iter().all(|load| load.memory_bytes() <= 60_000_000), "{plan:?}");
        assert!(wish(&model.graph, &limited(100_000)).plan().is_err());
    }
}
