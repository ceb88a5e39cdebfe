//! The coordinator: places the tasks of frames on workers, corrects the placement by stealing,
//! gathers each task once, and reassigns what a lost worker held.
//!
//! | file | idea |
//! |---|---|
//! | `mod.rs` | inputs and outputs, who is there, liveness |
//! | `frame.rs` | one frame: its stage, its tiles, what is gathered |
//! | `dispatch.rs` | who gets which task next: scatter, steal, lease |

mod dispatch;
mod frame;

pub use frame::ActivePlan;

use crate::ids::{FrameId, PlanId, TaskId, WorkerId};
use crate::message::{Bundle, BundleKind, Hello, Message};
use crate::{HEARTBEAT_NS, Nanos, SECOND, SILENCE_NS};
use frame::Frame;
use model::{MapId, WeightHash};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The slowest link on which a task is not called late for want of its weights.
const WEIGHT_BYTES_PER_S_MIN: u64 = 500_000;

/// What a person may set.
#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorConfig {
    /// Tasks scattered to one worker and not gathered yet, at most. Two keep a worker busy while
    /// the next inputs travel; more leave more to steal.
    pub window_tasks_max: usize,
    /// Frames in flight at once; further ones wait in order.
    pub frames_in_flight_max: usize,
    /// Whether idle workers steal.
    pub stealing: bool,
    /// Attempts of one task that may end in an error before its frame fails. Steals and lost
    /// workers do not count: they say nothing against the task.
    pub attempts_max: u32,
    /// A task is tried elsewhere, too, when it takes this many times its expected duration...
    pub lease_factor: u64,
    /// ...and at least this long.
    pub lease_min_ns: Nanos,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            window_tasks_max: 3,
            frames_in_flight_max: 4,
            stealing: true,
            attempts_max: 5,
            lease_factor: 8,
            lease_min_ns: 10 * SECOND,
        }
    }
}

/// What happens to a coordinator.
#[derive(Clone, Debug)]
pub enum Input {
    /// An admitted worker said hello. A known id is a restart: what it held is gone.
    Joined(WorkerId, Hello),
    /// A worker's connection is down.
    Left(WorkerId, String),
    /// A control message.
    Message(WorkerId, Message),
    /// A bundle with all its values, which the driver holds until the outputs of this call are
    /// drained: `Gather` keeps it, otherwise it is let go.
    Bundle(WorkerId, Bundle),
    /// Compute one input, which the driver holds.
    Submit(FrameId, Arc<ActivePlan>),
    /// Time passed.
    Tick,
}

/// What a coordinator wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a control message.
    Send(WorkerId, Message),
    /// Cut these pieces out of the frame's maps and send them.
    SendBundle(WorkerId, Bundle),
    /// Send blobs.
    SendBlobs(WorkerId, Vec<WeightHash>),
    /// Stitch the pieces of the bundle just given into the frame's maps.
    Gather(TaskId),
    /// No later task of the frame reads this map.
    Release(FrameId, MapId),
    /// The frame's output maps are complete.
    Finished(FrameId),
    /// The frame ended in an error.
    FrameFailed(FrameId, String),
    /// End a worker's connection.
    Disconnect(WorkerId, String),
    /// The set of live workers changed: the next frames deserve a new plan.
    MembershipChanged,
}

/// What one worker did, for the table at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerReport {
    /// Its name.
    pub name: String,
    /// Compute threads.
    pub threads: u32,
    /// Tasks gathered from it.
    pub tasks: u64,
    /// Of those, taken over from another worker's share.
    pub stolen: u64,
    /// Multiply-adds of its gathered tasks.
    pub multiply_adds: u64,
    /// Tensor bytes that it received: from the coordinator and from victims.
    pub bytes_in: u64,
    /// Tensor bytes that it sent: to the coordinator and to thieves.
    pub bytes_out: u64,
    /// Weight bytes sent to it.
    pub weight_bytes: u64,
    /// Time it computed.
    pub busy_ns: u64,
    /// Whether it is connected.
    pub alive: bool,
}

/// One task that a worker holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    task: TaskId,
    attempt: u32,
    stolen: bool,
    lease_ns: Nanos,
    yielding_to: Option<WorkerId>,
    /// Its worker was asked to hand it over and kept it. It is not asked again: where two workers
    /// cannot reach each other, asking would go on for ever.
    kept: bool,
}

#[derive(Debug)]
struct WorkerState {
    alive: bool,
    heard_ns: Nanos,
    hungry: bool,
    /// In the order scattered; the first is taken to be running.
    held: Vec<Held>,
    /// Multiply-adds a second, from its own measurement until its tasks tell.
    multiply_adds_per_s: u64,
    announced: BTreeSet<PlanId>,
    report: WorkerReport,
}

/// The coordinator's state machine.
#[derive(Debug)]
pub struct Coordinator {
    config: CoordinatorConfig,
    workers: BTreeMap<WorkerId, WorkerState>,
    frames: BTreeMap<FrameId, Frame>,
    waiting: VecDeque<(FrameId, Arc<ActivePlan>)>,
    /// What a victim was told to hand over: its attempt, then the thief and the thief's attempt.
    promised: BTreeMap<(TaskId, u32), (WorkerId, u32)>,
    next_heartbeat_ns: Nanos,
    reassigned: u64,
    outputs: VecDeque<Output>,
}

impl Coordinator {
    /// A coordinator without workers or frames.
    pub fn new(config: CoordinatorConfig) -> Self {
        Self {
            config,
            workers: BTreeMap::new(),
            frames: BTreeMap::new(),
            waiting: VecDeque::new(),
            promised: BTreeMap::new(),
            next_heartbeat_ns: 0,
            reassigned: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Ids and self-descriptions of the live workers: what a planner plans for.
    pub fn live(&self) -> impl Iterator<Item = (WorkerId, &WorkerReport, u64)> {
        let live = self.workers.iter().filter(|(_, w)| w.alive);
        live.map(|(&id, w)| (id, &w.report, w.multiply_adds_per_s))
    }

    /// What each worker did so far, the dead included.
    pub fn reports(&self) -> BTreeMap<WorkerId, WorkerReport> {
        self.workers.iter().map(|(&id, w)| (id, w.report.clone())).collect()
    }

    /// Tasks that were issued again because a worker was lost, late or failing.
    pub fn reassigned(&self) -> u64 {
        self.reassigned
    }

    /// Every attempt that is out, and the worker that is taken to hold it: what tests compare with
    /// what the workers really hold.
    pub fn held(&self) -> impl Iterator<Item = (WorkerId, TaskId, u32)> + '_ {
        let live = self.workers.iter().filter(|(_, w)| w.alive);
        live.flat_map(|(&id, w)| w.held.iter().map(move |h| (id, h.task, h.attempt)))
    }

    /// Frames submitted and not ended.
    pub fn unfinished(&self) -> usize {
        self.frames.len() + self.waiting.len()
    }

    /// The next thing to do; none when there is nothing left.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call with [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let live = || self.workers.values().filter(|w| w.alive);
        let silence = live().map(|w| w.heard_ns + SILENCE_NS);
        let leases = live().flat_map(|w| &w.held).map(|h| h.lease_ns);
        let heartbeat = live().next().map(|_| self.next_heartbeat_ns);
        silence.chain(leases).chain(heartbeat).min()
    }

    /// Takes in one thing that happened.
    pub fn handle(&mut self, now: Nanos, input: Input) {
        match input {
            Input::Joined(id, hello) => self.on_joined(now, id, hello),
            Input::Left(id, reason) => self.lose(id, &reason),
            Input::Message(id, message) => self.on_message(now, id, message),
            Input::Bundle(id, bundle) => self.on_bundle(now, id, bundle),
            Input::Submit(frame, plan) => self.waiting.push_back((frame, plan)),
            Input::Tick => {}
        }
        self.check_silence(now);
        self.check_leases(now);
        self.start_frames();
        self.dispatch(now);
    }

    fn send(&mut self, to: WorkerId, message: Message) {
        self.outputs.push_back(Output::Send(to, message));
    }

    fn on_joined(&mut self, now: Nanos, id: WorkerId, hello: Hello) {
        if self.workers.get(&id).is_some_and(|w| w.alive) {
            self.lose(id, "it joined again");
        }
        let report = self.workers.remove(&id).map(|w| w.report).unwrap_or_default();
        let worker = WorkerState {
            alive: true,
            heard_ns: now,
            hungry: false,
            held: Vec::new(),
            multiply_adds_per_s: hello.multiply_adds_per_s,
            announced: BTreeSet::new(),
            report: WorkerReport {
                name: hello.name,
                threads: hello.threads,
                alive: true,
                ..report
            },
        };
        self.workers.insert(id, worker);
        self.send(id, Message::Welcome { worker: id });
        self.outputs.push_back(Output::MembershipChanged);
    }

    /// A worker is gone: its tasks go back to their frames.
    fn lose(&mut self, id: WorkerId, _reason: &str) {
        let Some(worker) = self.workers.get_mut(&id).filter(|w| w.alive) else { return };
        worker.alive = false;
        worker.report.alive = false;
        for held in std::mem::take(&mut worker.held) {
            self.take_back(&held);
        }
        // What it was to take over does not reach it, nor a process that comes back under its
        // name: the victim's word that it yielded then means that nobody has the task.
        let promised = self.promised.iter().filter(|&(_, &(thief, _))| thief == id);
        let void: Vec<(TaskId, u32)> = promised.map(|(&key, _)| key).collect();
        for (task, attempt) in void {
            self.withdraw_promise(task, attempt);
        }
        self.outputs.push_back(Output::MembershipChanged);
    }

    /// An attempt ended without a result: the task waits for a worker again, unless another
    /// attempt goes on.
    fn take_back(&mut self, held: &Held) {
        self.withdraw_promise(held.task, held.attempt);
        let Some(frame) = self.frames.get_mut(&held.task.frame) else { return };
        if frame.end_attempt(held.task, held.attempt) {
            self.reassigned += 1;
        }
    }

    fn check_silence(&mut self, now: Nanos) {
        let silent = self.workers.iter().filter(|(_, w)| w.alive && now >= w.heard_ns + SILENCE_NS);
        let silent: Vec<WorkerId> = silent.map(|(&id, _)| id).collect();
        for id in silent {
            self.expel(id, format!("silent for {} s", SILENCE_NS / SECOND));
        }
        if now >= self.next_heartbeat_ns {
            self.next_heartbeat_ns = now + HEARTBEAT_NS;
            let live: Vec<WorkerId> = self.live().map(|(id, ..)| id).collect();
            for id in live {
                self.send(id, Message::Heartbeat);
            }
        }
    }

    /// Ends the connection to a worker that broke the protocol or fell silent.
    fn expel(&mut self, id: WorkerId, reason: String) {
        self.lose(id, &reason);
        self.outputs.push_back(Output::Disconnect(id, reason));
    }

    fn on_message(&mut self, now: Nanos, id: WorkerId, message: Message) {
        let Some(worker) = self.workers.get_mut(&id).filter(|w| w.alive) else { return };
        worker.heard_ns = now;
        match message {
            Message::Heartbeat => {}
            Message::Hungry => worker.hungry = true,
            Message::Want { hashes } => self.on_want(id, hashes),
            Message::Yielded { task, attempt } => self.on_yielded(now, id, task, attempt),
            Message::Kept { task, attempt } => self.on_kept(id, task, attempt),
            Message::Failed { task, attempt, reason } => {
                self.on_failed(id, task, attempt, reason);
            }
            Message::Goodbye { reason } => self.lose(id, &reason),
            other => self.expel(id, format!("a worker may not send {other:?}")),
        }
    }

    fn on_want(&mut self, id: WorkerId, hashes: Vec<WeightHash>) {
        let frames = self.frames.values().map(|f| f.plan());
        let models: Vec<_> = frames.map(|p| p.model.clone()).collect();
        let weights = models.iter().flat_map(|m| &m.weights);
        let sizes: BTreeMap<_, _> = weights.map(|w| (w.hash, w.bytes() as u64)).collect();
        let bytes: u64 = hashes.iter().filter_map(|h| sizes.get(h)).sum();
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.report.weight_bytes += bytes;
        // What it holds cannot start before the weights are there.
        let patience = bytes.saturating_mul(SECOND) / WEIGHT_BYTES_PER_S_MIN;
        worker.held.iter_mut().for_each(|h| h.lease_ns = h.lease_ns.saturating_add(patience));
        self.outputs.push_back(Output::SendBlobs(id, hashes));
    }

    fn on_failed(&mut self, id: WorkerId, task: TaskId, attempt: u32, reason: String) {
        let Some(held) = self.workers.get_mut(&id).and_then(|w| w.release(task, attempt)) else {
            return;
        };
        self.take_back(&held);
        let attempts_max = self.config.attempts_max;
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        if frame.count_failure(task) >= attempts_max {
            let name = self.workers.get(&id).map(|w| w.report.name.clone()).unwrap_or_default();
            let reason = format!("{task} failed {attempts_max} times, last on {name}: {reason}");
            self.end_frame(task.frame);
            self.outputs.push_back(Output::FrameFailed(task.frame, reason));
        }
    }

    fn on_bundle(&mut self, now: Nanos, id: WorkerId, bundle: Bundle) {
        let Some(worker) = self.workers.get_mut(&id).filter(|w| w.alive) else { return };
        worker.heard_ns = now;
        let BundleKind::Result { busy_ns } = bundle.kind else {
            return self.expel(id, format!("sent a bundle of kind {:?}", bundle.kind));
        };
        let task = bundle.task;
        // A thief may be done before its victim's word that it yielded arrives.
        if let Some((victim, attempt)) = self.promised_to(id, task, bundle.attempt) {
            self.on_yielded(now, victim, task, attempt);
        }
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(held) = worker.release(task, bundle.attempt) else {
            return; // A stale attempt: another one gave the same bits first, or will.
        };
        let bytes_out = bundle.byte_len().unwrap_or(0) as u64;
        worker.report.bytes_out = worker.report.bytes_out.saturating_add(bytes_out);
        self.withdraw_promise(task, bundle.attempt);
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        if let Err(reason) = frame.check_result(&bundle) {
            self.take_back(&held);
            return self.expel(id, reason);
        }
        if frame.gather(task) {
            self.outputs.push_back(Output::Gather(task));
            let multiply_adds = frame.multiply_adds(task);
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.done(&held, multiply_adds, busy_ns);
            }
            self.finish_stage(task.frame);
        }
    }

    /// Moves a frame on when the last tile of its stage is in.
    fn finish_stage(&mut self, id: FrameId) {
        let Some(frame) = self.frames.get_mut(&id) else { return };
        if !frame.stage_complete() {
            return;
        }
        let released = frame.advance();
        let ended = frame.ended();
        let live: BTreeSet<WorkerId> = self.live().map(|(id, ..)| id).collect();
        self.outputs.extend(released.into_iter().map(|map| Output::Release(id, map)));
        if ended {
            self.end_frame(id);
            self.outputs.push_back(Output::Finished(id));
        } else if let Some(frame) = self.frames.get_mut(&id) {
            frame.own_tiles(&live);
        }
    }

    /// Forgets a frame here and on every worker that may hold a task of it: a hand-over whose
    /// victim died may lie on a worker, or be on its way to one, that is not taken to hold it.
    fn end_frame(&mut self, id: FrameId) {
        let Some(frame) = self.frames.remove(&id) else { return };
        let plan = frame.plan_id();
        self.promised.retain(|(task, _), _| task.frame != id);
        let mut told = Vec::new();
        for (&worker, state) in &mut self.workers {
            state.held.retain(|h| h.task.frame != id);
            if state.alive && state.announced.contains(&plan) {
                told.push(worker);
            }
        }
        for worker in told {
            self.send(worker, Message::Forget { frame: id });
        }
    }

    fn start_frames(&mut self) {
        while self.frames.len() < self.config.frames_in_flight_max {
            let Some((id, plan)) = self.waiting.pop_front() else { return };
            let live: BTreeSet<WorkerId> = self.live().map(|(id, ..)| id).collect();
            let mut frame = Frame::new(id, plan);
            if frame.ended() {
                // A model without layers gives back its inputs.
                self.outputs.push_back(Output::Finished(id));
                continue;
            }
            frame.own_tiles(&live);
            self.frames.insert(id, frame);
        }
    }
}

impl WorkerState {
    fn find_held(&mut self, task: TaskId, attempt: u32) -> Option<&mut Held> {
        self.held.iter_mut().find(|h| h.task == task && h.attempt == attempt)
    }

    fn release(&mut self, task: TaskId, attempt: u32) -> Option<Held> {
        let position = self.held.iter().position(|h| h.task == task && h.attempt == attempt)?;
        Some(self.held.remove(position))
    }

    /// Counts a gathered task and learns the worker's speed from it.
    fn done(&mut self, held: &Held, multiply_adds: u64, busy_ns: u64) {
        self.report.tasks += 1;
        self.report.stolen += u64::from(held.stolen);
        self.report.multiply_adds += multiply_adds;
        // The number comes over the wire.
        self.report.busy_ns = self.report.busy_ns.saturating_add(busy_ns);
        if multiply_adds > 0 && busy_ns > 0 {
            let rate = multiply_adds as u128 * SECOND as u128 / busy_ns as u128;
            let rate = u64::try_from(rate).unwrap_or(u64::MAX);
            let old = self.multiply_adds_per_s;
            // A moving average over about four tasks: quick to see a throttled CPU, slow enough
            // not to follow one odd task.
            self.multiply_adds_per_s = if old == 0 { rate } else { old / 4 * 3 + rate / 4 };
        }
    }
}
