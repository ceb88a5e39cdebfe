//! The worker: holds a queue of tasks, runs one at a time, hands queued ones to thieves.
//!
//! A task is ready when its bundle arrived, the model's graph is open, and the weights of its stage
//! are prepared. Results and hand-overs travel straight from what the driver holds for the task.

mod io;
mod kept;
mod memory;

pub use io::{Input, Output, Peer};

use crate::ids::{FrameId, ModelHash, PlanId, TaskId, WorkerId};
use crate::message::{Bundle, BundleKind, Hello, Message, Orders, PieceHeader};
use crate::survey::{Survey, Surveys};
use crate::{HEARTBEAT_NS, Nanos, SILENCE_NS};
use kept::Kept;
use model::{Model, WeightHash};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tiling::{Plan, StageGeometry};

/// Bundles of plans that were not announced yet, at most.
const EARLY_MAX: usize = 16;

/// Frames of which a late copy may still arrive: what comes of them is not computed.
const ENDED_MAX: usize = 64;

/// Attempts that were cancelled and may still arrive.
const CANCELLED_MAX: usize = 64;

#[derive(Debug)]
struct ActivePlan {
    model: ModelHash,
    body: Plan,
    survey: Option<Arc<Survey>>,
    wanted_stages: BTreeSet<u32>,
    prepared: BTreeSet<u32>,
    preparing: BTreeSet<u32>,
}

impl ActivePlan {
    fn has_task(&self, stage: u32, tile: u32) -> bool {
        self.body.stages.get(stage as usize).is_some_and(|s| (tile as usize) < s.tiles())
    }
}

/// The task that runs.
#[derive(Debug)]
struct Running {
    bundle: Bundle,
    waited_ns: Nanos,
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
    /// Layers whose weights are packed, with their bytes.
    packed: BTreeMap<(ModelHash, u32), u64>,
    missing: BTreeSet<WeightHash>,
    /// With the time of arrival.
    queue: VecDeque<(Nanos, Bundle)>,
    kept: Kept,
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

    /// Whether an announced plan computes a model: then the driver must not close it, since tasks of
    /// the plan may come without another word.
    pub fn uses(&self, model: ModelHash) -> bool {
        self.plans.values().any(|p| p.model == model)
    }

    /// The next thing to do; none when there is nothing left.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call with [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let alive = self.next_heartbeat_ns.min(self.heard_ns + SILENCE_NS);
        self.connected.then(|| self.kept.look_ns().map_or(alive, |at| at.min(alive)))
    }

    /// Takes in one thing that happened.
    pub fn handle(&mut self, now: Nanos, input: Input) {
        match input {
            Input::Connected => self.connect(now),
            Input::Disconnected(Peer::Coordinator) => self.disconnect(),
            Input::Disconnected(Peer::Worker(id)) => {
                self.peers.remove(&id);
                self.tell_peers();
            }
            Input::PeerUp(id) => {
                self.peers.insert(id);
                self.tell_peers();
                self.pull_from(id);
            }
            Input::Message(Peer::Coordinator, message) => {
                self.heard_ns = now;
                self.on_coordinator(message);
            }
            Input::Message(Peer::Worker(_), Message::Heartbeat | Message::Goodbye { .. }) => {}
            Input::Message(Peer::Worker(from), Message::Pull { task, plan, pieces }) => {
                self.on_pull(from, task, plan, pieces);
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
            Input::Prepared(plan, stage) => {
                if let Some(plan) = self.plans.get_mut(&plan) {
                    plan.preparing.remove(&stage);
                    plan.prepared.insert(stage);
                }
            }
            Input::Sent(bytes) => self.unsent_bytes = self.unsent_bytes.saturating_sub(bytes),
            Input::Executed { task, busy_ns } => self.on_executed(task, busy_ns),
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
        self.start_next(now);
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
            }
        }
    }

    fn on_coordinator(&mut self, message: Message) {
        match message {
            Message::Welcome { worker, oldest } => {
                self.id = Some(worker);
                self.forget_before(oldest);
                if !self.peers.is_empty() {
                    self.tell_peers();
                }
            }
            Message::Roster(members) => self.outputs.push_back(Output::Members(members)),
            Message::Announce { plan, model, body, stages } => {
                let active = ActivePlan {
                    model,
                    body,
                    survey: None,
                    wanted_stages: stages.into_iter().collect(),
                    prepared: BTreeSet::new(),
                    preparing: BTreeSet::new(),
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
            echo @ Message::Echo { .. } => self.send(echo),
            Message::Goodbye { .. } => self.disconnect(),
            other => {
                self.break_off(Peer::Coordinator, format!("the coordinator may not send {other:?}"))
            }
        }
    }

    /// A plan whose model is open gets its geometry and the weights of its stages.
    fn open_plans(&mut self, hash: ModelHash) {
        let Some(model) = self.models.get(&hash).cloned() else { return };
        let mut broken = None;
        for (&id, plan) in &mut self.plans {
            if plan.model != hash || plan.survey.is_some() {
                continue;
            }
            match self.surveys.of((hash, &model), id, &plan.body) {
                Ok(survey) => plan.survey = Some(survey),
                Err(error) => broken = Some(format!("plan {} does not fit: {error}", id.0)),
            }
        }
        if let Some(reason) = broken {
            return self.break_off(Peer::Coordinator, reason);
        }
        self.prepare_stages();
    }

    fn prepare_stages(&mut self) {
        let mut wanted = Vec::new();
        for (&id, plan) in self.plans.iter().filter(|(_, plan)| plan.survey.is_some()) {
            let done =
                |stage: &u32| plan.prepared.contains(stage) || plan.preparing.contains(stage);
            wanted.extend(plan.wanted_stages.iter().filter(|s| !done(s)).map(|&s| (id, s)));
        }
        for (id, stage) in wanted {
            self.prepare(id, stage);
        }
    }

    fn prepare(&mut self, id: PlanId, stage: u32) {
        let Some(plan) = self.plans.get(&id) else { return };
        let (Some(survey), Some(body)) = (&plan.survey, plan.body.stages.get(stage as usize))
        else {
            return;
        };
        let layers = body.first_layer..body.end_layer;
        let algorithms = survey.stages[stage as usize].algorithms.clone();
        let model = plan.model;
        let mut room = self.may_pack(self.weight_bytes(model, layers.clone()));
        if !room {
            self.close_unused();
            room = self.may_pack(self.weight_bytes(model, layers.clone()));
        }
        if !room {
            // What waits for these weights would wait for ever.
            let refused = self.queue.iter().filter(|(_, b)| b.plan == id && b.task.stage == stage);
            let refused: Vec<Bundle> = refused.map(|(_, bundle)| bundle.clone()).collect();
            self.queue.retain(|(_, b)| b.plan != id || b.task.stage != stage);
            return refused.iter().for_each(|bundle| self.refuse(bundle));
        }
        if let Some(plan) = self.plans.get_mut(&id) {
            plan.preparing.insert(stage);
        }
        self.note_packed(model, layers.clone());
        self.outputs.push_back(Output::Prepare { plan: id, stage, model, layers, algorithms });
    }

    fn want(&mut self, hashes: Vec<WeightHash>) {
        if !self.connected {
            // A job from before: remembered as asked for, its blobs would never be asked for.
            return;
        }
        let hashes: Vec<_> = hashes.into_iter().filter(|h| self.missing.insert(*h)).collect();
        if !hashes.is_empty() {
            self.send(Message::Want { hashes });
        }
    }

    fn retry_after_blobs(&mut self) {
        let unopened: BTreeSet<ModelHash> =
            self.plans.values().filter(|p| p.survey.is_none()).map(|p| p.model).collect();
        self.outputs.extend(unopened.into_iter().map(Output::Open));
        self.plans.values_mut().for_each(|p| p.preparing.clear());
        self.prepare_stages();
    }

    fn on_bundle(&mut self, now: Nanos, from: Peer, bundle: Bundle) {
        if let (Peer::Worker(_), BundleKind::Exchange) = (from, bundle.kind) {
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
        if !self.has_room(&bundle) {
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
    fn take_up(&mut self, from: Peer, id: PlanId) {
        let Some(plan) = self.plans.get_mut(&id) else { return };
        let mut unsound = None;
        for (_, bundle) in self.queue.iter().filter(|(_, b)| b.plan == id) {
            if plan.has_task(bundle.task.stage, bundle.task.tile) {
                plan.wanted_stages.insert(bundle.task.stage);
            } else {
                unsound = Some(bundle.task);
            }
        }
        if let Some(task) = unsound {
            self.drop_queued(|b| b.task == task);
            return self.break_off(from, format!("sent {task}, which its plan lacks"));
        }
        self.prepare_stages();
    }

    /// A bundle may overtake the announcement of its plan: they travel on two streams. Those of
    /// plans that never come are bounded.
    fn drop_excess_early(&mut self) {
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

    fn drop_queued(&mut self, which: impl Fn(&Bundle) -> bool) {
        let (gone, kept): (VecDeque<_>, VecDeque<_>) =
            self.queue.drain(..).partition(|(_, bundle)| which(bundle));
        self.queue = kept;
        for (_, bundle) in gone {
            self.drop_task(&bundle);
        }
    }

    fn drop_task(&mut self, bundle: &Bundle) {
        self.outputs.push_back(Output::Drop(bundle.task, bundle.attempt));
    }

    fn on_yield(&mut self, task: TaskId, attempt: u32, thief: WorkerId, next_attempt: u32) {
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

    fn on_forget(&mut self, frame: FrameId) {
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

    fn on_cancel(&mut self, task: TaskId, attempt: u32) {
        self.drop_queued(|b| (b.task, b.attempt) == (task, attempt));
        let running = self.running.as_ref().map(|r| (r.bundle.task, r.bundle.attempt));
        self.forgotten |= running == Some((task, attempt));
        self.cancelled.push_back((task, attempt));
        if self.cancelled.len() > CANCELLED_MAX {
            self.cancelled.pop_front();
        }
    }

    /// Starts the oldest task that can run; asks for more when it was the last.
    fn start_next(&mut self, now: Nanos) {
        while self.running.is_none() {
            let ready = self.queue.iter().position(|(_, b)| {
                let plan = self.plans.get(&b.plan);
                plan.is_some_and(|p| p.survey.is_some() && p.prepared.contains(&b.task.stage))
                    && self.complete(b)
            });
            let Some((since, bundle)) = ready.and_then(|i| self.queue.remove(i)) else { break };
            if !self.may_run(&bundle) && self.unsent_bytes > 0 {
                // There may be room when the last results are out.
                self.queue.push_front((since, bundle));
                break;
            }
            if !self.may_run(&bundle) {
                self.refuse(&bundle);
                continue;
            }
            let Bundle { task, attempt, plan, .. } = bundle;
            self.forgotten = false;
            let bytes = self.running_bytes(&bundle);
            self.running = Some(Running { bundle, waited_ns: now.saturating_sub(since), bytes });
            self.outputs.push_back(Output::Execute { task, attempt, plan });
        }
        // A task of a plan that may never be announced is nothing to live on.
        let known = |(_, b): &(Nanos, Bundle)| self.plans.contains_key(&b.plan);
        if !self.queue.iter().any(known) && !self.hungry && self.id.is_some() {
            self.hungry = true;
            self.send(Message::Hungry);
        }
    }

    fn on_executed(&mut self, task: TaskId, busy_ns: u64) {
        let Some(Running { bundle, waited_ns, .. }) =
            self.running.take_if(|r| r.bundle.task == task)
        else {
            return;
        };
        if !self.forgotten && self.connected {
            let mut pieces = self.output_pieces(&bundle);
            let made = pieces.clone();
            if bundle.orders.keep {
                let model = self.plans.get(&bundle.plan).and_then(|p| self.models.get(&p.model));
                pieces.retain(|p| model.is_some_and(|m| m.outputs.contains(&p.map)));
            }
            let kind = BundleKind::Result { busy_ns, waited_ns };
            let orders = Orders { keep: bundle.orders.keep, ..Orders::default() };
            let result = Bundle { kind, pieces, orders, ..bundle.clone() };
            self.unsent_bytes += result.unsent_bytes();
            self.outputs.push_back(Output::SendBundle(Peer::Coordinator, result));
            if bundle.orders.keep {
                self.keep_outputs(&bundle, made);
            }
        }
        self.drop_task(&bundle);
    }

    fn output_pieces(&self, bundle: &Bundle) -> Vec<PieceHeader> {
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

    fn on_broke(&mut self, task: TaskId, reason: String) {
        let Some(Running { bundle, .. }) = self.running.take_if(|r| r.bundle.task == task) else {
            return;
        };
        if self.connected {
            self.send(Message::Failed { task, attempt: bundle.attempt, reason });
        }
        self.drop_task(&bundle);
    }
}
