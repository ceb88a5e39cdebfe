//! One frame on its way through the stages of its plan.
//!
//! A stage begins when every stage before it has begun, and those whose outputs are gathered are
//! complete. A tile is ready when, beyond that, the tiles that it takes pieces from are made and their
//! pieces are held by live workers. What keeps a frame whole when holders are lost is in `mend.rs`.

use super::plan::ActivePlan;
use crate::ids::{FrameId, PlanId, TaskId, WorkerId};
use crate::message::{Bundle, Delivery, Orders, PieceHeader, Source};
use model::MapId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tiling::{TileGeometry, Work};

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
    /// Attempts that go on.
    live_attempts: BTreeMap<u32, Attempt>,
    /// Its result is in.
    pub(super) done: bool,
    /// Who holds its outputs, where they stay on workers.
    pub(super) kept_by: Option<WorkerId>,
    /// What that worker sends on of them.
    sent: Vec<Delivery>,
    /// Leases of its that ran out.
    pub(super) lapses: u32,
    /// Workers that had no memory for it.
    pub(super) refused: Vec<WorkerId>,
    /// What was answered so far, where two are asked.
    pub(super) answers: Option<Vec<(WorkerId, u64)>>,
    /// What it made for the coordinator was stitched in.
    pub(super) gathered: bool,
}

#[derive(Clone, Debug)]
struct Attempt {
    worker: WorkerId,
    sends: Vec<Delivery>,
}

fn covers(a: &PieceHeader, b: &PieceHeader) -> bool {
    a.map == b.map && a.region.contains(b.region)
}

impl TileState {
    /// Whether a worker is sent a piece of this tile's outputs unasked.
    fn sends(&self, to: WorkerId, piece: &PieceHeader) -> bool {
        let to_it = self.sent.iter().filter(|delivery| delivery.to == to);
        to_it.flat_map(|delivery| &delivery.pieces).any(|sent| covers(sent, piece))
    }
}

/// The tiles of a stage that has begun.
#[derive(Debug)]
pub(super) struct StageState {
    pub(super) tiles: Vec<TileState>,
    /// Tiles that are not done, or not agreed on.
    pub(super) open: usize,
}

#[derive(Debug)]
pub(super) struct Frame {
    id: FrameId,
    pub(super) plan: Arc<ActivePlan>,
    /// Those that have begun.
    pub(super) stages: Vec<StageState>,
    /// Workers could not pass on what they kept: from then on everything is gathered.
    pub(super) relayed: bool,
    /// The first stage that is not complete and whose outputs are gathered.
    barrier: usize,
    /// Maps that nothing reads any more.
    released: BTreeSet<MapId>,
}

impl Frame {
    pub(super) fn new(id: FrameId, plan: Arc<ActivePlan>) -> Self {
        let (stages, released) = (Vec::new(), BTreeSet::new());
        Self { id, plan, stages, relayed: false, barrier: 0, released }
    }

    /// Lays out the stages that may begin now, and returns them.
    pub(super) fn advance(&mut self) -> std::ops::Range<usize> {
        self.find_barrier();
        let first = self.stages.len();
        while let Some(geometry) = self.plan.geometry().get(self.stages.len())
            && self.barrier >= self.stages.len()
        {
            let open = geometry.tiles.len();
            let tiles = (0..open).map(|_| TileState::default()).collect();
            self.stages.push(StageState { tiles, open });
            self.find_barrier();
        }
        first..self.stages.len()
    }

    pub(super) fn find_barrier(&mut self) {
        let incomplete = |(i, stage): (usize, &StageState)| stage.open > 0 && !self.exchanges(i);
        self.barrier =
            self.stages.iter().enumerate().position(incomplete).unwrap_or(self.stages.len());
    }

    /// Whether the outputs of a stage stay on the workers.
    pub(super) fn exchanges(&self, stage: usize) -> bool {
        !self.relayed && self.plan.exchanges(stage)
    }

    /// The tasks of a stage that has begun, with their planned workers.
    pub(super) fn planned(&self, stage: usize) -> Vec<(TaskId, Option<WorkerId>)> {
        let tiles = self.stages.get(stage).map_or(0, |s| s.tiles.len());
        (0..tiles).map(|tile| (self.task(stage, tile), self.plan.planned(stage, tile))).collect()
    }

    /// All tasks of the stages that have begun.
    pub(super) fn begun(&self) -> Vec<TaskId> {
        let stages = self.stages.iter().enumerate();
        stages.flat_map(|(s, state)| (0..state.tiles.len()).map(move |t| self.task(s, t))).collect()
    }

    pub(super) fn task(&self, stage: usize, tile: usize) -> TaskId {
        TaskId { frame: self.id, stage: stage as u32, tile: tile as u32 }
    }

    pub(super) fn tile(&mut self, task: TaskId) -> Option<&mut TileState> {
        let stage = self.stages.get_mut(task.stage as usize).filter(|_| task.frame == self.id)?;
        stage.tiles.get_mut(task.tile as usize)
    }

    pub(super) fn look(&self, task: TaskId) -> Option<&TileState> {
        let stage = self.stages.get(task.stage as usize).filter(|_| task.frame == self.id)?;
        stage.tiles.get(task.tile as usize)
    }

    /// Whether all that a tile reads is there.
    pub(super) fn ready(&self, task: TaskId) -> bool {
        let (stage, tile) = (task.stage as usize, task.tile as usize);
        stage <= self.barrier
            && (self.relayed
                || self.plan.needs(stage, tile).iter().all(|need| {
                    let made = &self.stages[need.stage].tiles[need.tile];
                    made.done && made.kept_by.is_some()
                }))
    }

    /// Whether a task could be given to a worker, and nobody is at it.
    pub(super) fn waits(&self, task: TaskId) -> bool {
        self.look(task).is_some_and(|tile| !tile.done && tile.live_attempts.is_empty())
            && self.ready(task)
    }

    pub(super) fn plan(&self) -> &Arc<ActivePlan> {
        &self.plan
    }

    pub(super) fn plan_id(&self) -> PlanId {
        self.plan.id
    }

    fn geometry(&self, task: TaskId) -> &TileGeometry {
        &self.plan.geometry()[task.stage as usize].tiles[task.tile as usize]
    }

    /// The pieces that the coordinator sends with a task.
    pub(super) fn attached(&self, task: TaskId) -> Vec<PieceHeader> {
        let inputs = self.geometry(task).inputs.iter();
        let here = inputs
            .filter(|(map, _)| self.plan.maker(*map).is_none_or(|stage| !self.exchanges(stage)));
        here.map(|&(map, region)| self.plan.header(map, region)).collect()
    }

    /// What a worker must know of the inputs and outputs of a task that stay on workers; `reaches`
    /// says whether one can send pieces to another.
    pub(super) fn orders(
        &self,
        task: TaskId,
        worker: WorkerId,
        reaches: impl Fn(WorkerId, WorkerId) -> bool,
    ) -> Orders {
        let (stage, tile) = (task.stage as usize, task.tile as usize);
        let mut orders = Orders { keep: self.exchanges(stage), ..Orders::default() };
        if self.relayed {
            return orders;
        }
        for need in self.plan.needs(stage, tile) {
            let made = &self.stages[need.stage].tiles[need.tile];
            let Some(holder) = made.kept_by else { continue };
            let coming = made.sends(worker, &need.piece) && reaches(holder, worker);
            orders.sources.push(Source { piece: need.piece, holder, coming });
        }
        let mut deliveries: BTreeMap<WorkerId, Vec<PieceHeader>> = BTreeMap::new();
        for reader in self.plan.readers(stage, tile) {
            let Some(to) = self.plan.planned(reader.stage, reader.tile) else { continue };
            if to != worker && reaches(worker, to) {
                let pieces = deliveries.entry(to).or_default();
                if !pieces.iter().any(|p| covers(p, &reader.piece)) {
                    pieces.retain(|p| !covers(&reader.piece, p));
                    pieces.push(reader.piece);
                }
            }
        }
        let deliveries = deliveries.into_iter();
        orders.deliveries = deliveries.map(|(to, pieces)| Delivery { to, pieces }).collect();
        orders
    }

    /// Starts an attempt and returns its number.
    pub(super) fn begin_attempt(
        &mut self,
        task: TaskId,
        worker: WorkerId,
        sends: Vec<Delivery>,
    ) -> Option<u32> {
        let tile = self.tile(task)?;
        tile.attempts += 1;
        tile.live_attempts.insert(tile.attempts, Attempt { worker, sends });
        Some(tile.attempts)
    }

    /// Starts an attempt that goes on with the orders of another.
    pub(super) fn next_attempt(
        &mut self,
        task: TaskId,
        attempt: u32,
        worker: WorkerId,
    ) -> Option<u32> {
        let before = self.look(task)?.live_attempts.get(&attempt);
        let sends = before.map(|a| a.sends.clone()).unwrap_or_default();
        self.begin_attempt(task, worker, sends)
    }

    /// Ends an attempt without a result; whether the task now waits again.
    pub(super) fn end_attempt(&mut self, task: TaskId, attempt: u32) -> bool {
        let Some(tile) = self.tile(task) else { return false };
        tile.live_attempts.remove(&attempt).is_some() && self.waits(task)
    }

    /// Counts an attempt that ended in an error, and returns how many did.
    pub(super) fn count_failure(&mut self, task: TaskId) -> u32 {
        let Some(tile) = self.tile(task) else { return 0 };
        tile.failures += 1;
        tile.failures
    }

    /// Counts a worker that was lost while it ran a task, and returns all who were.
    pub(super) fn count_death(&mut self, task: TaskId, worker: WorkerId) -> &[WorkerId] {
        let Some(tile) = self.tile(task) else { return &[] };
        tile.deaths.push(worker);
        &tile.deaths
    }

    /// Whether a worker was lost while it ran a task, or had no memory for it: others go first.
    pub(super) fn suits_ill(&self, task: TaskId, worker: WorkerId) -> bool {
        self.look(task)
            .is_some_and(|tile| tile.deaths.contains(&worker) || tile.refused.contains(&worker))
    }

    /// Bytes of what a task makes that stay on workers and that tiles of this one read, by the plan.
    pub(super) fn bytes_back(&self, task: TaskId, to: WorkerId) -> u64 {
        let (stage, tile) = (task.stage as usize, task.tile as usize);
        if !self.exchanges(stage) {
            return 0;
        }
        let readers = self.plan.readers(stage, tile).iter();
        let mut pieces: Vec<&PieceHeader> = Vec::new();
        for reader in readers.filter(|r| self.plan.planned(r.stage, r.tile) == Some(to)) {
            if !pieces.iter().any(|p| covers(p, &reader.piece)) {
                pieces.retain(|p| !covers(&reader.piece, p));
                pieces.push(&reader.piece);
            }
        }
        pieces.iter().map(|piece| piece.byte_len().unwrap_or(0) as u64).sum()
    }

    /// Whether some inputs of a task are on workers, or its outputs stay there.
    pub(super) fn takes_or_leaves(&self, task: TaskId) -> bool {
        let (stage, tile) = (task.stage as usize, task.tile as usize);
        !self.relayed && (self.exchanges(stage) || !self.plan.needs(stage, tile).is_empty())
    }

    /// Bytes of a task's inputs that stay on workers, and not on this one.
    pub(super) fn kept_elsewhere(&self, task: TaskId, worker: WorkerId) -> u64 {
        let needs = self.plan.needs(task.stage as usize, task.tile as usize).iter();
        let needs = needs.filter(|_| !self.relayed);
        let kept = |stage: usize, tile: usize| self.stages[stage].tiles[tile].kept_by;
        let comes = needs.filter(|need| kept(need.stage, need.tile) != Some(worker));
        comes.map(|need| need.piece.byte_len().unwrap_or(0) as u64).sum()
    }

    /// Attempts that go on, and who makes them.
    pub(super) fn attempts(&self, task: TaskId) -> Vec<(u32, WorkerId)> {
        let Some(tile) = self.look(task) else { return Vec::new() };
        tile.live_attempts.iter().map(|(&number, attempt)| (number, attempt.worker)).collect()
    }

    /// Whether a second answer to a task is wanted, or why it was agreed on.
    pub(super) fn is_checked(&self, task: TaskId) -> bool {
        self.look(task).is_some_and(|tile| tile.answers.is_some())
    }

    /// A tile is done and agreed on.
    pub(super) fn settle(&mut self, task: TaskId) {
        if let Some(tile) = self.tile(task) {
            tile.answers = None;
            self.stages[task.stage as usize].open -= 1;
        }
    }

    pub(super) fn live_attempts(&self, task: TaskId) -> usize {
        self.look(task).map_or(0, |tile| tile.live_attempts.len())
    }

    /// Whether the result of a task is still to come.
    pub(super) fn awaits(&self, task: TaskId) -> bool {
        self.look(task).is_some_and(|tile| !tile.done)
    }

    /// Bytes of all inputs of a task.
    pub(super) fn input_bytes(&self, task: TaskId) -> u64 {
        self.look(task).map_or(0, |_| self.plan.input_bytes(task.stage, task.tile))
    }

    pub(super) fn multiply_adds(&self, task: TaskId) -> u64 {
        self.plan.multiply_adds_of(task.stage, task.tile)
    }

    pub(super) fn work(&self, task: TaskId) -> Work {
        self.plan.work_of(task.stage, task.tile)
    }

    /// Whether a result has exactly the pieces that its task owes.
    pub(super) fn check_result(&self, bundle: &Bundle) -> Result<(), String> {
        let task = bundle.task;
        if self.look(task).is_none() {
            return Ok(());
        }
        let model = &self.plan.model;
        let keeps = self.exchanges(task.stage as usize);
        let owed = self.geometry(task).outputs.iter();
        let owed = owed.filter(|(map, _)| !keeps || model.outputs.contains(map));
        let owed = owed
            .map(|&(map, region)| (map, region, model.shape(map).channels(), model.element(map)));
        let got = bundle.pieces.iter().map(|p| (p.map, p.region, p.channels as usize, p.element));
        if owed.eq(got) { Ok(()) } else { Err(format!("sent other pieces than {task} has")) }
    }

    /// Takes the result of an attempt; false when the task is already done.
    pub(super) fn accept(&mut self, task: TaskId, attempt: u32, worker: WorkerId) -> bool {
        let keeps = self.exchanges(task.stage as usize);
        let Some(tile) = self.tile(task) else { return false };
        let ended = tile.live_attempts.remove(&attempt);
        if std::mem::replace(&mut tile.done, true) {
            return false;
        }
        if keeps {
            tile.kept_by = Some(worker);
            tile.sent = ended.map(|a| a.sends).unwrap_or_default();
        }
        true
    }

    /// The tasks that take pieces from one that is done, and wait for nothing else.
    pub(super) fn woken_by(&self, task: TaskId) -> Vec<(TaskId, Option<WorkerId>)> {
        let (stage, tile) = (task.stage as usize, task.tile as usize);
        if !self.exchanges(stage) {
            return Vec::new();
        }
        let readers = self.plan.readers(stage, tile).iter();
        let mut tasks: Vec<(TaskId, Option<WorkerId>)> = readers
            .map(|r| (self.task(r.stage, r.tile), self.plan.planned(r.stage, r.tile)))
            .collect();
        tasks.dedup();
        tasks.retain(|(task, _)| self.waits(*task));
        tasks
    }

    /// Leases of a task that ran out.
    pub(super) fn lapses(&self, task: TaskId) -> u32 {
        self.look(task).map_or(0, |tile| tile.lapses)
    }

    pub(super) fn describe(&self) -> String {
        let mut text = format!("frame {} relayed {}:", self.id.number(), self.relayed);
        for (s, stage) in self.stages.iter().enumerate() {
            let open = stage.tiles.iter().enumerate();
            let open = open.filter(|(_, t)| !t.done || t.answers.is_some());
            let ready = |t: usize| self.ready(self.task(s, t));
            let open: Vec<_> = open
                .map(|(t, tile)| (t, tile.owner, &tile.live_attempts, &tile.answers, ready(t)))
                .collect();
            text += &format!(" stage {s}: open {open:?}");
        }
        text
    }

    /// For each stage, whether nothing can ask for its work again: it is complete, and what it made
    /// was gathered, or was read by stages of which the same is true.
    pub(super) fn safe(&self) -> Vec<bool> {
        let mut safe: Vec<bool> = self.stages.iter().map(|s| s.open == 0).collect();
        for stage in (0..safe.len()).rev().filter(|&s| self.exchanges(s)) {
            let mut readers = self.plan.readers_of(stage);
            let read = readers.all(|r| safe.get(r).copied().unwrap_or(false));
            safe[stage] &= read;
        }
        safe
    }

    /// The maps that nothing reads any more, and did until now; those that are kept on workers apart.
    pub(super) fn take_released(&mut self) -> (Vec<MapId>, Vec<MapId>) {
        let safe = self.safe();
        let outputs = &self.plan.model.outputs;
        let over =
            |readers: &[usize]| readers.iter().all(|&r| safe.get(r).copied().unwrap_or(false));
        let gone = self.plan.reads().filter(|(map, readers)| {
            !outputs.contains(map) && !self.released.contains(map) && over(readers)
        });
        let gone: Vec<MapId> = gone.map(|(map, _)| map).collect();
        self.released.extend(&gone);
        let kept = |map: &MapId| self.plan.maker(*map).is_some_and(|stage| self.exchanges(stage));
        gone.into_iter().partition(|map| !kept(map))
    }

    pub(super) fn is_released(&self, map: MapId) -> bool {
        self.released.contains(&map)
    }

    pub(super) fn ended(&self) -> bool {
        self.stages.len() >= self.plan.geometry().len() && self.stages.iter().all(|s| s.open == 0)
    }
}
