//! Assembles a tile's input from the pieces that were given.

use crate::arena::Pool;
use crate::error::KernelError;
use crate::piece::Piece;
use model::{MapId, Model};
use std::sync::Arc;
use tiling::{Region, Span};

/// One piece that covers a region of a map: the one that does, or all of them pasted together.
///
/// *Errors*: a piece does not belong to the map, or a part of the region is in none.
pub(crate) fn gather(
    graph: &Model,
    map: MapId,
    region: Region,
    given: &[(MapId, Arc<Piece>)],
    memory: &Pool,
) -> Result<Arc<Piece>, KernelError> {
    let (name, shape) = (&graph.map(map).name, graph.shape(map));
    let pieces: Vec<&Arc<Piece>> =
        given.iter().filter(|(of, _)| *of == map).map(|(_, piece)| piece).collect();
    for piece in &pieces {
        if piece.channels != shape.channels() {
            let (expected, got) = (shape.channels(), piece.channels);
            return Err(KernelError::PieceChannels { map: name.clone(), expected, got });
        }
        if piece.element() != graph.element(map) {
            let (expected, got) = (graph.element(map), piece.element());
            return Err(KernelError::PieceElement { map: name.clone(), expected, got });
        }
        let expected = Region::whole(shape);
        if !expected.contains(piece.region) {
            let got = piece.region;
            return Err(KernelError::PieceOutside { map: name.clone(), expected, got });
        }
    }
    if let Some(&piece) = pieces.iter().find(|piece| piece.region.contains(region)) {
        return Ok(piece.clone());
    }
    let uncovered = uncovered(region, pieces.iter().map(|piece| piece.region));
    if let Some(&uncovered) = uncovered.first() {
        let map = name.clone();
        return Err(KernelError::MissingInput { map, expected: region, uncovered });
    }
    // Old values, all of which are written over: nothing is uncovered.
    let mut whole = memory.piece(region, shape.channels(), graph.element(map));
    pieces.iter().for_each(|piece| whole.paste(piece));
    Ok(Arc::new(whole))
}

/// What is left of a region after others are taken away, as disjoint rectangles.
fn uncovered(region: Region, taken: impl Iterator<Item = Region>) -> Vec<Region> {
    let mut left = vec![region];
    for piece in taken {
        left = left.into_iter().flat_map(|region| without(region, piece)).collect();
    }
    left
}

/// The parts of a region above, below, left and right of another.
fn without(region: Region, piece: Region) -> impl Iterator<Item = Region> {
    let hole = region.intersect(piece);
    let Region { rows, cols } = region;
    let parts = if hole.is_empty() {
        [region, Region::EMPTY, Region::EMPTY, Region::EMPTY]
    } else {
        [
            Region::new(Span::new(rows.start, hole.rows.start), cols),
            Region::new(Span::new(hole.rows.end, rows.end), cols),
            Region::new(hole.rows, Span::new(cols.start, hole.cols.start)),
            Region::new(hole.rows, Span::new(hole.cols.end, cols.end)),
        ]
    };
    parts.into_iter().filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_and_what_is_taken_make_the_region() {
        let spans: Vec<Span> =
            (0..4).flat_map(|s| (s + 1..5).map(move |e| Span::new(s, e))).collect();
        let regions: Vec<Region> =
            spans.iter().flat_map(|&r| spans.iter().map(move |&c| Region::new(r, c))).collect();
        for &region in &regions {
            for &piece in &regions {
                let left: Vec<Region> = without(region, piece).collect();
                let positions: usize = left.iter().map(|part| part.positions()).sum();
                assert_eq!(positions + region.intersect(piece).positions(), region.positions());
                assert!(left.iter().all(|p| region.contains(*p) && p.intersect(piece).is_empty()));
            }
        }
    }
}
