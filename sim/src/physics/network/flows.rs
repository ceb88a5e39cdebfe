//! Max-min fair rates of flows over resources, worked out again only where something changed.

use super::{Moved, Use};
use protocol::Nanos;

/// The number of a flow until it ends.
pub(super) type FlowId = u32;

const NEVER: Nanos = Nanos::MAX;

/// Less than this is nothing: half a byte.
const CRUMB: f64 = 0.5;

/// What moves from one end to another.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) key: (u32, u32),
    pub(super) uses: [Use; 2],
    pub(super) weight: f64,
    /// Bytes a nanosecond that its way carries at most.
    pub(super) most: f64,
    /// Bytes that were left when it was last looked at.
    pub(super) left: f64,
    /// Bytes that were left when they were last added to what its ends moved.
    counted: f64,
    /// Bytes a nanosecond.
    pub(super) rate: f64,
    pub(super) since: Nanos,
    /// The last round of sharing that came to it.
    seen: u64,
}

impl Flow {
    pub(super) fn new(key: (u32, u32), uses: [Use; 2], weight: f64, left: f64) -> Self {
        let most = f64::INFINITY;
        Self { key, uses, weight, most, left, counted: left, rate: 0.0, since: 0, seen: 0 }
    }

    /// Lets time pass at the rate that held.
    fn settle(&mut self, now: Nanos) {
        let passed = now - std::mem::replace(&mut self.since, now);
        self.left -= (self.rate * passed as f64).min(self.left);
    }

    /// Adds what moved since the last time to what its ends moved.
    fn count(&mut self, moved: &mut [Moved]) {
        let bytes = std::mem::replace(&mut self.counted, self.left) - self.left;
        let (from, to) = (self.key.0 as usize, self.key.1 as usize);
        moved[from].sent += bytes;
        moved[from].medium_ns += bytes * self.uses[0].1;
        moved[to].received += bytes;
        moved[to].medium_ns += bytes * self.uses[1].1;
    }

    /// The resources that it crosses; one, where both uses are of the same.
    fn crosses(&self) -> impl Iterator<Item = usize> + use<> {
        let [(first, _), (second, _)] = self.uses;
        std::iter::once(first).chain((second != first).then_some(second))
    }
}

/// A resource in the current round of sharing.
#[derive(Clone, Copy, Debug)]
struct Resource {
    /// What the flows that still wait for their rate load it with.
    load: f64,
    /// The part of its time that is left.
    spare: f64,
    /// How far it lets each of them go.
    level: f64,
    /// How many of them are held up more elsewhere.
    waits: u32,
}

impl Resource {
    const FRESH: Self = Self { load: 0.0, spare: 1.0, level: f64::INFINITY, waits: 0 };
}

/// A flow in the current round of sharing.
#[derive(Clone, Copy, Debug)]
struct Open {
    id: FlowId,
    /// Places among the resources of this round; `NOWHERE` where it takes no time of one.
    on: [u32; 2],
    cost: [f64; 2],
    weight: f64,
    /// How far its own way lets it go.
    own: f64,
    /// How far it can go at all.
    tightest: f64,
}

/// The place of a resource that holds nobody up.
const NOWHERE: u32 = 0;

impl Open {
    fn new(id: FlowId, flow: &Flow, on: [u32; 2]) -> Self {
        let [(_, a), (_, b)] = flow.uses;
        let place = |cost: f64, on: u32| if cost > 0.0 { on } else { NOWHERE };
        let on = [place(a, on[0]), place(b, on[1])];
        let own = flow.most / flow.weight;
        Self { id, on, cost: [a, b], weight: flow.weight, own, tightest: own }
    }

    /// Adds what it loads its resources with.
    fn weigh_on(&self, resources: &mut [Resource]) {
        for (&on, cost) in self.on.iter().zip(self.cost) {
            resources[on as usize].load += cost * self.weight;
        }
    }
}

/// All flows under way.
#[derive(Debug)]
pub(super) struct Flows {
    flows: Vec<Flow>,
    /// When each of them ends, if nothing changes.
    ends: Vec<Nanos>,
    free: Vec<FlowId>,
    /// The flows that cross each resource.
    on: Vec<Vec<FlowId>>,
    blocked: Vec<bool>,
    moved: Vec<Moved>,
    /// Resources whose flows have to be given other rates.
    changed: Vec<usize>,
    next_end: Nanos,
    round: u64,
    /// The last round of sharing that came to each resource, and its place there.
    seen: Vec<(u64, u32)>,
    // At what the current round looks.
    used: Vec<usize>,
    resources: Vec<Resource>,
    open: Vec<Open>,
}

impl Flows {
    pub(super) fn new(ends: usize, resources: usize) -> Self {
        Self {
            flows: Vec::new(),
            ends: Vec::new(),
            free: Vec::new(),
            on: vec![Vec::new(); resources],
            blocked: vec![false; ends],
            moved: vec![Moved::default(); ends],
            changed: Vec::new(),
            next_end: NEVER,
            round: 0,
            seen: vec![(0, NOWHERE); resources],
            used: Vec::new(),
            resources: Vec::new(),
            open: Vec::new(),
        }
    }

    /// What each end moved until now.
    pub(super) fn moved(&mut self, now: Nanos) -> &[Moved] {
        for id in self.on.concat() {
            let flow = &mut self.flows[id as usize];
            flow.settle(now);
            flow.count(&mut self.moved);
        }
        &self.moved
    }

    /// A flow begins; its rate is worked out when the next end is asked for.
    pub(super) fn start(&mut self, now: Nanos, mut flow: Flow) -> FlowId {
        flow.since = now;
        let id = self.free.pop().unwrap_or(self.flows.len() as FlowId);
        for resource in flow.crosses() {
            self.on[resource].push(id);
            self.changed.push(resource);
        }
        if id as usize == self.flows.len() {
            self.flows.push(flow);
            self.ends.push(NEVER);
        } else {
            self.flows[id as usize] = flow;
        }
        id
    }

    /// A flow is over; gives the bytes back that were left of it.
    pub(super) fn stop(&mut self, now: Nanos, id: FlowId) -> f64 {
        let flow = &mut self.flows[id as usize];
        flow.settle(now);
        flow.count(&mut self.moved);
        for resource in flow.crosses() {
            self.changed.push(resource);
            let on = &mut self.on[resource];
            if let Some(place) = on.iter().position(|&other| other == id) {
                on.swap_remove(place);
            }
        }
        self.ends[id as usize] = NEVER;
        self.free.push(id);
        flow.left
    }

    /// Nothing moves to or from an end any more, or it does again.
    pub(super) fn block(&mut self, end: usize, resources: [usize; 2], blocked: bool) {
        self.blocked[end] = blocked;
        self.changed.extend(resources);
    }

    /// When the next flow ends, if nothing else happens.
    pub(super) fn next_end(&mut self, now: Nanos) -> Option<Nanos> {
        if !self.changed.is_empty() {
            self.share_out(now);
        }
        (self.next_end != NEVER).then_some(self.next_end)
    }

    /// The flows that have ended by now, in the order of their ends.
    pub(super) fn ended(&mut self, now: Nanos) -> Vec<((u32, u32), FlowId)> {
        let mut ended = Vec::new();
        for (id, flow) in self.flows.iter_mut().enumerate() {
            if self.ends[id] > now {
                continue;
            }
            flow.settle(now);
            if flow.left <= CRUMB {
                ended.push((flow.key, id as FlowId));
            } else {
                // Rounding left a crumb more: look again.
                self.changed.extend(flow.crosses());
            }
        }
        ended.sort_unstable();
        ended
    }

    /// The flows under way.
    #[cfg(test)]
    pub(super) fn list(&self) -> Vec<&Flow> {
        let mut all = self.on.concat();
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(|id| &self.flows[id as usize]).collect()
    }

    /// Finds the flows that a change can reach, over shared resources, and those resources; stops
    /// these flows, and adds up what those that may move load the resources with.
    fn reach(&mut self, now: Nanos) {
        self.round += 1;
        let round = self.round;
        self.open.clear();
        self.used.clear();
        self.resources.clear();
        self.resources.push(Resource::FRESH);
        let (seen, used, resources) = (&mut self.seen, &mut self.used, &mut self.resources);
        let mut see = |used: &mut Vec<usize>, resources: &mut Vec<Resource>, resource: usize| {
            let seen = &mut seen[resource];
            if seen.0 != round {
                *seen = (round, resources.len() as u32);
                used.push(resource);
                resources.push(Resource::FRESH);
            }
            seen.1
        };
        for resource in self.changed.drain(..) {
            see(used, resources, resource);
        }
        let mut next = 0;
        while let Some(&resource) = used.get(next) {
            next += 1;
            for &id in &self.on[resource] {
                let flow = &mut self.flows[id as usize];
                if flow.seen == round {
                    continue;
                }
                flow.seen = round;
                flow.settle(now);
                flow.rate = 0.0;
                self.ends[id as usize] = NEVER;
                let on = flow.uses.map(|(resource, _)| see(used, resources, resource));
                let (from, to) = flow.key;
                if !self.blocked[from as usize] && !self.blocked[to as usize] {
                    let open = Open::new(id, flow, on);
                    open.weigh_on(resources);
                    self.open.push(open);
                }
            }
        }
    }

    /// Works out the rates of the flows that a change can reach.
    ///
    /// In each round the resources that are the tightest for all of their flows are filled; the
    /// flows of the others wait for the next round, when they know what is left.
    fn share_out(&mut self, now: Nanos) {
        self.reach(now);
        let Self { flows, ends, resources, open, .. } = self;
        while !open.is_empty() {
            for state in &mut resources[1..] {
                state.level =
                    if state.load > 0.0 { state.spare / state.load } else { f64::INFINITY };
            }
            // A resource has to wait while one of its flows is tighter elsewhere.
            for flow in open.iter_mut() {
                let levels = flow.on.map(|on| resources[on as usize].level);
                flow.tightest = levels[0].min(levels[1]).min(flow.own);
                for (on, level) in flow.on.into_iter().zip(levels) {
                    resources[on as usize].waits += u32::from(level > flow.tightest);
                }
            }
            let before = open.len();
            open.retain(|open| {
                let fills = |on: u32| {
                    let state = &resources[on as usize];
                    state.waits == 0 && state.level <= open.tightest
                };
                // What its own way carries at most is shared with nobody.
                if open.own > open.tightest && !open.on.into_iter().any(fills) {
                    return true;
                }
                let flow = &mut flows[open.id as usize];
                flow.rate = open.tightest * open.weight;
                for (on, cost) in open.on.into_iter().zip(open.cost) {
                    let spare = &mut resources[on as usize].spare;
                    *spare = (*spare - cost * flow.rate).max(0.0);
                }
                if flow.rate > 0.0 {
                    let wait = (flow.left - CRUMB / 2.0).max(0.0) / flow.rate;
                    ends[open.id as usize] = now.saturating_add(wait as Nanos + 1);
                }
                false
            });
            assert!(open.len() < before, "some resource is the tightest of all");
            if open.is_empty() {
                break;
            }
            for state in resources.iter_mut() {
                (state.load, state.waits) = (0.0, 0);
            }
            open.iter().for_each(|flow| flow.weigh_on(resources));
        }
        self.next_end = self.ends.iter().fold(NEVER, |next, &end| next.min(end));
    }
}
