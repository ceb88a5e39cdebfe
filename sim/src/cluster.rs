//! The clock: one event after another, in order of time, then of their making.

use crate::bound::Bound;
use crate::device::{Device, Kind};
use crate::events::{End, Event, Parcel, Sender};
use crate::fnv::Fnv;
use crate::head::Head;
use crate::invariants::{Invariants, Violation};
use crate::outcome::{DeviceOutcome, FrameOutcome, Outcome};
use crate::physics::{LinkSpec, Network, Priority, Transfer};
use crate::queue::{Queue, Timers};
use crate::random::Random;
use crate::record::Recorder;
use crate::scenario::{PairSpec, Payload, Sabotage, Scenario, Weights};
use kernels::Engine;
use protocol::{ActivePlan, BundleKind, Nanos, PlanId, SECOND};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How long late copies may go on after the last frame ended.
const SETTLE_NS: Nanos = 3600 * SECOND;

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
    pub(crate) network: Network<Event>,
    /// All plans that there were.
    pub(crate) plans: BTreeMap<PlanId, Arc<ActivePlan>>,
    pub(crate) bounds: BTreeMap<PlanId, Bound>,
    pub(crate) recorder: Recorder,
    /// Devices that the last step touched.
    pub(crate) touched: Vec<usize>,
    pub(crate) surveys: protocol::Surveys,
    /// When the last parcel of each control stream arrives: they keep their order.
    control: FxHashMap<(End, End), Nanos>,
    /// The same for bundles and blobs.
    bulk: FxHashMap<(End, End), Nanos>,
    events: Queue<Event>,
    timers: Timers,
    steps: u64,
    hash: Fnv,
    traced: bool,
}

impl Cluster {
    /// A cluster at time zero.
    ///
    /// *Panics* when this machine cannot run a kernel engine of one thread.
    pub fn new(scenario: Scenario) -> Self {
        let surveys = protocol::Surveys::default();
        let head = Head::new(&scenario);
        let cache = match scenario.weights {
            Weights::Nowhere => BTreeSet::new(),
            Weights::OnDisk | Weights::Packed => head.blobs(),
        };
        let specs = scenario.workers.iter().enumerate();
        let lies = scenario.sabotage == Sabotage::IgnoreMemory;
        let kind = Kind { lies, measures: scenario.measures_pairs };
        let devices: Vec<Device> =
            specs.map(|(i, spec)| Device::new(i, spec, &surveys, kind, cache.clone())).collect();
        let mut links: Vec<LinkSpec> = scenario.workers.iter().map(|w| w.link).collect();
        links.push(scenario.head_link);
        let mut network = Network::new(&links);
        scenario.pairs.iter().for_each(|pair| network.set_way(pair.workers, pair.bytes_per_s));
        let mut cluster = Self {
            now: 0,
            random: Random::new(scenario.seed),
            head,
            invariants: Invariants::default(),
            cut: BTreeSet::new(),
            engine: Engine::new(1).expect("an engine of one thread starts no thread"),
            violation: None,
            network,
            plans: BTreeMap::new(),
            bounds: BTreeMap::new(),
            recorder: Recorder::new(scenario.workers.iter().map(|w| w.name.clone())),
            touched: Vec::new(),
            surveys,
            control: FxHashMap::default(),
            bulk: FxHashMap::default(),
            events: Queue::new(),
            timers: Timers::new(devices.len() + 1),
            devices,
            steps: 0,
            hash: Fnv::new(),
            traced: false,
            scenario,
        };
        for i in 0..cluster.scenario.payload.frames() {
            let Scenario { frames_from_ns, frame_interval_ns, .. } = cluster.scenario;
            cluster.schedule(frames_from_ns + i as u64 * frame_interval_ns, Event::Submit(i));
        }
        for i in 0..cluster.scenario.faults.len() {
            cluster.schedule(cluster.scenario.faults[i].at_ns, Event::Fault(i));
        }
        for device in 0..cluster.devices.len() {
            let joins_ns = cluster.devices[device].spec.joins_ns;
            cluster.schedule(joins_ns, Event::Connect { device, life: 0 });
            if cluster.devices[device].spec.device.load.is_some() {
                cluster.schedule(joins_ns, Event::Load { device, on: false });
            }
        }
        cluster
    }

    /// Writes every event on stderr, to find out why a seed fails.
    pub fn traced(self) -> Self {
        Self { traced: true, ..self }
    }

    /// Keeps the timeline of the run.
    pub fn recorded(mut self) -> Self {
        self.recorder.keep = true;
        self
    }

    /// Whether tiles are really computed.
    pub(crate) fn has_values(&self) -> bool {
        matches!(self.scenario.payload, Payload::Values(_))
    }

    /// Runs until every frame has ended and nothing is left over.
    ///
    /// *Errors*: the first promise that was broken.
    pub fn run(self) -> Result<Outcome, Violation> {
        self.run_watched(|_| {})
    }

    /// As [`Cluster::run`]; `watch` is told the number of ended frames now and then.
    ///
    /// *Errors*: the first promise that was broken.
    pub fn run_watched(mut self, watch: impl FnMut(usize)) -> Result<Outcome, Violation> {
        let ended_ns = self.go_on(watch)?;
        Ok(self.outcome(ended_ns))
    }

    /// Runs until the end; tells when the last frame ended.
    fn go_on(&mut self, mut watch: impl FnMut(usize)) -> Result<Nanos, Violation> {
        let mut ended_ns = None;
        loop {
            let missing = self.head.missing;
            if missing == 0 {
                let ended = *ended_ns.get_or_insert(self.now);
                match self.leak() {
                    None => break,
                    Some(leak) if self.now > ended + SETTLE_NS => return Err(leak),
                    Some(_) => {}
                }
            }
            if let Some(violation) = self.overdue(missing, self.steps) {
                if self.traced {
                    eprintln!("{}", self.head.machine.describe());
                }
                return Err(violation);
            }
            if !self.step() {
                return Err(Violation::NeverEnded { missing, now_ns: self.now });
            }
            self.steps += 1;
            if self.scenario.checked
                && let Err(violation) = self.check(self.steps)
            {
                self.violation.get_or_insert(violation);
            }
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
            if self.steps.is_multiple_of(1 << 14) {
                watch(self.scenario.payload.frames() - missing);
            }
        }
        Ok(ended_ns.unwrap_or_default())
    }

    /// As [`Cluster::run`], and what the coordinator says in the end.
    #[cfg(test)]
    pub(crate) fn run_asking<T>(
        self,
        ask: impl FnOnce(&protocol::Coordinator) -> T,
    ) -> (Result<Outcome, Violation>, T) {
        let mut cluster = self;
        let ran = cluster.go_on(|_| {});
        let told = ask(&cluster.head.machine);
        (ran.map(|ended_ns| cluster.outcome(ended_ns)), told)
    }

    fn outcome(mut self, ended_ns: Nanos) -> Outcome {
        let started = self.head.first_scatter_ns.unwrap_or(0);
        let reports = self.head.machine.reports();
        let moved = self.network.moved().to_vec();
        let devices = self.devices.iter_mut().enumerate();
        let devices = devices.map(|(i, device)| {
            let report = reports.get(&device.id()).cloned().unwrap_or_default();
            DeviceOutcome::new(device, &report, &moved[i], ended_ns)
        });
        let devices = devices.collect();
        let bound = self.head.bound.unwrap_or_default();
        let frames: Vec<FrameOutcome> = self.head.times.iter().flatten().copied().collect();
        Outcome {
            makespan_ns: ended_ns.saturating_sub(started),
            ended_ns,
            reassigned: self.head.machine.reassigned(),
            counters: self.head.machine.counters(),
            steps: self.steps,
            event_hash: self.hash.0,
            bound,
            frames,
            failures: std::mem::take(&mut self.head.failures),
            multiply_adds: reports.values().map(|r| r.multiply_adds).sum(),
            model_multiply_adds: self.scenario.model.graph.multiply_adds(),
            head_sent_bytes: moved.last().map_or(0, |m| m.sent as u64),
            head_received_bytes: moved.last().map_or(0, |m| m.received as u64),
            devices,
            reports,
            plan: self.head.last_plan.clone(),
            traffic: self.recorder.traffic,
            timeline: self.recorder.timeline,
            outputs: self.head.outputs.into_iter().flatten().collect(),
        }
    }

    pub(crate) fn schedule(&mut self, at: Nanos, event: Event) {
        self.events.push(at, event);
    }

    /// Takes the next event, transfer or timer; false when nothing is to come.
    fn step(&mut self) -> bool {
        const NEVER: Nanos = Nanos::MAX;
        let event = self.events.next_at().unwrap_or(NEVER);
        let transfer = self.network.next_end().unwrap_or(NEVER);
        let honest = self.scenario.sabotage != Sabotage::NeverTick;
        let timer = self.timers.next_at().filter(|_| honest).unwrap_or(NEVER);
        let at = event.min(transfer).min(timer);
        if at == NEVER {
            return false;
        }
        self.now = self.now.max(at);
        if at == event {
            self.next_event();
        } else if at == transfer {
            self.next_transfers();
        } else {
            self.next_timer();
        }
        true
    }

    fn next_event(&mut self) {
        let Some((_, event)) = self.events.pop() else { return };
        if let Some(device) = event.device()
            && self.devices[device].stalled_until_ns > self.now
        {
            // It waits in the device's sockets, in order.
            return self.schedule(self.devices[device].stalled_until_ns, event);
        }
        event.digest(self.now, &mut self.hash);
        if self.traced {
            eprintln!("{:>14} {event:?}", self.now);
        }
        self.happen(event);
    }

    fn next_transfers(&mut self) {
        for transfer in self.network.ended(self.now) {
            let ends = (self.end(transfer.from), self.end(transfer.to));
            let way = self.one_way(ends.0, ends.1);
            let arrival = self.in_order(true, ends, self.now + way);
            self.recorder.moved(&transfer, arrival, self.devices.len());
            self.hash.words(&[self.now, 15, transfer.from as u64, transfer.to as u64]);
            self.left(&transfer.payload);
            self.schedule(arrival, transfer.payload);
        }
    }

    fn next_timer(&mut self) {
        let Some(end) = self.timers.pop() else { return };
        let (deadline, wakes_ns) = if end == self.devices.len() {
            (self.head.machine.next_deadline(), 0)
        } else {
            let device = &self.devices[end];
            let deadline = device.machine.next_deadline().filter(|_| device.up);
            (deadline, device.stalled_until_ns)
        };
        let Some(deadline) = deadline else { return };
        let at = deadline.max(wakes_ns);
        if at > self.now {
            return self.timers.arm(end, Some(at));
        }
        self.hash.words(&[self.now, 16, end as u64]);
        match self.end(end) {
            End::Head => self.head_handle(protocol::coordinator::Input::Tick, None),
            End::Device(i) => self.device_handle(i, protocol::worker::Input::Tick),
        }
    }

    /// Sets the timer of an end to what its machine wants now.
    pub(crate) fn arm(&mut self, end: End) {
        match end {
            End::Head => {
                self.timers.arm(self.devices.len(), self.head.machine.next_deadline());
            }
            End::Device(i) => self.timers.arm(i, self.devices[i].machine.next_deadline()),
        }
    }

    fn end(&self, index: usize) -> End {
        if index == self.devices.len() { End::Head } else { End::Device(index) }
    }

    pub(crate) fn index(&self, end: End) -> usize {
        match end {
            End::Head => self.devices.len(),
            End::Device(i) => i,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Submit(frame) => self.submit(frame),
            Event::Fault(fault) => self.strike(fault),
            Event::ToHead { from, session, parcel } => self.reach_head(from, session, parcel),
            Event::ToDevice { to, from, parcel } => self.reach_device(to, from, parcel),
            Event::Computed { device, life, job } => self.computed(device, life, job),
            Event::Sent { device, life, bytes } => self.sent(device, life, bytes),
            Event::Warm { device, life } => self.warm(device, life),
            Event::Load { device, on } => self.load(device, on),
            Event::Connect { device, life } => self.connect(device, life),
            Event::HeadLost { device, session } => self.head_lost(device, session),
            Event::DeviceLost { device, session } => self.device_lost(device, session),
            Event::PeerUp { device, life, peer, peer_life } => {
                self.peer_up(device, life, peer, peer_life);
            }
            Event::PeerLost { device, peer, peer_life } => self.peer_lost(device, peer, peer_life),
            Event::Unblock { device, at_ns } => self.unblock(device, at_ns),
            Event::Resubmit => self.resubmit(),
            Event::Roster => self.send_roster(),
        }
    }

    /// Puts what an event carries on its way; it happens when that arrives.
    pub(crate) fn transmit(&mut self, from: End, to: End, event: Event) {
        let (Event::ToHead { parcel, .. } | Event::ToDevice { parcel, .. }) = &event else {
            return;
        };
        if let (End::Device(a), End::Device(b)) = (from, to)
            && self.cut.contains(&(a.min(b), a.max(b)))
        {
            return self.lose_event(event, false);
        }
        let padding = match parcel {
            Parcel::Message(message) => message.padding(),
            _ => 0,
        };
        let bytes = parcel.bytes() + padding;
        let ends = (self.index(from), self.index(to));
        match parcel {
            Parcel::Message(message) => {
                self.invariants.accounted.message_sent(message);
                self.recorder.control(bytes);
                let rate = self.rate(from, to).max(1);
                let way = self.one_way(from, to) + bytes * SECOND / rate;
                let blocked = |end: usize| self.blocked_until(end);
                let at = (self.now + way).max(blocked(ends.0)).max(blocked(ends.1));
                let at = self.in_order(false, (from, to), at);
                self.schedule(at, event);
            }
            Parcel::Bundle(bundle, _) => {
                if bundle.kind != BundleKind::Exchange {
                    self.invariants.accounted.bundle_sent(bundle);
                }
                self.network.send(self.now, ends, Priority::Bundle, bytes, event);
            }
            Parcel::Blob(..) => self.network.send(self.now, ends, Priority::Blob, bytes, event),
        }
    }

    fn blocked_until(&self, end: usize) -> Nanos {
        self.devices.get(end).map_or(0, |d| d.blocked_until_ns)
    }

    fn in_order(&mut self, bulk: bool, ends: (End, End), at: Nanos) -> Nanos {
        let streams = if bulk { &mut self.bulk } else { &mut self.control };
        let last = streams.entry(ends).or_default();
        *last = (*last).max(at);
        *last
    }

    fn link_of(&self, end: End) -> &LinkSpec {
        match end {
            End::Head => &self.scenario.head_link,
            End::Device(i) => &self.devices[i].spec.link,
        }
    }

    fn rate(&self, from: End, to: End) -> u64 {
        let slower = self.link_of(from).send_bytes_per_s.min(self.link_of(to).receive_bytes_per_s);
        self.pair(from, to).map_or(slower, |pair| pair.bytes_per_s)
    }

    /// The way between two devices, where their links do not tell it.
    fn pair(&self, from: End, to: End) -> Option<&PairSpec> {
        let (End::Device(a), End::Device(b)) = (from, to) else { return None };
        self.scenario.pairs.iter().find(|p| [(a, b), (b, a)].contains(&p.workers))
    }

    /// Time that one packet is on its way.
    fn one_way(&mut self, from: End, to: End) -> Nanos {
        if let Some(round_trip) = self.pair(from, to).map(|pair| pair.round_trip) {
            // Of a link it is the way there and back, of which each of two devices has a part.
            return round_trip.one_way(&mut self.random);
        }
        let (a, b) = (self.link_of(from).round_trip, self.link_of(to).round_trip);
        a.one_way(&mut self.random) + b.one_way(&mut self.random)
    }

    /// Time that a packet usually is on its way: for what only the ends themselves see.
    pub(crate) fn usual_way(&self, from: End, to: End) -> Nanos {
        let way = |end: End| self.link_of(end).round_trip.usual_one_way();
        way(from) + way(to)
    }

    /// A parcel is off the wire: delivered or lost.
    pub(crate) fn landed(&mut self, parcel: &Parcel) {
        match parcel {
            Parcel::Message(message) => self.invariants.accounted.message_landed(message),
            Parcel::Bundle(bundle, _) if bundle.kind == BundleKind::Exchange => {}
            Parcel::Bundle(bundle, _) => self.invariants.accounted.bundle_landed(bundle),
            Parcel::Blob(..) => {}
        }
    }

    /// The world lost a parcel; `sent` when it was on the wire.
    pub(crate) fn lose(&mut self, parcel: &Parcel, sent: bool) {
        if sent {
            self.landed(parcel);
        }
        if let Parcel::Bundle(bundle, _) = parcel
            && bundle.kind != BundleKind::Exchange
        {
            self.invariants.accounted.lose(bundle);
        }
    }

    pub(crate) fn lose_event(&mut self, event: Event, sent: bool) {
        self.left(&event);
        if let Event::ToHead { parcel, .. } | Event::ToDevice { parcel, .. } = event {
            self.lose(&parcel, sent);
        }
    }

    /// What an event carries is off its device, or lost with the connection.
    fn left(&mut self, event: &Event) {
        if let Event::ToHead { from, parcel: Parcel::Bundle(bundle, _), .. } = event {
            self.result_left(*from, bundle.unsent_bytes());
        }
    }

    /// What was queued between two ends is gone with their connection.
    pub(crate) fn drop_transfers(&mut self, which: impl Fn(usize, usize) -> bool) {
        for event in self.network.drop_where(self.now, which) {
            self.lose_event(event, true);
        }
    }
}

impl Recorder {
    fn moved(&mut self, transfer: &Transfer<Event>, arrival: Nanos, head: usize) {
        let device = if transfer.to == head { transfer.from } else { transfer.to };
        let (Event::ToHead { parcel, .. } | Event::ToDevice { parcel, .. }) = &transfer.payload
        else {
            return;
        };
        let peer = matches!(transfer.payload, Event::ToDevice { from: Sender::Peer { .. }, .. });
        let started = transfer.started_ns.unwrap_or(transfer.queued_ns);
        self.transfer(device, parcel, transfer.to == head, peer, (started, arrival));
    }
}
