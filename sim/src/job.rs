//! What a device's processor does: one job after another, at a pace that changes under it.

use crate::cluster::Cluster;
use crate::device::Device;
use crate::events::Event;
use crate::record::try_of;
use kernels::Pieces;
use model::WeightHash;
use protocol::{Nanos, PlanId, SECOND, TaskId, WeightSet};
use timeline::{Activity, Span};

/// Between two looks at the temperature of a device that computes.
const WARM_NS: Nanos = SECOND;

/// What came of a job of the compute thread. What a job finds is what was there when it was handed
/// in.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Prepared(PlanId, WeightSet),
    Missing(Vec<WeightHash>),
    Executed { task: TaskId, attempt: u32, outputs: Pieces },
    Broke { task: TaskId, reason: String },
}

/// Something that the processor has to do.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Time that is left of what follows the clock, at full clock.
    clock_ns: f64,
    /// Time that is left of what does not.
    memory_ns: f64,
    /// When it began, and until when it has been worked off.
    begun_ns: Option<Nanos>,
    worked_ns: Nanos,
    outcome: Outcome,
}

impl Job {
    pub(crate) fn new((clock_ns, memory_ns): (f64, f64), outcome: Outcome) -> Self {
        Self { clock_ns, memory_ns, begun_ns: None, worked_ns: 0, outcome }
    }

    fn work(&mut self, now: Nanos, (clock, memory): (f64, f64)) {
        let mut passed = now.saturating_sub(self.worked_ns) as f64;
        self.worked_ns = now;
        let by_clock = passed.min(self.clock_ns / clock);
        self.clock_ns -= by_clock * clock;
        passed -= by_clock;
        self.memory_ns = (self.memory_ns - passed * memory).max(0.0);
    }

    fn left_ns(&self, (clock, memory): (f64, f64)) -> Nanos {
        (self.clock_ns.max(0.0) / clock + self.memory_ns / memory) as Nanos
    }
}

impl Device {
    /// The part of its full speed that it has now: of what follows the clock, and of the rest.
    fn pace(&self) -> (f64, f64) {
        let load = self.spec.device.load.as_ref().map_or(1.0, |l| l.left(self.loaded));
        let shared = load / self.slowness as f64;
        let clock = self.spec.device.thermal.as_ref().map_or(1.0, |t| t.clock_share(&self.heat));
        (shared * clock, shared)
    }

    /// Works the running job off until now, before anything changes.
    fn catch_up(&mut self, now: Nanos) {
        let pace = self.pace();
        if let Some(job) = self.jobs.front_mut().filter(|j| j.begun_ns.is_some()) {
            job.work(now, pace);
        }
        let power = &self.spec.device.power;
        let power_w = if self.jobs.is_empty() { power.idle_w } else { power.active_w };
        if let Some(thermal) = &self.spec.device.thermal {
            thermal.advance(&mut self.heat, now, power_w);
            self.peak_c = self.peak_c.max(thermal.celsius(&self.heat));
        }
    }
}

impl Cluster {
    /// Queues a job.
    pub(crate) fn compute(&mut self, i: usize, job: Job) {
        self.devices[i].catch_up(self.now);
        self.devices[i].jobs.push_back(job);
        if self.devices[i].jobs.len() == 1 {
            self.pace_changed(i);
        }
    }

    /// Says anew when the running job ends.
    pub(crate) fn pace_changed(&mut self, i: usize) {
        let now = self.now;
        let device = &mut self.devices[i];
        let pace = device.pace();
        let Some(job) = device.jobs.front_mut().filter(|_| !device.hangs) else { return };
        if job.begun_ns.is_none() {
            (job.begun_ns, job.worked_ns) = (Some(now), now);
        }
        let at = now + job.left_ns(pace);
        device.jobs_made += 1;
        let (life, job) = (device.life, device.jobs_made);
        let warms = device.spec.device.thermal.is_some() && at > now + WARM_NS;
        let warm = warms && !std::mem::replace(&mut device.warming, true);
        self.schedule(at, Event::Computed { device: i, life, job });
        if warm {
            self.schedule(now + WARM_NS, Event::Warm { device: i, life });
        }
    }

    /// Lets something change that the pace of a device depends on.
    pub(crate) fn change_pace(&mut self, i: usize, change: impl FnOnce(&mut Device)) {
        self.devices[i].catch_up(self.now);
        change(&mut self.devices[i]);
        self.pace_changed(i);
    }

    pub(crate) fn warm(&mut self, i: usize, life: u32) {
        if self.devices[i].life == life {
            self.change_pace(i, |device| device.warming = false);
        }
    }

    /// Another program starts or ends.
    pub(crate) fn load(&mut self, i: usize, on: bool) {
        let Some(load) = self.devices[i].spec.device.load.clone() else { return };
        let until = self.now + load.lasts(on, &mut self.random);
        if self.head.missing > 0 {
            self.schedule(until, Event::Load { device: i, on: !on });
        }
        self.change_pace(i, |device| device.loaded = on);
    }

    pub(crate) fn computed(&mut self, i: usize, life: u32, job: u32) {
        let now = self.now;
        let device = &mut self.devices[i];
        if !device.up || device.life != life || device.jobs_made != job || device.hangs {
            return;
        }
        device.catch_up(now);
        let Some(job) = device.jobs.pop_front() else { return };
        let begun_ns = job.begun_ns.unwrap_or(now);
        let busy_ns = now - begun_ns;
        device.busy_ns += busy_ns;
        if let Outcome::Executed { task, attempt, .. } = &job.outcome {
            self.recorder.span(Span {
                device: i as u32,
                activity: Activity::Compute,
                task: Some(try_of(*task, *attempt)),
                start_ns: begun_ns,
                end_ns: now,
                bytes: 0,
                stolen: false,
            });
            if self.is_poison(*task) {
                return self.die_of_poison(i);
            }
        }
        self.pace_changed(i);
        self.job_done(i, job.outcome, busy_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_is_slowed_down_in_its_middle_takes_the_rest_as_much_longer() {
        let mut job = Job::new((1000.0, 200.0), Outcome::Missing(Vec::new()));
        job.work(500, (1.0, 1.0));
        assert_eq!(job.left_ns((1.0, 1.0)), 700);
        // Half the clock: what follows it takes twice as long, the memory does not.
        assert_eq!(job.left_ns((0.5, 1.0)), 1200);
        job.work(1500, (0.5, 1.0));
        assert_eq!(job.left_ns((0.5, 1.0)), 200);
        job.work(1800, (0.5, 1.0));
        assert_eq!(job.left_ns((1.0, 1.0)), 0);
    }
}
