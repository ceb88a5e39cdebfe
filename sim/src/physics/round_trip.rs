//! How long a packet is on its way: quantiles, not a mean, since power saving has a long tail.
//!
//! *Source*: raspberrypi/linux#7533, a Pi Zero W over a week: with power saving p50 49 to 127 ms,
//! p90 375 to 554, p99 0.8 to 2 s, at most 2.8 s; without p50 6 ms, p90 8 to 10, p99 19 to 31, at
//! most 131 ms. Between two quantiles the distribution is taken to be even.

use crate::random::Random;
use protocol::Nanos;

/// Quantiles of the round trip between a device and its switch or access point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundTrip {
    /// The shortest.
    pub min_ns: Nanos,
    /// Half are shorter.
    pub p50_ns: Nanos,
    /// Nine of ten are shorter.
    pub p90_ns: Nanos,
    /// All but one in a hundred are shorter.
    pub p99_ns: Nanos,
    /// The longest.
    pub max_ns: Nanos,
}

impl RoundTrip {
    /// Evenly between two bounds.
    pub fn even(min_ns: Nanos, max_ns: Nanos) -> Self {
        let at = |part: u64| min_ns + max_ns.saturating_sub(min_ns) / 100 * part;
        let (p50_ns, p90_ns, p99_ns) = (at(50), at(90), at(99));
        Self { min_ns, p50_ns, p90_ns, p99_ns, max_ns }
    }

    /// One way of one packet: half a round trip.
    pub fn one_way(&self, random: &mut Random) -> Nanos {
        if self.max_ns == 0 {
            return 0;
        }
        let draw = random.below(10_000);
        let steps = [
            (0, self.min_ns),
            (5_000, self.p50_ns),
            (9_000, self.p90_ns),
            (9_900, self.p99_ns),
            (10_000, self.max_ns),
        ];
        let above = steps.iter().position(|&(part, _)| draw < part).unwrap_or(4).max(1);
        let ((low_part, low), (high_part, high)) = (steps[above - 1], steps[above]);
        let span = u128::from(high.saturating_sub(low)) * u128::from(draw - low_part);
        (low + (span / u128::from(high_part - low_part)) as u64) / 2
    }

    /// The usual way of one packet.
    pub fn usual_one_way(&self) -> Nanos {
        self.p50_ns / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quantiles_come_out_as_they_went_in() {
        let ms = |n: u64| n * 1_000_000;
        let saving = RoundTrip {
            min_ns: ms(3),
            p50_ns: ms(100),
            p90_ns: ms(450),
            p99_ns: ms(1_500),
            max_ns: ms(2_800),
        };
        let mut random = Random::new(1);
        let mut drawn: Vec<Nanos> = (0..100_000).map(|_| 2 * saving.one_way(&mut random)).collect();
        drawn.sort();
        let at = |part: usize| drawn[part * 1_000].div_ceil(1_000_000);
        assert!(at(50).abs_diff(100) < 4 && at(90).abs_diff(450) < 10, "{} {}", at(50), at(90));
        assert!(at(99).abs_diff(1_500) < 40 && drawn[99_999] <= ms(2_800));
        assert!(drawn[0] >= ms(3));
    }

    #[test]
    fn nothing_takes_no_time() {
        assert_eq!(RoundTrip::default().one_way(&mut Random::new(1)), 0);
    }
}
