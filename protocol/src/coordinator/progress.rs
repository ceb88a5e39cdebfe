//! From a result to the end of its frame, and to the start of the next.

use super::{ActivePlan, Coordinator, Frame, Output};
use crate::Nanos;
use crate::ids::{FrameId, TaskId, WorkerId};
use crate::message::{Bundle, BundleKind, Message};
use std::sync::Arc;

impl Coordinator {
    /// Takes a frame in, or refuses it where too many wait.
    pub(super) fn on_submit(&mut self, id: FrameId, plan: Arc<ActivePlan>) {
        let bytes = plan.frame_bytes();
        let config = &self.config;
        let many = self.waiting.len() >= config.frames_waiting_max;
        let large = self.waiting_bytes + bytes > config.frames_waiting_bytes_max
            && !self.waiting.is_empty();
        if many || large {
            let reason = format!(
                "the cluster is full: {} frames ({} MB) wait; submit it again when one has ended",
                self.waiting.len(),
                self.waiting_bytes / 1_000_000
            );
            return self.outputs.push_back(Output::FrameFailed(id, reason));
        }
        self.newest = self.newest.max(Some(id));
        // Plans are numbered in turn: one that was to come before this one will not come any more.
        self.upcoming.retain(|&id, next| id > plan.id || next.model_hash != plan.model_hash);
        self.note_pace(&plan);
        self.waiting_bytes += bytes;
        self.waiting.push_back((id, plan));
    }

    /// Starts the frames that waited longest.
    pub(super) fn start_frames(&mut self, now: Nanos) {
        while self.frames.len() < self.config.frames_in_flight_max {
            if self.waiting.front().is_some_and(|(_, plan)| !self.can_keep(plan)) {
                return; // There is room when a frame has ended.
            }
            let Some((id, plan)) = self.waiting.pop_front() else { return };
            self.waiting_bytes -= plan.frame_bytes();
            let frame = Frame::new(id, plan);
            if frame.ended() {
                // A model without layers gives back its inputs.
                self.outputs.push_back(Output::Finished(id));
                continue;
            }
            if let Some(reason) = self.too_large(frame.plan()) {
                self.outputs.push_back(Output::FrameFailed(id, reason));
                continue;
            }
            self.frames.insert(id, frame);
            self.go_on(now, id);
        }
    }

    /// Begins the stages of a frame that can begin now.
    fn go_on(&mut self, now: Nanos, id: FrameId) {
        let Some(frame) = self.frames.get_mut(&id) else { return };
        for stage in frame.advance() {
            self.begin_stage(now, id, stage);
        }
    }

    /// Gives each tile of a stage that is ready to its planned worker, or, where that one is gone, to
    /// another.
    fn begin_stage(&mut self, now: Nanos, id: FrameId, stage: usize) {
        let Some(frame) = self.frames.get(&id) else { return };
        let planned = frame.planned(stage);
        self.counters.tasks += planned.len() as u64;
        for (task, owner) in planned {
            self.choose_check(task);
            self.enqueue(now, task, owner);
        }
    }

    pub(super) fn on_bundle(&mut self, now: Nanos, id: WorkerId, bundle: Bundle, checksum: u64) {
        let Some(worker) = self.workers.get_mut(&id).filter(|w| w.alive) else { return };
        worker.heard_ns = now;
        let BundleKind::Result { busy_ns, waited_ns } = bundle.kind else {
            return self.expel(now, id, format!("sent a bundle of kind {:?}", bundle.kind));
        };
        let task = bundle.task;
        self.hear_of_promise(now, id, task, bundle.attempt);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(held) = worker.release(now, task, bundle.attempt) else {
            return; // A stale attempt: another one gave the same bits first, or will.
        };
        let relieved = worker.relieve();
        self.touched.insert(id);
        if relieved {
            self.rescue(now);
        }
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let bytes_out = bundle.wire_len().unwrap_or(0) as u64;
        worker.report.bytes_out = worker.report.bytes_out.saturating_add(bytes_out);
        let gathered_bytes = &mut self.counters.gathered_bytes;
        *gathered_bytes = gathered_bytes.saturating_add(bytes_out);
        self.withdraw_promise(task, bundle.attempt);
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        if let Err(reason) = frame.check_result(&bundle) {
            self.take_back(now, &held);
            return self.expel(now, id, reason);
        }
        if held.weights_ns > 0 {
            self.weights_came(now, id, task);
        }
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        let first = frame.accept(task, bundle.attempt, id);
        let checked = frame.is_checked(task);
        if first {
            self.stitch(task);
            let plan = bundle.plan;
            let sharers = self.workers.values().filter(|w| w.alive).count() as u64;
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.done(&held, busy_ns);
                // What waited for weights says nothing of what the link carries.
                if held.weights_ns == 0 && worker.is_settled(plan, task.frame) {
                    let known_ns = busy_ns.saturating_add(waited_ns);
                    worker.moved(now, &held, bytes_out, known_ns, sharers);
                }
            }
        }
        if checked {
            self.answered(now, task, id, checksum);
        } else if first {
            self.settle(now, task);
        }
    }

    /// Has the pieces of the bundle just given stitched in.
    fn stitch(&mut self, task: TaskId) {
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        let relayed = frame.relayed;
        let Some(tile) = frame.tile(task) else { return };
        match std::mem::replace(&mut tile.gathered, true) {
            false => self.outputs.push_back(Output::Gather(task)),
            // It had kept some of what it gives now.
            true if relayed => self.outputs.push_back(Output::Regather(task)),
            // The same bits as the first time.
            true => {}
        }
    }

    /// A task is done and agreed on: nobody needs to go on with it.
    pub(super) fn settle(&mut self, now: Nanos, task: TaskId) {
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        frame.settle(task);
        for (attempt, worker) in frame.attempts(task) {
            self.cancel(now, worker, task, attempt);
        }
        let woken = self.frames.get(&task.frame).map(|f| f.woken_by(task)).unwrap_or_default();
        for (task, planned) in woken {
            self.enqueue(now, task, planned);
        }
        self.finish_stage(now, task);
    }

    pub(super) fn cancel(&mut self, now: Nanos, worker: WorkerId, task: TaskId, attempt: u32) {
        if let Some(frame) = self.frames.get_mut(&task.frame) {
            frame.end_attempt(task, attempt);
        }
        self.promised.retain(|&(t, _), &mut p| t != task || p != (worker, attempt));
        self.promised.remove(&(task, attempt));
        let Some(state) = self.workers.get_mut(&worker).filter(|w| w.alive) else { return };
        state.release(now, task, attempt);
        self.touched.insert(worker);
        self.send(worker, Message::Cancel { task, attempt });
    }

    /// Moves a frame on when a task was the last of its stage.
    fn finish_stage(&mut self, now: Nanos, task: TaskId) {
        let id = task.frame;
        let Some(frame) = self.frames.get_mut(&id) else { return };
        if frame.stages[task.stage as usize].open > 0 {
            return;
        }
        let (released, kept) = frame.take_released();
        let ended = frame.ended();
        self.outputs.extend(released.into_iter().map(|map| Output::Release(id, map)));
        if ended {
            self.end_frame(id);
            self.outputs.push_back(Output::Finished(id));
        } else {
            self.release_kept(id, kept);
            self.go_on(now, id);
            if self.frames.get(&id).is_some_and(|f| f.relayed) {
                self.set_right(now, id);
            }
        }
    }

    /// The first frame that is not over.
    pub(super) fn oldest(&self) -> Option<FrameId> {
        let next = self.newest.map(|id| FrameId(id.0 + 1));
        let waiting = self.waiting.iter().map(|&(id, _)| id);
        self.frames.keys().copied().chain(waiting).min().or(next)
    }

    /// Forgets a frame here and on every worker that may hold a task of it: a hand-over whose
    /// victim died may lie on a worker, or be on its way to one, that is not taken to hold it.
    pub(super) fn end_frame(&mut self, id: FrameId) {
        let Some(frame) = self.frames.remove(&id) else { return };
        let plan = frame.plan().clone();
        self.promised.retain(|(task, _), _| task.frame != id);
        self.orphans.retain(|task| task.frame != id);
        self.let_go(id, None);
        for worker in self.workers.values_mut() {
            worker.load.forget(id, |task| plan.work_of(task.stage, task.tile));
        }
        let oldest = self.oldest();
        for worker in self.concerned(&plan) {
            self.touched.insert(worker);
            self.send(worker, Message::Forget { frame: id, oldest });
        }
    }
}
