//! The drive loop: gives the state machine what happened, carries out what it wants, holds the
//! tensors and blobs that it names.

mod blobs;
mod devices;
mod looks;
mod planned;
mod planning;
mod seen;
mod thinking;

pub(crate) use planning::Work;

use crate::cluster::{Answer, Device, HostedModel};
use crate::metrics::{Metrics, Snapshot};
use crate::progress::Progress;
use crate::store::{Arrived, FrameMaps};
use crate::trace::Tracer;
use kernels::wire::{Saturated, inputs_for};
use looks::Looks;
use model::WeightHash;
use net::{Command, Event, Multiaddr, Net, Owner, Payload, PeerId};
use planned::{Book, Planned};
use planner::Cost;
use protocol::coordinator::{Input, Output};
use protocol::{ActivePlan, Bundle, Coordinator, CoordinatorConfig, Counters, FrameId};
use protocol::{LAST_RELEASE, Member, Message, VERSION, WorkerId, WorkerReport};
use seen::Seen;
use std::collections::BTreeMap;
use std::hash::Hasher;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use thinking::Thinker;
use tokio::sync::{mpsc, oneshot};
use worker::outbox::{Outbox, Packed};

type Reply<T> = oneshot::Sender<T>;
type FrameReply = oneshot::Sender<Result<Answer, String>>;

/// What the rest of the process asks of the loop.
pub(crate) enum Request {
    Submit(Work, FrameReply),
    Devices(Reply<Vec<Device>>),
    Reports(Reply<(BTreeMap<WorkerId, WorkerReport>, u64)>),
    Counters(Reply<Counters>),
    Snapshot(Reply<Snapshot>),
    /// Whether all workers can send pieces to each other, and have measured these ways.
    Reach(Reply<bool>),
    Record,
    Timeline(Reply<timeline::Timeline>),
    Stop,
}

struct FrameState {
    model: Arc<HostedModel>,
    maps: FrameMaps,
    plan: Arc<ActivePlan>,
    predicted: Cost,
    scattered: Option<Instant>,
    reply: FrameReply,
}

/// A worker's session.
struct Reached {
    peer: PeerId,
    /// The version of the protocol that it speaks.
    version: u32,
    /// Where it listens.
    addresses: Vec<Multiaddr>,
}

struct Driver {
    machine: Coordinator,
    spot_checks: bool,
    /// This machine reaches others through the air.
    on_air: bool,
    tracer: Option<Tracer>,
    commands: mpsc::UnboundedSender<Command>,
    outbox: Outbox,
    started: Instant,
    progress: Arc<Progress>,
    metrics: Metrics,
    ids: BTreeMap<PeerId, WorkerId>,
    reached: BTreeMap<WorkerId, Reached>,
    blobs: BTreeMap<WeightHash, Owner>,
    frames: BTreeMap<FrameId, FrameState>,
    /// Jobs that wait for the first worker.
    waiting: Vec<(Work, FrameReply)>,
    planned: Book,
    thinker: Thinker,
    looks: Looks,
    seen: Seen,
    /// Bytes of maps that had moved when the last frame ended.
    moved_bytes: u64,
    /// The upper halves are a number of this process's own.
    next_frame: u64,
    next_plan: u64,
}

/// Runs until told to stop.
pub(crate) async fn drive(
    net: Net,
    config: CoordinatorConfig,
    mut requests: mpsc::UnboundedReceiver<Request>,
    (progress, metrics): (Arc<Progress>, Metrics),
) {
    let incarnation = incarnation();
    let (packed_tx, mut packed) = mpsc::unbounded_channel();
    let tell = move |bundle| {
        let _ = packed_tx.send(bundle);
    };
    let outbox = match Outbox::start(net.commands.clone(), tell) {
        Ok(outbox) => outbox,
        Err(error) => return tracing::error!("cannot start the thread that encodes: {error}"),
    };
    let (thought_tx, mut thoughts) = mpsc::unbounded_channel();
    let tell = move |thought| {
        let _ = thought_tx.send(thought);
    };
    let thinker = match Thinker::start(tell) {
        Ok(thinker) => thinker,
        Err(error) => return tracing::error!("cannot start the thread that plans: {error}"),
    };
    let mut driver = Driver {
        spot_checks: config.spot_checks_per_mille > 0,
        on_air: worker::health::read(Path::new("/")).wireless == Some(true),
        machine: Coordinator::new(config),
        tracer: None,
        commands: net.commands,
        outbox,
        started: Instant::now(),
        progress,
        metrics,
        ids: BTreeMap::new(),
        reached: BTreeMap::new(),
        blobs: BTreeMap::new(),
        frames: BTreeMap::new(),
        waiting: Vec::new(),
        planned: Book::default(),
        thinker,
        looks: Looks::new(Instant::now()),
        seen: Seen::default(),
        moved_bytes: 0,
        next_frame: incarnation << 32,
        next_plan: incarnation << 32,
    };
    let mut events = net.events;
    loop {
        let tick = net::after(driver.started, driver.machine.next_deadline());
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => driver.on_event(event),
                None => return,
            },
            request = requests.recv() => match request {
                Some(Request::Submit(work, reply)) => driver.submit(work, reply),
                Some(Request::Devices(reply)) => {
                    let _ = reply.send(driver.devices());
                }
                Some(Request::Reports(reply)) => {
                    let _ = reply.send((driver.machine.reports(), driver.machine.reassigned()));
                }
                Some(Request::Reach(reply)) => {
                    let machine = &driver.machine;
                    let _ = reply.send(machine.all_reach_all() && machine.all_pairs_measured());
                }
                Some(Request::Counters(reply)) => {
                    let _ = reply.send(driver.machine.counters());
                }
                Some(Request::Snapshot(reply)) => {
                    let _ = reply.send(driver.snapshot());
                }
                Some(Request::Record) => driver.record(),
                Some(Request::Timeline(reply)) => {
                    let timeline = driver.tracer.as_ref().map(Tracer::timeline);
                    let _ = reply.send(timeline.unwrap_or_default());
                }
                Some(Request::Stop) | None => {
                    driver.say_goodbye();
                    // The network ends its events when what was queued is out.
                    while events.recv().await.is_some() {}
                    return;
                }
            },
            Some(bundle) = packed.recv() => driver.on_packed(bundle),
            Some(thought) = thoughts.recv() => driver.on_thought(thought),
            () = tick => driver.handle(Input::Tick, None),
        }
    }
}

impl Driver {
    /// Gives the machine an input; `values` are those of a bundle, until the machine has judged it.
    fn handle(&mut self, input: Input, mut values: Option<(Bundle, Vec<Arrived>)>) {
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.machine.handle(now, input);
        while let Some(output) = self.machine.poll_output() {
            if let Some(tracer) = &mut self.tracer {
                tracer.output(&output);
            }
            self.carry_out(output, &mut values);
        }
    }

    /// Writes down what happens from now on.
    fn record(&mut self) {
        let mut tracer = Tracer::new();
        for (id, report) in self.machine.live() {
            tracer.name(id, &report.name);
        }
        self.tracer = Some(tracer);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Up(peer, version, addresses) => {
                let next = WorkerId(self.ids.len() as u32);
                let id = *self.ids.entry(peer).or_insert(next);
                self.reached.insert(id, Reached { peer, version, addresses });
            }
            Event::Down(peer, reason) => {
                if let Some(&id) = self.ids.get(&peer) {
                    tracing::info!("{id} left: {reason}");
                    if let Some(tracer) = &mut self.tracer {
                        tracer.mark(Some(id), format!("left: {reason}"));
                    }
                    self.reached.remove(&id);
                    self.handle(Input::Left(id, reason), None);
                }
            }
            Event::Message(peer, message, _) => {
                let Some(&id) = self.ids.get(&peer) else { return };
                match message {
                    Message::Hello(hello) => {
                        tracing::info!("{id} joined: {} ({} threads)", hello.name, hello.threads);
                        if let Some(tracer) = &mut self.tracer {
                            tracer.name(id, &hello.name);
                            tracer.mark(Some(id), "joined");
                        }
                        let version = self.reached.get(&id).map_or(VERSION, |r| r.version);
                        if version < VERSION {
                            tracing::warn!("{}", older(&hello.name));
                        }
                        self.handle(Input::Joined(id, version, hello), None);
                        self.submit_waiting();
                    }
                    message => {
                        self.hear_of_maps(&message);
                        self.handle(Input::Message(id, message), None);
                    }
                }
            }
            Event::Bundle(peer, bundle, values, _) => {
                if let Some(&id) = self.ids.get(&peer) {
                    if let Some(tracer) = &mut self.tracer {
                        tracer.result(&bundle);
                    }
                    let values = match Arrived::all(&bundle, values) {
                        Ok(values) => values,
                        Err(error) => {
                            let reason = format!("{}: {error}", bundle.task);
                            return self.carry_out(Output::Disconnect(id, reason), &mut None);
                        }
                    };
                    self.see(&bundle);
                    self.metrics.result(&bundle);
                    let checked = self.machine.checks(bundle.task);
                    let checksum = if checked { checksum(&values) } else { 0 };
                    let held = Some((bundle.clone(), values));
                    self.handle(Input::Bundle(id, bundle, checksum), held);
                }
            }
            // Nobody sends a coordinator blobs, and nobody refuses it.
            Event::Blob(..) | Event::Refused(_) | Event::Unreachable(_) => {}
        }
    }

    fn carry_out(&mut self, output: Output, values: &mut Option<(Bundle, Vec<Arrived>)>) {
        match output {
            Output::Send(to, message) => self.command(to, |peer| Command::Send(peer, message)),
            Output::SendBundle(to, bundle) => {
                let Some(frame) = self.frames.get_mut(&bundle.task.frame) else { return };
                frame.scattered.get_or_insert_with(|| {
                    tracing::info!("frame {} begins", bundle.task.frame.number());
                    Instant::now()
                });
                let pieces = frame.maps.cut(&bundle.pieces);
                if let Some(Reached { peer, .. }) = self.reached.get(&to) {
                    self.outbox.send(*peer, bundle, pieces, frame.plan.encodes(to));
                }
            }
            Output::SendBlobs(to, hashes) => self.send_blobs(to, hashes),
            Output::Gather(task) | Output::Regather(task) => {
                let Some((bundle, values)) = values.take() else { return };
                if let Some(frame) = self.frames.get_mut(&task.frame) {
                    let graph = &frame.model.loaded.graph;
                    for (header, values) in bundle.pieces.iter().zip(values) {
                        let (map, region) = (header.map, header.region);
                        frame
                            .maps
                            .gather(graph, map, region, values)
                            .expect("the machine has checked the header, the network its length");
                    }
                }
                self.progress.tiles.fetch_add(1, Ordering::Relaxed);
            }
            Output::Release(frame, map) => {
                if let Some(frame) = self.frames.get_mut(&frame) {
                    frame.maps.release(map);
                }
            }
            Output::Finished(frame) => self.finish(frame),
            Output::FrameFailed(frame, reason) => {
                if let Some(frame) = self.frames.remove(&frame) {
                    self.metrics.frames_failed.inc();
                    let _ = frame.reply.send(Err(reason));
                }
            }
            Output::Disconnect(id, reason) => {
                tracing::warn!("ending the connection to {id}: {reason}");
                self.command(id, |peer| Command::Disconnect(peer, reason));
            }
            Output::ReachChanged => self.planned.iter_mut().for_each(Planned::look_again),
            Output::MembershipChanged => {
                // Frames that follow are planned for those who are there now.
                self.planned.iter_mut().for_each(Planned::begin_again);
                self.send_roster();
            }
        }
    }

    /// Tells the machine what of a bundle really travels: links are learned from that.
    fn on_packed(&mut self, packed: Packed) {
        let Packed { to, bundle } = packed;
        let (task, attempt) = (bundle.task, bundle.attempt);
        let bytes = bundle.wire_len().unwrap_or(0) as u64;
        self.see(&bundle);
        if let Some(tracer) = &mut self.tracer {
            tracer.packed(task, attempt, bytes);
        }
        if let Some(&id) = self.ids.get(&to) {
            self.handle(Input::Packed { worker: id, task, attempt, bytes }, None);
        }
    }

    fn command(&self, to: WorkerId, command: impl FnOnce(PeerId) -> Command) {
        if let Some(Reached { peer, .. }) = self.reached.get(&to) {
            let _ = self.commands.send(command(*peer));
        }
    }

    fn send_blobs(&mut self, to: WorkerId, hashes: Vec<WeightHash>) {
        for hash in hashes {
            match self.blobs.get(&hash) {
                Some(owner) => {
                    let payload = Payload::whole(self.progress.leaving(owner.clone()));
                    self.command(to, |peer| Command::SendBlob(peer, hash, payload));
                }
                None => tracing::warn!("{to} wants {hash:?}, which no model here has"),
            }
        }
    }

    /// Tells every worker who else is there and where.
    fn send_roster(&mut self) {
        let live: Vec<WorkerId> = self.machine.live().map(|(id, _)| id).collect();
        let member = |&worker: &WorkerId| {
            let Reached { peer, addresses, .. } = self.reached.get(&worker)?;
            let addresses = addresses.iter().map(|a| a.to_string()).collect();
            Some(Member { worker, peer: peer.to_bytes(), addresses })
        };
        let members: Vec<Member> = live.iter().filter_map(member).collect();
        for id in live {
            let roster = Message::Roster(members.clone());
            self.command(id, |peer| Command::Send(peer, roster));
        }
    }

    /// Hands a frame to the machine.
    fn begin(&mut self, work: Work, planned: (Arc<ActivePlan>, Cost), reply: FrameReply) {
        let (plan, predicted) = planned;
        if let Err(reason) = work.check_inputs(&plan) {
            let _ = reply.send(Err(reason));
            return;
        }
        self.host(&work.model);
        let id = FrameId(self.next_frame);
        self.next_frame += 1;
        let tiles: usize = plan.plan.stages.iter().map(|s| s.tiles()).sum();
        self.progress.tiles_expected.fetch_add(tiles as u64, Ordering::Relaxed);
        let graph = &work.model.loaded.graph;
        let (inputs, Saturated(beyond)) = inputs_for(graph, plan.plan.wire, work.inputs);
        if beyond > 0 {
            tracing::warn!(
                "{beyond} values of the input lie beyond half floats and became their ends"
            );
        }
        let frame = FrameState {
            maps: FrameMaps::new(inputs, plan.geometry()),
            model: work.model,
            plan: plan.clone(),
            predicted,
            scattered: None,
            reply,
        };
        self.frames.insert(id, frame);
        self.handle(Input::Submit(id, plan), None);
    }

    fn submit_waiting(&mut self) {
        for (work, reply) in std::mem::take(&mut self.waiting) {
            self.submit(work, reply);
        }
    }

    /// Makes the blobs of a model available to workers.
    fn host(&mut self, model: &Arc<HostedModel>) {
        if self.blobs.contains_key(&model.hash.0) {
            return;
        }
        self.blobs.extend(blobs::blobs(&model.loaded.weights));
        self.blobs.insert(model.hash.0, model.graph_bytes.clone());
    }

    fn finish(&mut self, id: FrameId) {
        let Some(frame) = self.frames.remove(&id) else { return };
        let makespan = frame.scattered.map(|s| s.elapsed()).unwrap_or_default();
        self.metrics.finished(makespan);
        let moved_bytes = self.machine.counters().moved_bytes();
        let before = std::mem::replace(&mut self.moved_bytes, moved_bytes);
        tracing::info!(
            "frame {} done: {} bytes of maps moved since the one before, {} predicted",
            id.number(),
            moved_bytes.saturating_sub(before),
            frame.predicted.moved_bytes()
        );
        let outputs = frame.maps.take(&frame.model.loaded.graph.outputs);
        let answer = Answer { outputs, makespan, plan: frame.plan, predicted: frame.predicted };
        let _ = frame.reply.send(Ok(answer));
    }

    fn snapshot(&self) -> Snapshot {
        let machine = &self.machine;
        let health = |id| machine.profile(id).map(|profile| profile.health);
        let workers = machine.reports().into_iter().map(|(id, report)| (id, report, health(id)));
        Snapshot {
            counters: machine.counters(),
            reassigned: machine.reassigned(),
            in_flight: machine.in_flight(),
            unfinished: machine.unfinished(),
            held: machine.held().count(),
            workers: workers.collect(),
        }
    }

    fn say_goodbye(&mut self) {
        let live: Vec<WorkerId> = self.machine.live().map(|(id, _)| id).collect();
        for id in live {
            let goodbye = Message::Goodbye { reason: "the coordinator is done".into() };
            self.command(id, |peer| Command::Send(peer, goodbye));
        }
        self.outbox.shut_down();
    }
}

/// What is said of a worker that speaks the version of the last minor release.
pub(crate) fn older(name: &str) -> String {
    let release = env!("CARGO_PKG_VERSION");
    format!(
        "{name} has Tilehive {LAST_RELEASE}: it works, but as long as it is there all compute the way that \
         {LAST_RELEASE} does, which is slower for some models; upgrade it to {release}"
    )
}

/// A number that another process of this coordinator does not have, so that workers never take a
/// plan or frame of this one for one of an earlier one.
fn incarnation() -> u64 {
    let mut hasher = std::hash::BuildHasher::build_hasher(&std::hash::RandomState::new());
    hasher.write_u32(std::process::id());
    hasher.finish() >> 32
}

/// What tells one answer from another.
fn checksum(values: &[Arrived]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    values.iter().for_each(|piece| hasher.write(piece.bytes()));
    hasher.finish()
}
