//! The coordinator: places the tasks of frames on workers, corrects the placement by stealing,
//! gathers each task once, and reassigns what a lost worker held.
//!
//! | file | idea |
//! |---|---|
//! | `mod.rs` | who is there, liveness, what they say |
//! | `io.rs` | settings, inputs and outputs, counters |
//! | `plan.rs` | a plan bound to workers, and what follows from it |
//! | `frame.rs` | one frame: its stages, its tiles, what is done and who holds it |
//! | `mend.rs` | pieces that stay on workers, and the loss of their holders |
//! | `state.rs` | one worker: what it holds, how long things should take it |
//! | `learn.rs` | how fast it is: its measurement, corrected by its tasks |
//! | `load.rs` | what a worker has to do |
//! | `pace.rs` | whether it is as fast as its plan has it |
//! | `pairs.rs` | what the ways between workers carry |
//! | `dispatch.rs` | who gets which task next |
//! | `steal.rs` | work moves from the busiest to the idle; copies of the likeliest last |
//! | `lease.rs` | what is late |
//! | `awaited.rs` | weights on their way to a worker, and what waits for them |
//! | `lacks.rs` | weights that are wanted, tasks that failed or were refused |
//! | `memory.rs` | what fits where |
//! | `packed.rs` | the weights that a worker has |
//! | `check.rs` | two answers to one task, compared |
//! | `succession.rs` | a plan that follows another one when its weights are packed |
//! | `progress.rs` | from a result to the end of its frame |

mod awaited;
mod check;
mod dispatch;
mod frame;
mod io;
mod lacks;
mod learn;
mod lease;
mod load;
mod memory;
mod mend;
mod pace;
mod packed;
mod pairs;
mod passed;
mod plan;
mod progress;
mod state;
mod steal;
mod succession;

pub use io::{CoordinatorConfig, Counters, Input, Output, PairLink, WorkerProfile, WorkerReport};
pub use plan::ActivePlan;
pub use succession::Succession;

use crate::ids::{FrameId, PlanId, TaskId, WorkerId};
use crate::link::{ECHO_BYTES, Link};
use crate::message::{Hello, Message};
use crate::{HEARTBEAT_NS, Nanos, SECOND, SILENCE_NS, VERSION};
use awaited::Awaited;
use frame::Frame;
use learn::Learned;
use load::Load;
use pace::Paces;
use packed::PackedBook;
use state::{Held, WorkerState};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// One heartbeat of so many is an echo, which keeps the round trip fresh.
const ECHO_BEATS: u64 = 8;

/// The coordinator's state machine.
#[derive(Debug)]
pub struct Coordinator {
    config: CoordinatorConfig,
    workers: BTreeMap<WorkerId, WorkerState>,
    frames: BTreeMap<FrameId, Frame>,
    waiting: VecDeque<(FrameId, Arc<ActivePlan>)>,
    waiting_bytes: u64,
    /// Plans whose weights are being prepared, and that no frame needed yet.
    upcoming: BTreeMap<PlanId, Arc<ActivePlan>>,
    /// What each plan in use asks of its workers.
    paces: Paces,
    /// The frame that was submitted last.
    newest: Option<FrameId>,
    /// Tasks for which no worker is there.
    orphans: BTreeSet<TaskId>,
    /// What a victim was told to hand over: its attempt, then the thief and the thief's attempt.
    promised: BTreeMap<(TaskId, u32), (WorkerId, u32)>,
    /// Workers about which something changed in this call.
    touched: BTreeSet<WorkerId>,
    /// Workers that looked for work and found none.
    idle: BTreeSet<WorkerId>,
    /// The last of them that was looked at again.
    idle_last: WorkerId,
    /// When they are looked at again.
    review_ns: Option<Nanos>,
    /// The ends of all leases; some are of tasks that are done.
    leases: BTreeSet<(Nanos, WorkerId, TaskId, u32)>,
    next_heartbeat_ns: Nanos,
    /// Heartbeats so far.
    beats: u64,
    /// When somebody may have been silent for too long, at the earliest.
    silence_ns: Option<Nanos>,
    /// Workers that answered wrongly.
    banned: BTreeSet<WorkerId>,
    reassigned: u64,
    counters: Counters,
    outputs: VecDeque<Output>,
}

/// How a worker was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// It vanished: what it ran may be to blame.
    Vanished,
    /// It left on purpose, or was sent away.
    Left,
}

impl Coordinator {
    /// A coordinator without workers or frames.
    pub fn new(config: CoordinatorConfig) -> Self {
        Self {
            config,
            workers: BTreeMap::new(),
            frames: BTreeMap::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            upcoming: BTreeMap::new(),
            paces: Paces::default(),
            newest: None,
            orphans: BTreeSet::new(),
            promised: BTreeMap::new(),
            touched: BTreeSet::new(),
            idle: BTreeSet::new(),
            idle_last: WorkerId(0),
            review_ns: None,
            leases: BTreeSet::new(),
            next_heartbeat_ns: 0,
            beats: 0,
            silence_ns: None,
            banned: BTreeSet::new(),
            reassigned: 0,
            counters: Counters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// The live workers and what they did.
    pub fn live(&self) -> impl Iterator<Item = (WorkerId, &WorkerReport)> {
        let live = self.workers.iter().filter(|(_, w)| w.alive);
        live.map(|(&id, w)| (id, &w.report))
    }

    /// What is known of a live worker.
    pub fn profile(&self, id: WorkerId) -> Option<WorkerProfile> {
        let worker = self.workers.get(&id).filter(|w| w.alive)?;
        Some(WorkerProfile {
            rates: worker.learned.rates(),
            measured: worker.learned.measured,
            speed: worker.learned.speed,
            link_bytes_per_s: worker.link.measured_bytes_per_s(),
            round_trip_ns: worker.link.round_trip_ns(),
            late_round_trip_ns: worker.link.late_round_trip_ns(),
            memory_bytes: worker.memory_bytes,
            speedups_per_mille: worker.speedups_per_mille.clone(),
            health: worker.health.clone(),
            board: worker.board.clone(),
            power: worker.power,
            pairs: self.pairs_of(id),
        })
    }

    /// The version of the protocol that all live workers share.
    pub fn shared_version(&self) -> u32 {
        let live = self.workers.values().filter(|w| w.alive);
        live.map(|w| w.version).min().unwrap_or(VERSION)
    }

    /// What each worker did so far, the dead included.
    pub fn reports(&self) -> BTreeMap<WorkerId, WorkerReport> {
        self.workers.iter().map(|(&id, w)| (id, w.report_now())).collect()
    }

    /// Tasks that were issued again because a worker was lost, late or failing.
    pub fn reassigned(&self) -> u64 {
        self.reassigned
    }

    /// Every attempt that is out, and the worker that is taken to hold it: what tests compare with
    /// what the workers really hold.
    pub fn held(&self) -> impl Iterator<Item = (WorkerId, TaskId, u32)> + '_ {
        let live = self.workers.iter().filter(|(_, w)| w.alive);
        live.flat_map(|(&id, w)| w.load.held().iter().map(move |h| (id, h.task, h.attempt)))
    }

    /// The attempts that a live worker is taken to hold.
    pub fn held_by(&self, id: WorkerId) -> impl Iterator<Item = (TaskId, u32)> + '_ {
        let worker = self.workers.get(&id).filter(|w| w.alive);
        let held = worker.map_or(&[][..], |w| w.load.held());
        held.iter().map(|h| (h.task, h.attempt))
    }

    /// Whether a live worker is taken to hold an attempt.
    pub fn holds(&self, id: WorkerId, task: TaskId, attempt: u32) -> bool {
        self.held_by(id).any(|held| held == (task, attempt))
    }

    /// Who holds and owns what, a line for each worker: to find out why something does not go on.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (id, w) in self.workers.iter().filter(|(_, w)| w.alive) {
            let held: Vec<String> =
                w.load.held().iter().map(|h| format!("{} attempt {}", h.task, h.attempt)).collect();
            let own: Vec<String> = w.load.own().iter().map(TaskId::to_string).collect();
            let (stuck, probation, full) = (w.stuck, w.probation, w.full_until_ns);
            text += &format!(
                "{id}: holds {held:?}, owns {own:?}, stuck {stuck}, probation {probation}, \
                 full until {full}, keeps {:?}\n",
                w.kept
            );
        }
        text += &format!("orphans {:?}, promised {:?}\n", self.orphans, self.promised);
        let open = self.frames.values().map(|f| f.describe());
        text + &open.collect::<Vec<_>>().join("\n")
    }

    /// Frames in flight.
    pub fn in_flight(&self) -> usize {
        self.frames.len()
    }

    /// Frames submitted and not ended.
    pub fn unfinished(&self) -> usize {
        self.frames.len() + self.waiting.len()
    }

    /// Whether the next result of a task is compared with another: then its bundle is to be given
    /// with a checksum of its values.
    pub fn checks(&self, task: TaskId) -> bool {
        self.frames.get(&task.frame).is_some_and(|f| f.is_checked(task))
    }

    /// The next thing to do; none when there is nothing left.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call with [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Option<Nanos> {
        const NEVER: Nanos = Nanos::MAX;
        let silence = self.silence_ns.map_or(NEVER, |at| at.min(self.next_heartbeat_ns));
        let lease = self.leases.first().map_or(NEVER, |&(at, ..)| at);
        let next = silence.min(lease).min(self.review_ns.unwrap_or(NEVER));
        (next != NEVER).then_some(next)
    }

    /// Takes in one thing that happened.
    pub fn handle(&mut self, now: Nanos, input: Input) {
        match input {
            Input::Joined(id, version, hello) => self.on_joined(now, (id, version), hello),
            Input::Left(id, _) => self.lose(now, id, Loss::Vanished),
            Input::Message(id, message) => self.on_message(now, id, message),
            Input::Bundle(id, bundle, checksum) => self.on_bundle(now, id, bundle, checksum),
            Input::Packed { worker, task, attempt, bytes } => {
                let packed = self.workers.get_mut(&worker);
                if let Some(before) = packed.and_then(|w| w.packed(task, attempt, bytes)) {
                    let scattered_bytes = &mut self.counters.scattered_bytes;
                    *scattered_bytes = scattered_bytes.saturating_sub(before).saturating_add(bytes);
                }
            }
            Input::Prepare { next, known } => self.prepare(now, next, &known),
            Input::Submit(frame, plan) => self.on_submit(frame, plan),
            Input::Tick => {}
        }
        self.check_silence(now);
        self.check_leases(now);
        self.start_frames(now);
        self.dispatch(now);
    }

    fn send(&mut self, to: WorkerId, message: Message) {
        self.outputs.push_back(Output::Send(to, message));
    }

    fn on_joined(&mut self, now: Nanos, (id, version): (WorkerId, u32), hello: Hello) {
        if self.banned.contains(&id) {
            let reason = "it gave a wrong answer before".into();
            return self.outputs.push_back(Output::Disconnect(id, reason));
        }
        self.lose(now, id, Loss::Vanished);
        let before = self.workers.remove(&id);
        let probation = before.as_ref().is_some_and(|w| w.stuck || w.probation);
        let (report, passed) = before.map(|w| (w.report, w.passed)).unwrap_or_default();
        let worker = WorkerState {
            alive: true,
            version,
            heard_ns: now,
            hungry: false,
            running_since_ns: now,
            load: Load::default(),
            learned: Learned::new(hello.rates),
            link: Link::default(),
            health: hello.health,
            board: hello.board,
            power: hello.power,
            pairs: BTreeMap::new(),
            speedups_per_mille: hello.speedups_per_mille,
            stuck: false,
            strikes: 0,
            probation,
            full_until_ns: 0,
            memory_bytes: hello.memory_bytes,
            packed: PackedBook::default(),
            prepares_until_ns: 0,
            awaited: Awaited::default(),
            announced: BTreeMap::new(),
            prepared: BTreeSet::new(),
            reaches: BTreeSet::new(),
            kept: BTreeMap::new(),
            kept_bytes: 0,
            passed,
            report: WorkerReport {
                name: hello.name,
                threads: hello.threads,
                alive: true,
                ..report
            },
        };
        self.workers.insert(id, worker);
        self.forget_pairs_with(id);
        self.touched.insert(id);
        self.silence_ns.get_or_insert(now + SILENCE_NS);
        let oldest = self.oldest();
        self.send(id, Message::Welcome { worker: id, oldest });
        self.send(id, Message::Echo { sent_ns: now, padding: Vec::new() });
        self.outputs.push_back(Output::MembershipChanged);
        for task in std::mem::take(&mut self.orphans) {
            self.enqueue(now, task, None);
        }
        self.rescue(now);
    }

    /// A worker is gone: its tasks go back to their frames.
    fn lose(&mut self, now: Nanos, id: WorkerId, loss: Loss) {
        let Some(worker) = self.workers.get_mut(&id).filter(|w| w.alive) else { return };
        worker.alive = false;
        worker.report.alive = false;
        let (held, own) = std::mem::take(&mut worker.load).into_tasks();
        self.idle.remove(&id);
        self.touched.remove(&id);
        worker.kept.clear();
        worker.kept_bytes = 0;
        let blamed = held.first().map(|h| h.task).filter(|_| loss == Loss::Vanished);
        let frames = self.frames.iter_mut();
        let broken: Vec<FrameId> =
            frames.filter_map(|(&frame, f)| f.lose_holder(id).then_some(frame)).collect();
        for held in held {
            self.take_back(now, &held);
        }
        for task in own {
            self.enqueue(now, task, None);
        }
        // What it was to take over does not reach it, nor a process that comes back under its
        // name: the victim's word that it yielded then means that nobody has the task.
        let promised = self.promised.iter().filter(|&(_, &(thief, _))| thief == id);
        let void: Vec<(TaskId, u32)> = promised.map(|(&key, _)| key).collect();
        for (task, attempt) in void {
            self.withdraw_promise(task, attempt);
        }
        for frame in broken {
            self.mend(now, frame);
        }
        self.outputs.push_back(Output::MembershipChanged);
        if let Some(task) = blamed {
            self.blame(task, id);
        }
    }

    /// A worker vanished while it ran a task. When that happens again and again, the task is poison.
    fn blame(&mut self, task: TaskId, id: WorkerId) {
        let deaths_max = self.config.deaths_max as usize;
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        let deaths = frame.count_death(task, id).to_vec();
        if deaths.len() < deaths_max {
            return;
        }
        let name = |id: &WorkerId| match self.workers.get(id) {
            Some(worker) => worker.report.name.clone(),
            None => id.to_string(),
        };
        let names: Vec<String> = deaths.iter().map(name).collect();
        let reason = format!(
            "{task} was running on {} workers as they vanished ({}); it is not tried again",
            deaths.len(),
            names.join(", ")
        );
        self.end_frame(task.frame);
        self.outputs.push_back(Output::FrameFailed(task.frame, reason));
    }

    /// An attempt ended without a result: the task waits for a worker again, unless another
    /// attempt goes on.
    fn take_back(&mut self, now: Nanos, held: &Held) {
        self.withdraw_promise(held.task, held.attempt);
        self.end_attempt(now, held.task, held.attempt);
    }

    fn end_attempt(&mut self, now: Nanos, task: TaskId, attempt: u32) {
        let Some(frame) = self.frames.get_mut(&task.frame) else { return };
        if frame.end_attempt(task, attempt) {
            self.reassigned += 1;
            self.enqueue(now, task, None);
        } else {
            self.second_opinion(now, task);
        }
    }

    fn check_silence(&mut self, now: Nanos) {
        if self.silence_ns.is_some_and(|at| now >= at) {
            let live = self.workers.iter().filter(|(_, w)| w.alive);
            let silent = live.filter(|(_, w)| now >= w.heard_ns + SILENCE_NS);
            let silent: Vec<WorkerId> = silent.map(|(&id, _)| id).collect();
            for id in silent {
                self.lose(now, id, Loss::Vanished);
                let reason = format!("silent for {} s", SILENCE_NS / SECOND);
                self.outputs.push_back(Output::Disconnect(id, reason));
            }
            let live = self.workers.values().filter(|w| w.alive);
            self.silence_ns = live.map(|w| w.heard_ns + SILENCE_NS).min();
        }
        if now >= self.next_heartbeat_ns {
            self.next_heartbeat_ns = now + HEARTBEAT_NS;
            let live: Vec<WorkerId> = self.live().map(|(id, _)| id).collect();
            self.beats += 1;
            for id in live {
                let echo = Message::Echo { sent_ns: now, padding: Vec::new() };
                let is_due = self.beats.is_multiple_of(ECHO_BEATS);
                self.send(id, if is_due { echo } else { Message::Heartbeat });
            }
        }
    }

    /// Ends the connection to a worker that broke the protocol.
    fn expel(&mut self, now: Nanos, id: WorkerId, reason: String) {
        self.lose(now, id, Loss::Left);
        self.outputs.push_back(Output::Disconnect(id, reason));
    }

    fn on_message(&mut self, now: Nanos, id: WorkerId, message: Message) {
        let Some(worker) = self.workers.get_mut(&id).filter(|w| w.alive) else { return };
        worker.heard_ns = now;
        match message {
            Message::Heartbeat => {}
            // What maps take is for those who plan, too: the driver has taken it in.
            Message::Carried { maps, .. } => self.on_carried(id, &maps),
            Message::Health(health) => worker.health = health,
            Message::Echo { sent_ns, padding } => {
                worker.link.echoed(now.saturating_sub(sent_ns), padding.len());
                // Short ones and padded ones in turn.
                let padded = padding.is_empty() && worker.link.wants_padding();
                if padded || worker.link.wants_echo() {
                    let padding = vec![0; if padded { ECHO_BYTES } else { 0 }];
                    self.send(id, Message::Echo { sent_ns: now, padding });
                }
            }
            Message::Hungry => {
                worker.hungry = true;
                self.touched.insert(id);
            }
            Message::Prepared { plan } => {
                if worker.announced.contains_key(&plan) {
                    worker.prepared.insert(plan);
                }
            }
            Message::Want { hashes } => self.on_want(now, id, hashes),
            Message::Yielded { task, attempt } => self.on_yielded(now, id, task, attempt),
            Message::Kept { task, attempt } => self.on_kept(now, id, task, attempt),
            Message::Failed { task, attempt, reason } => {
                self.on_failed(now, id, task, attempt, reason);
            }
            Message::Refused { task, attempt } => self.on_refused(now, id, task, attempt),
            Message::Lacking { task, attempt, holder } => {
                self.on_lacking(now, (id, holder), task, attempt);
            }
            Message::Reaches { peers } => self.on_reaches(id, peers),
            Message::PairLink { peer, bytes_per_s, round_trip_ns } => {
                self.on_pair_link(id, peer, bytes_per_s, round_trip_ns);
            }
            Message::Goodbye { .. } => self.lose(now, id, Loss::Left),
            other => self.expel(now, id, format!("a worker may not send {other:?}")),
        }
    }
}
