//! The clock: one event after another, in order of time, then of their making.

use crate::device::{Device, Outcome as Computed};
use crate::head::Head;
use crate::invariants::{Invariants, Violation};
use crate::link::{End, Lane, Links, joined};
use crate::random::Random;
use crate::scenario::{LinkSpec, Sabotage, Scenario};
use kernels::{Engine, Pieces};
use model::WeightHash;
use protocol::{Bundle, Message, Nanos, SECOND, WorkerId, WorkerReport};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Far more steps than any small run takes.
const STEPS_MAX: u64 = 2_000_000;

/// How long late copies may go on after the last frame ended.
const SETTLE_NS: Nanos = 3600 * SECOND;

/// What travels.
#[derive(Clone, Debug)]
pub(crate) enum Parcel {
    Message(Message),
    Bundle(Bundle, Pieces),
    Blob(WeightHash, u64),
}

/// What happens. A `life` counts the processes of a device, a `session` its connections to the
/// coordinator: what belongs to an earlier one is lost.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Submit(usize),
    Fault(usize),
    ToHead { from: usize, session: u32, parcel: Parcel },
    ToDevice { to: usize, from: Sender, parcel: Parcel },
    Computed { device: usize, life: u32, outcome: Computed },
    Connect { device: usize, life: u32 },
    HeadLost { device: usize, session: u32 },
    DeviceLost { device: usize, session: u32 },
    PeerUp { device: usize, life: u32, peer: usize, peer_life: u32 },
    PeerLost { device: usize, peer: usize, peer_life: u32 },
}

/// Who sent something to a device, and which of the device's lives or sessions it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    Head { session: u32 },
    Peer { peer: usize, life: u32 },
}

impl Event {
    /// The device on which it happens.
    fn device(&self) -> Option<usize> {
        match self {
            Event::ToDevice { to: device, .. }
            | Event::Computed { device, .. }
            | Event::Connect { device, .. }
            | Event::DeviceLost { device, .. }
            | Event::PeerUp { device, .. }
            | Event::PeerLost { device, .. } => Some(*device),
            Event::Submit(_) | Event::Fault(_) => None,
            Event::ToHead { .. } | Event::HeadLost { .. } => None,
        }
    }
}

/// What came of a run in which every promise was kept.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The output maps of each frame.
    pub outputs: Vec<Pieces>,
    /// From the first scatter to the last frame's end.
    pub makespan_ns: Nanos,
    /// What each worker did, as the coordinator counts.
    pub reports: BTreeMap<WorkerId, WorkerReport>,
    /// Tasks issued again.
    pub reassigned: u64,
    /// Steps taken.
    pub steps: u64,
    /// A hash of everything that happened, in order.
    pub event_hash: u64,
}

impl Outcome {
    /// Tasks that were gathered from a thief.
    pub fn stolen(&self) -> u64 {
        self.reports.values().map(|r| r.stolen).sum()
    }
}

/// A simulated cluster.
pub struct Cluster {
    pub(crate) scenario: Scenario,
    pub(crate) now: Nanos,
    pub(crate) random: Random,
    pub(crate) head: Head,
    pub(crate) devices: Vec<Device>,
    pub(crate) invariants: Invariants,
    pub(crate) cut: BTreeSet<(usize, usize)>,
    pub(crate) engine: Engine,
    pub(crate) violation: Option<Violation>,
    links: Links,
    // A map rather than a heap: it pops in the same order, and needs no ordering of events.
    events: BTreeMap<(Nanos, u64), Event>,
    sequence: u64,
    steps: u64,
    hash: Fnv,
    traced: bool,
}

/// FNV-1a over what is written to it.
struct Fnv(u64);

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

impl Cluster {
    /// A cluster at time zero.
    ///
    /// *Panics* when this machine cannot run a kernel engine of one thread.
    pub fn new(scenario: Scenario) -> Self {
        let specs = scenario.workers.iter().enumerate();
        let devices: Vec<Device> = specs.map(|(i, spec)| Device::new(i, spec)).collect();
        let mut cluster = Self {
            now: 0,
            random: Random::new(scenario.seed),
            head: Head::new(&scenario),
            devices,
            invariants: Invariants::default(),
            cut: BTreeSet::new(),
            engine: Engine::new(1).expect("an engine of one thread starts no thread"),
            violation: None,
            links: Links::default(),
            events: BTreeMap::new(),
            sequence: 0,
            steps: 0,
            hash: Fnv(0xcbf2_9ce4_8422_2325),
            traced: false,
            scenario,
        };
        for i in 0..cluster.scenario.frames.len() {
            cluster.schedule(i as u64 * cluster.scenario.frame_interval_ns, Event::Submit(i));
        }
        for i in 0..cluster.scenario.faults.len() {
            cluster.schedule(cluster.scenario.faults[i].at_ns, Event::Fault(i));
        }
        for device in 0..cluster.devices.len() {
            let joins_ns = cluster.devices[device].spec.joins_ns;
            cluster.schedule(joins_ns, Event::Connect { device, life: 0 });
        }
        cluster
    }

    /// Writes every event on stderr, to find out why a seed fails.
    pub fn traced(self) -> Self {
        Self { traced: true, ..self }
    }

    /// Runs until every frame has ended and nothing is left over.
    ///
    /// *Errors*: the first promise that was broken.
    pub fn run(mut self) -> Result<Outcome, Violation> {
        let mut ended_ns = None;
        loop {
            let missing = self.head.missing();
            if missing == 0 {
                let ended = *ended_ns.get_or_insert(self.now);
                match self.leak() {
                    None => break,
                    Some(leak) if self.now > ended + SETTLE_NS => return Err(leak),
                    Some(_) => {}
                }
            } else if self.now > self.scenario.patience_ns {
                return Err(Violation::NeverEnded { missing, now_ns: self.now });
            }
            if !self.step() {
                return Err(Violation::NeverEnded { missing, now_ns: self.now });
            }
            self.steps += 1;
            self.check();
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
            if self.steps > STEPS_MAX {
                return Err(Violation::Livelock { steps: self.steps, now_ns: self.now });
            }
        }
        let started = self.head.first_scatter_ns.unwrap_or(0);
        Ok(Outcome {
            makespan_ns: ended_ns.unwrap_or(self.now).saturating_sub(started),
            reports: self.head.machine.reports(),
            reassigned: self.head.machine.reassigned(),
            steps: self.steps,
            event_hash: self.hash.0,
            outputs: self.head.outputs.into_iter().flatten().collect(),
        })
    }

    pub(crate) fn schedule(&mut self, at: Nanos, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    /// Takes the next event or deadline; false when nothing is to come.
    fn step(&mut self) -> bool {
        let next = self.events.first_key_value().map(|(&(at, _), _)| at);
        if let Some((at, end)) = self.earliest_deadline()
            && next.is_none_or(|next| at < next)
        {
            self.now = self.now.max(at);
            self.note(&("tick", end));
            match end {
                End::Head => self.head_handle(protocol::coordinator::Input::Tick, None),
                End::Device(i) => self.device_handle(i, protocol::worker::Input::Tick),
            }
            return true;
        }
        let Some(((at, _), event)) = self.events.pop_first() else { return false };
        self.now = self.now.max(at);
        if let Some(device) = event.device()
            && self.devices[device].stalled_until_ns > self.now
        {
            // It waits in the device's sockets, in order.
            self.schedule(self.devices[device].stalled_until_ns, event);
            return true;
        }
        self.note(&event);
        self.happen(event);
        true
    }

    fn earliest_deadline(&self) -> Option<(Nanos, End)> {
        if self.scenario.sabotage == Sabotage::NeverTick {
            return None;
        }
        let head = self.head.machine.next_deadline().map(|at| (at, End::Head));
        let devices = self.devices.iter().enumerate().filter(|(_, d)| d.up);
        let devices = devices.filter_map(|(i, d)| {
            let at = d.machine.next_deadline()?;
            Some((at.max(d.stalled_until_ns), End::Device(i)))
        });
        head.into_iter().chain(devices).min()
    }

    fn note(&mut self, event: &impl std::fmt::Debug) {
        let _ = write!(self.hash, "{} {event:?}", self.now);
        if self.traced {
            eprintln!("{:>14} {event:?}", self.now);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Submit(frame) => self.submit(frame),
            Event::Fault(fault) => self.strike(fault),
            Event::ToHead { from, session, parcel } => self.reach_head(from, session, parcel),
            Event::ToDevice { to, from, parcel } => self.reach_device(to, from, parcel),
            Event::Computed { device, life, outcome } => self.computed(device, life, outcome),
            Event::Connect { device, life } => self.connect(device, life),
            Event::HeadLost { device, session } => self.head_lost(device, session),
            Event::DeviceLost { device, session } => self.device_lost(device, session),
            Event::PeerUp { device, life, peer, peer_life } => {
                self.peer_up(device, life, peer, peer_life);
            }
            Event::PeerLost { device, peer, peer_life } => self.peer_lost(device, peer, peer_life),
        }
    }

    fn check(&mut self) {
        let has = |worker: WorkerId, task, attempt| {
            let i = worker.0 as usize;
            let (device, head) = (&self.devices[i], &self.head);
            let in_touch =
                device.up && device.session == head.sessions[i] && device.session == head.joined[i];
            !in_touch || device.inputs.contains_key(&(task, attempt))
        };
        let held = self.head.machine.held();
        let checked = self.invariants.check(held, &self.scenario.machine, has);
        if let Err(violation) = checked {
            self.violation.get_or_insert(violation);
        }
    }

    /// Who still holds something, once all frames ended.
    fn leak(&self) -> Option<Violation> {
        let frames = self.head.frames.len();
        if frames > 0 {
            return Some(Violation::Leak { holder: "the coordinator".into(), tasks: frames });
        }
        let device = self.devices.iter().find(|d| d.up && !d.inputs.is_empty())?;
        Some(Violation::Leak { holder: device.id().to_string(), tasks: device.inputs.len() })
    }

    /// Puts a parcel on its way.
    pub(crate) fn transmit(&mut self, from: End, to: End, parcel: Parcel, event: Event) {
        let (lane, bytes) = match &parcel {
            Parcel::Message(message) => {
                self.invariants.sent_message(message);
                let stages = match message {
                    Message::Announce { body, .. } => body.stages.len() as u64,
                    _ => 0,
                };
                (Lane::Control, 64 + 32 * stages)
            }
            Parcel::Bundle(bundle, _) => {
                self.invariants.sent_bundle(bundle);
                (Lane::Bulk, 64 + bundle.byte_len().unwrap_or(0) as u64)
            }
            Parcel::Blob(_, bytes) => (Lane::Bulk, 64 + bytes),
        };
        if let (End::Device(a), End::Device(b)) = (from, to)
            && self.cut.contains(&(a.min(b), a.max(b)))
        {
            return self.lose(&parcel);
        }
        let link = self.link(from, to);
        let stream = (from, to, lane);
        let at = self.links.arrival(self.now, stream, (bytes, link), &mut self.random);
        self.schedule(at, event);
    }

    pub(crate) fn link(&self, from: End, to: End) -> LinkSpec {
        match (from, to) {
            (End::Device(a), End::Device(b)) => {
                joined(self.devices[a].spec.link, self.devices[b].spec.link)
            }
            (End::Device(i), End::Head) | (End::Head, End::Device(i)) => self.devices[i].spec.link,
            (End::Head, End::Head) => LinkSpec::default(),
        }
    }

    /// A parcel is off the wire: delivered or lost.
    pub(crate) fn landed(&mut self, parcel: &Parcel) {
        match parcel {
            Parcel::Message(message) => self.invariants.message_left_the_wire(message),
            Parcel::Bundle(bundle, _) => self.invariants.bundle_left_the_wire(bundle),
            Parcel::Blob(..) => {}
        }
    }

    /// The world lost a parcel.
    pub(crate) fn lose(&mut self, parcel: &Parcel) {
        self.landed(parcel);
        if let Parcel::Bundle(bundle, _) = parcel {
            self.invariants.lost(bundle);
        }
    }
}
