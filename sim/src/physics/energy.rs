//! What a device draws: idle power all the time it is on, more in proportion to what it computes,
//! and its radio while it sends or receives.
//!
//! *Source*: SimGrid's measured host model is linear in the loaded cores; its Wi-Fi states (0.82 W
//! idle, 1.14 W sending, 0.94 W receiving) are those of ns-3. Idle and active watts of boards are
//! in `configs/devices`, each with its own source.

use protocol::{Nanos, SECOND};

/// What a device draws.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Power {
    /// With nothing to do.
    pub idle_w: f64,
    /// With all threads at work.
    pub active_w: f64,
}

/// What the radio draws over its idle state while something is in the air, sending and receiving
/// taken together.
const RADIO_W: f64 = 0.22;

/// Energy of a device over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Energy {
    /// All of it.
    pub total_j: f64,
    /// What it would not have drawn idle.
    pub marginal_j: f64,
}

impl Power {
    /// Energy over a time, of which it computed and sent for some.
    pub fn energy(&self, up_ns: Nanos, busy_ns: Nanos, radio_ns: Nanos) -> Energy {
        let seconds = |ns: Nanos| ns as f64 / SECOND as f64;
        let marginal_j =
            seconds(busy_ns) * (self.active_w - self.idle_w).max(0.0) + seconds(radio_ns) * RADIO_W;
        Energy { total_j: seconds(up_ns) * self.idle_w + marginal_j, marginal_j }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_marginal_energy_add_up() {
        let power = Power { idle_w: 2.0, active_w: 5.0 };
        let energy = power.energy(10 * SECOND, 4 * SECOND, 0);
        assert_eq!((energy.total_j, energy.marginal_j), (32.0, 12.0));
        assert_eq!(power.energy(SECOND, 0, 0).marginal_j, 0.0);
    }
}
