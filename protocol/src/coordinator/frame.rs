//! One frame on its way through the stages of its plan.

use crate::ids::{FrameId, ModelHash, PlanId, TaskId, WorkerId};
use crate::message::{Bundle, PieceHeader};
use model::{MapId, Model};
use std::collections::BTreeSet;
use std::sync::Arc;
use tiling::{Plan, PlanError, Slot, StageGeometry, TileGeometry};

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
    /// The geometry of its stages.
    pub geometry: Vec<StageGeometry>,
    /// The worker of each slot.
    pub slots: Vec<WorkerId>,
    /// For each stage, the maps that no later stage reads.
    last_read: Vec<Vec<MapId>>,
    /// For each stage and tile, its multiply-adds.
    work: Vec<Vec<u64>>,
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
        plan.check(&model)?;
        let stages = plan.stages.iter().enumerate();
        let geometry = stages.map(|(i, s)| StageGeometry::new(&model, plan.numerics, i, s));
        let geometry = geometry.collect::<Result<Vec<_>, _>>()?;
        let mut seen: BTreeSet<MapId> = model.outputs.iter().copied().collect();
        let mut last_read = vec![Vec::new(); geometry.len()];
        for (stage, maps) in geometry.iter().zip(&mut last_read).rev() {
            maps.extend(stage.input_maps.iter().copied().filter(|&map| seen.insert(map)));
        }
        let tiles = |s: &StageGeometry| {
            (0..s.tiles.len()).map(|tile| s.tile_multiply_adds(&model, tile)).collect()
        };
        let work = geometry.iter().map(tiles).collect();
        Ok(Self { id, model, model_hash, plan, geometry, slots, last_read, work })
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
        self.work.iter().flatten().sum()
    }

    fn bound(&self, slot: Slot) -> Option<WorkerId> {
        self.slots.get(slot.0 as usize).copied()
    }
}

#[derive(Debug, Default)]
struct TileState {
    /// Whose share it is in; none while no worker is there.
    owner: Option<WorkerId>,
    attempts: u32,
    /// Attempts that ended in an error.
    failures: u32,
    live_attempts: BTreeSet<u32>,
    gathered: bool,
}

#[derive(Debug)]
pub(super) struct Frame {
    id: FrameId,
    plan: Arc<ActivePlan>,
    stage: usize,
    tiles: Vec<TileState>,
}

impl Frame {
    pub(super) fn new(id: FrameId, plan: Arc<ActivePlan>) -> Self {
        let mut frame = Self { id, plan, stage: 0, tiles: Vec::new() };
        frame.lay_out();
        frame
    }

    fn lay_out(&mut self) {
        let tiles = self.plan.geometry.get(self.stage).map_or(0, |s| s.tiles.len());
        self.tiles = (0..tiles).map(|_| TileState::default()).collect();
    }

    /// Gives each tile of the current stage to its planned worker, or, where that one is gone, to
    /// the live one with the smallest share.
    pub(super) fn own_tiles(&mut self, live: &BTreeSet<WorkerId>) {
        let Some(stage) = self.plan.plan.stages.get(self.stage) else { return };
        for (tile, &slot) in self.tiles.iter_mut().zip(&stage.placement) {
            tile.owner = self.plan.bound(slot).filter(|w| live.contains(w));
        }
        self.own_orphans(live);
    }

    /// Finds an owner for each tile that waits and whose owner is gone.
    pub(super) fn own_orphans(&mut self, live: &BTreeSet<WorkerId>) {
        for i in 0..self.tiles.len() {
            let tile = &self.tiles[i];
            if tile.waits() && !tile.owner.is_some_and(|w| live.contains(&w)) {
                let share =
                    |w: &WorkerId| self.tiles.iter().filter(|t| t.owner == Some(*w)).count();
                self.tiles[i].owner = live.iter().copied().min_by_key(share);
            }
        }
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
        &self.plan.geometry[self.stage].tiles[tile]
    }

    /// Tasks that no attempt is at, with their owners, in order.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (TaskId, Option<WorkerId>)> + '_ {
        let (frame, stage) = (self.id, self.stage as u32);
        let waiting = self.tiles.iter().enumerate().filter(|(_, t)| t.waits());
        waiting.map(move |(i, t)| (TaskId { frame, stage, tile: i as u32 }, t.owner))
    }

    /// Starts an attempt and returns its number and the pieces it needs.
    pub(super) fn begin_attempt(&mut self, task: TaskId) -> Option<(u32, Vec<PieceHeader>)> {
        let index = self.tile_index(task)?;
        let attempt = self.next_attempt(task)?;
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
    pub(super) fn next_attempt(&mut self, task: TaskId) -> Option<u32> {
        let index = self.tile_index(task)?;
        let tile = &mut self.tiles[index];
        tile.attempts += 1;
        tile.live_attempts.insert(tile.attempts);
        Some(tile.attempts)
    }

    /// Ends an attempt without a result; whether the task now waits again.
    pub(super) fn end_attempt(&mut self, task: TaskId, attempt: u32) -> bool {
        let Some(index) = self.tile_index(task) else { return false };
        let tile = &mut self.tiles[index];
        tile.live_attempts.remove(&attempt) && tile.waits()
    }

    /// Counts an attempt that ended in an error, and returns how many did.
    pub(super) fn count_failure(&mut self, task: TaskId) -> u32 {
        let Some(index) = self.tile_index(task) else { return 0 };
        self.tiles[index].failures += 1;
        self.tiles[index].failures
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
        let Some(index) = self.tile_index(task) else { return 0 };
        let bytes = |&(map, region): &(MapId, tiling::Region)| {
            (region.positions() * self.plan.model.pixel_bytes(map)) as u64
        };
        self.geometry(index).inputs.iter().map(bytes).sum()
    }

    pub(super) fn multiply_adds(&self, task: TaskId) -> u64 {
        self.plan.work[task.stage as usize][task.tile as usize]
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
        let Some(index) = self.tile_index(task) else { return false };
        !std::mem::replace(&mut self.tiles[index].gathered, true)
    }

    pub(super) fn stage_complete(&self) -> bool {
        !self.ended() && self.tiles.iter().all(|t| t.gathered)
    }

    /// Goes to the next stage; returns the maps that nothing reads any more.
    pub(super) fn advance(&mut self) -> Vec<MapId> {
        let released = self.plan.last_read[self.stage].clone();
        self.stage += 1;
        self.lay_out();
        released
    }

    pub(super) fn ended(&self) -> bool {
        self.stage >= self.plan.geometry.len()
    }
}

impl TileState {
    fn waits(&self) -> bool {
        !self.gathered && self.live_attempts.is_empty()
    }
}
