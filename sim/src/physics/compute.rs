//! How long a tile takes on a device: what each operator class of its work takes, added up
//! ([`tiling::work`] says why), and what slows it down.

use super::{BackgroundLoad, Power, Thermal};
use protocol::Nanos;
use tiling::{OperatorClass, Rates, Work};

/// What a device is.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceModel {
    /// What it is called, for people.
    pub name: String,
    /// Its speed by operator class: all threads, full clock.
    pub rates: Rates,
    /// How much faster than one thread each number of threads is; the last is all of them.
    pub speedup_by_threads: Vec<f64>,
    /// Threads that compute.
    pub threads: usize,
    /// What a tile takes on top.
    pub overhead_ns: Nanos,
    /// What feature maps and packed weights may take; zero when nobody counts.
    pub memory_bytes: u64,
    /// How it gets warm, if it does.
    pub thermal: Option<Thermal>,
    /// Who else uses it, if somebody does.
    pub load: Option<BackgroundLoad>,
    /// What it draws.
    pub power: Power,
}

impl DeviceModel {
    /// A device with one rate for everything, which never gets warm: for tests, where times are to
    /// be worked out by hand.
    pub fn plain(multiply_adds_per_s: u64) -> Self {
        Self {
            name: "plain".into(),
            rates: Rates::uniform(multiply_adds_per_s),
            speedup_by_threads: vec![1.0],
            threads: 1,
            overhead_ns: 50_000,
            memory_bytes: 0,
            thermal: None,
            load: None,
            power: Power::default(),
        }
    }

    /// The part of its speed that it has with the threads it uses.
    fn thread_share(&self) -> f64 {
        let all = self.speedup_by_threads.last().copied().unwrap_or(1.0);
        let used = self.threads.clamp(1, self.speedup_by_threads.len().max(1)) - 1;
        self.speedup_by_threads.get(used).copied().unwrap_or(all) / all
    }

    /// Time that a tile takes at full clock, undisturbed.
    pub fn cost(&self, work: &Work) -> TileCost {
        let pace = self.rates.pace();
        let (mut clock, mut memory) = (0.0, 0.0);
        for class in OperatorClass::ALL {
            let part = if class.is_memory() { &mut memory } else { &mut clock };
            *part += pace.ns_of(class) * work[class] as f64;
        }
        TileCost {
            clock_ns: clock / self.thread_share(),
            memory_ns: memory + self.overhead_ns as f64,
        }
    }

    /// Time that a tile takes at full clock, undisturbed.
    pub fn tile_ns(&self, work: &Work) -> f64 {
        let cost = self.cost(work);
        cost.clock_ns + cost.memory_ns
    }

    /// What it measures of itself with the threads that it uses.
    pub fn measured(&self) -> Rates {
        let share = self.thread_share();
        self.rates.scaled(|class| if class.is_memory() { 1.0 } else { share })
    }
}

/// Time of a tile, by what slows it down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TileCost {
    /// What grows as the clock falls.
    pub clock_ns: f64,
    /// What does not.
    pub memory_ns: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_threads_take_longer_in_the_clock_bound_part_alone() {
        let work = Work::of(OperatorClass::Conv, 1000) + Work::of(OperatorClass::Maps, 1000);
        let mut device = DeviceModel::plain(1_000_000_000);
        device.rates = Rates::typical(1_000_000_000);
        device.speedup_by_threads = vec![1.0, 1.6, 2.0];
        device.threads = 3;
        let all = device.cost(&work);
        device.threads = 1;
        let one = device.cost(&work);
        assert!((one.clock_ns / all.clock_ns - 2.0).abs() < 1e-9);
        assert_eq!(one.memory_ns, all.memory_ns);
    }
}
