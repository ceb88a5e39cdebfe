//! How fast a device is, by operator class.

use super::{CLASSES, OperatorClass, Work};
use serde::{Deserialize, Serialize};

/// Units of each class that a device does in a second; zero where nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates([u64; CLASSES]);

impl Rates {
    /// A rate for each class.
    pub fn new(per_s: impl Fn(OperatorClass) -> u64) -> Self {
        Self(OperatorClass::ALL.map(per_s))
    }

    /// One rate for all multiply-adds, and memory that never holds them up: for devices whose times
    /// are to be worked out by hand.
    pub fn uniform(multiply_adds_per_s: u64) -> Self {
        Self::new(|class| match class.unit() {
            super::Unit::MultiplyAdds => multiply_adds_per_s,
            _ => u64::MAX,
        })
    }

    /// A device of which only the speed of direct convolutions is known; zero when not even that is.
    ///
    /// *Source*: single layers on x86-64 with AVX-512 and AVX2: reading a weight takes as long as 16
    /// multiply-adds, reading or writing a value of a map 6, one of a Winograd block 6.
    pub fn typical(multiply_adds_per_s: u64) -> Self {
        let rate = multiply_adds_per_s;
        if rate == 0 {
            return Self::default();
        }
        let per_s = |class| match class {
            OperatorClass::Depthwise => rate / 3,
            OperatorClass::Quantised => rate.saturating_mul(2),
            OperatorClass::Linear => rate / 16,
            OperatorClass::Weights => rate / 4,
            OperatorClass::ElementWise | OperatorClass::Maps | OperatorClass::Transforms => {
                rate.saturating_mul(2) / 3
            }
            OperatorClass::Layers => 500_000,
            _ => rate,
        };
        Self::new(|class| per_s(class).max(1))
    }

    /// Units a second of a class.
    pub fn per_s(&self, class: OperatorClass) -> u64 {
        self.0[class as usize]
    }

    /// Whether there is a rate for every class.
    pub fn is_known(&self) -> bool {
        self.0.iter().all(|&rate| rate > 0)
    }

    /// The same device at so many times the speed, and each class at so many times on top.
    #[must_use]
    pub fn scaled(&self, factor: impl Fn(OperatorClass) -> f64) -> Self {
        let scaled = |class| {
            let rate = self.per_s(class);
            let fast = (rate as f64 * factor(class)).max(1.0) as u64;
            if rate == 0 || rate == u64::MAX { rate } else { fast }
        };
        Self::new(scaled)
    }

    /// The same, as time for each unit.
    pub fn pace(&self) -> Pace {
        Pace(self.0.map(|rate| 1e9 / rate.max(1) as f64))
    }
}

/// What one unit of each class takes.
///
/// *Units*: nanoseconds. Only multiplied and added, in one order, so that every machine gets the
/// same sums.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace([f64; CLASSES]);

impl Pace {
    /// The pace where each class takes so much.
    pub fn new(ns: impl Fn(OperatorClass) -> f64) -> Self {
        Self(OperatorClass::ALL.map(ns))
    }

    /// Nanoseconds for a unit of a class.
    pub fn ns_of(&self, class: OperatorClass) -> f64 {
        self.0[class as usize]
    }

    /// How long some work takes.
    pub fn ns(&self, work: &Work) -> f64 {
        self.0.iter().zip(work.amounts()).map(|(ns, &amount)| ns * amount as f64).sum()
    }

    /// Units a second.
    pub fn rates(&self) -> Rates {
        Rates(self.0.map(|ns| (1e9 / ns).clamp(1.0, u64::MAX as f64) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_work_is_the_sum_over_its_classes() {
        let rates = Rates::new(|class| match class {
            OperatorClass::Conv => 2_000_000_000,
            OperatorClass::Maps => 500_000_000,
            _ => 1,
        });
        let work = Work::of(OperatorClass::Conv, 1000) + Work::of(OperatorClass::Maps, 100);
        assert_eq!(rates.pace().ns(&work), 500.0 + 200.0);
        let slower = rates.scaled(|class| if class == OperatorClass::Conv { 0.5 } else { 1.0 });
        assert_eq!(slower.pace().ns(&work), 1000.0 + 200.0);
    }

    #[test]
    fn what_is_not_known_stays_so() {
        assert!(!Rates::default().is_known() && !Rates::typical(0).is_known());
        assert!(Rates::typical(1).is_known() && Rates::uniform(7).is_known());
        assert_eq!(Rates::default().scaled(|_| 3.0), Rates::default());
        assert_eq!(Rates::uniform(9).scaled(|_| 2.0), Rates::uniform(18));
    }
}
