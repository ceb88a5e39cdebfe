//! The threads that compute one tile: they wait for each other without going to sleep.
//!
//! A tile is hundreds of small steps, and waking a thread costs as much as a small layer: with one
//! `rayon::broadcast` a step MobileNetV2 took 3.74 ms on two threads of a busy machine, with one for
//! the whole tile and a short spin between its steps 3.42. So a tile calls all threads of the pool together once,
//! the first does what is not shared, and the others serve until the tile is done.
//!
//! ```text
//!  first   ──lead──┬─part 0─┬──────┬─part 0─┬── ... ──done
//!  others  ─serve──┴─part 1─┴─spin─┴─part 1─┴── ... ──┘
//! ```
//!
//! Safety of the module: the work of a step is a reference that the leader lends out as a pointer.
//! It waits for every server that may call it before the reference ends, even if its own part
//! panics; servers read the pointer only after the round that was announced with it.
#![allow(unsafe_code)]

use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A part of the work of a step.
type Work<'a> = &'a (dyn Fn(usize) + Sync);

/// The work of a round, lent out, and its number of parts.
type Round = (*const (dyn Fn(usize) + Sync), usize);

/// One tile's threads.
pub(crate) struct Team {
    servers: usize,
    /// Rounds announced.
    round: AtomicUsize,
    /// Servers that are done with the round.
    done: AtomicUsize,
    /// No round will follow.
    over: AtomicBool,
    /// A server panicked.
    broken: AtomicBool,
    work: UnsafeCell<Option<Round>>,
}

// Safety: `work` is written between rounds, when no server reads it.
unsafe impl Sync for Team {}

/// Spins before a waiting thread offers its core to others.
const SPINS: usize = 4000;

fn wait(until: impl Fn() -> bool) {
    let mut spins = 0;
    while !until() {
        spins += 1;
        if spins < SPINS {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// Does something when a scope ends, also by a panic.
struct Finally<F: Fn()>(F);

impl<F: Fn()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

thread_local! {
    /// The team that this thread leads.
    static LED: Cell<Option<*const Team>> = const { Cell::new(None) };
}

impl Team {
    /// A leader and some servers.
    pub(crate) fn new(servers: usize) -> Self {
        Self {
            servers,
            round: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            work: UnsafeCell::new(None),
        }
    }

    /// Runs the tile on this thread; [`Team::share`] reaches the servers meanwhile.
    pub(crate) fn lead<T>(&self, tile: impl FnOnce() -> T) -> T {
        LED.set(Some(self));
        let _end = Finally(|| {
            LED.set(None);
            self.over.store(true, Ordering::Release);
        });
        tile()
    }

    /// Does parts of rounds until the leader is done; part 0 is the leader's own.
    pub(crate) fn serve(&self, part: usize) {
        let mut seen = 0;
        loop {
            let round = || self.round.load(Ordering::Acquire);
            wait(|| round() != seen || self.over.load(Ordering::Acquire));
            if round() == seen {
                return;
            }
            seen += 1;
            let _done = Finally(|| {
                if std::thread::panicking() {
                    self.broken.store(true, Ordering::Release);
                }
                self.done.fetch_add(1, Ordering::Release);
            });
            // Safety: the leader has written the work before it announced the round, and waits for
            // this server before it ends.
            if let Some((work, parts)) = unsafe { *self.work.get() }
                && part < parts
            {
                // Safety: as above.
                unsafe { (*work)(part) };
            }
        }
    }

    /// Calls the work with `0..parts`, if this thread leads a team that is large enough; says
    /// whether it did.
    pub(crate) fn share(parts: usize, work: Work<'_>) -> bool {
        let Some(team) = LED.get() else { return false };
        // Safety: `lead` is still on this thread's stack, with the team borrowed.
        let team = unsafe { &*team };
        if parts > team.servers + 1 {
            return false;
        }
        // A part that shares in turn would wait for itself.
        LED.set(None);
        let _again = Finally(|| LED.set(Some(team)));
        // Safety: no server reads `work` now; the pointer outlives the wait below, which comes
        // first when this scope ends.
        unsafe {
            let work = std::mem::transmute::<Work<'_>, Work<'static>>(work);
            *team.work.get() = Some((work, parts));
        }
        team.done.store(0, Ordering::Relaxed);
        team.round.fetch_add(1, Ordering::Release);
        let waited = Finally(|| wait(|| team.done.load(Ordering::Acquire) == team.servers));
        work(0);
        drop(waited);
        assert!(!team.broken.load(Ordering::Acquire), "a part of a layer panicked");
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    /// A team of plain threads around a tile.
    fn with_team<T: Send>(servers: usize, tile: impl FnOnce() -> T + Send) -> T {
        let team = Team::new(servers);
        std::thread::scope(|scope| {
            for part in 1..=servers {
                let team = &team;
                scope.spawn(move || team.serve(part));
            }
            team.lead(tile)
        })
    }

    #[test]
    fn every_part_is_done_once_in_every_round() {
        for servers in 0..4 {
            let counts: Vec<AtomicU64> = (0..=servers).map(|_| AtomicU64::new(0)).collect();
            with_team(servers, || {
                for round in 0..2000 {
                    let parts = 1 + round % (servers + 1);
                    assert!(Team::share(parts, &|part| {
                        counts[part].fetch_add(1, Ordering::Relaxed);
                    }));
                }
                assert!(!Team::share(servers + 2, &|_| {}));
            });
            let total: u64 = counts.iter().map(|c| c.load(Ordering::Relaxed)).sum();
            let expected: usize = (0..2000).map(|round| 1 + round % (servers + 1)).sum();
            assert_eq!(total, expected as u64);
        }
        assert!(!Team::share(1, &|_| {}), "no team is led here");
    }

    #[test]
    fn a_part_that_panics_ends_the_tile() {
        let ended = std::panic::catch_unwind(|| {
            with_team(2, || Team::share(3, &|part| assert_ne!(part, 1, "on purpose")))
        });
        assert!(ended.is_err());
        let ended = std::panic::catch_unwind(|| {
            with_team(2, || Team::share(3, &|part| assert_ne!(part, 0, "on purpose")))
        });
        assert!(ended.is_err());
    }
}
