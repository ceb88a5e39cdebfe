//! What a link carries, and how long a word takes there and back: that of a worker to the coordinator,
//! or that of two workers to each other.
//!
//! Echoes when a worker joins give a first idea, the results of its tasks the rest: what a task took
//! beyond waiting and computing was the network. Several workers are sent to at a time, over one
//! cable or through one air, and each gets a part of that: so a transfer tells between what bounds
//! the link is, and only what is outside of them is corrected. A short echo now and then keeps the
//! round trip fresh.

use crate::worker::{MEASURED_MAX, PADDING};
use crate::{Nanos, SECOND};

/// What a link is taken to carry until anything tells.
const BYTES_PER_S: u64 = 11_800_000;

/// Bounds of what is learned of a link: the numbers come over the wire.
const BYTES_PER_S_MIN: u64 = 10_000;
const BYTES_PER_S_MAX: u64 = 10_000_000_000;

const ROUND_TRIP_MAX_NS: Nanos = 60 * SECOND;

/// Padding of some echoes: well over what the round trip itself is worth on a home's network.
pub(crate) const ECHO_BYTES: usize = 48 << 10;

/// Short echoes when a worker joins, and about as many as the usual delay is the mean of.
const ECHOES_FIRST: u32 = 8;

/// Padded echoes of which the middle one counts: others on the same cable may be in the way of one.
const PADDED: usize = 3;

/// Who answers later than that was asleep.
const DELAY_MAX_NS: Nanos = SECOND / 5;

/// Transfers of less say more of the round trip than of the link.
pub(crate) const BYTES_MIN: u64 = 16 << 10;

/// Bytes that it takes to measure the links of so many workers when they join, and the ways between them.
pub fn measuring_bytes(workers: usize) -> u64 {
    let workers = workers as u64;
    let measured = workers <= MEASURED_MAX as u64 + 1;
    let pairs = if measured { workers * workers.saturating_sub(1) / 2 } else { 0 };
    // There and back.
    2 * PADDED as u64 * (workers * ECHO_BYTES as u64 + pairs * PADDING as u64)
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    bytes_per_s: Option<u64>,
    round_trip_ns: Option<Nanos>,
    /// By how much longer a word usually takes than it can.
    delay_ns: Nanos,
    /// Short echoes that came back.
    echoes: u32,
    /// What padded ones said.
    padded: [Option<u64>; PADDED],
    /// What transfers got of it, on average of the last.
    share_per_s: Option<u64>,
}

impl Link {
    /// What it carries, if anything told.
    pub(crate) fn measured_bytes_per_s(&self) -> Option<u64> {
        self.bytes_per_s
    }

    /// The time of a word there and back, if anything told.
    pub(crate) fn round_trip_ns(&self) -> Option<Nanos> {
        self.round_trip_ns
    }

    /// The time that one in ten words there and back exceeds: where many wait for each other, the
    /// slowest counts. Of delays that come as they like, one in ten takes 2.3 times the mean.
    pub(crate) fn late_round_trip_ns(&self) -> Option<Nanos> {
        Some(self.round_trip_ns? + self.delay_ns * 23 / 10)
    }

    /// Whether too few echoes came back to know how late they can be.
    pub(crate) fn wants_echo(&self) -> bool {
        self.echoes < ECHOES_FIRST
    }

    /// Whether too few padded echoes came back to know what it carries, and no transfers told.
    pub(crate) fn wants_padding(&self) -> bool {
        self.share_per_s.is_none() && self.padded.contains(&None)
    }

    /// Nothing moved for a while: the next padded echoes tell anew what it carries.
    pub(crate) fn forget_share(&mut self) {
        (self.share_per_s, self.padded) = (None, [None; PADDED]);
    }

    /// What it is taken to carry.
    pub(crate) fn bytes_per_s(&self) -> u64 {
        self.bytes_per_s.unwrap_or(BYTES_PER_S)
    }

    /// An echo with so much padding came back.
    pub(crate) fn echoed(&mut self, took_ns: Nanos, padding: usize) {
        let Some(known) = self.round_trip_ns.filter(|_| padding > 0) else {
            let known = self.round_trip_ns.unwrap_or(took_ns);
            // The other end may have been busy: what is longer counts for less.
            let longer = took_ns.saturating_sub(known);
            self.round_trip_ns = Some(if took_ns < known { took_ns } else { known + longer / 8 });
            self.echoes = self.echoes.saturating_add(1);
            let parts = u64::from(self.echoes.min(ECHOES_FIRST));
            let longer = longer.min(DELAY_MAX_NS);
            self.delay_ns = (self.delay_ns * (parts - 1) + longer) / parts;
            return;
        };
        if self.share_per_s.is_none() {
            let both_ways = 2 * padding as u64;
            // On a fast link the padding may cost less than a word's delay varies: no more is known
            // then than that all of it was there in time.
            let beyond_ns = took_ns.checked_sub(known).filter(|&ns| ns > 0);
            let new = rate(both_ways, beyond_ns.unwrap_or(took_ns).max(1));
            self.padded.rotate_right(1);
            self.padded[0] = new;
            let mut told: Vec<u64> = self.padded.iter().flatten().copied().collect();
            told.sort_unstable();
            self.bytes_per_s = told.get(told.len() / 2).copied();
        }
    }

    /// So many bytes moved for a task, in this time, while up to `sharers` workers were sent to.
    pub(crate) fn moved(&mut self, bytes: u64, took_ns: Nanos, sharers: u64) {
        let took_ns = took_ns.saturating_sub(self.round_trip_ns.unwrap_or(0));
        if bytes < BYTES_MIN {
            return;
        }
        let Some(new) = rate(bytes, took_ns) else { return };
        // What the echo said is the average to begin with.
        let before = self.share_per_s.or(self.bytes_per_s);
        let share = before.map_or(new, |old| old / 4 * 3 + new / 4);
        self.share_per_s = Some(share);
        let known = self.bytes_per_s.unwrap_or(share);
        // One odd time must not make a link very fast.
        let least = share.min(known.saturating_mul(2));
        let most = share.saturating_mul(sharers.max(1)).min(BYTES_PER_S_MAX);
        self.bytes_per_s = Some(known.clamp(least, most));
    }
}

/// What somebody says that a link is like, within the bounds of what is learned of one.
pub(crate) fn bounded(bytes_per_s: u64, round_trip_ns: Nanos) -> (u64, Nanos) {
    (bytes_per_s.clamp(BYTES_PER_S_MIN, BYTES_PER_S_MAX), round_trip_ns.min(ROUND_TRIP_MAX_NS))
}

/// None where no time passed.
fn rate(bytes: u64, ns: Nanos) -> Option<u64> {
    let per_s = (u128::from(bytes) * u128::from(SECOND)).checked_div(u128::from(ns))?;
    Some((per_s.min(u128::from(BYTES_PER_S_MAX)) as u64).max(BYTES_PER_S_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_echoes_give_a_round_trip_and_a_rate() {
        let mut link = Link::default();
        assert_eq!((link.round_trip_ns(), link.measured_bytes_per_s()), (None, None));
        link.echoed(2_000_000, 0);
        // 10 MB/s, both ways.
        link.echoed(2_000_000 + 2 * ECHO_BYTES as u64 * 100, ECHO_BYTES);
        assert_eq!(link.round_trip_ns(), Some(2_000_000));
        assert_eq!(link.measured_bytes_per_s(), Some(10_000_000));
    }

    #[test]
    fn measuring_is_paid_for_each_pair() {
        let (link, pair) = (2 * 3 * 48 * 1024, 2 * 3 * 32 * 1024);
        let expected = [0, link, 2 * link + pair, 8 * link + 28 * pair];
        assert_eq!([0, 1, 2, 8].map(measuring_bytes), expected);
        // Above 32 workers nobody measures ways.
        assert_eq!(measuring_bytes(33), 33 * link);
    }

    #[test]
    fn of_three_padded_echoes_the_middle_one_counts() {
        let mut link = Link::default();
        link.echoed(1_000_000, 0);
        let mut told = Vec::new();
        for ns_a_byte in [400, 100, 20, 100] {
            assert_eq!(link.wants_padding(), told.len() < 3);
            link.echoed(1_000_000 + 2 * ECHO_BYTES as u64 * ns_a_byte, ECHO_BYTES);
            told.push(link.measured_bytes_per_s().unwrap() / 100_000);
        }
        assert_eq!(told, [25, 100, 100, 100]);
        link.forget_share();
        assert!(link.wants_padding());
    }

    #[test]
    fn padding_that_took_no_time_gives_a_rate_all_the_same() {
        let mut link = Link::default();
        link.echoed(1_000_000, 0);
        link.echoed(900_000, ECHO_BYTES);
        let rate = link.measured_bytes_per_s().unwrap();
        assert_eq!(rate, 2 * ECHO_BYTES as u64 * 1_000_000_000 / 900_000);
    }

    #[test]
    fn results_bound_what_the_echo_gave() {
        let mut link = Link::default();
        link.echoed(1_000_000, 0);
        link.echoed(1_000_000 + 2 * ECHO_BYTES as u64 * 100, ECHO_BYTES);
        assert_eq!(link.measured_bytes_per_s(), Some(10_000_000));
        // A quarter of it, while four were sent to: nothing new.
        let quarters = |link: &mut Link, sharers| {
            (0..20).for_each(|_| link.moved(1_000_000, 401_000_000, sharers));
        };
        quarters(&mut link, 4);
        assert_eq!(link.measured_bytes_per_s(), Some(10_000_000));
        // Alone it is what the link carries.
        quarters(&mut link, 1);
        let alone = link.measured_bytes_per_s().unwrap();
        assert!((2_500_000..2_600_000).contains(&alone), "{alone}");
        // Somebody got more of it, again and again.
        (0..20).for_each(|_| link.moved(1_000_000, 101_000_000, 4));
        let now = link.measured_bytes_per_s().unwrap();
        assert!((9_900_000..=10_000_000).contains(&now), "{now}");
        // Too little to tell.
        link.moved(100, SECOND, 1);
        assert_eq!(link.measured_bytes_per_s(), Some(now));
    }

    #[test]
    fn a_late_echo_counts_for_little() {
        let mut link = Link::default();
        link.echoed(1_000_000, 0);
        link.echoed(9_000_000, 0);
        assert_eq!(link.round_trip_ns(), Some(2_000_000));
        link.echoed(500_000, 0);
        assert_eq!(link.round_trip_ns(), Some(500_000));
    }

    #[test]
    fn the_late_round_trip_follows_the_usual_delay() {
        let mut link = Link::default();
        assert_eq!((link.late_round_trip_ns(), link.wants_echo()), (None, true));
        (0..8).for_each(|_| link.echoed(1_000_000, 0));
        assert_eq!((link.late_round_trip_ns(), link.wants_echo()), (Some(1_000_000), false));
        (0..80).for_each(|i| link.echoed(1_000_000 + i % 2 * 2_000_000, 0));
        let late = link.late_round_trip_ns().unwrap();
        assert!((2_000_000..5_000_000).contains(&late), "{late}");
        link.echoed(u64::MAX / 2, 0);
        assert!(link.late_round_trip_ns().is_some());
    }

    #[test]
    fn absurd_numbers_stay_in_bounds() {
        let mut link = Link::default();
        link.moved(u64::MAX, 1, u64::MAX);
        assert_eq!(link.bytes_per_s(), BYTES_PER_S_MAX);
        let mut link = Link::default();
        link.moved(BYTES_MIN, u64::MAX, 1);
        assert_eq!(link.bytes_per_s(), BYTES_PER_S_MIN);
    }
}
