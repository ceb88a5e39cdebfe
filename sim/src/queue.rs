//! What happens next: events in order of time, then of their making.

use protocol::Nanos;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A queue of events.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    /// Times, counted by their making, with the places of their events: the heap moves these only.
    heap: BinaryHeap<Reverse<(Nanos, u64, u32)>>,
    events: Vec<Option<E>>,
    free: Vec<u32>,
    sequence: u64,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), sequence: 0 }
    }

    pub(crate) fn push(&mut self, at: Nanos, event: E) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            (self.events.len() - 1) as u32
        });
        self.events[place as usize] = Some(event);
        self.sequence += 1;
        self.heap.push(Reverse((at, self.sequence, place)));
    }

    pub(crate) fn next_at(&self) -> Option<Nanos> {
        self.heap.peek().map(|entry| entry.0.0)
    }

    pub(crate) fn pop(&mut self) -> Option<(Nanos, E)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        Some((at, self.events[place as usize].take()?))
    }
}

/// One timer for each end, moved forward as rarely as can be: a deadline that grew is found out
/// when the old one comes.
#[derive(Debug)]
pub(crate) struct Timers {
    queue: Queue<usize>,
    armed: Vec<Option<Nanos>>,
}

impl Timers {
    pub(crate) fn new(ends: usize) -> Self {
        Self { queue: Queue::new(), armed: vec![None; ends] }
    }

    /// An end wants to be woken at this time at the latest.
    pub(crate) fn arm(&mut self, end: usize, at: Option<Nanos>) {
        let Some(at) = at else { return };
        if self.armed[end].is_none_or(|armed| at < armed) {
            self.armed[end] = Some(at);
            self.queue.push(at, end);
        }
    }

    pub(crate) fn next_at(&self) -> Option<Nanos> {
        self.queue.next_at()
    }

    /// The next end to look at; none when its timer was moved forward meanwhile.
    pub(crate) fn pop(&mut self) -> Option<usize> {
        let (at, end) = self.queue.pop()?;
        if self.armed[end] != Some(at) {
            return None;
        }
        self.armed[end] = None;
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_time_keep_their_order() {
        let mut queue = Queue::new();
        for (at, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (1, 'b')] {
            queue.push(at, event);
        }
        let order: String = std::iter::from_fn(|| queue.pop().map(|(_, event)| event)).collect();
        assert_eq!(order, "abcd");
    }

    #[test]
    fn a_timer_that_was_moved_forward_rings_once() {
        let mut timers = Timers::new(2);
        timers.arm(0, Some(10));
        timers.arm(0, Some(4));
        timers.arm(0, Some(20));
        timers.arm(1, None);
        assert_eq!((timers.next_at(), timers.pop()), (Some(4), Some(0)));
        assert_eq!((timers.next_at(), timers.pop()), (Some(10), None));
        assert_eq!(timers.next_at(), None);
    }
}
