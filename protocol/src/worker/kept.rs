//! Pieces that stay on a worker from one stage of a frame to the next.
//!
//! What a task made stays where its orders say so, and parts of it are sent on to the workers that
//! need them next. A task whose inputs lie on other workers waits until they are here: most come
//! unasked, the others are pulled from their holders. Where nothing comes for a while it is pulled
//! again, and in the end the coordinator is told.

use super::{Output, Peer, Worker};
use crate::ids::{FrameId, PlanId, TaskId, WorkerId};
use crate::message::{Bundle, BundleKind, Delivery, Message, Orders, PieceHeader, Source};
use crate::{Nanos, SECOND};
use model::MapId;
use std::collections::BTreeMap;

/// How long a task waits for pieces, while none comes, before they are pulled again; after twice that
/// the task is given back.
const PATIENCE_NS: Nanos = 3 * SECOND;

/// Frames of which pieces are kept, at most.
const FRAMES_MAX: usize = 64;

/// What is kept, and when it was last looked for.
#[derive(Debug, Default)]
pub(super) struct Kept {
    frames: BTreeMap<FrameId, Vec<PieceHeader>>,
    bytes: u64,
    /// Frames before this one are over.
    pub(super) oldest: Option<FrameId>,
    /// When a piece came last.
    came_ns: Nanos,
    /// When to look after the tasks that wait for pieces.
    look_ns: Option<Nanos>,
}

fn bytes(pieces: &[PieceHeader]) -> u64 {
    pieces.iter().map(|p| p.byte_len().unwrap_or(0) as u64).sum()
}

impl Kept {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn look_ns(&self) -> Option<Nanos> {
        self.look_ns
    }

    fn holds(&self, frame: FrameId, piece: &PieceHeader) -> bool {
        let kept = self.frames.get(&frame);
        kept.is_some_and(|all| {
            all.iter().any(|k| k.map == piece.map && k.region.contains(piece.region))
        })
    }

    fn keep(&mut self, frame: FrameId, pieces: Vec<PieceHeader>) {
        self.bytes += bytes(&pieces);
        self.frames.entry(frame).or_default().extend(pieces);
    }

    fn forget(&mut self, frame: FrameId) {
        let gone = self.frames.remove(&frame);
        self.bytes -= gone.as_deref().map_or(0, bytes);
    }

    fn is_over(&self, frame: FrameId) -> bool {
        self.oldest
            .is_some_and(|oldest| frame < oldest || frame.incarnation() != oldest.incarnation())
    }
}

impl Worker {
    /// The pieces of a frame that are kept here: what tests compare with what the driver has.
    pub fn kept(&self, frame: FrameId) -> &[PieceHeader] {
        self.kept.frames.get(&frame).map_or(&[], Vec::as_slice)
    }

    /// Whether all inputs of a task are here.
    pub(super) fn complete(&self, bundle: &Bundle) -> bool {
        let frame = bundle.task.frame;
        bundle.orders.sources.iter().all(|s| self.kept.holds(frame, &s.piece))
    }

    /// A task came: pulls those of its inputs that nobody sends.
    pub(super) fn look_for_sources(&mut self, now: Nanos, bundle: &Bundle) {
        if !self.complete(bundle) {
            self.pull(bundle, |source| !source.coming);
            let look = now + PATIENCE_NS;
            self.kept.look_ns = Some(self.kept.look_ns.map_or(look, |known| known.min(look)));
        }
    }

    fn pull(&mut self, bundle: &Bundle, which: impl Fn(&Source) -> bool) {
        let (task, plan) = (bundle.task, bundle.plan);
        let mut wanted: BTreeMap<WorkerId, Vec<PieceHeader>> = BTreeMap::new();
        for source in bundle.orders.sources.iter().filter(|s| which(s)) {
            let reached = self.peers.contains(&source.holder);
            if reached && !self.kept.holds(task.frame, &source.piece) {
                wanted.entry(source.holder).or_default().push(source.piece);
            }
        }
        for (holder, pieces) in wanted {
            let message = Message::Pull { task, plan, pieces };
            self.outputs.push_back(Output::Send(Peer::Worker(holder), message));
        }
    }

    /// A connection to another worker is up: what it holds can be pulled now.
    pub(super) fn pull_from(&mut self, holder: WorkerId) {
        for (_, bundle) in self.incomplete() {
            self.pull(&bundle, |source| source.holder == holder);
        }
    }

    /// The tasks that wait for pieces, and since when.
    fn incomplete(&self) -> Vec<(Nanos, Bundle)> {
        self.queue.iter().filter(|(_, b)| !self.complete(b)).cloned().collect()
    }

    /// Looks after the tasks that wait for pieces, when it is time.
    pub(super) fn look_after_sources(&mut self, now: Nanos) {
        if self.kept.look_ns.is_none_or(|at| now < at) {
            return;
        }
        self.kept.look_ns = None;
        let came_ns = self.kept.came_ns;
        let mut given_up = Vec::new();
        for (since, bundle) in self.incomplete() {
            let waits_ns = now.saturating_sub(came_ns.max(since));
            if waits_ns < 2 * PATIENCE_NS {
                self.kept.look_ns = Some(now + PATIENCE_NS);
                if waits_ns >= PATIENCE_NS {
                    self.pull(&bundle, |_| true);
                }
                continue;
            }
            let (task, attempt) = (bundle.task, bundle.attempt);
            given_up.push((task, attempt));
            let lacks = |s: &&Source| !self.kept.holds(task.frame, &s.piece);
            if let Some(source) = bundle.orders.sources.iter().find(lacks) {
                let holder = source.holder;
                self.send(Message::Lacking { task, attempt, holder });
            }
        }
        self.drop_queued(|b| given_up.contains(&(b.task, b.attempt)));
    }

    /// Another worker asks for pieces.
    pub(super) fn on_pull(
        &mut self,
        now: Nanos,
        from: WorkerId,
        task: TaskId,
        plan: PlanId,
        mut pieces: Vec<PieceHeader>,
    ) {
        pieces.retain(|piece| self.kept.holds(task.frame, piece));
        if !pieces.is_empty() {
            self.deliver(now, from, (task, 0), plan, pieces);
        }
    }

    fn deliver(
        &mut self,
        now: Nanos,
        to: WorkerId,
        (task, attempt): (TaskId, u32),
        plan: PlanId,
        pieces: Vec<PieceHeader>,
    ) {
        let (kind, orders) = (BundleKind::Exchange, Orders::default());
        self.note_sent(now, to, task, bytes(&pieces));
        let bundle = Bundle { kind, plan, task, attempt, pieces, forms: Vec::new(), orders };
        self.outputs.push_back(Output::SendBundle(Peer::Worker(to), bundle));
    }

    /// Pieces from another worker.
    pub(super) fn on_exchange(&mut self, now: Nanos, bundle: Bundle) {
        let frame = bundle.task.frame;
        self.kept.came_ns = now;
        let news = bundle.pieces.iter().any(|p| !self.kept.holds(frame, p));
        let known = self.kept.frames.contains_key(&frame);
        let room = known || self.kept.frames.len() < FRAMES_MAX;
        let over = self.ended.contains(&frame) || self.kept.is_over(frame);
        if self.id.is_none() || over || !news || !room {
            return;
        }
        if self.with_room(|me| me.has_room(&bundle)) {
            self.kept.keep(frame, bundle.pieces);
            self.outputs.push_back(Output::Keep(frame));
        }
    }

    /// A task ended whose outputs stay: sends on what others need of them.
    pub(super) fn keep_outputs(&mut self, now: Nanos, bundle: &Bundle, outputs: Vec<PieceHeader>) {
        let frame = bundle.task.frame;
        self.kept.keep(frame, outputs);
        self.outputs.push_back(Output::Keep(frame));
        for Delivery { to, pieces } in &bundle.orders.deliveries {
            let sound = pieces.iter().all(|p| self.kept.holds(frame, p));
            if self.peers.contains(to) && sound {
                self.deliver(now, *to, (bundle.task, bundle.attempt), bundle.plan, pieces.clone());
            }
        }
    }

    /// Drops what is kept of some frames.
    pub(super) fn forget_kept(&mut self, which: impl Fn(FrameId) -> bool) {
        let over = self.kept.frames.keys().copied().filter(|&frame| which(frame));
        for frame in over.collect::<Vec<_>>() {
            self.kept.forget(frame);
            self.outputs.push_back(Output::Forget(frame));
        }
    }

    /// Frames before this one are over, and so are those of any other coordinator.
    pub(super) fn forget_before(&mut self, oldest: Option<FrameId>) {
        self.kept.oldest = oldest.or(self.kept.oldest);
        let over = self.kept.frames.keys().copied().filter(|&frame| self.kept.is_over(frame));
        let over: Vec<FrameId> = over.collect();
        self.forget_kept(|frame| over.contains(&frame));
    }

    /// No task of the frame reads these maps any more.
    pub(super) fn on_release(&mut self, frame: FrameId, maps: Vec<MapId>) {
        let Some(kept) = self.kept.frames.get_mut(&frame) else { return };
        let before = bytes(kept);
        kept.retain(|piece| !maps.contains(&piece.map));
        self.kept.bytes -= before - bytes(kept);
        self.outputs.push_back(Output::Release(frame, maps));
    }
}
