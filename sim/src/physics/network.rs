//! Transfers share wires and air: max-min fair flows over the ports and access points they cross.
//!
//! Every resource is time: a flow of `x` bytes a second uses `x / rate` of a port, and the shares on
//! one resource add up to one at most. A port of a full-duplex wire is two resources, of a
//! half-duplex bus (the USB Ethernet of a Pi 3B+) one. All stations of an access point share its
//! air, in both directions, so that what one station sends another uses it twice. Rates are raised
//! together until a resource is full; its flows are settled then, and the others go on.
//!
//! *Sources*: Bertsekas and Gallager, Data Networks, 1992, section 6.5.2 (max-min fairness);
//! SimGrid's Wi-Fi zone, one link whose load is the sum of bytes / rate (hal-03777726); rate-fair or
//! airtime-fair stations: Heusse et al., INFOCOM 2003, and arXiv 1703.00064. Emulated with `tbf` the
//! fluid model was within 1 % for transfers over 200 kB.

mod flows;

use super::RoundTrip;
use flows::{Flow, FlowId, Flows};
use protocol::{Nanos, SECOND};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, VecDeque};

/// What a link goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Medium {
    /// A port of its own on the switch, both directions at once.
    Wire,
    /// A port whose two directions share one bus.
    HalfDuplexWire,
    /// The air of an access point, by number.
    Air(u32),
}

impl Medium {
    /// The access point whose air it is, if it is one's.
    pub fn air(self) -> Option<u32> {
        match self {
            Medium::Air(point) => Some(point),
            Medium::Wire | Medium::HalfDuplexWire => None,
        }
    }
}

/// A device's link to its switch or access point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSpec {
    /// What it goes through.
    pub medium: Medium,
    /// What it carries from the device.
    pub send_bytes_per_s: u64,
    /// What it carries to the device.
    pub receive_bytes_per_s: u64,
    /// How long a packet is on its way.
    pub round_trip: RoundTrip,
    /// Time in the medium that each bundle costs on top of its bytes.
    pub message_ns: Nanos,
    /// Stations get equal time in the air rather than equal rates.
    pub airtime_fair: bool,
}

impl LinkSpec {
    /// A wire with an even latency: for tests.
    pub fn wire(latency_ns: Nanos, bytes_per_s: u64, jitter_ns: Nanos) -> Self {
        Self {
            medium: Medium::Wire,
            send_bytes_per_s: bytes_per_s,
            receive_bytes_per_s: bytes_per_s,
            round_trip: RoundTrip::even(2 * latency_ns, 2 * (latency_ns + jitter_ns)),
            message_ns: 0,
            airtime_fair: false,
        }
    }

    /// Fast enough never to matter.
    pub fn unlimited() -> Self {
        Self::wire(0, 100_000_000_000, 0)
    }
}

impl Default for LinkSpec {
    fn default() -> Self {
        Self::wire(200_000, 12_500_000, 300_000)
    }
}

/// What goes first between two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Before blobs, even one that has begun.
    Bundle,
    /// When no bundle waits.
    Blob,
}

/// Something on its way, with what it carries.
#[derive(Debug)]
pub(crate) struct Transfer<P> {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) queued_ns: Nanos,
    pub(crate) started_ns: Option<Nanos>,
    left: f64,
    pub(crate) payload: P,
}

/// The part of a resource's time that one byte takes, in nanoseconds.
type Use = (usize, f64);

#[derive(Debug)]
struct Stream<P> {
    bundles: VecDeque<Transfer<P>>,
    blobs: VecDeque<Transfer<P>>,
    /// The first of them moves.
    flow: Option<FlowId>,
}

impl<P> Stream<P> {
    fn first(&mut self) -> Option<&mut Transfer<P>> {
        match self.bundles.is_empty() {
            false => self.bundles.front_mut(),
            true => self.blobs.front_mut(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Port {
    send: Use,
    receive: Use,
    air: Option<usize>,
    message_ns: Nanos,
    airtime_fair: bool,
}

/// What one end moved.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Moved {
    pub(crate) sent: f64,
    pub(crate) received: f64,
    /// Time of its medium that it used, in nanoseconds.
    pub(crate) medium_ns: f64,
}

/// All transfers between all ends.
#[derive(Debug)]
pub(crate) struct Network<P> {
    ports: Vec<Port>,
    /// Bytes a nanosecond between two ends, the smaller first, where their links do not tell.
    ways: BTreeMap<(usize, usize), f64>,
    streams: FxHashMap<(u32, u32), Stream<P>>,
    flows: Flows,
    now: Nanos,
}

impl<P> Network<P> {
    /// A network of these links, one for each end.
    pub(crate) fn new(links: &[LinkSpec]) -> Self {
        let mut resources = 0;
        let mut airs: BTreeMap<u32, usize> = BTreeMap::new();
        let mut fresh = || {
            resources += 1;
            resources - 1
        };
        let mut ports = Vec::with_capacity(links.len());
        for link in links {
            let cost = |bytes_per_s: u64| SECOND as f64 / bytes_per_s.max(1) as f64;
            let (out, back) = (cost(link.send_bytes_per_s), cost(link.receive_bytes_per_s));
            let (send, receive, air) = match link.medium {
                Medium::Wire => (fresh(), fresh(), None),
                Medium::HalfDuplexWire => {
                    let bus = fresh();
                    (bus, bus, None)
                }
                Medium::Air(point) => {
                    let air = *airs.entry(point).or_insert_with(&mut fresh);
                    (air, air, Some(air))
                }
            };
            let (message_ns, airtime_fair) = (link.message_ns, link.airtime_fair);
            let (send, receive) = ((send, out), (receive, back));
            ports.push(Port { send, receive, air, message_ns, airtime_fair });
        }
        let flows = Flows::new(ports.len(), resources);
        Self { ports, ways: BTreeMap::new(), streams: FxHashMap::default(), flows, now: 0 }
    }

    /// Between two ends so much is carried each way, whatever their links carry. Where that is more
    /// than the air does, they are taken not to use the air.
    pub(crate) fn set_way(&mut self, (a, b): (usize, usize), bytes_per_s: u64) {
        let rate = bytes_per_s.max(1) as f64 / SECOND as f64;
        self.ways.insert((a.min(b), a.max(b)), rate);
    }

    /// What each end moved so far.
    pub(crate) fn moved(&mut self) -> &[Moved] {
        self.flows.moved(self.now)
    }

    /// Transfers under way or queued.
    #[cfg(test)]
    fn pending(&self) -> usize {
        self.streams.values().map(|s| s.bundles.len() + s.blobs.len()).sum()
    }

    /// Queues a transfer.
    pub(crate) fn send(
        &mut self,
        now: Nanos,
        (from, to): (usize, usize),
        priority: Priority,
        bytes: u64,
        payload: P,
    ) {
        self.advance(now);
        let (source, target) = (&self.ports[from], &self.ports[to]);
        let access =
            source.message_ns as f64 / source.send.1 + target.message_ns as f64 / target.receive.1;
        let left = bytes as f64 + access;
        let (queued_ns, started_ns) = (now, None);
        let transfer = Transfer { from, to, queued_ns, started_ns, left, payload };
        let key = (from as u32, to as u32);
        let fresh = || Stream { bundles: VecDeque::new(), blobs: VecDeque::new(), flow: None };
        let stream = self.streams.entry(key).or_insert_with(fresh);
        let preempts = priority == Priority::Bundle && stream.bundles.is_empty();
        match priority {
            Priority::Bundle => stream.bundles.push_back(transfer),
            Priority::Blob => stream.blobs.push_back(transfer),
        }
        if preempts && let Some(flow) = stream.flow.take() {
            let left = self.flows.stop(now, flow);
            if let Some(blob) = stream.blobs.front_mut() {
                blob.left = left;
            }
        }
        self.start(key, now);
    }

    fn advance(&mut self, now: Nanos) {
        if now > self.now {
            // What began or ended at the old time has its effect from then on.
            self.flows.next_end(self.now);
            self.now = now;
        }
    }

    fn start(&mut self, key: (u32, u32), now: Nanos) {
        let Some(stream) = self.streams.get_mut(&key).filter(|s| s.flow.is_none()) else { return };
        let Some(transfer) = stream.first() else { return };
        transfer.started_ns.get_or_insert(now);
        let left = transfer.left;
        let (source, target) = (&self.ports[key.0 as usize], &self.ports[key.1 as usize]);
        let (mut first, mut second) = (source.send, target.receive);
        let (from, to) = (key.0 as usize, key.1 as usize);
        let way = self.ways.get(&(from.min(to), from.max(to))).copied();
        if let Some(rate) = way {
            for (end, port) in [(&mut first, source), (&mut second, target)] {
                if rate > 1.0 / end.1 {
                    end.1 = if port.air.is_some() { 0.0 } else { 1.0 / rate };
                }
            }
        }
        if first.0 == second.0 {
            // From station to station: the same air, twice.
            (first.1, second) = (first.1 + second.1, (first.0, 0.0));
        }
        let in_air = |port: &Port, cost: f64| (port.air.is_some() && port.airtime_fair, cost);
        let weight = match (in_air(source, first.1), in_air(target, second.1)) {
            ((true, cost), _) | (_, (true, cost)) if cost > 0.0 => 1.0 / cost,
            _ => 1.0,
        };
        let uses = [first, second];
        let mut flow = Flow::new(key, uses, weight, left);
        flow.most = way.unwrap_or(f64::INFINITY);
        stream.flow = Some(self.flows.start(now, flow));
    }

    /// Nothing moves to or from an end, or it does again.
    pub(crate) fn block(&mut self, now: Nanos, end: usize, blocked: bool) {
        self.advance(now);
        let port = &self.ports[end];
        self.flows.block(end, [port.send.0, port.receive.0], blocked);
    }

    /// Forgets the transfers that `which` names (from, to), and gives back what they carried.
    pub(crate) fn drop_where(
        &mut self,
        now: Nanos,
        which: impl Fn(usize, usize) -> bool,
    ) -> Vec<P> {
        self.advance(now);
        let keys = self.streams.keys().copied();
        let mut gone: Vec<(u32, u32)> =
            keys.filter(|&(from, to)| which(from as usize, to as usize)).collect();
        gone.sort_unstable();
        let mut dropped = Vec::new();
        for key in gone {
            let Some(stream) = self.streams.remove(&key) else { continue };
            dropped.extend(stream.bundles.into_iter().chain(stream.blobs).map(|t| t.payload));
            if let Some(flow) = stream.flow {
                self.flows.stop(now, flow);
            }
        }
        dropped
    }

    /// When the next transfer ends, if nothing else happens.
    pub(crate) fn next_end(&mut self) -> Option<Nanos> {
        self.flows.next_end(self.now)
    }

    /// The transfers that have ended by now.
    pub(crate) fn ended(&mut self, now: Nanos) -> Vec<Transfer<P>> {
        self.advance(now);
        let mut done = Vec::new();
        for (key, flow) in self.flows.ended(now) {
            self.flows.stop(now, flow);
            let stream = self.streams.get_mut(&key).expect("a flow has its stream");
            stream.flow = None;
            done.extend(stream.bundles.pop_front().or_else(|| stream.blobs.pop_front()));
            self.start(key, now);
        }
        done
    }
}

#[cfg(test)]
mod tests;
