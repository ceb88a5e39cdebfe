//! The coordinator's driver: what `coordinator::drive` does with sockets, done with events.

mod planning;

use crate::bound::Bound;
use crate::cluster::Cluster;
use crate::events::{End, Event, Parcel, Sender};
use crate::invariants::Violation;
use crate::outcome::FrameOutcome;
use crate::scenario::{Payload, Sabotage, Scenario};
use kernels::wire::inputs_for;
use kernels::{Piece, Pieces};
use model::{LayerId, MapId, Model, WeightHash};
use protocol::coordinator::{Input, Output};
use protocol::{Bundle, BundleKind, Coordinator, Form, FrameId, Member, Message, ModelHash, Nanos};
use protocol::{PieceHeader, PlanId, TaskId, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tiling::{
    Algorithm, Encoding, Numerics, OperatorClass, Region, Shares, StageGeometry, Work, layer_work,
};

use planning::Planned;

type Maps = BTreeMap<MapId, Arc<Piece>>;

/// Other workers that a worker is told of: connections cost memory on both sides, and in a large
/// cluster nobody needs one to everybody.
const ROSTER_MAX: usize = 32;

/// In a large cluster many join at once: they are told of each other together.
const ROSTER_DELAY_NS: Nanos = 1_000_000;

/// What a worker sent, until the machine has judged it.
pub(crate) struct Arrived {
    pub(crate) worker: WorkerId,
    pub(crate) kind: BundleKind,
    pub(crate) task: TaskId,
    pub(crate) attempt: u32,
    pieces: Pieces,
}

/// A frame that is in flight or waits for a worker.
#[derive(Debug)]
pub(crate) struct HeadFrame {
    submitted_ns: Nanos,
    started_ns: Option<Nanos>,
    bound_ns: Nanos,
    maps: Maps,
}

/// The coordinator and what its driver holds.
pub(crate) struct Head {
    pub(crate) machine: Coordinator,
    /// The connection of each device, as seen from here.
    pub(crate) sessions: Vec<Option<u32>>,
    /// The connection over which each device last said hello.
    pub(crate) joined: Vec<Option<u32>>,
    pub(crate) frames: BTreeMap<FrameId, HeadFrame>,
    pub(crate) outputs: Vec<Option<Pieces>>,
    pub(crate) times: Vec<Option<FrameOutcome>>,
    pub(crate) failures: Vec<(FrameId, String)>,
    pub(crate) missing: usize,
    pub(crate) first_scatter_ns: Option<Nanos>,
    pub(crate) model_hash: ModelHash,
    pub(crate) bound: Option<Bound>,
    pub(crate) last_plan: Option<tiling::Plan>,
    blob_bytes: BTreeMap<WeightHash, u64>,
    layer_works: Vec<Work>,
    /// Frames that wait for the first worker, and when they were submitted.
    waiting: Vec<(usize, Nanos)>,
    planned: Option<Planned>,
    /// What part of each map's bytes is taken to travel where pieces are encoded.
    shares: Shares,
    /// Whose pieces are, in which plan.
    encoding: BTreeSet<(PlanId, WorkerId)>,
    /// How many coordinators there were before this one.
    incarnation: u64,
    next_plan: u64,
    scattered: u64,
    roster_due: bool,
}

impl Head {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let graph = &scenario.model.graph;
        let text = format!("{graph:?}");
        let model_hash = ModelHash(WeightHash::of_bytes(text.as_bytes()));
        let sizes = graph.weights.iter().map(|w| (w.hash, w.bytes() as u64));
        let mut blob_bytes: BTreeMap<WeightHash, u64> = sizes.collect();
        blob_bytes.insert(model_hash.0, text.len() as u64);
        let frames = scenario.payload.frames();
        Self {
            machine: Coordinator::new(scenario.machine.clone()),
            sessions: vec![None; scenario.workers.len()],
            joined: vec![None; scenario.workers.len()],
            frames: BTreeMap::new(),
            outputs: vec![None; frames],
            times: vec![None; frames],
            failures: Vec::new(),
            missing: frames,
            first_scatter_ns: None,
            model_hash,
            bound: None,
            last_plan: None,
            blob_bytes,
            layer_works: match scenario.checked {
                true => layer_works(graph, scenario.options.numerics),
                false => Vec::new(),
            },
            waiting: Vec::new(),
            planned: None,
            shares: scenario.shares.clone().unwrap_or_else(|| {
                Shares::expected(graph, scenario.options.wire, Shares::of_pictures(graph))
            }),
            encoding: BTreeSet::new(),
            incarnation: 0,
            next_plan: 0,
            scattered: 0,
            roster_due: false,
        }
    }

    /// The forms of a bundle's pieces: sizes alone, since most runs have no values.
    pub(crate) fn forms(&self, encodes: bool, bundle: &Bundle) -> Vec<Form> {
        if !encodes {
            return Vec::new();
        }
        let form = |piece: &PieceHeader| {
            let raw = piece.byte_len().unwrap_or(0) as u64;
            let bytes = self.shares.of(piece.map, raw);
            let encoding = if bytes < raw { Encoding::Palette } else { Encoding::Raw };
            Form { encoding, bytes }
        };
        bundle.pieces.iter().map(form).collect()
    }

    /// All blobs that a worker may want.
    pub(crate) fn blobs(&self) -> BTreeSet<WeightHash> {
        self.blob_bytes.keys().copied().collect()
    }

    /// Takes over from a coordinator that ended what those who use it still have.
    pub(crate) fn survive(&mut self, old: Head) {
        self.outputs = old.outputs;
        self.times = old.times;
        self.failures = old.failures;
        self.missing = old.missing;
        self.first_scatter_ns = old.first_scatter_ns;
        self.bound = old.bound;
        self.incarnation = old.incarnation + 1;
        self.waiting = old.waiting;
        let again = old.frames.iter();
        let again = again.map(|(id, frame)| (id.number() as usize, frame.submitted_ns));
        self.waiting.extend(again);
        self.waiting.sort();
    }

    fn cut(&self, bundle: &Bundle) -> Pieces {
        let maps = &self.frames[&bundle.task.frame].maps;
        let piece = |header: &PieceHeader| {
            let map = maps.get(&header.map).expect("a scattered map is complete");
            (header.map, Arc::new(map.crop(header.region)))
        };
        bundle.pieces.iter().map(piece).collect()
    }
}

/// What each layer asks of a device at least, however it is cut.
fn layer_works(graph: &Model, numerics: Numerics) -> Vec<Work> {
    let whole = StageGeometry::whole(graph, numerics);
    let Some(tile) = whole.tiles.first() else { return Vec::new() };
    let layers = tile.layers.iter().zip(&whole.algorithms).enumerate();
    let work = layers.map(|(i, (&region, &algorithm))| {
        let layer = LayerId(i as u32);
        let work = layer_work(graph, layer, algorithm, region);
        if algorithm == Algorithm::Direct {
            return work;
        }
        // Another cut may have larger transforms that divide it: F(6x6) without a remainder.
        let (products, outputs) = (64, 36);
        let multiply_adds = graph.multiply_adds_per_position(layer) / 9;
        let least = multiply_adds * region.positions() as u64 * products / outputs;
        let maps = Work::of(OperatorClass::Maps, work[OperatorClass::Maps]);
        Work::of(OperatorClass::Winograd, least) + maps
    });
    work.collect()
}

impl Cluster {
    /// Gives the machine an input, and what came with it.
    pub(crate) fn head_handle(&mut self, input: Input, arrived: Option<Arrived>) {
        self.head.machine.handle(self.now, input);
        while let Some(output) = self.head.machine.poll_output() {
            self.head_carry_out(output, arrived.as_ref());
        }
        self.arm(End::Head);
    }

    fn head_carry_out(&mut self, output: Output, arrived: Option<&Arrived>) {
        match output {
            Output::Send(to, message) => {
                if let Message::Yield { task, thief, next_attempt, .. } = &message {
                    self.invariants.issue(*thief, *task, *next_attempt);
                }
                self.head_send(to, Parcel::Message(Box::new(message)));
            }
            Output::SendBundle(to, bundle) => self.scatter(to, bundle),
            Output::SendBlobs(to, hashes) => {
                for hash in hashes {
                    let bytes = self.head.blob_bytes.get(&hash).copied().unwrap_or(0);
                    self.head_send(to, Parcel::Blob(hash, bytes));
                }
            }
            Output::Gather(task) => {
                let arrived = arrived.expect("only a bundle is gathered");
                assert_eq!(arrived.task, task, "the bundle just given is gathered");
                let times = if self.scenario.sabotage == Sabotage::GatherTwice { 2 } else { 1 };
                for _ in 0..times {
                    if let Err(violation) = self.invariants.gather(arrived) {
                        self.violation.get_or_insert(violation);
                    }
                    self.stitch(task.frame, &arrived.pieces);
                }
            }
            Output::Regather(task) => {
                let arrived = arrived.expect("only a bundle is gathered");
                assert_eq!(arrived.task, task, "the bundle just given is gathered");
                self.stitch(task.frame, &arrived.pieces);
            }
            Output::Release(frame, map) => {
                if let Some(frame) = self.head.frames.get_mut(&frame) {
                    frame.maps.remove(&map);
                }
            }
            Output::Finished(frame) => self.finished(frame),
            Output::FrameFailed(frame, reason) => {
                if !self.scenario.may_fail {
                    let reason = reason.clone();
                    self.violation.get_or_insert(Violation::FrameFailed { frame, reason });
                }
                self.recorder.mark(
                    self.now,
                    None,
                    format!("frame {} failed: {reason}", frame.number()),
                );
                if self.head.frames.remove(&frame).is_some() {
                    self.head.missing -= 1;
                }
                let _ = self.invariants.end_frame(frame, Nanos::MAX / 2, 0);
                self.head.failures.push((frame, reason));
            }
            Output::Disconnect(id, reason) => {
                let device = id.0 as usize;
                self.recorder.mark(self.now, Some(device), format!("expelled: {reason}"));
                if let Some(session) = self.head.sessions[device].take() {
                    let at = self.now + self.usual_way(End::Head, End::Device(device));
                    self.schedule(at, Event::DeviceLost { device, session });
                    self.hang_up(device);
                }
            }
            Output::ReachChanged => {
                if let Some(planned) = &mut self.head.planned {
                    planned.is_stale = true;
                }
            }
            Output::MembershipChanged => {
                // Frames that follow are planned for those who are there now.
                if let Some(planned) = &mut self.head.planned {
                    planned.plans.stay();
                    planned.is_stale = true;
                }
                if self.devices.len() <= ROSTER_MAX {
                    self.send_roster();
                } else if !std::mem::replace(&mut self.head.roster_due, true) {
                    self.schedule(self.now + ROSTER_DELAY_NS, Event::Roster);
                }
            }
        }
    }

    fn scatter(&mut self, to: WorkerId, bundle: Bundle) {
        self.invariants.issue(to, bundle.task, bundle.attempt);
        self.touched.push(to.0 as usize);
        self.head.first_scatter_ns.get_or_insert(self.now);
        let now = self.now;
        let frame = self.head.frames.get_mut(&bundle.task.frame).expect("a frame in flight");
        frame.started_ns.get_or_insert(now);
        self.head.scattered += 1;
        if self.scenario.sabotage == Sabotage::LoseScatter && self.head.scattered == 2 {
            return self.invariants.accounted.suspect(bundle.task);
        }
        let pieces = if self.has_values() { self.head.cut(&bundle) } else { Pieces::new() };
        let (task, attempt) = (bundle.task, bundle.attempt);
        let encodes = self.head.encoding.contains(&(bundle.plan, to));
        let bundle = Bundle { forms: self.head.forms(encodes, &bundle), ..bundle };
        let bytes = bundle.wire_len().unwrap_or(0) as u64;
        self.head_send(to, Parcel::Bundle(Box::new(bundle), pieces));
        if encodes {
            self.head.machine.handle(now, Input::Packed { worker: to, task, attempt, bytes });
        }
    }

    fn finished(&mut self, id: FrameId) {
        let mut frame = self.head.frames.remove(&id).expect("a frame ends once");
        if self.has_values() {
            let wanted = self.scenario.model.graph.outputs.iter();
            let outputs = wanted.map(|map| (*map, frame.maps.remove(map).expect("a whole map")));
            self.head.outputs[id.number() as usize] = Some(outputs.collect());
        }
        let (submitted_ns, ended_ns) = (frame.submitted_ns, self.now);
        let started_ns = frame.started_ns.unwrap_or(ended_ns);
        self.head.times[id.number() as usize] =
            Some(FrameOutcome { submitted_ns, started_ns, ended_ns });
        self.head.missing -= 1;
        let took_ns = ended_ns - started_ns;
        if let Err(violation) = self.invariants.end_frame(id, took_ns, frame.bound_ns) {
            self.violation.get_or_insert(violation);
        }
        self.recorder.mark(self.now, None, format!("frame {} done", id.number()));
    }

    fn head_send(&mut self, to: WorkerId, parcel: Parcel) {
        let to = to.0 as usize;
        match self.head.sessions[to] {
            Some(session) => {
                let event = Event::ToDevice { to, from: Sender::Head { session }, parcel };
                self.transmit(End::Head, End::Device(to), event);
            }
            None => self.lose(&parcel, false),
        }
    }

    /// Tells every worker who else is there.
    pub(crate) fn send_roster(&mut self) {
        self.head.roster_due = false;
        let live: Vec<WorkerId> = self.head.machine.live().map(|(id, ..)| id).collect();
        let member =
            |&worker: &WorkerId| Member { worker, peer: Vec::new(), addresses: Vec::new() };
        for (i, &id) in live.iter().enumerate() {
            let start = i.saturating_sub(ROSTER_MAX / 2).min(live.len().saturating_sub(ROSTER_MAX));
            let near = live.iter().skip(start).take(ROSTER_MAX);
            let roster = Message::Roster(near.map(member).collect());
            self.head_send(id, Parcel::Message(Box::new(roster)));
        }
    }

    fn stitch(&mut self, frame: FrameId, pieces: &Pieces) {
        let graph = &self.scenario.model.graph;
        let Some(frame) = self.head.frames.get_mut(&frame) else { return };
        for (map, piece) in pieces {
            let shape = graph.shape(*map);
            let element = graph.element(*map);
            let whole = Region::whole(shape);
            let zeroed = || Arc::new(Piece::zeroed_of(whole, shape.channels(), element));
            let target = frame.maps.entry(*map).or_insert_with(zeroed);
            Arc::get_mut(target).expect("a map is not shared while it is gathered").paste(piece);
        }
    }

    pub(crate) fn reach_head(&mut self, from: usize, session: u32, parcel: Parcel) {
        if self.head.sessions[from] != Some(session) {
            return self.lose(&parcel, true);
        }
        self.landed(&parcel);
        self.touched.push(from);
        let id = WorkerId(from as u32);
        match parcel {
            Parcel::Message(message) => match *message {
                Message::Hello(hello) => {
                    self.head.joined[from] = Some(session);
                    self.recorder.mark(self.now, Some(from), "joined");
                    self.head_handle(Input::Joined(id, protocol::VERSION, hello), None);
                    self.resubmit();
                }
                message => {
                    self.invariants.heard(&message);
                    self.head_handle(Input::Message(id, message), None);
                }
            },
            Parcel::Bundle(bundle, pieces) => {
                let checksum = match self.head.machine.checks(bundle.task) {
                    true => checksum(&pieces),
                    false => 0,
                };
                let Bundle { kind, task, attempt, .. } = *bundle;
                let arrived = Arrived { worker: id, kind, task, attempt, pieces };
                self.head_handle(Input::Bundle(id, *bundle, checksum), Some(arrived));
            }
            Parcel::Blob(..) => {}
        }
    }

    pub(crate) fn head_lost(&mut self, device: usize, session: u32) {
        if self.head.sessions[device] == Some(session) {
            self.head.sessions[device] = None;
            self.hang_up(device);
            self.head_handle(Input::Left(WorkerId(device as u32), "it went away".into()), None);
        }
    }

    /// Hands a frame in, or keeps it until somebody is there.
    pub(crate) fn submit(&mut self, frame: usize) {
        self.submit_from(frame, self.now);
    }

    /// Hands in what waits, as soon as somebody is there.
    pub(crate) fn resubmit(&mut self) {
        for (frame, since_ns) in std::mem::take(&mut self.head.waiting) {
            self.submit_from(frame, since_ns);
        }
    }

    /// Plans for the workers that are there now, and hands the frame in.
    fn submit_from(&mut self, frame: usize, submitted_ns: Nanos) {
        if self.head.machine.live().next().is_none() {
            return self.head.waiting.push((frame, submitted_ns));
        }
        let plan = match self.plan() {
            Ok(plan) => plan,
            Err(violation) => {
                self.violation.get_or_insert(violation);
                return;
            }
        };
        self.head.bound = self.bounds.get(&plan.id).copied();
        self.head.last_plan = Some(plan.plan.clone());
        let id = FrameId(self.head.incarnation << 32 | frame as u64);
        let maps = match &self.scenario.payload {
            Payload::Values(frames) => {
                let inputs = frames[frame].to_vec();
                let (inputs, _) = inputs_for(&self.scenario.model.graph, plan.plan.wire, inputs);
                inputs.into_iter().collect()
            }
            Payload::Sizes(_) => Maps::new(),
        };
        let bound_ns = self.head.bound.map_or(0, |bound| bound.frame_ns);
        let frame = HeadFrame { submitted_ns, started_ns: None, bound_ns, maps };
        self.head.frames.insert(id, frame);
        self.head_handle(Input::Submit(id, plan), None);
    }
}

/// What tells one answer from another.
fn checksum(pieces: &Pieces) -> u64 {
    let mut hash = crate::fnv::Fnv::new();
    for (_, piece) in pieces {
        let chunks = piece.as_bytes().chunks(8);
        chunks.for_each(|c| hash.word(c.iter().fold(0, |word, &b| word << 8 | u64::from(b))));
    }
    hash.0
}
