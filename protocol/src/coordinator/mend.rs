//! Pieces that stay on workers, and what happens when one of them is lost.
//!
//! The tiles whose outputs a lost worker kept are computed again, as far as somebody still needs
//! them, and so on backwards to what is held or gathered. Where workers cannot pass on what they
//! keep, or nobody has the memory to go on, the frame begins again from what was gathered, and from
//! then on everything is.

use super::frame::{Frame, StageState};
use super::{ActivePlan, Coordinator, Output};
use crate::Nanos;
use crate::ids::{FrameId, TaskId, WorkerId};
use crate::message::{Bundle, Message, PieceHeader};
use model::MapId;

impl Frame {
    /// A worker is gone, and what it kept with it.
    pub(super) fn lose_holder(&mut self, worker: WorkerId) -> bool {
        let mut lost = false;
        for tile in self.stages.iter_mut().flat_map(|s| &mut s.tiles) {
            if tile.kept_by == Some(worker) {
                tile.kept_by = None;
                lost = true;
            }
        }
        lost
    }

    /// The pieces that a worker keeps for later stages.
    fn kept_by(&self, worker: WorkerId) -> impl Iterator<Item = PieceHeader> + '_ {
        let stages = self.stages.iter().zip(self.plan.geometry());
        let tiles = stages.flat_map(|(s, g)| s.tiles.iter().zip(&g.tiles));
        let kept = tiles.filter(move |(tile, _)| tile.kept_by == Some(worker));
        let pieces = kept.flat_map(|(_, tile)| &tile.outputs);
        let pieces = pieces.filter(|(map, _)| !self.is_released(*map));
        pieces.map(|&(map, region)| self.plan.header(map, region))
    }

    /// Opens the tiles again that nobody holds and somebody needs; returns how many.
    fn reopen_lost(&mut self) -> u64 {
        let mut reopened = 0;
        // Later stages first: what one of them needs again, an earlier one may have to make again.
        for stage in (0..self.stages.len()).rev() {
            for tile in 0..self.stages[stage].tiles.len() {
                if self.stages[stage].tiles[tile].done {
                    continue;
                }
                for need in self.plan.needs(stage, tile) {
                    let made = &mut self.stages[need.stage].tiles[need.tile];
                    if made.done && made.kept_by.is_none() {
                        made.done = false;
                        self.stages[need.stage].open += 1;
                        reopened += 1;
                    }
                }
            }
        }
        self.find_barrier();
        reopened
    }

    /// From now on everything is gathered: opens the tiles again whose outputs are on workers and
    /// still needed, and returns the maps that workers can let go of.
    fn relay(&mut self) -> Vec<MapId> {
        let mut maps = Vec::new();
        for (stage, safe) in self.safe().into_iter().enumerate() {
            if !self.exchanges(stage) {
                continue;
            }
            maps.extend(&self.plan.geometry()[stage].output_maps);
            let StageState { tiles, open } = &mut self.stages[stage];
            for tile in tiles {
                tile.kept_by = None;
                if tile.done && !safe {
                    tile.done = false;
                    *open += 1;
                }
            }
        }
        self.relayed = true;
        self.find_barrier();
        maps
    }
}

impl Coordinator {
    /// Whether a worker can get all pieces that a task takes from others.
    pub(super) fn reaches_sources(&self, id: WorkerId, task: TaskId) -> bool {
        let Some(frame) = self.frames.get(&task.frame).filter(|f| !f.relayed) else { return true };
        let needs = frame.plan().needs(task.stage as usize, task.tile as usize);
        needs.iter().all(|need| {
            let made = &frame.stages[need.stage].tiles[need.tile];
            made.kept_by.is_none_or(|holder| holder == id || self.reaches(holder, id))
        })
    }

    /// Bytes of a task's inputs that a worker keeps.
    pub(super) fn kept_inputs(&self, id: WorkerId, task: TaskId) -> u64 {
        let Some(frame) = self.frames.get(&task.frame).filter(|f| !f.relayed) else { return 0 };
        let needs = frame.plan().needs(task.stage as usize, task.tile as usize).iter();
        let kept = needs.filter(|n| frame.stages[n.stage].tiles[n.tile].kept_by == Some(id));
        kept.map(|need| need.piece.byte_len().unwrap_or(0) as u64).sum()
    }

    /// The pieces that a live worker is taken to keep: what tests compare with what it really does.
    pub fn kept_by(&self, id: WorkerId) -> impl Iterator<Item = (FrameId, PieceHeader)> + '_ {
        let live = self.workers.get(&id).is_some_and(|w| w.alive);
        let frames = self.frames.iter().filter(move |(_, f)| live && f.plan().exchanges_any());
        frames.flat_map(move |(&frame, f)| f.kept_by(id).map(move |piece| (frame, piece)))
    }

    /// Whether one worker can send pieces to another.
    pub(super) fn reaches(&self, from: WorkerId, to: WorkerId) -> bool {
        let live = |id| self.workers.get(&id).is_some_and(|w| w.alive);
        live(to) && self.workers.get(&from).is_some_and(|w| w.alive && w.reaches.contains(&to))
    }

    /// Whether all live workers can send pieces to each other: where not, outputs are better
    /// gathered.
    pub fn all_reach_all(&self) -> bool {
        let live: Vec<WorkerId> = self.live().map(|(id, ..)| id).collect();
        live.iter().all(|&a| live.iter().all(|&b| a == b || self.reaches(a, b)))
    }

    pub(super) fn on_reaches(&mut self, id: WorkerId, peers: Vec<WorkerId>) {
        let before = self.all_reach_all();
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.reaches = peers.into_iter().collect();
        }
        if self.all_reach_all() != before {
            self.outputs.push_back(Output::ReachChanged);
        }
    }

    /// Counts the pieces that a task leaves on its worker when it ends.
    pub(super) fn note_made(&mut self, id: WorkerId, task: TaskId) {
        let stage = task.stage as usize;
        let Some(frame) = self.frames.get(&task.frame).filter(|f| f.exchanges(stage)) else {
            return;
        };
        let plan = frame.plan().clone();
        for &(map, region) in &plan.geometry()[stage].tiles[task.tile as usize].outputs {
            self.note_kept(id, task.frame, &plan.header(map, region));
        }
    }

    /// Counts the pieces that travel from worker to worker for a task.
    pub(super) fn note_exchange(&mut self, id: WorkerId, bundle: &Bundle) {
        for delivery in &bundle.orders.deliveries {
            for piece in &delivery.pieces {
                self.note_kept(delivery.to, bundle.task.frame, piece);
            }
        }
        let Some(frame) = self.frames.get(&bundle.task.frame) else { return };
        let plan = frame.plan().clone();
        for source in bundle.orders.sources.iter().filter(|s| s.holder != id) {
            let bytes = plan.wire_bytes(source.holder, &source.piece);
            self.note_passed((source.holder, id), bytes, plan.encodes(source.holder));
        }
    }

    fn note_kept(&mut self, id: WorkerId, frame: FrameId, piece: &PieceHeader) {
        let bytes = piece.byte_len().unwrap_or(0) as u64;
        if let Some(worker) = self.workers.get_mut(&id) {
            *worker.kept.entry((frame, piece.map)).or_default() += bytes;
            worker.kept_bytes += bytes;
        }
    }

    /// Workers let go of maps of a frame; of all of them where none is named. Who waited for that
    /// memory can go on.
    pub(super) fn let_go(&mut self, frame: FrameId, maps: Option<&[MapId]>) {
        for (&id, worker) in &mut self.workers {
            let gone = |map: &MapId| maps.is_none_or(|maps| maps.contains(map));
            let kept = worker.kept.range((frame, MapId(0))..=(frame, MapId(u32::MAX)));
            let keys: Vec<_> = kept.map(|(&key, _)| key).filter(|(_, map)| gone(map)).collect();
            if worker.alive && !keys.is_empty() {
                self.touched.insert(id);
            }
            for key in keys {
                worker.kept_bytes -= worker.kept.remove(&key).unwrap_or(0);
            }
        }
    }

    /// The live workers that may hold a task or a piece of a plan's frames: pieces may have been sent
    /// to anybody who was to have a task.
    pub(super) fn concerned(&self, plan: &ActivePlan) -> Vec<WorkerId> {
        let live = self.workers.iter().filter(|(_, w)| w.alive);
        let told = live.filter(|(_, w)| plan.exchanges_any() || w.announced.contains_key(&plan.id));
        told.map(|(&id, _)| id).collect()
    }

    /// Tells workers that these maps of a frame are over.
    pub(super) fn release_kept(&mut self, frame: FrameId, maps: Vec<MapId>) {
        let Some(plan) = self.frames.get(&frame).map(|f| f.plan().clone()) else { return };
        if maps.is_empty() {
            return;
        }
        self.let_go(frame, Some(&maps));
        for id in self.concerned(&plan) {
            self.touched.insert(id);
            self.send(id, Message::Release { frame, maps: maps.clone() });
        }
    }

    /// What a worker kept is gone: opens again what is needed of it.
    pub(super) fn mend(&mut self, now: Nanos, id: FrameId) {
        let Some(frame) = self.frames.get_mut(&id) else { return };
        self.counters.recomputed += frame.reopen_lost();
        self.set_right(now, id);
    }

    /// Gives up exchanging pieces in a frame, where it has any to give up.
    pub(super) fn fall_back(&mut self, now: Nanos, id: FrameId) {
        if !self.may_fall_back(id) {
            return;
        }
        let Some(frame) = self.frames.get_mut(&id) else { return };
        // Those that go on were ordered to keep what they make, or to take what others keep.
        let ordered = |frame: &Frame, task: TaskId| {
            let stage = task.stage as usize;
            frame.exchanges(stage) || !frame.plan().needs(stage, task.tile as usize).is_empty()
        };
        let tasks: Vec<TaskId> = frame.begun().into_iter().filter(|&t| ordered(frame, t)).collect();
        let maps = frame.relay();
        self.counters.fallbacks += 1;
        for task in tasks {
            self.cancel_all(now, task);
        }
        self.release_kept(id, maps);
        self.set_right(now, id);
    }

    fn cancel_all(&mut self, now: Nanos, task: TaskId) {
        let attempts = self.frames.get(&task.frame).map(|f| f.attempts(task)).unwrap_or_default();
        for (attempt, worker) in attempts {
            self.cancel(now, worker, task, attempt);
        }
    }

    /// Makes the shares and the attempts of a frame fit what is ready.
    pub(super) fn set_right(&mut self, now: Nanos, id: FrameId) {
        let Some(frame) = self.frames.get(&id) else { return };
        let tasks = frame.begun();
        let open: Vec<(TaskId, bool)> = tasks
            .into_iter()
            .filter(|&task| frame.awaits(task))
            .map(|task| (task, frame.ready(task)))
            .collect();
        for (task, ready) in open {
            if !ready {
                self.dequeue(task);
                self.cancel_all(now, task);
            } else if !self.in_a_share(task) {
                let frame = self.frames.get(&id).map(|f| f.plan().clone());
                let planned =
                    frame.and_then(|p| p.planned(task.stage as usize, task.tile as usize));
                self.enqueue(now, task, planned);
            }
        }
    }

    fn in_a_share(&self, task: TaskId) -> bool {
        let owner = self.frames.get(&task.frame).and_then(|f| f.look(task)?.owner);
        let owner = owner.and_then(|id| self.workers.get(&id));
        owner.is_some_and(|w| w.load.own().contains(&task)) || self.orphans.contains(&task)
    }

    /// A worker gave a task back, since a piece for it does not come.
    pub(super) fn on_lacking(
        &mut self,
        now: Nanos,
        (id, holder): (WorkerId, WorkerId),
        task: TaskId,
        attempt: u32,
    ) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(held) = worker.release(now, task, attempt) else { return };
        self.touched.insert(id);
        self.take_back(now, &held);
        // Where the holder is gone by now, the frame is mended already.
        if self.workers.get(&holder).is_some_and(|w| w.alive) {
            self.fall_back(now, task.frame);
        }
    }

    /// Whether a frame still has pieces on workers to give up.
    pub(super) fn may_fall_back(&self, id: FrameId) -> bool {
        self.frames.get(&id).is_some_and(|f| !f.relayed && f.plan().exchanges_any())
    }

    /// Where tasks wait for memory that only kept pieces take, and nothing runs that could end: the
    /// youngest frame that keeps some gives them up.
    pub(super) fn unblock(&mut self, now: Nanos) {
        if !self.frames.keys().any(|&id| self.may_fall_back(id)) {
            return;
        }
        let live = || self.workers.values().filter(|w| w.alive);
        let blocked = live().any(|w| !w.load.own().is_empty() && w.kept_bytes > 0)
            && live().all(|w| w.load.held().is_empty() && now >= w.full_until_ns);
        if !blocked {
            return;
        }
        let keeps = |id: &FrameId| {
            live().any(|w| w.kept.range((*id, MapId(0))..=(*id, MapId(u32::MAX))).next().is_some())
        };
        let youngest = self.frames.iter().rev().filter(|(_, f)| !f.relayed);
        let youngest = youngest.map(|(&id, _)| id).find(keeps);
        if let Some(id) = youngest {
            self.fall_back(now, id);
        }
    }
}
