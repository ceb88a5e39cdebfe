//! Plans followed exactly, many of them: what is known of a stage's tiles is kept.

use crate::cost::{Cut, Followed, Parts, Reach, follow, walk};
use crate::memory::{Misfit, Room};
use crate::{DeviceProfile, Objective, PlanOptions};
use model::Model;
use std::collections::HashMap;
use std::rc::Rc;
use tiling::{Numerics, Plan, Split, Stage, StageGeometry};

/// What a stage's tiles depend on.
type Group = (u32, u32, Split);

/// Follows plans for some devices.
pub(crate) struct Exact<'a> {
    model: &'a Model,
    devices: &'a [DeviceProfile],
    numerics: Numerics,
    reach: Reach,
    room: Room<'a>,
    /// None where a cut does not fit. It is looked up, never gone through.
    known: HashMap<Group, Option<Rc<Cut>>>,
    /// Tiles x layers that were looked at: a measure of effort that no clock is needed for.
    effort: usize,
}

impl<'a> Exact<'a> {
    pub(crate) fn new(model: &'a Model, devices: &'a [DeviceProfile], numerics: Numerics) -> Self {
        let (reach, room) = (Reach::of(model), Room::new(model, devices, numerics));
        Self { model, devices, numerics, reach, room, known: HashMap::new(), effort: 0 }
    }

    pub(crate) fn effort(&self) -> usize {
        self.effort
    }

    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }

    pub(crate) fn room(&self) -> &Room<'a> {
        &self.room
    }

    /// What a plan costs; none where it does not fit the model or the memory.
    pub(crate) fn follow(&mut self, stages: &[Stage]) -> Option<Followed> {
        let cuts = self.cuts(stages)?;
        let holds = self.room.holds(stages.iter().zip(cuts.iter().map(|cut| &**cut)));
        holds.then(|| follow(self.model, self.devices, stages, &cuts))
    }

    /// What of a plan does not fit the memory.
    pub(crate) fn misfit(&mut self, stages: &[Stage]) -> Option<Misfit> {
        let cuts = self.cuts(stages)?;
        self.room.misfit(stages.iter().zip(cuts.iter().map(|cut| &**cut)))
    }

    /// What the tiles of a stage take on a device, one at a time; more than that where even this fits.
    pub(crate) fn tiles_bytes(&mut self, stage: &Stage, device: usize, given: u64) -> Option<u64> {
        let cut = self.cut(stage)?;
        Some(self.room.tiles(stage, &cut, device, given))
    }

    /// What of a plan fits on no device.
    pub(crate) fn fits_nobody(&mut self, stages: &[Stage]) -> Option<Misfit> {
        let cuts = self.cuts(stages)?;
        self.room.fits_nobody(stages.iter().zip(cuts.iter().map(|cut| &**cut)))
    }

    fn cuts(&mut self, stages: &[Stage]) -> Option<Vec<Rc<Cut>>> {
        // A stage costs a little to follow even where its tiles are known.
        self.effort += stages.iter().map(Stage::tiles).sum::<usize>() * 4;
        stages.iter().map(|stage| self.cut(stage)).collect()
    }

    pub(crate) fn cut(&mut self, stage: &Stage) -> Option<Rc<Cut>> {
        let key = (stage.first_layer, stage.end_layer, stage.split.clone());
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let (first, end) = (stage.first_layer as usize, stage.end_layer as usize);
        self.effort += stage.tiles() * (end - first);
        let of = |parts| walk(self.model, &self.reach, self.numerics, parts, &[first], end).pop();
        let cut = match &stage.split {
            Split::Whole => of(Parts::Whole),
            Split::Spatial(grid) => of(Parts::Grid(grid)),
            _ => StageGeometry::new(self.model, self.numerics, 0, stage)
                .ok()
                .map(|geometry| Cut::of(self.model, geometry)),
        };
        let cut = cut.map(Rc::new);
        self.known.insert(key, cut.clone());
        cut
    }

    /// How good a plan is under the objective: less is better; none where it is no plan.
    pub(crate) fn score(&mut self, options: &PlanOptions, stages: &[Stage]) -> Option<Score> {
        let followed = self.follow(stages)?;
        Some(Score::of(options, &followed))
    }

    /// The plans that fit, best first; of equals, the first.
    pub(crate) fn ranked(&mut self, options: &PlanOptions, plans: Vec<Plan>) -> Vec<(Score, Plan)> {
        let scored = |plan: Plan| Some((self.score(options, &plan.stages)?, plan));
        let mut ranked: Vec<(Score, Plan)> = plans.into_iter().filter_map(scored).collect();
        ranked.sort_by(|(a, _), (b, _)| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        ranked.dedup_by(|(_, a), (_, b)| a.stages == b.stages);
        ranked
    }
}

/// How good a plan is; less is better. First what it must not exceed, then what is minimised, then
/// what decides between equals.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct Score(pub(crate) f64, pub(crate) f64, pub(crate) f64);

impl Score {
    fn of(options: &PlanOptions, followed: &Followed) -> Self {
        let (makespan, period) = (followed.makespan_ns as f64, followed.period_ns as f64);
        match options.objective {
            Objective::Latency => Self(0.0, makespan, 0.0),
            Objective::Throughput => Self(0.0, period, makespan),
            Objective::Energy => {
                let late =
                    options.deadline_ns.map_or(0.0, |most| (makespan - most as f64).max(0.0));
                Self(late, followed.energy_j.unwrap_or(f64::MAX), makespan)
            }
        }
    }
}
