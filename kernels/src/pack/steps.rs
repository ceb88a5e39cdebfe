//! Packing in steps that are short enough for something else to get between.

use crate::threads::Threads;
use std::sync::Mutex;

/// How much each thread packs in a step: a few milliseconds on the slowest devices.
const STEP_BYTES: usize = 256 << 10;

/// Who packs, and what happens in between.
pub(crate) struct Steps<'a> {
    /// The threads of an engine; without them, only the calling one.
    pub(crate) threads: Option<&'a Threads>,
    /// Called after each step.
    pub(crate) pause: &'a mut dyn FnMut(),
}

impl Steps<'_> {
    /// Packs parts of equal size, some at a time, on all threads.
    pub(crate) fn each<T: Send>(&mut self, parts: Vec<T>, bytes: usize, pack: impl Fn(T) + Sync) {
        let count = self.threads.map_or(1, |threads| threads.count);
        let of_thread = (STEP_BYTES / bytes.max(1)).max(1);
        let mut parts = parts.into_iter();
        loop {
            let share = |_| Mutex::new(parts.by_ref().take(of_thread).collect::<Vec<_>>());
            let shares: Vec<Mutex<Vec<T>>> = (0..count).map(share).collect();
            let run = |share: usize| {
                let parts = std::mem::take(&mut *shares[share].lock().expect("taken once"));
                parts.into_iter().for_each(&pack);
            };
            match self.threads {
                Some(threads) => threads.enter(|| threads.for_each_part(count, run)),
                None => run(0),
            }
            (self.pause)();
            if parts.len() == 0 {
                return;
            }
        }
    }
}
