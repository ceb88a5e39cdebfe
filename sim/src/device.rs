//! A worker's driver: what `worker::drive` does with sockets and a thread, done with events.

mod memory;
mod tiles;

use crate::cluster::Cluster;
use crate::events::{End, Event, Parcel, Sender};
use crate::job::{Job, Outcome};
use crate::physics::Heat;
use crate::scenario::{Sabotage, Weights, WorkerSpec};
use kernels::{PackedModel, Piece, Pieces};
use model::{LayerId, WeightHash, WeightId};
use protocol::worker::{Input, Output, Peer};
use protocol::{
    Bundle, BundleKind, FrameId, Hello, ModelHash, Nanos, PieceHeader, PlanId, Surveys,
};
use protocol::{TaskId, Worker, WorkerId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tiling::Algorithm;

/// How long packing the weights of a stage takes.
const PREPARE_NS: f64 = 100_000.0;

/// Inputs of a task that waits or runs.
#[derive(Debug)]
pub(crate) struct Held {
    pieces: Pieces,
    bytes: u64,
    /// Bytes of the inputs that lie among what is kept.
    source_bytes: u64,
}

/// A piece that stays, with its values where values are simulated.
type KeptPiece = (PieceHeader, Option<Arc<Piece>>);

/// One process on one device.
pub(crate) struct Device {
    index: usize,
    pub(crate) spec: WorkerSpec,
    pub(crate) up: bool,
    pub(crate) life: u32,
    /// The connection to the coordinator, as seen from here.
    pub(crate) session: Option<u32>,
    pub(crate) sessions_made: u32,
    pub(crate) machine: Worker,
    /// The inputs of queued and running tasks.
    pub(crate) inputs: BTreeMap<(TaskId, u32), Held>,
    inputs_bytes: u64,
    /// What the running tile takes on top of its inputs.
    pub(crate) running_bytes: u64,
    /// Results that were not sent yet.
    unsent_bytes: u64,
    /// The plan of the task that ran last.
    ran: Option<PlanId>,
    packed_bytes: u64,
    packed: BTreeSet<(LayerId, Algorithm, WeightId)>,
    pub(crate) peak_bytes: u64,
    /// Other devices that it has a connection to, and which life of theirs.
    pub(crate) peers: BTreeMap<usize, u32>,
    pub(crate) stalled_until_ns: Nanos,
    pub(crate) blocked_until_ns: Nanos,
    pub(crate) slowness: u64,
    pub(crate) hangs: bool,
    pub(crate) loaded: bool,
    pub(crate) heat: Heat,
    pub(crate) peak_c: f64,
    pub(crate) busy_ns: Nanos,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) jobs_made: u32,
    pub(crate) warming: bool,
    /// It has a disk with the weights of the model.
    cached: bool,
    blobs: BTreeSet<WeightHash>,
    models: BTreeMap<ModelHash, Arc<PackedModel>>,
    /// Pieces of frames that stay here.
    pub(crate) kept: BTreeMap<FrameId, Vec<KeptPiece>>,
    kept_bytes: u64,
    /// What came with the input just given: the outputs of a task, the pieces of an exchange.
    given: Given,
}

/// Pieces and, where values are simulated, what is in them.
#[derive(Debug, Default)]
struct Given {
    headers: Vec<PieceHeader>,
    pieces: Pieces,
}

/// How a process was started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// It claims more memory than there is.
    pub(crate) lies: bool,
    /// It measures the ways to others.
    pub(crate) measures: bool,
}

impl Device {
    pub(crate) fn new(
        index: usize,
        spec: &WorkerSpec,
        surveys: &Surveys,
        kind: Kind,
        cache: BTreeSet<WeightHash>,
    ) -> Self {
        let memory_bytes = spec.device.memory_bytes * if kind.lies { 10 } else { 1 };
        let threads = spec.device.threads as u32;
        let hello = Hello::new(spec.name.clone(), threads, spec.claims, memory_bytes);
        Self {
            index,
            spec: spec.clone(),
            up: true,
            life: 0,
            session: None,
            sessions_made: 0,
            machine: match (kind.measures, Worker::sharing(hello, surveys.clone())) {
                (true, worker) => worker.measuring(),
                (false, worker) => worker,
            },
            inputs: BTreeMap::new(),
            inputs_bytes: 0,
            running_bytes: 0,
            unsent_bytes: 0,
            ran: None,
            packed_bytes: 0,
            packed: BTreeSet::new(),
            peak_bytes: 0,
            peers: BTreeMap::new(),
            stalled_until_ns: 0,
            blocked_until_ns: 0,
            slowness: 1,
            hangs: false,
            loaded: false,
            heat: Heat::default(),
            peak_c: 0.0,
            busy_ns: 0,
            jobs: VecDeque::new(),
            jobs_made: 0,
            warming: false,
            cached: !cache.is_empty(),
            blobs: cache,
            models: BTreeMap::new(),
            kept: BTreeMap::new(),
            kept_bytes: 0,
            given: Given::default(),
        }
    }

    /// A new process on the same device.
    pub(crate) fn reborn(&self, surveys: &Surveys, kind: Kind) -> Self {
        // What was written to disk is there again, where anything was there before.
        let cache = if self.cached { self.blobs.clone() } else { BTreeSet::new() };
        let fresh = Self::new(self.index, &self.spec, surveys, kind, cache);
        Self {
            life: self.life,
            sessions_made: self.sessions_made,
            slowness: self.slowness,
            heat: self.heat,
            peak_c: self.peak_c,
            peak_bytes: self.peak_bytes,
            busy_ns: self.busy_ns,
            jobs_made: self.jobs_made,
            loaded: self.loaded,
            blocked_until_ns: self.blocked_until_ns,
            ..fresh
        }
    }

    /// Its name in the protocol, which a restart keeps.
    pub(crate) fn id(&self) -> WorkerId {
        WorkerId(self.index as u32)
    }

    /// Forgets everything, as a process that ends does.
    pub(crate) fn end(&mut self) {
        self.up = false;
        self.life += 1;
        self.session = None;
        self.inputs.clear();
        self.jobs.clear();
        self.kept.clear();
        self.kept_bytes = 0;
        (self.inputs_bytes, self.running_bytes, self.unsent_bytes) = (0, 0, 0);
        self.stalled_until_ns = 0;
    }
}

impl Cluster {
    pub(crate) fn device_handle(&mut self, i: usize, input: Input) {
        self.devices[i].machine.handle(self.now, input);
        while let Some(output) = self.devices[i].machine.poll_output() {
            self.device_carry_out(i, output);
        }
        self.arm(End::Device(i));
        self.touched.push(i);
    }

    fn device_carry_out(&mut self, i: usize, output: Output) {
        match output {
            Output::Send(to, message) => {
                self.device_send(i, to, Parcel::Message(Box::new(message)))
            }
            Output::SendBundle(to, bundle) => self.send_held(i, to, bundle),
            Output::Open(hash) => self.open(i, hash),
            Output::Close(model) => self.devices[i].close(model),
            Output::Unpack { model, layer, algorithm } => {
                let graph = &self.scenario.model.graph;
                self.devices[i].unpack((model, graph), layer, algorithm);
            }
            Output::Prepare { plan, set, model, weights } => {
                let graph = self.scenario.model.graph.clone();
                let device = &mut self.devices[i];
                let packed = device.models.get(&model).cloned();
                let missing = device.lacking(&weights, &graph);
                let all = &self.scenario.model.weights;
                device.pack(&weights, &graph, packed.as_deref(), all);
                let outcome = if missing.is_empty() {
                    Outcome::Prepared(plan, set)
                } else {
                    Outcome::Missing(missing)
                };
                if self.scenario.weights == Weights::Packed {
                    return self.job_done(i, outcome, 0);
                }
                self.compute(i, Job::new((0.0, PREPARE_NS), outcome));
            }
            Output::Execute { task, attempt, plan } => self.execute(i, task, attempt, plan),
            Output::Drop(task, attempt) => {
                if self.scenario.sabotage != Sabotage::NeverDrop {
                    self.devices[i].let_go(task, attempt);
                }
                self.invariants.accounted.suspect(task);
            }
            Output::Keep(frame) => {
                if self.scenario.sabotage != Sabotage::LoseKept {
                    self.devices[i].keep_given(frame);
                }
            }
            Output::Release(frame, maps) => {
                self.devices[i].let_go_kept(frame, |map| maps.contains(&map));
            }
            Output::Forget(frame) => {
                if self.scenario.sabotage != Sabotage::NeverForget {
                    self.devices[i].let_go_kept(frame, |_| true);
                }
            }
            Output::Members(members) => {
                let others = members.into_iter().map(|m| m.worker.0 as usize);
                for peer in others.filter(|&p| p != i).collect::<Vec<_>>() {
                    self.dial(i, peer);
                }
            }
            Output::Disconnect(Peer::Coordinator, _) => {
                if let Some(session) = self.devices[i].session.take() {
                    let at = self.now + self.usual_way(End::Device(i), End::Head);
                    self.schedule(at, Event::HeadLost { device: i, session });
                    self.hang_up(i);
                    self.connect_later(i);
                }
            }
            Output::Disconnect(Peer::Worker(id), _) => {
                self.devices[i].peers.remove(&(id.0 as usize));
            }
        }
    }

    fn device_send(&mut self, i: usize, to: Peer, parcel: Parcel) {
        let from = End::Device(i);
        match to {
            Peer::Coordinator => match self.devices[i].session {
                Some(session) => {
                    self.transmit(from, End::Head, Event::ToHead { from: i, session, parcel });
                }
                None => self.lose(&parcel, false),
            },
            Peer::Worker(id) => {
                let to = id.0 as usize;
                match self.devices[i].peers.get(&to).copied() {
                    Some(life) => {
                        let sender = Sender::Peer { peer: i, life };
                        let event = Event::ToDevice { to, from: sender, parcel };
                        self.transmit(from, End::Device(to), event);
                    }
                    None => self.lose(&parcel, false),
                }
            }
        }
    }

    /// The inputs of a task that is handed over, the outputs of one that ended.
    fn send_held(&mut self, i: usize, to: Peer, mut bundle: Bundle) {
        let device = &mut self.devices[i];
        let is_result = matches!(bundle.kind, BundleKind::Result { .. });
        let mut pieces = Pieces::new();
        if matches!(self.scenario.payload, crate::scenario::Payload::Values(_)) {
            let mut held: Pieces = match bundle.kind {
                BundleKind::Result { .. } => device.given.pieces.clone(),
                BundleKind::Handover => {
                    let mut held = device.inputs.iter();
                    let held = held.find(|((task, _), _)| *task == bundle.task);
                    held.map(|(_, held)| held.pieces.clone()).unwrap_or_default()
                }
                _ => Pieces::new(),
            };
            held.extend(device.kept_values(bundle.task.frame));
            for header in &bundle.pieces {
                let fits = |(map, p): &&(_, Arc<Piece>)| {
                    *map == header.map && p.region.contains(header.region)
                };
                let (map, piece) = held.iter().find(fits).expect("the piece that was named");
                pieces.push((*map, Arc::new(piece.crop(header.region))));
            }
        }
        if is_result {
            device.unsent_bytes += bundle.unsent_bytes();
            device.note_peak();
        }
        match (self.scenario.sabotage, bundle.kind) {
            (Sabotage::LoseHandover, BundleKind::Handover) => return,
            (Sabotage::DoubleHandover, BundleKind::Handover) => bundle.attempt -= 1,
            (Sabotage::FlipBit, BundleKind::Result { .. }) => {
                self.scenario.sabotage = Sabotage::None;
                if let Some((_, piece)) = pieces.first_mut() {
                    let values = Arc::make_mut(piece).values_mut();
                    values[0] = f32::from_bits(values[0].to_bits() ^ 1);
                }
            }
            _ => {}
        }
        let encodes = self.devices[i].machine.encodes(bundle.plan);
        bundle.forms = self.head.forms(encodes, &bundle);
        self.device_send(i, to, Parcel::Bundle(Box::new(bundle), pieces));
    }

    fn open(&mut self, i: usize, hash: ModelHash) {
        let graph = self.scenario.model.graph.clone();
        let has_values = self.has_values();
        let device = &mut self.devices[i];
        if !device.blobs.contains(&hash.0) {
            return self.device_handle(i, Input::Missing(vec![hash.0]));
        }
        if has_values {
            let packed = || Arc::new(PackedModel::new(graph.clone()));
            device.models.entry(hash).or_insert_with(packed);
        }
        self.device_handle(i, Input::Opened(hash, graph));
    }

    /// So many bytes of a result are off their device, or lost with its connection.
    pub(crate) fn result_left(&mut self, i: usize, bytes: u64) {
        let device = &mut self.devices[i];
        device.unsent_bytes = device.unsent_bytes.saturating_sub(bytes);
        if bytes > 0 && device.up {
            let life = device.life;
            self.schedule(self.now, Event::Sent { device: i, life, bytes });
        }
    }

    pub(crate) fn sent(&mut self, i: usize, life: u32, bytes: u64) {
        if self.devices[i].up && self.devices[i].life == life {
            self.device_handle(i, Input::Sent(bytes));
        }
    }

    pub(crate) fn reach_device(&mut self, i: usize, from: Sender, parcel: Parcel) {
        let device = &mut self.devices[i];
        let (current, peer) = match from {
            Sender::Head { session } => (device.session == Some(session), Peer::Coordinator),
            Sender::Peer { peer, life } => {
                (device.life == life, Peer::Worker(WorkerId(peer as u32)))
            }
        };
        if !device.up || !current {
            return self.lose(&parcel, true);
        }
        self.landed(&parcel);
        let device = &mut self.devices[i];
        let input = match parcel {
            Parcel::Message(message) => Input::Message(peer, *message),
            Parcel::Bundle(bundle, pieces) => {
                let exchange = bundle.kind == BundleKind::Exchange;
                if !exchange && let Err(violation) = self.invariants.arrive(device.id(), &bundle) {
                    self.violation.get_or_insert(violation);
                }
                if exchange {
                    device.given = Given { headers: bundle.pieces.clone(), pieces };
                } else {
                    device.keep(&bundle, pieces);
                }
                Input::Bundle(peer, *bundle)
            }
            Parcel::Blob(hash, _) => {
                device.blobs.insert(hash);
                Input::Blob(hash)
            }
        };
        self.device_handle(i, input);
        self.devices[i].given = Given::default();
        self.devices[i].note_peak();
    }

    /// Tells the machine that the coordinator's word no longer reaches it.
    pub(crate) fn device_lost(&mut self, i: usize, session: u32) {
        if self.devices[i].up && self.devices[i].session == Some(session) {
            self.devices[i].session = None;
            self.hang_up(i);
            self.device_handle(i, Input::Disconnected(Peer::Coordinator));
            self.connect_later(i);
        }
    }

    /// What was queued between a device and the coordinator is gone with their connection.
    pub(crate) fn hang_up(&mut self, i: usize) {
        let head = self.devices.len();
        self.drop_transfers(|from, to| (from, to) == (i, head) || (from, to) == (head, i));
    }

    /// Sends hello over a fresh connection.
    pub(crate) fn connect(&mut self, i: usize, life: u32) {
        let blocked = self.devices[i].blocked_until_ns;
        if blocked > self.now {
            return self.schedule(blocked, Event::Connect { device: i, life });
        }
        let device = &mut self.devices[i];
        if !device.up || device.life != life || device.session.is_some() {
            return;
        }
        device.sessions_made += 1;
        let session = Some(device.sessions_made);
        device.session = session;
        self.head.sessions[i] = session;
        self.device_handle(i, Input::Connected);
    }
}
