//! The worker: holds a queue of tasks, runs one at a time, hands queued ones to thieves.
//!
//! A task is ready when its bundle arrived, the model's graph is open, and the weights of its stage
//! are prepared, and its pieces are here. Results and hand-overs travel straight from what the driver
//! holds for the task.
//!
//! | file | idea |
//! |---|---|
//! | `mod.rs` | the two ends, liveness, what the coordinator says |
//! | `io.rs` | inputs and outputs |
//! | `plans.rs` | plans, models, the weights of stages |
//! | `tasks.rs` | tasks, from their arrival to their result |
//! | `kept.rs` | pieces that stay here from one stage to the next |
//! | `memory.rs` | what fits |
//! | `carried.rs` | what pieces took that other workers were sent |
//! | `ways.rs` | what the ways to other workers carry |

mod carried;
mod io;
mod kept;
mod memory;
mod plans;
mod tasks;
mod ways;

pub use io::{Input, Output, Peer};
pub(crate) use ways::{MEASURED_MAX, PADDING};

use crate::ids::{FrameId, ModelHash, PlanId, TaskId, WorkerId};
use crate::message::{Bundle, Hello, Message};
use crate::survey::{PackedLayer, PackedWeight, Survey, Surveys, WeightSet};
use crate::{HEARTBEAT_NS, Nanos, SILENCE_NS};
use carried::Ledger;
use kept::Kept;
use model::{Model, WeightHash};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tiling::{Plan, StageGeometry, Wire};
use ways::Ways;

#[derive(Debug)]
struct ActivePlan {
    model: ModelHash,
    body: Plan,
    encodes: bool,
    survey: Option<Arc<Survey>>,
    /// Weights to prepare early, and the tasks that came.
    wanted: BTreeSet<WeightSet>,
    tasks: BTreeSet<(u32, u32)>,
    prepared: BTreeSet<WeightSet>,
    preparing: BTreeSet<WeightSet>,
    /// The coordinator knows that what it wanted early is packed.
    told: bool,
}

impl ActivePlan {
    fn has_task(&self, stage: u32, tile: u32) -> bool {
        self.body.stages.get(stage as usize).is_some_and(|s| (tile as usize) < s.tiles())
    }

    /// The layers whose weights its tasks read, and those that it was to prepare early.
    fn reads(&self) -> BTreeSet<PackedLayer> {
        let Some(survey) = &self.survey else { return BTreeSet::new() };
        let of_tasks = self.tasks.iter().map(|&(stage, tile)| survey.weight_set(stage, tile));
        let sets = self.wanted.iter().copied().chain(of_tasks);
        let layers = sets.filter_map(|set| survey.weights(set)).flatten();
        layers.map(|weights| (self.model, weights.layer, weights.algorithm)).collect()
    }

    /// Whether the weights of a task are here.
    fn is_ready(&self, task: TaskId) -> bool {
        let survey = self.survey.as_ref();
        survey.is_some_and(|s| self.prepared.contains(&s.weight_set(task.stage, task.tile)))
    }
}

/// The task that runs.
#[derive(Debug)]
struct Running {
    bundle: Bundle,
    /// When it came.
    since: Nanos,
    /// What it takes on top of its inputs. Its plan may end before it does.
    bytes: u64,
}

/// The worker's state machine.
#[derive(Debug)]
pub struct Worker {
    hello: Hello,
    surveys: Surveys,
    id: Option<WorkerId>,
    connected: bool,
    peers: BTreeSet<WorkerId>,
    plans: BTreeMap<PlanId, ActivePlan>,
    models: BTreeMap<ModelHash, Arc<Model>>,
    /// Weights that are packed, with their bytes.
    packed: BTreeMap<PackedWeight, u64>,
    missing: BTreeSet<WeightHash>,
    /// With the time of arrival.
    queue: VecDeque<(Nanos, Bundle)>,
    kept: Kept,
    carried: Ledger,
    ways: Ways,
    /// Bytes of results that are not off this device yet.
    unsent_bytes: u64,
    running: Option<Running>,
    /// The frame of the running task was forgotten: its result is dropped.
    forgotten: bool,
    /// The frames that the coordinator told us to forget last, oldest first.
    ended: VecDeque<FrameId>,
    cancelled: VecDeque<(TaskId, u32)>,
    hungry: bool,
    heard_ns: Nanos,
    /// When the last bundle came.
    bundle_ns: Nanos,
    next_heartbeat_ns: Nanos,
    outputs: VecDeque<Output>,
}

impl Worker {
    /// A worker that is not connected yet.
    pub fn new(hello: Hello) -> Self {
        Self::sharing(hello, Surveys::default())
    }

    /// As [`Worker::new`], with surveys that others use too.
    pub fn sharing(hello: Hello, surveys: Surveys) -> Self {
        Self {
            hello,
            surveys,
            id: None,
            connected: false,
            peers: BTreeSet::new(),
            plans: BTreeMap::new(),
            models: BTreeMap::new(),
            packed: BTreeMap::new(),
            missing: BTreeSet::new(),
            queue: VecDeque::new(),
            kept: Kept::default(),
            carried: Ledger::default(),
            ways: Ways::default(),
            unsent_bytes: 0,
            running: None,
            forgotten: false,
            ended: VecDeque::new(),
            cancelled: VecDeque::new(),
            hungry: false,
            heard_ns: 0,
            bundle_ns: 0,
            next_heartbeat_ns: 0,
            outputs: VecDeque::new(),
        }
    }

    /// The id that the coordinator gave.
    pub fn id(&self) -> Option<WorkerId> {
        self.id
    }

    /// The geometry of a stage of an announced plan whose model is open.
    pub fn geometry(&self, plan: PlanId) -> Option<&Arc<Vec<StageGeometry>>> {
        self.survey(plan).map(|survey| &survey.stages)
    }

    /// What follows from an announced plan whose model is open.
    pub fn survey(&self, plan: PlanId) -> Option<&Arc<Survey>> {
        self.plans.get(&plan)?.survey.as_ref()
    }

    /// The model of an announced plan.
    pub fn model(&self, plan: PlanId) -> Option<ModelHash> {
        self.plans.get(&plan).map(|p| p.model)
    }

    /// What may become of values on their way between the devices of an announced plan.
    pub fn wire(&self, plan: PlanId) -> Option<Wire> {
        self.plans.get(&plan).map(|p| p.body.wire)
    }

    /// Whether pieces of a plan are encoded when they are sent. Those of one that is not announced yet
    /// are not.
    pub fn encodes(&self, plan: PlanId) -> bool {
        self.plans.get(&plan).is_some_and(|p| p.encodes)
    }

    /// Whether an announced plan computes a model: then the driver must not close it, since tasks of
    /// the plan may come without another word.
    pub fn uses(&self, model: ModelHash) -> bool {
        self.plans.values().any(|p| p.model == model)
    }

    /// Tasks that are here and have not ended, the running one included.
    pub fn held_tasks(&self) -> usize {
        self.queue.len() + usize::from(self.running.is_some())
    }

    /// The next thing to do; none when there is nothing left.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call with [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let alive = self.next_heartbeat_ns.min(self.heard_ns + SILENCE_NS);
        let others = self.kept.look_ns().into_iter().chain(self.ways_ns());
        self.connected.then(|| others.fold(alive, Nanos::min))
    }

    /// Takes in one thing that happened.
    pub fn handle(&mut self, now: Nanos, input: Input) {
        match input {
            Input::Connected => self.connect(now),
            Input::Disconnected(Peer::Coordinator) => self.disconnect(),
            Input::Disconnected(Peer::Worker(id)) => {
                self.peers.remove(&id);
                self.part(id);
                self.tell_peers();
            }
            Input::PeerUp(id) => {
                self.peers.insert(id);
                self.meet(now, id);
                self.tell_peers();
                self.pull_from(id);
            }
            Input::Message(Peer::Coordinator, message) => {
                self.heard_ns = now;
                self.on_coordinator(now, message);
            }
            Input::Message(Peer::Worker(_), Message::Heartbeat | Message::Goodbye { .. }) => {}
            Input::Message(Peer::Worker(from), Message::Pull { task, plan, pieces }) => {
                self.on_pull(now, from, task, plan, pieces);
            }
            Input::Message(Peer::Worker(from), Message::Echo { sent_ns, padding }) => {
                self.on_peer_echo(now, from, (sent_ns, padding));
            }
            Input::Message(Peer::Worker(from), Message::Arrived { task, bytes }) => {
                self.on_arrived(now, from, task, bytes);
            }
            Input::Message(peer, message) => {
                self.break_off(peer, format!("a worker may not send {message:?}"));
            }
            Input::Bundle(from, bundle) => {
                self.bundle_ns = now;
                if from == Peer::Coordinator {
                    self.heard_ns = now;
                }
                self.on_bundle(now, from, bundle);
            }
            Input::Opened(hash, model) => {
                self.models.insert(hash, model);
                self.open_plans(hash);
            }
            Input::Missing(hashes) => self.want(hashes),
            Input::Blob(hash) => {
                self.heard_ns = now;
                if self.missing.remove(&hash) && self.missing.is_empty() {
                    self.retry_after_blobs();
                }
            }
            Input::Prepared(plan, set) => {
                if let Some(plan) = self.plans.get_mut(&plan) {
                    plan.preparing.remove(&set);
                    plan.prepared.insert(set);
                }
                self.tell_prepared();
            }
            Input::Packed(bundle) => self.on_packed(&bundle),
            Input::Sent(bytes) => self.unsent_bytes = self.unsent_bytes.saturating_sub(bytes),
            Input::Executed { task, busy_ns } => self.on_executed(now, task, busy_ns),
            Input::Broke { task, reason } => self.on_broke(task, reason),
            Input::Health(health) => {
                self.hello.health = health.clone();
                if self.id.is_some() {
                    self.send(Message::Health(health));
                }
            }
            Input::Tick => {}
        }
        self.keep_alive(now);
        if now >= self.bundle_ns + SILENCE_NS {
            // An announcement that is this late was for an earlier connection.
            let plans: BTreeSet<PlanId> = self.plans.keys().copied().collect();
            self.drop_queued(|b| !plans.contains(&b.plan));
        }
        self.look_after_sources(now);
        self.start_next();
        self.look_at_ways(now);
    }

    fn send(&mut self, message: Message) {
        self.outputs.push_back(Output::Send(Peer::Coordinator, message));
    }

    /// Tells the coordinator whom this worker can send pieces to.
    fn tell_peers(&mut self) {
        if self.connected && self.id.is_some() {
            let peers = self.peers.iter().copied().collect();
            self.send(Message::Reaches { peers });
        }
    }

    fn connect(&mut self, now: Nanos) {
        self.connected = true;
        self.heard_ns = now;
        self.next_heartbeat_ns = now + HEARTBEAT_NS;
        self.hungry = false;
        let hello = self.hello.clone();
        self.send(Message::Hello(hello));
    }

    /// The coordinator is gone: nobody wants what is queued, and a new one starts from nothing.
    fn disconnect(&mut self) {
        self.connected = false;
        self.id = None;
        self.plans.clear();
        self.missing.clear();
        self.carried = Ledger::default();
        self.part_from_all();
        // The next coordinator may count its frames from zero again.
        self.ended.clear();
        self.cancelled.clear();
        self.forgotten = self.running.is_some();
        self.forget_kept(|_| true);
        self.kept.oldest = None;
        while let Some((_, bundle)) = self.queue.pop_front() {
            self.drop_task(&bundle);
        }
    }

    fn keep_alive(&mut self, now: Nanos) {
        if !self.connected {
            return;
        }
        if now >= self.heard_ns + SILENCE_NS {
            self.break_off(Peer::Coordinator, "silent for 4 s".into());
            return;
        }
        if now >= self.next_heartbeat_ns {
            self.next_heartbeat_ns = now + HEARTBEAT_NS;
            self.send(Message::Heartbeat);
        }
    }

    fn break_off(&mut self, peer: Peer, reason: String) {
        self.outputs.push_back(Output::Disconnect(peer, reason));
        match peer {
            Peer::Coordinator => self.disconnect(),
            Peer::Worker(id) => {
                self.peers.remove(&id);
                self.part(id);
            }
        }
    }

    fn on_coordinator(&mut self, now: Nanos, message: Message) {
        match message {
            Message::Welcome { worker, oldest } => {
                self.id = Some(worker);
                self.meet_all(now);
                self.forget_before(oldest);
                if !self.peers.is_empty() {
                    self.tell_peers();
                }
            }
            Message::Roster(members) => self.outputs.push_back(Output::Members(members)),
            Message::Announce { plan, model, body, weights, encodes } => {
                let active = ActivePlan {
                    model,
                    body,
                    encodes,
                    survey: None,
                    wanted: weights.into_iter().collect(),
                    tasks: BTreeSet::new(),
                    prepared: BTreeSet::new(),
                    preparing: BTreeSet::new(),
                    told: false,
                };
                self.plans.insert(plan, active);
                self.take_up(Peer::Coordinator, plan);
                // Asked for even where it was open before: the driver may have closed it since.
                self.outputs.push_back(Output::Open(model));
            }
            Message::Retire { plan } => {
                self.plans.remove(&plan);
                self.drop_queued(|b| b.plan == plan);
                self.forgotten |= self.running.as_ref().is_some_and(|r| r.bundle.plan == plan);
                let plans = &self.plans;
                self.models.retain(|hash, _| plans.values().any(|p| p.model == *hash));
            }
            Message::Yield { task, attempt, thief, next_attempt } => {
                self.on_yield(task, attempt, thief, next_attempt);
            }
            Message::Forget { frame, oldest } => {
                self.on_forget(frame);
                self.forget_before(oldest);
            }
            Message::Release { frame, maps } => self.on_release(frame, maps),
            Message::Cancel { task, attempt } => self.on_cancel(task, attempt),
            Message::Heartbeat => {}
            echo @ Message::Echo { .. } => self.on_echo(now, echo),
            Message::Goodbye { .. } => self.disconnect(),
            other => {
                self.break_off(Peer::Coordinator, format!("the coordinator may not send {other:?}"))
            }
        }
    }
}
