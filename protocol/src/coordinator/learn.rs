//! How fast a worker is: its own measurement, corrected by what its tasks took.
//!
//! A task that took longer than predicted says that the device is slow, or that its measurement is
//! off for the classes of which the task is made. Most of the error goes to the device as a whole,
//! so that a throttled processor shows after one task in everything it does; the rest goes to the
//! task's classes by their shares of its time. Where tasks of different make-up disagree, that
//! separates the classes with time. *Source*: the rule is that of normalised least mean squares
//! (Widrow and Hoff, 1960), on relative speeds.

use super::state::EXPECTED_NS_MAX;
use crate::Nanos;
use tiling::work::CLASSES;
use tiling::{OperatorClass, Pace, Rates, Work};

/// How much of an error is corrected by one task: a throttled processor shows after one, and one odd
/// task is forgotten after three.
const GAIN: f64 = 0.5;

/// Of an error in a single class, the part that the device as a whole gets.
const DEVICE_SHARE: f64 = 0.75;

/// Of a task that should take so long half as much is learned as of a long one: its time is as much that of
/// waking threads and of asking for memory as that of computing, and a pooling of a tenth of a millisecond that
/// took three made a device look half as fast.
const SHORT_NS: f64 = 1e6;

/// How far from its measurement a worker may be taken to be: the numbers come over the wire.
const FACTOR_MIN: f64 = 1e-4;
const FACTOR_MAX: f64 = 1e4;

/// A rate for a worker that did not measure itself, until its tasks tell: only the proportions count.
const UNMEASURED_PER_S: u64 = 5_000_000_000;

#[derive(Debug)]
pub(super) struct Learned {
    /// What it said of itself.
    pub(super) measured: Rates,
    /// How many times as fast as measured it is...
    pub(super) speed: f64,
    /// ...and each class on top of that.
    factors: [f64; CLASSES],
    /// All of these in one.
    pace: Pace,
    known: bool,
}

impl Learned {
    pub(super) fn new(measured: Rates) -> Self {
        let known = measured.is_known();
        let pace = if known { measured } else { Rates::typical(UNMEASURED_PER_S) }.pace();
        Self { measured, speed: 1.0, factors: [1.0; CLASSES], pace, known }
    }

    /// Whether anything is known of it.
    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    /// How long some work should take; zero while nothing is known.
    pub(super) fn takes(&self, work: &Work) -> Nanos {
        if self.known { self.pace.ns(work).min(EXPECTED_NS_MAX as f64) as Nanos } else { 0 }
    }

    /// Its rates as far as they are known: what the next plan is made for.
    pub(super) fn rates(&self) -> Rates {
        if self.known { self.pace.rates() } else { Rates::default() }
    }

    /// Takes in how long a task took.
    pub(super) fn learn(&mut self, work: &Work, busy_ns: u64) {
        let predicted = self.pace.ns(work);
        if busy_ns == 0 || predicted <= 0.0 {
            return;
        }
        // How many times as fast as predicted.
        let ratio = (predicted / busy_ns as f64).clamp(FACTOR_MIN, FACTOR_MAX);
        if !self.known {
            self.known = true;
            return self.scale(|_| ratio);
        }
        let share = |class| self.pace.ns_of(class) * work[class] as f64 / predicted;
        let shares = OperatorClass::ALL.map(share);
        let squares: f64 = shares.iter().map(|share| share * share).sum();
        let norm = DEVICE_SHARE + (1.0 - DEVICE_SHARE) * squares;
        let gain = GAIN * predicted / (predicted + SHORT_NS);
        let step = gain * (ratio - 1.0) / norm;
        let better = |factor: f64, part: f64| (factor * (1.0 + step * part)).max(FACTOR_MIN);
        let speed = better(self.speed, DEVICE_SHARE).min(FACTOR_MAX);
        let mut change = [speed / self.speed; CLASSES];
        self.speed = speed;
        for class in 0..CLASSES {
            let part = (1.0 - DEVICE_SHARE) * shares[class];
            let factor = better(self.factors[class], part).min(FACTOR_MAX);
            change[class] *= factor / self.factors[class];
            self.factors[class] = factor;
        }
        self.scale(|class| change[class as usize]);
    }

    fn scale(&mut self, faster: impl Fn(OperatorClass) -> f64) {
        let pace = self.pace;
        self.pace = Pace::new(|class| pace.ns_of(class) / faster(class));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OperatorClass::{Conv, Linear};

    const RATE: u64 = 1_000_000_000;

    /// A device whose measurement says `RATE` and which takes `truth` times as long.
    fn taught(works: &[Work], truth: impl Fn(OperatorClass) -> f64, rounds: usize) -> Learned {
        let mut learned = Learned::new(Rates::uniform(RATE));
        let really = Pace::new(|class| truth(class) * 1e9 / RATE as f64);
        for work in works.iter().cycle().take(rounds * works.len()) {
            learned.learn(work, really.ns(work) as u64);
        }
        learned
    }

    #[test]
    fn a_throttled_device_shows_after_one_task_in_all_that_it_does() {
        let conv = Work::of(Conv, 100_000_000);
        let learned = taught(&[conv], |_| 4.0, 1);
        let expected = 100_000_000.0 / (1.0 - GAIN * 0.75);
        assert!((learned.takes(&conv) as f64 / expected - 1.0).abs() < 0.05);
        assert!(learned.takes(&Work::of(Linear, 100_000_000)) > 125_000_000);
    }

    #[test]
    fn tasks_of_different_make_up_separate_the_classes() {
        let mix = |conv, linear| Work::of(Conv, conv) + Work::of(Linear, linear);
        let works = [mix(90_000_000, 10_000_000), mix(30_000_000, 70_000_000)];
        let slow = |class| if class == Linear { 3.0 } else { 1.0 };
        let learned = taught(&works, slow, 200);
        let took = [Conv, Linear].map(|class| learned.takes(&Work::of(class, 100_000_000)));
        assert!((95_000_000..105_000_000).contains(&took[0]), "{took:?}");
        assert!((285_000_000..315_000_000).contains(&took[1]), "{took:?}");
    }

    #[test]
    fn one_odd_task_is_forgotten() {
        let conv = Work::of(Conv, 100_000_000);
        let mut learned = taught(&[conv], |_| 1.0, 1);
        learned.learn(&conv, 2_000_000_000);
        for _ in 0..3 {
            learned.learn(&conv, 100_000_000);
        }
        assert!(learned.takes(&conv) < 115_000_000, "{}", learned.takes(&conv));
    }

    #[test]
    fn a_task_too_short_to_measure_tells_little() {
        let (long, short) = (Work::of(Conv, 50_000_000), Work::of(Conv, 20_000));
        let mut learned = taught(&[long], |_| 1.0, 4);
        learned.learn(&short, 300_000);
        assert!(learned.takes(&long) < 51_000_000, "{}", learned.takes(&long));
        // A device that only ever has short ones is known in the end.
        let learned = taught(&[Work::of(Conv, 100_000)], |_| 2.0, 100);
        assert!(learned.takes(&long) > 95_000_000, "{}", learned.takes(&long));
    }

    #[test]
    fn of_a_worker_that_did_not_measure_its_first_task_tells_all() {
        let mut learned = Learned::new(Rates::default());
        let conv = Work::of(Conv, 1_000_000);
        assert_eq!((learned.takes(&conv), learned.rates()), (0, Rates::default()));
        learned.learn(&conv, 7_000_000);
        assert_eq!(learned.takes(&conv), 7_000_000);
        assert!(learned.rates().is_known());
    }

    #[test]
    fn absurd_times_stay_in_bounds() {
        let mut learned = Learned::new(Rates::uniform(RATE));
        let conv = Work::of(Conv, u64::MAX / 4);
        for busy_ns in [1, u64::MAX, 1, 0, u64::MAX] {
            learned.learn(&conv, busy_ns);
            assert!((1..=EXPECTED_NS_MAX).contains(&learned.takes(&conv)));
        }
    }
}
