//! How far the work is, for a bar: tiles, and before them plans and the weights that have to go out.

use net::Owner;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of all frames submitted and all weights asked for, what is done and what there is.
#[derive(Debug, Default)]
pub struct Progress {
    pub(crate) tiles: AtomicU64,
    pub(crate) tiles_expected: AtomicU64,
    pub(crate) planned_for: AtomicU64,
    weights: AtomicU64,
    weights_expected: AtomicU64,
}

impl Progress {
    /// Gathered and expected tiles.
    pub fn tiles(&self) -> (u64, u64) {
        (self.tiles.load(Ordering::Relaxed), self.tiles_expected.load(Ordering::Relaxed))
    }

    /// Frames that wait for their plan.
    pub fn planned_for(&self) -> u64 {
        self.planned_for.load(Ordering::Relaxed)
    }

    /// Bytes of weights that went out, and that workers asked for; none while nothing is on its way.
    pub fn weights(&self) -> Option<(u64, u64)> {
        let sent = self.weights.load(Ordering::Relaxed);
        let expected = self.weights_expected.load(Ordering::Relaxed);
        (sent < expected).then_some((sent, expected))
    }

    /// The bytes of a weight tensor on their way: they count as sent when nobody holds them any more,
    /// which is so as well when the connection ends.
    pub(crate) fn leaving(self: &Arc<Self>, owner: Owner) -> Owner {
        let bytes = owner.as_ref().as_ref().len() as u64;
        self.weights_expected.fetch_add(bytes, Ordering::Relaxed);
        Arc::new(Leaving { owner, bytes, progress: self.clone() })
    }
}

struct Leaving {
    owner: Owner,
    bytes: u64,
    progress: Arc<Progress>,
}

impl AsRef<[u8]> for Leaving {
    fn as_ref(&self) -> &[u8] {
        self.owner.as_ref().as_ref()
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.progress.weights.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_on_their_way_until_nobody_holds_them() {
        let progress = Arc::new(Progress::default());
        assert_eq!(progress.weights(), None);
        let tensor = |len: usize| progress.leaving(Arc::new(vec![7u8; len]));
        let (first, second) = (tensor(30), tensor(12));
        assert_eq!(first.as_ref().as_ref(), [7; 30]);
        assert_eq!(progress.weights(), Some((0, 42)));
        drop(first);
        assert_eq!(progress.weights(), Some((30, 42)));
        drop(second);
        assert_eq!(progress.weights(), None);
    }
}
