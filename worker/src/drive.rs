//! The drive loop: gives the state machine what happened, carries out what it wants, holds the
//! tensors that it names.

use crate::blobs::BlobCache;
use crate::compute::{self, Job, Outcome, Task};
use crate::health;
use crate::metrics::Metrics;
use crate::outbox::{Held, Outbox, Packed};
use crate::pace::Pace;
use crate::service;
use kernels::wire::decode;
use kernels::{Engine, PackedModel, Piece, Pieces};
use model::{MapId, Model};
use net::{Command, Event, Multiaddr, Net, PeerId};
use protocol::worker::{Input, Output, Peer};
use protocol::{
    Bundle, BundleKind, FrameId, Health, Hello, Member, Message, ModelHash, TaskId, Worker,
    WorkerId,
};
use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Models kept open beyond those that an announced plan uses; the oldest is closed first. Packed
/// weights are the largest thing a worker holds.
const MODELS_MAX: usize = 4;

/// How often the coordinator is told how the device is.
const HEALTH_EVERY: Duration = Duration::from_secs(5);

/// How often memory at rest is given back to the system: what is kept between tasks is as large as the
/// largest of them, also when these were of a plan that is gone.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(60);

/// Why a worker stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The coordinator turned it away for good.
    Refused(net::Refused),
    /// The network is gone.
    NetworkGone,
}

/// Runs a worker until it is told to stop.
///
/// *Errors*: the compute thread cannot be started.
pub async fn drive(
    net: Net,
    engine: Arc<Engine>,
    cache: BlobCache,
    hello: Hello,
    coordinator: PeerId,
    stop: impl Future<Output = ()>,
) -> std::io::Result<Ended> {
    drive_paced(net, (engine, Pace::own(), Metrics::default()), cache, hello, coordinator, stop)
        .await
}

/// The same on a device that may stand for a slower one, with what it counts.
///
/// *Errors*: as [`drive`].
pub async fn drive_paced(
    net: Net,
    (engine, pace, metrics): (Arc<Engine>, Pace, Metrics),
    cache: BlobCache,
    hello: Hello,
    coordinator: PeerId,
    stop: impl Future<Output = ()>,
) -> std::io::Result<Ended> {
    let (outcome_tx, mut outcomes) = mpsc::unbounded_channel();
    let (sent_tx, mut sent) = mpsc::unbounded_channel();
    let jobs = compute::start(engine.clone(), cache.clone(), pace, outcome_tx)?;
    let (packed_tx, mut packed) = mpsc::unbounded_channel();
    let outbox = Outbox::start(net.commands.clone(), move |bundle| {
        let _ = packed_tx.send(bundle);
    })?;
    let mut driver = Driver {
        machine: Worker::new(hello).measuring(),
        outbox,
        commands: net.commands.clone(),
        wanted: net.wanted.clone(),
        cache,
        engine,
        jobs,
        coordinator,
        started: Instant::now(),
        peers: BTreeMap::new(),
        models: Vec::new(),
        inputs: BTreeMap::new(),
        kept: BTreeMap::new(),
        given: Pieces::new(),
        sent: sent_tx,
        metrics,
    };
    let mut events = net.events;
    tokio::pin!(stop);
    let mut unreachable_told = false;
    let mut looks = tokio::time::interval(HEALTH_EVERY);
    let mut health = Health::default();
    let mut gives_back = tokio::time::interval(GIVE_BACK_EVERY);
    loop {
        let tick = net::after(driver.started, driver.machine.next_deadline());
        tokio::select! {
            () = &mut stop => {
                service::stopping();
                driver.send(Peer::Coordinator, Message::Goodbye { reason: "stopped".into() });
                driver.outbox.shut_down();
                // The network says so when it is done: what was queued is out then.
                while events.recv().await.is_some() {}
                return Ok(Ended::Stopped);
            }
            event = events.recv() => match event {
                None => return Ok(Ended::NetworkGone),
                Some(Event::Refused(reason)) => return Ok(Ended::Refused(reason)),
                Some(Event::Unreachable(reason)) => {
                    if !std::mem::replace(&mut unreachable_told, true) {
                        tracing::warn!("the coordinator does not answer; trying on ({reason})");
                    }
                }
                Some(event) => {
                    unreachable_told = false;
                    driver.on_event(event);
                }
            },
            Some(outcome) = outcomes.recv() => driver.on_outcome(outcome),
            Some(packed) = packed.recv() => driver.on_packed(packed),
            Some(bytes) = sent.recv() => driver.handle(Input::Sent(bytes)),
            _ = looks.tick() => {
                service::alive();
                let now = health::read(Path::new("/"));
                if now != health {
                    health = now.clone();
                    driver.handle(Input::Health(now));
                }
            }
            _ = gives_back.tick() => {
                // Messages do not wait for it.
                let engine = driver.engine.clone();
                drop(tokio::task::spawn_blocking(move || engine.give_back()));
            }
            () = tick => driver.handle(Input::Tick),
        }
    }
}

struct Driver {
    machine: Worker,
    outbox: Outbox,
    commands: mpsc::UnboundedSender<Command>,
    wanted: net::Wanted,
    cache: BlobCache,
    engine: Arc<Engine>,
    jobs: std::sync::mpsc::Sender<Job>,
    coordinator: PeerId,
    started: Instant,
    /// The other workers, by both of their names.
    peers: BTreeMap<WorkerId, PeerId>,
    /// Open models, oldest first.
    models: Vec<(ModelHash, Arc<PackedModel>)>,
    /// The inputs of queued and running tasks.
    inputs: BTreeMap<(TaskId, u32), Pieces>,
    /// Pieces of frames that stay here.
    kept: BTreeMap<FrameId, Pieces>,
    /// What came with the input just given: the outputs of a task, the pieces of an exchange.
    given: Pieces,
    /// Tells when results are off this device.
    sent: mpsc::UnboundedSender<u64>,
    metrics: Metrics,
}

/// A piece as bytes to send. When it is sent, its memory goes back to the engine: fresh memory costs
/// a page fault for every 4 KiB, which on large maps is a third of the time to compute them.
struct PieceBytes {
    piece: Option<Arc<Piece>>,
    engine: Arc<Engine>,
    _sent: Option<Arc<Sent>>,
}

/// Tells that so many bytes of a result are out.
struct Sent(mpsc::UnboundedSender<u64>, u64);

impl Drop for Sent {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

impl AsRef<[u8]> for PieceBytes {
    fn as_ref(&self) -> &[u8] {
        self.piece.as_ref().map_or(&[], |piece| piece.as_bytes())
    }
}

impl Drop for PieceBytes {
    fn drop(&mut self) {
        if let Some(piece) = self.piece.take().and_then(Arc::into_inner) {
            self.engine.recycle(piece);
        }
    }
}

impl Driver {
    fn handle(&mut self, input: Input) {
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.machine.handle(now, input);
        while let Some(output) = self.machine.poll_output() {
            self.carry_out(output);
        }
        self.metrics.held.set(self.machine.held_tasks() as i64);
    }

    /// As [`Driver::handle`], with pieces that the machine may want to send or to keep.
    fn handle_given(&mut self, input: Input, pieces: Pieces) {
        self.given = pieces;
        self.handle(input);
        self.given.clear();
    }

    /// Gives the memory of pieces that nobody needs any more back to the engine.
    fn recycle(&self, pieces: Pieces) {
        let alone = pieces.into_iter().filter_map(|(_, piece)| Arc::into_inner(piece));
        alone.for_each(|piece| self.engine.recycle(piece));
    }

    fn name_of(&self, peer: PeerId) -> Option<Peer> {
        if peer == self.coordinator {
            return Some(Peer::Coordinator);
        }
        self.peers.iter().find(|(_, p)| **p == peer).map(|(&id, _)| Peer::Worker(id))
    }

    fn peer_of(&self, name: Peer) -> Option<PeerId> {
        match name {
            Peer::Coordinator => Some(self.coordinator),
            Peer::Worker(id) => self.peers.get(&id).copied(),
        }
    }

    fn on_event(&mut self, event: Event) {
        match &event {
            Event::Up(..) => _ = self.metrics.peers.inc(),
            Event::Down(..) => _ = self.metrics.peers.dec(),
            Event::Bundle(_, bundle, ..) if bundle.kind == BundleKind::Handover => {
                self.metrics.taken_over.inc();
            }
            Event::Message(_, Message::Forget { .. }, _) => _ = self.metrics.frames.inc(),
            _ => {}
        }
        match event {
            Event::Up(peer, ..) => match self.name_of(peer) {
                Some(Peer::Coordinator) => {
                    tracing::info!("joined");
                    self.handle(Input::Connected);
                }
                Some(Peer::Worker(id)) => self.handle(Input::PeerUp(id)),
                None => {}
            },
            Event::Down(peer, reason) => {
                if let Some(name) = self.name_of(peer) {
                    if name == Peer::Coordinator {
                        tracing::info!("the coordinator is gone: {reason}");
                    }
                    self.handle(Input::Disconnected(name));
                }
            }
            Event::Message(peer, message, _) => {
                if let Some(name) = self.name_of(peer) {
                    self.handle(Input::Message(name, message));
                }
            }
            Event::Bundle(peer, bundle, values, _) => {
                if let Some(name) = self.name_of(peer) {
                    self.on_bundle(name, bundle, values);
                }
            }
            Event::Blob(_, hash, bytes) => {
                self.cache.write(hash, bytes);
                self.handle(Input::Blob(hash));
            }
            Event::Refused(_) | Event::Unreachable(_) => {}
        }
    }

    fn on_bundle(&mut self, from: Peer, bundle: Bundle, values: Vec<Vec<u8>>) {
        let pieces = bundle.pieces.iter().zip(values).enumerate().map(|(i, (header, values))| {
            let (channels, encoding) = (header.channels as usize, bundle.encoding(i));
            let piece = decode(header.region, channels, header.element, encoding, &values);
            piece.map(|p| (header.map, Arc::new(p)))
        });
        match pieces.collect::<Result<Vec<_>, _>>() {
            Ok(pieces) if bundle.kind == BundleKind::Exchange => {
                self.handle_given(Input::Bundle(from, bundle), pieces);
            }
            Ok(pieces) => {
                self.inputs.insert((bundle.task, bundle.attempt), pieces);
                self.handle(Input::Bundle(from, bundle));
            }
            Err(error) => tracing::warn!("unusable bundle from {from:?}: {error}"),
        }
    }

    /// Tells the machine what pieces for another worker take on the wire.
    fn on_packed(&mut self, Packed { to, bundle }: Packed) {
        if let Some(Peer::Worker(_)) = self.name_of(to) {
            self.handle(Input::Packed(bundle));
        }
    }

    fn on_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Prepared(plan, set) => self.handle(Input::Prepared(plan, set)),
            Outcome::Missing(hashes) => self.miss(hashes),
            Outcome::Executed { task, outputs, busy_ns } => {
                self.metrics.computed(busy_ns);
                self.handle_given(Input::Executed { task, busy_ns }, outputs);
            }
            Outcome::Broke { task, reason } => {
                self.metrics.broken.inc();
                tracing::error!("{task}: {reason}");
                self.handle(Input::Broke { task, reason });
            }
        }
    }

    fn miss(&mut self, hashes: Vec<model::WeightHash>) {
        self.wanted.expect(hashes.iter().copied());
        self.handle(Input::Missing(hashes));
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send(to, message) => self.send(to, message),
            Output::SendBundle(to, bundle) => self.send_bundle(to, bundle),
            Output::Open(hash) => self.open(hash),
            Output::Close(model) => self.models.retain(|(hash, _)| *hash != model),
            Output::Unpack { model, layer, algorithm } => {
                if let Some((_, model)) = self.models.iter().find(|(hash, _)| *hash == model) {
                    let model = model.clone();
                    let _ = self.jobs.send(Job::Unpack { model, layer, algorithm });
                }
            }
            Output::Prepare { plan, set, model, weights } => {
                let model = self.models.iter().find(|(hash, _)| *hash == model);
                if let Some((_, model)) = model {
                    let model = model.clone();
                    let _ = self.jobs.send(Job::Prepare { plan, set, model, weights });
                }
            }
            Output::Execute { task, attempt, plan } => self.execute(task, attempt, plan),
            Output::Drop(task, attempt) => {
                self.inputs.remove(&(task, attempt));
            }
            Output::Keep(frame) => {
                self.kept.entry(frame).or_default().extend(self.given.iter().cloned());
            }
            Output::Release(frame, maps) => {
                let mut gone = self.kept.remove(&frame).unwrap_or_default();
                let over = gone.extract_if(.., |(map, _)| maps.contains(map)).collect();
                self.recycle(over);
                self.kept.insert(frame, gone);
            }
            Output::Forget(frame) => {
                let gone = self.kept.remove(&frame).unwrap_or_default();
                self.recycle(gone);
            }
            Output::Members(members) => self.on_members(members),
            Output::Disconnect(peer, reason) => {
                tracing::warn!("ending the connection to {peer:?}: {reason}");
                if let Some(peer) = self.peer_of(peer) {
                    let _ = self.commands.send(Command::Disconnect(peer, reason));
                }
            }
        }
    }

    fn send(&self, to: Peer, message: Message) {
        if let Some(peer) = self.peer_of(to) {
            let _ = self.commands.send(Command::Send(peer, message));
        }
    }

    /// Sends pieces from where they lie: the inputs of a task that is handed over, the outputs of
    /// one that ended, what is kept of a frame.
    fn send_bundle(&self, to: Peer, bundle: Bundle) {
        let Some(peer) = self.peer_of(to) else { return };
        let own: &[(MapId, Arc<Piece>)] = match bundle.kind {
            BundleKind::Result { .. } => &self.given,
            // The attempt of a hand-over is the thief's; ours is any that we hold.
            BundleKind::Handover => {
                self.metrics.handed_over.inc();
                let held = self.inputs.iter().find(|((task, _), _)| *task == bundle.task);
                held.map_or(&[], |(_, pieces)| pieces)
            }
            _ => &[],
        };
        let kept = self.kept.get(&bundle.task.frame).map_or(&[][..], Vec::as_slice);
        let tells = bundle.unsent_bytes() > 0;
        let mut pieces = Vec::with_capacity(bundle.pieces.len());
        for header in &bundle.pieces {
            let mut all = own.iter().chain(kept);
            let piece = all.find(|(map, p)| *map == header.map && p.region.contains(header.region));
            let Some((_, piece)) = piece else {
                return tracing::error!("{}: {:?} is not held", bundle.task, header);
            };
            let bytes = header.byte_len().unwrap_or(0) as u64;
            let sent = tells.then(|| Arc::new(Sent(self.sent.clone(), bytes)));
            let (engine, until_sent) = (self.engine.clone(), sent.clone());
            let bytes = PieceBytes { piece: Some(piece.clone()), engine, _sent: sent };
            let until_sent = until_sent.map(|sent| sent as Arc<dyn Any + Send + Sync>);
            pieces.push(Held { piece: piece.clone(), owner: Arc::new(bytes), until_sent });
        }
        let encode = self.machine.encodes(bundle.plan);
        self.outbox.send(peer, bundle, pieces, encode);
    }

    /// Reads a graph that came over the wire: nothing in it is trusted before it is validated.
    fn open(&mut self, hash: ModelHash) {
        if let Some((_, model)) = self.models.iter().find(|(h, _)| *h == hash) {
            let graph = model.graph().clone();
            return self.handle(Input::Opened(hash, graph));
        }
        let Some(bytes) = self.cache.read(hash.0) else { return self.miss(vec![hash.0]) };
        self.cache.release(hash.0);
        let graph = postcard::from_bytes::<Model>(&bytes).map_err(|e| e.to_string());
        match graph.and_then(|g| g.validate().map(|()| g).map_err(|e| e.to_string())) {
            Ok(graph) => {
                let graph = Arc::new(graph);
                let packed = PackedModel::new(graph.clone());
                let unused = self.models.iter().position(|(h, _)| !self.machine.uses(*h));
                if let Some(oldest) = unused.filter(|_| self.models.len() >= MODELS_MAX) {
                    self.models.remove(oldest);
                }
                self.models.push((hash, Arc::new(packed)));
                self.handle(Input::Opened(hash, graph));
            }
            Err(reason) => {
                let reason = format!("the coordinator sent an unsound model: {reason}");
                self.carry_out(Output::Disconnect(Peer::Coordinator, reason));
            }
        }
    }

    fn execute(&mut self, task: TaskId, attempt: u32, plan: protocol::PlanId) {
        let model = self.machine.model(plan);
        let model = self.models.iter().find(|(hash, _)| Some(*hash) == model);
        let mut inputs = self.inputs.get(&(task, attempt)).cloned();
        if let (Some(inputs), Some(kept)) = (&mut inputs, self.kept.get(&task.frame)) {
            inputs.extend(kept.iter().cloned());
        }
        match (model, self.machine.geometry(plan).cloned(), inputs) {
            (Some((_, model)), Some(geometry), Some(inputs)) => {
                let model = model.clone();
                let wire = self.machine.wire(plan).unwrap_or_default();
                let _ = self.jobs.send(Job::Execute(Task { task, model, geometry, wire, inputs }));
            }
            _ => {
                let reason = "its model was closed".into();
                self.handle(Input::Broke { task, reason });
            }
        }
    }

    fn on_members(&mut self, members: Vec<Member>) {
        let parsed = members.into_iter().filter_map(|m| {
            let addresses = m.addresses.iter().filter_map(|a| a.parse::<Multiaddr>().ok());
            Some((m.worker, PeerId::from_bytes(&m.peer).ok()?, addresses.collect::<Vec<_>>()))
        });
        let parsed: Vec<_> =
            parsed.filter(|(worker, ..)| Some(*worker) != self.machine.id()).collect();
        self.peers = parsed.iter().map(|&(worker, peer, _)| (worker, peer)).collect();
        let members = parsed.into_iter().map(|(_, peer, addresses)| (peer, addresses)).collect();
        let _ = self.commands.send(Command::Members(members));
    }
}
