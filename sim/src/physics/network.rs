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

use super::RoundTrip;
use protocol::{Nanos, SECOND};
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
struct Flow {
    key: (u32, u32),
    uses: [Use; 2],
    weight: f64,
    /// Bytes a nanosecond.
    rate: f64,
    left: f64,
    settled: bool,
}

#[derive(Debug)]
struct Stream<P> {
    bundles: VecDeque<Transfer<P>>,
    blobs: VecDeque<Transfer<P>>,
    flowing: bool,
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
    blocked: bool,
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
    streams: BTreeMap<(u32, u32), Stream<P>>,
    flows: Vec<Flow>,
    moved: Vec<Moved>,
    now: Nanos,
    dirty: bool,
    next_end: Option<Nanos>,
    // Of each resource, while rates are worked out.
    load: Vec<f64>,
    spare: Vec<f64>,
    blocked_flows: Vec<u32>,
}

/// Less than this is nothing: half a byte.
const CRUMB: f64 = 0.5;

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
            ports.push(Port { send, receive, air, message_ns, airtime_fair, blocked: false });
        }
        Self {
            moved: vec![Moved::default(); ports.len()],
            ports,
            streams: BTreeMap::new(),
            flows: Vec::new(),
            now: 0,
            dirty: false,
            next_end: None,
            load: vec![0.0; resources],
            spare: vec![0.0; resources],
            blocked_flows: vec![0; resources],
        }
    }

    /// What each end moved so far.
    pub(crate) fn moved(&self) -> &[Moved] {
        &self.moved
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
        self.settle(now);
        let (source, target) = (&self.ports[from], &self.ports[to]);
        let access =
            source.message_ns as f64 / source.send.1 + target.message_ns as f64 / target.receive.1;
        let left = bytes as f64 + access;
        let (queued_ns, started_ns) = (now, None);
        let transfer = Transfer { from, to, queued_ns, started_ns, left, payload };
        let key = (from as u32, to as u32);
        let fresh = || Stream { bundles: VecDeque::new(), blobs: VecDeque::new(), flowing: false };
        let stream = self.streams.entry(key).or_insert_with(fresh);
        let preempts = priority == Priority::Bundle && stream.bundles.is_empty() && stream.flowing;
        match priority {
            Priority::Bundle => stream.bundles.push_back(transfer),
            Priority::Blob => stream.blobs.push_back(transfer),
        }
        if preempts {
            let flow = self.flows.iter().position(|f| f.key == key).expect("a stream flows once");
            let flow = self.flows.swap_remove(flow);
            if let Some(blob) = stream.blobs.front_mut() {
                blob.left = flow.left;
            }
            stream.flowing = false;
        }
        self.start(key, now);
    }

    fn start(&mut self, key: (u32, u32), now: Nanos) {
        let Some(stream) = self.streams.get_mut(&key).filter(|s| !s.flowing) else { return };
        let Some(transfer) = stream.first() else { return };
        transfer.started_ns.get_or_insert(now);
        let left = transfer.left;
        stream.flowing = true;
        let (source, target) = (&self.ports[key.0 as usize], &self.ports[key.1 as usize]);
        let (mut first, mut second) = (source.send, target.receive);
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
        self.flows.push(Flow { key, uses, weight, rate: 0.0, left, settled: false });
        self.dirty = true;
    }

    /// Nothing moves to or from an end, or it does again.
    pub(crate) fn block(&mut self, now: Nanos, end: usize, blocked: bool) {
        self.settle(now);
        self.ports[end].blocked = blocked;
        self.dirty = true;
    }

    /// Forgets the transfers that `which` names (from, to), and gives back what they carried.
    pub(crate) fn drop_where(
        &mut self,
        now: Nanos,
        which: impl Fn(usize, usize) -> bool,
    ) -> Vec<P> {
        self.settle(now);
        let gone: Vec<(u32, u32)> = self
            .streams
            .keys()
            .copied()
            .filter(|&(from, to)| which(from as usize, to as usize))
            .collect();
        let mut dropped = Vec::new();
        for key in gone {
            if let Some(stream) = self.streams.remove(&key) {
                dropped.extend(stream.bundles.into_iter().chain(stream.blobs).map(|t| t.payload));
            }
            self.flows.retain(|f| f.key != key);
            self.dirty = true;
        }
        dropped
    }

    /// When the next transfer ends, if nothing else happens.
    pub(crate) fn next_end(&mut self) -> Option<Nanos> {
        if self.dirty {
            self.share_out();
        }
        self.next_end
    }

    /// The transfers that have ended by now.
    pub(crate) fn ended(&mut self, now: Nanos) -> Vec<Transfer<P>> {
        self.settle(now);
        let mut done = Vec::new();
        let mut i = 0;
        while i < self.flows.len() {
            if self.flows[i].left > CRUMB {
                i += 1;
                continue;
            }
            let flow = self.flows.swap_remove(i);
            let stream = self.streams.get_mut(&flow.key).expect("a flow has its stream");
            let ended = match stream.bundles.pop_front() {
                Some(bundle) => Some(bundle),
                None => stream.blobs.pop_front(),
            };
            stream.flowing = false;
            done.extend(ended);
            self.dirty = true;
            // It goes to the end of the list, so that this loop comes to it.
            self.start(flow.key, now);
        }
        if done.is_empty() {
            // Rounding left a crumb more: look again.
            self.dirty = true;
        }
        done.sort_by_key(|t| (t.from, t.to));
        done
    }

    /// Lets time pass at the rates that hold.
    fn settle(&mut self, now: Nanos) {
        if now <= self.now {
            return;
        }
        if self.dirty {
            self.share_out();
        }
        let passed = (now - self.now) as f64;
        self.now = now;
        for flow in &mut self.flows {
            let bytes = (flow.rate * passed).min(flow.left);
            flow.left -= bytes;
            let (from, to) = (flow.key.0 as usize, flow.key.1 as usize);
            self.moved[from].sent += bytes;
            self.moved[from].medium_ns += bytes * flow.uses[0].1;
            self.moved[to].received += bytes;
            self.moved[to].medium_ns += bytes * flow.uses[1].1;
        }
    }

    /// Works out the rate of every flow.
    ///
    /// In each round the resources that are the tightest for all of their flows are filled; the
    /// flows of the others wait for the next round, when they know what is left.
    fn share_out(&mut self) {
        self.dirty = false;
        self.spare.fill(1.0);
        let mut open = 0usize;
        for flow in &mut self.flows {
            let (from, to) = (flow.key.0 as usize, flow.key.1 as usize);
            flow.rate = 0.0;
            flow.settled = self.ports[from].blocked || self.ports[to].blocked;
            open += usize::from(!flow.settled);
        }
        while open > 0 {
            self.load.fill(0.0);
            self.blocked_flows.fill(0);
            for flow in self.flows.iter().filter(|f| !f.settled) {
                for (resource, cost) in flow.uses {
                    self.load[resource] += cost * flow.weight;
                }
            }
            let level = |resource: usize, load: &[f64], spare: &[f64]| {
                if load[resource] > 0.0 { spare[resource] / load[resource] } else { f64::INFINITY }
            };
            // A resource has to wait while one of its flows is tighter elsewhere.
            for flow in self.flows.iter().filter(|f| !f.settled) {
                let levels = flow.uses.map(|(r, _)| level(r, &self.load, &self.spare));
                let tightest = levels[0].min(levels[1]);
                for ((resource, _), level) in flow.uses.into_iter().zip(levels) {
                    self.blocked_flows[resource] += u32::from(level > tightest);
                }
            }
            let before = open;
            for i in 0..self.flows.len() {
                if self.flows[i].settled {
                    continue;
                }
                let uses = self.flows[i].uses;
                let levels = uses.map(|(r, _)| level(r, &self.load, &self.spare));
                let tightest = levels[0].min(levels[1]);
                let fills = uses.iter().zip(levels).any(|(&(resource, _), level)| {
                    level <= tightest && self.blocked_flows[resource] == 0
                });
                if fills {
                    let flow = &mut self.flows[i];
                    flow.rate = tightest * flow.weight;
                    flow.settled = true;
                    open -= 1;
                    // Marks it for the subtraction below: its rate is final.
                    flow.weight = -flow.weight;
                }
            }
            for flow in self.flows.iter_mut().filter(|f| f.weight < 0.0) {
                flow.weight = -flow.weight;
                for (resource, cost) in flow.uses {
                    self.spare[resource] = (self.spare[resource] - cost * flow.rate).max(0.0);
                }
            }
            assert!(open < before, "some resource is the tightest of all");
        }
        let now = self.now;
        let ends = self.flows.iter().filter(|f| f.rate > 0.0).map(|f| {
            let wait = (f.left - CRUMB / 2.0).max(0.0) / f.rate;
            now.saturating_add(wait as Nanos + 1)
        });
        self.next_end = ends.min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn air(point: u32, bytes_per_s: u64) -> LinkSpec {
        LinkSpec { medium: Medium::Air(point), ..LinkSpec::wire(0, bytes_per_s, 0) }
    }

    /// When each of these transfers of 1 MB ends, all queued at zero.
    fn ends(links: &[LinkSpec], transfers: &[(usize, usize)]) -> Vec<f64> {
        let mut network = Network::new(links);
        for (i, &pair) in transfers.iter().enumerate() {
            network.send(0, pair, Priority::Bundle, MB, i);
        }
        let mut ends = vec![0.0; transfers.len()];
        while let Some(at) = network.next_end() {
            for done in network.ended(at) {
                ends[done.payload] = at as f64 / 1e6;
            }
        }
        assert_eq!(network.pending(), 0);
        ends
    }

    fn near(got: &[f64], expected_ms: &[f64]) {
        let close = got.iter().zip(expected_ms).all(|(a, b)| (a - b).abs() < 0.01);
        assert!(close && got.len() == expected_ms.len(), "{got:?}, expected {expected_ms:?}");
    }

    #[test]
    fn a_full_duplex_wire_carries_both_directions_at_once_and_a_bus_does_not() {
        let wire = LinkSpec::wire(0, 10 * MB, 0);
        let bus = LinkSpec { medium: Medium::HalfDuplexWire, ..wire };
        near(&ends(&[wire, wire], &[(0, 1), (1, 0)]), &[100.0, 100.0]);
        near(&ends(&[bus, wire], &[(0, 1), (1, 0)]), &[200.0, 200.0]);
    }

    #[test]
    fn a_port_is_shared_evenly_and_what_one_cannot_use_the_others_get() {
        let fast = LinkSpec::wire(0, 10 * MB, 0);
        let slow = LinkSpec::wire(0, 2 * MB, 0);
        near(&ends(&[fast; 3], &[(0, 1), (0, 2)]), &[200.0, 200.0]);
        // The slow one takes 2 of 10 MB/s, the fast one the 8 that are left.
        near(&ends(&[fast, slow, fast], &[(0, 1), (0, 2)]), &[500.0, 125.0]);
    }

    #[test]
    fn the_air_is_shared_by_all_stations_and_used_twice_between_two() {
        let (near_ap, wire) = (air(0, 10 * MB), LinkSpec::wire(0, 100 * MB, 0));
        near(&ends(&[wire, near_ap], &[(0, 1)]), &[100.0]);
        near(&ends(&[wire, near_ap, near_ap], &[(0, 1), (2, 0)]), &[200.0, 200.0]);
        near(&ends(&[near_ap, near_ap], &[(0, 1)]), &[200.0]);
        near(&ends(&[air(0, 10 * MB), air(1, 10 * MB)], &[(0, 1)]), &[100.0]);
    }

    #[test]
    fn a_slow_station_drags_all_down_unless_airtime_is_fair() {
        let wire = LinkSpec::wire(0, 100 * MB, 0);
        let stations = [wire, air(0, 10 * MB), air(0, MB)];
        // Equal rates: x/10 + x/1 = 1, so 0.909 MB/s each.
        near(&ends(&stations, &[(0, 1), (0, 2)]), &[1100.0, 1100.0]);
        let fair = stations.map(|s| LinkSpec { airtime_fair: true, ..s });
        // Equal time: 5 and 0.5 MB/s; after 0.2 s the slow one is alone.
        near(&ends(&fair, &[(0, 1), (0, 2)]), &[200.0, 1100.0]);
    }

    #[test]
    fn a_bundle_passes_a_blob_that_has_begun() {
        let wire = LinkSpec::wire(0, 10 * MB, 0);
        let mut network = Network::new(&[wire; 2]);
        network.send(0, (0, 1), Priority::Blob, MB, "blob");
        network.send(50 * MB, (0, 1), Priority::Bundle, MB, "bundle");
        let mut order = Vec::new();
        while let Some(at) = network.next_end() {
            order.extend(network.ended(at).into_iter().map(|t| (t.payload, (at + 500) / MB)));
        }
        assert_eq!(order, [("bundle", 150), ("blob", 200)]);
    }

    #[test]
    fn what_is_blocked_waits_and_what_is_dropped_comes_back() {
        let wire = LinkSpec::wire(0, 10 * MB, 0);
        let mut network = Network::new(&[wire; 3]);
        network.send(0, (0, 1), Priority::Bundle, MB, 1);
        network.send(0, (0, 2), Priority::Bundle, MB, 2);
        network.block(0, 1, true);
        let at = network.next_end().unwrap();
        assert_eq!(((at + 500) / MB, network.ended(at)[0].payload), (100, 2));
        assert_eq!(network.next_end(), None);
        assert_eq!(network.drop_where(at, |_, to| to == 1), [1]);
        assert_eq!(network.next_end(), None);
    }

    #[test]
    fn nothing_is_over_its_capacity_and_nobody_could_have_more() {
        // Any draw of links and transfers: the shares on each resource add up to one at most, and
        // each flow crosses a full resource on which nobody has more than it.
        let mut random = crate::random::Random::new(11);
        for _ in 0..200 {
            let link = |random: &mut crate::random::Random| {
                let rate = (1 + random.below(20)) * MB;
                match random.below(3) {
                    0 => LinkSpec::wire(0, rate, 0),
                    1 => LinkSpec { medium: Medium::HalfDuplexWire, ..LinkSpec::wire(0, rate, 0) },
                    _ => air(random.below(2) as u32, rate),
                }
            };
            let links: Vec<LinkSpec> = (0..6).map(|_| link(&mut random)).collect();
            let mut network = Network::new(&links);
            for i in 0..10 {
                let (from, to) = (random.below(6) as usize, random.below(6) as usize);
                if from != to {
                    network.send(0, (from, to), Priority::Bundle, MB, i);
                }
            }
            network.next_end();
            let used = |resource: usize| -> f64 {
                let uses = network.flows.iter().flat_map(|f| f.uses.map(|u| (u, f.rate)));
                uses.filter(|((r, _), _)| *r == resource).map(|((_, cost), rate)| cost * rate).sum()
            };
            for flow in &network.flows {
                let bottleneck = flow.uses.iter().any(|&(resource, cost)| {
                    let on = network
                        .flows
                        .iter()
                        .filter(|f| f.uses.iter().any(|&(r, cost)| r == resource && cost > 0.0));
                    let most = on.map(|f| f.rate).fold(0.0, f64::max);
                    cost > 0.0 && used(resource) > 0.999 && flow.rate > most * 0.999
                });
                assert!(bottleneck, "{flow:?}");
            }
            assert!((0..network.load.len()).all(|r| used(r) < 1.001));
        }
    }
}
