//! From measured times to a pace for each class.
//!
//! Least squares of the relative errors, with each class within bounds, by coordinate descent: each
//! class in turn takes the value that is best while the others stay. The problem is convex and has a
//! dozen unknowns; two thousand rounds are a few milliseconds. *Source*: Franc, Hlavac, Navara,
//! "Sequential coordinate-wise algorithm for the non-negative least squares problem", CAIP 2005.

use super::{CLASSES, OperatorClass, Pace, Work};

const ROUNDS: usize = 2000;

/// How much the proportions of the guess count beside the samples: enough to tell two classes apart
/// that noisy samples confuse, and to change no clear answer by more than a hundredth.
const PRIOR: f64 = 0.01;

/// How far a class may be from the proportions of the guess: what no time at all is left for in noisy
/// samples still takes some.
const OFF_MAX: f64 = 10.0;

/// Some work and how long it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// What was done.
    pub work: Work,
    /// How long it took.
    pub ns: f64,
}

/// The pace that explains measured times best, starting from a guess: what no sample has is in
/// proportion to it.
pub fn fit(samples: &[Sample], guess: &Pace) -> Pace {
    // A row for each sample: the share of its time that a class takes at the pace guessed.
    let row = |sample: &Sample| -> [f64; CLASSES] {
        let time = sample.ns.max(1.0);
        OperatorClass::ALL.map(|class| guess.ns_of(class) * sample.work[class] as f64 / time)
    };
    let rows: Vec<[f64; CLASSES]> = samples.iter().map(row).collect();
    // All classes by the same factor first.
    let sums = rows.iter().map(|row| row.iter().sum::<f64>());
    let (sum, square) = sums.fold((0.0, 0.0), |(a, b), x| (a + x, b + x * x));
    let alike = if square > 0.0 { sum / square } else { 1.0 };
    let mut factors = [alike; CLASSES];
    // What each sample's time is short of one.
    let short = |row: &[f64; CLASSES]| 1.0 - alike * row.iter().sum::<f64>();
    let mut rest: Vec<f64> = rows.iter().map(short).collect();
    let squares: [f64; CLASSES] =
        std::array::from_fn(|class| rows.iter().map(|row| row[class] * row[class]).sum());
    for _ in 0..ROUNDS {
        for class in 0..CLASSES {
            if squares[class] <= 0.0 {
                continue;
            }
            let slope: f64 = rows.iter().zip(&rest).map(|(row, rest)| row[class] * rest).sum();
            let prior = PRIOR * squares[class];
            let step = (slope + prior * (alike - factors[class])) / (squares[class] + prior);
            let better = (factors[class] + step).clamp(alike / OFF_MAX, alike * OFF_MAX);
            let change = better - factors[class];
            factors[class] = better;
            rest.iter_mut().zip(&rows).for_each(|(rest, row)| *rest -= change * row[class]);
        }
    }
    Pace::new(|class| match squares[class as usize] > 0.0 {
        true => guess.ns_of(class) * factors[class as usize],
        false => guess.ns_of(class) * alike,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Rates;
    use OperatorClass::{Conv1x1, Maps, Weights};

    fn samples(truth: &Pace, works: &[Work]) -> Vec<Sample> {
        works.iter().map(|&work| Sample { work, ns: truth.ns(&work) }).collect()
    }

    #[test]
    fn separates_classes_that_occur_in_different_parts() {
        let truth = Rates::typical(8_000_000_000).scaled(|class| match class {
            Maps => 0.3,
            Weights => 2.0,
            _ => 1.0,
        });
        let mix = |parts: [u64; 3]| {
            Work::of(Conv1x1, parts[0]) + Work::of(Maps, parts[1]) + Work::of(Weights, parts[2])
        };
        let works = [[100_000, 900, 10], [100_000, 90_000, 10], [100_000, 900, 70_000]].map(mix);
        let fitted = fit(&samples(&truth.pace(), &works), &Rates::typical(1_000_000_000).pace());
        for class in [Conv1x1, Maps, Weights] {
            let ratio = fitted.ns_of(class) / truth.pace().ns_of(class);
            assert!((ratio - 1.0).abs() < 0.05, "{class:?} {ratio}");
        }
    }

    #[test]
    fn no_class_takes_nothing() {
        let (one, two) = (Work::of(Conv1x1, 1000), Work::of(Conv1x1, 2000) + Work::of(Maps, 1000));
        let samples = [Sample { work: one, ns: 1000.0 }, Sample { work: two, ns: 1500.0 }];
        let fitted = fit(&samples, &Rates::typical(1_000_000_000).pace());
        assert!(fitted.ns_of(Maps) > 0.0 && fitted.ns_of(Conv1x1) > 0.7);
    }

    #[test]
    fn what_was_not_measured_is_as_much_faster_as_the_rest() {
        let guess = Rates::typical(1_000_000_000).pace();
        let one = Sample { work: Work::of(Conv1x1, 1000), ns: 500.0 };
        let fitted = fit(&[one], &guess);
        assert_eq!(fitted.ns_of(Conv1x1), 0.5);
        assert_eq!(fitted.ns_of(Maps), guess.ns_of(Maps) / 2.0);
        assert_eq!(fit(&[], &guess), guess);
    }
}
