//! Memory that is kept between runs: arenas for intermediate maps, and buffers of pieces that
//! came back. Memory that was touched before spares the next run its page faults.

use crate::piece::{AlignedBuffer, Piece};
use model::Element;
use std::sync::{Mutex, MutexGuard};
use tiling::Region;

/// Memory at rest.
#[derive(Default)]
pub(crate) struct Pool {
    arenas: Mutex<Vec<AlignedBuffer>>,
    pieces: Mutex<Vec<AlignedBuffer>>,
}

/// Pieces kept at most; a frame has few outputs.
const PIECES_MAX: usize = 8;

impl Pool {
    /// An arena with old values, at least as large as asked for.
    pub(crate) fn arena(&self, len: usize) -> AlignedBuffer {
        let kept = lock(&self.arenas).pop();
        kept.filter(|arena| arena.capacity() >= len).unwrap_or_else(|| AlignedBuffer::zeroed(len))
    }

    /// Takes an arena back. Tiles that run at once have one each.
    pub(crate) fn put_arena(&self, arena: AlignedBuffer) {
        lock(&self.arenas).push(arena);
    }

    /// A piece with old values.
    pub(crate) fn piece(&self, region: Region, channels: usize, element: Element) -> Piece {
        let len = (region.positions() * channels * element.bytes()).div_ceil(size_of::<f32>());
        // A far larger buffer would be missed by the large map that comes next.
        let fits = |b: &AlignedBuffer| b.capacity() >= len && b.capacity() / 4 <= len.max(1 << 12);
        let mut pieces = lock(&self.pieces);
        let buffer = match pieces.iter().rposition(fits) {
            Some(at) => pieces.remove(at).reused(len),
            None => AlignedBuffer::zeroed(len),
        };
        Piece::from_buffer(region, channels, element, buffer)
    }

    /// Takes a piece of a caller.
    pub(crate) fn put_piece(&self, piece: Piece) {
        let mut pieces = lock(&self.pieces);
        pieces.push(piece.into_buffer());
        if pieces.len() > PIECES_MAX {
            pieces.remove(0);
        }
    }

    /// Memory that is kept.
    pub(crate) fn bytes(&self) -> usize {
        let all = |pool: &Mutex<Vec<AlignedBuffer>>| -> usize {
            lock(pool).iter().map(AlignedBuffer::capacity).sum()
        };
        (all(&self.arenas) + all(&self.pieces)) * size_of::<f32>()
    }

    /// Gives all of it back to the system.
    pub(crate) fn clear(&self) {
        lock(&self.arenas).clear();
        lock(&self.pieces).clear();
    }
}

/// The memory is sound even if a thread panicked with the lock held.
fn lock(pool: &Mutex<Vec<AlignedBuffer>>) -> MutexGuard<'_, Vec<AlignedBuffer>> {
    pool.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiling::Span;

    #[test]
    fn what_came_back_is_used_again() {
        let pool = Pool::default();
        let region = Region::new(Span::whole(4), Span::whole(64));
        let piece = pool.piece(region, 32, Element::F32);
        let address = piece.values().as_ptr();
        pool.put_piece(piece);
        assert_eq!(pool.piece(region, 32, Element::F32).values().as_ptr(), address);
        let arena = pool.arena(1000);
        let address = arena.values().as_ptr();
        pool.put_arena(arena);
        assert_eq!(pool.arena(900).values().as_ptr(), address);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let pool = Pool::default();
        for _ in 0..3 * PIECES_MAX {
            pool.put_piece(Piece::zeroed(Region::new(Span::whole(1), Span::whole(16)), 1));
        }
        assert_eq!(pool.bytes(), PIECES_MAX * 16 * 4);
        pool.clear();
        assert_eq!(pool.bytes(), 0);
    }
}
