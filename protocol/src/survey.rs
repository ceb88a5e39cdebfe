//! What follows from a plan and its model: the geometry of its stages, and what their tiles take.

use crate::ids::{ModelHash, PlanId};
use model::Model;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tiling::{Order, Plan, PlanError, Schedule, StageGeometry};

/// Surveys that are kept.
const KEPT_MAX: usize = 8;

/// The geometry of a plan.
#[derive(Debug)]
pub struct Survey {
    /// Its stages.
    pub stages: Arc<Vec<StageGeometry>>,
    running: Vec<Vec<OnceLock<u64>>>,
}

impl Survey {
    /// Works out the geometry of a plan.
    ///
    /// *Errors*: a plan that does not fit the model.
    pub fn new(model: &Model, plan: &Plan) -> Result<Self, PlanError> {
        plan.check(model)?;
        let stages = plan.stages.iter().enumerate();
        let stages = stages.map(|(i, s)| StageGeometry::new(model, plan.numerics, i, s));
        let stages: Vec<StageGeometry> = stages.collect::<Result<_, _>>()?;
        let running =
            stages.iter().map(|s| s.tiles.iter().map(|_| OnceLock::new()).collect()).collect();
        Ok(Self { stages: Arc::new(stages), running })
    }

    /// Bytes that a tile takes while it runs, on top of its inputs: its outputs, and the arena for
    /// the maps in between.
    pub fn running_bytes(&self, model: &Model, stage: usize, tile: usize) -> u64 {
        *self.running[stage][tile].get_or_init(|| {
            let schedule = Schedule::new(model, &self.stages[stage], tile, Order::depth_first(1));
            (schedule.arena_bytes + schedule.output_bytes()) as u64
        })
    }
}

/// Surveys made before. It remembers and nothing else: the same arguments always give the same
/// survey, whoever shares it. A simulation shares one between all its workers, which would otherwise
/// hold the geometry of the whole plan a thousand times.
#[derive(Clone, Debug, Default)]
pub struct Surveys(Arc<Mutex<VecDeque<Known>>>);

#[derive(Debug)]
struct Known {
    model: ModelHash,
    id: PlanId,
    plan: Plan,
    survey: Arc<Survey>,
}

impl Surveys {
    /// The survey of a plan for a model.
    ///
    /// *Errors*: a plan that does not fit the model.
    pub fn of(
        &self,
        (hash, model): (ModelHash, &Model),
        id: PlanId,
        plan: &Plan,
    ) -> Result<Arc<Survey>, PlanError> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.iter().find(|k| k.id == id && k.model == hash && k.plan == *plan);
        if let Some(known) = known {
            return Ok(known.survey.clone());
        }
        let survey = Arc::new(Survey::new(model, plan)?);
        if all.len() == KEPT_MAX {
            all.pop_front();
        }
        all.push_back(Known { model: hash, id, plan: plan.clone(), survey: survey.clone() });
        Ok(survey)
    }
}
