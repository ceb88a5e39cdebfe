//! The tasks of a worker, from their arrival to their result or to somebody else.

use super::{Output, Peer, Running, Worker};
use crate::Nanos;
use crate::ids::{FrameId, PlanId, TaskId, WorkerId};
use crate::message::{Bundle, BundleKind, Message, Orders, PieceHeader};
use std::collections::VecDeque;

/// Bundles of plans that were not announced yet, at most.
const EARLY_MAX: usize = 16;

/// Frames of which a late copy may still arrive: what comes of them is not computed.
const ENDED_MAX: usize = 64;

/// Attempts that were cancelled and may still arrive.
const CANCELLED_MAX: usize = 64;

impl Worker {
    pub(super) fn on_bundle(&mut self, now: Nanos, from: Peer, bundle: Bundle) {
        if let (Peer::Worker(_), BundleKind::Exchange) = (from, bundle.kind) {
            self.acknowledge(from, &bundle);
            return self.on_exchange(now, bundle);
        }
        let expected = match from {
            Peer::Coordinator => BundleKind::Scatter,
            Peer::Worker(_) => BundleKind::Handover,
        };
        if bundle.kind != expected {
            self.drop_task(&bundle);
            return self.break_off(from, format!("sent a bundle of kind {:?}", bundle.kind));
        }
        // Late for its frame, or for the coordinator that it came from: nobody waits for it.
        let key = (bundle.task, bundle.attempt);
        if !self.connected
            || self.ended.contains(&bundle.task.frame)
            || self.cancelled.contains(&key)
        {
            return self.drop_task(&bundle);
        }
        if !self.with_room(|me| me.has_room(&bundle)) {
            return self.refuse(&bundle);
        }
        self.hungry = false;
        let plan = bundle.plan;
        self.look_for_sources(now, &bundle);
        self.queue.push_back((now, bundle));
        if self.plans.contains_key(&plan) {
            self.take_up(from, plan);
        } else {
            self.drop_excess_early();
        }
    }

    /// Gives the queued tasks of a plan what they need; the sender of a task that the plan lacks is
    /// cut off.
    pub(super) fn take_up(&mut self, from: Peer, id: PlanId) {
        let Some(plan) = self.plans.get_mut(&id) else { return };
        let mut unsound = None;
        for (_, bundle) in self.queue.iter().filter(|(_, b)| b.plan == id) {
            if plan.has_task(bundle.task.stage, bundle.task.tile) {
                plan.tasks.insert((bundle.task.stage, bundle.task.tile));
            } else {
                unsound = Some(bundle.task);
            }
        }
        if let Some(task) = unsound {
            self.drop_queued(|b| b.task == task);
            return self.break_off(from, format!("sent {task}, which its plan lacks"));
        }
        self.prepare_weights();
    }

    /// A bundle may overtake the announcement of its plan: they travel on two streams. Those of
    /// plans that never come are bounded.
    pub(super) fn drop_excess_early(&mut self) {
        let plans = &self.plans;
        let early = self.queue.iter().filter(|(_, b)| !plans.contains_key(&b.plan));
        if early.clone().count() > EARLY_MAX
            && let Some(oldest) = early.map(|(_, b)| b.clone()).next()
        {
            self.queue.retain(|(_, b)| (b.task, b.attempt) != (oldest.task, oldest.attempt));
            // Its sender may be slow to announce: it must not wait for a task that nobody has.
            self.refuse(&oldest);
        }
    }

    pub(super) fn drop_queued(&mut self, which: impl Fn(&Bundle) -> bool) {
        let (gone, kept): (VecDeque<_>, VecDeque<_>) =
            self.queue.drain(..).partition(|(_, bundle)| which(bundle));
        self.queue = kept;
        for (_, bundle) in gone {
            self.drop_task(&bundle);
        }
    }

    pub(super) fn drop_task(&mut self, bundle: &Bundle) {
        self.outputs.push_back(Output::Drop(bundle.task, bundle.attempt));
    }

    pub(super) fn on_yield(
        &mut self,
        task: TaskId,
        attempt: u32,
        thief: WorkerId,
        next_attempt: u32,
    ) {
        let whole = |b: &Bundle| (b.task, b.attempt) == (task, attempt) && self.complete(b);
        let position = self.queue.iter().position(|(_, b)| whole(b));
        let Some(position) = position.filter(|_| self.peers.contains(&thief)) else {
            return self.send(Message::Kept { task, attempt });
        };
        let Some((_, bundle)) = self.queue.remove(position) else { return };
        let mut handed =
            Bundle { kind: BundleKind::Handover, attempt: next_attempt, ..bundle.clone() };
        // The thief needs nobody else.
        let sources = handed.orders.sources.drain(..);
        handed.pieces.extend(sources.map(|source| source.piece));
        self.outputs.push_back(Output::SendBundle(Peer::Worker(thief), handed));
        self.drop_task(&bundle);
        self.send(Message::Yielded { task, attempt });
    }

    pub(super) fn on_forget(&mut self, frame: FrameId) {
        self.drop_queued(|b| b.task.frame == frame);
        self.forget_kept(|kept| kept == frame);
        self.ended.push_back(frame);
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
        if self.running.as_ref().is_some_and(|r| r.bundle.task.frame == frame) {
            self.forgotten = true;
        }
    }

    pub(super) fn on_cancel(&mut self, task: TaskId, attempt: u32) {
        self.drop_queued(|b| (b.task, b.attempt) == (task, attempt));
        let running = self.running.as_ref().map(|r| (r.bundle.task, r.bundle.attempt));
        self.forgotten |= running == Some((task, attempt));
        self.cancelled.push_back((task, attempt));
        if self.cancelled.len() > CANCELLED_MAX {
            self.cancelled.pop_front();
        }
    }

    /// Starts the oldest task that can run; asks for more when it was the last.
    pub(super) fn start_next(&mut self) {
        while self.running.is_none() {
            let ready = self.queue.iter().position(|(_, b)| {
                let plan = self.plans.get(&b.plan);
                plan.is_some_and(|p| p.is_ready(b.task)) && self.complete(b)
            });
            let Some((since, bundle)) = ready.and_then(|i| self.queue.remove(i)) else { break };
            let runs = self.with_room(|me| me.may_run(&bundle));
            if !runs && self.unsent_bytes > 0 {
                // There may be room when the last results are out.
                self.queue.push_front((since, bundle));
                break;
            }
            if !runs {
                self.refuse(&bundle);
                continue;
            }
            let Bundle { task, attempt, plan, .. } = bundle;
            self.forgotten = false;
            let bytes = self.running_bytes(&bundle);
            self.running = Some(Running { bundle, since, bytes });
            self.outputs.push_back(Output::Execute { task, attempt, plan });
        }
        // A task of a plan that may never be announced is nothing to live on.
        let known = |(_, b): &(Nanos, Bundle)| self.plans.contains_key(&b.plan);
        if !self.queue.iter().any(known) && !self.hungry && self.id.is_some() {
            self.hungry = true;
            self.send(Message::Hungry);
        }
    }

    pub(super) fn on_executed(&mut self, now: Nanos, task: TaskId, busy_ns: u64) {
        let Some(Running { bundle, since, .. }) = self.running.take_if(|r| r.bundle.task == task)
        else {
            return;
        };
        // The processor may have had something else to finish first.
        let waited_ns = now.saturating_sub(since).saturating_sub(busy_ns);
        if !self.forgotten && self.connected {
            let mut pieces = self.output_pieces(&bundle);
            let made = pieces.clone();
            if bundle.orders.keep {
                let model = self.plans.get(&bundle.plan).and_then(|p| self.models.get(&p.model));
                pieces.retain(|p| model.is_some_and(|m| m.outputs.contains(&p.map)));
            }
            let kind = BundleKind::Result { busy_ns, waited_ns };
            let orders = Orders { keep: bundle.orders.keep, ..Orders::default() };
            let result = Bundle { kind, pieces, orders, forms: Vec::new(), ..bundle.clone() };
            self.unsent_bytes += result.unsent_bytes();
            self.outputs.push_back(Output::SendBundle(Peer::Coordinator, result));
            self.tell_carried();
            if bundle.orders.keep {
                self.keep_outputs(now, &bundle, made);
            }
        }
        self.drop_task(&bundle);
    }

    pub(super) fn output_pieces(&self, bundle: &Bundle) -> Vec<PieceHeader> {
        let plan = self.plans.get(&bundle.plan);
        let Some((plan, survey)) = plan.and_then(|p| Some((p, p.survey.as_ref()?))) else {
            return Vec::new();
        };
        let model = &self.models[&plan.model];
        let stage = survey.stages.get(bundle.task.stage as usize);
        let tile = stage.and_then(|s| s.tiles.get(bundle.task.tile as usize));
        let outputs = tile.map(|t| t.outputs.as_slice()).unwrap_or_default();
        let header = |&(map, region): &(model::MapId, tiling::Region)| {
            let channels = model.shape(map).channels() as u32;
            PieceHeader { map, region, channels, element: model.element(map) }
        };
        outputs.iter().map(header).collect()
    }

    pub(super) fn on_broke(&mut self, task: TaskId, reason: String) {
        let Some(Running { bundle, .. }) = self.running.take_if(|r| r.bundle.task == task) else {
            return;
        };
        if self.connected {
            self.send(Message::Failed { task, attempt: bundle.attempt, reason });
        }
        self.drop_task(&bundle);
    }
}
