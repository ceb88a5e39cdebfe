//! A processor gets warm, and slow: two nodes, each a resistance and a time constant.
//!
//! The die follows the power within some 15 s, the board and its sink within some 100 s; above its
//! limit the firmware lowers the clock in proportion, down to a floor. *Source*: curves of
//! sbc-bench (Pi 4 bare: 68.7 degrees at the start, 75.0 after 20 s, 78.9 after 85 s, 81.8 after
//! 126 s; Pi 3B+ 62 to 73 in 240 s) and the Raspberry Pi documentation on frequency management
//! (limits at 60, 80 and 85 degrees).

use protocol::{Nanos, SECOND};

/// How a device warms up, and what it does about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Thermal {
    /// Temperature of the room.
    pub ambient_c: f64,
    /// Degrees for each watt, of the die over its board.
    pub die_c_per_w: f64,
    /// How fast the die follows.
    pub die_s: f64,
    /// Degrees for each watt, of the board over the room.
    pub board_c_per_w: f64,
    /// How fast the board follows.
    pub board_s: f64,
    /// Above this the clock falls...
    pub throttle_c: f64,
    /// ...in proportion, until here.
    pub throttle_full_c: f64,
    /// The part of the full clock that is left at worst.
    pub floor_share: f64,
}

/// How warm a device is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Heat {
    die_c: f64,
    board_c: f64,
    since_ns: Nanos,
}

/// One step of the backward Euler method is stable however long it is; short ones are accurate.
const STEP_S: f64 = 2.0;
const STEPS_MAX: u32 = 64;

impl Thermal {
    /// What a device has after it has drawn this power for an hour, and its heat then.
    pub fn warm(&self, power_w: f64) -> Heat {
        let (die_c, board_c) = (self.die_c_per_w * power_w, self.board_c_per_w * power_w);
        Heat { die_c, board_c, since_ns: 0 }
    }

    /// Lets time pass at a power.
    pub fn advance(&self, heat: &mut Heat, now: Nanos, power_w: f64) {
        let passed_s = now.saturating_sub(heat.since_ns) as f64 / SECOND as f64;
        heat.since_ns = now;
        let steps = ((passed_s / STEP_S) as u32 + 1).min(STEPS_MAX);
        let step_s = passed_s / f64::from(steps);
        for _ in 0..steps {
            let step = |c: f64, c_per_w: f64, tau_s: f64| {
                (c + step_s / tau_s * power_w * c_per_w) / (1.0 + step_s / tau_s)
            };
            heat.die_c = step(heat.die_c, self.die_c_per_w, self.die_s);
            heat.board_c = step(heat.board_c, self.board_c_per_w, self.board_s);
        }
    }

    /// The temperature of the die.
    pub fn celsius(&self, heat: &Heat) -> f64 {
        self.ambient_c + heat.die_c + heat.board_c
    }

    /// The part of the full clock that the governor grants.
    pub fn clock_share(&self, heat: &Heat) -> f64 {
        let over = self.celsius(heat) - self.throttle_c;
        let range = (self.throttle_full_c - self.throttle_c).max(1e-3);
        1.0 - (over / range).clamp(0.0, 1.0) * (1.0 - self.floor_share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pi_4_bare() -> Thermal {
        Thermal {
            ambient_c: 25.0,
            die_c_per_w: 1.8,
            die_s: 15.0,
            board_c_per_w: 10.5,
            board_s: 120.0,
            throttle_c: 80.0,
            throttle_full_c: 85.0,
            floor_share: 0.4,
        }
    }

    #[test]
    fn a_hot_pi_4_follows_the_published_curve() {
        let thermal = pi_4_bare();
        // Already warm from the runs before, then four cores at some 5 W.
        let mut heat = thermal.warm(3.55);
        let start = thermal.celsius(&heat);
        assert!((start - 68.7).abs() < 1.0, "{start}");
        let published = [(20, 75.0, 3.0), (85, 78.9, 3.0), (126, 81.8, 3.0)];
        for (at_s, celsius, within) in published {
            thermal.advance(&mut heat, at_s * SECOND, 5.0);
            let got = thermal.celsius(&heat);
            assert!((got - celsius).abs() < within, "{got} after {at_s} s, published {celsius}");
        }
    }

    #[test]
    fn the_clock_falls_above_the_limit_and_never_below_its_floor() {
        let thermal = pi_4_bare();
        let mut heat = Heat::default();
        assert_eq!(thermal.clock_share(&heat), 1.0);
        thermal.advance(&mut heat, 10_000 * SECOND, 50.0);
        assert!((thermal.clock_share(&heat) - 0.4).abs() < 1e-9);
    }

    #[test]
    fn one_long_step_and_many_short_ones_agree_in_the_end() {
        let thermal = pi_4_bare();
        let (mut long, mut short) = (Heat::default(), Heat::default());
        thermal.advance(&mut long, 1000 * SECOND, 5.0);
        (1..=1000).for_each(|s| thermal.advance(&mut short, s * SECOND, 5.0));
        let (long, short) = (thermal.celsius(&long), thermal.celsius(&short));
        assert!((long - short).abs() < 0.5, "{long} {short}");
    }
}
