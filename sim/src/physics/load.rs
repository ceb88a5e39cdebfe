//! Somebody else uses the device, too: a share of its processor is gone, now and then.
//!
//! On and off in turns, each for a time drawn evenly from nothing to twice its mean. *Source*: a
//! display alone took 0.4 of 5.5 GB/s on a Pi 4 (sci-pi.org.uk); phones do far more than that, and
//! no published trace says how much: the shares in `configs/` are assumptions and say so.

use crate::random::Random;
use protocol::Nanos;

/// How another program uses a device.
#[derive(Clone, Debug, PartialEq)]
pub struct BackgroundLoad {
    /// The part of the processor that it takes while it runs.
    pub share: f64,
    /// How long it runs, on average.
    pub on_ns: Nanos,
    /// How long it rests, on average.
    pub off_ns: Nanos,
}

impl BackgroundLoad {
    /// How long the state that now begins lasts.
    pub fn lasts(&self, on: bool, random: &mut Random) -> Nanos {
        let mean = if on { self.on_ns } else { self.off_ns };
        1 + random.below(mean.saturating_mul(2).max(1))
    }

    /// What is left for the worker.
    pub fn left(&self, on: bool) -> f64 {
        if on { (1.0 - self.share).max(0.05) } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_for_as_long_as_it_says_on_average() {
        let load = BackgroundLoad { share: 0.3, on_ns: 2_000, off_ns: 8_000 };
        let mut random = Random::new(3);
        let mut mean = |on| (0..20_000).map(|_| load.lasts(on, &mut random)).sum::<u64>() / 20_000;
        assert!(mean(true).abs_diff(2_000) < 50 && mean(false).abs_diff(8_000) < 200);
        assert_eq!((load.left(true), load.left(false)), (0.7, 1.0));
    }
}
