//! Memory of intermediate pieces, most recently freed first.
//!
//! The line that was written last is still in the cache: with one buffer for each tensor
//! MobileNetV2 took 9.6 ms, with this order 7.8 (`facts/engines.md`, 5.4).

use crate::piece::{AlignedBuffer, Piece};
use model::Element;
use tiling::Region;

/// Free buffers, the last one freed at the end. Sizes are numbers of values.
#[derive(Default)]
pub(crate) struct Arena {
    free: Vec<AlignedBuffer>,
    /// In pieces that are in use.
    live: usize,
    /// The most that ever was in use at once.
    peak: usize,
}

impl Arena {
    /// A piece with old values.
    pub(crate) fn piece(&mut self, region: Region, channels: usize, element: Element) -> Piece {
        let len = (region.positions() * channels * element.bytes()).div_ceil(size_of::<f32>());
        // A far larger buffer would be missed by the large map that comes next.
        let fits = |b: &AlignedBuffer| b.capacity() >= len && b.capacity() / 4 <= len.max(1 << 12);
        let buffer = match self.free.iter().rposition(fits) {
            Some(at) => self.free.remove(at).reused(len),
            None => {
                self.evict(len);
                AlignedBuffer::zeroed(len)
            }
        };
        self.live += buffer.capacity();
        self.peak = self.peak.max(self.live);
        Piece::from_buffer(region, channels, element, buffer)
    }

    /// Drops buffers, the longest unused first, until a new one keeps the sum near the peak.
    fn evict(&mut self, len: usize) {
        let bound = self.peak.max(self.live + len) / 4 * 5;
        let mut kept = self.values();
        while !self.free.is_empty() && self.live + kept + len > bound {
            kept -= self.free.remove(0).capacity();
        }
    }

    /// Takes a piece back.
    pub(crate) fn recycle(&mut self, piece: Piece) {
        let buffer = piece.into_buffer();
        self.live = self.live.saturating_sub(buffer.capacity());
        self.free.push(buffer);
    }

    /// Takes a piece of a caller, as long as the sum stays near the peak.
    pub(crate) fn adopt(&mut self, piece: Piece) {
        self.free.push(piece.into_buffer());
        self.evict(0);
    }

    /// All pieces that are still in use now belong to others.
    pub(crate) fn settle(&mut self) {
        self.live = 0;
    }

    /// Memory that is kept.
    pub(crate) fn bytes(&self) -> usize {
        self.values() * size_of::<f32>()
    }

    fn values(&self) -> usize {
        self.free.iter().map(AlignedBuffer::capacity).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiling::Span;

    fn piece(arena: &mut Arena, cols: usize) -> Piece {
        arena.piece(Region::new(Span::whole(1), Span::whole(cols)), 1 << 12, Element::F32)
    }

    /// A chain of maps, each freed once the next is made.
    fn run(arena: &mut Arena, sizes: &[usize]) {
        let mut last = piece(arena, sizes[0]);
        for &cols in &sizes[1..] {
            let next = piece(arena, cols);
            arena.recycle(std::mem::replace(&mut last, next));
        }
        arena.recycle(last);
        arena.settle();
    }

    #[test]
    fn the_second_run_allocates_nothing() {
        let mut arena = Arena::default();
        let sizes = [64, 16, 32, 8, 16, 2, 1, 1, 8];
        run(&mut arena, &sizes);
        let addresses = |arena: &Arena| {
            let mut all: Vec<usize> =
                arena.free.iter().map(|b| b.values().as_ptr().addr()).collect();
            all.sort();
            all
        };
        let before = addresses(&arena);
        run(&mut arena, &sizes);
        assert_eq!(before, addresses(&arena));
    }

    #[test]
    fn what_is_kept_stays_near_the_peak() {
        let mut arena = Arena::default();
        for round in 1..40 {
            run(&mut arena, &[round * 7 % 61 + 1, round * 31 % 17 + 1, 1, round]);
        }
        assert!(arena.values() <= arena.peak / 4 * 5);
    }
}
