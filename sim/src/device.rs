//! A worker's driver: what `worker::drive` does with sockets and a thread, done with events.

use crate::cluster::{Cluster, Event, Parcel, Sender};
use crate::link::End;
use crate::scenario::{Sabotage, WorkerSpec};
use kernels::{PackedModel, Piece, Pieces};
use model::{LayerId, WeightHash, WeightStore};
use protocol::worker::{Input, Output, Peer};
use protocol::{Bundle, BundleKind, Hello, ModelHash, Nanos, PlanId, SECOND};
use protocol::{TaskId, Worker, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tiling::Algorithm;

/// How long packing the weights of a stage takes.
const PREPARE_NS: Nanos = 100_000;

/// What came of a job of the compute thread.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Prepared(PlanId, u32),
    Missing(Vec<WeightHash>),
    Executed { task: TaskId, outputs: Pieces, busy_ns: Nanos },
    Broke { task: TaskId, reason: String },
}

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
    pub(crate) inputs: BTreeMap<(TaskId, u32), Pieces>,
    /// Other devices that it has a connection to, and which life of theirs.
    pub(crate) peers: BTreeMap<usize, u32>,
    pub(crate) stalled_until_ns: Nanos,
    pub(crate) slowness: u64,
    blobs: BTreeSet<WeightHash>,
    models: BTreeMap<ModelHash, Arc<PackedModel>>,
    /// The outputs of the task that ended last.
    outputs: Option<(TaskId, Pieces)>,
    compute_free_ns: Nanos,
}

impl Device {
    pub(crate) fn new(index: usize, spec: &WorkerSpec) -> Self {
        let hello = Hello {
            name: format!("device {index}"),
            threads: 1,
            multiply_adds_per_s: spec.claims_per_s,
        };
        Self {
            index,
            spec: spec.clone(),
            up: true,
            life: 0,
            session: None,
            sessions_made: 0,
            machine: Worker::new(hello),
            inputs: BTreeMap::new(),
            peers: BTreeMap::new(),
            stalled_until_ns: 0,
            slowness: 1,
            blobs: BTreeSet::new(),
            models: BTreeMap::new(),
            outputs: None,
            compute_free_ns: 0,
        }
    }

    /// Its name in the protocol, which a restart keeps.
    pub(crate) fn id(&self) -> WorkerId {
        WorkerId(self.index as u32)
    }

    /// Packs what can be packed; the hashes that are lacking.
    fn prepare(
        &self,
        layers: impl Iterator<Item = (u32, Algorithm)>,
        model: &PackedModel,
        all: &WeightStore,
    ) -> Vec<WeightHash> {
        let graph = model.graph().clone();
        let mut missing = Vec::new();
        for (layer, algorithm) in layers.map(|(layer, algorithm)| (LayerId(layer), algorithm)) {
            if model.is_packed(layer, algorithm) {
                continue;
            }
            let wanted = graph.layer(layer).op.weight_ids().into_iter();
            let hashes: Vec<_> = wanted.map(|id| graph.weight(id).hash).collect();
            let lacking: Vec<_> =
                hashes.into_iter().filter(|hash| !self.blobs.contains(hash)).collect();
            if lacking.is_empty() {
                model.pack(layer, algorithm, all).expect("a simulated model is sound");
            }
            missing.extend(lacking);
        }
        missing
    }
}

impl Cluster {
    pub(crate) fn device_handle(&mut self, i: usize, input: Input) {
        self.devices[i].machine.handle(self.now, input);
        while let Some(output) = self.devices[i].machine.poll_output() {
            self.device_carry_out(i, output);
        }
    }

    fn device_carry_out(&mut self, i: usize, output: Output) {
        match output {
            Output::Send(to, message) => self.device_send(i, to, Parcel::Message(message)),
            Output::SendBundle(to, bundle) => self.send_held(i, to, bundle),
            Output::Open(hash) => self.open(i, hash),
            Output::Prepare { plan, stage, model, layers, algorithms } => {
                let device = &self.devices[i];
                let Some(model) = device.models.get(&model) else { return };
                let missing =
                    device.prepare(layers.zip(algorithms), model, &self.scenario.model.weights);
                let outcome = if missing.is_empty() {
                    Outcome::Prepared(plan, stage)
                } else {
                    Outcome::Missing(missing)
                };
                self.compute(i, PREPARE_NS, outcome);
            }
            Output::Execute { task, attempt, plan } => self.execute(i, task, attempt, plan),
            Output::Drop(task, attempt) => {
                if self.scenario.sabotage != Sabotage::NeverDrop {
                    self.devices[i].inputs.remove(&(task, attempt));
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
                    let at = self.now + self.link(End::Device(i), End::Head).latency_ns;
                    self.schedule(at, Event::HeadLost { device: i, session });
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
                    let event = Event::ToHead { from: i, session, parcel: parcel.clone() };
                    self.transmit(from, End::Head, parcel, event);
                }
                None => self.lose(&parcel),
            },
            Peer::Worker(id) => {
                let to = id.0 as usize;
                match self.devices[i].peers.get(&to).copied() {
                    Some(life) => {
                        let sender = Sender::Peer { peer: i, life };
                        let event = Event::ToDevice { to, from: sender, parcel: parcel.clone() };
                        self.transmit(from, End::Device(to), parcel, event);
                    }
                    None => self.lose(&parcel),
                }
            }
        }
    }

    /// The inputs of a task that is handed over, the outputs of one that ended.
    fn send_held(&mut self, i: usize, to: Peer, bundle: Bundle) {
        let device = &self.devices[i];
        let held = match bundle.kind {
            BundleKind::Result { .. } => {
                device.outputs.as_ref().filter(|(task, _)| *task == bundle.task).map(|(_, p)| p)
            }
            _ => device.inputs.iter().find(|((task, _), _)| *task == bundle.task).map(|(_, p)| p),
        };
        let held = held.expect("the machine sends only what is held");
        let mut pieces = Pieces::new();
        for header in &bundle.pieces {
            let fits =
                |(map, p): &&(_, Arc<Piece>)| *map == header.map && p.region == header.region;
            pieces.push(held.iter().find(fits).expect("the piece that was named").clone());
        }
        match (self.scenario.sabotage, bundle.kind) {
            (Sabotage::LoseHandover, BundleKind::Handover) => return,
            (Sabotage::FlipBit, BundleKind::Result { .. }) => {
                self.scenario.sabotage = Sabotage::None;
                if let Some((_, piece)) = pieces.first_mut() {
                    let values = Arc::make_mut(piece).values_mut();
                    values[0] = f32::from_bits(values[0].to_bits() ^ 1);
                }
            }
            _ => {}
        }
        self.device_send(i, to, Parcel::Bundle(bundle, pieces));
    }

    fn open(&mut self, i: usize, hash: ModelHash) {
        let graph = self.scenario.model.graph.clone();
        let device = &mut self.devices[i];
        if !device.blobs.contains(&hash.0) {
            return self.device_handle(i, Input::Missing(vec![hash.0]));
        }
        let packed = || Arc::new(PackedModel::new(graph.clone()));
        device.models.entry(hash).or_insert_with(packed);
        self.device_handle(i, Input::Opened(hash, graph));
    }

    fn execute(&mut self, i: usize, task: TaskId, attempt: u32, plan: PlanId) {
        let device = &self.devices[i];
        let machine = &device.machine;
        let model = machine.model(plan).and_then(|hash| device.models.get(&hash));
        let held = device.inputs.get(&(task, attempt));
        let (Some(model), Some(stages), Some(inputs)) = (model, machine.geometry(plan), held)
        else {
            let reason = "its model was closed".into();
            return self.device_handle(i, Input::Broke { task, reason });
        };
        let stage = &stages[task.stage as usize];
        let tile = task.tile as usize;
        let work = stage.tile_multiply_adds(&self.scenario.model.graph, tile) as u128;
        let rate = u128::from(device.spec.multiply_adds_per_s.max(1));
        let busy_ns = (work * u128::from(SECOND) / rate) as u64 + device.spec.overhead_ns;
        let busy_ns = busy_ns * device.slowness;
        let run = self.engine.run_tile(model, stage, tile, inputs);
        let outcome = match run {
            Ok(outputs) => {
                let outputs = outputs.into_iter().map(|(map, p)| (map, Arc::new(p))).collect();
                Outcome::Executed { task, outputs, busy_ns }
            }
            Err(error) => Outcome::Broke { task, reason: error.to_string() },
        };
        self.compute(i, busy_ns, outcome);
    }

    /// One job after another. What a job finds is what was there when it was handed in.
    fn compute(&mut self, i: usize, duration_ns: Nanos, outcome: Outcome) {
        let device = &mut self.devices[i];
        device.compute_free_ns = device.compute_free_ns.max(self.now) + duration_ns;
        let (at, life) = (device.compute_free_ns, device.life);
        self.schedule(at, Event::Computed { device: i, life, outcome });
    }

    pub(crate) fn computed(&mut self, i: usize, life: u32, outcome: Outcome) {
        if !self.devices[i].up || self.devices[i].life != life {
            return;
        }
        match outcome {
            Outcome::Prepared(plan, stage) => {
                self.device_handle(i, Input::Prepared(plan, stage));
            }
            Outcome::Missing(hashes) => self.device_handle(i, Input::Missing(hashes)),
            Outcome::Executed { task, outputs, busy_ns } => {
                self.devices[i].outputs = Some((task, outputs));
                self.device_handle(i, Input::Executed { task, busy_ns });
                self.devices[i].outputs = None;
            }
            Outcome::Broke { task, reason } => {
                self.device_handle(i, Input::Broke { task, reason });
            }
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
            return self.lose(&parcel);
        }
        let input = match parcel.clone() {
            Parcel::Message(message) => Input::Message(peer, message),
            Parcel::Bundle(bundle, pieces) => {
                device.inputs.insert((bundle.task, bundle.attempt), pieces);
                Input::Bundle(peer, bundle)
            }
            Parcel::Blob(hash, _) => {
                device.blobs.insert(hash);
                Input::Blob(hash)
            }
        };
        self.landed(&parcel);
        self.device_handle(i, input);
    }

    /// Tells the machine that the coordinator's word no longer reaches it.
    pub(crate) fn device_lost(&mut self, i: usize, session: u32) {
        if self.devices[i].up && self.devices[i].session == Some(session) {
            self.devices[i].session = None;
            self.device_handle(i, Input::Disconnected(Peer::Coordinator));
            self.connect_later(i);
        }
    }

    /// Sends hello over a fresh connection.
    pub(crate) fn connect(&mut self, i: usize, life: u32) {
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
