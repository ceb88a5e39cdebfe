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
    /// Bytes a nanosecond.
    pub(super) rate: f64,
    pub(super) since: Nanos,
    /// The last round of sharing that came to it.
    seen: u64,
}

impl Flow {
    pub(super) fn new(key: (u32, u32), uses: [Use; 2], weight: f64, left: f64) -> Self {
        let most = f64::INFINITY;
        Self { key, uses, weight, most, left, rate: 0.0, since: 0, seen: 0 }
    }

    /// How far its own way lets it go.
    fn own(&self) -> f64 {
        self.most / self.weight
    }

    /// How far the resources let it go that it takes time of.
    fn levels(&self, resources: &[Resource]) -> [f64; 2] {
        let level = |(resource, cost): Use| match cost > 0.0 {
            true => resources[resource].level,
            false => f64::INFINITY,
        };
        self.uses.map(level)
    }

    /// Lets time pass at the rate that held.
    fn settle(&mut self, now: Nanos, moved: &mut [Moved]) {
        let passed = now - std::mem::replace(&mut self.since, now);
        if passed == 0 || self.rate == 0.0 {
            return;
        }
        let bytes = (self.rate * passed as f64).min(self.left);
        self.left -= bytes;
        let (from, to) = (self.key.0 as usize, self.key.1 as usize);
        moved[from].sent += bytes;
        moved[from].medium_ns += bytes * self.uses[0].1;
        moved[to].received += bytes;
        moved[to].medium_ns += bytes * self.uses[1].1;
    }

    /// Adds what it loads its resources with.
    fn weigh_on(&self, resources: &mut [Resource]) {
        for (resource, cost) in self.uses {
            resources[resource].load += cost * self.weight;
        }
    }

    fn tightest(&self, [a, b]: [f64; 2]) -> f64 {
        a.min(b).min(self.own())
    }

    /// The resources that it crosses; one, where both uses are of the same.
    fn crosses(&self) -> impl Iterator<Item = usize> + use<> {
        let [(first, _), (second, _)] = self.uses;
        std::iter::once(first).chain((second != first).then_some(second))
    }
}

/// What is worked out of a resource while rates are.
#[derive(Clone, Copy, Debug, Default)]
struct Resource {
    load: f64,
    spare: f64,
    level: f64,
    waits: u32,
    seen: u64,
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
    resources: Vec<Resource>,
    // Those at which the current round looks.
    used: Vec<usize>,
    open: Vec<FlowId>,
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
            resources: vec![Resource::default(); resources],
            used: Vec::new(),
            open: Vec::new(),
        }
    }

    /// What each end moved until now.
    pub(super) fn moved(&mut self, now: Nanos) -> &[Moved] {
        for flow in self.on.concat() {
            self.settle(now, flow);
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
        self.settle(now, id);
        self.touch(id);
        let flow = &self.flows[id as usize];
        for resource in flow.crosses() {
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
        let due = (0..self.flows.len()).filter(|&i| self.ends[i] <= now);
        let mut due: Vec<FlowId> = due.map(|i| i as FlowId).collect();
        due.retain(|&id| {
            self.settle(now, id);
            let over = self.flows[id as usize].left <= CRUMB;
            if !over {
                // Rounding left a crumb more: look again.
                self.touch(id);
            }
            over
        });
        let mut ended: Vec<_> = due.iter().map(|&id| (self.flows[id as usize].key, id)).collect();
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

    fn touch(&mut self, id: FlowId) {
        self.changed.extend(self.flows[id as usize].crosses());
    }

    fn settle(&mut self, now: Nanos, id: FlowId) {
        self.flows[id as usize].settle(now, &mut self.moved);
    }

    /// Finds the flows that a change can reach, over shared resources, and those resources; stops
    /// these flows, and adds up what those that may move load the resources with.
    fn reach(&mut self, now: Nanos) {
        self.round += 1;
        let round = self.round;
        self.open.clear();
        self.used.clear();
        let see = |resources: &mut [Resource], used: &mut Vec<usize>, resource: usize| {
            let state = &mut resources[resource];
            if state.seen != round {
                *state = Resource { spare: 1.0, seen: round, ..Resource::default() };
                used.push(resource);
            }
        };
        for resource in self.changed.drain(..) {
            see(&mut self.resources, &mut self.used, resource);
        }
        let mut next = 0;
        while let Some(&resource) = self.used.get(next) {
            next += 1;
            for &id in &self.on[resource] {
                let flow = &mut self.flows[id as usize];
                if flow.seen == round {
                    continue;
                }
                flow.seen = round;
                flow.settle(now, &mut self.moved);
                flow.rate = 0.0;
                self.ends[id as usize] = NEVER;
                for other in flow.crosses() {
                    see(&mut self.resources, &mut self.used, other);
                }
                let (from, to) = flow.key;
                if !self.blocked[from as usize] && !self.blocked[to as usize] {
                    flow.weigh_on(&mut self.resources);
                    self.open.push(id);
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
        let mut open = std::mem::take(&mut self.open);
        let (flows, resources) = (&mut self.flows, &mut self.resources);
        let ends = &mut self.ends;
        while !open.is_empty() {
            for &resource in &self.used {
                let state = &mut resources[resource];
                state.level =
                    if state.load > 0.0 { state.spare / state.load } else { f64::INFINITY };
            }
            // A resource has to wait while one of its flows is tighter elsewhere.
            for &id in &open {
                let flow = &flows[id as usize];
                let levels = flow.levels(resources);
                let tightest = flow.tightest(levels);
                for ((resource, cost), level) in flow.uses.into_iter().zip(levels) {
                    resources[resource].waits += u32::from(cost > 0.0 && level > tightest);
                }
            }
            let before = open.len();
            open.retain(|&id| {
                let flow = &mut flows[id as usize];
                let levels = flow.levels(resources);
                let tightest = flow.tightest(levels);
                let mut fills = flow.uses.iter().zip(levels).map(|(&(resource, cost), level)| {
                    cost > 0.0 && level <= tightest && resources[resource].waits == 0
                });
                // What its own way carries at most is shared with nobody.
                if flow.own() > tightest && !fills.any(|fills| fills) {
                    return true;
                }
                flow.rate = tightest * flow.weight;
                for (resource, cost) in flow.uses {
                    let spare = &mut resources[resource].spare;
                    *spare = (*spare - cost * flow.rate).max(0.0);
                }
                if flow.rate > 0.0 {
                    let wait = (flow.left - CRUMB / 2.0).max(0.0) / flow.rate;
                    ends[id as usize] = now.saturating_add(wait as Nanos + 1);
                }
                false
            });
            assert!(open.len() < before, "some resource is the tightest of all");
            if open.is_empty() {
                break;
            }
            for &resource in &self.used {
                (resources[resource].load, resources[resource].waits) = (0.0, 0);
            }
            open.iter().for_each(|&id| flows[id as usize].weigh_on(resources));
        }
        self.open = open;
        self.next_end = self.ends.iter().copied().min().unwrap_or(NEVER);
    }
}
