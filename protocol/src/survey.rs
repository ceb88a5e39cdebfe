//! What follows from a plan and its model: the geometry of its stages, and what their tiles take.

use crate::ids::{ModelHash, PlanId};
use model::{LayerId, Model, WeightId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tiling::{Algorithm, LayerWeights, Order, Plan, PlanError, Schedule, StageGeometry};

/// Surveys that are kept.
const KEPT_MAX: usize = 8;

/// The geometry of a plan.
#[derive(Debug)]
pub struct Survey {
    /// Its stages.
    pub stages: Arc<Vec<StageGeometry>>,
    running: Vec<Vec<OnceLock<u64>>>,
    weights: Vec<StageWeights>,
}

/// The weights of a stage as some of its tiles read them: where layers lie in slices, a tile reads
/// a few.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WeightSet {
    /// The stage.
    pub stage: u32,
    /// Which of the stage's sets.
    pub index: u32,
}

/// A tensor of a model, packed for a layer and the way it is computed: two layers with the same tensor
/// hold it twice.
pub(crate) type PackedWeight = (PackedLayer, WeightId);

/// A layer of a model, and the way it is computed: what is packed and given up together.
pub(crate) type PackedLayer = (ModelHash, LayerId, Algorithm);

/// The tensors of some layers of a model, one by one, with the bytes that they take.
pub(crate) fn packed_weights<'a>(
    (hash, model): (ModelHash, &'a Model),
    layers: &'a [LayerWeights],
) -> impl Iterator<Item = (PackedWeight, u64)> {
    layers.iter().flat_map(move |weights| {
        let LayerWeights { layer, algorithm, .. } = *weights;
        weights.packed(model).map(move |(id, bytes)| (((hash, layer, algorithm), id), bytes))
    })
}

/// What the tiles of a stage read of its weights.
#[derive(Debug)]
struct StageWeights {
    /// Each different set, in the order of the first tile that reads it.
    sets: Vec<Vec<LayerWeights>>,
    /// The set of each tile.
    of_tile: Vec<u32>,
}

impl StageWeights {
    fn new(model: &Model, stage: &StageGeometry) -> Self {
        let mut known: BTreeMap<Vec<LayerWeights>, u32> = BTreeMap::new();
        let of_tile = (0..stage.tiles.len()).map(|tile| {
            let next = known.len() as u32;
            *known.entry(stage.tile_weights(model, tile)).or_insert(next)
        });
        let of_tile = of_tile.collect();
        let mut sets: Vec<_> = known.into_iter().collect();
        sets.sort_by_key(|(_, index)| *index);
        Self { sets: sets.into_iter().map(|(set, _)| set).collect(), of_tile }
    }
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
        let weights = stages.iter().map(|stage| StageWeights::new(model, stage)).collect();
        Ok(Self { stages: Arc::new(stages), running, weights })
    }

    /// The weights that a tile reads.
    pub fn weight_set(&self, stage: u32, tile: u32) -> WeightSet {
        WeightSet { stage, index: self.weights[stage as usize].of_tile[tile as usize] }
    }

    /// A set's weights, layer by layer; none where there is no such set.
    pub fn weights(&self, set: WeightSet) -> Option<&[LayerWeights]> {
        let sets = &self.weights.get(set.stage as usize)?.sets;
        sets.get(set.index as usize).map(Vec::as_slice)
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

#[cfg(test)]
mod tests {
    use super::*;
    use model::builder::Builder;
    use model::{Activation, Op, Shape, WeightHash};
    use tiling::{Grid, Numerics, Slot, Stage, Wire};

    #[test]
    fn tiles_read_the_slices_of_their_rows() {
        let mut builder = Builder::new("rows", "rows");
        let input = builder.input("x", Shape::General(vec![1, 2])).unwrap();
        let weight = |i: u8| builder.weight(vec![f32::from(i); 8], &[4, 2]);
        let slices = (0..4).map(weight).collect::<Result<_, _>>().unwrap();
        let bias = Some(builder.weight(vec![0.5; 16], &[16]).unwrap());
        let activation = Activation::None;
        let op = Op::LinearRows { slices, bias, activation };
        let rows = builder.layer("fc", op, &[input]).unwrap();
        builder.output(rows);
        let model = builder.finish_unfused().unwrap().graph;
        let grid = Grid { row_shares: vec![2, 1, 1], col_shares: vec![1] };
        let stage = Stage::cut(0..1, grid, vec![Slot(0), Slot(1), Slot(2)]);
        let plan = Plan {
            strategy: "none".into(),
            numerics: Numerics::Exact,
            wire: Wire::Raw,
            stages: vec![stage],
        };
        let survey = Survey::new(&model, &plan).unwrap();
        let bytes = |tile: u32| -> u64 {
            let set = survey.weight_set(0, tile);
            let layers = survey.weights(set).unwrap();
            packed_weights((ModelHash(WeightHash([0; 32])), &model), layers).map(|(_, b)| b).sum()
        };
        // Rows of two numbers each, and the bias.
        assert_eq!([0, 1, 2].map(bytes), [8 * 8 + 64, 4 * 8 + 64, 4 * 8 + 64]);
        let sets: Vec<_> = (0..3).map(|tile| survey.weight_set(0, tile).index).collect();
        assert_eq!(sets, [0, 1, 2]);
        assert!(survey.weights(WeightSet { stage: 0, index: 3 }).is_none());
        assert!(survey.weights(WeightSet { stage: 1, index: 0 }).is_none());
    }
}
