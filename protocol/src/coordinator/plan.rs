//! A plan bound to a model and to workers, with what follows from it.

use crate::ids::{ModelHash, PlanId, WorkerId};
use crate::message::PieceHeader;
use crate::survey::{PackedWeight, Survey, WeightSet, packed_weights};
use crate::version;
use model::{MapId, Model};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tiling::schedule::LINE_BYTES;
use tiling::{Handover, Plan, PlanError, Region, Shares, Slot, StageGeometry, Work};

/// A piece of a tile's inputs that another tile makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) stage: usize,
    pub(super) tile: usize,
    pub(super) piece: PieceHeader,
}

/// A piece of a tile's outputs that another tile needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reader {
    pub(super) stage: usize,
    pub(super) tile: usize,
    pub(super) piece: PieceHeader,
}

/// A plan bound to a model and to the workers it was made for.
#[derive(Debug)]
pub struct ActivePlan {
    /// Its id.
    pub id: PlanId,
    /// The model.
    pub model: Arc<Model>,
    /// Content hash of the model's graph in its wire form.
    pub model_hash: ModelHash,
    /// The plan.
    pub plan: Plan,
    survey: Survey,
    /// The worker of each slot.
    pub slots: Vec<WorkerId>,
    /// For each map that a stage makes, that stage.
    made_by: BTreeMap<MapId, usize>,
    /// For each map that a stage reads, all stages that do.
    read_by: BTreeMap<MapId, Vec<usize>>,
    /// For each stage and tile, what it needs of tiles whose outputs stay where they are made.
    needs: Vec<Vec<Vec<Need>>>,
    /// The same, seen from the tiles that make it.
    readers: Vec<Vec<Vec<Reader>>>,
    /// For each stage and tile, its multiply-adds.
    multiply_adds: Vec<Vec<u64>>,
    /// The same by operator class: how long it takes.
    work: Vec<Vec<Work>>,
    exchanges_any: bool,
    /// Bytes of pieces that stay on each worker until its frame is over, or whole groups of stages are.
    kept_bytes: BTreeMap<WorkerId, u64>,
    /// Bytes that no worker's part of it exceeds, with any tile more.
    most_bytes: u64,
    /// The workers whose pieces are encoded, both ways.
    encoding: BTreeSet<WorkerId>,
    /// What part of each map's bytes these are expected to be.
    shares: Shares,
}

impl ActivePlan {
    /// Checks a plan against a model and works out its geometry.
    ///
    /// *Errors*: a plan that does not fit the model.
    pub fn new(
        id: PlanId,
        model: Arc<Model>,
        model_hash: ModelHash,
        plan: Plan,
        slots: Vec<WorkerId>,
    ) -> Result<Self, PlanError> {
        let survey = Survey::new(&model, &plan)?;
        let geometry = &survey.stages;
        let mut made_by = BTreeMap::new();
        let mut read_by: BTreeMap<MapId, Vec<usize>> = BTreeMap::new();
        for (stage, g) in geometry.iter().enumerate() {
            made_by.extend(g.output_maps.iter().map(|&map| (map, stage)));
            g.input_maps.iter().for_each(|&map| read_by.entry(map).or_default().push(stage));
        }
        let (needs, readers) = exchanged(&model, &plan, geometry, &made_by);
        let tiles = |s: &StageGeometry| {
            (0..s.tiles.len()).map(|tile| s.tile_multiply_adds(&model, tile)).collect()
        };
        let multiply_adds = geometry.iter().map(tiles).collect();
        let tiles =
            |s: &StageGeometry| (0..s.tiles.len()).map(|tile| s.tile_work(&model, tile)).collect();
        let work = geometry.iter().map(tiles).collect();
        let exchanges_any = plan.stages.iter().any(|s| s.handover == Handover::Exchange);
        let kept_bytes = kept(&model, (&plan, &slots), geometry, &needs);
        let most_bytes = most(&model, &survey);
        Ok(Self {
            id,
            model,
            model_hash,
            plan,
            survey,
            slots,
            made_by,
            read_by,
            needs,
            readers,
            multiply_adds,
            work,
            exchanges_any,
            kept_bytes,
            most_bytes,
            encoding: BTreeSet::new(),
            shares: Shares::default(),
        })
    }

    /// The same with these workers' pieces encoded on the wire, to these shares of their bytes.
    pub fn encoding(self, workers: impl IntoIterator<Item = WorkerId>, shares: Shares) -> Self {
        Self { encoding: workers.into_iter().collect(), shares, ..self }
    }

    /// Bytes that a piece is expected to take on the wire where a worker sends it.
    pub(super) fn wire_bytes(&self, worker: WorkerId, piece: &PieceHeader) -> u64 {
        let raw = piece.byte_len().unwrap_or(0) as u64;
        if self.encodes(worker) { self.shares.of(piece.map, raw) } else { raw }
    }

    /// Whether what a worker gets and sends is encoded.
    pub fn encodes(&self, worker: WorkerId) -> bool {
        self.encoding.contains(&worker)
    }

    /// The geometry of its stages.
    pub fn geometry(&self) -> &[StageGeometry] {
        &self.survey.stages
    }

    /// Bytes of the inputs of a tile.
    pub fn input_bytes(&self, stage: u32, tile: u32) -> u64 {
        let bytes = |&(map, region): &(MapId, tiling::Region)| {
            (region.positions() * self.model.pixel_bytes(map)) as u64
        };
        self.geometry()[stage as usize].tiles[tile as usize].inputs.iter().map(bytes).sum()
    }

    /// Bytes that a tile takes while it runs, on top of its inputs.
    pub fn running_bytes(&self, stage: u32, tile: u32) -> u64 {
        self.survey.running_bytes(&self.model, stage as usize, tile as usize)
    }

    /// What a tile that a worker may get takes at most, its weights aside.
    pub(super) fn tile_bytes_max(&self, worker: WorkerId) -> u64 {
        let stages = self.plan.stages.iter().zip(0..);
        let tiles = stages.flat_map(|(s, stage)| {
            let placed = s.placement.iter().zip(0..);
            let placed = placed.filter(|(slot, _)| self.may_have(**slot, worker));
            placed.map(move |(_, tile)| {
                self.input_bytes(stage, tile) + self.running_bytes(stage, tile)
            })
        });
        tiles.max().unwrap_or(0)
    }

    /// Bytes of the pieces of a frame that a worker is to keep at most.
    pub(super) fn kept_bytes(&self, worker: WorkerId) -> u64 {
        self.kept_bytes.get(&worker).copied().unwrap_or(0)
    }

    /// Bytes that no worker's part exceeds, with any tile more: all weights, and twice all that tiles
    /// read and make.
    pub(super) fn most_bytes(&self) -> u64 {
        self.most_bytes
    }

    /// The workers that the plan itself gives tiles to.
    pub(super) fn needed(&self) -> BTreeSet<WorkerId> {
        let slots = self.plan.stages.iter().flat_map(|stage| &stage.placement);
        slots.filter_map(|&slot| self.bound(slot)).collect()
    }

    /// Bytes of the model's inputs.
    pub(super) fn frame_bytes(&self) -> u64 {
        let bytes = |&map: &MapId| {
            (self.model.shape(map).elements() * self.model.element(map).bytes()) as u64
        };
        self.model.inputs.iter().map(bytes).sum()
    }

    /// The weights that a tile reads.
    pub(super) fn weight_set(&self, stage: u32, tile: u32) -> WeightSet {
        self.survey.weight_set(stage, tile)
    }

    /// The tensors of a set, with their bytes.
    pub(super) fn weights(&self, set: WeightSet) -> impl Iterator<Item = (PackedWeight, u64)> {
        let layers = self.survey.weights(set).unwrap_or_default();
        packed_weights((self.model_hash, &self.model), layers)
    }

    /// What the tiles of a worker read, stage by stage.
    pub fn weight_sets_of(&self, worker: WorkerId) -> Vec<WeightSet> {
        let stages = self.plan.stages.iter().enumerate();
        let tiles = stages.flat_map(|(stage, s)| {
            let placed = s.placement.iter().enumerate();
            let placed = placed.filter(|(_, slot)| self.may_have(**slot, worker));
            placed.map(move |(tile, _)| self.weight_set(stage as u32, tile as u32))
        });
        let mut sets: Vec<WeightSet> = tiles.collect();
        sets.sort_unstable();
        sets.dedup();
        sets
    }

    /// The plan as it is for workers in another order; none where one is missing that it gives tiles to.
    pub fn rebound(&self, slots: &[WorkerId]) -> Option<Plan> {
        let mut plan = self.plan.clone();
        for slot in plan.stages.iter_mut().flat_map(|stage| &mut stage.placement) {
            if let Some(worker) = self.bound(*slot) {
                *slot = Slot(slots.iter().position(|&other| other == worker)? as u32);
            }
        }
        Some(plan)
    }

    /// Whether a worker was there when the plan was made, and may get one of its tiles.
    pub(super) fn has_part_for(&self, worker: WorkerId) -> bool {
        let mut placed = self.plan.stages.iter().flat_map(|stage| &stage.placement);
        self.slots.contains(&worker) && placed.any(|&slot| self.may_have(slot, worker))
    }

    fn may_have(&self, slot: Slot, worker: WorkerId) -> bool {
        slot == Slot::ANY || self.bound(slot) == Some(worker)
    }

    /// The lowest version of the protocol whose workers can carry it out.
    pub(super) fn needed_version(&self) -> u32 {
        version::needed_for(&self.plan)
    }

    /// Multiply-adds that the plan executes, halo included.
    pub fn multiply_adds(&self) -> u64 {
        self.multiply_adds.iter().flatten().sum()
    }

    /// Multiply-adds of a tile.
    pub(super) fn multiply_adds_of(&self, stage: u32, tile: u32) -> u64 {
        self.multiply_adds[stage as usize][tile as usize]
    }

    /// What a tile asks of a device.
    pub fn work_of(&self, stage: u32, tile: u32) -> Work {
        self.work[stage as usize][tile as usize]
    }

    /// What the plan asks of each worker that it gives tiles to.
    pub(super) fn work_by_worker(&self) -> BTreeMap<WorkerId, Work> {
        let mut sums: BTreeMap<WorkerId, Work> = BTreeMap::new();
        for (stage, works) in self.plan.stages.iter().zip(&self.work) {
            for (&slot, &work) in stage.placement.iter().zip(works) {
                if let Some(worker) = self.bound(slot) {
                    *sums.entry(worker).or_default() += work;
                }
            }
        }
        sums
    }

    /// Whether the outputs of a stage stay on the workers that make them.
    pub(super) fn exchanges(&self, stage: usize) -> bool {
        self.plan.stages[stage].handover == Handover::Exchange
    }

    /// Whether the outputs of any stage do.
    pub fn exchanges_any(&self) -> bool {
        self.exchanges_any
    }

    /// The stage that makes a map; none for an input of the model.
    pub(super) fn maker(&self, map: MapId) -> Option<usize> {
        self.made_by.get(&map).copied()
    }

    /// The maps that stages read, each with all that do.
    pub(super) fn reads(&self) -> impl Iterator<Item = (MapId, &[usize])> {
        self.read_by.iter().map(|(&map, stages)| (map, stages.as_slice()))
    }

    /// The stages that read what a stage makes.
    pub(super) fn readers_of(&self, stage: usize) -> impl Iterator<Item = usize> {
        let maps = self.geometry()[stage].output_maps.iter();
        maps.filter_map(|map| self.read_by.get(map)).flatten().copied()
    }

    pub(super) fn needs(&self, stage: usize, tile: usize) -> &[Need] {
        &self.needs[stage][tile]
    }

    pub(super) fn readers(&self, stage: usize, tile: usize) -> &[Reader] {
        &self.readers[stage][tile]
    }

    /// The worker that is to compute a tile.
    pub(super) fn planned(&self, stage: usize, tile: usize) -> Option<WorkerId> {
        self.bound(*self.plan.stages[stage].placement.get(tile)?)
    }

    pub(super) fn header(&self, map: MapId, region: Region) -> PieceHeader {
        header(&self.model, map, region)
    }

    pub(super) fn bound(&self, slot: Slot) -> Option<WorkerId> {
        self.slots.get(slot.0 as usize).copied()
    }
}

fn header(model: &Model, map: MapId, region: Region) -> PieceHeader {
    let channels = model.shape(map).channels() as u32;
    PieceHeader { map, region, channels, element: model.element(map) }
}

type OfTiles<T> = Vec<Vec<Vec<T>>>;

/// All weights, and twice what all tiles read and make.
fn most(model: &Model, survey: &Survey) -> u64 {
    let mut bytes = 0;
    for (stage, g) in survey.stages.iter().enumerate() {
        for t in &g.tiles {
            let inputs = t.inputs.iter();
            let inputs = inputs.map(|&(map, region)| region.positions() * model.pixel_bytes(map));
            let layers = &model.layers[g.first_layer.index()..];
            let made = layers.iter().zip(&t.layers).map(|(layer, region)| {
                region.positions() * model.pixel_bytes(layer.output) + LINE_BYTES
            });
            bytes += 2 * (inputs.sum::<usize>() + made.sum::<usize>()) as u64;
        }
        let sets =
            (0..).map_while(|index| survey.weights(WeightSet { stage: stage as u32, index }));
        let weights = sets.flatten().flat_map(|layer| layer.packed(model));
        bytes += weights.map(|(_, bytes)| bytes).sum::<u64>();
    }
    bytes
}

/// What stays on each worker of what its tiles make and of what they are sent.
fn kept(
    model: &Model,
    (plan, slots): (&Plan, &[WorkerId]),
    geometry: &[StageGeometry],
    needs: &OfTiles<Need>,
) -> BTreeMap<WorkerId, u64> {
    let owner = |stage: usize, tile: usize| {
        slots.get(plan.stages[stage].placement[tile].0 as usize).copied()
    };
    let mut kept: BTreeMap<WorkerId, u64> = BTreeMap::new();
    for (stage, g) in geometry.iter().enumerate() {
        let stays = plan.stages[stage].handover == Handover::Exchange;
        for (tile, t) in g.tiles.iter().enumerate() {
            let Some(worker) = owner(stage, tile) else { continue };
            let made = t.outputs.iter().filter(|_| stays);
            let made = made.map(|&(map, region)| header(model, map, region));
            let sent = needs[stage][tile].iter();
            let sent = sent.filter(|need| owner(need.stage, need.tile) != Some(worker));
            let pieces = made.chain(sent.map(|need| need.piece));
            let bytes: u64 = pieces.map(|piece| piece.byte_len().unwrap_or(0) as u64).sum();
            *kept.entry(worker).or_default() += bytes;
        }
    }
    kept
}

/// What passes from worker to worker.
fn exchanged(
    model: &Model,
    plan: &Plan,
    geometry: &[StageGeometry],
    made_by: &BTreeMap<MapId, usize>,
) -> (OfTiles<Need>, OfTiles<Reader>) {
    let mut needs: OfTiles<Need> =
        geometry.iter().map(|g| vec![Vec::new(); g.tiles.len()]).collect();
    let mut readers: OfTiles<Reader> =
        geometry.iter().map(|g| vec![Vec::new(); g.tiles.len()]).collect();
    for (stage, g) in geometry.iter().enumerate() {
        for (tile, t) in g.tiles.iter().enumerate() {
            for &(map, region) in &t.inputs {
                let maker = made_by.get(&map).copied();
                let kept = maker.filter(|&m| plan.stages[m].handover == Handover::Exchange);
                let Some(from) = kept else { continue };
                for (maker, part) in geometry[from].makers(map, region) {
                    let piece = header(model, map, part);
                    needs[stage][tile].push(Need { stage: from, tile: maker, piece });
                    readers[from][maker].push(Reader { stage, tile, piece });
                }
            }
        }
    }
    (needs, readers)
}
