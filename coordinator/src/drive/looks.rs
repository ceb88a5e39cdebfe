//! How often a plan is looked at again: speeds that go up and down on a busy machine would have the
//! coordinator search without end, which takes more of its processor than everything else it does.

use std::time::{Duration, Instant};

/// Of the time that passes, what looking may take in the long run, in thousandths.
const PER_MILLE: u32 = 20;

/// What it may save up: a handful of looks one soon after another, when devices have just come or have
/// changed.
const SAVED_MAX: Duration = Duration::from_secs(2);

/// What it may owe: half a minute until the next look at most, however long one takes.
const OWED_MAX: Duration = Duration::from_millis(600);

/// The time that is left for looking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looks {
    /// Beyond what may be owed.
    left: Duration,
    since: Instant,
}

impl Looks {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: SAVED_MAX + OWED_MAX, since: now }
    }

    /// Whether there is time to look.
    pub(super) fn are_due(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        self.since = now;
        self.left = (self.left + passed * PER_MILLE / 1000).min(SAVED_MAX + OWED_MAX);
        self.left > OWED_MAX
    }

    /// Looking took so long.
    pub(super) fn took(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_takes_a_small_part_of_the_time() {
        let began = Instant::now();
        let ms = Duration::from_millis;
        for each in [ms(1), ms(100), ms(500)] {
            let mut looks = Looks::new(began);
            // Asked every tenth of a second for an hour.
            let due = (0..36_000).filter(|&i| {
                let due = looks.are_due(began + ms(100) * i);
                if due {
                    looks.took(each);
                }
                due
            });
            let spent = each * due.count() as u32;
            assert!(spent <= Duration::from_secs(72) + SAVED_MAX + OWED_MAX, "{each:?}: {spent:?}");
            assert!(spent >= Duration::from_secs(36), "{each:?}: {spent:?}");
        }
    }

    #[test]
    fn a_slow_machine_looks_again_within_half_a_minute() {
        let began = Instant::now();
        let mut looks = Looks::new(began);
        assert!(looks.are_due(began));
        looks.took(Duration::from_secs(60));
        assert!(!looks.are_due(began + Duration::from_secs(29)));
        assert!(looks.are_due(began + Duration::from_secs(31)));
    }
}
