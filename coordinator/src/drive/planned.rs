//! What was planned before, what it was planned for, and the frames that wait for a plan.

use super::FrameReply;
use super::planning::Work;
use model::{Model, WeightHash};
use planner::{Cost, DeviceProfile, PlanOptions, Strategy};
use protocol::{Succession, WorkerId};
use tiling::{Plan, Shares};

/// Where maps take more or less than that, in thousandths, it is told anew what a frame moves.
const TOLD_PER_MILLE: u32 = 5;

/// Plans that are remembered, for different models or settings; the oldest is forgotten.
const PLANNED_MAX: usize = 64;

/// Frames of one kind get the same plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Kind {
    pub(super) model: WeightHash,
    pub(super) strategy: Strategy,
    pub(super) options: PlanOptions,
}

/// A plan in use, and what it was made for.
pub(super) struct InUse {
    pub(super) plans: Succession<Cost>,
    pub(super) devices: Vec<DeviceProfile>,
    /// What maps took on the wire when it was last told what a frame moves.
    pub(super) told: Shares,
    /// What devices are compared by.
    pub(super) work: tiling::Work,
}

impl InUse {
    /// The plan in use as it is for workers in that order, all of its own among them.
    pub(super) fn rebound(&self, slots: &[WorkerId]) -> Plan {
        self.plans.known().0.rebound(slots).expect("all its workers are there")
    }

    /// Where maps take other bytes on the wire than was thought, what a frame moves is worked out again.
    pub(super) fn tell(&mut self, model: &Model, slots: &[WorkerId], devices: &[DeviceProfile]) {
        let now = shares_of(devices);
        if now.differ_by_more_than(TOLD_PER_MILLE, &self.told) {
            let (plan, cost) = (self.rebound(slots), self.plans.known().1.clone());
            let moving = cost.moving_now(model, devices, &plan);
            *self.plans.about_mut() = moving.expect("a plan in use fits its model");
            self.told = now;
        }
    }
}

/// All that is known of frames of one kind.
pub(super) struct Planned {
    pub(super) kind: Kind,
    /// None until the first plan is made.
    pub(super) in_use: Option<InUse>,
    /// The planner thinks about it.
    pub(super) is_asked: bool,
    /// Who is there, or who reaches whom, has changed since it was asked last.
    pub(super) is_stale: bool,
    /// Frames that no plan can run yet.
    pub(super) waiting: Vec<(Work, FrameReply)>,
}

impl Planned {
    /// Who reaches whom has changed.
    pub(super) fn look_again(&mut self) {
        self.is_stale = true;
    }

    /// Who is there has changed: what is being prepared is for others.
    pub(super) fn begin_again(&mut self) {
        if let Some(in_use) = &mut self.in_use {
            in_use.plans.stay();
        }
        self.is_stale = true;
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.is_asked
    }
}

/// The plans, by kind; the one asked for last stands last.
#[derive(Default)]
pub(super) struct Book(Vec<Planned>);

impl Book {
    /// What is known of a kind, which may be nothing yet.
    pub(super) fn of(&mut self, kind: Kind) -> &mut Planned {
        match self.0.iter().position(|known| known.kind == kind) {
            Some(at) => self.0[at..].rotate_left(1),
            None => {
                let forgotten = self.0.iter().position(Planned::is_idle);
                if let Some(oldest) = forgotten.filter(|_| self.0.len() >= PLANNED_MAX) {
                    self.0.remove(oldest);
                }
                let (is_asked, is_stale) = (false, false);
                self.0.push(Planned {
                    kind,
                    in_use: None,
                    is_asked,
                    is_stale,
                    waiting: Vec::new(),
                });
            }
        }
        self.0.last_mut().expect("it was put there")
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Planned> {
        self.0.iter_mut()
    }
}

/// What maps take on the wire where they are encoded.
pub(super) fn shares_of(devices: &[DeviceProfile]) -> Shares {
    let shares = devices.iter().map(|device| &device.shares);
    shares.max_by_key(|shares| shares.is_known()).cloned().unwrap_or_default()
}
