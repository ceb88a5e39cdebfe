//! What the ways between workers carry, as the workers measure it: of two, the one with the smaller id
//! tells.

use super::{Coordinator, PairLink};
use crate::Nanos;
use crate::ids::WorkerId;
use crate::link::bounded;

/// Ways to others that are remembered of one worker.
const PAIRS_MAX: usize = 64;

impl Coordinator {
    /// A worker says what the way to another one is like.
    pub(super) fn on_pair_link(
        &mut self,
        id: WorkerId,
        peer: WorkerId,
        bytes_per_s: u64,
        round_trip_ns: Nanos,
    ) {
        let is_known = self.workers.get(&peer).is_some_and(|w| w.alive) && id < peer;
        let Some(worker) = self.workers.get_mut(&id).filter(|_| is_known) else { return };
        if worker.pairs.len() < PAIRS_MAX || worker.pairs.contains_key(&peer) {
            let (bytes_per_s, round_trip_ns) = bounded(bytes_per_s, round_trip_ns);
            worker.pairs.insert(peer, PairLink { peer, bytes_per_s, round_trip_ns });
        }
    }

    /// The measured ways between a worker and the other live ones.
    pub(super) fn pairs_of(&self, id: WorkerId) -> Vec<PairLink> {
        let told = self.workers.range(..id).filter(|(_, w)| w.alive);
        let told = told.filter_map(|(&peer, w)| Some(PairLink { peer, ..*w.pairs.get(&id)? }));
        let own = self.workers.get(&id).into_iter().flat_map(|w| w.pairs.values());
        let alive = |peer| self.workers.get(&peer).is_some_and(|w| w.alive);
        told.chain(own.copied().filter(|pair| alive(pair.peer))).collect()
    }

    /// The way between two workers, where it was measured.
    pub(super) fn pair(&self, a: WorkerId, b: WorkerId) -> Option<&PairLink> {
        self.workers.get(&a.min(b))?.pairs.get(&a.max(b))
    }

    /// A worker begins anew: the way to it may be another one.
    pub(super) fn forget_pairs_with(&mut self, id: WorkerId) {
        self.workers.values_mut().for_each(|worker| _ = worker.pairs.remove(&id));
    }

    /// Whether all ways between the live workers are measured that are going to be: in a small cluster
    /// that is soon after they reach each other.
    pub fn all_pairs_measured(&self) -> bool {
        let live: Vec<WorkerId> = self.live().map(|(id, ..)| id).collect();
        let between = |a: WorkerId, b: WorkerId| self.pair(a, b).is_some() || a >= b;
        live.len() > crate::worker::MEASURED_MAX + 1
            || live.iter().all(|&a| live.iter().all(|&b| between(a, b)))
    }
}
