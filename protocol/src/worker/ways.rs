//! The ways to other workers: what they carry, and how long a word takes there and back.
//!
//! Of two workers that reach each other, the one with the smaller id measures: a few short words and some
//! padded ones, there and back, to one peer at a time, and only while nothing else is to be done here or
//! there, another measurement included. Pieces that are sent for the next stage tell, too: who gets them says so. The coordinator
//! hears of what changes.

use super::{Output, Peer, Worker};
use crate::ids::{TaskId, WorkerId};
use crate::link::{BYTES_MIN, Link};
use crate::message::{Bundle, Message};
use crate::{Nanos, SECOND};
use std::collections::{BTreeMap, VecDeque};

/// Where there are more peers, none are measured: their number grows with the square.
pub(crate) const MEASURED_MAX: usize = 31;

/// Padding of the words that tell what a way carries.
pub(crate) const PADDING: usize = 32 << 10;

/// Short words before it. They carry a little, so that an answer without it says that the other has no
/// time.
const SHORT: usize = 1;
const SHORT_WORDS: u32 = 4;

/// A way is measured again after so long, and after twice as long each time that it was as before: a
/// measurement is 200 kB, and there are as many ways as pairs.
const REFRESH_NS: Nanos = 60 * SECOND;

/// How often that doubles: to 16 minutes.
const DOUBLED_MAX: u32 = 4;

/// So soon, where one of the two had other things to do.
const RETRY_NS: Nanos = SECOND;

/// So soon, where nothing is known of the way yet.
const RETRY_FIRST_NS: Nanos = SECOND / 10;

/// For so long after a word a worker is there for the one who sent it, and for no other.
const TURN_NS: Nanos = SECOND / 10;

/// No answer is waited for longer.
const PATIENCE_NS: Nanos = 2 * SECOND;

/// Pieces that arrive later tell nothing of the way.
const LOST_NS: Nanos = 10 * SECOND;

/// Bundles on their way of which it is not known yet when they arrive.
const SENT_MAX: usize = 64;

/// The coordinator is told of a rate that differs by more than one in so many parts.
const TELLING: u64 = 8;

/// A peer with a larger id.
#[derive(Debug)]
struct Way {
    link: Link,
    due_ns: Nanos,
    /// Pieces told since it was last measured.
    moved: bool,
    told: Option<(u64, Nanos)>,
    /// How often in a row it was as before.
    steady: u32,
}

/// A word that is not back yet.
#[derive(Clone, Copy, Debug)]
struct Asked {
    peer: WorkerId,
    sent_ns: Nanos,
    padding: usize,
    /// Short words that came back before.
    words: u32,
}

/// Pieces that are on their way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    to: WorkerId,
    task: TaskId,
    since_ns: Nanos,
}

#[derive(Debug, Default)]
pub(super) struct Ways {
    /// Whether this worker measures at all.
    measures: bool,
    ways: BTreeMap<WorkerId, Way>,
    asked: Option<Asked>,
    /// Who measures the way to this one, the coordinator perhaps, and when it last sent a word.
    answered: Option<(Peer, Nanos)>,
    sent: VecDeque<Sent>,
}

impl Worker {
    /// The same worker, which measures the ways to others.
    pub fn measuring(mut self) -> Self {
        self.ways.measures = true;
        self
    }

    /// A peer is reached anew: the way to it is to be measured, if that is up to this worker.
    pub(super) fn meet(&mut self, now: Nanos, peer: WorkerId) {
        self.part(peer);
        if self.ways.measures && self.id.is_some_and(|id| id < peer) {
            let way =
                Way { link: Link::default(), due_ns: now, moved: false, told: None, steady: 0 };
            self.ways.ways.insert(peer, way);
        }
    }

    /// All peers that are reached, now that this worker has its id.
    pub(super) fn meet_all(&mut self, now: Nanos) {
        let peers: Vec<WorkerId> = self.peers.iter().copied().collect();
        peers.into_iter().for_each(|peer| self.meet(now, peer));
    }

    /// A peer is gone.
    pub(super) fn part(&mut self, peer: WorkerId) {
        self.ways.ways.remove(&peer);
        self.ways.asked.take_if(|asked| asked.peer == peer);
        self.ways.sent.retain(|sent| sent.to != peer);
    }

    /// The coordinator is gone, and with it the names of all peers.
    pub(super) fn part_from_all(&mut self) {
        self.ways = Ways { measures: self.ways.measures, ..Ways::default() };
    }

    /// Whether a measurement would tell of nothing but the way, and be in nobody's.
    fn is_idle(&self) -> bool {
        let waits = self.queue.is_empty() && self.running.is_none();
        waits && self.unsent_bytes == 0 && self.missing.is_empty() && self.ways.sent.is_empty()
    }

    /// When to look at the ways again.
    pub(super) fn ways_ns(&self) -> Option<Nanos> {
        if let Some(asked) = self.ways.asked {
            return Some(asked.sent_ns + PATIENCE_NS);
        }
        let may = self.connected && self.is_idle() && self.ways.ways.len() <= MEASURED_MAX;
        may.then(|| self.ways.ways.values().map(|way| way.due_ns).min())?
    }

    /// Goes on with measuring, when it is time.
    pub(super) fn look_at_ways(&mut self, now: Nanos) {
        // Of some pieces nobody says that they arrived: their connection was lost, or they were not needed.
        self.ways.sent.retain(|sent| now < sent.since_ns + LOST_NS);
        if self.ways_ns().is_none_or(|at| now < at) {
            return;
        }
        if let Some(asked) = self.ways.asked.take() {
            return self.put_off(asked.peer, now + REFRESH_NS);
        }
        let due = self.ways.ways.iter().min_by_key(|(_, way)| way.due_ns);
        if let Some((&peer, _)) = due {
            if self.is_measured(now) {
                return self.put_off(peer, now + TURN_NS);
            }
            self.ask(Asked { peer, sent_ns: now, padding: SHORT, words: 0 });
        }
    }

    /// A word of the coordinator is answered: other measurements would be in the way of its own.
    pub(super) fn on_echo(&mut self, now: Nanos, echo: Message) {
        self.ways.answered = Some((Peer::Coordinator, now));
        self.send(echo);
    }

    /// Whether somebody else is measuring the way to this one.
    fn is_measured(&self, now: Nanos) -> bool {
        self.ways.answered.is_some_and(|(_, at)| now < at + TURN_NS)
    }

    fn put_off(&mut self, peer: WorkerId, until: Nanos) {
        if let Some(way) = self.ways.ways.get_mut(&peer) {
            way.due_ns = until;
        }
    }

    fn ask(&mut self, asked: Asked) {
        self.ways.asked = Some(asked);
        let echo = Message::Echo { sent_ns: asked.sent_ns, padding: vec![0; asked.padding] };
        self.outputs.push_back(Output::Send(Peer::Worker(asked.peer), echo));
    }

    /// Another worker's word, or one of ours that is back.
    pub(super) fn on_peer_echo(
        &mut self,
        now: Nanos,
        from: WorkerId,
        (sent_ns, mut padding): (Nanos, Vec<u8>),
    ) {
        if padding.len() > PADDING {
            return self.break_off(Peer::Worker(from), "sent too long an echo".into());
        }
        if self.id.is_none_or(|id| from < id) {
            let has_turn = self.ways.answered.is_some_and(|(peer, _)| peer == Peer::Worker(from));
            match self.is_idle()
                && self.ways.asked.is_none()
                && (has_turn || !self.is_measured(now))
            {
                true => self.ways.answered = Some((Peer::Worker(from), now)),
                false => padding.clear(),
            }
            let echo = Message::Echo { sent_ns, padding };
            return self.outputs.push_back(Output::Send(Peer::Worker(from), echo));
        }
        let is_answer = |asked: &mut Asked| asked.peer == from && asked.sent_ns == sent_ns;
        let Some(asked) = self.ways.asked.take_if(is_answer) else { return };
        // What came meanwhile was in its way.
        let was_busy = padding.len() != asked.padding || self.bundle_ns > sent_ns;
        if was_busy || !self.is_idle() {
            let is_known = self.ways.ways.get(&from).is_some_and(|way| way.told.is_some());
            let again = if is_known { RETRY_NS } else { RETRY_FIRST_NS };
            return self.put_off(from, now + again);
        }
        let Some(way) = self.ways.ways.get_mut(&from) else { return };
        let took_ns = now.saturating_sub(sent_ns);
        let words = asked.words + 1;
        if asked.padding == PADDING {
            if words == SHORT_WORDS + 1 && !std::mem::take(&mut way.moved) {
                way.link.forget_share();
            }
            way.link.echoed(took_ns, PADDING);
            if way.link.wants_padding() {
                return self.ask(Asked { peer: from, sent_ns: now, padding: PADDING, words });
            }
            let is_news = self.tell_way(from);
            if let Some(way) = self.ways.ways.get_mut(&from) {
                way.steady = if is_news { 0 } else { DOUBLED_MAX.min(way.steady + 1) };
                way.due_ns = now + (REFRESH_NS << way.steady);
            }
            return;
        }
        way.link.echoed(took_ns, 0);
        let padding = if words < SHORT_WORDS { SHORT } else { PADDING };
        self.ask(Asked { peer: from, sent_ns: now, padding, words });
    }

    /// Pieces go to another worker.
    pub(super) fn note_sent(&mut self, now: Nanos, to: WorkerId, task: TaskId, bytes: u64) {
        if bytes >= BYTES_MIN && self.ways.ways.contains_key(&to) {
            if self.ways.sent.len() == SENT_MAX {
                self.ways.sent.pop_front();
            }
            self.ways.sent.push_back(Sent { to, task, since_ns: now });
        }
    }

    /// Tells who sent pieces that they are here, where that says something of the way.
    pub(super) fn acknowledge(&mut self, from: Peer, bundle: &Bundle) {
        let bytes = bundle.wire_len().unwrap_or(0) as u64;
        // Who has the larger id does not measure.
        if let Peer::Worker(worker) = from
            && self.ways.measures
            && bytes >= BYTES_MIN
            && self.id.is_some_and(|id| worker < id)
        {
            let arrived = Message::Arrived { task: bundle.task, bytes };
            self.outputs.push_back(Output::Send(from, arrived));
        }
    }

    /// Pieces arrived: their way took from when they were given to the driver until now, less the way of
    /// this word. They may have been encoded first; counted from later on, when the driver said that it
    /// had done so, ways of 12 MB/s looked like ones of 55.
    pub(super) fn on_arrived(&mut self, now: Nanos, from: WorkerId, task: TaskId, bytes: u64) {
        let sent = &mut self.ways.sent;
        let place = sent.iter().position(|sent| (sent.to, sent.task) == (from, task));
        let Some(sent) = place.and_then(|place| sent.remove(place)) else { return };
        // All others may have been sent to at the same time, and this one by all others.
        let sharers = self.peers.len() as u64;
        if let Some(way) = self.ways.ways.get_mut(&from) {
            way.link.moved(bytes, now.saturating_sub(sent.since_ns), sharers);
            way.moved = true;
            self.tell_way(from);
        }
    }

    /// Tells the coordinator of a way, where it is not as it was told; whether it is not.
    fn tell_way(&mut self, peer: WorkerId) -> bool {
        let Some(way) = self.ways.ways.get_mut(&peer) else { return false };
        let known = way.link.measured_bytes_per_s().zip(way.link.round_trip_ns());
        let Some((bytes_per_s, round_trip_ns)) = known else { return false };
        let differs = |old: u64, new: u64| old.abs_diff(new) > old / TELLING;
        let news = way.told.is_none_or(|(rate, round_trip)| {
            differs(rate, bytes_per_s) || differs(round_trip, round_trip_ns)
        });
        if news {
            way.told = Some((bytes_per_s, round_trip_ns));
            self.send(Message::PairLink { peer, bytes_per_s, round_trip_ns });
        }
        news
    }
}
