//! The door: how many strangers may be in the handshake at once, how many were turned away, and
//! how often that is told. A flood costs a bounded number of descriptors and of lines in the log.

use libp2p::PeerId;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Strangers in the handshake at once; further ones wait outside.
pub(crate) const LOBBY_MAX: usize = 32;

/// Handshakes of one stranger at once: its new connection beside one that is dying.
const LOBBY_PER_PEER_MAX: usize = 2;

/// One line of the log in this time, whatever happens at the door.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What happened at the door since the start, and how much went through it.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    admitted: AtomicU64,
    turned_away: AtomicU64,
    crowded_out: AtomicU64,
    breaches: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Counters {
    /// Handshakes that ended well.
    pub fn admitted(&self) -> u64 {
        self.0.admitted.load(Ordering::Relaxed)
    }

    /// Handshakes that did not: strangers, other versions, garbage, silence.
    pub fn turned_away(&self) -> u64 {
        self.0.turned_away.load(Ordering::Relaxed)
    }

    /// Streams dropped unread: too many at once, or of a peer that is not admitted.
    pub fn crowded_out(&self) -> u64 {
        self.0.crowded_out.load(Ordering::Relaxed)
    }

    /// Sessions ended because an admitted peer broke the protocol.
    pub fn breaches(&self) -> u64 {
        self.0.breaches.load(Ordering::Relaxed)
    }

    /// Bytes read from admitted peers: messages and tensors, before encryption.
    pub fn bytes_in(&self) -> u64 {
        self.0.bytes_in.load(Ordering::Relaxed)
    }

    /// Bytes written to admitted peers.
    pub fn bytes_out(&self) -> u64 {
        self.0.bytes_out.load(Ordering::Relaxed)
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.0.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.0.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn breach(&self) {
        self.0.breaches.fetch_add(1, Ordering::Relaxed);
    }
}

/// Who is in the handshake.
pub(crate) struct Door {
    lobby: Vec<PeerId>,
    pub(crate) counters: Counters,
    told: Option<Instant>,
    untold: u64,
}

impl Door {
    pub(crate) fn new() -> Self {
        Self { lobby: Vec::new(), counters: Counters::default(), told: None, untold: 0 }
    }

    /// Whether a peer may begin a handshake now; it has a place in the lobby then.
    pub(crate) fn enter(&mut self, peer: PeerId) -> bool {
        let own = self.lobby.iter().filter(|p| **p == peer).count();
        if self.lobby.len() >= LOBBY_MAX || own >= LOBBY_PER_PEER_MAX {
            self.crowd_out();
            return false;
        }
        self.lobby.push(peer);
        true
    }

    /// Notes a stream that was dropped unread.
    pub(crate) fn crowd_out(&mut self) {
        self.counters.0.crowded_out.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a peer is in the handshake.
    pub(crate) fn is_in_lobby(&self, peer: PeerId) -> bool {
        self.lobby.contains(&peer)
    }

    /// A handshake ended well.
    pub(crate) fn admit(&mut self, peer: PeerId) {
        self.leave(peer);
        self.counters.0.admitted.fetch_add(1, Ordering::Relaxed);
    }

    /// A handshake did not; the log hears of the first in each second, and how many came between.
    pub(crate) fn turn_away(&mut self, peer: PeerId, why: &dyn Display) {
        self.leave(peer);
        self.counters.0.turned_away.fetch_add(1, Ordering::Relaxed);
        if self.told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            self.untold += 1;
            return tracing::debug!(%peer, "turned away: {why}");
        }
        let others = std::mem::take(&mut self.untold);
        self.told = Some(Instant::now());
        match others {
            0 => tracing::warn!(%peer, "turned away: {why}"),
            _ => tracing::warn!(%peer, "turned away: {why}; {others} others since the last line"),
        }
    }

    /// A handshake ended that is nobody's fault.
    pub(crate) fn leave(&mut self, peer: PeerId) {
        if let Some(place) = self.lobby.iter().position(|p| *p == peer) {
            self.lobby.swap_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn anybody() -> PeerId {
        Identity::ephemeral().peer_id()
    }

    #[test]
    fn the_lobby_is_bounded_for_all_and_for_each() {
        let mut door = Door::new();
        let eager = anybody();
        assert!(door.enter(eager) && door.enter(eager) && !door.enter(eager));
        while door.lobby.len() < LOBBY_MAX {
            assert!(door.enter(anybody()));
        }
        let late = anybody();
        assert!(!door.enter(late) && !door.is_in_lobby(late));
        assert_eq!(door.counters.crowded_out(), 2);
        door.turn_away(eager, &"a stranger");
        assert!(door.enter(late) && door.is_in_lobby(eager), "one of its two is over");
        door.admit(eager);
        assert!(!door.is_in_lobby(eager));
        assert_eq!((door.counters.turned_away(), door.counters.admitted()), (1, 1));
    }

    #[test]
    fn a_flood_is_one_line_a_second() {
        let mut door = Door::new();
        (0..1000).for_each(|_| door.turn_away(anybody(), &"a stranger"));
        assert_eq!((door.counters.turned_away(), door.untold), (1000, 999));
    }
}
