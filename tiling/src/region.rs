//! The region algebra: half-open rectangles in one feature map's coordinates.
//!
//! ```text
//!        cols.start   cols.end
//!            |            |
//! rows.start +------------+
//!            |   region   |
//! rows.end   +------------+   (the end row and column are outside)
//! ```

use model::Shape;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A half-open range `start..end` along one axis. Empty when `start >= end`; an empty span is
/// always written `0..0`, so that equal sets are equal values.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Span {
    /// First index inside.
    pub start: usize,
    /// First index past the end.
    pub end: usize,
}

impl Span {
    /// No index at all.
    pub const EMPTY: Span = Span { start: 0, end: 0 };

    /// `start..end`, normalised.
    pub fn new(start: usize, end: usize) -> Self {
        if start < end { Self { start, end } } else { Self::EMPTY }
    }

    /// `0..len`.
    pub fn whole(len: usize) -> Self {
        Self::new(0, len)
    }

    /// Number of indices.
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Whether no index is inside.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// Whether every index of `other` is inside.
    pub fn contains(self, other: Span) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// The indices in both.
    pub fn intersect(self, other: Span) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// The smallest span with the indices of both.
    pub fn hull(self, other: Span) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => other,
            (_, true) => self,
            _ => Self::new(self.start.min(other.start), self.end.max(other.end)),
        }
    }

    /// The indices, to iterate.
    pub fn indices(self) -> std::ops::Range<usize> {
        self.start..self.end
    }
}

/// A half-open rectangle in one feature map's coordinates, all channels.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Region {
    /// Rows inside.
    pub rows: Span,
    /// Columns inside.
    pub cols: Span,
}

impl Region {
    /// No position at all.
    pub const EMPTY: Region = Region { rows: Span::EMPTY, cols: Span::EMPTY };

    /// A rectangle; normalised to [`Region::EMPTY`] when either axis is empty.
    pub fn new(rows: Span, cols: Span) -> Self {
        if rows.is_empty() || cols.is_empty() { Self::EMPTY } else { Self { rows, cols } }
    }

    /// Every position of a map.
    pub fn whole(shape: &Shape) -> Self {
        Self::new(Span::whole(shape.rows()), Span::whole(shape.cols()))
    }

    /// Number of positions.
    pub fn positions(self) -> usize {
        self.rows.len() * self.cols.len()
    }

    /// Whether no position is inside.
    pub fn is_empty(self) -> bool {
        self.rows.is_empty() || self.cols.is_empty()
    }

    /// Whether every position of `other` is inside.
    pub fn contains(self, other: Region) -> bool {
        other.is_empty() || (self.rows.contains(other.rows) && self.cols.contains(other.cols))
    }

    /// The positions in both.
    pub fn intersect(self, other: Region) -> Self {
        Self::new(self.rows.intersect(other.rows), self.cols.intersect(other.cols))
    }

    /// The smallest rectangle with the positions of both.
    pub fn hull(self, other: Region) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => other,
            (_, true) => self,
            _ => Self::new(self.rows.hull(other.rows), self.cols.hull(other.cols)),
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Region { rows, cols } = self;
        write!(f, "{}..{} x {}..{}", rows.start, rows.end, cols.start, cols.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hull_of_empty_is_the_other() {
        let a = Region::new(Span::new(2, 5), Span::new(1, 3));
        assert_eq!(a.hull(Region::EMPTY), a);
        assert_eq!(Region::EMPTY.hull(a), a);
        assert!(Region::new(Span::new(3, 3), Span::new(0, 9)).is_empty());
    }

    #[test]
    fn intersection_is_inside_both_and_hull_outside() {
        let spans: Vec<Span> = (0..5).flat_map(|s| (s..6).map(move |e| Span::new(s, e))).collect();
        for &a in &spans {
            for &b in &spans {
                assert!(a.contains(a.intersect(b)) && b.contains(a.intersect(b)));
                assert!(a.hull(b).contains(a) && a.hull(b).contains(b));
            }
        }
    }
}
