//! When what is sent arrives: latency, a rate, and order on each stream.
//!
//! Control and bulk are streams of their own, as in the real transport: one may overtake the other.

use crate::random::Random;
use crate::scenario::LinkSpec;
use protocol::{Nanos, SECOND};
use std::collections::BTreeMap;

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Head,
    Device(usize),
}

/// Which stream of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    Control,
    Bulk,
}

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    free_ns: Nanos,
    last_arrival_ns: Nanos,
}

/// All streams.
#[derive(Debug, Default)]
pub(crate) struct Links {
    streams: BTreeMap<(End, End, Lane), Stream>,
}

impl Links {
    /// When so many bytes arrive that are sent now over the slower of two links.
    pub(crate) fn arrival(
        &mut self,
        now: Nanos,
        (from, to, lane): (End, End, Lane),
        (bytes, link): (u64, LinkSpec),
        random: &mut Random,
    ) -> Nanos {
        let stream = self.streams.entry((from, to, lane)).or_default();
        stream.free_ns = stream.free_ns.max(now) + bytes * SECOND / link.bytes_per_s.max(1);
        let jitter = random.below(link.jitter_ns + 1);
        let arrival = stream.free_ns + link.latency_ns + jitter;
        stream.last_arrival_ns = stream.last_arrival_ns.max(arrival);
        stream.last_arrival_ns
    }
}

/// Two links one after the other.
pub(crate) fn joined(a: LinkSpec, b: LinkSpec) -> LinkSpec {
    LinkSpec {
        latency_ns: a.latency_ns + b.latency_ns,
        bytes_per_s: a.bytes_per_s.min(b.bytes_per_s),
        jitter_ns: a.jitter_ns + b.jitter_ns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_keeps_its_order_and_its_rate() {
        let mut links = Links::default();
        let mut random = Random::new(7);
        let link = LinkSpec { latency_ns: 10, bytes_per_s: 1_000_000_000, jitter_ns: 100 };
        let stream = (End::Head, End::Device(0), Lane::Bulk);
        let arrivals: Vec<Nanos> =
            (0..50).map(|_| links.arrival(0, stream, (5, link), &mut random)).collect();
        assert!(arrivals.is_sorted());
        assert!(arrivals[49] >= 50 * 5 + 10);
    }
}
