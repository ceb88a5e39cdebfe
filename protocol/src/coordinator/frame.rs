//! One frame on its way through the stages of its plan.

use crate::ids::{FrameId, ModelHash, PlanId, TaskId, WorkerId};
use crate::message::{Bundle, PieceHeader};
use crate::survey::Survey;
use model::{MapId, Model};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tiling::{Plan, PlanError, Slot, StageGeometry, TileGeometry, Work};

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
    /// For each stage, the maps that no later stage reads.
    last_read: Vec<Vec<MapId>>,
    /// For each stage and tile, its multiply-adds.
    multiply_adds: Vec<Vec<u64>>,
    /// The same by operator class: how long it takes.
    work: Vec<Vec<Work>>,
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
        let mut seen: BTreeSet<MapId> = model.outputs.iter().copied().collect();
        let mut last_read = vec![Vec::new(); geometry.len()];
        for (stage, maps) in geometry.iter().zip(&mut last_read).rev() {
            maps.extend(stage.input_maps.iter().copied().filter(|&map| seen.insert(map)));
        }
        let tiles = |s: &StageGeometry| {
            (0..s.tiles.len()).map(|tile| s.tile_multiply_adds(&model, tile)).collect()
        };
        let multiply_adds = geometry.iter().map(tiles).collect();
        let tiles =
            |s: &StageGeometry| (0..s.tiles.len()).map(|tile| s.tile_work(&model, tile)).collect();
        let work = geometry.iter().map(tiles).collect();
        Ok(Self { id, model, model_hash, plan, survey, slots, last_read, multiply_adds, work })
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

    /// Bytes of the model's inputs.
    pub(super) fn frame_bytes(&self) -> u64 {
        let bytes = |&map: &MapId| {
            (self.model.shape(map).elements() * self.model.element(map).bytes()) as u64
        };
        self.model.inputs.iter().map(bytes).sum()
    }

    /// The stages in which a worker has a tile.
    pub fn stages_of(&self, worker: WorkerId) -> Vec<u32> {
        let stages = self.plan.stages.iter().enumerate();
        let placed =
            stages.filter(|(_, s)| s.placement.iter().any(|&p| self.bound(p) == Some(worker)));
        placed.map(|(i, _)| i as u32).collect()
    }

    /// Multiply-adds that the plan executes, halo included.
    pub fn multiply_adds(&self) -> u64 {
        self.multiply_adds.iter().flatten().sum()
    }

    /// What a tile asks of a device.
    pub fn work_of(&self, stage: u32, tile: u32) -> Work {
        self.work[stage as usize][tile as usize]
    }

    fn bound(&self, slot: Slot) -> Option<WorkerId> {
        self.slots.get(slot.0 as usize).copied()
    }
}

#[derive(Debug, Default)]
pub(super) struct TileState {
    /// Whose share it is in; none while no worker is there.
    pub(super) owner: Option<WorkerId>,
    /// It came into that share by a steal.
    pub(super) stolen: bool,
    attempts: u32,
    /// Attempts that ended in an error.
    failures: u32,
    /// Workers that were lost while they ran it.
    deaths: Vec<WorkerId>,
    /// Attempts that go on, and who makes them.
    live_attempts: BTreeMap<u32, WorkerId>,
    gathered: bool,
    /// Leases of its that ran out.
    pub(super) lapses: u32,
    /// Workers that had no memory for it.
    pub(super) refused: Vec<WorkerId>,
    /// What was answered so far, where two are asked.
    pub(super) answers: Option<Vec<(WorkerId, u64)>>,
}

#[derive(Debug)]
pub(super) struct Frame {
    id: FrameId,
    plan: Arc<ActivePlan>,
    stage: usize,
    tiles: Vec<TileState>,
    /// Tiles of the stage that are not gathered, or not agreed on.
    open: usize,
}

impl Frame {
    pub(super) fn new(id: FrameId, plan: Arc<ActivePlan>) -> Self {
        let mut frame = Self { id, plan, stage: 0, tiles: Vec::new(), open: 0 };
        frame.lay_out();
        frame
    }

    fn lay_out(&mut self) {
        let tiles = self.plan.geometry().get(self.stage).map_or(0, |s| s.tiles.len());
        self.tiles = (0..tiles).map(|_| TileState::default()).collect();
        self.open = tiles;
    }

    /// The tasks of the current stage with their planned workers.
    pub(super) fn planned(&self) -> Vec<(TaskId, Option<WorkerId>)> {
        let Some(stage) = self.plan.plan.stages.get(self.stage) else { return Vec::new() };
        let slots = stage.placement.iter().enumerate();
        slots.map(|(i, &slot)| (self.task(i), self.plan.bound(slot))).collect()
    }

    fn task(&self, tile: usize) -> TaskId {
        TaskId { frame: self.id, stage: self.stage as u32, tile: tile as u32 }
    }

    pub(super) fn tile(&mut self, task: TaskId) -> Option<&mut TileState> {
        let index = self.tile_index(task)?;
        self.tiles.get_mut(index)
    }

    pub(super) fn waits(&self, task: TaskId) -> bool {
        self.tile_index(task).is_some_and(|i| self.tiles[i].waits())
    }

    pub(super) fn plan(&self) -> &Arc<ActivePlan> {
        &self.plan
    }

    pub(super) fn plan_id(&self) -> PlanId {
        self.plan.id
    }

    fn tile_index(&self, task: TaskId) -> Option<usize> {
        let current = task.frame == self.id && task.stage as usize == self.stage;
        (current && (task.tile as usize) < self.tiles.len()).then_some(task.tile as usize)
    }

    fn geometry(&self, tile: usize) -> &TileGeometry {
        &self.plan.geometry()[self.stage].tiles[tile]
    }

    /// Starts an attempt and returns its number and the pieces it needs.
    pub(super) fn begin_attempt(
        &mut self,
        task: TaskId,
        worker: WorkerId,
    ) -> Option<(u32, Vec<PieceHeader>)> {
        let index = self.tile_index(task)?;
        let attempt = self.next_attempt(task, worker)?;
        let model = &self.plan.model;
        let header = |&(map, region): &(MapId, tiling::Region)| PieceHeader {
            map,
            region,
            channels: model.shape(map).channels() as u32,
            element: model.element(map),
        };
        let pieces = self.geometry(index).inputs.iter().map(header).collect();
        Some((attempt, pieces))
    }

    /// Starts an attempt whose inputs come from elsewhere.
    pub(super) fn next_attempt(&mut self, task: TaskId, worker: WorkerId) -> Option<u32> {
        let index = self.tile_index(task)?;
        let tile = &mut self.tiles[index];
        tile.attempts += 1;
        tile.live_attempts.insert(tile.attempts, worker);
        Some(tile.attempts)
    }

    /// Ends an attempt without a result; whether the task now waits again.
    pub(super) fn end_attempt(&mut self, task: TaskId, attempt: u32) -> bool {
        let Some(index) = self.tile_index(task) else { return false };
        let tile = &mut self.tiles[index];
        tile.live_attempts.remove(&attempt).is_some() && tile.waits()
    }

    /// Counts an attempt that ended in an error, and returns how many did.
    pub(super) fn count_failure(&mut self, task: TaskId) -> u32 {
        let Some(index) = self.tile_index(task) else { return 0 };
        self.tiles[index].failures += 1;
        self.tiles[index].failures
    }

    /// Counts a worker that was lost while it ran a task, and returns all who were.
    pub(super) fn count_death(&mut self, task: TaskId, worker: WorkerId) -> &[WorkerId] {
        let Some(index) = self.tile_index(task) else { return &[] };
        self.tiles[index].deaths.push(worker);
        &self.tiles[index].deaths
    }

    /// Whether a worker was lost while it ran a task, or had no memory for it: others go first.
    pub(super) fn suits_ill(&self, task: TaskId, worker: WorkerId) -> bool {
        self.tile_index(task).is_some_and(|i| {
            let tile = &self.tiles[i];
            tile.deaths.contains(&worker) || tile.refused.contains(&worker)
        })
    }

    /// Attempts that go on, and who makes them.
    pub(super) fn attempts(&self, task: TaskId) -> Vec<(u32, WorkerId)> {
        let Some(index) = self.tile_index(task) else { return Vec::new() };
        self.tiles[index].live_attempts.iter().map(|(&a, &w)| (a, w)).collect()
    }

    /// Whether a second answer to a task is wanted, or why it was agreed on.
    pub(super) fn is_checked(&self, task: TaskId) -> bool {
        self.tile_index(task).is_some_and(|i| self.tiles[i].answers.is_some())
    }

    /// A tile is gathered and agreed on.
    pub(super) fn settle(&mut self, task: TaskId) {
        if let Some(tile) = self.tile(task) {
            tile.answers = None;
            self.open -= 1;
        }
    }

    pub(super) fn live_attempts(&self, task: TaskId) -> usize {
        self.tile_index(task).map_or(0, |i| self.tiles[i].live_attempts.len())
    }

    /// Whether the result of a task is still to come.
    pub(super) fn awaits(&self, task: TaskId) -> bool {
        self.tile_index(task).is_some_and(|i| !self.tiles[i].gathered)
    }

    /// Bytes that must move to compute a task elsewhere.
    pub(super) fn input_bytes(&self, task: TaskId) -> u64 {
        self.tile_index(task).map_or(0, |_| self.plan.input_bytes(task.stage, task.tile))
    }

    pub(super) fn multiply_adds(&self, task: TaskId) -> u64 {
        self.plan.multiply_adds[task.stage as usize][task.tile as usize]
    }

    pub(super) fn work(&self, task: TaskId) -> Work {
        self.plan.work_of(task.stage, task.tile)
    }

    /// Whether a result has exactly the pieces that its task owes.
    pub(super) fn check_result(&self, bundle: &Bundle) -> Result<(), String> {
        let task = bundle.task;
        let Some(index) = self.tile_index(task) else { return Ok(()) };
        let owed = &self.geometry(index).outputs;
        let model = &self.plan.model;
        let sound = owed.len() == bundle.pieces.len()
            && owed.iter().zip(&bundle.pieces).all(|(&(map, region), p)| {
                p.map == map
                    && p.region == region
                    && p.channels as usize == model.shape(map).channels()
            });
        if sound { Ok(()) } else { Err(format!("sent other pieces than {task} has")) }
    }

    /// Takes a result; false when the task is already gathered.
    pub(super) fn gather(&mut self, task: TaskId) -> bool {
        self.tile(task).is_some_and(|tile| !std::mem::replace(&mut tile.gathered, true))
    }

    /// Leases of a task that ran out.
    pub(super) fn lapses(&self, task: TaskId) -> u32 {
        self.tile_index(task).map_or(0, |i| self.tiles[i].lapses)
    }

    pub(super) fn describe(&self) -> String {
        let open =
            self.tiles.iter().enumerate().filter(|(_, t)| !t.gathered || t.answers.is_some());
        let open: Vec<_> = open.map(|(i, t)| (i, t.owner, &t.live_attempts, &t.answers)).collect();
        format!("frame {} stage {}: open {open:?}", self.id.number(), self.stage)
    }

    pub(super) fn stage_complete(&self) -> bool {
        !self.ended() && self.open == 0
    }

    /// Goes to the next stage; returns the maps that nothing reads any more.
    pub(super) fn advance(&mut self) -> Vec<MapId> {
        let released = self.plan.last_read[self.stage].clone();
        self.stage += 1;
        self.lay_out();
        released
    }

    pub(super) fn ended(&self) -> bool {
        self.stage >= self.plan.geometry().len()
    }
}

impl TileState {
    fn waits(&self) -> bool {
        !self.gathered && self.live_attempts.is_empty()
    }
}
